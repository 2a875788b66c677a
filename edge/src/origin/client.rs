//! One node over HTTP/2: wire types in, checked wire types out.
//!
//! Invariants: a reply is read to a bound that fits what was asked for; nothing is returned that contradicts the
//! question; a problem's text is cut before it can fill a log. Pings find a dead peer also while a generation of
//! minutes is silent. Dropping a call resets its stream, which frees the caller's place at the node.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::limits::{MASTER_AREA_PX_MAX, MASTER_FILE_BYTES_MAX, MASTER_SIDE_PX_MAX, REPLY_BODY_BYTES_MAX};
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::trace::{REQUEST_ID, TRACEPARENT, TRACESTATE, TraceContext, Tracestate};
use bildkante_shared::wire::{
    CheckpointInfo, DEVICE_LOST, DEVICE_LOST_IN_COMPANY, DRAW_ALONE, GenerationReply, GenerationRequest,
    GenerationStatus,
};
use bildkante_shared::{descriptors, log_limited};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::connector::Connector;
use super::error::{Contact, Ended, OriginError};
use super::health::Probe;
use super::images::Images;
use crate::cache::MasterFile;

/// The problem type of a drawing that found no memory.
const OUT_OF_MEMORY: &str = "/problems/out-of-memory";
/// How long a node whose connection broke has to show that it is still there.
const SIGN_OF_LIFE_WAIT: Duration = Duration::from_secs(2);
/// Longest piece of a node's own words in our errors.
const DETAIL_CHARS_MAX: usize = 512;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const JSON: &str = "application/json";
const PNG: &str = "image/png";
const PNG_SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";

/// One node.
#[derive(Debug, Clone)]
pub(super) struct NodeClient {
    /// Host and port, in errors and metrics.
    pub(super) name: String,
    base: Uri,
    connector: Connector,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl NodeClient {
    pub(super) fn new(base: Uri, connector: Connector) -> Self {
        let name = base.authority().map_or_else(String::new, ToString::to_string);
        Self { name, base, connector }
    }

    pub(super) const fn base(&self) -> &Uri {
        &self.base
    }

    /// The error of a call that is given up because the node answers nothing any more.
    pub(super) fn gone_silent(&self) -> OriginError {
        let cause = "its probes go unanswered".to_owned();
        OriginError::Unreachable { node: self.name.clone(), cause, contact: Contact::None }
    }

    pub(super) async fn generate(
        &self,
        recipe: &ValidRecipe,
        request: &GenerationRequest,
        is_to_be_alone: bool,
        images: &Images,
        trace: &TraceContext,
    ) -> Result<GenerationReply, OriginError> {
        match self.draw(recipe, request, is_to_be_alone, images, trace).await {
            // A network breaks connections, too: then the node is there and ready as before.
            Err(OriginError::Unreachable { node, cause, contact: Contact::Broken }) if self.is_gone().await => {
                Err(OriginError::Ended { node, cause, how: Ended::Gone })
            }
            reply => reply,
        }
    }

    /// Whether a node whose connection broke has ended: no process listens there any more, or it says that it is not ready yet.
    async fn is_gone(&self) -> bool {
        let call = self.call(Method::GET, "/readyz", None, REPLY_BODY_BYTES_MAX);
        match tokio::time::timeout(SIGN_OF_LIFE_WAIT, call).await {
            Ok(Ok(reply)) => !reply.status.is_success(),
            Ok(Err(OriginError::Unreachable { contact, .. })) => contact == Contact::None,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn draw(
        &self,
        recipe: &ValidRecipe,
        request: &GenerationRequest,
        is_to_be_alone: bool,
        images: &Images,
        trace: &TraceContext,
    ) -> Result<GenerationReply, OriginError> {
        let body: Bytes = serde_json::to_vec(request).map_err(|error| self.protocol(error.to_string()))?.into();
        let body = || Some((JSON, body.clone()));
        let ask =
            || self.traced_call(Method::POST, "/v1/generations", body(), is_to_be_alone, trace, REPLY_BODY_BYTES_MAX);
        let reply = match self.expect_ok(ask().await?) {
            Err(OriginError::Missing { digests, .. }) if self.lend(&digests, images, trace).await? => {
                self.expect_ok(ask().await?)
            }
            reply => reply,
        };
        let reply: GenerationReply = self.json(&reply?)?;
        check_reply(recipe, &reply).map_err(|reason| self.protocol(reason))?;
        Ok(reply)
    }

    /// Hands over images that the node lacks; `false` where what it lacks is none of ours.
    async fn lend(&self, digests: &[String], images: &Images, trace: &TraceContext) -> Result<bool, OriginError> {
        let Some(found) = images.find(digests).await else { return Ok(false) };
        for (digest, png) in found {
            let path = format!("/v1/blobs/{digest}");
            let reply =
                self.traced_call(Method::PUT, &path, Some((PNG, png)), false, trace, REPLY_BODY_BYTES_MAX).await?;
            if !reply.status.is_success() {
                self.expect_ok(reply)?;
                return Err(self.protocol(format!("{path}: neither taken nor refused")));
            }
            log_limited!(info, node = %self.name, %digest, "an image handed to a node that lacked it");
        }
        Ok(true)
    }

    /// `None` when the node does not have it. That its pixels are the master's is for the caller to verify.
    pub(super) async fn master(&self, id: MasterId, trace: &TraceContext) -> Result<Option<MasterFile>, OriginError> {
        let path = format!("/v1/masters/{id}");
        let reply = self.traced_call(Method::GET, &path, None, false, trace, MASTER_FILE_BYTES_MAX).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let png = self.expect_ok(reply)?.body;
        if !png.starts_with(PNG_SIGNATURE) {
            return Err(self.protocol(format!("master {id} is no PNG")));
        }
        Ok(Some(MasterFile { id, png }))
    }

    /// How far a drawing is; `None` where the node does not know it.
    pub(super) async fn status(&self, recipe: RecipeId) -> Result<Option<GenerationStatus>, OriginError> {
        let reply = self.call(Method::GET, &format!("/v1/generations/{recipe}"), None, REPLY_BODY_BYTES_MAX).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.json(&self.expect_ok(reply)?).map(Some)
    }

    pub(super) async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, OriginError> {
        let reply = self.call(Method::GET, "/v1/checkpoints", None, REPLY_BODY_BYTES_MAX).await?;
        self.json(&self.expect_ok(reply)?)
    }

    /// Asks `/readyz` and waits at most `wait`. `None`: the question never left this machine.
    pub(super) async fn probe(&self, wait: Duration) -> Option<Probe> {
        let call = self.call(Method::GET, "/readyz", None, REPLY_BODY_BYTES_MAX);
        match tokio::time::timeout(wait, call).await {
            Err(_) => Some(Probe::Slow),
            Ok(Ok(reply)) if reply.status.is_success() => Some(Probe::Ready),
            Ok(Err(error)) if !error.is_of_node() => None,
            Ok(_) => Some(Probe::Down),
        }
    }

    /// A call in the name of a reader's request.
    async fn traced_call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
        is_to_be_alone: bool,
        trace: &TraceContext,
        reply_bytes_max: usize,
    ) -> Result<Reply, OriginError> {
        let mut request = self.request(method, path, body)?;
        let (parent, state) = (trace.parent.to_string(), trace.state.as_ref().map(Tracestate::as_str));
        let fields =
            [(REQUEST_ID, Some(trace.request.as_str())), (TRACEPARENT, Some(parent.as_str())), (TRACESTATE, state)];
        for (name, value) in fields {
            // All of them are printable ASCII.
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                request.headers_mut().insert(name, value);
            }
        }
        if is_to_be_alone {
            request.headers_mut().insert(DRAW_ALONE, HeaderValue::from_static("1"));
        }
        self.send(request, path, reply_bytes_max).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
        reply_bytes_max: usize,
    ) -> Result<Reply, OriginError> {
        self.send(self.request(method, path, body)?, path, reply_bytes_max).await
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        path: &str,
        reply_bytes_max: usize,
    ) -> Result<Reply, OriginError> {
        let response = self.connector.client().request(request).await.map_err(|error| {
            let contact = if error.is_connect() { Contact::None } else { contact(&error) };
            self.unreachable(&error, contact)
        })?;
        let (parts, body) = response.into_parts();
        // An error is never as long as a master.
        let bytes_max = if parts.status.is_success() { reply_bytes_max } else { REPLY_BODY_BYTES_MAX };
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                self.protocol(format!("{} {path}: its reply is over {bytes_max} bytes", parts.status.as_u16()))
            } else {
                self.unreachable(error.as_ref(), contact(error.as_ref()))
            }
        })?;
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Request<Full<Bytes>>, OriginError> {
        let mut uri = self.base.clone().into_parts();
        uri.path_and_query = Some(path.parse::<PathAndQuery>().map_err(|error| self.protocol(error.to_string()))?);
        let uri = Uri::from_parts(uri).map_err(|error| self.protocol(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri).header(ACCEPT, "application/json, image/png");
        if let Some((media_type, _)) = body {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let body = Full::new(body.map_or_else(Bytes::new, |(_, bytes)| bytes));
        request.body(body).map_err(|error| self.protocol(error.to_string()))
    }

    /// The reply if it is a 200, its problem as an error otherwise.
    fn expect_ok(&self, reply: Reply) -> Result<Reply, OriginError> {
        let node = self.name.clone();
        let retry_after = retry_after(&reply.headers);
        match reply.status {
            StatusCode::OK => Ok(reply),
            StatusCode::TOO_MANY_REQUESTS => Err(OriginError::QueueFull { node, retry_after }),
            // One drawing was too much for it: a failed call, of which only several in a row speak against the node.
            StatusCode::SERVICE_UNAVAILABLE if problem(&reply).kind == OUT_OF_MEMORY => {
                Err(OriginError::Failed { node, problem: Box::new(problem(&reply)) })
            }
            StatusCode::SERVICE_UNAVAILABLE if ended(&problem(&reply)).is_some() => {
                let problem = problem(&reply);
                let how = ended(&problem).unwrap_or(Ended::InCompany);
                Err(OriginError::Ended { node, cause: problem.detail, how })
            }
            StatusCode::INSUFFICIENT_STORAGE => {
                Err(OriginError::CannotStore { node, problem: Box::new(problem(&reply)) })
            }
            StatusCode::SERVICE_UNAVAILABLE => Err(OriginError::NotReady { node, retry_after }),
            StatusCode::GATEWAY_TIMEOUT => Err(OriginError::DeadlinePassed),
            StatusCode::FAILED_DEPENDENCY => Err(OriginError::Missing { node, digests: problem(&reply).missing }),
            status if status.is_client_error() => {
                Err(OriginError::Refused { node, problem: Box::new(problem(&reply)) })
            }
            status if status.is_server_error() => Err(OriginError::Failed { node, problem: Box::new(problem(&reply)) }),
            status => Err(self.protocol(format!("status {status} was not asked for"))),
        }
    }

    fn json<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, OriginError> {
        serde_json::from_slice(&reply.body).map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, reason: String) -> OriginError {
        OriginError::Protocol { node: self.name.clone(), reason: cut(&reason) }
    }

    fn unreachable(&self, error: &(dyn Error + 'static), contact: Contact) -> OriginError {
        if descriptors::is_shortage(error) {
            return OriginError::NoDescriptor { node: self.name.clone() };
        }
        OriginError::Unreachable { node: self.name.clone(), cause: cut(&with_causes(error)), contact }
    }
}

/// What a reply must agree with before anything is bound to it.
fn check_reply(recipe: &ValidRecipe, reply: &GenerationReply) -> Result<(), String> {
    let GenerationReply { recipe_id, master, duplicate, .. } = reply;
    if *recipe_id != recipe.id() {
        return Err(format!("recipe {} was asked for, {recipe_id} answered", recipe.id()));
    }
    let (width_px, height_px) = (master.width_px, master.height_px);
    let area = u64::from(width_px) * u64::from(height_px);
    if area == 0 || area > MASTER_AREA_PX_MAX || width_px.max(height_px) > MASTER_SIDE_PX_MAX {
        return Err(format!("a master of {width_px}×{height_px} px"));
    }
    // A duplicate is another recipe's image, which may have been drawn in another size.
    if duplicate.is_none() && (width_px, height_px) != (recipe.width_px, recipe.height_px) {
        return Err(format!(
            "{}×{} px were asked for, {width_px}×{height_px} answered",
            recipe.width_px, recipe.height_px
        ));
    }
    Ok(())
}

/// The problem in a reply, or one made of its status.
fn problem(reply: &Reply) -> Problem {
    let status = reply.status.as_u16();
    let mut problem = serde_json::from_slice::<Problem>(&reply.body).unwrap_or_else(|_| {
        let title = reply.status.canonical_reason().unwrap_or("unknown status");
        Problem::new(status, "unknown", title, format!("status {status} without a problem"))
    });
    problem.detail = cut(&problem.detail);
    problem
}

/// Whether the node says that its device was lost, and to whom.
fn ended(problem: &Problem) -> Option<Ended> {
    match problem.kind.strip_prefix("/problems/")? {
        DEVICE_LOST => Some(Ended::Alone),
        DEVICE_LOST_IN_COMPANY => Some(Ended::InCompany),
        _ => None,
    }
}

/// Seconds or a date (RFC 9110 §10.2.3), never longer than a few minutes.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// Whether the other end broke the connection: silence, found out by pings, is none of its doing.
fn contact(error: &(dyn Error + 'static)) -> Contact {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
            return Contact::None;
        }
        next = error.source();
    }
    Contact::Broken
}

/// hyper's errors say little without the errors below them.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn cut(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after_of(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        assert_eq!(retry_after_of("2"), Some(Duration::from_secs(2)));
        assert_eq!(retry_after_of("999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        assert!(retry_after_of(&soon).is_some_and(|wait| wait > Duration::from_secs(50)));
        for nonsense in ["-1", "soon", "1.5", "99999999999999999999999999"] {
            assert_eq!(retry_after_of(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_body_that_is_no_problem_becomes_one() {
        let reply = |body: &'static str| Reply {
            status: StatusCode::IM_A_TEAPOT,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(problem(&reply("<html>")).status, 418);
        let long = Problem::new(418, "teapot", "t", "x".repeat(100_000)).to_json();
        let long = Reply { body: long.into(), ..reply("") };
        assert_eq!(problem(&long).detail.len(), DETAIL_CHARS_MAX);
        assert_eq!(problem(&long).kind, "/problems/teapot");
    }
}
