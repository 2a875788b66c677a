//! The admin API: `/admin/v1/…` on the admin listener. `routes` has the table of all it answers; `GET
//! /admin/v1/openapi.json` is made from it.
//!
//! | module | owns |
//! | --- | --- |
//! | `routes` | the table: methods, paths, roles, parameters, schemas |
//! | `gatekeeper` | who asks, and whether that opens a route |
//! | `principal` | what the one who asks may do, campaign by campaign |
//! | `token`, `proxy`, `sessions` | proofs: tokens of the configuration, people whom a proxy names, browsers |
//! | `login` | the page where a key is entered |
//! | `forms` | what the preview's forms send |
//! | `openapi` | the description of all this |
//! | `operators` | the listener: pages, metrics and health beside the API |
//! | `body` | JSON bodies, bounded |
//! | `guests` | what people with a link ask |
//! | `decisions`, `candidates`, `drafts`, `splits`, `shares` | what routes do about pictures |
//! | `kills`, `purges`, `warm`, `imports`, `masters` | the same |
//! | `batches`, `batch_forms` | the same, for batches |
//! | `keys`, `webhooks`, `audit`, `state` | what routes do about people, edges and other systems |
//! | `dropped`, `uploads` | a file dropped on a page: what it carries, and its acceptance |
//!
//! Invariants: nothing is changed without a key or a token; what reaches into a campaign takes the role there; every
//! body is bounded; it is JSON, except that an import's body is the picture's file and its fields stand in the query;
//! an unknown field is an error; every change writes one line through `governance::audit`; errors are
//! `application/problem+json` (RFC 9457) that name the field.

mod audit;
mod batch_forms;
mod batches;
mod body;
mod bulk;
mod candidates;
mod decisions;
mod denied;
mod drafts;
mod dropped;
mod forms;
mod gatekeeper;
mod guests;
mod imports;
mod keys;
mod kills;
mod login;
mod masters;
mod openapi;
pub mod operators;
mod pages;
mod principal;
pub mod proxy;
mod purges;
mod routes;
pub mod sessions;
mod shares;
mod splits;
mod state;
pub mod token;
mod undo;
mod uploads;
mod warm;
mod webhooks;

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bildkante_shared::problem::Problem;
use http::header::{ALLOW, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body as HttpBody;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use self::body::{Fault, Fields, fault, wrong};
pub(crate) use self::gatekeeper::Asked;
use self::gatekeeper::{Gatekeeper, Part};
pub use self::gatekeeper::{Grounds, Transport};
pub use self::imports::ImportDesk;
pub(crate) use self::principal::Principal;
use self::routes::{Action, Found, Repeats, Route};
use self::token::AdminConfig;
use crate::batch::{Ask, BatchDesk};
use crate::budget::BudgetConfig;
use crate::cache::{Caches, unix_ms};
use crate::campaign::CatalogHandle;
use crate::candidates::CandidateDesk;
use crate::drafts::DraftDesk;
use crate::fill::Fill;
use crate::governance::{KillDesk, PurgeDesk, ReviewDesk, SplitDesk};
use crate::origin::Regions;
use crate::papers::{self, Papers};
use crate::preview::Preview;
use crate::response::{self, Negotiation, TextKind};
use crate::service::Body;
use crate::shared_state::KEY_BYTES_MAX;
use crate::shares::ShareDesk;
use crate::verify::KnownMasters;
use crate::warm::{WarmConfig, Warmer};
use crate::webhooks::Webhooks;

/// Where the API is.
pub const PREFIX: &str = "/admin/v1/";
/// By which a repeated order is known (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Answers `/admin/v1/…`. Clones share one state.
#[derive(Debug, Clone)]
pub struct AdminApi {
    gatekeeper: Arc<Gatekeeper>,
    catalog: CatalogHandle,
    regions: Arc<Regions>,
    caches: Arc<Caches>,
    desk: Arc<PurgeDesk>,
    kills: KillDesk,
    reviews: ReviewDesk,
    candidates: CandidateDesk,
    drafts: DraftDesk,
    splits: SplitDesk,
    shares: ShareDesk,
    preview: Arc<Preview>,
    webhooks: Webhooks,
    fill: Arc<Fill>,
    warmer: Warmer,
    batches: BatchDesk,
    /// Orders of batches that are understood at a time.
    selecting: Arc<Semaphore>,
    imports: Arc<ImportDesk>,
    papers: Papers,
    masters: Arc<KnownMasters>,
    /// Of a warming that does not say.
    concurrency: usize,
    started: Instant,
}

/// What the API shows and acts on.
#[derive(Debug)]
pub struct AdminParts {
    pub catalog: CatalogHandle,
    pub regions: Arc<Regions>,
    pub caches: Arc<Caches>,
    pub desk: Arc<PurgeDesk>,
    pub kills: KillDesk,
    pub reviews: ReviewDesk,
    pub candidates: CandidateDesk,
    pub drafts: DraftDesk,
    pub splits: SplitDesk,
    pub shares: ShareDesk,
    pub preview: Arc<Preview>,
    pub webhooks: Webhooks,
    pub fill: Arc<Fill>,
    pub warmer: Warmer,
    pub batches: BatchDesk,
    pub imports: ImportDesk,
    pub papers: Papers,
    pub masters: Arc<KnownMasters>,
}

/// A request whose route is known and open.
struct Call<'r> {
    route: &'static Route,
    /// What the path has in the place of the route's parameter.
    parameter: &'r str,
    query: Option<&'r str>,
    headers: &'r HeaderMap,
    who: &'r Principal,
    /// By which a repeated order is known.
    key: Option<String>,
}

/// An answer before it has headers.
struct Reply {
    status: u16,
    body: Value,
    location: Option<String>,
}

impl Reply {
    const fn ok(body: Value) -> Self {
        Self { status: 200, body, location: None }
    }

    const fn accepted(body: Value) -> Self {
        Self { status: 202, body, location: None }
    }
}

impl AdminApi {
    #[must_use]
    pub fn new(
        config: &AdminConfig,
        (warm, budget): (&WarmConfig, &BudgetConfig),
        grounds: Grounds,
        parts: AdminParts,
    ) -> Self {
        let AdminParts {
            catalog,
            regions,
            caches,
            desk,
            kills,
            reviews,
            candidates,
            drafts,
            splits,
            shares,
            preview,
            webhooks,
            fill,
            warmer,
            batches,
            imports,
            papers,
            masters,
        } = parts;
        Self {
            warmer,
            batches,
            selecting: Arc::new(Semaphore::new(batches::ORDERS_AT_ONCE)),
            concurrency: warm.concurrency,
            gatekeeper: Arc::new(Gatekeeper::new(config, budget, grounds)),
            catalog,
            regions,
            caches,
            desk,
            kills,
            reviews,
            candidates,
            drafts,
            splits,
            shares,
            preview,
            webhooks,
            fill,
            imports: Arc::new(imports),
            papers,
            masters,
            started: Instant::now(),
        }
    }

    /// Takes over tokens, the proxy, lifetimes of sessions and the bound of bodies.
    pub fn reconfigure(&self, config: &AdminConfig) {
        self.gatekeeper.replace(config);
    }

    /// Where this edge stands in the shared state.
    pub(super) fn standing(&self) -> Value {
        audit::standing(self.kills.log())
    }

    /// Brings gauges of what is in force up to date.
    pub(super) fn measure(&self) {
        self.kills.measure();
        self.reviews.measure();
        self.shares.measure();
    }

    /// The answer to a request for a path below [`PREFIX`].
    pub async fn respond<B>(&self, request: Request<B>, peer: IpAddr) -> Response<Body>
    where
        B: HttpBody + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let (method, headers, query) = (head.method(), head.headers(), head.uri().query());
        let (route, parameter) = match routes::find(method, head.uri().path()) {
            Found::Route(route, parameter) => (route, parameter),
            Found::NotAllowed(allowed) => return not_allowed(method, &allowed),
            Found::Nothing => {
                let detail = "there is no such resource: GET /admin/v1/openapi.json lists them";
                return problem(method, &fault(404, "not-found", "Not found", detail));
            }
        };
        let who = match self.gatekeeper.admit(&Asked::of(&head, peer), route.needs, Part::Api) {
            Ok(who) => who,
            Err(denial) => return denied::response(method, &denial),
        };
        let answer = async {
            routes::check_query(route, query)?;
            let key = if route.repeats == Repeats::ByKey { idempotency_key(headers)? } else { None };
            let call = Call { route, parameter, query, headers, who: &who, key };
            match call.route.action {
                Action::Dossier => self.dossier(&call).await,
                Action::BatchResults => batches::results(self, &who, parameter, (headers, query)).await,
                Action::FollowBatch => batches::events(self, &who, parameter, (headers, query)).await,
                Action::ShowPicture => decisions::picture(self, &who, parameter, query).await,
                Action::ShowDraftPicture => drafts::picture(self, &who, parameter, query).await,
                Action::ShowDraftPatch => drafts::patch(self, &who, parameter, query),
                _ => self.carry_out(call, body).await.map(|reply| reply.into_response(headers)),
            }
        };
        answer.await.unwrap_or_else(|fault: Fault| problem(method, &fault))
    }

    async fn carry_out<B>(&self, call: Call<'_>, body: B) -> Result<Reply, Fault>
    where
        B: HttpBody + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Call { parameter, query, headers, who, .. } = call;
        let (log, key) = (self.kills.log(), call.key);
        match call.route.action {
            // All but the first have answers of their own.
            Action::Status
            | Action::Dossier
            | Action::ShowPicture
            | Action::ShowDraftPicture
            | Action::ShowDraftPatch
            | Action::BatchResults
            | Action::FollowBatch => Ok(Reply::ok(self.status(who))),
            Action::Me => Ok(Reply::ok(keys::me(who))),
            Action::OpenApi => Ok(Reply::ok(openapi::document().clone())),
            Action::ListPurges => Ok(Reply::ok(purges::list(&self.desk, who))),
            Action::Purge => purges::purge(self, who, key, self.fields(headers, body).await?).await,
            Action::ShowPurge => purges::one(&self.desk, who, parameter).map(Reply::ok),
            Action::ListKills => kills::list(self, who, query).map(Reply::ok),
            Action::Kill => kills::kill(self, who, kills::order(key, self.fields(headers, body).await?)?).await,
            Action::ShowKill => kills::one(self, who, parameter).await.map(Reply::ok),
            Action::Lift => {
                let why = keys::why(self.fields(headers, body).await?)?;
                kills::lift(self, who, parameter, (why, key)).await
            }
            Action::ListDecisions => decisions::list(self, who, query).map(Reply::ok),
            Action::ShowDecision => decisions::one(self, who, parameter).map(Reply::ok),
            Action::Decide => {
                let order = decisions::order(key, parameter, self.fields(headers, body).await?)?;
                decisions::rule(self, who, order).await
            }
            Action::Report => {
                let order = decisions::finding(key, parameter, self.fields(headers, body).await?)?;
                decisions::report(self, who, order).await
            }
            Action::ListCandidates => candidates::list(self, who, query).map(Reply::ok),
            Action::DrawCandidates => {
                candidates::begin(self, who, key, candidates::order(self.fields(headers, body).await?)?)
            }
            Action::ListDrafts => drafts::list(self, who, query).await.map(Reply::ok),
            Action::Draft => drafts::draw(self, who, drafts::order(self.fields(headers, body).await?)?).await,
            Action::ShowDraft => drafts::one(self, who, parameter).map(Reply::ok),
            Action::EndDraft => drafts::end(self, who, parameter).map(Reply::ok),
            Action::ListSplits => Ok(Reply::ok(splits::list(self, who))),
            Action::Split => splits::decide(self, who, (splits::order(self.fields(headers, body).await?)?, key)).await,
            Action::ListShares => shares::list(self, who, query).map(Reply::ok),
            Action::MakeShare => shares::post(self, who, shares::order(self.fields(headers, body).await?)?, key).await,
            Action::ShowShare => shares::one(self, who, parameter).map(Reply::ok),
            Action::EndShare => {
                let why = keys::why(self.fields(headers, body).await?)?;
                shares::end(self, who, parameter, (why, key)).await.map(Reply::ok)
            }
            Action::ResolveComment => {
                let as_what = shares::resolution(self.fields(headers, body).await?)?;
                shares::resolve(self, who, parameter, as_what).await.map(Reply::ok)
            }
            Action::DeleteComment => shares::remove(self, who, parameter).await.map(Reply::ok),
            Action::ReadAudit => audit::page(log, query).await.map(Reply::ok),
            Action::ForgetName => {
                let why = keys::why(self.fields(headers, body).await?)?;
                audit::forget(log, who.name(), parameter, (why, key)).await.map(Reply::ok)
            }
            Action::ShowState => Ok(Reply::ok(audit::standing(log))),
            Action::Changes => state::changes(log, query).await.map(Reply::ok),
            Action::Snapshot => state::snapshot(log).await.map(Reply::ok),
            Action::Propose => state::propose(log, headers, body).await.map(Reply::ok),
            Action::Promote => state::promote(log, key).await.map(Reply::ok),
            Action::ListWebhooks => Ok(Reply::ok(self.webhooks.list())),
            Action::DeadLetters => webhooks::dead_letters(&self.webhooks, query).map(Reply::ok),
            Action::ReplayWebhook => {
                let why = keys::why(self.fields(headers, body).await?)?;
                webhooks::replay(&self.webhooks, who, parameter, &why).await.map(Reply::ok)
            }
            Action::TestWebhook => webhooks::test(&self.webhooks, who, parameter).await.map(Reply::ok),
            Action::ListJobs => Ok(Reply::ok(warm::list(&self.warmer, who))),
            Action::Warm => {
                let ask = warm::ask(self.fields(headers, body).await?, self.concurrency)?;
                let job = warm::carry_out(&self.warmer, who, ask, key).await?;
                let location = Some(format!("{PREFIX}warm/{}", job.record.id));
                Ok(Reply { location, ..Reply::accepted(warm::shown(&job)) })
            }
            Action::ShowJob => warm::one(&self.warmer, who, parameter).map(Reply::ok),
            Action::CancelJob => {
                warm::cancel(&self.warmer, who, parameter).await.map(|job| Reply::accepted(warm::shown(&job)))
            }
            Action::ListBatches => Ok(Reply::ok(batches::list(self, who))),
            Action::StartBatch => batches::begin(self, (who, key), (headers, query), body).await,
            Action::ShowBatch => batches::one(self, who, parameter).map(Reply::ok),
            Action::CancelBatch => batches::ask(self, who, parameter, (Ask::Cancel, key)).await,
            Action::PauseBatch => batches::ask(self, who, parameter, (Ask::Pause, key)).await,
            Action::ResumeBatch => batches::ask(self, who, parameter, (Ask::Resume, key)).await,
            Action::RetryBatch => batches::ask(self, who, parameter, (Ask::Retry, key)).await,
            Action::ListImports => self.imports.list(who).await.map(Reply::ok),
            Action::Import => {
                let (body, is_new) = self.imports.add((who, key), query, body).await?;
                Ok(Reply { status: if is_new { 201 } else { 200 }, body, location: Some(format!("{PREFIX}imports")) })
            }
            Action::DropImport => {
                self.imports.remove(who, parameter).await?.map(Reply::ok).ok_or_else(|| no_such("candidate", parameter))
            }
            Action::Masters => masters::search(Arc::clone(&self.masters), query).await.map(Reply::ok),
            Action::ListKeys => keys::list(log, query).map(Reply::ok),
            Action::AddKey => {
                let order = keys::order(self.fields(headers, body).await?, unix_ms(SystemTime::now()))?;
                keys::add(log, who, order, key).await
            }
            Action::ShowKey => keys::one(log, parameter).map(Reply::ok),
            Action::RevokeKey => {
                let why = keys::why(self.fields(headers, body).await?)?;
                keys::revoke(log, who, parameter, why, key).await.map(Reply::ok)
            }
        }
    }

    async fn fields<B>(&self, headers: &HeaderMap, body: B) -> Result<Fields, Fault>
    where
        B: HttpBody,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let bytes_max = self.gatekeeper.config().body_bytes_max;
        Fields::read(headers, body, bytes_max).await
    }

    /// As JSON, or as a page with `as=html`.
    async fn dossier(&self, call: &Call<'_>) -> Result<Response<Body>, Fault> {
        let Call { query, headers, who, .. } = *call;
        let dossier = self.papers.asked_dossier(query).await?;
        let dossier = dossier.shown_to(|campaign| who.sees(campaign)).ok_or_else(denied::foreign_picture)?;
        if query.is_some_and(|query| query.split('&').any(|pair| pair == "as=html")) {
            return Ok(papers::page(headers, papers::dossier_html(&dossier)));
        }
        let body = serde_json::to_value(&dossier);
        let body = body.map_err(|error| fault(500, "internal", "Internal error", error.to_string()))?;
        Ok(Reply::ok(body).into_response(headers))
    }

    fn status(&self, who: &Principal) -> Value {
        let nodes = self.regions.statuses();
        let nodes: Vec<Value> =
            nodes.into_iter().map(|node| json!({ "node": node.name, "state": node.state.as_str() })).collect();
        let catalog = self.catalog.load();
        let names = catalog.campaigns().map(|campaign| campaign.name.as_str());
        let campaigns: Vec<&str> = names.filter(|name| who.sees(Some(name))).collect();
        let purges = &self.desk.purges;
        let downstream = self.desk.downstream.kinds().into_iter().map(|(name, kind)| {
            let waiting = purges.unconfirmed(&name);
            json!({ "name": name, "kind": kind, "unconfirmed": waiting })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "catalog": { "digest": catalog.digest(), "campaigns": campaigns },
            "nodes": nodes,
            "disk": {
                "bytes": self.caches.disk.bytes(),
                "files": self.caches.disk.files(),
                "indexed": self.caches.disk.is_indexed(),
                "accepts_writes": self.caches.disk.accepts_writes(),
            },
            "bindings": self.caches.bindings.len(),
            "purge": {
                "generation": purges.generation(),
                "marks": purges.marks(),
                "downstream": downstream.collect::<Vec<_>>(),
            },
        })
    }
}

/// The key of an order, where it has one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let Some(field) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = field.to_str().unwrap_or_default().trim().trim_matches('"');
    let is_sound = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let detail = || format!("it has 1 to {KEY_BYTES_MAX} visible ASCII characters");
    if is_sound { Ok(Some(key.to_owned())) } else { Err(wrong("Idempotency-Key", detail(), &[])) }
}

fn no_such(what: &str, id: &str) -> Fault {
    let shown: String = id.chars().take(40).collect();
    fault(404, "not-found", "Not found", format!("there is no {what} `{shown}`"))
}

fn not_allowed(method: &Method, allowed: &str) -> Response<Body> {
    let detail = format!("this resource takes {allowed}");
    let mut response = problem(method, &fault(405, "method-not-allowed", "Method not allowed", detail));
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// `campaign/slot?…`, with or without what stands before it in a URL.
fn campaign_of(variant: &str) -> Option<&str> {
    let name = variant.trim_start_matches('/');
    let name = name.strip_prefix("i/").unwrap_or(name);
    name.split(['/', '?']).next().filter(|campaign| !campaign.is_empty())
}

impl Reply {
    fn into_response(self, request: &HeaderMap) -> Response<Body> {
        let body = serde_json::to_vec(&self.body).unwrap_or_default();
        let mut response = response::text(request, TextKind::Json, body, "no-store");
        if response.status() == StatusCode::OK {
            *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        }
        if let Some(location) = self.location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}

fn problem(method: &Method, problem: &Problem) -> Response<Body> {
    let mut response = response::error(method, problem, Negotiation::Explicit);
    // Unlike an image that is not there, a purge that is not there may be in a moment.
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
