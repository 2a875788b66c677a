//! Samplers: how latents move from noise to an image, step by step.
//!
//! [`SchedulerConfig`] says what to do, [`Sampler`] is one request doing it: its timesteps and what it remembers of
//! earlier steps. The noise that some steps draw comes from the request's generator, which may pass from one sampler to the
//! next. A sampler runs no network, so one forward pass may serve several samplers.
//!
//! Invariants: a sampler that was built never looks outside of its tables; sigmas and other coefficients stay on the CPU as
//! numbers, so no step waits for a device; arithmetic is float32 for latents of every kind, in the order in which diffusers
//! rounds, with which a test compares every step.

pub mod config;
mod ddim;
mod deis;
mod dpm_multi;
mod dpm_single;
mod edm;
mod euler;
mod euler_ancestral;
mod heun;
mod lcm;
mod levels;
mod lms;
mod pndm;
mod schedule;
mod shares;
mod sigmas;
mod tcd;
mod timesteps;
mod unipc;

pub use config::SchedulerConfig;

use std::ops::Range;

use bildkante_shared::recipe::SchedulerKind;
use tch::{Kind, TchError, Tensor};

use self::config::Method;
use self::schedule::TrainSchedule;
use self::shares::Shares;
use crate::diffusion::device::upload;
use crate::diffusion::fields::ConfigError;
use crate::diffusion::noise::NoiseGenerator;

/// Why a scheduler cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("scheduler_config.json: {reason}")]
    Json { reason: String },
    #[error("no scheduler `{name}`; supported: {}", config::CLASSES.map(|(class, _)| class).join(", "))]
    Class { name: String },
    #[error(
        "the checkpoint is made for {name}, which is not offered: a recipe has to name another; there are {}",
        SchedulerKind::ALL.map(SchedulerKind::as_str).join(", ")
    )]
    NotOffered { name: String },
    #[error("{0}")]
    Key(ConfigError),
    #[error("scheduler option `{key}` is {value}, allowed: {allowed}")]
    Value { key: &'static str, value: String, allowed: String },
    #[error("the scheduler {kind} does not offer {what}")]
    Unsupported { kind: SchedulerKind, what: String },
    #[error("the scheduler {kind} takes {min} to {max} steps with this checkpoint, not {steps}")]
    Steps { kind: SchedulerKind, min: usize, max: usize, steps: usize },
    #[error("steps {begin} to {end} are no part of {steps} steps")]
    Span { begin: usize, end: usize, steps: usize },
    #[error("the schedule visits training step {timestep} of {train_steps}: fewer steps or another spacing help")]
    Timestep { timestep: i64, train_steps: usize },
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// What a step draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepNoise {
    None,
    /// In the kind of the latents.
    LikeLatents,
    /// In float32, also for latents of another kind.
    Float,
}

/// A numerical method, with the coefficients of each of its steps. `index` counts evaluations from the beginning of the
/// whole way, of which a request may go a part only.
trait Solver: std::fmt::Debug + Send {
    /// What the network is shown at evaluation `index` for these latents.
    fn scale_model_input(&self, _index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        Ok(latents.shallow_clone())
    }

    /// Whether the last evaluation ended a step, instead of a part of one.
    fn is_between_steps(&self) -> bool {
        true
    }

    /// What evaluation `index` draws.
    fn noise(&self, _index: usize) -> StepNoise {
        StepNoise::None
    }

    /// The latents after evaluation `index`, which is within the plan's span. All tensors are float32 and of one shape;
    /// `noise` is there if the solver draws some.
    fn step(
        &mut self,
        index: usize,
        output: Tensor,
        latents: Tensor,
        noise: Option<Tensor>,
    ) -> Result<Tensor, TchError>;
}

/// What a method makes of a config: what the network is told, what the noise is multiplied with, and the method.
#[derive(Debug)]
struct Sampling {
    /// Of every evaluation of the whole way.
    timesteps: Vec<f32>,
    /// The evaluations that are made.
    span: Range<usize>,
    init_noise_sigma: f32,
    /// The shares of signal and noise in the latents where each evaluation begins.
    mixes: Vec<Shares>,
    solver: Box<dyn Solver>,
}

/// The steps that a sampler makes, of all steps of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Steps of the whole way.
    pub of: usize,
    pub steps: Range<usize>,
}

impl Span {
    /// The whole way.
    #[must_use]
    pub const fn whole(steps: usize) -> Self {
        Self { of: steps, steps: 0..steps }
    }
}

/// One request's way from noise to clean latents, or a part of it.
#[derive(Debug)]
pub struct Sampler {
    plan: Sampling,
    next: usize,
}

impl Sampler {
    /// # Errors
    /// When the config cannot do so many steps.
    pub fn new(config: &SchedulerConfig, span: Span) -> Result<Self, SchedulerError> {
        let plan = plan(config, span)?;
        Ok(Self { next: plan.span.start, plan })
    }

    /// What the network is told at each evaluation; there may be more of them than steps were asked for.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.plan.timesteps[self.plan.span.clone()]
    }

    /// What the initial noise is multiplied with.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f32 {
        self.plan.init_noise_sigma
    }

    /// Whether latents carry the whole signal and noise on top of it, instead of shares of both.
    #[must_use]
    pub fn is_variance_exploding(&self) -> bool {
        self.plan.mixes[self.plan.span.start].signal >= 1.0
    }

    /// Evaluations made.
    #[must_use]
    pub const fn evaluated(&self) -> usize {
        self.next - self.plan.span.start
    }

    /// The evaluation that comes next, counted from the beginning of the span; `None` when there is none.
    #[must_use]
    pub fn next_step(&self) -> Option<usize> {
        (self.next < self.plan.span.end).then_some(self.evaluated())
    }

    /// Whether the last evaluation ended a step, instead of a part of one.
    #[must_use]
    pub fn is_between_steps(&self) -> bool {
        self.plan.solver.is_between_steps()
    }

    /// Clean latents with as much noise as the next evaluation expects; none at the end of the way.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn noised(&self, clean: &Tensor, noise: &Tensor) -> Result<Tensor, TchError> {
        let shares = self.plan.mixes.get(self.next).copied().unwrap_or(Shares { signal: 1.0, noise: 0.0 });
        shares.mixed(&float(clean)?, &float(noise)?)?.f_to_kind(clean.f_kind()?)
    }

    /// What the network is shown for these latents at the next evaluation.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn scale_model_input(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        self.plan.solver.scale_model_input(self.next, &float(latents)?)?.f_to_kind(latents.f_kind()?)
    }

    /// The latents after the next evaluation, of the same kind. Steps that draw take from `noise`.
    ///
    /// # Errors
    /// When the way is at its end or libtorch fails.
    pub fn step(&mut self, output: &Tensor, latents: &Tensor, noise: &mut NoiseGenerator) -> Result<Tensor, TchError> {
        if self.next >= self.plan.span.end {
            return Err(TchError::Shape("a sampler was stepped past its end".into()));
        }
        let kind = latents.f_kind()?;
        let mut draw = |kind| float(&upload(&noise.draw(&latents.size(), kind)?, latents.device())?).map(Some);
        let noise = match self.plan.solver.noise(self.next) {
            StepNoise::None => None,
            StepNoise::LikeLatents => draw(kind)?,
            StepNoise::Float => draw(Kind::Float)?,
        };
        let latents = self.plan.solver.step(self.next, float(output)?, float(latents)?, noise)?;
        self.next += 1;
        latents.f_to_kind(kind)
    }
}

fn plan(config: &SchedulerConfig, Span { of: steps, steps: span }: Span) -> Result<Sampling, SchedulerError> {
    let (kind, max) = (config.kind, config.train_steps);
    if !(1..=max).contains(&steps) {
        return Err(SchedulerError::Steps { kind, min: 1, max, steps });
    }
    if span.is_empty() || span.end > steps {
        return Err(SchedulerError::Span { begin: span.start, end: span.end, steps });
    }
    if let Some(edm) = &config.edm {
        return edm::plan(config, edm, steps, span);
    }
    let schedule = TrainSchedule::new(config)?;
    match &config.method {
        Method::Ddim { alpha_one_at_end, clip_range, eta } => {
            ddim::plan(config, &schedule, steps, span, *alpha_one_at_end, *clip_range, *eta)
        }
        Method::Pndm { alpha_one_at_end, skips_runge_kutta } => {
            pndm::plan(config, &schedule, steps, span, *alpha_one_at_end, *skips_runge_kutta)
        }
        Method::Euler(options) => euler::plan(config, &schedule, steps, span, options),
        Method::EulerAncestral => euler_ancestral::plan(config, &schedule, steps, span),
        Method::Heun(options) => heun::plan(config, &schedule, steps, span, options),
        Method::Lms { sigmas } => lms::plan(config, &schedule, steps, span, *sigmas),
        Method::DpmMulti(options) => dpm_multi::plan(config, &schedule, steps, span, options),
        Method::DpmSingle(options) => dpm_single::plan(config, &schedule, steps, span, options),
        Method::UniPc(options) => unipc::plan(config, &schedule, steps, span, options),
        Method::Deis(options) => deis::plan(config, &schedule, steps, span, options),
        Method::Lcm(options) => lcm::plan(config, &schedule, steps, span, options),
        Method::Tcd(options) => tcd::plan(config, &schedule, steps, span, options),
    }
}

fn float(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_to_kind(Kind::Float)
}

/// `tensor · factor`; the factor is a float32 number.
fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor, TchError> {
    tensor.f_mul_scalar(f64::from(factor))
}

/// `tensor / divisor`; the divisor is a float32 number.
fn divided(tensor: &Tensor, divisor: f32) -> Result<Tensor, TchError> {
    tensor.f_div_scalar(f64::from(divisor))
}

#[cfg(test)]
mod tests;
