//! What is told: one event, and its message.
//!
//! Ids are hashes of the log's identity, the entry and the kind, so every edge that tells of an event gives it the same id. A message
//! names people by their pseudonymous ids, and pictures by their case; it holds no name and no secret. The form of messages is that of
//! Standard Webhooks: `type`, `timestamp` and `data`.

use bildkante_shared::ids::encode_128;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shared_state::{Case, CaseState, Change, Entry, State, Step, was_last_awaited, was_live};
use crate::words::calendar::Moment;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A picture was put before reviewers.
    #[serde(rename = "decision.needs_review")]
    NeedsReview,
    /// A person ruled on it.
    #[serde(rename = "decision.decided")]
    Decided,
    /// It is what its variant shows from now on.
    #[serde(rename = "decision.live")]
    Live,
    /// The time by which a role was asked to decide is over.
    #[serde(rename = "decision.overdue")]
    Overdue,
    #[serde(rename = "kill.placed")]
    KillPlaced,
    #[serde(rename = "kill.lifted")]
    KillLifted,
    /// A right ends within the notice of `check` and of the alert.
    #[serde(rename = "rights.expiring")]
    RightsExpiring,
    /// Sent by hand, to try an endpoint out.
    #[serde(rename = "webhook.test")]
    Test,
}

impl EventKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeedsReview => "decision.needs_review",
            Self::Decided => "decision.decided",
            Self::Live => "decision.live",
            Self::Overdue => "decision.overdue",
            Self::KillPlaced => "kill.placed",
            Self::KillLifted => "kill.lifted",
            Self::RightsExpiring => "rights.expiring",
            Self::Test => "webhook.test",
        }
    }
}

/// Something that endpoints are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) kind: EventKind,
    /// Events about one thing are told in their order.
    pub(super) subject: String,
    /// `None`: it may concern several.
    pub(super) campaign: Option<String>,
    pub(super) at_unix_ms: u64,
    pub(super) data: Value,
}

impl Event {
    /// The message: the same bytes for each attempt.
    pub(super) fn body(&self) -> String {
        let timestamp = rfc3339(self.at_unix_ms / 1_000);
        json!({ "type": self.kind.as_str(), "timestamp": timestamp, "data": self.data }).to_string()
    }

    /// What one sends to try an endpoint out.
    pub(super) fn test(endpoint: &str, at_unix_ms: u64) -> Self {
        let id = id_of(&["test", endpoint, &at_unix_ms.to_string()]);
        let data = json!({ "endpoint": endpoint });
        Self { id, kind: EventKind::Test, subject: format!("test:{endpoint}"), campaign: None, at_unix_ms, data }
    }

    pub(super) fn rights(campaign: &str, of: &str, ends_unix_s: u64, now_unix_ms: u64) -> Self {
        let data = json!({ "campaign": campaign, "of": of, "ends_at": rfc3339(ends_unix_s) });
        Self {
            id: id_of(&["rights", campaign, of, &ends_unix_s.to_string()]),
            kind: EventKind::RightsExpiring,
            subject: format!("campaign:{campaign}"),
            campaign: Some(campaign.to_owned()),
            at_unix_ms: now_unix_ms,
            data,
        }
    }
}

/// RFC 3339; empty after the year 9999.
fn rfc3339(unix_s: u64) -> String {
    Moment::from_unix_s(unix_s).map(|moment| moment.to_string()).unwrap_or_default()
}

fn id_of(parts: &[&str]) -> String {
    let hash = blake3::hash(parts.join("\n").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    format!("msg_{}", encode_128(&bytes))
}

fn campaign_of(variant: &str) -> Option<String> {
    variant.split_once('/').map(|(campaign, _)| campaign.to_owned())
}

/// What an entry is told as, in order. `state` is that of the entry, or a later one.
pub(super) fn of_entry(entry: &Entry, state: &State) -> Vec<Event> {
    let (log, seq) = (state.log().to_string(), entry.seq().to_string());
    let event = |kind: EventKind, campaign: Option<String>, data: Value| Event {
        id: id_of(&[&log, &seq, kind.as_str()]),
        kind,
        subject: entry.change().subject(),
        campaign,
        at_unix_ms: entry.at_unix_ms(),
        data,
    };
    let common = json!({
        "entry": entry.seq(), "who": entry.actor(), "why": entry.why(), "subject": entry.change().subject(),
    });
    let with = |more: Value| merged(common.clone(), more);
    match entry.change() {
        Change::Kill(kill) => {
            vec![event(EventKind::KillPlaced, kill.target.campaign().map(str::to_owned), common.clone())]
        }
        Change::Lift(lift) => {
            vec![event(EventKind::KillLifted, lift.target.campaign().map(str::to_owned), common.clone())]
        }
        Change::Review(review) => {
            let campaign = campaign_of(&review.variant);
            let cases = state.reviews().of(&review.variant);
            let case = cases.iter().find(|case| case.is_of(review));
            let told = merged(
                json!({ "variant": review.variant, "recipe": review.recipe, "master": review.master }),
                case.map_or_else(|| json!({}), |case| json!({ "case": case.id, "links": links(case.id) })),
            );
            let mut events = Vec::new();
            if let Some(kind) = kind_of(&review.step, entry.before()) {
                let step = json!({ "step": review.step.as_str() });
                events.push(event(kind, campaign.clone(), with(merged(told, step))));
            }
            let live = state.reviews().live_beside(&review.variant, review.cut.as_deref(), entry.at_unix_ms());
            if let Some(live) = live.filter(|live| begins_by(entry, &review.step, case, live)) {
                let told = of_case(&review.variant, live);
                events.push(event(EventKind::Live, campaign, with(told)));
            }
            events
        }
        _ => Vec::new(),
    }
}

/// What people are told of a step. Gates inform them: who waits for a picture hears of it when it is theirs to decide.
fn kind_of(step: &Step, before: Option<&str>) -> Option<EventKind> {
    match step {
        Step::Submit { gates, .. } => gates.is_empty().then_some(EventKind::NeedsReview),
        Step::Report(finding) => was_last_awaited(before, &finding.gate).then_some(EventKind::NeedsReview),
        _ => Some(EventKind::Decided),
    }
}

/// Whether what is live is so by this step: the picture itself, or the one before it where the step takes one away.
fn begins_by(entry: &Entry, step: &Step, case: Option<&Case>, live: &Case) -> bool {
    let is_itself = case.is_some_and(|case| case.id == live.id);
    let was_live = was_live(entry.before());
    match step {
        // Who approves what is live, perhaps for another time, changes nothing of what is shown.
        Step::Approve { .. } => is_itself && live.approved == Some(entry.seq()) && !was_live,
        Step::Resume { .. } => is_itself,
        // It was above the one that is live now: who takes away what was not shown changes nothing.
        Step::Pause { .. } | Step::Reject { .. } | Step::RequestChanges { .. } => !is_itself && was_live,
        // It brings back what was live, or lets what was live before be so again.
        Step::Undo { .. } => is_itself != was_live,
        Step::Submit { .. } | Step::Report(_) | Step::Escalate { .. } => false,
    }
}

/// What time alone brings about after `since` and up to `now`: pictures that go live, and deadlines that are over.
pub(super) fn of_time(state: &State, since_unix_ms: u64, now_unix_ms: u64) -> Vec<Event> {
    let log = state.log().to_string();
    let is_in = |moment: &u64| *moment > since_unix_ms && *moment <= now_unix_ms;
    let event = |kind: EventKind, variant: &str, case: &Case, moment: u64, more: Value| Event {
        id: id_of(&[&log, kind.as_str(), &case.id.to_string(), &case.seen.to_string(), &moment.to_string()]),
        kind,
        subject: format!("variant:{variant}"),
        campaign: campaign_of(variant),
        at_unix_ms: moment,
        data: merged(of_case(variant, case), more),
    };
    let mut events = Vec::new();
    for (variant, case, at) in state.reviews().each(now_unix_ms) {
        let deadline = case.escalated.as_ref().filter(|escalation| is_in(&escalation.by_unix_ms));
        if let (CaseState::NeedsReview, Some(escalation)) = (at, deadline) {
            let more = json!({ "to": escalation.to, "by": rfc3339(escalation.by_unix_ms / 1_000) });
            events.push(event(EventKind::Overdue, variant, case, escalation.by_unix_ms, more));
        }
        let cut = case.cut.as_deref();
        for moment in [case.from_unix_ms, case.until_unix_ms].into_iter().flatten().filter(is_in) {
            let before = state.reviews().live_beside(variant, cut, moment - 1).map(|case| case.id);
            let live = state.reviews().live_beside(variant, cut, moment).filter(|live| Some(live.id) != before);
            // Two cases may change at one moment: the id is that of what is live.
            events.extend(live.map(|live| event(EventKind::Live, variant, live, moment, json!({}))));
        }
    }
    events.sort_by(|one, other| (one.at_unix_ms, &one.id).cmp(&(other.at_unix_ms, &other.id)));
    events.dedup_by(|one, other| one.id == other.id);
    events
}

fn of_case(variant: &str, case: &Case) -> Value {
    json!({
        "subject": format!("variant:{variant}"), "variant": variant, "recipe": case.recipe, "master": case.master,
        "case": case.id, "links": links(case.id),
    })
}

fn links(case: u64) -> Value {
    json!({ "decision": format!("/admin/v1/decisions/{case}"), "picture": format!("/admin/v1/decisions/{case}/picture") })
}

/// The fields of both; the second's count.
fn merged(one: Value, other: Value) -> Value {
    let (Value::Object(mut fields), Value::Object(more)) = (one, other) else { return Value::Null };
    fields.extend(more);
    Value::Object(fields)
}
