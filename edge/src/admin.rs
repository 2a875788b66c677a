//! The admin API: `/admin/v1/…` on the admin listener.
//!
//! | resource | methods | scope |
//! | --- | --- | --- |
//! | `/admin/v1/status` | GET | read |
//! | `/admin/v1/purges` | GET, POST | read, purge |
//! | `/admin/v1/purges/{id}` | GET | read |
//! | `/admin/v1/kills` | GET, POST | read, kill |
//! | `/admin/v1/kills/{seq}` | GET, DELETE | read, kill |
//! | `/admin/v1/decisions` | GET | read |
//! | `/admin/v1/decisions/{id}` | GET, POST | read, review |
//! | `/admin/v1/decisions/{id}/picture` | GET | review |
//! | `/admin/v1/audit` | GET | audit |
//! | `/admin/v1/audit/names/{name}` | DELETE | kill |
//! | `/admin/v1/state` | GET | read |
//! | `/admin/v1/state/changes`, `/admin/v1/state/snapshot` | GET | state |
//! | `/admin/v1/state/proposals` | POST | state |
//! | `/admin/v1/state/promote` | POST | kill |
//! | `/admin/v1/warm` | GET, POST | read, warm |
//! | `/admin/v1/warm/{id}` | GET, DELETE | read, warm |
//! | `/admin/v1/imports` | GET, POST | read, import |
//! | `/admin/v1/imports/{id}` | DELETE | import |
//! | `/admin/v1/dossier?of=…` | GET | read |
//! | `/admin/v1/masters?phash=…` or `?mark=…` | GET | read |
//!
//! Invariants: nothing is changed without a token of the right scope; every body is bounded; it is JSON, except that an
//! import's body is the picture's file and its fields stand in the query; an unknown field is an error; every change
//! writes one line through `governance::audit`; errors are `application/problem+json` (RFC 9457) that name the field.

mod audit;
mod body;
mod decisions;
mod imports;
mod kills;
mod masters;
pub mod operators;
mod purges;
mod state;
pub mod token;
mod warm;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bildkante_shared::problem::Problem;
use http::header::{ALLOW, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body as HttpBody;
use serde_json::{Value, json};

use self::body::{Fault, Fields, fault};
pub use self::imports::ImportDesk;
use self::token::{AdminConfig, Denial, Gatekeeper, TokenScope};
use crate::cache::Caches;
use crate::campaign::CatalogHandle;
use crate::fill::Fill;
use crate::governance::{KillDesk, PurgeDesk, ReviewDesk};
use crate::origin::Regions;
use crate::papers::{self, Papers};
use crate::response::{self, Negotiation, TextKind};
use crate::service::Body;
use crate::verify::KnownMasters;
use crate::warm::{WarmConfig, Warmer};

/// Where the API is.
pub const PREFIX: &str = "/admin/v1/";
/// Longest path.
const PATH_BYTES_MAX: usize = 256;

/// Answers `/admin/v1/…`. Clones share one state.
#[derive(Debug, Clone)]
pub struct AdminApi {
    gatekeeper: Arc<Gatekeeper>,
    body_bytes_max: Arc<AtomicUsize>,
    catalog: CatalogHandle,
    regions: Arc<Regions>,
    caches: Arc<Caches>,
    desk: Arc<PurgeDesk>,
    kills: KillDesk,
    reviews: ReviewDesk,
    fill: Arc<Fill>,
    warmer: Warmer,
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
    pub fill: Arc<Fill>,
    pub warmer: Warmer,
    pub imports: ImportDesk,
    pub papers: Papers,
    pub masters: Arc<KnownMasters>,
}

/// A resource, with what its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource<'a> {
    Status,
    Purges,
    Purge(&'a str),
    Kills,
    Kill(&'a str),
    Decisions,
    Decision(&'a str),
    DecisionPicture(&'a str),
    Audit,
    Name(&'a str),
    State,
    Changes,
    Snapshot,
    Proposals,
    Promote,
    Jobs,
    Job(&'a str),
    Imports,
    Import(&'a str),
    Dossier,
    Masters,
}

impl<'a> Resource<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(PREFIX)?;
        match rest.split_once('/') {
            None => match rest {
                "status" => Some(Self::Status),
                "purges" => Some(Self::Purges),
                "kills" => Some(Self::Kills),
                "decisions" => Some(Self::Decisions),
                "audit" => Some(Self::Audit),
                "state" => Some(Self::State),
                "warm" => Some(Self::Jobs),
                "imports" => Some(Self::Imports),
                "dossier" => Some(Self::Dossier),
                "masters" => Some(Self::Masters),
                _ => None,
            },
            Some(("purges", id)) if !id.is_empty() => Some(Self::Purge(id)),
            Some(("kills", seq)) if !seq.is_empty() => Some(Self::Kill(seq)),
            Some(("decisions", rest)) => match rest.split_once('/') {
                None if !rest.is_empty() => Some(Self::Decision(rest)),
                Some((id, "picture")) => Some(Self::DecisionPicture(id)),
                _ => None,
            },
            Some(("audit", rest)) => rest.strip_prefix("names/").filter(|name| !name.is_empty()).map(Self::Name),
            Some(("state", "changes")) => Some(Self::Changes),
            Some(("state", "snapshot")) => Some(Self::Snapshot),
            Some(("state", "proposals")) => Some(Self::Proposals),
            Some(("state", "promote")) => Some(Self::Promote),
            Some(("warm", id)) if !id.is_empty() => Some(Self::Job(id)),
            Some(("imports", id)) if !id.is_empty() => Some(Self::Import(id)),
            Some(_) => None,
        }
    }

    const fn allowed(self) -> &'static str {
        match self {
            Self::Status
            | Self::Purge(_)
            | Self::Dossier
            | Self::Masters
            | Self::Audit
            | Self::Decisions
            | Self::DecisionPicture(_)
            | Self::State
            | Self::Changes
            | Self::Snapshot => "GET, HEAD",
            Self::Proposals | Self::Promote => "POST",
            Self::Purges | Self::Jobs | Self::Imports | Self::Kills | Self::Decision(_) => "GET, HEAD, POST",
            Self::Job(_) | Self::Kill(_) => "GET, HEAD, DELETE",
            Self::Import(_) | Self::Name(_) => "DELETE",
        }
    }

    /// `None` where the method is not allowed.
    fn scope(self, method: &Method) -> Option<TokenScope> {
        match (self, method) {
            (Self::Import(_) | Self::Name(_) | Self::Proposals | Self::Promote, &Method::GET | &Method::HEAD) => None,
            (Self::Changes | Self::Snapshot, &Method::GET | &Method::HEAD) | (Self::Proposals, &Method::POST) => {
                Some(TokenScope::State)
            }
            (Self::Promote, &Method::POST) => Some(TokenScope::Kill),
            (Self::DecisionPicture(_), &Method::GET | &Method::HEAD) | (Self::Decision(_), &Method::POST) => {
                Some(TokenScope::Review)
            }
            (Self::Audit, &Method::GET | &Method::HEAD) => Some(TokenScope::Audit),
            (_, &Method::GET | &Method::HEAD) => Some(TokenScope::Read),
            (Self::Purges, &Method::POST) => Some(TokenScope::Purge),
            (Self::Kills, &Method::POST) | (Self::Kill(_) | Self::Name(_), &Method::DELETE) => Some(TokenScope::Kill),
            (Self::Jobs, &Method::POST) | (Self::Job(_), &Method::DELETE) => Some(TokenScope::Warm),
            (Self::Imports, &Method::POST) | (Self::Import(_), &Method::DELETE) => Some(TokenScope::Import),
            _ => None,
        }
    }
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
}

impl AdminApi {
    #[must_use]
    pub fn new(config: &AdminConfig, warm: &WarmConfig, parts: AdminParts) -> Self {
        let AdminParts { catalog, regions, caches, desk, kills, reviews, fill, warmer, imports, papers, masters } =
            parts;
        Self {
            warmer,
            concurrency: warm.concurrency,
            gatekeeper: Arc::new(Gatekeeper::new(config)),
            body_bytes_max: Arc::new(AtomicUsize::new(config.body_bytes_max)),
            catalog,
            regions,
            caches,
            desk,
            kills,
            reviews,
            fill,
            imports: Arc::new(imports),
            papers,
            masters,
            started: Instant::now(),
        }
    }

    /// Takes over tokens and the bound of bodies.
    pub fn reconfigure(&self, config: &AdminConfig) {
        self.body_bytes_max.store(config.body_bytes_max, Ordering::Relaxed);
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
    }

    /// The answer to a request for a path below [`PREFIX`].
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let (method, headers, path) = (&parts.method, &parts.headers, parts.uri.path());
        let resource = if path.len() <= PATH_BYTES_MAX { Resource::parse(path) } else { None };
        let Some(resource) = resource else {
            let detail = "there are /admin/v1/status, /admin/v1/purges, /admin/v1/kills, /admin/v1/decisions, /admin/v1/audit, /admin/v1/state, \
                          /admin/v1/warm, /admin/v1/imports, /admin/v1/dossier and /admin/v1/masters";
            return problem(method, &fault(404, "not-found", "Not found", detail));
        };
        let Some(scope) = resource.scope(method) else {
            let allowed = resource.allowed();
            let detail = format!("this resource takes {allowed}");
            let mut response = problem(method, &fault(405, "method-not-allowed", "Method not allowed", detail));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return response;
        };
        let who = match self.gatekeeper.admit(headers, scope) {
            Ok(who) => who,
            Err(denial) => return denied(method, denial),
        };
        if let Resource::DecisionPicture(id) = resource {
            return match decisions::picture(self, id, parts.uri.query()).await {
                Ok(response) => response,
                Err(fault) => problem(method, &fault),
            };
        }
        if resource == Resource::Dossier {
            return self.dossier(method, headers, parts.uri.query()).await;
        }
        match self.carry_out((resource, parts.uri.query()), method, headers, body, &who).await {
            Ok(reply) => reply.into_response(headers),
            Err(fault) => problem(method, &fault),
        }
    }

    async fn carry_out<B>(
        &self,
        (resource, query): (Resource<'_>, Option<&str>),
        method: &Method,
        headers: &HeaderMap,
        body: B,
        who: &str,
    ) -> Result<Reply, Fault>
    where
        B: HttpBody + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        match (resource, method) {
            (Resource::Purges, &Method::POST) => {
                let order = purges::order(Fields::read(headers, body, self.body_bytes_max()).await?)?;
                let record = purges::purge(&self.desk, who, order).await?;
                let location = Some(format!("{PREFIX}purges/{}", record.id));
                Ok(Reply { status: purges::status(&record), body: purges::shown(&self.desk, &record), location })
            }
            (Resource::Proposals, _) => state::propose(self.kills.log(), headers, body).await.map(Reply::ok),
            (Resource::Changes, _) => state::changes(self.kills.log(), query).await.map(Reply::ok),
            (Resource::Snapshot, _) => state::snapshot(self.kills.log()).await.map(Reply::ok),
            (Resource::Promote, _) => state::promote(self.kills.log()).await.map(Reply::ok),
            (Resource::Kills, &Method::POST) => {
                let order = kills::order(headers, Fields::read(headers, body, self.body_bytes_max()).await?)?;
                kills::kill(self, who, order).await
            }
            (Resource::Kill(seq), &Method::DELETE) => {
                let lift = kills::lift_order(headers, Fields::read(headers, body, self.body_bytes_max()).await?)?;
                kills::lift(self, who, seq, lift).await
            }
            (Resource::Name(name), &Method::DELETE) => {
                let why = audit::why(Fields::read(headers, body, self.body_bytes_max()).await?)?;
                audit::forget(self.kills.log(), who, name, why).await.map(Reply::ok)
            }
            (Resource::Decision(id), &Method::POST) => {
                let order = decisions::order(headers, id, Fields::read(headers, body, self.body_bytes_max()).await?)?;
                decisions::rule(self, who, order).await
            }
            (Resource::Decisions, _) => decisions::list(self, query).map(Reply::ok),
            (Resource::Decision(id) | Resource::DecisionPicture(id), _) => decisions::one(self, id).map(Reply::ok),
            (Resource::Kills, _) => kills::list(self, query).map(Reply::ok),
            (Resource::Kill(seq), _) => kills::one(self, seq).await.map(Reply::ok),
            (Resource::Audit, _) => audit::page(self.kills.log(), query).await.map(Reply::ok),
            (Resource::State | Resource::Name(_), _) => Ok(Reply::ok(audit::standing(self.kills.log()))),
            (Resource::Jobs, &Method::POST) => {
                let ask = warm::ask(Fields::read(headers, body, self.body_bytes_max()).await?, self.concurrency)?;
                let job = warm::carry_out(&self.warmer, who, ask).await?;
                let location = Some(format!("{PREFIX}warm/{}", job.record.id));
                Ok(Reply { status: 202, body: warm::shown(&job), location })
            }
            (Resource::Job(id), &Method::DELETE) => {
                let job = warm::cancel(&self.warmer, who, id).await?;
                Ok(Reply { status: 202, body: warm::shown(&job), location: None })
            }
            (Resource::Imports, &Method::POST) => {
                let body = self.imports.add(who, query, body).await?;
                Ok(Reply { status: 201, body, location: Some(format!("{PREFIX}imports")) })
            }
            (Resource::Masters, _) => masters::search(Arc::clone(&self.masters), query).await.map(Reply::ok),
            (Resource::Imports, _) => self.imports.list().await.map(Reply::ok),
            (Resource::Import(id), _) => {
                self.imports.remove(who, id).await?.map(Reply::ok).ok_or_else(|| no_such("candidate", id))
            }
            (Resource::Jobs, _) => Ok(Reply::ok(warm::list(&self.warmer))),
            (Resource::Job(id), _) => {
                let job = id.parse().ok().and_then(|id| self.warmer.job(id));
                job.map(|job| Reply::ok(warm::shown(&job))).ok_or_else(|| no_such("job", id))
            }
            (Resource::Status | Resource::Dossier, _) => Ok(Reply::ok(self.status())),
            (Resource::Purges, _) => Ok(Reply::ok(purges::list(&self.desk))),
            (Resource::Purge(id), _) => {
                let record = id.parse().ok().and_then(|id| self.desk.purges.record(id));
                record.map(|record| Reply::ok(purges::shown(&self.desk, &record))).ok_or_else(|| no_such("purge", id))
            }
        }
    }

    /// As JSON, or as a page with `as=html`.
    async fn dossier(&self, method: &Method, headers: &HeaderMap, query: Option<&str>) -> Response<Body> {
        match self.papers.asked_dossier(query).await {
            Err(fault) => problem(method, &fault),
            Ok(dossier) if query.is_some_and(|query| query.split('&').any(|pair| pair == "as=html")) => {
                papers::page(headers, papers::dossier_html(&dossier))
            }
            Ok(dossier) => match serde_json::to_value(&dossier) {
                Ok(body) => Reply::ok(body).into_response(headers),
                Err(error) => problem(method, &fault(500, "internal", "Internal error", error.to_string())),
            },
        }
    }

    fn body_bytes_max(&self) -> usize {
        self.body_bytes_max.load(Ordering::Relaxed)
    }

    fn status(&self) -> Value {
        let nodes = self.regions.statuses();
        let nodes: Vec<Value> =
            nodes.into_iter().map(|node| json!({ "node": node.name, "state": node.state.as_str() })).collect();
        let catalog = self.catalog.load();
        let campaigns: Vec<&str> = catalog.campaigns().map(|campaign| campaign.name.as_str()).collect();
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

fn no_such(what: &str, id: &str) -> Fault {
    let shown: String = id.chars().take(40).collect();
    fault(404, "not-found", "Not found", format!("there is no {what} `{shown}`"))
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

/// RFC 6750 §3.
fn denied(method: &Method, denial: Denial) -> Response<Body> {
    let (status, title, detail, challenge) = match denial {
        Denial::NotConfigured => {
            let detail = "no token is configured: `bildkante-edge token` prints one, its hash belongs into \
                          `[admin] tokens` of the edge's configuration";
            (403, "Forbidden", detail.to_owned(), None)
        }
        Denial::NoToken => {
            let detail = "send `Authorization: Bearer` with a token".to_owned();
            (401, "Unauthorized", detail, Some("Bearer realm=\"bildkante\"".to_owned()))
        }
        Denial::UnknownToken => {
            let challenge = "Bearer realm=\"bildkante\", error=\"invalid_token\"".to_owned();
            (401, "Unauthorized", "this token is not known".to_owned(), Some(challenge))
        }
        Denial::MissingScope(scope) => {
            let scope = scope.as_str();
            let challenge = format!("Bearer realm=\"bildkante\", error=\"insufficient_scope\", scope=\"{scope}\"");
            (403, "Forbidden", format!("this token lacks the scope `{scope}`"), Some(challenge))
        }
    };
    let kind = if status == 401 { "unauthorized" } else { "forbidden" };
    let mut response = problem(method, &fault(status, kind, title, detail));
    if let Some(challenge) = challenge.and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
