//! What the exponential integrators share: noise levels in the variance-preserving form, and which of them a config
//! visits (source: diffusers 0.42, `DPMSolverMultistepScheduler.set_timesteps`, `UniPCMultistepScheduler.set_timesteps`).

use bildkante_shared::recipe::{SigmaSpacing, TimestepSpacing};
use tch::{TchError, Tensor};

use super::SchedulerError;
use super::config::{Betas, FinalSigma, Prediction, SchedulerConfig, Visits};
use super::schedule::{TrainSchedule, interpolated, named, spaced, timestep_of_sigma};
use super::shares::Shares;
use super::timesteps::{Grid, told};

/// Below so many steps the last ones are taken with lower order, where the config asks for it.
pub(super) const FEW_STEPS: usize = 15;

/// A noise level in the variance-preserving form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// The signal's share.
    pub(super) alpha: f32,
    /// The noise's share.
    pub(super) sigma: f32,
    /// ln(α/σ): the time in which the solvers' steps are short.
    pub(super) lambda: f32,
}

impl Level {
    /// From σ relative to the signal.
    #[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
    fn new(ratio: f64) -> Self {
        let ratio = ratio as f32;
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        let sigma = ratio * alpha;
        Self { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }

    /// σ beside the whole signal.
    pub(super) fn on_whole_signal(sigma: f32) -> Self {
        Self { alpha: 1.0, sigma, lambda: -sigma.ln() }
    }

    /// σ relative to the signal.
    pub(super) fn ratio(self) -> f32 {
        self.sigma / self.alpha
    }

    pub(super) const fn shares(self) -> Shares {
        Shares { signal: self.alpha, noise: self.sigma }
    }

    /// The clean picture that the network's output implies.
    pub(super) fn clean(self, prediction: Prediction, output: Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
        self.shares().clean(prediction, output, latents)
    }
}

/// What of a config decides the visits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visiting {
    pub(super) sigmas: SigmaSpacing,
    pub(super) final_sigma: FinalSigma,
    /// Training steps with a smaller ln(α/σ) are not visited.
    pub(super) lambda_min: f64,
    pub(super) rounding: Rounding,
}

/// In what the solvers' schedules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// DPM-Solver++ of several steps: Karras' timesteps are cut for cosine schedules; the last σ is the training schedule's
    /// smallest.
    Multi,
    /// DPM-Solver++ of single steps: Karras' timesteps are always rounded, the spacing is always `linspace`; the last σ as
    /// above.
    Single,
    /// UniPC and DEIS: Karras' timesteps are always rounded; the last σ repeats the one before it, where they are respaced.
    UniPc,
}

/// The timesteps, and the level before each of them and after the last.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most ten thousand steps")]
pub(super) fn visits(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    visiting: Visiting,
) -> Result<(Vec<f32>, Vec<Level>), SchedulerError> {
    let SchedulerConfig { kind, spacing, train_steps, steps_offset: offset, .. } = *config;
    let train_sigmas = schedule.sigmas();
    let (min, max) = (f64::from(train_sigmas[0]), f64::from(train_sigmas[train_steps - 1]));
    let spacing = if visiting.rounding == Rounding::Single { TimestepSpacing::Linspace } else { spacing };
    let (timesteps, mut ratios): (Vec<i64>, Vec<f64>) = if visiting.sigmas == SigmaSpacing::Trained {
        let timesteps = match &config.visits {
            Visits::Timesteps(timesteps) => named(timesteps, train_steps)?,
            Visits::Spaced | Visits::Sigmas(_) => {
                let last = schedule.steps_above(visiting.lambda_min);
                if steps >= last {
                    return Err(SchedulerError::Steps { kind, min: 1, max: last.saturating_sub(1), steps });
                }
                Grid { spacing, train_steps, last, steps, offset, drops_cleanest: true }.whole_timesteps()
            }
        };
        if let Some(&timestep) = timesteps.iter().find(|timestep| **timestep >= train_steps as i64) {
            return Err(SchedulerError::Timestep { timestep, train_steps });
        }
        let ratios = timesteps.iter().map(|timestep| interpolated(&train_sigmas, *timestep as f64)).collect();
        (timesteps, ratios)
    } else {
        let is_rounded = matches!(visiting.sigmas, SigmaSpacing::Karras | SigmaSpacing::Lu)
            && (visiting.rounding != Rounding::Multi || config.betas != Betas::SquaredCosine);
        let ratios = spaced(visiting.sigmas, (min, max), steps);
        let logs: Vec<f64> = train_sigmas.iter().map(|sigma| f64::from(sigma.ln())).collect();
        let timesteps = ratios.iter().map(|ratio| timestep_of_sigma(*ratio, &logs));
        let timesteps = timesteps.map(|t| if is_rounded { t.round_ties_even() as i64 } else { t as i64 }).collect();
        (timesteps, ratios)
    };
    ratios.push(match visiting.final_sigma {
        FinalSigma::Zero => 0.0,
        FinalSigma::Min if visiting.rounding == Rounding::UniPc && visiting.sigmas != SigmaSpacing::Trained => {
            ratios.last().copied().unwrap_or(min)
        }
        FinalSigma::Min => min,
    });
    Ok((told(&timesteps), ratios.into_iter().map(Level::new).collect()))
}
