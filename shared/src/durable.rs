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

/// Puts on the device which files a folder has and what they are called.
///
/// # Errors
/// Any I/O error.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    folder: &Path,
    parts: &[&[u8]],
    durability: Durability,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    crash_point("created");
    for part in parts {
        let (half, rest) = part.split_at(part.len() / 2);
        // Two writes only where a test wants to end between them.
        if cfg!(feature = "crash-points") {
            file.write_all(half)?;
            crash_point("half-written");
            file.write_all(rest)?;
        } else {
            file.write_all(part)?;
        }
    }
    crash_point("written");
    if durability == Durability::Synced {
        file.sync_all()?;
        crash_point("synced");
    }
    drop(file);
    fs::rename(temporary, path)?;
    crash_point("renamed");
    if durability == Durability::Synced {
        sync_folder(folder)?;
        crash_point("folder-synced");
    }
    Ok(())
}

/// Steps at which a test may end the process, in order.
#[cfg(feature = "crash-points")]
pub const CRASH_POINTS: [&str; 6] = ["created", "half-written", "written", "synced", "renamed", "folder-synced"];

/// Ends the process, as `kill -9` would, at the n-th passage of the step that `BILDKANTE_CRASH_AT=step:n` names.
#[cfg(feature = "crash-points")]
fn crash_point(step: &str) {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(plan) = std::env::var("BILDKANTE_CRASH_AT") else { return };
    let Some((at, passage)) = plan.split_once(':') else { return };
    if at == step && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == passage.parse().unwrap_or(1) {
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
fn crash_point(_: &str) {}

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
