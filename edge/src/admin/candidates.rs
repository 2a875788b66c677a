//! `/admin/v1/candidates`: have a variant's picture drawn with other seeds, and see how far that is.
//!
//! What is drawn is before reviewers: `GET /admin/v1/decisions?variant=…` lists it, with its picture.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::{AdminApi, Principal, Reply, campaign_of};
use crate::candidates::{CandidatesError, ORDER_MAX, Progress, Seeds, Trial};
use crate::governance::audit;
use crate::shared_state::{PersonRole, WHY_BYTES_MAX};

const FIELDS: [&str; 4] = ["variant", "seeds", "count", "why"];
const VARIANT_BYTES_MAX: usize = 2_048;
/// What is drawn where nothing is said of how many.
const COUNT: usize = 4;

/// What is asked for.
#[derive(Debug)]
pub(super) struct CandidatesOrder {
    pub(super) variant: String,
    pub(super) seeds: Seeds,
    pub(super) why: String,
}

pub(super) fn order(mut fields: Fields) -> Result<CandidatesOrder, Fault> {
    let variant = fields.text("variant", VARIANT_BYTES_MAX)?;
    let variant = variant.ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?;
    let (seeds, count) = (seeds(&mut fields)?, fields.number("count", 1, ORDER_MAX as u64)?);
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&FIELDS)?;
    let seeds = match (seeds, count) {
        (Some(_), Some(_)) => return Err(wrong("count", "seeds are named, or counted", &[])),
        (Some(seeds), None) => Seeds::These(seeds),
        (None, count) => Seeds::Further(count.map_or(COUNT, |count| usize::try_from(count).unwrap_or(COUNT))),
    };
    Ok(CandidatesOrder { variant, seeds, why })
}

pub(super) fn seeds(fields: &mut Fields) -> Result<Option<BTreeSet<u32>>, Fault> {
    let Some(value) = fields.value("seeds") else { return Ok(None) };
    let refuse = || wrong("seeds", format!("`seeds` is a list of 1 to {ORDER_MAX} numbers up to {}", u32::MAX), &[]);
    let list: Vec<u32> = serde_json::from_value(value).map_err(|_| refuse())?;
    if (1..=ORDER_MAX).contains(&list.len()) { Ok(Some(list.into_iter().collect())) } else { Err(refuse()) }
}

pub(super) fn begin(
    api: &AdminApi,
    who: &Principal,
    key: Option<String>,
    order: CandidatesOrder,
) -> Result<Reply, Fault> {
    let meant = api.candidates.meant(&order.variant).map_err(|error| refused(&error))?;
    who.demand(PersonRole::Reviewer, campaign_of(&meant))?;
    let begun = api.candidates.order_once(&order.variant, order.seeds, key);
    audit::note(&audit::Change {
        who: who.name(),
        what: "candidates",
        subject: &meant,
        why: &order.why,
        outcome: if begun.is_ok() { "begun" } else { "refused" },
    });
    let (picture, trials) = begun.map_err(|error| refused(&error))?;
    Ok(Reply::accepted(told(&picture, &trials)))
}

pub(super) fn list(api: &AdminApi, who: &Principal, query: Option<&str>) -> Result<Value, Fault> {
    let variant = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("variant="));
    let variant = variant.ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?;
    let variant = percent_encoding::percent_decode_str(variant).decode_utf8_lossy();
    let meant = api.candidates.meant(&variant).map_err(|error| refused(&error))?;
    who.demand(PersonRole::Viewer, campaign_of(&meant))?;
    let (picture, trials) = api.candidates.trials(&variant).map_err(|error| refused(&error))?;
    Ok(told(&picture, &trials))
}

fn told(picture: &str, trials: &[Trial]) -> Value {
    let shown = trials.iter().map(|trial| {
        let (state, detail) = match &trial.progress {
            Progress::Drawing => ("drawing", None),
            Progress::Failed(reason) => ("failed", Some(reason)),
        };
        json!({ "seed": trial.seed, "recipe": trial.recipe, "state": state, "detail": detail })
    });
    json!({ "variant": picture, "candidates": shown.collect::<Vec<_>>() })
}

pub(super) fn refused(error: &CandidatesError) -> Fault {
    match error {
        CandidatesError::NoVariant(_) => wrong("variant", error.to_string(), &[]),
        CandidatesError::NotReviewed(_) => fault(409, "not-reviewed", "Not reviewed", error.to_string()),
        CandidatesError::NotDrawn(_) => fault(409, "not-drawn", "Not drawn", error.to_string()),
        CandidatesError::Undecided(_) => fault(409, "undecided", "Undecided", error.to_string()),
        CandidatesError::KeyReused => fault(422, "key-reused", "Key reused", error.to_string()),
        CandidatesError::Full => fault(409, "too-many-candidates", "Too many candidates", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: Value) -> Result<Seeds, String> {
        order(Fields::of(body)).map(|order| order.seeds).map_err(|fault| fault.detail)
    }

    #[test]
    fn seeds_are_named_or_counted() {
        assert_eq!(parsed(json!({ "variant": "a/b" })), Ok(Seeds::Further(COUNT)));
        assert_eq!(parsed(json!({ "variant": "a/b", "count": 2 })), Ok(Seeds::Further(2)));
        assert_eq!(parsed(json!({ "variant": "a/b", "seeds": [7, 7, 3] })), Ok(Seeds::These(BTreeSet::from([3, 7]))));
        let refused = |body| parsed(body).unwrap_err();
        assert!(refused(json!({ "seeds": [1] })).contains("`variant` is missing"));
        assert!(refused(json!({ "variant": "a/b", "seeds": [1], "count": 2 })).contains("named, or counted"));
        for seeds in [json!([]), json!([-1]), json!(["1"]), json!([4_294_967_296_u64]), json!(vec![0; 17]), json!(1)] {
            assert!(refused(json!({ "variant": "a/b", "seeds": seeds })).contains("list of 1 to 16"), "{seeds}");
        }
        assert!(refused(json!({ "variant": "a/b", "count": 17 })).contains("1 to 16"));
    }
}
