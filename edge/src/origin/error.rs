//! Why a region gave no answer: whose fault it is, and whether another node may be asked.

use std::time::Duration;

use bildkante_shared::ids::MasterId;
use bildkante_shared::problem::Problem;

use super::imports::ImportFault;

/// Whether a node that cannot be reached had been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// No connection, or one that fell silent.
    None,
    /// The connection broke while the node was at it.
    Broken,
}

/// How a node ended over a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was gone when its connection broke: over this recipe, another one, or at its operator's hands.
    Gone,
    /// It says that its device was lost to this recipe or to another one that it was at.
    InCompany,
    /// It says that its device was lost to this recipe.
    Alone,
}

/// One mapping each to a metric label, to a retry and to a node's health.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OriginError {
    /// 429.
    #[error("node {node} has a full queue")]
    QueueFull { node: String, retry_after: Option<Duration> },
    /// The caller's time is up, by its own clock or the node's (504).
    #[error("the deadline passed")]
    DeadlinePassed,
    /// 503.
    #[error("node {node} is not ready")]
    NotReady { node: String, retry_after: Option<Duration> },
    /// No connection, or one that broke before the reply was whole.
    #[error("node {node} cannot be reached: {cause}")]
    Unreachable { node: String, cause: String, contact: Contact },
    /// It was gone when its connection broke in mid-drawing, or it said that its device was lost to this recipe.
    #[error("node {node} ended while it drew this: {cause}")]
    Ended { node: String, cause: String, how: Ended },
    /// No further node is given to a recipe that has ended several.
    #[error("{endings} nodes ended while they drew this: no further one is asked")]
    EndsDevices { endings: u32 },
    /// 507: it has no place for what it would draw.
    #[error("node {node} cannot store what it would draw: {}", problem.detail)]
    CannotStore { node: String, problem: Box<Problem> },
    /// Any other 4xx: the request itself is wrong, everywhere.
    #[error("node {node} refuses: {}", problem.detail)]
    Refused { node: String, problem: Box<Problem> },
    /// 424: what the node would need first.
    #[error("node {node} lacks {}", digests.join(", "))]
    Missing { node: String, digests: Vec<String> },
    /// 5xx.
    #[error("node {node} failed: {}", problem.detail)]
    Failed { node: String, problem: Box<Problem> },
    /// An answer that is none: not what the contract says.
    #[error("node {node} answered nonsense: {reason}")]
    Protocol { node: String, reason: String },
    /// This process may open no more files, so no connection either.
    #[error("there is no descriptor for a connection to node {node}")]
    NoDescriptor { node: String },
    #[error("no node has master {id}")]
    MasterAbsent { id: MasterId },
    #[error("no node of the region is healthy")]
    NoHealthyNode,
    #[error(transparent)]
    Import(#[from] ImportFault),
}

impl OriginError {
    /// Every [`Self::as_str`], for metrics.
    pub const LABELS: [&'static str; 15] = [
        "queue-full",
        "deadline-passed",
        "not-ready",
        "unreachable",
        "refused",
        "missing",
        "failed",
        "protocol",
        "master-absent",
        "no-healthy-node",
        "ended",
        "ends-devices",
        "cannot-store",
        "no-descriptor",
        "import",
    ];

    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    pub(super) const fn index(&self) -> usize {
        match self {
            Self::QueueFull { .. } => 0,
            Self::DeadlinePassed => 1,
            Self::NotReady { .. } => 2,
            Self::Unreachable { .. } => 3,
            Self::Refused { .. } => 4,
            Self::Missing { .. } => 5,
            Self::Failed { .. } => 6,
            Self::Protocol { .. } => 7,
            Self::MasterAbsent { .. } => 8,
            Self::NoHealthyNode => 9,
            Self::Ended { .. } => 10,
            Self::EndsDevices { .. } => 11,
            Self::CannotStore { .. } => 12,
            Self::NoDescriptor { .. } => 13,
            Self::Import(_) => 14,
        }
    }

    /// Whether another node may do better. A generation is a pure function of its recipe, so asking twice is safe.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull { .. }
            | Self::NotReady { .. }
            | Self::Unreachable { .. }
            | Self::Missing { .. }
            | Self::Failed { .. }
            | Self::Ended { .. }
            | Self::CannotStore { .. }
            | Self::NoDescriptor { .. }
            | Self::Protocol { .. } => true,
            Self::DeadlinePassed
            | Self::Refused { .. }
            | Self::MasterAbsent { .. }
            | Self::EndsDevices { .. }
            | Self::Import(_)
            | Self::NoHealthyNode => false,
        }
    }

    /// Whether it speaks against the node. A deadline does not: the caller may have been in a hurry; whether the
    /// node hangs, its probe finds out.
    #[must_use]
    pub const fn is_fault_of_node(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Failed { .. }
                | Self::Protocol { .. }
                | Self::Ended { .. }
                | Self::EndsDevices { .. }
        )
    }

    /// Whether it says anything of the node, good or bad.
    #[must_use]
    pub const fn is_of_node(&self) -> bool {
        !matches!(self, Self::DeadlinePassed | Self::NoDescriptor { .. } | Self::Import(_))
    }

    /// How long the node asked to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::NotReady { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_belong_to_their_errors() {
        let labels: std::collections::HashSet<_> = OriginError::LABELS.into();
        assert_eq!(labels.len(), OriginError::LABELS.len());
        assert_eq!(OriginError::NoHealthyNode.as_str(), "no-healthy-node");
        assert_eq!(OriginError::DeadlinePassed.as_str(), "deadline-passed");
        let error = OriginError::Unreachable { node: "a".into(), cause: "refused".into(), contact: Contact::None };
        assert_eq!((error.as_str(), error.is_retryable(), error.is_fault_of_node()), ("unreachable", true, true));
        let error = OriginError::NoDescriptor { node: "a".into() };
        assert_eq!((error.as_str(), error.is_fault_of_node(), error.is_of_node()), ("no-descriptor", false, false));
    }
}
