//! Callers and the jobs they wait for: callers in, one job per recipe, answers out.
//!
//! The board is the only state that callers (async), the device thread and the settling thread share. Invariants:
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
use crate::queue::{Queue, Rank};

/// No age makes a job more urgent than this: what a page waits for comes first.
const AGED_URGENCY_MIN: u8 = 2;

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
pub struct StartedJob {
    pub recipe: Arc<ValidRecipe>,
    /// The first caller's scope; later callers' may differ.
    pub dedup: Option<DedupScope>,
    /// The first caller's span.
    pub span: Span,
}

/// What the device thread is woken for.
#[derive(Debug)]
pub enum Due {
    Job(StartedJob),
    /// Something other than jobs has changed: see [`Board::nudge`].
    Nudge,
    Closed,
}

/// Whether a begun job still has callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// By callers, with the urgency of the most pressing one or that of the job's age.
    Wanted(Urgency),
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
    /// Its place in the queue, by its most pressing caller and its age; `None` without callers.
    fn rank(&self, now: Instant, age: Duration) -> Option<Rank> {
        let rank = self.waiters.iter().map(|w| Rank { urgency: w.urgency, deadline: w.deadline }).min()?;
        Some(Rank { urgency: aged(rank.urgency, now.saturating_duration_since(self.queued_at), age), ..rank })
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

/// Waiting makes a job more urgent, a level for each `age`, up to the threshold of what a page waits for.
fn aged(urgency: Urgency, waited: Duration, age: Duration) -> Urgency {
    let levels = waited.as_millis().checked_div(age.as_millis()).unwrap_or(0);
    let levels = u8::try_from(levels).unwrap_or(u8::MAX);
    let floor = urgency.get().min(AGED_URGENCY_MIN);
    Urgency::new(urgency.get().saturating_sub(levels).max(floor)).unwrap_or(urgency)
}

#[derive(Debug)]
struct State {
    queue: Queue,
    jobs: HashMap<RecipeId, Job>,
    waiters: usize,
    next_seat: u64,
    is_closed: bool,
    nudges: u64,
    /// Exponentially weighted mean of a job's time on the device, for `Retry-After`.
    job_s: f64,
    /// After how long in the queue a job counts as one level more urgent.
    age: Duration,
    /// When the queue was last put in order by age.
    aged_at: Instant,
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
        let state = State {
            queue: Queue::new(config.jobs_max),
            jobs: HashMap::new(),
            waiters: 0,
            next_seat: 0,
            is_closed: false,
            nudges: 0,
            job_s: 1.0,
            age: Duration::from_millis(config.age_ms),
            aged_at: Instant::now(),
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
            self.due.notify_one();
        }
        state.next_seat += 1;
        state.waiters += 1;
        self.publish(&state);
        Ok(Ticket { receiver, deadline, _seat: Seat { board: Arc::clone(self), id, seat } })
    }

    /// Blocks a device thread until a job is due, the board is closed, or it was nudged since `nudges`, which is brought up to
    /// date.
    pub fn next(&self, nudges: &mut u64) -> Due {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return Due::Closed;
            }
            if std::mem::replace(nudges, state.nudges) != state.nudges {
                return Due::Nudge;
            }
            state.grow_older();
            while let Some(id) = state.queue.pop() {
                if let Some(started) = self.start(&mut state, id) {
                    self.publish(&state);
                    return Due::Job(started);
                }
            }
            self.publish(&state);
            self.due.wait(&mut state);
        }
    }

    /// Wakes every device thread that waits for a job.
    pub fn nudge(&self) {
        self.state.lock().nudges += 1;
        self.due.notify_all();
    }

    /// The first waiting job that is `wanted`; does not wait for one to come.
    pub fn take_first(&self, wanted: impl Fn(Rank, &ValidRecipe) -> bool) -> Option<StartedJob> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        state.grow_older();
        loop {
            let jobs = &state.jobs;
            let is_wanted = |(rank, id): &(Rank, RecipeId)| jobs.get(id).is_some_and(|job| wanted(*rank, &job.recipe));
            let (_, id) = state.queue.iter().find(is_wanted)?;
            state.queue.remove(id);
            if let Some(started) = self.start(&mut state, id) {
                self.publish(&state);
                return Some(started);
            }
        }
    }

    /// How running jobs stand, asked between steps; in the order of `ids`.
    #[must_use]
    pub fn standings(&self, ids: &[RecipeId]) -> Vec<Standing> {
        let (state, now) = (self.state.lock(), Instant::now());
        let standing = |id: &RecipeId| {
            let job = state.jobs.get(id).filter(|job| !state.is_closed && job.is_wanted(now));
            match job.and_then(|job| job.rank(now, state.age)) {
                Some(rank) => Standing::Wanted(rank.urgency),
                None => Standing::Unwanted,
            }
        };
        ids.iter().map(standing).collect()
    }

    /// Marks a popped job as running, or drops it when every caller's deadline has passed.
    fn start(&self, state: &mut State, id: RecipeId) -> Option<StartedJob> {
        let now = Instant::now();
        let job = state.jobs.get_mut(&id)?;
        if !job.is_wanted(now) {
            self.metrics.dropped_jobs_total.with_label_values(&[DropStage::Queued.as_str()]).inc();
            state.dismiss(id, &GenerationError::DeadlinePassed);
            return None;
        }
        job.stage = JobStage::Running;
        self.metrics.queue_wait_seconds.observe((now - job.queued_at).as_secs_f64());
        Some(StartedJob { recipe: Arc::clone(&job.recipe), dedup: job.dedup.clone(), span: job.span.clone() })
    }

    /// After a drawing was stopped between steps: its job is queued again when a caller joined meanwhile, else dropped.
    pub fn stopped(&self, id: RecipeId) {
        let mut state = self.state.lock();
        let (now, age) = (Instant::now(), state.age);
        let rank = state.jobs.get(&id).filter(|job| job.is_wanted(now)).and_then(|job| job.rank(now, age));
        let is_queued = rank.is_some_and(|rank| !state.is_closed && state.queue.push(id, rank).is_ok());
        if is_queued {
            if let Some(job) = state.jobs.get_mut(&id) {
                job.stage = JobStage::Queued;
            }
            self.due.notify_one();
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
            state.jobs.remove(&id);
            state.job_s = cost.map_or(state.job_s, |cost| 0.8 * state.job_s + 0.2 * cost.gpu_ms / 1e3);
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
        let stage = job.stage;
        let rank = state.rank_of(id);
        state.waiters -= 1;
        match (stage, rank) {
            (JobStage::Queued, Some(rank)) => state.queue.rerank(id, rank),
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
        let urgency = job.rank(now, state.age).map(|rank| rank.urgency);
        let progress = job.progress;
        let status = match job.stage {
            JobStage::Running => GenerationStatus {
                step: progress.step,
                of: progress.of,
                eta_ms: progress.eta(now).map(millis),
                ..GenerationStatus::new(id, GenerationState::Running)
            },
            JobStage::Queued => {
                let position = state.queue.iter().position(|(_, waiting)| waiting == id).unwrap_or(0);
                // A running job is half over, on average.
                let running = state.jobs.len() - state.queue.len().min(state.jobs.len());
                #[allow(clippy::cast_precision_loss, reason = "bounded by the queue")]
                let jobs = position as f64 + running as f64 / 2.0;
                GenerationStatus {
                    position: Some(position as u64),
                    estimated_start_ms: Some(millis(Duration::from_secs_f64((state.job_s * jobs).clamp(0.0, 1e6)))),
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
    fn rank_of(&self, id: RecipeId) -> Option<Rank> {
        self.jobs.get(&id).and_then(|job| job.rank(Instant::now(), self.age))
    }

    /// Orders the queue anew by age once in a while, so that no job waits for ever.
    fn grow_older(&mut self) {
        let now = Instant::now();
        if self.age.is_zero() || now.saturating_duration_since(self.aged_at) < self.age / 4 {
            return;
        }
        self.aged_at = now;
        let waiting: Vec<RecipeId> = self.queue.iter().map(|(_, id)| id).collect();
        for id in waiting {
            if let Some(rank) = self.rank_of(id) {
                self.queue.rerank(id, rank);
            }
        }
    }

    fn open(&mut self, id: RecipeId, recipe: ValidRecipe, span: Span, waiter: Waiter) -> Result<(), GenerationError> {
        let rank = Rank { urgency: waiter.urgency, deadline: waiter.deadline };
        if self.queue.push(id, rank).is_err() {
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
        Ok(())
    }

    fn join(&mut self, id: RecipeId, waiter: Waiter) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.waiters.push(waiter);
        let stage = job.stage;
        if let (JobStage::Queued, Some(rank)) = (stage, self.rank_of(id)) {
            self.queue.rerank(id, rank);
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
        let retry_after_s = (self.job_s * self.queue.len() as f64 / 2.0).clamp(1.0, 60.0).ceil() as u32;
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
    fn age_lifts_a_job_a_level_at_a_time_and_never_to_a_hero() {
        let age = Duration::from_secs(30);
        let level = |urgency: u8, waited_s: u64, age| {
            aged(Urgency::new(urgency).unwrap(), Duration::from_secs(waited_s), age).get()
        };
        assert_eq!([0, 29, 30, 89, 90, 150, 9_000].map(|waited_s| level(7, waited_s, age)), [7, 7, 6, 5, 4, 2, 2]);
        assert_eq!([0, 60].map(|waited_s| level(0, waited_s, age)), [0, 0]);
        assert_eq!([0, 60].map(|waited_s| level(1, waited_s, age)), [1, 1]);
        assert_eq!(level(7, 9_000, Duration::ZERO), 7, "0 switches it off");
    }

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
