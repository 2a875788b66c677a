//! Text to image on libtorch: the networks of Stable Diffusion and how a checkpoint becomes one.
//!
//! Only this module (and the worker that owns the device) names `tch`. Every tensor operation returns a `Result`:
//! no input, however malformed, panics. The architecture of a network comes from its configuration alone
//! ([`config`]), its tensors from safetensors files of which nothing is trusted and nothing ignored ([`weights`]).

mod attention;
pub mod batch;
pub mod checkpoint;
mod choices;
pub mod clip;
pub mod conditioning;
pub mod config;
pub mod controlnet;
pub mod device;
pub mod fault;
mod files;
mod layers;
mod layout;
pub mod lora;
pub mod memory;
pub mod noise;
pub mod picture;
pub mod pipeline;
pub mod projected;
mod resnet;
pub mod runtime;
mod safetensors_file;
pub mod scheduler;
pub mod text;
pub mod tokenizer;
pub mod trace;
pub mod unet;
mod unet_blocks;
pub mod vae;
pub mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, Family};

pub use tch::Device;
use tch::{Kind, TchError};

use self::fault::Fault;
use self::scheduler::SchedulerError;

/// The precision a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    BF16,
    F16,
}

impl DType {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
        }
    }

    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::BF16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an image could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DiffusionError {
    #[error("{reason}")]
    Input { reason: String },
    /// The message of a C++ exception carries its stack behind the first line.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] TchError),
    #[error(transparent)]
    Scheduler(SchedulerError),
    #[error("the model produced non-finite values while {stage}")]
    NonFinite { stage: &'static str },
    #[error("cancelled")]
    Cancelled,
}

impl From<SchedulerError> for DiffusionError {
    fn from(error: SchedulerError) -> Self {
        match error {
            SchedulerError::Torch(error) => Self::Torch(error),
            refused => Self::Scheduler(refused),
        }
    }
}

impl DiffusionError {
    /// Whether it is the recipe that cannot be drawn, not the machine that failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Input { .. } | Self::Scheduler(_))
    }

    /// What it says of the device.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let Self::Torch(error) = self else { return Fault::None };
        Fault::of(&error.to_string())
    }

    pub(crate) fn input(reason: impl Into<String>) -> Self {
        Self::Input { reason: reason.into() }
    }
}
