//! Which sampler draws, and what of the checkpoint's own configuration of it a recipe overrides.

use serde::{Deserialize, Serialize};

use super::RecipeError;
use crate::limits;

/// A sampler by its usual name; how it is configured comes from the checkpoint's `scheduler_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerKind {
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    Heun,
    /// Linear multistep, of order 4.
    Lms,
    #[serde(rename = "dpmpp_2s")]
    DpmPp2S,
    #[serde(rename = "dpmpp_2m")]
    DpmPp2M,
    /// The same as a stochastic equation: every step draws noise.
    #[serde(rename = "dpmpp_2m_sde")]
    DpmPp2MSde,
    #[serde(rename = "dpmpp_3m")]
    DpmPp3M,
    #[serde(rename = "dpmpp_3m_sde")]
    DpmPp3MSde,
    #[serde(rename = "unipc")]
    UniPc,
    Deis,
    Lcm,
    /// Trajectory consistency, for models distilled by it.
    Tcd,
}

impl SchedulerKind {
    pub const ALL: [Self; 15] = [
        Self::Ddim,
        Self::Pndm,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Lms,
        Self::DpmPp2S,
        Self::DpmPp2M,
        Self::DpmPp2MSde,
        Self::DpmPp3M,
        Self::DpmPp3MSde,
        Self::UniPc,
        Self::Deis,
        Self::Lcm,
        Self::Tcd,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_ancestral",
            Self::Heun => "heun",
            Self::Lms => "lms",
            Self::DpmPp2S => "dpmpp_2s",
            Self::DpmPp2M => "dpmpp_2m",
            Self::DpmPp2MSde => "dpmpp_2m_sde",
            Self::DpmPp3M => "dpmpp_3m",
            Self::DpmPp3MSde => "dpmpp_3m_sde",
            Self::UniPc => "unipc",
            Self::Deis => "deis",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }
}

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SchedulerKind {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| RecipeError::Scheduler { name: text.chars().take(40).collect() })
    }
}

/// How inference steps are laid over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Leading,
    Trailing,
    Linspace,
}

impl TimestepSpacing {
    pub const ALL: [Self; 3] = [Self::Leading, Self::Trailing, Self::Linspace];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }
}

/// How the noise levels between the noisiest and the cleanest step are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaSpacing {
    /// As the training steps that are visited have them.
    Trained,
    /// Karras et al. 2022, equation 5.
    Karras,
    /// Evenly in ln σ.
    Exponential,
    /// By quantiles of the beta distribution (Lee et al. 2024).
    Beta,
    /// Evenly in ln(α/σ) (Lu et al. 2022), at whole training steps.
    Lu,
}

impl SigmaSpacing {
    pub const ALL: [Self; 5] = [Self::Trained, Self::Karras, Self::Exponential, Self::Beta, Self::Lu];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::Beta => "beta",
            Self::Lu => "lu",
        }
    }
}

/// What the network's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise in the latents (Ho et al. 2020).
    Epsilon,
    /// The velocity α·ε − σ·x₀ (Salimans & Ho 2022).
    #[serde(rename = "v_prediction")]
    Velocity,
    /// The clean latents themselves.
    Sample,
}

impl Prediction {
    pub const ALL: [Self; 3] = [Self::Epsilon, Self::Velocity, Self::Sample];

    /// As `prediction_type` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::Velocity => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

/// What of the checkpoint's own scheduler a recipe overrides; an empty one overrides nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerChoice {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SchedulerKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Spacing of the sigmas, where the sampler knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<SigmaSpacing>,
    /// Rescales the training schedule so that its last step holds no signal (Lin et al. 2023, section 3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_terminal_snr: Option<bool>,
    /// Where the checkpoint does not say so: distilled networks are loaded into another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// How much of each step's noise is fresh: 0 (none) to 1. DDIM's η, which is 0 by itself, and TCD's γ, which is 0.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// The training steps to visit, from the noisiest down, one for each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timesteps: Vec<u32>,
    /// The noise levels to visit, from the noisiest down, one for each step, and 0 after the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sigma_values: Vec<f64>,
}

/// Why a choice cannot be honoured by any sampler.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleFault {
    #[error("`eta` is 0 to 1, not {0}")]
    Eta(f64),
    #[error("`{list}` needs {wanted} values for {steps} steps and has {count}")]
    Count { list: &'static str, wanted: usize, steps: u32, count: usize },
    #[error("`timesteps` descend from at most {}, and {at} follows {before}", limits::TRAIN_STEPS_MAX - 1)]
    Timesteps { at: u32, before: u32 },
    #[error("`sigma_values` descend from below {} to 0 at the end, and {at} follows {before}", limits::SIGMA_MAX)]
    Sigmas { at: f64, before: f64 },
    #[error("only one of `sigmas`, `timesteps` and `sigma_values` says which noise levels are visited")]
    Several,
}

impl SchedulerChoice {
    /// # Errors
    /// When it is contradictory, or no choice for so many steps.
    pub fn check(&self, steps: u32) -> Result<(), ScheduleFault> {
        if let Some(eta) = self.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return Err(ScheduleFault::Eta(eta));
        }
        let says = [self.sigmas.is_some(), !self.timesteps.is_empty(), !self.sigma_values.is_empty()];
        if says.into_iter().filter(|says| *says).count() > 1 {
            return Err(ScheduleFault::Several);
        }
        check_timesteps(&self.timesteps, steps)?;
        check_sigmas(&self.sigma_values, steps)
    }
}

fn check_count(list: &'static str, count: usize, wanted: usize, steps: u32) -> Result<(), ScheduleFault> {
    if count == wanted { Ok(()) } else { Err(ScheduleFault::Count { list, wanted, steps, count }) }
}

fn check_timesteps(timesteps: &[u32], steps: u32) -> Result<(), ScheduleFault> {
    if timesteps.is_empty() {
        return Ok(());
    }
    check_count("timesteps", timesteps.len(), steps as usize, steps)?;
    let before = std::iter::once(limits::TRAIN_STEPS_MAX).chain(timesteps.iter().copied());
    match before.zip(timesteps).find(|(before, at)| **at >= *before) {
        Some((before, at)) => Err(ScheduleFault::Timesteps { at: *at, before }),
        None => Ok(()),
    }
}

fn check_sigmas(sigmas: &[f64], steps: u32) -> Result<(), ScheduleFault> {
    let Some(last) = sigmas.last() else { return Ok(()) };
    check_count("sigma_values", sigmas.len(), steps as usize + 1, steps)?;
    let before = std::iter::once(limits::SIGMA_MAX).chain(sigmas.iter().copied());
    // A value that is no number does not descend.
    let descends = |(before, at): &(f64, &f64)| **at < *before;
    if let Some((before, at)) = before.zip(sigmas).find(|step| !descends(step)) {
        return Err(ScheduleFault::Sigmas { at: *at, before });
    }
    match *last == 0.0 {
        true => Ok(()),
        false => Err(ScheduleFault::Sigmas { at: *last, before: sigmas[sigmas.len() - 2] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_json_are_those_of_the_command_line() {
        for kind in SchedulerKind::ALL {
            assert_eq!(serde_json::to_value(kind).ok(), Some(kind.as_str().into()));
            assert_eq!(kind.as_str().parse::<SchedulerKind>(), Ok(kind));
        }
        for spacing in SigmaSpacing::ALL {
            assert_eq!(serde_json::to_value(spacing).ok(), Some(spacing.as_str().into()));
        }
        for prediction in Prediction::ALL {
            assert_eq!(serde_json::to_value(prediction).ok(), Some(prediction.as_str().into()));
        }
    }

    #[test]
    fn a_choice_that_contradicts_itself_is_refused_by_name() {
        let check = |change: fn(&mut SchedulerChoice)| {
            let mut choice = SchedulerChoice::default();
            change(&mut choice);
            choice.check(2).map_err(|fault| fault.to_string())
        };
        let refused = |change, words: &str| {
            let said = check(change).expect_err(words);
            assert!(said.contains(words), "{said}");
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|choice| choice.timesteps = vec![999, 0]), Ok(()));
        assert_eq!(check(|choice| choice.sigma_values = vec![14.6, 0.03, 0.0]), Ok(()));
        refused(|choice| choice.eta = Some(1.5), "`eta` is 0 to 1, not 1.5");
        refused(|choice| choice.eta = Some(f64::NAN), "`eta` is 0 to 1");
        refused(|choice| choice.timesteps = vec![999], "`timesteps` needs 2 values for 2 steps and has 1");
        refused(|choice| choice.timesteps = vec![10, 10], "10 follows 10");
        refused(|choice| choice.timesteps = vec![10_000, 1], "10000 follows 10000");
        refused(|choice| choice.sigma_values = vec![14.6, 0.0], "needs 3 values");
        refused(|choice| choice.sigma_values = vec![14.6, 3.0, 0.5], "0.5 follows 3");
        refused(|choice| choice.sigma_values = vec![14.6, 14.7, 0.0], "14.7 follows 14.6");
        refused(|choice| choice.sigma_values = vec![f64::INFINITY, 1.0, 0.0], "inf follows");
        refused(|choice| choice.sigma_values = vec![1.0, f64::NAN, 0.0], "NaN follows 1");
        refused(
            |choice| {
                choice.sigmas = Some(SigmaSpacing::Karras);
                choice.timesteps = vec![9, 1];
            },
            "only one of",
        );
    }

    #[test]
    fn an_empty_choice_leaves_no_trace() {
        assert_eq!(serde_json::to_string(&SchedulerChoice::default()).ok().as_deref(), Some("{}"));
    }
}
