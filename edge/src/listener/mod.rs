//! Accepting connections: sockets, caps, TLS handshakes, drain. What is said on them is `http`'s business.
//!
//! Shutdown order: stop accepting → GOAWAY / `Connection: close` → drain until the deadline → abort.

pub mod admin;
pub mod client;
pub mod http;
pub mod io;
pub mod lane;
pub mod systemd;
pub mod tls;
pub mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use self::http::{Alpn, ConnectionEnd, Protocols, Respond};
use self::io::Overdue;
use self::tls::ReloadableTls;
use self::workers::{Place, Workers};

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
        for label in ["done", "peer_error", "requests", "handshake", "handshake_deadline"] {
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

/// Where a listener's connections are served.
#[derive(Debug, Clone)]
pub enum Crew {
    /// On the I/O workers.
    Workers(Arc<Workers>),
    /// On the runtime that accepts: for the few connections of operators, whose answers may take long.
    Here,
}

/// Accepts until `shutdown`, then drains. Returns how many connections had to be aborted.
pub async fn run<R: Respond>(
    listener: TcpListener,
    tls: Option<Arc<ReloadableTls>>,
    respond: Arc<R>,
    crew: Crew,
    settings: ListenerSettings,
    metrics: ListenerMetrics,
    mut shutdown: Shutdown,
) -> usize {
    let permits = Arc::new(Semaphore::new(settings.connections_max));
    let mut connections = JoinSet::new();
    let told = shutdown.clone();
    let connection = |(stream, peer, permit), place| Connection {
        stream,
        peer,
        tls: tls.clone(),
        respond: Arc::clone(&respond),
        settings: settings.clone(),
        metrics: metrics.clone(),
        shutdown: told.clone(),
        permit,
        place,
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = shutdown.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        spawn(&mut connections, &crew, |place| connection(accepted, place));
    }
    // Who was let in by the kernel already is served too.
    while let Some(accepted) = futures_util::FutureExt::now_or_never(accept(&listener, &permits)) {
        spawn(&mut connections, &crew, |place| connection(accepted, place));
    }
    drop(listener);
    drain(connections, settings.drain).await
}

fn spawn<R: Respond>(
    connections: &mut JoinSet<()>,
    crew: &Crew,
    connection: impl FnOnce(Option<Place>) -> Connection<R>,
) {
    match crew {
        Crew::Here => connections.spawn(connection(None).run()),
        Crew::Workers(workers) => {
            let place = workers.place();
            let runtime = place.runtime.clone();
            connections.spawn_on(connection(Some(place)).run(), &runtime)
        }
    };
}

/// Every connection was told to end; what has not by the deadline is cut.
async fn drain(mut connections: JoinSet<()>, deadline: Duration) -> usize {
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(deadline, all).await.is_ok() {
        return 0;
    }
    let aborted = connections.len();
    connections.shutdown().await;
    aborted
}

/// The next connection within the cap. Errors of a single connection are passed over; when the process is
/// out of descriptors it backs off instead of spinning.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (std::net::TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                match stream.into_std() {
                    Ok(stream) => return (stream, peer, permit),
                    Err(error) => log_limited!(warn, %error, "a connection could not be handed to its worker"),
                }
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                log_limited!(warn, %error, "accepting a connection failed, backing off");
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
    /// Of no runtime yet: it is registered where it is served.
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ReloadableTls>>,
    respond: Arc<R>,
    settings: ListenerSettings,
    metrics: ListenerMetrics,
    shutdown: Shutdown,
    permit: OwnedSemaphorePermit,
    place: Option<Place>,
}

impl<R: Respond> Connection<R> {
    async fn run(self) {
        let Self { stream, peer, tls, respond, settings, metrics, shutdown, permit, place } = self;
        metrics.open.inc();
        let _held = (OpenGuard(metrics.open.clone()), permit, place);
        let Ok(stream) = TcpStream::from_std(stream) else { return metrics.end("peer_error") };
        let protocols = &settings.protocols;
        let end = match tls {
            None => protocols.serve(stream, Alpn::None, peer, respond, shutdown).await,
            Some(tls) => match tokio::time::timeout(settings.handshake, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let alpn = if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Alpn::H2 } else { Alpn::Http1 };
                    protocols.serve(stream, alpn, peer, respond, shutdown).await
                }
                Ok(Err(_)) => return metrics.end("handshake"),
                Err(_) => return metrics.end("handshake_deadline"),
            },
        };
        match end {
            ConnectionEnd::Done => metrics.end("done"),
            ConnectionEnd::PeerError => metrics.end("peer_error"),
            ConnectionEnd::Requests => metrics.end("requests"),
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
