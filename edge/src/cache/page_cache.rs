//! Reading a small file if, and only if, it takes no device: from the kernel's caches, without a wait.
//!
//! A disk hit is nearly always a page cache hit. Handing it to another thread and back costs more than the read itself,
//! so an I/O worker may do it at once, provided that nothing can block: the path is looked up in the dentry cache only
//! (`openat2` with `RESOLVE_CACHED`, Linux 5.12), and bytes are taken only if all are in memory (`preadv2` with
//! `RWF_NOWAIT`, Linux 4.14). What is not there is answered with `None`, as is everything on an older kernel, and the caller goes
//! the way through the gate.

use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Set once the kernel has said that it knows no such call.
static UNSUPPORTED: AtomicBool = AtomicBool::new(false);

/// The whole file at `path` below `folder`, if it has at most `bytes_max` bytes and all of them are in memory.
pub(super) fn read(folder: impl AsFd, path: &str, bytes_max: usize) -> Option<Vec<u8>> {
    if UNSUPPORTED.load(Ordering::Relaxed) {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat2(folder, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => file,
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            UNSUPPORTED.store(true, Ordering::Relaxed);
            return None;
        }
        Err(_) => return None,
    };
    let length = usize::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok()?;
    if length == 0 || length > bytes_max {
        return None;
    }
    let mut bytes = vec![0; length];
    // One call: a part of it would mean that the rest is not in memory.
    let read = rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut bytes)], 0, ReadWriteFlags::NOWAIT).ok()?;
    (read == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_was_written_a_moment_ago_is_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"bytes").unwrap();
        let read = read(File::open(dir.path()).unwrap(), "file", 5);
        // A file system without the flag answers `None`, and that is allowed; other bytes are not.
        assert!(read.is_none() || read.as_deref() == Some(b"bytes"));
    }

    #[test]
    fn long_empty_and_missing_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"bytes").unwrap();
        let folder = File::open(dir.path()).unwrap();
        assert_eq!(read(&folder, "file", 4), None);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&folder, "file", 4), None);
        assert_eq!(read(&folder, "other", 4), None);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(read(&folder, "link", 4), None);
    }
}
