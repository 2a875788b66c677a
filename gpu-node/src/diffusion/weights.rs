//! Where a network's tensors come from.
//!
//! [`Weights`] maps the safetensors files of one network and gives out each tensor once, converted to the device
//! and precision of the run; a tensor that is missing, left over, misshapen, of an unknown type or not finite is
//! an error that names it and its file. [`ShapeRecorder`] stands in for the files and writes down what a network
//! asks for: the list of names and shapes comes from the very code that loads.
//!
//! Nothing a file says is trusted before it is checked: the file by
//! [`safetensors_file`](crate::diffusion::weights::safetensors_file), every shape against the configuration. [`Keeping`] and
//! [`Reusing`] put the same network together twice: from its files, and from the tensors of the first time. What adds to layers
//! (an adapter, say) wraps a source and answers [`VarSource::low_rank`]; nothing here knows it.

pub(crate) mod files;
pub(crate) mod safetensors_file;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, TchError, Tensor};

use self::safetensors_file::{SafetensorsFile, TENSORS_MAX, TensorEntry, is_finite};
use crate::diffusion::device;

/// Most names an error lists.
const NAMES_SHOWN_MAX: usize = 8;

/// Why a network cannot be loaded from its files.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no valid safetensors file: {reason}")]
    Header { path: PathBuf, reason: String },
    #[error("{path}: {reason}")]
    Index { path: PathBuf, reason: String },
    #[error("{folder} holds none of {tried}")]
    NoFile { folder: PathBuf, tried: String },
    #[error("tensor `{name}` of shape {expected:?} is missing from {files}")]
    Missing { name: String, expected: Vec<i64>, files: String },
    #[error("{count} tensors of {files} belong to no part of the network: {names}")]
    Surplus { count: usize, names: String, files: String },
    #[error("tensor `{name}` of {path} has shape {found:?}, the configuration asks for {expected:?}")]
    Shape { name: String, path: PathBuf, expected: Vec<i64>, found: Vec<i64> },
    #[error("tensor `{name}` of {path} is of type {found}; supported: F64, F32, F16, BF16")]
    Type { name: String, path: PathBuf, found: String },
    #[error("tensor `{name}` of {path} holds NaN or infinity as {kind}")]
    NotFinite { name: String, path: PathBuf, kind: &'static str },
    #[error("tensor `{name}` of {path} is there twice (names of older versions count as the same)")]
    Duplicate { name: String, path: PathBuf },
    #[error("tensor `{name}` of {path} does not hold the positions 0 to {}", positions - 1)]
    Positions { name: String, path: PathBuf, positions: i64 },
    #[error("tensor `{name}`: {source}")]
    Torch { name: String, source: TchError },
    /// What is added to a layer does not fit it.
    #[error(transparent)]
    LowRank(Box<dyn std::error::Error + Send + Sync>),
}

/// Stride and padding of a convolution, equal in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvGeometry {
    pub(crate) stride: i64,
    pub(crate) padding: i64,
}

/// How the convolutions of a network compute. Activations follow their kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelLayout {
    /// As files store them: a device's library decides for itself.
    Plain,
    /// oneDNN's own blocks, into which a plain kernel would be reordered anew at every call: best where kernels are
    /// large beside the areas they pass over, as in the UNet.
    Blocked,
    /// Channels last, for kernels and activations: best where few channels pass over large areas, as in the VAE, whose
    /// activations would otherwise be reordered around every convolution (1.9 times as fast on the built-in one), and in half
    /// precision on a processor (a step of the built-in one is 3.2 times as fast with AVX2).
    ChannelsLast,
}

impl KernelLayout {
    /// The one that a device computes best with.
    pub(crate) const fn of(device: Device, kind: Kind) -> Self {
        match (device, kind) {
            (Device::Cpu, Kind::Float) => Self::Blocked,
            (Device::Cpu, _) => Self::ChannelsLast,
            _ => Self::Plain,
        }
    }

    /// A kernel in this layout. Where oneDNN does not know the processor, the plain one computes the same.
    pub(crate) fn lay_out(self, kernel: Tensor, geometry: ConvGeometry) -> Tensor {
        let laid_out = match self {
            Self::Plain => return kernel,
            Self::Blocked => blocked(&kernel, geometry),
            Self::ChannelsLast => channels_last(&kernel),
        };
        laid_out.unwrap_or(kernel)
    }
}

/// What is added to the output of a layer: x · downᵀ · upᵀ, of all adapters with their weights in one pair.
#[derive(Debug)]
pub(crate) struct LowRank {
    pub(crate) down: Tensor, // [rank, in] or [rank, in, k, k]
    pub(crate) up: Tensor,   // [out, rank] or [out, rank, 1, 1], scaled
    /// What the layer's own product is multiplied with, without its bias, `[out]`: of adapters with magnitudes.
    pub(crate) gain: Option<Tensor>,
}

/// What a [`LowRank`] must fit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LayerShape {
    /// A linear layer, or one of several stacked: inputs, outputs of each.
    Linear { inputs: i64, outputs: i64 },
    /// A convolution: inputs, outputs, side of the kernel.
    Convolution { inputs: i64, outputs: i64, kernel: i64 },
}

/// Gives a network its tensors by name.
pub(crate) trait VarSource {
    /// The tensor `name`, which has `shape`.
    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError>;

    /// The tensors `names`, each of `shape`, one after the other along the first dimension.
    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError>;

    /// The kernel `name` of a convolution, in the layout its backend computes with.
    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError>;

    /// Tensors that are taken from now on are of this kind.
    fn set_kind(&mut self, _kind: Kind) {}

    /// What is added to the layer that stands for `modules`, one above the other; nothing by default.
    fn low_rank(&mut self, _modules: &[String], _layer: LayerShape) -> Result<Option<LowRank>, WeightsError> {
        Ok(None)
    }
}

/// A source and the dotted name of the part that is being loaded.
pub(crate) struct Scope<'a> {
    source: &'a mut dyn VarSource,
    prefix: String,
}

impl<'a> Scope<'a> {
    pub(crate) fn root(source: &'a mut dyn VarSource) -> Self {
        Self { source, prefix: String::new() }
    }

    /// The part `name` of this part.
    pub(crate) fn at(&mut self, name: impl fmt::Display) -> Scope<'_> {
        let prefix = self.name(name);
        Scope { source: &mut *self.source, prefix }
    }

    pub(crate) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let name = self.name(name);
        self.source.take(&name, shape)
    }

    pub(crate) fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let names: Vec<String> = names.iter().map(|name| self.name(name)).collect();
        self.source.take_stacked(&names, shape)
    }

    pub(crate) fn take_kernel(
        &mut self,
        name: &str,
        shape: &[i64],
        geometry: ConvGeometry,
    ) -> Result<Tensor, WeightsError> {
        let name = self.name(name);
        self.source.take_kernel(&name, shape, geometry)
    }

    /// What is added to this layer.
    pub(crate) fn low_rank(&mut self, layer: LayerShape) -> Result<Option<LowRank>, WeightsError> {
        let module = self.prefix.clone();
        self.source.low_rank(&[module], layer)
    }

    /// What is added to several layers of this part, one above the other.
    pub(crate) fn low_rank_stacked(
        &mut self,
        names: &[&str],
        layer: LayerShape,
    ) -> Result<Option<LowRank>, WeightsError> {
        let modules: Vec<String> = names.iter().map(|name| self.name(name)).collect();
        self.source.low_rank(&modules, layer)
    }

    fn name(&self, name: impl fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

/// Where a tensor is.
#[derive(Debug)]
struct TensorPlace {
    file: usize,
    /// As the file spells it, before names of older versions were translated.
    name: String,
    entry: TensorEntry,
}

/// The mapped files of one network.
#[derive(Debug)]
pub struct Weights {
    files: Vec<SafetensorsFile>,
    places: HashMap<String, TensorPlace>,
    device: Device,
    kind: Kind,
    kernel_layout: KernelLayout,
}

/// Every tensor of a file, on the CPU.
///
/// # Errors
/// When the file is no safetensors file, or a tensor of it is none that networks compute with.
pub fn read_all(path: &Path) -> Result<Vec<(String, Tensor)>, WeightsError> {
    let file = SafetensorsFile::open(path)?;
    file.entries().iter().map(|(name, entry)| Ok((name.clone(), file.tensor(name, entry)?))).collect()
}

impl Weights {
    /// Maps `files`, whose tensors will be given out on `device` as `kind`. `canonical` translates the names of
    /// older versions.
    ///
    /// # Errors
    /// When a file cannot be read, is no safetensors file, or two tensors have the same name.
    pub fn open(
        files: &[PathBuf],
        canonical: fn(&str) -> String,
        device: Device,
        kind: Kind,
    ) -> Result<Self, WeightsError> {
        let kernel_layout = KernelLayout::of(device, kind);
        let mut weights = Self { files: Vec::new(), places: HashMap::new(), device, kind, kernel_layout };
        for path in files {
            weights.add(path, canonical)?;
        }
        Ok(weights)
    }

    fn add(&mut self, path: &Path, canonical: fn(&str) -> String) -> Result<(), WeightsError> {
        let file = SafetensorsFile::open(path)?;
        if file.entries().len() + self.places.len() > TENSORS_MAX {
            let reason = format!("more than {TENSORS_MAX} tensors");
            return Err(WeightsError::Header { path: path.to_owned(), reason });
        }
        for (name, entry) in file.entries() {
            let place = TensorPlace { file: self.files.len(), name: name.clone(), entry: entry.clone() };
            if self.places.insert(canonical(name), place).is_some() {
                return Err(WeightsError::Duplicate { name: name.clone(), path: path.to_owned() });
            }
        }
        self.files.push(file);
        Ok(())
    }

    pub(crate) const fn set_kernel_layout(&mut self, layout: KernelLayout) {
        self.kernel_layout = layout;
    }

    pub(crate) const fn device(&self) -> Device {
        self.device
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes the buffer of positions that files of older versions hold beside the weights, where it is there.
    ///
    /// # Errors
    /// When it holds anything but 0, 1, 2, …: the network counts positions itself.
    pub(crate) fn take_positions(&mut self, name: &str, positions: i64) -> Result<(), WeightsError> {
        let Some(TensorPlace { file, name, entry }) = self.places.remove(name) else { return Ok(()) };
        let file = &self.files[file];
        let torch_error = |source| WeightsError::Torch { name: name.clone(), source };
        let found = file.tensor_of_any_kind(&name, &entry)?;
        // A checkpoint in half precision has its positions converted, too: they have to count up as far as their kind can.
        let counts_up = || -> Result<bool, TchError> {
            let expected = Tensor::f_arange(positions, (Kind::Int64, Device::Cpu))?.f_to_kind(found.f_kind()?)?;
            found.f_flatten(0, -1)?.f_equal(&expected)
        };
        if positions > 0
            && found.numel() == usize::try_from(positions).unwrap_or(0)
            && counts_up().map_err(torch_error)?
        {
            return Ok(());
        }
        Err(WeightsError::Positions { name, path: file.path().to_owned(), positions })
    }

    /// Ends loading and unmaps the files.
    ///
    /// # Errors
    /// When a tensor was left over.
    pub fn finish(self) -> Result<(), WeightsError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = self.places.values().map(|place| place.name.as_str()).collect();
        names.sort_unstable();
        let mut shown = names.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>();
        if names.len() > shown.len() {
            shown.push("…".into());
        }
        Err(WeightsError::Surplus { count: names.len(), names: shown.join(", "), files: self.file_names() })
    }

    fn file_names(&self) -> String {
        let names: Vec<String> = self.files.iter().map(|file| file.path().display().to_string()).collect();
        names.join(", ")
    }

    /// Takes a checked tensor to the device and precision of the run.
    fn read(&mut self, name: &str, expected: &[i64]) -> Result<Tensor, WeightsError> {
        let Some(TensorPlace { file, name, entry }) = self.places.remove(name) else {
            let expected = expected.to_vec();
            return Err(WeightsError::Missing { name: name.to_owned(), expected, files: self.file_names() });
        };
        let file = &self.files[file];
        let path = || file.path().to_owned();
        if entry.shape != expected {
            return Err(WeightsError::Shape { name, path: path(), expected: expected.to_vec(), found: entry.shape });
        }
        let tensor = file.tensor_on(&name, &entry, (self.device, self.kind))?;
        let torch_error = |source| WeightsError::Torch { name: name.clone(), source };
        // In the precision of the run: a float32 weight may overflow float16.
        if !is_finite(&tensor).map_err(torch_error)? {
            return Err(WeightsError::NotFinite { path: path(), kind: kind_name(self.kind), name });
        }
        Ok(tensor)
    }
}

impl VarSource for Weights {
    fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
    }

    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.read(name, shape)
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let parts = names.iter().map(|name| self.read(name, shape)).collect::<Result<Vec<_>, _>>()?;
        Tensor::f_cat(&parts, 0).map_err(|source| WeightsError::Torch { name: names.join(" + "), source })
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError> {
        Ok(self.kernel_layout.lay_out(self.read(name, shape)?, geometry))
    }
}

fn blocked(kernel: &Tensor, geometry: ConvGeometry) -> Result<Tensor, TchError> {
    let ConvGeometry { stride, padding } = geometry;
    let (padding, stride, dilation) = ([padding, padding], [stride, stride], [1, 1]);
    kernel.f_to_mkldnn(Kind::Float)?.f_mkldnn_reorder_conv2d_weight(padding, stride, dilation, 1, None::<&[i64]>)
}

/// libtorch recognises the layout by its strides.
fn channels_last(kernel: &Tensor) -> Result<Tensor, TchError> {
    kernel.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

/// Stands between the names of tensors that were stacked into one.
const STACKED: char = '|';
const WEIGHT: &str = ".weight";

/// The tensors of a loaded network by name, as its layers hold them. The same network with additions is made of them.
#[derive(Debug)]
pub(crate) struct NetworkTensors {
    tensors: BTreeMap<String, Tensor>,
    device: Device,
    kind: Kind,
}

impl NetworkTensors {
    pub(crate) const fn device(&self) -> Device {
        self.device
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The same in the memory of a device; tensors that are there are shared.
    pub(crate) fn in_memory_of(&self, device: Device) -> Result<Self, TchError> {
        let moved = |(name, tensor): (&String, &Tensor)| {
            let moved = if device == self.device { tensor.shallow_clone() } else { device::upload(tensor, device)? };
            Ok((name.clone(), moved))
        };
        let tensors = self.tensors.iter().map(moved).collect::<Result<_, TchError>>()?;
        Ok(Self { tensors, device, kind: self.kind })
    }

    /// The names of all layers.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().flat_map(|name| name.split(STACKED)).filter_map(|name| name.strip_suffix(WEIGHT))
    }
}

/// Loads a network and keeps its tensors.
pub(crate) struct Keeping {
    weights: Weights,
    tensors: BTreeMap<String, Tensor>,
}

impl Keeping {
    pub(crate) fn new(weights: Weights) -> Self {
        Self { weights, tensors: BTreeMap::new() }
    }

    /// Ends loading.
    ///
    /// # Errors
    /// When a tensor was left over.
    pub(crate) fn finish(self) -> Result<NetworkTensors, WeightsError> {
        let (device, kind) = (self.weights.device, self.weights.kind);
        self.weights.finish()?;
        Ok(NetworkTensors { tensors: self.tensors, device, kind })
    }

    fn keep(&mut self, name: String, tensor: Tensor) -> Tensor {
        self.tensors.insert(name, tensor.shallow_clone());
        tensor
    }
}

impl VarSource for Keeping {
    fn set_kind(&mut self, kind: Kind) {
        self.weights.set_kind(kind);
    }

    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.take(name, shape)?;
        Ok(self.keep(name.to_owned(), tensor))
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.take_stacked(names, shape)?;
        Ok(self.keep(stacked_name(names), tensor))
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError> {
        let tensor = self.weights.take_kernel(name, shape, geometry)?;
        Ok(self.keep(name.to_owned(), tensor))
    }
}

/// Puts a network together again from its tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reusing<'a>(pub(crate) &'a NetworkTensors);

impl VarSource for Reusing<'_> {
    fn take(&mut self, name: &str, _: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor = self.0.tensors.get(name).map(Tensor::shallow_clone);
        tensor.ok_or_else(|| WeightsError::Missing {
            name: name.to_owned(),
            expected: Vec::new(),
            files: "memory".into(),
        })
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.take(&stacked_name(names), shape)
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], _: ConvGeometry) -> Result<Tensor, WeightsError> {
        self.take(name, shape)
    }
}

fn stacked_name(names: &[String]) -> String {
    names.join(&STACKED.to_string())
}

/// Writes down the names and shapes a network asks for; the tensors it gives out hold one element each.
#[derive(Debug, Default)]
pub(crate) struct ShapeRecorder {
    shapes: BTreeMap<String, Vec<i64>>,
}

impl ShapeRecorder {
    pub(crate) fn into_shapes(self) -> BTreeMap<String, Vec<i64>> {
        self.shapes
    }
}

impl VarSource for ShapeRecorder {
    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let torch_error = |source| WeightsError::Torch { name: name.to_owned(), source };
        self.shapes.insert(name.to_owned(), shape.to_vec());
        let element = Tensor::f_zeros([1], (Kind::Float, Device::Cpu)).map_err(torch_error)?;
        element.f_expand(shape, false).map_err(torch_error)
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let mut stacked = shape.to_vec();
        stacked[0] *= names.len() as i64;
        self.shapes.extend(names.iter().map(|name| (name.clone(), shape.to_vec())));
        let torch_error = |source| WeightsError::Torch { name: names.join(" + "), source };
        let element = Tensor::f_zeros([1], (Kind::Float, Device::Cpu)).map_err(torch_error)?;
        element.f_expand(&stacked, false).map_err(torch_error)
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], _: ConvGeometry) -> Result<Tensor, WeightsError> {
        self.take(name, shape)
    }
}

#[cfg(test)]
mod tests;
