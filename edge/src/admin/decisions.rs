//! `/admin/v1/decisions`: the pictures that were put before reviewers, what was decided, and the pictures themselves.
//!
//! A picture that was not approved is shown to reviewers, and kept by no cache.

use bildkante_shared::ids::IdError;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::kills::{Page, log_fault};
use super::{AdminApi, Principal, Reply, campaign_of};
use crate::campaign::GATE_BYTES_MAX;
use crate::governance::{CaseFilter, GateOrder, ReviewDesk, ReviewError, ReviewOrder, Ruled, Ruling, ShownCase};
use crate::resolve::Want;
use crate::service::Body;
use crate::shared_state::{
    CaseState, GATE_VERSION_BYTES_MAX, GateFinding, GateVerdict, PersonRole, Undone, WHY_BYTES_MAX,
};
use crate::words::Format;

/// Cases of one page.
const PAGE_MAX: usize = 1_000;
const PAGE: usize = 100;
/// Width of the picture, in px, where none is asked for.
const PICTURE_WIDTH_PX: u32 = 640;
/// Last moment that may be named: the end of the year 9999.
const MOMENT_MAX_UNIX_MS: u64 = 253_402_300_799_000;
const FIELDS: [&str; 7] = ["decision", "from_unix_ms", "until_unix_ms", "to", "by_unix_ms", "seen", "why"];

/// What a reviewer may say.
#[derive(Debug, Clone, Copy)]
enum Word {
    Approve,
    Reject,
    RequestChanges,
    Pause,
    Resume,
    Escalate,
    Undo,
}

const WORDS: [(&str, Word); 7] = [
    ("approve", Word::Approve),
    ("reject", Word::Reject),
    ("request_changes", Word::RequestChanges),
    ("pause", Word::Pause),
    ("resume", Word::Resume),
    ("escalate", Word::Escalate),
    ("undo", Word::Undo),
];

pub(super) fn order(key: Option<String>, id: &str, mut fields: Fields) -> Result<ReviewOrder, Fault> {
    let case = number(id)?;
    let word = fields.word("decision", &WORDS)?;
    let mut moment = |name| fields.number(name, 1, MOMENT_MAX_UNIX_MS);
    let (from_unix_ms, until_unix_ms, by_unix_ms) =
        (moment("from_unix_ms")?, moment("until_unix_ms")?, moment("by_unix_ms")?);
    let (to, seen) = (fields.text("to", 64)?, fields.number("seen", 1, u64::MAX)?);
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&FIELDS)?;
    let Some(word) = word else {
        return Err(wrong("decision", "what is decided is missing", &WORDS.map(|(word, _)| word)));
    };
    let ruling = match (word, to, by_unix_ms) {
        (Word::Approve, ..) => Ruling::Approve { from_unix_ms, until_unix_ms },
        (Word::Reject, ..) => Ruling::Reject,
        (Word::RequestChanges, ..) => Ruling::RequestChanges,
        (Word::Pause, ..) => Ruling::Pause,
        (Word::Resume, ..) => Ruling::Resume,
        (Word::Undo, ..) => Ruling::Undo,
        (Word::Escalate, Some(to), Some(by_unix_ms)) => Ruling::Escalate { to, by_unix_ms },
        (Word::Escalate, ..) => return Err(wrong("to", "who is asked is a role `to`, and a time `by_unix_ms`", &[])),
    };
    if why.trim().is_empty() && !matches!(ruling, Ruling::Approve { .. } | Ruling::Resume | Ruling::Undo) {
        return Err(wrong("why", "`why` says why, for the makers and for the audit", &[]));
    }
    Ok(ReviewOrder { case, ruling, seen, why, key })
}

/// What is shown is decided by approvers; reviewers say what is to be changed, and whom to ask.
pub(super) async fn rule(api: &AdminApi, who: &Principal, order: ReviewOrder) -> Result<Reply, Fault> {
    let shown = api.reviews.case(order.case).ok_or_else(|| super::no_such("decision", &order.case.to_string()))?;
    let role = match order.ruling {
        Ruling::RequestChanges | Ruling::Escalate { .. } => PersonRole::Reviewer,
        // Who may say it may take it back; the log asks whether that one did.
        Ruling::Undo => match shown.case.undoable.as_deref().map(|last| last.step) {
            Some(Undone::Approve | Undone::Reject) => PersonRole::Approver,
            Some(Undone::RequestChanges) | None => PersonRole::Reviewer,
        },
        Ruling::Approve { .. } | Ruling::Reject | Ruling::Pause | Ruling::Resume => PersonRole::Approver,
    };
    who.demand(role, campaign_of(&shown.variant))?;
    let ruled = api.reviews.rule(who.name(), order).await.map_err(|error| refused(&error))?;
    Ok(answered(api, &ruled))
}

/// What a gate found.
pub(super) fn finding(key: Option<String>, id: &str, mut fields: Fields) -> Result<GateOrder, Fault> {
    let case = number(id)?;
    let verdict = fields.word("verdict", &[("pass", GateVerdict::Pass), ("fail", GateVerdict::Fail)])?;
    let (gate, version) = (fields.text("gate", GATE_BYTES_MAX)?, fields.text("version", GATE_VERSION_BYTES_MAX)?);
    let evidence = fields.text("evidence", 128)?.map(|text| text.parse());
    let evidence = evidence.transpose().map_err(|error: IdError| wrong("evidence", error.to_string(), &[]))?;
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    fields.end(&["gate", "version", "verdict", "evidence", "why"])?;
    let missing = |name| wrong(name, format!("`{name}` is missing"), &[]);
    let finding = GateFinding {
        gate: gate.ok_or_else(|| missing("gate"))?,
        version: version.ok_or_else(|| missing("version"))?,
        verdict: verdict.ok_or_else(|| wrong("verdict", "`verdict` is missing", &["pass", "fail"]))?,
        evidence,
    };
    Ok(GateOrder { case, finding, why, key })
}

/// Gates report by a token of their own, and an operator in the place of one that does not.
pub(super) async fn report(api: &AdminApi, who: &Principal, order: GateOrder) -> Result<Reply, Fault> {
    let shown = api.reviews.case(order.case).ok_or_else(|| super::no_such("decision", &order.case.to_string()))?;
    who.demand(PersonRole::Operator, campaign_of(&shown.variant))?;
    let ruled = api.reviews.report(who.name(), order).await.map_err(|error| refused(&error))?;
    Ok(answered(api, &ruled))
}

fn answered(api: &AdminApi, ruled: &Ruled) -> Reply {
    let Ruled { entry, shown, is_new, purge } = ruled;
    let mut body = told(&api.reviews, shown);
    body["entry"] = json!({
        "seq": entry.seq(),
        "at_unix_ms": entry.at_unix_ms(),
        "actor": entry.actor(),
        "why": entry.why(),
        "hash": entry.hash(),
    });
    body["is_new"] = json!(is_new);
    body["downstream"] = json!(purge.as_ref().map(|purge| json!({ "purge": purge.id, "caches": purge.downstream })));
    Reply::ok(body)
}

/// A page of cases, the oldest first.
pub(super) fn list(api: &AdminApi, who: &Principal, query: Option<&str>) -> Result<Value, Fault> {
    let (mut filter, mut rest) = (CaseFilter::default(), Vec::new());
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("state", value)) => filter.state = Some(state(&decoded(value))?),
            Some(("campaign", value)) => filter.campaign = Some(decoded(value)),
            Some(("variant", value)) => filter.variant = Some(decoded(value)),
            _ => rest.push(pair),
        }
    }
    let Page { after, limit } = Page::parse(Some(&rest.join("&")), PAGE, PAGE_MAX)?;
    let found = api.reviews.cases(&filter, after, limit + 1);
    let next = found.get(limit).and_then(|_| found[..limit].last()).map(|shown| shown.case.id);
    let seen = found.iter().take(limit).filter(|shown| who.sees(campaign_of(&shown.variant)));
    let shown: Vec<Value> = seen.map(|shown| told(&api.reviews, shown)).collect();
    let epoch = api.reviews.log().published().load().epoch();
    Ok(json!({ "decisions": shown, "next": next, "epoch": epoch }))
}

pub(super) fn one(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    let shown = number(id).map(|id| api.reviews.case(id))?;
    shown
        .as_ref()
        .filter(|shown| who.sees(campaign_of(&shown.variant)))
        .map(|shown| told(&api.reviews, shown))
        .ok_or_else(|| super::no_such("decision", id))
}

/// The picture, in the rung of the slot's ladder that is wide enough, as the browsers of reviewers show it.
pub(super) async fn picture(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Fault> {
    let shown = number(id).map(|id| api.reviews.case(id))?.ok_or_else(|| super::no_such("decision", id))?;
    who.demand(PersonRole::Reviewer, campaign_of(&shown.variant))?;
    let want = picture_want(api, &shown, query)?;
    let unavailable = |reason: String| fault(503, "no-image", "No image now", reason);
    let ticket = api.fill.settle(&want).map_err(|error| unavailable(error.to_string()))?;
    let filled = ticket.landed().await.map_err(|error| unavailable(error.to_string()))?;
    let filled = filled.map_err(|error| unavailable(error.to_string()))?;
    // It may have joined the making of another one.
    if filled.rendition.master != shown.case.master {
        return Err(unavailable("another picture of this recipe is being made: ask again".to_owned()));
    }
    let mut response = Response::new(Full::new(Bytes::clone(&filled.rendition.body)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(want.spec.format.media_type()));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// `?w=…&fm=…`.
fn picture_want(api: &AdminApi, shown: &ShownCase, query: Option<&str>) -> Result<Want, Fault> {
    let (mut width_px, mut format) = (PICTURE_WIDTH_PX, Format::Webp);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("w", value)) => {
                width_px = value.parse().map_err(|_| wrong("w", "`w` is a width in px", &[]))?;
            }
            Some(("fm", value)) => {
                let names = Format::ALL.map(Format::as_str);
                format = Format::from_name(value).ok_or_else(|| wrong("fm", "no such format", &names))?;
            }
            _ => return Err(wrong("query", "a picture takes `w` and `fm`", &["w", "fm"])),
        }
    }
    api.reviews.want(shown, width_px, format).map_err(|error| refused(&error))
}

fn told(reviews: &ReviewDesk, shown: &ShownCase) -> Value {
    let ShownCase { variant, case, state, is_overdue } = shown;
    json!({
        "id": case.id,
        "variant": variant,
        "recipe": case.recipe,
        "master": case.master,
        "cut": case.cut,
        "state": state.as_str(),
        "seen": case.seen,
        "approved_by": case.approved_by,
        "from_unix_ms": case.from_unix_ms,
        "until_unix_ms": case.until_unix_ms,
        "escalated": case.escalated,
        "is_overdue": is_overdue,
        "awaits": case.awaits,
        "reports": case.reports,
        "drawn": case.drawn,
        "patch": reviews.patch(shown),
        "picture": format!("{}decisions/{}/picture", super::PREFIX, case.id),
    })
}

fn state(name: &str) -> Result<CaseState, Fault> {
    let names = CaseState::ALL.map(CaseState::as_str);
    let found = CaseState::ALL.into_iter().find(|state| state.as_str() == name);
    found.ok_or_else(|| wrong("state", format!("`state` is one of {}", names.join(", ")), &names))
}

fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()
}

fn number(id: &str) -> Result<u64, Fault> {
    id.parse().map_err(|_| super::no_such("decision", id))
}

fn refused(error: &ReviewError) -> Fault {
    match error {
        ReviewError::NoSuchCase(id) => super::no_such("decision", &id.to_string()),
        ReviewError::TurnedDown { .. } => fault(409, "turned-down", "Turned down", error.to_string()),
        ReviewError::NoVariant(_) | ReviewError::NotReviewed(_) => {
            fault(409, "not-reviewed", "Not reviewed", error.to_string())
        }
        ReviewError::Log(error) => log_fault(error),
    }
}
