//! Text files that people write: manifests, libraries, locks, keys and configuration.
//!
//! Invariant: no file is read beyond a bound, and what is no UTF-8 is refused.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Largest text file.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The text of a file.
///
/// # Errors
/// When it cannot be read, has more than [`FILE_BYTES_MAX`] bytes, or is not UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    read_opened(File::open(path)?)
}

/// The same of a file that is open.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_opened(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    check_length(bytes.len() as u64)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8"))
}

/// Whether a text is one that [`read`] would take.
///
/// # Errors
/// When it has more than [`FILE_BYTES_MAX`] bytes.
pub(crate) fn check_length(bytes: u64) -> io::Result<()> {
    if bytes <= FILE_BYTES_MAX {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file is larger than {FILE_BYTES_MAX} bytes")))
}
