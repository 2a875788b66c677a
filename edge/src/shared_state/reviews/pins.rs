//! Which masters cases keep, and why.

use bildkante_shared::ids::MasterId;

use super::{Case, CaseState, Reviews, live};

/// What a case is to its master at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// The variant shows it.
    Live,
    /// People or gates have it before them.
    Awaiting,
    /// It was approved, and is scheduled or paused.
    Decided,
    /// It was shown, and is no more; it may be again, when what came after it is taken away.
    Over(Since),
}

/// When a picture was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Moment(u64),
    /// With this entry, which approved another one, and not before a moment.
    Entry {
        seq: u64,
        from_unix_ms: u64,
    },
}

impl Reviews {
    /// Each case that keeps a master, in no order.
    pub fn pins(&self, now_unix_ms: u64) -> impl Iterator<Item = (MasterId, Pin)> {
        self.each(now_unix_ms).filter(|(_, case, _)| case.needs_its_master()).map(move |(variant, case, at)| {
            let pin = match at {
                CaseState::Live => Pin::Live,
                CaseState::Checking | CaseState::NeedsReview => Pin::Awaiting,
                CaseState::Expired => case.until_unix_ms.map_or(Pin::Decided, |until| Pin::Over(Since::Moment(until))),
                CaseState::Superseded => self.superseded(variant, case, now_unix_ms),
                // The last two keep none.
                CaseState::Scheduled | CaseState::Paused | CaseState::Rejected | CaseState::ChangesRequested => {
                    Pin::Decided
                }
            };
            (case.master, pin)
        })
    }

    /// By what is live, which may have come long after the first that took its place: it is kept rather too long.
    fn superseded(&self, variant: &str, case: &Case, now_unix_ms: u64) -> Pin {
        let beside = self.of(variant).iter().filter(|other| match &case.cut {
            Some(cut) => other.is_of_cut(cut),
            None => other.cut.is_none(),
        });
        let by = live(beside, now_unix_ms).and_then(|by| Some((by.approved?, by.from_unix_ms.unwrap_or(0))));
        by.map_or(Pin::Decided, |(seq, from_unix_ms)| Pin::Over(Since::Entry { seq, from_unix_ms }))
    }
}
