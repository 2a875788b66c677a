//! One call of an endpoint: resolved, checked, connected to the address that was checked, signed, and its answer read.
//!
//! Invariants: each call has a connection of its own, so none outlives the check of its address; redirects are not followed; the
//! whole call has one deadline; of the answer only the status and a bounded `Retry-After` count, and its body is not read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::WebhookEndpoint;
use super::guard::admitted;
use crate::outbound::{OutboundError, Trust};

/// The whole call, resolution included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest `Retry-After` that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
const AGENT: &str = concat!("bildkante-edge/", env!("CARGO_PKG_VERSION"));

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Delivered,
    /// 410: the endpoint wants no more messages.
    Gone,
    /// It is tried again, after this pause at least.
    Failed {
        reason: String,
        pause: Duration,
    },
}

impl Answer {
    /// As metrics call it.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Failed { .. } => "failed",
        }
    }

    fn failed(reason: impl ToString) -> Self {
        Self::Failed { reason: reason.to_string(), pause: Duration::ZERO }
    }
}

/// Calls endpoints, each with the authorities that it names.
pub(super) struct Caller {
    by_authority: HashMap<Option<PathBuf>, TlsConnector>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caller")
    }
}

impl Caller {
    /// Reads the authorities of endpoints that need them.
    pub(super) fn new(endpoints: &[WebhookEndpoint]) -> Result<Self, OutboundError> {
        let mut by_authority = HashMap::new();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.is_tls()) {
            let trust = endpoint.ca_file.as_deref().map_or(Trust::System, Trust::SystemAnd);
            let config = trust.tls()?.with_no_client_auth();
            by_authority.insert(endpoint.ca_file.clone(), TlsConnector::from(Arc::new(config)));
        }
        Ok(Self { by_authority })
    }

    /// Sends one message. The secret is read anew for each.
    pub(super) async fn call(&self, endpoint: &WebhookEndpoint, id: &str, body: &str, at_unix_s: u64) -> Answer {
        let reading = endpoint.clone();
        let secret = match tokio::task::spawn_blocking(move || reading.secret()).await {
            Ok(Ok(secret)) => secret,
            Ok(Err(reason)) => return Answer::failed(reason),
            Err(error) => return Answer::failed(error),
        };
        let signature = secret.sign(id, at_unix_s, body);
        let work = self.send(endpoint, (id, body, at_unix_s), &signature);
        match tokio::time::timeout(CALL_TIMEOUT, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => Answer::failed(reason),
            Err(_) => Answer::failed(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        }
    }

    async fn send(
        &self,
        endpoint: &WebhookEndpoint,
        (id, body, at_unix_s): (&str, &str, u64),
        signature: &str,
    ) -> Result<Answer, String> {
        let uri: Uri = endpoint.url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let authority = uri.authority().ok_or("the URL has no host")?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::post(path)
            .header(HOST, authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", id)
            .header("webhook-timestamp", at_unix_s)
            .header("webhook-signature", signature)
            .body(Full::from(Bytes::from(body.to_owned())))
            .map_err(|error| error.to_string())?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = connect(host, port, endpoint.allow_private).await?;
        if !is_tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let tls = self.by_authority.get(&endpoint.ca_file).ok_or("its authorities were not read")?;
        let stream = tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(stream, request).await
    }
}

/// Connects to the first admitted address that answers.
async fn connect(host: &str, port: u16, allow_private: bool) -> Result<TcpStream, String> {
    let resolved: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|error| format!("`{host}`: {error}"))?.collect();
    let addresses = admitted(resolved.into_iter(), allow_private);
    if addresses.is_empty() {
        return Err(format!("`{host}` has no public address: `allow_private` admits others"));
    }
    TcpStream::connect(&addresses[..]).await.map_err(|error| format!("`{host}`: {error}"))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let told = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(told)?;
    // Ends with this call, whatever the other side goes on to send.
    let connection = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(told)?;
    let (status, headers) = (response.status(), response.headers());
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let pause = Duration::from_secs(seconds.unwrap_or(0)).min(RETRY_AFTER_MAX);
    drop(connection);
    Ok(judge(status, pause))
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a status means. A redirect is a failure: where it leads was not configured.
fn judge(status: StatusCode, pause: Duration) -> Answer {
    match status {
        status if status.is_success() => Answer::Delivered,
        StatusCode::GONE => Answer::Gone,
        status => Answer::Failed { reason: format!("it answers {}", status.as_u16()), pause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_delivers_and_only_410_ends_it() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), Duration::ZERO), Answer::Delivered, "{status}");
        }
        assert_eq!(judge(StatusCode::GONE, Duration::ZERO), Answer::Gone);
        for status in [301, 302, 307, 308, 400, 401, 404, 429, 500, 503] {
            let answer = judge(StatusCode::from_u16(status).unwrap(), Duration::ZERO);
            assert_eq!(answer.as_str(), "failed", "{status}");
        }
    }

    #[tokio::test]
    async fn this_machine_is_not_called_by_name_number_or_mapped_number() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0"] {
            let error = connect(host, port, false).await.unwrap_err();
            assert!(error.contains("no public address"), "{host}: {error}");
        }
        assert!(connect("127.0.0.1", port, true).await.is_ok());
    }
}
