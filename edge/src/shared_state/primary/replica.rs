//! A log whose entries another edge numbers: what a [`Follower`](super::super::Follower) does with the log that it keeps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{
    Batch, Change, Effect, Entry, Forget, Head, HeardLast, Held, HeldKill, LogError, Names, Primary, Promotion,
    Snapshot, State, StoredHead, Term, unix_ms,
};
use crate::shared_state::{FirstApprovals, Log as _};

impl Primary {
    /// A name as an entry of this edge would have made it known.
    #[cfg(test)]
    pub(in super::super) fn learn(&self, name: &str, actor: super::ActorId) {
        self.inner.names.write().edit(vec![(name.to_owned(), actor)], &[]);
    }

    /// The latest term that was seen.
    pub(in super::super) fn term_seen(&self) -> u64 {
        self.inner.term_seen.load(Ordering::Acquire).max(self.inner.published.load().term())
    }

    pub(in super::super) fn promoted_from(&self) -> Option<String> {
        self.inner.promoted_from.lock().clone()
    }

    pub(in super::super) fn heard(&self) -> Option<HeardLast> {
        self.inner.heard.lock().clone()
    }

    /// Writes down when the primary was heard.
    pub(in super::super) async fn keep_heard(&self, primary: &str, at: SystemTime) -> Result<(), LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        inner.clear_doubt(&mut writer).await?;
        *inner.heard.lock() = Some(HeardLast { primary: primary.to_owned(), at_unix_ms: unix_ms(at) });
        let stored = inner.stored(inner.published.load().head(), &writer, self.term_seen());
        Ok(inner.store.note(stored).await?)
    }

    /// Takes entries that follow the last: on the device, then published.
    pub(in super::super) async fn adopt(&self, entries: Vec<Arc<Entry>>) -> Result<(), LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        inner.clear_doubt(&mut writer).await?;
        let mut state = State::clone(&inner.published.load());
        let mut batch = Batch::default();
        for entry in entries.into_iter().filter(|entry| entry.seq() > inner.published.load().epoch()) {
            batch.rows.extend(state.follow(&entry)?);
            // This edge may have numbered entries once, and know the name.
            if let Change::Forget(Forget { actor }) = entry.change() {
                batch.forgotten.extend(inner.names.read().name_of(*actor).map(str::to_owned));
            }
            batch.entries.push(entry);
        }
        inner.write(&mut writer, state, batch).await
    }

    /// A snapshot in place of all that is here. The names that this edge knew go with its own log.
    pub(in super::super) async fn replace(&self, snapshot: Snapshot) -> Result<(), LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        inner.clear_doubt(&mut writer).await?;
        let Snapshot { head, rows } = snapshot;
        let state = State::restore(head.clone(), rows.clone())?;
        let term_seen = self.term_seen().max(head.term);
        let stored = inner.stored(head.clone(), &writer, term_seen);
        let stored = StoredHead { begins: head.clone(), promoted_from: None, ..stored };
        let replaced = inner.store.replace(stored, rows).await;
        writer.is_in_doubt = replaced.is_err();
        replaced?;
        *inner.names.write() = Names::default();
        inner.begins.store(head.seq, Ordering::Release);
        writer.begins = head;
        inner.term_seen.fetch_max(term_seen, Ordering::AcqRel);
        *inner.promoted_from.lock() = None;
        inner.published.publish(state, Effect::Shown);
        Ok(())
    }

    /// Begins the next term here; `from` was followed until now.
    pub(in super::super) async fn take_over(
        &self,
        from: String,
        (silence, key): (Duration, Option<String>),
    ) -> Result<Head, LogError> {
        let inner = &self.inner;
        let mut writer = inner.writer.lock().await;
        inner.clear_doubt(&mut writer).await?;
        let mut draft = inner.draft();
        // A primary that has no entry yet will begin term 1.
        let silence_ms = Some(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
        let (term, first_approvals) = (self.term_seen().max(1) + 1, FirstApprovals::of_another_edge(&draft.state));
        draft.begin_term(Term { term, silence_ms, first_approvals }, key)?;
        let (state, batch) = (draft.state, draft.batch);
        let head = state.head();
        writer.taking_over_from = Some(from.clone());
        let result = inner.write(&mut writer, state, batch).await;
        writer.taking_over_from = None;
        result?;
        *inner.promoted_from.lock() = Some(from);
        Ok(head)
    }

    /// A later term has begun where this edge followed before its promotion.
    pub(in super::super) fn step_down(&self, term: u64) {
        *self.inner.promoted_from.lock() = None;
        self.fence(term);
    }

    /// What a promotion with this key came to.
    pub(in super::super) async fn promoted_by(&self, key: Option<&str>) -> Result<Option<Promotion>, LogError> {
        self.inner.promoted_by(key).await
    }

    /// Kills that are to be sent on.
    pub(in super::super) fn held(&self) -> Vec<Held> {
        self.inner.held.lock().clone()
    }

    /// Remembers such a kill, on the device when this returns. It holds from here on.
    pub(in super::super) async fn keep_held(&self, key: String, kill: HeldKill) -> Result<(), LogError> {
        let hold = self.inner.published.hold(&kill.target);
        self.inner.held.lock().push(Held { key: key.clone(), kill: kill.clone(), hold });
        Ok(self.inner.store.hold(key, kill).await?)
    }

    /// Such a kill is in the log that is here: the state decides about it now.
    pub(in super::super) async fn settle(&self, key: &str) -> Result<(), LogError> {
        self.inner.store.let_go(key.to_owned()).await?;
        let settled: Vec<Held> = self.inner.held.lock().extract_if(.., |held| held.key == key).collect();
        settled.iter().for_each(|held| self.inner.published.let_go(&held.hold));
        Ok(())
    }
}
