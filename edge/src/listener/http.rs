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
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bildkante_shared::problem::Problem;
use bildkante_shared::shutdown::Shutdown;
use futures_util::FutureExt;
use http::header::{CONNECTION, COOKIE, HOST, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::{Check, Deadlines, Frames, HeadState, Heads, Overdue, Phase, Progress, WatchedIo};
use super::lane::{Lane, LaneEnd, LaneLimits, Switch, too_many_fields};
use crate::service::{Body, RequestBody, Respond};

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub deadlines: Deadlines,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub requests_max: u64,
    pub prior_knowledge: PriorKnowledge,
    pub streams_max: u32,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// How long a resting HTTP/1.1 connection may still send a request while this side drains.
    pub drain_grace: Duration,
}

/// Whether HTTP/2 is spoken without TLS to clients that begin with it (RFC 9113 §3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriorKnowledge {
    Taken,
    Refused,
}

/// How a connection ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    Done,
    PeerError,
    /// Over HTTP/2, requests went on after GOAWAY.
    Requests,
    Overdue(Overdue),
}

/// What TLS has agreed on before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// There is no TLS: the first bytes tell.
    None,
    /// HTTP/1.1, or nothing, which over TLS means the same (RFC 9113 §3.2).
    Http1,
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
            .timer(TokioTimer::new())
            // hyper's deadline also runs while a connection rests; `io` has one that does not.
            .header_read_timeout(None)
            // hyper's default buffer would let one connection hold about 417 kB of headers.
            .max_buf_size(limits.header_bytes_max.max(8192))
            // Also for a head that is whole before the buffer is full.
            .max_header_size(limits.header_bytes_max)
            // No `pipeline_flush`: it makes hyper copy every body behind its head instead of writing both at once.
            .max_headers(limits.headers_max);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            // The h2 crate takes what is smaller, and the limit is still within it.
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX).saturating_add(1))
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
        progress: Arc<Progress>,
    ) -> ConnectionEnd
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Respond,
    {
        let io = WatchedIo::new(stream, Arc::clone(&progress));
        let mut guard =
            Guard { limits: &self.limits, progress: Arc::clone(&progress), shutdown, goaway_after: u64::MAX };
        let (mut io, read, served) = match alpn {
            Alpn::H2 => (io, Vec::new(), 0),
            Alpn::None | Alpn::Http1 => {
                let limits = self.lane_limits(alpn);
                let lane = Lane::new(io, peer, Arc::clone(&progress), limits);
                match guard.watch(lane.run(&*respond), |_| {}).await {
                    Err(end) => return end,
                    Ok(LaneEnd::Done) => return ConnectionEnd::Done,
                    Ok(LaneEnd::PeerError) => return ConnectionEnd::PeerError,
                    Ok(LaneEnd::TakeOver { io, read, served }) => (io, read, served),
                }
            }
        };
        let is_http2 = match alpn {
            Alpn::H2 => true,
            // The lane refuses a preface that may not be one.
            Alpn::None => !read.is_empty() && (read.starts_with(PREFACE) || PREFACE.starts_with(&read)),
            Alpn::Http1 => false,
        };
        progress.taken_over(served);
        let requests = Arc::clone(&progress);
        let (fields_max, requests_max) = (self.limits.headers_max, self.limits.requests_max);
        let service = service_fn(move |request: Request<Incoming>| {
            let respond = Arc::clone(&respond);
            let active = requests.enter();
            let progress = Arc::clone(&requests);
            let is_last = !is_http2 && requests.requests() >= requests_max;
            if !is_http2 {
                requests.head_is(HeadState::None);
            }
            async move {
                let is_head = *request.method() == Method::HEAD;
                let framing = Framing::of(&request, fields_max);
                let mut response = match framing {
                    Framing::NoHost => respond.refused(&request.map(drop), &no_host(), peer),
                    Framing::TooManyFields => respond.refused(&request.map(drop), &too_many_fields(fields_max), peer),
                    Framing::Plain | Framing::Chunked => {
                        respond.respond(request.map(RequestBody::Incoming), peer).await
                    }
                };
                if !is_http2 && (is_last || framing != Framing::Plain) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if is_head {
                    // hyper leaves it to us on HTTP/2, where a body would be a protocol error.
                    *response.body_mut() = Body::default();
                }
                if is_http2 {
                    // What is whole in memory is one frame of a body.
                    let body = std::mem::take(response.body_mut()).frame().now_or_never().flatten();
                    let bytes = body.and_then(|Ok(frame)| frame.into_data().ok()).unwrap_or_default();
                    if !bytes.is_empty() {
                        *response.body_mut() = Body::new(progress.leaving(bytes));
                    }
                }
                drop(active);
                Ok::<_, Infallible>(response)
            }
        });
        io.watch_heads(if is_http2 { Heads::Http2(Frames::new()) } else { Heads::Http1 });
        io.unread(read);
        let io = TokioIo::new(io);
        if is_http2 {
            guard.goaway_after = requests_max;
        }
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

    fn lane_limits(&self, alpn: Alpn) -> LaneLimits {
        let ConnectionLimits { header_bytes_max, headers_max, requests_max, prior_knowledge, .. } = self.limits;
        let switch = match (alpn, prior_knowledge) {
            (Alpn::None, PriorKnowledge::Taken) => Switch::ToHttp2,
            _ => Switch::Never,
        };
        LaneLimits { head_bytes_max: header_bytes_max, fields_max: headers_max, requests_max, switch }
    }
}

/// What hyper lets pass and RFC 9112 and RFC 9113 do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Plain,
    /// hyper drops a length beside it without a word, so that every such connection ends with its answer (RFC 9112 §6.3).
    Chunked,
    /// None, several, one that names no host, or two that differ (RFC 9112 §3.2, RFC 9113 §8.3.1).
    NoHost,
    TooManyFields,
}

impl Framing {
    fn of<B>(request: &Request<B>, fields_max: usize) -> Self {
        if count_fields(request.headers()) > fields_max {
            return Self::TooManyFields;
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return Self::NoHost,
            (host, None) => host.map(HeaderValue::as_bytes),
        };
        let names_one = match request.version() {
            Version::HTTP_2 => names_one_authority(request.uri(), host),
            Version::HTTP_11 => host.is_some_and(is_host),
            _ => host.is_none_or(is_host),
        };
        match names_one {
            false => Self::NoHost,
            true if request.headers().contains_key(TRANSFER_ENCODING) => Self::Chunked,
            true => Self::Plain,
        }
    }
}

/// Fields of a head. HTTP/2 cuts one `Cookie` into many (RFC 9113 §8.2.3): they count as one.
fn count_fields(fields: &HeaderMap) -> usize {
    let cookies = fields.get_all(COOKIE).iter().count();
    fields.len() - cookies.saturating_sub(1)
}

/// Over HTTP/2 a request has an `:authority` or a `Host`, neither of them empty, and where it has both, they are the same
/// after normalisation (RFC 9113 §8.3.1, RFC 3986 §6.2).
fn names_one_authority(uri: &Uri, host: Option<&[u8]>) -> bool {
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let is_named = |name: &[u8]| !name.trim_ascii().is_empty() && is_host(name);
    match (authority, host) {
        (Some(authority), None) => is_named(authority),
        (None, Some(host)) => is_named(host),
        (Some(authority), Some(host)) => {
            let port: &[u8] = if uri.scheme() == Some(&Scheme::HTTPS) { b":443" } else { b":80" };
            let normal = |name: &[u8]| {
                let name = name.trim_ascii().to_ascii_lowercase();
                name.strip_suffix(port).or_else(|| name.strip_suffix(b":")).map_or(name.clone(), <[u8]>::to_vec)
            };
            is_named(authority) && is_named(host) && normal(authority) == normal(host)
        }
        (None, None) => false,
    }
}

fn no_host() -> Problem {
    Problem::new(
        400,
        "no-host",
        "No host",
        "a request names exactly one host: in `Host` (RFC 9112 §3.2), over HTTP/2 in `:authority` (RFC 9113 §8.3.1)",
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
    /// Requests after which HTTP/2 says GOAWAY; HTTP/1.1 says `Connection: close` in its last answer.
    goaway_after: u64,
}

/// What a connection has had of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quota {
    Left,
    Had,
    Exceeded,
}

enum Step<T> {
    Ended(T),
    Quota(Quota),
}

impl Guard<'_> {
    /// Runs `protocol` to its end, or to the first deadline it misses. `drain` is called when this side shuts down, and
    /// when the connection has had its quota of requests.
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
        let mut quota = Quota::Left;
        loop {
            let step = poll_fn(|cx| match protocol.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Step::Ended(output)),
                Poll::Pending if quota != self.quota() => Poll::Ready(Step::Quota(self.quota())),
                Poll::Pending => Poll::Pending,
            });
            tokio::select! {
                biased;
                step = step => match step {
                    Step::Ended(output) => return Ok(output),
                    Step::Quota(Quota::Exceeded) => return Err(ConnectionEnd::Requests),
                    Step::Quota(now) => {
                        quota = now;
                        drain(protocol.as_mut());
                    }
                },
                () = told.as_mut(), if phase == Phase::Open => {
                    phase = Phase::Draining;
                    self.progress.enter_phase(phase);
                    drain(protocol.as_mut());
                    look.as_mut().reset(tokio::time::Instant::now() + self.limits.drain_grace);
                }
                () = look.as_mut() => {
                    if self.progress.is_draining() {
                        self.progress.enter_phase(Phase::Closing);
                    }
                    look.as_mut().reset(tokio::time::Instant::now() + self.pause()?);
                }
            }
        }
    }

    /// What this connection has had of its requests. A client may have sent as many as it has streams when GOAWAY reaches
    /// it, and as many again for answers that were on their way.
    fn quota(&self) -> Quota {
        match self.progress.requests().checked_sub(self.goaway_after) {
            None => Quota::Left,
            Some(over) if over <= 2 * u64::from(self.limits.streams_max) => Quota::Had,
            Some(_) => Quota::Exceeded,
        }
    }

    fn pause(&self) -> Result<Duration, ConnectionEnd> {
        match self.progress.check(&self.limits.deadlines) {
            Check::Overdue(_) if self.progress.is_answered() => Err(ConnectionEnd::Done),
            Check::Overdue(overdue) => Err(ConnectionEnd::Overdue(overdue)),
            // A millisecond more, the unit of what is compared.
            Check::AgainIn(pause) => Ok(pause + Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
mod tests;
