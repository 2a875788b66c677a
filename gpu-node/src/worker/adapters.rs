//! The adapters of a folder, and the networks with them: found at start, loaded when a recipe first asks for one, kept
//! within bounds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::LoraUse;
use bildkante_shared::wire::AdapterInfo;

use super::EngineError;
use crate::diffusion::Checkpoint;
use crate::diffusion::checkpoint::Trunk;
use crate::diffusion::lora::Adapter;

/// Files looked at in the folder.
const ADAPTERS_MAX: usize = 1024;
/// Adapters kept loaded, in bytes of their files; one more is always let in.
const LOADED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Sets of networks kept put together. Each holds its adapters' matrices on the device and shares everything else.
const TRUNKS_MAX: usize = 8;

/// Networks for one checkpoint and adapters with weights, the weights bit by bit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TrunkKey {
    checkpoint: Digest,
    loras: Vec<(Digest, u64)>,
}

impl TrunkKey {
    fn new(checkpoint: Digest, loras: &[LoraUse]) -> Self {
        Self { checkpoint, loras: loras.iter().map(|lora| (lora.digest, lora.weight.to_bits())).collect() }
    }
}

/// What a folder held.
#[derive(Debug, Default)]
pub(super) struct Found {
    files: BTreeMap<Digest, PathBuf>,
    rejected: Vec<String>,
}

/// What adapters there are, and those in use.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    found: Found,
    /// The last one used comes last, here and below.
    loaded: Vec<Arc<Adapter>>,
    trunks: Vec<(TrunkKey, Trunk)>,
}

/// Reads every safetensors file of `folder` once, for its digest and whether it can be used. A folder that is not there
/// holds none.
pub(super) fn find(folder: &Path) -> Result<Found, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", folder.display()) };
    let mut found = Found::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > ADAPTERS_MAX {
        let reason = format!("{} holds more than {ADAPTERS_MAX} adapters", folder.display());
        return Err(EngineError::Load { reason });
    }
    for path in paths {
        match Adapter::load(&path) {
            Ok(adapter) => {
                found.files.insert(adapter.digest(), path);
            }
            Err(error) => found.rejected.push(error.to_string()),
        }
    }
    Ok(found)
}

impl Adapters {
    /// Offers what was found instead of what was there before.
    pub(super) fn update(&mut self, found: Found) {
        self.loaded.retain(|adapter| found.files.contains_key(&adapter.digest()));
        let is_there = |(digest, _): &(Digest, u64)| found.files.contains_key(digest);
        self.trunks.retain(|(key, _)| key.loras.iter().all(is_there));
        self.found = found;
    }

    /// Lets go of a checkpoint's networks.
    pub(super) fn forget(&mut self, checkpoint: Digest) {
        self.trunks.retain(|(key, _)| key.checkpoint != checkpoint);
    }

    /// Lets go of everything that is loaded; it is read again when it is asked for.
    pub(super) fn free(&mut self) {
        self.trunks.clear();
        self.loaded.clear();
    }

    pub(super) fn infos(&self) -> Vec<AdapterInfo> {
        let name = |path: &Path| path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        self.found.files.iter().map(|(digest, path)| AdapterInfo { name: name(path), digest: *digest }).collect()
    }

    pub(super) fn rejected(&self) -> &[String] {
        &self.found.rejected
    }

    /// The checkpoint's networks with these adapters.
    pub(super) fn trunk(&mut self, checkpoint: &Checkpoint, loras: &[LoraUse]) -> Result<&Trunk, EngineError> {
        let key = TrunkKey::new(checkpoint.digest(), loras);
        if let Some(at) = self.trunks.iter().position(|(known, _)| *known == key) {
            let trunk = self.trunks.remove(at);
            self.trunks.push(trunk);
        } else {
            let weighted = loras.iter().map(|lora| Ok((self.adapter(lora.digest)?, lora.weight)));
            let weighted = weighted.collect::<Result<Vec<_>, EngineError>>()?;
            let refused = |error: &dyn std::error::Error| EngineError::Refused { reason: error.to_string() };
            let trunk = checkpoint.adapted(&weighted).map_err(|error| refused(&error))?;
            if self.trunks.len() >= TRUNKS_MAX {
                let _oldest = self.trunks.remove(0);
            }
            self.trunks.push((key, trunk));
        }
        let newest = self.trunks.last().map(|(_, trunk)| trunk);
        newest.ok_or_else(|| EngineError::Failed { reason: "the adapted networks were lost".into() })
    }

    fn adapter(&mut self, digest: Digest) -> Result<Arc<Adapter>, EngineError> {
        if let Some(at) = self.loaded.iter().position(|adapter| adapter.digest() == digest) {
            let adapter = self.loaded.remove(at);
            self.loaded.push(Arc::clone(&adapter));
            return Ok(adapter);
        }
        let path = self.found.files.get(&digest).ok_or(EngineError::Missing(digest))?;
        let failed = |reason| EngineError::Failed { reason };
        let adapter = Arc::new(Adapter::load(path).map_err(|error| failed(error.to_string()))?);
        if adapter.digest() != digest {
            return Err(failed(format!("{} is not what it was when the node started", path.display())));
        }
        self.loaded.push(Arc::clone(&adapter));
        while self.loaded.len() > 1 && self.loaded.iter().map(|adapter| adapter.bytes()).sum::<u64>() > LOADED_BYTES_MAX
        {
            let _oldest = self.loaded.remove(0);
        }
        Ok(adapter)
    }
}
