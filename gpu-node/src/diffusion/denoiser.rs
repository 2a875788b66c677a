//! What the way from text to pixels asks of a family of models. It says nothing of how a network looks inside.
//!
//! A family implements [`Denoiser`] for its networks and [`Conditions`] for what they are told beside latents and timesteps.
//! [`pipeline`](super::pipeline) and [`batch`](super::batch) know nothing else of it. Invariant: rows are independent. What a
//! row comes to depends on its own latents, timestep and conditions, and on the shape of the batch alone.

use std::fmt;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use serde::{Deserialize, Serialize};
use tch::{Device, TchError, Tensor};

use crate::diffusion::error::DiffusionError;
pub use crate::diffusion::layers::reference::Reference;
use crate::diffusion::picture::Picture;
use crate::diffusion::scheduler::SchedulerConfig;

/// Which checkpoint of a recipe makes a step: its own, or that of its refiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Base,
    Refiner,
}

/// What a network is conditioned on, as rows: one for a request without guidance, the unconditional row before the conditional
/// one under guidance. Rows of several requests may follow each other.
pub trait Conditions: fmt::Debug + Sized {
    fn rows(&self) -> i64;
    /// The states of each row's text: `[n, tokens, width]`, of the kind the latents are to have.
    fn text(&self) -> &Tensor;
    /// The control images that act, in the order in which they do.
    fn controls(&self) -> &[Control];
    /// The same conditions, sharing their tensors, under other control images.
    #[must_use]
    fn controlled(&self, controls: Vec<Control>) -> Self;
    /// The reference images that act, in the order of the recipe.
    fn references(&self) -> &[Reference] {
        &[]
    }
    /// The same conditions, sharing their tensors, beside these reference images. A family that looks at none is given none.
    #[must_use]
    fn beside(&self, references: Vec<Reference>) -> Self;
    /// Rows of several requests, one after the other. All of them are told the same kinds of things.
    ///
    /// # Errors
    /// When they are not, or libtorch fails.
    fn cat(parts: &[&Self]) -> Result<Self, TchError>;
    /// Conditions of the same shape with other numbers in them, to find out whether one row's numbers change another's result.
    ///
    /// # Errors
    /// When libtorch fails.
    fn unlike(&self) -> Result<Self, TchError>;

    /// Tokens of each row's text.
    fn tokens(&self) -> i64 {
        self.text().size().get(1).copied().unwrap_or(0)
    }
}

/// An image that a ControlNet reads, or another network that holds the picture to it.
#[derive(Debug)]
pub struct Control {
    /// Which network reads it, among the recipe's.
    pub network: usize,
    /// What the network made of it, which no step changes: `[n, c, h, w]` each ([`Denoiser::embed_control`]).
    pub embedded: Vec<Tensor>,
    /// How much of what it says is added.
    pub scale: f64,
}

impl Control {
    pub(crate) fn shallow_clone(&self) -> Self {
        Self { embedded: self.embedded.iter().map(Tensor::shallow_clone).collect(), ..*self }
    }

    /// Of an image that all rows of a request are held to.
    pub(crate) fn new(network: usize, embedded: &[Tensor], rows: i64, scale: f64) -> Result<Self, TchError> {
        let expanded = embedded.iter().map(|part| part.f_expand([rows, -1, -1, -1], false));
        Ok(Self { network, embedded: expanded.collect::<Result<_, _>>()?, scale })
    }
}

/// The networks of a checkpoint, as far as drawing needs them: what a family of models implements.
pub trait Denoiser {
    type Conditions: Conditions;

    fn device(&self) -> Device;
    /// Side of an image in pixels for one latent.
    fn vae_factor(&self) -> u32;
    fn latent_channels(&self) -> i64;
    fn scheduler_config(&self) -> &SchedulerConfig;
    /// A digest of all that decides, beside the shapes of an input, which kernels compute it: how the denoising network, its
    /// adapters and the ControlNets at these places of the recipe are built. The numbers in them are not part of it.
    fn architecture(&self, controls: &[usize]) -> Digest;
    /// The recipe's conditions: the unconditional row first, where there is one. The embeddings are of the kind the
    /// latents are to have.
    ///
    /// # Errors
    /// When the networks cannot be told what the recipe asks for, or libtorch fails.
    fn condition(&self, recipe: &ValidRecipe, stage: Stage) -> Result<Self::Conditions, DiffusionError>;
    /// The output for latents `[n, c, h, w]` and timesteps `[n]` under conditions of as many rows.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    fn predict(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditions: &Self::Conditions,
    ) -> Result<Tensor, DiffusionError>;
    /// Whether the network is told a mask and what is behind it, beside the latents.
    fn is_inpainting(&self) -> bool;
    /// Whether the network is told how near each place of the picture is, beside the latents.
    fn is_told_depth(&self) -> bool {
        false
    }
    /// Mean and logarithm of the variance of the unscaled latents behind an image `[1, 3, H, W]` of -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError>;
    /// Latents as the network knows them, of unscaled ones.
    ///
    /// # Errors
    /// When libtorch fails.
    fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError>;
    /// Side in pixels of an image for one latent, as the ControlNet at a place of the recipe reads it.
    fn control_factor(&self, network: usize) -> Option<u32>;
    /// What that ControlNet makes of an image `[1, 3, H, W]` of 0 to 1: `[1, c, h, w]` each.
    ///
    /// # Errors
    /// When it is not there or libtorch fails.
    fn embed_control(&self, network: usize, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError>;
    /// The same of a picture by its digest, which may be kept for the next request that names it.
    ///
    /// # Errors
    /// As [`Self::embed_control`], or what `image` fails at.
    fn embed_picture(
        &self,
        network: usize,
        _picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        self.embed_control(network, &image()?)
    }
    /// What the networks see in the reference image at a place of the recipe, which has a digest: keys and values, `[rows, tokens, 2c]` each, the
    /// unconditional row first where there is one.
    ///
    /// # Errors
    /// When its adapter is not there or libtorch fails.
    fn embed_reference(
        &self,
        place: usize,
        image: (Digest, &Picture),
        rows: i64,
    ) -> Result<Vec<Tensor>, DiffusionError>;
    /// `[n, 3, H, W]`, nominally -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError>;
}

/// What the network is to be evaluated on: one row, or two under guidance.
#[derive(Debug)]
pub struct ModelInput<C> {
    pub stage: Stage,
    /// `[rows, c, h, w]`
    pub latents: Tensor,
    /// `[rows]`, float32
    pub timesteps: Tensor,
    pub conditions: C,
}
