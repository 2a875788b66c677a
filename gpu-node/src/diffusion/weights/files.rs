//! The weight files of one network in its folder, as a checkpoint's digest chooses them: what is loaded is what counts.

use std::path::{Path, PathBuf};

use bildkante_shared::checkpoint::{WeightFilesError, weights_of};

use crate::diffusion::weights::WeightsError;

/// The weight files of the network in `folder`, whose files are called `stem`.
///
/// # Errors
/// When there is none, or an index is malformed or names files outside of its folder.
pub(crate) fn find(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, WeightsError> {
    match weights_of(folder, stem) {
        Ok(weights) => Ok(weights.files.iter().map(|name| folder.join(name)).collect()),
        Err(WeightFilesError::None { tried }) => Err(WeightsError::NoFile { folder: folder.to_owned(), tried }),
        Err(WeightFilesError::Index { name, reason }) => Err(WeightsError::Index { path: folder.join(name), reason }),
    }
}
