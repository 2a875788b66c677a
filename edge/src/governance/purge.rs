//! Which generations of what are no longer valid: the question every look-up of a stored image may ask.
//!
//! Invariants: a purge is in force at once, on the device next, and acknowledged last; what the device refuses stays in
//! force, goes with the next commit and is tried again by itself; generations come into force and onto the device in
//! order, each commit holding all that came before it; nothing is asked of the marks for an image made since the last
//! purge, and nothing at all where nothing was ever purged; an image whose making began before a purge never counts as
//! made after it, for the generation is read first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bildkante_shared::ids::{MasterId, RecipeId};
use parking_lot::{Mutex, RwLock};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use serde::Deserialize;

use super::downstream::DownstreamConfig;
use super::ledger::{Breadth, Delivery, Ledger, Loaded, LogMark, PurgeRecord, RECORDS_MAX, Unwritten};
use super::marks::{Mark, MarkTable, Marks, PurgeKey, PurgeReach, StaleWindows, Verdict};
use crate::cache::{Binding, Rendition, RenditionKey, unix_ms};
use crate::render::{FinishDigest, RenditionSpec};
use crate::state::StateError;

/// `[purge]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeConfig {
    /// Marks kept apart; past them they are widened to their campaigns, then to everything.
    pub tags_max: usize,
    /// How long a softly purged image is shown while it is made anew …
    pub stale_while_revalidate_s: u64,
    /// … and how long when that fails.
    pub stale_if_error_s: u64,
    /// Stale images made anew at a time, behind the readers.
    pub refreshes_max: usize,
    /// How long a purge's answer waits for the caches further down.
    pub answer_wait_ms: u64,
    /// After this long without a confirmation a purge is reported as overdue.
    pub confirm_deadline_ms: u64,
    /// Between two calls of a cache that does not confirm; it doubles from the first to the second.
    pub retry_backoff_ms_min: u64,
    pub retry_backoff_ms_max: u64,
    /// After this long it is no longer called.
    pub retry_for_s: u64,
    /// For one call, connecting included.
    pub call_timeout_ms: u64,
    /// Caches in front of this edge.
    pub downstream: Vec<DownstreamConfig>,
}

impl Default for PurgeConfig {
    fn default() -> Self {
        Self {
            tags_max: 10_000,
            stale_while_revalidate_s: 3_600,
            stale_if_error_s: 86_400,
            refreshes_max: 64,
            answer_wait_ms: 5_000,
            confirm_deadline_ms: 60_000,
            retry_backoff_ms_min: 500,
            retry_backoff_ms_max: 60_000,
            retry_for_s: 86_400,
            call_timeout_ms: 10_000,
            downstream: Vec::new(),
        }
    }
}

/// How far the clocks of two edges may be apart.
const CLOCK_SKEW_MAX_MS: u64 = 10_000;
/// Longest stale window.
const STALE_S_MAX: u64 = 31_536_000;
/// Between two tries to write what the device refused; it doubles from the first to the second.
const REWRITE_PAUSE_MIN: Duration = Duration::from_millis(500);
const REWRITE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most caches in front of this edge.
const DOWNSTREAM_MAX: usize = 32;

impl PurgeConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("tags_max", self.tags_max as u64),
            ("refreshes_max", self.refreshes_max as u64),
            ("confirm_deadline_ms", self.confirm_deadline_ms),
            ("retry_backoff_ms_min", self.retry_backoff_ms_min),
            ("retry_for_s", self.retry_for_s),
            ("call_timeout_ms", self.call_timeout_ms),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`purge.{key}` must not be 0"));
        }
        if self.retry_backoff_ms_min > self.retry_backoff_ms_max {
            return Err("`purge.retry_backoff_ms_min` is above `retry_backoff_ms_max`".to_owned());
        }
        if self.stale_if_error_s > STALE_S_MAX || self.stale_while_revalidate_s > STALE_S_MAX {
            return Err(format!("a stale window of `purge` is longer than {STALE_S_MAX} s"));
        }
        if self.downstream.len() > DOWNSTREAM_MAX {
            return Err(format!("more than {DOWNSTREAM_MAX} `purge.downstream`"));
        }
        for (index, downstream) in self.downstream.iter().enumerate() {
            downstream.check().map_err(|reason| format!("`purge.downstream` {}: {reason}", index + 1))?;
            if self.downstream[..index].iter().any(|other| other.name() == downstream.name()) {
                return Err(format!("two `purge.downstream` are named `{}`", downstream.name()));
            }
        }
        Ok(())
    }

    const fn windows(&self) -> StaleWindows {
        StaleWindows {
            while_revalidate: Duration::from_secs(self.stale_while_revalidate_s),
            if_error: Duration::from_secs(self.stale_if_error_s),
        }
    }
}

/// How the making anew of a stale rendition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshOutcome {
    Done,
    Failed,
    /// There was no room to begin it.
    Full,
}

impl RefreshOutcome {
    pub const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Full];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Full => "full",
        }
    }
}

/// What purges did.
#[derive(Debug, Clone)]
pub struct PurgeMetrics {
    pub(super) purges: IntCounterVec,
    marks: IntGauge,
    unstored: IntGauge,
    compactions: IntCounter,
    refreshes: IntCounterVec,
    pub(super) calls: IntCounterVec,
    pub(super) unconfirmed: prometheus::IntGaugeVec,
    pub(super) overdue: IntCounterVec,
}

impl PurgeMetrics {
    pub(crate) fn refreshed(&self, outcome: RefreshOutcome) {
        self.refreshes.with_label_values(&[outcome.as_str()]).inc();
    }

    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let marks = IntGauge::new("bildkante_edge_purge_marks", "Tags with a purge mark of their own")?;
        let compactions = IntCounter::new(
            "bildkante_edge_purge_compactions_total",
            "Times marks were widened to campaigns or everything for want of room",
        )?;
        let unconfirmed = prometheus::IntGaugeVec::new(
            Opts::new("bildkante_edge_downstream_purges_unconfirmed", "Purges a cache further down has yet to confirm"),
            &["purger"],
        )?;
        let unstored = IntGauge::new(
            "bildkante_edge_purges_unstored",
            "Purges in force here that the device refused: a restart would forget them",
        )?;
        registry.register(Box::new(marks.clone()))?;
        registry.register(Box::new(unstored.clone()))?;
        registry.register(Box::new(compactions.clone()))?;
        registry.register(Box::new(unconfirmed.clone()))?;
        let refreshes = counter(
            "bildkante_edge_refreshes_total",
            "Stale renditions made anew behind their readers, by how it ended",
            &["outcome"],
        )?;
        for outcome in RefreshOutcome::ALL {
            refreshes.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self {
            purges: counter("bildkante_edge_purges_total", "Purges by scope and kind", &["scope", "kind"])?,
            marks,
            unstored,
            compactions,
            refreshes,
            calls: counter(
                "bildkante_edge_downstream_purge_calls_total",
                "Calls of caches further down, by outcome",
                &["purger", "outcome"],
            )?,
            unconfirmed,
            overdue: counter(
                "bildkante_edge_downstream_purges_overdue_total",
                "Purges a cache further down had not confirmed by their deadline",
                &["purger"],
            )?,
        })
    }
}

/// What a look-up knows of the image it looks for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Campaign, slot and recipe as in `Cache-Tag`.
    pub tags: [&'a str; 3],
    pub recipe: RecipeId,
    pub spec: &'a RenditionSpec,
}

/// Stands where a key has its finish otherwise: no finish has this digest.
const PURGE_OF_ONE_CUT: FinishDigest = FinishDigest::from_raw(*b"purge of one cut");

/// What is marked for exactly this recipe in this size, format and quality.
#[must_use]
pub fn cut_key(recipe: RecipeId, spec: &RenditionSpec) -> RenditionKey {
    // A rendition's key is made to hold all of a spec; the recipe stands where its master does otherwise.
    RenditionKey::new(MasterId::from_raw(*recipe.as_bytes()), spec, PURGE_OF_ONE_CUT, None)
}

/// A purge, ready to be put in force.
#[derive(Debug, Clone)]
pub struct Purge {
    pub keys: Vec<PurgeKey>,
    /// What the keys are widened to when there is no room for them, where it is known.
    pub campaign: Option<String>,
    pub record: PurgeRecord,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Purges {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Of the last purge; what is made from now on carries it.
    generation: AtomicU64,
    /// Of the last purge that left a mark; 0 when there never was one.
    latest: AtomicU64,
    latest_masters: AtomicU64,
    marks: RwLock<MarkTable>,
    records: Mutex<BTreeMap<u64, PurgeRecord>>,
    ledger: Arc<Ledger>,
    /// How far the shared log is in force.
    log: Mutex<LogMark>,
    /// Held while a purge comes into force, so that generations do in order.
    pending: Mutex<Pending>,
    /// One writer at a time, waiting without holding a thread: the last step that is on the device.
    writer: tokio::sync::Mutex<u64>,
    /// Whether a task writes what no caller waits for: what the device refused, and what became of purges.
    is_catching_up: AtomicBool,
    windows: StaleWindows,
    tags_max: usize,
    metrics: PurgeMetrics,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    unwritten: Unwritten,
    /// Counts what came in.
    step: u64,
    /// The last purge that is on the device: generations get there in order, so all before it are.
    stored: u64,
}

/// A purge that is in force and on its way to the device.
#[derive(Debug)]
pub struct Enforced {
    pub record: PurgeRecord,
    step: u64,
}

impl Purges {
    /// Reads what was purged before. Blocks: for the start.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(config: &PurgeConfig, path: &std::path::Path, metrics: PurgeMetrics) -> Result<Self, StateError> {
        Ok(Self::with(config, Ledger::open(path)?, metrics))
    }

    fn with(config: &PurgeConfig, (ledger, loaded): (Ledger, Loaded), metrics: PurgeMetrics) -> Self {
        let Loaded { generation, log, marks, records } = loaded;
        metrics.marks.set(i64::try_from(marks.len()).unwrap_or(i64::MAX));
        let inner = Inner {
            generation: AtomicU64::new(generation),
            latest: AtomicU64::new(if marks.has_marks() { generation } else { 0 }),
            latest_masters: AtomicU64::new(marks.latest_masters()),
            marks: RwLock::new(marks),
            records: Mutex::new(records),
            ledger: Arc::new(ledger),
            log: Mutex::new(log),
            pending: Mutex::new(Pending { stored: generation, ..Pending::default() }),
            writer: tokio::sync::Mutex::new(0),
            is_catching_up: AtomicBool::new(false),
            windows: config.windows(),
            tags_max: config.tags_max,
            metrics,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What a rendition that is about to be made will carry: read it first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// The generation this edge was at, at the least, when another edge made something: each counts its own purges.
    /// Where the clocks of the two leave a doubt, or the purge is long forgotten, it is taken to be older.
    #[must_use]
    pub fn generation_at(&self, made_unix_ms: u64) -> u64 {
        let records = self.inner.records.lock();
        let before =
            records.values().filter(|record| record.at_unix_ms.saturating_add(CLOCK_SKEW_MAX_MS) < made_unix_ms);
        before.map(|record| record.id).max().unwrap_or(0)
    }

    /// The purge that an order with this key became, while it is remembered.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<PurgeRecord> {
        let records = self.inner.records.lock();
        records.values().rev().find(|record| record.key.as_deref() == Some(key)).cloned()
    }

    #[must_use]
    pub fn metrics(&self) -> &PurgeMetrics {
        &self.inner.metrics
    }

    /// Whether a stored rendition may be served for `subject`.
    #[must_use]
    pub fn verdict(&self, subject: &Subject<'_>, rendition: &Rendition) -> Verdict {
        self.verdict_at(subject, (rendition.master, rendition.generation))
    }

    /// The same of one that was not read: its master, and the purge generation it was made at.
    #[must_use]
    pub fn verdict_at(&self, subject: &Subject<'_>, (master, generation): (MasterId, u64)) -> Verdict {
        if generation >= self.inner.latest.load(Ordering::Acquire) {
            return Verdict::Valid;
        }
        let marks = self.floor(subject, master);
        marks.rendition(generation, now_unix_ms(), &self.inner.windows)
    }

    /// Whether a binding may still be cut from.
    #[must_use]
    pub fn binding_verdict(&self, subject: &Subject<'_>, binding: &Binding) -> Verdict {
        if binding.generation >= self.inner.latest_masters.load(Ordering::Acquire) {
            return Verdict::Valid;
        }
        let marks = self.floor(subject, binding.master);
        marks.binding(binding.generation, now_unix_ms(), &self.inner.windows)
    }

    fn floor(&self, subject: &Subject<'_>, master: MasterId) -> Marks {
        self.inner.marks.read().floor(&subject.tags, master, || cut_key(subject.recipe, subject.spec))
    }

    /// Puts a purge in force: when this returns, no look-up takes what it purges. `record` gets its id here.
    /// `downstream` is asked once it is in force: any cache that was given an answer before is among them.
    pub fn enforce(&self, purge: Purge, downstream: impl FnOnce() -> Vec<String>) -> Enforced {
        let Purge { keys, campaign, mut record } = purge;
        let inner = &self.inner;
        let mut pending = inner.pending.lock();
        // Above all that a process before this one may have put in force without writing it down, too.
        record.id = (inner.generation.load(Ordering::Acquire) + 1).max(record.at_unix_ms);
        let mark = Mark { generation: record.id, at_unix_ms: record.at_unix_ms };
        let marks = Marks::of(mark, record.kind, record.reach);
        let changes = inner.marks.read().plan(&keys, campaign.as_deref(), marks, inner.tags_max);
        inner.enforce(record.id, record.reach, &changes);
        let forgotten = inner.remember(&mut record, &downstream());
        pending.unwritten.purge(&changes, &record, &forgotten);
        pending.step += 1;
        Enforced { record, step: pending.step }
    }

    /// Waits until a purge is on the device. The writing is a task of its own: nothing is left half done by a caller
    /// that stops waiting.
    ///
    /// # Errors
    /// When the device refuses: the purge is in force, but a restart would forget it until a later try succeeds.
    pub async fn stored(&self, enforced: &Enforced) -> Result<(), StateError> {
        Inner::write(&self.inner, enforced.step).await
    }

    /// Writes what is not on the device yet.
    ///
    /// # Errors
    /// When the device refuses.
    pub async fn flush(&self) -> Result<(), StateError> {
        let step = self.inner.pending.lock().step;
        Inner::write(&self.inner, step).await
    }

    /// Whether a purge is on the device. What has become of it further down may still be on its way there.
    #[must_use]
    pub fn is_stored(&self, id: u64) -> bool {
        id <= self.inner.pending.lock().stored
    }

    /// How far the shared log is in force here.
    #[must_use]
    pub fn reached(&self) -> LogMark {
        *self.inner.log.lock()
    }

    /// The shared log is in force here as far as this. It goes to the device with what that put in force, or behind it.
    pub(super) fn reach(&self, mark: LogMark) {
        *self.inner.log.lock() = mark;
        let mut pending = self.inner.pending.lock();
        pending.unwritten.reached(mark);
        pending.step += 1;
    }

    /// Changes what is known of a purge downstream, at once, and has it stored: what a restart forgets before that is
    /// asked for once more. It never waits for the device.
    pub(super) fn note(&self, id: u64, purger: &str, change: impl FnOnce(&mut Delivery)) {
        {
            let mut pending = self.inner.pending.lock();
            let mut records = self.inner.records.lock();
            let Some(record) = records.get_mut(&id) else { return };
            let Some(delivery) = record.downstream.get_mut(purger) else { return };
            change(delivery);
            pending.unwritten.note(record);
            pending.step += 1;
        }
        Inner::catch_up(&self.inner, None);
    }

    /// The same, of what a restart may forget.
    pub(super) fn note_in_memory(&self, id: u64, purger: &str, change: impl FnOnce(&mut Delivery)) {
        if let Some(delivery) =
            self.inner.records.lock().get_mut(&id).and_then(|record| record.downstream.get_mut(purger))
        {
            change(delivery);
        }
    }

    #[must_use]
    pub fn record(&self, id: u64) -> Option<PurgeRecord> {
        self.inner.records.lock().get(&id).cloned()
    }

    /// The latest purges, newest first.
    #[must_use]
    pub fn recent(&self, count: usize) -> Vec<PurgeRecord> {
        self.inner.records.lock().values().rev().take(count).cloned().collect()
    }

    /// Purges that caches further down have yet to confirm, oldest first.
    #[must_use]
    pub(super) fn unsettled(&self) -> Vec<PurgeRecord> {
        self.inner.records.lock().values().filter(|record| !record.is_settled()).cloned().collect()
    }

    /// Purges that one of them has yet to confirm.
    #[must_use]
    pub fn unconfirmed(&self, purger: &str) -> usize {
        let is_owed = |record: &&PurgeRecord| record.downstream.get(purger).is_some_and(|it| !it.state.is_over());
        self.inner.records.lock().values().filter(is_owed).count()
    }

    /// Tags with a mark of their own.
    #[must_use]
    pub fn marks(&self) -> usize {
        self.inner.marks.read().len()
    }
}

impl Inner {
    /// Returns once everything up to `step` is on the device.
    async fn write(self: &Arc<Self>, step: u64) -> Result<(), StateError> {
        let task = tokio::spawn(Arc::clone(self).commit(step));
        let result = task.await.unwrap_or(Err(StateError::Panicked));
        if result.is_err() {
            self.catch_up(Some(REWRITE_PAUSE_MIN));
        }
        result
    }

    /// Has everything written by a task of its own, unless one is at work.
    fn catch_up(self: &Arc<Self>, pause: Option<Duration>) {
        if !self.is_catching_up.swap(true, Ordering::AcqRel) {
            tokio::spawn(Arc::clone(self).write_all(pause));
        }
    }

    /// The writer whose turn it is writes all there is, the changes that other callers wait for included.
    async fn commit(self: Arc<Self>, step: u64) -> Result<(), StateError> {
        let mut written = self.writer.lock().await;
        if *written >= step {
            return Ok(());
        }
        let (batch, last) = {
            let mut pending = self.pending.lock();
            (Arc::new(std::mem::take(&mut pending.unwritten)), pending.step)
        };
        let (ledger, writing) = (Arc::clone(&self.ledger), Arc::clone(&batch));
        let result = tokio::task::spawn_blocking(move || ledger.write(&writing)).await;
        let result = result.unwrap_or(Err(StateError::Panicked));
        let mut pending = self.pending.lock();
        match &result {
            Ok(()) => {
                *written = last;
                pending.stored = pending.stored.max(batch.generation().unwrap_or(0));
            }
            Err(_) => pending.unwritten.put_under(&batch),
        }
        let refused = if result.is_ok() { 0 } else { pending.unwritten.purges_after(pending.stored) };
        self.metrics.unstored.set(i64::try_from(refused).unwrap_or(i64::MAX));
        result
    }

    /// Writes until nothing is left, after this pause; what the device refuses is tried again.
    async fn write_all(self: Arc<Self>, mut pause: Option<Duration>) {
        loop {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let step = self.pending.lock().step;
            match Arc::clone(&self).commit(step).await {
                Ok(()) => {
                    if pause.take().is_some() {
                        tracing::info!("what the device had refused of purges is on it");
                    }
                    self.is_catching_up.store(false, Ordering::Release);
                    // What has come since then has found this task at work.
                    if self.pending.lock().unwritten.is_empty() || self.is_catching_up.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "purges are in force, and they or what became of them are not on the device");
                    pause = Some(pause.map_or(REWRITE_PAUSE_MIN, |pause| (pause * 2).min(REWRITE_PAUSE_MAX)));
                }
            }
        }
    }

    /// Makes room among the records and enters this one. What an old one still owed downstream, this one asks for.
    fn remember(&self, record: &mut PurgeRecord, downstream: &[String]) -> Vec<u64> {
        let mut records = self.records.lock();
        let mut forgotten = Vec::new();
        let mut owed = Vec::new();
        while records.len() >= RECORDS_MAX {
            let Some((id, old)) = records.pop_first() else { break };
            forgotten.push(id);
            owed.extend(
                old.downstream.into_iter().filter(|(_, delivery)| !delivery.state.is_over()).map(|(name, _)| name),
            );
        }
        let breadth = |name| if owed.contains(name) { Breadth::Everything } else { Breadth::AsAsked };
        record.downstream = downstream.iter().map(|name| (name.clone(), Delivery::pending(breadth(name)))).collect();
        records.insert(record.id, record.clone());
        forgotten
    }

    /// From here on no look-up takes what was purged. The marks come first: what is made in between carries the old
    /// generation and is merely made once more.
    fn enforce(&self, id: u64, reach: PurgeReach, changes: &super::marks::Changes) {
        let is_compaction = changes.put.contains_key(&PurgeKey::Everything) && !changes.remove.is_empty();
        let mut marks = self.marks.write();
        marks.apply(changes.clone());
        self.metrics.marks.set(i64::try_from(marks.len()).unwrap_or(i64::MAX));
        drop(marks);
        if is_compaction {
            self.metrics.compactions.inc();
        }
        self.latest.store(id, Ordering::Release);
        if reach == PurgeReach::Masters {
            self.latest_masters.store(id, Ordering::Release);
        }
        self.generation.store(id, Ordering::Release);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;

    use super::*;
    use crate::state::testing::Device;

    impl Purges {
        /// As [`Purges::open`], on a device that a test holds.
        pub(crate) fn open_on(device: &Device, path: &Path, registry: &Registry) -> Self {
            let ledger = super::super::ledger::testing::open_on(device, path).unwrap();
            Self::with(&PurgeConfig::default(), ledger, PurgeMetrics::new(registry).unwrap())
        }

        /// In force and on the device.
        pub(crate) async fn purge(&self, purge: Purge, downstream: &[String]) -> Result<PurgeRecord, StateError> {
            let enforced = self.enforce(purge, || downstream.to_vec());
            self.stored(&enforced).await?;
            Ok(enforced.record)
        }
    }
}

fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}

#[cfg(test)]
mod tests;
