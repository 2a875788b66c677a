//! Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without Heun's correction or churn).

use std::ops::Range;

use bildkante_shared::recipe::SigmaSpacing;
use tch::{TchError, Tensor};

use super::config::{EulerOptions, FinalSigma, Interpolation, Prediction, SchedulerConfig, Visits};
use super::edm::Preconditioned;
use super::schedule::{TrainSchedule, linspace_f32, spaced, timesteps_of, visited};
use super::{Sampling, SchedulerError, Solver, divided, scaled, sigmas};

/// How a network is shown latents and read.
#[derive(Debug, Clone, Copy)]
enum Network {
    /// Trained on signal and noise of unit variance together.
    Unit(Prediction),
    Edm(Preconditioned),
}

#[derive(Debug)]
struct Euler {
    network: Network,
    /// The noise level before each step, and after the last.
    sigmas: Vec<f32>,
}

#[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &EulerOptions,
) -> Result<Sampling, SchedulerError> {
    let train_sigmas = schedule.sigmas();
    let (mut timesteps, mut levels) = visited(config, steps, SigmaSpacing::Trained, &train_sigmas)?;
    if options.interpolation == Interpolation::LogLinear && config.visits == Visits::Spaced {
        levels = log_linear(&train_sigmas, steps)?;
    }
    if options.sigmas != SigmaSpacing::Trained {
        let ends = (options.sigma_min.unwrap_or(levels[levels.len() - 1]), options.sigma_max.unwrap_or(levels[0]));
        levels = spaced(options.sigmas, ends, steps);
        timesteps = timesteps_of(&levels, &train_sigmas);
    }
    levels.push(match options.final_sigma {
        FinalSigma::Zero => 0.0,
        FinalSigma::Min => f64::from(train_sigmas[0]),
    });
    let levels: Vec<f32> = levels.into_iter().map(|sigma| sigma as f32).collect();
    if options.continuous_timesteps && config.prediction == Prediction::Velocity {
        timesteps = levels[..steps].iter().map(|sigma| 0.25 * sigma.ln()).collect();
    }
    let init_noise_sigma = sigmas::init_noise_sigma(config.spacing, &levels);
    let mixes = sigmas::mixes(&levels[..steps]);
    let solver = Euler { network: Network::Unit(config.prediction), sigmas: levels };
    Ok(Sampling { timesteps, span, init_noise_sigma, mixes, solver: Box::new(solver) })
}

/// Evenly spaced in ln σ, from the noisiest on; one more than there are steps, as diffusers has it.
fn log_linear(train_sigmas: &[f32], steps: usize) -> Result<Vec<f64>, SchedulerError> {
    let (min, max) = (train_sigmas[0].ln(), train_sigmas[train_sigmas.len() - 1].ln());
    let logs = linspace_f32(f64::from(max), f64::from(min), steps + 1)?;
    Ok(logs.into_iter().map(|log| f64::from(log.exp())).collect())
}

/// For a network that was trained as EDM has it; `sigmas` are the levels before each step, and after the last.
pub(super) fn of_edm(network: Preconditioned, sigmas: Vec<f32>) -> Box<dyn Solver> {
    Box::new(Euler { network: Network::Edm(network), sigmas })
}

impl Solver for Euler {
    fn scale_model_input(&self, index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        match self.network {
            Network::Unit(_) => sigmas::scale_model_input(latents, self.sigmas[index]),
            Network::Edm(network) => network.shown(latents, self.sigmas[index]),
        }
    }

    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let (from, to) = (self.sigmas[index], self.sigmas[index + 1]);
        let clean = match self.network {
            Network::Unit(prediction) => sigmas::denoised(prediction, output, &latents, from)?,
            Network::Edm(network) => network.clean(&output, &latents, from)?,
        };
        let slope = divided(&latents.f_sub(&clean)?, from)?;
        latents.f_add(&scaled(&slope, to - from)?)
    }
}
