//! What a checkpoint's folder says before any weight is read: digests, architectures, tokenizers, the sampler.
//!
//! The configurations decide the architecture, and the networks are checked to fit each other. What does not fit is an error that
//! names the file and the field. A blueprint holds no tensor: it stays where networks come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::checkpoint::{Digests, FileDigests, digests};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::SchedulerChoice;
use tch::Kind;

use crate::diffusion::fields::{CONFIG_BYTES_MAX, read_json};
use crate::diffusion::loading::{CheckpointError, Placement, check_device, folder_name, read_config};
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::layout::{Layout, TextPart};
use crate::diffusion::sd::memory::UnetFootprint;
use crate::diffusion::sd::unet;
use crate::diffusion::text::clip;
use crate::diffusion::text::clip::Head;
use crate::diffusion::text::config::{ClipActivation, ClipConfig};
use crate::diffusion::text::tokenizer::ClipTokenizer;
use crate::diffusion::vae;
use crate::diffusion::vae::VaeKinds;
use crate::diffusion::vae::config::VaeConfig;

/// What a checkpoint's text encoder, and with it everything trained for it, descends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x: OpenAI's CLIP.
    Sd1,
    /// Stable Diffusion 2.x: OpenCLIP.
    Sd2,
    /// Stable Diffusion XL and what was distilled from it: both, side by side.
    Sdxl,
    /// The second stage of Stable Diffusion XL: OpenCLIP alone.
    SdxlRefiner,
}

impl Family {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sd1 => "sd1",
            Self::Sd2 => "sd2",
            Self::Sdxl => "sdxl",
            Self::SdxlRefiner => "sdxl-refiner",
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

/// What a checkpoint is.
#[derive(Debug)]
pub struct Blueprint {
    name: String,
    digests: Digests,
    family: Family,
    parameters: Parameters,
    pub(super) layout: Layout,
    pub(super) texts: Vec<TextBlueprint>,
    pub(super) unet: UnetConfig,
    pub(super) vae: VaeConfig,
    pub(super) scheduler: SchedulerConfig,
}

/// A text encoder before its weights are read.
#[derive(Debug)]
pub(super) struct TextBlueprint {
    pub(super) part: TextPart,
    pub(super) tokenizer: Arc<ClipTokenizer>,
    pub(super) config: ClipConfig,
}

impl Blueprint {
    /// Reads the configurations in `folder`, with digests of files that are known already.
    ///
    /// # Errors
    /// When a file is missing or malformed, or an architecture is not supported.
    pub fn read(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        check_device(placement.device)?;
        let digests = digests(folder, known)?;
        let layout = Layout::read(&folder.join("model_index.json"))?;
        let scheduler = read_scheduler(&folder.join("scheduler/scheduler_config.json"), &layout)?;
        let unet = read_config(&folder.join("unet/config.json"), UnetConfig::from_json)?;
        let vae = read_config(&folder.join("vae/config.json"), VaeConfig::from_json)?;
        if vae.statistics.is_some() && !layout.is_xl {
            let reason =
                "vae/config.json: `latents_mean` and `latents_std` are read for Stable Diffusion XL only".into();
            return Err(CheckpointError::Mismatch { folder: folder.to_owned(), reason });
        }
        let mismatch = |reason| CheckpointError::Mismatch { folder: folder.to_owned(), reason };
        let texts = layout.texts.iter().map(|part| read_text(folder, part)).collect::<Result<Vec<_>, _>>()?;
        check_texts(&texts, &unet).map_err(mismatch)?;
        check_channels(&unet, &vae).map_err(mismatch)?;
        let family = match (layout.is_xl, texts.len(), texts.first().map(|text| text.config.activation)) {
            (true, 1, _) => Family::SdxlRefiner,
            (true, ..) => Family::Sdxl,
            (false, _, Some(ClipActivation::QuickGelu)) => Family::Sd1,
            (false, ..) => Family::Sd2,
        };
        let mut text_encoder = 0;
        for TextBlueprint { part, config, .. } in &texts {
            text_encoder += count(&clip::tensor_shapes(config, part.head)?);
        }
        let parameters = Parameters {
            text_encoder,
            unet: count(&unet::tensor_shapes(&unet)?),
            vae: count(&vae::tensor_shapes(&vae)?),
        };
        Ok(Self { name: folder_name(folder), digests, family, parameters, layout, texts, unet, vae, scheduler })
    }

    /// The name of its folder.
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
    pub const fn family(&self) -> Family {
        self.family
    }

    #[must_use]
    pub const fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Bytes of its networks' tensors on a device.
    #[must_use]
    pub fn bytes(&self, placement: Placement) -> u64 {
        let Parameters { text_encoder, unet, vae } = self.parameters;
        let kind = placement.dtype.kind();
        let bytes = |kind: Kind| kind.elt_size_in_bytes() as u64;
        let kinds = self.vae_kinds(kind);
        (text_encoder + unet) * bytes(kind) + vae * bytes(kinds.decoder).max(bytes(kinds.encoder))
    }

    /// In what its autoencoder computes beside networks of a kind.
    #[must_use]
    pub fn vae_kinds(&self, kind: Kind) -> VaeKinds {
        VaeKinds::choose(self.layout.is_xl, &self.vae, kind)
    }

    /// What drawing with it takes on a device. Larger pictures than `vae_tiles_px` are decoded in tiles.
    #[must_use]
    pub fn footprint(&self, placement: Placement, vae_tiles_px: Option<u32>) -> UnetFootprint {
        let kind = placement.dtype.kind();
        UnetFootprint {
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            vae_kinds: self.vae_kinds(kind),
            kind,
            device: placement.device,
            vae_tiles_px,
        }
    }

    /// Width and height it was trained for, where its files say so.
    #[must_use]
    pub fn native_size_px(&self) -> Option<(u32, u32)> {
        self.unet.sample_size.map(|size| self.size_px(size))
    }

    /// The size it is tried at: its own, or that of its family.
    #[must_use]
    pub fn trial_size_px(&self) -> (u32, u32) {
        let side = if matches!(self.family, Family::Sd1 | Family::Sd2) { 64 } else { 128 };
        self.native_size_px().unwrap_or_else(|| self.size_px((side, side)))
    }

    /// The sampler it is tried with: its own, or a known one where its own is not offered.
    #[must_use]
    pub fn trial_scheduler(&self) -> SchedulerChoice {
        SchedulerChoice { kind: self.scheduler.stand_in(), ..SchedulerChoice::default() }
    }

    fn size_px(&self, (height, width): (i64, i64)) -> (u32, u32) {
        let px = |latents: i64| u32::try_from(latents * self.vae.factor()).unwrap_or(u32::MAX);
        (px(width), px(height))
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn vae_factor(&self) -> u32 {
        u32::try_from(self.vae.factor()).unwrap_or(u32::MAX)
    }

    /// Whether the UNet is told what to keep of an image beside the latents: a mask, and what is behind it.
    #[must_use]
    pub const fn is_inpainting(&self) -> bool {
        self.unet.in_channels == 2 * self.vae.latent_channels + 1
    }

    /// Whether the UNet is told how near each place is, beside the latents.
    #[must_use]
    pub const fn is_told_depth(&self) -> bool {
        self.unet.in_channels == self.vae.latent_channels + 1
    }
}

fn count(shapes: &BTreeMap<String, Vec<i64>>) -> u64 {
    shapes.values().map(|shape| shape.iter().map(|side| side.unsigned_abs()).product::<u64>()).sum()
}

/// Stable Diffusion XL's pipelines take the file as it is.
fn read_scheduler(path: &Path, layout: &Layout) -> Result<SchedulerConfig, CheckpointError> {
    let json = read_json(path, CONFIG_BYTES_MAX)?;
    SchedulerConfig::read_as(layout.scheduler_class.as_deref(), &json)
        .and_then(|config| if layout.is_xl { Ok(config) } else { config.corrected_for_stable_diffusion() })
        .map_err(|source| CheckpointError::Scheduler { path: path.to_owned(), source })
}

fn read_text(folder: &Path, part: &TextPart) -> Result<TextBlueprint, CheckpointError> {
    let config = read_config(&folder.join(part.folder).join("config.json"), ClipConfig::from_json)?;
    let positions = usize::try_from(config.positions).unwrap_or(0);
    let tokenizer = ClipTokenizer::load(&folder.join(part.tokenizer), positions)?;
    Ok(TextBlueprint { part: *part, tokenizer: Arc::new(tokenizer), config })
}

/// The networks were trained together: what one gives out is what the next takes in.
fn check_texts(texts: &[TextBlueprint], unet: &UnetConfig) -> Result<(), String> {
    for TextBlueprint { part, tokenizer, config } in texts {
        if i64::from(tokenizer.ids()) > config.vocab_size {
            let (folder, ids) = (part.tokenizer, tokenizer.ids());
            return Err(format!("the tokenizer has ids up to {ids}, the encoder {} (`{folder}`)", config.vocab_size));
        }
    }
    let tokens: Vec<usize> = texts.iter().map(|text| text.tokenizer.tokens()).collect();
    if tokens.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(format!("the tokenizers give {tokens:?} tokens, but their states stand side by side"));
    }
    let hidden: i64 = texts.iter().map(|text| text.config.hidden_size).sum();
    if hidden != unet.cross_attention_dim {
        let width = unet.cross_attention_dim;
        return Err(format!("the text encoder gives {hidden} features, the UNet attends to {width}"));
    }
    let pooled = texts.iter().rfind(|text| text.part.head == Head::Projection).map(|text| text.config.projection_dim);
    match (&unet.added, pooled) {
        (None, None) => Ok(()),
        (Some(added), Some(pooled)) => match added.numbers(pooled) {
            Some(5 | 6) => Ok(()),
            _ => Err(format!(
                "the UNet is told {} features beside the text, which are not {pooled} of the pooled text and 5 or 6 \
                 numbers of {}",
                added.width, added.number_dim
            )),
        },
        (Some(_), None) => Err("the UNet is told a pooled text, but no encoder gives one".into()),
        (None, Some(_)) => Err("an encoder gives a pooled text, but the UNet is told none".into()),
    }
}

fn check_channels(unet: &UnetConfig, vae: &VaeConfig) -> Result<(), String> {
    // The latents alone, with a depth map, or with a mask and the latents of what is to be kept.
    let latent = vae.latent_channels;
    let takes = [latent, latent + 1, 2 * latent + 1].contains(&unet.in_channels);
    if !takes || unet.out_channels != latent {
        let (inputs, outputs) = (unet.in_channels, unet.out_channels);
        return Err(format!(
            "the UNet takes {inputs} and gives {outputs} channels, the VAE has {latent}: neither text to image, \
             nor depth to image, nor inpainting (upscaling checkpoints are not supported)"
        ));
    }
    if vae.in_channels != 3 || vae.out_channels != 3 {
        return Err(format!("the VAE's images have {} and {} channels, not 3", vae.in_channels, vae.out_channels));
    }
    Ok(())
}
