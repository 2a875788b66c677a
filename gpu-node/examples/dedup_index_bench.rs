//! Look-ups of hashes within a distance, over many: `make bench-dedup` runs it beside faiss.
//!
//! Prints one line of JSON: the median time of a look-up in milliseconds and how many it found, for each number of hashes.
//! Hashes are those that `gpu-node/bench/dedup.py` makes: a counter through SplitMix64.

use std::time::Instant;

use bildkante_gpu_node::hamming::{Words, within};

/// Look-ups of which the median is told.
const ROUNDS: usize = 21;
/// As `[dedup] luma_distance_max` has it.
const DISTANCE_MAX: u32 = 24;

fn main() {
    let counts = std::env::args().skip(1).map(|count| count.parse().expect("a number of hashes"));
    let mut report = serde_json::Map::new();
    for count in counts {
        let hashes = hashes(count);
        let mut times = Vec::new();
        let mut found = 0;
        for round in 0..ROUNDS {
            // One that is there, with three bits changed.
            let mut query = hashes[round * 7_919 % count];
            query[0] ^= 0b10_0101;
            let started = Instant::now();
            found += within(&hashes, &query, DISTANCE_MAX).len();
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        report.insert(count.to_string(), serde_json::json!({ "median_ms": times[ROUNDS / 2], "found": found }));
    }
    println!("{}", serde_json::Value::Object(report));
}

fn hashes(count: usize) -> Vec<Words> {
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    (0..count).map(|_| [next(), next(), next(), next()]).collect()
}
