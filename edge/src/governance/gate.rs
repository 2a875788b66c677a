//! The one gate that every picture passes on its way out: memory, disk, finished answers, stand-ins, what is checked by
//! `/verify`, and what is about to be drawn.
//!
//! Whoever shows a picture holds a [`Cleared`], and only the gate makes one. It is asked behind the last wait of an answer, so
//! that a picture which was killed while a reader waited for it is not shown either. Finished answers of the front map are not
//! asked again: they lapse with the epoch, which each published state advances.
//!
//! Invariant: the gate reads one published state and the clock, and nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::import::MasterRecipe;
use moka::sync::Cache;
use prometheus::{IntCounterVec, Opts, Registry};

use crate::cache::{Binding, Lqips, unix_ms};
use crate::campaign::Variant;
use crate::campaign::manifest::OnStaleState;
use crate::origin::IMPORT_MAKER;
use crate::resolve::{Audience, Decided, Want};
use crate::shared_state::{Case, Drawn, Facts, Published, Reason, State};

/// Pairs of recipes that are remembered.
const KNOWN_MAX: u64 = 100_000;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    published: Published,
    withheld: IntCounterVec,
    /// Whether a decided recipe is the manifest's but for its seed, by both ids: it follows from them.
    known: Cache<(RecipeId, RecipeId), bool>,
}

/// How long what is shown of a variant stays so, and who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceStanding {
    /// When something else is shown by itself.
    pub changes_unix_ms: Option<u64>,
    /// Of the state that decided it, where people decide.
    pub epoch: Option<u64>,
}

impl PlaceStanding {
    /// Whole seconds until something else is shown: no cache keeps the answer longer.
    #[must_use]
    pub fn left_s(self) -> Option<u32> {
        let left_ms = self.changes_unix_ms?.saturating_sub(now_unix_ms());
        Some(u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX))
    }
}

/// A picture may be shown. It is worth no longer than the answer it was asked for.
#[derive(Debug)]
pub struct Cleared(());

/// A picture is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is withheld by the state of epoch {epoch}: {}", reason.as_str())]
pub struct Withheld {
    pub reason: Reason,
    pub epoch: u64,
}

impl Cleared {
    /// A palette image shows no picture.
    #[must_use]
    pub const fn placeholder() -> Self {
        Self(())
    }
}

impl Gate {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(published: Published, registry: &Registry) -> prometheus::Result<Self> {
        let withheld = IntCounterVec::new(
            Opts::new("bildkante_edge_withheld_total", "Times a picture was not shown or not made, by reason"),
            &["reason"],
        )?;
        registry.register(Box::new(withheld.clone()))?;
        for reason in ["killed", "parts-unknown", "state-stale", "awaiting-decision", "rights-ended"] {
            withheld.with_label_values(&[reason]);
        }
        Ok(Self { published, withheld, known: Cache::new(KNOWN_MAX) })
    }

    /// Whether what is wanted may be shown, or made: with its master where that is known.
    ///
    /// # Errors
    /// Why it may not.
    pub fn clear(&self, want: &Want, master: Option<MasterId>) -> Result<Cleared, Withheld> {
        self.ask(&want.variant, &wanted_facts(want, master), want.audience)
    }

    /// Whether [`Self::clear`] would clear it. For what tells of a picture and shows none: nothing is counted as withheld.
    ///
    /// # Errors
    /// Why it would not.
    pub fn would_clear(&self, want: &Want, master: Option<MasterId>) -> Result<(), Withheld> {
        let state = self.published.load();
        match self.against(&state, &want.variant, &wanted_facts(want, master), want.audience) {
            None => Ok(()),
            Some(reason) => Err(Withheld { reason, epoch: state.epoch() }),
        }
    }

    /// What readers of a variant are shown: what was decided, where people decide about it, else the variant's own picture.
    ///
    /// # Errors
    /// When nothing is live.
    pub fn place(&self, want: Want) -> Result<Want, Withheld> {
        self.would_place(want).inspect_err(|withheld| self.count(withheld.reason))
    }

    /// The same without counting what is withheld: as [`Self::would_clear`].
    ///
    /// # Errors
    /// When nothing is live.
    pub fn would_place(&self, want: Want) -> Result<Want, Withheld> {
        if !want.variant.review.is_required() || want.audience == Audience::Reviewers {
            return Ok(want);
        }
        let state = self.published.load();
        let Some(case) = live(&state, &want.variant, now_unix_ms()) else {
            return Err(Withheld { reason: Reason::Awaiting, epoch: state.epoch() });
        };
        let ids = (want.variant.recipe.id(), case.recipe);
        let is_known = self.known.get_with(ids, || is_of_manifest(&want.variant, case));
        let decided = decided_as(&want, case, is_known);
        Ok(want.of_decided(decided))
    }

    /// What an answer with this picture has to say: asked behind the last wait.
    #[must_use]
    pub fn standing(&self, want: &Want) -> PlaceStanding {
        let ends_unix_ms = want.variant.rights_end.as_ref().map(|end| end.unix_s.saturating_mul(1_000));
        if !want.variant.review.is_required() {
            return PlaceStanding { changes_unix_ms: ends_unix_ms, epoch: None };
        }
        let state = self.published.load();
        let next = state.reviews().next_change_unix_ms(&want.variant.picture, now_unix_ms());
        PlaceStanding { changes_unix_ms: [next, ends_unix_ms].into_iter().flatten().min(), epoch: Some(state.epoch()) }
    }

    /// The same for a picture that the variant had under another recipe.
    ///
    /// # Errors
    /// Why it may not.
    pub fn clear_former(&self, variant: &Variant, recipe: RecipeId, binding: &Binding) -> Result<Cleared, Withheld> {
        let parts = binding.parts.as_deref();
        let facts = Facts { recipe, parts, ..facts(variant, Some(binding.master)) };
        self.ask(variant, &facts, Audience::Public)
    }

    fn ask(&self, variant: &Variant, facts: &Facts<'_>, audience: Audience) -> Result<Cleared, Withheld> {
        let state = self.published.load();
        match self.against(&state, variant, facts, audience) {
            None => Ok(Cleared(())),
            Some(reason) => {
                self.count(reason);
                Err(Withheld { reason, epoch: state.epoch() })
            }
        }
    }

    /// What speaks against showing it.
    fn against(&self, state: &State, variant: &Variant, facts: &Facts<'_>, audience: Audience) -> Option<Reason> {
        let is_stale = || variant.on_stale_state == OnStaleState::StandIn && self.published.is_stale();
        let reason = state.kills().reason(facts).or_else(|| state.held().reason(facts));
        let reason = reason.or_else(|| is_stale().then_some(Reason::Stale));
        let has_ended = || variant.rights_end.as_ref().is_some_and(|end| end.unix_s <= now_unix_ms() / 1_000);
        let reason = reason.or_else(|| has_ended().then_some(Reason::RightsEnded));
        let is_open = audience == Audience::Reviewers || !variant.review.is_required();
        reason.or_else(|| if is_open { None } else { self.unapproved(state, variant, facts) })
    }

    /// Why a picture that people decide about is not shown. What was approved on an edge that has long heard nothing of its fleet may
    /// have been taken back.
    fn unapproved(&self, state: &State, variant: &Variant, facts: &Facts<'_>) -> Option<Reason> {
        if self.published.is_stale() {
            return Some(Reason::Stale);
        }
        let is_same = |case: &Case| case.recipe == facts.recipe && facts.master.is_none_or(|it| it == case.master);
        (!live(state, variant, now_unix_ms()).is_some_and(is_same)).then_some(Reason::Awaiting)
    }

    fn count(&self, reason: Reason) {
        self.withheld.with_label_values(&[reason.as_str()]).inc();
    }

    /// Whether people want it to have a master of its own, whatever it looks like.
    #[must_use]
    pub fn is_split(&self, variant: &Variant) -> bool {
        self.published.load().splits().of(&variant.picture).is_some()
    }

    #[must_use]
    pub const fn published(&self) -> &Published {
        &self.published
    }
}

/// What people decided for, as many as the manifest asks for now. Of an import and of a drawing other things are said, so neither is
/// shown under the other's name.
fn live<'s>(state: &'s State, variant: &Variant, now_unix_ms: u64) -> Option<&'s Case> {
    let case = state.reviews().live(&variant.picture, &variant.cut, now_unix_ms)?;
    let are_enough = case.approved_by.len() >= usize::from(variant.review.approvers());
    let is_import = matches!(variant.recipe, MasterRecipe::Imported(_));
    let is_of_its_kind = case.recipe == variant.recipe.id() || (case.drawn.node != IMPORT_MAKER && !is_import);
    Some(case).filter(|_| are_enough && is_of_its_kind)
}

fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// The picture of a case, at its variant.
pub(super) fn decided(want: &Want, case: &Case) -> Arc<Decided> {
    decided_as(want, case, is_of_manifest(&want.variant, case))
}

fn decided_as(want: &Want, case: &Case, is_known: bool) -> Arc<Decided> {
    let tags = want.variant.tags.with_recipe(case.recipe);
    let (recipe, seed) = (case.recipe, case.drawn.seed);
    Arc::new(Decided { recipe, is_known, seed, tags, binding: Arc::new(binding(case)) })
}

/// Whether the manifest says all of its recipe but the seed.
fn is_of_manifest(variant: &Variant, case: &Case) -> bool {
    let is_candidate = |seed| variant.with_seed(seed).is_some_and(|candidate| candidate.recipe.id() == case.recipe);
    case.recipe == variant.recipe.id() || case.drawn.seed.is_some_and(is_candidate)
}

/// As a node answered it once. Purges of masters are of no account: what was decided is this master.
fn binding(case: &Case) -> Binding {
    let Drawn { width_px, height_px, phash, node, drawn_unix_s, determinism, parts, .. } = &*case.drawn;
    Binding {
        master: case.master,
        width_px: *width_px,
        height_px: *height_px,
        phash: *phash,
        duplicate: None,
        node: node.clone(),
        created_unix_ms: 0,
        drawn_unix_s: *drawn_unix_s,
        determinism: determinism.clone(),
        device_ms: None,
        generation: u64::MAX,
        parts: Some(Arc::new(parts.clone())),
        lqips: Lqips::default(),
    }
}

/// What is known of what is wanted: of its variant, and of the picture that was decided for.
fn wanted_facts(want: &Want, master: Option<MasterId>) -> Facts<'_> {
    let own = facts(&want.variant, master);
    match &want.decided {
        None => own,
        Some(decided) => Facts { recipe: decided.recipe, parts: decided.binding.parts.as_deref(), ..own },
    }
}

/// What is known of a variant of the catalogue.
pub(super) fn facts(variant: &Variant, master: Option<MasterId>) -> Facts<'_> {
    let (slot, values) = variant.name.split_once('?').unwrap_or((&variant.name, ""));
    let campaign = slot.split_once('/').map_or(slot, |(campaign, _)| campaign);
    let recipe = variant.recipe.id();
    Facts { campaign, slot, values, recipe, master, parts: Some(Arc::as_ref(&variant.parts)) }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::shared_state::State;
    use crate::words::Epoch;

    impl Gate {
        /// Over a state of nothing.
        pub(crate) fn open() -> Self {
            let published = Published::new(State::empty("test".into()), Epoch::default());
            Self::new(published, &Registry::new()).unwrap()
        }
    }
}
