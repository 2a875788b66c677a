//! What a checkpoint's `scheduler_config.json` says, as the diffusers class it names would read it.
//!
//! Owns the keys, each class's defaults for absent ones, and what a recipe may override. Invariants: a
//! [`SchedulerConfig`] is within bounds and asks for nothing that the samplers here do not do; a key that belongs to
//! another class is carried, not used, so that changing the class means what
//! `OtherScheduler.from_config(scheduler.config)` means: keys the file has are kept, the rest take the other class's
//! defaults. Source: the constructors of diffusers 0.42 and `ConfigMixin.from_config`.

use bildkante_shared::recipe::{SchedulerChoice, SchedulerKind, TimestepSpacing};
use serde::Deserialize;
use serde_json::Value;

use super::SchedulerError;

/// Longest training schedule a config may have; real ones have 1000 steps.
const TRAIN_STEPS_MAX: usize = 10_000;

/// What the network's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise in the latents (Ho et al. 2020).
    Epsilon,
    /// The velocity α·ε − σ·x₀ (Salimans & Ho 2022).
    Velocity,
    /// The clean latents themselves.
    Sample,
}

/// The noise added by each training step.
#[derive(Debug, Clone, PartialEq)]
pub enum Betas {
    Linear {
        start: f64,
        end: f64,
    },
    /// Linear in the square root: what latent diffusion models are trained with.
    ScaledLinear {
        start: f64,
        end: f64,
    },
    /// The cosine schedule of Nichol & Dhariwal 2021, capped.
    SquaredCosine,
    Trained(Vec<f32>),
}

/// How sigmas between training steps are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    Linear,
    LogLinear,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    Zero,
    Min,
}

/// How DPM-Solver++ estimates the second derivative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverType {
    Midpoint,
    Heun,
}

/// One sampler with every option it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    Ddim { alpha_one_at_end: bool, clip_range: Option<f64> },
    Pndm { alpha_one_at_end: bool, skips_runge_kutta: bool },
    Euler(EulerOptions),
    EulerAncestral,
    DpmPp2M(DpmOptions),
}

#[derive(Debug, Clone, PartialEq)]
pub struct EulerOptions {
    pub interpolation: Interpolation,
    pub karras_sigmas: bool,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    /// The network is told ¼·ln σ instead of a training step.
    pub continuous_timesteps: bool,
    pub final_sigma: FinalSigma,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DpmOptions {
    pub order: u32,
    pub solver: SolverType,
    pub karras_sigmas: bool,
    pub lower_order_final: bool,
    pub euler_at_final: bool,
    pub final_sigma: FinalSigma,
    /// Training steps with a smaller ln(α/σ) are not visited.
    pub lambda_min: f64,
}

/// A validated scheduler configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    pub kind: SchedulerKind,
    pub train_steps: usize,
    pub betas: Betas,
    pub prediction: Prediction,
    pub spacing: TimestepSpacing,
    pub steps_offset: usize,
    pub rescale_zero_snr: bool,
    pub method: Method,
    file: File,
    corrected: bool,
}

impl SchedulerConfig {
    /// Reads a parsed `scheduler_config.json`, to the letter.
    ///
    /// # Errors
    /// When it is no such file, names another class than the five known ones, or asks for something not offered.
    pub fn from_json(json: &Value) -> Result<Self, SchedulerError> {
        if !json.is_object() {
            return Err(SchedulerError::Json { reason: "it is no JSON object".into() });
        }
        let file = File::deserialize(json).map_err(|error| unreadable(json, &error))?;
        let kind = file.kind()?;
        file.resolve(kind, false)
    }

    /// The config as `StableDiffusionPipeline`'s constructor leaves it: whatever the file says, its own scheduler
    /// never clips latents and leads by one step.
    ///
    /// # Errors
    /// As [`Self::from_json`]; not for a config that was valid before.
    pub fn corrected_for_stable_diffusion(&self) -> Result<Self, SchedulerError> {
        let mut file = self.file.clone();
        file.steps_offset = file.steps_offset.map(|_| 1);
        file.clip_sample = file.clip_sample.map(|_| false);
        file.resolve(self.kind, true)
    }

    /// The config with what a recipe overrides.
    ///
    /// # Errors
    /// When the sampler chosen cannot honour an option: named, never ignored.
    pub fn with_choice(&self, choice: &SchedulerChoice) -> Result<Self, SchedulerError> {
        let kind = choice.kind.unwrap_or(self.kind);
        let mut file = self.file.clone();
        if let Some(spacing) = choice.timestep_spacing {
            file.timestep_spacing = Some(spacing_name(spacing).to_owned());
        }
        if let Some(karras) = choice.karras_sigmas {
            if karras && !matches!(kind, SchedulerKind::Euler | SchedulerKind::DpmPp2M) {
                return Err(SchedulerError::Unsupported { kind, what: "karras_sigmas".into() });
            }
            file.use_karras_sigmas = Some(karras);
        }
        let is_own = self.corrected && kind == self.file.kind()?;
        let mut config = file.resolve(kind, is_own)?;
        config.corrected = self.corrected;
        Ok(config)
    }

    /// Whether the sigmas follow Karras et al. 2022.
    #[must_use]
    pub const fn has_karras_sigmas(&self) -> bool {
        match &self.method {
            Method::Euler(options) => options.karras_sigmas,
            Method::DpmPp2M(options) => options.karras_sigmas,
            _ => false,
        }
    }
}

/// The keys of all five classes as they stand in a file; what is absent has no value yet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "_class_name")]
    class_name: String,
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<String>,
    trained_betas: Option<Vec<f32>>,
    prediction_type: Option<String>,
    timestep_spacing: Option<String>,
    steps_offset: Option<usize>,
    rescale_betas_zero_snr: Option<bool>,
    set_alpha_to_one: Option<bool>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    thresholding: Option<bool>,
    skip_prk_steps: Option<bool>,
    interpolation_type: Option<String>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    use_lu_lambdas: Option<bool>,
    use_flow_sigmas: Option<bool>,
    use_dynamic_shifting: Option<bool>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    timestep_type: Option<String>,
    final_sigmas_type: Option<String>,
    solver_order: Option<u32>,
    solver_type: Option<String>,
    algorithm_type: Option<String>,
    variance_type: Option<String>,
    lower_order_final: Option<bool>,
    euler_at_final: Option<bool>,
    lambda_min_clipped: Option<Bound>,
}

/// A number, or the name of one that Python writes although JSON has none.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Bound {
    Number(f64),
    Word(String),
}

impl File {
    fn kind(&self) -> Result<SchedulerKind, SchedulerError> {
        match self.class_name.as_str() {
            "DDIMScheduler" => Ok(SchedulerKind::Ddim),
            "PNDMScheduler" => Ok(SchedulerKind::Pndm),
            "EulerDiscreteScheduler" => Ok(SchedulerKind::Euler),
            "EulerAncestralDiscreteScheduler" => Ok(SchedulerKind::EulerAncestral),
            "DPMSolverMultistepScheduler" => Ok(SchedulerKind::DpmPp2M),
            other => Err(SchedulerError::Class { name: other.chars().take(80).collect() }),
        }
    }

    /// Fills in the defaults of the class of `kind` and checks everything it will use.
    fn resolve(self, kind: SchedulerKind, is_own_and_corrected: bool) -> Result<SchedulerConfig, SchedulerError> {
        let train_steps = self.num_train_timesteps.unwrap_or(1000);
        if !(2..=TRAIN_STEPS_MAX).contains(&train_steps) {
            return Err(value("num_train_timesteps", train_steps, &format!("2 to {TRAIN_STEPS_MAX}")));
        }
        let steps_offset = self.steps_offset.unwrap_or(usize::from(is_own_and_corrected));
        if steps_offset >= train_steps {
            return Err(value("steps_offset", steps_offset, "less than num_train_timesteps"));
        }
        self.refuse_what_no_sampler_does(kind)?;
        let betas = self.betas(train_steps)?;
        let prediction = self.prediction(kind)?;
        let method = self.method(kind, is_own_and_corrected)?;
        let leads_by_default = matches!(kind, SchedulerKind::Ddim | SchedulerKind::Pndm);
        let default = if leads_by_default { TimestepSpacing::Leading } else { TimestepSpacing::Linspace };
        let spacing = choose("timestep_spacing", self.timestep_spacing.as_deref(), default, &SPACINGS)?;
        // PNDM has no such option.
        let rescale_zero_snr = kind != SchedulerKind::Pndm && self.rescale_betas_zero_snr.unwrap_or(false);
        Ok(SchedulerConfig {
            kind,
            train_steps,
            betas,
            prediction,
            spacing,
            steps_offset,
            rescale_zero_snr,
            method,
            file: self,
            corrected: is_own_and_corrected,
        })
    }

    fn refuse_what_no_sampler_does(&self, kind: SchedulerKind) -> Result<(), SchedulerError> {
        use SchedulerKind::{Ddim, DpmPp2M, Euler};
        let refusals: [(&str, Option<bool>, &[SchedulerKind]); 6] = [
            ("thresholding", self.thresholding, &[Ddim, DpmPp2M]),
            ("use_exponential_sigmas", self.use_exponential_sigmas, &[Euler, DpmPp2M]),
            ("use_beta_sigmas", self.use_beta_sigmas, &[Euler, DpmPp2M]),
            ("use_lu_lambdas", self.use_lu_lambdas, &[DpmPp2M]),
            ("use_flow_sigmas", self.use_flow_sigmas, &[DpmPp2M]),
            ("use_dynamic_shifting", self.use_dynamic_shifting, &[DpmPp2M]),
        ];
        match refusals.iter().find(|(_, asked, kinds)| *asked == Some(true) && kinds.contains(&kind)) {
            Some((key, ..)) => Err(SchedulerError::Unsupported { kind, what: (*key).into() }),
            None => Ok(()),
        }
    }

    fn betas(&self, train_steps: usize) -> Result<Betas, SchedulerError> {
        if let Some(betas) = &self.trained_betas {
            if betas.len() != train_steps || !betas.iter().all(|beta| *beta > 0.0 && *beta < 1.0) {
                let allowed = format!("{train_steps} numbers between 0 and 1");
                return Err(value("trained_betas", format!("{} numbers", betas.len()), &allowed));
            }
            return Ok(Betas::Trained(betas.clone()));
        }
        let (start, end) = (self.beta_start.unwrap_or(0.0001), self.beta_end.unwrap_or(0.02));
        let table = [
            ("linear", Betas::Linear { start, end }),
            ("scaled_linear", Betas::ScaledLinear { start, end }),
            ("squaredcos_cap_v2", Betas::SquaredCosine),
        ];
        let betas = choose("beta_schedule", self.beta_schedule.as_deref(), Betas::Linear { start, end }, &table)?;
        for (key, beta) in [("beta_start", start), ("beta_end", end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(value(key, beta, "between 0 and 1"));
            }
        }
        Ok(betas)
    }

    fn prediction(&self, kind: SchedulerKind) -> Result<Prediction, SchedulerError> {
        let table =
            [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::Velocity), ("sample", Prediction::Sample)];
        let prediction = choose("prediction_type", self.prediction_type.as_deref(), Prediction::Epsilon, &table)?;
        let is_never_sample = matches!(kind, SchedulerKind::Pndm | SchedulerKind::EulerAncestral);
        if prediction == Prediction::Sample && is_never_sample {
            return Err(SchedulerError::Unsupported { kind, what: "prediction_type `sample`".into() });
        }
        Ok(prediction)
    }

    fn method(&self, kind: SchedulerKind, is_own_and_corrected: bool) -> Result<Method, SchedulerError> {
        Ok(match kind {
            SchedulerKind::Ddim => Method::Ddim {
                alpha_one_at_end: self.set_alpha_to_one.unwrap_or(true),
                clip_range: self.clip_range(is_own_and_corrected)?,
            },
            SchedulerKind::Pndm => Method::Pndm {
                alpha_one_at_end: self.set_alpha_to_one.unwrap_or(false),
                skips_runge_kutta: self.skip_prk_steps.unwrap_or(false),
            },
            SchedulerKind::Euler => Method::Euler(self.euler()?),
            SchedulerKind::EulerAncestral => Method::EulerAncestral,
            SchedulerKind::DpmPp2M => Method::DpmPp2M(self.dpm()?),
        })
    }

    fn clip_range(&self, is_own_and_corrected: bool) -> Result<Option<f64>, SchedulerError> {
        let range = self.clip_sample_range.unwrap_or(1.0);
        if !(range > 0.0 && range.is_finite()) {
            return Err(value("clip_sample_range", range, "a positive number"));
        }
        Ok(self.clip_sample.unwrap_or(!is_own_and_corrected).then_some(range))
    }

    fn euler(&self) -> Result<EulerOptions, SchedulerError> {
        let interpolations = [("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)];
        let interpolation = self.interpolation_type.as_deref();
        let timestep_types = [("discrete", false), ("continuous", true)];
        for (key, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(sigma) = sigma.filter(|sigma| !(*sigma > 0.0 && sigma.is_finite())) {
                return Err(value(key, sigma, "a positive number"));
            }
        }
        Ok(EulerOptions {
            interpolation: choose("interpolation_type", interpolation, Interpolation::Linear, &interpolations)?,
            karras_sigmas: self.use_karras_sigmas.unwrap_or(false),
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
            continuous_timesteps: choose("timestep_type", self.timestep_type.as_deref(), false, &timestep_types)?,
            final_sigma: self.final_sigma()?,
        })
    }

    fn dpm(&self) -> Result<DpmOptions, SchedulerError> {
        let kind = SchedulerKind::DpmPp2M;
        let algorithm = self.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        // As diffusers reads DEIS's name for the same integral.
        if !matches!(algorithm, "dpmsolver++" | "deis") {
            return Err(SchedulerError::Unsupported { kind, what: format!("algorithm_type `{algorithm}`") });
        }
        if let Some(variance) = &self.variance_type {
            return Err(SchedulerError::Unsupported { kind, what: format!("variance_type `{variance}`") });
        }
        let order = self.solver_order.unwrap_or(2);
        if !(1..=2).contains(&order) {
            return Err(SchedulerError::Unsupported { kind, what: format!("solver_order {order}") });
        }
        // The last three are other solvers' types, which diffusers reads as midpoint.
        let solvers = [
            ("midpoint", SolverType::Midpoint),
            ("heun", SolverType::Heun),
            ("logrho", SolverType::Midpoint),
            ("bh1", SolverType::Midpoint),
            ("bh2", SolverType::Midpoint),
        ];
        Ok(DpmOptions {
            order,
            solver: choose("solver_type", self.solver_type.as_deref(), SolverType::Midpoint, &solvers)?,
            karras_sigmas: self.use_karras_sigmas.unwrap_or(false),
            lower_order_final: self.lower_order_final.unwrap_or(true),
            euler_at_final: self.euler_at_final.unwrap_or(false),
            final_sigma: self.final_sigma()?,
            lambda_min: self.lambda_min()?,
        })
    }

    fn final_sigma(&self) -> Result<FinalSigma, SchedulerError> {
        let table = [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::Min)];
        choose("final_sigmas_type", self.final_sigmas_type.as_deref(), FinalSigma::Zero, &table)
    }

    fn lambda_min(&self) -> Result<f64, SchedulerError> {
        match &self.lambda_min_clipped {
            None => Ok(f64::NEG_INFINITY),
            Some(Bound::Number(number)) => Ok(*number),
            Some(Bound::Word(word)) if word == "-Infinity" => Ok(f64::NEG_INFINITY),
            Some(Bound::Word(word)) => Err(value("lambda_min_clipped", word, "a number or -Infinity")),
        }
    }
}

const SPACINGS: [(&str, TimestepSpacing); 3] = [
    ("leading", TimestepSpacing::Leading),
    ("trailing", TimestepSpacing::Trailing),
    ("linspace", TimestepSpacing::Linspace),
];

fn spacing_name(spacing: TimestepSpacing) -> &'static str {
    SPACINGS.iter().find(|(_, known)| *known == spacing).map_or("leading", |(name, _)| name)
}

fn value(key: &'static str, value: impl std::fmt::Display, allowed: &str) -> SchedulerError {
    SchedulerError::Value { key, value: value.to_string().chars().take(80).collect(), allowed: allowed.to_owned() }
}

fn choose<T: Clone>(
    key: &'static str,
    name: Option<&str>,
    default: T,
    table: &[(&str, T)],
) -> Result<T, SchedulerError> {
    let Some(name) = name else { return Ok(default) };
    table.iter().find(|(known, _)| *known == name).map(|(_, chosen)| chosen.clone()).ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|(known, _)| *known).collect();
        value(key, format!("`{name}`"), &format!("one of {}", names.join(", ")))
    })
}

/// Names the key that is of another type than it should be.
fn unreadable(json: &Value, error: &serde_json::Error) -> SchedulerError {
    let alone = |(key, value): &(&String, &Value)| File::deserialize(&serde_json::json!({ *key: value })).is_err();
    let key = json.as_object().and_then(|keys| keys.iter().find(alone)).map(|(key, _)| format!("`{key}`: "));
    SchedulerError::Json { reason: format!("{}{error}", key.unwrap_or_default()) }
}

#[cfg(test)]
mod tests;
