//! The threads that own a device each, and the one that settles what they drew.
//!
//! Device thread: load → self-test → [`executor`]: the most urgent requests' next step, for ever. It never touches the
//! disk beyond one look at the store (a recipe may have been settled while it was being queued) and hands each drawing on
//! at once. All device threads take from one board. Settling thread: fingerprint, duplicate search, PNG, store, answers.
//! Before it at most [`SETTLING_MAX`] drawings wait, so a slow disk slows devices down instead of filling memory.
//!
//! A panic in a job fails that job only, and so does a device that is out of memory. A device that is lost to this process
//! ends the node: only a new process gets it back, and whoever supervises this one starts that.

mod adapters;
mod executor;
mod torch;

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::log_limited;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, Determinism};

use crate::admission::{Board, Cost, StartedJob};
use crate::archive::Archive;
use crate::diffusion::memory::MemoryLimits;
use crate::diffusion::pipeline::{Generated, StepControl};
use crate::endings::Endings;
use crate::error::GenerationError;
use crate::health::{DeviceStatus, Health, Phase, SelfTest};
use crate::metrics::NodeMetrics;

use self::executor::Executor;
pub use torch::{torch_engine, torch_engines};

/// Drawings that may wait to be settled.
const SETTLING_MAX: usize = 2;

/// Whatever draws: checkpoints on a device. One thread owns it for its whole life.
pub trait Engine: Send {
    fn checkpoints(&self) -> Vec<CheckpointInfo>;

    /// The adapters a recipe may name.
    fn adapters(&self) -> Vec<AdapterInfo> {
        Vec::new()
    }

    /// Folders that hold no usable checkpoint and files that hold no usable adapter, and why.
    fn rejected(&self) -> Vec<String> {
        Vec::new()
    }

    /// The size in pixels a checkpoint draws best: what the self-test draws. `None` for what draws nothing by itself.
    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)>;

    /// What the self-test draws with a checkpoint.
    fn self_test_recipe(&self, checkpoint: Digest, steps: u32) -> Option<Recipe> {
        Some(Recipe { steps, ..Recipe::new(checkpoint, "self-test", self.native_size_px(checkpoint)?) })
    }

    /// Its device's memory, and what its checkpoints take of it for a drawing.
    fn memory(&self) -> MemoryLimits {
        MemoryLimits::default()
    }

    /// Whether a recipe's drawing fits beside those that have begun.
    fn has_room(&self, _recipe: &ValidRecipe) -> bool {
        true
    }

    /// Gives back whatever is kept for requests to come.
    fn free_memory(&mut self) {}

    /// Calls `nudge` from now on whenever there is something to [`Self::refresh`].
    fn watch(&mut self, _nudge: Nudge) {}

    /// Takes over checkpoints and adapters that have come, and lets go of those that are gone. `None` where nothing has
    /// changed, else how the new ones did in their trials.
    fn refresh(&mut self) -> Option<Vec<Trial>> {
        None
    }

    /// Takes a recipe up: encodes its text, draws its noise.
    ///
    /// # Errors
    /// Why it cannot be drawn.
    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<SlotId, EngineError>;

    /// How many requests may share the next pass with this one.
    fn companions_max(&self, _slot: SlotId) -> usize {
        0
    }

    /// Whether the next steps of two requests can be one pass.
    fn can_share(&self, _a: SlotId, _b: SlotId) -> bool {
        false
    }

    /// Makes the next step of each request in one pass. They can share it, and none of them is done. The step has been made
    /// when this returns: what merely waited at the device could not be overtaken by anybody more urgent.
    ///
    /// # Errors
    /// What the pass failed at: no request has made a step then. Within, what each request failed at.
    fn step(&mut self, slots: &[SlotId]) -> Result<Vec<Result<(), EngineError>>, EngineError>;

    /// Steps made and steps there are.
    fn progress(&self, slot: SlotId) -> (u32, u32);

    fn is_done(&self, slot: SlotId) -> bool {
        let (done, of) = self.progress(slot);
        done >= of
    }

    /// The picture of a request that is done.
    ///
    /// # Errors
    /// What the drawing failed at.
    fn finish(&mut self, slot: SlotId) -> Result<Finished, EngineError>;

    /// Forgets a request; one that is not there is none already.
    fn abandon(&mut self, slot: SlotId);

    /// Draws one recipe from beginning to end. `on_step` is told after each step and may stop it there.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when told to stop, else why it could not be drawn.
    fn draw(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        on_step: &mut dyn FnMut(u32, u32) -> StepControl,
    ) -> Result<Finished, EngineError> {
        let slot = self.begin(recipe)?;
        while !self.is_done(slot) {
            let stepped = self.step(&[slot]).and_then(|results| results.into_iter().collect::<Result<(), _>>());
            let (done, of) = self.progress(slot);
            let stopped = if on_step(done, of) == StepControl::Stop { Err(EngineError::Stopped) } else { Ok(()) };
            if let Err(error) = stepped.and(stopped) {
                self.abandon(slot);
                return Err(error);
            }
        }
        let finished = self.finish(slot);
        self.abandon(slot);
        finished
    }
}

/// A request that an engine has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u64);

/// A drawn picture, and within what it can be repeated bit for bit.
#[derive(Debug)]
pub struct Finished {
    pub pixels: Pixels,
    pub determinism: Determinism,
}

/// Wakes the device thread.
pub type Nudge = Arc<dyn Fn() + Send + Sync>;

/// A checkpoint that was loaded while the node served, and what it drew twice from one recipe.
#[derive(Debug, Clone)]
pub struct Trial {
    pub checkpoint: CheckpointInfo,
    pub masters: [MasterId; 2],
    /// From finding it to here.
    pub seconds: f64,
}

/// Builds an engine on its device thread.
pub type EngineFactory = Box<dyn FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send>;

/// A node's engines, one for each device.
pub struct Engines(pub Vec<(String, EngineFactory)>);

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(device, _)| device)).finish()
    }
}

impl From<EngineFactory> for Engines {
    fn from(engine: EngineFactory) -> Self {
        Self(vec![("0".to_owned(), engine)])
    }
}

/// Why an engine does not draw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("{reason}")]
    Load { reason: String },
    #[error("the checkpoint {0} is not loaded")]
    Missing(Digest),
    /// The recipe's fault.
    #[error("{reason}")]
    Refused { reason: String },
    /// The engine's fault.
    #[error("{reason}")]
    Failed { reason: String },
    /// Nobody's: the drawing needs more memory than is left.
    #[error("{reason}")]
    OutOfMemory { reason: String },
    /// The device does nothing any more for this process.
    #[error("the device is lost: {reason}")]
    DeviceLost { reason: String },
    #[error("stopped between steps")]
    Stopped,
}

impl From<EngineError> for GenerationError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Missing(digest) => Self::Missing { digests: vec![digest] },
            EngineError::Refused { reason } => Self::Refused { reason },
            EngineError::Load { reason } | EngineError::Failed { reason } => Self::Failed { reason },
            EngineError::OutOfMemory { reason } => Self::OutOfMemory { reason },
            // Who says so knows better: the executor.
            EngineError::DeviceLost { reason } => Self::DeviceLost { reason, is_alone: false },
            EngineError::Stopped => Self::DeadlinePassed,
        }
    }
}

/// What the threads work with.
#[derive(Debug, Clone)]
pub struct Bench {
    pub board: Arc<Board>,
    pub archive: Arc<Archive>,
    pub endings: Arc<Endings>,
    pub health: Arc<Health>,
    pub metrics: Arc<NodeMetrics>,
    pub self_test_steps: u32,
    pub started_at: Instant,
}

/// The threads.
#[derive(Debug)]
pub struct Worker {
    threads: Vec<JoinHandle<()>>,
}

/// What one device thread works with.
#[derive(Debug)]
struct DeviceBench {
    bench: Bench,
    device: usize,
    name: String,
}

impl std::ops::Deref for DeviceBench {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

/// A drawing on its way to the store.
struct Drawn {
    job: StartedJob,
    generated: Generated,
    determinism: Determinism,
    cost: Cost,
}

impl Worker {
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(engines: Engines, bench: Bench) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(SETTLING_MAX);
        let settling = bench.clone();
        let settle = std::thread::Builder::new().name("node-settle".to_owned());
        let settle = settle.spawn(move || settling.settle_all(&receiver))?;
        let mut threads = Vec::new();
        bench.health.expect(engines.0.iter().map(|(name, _)| name.clone()).collect());
        for (device, (name, factory)) in engines.0.into_iter().enumerate() {
            let (own, sender) = (DeviceBench { bench: bench.clone(), device, name }, sender.clone());
            let thread = std::thread::Builder::new().name(format!("node-device-{device}"));
            threads.push(thread.spawn(move || own.run(factory, &sender))?);
        }
        threads.push(settle);
        Ok(Self { threads })
    }

    /// Waits for the threads; the board must have been closed. Blocks for up to a step.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread ended at a defect");
            }
        }
    }
}

impl DeviceBench {
    /// The device thread.
    fn run(&self, factory: EngineFactory, sender: &SyncSender<Drawn>) {
        let life = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = self.load(factory)?;
            self.self_test(engine.as_mut())?;
            let ready_s = self.started_at.elapsed().as_secs_f64();
            self.health.device_ready(self.device, || {
                self.metrics.time_to_ready_seconds.set(ready_s);
                self.metrics.ready.set(1);
            });
            // After it is true: who reads it may ask at once.
            tracing::info!(device = %self.name, seconds = ready_s, "ready");
            let board = Arc::clone(&self.board);
            engine.watch(Arc::new(move || board.nudge()));
            Executor::new(self, engine.as_mut(), sender).run()
        }));
        let reason = match life {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("defect in the device thread: {}", message(panic.as_ref())),
        };
        tracing::error!(device = %self.name, %reason, "the device thread has ended");
        self.metrics.ready.set(0);
        self.health.enter(Phase::Failed { reason });
        self.board.close();
    }

    fn load(&self, factory: EngineFactory) -> Result<Box<dyn Engine>, EngineError> {
        let engine = factory()?;
        let (checkpoints, rejected) = (engine.checkpoints(), engine.rejected());
        for checkpoint in &checkpoints {
            let CheckpointInfo { name, digest, family, .. } = checkpoint;
            tracing::info!(%name, %digest, %family, "checkpoint loaded");
        }
        for AdapterInfo { name, digest } in engine.adapters() {
            tracing::info!(%name, %digest, "adapter found");
        }
        for reason in &rejected {
            tracing::error!(%reason, "rejected");
        }
        if checkpoints.is_empty() {
            let reason = if rejected.is_empty() { "no checkpoint in models_dir".into() } else { rejected.join("; ") };
            return Err(EngineError::Load { reason });
        }
        self.report(engine.as_ref());
        Ok(engine)
    }

    /// Tells what the engine has.
    fn report(&self, engine: &dyn Engine) {
        let (checkpoints, adapters, rejected) = (engine.checkpoints(), engine.adapters(), engine.rejected());
        let memory = Arc::new(engine.memory());
        if let Some(budget_bytes) = memory.budget_bytes {
            let labels = [self.name.as_str()];
            self.metrics.memory_budget_bytes.with_label_values(&labels).set(budget_bytes as f64);
        }
        self.health.report(self.device, |device| {
            let is_there = |digest| checkpoints.iter().any(|known| known.digest == digest);
            device.self_tests.retain(|test| is_there(test.digest));
            device.failed.retain(|(digest, _)| is_there(*digest));
            (device.checkpoints, device.adapters, device.rejected) = (checkpoints, adapters, rejected);
            device.memory = memory;
        });
    }

    /// Takes over what has come, and lets go of what is gone.
    fn refresh(&self, engine: &mut dyn Engine) {
        let Some(trials) = engine.refresh() else { return };
        for Trial { checkpoint, masters: [first, second], seconds } in &trials {
            tracing::info!(checkpoint = %checkpoint.name, digest = %checkpoint.digest, seconds, "checkpoint loaded");
            self.metrics.checkpoint_ready_seconds.with_label_values(&[&checkpoint.name]).set(*seconds);
            self.judge(checkpoint, *first, *second);
        }
        self.report(engine);
    }

    /// Draws one short recipe twice per checkpoint. Unequal bits are reported, loudly, and the node serves: its masters
    /// are content-addressed, so nothing false is ever stored. A checkpoint that cannot draw at all is taken out.
    fn self_test(&self, engine: &mut dyn Engine) -> Result<(), EngineError> {
        self.health.enter(Phase::SelfTest);
        for checkpoint in engine.checkpoints() {
            let recipe = engine.self_test_recipe(checkpoint.digest, self.self_test_steps);
            let Some(Ok(recipe)) = recipe.map(ValidRecipe::try_from) else { continue };
            let recipe = Arc::new(recipe);
            let mut draw = || engine.draw(&recipe, &mut |_, _| StepControl::Continue).map(|f| f.pixels.master_id());
            match draw().and_then(|first| Ok((first, draw()?))) {
                Ok((first, second)) => {
                    let seconds = self.started_at.elapsed().as_secs_f64();
                    self.metrics.checkpoint_ready_seconds.with_label_values(&[&checkpoint.name]).set(seconds);
                    self.judge(&checkpoint, first, second);
                }
                Err(error) => self.take_out(&checkpoint, &error),
            }
        }
        let status = self.health.status();
        let device = status.devices.get(self.device);
        if device.is_some_and(DeviceStatus::has_any_ready) {
            return Ok(());
        }
        Err(EngineError::Load { reason: status.rejected.join("; ") })
    }

    fn judge(&self, checkpoint: &CheckpointInfo, first: MasterId, second: MasterId) {
        let is_equal = first == second;
        let CheckpointInfo { name, digest, .. } = checkpoint;
        self.metrics.self_test_equal.with_label_values(&[name]).set(f64::from(u8::from(is_equal)));
        if is_equal {
            tracing::info!(checkpoint = %name, master = %first, "self-test: equal bits twice");
        } else {
            tracing::error!(checkpoint = %name, %first, %second, "self-test: unequal bits");
        }
        let (device, checkpoint, digest) = (self.name.clone(), name.clone(), *digest);
        let verdict = SelfTest { device, checkpoint, digest, is_equal, master: first };
        self.health.report(self.device, |device| {
            device.failed.retain(|(failed, _)| *failed != digest);
            device.self_tests.retain(|test| test.digest != digest);
            device.self_tests.push(verdict);
        });
    }

    fn take_out(&self, checkpoint: &CheckpointInfo, error: &EngineError) {
        tracing::error!(checkpoint = %checkpoint.name, %error, "self-test: the checkpoint draws nothing");
        let reason = format!("{}: self-test: {error}", checkpoint.name);
        self.health.report(self.device, |device| device.failed.push((checkpoint.digest, reason)));
    }

    /// `is_alone`: the device was at nothing else.
    fn failed(&self, job: &StartedJob, error: &EngineError, is_alone: bool) {
        let (id, _of) = (job.recipe.id(), job.span.enter());
        log_limited!(warn, recipe = %id, %error, "not drawn");
        let error = match GenerationError::from(error.clone()) {
            GenerationError::DeviceLost { reason, .. } => GenerationError::DeviceLost { reason, is_alone },
            error => error,
        };
        self.board.fail(id, &error);
    }

    fn cost(&self, generated: &Generated, started_at: Instant, busy_s: f64) -> Cost {
        let Generated { text_ms, denoise_ms, decode_ms, .. } = *generated;
        for (stage, spent_ms) in [("text", text_ms), ("denoise", denoise_ms), ("decode", decode_ms)] {
            self.metrics.stage_seconds.with_label_values(&[stage]).observe(spent_ms / 1e3);
        }
        Cost { started_at, text_ms, denoise_ms, decode_ms, gpu_ms: busy_s * 1e3 }
    }

    /// Whoever was settled between submission and start: a recipe is drawn once.
    fn is_answered_from_store(&self, job: &StartedJob) -> bool {
        let id = job.recipe.id();
        let mut open = vec![job.dedup.clone()];
        loop {
            let mut answers = HashMap::new();
            for dedup in open {
                match self.archive.find(id, dedup.as_ref()) {
                    Ok(Some(settled)) => answers.insert(dedup, Ok(settled)),
                    Ok(None) => continue,
                    Err(error) => answers.insert(dedup, Err((&error).into())),
                };
            }
            if answers.is_empty() {
                return false;
            }
            open = self.board.deliver(id, &answers, None);
            if open.is_empty() {
                return true;
            }
        }
    }

    /// A class that failed its self-test is named so in every reply and with every master.
    fn judged(&self, determinism: Determinism, checkpoint: Digest) -> Determinism {
        let status = self.health.status();
        let Some(device) = status.devices.get(self.device) else { return determinism };
        let mut known = device.checkpoints.iter();
        let current = known.find(|known| known.answers_to(checkpoint)).map_or(checkpoint, |known| known.digest);
        match device.self_tests.iter().find(|test| test.digest == current) {
            Some(test) if !test.is_equal => {
                Determinism { class: format!("{}/unequal", determinism.class), ..determinism }
            }
            _ => determinism,
        }
    }
}

impl Bench {
    /// The settling thread.
    fn settle_all(&self, receiver: &Receiver<Drawn>) {
        while let Ok(drawn) = receiver.recv() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.settle(&drawn))) {
                self.panicked(&drawn.job, panic.as_ref());
            }
        }
    }

    fn settle(&self, drawn: &Drawn) {
        let Drawn { job, generated, determinism, cost } = drawn;
        let _of = job.span.enter();
        let id = job.recipe.id();
        let mut open = vec![job.dedup.clone()];
        while !open.is_empty() {
            let mut answers = HashMap::new();
            for dedup in open {
                let settled = self.archive.settle(id, dedup.as_ref(), &generated.pixels, determinism);
                let settled = settled.map_err(|error| {
                    log_limited!(error, recipe = %id, %error, "master not stored");
                    GenerationError::from(&error)
                });
                answers.insert(dedup, settled);
            }
            open = self.board.deliver(id, &answers, Some(cost));
        }
    }

    fn panicked(&self, job: &StartedJob, panic: &(dyn Any + Send)) {
        self.metrics.panics_total.inc();
        let _of = job.span.enter();
        log_limited!(error, recipe = %job.recipe.id(), defect = message(panic), "a job ended at a defect");
        self.board.fail(job.recipe.id(), &GenerationError::Panicked);
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
