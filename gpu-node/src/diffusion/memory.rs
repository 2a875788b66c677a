//! How much memory a drawing takes beside its networks, before anything is computed.
//!
//! Counted from the configurations: the feature maps that are alive at the most crowded place of a pass or a decoding, and
//! what kernels need to reorder them. It is an upper estimate, to refuse what cannot fit and to hold back what does not fit
//! beside others; a device that is out of memory all the same fails that drawing ([`super::fault::Fault::OutOfMemory`]).
//! `gpu-node/tests/memory.rs` compares it with what a process really takes.

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use tch::{Device, Kind};

use super::config::{MidBlock, UnetConfig, VaeConfig};
use super::vae::VaeKinds;

/// Tokens of one chunk of a prompt.
const CHUNK_TOKENS: u64 = 77;
/// No vocabulary is so poor that a chunk holds fewer bytes.
const CHUNK_BYTES_MIN: usize = 75;
/// What is kept of a request's latents: noise, two former outputs, an image and its mask, each in float32.
const LATENTS_KEPT: u64 = 8;

/// What a checkpoint's networks take for a drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Footprint {
    pub(super) unet: UnetConfig,
    pub(super) vae: VaeConfig,
    pub(super) vae_kinds: VaeKinds,
    pub(super) kind: Kind,
    pub(super) device: Device,
    pub(super) vae_tiles_px: Option<u32>,
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

impl Footprint {
    /// Of a recipe, and a pass of `requests` requests like it.
    #[must_use]
    pub fn need(&self, recipe: &ValidRecipe, requests: u64) -> Need {
        let factor = whole(self.vae.factor()).max(1);
        let (width_px, height_px) = (u64::from(recipe.width_px), u64::from(recipe.height_px));
        let latents = (height_px / factor, width_px / factor);
        let rows = if recipe.is_guided() { 2 } else { 1 };
        let element = element_bytes(self.kind);
        let longest = recipe.prompt.len().max(recipe.negative_prompt.len());
        let tokens = CHUNK_TOKENS * (1 + (longest / CHUNK_BYTES_MIN) as u64);
        let latents_bytes = LATENTS_KEPT * area(latents) * whole(self.unet.in_channels) * 4;
        let controls = recipe.controls.len() as u64;
        // One at a time: what is made of them is kept instead.
        let images_bytes = (controls.min(1) + 1) * 3 * width_px * height_px * 4;
        let finest = self.unet.levels.first().map_or(0, |level| whole(level.channels));
        let controls_bytes = controls * finest * area(latents) * element;
        // A ControlNet looks at the text on its way down; no more than the whole network does.
        let text_bytes = (1 + controls) * rows * tokens * self.text_width() * element;
        let pass = self.pass_elements(latents) + controls.min(1) * 2 * self.skip_elements(latents);
        Need {
            held_bytes: latents_bytes + images_bytes + controls_bytes + text_bytes,
            pass_bytes: requests.max(1) * rows * pass * element,
            picture_bytes: self.picture_bytes((height_px, width_px)),
        }
    }

    /// Keys and values of one token, in all attentions.
    fn text_width(&self) -> u64 {
        let levels = self.unet.levels.iter().map(|level| {
            let each = 2 * whole(level.channels) * whole(level.transformer_layers);
            let down = if level.down_has_attention { whole(level.layers) } else { 0 };
            let up = if level.up_has_attention { whole(level.layers) + 1 } else { 0 };
            each * (down + up) * if level.only_cross_attention { 2 } else { 1 }
        });
        let middle = match (self.unet.mid_block, self.unet.levels.last()) {
            (MidBlock::CrossAttention, Some(level)) => 2 * whole(level.channels) * whole(level.transformer_layers),
            _ => 0,
        };
        levels.sum::<u64>() + middle
    }

    /// What a UNet keeps for its way up, of one row.
    fn skip_elements(&self, latents: (u64, u64)) -> u64 {
        let levels = &self.unet.levels;
        let finest = levels.first().map_or(0, |level| whole(level.channels));
        let of_levels = levels.iter().enumerate().map(|(at, level)| {
            let below = if at + 1 < levels.len() { area(halved(latents, at + 1)) } else { 0 };
            whole(level.channels) * (whole(level.layers) * area(halved(latents, at)) + below)
        });
        finest * area(latents) + of_levels.sum::<u64>()
    }

    /// The most crowded moment of a pass, of one row.
    fn pass_elements(&self, latents: (u64, u64)) -> u64 {
        let levels = &self.unet.levels;
        let busiest = levels.iter().enumerate().map(|(at, level)| {
            let channels = whole(level.channels);
            let below = levels.get(at + 1).map_or(channels, |level| whole(level.channels));
            let resnet = resnet_channels(below + channels, channels);
            // Input, norm, tokens, the feed-forward's two halves and their product.
            let transformer = if level.down_has_attention || level.up_has_attention { 17 * channels } else { 0 };
            resnet.max(transformer) * area(halved(latents, at))
        });
        self.skip_elements(latents) + busiest.max().unwrap_or(0)
    }

    /// The most crowded moment of the autoencoder.
    fn picture_bytes(&self, picture: (u64, u64)) -> u64 {
        let element = element_bytes(self.vae_kinds.decoder).max(element_bytes(self.vae_kinds.encoder));
        let tile = |side: u64| self.vae_tiles_px.map_or(side, |tile| side.min(u64::from(tile)));
        let at_once = (tile(picture.0), tile(picture.1));
        let channels = &self.vae.channels;
        let busiest = channels.iter().enumerate().map(|(at, own)| {
            let (own, below) = (whole(*own), whole(*channels.get(at + 1).unwrap_or(own)));
            resnet_channels(below, own) * area(halved(at_once, at))
        });
        let attention = match self.device {
            // Its one head is too wide for kernels that never write the scores out.
            Device::Cuda(_) if self.vae.mid_block_has_attention => {
                let tokens = area(halved(at_once, channels.len().saturating_sub(1)));
                2 * tokens * tokens
            }
            _ => 0,
        };
        let maps = busiest.max().unwrap_or(0).max(attention);
        // The picture as it comes out, between 0 and 1, and in bytes.
        maps * element + 3 * area(picture) * (2 * element + 4 + 1)
    }
}

/// Channels that are alive in a ResNet block: its input, what is behind each norm and convolution, and what kernels reorder
/// and write besides, which is another amount on another processor: measured with AVX2, and a third more.
const fn resnet_channels(inputs: u64, outputs: u64) -> u64 {
    4 * inputs + 8 * outputs
}

/// The memory of a device, and what its checkpoints take of it.
#[derive(Debug, Clone, Default)]
pub struct MemoryLimits {
    /// For drawings, beside the networks; `None`: unknown, and nothing is refused.
    pub budget_bytes: Option<u64>,
    pub footprints: Vec<(Digest, Footprint)>,
}

/// A recipe that cannot be drawn on this device, whatever else it does.
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

impl MemoryLimits {
    /// What a recipe takes in a pass of so many requests; nothing where its checkpoints are not known.
    #[must_use]
    pub fn need(&self, recipe: &ValidRecipe, requests: u64) -> Need {
        let refiner = recipe.refiner.as_ref().map(|refiner| refiner.checkpoint);
        let stages = std::iter::once(recipe.checkpoint).chain(refiner);
        let footprints = stages.filter_map(|digest| self.footprints.iter().find(|(known, _)| *known == digest));
        footprints.map(|(_, footprint)| footprint.need(recipe, requests)).fold(Need::default(), Need::larger)
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

/// Sides after so many halvings, rounded up.
fn halved((height, width): (u64, u64), times: usize) -> (u64, u64) {
    let divisor = 1_u64 << times.min(32);
    (height.div_ceil(divisor), width.div_ceil(divisor))
}

const fn area((height, width): (u64, u64)) -> u64 {
    height * width
}

fn whole(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn element_bytes(kind: Kind) -> u64 {
    kind.elt_size_in_bytes() as u64
}
