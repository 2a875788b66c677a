//! Callers and the jobs they wait for: callers in, one job per recipe, answers out.
//!
//! The board is the only state that callers (async), the device threads and the settling threads share. Invariants:
//! - a recipe has at most one job for any number of callers (joining);
//! - a job waits in the queue exactly while its stage is [`JobStage::Queued`];
//! - a job's urgency and deadline are those of its most pressing caller, at any time;
//! - a caller that leaves, by hanging up or by its deadline, frees its place at once; a job without callers is
//!   dropped before it starts and stopped between steps;
//! - the number of jobs and of callers is bounded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{DedupScope, GenerationSource, GenerationState, GenerationStatus, Timings};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};
use tracing::Span;

use crate::archive::{Settled, Settlement};
use crate::config::QueueConfig;
use crate::error::GenerationError;
use crate::metrics::{DropStage, NodeMetrics};
use crate::pace::Pace;
use crate::queue::{Ageing, Asked, Claim, Done, Place, Queue};
use crate::turns::{Choice, Fit, Lead, ProbeDue, Turns};

/// A validated request for a master.
#[derive(Debug, Clone)]
pub struct Generation {
    pub recipe: ValidRecipe,
    pub urgency: Urgency,
    pub deadline: Instant,
    pub dedup: Option<DedupScope>,
    /// The span of its log lines.
    pub span: Span,
}

/// How a generation ended well, for one caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub settlement: Settlement,
    pub source: GenerationSource,
    pub timings: Timings,
    pub gpu_ms: f64,
}

/// What a drawing cost, as its callers are told.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub started_at: Instant,
    pub text_ms: f64,
    pub denoise_ms: f64,
    pub decode_ms: f64,
    pub gpu_ms: f64,
}

/// A job handed to the device thread.
#[derive(Debug, Clone)]
pub(crate) struct StartedJob {
    pub(crate) recipe: Arc<ValidRecipe>,
    /// The first caller's scope; later callers' may differ.
    pub(crate) dedup: Option<DedupScope>,
    /// The first caller's span.
    pub(crate) span: Span,
    /// As it was when it was handed over.
    pub(crate) claim: Claim,
}

/// Who leads a device's next turn.
#[derive(Debug)]
pub(crate) enum Leader {
    /// A job that has begun, by its place in the list.
    Begun(usize),
    Started(StartedJob),
    /// No job: a probe.
    Probe,
}

/// What the device thread is woken for.
#[derive(Debug)]
pub enum Due {
    /// See [`Board::lead`].
    Job,
    /// Something other than jobs has changed: see [`Board::nudge`].
    Nudge,
    Closed,
}

/// What a device thread has seen of a board.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    nudges: u64,
    arrivals: u64,
}

/// Whether a begun job still has callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// With the urgency and the deadline of the most pressing caller.
    Wanted {
        urgency: Urgency,
        deadline: Instant,
    },
    Unwanted,
}

/// How a recipe was settled in each scope that was asked for.
pub(crate) type Settlements = HashMap<Option<DedupScope>, Result<Settled, GenerationError>>;

type CallerReply = Result<Outcome, GenerationError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JobStage {
    Queued,
    Running,
}

#[derive(Debug)]
struct Waiter {
    seat: u64,
    urgency: Urgency,
    deadline: Instant,
    arrived_at: Instant,
    dedup: Option<DedupScope>,
    reply: oneshot::Sender<CallerReply>,
}

#[derive(Debug)]
struct Job {
    recipe: Arc<ValidRecipe>,
    dedup: Option<DedupScope>,
    span: Span,
    stage: JobStage,
    queued_at: Instant,
    /// Whether the cost has been told to a caller as its own: to the first one; the others joined.
    is_charged: bool,
    waiters: Vec<Waiter>,
    progress: Progress,
}

/// How far a running job is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    step: u32,
    of: u32,
    begun_at: Option<Instant>,
}

impl Progress {
    /// The time from now to the last step, at the pace so far.
    fn eta(&self, now: Instant) -> Option<Duration> {
        let left = self.of.saturating_sub(self.step);
        let spent = now.saturating_duration_since(self.begun_at?);
        (self.step > 0).then(|| spent.mul_f64(f64::from(left) / f64::from(self.step)))
    }
}

impl Job {
    /// Urgency and deadline of its most pressing caller; `None` without callers.
    fn pressing(&self) -> Option<(Urgency, Instant)> {
        self.waiters.iter().map(|waiter| (waiter.urgency, waiter.deadline)).min()
    }

    /// What it asks the queue for; `None` without callers.
    fn asks(&self) -> Option<Asked> {
        let (urgency, deadline) = self.pressing()?;
        Some(Asked { urgency, deadline, queued_at: self.queued_at })
    }

    fn is_wanted(&self, now: Instant) -> bool {
        self.waiters.iter().any(|waiter| waiter.deadline > now)
    }

    fn dismiss(self, error: &GenerationError) {
        for waiter in self.waiters {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }
}

#[derive(Debug)]
struct State {
    queue: Queue,
    jobs: HashMap<RecipeId, Job>,
    waiters: usize,
    next_seat: u64,
    is_closed: bool,
    nudges: u64,
    /// Counts jobs that came to the queue.
    arrivals: u64,
    /// What jobs take of a device.
    pace: Pace,
}

/// The meeting place of callers and device.
#[derive(Debug)]
pub struct Board {
    state: Mutex<State>,
    due: Condvar,
    /// Counts the changes that a status may show.
    changes: watch::Sender<u64>,
    waiters_max: usize,
    metrics: Arc<NodeMetrics>,
}

impl Board {
    #[must_use]
    pub fn new(config: &QueueConfig, metrics: Arc<NodeMetrics>) -> Arc<Self> {
        let ageing = Ageing { after: Duration::from_millis(config.age_ms) };
        let state = State {
            queue: Queue::new(config.jobs_max, ageing),
            jobs: HashMap::new(),
            waiters: 0,
            next_seat: 0,
            is_closed: false,
            nudges: 0,
            arrivals: 0,
            pace: Pace::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            due: Condvar::new(),
            changes: watch::Sender::new(0),
            waiters_max: config.waiters_max,
            metrics,
        })
    }

    /// Takes a place: joins the recipe's job or starts one.
    ///
    /// # Errors
    /// [`GenerationError::QueueFull`] and [`GenerationError::ShuttingDown`].
    pub fn submit(self: &Arc<Self>, generation: Generation) -> Result<Ticket, GenerationError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(GenerationError::ShuttingDown);
        }
        if state.waiters >= self.waiters_max {
            return Err(state.full("all places for callers"));
        }
        let id = generation.recipe.id();
        let (reply, receiver) = oneshot::channel();
        let seat = state.next_seat;
        let deadline = generation.deadline;
        let waiter = Waiter {
            seat,
            urgency: generation.urgency,
            deadline,
            arrived_at: Instant::now(),
            dedup: generation.dedup,
            reply,
        };
        if state.jobs.contains_key(&id) {
            state.join(id, waiter);
            self.metrics.joined_total.inc();
        } else {
            state.open(id, generation.recipe, generation.span, waiter)?;
            self.due.notify_all();
        }
        state.next_seat += 1;
        state.waiters += 1;
        self.publish(&state);
        Ok(Ticket { receiver, deadline, _seat: Seat { board: Arc::clone(self), id, seat } })
    }

    /// Blocks a device thread until there is something to do: a job waits, or the board is closed, or it was nudged since `seen`,
    /// which is brought up to date. A thread that has looked at all jobs and can begin none (`is_stalled`) waits for another one
    /// to come.
    pub fn wait(&self, seen: &mut Seen, is_stalled: bool) -> Due {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return Due::Closed;
            }
            if std::mem::replace(&mut seen.nudges, state.nudges) != state.nudges {
                return Due::Nudge;
            }
            let has_come = std::mem::replace(&mut seen.arrivals, state.arrivals) != state.arrivals;
            if state.queue.len() > 0 && (has_come || !is_stalled) {
                return Due::Job;
            }
            self.due.wait(&mut state);
        }
    }

    /// The first waiting job's recipe that is `wanted`; the job goes on waiting.
    pub(crate) fn first(&self, wanted: impl Fn(&ValidRecipe) -> bool) -> Option<Arc<ValidRecipe>> {
        let state = self.state.lock();
        let recipe = |id| state.jobs.get(&id).map(|job| &job.recipe);
        let (_, id) = state.queue.first(|_, id| recipe(id).is_some_and(|recipe| wanted(recipe)))?;
        recipe(id).cloned()
    }

    /// Whether it takes and starts no job any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Wakes every device thread that waits for a job.
    pub fn nudge(&self) {
        self.state.lock().nudges += 1;
        self.due.notify_all();
    }

    /// Who leads a device's next turn, among those that have begun there and those that wait; a waiting job is started. `fit`
    /// says whether a recipe may begin beside those that have. `None` where there is nothing to do, or the board is closed.
    pub(crate) fn lead(
        &self,
        turns: &Turns,
        begun: &[(Claim, Done)],
        probe: ProbeDue,
        fit: impl Fn(&ValidRecipe) -> Fit,
    ) -> Option<(Choice, Leader)> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let now = Instant::now();
            state.queue.look_at(now);
            let jobs = &state.jobs;
            let fit = |id| jobs.get(&id).map_or(Fit::Fits, |job| fit(&job.recipe));
            let choice = turns.choose(now, begun, &state.queue, probe, fit)?;
            match choice.lead {
                Lead::Begun(at) => return Some((choice, Leader::Begun(at))),
                Lead::Probe => return Some((choice, Leader::Probe)),
                Lead::Waiting(id) => {
                    let started = self.start(&mut state, id);
                    self.publish(&state);
                    if let Some(started) = started {
                        return Some((choice, Leader::Started(started)));
                    }
                }
            }
        }
    }

    /// The first waiting job that is `wanted`, and its place; does not wait for one to come.
    pub(crate) fn take_first(&self, wanted: impl Fn(&Place, &ValidRecipe) -> bool) -> Option<(Place, StartedJob)> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        loop {
            let jobs = &state.jobs;
            let is_wanted = |place: &Place, id| jobs.get(&id).is_some_and(|job| wanted(place, &job.recipe));
            let (place, id) = state.queue.first(is_wanted)?;
            if let Some(started) = self.start(&mut state, id) {
                self.publish(&state);
                return Some((place, started));
            }
        }
    }

    /// A turn of this urgency has used a device for so long.
    pub(crate) fn used(&self, urgency: Urgency, time: Duration) {
        self.state.lock().queue.used(urgency, time);
    }

    /// How running jobs stand, asked between steps; in the order of `ids`.
    #[must_use]
    pub fn standings(&self, ids: &[RecipeId]) -> Vec<Standing> {
        let (state, now) = (self.state.lock(), Instant::now());
        let standing = |id: &RecipeId| {
            let job = state.jobs.get(id).filter(|job| !state.is_closed && job.is_wanted(now));
            match job.and_then(Job::pressing) {
                Some((urgency, deadline)) => Standing::Wanted { urgency, deadline },
                None => Standing::Unwanted,
            }
        };
        ids.iter().map(standing).collect()
    }

    /// Takes a job out of the queue and marks it as running, or drops it when every caller's deadline has passed.
    fn start(&self, state: &mut State, id: RecipeId) -> Option<StartedJob> {
        let (now, claim) = (Instant::now(), state.queue.remove(id)?);
        let job = state.jobs.get_mut(&id)?;
        if !job.is_wanted(now) {
            self.metrics.dropped_jobs_total.with_label_values(&[DropStage::Queued.as_str()]).inc();
            state.dismiss(id, &GenerationError::DeadlinePassed);
            return None;
        }
        job.stage = JobStage::Running;
        self.metrics.queue_wait_seconds.observe((now - job.queued_at).as_secs_f64());
        Some(StartedJob { recipe: Arc::clone(&job.recipe), dedup: job.dedup.clone(), span: job.span.clone(), claim })
    }

    /// After a drawing was stopped between steps: its job is queued again when a caller joined meanwhile, else dropped.
    pub fn stopped(&self, id: RecipeId) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let asked =
            state.jobs.get(&id).filter(|job| job.is_wanted(now)).and_then(|job| Some((job.asks()?, &job.recipe)));
        let asked = asked.map(|(asks, recipe)| (asks, state.pace.estimate(recipe)));
        let is_queued = asked.is_some_and(|(asks, cost)| !state.is_closed && state.queue.push(id, asks, cost).is_ok());
        if is_queued {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.stage = JobStage::Queued;
            }
            state.arrivals += 1;
            self.due.notify_all();
        } else {
            self.metrics.dropped_jobs_total.with_label_values(&[DropStage::Running.as_str()]).inc();
            let error = if state.is_closed { GenerationError::ShuttingDown } else { GenerationError::DeadlinePassed };
            state.dismiss(id, &error);
        }
        self.publish(&state);
    }

    /// Ends a job for all its callers.
    pub fn fail(&self, id: RecipeId, error: &GenerationError) {
        let mut state = self.state.lock();
        state.dismiss(id, error);
        self.publish(&state);
    }

    /// Answers the callers whose scopes `answers` has and returns the scopes of the others; without any the job is over.
    /// `cost` is `None` for answers from the store.
    pub fn deliver(&self, id: RecipeId, answers: &Settlements, cost: Option<&Cost>) -> Vec<Option<DedupScope>> {
        let mut state = self.state.lock();
        let Some(job) = state.jobs.get_mut(&id) else { return Vec::new() };
        let (covered, remaining) = std::mem::take(&mut job.waiters)
            .into_iter()
            .partition::<Vec<_>, _>(|waiter| answers.contains_key(&waiter.dedup));
        job.waiters = remaining;
        let open = scopes(&job.waiters);
        let mut is_charged = job.is_charged;
        job.is_charged |= cost.is_some() && !covered.is_empty();
        state.waiters -= covered.len();
        if open.is_empty() {
            let job = state.jobs.remove(&id);
            if let Some((job, cost)) = job.zip(cost) {
                state.pace.learn(&job.recipe, cost.gpu_ms / 1e3);
            }
        }
        self.publish(&state);
        drop(state);
        for waiter in covered {
            if let Some(answer) = answers.get(&waiter.dedup) {
                let cost = cost.map(|cost| (cost, !std::mem::replace(&mut is_charged, true)));
                let reply = answer.clone().map(|settled| outcome(settled, cost, waiter.arrived_at));
                // A caller that hung up meanwhile needs no answer.
                let _ = waiter.reply.send(reply);
            }
        }
        open
    }

    /// Takes and starts no job any more; all waiting callers are told.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waiting: Vec<_> = state.jobs.keys().copied().collect();
        for id in waiting {
            state.queue.remove(id);
            state.dismiss(id, &GenerationError::ShuttingDown);
        }
        self.publish(&state);
        self.due.notify_all();
    }

    fn leave(&self, id: RecipeId, seat: u64) {
        let mut state = self.state.lock();
        let Some(job) = state.jobs.get_mut(&id) else { return };
        let Some(place) = job.waiters.iter().position(|waiter| waiter.seat == seat) else { return };
        job.waiters.remove(place);
        let (stage, pressing) = (job.stage, job.pressing());
        state.waiters -= 1;
        match (stage, pressing) {
            (JobStage::Queued, Some((urgency, deadline))) => state.queue.change(id, urgency, deadline),
            (JobStage::Queued, None) => {
                state.queue.remove(id);
                state.jobs.remove(&id);
                self.metrics.dropped_jobs_total.with_label_values(&[DropStage::Queued.as_str()]).inc();
            }
            (JobStage::Running, _) => {}
        }
        self.publish(&state);
    }

    /// Tells how far running jobs are: steps made and steps there are.
    pub fn advanced(&self, jobs: impl Iterator<Item = (RecipeId, (u32, u32))>) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        for (id, (step, of)) in jobs {
            if let Some(job) = state.jobs.get_mut(&id) {
                let begun_at = job.progress.begun_at.or(Some(now));
                job.progress = Progress { step, of, begun_at };
            }
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes whenever something has happened that a status may show.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How a job stands; `None` where there is none.
    #[must_use]
    pub fn status(&self, id: RecipeId) -> Option<GenerationStatus> {
        let (state, now) = (self.state.lock(), Instant::now());
        let job = state.jobs.get(&id)?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let urgency = job.pressing().map(|(urgency, _)| urgency);
        let progress = job.progress;
        let status = match job.stage {
            JobStage::Running => GenerationStatus {
                step: progress.step,
                of: progress.of,
                eta_ms: progress.eta(now).map(millis),
                ..GenerationStatus::new(id, GenerationState::Running)
            },
            JobStage::Queued => {
                let position = state.queue.before(id);
                // A running job is half over, on average.
                let running = state.jobs.len() - state.queue.len().min(state.jobs.len());
                #[allow(clippy::cast_precision_loss, reason = "bounded by the queue")]
                let jobs = position as f64 + running as f64 / 2.0;
                GenerationStatus {
                    position: Some(position as u64),
                    estimated_start_ms: Some(millis(Duration::from_secs_f64(
                        (state.pace.job_s() * jobs).clamp(0.0, 1e6),
                    ))),
                    ..GenerationStatus::new(id, GenerationState::Queued)
                }
            }
        };
        Some(GenerationStatus { urgency, ..status })
    }

    fn publish(&self, state: &State) {
        self.changes.send_modify(|count| *count += 1);
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.queue_jobs.set(gauge(state.queue.len()));
        self.metrics.waiters.set(gauge(state.waiters));
        self.metrics.jobs_in_flight.set(gauge(state.jobs.len() - state.queue.len().min(state.jobs.len())));
    }
}

impl State {
    fn open(&mut self, id: RecipeId, recipe: ValidRecipe, span: Span, waiter: Waiter) -> Result<(), GenerationError> {
        let asks = Asked { urgency: waiter.urgency, deadline: waiter.deadline, queued_at: waiter.arrived_at };
        if self.queue.push(id, asks, self.pace.estimate(&recipe)).is_err() {
            return Err(self.full("all places for jobs"));
        }
        let job = Job {
            recipe: Arc::new(recipe),
            dedup: waiter.dedup.clone(),
            span,
            stage: JobStage::Queued,
            queued_at: waiter.arrived_at,
            is_charged: false,
            waiters: vec![waiter],
            progress: Progress::default(),
        };
        self.jobs.insert(id, job);
        self.arrivals += 1;
        Ok(())
    }

    fn join(&mut self, id: RecipeId, waiter: Waiter) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.waiters.push(waiter);
        if let (JobStage::Queued, Some((urgency, deadline))) = (job.stage, job.pressing()) {
            self.queue.change(id, urgency, deadline);
        }
    }

    fn remove(&mut self, id: RecipeId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.waiters -= job.waiters.len();
        Some(job)
    }

    fn dismiss(&mut self, id: RecipeId, error: &GenerationError) {
        if let Some(job) = self.remove(id) {
            job.dismiss(error);
        }
    }

    fn full(&self, what: &'static str) -> GenerationError {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let retry_after_s = (self.pace.job_s() * self.queue.len() as f64 / 2.0).clamp(1.0, 60.0).ceil() as u32;
        GenerationError::QueueFull { what, retry_after_s }
    }
}

/// The scopes that callers ask for, each one once, in the order in which it was first asked for.
fn scopes(waiters: &[Waiter]) -> Vec<Option<DedupScope>> {
    let mut seen = HashSet::new();
    waiters.iter().map(|waiter| &waiter.dedup).filter(|scope| seen.insert(*scope)).cloned().collect()
}

/// `cost` comes with whether this caller is charged with it: the first one is, the others joined.
fn outcome(settled: Settled, cost: Option<(&Cost, bool)>, arrived_at: Instant) -> Outcome {
    let Settled { settlement, dedup_ms } = settled;
    let Some((cost, is_first)) = cost else {
        let timings = Timings { dedup_ms, ..Timings::default() };
        return Outcome { settlement, source: GenerationSource::Stored, timings, gpu_ms: 0.0 };
    };
    let queue_ms = cost.started_at.saturating_duration_since(arrived_at).as_secs_f64() * 1e3;
    let Cost { text_ms, denoise_ms, decode_ms, .. } = *cost;
    let timings = Timings { queue_ms, text_ms, denoise_ms, decode_ms, dedup_ms };
    let (source, gpu_ms) =
        if is_first { (GenerationSource::Generated, cost.gpu_ms) } else { (GenerationSource::Joined, 0.0) };
    Outcome { settlement, source, timings, gpu_ms }
}

/// A caller's claim on an answer. Dropping it gives the place up.
#[derive(Debug)]
pub struct Ticket {
    receiver: oneshot::Receiver<CallerReply>,
    deadline: Instant,
    _seat: Seat,
}

impl Ticket {
    /// Waits for the answer, at most until the caller's deadline.
    ///
    /// # Errors
    /// The error that ended the job, or [`GenerationError::DeadlinePassed`].
    pub async fn outcome(mut self) -> Result<Outcome, GenerationError> {
        match tokio::time::timeout_at(self.deadline.into(), &mut self.receiver).await {
            Ok(Ok(reply)) => reply,
            // Only a closing board drops a sender without a message.
            Ok(Err(_)) => Err(GenerationError::ShuttingDown),
            Err(_) => Err(GenerationError::DeadlinePassed),
        }
    }
}

#[derive(Debug)]
struct Seat {
    board: Arc<Board>,
    id: RecipeId,
    seat: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.board.leave(self.id, self.seat);
    }
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::Digest;
    use bildkante_shared::recipe::Recipe;

    use super::*;

    #[test]
    fn a_scope_that_callers_ask_for_between_those_of_others_is_open_once() {
        let board = Board::new(&QueueConfig::default(), Arc::new(NodeMetrics::new().unwrap()));
        let recipe = Recipe::new(Digest::of_bytes(b"a checkpoint"), "a mug", (64, 64));
        let recipe = ValidRecipe::try_from(recipe).unwrap();
        let of = |scope: &str| Some(DedupScope { scope: scope.to_owned(), variant: "de".to_owned() });
        let generation = |dedup| Generation {
            recipe: recipe.clone(),
            urgency: Urgency::DEFAULT,
            deadline: Instant::now() + Duration::from_secs(60),
            dedup,
            span: Span::none(),
        };
        let scopes = [of("a"), of("b"), of("a"), None, of("b"), None];
        let _tickets = scopes.map(|dedup| board.submit(generation(dedup)).unwrap());
        assert_eq!(board.deliver(recipe.id(), &HashMap::new(), None), [of("a"), of("b"), None]);
    }
}
