//! A checkpoint: a folder in diffusers' layout, loaded onto a device.
//!
//! Loading is all or nothing. The configurations decide the architecture, every tensor of every weight file is
//! accounted for, the networks are checked to fit each other, and whatever does not is an error that names the
//! file and the field or tensor. A loaded checkpoint never changes; its digest was taken from the files it was
//! loaded from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bildkante_shared::checkpoint::{CheckpointDigestError, digest};
use bildkante_shared::ids::Digest;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::clip::{self, ClipTextModel};
use super::config::{
    CONFIG_BYTES_MAX, ClipActivation, ClipConfig, ConfigError, JsonFileError, UnetConfig, VaeConfig, read_json,
};
use super::scheduler::{SchedulerConfig, SchedulerError};
use super::tokenizer::{ClipTokenizer, TokenizerError};
use super::unet::{self, Unet};
use super::vae::{self, Vae};
use super::weights::{Weights, WeightsError};
use super::{DType, DiffusionError, files};

/// Most prompts encoded at once.
const PROMPTS_MAX: usize = 256;

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Digest(#[from] CheckpointDigestError),
    #[error(transparent)]
    Json(#[from] JsonFileError),
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: ConfigError },
    #[error("{path}: component `{component}` is {found}, supported: {supported}")]
    Component { path: PathBuf, component: &'static str, found: String, supported: &'static str },
    #[error("{path}: {source}")]
    Scheduler { path: PathBuf, source: SchedulerError },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("{folder}: {reason}")]
    Mismatch { folder: PathBuf, reason: String },
    #[error("this machine has no device {device}")]
    Device { device: String },
}

/// What a checkpoint's text encoder, and with it everything trained for it, descends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x: OpenAI's CLIP.
    Sd1,
    /// Stable Diffusion 2.x: OpenCLIP.
    Sd2,
}

impl Family {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sd1 => "sd1",
            Self::Sd2 => "sd2",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many numbers were learnt, by network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    pub text_encoder: u64,
    pub unet: u64,
    pub vae: u64,
}

impl Parameters {
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.text_encoder + self.unet + self.vae
    }
}

/// A loaded checkpoint. It is `Send`, not `Sync`: one thread at a time computes with it.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    digest: Digest,
    family: Family,
    device: Device,
    dtype: DType,
    parameters: Parameters,
    tokenizer: ClipTokenizer,
    text_encoder: ClipTextModel,
    unet: Unet,
    unet_config: UnetConfig,
    vae: Vae,
    vae_config: VaeConfig,
    scheduler_config: SchedulerConfig,
}

impl Checkpoint {
    /// Loads the checkpoint in `folder`.
    ///
    /// # Errors
    /// When a file is missing or malformed, an architecture is not supported, or a tensor is missing, left over,
    /// misshapen or not finite.
    pub fn load(folder: &Path, device: Device, dtype: DType) -> Result<Self, CheckpointError> {
        check_device(device)?;
        let digest = digest(folder)?;
        check_components(&folder.join("model_index.json"))?;
        let scheduler_config = read_scheduler(&folder.join("scheduler/scheduler_config.json"))?;
        let clip_config = read_config(&folder.join("text_encoder/config.json"), ClipConfig::from_json)?;
        let unet_config = read_config(&folder.join("unet/config.json"), UnetConfig::from_json)?;
        let vae_config = read_config(&folder.join("vae/config.json"), VaeConfig::from_json)?;
        let positions = usize::try_from(clip_config.positions).unwrap_or(0);
        let tokenizer = ClipTokenizer::load(&folder.join("tokenizer"), positions)?;
        check_fit(&tokenizer, &clip_config, &unet_config, &vae_config)
            .map_err(|reason| CheckpointError::Mismatch { folder: folder.to_owned(), reason })?;

        let kind = dtype.kind();
        let vae_kind = if vae_config.force_upcast { Kind::Float } else { kind };
        let open = |part: &str, stem, canonical: fn(&str) -> String, kind| {
            Weights::open(&files::find(&folder.join(part), stem)?, canonical, device, kind)
        };
        // One network after the other: each unmaps its files before the next is read.
        let text_encoder =
            ClipTextModel::load(open("text_encoder", "model", clip::canonical_name, kind)?, &clip_config)?;
        let diffusers = "diffusion_pytorch_model";
        let unet = Unet::load(open("unet", diffusers, str::to_owned, kind)?, &unet_config)?;
        let vae = Vae::load(open("vae", diffusers, vae::canonical_name, vae_kind)?, &vae_config)?;
        let family = match clip_config.activation {
            ClipActivation::QuickGelu => Family::Sd1,
            ClipActivation::Gelu => Family::Sd2,
        };
        let parameters = Parameters {
            text_encoder: count(&clip::tensor_shapes(&clip_config)?),
            unet: count(&unet::tensor_shapes(&unet_config)?),
            vae: count(&vae::tensor_shapes(&vae_config)?),
        };
        let name = folder_name(folder);
        Ok(Self {
            name,
            digest,
            family,
            device,
            dtype,
            parameters,
            tokenizer,
            text_encoder,
            unet,
            unet_config,
            vae,
            vae_config,
            scheduler_config,
        })
    }

    /// The name of its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    #[must_use]
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The precision its networks compute in; a VAE may insist on more.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    #[must_use]
    pub const fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Width and height it was trained for.
    #[must_use]
    pub fn native_size_px(&self) -> (u32, u32) {
        let (height, width) = self.unet_config.sample_size;
        let px = |latents: i64| u32::try_from(latents * self.vae_config.factor()).unwrap_or(u32::MAX);
        (px(width), px(height))
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn vae_factor(&self) -> u32 {
        u32::try_from(self.vae_config.factor()).unwrap_or(u32::MAX)
    }

    /// Channels of the latents.
    #[must_use]
    pub const fn latent_channels(&self) -> i64 {
        self.vae_config.latent_channels
    }

    /// `scheduler/scheduler_config.json` with the corrections that `StableDiffusionPipeline` makes.
    #[must_use]
    pub const fn scheduler_config(&self) -> &SchedulerConfig {
        &self.scheduler_config
    }

    #[must_use]
    pub const fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// Embeddings of prompts, `[n, tokens, width]`: the last hidden state behind the final norm, as
    /// `StableDiffusionPipeline` passes it on.
    ///
    /// # Errors
    /// When there is no prompt, or more than 256, or libtorch fails.
    pub fn encode_text(&self, prompts: &[&str]) -> Result<Tensor, DiffusionError> {
        if !(1..=PROMPTS_MAX).contains(&prompts.len()) {
            return Err(DiffusionError::input(format!("{} prompts, 1 to {PROMPTS_MAX} are encoded", prompts.len())));
        }
        let ids = prompts.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(|error| DiffusionError::input(error.to_string()))?.concat();
        let _no_grad = tch::no_grad_guard();
        let tokens = Tensor::f_from_slice(&ids)?.f_view([prompts.len() as i64, -1])?; // [n, t]
        Ok(self.text_encoder.forward(&tokens)?)
    }

    /// What the UNet predicts (noise or velocity, see the scheduler's `prediction_type`) for `latents`
    /// `[n, channels, h, w]` at `timesteps` `[n]` under `embeddings` `[n, tokens, width]`: a tensor like `latents`, in
    /// the precision of the weights.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn predict(&self, latents: &Tensor, timesteps: &Tensor, embeddings: &Tensor) -> Result<Tensor, DiffusionError> {
        let n = self.check_latents(latents)?;
        if timesteps.size() != [n] {
            return Err(DiffusionError::input(format!("timesteps of shape {:?} for {n} latents", timesteps.size())));
        }
        let width = self.unet_config.cross_attention_dim;
        let fits = matches!(embeddings.size().as_slice(), [rows, tokens, columns] if (*rows, *columns) == (n, width) && *tokens > 0);
        if !fits {
            let shape = embeddings.size();
            return Err(DiffusionError::input(format!(
                "embeddings of shape {shape:?}, expected [{n}, tokens, {width}]"
            )));
        }
        let _no_grad = tch::no_grad_guard();
        let (latents, embeddings) = (latents.f_to_device(self.device)?, embeddings.f_to_device(self.device)?);
        Ok(self.unet.forward(&latents, timesteps, &embeddings)?)
    }

    /// The image behind `latents` `[n, channels, h, w]`: `[n, 3, H, W]`, nominally -1 to 1 and not clamped.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        self.check_latents(latents)?;
        let _no_grad = tch::no_grad_guard();
        Ok(self.vae.decode(&latents.f_to_device(self.device)?)?)
    }

    /// The number of rows.
    fn check_latents(&self, latents: &Tensor) -> Result<i64, DiffusionError> {
        match *latents.size().as_slice() {
            [n, channels, height, width] if channels == self.latent_channels() && n.min(height).min(width) > 0 => Ok(n),
            _ => {
                let (shape, channels) = (latents.size(), self.latent_channels());
                Err(DiffusionError::input(format!("latents of shape {shape:?}, expected [n, {channels}, h, w]")))
            }
        }
    }
}

fn check_device(device: Device) -> Result<(), CheckpointError> {
    let is_there = match device {
        Device::Cpu => true,
        Device::Cuda(index) => i64::try_from(index).is_ok_and(|index| index < tch::Cuda::device_count()),
        Device::Mps | Device::Vulkan => false,
    };
    if is_there { Ok(()) } else { Err(CheckpointError::Device { device: format!("{device:?}") }) }
}

/// Components a Stable Diffusion 1.x or 2.x pipeline is made of; `None` stands for one it must not have.
const COMPONENTS: [(&str, Option<&[&str]>, &str); 9] = [
    ("unet", Some(&["UNet2DConditionModel"]), "UNet2DConditionModel"),
    ("vae", Some(&["AutoencoderKL"]), "AutoencoderKL"),
    ("text_encoder", Some(&["CLIPTextModel"]), "CLIPTextModel"),
    ("tokenizer", Some(&["CLIPTokenizer", "CLIPTokenizerFast"]), "CLIPTokenizer, CLIPTokenizerFast"),
    ("text_encoder_2", None, "none (Stable Diffusion XL is not supported)"),
    ("transformer", None, "none"),
    ("controlnet", None, "none"),
    ("image_encoder", None, "none"),
    ("adapter", None, "none"),
];

fn check_components(path: &Path) -> Result<(), CheckpointError> {
    let index = read_json(path, CONFIG_BYTES_MAX)?;
    for (component, classes, supported) in COMPONENTS {
        // A component is [library, class]; one a pipeline could have and this one has not is [null, null].
        let found = index.get(component).map_or(&Value::Null, |entry| &entry[1]);
        let is_supported = match classes {
            Some(classes) => found.as_str().is_some_and(|class| classes.contains(&class)),
            None => found.is_null(),
        };
        if !is_supported {
            let found = found.as_str().map_or_else(|| "absent".into(), |class| class.chars().take(80).collect());
            return Err(CheckpointError::Component { path: path.to_owned(), component, found, supported });
        }
    }
    Ok(())
}

fn count(shapes: &BTreeMap<String, Vec<i64>>) -> u64 {
    shapes.values().map(|shape| shape.iter().map(|side| side.unsigned_abs()).product::<u64>()).sum()
}

fn read_scheduler(path: &Path) -> Result<SchedulerConfig, CheckpointError> {
    let json = read_json(path, CONFIG_BYTES_MAX)?;
    SchedulerConfig::from_json(&json)
        .and_then(|config| config.corrected_for_stable_diffusion())
        .map_err(|source| CheckpointError::Scheduler { path: path.to_owned(), source })
}

fn read_config<T>(path: &Path, parse: fn(&Value) -> Result<T, ConfigError>) -> Result<T, CheckpointError> {
    let json = read_json(path, CONFIG_BYTES_MAX)?;
    parse(&json).map_err(|source| CheckpointError::Config { path: path.to_owned(), source })
}

/// The networks were trained together: what one gives out is what the next takes in.
fn check_fit(tokenizer: &ClipTokenizer, clip: &ClipConfig, unet: &UnetConfig, vae: &VaeConfig) -> Result<(), String> {
    if i64::from(tokenizer.ids()) > clip.vocab_size {
        return Err(format!("the tokenizer has ids up to {}, the encoder {}", tokenizer.ids(), clip.vocab_size));
    }
    if clip.hidden_size != unet.cross_attention_dim {
        let (hidden, text) = (clip.hidden_size, unet.cross_attention_dim);
        return Err(format!("the text encoder gives {hidden} features, the UNet attends to {text}"));
    }
    if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
        let (inputs, outputs, latent) = (unet.in_channels, unet.out_channels, vae.latent_channels);
        return Err(format!(
            "the UNet takes {inputs} and gives {outputs} channels, the VAE has {latent} \
             (inpainting and depth checkpoints are not supported)"
        ));
    }
    if vae.in_channels != 3 || vae.out_channels != 3 {
        return Err(format!("the VAE's images have {} and {} channels, not 3", vae.in_channels, vae.out_channels));
    }
    Ok(())
}

fn folder_name(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.file_name().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
}
