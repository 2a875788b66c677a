//! Linear multistep (Adams-Bashforth with the unequal steps of a noise schedule; k-diffusion's `sample_lms`): the slope is the
//! polynomial through the latest four, integrated over the step. diffusers integrates numerically; a polynomial is
//! integrated exactly here, which agrees within float32's rounding. A way that begins in the middle counts its own slopes:
//! diffusers takes coefficients there that belong to slopes it does not have.

use std::ops::Range;

use bildkante_shared::recipe::SigmaSpacing;
use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig};
use super::schedule::{TrainSchedule, visited_to_zero};
use super::{Sampling, SchedulerError, Solver, divided, scaled, sigmas};

/// Slopes that the polynomial goes through, at most.
const ORDER: usize = 4;

#[derive(Debug)]
struct Lms {
    prediction: Prediction,
    /// The noise level before each step, and after the last.
    sigmas: Vec<f32>,
    /// The slopes so far, the latest first.
    slopes: Vec<Tensor>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    spacing: SigmaSpacing,
) -> Result<Sampling, SchedulerError> {
    let (timesteps, levels) = visited_to_zero(config, schedule, steps, spacing)?;
    let init_noise_sigma = sigmas::init_noise_sigma(config.spacing, &levels);
    let mixes = sigmas::mixes(&levels[..steps]);
    let solver = Lms { prediction: config.prediction, sigmas: levels, slopes: Vec::new() };
    Ok(Sampling { timesteps, span, init_noise_sigma, mixes, solver: Box::new(solver) })
}

impl Solver for Lms {
    fn scale_model_input(&self, index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        sigmas::scale_model_input(latents, self.sigmas[index])
    }

    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let from = self.sigmas[index];
        let clean = sigmas::denoised(self.prediction, output, &latents, from)?;
        self.slopes.insert(0, divided(&latents.f_sub(&clean)?, from)?);
        self.slopes.truncate(ORDER);
        let nodes: Vec<f64> = (0..self.slopes.len()).map(|back| f64::from(self.sigmas[index - back])).collect();
        let to = f64::from(self.sigmas[index + 1]);
        let weighted = self.slopes.iter().zip(weights(&nodes, to)).map(|(slope, weight)| scaled(slope, weight));
        let sum = weighted.reduce(|sum, next| sum?.f_add(&next?)).unwrap_or_else(|| Ok(latents.zeros_like()))?;
        latents.f_add(&sum)
    }
}

/// The integral from the first node to `to` of each node's Lagrange polynomial.
#[allow(clippy::cast_possible_truncation, reason = "coefficients are float32 numbers")]
fn weights(nodes: &[f64], to: f64) -> Vec<f32> {
    let from = nodes[0];
    let weight = |own: usize| {
        // Around `from`, so that nothing is lost where sigmas are large: coefficients by rising power.
        let mut polynomial = vec![1.0];
        for (other, node) in nodes.iter().enumerate().filter(|(other, _)| *other != own) {
            let (scale, root) = (nodes[own] - nodes[other], node - from);
            let mut next = vec![0.0; polynomial.len() + 1];
            for (power, coefficient) in polynomial.iter().enumerate() {
                next[power] -= coefficient * root / scale;
                next[power + 1] += coefficient / scale;
            }
            polynomial = next;
        }
        let step = to - from;
        let terms = polynomial.iter().zip(1_u8..);
        terms.map(|(coefficient, power)| coefficient * step.powi(i32::from(power)) / f64::from(power)).sum::<f64>()
    };
    (0..nodes.len()).map(|own| weight(own) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_integrate_polynomials_up_to_their_order_exactly() {
        let nodes = [3.0, 4.5, 7.0, 11.0];
        for order in 1..=nodes.len() {
            let weights = weights(&nodes[..order], 1.0);
            for power in 0..order {
                let power = i32::try_from(power).expect("small");
                let sum: f64 = weights.iter().zip(nodes).map(|(w, node)| f64::from(*w) * f64::powi(node, power)).sum();
                let exact = (1.0 - f64::powi(3.0, power + 1)) / f64::from(power + 1);
                assert!((sum - exact).abs() < 1e-5 * exact.abs(), "order {order}, power {power}: {sum} {exact}");
            }
        }
    }
}
