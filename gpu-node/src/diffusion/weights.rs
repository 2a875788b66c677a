//! Where a network's tensors come from.
//!
//! [`Weights`] maps the safetensors files of one network and gives out each tensor once, converted to the device
//! and precision of the run; a tensor that is missing, left over, misshapen, of an unknown type or not finite is
//! an error that names it and its file. [`ShapeRecorder`] stands in for the files and writes down what a network
//! asks for: the list of names and shapes comes from the very code that loads.
//!
//! Nothing a file says is trusted before it is checked: the header's length against a limit and the file's, the
//! offsets by the `safetensors` crate, every shape against the configuration.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

/// Largest header of a safetensors file. Stable Diffusion XL, the largest family in sight, needs 0.2 MiB.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most tensors in the files of one network.
const TENSORS_MAX: usize = 16_384;
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
    #[error("tensor `{name}` of {path} is of type {found}; supported: F32, F16, BF16")]
    Type { name: String, path: PathBuf, found: String },
    #[error("tensor `{name}` of {path} holds NaN or infinity as {kind}")]
    NotFinite { name: String, path: PathBuf, kind: &'static str },
    #[error("tensor `{name}` of {path} is there twice (names of older versions count as the same)")]
    Duplicate { name: String, path: PathBuf },
    #[error("tensor `{name}` of {path} does not hold the positions 0 to {}", positions - 1)]
    Positions { name: String, path: PathBuf, positions: i64 },
    #[error("tensor `{name}`: {source}")]
    Torch { name: String, source: TchError },
}

/// Stride and padding of a convolution, equal in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConvGeometry {
    pub(super) stride: i64,
    pub(super) padding: i64,
}

/// How the convolutions of a network compute on a processor (other devices decide for themselves). Activations follow
/// their kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelLayout {
    /// oneDNN's own blocks, into which a plain kernel would be reordered anew at every call: best where kernels are
    /// large beside the areas they pass over, as in the UNet.
    Blocked,
    /// Channels last, for kernels and activations: best where few channels pass over large areas, as in the VAE, whose
    /// activations would otherwise be reordered around every convolution (1.9 times as fast on the built-in one).
    ChannelsLast,
}

/// Gives a network its tensors by name.
pub(super) trait VarSource {
    /// The tensor `name`, which has `shape`.
    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError>;

    /// The tensors `names`, each of `shape`, one after the other along the first dimension.
    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError>;

    /// The kernel `name` of a convolution, in the layout its backend computes with.
    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError>;
}

/// A source and the dotted name of the part that is being loaded.
pub(super) struct Scope<'a> {
    source: &'a mut dyn VarSource,
    prefix: String,
}

impl<'a> Scope<'a> {
    pub(super) fn root(source: &'a mut dyn VarSource) -> Self {
        Self { source, prefix: String::new() }
    }

    /// The part `name` of this part.
    pub(super) fn at(&mut self, name: impl fmt::Display) -> Scope<'_> {
        let prefix = self.name(name);
        Scope { source: &mut *self.source, prefix }
    }

    pub(super) fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        let name = self.name(name);
        self.source.take(&name, shape)
    }

    pub(super) fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let names: Vec<String> = names.iter().map(|name| self.name(name)).collect();
        self.source.take_stacked(&names, shape)
    }

    pub(super) fn take_kernel(
        &mut self,
        name: &str,
        shape: &[i64],
        geometry: ConvGeometry,
    ) -> Result<Tensor, WeightsError> {
        let name = self.name(name);
        self.source.take_kernel(&name, shape, geometry)
    }

    fn name(&self, name: impl fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

/// One tensor in a mapped file.
#[derive(Debug)]
struct Entry {
    file: usize,
    /// As the file spells it, before names of older versions were translated.
    name: String,
    kind: Dtype,
    shape: Vec<i64>,
    /// Bytes of the file.
    range: std::ops::Range<usize>,
}

/// The mapped files of one network.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
    device: Device,
    kind: Kind,
    kernel_layout: KernelLayout,
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
        let kernel_layout = KernelLayout::Blocked;
        let mut weights = Self { files: Vec::new(), entries: HashMap::new(), device, kind, kernel_layout };
        for path in files {
            weights.add(path, canonical)?;
        }
        Ok(weights)
    }

    fn add(&mut self, path: &Path, canonical: fn(&str) -> String) -> Result<(), WeightsError> {
        let map = map_file(path)?;
        let header_error = |reason: String| WeightsError::Header { path: path.to_owned(), reason };
        check_header_length(&map).map_err(header_error)?;
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| header_error(error.to_string()))?;
        let tensors = metadata.tensors();
        if tensors.len() + self.entries.len() > TENSORS_MAX {
            return Err(header_error(format!("more than {TENSORS_MAX} tensors")));
        }
        let data_at = LENGTH_BYTES + header_bytes;
        for (name, info) in tensors {
            let shape = info.shape.iter().map(|side| i64::try_from(*side)).collect::<Result<Vec<_>, _>>();
            let shape = shape.map_err(|_| header_error(format!("tensor `{name}` has a side beyond any memory")))?;
            let range = data_at + info.data_offsets.0..data_at + info.data_offsets.1;
            let entry = Entry { file: self.files.len(), name: name.clone(), kind: info.dtype, shape, range };
            if self.entries.insert(canonical(&name), entry).is_some() {
                return Err(WeightsError::Duplicate { name, path: path.to_owned() });
            }
        }
        self.files.push((path.to_owned(), map));
        Ok(())
    }

    pub(super) const fn set_kernel_layout(&mut self, layout: KernelLayout) {
        self.kernel_layout = layout;
    }

    pub(super) const fn device(&self) -> Device {
        self.device
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes the buffer of positions that files of older versions hold beside the weights, where it is there.
    ///
    /// # Errors
    /// When it holds anything but 0, 1, 2, …: the network counts positions itself.
    pub(super) fn take_positions(&mut self, name: &str, positions: i64) -> Result<(), WeightsError> {
        let Some(entry) = self.entries.remove(name) else { return Ok(()) };
        let bytes = &self.files[entry.file].1[entry.range.clone()];
        let count = usize::try_from(positions).unwrap_or(usize::MAX);
        let counts_up = match entry.kind {
            Dtype::I64 => bytes.chunks_exact(8).enumerate().all(|(i, b)| b == (i as i64).to_le_bytes()),
            Dtype::F32 => bytes.chunks_exact(4).enumerate().all(|(i, b)| b == (i as f32).to_le_bytes()),
            _ => false,
        };
        if counts_up && entry.shape == [1, positions] && count > 0 {
            return Ok(());
        }
        Err(WeightsError::Positions { name: entry.name, path: self.files[entry.file].0.clone(), positions })
    }

    /// Ends loading and unmaps the files.
    ///
    /// # Errors
    /// When a tensor was left over.
    pub fn finish(self) -> Result<(), WeightsError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = self.entries.values().map(|entry| entry.name.as_str()).collect();
        names.sort_unstable();
        let mut shown = names.iter().take(NAMES_SHOWN_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>();
        if names.len() > shown.len() {
            shown.push("…".into());
        }
        Err(WeightsError::Surplus { count: names.len(), names: shown.join(", "), files: self.file_names() })
    }

    fn file_names(&self) -> String {
        let names: Vec<String> = self.files.iter().map(|(path, _)| path.display().to_string()).collect();
        names.join(", ")
    }

    /// Takes a checked tensor to the device and precision of the run.
    fn read(&mut self, name: &str, expected: &[i64]) -> Result<Tensor, WeightsError> {
        let Some(entry) = self.entries.remove(name) else {
            let expected = expected.to_vec();
            return Err(WeightsError::Missing { name: name.to_owned(), expected, files: self.file_names() });
        };
        let (path, map) = &self.files[entry.file];
        if entry.shape != expected {
            let (expected, found) = (expected.to_vec(), entry.shape);
            return Err(WeightsError::Shape { name: entry.name, path: path.clone(), expected, found });
        }
        let stored = match entry.kind {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => {
                return Err(WeightsError::Type { name: entry.name, path: path.clone(), found: format!("{other:?}") });
            }
        };
        let torch_error = |source| WeightsError::Torch { name: entry.name.clone(), source };
        let tensor = Tensor::f_from_data_size(&map[entry.range.clone()], &entry.shape, stored).map_err(torch_error)?;
        let tensor = tensor.f_to_device(self.device).and_then(|t| t.f_to_kind(self.kind)).map_err(torch_error)?;
        // In the precision of the run: a float32 weight may overflow float16.
        if !is_finite(&tensor).map_err(torch_error)? {
            let kind = kind_name(self.kind);
            return Err(WeightsError::NotFinite { name: entry.name, path: path.clone(), kind });
        }
        Ok(tensor)
    }
}

impl VarSource for Weights {
    fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        self.read(name, shape)
    }

    fn take_stacked(&mut self, names: &[String], shape: &[i64]) -> Result<Tensor, WeightsError> {
        let parts = names.iter().map(|name| self.read(name, shape)).collect::<Result<Vec<_>, _>>()?;
        Tensor::f_cat(&parts, 0).map_err(|source| WeightsError::Torch { name: names.join(" + "), source })
    }

    fn take_kernel(&mut self, name: &str, shape: &[i64], geometry: ConvGeometry) -> Result<Tensor, WeightsError> {
        let kernel = self.read(name, shape)?;
        if self.device != Device::Cpu {
            return Ok(kernel);
        }
        let laid_out = match (self.kernel_layout, self.kind) {
            (KernelLayout::ChannelsLast, _) => channels_last(&kernel),
            (KernelLayout::Blocked, Kind::Float) => blocked(&kernel, geometry),
            (KernelLayout::Blocked, _) => return Ok(kernel),
        };
        // Where oneDNN does not know the processor, the plain kernel computes the same.
        Ok(laid_out.unwrap_or(kernel))
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

/// NaN and infinity both show in the extremes.
fn is_finite(tensor: &Tensor) -> Result<bool, TchError> {
    let (min, max) = tensor.f_aminmax(None, false)?;
    Ok(f64::try_from(min)?.is_finite() && f64::try_from(max)?.is_finite())
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        _ => "float32",
    }
}

/// Bytes of the header's length at the start of a safetensors file.
const LENGTH_BYTES: usize = 8;

fn check_header_length(file: &[u8]) -> Result<(), String> {
    let Some(length) = file.first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("{} bytes are no header", file.len()));
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > HEADER_BYTES_MAX {
        return Err(format!("it claims a header of {header_bytes} bytes, at most {HEADER_BYTES_MAX} are allowed"));
    }
    if header_bytes > (file.len() - LENGTH_BYTES) as u64 {
        return Err(format!("it claims a header of {header_bytes} bytes and has {} bytes in all", file.len()));
    }
    Ok(())
}

#[allow(unsafe_code)]
fn map_file(path: &Path) -> Result<Mmap, WeightsError> {
    let io_error = |source| WeightsError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_error)?;
    // SAFETY: the map is read-only, private to this module and copied from before it leaves. It is unsound only if
    // the file changes under it; a checkpoint is content-addressed by its digest and never edited in place, and the
    // map lives no longer than loading does.
    unsafe { Mmap::map(&file) }.map_err(io_error)
}

/// Writes down the names and shapes a network asks for; the tensors it gives out hold one element each.
#[derive(Debug, Default)]
pub(super) struct ShapeRecorder {
    shapes: BTreeMap<String, Vec<i64>>,
}

impl ShapeRecorder {
    pub(super) fn into_shapes(self) -> BTreeMap<String, Vec<i64>> {
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
#[path = "weights_tests.rs"]
mod tests;
