//! I/O workers: as many single-threaded runtimes as cores, each with connections of its own.
//!
//! A connection lives and dies on one of them, so that answering from memory wakes no other thread and steals no
//! other's work; that is what nginx's worker processes do, and what Cloudflare's pingora found cheaper than work
//! stealing for proxies. What takes long (fills, encoders, files, nodes) runs on the main runtime and its pools.
//!
//! Invariant: nothing on a worker blocks or computes for more than half a millisecond, for its other connections wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Most workers a configuration may ask for.
pub const WORKERS_MAX: usize = 256;

/// See the module's documentation.
#[derive(Debug)]
pub struct Workers {
    workers: Box<[Worker]>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    open: Arc<AtomicUsize>,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A connection's place on a worker, given back when it is dropped.
#[derive(Debug)]
pub struct WorkerLease {
    pub runtime: Handle,
    open: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads, or one per core for 0.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be had.
    pub fn start(count: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if count == 0 { cores } else { count }.min(WORKERS_MAX);
        let workers = (0..count).map(Worker::start).collect::<io::Result<_>>()?;
        Ok(Self { workers, turn: AtomicUsize::new(0) })
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// A place on the worker with the fewest connections.
    #[must_use]
    pub fn place(&self) -> WorkerLease {
        // Where several have as few, they take turns.
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.workers.len();
        let idlest = (0..count)
            .map(|offset| &self.workers[(first + offset) % count])
            .min_by_key(|worker| worker.open.load(Ordering::Relaxed))
            .unwrap_or(&self.workers[0]);
        idlest.open.fetch_add(1, Ordering::Relaxed);
        WorkerLease { runtime: idlest.runtime.clone(), open: Arc::clone(&idlest.open) }
    }
}

impl Worker {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("edge-io-{index}")).spawn(move || {
            // Ends when the sender is dropped; nothing is ever sent.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, open: Arc::default(), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its tasks are cut at their next wait, which is at once.
            let _ = thread.join();
        }
    }
}

impl Drop for WorkerLease {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_evenly_and_run_on_their_worker() {
        let workers = Workers::start(3).unwrap();
        let places: Vec<_> = (0..9).map(|_| workers.place()).collect();
        assert!(workers.workers.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 3));
        let task = places[0].runtime.spawn(async { std::thread::current().name().map(str::to_owned) });
        assert!(task.await.unwrap().unwrap().starts_with("edge-io-"));
        drop(places);
        assert!(workers.workers.iter().all(|worker| worker.open.load(Ordering::Relaxed) == 0));
    }
}
