//! A manifest store: the bytes that tell a picture's history, beside it or in it.
//!
//! Signing salts and dates itself, so two manifests of one file differ. A kept manifest that is put into the same unsigned
//! bytes again gives the same file: [`attach`] adds nothing of its own.
//!
//! Sources: ISO 19566-5 (JUMBF); C2PA Technical Specification 2.3, appendix A (where each format keeps it: a `uuid` box
//! behind `ftyp` in AVIF, a `C2PA` chunk in WebP, `APP11` segments in JPEG, a `caBX` chunk in PNG).

use c2pa::jumbf_io::{load_jumbf_from_memory, save_jumbf_to_memory};

use super::guard::{Fault, MANIFEST_BYTES_MAX, guarded};
use crate::words::Format;

/// Media type of a manifest store that is served beside its picture (C2PA: external manifests).
pub const MANIFEST_MEDIA_TYPE: &str = "application/c2pa";

/// Box length, `jumb`, length, `jumd`, then the type of a C2PA store.
const STORE_TYPE: [u8; 16] = *b"c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71";

/// The bytes of a manifest store.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest(Vec<u8>);

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({} bytes)", self.0.len())
    }
}

/// These bytes are no manifest store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes that are no C2PA manifest store")]
pub struct NoManifest {
    bytes: usize,
}

impl Manifest {
    /// Takes a store that was kept, or came from outside. Only its frame is looked at: that one box of C2PA's type holds
    /// all of it.
    ///
    /// # Errors
    /// When it is none, or larger than [`MANIFEST_BYTES_MAX`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, NoManifest> {
        let length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
        let is_store = bytes.get(4..8) == Some(b"jumb") && bytes.get(12..16) == Some(b"jumd");
        let is_c2pa = bytes.get(16..32) == Some(&STORE_TYPE);
        if is_store && is_c2pa && length == bytes.len() && length <= MANIFEST_BYTES_MAX {
            Ok(Self(bytes))
        } else {
            Err(NoManifest { bytes: bytes.len() })
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// `file` with the manifest in its place. Depends on nothing but the two.
///
/// # Errors
/// When the file is damaged.
pub fn attach(format: Format, file: &[u8], manifest: &Manifest) -> Result<Vec<u8>, Fault> {
    guarded(|| save_jumbf_to_memory(format.media_type(), file, manifest.as_bytes()))
}

/// The manifest store in a file, `None` where it has none or is damaged.
#[must_use]
pub fn detached(format: Format, file: &[u8]) -> Option<Manifest> {
    let bytes = guarded(|| load_jumbf_from_memory(format.media_type(), file)).ok()?;
    Manifest::from_bytes(bytes).ok()
}
