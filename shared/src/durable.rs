//! Files that are either wholly there or not at all.
//!
//! Temporary file in the same folder → write → fsync → rename → fsync of the folder. A failed fsync is
//! reported and never retried: the kernel may have dropped the pages (Rebello et al., "Can Applications
//! Recover from fsync Failures?", ATC 2020).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a write must survive a power cut before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to the device before the rename, and the rename itself after it.
    Synced,
    /// Left to the operating system: for cache data whose checksum is verified on every read.
    Unsynced,
}

/// Prefix of files that a crash may leave behind; safe to delete at start.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Replaces `path` with the concatenation of `parts`, atomically.
///
/// # Errors
/// Any I/O error; `path` is then as it was before and the temporary file is gone.
pub fn write(path: &Path, parts: &[&[u8]], durability: Durability) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no parent"))?;
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!("{TEMPORARY_PREFIX}{}-{unique}", std::process::id()));
    let result = write_and_rename(&temporary, path, folder, parts, durability);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    folder: &Path,
    parts: &[&[u8]],
    durability: Durability,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(temporary, path)?;
    if durability == Durability::Synced {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("entry");
        write(&path, &[b"one"], Durability::Synced)?;
        write(&path, &[b"t", b"wo"], Durability::Unsynced)?;
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("folder");
        fs::create_dir(&path)?;
        assert!(write(&path, &[b"x"], Durability::Synced).is_err());
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }
}
