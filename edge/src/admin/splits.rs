//! `/admin/v1/splits`: pictures that share no other's master although they look alike, because people split them.

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::kills::log_fault;
use super::{AdminApi, Principal, Reply, campaign_of};
use crate::governance::{SplitDone, SplitError, SplitOrder, Splitting};
use crate::resolve;
use crate::shared_state::{PersonRole, WHY_BYTES_MAX};

const FIELDS: [&str; 3] = ["variant", "how", "why"];
const VARIANT_BYTES_MAX: usize = 2_048;

/// Which picture, and what becomes of it.
#[derive(Debug)]
pub(super) struct Asked {
    variant: String,
    splitting: Splitting,
    why: String,
}

pub(super) fn order(mut fields: Fields) -> Result<Asked, Fault> {
    let variant = fields.text("variant", VARIANT_BYTES_MAX)?;
    let words = [Splitting::Split, Splitting::Merge].map(|splitting| (splitting.as_str(), splitting));
    let splitting = fields.word("how", &words)?.unwrap_or(Splitting::Split);
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&FIELDS)?;
    Ok(Asked { variant: variant.ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?, splitting, why })
}

pub(super) async fn decide(
    api: &AdminApi,
    who: &Principal,
    (asked, key): (Asked, Option<String>),
) -> Result<Reply, Fault> {
    let Asked { variant, splitting, why } = asked;
    who.demand(PersonRole::Approver, campaign_of(&variant))?;
    let meant = resolve::want_named(&api.catalog.load(), &variant, "");
    let meant = meant.map_err(|_| wrong("variant", "it is no variant of a campaign", &[]))?.variant;
    // What the words meant, not how they were spelt.
    who.demand(PersonRole::Approver, campaign_of(&meant.name))?;
    if meant.recipe.drawn().is_none() {
        return Err(fault(409, "not-drawn", "Not drawn", "no model draws it: an import is never another's picture"));
    }
    if meant.review.is_required() {
        let detail = "pictures of this slot are reviewed: each has a master of its own already";
        return Err(fault(409, "reviewed", "Reviewed", detail));
    }
    let (variant, picture) = (meant.name.clone(), meant.picture.clone());
    let order = SplitOrder { variant, picture: picture.clone(), splitting, why, key };
    let done = api.splits.carry_out(who.name(), order).await.map_err(|error| refused(&error))?;
    let SplitDone { entry, is_new, purge } = done;
    Ok(Reply::ok(json!({
        "variant": picture,
        "how": entry.change().as_str(),
        "seq": entry.seq(),
        "at_unix_ms": entry.at_unix_ms(),
        "actor": entry.actor(),
        "is_new": is_new,
        "downstream": { "purge": purge.id, "caches": purge.downstream },
    })))
}

pub(super) fn list(api: &AdminApi, who: &Principal) -> Value {
    let seen = api.splits.list().into_iter().filter(|(picture, _)| who.sees(campaign_of(picture)));
    let splits: Vec<Value> = seen.map(|(picture, seq)| json!({ "variant": picture, "seq": seq })).collect();
    json!({ "splits": splits })
}

fn refused(error: &SplitError) -> Fault {
    match error {
        SplitError::Log(error) => log_fault(error),
        SplitError::Purge(_) => fault(503, "not-purged", "Not purged", error.to_string()),
        SplitError::Broken => fault(500, "split", "Internal error", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_splits_or_merges() {
        let parsed = |body| order(Fields::of(body)).map(|asked| asked.splitting).map_err(|fault| fault.detail);
        assert_eq!(parsed(json!({ "variant": "a/b" })), Ok(Splitting::Split));
        assert_eq!(parsed(json!({ "variant": "a/b", "how": "merge" })), Ok(Splitting::Merge));
        assert!(parsed(json!({})).unwrap_err().contains("`variant` is missing"));
        assert!(parsed(json!({ "variant": "a/b", "how": "apart" })).unwrap_err().contains("split, merge"));
    }
}
