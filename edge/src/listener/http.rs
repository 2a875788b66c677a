//! One connection: protocol detection, HTTP/1.1 and HTTP/2 with their limits, deadlines, drain.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::{Deadlines, Overdue, WatchedIo};

/// Every body this edge sends is whole in memory.
pub type Body = Full<Bytes>;

/// Answers requests; cannot fail, for an error is a response too.
pub trait Respond: Send + Sync + 'static {
    fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> impl Future<Output = Response<Body>> + Send;
}

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    pub deadlines: Deadlines,
    pub header: Duration,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub streams_max: u32,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
}

/// How a connection ended, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    Done,
    PeerError,
    Overdue(Overdue),
}

/// How often a connection's progress is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The protocol stack, built once and shared by all connections of a listener.
#[derive(Debug, Clone)]
pub struct Protocols {
    builder: auto::Builder<TokioExecutor>,
    limits: ConnectionLimits,
}

impl Protocols {
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            // Without a timer hyper ignores or panics on the header deadline.
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header)
            // hyper's default buffer would let one connection hold about 417 kB of headers.
            .max_buf_size(limits.header_bytes_max.max(8192))
            // No `pipeline_flush`: it makes hyper copy every body behind its head instead of writing both at once.
            .max_headers(limits.headers_max);
        builder
            .http2()
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
        Self { builder, limits }
    }

    /// Serves a connection until it ends, misses a deadline, or has drained after `watcher` was told to.
    pub async fn serve<T, R>(&self, stream: T, peer: SocketAddr, respond: Arc<R>, watcher: Watcher) -> ConnectionEnd
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Respond,
    {
        let (io, progress) = WatchedIo::new(stream);
        let requests = Arc::clone(&progress);
        let service = service_fn(move |request| {
            let respond = Arc::clone(&respond);
            let active = requests.enter();
            async move {
                let is_head = *request.method() == Method::HEAD;
                let mut response = respond.respond(request, peer).await;
                if is_head {
                    // hyper leaves it to us on HTTP/2, where a body would be a protocol error.
                    *response.body_mut() = Body::default();
                }
                drop(active);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(io), service).into_owned();
        let mut connection = pin!(watcher.watch(connection));
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    return if result.is_ok() { ConnectionEnd::Done } else { ConnectionEnd::PeerError };
                }
                _ = watch.tick() => {
                    if let Some(overdue) = progress.overdue(&self.limits.deadlines) {
                        return ConnectionEnd::Overdue(overdue);
                    }
                }
            }
        }
    }
}
