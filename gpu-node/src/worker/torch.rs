//! The engine on libtorch: checkpoints of a folder, loaded onto one device, drawn by the pipeline.
//!
//! What of it is where: [`loader`] reads folders, [`library`] keeps networks in the host's memory, [`residency`] says which are on
//! the device, [`foresight`] finds out which passes may be shared.
//!
//! Invariants: it knows families of models through [`family`](crate::diffusion::family) only; what a drawing has begun with
//! stays until it ends, even when the folder changes; whether requests may share a pass is decided by [`PassKey`], and how many
//! by a probe of their bits ([`probing`]), which no request waits for.

mod adapters;
mod drawing;
mod foresight;
mod library;
mod loader;
mod options;
mod probing;
mod residency;
mod room;
mod shelf;

use std::cell::LazyCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, ValidRecipe, picture_so_far};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use tch::Device;

use self::adapters::Adapters;
use self::drawing::{Drawing, Later, Networked, PassKey, asks_for_the_same, models, trunks};
use self::loader::{Change, Loader, Stock};
use self::options::Options;
pub use self::options::{torch_engine, torch_engines};
use self::probing::{Probing, Promise};
use self::residency::Residency;
use self::shelf::Shelf;
use crate::blobs::Blobs;
use crate::capacity::Capacity;
use crate::config::DeterminismChoice;
use crate::diffusion::batch;
use crate::diffusion::batch::Shapes;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::family::{Checkpoint, Conditioning, ControlNet};
use crate::diffusion::fault::Fault;
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline::parts::{self, SoFar};
use crate::diffusion::pipeline::{self, Denoising, Models};
use crate::diffusion::{device, runtime};
use crate::engine::{DrawingId, Encoded, Engine, EngineError, Finished, Move, NextProbe, Nudge, Presence, Trial};

#[derive(Debug)]
struct TorchEngine {
    options: Options,
    shelf: Shelf,
    residency: Residency,
    adapters: Adapters,
    capacity: Capacity,
    /// Until [`Engine::watch`] takes it.
    stock: Option<Stock>,
    loader: Option<Loader>,
    blobs: Blobs,
    probing: Probing,
    drawings: HashMap<DrawingId, Drawing>,
    next_drawing: u64,
    /// Networks have moved, or memory was measured, since [`Engine::refresh`] last told of it.
    has_measured: bool,
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
            residency: Residency::default(),
            adapters,
            capacity: Capacity::default(),
            stock: Some(stock),
            loader: None,
            probing: Probing::default(),
            drawings: HashMap::new(),
            next_drawing: 0,
            has_measured: false,
        };
        engine.fill();
        engine.measure();
        engine.foresee();
        Ok(engine)
    }

    /// The images a recipe names.
    fn pictures(&self, recipe: &ValidRecipe) -> Result<Pictures, EngineError> {
        let mut pictures = Pictures::new();
        let size_px = (recipe.width_px, recipe.height_px);
        // A recipe without images needs none of them.
        let trial =
            LazyCell::new(|| Picture::to_paint_over(size_px).map(|(known, picture)| (known, Arc::new(picture))));
        for digest in recipe.images().filter(|digest| *digest != picture_so_far()) {
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

    fn denoising(
        &mut self,
        recipe: &ValidRecipe,
        so_far: Option<&SoFar>,
    ) -> Result<Denoising<Conditioning>, EngineError> {
        let pictures = self.pictures(recipe)?;
        let models = models(&self.shelf, &mut self.adapters, recipe, Networked::Images)?;
        let models = Models { pictures, ..models };
        let device = self.options.placement.device;
        Denoising::begin_with(&models, recipe, so_far, None).map_err(engine_error(device))
    }

    /// What comes behind the first part.
    fn later(
        &mut self,
        parts: VecDeque<Arc<ValidRecipe>>,
        first: &Denoising<Conditioning>,
    ) -> Result<Later, EngineError> {
        let device = self.options.placement.device;
        let mut of = first.evaluations();
        for part in &parts {
            let models = models(&self.shelf, &mut self.adapters, part, Networked::Passes)?;
            of += pipeline::evaluations(&models, part).map_err(engine_error(device))?;
        }
        Ok(Later { parts, done: 0, of, begun: 1 })
    }

    /// Decodes a picture. The drawing stays in the map meanwhile, so that after a panic, too, [`Engine::abandon`] finds
    /// it and lets go of what it holds.
    fn decode(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let device = self.options.placement.device;
        let found = self.drawings.get(&drawing).ok_or_else(|| no_request(drawing))?;
        let Drawing { recipe, part, denoising, promise, .. } = found;
        denoising.check().map_err(engine_error(device))?;
        let models = models(&self.shelf, &mut self.adapters, part, Networked::Passes)?;
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
        let offer = self.shelf.offer(checkpoint).filter(|offer| offer.networks.is_some());
        offer.map(|offer| loader::self_test_recipe(offer.blueprint(), steps))
    }

    fn capacity(&self) -> Capacity {
        self.capacity.clone()
    }

    fn has_room(&self, recipe: &ValidRecipe) -> bool {
        if !self.adapters.has_room(recipe) {
            return false;
        }
        let Some(budget_bytes) = self.capacity.budget_bytes.filter(|_| !self.drawings.is_empty()) else { return true };
        let own = self.capacity.need(recipe, 1);
        let drawing_needs = self.drawings.values().map(|drawing| drawing.need);
        let held_bytes: u64 = drawing_needs.clone().chain([own]).map(|need| need.held_bytes).sum();
        // Its pass may be one that several share, and each of them has a pass of its own in it.
        let sharing = self.drawings.values().filter(|drawing| asks_for_the_same(&drawing.part, recipe)).count() as u64;
        let requests_max = self.capacity.requests_max(recipe, self.options.requests_max);
        let shared_bytes = self.capacity.need(recipe, (1 + sharing).min(requests_max as u64)).pass_bytes;
        let moments = drawing_needs.chain([own]).map(|need| need.pass_bytes.max(need.picture_bytes));
        held_bytes + moments.max().unwrap_or(0).max(shared_bytes) <= budget_bytes
    }

    fn free_memory(&mut self) {
        self.shelf.checkpoints().for_each(|checkpoint| checkpoint.forget_texts());
        self.shelf.controlnets().for_each(ControlNet::forget_pictures);
        self.adapters.free();
        device::give_back_memory(self.options.placement.device);
    }

    fn watch(&mut self, nudge: Nudge) {
        let Some(stock) = self.stock.take() else { return };
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
                Change::Fetched { found, image } => self.take_fetched(found, image),
            }
        }
        has_changed |= self.place_fetched();
        if !has_changed {
            return None;
        }
        self.unload();
        self.measure();
        self.foresee();
        Some(trials)
    }

    fn presence(&self, recipe: &ValidRecipe) -> Presence {
        self.presence_of(recipe)
    }

    fn fetch(&mut self, recipe: &ValidRecipe) {
        self.fetch_for(recipe);
    }

    fn networks_bytes(&self) -> u64 {
        self.networks_bytes_held()
    }

    fn take_moves(&mut self) -> Vec<Move> {
        self.residency.take_moves()
    }

    fn take_encoded(&mut self) -> Encoded {
        let own: u64 = self.shelf.checkpoints().map(Checkpoint::take_encoded).sum();
        let control_images = self.shelf.controlnets().map(ControlNet::take_embedded).sum();
        Encoded { texts: own + self.adapters.take_encoded(), control_images }
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        let device = self.options.placement.device;
        self.capacity.check(recipe).map_err(|error| EngineError::Refused { reason: error.to_string() })?;
        let need = self.capacity.need(recipe, 1);
        let trunks = trunks(&self.shelf, recipe)?;
        let mut parts = VecDeque::from(recipe.parts());
        let part = parts.pop_front().unwrap_or_else(|| Arc::clone(recipe));
        let denoising = self.denoising(&part, None)?;
        let pass = PassKey::of(&part, &denoising);
        let promise = if parts.is_empty() { self.promise(&part, &denoising)? } else { Promise::alone() };
        let later = self.later(parts, &denoising)?;
        // A failure of the device that shows late is this request's, and must not show in another's pass.
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        let id = DrawingId(self.next_drawing);
        self.next_drawing += 1;
        self.adapters.hold(&trunks);
        self.note_use(recipe);
        self.ask(&promise, recipe, true);
        self.drawings
            .insert(id, Drawing { recipe: Arc::clone(recipe), part, later, trunks, need, denoising, pass, promise });
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
        let first = waiting.each_part().next().unwrap_or(waiting);
        self.drawings.get(&drawing).is_some_and(|drawing| asks_for_the_same(&drawing.part, first))
    }

    fn padding(&self, drawings: &[DrawingId]) -> usize {
        let shapes = drawings.first().and_then(|first| self.shapes_of(*first));
        shapes.map_or(0, |shapes| shapes.holding(drawings.len()).saturating_sub(drawings.len()))
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
        let recipe = Arc::clone(&self.drawing(*first)?.part);
        let models = models(&self.shelf, &mut self.adapters, &recipe, Networked::Passes)?;
        let networks = models.at(inputs[0].stage);
        let together: Vec<_> = inputs.iter().collect();
        let outputs =
            batch::predict(networks, &together, shapes.holding(drawings.len())).map_err(engine_error(device))?;
        let results = drawings.iter().zip(&outputs).map(|(drawing, output)| {
            let drawing = self.drawings.get_mut(drawing).ok_or(EngineError::Stopped)?;
            drawing.denoising.advance(output).map_err(engine_error(device))?;
            drawing.pass = PassKey::of(&drawing.part, &drawing.denoising);
            Ok(())
        });
        let results: Vec<Result<(), EngineError>> = results.collect();
        // Here and in `begin` the host waits: work that is queued at the device can no longer be put behind a more urgent
        // request. A failure that shows so late belongs to no single request.
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })?;
        Ok(results)
    }

    fn is_between_parts(&self, drawing: DrawingId) -> bool {
        let is_over = |drawing: &Drawing| drawing.denoising.is_done() && !drawing.later.parts.is_empty();
        self.drawings.get(&drawing).is_some_and(is_over)
    }

    fn go_on(&mut self, id: DrawingId) -> Result<(), EngineError> {
        let device = self.options.placement.device;
        let drawing = self.drawings.get(&id).ok_or_else(|| no_request(id))?;
        let Some(next) = drawing.later.parts.front().cloned() else { return Ok(()) };
        let enlarge = parts::enlarge_before(&drawing.recipe, drawing.later.begun);
        let models = models(&self.shelf, &mut self.adapters, &drawing.part, Networked::Passes)?;
        let so_far = SoFar::of(&drawing.denoising, &models, &next, enlarge).map_err(engine_error(device))?;
        let denoising = self.denoising(&next, Some(&so_far))?;
        let drawing = self.drawings.get_mut(&id).ok_or_else(|| no_request(id))?;
        drawing.later.parts.pop_front();
        drawing.later.done += drawing.denoising.evaluated();
        drawing.later.begun += 1;
        drawing.pass = PassKey::of(&next, &denoising);
        (drawing.part, drawing.denoising) = (next, denoising);
        device::wait(device).map_err(|error| EngineError::DeviceLost { reason: error.to_string() })
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
        let Some(Drawing { denoising, later, .. }) = self.drawings.get(&drawing) else { return (0, 0) };
        (count(later.done + denoising.evaluated()), count(later.of))
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let finished = self.decode(drawing);
        self.abandon(drawing);
        finished
    }

    fn abandon(&mut self, drawing: DrawingId) {
        let Some(removed) = self.drawings.remove(&drawing) else { return };
        self.adapters.release(&removed.trunks);
        // Its tensors go before memory is measured.
        drop(removed);
        self.sweep();
    }
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
