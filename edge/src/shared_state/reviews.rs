//! What reviewers decided: which pictures await a decision, and which one a variant shows at a moment.
//!
//! ```text
//! needs_review ─┬▶ approved ─▶ scheduled ─▶ live ─▶ paused | superseded | expired
//!               ├▶ rejected
//!               └▶ changes_requested
//! ```
//!
//! A decision is about one recipe's master at one variant of one slot and in one cut, so nothing that is decided changes under its
//! name: a new recipe or another ratio is a new case. What is live is not stored: of the approved cases that are not paused and whose time it is, the one
//! that was approved last. Where it ends or is paused, the one before it is live again.
//!
//! Invariants: pure, and the same on every edge; the clock is the asker's; a second approval is another person's.

use std::sync::Arc;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use rpds::HashTrieMapSync;
use serde::{Deserialize, Serialize};

use super::actor::ActorId;
use super::change::Effect;
use crate::campaign::{APPROVERS_MAX, Parts};

type Map<K, V> = HashTrieMapSync<K, V, ahash::RandomState>;

/// Cases that are kept for one variant. Those that are gone stand in the log.
pub(super) const CASES_MAX: usize = 32;
/// Entries that a case names. All of them stand in the log.
const STEPS_MAX: usize = 32;
/// Longest name of a role that is asked, in bytes.
pub(super) const ROLE_BYTES_MAX: usize = 64;

/// One step of a review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// `campaign/slot?axis=value&…`: the axes that its pictures differ by, by their names.
    pub variant: String,
    pub recipe: RecipeId,
    pub master: MasterId,
    /// How the slot cuts it, as `16:9`; what was decided before cuts were written down counts for every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    pub step: Step,
}

/// What is done. `seen` is the entry that the reviewer saw last: two people who decide at once do not decide past each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// A picture was drawn or brought.
    Submit {
        drawn: Box<Drawn>,
    },
    Approve {
        /// How many people have to.
        approvers: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_unix_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_unix_ms: Option<u64>,
        seen: u64,
    },
    Reject {
        seen: u64,
    },
    RequestChanges {
        seen: u64,
    },
    Pause {
        seen: u64,
    },
    Resume {
        seen: u64,
    },
    /// A role is asked to decide, by a time.
    Escalate {
        to: String,
        by_unix_ms: u64,
        seen: u64,
    },
}

/// How a picture came to be: all that an edge needs which never saw its drawing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// The node that drew it, by the name it gave itself.
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn_unix_s: Option<u64>,
    /// The determinism class of its drawing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub determinism: Option<String>,
    /// `None` for what a person brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    pub parts: Parts,
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
    NeedsReview,
    Rejected,
    ChangesRequested,
    Scheduled,
    Live,
    Paused,
    Superseded,
    Expired,
}

/// Why a step has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewRefusal {
    #[error("this picture is before reviewers already, as case {0}")]
    Known(u64),
    #[error("there is no such case")]
    Unknown,
    #[error("entry {seen} was seen, and entry {last} has decided since: look again")]
    Overtaken { seen: u64, last: u64 },
    #[error("the first approval was this person's: the second is another one's")]
    SamePerson,
    #[error("the picture {0}")]
    OutOfTurn(&'static str),
    #[error("{0} people cannot be asked to approve: 1 or {APPROVERS_MAX}")]
    Approvers(u8),
    #[error("a picture is live until a time that is later than it begins")]
    Schedule,
    #[error("a role has 1 to {ROLE_BYTES_MAX} characters out of a–z, 0–9 and `-`")]
    Role,
}

impl ReviewRefusal {
    /// Whether the same step may have a place at another time.
    #[must_use]
    pub const fn is_of_the_moment(&self) -> bool {
        matches!(self, Self::Known(_) | Self::Overtaken { .. } | Self::SamePerson | Self::OutOfTurn(_))
    }
}

impl CaseState {
    pub const ALL: [Self; 8] = [
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

impl Step {
    /// What it may do to what is shown: what waits, and whom it waits for, is shown nowhere.
    pub(super) const fn effect(&self) -> Effect {
        match self {
            Self::Submit { .. } | Self::Escalate { .. } => Effect::Unseen,
            Self::Approve { .. }
            | Self::Reject { .. }
            | Self::RequestChanges { .. }
            | Self::Pause { .. }
            | Self::Resume { .. } => Effect::Shown,
        }
    }

    /// As interfaces and audit lines call it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Approve { .. } => "approve",
            Self::Reject { .. } => "reject",
            Self::RequestChanges { .. } => "request_changes",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Escalate { .. } => "escalate",
        }
    }

    /// The last entry about the case that who decided had seen.
    #[must_use]
    pub const fn seen(&self) -> Option<u64> {
        match self {
            Self::Submit { .. } => None,
            Self::Approve { seen, .. }
            | Self::Reject { seen }
            | Self::RequestChanges { seen }
            | Self::Pause { seen }
            | Self::Resume { seen }
            | Self::Escalate { seen, .. } => Some(*seen),
        }
    }

    /// Whether a person has to say why.
    pub(super) const fn is_reasoned(&self) -> bool {
        !matches!(self, Self::Submit { .. } | Self::Approve { .. } | Self::Resume { .. })
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

    const fn needs_its_master(&self) -> bool {
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

    fn can_be_shown(&self, now_unix_ms: u64) -> bool {
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
    fn state(&self, now_unix_ms: u64, cases: &[Self]) -> CaseState {
        let is_beside = |case: &&Self| match &self.cut {
            Some(cut) => case.is_of_cut(cut),
            None => case.cut.is_none(),
        };
        let live = || live(cases.iter().filter(is_beside), now_unix_ms).map(|case| case.id);
        match self.verdict {
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

/// See the module's documentation. A copy shares all but a path with its original.
#[derive(Debug, Clone, Default)]
pub struct Reviews {
    by_variant: Map<Box<str>, Arc<[Case]>>,
    /// The variants of cases, by their numbers.
    variants: Map<u64, Box<str>>,
    /// How many have no decision.
    awaiting: usize,
    /// How many cases need a master: those that were not turned down.
    masters: Map<MasterId, u32>,
}

impl Reviews {
    /// What the variant shows at a moment, where its slot cuts pictures so.
    #[must_use]
    pub fn live(&self, variant: &str, cut: &str, now_unix_ms: u64) -> Option<&Case> {
        live(self.of(variant).iter().filter(|case| case.is_of_cut(cut)), now_unix_ms)
    }

    /// The same among cases of exactly this cut.
    #[must_use]
    pub fn live_beside(&self, variant: &str, cut: Option<&str>, now_unix_ms: u64) -> Option<&Case> {
        live(self.of(variant).iter().filter(|case| case.cut.as_deref() == cut), now_unix_ms)
    }

    /// The next moment at which that may change by itself.
    #[must_use]
    pub fn next_change_unix_ms(&self, variant: &str, now_unix_ms: u64) -> Option<u64> {
        let open = self.of(variant).iter().filter(|case| case.verdict == Verdict::Approved && !case.is_paused);
        open.flat_map(|case| [case.from_unix_ms, case.until_unix_ms]).flatten().filter(|at| *at > now_unix_ms).min()
    }

    /// The variant's cases, the oldest first.
    #[must_use]
    pub fn of(&self, variant: &str) -> &[Case] {
        self.by_variant.get(variant).map_or(&[], |cases| &**cases)
    }

    /// Whether this picture was put before reviewers in this cut, and is kept.
    #[must_use]
    pub fn is_known(&self, variant: &str, cut: &str, recipe: RecipeId, master: MasterId) -> bool {
        self.of(variant).iter().any(|case| case.recipe == recipe && case.master == master && case.is_of_cut(cut))
    }

    /// A case and its variant.
    #[must_use]
    pub fn case(&self, id: u64) -> Option<(&str, &Case)> {
        let variant = self.variants.get(&id)?;
        Some((variant, self.of(variant).iter().find(|case| case.id == id)?))
    }

    /// Every case with its variant and where it is at a moment, in no order.
    pub fn each(&self, now_unix_ms: u64) -> impl Iterator<Item = (&str, &Case, CaseState)> {
        self.by_variant.iter().flat_map(move |(variant, cases)| {
            cases.iter().map(move |case| (&**variant, case, case.state(now_unix_ms, cases)))
        })
    }

    /// Where a case is at a moment, as long as its slot cuts pictures as it was cut.
    #[must_use]
    pub fn state(&self, variant: &str, case: &Case, now_unix_ms: u64) -> CaseState {
        case.state(now_unix_ms, self.of(variant))
    }

    /// Cases without a decision.
    #[must_use]
    pub const fn awaiting(&self) -> usize {
        self.awaiting
    }

    /// Whether a picture that was approved, or awaits a decision, is this master.
    #[must_use]
    pub fn needs(&self, master: MasterId) -> bool {
        self.masters.contains_key(&master)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_variant.is_empty()
    }

    fn needs_one_more(&mut self, master: MasterId) {
        let count = self.masters.get(&master).copied().unwrap_or(0);
        self.masters.insert_mut(master, count.saturating_add(1));
    }

    fn needs_one_less(&mut self, master: MasterId) {
        match self.masters.get(&master).copied() {
            Some(count @ 2..) => self.masters.insert_mut(master, count - 1),
            _ => {
                self.masters.remove_mut(&master);
            }
        }
    }

    pub(super) fn variants(&self) -> impl Iterator<Item = (&str, &[Case])> {
        self.by_variant.iter().map(|(variant, cases)| (&**variant, &**cases))
    }

    /// Whether a step has a place; what stood before it.
    pub(super) fn admit(&self, review: &Review, actor: ActorId) -> Result<Option<String>, ReviewRefusal> {
        let case = self.of(&review.variant).iter().find(|case| case.is_of(review));
        if let Step::Submit { .. } = review.step {
            return case.map_or(Ok(None), |case| Err(ReviewRefusal::Known(case.id)));
        }
        let case = case.ok_or(ReviewRefusal::Unknown)?;
        if let Some(seen) = review.step.seen().filter(|seen| *seen != case.seen) {
            return Err(ReviewRefusal::Overtaken { seen, last: case.seen });
        }
        case.admit(&review.step, actor)?;
        Ok(Some(case.before()))
    }

    /// Carries out a step that was admitted. The variant's cases behind it.
    pub(super) fn apply(&mut self, review: &Review, (seq, at_unix_ms): (u64, u64), actor: ActorId) -> Arc<[Case]> {
        let mut cases = self.of(&review.variant).to_vec();
        match (&review.step, cases.iter_mut().find(|case| case.is_of(review))) {
            (Step::Submit { drawn }, None) => {
                make_room(&mut cases, at_unix_ms);
                cases.push(Case::submitted(review, drawn, seq));
            }
            (step, Some(case)) => case.apply(step, seq, actor),
            // Admission rules it out.
            (_, None) => {}
        }
        let cases: Arc<[Case]> = cases.into();
        self.put(review.variant.as_str().into(), Arc::clone(&cases));
        cases
    }

    /// Takes back what a person approved whose name was erased, where a second approval is awaited: the same person could
    /// come back under a new id and give it. The variants whose cases changed.
    pub(super) fn forget(&mut self, actor: ActorId, seq: u64) -> Vec<(Box<str>, Arc<[Case]>)> {
        let is_meant = |case: &Case| case.verdict == Verdict::NeedsReview && case.approved_by.contains(&actor);
        let meant = self.by_variant.iter().filter(|(_, cases)| cases.iter().any(is_meant));
        let changed = meant.map(|(variant, cases)| {
            let mut cases = cases.to_vec();
            for case in cases.iter_mut().filter(|case| is_meant(case)) {
                case.approved_by.retain(|it| *it != actor);
                case.seen = seq;
            }
            (variant.clone(), Arc::from(cases))
        });
        let changed: Vec<(Box<str>, Arc<[Case]>)> = changed.collect();
        changed.iter().for_each(|(variant, cases)| self.put(variant.clone(), Arc::clone(cases)));
        changed
    }

    pub(super) fn put(&mut self, variant: Box<str>, cases: Arc<[Case]>) {
        let needed =
            |cases: &[Case]| cases.iter().filter(|case| case.needs_its_master()).map(|case| case.master).collect();
        let (before, now): (Vec<MasterId>, Vec<MasterId>) = (needed(self.of(&variant)), needed(&cases));
        now.into_iter().for_each(|master| self.needs_one_more(master));
        before.into_iter().for_each(|master| self.needs_one_less(master));
        let awaiting = |cases: &[Case]| cases.iter().filter(|case| case.verdict == Verdict::NeedsReview).count();
        let before: Vec<(u64, bool)> =
            self.of(&variant).iter().map(|case| (case.id, case.verdict == Verdict::NeedsReview)).collect();
        self.awaiting = self.awaiting + awaiting(&cases) - before.iter().filter(|(_, awaits)| *awaits).count();
        for (id, _) in before.iter().filter(|(id, _)| !cases.iter().any(|case| case.id == *id)) {
            self.variants.remove_mut(id);
        }
        for case in cases.iter().filter(|case| !before.iter().any(|(id, _)| *id == case.id)) {
            self.variants.insert_mut(case.id, variant.clone());
        }
        self.by_variant.insert_mut(variant, cases);
    }
}

fn live<'c>(cases: impl Iterator<Item = &'c Case>, now_unix_ms: u64) -> Option<&'c Case> {
    cases.filter(|case| case.can_be_shown(now_unix_ms)).max_by_key(|case| case.approved)
}

/// What was turned down goes first, then what is over or superseded, then what waits longest. What is live, scheduled or paused stays
/// as long as anything else is there.
fn make_room(cases: &mut Vec<Case>, now_unix_ms: u64) {
    while cases.len() >= CASES_MAX {
        let worth = |case: &Case| match case.state(now_unix_ms, cases) {
            CaseState::Rejected | CaseState::ChangesRequested => 0,
            CaseState::Expired => 1,
            CaseState::Superseded => 2,
            CaseState::NeedsReview if case.approved_by.is_empty() => 3,
            CaseState::NeedsReview | CaseState::Paused => 4,
            CaseState::Scheduled => 5,
            CaseState::Live => 6,
        };
        let least = cases.iter().enumerate().min_by_key(|(_, case)| (worth(case), case.id)).map(|(at, _)| at);
        let Some(least) = least else { return };
        cases.remove(least);
    }
}

impl Case {
    fn submitted(review: &Review, drawn: &Drawn, seq: u64) -> Self {
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
        }
    }

    fn admit(&self, step: &Step, actor: ActorId) -> Result<(), ReviewRefusal> {
        let is_approved = self.verdict == Verdict::Approved;
        match step {
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
    fn before(&self) -> String {
        let verdict = match self.verdict {
            Verdict::NeedsReview => "needs_review",
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
            Verdict::ChangesRequested => "changes_requested",
        };
        let paused = if self.is_paused { ", paused" } else { "" };
        format!("{verdict}{paused}, by entry {}", self.seen)
    }

    fn apply(&mut self, step: &Step, seq: u64, actor: ActorId) {
        self.seen = seq;
        if self.steps.len() >= STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(seq);
        match step {
            Step::Submit { .. } => {}
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

#[cfg(test)]
mod tests;
