//! The words both sides of Bildkante speak.
//!
//! Owns the recipe and its canonical form, the ids, the wire types between edge and node, the limits both
//! enforce, the perceptual hash, durable file writes, logging, what commands print, and shutdown. It serves nothing, draws nothing
//! and encodes nothing: no HTTP server, no torch, no image codecs.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod adapter;
pub mod checkpoint;
pub mod console;
pub mod descriptors;
pub mod durable;
pub mod exif;
pub mod ids;
pub mod import;
pub mod limits;
pub mod log_limit;
pub mod phash;
pub mod pixels;
pub mod problem;
pub mod process;
pub mod recipe;
pub mod shutdown;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod urgency;
pub mod weighting;
pub mod wire;
