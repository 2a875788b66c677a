//! The node's rooms, from the top to the bottom: each may use those below it and none above it, so they form no circle.
//!
//! A new module takes its place in this list. One that finds none (it needs rooms above and is needed below) is two modules.

use std::path::Path;

use bildkante_shared::testing::rooms::rooms;

/// A request's way down, then what its stations stand on.
const ORDER: &[&str] = &[
    "fuzzing",
    "commands",
    // What is asked, and what is decided about it.
    "server",
    "api",
    "candidates",
    "progress",
    "drawer",
    "admission",
    // The threads, which take from the board what admission put there.
    "worker",
    "worker::device",
    "worker::executor",
    "worker::settle",
    "worker::bench",
    "worker::torch",
    "board",
    "turns",
    "queue",
    "pace",
    // What lasts.
    "blobs",
    "archive",
    "arrivals",
    "endings",
    "store",
    "dedup",
    "index",
    "hamming",
    "health",
    // What draws: the trait, then the families of models and what they share.
    "engine",
    "diffusion",
    "diffusion::family",
    "diffusion::sd",
    "diffusion::pipeline",
    "diffusion::batch",
    "diffusion::denoiser",
    "diffusion::determinism",
    "diffusion::vision",
    "diffusion::loading",
    "diffusion::text",
    "diffusion::vae",
    "diffusion::layers",
    "diffusion::weights",
    "diffusion::error",
    "diffusion::scheduler",
    "diffusion::fields",
    "diffusion::kept",
    "diffusion::trace",
    "diffusion::picture",
    "diffusion::noise",
    "diffusion::choices",
    "diffusion::runtime",
    "diffusion::device",
    "diffusion::dtype",
    "diffusion::fault",
    "capacity",
    "metrics",
    "error",
    "config",
    "tls",
];

#[test]
fn no_room_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let faults: Vec<String> = rooms(&src, ORDER).iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
