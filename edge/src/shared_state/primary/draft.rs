//! Entries before they are written: each change is admitted by the state behind the one before it, and becomes an entry in its place.

use std::sync::Arc;

use super::super::actor::{ActorId, Names};
use super::super::change::{Change, Term};
use super::super::entry::{Circumstances, Entry, Place};
use super::super::fold::{Head, State};
use super::super::log::{Committed, LogError, Proposal};
use super::super::store::{Batch, Store};
use super::{EDGE_ITSELF, entries};

/// Entries that are about to be written, and the state behind them.
pub(super) struct Draft<'w> {
    pub(super) state: State,
    pub(super) batch: Batch,
    pub(super) committed: Vec<Committed>,
    pub(super) names: &'w parking_lot::RwLock<Names>,
    pub(super) store: Arc<Store>,
    pub(super) at_unix_ms: u64,
    pub(super) edge: String,
}

impl Draft<'_> {
    pub(super) async fn enter(&mut self, proposal: Proposal) -> Result<(), LogError> {
        if let Some(committed) = self.known(&proposal).await? {
            self.committed.push(committed);
            return Ok(());
        }
        let Proposal { change, who, why, key, edge } = proposal;
        let (actor, edge) = (self.actor(&who)?, edge.unwrap_or_else(|| self.edge.clone()));
        let before = self.state.admit(&change, &why, (actor, self.at_unix_ms))?;
        let entry =
            self.follow(change, Circumstances { at_unix_ms: self.at_unix_ms, actor, why, before, key, edge })?;
        self.committed.push(Committed { entry, is_new: true });
        Ok(())
    }

    pub(super) fn begin_term(&mut self, term: Term, key: Option<String>) -> Result<(), LogError> {
        let change = Change::Term(term);
        let before = self.state.admit(&change, "", (ActorId::EDGE, self.at_unix_ms))?;
        let (at_unix_ms, why) = (self.at_unix_ms, EDGE_ITSELF.to_owned());
        let actor = ActorId::EDGE;
        let edge = self.edge.clone();
        self.follow(change, Circumstances { at_unix_ms, actor, why, before, key, edge })?;
        Ok(())
    }

    fn follow(&mut self, change: Change, circumstances: Circumstances) -> Result<Arc<Entry>, LogError> {
        let Head { seq, term, hash, .. } = self.state.head();
        let term = if let Change::Term(next) = &change { next.term } else { term };
        let entry = Arc::new(Entry::follow(Place { seq: seq + 1, term, previous: hash }, change, circumstances)?);
        self.batch.rows.extend(self.state.apply(&entry));
        self.batch.entries.push(Arc::clone(&entry));
        Ok(entry)
    }

    /// What an order with the same key became.
    async fn known(&self, proposal: &Proposal) -> Result<Option<Committed>, LogError> {
        let Some(key) = &proposal.key else { return Ok(None) };
        let Some(seq) = self.state.of_key(key) else { return Ok(None) };
        let entry = match self.batch.entries.iter().find(|entry| entry.seq() == seq) {
            Some(entry) => Some(Arc::clone(entry)),
            None => entries(&self.store, seq - 1, 1).await?.pop(),
        };
        match entry {
            Some(entry) if entry.change().asks_the_same(&proposal.change) => {
                Ok(Some(Committed { entry, is_new: false }))
            }
            _ => Err(LogError::KeyReused { key: key.clone(), seq }),
        }
    }

    fn actor(&mut self, who: &str) -> Result<ActorId, LogError> {
        if who == EDGE_ITSELF {
            return Ok(ActorId::EDGE);
        }
        let new = self.batch.names.iter().find(|(name, _)| name == who).map(|(_, id)| *id);
        if let Some(id) = new.or_else(|| self.names.read().id_of(who)) {
            return Ok(id);
        }
        let id = ActorId::random().map_err(|_| LogError::Random)?;
        self.batch.names.push((who.to_owned(), id));
        Ok(id)
    }
}
