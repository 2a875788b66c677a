//! The CLIP image encoder: what networks that look at a picture read of it
//! (source: transformers 5, `models/clip/modeling_clip.py`, `CLIPVisionModelWithProjection`, and `CLIPImageProcessor`).
//!
//! A folder in transformers' layout: `config.json` and `model.safetensors`. A picture is resampled to the encoder's size as
//! Pillow does it, its shorter side to fit, and cut in the middle.

use std::path::Path;

use bildkante_shared::checkpoint::{Digests, FileDigests, digests, look};
use bildkante_shared::ids::Digest;
use serde_json::{Value, json};
use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::device::upload;
use crate::diffusion::fields::{ConfigError, Fields, LAYERS_MAX, WIDTH_MAX, check_divides};
use crate::diffusion::layers::attention::Mask;
use crate::diffusion::layers::{LayerNorm, Linear};
use crate::diffusion::loading::{CheckpointError, Placement, check_unchanged, folder_name, read_config};
use crate::diffusion::picture::Picture;
use crate::diffusion::text::clip::{EncoderLayer, EncoderShape};
use crate::diffusion::text::config::{ClipActivation, WITHOUT_EFFECT};
use crate::diffusion::weights::files;
use crate::diffusion::weights::{Scope, VarSource, WeightsError};

/// Largest side of the picture that an encoder reads.
const SIDE_PX_MAX: i64 = 1024;
/// A buffer of positions that older versions stored beside the weights.
const POSITION_IDS: &str = "vision_model.embeddings.position_ids";
/// What the pixels of CLIP's training were normalised with: mean and deviation of red, green and blue.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// `config.json` of a `CLIPVisionModelWithProjection`.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub layers: i64,
    pub heads: i64,
    /// Side of the picture it reads.
    pub image_px: i64,
    /// Side of what becomes one token.
    pub patch_px: i64,
    pub layer_norm_eps: f64,
    pub activation: ClipActivation,
    /// Width of the pooled embedding.
    pub projection_dim: i64,
}

impl VisionConfig {
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(json)?;
        fields.name("model_type", (), &[(Some("clip_vision_model"), ())])?;
        fields.only("num_channels", &json!(3))?;
        let activations = [(Some("quick_gelu"), ClipActivation::QuickGelu), (Some("gelu"), ClipActivation::Gelu)];
        let config = Self {
            hidden_size: fields.count("hidden_size", Some(768), WIDTH_MAX)?,
            intermediate_size: fields.count("intermediate_size", Some(3072), WIDTH_MAX)?,
            layers: fields.count("num_hidden_layers", Some(12), LAYERS_MAX)?,
            heads: fields.count("num_attention_heads", Some(12), WIDTH_MAX)?,
            image_px: fields.count("image_size", Some(224), SIDE_PX_MAX)?,
            patch_px: fields.count("patch_size", Some(32), SIDE_PX_MAX)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-5, (0.0, 1.0))?,
            activation: fields.name("hidden_act", ClipActivation::QuickGelu, &activations)?,
            projection_dim: fields.count("projection_dim", Some(512), WIDTH_MAX)?,
        };
        fields.finish(&[WITHOUT_EFFECT])?;
        check_divides("num_attention_heads", config.heads, config.hidden_size)?;
        check_divides("patch_size", config.patch_px, config.image_px)?;
        Ok(config)
    }

    /// Bytes at the most crowded moment of reading a picture, of values of so many bytes: pixels, then a layer's input, norms,
    /// query, key, value and the feed-forward's two sides.
    #[must_use]
    pub fn reading_bytes(&self, element_bytes: u64) -> u64 {
        let whole = |count: i64| u64::try_from(count).unwrap_or(0);
        let side = whole(self.image_px);
        let layer = whole(self.tokens()) * (8 * whole(self.hidden_size) + 2 * whole(self.intermediate_size));
        (layer + 3 * side * side) * element_bytes.max(4)
    }

    const fn tokens(&self) -> i64 {
        let side = self.image_px / self.patch_px;
        side * side + 1
    }
}

/// What an encoder reads of a picture.
#[derive(Debug)]
pub struct Seen {
    /// `[1, projection]`
    pub embedding: Tensor,
    /// The states before the last layer, `[1, tokens, hidden]`.
    pub states: Tensor,
}

/// An image encoder on its device.
#[derive(Debug)]
pub struct ImageEncoder {
    name: String,
    digests: Digests,
    config: VisionConfig,
    model: VisionModel,
    device: Device,
    kind: Kind,
}

impl ImageEncoder {
    /// Whether a folder claims to hold one.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        let config = folder.join("config.json");
        let json = crate::diffusion::fields::read_json(&config, crate::diffusion::fields::CONFIG_BYTES_MAX);
        json.is_ok_and(|json| json.get("model_type").is_some_and(|kind| kind == "clip_vision_model"))
    }

    /// # Errors
    /// As a checkpoint's.
    pub fn load(folder: &Path, placement: Placement) -> Result<Self, CheckpointError> {
        Self::load_known(folder, placement, &FileDigests::default())
    }

    /// The same with digests of files that are known already.
    ///
    /// # Errors
    /// As a checkpoint's.
    pub fn load_known(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        let Placement { device, dtype, .. } = placement;
        let kind = dtype.kind();
        let before = look(folder)?;
        let digests = digests(folder, known)?;
        let config = read_config(&folder.join("config.json"), VisionConfig::from_json)?;
        let mut weights = placement.open(&files::find(folder, "model")?, str::to_owned, kind)?;
        weights.take_positions(POSITION_IDS, config.tokens())?;
        let model = VisionModel::build(&mut weights, &config)?;
        weights.finish()?;
        check_unchanged(folder, &before)?;
        Ok(Self { name: folder_name(folder), digests, config, model, device, kind })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digests.current
    }

    /// What recipes may call it: its digest, and what that was before.
    pub const fn digests(&self) -> &Digests {
        &self.digests
    }

    #[must_use]
    pub const fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Bytes at the most crowded moment of reading a picture.
    #[must_use]
    pub fn reading_bytes(&self) -> u64 {
        self.config.reading_bytes(self.kind.elt_size_in_bytes() as u64)
    }

    /// What it reads of a picture of any size.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn see(&self, picture: &Picture) -> Result<Seen, TchError> {
        let side = u32::try_from(self.config.image_px).unwrap_or(u32::MAX);
        self.see_pixels(&normalised(&picture.squared(side))?)
    }

    /// What it reads of nothing: a picture whose normalised pixels are all zero, as the unconditional row is told.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn see_nothing(&self) -> Result<Seen, TchError> {
        let side = self.config.image_px;
        self.see_pixels(&Tensor::f_zeros([1, 3, side, side], (Kind::Float, Device::Cpu))?)
    }

    fn see_pixels(&self, pixels: &Tensor) -> Result<Seen, TchError> {
        let _no_grad = tch::no_grad_guard();
        self.model.forward(&upload(&pixels.f_to_kind(self.kind)?, self.device)?)
    }
}

/// `[1, 3, h, w]`
fn normalised(picture: &Picture) -> Result<Tensor, TchError> {
    let of = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_view([1, 3, 1, 1]);
    picture.unit()?.f_sub(&of(MEAN)?)?.f_div(&of(DEVIATION)?)
}

#[derive(Debug)]
struct VisionModel {
    class: Tensor,     // [hidden]
    patches: Tensor,   // [hidden, 3, p, p]
    positions: Tensor, // [tokens, hidden]
    norm_in: LayerNorm,
    layers: Vec<EncoderLayer>,
    norm_out: LayerNorm,
    projection: Linear, // hidden -> projection
    patch_px: i64,
}

impl VisionModel {
    fn build(source: &mut dyn VarSource, config: &VisionConfig) -> Result<Self, WeightsError> {
        let mut root = Scope::root(source);
        let hidden = config.hidden_size;
        let projection = Linear::load_unbiased(root.at("visual_projection"), hidden, config.projection_dim)?;
        let mut scope = root.at("vision_model");
        let mut embeddings = scope.at("embeddings");
        let class = embeddings.take("class_embedding", &[hidden])?;
        let patch = [hidden, 3, config.patch_px, config.patch_px];
        let patches = embeddings.take("patch_embedding.weight", &patch)?;
        let positions = embeddings.take("position_embedding.weight", &[config.tokens(), hidden])?;
        let shape = EncoderShape {
            hidden,
            inner: config.intermediate_size,
            heads: config.heads,
            eps: config.layer_norm_eps,
            activation: config.activation,
            mask: Mask::None,
        };
        let norm = |scope: Scope<'_>| LayerNorm::load(scope, hidden, config.layer_norm_eps);
        // As the files spell it.
        let norm_in = norm(scope.at("pre_layrnorm"))?;
        let mut stack = scope.at("encoder.layers");
        let layers = (0..config.layers).map(|i| EncoderLayer::load(stack.at(i), shape)).collect::<Result<_, _>>()?;
        let norm_out = norm(scope.at("post_layernorm"))?;
        Ok(Self { class, patches, positions, norm_in, layers, norm_out, projection, patch_px: config.patch_px })
    }

    fn forward(&self, pixels: &Tensor) -> Result<Seen, TchError> {
        let side = self.patch_px;
        let patches = pixels.f_conv2d(&self.patches, None::<&Tensor>, [side, side], [0, 0], [1, 1], 1)?;
        let patches = patches.f_flatten(2, 3)?.f_transpose(1, 2)?; // [1, patches, hidden]
        let class = self.class.f_view([1, 1, -1])?;
        let tokens = Tensor::f_cat(&[class, patches], 1)?.f_add(&self.positions)?;
        let mut x = self.norm_in.forward(&tokens)?;
        let mut before = x.shallow_clone();
        for layer in &self.layers {
            before = x;
            x = layer.forward(&before, None)?;
        }
        let pooled = self.norm_out.forward(&x.f_select(1, 0)?)?; // [1, hidden]
        Ok(Seen { embedding: self.projection.forward(&pooled)?, states: before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        let refused = |field: &str, value: Value| {
            let json = json!({ "model_type": "clip_vision_model", field: value });
            VisionConfig::from_json(&json).map_or_else(|error| error.to_string(), |_| "accepted".into())
        };
        assert_eq!(refused("initializer_range", json!(0.02)), "accepted");
        for (field, value) in [
            ("model_type", json!("siglip_vision_model")),
            ("num_channels", json!(4)),
            ("hidden_act", json!("relu")),
            ("image_size", json!(1_000_000)),
            ("patch_size", json!(33)),
            ("num_attention_heads", json!(7)),
            ("a_key_of_tomorrow", json!(1)),
        ] {
            let error = refused(field, value);
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
