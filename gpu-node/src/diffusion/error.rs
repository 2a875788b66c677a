//! Why an image could not be computed, and whether the recipe or the machine is at fault.

use tch::TchError;

use crate::diffusion::fault::Fault;
use crate::diffusion::scheduler::SchedulerError;

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
