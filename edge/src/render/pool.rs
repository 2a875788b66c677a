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
//! - after [`RenderPool::close`] nothing starts; what runs is finished;
//! - jobs that no reader waits for never have all threads where there are several (see `queue`).
//!
//! Less urgent jobs can wait for as long as more urgent ones keep all threads busy: urgency is strict on purpose.
//!
//! Hits never wait behind misses: the threads run at a lower priority than those that answer (`nice`, which on Linux is
//! a thread's own), and how many jobs may wait adapts to how long they do (see `limit`). Before any is refused the pool says that
//! it is behind, and its callers ask for less (see `load`).

mod job;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::pixels::Pixels;
use bildkante_shared::urgency::Urgency;
use parking_lot::{Condvar, Mutex};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::{oneshot, watch};

use self::job::{Job, Task, thread_cpu};
use self::queue::{Queue, Turn};
use super::limit::QueueLimit;
use super::load::{Delay, Load};
use super::{Costs, Encoded, RenderConfig, RenderError, RenderJob, RenderMetrics, RenderScheduling, render};
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
            state: Mutex::new(State {
                queue: Queue::new(threads),
                is_closed: false,
                limit,
                delay: Delay::new(delay_target, Instant::now()),
            }),
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
        self.shared.state.lock().queue.len()
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
    queue: Queue,
    is_closed: bool,
    limit: QueueLimit,
    delay: Delay,
}

impl State {
    /// By what jobs have waited of late, and by the next one a reader waits for, which may have waited for longer.
    fn load(&self, now: Instant) -> Load {
        self.delay.load(self.queue.reader_waited().unwrap_or_default(), now)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.queue.len()).field("is_closed", &self.is_closed).finish()
    }
}

impl Shared {
    fn submit(&self, precedence: Precedence, job: Box<dyn Job>) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(self.rejected(PoolError::Closed));
        }
        let turn = state.queue.turn(precedence);
        if state.queue.len() >= state.limit.jobs() {
            self.make_room(&mut state, turn)?;
        }
        state.queue.insert(turn, precedence.owner, job);
        self.note_pending(&state);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Frees a place: from callers that are gone, else from a job whose turn is later.
    fn make_room(&self, state: &mut State, turn: Turn) -> Result<(), PoolError> {
        self.metrics.skipped_jobs.inc_by(state.queue.skip_unwanted() as u64);
        if state.queue.len() < state.limit.jobs() {
            return Ok(());
        }
        match state.queue.pop_behind(turn) {
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
        self.metrics.pending_jobs.set(i64::try_from(state.queue.len()).unwrap_or(i64::MAX));
    }

    fn note_load(&self, state: &State) -> Load {
        let load = state.load(Instant::now());
        self.metrics.load.set(load as i64);
        load
    }

    /// The life of a thread.
    fn work(&self) {
        self.stand_back();
        let mut ended = None;
        while let Some((urgency, job)) = self.next(ended) {
            self.metrics.running_jobs.inc();
            job.run(&self.metrics);
            self.metrics.running_jobs.dec();
            ended = Some(urgency);
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

    /// Waits for the next wanted job, after one of the urgency `ended` on this thread; `None` once closed.
    fn next(&self, ended: Option<Urgency>) -> Option<(Urgency, Box<dyn Job>)> {
        let mut state = self.state.lock();
        if let Some(urgency) = ended {
            state.queue.end(urgency);
        }
        loop {
            if state.is_closed {
                return None;
            }
            while let Some((urgency, job)) = state.queue.pop_next() {
                self.note_pending(&state);
                if job.is_wanted() {
                    state.queue.begin(urgency);
                    // No reader waits for the least urgent jobs: how long they wait says nothing.
                    if urgency != Urgency::LEAST {
                        let (waiting, waited, now) = (state.queue.len(), job.waited(), Instant::now());
                        state.limit.observe(waited, waiting, now);
                        state.delay.observe(waited, now);
                        let limit = i64::try_from(state.limit.jobs()).unwrap_or(i64::MAX);
                        self.metrics.pending_jobs_limit.set(limit);
                    }
                    // The job that ended may have kept back another than this one, of which no thread was told.
                    if state.queue.has_next() {
                        self.wake.notify_one();
                    }
                    return Some((urgency, job));
                }
                self.metrics.skipped_jobs.inc();
            }
            // The load fades while nothing comes, and its gauge has to say so.
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
        let waiting = state.queue.take_all();
        self.note_pending(&state);
        drop(state);
        self.wake.notify_all();
        for job in waiting {
            job.refuse(self.rejected(PoolError::Closed));
        }
    }
}

#[cfg(test)]
mod tests;
