//! What a picture is made of, as far as a person may take it out of circulation: checkpoints, adapters, words of prompt
//! libraries, an original.
//!
//! A variant's parts follow from manifest and lock. A binding keeps those of its recipe, because a picture outlives the
//! manifest that it was drawn for.

use bildkante_shared::ids::Digest;
use bildkante_shared::import::MasterRecipe;
use serde::{Deserialize, Serialize};

use super::slots::Slot;

/// See the module's documentation. Each list is sorted and holds nothing twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parts {
    /// The checkpoint, its refiner and its ControlNets, as recipes name them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<Digest>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<Digest>,
    /// Blocks, styles and negative lists: `library/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<String>,
    /// Of the original file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<Digest>,
}

impl Parts {
    /// Of a recipe of this slot.
    pub(super) fn of(slot: &Slot, recipe: &MasterRecipe) -> Self {
        match recipe {
            MasterRecipe::Drawn(recipe) => {
                let refiner = recipe.refiner.iter().map(|refiner| refiner.checkpoint);
                let networks = recipe.controls.iter().map(|control| control.network);
                let words = slot.drawn().into_iter().flat_map(|generate| &generate.words);
                Self {
                    checkpoints: sorted(std::iter::once(recipe.checkpoint).chain(refiner).chain(networks)),
                    adapters: sorted(recipe.loras.iter().map(|lora| lora.digest)),
                    blocks: sorted(words.map(|words| format!("{}/{}", words.library, words.name))),
                    import: None,
                }
            }
            MasterRecipe::Imported(import) => Self { import: Some(import.import), ..Self::default() },
            MasterRecipe::Awaited(_) => Self::default(),
        }
    }
}

fn sorted<T: Ord>(parts: impl Iterator<Item = T>) -> Vec<T> {
    let mut parts: Vec<T> = parts.collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}
