//! `/admin/v1/shares` and `/admin/v1/comments`: links that show a selection to people without an account, and what those wrote.
//!
//! A link shows what reviewers see and readers do not yet, so it takes a reviewer to make one, to see its address and to end it.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::body::{Fault, Fields, fault, wrong};
use super::kills::{Page, log_fault};
use super::{AdminApi, PREFIX, Principal, Reply, campaign_of};
use crate::cache::unix_ms;
use crate::governance::audit;
use crate::preview::Preview;
use crate::preview::selection::Selection;
use crate::shared_state::{
    Change, KeptShare, LogError, PersonRole, Refusal, SHARE_TITLE_BYTES_MAX, SHARED_PICTURE_BYTES_MAX,
    SHARED_PICTURES_MAX, ShareId, ShareRefusal, WHY_BYTES_MAX,
};
use crate::shares::{Comment, CommentCount, CommentError, Resolution, SHARE_DAYS_MAX, ShareError, ShareOrder};

const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Longest name of a slot, and longest query of its page.
const SLOT_BYTES_MAX: usize = 256;
const FILTER_BYTES_MAX: usize = 4_096;
/// Days of a link where nothing is said of them.
const DAYS: u64 = 14;

/// A link that is asked for, before its pictures are looked up.
#[derive(Debug)]
pub(super) struct ShareAsk {
    pub(super) slot: String,
    pub(super) title: String,
    pub(super) days: u64,
    pub(super) why: String,
    pub(super) selection: Selection,
}

pub(super) fn order(mut fields: Fields) -> Result<ShareAsk, Fault> {
    let slot = fields.text("slot", SLOT_BYTES_MAX)?;
    let title = fields.text("title", SHARE_TITLE_BYTES_MAX)?;
    let days = fields.number("days", 1, SHARE_DAYS_MAX)?.unwrap_or(DAYS);
    let why = fields.text("why", WHY_BYTES_MAX)?.unwrap_or_default();
    let filter = fields.text("filter", FILTER_BYTES_MAX)?;
    let pictures = fields.long_texts("pictures", SHARED_PICTURES_MAX, SHARED_PICTURE_BYTES_MAX)?;
    fields.end(&["slot", "title", "filter", "pictures", "days", "why"])?;
    let selection = match (filter, pictures.is_empty()) {
        (Some(_), false) => return Err(wrong("pictures", "pictures are named, or found by a filter", &[])),
        (None, true) => return Err(wrong("pictures", "name `pictures`, or find them by a `filter`", &[])),
        (Some(filter), true) => Selection::Filter(filter),
        (None, false) => Selection::Pictures(pictures),
    };
    let slot = slot.ok_or_else(|| wrong("slot", "`slot` is missing: `campaign/slot`", &[]))?;
    let title = title.map(|title| title.trim().to_owned()).filter(|title| !title.is_empty());
    let title = title.ok_or_else(|| wrong("title", "`title` is missing: guests read it above the pictures", &[]))?;
    Ok(ShareAsk { slot, title, days, why, selection })
}

/// Makes a link; what it is, and whether it is new.
pub(super) async fn make(
    api: &AdminApi,
    who: &Principal,
    ask: ShareAsk,
    key: Option<String>,
) -> Result<(Arc<KeptShare>, bool), Fault> {
    let ShareAsk { slot, title, days, why, selection } = ask;
    let slot = slot.trim_matches('/').to_owned();
    who.demand(PersonRole::Reviewer, campaign_of(&slot))?;
    let (looking, of) = (Arc::clone(&api.preview), slot.clone());
    let found = tokio::task::spawn_blocking(move || Preview::to_share(&looking, &of, &selection)).await;
    let pictures = found.map_err(|_| internal("the pictures were not found"))??;
    let order = ShareOrder { title, slot, pictures, days, why, key };
    let committed = api.shares.make(who.name(), order).await.map_err(|error| refused(&error))?;
    let Change::Share(share) = committed.entry.change() else {
        return Err(internal("the log answered with another change"));
    };
    Ok((Arc::new(KeptShare { seq: committed.entry.seq(), share: share.clone() }), committed.is_new))
}

pub(super) async fn post(api: &AdminApi, who: &Principal, ask: ShareAsk, key: Option<String>) -> Result<Reply, Fault> {
    let (kept, is_new) = make(api, who, ask, key).await?;
    let location = Some(format!("{PREFIX}shares/{}", kept.share.id));
    let body = told(api, &kept, counted(api, &kept));
    Ok(Reply { status: if is_new { 201 } else { 200 }, body, location })
}

pub(super) async fn end(
    api: &AdminApi,
    who: &Principal,
    id: &str,
    (why, key): (String, Option<String>),
) -> Result<Value, Fault> {
    // A link that is gone may have been ended by this very order: the log knows by its key.
    let id: ShareId = id.parse().map_err(|_| super::no_such("link", id))?;
    if api.shares.one(id).is_some_and(|kept| !may_see(who, &kept)) {
        return Err(super::no_such("link", &id.to_string()));
    }
    let committed = api.shares.end(who.name(), id, why, key).await.map_err(|error| refused(&error))?;
    Ok(json!({ "id": id, "ended": true, "seq": committed.entry.seq(), "actor": committed.entry.actor() }))
}

pub(super) fn list(api: &AdminApi, who: &Principal, query: Option<&str>) -> Result<Value, Fault> {
    let Page { after, limit } = Page::parse(query, PAGE, PAGE_MAX)?;
    let found = api.shares.in_force(after.unwrap_or(0), limit + 1);
    let next = found.get(limit).and_then(|_| found[..limit].last()).map(|kept| kept.seq);
    let shown = found.iter().take(limit).filter(|kept| may_see(who, kept));
    let counts = api.shares.comments.counts();
    let count = |kept: &KeptShare| counts.get(&kept.share.id).copied().unwrap_or_default();
    let shown: Vec<Value> = shown.map(|kept| told(api, kept, count(kept))).collect();
    let epoch = api.kills.log().published().load().epoch();
    Ok(json!({ "shares": shown, "next": next, "epoch": epoch }))
}

/// One link with its comments.
pub(super) fn one(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    let kept = seen(api, who, id)?;
    let mut body = told(api, &kept, counted(api, &kept));
    let comments = api.shares.comments.of_share(kept.share.id);
    body["comments"] = comments.iter().map(comment_told).collect();
    Ok(body)
}

fn may_see(who: &Principal, kept: &KeptShare) -> bool {
    who.demand(PersonRole::Reviewer, Some(kept.share.campaign())).is_ok()
}

/// A link of another campaign is as good as none.
fn seen(api: &AdminApi, who: &Principal, id: &str) -> Result<Arc<KeptShare>, Fault> {
    let parsed: Option<ShareId> = id.parse().ok();
    let kept = parsed.and_then(|id| api.shares.one(id)).filter(|kept| may_see(who, kept));
    kept.ok_or_else(|| super::no_such("link", id))
}

fn counted(api: &AdminApi, kept: &KeptShare) -> CommentCount {
    api.shares.comments.counts().remove(&kept.share.id).unwrap_or_default()
}

fn told(api: &AdminApi, kept: &KeptShare, comments: CommentCount) -> Value {
    let share = &kept.share;
    json!({
        "id": share.id,
        "title": share.title,
        "slot": share.slot,
        "pictures": share.pictures.iter().map(|it| json!({ "picture": it.picture, "case": it.case })).collect::<Vec<_>>(),
        "expires_unix_ms": share.expires_unix_ms,
        "seq": kept.seq,
        "link": api.shares.link(share),
        "comment_count": comments.all,
        "open_count": comments.open,
    })
}

fn comment_told(comment: &Comment) -> Value {
    let pin = comment.pin.map(|pin| pin.fractions());
    json!({
        "id": comment.id,
        "share": comment.share,
        "picture": comment.picture,
        "case": comment.case,
        "at_unix_ms": comment.at_unix_ms,
        "name": comment.name,
        "text": comment.text,
        "x": pin.map(|(x, _)| x),
        "y": pin.map(|(_, y)| y),
        "resolved_unix_ms": comment.resolved_unix_ms,
    })
}

/// `{"resolved": true}`.
pub(super) fn resolution(mut fields: Fields) -> Result<Resolution, Fault> {
    let value = fields.value("resolved").ok_or_else(|| wrong("resolved", "`resolved` is missing", &[]))?;
    fields.end(&["resolved"])?;
    match value {
        Value::Bool(true) => Ok(Resolution::ResolvedAt(unix_ms(SystemTime::now()))),
        Value::Bool(false) => Ok(Resolution::Open),
        _ => Err(wrong("resolved", "`resolved` is true or false", &[])),
    }
}

pub(super) async fn resolve(api: &AdminApi, who: &Principal, id: &str, as_what: Resolution) -> Result<Value, Fault> {
    let comment = comment(api, who, id)?;
    let done = api.shares.comments.resolve(comment.id, as_what).await;
    let what = if as_what == Resolution::Open { "comment-open" } else { "comment-resolve" };
    noted(who, what, &comment, done.is_ok());
    done.map(|comment| comment_told(&comment)).map_err(|error| comment_fault(&error))
}

/// Deletes a comment with the name of its author.
pub(super) async fn remove(api: &AdminApi, who: &Principal, id: &str) -> Result<Value, Fault> {
    let comment = comment(api, who, id)?;
    let done = api.shares.comments.remove(comment.id).await;
    noted(who, "comment-delete", &comment, done.is_ok());
    done.map(|comment| json!({ "id": comment.id, "deleted": true })).map_err(|error| comment_fault(&error))
}

/// A comment about a picture of another campaign is as good as none.
fn comment(api: &AdminApi, who: &Principal, id: &str) -> Result<Comment, Fault> {
    let found = id.parse().ok().and_then(|id| api.shares.comments.one(id));
    let found = found.filter(|comment| who.demand(PersonRole::Reviewer, campaign_of(&comment.picture)).is_ok());
    found.ok_or_else(|| super::no_such("comment", id))
}

fn noted(who: &Principal, what: &'static str, comment: &Comment, is_done: bool) {
    let outcome = if is_done { "done" } else { "refused" };
    audit::note(&audit::Change { who: who.name(), what, subject: &comment.picture, why: "", outcome });
}

fn internal(detail: &str) -> Fault {
    fault(500, "internal", "Internal error", detail)
}

fn refused(error: &ShareError) -> Fault {
    match error {
        ShareError::NoKey => fault(409, "no-signing-key", "No signing key", error.to_string()),
        ShareError::Random(_) => internal(&error.to_string()),
        ShareError::Log(LogError::Refused(Refusal::Share(refusal))) => match refusal {
            ShareRefusal::Unknown(id) => super::no_such("link", &id.to_string()),
            ShareRefusal::Title => wrong("title", refusal.to_string(), &[]),
            ShareRefusal::Pictures | ShareRefusal::Case(_) => wrong("pictures", refusal.to_string(), &[]),
            ShareRefusal::TooMany => fault(409, "too-many-shares", "Too many links", refusal.to_string()),
            ShareRefusal::Taken(_) | ShareRefusal::Ended => wrong("days", refusal.to_string(), &[]),
        },
        ShareError::Log(error) => log_fault(error),
    }
}

/// Why a comment is not taken, resolved or deleted.
pub(super) fn comment_fault(error: &CommentError) -> Fault {
    match error {
        CommentError::Name => wrong("name", error.to_string(), &[]),
        CommentError::Text => wrong("text", error.to_string(), &[]),
        CommentError::Pin => wrong("x", error.to_string(), &[]),
        CommentError::FullPicture | CommentError::FullLink | CommentError::Full => {
            fault(409, "too-many-comments", "Too many comments", error.to_string())
        }
        CommentError::NoSuch(id) => super::no_such("comment", &id.to_string()),
        CommentError::Store(error) => fault(507, "comment-not-stored", "Not stored", error.to_string()),
        CommentError::Broken => internal(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: Value) -> Result<ShareAsk, String> {
        order(Fields::of(body)).map_err(|fault| fault.detail)
    }

    #[test]
    fn a_link_is_asked_for_by_a_filter_or_by_names() {
        let ask = parsed(json!({ "slot": "a/b", "title": " t ", "filter": "colour=red" })).unwrap();
        assert_eq!((ask.title.as_str(), ask.days), ("t", DAYS));
        assert_eq!(ask.selection, Selection::Filter("colour=red".into()));
        let ask = parsed(json!({ "slot": "a/b", "title": "t", "pictures": ["a/b?c=d"], "days": 3 })).unwrap();
        assert_eq!((ask.selection, ask.days), (Selection::Pictures(vec!["a/b?c=d".into()]), 3));
        let long = format!("a/b?c={}", "d".repeat(1_000));
        let ask = parsed(json!({ "slot": "a/b", "title": "t", "pictures": [long] })).unwrap();
        assert_eq!(ask.selection, Selection::Pictures(vec![long]), "as long as names may be");
        let refused = |body| parsed(body).unwrap_err();
        assert!(refused(json!({ "slot": "a/b", "title": "t" })).contains("`pictures`"));
        let longer = "x".repeat(SHARED_PICTURE_BYTES_MAX + 1);
        assert!(refused(json!({ "slot": "a/b", "title": "t", "pictures": [longer] })).contains("2048 bytes"));
        assert!(refused(json!({ "slot": "a/b", "title": "t", "filter": "", "pictures": ["x"] })).contains("or found"));
        assert!(refused(json!({ "slot": "a/b", "title": " ", "filter": "" })).contains("`title` is missing"));
        assert!(refused(json!({ "title": "t", "filter": "" })).contains("`slot` is missing"));
        assert!(refused(json!({ "slot": "a/b", "title": "t", "filter": "", "days": 91 })).contains("1 to 90"));
        assert!(refused(json!({ "slot": "a/b", "title": "t", "filter": "", "x": 1 })).contains("no field `x`"));
    }
}
