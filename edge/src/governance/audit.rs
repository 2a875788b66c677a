//! One line for each change that was asked for, through one function: the audit log will take it over. No filter of the log
//! takes these lines away.

use bildkante_shared::telemetry::AUDIT_TARGET;

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
