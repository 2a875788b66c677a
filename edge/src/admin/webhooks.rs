//! `/admin/v1/webhooks`: endpoints, what they never took, and sending it again.

use serde_json::{Value, json};

use super::body::{Fault, fault};
use super::kills::Page;
use super::principal::Principal;
use crate::governance::audit;
use crate::webhooks::Webhooks;

const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

pub(super) fn dead_letters(webhooks: &Webhooks, query: Option<&str>) -> Result<Value, Fault> {
    let Page { after, limit } = Page::parse(query, PAGE, PAGE_MAX)?;
    Ok(webhooks.dead_letters(after.unwrap_or(0), limit))
}

/// Sends an endpoint's dead letters again.
pub(super) async fn replay(webhooks: &Webhooks, who: &Principal, name: &str, why: &str) -> Result<Value, Fault> {
    let replayed = webhooks.replay(name).await;
    let outcome = match &replayed {
        Ok(Some(_)) => "done",
        Ok(None) => "unknown",
        Err(_) => "not-stored",
    };
    audit::note(&audit::Change { who: who.name(), what: "webhook-replay", subject: name, why, outcome });
    match replayed {
        Ok(Some(count)) => Ok(json!({ "replayed": count })),
        Ok(None) => Err(super::no_such("webhook", name)),
        Err(error) => Err(fault(507, "not-stored", "Not stored", error.to_string())),
    }
}

/// Sends one message that means nothing, and says what came of it.
pub(super) async fn test(webhooks: &Webhooks, who: &Principal, name: &str) -> Result<Value, Fault> {
    let sent = webhooks.test(name).await.ok_or_else(|| super::no_such("webhook", name))?;
    let outcome = if sent.is_ok() { "delivered" } else { "failed" };
    audit::note(&audit::Change { who: who.name(), what: "webhook-test", subject: name, why: "", outcome });
    Ok(json!({ "delivered": sent.is_ok(), "error": sent.err() }))
}
