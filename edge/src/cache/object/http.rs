//! The object store's requests over the edge's own hyper and rustls, instead of a second HTTP client.
//!
//! Owns the bound on an answer's body. How long a request may take is the gate's business:
//! it drops the request, which closes the connection.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};

use crate::outbound::{self, Trust};

/// Unused connections are closed before most stores close them.
const IDLE: Duration = Duration::from_secs(15);

/// Hands the store a client.
#[derive(Debug, Clone)]
pub(super) struct Connector(Service);

#[derive(Debug, Clone)]
struct Service {
    client: outbound::Client<HttpRequestBody>,
    body_bytes_max: usize,
}

impl Connector {
    pub(super) fn new(connect: Duration, ca: Option<&Path>, body_bytes_max: usize) -> io::Result<Self> {
        let client = outbound::http1(ca.map_or(Trust::System, Trust::SystemAnd), Some(connect), IDLE)?;
        Ok(Self(Service { client, body_bytes_max }))
    }
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
