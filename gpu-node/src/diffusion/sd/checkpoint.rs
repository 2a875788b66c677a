//! A checkpoint: a folder in diffusers' layout, loaded onto a device.
//!
//! Loading is all or nothing: the configurations are read into a [`Blueprint`], then every tensor of every weight file is
//! accounted for ([`NetworksInMemory`]). What does not fit is an error that names the file and the field or tensor. A loaded
//! checkpoint never changes; its digest was taken from the files it was loaded from.

use std::path::Path;
use std::sync::Arc;

use bildkante_shared::checkpoint::{Digests, FileDigests, look};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{SchedulerChoice, ValidRecipe};
use bildkante_shared::wire::Determinism;
use tch::{Device, TchError, Tensor};

use crate::diffusion::denoiser::Control;
use crate::diffusion::determinism::{self, PassShape};
use crate::diffusion::dtype::DType;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::layers::projected::{ProjectedText, ProjectedTexts, TextKey, projected_texts};
use crate::diffusion::loading::{CheckpointError, Placement, check_unchanged};
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::sd::adapter_file::AdapterError;
use crate::diffusion::sd::adapters::{Adapter, Adapting, Applied, LoraError, Network};
use crate::diffusion::sd::blueprint::{Blueprint, TextBlueprint};
pub use crate::diffusion::sd::blueprint::{Family, Parameters};
use crate::diffusion::sd::conditioning::Conditioning;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::controlnet::{ControlNet, Residuals};
use crate::diffusion::sd::guide::Guide;
use crate::diffusion::sd::in_memory::NetworksInMemory;
use crate::diffusion::sd::inversion::{self, Word};
use crate::diffusion::sd::memory::UnetFootprint;
use crate::diffusion::sd::unet::Unet;
use crate::diffusion::text::clip::{ClipTextModel, HiddenLayer};
use crate::diffusion::text::{Prompt, TextEncoder, TextEncoders};
use crate::diffusion::vae::Vae;
use crate::diffusion::weights::{NetworkTensors, WeightsError};

/// A loaded checkpoint. It is `Send`, not `Sync`: one thread at a time computes with it.
#[derive(Debug)]
pub struct Checkpoint {
    blueprint: Arc<Blueprint>,
    placement: Placement,
    trunk: Trunk,
    vae: Vae,
    /// What the same networks with adapters are made of.
    kept: NetworksInMemory,
    vae_tiles_px: Option<u32>,
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
        let before = look(folder)?;
        let blueprint = Arc::new(Blueprint::read(folder, placement, known)?);
        let networks = NetworksInMemory::read(folder, &blueprint, placement, placement.device)?;
        check_unchanged(folder, &before)?;
        Ok(Self::of(blueprint, placement, networks)?)
    }

    /// The checkpoint of networks that lie on its device.
    ///
    /// # Errors
    /// When the networks are another blueprint's.
    pub(crate) fn of(
        blueprint: Arc<Blueprint>,
        placement: Placement,
        networks: NetworksInMemory,
    ) -> Result<Self, WeightsError> {
        let (unet, encoders, vae) = networks.build(&blueprint)?;
        let layer = if blueprint.layout.is_xl { HiddenLayer::Penultimate } else { HiddenLayer::Last };
        let text = TextEncoders::new(encoders, layer);
        let trunk = Trunk { text, unet, projected: projected_texts(), adapters: Vec::new() };
        Ok(Self { blueprint, placement, trunk, vae, kept: networks, vae_tiles_px: None })
    }

    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The name of its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.blueprint.name()
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        self.blueprint.digest()
    }

    /// What recipes may call it: its digest, and what that was before.
    #[must_use]
    pub fn digests(&self) -> &Digests {
        self.blueprint.digests()
    }

    #[must_use]
    pub fn family(&self) -> Family {
        self.blueprint.family()
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
    pub fn parameters(&self) -> Parameters {
        self.blueprint.parameters()
    }

    /// Width and height it was trained for, where its files say so.
    #[must_use]
    pub fn native_size_px(&self) -> Option<(u32, u32)> {
        self.blueprint.native_size_px()
    }

    /// The size it is tried at: its own, or that of its family.
    #[must_use]
    pub fn trial_size_px(&self) -> (u32, u32) {
        self.blueprint.trial_size_px()
    }

    /// The sampler it is tried with: its own, or a known one where its own is not offered.
    #[must_use]
    pub fn trial_scheduler(&self) -> SchedulerChoice {
        self.blueprint.trial_scheduler()
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn vae_factor(&self) -> u32 {
        self.blueprint.vae_factor()
    }

    /// Channels of the latents.
    #[must_use]
    pub fn latent_channels(&self) -> i64 {
        self.blueprint.vae.latent_channels
    }

    /// `scheduler/scheduler_config.json`, with the corrections that `StableDiffusionPipeline` makes.
    #[must_use]
    pub fn scheduler_config(&self) -> &SchedulerConfig {
        &self.blueprint.scheduler
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

    /// The networks with adapters of these weights, whose text encoders know these words. They share the checkpoint's tensors
    /// and change none of them.
    ///
    /// # Errors
    /// When an adapter changes a module that the checkpoint does not have, or does not fit one; or when a word's vectors do not
    /// fit the text encoders.
    pub fn adapted(&self, adapters: &[(Arc<Adapter>, f64)], words: &[Word]) -> Result<Trunk, AdapterError> {
        let texts = &self.blueprint.texts;
        let networks: Vec<Network> = texts.iter().map(|text| text.part.network()).collect();
        for (adapter, _) in adapters {
            adapter.check_networks(&networks)?;
        }
        inversion::check(words, &networks)?;
        let _no_grad = tch::no_grad_guard();
        let applied = |kept: &NetworkTensors, network| {
            Applied::new(adapters, network, kept.modules(), &self.blueprint.unet, (kept.device(), kept.kind()))
        };
        let kept = &self.kept.unet;
        let changes = applied(kept, Network::Unet)?;
        let placed = (kept.device(), kept.kind());
        let unet =
            Unet::of(&mut Adapting::new(kept, &changes), &self.blueprint.unet, placed).map_err(LoraError::from)?;
        let encoders = texts.iter().zip(&self.kept.texts).map(|(TextBlueprint { part, tokenizer, config }, kept)| {
            let changes = applied(kept, part.network())?;
            let model = ClipTextModel::of(&mut Adapting::new(kept, &changes), config, part.head);
            let encoder = TextEncoder { tokenizer: Arc::clone(tokenizer), model: model.map_err(LoraError::from)? };
            Ok(inversion::taught(encoder, words, part.network())?)
        });
        let encoders = encoders.collect::<Result<Vec<_>, AdapterError>>()?;
        let text = TextEncoders::new(encoders, self.trunk.text.layer());
        let adapters = adapters.iter().map(|(adapter, _)| adapter.architecture()).collect();
        Ok(Trunk { text, unet, projected: projected_texts(), adapters })
    }

    #[must_use]
    pub fn unet_config(&self) -> &UnetConfig {
        &self.blueprint.unet
    }

    /// Whether an empty negative prompt stands for no text at all, instead of for an empty text.
    #[must_use]
    pub fn zeroes_empty_negative(&self) -> bool {
        self.blueprint.layout.zeroes_empty_negative
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
        controls: &[&Guide],
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        let n = check_latents(latents, self.blueprint.unet.in_channels)?;
        if timesteps.size() != [n] {
            return Err(DiffusionError::input(format!("timesteps of shape {:?} for {n} latents", timesteps.size())));
        }
        let width = self.blueprint.unet.cross_attention_dim;
        let shape = conditioning.embeddings.size();
        let fits = matches!(*shape.as_slice(), [rows, tokens, columns] if (rows, columns) == (n, width) && tokens > 0);
        if !fits {
            return Err(DiffusionError::input(format!(
                "embeddings of shape {shape:?}, expected [{n}, tokens, {width}]"
            )));
        }
        let _no_grad = tch::no_grad_guard();
        let latents = latents.f_to_device(self.device())?;
        let (mut residuals, mut features) = (None::<Residuals>, Vec::new());
        for control in &conditioning.controls {
            let network = controls.get(control.network);
            match network.ok_or_else(|| DiffusionError::input("a ControlNet is not there"))? {
                Guide::ControlNet(network) => {
                    let added = network.forward(&latents, timesteps, conditioning, control)?;
                    residuals = Some(match residuals {
                        Some(sum) => sum.added(&added)?,
                        None => added,
                    });
                }
                Guide::Adapter(_) => add_features(&mut features, control)?,
            }
        }
        Ok(trunk.unet.forward(&latents, timesteps, conditioning, (residuals.as_ref(), &features))?)
    }

    /// Whether the UNet is told what to keep of an image beside the latents: a mask, and what is behind it.
    #[must_use]
    pub fn is_inpainting(&self) -> bool {
        self.blueprint.is_inpainting()
    }

    /// Whether the UNet is told how near each place is, beside the latents.
    #[must_use]
    pub fn is_told_depth(&self) -> bool {
        self.blueprint.is_told_depth()
    }

    /// Latents as the UNet knows them, of those that [`Self::encode`] tells of.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError> {
        Ok(self.vae.scaled(unscaled)?)
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
        self.blueprint.footprint(self.placement, self.vae_tiles_px)
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

/// Adds a T2I-Adapter's features to those of others.
fn add_features(sum: &mut Vec<Tensor>, control: &Control) -> Result<(), TchError> {
    let scaled = control.embedded.iter().map(|feature| feature.f_mul_scalar(control.scale));
    let scaled = scaled.collect::<Result<Vec<_>, _>>()?;
    if sum.is_empty() {
        *sum = scaled;
        return Ok(());
    }
    if sum.len() != scaled.len() {
        return Err(TchError::Shape("T2I-Adapters of different shapes".into()));
    }
    for (sum, feature) in sum.iter_mut().zip(&scaled) {
        *sum = sum.f_add(feature)?;
    }
    Ok(())
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
