//! The threads renditions are made on.
//!
//! CPU work never runs on an async worker, nor on tokio's unbounded blocking pool: this pool has a fixed number of
//! named threads (`render-N`), a bounded number of waiting jobs, and takes the most urgent first, in order of arrival
//! within an urgency. Invariants:
//! - a job whose caller is gone is never started, and does not keep a live one out;
//! - when all places are taken, a more urgent job displaces the least urgent waiting one, which is refused instead;
//! - within an urgency those who have jobs waiting take turns (start-time fair queueing, Goyal, Vin and Cheng 1996), and when
//!   all places are taken, the one with the longest backlog loses its last: no owner fills the pool for the others;
//! - a panic fails its job and nothing else;
//! - after [`RenderPool::close`] nothing starts; what runs is finished.
//!
//! Less urgent jobs can wait for as long as more urgent ones keep all threads busy: urgency is strict on purpose.
//!
//! Hits never wait behind misses: the threads run at a lower priority than those that answer (`nice`, which on Linux is
//! a thread's own), and how many jobs may wait adapts to how long they do (see `limit`). Before any is refused the pool says that
//! it is behind, and its callers ask for less (see `load`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::pixels::Pixels;
use bildkante_shared::urgency::Urgency;
use parking_lot::{Condvar, Mutex};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::{oneshot, watch};

use super::limit::QueueLimit;
use super::load::{Delay, Load};
use super::{
    Costs, Encoded, RenderConfig, RenderError, RenderJob, RenderMetrics, RenderScheduling, panic_text, render,
};
use crate::budget::Network;

/// Encoders recurse through block partitions with large frames: more than the usual 2 MiB, to be safe.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Where a job stands in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Precedence {
    pub urgency: Urgency,
    /// The client network it is for; none where it is no reader's, and then it is one of its own.
    pub(crate) owner: Option<Network>,
}

impl From<Urgency> for Precedence {
    fn from(urgency: Urgency) -> Self {
        Self { urgency, owner: None }
    }
}

/// Why the pool did not finish a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Every place was taken by jobs at least as urgent. Worth a retry later.
    #[error("the render pool is full")]
    Full,
    #[error("the render pool is shutting down")]
    Closed,
    #[error("a render job panicked: {reason}")]
    Panicked { reason: String },
}

impl PoolError {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Closed => "closed",
            Self::Panicked { .. } => "panicked",
        }
    }
}

/// Why there is no rendition: the pool's reason or the renderer's.
#[derive(Debug, thiserror::Error)]
pub enum RenderJobError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// A fixed set of threads for CPU work. Share it in an `Arc`; dropping it closes it.
#[derive(Debug)]
pub struct RenderPool {
    shared: Arc<Shared>,
    alive: watch::Receiver<usize>,
    /// What renders take on these threads.
    pub costs: Costs,
}

impl RenderPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread; those already started end again.
    pub fn start(config: &RenderConfig, metrics: RenderMetrics) -> std::io::Result<Self> {
        let (alive_sender, alive) = watch::channel(0);
        let threads = config.thread_count();
        let delay_target = Duration::from_millis(config.queue_delay_target_ms);
        let limit = QueueLimit::new(threads, config.pending_jobs_max, delay_target);
        metrics.pending_jobs_limit.set(i64::try_from(limit.jobs()).unwrap_or(i64::MAX));
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(limit, Delay::new(delay_target, Instant::now()))),
            wake: Condvar::new(),
            scheduling: config.scheduling,
            nice: config.nice,
            fading: delay_target,
            metrics,
            alive: alive_sender,
        });
        let pool = Self { shared, alive, costs: Costs::default() };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("render-{number}")).stack_size(STACK_BYTES);
            shared.alive.send_modify(|alive| *alive += 1);
            let started = thread.spawn(move || shared.work());
            if let Err(error) = started {
                pool.shared.alive.send_modify(|alive| *alive -= 1);
                return Err(error); // dropping the pool ends the others
            }
        }
        Ok(pool)
    }

    /// Runs `job` on a thread of the pool. Dropping the future before the job has started cancels it.
    ///
    /// # Errors
    /// When the pool is full of jobs at least as urgent, is closed, or the job panics.
    pub async fn run<T, F>(&self, precedence: impl Into<Precedence>, job: F) -> Result<T, PoolError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.shared.submit(precedence.into(), Box::new(Task { job, reply, submitted: Instant::now() }))?;
        result.await.unwrap_or(Err(PoolError::Closed))
    }

    /// As [`Self::run`], and says what CPU time it took.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_timed<T, F>(&self, precedence: impl Into<Precedence>, job: F) -> Result<(T, Duration), PoolError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let timed = move || {
            let before = thread_cpu();
            let done = job();
            (done, thread_cpu().saturating_sub(before))
        };
        self.run(precedence, timed).await
    }

    /// Renders on a thread of the pool, records the time, and says what CPU time it took.
    ///
    /// # Errors
    /// As [`RenderPool::run`] and [`render`].
    pub async fn render(
        &self,
        precedence: impl Into<Precedence>,
        master: Arc<Pixels>,
        job: RenderJob,
    ) -> Result<(Encoded, Duration), RenderJobError> {
        let (spec, rung) = (job.spec, job.rung);
        let (encoded, cpu) = self.run_timed(precedence, move || render(&master, &job)).await?;
        let encoded = encoded?;
        self.shared.metrics.observe(&encoded);
        self.costs.observe(&spec, rung, cpu);
        Ok((encoded, cpu))
    }

    /// How far it is behind with what readers wait for.
    #[must_use]
    pub fn load(&self) -> Load {
        self.shared.note_load(&self.shared.state.lock())
    }

    /// Whether a final rung behind a reader is to be asked for later, and counts it if so.
    #[must_use]
    pub fn puts_off_finals(&self) -> bool {
        let is_behind = self.load() > Load::Light;
        self.shared.metrics.finals_put_off.inc_by(is_behind.into());
        is_behind
    }

    /// Jobs waiting for a thread. A job whose caller is gone counts until a thread meets it.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.shared.state.lock().waiting.len()
    }

    /// Jobs on a thread.
    #[must_use]
    pub fn running(&self) -> usize {
        usize::try_from(self.shared.metrics.running_jobs.get()).unwrap_or(0)
    }

    /// Refuses waiting and new jobs from now on. Running ones are finished.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Closes and waits for running jobs. `false` when the deadline passed first: threads cannot be aborted.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.close();
        let mut alive = self.alive.clone();
        tokio::time::timeout(deadline, alive.wait_for(|alive| *alive == 0)).await.is_ok_and(|ended| ended.is_ok())
    }
}

impl Drop for RenderPool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    scheduling: RenderScheduling,
    nice: u8,
    /// How soon half of the load is forgotten.
    fading: Duration,
    metrics: RenderMetrics,
    alive: watch::Sender<usize>,
}

struct State {
    waiting: BTreeMap<Turn, Waiting>,
    backlogs: HashMap<(Urgency, Network), Backlog>,
    /// The round of the job that was started last, by urgency.
    rounds: [u64; Urgency::LEAST.get() as usize + 1],
    arrivals: u64,
    is_closed: bool,
    limit: QueueLimit,
    delay: Delay,
}

/// When a job is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    urgency: Urgency,
    /// Each owner has one job in a round.
    round: u64,
    arrival: u64,
}

struct Waiting {
    owner: Option<Network>,
    job: Box<dyn Job>,
}

/// What one owner has waiting at one urgency.
#[derive(Debug)]
struct Backlog {
    jobs: usize,
    last_round: u64,
}

impl State {
    fn new(limit: QueueLimit, delay: Delay) -> Self {
        Self {
            waiting: BTreeMap::new(),
            backlogs: HashMap::new(),
            rounds: Default::default(),
            arrivals: 0,
            is_closed: false,
            limit,
            delay,
        }
    }

    /// By what jobs have waited of late, and by the next one a reader waits for, which may have waited for longer.
    fn load(&self, now: Instant) -> Load {
        let next = self.waiting.first_key_value().filter(|(turn, _)| turn.urgency != Urgency::LEAST);
        self.delay.load(next.map_or(Duration::ZERO, |(_, next)| next.job.waited()), now)
    }

    /// The turn of a job that comes now.
    fn turn(&mut self, Precedence { urgency, owner }: Precedence) -> Turn {
        let now = self.rounds[usize::from(urgency.get())];
        let backlog = owner.and_then(|owner| self.backlogs.get(&(urgency, owner)));
        let round = backlog.map_or(now, |backlog| now.max(backlog.last_round + 1));
        self.arrivals += 1;
        Turn { urgency, round, arrival: self.arrivals }
    }

    fn insert(&mut self, turn: Turn, waiting: Waiting) {
        if let Some(owner) = waiting.owner {
            let none = Backlog { jobs: 0, last_round: turn.round };
            let backlog = self.backlogs.entry((turn.urgency, owner)).or_insert(none);
            backlog.jobs += 1;
            backlog.last_round = turn.round;
        }
        self.waiting.insert(turn, waiting);
    }

    fn pop_first(&mut self) -> Option<(Urgency, Box<dyn Job>)> {
        let (turn, waiting) = self.waiting.pop_first()?;
        self.rounds[usize::from(turn.urgency.get())] = turn.round;
        left(&mut self.backlogs, turn.urgency, &waiting);
        Some((turn.urgency, waiting.job))
    }

    /// The job whose turn is last, if it is behind `turn`.
    fn pop_behind(&mut self, turn: Turn) -> Option<Box<dyn Job>> {
        let last = self.waiting.last_entry().filter(|last| *last.key() > turn)?;
        let (turn, waiting) = last.remove_entry();
        left(&mut self.backlogs, turn.urgency, &waiting);
        Some(waiting.job)
    }

    /// Forgets jobs whose callers are gone; how many there were.
    fn skip_unwanted(&mut self) -> usize {
        let (before, backlogs) = (self.waiting.len(), &mut self.backlogs);
        self.waiting.retain(|turn, waiting| {
            let is_wanted = waiting.job.is_wanted();
            if !is_wanted {
                left(backlogs, turn.urgency, waiting);
            }
            is_wanted
        });
        before - self.waiting.len()
    }
}

/// A job waits no more.
fn left(backlogs: &mut HashMap<(Urgency, Network), Backlog>, urgency: Urgency, waiting: &Waiting) {
    let Some(owner) = waiting.owner else { return };
    let Entry::Occupied(mut backlog) = backlogs.entry((urgency, owner)) else { return };
    backlog.get_mut().jobs -= 1;
    if backlog.get().jobs == 0 {
        backlog.remove();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.waiting.len()).field("is_closed", &self.is_closed).finish()
    }
}

impl Shared {
    fn submit(&self, precedence: Precedence, job: Box<dyn Job>) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(self.rejected(PoolError::Closed));
        }
        let turn = state.turn(precedence);
        if state.waiting.len() >= state.limit.jobs() {
            self.make_room(&mut state, turn)?;
        }
        state.insert(turn, Waiting { owner: precedence.owner, job });
        self.note_pending(&state);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Frees a place: from callers that are gone, else from a job whose turn is later.
    fn make_room(&self, state: &mut State, turn: Turn) -> Result<(), PoolError> {
        self.metrics.skipped_jobs.inc_by(state.skip_unwanted() as u64);
        if state.waiting.len() < state.limit.jobs() {
            return Ok(());
        }
        match state.pop_behind(turn) {
            Some(job) => {
                job.refuse(self.rejected(PoolError::Full));
                Ok(())
            }
            None => {
                self.note_pending(state);
                Err(self.rejected(PoolError::Full))
            }
        }
    }

    fn rejected(&self, error: PoolError) -> PoolError {
        self.metrics.rejected_jobs.with_label_values(&[error.as_str()]).inc();
        error
    }

    fn note_pending(&self, state: &State) {
        self.metrics.pending_jobs.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }

    fn note_load(&self, state: &State) -> Load {
        let load = state.load(Instant::now());
        self.metrics.load.set(load as i64);
        load
    }

    /// The life of a thread.
    fn work(&self) {
        self.stand_back();
        while let Some(job) = self.next() {
            self.metrics.running_jobs.inc();
            job.run(&self.metrics);
            self.metrics.running_jobs.dec();
        }
        self.alive.send_modify(|alive| *alive -= 1);
    }

    fn stand_back(&self) {
        if self.nice > 0
            && let Err(error) = rustix::process::nice(self.nice.into())
        {
            tracing::warn!(%error, "a render thread keeps its priority");
        }
        if self.scheduling == RenderScheduling::Idle {
            let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
                tracing::warn!(%error, "a render thread keeps its scheduling policy");
            }
        }
    }

    /// Waits for the next wanted job; `None` once closed.
    fn next(&self) -> Option<Box<dyn Job>> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            while let Some((urgency, job)) = state.pop_first() {
                self.note_pending(&state);
                if job.is_wanted() {
                    // No reader waits for the least urgent jobs: how long they wait says nothing.
                    if urgency != Urgency::LEAST {
                        let (waiting, waited, now) = (state.waiting.len(), job.waited(), Instant::now());
                        state.limit.observe(waited, waiting, now);
                        state.delay.observe(waited, now);
                        let limit = i64::try_from(state.limit.jobs()).unwrap_or(i64::MAX);
                        self.metrics.pending_jobs_limit.set(limit);
                    }
                    return Some(job);
                }
                self.metrics.skipped_jobs.inc();
            }
            // The load fades while nothing comes, and whoever watches it is to see that.
            if self.note_load(&state) > Load::Light {
                self.wake.wait_for(&mut state, self.fading);
            } else {
                self.wake.wait(&mut state);
            }
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.backlogs.clear();
        self.note_pending(&state);
        drop(state);
        self.wake.notify_all();
        for waiting in waiting.into_values() {
            waiting.job.refuse(self.rejected(PoolError::Closed));
        }
    }
}

/// CPU time that this thread has used since it began: what others take of the core meanwhile does not count.
fn thread_cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}

/// A job without its types.
trait Job: Send {
    fn is_wanted(&self) -> bool;
    fn waited(&self) -> Duration;
    fn run(self: Box<Self>, metrics: &RenderMetrics);
    fn refuse(self: Box<Self>, error: PoolError);
}

struct Task<F, T> {
    job: F,
    reply: oneshot::Sender<Result<T, PoolError>>,
    submitted: Instant,
}

impl<T: Send, F: FnOnce() -> T + Send> Job for Task<F, T> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn waited(&self) -> Duration {
        self.submitted.elapsed()
    }

    fn run(self: Box<Self>, metrics: &RenderMetrics) {
        let Self { job, reply, submitted } = *self;
        metrics.wait_seconds.observe(submitted.elapsed().as_secs_f64());
        // Sound: the job owns all it touches, and a panicking one is never looked at again.
        let result = catch_unwind(AssertUnwindSafe(job)).map_err(|panic| {
            metrics.panicked_jobs.inc();
            PoolError::Panicked { reason: panic_text(&*panic) }
        });
        // A caller that has gone in the meantime gets nothing, which is what it asked for.
        let _ = reply.send(result);
    }

    fn refuse(self: Box<Self>, error: PoolError) {
        let _ = self.reply.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BudgetConfig;
    use prometheus::Registry;
    use std::sync::mpsc;

    fn pool(threads: usize, pending_jobs_max: usize) -> Arc<RenderPool> {
        let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
        let config = RenderConfig { threads, pending_jobs_max, ..RenderConfig::default() };
        Arc::new(RenderPool::start(&config, metrics).expect("threads"))
    }

    fn urgency(value: u8) -> Urgency {
        Urgency::new(value).expect("0 to 7")
    }

    /// A job that occupies a thread until told to go on.
    struct Plug {
        release: mpsc::Sender<()>,
        done: tokio::task::JoinHandle<Result<(), PoolError>>,
    }

    async fn plug(pool: &Arc<RenderPool>) -> Plug {
        let (release, held) = mpsc::channel();
        let (started, has_started) = oneshot::channel();
        let pool = Arc::clone(pool);
        let done = tokio::spawn(async move {
            pool.run(Urgency::MOST, move || {
                let _ = started.send(());
                let _ = held.recv();
            })
            .await
        });
        has_started.await.expect("the plug runs");
        Plug { release, done }
    }

    /// Submits a job and returns once it waits in the queue: polling a `run` future once submits it.
    async fn enqueue<T: Send + 'static>(
        pool: &Arc<RenderPool>,
        at: impl Into<Precedence>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<Result<T, PoolError>> {
        let (polled, is_polled) = oneshot::channel();
        let (pool, at) = (Arc::clone(pool), at.into());
        let handle = tokio::spawn(async move {
            let mut run = Box::pin(pool.run(at, job));
            let first = futures_util::future::poll_immediate(&mut run).await;
            let _ = polled.send(());
            match first {
                Some(result) => result,
                None => run.await,
            }
        });
        is_polled.await.expect("it was polled");
        handle
    }

    #[tokio::test]
    async fn jobs_run_on_named_threads_and_return_values() {
        let pool = pool(1, 4);
        let name = pool.run(Urgency::DEFAULT, || std::thread::current().name().map(str::to_owned)).await;
        assert_eq!(name, Ok(Some("render-0".to_owned())));
    }

    #[tokio::test]
    async fn the_most_urgent_goes_first_and_equals_in_order_of_arrival() {
        let pool = pool(1, 16);
        let plug = plug(&pool).await;
        let (order, ran) = mpsc::channel();
        let mut handles = Vec::new();
        for (at, tag) in [(5, 'd'), (1, 'a'), (3, 'b'), (3, 'c')] {
            let order = order.clone();
            handles.push(enqueue(&pool, urgency(at), move || order.send(tag)).await);
        }
        assert_eq!((pool.pending(), pool.running()), (4, 1));
        plug.release.send(()).expect("the plug listens");
        for handle in handles {
            handle.await.expect("no panic").expect("it ran").expect("somebody listens");
        }
        assert_eq!(ran.try_iter().collect::<String>(), "abcd");
        assert_eq!(plug.done.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_full_pool_refuses_equals_and_displaces_the_less_urgent() {
        let pool = pool(1, 1);
        let plug = plug(&pool).await;
        let late = enqueue(&pool, urgency(5), || ()).await;
        assert_eq!(pool.run(urgency(5), || ()).await, Err(PoolError::Full));
        let hero = enqueue(&pool, urgency(1), || ()).await;
        assert_eq!(late.await.expect("no panic"), Err(PoolError::Full));
        assert_eq!(pool.shared.metrics.rejected_jobs.with_label_values(&["full"]).get(), 2);
        plug.release.send(()).expect("the plug listens");
        assert_eq!(hero.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_job_without_a_caller_is_skipped_and_frees_its_place() {
        let pool = pool(1, 1);
        let plug = plug(&pool).await;
        let (ran, has_run) = mpsc::channel();
        let gone = enqueue(&pool, urgency(0), move || ran.send(())).await;
        gone.abort();
        assert!(gone.await.is_err_and(|error| error.is_cancelled()));
        // The place is taken, by a more urgent job, and not by one that waits.
        let live = enqueue(&pool, urgency(7), || 7).await;
        plug.release.send(()).expect("the plug listens");
        assert_eq!(live.await.expect("no panic"), Ok(7));
        assert!(has_run.recv().is_err(), "the abandoned job ran");
        assert_eq!(pool.shared.metrics.skipped_jobs.get(), 1);
    }

    #[tokio::test]
    async fn jobs_that_waited_too_long_leave_room_for_fewer() {
        let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
        let config =
            RenderConfig { threads: 1, pending_jobs_max: 8, queue_delay_target_ms: 1, ..RenderConfig::default() };
        let pool = Arc::new(RenderPool::start(&config, metrics.clone()).expect("threads"));
        assert_eq!(metrics.pending_jobs_limit.get(), 8);
        let plug_one = plug(&pool).await;
        let waits = enqueue(&pool, urgency(3), || ()).await;
        std::thread::sleep(Duration::from_millis(2));
        plug_one.release.send(()).expect("the plug listens");
        assert_eq!(waits.await.expect("no panic"), Ok(()));
        assert_eq!(metrics.pending_jobs_limit.get(), 1, "as many as there are threads, at least");
    }

    #[tokio::test]
    async fn a_pool_that_is_behind_with_what_readers_wait_for_says_so() {
        let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
        let config =
            RenderConfig { threads: 1, pending_jobs_max: 8, queue_delay_target_ms: 1000, ..RenderConfig::default() };
        let pool = Arc::new(RenderPool::start(&config, metrics.clone()).expect("threads"));
        let plug_one = plug(&pool).await;
        let behind = enqueue(&pool, Urgency::LEAST, || ()).await;
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!((pool.load(), pool.puts_off_finals()), (Load::Light, false), "no reader waits");
        let reader = enqueue(&pool, urgency(3), || ()).await;
        while pool.load() < Load::Extreme {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(pool.puts_off_finals(), "a reader waits for half of the target");
        assert_eq!((metrics.load.get(), metrics.finals_put_off.get()), (2, 1));
        plug_one.release.send(()).expect("the plug listens");
        for job in [reader, behind] {
            assert_eq!(job.await.expect("no panic"), Ok(()));
        }
        while metrics.load.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(pool.load(), Load::Light, "it has faded, and the gauge with it");
    }

    #[tokio::test]
    async fn render_threads_yield_to_those_that_answer() {
        let pool = pool(1, 4);
        let nice = || rustix::process::getpriority_process(None).expect("a priority");
        let (here, there) = (nice(), pool.run(Urgency::DEFAULT, nice).await.expect("it ran"));
        assert!(there > here || here == 19, "{there} there, {here} here");
    }

    #[tokio::test]
    async fn a_panic_fails_its_job_only() {
        let pool = pool(1, 4);
        let failed = pool.run(Urgency::DEFAULT, || -> u8 { panic!("a bug in a codec") }).await;
        assert_eq!(failed, Err(PoolError::Panicked { reason: "a bug in a codec".to_owned() }));
        assert_eq!(pool.run(Urgency::DEFAULT, || 2).await, Ok(2));
        assert_eq!(pool.shared.metrics.panicked_jobs.get(), 1);
    }

    #[tokio::test]
    async fn closing_refuses_the_waiting_finishes_the_running_and_ends_the_threads() {
        let pool = pool(2, 4);
        let (one, two) = (plug(&pool).await, plug(&pool).await);
        let waiting = enqueue(&pool, Urgency::MOST, || ()).await;
        assert!(!pool.shutdown(Duration::from_millis(20)).await, "two jobs still run");
        assert_eq!(waiting.await.expect("no panic"), Err(PoolError::Closed));
        assert_eq!(pool.run(Urgency::MOST, || ()).await, Err(PoolError::Closed));
        for plug in [one, two] {
            plug.release.send(()).expect("the plug listens");
            assert_eq!(plug.done.await.expect("no panic"), Ok(()));
        }
        assert!(pool.shutdown(Duration::from_secs(10)).await);
        assert_eq!((pool.pending(), pool.running()), (0, 0));
    }

    /// Of this thread alone: what answers requests keeps its own.
    #[tokio::test]
    async fn idle_threads_are_idle_to_the_kernel_and_others_are_not() {
        for (scheduling, expected) in [(RenderScheduling::Idle, "5"), (RenderScheduling::Normal, "0")] {
            let config = RenderConfig { threads: 1, scheduling, ..RenderConfig::default() };
            let pool =
                RenderPool::start(&config, RenderMetrics::new(&Registry::new()).expect("metrics")).expect("threads");
            // proc(5): the 41st field of stat is the policy, the 39th behind the name in parentheses.
            let policy = || -> String {
                let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("proc");
                stat.rsplit_once(") ").expect("a name").1.split(' ').nth(38).expect("a policy").to_owned()
            };
            assert_eq!(pool.run(Urgency::DEFAULT, policy).await.expect("a job"), expected);
            assert_eq!(policy(), "0");
        }
    }

    /// With the default places: an owner of hundreds of jobs gets many of them, and the others still find one and wait.
    #[tokio::test]
    async fn one_network_leaves_places_and_turns_to_the_others() {
        let pool = pool(1, RenderConfig::default().pending_jobs_max);
        let plug = plug(&pool).await;
        let network = |text: &str| Network::of(text.parse().unwrap(), &BudgetConfig::default());
        let (greedy, other) = (network("192.0.2.1"), network("198.51.100.1"));
        let of = |owner| Precedence { owner: Some(owner), ..urgency(1).into() };
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |owner: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().push(owner)
        };
        let mut jobs = Vec::new();
        for _ in 0..400 {
            jobs.push(enqueue(&pool, of(greedy), note("greedy")).await);
        }
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(enqueue(&pool, of(other), note("other")).await);
        }
        let unowned = enqueue(&pool, urgency(1), note("unowned")).await;
        assert_eq!(pool.pending(), RenderConfig::default().pending_jobs_max);
        plug.release.send(()).unwrap();
        for job in others {
            assert_eq!(job.await.unwrap(), Ok(()), "another network's job has a place");
        }
        assert_eq!(unowned.await.unwrap(), Ok(()));
        let mut refused = 0;
        for job in jobs {
            refused += usize::from(job.await.unwrap() == Err(PoolError::Full));
        }
        assert_eq!(refused, 400 + 4 - RenderConfig::default().pending_jobs_max);
        let last = order.lock().iter().rposition(|owner| *owner != "greedy").unwrap();
        assert!(last < 8, "they take turns: {last}");
        assert!(pool.shared.state.lock().backlogs.is_empty(), "who has nothing waiting is not remembered");
    }
}
