//! The end-to-end harness: a real edge and a real node on sockets of their own, in one process.
//!
//! No test waits by sleeping: conditions are polled against a deadline, and servers say when they are ready.

pub mod axe;
pub mod browser;
pub mod client;
pub mod documents;
pub mod h2;
pub mod judge;
pub mod pki;
pub mod proxy;
pub mod raw;
pub mod rig;
pub mod schema;
pub mod tls;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bildkante_gpu_node::config::NodeConfig;

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Puts fixtures of tiny networks under one roof beside the node's data, where the node looks for models.
///
/// # Panics
/// When a link cannot be made.
pub fn models_of(config: &mut NodeConfig, fixtures: &[&str]) {
    let models = config.data_dir.with_file_name("models");
    if !models.exists() {
        std::fs::create_dir(&models).expect("a folder");
        for fixture in fixtures {
            let from = repository().join("gpu-node/fixtures").join(fixture);
            symlink(&from, models.join(from.file_name().unwrap_or_default())).expect("a link to a fixture");
        }
    }
    config.models_dir = models;
}

/// A program of this workspace, from the folder this test was built into.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let folder =
        std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned).context("a target folder")?;
    let path = folder.join(name);
    anyhow::ensure!(path.is_file(), "{} is not built: run `cargo build -p {name}` or `make test`", path.display());
    Ok(path)
}
