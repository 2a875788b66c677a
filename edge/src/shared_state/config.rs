//! `[state]`: whose log this edge follows, and how old what it knows may be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::shutdown::Shutdown;
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::follower::{Follower, Patience};
use super::link::{FollowConfig, Link, LinkError};
use super::log::{Log, LogError};
use super::primary::Primary;
use crate::words::Epoch;

/// Beyond it a change that the primary has is answered before it is here.
const RETURN_MAX: Duration = Duration::from_secs(2);

/// `[state]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// `None`: this edge numbers changes itself, and others may follow it.
    pub follow: Option<FollowConfig>,
    /// What was not confirmed for longer is stale.
    pub governance_state_age_max_s: u64,
    /// How long the master of a picture is kept that is over: expired, or another one took its place. 0: for ever.
    pub keep_superseded_days: u32,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { follow: None, governance_state_age_max_s: 60, keep_superseded_days: 90 }
    }
}

/// Why the shared state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("`state.follow`: {0}")]
    Link(#[from] LinkError),
}

/// A log as it was configured, and what keeps it current.
#[derive(Debug, Clone)]
pub struct OpenedLog {
    pub log: Arc<dyn Log>,
    follower: Option<Follower>,
}

impl OpenedLog {
    /// Follows the primary, where there is one to follow.
    #[must_use]
    pub fn start(&self, shutdown: Shutdown) -> Option<JoinHandle<()>> {
        self.follower.as_ref().map(|follower| follower.start(shutdown))
    }
}

impl StateConfig {
    /// # Errors
    /// Says what cannot be right.
    pub fn check(&self) -> Result<(), String> {
        if self.governance_state_age_max_s == 0 {
            return Err("`state.governance_state_age_max_s` must not be 0".to_owned());
        }
        self.follow.as_ref().map_or(Ok(()), FollowConfig::check)
    }

    /// Opens or begins the log in this file. Blocks: for the start.
    ///
    /// # Errors
    /// When the file cannot be used, or the way to the primary cannot be set up.
    pub fn open(&self, path: &Path, epoch: Epoch) -> Result<OpenedLog, OpenError> {
        let local = Primary::open(path, epoch)?;
        let Some(follow) = &self.follow else { return Ok(OpenedLog { log: Arc::new(local), follower: None }) };
        let age_max = Duration::from_secs(self.governance_state_age_max_s);
        let patience = Patience { age_max, return_max: RETURN_MAX };
        let follower = Follower::new(local, Arc::new(Link::new(follow)?), &follow.primary, patience);
        Ok(OpenedLog { log: Arc::new(follower.clone()), follower: Some(follower) })
    }
}
