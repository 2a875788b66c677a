//! The engine on libtorch: checkpoints of a folder, loaded onto one device, drawn by the pipeline.
//!
//! Invariants: it knows families of models through [`family`](crate::diffusion::family) only; what a drawing has begun with
//! stays until it ends, even when the folder changes; whether requests may share a pass is decided by [`PassKey`], and how many
//! by a probe of their bits ([`probing`]), which no request waits for.

mod adapters;
mod loader;
mod probing;
mod shelf;

use std::cell::LazyCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bildkante_shared::checkpoint::FileDigests;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use tch::Device;

use self::adapters::{Adapters, FilesRead};
use self::loader::{Change, Loader, Stock};
use self::probing::{Pending, Probing, Promise, ShapeKey, Verdicts};
use self::shelf::Shelf;
use crate::blobs::Blobs;
use crate::capacity::{Capacity, Need};
use crate::config::{DeterminismChoice, DeviceChoice, DtypeChoice, NodeConfig};
use crate::diffusion::batch;
use crate::diffusion::batch::{BatchClass, Probe, Shapes};
use crate::diffusion::denoiser::{Denoiser, Stage};
use crate::diffusion::dtype::DType;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::family::{Checkpoint, Conditioning, Networks};
use crate::diffusion::fault::Fault;
use crate::diffusion::loading::Placement;
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline::{Denoising, Models};
use crate::diffusion::{device, runtime};
use crate::engine::{DrawingId, Engine, EngineError, EngineFactory, Engines, Finished, NextProbe, Nudge, Trial};

/// Classes of former days that are probed anew for a checkpoint, on another runtime or device.
const FORESEEN_MAX: usize = 16;

/// Of the memory that is free when the checkpoints are loaded, the part that drawings may take, in tenths: the rest is for
/// adapters, kept texts and what an estimate misses.
const MEMORY_TENTHS: u64 = 9;

/// What an engine is told of the configuration.
#[derive(Debug, Clone)]
struct Options {
    models_dir: PathBuf,
    data_dir: PathBuf,
    blob_bytes_max: u64,
    placement: Placement,
    tf32: bool,
    threads: u32,
    vae_tiles_px: u32,
    memory_bytes_max: u64,
    models_poll_ms: u64,
    self_test_steps: u32,
    requests_max: usize,
    determinism: DeterminismChoice,
    adapters_read: FilesRead,
    /// Digests of the checkpoints' files. Each file is read once for all devices and all starts.
    digests: Arc<FileDigests>,
    /// How many requests may share a pass, found out once for all devices of a kind and all starts.
    verdicts: Arc<Verdicts>,
}

/// What a node's engines share.
#[derive(Debug, Clone)]
struct Shared {
    adapters_read: FilesRead,
    digests: Arc<FileDigests>,
    verdicts: Arc<Verdicts>,
}

impl Shared {
    fn of(config: &NodeConfig) -> Self {
        Self {
            adapters_read: FilesRead::default(),
            digests: Arc::new(FileDigests::kept_in(config.data_dir.join("file-digests.json"))),
            verdicts: Arc::new(Verdicts::kept_in(config.data_dir.join("batch-shapes.json"))),
        }
    }
}

/// One factory for each device, which loads every checkpoint of `models_dir` on its thread.
#[must_use]
pub fn torch_engines(config: &NodeConfig) -> Engines {
    let shared = Shared::of(config);
    let engine = |device: &DeviceChoice| (device.to_string(), torch_engine_on(*device, config, shared.clone()));
    Engines(config.device.each().iter().map(engine).collect())
}

/// The factory of the first device.
#[must_use]
pub fn torch_engine(config: &NodeConfig) -> EngineFactory {
    let device = config.device.each().first().copied();
    torch_engine_on(device.unwrap_or(DeviceChoice::Cpu), config, Shared::of(config))
}

fn torch_engine_on(device: DeviceChoice, config: &NodeConfig, shared: Shared) -> EngineFactory {
    let Shared { adapters_read, digests, verdicts } = shared;
    let options = Options {
        models_dir: config.models_dir.clone(),
        data_dir: config.data_dir.clone(),
        blob_bytes_max: config.store.blob_bytes_max,
        placement: Placement {
            device: torch_device(device),
            dtype: torch_dtype(config.dtype),
            channels_last: config.channels_last,
        },
        tf32: config.tf32,
        threads: config.threads,
        vae_tiles_px: config.vae_tiles_px,
        memory_bytes_max: config.memory_bytes_max,
        models_poll_ms: config.models_poll_ms,
        self_test_steps: config.self_test_steps,
        requests_max: config.batch.requests_max_on(device),
        determinism: config.batch.determinism,
        adapters_read,
        digests,
        verdicts,
    };
    let is_exact = config.batch.determinism == DeterminismChoice::Exact;
    Box::new(move || {
        device::choose_numerics(is_exact, options.tf32);
        Ok(Box::new(TorchEngine::load(options)?))
    })
}

#[derive(Debug)]
struct TorchEngine {
    options: Options,
    shelf: Shelf,
    adapters: Adapters,
    capacity: Capacity,
    /// Until [`Engine::watch`] takes it.
    stock: Option<Stock>,
    loader: Option<Loader>,
    blobs: Blobs,
    probing: Probing,
    drawings: HashMap<DrawingId, Drawing>,
    next_drawing: u64,
    /// Memory was measured since [`Engine::refresh`] last told of it.
    has_measured: bool,
}

/// A request between its text and its picture.
#[derive(Debug)]
struct Drawing {
    recipe: Arc<ValidRecipe>,
    /// The checkpoint's present digest, under which its adapted networks are kept: a recipe may name a former one.
    checkpoint: Digest,
    need: Need,
    denoising: Denoising<Conditioning>,
    /// Of the next step; `None` at the end.
    pass: Option<PassKey>,
    promise: Promise,
}

/// What must agree for requests to share a pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PassKey {
    checkpoint: Digest,
    /// Adapters with their weights, bit by bit.
    loras: Vec<(Digest, u64)>,
    /// ControlNets of the recipe; the class says which of them act.
    controls: Vec<Digest>,
    /// How much is added of those that act, bit by bit.
    scales: Vec<u64>,
    class: BatchClass,
}

impl PassKey {
    /// Of the next pass; `None` at the end.
    fn of(recipe: &ValidRecipe, denoising: &Denoising<Conditioning>) -> Option<Self> {
        let class = denoising.next_class()?;
        let (checkpoint, loras) = match (class.stage(), &recipe.refiner) {
            (Stage::Refiner, Some(refiner)) => (refiner.checkpoint, Vec::new()),
            _ => (recipe.checkpoint, recipe.loras.iter().map(|lora| (lora.digest, lora.weight.to_bits())).collect()),
        };
        let controls = recipe.controls.iter().map(|control| control.network).collect();
        let scales = denoising.next_scales().into_iter().map(f64::to_bits).collect();
        Some(Self { checkpoint, loras, controls, scales, class })
    }
}

/// The networks a recipe asks for. Free of the engine's other parts, so that those can be changed beside it.
fn models<'a>(
    shelf: &'a Shelf,
    adapters: &'a mut Adapters,
    recipe: &ValidRecipe,
) -> Result<Models<Networks<'a>>, EngineError> {
    let refiner = recipe.refiner.as_ref().map(|refiner| shelf.checkpoint(refiner.checkpoint)).transpose()?;
    let checkpoint = shelf.checkpoint(recipe.checkpoint)?;
    let trunk = match recipe.loras.as_slice() {
        [] => None,
        loras => Some(adapters.trunk(checkpoint, loras)?),
    };
    let controls = recipe.controls.iter().map(|control| shelf.controlnet(control.network));
    let base = Networks::new(checkpoint, trunk, &controls.collect::<Result<Vec<_>, _>>()?);
    let refiner = refiner.map(|checkpoint| Networks::new(checkpoint, None, &[]));
    Ok(Models { base, refiner, pictures: Pictures::new() })
}

impl TorchEngine {
    fn load(options: Options) -> Result<Self, EngineError> {
        // Counts for libtorch's operators on the calling thread, which is the device's.
        runtime::set_threads(options.threads);
        let mut stock = Stock::load(&options)?;
        let mut shelf = Shelf::default();
        for (folder, item) in stock.items.drain(..) {
            shelf.put(folder, item);
        }
        let mut adapters = Adapters::default();
        adapters.update(std::mem::take(&mut stock.adapters));
        let mut engine = Self {
            blobs: Blobs::of(&options.data_dir, options.blob_bytes_max),
            options,
            shelf,
            adapters,
            capacity: Capacity::default(),
            stock: Some(stock),
            loader: None,
            probing: Probing::default(),
            drawings: HashMap::new(),
            next_drawing: 0,
            has_measured: false,
        };
        engine.measure();
        engine.foresee();
        Ok(engine)
    }

    /// Finds out how much memory there is for drawings. What drawings hold at the moment counts as free.
    fn measure(&mut self) {
        let held_bytes: u64 = self.drawings.values().map(|drawing| drawing.need.held_bytes).sum();
        let free_bytes = || device::memory(self.options.placement.device).map(|memory| memory.free_bytes);
        self.capacity.budget_bytes = match self.options.memory_bytes_max {
            0 => free_bytes().map(|free| (free + held_bytes) / 10 * MEMORY_TENTHS),
            bytes => Some(bytes),
        };
        let footprints = self.shelf.checkpoints().flat_map(|checkpoint| {
            let footprint = checkpoint.footprint();
            checkpoint.digests().all().map(move |digest| (digest, Arc::clone(&footprint)))
        });
        self.capacity.footprints = footprints.collect();
    }

    /// Lets go of checkpoints that are gone and no longer drawn with. The memory for drawings is measured again after the last
    /// of them: a replaced checkpoint took its part as long as it was there.
    fn sweep(&mut self) {
        let leaving = self.shelf.leaving();
        self.unload();
        if self.shelf.leaving() < leaving {
            self.measure();
            self.has_measured = true;
        }
    }

    fn unload(&mut self) {
        for digest in self.shelf.sweep(self.drawings.values().map(|drawing| &*drawing.recipe)) {
            tracing::info!(%digest, "unloaded");
            self.adapters.forget(digest);
            device::give_back_memory(self.options.placement.device);
        }
    }

    /// The images a recipe names.
    fn pictures(&self, recipe: &ValidRecipe) -> Result<Pictures, EngineError> {
        let mut pictures = Pictures::new();
        let size_px = (recipe.width_px, recipe.height_px);
        // A recipe without images needs none of them.
        let trial =
            LazyCell::new(|| Picture::to_paint_over(size_px).map(|(known, picture)| (known, Arc::new(picture))));
        for digest in recipe.images() {
            if let Some((_, picture)) = trial.iter().find(|(known, _)| *known == digest) {
                pictures.insert(digest, Arc::clone(picture));
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

    fn drawing(&self, drawing: DrawingId) -> Result<&Drawing, EngineError> {
        self.drawings.get(&drawing).ok_or_else(|| no_request(drawing))
    }

    /// Within how many requests the bits of a drawing are promised. What is not known yet is to be found out.
    fn promise(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        denoising: &Denoising<Conditioning>,
    ) -> Result<Promise, EngineError> {
        let keys = self.shape_keys(recipe, denoising)?;
        let known = |key: ShapeKey| {
            let shapes = match (self.options.determinism, key.requests_max) {
                (DeterminismChoice::Fast, most) => Some(Shapes::any(most)),
                (DeterminismChoice::Exact, 0 | 1) => Some(Shapes::alone()),
                (DeterminismChoice::Exact, _) => self.options.verdicts.get(&key),
            };
            (key, shapes)
        };
        Ok(Promise::new(keys.into_iter().map(known).collect()))
    }

    /// What verdicts on a drawing's passes hold for.
    fn shape_keys(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        denoising: &Denoising<Conditioning>,
    ) -> Result<Vec<ShapeKey>, EngineError> {
        let requests_max = self.capacity.requests_max(recipe, self.options.requests_max);
        let environment = self.environment(recipe.checkpoint)?;
        let models = models(&self.shelf, &mut self.adapters, recipe)?;
        let key = |class: BatchClass| ShapeKey {
            environment: environment.clone(),
            architecture: models.at(class.stage()).architecture(class.controls()),
            class,
            requests_max,
        };
        Ok(denoising.classes().into_iter().map(key).collect())
    }

    /// What computes passes, as far as it decides bits.
    fn environment(&self, checkpoint: Digest) -> Result<String, EngineError> {
        let checkpoint = self.shelf.checkpoint(checkpoint)?;
        Ok(checkpoint.environment() + self.tf32(checkpoint))
    }

    /// A processor has no TF32. It is named with every dtype, because a VAE may insist on float32.
    fn tf32(&self, checkpoint: &Checkpoint) -> &'static str {
        if self.options.tf32 && checkpoint.device() != Device::Cpu { "/tf32" } else { "" }
    }

    /// Remembers what will be asked for: each checkpoint's own size, and what was asked for before another runtime or device.
    fn foresee(&mut self) {
        if self.options.determinism == DeterminismChoice::Fast || self.options.requests_max <= 1 {
            return;
        }
        let mut recipes = Vec::new();
        for checkpoint in self.shelf.checkpoints() {
            let trial = loader::self_test_recipe(checkpoint, self.options.self_test_steps.max(1));
            let networks = Networks::new(checkpoint, None, &[]);
            let environment = checkpoint.environment() + self.tf32(checkpoint);
            let known = self.options.verdicts.classes_elsewhere(networks.architecture(&[]), &environment);
            let known = known.iter().filter_map(|class| loader::recipe_of_class(checkpoint, class));
            recipes.extend(std::iter::once(trial).chain(known.take(FORESEEN_MAX)));
        }
        for recipe in recipes.into_iter().filter_map(|recipe| ValidRecipe::try_from(recipe).ok()).map(Arc::new) {
            if let Err(error) = self.foresee_recipe(&recipe) {
                tracing::debug!(%error, "a class of passes is not foreseen");
            }
        }
    }

    fn foresee_recipe(&mut self, recipe: &Arc<ValidRecipe>) -> Result<(), EngineError> {
        self.capacity.check(recipe).map_err(|error| EngineError::Refused { reason: error.to_string() })?;
        let denoising = self.denoising(recipe)?;
        let promise = self.promise(recipe, &denoising)?;
        self.ask(&promise, recipe, false);
        Ok(())
    }

    fn denoising(&mut self, recipe: &ValidRecipe) -> Result<Denoising<Conditioning>, EngineError> {
        let pictures = self.pictures(recipe)?;
        let models = models(&self.shelf, &mut self.adapters, recipe)?;
        let models = Models { pictures, ..models };
        Denoising::begin(&models, recipe, None).map_err(engine_error(self.options.placement.device))
    }

    /// Has what is not known of a drawing's passes found out.
    fn ask(&mut self, promise: &Promise, recipe: &Arc<ValidRecipe>, is_wanted: bool) {
        for key in promise.unknown() {
            self.probing.ask(Pending { key: key.clone(), recipe: Arc::clone(recipe), is_wanted });
        }
    }

    /// Makes a pass of a probe, which is begun where there is none. The shapes, once they are found.
    fn probe_pass(
        &mut self,
        pending: &Pending,
        probe: Option<Probe<Conditioning>>,
    ) -> Result<(Probe<Conditioning>, Option<Shapes>), EngineError> {
        let device = self.options.placement.device;
        let class = &pending.key.class;
        let models = models(&self.shelf, &mut self.adapters, &pending.recipe)?;
        let networks = models.at(class.stage());
        let begin = || -> Result<_, DiffusionError> {
            let conditions = networks.condition(&pending.recipe, class.stage())?;
            let specimen = batch::specimen(networks, class, &conditions)?;
            debug_assert!(class.is_of(&specimen), "{class:?} for another input");
            Ok(Probe::new(specimen, pending.key.requests_max)?)
        };
        let mut probe = probe.map_or_else(begin, Ok).map_err(engine_error(device))?;
        let shapes = probe.pass(networks).map_err(engine_error(device))?;
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        Ok((probe, shapes))
    }

    /// Has the drawings under way share passes, where a verdict now lets them.
    fn learn(&mut self) {
        self.drawings.values_mut().for_each(|drawing| drawing.promise.learn(&self.options.verdicts));
    }

    /// Decodes a picture. The drawing stays in the map meanwhile, so that after a panic, too, [`Engine::abandon`] finds
    /// it and lets go of what it holds.
    fn decode(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let device = self.options.placement.device;
        let found = self.drawings.get(&drawing).ok_or_else(|| no_request(drawing))?;
        let Drawing { recipe, denoising, promise, .. } = found;
        denoising.check().map_err(engine_error(device))?;
        let models = models(&self.shelf, &mut self.adapters, recipe)?;
        let pixels = denoising.decode(&models).map_err(engine_error(device))?;
        let checkpoint = self.shelf.checkpoint(recipe.checkpoint)?;
        let mut determinism = checkpoint.determinism(recipe, promise.requests());
        determinism.class.push_str(self.tf32(checkpoint));
        if self.options.determinism == DeterminismChoice::Fast {
            determinism.class.push_str("/fast");
        }
        Ok(Finished { pixels, determinism })
    }

    fn shapes_of(&self, drawing: DrawingId) -> Option<Shapes> {
        let drawing = self.drawings.get(&drawing)?;
        Some(drawing.promise.shapes(&drawing.pass.as_ref()?.class))
    }
}

fn no_request(drawing: DrawingId) -> EngineError {
    EngineError::Failed { reason: format!("no request {}", drawing.0) }
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
        self.shelf.infos()
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.infos()
    }

    fn rejected(&self) -> Vec<String> {
        self.shelf.rejected().chain(self.adapters.rejected().iter().cloned()).collect()
    }

    fn self_test_recipe(&self, checkpoint: Digest, steps: u32) -> Option<Recipe> {
        self.shelf.checkpoint(checkpoint).ok().map(|checkpoint| loader::self_test_recipe(checkpoint, steps))
    }

    fn capacity(&self) -> Capacity {
        self.capacity.clone()
    }

    fn has_room(&self, recipe: &ValidRecipe) -> bool {
        if !self.adapters.has_room(recipe) {
            return false;
        }
        let Some(budget_bytes) = self.capacity.budget_bytes.filter(|_| !self.drawings.is_empty()) else { return true };
        let needs = self.drawings.values().map(|drawing| drawing.need).chain([self.capacity.need(recipe, 1)]);
        let (held_bytes, moment_bytes) = needs.fold((0, 0), |(held, moment): (u64, u64), need| {
            (held + need.held_bytes, moment.max(need.pass_bytes).max(need.picture_bytes))
        });
        held_bytes + moment_bytes <= budget_bytes
    }

    fn free_memory(&mut self) {
        self.shelf.checkpoints().for_each(|checkpoint| checkpoint.forget_texts());
        self.adapters.free();
        device::give_back_memory(self.options.placement.device);
    }

    fn watch(&mut self, nudge: Nudge) {
        let Some(stock) = self.stock.take().filter(|_| self.options.models_poll_ms > 0) else { return };
        match Loader::start(self.options.clone(), stock, nudge) {
            Ok(loader) => self.loader = Some(loader),
            Err(error) => tracing::error!(%error, "the models' folder is not watched"),
        }
    }

    fn refresh(&mut self) -> Option<Vec<Trial>> {
        let (mut trials, mut has_changed) = (Vec::new(), std::mem::take(&mut self.has_measured));
        while let Some(change) = self.loader.as_ref().and_then(Loader::next) {
            has_changed = true;
            match change {
                Change::Came { folder, item, trial } => {
                    self.shelf.put(folder, item);
                    trials.extend(trial);
                }
                Change::Gone { folder } => self.shelf.take_away(&folder),
                Change::Adapters(found) => self.adapters.update(found),
            }
        }
        if !has_changed {
            return None;
        }
        self.unload();
        self.measure();
        self.foresee();
        Some(trials)
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        let device = self.options.placement.device;
        self.capacity.check(recipe).map_err(|error| EngineError::Refused { reason: error.to_string() })?;
        let need = self.capacity.need(recipe, 1);
        let checkpoint = self.shelf.checkpoint(recipe.checkpoint)?.digest();
        let denoising = self.denoising(recipe)?;
        let pass = PassKey::of(recipe, &denoising);
        let promise = self.promise(recipe, &denoising)?;
        // A failure of the device that shows late is this request's, and must not show in another's pass.
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        let id = DrawingId(self.next_drawing);
        self.next_drawing += 1;
        self.adapters.hold(checkpoint, &recipe.loras);
        self.ask(&promise, recipe, true);
        self.drawings.insert(id, Drawing { recipe: Arc::clone(recipe), checkpoint, need, denoising, pass, promise });
        Ok(id)
    }

    fn companions_max(&self, drawing: DrawingId) -> usize {
        self.shapes_of(drawing).map_or(0, |shapes| shapes.canonical() - 1)
    }

    fn may_share(&self, a: DrawingId, b: DrawingId) -> bool {
        let pass = |drawing| {
            let drawing: &Drawing = self.drawings.get(&drawing).filter(|drawing| !drawing.promise.is_alone())?;
            drawing.pass.as_ref()
        };
        pass(a).is_some() && pass(a) == pass(b)
    }

    fn may_join(&self, drawing: DrawingId, waiting: &ValidRecipe) -> bool {
        self.drawings.get(&drawing).is_some_and(|drawing| asks_for_the_same(&drawing.recipe, waiting))
    }

    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let device = self.options.placement.device;
        let Some(first) = drawings.first() else { return Ok(Vec::new()) };
        let shapes = self.shapes_of(*first).unwrap_or_else(Shapes::alone);
        let inputs = drawings.iter().map(|id| {
            let drawing = self.drawing(*id)?;
            let input = drawing.denoising.next_input().map_err(engine_error(device))?;
            let (Some(pass), Some(input)) = (&drawing.pass, input) else {
                return Err(EngineError::Failed { reason: format!("request {} has no step left", id.0) });
            };
            debug_assert!(pass.class.is_of(&input), "{pass:?} for another input");
            Ok(input)
        });
        let inputs = inputs.collect::<Result<Vec<_>, EngineError>>()?;
        let recipe = Arc::clone(&self.drawing(*first)?.recipe);
        let models = models(&self.shelf, &mut self.adapters, &recipe)?;
        let networks = models.at(inputs[0].stage);
        let together: Vec<_> = inputs.iter().collect();
        let outputs =
            batch::predict(networks, &together, shapes.holding(drawings.len())).map_err(engine_error(device))?;
        let results = drawings.iter().zip(&outputs).map(|(drawing, output)| {
            let drawing = self.drawings.get_mut(drawing).ok_or(EngineError::Stopped)?;
            drawing.denoising.advance(output).map_err(engine_error(device))?;
            drawing.pass = PassKey::of(&drawing.recipe, &drawing.denoising);
            Ok(())
        });
        let results = results.collect();
        // Here and in `begin` the host waits: work that is queued at the device can no longer be put behind a more urgent
        // request. A failure that shows so late belongs to no single request.
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        Ok(results)
    }

    fn next_probe(&self) -> Option<NextProbe> {
        let pending = self.probing.next()?;
        Some(NextProbe { recipe: pending.recipe.id(), is_wanted: pending.is_wanted })
    }

    fn probes(&self) -> usize {
        self.probing.len()
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        // Taken out meanwhile: what fails, by a panic too, is not tried again and again.
        let Some((pending, probe)) = self.probing.take() else { return Ok(()) };
        if self.options.verdicts.get(&pending.key).is_some() {
            // Another device has found it out.
            self.learn();
            return Ok(());
        }
        match self.probe_pass(&pending, probe) {
            Ok((probe, None)) => self.probing.go_on(pending, probe),
            Ok((_, Some(shapes))) => {
                tracing::info!(checkpoint = %pending.recipe.checkpoint, class = ?pending.key.class, ?shapes, "probed");
                self.options.verdicts.put(pending.key, shapes);
                self.learn();
            }
            Err(error) if matches!(error, EngineError::OutOfMemory { .. }) => {
                self.free_memory();
                self.options.verdicts.give_up(pending.key);
                self.learn();
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        let count = |steps: usize| u32::try_from(steps).unwrap_or(u32::MAX);
        let found = self.drawings.get(&drawing).map(|drawing| &drawing.denoising);
        found.map_or((0, 0), |denoising| (count(denoising.evaluated()), count(denoising.evaluations())))
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let finished = self.decode(drawing);
        self.abandon(drawing);
        finished
    }

    fn abandon(&mut self, drawing: DrawingId) {
        let Some(removed) = self.drawings.remove(&drawing) else { return };
        self.adapters.release(removed.checkpoint, &removed.recipe.loras);
        // Its tensors go before memory is measured.
        drop(removed);
        self.sweep();
    }
}

/// Whether two recipes may share passes, as far as the recipes tell: what a [`PassKey`] will hold of them.
fn asks_for_the_same(a: &Recipe, b: &Recipe) -> bool {
    let refines = |recipe: &Recipe| recipe.refiner.as_ref().map(|refiner| refiner.checkpoint);
    (a.checkpoint, a.width_px, a.height_px) == (b.checkpoint, b.width_px, b.height_px)
        && a.loras == b.loras
        && a.controls.iter().map(|c| c.network).eq(b.controls.iter().map(|c| c.network))
        && refines(a) == refines(b)
        && (a.guidance > 1.0) == (b.guidance > 1.0)
}

/// Whose fault an error is: the author's for a recipe that this checkpoint cannot draw, the node's for anything else. Where the
/// error does not say whether the device is lost, the device is asked: waiting returns what every later call would return.
fn engine_error(device: Device) -> impl Fn(DiffusionError) -> EngineError {
    move |error| {
        let reason = error.to_string();
        match error.fault() {
            Fault::OutOfMemory => EngineError::OutOfMemory { reason },
            Fault::Lost => EngineError::DeviceLost { reason },
            Fault::Unclear if device::wait(device).is_err() => EngineError::DeviceLost { reason },
            _ if matches!(error, DiffusionError::Cancelled) => EngineError::Stopped,
            _ if error.is_refusal() => EngineError::Refused { reason },
            _ => EngineError::Failed { reason },
        }
    }
}
