//! Trajectory consistency sampling (Zheng et al. 2024, "strategic stochastic sampling"): every step predicts the picture at a
//! level beyond the next one, by the share γ of the way, and comes back to it with fresh noise. The last step adds none.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig, TcdOptions};
use super::lcm::{distilled_timesteps, renoised};
use super::schedule::TrainSchedule;
use super::shares::Shares;
use super::timesteps::told;
use super::{Sampling, SchedulerError, Solver, StepNoise};

#[derive(Debug)]
struct TcdStep {
    /// ᾱ before the step,
    from: f32,
    /// at the level beyond the next,
    beyond: f32,
    /// and at the next one; `None` where no noise is added: after the last step, and with γ = 0.
    to: Option<f32>,
}

#[derive(Debug)]
struct Tcd {
    prediction: Prediction,
    steps: Vec<TcdStep>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &TcdOptions,
) -> Result<Sampling, SchedulerError> {
    let timesteps = distilled_timesteps(config, steps, options.distilled_steps)?;
    let planned = timesteps.iter().enumerate().map(|(i, timestep)| {
        let next = timesteps.get(i + 1).copied();
        // In float32, as PyTorch multiplies a whole number and a share.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "at most ten thousand steps")]
        let beyond = ((1.0 - options.gamma) as f32 * next.unwrap_or(0) as f32).floor() as i64;
        let to = next.filter(|_| options.gamma > 0.0).map(|next| schedule.alpha_bar(next)).transpose()?;
        Ok(TcdStep { from: schedule.alpha_bar(*timestep)?, beyond: schedule.alpha_bar(beyond)?, to })
    });
    let planned = planned.collect::<Result<Vec<_>, SchedulerError>>()?;
    let mixes = planned.iter().map(|step| Shares::of(step.from)).collect();
    let solver = Tcd { prediction: config.prediction, steps: planned };
    Ok(Sampling { timesteps: told(&timesteps), span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

impl Solver for Tcd {
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
        let TcdStep { from, beyond, to } = self.steps[index];
        let (clean, epsilon) = Shares::of(from).clean_and_noise(self.prediction, output, &latents)?;
        let predicted = Shares::of(beyond).mixed(&clean, &epsilon)?;
        renoised(predicted, to.map(|to| Shares::of(to / beyond)), noise)
    }
}
