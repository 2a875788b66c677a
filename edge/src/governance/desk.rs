//! One purge from request to confirmation: aim, put in force, tell the caches further down, write it down.
//!
//! A purge is a task of its own, never the rest of a request: a client that hangs up leaves nothing half done.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::RwLock;

use super::audit;
use super::downstream::Downstream;
use super::ledger::PurgeRecord;
use super::marks::{PurgeKind, PurgeReach};
use super::purge::{Purge, Purges};
use super::scope::{PurgeScope, ScopeError};
use crate::cache::unix_ms;
use crate::campaign::CatalogHandle;
use crate::shared_state::{Change, Log, LogError, Proposal, PurgeMarks};
use crate::state::StateError;
use crate::words::Epoch;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeOrder {
    pub scope: PurgeScope,
    pub kind: PurgeKind,
    pub reach: PurgeReach,
    pub why: String,
    /// A repeated order has the same.
    pub key: Option<String>,
}

/// Why a purge was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error(transparent)]
    Ledger(#[from] StateError),
    /// It holds here, and no other edge knows of it.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PurgeDesk {
    pub purges: Purges,
    pub downstream: Downstream,
    log: Arc<dyn Log>,
    catalog: CatalogHandle,
    epoch: Epoch,
    public_url: String,
    answer_wait: Duration,
    /// Read by each purge under way, so that a shutdown can wait for all of them.
    under_way: Arc<RwLock<()>>,
}

impl PurgeDesk {
    #[must_use]
    pub fn new(
        purges: Purges,
        downstream: Downstream,
        log: Arc<dyn Log>,
        catalog: CatalogHandle,
        epoch: Epoch,
        public_url: String,
        answer_wait: Duration,
    ) -> Self {
        Self { purges, downstream, log, catalog, epoch, public_url, answer_wait, under_way: Arc::default() }
    }

    /// Purges here, then waits a while for the caches further down. The record says who has confirmed.
    ///
    /// # Errors
    /// When the scope names nothing; when the purge could not be stored: it is in force then, until a restart; or when it could
    /// not be entered into the shared log: it is in force here alone.
    pub async fn purge(&self, who: &str, order: PurgeOrder) -> Result<PurgeRecord, DeskError> {
        let aim = order.scope.aim(&self.catalog.load(), &self.public_url)?;
        if let Some(record) = self.known(&order)? {
            return Ok(self.downstream.settled(record.id, self.answer_wait).await.unwrap_or(record));
        }
        let (scope, kind, reach, why) = (order.scope.clone(), order.kind, order.reach, order.why.clone());
        let record = PurgeRecord {
            id: 0,
            at_unix_ms: unix_ms(SystemTime::now()),
            by: who.to_owned(),
            why,
            scope,
            kind,
            reach,
            tags: aim.tags,
            url: aim.url,
            key: order.key.clone(),
            downstream: Default::default(),
        };
        let purge = Purge { keys: aim.keys, campaign: aim.campaign, record };
        let turn = Arc::clone(&self.under_way).read_owned().await;
        let desk = self.clone();
        let task = tokio::spawn(async move {
            let record = desk.carry_out(purge).await;
            drop(turn);
            record
        });
        let record = task.await.unwrap_or_else(|_| Err(StateError::Panicked.into()))?;
        Ok(self.downstream.settled(record.id, self.answer_wait).await.unwrap_or(record))
    }

    /// What an order with the same key became. One that asks for something else is refused before anything is in force.
    fn known(&self, order: &PurgeOrder) -> Result<Option<PurgeRecord>, LogError> {
        let Some(key) = &order.key else { return Ok(None) };
        let seq = self.log.published().load().of_key(key);
        match self.purges.of_key(key) {
            Some(it) if (&it.scope, it.kind, it.reach) == (&order.scope, order.kind, order.reach) => Ok(Some(it)),
            Some(_) => Err(LogError::KeyReused { key: key.clone(), seq: seq.unwrap_or_default() }),
            // Another kind of change, or a purge that this edge remembers no more: the log compares.
            None => Ok(None),
        }
    }

    /// The campaign that a purge stays within; `None` where it may reach into several.
    ///
    /// # Errors
    /// When the scope names nothing.
    pub fn campaign_of(&self, scope: &PurgeScope) -> Result<Option<String>, ScopeError> {
        Ok(scope.aim(&self.catalog.load(), &self.public_url)?.campaign)
    }

    /// In force first, here and then further down; durable next; acknowledged last.
    async fn carry_out(&self, purge: Purge) -> Result<PurgeRecord, DeskError> {
        let marks = marks(&purge);
        let enforced = self.purges.enforce(purge, || self.downstream.names());
        // What was answered before may no longer be, also when a restart would forget the purge.
        self.epoch.advance();
        self.downstream.wake();
        let PurgeRecord { by, why, scope, kind, reach, key, .. } = &enforced.record;
        let proposal =
            Proposal { change: Change::Purge(marks), who: by.clone(), why: why.clone(), key: key.clone(), edge: None };
        self.purges.metrics().purges.with_label_values(&[scope.as_str(), kind.as_str()]).inc();
        let stored = self.purges.stored(&enforced).await;
        let outcome = if stored.is_ok() { "done" } else { "not-stored" };
        let subject = format!("{} {} {}", kind.as_str(), reach.as_str(), scope.text());
        audit::note(&audit::Change { who: by, what: "purge", subject: &subject, why, outcome });
        stored?;
        self.log.propose(proposal).await?;
        Ok(enforced.record)
    }

    /// Returns when no purge is under way and what can be written is written: for the end of the process.
    pub async fn finish(&self, wait: Duration) {
        let finished = async {
            drop(self.under_way.write().await);
            self.purges.flush().await
        };
        match tokio::time::timeout(wait, finished).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "purges in force are not on the device: the next start forgets them")
            }
            Err(_) => tracing::error!(?wait, "purges are still on their way to the device"),
        }
    }
}

/// What other edges put in force.
fn marks(purge: &Purge) -> PurgeMarks {
    let PurgeRecord { scope, kind, reach, tags, url, .. } = &purge.record;
    PurgeMarks {
        scope: scope.clone(),
        kind: *kind,
        reach: *reach,
        keys: purge.keys.iter().map(ToString::to_string).collect(),
        tags: tags.clone(),
        url: url.clone(),
        campaign: purge.campaign.clone(),
    }
}
