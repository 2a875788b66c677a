//! DEIS (Zhang & Chen 2023, "tāb-DEIS" with polynomials in ln ρ, as diffusers has it): the predicted noise is the
//! polynomial through the latest predictions, integrated over ρ = σ/α exactly.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{DeisOptions, FinalSigma, Prediction, SchedulerConfig};
use super::levels::{FEW_STEPS, Level, Rounding, Visiting, visits};
use super::schedule::TrainSchedule;
use super::{Sampling, SchedulerError, Solver, divided, scaled};

#[derive(Debug)]
struct Deis {
    prediction: Prediction,
    order: usize,
    lower_order_at_end: bool,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The noise predicted so far, the latest first.
    history: Vec<Tensor>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &DeisOptions,
) -> Result<Sampling, SchedulerError> {
    let visiting = Visiting {
        sigmas: options.sigmas,
        final_sigma: FinalSigma::Min,
        lambda_min: f64::NEG_INFINITY,
        rounding: Rounding::UniPc,
    };
    let (timesteps, levels) = visits(config, schedule, steps, visiting)?;
    let mixes = levels[..steps].iter().map(|level| level.shares()).collect();
    let solver = Deis {
        prediction: config.prediction,
        order: options.order,
        lower_order_at_end: options.lower_order_final && steps < FEW_STEPS,
        levels,
        history: Vec::new(),
    };
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

impl Solver for Deis {
    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let (now, next) = (self.levels[index], self.levels[index + 1]);
        let clean = now.clean(self.prediction, output, &latents)?;
        let noise = divided(&latents.f_sub(&scaled(&clean, now.alpha)?)?, now.sigma)?;
        self.history.insert(0, noise);
        self.history.truncate(self.order);
        let left = self.levels.len() - 1 - index;
        let order = if self.lower_order_at_end { self.order.min(left) } else { self.order };
        let predicted = &self.history[..self.history.len().min(order)];
        if let [noise] = predicted {
            let h = next.lambda - now.lambda;
            return scaled(&latents, next.alpha / now.alpha)?.f_sub(&scaled(noise, next.sigma * (h.exp() - 1.0))?);
        }
        let nodes: Vec<f32> = (0..predicted.len()).map(|back| self.levels[index - back].ratio().ln()).collect();
        let mut sum = divided(&latents, now.alpha)?;
        for (own, noise) in predicted.iter().enumerate() {
            let primitive = |ratio: f32| primitive(&nodes, own, ratio);
            sum = sum.f_add(&scaled(noise, primitive(next.ratio()) - primitive(now.ratio()))?)?;
        }
        scaled(&sum, next.alpha)
    }
}

/// A primitive over ρ of the Lagrange polynomial in ln ρ that is 1 at the node `own` and 0 at the others, of which there are
/// one or two. In float32, as diffusers computes it.
fn primitive(nodes: &[f32], own: usize, ratio: f32) -> f32 {
    let log = ratio.ln();
    let mut others = nodes.iter().enumerate().filter(|(other, _)| *other != own).map(|(_, node)| *node);
    match (others.next(), others.next()) {
        (Some(c), None) => ratio * (-c + log - 1.0) / (nodes[own] - c),
        (Some(c), Some(d)) => {
            let numerator = ratio * (c * (d - log + 1.0) - d * log + d + log * log - 2.0 * log + 2.0);
            numerator / ((nodes[own] - c) * (nodes[own] - d))
        }
        (None, _) => ratio,
    }
}
