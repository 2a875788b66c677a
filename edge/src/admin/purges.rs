//! `/admin/v1/purges`: take images out of circulation, and see what became of it.

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use crate::governance::desk::DeskError;
use crate::governance::scope::{SCOPE_BYTES_MAX, ScopeError};
use crate::governance::{PurgeDesk, PurgeKind, PurgeOrder, PurgeReach, PurgeRecord, PurgeScope};

/// Purges a list shows.
const SHOWN_MAX: usize = 100;
/// Longest reason.
const WHY_BYTES_MAX: usize = 1_000;
const FIELDS: [&str; 8] = ["url", "variant", "tag", "campaign", "everything", "kind", "reach", "why"];

/// One of `url`, `variant`, `tag`, `campaign`, `everything`; `kind`, `reach` and `why` where they matter.
pub(super) fn order(mut fields: Fields) -> Result<PurgeOrder, Fault> {
    let mut scopes = Vec::new();
    scopes.extend(fields.text("url", SCOPE_BYTES_MAX)?.map(PurgeScope::Url));
    scopes.extend(fields.text("variant", SCOPE_BYTES_MAX)?.map(PurgeScope::Variant));
    scopes.extend(fields.text("tag", SCOPE_BYTES_MAX)?.map(PurgeScope::Tag));
    scopes.extend(fields.text("campaign", SCOPE_BYTES_MAX)?.map(PurgeScope::Campaign));
    if fields.is_set("everything")? {
        scopes.push(PurgeScope::Everything);
    }
    let kind = fields.word("kind", &[("hard", PurgeKind::Hard), ("soft", PurgeKind::Soft)])?.unwrap_or_default();
    let reaches = [("renditions", PurgeReach::Renditions), ("masters", PurgeReach::Masters)];
    let reach = fields.word("reach", &reaches)?.unwrap_or_default();
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&FIELDS)?;
    let mut scopes = scopes.into_iter();
    match (scopes.next(), scopes.next()) {
        (Some(scope), None) => Ok(PurgeOrder { scope, kind, reach, why }),
        (None, _) => Err(wrong("url", "nothing is named that is to be purged", &FIELDS[..5])),
        (Some(_), Some(second)) => Err(wrong(second.as_str(), "a purge names one thing", &FIELDS[..5])),
    }
}

pub(super) async fn purge(desk: &PurgeDesk, who: &str, order: PurgeOrder) -> Result<PurgeRecord, Fault> {
    let field = order.scope.as_str();
    desk.purge(who, order).await.map_err(|error| match error {
        DeskError::Scope(error @ (ScopeError::TooLong | ScopeError::Tag(_) | ScopeError::Image(_))) => {
            wrong(field, error.to_string(), &[])
        }
        DeskError::Log(error) => {
            let detail = format!("the purge is in force on this edge, and on no other: {error}");
            fault(error.status(), error.as_str(), "Purge not shared", detail)
        }
        DeskError::Ledger(error) => {
            tracing::error!(%error, "a purge is in force but not stored");
            let detail = format!(
                "the purge is in force on this edge, and caches further down are told; it is not on disk yet, so that a \
                 restart would forget it. The edge goes on trying: {error}"
            );
            fault(500, "purge-not-stored", "Purge not stored", detail)
        }
    })
}

/// 200 when every cache further down has confirmed, or there is none; 202 while one has not.
pub(super) fn status(record: &PurgeRecord) -> u16 {
    if record.downstream.values().all(|delivery| delivery.confirmed_unix_ms.is_some()) { 200 } else { 202 }
}

/// Whether it is on the device as well.
pub(super) fn shown(desk: &PurgeDesk, record: &PurgeRecord) -> Value {
    let mut value = json!(record);
    value["stored"] = json!(desk.purges.is_stored(record.id));
    value
}

pub(super) fn list(desk: &PurgeDesk) -> Value {
    let shown = desk.purges.recent(SHOWN_MAX).iter().map(|record| shown(desk, record)).collect::<Vec<_>>();
    json!({ "purges": shown })
}
