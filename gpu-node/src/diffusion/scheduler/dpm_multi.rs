//! DPM-Solver++ of several steps (Lu et al. 2022, algorithm 2, "2M" and "3M"): exponential integration of the predicted clean
//! picture, second order by one remembered prediction and third by two; and the same for the stochastic equation ("SDE"),
//! whose every step draws noise in float32, also for latents of another kind.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{DpmOptions, FinalSigma, Prediction, SchedulerConfig, SolverType};
use super::edm::Preconditioned;
use super::levels::{FEW_STEPS, Level, Rounding, Visiting, visits};
use super::schedule::TrainSchedule;
use super::{Sampling, SchedulerError, Solver, StepNoise, scaled};

/// How a network is shown latents and read.
#[derive(Debug, Clone, Copy)]
enum Network {
    /// Trained on latents that keep their variance.
    Preserving(Prediction),
    Edm(Preconditioned),
}

#[derive(Debug)]
struct DpmMulti {
    network: Network,
    order: usize,
    solver: SolverType,
    is_stochastic: bool,
    /// Whether the last step is Euler's.
    euler_at_end: bool,
    /// Whether the last step but one is at most of second order.
    lower_order_at_end: bool,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The clean pictures predicted at the steps before, the latest first.
    history: Vec<Tensor>,
}

/// Derivatives of the predicted picture along the way.
#[derive(Debug)]
enum Slopes {
    None,
    First(Tensor),
    Second(Tensor, Tensor),
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &DpmOptions,
) -> Result<Sampling, SchedulerError> {
    let DpmOptions { sigmas, final_sigma, lambda_min, .. } = *options;
    let visiting = Visiting { sigmas, final_sigma, lambda_min, rounding: Rounding::Multi };
    let (timesteps, levels) = visits(config, schedule, steps, visiting)?;
    let mixes = levels[..steps].iter().map(|level| level.shares()).collect();
    let solver = DpmMulti::new(Network::Preserving(config.prediction), levels, options);
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

/// For a network that was trained as EDM has it; `sigmas` are the levels before each step, and after the last.
pub(super) fn of_edm(network: Preconditioned, sigmas: Vec<f32>, options: &DpmOptions) -> Box<dyn Solver> {
    let levels = sigmas.into_iter().map(Level::on_whole_signal).collect();
    Box::new(DpmMulti::new(Network::Edm(network), levels, options))
}

impl Solver for DpmMulti {
    fn scale_model_input(&self, index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        match self.network {
            Network::Preserving(_) => Ok(latents.shallow_clone()),
            Network::Edm(network) => network.shown(latents, self.levels[index].sigma),
        }
    }

    fn noise(&self, _: usize) -> StepNoise {
        match self.network {
            _ if !self.is_stochastic => StepNoise::None,
            Network::Preserving(_) => StepNoise::Float,
            Network::Edm(_) => StepNoise::LikeLatents,
        }
    }

    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        noise: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let (now, next) = (self.levels[index], self.levels[index + 1]);
        let clean = match self.network {
            Network::Preserving(prediction) => now.clean(prediction, output, &latents)?,
            Network::Edm(network) => network.clean(&output, &latents, now.sigma)?,
        };
        let slopes = self.slopes(index, &clean)?;
        self.history.insert(0, clean.shallow_clone());
        self.history.truncate(self.order.saturating_sub(1));
        match noise {
            Some(noise) if self.is_stochastic => self.stochastic(now, next, &latents, &clean, &slopes, &noise),
            _ => self.deterministic(now, next, &latents, &clean, &slopes),
        }
    }
}

impl DpmMulti {
    fn new(network: Network, levels: Vec<Level>, options: &DpmOptions) -> Self {
        let lower_order_at_end = options.lower_order_final && levels.len() - 1 < FEW_STEPS;
        let euler_at_end = options.euler_at_final || lower_order_at_end || options.final_sigma == FinalSigma::Zero;
        Self {
            network,
            order: options.order,
            solver: options.solver,
            is_stochastic: options.is_stochastic,
            euler_at_end,
            lower_order_at_end,
            levels,
            history: Vec::new(),
        }
    }

    /// As many derivatives as the order of this step and what is remembered allow.
    fn slopes(&self, index: usize, clean: &Tensor) -> Result<Slopes, TchError> {
        let left = self.levels.len() - 1 - index;
        let order = match left {
            1 if self.euler_at_end => 1,
            2 if self.lower_order_at_end => self.order.min(2),
            _ => self.order,
        };
        let lambda = |index: usize| self.levels[index].lambda;
        let h = lambda(index + 1) - lambda(index);
        let ratio = |back: usize| (lambda(index - back) - lambda(index - back - 1)) / h;
        let [latest, older @ ..] = &self.history[..self.history.len().min(order - 1)] else { return Ok(Slopes::None) };
        let near = scaled(&clean.f_sub(latest)?, 1.0 / ratio(0))?;
        let [oldest, ..] = older else { return Ok(Slopes::First(near)) };
        let (r0, r1) = (ratio(0), ratio(1));
        let far = scaled(&latest.f_sub(oldest)?, 1.0 / r1)?;
        let change = near.f_sub(&far)?;
        let first = near.f_add(&scaled(&change, r0 / (r0 + r1))?)?;
        Ok(Slopes::Second(first, scaled(&change, 1.0 / (r0 + r1))?))
    }

    fn deterministic(
        &self,
        now: Level,
        next: Level,
        latents: &Tensor,
        clean: &Tensor,
        slopes: &Slopes,
    ) -> Result<Tensor, TchError> {
        let h = next.lambda - now.lambda;
        let decay = (-h).exp() - 1.0;
        let gain = next.alpha * decay;
        let first_order = scaled(latents, next.sigma / now.sigma)?.f_sub(&scaled(clean, gain)?)?;
        let weight = next.alpha * (decay / h + 1.0);
        match (slopes, self.solver) {
            (Slopes::None, _) => Ok(first_order),
            (Slopes::First(slope), SolverType::Midpoint) => first_order.f_sub(&scaled(slope, 0.5 * gain)?),
            (Slopes::First(slope), SolverType::Heun) => first_order.f_add(&scaled(slope, weight)?),
            // The third order has one form.
            (Slopes::Second(first, second), _) => {
                let bend = next.alpha * ((decay + h) / (h * h) - 0.5);
                first_order.f_add(&scaled(first, weight)?)?.f_sub(&scaled(second, bend)?)
            }
        }
    }

    fn stochastic(
        &self,
        now: Level,
        next: Level,
        latents: &Tensor,
        clean: &Tensor,
        slopes: &Slopes,
        noise: &Tensor,
    ) -> Result<Tensor, TchError> {
        let h = next.lambda - now.lambda;
        let decayed = 1.0 - (-2.0 * h).exp();
        let gain = next.alpha * decayed;
        let kept = scaled(latents, next.sigma / now.sigma * (-h).exp())?;
        let mut sum = kept.f_add(&scaled(clean, gain)?)?;
        let weight = next.alpha * (decayed / (-2.0 * h) + 1.0);
        match (slopes, self.solver) {
            (Slopes::None, _) => {}
            (Slopes::First(slope), SolverType::Midpoint) => sum = sum.f_add(&scaled(slope, 0.5 * gain)?)?,
            (Slopes::First(slope), SolverType::Heun) => sum = sum.f_add(&scaled(slope, weight)?)?,
            (Slopes::Second(first, second), _) => {
                let bend = next.alpha * ((decayed - 2.0 * h) / (4.0 * h * h) - 0.5);
                sum = sum.f_add(&scaled(first, weight)?)?.f_add(&scaled(second, bend)?)?;
            }
        }
        sum.f_add(&scaled(noise, next.sigma * decayed.sqrt())?)
    }
}
