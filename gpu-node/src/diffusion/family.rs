//! The families of models, with one arm for each.
//!
//! The engine knows checkpoints, ControlNets and adapted networks by these types; each arm hands over to the folder of its
//! family. A new family is a folder beside [`sd`], which implements [`Denoiser`] and [`Conditions`], and an arm here: the
//! compiler names the places. Invariant: a recipe is drawn with networks of one family.

use std::path::Path;
use std::sync::Arc;

use bildkante_shared::checkpoint::{Digests, FileDigests};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{SchedulerChoice, ValidRecipe};
use bildkante_shared::wire::Determinism;
use tch::{Device, TchError, Tensor};

pub(crate) use super::sd::adapter_file::{AdapterError, AdapterFile};
use super::sd::adapters::Adapter;
use super::sd::identity::Identity;
use super::sd::in_memory::NetworksInMemory;
use super::sd::inversion::Word;
use super::sd::ip_adapter;
use super::sd::{self, guide, networks};
use crate::capacity::Footprint;
use crate::diffusion::denoiser::{Conditions, Control, Denoiser, Reference, Stage};
use crate::diffusion::determinism;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::loading::{CheckpointError, Placement};
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline::Models;
use crate::diffusion::scheduler::SchedulerConfig;
pub(crate) use crate::diffusion::vision::ImageEncoder;

/// What a checkpoint is, whether or not its networks are loaded. Shared by all devices.
#[derive(Debug, Clone)]
pub(crate) enum Blueprint {
    Sd(Arc<sd::Blueprint>),
}

impl Blueprint {
    /// Reads what the folder says of a checkpoint, with digests of files that are known already.
    pub(crate) fn read(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        sd::Blueprint::read(folder, placement, known).map(Arc::new).map(Self::Sd)
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Sd(blueprint) => blueprint.name(),
        }
    }

    /// What it was trained from, as `/v1/checkpoints` names it.
    pub(crate) fn family(&self) -> &'static str {
        match self {
            Self::Sd(blueprint) => blueprint.family().as_str(),
        }
    }

    /// What recipes may call it: its digest, and what that was before.
    pub(crate) fn digests(&self) -> &Digests {
        match self {
            Self::Sd(blueprint) => blueprint.digests(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digests().current
    }

    /// Bytes of its networks on a device.
    pub(crate) fn bytes(&self, placement: Placement) -> u64 {
        match self {
            Self::Sd(blueprint) => blueprint.bytes(placement),
        }
    }

    /// How much memory drawing with it takes, beside its networks.
    pub(crate) fn footprint(&self, placement: Placement, vae_tiles_px: Option<u32>) -> Arc<dyn Footprint> {
        match self {
            Self::Sd(blueprint) => Arc::new(blueprint.footprint(placement, vae_tiles_px)),
        }
    }

    /// The size it is tried at.
    pub(crate) fn trial_size_px(&self) -> (u32, u32) {
        match self {
            Self::Sd(blueprint) => blueprint.trial_size_px(),
        }
    }

    /// The sampler it is tried with.
    pub(crate) fn trial_scheduler(&self) -> SchedulerChoice {
        match self {
            Self::Sd(blueprint) => blueprint.trial_scheduler(),
        }
    }

    /// Side of an image in pixels for one latent.
    pub(crate) fn vae_factor(&self) -> u32 {
        match self {
            Self::Sd(blueprint) => blueprint.vae_factor(),
        }
    }

    /// Whether it paints into images.
    pub(crate) fn is_inpainting(&self) -> bool {
        match self {
            Self::Sd(blueprint) => blueprint.is_inpainting(),
        }
    }

    /// Whether it is told how near each place is.
    pub(crate) fn is_told_depth(&self) -> bool {
        match self {
            Self::Sd(blueprint) => blueprint.is_told_depth(),
        }
    }
}

/// A checkpoint's networks in the host's memory, laid out for one kind of device.
#[derive(Debug)]
pub(crate) enum Image {
    Sd(NetworksInMemory),
}

impl Image {
    /// Reads the networks of `folder`, which is the blueprint's.
    pub(crate) fn read(folder: &Path, blueprint: &Blueprint, placement: Placement) -> Result<Self, CheckpointError> {
        match blueprint {
            Blueprint::Sd(blueprint) => NetworksInMemory::read(folder, blueprint, placement, Device::Cpu).map(Self::Sd),
        }
    }
}

/// A loaded checkpoint.
#[derive(Debug)]
pub(crate) enum Checkpoint {
    Sd(Box<sd::Checkpoint>),
}

impl Checkpoint {
    /// Puts networks onto a device. On a processor they share the image's memory. Where `vae_tiles_px` says so, larger pictures
    /// are decoded in tiles.
    pub(crate) fn of(
        blueprint: &Blueprint,
        image: &Image,
        placement: Placement,
        vae_tiles_px: Option<u32>,
    ) -> Result<Self, CheckpointError> {
        match (blueprint, image) {
            (Blueprint::Sd(blueprint), Image::Sd(networks)) => {
                let networks = networks.in_memory_of(placement.device)?;
                let mut checkpoint = sd::Checkpoint::of(Arc::clone(blueprint), placement, networks)?;
                checkpoint.set_vae_tiles_px(vae_tiles_px);
                Ok(Self::Sd(Box::new(checkpoint)))
            }
        }
    }

    /// What recipes may call it: its digest, and what that was before.
    pub(crate) fn digests(&self) -> &Digests {
        match self {
            Self::Sd(checkpoint) => checkpoint.digests(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digests().current
    }

    pub(crate) const fn device(&self) -> Device {
        match self {
            Self::Sd(checkpoint) => checkpoint.device(),
        }
    }

    /// What computes its passes, as far as it decides bits: within it and the shapes of a pass, they repeat themselves.
    pub(crate) fn environment(&self) -> String {
        match self {
            Self::Sd(checkpoint) => determinism::environment(checkpoint.placement()),
        }
    }

    /// Within what a drawing with it can be repeated bit for bit, in passes that `requests` requests may share.
    pub(crate) fn determinism(&self, recipe: &ValidRecipe, requests: usize) -> Determinism {
        match self {
            Self::Sd(checkpoint) => checkpoint.determinism(recipe, requests),
        }
    }

    /// How many texts its own networks encoded since this was last asked.
    pub(crate) fn take_encoded(&self) -> u64 {
        match self {
            Self::Sd(checkpoint) => checkpoint.trunk().text().take_encoded(),
        }
    }

    /// Gives back the memory of what is kept for texts to come.
    pub(crate) fn forget_texts(&self) {
        match self {
            Self::Sd(checkpoint) => checkpoint.trunk().forget_texts(),
        }
    }

    /// An IP-Adapter for its denoising network; `None` where the file is none.
    pub(crate) fn ip_adapter(&self, file: &AdapterFile) -> Option<Result<IpAdapter, AdapterError>> {
        let AdapterFile::IpAdapter(file) = file else { return None };
        match self {
            Self::Sd(checkpoint) => {
                let adapter = file.load(checkpoint.unet_config(), checkpoint.placement());
                Some(adapter.map(|adapter| IpAdapter::Sd(Box::new(adapter))).map_err(Into::into))
            }
        }
    }

    /// Its networks with adapters of these weights, whose text encoders know these words.
    pub(crate) fn adapted(&self, adapters: &Adaptations) -> Result<Trunk, AdapterError> {
        match self {
            Self::Sd(checkpoint) => checkpoint.adapted(&adapters.loras, &adapters.words).map(Trunk::Sd),
        }
    }
}

/// The files that change a checkpoint's networks.
#[derive(Debug, Default)]
pub(crate) struct Adaptations {
    /// With their weights.
    loras: Vec<(Arc<Adapter>, f64)>,
    /// With what they are called.
    words: Vec<Word>,
}

impl Adaptations {
    /// Adds a LoRA with its weight. `false` where the file is none.
    pub(crate) fn add_lora(&mut self, file: AdapterFile, weight: f64) -> bool {
        let AdapterFile::Lora(adapter) = file else { return false };
        self.loras.push((adapter, weight));
        true
    }

    /// Adds a word. `false` where the file has none.
    pub(crate) fn add_word(&mut self, file: AdapterFile, token: &str) -> bool {
        let AdapterFile::Inversion(words) = file else { return false };
        self.words.push((words, token.to_owned()));
        true
    }
}

/// The networks of a checkpoint that adapters change.
#[derive(Debug)]
pub(crate) enum Trunk {
    Sd(sd::checkpoint::Trunk),
}

impl Trunk {
    /// How many texts it encoded since this was last asked.
    pub(crate) fn take_encoded(&self) -> u64 {
        match self {
            Self::Sd(trunk) => trunk.text().take_encoded(),
        }
    }
}

/// An IP-Adapter on its device, for the checkpoints of one architecture.
#[derive(Debug)]
pub(crate) enum IpAdapter {
    Sd(Box<ip_adapter::IpAdapter>),
}

impl IpAdapter {
    pub(crate) const fn identity(&self) -> &Identity {
        match self {
            Self::Sd(adapter) => adapter.identity(),
        }
    }
}

/// A ControlNet or T2I-Adapter on its device.
#[derive(Debug)]
pub(crate) enum ControlNet {
    Sd(guide::Guide),
}

impl ControlNet {
    /// Whether a folder claims to hold one.
    pub(crate) fn is_in(folder: &Path) -> bool {
        guide::Guide::is_in(folder)
    }

    pub(crate) fn load(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        guide::Guide::load_known(folder, placement, known).map(Self::Sd)
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Sd(network) => network.name(),
        }
    }

    /// What recipes may call it: its digest, and what that was before.
    pub(crate) const fn digests(&self) -> &Digests {
        match self {
            Self::Sd(network) => network.digests(),
        }
    }

    /// What it is, as `/v1/checkpoints` names it.
    pub(crate) const fn family(&self) -> &'static str {
        match self {
            Self::Sd(network) => network.family(),
        }
    }

    /// How many pictures it was shown anew since this was last asked.
    pub(crate) fn take_embedded(&self) -> u64 {
        match self {
            Self::Sd(network) => network.take_embedded(),
        }
    }

    /// Gives back the memory of what is kept for pictures to come.
    pub(crate) fn forget_pictures(&self) {
        match self {
            Self::Sd(network) => network.forget_pictures(),
        }
    }
}

/// A checkpoint with the networks that a recipe asks for.
#[derive(Debug)]
pub(crate) enum Networks<'a> {
    Sd(networks::Adapted<'a>),
}

impl<'a> Networks<'a> {
    /// The checkpoint's own networks, or those with adapters, and ControlNets in the order of the recipe.
    pub(crate) fn new(checkpoint: &'a Checkpoint, trunk: Option<&'a Trunk>, controls: &[&'a ControlNet]) -> Self {
        let Checkpoint::Sd(checkpoint) = checkpoint;
        let trunk = trunk.map_or_else(|| checkpoint.trunk(), |Trunk::Sd(trunk)| trunk);
        let controls = controls.iter().map(|ControlNet::Sd(network)| network).collect();
        Self::Sd(networks::Adapted::new(checkpoint, trunk).controlled(controls))
    }

    /// With what reads the reference images, in the order of the recipe.
    pub(crate) fn referring(self, references: &[(&'a IpAdapter, &'a ImageEncoder)]) -> Self {
        let Self::Sd(networks) = self;
        let references = references.iter().map(|(IpAdapter::Sd(adapter), encoder)| (&**adapter, *encoder)).collect();
        Self::Sd(networks.referring(references))
    }
}

impl<'a> From<&'a Checkpoint> for Models<Networks<'a>> {
    /// One checkpoint, without adapters.
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self { base: Networks::new(checkpoint, None, &[]), refiner: None, pictures: Pictures::new() }
    }
}

/// What networks are conditioned on.
#[derive(Debug)]
pub(crate) enum Conditioning {
    Sd(sd::conditioning::Conditioning),
}

impl Conditions for Conditioning {
    fn rows(&self) -> i64 {
        match self {
            Self::Sd(conditions) => conditions.rows(),
        }
    }

    fn text(&self) -> &Tensor {
        match self {
            Self::Sd(conditions) => conditions.text(),
        }
    }

    fn controls(&self) -> &[Control] {
        match self {
            Self::Sd(conditions) => conditions.controls(),
        }
    }

    fn controlled(&self, controls: Vec<Control>) -> Self {
        match self {
            Self::Sd(conditions) => Self::Sd(conditions.controlled(controls)),
        }
    }

    fn references(&self) -> &[Reference] {
        match self {
            Self::Sd(conditions) => conditions.references(),
        }
    }

    fn beside(&self, references: Vec<Reference>) -> Self {
        match self {
            Self::Sd(conditions) => Self::Sd(conditions.beside(references)),
        }
    }

    fn cat(parts: &[&Self]) -> Result<Self, TchError> {
        let parts: Vec<_> = parts.iter().map(|Self::Sd(conditions)| conditions).collect();
        Conditions::cat(&parts).map(Self::Sd)
    }

    fn unlike(&self) -> Result<Self, TchError> {
        match self {
            Self::Sd(conditions) => conditions.unlike().map(Self::Sd),
        }
    }
}

impl Denoiser for Networks<'_> {
    type Conditions = Conditioning;

    fn device(&self) -> Device {
        match self {
            Self::Sd(networks) => networks.device(),
        }
    }

    fn vae_factor(&self) -> u32 {
        match self {
            Self::Sd(networks) => networks.vae_factor(),
        }
    }

    fn latent_channels(&self) -> i64 {
        match self {
            Self::Sd(networks) => networks.latent_channels(),
        }
    }

    fn scheduler_config(&self) -> &SchedulerConfig {
        match self {
            Self::Sd(networks) => networks.scheduler_config(),
        }
    }

    fn architecture(&self, controls: &[usize]) -> Digest {
        match self {
            Self::Sd(networks) => networks.architecture(controls),
        }
    }

    fn condition(&self, recipe: &ValidRecipe, stage: Stage) -> Result<Conditioning, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.condition(recipe, stage).map(Conditioning::Sd),
        }
    }

    fn predict(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditions: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        match (self, conditions) {
            (Self::Sd(networks), Conditioning::Sd(conditions)) => networks.predict(latents, timesteps, conditions),
        }
    }

    fn is_inpainting(&self) -> bool {
        match self {
            Self::Sd(networks) => networks.is_inpainting(),
        }
    }

    fn is_told_depth(&self) -> bool {
        match self {
            Self::Sd(networks) => networks.is_told_depth(),
        }
    }

    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError> {
        match self {
            Self::Sd(networks) => networks.encode(image),
        }
    }

    fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.scaled(unscaled),
        }
    }

    fn control_factor(&self, network: usize) -> Option<u32> {
        match self {
            Self::Sd(networks) => networks.control_factor(network),
        }
    }

    fn embed_control(&self, network: usize, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.embed_control(network, image),
        }
    }

    fn embed_picture(
        &self,
        network: usize,
        picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.embed_picture(network, picture, image),
        }
    }

    fn embed_reference(
        &self,
        place: usize,
        image: (Digest, &Picture),
        rows: i64,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.embed_reference(place, image, rows),
        }
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        match self {
            Self::Sd(networks) => networks.decode(latents),
        }
    }
}
