//! The training noise schedule: ᾱ and σ for every training step.
//!
//! Owns the tables the samplers look things up in, in the precision and order of rounding of diffusers (float32
//! tensors, float64 where numpy computes), because a sampler is compared with it step by step. Sources: Ho et al. 2020
//! (linear betas), Rombach et al. 2022 (scaled linear), Nichol & Dhariwal 2021 (cosine), Lin et al. 2023 (zero
//! terminal signal-to-noise ratio), Karras et al. 2022 (spacing of sigmas).

use bildkante_shared::recipe::{SchedulerKind, SigmaSpacing};
use special::Beta as _;
use tch::{Device, Kind, Tensor};

use super::SchedulerError;
use super::config::{Betas, SchedulerConfig, Visits};
use super::timesteps::{Grid, told};

/// Largest beta of the cosine schedule.
const COSINE_BETA_MAX: f64 = 0.999;
/// Stands for a terminal ᾱ of zero where σ must stay finite: float16's smallest number.
const ALPHA_BAR_MIN: f32 = 1.0 / 16_777_216.0;
/// The exponent of Karras et al. 2022.
const RHO: f64 = 7.0;

/// ᾱ, the fraction of signal left, after each training step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainSchedule {
    alpha_bars: Vec<f32>,
}

impl TrainSchedule {
    pub(super) fn new(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let mut betas = betas(&config.betas, config.train_steps)?;
        if config.rescale_zero_snr {
            betas = rescaled_to_zero_snr(&betas);
        }
        let mut alpha_bars = cumulative_alphas(&betas);
        let needs_sigmas =
            !matches!(config.kind, SchedulerKind::Ddim | SchedulerKind::Pndm | SchedulerKind::Lcm | SchedulerKind::Tcd);
        if let Some(last) = alpha_bars.last_mut().filter(|_| needs_sigmas && config.rescale_zero_snr) {
            *last = ALPHA_BAR_MIN;
        }
        Ok(Self { alpha_bars })
    }

    pub(super) fn len(&self) -> usize {
        self.alpha_bars.len()
    }

    /// ᾱ after training step `timestep`.
    pub(super) fn alpha_bar(&self, timestep: i64) -> Result<f32, SchedulerError> {
        let bar = usize::try_from(timestep).ok().and_then(|t| self.alpha_bars.get(t)).copied();
        bar.ok_or(SchedulerError::Timestep { timestep, train_steps: self.len() })
    }

    /// ᾱ after `timestep`, or before the first one where it is negative.
    pub(super) fn alpha_bar_before(&self, timestep: i64, one_at_end: bool) -> Result<f32, SchedulerError> {
        match (timestep < 0, one_at_end) {
            (true, true) => Ok(1.0),
            (true, false) => self.alpha_bar(0),
            (false, _) => self.alpha_bar(timestep),
        }
    }

    /// √((1 − ᾱ)/ᾱ): the noise level relative to the signal, rising with the training step.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        self.alpha_bars.iter().map(|bar| ((1.0 - bar) / bar).sqrt()).collect()
    }

    /// The training step up to which ln(α/σ) is at least `lambda_min`.
    pub(super) fn steps_above(&self, lambda_min: f64) -> usize {
        let lambda = |bar: &f32| bar.sqrt().ln() - (1.0 - bar).sqrt().ln();
        #[allow(clippy::cast_possible_truncation, reason = "compared in float32, as the table is")]
        let bound = lambda_min as f32;
        self.len() - self.alpha_bars.iter().filter(|bar| lambda(bar) < bound).count()
    }
}

fn betas(betas: &Betas, steps: usize) -> Result<Vec<f32>, SchedulerError> {
    match betas {
        Betas::Linear { start, end } => linspace_f32(*start, *end, steps),
        Betas::ScaledLinear { start, end } => {
            Ok(linspace_f32(start.sqrt(), end.sqrt(), steps)?.into_iter().map(|root| root * root).collect())
        }
        Betas::SquaredCosine => Ok(cosine_betas(steps)),
        Betas::Trained(betas) => Ok(betas.clone()),
    }
}

/// `torch.linspace` in float32. libtorch computes it because how it rounds depends on the CPU's vector width.
pub(super) fn linspace_f32(start: f64, end: f64, count: usize) -> Result<Vec<f32>, SchedulerError> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let points = Tensor::f_linspace(start, end, count, (Kind::Float, Device::Cpu))?;
    Ok(Vec::try_from(&points)?)
}

fn cosine_betas(steps: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    let at = |step: usize| alpha_bar(step as f64 / steps as f64);
    #[allow(clippy::cast_possible_truncation, reason = "the table is float32")]
    (0..steps).map(|step| (1.0 - at(step + 1) / at(step)).min(COSINE_BETA_MAX) as f32).collect()
}

/// ∏(1 − β), accumulated in double precision and rounded at each step, as `torch.cumprod` does on a CPU.
fn cumulative_alphas(betas: &[f32]) -> Vec<f32> {
    let products = betas.iter().scan(1.0_f64, |product, beta| {
        *product *= f64::from(1.0 - beta);
        Some(*product)
    });
    #[allow(clippy::cast_possible_truncation, reason = "the table is float32")]
    products.map(|product| product as f32).collect()
}

/// Lin et al. 2023, algorithm 1: shifts and scales √ᾱ so that the last step holds no signal and the first is kept.
fn rescaled_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_alphas(betas).iter().map(|bar| bar.sqrt()).collect();
    let (Some(first), Some(last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let scale = first / (first - last);
    let bars: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let alphas = bars.iter().enumerate().map(|(i, bar)| if i == 0 { *bar } else { bar / bars[i - 1] });
    alphas.map(|alpha| 1.0 - alpha).collect()
}

/// Karras et al. 2022, equation 5: `count` sigmas from `max` down to `min`.
fn karras_sigmas(min: f64, max: f64, count: usize) -> Vec<f64> {
    let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    super::timesteps::linspace(1.0, count).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
}

/// `count` sigmas from `max` down to `min`, evenly in ln σ.
fn exponential_sigmas(min: f64, max: f64, count: usize) -> Vec<f64> {
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    let step = (min.ln() - max.ln()) / (count.max(2) - 1) as f64;
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    let mut sigmas: Vec<f64> = (0..count).map(|i| (i as f64 * step + max.ln()).exp()).collect();
    // numpy.linspace ends exactly.
    if let Some(last) = sigmas.last_mut().filter(|_| count > 1) {
        *last = min.ln().exp();
    }
    sigmas
}

/// `count` sigmas from `max` down to `min`, at quantiles of the beta distribution (Lee et al. 2024, "Beta Sampling is All
/// You Need"): more of them near both ends.
fn beta_sigmas(min: f64, max: f64, count: usize) -> Vec<f64> {
    /// Both parameters of the distribution.
    const SHAPE: f64 = 0.6;
    let log_beta = SHAPE.ln_beta(SHAPE);
    let quantile = |ramp: f64| (1.0 - ramp).inv_inc_beta(SHAPE, SHAPE, log_beta);
    super::timesteps::linspace(1.0, count).into_iter().map(|ramp| min + quantile(ramp) * (max - min)).collect()
}

/// `count` sigmas from `max` down to `min`. Trained ones have no spacing of their own, and are spaced as Karras' here.
pub(super) fn spaced(spacing: SigmaSpacing, (min, max): (f64, f64), count: usize) -> Vec<f64> {
    match spacing {
        // Evenly in ln(α/σ) is evenly in ln σ.
        SigmaSpacing::Exponential | SigmaSpacing::Lu => exponential_sigmas(min, max, count),
        SigmaSpacing::Beta => beta_sigmas(min, max, count),
        SigmaSpacing::Karras | SigmaSpacing::Trained => karras_sigmas(min, max, count),
    }
}

/// The (fractional) timesteps that have these sigmas.
#[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
pub(super) fn timesteps_of(sigmas: &[f64], train_sigmas: &[f32]) -> Vec<f32> {
    let logs: Vec<f64> = train_sigmas.iter().map(|sigma| f64::from(sigma.ln())).collect();
    sigmas.iter().map(|sigma| timestep_of_sigma(*sigma, &logs) as f32).collect()
}

/// Timesteps and the sigmas of each, as a config wants them visited: for samplers whose latents carry the whole signal.
#[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
pub(super) fn visited(
    config: &SchedulerConfig,
    steps: usize,
    spacing: SigmaSpacing,
    train_sigmas: &[f32],
) -> Result<(Vec<f32>, Vec<f64>), SchedulerError> {
    let SchedulerConfig { spacing: grid, train_steps, steps_offset: offset, .. } = *config;
    let timesteps: Vec<f32> = match &config.visits {
        Visits::Spaced => {
            let grid = Grid { spacing: grid, train_steps, last: train_steps, steps, offset, drops_cleanest: false };
            grid.timesteps().into_iter().map(|timestep| timestep as f32).collect()
        }
        Visits::Timesteps(timesteps) => told(&named(timesteps, train_steps)?),
        Visits::Sigmas(sigmas) => {
            // numpy keeps them as float32 before it looks for their timesteps.
            let sigmas: Vec<f64> = sigmas[..steps].iter().map(|sigma| f64::from(*sigma as f32)).collect();
            return Ok((timesteps_of(&sigmas, train_sigmas), sigmas));
        }
    };
    let levels: Vec<f64> = timesteps.iter().map(|t| interpolated(train_sigmas, f64::from(*t))).collect();
    if spacing == SigmaSpacing::Trained {
        return Ok((timesteps, levels));
    }
    let levels = spaced(spacing, (levels[levels.len() - 1], levels[0]), steps);
    Ok((timesteps_of(&levels, train_sigmas), levels))
}

/// The same with the sigmas as diffusers keeps them, in float32, and 0 after the last.
#[allow(clippy::cast_possible_truncation, reason = "numpy computes in float64 and keeps float32")]
pub(super) fn visited_to_zero(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    spacing: SigmaSpacing,
) -> Result<(Vec<f32>, Vec<f32>), SchedulerError> {
    let (timesteps, levels) = visited(config, steps, spacing, &schedule.sigmas())?;
    Ok((timesteps, levels.into_iter().chain([0.0]).map(|sigma| sigma as f32).collect()))
}

/// The timesteps that a recipe names, where the training schedule has them.
pub(super) fn named(timesteps: &[u32], train_steps: usize) -> Result<Vec<i64>, SchedulerError> {
    let all = timesteps.iter().map(|timestep| i64::from(*timestep));
    match timesteps.first().filter(|first| **first as usize >= train_steps) {
        Some(first) => Err(SchedulerError::Timestep { timestep: i64::from(*first), train_steps }),
        None => Ok(all.collect()),
    }
}

/// The (fractional) training step whose σ this is, by linear interpolation of ln σ.
pub(super) fn timestep_of_sigma(sigma: f64, log_sigmas: &[f64]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let at_or_below = log_sigmas.iter().rposition(|known| log_sigma >= *known).unwrap_or(0);
    let low = at_or_below.min(log_sigmas.len() - 2);
    let weight = (log_sigmas[low] - log_sigma) / (log_sigmas[low] - log_sigmas[low + 1]);
    let weight = weight.clamp(0.0, 1.0);
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    let low = low as f64;
    (1.0 - weight) * low + weight * (low + 1.0)
}

/// `numpy.interp` of a table at whole indices, constant beyond its ends.
pub(super) fn interpolated(table: &[f32], at: f64) -> f64 {
    let last = table.len() - 1;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to an index of the table")]
    let low = at.clamp(0.0, last as f64).floor() as usize;
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    if low == last || at <= low as f64 {
        return f64::from(table[low]);
    }
    let (from, to) = (f64::from(table[low]), f64::from(table[low + 1]));
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    return (to - from) * (at - low as f64) + from;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(json: &str) -> TrainSchedule {
        let json = serde_json::from_str(json).expect("json");
        let config = SchedulerConfig::from_json(&json).expect("a valid config");
        TrainSchedule::new(&config).expect("a schedule")
    }

    #[test]
    fn products_round_as_torch_rounds_them() {
        let betas = betas(&Betas::ScaledLinear { start: 0.00085, end: 0.012 }, 1000).expect("betas");
        let torch = (1.0_f64 - Tensor::from_slice(&betas)).cumprod(0, Kind::Float);
        assert_eq!(cumulative_alphas(&betas), Vec::<f32>::try_from(&torch).expect("floats"));
    }

    #[test]
    fn stable_diffusion_has_its_known_noise_levels() {
        let sd1 = schedule(
            r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
                "beta_schedule": "scaled_linear"}"#,
        );
        let sigmas = sd1.sigmas();
        assert!((sigmas[0] - 0.029_167_5).abs() < 1e-6, "{}", sigmas[0]);
        assert!((sigmas[999] - 14.6146).abs() < 1e-3, "{}", sigmas[999]);
    }

    #[test]
    fn zero_snr_leaves_no_signal_at_the_end_and_keeps_the_beginning() {
        let json = |class: &str, zero: bool| {
            schedule(&format!(r#"{{"_class_name": "{class}", "rescale_betas_zero_snr": {zero}}}"#))
        };
        let (plain, ddim) = (json("DDIMScheduler", false), json("DDIMScheduler", true));
        assert_eq!(ddim.alpha_bar(999).ok(), Some(0.0));
        assert!((ddim.alpha_bars[0] - plain.alpha_bars[0]).abs() < 1e-6);
        assert!((json("EulerDiscreteScheduler", true).sigmas()[999] - 4096.0).abs() < 0.01);
    }

    #[test]
    fn lookups_outside_of_the_schedule_are_errors() {
        let ddim = schedule(r#"{"_class_name": "DDIMScheduler"}"#);
        assert!(ddim.alpha_bar(1000).is_err());
        assert!(ddim.alpha_bar(-1).is_err());
        assert_eq!(ddim.alpha_bar_before(-1, true).ok(), Some(1.0));
        assert_eq!(ddim.alpha_bar_before(-1, false).ok(), ddim.alpha_bar(0).ok());
    }

    #[test]
    fn a_sigma_is_found_again_between_its_neighbours() {
        let logs = [0.0, 1.0, 3.0];
        assert_eq!(timestep_of_sigma(1.0_f64.exp(), &logs), 1.0);
        assert!((timestep_of_sigma(2.0_f64.exp(), &logs) - 1.5).abs() < 1e-12);
        assert_eq!(timestep_of_sigma(1e9, &logs), 2.0);
        assert_eq!(timestep_of_sigma(1e-20, &logs), 0.0);
    }

    #[test]
    fn interpolation_stays_inside_the_table() {
        let table = [1.0, 2.0, 4.0];
        assert_eq!(interpolated(&table, 1.5), 3.0);
        assert_eq!(interpolated(&table, -1.0), 1.0);
        assert_eq!(interpolated(&table, 9.0), 4.0);
    }

    #[test]
    fn karras_sigmas_go_from_the_largest_to_the_smallest() {
        let sigmas = karras_sigmas(0.03, 14.6, 5);
        assert!((sigmas[0] - 14.6).abs() < 1e-9 && (sigmas[4] - 0.03).abs() < 1e-9);
        assert!(sigmas.is_sorted_by(|a, b| a > b));
        assert_eq!(karras_sigmas(0.03, 14.6, 1).len(), 1);
    }
}
