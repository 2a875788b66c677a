//! PNDM (Liu et al. 2022): pseudo linear multistep over the noise, warmed up either by pseudo Runge–Kutta steps or, as
//! Stable Diffusion does it (PLMS), by repeating the second step as a two-stage one.
//!
//! The Runge–Kutta warm-up evaluates the network twelve times for its first three steps, PLMS evaluates one step twice.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig};
use super::schedule::TrainSchedule;
use super::shares::Shares;
use super::timesteps::{Grid, told};
use super::{Sampling, SchedulerError, Solver, divided, scaled};

/// Steps the Runge–Kutta warm-up is laid over.
const WARM_UP_STEPS: usize = 4;

/// What becomes of one evaluation of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evaluation {
    /// Stage 0 to 3 of a pseudo Runge–Kutta step.
    RungeKutta(u8),
    /// Remembered, then used for a first-order step.
    First,
    /// Averaged with the remembered one; the first step is taken again with it.
    Corrector,
    /// Remembered, then extrapolated from as many as are remembered.
    Multistep,
}

/// One evaluation with ᾱ before and after it.
#[derive(Debug)]
struct PndmStep {
    evaluation: Evaluation,
    from: f32,
    to: f32,
}

#[derive(Debug)]
struct Pndm {
    is_velocity: bool,
    steps: Vec<PndmStep>,
    /// The last evaluations, oldest first; at most four.
    history: Vec<Tensor>,
    /// The weighted stages of the Runge–Kutta step at hand.
    stages: Option<Tensor>,
    /// The latents a many-stage step starts from.
    start: Option<Tensor>,
}

/// An evaluation's timestep and the two its coefficients are looked up at.
struct Visit {
    evaluation: Evaluation,
    timestep: i64,
    from: i64,
    to: i64,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    alpha_one_at_end: bool,
    skips_runge_kutta: bool,
) -> Result<Sampling, SchedulerError> {
    let SchedulerConfig { kind, spacing, train_steps, steps_offset: offset, .. } = *config;
    if !skips_runge_kutta && span.len() < WARM_UP_STEPS {
        return Err(SchedulerError::Steps { kind, min: WARM_UP_STEPS, max: train_steps, steps: span.len() });
    }
    let grid = Grid { spacing, train_steps, last: train_steps, steps, offset, drops_cleanest: false };
    // A part of the way is warmed up anew: nothing is remembered from before it.
    let timesteps = grid.whole_timesteps();
    let timesteps = &timesteps[span];
    let stride = i64::try_from(train_steps / steps).unwrap_or(i64::MAX);
    let visits = if skips_runge_kutta { plms(timesteps, stride) } else { runge_kutta(timesteps, stride) };
    let steps = visits.iter().map(|visit| {
        let (from, to) = (schedule.alpha_bar(visit.from)?, schedule.alpha_bar_before(visit.to, alpha_one_at_end)?);
        Ok(PndmStep { evaluation: visit.evaluation, from, to })
    });
    let steps = steps.collect::<Result<Vec<_>, SchedulerError>>()?;
    let mixes = visits.iter().map(|visit| Ok(Shares::of(schedule.alpha_bar(visit.timestep)?)));
    let mixes = mixes.collect::<Result<Vec<_>, SchedulerError>>()?;
    let solver = Pndm {
        is_velocity: config.prediction == Prediction::Velocity,
        steps,
        history: Vec::new(),
        stages: None,
        start: None,
    };
    let timesteps = told(&visits.iter().map(|visit| visit.timestep).collect::<Vec<_>>());
    let span = 0..timesteps.len();
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

fn multistep(timestep: i64, stride: i64) -> Visit {
    Visit { evaluation: Evaluation::Multistep, timestep, from: timestep, to: timestep - stride }
}

/// The second timestep is evaluated twice: at the end of a first-order step, and anew from there.
fn plms(timesteps: &[i64], stride: i64) -> Vec<Visit> {
    let Some((first, rest)) = timesteps.split_first() else { return Vec::new() };
    let mut visits = vec![Visit { evaluation: Evaluation::First, ..multistep(*first, stride) }];
    if let Some(second) = rest.first() {
        let (evaluation, timestep) = (Evaluation::Corrector, *second);
        visits.push(Visit { evaluation, timestep, from: timestep + stride, to: timestep });
    }
    visits.extend(rest.iter().map(|timestep| multistep(*timestep, stride)));
    visits
}

/// Three steps of four stages each — at the start, twice halfway, at the end — then multistep.
fn runge_kutta(timesteps: &[i64], stride: i64) -> Vec<Visit> {
    let half = stride / 2;
    let stages = timesteps.windows(2).take(WARM_UP_STEPS - 1).flat_map(|pair| {
        let (start, end) = (pair[0], pair[1]);
        // The midpoint belongs to the end: training steps do not always divide evenly.
        let middle = end + half;
        [(start, start - half), (middle, middle), (middle, middle - half), (end, end)].into_iter().enumerate().map(
            move |(stage, (timestep, to))| Visit {
                #[allow(clippy::cast_possible_truncation, reason = "below four")]
                evaluation: Evaluation::RungeKutta(stage as u8),
                timestep,
                from: start,
                to,
            },
        )
    });
    stages.chain(timesteps.iter().skip(WARM_UP_STEPS - 1).map(|timestep| multistep(*timestep, stride))).collect()
}

impl Solver for Pndm {
    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let PndmStep { evaluation, from, to } = self.steps[index];
        let (direction, start) = match evaluation {
            Evaluation::RungeKutta(stage) => self.runge_kutta_stage(stage, output, latents)?,
            Evaluation::First => {
                self.history.push(output.shallow_clone());
                self.start = Some(latents.shallow_clone());
                (output, latents)
            }
            Evaluation::Corrector => {
                let mean = match self.history.last() {
                    Some(first) => divided(&output.f_add(first)?, 2.0)?,
                    None => output,
                };
                (mean, self.start.take().unwrap_or(latents))
            }
            Evaluation::Multistep => {
                if self.history.len() == 4 {
                    let _oldest = self.history.remove(0);
                }
                self.history.push(output);
                (self.extrapolated()?, latents)
            }
        };
        self.transfer(&direction, &start, from, to)
    }
}

impl Pndm {
    /// The direction and starting point of one stage; the classical weights 1/6, 1/3, 1/3, 1/6.
    fn runge_kutta_stage(&mut self, stage: u8, output: Tensor, latents: Tensor) -> Result<(Tensor, Tensor), TchError> {
        let weight = if matches!(stage, 0 | 3) { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = scaled(&output, weight)?;
        let sum = match self.stages.take() {
            Some(stages) => stages.f_add(&weighted)?,
            None => weighted,
        };
        if stage == 0 {
            self.history.push(output.shallow_clone());
            self.start = Some(latents.shallow_clone());
        }
        let start = self.start.as_ref().unwrap_or(&latents).shallow_clone();
        if stage == 3 {
            return Ok((sum, start));
        }
        self.stages = Some(sum);
        Ok((output, start))
    }

    /// Adams–Bashforth over the remembered evaluations, at most fourth order.
    fn extrapolated(&self) -> Result<Tensor, TchError> {
        let (weights, divisor): (&[f32], f32) = match self.history.len() {
            0 | 1 => (&[1.0], 1.0),
            2 => (&[3.0, -1.0], 2.0),
            3 => (&[23.0, -16.0, 5.0], 12.0),
            _ => (&[55.0, -59.0, 37.0, -9.0], 24.0),
        };
        let mut terms = self.history.iter().rev().zip(weights).map(|(output, weight)| scaled(output, *weight));
        let first = terms.next().unwrap_or_else(|| Err(TchError::Shape("no evaluation to extrapolate from".into())))?;
        let sum = terms.try_fold(first, |sum, term| sum.f_add(&term?))?;
        if self.history.len() == 4 { scaled(&sum, 1.0 / divisor) } else { divided(&sum, divisor) }
    }

    /// Equation 9 of the paper: along a noise direction from one noise level to another.
    fn transfer(&self, output: &Tensor, latents: &Tensor, from: f32, to: f32) -> Result<Tensor, TchError> {
        let epsilon = if self.is_velocity {
            &scaled(output, from.sqrt())?.f_add(&scaled(latents, (1.0 - from).sqrt())?)?
        } else {
            output
        };
        let divisor = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        let moved = divided(&scaled(epsilon, to - from)?, divisor)?;
        scaled(latents, (to / from).sqrt())?.f_sub(&moved)
    }
}
