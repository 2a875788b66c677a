//! ControlNet (Zhang et al. 2023): a copy of a UNet's way down that reads an image as well, and whose outputs are added to
//! what the UNet's way up is given (source: diffusers 0.42, `models/controlnets/controlnet.py`).

use std::collections::BTreeMap;
use std::path::Path;

use bildkante_shared::checkpoint::{Digests, FileDigests, digests, look};
use bildkante_shared::ids::Digest;
use serde_json::{Value, json};
use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::denoiser::Control;
use crate::diffusion::dtype::DType;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::fields::ConfigError;
use crate::diffusion::kept::Kept;
use crate::diffusion::layers::Conv2d;
use crate::diffusion::layers::projected::ProjectedText;
use crate::diffusion::loading::{CheckpointError, Placement, check_unchanged, folder_name, read_config};
use crate::diffusion::sd::conditioning::Conditioning;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::unet::UnetEncoder;
use crate::diffusion::weights::files;
use crate::diffusion::weights::{ConvGeometry, Scope, ShapeRecorder, VarSource, WeightsError};

/// Most levels of the network that reads the image.
const EMBEDDING_LEVELS_MAX: usize = 8;
/// Bytes of what one network made of pictures; one picture is always let in. At 1024² it takes 10 MB in bfloat16.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a UNet's configuration has not.
const OWN_FIELDS: [&str; 4] = [
    "conditioning_channels",
    "global_pool_conditions",
    "controlnet_conditioning_channel_order",
    "conditioning_embedding_out_channels",
];

/// `config.json` of a `ControlNetModel`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetConfig {
    /// The way down, as a UNet's configuration.
    pub unet: UnetConfig,
    /// Channels of the levels of the network that reads the image; each but the last halves its sides.
    pub embedding_channels: Vec<i64>,
    /// The image's channels are read in reverse.
    pub is_bgr: bool,
}

impl ControlNetConfig {
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let Some(object) = json.as_object() else { return Err(ConfigError::NotAnObject) };
        let invalid = |field, value: &Value, expected: &str| ConfigError::Invalid {
            field,
            value: value.to_string().chars().take(80).collect(),
            expected: expected.to_owned(),
        };
        let class = object.get("_class_name").unwrap_or(&Value::Null);
        if class != "ControlNetModel" {
            return Err(invalid("_class_name", class, "it is ControlNetModel"));
        }
        for (field, supported) in [("conditioning_channels", json!(3)), ("global_pool_conditions", json!(false))] {
            let value = object.get(field).unwrap_or(&supported);
            if *value != supported {
                return Err(invalid(field, value, &format!("only {supported} is supported")));
            }
        }
        let field = "controlnet_conditioning_channel_order";
        let order = object.get(field).cloned().unwrap_or_else(|| json!("rgb"));
        let is_bgr = match order.as_str() {
            Some("rgb") => false,
            Some("bgr") => true,
            _ => return Err(invalid(field, &order, "it is rgb or bgr")),
        };
        let field = "conditioning_embedding_out_channels";
        let channels = object.get(field).cloned().unwrap_or_else(|| json!([16, 32, 96, 256]));
        let embedding_channels = channels.as_array().map(|items| {
            items
                .iter()
                .map(|item| item.as_i64().filter(|channels| (1..=65_536).contains(channels)))
                .collect::<Option<Vec<_>>>()
        });
        let embedding_channels = embedding_channels.flatten().filter(|c| (1..=EMBEDDING_LEVELS_MAX).contains(&c.len()));
        let embedding_channels =
            embedding_channels.ok_or_else(|| invalid(field, &channels, "it lists 1 to 8 widths"))?;
        // What a UNet has beyond the way down is filled in, and not built.
        let mut unet = object.clone();
        let levels = object.get("block_out_channels").and_then(Value::as_array).map_or(0, Vec::len);
        for own in OWN_FIELDS {
            unet.remove(own);
        }
        unet.insert("_class_name".into(), json!("UNet2DConditionModel"));
        unet.insert("up_block_types".into(), json!(vec!["UpBlock2D"; levels]));
        Ok(Self { unet: UnetConfig::from_json(&Value::Object(unet))?, embedding_channels, is_bgr })
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn factor(&self) -> u32 {
        1 << (self.embedding_channels.len() - 1)
    }
}

/// What is added to a UNet: to its skips from the finest on, and to its middle.
#[derive(Debug)]
pub struct Residuals {
    pub(crate) skips: Vec<Tensor>,
    pub(crate) middle: Tensor,
}

impl Residuals {
    /// The sum of what several networks add.
    pub(crate) fn added(self, other: &Self) -> Result<Self, TchError> {
        if self.skips.len() != other.skips.len() {
            return Err(TchError::Shape("ControlNets of different shapes".into()));
        }
        let skips = self.skips.iter().zip(&other.skips).map(|(a, b)| a.f_add(b)).collect::<Result<_, _>>()?;
        Ok(Self { skips, middle: self.middle.f_add(&other.middle)? })
    }
}

/// A ControlNet on its device.
#[derive(Debug)]
pub struct ControlNet {
    name: String,
    digests: Digests,
    config: ControlNetConfig,
    network: ControlLayers,
    /// What it made of pictures.
    embedded: Kept<Digest, Tensor>,
}

#[derive(Debug)]
struct ControlLayers {
    encoder: UnetEncoder,
    embedding: ImageEmbedding,
    skips: Vec<Conv2d>,
    middle: Conv2d,
}

/// Names and shapes of the tensors of a ControlNet, as diffusers writes them.
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &ControlNetConfig) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    ControlLayers::build(&mut recorder, config, Device::Cpu, Kind::Float)?;
    Ok(recorder.into_shapes())
}

impl ControlNet {
    /// Whether a folder claims to hold one.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        let json = crate::diffusion::fields::read_json(
            &folder.join("config.json"),
            crate::diffusion::fields::CONFIG_BYTES_MAX,
        );
        json.is_ok_and(|json| json.get("_class_name").is_some_and(|class| class == "ControlNetModel"))
    }

    /// # Errors
    /// As a checkpoint's.
    pub fn load(folder: &Path, device: Device, dtype: DType) -> Result<Self, CheckpointError> {
        Self::load_with(folder, Placement::new(device, dtype))
    }

    /// # Errors
    /// As a checkpoint's.
    pub fn load_with(folder: &Path, placement: Placement) -> Result<Self, CheckpointError> {
        Self::load_known(folder, placement, &FileDigests::default())
    }

    /// # Errors
    /// As a checkpoint's.
    pub fn load_known(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        let Placement { device, dtype, .. } = placement;
        let before = look(folder)?;
        let digests = digests(folder, known)?;
        let config = read_config(&folder.join("config.json"), ControlNetConfig::from_json)?;
        let files = files::find(folder, "diffusion_pytorch_model")?;
        let mut weights = placement.open(&files, str::to_owned, dtype.kind())?;
        let network = ControlLayers::build(&mut weights, &config, device, dtype.kind())?;
        weights.finish()?;
        check_unchanged(folder, &before)?;
        Ok(Self { name: folder_name(folder), digests, config, network, embedded: Kept::new(KEPT_BYTES_MAX) })
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
    pub const fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Keys and values of a text `[1, tokens, width]`, for every evaluation under it.
    pub(crate) fn project(&self, text: &Tensor) -> Result<ProjectedText, TchError> {
        self.network.encoder.project(text)
    }

    /// What it makes of an image `[n, 3, H, W]` of 0 to 1, for every evaluation that it reads it in.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn embed(&self, image: &Tensor) -> Result<Tensor, TchError> {
        let image = if self.config.is_bgr { image.f_flip([1])? } else { image.shallow_clone() };
        self.network.embedding.forward(&image.f_to_kind(self.network.encoder.kind())?)
    }

    /// The same of a picture by its digest, kept while it is asked for: drawings that differ in their seeds ask for the same one.
    pub(crate) fn embed_picture(
        &self,
        picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Tensor, DiffusionError> {
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

    /// What it adds to a UNet that is given the same latents, timesteps and conditions, of which `control` is one.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        control: &Control,
    ) -> Result<Residuals, TchError> {
        let Control { network, embedded, scale } = control;
        let [embedded] = embedded.as_slice() else {
            return Err(TchError::Shape("what another network made of an image".into()));
        };
        let projected = conditioning.control_texts.get(*network).map_or(&[][..], Vec::as_slice);
        let ControlLayers { encoder, skips, middle, .. } = &self.network;
        let (outputs, coarsest) = encoder.forward(latents, timesteps, conditioning, projected, embedded)?;
        let scaled = |conv: &Conv2d, x: &Tensor| conv.forward(x)?.f_mul_scalar(*scale);
        let skips = skips.iter().zip(&outputs).map(|(conv, x)| scaled(conv, x)).collect::<Result<_, _>>()?;
        Ok(Residuals { skips, middle: scaled(middle, &coarsest)? })
    }
}

impl ControlLayers {
    fn build(
        source: &mut dyn VarSource,
        config: &ControlNetConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self, WeightsError> {
        let mut scope = Scope::root(source);
        let encoder = UnetEncoder::load(&mut scope, &config.unet, device, kind)?;
        let finest = config.unet.levels[0].channels;
        let embedding =
            ImageEmbedding::load(scope.at("controlnet_cond_embedding"), &config.embedding_channels, finest)?;
        let mut stack = scope.at("controlnet_down_blocks");
        let widths = UnetEncoder::skip_channels(&config.unet);
        let skips = widths.iter().enumerate().map(|(i, channels)| Conv2d::load(stack.at(i), *channels, *channels, 1));
        let skips = skips.collect::<Result<_, _>>()?;
        let coarsest = config.unet.levels[config.unet.levels.len() - 1].channels;
        Ok(Self {
            encoder,
            embedding,
            skips,
            middle: Conv2d::load(scope.at("controlnet_mid_block"), coarsest, coarsest, 1)?,
        })
    }
}

/// `ControlNetConditioningEmbedding`: the image at the latents' size.
#[derive(Debug)]
struct ImageEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ImageEmbedding {
    fn load(mut scope: Scope<'_>, channels: &[i64], outputs: i64) -> Result<Self, WeightsError> {
        let conv_in = Conv2d::load(scope.at("conv_in"), 3, channels[0], 3)?;
        let mut blocks = Vec::new();
        let mut stack = scope.at("blocks");
        for (i, pair) in channels.windows(2).enumerate() {
            let halving = ConvGeometry { stride: 2, padding: 1 };
            blocks.push(Conv2d::load(stack.at(2 * i), pair[0], pair[0], 3)?);
            blocks.push(Conv2d::load_with(stack.at(2 * i + 1), pair[0], pair[1], 3, halving)?);
        }
        let last = channels[channels.len() - 1];
        Ok(Self { conv_in, blocks, conv_out: Conv2d::load(scope.at("conv_out"), last, outputs, 3)? })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor, TchError> {
        let mut x = self.conv_in.forward(image)?.f_silu_()?;
        for block in &self.blocks {
            x = block.forward(&x)?.f_silu_()?;
        }
        self.conv_out.forward(&x) // [n, finest, h, w]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(field: &str, value: Value) -> String {
        let mut json: Value =
            serde_json::from_str(include_str!("../../../fixtures/real/sdxl-controlnet/config.json")).expect("json");
        json[field] = value;
        ControlNetConfig::from_json(&json).map_or_else(|error| error.to_string(), |_| "accepted".into())
    }

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        assert_eq!(refused("dropout", json!(null)), "accepted");
        for (field, value) in [
            ("a_key_of_tomorrow", json!(null)),
            ("_class_name", json!("UNet2DConditionModel")),
            ("a_key_of_tomorrow", json!(1)),
            ("conditioning_channels", json!(4)),
            ("global_pool_conditions", json!(true)),
            ("controlnet_conditioning_channel_order", json!("hsv")),
            ("conditioning_embedding_out_channels", json!([])),
            ("conditioning_embedding_out_channels", json!([16, -1])),
            ("block_out_channels", json!([])),
            ("class_embed_type", json!("timestep")),
        ] {
            let error = refused(field, value);
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
        assert!(ControlNetConfig::from_json(&json!([])).is_err());
    }
}
