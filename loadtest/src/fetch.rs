//! Single questions, beside the load: is it ready, what does it count, what does it answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as h1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::args;
use crate::client::BODY_BYTES_MAX;
use crate::outcome;

const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, whole.
#[derive(Debug)]
pub struct Fetched {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Fetched {
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// See [`outcome::name`].
    #[must_use]
    pub fn outcome(&self) -> String {
        outcome::name(self.headers.get("cache-status").and_then(|value| value.to_str().ok()))
    }
}

/// Over HTTP/1.1, as a browser asks for an image.
///
/// # Errors
/// When there is no whole answer in time.
pub async fn http1(address: SocketAddr, path: &str) -> anyhow::Result<Fetched> {
    asked(address, Request::get(path).header(ACCEPT, args::ACCEPT), String::new()).await
}

/// A page, as a browser opens it.
///
/// # Errors
/// As [`http1`].
pub async fn page(address: SocketAddr, path: &str) -> anyhow::Result<Fetched> {
    let request = Request::get(path).header(ACCEPT, "text/html").header(ACCEPT_ENCODING, "br");
    asked(address, request, String::new()).await
}

/// A change that is asked of an edge's operators' listener.
///
/// # Errors
/// As [`http1`].
pub async fn admin(
    address: SocketAddr,
    method: Method,
    path: &str,
    token: &str,
    body: &serde_json::Value,
) -> anyhow::Result<Fetched> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(AUTHORIZATION, format!("Bearer {token}")).header(CONTENT_TYPE, "application/json");
    asked(address, request, body.to_string()).await
}

/// On a connection of its own, over HTTP/1.1.
async fn asked(address: SocketAddr, request: request::Builder, body: String) -> anyhow::Result<Fetched> {
    whole(async {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = h1::handshake(io).await?;
        tokio::spawn(connection);
        let request = request.header(HOST, address.to_string()).body(Full::<Bytes>::from(body))?;
        Ok(sender.send_request(request).await?)
    })
    .await
}

/// Over HTTP/2 with prior knowledge, as an edge asks a node.
///
/// # Errors
/// As [`http1`].
pub async fn h2(address: SocketAddr, path: &str) -> anyhow::Result<Fetched> {
    whole(async {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = Request::get(format!("http://{address}{path}")).body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    })
    .await
}

async fn whole(answer: impl Future<Output = anyhow::Result<Response<Incoming>>>) -> anyhow::Result<Fetched> {
    let whole = async {
        let (head, body) = answer.await?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX as usize).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        Ok(Fetched { status: head.status, headers: head.headers, body })
    };
    tokio::time::timeout(PATIENCE, whole).await.context("no answer in time")?
}
