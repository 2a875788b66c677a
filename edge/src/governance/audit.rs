//! One line for each change that was asked for, through one function: the audit log will take it over. No filter of the log
//! takes these lines away.

use std::sync::Arc;

use bildkante_shared::telemetry::AUDIT_TARGET;

use crate::shared_state::{Committed, Log, LogError, Proposal};

/// Who did what, to what, and why.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The name of the token.
    pub who: &'a str,
    /// `purge`, `warm-start`, …
    pub what: &'static str,
    pub subject: &'a str,
    pub why: &'a str,
    pub outcome: &'a str,
}

/// Writes it down; the time is the line's own.
pub fn note(change: &Change<'_>) {
    let Change { who, what, subject, why, outcome } = *change;
    tracing::info!(target: AUDIT_TARGET, who, what, subject, why, outcome, "change");
}

/// Enters a change into the shared log, and writes down that it was asked for, whatever came of it.
///
/// # Errors
/// As the log says.
pub async fn propose(log: &Arc<dyn Log>, what: &'static str, proposal: Proposal) -> Result<Committed, LogError> {
    let (who, why, subject) = (proposal.who.clone(), proposal.why.clone(), proposal.change.subject());
    let result = log.propose(proposal).await;
    note(&Change { who: &who, what, subject: &subject, why: &why, outcome: outcome(&result) });
    result
}

/// What came of a proposal, as lines and metrics call it.
pub fn outcome(result: &Result<Committed, LogError>) -> &'static str {
    result.as_ref().map_or_else(LogError::as_str, |_| "done")
}
