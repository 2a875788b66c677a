//! A picture before reviewers: where it is at a moment, which step has a place, and what a step makes of it.

use bildkante_shared::ids::{MasterId, RecipeId};
use serde::{Deserialize, Serialize};

use super::undo::Undoable;
use super::{Drawn, GATE_VERSION_BYTES_MAX, GateFinding, ROLE_BYTES_MAX, Review, ReviewRefusal, Step, live};
use crate::campaign::APPROVERS_MAX;
use crate::shared_state::ActorId;

/// Entries that a case names. All of them stand in the log.
const STEPS_MAX: usize = 32;
/// Before the gates that are awaited, as the audit tells it.
const CHECKING: &str = "checking: ";
/// Behind what was decided, where the variant showed the picture.
const LIVE: &str = ", live";

/// Whether the variant showed a picture when a step about it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeforeShown {
    Live,
    Not,
}

/// A picture before reviewers, and how far they are with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The entry that began it, which names it.
    pub id: u64,
    /// The last entry about it.
    pub seen: u64,
    /// The entries about it, at most [`STEPS_MAX`] of the last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u64>,
    pub recipe: RecipeId,
    pub master: MasterId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    pub drawn: Box<Drawn>,
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<ActorId>,
    /// The entry of the last approval that was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalated: Option<Escalation>,
    /// Gates that have not reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<String>,
    /// The last report of each gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<GateReport>,
    /// The last step, where it was a decision that may be taken back, and what stood before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoable: Option<Box<Undoable>>,
}

/// What a gate found, and which entry says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateReport {
    pub finding: GateFinding,
    pub seq: u64,
}

/// What was decided so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    NeedsReview,
    Approved,
    Rejected,
    ChangesRequested,
}

/// Who is asked, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    pub to: String,
    pub by_unix_ms: u64,
}

/// Where a case is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CaseState {
    /// Gates have not reported yet.
    Checking,
    NeedsReview,
    Rejected,
    ChangesRequested,
    Scheduled,
    Live,
    Paused,
    Superseded,
    Expired,
}

impl CaseState {
    pub const ALL: [Self; 9] = [
        Self::Checking,
        Self::NeedsReview,
        Self::Rejected,
        Self::ChangesRequested,
        Self::Scheduled,
        Self::Live,
        Self::Paused,
        Self::Superseded,
        Self::Expired,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::NeedsReview => "needs_review",
            Self::Rejected => "rejected",
            Self::ChangesRequested => "changes_requested",
            Self::Scheduled => "scheduled",
            Self::Live => "live",
            Self::Paused => "paused",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
        }
    }
}

impl Case {
    /// Whether a step is about it.
    #[must_use]
    pub fn is_of(&self, review: &Review) -> bool {
        self.recipe == review.recipe && self.master == review.master && self.cut == review.cut
    }

    /// Whether it was decided for pictures that are cut so.
    #[must_use]
    pub fn is_of_cut(&self, cut: &str) -> bool {
        self.cut.as_deref().is_none_or(|own| own == cut)
    }

    pub(super) const fn needs_its_master(&self) -> bool {
        matches!(self.verdict, Verdict::NeedsReview | Verdict::Approved)
    }

    const fn has_begun(&self, now_unix_ms: u64) -> bool {
        match self.from_unix_ms {
            Some(from) => from <= now_unix_ms,
            None => true,
        }
    }

    const fn has_ended(&self, now_unix_ms: u64) -> bool {
        match self.until_unix_ms {
            Some(until) => until <= now_unix_ms,
            None => false,
        }
    }

    pub(super) fn can_be_shown(&self, now_unix_ms: u64) -> bool {
        self.verdict == Verdict::Approved
            && !self.is_paused
            && self.has_begun(now_unix_ms)
            && !self.has_ended(now_unix_ms)
    }

    /// Whether the role that was asked has let its deadline pass.
    #[must_use]
    pub fn is_overdue(&self, now_unix_ms: u64) -> bool {
        let has_passed = |escalation: &Escalation| escalation.by_unix_ms <= now_unix_ms;
        self.verdict == Verdict::NeedsReview && self.escalated.as_ref().is_some_and(has_passed)
    }

    /// `cases`: all of its variant.
    pub(super) fn state(&self, now_unix_ms: u64, cases: &[Self]) -> CaseState {
        let is_beside = |case: &&Self| match &self.cut {
            Some(cut) => case.is_of_cut(cut),
            None => case.cut.is_none(),
        };
        let live = || live(cases.iter().filter(is_beside), now_unix_ms).map(|case| case.id);
        match self.verdict {
            Verdict::NeedsReview if !self.awaits.is_empty() => CaseState::Checking,
            Verdict::NeedsReview => CaseState::NeedsReview,
            Verdict::Rejected => CaseState::Rejected,
            Verdict::ChangesRequested => CaseState::ChangesRequested,
            Verdict::Approved if self.has_ended(now_unix_ms) => CaseState::Expired,
            Verdict::Approved if self.is_paused => CaseState::Paused,
            Verdict::Approved if !self.has_begun(now_unix_ms) => CaseState::Scheduled,
            Verdict::Approved if live() == Some(self.id) => CaseState::Live,
            Verdict::Approved => CaseState::Superseded,
        }
    }
}

impl Case {
    pub(super) fn submitted(review: &Review, (drawn, gates): (&Drawn, &[String]), seq: u64) -> Self {
        Self {
            id: seq,
            seen: seq,
            steps: vec![seq],
            recipe: review.recipe,
            master: review.master,
            cut: review.cut.clone(),
            drawn: Box::new(drawn.clone()),
            verdict: Verdict::NeedsReview,
            approved_by: Vec::new(),
            approved: None,
            from_unix_ms: None,
            until_unix_ms: None,
            is_paused: false,
            escalated: None,
            awaits: gates.to_vec(),
            reports: Vec::new(),
            undoable: None,
        }
    }

    pub(super) fn admit(&self, step: &Step, (actor, at_unix_ms): (ActorId, u64)) -> Result<(), ReviewRefusal> {
        let is_approved = self.verdict == Verdict::Approved;
        match step {
            Step::Approve { .. } if !self.awaits.is_empty() => Err(ReviewRefusal::Checking(self.awaits.clone())),
            Step::Report(GateFinding { gate, version, .. }) => {
                let is_sound =
                    (1..=GATE_VERSION_BYTES_MAX).contains(&version.len()) && !version.chars().any(char::is_control);
                let is_meant =
                    self.awaits.contains(gate) || self.reports.iter().any(|report| report.finding.gate == *gate);
                match (is_meant, is_sound) {
                    (true, true) => Ok(()),
                    (false, _) => Err(ReviewRefusal::NoSuchGate(gate.clone())),
                    (true, false) => Err(ReviewRefusal::GateVersion),
                }
            }
            Step::Approve { approvers, from_unix_ms, until_unix_ms, .. } => {
                if !(1..=APPROVERS_MAX).contains(approvers) {
                    return Err(ReviewRefusal::Approvers(*approvers));
                }
                if let (from, Some(until)) = (from_unix_ms.unwrap_or(0), *until_unix_ms)
                    && until <= from
                {
                    return Err(ReviewRefusal::Schedule);
                }
                // The second person agrees to what the first one said.
                let is_first = self.verdict != Verdict::NeedsReview || self.approved_by.is_empty();
                let span = (*from_unix_ms, *until_unix_ms);
                if !is_first && span != (None, None) && span != (self.from_unix_ms, self.until_unix_ms) {
                    return Err(ReviewRefusal::OutOfTurn("was approved by another person for another time"));
                }
                if is_approved && *approvers > 1 {
                    return Err(ReviewRefusal::OutOfTurn("is approved: reject it first, and have it approved anew"));
                }
                if self.verdict == Verdict::NeedsReview && self.approved_by.contains(&actor) {
                    return Err(ReviewRefusal::SamePerson);
                }
                Ok(())
            }
            Step::Undo { .. } => self.admit_undo(actor, at_unix_ms),
            Step::Pause { .. } if !is_approved => Err(ReviewRefusal::OutOfTurn("is not approved")),
            Step::Pause { .. } if self.is_paused => Err(ReviewRefusal::OutOfTurn("is paused")),
            Step::Resume { .. } if !self.is_paused => Err(ReviewRefusal::OutOfTurn("is not paused")),
            Step::Escalate { to, .. } if !is_role(to) => Err(ReviewRefusal::Role),
            Step::Escalate { .. } if self.verdict != Verdict::NeedsReview => {
                Err(ReviewRefusal::OutOfTurn("has been decided"))
            }
            _ => Ok(()),
        }
    }

    /// As the audit tells it.
    pub(super) fn before(&self, step: &Step, shown: BeforeShown) -> String {
        if matches!(step, Step::Report(_)) && !self.awaits.is_empty() {
            return format!("{CHECKING}{}", self.awaits.join(", "));
        }
        let verdict = match self.verdict {
            Verdict::NeedsReview => "needs_review",
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
            Verdict::ChangesRequested => "changes_requested",
        };
        let paused = if self.is_paused { ", paused" } else { "" };
        let live = if shown == BeforeShown::Live { LIVE } else { "" };
        format!("{verdict}{paused}{live}, by entry {}", self.seen)
    }

    pub(super) fn apply(&mut self, step: &Step, (seq, at_unix_ms): (u64, u64), actor: ActorId) {
        let undoable = Undoable::before(self, step, (seq, at_unix_ms), actor);
        let before = std::mem::replace(&mut self.undoable, undoable);
        self.seen = seq;
        if self.steps.len() >= STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(seq);
        match step {
            Step::Submit { .. } => {}
            Step::Report(finding) => {
                self.awaits.retain(|awaited| *awaited != finding.gate);
                self.reports.retain(|report| report.finding.gate != finding.gate);
                self.reports.push(GateReport { finding: finding.clone(), seq });
            }
            Step::Approve { approvers, from_unix_ms, until_unix_ms, .. } => {
                // Who approves anew what was decided otherwise begins from the start.
                if self.verdict != Verdict::NeedsReview {
                    self.approved_by.clear();
                    self.verdict = Verdict::NeedsReview;
                }
                if self.approved_by.is_empty() || (*from_unix_ms, *until_unix_ms) != (None, None) {
                    (self.from_unix_ms, self.until_unix_ms) = (*from_unix_ms, *until_unix_ms);
                }
                self.approved_by.push(actor);
                if self.approved_by.len() >= usize::from(*approvers) {
                    (self.verdict, self.approved, self.is_paused, self.escalated) =
                        (Verdict::Approved, Some(seq), false, None);
                }
            }
            Step::Reject { .. } => self.turn_down(Verdict::Rejected),
            Step::RequestChanges { .. } => self.turn_down(Verdict::ChangesRequested),
            Step::Pause { .. } => self.is_paused = true,
            Step::Resume { .. } => self.is_paused = false,
            Step::Undo { .. } => {
                if let Some(before) = before {
                    before.restore(self);
                }
            }
            Step::Escalate { to, by_unix_ms, .. } => {
                self.escalated = Some(Escalation { to: to.clone(), by_unix_ms: *by_unix_ms });
            }
        }
    }

    fn turn_down(&mut self, verdict: Verdict) {
        self.verdict = verdict;
        self.approved_by.clear();
        (self.approved, self.is_paused, self.escalated) = (None, false, None);
    }
}

fn is_role(name: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=ROLE_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_sound)
}

/// Whether a report, by what stood before it, was the last one that was awaited: people have the picture from then on.
#[must_use]
pub fn was_last_awaited(before: Option<&str>, gate: &str) -> bool {
    before.and_then(|before| before.strip_prefix(CHECKING)).is_some_and(|awaited| awaited == gate)
}

/// Whether a picture was live, by what stood before a step about it.
#[must_use]
pub fn was_live(before: Option<&str>) -> bool {
    before.and_then(|before| before.split_once(LIVE)).is_some_and(|(_, rest)| rest.starts_with(", by entry"))
}
