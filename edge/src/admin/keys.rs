//! `/admin/v1/keys` and `/admin/v1/me`: keys are given, listed and revoked; and who asks.

use std::sync::Arc;

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::gatekeeper::CSRF_FIELD;
use super::kills::{Page, log_fault};
use super::principal::{ANYBODY, Principal, Way};
use super::{PREFIX, Reply, token};
use crate::governance::audit;
use crate::shared_state::{
    AccessKey, Change, Committed, Grants, KEY_NAME_BYTES_MAX, KeptKey, KeyId, Log, LogError, PersonRole, Proposal,
    Refusal, Revoke, WHY_BYTES_MAX,
};

const FIELDS: [&str; 4] = ["name", "roles", "expires_unix_ms", "why"];
/// A key's end lies within so many milliseconds: ten years.
const LIFE_MS_MAX: u64 = 3_653 * 24 * 3_600 * 1_000;
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// A key that is asked for.
pub(super) struct KeyOrder {
    name: String,
    roles: Grants,
    expires_unix_ms: u64,
    why: String,
}

pub(super) fn order(mut fields: Fields, now_unix_ms: u64) -> Result<KeyOrder, Fault> {
    let name = fields.text("name", KEY_NAME_BYTES_MAX)?.ok_or_else(|| wrong("name", "`name` is missing", &[]))?;
    if name == ANYBODY {
        return Err(wrong("name", format!("`{ANYBODY}` is the name of those who have no key"), &[]));
    }
    let roles = fields.value("roles").ok_or_else(|| wrong("roles", "`roles` is missing", &[]))?;
    let names = PersonRole::ALL.map(PersonRole::as_str);
    let roles = serde_json::from_value(roles).map_err(|error| wrong("roles", format!("`roles`: {error}"), &names))?;
    let (min, max) = (now_unix_ms.saturating_add(1), now_unix_ms.saturating_add(LIFE_MS_MAX));
    let expires = fields.number("expires_unix_ms", min, max)?;
    let expires_unix_ms = expires.ok_or_else(|| wrong("expires_unix_ms", "`expires_unix_ms` is missing", &[]))?;
    let why = reason(&mut fields)?;
    fields.end(&FIELDS)?;
    Ok(KeyOrder { name, roles, expires_unix_ms, why })
}

/// `{"why": "…"}`.
pub(super) fn why(mut fields: Fields) -> Result<String, Fault> {
    let why = reason(&mut fields)?;
    fields.end(&["why"])?;
    Ok(why)
}

fn reason(fields: &mut Fields) -> Result<String, Fault> {
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    if why.trim().is_empty() { Err(wrong("why", "`why` says why, for the audit", &[])) } else { Ok(why) }
}

/// Gives a key. An order that is known by its key gives none, and shows no secret.
pub(super) async fn add(
    log: &Arc<dyn Log>,
    who: &Principal,
    order: KeyOrder,
    idempotency: Option<String>,
) -> Result<Reply, Fault> {
    let secret = token::generate().map_err(|error| fault(500, "internal", "Internal error", error.to_string()))?;
    let KeyOrder { name, roles, expires_unix_ms, why } = order;
    let key = AccessKey { hash: token::hash(&secret), name, roles, expires_unix_ms };
    let committed = propose(log, who, Change::Key(key), why, idempotency).await?;
    let Change::Key(key) = committed.entry.change() else {
        return Err(fault(500, "internal", "Internal error", "the log answered with another change"));
    };
    let mut body = shown(&KeptKey { seq: committed.entry.seq(), key: key.clone() });
    body["secret"] = if committed.is_new { json!(secret) } else { Value::Null };
    let location = Some(format!("{PREFIX}keys/{}", key.id()));
    Ok(Reply { status: if committed.is_new { 201 } else { 200 }, body, location })
}

pub(super) async fn revoke(
    log: &Arc<dyn Log>,
    who: &Principal,
    id: &str,
    why: String,
    idempotency: Option<String>,
) -> Result<Value, Fault> {
    let id = parse(id)?;
    let committed = propose(log, who, Change::Revoke(Revoke { id }), why, idempotency).await?;
    Ok(json!({ "id": id, "revoked": true, "seq": committed.entry.seq(), "actor": committed.entry.actor() }))
}

async fn propose(
    log: &Arc<dyn Log>,
    who: &Principal,
    change: Change,
    why: String,
    key: Option<String>,
) -> Result<Committed, Fault> {
    let what = if matches!(change, Change::Key(_)) { "key" } else { "key-revoke" };
    let proposal = Proposal { change, who: who.name().to_owned(), why, key, edge: None };
    audit::propose(log, what, proposal).await.map_err(|error| match error {
        LogError::Refused(Refusal::KeyName) => wrong("name", error.to_string(), &[]),
        LogError::Refused(Refusal::NoSuchKey { id }) => super::no_such("key", &id.to_string()),
        error => log_fault(&error),
    })
}

pub(super) fn list(log: &Arc<dyn Log>, query: Option<&str>) -> Result<Value, Fault> {
    let Page { after, limit } = Page::parse(query, PAGE, PAGE_MAX)?;
    let state = log.published().load();
    let kept = state.access().behind(after.unwrap_or(0), limit + 1);
    let next = kept.get(limit).and_then(|_| kept[..limit].last()).map(|kept| kept.seq);
    let keys: Vec<Value> = kept.iter().take(limit).map(|kept| shown(kept)).collect();
    Ok(json!({ "keys": keys, "next": next, "epoch": state.epoch() }))
}

pub(super) fn one(log: &Arc<dyn Log>, id: &str) -> Result<Value, Fault> {
    let state = log.published().load();
    let kept = state.access().get(parse(id)?).ok_or_else(|| super::no_such("key", id))?;
    Ok(shown(kept))
}

fn parse(id: &str) -> Result<KeyId, Fault> {
    id.parse().map_err(|_| super::no_such("key", id))
}

/// Without the hash: nothing is to be had from it, and nothing needs it.
fn shown(kept: &KeptKey) -> Value {
    let KeptKey { seq, key } = kept;
    json!({ "id": key.id(), "name": key.name, "roles": key.roles, "expires_unix_ms": key.expires_unix_ms, "seq": seq })
}

/// Who asks. A page learns here what it has to send beside its cookie.
pub(super) fn me(who: &Principal) -> Value {
    let mut body = json!({ "name": who.name(), "by": who.way.as_str(), "roles": who.roles() });
    if let Way::Session { csrf } = &who.way {
        body["csrf"] = json!({ "field": CSRF_FIELD, "value": csrf });
    }
    body
}
