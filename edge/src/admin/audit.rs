//! `/admin/v1/audit` and `/admin/v1/state`: the log as lines, the names behind its actors, and where this edge stands.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Fault, fault};
use super::kills::{Page, log_fault};
use crate::shared_state::{Entries, Entry, Log, Standing};

const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Entries in order, each as its line of the audit, with the actor's name where it was not erased.
pub(super) async fn page(log: &Arc<dyn Log>, query: Option<&str>) -> Result<Value, Fault> {
    let Page { after, limit } = Page::parse(query, PAGE, PAGE_MAX)?;
    let after = after.unwrap_or(0);
    let entries = match log.entries(after, limit).await.map_err(|error| log_fault(&error))? {
        Entries::These(entries) => entries,
        Entries::Elsewhere => {
            let detail = format!(
                "entry {after} and what follows it are not on this edge: it joined later, or does not know them yet"
            );
            return Err(fault(410, "entries-elsewhere", "Not here", detail));
        }
    };
    let next = entries.last().map(|entry| entry.seq()).filter(|last| *last < log.published().load().epoch());
    let lines: Vec<Value> = entries.iter().map(|entry| line(log, entry)).collect();
    let checkpoints = log.checkpoints().await.map_err(|error| log_fault(&error))?;
    let last = entries.last().map_or(after, |entry| entry.seq());
    let checkpoints: Vec<Value> = checkpoints
        .into_iter()
        .filter(|(seq, _)| *seq > after && *seq <= last)
        .filter_map(|(_, signed)| serde_json::from_str(&signed).ok())
        .collect();
    Ok(json!({ "entries": lines, "checkpoints": checkpoints, "next": next }))
}

fn line(log: &Arc<dyn Log>, entry: &Entry) -> Value {
    json!({ "entry": entry.to_value(), "name": log.name_of(entry.actor()) })
}

/// Erases a name. The entries keep the actor's id.
pub(super) async fn forget(
    log: &Arc<dyn Log>,
    who: &str,
    name: &str,
    (why, key): (String, Option<String>),
) -> Result<Value, Fault> {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
    match log.forget(name.clone(), who.to_owned(), why, key).await {
        Ok(true) => Ok(json!({ "forgotten": true })),
        Ok(false) => Err(super::no_such("name", &name)),
        Err(error) => Err(log_fault(&error)),
    }
}

pub(super) fn standing(log: &Arc<dyn Log>) -> Value {
    let Standing { role, head, age, begins, held, trouble } = log.standing();
    json!({
        "edge": log.edge(),
        "role": role.as_str(),
        "log": head.log,
        "term": head.term,
        "seq": head.seq,
        "hash": head.hash,
        "begins": begins,
        "is_stale": log.published().is_stale(),
        "changed_unix_ms": head.at_unix_ms,
        "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        "held": held,
        "trouble": trouble,
    })
}
