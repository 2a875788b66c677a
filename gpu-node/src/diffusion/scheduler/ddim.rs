//! DDIM (Song, Meng & Ermon 2021, equation 12): a step between any two training steps, deterministic with η = 0, and with as
//! much fresh noise as a step of DDPM with η = 1. With η above 0 noise is drawn for the last step, too, as diffusers draws
//! it.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig};
use super::schedule::TrainSchedule;
use super::shares::Shares;
use super::timesteps::{Grid, told};
use super::{Sampling, SchedulerError, Solver, StepNoise, scaled};

#[derive(Debug)]
struct Ddim {
    prediction: Prediction,
    clip_range: Option<f64>,
    eta: f32,
    /// ᾱ before and after each step.
    alpha_bars: Vec<(f32, f32)>,
}

#[allow(clippy::cast_possible_truncation, reason = "latents are float32")]
pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    alpha_one_at_end: bool,
    clip_range: Option<f64>,
    eta: f64,
) -> Result<Sampling, SchedulerError> {
    let SchedulerConfig { spacing, train_steps, steps_offset: offset, .. } = *config;
    let grid = Grid { spacing, train_steps, last: train_steps, steps, offset, drops_cleanest: false };
    let timesteps: Vec<i64> = grid.whole_timesteps();
    // With every spacing the step is as long as whole training steps fit.
    let stride = i64::try_from(train_steps / steps).unwrap_or(i64::MAX);
    let alpha_bars = timesteps.iter().map(|timestep| {
        let to = schedule.alpha_bar_before(timestep - stride, alpha_one_at_end)?;
        Ok((schedule.alpha_bar(*timestep)?, to))
    });
    let alpha_bars = alpha_bars.collect::<Result<Vec<(f32, f32)>, SchedulerError>>()?;
    let mixes = alpha_bars.iter().map(|(from, _)| Shares::of(*from)).collect();
    let solver = Ddim { prediction: config.prediction, clip_range, eta: eta as f32, alpha_bars };
    Ok(Sampling { timesteps: told(&timesteps), span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

impl Solver for Ddim {
    fn noise(&self, _: usize) -> StepNoise {
        if self.eta > 0.0 { StepNoise::LikeLatents } else { StepNoise::None }
    }

    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        fresh: Option<Tensor>,
    ) -> Result<Tensor, TchError> {
        let (from, to) = self.alpha_bars[index];
        let (mut clean, epsilon) = Shares::of(from).clean_and_noise(self.prediction, output, &latents)?;
        if let Some(range) = self.clip_range {
            clean = clean.f_clamp(-range, range)?;
        }
        let Some(fresh) = fresh else { return Shares::of(to).mixed(&clean, &epsilon) };
        let variance = (1.0 - to) / (1.0 - from) * (1.0 - from / to);
        let deviation = self.eta * variance.sqrt();
        let kept = Shares { signal: to.sqrt(), noise: (1.0 - to - deviation * deviation).max(0.0).sqrt() };
        kept.mixed(&clean, &epsilon)?.f_add(&scaled(&fresh, deviation)?)
    }
}
