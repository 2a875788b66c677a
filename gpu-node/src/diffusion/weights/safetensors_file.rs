//! One safetensors file, mapped.
//!
//! Nothing it says is trusted before it is checked: the header's length against a limit and the file's, the offsets by
//! the `safetensors` crate, every value for being finite when it is read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::weights::WeightsError;

/// Largest header of a safetensors file. Stable Diffusion XL, the largest family in sight, needs 0.2 MiB.
pub(crate) const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most tensors in one file.
pub(crate) const TENSORS_MAX: usize = 16_384;
/// Bytes of the header's length at the start of the file.
const LENGTH_BYTES: usize = 8;

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(crate) struct TensorEntry {
    pub(crate) kind: Dtype,
    pub(crate) shape: Vec<i64>,
    /// Bytes of the file.
    range: Range<usize>,
}

/// A mapped file and what is where in it.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, TensorEntry>,
    metadata: HashMap<String, String>,
}

impl SafetensorsFile {
    /// # Errors
    /// When the file cannot be read or is no safetensors file.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let map = map_file(path)?;
        let header_error = |reason: String| WeightsError::Header { path: path.to_owned(), reason };
        check_header_length(&map).map_err(header_error)?;
        let (header_bytes, header) =
            SafeTensors::read_metadata(&map).map_err(|error| header_error(error.to_string()))?;
        let tensors = header.tensors();
        if tensors.len() > TENSORS_MAX {
            return Err(header_error(format!("more than {TENSORS_MAX} tensors")));
        }
        let data_at = LENGTH_BYTES + header_bytes;
        let mut entries = BTreeMap::new();
        for (name, info) in tensors {
            let shape = info.shape.iter().map(|side| i64::try_from(*side)).collect::<Result<Vec<_>, _>>();
            let shape = shape.map_err(|_| header_error(format!("tensor `{name}` has a side beyond any memory")))?;
            let range = data_at + info.data_offsets.0..data_at + info.data_offsets.1;
            entries.insert(name, TensorEntry { kind: info.dtype, shape, range });
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.to_owned(), map, entries, metadata })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Free text beside the tensors.
    pub(crate) const fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    pub(crate) const fn entries(&self) -> &BTreeMap<String, TensorEntry> {
        &self.entries
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The bytes of a tensor of this file.
    pub(crate) fn data(&self, entry: &TensorEntry) -> &[u8] {
        &self.map[entry.range.clone()]
    }

    /// A copy of a tensor of this file on the CPU, in the kind it is stored in.
    ///
    /// # Errors
    /// When it is of no kind that networks compute with, or libtorch fails.
    pub(crate) fn tensor(&self, name: &str, entry: &TensorEntry) -> Result<Tensor, WeightsError> {
        let Some(stored) = stored_kind(entry.kind) else {
            let (name, path, found) = (name.to_owned(), self.path.clone(), format!("{:?}", entry.kind));
            return Err(WeightsError::Type { name, path, found });
        };
        Tensor::f_from_data_size(self.data(entry), &entry.shape, stored)
            .map_err(|source| WeightsError::Torch { name: name.to_owned(), source })
    }

    /// The same of whole numbers and doubles too, as the matrices and alphas of adapters may be stored.
    ///
    /// # Errors
    /// When it is of no such kind, or libtorch fails.
    pub(crate) fn tensor_of_any_kind(&self, name: &str, entry: &TensorEntry) -> Result<Tensor, WeightsError> {
        let stored = match entry.kind {
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            Dtype::I16 => Kind::Int16,
            Dtype::I8 => Kind::Int8,
            Dtype::U8 => Kind::Uint8,
            _ => return self.tensor(name, entry),
        };
        Tensor::f_from_data_size(self.data(entry), &entry.shape, stored)
            .map_err(|source| WeightsError::Torch { name: name.to_owned(), source })
    }

    /// A tensor of this file on a device, in a kind: converted or uploaded from the map itself, without a copy in between.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub(crate) fn tensor_on(
        &self,
        name: &str,
        entry: &TensorEntry,
        (device, kind): (Device, Kind),
    ) -> Result<Tensor, WeightsError> {
        let torch_error = |source| WeightsError::Torch { name: name.to_owned(), source };
        let moved = |tensor: &Tensor| tensor.f_to_device(device)?.f_to_kind(kind);
        let tensor = match self.view(entry) {
            Some(view) => {
                let view = view.map_err(torch_error)?;
                let tensor = moved(&view).map_err(torch_error)?;
                // Nothing had to be done: then the map's bytes are copied here.
                if tensor.data_ptr() == view.data_ptr() { copied(&view).map_err(torch_error)? } else { tensor }
            }
            None => moved(&self.tensor(name, entry)?).map_err(torch_error)?,
        };
        self.forget(entry);
        Ok(tensor)
    }

    /// The map's bytes as a tensor, where they can be one as they lie there. It must not outlive the map.
    #[allow(unsafe_code)]
    fn view(&self, entry: &TensorEntry) -> Option<Result<Tensor, TchError>> {
        let (kind, data) = (stored_kind(entry.kind)?, self.data(entry));
        if data.is_empty() || !data.as_ptr().addr().is_multiple_of(kind.elt_size_in_bytes()) {
            return None;
        }
        let mut strides = vec![1; entry.shape.len()];
        for dim in (1..entry.shape.len()).rev() {
            strides[dim - 1] = strides[dim] * entry.shape[dim];
        }
        // SAFETY: the bytes are mapped while `self` lives, aligned, and as many as shape and kind say, which the crate
        // safetensors has checked; the only caller reads them and lets go of the tensor before it returns.
        Some(unsafe { Tensor::f_from_blob(data.as_ptr(), &entry.shape, &strides, kind, Device::Cpu) })
    }

    /// Lets the system take the pages of a tensor that was read: they are not needed again, and count as ours.
    #[allow(unsafe_code)]
    fn forget(&self, entry: &TensorEntry) {
        let (offset, length) = (entry.range.start, entry.range.len());
        // SAFETY: of a read-only map of a file nothing is lost: what is touched again is read from the file again.
        let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, length) };
        if let Err(error) = advised {
            tracing::debug!(%error, "mapped pages stay");
        }
    }
}

/// The kinds that networks compute with.
const fn stored_kind(stored: Dtype) -> Option<Kind> {
    match stored {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}

fn copied(view: &Tensor) -> Result<Tensor, TchError> {
    let mut tensor = view.f_empty_like()?;
    tensor.f_copy_(view)?;
    Ok(tensor)
}

/// Whether there is neither NaN nor infinity: both show in the extremes.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool, TchError> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    let (min, max) = tensor.f_aminmax(None, false)?;
    Ok(f64::try_from(min)?.is_finite() && f64::try_from(max)?.is_finite())
}

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
    // the file changes under it; checkpoints and adapters are content-addressed by their digest and never edited in
    // place, and the map lives no longer than loading does.
    unsafe { Mmap::map(&file) }.map_err(io_error)
}
