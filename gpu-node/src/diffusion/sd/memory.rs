//! How much memory a drawing takes beside its networks, before anything is computed.
//!
//! Counted from the configurations: the feature maps that are alive at the most crowded place of a pass or a decoding, and what
//! kernels need to reorder them. It is an upper estimate, to refuse what cannot fit and to hold back what does not fit beside
//! others; a device that is out of memory all the same fails that drawing
//! ([`Fault::OutOfMemory`](crate::diffusion::fault::Fault::OutOfMemory)). `gpu-node/tests/memory.rs` compares it with what a
//! process really takes.

use bildkante_shared::recipe::ValidRecipe;
use tch::{Device, Kind};

use crate::capacity::{Footprint, Need, Readers};

use crate::diffusion::sd::config::{MidBlock, UnetConfig};
use crate::diffusion::vae::VaeKinds;
use crate::diffusion::vae::config::VaeConfig;

/// Tokens of one chunk of a prompt.
const CHUNK_TOKENS: u64 = 77;
/// No vocabulary is so poor that a chunk holds fewer bytes.
const CHUNK_BYTES_MIN: usize = 75;
/// What is kept of a request's latents: noise, two former outputs, an image and its mask, each in float32.
const LATENTS_KEPT: u64 = 8;

const FLOAT_BYTES: u64 = 4;

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
    fn need(&self, recipe: &ValidRecipe, requests: u64, readers: &Readers) -> Need {
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
        let seen = self.seen(recipe, latents, readers);
        Need {
            held_bytes: latents_bytes + images_bytes + controls_bytes + text_bytes + rows * seen.held_bytes,
            pass_bytes: requests.max(1) * rows * (pass * element + seen.pass_bytes),
            picture_bytes: self.picture_bytes(recipe).max(seen.picture_bytes),
        }
    }
}

impl UnetFootprint {
    /// What reference images take, of one row: their keys and values are held, a pass adds up in float32 what attentions find in
    /// them, and before the first pass an encoder reads them one by one.
    fn seen(&self, recipe: &ValidRecipe, latents: (u64, u64), readers: &Readers) -> Need {
        if recipe.references.is_empty() {
            return Need::default();
        }
        let width = whole(self.unet.cross_attention_dim);
        let adapters = recipe.references.iter().filter_map(|used| readers.adapters.get(&used.adapter));
        let tokens: u64 = adapters.map(|seen| seen.of_width(width)).sum();
        let masks = recipe.references.iter().filter(|used| used.mask.is_some()).count() as u64;
        let encoders = recipe.references.iter().filter_map(|used| readers.encoders.get(&used.encoder));
        let maps = self.unet.levels.iter().enumerate().map(|(at, level)| {
            let has_attention = level.down_has_attention || level.up_has_attention;
            if has_attention { whole(level.channels) * area(halved(latents, at)) } else { 0 }
        });
        Need {
            held_bytes: tokens * self.text_width() * element_bytes(self.kind) + masks * area(latents) * FLOAT_BYTES,
            // What was found in one image, the same where its mask is white, and two sums; gates of all areas.
            pass_bytes: FLOAT_BYTES * (4 * maps.max().unwrap_or(0) + 2 * masks * area(latents)),
            picture_bytes: encoders.copied().max().unwrap_or(0),
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
    fn picture_bytes(&self, recipe: &ValidRecipe) -> u64 {
        let picture = (u64::from(recipe.height_px), u64::from(recipe.width_px));
        let VaeKinds { encoder, decoder } = self.vae_kinds;
        // Only what begins with a picture is encoded, and that may be in a wider kind. Later parts of a recipe do.
        let encoder = recipe.init.as_ref().map_or(0, |_| element_bytes(encoder));
        let element = element_bytes(decoder).max(encoder);
        let tile = |side: u64| self.vae_tiles_px.map_or(side, |tile| side.min(u64::from(tile)));
        let at_once = (tile(picture.0), tile(picture.1));
        let channels = &self.vae.channels;
        let busiest = channels.iter().enumerate().map(|(at, own)| {
            let (own, below) = (whole(*own), whole(*channels.get(at + 1).unwrap_or(own)));
            resnet_channels(below, own) * area(halved(at_once, at))
        });
        let deepest = self.vae.channels.last().copied().map_or(0, whole);
        let attention = match self.device {
            // Its one head is too wide for flash attention and cuDNN's. The memory-efficient kernel takes any width that is a multiple
            // of this alignment, and writes no scores out (PyTorch, `sdp_utils.cpp`, `check_head_dim_size_mem_efficient`).
            Device::Cuda(_) if self.vae.mid_block_has_attention && deepest % HEAD_ALIGNMENT != 0 => {
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

/// Elements of half precision that CUTLASS reads at once, 16 bytes; of float32 it reads half as many.
const HEAD_ALIGNMENT: u64 = 8;

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bildkante_shared::ids::Digest;
    use bildkante_shared::recipe::{InitUse, Recipe, ReferenceUse};

    use super::*;
    use crate::capacity::SeenTokens;
    use crate::diffusion::dtype::DType;
    use crate::diffusion::sd::checkpoint::Checkpoint;

    #[test]
    fn reference_images_count_what_their_readers_make_of_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny");
        let footprint = Checkpoint::load(&folder, Device::Cpu, DType::F32).expect("it is whole").footprint();
        let [adapter, encoder, image] = [b"adapter", b"encoder", b"picture"].map(|name| Digest::of_bytes(name));
        let used = ReferenceUse { adapter, encoder, image, weight: 1.0, start: 0.0, end: 1.0, mask: None };
        let need = |references: Vec<ReferenceUse>, seen: SeenTokens, reading: u64| {
            let recipe = Recipe { references, ..Recipe::new(image, "a mug", (64, 64)) };
            let recipe = ValidRecipe::try_from(recipe).expect("a recipe");
            let readers = Readers { adapters: [(adapter, seen)].into(), encoders: [(encoder, reading)].into() };
            footprint.need(&recipe, 1, &readers)
        };
        let plain = need(Vec::new(), SeenTokens::Tokens(16), 1 << 30);
        let four = need(vec![used.clone()], SeenTokens::Tokens(4), 0);
        let sixteen = need(vec![used.clone()], SeenTokens::Tokens(16), 1 << 30);
        let masked = need(vec![ReferenceUse { mask: Some(image), ..used.clone() }], SeenTokens::Tokens(16), 1 << 30);
        let two = need(vec![used.clone(), used], SeenTokens::Tokens(16), 1 << 30);
        // Two rows of keys and values of float32 for each token.
        let a_token = 2 * footprint.text_width() * 4;
        assert_eq!(
            (four.held_bytes - plain.held_bytes, sixteen.held_bytes - plain.held_bytes),
            (4 * a_token, 16 * a_token)
        );
        assert_eq!(two.held_bytes - plain.held_bytes, 32 * a_token);
        assert!(sixteen.pass_bytes > plain.pass_bytes && masked.pass_bytes > sixteen.pass_bytes);
        assert!(masked.held_bytes > sixteen.held_bytes);
        assert_eq!((plain.picture_bytes, four.picture_bytes), (four.picture_bytes, plain.picture_bytes), "no encoder");
        assert_eq!(sixteen.picture_bytes, 1 << 30, "larger than any other moment");
    }

    #[test]
    fn an_encoder_in_a_wider_kind_counts_where_a_picture_is_encoded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny");
        let footprint = Checkpoint::load(&folder, Device::Cpu, DType::BF16).expect("it is whole").footprint();
        let image = Digest::of_bytes(b"picture");
        let plain = Recipe::new(image, "a mug", (64, 64));
        let from_picture = Recipe { init: Some(InitUse { image, strength: 0.5 }), ..plain.clone() };
        let need = |recipe: &Recipe, encoder: Kind| {
            let vae_kinds = VaeKinds { encoder, decoder: Kind::BFloat16 };
            let recipe = ValidRecipe::try_from(recipe.clone()).expect("a recipe");
            UnetFootprint { vae_kinds, ..footprint.clone() }.need(&recipe, 1, &Readers::default()).picture_bytes
        };
        assert_eq!(need(&plain, Kind::Float), need(&plain, Kind::BFloat16), "nothing is encoded");
        assert!(need(&from_picture, Kind::Float) > need(&from_picture, Kind::BFloat16));
    }

    #[test]
    fn scores_of_the_autoencoder_count_where_no_kernel_keeps_them_to_itself() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny");
        let footprint = Checkpoint::load(&folder, Device::Cpu, DType::F32).expect("it is whole").footprint();
        let recipe = Recipe::new(Digest::of_bytes(b"checkpoint"), "a mug", (2_048, 2_048));
        let recipe = ValidRecipe::try_from(recipe).expect("a recipe");
        let of = |device: Device, deepest: i64| {
            let mut vae = footprint.vae.clone();
            vae.mid_block_has_attention = true;
            *vae.channels.last_mut().expect("levels") = deepest;
            let footprint = UnetFootprint { vae, device, vae_tiles_px: None, ..footprint.clone() };
            footprint.need(&recipe, 1, &Readers::default()).picture_bytes
        };
        assert_eq!(of(Device::Cuda(0), 512), of(Device::Cpu, 512), "as every autoencoder in use: 512 wide");
        assert!(of(Device::Cuda(0), 516) > 4 * of(Device::Cpu, 516), "a width that only plain products take");
    }

    #[test]
    fn values_are_tokens_of_the_networks_width() {
        assert_eq!(SeenTokens::Values(4 * 768).of_width(768), 4);
        assert_eq!(SeenTokens::Tokens(16).of_width(768), 16);
        assert_eq!(SeenTokens::Values(7).of_width(0), 7);
    }
}
