//! Masters that were decoded of late: pixels in memory, bounded in bytes, the least recently used going first.
//!
//! A master is cut more than once within a short time: a page asks for several widths of it, and a final file follows each quick one.
//! Decoding takes as long as many a rendition does. What is here was compared with its id, and an id names pixels, so
//! nothing here goes out of date.

use std::sync::Arc;

use bildkante_shared::ids::MasterId;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::masters::VerifiedMaster;
use super::metrics::{LookupOutcome, TierMetrics};

/// See the module's documentation.
#[derive(Debug)]
pub struct DecodedMasters {
    /// `None` where none is to be kept: without capacity moka takes nothing in, and does not say so.
    masters: Option<Cache<MasterId, Arc<VerifiedMaster>>>,
    metrics: Arc<TierMetrics>,
}

impl DecodedMasters {
    /// Keeps none where `bytes_max` is 0.
    pub(super) fn new(bytes_max: u64, metrics: Arc<TierMetrics>) -> Self {
        let masters = (bytes_max > 0).then(|| Self::cache(bytes_max, Arc::clone(&metrics)));
        Self { masters, metrics }
    }

    fn cache(bytes_max: u64, listener: Arc<TierMetrics>) -> Cache<MasterId, Arc<VerifiedMaster>> {
        Cache::builder()
            .name("decoded masters")
            .max_capacity(bytes_max)
            .weigher(|_, master: &Arc<VerifiedMaster>| weight(master))
            .eviction_listener(move |_, master: Arc<VerifiedMaster>, cause| {
                listener.left(weight(&master).into());
                if cause == RemovalCause::Size {
                    listener.evicted();
                }
            })
            // How often a master was wanted before says nothing of its next minute.
            .eviction_policy(EvictionPolicy::lru())
            .build()
    }

    #[must_use]
    pub fn get(&self, id: MasterId) -> Option<Arc<VerifiedMaster>> {
        let master = self.masters.as_ref()?.get(&id);
        self.metrics.looked_up(if master.is_some() { LookupOutcome::Hit } else { LookupOutcome::Absent });
        master
    }

    pub fn keep(&self, master: &Arc<VerifiedMaster>) {
        let Some(masters) = &self.masters else { return };
        // Counted before it is visible: the listener may subtract it at any moment after.
        self.metrics.entered(weight(master).into());
        masters.insert(master.id(), Arc::clone(master));
    }

    /// Lets moka catch up with what it does lazily.
    #[cfg(test)]
    fn settled(&self) -> u64 {
        let Some(masters) = &self.masters else { return 0 };
        masters.run_pending_tasks();
        masters.entry_count()
    }
}

fn weight(master: &VerifiedMaster) -> u32 {
    u32::try_from(master.png().len() + master.pixels().rgb().len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use bildkante_shared::pixels::Pixels;

    use super::super::masters::MasterFile;
    use super::super::metrics::CacheMetrics;
    use super::*;

    /// Of some 12 kB.
    fn master(shade: u8) -> Arc<VerifiedMaster> {
        let pixels = Pixels::new(64, 64, vec![shade; 64 * 64 * 3]).expect("a small picture");
        let file = MasterFile { id: pixels.master_id(), png: vec![0; 64].into() };
        Arc::new(file.verify(|_| Ok::<_, std::convert::Infallible>(pixels.clone())).expect("its own pixels"))
    }

    fn decoded(bytes_max: u64) -> DecodedMasters {
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).expect("an empty registry");
        DecodedMasters::new(bytes_max, metrics.decoded)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let decoded = decoded(30_000);
        let (one, two, three) = (master(1), master(2), master(3));
        decoded.keep(&one);
        decoded.keep(&two);
        assert_eq!(decoded.settled(), 2);
        assert!(decoded.get(one.id()).is_some());
        decoded.keep(&three);
        assert_eq!(decoded.settled(), 2);
        assert!(decoded.get(two.id()).is_none() && decoded.get(three.id()).is_some());
        let metrics = &decoded.metrics;
        assert_eq!((metrics.lookups(LookupOutcome::Hit), metrics.lookups(LookupOutcome::Absent)), (2, 1));
        assert_eq!((decoded.settled(), metrics.entries(), metrics.evictions()), (2, 2, 1));
        assert_eq!(metrics.bytes(), i64::from(weight(&one) + weight(&three)));
    }

    #[test]
    fn without_room_none_is_kept() {
        let decoded = decoded(0);
        decoded.keep(&master(1));
        assert_eq!((decoded.settled(), decoded.metrics.bytes()), (0, 0));
    }
}
