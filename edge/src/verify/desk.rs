//! `/verify` on the public listener: a page, and an API beside it.
//!
//! | resource | methods | answer |
//! | --- | --- | --- |
//! | `/verify` | GET | the page, in English or German |
//! | `/verify` | POST | a report of the picture in the body: JSON, or a page where `Accept` wants one |
//! | `/verify/verify.css`, `/verify/verify.js` | GET | what the page loads |
//! | `/verify/softbinding/{value}` | GET | manifests of the pictures that a watermark names |
//!
//! The body is the picture's file, or a form as a browser posts it. Invariants: no answer is stored by anybody; nothing of a
//! picture is logged; bodies in memory, pictures being checked and a network's share of them are bounded; what is refused is
//! refused with its cause (RFC 9457).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::log_limited;
use bildkante_shared::problem::Problem;
use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::detector::{Detector, NotAPicture, Submission};
use super::gate::{Gate, Refusal};
use super::masters::KnownMasters;
use super::metrics::VerifyMetrics;
use super::page::{self, Download, PATH};
use super::report::Report;
use super::softbinding::Matches;
use super::{VerifyConfig, multipart, softbinding};
use crate::budget::BudgetConfig;
use crate::credentials::{Finding, SignedDocument, SignerHandle, Trust, verify};
use crate::fill::{Fill, MANIFEST_PATH_PREFIX, ManifestName};
use crate::language::Language;
use crate::response::{self, Negotiation, StaticText, TextKind, X_ROBOTS_TAG};
use crate::service::{Body, RequestBody};
use crate::words::Format;

/// Seconds after which a full edge is worth asking again.
const FULL_RETRY_AFTER_S: u64 = 5;
/// What a form has beside its picture.
const FORM_BYTES_BESIDE: usize = 16 * 1024;
/// How much of a body that is too long is thrown away, in largest pictures.
const DISCARD_FACTOR: usize = 4;
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src blob:; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// See the module's documentation.
#[derive(Debug)]
pub struct VerifyDesk {
    detector: Arc<Detector>,
    signers: SignerHandle,
    masters: Arc<KnownMasters>,
    fill: Arc<Fill>,
    public_url: String,
    gate: Gate,
    upload_wait: Duration,
    metrics: VerifyMetrics,
    style: StaticText,
    script: StaticText,
}

/// What the desk asks.
#[derive(Debug)]
pub struct VerifyParts {
    pub detector: Detector,
    pub signers: SignerHandle,
    pub masters: Arc<KnownMasters>,
    pub fill: Arc<Fill>,
    pub public_url: String,
    pub metrics: VerifyMetrics,
}

/// Why there is no report.
struct NoReport {
    status: u16,
    kind: &'static str,
    title: &'static str,
    detail: String,
    retry_after_s: Option<u64>,
}

impl NoReport {
    fn new(status: u16, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), retry_after_s: None }
    }

    fn of(refusal: Refusal, network_retry_s: u64) -> Self {
        let (status, kind, title, after_s) = match refusal {
            Refusal::Network => (429, "too-many-pictures", "Too many requests", network_retry_s),
            Refusal::Full => (503, "busy", "Busy", FULL_RETRY_AFTER_S),
        };
        Self { retry_after_s: Some(after_s), ..Self::new(status, kind, title, refusal.to_string()) }
    }

    /// When asking again makes sense.
    fn say_when(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(after_s) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, after_s.into());
        }
        response
    }
}

impl From<NotAPicture> for NoReport {
    fn from(error: NotAPicture) -> Self {
        match error {
            NotAPicture::Format => unsupported(error.to_string()),
            NotAPicture::TooLong { bytes_max, .. } => too_long(bytes_max),
        }
    }
}

fn too_long(bytes_max: usize) -> NoReport {
    NoReport::new(413, "picture-too-long", "Content too large", format!("a picture has at most {bytes_max} bytes"))
}

fn unsupported(detail: impl Into<String>) -> NoReport {
    NoReport::new(415, "unsupported-media-type", "Unsupported media type", detail)
}

/// A report, and the document that the signer made of it.
struct Checked {
    report: Report,
    document: Option<SignedDocument>,
    signed_by: Option<String>,
}

/// How a picture stands in a body.
enum Enclosure {
    Bare,
    /// In a form, between boundaries.
    Form(String),
}

impl Enclosure {
    fn of(headers: &HeaderMap) -> Result<Self, NoReport> {
        let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(Self::Bare) };
        let content_type = content_type.to_str().unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "multipart/form-data" => {
                let boundary = multipart::boundary(content_type).map(str::to_owned);
                boundary.map(Self::Form).ok_or_else(|| unsupported("the form names no boundary"))
            }
            "application/octet-stream" => Ok(Self::Bare),
            other if other.starts_with("image/") => Ok(Self::Bare),
            _ => Err(unsupported(
                "the body is the picture's file, or a form (multipart/form-data) with a file `picture`",
            )),
        }
    }

    fn open(&self, body: Bytes) -> Result<Bytes, NoReport> {
        match self {
            Self::Bare => Ok(body),
            Self::Form(boundary) => {
                let picture = multipart::picture(&body, boundary).filter(|picture| !picture.is_empty());
                picture.ok_or_else(|| NoReport::new(400, "no-picture", "Bad request", "the form has no file `picture`"))
            }
        }
    }
}

/// Manifests that this edge serves beside their files. Those of other addresses are told, and not fetched: an edge that fetches
/// what a stranger's file names would be a stranger's tool.
struct OwnManifests {
    fill: Arc<Fill>,
    public_url: String,
}

impl OwnManifests {
    /// Of the rendition that `file` says to be. Blocks: it belongs on a thread that may.
    fn beside(&self, file: &[u8]) -> Option<Bytes> {
        let found = verify(Format::of_file(file)?, file, None, &Trust::none());
        let Finding::Elsewhere { url } = found else { return None };
        let path = url.strip_prefix(&self.public_url)?;
        let name = path.strip_prefix(MANIFEST_PATH_PREFIX).and_then(ManifestName::parse)?;
        tokio::runtime::Handle::current().block_on(self.fill.manifest(name))
    }
}

impl VerifyDesk {
    #[must_use]
    pub fn new(
        config: &VerifyConfig,
        budget: &BudgetConfig,
        VerifyParts { detector, signers, masters, fill, public_url, metrics }: VerifyParts,
    ) -> Self {
        let fixed = "public, max-age=3600";
        Self {
            detector: Arc::new(detector),
            signers,
            masters,
            fill,
            public_url,
            gate: Gate::new(config, budget),
            upload_wait: Duration::from_millis(config.upload_ms),
            metrics,
            style: StaticText::new(TextKind::Css, include_str!("verify.css"), fixed),
            script: StaticText::new(TextKind::Script, include_str!("verify.js"), fixed),
        }
    }

    /// The answer to a request for [`PATH`] or below; `None` where nothing is there.
    pub(crate) async fn respond(
        &self,
        request: &Request<()>,
        body: RequestBody,
        client: IpAddr,
    ) -> Option<Response<Body>> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let rest = request.uri().path().strip_prefix(PATH)?;
        let allowed = if rest.is_empty() { "GET, HEAD, POST, OPTIONS" } else { "GET, HEAD, OPTIONS" };
        Some(match (rest, request.method()) {
            ("" | "/verify.css" | "/verify.js", &Method::OPTIONS) => response::options(request.headers(), allowed),
            ("", &Method::POST) => self.check(request, body, client).await,
            ("", _) if is_read => self.page(request),
            ("/verify.css", _) if is_read => self.style.respond(request.headers()),
            ("/verify.js", _) if is_read => self.script.respond(request.headers()),
            ("" | "/verify.css" | "/verify.js", _) => method_not_allowed(request.method(), allowed),
            (path, _) => {
                let value = path.strip_prefix("/softbinding/")?;
                if !is_read {
                    return Some(method_not_allowed(request.method(), allowed));
                }
                self.soft_binding(request, value, client).await
            }
        })
    }

    /// Manifests of the pictures that a watermark names. It costs a look at every binding, so it spends a picture's token.
    async fn soft_binding(&self, request: &Request<()>, value: &str, client: IpAddr) -> Response<Body> {
        match self.matches(value, request.uri().query(), client).await {
            Ok(matches) => {
                let body = serde_json::to_vec(&matches).unwrap_or_default();
                guarded(response::text(request.headers(), TextKind::Json, body, "no-store"))
            }
            Err(refused) => {
                self.metrics.refused(refused.kind);
                problem(request.method(), &refused)
            }
        }
    }

    async fn matches(&self, value: &str, query: Option<&str>, client: IpAddr) -> Result<Matches, NoReport> {
        let prefix = softbinding::question(value, query)
            .map_err(|error| NoReport::new(400, error.as_str(), "Bad request", error.to_string()))?;
        let seat = self.gate.admit(client).map_err(|refusal| NoReport::of(refusal, self.gate.retry_after_s))?;
        let masters = Arc::clone(&self.masters);
        let work = move || {
            let _seat = seat;
            masters.renditions(prefix)
        };
        let renditions = tokio::task::spawn_blocking(work).await.map_err(|_| broken())?;
        Ok(softbinding::resolved(&self.fill, renditions, &self.public_url).await)
    }

    fn page(&self, request: &Request<()>) -> Response<Body> {
        let language = Language::of(request.uri().query(), request.headers());
        html(request.headers(), page::form(language, self.detector.file_bytes_max()))
    }

    async fn check(&self, request: &Request<()>, body: RequestBody, client: IpAddr) -> Response<Body> {
        let started = Instant::now();
        let outcome = self.checked(request.headers(), body, client).await;
        match outcome {
            Ok(checked) => {
                self.metrics.checked(checked.report.verdict, started.elapsed());
                self.answer(request, &checked)
            }
            Err(refused) => {
                self.metrics.refused(refused.kind);
                self.refusal(request, &refused)
            }
        }
    }

    async fn checked(&self, headers: &HeaderMap, body: RequestBody, client: IpAddr) -> Result<Checked, NoReport> {
        let bytes_max = self.detector.file_bytes_max();
        let held_max = bytes_max.saturating_add(FORM_BYTES_BESIDE);
        let (enclosure, seat) = match self.admitted(headers, held_max, client) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let _ = self.read(body, 0).await;
                return Err(refused);
            }
        };
        let body = self.read(body, held_max).await?.ok_or_else(|| too_long(bytes_max))?;
        let turn = self.gate.turn().await.ok_or_else(broken)?;
        let (detector, signers) = (Arc::clone(&self.detector), self.signers.clone());
        let own = OwnManifests { fill: Arc::clone(&self.fill), public_url: self.public_url.clone() };
        let work = move || {
            // Held by the work, not by the request: a client that hangs up makes no room that is not there.
            let _held = (seat, turn);
            let file = enclosure.open(body)?;
            let manifest = own.beside(&file);
            let submission =
                Submission { file: &file, manifest: manifest.as_deref(), now_unix_s: signers.now_unix_s() };
            let (report, fault) = detector.inspect(submission)?;
            if let Some(fault) = fault.filter(|fault| !fault.is_of_the_file()) {
                log_limited!(error, %fault, "pictures cannot be decoded");
            }
            Ok(signed(report, &signers))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| broken())?
    }

    /// What is refused by its head alone is, before a byte of its body is held.
    fn admitted(
        &self,
        headers: &HeaderMap,
        held_max: usize,
        client: IpAddr,
    ) -> Result<(Enclosure, OwnedSemaphorePermit), NoReport> {
        let enclosure = Enclosure::of(headers)?;
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > held_max) {
            return Err(too_long(self.detector.file_bytes_max()));
        }
        let seat = self.gate.admit(client).map_err(|refusal| NoReport::of(refusal, self.gate.retry_after_s))?;
        Ok((enclosure, seat))
    }

    /// The body, `None` where it has more than `held_max` bytes. What is refused is read and thrown away up to a bound: a client
    /// that is still sending when its connection ends never sees the answer.
    async fn read(&self, body: RequestBody, held_max: usize) -> Result<Option<Bytes>, NoReport> {
        let discarded_max = DISCARD_FACTOR * self.detector.file_bytes_max();
        match tokio::time::timeout(self.upload_wait, gathered(body, held_max, discarded_max)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(NoReport::new(400, "broken-body", "Bad request", "the body broke off")),
            Err(_) => {
                let detail = format!("a picture arrives within {} ms", self.upload_wait.as_millis());
                Err(NoReport::new(408, "slow-body", "Request timeout", detail))
            }
        }
    }

    fn answer(&self, request: &Request<()>, checked: &Checked) -> Response<Body> {
        let Checked { report, document, signed_by } = checked;
        let whole = json!({ "report": report, "document": document });
        if !wants_page(request.headers()) {
            let body = serde_json::to_vec(&whole).unwrap_or_default();
            return guarded(response::text(request.headers(), TextKind::Json, body, "no-store"));
        }
        let language = Language::of(request.uri().query(), request.headers());
        let told = document.as_ref().map_or(whole.to_string(), |document| json!(document).to_string());
        let download = Download { base64: BASE64.encode(told.as_bytes()), signed_by: signed_by.clone() };
        html(request.headers(), page::result(language, report, &download, self.detector.file_bytes_max()))
    }

    fn refusal(&self, request: &Request<()>, refused: &NoReport) -> Response<Body> {
        if !wants_page(request.headers()) {
            return problem(request.method(), refused);
        }
        let language = Language::of(request.uri().query(), request.headers());
        let page = page::refusal(language, refused.status, &refused.detail, self.detector.file_bytes_max());
        let mut response = html(request.headers(), page);
        *response.status_mut() = http::StatusCode::from_u16(refused.status).unwrap_or(http::StatusCode::BAD_REQUEST);
        refused.say_when(response)
    }
}

async fn gathered(mut body: RequestBody, held_max: usize, discarded_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let (mut held, mut seen) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= held_max {
            held.extend_from_slice(&data);
        } else if seen > held_max.saturating_add(discarded_max) {
            return Ok(None);
        } else {
            held = Vec::new();
        }
    }
    Ok((seen <= held_max).then(|| held.into()))
}

fn broken() -> NoReport {
    NoReport::new(503, "broken", "Broken", "the picture could not be checked")
}

/// Signs the report where the edge has a signer. Blocks for as long as a signing program takes.
fn signed(report: Report, signers: &SignerHandle) -> Checked {
    let payload = serde_json::to_vec(&report).unwrap_or_default();
    let signer = signers.current();
    let document = signer.as_ref().and_then(|signer| {
        let document = SignedDocument::sign(signer, &payload, signers.now_unix_s());
        document.inspect_err(|error| log_limited!(error, %error, "a report is not signed")).ok()
    });
    let signed_by = signer.filter(|_| document.is_some()).map(|signer| signer.organisation().to_owned());
    Checked { report, document, signed_by }
}

/// A browser names HTML; programs name JSON, anything or nothing.
fn wants_page(headers: &HeaderMap) -> bool {
    let accept = crate::fields::list(headers, &ACCEPT);
    accept.is_some_and(|accept| {
        accept.split(',').any(|member| member.split(';').next().is_some_and(|media| media.trim() == "text/html"))
    })
}

fn html(request: &HeaderMap, page: String) -> Response<Body> {
    guarded(response::text(request, TextKind::Html, page, "no-store"))
}

fn problem(method: &Method, refused: &NoReport) -> Response<Body> {
    let problem = Problem::new(refused.status, refused.kind, refused.title, refused.detail.clone());
    let mut response = response::error(method, &problem, Negotiation::Explicit);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    refused.say_when(guarded(response))
}

fn method_not_allowed(method: &Method, allowed: &'static str) -> Response<Body> {
    let detail = format!("this resource takes {allowed}");
    let mut response = problem(method, &NoReport::new(405, "method-not-allowed", "Method not allowed", detail));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// What every answer about a picture has: no cache stores it, no page frames it, and no other site reads it.
fn guarded(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, CSP);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_ROBOTS_TAG, HeaderValue::from_static("noindex"));
    headers.append(VARY, HeaderValue::from_static("Accept, Accept-Language"));
    response
}
