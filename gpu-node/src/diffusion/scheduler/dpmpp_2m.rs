//! DPM-Solver++ (Lu et al. 2022, algorithm 2, "2M"): exponential integration of the predicted clean picture, second
//! order by one remembered prediction.

use tch::{TchError, Tensor};

use super::config::{Betas, DpmOptions, FinalSigma, Prediction, SchedulerConfig, SolverType};
use super::schedule::{TrainSchedule, interpolated, karras_sigmas, timestep_of_sigma};
use super::timesteps::Grid;
use super::{Plan, SchedulerError, Solver, divided, scaled};

/// Below so many steps the last ones are taken with lower order, where the config asks for it.
const FEW_STEPS: usize = 15;

/// A noise level in the variance-preserving form.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// The signal's share.
    alpha: f32,
    /// The noise's share.
    sigma: f32,
    /// ln(α/σ): the time in which the solver's steps are short.
    lambda: f32,
}

impl Level {
    /// From σ relative to the signal.
    fn new(ratio: f32) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        let sigma = ratio * alpha;
        Self { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }
}

#[derive(Debug)]
struct DpmPp2M {
    prediction: Prediction,
    order: u32,
    solver: SolverType,
    /// Whether the last step is Euler's.
    euler_at_end: bool,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The clean picture predicted at the step before.
    previous: Option<Tensor>,
}

#[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    options: &DpmOptions,
) -> Result<Plan, SchedulerError> {
    let (timesteps, mut ratios) = visits(config, schedule, steps, options)?;
    ratios.push(match options.final_sigma {
        FinalSigma::Zero => 0.0,
        FinalSigma::Min => f64::from(schedule.sigmas()[0]),
    });
    let euler_at_end = options.euler_at_final
        || (options.lower_order_final && timesteps.len() < FEW_STEPS)
        || options.final_sigma == FinalSigma::Zero;
    let solver = DpmPp2M {
        prediction: config.prediction,
        order: options.order,
        solver: options.solver,
        euler_at_end,
        levels: ratios.into_iter().map(|ratio| Level::new(ratio as f32)).collect(),
        previous: None,
    };
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    let timesteps = timesteps.into_iter().map(|timestep| timestep as f32).collect();
    Ok(Plan { timesteps, init_noise_sigma: 1.0, solver: Box::new(solver) })
}

/// Timesteps and the σ/α at each.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most ten thousand steps")]
fn visits(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    options: &DpmOptions,
) -> Result<(Vec<i64>, Vec<f64>), SchedulerError> {
    let SchedulerConfig { kind, spacing, train_steps, steps_offset: offset, .. } = *config;
    let train_sigmas = schedule.sigmas();
    if options.karras_sigmas {
        let ratios = karras_sigmas(f64::from(train_sigmas[0]), f64::from(train_sigmas[train_steps - 1]), steps);
        let logs: Vec<f64> = train_sigmas.iter().map(|sigma| f64::from(sigma.ln())).collect();
        let is_cosine = config.betas == Betas::SquaredCosine;
        let timesteps = ratios.iter().map(|ratio| timestep_of_sigma(*ratio, &logs));
        let timesteps = timesteps.map(|t| if is_cosine { t as i64 } else { t.round_ties_even() as i64 }).collect();
        return Ok((timesteps, ratios));
    }
    let last = schedule.steps_above(options.lambda_min);
    if steps >= last {
        return Err(SchedulerError::Steps { kind, min: 1, max: last.saturating_sub(1), steps });
    }
    let timesteps = Grid { spacing, train_steps, last, steps, offset, drops_cleanest: true }.whole_timesteps();
    if let Some(&timestep) = timesteps.iter().find(|timestep| **timestep >= train_steps as i64) {
        return Err(SchedulerError::Timestep { timestep, train_steps });
    }
    let ratios = timesteps.iter().map(|timestep| interpolated(&train_sigmas, *timestep as f64)).collect();
    Ok((timesteps, ratios))
}

impl Solver for DpmPp2M {
    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let (now, next) = (self.levels[index], self.levels[index + 1]);
        let clean = self.clean(output, &latents, now)?;
        let is_last = index + 2 == self.levels.len();
        let previous = self.previous.replace(clean.shallow_clone());
        let kept = scaled(&latents, next.sigma / now.sigma)?;
        let h = next.lambda - now.lambda;
        let gain = next.alpha * ((-h).exp() - 1.0);
        let first_order = kept.f_sub(&scaled(&clean, gain)?)?;
        match previous {
            Some(previous) if self.order == 2 && !(is_last && self.euler_at_end) => {
                let ratio = (now.lambda - self.levels[index - 1].lambda) / h;
                let slope = scaled(&clean.f_sub(&previous)?, 1.0 / ratio)?;
                match self.solver {
                    SolverType::Midpoint => first_order.f_sub(&scaled(&slope, 0.5 * gain)?),
                    SolverType::Heun => {
                        let weight = next.alpha * (((-h).exp() - 1.0) / h + 1.0);
                        first_order.f_add(&scaled(&slope, weight)?)
                    }
                }
            }
            _ => Ok(first_order),
        }
    }
}

impl DpmPp2M {
    fn clean(&self, output: Tensor, latents: &Tensor, level: Level) -> Result<Tensor, TchError> {
        let Level { alpha, sigma, .. } = level;
        match self.prediction {
            Prediction::Epsilon => divided(&latents.f_sub(&scaled(&output, sigma)?)?, alpha),
            Prediction::Velocity => scaled(latents, alpha)?.f_sub(&scaled(&output, sigma)?),
            Prediction::Sample => Ok(output),
        }
    }
}
