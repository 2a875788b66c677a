//! Which entries purged a key last: what an edge that joins counts all it holds against.

use serde::{Deserialize, Serialize};

use super::change::{PurgeKind, PurgeReach};

/// The entries that purged a key last, by kind and reach; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgedAt {
    pub hard: u64,
    pub soft: u64,
    pub masters_hard: u64,
    pub masters_soft: u64,
}

impl PurgedAt {
    pub(super) fn of(kind: PurgeKind, reach: PurgeReach, seq: u64) -> Self {
        let mut purged = Self::default();
        match kind {
            PurgeKind::Hard => purged.hard = seq,
            PurgeKind::Soft => purged.soft = seq,
        }
        match (reach, kind) {
            (PurgeReach::Renditions, _) => {}
            (PurgeReach::Masters, PurgeKind::Hard) => purged.masters_hard = seq,
            (PurgeReach::Masters, PurgeKind::Soft) => purged.masters_soft = seq,
        }
        purged
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self {
            hard: self.hard.max(other.hard),
            soft: self.soft.max(other.soft),
            masters_hard: self.masters_hard.max(other.masters_hard),
            masters_soft: self.masters_soft.max(other.masters_soft),
        }
    }

    /// The purges that have the same effect on what is older than all of them.
    pub fn orders(self) -> impl Iterator<Item = (PurgeKind, PurgeReach)> {
        let of = |is_asked: bool, kind, reach| is_asked.then_some((kind, reach));
        [
            of(self.hard > 0, PurgeKind::Hard, PurgeReach::Renditions),
            of(self.soft > 0, PurgeKind::Soft, PurgeReach::Renditions),
            of(self.masters_hard > 0, PurgeKind::Hard, PurgeReach::Masters),
            of(self.masters_soft > 0, PurgeKind::Soft, PurgeReach::Masters),
        ]
        .into_iter()
        .flatten()
    }
}
