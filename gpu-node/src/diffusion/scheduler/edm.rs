//! Networks that were trained as EDM has it (Karras et al. 2022, section 5 and table 1): they are shown latents at unit variance of
//! *data and noise*, are told ¼·ln σ instead of a training step, and their output is mixed with the latents.
//!
//! Owns the noise levels and that mix; how latents are stepped is Euler's method or DPM-Solver++ of several steps, as for any
//! network. There is no training schedule, so nothing that names its steps applies. Source: diffusers 0.42,
//! `EDMEulerScheduler` and `EDMDPMSolverMultistepScheduler`, whose roundings differ: the first computes levels in float64.

use std::collections::BTreeMap;
use std::ops::Range;

use bildkante_shared::recipe::SigmaSpacing;
use serde_json::Value;
use tch::{TchError, Tensor};

use super::config::{FinalSigma, Method, Prediction, SchedulerConfig};
use super::levels::FEW_STEPS;
use super::schedule::linspace_f32;
use super::timesteps::linspace;
use super::{Sampling, SchedulerError, dpm_multi, euler, scaled, sigmas};

/// The keys that only these classes have.
const KEYS: [&str; 3] = ["rho", "sigma_data", "sigma_schedule"];

/// How the noise levels lie between their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdmSpacing {
    Karras,
    /// Evenly in ln σ.
    Exponential,
}

/// How a network was trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edm {
    /// Standard deviation of the latents it was trained with.
    pub sigma_data: f64,
    pub sigma_min: f64,
    pub sigma_max: f64,
    pub spacing: EdmSpacing,
    /// The exponent of Karras' spacing.
    pub rho: f64,
}

impl Edm {
    /// Takes its keys out of those that are left; the ends of the levels are keys of other classes, too.
    ///
    /// # Errors
    /// When a value is out of bounds.
    pub(super) fn take(
        rest: &mut BTreeMap<String, Value>,
        (sigma_min, sigma_max): (Option<f64>, Option<f64>),
    ) -> Result<Self, SchedulerError> {
        let [rho, data, schedule] = KEYS.map(|key| rest.remove(key).filter(|value| !value.is_null()));
        let number = |value: Option<Value>, default: f64| value.map_or(Some(default), |value| value.as_f64());
        let edm = Self {
            sigma_data: positive("sigma_data", number(data, 0.5))?,
            sigma_min: positive("sigma_min", sigma_min.or(Some(0.002)))?,
            sigma_max: positive("sigma_max", sigma_max.or(Some(80.0)))?,
            spacing: match schedule.as_ref().map(|schedule| schedule.as_str().unwrap_or_default()) {
                None | Some("karras") => EdmSpacing::Karras,
                Some("exponential") => EdmSpacing::Exponential,
                Some(other) => return Err(refused("sigma_schedule", other, "karras or exponential")),
            },
            rho: positive("rho", number(rho, 7.0))?,
        };
        if edm.sigma_min >= edm.sigma_max {
            return Err(refused("sigma_min", edm.sigma_min, "less than sigma_max"));
        }
        Ok(edm)
    }

    /// With the spacing that a recipe names; `None` where these networks have it not.
    pub(super) const fn spaced(self, sigmas: SigmaSpacing) -> Option<Self> {
        let spacing = match sigmas {
            SigmaSpacing::Trained => self.spacing,
            SigmaSpacing::Karras => EdmSpacing::Karras,
            SigmaSpacing::Exponential => EdmSpacing::Exponential,
            SigmaSpacing::Beta | SigmaSpacing::Lu => return None,
        };
        Some(Self { spacing, ..self })
    }

    /// The levels as Euler's class computes them.
    #[allow(clippy::cast_possible_truncation, reason = "computed in float64 and kept as float32")]
    fn levels(&self, steps: usize) -> Result<Vec<f32>, SchedulerError> {
        if self.spacing == EdmSpacing::Exponential {
            return self.exponential(steps);
        }
        let (min, max) = self.roots();
        Ok(linspace(1.0, steps).into_iter().map(|ramp| (max + ramp * (min - max)).powf(self.rho) as f32).collect())
    }

    /// The levels as DPM-Solver++'s class computes them.
    #[allow(clippy::cast_possible_truncation, reason = "numbers beside float32 tensors")]
    fn levels_f32(&self, steps: usize) -> Result<Vec<f32>, SchedulerError> {
        if self.spacing == EdmSpacing::Exponential {
            return self.exponential(steps);
        }
        let (min, max) = self.roots();
        let ramp = linspace_f32(0.0, 1.0, steps)?;
        let level = |ramp: f32| (ramp * (min - max) as f32 + max as f32).powf(self.rho as f32);
        Ok(ramp.into_iter().map(level).collect())
    }

    /// A single one is the lowest, as both classes have it.
    fn exponential(&self, steps: usize) -> Result<Vec<f32>, SchedulerError> {
        let logs = linspace_f32(self.sigma_min.ln(), self.sigma_max.ln(), steps)?;
        Ok(logs.into_iter().rev().map(f32::exp).collect())
    }

    fn roots(&self) -> (f64, f64) {
        (self.sigma_min.powf(1.0 / self.rho), self.sigma_max.powf(1.0 / self.rho))
    }
}

/// A network between its levels: what it is shown, and what its output implies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preconditioned {
    prediction: Prediction,
    sigma_data: f32,
}

impl Preconditioned {
    /// What it is shown: the latents at unit variance.
    pub(super) fn shown(self, latents: &Tensor, sigma: f32) -> Result<Tensor, TchError> {
        scaled(latents, 1.0 / self.deviation(sigma))
    }

    /// The clean picture.
    pub(super) fn clean(self, output: &Tensor, latents: &Tensor, sigma: f32) -> Result<Tensor, TchError> {
        let kept = self.sigma_data * self.sigma_data / (sigma * sigma + self.sigma_data * self.sigma_data);
        let gain = sigma * self.sigma_data / self.deviation(sigma);
        let gain = if self.prediction == Prediction::Velocity { -gain } else { gain };
        scaled(latents, kept)?.f_add(&scaled(output, gain)?)
    }

    /// Of data and noise together.
    fn deviation(self, sigma: f32) -> f32 {
        (sigma * sigma + self.sigma_data * self.sigma_data).sqrt()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "numbers beside float32 tensors")]
pub(super) fn plan(
    config: &SchedulerConfig,
    edm: &Edm,
    steps: usize,
    span: Range<usize>,
) -> Result<Sampling, SchedulerError> {
    let network = Preconditioned { prediction: config.prediction, sigma_data: edm.sigma_data as f32 };
    let init_noise_sigma = (edm.sigma_max * edm.sigma_max + 1.0).sqrt() as f32;
    let levels = match &config.method {
        Method::DpmMulti(_) => edm.levels_f32(steps)?,
        _ => edm.levels(steps)?,
    };
    let timesteps = levels.iter().map(|sigma| 0.25 * sigma.ln()).collect();
    let mixes = sigmas::mixes(&levels);
    let solver = match &config.method {
        Method::DpmMulti(options) => {
            // The last step has no length then, by which higher orders divide.
            let is_euler =
                options.order == 1 || options.euler_at_final || (options.lower_order_final && steps < FEW_STEPS);
            if options.final_sigma == FinalSigma::Min && !is_euler {
                let what = "final_sigmas_type `sigma_min` without euler_at_final".to_owned();
                return Err(SchedulerError::Unsupported { kind: config.kind, what });
            }
            let last = if options.final_sigma == FinalSigma::Zero { 0.0 } else { edm.sigma_min as f32 };
            dpm_multi::of_edm(network, ended(levels, last), options)
        }
        Method::Euler(options) => {
            let lowest = levels.last().copied().unwrap_or_default();
            let last = if options.final_sigma == FinalSigma::Zero { 0.0 } else { lowest };
            euler::of_edm(network, ended(levels, last))
        }
        _ => return Err(SchedulerError::Unsupported { kind: config.kind, what: NETWORKS.to_owned() }),
    };
    Ok(Sampling { timesteps, span, init_noise_sigma, mixes, solver })
}

/// What other samplers do not step.
pub(super) const NETWORKS: &str = "networks that were trained as EDM has it";

fn ended(mut levels: Vec<f32>, last: f32) -> Vec<f32> {
    levels.push(last);
    levels
}

fn positive(key: &'static str, number: Option<f64>) -> Result<f64, SchedulerError> {
    let found = number.unwrap_or(f64::NAN);
    if (1e-6..=1e6).contains(&found) { Ok(found) } else { Err(refused(key, found, "a number of 0.000001 to 1000000")) }
}

fn refused(key: &'static str, value: impl std::fmt::Display, allowed: &str) -> SchedulerError {
    SchedulerError::Value { key, value: value.to_string().chars().take(80).collect(), allowed: allowed.to_owned() }
}
