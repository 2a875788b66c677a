//! Every hash within a distance of one: a scan that counts bits with the widest instructions that the processor has.
//!
//! The build's baseline has no instruction that counts bits. The scan is compiled for AVX2, too, and the processor is asked once
//! for each scan. `make bench-dedup` compares it with faiss.

use archmage::prelude::*;
use bildkante_shared::phash::PerceptualHash;

/// A hash as words: counted four at a time.
pub type Words = [u64; 4];

/// A hash within the distance: its position, and how far it is.
pub type Match = (usize, u32);

#[must_use]
pub fn words(hash: PerceptualHash) -> Words {
    let bytes = hash.to_bytes();
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

/// The matches by rising position.
#[must_use]
pub fn within(hashes: &[Words], of: &Words, distance_max: u32) -> Vec<Match> {
    incant!(scan(hashes, of, distance_max), [v3, scalar])
}

#[arcane]
fn scan_v3(_: X64V3Token, hashes: &[Words], of: &Words, distance_max: u32) -> Vec<Match> {
    collected(hashes, of, distance_max)
}

fn scan_scalar(_: ScalarToken, hashes: &[Words], of: &Words, distance_max: u32) -> Vec<Match> {
    collected(hashes, of, distance_max)
}

/// Compiled once for each caller's instructions.
#[inline(always)]
fn collected(hashes: &[Words], of: &Words, distance_max: u32) -> Vec<Match> {
    /// Distances that are counted before any is looked at: no branch stands between them.
    const BLOCK: usize = 64;
    let mut found = Vec::new();
    for (block, hashes) in hashes.chunks(BLOCK).enumerate() {
        let mut distances = [u32::MAX; BLOCK];
        for (distance, hash) in distances.iter_mut().zip(hashes) {
            *distance = (0..4).map(|word| (hash[word] ^ of[word]).count_ones()).sum();
        }
        if distances.iter().all(|distance| *distance > distance_max) {
            continue;
        }
        let near = distances.iter().enumerate().filter(|(_, distance)| **distance <= distance_max);
        found.extend(near.map(|(at, distance)| (block * BLOCK + at, *distance)));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_scan_finds_what_one_by_one_is_found(
            hashes in prop::collection::vec(prop::array::uniform32(any::<u8>()), 0..300),
            flips in prop::collection::vec(0usize..256, 0..60),
            distance_max in 0u32..140,
        ) {
            // Hashes of chance are far apart: one that is near is made of the first.
            let mut of = hashes.first().copied().unwrap_or([7; 32]);
            for bit in flips {
                of[bit / 8] ^= 1 << (bit % 8);
            }
            let of = PerceptualHash::from_bytes(of);
            let hashes: Vec<_> = hashes.into_iter().map(PerceptualHash::from_bytes).collect();
            let distances = hashes.iter().map(|hash| hash.distance(of)).enumerate();
            let expected: Vec<Match> = distances.filter(|(_, distance)| *distance <= distance_max).collect();
            let words: Vec<Words> = hashes.iter().map(|hash| words(*hash)).collect();
            prop_assert_eq!(&within(&words, &super::words(of), distance_max), &expected);
            prop_assert_eq!(&collected(&words, &super::words(of), distance_max), &expected);
        }
    }
}
