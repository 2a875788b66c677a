//! `/admin/v1/drafts`: a variant's picture with another wording and other settings, with the patch that would make it the manifest's own.
//!
//! A draft's picture is answered here and nowhere else, for as long as the draft lives.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::login::Form;
use super::{AdminApi, PREFIX, Principal, Reply, campaign_of};
use crate::campaign::drafting::{DraftError, DraftSeeds, Knob, KnobId, KnobKind, Reach};
use crate::drafts::{DRAFT_PICTURES_MAX, DraftOrder, DraftPicture, DraftProgress, DraftSheet, DraftsError};
use crate::governance::audit;
use crate::service::Body;
use crate::shared_state::{PersonRole, WHY_BYTES_MAX};
use crate::words::Format;

const FIELDS: [&str; 6] = ["variant", "changes", "reach", "seed", "count", "why"];
const VARIANT_BYTES_MAX: usize = 2_048;
/// Changes of one order.
const CHANGES_MAX: usize = 128;
const PICTURE_WIDTH_PX: u32 = 640;
/// Names of a form's fields that are changes.
const CHANGE: &str = "change.";

pub(super) fn order(mut fields: Fields) -> Result<(DraftOrder, String), Fault> {
    let variant = fields.text("variant", VARIANT_BYTES_MAX)?;
    let variant = variant.ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?;
    let changes = changes(fields.value("changes"))?;
    let reach = fields.word("reach", &Reach::ALL.map(|reach| (reach.as_str(), reach)))?.unwrap_or_default();
    let first = fields.number("seed", 0, u64::from(u32::MAX))?.and_then(|seed| u32::try_from(seed).ok());
    let count = fields.number("count", 1, u64::from(DRAFT_PICTURES_MAX))?.and_then(|count| u32::try_from(count).ok());
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&FIELDS)?;
    Ok((DraftOrder { variant, changes, reach, seeds: DraftSeeds { first, count: count.unwrap_or(1) } }, why))
}

/// Texts and numbers by what they change.
fn changes(value: Option<Value>) -> Result<BTreeMap<KnobId, String>, Fault> {
    let refuse = || wrong("changes", format!("`changes` is an object of up to {CHANGES_MAX} texts and numbers"), &[]);
    let map = match value {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(map)) if map.len() <= CHANGES_MAX => map,
        Some(_) => return Err(refuse()),
    };
    let one = |(name, value): (String, Value)| {
        let id = name.parse::<KnobId>().map_err(|error| wrong("changes", error.to_string(), &[]))?;
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null => String::new(),
            _ => return Err(refuse()),
        };
        Ok((id, text))
    };
    map.into_iter().map(one).collect()
}

pub(super) async fn begin(
    api: &AdminApi,
    who: &Principal,
    (order, why): (DraftOrder, String),
) -> Result<DraftSheet, Fault> {
    let meant = api.drafts.meant(&order.variant).map_err(|error| refused(&error))?;
    who.demand(PersonRole::Reviewer, campaign_of(&meant))?;
    let begun = api.drafts.order(who.name(), order).await;
    audit::note(&audit::Change {
        who: who.name(),
        what: "draft",
        subject: &meant,
        why: &why,
        outcome: if begun.is_ok() { "begun" } else { "refused" },
    });
    begun.map_err(|error| refused(&error))
}

pub(super) async fn draw(api: &AdminApi, who: &Principal, order: (DraftOrder, String)) -> Result<Reply, Fault> {
    let sheet = begin(api, who, order).await?;
    let location = Some(format!("{PREFIX}drafts/{}", sheet.id));
    Ok(Reply { location, ..Reply::accepted(told(api, who, &sheet)) })
}

/// What a form asks for: each of its fields `change.…` is a change.
pub(super) fn of_form(form: &Form) -> Result<(DraftOrder, String), Fault> {
    let changes = form.named(CHANGE).map(|(name, value)| (name.to_owned(), Value::from(value)));
    let mut map = Map::from_iter([("changes".to_owned(), Value::Object(changes.collect()))]);
    for name in ["variant", "reach"] {
        map.extend(form.get(name).map(|value| (name.to_owned(), json!(value))));
    }
    for name in ["seed", "count"] {
        let value = form.get(name).map(str::trim).filter(|text| !text.is_empty());
        let number = value.map(str::parse::<u64>).transpose();
        let number = number.map_err(|_| wrong(name, format!("`{name}` is a whole number"), &[]))?;
        map.extend(number.map(|number| (name.to_owned(), Value::from(number))));
    }
    order(Fields::of_map(map))
}

/// What may be changed of a variant, and its drafts.
pub(super) async fn list(api: &AdminApi, who: &Principal, query: Option<&str>) -> Result<Value, Fault> {
    let variant = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("variant="));
    let variant = variant.ok_or_else(|| wrong("variant", "`variant` is missing", &[]))?;
    let variant = percent_encoding::percent_decode_str(variant).decode_utf8_lossy();
    let meant = api.drafts.meant(&variant).map_err(|error| refused(&error))?;
    who.demand(PersonRole::Reviewer, campaign_of(&meant))?;
    let knobs = api.drafts.knobs(&meant).await.map_err(|error| refused(&error))?;
    let drafts: Vec<Value> = api.drafts.of_variant(&meant).iter().map(|sheet| told(api, who, sheet)).collect();
    Ok(json!({ "variant": meant, "changes": knobs.iter().map(knob).collect::<Vec<_>>(), "drafts": drafts }))
}

fn knob(knob: &Knob) -> Value {
    let takes = match knob.kind {
        KnobKind::Text => "text",
        KnobKind::List => "list",
        KnobKind::Whole { .. } => "whole",
        KnobKind::Number { .. } => "number",
        KnobKind::Weight { .. } => "weight",
    };
    json!({ "name": knob.id.to_string(), "takes": takes, "value": knob.value })
}

/// One, of a campaign in which the reader decides.
pub(super) fn seen(api: &AdminApi, who: &Principal, id: &str) -> Result<DraftSheet, Fault> {
    let sheet = api.drafts.sheet(id).ok_or_else(|| super::no_such("draft", id))?;
    who.demand(PersonRole::Reviewer, campaign_of(&sheet.variant))?;
    Ok(sheet)
}

pub(super) fn one(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    seen(api, who, id).map(|sheet| told(api, who, &sheet))
}

pub(super) fn end(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    let sheet = seen(api, who, id)?;
    let is_there = api.drafts.end(id);
    let outcome = if is_there { "ended" } else { "absent" };
    audit::note(&audit::Change { who: who.name(), what: "draft-end", subject: &sheet.variant, why: "", outcome });
    Ok(json!({ "id": id, "ended": is_there }))
}

fn told(api: &AdminApi, who: &Principal, sheet: &DraftSheet) -> Value {
    let pictures: Vec<Value> = sheet.pictures.iter().map(|picture| told_picture(api, who, sheet, picture)).collect();
    json!({
        "id": sheet.id,
        "variant": sheet.variant,
        "by": sheet.by,
        "ends_unix_ms": sheet.ends_unix_ms,
        "pictures": pictures,
    })
}

fn told_picture(api: &AdminApi, who: &Principal, sheet: &DraftSheet, picture: &DraftPicture) -> Value {
    let (state, detail) = match &picture.progress {
        DraftProgress::Drawing => ("drawing", None),
        DraftProgress::Drawn { .. } => ("drawn", None),
        DraftProgress::Failed(reason) => ("failed", Some(reason)),
    };
    let cost = &picture.cost;
    // A library is shared with campaigns that the reader may not see.
    let changed = cost.listed.iter().filter(|it| who.sees(campaign_of(&it.variant)));
    let changed = changed.map(|it| json!({ "variant": it.variant, "before": it.before, "after": it.after }));
    let (id, seed) = (&sheet.id, picture.seed);
    json!({
        "seed": seed,
        "recipe": picture.variant.recipe.id(),
        "state": state,
        "detail": detail,
        "picture": format!("{PREFIX}drafts/{id}/picture?seed={seed}"),
        "patch": picture.patch,
        "patch_file": format!("{PREFIX}drafts/{id}/patch?seed={seed}"),
        "changes": {
            "variants": cost.variants,
            "recipes": cost.recipes,
            "undrawn": cost.undrawn,
            "is_cut": cost.is_cut,
            "device_ms": sheet.redrawing_ms(picture),
            "cost": sheet.redrawing_cost(picture, api.batches.price()),
            "listed": changed.collect::<Vec<_>>(),
        },
    })
}

/// The picture of one seed, when it is drawn.
pub(super) async fn picture(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Fault> {
    let sheet = seen(api, who, id)?;
    let asked = Asked::parse(query)?;
    let picture = asked.of(&sheet)?;
    let want = api.drafts.want(picture, asked.width_px, asked.format).map_err(|error| refused(&error))?;
    let unavailable = |reason: String| fault(503, "no-image", "No image now", reason);
    // Patiently: a browser that asks while it is drawn is answered when it is there.
    let filled = api.fill.settle_patiently(&want).await.map_err(|error| unavailable(error.to_string()))?;
    // The draft may have ended meanwhile, by hand or by its time.
    seen(api, who, id)?;
    let mut response = Response::new(Full::new(Bytes::clone(&filled.rendition.body)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(want.spec.format.media_type()));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// The patch of one seed, as a file.
pub(super) fn patch(api: &AdminApi, who: &Principal, id: &str, query: Option<&str>) -> Result<Response<Body>, Fault> {
    let sheet = seen(api, who, id)?;
    let picture = Asked::parse(query)?.of(&sheet)?;
    let mut response = Response::new(Full::new(Bytes::from(picture.patch.clone())));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/x-diff; charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let name = format!("attachment; filename=\"draft-{}.patch\"", picture.variant.recipe.id());
    fields.extend(HeaderValue::from_str(&name).ok().map(|name| (CONTENT_DISPOSITION, name)));
    Ok(response)
}

/// `?seed=…&w=…&fm=…`.
struct Asked {
    seed: Option<u32>,
    width_px: u32,
    format: Format,
}

impl Asked {
    fn parse(query: Option<&str>) -> Result<Self, Fault> {
        let mut asked = Self { seed: None, width_px: PICTURE_WIDTH_PX, format: Format::Webp };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("seed", value)) => {
                    asked.seed = Some(value.parse().map_err(|_| wrong("seed", "`seed` is a seed of the draft", &[]))?);
                }
                Some(("w", value)) => {
                    asked.width_px = value.parse().map_err(|_| wrong("w", "`w` is a width in px", &[]))?;
                }
                Some(("fm", value)) => {
                    let names = Format::ALL.map(Format::as_str);
                    let format = Format::from_name(value);
                    asked.format = format.ok_or_else(|| wrong("fm", "no such format", &names))?;
                }
                _ => return Err(wrong("query", "a draft's picture takes `seed`, `w` and `fm`", &["seed", "w", "fm"])),
            }
        }
        Ok(asked)
    }

    /// The picture of the seed; the first where none is named.
    fn of<'s>(&self, sheet: &'s DraftSheet) -> Result<&'s DraftPicture, Fault> {
        let found = sheet.pictures.iter().find(|picture| self.seed.is_none_or(|seed| seed == picture.seed));
        found.ok_or_else(|| super::no_such("seed of this draft", &self.seed.unwrap_or_default().to_string()))
    }
}

pub(super) fn refused(error: &DraftsError) -> Fault {
    match error {
        DraftsError::NoVariant(_) => wrong("variant", error.to_string(), &[]),
        DraftsError::Draft(DraftError::NotDrawn) => fault(409, "not-drawn", "Not drawn", error.to_string()),
        DraftsError::Draft(DraftError::FilesChanged) => fault(409, "files-changed", "Files changed", error.to_string()),
        DraftsError::Draft(DraftError::File { .. }) => fault(409, "not-editable", "Not editable", error.to_string()),
        DraftsError::Draft(
            DraftError::NoKnob(_) | DraftError::Value { .. } | DraftError::Refused(_) | DraftError::RefusedElsewhere,
        ) => wrong("changes", error.to_string(), &[]),
        DraftsError::Full => fault(409, "too-many-drafts", "Too many drafts", error.to_string()),
        DraftsError::Random | DraftsError::Broken => fault(500, "draft", "Internal error", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_what_it_changes() {
        let body = json!({
            "variant": "a/b", "reach": "campaign", "seed": 7, "count": 4,
            "changes": { "steps": 9, "block:floor": "on a floor", "block-weight:floor": null },
        });
        let (order, _) = order(Fields::of(body)).expect("understood");
        assert_eq!((order.reach, order.seeds), (Reach::Campaign, DraftSeeds { first: Some(7), count: 4 }));
        let changes: Vec<_> = order.changes.iter().map(|(id, value)| (id.to_string(), value.as_str())).collect();
        assert_eq!(changes.len(), 3);
        assert!(
            changes.contains(&("steps".to_owned(), "9")) && changes.contains(&("block-weight:floor".to_owned(), ""))
        );
    }

    #[test]
    fn what_is_no_order_is_refused_by_name() {
        let refused = |body: Value| order(Fields::of(body)).map(|_| ()).unwrap_err().detail;
        assert!(refused(json!({})).contains("`variant` is missing"));
        assert!(refused(json!({ "variant": "a/b", "changes": { "stepz": 1 } })).contains("`stepz` is nothing"));
        assert!(refused(json!({ "variant": "a/b", "changes": { "steps": [1] } })).contains("texts and numbers"));
        assert!(refused(json!({ "variant": "a/b", "count": 5 })).contains("1 to 4"));
        assert!(refused(json!({ "variant": "a/b", "reach": "all" })).contains("slot, campaign"));
    }

    #[test]
    fn a_form_sends_its_changes_by_their_names() {
        let form = Form::of([("variant", "a/b"), ("change.steps", "9"), ("seed", ""), ("count", "4"), ("csrf", "x")]);
        let (order, _) = of_form(&form).expect("understood");
        assert_eq!(order.seeds, DraftSeeds { first: None, count: 4 });
        assert_eq!(order.changes.len(), 1);
    }
}
