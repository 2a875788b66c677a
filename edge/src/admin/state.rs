//! `/admin/v1/state/…`: what followers ask of a primary, and an operator of either.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use hyper::body::Body;
use serde_json::{Value, json};

use super::body::{Fault, fault, wrong};
use super::kills::log_fault;
use crate::shared_state::wire::{Ask, FEED_ENTRIES_MAX, Feed, SentCommitted, SentProposal, SentSnapshot};
use crate::shared_state::{Entries, Log, Promotion, Role, Standing};

/// Bytes of entries in one feed, roughly: what is over goes with the next.
const FEED_BYTES: usize = 8 << 20;
/// Longest proposal.
const PROPOSAL_BYTES_MAX: usize = 512 << 10;

/// Entries behind what a follower has, when there are some or the wait is over.
pub(super) async fn changes(log: &Arc<dyn Log>, query: Option<&str>) -> Result<Value, Fault> {
    let ask = Ask::parse(query.unwrap_or_default())
        .map_err(|name| wrong(name, format!("`{name}` is missing or has another form"), &[]))?;
    is_primary(log, ask.term)?;
    let mut published = log.published().watch();
    if !is_part(log, &ask).await? {
        return feed(log, Vec::new(), true);
    }
    let wait = Duration::from_millis(ask.wait_ms);
    let _ = tokio::time::timeout(wait, published.wait_for(|seq| *seq > ask.after)).await;
    match log.entries(ask.after, FEED_ENTRIES_MAX).await.map_err(|error| log_fault(&error))? {
        Entries::Elsewhere => feed(log, Vec::new(), true),
        Entries::These(entries) => {
            let mut bytes = 0;
            let lines = entries.iter().map(|entry| entry.to_json()).take_while(|line| {
                bytes += line.len();
                bytes == line.len() || bytes <= FEED_BYTES
            });
            let lines = lines.filter_map(|line| serde_json::from_str(&line).ok());
            feed(log, lines.collect(), false)
        }
    }
}

fn feed(log: &Arc<dyn Log>, entries: Vec<Value>, needs_snapshot: bool) -> Result<Value, Fault> {
    let head = log.published().load().head();
    Ok(json!(Feed { log: head.log, term: head.term, seq: head.seq, needs_snapshot, entries }))
}

/// Whether the last entry of a follower is one of this log.
async fn is_part(log: &Arc<dyn Log>, ask: &Ask) -> Result<bool, Fault> {
    let head = log.published().load().head();
    if ask.log != head.log || ask.after > head.seq {
        return Ok(false);
    }
    if ask.after == head.seq {
        return Ok(ask.hash == head.hash);
    }
    let Some(before) = ask.after.checked_sub(1) else { return Ok(true) };
    match log.entries(before, 1).await.map_err(|error| log_fault(&error))? {
        Entries::Elsewhere => Ok(false),
        Entries::These(entries) => Ok(entries.first().is_some_and(|entry| *entry.hash() == ask.hash)),
    }
}

/// Latest term that is believed.
const TERM_MAX: u64 = 1 << 32;

/// Only a primary is followed. One that is shown a later term is none any more.
fn is_primary(log: &Arc<dyn Log>, term: u64) -> Result<(), Fault> {
    // A log gets one term with each promotion: such a number is an error, and would leave no later one.
    if term > TERM_MAX {
        return Err(super::body::wrong("term", format!("a term is {TERM_MAX} at most"), &[]));
    }
    log.fence(term);
    let Standing { role, head, .. } = log.standing();
    let detail = match role {
        Role::Primary => return Ok(()),
        Role::Follower => "this edge follows another one: ask the primary itself".to_owned(),
        Role::Fenced => {
            format!("this edge was primary until term {}, and a later one has begun: ask its primary", head.term)
        }
    };
    Err(fault(409, "not-primary", "Not the primary", detail))
}

pub(super) async fn snapshot(log: &Arc<dyn Log>) -> Result<Value, Fault> {
    let snapshot = log.snapshot().await.map_err(|error| log_fault(&error))?;
    Ok(json!(SentSnapshot::from(snapshot)))
}

/// A change that a follower sends on.
pub(super) async fn propose<B>(log: &Arc<dyn Log>, headers: &HeaderMap, body: B) -> Result<Value, Fault>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = super::body::read(headers, body, PROPOSAL_BYTES_MAX).await?;
    let sent: SentProposal = serde_json::from_slice(&bytes)
        .map_err(|error| fault(422, "proposal-refused", "Not a change of this build", error.to_string()))?;
    is_primary(log, sent.term)?;
    let committed = log.propose(sent.into()).await.map_err(|error| log_fault(&error))?;
    Ok(json!(SentCommitted { entry: committed.entry.to_value(), is_new: committed.is_new }))
}

/// Makes this edge the primary.
pub(super) async fn promote(log: &Arc<dyn Log>) -> Result<Value, Fault> {
    let Promotion { head, taken_over, silence } = log.promote().await.map_err(|error| log_fault(&error))?;
    Ok(json!({
        "term": head.term,
        "seq": head.seq,
        "taken_over": taken_over,
        "silence_ms": u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
    }))
}
