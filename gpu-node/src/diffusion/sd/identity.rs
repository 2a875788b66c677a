//! What every file of an `adapters` folder has, whether it holds matrices, words or an IP-Adapter: name, digest and weight.

use bildkante_shared::ids::Digest;

use crate::diffusion::weights::safetensors_file::SafetensorsFile;

/// One such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file's name without its extension, as errors say it.
    pub name: String,
    /// How recipes name it.
    pub digest: Digest,
    /// What it weighs, about, where it is loaded.
    pub bytes: u64,
}

impl Identity {
    pub(super) fn of(file: &SafetensorsFile) -> Self {
        let name = file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, digest: Digest::of_bytes(file.bytes()), bytes: file.bytes().len() as u64 }
    }
}
