//! One request on its way through the edge: who asks, what joins its lines, and what is told when it is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bildkante_shared::trace::{REQUEST_ID, TRACEPARENT, TRACESTATE, TraceContext};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Body as _;

use super::AccessLog;
use super::line::Line;
use crate::campaign::{Campaign, Slot};
use crate::front::Ready;
use crate::listener::forwarded::Trusted;
use crate::metrics::{ABANDONED, ResponseMetrics};
use crate::resolve::Resolved;
use crate::response::SERVER_TIMING;
use crate::service::{Body, PlainHead, PlainMethod};
use crate::words::Outcome;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);

/// What the request path tells of an image it answered; travels in the response's extensions.
#[derive(Debug, Clone)]
pub struct Answered {
    outcome: Outcome,
    campaign: Arc<Campaign>,
    slot: Arc<Slot>,
}

impl Answered {
    #[must_use]
    pub fn of(outcome: Outcome, resolved: &Resolved) -> Self {
        Self { outcome, campaign: Arc::clone(&resolved.campaign), slot: Arc::clone(&resolved.slot) }
    }
}

/// What every answer is told to.
#[derive(Debug)]
pub struct Observer {
    pub log: AccessLog,
    pub responses: ResponseMetrics,
}

/// What joins the lines of a request, made when it is first asked for: a hit never does.
#[derive(Debug)]
pub struct LazyTrace<'a> {
    fields: &'a HeaderMap,
    /// Whether the peer is a proxy whose request ids are taken over.
    is_trusted: bool,
    made: OnceLock<Arc<TraceContext>>,
}

impl<'a> LazyTrace<'a> {
    #[must_use]
    pub const fn new(fields: &'a HeaderMap, is_trusted: bool) -> Self {
        Self { fields, is_trusted, made: OnceLock::new() }
    }

    /// A request id is taken from trusted proxies only: elsewhere a client would choose what an operator searches for.
    pub fn get(&self) -> &Arc<TraceContext> {
        self.made.get_or_init(|| {
            let request = self.is_trusted.then(|| single(self.fields, REQUEST_ID)).flatten();
            let (parent, state) = (single(self.fields, TRACEPARENT), list(self.fields, TRACESTATE));
            Arc::new(TraceContext::from_fields(request, parent, state.as_deref()))
        })
    }
}

/// A field that makes sense once only.
fn single<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = fields.get_all(name).iter();
    let line = lines.next()?;
    lines.next().is_none().then(|| line.to_str().ok()).flatten()
}

/// Several lines of a list are one, in their order (Trace Context §3.3).
fn list(fields: &HeaderMap, name: &str) -> Option<String> {
    let lines: Option<Vec<&str>> = fields.get_all(name).iter().map(|line| line.to_str().ok()).collect();
    lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join(","))
}

/// One request. Dropped without an answer it counts as abandoned, with nginx's word for it: 499.
#[derive(Debug)]
pub struct Visit<'a> {
    observer: &'a Observer,
    request: &'a Request<()>,
    pub client: IpAddr,
    pub trace: LazyTrace<'a>,
    pub started: Instant,
    is_answered: bool,
}

impl<'a> Visit<'a> {
    #[must_use]
    pub fn new(
        observer: &'a Observer,
        request: &'a Request<()>,
        (peer, trusted): (SocketAddr, &Trusted),
        started: Instant,
    ) -> Self {
        let fields = request.headers();
        let trace = LazyTrace::new(fields, trusted.trusts(peer.ip()));
        Self { observer, request, client: trusted.client(peer.ip(), fields), trace, started, is_answered: false }
    }

    /// The answer as it leaves: counted, logged, and told its request's id where no cache keeps it.
    #[must_use]
    pub fn answered(mut self, mut response: Response<Body>) -> Response<Body> {
        self.is_answered = true;
        let told = response.extensions_mut().remove::<Answered>();
        let outcome = told.as_ref().map(|told| told.outcome);
        let code = response.status();
        let is_routine = !code.is_client_error() && !code.is_server_error() && outcome.is_none_or(Outcome::is_hit);
        if !is_routine {
            self.identify(&mut response);
        }
        let is_head = *self.request.method() == Method::HEAD;
        let bytes = if is_head { 0 } else { response.body().size_hint().exact().unwrap_or_default() };
        self.observer.responses.answered(self.request.version(), code.as_u16(), bytes);
        if is_routine && !self.observer.log.takes_hit() {
            return response;
        }
        let share = if is_routine { self.observer.log.hits_share() } else { 1.0 };
        self.log(code.as_u16(), bytes, told.as_ref(), share);
        response
    }

    /// An error carries the id. An image does not: a cache further down would repeat it with every hit. Its `Server-Timing`
    /// is dated, so that a replay can be told, and names the trace as tools for browsers read it.
    fn identify(&self, response: &mut Response<Body>) {
        let trace = self.trace.get();
        if response.status().is_client_error() || response.status().is_server_error() {
            if let Ok(id) = HeaderValue::from_str(trace.request.as_str()) {
                response.headers_mut().insert(X_REQUEST_ID, id);
            }
        } else if let Some(timing) = response.headers().get(SERVER_TIMING) {
            let timing = [timing.as_bytes(), format!(", traceparent;desc=\"{}\"", trace.parent).as_bytes()].concat();
            if let Ok(timing) = HeaderValue::from_maybe_shared(Bytes::from(timing)) {
                response.headers_mut().insert(SERVER_TIMING, timing);
            }
        }
    }

    fn log(&self, status: u16, bytes: u64, told: Option<&Answered>, share: f64) {
        if !self.observer.log.is_on() {
            return;
        }
        self.observer.log.log(&Line {
            time: SystemTime::now(),
            client: self.client,
            method: self.request.method(),
            target: self.request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str),
            version: self.request.version(),
            fields: self.request.headers(),
            status,
            bytes,
            duration: self.started.elapsed(),
            outcome: told.map(|told| told.outcome),
            campaign: told.map(|told| told.campaign.name.as_str()),
            slot: told.map(|told| told.slot.name.as_str()),
            trace: self.trace.get(),
            share,
        });
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.observer.responses.answered(self.request.version(), ABANDONED, 0);
            self.log(ABANDONED, 0, None, 1.0);
        }
    }
}

impl Observer {
    /// A kept answer to a request of the lane.
    pub fn lane_hit(&self, ready: &Ready, head: &PlainHead<'_>, peer: SocketAddr, trusted: &Trusted) {
        let bytes = if head.method == PlainMethod::Head { 0 } else { ready.body_bytes() };
        self.responses.answered(http::Version::HTTP_11, ready.status().as_u16(), bytes);
        if self.log.takes_hit()
            && let Some(request) = head.to_request()
        {
            self.log_hit(ready, &request, (peer, trusted), bytes);
        }
    }

    /// A kept answer to a request of hyper's.
    pub fn hit(&self, ready: &Ready, request: &Request<()>, peer: SocketAddr, trusted: &Trusted) {
        let bytes = if *request.method() == Method::HEAD { 0 } else { ready.body_bytes() };
        self.responses.answered(request.version(), ready.status().as_u16(), bytes);
        if self.log.takes_hit() {
            self.log_hit(ready, request, (peer, trusted), bytes);
        }
    }

    fn log_hit(&self, ready: &Ready, request: &Request<()>, from: (SocketAddr, &Trusted), bytes: u64) {
        let (peer, trusted) = from;
        let fields = request.headers();
        let trace = LazyTrace::new(fields, trusted.trusts(peer.ip()));
        // Only URLs of a campaign and a slot have kept answers.
        let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy();
        let mut path = path.split('/').skip(2);
        self.log.log(&Line {
            time: SystemTime::now(),
            client: trusted.client(peer.ip(), fields),
            method: request.method(),
            target: request.uri().path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            version: request.version(),
            fields,
            status: ready.status().as_u16(),
            bytes,
            duration: ready.elapsed(),
            outcome: Some(ready.outcome()),
            campaign: path.next(),
            slot: path.next(),
            trace: trace.get(),
            share: self.log.hits_share(),
        });
    }

    /// How long a close may take.
    pub const CLOSE_WAIT: Duration = Duration::from_secs(2);
}
