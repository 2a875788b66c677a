//! What was decided at one moment, for pages that look through many pictures.

use std::sync::Arc;

use bildkante_shared::phash::PerceptualHash;

use super::super::gate;
use super::listed::ShownCase;
use super::{ReviewDesk, now_unix_ms};
use crate::campaign::Variant;
use crate::shared_state::{Case, CaseState, Facts, Reason, State};

/// A case that awaits a decision, and the last entry about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwaitingCase {
    pub id: u64,
    pub seen: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Survey {
    state: Arc<State>,
    now_unix_ms: u64,
}

impl ReviewDesk {
    /// What is decided now.
    #[must_use]
    pub fn survey(&self) -> Survey {
        Survey { state: self.log.published().state(), now_unix_ms: now_unix_ms() }
    }
}

impl Survey {
    /// Where the cases of a picture are, the oldest first. What is live in another cut is shown no more.
    pub fn states<'s>(&'s self, picture: &'s str, cut: &'s str) -> impl Iterator<Item = CaseState> + 's {
        let reviews = self.state.reviews();
        reviews.of(picture).iter().map(move |case| match reviews.state(picture, case, self.now_unix_ms) {
            CaseState::Live if !case.is_of_cut(cut) => CaseState::Superseded,
            state => state,
        })
    }

    /// The number of the case that came last.
    #[must_use]
    pub fn newest(&self, picture: &str) -> Option<u64> {
        self.state.reviews().of(picture).last().map(|case| case.id)
    }

    /// What the picture of the case looks like that is told of first: the last that awaits a decision, else the last of all.
    #[must_use]
    pub fn fingerprint(&self, picture: &str) -> Option<PerceptualHash> {
        let cases = self.state.reviews().of(picture);
        let awaiting = self.awaiting(picture).map(|case| case.id);
        let told = cases.iter().rev().find(|case| awaiting.is_none_or(|id| id == case.id))?;
        Some(told.drawn.phash)
    }

    /// The last case that awaits a decision, as it is.
    #[must_use]
    pub fn awaiting(&self, picture: &str) -> Option<AwaitingCase> {
        let reviews = self.state.reviews();
        let awaits = |case: &&Case| reviews.state(picture, case, self.now_unix_ms) == CaseState::NeedsReview;
        let case = reviews.of(picture).iter().rev().find(awaits)?;
        Some(AwaitingCase { id: case.id, seen: case.seen })
    }

    /// The case whose picture is shown to people with a link: what awaits a decision, else what is live, else what came last.
    #[must_use]
    pub fn to_show(&self, picture: &str, cut: &str) -> Option<u64> {
        let live = || self.state.reviews().live(picture, cut, self.now_unix_ms).map(|case| case.id);
        self.awaiting(picture).map(|case| case.id).or_else(live).or_else(|| self.newest(picture))
    }

    /// The cases that await a decision about pictures of interest, each with its picture, in no order.
    pub fn awaiting_each<'s>(
        &'s self,
        is_of_interest: impl Fn(&str) -> bool + 's,
    ) -> impl Iterator<Item = (&'s str, ShownCase)> {
        let now = self.now_unix_ms;
        let all = self.state.reviews().each(now);
        let awaiting = all.filter(move |(picture, _, at)| *at == CaseState::NeedsReview && is_of_interest(picture));
        awaiting.map(move |(picture, case, at)| (picture, ShownCase::of(picture, case, at, now)))
    }

    /// Whether a kill may withhold anything at all.
    #[must_use]
    pub fn has_kills(&self) -> bool {
        !self.state.kills().is_empty() || !self.state.held().is_empty()
    }

    /// Why a variant's own picture, or the one that is live, is withheld.
    #[must_use]
    pub fn withheld(&self, variant: &Variant) -> Option<Reason> {
        let has_ended = variant.rights_end.as_ref().is_some_and(|end| end.unix_s <= self.now_unix_ms / 1_000);
        let live = self.state.reviews().live(&variant.picture, &variant.cut, self.now_unix_ms);
        killed(&self.state, variant, live).or_else(|| has_ended.then_some(Reason::RightsEnded))
    }
}

/// Why a kill withholds what a variant shows: the picture of this case, or what would be drawn.
pub(super) fn killed(state: &State, variant: &Variant, live: Option<&Case>) -> Option<Reason> {
    let own = gate::facts(variant, live.map(|case| case.master));
    let facts = match live {
        Some(case) => Facts { recipe: case.recipe, parts: Some(&case.drawn.parts), ..own },
        None => own,
    };
    state.kills().reason(&facts).or_else(|| state.held().reason(&facts))
}
