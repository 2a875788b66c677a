//! What a checkpoint's `scheduler_config.json` says, as the diffusers class it names would read it.
//!
//! Owns the keys, each class's defaults for absent ones, and what a recipe may override. Invariants: a
//! [`SchedulerConfig`] is within bounds and asks for nothing that the samplers here do not do; a key that belongs to
//! another class is carried, not used, so that changing the class means what
//! `OtherScheduler.from_config(scheduler.config)` means: keys the file has are kept, the rest take the other class's
//! defaults. Source: the constructors of diffusers 0.42 and `ConfigMixin.from_config`.

use std::collections::BTreeMap;

use bildkante_shared::limits;
pub use bildkante_shared::recipe::Prediction;
use bildkante_shared::recipe::{SchedulerChoice, SchedulerKind, SigmaSpacing, TimestepSpacing};
use serde::Deserialize;
use serde_json::Value;

use super::edm::{self, Edm};
use super::{Sampler, SchedulerError, Span};
use crate::diffusion::fields::{WithoutEffect, is_without_effect, unknown};

/// Longest training schedule a config may have.
const TRAIN_STEPS_MAX: usize = limits::TRAIN_STEPS_MAX as usize;

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

/// Which noise levels are visited.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Visits {
    /// As the config spaces them.
    #[default]
    Spaced,
    /// These training steps, descending.
    Timesteps(Vec<u32>),
    /// These sigmas, descending; the last is 0 and ends the last step.
    Sigmas(Vec<f64>),
}

/// One sampler with every option it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    Ddim { alpha_one_at_end: bool, clip_range: Option<f64>, eta: f64 },
    Pndm { alpha_one_at_end: bool, skips_runge_kutta: bool },
    Euler(EulerOptions),
    EulerAncestral,
    Heun(HeunOptions),
    Lms { sigmas: SigmaSpacing },
    DpmMulti(DpmOptions),
    DpmSingle(DpmOptions),
    UniPc(UniPcOptions),
    Deis(DeisOptions),
    Lcm(LcmOptions),
    Tcd(TcdOptions),
}

#[derive(Debug, Clone, PartialEq)]
pub struct EulerOptions {
    pub interpolation: Interpolation,
    pub sigmas: SigmaSpacing,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    /// The network is told ¼·ln σ instead of a training step.
    pub continuous_timesteps: bool,
    pub final_sigma: FinalSigma,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HeunOptions {
    pub sigmas: SigmaSpacing,
    pub clip_range: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UniPcOptions {
    /// Of the predictor; the corrector's is one more.
    pub order: usize,
    /// B₁(h) = h instead of B₂(h) = eʰ − 1.
    pub is_bh1: bool,
    pub sigmas: SigmaSpacing,
    pub lower_order_final: bool,
    /// Steps whose result is not corrected.
    pub disable_corrector: Vec<usize>,
    pub final_sigma: FinalSigma,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DeisOptions {
    pub order: usize,
    pub sigmas: SigmaSpacing,
    pub lower_order_final: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TcdOptions {
    /// Steps of the schedule the model was distilled on.
    pub distilled_steps: usize,
    /// γ: how far a step goes beyond its end, to come back with fresh noise.
    pub gamma: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LcmOptions {
    /// Steps of the schedule the model was distilled on.
    pub distilled_steps: usize,
    pub clip_range: Option<f64>,
    pub timestep_scaling: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DpmOptions {
    pub order: usize,
    pub solver: SolverType,
    pub is_stochastic: bool,
    pub sigmas: SigmaSpacing,
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
    pub visits: Visits,
    /// Where the network was trained as EDM has it: nothing of the training schedule applies then.
    pub edm: Option<Edm>,
    file: File,
    corrected: bool,
}

/// Keys that change no sample.
const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    ("read beside thresholding only, which is refused", &["dynamic_thresholding_ratio", "sample_max_value"]),
    (
        "read beside use_flow_sigmas and use_dynamic_shifting only, which are refused",
        &["flow_shift", "time_shift_type"],
    ),
    ("of a class that is not offered (DPMSolverSDEScheduler)", &["noise_sampler_seed"]),
    ("of a class that is not offered (SASolverScheduler)", &["corrector_order", "predictor_order", "tau_func"]),
    ("of older versions", &["clip_sample_min", "tensor_format", "use_clipped_model_output"]),
];

/// Whether a key has the one value that is what is done here: UniPC predicts by itself.
fn is_plain(key: &str, value: &Value) -> bool {
    key == "solver_p" && value.is_null()
}

impl SchedulerConfig {
    /// Reads a parsed `scheduler_config.json`, to the letter.
    ///
    /// # Errors
    /// When it is no such file, or asks for something not offered.
    pub fn from_json(json: &Value) -> Result<Self, SchedulerError> {
        Self::read_as(None, json)
    }

    /// The same, as a pipeline whose index names a class for it reads it. Of a class that is not offered the keys are kept for
    /// the one that a recipe names.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn read_as(class: Option<&str>, json: &Value) -> Result<Self, SchedulerError> {
        let Some(object) = json.as_object() else {
            return Err(SchedulerError::Json { reason: "it is no JSON object".into() });
        };
        // What was a default when the file was written is none of its own.
        let defaults = object.get("_use_default_values").and_then(Value::as_array);
        let is_default = |key: &str| defaults.is_some_and(|defaults| defaults.iter().any(|default| default == key));
        let own = object.iter().filter(|(key, _)| !is_default(key));
        let json = Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect());
        let mut file = File::deserialize(&json).map_err(|error| unreadable(&json, &error))?;
        let class = class.unwrap_or(&file.class_name);
        file.class_name = class.chars().take(CLASS_CHARS_MAX).collect();
        let mut rest = std::mem::take(&mut file.rest);
        if EDM_CLASSES.contains(&file.class_name.as_str()) {
            file.edm = Some(Edm::take(&mut rest, (file.sigma_min, file.sigma_max))?);
        }
        match file.kind() {
            Ok(kind) => {
                let mut passed_over = rest
                    .iter()
                    .filter(|(key, value)| !is_without_effect(key, &[WITHOUT_EFFECT]) && !is_plain(key, value));
                match passed_over.next() {
                    Some((key, value)) => Err(SchedulerError::Key(unknown(key, value))),
                    None => file.resolve(kind, false),
                }
            }
            // Every other class drops the keys of this one.
            Err(error) if !file.class_name.is_empty() && !file.is_trained_otherwise(&rest) => {
                let mut known = CLASSES.iter().filter_map(|(_, kind)| file.clone().resolve(*kind, false).ok());
                known.next().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The class it was made for, where that is not offered.
    #[must_use]
    pub fn own_class(&self) -> Option<&str> {
        self.file.kind().is_err().then_some(self.file.class_name.as_str())
    }

    /// A sampler that it can be tried with, where its own is not offered.
    #[must_use]
    pub fn stand_in(&self) -> Option<SchedulerKind> {
        self.own_class().map(|_| self.kind)
    }

    /// The config as `StableDiffusionPipeline`'s constructor leaves it: its own scheduler never clips latents and
    /// leads by one step, also where the file says otherwise.
    ///
    /// # Errors
    /// As [`Self::from_json`]; not for a config that was valid before.
    pub fn corrected_for_stable_diffusion(&self) -> Result<Self, SchedulerError> {
        let mut file = self.file.clone();
        file.steps_offset = file.steps_offset.map(|_| 1);
        file.clip_sample = file.clip_sample.map(|_| false);
        let is_own = file.kind().is_ok();
        let mut config = file.resolve(self.kind, is_own)?;
        config.corrected = true;
        Ok(config)
    }

    /// The config with what a recipe overrides.
    ///
    /// # Errors
    /// When the sampler chosen cannot honour an option: named, never ignored.
    pub fn with_choice(&self, choice: &SchedulerChoice) -> Result<Self, SchedulerError> {
        let not_offered = |_| SchedulerError::NotOffered { name: self.file.class_name.clone() };
        let kind = choice.kind.map_or_else(|| self.file.kind().map_err(not_offered), Ok)?;
        let mut file = self.file.clone();
        let unsupported = |what: &str| SchedulerError::Unsupported { kind, what: what.to_owned() };
        if let Some(spacing) = choice.timestep_spacing {
            if file.edm.is_some() {
                return Err(unsupported("`timestep_spacing` of a network without training steps"));
            }
            if kind == SchedulerKind::DpmPp2S && spacing != TimestepSpacing::Linspace {
                return Err(unsupported("`timestep_spacing` but `linspace`"));
            }
            file.timestep_spacing = Some(spacing.as_str().to_owned());
        }
        // Named levels replace whatever spacing the file has.
        let is_named = !choice.timesteps.is_empty() || !choice.sigma_values.is_empty();
        if let Some(edm) = &mut file.edm {
            if is_named {
                return Err(unsupported("`timesteps` and `sigma_values` of a network without training steps"));
            }
            let spaced = edm.spaced(choice.sigmas.unwrap_or(SigmaSpacing::Trained));
            *edm = spaced.ok_or_else(|| unsupported("`sigmas` but `karras` and `exponential` with such a network"))?;
        } else if let Some(sigmas) = choice.sigmas.or(is_named.then_some(SigmaSpacing::Trained)) {
            if sigmas != SigmaSpacing::Trained && !RESPACING.contains(&kind) {
                return Err(unsupported("`sigmas` but the trained ones"));
            }
            if sigmas == SigmaSpacing::Lu && !MULTISTEP.contains(&kind) {
                return Err(unsupported("`sigmas` of the spacing `lu`"));
            }
            file.use_karras_sigmas = Some(sigmas == SigmaSpacing::Karras);
            file.use_exponential_sigmas = Some(sigmas == SigmaSpacing::Exponential);
            file.use_beta_sigmas = Some(sigmas == SigmaSpacing::Beta);
            file.use_lu_lambdas = Some(sigmas == SigmaSpacing::Lu);
        }
        if let Some(rescale) = choice.zero_terminal_snr {
            if rescale && (NEVER_RESCALING.contains(&kind) || file.edm.is_some()) {
                return Err(unsupported("`zero_terminal_snr`"));
            }
            file.rescale_betas_zero_snr = Some(rescale);
        }
        if let Some(prediction) = choice.prediction {
            file.prediction_type = Some(prediction.as_str().to_owned());
        }
        let is_own = self.corrected && self.file.kind().is_ok_and(|own| own == kind);
        let mut config = file.resolve(kind, is_own)?;
        config.corrected = self.corrected;
        config.visits = visits(kind, choice)?;
        match (choice.eta, &mut config.method) {
            (None, _) => {}
            (Some(share), Method::Ddim { eta, .. }) => *eta = share,
            (Some(share), Method::Tcd(options)) => options.gamma = share,
            (Some(_), _) => return Err(unsupported("`eta`")),
        }
        Ok(config)
    }

    /// How the noise levels are spaced.
    #[must_use]
    pub const fn sigmas(&self) -> SigmaSpacing {
        match &self.method {
            Method::Euler(options) => options.sigmas,
            Method::Heun(options) => options.sigmas,
            Method::Lms { sigmas } => *sigmas,
            Method::DpmMulti(options) | Method::DpmSingle(options) => options.sigmas,
            Method::UniPc(options) => options.sigmas,
            Method::Deis(options) => options.sigmas,
            Method::Ddim { .. } | Method::Pndm { .. } | Method::EulerAncestral | Method::Lcm(_) | Method::Tcd(_) => {
                SigmaSpacing::Trained
            }
        }
    }

    /// Which steps of `steps` come before the share `start` of the training schedule is done, as diffusers splits a way
    /// between a base and a refiner (`denoising_end`): a step belongs to the first part while its timestep is at least
    /// the training step at that share.
    ///
    /// # Errors
    /// When the config cannot do so many steps.
    pub fn steps_before(&self, steps: usize, start: f64) -> Result<usize, SchedulerError> {
        if self.edm.is_some() {
            let what = "a refiner of a network without training steps".to_owned();
            return Err(SchedulerError::Unsupported { kind: self.kind, what });
        }
        #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
        let train_steps = self.train_steps as f64;
        let cutoff = (train_steps - start * train_steps).round_ties_even();
        let evaluated = Sampler::new(self, Span::whole(steps))?;
        // Of an evaluation that is made twice for one step, the first counts.
        let mut timesteps = evaluated.timesteps().to_vec();
        timesteps.dedup();
        Ok(timesteps.iter().filter(|timestep| f64::from(**timestep) >= cutoff).count())
    }
}

/// The keys of all classes as they stand in a file; what is absent has no value yet.
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
    predict_x0: Option<bool>,
    disable_corrector: Option<Vec<usize>>,
    original_inference_steps: Option<usize>,
    timestep_scaling: Option<f64>,
    /// What the file says of a network that was trained as EDM has it.
    #[serde(skip)]
    edm: Option<Edm>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
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
        let known = CLASSES.iter().find(|(class, _)| *class == self.class_name).map(|(_, kind)| *kind);
        let kind = known.ok_or_else(|| SchedulerError::Class { name: self.class_name.clone() })?;
        // One class of diffusers, told apart by two options.
        if kind != SchedulerKind::DpmPp2M {
            return Ok(kind);
        }
        Ok(match (self.solver_order, self.algorithm_type.as_deref()) {
            (Some(3), Some(SDE)) => SchedulerKind::DpmPp3MSde,
            (Some(3), _) => SchedulerKind::DpmPp3M,
            (_, Some(SDE)) => SchedulerKind::DpmPp2MSde,
            _ => SchedulerKind::DpmPp2M,
        })
    }

    /// Whether its network was trained by flow matching, or in EDM's or consistency models' way: with what is added up for
    /// other networks here, it draws noise. `rest` are the keys that no class here has.
    fn is_trained_otherwise(&self, rest: &BTreeMap<String, Value>) -> bool {
        TRAINED_OTHERWISE.iter().any(|prefix| self.class_name.starts_with(prefix))
            || KEYS_OF_OTHER_TRAINING.iter().any(|key| rest.get(*key).is_some_and(|value| !value.is_null()))
            || [self.use_flow_sigmas, self.use_dynamic_shifting].contains(&Some(true))
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
        self.refuse_what_edm_has_not(kind)?;
        let betas = self.betas(kind, train_steps)?;
        let prediction = self.prediction(kind)?;
        let method = self.method(kind, train_steps, is_own_and_corrected)?;
        let leads_by_default =
            matches!(kind, SchedulerKind::Ddim | SchedulerKind::Pndm | SchedulerKind::Lcm | SchedulerKind::Tcd);
        let default = if leads_by_default { TimestepSpacing::Leading } else { TimestepSpacing::Linspace };
        let spacings = TimestepSpacing::ALL.map(|spacing| (spacing.as_str(), spacing));
        let spacing = choose("timestep_spacing", self.timestep_spacing.as_deref(), default, &spacings)?;
        let rescale_zero_snr = !NEVER_RESCALING.contains(&kind) && self.rescale_betas_zero_snr.unwrap_or(false);
        Ok(SchedulerConfig {
            kind,
            train_steps,
            betas,
            prediction,
            spacing,
            steps_offset,
            rescale_zero_snr,
            method,
            visits: Visits::Spaced,
            edm: self.edm,
            file: self,
            corrected: is_own_and_corrected,
        })
    }

    fn refuse_what_no_sampler_does(&self, kind: SchedulerKind) -> Result<(), SchedulerError> {
        use SchedulerKind::{Ddim, Deis, DpmPp2S, Lcm, UniPc};
        let exponential = [&MULTISTEP[..], &[DpmPp2S, UniPc, Deis]].concat();
        let refusals: [(&str, Option<bool>, &[SchedulerKind]); 3] = [
            ("thresholding", self.thresholding, &[&exponential[..], &[Ddim, Lcm]].concat()),
            ("use_flow_sigmas", self.use_flow_sigmas, &exponential),
            ("use_dynamic_shifting", self.use_dynamic_shifting, &exponential),
        ];
        if let Some((key, ..)) = refusals.iter().find(|(_, asked, kinds)| *asked == Some(true) && kinds.contains(&kind))
        {
            return Err(SchedulerError::Unsupported { kind, what: (*key).into() });
        }
        // Only Euler's own ends are implemented.
        let has_ends = self.sigma_min.is_some() || self.sigma_max.is_some();
        if has_ends && self.is_respaced() && RESPACING.contains(&kind) && kind != SchedulerKind::Euler {
            return Err(SchedulerError::Unsupported {
                kind,
                what: "respaced sigmas from sigma_min to sigma_max".into(),
            });
        }
        Ok(())
    }

    fn refuse_what_edm_has_not(&self, kind: SchedulerKind) -> Result<(), SchedulerError> {
        if self.edm.is_none() {
            return Ok(());
        }
        let refused = |what: &str| Err(SchedulerError::Unsupported { kind, what: what.to_owned() });
        let is_stepped = kind == SchedulerKind::Euler || MULTISTEP.contains(&kind);
        match self.prediction_type.as_deref() {
            _ if !is_stepped => refused(edm::NETWORKS),
            Some("sample") => refused("prediction_type `sample` of such a network"),
            // diffusers has no third order of the stochastic equation here.
            _ if kind == SchedulerKind::DpmPp3MSde => refused(edm::NETWORKS),
            _ => Ok(()),
        }
    }

    fn is_respaced(&self) -> bool {
        [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas].contains(&Some(true))
    }

    fn betas(&self, kind: SchedulerKind, train_steps: usize) -> Result<Betas, SchedulerError> {
        if let Some(betas) = &self.trained_betas {
            if betas.len() != train_steps || !betas.iter().all(|beta| *beta > 0.0 && *beta < 1.0) {
                let allowed = format!("{train_steps} numbers between 0 and 1");
                return Err(value("trained_betas", format!("{} numbers", betas.len()), &allowed));
            }
            return Ok(Betas::Trained(betas.clone()));
        }
        let is_consistent = matches!(kind, SchedulerKind::Lcm | SchedulerKind::Tcd);
        let latent_defaults = is_consistent || kind == SchedulerKind::Heun;
        let (start, end) = if latent_defaults { (0.00085, 0.012) } else { (0.0001, 0.02) };
        let (start, end) = (self.beta_start.unwrap_or(start), self.beta_end.unwrap_or(end));
        let table = [
            ("linear", Betas::Linear { start, end }),
            ("scaled_linear", Betas::ScaledLinear { start, end }),
            ("squaredcos_cap_v2", Betas::SquaredCosine),
        ];
        let default = if is_consistent { Betas::ScaledLinear { start, end } } else { Betas::Linear { start, end } };
        let betas = choose("beta_schedule", self.beta_schedule.as_deref(), default, &table)?;
        for (key, beta) in [("beta_start", start), ("beta_end", end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(value(key, beta, "between 0 and 1"));
            }
        }
        Ok(betas)
    }

    fn prediction(&self, kind: SchedulerKind) -> Result<Prediction, SchedulerError> {
        let table = Prediction::ALL.map(|prediction| (prediction.as_str(), prediction));
        let prediction = choose("prediction_type", self.prediction_type.as_deref(), Prediction::Epsilon, &table)?;
        let is_never_sample = matches!(kind, SchedulerKind::Pndm | SchedulerKind::EulerAncestral);
        if prediction == Prediction::Sample && is_never_sample {
            return Err(SchedulerError::Unsupported { kind, what: "prediction_type `sample`".into() });
        }
        Ok(prediction)
    }

    fn method(
        &self,
        kind: SchedulerKind,
        train_steps: usize,
        is_own_and_corrected: bool,
    ) -> Result<Method, SchedulerError> {
        Ok(match kind {
            SchedulerKind::Ddim => Method::Ddim {
                alpha_one_at_end: self.set_alpha_to_one.unwrap_or(true),
                clip_range: self.clip_range(is_own_and_corrected)?,
                eta: 0.0,
            },
            SchedulerKind::Pndm => Method::Pndm {
                alpha_one_at_end: self.set_alpha_to_one.unwrap_or(false),
                skips_runge_kutta: self.skip_prk_steps.unwrap_or(false),
            },
            SchedulerKind::Euler => Method::Euler(self.euler()?),
            SchedulerKind::EulerAncestral => Method::EulerAncestral,
            SchedulerKind::Heun => {
                Method::Heun(HeunOptions { sigmas: self.sigmas(kind)?, clip_range: self.clip_range(true)? })
            }
            SchedulerKind::Lms => Method::Lms { sigmas: self.sigmas(kind)? },
            SchedulerKind::DpmPp2S => Method::DpmSingle(self.dpm(kind)?),
            SchedulerKind::DpmPp2M | SchedulerKind::DpmPp2MSde | SchedulerKind::DpmPp3M | SchedulerKind::DpmPp3MSde => {
                Method::DpmMulti(self.dpm(kind)?)
            }
            SchedulerKind::UniPc => Method::UniPc(self.unipc()?),
            SchedulerKind::Deis => Method::Deis(self.deis()?),
            SchedulerKind::Lcm => Method::Lcm(self.lcm(train_steps)?),
            SchedulerKind::Tcd => {
                Method::Tcd(TcdOptions { distilled_steps: self.distilled_steps(train_steps)?, gamma: GAMMA_DEFAULT })
            }
        })
    }

    /// How far clean latents may reach; `is_off_by_default` decides where the file does not say whether they are clipped.
    fn clip_range(&self, is_off_by_default: bool) -> Result<Option<f64>, SchedulerError> {
        let range = self.clip_sample_range.unwrap_or(1.0);
        if !(range > 0.0 && range.is_finite()) {
            return Err(value("clip_sample_range", range, "a positive number"));
        }
        Ok(self.clip_sample.unwrap_or(!is_off_by_default).then_some(range))
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
            sigmas: self.sigmas(SchedulerKind::Euler)?,
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
            continuous_timesteps: choose("timestep_type", self.timestep_type.as_deref(), false, &timestep_types)?,
            final_sigma: self.final_sigma()?,
        })
    }

    fn sigmas(&self, kind: SchedulerKind) -> Result<SigmaSpacing, SchedulerError> {
        // Only one class reads the last.
        let lu = self.use_lu_lambdas.filter(|_| MULTISTEP.contains(&kind));
        let asked = [
            ("use_karras_sigmas", self.use_karras_sigmas, SigmaSpacing::Karras),
            ("use_exponential_sigmas", self.use_exponential_sigmas, SigmaSpacing::Exponential),
            ("use_beta_sigmas", self.use_beta_sigmas, SigmaSpacing::Beta),
            ("use_lu_lambdas", lu, SigmaSpacing::Lu),
        ];
        let mut asked = asked.into_iter().filter(|(_, asked, _)| *asked == Some(true));
        match (asked.next(), asked.next()) {
            (_, Some((key, ..))) => Err(value(key, true, "at most one spacing of the sigmas")),
            (Some((_, _, spacing)), None) => Ok(spacing),
            (None, None) => Ok(SigmaSpacing::Trained),
        }
    }

    fn deis(&self) -> Result<DeisOptions, SchedulerError> {
        let kind = SchedulerKind::Deis;
        let order = self.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(SchedulerError::Unsupported { kind, what: format!("solver_order {order}") });
        }
        // As diffusers reads other solvers' names for the same integral.
        let algorithm = self.algorithm_type.as_deref().unwrap_or("deis");
        if !matches!(algorithm, "deis" | "dpmsolver" | "dpmsolver++") {
            return Err(SchedulerError::Unsupported { kind, what: format!("algorithm_type `{algorithm}`") });
        }
        Ok(DeisOptions {
            order: order as usize,
            sigmas: self.sigmas(kind)?,
            lower_order_final: self.lower_order_final.unwrap_or(true),
        })
    }

    fn unipc(&self) -> Result<UniPcOptions, SchedulerError> {
        let kind = SchedulerKind::UniPc;
        let order = self.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
            return Err(SchedulerError::Unsupported { kind, what: format!("solver_order {order}") });
        }
        if self.predict_x0 == Some(false) {
            return Err(SchedulerError::Unsupported { kind, what: "predict_x0 `false`".into() });
        }
        let solvers = [("bh1", true), ("bh2", false), ("midpoint", false), ("heun", false), ("logrho", false)];
        let (final_sigma, lower_order_final) = (self.final_sigma()?, self.lower_order_final.unwrap_or(true));
        if final_sigma == FinalSigma::Zero && !lower_order_final && order > 1 {
            // Its last step is infinitely long, so anything but the first order divides by infinity.
            let what = "final_sigmas_type `zero` without lower_order_final".into();
            return Err(SchedulerError::Unsupported { kind, what });
        }
        Ok(UniPcOptions {
            order: order as usize,
            is_bh1: choose("solver_type", self.solver_type.as_deref(), false, &solvers)?,
            sigmas: self.sigmas(kind)?,
            lower_order_final,
            disable_corrector: self.disable_corrector.clone().unwrap_or_default(),
            final_sigma,
        })
    }

    fn distilled_steps(&self, train_steps: usize) -> Result<usize, SchedulerError> {
        let distilled_steps = self.original_inference_steps.unwrap_or(50);
        if !(1..=train_steps).contains(&distilled_steps) {
            return Err(value("original_inference_steps", distilled_steps, "1 to num_train_timesteps"));
        }
        Ok(distilled_steps)
    }

    fn lcm(&self, train_steps: usize) -> Result<LcmOptions, SchedulerError> {
        let distilled_steps = self.distilled_steps(train_steps)?;
        let timestep_scaling = self.timestep_scaling.unwrap_or(10.0);
        if !(timestep_scaling > 0.0 && timestep_scaling <= 1e6) {
            return Err(value("timestep_scaling", timestep_scaling, "above 0, up to 1000000"));
        }
        Ok(LcmOptions { distilled_steps, clip_range: self.clip_range(true)?, timestep_scaling })
    }

    fn dpm(&self, kind: SchedulerKind) -> Result<DpmOptions, SchedulerError> {
        let is_single = kind == SchedulerKind::DpmPp2S;
        let algorithm = self.algorithm_type.as_deref().unwrap_or("dpmsolver++");
        // As diffusers reads DEIS's name for the same integral.
        let is_known = matches!(algorithm, "dpmsolver++" | "deis") || (algorithm == SDE && !is_single);
        if !is_known {
            return Err(SchedulerError::Unsupported { kind, what: format!("algorithm_type `{algorithm}`") });
        }
        // The others are about noise that this class does not draw.
        if let Some(variance) = self.variance_type.as_ref().filter(|variance| variance.starts_with("learned")) {
            return Err(SchedulerError::Unsupported { kind, what: format!("variance_type `{variance}`") });
        }
        let order = self.solver_order.unwrap_or(2);
        if !(1..=3).contains(&order) {
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
            order: match kind {
                SchedulerKind::DpmPp3M | SchedulerKind::DpmPp3MSde => 3,
                // A recipe that names the second order means it, also where the file has the third.
                SchedulerKind::DpmPp2M | SchedulerKind::DpmPp2MSde => order.min(2) as usize,
                _ => order as usize,
            },
            solver: choose("solver_type", self.solver_type.as_deref(), SolverType::Midpoint, &solvers)?,
            is_stochastic: matches!(kind, SchedulerKind::DpmPp2MSde | SchedulerKind::DpmPp3MSde),
            sigmas: self.sigmas(kind)?,
            lower_order_final: self.lower_order_final.unwrap_or(!is_single),
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

/// The classes of diffusers that are known, and what a recipe calls them.
pub(super) const CLASSES: [(&str, SchedulerKind); 14] = [
    ("DDIMScheduler", SchedulerKind::Ddim),
    ("PNDMScheduler", SchedulerKind::Pndm),
    ("EulerDiscreteScheduler", SchedulerKind::Euler),
    ("EulerAncestralDiscreteScheduler", SchedulerKind::EulerAncestral),
    ("HeunDiscreteScheduler", SchedulerKind::Heun),
    ("LMSDiscreteScheduler", SchedulerKind::Lms),
    ("DPMSolverSinglestepScheduler", SchedulerKind::DpmPp2S),
    ("DPMSolverMultistepScheduler", SchedulerKind::DpmPp2M),
    ("UniPCMultistepScheduler", SchedulerKind::UniPc),
    ("DEISMultistepScheduler", SchedulerKind::Deis),
    ("LCMScheduler", SchedulerKind::Lcm),
    ("TCDScheduler", SchedulerKind::Tcd),
    ("EDMEulerScheduler", SchedulerKind::Euler),
    ("EDMDPMSolverMultistepScheduler", SchedulerKind::DpmPp2M),
];

/// Classes for networks that were trained as EDM has it: a recipe's `euler` and `dpmpp_…` step those in their own way.
const EDM_CLASSES: [&str; 2] = ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"];

/// Of a class that is not offered, also one's own, a recipe names another, which draws with the same network: a class says how
/// latents are stepped. Those whose names begin so, and configurations with these keys, say that the network was trained in
/// another way.
const TRAINED_OTHERWISE: [&str; 4] = ["FlowMatch", "EDM", "CosineDPMSolver", "CMStochasticIterative"];
const KEYS_OF_OTHER_TRAINING: [&str; 4] = ["sigma_data", "shift", "base_shift", "max_shift"];
/// Longest name of a class that is shown.
const CLASS_CHARS_MAX: usize = 80;

/// The `algorithm_type` that makes DPM-Solver++ stochastic.
const SDE: &str = "sde-dpmsolver++";

/// The share of fresh noise that TCD takes where a recipe does not say.
const GAMMA_DEFAULT: f64 = 0.3;

/// What one class of diffusers does, by its order and algorithm.
const MULTISTEP: [SchedulerKind; 4] =
    [SchedulerKind::DpmPp2M, SchedulerKind::DpmPp2MSde, SchedulerKind::DpmPp3M, SchedulerKind::DpmPp3MSde];

/// Samplers whose sigmas can be spaced otherwise than they were trained.
const RESPACING: [SchedulerKind; 10] = [
    SchedulerKind::Euler,
    SchedulerKind::Heun,
    SchedulerKind::Lms,
    SchedulerKind::DpmPp2S,
    SchedulerKind::DpmPp2M,
    SchedulerKind::DpmPp2MSde,
    SchedulerKind::DpmPp3M,
    SchedulerKind::DpmPp3MSde,
    SchedulerKind::UniPc,
    SchedulerKind::Deis,
];

/// Samplers that visit the training steps that a recipe names.
const VISITING_NAMED: [SchedulerKind; 9] = [
    SchedulerKind::Euler,
    SchedulerKind::Heun,
    SchedulerKind::DpmPp2S,
    SchedulerKind::DpmPp2M,
    SchedulerKind::DpmPp2MSde,
    SchedulerKind::DpmPp3M,
    SchedulerKind::DpmPp3MSde,
    SchedulerKind::Lcm,
    SchedulerKind::Tcd,
];

/// Samplers whose classes have no `rescale_betas_zero_snr`.
const NEVER_RESCALING: [SchedulerKind; 5] =
    [SchedulerKind::Pndm, SchedulerKind::Heun, SchedulerKind::Lms, SchedulerKind::DpmPp2S, SchedulerKind::Deis];

/// The levels that a recipe names, where the sampler visits such.
fn visits(kind: SchedulerKind, choice: &SchedulerChoice) -> Result<Visits, SchedulerError> {
    let refused = |what: &str| Err(SchedulerError::Unsupported { kind, what: what.to_owned() });
    match (choice.timesteps.as_slice(), choice.sigma_values.as_slice()) {
        ([], []) => Ok(Visits::Spaced),
        ([], _) if kind != SchedulerKind::Euler => refused("`sigma_values`"),
        ([], sigmas) => Ok(Visits::Sigmas(sigmas.to_vec())),
        _ if !VISITING_NAMED.contains(&kind) => refused("`timesteps`"),
        (timesteps, _) => Ok(Visits::Timesteps(timesteps.to_vec())),
    }
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
