//! Warming: a campaign's pictures are generated and rendered before readers ask for them.
//!
//! Invariants
//! - A job takes the way of a reader's miss and stores what that would store, at the least urgency: it yields to every
//!   reader.
//! - A job is under way once it is known, on the device next, and acknowledged last. The acknowledgement says whether
//!   the job is on the device, and waits for it a bounded time.
//! - The number of jobs is bounded, and so is the number of renditions that a job works on at a time.
//! - Progress is stored every few seconds, so that a restart goes on and does not begin again.
//! - Only final rungs count.

mod import;
pub mod job;
pub mod plan;
pub mod price;
mod settler;
mod store;
mod stored;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::shutdown::Shutdown;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use self::job::{Job, JobRecord, JobState, Tally};
pub use self::plan::{Plan, PlanError, WarmOrder};
pub use self::price::{Cost, Price};
pub use self::settler::Settler;
pub(crate) use self::store::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, STORE_WAIT};
use self::store::{Storing, Writer};
pub use self::stored::StoredJobs;
use crate::cache::unix_ms;
use crate::campaign::{Catalog, CatalogHandle};
use crate::fill::{Fill, Filled};
use crate::governance::{ReviewDesk, audit};
use crate::resolve::{Operator, Refusal, Want, resolve};
use crate::state::StateError;

/// Most renditions of one job at a time.
pub const CONCURRENCY_MAX: usize = 32;
/// Jobs remembered.
const JOBS_MAX: usize = 32;
/// How often a running job is stored.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

/// `[warm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmConfig {
    /// Renditions of one job at a time, where the job does not say.
    pub concurrency: usize,
    /// Jobs at a time, batches among them.
    pub jobs_max: usize,
    /// What batches are expected to cost and have cost is told with it, and not without.
    pub price_per_device_second: Option<Price>,
}

impl Default for WarmConfig {
    fn default() -> Self {
        Self { concurrency: 4, jobs_max: 2, price_per_device_second: None }
    }
}

impl WarmConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return Err(format!("`warm.concurrency` is not between 1 and {CONCURRENCY_MAX}"));
        }
        if !(1..=JOBS_MAX).contains(&self.jobs_max) {
            return Err(format!("`warm.jobs_max` is not between 1 and {JOBS_MAX}"));
        }
        Ok(())
    }
}

/// What warming did.
#[derive(Debug, Clone)]
pub struct WarmMetrics {
    renditions: IntCounterVec,
    running: IntGauge,
}

impl WarmMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let renditions = IntCounterVec::new(
            Opts::new("bildkante_edge_warmed_renditions_total", "Renditions warmed, by how they were come by"),
            &["outcome"],
        )?;
        let running = IntGauge::new("bildkante_edge_warm_jobs_running", "Warmings under way")?;
        registry.register(Box::new(renditions.clone()))?;
        registry.register(Box::new(running.clone()))?;
        Ok(Self { renditions, running })
    }

    fn count(&self, outcome: &str) {
        self.renditions.with_label_values(&[outcome]).inc();
    }
}

/// Why a job cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarmError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{0} jobs and batches are running, which is the most that `warm.jobs_max` allows: try again later")]
    Busy(usize),
    #[error("there is no such job")]
    Unknown,
    #[error("an order with this key became job {0}, and asked for something else")]
    KeyReused(u64),
    #[error("the change ended early: {0}")]
    Broken(String),
}

/// A job as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    pub record: JobRecord,
    /// Whether the device knows that it has begun or ended; it is tried again until it does.
    pub is_stored: bool,
}

/// Runs the jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Warmer {
    inner: Arc<Inner>,
}

struct Inner {
    settler: Settler,
    catalog: CatalogHandle,
    stored: Arc<StoredJobs>,
    writer: Writer,
    /// How long an answer waits for the device, and for a job to hear of its end.
    store_wait: Duration,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    jobs_max: usize,
    /// Of what is under way, batches among it: one queue of work.
    turns: Arc<Semaphore>,
    metrics: WarmMetrics,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl Warmer {
    /// Reads the jobs of earlier processes from `data_dir`. Blocks: for the start.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(
        config: &WarmConfig,
        data_dir: &Path,
        (fill, reviews): (Arc<Fill>, Option<ReviewDesk>),
        catalog: CatalogHandle,
        metrics: WarmMetrics,
        shutdown: Shutdown,
    ) -> Result<Self, StateError> {
        let stored = Arc::new(StoredJobs::open(data_dir)?);
        let known = stored.all()?.into_iter().map(|record| (record.id, Arc::new(Job::new(record, Arc::default()))));
        let jobs = Mutex::new(known.collect());
        let into = Arc::clone(&stored);
        let writer: Writer = Box::new(move |record| into.put(record));
        let (jobs_max, store_wait) = (config.jobs_max, STORE_WAIT);
        let settler = Settler::new(fill, reviews, metrics.clone());
        let turns = Arc::new(Semaphore::new(jobs_max));
        let inner = Inner { settler, catalog, stored, writer, store_wait, jobs, jobs_max, turns, metrics, shutdown };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Goes on with what an earlier process had under way.
    pub fn go_on(&self) {
        let jobs: Vec<_> = self.inner.jobs.lock().values().cloned().collect();
        for job in jobs.into_iter().filter(|job| job.record().state == JobState::Running) {
            tracing::info!(job = job.record().id, "going on with a warming");
            tokio::spawn(Arc::clone(&self.inner).run(job, None));
        }
    }

    /// # Errors
    /// When the order names what does not exist, or too many jobs are under way.
    pub async fn start(&self, who: &str, order: WarmOrder, key: Option<String>) -> Result<JobStatus, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        let change = async move {
            // What it began goes on, whatever the catalogue says by now.
            if let Some(known) = this.inner.known(key.as_deref(), |record| record.order.asks_the_same(&order))? {
                return Ok(this.acknowledged(&known).await);
            }
            Plan::parse(&this.inner.catalog.load(), &order)?;
            let job = this.inner.enter(&who, order, key)?;
            Ok(this.acknowledge(&who, "warm-start", &job).await)
        };
        detached(change, WarmError::Broken).await
    }

    /// Goes on with a job that was cancelled, or tries again what failed in one that is done.
    ///
    /// # Errors
    /// When there is no such job, or too many are under way.
    pub async fn resume(&self, who: &str, id: u64, key: Option<String>) -> Result<JobStatus, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        let change = async move {
            if let Some(known) = this.inner.known(key.as_deref(), |record| record.id == id)? {
                return Ok(this.acknowledged(&known).await);
            }
            match this.inner.enter_again(id, key)? {
                Some(job) => Ok(this.acknowledge(&who, "warm-resume", &job).await),
                None => this.job(id).ok_or(WarmError::Unknown),
            }
        };
        detached(change, WarmError::Broken).await
    }

    /// Ends a job; it has ended when this returns, unless it takes long to hear of it.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn cancel(&self, who: &str, id: u64) -> Result<JobStatus, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        let change = async move {
            let job = this.inner.jobs.lock().get(&id).cloned().ok_or(WarmError::Unknown)?;
            job.cancel();
            let has_ended = tokio::time::timeout(this.inner.store_wait, job.left()).await.is_ok();
            let mut status = this.acknowledge(&who, "warm-cancel", &job).await;
            status.is_stored &= has_ended;
            Ok(status)
        };
        detached(change, WarmError::Broken).await
    }

    /// A change that has been made, with whether it is on the device by now.
    async fn acknowledge(&self, who: &str, what: &'static str, job: &Job) -> JobStatus {
        let status = self.acknowledged(job).await;
        Self::note(who, what, &status);
        status
    }

    async fn acknowledged(&self, job: &Job) -> JobStatus {
        job.storing.settled(self.inner.store_wait).await;
        status(job)
    }

    /// How one picture is made.
    #[must_use]
    pub fn settler(&self) -> &Settler {
        &self.inner.settler
    }

    /// What is under way takes one of these.
    #[must_use]
    pub fn turns(&self) -> &Arc<Semaphore> {
        &self.inner.turns
    }

    #[must_use]
    pub fn job(&self, id: u64) -> Option<JobStatus> {
        self.inner.jobs.lock().get(&id).map(|job| status(job))
    }

    /// Newest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobStatus> {
        self.inner.jobs.lock().values().rev().map(|job| status(job)).collect()
    }

    fn note(who: &str, what: &'static str, status: &JobStatus) {
        let record = &status.record;
        let subject = format!("job {} campaign {}", record.id, record.order.campaign);
        let outcome = if status.is_stored { "accepted" } else { "not-stored" };
        audit::note(&audit::Change { who, what, subject: &subject, why: &record.order.why, outcome });
    }
}

fn known_among(
    jobs: &BTreeMap<u64, Arc<Job>>,
    key: Option<&str>,
    is_same: impl FnOnce(&JobRecord) -> bool,
) -> Result<Option<Arc<Job>>, WarmError> {
    let Some(key) = key else { return Ok(None) };
    let Some(job) = jobs.values().find(|job| job.record().keys.iter().any(|it| it == key)) else { return Ok(None) };
    if is_same(&job.record()) { Ok(Some(Arc::clone(job))) } else { Err(WarmError::KeyReused(job.id)) }
}

fn status(job: &Job) -> JobStatus {
    // In this order: what is stored by now is at least what the record says.
    let record = job.record();
    JobStatus { record, is_stored: job.storing.is_stored() }
}

/// A change is a task of its own, never the rest of a request: a client that hangs up leaves nothing half done.
pub(crate) async fn detached<T, E>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
    broken: impl FnOnce(String) -> E,
) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    tokio::spawn(change).await.unwrap_or_else(|error| Err(broken(error.to_string())))
}

impl Inner {
    /// The job that an order with this key began or went on with, if it asked for the same.
    fn known(
        &self,
        key: Option<&str>,
        is_same: impl FnOnce(&JobRecord) -> bool,
    ) -> Result<Option<Arc<Job>>, WarmError> {
        known_among(&self.jobs.lock(), key, is_same)
    }

    /// A new job, which runs from here on.
    fn enter(self: &Arc<Self>, who: &str, order: WarmOrder, key: Option<String>) -> Result<Arc<Job>, WarmError> {
        let mut jobs = self.jobs.lock();
        // It may have come twice at once.
        if let Some(known) = known_among(&jobs, key.as_deref(), |record| record.order.asks_the_same(&order))? {
            return Ok(known);
        }
        let turn = self.room_for_one()?;
        let now = unix_ms(SystemTime::now());
        let id = jobs.last_key_value().map_or(now, |(last, _)| now.max(last + 1));
        let record = JobRecord::begun(id, who, order, now).known_by(key);
        Ok(self.launch(&mut jobs, record, Arc::default(), turn))
    }

    /// A job that has ended, as one that runs; `None` where it runs by now.
    fn enter_again(self: &Arc<Self>, id: u64, key: Option<String>) -> Result<Option<Arc<Job>>, WarmError> {
        let mut jobs = self.jobs.lock();
        let former = jobs.get(&id).ok_or(WarmError::Unknown)?;
        let (mut record, storing) = (former.to_go_on_from(), Arc::clone(&former.storing));
        if record.state == JobState::Running {
            return Ok(None);
        }
        let turn = self.room_for_one()?;
        if record.tally.failed > 0 {
            // What did not fail is in the cache, and met there.
            record = JobRecord { tally: Tally::default(), failures: Vec::new(), pictures_done: 0, ..record };
        }
        record.state = JobState::Running;
        Ok(Some(self.launch(&mut jobs, record.known_by(key), storing, turn)))
    }

    /// Known, under way and on its way to the device in one step: nothing that fails in between leaves it half begun.
    fn launch(
        self: &Arc<Self>,
        jobs: &mut BTreeMap<u64, Arc<Job>>,
        record: JobRecord,
        storing: Arc<Storing>,
        turn: OwnedSemaphorePermit,
    ) -> Arc<Job> {
        let job = Arc::new(Job::new(record, storing));
        jobs.insert(job.id, Arc::clone(&job));
        self.store_change(&job);
        tokio::spawn(Arc::clone(self).run(Arc::clone(&job), Some(turn)));
        job
    }

    fn room_for_one(&self) -> Result<OwnedSemaphorePermit, WarmError> {
        Arc::clone(&self.turns).try_acquire_owned().map_err(|_| WarmError::Busy(self.jobs_max))
    }

    /// Without a turn it waits for one.
    async fn run(self: Arc<Self>, job: Arc<Job>, turn: Option<OwnedSemaphorePermit>) {
        self.metrics.running.inc();
        // A task of its own: a job whose work panics has ended.
        let state = match tokio::spawn(Arc::clone(&self).work(Arc::clone(&job), turn)).await {
            Ok(state) => state,
            Err(error) if error.is_panic() => {
                tracing::error!(job = job.id, %error, "a warming ended early");
                job.failed(0, String::new(), error.to_string());
                Some(JobState::Refused)
            }
            // The runtime ends.
            Err(_) => None,
        };
        self.metrics.running.dec();
        if let Some(state) = state {
            job.end(state);
            let record = job.record();
            tracing::info!(
                job = record.id,
                state = state.as_str(),
                generated = record.tally.generated,
                rendered = record.tally.rendered,
                cached = record.tally.cached,
                failed = record.tally.failed,
                "warming ended"
            );
        }
        self.store_change(&job);
        job.leave();
        self.forget_the_oldest();
    }

    /// How it ended; `None` when the edge is stopping, so that the next one goes on.
    async fn work(self: Arc<Self>, job: Arc<Job>, turn: Option<OwnedSemaphorePermit>) -> Option<JobState> {
        let (mut cancelled, mut shutdown) = (job.cancelled(), self.shutdown.clone());
        let _turn = match turn {
            Some(turn) => turn,
            None => tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                () = heard(&mut cancelled) => return Some(JobState::Cancelled),
                turn = Arc::clone(&self.turns).acquire_owned() => turn.ok()?,
            },
        };
        let catalog = self.catalog.load();
        let order = job.record().order;
        let planned = match Plan::parse(&catalog, &order) {
            Ok(plan) => tokio::task::spawn_blocking(move || plan.with_units()).await.ok(),
            Err(error) => {
                job.failed(0, String::new(), error.to_string());
                None
            }
        };
        let Some(plan) = planned.map(Arc::new) else { return Some(JobState::Refused) };
        let mut next = job.begin(plan.renditions(), plan.digest());
        self.store_progress(&job);
        let concurrency = order.concurrency.clamp(1, CONCURRENCY_MAX);
        let (permits, mut pictures) = (Arc::new(Semaphore::new(concurrency)), JoinSet::new());
        let mut store = tokio::time::interval(STORE_INTERVAL);
        loop {
            while pictures.len() < concurrency && next < plan.pictures() {
                pictures.spawn(Arc::clone(&self).picture(&job, (&catalog, &permits), next, plan.urls(next)));
                next += 1;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                () = heard(&mut cancelled) => return Some(JobState::Cancelled),
                ended = pictures.join_next() => match ended {
                    None => return Some(JobState::Done),
                    Some(Err(error)) => tracing::error!(%error, "warming a picture ended early"),
                    Some(Ok(())) => {}
                },
                _ = store.tick() => self.store_progress(&job),
            }
        }
    }

    /// One picture and all its renditions.
    fn picture(
        self: Arc<Self>,
        job: &Arc<Job>,
        (catalog, permits): (&Arc<Catalog>, &Arc<Semaphore>),
        number: usize,
        urls: Vec<String>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (job, catalog, permits) = (Arc::clone(job), Arc::clone(catalog), Arc::clone(permits));
        async move {
            let telling = Arc::clone(&job);
            let told = move |url: String, made: Result<Filled, String>| match made {
                Ok(filled) => telling.got(number, filled.outcome, filled.rendition.body.len()),
                Err(error) => telling.failed(number, url, error),
            };
            self.settler.picture(&catalog, &permits, urls, told).await;
            job.picture_done(number);
        }
    }

    /// Forgets the oldest jobs that have ended, where there are too many. Their own tasks take them off the device.
    fn forget_the_oldest(self: &Arc<Self>) {
        let mut jobs = self.jobs.lock();
        while jobs.len() > JOBS_MAX {
            let oldest = jobs.iter().find(|(_, job)| job.record().state != JobState::Running).map(|(id, _)| *id);
            let Some(job) = oldest.and_then(|oldest| jobs.remove(&oldest)) else { break };
            self.store_change(&job);
        }
    }
}

/// What a reader who asks for this URL wants, so that the reader finds it under the same key; at the least urgency.
pub(crate) fn want(catalog: &Catalog, url: &str) -> Result<Want, Refusal> {
    resolve(catalog, url, &Operator).outcome.map(|resolution| resolution.want)
}

async fn heard(cancelled: &mut watch::Receiver<bool>) {
    let _ = cancelled.wait_for(|is_cancelled| *is_cancelled).await;
}

#[cfg(test)]
pub(crate) mod tests;
