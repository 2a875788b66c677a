//! What loading a folder of models is for every family: where networks are put, which errors it ends with, and that the files
//! stayed as they were while they were read.

use std::path::{Component, Path, PathBuf};

use bildkante_shared::checkpoint::{CheckpointDigestError, FileIdentity, look};
use serde_json::Value;
use tch::{Device, Kind, TchError};

use crate::diffusion::dtype::DType;
use crate::diffusion::fields::{CONFIG_BYTES_MAX, ConfigError, JsonFileError, read_json};
use crate::diffusion::scheduler::SchedulerError;
use crate::diffusion::text::tokenizer::TokenizerError;
use crate::diffusion::weights::{KernelLayout, Weights, WeightsError};

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Digest(#[from] CheckpointDigestError),
    #[error(transparent)]
    Json(#[from] JsonFileError),
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: ConfigError },
    #[error("{path}: component `{component}` is {found}, supported: {supported}")]
    Component { path: PathBuf, component: String, found: String, supported: String },
    #[error("{path}: {source}")]
    Scheduler { path: PathBuf, source: SchedulerError },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("{folder}: {reason}")]
    Mismatch { folder: PathBuf, reason: String },
    #[error("{folder}: its files changed while they were read")]
    Changed { folder: PathBuf },
    /// Networks that were read cannot be put onto the device.
    #[error("moving it onto the device: {0}")]
    Move(#[from] TchError),
    #[error("this machine has no device {device}")]
    Device { device: String },
}

/// Where networks compute, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    pub dtype: DType,
    /// Convolutions take their channels last instead of as the device has it by default: other bits, and on some devices
    /// faster.
    pub channels_last: bool,
}

impl Placement {
    #[must_use]
    pub const fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype, channels_last: false }
    }

    /// The weights of one network, which may be of another kind than the others.
    pub(crate) fn open(
        self,
        files: &[PathBuf],
        canonical: fn(&str) -> String,
        kind: Kind,
    ) -> Result<Weights, WeightsError> {
        self.open_in(self.device, files, canonical, kind)
    }

    /// The same in the memory of another device, from which they will be moved to their own.
    pub(crate) fn open_in(
        self,
        memory: Device,
        files: &[PathBuf],
        canonical: fn(&str) -> String,
        kind: Kind,
    ) -> Result<Weights, WeightsError> {
        let mut weights = Weights::open(files, canonical, memory, kind)?;
        weights.set_kernel_layout(match self.channels_last {
            true => KernelLayout::ChannelsLast,
            false => KernelLayout::of(self.device, kind),
        });
        Ok(weights)
    }
}

pub(crate) fn check_device(device: Device) -> Result<(), CheckpointError> {
    let is_there = match device {
        Device::Cpu => true,
        Device::Cuda(index) => i64::try_from(index).is_ok_and(|index| index < tch::Cuda::device_count()),
        Device::Mps | Device::Vulkan => false,
    };
    if is_there { Ok(()) } else { Err(CheckpointError::Device { device: format!("{device:?}") }) }
}

pub(crate) fn read_config<T>(path: &Path, parse: fn(&Value) -> Result<T, ConfigError>) -> Result<T, CheckpointError> {
    let json = read_json(path, CONFIG_BYTES_MAX)?;
    parse(&json).map_err(|source| CheckpointError::Config { path: path.to_owned(), source })
}

/// What was loaded is what the digest says.
pub(crate) fn check_unchanged(folder: &Path, before: &[(String, FileIdentity)]) -> Result<(), CheckpointError> {
    if look(folder)? == before {
        return Ok(());
    }
    Err(CheckpointError::Changed { folder: folder.to_owned() })
}

/// As it is called where it is found, which a link may do otherwise than its target.
pub(crate) fn folder_name(folder: &Path) -> String {
    let is_named = matches!(folder.components().next_back(), Some(Component::Normal(_)));
    let folder = if is_named { folder.to_owned() } else { folder.canonicalize().unwrap_or_else(|_| folder.to_owned()) };
    folder.file_name().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
}
