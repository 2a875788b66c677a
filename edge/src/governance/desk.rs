//! One purge from request to confirmation: aim, put in force, tell everybody, write it down.

use std::time::{Duration, SystemTime};

use super::audit;
use super::downstream::Downstream;
use super::ledger::{LedgerError, PurgeRecord};
use super::marks::{PurgeKind, PurgeReach};
use super::purge::{Purge, Purges};
use super::scope::{PurgeScope, ScopeError};
use crate::cache::{Epoch, unix_ms};
use crate::campaign::CatalogHandle;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeOrder {
    pub scope: PurgeScope,
    pub kind: PurgeKind,
    pub reach: PurgeReach,
    pub why: String,
}

/// Why a purge was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PurgeDesk {
    pub purges: Purges,
    pub downstream: Downstream,
    catalog: CatalogHandle,
    epoch: Epoch,
    public_url: String,
    answer_wait: Duration,
}

impl PurgeDesk {
    #[must_use]
    pub const fn new(
        purges: Purges,
        downstream: Downstream,
        catalog: CatalogHandle,
        epoch: Epoch,
        public_url: String,
        answer_wait: Duration,
    ) -> Self {
        Self { purges, downstream, catalog, epoch, public_url, answer_wait }
    }

    /// Purges here, then waits a while for the caches further down. The record says who has confirmed.
    ///
    /// # Errors
    /// When the scope names nothing, or the purge could not be stored: it is in force then, until a restart.
    pub async fn purge(&self, who: &str, order: PurgeOrder) -> Result<PurgeRecord, DeskError> {
        let aim = order.scope.aim(&self.catalog.load(), &self.public_url)?;
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
            downstream: Default::default(),
        };
        let purge = Purge { keys: aim.keys, campaign: aim.campaign, record };
        let result = self.purges.purge(purge, &self.downstream.names()).await;
        // What was answered before may no longer be, also when a restart would forget it.
        self.epoch.advance();
        self.downstream.wake();
        let outcome = if result.is_ok() { "done" } else { "not-stored" };
        let subject = format!("{} {} {}", order.kind.as_str(), order.reach.as_str(), order.scope.text());
        audit::note(&audit::Change { who, what: "purge", subject: &subject, why: &order.why, outcome });
        self.purges.metrics().purges.with_label_values(&[order.scope.as_str(), order.kind.as_str()]).inc();
        let record = result?;
        Ok(self.downstream.settled(record.id, self.answer_wait).await.unwrap_or(record))
    }
}
