//! One exchange with a server: over HTTP/1.1 with keep-alive or HTTP/2, in the clear (with prior knowledge, RFC 9113
//! §3.3) or over TLS (by ALPN).
//!
//! A [`Lines`] keeps one connection per server and opens it anew when it has died or asked as much as it may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::args::{Protocol, Spelling};
use crate::outcome;
use crate::pick::Picker;
use crate::plan::Settings;
use crate::target::{Security, Server, Target};
use crate::tls::Dialer;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
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
    /// How long the edge says it took, from head to head (`Server-Timing`).
    pub edge: Option<Duration>,
    pub sent: Instant,
    pub first_byte: Instant,
    pub done: Instant,
    pub body_bytes: u64,
    pub moved: Moved,
}

/// Whether another server had to be asked than the one a request was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Never,
    Once,
}

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("no TLS with {0}: {1}")]
    Tls(SocketAddr, std::io::Error),
    #[error("https:// needs a file of trusted certificates")]
    NoTrust,
    #[error("the connection failed before the answer: {0}")]
    Unanswered(hyper::Error),
    #[error("the answer broke off: {0}")]
    Broken(hyper::Error),
    #[error("the connection was lost: {0}")]
    Lost(std::io::Error),
    #[error("what came is no whole answer: {0}")]
    Malformed(&'static str),
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
            Self::Tls(..) | Self::NoTrust => "tls",
            Self::Unanswered(_) => "unanswered",
            Self::Broken(_) | Self::Lost(_) => "broken off",
            Self::Malformed(_) => "malformed",
            Self::TimedOut(_) => "timeout",
            Self::BodyTooLong => "body too long",
        }
    }

    /// Whether nothing of an answer had come, so that a browser or a load balancer asks again elsewhere (RFC 9110 §9.2.2).
    #[must_use]
    pub const fn may_be_asked_again(&self) -> bool {
        matches!(self, Self::Connect(..) | Self::Unanswered(_))
    }
}

/// The requests that a plan asks for, ready to be sent.
#[derive(Debug)]
pub struct Requests {
    targets: Vec<Target>,
    /// Of each target, the request as HTTP/1.1 has it.
    heads: Vec<Box<[u8]>>,
    picker: Picker,
    headers: HeaderMap,
    spelling: Spelling,
    protocol: Protocol,
    dialer: Option<Dialer>,
    requests_per_connection: u64,
    timeout: Duration,
}

impl Requests {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, settings.accept.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("bildkante-loadtest"));
        Self {
            picker: Picker::new(settings.order, settings.targets.len(), settings.zipf_exponent),
            targets: settings.targets.clone(),
            heads: settings.targets.iter().map(|target| head(target, &headers)).collect(),
            headers,
            spelling: settings.spelling,
            protocol: settings.protocol,
            dialer: settings.dialer.clone(),
            requests_per_connection: settings.requests_per_connection,
            timeout: settings.timeout,
        }
    }

    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub(crate) fn target(&self, number: u64) -> &Target {
        &self.targets[self.picker.pick(number)]
    }

    /// Request `number` as given, in the clear and over HTTP/1.1.
    pub(crate) fn head(&self, number: u64) -> &[u8] {
        &self.heads[self.picker.pick(number)]
    }

    /// Whether all go to one server, in the clear, over HTTP/1.1 and as given.
    pub(crate) fn is_plain(&self) -> bool {
        let is_one = self.targets.windows(2).all(|two| two[0].server == two[1].server);
        is_one
            && self.targets.first().is_some_and(|first| first.server.security == Security::Plain)
            && matches!((self.protocol, self.spelling), (Protocol::Http1, Spelling::AsGiven))
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Request `number` to `target`.
    fn request(&self, target: &Target, number: u64) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.headers_mut() = self.headers.clone();
        let uri = match self.spelling {
            Spelling::AsGiven => target.uri.clone(),
            Spelling::Distinct => distinct(&target.uri, number),
        };
        *request.uri_mut() = match self.protocol {
            Protocol::Http1 => {
                if let Ok(host) = HeaderValue::from_str(&target.server.authority) {
                    request.headers_mut().insert(HOST, host);
                }
                uri.path_and_query().cloned().map(Uri::from).unwrap_or_default()
            }
            Protocol::H2 => uri,
        };
        request
    }
}

fn head(target: &Target, headers: &HeaderMap) -> Box<[u8]> {
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", target.server.authority).into_bytes();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head.into()
}

/// The same URL in a spelling that was not asked before: with a tracking parameter, which edges drop.
fn distinct(uri: &Uri, number: u64) -> Uri {
    let separator = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{separator}utm_content={number}").parse().unwrap_or_else(|_| uri.clone())
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::H2(sender) => sender.is_closed(),
        }
    }
}

/// An open connection.
struct Line {
    server: Arc<Server>,
    sender: Sender,
    /// Requests sent on it, by all who share it.
    asked: Arc<AtomicU64>,
}

impl Line {
    fn is_usable(&self, requests_max: u64) -> bool {
        !self.sender.is_closed() && self.asked.load(Ordering::Relaxed) < requests_max
    }
}

/// One connection to each server, opened when first needed. Over HTTP/2 many senders share it; over HTTP/1.1 it belongs
/// to one sender, who takes it out while it is in use.
#[derive(Default)]
pub struct Lines {
    open: Mutex<Vec<Line>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Opens the connection that request `number` will use, so that its cost falls outside what is measured.
    ///
    /// # Errors
    /// When the server cannot be reached in time.
    pub async fn open(&self, requests: &Requests, number: u64) -> Result<(), ExchangeError> {
        let line = within(requests.timeout, self.take(requests, &requests.target(number).server)).await?;
        self.give_back(line, requests).await;
        Ok(())
    }

    /// Sends request `number` and reads the whole answer; each piece of the body is shown to `on_data`.
    ///
    /// # Errors
    /// When there is no complete answer within the plan's timeout. The connection is not used again then.
    pub async fn exchange(
        &self,
        requests: &Requests,
        number: u64,
        on_data: impl FnMut(&[u8]),
    ) -> Result<Exchange, ExchangeError> {
        self.exchange_with(requests, requests.target(number), number, on_data).await
    }

    /// As [`Self::exchange`]; where nothing was answered, asks the next URL of the list once instead, as a load balancer
    /// turns to the next server.
    ///
    /// # Errors
    /// As [`Self::exchange`], of the second attempt.
    pub async fn exchange_or_move(&self, requests: &Requests, number: u64) -> Result<Exchange, ExchangeError> {
        match self.exchange(requests, number, |_| {}).await {
            Err(error) if error.may_be_asked_again() => {
                let next = (requests.picker.pick(number) + 1) % requests.targets.len();
                let mut exchange = self.exchange_with(requests, &requests.targets[next], number, |_| {}).await?;
                exchange.moved = Moved::Once;
                Ok(exchange)
            }
            result => result,
        }
    }

    /// Asks one target, whichever request's turn it is.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub async fn ask(&self, requests: &Requests, target: &Target) -> Result<Exchange, ExchangeError> {
        self.exchange_with(requests, target, 0, |_| {}).await
    }

    async fn exchange_with(
        &self,
        requests: &Requests,
        target: &Target,
        number: u64,
        on_data: impl FnMut(&[u8]),
    ) -> Result<Exchange, ExchangeError> {
        within(requests.timeout, async {
            let mut line = self.take(requests, &target.server).await?;
            line.asked.fetch_add(1, Ordering::Relaxed);
            let exchange = exchange(&mut line.sender, requests.request(target, number), on_data).await?;
            self.give_back(line, requests).await;
            Ok(exchange)
        })
        .await
    }

    async fn take(&self, requests: &Requests, server: &Arc<Server>) -> Result<Line, ExchangeError> {
        let mut open = self.open.lock().await;
        while let Some(position) = open.iter().position(|line| line.server == *server) {
            if !open[position].is_usable(requests.requests_per_connection) {
                drop(open.swap_remove(position));
                continue;
            }
            let Sender::H2(sender) = &open[position].sender else { return Ok(open.swap_remove(position)) };
            let line = &open[position];
            let (server, asked) = (Arc::clone(&line.server), Arc::clone(&line.asked));
            return Ok(Line { server, sender: Sender::H2(sender.clone()), asked });
        }
        // The lock is held while connecting: others on this line wait for the connection instead of opening a second.
        let sender = connect(server, requests.protocol, requests.dialer.as_ref()).await?;
        let asked = Arc::default();
        if let Sender::H2(sender) = &sender {
            let sender = Sender::H2(sender.clone());
            open.push(Line { server: Arc::clone(server), sender, asked: Arc::clone(&asked) });
        }
        Ok(Line { server: Arc::clone(server), sender, asked })
    }

    async fn give_back(&self, line: Line, requests: &Requests) {
        if matches!(line.sender, Sender::Http1(_)) && line.is_usable(requests.requests_per_connection) {
            self.open.lock().await.push(line);
        }
    }
}

pub(crate) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(ExchangeError::TimedOut(timeout)))
}

async fn connect(server: &Server, protocol: Protocol, dialer: Option<&Dialer>) -> Result<Sender, ExchangeError> {
    let address = server.address;
    let stream = TcpStream::connect(address).await.map_err(|error| ExchangeError::Connect(address, error))?;
    stream.set_nodelay(true).map_err(|error| ExchangeError::Connect(address, error))?;
    match server.security {
        Security::Plain => shake_hands(TokioIo::new(stream), protocol).await,
        Security::Tls => {
            let dialer = dialer.ok_or(ExchangeError::NoTrust)?;
            let stream = dialer.dial(server, stream).await.map_err(|error| ExchangeError::Tls(address, error))?;
            shake_hands(TokioIo::new(stream), protocol).await
        }
    }
}

async fn shake_hands(
    io: impl Read + Write + Unpin + Send + 'static,
    protocol: Protocol,
) -> Result<Sender, ExchangeError> {
    // A connection's task ends when its last sender is dropped; its error reaches the exchange that it cut short.
    Ok(match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await.map_err(ExchangeError::Unanswered)?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
        Protocol::H2 => {
            let handshake = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = handshake.map_err(ExchangeError::Unanswered)?;
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
    let ready = match sender {
        Sender::Http1(sender) => sender.ready().await,
        Sender::H2(sender) => sender.ready().await,
    };
    ready.map_err(ExchangeError::Unanswered)?;
    let sent = Instant::now();
    let response = match sender {
        Sender::Http1(sender) => sender.send_request(request).await,
        Sender::H2(sender) => sender.send_request(request).await,
    };
    let response = response.map_err(ExchangeError::Unanswered)?;
    let first_byte = Instant::now();
    let (head, mut body) = response.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(ExchangeError::Broken)?.data_ref() {
            body_bytes += data.len() as u64;
            if body_bytes > BODY_BYTES_MAX {
                return Err(ExchangeError::BodyTooLong);
            }
            on_data(data);
        }
    }
    let (cache_status, server_timing) = (text(&head.headers, &CACHE_STATUS), text(&head.headers, &SERVER_TIMING));
    Ok(Exchange {
        status: head.status,
        content_type: text(&head.headers, &CONTENT_TYPE).unwrap_or("none").to_owned(),
        etag: text(&head.headers, &ETAG).unwrap_or("none").to_owned(),
        outcome: outcome::name(cache_status),
        edge: server_timing.and_then(outcome::edge_time),
        sent,
        first_byte,
        done: Instant::now(),
        body_bytes,
        moved: Moved::Never,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
