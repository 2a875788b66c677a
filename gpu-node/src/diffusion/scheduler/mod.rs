//! Samplers: how latents move from noise to an image, step by step.
//!
//! [`SchedulerConfig`] says what to do, [`Sampler`] is one request doing it: its timesteps, its own noise, what it
//! remembers of earlier steps. The networks are not its business, so whoever runs them may serve many samplers with
//! one forward pass. Invariants: a sampler that was built never looks outside of its tables; sigmas and other
//! coefficients stay on the CPU as numbers, so no step waits for a device; arithmetic is float32 whatever the
//! latents' kind, in the order in which diffusers rounds, with which a test compares every step.

pub mod config;
mod ddim;
mod dpmpp_2m;
mod euler;
mod euler_ancestral;
mod pndm;
mod schedule;
mod sigmas;
mod timesteps;

pub use config::SchedulerConfig;

use bildkante_shared::recipe::SchedulerKind;
use tch::{Device, Kind, TchError, Tensor};

use self::config::Method;
use self::schedule::TrainSchedule;
use super::noise::NoiseGenerator;

/// Why a scheduler cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("scheduler_config.json: {reason}")]
    Json { reason: String },
    #[error(
        "no scheduler `{name}`: DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, \
         EulerAncestralDiscreteScheduler and DPMSolverMultistepScheduler are supported"
    )]
    Class { name: String },
    #[error("scheduler option `{key}` is {value}, allowed: {allowed}")]
    Value { key: &'static str, value: String, allowed: String },
    #[error("the scheduler {kind} does not offer {what}")]
    Unsupported { kind: SchedulerKind, what: String },
    #[error("the scheduler {kind} takes {min} to {max} steps with this checkpoint, not {steps}")]
    Steps { kind: SchedulerKind, min: usize, max: usize, steps: usize },
    #[error("the schedule visits training step {timestep} of {train_steps}: fewer steps or another spacing help")]
    Timestep { timestep: i64, train_steps: usize },
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// A numerical method, with the coefficients of each of its steps.
trait Solver: std::fmt::Debug + Send {
    /// What the network is shown at step `index` for these latents.
    fn scale_model_input(&self, _index: usize, latents: &Tensor) -> Result<Tensor, TchError> {
        Ok(latents.shallow_clone())
    }

    /// Whether each step draws noise.
    fn is_ancestral(&self) -> bool {
        false
    }

    /// The latents after step `index`, which is below the number of timesteps. All tensors are float32 and of one
    /// shape; `noise` is there if the solver is ancestral.
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
struct Plan {
    timesteps: Vec<f32>,
    init_noise_sigma: f32,
    solver: Box<dyn Solver>,
}

/// One request's way from noise to clean latents.
#[derive(Debug)]
pub struct Sampler {
    plan: Plan,
    noise: NoiseGenerator,
    next: usize,
}

impl Sampler {
    /// # Errors
    /// When the config cannot do so many steps.
    pub fn new(config: &SchedulerConfig, steps: u32, seed: u32) -> Result<Self, SchedulerError> {
        Ok(Self { plan: plan(config, steps as usize)?, noise: NoiseGenerator::new(seed), next: 0 })
    }

    /// What the network is told at each evaluation; there may be more of them than steps were asked for.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.plan.timesteps
    }

    /// What the initial noise is multiplied with.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f32 {
        self.plan.init_noise_sigma
    }

    /// The step that comes next; `None` when there is none.
    #[must_use]
    pub fn next_step(&self) -> Option<usize> {
        (self.next < self.plan.timesteps.len()).then_some(self.next)
    }

    /// The initial noise, unscaled: the first draw of the request's generator, so it is asked for once and first.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn initial_noise(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor, TchError> {
        self.noise.draw(shape, kind)?.f_to_device(device)
    }

    /// What the network is shown for these latents at the next step.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn scale_model_input(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        self.plan.solver.scale_model_input(self.next, &float(latents)?)?.f_to_kind(latents.f_kind()?)
    }

    /// The latents after the next step, of the same kind.
    ///
    /// # Errors
    /// When the way is at its end or libtorch fails.
    pub fn step(&mut self, output: &Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
        let Some(index) = self.next_step() else {
            return Err(TchError::Shape("a sampler was stepped past its end".into()));
        };
        let kind = latents.f_kind()?;
        let noise = if self.plan.solver.is_ancestral() {
            let drawn = self.noise.draw(&latents.size(), kind)?;
            Some(float(&drawn.f_to_device(latents.device())?)?)
        } else {
            None
        };
        let latents = self.plan.solver.step(index, float(output)?, float(latents)?, noise)?;
        self.next += 1;
        latents.f_to_kind(kind)
    }
}

fn plan(config: &SchedulerConfig, steps: usize) -> Result<Plan, SchedulerError> {
    let (kind, max) = (config.kind, config.train_steps);
    if !(1..=max).contains(&steps) {
        return Err(SchedulerError::Steps { kind, min: 1, max, steps });
    }
    let schedule = TrainSchedule::new(config)?;
    match &config.method {
        Method::Ddim { alpha_one_at_end, clip_range } => {
            ddim::plan(config, &schedule, steps, *alpha_one_at_end, *clip_range)
        }
        Method::Pndm { alpha_one_at_end, skips_runge_kutta } => {
            pndm::plan(config, &schedule, steps, *alpha_one_at_end, *skips_runge_kutta)
        }
        Method::Euler(options) => euler::plan(config, &schedule, steps, options),
        Method::EulerAncestral => euler_ancestral::plan(config, &schedule, steps),
        Method::DpmPp2M(options) => dpmpp_2m::plan(config, &schedule, steps, options),
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
