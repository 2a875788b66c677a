//! DPM-Solver++ (Lu et al. 2022, algorithm 2, "2M"): exponential integration of the predicted clean picture, second
//! order by one remembered prediction; and the same for the stochastic equation ("2M SDE"), whose every step draws
//! noise in float32, also for latents of another kind.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{DpmOptions, FinalSigma, Prediction, SchedulerConfig, SolverType};
use super::levels::{Level, Rounding, Visiting, visits};
use super::schedule::TrainSchedule;
use super::{Sampling, SchedulerError, Solver, StepNoise, scaled};

/// Below so many steps the last ones are taken with lower order, where the config asks for it.
const FEW_STEPS: usize = 15;

#[derive(Debug)]
struct DpmPp2M {
    prediction: Prediction,
    order: u32,
    solver: SolverType,
    is_stochastic: bool,
    /// Whether the last step is Euler's.
    euler_at_end: bool,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The clean picture predicted at the step before.
    previous: Option<Tensor>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &DpmOptions,
) -> Result<Sampling, SchedulerError> {
    let DpmOptions { sigmas, final_sigma, lambda_min, .. } = *options;
    let visiting = Visiting { sigmas, final_sigma, lambda_min, rounding: Rounding::Dpm };
    let (timesteps, levels) = visits(config, schedule, steps, visiting)?;
    let euler_at_end = options.euler_at_final
        || (options.lower_order_final && timesteps.len() < FEW_STEPS)
        || final_sigma == FinalSigma::Zero;
    let mixes = levels[..steps].iter().map(|level| (level.alpha, level.sigma)).collect();
    let solver = DpmPp2M {
        prediction: config.prediction,
        order: options.order,
        solver: options.solver,
        is_stochastic: options.is_stochastic,
        euler_at_end,
        levels,
        previous: None,
    };
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

impl Solver for DpmPp2M {
    fn noise(&self, _: usize) -> StepNoise {
        if self.is_stochastic { StepNoise::Float } else { StepNoise::None }
    }

    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        noise: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let (now, next) = (self.levels[index], self.levels[index + 1]);
        let clean = now.clean(self.prediction, output, &latents)?;
        let is_last = index + 2 == self.levels.len();
        let previous = self.previous.replace(clean.shallow_clone());
        let h = next.lambda - now.lambda;
        let slope = match previous {
            Some(previous) if self.order == 2 && !(is_last && self.euler_at_end) => {
                let ratio = (now.lambda - self.levels[index - 1].lambda) / h;
                Some(scaled(&clean.f_sub(&previous)?, 1.0 / ratio)?)
            }
            _ => None,
        };
        match noise {
            Some(noise) if self.is_stochastic => self.stochastic(now, next, &latents, &clean, slope.as_ref(), &noise),
            _ => self.deterministic(now, next, &latents, &clean, slope.as_ref()),
        }
    }
}

impl DpmPp2M {
    fn deterministic(
        &self,
        now: Level,
        next: Level,
        latents: &Tensor,
        clean: &Tensor,
        slope: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        let h = next.lambda - now.lambda;
        let gain = next.alpha * ((-h).exp() - 1.0);
        let first_order = scaled(latents, next.sigma / now.sigma)?.f_sub(&scaled(clean, gain)?)?;
        match (slope, self.solver) {
            (None, _) => Ok(first_order),
            (Some(slope), SolverType::Midpoint) => first_order.f_sub(&scaled(slope, 0.5 * gain)?),
            (Some(slope), SolverType::Heun) => {
                let weight = next.alpha * (((-h).exp() - 1.0) / h + 1.0);
                first_order.f_add(&scaled(slope, weight)?)
            }
        }
    }

    fn stochastic(
        &self,
        now: Level,
        next: Level,
        latents: &Tensor,
        clean: &Tensor,
        slope: Option<&Tensor>,
        noise: &Tensor,
    ) -> Result<Tensor, TchError> {
        let h = next.lambda - now.lambda;
        let decayed = 1.0 - (-2.0 * h).exp();
        let gain = next.alpha * decayed;
        let kept = scaled(latents, next.sigma / now.sigma * (-h).exp())?;
        let mut sum = kept.f_add(&scaled(clean, gain)?)?;
        if let Some(slope) = slope {
            let weight = match self.solver {
                SolverType::Midpoint => 0.5 * gain,
                SolverType::Heun => next.alpha * (decayed / (-2.0 * h) + 1.0),
            };
            sum = sum.f_add(&scaled(slope, weight)?)?;
        }
        sum.f_add(&scaled(noise, next.sigma * decayed.sqrt())?)
    }
}
