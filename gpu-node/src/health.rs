//! Whether the node takes generations, and why not.

use std::sync::Arc;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use serde::Serialize;
use tokio::sync::watch;

/// Where a node stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Loading,
    SelfTest,
    Ready,
    Draining,
    /// It will never be ready; the process should end.
    Failed {
        reason: String,
    },
}

impl Phase {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::SelfTest => "self_test",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed { .. } => "failed",
        }
    }

    /// What a caller is told while generations are not taken.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Loading => "checkpoints are being loaded".to_owned(),
            Self::SelfTest => "the self-test is running".to_owned(),
            Self::Ready => String::new(),
            Self::Draining => "the node is shutting down".to_owned(),
            Self::Failed { reason } => reason.clone(),
        }
    }
}

/// What the self-test of a checkpoint found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    pub checkpoint: String,
    pub digest: Digest,
    /// Whether the same recipe drew the same bits twice.
    pub is_equal: bool,
    /// The master it drew.
    pub master: MasterId,
}

/// All a health check may ask.
#[derive(Debug, Clone)]
pub struct Status {
    pub phase: Phase,
    pub checkpoints: Arc<Vec<CheckpointInfo>>,
    pub adapters: Arc<Vec<AdapterInfo>>,
    /// Folders that hold no usable checkpoint and files that hold no usable adapter, and why.
    pub rejected: Arc<Vec<String>>,
    pub self_tests: Vec<SelfTest>,
}

/// The node's status, written by few and watched by all.
#[derive(Debug)]
pub struct Health {
    status: watch::Sender<Status>,
}

impl Default for Health {
    fn default() -> Self {
        let status = Status {
            phase: Phase::Loading,
            checkpoints: Arc::default(),
            adapters: Arc::default(),
            rejected: Arc::default(),
            self_tests: Vec::new(),
        };
        Self { status: watch::Sender::new(status) }
    }
}

impl Health {
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Enters a phase; a node that is draining or has failed stays so.
    pub fn enter(&self, phase: Phase) {
        self.update(|status| {
            if !matches!(status.phase, Phase::Draining | Phase::Failed { .. }) {
                status.phase = phase;
            }
        });
    }

    /// Waits until the node is ready, or will never be.
    pub async fn settled(&self) -> Phase {
        self.wait(|phase| !matches!(phase, Phase::Loading | Phase::SelfTest)).await
    }

    /// Waits until the node has failed.
    pub async fn failed(&self) -> Phase {
        self.wait(|phase| matches!(phase, Phase::Failed { .. })).await
    }

    async fn wait(&self, is_met: impl Fn(&Phase) -> bool) -> Phase {
        let mut receiver = self.status.subscribe();
        match receiver.wait_for(|status| is_met(&status.phase)).await {
            Ok(status) => status.phase.clone(),
            // Unreachable while `self` holds the sender.
            Err(_) => Phase::Failed { reason: "the node is gone".to_owned() },
        }
    }
}
