//! Freshness and every header of an image response, in one place.
//!
//! Sources: RFC 9110 (semantics, conditionals, ranges), RFC 9111 (caching), RFC 9213 (`CDN-Cache-Control`),
//! RFC 9211 (`Cache-Status`), RFC 9218 (`Priority`), Server-Timing and Resource Timing (W3C).
//!
//! Invariants: `Vary` depends on the URL alone, never on the outcome; `Cache-Status` and `Server-Timing` are
//! made for each response and never stored; a partial response is only ever cut from a whole one.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    self, ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LINK, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use bildkante_shared::ids::MasterId;
use bildkante_shared::problem::{self, Problem};
use bildkante_shared::urgency::Urgency;

pub(crate) mod conditional;
pub(crate) mod freshness;
pub(crate) mod text;

use self::conditional::{Precondition, RequestedRange, precondition, requested_range};
pub(crate) use self::freshness::{Exposure, Freshness, Lifetime, Pin, Recall};
pub(crate) use self::text::{MadeText, StaticText, TextKind, gzip, text};
use crate::cache::Rendition;
use crate::credentials::MANIFEST_MEDIA_TYPE;
use crate::render::Making;
pub(crate) use crate::request::PRIORITY;
pub(crate) use crate::resolve::Negotiation;
use crate::service::Body;
use crate::words::{Collapse, EVERY_IMAGE_TAG, FillTimings, Format, Outcome};

pub(crate) const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub(crate) const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
pub(crate) const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
pub(crate) const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
pub(crate) const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
pub(crate) const ACCEPT_CH: HeaderName = HeaderName::from_static("accept-ch");
/// How far a file is above the `bytes_max` of its slot, where the lowest quality is too large.
pub(crate) const BYTES_OVER: HeaderName = HeaderName::from_static("bildkante-bytes-over");
pub(crate) const X_ROBOTS_TAG: HeaderName = HeaderName::from_static("x-robots-tag");

const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
/// An image opened as a document may load and run nothing.
const IMAGE_CSP: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");
const EXPOSED: HeaderValue = HeaderValue::from_static("Cache-Status, Server-Timing, ETag, X-Request-Id");

/// `Vary`, and the hints that clients are asked for where they take part.
fn say_what_varies(negotiation: Negotiation, headers: &mut HeaderMap) {
    if let Some(vary) = negotiation.vary() {
        headers.insert(VARY, HeaderValue::from_static(vary));
    }
    if let Some(hints) = negotiation.accept_ch() {
        headers.insert(ACCEPT_CH, HeaderValue::from_static(hints));
    }
}

/// What the headers of a variant say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VariantWords<'a> {
    /// Campaign, slot and, unless a stand-in is served, recipe.
    pub tags: &'a [&'a str],
    pub master: Option<MasterId>,
    pub urgency: Urgency,
    /// Keyword name without extension, ASCII letters, digits and hyphens.
    pub file_stem: &'a str,
    /// The URL search engines should know this variant by.
    pub canonical_url: Option<&'a str>,
    /// Where the manifest is that is not in the file.
    pub manifest_url: Option<&'a str>,
    /// How far the file is above what its slot allows.
    pub bytes_over: Option<usize>,
}

impl VariantWords<'_> {
    /// Names come from validated manifests, so every value is a legal header value.
    fn apply(&self, headers: &mut HeaderMap, format: Format) {
        let master = self.master.map(|master| format!("master:{master}"));
        let tags: Vec<&str> =
            self.tags.iter().copied().chain(master.as_deref()).chain(std::iter::once(EVERY_IMAGE_TAG)).collect();
        headers.insert(PRIORITY, value(&format!("u={}", self.urgency.get())));
        headers.insert(CACHE_TAG, value(&tags.join(",")));
        headers.insert(SURROGATE_KEY, value(&tags.join(" ")));
        let name = format!("inline; filename=\"{}.{}\"", self.file_stem, format.extension());
        headers.insert(CONTENT_DISPOSITION, value(&name));
        if let Some(bytes_over) = self.bytes_over {
            headers.insert(BYTES_OVER, HeaderValue::from(bytes_over));
        }
        let links = [(self.canonical_url, "canonical"), (self.manifest_url, "c2pa-manifest")];
        let links: Vec<String> =
            links.into_iter().filter_map(|(url, relation)| Some(format!("<{}>; rel=\"{relation}\"", url?))).collect();
        if !links.is_empty() {
            headers.insert(LINK, value(&links.join(", ")));
        }
    }
}

/// The headers that are the same each time this rendition is served for this variant.
#[must_use]
pub(crate) fn prepare(rendition: &Rendition, variant: &VariantWords<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(24);
    let format = rendition.spec.format;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(rendition.body.len()));
    headers.insert(ETAG, value(rendition.etag()));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, IMAGE_CSP);
    apply_cross_origin(&mut headers);
    variant.apply(&mut headers, format);
    headers
}

fn apply_cross_origin(headers: &mut HeaderMap) {
    headers.insert(TIMING_ALLOW_ORIGIN, ANY_ORIGIN);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(CORP, HeaderValue::from_static("cross-origin"));
}

/// A C2PA manifest by itself. One that lasts never changes under its name.
#[must_use]
pub(crate) fn manifest(body: Bytes, is_lasting: bool) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MANIFEST_MEDIA_TYPE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let cache_control = if is_lasting { "public, max-age=31536000, immutable" } else { "public, max-age=30" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    apply_cross_origin(&mut headers);
    respond(StatusCode::OK, headers, body)
}

/// What is known about how one response came to be.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub outcome: Outcome,
    pub collapse: Collapse,
    pub lifetime: Lifetime,
    pub negotiation: Negotiation,
    /// What stood in the way, where a stand-in or an error is served: an origin error's label.
    pub reason: Option<&'static str>,
    /// Of the shared state that withholds what was asked for.
    pub epoch: Option<u64>,
    /// How long ago a stale image was purged.
    pub stale_for: Option<Duration>,
    pub timings: FillTimings,
    pub elapsed: Duration,
}

/// A whole image response: conditional requests and ranges are answered from the same rendition.
#[must_use]
pub(crate) fn image(
    method: &Method,
    request: &HeaderMap,
    rendition: &Rendition,
    prepared: HeaderMap,
    answer: &Answer,
) -> Response<Body> {
    match precondition(request, rendition.etag()) {
        Precondition::Failed => return precondition_failed(answer),
        Precondition::NotModified => return not_modified(prepared, rendition, answer),
        Precondition::Proceed => {}
    }
    let whole = rendition.body.clone();
    let range = if *method == Method::GET {
        requested_range(request, rendition.etag(), whole.len())
    } else {
        RequestedRange::Whole
    };
    if range == RequestedRange::Unsatisfiable {
        return range_not_satisfiable(whole.len(), answer);
    }
    let mut headers = prepared;
    apply_answer(&mut headers, rendition, answer);
    let (status, body) = match range {
        RequestedRange::Whole | RequestedRange::Unsatisfiable => (StatusCode::OK, whole),
        RequestedRange::Part { first, last } => {
            headers.insert(CONTENT_RANGE, value(&format!("bytes {first}-{last}/{}", whole.len())));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
            (StatusCode::PARTIAL_CONTENT, whole.slice(first..=last))
        }
    };
    let body = if *method == Method::HEAD { Bytes::new() } else { body };
    respond(status, headers, body)
}

/// The two heads of a rendition under one URL, for as long as nothing it depends on changes: all but `Date`,
/// `Server-Timing` and the `Cache-Status`, which depends on where it is found.
#[derive(Debug)]
pub struct Settled {
    pub whole: HeaderMap,
    pub not_modified: HeaderMap,
    pub status_from_memory: HeaderValue,
    pub status_from_disk: HeaderValue,
    /// What `Server-Timing` says of the file.
    pub file_timing: Box<[u8]>,
}

/// The heads that [`image`] would give to unconditional and to conditional requests like the one `answer` is for.
#[must_use]
pub(crate) fn settle(prepared: &HeaderMap, rendition: &Rendition, answer: &Answer) -> Settled {
    let settled = |mut headers: HeaderMap| {
        apply_settled(&mut headers, answer);
        headers
    };
    let hit = |outcome| cache_status(&Answer { outcome, ..answer.clone() });
    let mut file_timing = Vec::with_capacity(64);
    write_file_timing(&mut file_timing, rendition, answer.outcome);
    Settled {
        whole: settled(prepared.clone()),
        not_modified: settled(of_not_modified(prepared.clone())),
        status_from_memory: hit(Outcome::Memory),
        status_from_disk: hit(Outcome::Disk),
        file_timing: file_timing.into(),
    }
}

fn apply_answer(headers: &mut HeaderMap, rendition: &Rendition, answer: &Answer) {
    apply_settled(headers, answer);
    headers.insert(CACHE_STATUS, cache_status(answer));
    headers.insert(SERVER_TIMING, server_timing(rendition, answer));
}

fn apply_settled(headers: &mut HeaderMap, answer: &Answer) {
    headers.insert(CACHE_CONTROL, cow_value(answer.lifetime.cache_control()));
    headers.insert(CDN_CACHE_CONTROL, cow_value(answer.lifetime.cdn_cache_control()));
    say_what_varies(answer.negotiation, headers);
    if matches!(answer.lifetime.freshness, Freshness::StandIn | Freshness::Withheld) {
        headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    }
}

/// RFC 9211: `hit` and `fwd` are what caches further down can rely on; the rest is detail for people.
fn cache_status(answer: &Answer) -> HeaderValue {
    let ttl = answer.lifetime.ttl_s();
    let detail = answer.outcome.as_str();
    let text = match answer.outcome {
        Outcome::Memory | Outcome::Disk | Outcome::Object => format!("bildkante; hit; ttl={ttl}; detail={detail}"),
        // A negative lifetime says by how much it is over; `hit` and `fwd` exclude each other (RFC 9211 §2).
        Outcome::Stale => {
            let over_s = answer.stale_for.unwrap_or_default().as_secs();
            format!("bildkante; hit; ttl=-{over_s}; detail={detail}")
        }
        Outcome::Rendered | Outcome::Generated => {
            let collapsed = if answer.collapse == Collapse::Collapsed { "; collapsed" } else { "" };
            format!("bildkante; fwd=miss; stored{collapsed}; ttl={ttl}; detail={detail}")
        }
        Outcome::Previous | Outcome::Fallback | Outcome::NearestWidth | Outcome::Placeholder | Outcome::Error => {
            match answer.reason {
                Some(reason) if answer.epoch.is_some() => {
                    let epoch = answer.epoch.unwrap_or_default();
                    format!("bildkante; fwd=miss; detail=\"{detail}: {reason}, epoch {epoch}\"")
                }
                Some(reason) => format!("bildkante; fwd=miss; detail=\"{detail}: {reason}\""),
                None => format!("bildkante; fwd=miss; detail={detail}"),
            }
        }
    };
    value(&text)
}

/// Durations in milliseconds. `at` carries the time of this response (Unix milliseconds): a cache further
/// down that replays the header can be told by it.
fn server_timing(rendition: &Rendition, answer: &Answer) -> HeaderValue {
    let mut text = Vec::with_capacity(192);
    write_edge_timing(&mut text, answer.elapsed, answer.outcome);
    for (name, duration) in answer.timings.entries() {
        let _ = write!(text, ", {name};dur={}", Millis(duration));
    }
    if let Some(fallbacks @ 1..) = answer.timings.fallbacks() {
        let _ = write!(text, ", fallbacks;desc={fallbacks}");
    }
    write_file_timing(&mut text, rendition, answer.outcome);
    write_at(&mut text, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// What `Server-Timing` says of a file, the same in every answer: which rung it is of, how large it is, its score where that was
/// measured, and how many milliseconds its encoder took. It is no `dur`, because that was before this answer. A placeholder is of no rung.
fn write_file_timing(text: &mut Vec<u8>, rendition: &Rendition, outcome: Outcome) {
    if outcome != Outcome::Placeholder {
        let _ = write!(text, ", rung;desc={}", rendition.rung.as_str());
    }
    let _ = write!(text, ", bytes;desc={}", rendition.body.len());
    if let Some(Making { encode_ms, score }) = rendition.making {
        if let Some(score) = score {
            let _ = write!(text, ", score;desc={score}");
        }
        let _ = write!(text, ", encode;desc={encode_ms}");
    }
}

/// The value of `Server-Timing` for an answer that took no work; `file_timing` is that of [`Settled`], and `now` the time since 1970.
pub(crate) fn write_hit_timing(
    text: &mut Vec<u8>,
    (elapsed, outcome): (Duration, Outcome),
    file_timing: &[u8],
    now: Duration,
) {
    write_edge_timing(text, elapsed, outcome);
    text.extend_from_slice(file_timing);
    write_at(text, now);
}

fn write_edge_timing(text: &mut Vec<u8>, elapsed: Duration, outcome: Outcome) {
    // Writing to a Vec cannot fail.
    let _ = write!(text, "edge;dur={}, cache;desc={}", Millis(elapsed), outcome.as_str());
}

fn write_at(text: &mut Vec<u8>, now: Duration) {
    let _ = write!(text, ", at;desc={}", now.as_millis());
}

/// Milliseconds with two decimals, without floating point.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (self.0.as_micros() + 5) / 10;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

/// What RFC 9110 §15.4.5 asks a 304 to repeat, and what caches need to keep their tags.
fn not_modified(prepared: HeaderMap, rendition: &Rendition, answer: &Answer) -> Response<Body> {
    let mut headers = of_not_modified(prepared);
    apply_answer(&mut headers, rendition, answer);
    respond(StatusCode::NOT_MODIFIED, headers, Bytes::new())
}

fn of_not_modified(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_DISPOSITION, ACCEPT_RANGES] {
        headers.remove(name);
    }
    headers
}

/// Never stored: under the image's URL it would poison a cache for every client.
fn range_not_satisfiable(length_bytes: usize, answer: &Answer) -> Response<Body> {
    let detail = format!("the image has {length_bytes} bytes");
    let problem = Problem::new(416, "range-not-satisfiable", "Range not satisfiable", detail);
    let mut response = error(&Method::GET, &problem, answer.negotiation);
    response.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes */{length_bytes}")));
    response
}

fn precondition_failed(answer: &Answer) -> Response<Body> {
    let problem = Problem::new(
        412,
        "precondition-failed",
        "Precondition failed",
        "`If-Match` names no entity tag of this representation",
    );
    error(&Method::GET, &problem, answer.negotiation)
}

/// An `application/problem+json` response; never stored, a 404 for seconds by browsers only.
#[must_use]
pub(crate) fn error(method: &Method, problem: &Problem, negotiation: Negotiation) -> Response<Body> {
    let body = Bytes::from(problem.to_json());
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let cache_control = if problem.status == 404 { "public, max-age=5" } else { "no-store" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(CDN_CACHE_CONTROL, HeaderValue::from_static("no-store"));
    say_what_varies(negotiation, &mut headers);
    apply_cross_origin(&mut headers);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, headers, if *method == Method::HEAD { Bytes::new() } else { body })
}

/// 303 to another page of the same listener.
#[must_use]
pub(crate) fn redirect(to: &'static str) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::LOCATION, HeaderValue::from_static(to));
    respond(StatusCode::SEE_OTHER, headers, Bytes::new())
}

/// 204, for a beacon taken in.
#[must_use]
pub(crate) fn no_content() -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
    respond(StatusCode::NO_CONTENT, headers, Bytes::new())
}

/// The answer to OPTIONS: what the resource takes (RFC 9110 §9.3.7), and to a CORS preflight (Fetch Standard §3.2.2) what
/// a page may send: range and conditional requests are what pages add.
#[must_use]
pub(crate) fn options(request: &HeaderMap, methods: &'static str) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
    if request.contains_key(header::ORIGIN) && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        let allowed = HeaderValue::from_static("Range, If-None-Match, If-Range, Priority, Content-Type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    respond(StatusCode::NO_CONTENT, headers, Bytes::new())
}

fn respond(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Text of ours is ASCII without control characters; anything else becomes an empty value, never a panic.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn cow_value(text: Cow<'static, str>) -> HeaderValue {
    match text {
        Cow::Borrowed(text) => HeaderValue::from_static(text),
        Cow::Owned(text) => value(&text),
    }
}
