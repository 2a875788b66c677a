//! The endpoints: parses requests and answers them. What is taken and drawn is [`admission`](crate::admission)'s to decide.
//!
//! Invariants: wire structs become validated types here and go no deeper; every error becomes `application/problem+json` in one
//! place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::limits::{
    BLOB_BYTES_MAX, CANDIDATES_MAX, DEADLINE_MS_MAX, DEDUP_NAME_BYTES_MAX, GENERATION_BODY_BYTES_MAX,
};
use bildkante_shared::problem::{self, Problem};
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::trace::{self, TraceContext};
use bildkante_shared::wire::{CandidatesRequest, DRAW_ALONE, DedupScope, GenerationRequest};
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tracing::{Instrument, Span};

use crate::admission::Admission;
use crate::archive::Archive;
use crate::blobs::{BlobError, Uploads};
use crate::board::Generation;
use crate::candidates;
use crate::config::NodeConfig;
use crate::drawer::Drawer;
use crate::error::{GenerationError, RequestError};
use crate::health::{Health, Phase};
use crate::metrics::NodeMetrics;
use crate::progress::{self, ReplyBody};
use crate::store::MasterFile;

/// Callers that may watch generations at the same time.
const STREAMS_MAX: usize = 256;
/// RFC 7240 §3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const X_REQUEST_ID: HeaderName = HeaderName::from_static(trace::REQUEST_ID);
/// How long a read of a master waits for its turn.
const READ_TURN_WAIT: Duration = Duration::from_secs(5);
/// A master's name is its content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Generations,
    Generation(&'a str),
    Candidates,
    Master(&'a str),
    Checkpoints,
    Adapters,
    Blob(&'a str),
    Livez,
    Readyz,
    Metrics,
    Unknown,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Self {
        match path {
            "/v1/generations" => Self::Generations,
            "/v1/candidates" => Self::Candidates,
            "/v1/checkpoints" => Self::Checkpoints,
            "/v1/adapters" => Self::Adapters,
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            _ => {
                let below = |prefix| path.strip_prefix(prefix).filter(|rest: &&str| !rest.is_empty());
                let master = below("/v1/masters/").map(Self::Master);
                let blob = || below("/v1/blobs/").map(Self::Blob);
                let generation = || below("/v1/generations/").map(Self::Generation);
                master.or_else(blob).or_else(generation).unwrap_or(Self::Unknown)
            }
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Generations => "generations",
            Self::Generation(_) => "generation",
            Self::Candidates => "candidates",
            Self::Master(_) => "masters",
            Self::Checkpoints => "checkpoints",
            Self::Adapters => "adapters",
            Self::Blob(_) => "blobs",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Unknown => "unknown",
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Generations | Self::Candidates => "POST",
            Self::Blob(_) => "PUT",
            _ => "GET, HEAD",
        }
    }

    fn allows(self, method: &Method) -> bool {
        match self {
            Self::Generations | Self::Candidates => method == Method::POST,
            Self::Blob(_) => method == Method::PUT,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }
}

type Reply = Response<ReplyBody>;

/// An error of either kind, on its way to the one place that answers it.
enum Failure {
    Request(RequestError),
    Generation(GenerationError),
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<GenerationError> for Failure {
    fn from(error: GenerationError) -> Self {
        Self::Generation(error)
    }
}

/// Everything a request may need.
#[derive(Debug)]
pub(crate) struct Api {
    admission: Arc<Admission>,
    drawer: Drawer,
    archive: Arc<Archive>,
    health: Arc<Health>,
    metrics: Arc<NodeMetrics>,
    uploads: Uploads,
    /// Before tokio's blocking pool, whose own queue has no bound.
    reads: Arc<Semaphore>,
    /// Callers that watch a generation.
    streams: Arc<Semaphore>,
    body_timeout: Duration,
}

impl Api {
    #[must_use]
    pub(crate) fn new(name: String, config: &NodeConfig, admission: Admission, metrics: Arc<NodeMetrics>) -> Self {
        let Admission { archive, health, blobs, reads, .. } = &admission;
        let uploads = Uploads::new(blobs.clone(), metrics.blob_upload_bytes.clone());
        let (archive, health, reads) = (Arc::clone(archive), Arc::clone(health), Arc::clone(reads));
        let admission = Arc::new(admission);
        let drawer = Drawer { name: name.into(), admission: Arc::clone(&admission), metrics: Arc::clone(&metrics) };
        Self {
            archive,
            health,
            uploads,
            reads,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            body_timeout: config.http.body_timeout(),
            admission,
            drawer,
            metrics,
        }
    }

    /// Answers a request of any kind.
    pub(crate) async fn respond<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let path = request.uri().path().to_owned();
        let is_head = request.method() == Method::HEAD;
        let route = Route::of(&path);
        let trace = matches!(route, Route::Generations | Route::Candidates).then(|| trace_of(request.headers()));
        // At a level that no filter drops, so that every line of a job names its request.
        let span = trace.as_ref().map_or_else(
            Span::none,
            |trace| tracing::error_span!("generation", request = %trace.request, trace = %trace.parent.trace),
        );
        let mut reply = match self.route(route, request).instrument(span).await {
            Ok(reply) => reply,
            Err(failure) => refuse(failure),
        };
        if let Some(trace) = trace {
            insert(&mut reply, X_REQUEST_ID, trace.request.as_str());
        }
        let status = reply.status();
        self.metrics.http_responses_total.with_label_values(&[route.as_str(), status.as_str()]).inc();
        if is_head { without_body(reply) } else { reply }
    }

    async fn route<B>(&self, route: Route<'_>, request: Request<B>) -> Result<Reply, Failure>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if route == Route::Unknown {
            let path = request.uri().path().chars().take(200).collect();
            return Err(RequestError::UnknownPath { path }.into());
        }
        if !route.allows(request.method()) {
            return Err(RequestError::Method { allow: route.allow() }.into());
        }
        match route {
            Route::Generations => self.generations(request).await,
            Route::Candidates => self.candidates(request).await,
            Route::Generation(id) => Ok(self.generation(id, request.headers()).await?),
            Route::Master(id) => Ok(self.master(id, request.headers()).await?),
            Route::Checkpoints => Ok(json(StatusCode::OK, &*self.health.status().checkpoints)),
            Route::Blob(digest) => Ok(self.put_blob(digest, request).await?),
            Route::Adapters => Ok(json(StatusCode::OK, &*self.health.status().adapters)),
            Route::Readyz => Ok(self.readyz()),
            Route::Metrics => {
                let is_ready = self.health.status().phase == Phase::Ready && self.archive.store().trouble().is_none();
                self.metrics.ready.set(i64::from(is_ready));
                let text = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                Ok(reply(StatusCode::OK, text, self.metrics.render()))
            }
            Route::Livez | Route::Unknown => {
                Ok(reply(StatusCode::OK, HeaderValue::from_static("text/plain"), b"ok\n".to_vec()))
            }
        }
    }

    async fn generations<B>(&self, request: Request<B>) -> Result<Reply, Failure>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let received_at = Instant::now();
        if !is_json(request.headers()) {
            return Err(RequestError::MediaType.into());
        }
        let is_patient = !prefers_async(request.headers());
        let is_to_be_alone = is_to_be_alone(request.headers());
        let body = self.body(request, GENERATION_BODY_BYTES_MAX).await?;
        let generation = parse(&body, received_at)?;
        if is_to_be_alone {
            self.admission.suspect(generation.recipe.id());
        }
        if !is_patient {
            return self.accept(generation).await;
        }
        let reply = self.drawer.draw(generation, received_at).await?;
        Ok(json(StatusCode::OK, &reply))
    }

    /// Pictures that differ in their seeds: all at the end, or each as it ends where events are accepted.
    async fn candidates<B>(&self, request: Request<B>) -> Result<Reply, Failure>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let received_at = Instant::now();
        if !is_json(request.headers()) {
            return Err(RequestError::MediaType.into());
        }
        let wants_events = accepts_events(request.headers());
        let are_to_be_alone = is_to_be_alone(request.headers());
        let body = self.body(request, GENERATION_BODY_BYTES_MAX).await?;
        let generations = parse_candidates(&body, received_at)?;
        if are_to_be_alone {
            generations.iter().for_each(|generation| self.admission.suspect(generation.recipe.id()));
        }
        if !wants_events {
            return Ok(json(StatusCode::OK, &candidates::all(&self.drawer, generations, received_at).await));
        }
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| RequestError::Busy)?;
        Ok(event_stream(candidates::events(self.drawer.clone(), generations, received_at, place)))
    }

    /// `Prefer: respond-async`: takes the generation and answers at once.
    async fn accept(&self, generation: Generation) -> Result<Reply, Failure> {
        let id = generation.recipe.id();
        let status = self.admission.accept(generation).await?;
        let mut reply = json(StatusCode::ACCEPTED, &status);
        insert(&mut reply, LOCATION, &format!("/v1/generations/{id}"));
        insert(&mut reply, PREFERENCE_APPLIED, "respond-async");
        Ok(reply)
    }

    /// How far a generation is, once or as long as it takes.
    async fn generation(&self, id: &str, headers: &HeaderMap) -> Result<Reply, RequestError> {
        let unknown = || RequestError::UnknownGeneration { id: id.chars().take(80).collect() };
        let parsed: RecipeId = id.parse().map_err(|_| unknown())?;
        let status = self.admission.status(parsed).await.ok_or_else(unknown)?;
        if !accepts_events(headers) {
            return Ok(json(StatusCode::OK, &status));
        }
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| RequestError::Busy)?;
        let deadline = tokio::time::Instant::now() + Duration::from_millis(DEADLINE_MS_MAX);
        let events = progress::events(Arc::clone(&self.admission), parsed, deadline, place);
        Ok(event_stream(events))
    }

    /// Stores an image that recipes may name.
    async fn put_blob<B>(&self, digest: &str, request: Request<B>) -> Result<Reply, RequestError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let digest: Digest = digest
            .parse()
            .map_err(|error: bildkante_shared::ids::IdError| RequestError::Malformed { reason: error.to_string() })?;
        if request.body().size_hint().lower() > BLOB_BYTES_MAX as u64 {
            return Err(RequestError::BodyTooLarge { bytes_max: BLOB_BYTES_MAX });
        }
        if let Some(reason) = self.archive.store().trouble() {
            return Err(RequestError::NotStorable { reason });
        }
        // Before a byte of the body is read: a waiting upload costs no more than its flow-control window.
        let turn = tokio::time::timeout(READ_TURN_WAIT, self.uploads.turn());
        let turn = turn.await.map_err(|_| RequestError::Busy)?;
        let deadline = tokio::time::Instant::now() + self.body_timeout;
        self.uploads.put(turn, digest, request.into_body(), deadline).await.map_err(|error| match error {
            BlobError::TooLarge => RequestError::BodyTooLarge { bytes_max: BLOB_BYTES_MAX },
            BlobError::Aborted => RequestError::BodyAborted,
            BlobError::Slow => self.too_slow(),
            BlobError::Io(error) if is_full(&error) => RequestError::NotStorable { reason: error.to_string() },
            BlobError::Io(_) | BlobError::Panicked => RequestError::Storage { reason: error.to_string() },
            refused @ (BlobError::Digest { .. } | BlobError::Picture(_)) => {
                RequestError::Invalid { reason: refused.to_string() }
            }
        })?;
        Ok(reply(StatusCode::NO_CONTENT, HeaderValue::from_static("text/plain"), Vec::new()))
    }

    fn too_slow(&self) -> RequestError {
        RequestError::BodyTimeout { timeout_ms: u64::try_from(self.body_timeout.as_millis()).unwrap_or(u64::MAX) }
    }

    async fn body<B>(&self, request: Request<B>, bytes_max: usize) -> Result<Bytes, RequestError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if request.body().size_hint().lower() > bytes_max as u64 {
            return Err(RequestError::BodyTooLarge { bytes_max });
        }
        let body = std::pin::pin!(request.into_body());
        match tokio::time::timeout(self.body_timeout, Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(RequestError::BodyTooLarge { bytes_max }),
            Ok(Err(_)) => Err(RequestError::BodyAborted),
            Err(_) => Err(self.too_slow()),
        }
    }

    async fn master(&self, id: &str, headers: &HeaderMap) -> Result<Reply, RequestError> {
        let id: MasterId = id
            .parse()
            .map_err(|error: bildkante_shared::ids::IdError| RequestError::MasterId { reason: error.to_string() })?;
        let Some(MasterFile { row, png }) = self.read(id).await? else {
            return Err(RequestError::UnknownMaster { id: id.to_string() });
        };
        let etag = etag(row.file_digest);
        if matches(headers, &etag) {
            let mut reply = Response::new(ReplyBody::default());
            *reply.status_mut() = StatusCode::NOT_MODIFIED;
            reply.headers_mut().insert(CACHE_CONTROL, IMMUTABLE);
            insert(&mut reply, ETAG, &etag);
            return Ok(reply);
        }
        let mut reply = reply(StatusCode::OK, HeaderValue::from_static("image/png"), png);
        reply.headers_mut().insert(CACHE_CONTROL, IMMUTABLE);
        insert(&mut reply, ETAG, &etag);
        Ok(reply)
    }

    async fn read(&self, id: MasterId) -> Result<Option<MasterFile>, RequestError> {
        let turn = tokio::time::timeout(READ_TURN_WAIT, Arc::clone(&self.reads).acquire_owned());
        let turn = turn.await.map_err(|_| RequestError::Busy)?;
        let archive = Arc::clone(&self.archive);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            archive.store().read(id)
        });
        let storage = |reason: String| RequestError::Storage { reason };
        read.await.map_err(|error| storage(error.to_string()))?.map_err(|error| storage(error.to_string()))
    }

    fn readyz(&self) -> Reply {
        let status = self.health.status();
        let trouble = self.archive.store().trouble();
        let is_ready = status.phase == Phase::Ready && trouble.is_none();
        let mut reasons: Vec<String> =
            if status.phase == Phase::Ready { Vec::new() } else { vec![status.phase.reason()] };
        reasons.extend(trouble.map(|reason| format!("no master can be stored: {reason}")));
        reasons.extend(status.rejected.iter().cloned());
        let report = serde_json::json!({
            "ready": is_ready,
            "phase": status.phase.as_str(),
            "reasons": reasons,
            "self_tests": status.self_tests,
            "checkpoints": *status.checkpoints,
            "adapters": *status.adapters,
        });
        json(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The body as a generation within every bound.
pub(crate) fn parse(body: &[u8], received_at: Instant) -> Result<Generation, RequestError> {
    generation_of(read(body)?, received_at)
}

/// The body as generations that differ in their seeds.
pub(crate) fn parse_candidates(body: &[u8], received_at: Instant) -> Result<Vec<Generation>, RequestError> {
    let CandidatesRequest { recipe, seeds, urgency, deadline_ms, dedup } = read(body)?;
    let distinct = seeds.iter().collect::<BTreeSet<_>>().len();
    if !(1..=CANDIDATES_MAX).contains(&seeds.len()) || distinct != seeds.len() {
        return Err(RequestError::Invalid { reason: format!("`seeds` are 1 to {CANDIDATES_MAX}, each once") });
    }
    let request = |seed| {
        let recipe = Recipe { seed, ..recipe.clone() };
        generation_of(GenerationRequest { recipe, urgency, deadline_ms, dedup: dedup.clone() }, received_at)
    };
    seeds.into_iter().map(request).collect()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    use serde_json::error::Category;
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => RequestError::Invalid { reason: error.to_string() },
        Category::Io | Category::Syntax | Category::Eof => RequestError::Malformed { reason: error.to_string() },
    })
}

fn generation_of(request: GenerationRequest, received_at: Instant) -> Result<Generation, RequestError> {
    let GenerationRequest { recipe, urgency, deadline_ms, dedup } = request;
    if !(1..=DEADLINE_MS_MAX).contains(&deadline_ms) {
        let reason = format!("`deadline_ms` is 1 to {DEADLINE_MS_MAX}, not {deadline_ms}");
        return Err(RequestError::Invalid { reason });
    }
    if let Some(DedupScope { scope, variant }) = &dedup
        && [scope, variant].iter().any(|name| name.is_empty() || name.len() > DEDUP_NAME_BYTES_MAX)
    {
        let reason = format!("`dedup.scope` and `dedup.variant` have 1 to {DEDUP_NAME_BYTES_MAX} bytes");
        return Err(RequestError::Invalid { reason });
    }
    let recipe = ValidRecipe::try_from(recipe).map_err(|error| RequestError::Invalid { reason: error.to_string() })?;
    let deadline = received_at + Duration::from_millis(deadline_ms);
    Ok(Generation { recipe, urgency, deadline, dedup, span: Span::current() })
}

/// The request's id and trace, as the edge sent them: only edges reach this listener, so valid ones are taken over.
fn trace_of(headers: &HeaderMap) -> TraceContext {
    let field = |name: &str| {
        let mut lines = headers.get_all(name).iter();
        let line = lines.next()?.to_str().ok()?;
        lines.next().is_none().then_some(line)
    };
    TraceContext::from_fields(field(trace::REQUEST_ID), field(trace::TRACEPARENT), field(trace::TRACESTATE))
}

/// RFC 7240 §4.1.
fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|list| list.split(',')).any(|preference| {
        preference.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("respond-async"))
    })
}

fn is_to_be_alone(headers: &HeaderMap) -> bool {
    headers.get(DRAW_ALONE).is_some_and(|value| value == "1")
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|range| range.trim().starts_with("text/event-stream"))
}

fn event_stream(events: mpsc::Receiver<Bytes>) -> Reply {
    let mut reply = reply(StatusCode::OK, HeaderValue::from_static("text/event-stream"), Vec::new());
    *reply.body_mut() = ReplyBody::Events(events);
    reply
}

/// Half of the file's digest: strong, because equal digests are equal bytes.
fn etag(file: Digest) -> String {
    format!("\"{}\"", &file.to_hex()[..32])
}

/// `If-None-Match` (RFC 9110 §13.1.2): a list, weak tags compare equal, `*` matches any that is there.
fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn refuse(failure: Failure) -> Reply {
    let (problem, retry_after_s, allow) = match failure {
        Failure::Generation(error) => (error.problem(), error.retry_after_s(), None),
        Failure::Request(error) => {
            let allow = if let RequestError::Method { allow } = error { Some(allow) } else { None };
            (error.problem(), (error == RequestError::Busy).then_some(1), allow)
        }
    };
    let mut reply = problem_reply(&problem);
    if let Some(seconds) = retry_after_s {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(allow) = allow {
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    reply
}

fn problem_reply(problem: &Problem) -> Reply {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply(status, HeaderValue::from_static(problem::CONTENT_TYPE), problem.to_json())
}

fn json<T: serde::Serialize + ?Sized>(status: StatusCode, value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, JSON, body),
        // Only a number without a JSON form could do this: a defect, and reported as one.
        Err(error) => {
            let problem = Problem::new(500, "reply", "The reply cannot be written", error.to_string());
            problem_reply(&problem)
        }
    }
}

fn reply(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(ReplyBody::from(Full::new(Bytes::from(body))));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// HEAD: the headers of GET with its length, and nothing after them.
fn without_body(mut reply: Reply) -> Reply {
    let length = reply.body().size_hint().exact().unwrap_or_default();
    if reply.status() != StatusCode::NOT_MODIFIED {
        reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *reply.body_mut() = ReplyBody::default();
    reply
}

fn insert(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match_takes_lists_weak_tags_and_the_star() {
        let tag = etag(Digest::of_bytes(b"x"));
        let asked = |value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(&value).unwrap());
            matches(&headers, &tag)
        };
        assert!(asked(tag.clone()));
        assert!(asked(format!("\"other\", W/{tag}")));
        assert!(asked("*".into()));
        assert!(!asked("\"other\"".into()));
        assert!(!asked(tag.trim_matches('"').into()));
        assert!(!matches(&HeaderMap::new(), &tag));
    }

    #[test]
    fn the_media_type_may_have_parameters() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(asked("application/json") && asked("Application/JSON; charset=utf-8"));
        assert!(!asked("text/plain") && !asked("application/jsonp") && !is_json(&HeaderMap::new()));
    }
}
