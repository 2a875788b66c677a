//! A manifest store: the bytes that tell a picture's history, beside it or in it.
//!
//! Signing salts and dates itself, so two manifests of one file differ. A kept manifest that is put into the same unsigned
//! bytes again gives the same file: [`attach`] adds nothing of its own.
//!
//! Sources: ISO 19566-5 (JUMBF); C2PA Technical Specification 2.3, appendix A (where each format keeps it: a `uuid` box
//! behind `ftyp` in AVIF, a `C2PA` chunk in WebP, `APP11` segments in JPEG, a `caBX` chunk in PNG).

use c2pa::jumbf_io::{load_jumbf_from_memory, save_jumbf_to_memory};

use super::guard::{Fault, MANIFEST_BYTES_MAX, guarded};
use super::jumbf::{self, FrameFault};
use crate::words::Format;

/// Media type of a manifest store that is served beside its picture (C2PA: external manifests).
pub const MANIFEST_MEDIA_TYPE: &str = "application/c2pa";

/// The bytes of a manifest store.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest(Vec<u8>);

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({} bytes)", self.0.len())
    }
}

/// Why bytes are no manifest store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoManifest {
    #[error("the manifest has {bytes} bytes, at most {MANIFEST_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("the manifest is damaged: {0}")]
    Frame(#[from] FrameFault),
}

impl Manifest {
    /// Takes a store that was kept, or came from outside. Only its frame is looked at: see [`FrameFault`].
    ///
    /// # Errors
    /// When it is none, or larger than [`MANIFEST_BYTES_MAX`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, NoManifest> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(NoManifest::TooLarge { bytes: bytes.len() });
        }
        jumbf::check(&bytes)?;
        Ok(Self(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name of its active manifest, a URN; `None` where it has none.
    #[must_use]
    pub fn active(&self) -> Option<&str> {
        jumbf::active_label(&self.0).filter(|label| !label.is_empty())
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
    Manifest::from_bytes(stored(format, file).ok()?).ok()
}

/// Whatever a file holds where its format keeps a manifest store.
pub(super) fn stored(format: Format, file: &[u8]) -> Result<Vec<u8>, Fault> {
    guarded(|| load_jumbf_from_memory(format.media_type(), file))
}
