//! T2I-Adapter (Mou et al. 2023): a small network that reads an image once, and whose features are added to what a denoising
//! network computes on its way down (source: diffusers 0.42, `models/adapter.py` and `models/unets/unet_2d_condition.py`).
//!
//! No step and no text changes its features, so they are computed once for a picture. Invariant: of each level, one feature.

use std::path::Path;

use bildkante_shared::checkpoint::{Digests, FileDigests, digests, look};
use bildkante_shared::ids::Digest;
use serde_json::{Value, json};
use tch::{TchError, Tensor};

use crate::diffusion::error::DiffusionError;
use crate::diffusion::fields::{CONFIG_BYTES_MAX, ConfigError, Fields, LAYERS_MAX, LEVELS_MAX, WIDTH_MAX, read_json};
use crate::diffusion::kept::Kept;
use crate::diffusion::layers::Conv2d;
use crate::diffusion::loading::{CheckpointError, Placement, check_unchanged, folder_name, read_config};
use crate::diffusion::weights::files;
use crate::diffusion::weights::{Scope, VarSource, WeightsError};

/// Bytes of features that are kept of pictures; one picture is always let in. At 1024² they take 21 MB in bfloat16.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most pixels of a side that become one.
const DOWNSCALE_MAX: i64 = 64;

/// How its levels follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdapterKind {
    /// Each level but the finest halves the sides.
    Full,
    /// Of Stable Diffusion XL: the third level alone halves them, and the finest begins at half the latents' sides.
    FullXl,
}

/// `config.json` of a `T2IAdapter`.
#[derive(Debug, Clone, PartialEq)]
pub struct T2iConfig {
    kind: AdapterKind,
    channels: Vec<i64>,
    resnets: i64,
    downscale: i64,
}

impl T2iConfig {
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(json)?;
        fields.name("_class_name", (), &[(Some("T2IAdapter"), ())])?;
        fields.only("in_channels", &json!(3))?;
        let kinds = [(Some("full_adapter"), AdapterKind::Full), (Some("full_adapter_xl"), AdapterKind::FullXl)];
        let config = Self {
            kind: fields.name("adapter_type", AdapterKind::Full, &kinds)?,
            channels: fields.channels("channels")?,
            resnets: fields.count("num_res_blocks", Some(2), LAYERS_MAX)?,
            downscale: fields.count("downscale_factor", Some(8), DOWNSCALE_MAX)?,
        };
        fields.finish(&[])?;
        debug_assert!(config.channels.len() <= LEVELS_MAX && config.channels.iter().all(|width| *width <= WIDTH_MAX));
        Ok(config)
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn factor(&self) -> u32 {
        let finest = match self.kind {
            AdapterKind::Full => self.downscale,
            AdapterKind::FullXl => self.downscale / 2,
        };
        u32::try_from(finest).unwrap_or(u32::MAX)
    }

    /// Channels that come into a level, and whether its sides are halved.
    fn level(&self, at: usize) -> (i64, bool) {
        let own = self.channels[at];
        let above = self.channels[at.saturating_sub(1)];
        match (self.kind, at) {
            (_, 0) => (own, false),
            (AdapterKind::Full, _) => (above, true),
            (AdapterKind::FullXl, 1) => (above, false),
            (AdapterKind::FullXl, 2) => (above, true),
            (AdapterKind::FullXl, _) => (own, false),
        }
    }
}

/// A T2I-Adapter on its device.
#[derive(Debug)]
pub struct T2iAdapter {
    name: String,
    digests: Digests,
    config: T2iConfig,
    conv_in: Conv2d,
    levels: Vec<Level>,
    kind: tch::Kind,
    /// What it made of pictures.
    embedded: Kept<Digest, Vec<Tensor>>,
}

impl T2iAdapter {
    /// Whether a folder claims to hold one.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        let json = read_json(&folder.join("config.json"), CONFIG_BYTES_MAX);
        json.is_ok_and(|json| json.get("_class_name").is_some_and(|class| class == "T2IAdapter"))
    }

    /// With digests of files that are known already.
    ///
    /// # Errors
    /// As a checkpoint's.
    pub fn load_known(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        let kind = placement.dtype.kind();
        let before = look(folder)?;
        let digests = digests(folder, known)?;
        let config = read_config(&folder.join("config.json"), T2iConfig::from_json)?;
        let mut weights = placement.open(&files::find(folder, "diffusion_pytorch_model")?, str::to_owned, kind)?;
        let (conv_in, levels) = build(&mut weights, &config)?;
        weights.finish()?;
        check_unchanged(folder, &before)?;
        let embedded = Kept::new(KEPT_BYTES_MAX);
        Ok(Self { name: folder_name(folder), digests, config, conv_in, levels, kind, embedded })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What recipes may call it: its digest, and what that was before.
    pub const fn digests(&self) -> &Digests {
        &self.digests
    }

    #[must_use]
    pub const fn config(&self) -> &T2iConfig {
        &self.config
    }

    /// Its features of an image `[n, 3, H, W]` of 0 to 1, from the finest level on.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn embed(&self, image: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut x = image.f_to_kind(self.kind)?.f_pixel_unshuffle(self.config.downscale)?;
        x = self.conv_in.forward(&x)?;
        let mut features = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            x = level.forward(&x)?;
            features.push(x.shallow_clone());
        }
        Ok(features)
    }

    /// The same of a picture by its digest, kept while it is asked for.
    pub(crate) fn embed_picture(
        &self,
        picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        self.embedded.get_or(picture, || Ok(self.embed(&image()?)?))
    }

    /// How many pictures it was shown for the first time, or again after it forgot them, since this was last asked.
    pub(crate) fn take_embedded(&self) -> u64 {
        self.embedded.take_made()
    }

    /// Gives back the memory of what is kept for pictures to come.
    pub(crate) fn forget_pictures(&self) {
        self.embedded.clear();
    }
}

fn build(source: &mut dyn VarSource, config: &T2iConfig) -> Result<(Conv2d, Vec<Level>), WeightsError> {
    let mut root = Scope::root(source);
    let mut scope = root.at("adapter");
    let pixels = 3 * config.downscale * config.downscale;
    let conv_in = Conv2d::load(scope.at("conv_in"), pixels, config.channels[0], 3)?;
    let mut stack = scope.at("body");
    let levels =
        (0..config.channels.len()).map(|at| Level::load(stack.at(at), config, at)).collect::<Result<_, _>>()?;
    Ok((conv_in, levels))
}

/// `AdapterBlock`
#[derive(Debug)]
struct Level {
    is_halved: bool,
    conv_in: Option<Conv2d>,
    /// A convolution, a ReLU and a 1×1 convolution around a residual.
    resnets: Vec<(Conv2d, Conv2d)>,
}

impl Level {
    fn load(mut scope: Scope<'_>, config: &T2iConfig, at: usize) -> Result<Self, WeightsError> {
        let (inputs, is_halved) = config.level(at);
        let width = config.channels[at];
        let conv_in = if inputs == width { None } else { Some(Conv2d::load(scope.at("in_conv"), inputs, width, 1)?) };
        let mut stack = scope.at("resnets");
        let resnet = |i: i64| {
            let mut scope = stack.at(i);
            Ok((Conv2d::load(scope.at("block1"), width, width, 3)?, Conv2d::load(scope.at("block2"), width, width, 1)?))
        };
        Ok(Self { is_halved, conv_in, resnets: (0..config.resnets).map(resnet).collect::<Result<_, _>>()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut x =
            if self.is_halved { x.f_avg_pool2d([2, 2], [2, 2], [0, 0], true, true, None)? } else { x.shallow_clone() };
        if let Some(conv_in) = &self.conv_in {
            x = conv_in.forward(&x)?;
        }
        for (first, second) in &self.resnets {
            x = second.forward(&first.forward(&x)?.f_relu()?)?.f_add(&x)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        let refused = |field: &str, value: Value| {
            let mut json = json!({
                "_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "channels": [320, 640, 1280, 1280],
                "downscale_factor": 16, "in_channels": 3, "num_res_blocks": 2,
            });
            json[field] = value;
            T2iConfig::from_json(&json).map_or_else(|error| error.to_string(), |config| config.factor().to_string())
        };
        assert_eq!(refused("num_res_blocks", json!(4)), "8", "an image has 8 px for one latent");
        for (field, value) in [
            ("_class_name", json!("MultiAdapter")),
            ("adapter_type", json!("light_adapter")),
            ("channels", json!([])),
            ("downscale_factor", json!(0)),
            ("in_channels", json!(1)),
            ("a_key_of_tomorrow", json!(1)),
        ] {
            let error = refused(field, value);
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
