//! The log of an edge that numbers its entries itself: of every single edge, and of one among several.
//!
//! Invariants: entries are numbered by one writer at a time, and each commit holds them with the rows of the state that they change; a
//! state is published when its commit is on the device, so that no edge shows a decision that a crash takes back; a kill is the
//! exception, because to withhold too much for a moment is safe: it holds before it is durable, and goes on to hold where the
//! device refuses; who has seen a later term writes no more.

mod draft;
mod replica;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use self::draft::Draft;
use super::actor::{ActorId, Names};
use super::change::{Change, Effect, Forget, Term};
use super::entry::Entry;
use super::fold::{Head, State};
use super::holds::Hold;
use super::log::{Committed, Entries, Log, LogError, Promotion, Proposal, Published, Role, Snapshot, Standing};
use super::store::{Batch, HeardLast, HeldKill, Loaded, Store, StoredHead};
use crate::state::StateError;
use crate::words::Epoch;

/// The name of what no person asked for.
pub const EDGE_ITSELF: &str = "edge";

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Primary {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    published: Published,
    /// Who holds it numbers entries.
    writer: Mutex<Writer>,
    /// A later term than the state's, where one was seen.
    term_seen: AtomicU64,
    edge: String,
    /// The entry before the first that is here.
    begins: AtomicU64,
    promoted_from: parking_lot::Mutex<Option<String>>,
    /// When a follower heard its primary last.
    heard: parking_lot::Mutex<Option<HeardLast>>,
    /// Kills that hold here and are to be sent on, in the order in which they were asked for.
    held: parking_lot::Mutex<Vec<Held>>,
    /// Kills that hold here because the device refused them.
    refused: parking_lot::Mutex<Vec<Hold>>,
    /// As on the device. No reader waits for a write of entries.
    names: parking_lot::RwLock<Names>,
}

/// A kill that is to be sent on, under the key of its order.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: String,
    pub(super) kill: HeldKill,
    hold: Hold,
}

#[derive(Debug)]
struct Writer {
    begins: Head,
    /// The device refused a commit, and may have it all the same: what is stored is read before anything is numbered.
    is_in_doubt: bool,
    /// While a term is begun here: whose place this edge takes.
    taking_over_from: Option<String>,
}

impl Primary {
    /// Opens or begins a log. Blocks: for the start.
    ///
    /// # Errors
    /// When the file cannot be used, or holds what this build cannot read.
    pub fn open(path: &Path, epoch: Epoch) -> Result<Self, LogError> {
        let (store, loaded) = Store::open(path)?;
        Self::over(store, loaded, epoch)
    }

    pub(super) fn over(store: Store, loaded: Loaded, epoch: Epoch) -> Result<Self, LogError> {
        let Loaded { state, stored, held } = loaded;
        let names = parking_lot::RwLock::new(store.names()?.into_iter().collect());
        let published = Published::new(state, epoch);
        let holding = |(key, kill): (String, HeldKill)| Held { hold: published.hold(&kill.target), key, kill };
        let held = held.into_iter().map(holding).collect();
        let inner = Inner {
            store: Arc::new(store),
            published,
            begins: AtomicU64::new(stored.begins.seq),
            writer: Mutex::new(Writer { begins: stored.begins, is_in_doubt: false, taking_over_from: None }),
            term_seen: AtomicU64::new(stored.term_seen),
            edge: stored.edge,
            promoted_from: parking_lot::Mutex::new(stored.promoted_from),
            heard: parking_lot::Mutex::new(stored.heard),
            held: parking_lot::Mutex::new(held),
            refused: parking_lot::Mutex::default(),
            names,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn fenced(&self) -> Option<u64> {
        let seen = self.term_seen.load(Ordering::Acquire);
        (seen > self.published.load().term().max(1)).then_some(seen)
    }

    /// Kills hold before they are durable, whatever the device says.
    async fn carry_out(self: Arc<Self>, proposals: Vec<Proposal>) -> Result<Vec<Committed>, LogError> {
        let killed = proposals.iter().filter_map(|proposal| match &proposal.change {
            Change::Kill(kill) if self.published.load().kills().of(&kill.target).is_none() => Some(&kill.target),
            _ => None,
        });
        let holds: Vec<Hold> = killed.map(|target| self.published.hold(target)).collect();
        let result = self.commit(proposals).await;
        // What the device refused goes on to hold, until it is in the log or the edge ends. Anything else is decided by now: by the
        // published state, or by a refusal.
        if matches!(result, Err(LogError::Store(_))) {
            self.refused.lock().extend(holds);
        } else {
            holds.iter().for_each(|hold| self.published.let_go(hold));
            self.let_decided_go();
        }
        result
    }

    /// What the device refused at first, and is in the log now.
    fn let_decided_go(&self) {
        let state = self.published.load();
        let is_in_log = |hold: &Hold| state.kills().of(&hold.target).is_some();
        let decided: Vec<Hold> = self.refused.lock().extract_if(.., |hold| is_in_log(hold)).collect();
        decided.iter().for_each(|hold| self.published.let_go(hold));
    }

    async fn commit(&self, proposals: Vec<Proposal>) -> Result<Vec<Committed>, LogError> {
        let mut writer = self.writer.lock().await;
        self.clear_doubt(&mut writer).await?;
        if let Some(term) = self.fenced() {
            return Err(LogError::Fenced { term });
        }
        let mut draft = self.draft();
        if draft.state.term() == 0 {
            draft.begin_term(Term::of_own(1), None)?;
        }
        for proposal in proposals {
            draft.enter(proposal).await?;
        }
        let Draft { state, batch, committed, .. } = draft;
        self.write(&mut writer, state, batch).await?;
        Ok(committed)
    }

    /// A device that refused may have written the commit before it did: the refused entry is in the log then, and what comes next is
    /// numbered behind it.
    async fn clear_doubt(&self, writer: &mut Writer) -> Result<(), LogError> {
        if !writer.is_in_doubt {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || {
            store.revive()?;
            Ok::<_, LogError>((store.load()?, store.names()?))
        });
        let (loaded, names) = read.await.map_err(|_| LogError::Panicked)??;
        let Loaded { state, stored, .. } = loaded;
        if state.head() != self.published.load().head() {
            tracing::warn!(seq = state.epoch(), "the device has a change that it had refused: it is in force");
            self.begins.store(stored.begins.seq, Ordering::Release);
            writer.begins = stored.begins;
            *self.promoted_from.lock() = stored.promoted_from;
            self.published.publish(state, Effect::Shown);
        }
        *self.names.write() = names.into_iter().collect();
        writer.is_in_doubt = false;
        Ok(())
    }

    fn stored(&self, head: Head, writer: &Writer, term_seen: u64) -> StoredHead {
        let promoted_from = writer.taking_over_from.clone().or_else(|| self.promoted_from.lock().clone());
        let heard = self.heard.lock().clone();
        let (begins, edge) = (writer.begins.clone(), self.edge.clone());
        StoredHead { head, begins, term_seen, edge, promoted_from, heard }
    }

    fn draft(&self) -> Draft<'_> {
        let state = State::clone(&self.published.load());
        let at_unix_ms = now_unix_ms().max(state.head().at_unix_ms);
        let store = Arc::clone(&self.store);
        let edge = self.edge.clone();
        Draft { state, batch: Batch::default(), committed: Vec::new(), names: &self.names, store, at_unix_ms, edge }
    }

    async fn write(&self, writer: &mut Writer, state: State, batch: Batch) -> Result<(), LogError> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let term_seen = self.term_seen.load(Ordering::Acquire).max(state.term());
        let stored = self.stored(state.head(), writer, term_seen);
        let written = self.store.write(stored, batch.clone()).await;
        writer.is_in_doubt = written.is_err();
        written?;
        self.names.write().edit(batch.names, &batch.forgotten);
        let effect = batch.entries.iter().map(|entry| entry.change().effect()).max();
        self.published.publish(state, effect.unwrap_or(Effect::Unseen));
        Ok(())
    }

    async fn promote(&self, key: Option<String>) -> Result<Promotion, LogError> {
        let mut writer = self.writer.lock().await;
        self.clear_doubt(&mut writer).await?;
        if let Some(promotion) = self.promoted_by(key.as_deref()).await? {
            return Ok(promotion);
        }
        let Some(seen) = self.fenced() else {
            return Err(LogError::AlreadyPrimary { term: self.published.load().term().max(1) });
        };
        let taken_over = self.published.load().epoch();
        let mut draft = self.draft();
        draft.begin_term(Term::of_own(seen + 1), key)?;
        let Draft { state, batch, .. } = draft;
        let head = state.head();
        self.write(&mut writer, state, batch).await?;
        Ok(Promotion { head, taken_over, silence: Duration::ZERO })
    }

    async fn forget(&self, name: String, by: String, why: String, key: Option<String>) -> Result<bool, LogError> {
        let mut writer = self.writer.lock().await;
        self.clear_doubt(&mut writer).await?;
        if let Some(term) = self.fenced() {
            return Err(LogError::Fenced { term });
        }
        let Some(actor) = self.names.read().id_of(&name) else { return self.was_forgotten(key).await };
        let mut draft = self.draft();
        let change = Change::Forget(Forget { actor });
        draft.enter(Proposal { change, who: by, why, key, edge: None }).await?;
        draft.batch.forgotten.push(name);
        let Draft { state, batch, .. } = draft;
        self.write(&mut writer, state, batch).await?;
        Ok(true)
    }
}

impl Inner {
    /// What an order with this key became, where it was to promote.
    async fn promoted_by(&self, key: Option<&str>) -> Result<Option<Promotion>, LogError> {
        let Some(key) = key else { return Ok(None) };
        let state = self.published.state();
        let Some(seq) = state.of_key(key) else { return Ok(None) };
        let entry = entries(&self.store, seq - 1, 1).await?.pop();
        let Some(entry) = entry.filter(|entry| matches!(entry.change(), Change::Term(_))) else {
            return Err(LogError::KeyReused { key: key.to_owned(), seq });
        };
        let silence_ms = if let Change::Term(term) = entry.change() { term.silence_ms } else { None };
        let (log, at_unix_ms) = (state.log().clone(), entry.at_unix_ms());
        let head = Head { log, seq, term: entry.term(), hash: *entry.hash(), at_unix_ms };
        Ok(Some(Promotion {
            head,
            taken_over: seq - 1,
            silence: Duration::from_millis(silence_ms.unwrap_or_default()),
        }))
    }

    /// Whether an order with this key erased a name. Which one it was is not known any more: that is what erasing is for.
    async fn was_forgotten(&self, key: Option<String>) -> Result<bool, LogError> {
        let Some(seq) = key.and_then(|key| self.published.load().of_key(&key)) else { return Ok(false) };
        let entry = entries(&self.store, seq - 1, 1).await?.pop();
        Ok(entry.is_some_and(|entry| matches!(entry.change(), Change::Forget(_))))
    }
}

impl Log for Primary {
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, LogError>> {
        async move {
            let committed = self.propose_all(vec![proposal]).await?;
            committed.into_iter().next().ok_or(LogError::Panicked)
        }
        .boxed()
    }

    fn propose_all(&self, proposals: Vec<Proposal>) -> BoxFuture<'_, Result<Vec<Committed>, LogError>> {
        let work = tokio::spawn(Arc::clone(&self.inner).carry_out(proposals));
        async move { work.await.unwrap_or(Err(LogError::Panicked)) }.boxed()
    }

    fn entries(&self, after: u64, count_max: usize) -> BoxFuture<'_, Result<Entries, LogError>> {
        async move {
            let head = self.inner.published.load().epoch();
            if after > head {
                return Ok(Entries::Elsewhere);
            }
            let found = entries(&self.inner.store, after, count_max).await?;
            // The first that is here may lie behind what was asked for.
            Ok(if found.is_empty() && after < head { Entries::Elsewhere } else { Entries::These(found) })
        }
        .boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, LogError>> {
        let state = self.inner.published.state();
        async move {
            let rows =
                tokio::task::spawn_blocking(move || Snapshot { head: state.head(), rows: state.rows().collect() });
            rows.await.map_err(|_| LogError::Panicked)
        }
        .boxed()
    }

    fn edge(&self) -> &str {
        &self.inner.edge
    }

    fn published(&self) -> &Published {
        &self.inner.published
    }

    fn standing(&self) -> Standing {
        let state = self.inner.published.load();
        let role = if self.inner.fenced().is_some() { Role::Fenced } else { Role::Primary };
        let begins = self.inner.begins.load(Ordering::Acquire);
        Standing { role, head: state.head(), age: Duration::ZERO, begins, held: state.held().len(), trouble: None }
    }

    fn promote(&self, key: Option<String>) -> BoxFuture<'_, Result<Promotion, LogError>> {
        let inner = Arc::clone(&self.inner);
        let work = tokio::spawn(async move { inner.promote(key).await });
        async move { work.await.unwrap_or(Err(LogError::Panicked)) }.boxed()
    }

    fn fence(&self, term: u64) {
        let before = self.inner.term_seen.fetch_max(term, Ordering::AcqRel);
        if before >= term || self.inner.fenced().is_none() {
            return;
        }
        tracing::error!(term, "a later term has begun elsewhere: this edge is no longer primary and writes no more");
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let writer = inner.writer.lock().await;
            let head = inner.published.load().head();
            let stored = inner.stored(head, &writer, term);
            if let Err(error) = inner.store.note(stored).await {
                tracing::error!(%error, "the later term is not on the device");
            }
        });
    }

    fn checkpoints(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, LogError>> {
        let store = Arc::clone(&self.inner.store);
        let read = tokio::task::spawn_blocking(move || store.checkpoints());
        async move { Ok(read.await.unwrap_or(Err(StateError::Panicked))?) }.boxed()
    }

    fn keep_checkpoint(&self, seq: u64, signed: String) -> BoxFuture<'_, Result<(), LogError>> {
        async move { Ok(self.inner.store.checkpoint(seq, signed).await?) }.boxed()
    }

    fn forget(
        &self,
        name: String,
        by: String,
        why: String,
        key: Option<String>,
    ) -> BoxFuture<'_, Result<bool, LogError>> {
        let inner = Arc::clone(&self.inner);
        let work = tokio::spawn(async move { inner.forget(name, by, why, key).await });
        async move { work.await.unwrap_or(Err(LogError::Panicked)) }.boxed()
    }

    fn name_of(&self, actor: ActorId) -> Option<String> {
        self.inner.names.read().name_of(actor).map(str::to_owned)
    }
}

async fn entries(store: &Arc<Store>, after: u64, count_max: usize) -> Result<Vec<Arc<Entry>>, LogError> {
    let store = Arc::clone(store);
    let read = tokio::task::spawn_blocking(move || store.entries(after, count_max));
    Ok(read.await.unwrap_or(Err(StateError::Panicked))?)
}

pub(super) fn now_unix_ms() -> u64 {
    unix_ms(SystemTime::now())
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
