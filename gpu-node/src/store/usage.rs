//! Which masters are on disk and when each was last used. Eviction goes by it.

use std::collections::{BTreeSet, HashMap};

use bildkante_shared::ids::MasterId;

/// A use is written to the file's time at most this often, so that most reads write nothing.
const USE_GRANULARITY_MS: u64 = 60 * 60 * 1000;

/// Bytes and last use of every master.
#[derive(Debug)]
pub(super) struct Usage {
    masters: HashMap<MasterId, Held>,
    by_use: BTreeSet<(u64, MasterId)>,
    bytes: u64,
    bytes_max: u64,
    masters_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: u64,
    used_unix_ms: u64,
    written_unix_ms: u64,
}

impl Usage {
    pub(super) fn new(bytes_max: u64, masters_max: usize) -> Self {
        Self { masters: HashMap::new(), by_use: BTreeSet::new(), bytes: 0, bytes_max, masters_max }
    }

    pub(super) fn insert(&mut self, id: MasterId, bytes: u64, used_unix_ms: u64) {
        self.remove(id);
        self.masters.insert(id, Held { bytes, used_unix_ms, written_unix_ms: used_unix_ms });
        self.by_use.insert((used_unix_ms, id));
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, id: MasterId) {
        if let Some(held) = self.masters.remove(&id) {
            self.by_use.remove(&(held.used_unix_ms, id));
            self.bytes -= held.bytes;
        }
    }

    /// Notes a use. Whether it should be recorded on disk, too.
    pub(super) fn touch(&mut self, id: MasterId, now_unix_ms: u64) -> bool {
        let Some(held) = self.masters.get_mut(&id) else { return false };
        self.by_use.remove(&(held.used_unix_ms, id));
        held.used_unix_ms = now_unix_ms;
        self.by_use.insert((now_unix_ms, id));
        let is_due = now_unix_ms.saturating_sub(held.written_unix_ms) >= USE_GRANULARITY_MS;
        if is_due {
            held.written_unix_ms = now_unix_ms;
        }
        is_due
    }

    /// The longest unused masters that must go for `incoming_bytes` more to fit, and for the disk to have `wanted_bytes` more
    /// free. Where all of them together do not make so much free, none goes for the disk.
    pub(super) fn victims(&self, incoming_bytes: u64, wanted_bytes: u64) -> Vec<MasterId> {
        let wanted_bytes = if wanted_bytes <= self.bytes { wanted_bytes } else { 0 };
        let mut freed_bytes = 0;
        let mut bytes = self.bytes + incoming_bytes;
        let mut count = self.masters.len() + usize::from(incoming_bytes > 0);
        let mut victims = Vec::new();
        for (_, id) in &self.by_use {
            if bytes <= self.bytes_max && count <= self.masters_max && freed_bytes >= wanted_bytes {
                break;
            }
            let held_bytes = self.masters.get(id).map_or(0, |held| held.bytes);
            bytes -= held_bytes;
            freed_bytes += held_bytes;
            count -= 1;
            victims.push(*id);
        }
        victims
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.masters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MasterId {
        MasterId::from_raw([n; 16])
    }

    #[test]
    fn the_longest_unused_go_until_the_new_one_fits() {
        let mut usage = Usage::new(100, 10);
        for n in 1..=3 {
            usage.insert(id(n), 30, u64::from(n));
        }
        assert!(usage.victims(10, 0).is_empty());
        usage.touch(id(1), 9);
        assert_eq!(usage.victims(11, 0), [id(2)]);
        assert_eq!(usage.victims(50, 0), [id(2), id(3)]);
        assert_eq!(usage.victims(10, 31), [id(2), id(3)]);
        assert!(usage.victims(10, 91).is_empty(), "it would not help");
        usage.remove(id(2));
        assert_eq!(usage.bytes(), 60);
    }

    #[test]
    fn the_count_is_bounded_too() {
        let mut usage = Usage::new(1000, 2);
        usage.insert(id(1), 1, 1);
        usage.insert(id(2), 1, 2);
        assert_eq!(usage.victims(1, 0), [id(1)]);
    }

    #[test]
    fn a_use_is_written_down_once_an_hour() {
        let mut usage = Usage::new(100, 10);
        usage.insert(id(1), 1, 0);
        assert!(!usage.touch(id(1), USE_GRANULARITY_MS - 1));
        assert!(usage.touch(id(1), USE_GRANULARITY_MS));
        assert!(!usage.touch(id(1), USE_GRANULARITY_MS + 1));
        assert!(!usage.touch(id(2), USE_GRANULARITY_MS * 9), "unknown");
    }
}
