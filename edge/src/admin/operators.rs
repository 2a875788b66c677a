//! The admin listener: metrics, health, the preview, the login and the admin API. Keep it away from the public.
//!
//! Metrics and health are open, and so is what people are shown by a link, which is its own proof. Pages show what is not published
//! yet: they are for those who have a role, and show each the campaigns in which that is so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bildkante_shared::problem::Problem;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;

use super::login::{LOGIN, LOGOUT};
use super::{AdminApi, PREFIX, pages};
use crate::campaign::CatalogHandle;
use crate::origin::Regions;
use crate::papers::{self, Papers};
use crate::preview::{Preview, Reader};
use crate::response::{self, Negotiation, TextKind};
use crate::service::{Body, RequestBody, Respond};
use crate::shares;

const NO_STORE: &str = "no-store";
/// Of pages that say nothing else.
const PAGE_POLICY: &str = "frame-ancestors 'none'";

/// Answers the admin listener.
#[derive(Debug)]
pub struct Operators {
    pub registry: Registry,
    pub catalog: CatalogHandle,
    pub regions: Arc<Regions>,
    pub preview: Arc<Preview>,
    pub papers: Papers,
    pub api: AdminApi,
    /// Set when this edge is about to stop.
    pub is_leaving: Arc<AtomicBool>,
}

/// `/readyz`: what this edge can do now, and what is missing behind it.
#[derive(Debug, Serialize)]
struct Readiness {
    /// Whether it can answer.
    ready: bool,
    /// It is about to stop, and serves until then.
    leaving: bool,
    campaigns: usize,
    /// Whether pictures that do not exist yet can be drawn. Without that, cached and rendered images are served on, and
    /// stand-ins for the rest.
    origins_ready: bool,
    nodes: Vec<NodeReadiness>,
    /// Where this edge stands in the state that a fleet shares, and how long its primary has been silent.
    state: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct NodeReadiness {
    region: String,
    node: String,
    state: &'static str,
}

impl Respond for Operators {
    type Prepared = Infallible;

    fn refused(&self, request: &Request<()>, problem: &Problem, _peer: SocketAddr) -> Response<Body> {
        response::error(request.method(), problem, Negotiation::Explicit)
    }

    async fn respond(&self, request: Request<RequestBody>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        if request.uri().path().starts_with(PREFIX) {
            return self.api.respond(request, peer.ip()).await;
        }
        if matches!(request.uri().path(), LOGIN | LOGOUT) {
            return self.api.login(request, peer.ip()).await;
        }
        if *request.method() == Method::POST && request.uri().path().starts_with("/preview/") {
            return self.api.form_of_a_page(request, peer.ip(), &self.preview).await;
        }
        if request.uri().path().starts_with(shares::PATH) {
            return self.api.guest(request).await;
        }
        if request.uri().path() == "*" && *request.method() == Method::OPTIONS {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
            return response;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let problem =
                Problem::new(405, "method-not-allowed", "Method not allowed", "this listener takes GET, HEAD");
            let mut response = response::error(request.method(), &problem, Negotiation::Explicit);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let path = request.uri().path();
        let response = match path {
            "/livez" => response::text(request.headers(), TextKind::Plain, "ok\n", NO_STORE),
            "/readyz" => self.readiness(request.headers(), waits_for_origins(request.uri().query())),
            "/metrics" => self.metrics(request.headers()),
            "/" => response::redirect("/preview/"),
            _ => match self.page(&request, peer).await {
                Some(response) => response,
                None => {
                    let detail =
                        "there are /preview/, /papers/dossier, /metrics, /livez, /readyz, /admin/login and /admin/v1/";
                    let problem = Problem::new(404, "not-found", "Not found", detail);
                    pages::troubled(&request, &problem, pages::HOME)
                }
            },
        };
        tracing::debug!(path, status = response.status().as_u16(), elapsed = ?started.elapsed(), "admin request");
        response
    }
}

impl Operators {
    /// A page, for those who may see it.
    async fn page(&self, request: &Request<RequestBody>, peer: SocketAddr) -> Option<Response<Body>> {
        let path = request.uri().path();
        if Preview::is_asset(path) {
            return self.preview.respond(request, &Reader::of_assets()).await;
        }
        if !path.starts_with("/preview") && path != papers::PATH {
            return None;
        }
        let who = match self.api.looks(request, peer.ip()) {
            Ok(who) => who,
            Err(response) => return Some(*response),
        };
        let sees = |campaign: Option<&str>| who.sees(campaign);
        let role = |campaign: &str| who.role_in(campaign);
        let reader = Reader { sees: &sees, role: &role, csrf: who.csrf(), name: who.known_name() };
        let response = match self.preview.respond(request, &reader).await {
            Some(response) => Some(response),
            None => {
                let dossier = self.papers.respond(request, &sees).await;
                dossier.map(|page| page.unwrap_or_else(|problem| pages::troubled(request, &problem, pages::HOME)))
            }
        };
        response.map(unframed)
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        self.regions.measure();
        self.api.measure();
        let mut text = Vec::with_capacity(64 * 1024);
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => response::text(headers, TextKind::Metrics, text, NO_STORE),
            Err(error) => {
                let problem = Problem::new(500, "metrics", "Metrics unavailable", error.to_string());
                response::error(&Method::GET, &problem, Negotiation::Explicit)
            }
        }
    }

    /// 200 while this edge can answer: what it serves is read, and it listens. Nodes that are away do not change that,
    /// for it has cached images, renditions of masters at hand and stand-ins; a load balancer that took it out would
    /// make an outage of the nodes one of the site. Who waits for new pictures asks `?origins=1`, which is 503 without
    /// a node.
    fn readiness(&self, headers: &HeaderMap, with_origins: bool) -> Response<Body> {
        let nodes = self
            .regions
            .statuses()
            .into_iter()
            .map(|status| NodeReadiness { region: status.region, node: status.name, state: status.state.as_str() })
            .collect();
        let (campaigns, origins_ready) = (self.catalog.load().campaigns().count(), self.regions.is_healthy());
        let leaving = self.is_leaving.load(Ordering::Relaxed);
        let readiness = Readiness {
            ready: campaigns > 0 && !leaving,
            leaving,
            campaigns,
            origins_ready,
            nodes,
            state: self.api.standing(),
        };
        let body = serde_json::to_vec(&readiness).unwrap_or_default();
        let mut response = response::text(headers, TextKind::Json, body, NO_STORE);
        if !readiness.ready || (with_origins && !readiness.origins_ready) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

/// A page of ours stands in nobody's frame, where a click could be meant for another page; and no cache between keeps
/// it.
fn unframed(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(PAGE_POLICY));
    if headers.get(CACHE_CONTROL).is_some_and(|value| value == "no-cache") {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    response
}

/// Whether `/readyz` is asked about the nodes too.
fn waits_for_origins(query: Option<&str>) -> bool {
    query.unwrap_or("").split('&').any(|parameter| parameter == "origins=1")
}
