//! What a primary answers its followers: entries behind what they have, a snapshot, and what became of a change they sent on.
//!
//! Invariants: only a primary answers, and one that is shown a later term is none any more; a follower whose last entry is not one of
//! this log is told so, and never given entries that do not follow its own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::log::{Entries, Log, LogError, NotPrimary, Role, Standing};
use super::wire::{Ask, FEED_ENTRIES_MAX, Feed, SentCommitted, SentProposal, SentSnapshot};

/// Bytes of entries in one feed, roughly: what is over goes with the next.
const FEED_BYTES: usize = 8 << 20;

/// Entries behind what a follower has, when there are some or the wait is over.
///
/// # Errors
/// When this edge is no primary, or its log cannot be read.
pub async fn feed(log: &Arc<dyn Log>, ask: &Ask) -> Result<Feed, LogError> {
    is_primary(log, ask.term)?;
    let mut published = log.published().watch();
    if !is_part(log, ask).await? {
        return Ok(answer(log, Vec::new(), true));
    }
    let wait = Duration::from_millis(ask.wait_ms);
    let _ = tokio::time::timeout(wait, published.wait_for(|seq| *seq > ask.after)).await;
    Ok(match log.entries(ask.after, FEED_ENTRIES_MAX).await? {
        Entries::Elsewhere => answer(log, Vec::new(), true),
        Entries::These(entries) => {
            let mut bytes = 0;
            let lines = entries.iter().map(|entry| entry.to_json()).take_while(|line| {
                bytes += line.len();
                bytes == line.len() || bytes <= FEED_BYTES
            });
            let lines = lines.filter_map(|line| serde_json::from_str(&line).ok());
            answer(log, lines.collect(), false)
        }
    })
}

/// The state as of now.
///
/// # Errors
/// When it cannot be read.
pub async fn snapshot(log: &Arc<dyn Log>) -> Result<SentSnapshot, LogError> {
    Ok(log.snapshot().await?.into())
}

/// Enters a change that a follower sends on.
///
/// # Errors
/// When this edge is no primary, and as the log says.
pub async fn propose(log: &Arc<dyn Log>, sent: SentProposal) -> Result<SentCommitted, LogError> {
    is_primary(log, sent.term)?;
    let committed = log.propose(sent.into()).await?;
    Ok(SentCommitted { entry: committed.entry.to_value(), is_new: committed.is_new })
}

fn answer(log: &Arc<dyn Log>, entries: Vec<Value>, needs_snapshot: bool) -> Feed {
    let head = log.published().load().head();
    Feed { log: head.log, term: head.term, seq: head.seq, needs_snapshot, entries }
}

/// Whether the last entry of a follower is one of this log.
async fn is_part(log: &Arc<dyn Log>, ask: &Ask) -> Result<bool, LogError> {
    let head = log.published().load().head();
    if ask.log != head.log || ask.after > head.seq {
        return Ok(false);
    }
    if ask.after == head.seq {
        return Ok(ask.hash == head.hash);
    }
    let Some(before) = ask.after.checked_sub(1) else { return Ok(true) };
    Ok(match log.entries(before, 1).await? {
        Entries::Elsewhere => false,
        Entries::These(entries) => entries.first().is_some_and(|entry| *entry.hash() == ask.hash),
    })
}

fn is_primary(log: &Arc<dyn Log>, term: u64) -> Result<(), LogError> {
    log.fence(term);
    let Standing { role, head, .. } = log.standing();
    match role {
        Role::Primary => Ok(()),
        Role::Follower => Err(LogError::NotPrimary(NotPrimary::Follows)),
        Role::Fenced => Err(LogError::NotPrimary(NotPrimary::Former { until: head.term })),
    }
}
