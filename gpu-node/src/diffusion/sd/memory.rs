//! How much memory a drawing takes beside its networks, before anything is computed.
//!
//! Counted from the configurations: the feature maps that are alive at the most crowded place of a pass or a decoding, and what
//! kernels need to reorder them. It is an upper estimate, to refuse what cannot fit and to hold back what does not fit beside
//! others; a device that is out of memory all the same fails that drawing
//! ([`Fault::OutOfMemory`](crate::diffusion::fault::Fault::OutOfMemory)). `gpu-node/tests/memory.rs` compares it with what a
//! process really takes.

use bildkante_shared::recipe::ValidRecipe;
use tch::{Device, Kind};

use crate::capacity::{Footprint, Need};

use crate::diffusion::sd::config::{MidBlock, UnetConfig};
use crate::diffusion::vae::VaeKinds;
use crate::diffusion::vae::config::VaeConfig;

/// Tokens of one chunk of a prompt.
const CHUNK_TOKENS: u64 = 77;
/// No vocabulary is so poor that a chunk holds fewer bytes.
const CHUNK_BYTES_MIN: usize = 75;
/// What is kept of a request's latents: noise, two former outputs, an image and its mask, each in float32.
const LATENTS_KEPT: u64 = 8;

/// What a checkpoint's networks take for a drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetFootprint {
    pub(crate) unet: UnetConfig,
    pub(crate) vae: VaeConfig,
    pub(crate) vae_kinds: VaeKinds,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
    pub(crate) vae_tiles_px: Option<u32>,
}

impl Footprint for UnetFootprint {
    fn need(&self, recipe: &ValidRecipe, requests: u64) -> Need {
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
}

impl UnetFootprint {
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
