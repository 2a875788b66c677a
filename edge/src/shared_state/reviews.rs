//! What reviewers decided: which pictures await a decision, and which one a variant shows at a moment.
//!
//! ```text
//! checking ─▶ needs_review ─┬▶ approved ─▶ scheduled ─▶ live ─▶ paused | superseded | expired
//!                           ├▶ rejected
//!                           └▶ changes_requested
//! ```
//!
//! A picture is `checking` while gates that its manifest names have not reported. A gate is a program: what it reports stands in the case
//! for people to see, and is never an approval. Where no gate is named, people have the picture at once.
//!
//! A decision is about one recipe's master at one variant of one slot and in one cut, so nothing that is decided changes under its
//! name: a new recipe or another ratio is a new case. What is live is not stored: of the approved cases that are not paused and whose time it is, the one
//! that was approved last. Where it ends or is paused, the one before it is live again.
//!
//! | module | owns |
//! | --- | --- |
//! | `case` | one picture before reviewers |
//! | `pins` | which masters are kept, and why |
//! | `undo` | a decision that is taken back by who made it |
//!
//! Invariants: pure, and the same on every edge; the clock is the asker's; a second approval is another person's.

mod case;
mod pins;
mod undo;

use std::sync::Arc;

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use rpds::HashTrieMapSync;
use serde::{Deserialize, Serialize};

use self::case::BeforeShown;
pub use self::case::{Case, CaseState, GateReport, Verdict, was_last_awaited, was_live};
pub use self::pins::{Pin, Since};
pub use self::undo::{UNDO_MS_MAX, Undone};
use super::actor::ActorId;
use super::change::Effect;
use crate::campaign::{APPROVERS_MAX, GATE_BYTES_MAX, GATES_MAX, Parts, are_gates};

type Map<K, V> = HashTrieMapSync<K, V, ahash::RandomState>;

/// Cases that are kept for one variant. Those that are gone stand in the log.
pub(super) const CASES_MAX: usize = 32;
/// Longest name of a role that is asked, in bytes.
pub(super) const ROLE_BYTES_MAX: usize = 64;
/// Longest version of a gate, in bytes.
pub const GATE_VERSION_BYTES_MAX: usize = 64;

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
        /// Whose reports are awaited before people decide.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gates: Vec<String>,
    },
    /// A gate reports.
    Report(GateFinding),
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
    /// Who decided last takes that back: the case is as it was before. Both steps stand in the log.
    Undo {
        seen: u64,
    },
}

/// What a gate found about a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateFinding {
    /// The name by which the manifest awaits it.
    pub gate: String,
    pub version: String,
    pub verdict: GateVerdict,
    /// Of what it rests on, which is kept elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Digest>,
}

/// What a gate says of a picture. It informs people and decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    Pass,
    Fail,
}

impl GateVerdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
        }
    }
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
    #[error("the picture is being checked: {} has not reported", .0.join(" and "))]
    Checking(Vec<String>),
    #[error("no report of a gate `{0}` is awaited for this picture")]
    NoSuchGate(String),
    #[error(
        "at most {GATES_MAX} gates check a picture, each named once by 1 to {GATE_BYTES_MAX} characters out of a–z, 0–9 and `-`"
    )]
    Gates,
    #[error("{0}")]
    NotUndone(&'static str),
    #[error(
        "a kill withholds the picture: the decision stays as it is, and a lift of the kill brings the picture back"
    )]
    Killed,
    #[error("a gate's version has 1 to {GATE_VERSION_BYTES_MAX} bytes and no control character")]
    GateVersion,
}

impl ReviewRefusal {
    /// Whether the same step may have a place at another time.
    #[must_use]
    pub const fn is_of_the_moment(&self) -> bool {
        matches!(
            self,
            Self::Known(_)
                | Self::Overtaken { .. }
                | Self::SamePerson
                | Self::OutOfTurn(_)
                | Self::Checking(_)
                | Self::NoSuchGate(_)
                | Self::NotUndone(_)
                | Self::Killed
        )
    }
}

impl Step {
    /// What it may do to what is shown: what waits, and whom it waits for, is shown nowhere.
    pub(super) const fn effect(&self) -> Effect {
        match self {
            Self::Submit { .. } | Self::Report(_) | Self::Escalate { .. } => Effect::Unseen,
            Self::Approve { .. }
            | Self::Reject { .. }
            | Self::RequestChanges { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Undo { .. } => Effect::Shown,
        }
    }

    /// As interfaces and audit lines call it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Report(_) => "report",
            Self::Approve { .. } => "approve",
            Self::Reject { .. } => "reject",
            Self::RequestChanges { .. } => "request_changes",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Escalate { .. } => "escalate",
            Self::Undo { .. } => "undo",
        }
    }

    /// The last entry about the case that who decided had seen.
    #[must_use]
    pub const fn seen(&self) -> Option<u64> {
        match self {
            Self::Submit { .. } | Self::Report(_) => None,
            Self::Approve { seen, .. }
            | Self::Reject { seen }
            | Self::RequestChanges { seen }
            | Self::Pause { seen }
            | Self::Resume { seen }
            | Self::Escalate { seen, .. }
            | Self::Undo { seen } => Some(*seen),
        }
    }

    /// Whether a person has to say why.
    pub(super) const fn is_reasoned(&self) -> bool {
        let is_reason_enough = matches!(self, Self::Approve { .. } | Self::Resume { .. } | Self::Undo { .. });
        !is_reason_enough && !matches!(self, Self::Submit { .. } | Self::Report(_))
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
    pub(super) fn admit(
        &self,
        review: &Review,
        (actor, at_unix_ms): (ActorId, u64),
    ) -> Result<Option<String>, ReviewRefusal> {
        let case = self.of(&review.variant).iter().find(|case| case.is_of(review));
        if let Step::Submit { gates, .. } = &review.step {
            if !are_gates(gates) {
                return Err(ReviewRefusal::Gates);
            }
            return case.map_or(Ok(None), |case| Err(ReviewRefusal::Known(case.id)));
        }
        let case = case.ok_or(ReviewRefusal::Unknown)?;
        if let Some(seen) = review.step.seen().filter(|seen| *seen != case.seen) {
            return Err(ReviewRefusal::Overtaken { seen, last: case.seen });
        }
        case.admit(&review.step, (actor, at_unix_ms))?;
        let live = self.live_beside(&review.variant, review.cut.as_deref(), at_unix_ms);
        let shown = if live.is_some_and(|live| live.id == case.id) { BeforeShown::Live } else { BeforeShown::Not };
        Ok(Some(case.before(&review.step, shown)))
    }

    /// Carries out a step that was admitted. The variant's cases behind it.
    pub(super) fn apply(&mut self, review: &Review, (seq, at_unix_ms): (u64, u64), actor: ActorId) -> Arc<[Case]> {
        let mut cases = self.of(&review.variant).to_vec();
        match (&review.step, cases.iter_mut().find(|case| case.is_of(review))) {
            (Step::Submit { drawn, gates }, None) => {
                make_room(&mut cases, at_unix_ms);
                cases.push(Case::submitted(review, (drawn, gates), seq));
            }
            (step, Some(case)) => case.apply(step, (seq, at_unix_ms), actor),
            // Admission rules it out.
            (_, None) => {}
        }
        let cases: Arc<[Case]> = cases.into();
        self.put(review.variant.as_str().into(), Arc::clone(&cases));
        cases
    }

    /// Whether a first approval awaits another person's.
    pub(super) fn await_second_approvals(&self) -> bool {
        let may_await = |case: &Case| case.undoable.as_ref().is_some_and(|last| last.rests_on(|_| true));
        let awaits =
            |case: &Case| (case.verdict == Verdict::NeedsReview && !case.approved_by.is_empty()) || may_await(case);
        self.by_variant.values().any(|cases| cases.iter().any(awaits))
    }

    /// Takes back what people approved whose ids are known no more, where a second approval is awaited: the same person could come
    /// back under a new id and give it. The variants whose cases changed.
    pub(super) fn take_back_first_approvals(
        &mut self,
        is_unknown: impl Fn(&ActorId) -> bool,
        seq: u64,
    ) -> Vec<(Box<str>, Arc<[Case]>)> {
        let is_meant = |case: &Case| case.verdict == Verdict::NeedsReview && case.approved_by.iter().any(&is_unknown);
        // Nor is such an approval brought back by an undo of what came after it.
        let may_return = |case: &Case| case.undoable.as_ref().is_some_and(|last| last.rests_on(&is_unknown));
        let meant = self.by_variant.iter().filter(|(_, cases)| cases.iter().any(|it| is_meant(it) || may_return(it)));
        let changed = meant.map(|(variant, cases)| {
            let mut cases = cases.to_vec();
            for case in cases.iter_mut().filter(|case| may_return(case)) {
                case.undoable = None;
            }
            for case in cases.iter_mut().filter(|case| is_meant(case)) {
                case.approved_by.retain(|it| !is_unknown(it));
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
            CaseState::Checking => 3,
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

#[cfg(test)]
mod tests;
