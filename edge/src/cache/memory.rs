//! Renditions in memory: what nearly every request is answered from.
//!
//! Owns a `moka` cache (W-TinyLFU: one pass of a crawler does not flush what is popular) weighed in bytes. It is
//! used without moka's initialisers, whose fills die with their caller; `flight` does that part. Looking up takes
//! no lock and copies nothing but a pointer.

use std::sync::Arc;

use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::key::{ContentHasherBuilder, RenditionKey};
use super::metrics::{LookupOutcome, TierMetrics};
use super::rendition::Rendition;

/// What an entry costs beyond its body: moka's nodes, counters and timers (about 300 bytes), the rendition itself,
/// and a prepared header map of some twenty fields (about 3.5 kB: 104 bytes a bucket, 32 buckets, their strings).
const OVERHEAD_BYTES: u32 = 4096;

/// Renditions by key, bounded in bytes.
#[derive(Debug)]
pub struct MemoryTier {
    cache: Cache<RenditionKey, Arc<Rendition>, ContentHasherBuilder>,
    metrics: Arc<TierMetrics>,
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    Stored,
    /// A rendition of a better rung or of a later purge generation was there and stays.
    KeptBetter,
    /// What it was made from is no longer valid.
    Overtaken,
}

impl MemoryTier {
    #[must_use]
    pub fn new(bytes_max: u64, metrics: Arc<TierMetrics>) -> Self {
        let listener = Arc::clone(&metrics);
        let cache = Cache::builder()
            .name("renditions")
            .max_capacity(bytes_max)
            .weigher(|_, rendition: &Arc<Rendition>| weight(rendition))
            .eviction_listener(move |_, rendition: Arc<Rendition>, cause| departed(&listener, &rendition, cause))
            .build_with_hasher(ContentHasherBuilder::default());
        Self { cache, metrics }
    }

    /// The hit path.
    #[must_use]
    pub fn get(&self, key: RenditionKey) -> Option<Arc<Rendition>> {
        let found = self.cache.get(&key);
        self.metrics.looked_up(if found.is_some() { LookupOutcome::Hit } else { LookupOutcome::Absent });
        found
    }

    /// What is there, without counting as a look-up.
    #[must_use]
    pub fn glance(&self, key: RenditionKey) -> Option<Arc<Rendition>> {
        self.cache.get(&key)
    }

    /// Whether the key is there, without counting as a use or a look-up.
    #[must_use]
    pub fn contains(&self, key: RenditionKey) -> bool {
        self.cache.contains_key(&key)
    }

    /// Puts `rendition` under `key` unless a better one is there already; one atomic step per key.
    pub fn insert(&self, key: RenditionKey, rendition: Arc<Rendition>) -> Insertion {
        self.insert_if(key, rendition, |_| true)
    }

    /// The same while `is_valid` says so, asked within the key's own step: a fill that an invalidation overtook
    /// puts nothing back. An invalidation between that question and the insertion is caught by the caller that looks up
    /// and compares [`Rendition::generation`]; asking here keeps dead bytes from taking room.
    pub fn insert_if(
        &self,
        key: RenditionKey,
        rendition: Arc<Rendition>,
        is_valid: impl FnOnce(&Rendition) -> bool,
    ) -> Insertion {
        let bytes = u64::from(weight(&rendition));
        // Counted before it is visible: the listener may subtract it at any moment after.
        self.metrics.entered(bytes);
        let mut outcome = Insertion::Stored;
        self.cache.entry(key).and_compute_with(|present| {
            if !is_valid(&rendition) {
                outcome = Insertion::Overtaken;
            } else if present.is_some_and(|present| !rendition.precedence().may_replace(present.value().precedence())) {
                outcome = Insertion::KeptBetter;
            } else {
                return Op::Put(rendition);
            }
            Op::Nop
        });
        if outcome != Insertion::Stored {
            self.metrics.left(bytes);
        }
        outcome
    }

    pub fn remove(&self, key: RenditionKey) {
        self.cache.invalidate(&key);
    }

    /// Lets moka catch up with evictions it does lazily; for tests and gauges that must be exact.
    pub fn settle(&self) {
        self.cache.run_pending_tasks();
    }
}

fn weight(rendition: &Rendition) -> u32 {
    u32::try_from(rendition.body.len()).unwrap_or(u32::MAX).saturating_add(OVERHEAD_BYTES)
}

fn departed(metrics: &TierMetrics, rendition: &Rendition, cause: RemovalCause) {
    metrics.left(u64::from(weight(rendition)));
    if cause.was_evicted() {
        metrics.evicted();
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::CacheMetrics;
    use super::super::rendition::testing::rendition;
    use super::*;
    use crate::render::Rung;

    fn tier(bytes_max: u64) -> (MemoryTier, Arc<TierMetrics>) {
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().memory;
        (MemoryTier::new(bytes_max, Arc::clone(&metrics)), metrics)
    }

    fn key(n: u32) -> RenditionKey {
        let hash = blake3::hash(&n.to_le_bytes());
        RenditionKey::from_raw(hash.as_bytes()[..16].try_into().unwrap())
    }

    #[test]
    fn a_final_takes_the_place_of_a_quick_one_and_never_the_reverse() {
        let (tier, metrics) = tier(1 << 20);
        let rung = |n| tier.get(key(n)).map(|found| found.rung);
        assert_eq!(tier.insert(key(1), Arc::new(rendition(b"q", Rung::Quick))), Insertion::Stored);
        assert_eq!(tier.insert(key(1), Arc::new(rendition(b"ff", Rung::Final))), Insertion::Stored);
        assert_eq!(tier.insert(key(1), Arc::new(rendition(b"q", Rung::Quick))), Insertion::KeptBetter);
        assert_eq!(rung(1), Some(Rung::Final));
        tier.settle();
        assert_eq!((metrics.entries(), metrics.bytes()), (1, 2 + i64::from(OVERHEAD_BYTES)));
        assert_eq!(metrics.evictions(), 0, "a replacement is no eviction");
    }

    #[test]
    fn bytes_from_before_an_invalidation_never_replace_bytes_from_after_it() {
        let (tier, metrics) = tier(1 << 20);
        let at = |generation, rung| {
            let mut rendition = rendition(b"body", rung);
            rendition.generation = generation;
            Arc::new(rendition)
        };
        assert_eq!(tier.insert(key(1), at(4, Rung::Final)), Insertion::Stored);
        assert_eq!(tier.insert(key(1), at(5, Rung::Quick)), Insertion::Stored);
        assert_eq!(tier.insert(key(1), at(4, Rung::Final)), Insertion::KeptBetter);
        // A fill that began at generation 4 lands after everything up to 5 was invalidated and removed.
        tier.remove(key(1));
        let is_valid = |rendition: &Rendition| rendition.generation >= 5;
        assert_eq!(tier.insert_if(key(1), at(4, Rung::Final), is_valid), Insertion::Overtaken);
        assert!(!tier.contains(key(1)));
        assert_eq!(tier.insert_if(key(1), at(5, Rung::Quick), is_valid), Insertion::Stored);
        tier.settle();
        assert_eq!(metrics.entries(), 1);
    }

    #[test]
    fn bytes_stay_under_the_cap_and_the_gauges_agree_with_moka() {
        let cap = 64 * u64::from(OVERHEAD_BYTES);
        let (tier, metrics) = tier(cap);
        for n in 0..5_000 {
            tier.insert(key(n), Arc::new(rendition(&vec![0; (n % 9000) as usize], Rung::Final)));
        }
        tier.settle();
        let bytes = u64::try_from(metrics.bytes()).unwrap();
        assert!(bytes <= cap, "{bytes} > {cap}");
        assert_eq!(bytes, tier.cache.weighted_size());
        assert_eq!(u64::try_from(metrics.entries()).unwrap(), tier.cache.entry_count());
        assert!(metrics.evictions() > 4_000);
    }

    #[test]
    fn a_body_larger_than_the_cap_is_not_kept() {
        let (tier, metrics) = tier(10_000);
        tier.insert(key(1), Arc::new(rendition(&[0; 20_000], Rung::Final)));
        tier.settle();
        assert!(!tier.contains(key(1)));
        assert_eq!(metrics.bytes(), 0);
    }

    #[test]
    fn removal_is_seen_at_once_and_counted() {
        let (tier, metrics) = tier(1 << 20);
        tier.insert(key(1), Arc::new(rendition(b"x", Rung::Quick)));
        tier.remove(key(1));
        assert!(tier.get(key(1)).is_none());
        tier.settle();
        assert_eq!((metrics.entries(), metrics.bytes()), (0, 0));
    }

    #[test]
    fn concurrent_writers_never_lose_the_final_rung() {
        let (tier, metrics) = tier(1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let tier = &tier;
                scope.spawn(move || {
                    for n in 0..200 {
                        let rung = if thread == 3 && n == 50 { Rung::Final } else { Rung::Quick };
                        tier.insert(key(7), Arc::new(rendition(&[thread], rung)));
                    }
                });
            }
        });
        assert_eq!(tier.get(key(7)).map(|found| found.rung), Some(Rung::Final));
        tier.settle();
        assert_eq!(metrics.entries(), 1);
    }
}
