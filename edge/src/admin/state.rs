//! `/admin/v1/state/…`: what followers ask of a primary, and an operator of either.

use std::sync::Arc;

use http::HeaderMap;
use hyper::body::Body;
use serde_json::{Value, json};

use super::body::{Fault, fault, wrong};
use super::kills::log_fault;
use crate::shared_state::wire::{Ask, SentProposal};
use crate::shared_state::{Log, Promotion, served};

/// Longest proposal.
const PROPOSAL_BYTES_MAX: usize = 512 << 10;

/// Latest term that is believed.
const TERM_MAX: u64 = 1 << 32;

/// Entries behind what a follower has, when there are some or the wait is over.
pub(super) async fn changes(log: &Arc<dyn Log>, query: Option<&str>) -> Result<Value, Fault> {
    let ask = Ask::parse(query.unwrap_or_default())
        .map_err(|name| wrong(name, format!("`{name}` is missing or has another form"), &[]))?;
    // A log gets one term with each promotion: such a number is an error, and would leave no later one.
    if ask.term > TERM_MAX {
        return Err(wrong("term", format!("a term is at most {TERM_MAX}"), &[]));
    }
    served::feed(log, &ask).await.map(|feed| json!(feed)).map_err(|error| log_fault(&error))
}

pub(super) async fn snapshot(log: &Arc<dyn Log>) -> Result<Value, Fault> {
    served::snapshot(log).await.map(|snapshot| json!(snapshot)).map_err(|error| log_fault(&error))
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
    served::propose(log, sent).await.map(|committed| json!(committed)).map_err(|error| log_fault(&error))
}

/// Makes this edge the primary.
pub(super) async fn promote(log: &Arc<dyn Log>, key: Option<String>) -> Result<Value, Fault> {
    let Promotion { head, taken_over, silence } = log.promote(key).await.map_err(|error| log_fault(&error))?;
    Ok(json!({
        "term": head.term,
        "seq": head.seq,
        "taken_over": taken_over,
        "silence_ms": u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
    }))
}
