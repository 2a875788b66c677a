//! How a generation can end badly, whose fault it is, and the one mapping of each end to a status, a problem
//! type and a metric label (RFC 9457, RFC 9110 §15).

use bildkante_shared::ids::Digest;
use bildkante_shared::problem::Problem;
use bildkante_shared::wire::{DEVICE_LOST, DEVICE_LOST_IN_COMPANY};

/// Why a caller gets no master. Cheap to clone: joined callers share one error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GenerationError {
    /// The caller's: the recipe is within every bound, but this checkpoint cannot draw it.
    #[error("{reason}")]
    Refused { reason: String },
    /// The caller's, or the operator's: what the recipe names is not here.
    #[error("this node has not {}", list(digests))]
    Missing { digests: Vec<Digest> },
    /// No fault: come back later or ask another node.
    #[error("{what} in the queue's bound are taken")]
    QueueFull { what: &'static str, retry_after_s: u32 },
    /// No fault: the answer would come too late to be of use.
    #[error("the deadline passed before the master was there")]
    DeadlinePassed,
    #[error("the node is not ready: {reason}")]
    NotReady { reason: String },
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node's: the engine returned an error.
    #[error("the drawing failed: {reason}")]
    Failed { reason: String },
    /// No fault: other drawings took the memory, or it was estimated too small; another node, or a later time, may do.
    #[error("the device ran out of memory: {reason}")]
    OutOfMemory { reason: String },
    /// The device was lost in a pass with this recipe, alone or with others.
    #[error("the device is lost: {reason}")]
    DeviceLost { reason: String, is_alone: bool },
    /// The recipe's: devices end over it.
    #[error(
        "a device ended {endings} times while it drew this, so it is drawn no more: the node's `endings` folder has its file, \
         and forgets it with that"
    )]
    EndsDevices { endings: u32 },
    /// The node's: a defect; the node serves on.
    #[error("the drawing stopped at a defect of the node; its log has the place")]
    Panicked,
    /// The node's: the master could not be stored or read.
    #[error("the master store failed: {reason}")]
    Storage { reason: String },
    /// The node's: a master could not be stored, so none is drawn. It recovers by itself; another node may do.
    #[error("no master can be stored: {reason}")]
    NotStorable { reason: String },
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl GenerationError {
    /// Every label, so that metrics show zeros.
    pub const LABELS: [&'static str; 13] = [
        "refused",
        "missing",
        "queue_full",
        "deadline_passed",
        "not_ready",
        "shutting_down",
        "failed",
        "out_of_memory",
        "panicked",
        "storage",
        "not_storable",
        "device_lost",
        "ends_devices",
    ];

    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Missing { .. } => "missing",
            Self::QueueFull { .. } => "queue_full",
            Self::DeadlinePassed => "deadline_passed",
            Self::NotReady { .. } => "not_ready",
            Self::ShuttingDown => "shutting_down",
            Self::Failed { .. } => "failed",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Panicked => "panicked",
            Self::Storage { .. } => "storage",
            Self::NotStorable { .. } => "not_storable",
            Self::DeviceLost { .. } => "device_lost",
            Self::EndsDevices { .. } => "ends_devices",
        }
    }

    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Refused { .. } | Self::EndsDevices { .. } => 422,
            Self::Missing { .. } => 424,
            Self::QueueFull { .. } => 429,
            Self::DeadlinePassed => 504,
            Self::NotReady { .. } | Self::ShuttingDown | Self::OutOfMemory { .. } | Self::DeviceLost { .. } => 503,
            Self::Failed { .. } | Self::Panicked | Self::Storage { .. } => 500,
            Self::NotStorable { .. } => 507,
        }
    }

    /// Seconds after which asking again may help.
    #[must_use]
    pub const fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::QueueFull { retry_after_s, .. } => Some(*retry_after_s),
            Self::NotReady { .. } | Self::ShuttingDown | Self::DeviceLost { .. } => Some(2),
            Self::OutOfMemory { .. } | Self::NotStorable { .. } => Some(5),
            _ => None,
        }
    }

    #[must_use]
    pub fn problem(&self) -> Problem {
        let (kind, title) = match self {
            Self::Refused { .. } => ("refused-recipe", "The checkpoint cannot draw this recipe"),
            Self::Missing { .. } => ("missing-digests", "The node lacks what the recipe names"),
            Self::QueueFull { .. } => ("queue-full", "The node has enough to do"),
            Self::DeadlinePassed => ("deadline-passed", "Too late"),
            Self::NotReady { .. } => ("not-ready", "The node is not ready"),
            Self::ShuttingDown => ("shutting-down", "The node is shutting down"),
            Self::OutOfMemory { .. } => ("out-of-memory", "The device has no memory left"),
            Self::DeviceLost { is_alone: true, .. } => (DEVICE_LOST, "The device ended over this recipe"),
            Self::DeviceLost { .. } => (DEVICE_LOST_IN_COMPANY, "The device ended over this recipe or another"),
            Self::EndsDevices { .. } => ("recipe-ends-devices", "Devices end over this recipe"),
            Self::Failed { .. } | Self::Panicked => ("generation-failed", "The drawing failed"),
            Self::Storage { .. } => ("storage-failed", "The master store failed"),
            Self::NotStorable { .. } => ("not-storable", "The node cannot store what it would draw"),
        };
        let problem = Problem::new(self.status(), kind, title, self.to_string());
        match self {
            Self::Missing { digests } => problem.with_missing(digests.iter().map(ToString::to_string).collect()),
            _ => problem,
        }
    }
}

/// Why a request is refused before it is a generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("there is no `{path}`")]
    UnknownPath { path: String },
    #[error("allowed here: {allow}")]
    Method { allow: &'static str },
    #[error("the body is application/json")]
    MediaType,
    #[error("the body has more than {bytes_max} bytes")]
    BodyTooLarge { bytes_max: usize },
    #[error("the body took longer than {timeout_ms} ms to arrive")]
    BodyTimeout { timeout_ms: u64 },
    #[error("the body broke off")]
    BodyAborted,
    #[error("the body is no JSON: {reason}")]
    Malformed { reason: String },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("{reason}")]
    MasterId { reason: String },
    #[error("this node has no master {id}")]
    UnknownMaster { id: String },
    #[error("nobody has asked this node for the generation {id}, or it failed")]
    UnknownGeneration { id: String },
    #[error("more masters are being read than `store.reads_max`")]
    Busy,
    #[error("the master store failed: {reason}")]
    Storage { reason: String },
    #[error("nothing can be stored: {reason}")]
    NotStorable { reason: String },
}

impl RequestError {
    #[must_use]
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::UnknownPath { .. } | Self::UnknownMaster { .. } | Self::UnknownGeneration { .. } => 404,
            Self::Method { .. } => 405,
            Self::MediaType => 415,
            Self::BodyTooLarge { .. } => 413,
            Self::BodyTimeout { .. } => 408,
            Self::BodyAborted | Self::Malformed { .. } | Self::MasterId { .. } => 400,
            Self::Invalid { .. } => 422,
            Self::Busy => 503,
            Self::Storage { .. } => 500,
            Self::NotStorable { .. } => 507,
        }
    }

    #[must_use]
    pub(crate) fn problem(&self) -> Problem {
        let (kind, title) = match self {
            Self::UnknownPath { .. } => ("unknown-path", "No such resource"),
            Self::Method { .. } => ("method-not-allowed", "Method not allowed"),
            Self::MediaType => ("unsupported-media-type", "Unsupported media type"),
            Self::BodyTooLarge { .. } => ("body-too-large", "The body is too large"),
            Self::BodyTimeout { .. } => ("body-timeout", "The body came too slowly"),
            Self::BodyAborted => ("body-aborted", "The body broke off"),
            Self::Malformed { .. } => ("malformed-json", "The body is no JSON"),
            Self::Invalid { .. } => ("invalid-recipe", "The generation is invalid"),
            Self::MasterId { .. } => ("malformed-id", "Not a master id"),
            Self::UnknownMaster { .. } => ("unknown-master", "No such master"),
            Self::UnknownGeneration { .. } => ("unknown-generation", "No such generation"),
            Self::Busy => ("busy", "The node has enough to do"),
            Self::Storage { .. } => ("storage-failed", "The master store failed"),
            Self::NotStorable { .. } => ("not-storable", "The node cannot store this"),
        };
        Problem::new(self.status(), kind, title, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_label_and_a_problem_of_its_status() {
        let ends = [
            GenerationError::Refused { reason: String::new() },
            GenerationError::Missing { digests: vec![Digest::of_bytes(b"x")] },
            GenerationError::QueueFull { what: "jobs", retry_after_s: 3 },
            GenerationError::DeadlinePassed,
            GenerationError::NotReady { reason: String::new() },
            GenerationError::ShuttingDown,
            GenerationError::Failed { reason: String::new() },
            GenerationError::OutOfMemory { reason: String::new() },
            GenerationError::Panicked,
            GenerationError::Storage { reason: String::new() },
            GenerationError::NotStorable { reason: String::new() },
            GenerationError::DeviceLost { reason: String::new(), is_alone: true },
            GenerationError::EndsDevices { endings: 2 },
        ];
        assert_eq!(ends.each_ref().map(GenerationError::as_str), GenerationError::LABELS);
        for end in ends {
            let problem = end.problem();
            assert_eq!(problem.status, end.status());
            assert_eq!(problem.missing.len(), usize::from(problem.status == 424));
            assert_eq!(end.retry_after_s().is_some(), [429, 503, 507].contains(&problem.status));
        }
    }
}
