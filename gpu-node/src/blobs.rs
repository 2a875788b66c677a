//! Images that recipes name, by digest: a folder of files that edges fill (`PUT /v1/blobs/{digest}`).
//!
//! A file's name is the digest of its bytes; both are compared when it is stored and when it is read, and what does not
//! agree is not there. Only pictures that can be used are let in, and the oldest make room for new ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::Digest;

use crate::diffusion::picture::{Picture, PictureError};

/// Bytes of all files together.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Why bytes are not stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the bytes have the digest {found}, not {named}")]
    Digest { named: Digest, found: Digest },
    #[error(transparent)]
    Picture(#[from] PictureError),
    #[error("the blob store failed: {0}")]
    Io(#[from] io::Error),
}

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// In `blobs` of a node's data folder.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("blobs") }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        // `blake3:` is no part of a file's name everywhere.
        self.folder.join(format!("{}.png", digest.to_string().replace(':', "-")))
    }

    /// Whether there is such a file.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Stores an image, durably; one that is there already is not written again.
    ///
    /// # Errors
    /// When the bytes are other ones than their name says or no picture that can be used, or the folder fails.
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let found = Digest::of_bytes(bytes);
        if found != digest {
            return Err(BlobError::Digest { named: digest, found });
        }
        Picture::decode(bytes)?;
        if self.get(digest)?.is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        self.make_room(bytes.len() as u64)?;
        Ok(durable::write(&self.path(digest), &[bytes], Durability::Synced)?)
    }

    /// The image's bytes; `None` where it is not there, or is not what its name says.
    ///
    /// # Errors
    /// When the folder fails.
    pub fn get(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(digest)) {
            Ok(bytes) if Digest::of_bytes(&bytes) == digest => Ok(Some(bytes)),
            Ok(_) => {
                tracing::error!(%digest, "an image is not what its name says, and is not used");
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the oldest files until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in files {
            if total + bytes <= BYTES_MAX {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png() -> Vec<u8> {
        let mut out = io::Cursor::new(Vec::new());
        let color = image::ExtendedColorType::Rgb8;
        image::write_buffer_with_format(&mut out, &[1; 12], 2, 2, color, image::ImageFormat::Png).expect("a PNG");
        out.into_inner()
    }

    #[test]
    fn only_pictures_under_their_own_name_are_stored_and_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let (blobs, png) = (Blobs::of(dir.path()), png());
        let digest = Digest::of_bytes(&png);
        assert!(!blobs.contains(digest) && blobs.get(digest).expect("readable").is_none());
        assert!(matches!(blobs.put(Digest::of_bytes(b"x"), &png), Err(BlobError::Digest { .. })));
        assert!(matches!(blobs.put(Digest::of_bytes(b"x"), b"x"), Err(BlobError::Picture(_))));
        blobs.put(digest, &png).expect("stored");
        blobs.put(digest, &png).expect("stored twice");
        assert!(blobs.contains(digest));
        assert_eq!(blobs.get(digest).expect("readable"), Some(png));
        fs::write(blobs.path(digest), b"damaged").expect("written");
        assert!(blobs.get(digest).expect("readable").is_none());
    }
}
