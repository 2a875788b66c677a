//! What the Euler samplers share: latents that carry σ times the noise on top of the clean picture (Karras et al.
//! 2022), around a network trained on signal and noise of unit variance together.

use bildkante_shared::recipe::TimestepSpacing;
use tch::{TchError, Tensor};

use super::config::Prediction;
use super::shares::Shares;
use super::{divided, scaled};

/// All of the signal, and as much noise as the levels say.
pub(super) fn mixes(levels: &[f32]) -> Vec<Shares> {
    levels.iter().map(|sigma| Shares { signal: 1.0, noise: *sigma }).collect()
}

/// What the network is shown: the latents at unit variance.
pub(super) fn scale_model_input(latents: &Tensor, sigma: f32) -> Result<Tensor, TchError> {
    divided(latents, (sigma * sigma + 1.0).sqrt())
}

/// The clean picture that the network's output implies.
pub(super) fn denoised(
    prediction: Prediction,
    output: Tensor,
    latents: &Tensor,
    sigma: f32,
) -> Result<Tensor, TchError> {
    let variance = sigma * sigma + 1.0;
    match prediction {
        Prediction::Epsilon => latents.f_sub(&scaled(&output, sigma)?),
        Prediction::Velocity => scaled(&output, -sigma / variance.sqrt())?.f_add(&divided(latents, variance)?),
        Prediction::Sample => Ok(output),
    }
}

/// What unit noise is multiplied with to start at these sigmas. Leading spacing does not start at the noisiest step,
/// so its latents hold signal, too.
pub(super) fn init_noise_sigma(spacing: TimestepSpacing, sigmas: &[f32]) -> f32 {
    let max = sigmas.iter().copied().fold(0.0, f32::max);
    match spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => max,
        TimestepSpacing::Leading => (max * max + 1.0).sqrt(),
    }
}
