//! A checkpoint with the networks that a recipe asks for, behind the [`Denoiser`] that every family implements.
//!
//! Source of the conditions: `StableDiffusionPipeline.__call__` and `StableDiffusionXLPipeline.__call__` of diffusers 0.42.

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{RefinerUse, ValidRecipe};
use tch::{Device, TchError, Tensor};

use super::checkpoint::{Checkpoint, Trunk};
use super::conditioning::{self, Conditioning, Numbers};
use super::controlnet::ControlNet;
use super::guide::Guide;
use super::ip_adapter::IpAdapter;
use crate::diffusion::denoiser::{Denoiser, Stage};
use crate::diffusion::error::DiffusionError;
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline::Models;
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::text::{Prompt, PromptEmbedding};
use crate::diffusion::vision::ImageEncoder;

/// A checkpoint with the networks a recipe asks for: its own or those with adapters, and ControlNets.
#[derive(Debug, Clone)]
pub struct Adapted<'a> {
    checkpoint: &'a Checkpoint,
    trunk: &'a Trunk,
    /// In the order of the recipe.
    controls: Vec<&'a Guide>,
    /// What reads the reference images, in the order of the recipe. Only the beginning of a drawing needs it.
    references: Vec<(&'a IpAdapter, &'a ImageEncoder)>,
}

impl<'a> Adapted<'a> {
    #[must_use]
    pub const fn new(checkpoint: &'a Checkpoint, trunk: &'a Trunk) -> Self {
        Self { checkpoint, trunk, controls: Vec::new(), references: Vec::new() }
    }

    /// With adapted networks where there are some, else with the checkpoint's own.
    #[must_use]
    pub fn with(checkpoint: &'a Checkpoint, trunk: Option<&'a Trunk>) -> Self {
        Self::new(checkpoint, trunk.unwrap_or(checkpoint.trunk()))
    }

    /// With these ControlNets and T2I-Adapters, in the order in which a recipe names them.
    #[must_use]
    pub fn controlled(self, controls: Vec<&'a Guide>) -> Self {
        Self { controls, ..self }
    }

    /// With what reads reference images, in the order in which a recipe names them.
    #[must_use]
    pub fn referring(self, references: Vec<(&'a IpAdapter, &'a ImageEncoder)>) -> Self {
        Self { references, ..self }
    }

    fn control(&self, network: usize) -> Result<&'a Guide, DiffusionError> {
        let found = self.controls.get(network).copied();
        found.ok_or_else(|| DiffusionError::input("a ControlNet is not there"))
    }
}

impl<'a> From<&'a Checkpoint> for Adapted<'a> {
    /// Without adapters.
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self::new(checkpoint, checkpoint.trunk())
    }
}

impl Denoiser for Adapted<'_> {
    type Conditions = Conditioning;

    fn device(&self) -> Device {
        self.checkpoint.device()
    }

    fn vae_factor(&self) -> u32 {
        self.checkpoint.vae_factor()
    }

    fn latent_channels(&self) -> i64 {
        self.checkpoint.latent_channels()
    }

    fn scheduler_config(&self) -> &SchedulerConfig {
        self.checkpoint.scheduler_config()
    }

    fn architecture(&self, controls: &[usize]) -> Digest {
        let acting = controls.iter().map(|at| self.controls.get(*at).map(|network| network.architecture()));
        let (unet, adapters) = (self.checkpoint.unet_config(), self.trunk.adapters());
        let built = format!("{unet:?} {adapters:?} {:?}", acting.collect::<Vec<_>>());
        Digest::of_bytes(built.as_bytes())
    }

    fn condition(&self, recipe: &ValidRecipe, stage: Stage) -> Result<Conditioning, DiffusionError> {
        let (config, text) = (self.checkpoint.unet_config(), self.trunk.text());
        if config.added.is_none() && (recipe.sizes.is_some() || recipe.negative_sizes.is_some()) {
            return Err(DiffusionError::input("`sizes` is for Stable Diffusion XL: this checkpoint is told none"));
        }
        let prompt = |text: &String| {
            let (weighting, clip_skip) = (recipe.weighting, recipe.clip_skip);
            Prompt { text: text.clone(), weighting, clip_skip }
        };
        let (positive, negative) = (&prompt(&recipe.prompt), &prompt(&recipe.negative_prompt));
        // A network that is told the scale was distilled to need no second row.
        let is_guided = recipe.is_guided() && config.guidance_embed_dim.is_none();
        let _no_grad = tch::no_grad_guard();
        let texts = if is_guided { vec![negative, positive] } else { vec![positive] };
        let chunks = text.chunks(&texts, recipe.long_prompt)?;
        let (sizes, negative_sizes) = conditioning::sizes(recipe);
        let refiner = recipe.refiner.as_ref().filter(|_| stage == Stage::Refiner);
        let default = (RefinerUse::aesthetic_score(), RefinerUse::negative_aesthetic_score());
        let (score, negative_score) =
            refiner.map_or(default, |refiner| (refiner.aesthetic_score, refiner.negative_aesthetic_score));
        let conditional = text.encode(positive.clone(), chunks)?;
        let mut prompts = vec![Some(positive)];
        let mut rows = vec![(conditional, Numbers { sizes, score })];
        if is_guided {
            let is_nothing = negative.text.is_empty() && self.checkpoint.zeroes_empty_negative();
            let unconditional =
                if is_nothing { rows[0].0.zeros_like()? } else { text.encode(negative.clone(), chunks)? };
            rows.insert(0, (unconditional, Numbers { sizes: negative_sizes, score: negative_score }));
            prompts.insert(0, (!is_nothing).then_some(negative));
        }
        let projected = |control: Option<&ControlNet>| {
            let texts = prompts.iter().zip(&rows);
            let texts = texts.map(|(prompt, (text, _))| self.trunk.project(control, (*prompt, chunks), &text.hidden));
            texts.collect::<Result<Vec<_>, TchError>>()
        };
        let control_texts = self.controls.iter().map(|control| match control {
            Guide::ControlNet(network) => projected(Some(network)),
            // It reads no text.
            Guide::Adapter(_) => Ok(Vec::new()),
        });
        let control_texts = control_texts.collect::<Result<_, _>>()?;
        let projected = projected(None)?;
        let rows: Vec<(&PromptEmbedding, Numbers)> = rows.iter().map(|(text, numbers)| (text, *numbers)).collect();
        let conditions = conditioning::assemble(config, &rows, recipe.guidance, self.device())?;
        Ok(Conditioning { projected, control_texts, ..conditions })
    }

    fn predict(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditions: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        self.checkpoint.predict_with(self.trunk, &self.controls, latents, timesteps, conditions)
    }

    fn is_inpainting(&self) -> bool {
        self.checkpoint.is_inpainting()
    }

    fn is_told_depth(&self) -> bool {
        self.checkpoint.is_told_depth()
    }

    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError> {
        self.checkpoint.encode(image)
    }

    fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError> {
        self.checkpoint.scaled(unscaled)
    }

    fn control_factor(&self, network: usize) -> Option<u32> {
        self.controls.get(network).map(|network| network.factor())
    }

    fn embed_control(&self, network: usize, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError> {
        self.control(network)?.embed(image)
    }

    fn embed_picture(
        &self,
        network: usize,
        picture: Digest,
        image: impl FnOnce() -> Result<Tensor, DiffusionError>,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        self.control(network)?.embed_picture(picture, image)
    }

    fn embed_reference(
        &self,
        place: usize,
        image: (Digest, &Picture),
        rows: i64,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        let found = self.references.get(place);
        let (adapter, encoder) = found.ok_or_else(|| DiffusionError::input("an IP-Adapter is not there"))?;
        adapter.check_encoder(encoder).map_err(DiffusionError::input)?;
        Ok(adapter.embed(encoder, image, rows > 1)?)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        self.checkpoint.decode(latents)
    }
}

impl<'a> From<&'a Checkpoint> for Models<Adapted<'a>> {
    /// One checkpoint, without adapters.
    fn from(base: &'a Checkpoint) -> Self {
        Self { base: base.into(), refiner: None, pictures: Pictures::new() }
    }
}
