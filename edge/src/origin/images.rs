//! The images that manifests name, for nodes that lack one.
//!
//! A recipe names images by digest, and a node that lacks one answers 424. The edge has the campaign's files: it finds the
//! image in their folder by its content, hands it to the node (`PUT /v1/blobs/{digest}`), and asks for the recipe once more.
//! Invariant: files are read each time they are asked for, so nothing here is ever stale.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;
use bildkante_shared::limits::BLOB_BYTES_MAX;
use bytes::Bytes;

/// Files of the folder that are looked at.
const FILES_MAX: usize = 4096;

/// A folder of PNGs, or none.
#[derive(Debug, Clone, Default)]
pub struct Images {
    folder: Option<PathBuf>,
}

impl Images {
    #[must_use]
    pub const fn of(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// All of these digests, or nothing where one of them is no image of ours.
    pub(crate) async fn find(&self, digests: &[String]) -> Option<Vec<(Digest, Bytes)>> {
        let folder = self.folder.clone()?;
        let wanted = digests.iter().map(|digest| digest.parse().ok()).collect::<Option<Vec<Digest>>>()?;
        tokio::task::spawn_blocking(move || find(&folder, &wanted)).await.ok().flatten()
    }
}

fn find(folder: &Path, wanted: &[Digest]) -> Option<Vec<(Digest, Bytes)>> {
    let mut found: Vec<(Digest, Bytes)> = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten().take(FILES_MAX) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        let Some(bytes) = read(&path) else { continue };
        let digest = Digest::of_bytes(&bytes);
        if wanted.contains(&digest) && !found.iter().any(|(known, _)| *known == digest) {
            found.push((digest, bytes.into()));
        }
    }
    wanted.iter().all(|digest| found.iter().any(|(known, _)| known == digest)).then_some(found)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = BLOB_BYTES_MAX as u64;
    fs::File::open(path).ok()?.take(bound + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= bound).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn images_are_found_by_their_content_and_all_or_none() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("edges.png", "edges"), ("copy.png", "edges"), ("mask.png", "mask"), ("notes.txt", "notes")]
        {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let images = Images::of(folder.path().to_owned());
        let digest = |text: &str| Digest::of_bytes(text.as_bytes()).to_string();
        let found = images.find(&[digest("mask"), digest("edges")]).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|(digest, bytes)| Digest::of_bytes(bytes) == *digest));
        assert!(images.find(&[digest("mask"), digest("a checkpoint")]).await.is_none());
        assert!(images.find(&[digest("notes")]).await.is_none(), "no PNG by its name");
        assert!(images.find(&["nonsense".to_owned()]).await.is_none());
        assert!(Images::default().find(&[digest("mask")]).await.is_none());
    }
}
