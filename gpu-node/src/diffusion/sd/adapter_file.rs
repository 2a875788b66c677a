//! What a file of a node's `adapters` folder is: LoRA matrices, words of textual inversion, or an
//! IP-Adapter. Its tensors' names say it.

use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::Digest;

use super::adapters::{Adapter, LoraError};
use super::identity::Identity;
use super::inversion::{Inversion, InversionError};
use super::ip_adapter::{IpAdapterError, IpAdapterFile};
use crate::capacity::SeenTokens;
use crate::diffusion::weights::safetensors_file::SafetensorsFile;

/// Why a file cannot be used, or not with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Inversion(#[from] InversionError),
    #[error(transparent)]
    IpAdapter(#[from] IpAdapterError),
}

/// A file that was read. Devices share it.
#[derive(Debug, Clone)]
pub enum AdapterFile {
    Lora(Arc<Adapter>),
    Inversion(Arc<Inversion>),
    IpAdapter(IpAdapterFile),
}

impl AdapterFile {
    /// # Errors
    /// When it cannot be read, is of no kind that is known, or is malformed.
    pub fn load(path: &Path) -> Result<Self, AdapterError> {
        let file = SafetensorsFile::open(path).map_err(LoraError::from)?;
        if IpAdapterFile::is_in(file.entries().keys()) {
            return Ok(Self::IpAdapter(IpAdapterFile::look_at(path)?));
        }
        if Inversion::is_in(file.entries().keys()) {
            return Ok(Self::Inversion(Arc::new(Inversion::load(path)?)));
        }
        Ok(Self::Lora(Arc::new(Adapter::load(path)?)))
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Lora(adapter) => adapter.identity(),
            Self::Inversion(words) => words.identity(),
            Self::IpAdapter(file) => file.identity(),
        }
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        self.identity().digest
    }

    /// What it weighs, about, in the host's memory. An IP-Adapter's tensors are read when they are put onto a device.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        match self {
            Self::Lora(_) | Self::Inversion(_) => self.identity().bytes,
            Self::IpAdapter(_) => 0,
        }
    }

    /// What it makes of a picture and how much it weighs on a device, of an IP-Adapter.
    #[must_use]
    pub const fn reading(&self) -> Option<(SeenTokens, u64)> {
        match self {
            Self::IpAdapter(file) => Some((file.seen(), file.identity().bytes)),
            Self::Lora(_) | Self::Inversion(_) => None,
        }
    }

    /// What it is, as errors call it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Lora(_) => "a LoRA",
            Self::Inversion(_) => "textual inversion",
            Self::IpAdapter(_) => "an IP-Adapter",
        }
    }
}
