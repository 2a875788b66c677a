//! Cases as they are at a moment: one, a page of them, those of a variant, and how many there are.

use super::{ReviewDesk, now_unix_ms};
use crate::campaign::{Catalog, Variant};
use crate::shared_state::{Case, CaseState, Verdict};

/// A case as it is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCase {
    pub variant: String,
    pub case: Case,
    pub state: CaseState,
    /// The role that was asked has let its deadline pass.
    pub is_overdue: bool,
}

impl ShownCase {
    pub(super) fn of(variant: &str, case: &Case, state: CaseState, now_unix_ms: u64) -> Self {
        let is_overdue = case.is_overdue(now_unix_ms);
        Self { variant: variant.to_owned(), case: case.clone(), state, is_overdue }
    }
}

/// Which cases are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaseFilter {
    pub state: Option<CaseState>,
    pub campaign: Option<String>,
    pub variant: Option<String>,
}

impl CaseFilter {
    pub(super) fn names(&self, variant: &str) -> bool {
        let campaign = variant.split_once('/').map_or(variant, |(campaign, _)| campaign);
        self.campaign.as_deref().is_none_or(|it| it == campaign)
            && self.variant.as_deref().is_none_or(|it| it == variant)
    }
}

impl ReviewDesk {
    /// What is live in another cut than the slot's own is shown no more.
    fn of_cut(&self, variant: &str, case: &Case, at: CaseState) -> CaseState {
        of_cut(&self.catalog.load(), variant, case, at)
    }

    #[must_use]
    pub fn case(&self, id: u64) -> Option<ShownCase> {
        let state = self.log.published().load();
        let (variant, case) = state.reviews().case(id)?;
        let now = now_unix_ms();
        let at = self.of_cut(variant, case, state.reviews().state(variant, case, now));
        Some(ShownCase::of(variant, case, at, now))
    }

    /// Cases behind a number, at most so many, in the order in which they came.
    #[must_use]
    pub fn cases(&self, filter: &CaseFilter, after: Option<u64>, count_max: usize) -> Vec<ShownCase> {
        let state = self.log.published().load();
        let now = now_unix_ms();
        let is_behind = |case: &Case| after.is_none_or(|it| case.id > it);
        let all = state.reviews().each(now).filter(|(_, case, _)| is_behind(case));
        let all = all.filter(|(variant, _, _)| filter.names(variant));
        let all = all.map(|(variant, case, at)| (variant, case, self.of_cut(variant, case, at)));
        let all = all.filter(|(_, _, at)| filter.state.is_none_or(|it| it == *at));
        let mut found: Vec<(&str, &Case, CaseState)> = all.collect();
        found.sort_unstable_by_key(|(_, case, _)| case.id);
        let found = found.into_iter().take(count_max);
        found.map(|(variant, case, at)| ShownCase::of(variant, case, at, now)).collect()
    }

    /// The cases of a variant's picture, the newest first.
    #[must_use]
    pub fn cases_of(&self, picture: &str) -> Vec<ShownCase> {
        let state = self.log.published().load();
        let (reviews, now) = (state.reviews(), now_unix_ms());
        let at = |case: &Case| self.of_cut(picture, case, reviews.state(picture, case, now));
        let shown = |case: &Case| ShownCase::of(picture, case, at(case), now);
        reviews.of(picture).iter().rev().map(shown).collect()
    }

    /// Seeds of a variant's drawings that were put before reviewers, as its manifest draws them and its slot cuts them now.
    #[must_use]
    pub fn seeds_of(&self, variant: &Variant) -> Vec<u32> {
        let state = self.log.published().load();
        let is_now = |case: &&Case| {
            let seed = case.drawn.seed.and_then(|seed| variant.with_seed(seed));
            case.is_of_cut(&variant.cut) && seed.is_some_and(|candidate| candidate.recipe.id() == case.recipe)
        };
        state.reviews().of(&variant.picture).iter().filter(is_now).filter_map(|case| case.drawn.seed).collect()
    }

    /// How many of a picture's cases await a decision.
    #[must_use]
    pub fn undecided(&self, picture: &str) -> usize {
        let state = self.log.published().load();
        state.reviews().of(picture).iter().filter(|case| case.verdict == Verdict::NeedsReview).count()
    }

    /// What makes the picture of a case the manifest's own choice, where it is another seed's: lines of TOML to commit.
    #[must_use]
    pub fn patch(&self, shown: &ShownCase) -> Option<String> {
        let variant = self.own_want(&shown.variant, "").ok()?.variant;
        let seed = shown.case.drawn.seed?;
        let is_candidate = shown.case.recipe != variant.recipe.id()
            && variant.with_seed(seed).is_some_and(|candidate| candidate.recipe.id() == shown.case.recipe);
        is_candidate.then(|| patch_of(&shown.variant, seed))
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let state = self.log.published().load();
        let (mut counts, mut overdue, now) = ([0; CaseState::ALL.len()], 0, now_unix_ms());
        let catalog = self.catalog.load();
        for (variant, case, at) in state.reviews().each(now) {
            counts[of_cut(&catalog, variant, case, at) as usize] += 1;
            overdue += i64::from(case.is_overdue(now));
        }
        self.metrics.overdue.set(overdue);
        for (at, count) in CaseState::ALL.into_iter().zip(counts) {
            self.metrics.cases.with_label_values(&[at.as_str()]).set(count);
        }
    }
}

fn of_cut(catalog: &Catalog, variant: &str, case: &Case, at: CaseState) -> CaseState {
    let Some(cut) = case.cut.as_deref().filter(|_| at == CaseState::Live) else { return at };
    let path = variant.split_once('?').map_or(variant, |(path, _)| path);
    let slot = path.split_once('/').and_then(|(campaign, slot)| {
        let campaign = catalog.campaign(campaign)?;
        Some(&campaign.slots[campaign.slot_index(slot)?])
    });
    match slot {
        Some(slot) if slot.cut_words() != cut => CaseState::Superseded,
        _ => at,
    }
}

/// The name of a picture is `campaign/slot?axis=value&…`.
fn patch_of(picture: &str, seed: u32) -> String {
    let (path, values) = picture.split_once('?').unwrap_or((picture, ""));
    let slot = path.split_once('/').map_or(path, |(_, slot)| slot);
    format!("[slots.{slot}.seeds]\n\"{values}\" = {seed}\n")
}
