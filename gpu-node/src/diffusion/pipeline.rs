//! From a recipe to pixels: text → noise → denoising → image.
//!
//! Owns what diffusers' `StableDiffusionPipeline` does around its networks: the order of the batch (unconditional
//! before conditional), classifier-free guidance (Ho & Salimans 2022), scaling, the loop, and the rounding of pixels.
//! A request's state is a [`Denoising`], which asks for one evaluation of the network after the other and does not
//! care who makes it, so that several requests can share one. Invariants: the pixels are a function of recipe,
//! checkpoint and determinism class alone; values that are not finite are an error, never a picture.

use std::time::Instant;

use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::ValidRecipe;
use tch::{Device, Kind, TchError, Tensor};

use super::scheduler::{Sampler, SchedulerConfig};
use super::trace::Trace;
use super::{Checkpoint, DiffusionError};

/// The networks of a checkpoint, as far as drawing needs them.
pub trait Networks {
    fn device(&self) -> Device;
    /// Side of an image in pixels for one latent.
    fn vae_factor(&self) -> u32;
    fn latent_channels(&self) -> i64;
    fn scheduler_config(&self) -> &SchedulerConfig;
    /// `[n, tokens, width]`, in the kind the latents are to have.
    ///
    /// # Errors
    /// When libtorch fails.
    fn encode_text(&self, prompts: &[&str]) -> Result<Tensor, DiffusionError>;
    /// The output for latents `[n, c, h, w]`, timesteps `[n]` and embeddings `[n, tokens, width]`.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    fn predict(&self, latents: &Tensor, timesteps: &Tensor, embeddings: &Tensor) -> Result<Tensor, DiffusionError>;
    /// `[n, 3, H, W]`, nominally -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError>;
}

impl Networks for Checkpoint {
    fn device(&self) -> Device {
        self.device()
    }

    fn vae_factor(&self) -> u32 {
        self.vae_factor()
    }

    fn latent_channels(&self) -> i64 {
        self.latent_channels()
    }

    fn scheduler_config(&self) -> &SchedulerConfig {
        self.scheduler_config()
    }

    fn encode_text(&self, prompts: &[&str]) -> Result<Tensor, DiffusionError> {
        self.encode_text(prompts)
    }

    fn predict(&self, latents: &Tensor, timesteps: &Tensor, embeddings: &Tensor) -> Result<Tensor, DiffusionError> {
        self.predict(latents, timesteps, embeddings)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        self.decode(latents)
    }
}

/// A drawn image and where the time went.
#[derive(Debug)]
pub struct Generated {
    pub pixels: Pixels,
    pub text_ms: f64,
    pub denoise_ms: f64,
    pub decode_ms: f64,
}

/// What becomes of a request after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepControl {
    Continue,
    Stop,
}

/// What the network is to be evaluated on: one row, or two under guidance.
#[derive(Debug)]
pub struct ModelInput {
    /// `[rows, c, h, w]`
    pub latents: Tensor,
    /// `[rows]`, float32
    pub timesteps: Tensor,
    /// `[rows, tokens, width]`
    pub embeddings: Tensor,
}

/// One request between its text and its image.
#[derive(Debug)]
pub struct Denoising {
    sampler: Sampler,
    latents: Tensor,
    /// One row, or the unconditional and the conditional one.
    embeddings: Tensor,
    /// All of the sampler's timesteps, on the device.
    timesteps: Tensor,
    guidance: f64,
}

impl Denoising {
    /// Encodes the text and draws the noise.
    ///
    /// # Errors
    /// When the checkpoint cannot draw the recipe, or libtorch fails.
    pub fn begin(
        networks: &impl Networks,
        recipe: &ValidRecipe,
        trace: Option<&mut Trace>,
    ) -> Result<Self, DiffusionError> {
        if !recipe.loras.is_empty() {
            return Err(DiffusionError::input("this node does not apply adapters (`loras`)"));
        }
        let _no_grad = tch::no_grad_guard();
        // Whatever can be refused is, before any work is done.
        let shape = latent_shape(networks, recipe)?;
        let config = networks.scheduler_config().with_choice(&recipe.scheduler)?;
        let mut sampler = Sampler::new(&config, recipe.steps, recipe.seed)?;
        let embeddings = if recipe.is_guided() {
            networks.encode_text(&[&recipe.negative_prompt, &recipe.prompt])?
        } else {
            networks.encode_text(&[&recipe.prompt])?
        };
        let device = networks.device();
        let noise = sampler.initial_noise(&shape, embeddings.f_kind()?, device)?;
        if let Some(trace) = trace {
            trace.keep_embeddings(&embeddings)?;
            trace.keep("noise", &noise)?;
        }
        let latents = noise.f_mul_scalar(f64::from(sampler.init_noise_sigma()))?;
        let timesteps = Tensor::f_from_slice(sampler.timesteps())?.f_to_device(device)?;
        Ok(Self { sampler, latents, embeddings, timesteps, guidance: recipe.guidance })
    }

    /// Evaluations of the network from noise to image.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        self.sampler.timesteps().len()
    }

    /// Evaluations already made.
    #[must_use]
    pub fn evaluated(&self) -> usize {
        self.sampler.next_step().unwrap_or_else(|| self.evaluations())
    }

    pub const fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// What to evaluate the network on next; `None` at the end.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn next_input(&self) -> Result<Option<ModelInput>, DiffusionError> {
        let Some(index) = self.sampler.next_step() else { return Ok(None) };
        let _no_grad = tch::no_grad_guard();
        let rows = self.embeddings.size()[0];
        let scaled = self.sampler.scale_model_input(&self.latents)?;
        let latents = if rows == 1 { scaled } else { Tensor::f_cat(&vec![&scaled; rows_usize(rows)], 0)? };
        let timestep = self.timesteps.f_narrow(0, i64::try_from(index).unwrap_or(i64::MAX), 1)?;
        let timesteps = timestep.f_expand([rows], false)?;
        Ok(Some(ModelInput { latents, timesteps, embeddings: self.embeddings.shallow_clone() }))
    }

    /// Takes the network's output for the last input and makes a step with it.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn advance(&mut self, output: &Tensor) -> Result<(), DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        let output = self.guided(output)?;
        self.latents = self.sampler.step(&output, &self.latents)?;
        Ok(())
    }

    fn guided(&self, output: &Tensor) -> Result<Tensor, TchError> {
        let output = output.f_to_kind(Kind::Float)?;
        if output.size()[0] == 1 {
            return Ok(output);
        }
        let (unconditional, conditional) = (output.f_narrow(0, 0, 1)?, output.f_narrow(0, 1, 1)?);
        unconditional.f_add(&conditional.f_sub(&unconditional)?.f_mul_scalar(self.guidance)?)
    }
}

/// Draws a recipe. `on_step` hears of each evaluation of the network (done, of how many) and may stop there.
///
/// # Errors
/// When the checkpoint cannot draw the recipe, `on_step` stopped it, the networks overflowed, or libtorch fails.
pub fn generate(
    networks: &impl Networks,
    recipe: &ValidRecipe,
    mut trace: Option<&mut Trace>,
    on_step: &mut dyn FnMut(u32, u32) -> StepControl,
) -> Result<Generated, DiffusionError> {
    let started = Instant::now();
    let mut request = Denoising::begin(networks, recipe, trace.as_deref_mut())?;
    let text_ms = elapsed_ms(started);

    let started = Instant::now();
    let evaluations = u32::try_from(request.evaluations()).unwrap_or(u32::MAX);
    while let Some(input) = request.next_input()? {
        let output = networks.predict(&input.latents, &input.timesteps, &input.embeddings)?;
        let done = u32::try_from(request.evaluated()).unwrap_or(u32::MAX);
        request.advance(&output)?;
        if let Some(trace) = trace.as_deref_mut() {
            trace.keep(&format!("latents.{done:03}"), request.latents())?;
        }
        if on_step(done + 1, evaluations) == StepControl::Stop {
            return Err(DiffusionError::Cancelled);
        }
    }
    check_finite(request.latents(), "denoising")?;
    let denoise_ms = elapsed_ms(started);

    let started = Instant::now();
    let decoded = networks.decode(request.latents())?;
    check_finite(&decoded, "decoding")?;
    let image = unit_range(&decoded)?;
    if let Some(trace) = trace {
        trace.keep("image", &image.f_squeeze_dim(0)?)?;
    }
    let pixels = to_pixels(&image)?;
    Ok(Generated { pixels, text_ms, denoise_ms, decode_ms: elapsed_ms(started) })
}

fn latent_shape(networks: &impl Networks, recipe: &ValidRecipe) -> Result<[i64; 4], DiffusionError> {
    let factor = networks.vae_factor().max(1);
    let (width, height) = (recipe.width_px, recipe.height_px);
    if !width.is_multiple_of(factor) || !height.is_multiple_of(factor) {
        return Err(DiffusionError::input(format!(
            "{width}×{height} px: this checkpoint draws sides that are multiples of {factor} px"
        )));
    }
    Ok([1, networks.latent_channels(), i64::from(height / factor), i64::from(width / factor)])
}

/// Waits for the device, so that the time before it has been measured.
fn check_finite(tensor: &Tensor, stage: &'static str) -> Result<(), DiffusionError> {
    let is_finite = bool::try_from(tensor.f_isfinite()?.f_all()?)?;
    if is_finite { Ok(()) } else { Err(DiffusionError::NonFinite { stage }) }
}

/// From -1..1 to 0..1, float32.
fn unit_range(decoded: &Tensor) -> Result<Tensor, TchError> {
    let _no_grad = tch::no_grad_guard();
    // Shifted in the VAE's own precision, as diffusers' image processor does.
    decoded.f_mul_scalar(0.5)?.f_add_scalar(0.5)?.f_clamp(0.0, 1.0)?.f_to_kind(Kind::Float)
}

/// Rounds to even, as numpy does.
fn to_pixels(image: &Tensor) -> Result<Pixels, DiffusionError> {
    let bytes = image.f_mul_scalar(255.0)?.f_round()?.f_to_kind(Kind::Uint8)?;
    let rows = bytes.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_to_device(Device::Cpu)?; // [1, H, W, 3]
    let (height, width) = match *rows.size().as_slice() {
        [1, height, width, 3] => (height, width),
        ref shape => return Err(DiffusionError::input(format!("a decoded image of shape {shape:?}"))),
    };
    let mut rgb = vec![0; rows.numel()];
    rows.f_copy_data(&mut rgb, rows.numel())?;
    let side = |side: i64| u32::try_from(side).unwrap_or(u32::MAX);
    Pixels::new(side(width), side(height), rgb).map_err(|error| DiffusionError::input(error.to_string()))
}

fn rows_usize(rows: i64) -> usize {
    usize::try_from(rows).unwrap_or(1)
}

fn elapsed_ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests;
