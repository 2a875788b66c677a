//! Accepting connections: sockets, caps, TLS handshakes, drain. What is said on them is `http`'s business.
//!
//! Shutdown order: stop accepting → GOAWAY / `Connection: close` → drain until the deadline → abort.

pub mod addresses;
pub mod config;
pub mod forwarded;
pub mod http;
pub mod io;
pub mod lane;
pub mod room;
pub mod systemd;
pub mod tls;
pub mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use futures_util::FutureExt;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, JoinSet};

use self::http::{Alpn, ConnectionEnd, Protocols};
use self::io::{Overdue, Progress};
use self::room::{Room, Seat, Share};
use self::tls::ReloadableTls;
use self::workers::{WorkerLease, Workers};
use crate::service::Respond;

/// What a listener's connections are held to.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    pub protocols: Protocols,
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
        for label in ["shed", "done", "peer_error", "requests", "handshake", "handshake_deadline"] {
            ended.with_label_values(&[label]);
        }
        for overdue in Overdue::ALL {
            ended.with_label_values(&[overdue.as_str()]);
        }
        Ok(Self { open, ended })
    }

    /// One more is open until the guard is dropped.
    fn opened(&self) -> OpenGuard {
        self.open.inc();
        OpenGuard(self.open.clone())
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

/// A listener: what all its addresses have in common. Its connections hold it, so it holds no workers: the last one would
/// have its own thread joined.
#[derive(Debug)]
pub struct Listener<R> {
    pub tls: Option<Arc<ReloadableTls>>,
    pub respond: Arc<R>,
    pub settings: ListenerSettings,
    pub room: Arc<Room>,
    pub metrics: ListenerMetrics,
}

/// A connection that was accepted and has no seat yet.
struct Guest {
    /// Of no runtime yet: it is registered where it is served.
    stream: std::net::TcpStream,
    peer: SocketAddr,
    share: Share,
}

impl<R: Respond> Listener<R> {
    /// Accepts on each of its addresses, a task each; see [`Self::run`].
    pub fn spawn_on(
        self: &Arc<Self>,
        crew: &Crew,
        sockets: Vec<TcpListener>,
        shutdown: &Shutdown,
    ) -> impl Iterator<Item = JoinHandle<usize>> {
        let run = |socket| tokio::spawn(Arc::clone(self).run(crew.clone(), socket, shutdown.clone()));
        sockets.into_iter().map(run)
    }

    /// Accepts on one address until `shutdown`, then drains. Returns how many connections had to be aborted.
    pub async fn run(self: Arc<Self>, crew: Crew, socket: TcpListener, mut shutdown: Shutdown) -> usize {
        let mut connections = JoinSet::new();
        let told = shutdown.clone();
        let spawn = |connections: &mut JoinSet<()>, guest, permit| self.spawn(connections, &crew, guest, permit, &told);
        // Accepted although there is no room: some is made for it.
        let mut waiting = None;
        loop {
            tokio::select! {
                accepted = self.accept(&socket), if waiting.is_none() => {
                    let Some(guest) = self.admit(accepted) else { continue };
                    match self.room.try_permit() {
                        Some(permit) => spawn(&mut connections, guest, Some(permit)),
                        None => waiting = Some(guest),
                    }
                }
                permit = self.room.permit(), if waiting.is_some() => {
                    if let Some(guest) = waiting.take() {
                        spawn(&mut connections, guest, Some(permit));
                    }
                }
                () = shutdown.requested() => break,
                Some(_) = connections.join_next(), if waiting.is_none() && !connections.is_empty() => {}
            }
        }
        // Who was let in by the kernel already is served too.
        let in_backlog = || FutureExt::now_or_never(self.accept(&socket));
        for guest in waiting.into_iter().chain(std::iter::from_fn(in_backlog).filter_map(|it| self.admit(it))) {
            spawn(&mut connections, guest, self.room.try_permit());
        }
        drop(socket);
        drain(connections, self.settings.drain).await
    }

    /// The next connection. Errors of a single one are passed over; when the process is out of descriptors, connections
    /// that rest give theirs, and accepting backs off instead of spinning.
    async fn accept(&self, socket: &TcpListener) -> (std::net::TcpStream, SocketAddr) {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    match stream.into_std() {
                        Ok(stream) => return (stream, peer),
                        Err(error) => log_limited!(warn, %error, "a connection could not be handed to its worker"),
                    }
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    log_limited!(warn, %error, "accepting a connection failed, backing off");
                    self.room.shed();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(&self, (stream, peer): (std::net::TcpStream, SocketAddr)) -> Option<Guest> {
        self.room.share(peer.ip()).map(|share| Guest { stream, peer, share })
    }

    fn spawn(
        self: &Arc<Self>,
        connections: &mut JoinSet<()>,
        crew: &Crew,
        guest: Guest,
        permit: Option<OwnedSemaphorePermit>,
        told: &Shutdown,
    ) {
        let Guest { stream, peer, share } = guest;
        let progress = Arc::new(Progress::new());
        let seat = self.room.seat(share, permit, Arc::clone(&progress));
        let id = seat.id();
        let (listener, shutdown) = (Arc::clone(self), told.clone());
        let connection =
            move |place| async move { listener.serve(stream, peer, progress, shutdown, (seat, place)).await };
        match crew {
            Crew::Here => drop(connections.spawn(connection(None))),
            Crew::Workers(workers) => {
                let place = workers.place();
                let thread = place.runtime.clone();
                let task = connections.spawn_on(connection(Some(place)), &thread);
                self.room.may_close(id, thread, task);
            }
        }
    }

    async fn serve(
        &self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        progress: Arc<Progress>,
        shutdown: Shutdown,
        _held: (Seat, Option<WorkerLease>),
    ) {
        let metrics = &self.metrics;
        let Ok(stream) = TcpStream::from_std(stream) else { return metrics.end("peer_error") };
        let (protocols, respond) = (&self.settings.protocols, Arc::clone(&self.respond));
        let end = match &self.tls {
            None => protocols.serve(stream, Alpn::None, peer, respond, shutdown, progress).await,
            Some(tls) => match tokio::time::timeout(self.settings.handshake, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let alpn = if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Alpn::H2 } else { Alpn::Http1 };
                    protocols.serve(stream, alpn, peer, respond, shutdown, progress).await
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

/// Also counts down when the task is aborted.
#[derive(Debug)]
struct OpenGuard(IntGauge);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
