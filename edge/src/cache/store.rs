//! A `Folder` behind two `Gate`s: content-named files for async callers, verified before a caller sees them.
//!
//! The common half of the rendition tier and the master store; what a sound file looks like is theirs to say.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::folder::{Folder, FolderLimits, Name};
use super::gate::{Gate, GateError, GateLimits};
use super::metrics::{LookupOutcome, StoreMetrics};

/// Longest file an async worker reads and hashes itself: some 100 µs.
const PEEK_BYTES_MAX: usize = 128 << 10;

/// What a look-up found.
#[derive(Debug)]
pub enum Lookup<T> {
    Hit(T),
    /// Any outcome but `Hit`.
    Miss(LookupOutcome),
}

impl<T> Lookup<T> {
    #[must_use]
    pub fn hit(self) -> Option<T> {
        match self {
            Self::Hit(value) => Some(value),
            Self::Miss(_) => None,
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Hit(value) => Lookup::Hit(change(value)),
            Self::Miss(outcome) => Lookup::Miss(outcome),
        }
    }
}

/// Why a file is not used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Damaged: set aside and reported.
    Corrupt(String),
    /// Sound, for all that is known, but of another version: deleted.
    Foreign,
}

/// Bounds of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreLimits {
    pub(super) folder: FolderLimits,
    pub(super) io_concurrency: usize,
    pub(super) io_timeout: Duration,
    pub(super) io_errors_max: u32,
    pub(super) offline: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Store {
    folder: Arc<Folder>,
    reads: Gate,
    writes: Gate,
    metrics: Arc<StoreMetrics>,
    indexed: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

enum Found<T> {
    Sound(T),
    Absent,
    Corrupt,
}

impl Store {
    /// Ends the cool-downs of both gates, which else time does.
    #[cfg(test)]
    pub(super) fn cool_down(&self) {
        self.reads.cool_down();
        self.writes.cool_down();
    }

    /// Opens the folder and starts the thread that rebuilds its index.
    pub(super) fn open(
        name: &'static str,
        root: &Path,
        limits: StoreLimits,
        metrics: Arc<StoreMetrics>,
    ) -> io::Result<Self> {
        let folder = Arc::new(Folder::open(root, limits.folder, Arc::clone(&metrics))?);
        let gate_limits = GateLimits {
            concurrency: limits.io_concurrency.max(1),
            timeout: limits.io_timeout,
            errors_max: limits.io_errors_max,
            offline: limits.offline,
        };
        let reads = Gate::new(name, gate_limits, metrics.read_errors.clone(), metrics.read_online.clone());
        let writes = Gate::new(name, gate_limits, metrics.write_errors.clone(), metrics.write_online.clone());
        let (indexed, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let store = Self { folder, reads, writes, metrics, indexed, stopped };
        store.start_scan(name)?;
        Ok(store)
    }

    fn start_scan(&self, name: &'static str) -> io::Result<()> {
        let folder = Arc::clone(&self.folder);
        let (indexed, stopped) = (Arc::clone(&self.indexed), Arc::clone(&self.stopped));
        let scan = move || {
            folder.scan(|| !stopped.load(Ordering::Relaxed));
            indexed.store(true, Ordering::Release);
        };
        std::thread::Builder::new().name(format!("{name}-index")).spawn(scan).map(drop)
    }

    /// Whether the index covers what earlier processes left, so that the bounds are exact.
    pub(super) fn is_indexed(&self) -> bool {
        self.indexed.load(Ordering::Acquire)
    }

    pub(super) fn accepts_writes(&self) -> bool {
        !self.writes.is_offline()
    }

    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Reads and checks a file; one that fails the check is never returned.
    pub(super) async fn read<T, F>(&self, name: Name, check: F) -> Lookup<T>
    where
        T: Send + 'static,
        F: FnOnce(Bytes) -> Result<T, Unusable> + Send + 'static,
    {
        let folder = Arc::clone(&self.folder);
        let job = move || {
            let Some(bytes) = folder.read(&name)? else { return Ok(Found::Absent) };
            match check(Bytes::from(bytes)) {
                Ok(value) => Ok(Found::Sound(value)),
                Err(Unusable::Foreign) => folder.remove(&name).map(|()| Found::Absent),
                Err(Unusable::Corrupt(reason)) => {
                    folder.quarantine(&name, &reason);
                    Ok(Found::Corrupt)
                }
            }
        };
        let lookup = match self.reads.run(job).await {
            Ok(Found::Sound(value)) => Lookup::Hit(value),
            Ok(Found::Absent) => Lookup::Miss(LookupOutcome::Absent),
            Ok(Found::Corrupt) => Lookup::Miss(LookupOutcome::Corrupt),
            Err(error) => Lookup::Miss(error.into()),
        };
        self.metrics.tier.looked_up(match &lookup {
            Lookup::Hit(_) => LookupOutcome::Hit,
            Lookup::Miss(outcome) => *outcome,
        });
        lookup
    }

    /// The file if it is small, sound, and reading it takes no device: for async workers. Everything else, also what is
    /// wrong with it, is for [`Self::read`] to find out.
    pub(super) fn peek<T>(&self, name: Name, check: impl FnOnce(Bytes) -> Result<T, Unusable>) -> Option<T> {
        if self.reads.is_offline() {
            return None;
        }
        let bytes = self.folder.read_in_memory(&name, PEEK_BYTES_MAX)?;
        let value = check(Bytes::from(bytes)).ok()?;
        self.metrics.tier.looked_up(LookupOutcome::Hit);
        Some(value)
    }

    /// Runs a job that looks into the folder and changes nothing. What a device does wrong is `None`.
    pub(super) async fn glance<T, F>(&self, job: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Folder) -> io::Result<Option<T>> + Send + 'static,
    {
        let folder = Arc::clone(&self.folder);
        self.reads.run(move || job(&folder)).await.ok().flatten()
    }

    /// Runs a job that changes the folder.
    pub(super) async fn change<T, F>(&self, job: F) -> Result<T, GateError>
    where
        T: Send + 'static,
        F: FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    {
        let folder = Arc::clone(&self.folder);
        let result = self.writes.run(move || job(&folder)).await;
        if matches!(result, Err(GateError::Offline | GateError::Busy)) {
            self.metrics.writes_dropped.inc();
        }
        result
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
