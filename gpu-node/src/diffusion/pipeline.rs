//! From a recipe to pixels: text → noise → denoising → image.
//!
//! Owns what diffusers' `StableDiffusionPipeline` and `StableDiffusionXLPipeline` do around their networks: the order of
//! the batch (unconditional before conditional), classifier-free guidance (Ho & Salimans 2022), scaling, the loop, the
//! change from base to refiner, and the rounding of pixels. A request's state is a [`Denoising`], which asks for one
//! evaluation of a network after the other and leaves making it to its caller, so that several requests can share one.
//! Invariants: the pixels are a function of recipe, checkpoints and determinism class alone; values that are not finite
//! are an error, never a picture.

mod inputs;
pub(crate) mod parts;

use std::ops::ControlFlow;
use std::time::Instant;

use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{ControlUse, Recipe, ReferenceUse, ValidRecipe};
use tch::{Device, Kind, TchError, Tensor};

use self::inputs::Start;
use self::parts::SoFar;
use crate::diffusion::batch::BatchClass;
use crate::diffusion::denoiser::{Conditions, Control, Denoiser, ModelInput, Reference, Stage};
use crate::diffusion::device::upload;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::noise::NoiseGenerator;
use crate::diffusion::picture::Pictures;
use crate::diffusion::scheduler::{Sampler, Span};
use crate::diffusion::trace::Trace;

/// The checkpoints a recipe is drawn with.
#[derive(Debug)]
pub struct Models<N> {
    pub base: N,
    pub refiner: Option<N>,
    /// The images the recipe names.
    pub pictures: Pictures,
}

impl<N> Models<N> {
    /// Whose networks a stage runs; the base's where there is no refiner.
    #[must_use]
    pub fn at(&self, stage: Stage) -> &N {
        match stage {
            Stage::Base => &self.base,
            Stage::Refiner => self.refiner.as_ref().unwrap_or(&self.base),
        }
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

/// The steps that one checkpoint makes.
#[derive(Debug)]
struct Leg<C> {
    stage: Stage,
    sampler: Sampler,
    conditions: C,
    /// All of the sampler's timesteps, on the device.
    timesteps: Tensor,
    /// The recipe's ControlNets: when they act, and what they made of their images.
    controls: Vec<(ControlUse, Vec<Tensor>)>,
    /// The recipe's reference images: when they act, and what the networks see in them.
    references: Vec<(ReferenceUse, Reference)>,
    start: Start,
}

impl<C: Conditions> Leg<C> {
    /// The class of an evaluation.
    fn class(&self, latents: &Tensor, index: usize) -> Option<BatchClass> {
        let (_, channels, height, width) = latents.size4().ok()?;
        let latents = [self.conditions.rows(), channels + self.start.told_channels(), height, width];
        let controls = self.acting(index).map(|(network, _)| network);
        let references = self.referring(index).map(Into::into);
        Some(BatchClass::new(self.stage, latents, &self.conditions, controls, references))
    }

    /// The reference images that act in an evaluation.
    fn referring(&self, index: usize) -> impl Iterator<Item = &Reference> {
        let of = self.sampler.timesteps().len();
        let acts = move |(used, _): &&(ReferenceUse, Reference)| {
            inputs::acts((used.weight, used.start, used.end), (index, of))
        };
        self.references.iter().filter(acts).map(|(_, reference)| reference)
    }

    /// The ControlNets that act in an evaluation, each with its place in the recipe.
    fn acting(&self, index: usize) -> impl Iterator<Item = (usize, &(ControlUse, Vec<Tensor>))> {
        inputs::acting(&self.controls, (index, self.sampler.timesteps().len()))
    }
}

/// One request between its text and its image.
#[derive(Debug)]
pub struct Denoising<C> {
    /// In the order of their steps; those before `at` are over.
    legs: Vec<Leg<C>>,
    at: usize,
    latents: Tensor,
    /// Draws the initial noise, then the noise of the samplers' steps.
    noise: NoiseGenerator,
    guidance: f64,
    guidance_rescale: f64,
}

impl<C: Conditions> Denoising<C> {
    /// Encodes the text and draws the noise.
    ///
    /// # Errors
    /// When the checkpoints cannot draw the recipe, or libtorch fails.
    pub fn begin(
        models: &Models<impl Denoiser<Conditions = C>>,
        recipe: &ValidRecipe,
        trace: Option<&mut Trace>,
    ) -> Result<Self, DiffusionError> {
        Self::begin_with(models, recipe, None, trace)
    }

    /// The same of a part that begins with what was drawn so far.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub(crate) fn begin_with(
        models: &Models<impl Denoiser<Conditions = C>>,
        recipe: &ValidRecipe,
        so_far: Option<&SoFar>,
        trace: Option<&mut Trace>,
    ) -> Result<Self, DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        // A recipe is refused before any work is done for it.
        let shape = latent_shape(&models.base, recipe)?;
        let samplers = samplers(models, recipe)?;
        let legs = samplers.into_iter().map(|(stage, sampler)| {
            let networks = models.at(stage);
            let timesteps = upload(&Tensor::f_from_slice(sampler.timesteps())?, networks.device())?;
            let controls = if stage == Stage::Base { inputs::controls(models, recipe)? } else { Vec::new() };
            let conditions = networks.condition(recipe, stage)?;
            let rows = conditions.rows();
            let references = if stage == Stage::Base { inputs::references(models, recipe, rows)? } else { Vec::new() };
            Ok(Leg { stage, sampler, conditions, timesteps, controls, references, start: Start::default() })
        });
        let mut legs = legs.collect::<Result<Vec<_>, DiffusionError>>()?;
        let first = &mut legs[0];
        let mut noise = NoiseGenerator::new(recipe.seed);
        let kind = first.conditions.text().f_kind()?;
        first.start = Start::prepare(models, (recipe, so_far), (&shape, kind), &mut noise)?;
        let drawn = &first.start.noise;
        if let Some(trace) = trace {
            trace.keep_embeddings(first.conditions.text())?;
            trace.keep("noise", drawn)?;
        }
        let latents = match &first.start.noised_from {
            Some(image) => first.sampler.noised(image, drawn)?,
            None => drawn.f_mul_scalar(f64::from(first.sampler.init_noise_sigma()))?,
        };
        let (guidance, guidance_rescale) = (recipe.guidance, recipe.guidance_rescale);
        Ok(Self { legs, at: 0, latents, noise, guidance, guidance_rescale })
    }

    /// Evaluations of the networks from noise to image.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        self.legs.iter().map(|leg| leg.sampler.timesteps().len()).sum()
    }

    /// Evaluations already made.
    #[must_use]
    pub fn evaluated(&self) -> usize {
        self.legs.iter().map(|leg| leg.sampler.evaluated()).sum()
    }

    /// Whether no step is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.evaluated() >= self.evaluations()
    }

    pub const fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// The class of the next evaluation; `None` at the end. Computes nothing.
    #[must_use]
    pub fn next_class(&self) -> Option<BatchClass> {
        let leg = &self.legs[self.at];
        leg.class(&self.latents, leg.sampler.next_step()?)
    }

    /// The classes of all evaluations from here to the end, each once.
    #[must_use]
    pub fn classes(&self) -> Vec<BatchClass> {
        let legs = self.legs[self.at..].iter().filter_map(|leg| Some((leg, leg.sampler.next_step()?)));
        let evaluations = legs.flat_map(|(leg, next)| (next..leg.sampler.timesteps().len()).map(move |at| (leg, at)));
        let mut classes: Vec<_> = evaluations.filter_map(|(leg, at)| leg.class(&self.latents, at)).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// The scales of the ControlNets that act in the next evaluation: numbers that requests must have in common to share it.
    #[must_use]
    pub fn next_scales(&self) -> Vec<f64> {
        let leg = &self.legs[self.at];
        let acting = leg.sampler.next_step().map(|index| leg.acting(index));
        acting.into_iter().flatten().map(|(_, (control, _))| control.weight).collect()
    }

    /// What to evaluate a network on next; `None` at the end.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn next_input(&self) -> Result<Option<ModelInput<C>>, DiffusionError> {
        let leg = &self.legs[self.at];
        let Some(index) = leg.sampler.next_step() else { return Ok(None) };
        let _no_grad = tch::no_grad_guard();
        let rows = leg.conditions.rows();
        let scaled = leg.start.told(leg.sampler.scale_model_input(&self.latents)?)?;
        let latents = if rows == 1 { scaled } else { Tensor::f_cat(&vec![&scaled; rows_usize(rows)], 0)? };
        let timestep = leg.timesteps.f_narrow(0, i64::try_from(index).unwrap_or(i64::MAX), 1)?;
        let timesteps = timestep.f_expand([rows], false)?;
        let controls = leg
            .acting(index)
            .map(|(network, (control, embedded))| Control::new(network, embedded, rows, control.weight));
        let references = leg.referring(index).map(Reference::shallow_clone).collect();
        let conditions = leg.conditions.controlled(controls.collect::<Result<_, TchError>>()?).beside(references);
        Ok(Some(ModelInput { stage: leg.stage, latents, timesteps, conditions }))
    }

    /// Takes the network's output for the last input and makes a step with it.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn advance(&mut self, output: &Tensor) -> Result<(), DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        let output = self.guided(output)?;
        let leg = &mut self.legs[self.at];
        self.latents = leg.sampler.step(&output, &self.latents, &mut self.noise)?;
        if let Some(kept) = &leg.start.kept
            && leg.sampler.is_between_steps()
        {
            self.latents = kept.restored(&leg.sampler, &leg.start.noise, &self.latents)?;
        }
        if leg.sampler.next_step().is_none() && self.at + 1 < self.legs.len() {
            self.at += 1;
        }
        Ok(())
    }

    /// Makes all the steps that are left, alone.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn denoise(&mut self, models: &Models<impl Denoiser<Conditions = C>>) -> Result<(), DiffusionError> {
        while self.step(models)? {}
        Ok(())
    }

    /// Makes the next step, alone. `false` where none was left.
    fn step(&mut self, models: &Models<impl Denoiser<Conditions = C>>) -> Result<bool, DiffusionError> {
        let Some(ModelInput { stage, latents, timesteps, conditions }) = self.next_input()? else { return Ok(false) };
        let output = models.at(stage).predict(&latents, &timesteps, &conditions)?;
        self.advance(&output)?;
        Ok(true)
    }

    /// Draws the image behind the latents.
    ///
    /// # Errors
    /// When the networks overflowed or libtorch fails.
    pub fn decode(&self, models: &Models<impl Denoiser>) -> Result<Pixels, DiffusionError> {
        let decoded = models.at(self.last_stage()).decode(&self.latents)?;
        check_finite(&decoded, "decoding")?;
        to_pixels(&unit_range(&decoded)?)
    }

    /// # Errors
    /// When the latents hold anything that is not finite; waits for the device.
    pub fn check(&self) -> Result<(), DiffusionError> {
        check_finite(&self.latents, "denoising")
    }

    /// The stage whose networks decode the latents.
    #[must_use]
    pub fn last_stage(&self) -> Stage {
        self.legs.last().map_or(Stage::Base, |leg| leg.stage)
    }

    fn guided(&self, output: &Tensor) -> Result<Tensor, TchError> {
        let output = output.f_to_kind(Kind::Float)?;
        if output.size()[0] == 1 {
            return Ok(output);
        }
        let (unconditional, conditional) = (output.f_narrow(0, 0, 1)?, output.f_narrow(0, 1, 1)?);
        let guided = unconditional.f_add(&conditional.f_sub(&unconditional)?.f_mul_scalar(self.guidance)?)?;
        if self.guidance_rescale > 0.0 { rescaled(&guided, &conditional, self.guidance_rescale) } else { Ok(guided) }
    }
}

/// Lin et al. 2023, section 3.4: guidance that leaves the contrast of the conditional output, as far as `share` says.
fn rescaled(guided: &Tensor, conditional: &Tensor, share: f64) -> Result<Tensor, TchError> {
    let deviation = |tensor: &Tensor| tensor.f_std_dim([1, 2, 3].as_slice(), true, true);
    let restored = guided.f_mul(&deviation(conditional)?.f_div(&deviation(guided)?)?)?;
    restored.f_mul_scalar(share)?.f_add(&guided.f_mul_scalar(1.0 - share)?)
}

/// Evaluations of the networks that a recipe of one part takes.
///
/// # Errors
/// When the checkpoints cannot draw it.
pub(crate) fn evaluations(models: &Models<impl Denoiser>, recipe: &ValidRecipe) -> Result<usize, DiffusionError> {
    Ok(samplers(models, recipe)?.iter().map(|(_, sampler)| sampler.timesteps().len()).sum())
}

/// The samplers of a recipe: one for its own checkpoint, and one for the refiner where it has one.
fn samplers(models: &Models<impl Denoiser>, recipe: &ValidRecipe) -> Result<Vec<(Stage, Sampler)>, DiffusionError> {
    let steps = recipe.steps as usize;
    let config = |stage| models.at(stage).scheduler_config().with_choice(&recipe.scheduler);
    let base = config(Stage::Base)?;
    let first_step = inputs::first_step(recipe)?;
    let Some(refiner) = &recipe.refiner else {
        let span = Span { of: steps, steps: first_step..steps };
        return Ok(vec![(Stage::Base, Sampler::new(&base, span)?)]);
    };
    let (ours, theirs) = (shape_of(models.at(Stage::Base)), shape_of(models.at(Stage::Refiner)));
    if ours != theirs {
        let reason = format!("the base's latents ({ours}) are not the refiner's ({theirs})");
        return Err(DiffusionError::input(reason));
    }
    let refining = config(Stage::Refiner)?;
    let (done, begin) = (base.steps_before(steps, refiner.start)?, refining.steps_before(steps, refiner.start)?);
    for (is_idle, who) in [(done <= first_step, "the base"), (begin == steps, "the refiner")] {
        if is_idle {
            let reason = format!("`refiner.start` {} leaves {who} none of {steps} steps", refiner.start);
            return Err(DiffusionError::input(reason));
        }
    }
    let first = Sampler::new(&base, Span { of: steps, steps: first_step..done })?;
    let second = Sampler::new(&refining, Span { of: steps, steps: begin..steps })?;
    if first.is_variance_exploding() != second.is_variance_exploding() {
        let reason = format!(
            "the base's sampler {} and the refiner's {} scale latents differently: choose one for both",
            base.kind, refining.kind
        );
        return Err(DiffusionError::input(reason));
    }
    Ok(vec![(Stage::Base, first), (Stage::Refiner, second)])
}

fn shape_of(networks: &impl Denoiser) -> String {
    format!("{} channels, {} px each", networks.latent_channels(), networks.vae_factor())
}

/// Draws a recipe, all of its parts with the same networks. `on_step` is called after each evaluation of the network (done, of how many) and may stop there.
///
/// # Errors
/// When the checkpoints cannot draw the recipe, `on_step` stopped it, the networks overflowed, or libtorch fails.
pub fn generate(
    models: &Models<impl Denoiser>,
    recipe: &ValidRecipe,
    mut trace: Option<&mut Trace>,
    on_step: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Generated, DiffusionError> {
    let started = Instant::now();
    let parts: Vec<&ValidRecipe> = recipe.each_part().collect();
    let evaluations: usize = parts.iter().map(|part| self::evaluations(models, part)).sum::<Result<_, _>>()?;
    let evaluations = u32::try_from(evaluations).unwrap_or(u32::MAX);
    let mut request = Denoising::begin(models, parts[0], trace.as_deref_mut())?;
    let text_ms = elapsed_ms(started);

    let started = Instant::now();
    let (mut done, mut place) = (0, 0);
    loop {
        while request.step(models)? {
            done += 1;
            if let Some(trace) = trace.as_deref_mut() {
                trace.keep(&format!("latents.{:03}", done - 1), request.latents())?;
            }
            if on_step(done, evaluations).is_break() {
                return Err(DiffusionError::Cancelled);
            }
        }
        place += 1;
        let Some(next) = parts.get(place) else { break };
        let so_far = SoFar::of(&request, models, next, parts::enlarge_before(recipe, place))?;
        request = Denoising::begin_with(models, next, Some(&so_far), None)?;
    }
    check_finite(request.latents(), "denoising")?;
    let denoise_ms = elapsed_ms(started);

    let started = Instant::now();
    let decoded = models.at(request.last_stage()).decode(request.latents())?;
    check_finite(&decoded, "decoding")?;
    let image = unit_range(&decoded)?;
    if let Some(trace) = trace {
        trace.keep("image", &image.f_squeeze_dim(0)?)?;
    }
    let pixels = to_pixels(&image)?;
    Ok(Generated { pixels, text_ms, denoise_ms, decode_ms: elapsed_ms(started) })
}

fn latent_shape(networks: &impl Denoiser, recipe: &Recipe) -> Result<[i64; 4], DiffusionError> {
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
