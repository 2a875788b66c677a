//! A TCP proxy that delays, cuts, corrupts, reorders and stalls; a test changes that while it runs, and where it leads.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const CHUNK_BYTES: usize = 16 << 10;
/// Longest that a connection waits for the next one.
const OVERTAKE_MAX: Duration = Duration::from_millis(400);

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every chunk comes later.
    Delay(Duration),
    /// One bit of every chunk from the server is another.
    Corrupt,
    /// Connections end after so many more bytes from the server; new ones too.
    CutAfter(usize),
    /// Chunks come in pieces of odd sizes, each a little later: frames arrive in parts, and one connection before another.
    Ragged,
    /// A new connection waits until the next one has come, for [`OVERTAKE_MAX`] at most: what was sent later arrives earlier.
    Overtake,
    /// Nothing passes until the fault is another.
    Stall,
    /// Calls are refused: no server listens.
    Refuse,
}

/// A proxy on a port of its own. It ends with its handle.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    target: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens, and forwards to `target`.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let (target, targets) = watch::channel(target);
        Ok(Self { address, fault, target, task: tokio::spawn(run(listener, targets, faults)) })
    }

    /// Leads elsewhere from now on; open connections end.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_if_modified(|before| std::mem::replace(before, target) != target);
    }

    /// From now on, also on connections that are open.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, targets: watch::Receiver<SocketAddr>, faults: watch::Receiver<Fault>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    let came = watch::Sender::new(0_u64);
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let fault = *faults.borrow();
        if fault == Fault::Refuse {
            continue;
        }
        came.send_modify(|count| *count += 1);
        let (mut later, targets, faults) = (came.subscribe(), targets.clone(), faults.clone());
        connections.spawn(async move {
            if fault == Fault::Overtake {
                let _ = tokio::time::timeout(OVERTAKE_MAX, later.changed()).await;
            }
            connection(client, targets, faults).await;
        });
    }
}

async fn connection(client: TcpStream, mut targets: watch::Receiver<SocketAddr>, faults: watch::Receiver<Fault>) {
    let target = *targets.borrow_and_update();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
    // When one direction ends, the other's socket is dropped with it.
    tokio::select! {
        () = pump(client_read, server_write, faults.clone(), Direction::ToServer) => {}
        () = pump(server_read, client_write, faults, Direction::ToClient) => {}
        _ = targets.changed() => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Fault>,
    direction: Direction,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut passed = 0;
    let mut cut_at: Option<usize> = None;
    loop {
        let length = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            },
            // An idle connection is cut too when no server is behind the port any more.
            gone = faults.wait_for(|fault| *fault == Fault::Refuse) => {
                drop(gone);
                return;
            }
        };
        let fault = *faults.borrow_and_update();
        let chunk = &mut buffer[..length];
        match fault {
            Fault::None | Fault::Overtake => cut_at = None,
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::Corrupt if direction == Direction::ToClient => {
                if let Some(byte) = chunk.last_mut() {
                    *byte ^= 0x10;
                }
            }
            Fault::CutAfter(bytes) if direction == Direction::ToClient => {
                if passed + length > *cut_at.get_or_insert(passed + bytes) {
                    return;
                }
            }
            Fault::Stall => {
                if faults.wait_for(|fault| *fault != Fault::Stall).await.is_err() {
                    return;
                }
            }
            Fault::Refuse => return,
            Fault::Ragged => {
                let (piece, rest) = chunk.split_at(1 + passed.wrapping_mul(31) % length);
                if to.write_all(piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1 + (length % 17) as u64)).await;
                passed += length;
                if to.write_all(rest).await.is_err() {
                    return;
                }
                continue;
            }
            Fault::Corrupt | Fault::CutAfter(_) => {}
        }
        passed += length;
        if to.write_all(chunk).await.is_err() {
            return;
        }
    }
}
