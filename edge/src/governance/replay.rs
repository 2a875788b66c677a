//! The shared log's purges and kills, put in force on this edge in the order of the log.
//!
//! A kill is in force with the state that holds it; here it is told to the caches in front of this edge. A purge becomes a mark
//! against this edge's own generations: what it holds when the entry arrives is older. An edge that has no part of the log yet
//! (a new one, or one that was given a backup) takes every mark of the state at once.
//!
//! Invariants: how far the log is in force is written with what that put in force, so that an entry is not passed over by a crash; it
//! may be taken twice, which purges a little more. This edge's own purges were in force before they were in the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::downstream::Downstream;
use super::ledger::{LogMark, PurgeRecord};
use super::marks::{PurgeKey, PurgeKind, PurgeReach};
use super::purge::{Purge, Purges};
use super::reaches::{Covered, covered};
use crate::cache::{Bindings, unix_ms};
use crate::campaign::CatalogHandle;
use crate::shared_state::{
    Change, Effect, Entries, Entry, Kill, Log, LogError, LogId, PurgeMarks, PurgeScope, State, Target, TargetKind,
};
use crate::words::Epoch;

/// Entries that are taken at a time.
const PAGE: usize = 1_000;
/// Purges of kills that are remembered by their entries.
const REMEMBERED_MAX: usize = 1_000;
/// After a log that could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Arc<dyn Log>,
    purges: Purges,
    downstream: Downstream,
    catalog: CatalogHandle,
    bindings: Bindings,
    epoch: Epoch,
    /// The last entry that is in force here.
    reached: watch::Sender<u64>,
    /// By an entry, the purge that told the caches further down of it.
    told: Mutex<BTreeMap<u64, u64>>,
}

impl Replay {
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        purges: Purges,
        downstream: Downstream,
        (catalog, bindings): (CatalogHandle, Bindings),
        epoch: Epoch,
    ) -> Self {
        let reached = watch::Sender::new(purges.reached().seq);
        let told = Mutex::default();
        Self { inner: Arc::new(Inner { log, purges, downstream, catalog, bindings, epoch, reached, told }) }
    }

    /// Takes what is in the log, and what comes, until shutdown.
    #[must_use]
    pub fn start(&self, mut shutdown: Shutdown) -> JoinHandle<()> {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = inner.run() => {}
            }
        })
    }

    /// Once the entry is in force here, the purge that told the caches further down of it, if there are any.
    pub async fn purge_of(&self, seq: u64) -> Option<u64> {
        let mut reached = self.inner.reached.subscribe();
        reached.wait_for(|reached| *reached >= seq).await.ok()?;
        self.inner.told.lock().get(&seq).copied()
    }

    /// What the caches further down were told of an entry, and what became of it within `wait`; `None` where there are none.
    pub async fn told(&self, seq: u64, wait: Duration) -> Option<PurgeRecord> {
        let told = async { self.inner.downstream.settled(self.purge_of(seq).await?, wait).await };
        tokio::time::timeout(wait, told).await.ok().flatten()
    }
}

impl Inner {
    async fn run(&self) {
        let mut published = self.log.published().watch();
        loop {
            if let Err(error) = self.catch_up().await {
                log_limited!(error, %error, "the shared log cannot be read: its purges wait");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    async fn catch_up(&self) -> Result<(), LogError> {
        loop {
            let state = self.log.published().state();
            let (mark, log) = (self.purges.reached(), log_number(state.log()));
            // Nothing of any log was in force here, and all of this one is here: it is taken from its beginning.
            if mark.log == 0 && self.log.standing().begins == 0 {
                self.reach(LogMark { log, seq: 0 });
                continue;
            }
            if state.epoch() == 0 || (mark.log == log && mark.seq == state.epoch()) {
                return Ok(());
            }
            if mark.log != log || mark.seq > state.epoch() {
                self.join().await;
                continue;
            }
            match self.log.entries(mark.seq, PAGE).await? {
                Entries::Elsewhere => self.join().await,
                Entries::These(entries) => {
                    for entry in &entries {
                        self.take(entry).await;
                        self.reach(LogMark { log, seq: entry.seq() });
                    }
                    self.store().await;
                }
            }
        }
    }

    async fn take(&self, entry: &Entry) {
        match entry.change() {
            Change::Purge(marks) if entry.edge() != self.log.edge() => self.purge(entry, marks),
            Change::Kill(Kill { target }) => {
                // What people decided for is shown under recipes that the catalogue may not name any more.
                let decided = self.log.published().state().recipes_of(target);
                let decided: Vec<String> = decided.into_iter().map(|recipe| format!("recipe:{recipe}")).collect();
                self.tell(entry, PurgeScope::Kill(target.clone()), target, &decided).await;
            }
            Change::Review(review) if entry.change().effect() == Effect::Shown => {
                self.tell_of_review(entry, &review.variant).await;
            }
            _ => {}
        }
    }

    fn purge(&self, entry: &Entry, marks: &PurgeMarks) {
        let keys: Result<Vec<PurgeKey>, _> = marks.keys.iter().map(|key| key.parse()).collect();
        let keys = keys.unwrap_or_else(|_| {
            tracing::warn!(
                seq = entry.seq(),
                "a purge of another edge has a key that is not known here: all is purged"
            );
            vec![PurgeKey::Everything]
        });
        let (tags, url) = (marks.tags.clone(), marks.url.clone());
        let key = entry.key().map(str::to_owned);
        let record = PurgeRecord { tags, url, key, ..self.record(entry, marks.scope.clone(), marks.kind, marks.reach) };
        self.enforce(Purge { keys, campaign: marks.campaign.clone(), record }, entry.seq());
    }

    /// Tells the caches further down that a variant may show another picture from now on: any that it had, or has.
    async fn tell_of_review(&self, entry: &Entry, variant: &str) {
        let state = self.log.published().state();
        let had: Vec<String> =
            state.reviews().of(variant).iter().map(|case| format!("recipe:{}", case.recipe)).collect();
        if let Ok(target) = Target::of(TargetKind::Variant, variant) {
            self.tell(entry, PurgeScope::Review(variant.to_owned()), &target, &had).await;
        }
    }

    /// Tells the caches further down what is not shown any more: what is covered, and `others`. Here the gate withholds it.
    async fn tell(&self, entry: &Entry, scope: PurgeScope, target: &Target, others: &[String]) {
        if self.downstream.is_empty() {
            return;
        }
        let (catalog, bindings, meant) = (self.catalog.load(), self.bindings.clone(), target.clone());
        let work = tokio::task::spawn_blocking(move || covered(&catalog, &bindings, &meant));
        // What it covers is not known: everything.
        let everything = Covered { is_everything: true, ..Covered::default() };
        let covered = work.await.unwrap_or(everything);
        if covered.tags.is_empty() && others.is_empty() && !covered.is_everything {
            return;
        }
        let mut tags = if covered.is_everything { Vec::new() } else { covered.tags };
        if !covered.is_everything {
            let others: Vec<String> = others.iter().filter(|tag| !tags.contains(tag)).cloned().collect();
            tags.extend(others);
        }
        let record = PurgeRecord { tags, ..self.record(entry, scope, PurgeKind::Hard, PurgeReach::Renditions) };
        self.enforce(Purge { keys: Vec::new(), campaign: None, record }, entry.seq());
    }

    fn record(&self, entry: &Entry, scope: PurgeScope, kind: PurgeKind, reach: PurgeReach) -> PurgeRecord {
        PurgeRecord {
            id: 0,
            at_unix_ms: unix_ms(SystemTime::now()),
            by: format!("entry {}", entry.seq()),
            why: entry.why().to_owned(),
            scope,
            kind,
            reach,
            tags: Vec::new(),
            url: None,
            key: None,
            downstream: BTreeMap::default(),
        }
    }

    fn enforce(&self, purge: Purge, seq: u64) {
        let enforced = self.purges.enforce(purge, || self.downstream.names());
        self.epoch.advance();
        self.downstream.wake();
        let mut told = self.told.lock();
        told.insert(seq, enforced.record.id);
        while told.len() > REMEMBERED_MAX {
            told.pop_first();
        }
    }

    /// Everything this edge holds is older than every mark of the state.
    async fn join(&self) {
        let state = self.log.published().state();
        let mut orders: BTreeMap<(bool, bool), Vec<PurgeKey>> = BTreeMap::new();
        for (key, purged) in state.purges() {
            let key = key.parse().unwrap_or(PurgeKey::Everything);
            for (kind, reach) in purged.orders() {
                let order = (kind == PurgeKind::Hard, reach == PurgeReach::Masters);
                orders.entry(order).or_default().push(key.clone());
            }
        }
        for ((is_hard, is_of_masters), keys) in orders {
            let why = format!("marks up to entry {}, which this edge joined at", state.epoch());
            let record = PurgeRecord {
                kind: if is_hard { PurgeKind::Hard } else { PurgeKind::Soft },
                reach: if is_of_masters { PurgeReach::Masters } else { PurgeReach::Renditions },
                ..joined(&state, why)
            };
            self.enforce(Purge { keys, campaign: None, record }, state.epoch());
        }
        let are_decided = !state.kills().is_empty() || !state.reviews().is_empty();
        if are_decided && !self.downstream.is_empty() {
            let why = format!("kills and reviews up to entry {}, which this edge joined at", state.epoch());
            self.enforce(Purge { keys: Vec::new(), campaign: None, record: joined(&state, why) }, state.epoch());
        }
        let mark = LogMark { log: log_number(state.log()), seq: state.epoch() };
        tracing::info!(seq = mark.seq, log = %state.log(), "the purges of the shared log are in force here");
        self.reach(mark);
        self.store().await;
    }

    fn reach(&self, mark: LogMark) {
        self.purges.reach(mark);
        self.reached.send_replace(mark.seq);
    }

    async fn store(&self) {
        // What the device refuses is tried again by itself, and taken once more after a restart.
        if let Err(error) = self.purges.flush().await {
            log_limited!(warn, %error, "how far the shared log is in force is not on the device");
        }
    }
}

/// The caches further down may hold anything that is older: they are told of everything.
fn joined(state: &State, why: String) -> PurgeRecord {
    PurgeRecord {
        id: 0,
        at_unix_ms: unix_ms(SystemTime::now()),
        by: format!("log {}", state.log()),
        why,
        scope: PurgeScope::Everything,
        kind: PurgeKind::Hard,
        reach: PurgeReach::Renditions,
        tags: Vec::new(),
        url: None,
        key: None,
        downstream: BTreeMap::default(),
    }
}

/// The ledger keeps numbers.
fn log_number(log: &LogId) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&blake3::hash(log.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(number).max(1)
}
