//! What was read from the disk's page cache lately: only what is read again soon moves into memory.
//!
//! Such a read costs little, and memory is scarce: letting in what is asked for once would evict, allocate and fill
//! the processor's caches for nothing. So a key's first read leaves a mark, and the second, if no other key has taken the
//! mark's place meanwhile, lets it in (the "doorkeeper" of TinyLFU, Einziger et al. 2017, §3.4.2, with room for about as
//! many keys as memory has renditions). A lost or a false mark costs a read or an insertion, never a wrong byte.
//!
//! A key takes another's place every second time only, at random. If it always did, two keys of one place that are asked for
//! in turn would take each other's mark for ever, and neither would enter memory: of 100,000 keys asked in a circle a third.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use super::key::RenditionKey;

/// A usual rendition: memory of so many bytes has room for one.
const RENDITION_BYTES: u64 = 16 << 10;
const MARKS_MIN: u64 = 64;
const MARKS_MAX: u64 = 1 << 20;

thread_local! {
    /// Of a xorshift generator (Marsaglia 2003): an even coin without a lock.
    static COIN: Cell<u32> = const { Cell::new(0x9e37_79b9) };
}

fn is_heads() -> bool {
    COIN.with(|coin| {
        let mut state = coin.get();
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        coin.set(state);
        state >> 31 == 1
    })
}

#[derive(Debug)]
pub(super) struct Doorkeeper {
    /// A power of two of them, by a part of the key; each holds another part.
    marks: Box<[AtomicU32]>,
}

impl Doorkeeper {
    pub(super) fn new(memory_bytes_max: u64) -> Self {
        let count = (memory_bytes_max / RENDITION_BYTES).clamp(MARKS_MIN, MARKS_MAX).next_power_of_two();
        Self { marks: (0..count).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Whether this key was here shortly before.
    pub(super) fn has_met(&self, key: RenditionKey) -> bool {
        // The key is a hash: any of its bytes are as good as random.
        let [.., a, b, c, d, e, f, g, h] = *key.as_bytes();
        let at = u32::from_le_bytes([a, b, c, d]) as usize & (self.marks.len() - 1);
        let mark = u32::from_le_bytes([e, f, g, h]);
        let place = &self.marks[at];
        let found = place.load(Ordering::Relaxed);
        if found != mark && (found == 0 || is_heads()) {
            place.store(mark, Ordering::Relaxed);
        }
        found == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> RenditionKey {
        let mut raw = [0; 16];
        raw.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
        RenditionKey::from_raw(raw)
    }

    #[test]
    fn the_second_visit_is_recognised_and_a_long_crawl_is_not() {
        let keeper = Doorkeeper::new(1 << 20);
        assert_eq!(keeper.marks.len(), 64);
        assert!(!keeper.has_met(key(1)));
        assert!(keeper.has_met(key(1)));
        let recognised = (0..10_000).chain(0..10_000).filter(|number| keeper.has_met(key(*number))).count();
        assert!(recognised < 100, "{recognised}");
    }

    /// As a bench or a page that cycles through its pictures asks: more than half of these keys share a place.
    #[test]
    fn keys_of_one_place_asked_in_turn_are_all_recognised_before_long() {
        let keeper = Doorkeeper::new(1 << 24);
        let mut waiting: Vec<u64> = (0..1_024).collect();
        assert_eq!(keeper.marks.len(), waiting.len());
        for _ in 0..64 {
            waiting.retain(|number| !keeper.has_met(key(*number)));
        }
        assert!(waiting.is_empty(), "{} of 1,024 never enter", waiting.len());
    }
}
