//! The GPU node: recipes in, generated masters out.
//!
//! ```text
//! server → api → admission ── archive.find ─────── known ─▶ reply
//!                    └── board (join, deadlines; queue) → worker: device thread → settling thread ─▶ reply
//!                                                           engine            archive: dedup, store, index
//! ```
//!
//! [`Node::start`] takes a bound listener and an engine factory, so that tests run the same node in process, on port 0.
//!
//! Invariant: a module uses those below it only; `tests/rooms.rs` has the order and reads the sources.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admission;
mod api;
mod archive;
mod arrivals;
pub mod blobs;
mod board;
mod candidates;
pub mod capacity;
pub mod commands;
pub mod config;
pub mod dedup;
pub mod diffusion;
mod drawer;
mod endings;
pub mod engine;
mod error;
pub mod fuzzing;
pub mod hamming;
pub mod health;
mod index;
mod metrics;
mod pace;
mod progress;
mod queue;
mod server;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
mod turns;
pub mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::shutdown::{self, Shutdown, ShutdownTrigger, Ticks};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::admission::Admission;
use crate::api::Api;
use crate::archive::Archive;
use crate::blobs::Blobs;
use crate::board::Board;
use crate::config::{ConfigError, NodeConfig};
use crate::endings::Endings;
use crate::engine::Engines;
use crate::health::{Health, Phase};
use crate::metrics::NodeMetrics;
use crate::store::{Store, StoreError};
use crate::tls::{ReloadableTls, TlsError};
use crate::worker::{Bench, Worker};

/// Between two looks at the disk.
const LOOK_AFTER_PERIOD: Duration = Duration::from_secs(1);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the listener: {0}")]
    Listener(std::io::Error),
    #[error("the master store: {0}")]
    Store(#[from] StoreError),
    #[error("`endings` in the data folder: {0}")]
    Endings(std::io::Error),
    #[error("the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("`tls`: {0}")]
    Tls(#[from] TlsError),
    #[error("a thread: {0}")]
    Thread(std::io::Error),
}

/// Closes the board when a node is dropped without being shut down, so that its threads end.
#[derive(Debug)]
struct Closing(Arc<Board>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A node that is being started.
#[derive(Debug)]
pub struct Node;

/// A node at work.
#[derive(Debug)]
pub struct RunningNode {
    addr: SocketAddr,
    trigger: ShutdownTrigger,
    server: JoinHandle<JoinSet<()>>,
    worker: Worker,
    board: Closing,
    health: Arc<Health>,
    metrics: Arc<NodeMetrics>,
}

impl Node {
    /// Opens the store, then serves; checkpoints load and prove themselves behind it (`/readyz`). Wants a tokio runtime.
    ///
    /// # Errors
    /// When the configuration is out of bounds, the data folder is in use or broken, or the listener is no good.
    pub async fn start(
        config: NodeConfig,
        listener: std::net::TcpListener,
        engines: impl Into<Engines>,
    ) -> Result<RunningNode, StartError> {
        let started_at = Instant::now();
        config.validate()?;
        listener.set_nonblocking(true).map_err(StartError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(StartError::Listener)?;
        let addr = listener.local_addr().map_err(StartError::Listener)?;
        // The address that the socket really has, also when it came from elsewhere.
        NodeConfig { listen: addr, ..config.clone() }.check_exposure()?;
        let metrics = Arc::new(NodeMetrics::new()?);
        let tls = config.tls.clone().map(ReloadableTls::load).transpose()?;
        let store = open_store(&config, &metrics).await?;
        let archive = Arc::new(Archive::new(Arc::clone(&store), config.dedup.clone(), Arc::clone(&metrics)));
        // After the store, which keeps a second node out of the folder.
        let endings = Arc::new(Endings::open(&config.data_dir, Arc::clone(&metrics)).map_err(StartError::Endings)?);
        let board = Board::new(&config.queue, Arc::clone(&metrics));
        let health = Arc::new(Health::default());
        let bench = Bench {
            board: Arc::clone(&board),
            archive: Arc::clone(&archive),
            endings: Arc::clone(&endings),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
            self_test_steps: config.self_test_steps,
            started_at,
        };
        let worker = Worker::start(engines.into(), bench).map_err(StartError::Thread)?;
        let name = if config.name.is_empty() { addr.to_string() } else { config.name.clone() };
        tracing::info!(node = %name, %addr, "listening");
        let blobs = Blobs::of(&config.data_dir, config.store.blob_bytes_max);
        blobs.sweep();
        let admission = Admission {
            board: Arc::clone(&board),
            archive,
            endings,
            health: Arc::clone(&health),
            blobs: blobs.clone(),
            reads: Arc::new(Semaphore::new(config.store.reads_max)),
        };
        let api = Api::new(name, &config, admission, Arc::clone(&metrics));
        let (trigger, shutdown) = shutdown::channel();
        if let Some(tls) = &tls {
            let _until_shutdown = tls.watch(shutdown.clone());
        }
        tokio::spawn(look_after(store, blobs, shutdown.clone()));
        let serving = server::serve(listener, Arc::new(api), tls, config.http, Arc::clone(&metrics), shutdown);
        let board = Closing(board);
        Ok(RunningNode { addr, trigger, server: tokio::spawn(serving), worker, board, health, metrics })
    }
}

async fn open_store(config: &NodeConfig, metrics: &Arc<NodeMetrics>) -> Result<Arc<Store>, StartError> {
    let (folder, limits, metrics) = (config.data_dir.clone(), config.store.clone(), Arc::clone(metrics));
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder, &limits, metrics)).await;
    let store = opened.map_err(|defect| StartError::Thread(std::io::Error::other(defect)))??;
    Ok(Arc::new(store))
}

/// Looks at the disk every second, so that a node draws again as soon as there is space, without a request having to try. Where
/// there is none, images are removed that no drawing under way can want: edges have them and hand them over again.
async fn look_after(store: Arc<Store>, blobs: Blobs, shutdown: Shutdown) {
    let mut ticks = Ticks::every(LOOK_AFTER_PERIOD, shutdown);
    while ticks.next().await.is_some() {
        let (store, blobs) = (Arc::clone(&store), blobs.clone());
        let look = move || {
            store.look_after();
            if store.trouble().is_some() {
                let longest = Duration::from_millis(DEADLINE_MS_MAX);
                if let Some(then) = SystemTime::now().checked_sub(longest) {
                    blobs.remove_unused_since(then);
                }
            }
        };
        if let Err(defect) = tokio::task::spawn_blocking(look).await {
            tracing::error!(%defect, "looking after the store ended at a defect");
        }
    }
}

impl RunningNode {
    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[must_use]
    pub fn metrics(&self) -> &NodeMetrics {
        &self.metrics
    }

    /// Waits until it is ready, or will never be.
    pub async fn settled(&self) -> Phase {
        self.health.settled().await
    }

    /// Waits for the failure after which it will never be ready.
    pub async fn failed(&self) -> Phase {
        self.health.failed().await
    }

    /// Stops accepting, lets requests in flight end until the drain deadline, answers the rest 503 and stops the device
    /// between two steps.
    pub async fn shut_down(self) {
        self.health.enter(Phase::Draining);
        self.metrics.ready.set(0);
        self.trigger.shut_down();
        let mut rest = self.server.await.unwrap_or_default();
        self.board.0.close();
        // Waiting callers have been answered 503 by now; the answers get a moment to leave before the sockets close.
        let told = async { while rest.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), told).await;
        rest.shutdown().await;
        let worker = self.worker;
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
        tracing::info!("stopped");
    }
}
