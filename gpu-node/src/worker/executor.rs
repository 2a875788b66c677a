//! The device thread's loop: it takes turns as [`turns`](crate::turns) decides, and makes them.
//!
//! A turn is one pass of a network, for the job that leads and those that share its pass, or one decoding. Before each of them
//! all jobs are looked at, begun or waiting, so the most urgent one waits for a turn or two of others and never for a whole
//! picture, a group's decodings included. A job without callers is dropped between turns.
//!
//! Invariant: sharing a pass changes no job's pixels; the engine sees to it ([`Engine::step`]).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;

use super::bench::DeviceBench;
use super::settle::Drawn;
use crate::board::{Cost, Due, Leader, Seen, Standing, StartedJob};
use crate::endings::{ENDINGS_MAX, Mark};
use crate::engine::{DrawingId, Engine, EngineError, Finished, NextProbe, Presence};
use crate::error::GenerationError;
use crate::queue::{Claim, Done, Place};
use crate::turns::{Choice, Company, Fit, ProbeDue, Turns};

/// Requests that may have begun and not ended; beyond it only the queue grows.
const BEGUN_MAX: usize = 64;

/// A request that has begun.
#[derive(Debug)]
struct Begun {
    job: StartedJob,
    drawing: DrawingId,
    /// With the urgency and the deadline of the callers that wait now.
    claim: Claim,
    started_at: Instant,
    text_ms: f64,
    denoise_ms: f64,
    /// Its share of the time of its passes.
    device_s: f64,
    /// Its networks were fetched for it.
    is_fetched: bool,
    has_stepped: bool,
}

/// The requests on the device, in the order in which they began.
pub(super) struct Executor<'a> {
    bench: &'a DeviceBench,
    engine: &'a mut dyn Engine,
    sender: &'a SyncSender<Drawn>,
    begun: Vec<Begun>,
    turns: Turns,
    seen: Seen,
    /// Jobs wait, and the networks of none are at hand.
    is_stalled: bool,
    /// Recipes that networks are fetched for.
    fetched: HashSet<RecipeId>,
    /// A waiting request comes before all that have begun, and needs more memory than is left.
    room_is_wanted: bool,
    /// Why the device is lost, once it is.
    lost: Option<EngineError>,
    /// Names the recipes that the device is working on, in case it ends over one of them.
    mark: Mark,
}

impl<'a> Executor<'a> {
    pub(super) fn new(bench: &'a DeviceBench, engine: &'a mut dyn Engine, sender: &'a SyncSender<Drawn>) -> Self {
        let (mark, begun, turns) = (bench.endings.mark_of(bench.device), Vec::new(), Turns::default());
        Self {
            bench,
            engine,
            sender,
            begun,
            turns,
            seen: Seen::default(),
            is_stalled: false,
            fetched: HashSet::new(),
            room_is_wanted: false,
            lost: None,
            mark,
        }
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
            self.drop_unwanted();
            self.advance();
            let begun = i64::try_from(self.begun.len()).unwrap_or(i64::MAX);
            self.bench.metrics.begun_jobs.set(begun);
            self.bench.report_probes(self.engine.probes());
            self.bench.report_encoded(self.engine);
            if self.begun.is_empty() && self.lost.is_none() {
                self.mark.clear();
                if self.engine.next_probe().is_none()
                    && matches!(self.bench.board.wait(&mut self.seen, self.is_stalled), Due::Closed)
                {
                    return Ok(());
                }
                if self.bench.board.is_closed() {
                    return Ok(());
                }
            }
        }
    }

    /// A turn of the leader and its companions. It stops where the device is lost: every later call would fail in the same way,
    /// and the mark names the requests that it was lost to.
    fn advance(&mut self) {
        let begins = Instant::now();
        let Some((choice, leader)) = self.lead() else { return };
        let Some(leader) = leader else {
            self.turns.made(&choice, std::iter::empty());
            return self.probe();
        };
        let Begun { drawing, claim, .. } = self.begun[leader];
        if self.engine.is_done(drawing) {
            self.turns.made(&choice, std::iter::once(claim.sequence));
            self.decode(drawing);
        } else if self.engine.is_between_parts(drawing) {
            self.turns.made(&choice, std::iter::once(claim.sequence));
            self.go_on(drawing);
        } else {
            self.pass(&choice, leader);
        }
        self.bench.board.used(claim.urgency, begins.elapsed());
    }

    /// A pass of the leader and those that go along.
    fn pass(&mut self, choice: &Choice, leader: usize) {
        let group = self.group(leader);
        if self.lost.is_some() {
            return;
        }
        let members = self.begun.iter().filter(|begun| group.contains(&begun.drawing));
        self.turns.made(choice, members.map(|begun| begun.claim.sequence));
        self.step(&group);
        if self.lost.is_none() {
            self.tell(&group);
        }
    }

    /// Who leads the next turn, by its place among those that have begun: a waiting one is begun. No place: a probe is made.
    fn lead(&mut self) -> Option<(Choice, Option<usize>)> {
        self.fetch();
        let (engine, is_full) = (&*self.engine, self.begun.len() >= BEGUN_MAX);
        let claims = self.begun.iter().map(|begun| (begun.claim, self.done(begun)));
        let fit = |recipe: &ValidRecipe| match engine.presence(recipe) {
            Presence::Away => Fit::Away,
            Presence::Here if !is_full && engine.has_room(recipe) => Fit::Fits,
            Presence::Here | Presence::Coming => Fit::NoRoom,
        };
        let probe = match self.engine.next_probe() {
            None => ProbeDue::No,
            Some(NextProbe { is_wanted: false, .. }) => ProbeDue::Idle,
            Some(NextProbe { is_wanted: true, .. }) => ProbeDue::Wanted,
        };
        let led = self.bench.board.lead(&self.turns, &claims.collect::<Vec<_>>(), probe, fit);
        self.is_stalled = led.is_none();
        let (choice, leader) = led?;
        // Where memory is full it waits for those that have begun, and no other request takes its place.
        self.room_is_wanted = choice.room_is_wanted;
        match leader {
            Leader::Begun(at) => Some((choice, Some(at))),
            Leader::Probe => Some((choice, None)),
            Leader::Started(job) => {
                let before = self.begun.len();
                self.begin(job);
                (self.begun.len() > before && self.lost.is_none()).then_some((choice, Some(before)))
            }
        }
    }

    /// Has networks fetched that the first of the waiting jobs lacks. It and others go on waiting, and hold nobody up.
    fn fetch(&mut self) {
        let engine = &*self.engine;
        let is_away = |recipe: &ValidRecipe| engine.presence(recipe) == Presence::Away;
        let Some(recipe) = self.bench.board.first(is_away) else { return };
        if self.fetched.len() >= BEGUN_MAX {
            self.fetched.clear();
        }
        self.fetched.insert(recipe.id());
        self.engine.fetch(&recipe);
    }

    /// A pass that finds out what lets requests share passes. No caller waits for it, and none is told where it fails.
    fn probe(&mut self) {
        self.mark.set(self.engine.next_probe().iter().map(|probe| probe.recipe).collect());
        let started_at = Instant::now();
        let probed = catch_unwind(AssertUnwindSafe(|| self.engine.probe()));
        self.bench.metrics.probe_seconds_total.inc_by(started_at.elapsed().as_secs_f64());
        self.bench.metrics.probe_passes_total.inc();
        match probed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                log_limited!(warn, %error, "a probe failed: requests of its class run alone");
                if matches!(error, EngineError::DeviceLost { .. }) {
                    self.lost = Some(error);
                }
            }
            Err(panic) => self.bench.probe_panicked(panic.as_ref()),
        }
    }

    fn done(&self, begun: &Begun) -> Done {
        let (done, of) = self.engine.progress(begun.drawing);
        if self.engine.is_done(begun.drawing) { Done::All } else { Done::Part(f64::from(done) / f64::from(of.max(1))) }
    }

    fn place(&self, begun: &Begun) -> Place {
        begun.claim.place(self.done(begun), Instant::now())
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
        let id = job.recipe.id();
        self.mark.set(vec![id]);
        let started_at = Instant::now();
        let begun = catch_unwind(AssertUnwindSafe(|| self.engine.begin(&job.recipe)));
        let device_s = self.busy_since(started_at);
        match begun {
            Ok(Ok(drawing)) => self.begun.push(Begun {
                claim: job.claim,
                job,
                drawing,
                started_at,
                text_ms: device_s * 1e3,
                denoise_ms: 0.0,
                device_s,
                is_fetched: self.fetched.remove(&id),
                has_stepped: false,
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
                Standing::Wanted { urgency, deadline } => {
                    let claim = &mut self.begun[at].claim;
                    (claim.urgency, claim.deadline) = (urgency, deadline);
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

    /// The leader and those that go along in the next pass, begun or waiting, the first ones first.
    fn group(&mut self, leader: usize) -> Vec<DrawingId> {
        let drawing = self.begun[leader].drawing;
        let endings = &self.bench.endings;
        if endings.is_suspect(self.begun[leader].job.recipe.id()) {
            // If the device ends again, it is known over which recipe.
            return vec![drawing];
        }
        let companions_max = self.engine.companions_max(drawing);
        let mut company = Company::new(companions_max);
        for begun in self.begun.iter().filter(|begun| begun.drawing != drawing && !self.engine.is_done(begun.drawing)) {
            let shares = self.engine.may_share(drawing, begun.drawing) && !endings.is_suspect(begun.job.recipe.id());
            let place = self.place(begun);
            if shares && company.takes(&place) {
                company.add(place, begun.drawing);
            }
        }
        // To begin is to encode texts and pictures. One that cannot share the pass after all has cost that as well, so the turn has no
        // more beginnings than companions: a more urgent job would wait for all of them.
        let mut beginnings = 0..companions_max;
        while self.begun.len() < BEGUN_MAX && !self.room_is_wanted && self.lost.is_none() {
            let engine = &*self.engine;
            let joins = |waiting: &ValidRecipe| {
                let is_here = engine.presence(waiting) == Presence::Here;
                is_here
                    && engine.may_join(drawing, waiting)
                    && engine.has_room(waiting)
                    && !endings.is_suspect(waiting.id())
            };
            if beginnings.next().is_none() {
                break;
            }
            let taken = self.bench.board.take_first(|place, waiting| company.takes(place) && joins(waiting));
            let Some((place, job)) = taken else { break };
            let before = self.begun.len();
            self.begin(job);
            if let Some(begun) = self.begun.get(before)
                && self.engine.may_share(drawing, begun.drawing)
            {
                company.add(place, begun.drawing);
            }
        }
        std::iter::once(drawing).chain(company.into_members()).collect()
    }

    /// One step of a group. When a shared pass fails, its members make the step alone: one of them may be at fault.
    fn step(&mut self, group: &[DrawingId]) {
        self.mark_group(group);
        self.bench.metrics.padding_total.inc_by(self.engine.padding(group) as u64);
        let started_at = Instant::now();
        let stepped = catch_unwind(AssertUnwindSafe(|| self.engine.step(group)));
        let seconds = self.busy_since(started_at);
        self.bench.metrics.passes_total.inc();
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let share = seconds / group.len().max(1) as f64;
        for begun in self.begun.iter_mut().filter(|begun| group.contains(&begun.drawing)) {
            begun.denoise_ms += seconds * 1e3;
            begun.device_s += share;
            if !std::mem::replace(&mut begun.has_stepped, true) {
                let networks = if begun.is_fetched { "fetched" } else { "at_hand" };
                let seconds = begun.claim.queued_at.elapsed().as_secs_f64();
                self.bench.metrics.first_step_seconds.with_label_values(&[networks]).observe(seconds);
            }
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

    /// The turn between two parts of a drawing.
    fn go_on(&mut self, drawing: DrawingId) {
        self.mark_group(&[drawing]);
        let started_at = Instant::now();
        let gone_on = catch_unwind(AssertUnwindSafe(|| self.engine.go_on(drawing)));
        let seconds = self.busy_since(started_at);
        if let Some(begun) = self.begun.iter_mut().find(|begun| begun.drawing == drawing) {
            begun.denoise_ms += seconds * 1e3;
            begun.device_s += seconds;
        }
        match gone_on {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(drawing, &error),
            Err(panic) => {
                if let Some(begun) = self.remove(drawing) {
                    self.bench.panicked(&begun.job, panic.as_ref());
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
