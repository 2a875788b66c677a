//! Splitting a picture from the one that it shares a master with, and merging it again.
//!
//! A split is a decision about a picture by its name: every edge asks for its master without looking for duplicates from then on, in
//! every version of the manifest. Invariant: what was drawn before is asked for again after either, because a binding does not say
//! which of the two it was made under.

use std::sync::Arc;

use super::desk::{DeskError, PurgeDesk, PurgeOrder};
use super::marks::{PurgeKind, PurgeReach};
use super::scope::PurgeScope;
use super::{PurgeRecord, audit};
use crate::shared_state::{Change, Committed, Entry, Log, LogError, Merge, Proposal, Split};

/// What becomes of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splitting {
    /// It gets a master of its own.
    Split,
    /// It may share one again.
    Merge,
}

impl Splitting {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Merge => "merge",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct SplitOrder {
    /// The variant's name, by which it is purged.
    pub variant: String,
    /// Its picture's, by which it is decided about.
    pub picture: String,
    pub splitting: Splitting,
    pub why: String,
    /// A repeated order has the same.
    pub key: Option<String>,
}

/// A split or a merge that is in the log.
#[derive(Debug)]
pub struct SplitDone {
    pub entry: Arc<Entry>,
    pub is_new: bool,
    pub purge: PurgeRecord,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("it is decided, and what was drawn before may be shown for a while: {0}")]
    Purge(#[from] DeskError),
    #[error("the deciding broke down")]
    Broken,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SplitDesk {
    log: Arc<dyn Log>,
    purges: Arc<PurgeDesk>,
}

impl SplitDesk {
    #[must_use]
    pub const fn new(log: Arc<dyn Log>, purges: Arc<PurgeDesk>) -> Self {
        Self { log, purges }
    }

    /// Splits or merges. A task of its own: a client that hangs up leaves nothing half done.
    ///
    /// # Errors
    /// When it is not in the log, or what was drawn before could not be purged.
    pub async fn carry_out(&self, who: &str, order: SplitOrder) -> Result<SplitDone, SplitError> {
        let (desk, who) = (self.clone(), who.to_owned());
        tokio::spawn(async move { desk.decide(&who, order).await }).await.map_err(|_| SplitError::Broken)?
    }

    async fn decide(&self, who: &str, order: SplitOrder) -> Result<SplitDone, SplitError> {
        let SplitOrder { variant, picture, splitting, why, key } = order;
        let change = match splitting {
            Splitting::Split => Change::Split(Split { variant: picture }),
            Splitting::Merge => Change::Merge(Merge { variant: picture }),
        };
        let proposal = Proposal { change, who: who.to_owned(), why, key, edge: None };
        let Committed { entry, is_new } = audit::propose(&self.log, splitting.as_str(), proposal).await?;
        // A repeated order draws nothing anew, and makes up for a purge that failed.
        let purge_key = format!("{}-{}", splitting.as_str(), entry.seq());
        let purge = PurgeOrder {
            scope: PurgeScope::Variant(variant),
            kind: PurgeKind::Hard,
            reach: PurgeReach::Masters,
            why: format!("{} by entry {}", splitting.as_str(), entry.seq()),
            key: Some(purge_key),
        };
        Ok(SplitDone { purge: self.purges.purge(who, purge).await?, entry, is_new })
    }

    /// The pictures that are split, with the entries that did it, in the order of their numbers.
    #[must_use]
    pub fn list(&self) -> Vec<(String, u64)> {
        let state = self.log.published().load();
        let mut splits: Vec<(String, u64)> =
            state.splits().each().map(|(picture, seq)| (picture.to_owned(), seq)).collect();
        splits.sort_unstable_by_key(|(_, seq)| *seq);
        splits
    }
}
