//! Originals of imports: the files that people brought, in `imports/` of the campaigns' folder, each under its digest.
//!
//! Invariants: an original is read only if its digest is the one that was asked for; no file over the bound is read whole.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;

use crate::render::{ORIGINAL_FILE_BYTES_MAX, OriginalFormat};

/// Why an original is not there.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OriginalFault {
    #[error("original {digest} is not in {folder}", folder = folder.display())]
    Missing { digest: Digest, folder: PathBuf },
    #[error("{path} cannot be read: {cause}", path = path.display())]
    Unreadable { path: PathBuf, cause: String },
    #[error("{path} is not what the lock names: its digest is {found}", path = path.display())]
    Digest { path: PathBuf, found: Digest },
}

/// Where the originals of a campaigns' folder are.
#[must_use]
pub fn originals_folder(campaigns_dir: &Path) -> PathBuf {
    campaigns_dir.join("imports")
}

/// The name of an original: its digest and its format.
#[must_use]
pub fn original_name(digest: Digest, format: OriginalFormat) -> String {
    format!("{}.{}", digest.to_hex(), format.extension())
}

/// An original, checked against its digest.
///
/// # Errors
/// When it is not there, cannot be read, or is another file.
pub fn read_original(folder: &Path, digest: Digest) -> Result<Vec<u8>, OriginalFault> {
    for format in OriginalFormat::ALL {
        let path = folder.join(original_name(digest, format));
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(OriginalFault::Unreadable { path, cause: error.to_string() }),
        };
        let found = Digest::of_bytes(&bytes);
        return if found == digest { Ok(bytes) } else { Err(OriginalFault::Digest { path, found }) };
    }
    Err(OriginalFault::Missing { digest, folder: folder.to_owned() })
}

/// A file of people's, up to one byte more than an original may have.
///
/// # Errors
/// Any I/O error.
pub fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(ORIGINAL_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
