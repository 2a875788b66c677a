//! The one table of routes: method, path, who may use it, what it takes and answers.
//!
//! Requests are dispatched through it and its OpenAPI document is made from it, so a route without a row cannot exist, nor one
//! without a role. Invariants: a path has at most one parameter, and no two rows match the same request; a row that reaches into
//! campaigns has its campaign checked by what carries it out.

mod query;

use http::Method;

pub(super) use self::query::check_query;
use super::PREFIX;
use super::token::TokenScope;
use crate::shared_state::PersonRole;

/// Longest value of a parameter, as the description says.
pub(super) const TEXT_CHARS_MAX: usize = 2_048;
/// Longest path.
const PATH_BYTES_MAX: usize = 2_048;

/// One route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) verb: Verb,
    /// Below the prefix; `{…}` is the parameter.
    pub(super) path: &'static str,
    pub(super) action: Action,
    pub(super) needs: Needs,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) takes: Takes,
    pub(super) repeats: Repeats,
    /// Status and schema of what goes well.
    pub(super) answers: &'static [(u16, &'static str)],
}

/// The method of a route. HEAD goes where GET goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Delete,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Of keys and people; `None`: it is between edges.
    pub(super) role: Option<PersonRole>,
    /// Of tokens; `None`: they count by the role that they stand for.
    pub(super) scope: Option<TokenScope>,
    pub(super) reach: Reach,
}

/// Where the role must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// In the campaign that the request turns out to be about.
    Campaign,
    /// In all of them.
    Edge,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) is: Presence,
    pub(super) what: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
}

/// What a parameter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// Of these words.
    Words(&'static [&'static str]),
    Number {
        min: u64,
        max: u64,
    },
    /// Hexadecimal digits, so many.
    Digits(usize),
    Digest,
}

/// The body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON of this schema, or a table.
    JsonOrCsv(&'static str),
    /// A PNG, JPEG, WebP or AVIF.
    Picture,
}

/// What a repeated order becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// The same again.
    Plainly,
    /// With the same `Idempotency-Key`: nothing more.
    ByKey,
}

/// In the place of a schema: bytes of a picture.
pub(super) const PICTURE: &str = "Picture";
/// In the place of a schema: a unified diff.
pub(super) const PATCH: &str = "Patch";
/// The same: server-sent events.
pub(super) const EVENTS: &str = "Events";

/// What a route does. Each is carried out in one place, and stands in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Status,
    Me,
    OpenApi,
    ListPurges,
    Purge,
    ShowPurge,
    ListKills,
    Kill,
    ShowKill,
    Lift,
    ListDecisions,
    ShowDecision,
    Decide,
    Report,
    ShowPicture,
    ListCandidates,
    DrawCandidates,
    ListDrafts,
    Draft,
    ShowDraft,
    EndDraft,
    ShowDraftPicture,
    ShowDraftPatch,
    ListSplits,
    Split,
    ListShares,
    MakeShare,
    ShowShare,
    EndShare,
    ResolveComment,
    DeleteComment,
    ReadAudit,
    ForgetName,
    ShowState,
    Changes,
    Snapshot,
    Propose,
    Promote,
    ListWebhooks,
    DeadLetters,
    ReplayWebhook,
    TestWebhook,
    ListJobs,
    Warm,
    ShowJob,
    CancelJob,
    ListBatches,
    StartBatch,
    ShowBatch,
    CancelBatch,
    PauseBatch,
    ResumeBatch,
    RetryBatch,
    BatchResults,
    FollowBatch,
    ListImports,
    Import,
    DropImport,
    Dossier,
    Masters,
    ListKeys,
    AddKey,
    ShowKey,
    RevokeKey,
}

const AFTER: Parameter = Parameter {
    name: "after",
    form: Form::Number { min: 0, max: u64::MAX },
    is: Presence::Optional,
    what: "the number behind which the page begins: `next` of the page before",
};
const LIMIT: Parameter = Parameter {
    name: "limit",
    form: Form::Number { min: 1, max: 1_000 },
    is: Presence::Optional,
    what: "most of a page; 100 if it is left out",
};
const PAGE: &[Parameter] = &[AFTER, LIMIT];

const fn query(name: &'static str, form: Form, is: Presence, what: &'static str) -> Parameter {
    Parameter { name, form, is, what }
}

const fn number(name: &'static str, what: &'static str) -> Parameter {
    query(name, Form::Number { min: 0, max: u64::MAX }, Presence::Required, what)
}

const STATEMENT: &str = "what is said of the picture";
const OF_IMPORT: &[Parameter] = &[
    query("variant", Form::Text, Presence::Required, "whose picture it may become: `campaign/slot?axis=value`"),
    query("source", Form::Text, Presence::Optional, "the term of its digital source type (IPTC)"),
    query("origin", Form::Text, Presence::Optional, STATEMENT),
    query("creator", Form::Text, Presence::Optional, STATEMENT),
    query("credit", Form::Text, Presence::Optional, STATEMENT),
    query("copyright", Form::Text, Presence::Optional, STATEMENT),
    query("license", Form::Text, Presence::Optional, STATEMENT),
    query("why", Form::Text, Presence::Optional, "a reason, for the audit"),
];
const OF_DOSSIER: &[Parameter] = &[
    query("of", Form::Text, Presence::Required, "a picture's URL, a variant, or the id of a master or a recipe"),
    query("as", Form::Words(&["json", "html"]), Presence::Optional, "`html`: a page to print"),
];
const OF_MASTERS: &[Parameter] = &[
    query("phash", Form::Digits(64), Presence::Optional, "what a picture looks like; this or `mark`"),
    query(
        "bits",
        Form::Number { min: 0, max: 64 },
        Presence::Optional,
        "bits of 256 in which fingerprints may differ; 24 if it is left out",
    ),
    query("mark", Form::Digits(16), Presence::Optional, "what a watermark says"),
];
/// A test holds them against those of cases.
pub(super) const CASE_STATES: &[&str] = &[
    "checking",
    "needs_review",
    "rejected",
    "changes_requested",
    "scheduled",
    "live",
    "paused",
    "superseded",
    "expired",
];
const OF_DECISIONS: &[Parameter] = &[
    query("state", Form::Words(CASE_STATES), Presence::Optional, "cases in this state"),
    query("campaign", Form::Text, Presence::Optional, "cases of this campaign"),
    query("variant", Form::Text, Presence::Optional, "cases of this variant"),
    AFTER,
    LIMIT,
];
const OF_CANDIDATES: &[Parameter] =
    &[query("variant", Form::Text, Presence::Required, "whose picture: `campaign/slot?axis=value`")];
const OF_DRAFT_PATCH: &[Parameter] = &[query(
    "seed",
    Form::Number { min: 0, max: 4_294_967_295 },
    Presence::Optional,
    "which of the draft's pictures; the first if it is left out",
)];
const OF_DRAFT_PICTURE: &[Parameter] = &[OF_DRAFT_PATCH[0], OF_PICTURE[0], OF_PICTURE[1]];
const OF_PICTURE: &[Parameter] = &[
    query(
        "w",
        Form::Number { min: 1, max: 16_384 },
        Presence::Optional,
        "its width in px, at least; 640 if it is left out",
    ),
    query("fm", Form::Words(&["avif", "webp", "jpg"]), Presence::Optional, "its format; `webp` if it is left out"),
];
const CSV_ALONE: &str = "of a CSV order: of rows that do not say themselves";
const CSV_TERMS: &str = "of a CSV order, as a JSON order says it";
const OF_BATCH: &[Parameter] = &[
    query("dry_run", Form::Words(&["true"]), Presence::Optional, "nothing is drawn: 200 with what would be"),
    query("campaign", Form::Text, Presence::Optional, CSV_ALONE),
    query("slot", Form::Text, Presence::Optional, CSV_ALONE),
    query("count", Form::Number { min: 1, max: 16 }, Presence::Optional, CSV_TERMS),
    query("formats", Form::Text, Presence::Optional, "of a CSV order, with commas between"),
    query("concurrency", Form::Number { min: 1, max: 32 }, Presence::Optional, CSV_TERMS),
    query("why", Form::Text, Presence::Optional, CSV_TERMS),
];
const OF_RESULTS: &[Parameter] =
    &[query("as", Form::Words(&["json", "csv"]), Presence::Optional, "`csv`: a table for spreadsheets")];
const OF_FOLLOWING: &[Parameter] = &[query(
    "after",
    Form::Number { min: 0, max: u64::MAX },
    Presence::Optional,
    "the number of the event that was seen last; `Last-Event-ID` goes before",
)];
const OF_CHANGES: &[Parameter] = &[
    query("log", Form::Text, Presence::Required, "the log that the follower has"),
    number("after", "its last entry"),
    query("hash", Form::Digest, Presence::Required, "that entry's hash"),
    query("term", Form::Number { min: 0, max: 1 << 32 }, Presence::Required, "the latest term that it has seen"),
    number("wait_ms", "how long to wait for a change; at most a second"),
];

const fn viewer(reach: Reach) -> Needs {
    Needs { role: Some(PersonRole::Viewer), scope: Some(TokenScope::Read), reach }
}

const fn takes(role: PersonRole, scope: TokenScope, reach: Reach) -> Needs {
    Needs { role: Some(role), scope: Some(scope), reach }
}

const BETWEEN_EDGES: Needs = Needs { role: None, scope: Some(TokenScope::State), reach: Reach::Edge };
const KEYS: Needs = takes(PersonRole::Operator, TokenScope::Keys, Reach::Edge);
/// Whoever has any role. Tokens count by theirs.
pub(super) const ANY_ROLE: Needs = Needs { role: Some(PersonRole::Viewer), scope: None, reach: Reach::Campaign };

const fn get(path: &'static str, action: Action, needs: Needs, schema: &'static [(u16, &'static str)]) -> Route {
    let (query, takes, repeats) = (&[], Takes::Nothing, Repeats::Plainly);
    Route { verb: Verb::Get, path, action, needs, summary: "", query, takes, repeats, answers: schema }
}

impl Route {
    const fn says(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    const fn asks(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    const fn post(self, takes: Takes) -> Self {
        Self { verb: Verb::Post, takes, ..self }
    }

    const fn delete(self, takes: Takes) -> Self {
        Self { verb: Verb::Delete, takes, ..self }
    }

    const fn by_key(self) -> Self {
        Self { repeats: Repeats::ByKey, ..self }
    }
}

/// See the module's documentation.
pub(super) const ROUTES: &[Route] = {
    use Action as A;
    use PersonRole::{Approver, Operator, Reviewer};
    use Reach::{Campaign, Edge};
    use Takes::{Json, JsonOrCsv, Nothing, Picture};
    use TokenScope as S;
    &[
        get("status", A::Status, viewer(Campaign), &[(200, "Status")])
            .says("Version, campaigns, nodes, caches and purges of this edge"),
        get("me", A::Me, ANY_ROLE, &[(200, "Me")]).says("Who asks, and with which roles"),
        get("openapi.json", A::OpenApi, ANY_ROLE, &[(200, "OpenApi")]).says("This description"),
        get("purges", A::ListPurges, viewer(Campaign), &[(200, "Purges")]).says("The last 100 purges"),
        get("purges", A::Purge, takes(Operator, S::Purge, Campaign), &[(200, "Purge"), (202, "Purge")])
            .post(Json("PurgeOrder"))
            .by_key()
            .says("Purges; 202 while a cache in front has not confirmed"),
        get("purges/{id}", A::ShowPurge, viewer(Campaign), &[(200, "Purge")])
            .says("One purge, and what became of it in each cache in front"),
        get("kills", A::ListKills, viewer(Campaign), &[(200, "Kills")])
            .asks(PAGE)
            .says("Kills in force, in the order of their numbers"),
        get(
            "kills",
            A::Kill,
            takes(Operator, S::Kill, Campaign),
            &[(200, "Killed"), (201, "Killed"), (202, "HeldHere")],
        )
        .post(Json("KillOrder"))
        .by_key()
        .says("Kills; 200 for an order that is known by its key, 202 where it holds on this edge alone"),
        get("kills/{seq}", A::ShowKill, viewer(Campaign), &[(200, "Kill")]).says("One kill, and what it covers now"),
        get("kills/{seq}", A::Lift, takes(Operator, S::Kill, Campaign), &[(200, "Killed")])
            .delete(Json("Reason"))
            .by_key()
            .says("Lifts a kill"),
        get("decisions", A::ListDecisions, viewer(Campaign), &[(200, "Decisions")])
            .asks(OF_DECISIONS)
            .says("Pictures that were put before reviewers, the oldest first"),
        get("decisions/{id}", A::ShowDecision, viewer(Campaign), &[(200, "Decision")]).says("One of them"),
        get("decisions/{id}", A::Decide, takes(Reviewer, S::Review, Campaign), &[(200, "Decided")])
            .post(Json("DecisionOrder"))
            .by_key()
            .says("Decides; approvals, rejections and pauses take an approver"),
        get("decisions/{id}/reports", A::Report, takes(Operator, S::Gate, Campaign), &[(200, "Decided")])
            .post(Json("ReportOrder"))
            .by_key()
            .says(
                "Enters what a gate found; a picture is people's to decide when each gate that it awaits has reported",
            ),
        get("decisions/{id}/picture", A::ShowPicture, takes(Reviewer, S::Review, Campaign), &[(200, PICTURE)])
            .asks(OF_PICTURE)
            .says("The picture, approved or not; no cache keeps it"),
        get("candidates", A::ListCandidates, viewer(Campaign), &[(200, "Trials")])
            .asks(OF_CANDIDATES)
            .says("Candidates of a variant that are being drawn, or could not be; those that are drawn are decisions"),
        get("candidates", A::DrawCandidates, takes(Reviewer, S::Review, Campaign), &[(202, "Trials")])
            .post(Json("CandidatesOrder"))
            .by_key()
            .says("Draws a variant's picture with other seeds, and puts what is drawn before reviewers"),
        get("drafts", A::ListDrafts, takes(Reviewer, S::Review, Campaign), &[(200, "Drafts")])
            .asks(OF_CANDIDATES)
            .says("What a draft of a variant may change, and the variant's drafts"),
        get("drafts", A::Draft, takes(Reviewer, S::Review, Campaign), &[(202, "Draft")])
            .post(Json("DraftOrder"))
            .says("Draws a variant's picture with other texts and settings, and tells the patch that would make it the manifest's"),
        get("drafts/{id}", A::ShowDraft, takes(Reviewer, S::Review, Campaign), &[(200, "Draft")])
            .says("One draft, for a day"),
        get("drafts/{id}", A::EndDraft, takes(Reviewer, S::Review, Campaign), &[(200, "EndedDraft")])
            .delete(Nothing)
            .says("Ends a draft before its time"),
        get("drafts/{id}/picture", A::ShowDraftPicture, takes(Reviewer, S::Review, Campaign), &[(200, PICTURE)])
            .asks(OF_DRAFT_PICTURE)
            .says("A draft's picture, once it is drawn; no cache keeps it"),
        get("drafts/{id}/patch", A::ShowDraftPatch, takes(Reviewer, S::Review, Campaign), &[(200, PATCH)])
            .asks(OF_DRAFT_PATCH)
            .says("The patch of a draft, as a file"),
        get("splits", A::ListSplits, viewer(Campaign), &[(200, "Splits")])
            .says("Pictures that have a master of their own although they look like others, because people split them"),
        get("splits", A::Split, takes(Approver, S::Review, Campaign), &[(200, "SplitDone")])
            .post(Json("SplitOrder"))
            .by_key()
            .says("Splits a picture from those it looks like, or merges it again"),
        get("shares", A::ListShares, takes(Reviewer, S::Review, Campaign), &[(200, "Shares")])
            .asks(PAGE)
            .says("Links that show pictures to people without an account, those that are open"),
        get("shares", A::MakeShare, takes(Reviewer, S::Review, Campaign), &[(200, "Share"), (201, "Share")])
            .post(Json("ShareOrder"))
            .by_key()
            .says("Makes a link to the pictures of a filter, or to named ones, as they are now"),
        get("shares/{id}", A::ShowShare, takes(Reviewer, S::Review, Campaign), &[(200, "Share")])
            .says("One link, with the comments of its guests"),
        get("shares/{id}", A::EndShare, takes(Reviewer, S::Review, Campaign), &[(200, "EndedShare")])
            .delete(Json("Reason"))
            .by_key()
            .says("Ends a link, on every edge"),
        get("comments/{id}", A::ResolveComment, takes(Reviewer, S::Review, Campaign), &[(200, "Comment")])
            .post(Json("CommentOrder"))
            .says("Says that a guest's comment is resolved, or is not"),
        get("comments/{id}", A::DeleteComment, takes(Reviewer, S::Review, Campaign), &[(200, "DeletedComment")])
            .delete(Nothing)
            .says("Deletes a guest's comment with the guest's name"),
        get("audit", A::ReadAudit, takes(Approver, S::Audit, Edge), &[(200, "Audit")])
            .asks(PAGE)
            .says("Entries of the log with the names of their actors, and signed checkpoints"),
        get("audit/names/{name}", A::ForgetName, takes(Operator, S::Kill, Edge), &[(200, "Forgotten")])
            .delete(Json("Reason"))
            .by_key()
            .says("Erases a name; its entries stay"),
        get("state", A::ShowState, viewer(Campaign), &[(200, "Standing")])
            .says("Role, term, last entry, and how long the primary has been silent"),
        get("state/changes", A::Changes, BETWEEN_EDGES, &[(200, "Feed")])
            .asks(OF_CHANGES)
            .says("Entries that a follower does not have; between edges"),
        get("state/snapshot", A::Snapshot, takes(Operator, S::State, Edge), &[(200, "Snapshot")])
            .says("The whole state as of now: for followers and backups"),
        get("state/proposals", A::Propose, BETWEEN_EDGES, &[(200, "Committed")])
            .post(Json("Proposal"))
            .says("A change that a follower sends on, in the name of who asked it; between edges"),
        get("state/promote", A::Promote, takes(Operator, S::Kill, Edge), &[(200, "Promotion")])
            .post(Nothing)
            .by_key()
            .says("Makes a follower the primary"),
        get("webhooks", A::ListWebhooks, takes(Operator, S::Kill, Edge), &[(200, "Webhooks")])
            .says("Endpoints that are told of decisions, and how it is with them"),
        get("webhooks/dead-letters", A::DeadLetters, takes(Operator, S::Kill, Edge), &[(200, "DeadLetters")])
            .asks(PAGE)
            .says("Messages that were given up, the oldest first"),
        get("webhooks/{name}/replay", A::ReplayWebhook, takes(Operator, S::Kill, Edge), &[(200, "Replayed")])
            .post(Json("Reason"))
            .says("Sends an endpoint's dead letters again, by their ids"),
        get("webhooks/{name}/test", A::TestWebhook, takes(Operator, S::Kill, Edge), &[(200, "Tested")])
            .post(Nothing)
            .says("Sends an endpoint a message of the type `webhook.test`, once"),
        get("warm", A::ListJobs, viewer(Campaign), &[(200, "Jobs")]).says("The jobs"),
        get("warm", A::Warm, takes(Operator, S::Warm, Campaign), &[(202, "Job")])
            .post(Json("WarmOrder"))
            .by_key()
            .says("Starts a job, or goes on with one"),
        get("warm/{id}", A::ShowJob, viewer(Campaign), &[(200, "Job")]).says("One job"),
        get("warm/{id}", A::CancelJob, takes(Operator, S::Warm, Campaign), &[(202, "Job")])
            .delete(Nothing)
            .says("Stops a job"),
        get("batches", A::ListBatches, viewer(Campaign), &[(200, "Batches")]).says("Batches, the newest first"),
        get("batches", A::StartBatch, takes(Operator, S::Warm, Campaign), &[(200, "Estimate"), (202, "Batch")])
            .post(JsonOrCsv("BatchOrder"))
            .asks(OF_BATCH)
            .by_key()
            .says("Draws and renders pictures by list, filter or table, and accounts for each"),
        get("batches/{id}", A::ShowBatch, viewer(Campaign), &[(200, "Batch")]).says("One batch"),
        get("batches/{id}", A::CancelBatch, takes(Operator, S::Warm, Campaign), &[(202, "Batch")])
            .delete(Nothing)
            .by_key()
            .says("Ends a batch; what is drawn stays"),
        get("batches/{id}/pause", A::PauseBatch, takes(Operator, S::Warm, Campaign), &[(202, "Batch")])
            .post(Nothing)
            .by_key()
            .says("Pauses a batch"),
        get("batches/{id}/resume", A::ResumeBatch, takes(Operator, S::Warm, Campaign), &[(202, "Batch")])
            .post(Nothing)
            .by_key()
            .says("Goes on with a batch that is paused"),
        get("batches/{id}/retry", A::RetryBatch, takes(Operator, S::Warm, Campaign), &[(202, "Batch")])
            .post(Nothing)
            .by_key()
            .says("Tries the pictures again that failed"),
        get("batches/{id}/results", A::BatchResults, viewer(Campaign), &[(200, "BatchResults")])
            .asks(OF_RESULTS)
            .says("What became of each picture: a manifest, or a table"),
        get("batches/{id}/events", A::FollowBatch, viewer(Campaign), &[(200, EVENTS)])
            .asks(OF_FOLLOWING)
            .says("The next change of a batch; an `EventSource` connects anew behind each"),
        get("imports", A::ListImports, viewer(Campaign), &[(200, "Candidates")])
            .says("Candidates: pictures that were posted"),
        get("imports", A::Import, takes(Reviewer, S::Import, Campaign), &[(200, "Candidate"), (201, "Candidate")])
            .post(Picture)
            .asks(OF_IMPORT)
            .by_key()
            .says("Stores a picture as a candidate; 200 for an order that is known by its key"),
        get("imports/{id}", A::DropImport, takes(Reviewer, S::Import, Campaign), &[(200, "Dropped")])
            .delete(Nothing)
            .says("Forgets a candidate"),
        get("dossier", A::Dossier, viewer(Campaign), &[(200, "Dossier")])
            .asks(OF_DOSSIER)
            .says("A picture's papers: JSON, or a page"),
        get("masters", A::Masters, viewer(Edge), &[(200, "Masters")])
            .asks(OF_MASTERS)
            .says("Masters that look like a picture, or that a watermark names"),
        get("keys", A::ListKeys, KEYS, &[(200, "Keys")])
            .asks(PAGE)
            .says("Keys that were not revoked, in the order in which they were given"),
        get("keys", A::AddKey, KEYS, &[(200, "GivenKey"), (201, "GivenKey")])
            .post(Json("KeyOrder"))
            .by_key()
            .says("Gives a key; its secret is in this answer and in no other"),
        get("keys/{id}", A::ShowKey, KEYS, &[(200, "Key")]).says("One key"),
        get("keys/{id}", A::RevokeKey, KEYS, &[(200, "RevokedKey")])
            .delete(Json("Reason"))
            .by_key()
            .says("Revokes a key, and ends the sessions that were begun with it"),
    ]
};

/// What a request names.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Route(&'static Route, &'a str),
    /// There are other methods.
    NotAllowed(String),
    Nothing,
}

/// The row for a request, and what its path has in the place of the parameter.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let Some(rest) = path.strip_prefix(PREFIX).filter(|_| path.len() <= PATH_BYTES_MAX) else { return Found::Nothing };
    let rows: Vec<_> = ROUTES.iter().filter_map(|route| Some((route, parameter(route.path, rest)?))).collect();
    if let Some((route, parameter)) = rows.iter().find(|(route, _)| route.verb.is(method)) {
        return Found::Route(route, parameter);
    }
    let allowed: Vec<&str> = rows.iter().map(|(route, _)| route.verb.allowed()).collect();
    if allowed.is_empty() { Found::Nothing } else { Found::NotAllowed(allowed.join(", ")) }
}

/// What stands in the place of a template's parameter; empty where it has none; `None` where the path is another one.
fn parameter<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    match template.split_once('{') {
        None => (template == path).then_some(""),
        Some((before, rest)) => {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            let value = path.strip_prefix(before)?.strip_suffix(after)?;
            (!value.is_empty() && !value.contains('/')).then_some(value)
        }
    }
}

impl Verb {
    fn is(self, method: &Method) -> bool {
        match self {
            Self::Get => matches!(*method, Method::GET | Method::HEAD),
            Self::Post => *method == Method::POST,
            Self::Delete => *method == Method::DELETE,
        }
    }

    const fn allowed(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    /// As OpenAPI names it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}
