//! The end-to-end harness: a real edge and a real node on sockets of their own, in one process.
//!
//! Nothing waits by sleeping: conditions are polled against a deadline, and servers are told when they are ready.

pub mod browser;
pub mod client;
pub mod judge;
pub mod rig;

use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
