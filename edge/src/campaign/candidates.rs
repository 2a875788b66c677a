//! Candidates: pictures that were posted to the admin API and wait for a person's `import`.
//!
//! Owns a folder of the edge's data: for each candidate its file and a record of what was said of it, under the id of its
//! recipe. Invariants: a candidate serves nothing, its recipe stands in no lock; what is stored can be imported, because
//! it was decoded and fits its slot; the folder is bounded.

use std::io;
use std::path::{Path, PathBuf};

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::ImportRecipe;
use serde::{Deserialize, Serialize};

use crate::render::OriginalFormat;

/// Most candidates at a time.
pub const CANDIDATES_MAX: usize = 64;

/// A picture that may become a variant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Of its recipe.
    pub id: RecipeId,
    /// As `bildkante-edge import --variant` takes it.
    pub variant: String,
    pub recipe: ImportRecipe,
    /// Of its master.
    pub width_px: u32,
    pub height_px: u32,
    pub bytes: u64,
    /// Whose token posted it.
    pub by: String,
    pub at_unix_ms: u64,
    /// By which a repeated order is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Why a candidate is not stored.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    #[error("there are {CANDIDATES_MAX} candidates already: import or delete some")]
    Full,
    #[error("the candidate cannot be stored: {0}")]
    Io(#[from] io::Error),
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Candidates {
    folder: PathBuf,
}

impl Candidates {
    /// `data_dir` is `cache.disk_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("candidates") }
    }

    /// The newest first. Blocks for as many reads as there are candidates.
    #[must_use]
    pub fn list(&self) -> Vec<Candidate> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let records = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
        let mut candidates: Vec<Candidate> =
            records.filter_map(|path| serde_json::from_slice(&std::fs::read(path).ok()?).ok()).collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.at_unix_ms));
        candidates
    }

    /// A candidate and its file.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<(Candidate, PathBuf)> {
        let id: RecipeId = id.parse().ok()?;
        let candidate: Candidate = serde_json::from_slice(&std::fs::read(self.path(id, "json")).ok()?).ok()?;
        let file =
            OriginalFormat::ALL.map(|format| self.path(id, format.extension())).into_iter().find(|it| it.exists())?;
        Some((candidate, file))
    }

    /// Stores a candidate; the same one again is stored once. Blocks until it is on the device.
    ///
    /// # Errors
    /// When there are too many, or the device refuses.
    pub fn add(&self, candidate: &Candidate, format: OriginalFormat, file: &[u8]) -> Result<(), CandidateError> {
        let there = self.list();
        if there.len() >= CANDIDATES_MAX && !there.iter().any(|known| known.id == candidate.id) {
            return Err(CandidateError::Full);
        }
        std::fs::create_dir_all(&self.folder)?;
        durable::write(&self.path(candidate.id, format.extension()), &[file], Durability::Synced)?;
        let record = serde_json::to_vec_pretty(candidate).map_err(io::Error::other)?;
        Ok(durable::write(&self.path(candidate.id, "json"), &[&record], Durability::Synced)?)
    }

    /// Forgets a candidate; `false` where there is none of this id.
    pub fn remove(&self, id: &str) -> bool {
        let Ok(id) = id.parse::<RecipeId>() else { return false };
        // The record goes first: what is listed has its picture.
        if std::fs::remove_file(self.path(id, "json")).is_err() {
            return false;
        }
        for format in OriginalFormat::ALL {
            let _ = std::fs::remove_file(self.path(id, format.extension()));
        }
        true
    }

    fn path(&self, id: RecipeId, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bildkante_shared::ids::Digest;
    use bildkante_shared::import::{DigitalSource, ValidImport};

    fn candidate(n: u64) -> Candidate {
        let recipe = ImportRecipe::new(Digest::of_bytes(&n.to_le_bytes()), DigitalSource::DigitalCapture);
        let import = ValidImport::try_from(recipe).expect("valid");
        Candidate {
            id: import.id(),
            variant: "autumn/hero".into(),
            recipe: (*import).clone(),
            width_px: 8,
            height_px: 8,
            bytes: 4,
            by: "test".into(),
            at_unix_ms: n,
            key: None,
        }
    }

    #[test]
    fn candidates_survive_are_found_and_are_forgotten_on_demand() {
        let dir = tempfile::tempdir().expect("a folder");
        let candidates = Candidates::new(dir.path());
        assert!(candidates.list().is_empty());
        for n in [1, 2] {
            candidates.add(&candidate(n), OriginalFormat::Jpeg, b"file").expect("stored");
        }
        candidates.add(&candidate(2), OriginalFormat::Jpeg, b"file").expect("once more");
        let candidates = Candidates::new(dir.path());
        assert_eq!(candidates.list(), [candidate(2), candidate(1)]);
        let id = candidate(1).id.to_string();
        let (found, file) = candidates.find(&id).expect("there");
        assert_eq!((found, std::fs::read(file).expect("a file")), (candidate(1), b"file".to_vec()));
        assert!(candidates.remove(&id) && !candidates.remove(&id));
        assert!(candidates.find(&id).is_none() && candidates.find("../../etc/passwd").is_none());
        assert_eq!(std::fs::read_dir(dir.path().join("candidates")).expect("a folder").count(), 2);
    }

    #[test]
    fn the_folder_is_bounded() {
        let dir = tempfile::tempdir().expect("a folder");
        let candidates = Candidates::new(dir.path());
        for n in 0..CANDIDATES_MAX as u64 {
            candidates.add(&candidate(n), OriginalFormat::Png, b"x").expect("room");
        }
        assert!(matches!(candidates.add(&candidate(1_000), OriginalFormat::Png, b"x"), Err(CandidateError::Full)));
        candidates.add(&candidate(3), OriginalFormat::Png, b"x").expect("it is there already");
    }
}
