//! The real engine: checkpoints of a folder, loaded onto one device, drawn by the pipeline.

use std::fs;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, Determinism};
use tch::Device;

use super::adapters::Adapters;
use super::{Engine, EngineError, EngineFactory};
use crate::config::{DeviceChoice, DtypeChoice, NodeConfig};
use crate::diffusion::pipeline::{self, Adapted, Generated, Models, StepControl};
use crate::diffusion::{Checkpoint, DType, DiffusionError, runtime};

/// Where in `models_dir` adapters are, one safetensors file each.
const ADAPTERS_DIR: &str = "adapters";
/// Folders looked at in `models_dir`.
const CHECKPOINTS_MAX: usize = 256;

/// A factory that loads every checkpoint of `models_dir` on the device thread.
#[must_use]
pub fn torch_engine(config: &NodeConfig) -> EngineFactory {
    let (folder, device, dtype, threads) = (config.models_dir.clone(), config.device, config.dtype, config.threads);
    Box::new(move || Ok(Box::new(TorchEngine::load(&folder, device, dtype, threads)?)))
}

#[derive(Debug)]
struct TorchEngine {
    checkpoints: Vec<Checkpoint>,
    rejected: Vec<String>,
    adapters: Adapters,
}

impl TorchEngine {
    fn load(models: &Path, device: DeviceChoice, dtype: DtypeChoice, threads: u32) -> Result<Self, EngineError> {
        // For operators of this thread, which is the device's.
        runtime::set_threads(threads);
        let mut checkpoints = Vec::new();
        let mut rejected = Vec::new();
        for folder in folders(models)? {
            match Checkpoint::load(&folder, torch_device(device), torch_dtype(dtype)) {
                Ok(checkpoint) => checkpoints.push(checkpoint),
                Err(error) => rejected.push(format!("{}: {error}", folder.display())),
            }
        }
        let adapters = Adapters::find(&models.join(ADAPTERS_DIR))?;
        rejected.extend_from_slice(adapters.rejected());
        Ok(Self { checkpoints, rejected, adapters })
    }

    fn checkpoint(&self, digest: Digest) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.digest() == digest)
    }
}

/// Folders with a `model_index.json`, by name.
fn folders(models: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", models.display()) };
    let mut folders = Vec::new();
    for entry in fs::read_dir(models).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join("model_index.json").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    if folders.len() > CHECKPOINTS_MAX {
        let reason = format!("{} holds more than {CHECKPOINTS_MAX} checkpoints", models.display());
        return Err(EngineError::Load { reason });
    }
    Ok(folders)
}

const fn torch_device(device: DeviceChoice) -> Device {
    match device {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(index) => Device::Cuda(index),
    }
}

const fn torch_dtype(dtype: DtypeChoice) -> DType {
    match dtype {
        DtypeChoice::F32 => DType::F32,
        DtypeChoice::Bf16 => DType::BF16,
        DtypeChoice::F16 => DType::F16,
    }
}

impl Engine for TorchEngine {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let info = |checkpoint: &Checkpoint| CheckpointInfo {
            name: checkpoint.name().to_owned(),
            digest: checkpoint.digest(),
            family: checkpoint.family().as_str().to_owned(),
            ready: true,
        };
        self.checkpoints.iter().map(info).collect()
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.infos()
    }

    fn rejected(&self) -> Vec<String> {
        self.rejected.clone()
    }

    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)> {
        self.checkpoint(checkpoint).map(Checkpoint::native_size_px)
    }

    fn determinism(&self, recipe: &ValidRecipe) -> Determinism {
        match self.checkpoint(recipe.checkpoint) {
            Some(checkpoint) => runtime::determinism(checkpoint, recipe),
            // Nothing is drawn with a checkpoint that is not there.
            None => Determinism { class: String::new(), device: String::new(), runtime: runtime::LIBTORCH.to_owned() },
        }
    }

    fn generate(
        &mut self,
        recipe: &ValidRecipe,
        on_step: &mut dyn FnMut(u32, u32) -> StepControl,
    ) -> Result<Generated, EngineError> {
        let checkpoints = &self.checkpoints;
        let find = |digest| {
            let found = checkpoints.iter().find(|checkpoint| checkpoint.digest() == digest);
            found.ok_or(EngineError::Missing(digest))
        };
        let refiner = recipe.refiner.as_ref().map(|refiner| find(refiner.checkpoint)).transpose()?;
        let checkpoint = find(recipe.checkpoint)?;
        let base = match recipe.loras.as_slice() {
            [] => checkpoint.into(),
            loras => Adapted::new(checkpoint, self.adapters.trunk(checkpoint, loras)?),
        };
        let models = Models { base, refiner: refiner.map(Adapted::from) };
        pipeline::generate(&models, recipe, None, on_step).map_err(engine_error)
    }
}

/// Whose fault it is: a recipe this checkpoint cannot draw is its author's, anything else the node's.
fn engine_error(error: DiffusionError) -> EngineError {
    let (reason, is_refusal) = (error.to_string(), error.is_refusal());
    match error {
        DiffusionError::Cancelled => EngineError::Stopped,
        _ if is_refusal => EngineError::Refused { reason },
        _ => EngineError::Failed { reason },
    }
}
