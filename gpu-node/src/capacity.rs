//! What a device's memory holds: how much a drawing needs, and whether it fits.
//!
//! The engine that owns a device fills a [`Capacity`] in; admission asks the copy that health keeps, without waiting for the
//! device's thread. Where a budget or a checkpoint is not known, everything fits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;

/// How much memory a checkpoint's networks take for a drawing. A family of models counts it from its configurations.
pub trait Footprint: fmt::Debug + Send + Sync {
    /// Of a recipe whose reference images are read by these, and a pass of `requests` requests like it.
    fn need(&self, recipe: &ValidRecipe, requests: u64, readers: &Readers) -> Need;
}

/// What reads reference images, as far as it decides how much memory they take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readers {
    /// By the digests of IP-Adapters: what a denoising network is given to look at.
    pub adapters: BTreeMap<Digest, SeenTokens>,
    /// By the digests of image encoders: bytes while one reads a picture.
    pub encoders: BTreeMap<Digest, u64>,
}

/// What an IP-Adapter makes of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenTokens {
    Tokens(u64),
    /// So many values, in tokens of the network's own width.
    Values(u64),
}

impl SeenTokens {
    /// In a network whose tokens have this width.
    #[must_use]
    pub const fn of_width(self, width: u64) -> u64 {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Values(values) => values.div_ceil(if width == 0 { 1 } else { width }),
        }
    }
}

/// The bytes of one drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// From its beginning to its end.
    pub held_bytes: u64,
    /// During a pass it is part of.
    pub pass_bytes: u64,
    /// While its picture is decoded, or an image encoded.
    pub picture_bytes: u64,
}

impl Need {
    /// At its most crowded moment.
    #[must_use]
    pub const fn peak_bytes(&self) -> u64 {
        let moment = if self.pass_bytes > self.picture_bytes { self.pass_bytes } else { self.picture_bytes };
        self.held_bytes.saturating_add(moment)
    }

    fn larger(self, other: Self) -> Self {
        Self {
            held_bytes: self.held_bytes.max(other.held_bytes),
            pass_bytes: self.pass_bytes.max(other.pass_bytes),
            picture_bytes: self.picture_bytes.max(other.picture_bytes),
        }
    }
}

/// The memory of a device, and what its checkpoints take of it.
#[derive(Debug, Clone, Default)]
pub struct Capacity {
    /// For drawings, beside the networks; `None`: unknown, and nothing is refused.
    pub budget_bytes: Option<u64>,
    pub footprints: Vec<(Digest, Arc<dyn Footprint>)>,
    pub readers: Arc<Readers>,
}

/// A recipe that cannot be drawn on this device, even when it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{width_px}×{height_px} px need about {} MiB beside the networks, and the device has {} MiB for drawings: ask for a smaller \
     picture, or set `vae_tiles_px` or `memory_bytes_max`",
    .need_bytes >> 20, .budget_bytes >> 20
)]
pub struct TooLarge {
    pub width_px: u32,
    pub height_px: u32,
    pub need_bytes: u64,
    pub budget_bytes: u64,
}

impl Capacity {
    /// What a recipe takes in a pass of so many requests, in its largest part; nothing where its checkpoints are not known.
    #[must_use]
    pub fn need(&self, recipe: &ValidRecipe, requests: u64) -> Need {
        let needs = recipe.each_part().flat_map(|part| {
            let refiner = part.refiner.as_ref().map(|refiner| refiner.checkpoint);
            let stages = std::iter::once(part.checkpoint).chain(refiner);
            let footprints = stages.filter_map(|digest| self.footprints.iter().find(|(known, _)| *known == digest));
            footprints.map(move |(_, footprint)| footprint.need(part, requests, &self.readers))
        });
        needs.fold(Need::default(), Need::larger)
    }

    /// # Errors
    /// When the recipe would not fit into an idle device.
    pub fn check(&self, recipe: &ValidRecipe) -> Result<(), TooLarge> {
        let Some(budget_bytes) = self.budget_bytes else { return Ok(()) };
        let need_bytes = self.need(recipe, 1).peak_bytes();
        if need_bytes <= budget_bytes {
            return Ok(());
        }
        Err(TooLarge { width_px: recipe.width_px, height_px: recipe.height_px, need_bytes, budget_bytes })
    }

    /// The most requests like this one, up to `most`, whose pass fits; at least one.
    #[must_use]
    pub fn requests_max(&self, recipe: &ValidRecipe, most: usize) -> usize {
        let Some(budget_bytes) = self.budget_bytes else { return most };
        let fits = |requests: &usize| {
            let need = self.need(recipe, *requests as u64);
            need.held_bytes.saturating_mul(*requests as u64).saturating_add(need.pass_bytes) <= budget_bytes
        };
        (1..=most).rev().find(fits).unwrap_or(1)
    }
}
