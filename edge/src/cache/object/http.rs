//! The object store's requests over the edge's own hyper and rustls, instead of a second HTTP client.
//!
//! Owns connection, trust and the bound on an answer's body. How long a request may take is the gate's business:
//! it drops the request, which closes the connection.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Unused connections are closed before most stores close them.
const IDLE: Duration = Duration::from_secs(15);

/// Hands the store a client.
#[derive(Debug, Clone)]
pub(super) struct Connector(Service);

#[derive(Debug, Clone)]
struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    body_bytes_max: usize,
}

impl Connector {
    pub(super) fn new(connect: Duration, ca: Option<&Path>, body_bytes_max: usize) -> io::Result<Self> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(connect));
        tcp.set_nodelay(true);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(https);
        Ok(Self(Service { client, body_bytes_max }))
    }
}

fn roots(ca: Option<&Path>) -> io::Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| named(&error))? {
            let certificate = certificate.map_err(|error| named(&error))?;
            roots.add(certificate).map_err(|error| named(&error))?;
        }
    }
    Ok(roots)
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl HttpService for Service {
    // What `#[async_trait]` makes of `async fn call`.
    fn call<'me, 'call>(
        &'me self,
        request: HttpRequest,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'me: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let response = self.client.request(request).await.map_err(|error| {
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
                HttpError::new(kind, error)
            })?;
            let bytes_max = self.body_bytes_max;
            Ok(response.map(|body| {
                let body = Limited::new(body, bytes_max);
                HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, Broken(error))))
            }))
        })
    }
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("the answer's body: {0}")]
struct Broken(Box<dyn std::error::Error + Send + Sync>);
