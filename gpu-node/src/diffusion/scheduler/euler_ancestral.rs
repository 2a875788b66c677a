//! Ancestral sampling with Euler steps (k-diffusion's `sample_euler_ancestral`, after Song et al. 2021): each step goes
//! below its noise level and back up to it with fresh noise. The noise is drawn for the last step, too, as diffusers
//! draws it, although nothing of it is left there.

use std::ops::Range;

use bildkante_shared::recipe::SigmaSpacing;
use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig};
use super::schedule::{TrainSchedule, visited_to_zero};
use super::{Sampling, SchedulerError, Solver, StepNoise, divided, scaled, sigmas};

#[derive(Debug)]
struct EulerAncestral {
    prediction: Prediction,
    /// The noise level before each step, and after the last.
    sigmas: Vec<f32>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
) -> Result<Sampling, SchedulerError> {
    let (timesteps, levels) = visited_to_zero(config, schedule, steps, SigmaSpacing::Trained)?;
    let init_noise_sigma = sigmas::init_noise_sigma(config.spacing, &levels);
    let mixes = sigmas::mixes(&levels[..steps]);
    let solver = EulerAncestral { prediction: config.prediction, sigmas: levels };
    Ok(Sampling { timesteps, span, init_noise_sigma, mixes, solver: Box::new(solver) })
}

impl Solver for EulerAncestral {
    fn scale_model_input(&self, index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        sigmas::scale_model_input(latents, self.sigmas[index])
    }

    fn noise(&self, _: usize) -> StepNoise {
        StepNoise::LikeLatents
    }

    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        noise: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let (from, to) = (self.sigmas[index], self.sigmas[index + 1]);
        let clean = sigmas::denoised(self.prediction, output, &latents, from)?;
        let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
        // Rounding may leave less than nothing where `from` is enormous.
        let down = (to * to - up * up).max(0.0).sqrt();
        let slope = divided(&latents.f_sub(&clean)?, from)?;
        let lower = latents.f_add(&scaled(&slope, down - from)?)?;
        let noise = noise.ok_or_else(|| TchError::Shape("an ancestral step without noise".into()))?;
        lower.f_add(&scaled(&noise, up)?)
    }
}
