//! Latents as shares of signal and noise, and what the network's output implies of them.

use tch::{TchError, Tensor};

use super::config::Prediction;
use super::{divided, scaled};

/// How much of the clean picture and how much noise is in the latents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) signal: f32,
    pub(super) noise: f32,
}

impl Shares {
    /// From ᾱ: its root, and that of what is left.
    pub(super) fn of(alpha_bar: f32) -> Self {
        Self { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() }
    }

    /// The clean picture.
    pub(super) fn clean(self, prediction: Prediction, output: Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
        match prediction {
            Prediction::Epsilon => divided(&latents.f_sub(&scaled(&output, self.noise)?)?, self.signal),
            Prediction::Velocity => scaled(latents, self.signal)?.f_sub(&scaled(&output, self.noise)?),
            Prediction::Sample => Ok(output),
        }
    }

    /// The clean picture and the noise on it.
    pub(super) fn clean_and_noise(
        self,
        prediction: Prediction,
        output: Tensor,
        latents: &Tensor,
    ) -> Result<(Tensor, Tensor), TchError> {
        let clean = self.clean(prediction, output.shallow_clone(), latents)?;
        let noise = match prediction {
            Prediction::Epsilon => output,
            Prediction::Velocity => scaled(&output, self.signal)?.f_add(&scaled(latents, self.noise)?)?,
            Prediction::Sample => divided(&latents.f_sub(&scaled(&clean, self.signal)?)?, self.noise)?,
        };
        Ok((clean, noise))
    }

    /// Latents with these shares.
    pub(super) fn mixed(self, clean: &Tensor, noise: &Tensor) -> Result<Tensor, TchError> {
        scaled(clean, self.signal)?.f_add(&scaled(noise, self.noise)?)
    }
}
