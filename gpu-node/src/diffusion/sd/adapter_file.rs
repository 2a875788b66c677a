//! What a file of a node's `adapters` folder is: LoRA matrices, or words of textual inversion. Its tensors' names say it.

use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::Digest;

use super::adapters::{Adapter, LoraError};
use super::inversion::{Inversion, InversionError};
use crate::diffusion::weights::safetensors_file::SafetensorsFile;

/// Why a file cannot be used, or not with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Inversion(#[from] InversionError),
}

/// A file that was read. Devices share it.
#[derive(Debug, Clone)]
pub enum AdapterFile {
    Lora(Arc<Adapter>),
    Inversion(Arc<Inversion>),
}

impl AdapterFile {
    /// # Errors
    /// When it cannot be read, is of no kind that is known, or is malformed.
    pub fn load(path: &Path) -> Result<Self, AdapterError> {
        let file = SafetensorsFile::open(path).map_err(LoraError::from)?;
        if Inversion::is_in(file.entries().keys()) {
            return Ok(Self::Inversion(Arc::new(Inversion::load(path)?)));
        }
        Ok(Self::Lora(Arc::new(Adapter::load(path)?)))
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Lora(adapter) => adapter.digest(),
            Self::Inversion(words) => words.digest(),
        }
    }

    /// What it weighs, about, in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Lora(adapter) => adapter.bytes(),
            Self::Inversion(words) => words.bytes(),
        }
    }

    /// What it is, as errors call it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Lora(_) => "a LoRA",
            Self::Inversion(_) => "textual inversion",
        }
    }
}
