//! Digests by the names that manifests use: what a lock pins, and what recipes are made of.

use std::collections::BTreeMap;

use bildkante_shared::ids::Digest;
use bildkante_shared::import::ValidImport;

/// Digests by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Refiners and ControlNets are folders beside the checkpoints and stand among them. Recipes are named after these digests.
    pub checkpoints: BTreeMap<String, Digest>,
    /// What the checkpoints' digests are today, where recipes are named after a former one: it stays, so that nothing is drawn
    /// again by an upgrade.
    pub loaded: BTreeMap<String, Digest>,
    pub adapters: BTreeMap<String, Digest>,
    pub images: BTreeMap<String, Digest>,
    /// Of the files of layers, by their paths. No recipe is named after them.
    pub layers: BTreeMap<String, Digest>,
    /// Grades of slots' looks.
    pub looks: BTreeMap<String, Digest>,
    /// By the names of their pictures (`campaign/slot?axis=value`). No `lock` forgets one: only a person takes it out.
    pub imports: BTreeMap<String, Import>,
}

/// A picture that a person brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub recipe: ValidImport,
    /// Of its master.
    pub width_px: u32,
    pub height_px: u32,
}

impl Pins {
    pub(super) fn tables(&self) -> [&BTreeMap<String, Digest>; 5] {
        [&self.checkpoints, &self.adapters, &self.images, &self.layers, &self.looks]
    }

    pub(super) fn checkpoint(&self, name: &str) -> Digest {
        pinned(&self.checkpoints, name)
    }

    pub(super) fn adapter(&self, name: &str) -> Digest {
        pinned(&self.adapters, name)
    }

    pub(super) fn image(&self, name: &str) -> Digest {
        pinned(&self.images, name)
    }

    /// The name of the image with a digest.
    #[must_use]
    pub fn image_named(&self, digest: Digest) -> Option<&str> {
        self.images.iter().find(|(_, known)| **known == digest).map(|(name, _)| name.as_str())
    }
}

fn pinned(table: &BTreeMap<String, Digest>, name: &str) -> Digest {
    // Reading the lock made sure that every name is in it.
    table.get(name).copied().unwrap_or_else(|| Digest::of_bytes(b""))
}
