//! `/admin/v1/warm`: have a campaign's images made ahead, and see how far it is.

use serde_json::{Value, json};

use super::Principal;
use super::body::{Fault, Fields, fault, wrong};
use crate::shared_state::PersonRole;
use crate::warm::{CONCURRENCY_MAX, JobStatus, WarmError, WarmOrder, Warmer};

const FIELDS: [&str; 7] = ["campaign", "slot", "axes", "formats", "concurrency", "why", "resume"];
const NAME_BYTES_MAX: usize = 256;
const WHY_BYTES_MAX: usize = 1_000;
const AXES_MAX: usize = 16;

/// A new job, or one to go on with.
pub(super) enum Ask {
    Start(WarmOrder),
    Resume(u64),
}

pub(super) fn ask(mut fields: Fields, concurrency: usize) -> Result<Ask, Fault> {
    let resume = fields.number("resume", 1, u64::MAX)?;
    let campaign = fields.text("campaign", NAME_BYTES_MAX)?;
    let order = WarmOrder {
        campaign: campaign.clone().unwrap_or_default(),
        slot: fields.text("slot", NAME_BYTES_MAX)?,
        axes: fields.lists("axes", AXES_MAX)?,
        formats: fields.texts("formats", 4)?,
        concurrency: match fields.number("concurrency", 1, CONCURRENCY_MAX as u64)? {
            Some(number) => usize::try_from(number).unwrap_or(concurrency),
            None => concurrency,
        },
        why: fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default(),
    };
    fields.end(&FIELDS)?;
    match (resume, campaign) {
        (Some(id), None) => Ok(Ask::Resume(id)),
        (None, Some(_)) => Ok(Ask::Start(order)),
        (Some(_), Some(_)) => Err(wrong("resume", "a job that is resumed keeps its campaign", &[])),
        (None, None) => Err(wrong("campaign", "`campaign` is missing", &[])),
    }
}

pub(super) async fn carry_out(
    warmer: &Warmer,
    who: &Principal,
    ask: Ask,
    key: Option<String>,
) -> Result<JobStatus, Fault> {
    match ask {
        Ask::Start(order) => {
            who.demand(PersonRole::Operator, Some(&order.campaign))?;
            warmer.start(who.name(), order, key).await
        }
        Ask::Resume(id) => {
            of_campaign(warmer, who, id)?;
            warmer.resume(who.name(), id, key).await
        }
    }
    .map_err(fault_of)
}

pub(super) async fn cancel(warmer: &Warmer, who: &Principal, id: &str) -> Result<JobStatus, Fault> {
    let id = id.parse().map_err(|_| fault_of(WarmError::Unknown))?;
    of_campaign(warmer, who, id)?;
    warmer.cancel(who.name(), id).await.map_err(fault_of)
}

/// Whether the job is one of a campaign that is the operator's.
fn of_campaign(warmer: &Warmer, who: &Principal, id: u64) -> Result<(), Fault> {
    let job = warmer.job(id).ok_or_else(|| fault_of(WarmError::Unknown))?;
    who.demand(PersonRole::Operator, Some(&job.record.order.campaign))
}

pub(super) fn one(warmer: &Warmer, who: &Principal, id: &str) -> Result<Value, Fault> {
    let job = id.parse().ok().and_then(|id| warmer.job(id));
    let job = job.filter(|job| who.sees(Some(&job.record.order.campaign)));
    job.map(|job| shown(&job)).ok_or_else(|| super::no_such("job", id))
}

pub(super) fn fault_of(error: WarmError) -> Fault {
    match error {
        WarmError::Plan(error) => {
            let allowed: Vec<&str> = error.allowed.iter().map(String::as_str).collect();
            wrong(error.field, error.detail.clone(), &allowed)
        }
        WarmError::KeyReused(_) => fault(422, "key-reused", "Key reused", error.to_string()),
        WarmError::Busy(_) => fault(409, "busy", "Conflict", error.to_string()),
        WarmError::Unknown => fault(404, "not-found", "Not found", error.to_string()),
        WarmError::Broken(_) => fault(500, "internal", "Internal error", error.to_string()),
    }
}

pub(super) fn shown(status: &JobStatus) -> Value {
    let mut value = json!(status.record);
    // It knows repeated orders again, and is their sender's.
    value.as_object_mut().map(|fields| fields.remove("keys"));
    value["eta_ms"] = json!(status.record.eta_ms());
    value["stored"] = json!(status.is_stored);
    value
}

pub(super) fn list(warmer: &Warmer, who: &Principal) -> Value {
    let jobs = warmer.jobs();
    let seen = jobs.iter().filter(|job| who.sees(Some(&job.record.order.campaign)));
    json!({ "jobs": seen.map(shown).collect::<Vec<_>>() })
}
