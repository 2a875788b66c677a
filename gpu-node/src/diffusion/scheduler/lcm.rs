//! Latent consistency sampling (Luo et al. 2023, algorithm 3): every step predicts the clean picture and noises it
//! anew, down to the next of the few training steps the model was distilled on. The last step adds no noise.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{LcmOptions, Prediction, SchedulerConfig, Visits};
use super::schedule::{TrainSchedule, named};
use super::shares::Shares;
use super::timesteps::told;
use super::{Sampling, SchedulerError, Solver, StepNoise, scaled};

/// Standard deviation of the data that the boundary condition assumes, as the models were trained.
const SIGMA_DATA: f32 = 0.5;

#[derive(Debug)]
struct LcmStep {
    /// ᾱ before the step.
    from: f32,
    /// ᾱ to which the prediction is noised; `None` after the last step.
    to: Option<f32>,
    /// The boundary condition: how much of the latents and of the prediction is kept.
    skip: f32,
    out: f32,
}

#[derive(Debug)]
struct Lcm {
    prediction: Prediction,
    clip_range: Option<f64>,
    steps: Vec<LcmStep>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &LcmOptions,
) -> Result<Sampling, SchedulerError> {
    let timesteps = distilled_timesteps(config, steps, options.distilled_steps)?;
    let planned = timesteps.iter().enumerate().map(|(i, timestep)| {
        let to = timesteps.get(i + 1).map(|next| schedule.alpha_bar(*next)).transpose()?;
        let (skip, out) = boundary(*timestep, options.timestep_scaling);
        Ok(LcmStep { from: schedule.alpha_bar(*timestep)?, to, skip, out })
    });
    let planned = planned.collect::<Result<Vec<_>, SchedulerError>>()?;
    let mixes = planned.iter().map(|step| Shares::of(step.from)).collect();
    let solver = Lcm { prediction: config.prediction, clip_range: options.clip_range, steps: planned };
    Ok(Sampling { timesteps: told(&timesteps), span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

/// The training steps that are visited: every so manieth of those the model was distilled on, the noisiest first, or those
/// that a recipe names.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn distilled_timesteps(
    config: &SchedulerConfig,
    steps: usize,
    distilled: usize,
) -> Result<Vec<i64>, SchedulerError> {
    if let Visits::Timesteps(timesteps) = &config.visits {
        return named(timesteps, config.train_steps);
    }
    if steps > distilled {
        return Err(SchedulerError::Steps { kind: config.kind, min: 1, max: distilled, steps });
    }
    let stride = config.train_steps / distilled;
    // numpy.linspace without its end, floored.
    let index = |i: usize| (i as f64 * (distilled as f64 / steps as f64)).floor() as usize;
    Ok((0..steps).map(|i| ((distilled - index(i)) * stride) as i64 - 1).collect())
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "as PyTorch rounds them")]
fn boundary(timestep: i64, scaling: f64) -> (f32, f32) {
    let scaled = timestep as f32 * scaling as f32;
    let variance = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
    (SIGMA_DATA * SIGMA_DATA / variance, scaled / variance.sqrt())
}

impl Solver for Lcm {
    fn noise(&self, index: usize) -> StepNoise {
        if self.steps[index].to.is_some() { StepNoise::LikeLatents } else { StepNoise::None }
    }

    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        noise: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let LcmStep { from, to, skip, out } = self.steps[index];
        let mut clean = Shares::of(from).clean(self.prediction, output, &latents)?;
        if let Some(range) = self.clip_range {
            clean = clean.f_clamp(-range, range)?;
        }
        let denoised = scaled(&clean, out)?.f_add(&scaled(&latents, skip)?)?;
        renoised(denoised, to.map(Shares::of), noise)
    }
}

/// A prediction with fresh noise on it, down to the next step; as it is where there is none.
pub(super) fn renoised(predicted: Tensor, shares: Option<Shares>, noise: Option<Tensor>) -> Result<Tensor, TchError> {
    match (shares, noise) {
        (Some(shares), Some(noise)) => shares.mixed(&predicted, &noise),
        (None, _) => Ok(predicted),
        (Some(_), None) => Err(TchError::Shape("a consistency step without noise".into())),
    }
}
