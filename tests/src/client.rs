//! A plain HTTP client for tests: one request, the whole response.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bildkante_shared::testing::patience;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// What Chrome sends for images.
pub const CHROME: &str = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
/// What a browser without AVIF sends.
pub const WEBP_ONLY: &str = "image/webp,image/png,image/*;q=0.8,*/*;q=0.5";

const BODY_BYTES_MAX: usize = 64 << 20;

/// A response, body included.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// A header's text, or empty.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    #[must_use]
    pub fn content_type(&self) -> &str {
        self.header(CONTENT_TYPE.as_str())
    }

    /// `detail` of `Cache-Status`: the outcome in our own words.
    #[must_use]
    pub fn outcome(&self) -> &str {
        let status = self.header("cache-status");
        status.split_once("detail=").map_or("", |(_, detail)| detail.trim_matches('"'))
    }

    /// # Errors
    /// When the body is no JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {:?}", self.body))
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Talks HTTP/1.1 with keep-alive to any of the servers.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }
}

impl Http {
    /// # Errors
    /// When there is no whole response in time.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
        let exchange = async {
            let response = self.client.request(request).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
            Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        // A picture may be drawn meanwhile.
        tokio::time::timeout(2 * patience(), exchange).await.context("no response in time")?
    }

    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, to: SocketAddr, path: &str, headers: &[(HeaderName, &str)]) -> anyhow::Result<Reply> {
        self.ask(Method::GET, to, path, headers).await
    }

    /// An image with Chrome's `Accept`.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn image(&self, to: SocketAddr, path: &str) -> anyhow::Result<Reply> {
        self.get(to, path, &[(ACCEPT, CHROME)]).await
    }

    /// # Errors
    /// As [`Self::send`].
    pub async fn ask(
        &self,
        method: Method,
        to: SocketAddr,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> anyhow::Result<Reply> {
        let mut request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        self.send(request.body(Full::default())?).await
    }

    /// # Errors
    /// As [`Self::send`].
    pub async fn post_json(&self, to: SocketAddr, path: &str, body: &serde_json::Value) -> anyhow::Result<Reply> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{to}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(serde_json::to_vec(body)?))?;
        self.send(request).await
    }

    /// The value of one metric line, labels included as they are printed; 0 when there is no such line.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn metric(&self, to: SocketAddr, line: &str) -> anyhow::Result<f64> {
        let text = self.get(to, "/metrics", &[]).await?.text();
        let value = text.lines().find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Waits until a metric has this value: servers count behind their answers.
    ///
    /// # Errors
    /// When it has another for too long.
    pub async fn counts(&self, to: SocketAddr, line: &str, value: f64) -> anyhow::Result<()> {
        let mut last = f64::NAN;
        let is_met = async || {
            last = self.metric(to, line).await?;
            Ok((last - value).abs() < 1e-9)
        };
        eventually(&format!("{line} is {value}"), is_met).await.with_context(|| format!("it is {last}"))
    }
}

/// Polls `condition` until it holds or [`patience`] is over.
///
/// # Errors
/// When it does not hold in time, or cannot be asked.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience();
    while !condition().await? {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "not within {:?}: {what}", patience());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What `work` comes to.
///
/// # Errors
/// When it does not end within [`patience`].
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(patience(), work).await.with_context(|| format!("not within {:?}: {what}", patience()))
}
