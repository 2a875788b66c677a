//! The digest of a checkpoint folder: what a lock pins and a node proves it has.
//!
//! It covers every weight and configuration file of the *diffusers* layout by relative path and content, so
//! that a renamed, added, removed or edited file is another checkpoint. Documentation and pictures beside
//! them do not count.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::Digest;

/// File extensions that are part of a checkpoint.
const COUNTED: [&str; 4] = ["json", "safetensors", "txt", "model"];
/// Most files a checkpoint may hold: bounds the walk.
const FILES_MAX: usize = 1024;
/// Deepest folder below the checkpoint.
const DEPTH_MAX: usize = 4;

/// Why a folder has no digest.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointDigestError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no diffusers checkpoint: it has neither model_index.json nor config.json")]
    NotACheckpoint { path: PathBuf },
    #[error("{path} holds more than {FILES_MAX} files or nests deeper than {DEPTH_MAX} folders")]
    TooLarge { path: PathBuf },
}

/// BLAKE3 over the sorted list of (path length, path, size, file digest).
///
/// # Errors
/// When the folder cannot be read or is no checkpoint.
pub fn digest(folder: &Path) -> Result<Digest, CheckpointDigestError> {
    // A pipeline of several networks, or a single one, as a ControlNet is.
    if !["model_index.json", "config.json"].iter().any(|file| folder.join(file).is_file()) {
        return Err(CheckpointDigestError::NotACheckpoint { path: folder.to_owned() });
    }
    let mut files = Vec::new();
    walk(folder, folder, 0, &mut files)?;
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for relative in files {
        let (size_bytes, file_digest) = digest_file(&folder.join(&relative))?;
        hasher.update(&(relative.len() as u64).to_le_bytes());
        hasher.update(relative.as_bytes());
        hasher.update(&size_bytes.to_le_bytes());
        hasher.update(file_digest.as_bytes());
    }
    Ok(Digest::from_hash(&hasher.finalize()))
}

fn walk(root: &Path, folder: &Path, depth: usize, files: &mut Vec<String>) -> Result<(), CheckpointDigestError> {
    let io_error = |source| CheckpointDigestError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        if path.is_dir() {
            if depth == DEPTH_MAX {
                return Err(CheckpointDigestError::TooLarge { path: root.to_owned() });
            }
            walk(root, &path, depth + 1, files)?;
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| COUNTED.contains(&e)) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.push(relative);
            if files.len() > FILES_MAX {
                return Err(CheckpointDigestError::TooLarge { path: root.to_owned() });
            }
        }
    }
    Ok(())
}

/// Size and BLAKE3-256 of a file, streamed.
///
/// # Errors
/// When the file cannot be read.
pub fn digest_file(path: &Path) -> Result<(u64, Digest), CheckpointDigestError> {
    let io_error = |source| CheckpointDigestError::Io { path: path.to_owned(), source };
    let mut hasher = blake3::Hasher::new();
    let size_bytes = io::copy(&mut std::fs::File::open(path).map_err(io_error)?, &mut hasher).map_err(io_error)?;
    Ok((size_bytes, Digest::from_hash(&hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_count_and_documentation_does_not() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        assert!(matches!(digest(dir.path()), Err(CheckpointDigestError::NotACheckpoint { .. })));
        std::fs::write(dir.path().join("model_index.json"), "{}")?;
        std::fs::create_dir(dir.path().join("unet"))?;
        std::fs::write(dir.path().join("unet/w.safetensors"), "abc")?;
        let before = digest(dir.path())?;
        std::fs::write(dir.path().join("README.md"), "a card")?;
        assert_eq!(digest(dir.path())?, before);
        std::fs::write(dir.path().join("unet/w.safetensors"), "abd")?;
        assert_ne!(digest(dir.path())?, before);
        std::fs::write(dir.path().join("unet/w.safetensors"), "abc")?;
        std::fs::rename(dir.path().join("unet"), dir.path().join("vae"))?;
        assert_ne!(digest(dir.path())?, before);
        Ok(())
    }
}
