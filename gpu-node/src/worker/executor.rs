//! The device thread's loop: which requests make their next step, together or alone.
//!
//! Before every step the most urgent request leads; those that can share its forward pass go along. A more urgent one that
//! waits is begun at once and leads from then on, so it waits for one step of another request, never for a whole picture. Among
//! equally urgent ones the first begun leads, so that pictures are finished one after the other instead of all late. A request
//! without callers is dropped between steps.
//!
//! Invariant: sharing a pass changes no request's pixels; the engine sees to it ([`Engine::step`]).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::urgency::Urgency;

use super::bench::DeviceBench;
use super::settle::Drawn;
use crate::board::{Cost, Due, Standing, StartedJob};
use crate::endings::{ENDINGS_MAX, Mark};
use crate::engine::{DrawingId, Engine, EngineError, Finished};
use crate::error::GenerationError;

/// Requests that may have begun and not ended; beyond it only the queue grows.
const BEGUN_MAX: usize = 64;

/// A request that has begun.
#[derive(Debug)]
struct Begun {
    job: StartedJob,
    drawing: DrawingId,
    urgency: Urgency,
    started_at: Instant,
    text_ms: f64,
    denoise_ms: f64,
    /// Its share of the time of its passes.
    device_s: f64,
}

/// The requests on the device, in the order in which they began.
pub(super) struct Executor<'a> {
    bench: &'a DeviceBench,
    engine: &'a mut dyn Engine,
    sender: &'a SyncSender<Drawn>,
    begun: Vec<Begun>,
    /// How many of the board's nudges have been acted upon.
    nudges: u64,
    /// A waiting request is more urgent than all that have begun, and needs more memory than is left.
    room_is_wanted: bool,
    /// Why the device is lost, once it is.
    lost: Option<EngineError>,
    /// Names the recipes that the device is working on, in case it ends over one of them.
    mark: Mark,
}

impl<'a> Executor<'a> {
    pub(super) fn new(bench: &'a DeviceBench, engine: &'a mut dyn Engine, sender: &'a SyncSender<Drawn>) -> Self {
        let mark = bench.endings.mark_of(bench.device);
        Self { bench, engine, sender, begun: Vec::new(), nudges: 0, room_is_wanted: false, lost: None, mark }
    }

    /// Runs until the board is closed.
    ///
    /// # Errors
    /// When the device is lost. The callers of begun requests have been told.
    pub(super) fn run(&mut self) -> Result<(), EngineError> {
        loop {
            if let Some(error) = self.lost.take() {
                self.end(&error);
                return Err(error);
            }
            self.bench.refresh(self.engine);
            if self.begun.is_empty() {
                self.mark.clear();
                match self.bench.board.next(&mut self.nudges) {
                    Due::Job(job) => self.begin(job),
                    Due::Nudge => {}
                    Due::Closed => return Ok(()),
                }
                continue;
            }
            self.drop_unwanted();
            self.begin_more_urgent();
            self.advance();
            let begun = i64::try_from(self.begun.len()).unwrap_or(i64::MAX);
            self.bench.metrics.begun_jobs.set(begun);
        }
    }

    /// A step of the leader and its companions. It stops where the device is lost: every later call would fail in the same way,
    /// and the mark names the requests that it was lost to.
    fn advance(&mut self) {
        if self.lost.is_some() {
            return;
        }
        let Some(leader) = self.leader() else { return };
        let group = self.group(leader);
        if self.lost.is_some() {
            return;
        }
        self.step(&group);
        if self.lost.is_some() {
            return;
        }
        self.tell(&group);
        self.finish(&group);
    }

    /// Counts the end of the device against the requests it was working on. Those callers are told why, the others to come
    /// back.
    fn end(&mut self, error: &EngineError) {
        let is_alone = self.mark.recipes().len() == 1;
        for recipe in self.mark.recipes() {
            self.bench.endings.add(*recipe, &error.to_string());
        }
        for begun in self.begun.drain(..) {
            let id = begun.job.recipe.id();
            if self.mark.recipes().contains(&id) {
                self.bench.failed(&begun.job, error, is_alone);
            } else {
                self.bench.board.fail(id, &GenerationError::NotReady { reason: error.to_string() });
            }
        }
        self.mark.clear();
    }

    /// Takes up a job, unless it has been answered meanwhile or cannot be drawn.
    fn begin(&mut self, job: StartedJob) {
        if self.bench.is_answered_from_store(&job) {
            return;
        }
        // A master that could not be stored is not drawn.
        if let Err(error) = self.bench.archive.store().check_room() {
            return self.bench.board.fail(job.recipe.id(), &(&error).into());
        }
        let endings = self.bench.endings.count(job.recipe.id());
        if endings >= ENDINGS_MAX {
            return self.bench.board.fail(job.recipe.id(), &GenerationError::EndsDevices { endings });
        }
        self.mark.set(vec![job.recipe.id()]);
        let started_at = Instant::now();
        let begun = catch_unwind(AssertUnwindSafe(|| self.engine.begin(&job.recipe)));
        let device_s = self.busy_since(started_at);
        match begun {
            Ok(Ok(drawing)) => self.begun.push(Begun {
                urgency: Urgency::DEFAULT,
                job,
                drawing,
                started_at,
                text_ms: device_s * 1e3,
                denoise_ms: 0.0,
                device_s,
            }),
            Ok(Err(error)) => self.failed(&job, &error),
            Err(panic) => self.bench.panicked(&job, panic.as_ref()),
        }
    }

    /// Ends a job with its error, and does what the error means for the device.
    fn failed(&mut self, job: &StartedJob, error: &EngineError) {
        match error {
            EngineError::OutOfMemory { .. } => self.engine.free_memory(),
            EngineError::DeviceLost { .. } => self.lost = Some(error.clone()),
            _ => {}
        }
        self.bench.failed(job, error, self.mark.recipes().len() == 1);
    }

    fn busy_since(&self, started_at: Instant) -> f64 {
        let seconds = started_at.elapsed().as_secs_f64();
        self.bench.metrics.device_busy_seconds_total.inc_by(seconds);
        seconds
    }

    /// Asks the board about all that have begun: takes over their urgencies, and drops those without callers.
    fn drop_unwanted(&mut self) {
        let ids: Vec<_> = self.begun.iter().map(|begun| begun.job.recipe.id()).collect();
        let standings = self.bench.board.standings(&ids);
        let mut at = 0;
        for standing in standings {
            match standing {
                Standing::Wanted(urgency) => {
                    self.begun[at].urgency = urgency;
                    at += 1;
                }
                Standing::Unwanted => {
                    let dropped = self.begun.remove(at);
                    self.engine.abandon(dropped.drawing);
                    let id = dropped.job.recipe.id();
                    tracing::debug!(recipe = %id, "no caller waits any more: stopped between steps");
                    self.bench.board.stopped(id);
                }
            }
        }
    }

    /// Begins waiting requests that are more urgent than all that have begun.
    fn begin_more_urgent(&mut self) {
        while let Some(most_urgent) = self.begun.iter().map(|begun| begun.urgency).min() {
            if self.begun.len() >= BEGUN_MAX {
                return;
            }
            let engine = &*self.engine;
            let does_not_fit = Cell::new(false);
            let taken = self.bench.board.take_first(|rank, recipe| {
                if rank.urgency >= most_urgent {
                    return false;
                }
                let has_room = engine.has_room(recipe);
                does_not_fit.set(does_not_fit.get() || !has_room);
                has_room
            });
            // Where memory is full it waits for those that have begun, and no less urgent request takes their place.
            self.room_is_wanted = does_not_fit.get();
            let Some(job) = taken else { return };
            let before = self.begun.len();
            self.begin(job);
            if self.lost.is_some() {
                return;
            }
            if self.begun.len() > before {
                // It is the most urgent now, until the board is asked again.
                return self.drop_unwanted();
            }
        }
    }

    /// The most urgent; of equals the first begun.
    fn leader(&self) -> Option<usize> {
        (0..self.begun.len()).min_by_key(|at| (self.begun[*at].urgency, *at))
    }

    /// The leader and its companions in the next pass: begun ones first, then waiting ones that may join.
    fn group(&mut self, leader: usize) -> Vec<DrawingId> {
        let drawing = self.begun[leader].drawing;
        let endings = &self.bench.endings;
        let mut group = vec![drawing];
        if endings.is_suspect(self.begun[leader].job.recipe.id()) {
            // If the device ends again, it is known over which recipe.
            return group;
        }
        let most = self.engine.companions_max(drawing) + 1;
        let mut others: Vec<usize> = (0..self.begun.len()).filter(|at| *at != leader).collect();
        others.sort_by_key(|at| (self.begun[*at].urgency, *at));
        let shares =
            |begun: &Begun| self.engine.may_share(drawing, begun.drawing) && !endings.is_suspect(begun.job.recipe.id());
        group.extend(
            others.iter().map(|at| &self.begun[*at]).filter(|begun| shares(begun)).map(|b| b.drawing).take(most - 1),
        );
        while group.len() < most && self.begun.len() < BEGUN_MAX && !self.room_is_wanted && self.lost.is_none() {
            let engine = &*self.engine;
            let joins = |waiting: &ValidRecipe| {
                engine.may_join(drawing, waiting) && engine.has_room(waiting) && !endings.is_suspect(waiting.id())
            };
            let Some(job) = self.bench.board.take_first(|_, waiting| joins(waiting)) else { break };
            let before = self.begun.len();
            self.begin(job);
            if let Some(begun) = self.begun.get(before)
                && self.engine.may_share(drawing, begun.drawing)
            {
                group.push(begun.drawing);
            }
        }
        group
    }

    /// One step of a group. When a shared pass fails, its members make the step alone: one of them may be at fault.
    fn step(&mut self, group: &[DrawingId]) {
        self.mark_group(group);
        let started_at = Instant::now();
        let stepped = catch_unwind(AssertUnwindSafe(|| self.engine.step(group)));
        let seconds = self.busy_since(started_at);
        self.bench.metrics.passes_total.inc();
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let share = seconds / group.len().max(1) as f64;
        for begun in self.begun.iter_mut().filter(|begun| group.contains(&begun.drawing)) {
            begun.denoise_ms += seconds * 1e3;
            begun.device_s += share;
        }
        match stepped {
            Ok(Ok(results)) => {
                for (drawing, result) in group.iter().zip(results) {
                    self.bench.metrics.steps_total.inc();
                    if let Err(error) = result {
                        self.fail(*drawing, &error);
                    }
                    if self.lost.is_some() {
                        return;
                    }
                }
            }
            Ok(Err(error)) => match group {
                [drawing] => self.fail(*drawing, &error),
                several if matches!(error, EngineError::DeviceLost { .. }) => {
                    several.iter().for_each(|drawing| self.fail(*drawing, &error));
                }
                several => {
                    log_limited!(warn, %error, requests = several.len(), "a shared pass failed: each goes on alone");
                    if matches!(error, EngineError::OutOfMemory { .. }) {
                        self.engine.free_memory();
                    }
                    for drawing in several {
                        if self.lost.is_some() {
                            return;
                        }
                        self.step(&[*drawing]);
                    }
                }
            },
            Err(panic) => {
                for drawing in group {
                    if let Some(begun) = self.remove(*drawing) {
                        self.bench.panicked(&begun.job, panic.as_ref());
                    }
                }
            }
        }
    }

    /// Names the recipes of a group in the mark: the device works on them from here on.
    fn mark_group(&mut self, group: &[DrawingId]) {
        let marked = self.begun.iter().filter(|begun| group.contains(&begun.drawing));
        self.mark.set(marked.map(|begun| begun.job.recipe.id()).collect());
    }

    /// Reports how far the requests of a group are.
    fn tell(&self, group: &[DrawingId]) {
        let stepped = self.begun.iter().filter(|begun| group.contains(&begun.drawing));
        self.bench.board.advanced(stepped.map(|begun| (begun.job.recipe.id(), self.engine.progress(begun.drawing))));
    }

    fn finish(&mut self, group: &[DrawingId]) {
        for drawing in group {
            if self.lost.is_some() {
                return;
            }
            if self.begun.iter().any(|begun| begun.drawing == *drawing) && self.engine.is_done(*drawing) {
                self.decode(*drawing);
            }
        }
    }

    fn decode(&mut self, drawing: DrawingId) {
        self.mark_group(&[drawing]);
        let started_at = Instant::now();
        let finished = catch_unwind(AssertUnwindSafe(|| self.engine.finish(drawing)));
        let decode_s = self.busy_since(started_at);
        let Some(begun) = self.remove(drawing) else { return };
        match finished {
            Ok(Ok(Finished { pixels, determinism })) => {
                let Begun { job, started_at, text_ms, denoise_ms, device_s, .. } = begun;
                let (decode_ms, gpu_ms) = (decode_s * 1e3, (device_s + decode_s) * 1e3);
                let cost = self.bench.charge(Cost { started_at, text_ms, denoise_ms, decode_ms, gpu_ms });
                let determinism = self.bench.judged(determinism, job.recipe.checkpoint);
                let id = job.recipe.id();
                self.bench.endings.forgive(id);
                if self.sender.send(Drawn { job, pixels, determinism, cost }).is_err() {
                    self.bench.board.fail(id, &GenerationError::Panicked);
                }
            }
            Ok(Err(error)) => self.failed(&begun.job, &error),
            Err(panic) => self.bench.panicked(&begun.job, panic.as_ref()),
        }
    }

    fn fail(&mut self, drawing: DrawingId, error: &EngineError) {
        if let Some(begun) = self.remove(drawing) {
            self.failed(&begun.job, error);
        }
    }

    /// Forgets a request here and at the engine.
    fn remove(&mut self, drawing: DrawingId) -> Option<Begun> {
        let at = self.begun.iter().position(|begun| begun.drawing == drawing)?;
        self.engine.abandon(drawing);
        Some(self.begun.remove(at))
    }
}
