//! A log whose entries another edge numbers: what a [`Follower`](super::super::Follower) does with the log that it keeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Batch, EDGE_ITSELF, Entry, Head, HeldKill, LogError, Primary, Snapshot, State, StoredHead};

impl Primary {
    /// The latest term that was seen.
    pub(in super::super) fn term_seen(&self) -> u64 {
        self.inner.term_seen.load(Ordering::Acquire).max(self.inner.published.load().term())
    }

    pub(in super::super) fn promoted_from(&self) -> Option<String> {
        self.inner.promoted_from.lock().clone()
    }

    /// Takes entries that follow the last: on the device, then published.
    pub(in super::super) async fn adopt(&self, entries: Vec<Arc<Entry>>) -> Result<(), LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        let mut state = State::clone(&inner.published.load());
        let mut batch = Batch::default();
        for entry in entries.into_iter().filter(|entry| entry.seq() > inner.published.load().epoch()) {
            batch.rows.extend(state.follow(&entry)?);
            batch.entries.push(entry);
        }
        inner.write(&mut writer, state, batch).await
    }

    /// A snapshot in place of all that is here. The names that this edge knew go with its own log.
    pub(in super::super) async fn replace(&self, snapshot: Snapshot) -> Result<(), LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        let Snapshot { head, rows } = snapshot;
        let state = State::restore(head.clone(), rows.clone())?;
        let term_seen = self.term_seen().max(head.term);
        let edge = inner.edge.clone();
        let stored = StoredHead { head: head.clone(), begins: head.clone(), term_seen, edge, promoted_from: None };
        inner.store.replace(stored, rows).await?;
        inner.begins.store(head.seq, Ordering::Release);
        writer.begins = head;
        inner.term_seen.fetch_max(term_seen, Ordering::AcqRel);
        *inner.promoted_from.lock() = None;
        inner.published.publish(state);
        Ok(())
    }

    /// Begins the next term here; `from` was followed until now.
    pub(in super::super) async fn take_over(&self, from: String) -> Result<Head, LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        let before = inner.promoted_from.lock().replace(from);
        let mut draft = inner.draft(&writer);
        draft.begin_term(self.term_seen() + 1, EDGE_ITSELF)?;
        let (state, batch) = (draft.state, draft.batch);
        let head = state.head();
        let result = inner.write(&mut writer, state, batch).await;
        if result.is_err() {
            *inner.promoted_from.lock() = before;
        }
        result.map(|()| head)
    }

    /// Kills that hold here alone.
    pub(in super::super) fn held(&self) -> Vec<(String, HeldKill)> {
        self.inner.held.lock().clone()
    }

    /// Remembers such a kill, on the device when this returns. It holds already.
    pub(in super::super) async fn keep_held(&self, key: String, held: HeldKill) -> Result<(), LogError> {
        self.inner.held.lock().push((key.clone(), held.clone()));
        Ok(self.inner.store.hold(key, held).await?)
    }

    /// Such a kill is in the log, and is sent on no more.
    pub(in super::super) async fn settle(&self, key: &str) -> Result<(), LogError> {
        self.inner.held.lock().retain(|(known, _)| known != key);
        Ok(self.inner.store.let_go(key.to_owned()).await?)
    }
}
