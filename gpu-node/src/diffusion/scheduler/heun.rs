//! Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without churn): an Euler step, then the
//! same step again with the mean of the slopes at both its ends. Every step but the last evaluates the network twice.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{HeunOptions, Prediction, SchedulerConfig};
use super::schedule::{TrainSchedule, visited_to_zero};
use super::{Sampling, SchedulerError, Solver, divided, scaled, sigmas};

/// The Euler step that is waiting for its correction.
#[derive(Debug)]
struct Pending {
    start: Tensor,
    slope: Tensor,
}

#[derive(Debug)]
struct Heun {
    prediction: Prediction,
    clip_range: Option<f64>,
    /// The noise level before each step, and after the last.
    sigmas: Vec<f32>,
    pending: Option<Pending>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &HeunOptions,
) -> Result<Sampling, SchedulerError> {
    let (timesteps, levels) = visited_to_zero(config, schedule, steps, options.sigmas)?;
    // A step is evaluated at its start and at its end, which is the next one's start; the last one only at its start.
    let evaluations = timesteps[..1].iter().chain(timesteps[1..].iter().flat_map(|t| [t, t])).copied().collect();
    let end = if span.end == steps { 2 * steps - 1 } else { 2 * span.end };
    let init_noise_sigma = sigmas::init_noise_sigma(config.spacing, &levels);
    let seen: Vec<f32> = (0..2 * steps - 1).map(|evaluation| levels[evaluation.div_ceil(2)]).collect();
    let mixes = sigmas::mixes(&seen);
    let solver = Heun { prediction: config.prediction, clip_range: options.clip_range, sigmas: levels, pending: None };
    let span = 2 * span.start..end;
    Ok(Sampling { timesteps: evaluations, span, init_noise_sigma, mixes, solver: Box::new(solver) })
}

impl Heun {
    /// The level at which an evaluation looks at the latents.
    fn seen(&self, evaluation: usize) -> f32 {
        self.sigmas[evaluation.div_ceil(2)]
    }
}

impl Solver for Heun {
    fn scale_model_input(&self, index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        sigmas::scale_model_input(latents, self.seen(index))
    }

    fn is_between_steps(&self) -> bool {
        self.pending.is_none()
    }

    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let (from, to) = (self.sigmas[index / 2], self.sigmas[index / 2 + 1]);
        let seen = self.seen(index);
        let mut clean = sigmas::denoised(self.prediction, output, &latents, seen)?;
        if let Some(range) = self.clip_range {
            clean = clean.f_clamp(-range, range)?;
        }
        let slope = divided(&latents.f_sub(&clean)?, seen)?;
        let (start, slope) = match self.pending.take() {
            Some(first) => {
                let mean = divided(&first.slope.f_add(&slope)?, 2.0)?;
                (first.start, mean)
            }
            None => {
                self.pending = Some(Pending { start: latents.shallow_clone(), slope: slope.shallow_clone() });
                (latents, slope)
            }
        };
        start.f_add(&scaled(&slope, to - from)?)
    }
}
