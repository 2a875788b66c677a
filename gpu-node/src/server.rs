//! The listener: HTTP/1.1 and HTTP/2 on one port, in plain text (loopback or a private network, HTTP/2 with prior
//! knowledge) or over TLS with client certificates.
//!
//! Every wait has a bound: connections (semaphore before `accept`), the TLS handshake, the first bytes (hyper-util waits for
//! ever while it tells the protocols apart), headers, bodies (in `api.rs`), unread responses, silent HTTP/2 peers (pings), the
//! drain.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::api::Api;
use crate::config::HttpConfig;
use crate::metrics::NodeMetrics;
use crate::tls::ReloadableTls;

/// Read buffer of an HTTP/1.1 connection; also bounds its header.
const HTTP1_BUFFER_BYTES: usize = 32 * 1024;
const HTTP1_HEADERS_MAX: usize = 64;
const HTTP2_HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Flow-control windows: a generation's body is at most 64 KiB.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const HTTP2_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Streams a peer may reset before they were handled, and that we may reset: "rapid reset" (CVE-2023-44487) and its
/// mirror image.
const HTTP2_RESETS_MAX: usize = 64;
/// The length of HTTP/2's preface: what the protocols are told apart by.
const PREFACE_BYTES: usize = 24;
/// Pause after an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until shutdown is asked for, then drains: no new connections, `GOAWAY`, at most `drain_timeout_ms`.
/// Returns the connections that were still open; dropping them cuts them.
pub(crate) async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    tls: Option<Arc<ReloadableTls>>,
    config: HttpConfig,
    metrics: Arc<NodeMetrics>,
    mut shutdown: Shutdown,
) -> JoinSet<()> {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(config.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places, &metrics) => accepted,
            () = shutdown.requested() => break,
        };
        while connections.try_join_next().is_some() {}
        let (socket, place) = accepted;
        // The watcher is taken before the task starts: a shutdown between the two would miss it.
        let watcher = graceful.watcher();
        let connection = Connection { api: Arc::clone(&api), metrics: Arc::clone(&metrics), _place: place };
        connections.spawn(connection.run(socket, tls.clone(), watcher, config.clone()));
    }
    drop(listener);
    if tokio::time::timeout(config.drain_timeout(), graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "drain deadline passed");
    }
    connections
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    metrics: &NodeMetrics,
) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(places).acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((socket, _)) => return (socket, place),
            Err(error) => {
                metrics.accept_errors_total.inc();
                log_limited!(warn, %error, "connection not accepted");
                if !is_peers_fault(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Connection {
    api: Arc<Api>,
    metrics: Arc<NodeMetrics>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, socket: TcpStream, tls: Option<Arc<ReloadableTls>>, watcher: Watcher, config: HttpConfig) {
        self.metrics.connections.inc();
        let _ = socket.set_nodelay(true);
        match tls {
            None => self.serve(socket, watcher, &config).await,
            Some(tls) => {
                let peer = socket.peer_addr();
                match tokio::time::timeout(config.header_timeout(), tls.acceptor().accept(socket)).await {
                    Ok(Ok(socket)) => self.serve(socket, watcher, &config).await,
                    Ok(Err(error)) => self.refuse(&peer, &error),
                    Err(_) => self.refuse(&peer, &"the handshake took too long"),
                }
            }
        }
        self.metrics.connections.dec();
    }

    /// An edge with a wrong certificate is an operator's mistake: it is logged and counted.
    fn refuse(&self, peer: &io::Result<SocketAddr>, error: &dyn std::fmt::Display) {
        self.metrics.handshake_errors_total.inc();
        match peer {
            Ok(peer) => log_limited!(warn, %peer, %error, "TLS handshake refused"),
            Err(_) => log_limited!(warn, %error, "TLS handshake refused"),
        }
    }

    async fn serve<S>(&self, socket: S, watcher: Watcher, config: &HttpConfig)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let guarded =
            Guarded::new(socket, config.header_timeout(), Duration::from_millis(config.write_stall_timeout_ms));
        let api = &self.api;
        let service = service_fn(|request| {
            let api = Arc::clone(api);
            async move { Ok::<_, std::convert::Infallible>(api.respond(request).await) }
        });
        let builder = builder(config);
        if let Err(error) = watcher.watch(builder.serve_connection(TokioIo::new(guarded), service)).await {
            tracing::debug!(error = %error, "connection ended early");
        }
    }
}

fn builder(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout())
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .max_headers(HTTP1_HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_per_connection_max)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(HTTP2_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_RESETS_MAX)
        .keep_alive_interval(Duration::from_millis(config.keep_alive_interval_ms))
        .keep_alive_timeout(Duration::from_millis(config.keep_alive_timeout_ms));
    builder
}

/// A socket that gives up on a peer that stays silent at first, or stops reading.
struct Guarded<S> {
    socket: S,
    /// Until [`PREFACE_BYTES`] have arrived.
    first_bytes: Option<Pin<Box<Sleep>>>,
    received_bytes: usize,
    /// While a write is pending.
    unread: Option<Pin<Box<Sleep>>>,
    write_stall: Duration,
}

impl<S> Guarded<S> {
    fn new(socket: S, first_bytes: Duration, write_stall: Duration) -> Self {
        let first_bytes = Some(Box::pin(tokio::time::sleep(first_bytes)));
        Self { socket, first_bytes, received_bytes: 0, unread: None, write_stall }
    }

    /// Progress disarms the deadline; none arms it, and fails once it has passed.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.unread = None;
            return progress;
        }
        let deadline = Instant::now() + self.write_stall;
        let unread = self.unread.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let progress = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.received_bytes = self.received_bytes.saturating_add(buffer.filled().len() - before);
        if self.received_bytes >= PREFACE_BYTES {
            self.first_bytes = None;
        }
        if let (Poll::Pending, Some(deadline)) = (&progress, &mut self.first_bytes)
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stays silent")));
        }
        progress
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch_write(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.watch_write(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.socket).poll_flush(cx);
        self.watch_write(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.watch_write(cx, progress)
    }
}
