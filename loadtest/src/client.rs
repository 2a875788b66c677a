//! One exchange with a server: over HTTP/1.1 with keep-alive, or HTTP/2 with prior knowledge (RFC 9113 §3.3).
//!
//! A [`Lines`] keeps one connection per server address and opens it anew when it has died.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::args::{Protocol, Settings};
use crate::outcome;
use crate::target::Target;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// More than any image we serve; a server that sends more is at fault, and its exchange an error.
pub const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A request that was answered in full.
#[derive(Debug)]
pub struct Exchange {
    pub status: StatusCode,
    pub content_type: String,
    pub etag: String,
    /// What the cache said it did: see [`outcome::name`].
    pub outcome: String,
    pub sent: Instant,
    pub first_byte: Instant,
    pub done: Instant,
    pub body_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("the connection failed: {0}")]
    Transport(#[from] hyper::Error),
    #[error("no complete answer within {0:?}")]
    TimedOut(Duration),
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    BodyTooLong,
}

impl ExchangeError {
    /// The name under which a report counts it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(..) => "connect",
            Self::Transport(_) => "transport",
            Self::TimedOut(_) => "timeout",
            Self::BodyTooLong => "body too long",
        }
    }
}

/// The requests that a plan asks for, ready to be sent.
#[derive(Debug)]
pub struct Requests {
    targets: Vec<(SocketAddr, Request<Empty<Bytes>>)>,
    protocol: Protocol,
    timeout: Duration,
}

impl Requests {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let targets = settings.targets.iter().map(|target| (target.address, request(target, settings))).collect();
        Self { targets, protocol: settings.protocol, timeout: settings.timeout }
    }

    /// Request number `index`: the targets in turn.
    fn at(&self, index: u64) -> (SocketAddr, Request<Empty<Bytes>>) {
        let (address, request) = &self.targets[(index % self.targets.len() as u64) as usize];
        (*address, request.clone())
    }
}

fn request(target: &Target, settings: &Settings) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    let headers = request.headers_mut();
    headers.insert(ACCEPT, settings.accept.clone());
    headers.insert(USER_AGENT, HeaderValue::from_static("bildkante-loadtest"));
    match settings.protocol {
        Protocol::Http1 => {
            if let Ok(host) = HeaderValue::from_str(&target.authority) {
                headers.insert(HOST, host);
            }
            let path = target.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
            *request.uri_mut() = path;
        }
        Protocol::H2 => *request.uri_mut() = target.uri.clone(),
    }
    request
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

/// One connection to each server, opened when first needed. Over HTTP/2 many senders share it; over HTTP/1.1 it belongs
/// to one sender, who takes it out while it is in use.
#[derive(Default)]
pub struct Lines {
    open: Mutex<Vec<(SocketAddr, Sender)>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens the connection that request `index` will use, so that its cost falls outside what is measured.
    ///
    /// # Errors
    /// When the server cannot be reached in time.
    pub async fn open(&self, requests: &Requests, index: u64) -> Result<(), ExchangeError> {
        let (address, _) = requests.at(index);
        let sender = within(requests.timeout, self.take(address, requests.protocol)).await?;
        self.give_back(address, sender).await;
        Ok(())
    }

    /// Sends request `index` and reads the whole answer; each piece of the body is shown to `on_data`.
    ///
    /// # Errors
    /// When there is no complete answer within the plan's timeout. The connection is not used again then.
    pub async fn exchange(
        &self,
        requests: &Requests,
        index: u64,
        on_data: impl FnMut(&[u8]),
    ) -> Result<Exchange, ExchangeError> {
        let (address, request) = requests.at(index);
        within(requests.timeout, async {
            let mut sender = self.take(address, requests.protocol).await?;
            let exchange = exchange(&mut sender, request, on_data).await?;
            self.give_back(address, sender).await;
            Ok(exchange)
        })
        .await
    }

    async fn take(&self, address: SocketAddr, protocol: Protocol) -> Result<Sender, ExchangeError> {
        let mut open = self.open.lock().await;
        while let Some(position) = open.iter().position(|(to, _)| *to == address) {
            let usable = match &open[position].1 {
                Sender::Http1(sender) => !sender.is_closed(),
                Sender::H2(sender) => !sender.is_closed(),
            };
            match (&open[position].1, usable) {
                (Sender::H2(sender), true) => return Ok(Sender::H2(sender.clone())),
                (Sender::Http1(_), true) => return Ok(open.swap_remove(position).1),
                (_, false) => drop(open.swap_remove(position)),
            }
        }
        // The lock is held while connecting: others on this line wait for the connection instead of opening a second.
        let sender = connect(address, protocol).await?;
        if let Sender::H2(sender) = &sender {
            open.push((address, Sender::H2(sender.clone())));
        }
        Ok(sender)
    }

    async fn give_back(&self, address: SocketAddr, sender: Sender) {
        if let Sender::Http1(_) = sender {
            self.open.lock().await.push((address, sender));
        }
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(ExchangeError::TimedOut(timeout)))
}

async fn connect(address: SocketAddr, protocol: Protocol) -> Result<Sender, ExchangeError> {
    let stream = TcpStream::connect(address).await.map_err(|error| ExchangeError::Connect(address, error))?;
    stream.set_nodelay(true).map_err(|error| ExchangeError::Connect(address, error))?;
    let io = TokioIo::new(stream);
    // A connection's task ends when its last sender is dropped; its error reaches the exchange that it cut short.
    Ok(match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
        Protocol::H2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::H2(sender)
        }
    })
}

async fn exchange(
    sender: &mut Sender,
    request: Request<Empty<Bytes>>,
    mut on_data: impl FnMut(&[u8]),
) -> Result<Exchange, ExchangeError> {
    match sender {
        Sender::Http1(sender) => sender.ready().await?,
        Sender::H2(sender) => sender.ready().await?,
    }
    let sent = Instant::now();
    let response = match sender {
        Sender::Http1(sender) => sender.send_request(request).await?,
        Sender::H2(sender) => sender.send_request(request).await?,
    };
    let first_byte = Instant::now();
    let (head, mut body) = response.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            body_bytes += data.len() as u64;
            if body_bytes > BODY_BYTES_MAX {
                return Err(ExchangeError::BodyTooLong);
            }
            on_data(data);
        }
    }
    let cache_status = text(&head.headers, &CACHE_STATUS);
    Ok(Exchange {
        status: head.status,
        content_type: text(&head.headers, &CONTENT_TYPE).unwrap_or("none").to_owned(),
        etag: text(&head.headers, &ETAG).unwrap_or("none").to_owned(),
        outcome: outcome::name(cache_status),
        sent,
        first_byte,
        done: Instant::now(),
        body_bytes,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
