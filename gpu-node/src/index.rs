//! The index of perceptual hashes: exact, in memory, one contiguous run per scope.
//!
//! A search looks at every hash of its scope (32 bytes each, in order: [`crate::hamming`]), so every
//! pair within the threshold is found. The truth is the store; the index is rebuilt from it at start.

use std::collections::HashMap;

use bildkante_shared::ids::MasterId;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::DedupScope;

use crate::hamming::{Words, within, words};

/// BLAKE3-128 of a scope's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeKey(pub [u8; 16]);

/// BLAKE3-128 of a scope's and a variant's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VariantKey(pub [u8; 16]);

/// Both keys of a wire scope. The scope's length goes first, so that no two pairs of names share a key.
#[must_use]
pub(crate) fn keys(dedup: &DedupScope) -> (ScopeKey, VariantKey) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(dedup.scope.len() as u64).to_le_bytes());
    hasher.update(dedup.scope.as_bytes());
    let scope = first_half(&hasher.finalize());
    hasher.update(dedup.variant.as_bytes());
    (ScopeKey(scope), VariantKey(first_half(&hasher.finalize())))
}

fn first_half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// A master in a scope, as one variant's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub master: MasterId,
    pub variant: VariantKey,
    pub created_unix_ms: u64,
}

/// An entry within the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Near {
    pub distance: u32,
    pub entry: Entry,
}

/// Hashes by scope.
#[derive(Debug, Default)]
pub(crate) struct Index {
    scopes: HashMap<ScopeKey, ScopeEntries>,
}

/// Hashes and entries at equal positions.
#[derive(Debug, Default)]
struct ScopeEntries {
    hashes: Vec<Words>,
    entries: Vec<Entry>,
}

impl Index {
    /// Adds a master; one the scope has already is left as it is.
    pub(crate) fn insert(&mut self, scope: ScopeKey, hash: PerceptualHash, entry: Entry) {
        let scope = self.scopes.entry(scope).or_default();
        if scope.entries.iter().all(|known| known.master != entry.master) {
            scope.hashes.push(words(hash));
            scope.entries.push(entry);
        }
    }

    /// Adds entries whose uniqueness the caller vouches for: the store's keys.
    pub(crate) fn insert_unique(&mut self, scope: ScopeKey, hash: PerceptualHash, entry: Entry) {
        let scope = self.scopes.entry(scope).or_default();
        scope.hashes.push(words(hash));
        scope.entries.push(entry);
    }

    pub(crate) fn remove(&mut self, scope: ScopeKey, master: MasterId) {
        let Some(found) = self.scopes.get_mut(&scope) else { return };
        if let Some(place) = found.entries.iter().position(|entry| entry.master == master) {
            found.hashes.swap_remove(place);
            found.entries.swap_remove(place);
        }
        if found.entries.is_empty() {
            self.scopes.remove(&scope);
        }
    }

    /// Every entry of the scope within `distance_max` that is not `variant`'s own: nearest first, then oldest.
    #[must_use]
    pub(crate) fn near(
        &self,
        scope: ScopeKey,
        variant: VariantKey,
        hash: PerceptualHash,
        distance_max: u32,
    ) -> Vec<Near> {
        let Some(scope) = self.scopes.get(&scope) else { return Vec::new() };
        let found = within(&scope.hashes, &words(hash), distance_max).into_iter();
        let found = found.map(|(at, distance)| Near { distance, entry: scope.entries[at] });
        let mut near: Vec<Near> = found.filter(|near| near.entry.variant != variant).collect();
        near.sort_by_key(|near| (near.distance, near.entry.created_unix_ms, *near.entry.master.as_bytes()));
        near
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(scope: &str, variant: &str) -> (ScopeKey, VariantKey) {
        keys(&DedupScope { scope: scope.into(), variant: variant.into() })
    }

    fn hash_with(bits: &[usize]) -> PerceptualHash {
        let mut bytes = [0; 32];
        for bit in bits {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
        PerceptualHash::from_bytes(bytes)
    }

    fn entry(n: u8, variant: VariantKey) -> Entry {
        Entry { master: MasterId::from_raw([n; 16]), variant, created_unix_ms: u64::from(n) }
    }

    #[test]
    fn names_cannot_be_shifted_between_scope_and_variant() {
        assert_ne!(named("ab", "c").1, named("a", "bc").1);
        assert_eq!(named("a", "b").0, named("a", "c").0);
    }

    #[test]
    fn other_variants_of_the_scope_are_found_nearest_first_and_nothing_else() {
        let (scope, red) = named("studio/hero@1", "red");
        let (other_scope, teal) = named("studio/teaser@1", "teal");
        let mut index = Index::default();
        index.insert(scope, hash_with(&[1, 2, 3]), entry(3, teal));
        index.insert(scope, hash_with(&[1]), entry(2, teal));
        index.insert(scope, hash_with(&[]), entry(4, red));
        index.insert(scope, hash_with(&[1, 2, 3, 4, 5]), entry(5, teal));
        index.insert(other_scope, hash_with(&[]), entry(6, teal));
        let found = index.near(scope, red, hash_with(&[]), 4);
        let found: Vec<_> = found.iter().map(|near| (near.distance, near.entry.master.as_bytes()[0])).collect();
        assert_eq!(found, [(1, 2), (3, 3)]);
    }

    #[test]
    fn a_removed_master_is_not_found_and_its_neighbours_are() {
        let (scope, red) = named("s", "red");
        let (_, teal) = named("s", "teal");
        let mut index = Index::default();
        for n in 1..=3 {
            index.insert(scope, hash_with(&[usize::from(n)]), entry(n, teal));
        }
        index.remove(scope, MasterId::from_raw([1; 16]));
        let found: Vec<_> = index.near(scope, red, hash_with(&[]), 8).iter().map(|n| n.entry.master).collect();
        assert_eq!(found, [2, 3].map(|n| MasterId::from_raw([n; 16])));
        index.remove(scope, MasterId::from_raw([2; 16]));
        index.remove(scope, MasterId::from_raw([3; 16]));
        assert!(index.scopes.is_empty());
    }

    proptest! {
        #[test]
        fn every_pair_within_the_threshold_is_found(
            hashes in prop::collection::vec(prop::array::uniform32(0u8..4), 1..40),
            query in prop::array::uniform32(0u8..4),
            distance_max in 0u32..64,
        ) {
            let (scope, mine) = named("s", "mine");
            let (_, theirs) = named("s", "theirs");
            let mut index = Index::default();
            let query = PerceptualHash::from_bytes(query);
            let mut expected = 0;
            for (n, bytes) in hashes.iter().enumerate() {
                let hash = PerceptualHash::from_bytes(*bytes);
                let naive: u32 = bytes.iter().zip(query.to_bytes()).map(|(a, b)| (a ^ b).count_ones()).sum();
                expected += usize::from(naive <= distance_max);
                index.insert(scope, hash, entry(u8::try_from(n).unwrap(), theirs));
            }
            prop_assert_eq!(index.near(scope, mine, query, distance_max).len(), expected);
        }
    }
}
