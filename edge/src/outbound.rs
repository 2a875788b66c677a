//! Connections that the edge opens itself: to nodes, to the store a fleet shares, to caches further down and to admin APIs.
//!
//! One builder knows hyper's client and rustls; who calls says whom it trusts and which protocol it speaks. Invariants: no host is
//! trusted that its [`Trust`] does not name; an unused connection is closed; a certificate that cannot be read is an error that names
//! its file, where the configuration names that file.

pub(crate) mod mutual;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

pub use self::mutual::{MutualTlsConfig, MutualTlsError};

/// Sends requests over pooled connections. Clones share them.
pub(crate) type Client<B> = legacy::Client<HttpsConnector<HttpConnector>, B>;

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("{path}: {source}", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{path}: {source}", path = path.display())]
    Root { path: PathBuf, source: rustls::Error },
    #[error("{path} holds no certificate", path = path.display())]
    NoCertificate { path: PathBuf },
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl From<OutboundError> for io::Error {
    fn from(error: OutboundError) -> Self {
        Self::other(error)
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// No authority's: `https://` is never called.
    None,
    /// The authorities of this machine.
    System,
    /// Those, and the ones in a PEM file.
    SystemAnd(&'a Path),
    /// The authorities in a PEM file, and no others.
    Only(&'a Path),
}

impl Trust<'_> {
    fn roots(self) -> Result<RootCertStore, OutboundError> {
        let (mut roots, mut unread) = (RootCertStore::empty(), Vec::new());
        if let Self::System | Self::SystemAnd(_) = self {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            unread = found.errors;
        }
        if let Self::SystemAnd(path) | Self::Only(path) = self {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| OutboundError::Root { path: path.to_owned(), source })?;
            }
        }
        for error in unread.into_iter().filter(|_| roots.is_empty()) {
            tracing::warn!(%error, "the system's certificates cannot be read: nothing on https can be called");
        }
        Ok(roots)
    }

    /// TLS as far as the other side is concerned; whether this side shows a certificate is the caller's.
    pub(crate) fn tls(self) -> Result<ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, OutboundError> {
        let versions: ConfigBuilder<ClientConfig, WantsVerifier> =
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()?;
        Ok(versions.with_root_certificates(self.roots()?))
    }
}

/// A PEM file's certificates, of which there is one at least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OutboundError> {
    let refuse = |source| OutboundError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path).map_err(refuse)?.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    if chain.is_empty() {
        return Err(OutboundError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

/// TCP connections; without a bound the operating system's holds.
pub(crate) fn tcp(connect_timeout: Option<Duration>) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(connect_timeout);
    connector.set_nodelay(true);
    connector
}

/// A client's builder: what every one of them has.
pub(crate) fn pooled(idle_max: Duration) -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    // Without timers hyper's limits would be silently inactive.
    builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(idle_max);
    builder
}

/// An HTTP/1.1 client that shows no certificate.
pub(crate) fn http1<B>(
    trust: Trust<'_>,
    connect_timeout: Option<Duration>,
    idle_max: Duration,
) -> Result<Client<B>, OutboundError>
where
    B: hyper::body::Body + Send,
    B::Data: Send,
{
    let tls = trust.tls()?.with_no_client_auth();
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(pooled(idle_max).build(https.wrap_connector(tcp(connect_timeout))))
}

/// Between two looks whether a connection still lives, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const IDLE_MAX: Duration = Duration::from_secs(90);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// An HTTP/2 client whose dead connections are found within seconds: what is followed must not be silent for long.
pub(crate) fn watched_http2<B>(tls: Option<&MutualTlsConfig>) -> Result<Client<B>, MutualTlsError>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let https =
        HttpsConnectorBuilder::new().with_tls_config(mutual::client_config(tls)?).https_or_http().enable_http2();
    let client = pooled(IDLE_MAX)
        .http2_only(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build(https.wrap_connector(tcp(Some(CONNECT_TIMEOUT))));
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_what_was_named_and_an_unreadable_file_is_named_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(Trust::Only(&path).roots().unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(matches!(Trust::Only(&path).roots(), Err(OutboundError::NoCertificate { .. })));
        std::fs::write(&path, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
        assert_eq!(Trust::Only(&path).roots().unwrap().len(), 1);
        assert_eq!(Trust::None.roots().unwrap().len(), 0);
        let system = Trust::System.roots().unwrap().len();
        assert_eq!(Trust::SystemAnd(&path).roots().unwrap().len(), system + 1);
    }
}
