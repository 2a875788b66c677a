//! A decision that is taken back by who made it, some seconds later: a misplaced key decides about a campaign.
//!
//! The step before stays in the log, and so does the one that takes it back. What stood before a decision is kept in its case until the
//! next step, because a fold does not read back.
//!
//! Invariants: only who decided takes it back, while it is the last step about the case, and in time; no kill is undone (the fold
//! asks for that, which knows kills).

use serde::{Deserialize, Serialize};

use super::case::{Case, Escalation, Verdict};
use super::{ReviewRefusal, Step};
use crate::shared_state::ActorId;

/// How long a decision can be taken back.
pub const UNDO_MS_MAX: u64 = 20_000;

/// The last decision about a case, and what stood before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undoable {
    /// The entry that decided.
    pub seq: u64,
    pub at_unix_ms: u64,
    pub by: ActorId,
    pub step: Undone,
    before: Before,
}

/// Which decision it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    Approve,
    Reject,
    RequestChanges,
}

impl Undone {
    const fn of(step: &Step) -> Option<Self> {
        match step {
            Step::Approve { .. } => Some(Self::Approve),
            Step::Reject { .. } => Some(Self::Reject),
            Step::RequestChanges { .. } => Some(Self::RequestChanges),
            _ => None,
        }
    }
}

/// What a decision may change of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    verdict: Verdict,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    approved_by: Vec<ActorId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approved: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    escalated: Option<Escalation>,
}

impl Undoable {
    /// `None` for a step that is no decision.
    pub(super) fn before(case: &Case, step: &Step, (seq, at_unix_ms): (u64, u64), by: ActorId) -> Option<Box<Self>> {
        let before = Before {
            verdict: case.verdict,
            approved_by: case.approved_by.clone(),
            approved: case.approved,
            from_unix_ms: case.from_unix_ms,
            until_unix_ms: case.until_unix_ms,
            is_paused: case.is_paused,
            escalated: case.escalated.clone(),
        };
        Some(Box::new(Self { seq, at_unix_ms, by, step: Undone::of(step)?, before }))
    }

    pub(super) fn restore(self, case: &mut Case) {
        let Before { verdict, approved_by, approved, from_unix_ms, until_unix_ms, is_paused, escalated } = self.before;
        (case.verdict, case.approved_by, case.approved) = (verdict, approved_by, approved);
        (case.from_unix_ms, case.until_unix_ms) = (from_unix_ms, until_unix_ms);
        (case.is_paused, case.escalated) = (is_paused, escalated);
    }

    /// Whether an approval stood before it that awaited another person's: one of these people's.
    pub(super) fn rests_on(&self, is_one: impl Fn(&ActorId) -> bool) -> bool {
        self.before.verdict == Verdict::NeedsReview && self.before.approved_by.iter().any(is_one)
    }

    /// How long it can still be taken back.
    #[must_use]
    pub const fn left_ms(&self, now_unix_ms: u64) -> u64 {
        (self.at_unix_ms + UNDO_MS_MAX).saturating_sub(now_unix_ms)
    }
}

impl Case {
    pub(super) fn admit_undo(&self, actor: ActorId, at_unix_ms: u64) -> Result<(), ReviewRefusal> {
        // What takes back first approvals when a term begins is a step of no reviewer, and ends this.
        let last = self.undoable.as_ref().filter(|last| last.seq == self.seen);
        let last =
            last.ok_or(ReviewRefusal::NotUndone("the last step about this picture is no decision to take back"))?;
        if last.by != actor {
            return Err(ReviewRefusal::NotUndone("another person decided last: who decided takes it back"));
        }
        if last.left_ms(at_unix_ms) == 0 {
            return Err(ReviewRefusal::NotUndone("the time to take this back is over: decide anew"));
        }
        Ok(())
    }
}
