//! Which master a recipe has: the one decision about duplicates, and every answer from the store.
//!
//! Rules. A duplicate is looked for among masters of *other variants in the same scope*, and only for a
//! variant's *first* recipe in that scope: an edited or reseeded recipe of a variant always gets its own master.
//! A decision holds for (recipe, scope): the same recipe asked for in another scope is decided anew there, so that
//! nothing is ever merged across scopes. A later recipe of a variant is answered as if it had no scope: no decision
//! taken for another variant's sake reaches it. Decisions that may depend on each other are taken in the order of arrival
//! ([`crate::arrivals`]): "older" is well defined. All others are taken side by side, and as many pictures are compared at once
//! as there is room for ([`Confirming`]).

use std::sync::Arc;
use std::time::Instant;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::{DedupScope, Determinism, Duplicate, MasterInfo};
use parking_lot::{Condvar, Mutex};

use crate::arrivals::{Arrival, Arrivals};
use crate::config::DedupConfig;
use crate::dedup::{self, Fingerprint};
use crate::index;
use crate::metrics::NodeMetrics;
use crate::store::{Binding, MasterFile, MasterRow, NewBinding, Place, Store, StoreError, decode_png};

/// A recipe's master, as it stands in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    pub master: MasterInfo,
    pub duplicate: Option<Duplicate>,
    /// Of the master's drawing, which may be older than the request.
    pub determinism: Determinism,
}

/// A settlement, and how long deciding about duplicates took.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    pub settlement: Settlement,
    pub dedup_ms: f64,
}

/// What became of a candidate for a duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Merged,
    OtherChroma,
    OtherPixels,
    /// The bound of confirmations was reached before it.
    NotCompared,
}

impl Comparison {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::OtherChroma => "other_chroma",
            Self::OtherPixels => "other_pixels",
            Self::NotCompared => "not_compared",
        }
    }
}

/// The store, and the decisions taken over it.
#[derive(Debug)]
pub struct Archive {
    store: Arc<Store>,
    config: DedupConfig,
    arrivals: Arc<Arrivals>,
    confirming: Confirming,
    metrics: Arc<NodeMetrics>,
}

/// Room for comparisons of pixels: each keeps a core busy, and the devices' threads need some.
#[derive(Debug)]
struct Confirming {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Confirming {
    fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { free: Mutex::new((cores / 2).max(1)), freed: Condvar::new() }
    }

    fn run<T>(&self, compare: impl FnOnce() -> T) -> T {
        /// Given back also by a defect.
        struct Held<'c>(&'c Confirming);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                *self.0.free.lock() += 1;
                self.0.freed.notify_one();
            }
        }
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        drop(free);
        let _held = Held(self);
        compare()
    }
}

impl Archive {
    #[must_use]
    pub fn new(store: Arc<Store>, config: DedupConfig, metrics: Arc<NodeMetrics>) -> Self {
        Self { store, config, arrivals: Arc::default(), confirming: Confirming::new(), metrics }
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A recipe's settlement, if there is one; its master's file has been read and checked. Blocks on disk.
    ///
    /// # Errors
    /// When the store fails.
    pub fn find(&self, recipe: RecipeId, dedup: Option<&DedupScope>) -> Result<Option<Settled>, StoreError> {
        let place = self.place(recipe, dedup)?;
        if let Some((binding, file)) = self.bound(recipe, place)? {
            // The master is known even if the variant's row cannot be written: the next request tries again. While nothing can
            // be stored the write is not tried, because each failing commit opens the database anew and all its readers wait.
            if let Some(place) = place.filter(|_| self.store.trouble().is_none())
                && let Err(error) = self.remember_variant(recipe, place, &binding)
            {
                log_limited!(warn, %recipe, %error, "the variant's first recipe is not remembered");
            }
            let settlement = settlement(binding.master, &file.row, binding.duplicate);
            return Ok(Some(Settled { settlement, dedup_ms: 0.0 }));
        }
        if place.is_some()
            && let Some((_, file)) = self.bound(recipe, None)?
        {
            let pixels = decode_png(&file.png)?;
            let arrival = self.arrive(recipe, dedup);
            return self.settle(&arrival, &pixels, &file.row.determinism).map(Some);
        }
        Ok(None)
    }

    /// Gives a picture its place in the order of decisions.
    #[must_use]
    pub fn arrive(&self, recipe: RecipeId, dedup: Option<&DedupScope>) -> Arrival {
        self.arrivals.enter(recipe, dedup.filter(|_| self.config.enabled).cloned())
    }

    /// Decides what a freshly drawn master is in a scope, stores and binds it. Blocks on disk, for the decisions that this one
    /// depends on, and computes. The arrival is that of this recipe and scope.
    ///
    /// # Errors
    /// When the store fails; nothing is bound then.
    pub fn settle(&self, arrival: &Arrival, pixels: &Pixels, determinism: &Determinism) -> Result<Settled, StoreError> {
        let (started, recipe, dedup) = (Instant::now(), arrival.recipe(), arrival.dedup());
        let print = Fingerprint::of(pixels);
        arrival.wait(print.phash, self.config.luma_distance_max);
        let place = self.place(recipe, dedup)?;
        let found = match place {
            Some(place) => self.duplicate(place, pixels, &print)?,
            None => None,
        };
        let spent = started.elapsed();
        self.metrics.dedup_seconds.observe(spent.as_secs_f64());
        let settlement = if let Some((id, row, duplicate)) = found {
            let binding = Binding { master: id, duplicate: Some(duplicate.clone()) };
            self.store.bind(&[NewBinding { recipe, binding, place }])?;
            self.merged(recipe, dedup, settlement(id, &row, Some(duplicate)))
        } else {
            let binding = Binding { master: pixels.master_id(), duplicate: None };
            // It is the recipe's own master in any scope.
            let anywhere = place.map(|_| NewBinding { recipe, binding: binding.clone(), place: None });
            let bindings: Vec<_> = [NewBinding { recipe, binding, place }].into_iter().chain(anywhere).collect();
            let master = self.store.put(pixels, &print, determinism, &bindings)?;
            Settlement { master, duplicate: None, determinism: determinism.clone() }
        };
        Ok(Settled { settlement, dedup_ms: spent.as_secs_f64() * 1e3 })
    }

    /// Where duplicates may be looked for: nowhere for a variant's second recipe.
    fn place(&self, recipe: RecipeId, dedup: Option<&DedupScope>) -> Result<Option<Place>, StoreError> {
        let Some(dedup) = dedup.filter(|_| self.config.enabled) else { return Ok(None) };
        let (scope, variant) = index::keys(dedup);
        let is_first = self.store.variant_recipe(variant)?.is_none_or(|first| first == recipe);
        Ok(is_first.then_some(Place { scope, variant }))
    }

    fn bound(&self, recipe: RecipeId, place: Option<Place>) -> Result<Option<(Binding, MasterFile)>, StoreError> {
        let Some(binding) = self.store.binding(recipe, place.map(|place| place.scope))? else { return Ok(None) };
        Ok(self.store.read(binding.master)?.map(|file| (binding, file)))
    }

    /// Several variants may share a recipe (a locale that changes no word): each of them remembers its first recipe.
    fn remember_variant(&self, recipe: RecipeId, place: Place, binding: &Binding) -> Result<(), StoreError> {
        if self.store.variant_recipe(place.variant)?.is_some() {
            return Ok(());
        }
        self.store.bind(&[NewBinding { recipe, binding: binding.clone(), place: Some(place) }])
    }

    fn duplicate(
        &self,
        place: Place,
        pixels: &Pixels,
        print: &Fingerprint,
    ) -> Result<Option<(MasterId, MasterRow, Duplicate)>, StoreError> {
        let mut confirmations = 0;
        for near in self.store.near(place, print.phash, self.config.luma_distance_max) {
            let id = near.entry.master;
            let Some(chroma) = self.store.chroma(id)?.map(|grid| print.chroma.distance(&grid)) else { continue };
            if !chroma.is_within(&self.config) {
                self.count(Comparison::OtherChroma);
                continue;
            }
            if confirmations == self.config.confirmations_max {
                self.count(Comparison::NotCompared);
                break;
            }
            confirmations += 1;
            let Some(file) = self.store.read(id)? else { continue };
            let known = decode_png(&file.png)?;
            match self.confirming.run(|| dedup::likeness(&known, pixels)) {
                Some(likeness) if likeness.is_at_least(self.config.ssimulacra2_min) => {
                    self.count(Comparison::Merged);
                    let of = pixels.master_id();
                    let (distance, chroma_distance, ssimulacra2) = (near.distance, chroma.mean, likeness.score);
                    return Ok(Some((id, file.row, Duplicate { of, distance, chroma_distance, ssimulacra2 })));
                }
                _ => self.count(Comparison::OtherPixels),
            }
        }
        Ok(None)
    }

    fn count(&self, comparison: Comparison) {
        self.metrics.duplicate_candidates_total.with_label_values(&[comparison.as_str()]).inc();
    }

    fn merged(&self, recipe: RecipeId, dedup: Option<&DedupScope>, settlement: Settlement) -> Settlement {
        self.metrics.duplicates_merged_total.inc();
        if let (Some(dedup), Some(duplicate)) = (dedup, &settlement.duplicate) {
            log_limited!(
                info,
                %recipe, scope = dedup.scope, variant = dedup.variant, master = %settlement.master.id, of = %duplicate.of,
                distance = duplicate.distance, chroma_distance = duplicate.chroma_distance,
                ssimulacra2 = duplicate.ssimulacra2, "duplicate merged"
            );
        }
        settlement
    }
}

fn settlement(id: MasterId, row: &MasterRow, duplicate: Option<Duplicate>) -> Settlement {
    Settlement { master: row.info(id), duplicate, determinism: row.determinism.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{database_path, failing};

    /// On a full disk what is stored is still answered, for a variant too whose first recipe cannot be written down; it is
    /// remembered once there is space.
    #[test]
    fn a_full_disk_keeps_no_stored_answer_back() {
        let dir = tempfile::tempdir().unwrap();
        let database = database_path(dir.path());
        let metrics = Arc::new(NodeMetrics::new().unwrap());
        let store = Arc::new(failing::open(dir.path(), Arc::clone(&metrics)));
        let archive = Archive::new(Arc::clone(&store), DedupConfig::default(), metrics);
        let recipe = RecipeId::from_raw([1; 16]);
        let of = |variant: &str| DedupScope { scope: "studio/hero@1".into(), variant: variant.into() };
        let (first, second) = (of("de"), of("en"));
        let pixels = Pixels::new(8, 8, (0..192).collect()).unwrap();
        let drawn = Determinism { class: "test".into(), device: "none".into(), runtime: "none".into() };
        let settled = archive.settle(&archive.arrive(recipe, Some(&first)), &pixels, &drawn).unwrap();

        failing::fill(&database);
        let find = || archive.find(recipe, Some(&second)).unwrap().unwrap().settlement;
        assert_eq!(find(), settled.settlement);
        assert!(store.trouble().is_some(), "it tried to remember the variant");

        // No read tries to write again before a trial write has succeeded.
        failing::free(&database);
        let variant = index::keys(&second).1;
        assert_eq!((find(), store.variant_recipe(variant).unwrap()), (settled.settlement.clone(), None));
        store.look_after();
        assert_eq!((find(), store.variant_recipe(variant).unwrap()), (settled.settlement, Some(recipe)));
    }
}
