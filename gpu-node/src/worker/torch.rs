//! The real engine: checkpoints of a folder, loaded onto one device, drawn by the pipeline.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{InitUse, Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use tch::Device;

use super::adapters::Adapters;
use super::{Engine, EngineError, EngineFactory, Finished, SlotId};
use crate::blobs::Blobs;
use crate::config::{DeterminismChoice, DeviceChoice, DtypeChoice, NodeConfig};
use crate::diffusion::batch::{self, BatchClass, Shapes};
use crate::diffusion::controlnet::ControlNet;
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline::{Adapted, Denoising, Models, Stage};
use crate::diffusion::{Checkpoint, DType, DiffusionError, runtime};

/// Where in `models_dir` adapters are, one safetensors file each.
const ADAPTERS_DIR: &str = "adapters";
/// Folders looked at in `models_dir`.
const CHECKPOINTS_MAX: usize = 256;

/// A factory that loads every checkpoint of `models_dir` on the device thread.
#[must_use]
pub fn torch_engine(config: &NodeConfig) -> EngineFactory {
    let config = config.clone();
    Box::new(move || Ok(Box::new(TorchEngine::load(&config)?)))
}

/// Classes of batches whose shapes are remembered; they are probed anew beyond.
const SHAPES_MAX: usize = 512;

#[derive(Debug)]
struct TorchEngine {
    checkpoints: Vec<Checkpoint>,
    controlnets: Vec<ControlNet>,
    rejected: Vec<String>,
    adapters: Adapters,
    blobs: Blobs,
    requests_max: usize,
    determinism: DeterminismChoice,
    shapes: HashMap<PassKey, Shapes>,
    slots: HashMap<SlotId, Slot>,
    next_slot: u64,
}

/// A request between its text and its picture.
#[derive(Debug)]
struct Slot {
    recipe: Arc<ValidRecipe>,
    denoising: Denoising,
    /// Of the next step; `None` at the end.
    pass: Option<PassKey>,
    /// The number of requests within which its bits are promised, of all passes so far.
    requests: usize,
}

/// What must agree for requests to share a pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PassKey {
    checkpoint: Digest,
    /// Adapters with their weights, bit by bit.
    loras: Vec<(Digest, u64)>,
    /// ControlNets of the recipe; the class says which of them act.
    controls: Vec<Digest>,
    class: BatchClass,
}

impl PassKey {
    fn of(recipe: &ValidRecipe, denoising: &Denoising) -> Result<Option<Self>, DiffusionError> {
        let Some(input) = denoising.next_input()? else { return Ok(None) };
        let (checkpoint, loras) = match (input.stage, &recipe.refiner) {
            (Stage::Refiner, Some(refiner)) => (refiner.checkpoint, Vec::new()),
            _ => (recipe.checkpoint, recipe.loras.iter().map(|lora| (lora.digest, lora.weight.to_bits())).collect()),
        };
        let controls = recipe.controls.iter().map(|control| control.network).collect();
        Ok(Some(Self { checkpoint, loras, controls, class: input.class() }))
    }
}

/// The networks a recipe asks for. Free of the engine's other parts, so that those can be changed beside it.
fn models<'a>(
    checkpoints: &'a [Checkpoint],
    controlnets: &'a [ControlNet],
    adapters: &'a mut Adapters,
    recipe: &ValidRecipe,
) -> Result<Models<Adapted<'a>>, EngineError> {
    let find = |digest| {
        let found = checkpoints.iter().find(|checkpoint| checkpoint.digest() == digest);
        found.ok_or(EngineError::Missing(digest))
    };
    let refiner = recipe.refiner.as_ref().map(|refiner| find(refiner.checkpoint)).transpose()?;
    let checkpoint = find(recipe.checkpoint)?;
    let base = match recipe.loras.as_slice() {
        [] => checkpoint.into(),
        loras => Adapted::new(checkpoint, adapters.trunk(checkpoint, loras)?),
    };
    let controls = recipe.controls.iter().map(|control| {
        let found = controlnets.iter().find(|network| network.digest() == control.network);
        found.ok_or(EngineError::Missing(control.network))
    });
    let base = base.controlled(controls.collect::<Result<Vec<_>, _>>()?);
    Ok(Models { base, refiner: refiner.map(Adapted::from), pictures: Pictures::new() })
}

impl TorchEngine {
    fn load(config: &NodeConfig) -> Result<Self, EngineError> {
        // For operators of this thread, which is the device's.
        runtime::set_threads(config.threads);
        let mut checkpoints = Vec::new();
        let mut controlnets = Vec::new();
        let mut rejected = Vec::new();
        for folder in folders(&config.models_dir)? {
            if ControlNet::is_in(&folder) {
                match ControlNet::load(&folder, torch_device(config.device), torch_dtype(config.dtype)) {
                    Ok(network) => controlnets.push(network),
                    Err(error) => rejected.push(format!("{}: {error}", folder.display())),
                }
                continue;
            }
            match Checkpoint::load(&folder, torch_device(config.device), torch_dtype(config.dtype)) {
                Ok(mut checkpoint) => {
                    checkpoint.set_vae_tiles_px((config.vae_tiles_px > 0).then_some(config.vae_tiles_px));
                    checkpoints.push(checkpoint);
                }
                Err(error) => rejected.push(format!("{}: {error}", folder.display())),
            }
        }
        let adapters = Adapters::find(&config.models_dir.join(ADAPTERS_DIR))?;
        rejected.extend_from_slice(adapters.rejected());
        Ok(Self {
            checkpoints,
            controlnets,
            rejected,
            adapters,
            blobs: Blobs::of(&config.data_dir),
            requests_max: config.batch.requests_max_on(config.device),
            determinism: config.batch.determinism,
            shapes: HashMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
        })
    }

    fn checkpoint(&self, digest: Digest) -> Option<&Checkpoint> {
        self.checkpoints.iter().find(|checkpoint| checkpoint.digest() == digest)
    }

    /// The images a recipe names.
    fn pictures(&self, recipe: &ValidRecipe) -> Result<Pictures, EngineError> {
        let mut pictures = Pictures::new();
        let size_px = (recipe.width_px, recipe.height_px);
        for digest in recipe.images() {
            if let Some((_, picture)) = Picture::to_paint_over(size_px).into_iter().find(|(known, _)| *known == digest)
            {
                pictures.insert(digest, Arc::new(picture));
                continue;
            }
            let failed = |error: &dyn std::error::Error| EngineError::Failed { reason: format!("{digest}: {error}") };
            let bytes = self.blobs.get(digest).map_err(|error| failed(&error))?;
            let bytes = bytes.ok_or(EngineError::Missing(digest))?;
            let picture = Picture::decode(&bytes).map_err(|error| failed(&error))?;
            pictures.insert(digest, Arc::new(picture));
        }
        Ok(pictures)
    }

    fn slot(&self, slot: SlotId) -> Result<&Slot, EngineError> {
        self.slots.get(&slot).ok_or_else(|| EngineError::Failed { reason: format!("no request {}", slot.0) })
    }

    /// Finds out, before the first pass of a kind, how many requests may share it.
    fn probe(&mut self, slot: SlotId) -> Result<(), EngineError> {
        let (recipe, pass, input) = {
            let slot = self.slot(slot)?;
            let input = slot.denoising.next_input().map_err(engine_error)?;
            (Arc::clone(&slot.recipe), slot.pass.clone(), input)
        };
        let (Some(pass), Some(input)) = (pass, input) else { return Ok(()) };
        if self.shapes.contains_key(&pass) {
            return Ok(());
        }
        let shapes = match self.determinism {
            DeterminismChoice::Fast => Shapes::any(self.requests_max),
            DeterminismChoice::Exact => {
                let models = models(&self.checkpoints, &self.controlnets, &mut self.adapters, &recipe)?;
                Shapes::probed(models.at(input.stage), &input, self.requests_max).map_err(engine_error)?
            }
        };
        if self.requests_max > 1 {
            tracing::info!(checkpoint = %pass.checkpoint, class = ?pass.class, ?shapes, "shapes of shared passes");
        }
        if self.shapes.len() >= SHAPES_MAX {
            self.shapes.clear();
        }
        self.shapes.insert(pass, shapes);
        Ok(())
    }

    fn shapes_of(&self, slot: SlotId) -> Option<&Shapes> {
        let pass = self.slots.get(&slot)?.pass.as_ref()?;
        self.shapes.get(pass)
    }
}

/// Folders with a `model_index.json`, and those of ControlNets, by name.
fn folders(models: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", models.display()) };
    let mut folders = Vec::new();
    for entry in fs::read_dir(models).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join("model_index.json").is_file() || ControlNet::is_in(&path) {
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
        let control = |network: &ControlNet| CheckpointInfo {
            name: network.name().to_owned(),
            digest: network.digest(),
            family: "controlnet".to_owned(),
            ready: true,
        };
        self.checkpoints.iter().map(info).chain(self.controlnets.iter().map(control)).collect()
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

    /// One that paints into images is given one: grey, all of it to be painted anew.
    fn self_test_recipe(&self, checkpoint: Digest, steps: u32) -> Option<Recipe> {
        let found = self.checkpoint(checkpoint)?;
        let plain = Recipe { steps, ..Recipe::new(checkpoint, "self-test", found.native_size_px()) };
        if !found.is_inpainting() {
            return Some(plain);
        }
        let [image, mask] = Picture::to_paint_over(found.native_size_px()).map(|(digest, _)| digest);
        Some(Recipe { init: Some(InitUse { image, strength: 1.0 }), mask: Some(mask), ..plain })
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<SlotId, EngineError> {
        let pictures = self.pictures(recipe)?;
        let models = models(&self.checkpoints, &self.controlnets, &mut self.adapters, recipe)?;
        let models = Models { pictures, ..models };
        let denoising = Denoising::begin(&models, recipe, None).map_err(engine_error)?;
        let pass = PassKey::of(recipe, &denoising).map_err(engine_error)?;
        let id = SlotId(self.next_slot);
        self.next_slot += 1;
        self.slots.insert(id, Slot { recipe: Arc::clone(recipe), denoising, pass, requests: 1 });
        if let Err(error) = self.probe(id) {
            self.abandon(id);
            return Err(error);
        }
        Ok(id)
    }

    fn companions_max(&self, slot: SlotId) -> usize {
        self.shapes_of(slot).map_or(0, |shapes| shapes.canonical() - 1)
    }

    fn can_share(&self, a: SlotId, b: SlotId) -> bool {
        let pass = |slot| self.slots.get(&slot).and_then(|slot: &Slot| slot.pass.as_ref());
        pass(a).is_some() && pass(a) == pass(b)
    }

    fn step(&mut self, slots: &[SlotId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let Some(first) = slots.first() else { return Ok(Vec::new()) };
        // A request that goes over to its refiner begins passes of another kind.
        self.probe(*first)?;
        let shapes = self.shapes_of(*first).cloned().unwrap_or_else(Shapes::alone);
        let inputs = slots.iter().map(|slot| {
            let input = self.slot(*slot)?.denoising.next_input().map_err(engine_error)?;
            input.ok_or_else(|| EngineError::Failed { reason: format!("request {} has no step left", slot.0) })
        });
        let inputs = inputs.collect::<Result<Vec<_>, EngineError>>()?;
        let recipe = Arc::clone(&self.slot(*first)?.recipe);
        let models = models(&self.checkpoints, &self.controlnets, &mut self.adapters, &recipe)?;
        let networks = models.at(inputs[0].stage);
        let together: Vec<_> = inputs.iter().collect();
        let outputs = batch::predict(networks, &together, shapes.holding(slots.len())).map_err(engine_error)?;
        let results = slots.iter().zip(&outputs).map(|(slot, output)| {
            let slot = self.slots.get_mut(slot).ok_or(EngineError::Stopped)?;
            slot.requests = slot.requests.max(shapes.canonical());
            slot.denoising.advance(output).map_err(engine_error)?;
            slot.pass = PassKey::of(&slot.recipe, &slot.denoising).map_err(engine_error)?;
            Ok(())
        });
        Ok(results.collect())
    }

    fn progress(&self, slot: SlotId) -> (u32, u32) {
        let count = |steps: usize| u32::try_from(steps).unwrap_or(u32::MAX);
        let found = self.slots.get(&slot).map(|slot| &slot.denoising);
        found.map_or((0, 0), |denoising| (count(denoising.evaluated()), count(denoising.evaluations())))
    }

    fn finish(&mut self, slot: SlotId) -> Result<Finished, EngineError> {
        let Some(Slot { recipe, denoising, requests, .. }) = self.slots.remove(&slot) else {
            return Err(EngineError::Failed { reason: format!("no request {}", slot.0) });
        };
        denoising.check().map_err(engine_error)?;
        let models = models(&self.checkpoints, &self.controlnets, &mut self.adapters, &recipe)?;
        let pixels = denoising.decode(&models).map_err(engine_error)?;
        let checkpoint = self.checkpoint(recipe.checkpoint).ok_or(EngineError::Missing(recipe.checkpoint))?;
        let mut determinism = runtime::determinism(checkpoint, &recipe, requests);
        if self.determinism == DeterminismChoice::Fast {
            determinism.class.push_str("/fast");
        }
        Ok(Finished { pixels, determinism })
    }

    fn abandon(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
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
