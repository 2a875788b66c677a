//! Accepting connections: sockets, caps, TLS handshakes, drain. What is said on them is `http`'s business.
//!
//! Shutdown order: stop accepting → GOAWAY / `Connection: close` → drain until the deadline → abort.

pub mod admin;
pub mod http;
pub mod io;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::shutdown::Shutdown;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use self::http::{ConnectionEnd, Protocols, Respond};
use self::io::Overdue;
use self::tls::ReloadableTls;

/// What a listener needs besides its socket.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    pub protocols: Protocols,
    pub connections_max: usize,
    pub handshake: Duration,
    pub drain: Duration,
}

/// Connections, by what became of them.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    open: IntGauge,
    ended: IntCounterVec,
}

impl ListenerMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGauge::new("bildkante_edge_connections_open", "Connections open now")?;
        let ended =
            IntCounterVec::new(Opts::new("bildkante_edge_connections_total", "Connections ended, by how"), &["end"])?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        for label in ["done", "peer_error", "handshake", "handshake_deadline"] {
            ended.with_label_values(&[label]);
        }
        for overdue in Overdue::ALL {
            ended.with_label_values(&[overdue.as_str()]);
        }
        Ok(Self { open, ended })
    }

    fn end(&self, label: &str) {
        self.ended.with_label_values(&[label]).inc();
    }
}

/// Accepts until `shutdown`, then drains. Returns how many connections had to be aborted.
pub async fn run<R: Respond>(
    listener: TcpListener,
    tls: Option<Arc<ReloadableTls>>,
    respond: Arc<R>,
    settings: ListenerSettings,
    metrics: ListenerMetrics,
    mut shutdown: Shutdown,
) -> usize {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(settings.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = shutdown.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, peer, permit) = accepted;
        let connection = Connection {
            stream,
            peer,
            tls: tls.clone(),
            respond: Arc::clone(&respond),
            settings: settings.clone(),
            metrics: metrics.clone(),
            // Taken before the task is spawned: a watcher taken later could miss the shutdown.
            watcher: graceful.watcher(),
            permit,
        };
        connections.spawn(connection.run());
    }
    drop(listener);
    drain(graceful, connections, settings.drain).await
}

async fn drain(graceful: GracefulShutdown, mut connections: JoinSet<()>, deadline: Duration) -> usize {
    if tokio::time::timeout(deadline, graceful.shutdown()).await.is_ok() {
        while connections.join_next().await.is_some() {}
        return 0;
    }
    let aborted = connections.len();
    connections.shutdown().await;
    aborted
}

/// The next connection within the cap. Errors of a single connection are passed over; when the process is
/// out of descriptors it backs off instead of spinning.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer, permit);
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed, backing off");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_peer(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

struct Connection<R> {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ReloadableTls>>,
    respond: Arc<R>,
    settings: ListenerSettings,
    metrics: ListenerMetrics,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
}

impl<R: Respond> Connection<R> {
    async fn run(self) {
        let Self { stream, peer, tls, respond, settings, metrics, watcher, permit } = self;
        metrics.open.inc();
        let _open = OpenGuard(metrics.open.clone());
        let end = match tls {
            None => settings.protocols.serve(stream, peer, respond, watcher).await,
            Some(tls) => match tokio::time::timeout(settings.handshake, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => settings.protocols.serve(stream, peer, respond, watcher).await,
                Ok(Err(_)) => return metrics.end("handshake"),
                Err(_) => return metrics.end("handshake_deadline"),
            },
        };
        drop(permit);
        match end {
            ConnectionEnd::Done => metrics.end("done"),
            ConnectionEnd::PeerError => metrics.end("peer_error"),
            ConnectionEnd::Overdue(overdue) => metrics.end(overdue.as_str()),
        }
    }
}

/// Also counts down when the task is aborted.
struct OpenGuard(IntGauge);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
