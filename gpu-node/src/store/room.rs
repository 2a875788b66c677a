//! Whether the store can take another master: how much the disk has free, and how the last write went.
//!
//! A drawing costs seconds, so this is asked before one begins. After a failed write nothing is taken until a trial write has
//! succeeded ([`super::Store::look_after`]): a trial write, and no request's drawing, finds out whether the disk works again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::StatVfs;

use super::StoreError;
use crate::config::StoreConfig;
use crate::metrics::NodeMetrics;

/// The file of a trial write, which is removed at once.
const TRIAL_FILE: &str = ".tmp-trial";
/// Large enough that a full quota or thin volume fails.
const TRIAL_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    free_bytes_min: u64,
    bytes_max: u64,
    space: SpaceOf,
    /// Why nothing is taken.
    trouble: Mutex<Option<String>>,
    metrics: Arc<NodeMetrics>,
}

impl Room {
    pub(super) fn new(folder: &Path, config: &StoreConfig, space: SpaceOf, metrics: Arc<NodeMetrics>) -> Self {
        metrics.store_writable.set(1);
        let (free_bytes_min, bytes_max) = (config.free_bytes_min, config.bytes_max);
        Self { folder: folder.to_owned(), free_bytes_min, bytes_max, space, trouble: Mutex::new(None), metrics }
    }

    /// How many bytes of masters are too many for the disk once it has taken `incoming_bytes` more. On a disk that is large
    /// enough for `bytes_max`, other files take the space, and no master is removed for them.
    pub(super) fn shortage(&self, incoming_bytes: u64) -> u64 {
        let Ok(space) = (self.space)(&self.folder) else { return 0 };
        if space.total_bytes >= self.bytes_max.saturating_add(self.free_bytes_min) {
            return 0;
        }
        self.free_bytes_min.saturating_add(incoming_bytes).saturating_sub(space.free_bytes)
    }

    /// # Errors
    /// [`StoreError::NoRoom`] when a master could not be stored now. Asks the file system.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if let Some(reason) = self.trouble() {
            return Err(StoreError::NoRoom { reason });
        }
        self.measure().inspect_err(|error| self.note(error))
    }

    /// Why nothing is taken, by the last look.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Whether the disk has enough free.
    pub(super) fn measure(&self) -> Result<(), StoreError> {
        let free_bytes = (self.space)(&self.folder)?.free_bytes;
        self.metrics.store_free_bytes.set(i64::try_from(free_bytes).unwrap_or(i64::MAX));
        if free_bytes >= self.free_bytes_min {
            return Ok(());
        }
        let (free_mib, min_mib) = (free_bytes >> 20, self.free_bytes_min.div_ceil(1 << 20));
        let folder = self.folder.display();
        let reason = format!("the disk of {folder} has {free_mib} MiB free, `store.free_bytes_min` are {min_mib} MiB");
        Err(StoreError::NoRoom { reason })
    }

    /// A write has failed: nothing more is taken until [`Self::recovered`].
    pub(super) fn note(&self, error: &StoreError) {
        let mut trouble = self.trouble.lock();
        if trouble.is_none() {
            tracing::error!(%error, "no master can be stored: nothing is drawn");
        }
        *trouble = Some(error.to_string());
        self.metrics.store_writable.set(0);
    }

    pub(super) fn recovered(&self) {
        if self.trouble.lock().take().is_some() {
            tracing::info!("masters can be stored again");
        }
        self.metrics.store_writable.set(1);
    }

    /// Writes a file as a master is written, and takes it away again.
    pub(super) fn try_file(&self) -> Result<(), StoreError> {
        use bildkante_shared::durable::{self, Durability};
        let path = self.folder.join(TRIAL_FILE);
        // Not zeros: a file system may store those without using space.
        durable::write(&path, &[&[0xb1; TRIAL_BYTES]], Durability::Synced).map_err(StoreError::io(&path))?;
        std::fs::remove_file(&path).map_err(StoreError::io(&path))
    }
}

/// A folder's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    /// What this process may use of it, written or not.
    pub(super) total_bytes: u64,
    /// What this process may still write to it.
    pub(super) free_bytes: u64,
}

/// How the free space is found out: tests bring disks of their own size.
pub(super) type SpaceOf = fn(&Path) -> Result<Space, StoreError>;

pub(super) fn space_of(folder: &Path) -> Result<Space, StoreError> {
    let known = rustix::fs::statvfs(folder).map_err(|error| StoreError::io(folder)(error.into()))?;
    Ok(space(&known))
}

/// Blocks that are kept for root count for neither.
const fn space(known: &StatVfs) -> Space {
    let blocks = known.f_blocks.saturating_sub(known.f_bfree).saturating_add(known.f_bavail);
    Space {
        total_bytes: blocks.saturating_mul(known.f_frsize),
        free_bytes: known.f_bavail.saturating_mul(known.f_frsize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_kept_for_root_are_neither_free_nor_there() {
        let known = rustix::fs::statvfs("/").unwrap();
        // 70 blocks are written and 5 of the other 30 are root's.
        let known = StatVfs { f_frsize: 4096, f_blocks: 100, f_bfree: 30, f_bavail: 25, ..known };
        assert_eq!(space(&known), Space { total_bytes: 95 * 4096, free_bytes: 25 * 4096 });
    }
}
