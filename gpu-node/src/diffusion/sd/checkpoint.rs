//! A checkpoint: a folder in diffusers' layout, loaded onto a device.
//!
//! Loading is all or nothing. The configurations decide the architecture, every tensor of every weight file is
//! accounted for, and the networks are checked to fit each other. What does not fit is an error that names the file and
//! the field or tensor. A loaded checkpoint never changes; its digest was taken from the files it was
//! loaded from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::checkpoint::{Digests, FileDigests, digests, look};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{SchedulerChoice, ValidRecipe};
use bildkante_shared::wire::Determinism;
use tch::{Device, TchError, Tensor};

use crate::diffusion::determinism::{self, PassShape};
use crate::diffusion::dtype::DType;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::fields::{CONFIG_BYTES_MAX, read_json};
use crate::diffusion::layers::projected::{ProjectedText, ProjectedTexts, TextKey};
use crate::diffusion::loading::{CheckpointError, Placement, check_device, check_unchanged, folder_name, read_config};
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::sd::adapters::{Adapter, Adapting, Applied, LoraError, Network};
use crate::diffusion::sd::conditioning::Conditioning;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::controlnet::{ControlNet, Residuals};
use crate::diffusion::sd::layout::{Layout, TextPart};
use crate::diffusion::sd::memory::UnetFootprint;
use crate::diffusion::sd::unet;
use crate::diffusion::sd::unet::Unet;
use crate::diffusion::text::clip;
use crate::diffusion::text::clip::{ClipTextModel, Head, HiddenLayer};
use crate::diffusion::text::config::{ClipActivation, ClipConfig};
use crate::diffusion::text::tokenizer::ClipTokenizer;
use crate::diffusion::text::{Prompt, TextEncoder, TextEncoders};
use crate::diffusion::vae;
use crate::diffusion::vae::config::VaeConfig;
use crate::diffusion::vae::{Vae, VaeKinds};
use crate::diffusion::weights::NetworkTensors;
use crate::diffusion::weights::files;

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

/// A loaded checkpoint. It is `Send`, not `Sync`: one thread at a time computes with it.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    digests: Digests,
    family: Family,
    placement: Placement,
    parameters: Parameters,
    trunk: Trunk,
    /// What the same networks with adapters are made of.
    kept: PlainNetworks,
    /// Whether an empty negative prompt stands for no text at all, instead of for an empty text.
    zeroes_empty_negative: bool,
    unet_config: UnetConfig,
    vae: Vae,
    vae_config: VaeConfig,
    vae_kinds: VaeKinds,
    vae_tiles_px: Option<u32>,
    scheduler_config: SchedulerConfig,
}

/// The networks that adapters change.
#[derive(Debug)]
pub struct Trunk {
    text: TextEncoders,
    unet: Unet,
    projected: ProjectedTexts,
    /// How its adapters are built, in their order.
    adapters: Vec<Digest>,
}

impl Trunk {
    #[must_use]
    pub const fn text(&self) -> &TextEncoders {
        &self.text
    }

    /// How its adapters are built, in their order.
    #[must_use]
    pub fn adapters(&self) -> &[Digest] {
        &self.adapters
    }

    /// A network's keys and values for a prompt in so many chunks, computed from the text's states and kept while the prompt is
    /// asked for. Without a prompt the states are zeros. The network is the denoising one, or a ControlNet that acts on it.
    pub(crate) fn project(
        &self,
        control: Option<&ControlNet>,
        (prompt, chunks): (Option<&Prompt>, usize),
        states: &Tensor,
    ) -> Result<ProjectedText, TchError> {
        let key = TextKey {
            control: control.map(ControlNet::digest),
            prompt: prompt.map(|prompt| prompt.text.clone()),
            weighting: prompt.map(|prompt| prompt.weighting).unwrap_or_default(),
            clip_skip: prompt.map_or(0, |prompt| prompt.clip_skip),
            chunks,
        };
        self.projected.get_or(key, || match control {
            Some(network) => network.project(states),
            None => self.unet.project(states),
        })
    }

    /// Gives back the memory of what is kept for texts to come.
    pub fn forget_texts(&self) {
        self.projected.clear();
        self.text.forget();
    }
}

#[derive(Debug)]
struct PlainNetworks {
    unet: NetworkTensors,
    /// Like the text encoders.
    texts: Vec<(TextPart, ClipConfig, NetworkTensors)>,
}

impl Checkpoint {
    /// Loads the checkpoint in `folder`.
    ///
    /// # Errors
    /// When a file is missing or malformed, an architecture is not supported, or a tensor is missing, left over,
    /// misshapen or not finite.
    pub fn load(folder: &Path, device: Device, dtype: DType) -> Result<Self, CheckpointError> {
        Self::load_with(folder, Placement::new(device, dtype))
    }

    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(folder: &Path, placement: Placement) -> Result<Self, CheckpointError> {
        Self::load_known(folder, placement, &FileDigests::default())
    }

    /// The same with digests of files that are known already.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_known(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        check_device(placement.device)?;
        let before = look(folder)?;
        let digests = digests(folder, known)?;
        let layout = Layout::read(&folder.join("model_index.json"))?;
        let scheduler_config = read_scheduler(&folder.join("scheduler/scheduler_config.json"), &layout)?;
        let unet_config = read_config(&folder.join("unet/config.json"), UnetConfig::from_json)?;
        let vae_config = read_config(&folder.join("vae/config.json"), VaeConfig::from_json)?;
        let mismatch = |reason| CheckpointError::Mismatch { folder: folder.to_owned(), reason };
        let texts = layout.texts.iter().map(|part| read_text(folder, part)).collect::<Result<Vec<_>, _>>()?;
        check_texts(&texts, &unet_config).map_err(mismatch)?;
        check_channels(&unet_config, &vae_config).map_err(mismatch)?;

        let kind = placement.dtype.kind();
        let vae_kinds = VaeKinds::choose(layout.is_xl, &vae_config, kind);
        let open = |part: &str, stem, canonical: fn(&str) -> String, kind| {
            placement.open(&files::find(&folder.join(part), stem)?, canonical, kind)
        };
        let activation = texts.first().map(|text| text.config.activation);
        let mut parameters = Parameters { text_encoder: 0, unet: 0, vae: 0 };
        // One network after the other: each unmaps its files before the next is read.
        let (mut encoders, mut kept_texts) = (Vec::new(), Vec::new());
        for ReadText { part, tokenizer, config } in texts {
            let weights = open(part.folder, "model", clip::canonical_name, kind)?;
            let (model, kept) = ClipTextModel::load_keeping(weights, &config, part.head)?;
            parameters.text_encoder += count(&clip::tensor_shapes(&config, part.head)?);
            encoders.push(TextEncoder { tokenizer: Arc::new(tokenizer), model });
            kept_texts.push((part, config, kept));
        }
        let diffusers = "diffusion_pytorch_model";
        let (unet, kept_unet) = Unet::load_keeping(open("unet", diffusers, str::to_owned, kind)?, &unet_config)?;
        let vae_weights = open("vae", diffusers, vae::canonical_name, vae_kinds.decoder)?;
        let vae = Vae::load_as(vae_weights, &vae_config, vae_kinds)?;
        parameters.unet = count(&unet::tensor_shapes(&unet_config)?);
        parameters.vae = count(&vae::tensor_shapes(&vae_config)?);
        let family = match (layout.is_xl, encoders.len(), activation) {
            (true, 1, _) => Family::SdxlRefiner,
            (true, ..) => Family::Sdxl,
            (false, _, Some(ClipActivation::QuickGelu)) => Family::Sd1,
            (false, ..) => Family::Sd2,
        };
        let layer = if layout.is_xl { HiddenLayer::Penultimate } else { HiddenLayer::Last };
        check_unchanged(folder, &before)?;
        Ok(Self {
            name: folder_name(folder),
            digests,
            family,
            placement,
            parameters,
            trunk: Trunk {
                text: TextEncoders::new(encoders, layer),
                unet,
                projected: ProjectedTexts::default(),
                adapters: Vec::new(),
            },
            kept: PlainNetworks { unet: kept_unet, texts: kept_texts },
            zeroes_empty_negative: layout.zeroes_empty_negative,
            unet_config,
            vae,
            vae_config,
            vae_kinds,
            vae_tiles_px: None,
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
    pub const fn device(&self) -> Device {
        self.placement.device
    }

    /// The precision its networks compute in; a VAE may insist on more.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.placement.dtype
    }

    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    #[must_use]
    pub const fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Width and height it was trained for, where its files say so.
    #[must_use]
    pub fn native_size_px(&self) -> Option<(u32, u32)> {
        self.unet_config.sample_size.map(|size| self.size_px(size))
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
        SchedulerChoice { kind: self.scheduler_config.stand_in(), ..SchedulerChoice::default() }
    }

    fn size_px(&self, (height, width): (i64, i64)) -> (u32, u32) {
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

    /// `scheduler/scheduler_config.json`, with the corrections that `StableDiffusionPipeline` makes.
    #[must_use]
    pub const fn scheduler_config(&self) -> &SchedulerConfig {
        &self.scheduler_config
    }

    #[must_use]
    pub const fn text(&self) -> &TextEncoders {
        &self.trunk.text
    }

    /// The checkpoint's own networks.
    #[must_use]
    pub const fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// The networks with adapters of these weights. They share the checkpoint's tensors and change none of them.
    ///
    /// # Errors
    /// When an adapter changes a module that the checkpoint does not have, or does not fit one.
    pub fn adapted(&self, adapters: &[(Arc<Adapter>, f64)]) -> Result<Trunk, LoraError> {
        let networks: Vec<Network> = self.kept.texts.iter().map(|(part, ..)| part.network()).collect();
        for (adapter, _) in adapters {
            adapter.check_networks(&networks)?;
        }
        let _no_grad = tch::no_grad_guard();
        let applied = |kept: &NetworkTensors, network| {
            Applied::new(adapters, network, kept.modules(), &self.unet_config, (kept.device(), kept.kind()))
        };
        let kept = &self.kept.unet;
        let changes = applied(kept, Network::Unet)?;
        let placed = (kept.device(), kept.kind());
        let unet = Unet::of(&mut Adapting::new(kept, &changes), &self.unet_config, placed)?;
        let texts = self.kept.texts.iter().zip(self.trunk.text.encoders());
        let encoders = texts.map(|((part, config, kept), plain)| {
            let changes = applied(kept, part.network())?;
            let model = ClipTextModel::of(&mut Adapting::new(kept, &changes), config, part.head)?;
            Ok(TextEncoder { tokenizer: Arc::clone(&plain.tokenizer), model })
        });
        let encoders = encoders.collect::<Result<Vec<_>, LoraError>>()?;
        let text = TextEncoders::new(encoders, self.trunk.text.layer());
        let adapters = adapters.iter().map(|(adapter, _)| adapter.architecture()).collect();
        Ok(Trunk { text, unet, projected: ProjectedTexts::default(), adapters })
    }

    #[must_use]
    pub const fn unet_config(&self) -> &UnetConfig {
        &self.unet_config
    }

    /// Whether an empty negative prompt stands for no text at all, instead of for an empty text.
    #[must_use]
    pub const fn zeroes_empty_negative(&self) -> bool {
        self.zeroes_empty_negative
    }

    /// What the UNet predicts (noise or velocity, see the scheduler's `prediction_type`) for `latents`
    /// `[n, channels, h, w]` at `timesteps` `[n]` under conditions of as many rows: a tensor like `latents`, in the
    /// precision of the weights.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn predict(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        self.predict_with(&self.trunk, &[], latents, timesteps, conditioning)
    }

    /// The same with networks of [`Self::adapted`] and the ControlNets that the conditions name.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn predict_with(
        &self,
        trunk: &Trunk,
        controls: &[&ControlNet],
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        let n = check_latents(latents, self.unet_config.in_channels)?;
        if timesteps.size() != [n] {
            return Err(DiffusionError::input(format!("timesteps of shape {:?} for {n} latents", timesteps.size())));
        }
        let width = self.unet_config.cross_attention_dim;
        let shape = conditioning.embeddings.size();
        let fits = matches!(*shape.as_slice(), [rows, tokens, columns] if (rows, columns) == (n, width) && tokens > 0);
        if !fits {
            return Err(DiffusionError::input(format!(
                "embeddings of shape {shape:?}, expected [{n}, tokens, {width}]"
            )));
        }
        let _no_grad = tch::no_grad_guard();
        let latents = latents.f_to_device(self.device())?;
        let mut residuals: Option<Residuals> = None;
        for control in &conditioning.controls {
            let network = controls.get(control.network);
            let network = network.ok_or_else(|| DiffusionError::input("a ControlNet is not there"))?;
            let added = network.forward(&latents, timesteps, conditioning, control)?;
            residuals = Some(match residuals {
                Some(sum) => sum.added(&added)?,
                None => added,
            });
        }
        Ok(trunk.unet.forward(&latents, timesteps, conditioning, residuals.as_ref())?)
    }

    /// Whether the UNet is told what to keep of an image beside the latents: a mask, and what is behind it.
    #[must_use]
    pub const fn is_inpainting(&self) -> bool {
        self.unet_config.in_channels != self.vae_config.latent_channels
    }

    /// What latents are multiplied with after encoding.
    #[must_use]
    pub const fn scaling_factor(&self) -> f64 {
        self.vae_config.scaling_factor
    }

    /// Lets its VAE compute in overlapping tiles of this side wherever a picture is larger: the memory of one tile instead
    /// of the whole picture's, and other pixels.
    pub fn set_vae_tiles_px(&mut self, tiles_px: Option<u32>) {
        self.vae.set_tiles_px(tiles_px.map(i64::from));
        self.vae_tiles_px = tiles_px;
    }

    /// What drawing with it takes.
    #[must_use]
    pub fn footprint(&self) -> UnetFootprint {
        UnetFootprint {
            unet: self.unet_config.clone(),
            vae: self.vae_config.clone(),
            vae_kinds: self.vae_kinds,
            kind: self.dtype().kind(),
            device: self.device(),
            vae_tiles_px: self.vae_tiles_px,
        }
    }

    /// The side of its VAE's tiles, where a picture of this size is computed in tiles.
    #[must_use]
    pub fn vae_tiles_px_for(&self, (width_px, height_px): (u32, u32)) -> Option<u32> {
        self.vae_tiles_px.filter(|tiles_px| width_px.max(height_px) > *tiles_px)
    }

    /// Within what a drawing with it can be repeated bit for bit, in passes that `requests` requests may share.
    #[must_use]
    pub fn determinism(&self, recipe: &ValidRecipe, requests: usize) -> Determinism {
        let rows = requests * if recipe.is_guided() { 2 } else { 1 };
        let factor = self.vae_factor().max(1);
        let (height, width) = (recipe.height_px / factor, recipe.width_px / factor);
        determinism::of(PassShape {
            placement: self.placement,
            latents: [rows as u64, self.latent_channels().unsigned_abs(), u64::from(height), u64::from(width)],
            vae_tiles_px: self.vae_tiles_px_for((recipe.width_px, recipe.height_px)),
        })
    }

    /// Mean and logarithm of the variance of the unscaled latents behind an image `[n, 3, H, W]` of -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        Ok(self.vae.encode(&image.f_to_device(self.device())?)?)
    }

    /// The image behind `latents` `[n, channels, h, w]`: `[n, 3, H, W]`, nominally -1 to 1 and not clamped.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        check_latents(latents, self.latent_channels())?;
        let _no_grad = tch::no_grad_guard();
        Ok(self.vae.decode(&latents.f_to_device(self.device())?)?)
    }
}

/// The number of rows.
fn check_latents(latents: &Tensor, channels: i64) -> Result<i64, DiffusionError> {
    match *latents.size().as_slice() {
        [n, found, height, width] if found == channels && n.min(height).min(width) > 0 => Ok(n),
        _ => {
            let shape = latents.size();
            Err(DiffusionError::input(format!("latents of shape {shape:?}, expected [n, {channels}, h, w]")))
        }
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

/// A text encoder before its weights are read.
struct ReadText {
    part: TextPart,
    tokenizer: ClipTokenizer,
    config: ClipConfig,
}

fn read_text(folder: &Path, part: &TextPart) -> Result<ReadText, CheckpointError> {
    let config = read_config(&folder.join(part.folder).join("config.json"), ClipConfig::from_json)?;
    let positions = usize::try_from(config.positions).unwrap_or(0);
    let tokenizer = ClipTokenizer::load(&folder.join(part.tokenizer), positions)?;
    Ok(ReadText { part: *part, tokenizer, config })
}

/// The networks were trained together: what one gives out is what the next takes in.
fn check_texts(texts: &[ReadText], unet: &UnetConfig) -> Result<(), String> {
    for ReadText { part, tokenizer, config } in texts {
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
    // The latents alone, or with a mask and the latents of what is to be kept.
    let latent = vae.latent_channels;
    let takes = [latent, 2 * latent + 1].contains(&unet.in_channels);
    if !takes || unet.out_channels != latent {
        let (inputs, outputs) = (unet.in_channels, unet.out_channels);
        return Err(format!(
            "the UNet takes {inputs} and gives {outputs} channels, the VAE has {latent}: neither text to image nor \
             inpainting (depth and upscaling checkpoints are not supported)"
        ));
    }
    if vae.in_channels != 3 || vae.out_channels != 3 {
        return Err(format!("the VAE's images have {} and {} channels, not 3", vae.in_channels, vae.out_channels));
    }
    Ok(())
}
