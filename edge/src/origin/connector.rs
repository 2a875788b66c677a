//! The connections to nodes: HTTP/2, in plain text or over TLS with a certificate of this edge (mutual TLS).
//!
//! Certificates can be read again: new connections use them, open ones end with the calls that are on them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use rustls::ClientConfig;

use crate::outbound::{self, mutual::client_config};
pub use crate::outbound::{MutualTlsConfig as NodeTlsConfig, MutualTlsError as NodeTlsError};

const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_MAX: Duration = Duration::from_secs(90);
/// Masters are the large replies: a few megabytes each.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

pub(super) type HttpClient = outbound::Client<Full<Bytes>>;

/// See the module's documentation. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    current: Arc<ArcSwap<HttpClient>>,
    connect_timeout: Duration,
    tls: Option<NodeTlsConfig>,
}

impl Connector {
    /// Opens no connection yet.
    pub(super) fn new(connect_timeout: Duration, tls: Option<NodeTlsConfig>) -> Result<Self, NodeTlsError> {
        let client = http_client(connect_timeout, client_config(tls.as_ref())?);
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(client)), connect_timeout, tls })
    }

    pub(super) fn client(&self) -> Arc<HttpClient> {
        self.current.load_full()
    }

    /// Reads the certificates again; on an error the old ones stay in use. Blocks.
    pub(super) fn reload(&self) -> Result<(), NodeTlsError> {
        if self.tls.is_some() {
            let client = http_client(self.connect_timeout, client_config(self.tls.as_ref())?);
            self.current.store(Arc::new(client));
        }
        Ok(())
    }
}

fn http_client(connect_timeout: Duration, tls: ClientConfig) -> HttpClient {
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http2();
    outbound::pooled(IDLE_MAX)
        .http2_only(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .build(https.wrap_connector(outbound::tcp(Some(connect_timeout))))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use bildkante_shared::testing::write_secret;

    use super::*;

    #[test]
    fn a_private_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let signed = rcgen::generate_simple_self_signed(["edge".to_owned()]).unwrap();
        std::fs::write(path("edge.pem"), signed.cert.pem()).unwrap();
        write_secret(&path("edge.key"), signed.signing_key.serialize_pem()).unwrap();
        let config = NodeTlsConfig { ca: path("edge.pem"), certificate: path("edge.pem"), key: path("edge.key") };
        let connector = Connector::new(Duration::from_secs(1), Some(config.clone())).unwrap();
        std::fs::set_permissions(&config.key, Permissions::from_mode(0o644)).unwrap();
        let refused = [Connector::new(Duration::from_secs(1), Some(config)).map(drop), connector.reload()];
        for error in refused.map(Result::unwrap_err) {
            assert!(matches!(error, NodeTlsError::Key { .. }), "{error}");
            assert!(error.to_string().contains("chmod 6"), "{error}");
        }
    }
}
