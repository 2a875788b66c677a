//! `manifest.json` of a batch: what was drawn, and as which pixels.
//!
//! Invariant: it is written whole after every picture, by a rename, so that a run that is stopped goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::recipe::Recipe;
use bildkante_shared::wire::Determinism;
use serde::{Deserialize, Serialize};

use super::plan::Planned;
use crate::engine::Finished;
use crate::store::decode_png;

const FILE: &str = "manifest.json";

/// A picture that was drawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    file: String,
    name: String,
    seed: u32,
    pub(super) recipe_id: RecipeId,
    /// Of the file's pixels.
    master_id: MasterId,
    determinism: Determinism,
    recipe: Recipe,
}

impl Entry {
    pub(super) fn of(picture: &Planned, finished: &Finished) -> Self {
        Self {
            file: picture.file(),
            name: picture.name.clone(),
            seed: picture.recipe.seed,
            recipe_id: picture.recipe.id(),
            master_id: finished.pixels.master_id(),
            determinism: finished.determinism.clone(),
            recipe: Recipe::clone(&picture.recipe),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Pictures {
    pictures: Vec<Entry>,
}

/// The manifest of a folder.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
    /// By their files.
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// What a former run has left there.
    ///
    /// # Errors
    /// When there is a manifest that is none.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let pictures = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice::<Pictures>(&bytes).with_context(|| path.display().to_string())?.pictures
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let entries = pictures.into_iter().map(|entry| (entry.file.clone(), entry)).collect();
        Ok(Self { folder: folder.to_owned(), entries })
    }

    /// The entry of a picture that was drawn by this recipe.
    pub(super) fn entry(&self, picture: &Planned) -> Option<&Entry> {
        self.entries.get(&picture.file()).filter(|entry| entry.recipe_id == picture.recipe.id())
    }

    /// Whether a picture was drawn by this recipe and its file still has these pixels.
    pub(super) fn holds(&self, picture: &Planned) -> bool {
        let Some(entry) = self.entry(picture) else { return false };
        let png = fs::read(self.folder.join(&entry.file));
        png.is_ok_and(|png| decode_png(&png).is_ok_and(|pixels| pixels.master_id() == entry.master_id))
    }

    /// # Errors
    /// When the manifest cannot be written.
    pub(super) fn add(&mut self, entry: Entry) -> anyhow::Result<()> {
        self.entries.insert(entry.file.clone(), entry);
        let pictures = Pictures { pictures: self.entries.values().cloned().collect() };
        let bytes = serde_json::to_vec_pretty(&pictures)?;
        let path = self.folder.join(FILE);
        durable::write(&path, &[&bytes], Durability::Unsynced).with_context(|| path.display().to_string())
    }
}
