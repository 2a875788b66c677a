//! `/admin/v1/purges`: take images out of circulation, and see what became of it.

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::kills::log_fault;
use super::{AdminApi, PREFIX, Principal, Reply};
use crate::governance::desk::DeskError;
use crate::governance::scope::{SCOPE_BYTES_MAX, ScopeError};
use crate::governance::{PurgeDesk, PurgeKind, PurgeOrder, PurgeReach, PurgeRecord, PurgeScope};
use crate::shared_state::{LogError, PersonRole};

/// Purges a list shows.
const SHOWN_MAX: usize = 100;
/// Longest reason.
const WHY_BYTES_MAX: usize = 1_000;
const FIELDS: [&str; 8] = ["url", "variant", "tag", "campaign", "everything", "kind", "reach", "why"];

/// One of `url`, `variant`, `tag`, `campaign`, `everything`; `kind`, `reach` and `why` where they matter.
fn order(key: Option<String>, mut fields: Fields) -> Result<PurgeOrder, Fault> {
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
        (Some(scope), None) => Ok(PurgeOrder { scope, kind, reach, why, key }),
        (None, _) => Err(wrong("url", "nothing is named that is to be purged", &FIELDS[..5])),
        (Some(_), Some(second)) => Err(wrong(second.as_str(), "a purge names one thing", &FIELDS[..5])),
    }
}

pub(super) async fn purge(
    api: &AdminApi,
    who: &Principal,
    key: Option<String>,
    fields: Fields,
) -> Result<Reply, Fault> {
    let (desk, order) = (&api.desk, order(key, fields)?);
    let field = order.scope.as_str();
    // A tag may lie in several campaigns, whatever it says.
    let campaign = desk.campaign_of(&order.scope).map_err(|error| refused(error.into(), field))?;
    who.demand(PersonRole::Operator, campaign.as_deref())?;
    let record = desk.purge(who.name(), order).await.map_err(|error| refused(error, field))?;
    let location = Some(format!("{PREFIX}purges/{}", record.id));
    Ok(Reply { status: status(&record), body: shown(desk, &record), location })
}

fn refused(error: DeskError, field: &str) -> Fault {
    match error {
        DeskError::Scope(error @ (ScopeError::TooLong | ScopeError::Tag(_) | ScopeError::Image(_))) => {
            wrong(field, error.to_string(), &[])
        }
        DeskError::Log(error @ LogError::KeyReused { .. }) => log_fault(&error),
        DeskError::Log(LogError::Relayed(problem)) if problem.kind.ends_with("key-reused") => problem,
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
    }
}

/// 200 when every cache further down has confirmed, or there is none; 202 while one has not.
fn status(record: &PurgeRecord) -> u16 {
    if record.downstream.values().all(|delivery| delivery.confirmed_unix_ms.is_some()) { 200 } else { 202 }
}

/// Whether it is on the device as well.
fn shown(desk: &PurgeDesk, record: &PurgeRecord) -> Value {
    let mut value = json!(record);
    value.as_object_mut().map(|fields| fields.remove("key"));
    value["stored"] = json!(desk.purges.is_stored(record.id));
    value
}

pub(super) fn list(desk: &PurgeDesk, who: &Principal) -> Value {
    let recent = desk.purges.recent(SHOWN_MAX);
    let seen = recent.iter().filter(|record| who.sees(campaign(&record.scope)));
    json!({ "purges": seen.map(|record| shown(desk, record)).collect::<Vec<_>>() })
}

pub(super) fn one(desk: &PurgeDesk, who: &Principal, id: &str) -> Result<Value, Fault> {
    let record = id.parse().ok().and_then(|id| desk.purges.record(id));
    let record = record.filter(|record| who.sees(campaign(&record.scope)));
    record.map(|record| shown(desk, &record)).ok_or_else(|| super::no_such("purge", id))
}

/// The campaign that a purge speaks of, as far as its words say.
fn campaign(scope: &PurgeScope) -> Option<&str> {
    match scope {
        PurgeScope::Campaign(name) => Some(name),
        PurgeScope::Variant(variant) | PurgeScope::Review(variant) => super::campaign_of(variant),
        PurgeScope::Kill(target) => target.campaign(),
        PurgeScope::Url(_) | PurgeScope::Tag(_) | PurgeScope::Everything => None,
    }
}
