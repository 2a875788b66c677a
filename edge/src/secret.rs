//! Files that hold secrets: signing keys, the keys of session tickets, private keys of certificates, tokens of caches in
//! front. One that others than its owner may read or write is refused, because a secret that every user of the machine has
//! is none.
//!
//! Where root owns the file, its group may read it, too: that is how Kubernetes and packages hand a file to a service that
//! is not root. PostgreSQL has the same rule for its keys.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that too many may read or write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("others than its owner may read or write it (mode {mode:04o}): run `chmod {wanted:o} {}`", path.display())]
pub(crate) struct Exposed {
    path: PathBuf,
    mode: u32,
    wanted: u32,
}

/// Opens a file that holds a secret.
///
/// # Errors
/// When it cannot be opened, or is [`Exposed`].
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    // Of the file that is open, not of what has its name by now.
    let metadata = file.metadata()?;
    match exposed(path, metadata.mode(), metadata.uid()) {
        None => Ok(file),
        Some(exposed) => Err(io::Error::new(io::ErrorKind::PermissionDenied, exposed)),
    }
}

/// Reads a file that holds a secret, up to `bytes_max`; one that is longer is refused.
///
/// # Errors
/// When it cannot be read, is longer, or is [`Exposed`].
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn exposed(path: &Path, mode: u32, owner: u32) -> Option<Exposed> {
    let mode = mode & 0o777;
    let group_may = if owner == 0 { 0o040 } else { 0 };
    // A service that is not root reads root's file by its group only.
    let wanted = if owner == 0 && !rustix::process::geteuid().is_root() { 0o640 } else { 0o600 };
    (mode & (0o077 & !group_may) != 0).then(|| Exposed { path: path.to_owned(), mode, wanted })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_reads_and_root_may_lend_to_a_group() {
        let is_exposed = |mode: u32, owner| exposed(Path::new("k"), 0o100_000 | mode, owner).is_some();
        for mode in [0o600, 0o400] {
            assert!(!is_exposed(mode, 0) && !is_exposed(mode, 1000), "{mode:o}");
        }
        assert!(!is_exposed(0o640, 0) && is_exposed(0o640, 1000));
        for mode in [0o644, 0o660, 0o604, 0o602, 0o610, 0o777] {
            assert!(is_exposed(mode, 0) && is_exposed(mode, 1000), "{mode:o}");
        }
    }

    #[test]
    fn the_error_says_what_to_run() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("keys.toml");
        std::fs::write(&path, "secret").expect("written");
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        set(0o644);
        let error = open(&path).expect_err("everybody reads it").to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 6") && error.contains("keys.toml"), "{error}");
        set(0o600);
        assert_eq!(read(&path, 6).expect("ours"), b"secret");
        let error = read(&path, 5).expect_err("too long").to_string();
        assert!(error.contains("more than 5 bytes"), "{error}");
    }
}
