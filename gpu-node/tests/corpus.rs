//! The short form of `make fuzz`: every file of the node's seed corpora, and deterministic mutations of it, through the entry
//! points that the fuzz targets call.

#[path = "../../tests/fuzz/replay.rs"]
mod replay;

use bildkante_gpu_node::fuzzing::TARGETS;

/// Of each file.
const MUTATIONS: u32 = 150;

#[test]
fn every_corpus_file_and_its_mutations_are_read_or_refused() {
    replay::replay(&TARGETS, MUTATIONS);
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    replay::is_complete(&TARGETS);
}
