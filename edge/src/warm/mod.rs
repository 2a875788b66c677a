//! Warming: a campaign's pictures generated and rendered before anybody asks for them.
//!
//! Invariants: it takes the same way as a reader's miss and stores what that would store, at the least urgency, so that
//! it yields to every reader; a job's start, resumption and end are tasks of their own, on the device before they are
//! acknowledged; each job works on a bounded number of renditions and there is a bounded number of jobs;
//! what is done is on the device every few seconds, so that a restart goes on and does not begin again; only final rungs
//! count.

pub mod job;
pub mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::shutdown::Shutdown;
use bildkante_shared::urgency::Urgency;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::job::{Job, JobRecord, JobState, Tally};
pub use self::plan::{Plan, PlanError, WarmOrder};
use crate::cache::{FlightError, unix_ms};
use crate::campaign::{Catalog, CatalogHandle, explain_request};
use crate::fill::{Fill, FillError, Filled, Want};
use crate::governance::audit;
use crate::render::PoolError;
use crate::signing::Grant;

/// Most renditions of one job at a time.
pub const CONCURRENCY_MAX: usize = 32;
/// Jobs remembered.
const JOBS_MAX: usize = 32;
/// How often a running job is stored.
const STORE_INTERVAL: Duration = Duration::from_secs(2);
/// How often a rendition is tried, and the pauses between.
const ATTEMPTS_MAX: u32 = 8;
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// `[warm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmConfig {
    /// Renditions of one job at a time, where the job does not say.
    pub concurrency: usize,
    /// Jobs at a time.
    pub jobs_max: usize,
}

impl Default for WarmConfig {
    fn default() -> Self {
        Self { concurrency: 4, jobs_max: 2 }
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
}

/// Why a job cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarmError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{0} jobs are under way, which is as many as may be")]
    Busy(usize),
    #[error("there is no such job")]
    Unknown,
    #[error("job {id} is as it was asked to be until this edge restarts, but could not be stored: {reason}")]
    NotStored { id: u64, reason: String },
}

/// Runs the jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Warmer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fill: Arc<Fill>,
    catalog: CatalogHandle,
    folder: PathBuf,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    jobs_max: usize,
    metrics: WarmMetrics,
    shutdown: Shutdown,
}

impl Warmer {
    /// Reads the jobs of earlier processes. Blocks: for the start.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(
        config: &WarmConfig,
        folder: &Path,
        fill: Arc<Fill>,
        catalog: CatalogHandle,
        metrics: WarmMetrics,
        shutdown: Shutdown,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let jobs = Mutex::new(read_jobs(folder)?);
        let folder = folder.to_owned();
        Ok(Self {
            inner: Arc::new(Inner { fill, catalog, folder, jobs, jobs_max: config.jobs_max, metrics, shutdown }),
        })
    }

    /// Goes on with what an earlier process had under way.
    pub fn go_on(&self) {
        let jobs: Vec<_> = self.inner.jobs.lock().values().cloned().collect();
        for job in jobs.into_iter().filter(|job| job.record().state == JobState::Running) {
            tracing::info!(job = job.record().id, "going on with a warming");
            tokio::spawn(Arc::clone(&self.inner).run(job));
        }
    }

    /// # Errors
    /// When the order names what does not exist, too many jobs are under way, or the job could not be stored.
    pub async fn start(&self, who: &str, order: WarmOrder) -> Result<JobRecord, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        detached(async move {
            Plan::parse(&this.inner.catalog.load(), &order)?;
            let job = this.inner.enter(&who, order)?;
            this.begin(&who, "warm-start", job).await
        })
        .await
    }

    /// Goes on with a job that was cancelled, or tries again what failed in one that is done.
    ///
    /// # Errors
    /// When there is no such job, too many are under way, or the job could not be stored.
    pub async fn resume(&self, who: &str, id: u64) -> Result<JobRecord, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        detached(async move {
            let job = this.inner.jobs.lock().get(&id).cloned().ok_or(WarmError::Unknown)?;
            if job.record().state == JobState::Running {
                return Ok(job.to_go_on_from());
            }
            // What the former run has to store comes before what this one stores.
            let _ = job.left().await;
            let Some(job) = this.inner.enter_again(id)? else { return Ok(job.to_go_on_from()) };
            this.begin(&who, "warm-resume", job).await
        })
        .await
    }

    /// Ends a job; it has ended, and a restart knows, when this returns.
    ///
    /// # Errors
    /// When there is no such job, or its end could not be stored.
    pub async fn cancel(&self, who: &str, id: u64) -> Result<JobRecord, WarmError> {
        let (this, who) = (self.clone(), who.to_owned());
        detached(async move {
            let job = this.inner.jobs.lock().get(&id).cloned().ok_or(WarmError::Unknown)?;
            job.cancel();
            let stored = job.left().await;
            let record = job.record();
            Self::note(&who, "warm-cancel", &record, &stored);
            stored.map(|()| record).map_err(|reason| WarmError::NotStored { id, reason })
        })
        .await
    }

    /// Under way first, on the device next, acknowledged last.
    async fn begin(&self, who: &str, what: &'static str, job: Arc<Job>) -> Result<JobRecord, WarmError> {
        let record = job.record();
        let stored = self.inner.store(&job).await;
        tokio::spawn(Arc::clone(&self.inner).run(job));
        Self::note(who, what, &record, &stored);
        let id = record.id;
        stored.map(|()| record).map_err(|reason| WarmError::NotStored { id, reason })
    }

    #[must_use]
    pub fn job(&self, id: u64) -> Option<JobRecord> {
        self.inner.jobs.lock().get(&id).map(|job| job.record())
    }

    /// Newest first.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobRecord> {
        self.inner.jobs.lock().values().rev().map(|job| job.record()).collect()
    }

    fn note(who: &str, what: &'static str, record: &JobRecord, stored: &Result<(), String>) {
        let subject = format!("job {} campaign {}", record.id, record.order.campaign);
        let outcome = if stored.is_ok() { "accepted" } else { "not-stored" };
        audit::note(&audit::Change { who, what, subject: &subject, why: &record.order.why, outcome });
    }
}

/// A change is a task of its own, never the rest of a request: a client that hangs up leaves nothing half done.
async fn detached(
    change: impl Future<Output = Result<JobRecord, WarmError>> + Send + 'static,
) -> Result<JobRecord, WarmError> {
    let task = tokio::spawn(change).await;
    task.unwrap_or_else(|error| Err(WarmError::NotStored { id: 0, reason: error.to_string() }))
}

impl Inner {
    /// A new job, which counts as running from here on.
    fn enter(&self, who: &str, order: WarmOrder) -> Result<Arc<Job>, WarmError> {
        let mut jobs = self.jobs.lock();
        self.room_for_one(&jobs)?;
        let now = unix_ms(SystemTime::now());
        let id = jobs.last_key_value().map_or(now, |(last, _)| now.max(last + 1));
        let record = JobRecord {
            id,
            by: who.to_owned(),
            order,
            state: JobState::Running,
            started_unix_ms: now,
            elapsed_ms: 0,
            total: 0,
            tally: Tally::default(),
            failures: Vec::new(),
            pictures_done: 0,
            digest: None,
        };
        let job = Arc::new(Job::new(record));
        jobs.insert(id, Arc::clone(&job));
        Ok(job)
    }

    /// A job that has ended, as one that runs; `None` where it runs by now.
    fn enter_again(&self, id: u64) -> Result<Option<Arc<Job>>, WarmError> {
        let mut jobs = self.jobs.lock();
        let mut record = jobs.get(&id).ok_or(WarmError::Unknown)?.to_go_on_from();
        if record.state == JobState::Running {
            return Ok(None);
        }
        self.room_for_one(&jobs)?;
        if record.tally.failed > 0 {
            // What did not fail is in the cache, and met there.
            record = JobRecord { tally: Tally::default(), failures: Vec::new(), pictures_done: 0, ..record };
        }
        record.state = JobState::Running;
        let job = Arc::new(Job::new(record));
        jobs.insert(id, Arc::clone(&job));
        Ok(Some(job))
    }

    fn room_for_one(&self, jobs: &BTreeMap<u64, Arc<Job>>) -> Result<(), WarmError> {
        let running = jobs.values().filter(|job| job.record().state == JobState::Running).count();
        if running >= self.jobs_max { Err(WarmError::Busy(running)) } else { Ok(()) }
    }

    async fn run(self: Arc<Self>, job: Arc<Job>) {
        self.metrics.running.inc();
        let state = self.work(&job).await;
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
        let stored = self.store(&job).await;
        job.leave(stored);
        self.forget_the_oldest().await;
    }

    /// How it ended; `None` when the edge is stopping, so that the next one goes on.
    async fn work(self: &Arc<Self>, job: &Arc<Job>) -> Option<JobState> {
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
        let _ = self.store(job).await;
        let concurrency = order.concurrency.clamp(1, CONCURRENCY_MAX);
        let (permits, mut pictures) = (Arc::new(Semaphore::new(concurrency)), JoinSet::new());
        let (mut cancelled, mut shutdown) = (job.cancelled(), self.shutdown.clone());
        let mut store = tokio::time::interval(STORE_INTERVAL);
        loop {
            while pictures.len() < concurrency && next < plan.pictures() {
                let picture = Picture {
                    inner: Arc::clone(self),
                    job: Arc::clone(job),
                    catalog: Arc::clone(&catalog),
                    permits: Arc::clone(&permits),
                    number: next,
                };
                pictures.spawn(picture.warm(plan.urls(next)));
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
                _ = store.tick() => drop(self.store(job).await),
            }
        }
    }

    /// Puts a job on the device; says why it could not.
    async fn store(&self, job: &Job) -> Result<(), String> {
        let (record, folder) = (job.to_go_on_from(), self.folder.clone());
        let written = tokio::task::spawn_blocking(move || record.store(&folder)).await;
        let stored = written.map_err(|error| error.to_string()).and_then(|it| it.map_err(|error| error.to_string()));
        if let Err(error) = &stored {
            tracing::warn!(%error, "a warming could not be stored: a restart would begin it again");
        }
        stored
    }

    async fn forget_the_oldest(&self) {
        let mut forgotten = Vec::new();
        {
            let mut jobs = self.jobs.lock();
            while jobs.len() > JOBS_MAX {
                let oldest = jobs.iter().find(|(_, job)| job.record().state != JobState::Running).map(|(id, _)| *id);
                let Some(oldest) = oldest else { break };
                jobs.remove(&oldest);
                forgotten.push(self.folder.join(format!("{oldest}.json")));
            }
        }
        let remove = move || forgotten.iter().for_each(|path| drop(std::fs::remove_file(path)));
        let _ = tokio::task::spawn_blocking(remove).await;
    }
}

/// One picture and all its renditions.
struct Picture {
    inner: Arc<Inner>,
    job: Arc<Job>,
    catalog: Arc<Catalog>,
    permits: Arc<Semaphore>,
    number: usize,
}

impl Picture {
    /// The first rendition draws the picture where that is needed; the others are cut from it side by side.
    async fn warm(self, urls: Vec<String>) {
        let this = Arc::new(self);
        let mut urls = urls.into_iter();
        if let Some(first) = urls.next() {
            Arc::clone(&this).rendition(first).await;
        }
        let mut others = JoinSet::new();
        for url in urls {
            others.spawn(Arc::clone(&this).rendition(url));
        }
        while others.join_next().await.is_some() {}
        this.job.picture_done(this.number);
    }

    async fn rendition(self: Arc<Self>, url: String) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        let result = match self.want(&url) {
            Ok(want) => self.settled(&want).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        match result {
            Ok(filled) => {
                self.count(filled.outcome.as_str());
                self.job.got(self.number, filled.outcome, filled.rendition.body.len());
            }
            Err(error) => {
                self.count("failed");
                self.job.failed(self.number, url, error);
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.inner.metrics.renditions.with_label_values(&[outcome]).inc();
    }

    /// What a reader who asks for this URL wants, so that it is found under the same key.
    fn want(&self, url: &str) -> Result<Want, String> {
        let explanation = explain_request(&self.catalog, url, None, |_| Ok(Grant::Operator));
        let problem = explanation.problem.map(|problem| problem.detail);
        let (resolved, spec) = explanation.resolved.ok_or_else(|| problem.unwrap_or_default())?;
        Ok(Want {
            variant: Arc::clone(&resolved.variant),
            spec,
            marking: Arc::clone(&resolved.campaign.rights),
            marking_digest: resolved.campaign.marking_digest,
            urgency: Urgency::LEAST,
            trace: None,
        })
    }

    async fn settled(&self, want: &Want) -> Result<Filled, FillError> {
        let mut pause = PAUSE_MIN;
        let mut attempt = 1;
        loop {
            let result = match self.inner.fill.settle(want) {
                Ok(ticket) => ticket.landed().await.unwrap_or_else(|error| Err(error.into())),
                Err(error) => Err(error.into()),
            };
            match result {
                Err(error) if may_pass(&error) && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(recipe = %want.recipe_id(), %error, attempt, "warming waits and tries again");
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            attempt += 1;
        }
    }
}

async fn heard(cancelled: &mut watch::Receiver<bool>) {
    let _ = cancelled.wait_for(|is_cancelled| *is_cancelled).await;
}

/// Whether the same may go well in a while: readers come first, and nodes come back.
fn may_pass(error: &FillError) -> bool {
    match error {
        FillError::Origin(error) => {
            error.is_retryable()
                || matches!(
                    **error,
                    crate::origin::OriginError::NoHealthyNode | crate::origin::OriginError::DeadlinePassed
                )
        }
        FillError::Pool(error) => *error == PoolError::Full,
        FillError::Flight(error) => matches!(error, FlightError::Full | FlightError::TookTooLong),
        FillError::Overtaken => true,
        FillError::Render(_) | FillError::Master(_) | FillError::OverBudget(_) => false,
    }
}

fn read_jobs(folder: &Path) -> std::io::Result<BTreeMap<u64, Arc<Job>>> {
    let mut jobs = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match std::fs::read(&path).map(|bytes| serde_json::from_slice::<JobRecord>(&bytes)) {
            Ok(Ok(record)) => drop(jobs.insert(record.id, Arc::new(Job::new(record)))),
            Ok(Err(error)) => tracing::warn!(path = %path.display(), %error, "this warming cannot be read"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "this warming cannot be read"),
        }
    }
    Ok(jobs)
}
