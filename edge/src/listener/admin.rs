//! The admin listener: metrics, health, the preview and the admin API. Keep it away from the public.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bildkante_shared::problem::Problem;
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;

use super::http::{Body, RequestBody, Respond};
use crate::admin::{self, AdminApi};
use crate::handler::Handler;
use crate::preview::Preview;
use crate::response::{self, Negotiation, TextKind};

const NO_STORE: &str = "no-store";

/// Answers the admin listener.
#[derive(Debug)]
pub struct Admin {
    pub registry: Registry,
    pub handler: Arc<Handler>,
    pub preview: Arc<Preview>,
    pub api: AdminApi,
    /// Set once a node was healthy.
    pub was_ready: AtomicBool,
}

/// `/readyz`: what this edge can do now, and what it cannot.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// Without a healthy node cached and rendered images are still served, and stand-ins for the rest.
    nodes: Vec<NodeReadiness>,
    campaigns: usize,
}

#[derive(Debug, Serialize)]
struct NodeReadiness {
    region: String,
    node: String,
    state: &'static str,
}

impl Respond for Admin {
    async fn respond(&self, request: Request<RequestBody>, _peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        if request.uri().path().starts_with(admin::PREFIX) {
            return self.api.respond(request).await;
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
            "/readyz" => self.readiness(request.headers()),
            "/metrics" => self.metrics(request.headers()),
            "/" => response::redirect("/preview/"),
            _ => match self.preview.respond(&request).await {
                Some(response) => response,
                None => {
                    let detail = "there are /preview/, /metrics, /livez, /readyz and /admin/v1/";
                    let problem = Problem::new(404, "not-found", "Not found", detail);
                    response::error(request.method(), &problem, Negotiation::Explicit)
                }
            },
        };
        tracing::debug!(path, status = response.status().as_u16(), elapsed = ?started.elapsed(), "admin request");
        response
    }
}

impl Admin {
    fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        let mut text = Vec::with_capacity(64 * 1024);
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => response::text(headers, TextKind::Metrics, text, NO_STORE),
            Err(error) => {
                let problem = Problem::new(500, "metrics", "Metrics unavailable", error.to_string());
                response::error(&Method::GET, &problem, Negotiation::Explicit)
            }
        }
    }

    /// 503 with the reasons until a node could draw for the first time. An edge that loses its nodes later stays
    /// ready: it has cached images, renditions of masters at hand and stand-ins to serve, and `nodes` tells.
    fn readiness(&self, headers: &HeaderMap) -> Response<Body> {
        let regions = &self.handler.fill.regions;
        let nodes = regions
            .statuses()
            .into_iter()
            .map(|status| NodeReadiness { region: status.region, node: status.name, state: status.state.as_str() })
            .collect();
        let campaigns = self.handler.catalog.load().campaigns().count();
        if regions.is_healthy() {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        let ready = self.was_ready.load(Ordering::Relaxed) && campaigns > 0;
        let readiness = Readiness { ready, nodes, campaigns };
        let body = serde_json::to_vec(&readiness).unwrap_or_default();
        let mut response = response::text(headers, TextKind::Json, body, NO_STORE);
        if !readiness.ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}
