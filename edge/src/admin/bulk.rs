//! One decision about every picture that a filter of a slot's page asks for, or that a reader picked there.
//!
//! Invariants: it is a task of its own, so a browser that leaves stops nothing half way; each picture is decided by itself, with its
//! own line in the log, and one that is refused holds up no other; the form names which cases the page showed and as what, and nothing
//! is decided where they are others by now.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::body::{Fault, fault, wrong};
use super::forms::fields;
use super::login::Form;
use super::principal::Principal;
use super::{AdminApi, campaign_of, decisions, kills};
use crate::governance::AwaitingCase;
use crate::preview::Preview;
use crate::preview::bulk::{Asked, BULK_MAX, Seen};
use crate::preview::selection::{PICK, picked_case};
use crate::shared_state::PersonRole;

/// Decisions that are waited for at a time: the log takes them one after the other, caches further down do not.
const AT_ONCE: usize = 8;

/// What a form was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Deed {
    #[default]
    Decided,
    TakenBack,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) deed: Deed,
    pub(super) done: usize,
    /// Pictures and why they were not decided.
    pub(super) refused: Vec<(String, String)>,
    /// Pictures beyond the most of one form.
    pub(super) left: usize,
    /// Cases that were decided, as they are now: these decisions can be taken back for a while.
    pub(super) decided: Vec<AwaitingCase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Rule(&'static str),
    Kill,
}

const WORDS: [(&str, Word); 4] = [
    ("approve", Word::Rule("approve")),
    ("request_changes", Word::Rule("request_changes")),
    ("reject", Word::Rule("reject")),
    ("kill", Word::Kill),
];

impl AdminApi {
    /// Carries out a form about many pictures.
    pub(super) async fn bulk(&self, preview: &Arc<Preview>, who: &Principal, form: &Form) -> Result<Outcome, Fault> {
        let slot = form.get("slot").unwrap_or_default().to_owned();
        let campaign = campaign_of(&slot).map(str::to_owned);
        let word = WORDS.iter().find(|(name, _)| Some(*name) == form.get("decision")).map(|(_, word)| *word);
        let word = word.ok_or_else(|| wrong("decision", "it is one of these", &WORDS.map(|(name, _)| name)))?;
        let (role, why) = match word {
            Word::Rule("request_changes") => (PersonRole::Reviewer, true),
            Word::Rule(decision) => (PersonRole::Approver, decision != "approve"),
            Word::Kill => (PersonRole::Operator, true),
        };
        who.demand(role, campaign.as_deref())?;
        if why && form.get("why").unwrap_or_default().trim().is_empty() {
            return Err(wrong("why", "a reason is missing: it stands in the audit", &[]));
        }
        if word == Word::Kill && campaign.as_deref() != form.get("confirm").map(str::trim) {
            return Err(wrong("confirm", "the campaign's name confirms a kill, and this is another one", &[]));
        }
        let pictures = if form.get("of") == Some("picked") {
            picked(&slot, word, form)?
        } else {
            let filter = form.get("filter").unwrap_or_default().to_owned();
            let looking = Arc::clone(preview);
            let pictures = tokio::task::spawn_blocking(move || looking.asked_for(&slot, &filter)).await;
            let pictures =
                pictures.map_err(|_| fault(500, "internal", "Internal error", "the pictures were not found"))?;
            as_shown(word, form, pictures?)?
        };
        let left = pictures.len().saturating_sub(BULK_MAX);
        let pictures: Vec<Asked> = pictures.into_iter().take(BULK_MAX).collect();
        let (api, who, why) = (self.clone(), who.clone(), form.get("why").unwrap_or_default().to_owned());
        let preview = Arc::clone(preview);
        let task = tokio::spawn(async move { api.each(word, &who, &preview, (pictures, &why)).await });
        let outcome = task.await.map_err(|_| fault(500, "internal", "Internal error", "the decisions broke off"))?;
        Ok(Outcome { left, ..outcome })
    }

    /// Each picture by itself, some at a time.
    pub(super) async fn each(
        &self,
        word: Word,
        who: &Principal,
        preview: &Arc<Preview>,
        (pictures, why): (Vec<Asked>, &str),
    ) -> Outcome {
        let decided = stream::iter(pictures).map(|Asked { picture, awaiting, .. }| async move {
            let result = match (word, awaiting) {
                (Word::Kill, _) => kill_picture(self, who, preview, (&picture, why)).await.map(|()| None),
                (Word::Rule(decision), Some(case)) => self.rule_on(who, case, decision, why).await.map(Some),
                // The form is about those that await a decision.
                (Word::Rule(_), None) => Ok(None),
            };
            (picture, result)
        });
        let mut outcome = Outcome::default();
        let mut decided = std::pin::pin!(decided.buffered(AT_ONCE));
        while let Some((picture, result)) = decided.next().await {
            match result {
                Ok(case) => {
                    outcome.done += 1;
                    outcome.decided.extend(case);
                }
                Err(fault) => outcome.refused.push((picture, fault.detail)),
            }
        }
        outcome
    }

    /// On a case as the page showed it; as it is then.
    pub(super) async fn rule_on(
        &self,
        who: &Principal,
        case: AwaitingCase,
        decision: &str,
        why: &str,
    ) -> Result<AwaitingCase, Fault> {
        let seen = case.seen.to_string();
        let form = Form::of([("decision", decision), ("why", why), ("seen", &seen)]);
        let order = decisions::order(None, &case.id.to_string(), fields(&form, &["decision", "why"], &["seen"])?)?;
        let reply = decisions::rule(self, who, order).await?;
        Ok(AwaitingCase { id: case.id, seen: reply.body["seen"].as_u64().unwrap_or_default() })
    }
}

/// The cards that a reader picked. Each says what it showed, so a decision is about no other case.
fn picked(slot: &str, word: Word, form: &Form) -> Result<Vec<Asked>, Fault> {
    let slot = slot.trim_matches('/');
    let mut pictures = Vec::new();
    for (picture, value) in form.named(PICK) {
        let values = picture.strip_prefix(slot);
        let is_of_slot = values.is_some_and(|values| values.is_empty() || values.starts_with('?'));
        let awaiting = picked_case(value).ok().filter(|_| is_of_slot);
        let awaiting = awaiting.ok_or_else(|| wrong("pick", "a pick is none of this slot's cards", &[]))?;
        // What was shown can be made.
        pictures.push(Asked { picture: picture.to_owned(), awaiting, is_makeable: true });
    }
    if matches!(word, Word::Rule(_)) {
        pictures.retain(|asked| asked.awaiting.is_some());
    }
    if pictures.is_empty() {
        let detail = "none of the picked pictures can be decided about: pick some that await a decision";
        return Err(wrong("pick", detail, &[]));
    }
    Ok(pictures)
}

/// The pictures that the form is about, where they are those that its page showed.
fn as_shown(word: Word, form: &Form, pictures: Vec<Asked>) -> Result<Vec<Asked>, Fault> {
    let overtaken =
        || fault(409, "overtaken", "Overtaken", "these are not the pictures that the page showed: look again");
    match word {
        Word::Kill => {
            let counted: usize = form.get("count").and_then(|count| count.trim().parse().ok()).unwrap_or_default();
            if pictures.len() > counted { Err(overtaken()) } else { Ok(pictures) }
        }
        Word::Rule(_) => {
            let awaiting: Vec<Asked> = pictures.into_iter().filter(|asked| asked.awaiting.is_some()).collect();
            let seen = Seen::of(awaiting.iter().filter_map(|asked| asked.awaiting));
            if form.get("seen") == Some(&seen.digest) { Ok(awaiting) } else { Err(overtaken()) }
        }
    }
}

/// Kills every variant that has the picture: a page shows locales that share one as one. A task of its own.
pub(super) async fn kill_picture(
    api: &AdminApi,
    who: &Principal,
    preview: &Arc<Preview>,
    (variant, why): (&str, &str),
) -> Result<(), Fault> {
    let (looking, name) = (Arc::clone(preview), variant.to_owned());
    let sharing = tokio::task::spawn_blocking(move || looking.sharing(&name)).await;
    let sharing = sharing.map_err(|_| fault(500, "internal", "Internal error", "the variants were not found"))?;
    let (api, who, why) = (api.clone(), who.clone(), why.to_owned());
    let task = tokio::spawn(async move {
        let mut first = Ok(());
        // One that is refused holds up no other.
        for variant in sharing {
            first = first.and(kill_variant(&api, &who, (&variant, &why)).await);
        }
        first
    });
    task.await.unwrap_or_else(|_| Err(fault(500, "internal", "Internal error", "the kill broke off")))
}

/// A kill that holds on this edge alone, because its primary is away, is told as such.
async fn kill_variant(api: &AdminApi, who: &Principal, (variant, why): (&str, &str)) -> Result<(), Fault> {
    let form = Form::of([("variant", variant), ("why", why)]);
    let reply = kills::kill(api, who, kills::order(None, fields(&form, &["variant", "why"], &[])?)?).await?;
    if reply.status == 202 {
        let detail = "it holds on this edge, and the others learn of it when the primary is reached again";
        return Err(fault(503, "held-here", "Held on this edge", detail));
    }
    Ok(())
}
