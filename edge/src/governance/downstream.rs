//! Caches in front of this edge: each is told of every purge, called again until it confirms, and reported when it
//! does not.
//!
//! Invariants: what is owed survives a restart, because it is written with the purge itself; caches are called
//! concurrently, each by at most [`CALLS_MAX`] calls at a time; between two calls for one purge lies a pause that
//! doubles and is jittered; nothing is called for ever; nothing here waits for the device.

mod call;
mod config;
mod template;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bildkante_shared::shutdown::Shutdown;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::call::{Call, Judgement, judge};
pub use self::config::DownstreamConfig;
use super::ledger::{Breadth, Delivery, DeliveryState, PurgeRecord};
use super::purge::{PurgeConfig, Purges};
use crate::cache::unix_ms;
use crate::campaign::CatalogHandle;
use crate::outbound::{self, Trust};

/// Calls of one cache at a time.
const CALLS_MAX: usize = 4;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const IDLE_MAX: Duration = Duration::from_secs(60);

type HttpClient = outbound::Client<Full<Bytes>>;

/// Whom to tell of purges, and the task that does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Downstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: ArcSwap<Setup>,
    purges: Purges,
    catalog: CatalogHandle,
    /// There may be something new to tell.
    due: Notify,
    /// Counts answers, for those who wait for one.
    heard: watch::Sender<u64>,
    /// Counts changes of the setup.
    changed: watch::Sender<u64>,
}

/// Whom to tell and how, as it is configured now.
#[derive(Debug)]
struct Setup {
    purgers: Vec<Arc<Purger>>,
    pace: Pace,
    client: HttpClient,
}

#[derive(Debug)]
struct Purger {
    config: DownstreamConfig,
    calls: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    backoff_min: Duration,
    backoff_max: Duration,
    confirm_deadline: Duration,
    give_up: Duration,
    call_timeout: Duration,
}

impl Pace {
    /// Between the `attempts`-th call and the next: doubling, and anywhere in the upper half of it, so that many
    /// edges do not call at once.
    fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let doubled = self.backoff_min.saturating_mul(1_u32 << attempts.saturating_sub(1).min(20));
        doubled.min(self.backoff_max).mul_f64(jitter.mul_add(0.5, 0.5))
    }
}

/// Other caches, ready to be asked.
#[derive(Debug)]
pub struct Prepared(Setup);

impl Setup {
    /// What is called by the same name as before is still called a bounded number of times at once.
    fn new(config: &PurgeConfig, former: Option<&Self>) -> std::io::Result<Self> {
        let purger = |config: &DownstreamConfig| {
            let known = former.and_then(|former| former.purger(config.name()));
            let calls = known.map_or_else(|| Arc::new(Semaphore::new(CALLS_MAX)), |known| Arc::clone(&known.calls));
            Arc::new(Purger { config: config.clone(), calls })
        };
        let purgers: Vec<_> = config.downstream.iter().map(purger).collect();
        let millis = Duration::from_millis;
        let pace = Pace {
            backoff_min: millis(config.retry_backoff_ms_min),
            backoff_max: millis(config.retry_backoff_ms_max),
            confirm_deadline: millis(config.confirm_deadline_ms),
            give_up: Duration::from_secs(config.retry_for_s),
            call_timeout: millis(config.call_timeout_ms),
        };
        let client = http_client(!purgers.is_empty())?;
        Ok(Self { purgers, pace, client })
    }

    fn purger(&self, name: &str) -> Option<&Arc<Purger>> {
        self.purgers.iter().find(|purger| purger.config.name() == name)
    }
}

impl Downstream {
    /// # Errors
    /// When no trusted certificate can be found while a cache is called by `https`.
    pub fn new(config: &PurgeConfig, purges: Purges, catalog: CatalogHandle) -> std::io::Result<Self> {
        let setup = ArcSwap::from_pointee(Setup::new(config, None)?);
        let ((heard, _), (changed, _)) = (watch::channel(0), watch::channel(0));
        let inner = Inner { setup, purges, catalog, due: Notify::new(), heard, changed };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Prepares other caches; [`Self::put_in_force`] cannot fail.
    ///
    /// # Errors
    /// When no trusted certificate can be found while a cache is called by `https`.
    pub fn prepare(&self, config: &PurgeConfig) -> std::io::Result<Prepared> {
        Setup::new(config, Some(&self.inner.setup.load())).map(Prepared)
    }

    /// Purges go to these caches from now on. Whether there is one decides how long answers live, so the caller advances the epoch.
    pub fn put_in_force(&self, Prepared(setup): Prepared) {
        self.inner.replace(setup);
    }

    /// Their names, by which a purge's deliveries are known.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.inner.setup.load().purgers.iter().map(|purger| purger.config.name().to_owned()).collect()
    }

    /// Name and kind of each.
    #[must_use]
    pub fn kinds(&self) -> Vec<(String, &'static str)> {
        let setup = self.inner.setup.load();
        setup.purgers.iter().map(|purger| (purger.config.name().to_owned(), purger.config.kind())).collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.setup.load().purgers.is_empty()
    }

    /// There is a new purge to tell of.
    pub fn wake(&self) {
        self.inner.due.notify_one();
    }

    /// The purge once every cache has confirmed it, or as it is when `wait` is over.
    pub async fn settled(&self, id: u64, wait: Duration) -> Option<PurgeRecord> {
        let mut heard = self.inner.heard.subscribe();
        let settled = async {
            while self.inner.purges.record(id).is_some_and(|record| !record.is_settled()) {
                if heard.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(wait, settled).await;
        self.inner.purges.record(id)
    }

    /// Tells of what is owed, that of earlier processes first, until shutdown.
    #[must_use]
    pub fn start(&self, shutdown: Shutdown) -> JoinHandle<()> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(inner.run(shutdown))
    }
}

impl Inner {
    async fn run(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut deliveries: JoinSet<(u64, String)> = JoinSet::new();
        let mut under_way: HashSet<(u64, String)> = HashSet::new();
        let mut changed = self.changed.subscribe();
        loop {
            self.abandon_the_unknown();
            for (id, name) in self.owed() {
                if under_way.insert((id, name.clone())) {
                    deliveries.spawn(Arc::clone(&self).deliver(id, name));
                }
            }
            self.count();
            tokio::select! {
                () = shutdown.requested() => break,
                () = self.due.notified() => {}
                _ = changed.changed() => {}
                Some(ended) = deliveries.join_next(), if !deliveries.is_empty() => match ended {
                    Ok(done) => drop(under_way.remove(&done)),
                    Err(error) => tracing::error!(%error, "telling a cache of a purge ended early"),
                },
            }
        }
        deliveries.shutdown().await;
    }

    fn replace(&self, setup: Setup) {
        let former = self.setup.swap(Arc::new(setup));
        let setup = self.setup.load();
        for gone in former.purgers.iter().filter(|purger| setup.purger(purger.config.name()).is_none()) {
            let _ = self.purges.metrics().unconfirmed.remove_label_values(&[gone.config.name()]);
        }
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn owed(&self) -> Vec<(u64, String)> {
        let setup = self.setup.load();
        let mut owed = Vec::new();
        for record in self.purges.unsettled() {
            let names = setup.purgers.iter().map(|purger| purger.config.name());
            owed.extend(names.filter(|name| is_owed(&record, name)).map(|name| (record.id, name.to_owned())));
        }
        owed
    }

    fn count(&self) {
        for purger in &self.setup.load().purgers {
            let count = self.purges.unconfirmed(purger.config.name());
            let gauge = self.purges.metrics().unconfirmed.with_label_values(&[purger.config.name()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A cache that is no longer configured is owed nothing, and the purge says so.
    fn abandon_the_unknown(&self) {
        let setup = self.setup.load_full();
        for record in self.purges.unsettled() {
            let unknown = |name: &&String| setup.purger(name).is_none() && is_owed(&record, name);
            for name in record.downstream.keys().filter(unknown) {
                let change = |delivery: &mut Delivery| {
                    if !delivery.state.is_over() {
                        delivery.state = DeliveryState::GivenUp;
                        delivery.last_error = Some("it is no longer configured".to_owned());
                    }
                };
                self.note(record.id, name, change);
            }
        }
    }

    /// Calls one cache for one purge until it confirms, the purge is too old, or is no longer remembered.
    async fn deliver(self: Arc<Self>, id: u64, name: String) -> (u64, String) {
        let mut changed = self.changed.subscribe();
        let mut attempts = 0_u32;
        loop {
            let setup = self.setup.load_full();
            let owed = self.purges.record(id).filter(|record| is_owed(record, &name));
            let (Some(purger), Some(record)) = (setup.purger(&name), owed) else { break };
            let pace = setup.pace;
            let age = Duration::from_millis(unix_ms(SystemTime::now()).saturating_sub(record.at_unix_ms));
            if age > pace.give_up {
                tracing::error!(purge = id, purger = name, "a purge was never confirmed and is given up");
                self.note(id, &name, |delivery| delivery.state = DeliveryState::GivenUp);
                break;
            }
            attempts = attempts.saturating_add(1);
            let judgement = self.attempt(&setup, purger, &record).await;
            self.purges.metrics().calls.with_label_values(&[name.as_str(), judgement.as_str()]).inc();
            let (reason, pause) = match judgement {
                Judgement::Confirmed => {
                    self.confirmed(id, &name);
                    break;
                }
                Judgement::Incomplete(reason) => {
                    self.incomplete(id, &name, reason);
                    break;
                }
                Judgement::Limited(after) => ("too many calls".to_owned(), after),
                // Nothing changes by itself: no hurry.
                Judgement::Refused(reason) => (reason, Some(pace.backoff_max)),
                Judgement::Failed(reason) => (reason, None),
            };
            self.unconfirmed(id, &name, age, pace.confirm_deadline, &reason);
            let backoff = pace.backoff(attempts, jitter());
            tokio::select! {
                () = tokio::time::sleep(pause.map_or(backoff, |pause| pause.max(backoff))) => {}
                // It may be right now.
                _ = changed.changed() => attempts = 0,
            }
        }
        (id, name)
    }

    fn incomplete(&self, id: u64, name: &str, reason: &'static str) {
        tracing::error!(
            purge = id,
            purger = name,
            reason,
            "PURGE INCOMPLETE: this cache may still hold what is purged"
        );
        let change = |delivery: &mut Delivery| {
            delivery.state = DeliveryState::Incomplete;
            delivery.attempts += 1;
            delivery.last_error = Some(reason.to_owned());
        };
        self.note(id, name, change);
    }

    fn confirmed(&self, id: u64, name: &str) {
        tracing::info!(purge = id, purger = name, "purge confirmed");
        let change = |delivery: &mut Delivery| {
            delivery.state = DeliveryState::Confirmed;
            delivery.attempts += 1;
            delivery.confirmed_unix_ms = Some(unix_ms(SystemTime::now()));
            delivery.last_error = None;
        };
        self.note(id, name, change);
    }

    fn unconfirmed(&self, id: u64, name: &str, age: Duration, deadline: Duration, reason: &str) {
        tracing::warn!(purge = id, purger = name, reason, "purge not confirmed, calling again");
        self.purges.note_in_memory(id, name, |delivery| {
            delivery.attempts += 1;
            delivery.last_error = Some(reason.to_owned());
        });
        let is_pending = |record: PurgeRecord| {
            record.downstream.get(name).is_some_and(|delivery| delivery.state == DeliveryState::Pending)
        };
        if age >= deadline && self.purges.record(id).is_some_and(is_pending) {
            tracing::error!(purge = id, purger = name, reason, "PURGE NOT CONFIRMED by its deadline");
            self.purges.metrics().overdue.with_label_values(&[name]).inc();
            self.note(id, name, |delivery| delivery.state = DeliveryState::Overdue);
        }
    }

    /// A device that hangs keeps no cache from being told.
    fn note(&self, id: u64, name: &str, change: impl FnOnce(&mut Delivery)) {
        self.purges.note(id, name, change);
        self.heard.send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn attempt(&self, setup: &Setup, purger: &Purger, record: &PurgeRecord) -> Judgement {
        let Ok(_call) = purger.calls.acquire().await else { return Judgement::Failed("shutting down".to_owned()) };
        let secret = purger.config.secret();
        let token = match tokio::task::spawn_blocking(move || secret.read()).await {
            Ok(Ok(token)) => token,
            Ok(Err(reason)) => return Judgement::Refused(reason),
            Err(error) => return Judgement::Failed(error.to_string()),
        };
        let breadth = record.downstream.get(purger.config.name()).map_or(Breadth::AsAsked, |delivery| delivery.breadth);
        let campaigns = self.catalog.load().campaigns().map(|campaign| campaign.name.clone()).collect();
        let call = Call::new(record, breadth, campaigns, token);
        let requests = match call::requests(&purger.config, &call) {
            Ok(requests) => requests,
            Err(reason) => return Judgement::Refused(reason),
        };
        for request in requests {
            let exchange = async {
                let (parts, body) = setup.client.request(request).await.map_err(|error| text(&error))?.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
                Ok::<_, String>((parts, body.to_bytes()))
            };
            let judgement = match tokio::time::timeout(setup.pace.call_timeout, exchange).await {
                Ok(Ok((parts, body))) => judge(&purger.config, &call, parts.status, &parts.headers, &body),
                Ok(Err(reason)) => Judgement::Failed(reason),
                Err(_) => Judgement::Failed(format!("no answer in {:?}", setup.pace.call_timeout)),
            };
            if judgement != Judgement::Confirmed {
                return judgement;
            }
        }
        Judgement::Confirmed
    }
}

fn is_owed(record: &PurgeRecord, name: &str) -> bool {
    record.downstream.get(name).is_some_and(|delivery| !delivery.state.is_over())
}

/// The innermost cause says what happened; what is around it only that a request failed.
fn text(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Between 0 and 1; without a source of chance, always in the middle.
fn jitter() -> f64 {
    let mut byte = [128_u8];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

/// The system's certificates decide which servers are trusted, and are read only where one may be called.
fn http_client(is_used: bool) -> std::io::Result<HttpClient> {
    let trust = if is_used { Trust::System } else { Trust::None };
    Ok(outbound::http1(trust, None, IDLE_MAX)?)
}

#[cfg(test)]
mod tests;
