//! Why there is no rendition now, and for how long it makes no sense to ask again.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::OverBudget;
use crate::cache::{FlightError, MasterError};
use crate::governance::Withheld;
use crate::origin::OriginError;
use crate::render::{PoolError, RenderError, RenderJobError};

/// How long a recipe that the origin did not draw is not asked for again.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
/// The same where the recipe itself is at fault; also the longest pause for anything else.
const LASTING_REFUSAL_PAUSE: Duration = Duration::from_secs(10);

/// Why there is no rendition now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    #[error("no node could make it: {0}")]
    Origin(Arc<OriginError>),
    #[error("the render pool refused it: {0}")]
    Pool(#[from] PoolError),
    #[error("it could not be rendered: {0}")]
    Render(Arc<RenderError>),
    #[error("its master is not what its id says: {0}")]
    Master(Arc<MasterError<RenderError>>),
    #[error("its flight ended without a result: {0}")]
    Flight(#[from] FlightError),
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error("it was purged each time it had been made")]
    Overtaken,
    #[error("its origin could not be signed")]
    Unsigned,
    #[error("there is no room for its master: what people decide about keeps the store full")]
    NoRoom,
    #[error(transparent)]
    Withheld(#[from] Withheld),
}

impl FillError {
    /// One word for metrics, logs and `Cache-Status`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Origin(error) => error.as_str(),
            Self::Pool(error) => error.as_str(),
            Self::Render(_) => "render-failed",
            Self::Master(_) => "wrong-master",
            Self::Flight(error) => error.as_str(),
            Self::OverBudget(budget) => budget.as_str(),
            Self::Overtaken => "purged-meanwhile",
            Self::Unsigned => "unsigned",
            Self::NoRoom => "no-room",
            Self::Withheld(withheld) => withheld.reason.as_str(),
        }
    }

    /// How long a recipe that failed so is not asked for again. A refusal of the recipe lasts; a node's trouble passes, and
    /// a full queue says when.
    pub(super) fn pause(&self) -> Duration {
        let Self::Origin(error) = self else { return REFUSAL_PAUSE };
        match &**error {
            OriginError::Refused { .. } | OriginError::Missing { .. } | OriginError::EndsDevices { .. } => {
                LASTING_REFUSAL_PAUSE
            }
            OriginError::Import(fault) if !fault.may_pass() => LASTING_REFUSAL_PAUSE,
            error => error.retry_after().unwrap_or(REFUSAL_PAUSE).clamp(REFUSAL_PAUSE, LASTING_REFUSAL_PAUSE),
        }
    }

    /// Whether the same may go well in a while: readers come first, and nodes come back.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Origin(error) => match &**error {
                OriginError::Import(fault) => fault.may_pass(),
                OriginError::NoHealthyNode | OriginError::DeadlinePassed => true,
                error => error.is_retryable(),
            },
            Self::Pool(error) => *error == PoolError::Full,
            Self::Flight(error) => matches!(error, FlightError::Full | FlightError::TookTooLong),
            // A signer that is away comes back.
            Self::Overtaken | Self::Unsigned => true,
            Self::Render(_) | Self::Master(_) | Self::OverBudget(_) | Self::Withheld(_) | Self::NoRoom => false,
        }
    }

    /// Whether the master of a binding is lost: the origin does not have it, or has other pixels under its id.
    pub(super) fn is_lost_master(&self) -> bool {
        matches!(self, Self::Master(_))
            || matches!(self, Self::Origin(error) if matches!(**error, OriginError::MasterAbsent { .. }))
    }
}

impl From<OriginError> for FillError {
    fn from(error: OriginError) -> Self {
        Self::Origin(Arc::new(error))
    }
}

impl From<RenderError> for FillError {
    fn from(error: RenderError) -> Self {
        Self::Render(Arc::new(error))
    }
}

impl From<RenderJobError> for FillError {
    fn from(error: RenderJobError) -> Self {
        match error {
            RenderJobError::Pool(error) => error.into(),
            RenderJobError::Render(error) => error.into(),
        }
    }
}

impl From<MasterError<RenderError>> for FillError {
    fn from(error: MasterError<RenderError>) -> Self {
        Self::Master(Arc::new(error))
    }
}
