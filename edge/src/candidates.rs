//! Candidates: a variant's picture drawn with other seeds, for people to choose from.
//!
//! ```text
//! order ─▶ one variant per seed ─▶ Fill::settle_patiently ─▶ ReviewDesk::submit ─▶ a case per candidate ─▶ approve: it is live
//!                                                                                                       └▶ a patch: it is the manifest's
//! ```
//!
//! A candidate is its own recipe with its own id, master and case, drawn like any other picture: the node computes the text and
//! what ControlNets make of images once for all of them, and may draw them in shared passes. What is chosen is a pointer of the
//! shared state; `seeds` of the slot makes it the manifest's own choice.
//!
//! Invariants: candidates are for pictures that people decide about, and none is public before they do; those under way are bounded;
//! what a restart ends is asked for again by who wants it, because nothing was promised but a picture before reviewers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use crate::campaign::{CatalogHandle, Variant};
use crate::fill::Fill;
use crate::governance::ReviewDesk;
use crate::resolve::{self, Want};

/// Candidates of one order.
pub const ORDER_MAX: usize = 16;
/// Pictures of one variant that await a decision, at most: a case's place is for ever, and those of decided ones are needed too.
pub(crate) const UNDECIDED_MAX: usize = 24;
/// Candidates under way on this edge.
const OPEN_MAX: usize = 64;
/// Orders that are known by their keys.
const KEYS_MAX: usize = 1_000;
/// Failures that are kept for a variant, the last ones.
const FAILURES_MAX: usize = ORDER_MAX;
/// Variants whose failures are kept.
const VARIANTS_MAX: usize = 1_000;

/// Which seeds are drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seeds {
    These(BTreeSet<u32>),
    /// So many that are not there yet: those behind the manifest's own.
    Further(usize),
}

/// Where a candidate is that no reviewer has before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    Drawing,
    /// Why there is none.
    Failed(String),
}

/// One candidate on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub seed: u32,
    pub recipe: RecipeId,
    pub progress: Progress,
}

impl Trial {
    fn is_drawing(&self) -> bool {
        self.progress == Progress::Drawing
    }
}

/// Why no candidate is drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CandidatesError {
    #[error("`{0}` is no variant of a campaign")]
    NoVariant(String),
    #[error("pictures of `{0}` are not reviewed: candidates are for slots with `review = \"required\"`")]
    NotReviewed(String),
    #[error("no model draws `{0}`: its pictures are imported")]
    NotDrawn(String),
    #[error("{0} pictures of this variant await a decision or are being drawn: decide about some of them first")]
    Undecided(usize),
    #[error("an order with this key was another one")]
    KeyReused,
    #[error("{OPEN_MAX} candidates are under way on this edge: wait for some of them")]
    Full,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CandidateDesk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalog: CatalogHandle,
    fill: Arc<Fill>,
    reviews: ReviewDesk,
    /// By the names of pictures.
    trials: Mutex<BTreeMap<String, Vec<Trial>>>,
    /// Keys of the last orders, with what was ordered.
    keys: Mutex<VecDeque<(String, (String, Seeds))>>,
    ended: IntCounterVec,
    open: IntGauge,
}

impl CandidateDesk {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(
        catalog: CatalogHandle,
        fill: Arc<Fill>,
        reviews: ReviewDesk,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let ended = IntCounterVec::new(
            Opts::new("bildkante_edge_candidates_total", "Candidates that were asked of this edge, by how they ended"),
            &["outcome"],
        )?;
        let open = IntGauge::new("bildkante_edge_candidates_open", "Candidates that are being drawn")?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(open.clone()))?;
        for outcome in ["submitted", "failed"] {
            ended.with_label_values(&[outcome]);
        }
        let (trials, keys) = (Mutex::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { catalog, fill, reviews, trials, keys, ended, open }) })
    }

    /// As [`Self::order`]; an order whose key this edge knows draws nothing more.
    ///
    /// # Errors
    /// As it, and when the key was another order's.
    pub fn order_once(
        &self,
        variant: &str,
        seeds: Seeds,
        key: Option<String>,
    ) -> Result<(String, Vec<Trial>), CandidatesError> {
        let Some(key) = key else { return self.order(variant, seeds) };
        let ordered = (self.meant(variant)?, seeds.clone());
        let mut keys = self.inner.keys.lock();
        match keys.iter().find(|(known, _)| *known == key) {
            Some((_, known)) if *known == ordered => return self.trials(variant),
            Some(_) => return Err(CandidatesError::KeyReused),
            None => {}
        }
        let begun = self.order(variant, seeds)?;
        if keys.len() >= KEYS_MAX {
            keys.pop_front();
        }
        keys.push_back((key, ordered));
        Ok(begun)
    }

    /// Has candidates drawn for a variant (`campaign/slot?axis=value&…`). Those that are there or under way are not drawn
    /// twice. Answers at once, with the name of the variant's picture and all that is under way for it.
    ///
    /// # Errors
    /// When there is nothing to choose for this variant, or too much is under way.
    pub fn order(&self, variant: &str, seeds: Seeds) -> Result<(String, Vec<Trial>), CandidatesError> {
        let want = self.want(variant)?;
        let variant = Arc::clone(&want.variant);
        if !variant.review.is_required() {
            return Err(CandidatesError::NotReviewed(variant.name.clone()));
        }
        let own = variant.drawn_seed().ok_or_else(|| CandidatesError::NotDrawn(variant.name.clone()))?;
        let mut trials = self.inner.trials.lock();
        let known = self.known(&variant, trials.get(&variant.picture));
        let seeds: Vec<u32> = match seeds {
            Seeds::These(seeds) => seeds.into_iter().filter(|seed| !known.contains(seed)).collect(),
            Seeds::Further(count) => further(own, &known, count),
        };
        if drawing(&trials) + seeds.len() > OPEN_MAX {
            return Err(CandidatesError::Full);
        }
        let under_way =
            trials.get(&variant.picture).map_or(0, |of_picture| of_picture.iter().filter(|it| it.is_drawing()).count());
        let open = self.inner.reviews.undecided(&variant.picture) + under_way;
        if open + seeds.len() > UNDECIDED_MAX {
            return Err(CandidatesError::Undecided(open));
        }
        make_room(&mut trials);
        let of_picture = trials.entry(variant.picture.clone()).or_default();
        // What failed before is told no more once it is tried again.
        of_picture.retain(Trial::is_drawing);
        for seed in seeds {
            let Some(candidate) = variant.with_seed(seed).map(Arc::new) else { continue };
            of_picture.push(Trial { seed, recipe: candidate.recipe.id(), progress: Progress::Drawing });
            self.inner.open.inc();
            tokio::spawn(Arc::clone(&self.inner).draw(want.of_variant(candidate).for_reviewers(), seed));
        }
        Ok((variant.picture.clone(), of_picture.clone()))
    }

    /// What is under way for a variant's picture, and what failed.
    ///
    /// # Errors
    /// When there is no such variant.
    pub fn trials(&self, variant: &str) -> Result<(String, Vec<Trial>), CandidatesError> {
        let picture = self.want(variant)?.variant.picture.clone();
        let trials = self.inner.trials.lock().get(&picture).cloned().unwrap_or_default();
        Ok((picture, trials))
    }

    /// The variant that a text means, by its whole name.
    ///
    /// # Errors
    /// When there is no such variant.
    pub fn meant(&self, variant: &str) -> Result<String, CandidatesError> {
        Ok(self.want(variant)?.variant.name.clone())
    }

    fn want(&self, variant: &str) -> Result<Want, CandidatesError> {
        let want = resolve::want_named(&self.inner.catalog.load(), variant, "");
        want.map_err(|_| CandidatesError::NoVariant(variant.chars().take(200).collect()))
    }

    /// Seeds whose pictures are before reviewers, or on their way there.
    fn known(&self, variant: &Variant, trials: Option<&Vec<Trial>>) -> BTreeSet<u32> {
        let submitted = self.inner.reviews.seeds_of(variant);
        let is_same = |trial: &&Trial| {
            trial.is_drawing() && variant.with_seed(trial.seed).is_some_and(|it| it.recipe.id() == trial.recipe)
        };
        let under_way = trials.into_iter().flatten().filter(is_same);
        submitted.into_iter().chain(under_way.map(|trial| trial.seed)).collect()
    }
}

impl Inner {
    async fn draw(self: Arc<Self>, want: Want, seed: u32) {
        // In a task of its own, so that what breaks there is told as a failure.
        let (inner, wanted) = (Arc::clone(&self), want.clone());
        let task = tokio::spawn(async move { inner.drawn(&wanted).await });
        let result = task.await.unwrap_or_else(|_| Err("the drawing broke down".to_owned()));
        self.open.dec();
        let outcome = if result.is_ok() { "submitted" } else { "failed" };
        self.ended.with_label_values(&[outcome]).inc();
        let mut trials = self.trials.lock();
        let Some(of_picture) = trials.get_mut(&want.variant.picture) else { return };
        match result {
            Ok(()) => of_picture.retain(|trial| trial.seed != seed),
            Err(reason) => {
                tracing::warn!(variant = want.variant.name, seed, reason, "a candidate failed");
                for trial in of_picture.iter_mut().filter(|trial| trial.seed == seed) {
                    trial.progress = Progress::Failed(reason.clone());
                }
            }
        }
        if of_picture.is_empty() {
            trials.remove(&want.variant.picture);
        }
    }

    async fn drawn(&self, want: &Want) -> Result<(), String> {
        self.fill.settle_patiently(want).await.map_err(|error| error.to_string())?;
        let kept = self.fill.kept(want).await.map_err(|error| error.to_string())?;
        let kept = kept.ok_or("it was purged while it was drawn")?;
        let submitted = self.reviews.submit(&want.variant, &kept.binding).await;
        submitted.map_err(|error| format!("it is drawn, and not put before reviewers: {error}"))
    }
}

/// The seeds behind the manifest's own that are not there yet.
fn further(own: u32, known: &BTreeSet<u32>, count: usize) -> Vec<u32> {
    let behind = (1..=u32::MAX).map(|step| own.wrapping_add(step));
    behind.filter(|seed| !known.contains(seed)).take(count).collect()
}

fn drawing(trials: &BTreeMap<String, Vec<Trial>>) -> usize {
    trials.values().flatten().filter(|trial| trial.is_drawing()).count()
}

/// Failures are told for a while and not for ever.
fn make_room(trials: &mut BTreeMap<String, Vec<Trial>>) {
    let has_failed = |trial: &Trial| matches!(trial.progress, Progress::Failed(_));
    if trials.len() >= VARIANTS_MAX {
        trials.retain(|_, of_picture| !of_picture.iter().all(has_failed));
    }
    for of_picture in trials.values_mut() {
        let mut surplus = of_picture.iter().filter(|trial| has_failed(trial)).count().saturating_sub(FAILURES_MAX);
        of_picture.retain(|trial| {
            let goes = surplus > 0 && has_failed(trial);
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_seeds_are_new_ones_behind_the_own() {
        let known = BTreeSet::from([8, 10, 0]);
        assert_eq!(further(7, &known, 3), [9, 11, 12]);
        assert_eq!(further(u32::MAX - 1, &known, 3), [u32::MAX, 1, 2]);
    }

    #[test]
    fn failures_make_room_and_what_is_under_way_stays() {
        let trial = |seed, progress| Trial { seed, recipe: RecipeId::of_bytes(&[1]), progress };
        let failed = |seed| trial(seed, Progress::Failed("no node".to_owned()));
        let of_picture: Vec<Trial> = (0..20).map(failed).chain([trial(99, Progress::Drawing)]).collect();
        let mut trials = BTreeMap::from([("a/hero".to_owned(), of_picture)]);
        make_room(&mut trials);
        let kept: Vec<u32> = trials["a/hero"].iter().map(|trial| trial.seed).collect();
        assert_eq!(kept, (4..20).chain([99]).collect::<Vec<_>>());
        assert_eq!(drawing(&trials), 1);
        for number in 0..VARIANTS_MAX {
            trials.insert(format!("b/{number}"), vec![failed(1)]);
        }
        make_room(&mut trials);
        assert_eq!(trials.keys().collect::<Vec<_>>(), ["a/hero"]);
    }
}
