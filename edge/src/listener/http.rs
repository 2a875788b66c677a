//! One connection: which protocol it speaks, its limits and deadlines, and how it drains.
//!
//! | spoken | served by |
//! | --- | --- |
//! | HTTP/1.1, GET and HEAD without a body | `lane` |
//! | any other HTTP/1 | hyper, for the rest of the connection |
//! | HTTP/2, by ALPN or prior knowledge | hyper |
//!
//! Drain: the next answer is a connection's last; one that rests may still send its next request for a grace period,
//! so that a request that crosses the shutdown on the wire is answered and not reset.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bildkante_shared::problem::Problem;
use bildkante_shared::shutdown::Shutdown;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::{Check, Deadlines, Overdue, Phase, Progress, WatchedIo};
use super::lane::{Lane, LaneEnd, LaneLimits, PlainHead};
use crate::front::Ready;
use crate::response::{self, Negotiation};

/// Every body this edge sends is whole in memory.
pub type Body = Full<Bytes>;

/// What a request brings along.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Incoming(Incoming),
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

/// Answers requests; cannot fail, for an error is a response too.
pub trait Respond: Send + Sync + 'static {
    fn respond(&self, request: Request<RequestBody>, peer: SocketAddr) -> impl Future<Output = Response<Body>> + Send;

    /// A prepared answer to a plain request; `None` sends it the long way, through [`Self::respond`].
    fn ready(&self, _head: &PlainHead<'_>, _started: Instant) -> Option<Ready> {
        None
    }
}

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub deadlines: Deadlines,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub requests_max: u64,
    pub streams_max: u32,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// How long a resting HTTP/1.1 connection may still send a request while this side drains.
    pub drain_grace: Duration,
}

/// How a connection ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    Done,
    PeerError,
    Overdue(Overdue),
}

/// What TLS has agreed on before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// Nothing: the first bytes tell.
    None,
    H2,
}

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol stack, built once and shared by all connections of a listener.
#[derive(Debug, Clone)]
pub struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    limits: ConnectionLimits,
}

impl Protocols {
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            // Without a timer hyper ignores or panics on the header deadline.
            .timer(TokioTimer::new())
            .header_read_timeout(limits.deadlines.head)
            // hyper's default buffer would let one connection hold about 417 kB of headers.
            .max_buf_size(limits.header_bytes_max.max(8192))
            // No `pipeline_flush`: it makes hyper copy every body behind its head instead of writing both at once.
            .max_headers(limits.headers_max);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .max_send_buf_size(256 * 1024)
            // Rapid reset (CVE-2023-44487) and its kin: never unlimited.
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1024)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout);
        Self { http1, http2, limits }
    }

    /// Serves a connection until it ends, misses a deadline, or has drained after `shutdown` was told.
    pub async fn serve<T, R>(
        &self,
        stream: T,
        alpn: Alpn,
        peer: SocketAddr,
        respond: Arc<R>,
        shutdown: Shutdown,
    ) -> ConnectionEnd
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Respond,
    {
        let (io, progress) = WatchedIo::new(stream);
        let guard = Guard { limits: &self.limits, progress: Arc::clone(&progress), shutdown };
        let (mut io, read) = match alpn {
            Alpn::H2 => (io, Vec::new()),
            Alpn::None => {
                let limits =
                    LaneLimits { head_bytes_max: self.limits.header_bytes_max, requests_max: self.limits.requests_max };
                let lane = Lane::new(io, Arc::clone(&progress), limits);
                match guard.watch(lane.run(&*respond, peer), |_| {}).await {
                    Err(end) => return end,
                    Ok(LaneEnd::Done) => return ConnectionEnd::Done,
                    Ok(LaneEnd::PeerError) => return ConnectionEnd::PeerError,
                    Ok(LaneEnd::TakeOver { io, read }) => (io, read),
                }
            }
        };
        let is_http2 =
            alpn == Alpn::H2 || (!read.is_empty() && (read.starts_with(PREFACE) || PREFACE.starts_with(&read)));
        let requests = Arc::clone(&progress);
        let service = service_fn(move |request: Request<Incoming>| {
            let respond = Arc::clone(&respond);
            let active = requests.enter();
            async move {
                let is_head = *request.method() == Method::HEAD;
                let framing = Framing::of(&request);
                let mut response = match framing {
                    Framing::NoHost => response::error(request.method(), &no_host(), Negotiation::Explicit),
                    Framing::Plain | Framing::Chunked => {
                        respond.respond(request.map(RequestBody::Incoming), peer).await
                    }
                };
                if framing != Framing::Plain {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if is_head {
                    // hyper leaves it to us on HTTP/2, where a body would be a protocol error.
                    *response.body_mut() = Body::default();
                }
                drop(active);
                Ok::<_, Infallible>(response)
            }
        });
        io.unread(read);
        let io = TokioIo::new(io);
        let ended = if is_http2 {
            let connection = self.http2.serve_connection(io, service);
            guard.watch(connection, |connection| connection.graceful_shutdown()).await
        } else {
            let connection = self.http1.serve_connection(io, service);
            guard.watch(connection, |connection| connection.graceful_shutdown()).await
        };
        match ended {
            Err(end) => end,
            Ok(Ok(())) => ConnectionEnd::Done,
            Ok(Err(_)) => ConnectionEnd::PeerError,
        }
    }
}

/// What hyper lets pass and RFC 9112 does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Plain,
    /// hyper drops a length beside it without a word, so that every such connection ends with its answer (§6.3).
    Chunked,
    /// None, several, or one that names no host (§3.2).
    NoHost,
}

impl Framing {
    fn of<B>(request: &Request<B>) -> Self {
        if request.version() != Version::HTTP_11 {
            return Self::Plain;
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if is_host(host.as_bytes()) => {}
            _ => return Self::NoHost,
        }
        if request.headers().contains_key(TRANSFER_ENCODING) { Self::Chunked } else { Self::Plain }
    }
}

fn no_host() -> Problem {
    Problem::new(
        400,
        "no-host",
        "No host",
        "an HTTP/1.1 request has exactly one `Host`, and it names a host (RFC 9112 §3.2)",
    )
}

/// Whether a `Host` can be one (RFC 9110 §7.2): characters of a host and a port. Which it is makes no difference here.
pub(super) fn is_host(value: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte);
    value.trim_ascii().iter().all(is_part)
}

/// What a connection is held to while its protocol runs.
struct Guard<'a> {
    limits: &'a ConnectionLimits,
    progress: Arc<Progress>,
    shutdown: Shutdown,
}

impl Guard<'_> {
    /// Runs `protocol` to its end, or to the first deadline it misses. `drain` is called once, when this side shuts
    /// down or the connection has had its share of requests.
    async fn watch<P: Future>(
        &self,
        protocol: P,
        mut drain: impl FnMut(Pin<&mut P>),
    ) -> Result<P::Output, ConnectionEnd> {
        let mut protocol = pin!(protocol);
        let mut shutdown = self.shutdown.clone();
        let mut told = pin!(shutdown.requested());
        let mut look = pin!(tokio::time::sleep(self.pause()?));
        let mut phase = if self.progress.is_draining() { Phase::Draining } else { Phase::Open };
        loop {
            tokio::select! {
                biased;
                output = protocol.as_mut() => return Ok(output),
                () = told.as_mut(), if phase == Phase::Open => {
                    phase = Phase::Draining;
                    self.progress.enter_phase(phase);
                    drain(protocol.as_mut());
                    look.as_mut().reset(tokio::time::Instant::now() + self.limits.drain_grace);
                }
                () = look.as_mut() => {
                    if phase == Phase::Open && self.progress.requests() >= self.limits.requests_max {
                        phase = Phase::Draining;
                        drain(protocol.as_mut());
                    } else if self.progress.is_draining() {
                        self.progress.enter_phase(Phase::Closing);
                    }
                    look.as_mut().reset(tokio::time::Instant::now() + self.pause()?);
                }
            }
        }
    }

    fn pause(&self) -> Result<Duration, ConnectionEnd> {
        match self.progress.check(&self.limits.deadlines) {
            Check::Overdue(overdue) => Err(ConnectionEnd::Overdue(overdue)),
            // A millisecond more, the unit of what is compared.
            Check::AgainIn(pause) => Ok(pause + Duration::from_millis(1)),
        }
    }
}
