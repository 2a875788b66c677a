//! `v`: what a pinned URL promises.
//!
//! The version is a digest over everything that decides the bytes behind a URL: the recipe, the master bound to
//! it, what of the slot shapes renditions, what is embedded, and the encoders' epoch. URLs carry a prefix. Only
//! the current version pins; any other is answered like none. Alt texts, labels and titles are no part of it.

use bildkante_shared::ids::{Digest, MasterId, RecipeId};

use super::cuts::Cut;
use super::layers::SlotLayers;
use super::manifest::PromptPublication;
use super::slots::Slot;
use crate::render::{ENCODER_EPOCH, Finish};

/// Characters of a version as markup prints it: 48 bits.
pub const VERSION_CHARS: usize = 12;
/// Shortest prefix that pins a URL: a chance of one in four thousand million to be current by accident.
pub const VERSION_CHARS_MIN: usize = 8;

/// A current version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// `shape` is the slot's [`rendition_digest`].
    #[must_use]
    pub fn new(recipe: RecipeId, master: MasterId, shape: &Digest) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante version 1");
        hasher.update(recipe.as_bytes()).update(master.as_bytes()).update(shape.as_bytes());
        Self(Digest::from_hash(&hasher.finalize()).to_hex())
    }

    /// What goes into URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0[..VERSION_CHARS]
    }

    /// Whether a URL's `v` names this version.
    #[must_use]
    pub fn is_named_by(&self, asked: &str) -> bool {
        asked.len() >= VERSION_CHARS_MIN && self.0.starts_with(asked)
    }
}

/// Everything of a slot and a campaign that decides which bytes a URL of it gets.
#[must_use]
pub(crate) fn rendition_digest(
    slot: &Slot,
    finish: &Finish,
    prompt: Option<&PromptPublication>,
    layers: Option<&SlotLayers>,
) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(&ENCODER_EPOCH.to_le_bytes());
    add(slot.framing.cut_words().as_bytes());
    // How far a signed URL may have the master enlarged.
    add(&slot.upscale_max.to_bits().to_le_bytes());
    for width in slot.framing.widths.iter().chain([&slot.framing.default_width_px]) {
        add(&width.to_le_bytes());
    }
    for format in slot.formats.iter() {
        add(format.as_str().as_bytes());
    }
    for quality in &slot.qualities {
        add(&[quality.get()]);
    }
    add(finish.digest().as_bytes());
    // A published prompt stands in the finish of each variant.
    if let Some(PromptPublication { writer }) = prompt {
        add(&[u8::from(writer.is_some())]);
        add(writer.as_deref().unwrap_or_default().as_bytes());
    }
    for Cut { name, framing, .. } in &slot.cuts {
        add(name.as_bytes());
        add(framing.cut_words().as_bytes());
        for width in framing.widths.iter().chain([&framing.default_width_px]) {
            add(&width.to_le_bytes());
        }
        // The slot's own stands in the finish.
        if let Some(bytes_max) = framing.bytes_max {
            add(b"bytes_max");
            add(&bytes_max.get().to_le_bytes());
        }
    }
    if let Some(layers) = layers {
        add(b"layers");
        add(layers.digest().as_bytes());
    }
    Digest::from_hash(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_name_a_version_when_they_are_long_enough() {
        let shape = Digest::of_bytes(b"shape");
        let recipe = RecipeId::of_bytes(b"recipe");
        let version = Version::new(recipe, MasterId::of_bytes(b"master"), &shape);
        let other = Version::new(recipe, MasterId::of_bytes(b"another"), &shape);
        assert!(version.is_named_by(version.as_str()));
        assert!(version.is_named_by(&version.as_str()[..VERSION_CHARS_MIN]));
        assert!(!version.is_named_by(&version.as_str()[..VERSION_CHARS_MIN - 1]));
        assert!(!version.is_named_by("") && !version.is_named_by(other.as_str()));
    }
}
