//! Low-rank adapters (LoRA, Hu et al. 2021): a file of small matrix pairs beside a checkpoint.
//!
//! An [`Adapter`] is what a file holds, checked and named by the module it belongs to; [`Applied`] is several of them
//! with weights, which gives a network's layers their pairs while the network is put together. The checkpoint's own
//! tensors are shared and never written to, so nothing of an adapter can stay behind or add up: a request with adapters
//! runs networks of its own, made of the same tensors. Sources: PEFT 0.21 `tuners/lora/layer.py`, kohya-ss sd-scripts
//! `networks/lora.py`, diffusers 0.42 `loaders/lora_conversion_utils.py`.
//!
//! A DoRA (Liu et al. 2024) has the length of each output's weights beside its pairs, as PEFT writes it, for linear layers. What
//! else is not plain LoRA (LoHa, LoKr, OFT, full differences, …) is refused by name, and so is a file that has a tensor for which the checkpoint has no module: an adapter that is half applied is not applied.

mod config;
mod names;
mod patterns;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use tch::{Device, Kind, TchError, Tensor};

use bildkante_shared::adapter;

use self::config::LoraConfigs;
use self::names::{PairRole, Part};
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::sd::identity::Identity;
use crate::diffusion::weights::safetensors_file::SafetensorsFile;
use crate::diffusion::weights::{ConvGeometry, LayerShape, LowRank, NetworkTensors, Reusing, VarSource, WeightsError};

/// Most names an error lists.
const NAMES_SHOWN_MAX: usize = 4;
/// Largest rank of one pair.
const RANK_MAX: i64 = 4096;

/// Where diffusers keeps the configuration of an adapter. Other metadata (kohya's `ss_…`, `modelspec.…`) describe the training,
/// as free text for people.
const METADATA_KEY: &str = "lora_adapter_metadata";

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    #[error(transparent)]
    File(#[from] WeightsError),
    #[error("{path} is {kind}, which is not supported: plain LoRA is (tensor `{tensor}`)")]
    Kind { path: PathBuf, kind: &'static str, tensor: String },
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Tensor { path: PathBuf, tensor: String, reason: String },
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("{path} holds no pair of matrices")]
    Empty { path: PathBuf },
    #[error("{count} modules of the adapter {adapter} are not in the checkpoint: {names}")]
    Foreign { adapter: String, count: usize, names: String },
    #[error("module `{module}` of the adapter {adapter}: {reason}")]
    Shape { adapter: String, module: String, reason: String },
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// A float32 tensor that threads may share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    pub(super) shape: Vec<i64>,
    values: Vec<f32>,
}

impl Values {
    /// `None` where there is something that is not finite.
    pub(super) fn read(tensor: &Tensor) -> Result<Option<Self>, TchError> {
        let flat = tensor.f_to_kind(Kind::Float)?.f_flatten(0, -1)?;
        let values: Vec<f32> = Vec::try_from(&flat)?;
        Ok(values.iter().all(|value| value.is_finite()).then_some(Self { shape: tensor.size(), values }))
    }

    pub(super) fn tensor(&self, shape: &[i64]) -> Result<Tensor, TchError> {
        Tensor::f_from_slice(&self.values)?.f_view(shape)
    }
}

/// One module's pair.
#[derive(Debug)]
struct Pair {
    down: Values, // [rank, in] or [rank, in, k, k]
    up: Values,   // [out, rank] or [out, rank, 1, 1]
    /// What the product is multiplied with beside the weight: alpha / rank.
    scale: f64,
    /// Of a DoRA: the length that each output's weights get, `[out]`.
    magnitude: Option<Values>,
}

/// A file's pairs by the name the file has for their module.
#[derive(Debug)]
pub struct Adapter {
    identity: Identity,
    pairs: BTreeMap<(Part, String), Pair>,
}

#[derive(Debug, Default)]
struct HalfPair {
    down: Option<Values>,
    up: Option<Values>,
    alpha: Option<f64>,
    magnitude: Option<Values>,
}

impl Adapter {
    /// Reads a safetensors file and, where it is PEFT's, the `adapter_config.json` beside it.
    ///
    /// # Errors
    /// When it cannot be read, is no plain LoRA, or holds values that are not finite.
    pub fn load(path: &Path) -> Result<Self, LoraError> {
        let file = SafetensorsFile::open(path)?;
        let beside = adapter::config_beside(path, file.entries().keys().map(String::as_str));
        let beside = beside.map_err(|source| WeightsError::Io { path: path.to_owned(), source })?;
        let configs = configs(path, &file, beside.as_ref())?;
        let is_peft = adapter::is_of_peft(file.entries().keys().map(String::as_str));
        let tensor_error = |tensor: &str, reason: String| LoraError::Tensor {
            path: path.to_owned(),
            tensor: tensor.chars().take(200).collect(),
            reason,
        };
        let mut found: BTreeMap<(Part, String), HalfPair> = BTreeMap::new();
        for (name, entry) in file.entries() {
            if let Some(kind) = names::unsupported(name) {
                return Err(LoraError::Kind { path: path.to_owned(), kind, tensor: name.chars().take(200).collect() });
            }
            let (part, module, role) = names::parse(name)
                .ok_or_else(|| tensor_error(name, "it is named as no known format names it".into()))?;
            let tensor = file.tensor_of_any_kind(name, entry)?;
            let pair = found.entry((part, module)).or_default();
            let is_first = if role == PairRole::Alpha {
                if tensor.numel() != 1 {
                    return Err(tensor_error(name, "an alpha is one number".into()));
                }
                let alpha = f64::try_from(tensor.f_to_kind(Kind::Double)?.f_view([])?)?;
                if !alpha.is_finite() {
                    return Err(tensor_error(name, "it holds NaN or infinity".into()));
                }
                pair.alpha.replace(alpha).is_none()
            } else {
                let values = Values::read(&tensor)?;
                let values = values.ok_or_else(|| tensor_error(name, "it holds NaN or infinity".into()))?;
                let half = match role {
                    PairRole::Down => &mut pair.down,
                    PairRole::Magnitude => &mut pair.magnitude,
                    _ => &mut pair.up,
                };
                half.replace(values).is_none()
            };
            if !is_first {
                return Err(tensor_error(name, "its module has another of its kind".into()));
            }
        }
        let says_dora = says_dora(&file, beside.as_ref());
        let mut pairs = BTreeMap::new();
        for ((part, module), found) in found {
            let (Some(down), Some(up)) = (found.down, found.up) else {
                return Err(tensor_error(&module, "the module has one half of a pair only".into()));
            };
            let rank = down.shape.first().copied().unwrap_or(0);
            let fits = (1..=RANK_MAX).contains(&rank) && up.shape.get(1) == Some(&rank);
            if !fits || down.shape.len() != up.shape.len() || !matches!(down.shape.len(), 2 | 4) {
                let reason = format!("{:?} and {:?} are no pair", down.shape, up.shape);
                return Err(tensor_error(&module, reason));
            }
            #[allow(clippy::cast_precision_loss, reason = "ranks are small")]
            let rank = rank as f64;
            // PEFT loads no file of its own without one either: only it knows what the matrices were trained with.
            if is_peft && found.alpha.is_none() && !configs.tell_of(part) {
                let [own, shared] = adapter::config_paths(path).map(|path| path.display().to_string());
                let reason = format!(
                    "it is a file of PEFT's and nothing says its alpha: its configuration is missing, {own} or, beside the \
                     only such file of a folder, {shared}"
                );
                return Err(LoraError::Config { path: path.to_owned(), reason });
            }
            let scale = configs.scale(part, &module, rank, found.alpha);
            let scale = scale.map_err(|reason| tensor_error(&module, reason))?;
            let outputs = up.shape[0];
            let fits = |values: &Values| i64::try_from(values.values.len()) == Ok(outputs) && down.shape.len() == 2;
            if found.magnitude.as_ref().map_or(says_dora, |magnitude| !fits(magnitude)) {
                let reason = "a DoRA has a magnitude for each output of a linear layer".into();
                return Err(tensor_error(&module, reason));
            }
            pairs.insert((part, module), Pair { down, up, scale, magnitude: found.magnitude });
        }
        if pairs.is_empty() {
            return Err(LoraError::Empty { path: path.to_owned() });
        }
        let identity = Identity::of(&file);
        let digest = adapter::digest(identity.digest, beside.as_ref().map(|beside| beside.text.as_slice()));
        Ok(Self { identity: Identity { digest, ..identity }, pairs })
    }

    /// Whether all it changes belongs to a UNet or one of `texts`.
    pub(crate) fn check_networks(&self, texts: &[Network]) -> Result<(), LoraError> {
        let is_known = |part: &Part| part.network() == Network::Unet || texts.contains(&part.network());
        let foreign: Vec<&str> =
            self.pairs.keys().filter(|(part, _)| !is_known(part)).map(|(_, module)| module.as_str()).collect();
        if foreign.is_empty() { Ok(()) } else { Err(self.foreign(&foreign)) }
    }

    fn foreign(&self, modules: &[&str]) -> LoraError {
        let names = modules.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{name}`"));
        let names = names.collect::<Vec<_>>().join(", ");
        LoraError::Foreign { adapter: self.identity.name.clone(), count: modules.len(), names }
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A digest of how it is built: the modules it changes and the shapes of its pairs, not the numbers in them.
    #[must_use]
    pub fn architecture(&self) -> Digest {
        let shapes = self.pairs.iter().map(|((part, module), Pair { down, up, magnitude, .. })| {
            let gained = if magnitude.is_some() { " gained" } else { "" };
            format!("{part:?} {module} {:?} {:?}{gained}", down.shape, up.shape)
        });
        Digest::of_bytes(shapes.collect::<Vec<_>>().join("\n").as_bytes())
    }
}

/// Whether a configuration says that every pair has a magnitude.
fn says_dora(file: &SafetensorsFile, beside: Option<&adapter::Beside>) -> bool {
    let metadata = file.metadata().get(METADATA_KEY).map(String::as_bytes);
    let text = beside.map(|beside| beside.text.as_slice()).or(metadata).unwrap_or_default();
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).unwrap_or_default();
    let is_it = |key: &str| key == "use_dora" || key.ends_with(".use_dora");
    json.iter().any(|(key, value)| is_it(key) && value == &serde_json::Value::Bool(true))
}

/// What is said of the pairs' scales, beside the file or in it.
fn configs(path: &Path, file: &SafetensorsFile, beside: Option<&adapter::Beside>) -> Result<LoraConfigs, LoraError> {
    let metadata = file.metadata().get(METADATA_KEY);
    let (path, configs) = match (metadata, beside) {
        (None, None) => return Ok(LoraConfigs::default()),
        (Some(_), Some(beside)) => {
            let reason =
                format!("the tensors have a configuration of their own (`{METADATA_KEY}`): one of the two must go");
            return Err(LoraError::Config { path: beside.path.clone(), reason });
        }
        (Some(text), None) => {
            let configs = LoraConfigs::of_metadata(text).map_err(|reason| format!("`{METADATA_KEY}`: {reason}"));
            (path.to_owned(), configs)
        }
        (None, Some(beside)) => (beside.path.clone(), LoraConfigs::of_peft(&beside.text)),
    };
    let is_flattened = file.entries().keys().any(|name| name.starts_with("lora_"));
    match configs {
        Ok(configs) if is_flattened && configs.has_patterns() => {
            let reason = "it has patterns, which cannot be matched against names with underscores for dots".into();
            Err(LoraError::Config { path, reason })
        }
        Ok(configs) => Ok(configs),
        Err(reason) => Err(LoraError::Config { path, reason }),
    }
}

/// Puts a network together again from its tensors, with adapters.
#[derive(Debug)]
pub(crate) struct Adapting<'a> {
    reusing: Reusing<'a>,
    applied: &'a Applied,
}

impl<'a> Adapting<'a> {
    pub(crate) const fn new(kept: &'a NetworkTensors, applied: &'a Applied) -> Self {
        Self { reusing: Reusing(kept), applied }
    }
}

impl VarSource for Adapting<'_> {
    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.reusing.take(name, shape)
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.reusing.take_stacked(names, shape)
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError> {
        self.reusing.take_kernel(name, shape, geometry)
    }

    fn low_rank(&mut self, modules: &[String], layer: LayerShape) -> Result<Option<LowRank>, WeightsError> {
        let names: Vec<String> = modules.iter().map(|module| format!("{module}.weight")).collect();
        let mut weight = || self.reusing.take_stacked(&names, &[]).map_err(LoraError::from);
        self.applied.low_rank(modules, layer, &mut weight).map_err(|error| WeightsError::LowRank(Box::new(error)))
    }
}

/// Which of a checkpoint's networks is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    Unet,
    /// The text encoders, in the order of their folders.
    TextEncoder,
    TextEncoder2,
}

/// One pair that acts on a module.
#[derive(Debug)]
struct Use {
    adapter: Arc<Adapter>,
    key: (Part, String),
    weight: f64,
}

/// The pairs of several adapters for one network, by the module's name in diffusers.
#[derive(Debug)]
pub struct Applied {
    modules: HashMap<String, Vec<Use>>,
    device: Device,
    kind: Kind,
}

impl Applied {
    /// Finds the modules of `network` that adapters with their weights change. `modules` are the names of all layers.
    ///
    /// # Errors
    /// When an adapter has a pair for a module of this network that is not there.
    pub fn new<'a>(
        adapters: &[(Arc<Adapter>, f64)],
        network: Network,
        modules: impl Iterator<Item = &'a str>,
        unet: &UnetConfig,
        (device, kind): (Device, Kind),
    ) -> Result<Self, LoraError> {
        let known = names::spellings(network, modules, unet);
        let mut applied: HashMap<String, Vec<Use>> = HashMap::new();
        for (adapter, weight) in adapters {
            let mut foreign = Vec::new();
            for key in adapter.pairs.keys().filter(|(part, _)| part.network() == network) {
                match known.get(&names::flat(&key.1)) {
                    Some(module) => {
                        let usage = Use { adapter: Arc::clone(adapter), key: key.clone(), weight: *weight };
                        applied.entry(module.clone()).or_default().push(usage);
                    }
                    None => foreign.push(key.1.as_str()),
                }
            }
            if !foreign.is_empty() {
                return Err(adapter.foreign(&foreign));
            }
        }
        Ok(Self { modules: applied, device, kind })
    }

    /// The pair of a layer that stands for `modules` one above the other, whose outputs follow each other. `weight` is the layer's
    /// own, `[out, in]`.
    ///
    /// # Errors
    /// When a pair does not fit the layer.
    pub(crate) fn low_rank(
        &self,
        modules: &[String],
        layer: LayerShape,
        weight: &mut dyn FnMut() -> Result<Tensor, LoraError>,
    ) -> Result<Option<LowRank>, LoraError> {
        let (mut downs, mut ups, mut gain) = (Vec::new(), Vec::new(), None);
        for (place, module) in modules.iter().enumerate() {
            for Use { adapter, key, weight: strength } in self.modules.get(module).into_iter().flatten() {
                let pair = &adapter.pairs[key];
                let misfit = |reason| LoraError::Shape {
                    adapter: adapter.identity.name.clone(),
                    module: module.clone(),
                    reason,
                };
                let (down, up) = fitted(layer, pair).map_err(misfit)?;
                let mut up = up.f_mul_scalar(pair.scale * strength)?;
                if let Some(magnitude) = &pair.magnitude {
                    let LayerShape::Linear { outputs, .. } = layer else {
                        return Err(misfit("a DoRA of a convolution is not supported".into()));
                    };
                    let own = weight()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_flatten(1, -1)?;
                    let rows = own.f_narrow(0, i64::try_from(place).unwrap_or(0) * outputs, outputs)?;
                    let gained = gain_of(&rows, (&down, &up), magnitude)?;
                    up = up.f_mul(&gained.f_unsqueeze(1)?)?;
                    let gained = placed_gain(&gained, place, modules.len())?;
                    // What acted before is part of what gets the new length, as in PEFT.
                    for former in &mut ups {
                        *former = Tensor::f_mul(former, &gained.f_unsqueeze(1)?)?;
                    }
                    gain = Some(gain.map_or(Ok(gained.shallow_clone()), |gain: Tensor| gain.f_mul(&gained))?);
                }
                downs.push(down);
                ups.push(placed(layer, &up, place, modules.len())?);
            }
        }
        if downs.is_empty() {
            return Ok(None);
        }
        let ready = |tensor: Tensor| tensor.f_to_kind(self.kind)?.f_to_device(self.device);
        let (down, up) = (ready(Tensor::f_cat(&downs, 0)?)?, ready(Tensor::f_cat(&ups, 1)?)?);
        Ok(Some(LowRank { down, up, gain: gain.map(ready).transpose()? }))
    }
}

/// What each output of a DoRA is multiplied with: the length its weights get, over the one they have with the pair, `[out]`.
fn gain_of(own: &Tensor, (down, up): (&Tensor, &Tensor), magnitude: &Values) -> Result<Tensor, TchError> {
    let together = own.f_add(&up.f_matmul(down)?)?;
    let lengths = together.f_square()?.f_sum_dim_intlist([1].as_slice(), false, Kind::Float)?.f_sqrt()?;
    magnitude.tensor(&[-1])?.f_div(&lengths)
}

/// The gains at the place of one of `count` stacked layers, one at the others.
fn placed_gain(gain: &Tensor, place: usize, count: usize) -> Result<Tensor, TchError> {
    let others = |layers: usize| Tensor::f_ones_like(gain)?.f_repeat([i64::try_from(layers).unwrap_or(0)]);
    Tensor::f_cat(&[others(place)?, gain.shallow_clone(), others(count - 1 - place)?], 0)
}

/// The pair as the layer computes with it: trainers store a 1×1 convolution's as a matrix, and the other way round.
fn fitted(layer: LayerShape, pair: &Pair) -> Result<(Tensor, Tensor), String> {
    let rank = pair.down.shape[0];
    let (down, up) = match layer {
        LayerShape::Linear { inputs, outputs } => (vec![rank, inputs], vec![outputs, rank]),
        LayerShape::Convolution { inputs, outputs, kernel } => {
            (vec![rank, inputs, kernel, kernel], vec![outputs, rank, 1, 1])
        }
    };
    let reshaped = |values: &Values, shape: &[i64]| {
        // Sides of 1 after the second one carry no information.
        let trimmed = |shape: &[i64]| {
            let end = shape.iter().rposition(|side| *side != 1).map_or(0, |last| last + 1);
            shape[..end.max(2).min(shape.len())].to_vec()
        };
        if trimmed(&values.shape) == trimmed(shape) {
            return values.tensor(shape).map_err(|error| error.to_string());
        }
        Err(format!("{:?} does not fit {shape:?}", values.shape))
    };
    Ok((reshaped(&pair.down, &down)?, reshaped(&pair.up, &up)?))
}

/// The outputs at the place of one of `count` stacked layers, zero at the others.
fn placed(layer: LayerShape, up: &Tensor, place: usize, count: usize) -> Result<Tensor, TchError> {
    let LayerShape::Linear { outputs, .. } = layer else { return Ok(up.shallow_clone()) };
    if count == 1 {
        return Ok(up.shallow_clone());
    }
    let (place, count) = (i64::try_from(place).unwrap_or(0), i64::try_from(count).unwrap_or(1));
    // Rows in front and behind.
    up.f_constant_pad_nd([0, 0, place * outputs, (count - 1 - place) * outputs])
}

#[cfg(test)]
mod tests;
