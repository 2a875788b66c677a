//! The way of a request, on one screen.
//!
//! ```text
//! front map ─ kept answer ─▶ respond
//!   └▶ route → resolve → memory ─ hit ─▶ respond, and keep the answer
//!                          └ miss ─▶ fill within the slot's patience ─▶ respond
//!                                      └ too late, or refused ─▶ stand-in ─▶ respond
//! ```
//!
//! Invariants: nothing here blocks, touches a disk or computes over pixels; a wrong URL never reaches a fill; a
//! stand-in never carries the freshness of what it stands for; no image leaves without the gate's word, asked behind the last wait.

mod smaller;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::access::visit::{Answered, LazyTrace, Observer, Visit};
use crate::cache::{Caches, PreparedFor, Rendition};
use crate::campaign::{Catalog, CatalogHandle};
use crate::fields::list;
use crate::fill::{Fill, FillError, Filled, MANIFEST_PATH_PREFIX, ManifestName, Peek, manifest_path};
use crate::front::{Front, Question, Ready};
use crate::governance::{Cleared, Downstream, Withheld};
use crate::listener::forwarded::Trusted;
use crate::metrics::RequestMetrics;
use crate::placeholder::PlaceholderError;
use crate::render::{Placement, Rung};
use crate::request::MARKUP_PATH_PREFIX;
use crate::resolve::{Factors, Negotiation, Reader, Resolution, Resolved, Trace, Want, resolve};
use crate::response::{self, Answer, Freshness, Lifetime, Pin, Recall, VariantWords};
use crate::rum::{self, Rum};
use crate::seo::{MarkupDesk, NoMarkup, SITEMAP_PARTS_PREFIX, SITEMAP_PATH, Sitemaps};
use crate::service::{Body, PlainHead, RequestBody, Respond};
use crate::signing::SigningHandle;
use crate::stand_in::{Missing, StandIn, StandIns};
use crate::verify::{self, VerifyDesk};
use crate::words::{Collapse, FillTimings, Outcome};
use bildkante_shared::log_limited;
use bildkante_shared::problem::Problem;
use http::header::{self, ACCEPT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Seconds after which asking again for what could not be shown makes sense.
const RETRY_AFTER_S: u16 = 5;

/// Answers the public listener.
#[derive(Debug)]
pub struct Handler {
    pub catalog: CatalogHandle,
    pub front: Front,
    pub signing: SigningHandle,
    pub fill: Arc<Fill>,
    /// For kept answers, whose renditions are looked up here.
    pub caches: Arc<Caches>,
    pub stand_ins: StandIns,
    pub metrics: RequestMetrics,
    /// Counts and logs every answer.
    pub observer: Observer,
    pub rum: Rum,
    pub public_url: String,
    /// Longest a request's body may take to arrive.
    pub body_deadline: Duration,
    /// Whose word about the client is taken.
    pub trusted: Trusted,
    /// Caches in front, which decide how what may be recalled is recalled.
    pub downstream: Downstream,
    /// `None` where the operator did not switch it on.
    pub verify: Option<VerifyDesk>,
    pub markup: MarkupDesk,
    /// `None` where the operator did not switch it on.
    pub sitemaps: Option<Sitemaps>,
}

/// The same for beacons of a network that sends too many.
const BEACON_RETRY_AFTER_S: u16 = 60;

enum Route {
    Image,
    /// What pages say of an image.
    Markup,
    /// What search engines are told of.
    Sitemap,
    Beacon,
    Script,
    /// A C2PA manifest that is not in its file.
    Manifest,
    /// The detector.
    Verify,
    /// `*`: the server as a whole (RFC 9110 §7.1).
    Server,
    Unknown,
}

fn route(path: &str) -> Route {
    match path {
        "/rum" => Route::Beacon,
        "/rum.js" => Route::Script,
        SITEMAP_PATH => Route::Sitemap,
        "*" => Route::Server,
        _ if path.starts_with("/i/") => Route::Image,
        _ if path.starts_with(MARKUP_PATH_PREFIX) => Route::Markup,
        _ if path.starts_with(SITEMAP_PARTS_PREFIX) => Route::Sitemap,
        _ if path.starts_with(MANIFEST_PATH_PREFIX) => Route::Manifest,
        _ if path.starts_with(verify::PATH) => Route::Verify,
        _ => Route::Unknown,
    }
}

impl Respond for Handler {
    type Prepared = Ready;

    async fn respond(&self, request: Request<RequestBody>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        if let Some(response) = self.kept(&request, &body, peer, started) {
            return response;
        }
        let visit = Visit::new(&self.observer, &request, (peer, &self.trusted), started);
        let response = self.answer_to(&request, body, &visit).await;
        visit.answered(response)
    }

    fn refused(&self, request: &Request<()>, problem: &Problem, peer: SocketAddr) -> Response<Body> {
        let visit = Visit::new(&self.observer, request, (peer, &self.trusted), Instant::now());
        let response = self.problem(&Exchange::explicit(request, &visit), problem);
        visit.answered(response)
    }

    fn prepared(&self, head: &PlainHead<'_>, peer: SocketAddr, started: Instant) -> Option<Ready> {
        let ready = self.front.ready(head, &self.caches, started)?;
        self.observer.lane_hit(&ready, head, peer, &self.trusted);
        Some(ready)
    }
}

/// One request and what its URL already decides about the answer.
struct Exchange<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    negotiation: Negotiation,
    /// `v` as it was asked.
    version: Option<&'a str>,
    /// Under what its answer may be kept, if it turns out to be one that can.
    keep: Option<Keep<'a>>,
    /// Whose budget a picture is drawn on.
    client: IpAddr,
    trace: &'a LazyTrace<'a>,
    started: Instant,
}

/// Where the front map would find an answer again.
#[derive(Debug, Clone, Copy)]
struct Keep<'a> {
    question: Question<'a>,
    epoch: u64,
}

impl<'a> Exchange<'a> {
    /// For resources with one representation.
    fn explicit(request: &'a Request<()>, visit: &'a Visit<'a>) -> Self {
        Self {
            method: request.method(),
            headers: request.headers(),
            negotiation: Negotiation::Explicit,
            version: None,
            keep: None,
            client: visit.client,
            trace: &visit.trace,
            started: visit.started,
        }
    }
}

impl Handler {
    async fn answer_to(&self, request: &Request<()>, body: RequestBody, visit: &Visit<'_>) -> Response<Body> {
        match (route(request.uri().path()), request.method()) {
            (Route::Verify, _) => self.verify(request, body, visit).await,
            (Route::Image, &Method::GET | &Method::HEAD) => self.image(request, visit).await,
            (Route::Markup, &Method::GET | &Method::HEAD) => self.markup(request, visit),
            (Route::Sitemap, &Method::GET | &Method::HEAD) => self.sitemap(request, visit).await,
            (Route::Script, &Method::GET | &Method::HEAD) => rum::SCRIPT.respond(request.headers()),
            (Route::Manifest, &Method::GET | &Method::HEAD) => self.manifest(request, visit).await,
            (Route::Beacon, &Method::POST) => self.share(request, self.beacon(request, body, visit).await),
            (Route::Image | Route::Markup | Route::Sitemap | Route::Script | Route::Manifest, &Method::OPTIONS) => {
                response::options(request.headers(), "GET, HEAD, OPTIONS")
            }
            (Route::Beacon, &Method::OPTIONS) => {
                self.share(request, response::options(request.headers(), "POST, OPTIONS"))
            }
            (Route::Server, &Method::OPTIONS) => response::options(request.headers(), "GET, HEAD, POST, OPTIONS"),
            (Route::Unknown | Route::Server, _) => self.not_found(request, visit),
            (Route::Beacon, _) => self.method_not_allowed(request, "POST, OPTIONS", visit),
            (Route::Image | Route::Markup | Route::Sitemap | Route::Script | Route::Manifest, _) => {
                self.method_not_allowed(request, "GET, HEAD, OPTIONS", visit)
            }
        }
    }

    /// A kept answer to a request of hyper's; the lane has asked for itself.
    fn kept(
        &self,
        request: &Request<()>,
        body: &RequestBody,
        peer: SocketAddr,
        started: Instant,
    ) -> Option<Response<Body>> {
        let is_of_hyper = matches!(body, RequestBody::Incoming(_));
        if !is_of_hyper || !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let target = request.uri().path_and_query()?.as_str().as_bytes();
        let ready = self.front.ready_for(target, request.headers(), &self.caches, started)?;
        self.observer.hit(&ready, request, peer, &self.trusted);
        Some(ready.into_response(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    async fn image(&self, request: &Request<()>, visit: &Visit<'_>) -> Response<Body> {
        let _in_flight = self.metrics.enter();
        let mut exchange = Exchange::explicit(request, visit);
        // Before anything the answer will depend on is looked up.
        let epoch = self.front.epoch();
        let catalog = self.catalog.load();
        let asker = Reader { headers: request.headers(), signing: &self.signing };
        let Trace { request: asked, factors, outcome, .. } = resolve(&catalog, request.uri(), &asker);
        exchange.version = asked.as_ref().and_then(|asked| asked.version.as_deref());
        exchange.negotiation = factors.negotiation();
        let Resolution { resolved, want } = match outcome {
            Ok(resolution) => resolution,
            Err(refusal) => return self.problem(&exchange, &refusal.problem()),
        };
        exchange.keep = question(request, factors).map(|question| Keep { question, epoch });
        let mut want = match self.fill.gate().place(want.clone()) {
            Ok(want) => want,
            Err(withheld) => return self.withheld(&exchange, &catalog, &resolved, &want, withheld).await,
        };
        let mut at_hand = self.at_hand(&want);
        if let Some(smaller) = at_hand.as_ref().and_then(|filled| smaller::wanted(&exchange, &resolved, &want, filled))
        {
            at_hand = self.at_hand(&smaller);
            // Else the miss finds the larger one first, and shows it where the smaller one cannot be had.
            if at_hand.is_some() {
                want = smaller;
            }
        }
        match at_hand {
            Some(filled) => self.found(&exchange, &catalog, &resolved, &want, &filled, Collapse::Led).await,
            None => self.miss(&exchange, &catalog, &resolved, want.of_request(exchange.trace.get())).await,
        }
    }

    /// What takes no device: from memory, or from what the page cache holds of a disk.
    fn at_hand(&self, want: &Want) -> Option<Filled> {
        match self.fill.peek(want) {
            Peek::Fresh(rendition) => {
                self.fill.improve(&rendition, want);
                Some(Filled::from_memory(rendition))
            }
            Peek::Stale(rendition, since) => {
                self.fill.refresh(&rendition, want);
                Some(Filled::stale(rendition, since))
            }
            Peek::Absent => self.fill.peek_disk(want),
        }
    }

    fn markup(&self, request: &Request<()>, visit: &Visit<'_>) -> Response<Body> {
        self.markup.answer(request).unwrap_or_else(|refused| {
            let NoMarkup { problem, negotiation } = *refused;
            self.problem(&Exchange { negotiation, ..Exchange::explicit(request, visit) }, &problem)
        })
    }

    /// Where the operator switched it on.
    async fn sitemap(&self, request: &Request<()>, visit: &Visit<'_>) -> Response<Body> {
        let answer = match &self.sitemaps {
            Some(sitemaps) => sitemaps.respond(request.uri().path(), request.method(), request.headers()).await,
            None => None,
        };
        answer.unwrap_or_else(|| self.not_found(request, visit))
    }

    /// A manifest that a `Link` field or the metadata of a picture named.
    async fn manifest(&self, request: &Request<()>, visit: &Visit<'_>) -> Response<Body> {
        let name = request.uri().path().strip_prefix(MANIFEST_PATH_PREFIX).and_then(ManifestName::parse);
        let Some(name) = name else { return self.not_found(request, visit) };
        match self.fill.manifest(name).await {
            Some(bytes) => response::manifest(bytes, name.is_lasting()),
            None => self.not_found(request, visit),
        }
    }

    /// The detector, where the operator switched it on.
    async fn verify(&self, request: &Request<()>, body: RequestBody, visit: &Visit<'_>) -> Response<Body> {
        let answer = match &self.verify {
            Some(desk) => desk.respond(request, body, visit.client).await,
            None => None,
        };
        answer.unwrap_or_else(|| self.not_found(request, visit))
    }

    /// Waits as long as the slot's policy allows, then answers with what there is.
    async fn miss(
        &self,
        exchange: &Exchange<'_>,
        catalog: &Catalog,
        resolved: &Resolved,
        want: Want,
    ) -> Response<Body> {
        let patience = self.stand_ins.patience(resolved.slot.on_miss, &want);
        let payer = self.fill.payer(&resolved.campaign.name, exchange.client);
        let asked = Instant::now();
        let reason = match self.fill.answer_within(&want, &payer, patience.wait).await {
            Ok((filled, role)) => {
                if let Some(smaller) = smaller::wanted(exchange, resolved, &want, &filled) {
                    let left = patience.wait.saturating_sub(asked.elapsed());
                    // Else the larger one, for a moment.
                    if let Ok((instead, role)) = self.fill.answer_within(&smaller, &payer, left).await {
                        let filled = instead.after(&filled);
                        return self.found(exchange, catalog, resolved, &smaller, &filled, role.into()).await;
                    }
                }
                return self.found(exchange, catalog, resolved, &want, &filled, role.into()).await;
            }
            Err(FillError::Withheld(withheld)) => {
                return self.withheld(exchange, catalog, resolved, &want, withheld).await;
            }
            Err(error) => error,
        };
        // What was purged softly is nearer to what was asked for than anything else.
        if let Some(filled) = self.fill.stale_copy(&want).await {
            self.metrics.stood_in(filled.outcome, reason.as_str());
            return self.found(exchange, catalog, resolved, &want, &filled, Collapse::Led).await;
        }
        let accept = list(exchange.headers, &ACCEPT);
        let missing =
            Missing { catalog, resolved, want: &want, accept: accept.as_deref(), payer: &payer, then: patience.then };
        self.stand_in(exchange, missing, &reason).await
    }

    /// A picture that is there, if it may be shown: asked now, behind every wait.
    async fn found(
        &self,
        exchange: &Exchange<'_>,
        catalog: &Catalog,
        resolved: &Resolved,
        want: &Want,
        filled: &Filled,
        collapse: Collapse,
    ) -> Response<Body> {
        let rendition = &filled.rendition;
        let cleared = match self.fill.gate().clear(want, Some(rendition.master)) {
            Ok(cleared) => cleared,
            Err(withheld) => return self.withheld(exchange, catalog, resolved, want, withheld).await,
        };
        let is_current = |asked: &str| resolved.version(rendition.master).is_named_by(asked);
        let pin = if exchange.version.is_some_and(is_current) { Pin::Current } else { Pin::None };
        let recall = match (resolved.campaign.policy.is_recallable, self.downstream.is_empty()) {
            (false, _) => Recall::Never,
            (true, true) => Recall::Recallable,
            (true, false) => Recall::ByPurger,
        };
        let freshness = match filled.stale_for {
            Some(_) => Freshness::Stale,
            // The smaller file takes its place in a moment, as a final rung does that of a quick one.
            None if smaller::wanted(exchange, resolved, want, filled).is_some() => {
                Freshness::of(Rung::Quick, recall, pin)
            }
            None => Freshness::of(rendition.rung, recall, pin),
        };
        let standing = self.fill.gate().standing(want);
        let because = Because {
            outcome: filled.outcome,
            collapse,
            freshness,
            reason: None,
            epoch: standing.epoch,
            left_s: standing.left_s(),
            stale_for: filled.stale_for,
            timings: filled.timings,
        };
        self.answer(exchange, resolved, want, rendition, (because, cleared))
    }

    /// What is shown in place of a picture that is withheld.
    async fn withheld(
        &self,
        exchange: &Exchange<'_>,
        catalog: &Catalog,
        resolved: &Resolved,
        want: &Want,
        withheld: Withheld,
    ) -> Response<Body> {
        let payer = self.fill.payer(&resolved.campaign.name, exchange.client);
        let accept = list(exchange.headers, &ACCEPT);
        let then = resolved.slot.on_miss.stopgap();
        let missing = Missing { catalog, resolved, want, accept: accept.as_deref(), payer: &payer, then };
        let found = self.stand_ins.instead(missing).await;
        let (reason, epoch) = (withheld.reason.as_str(), Some(withheld.epoch));
        self.shown_instead(exchange, missing, found, Instead { reason, epoch, status: 503 })
    }

    /// What there is to show instead; the picture goes on being made.
    async fn stand_in(&self, exchange: &Exchange<'_>, missing: Missing<'_>, reason: &FillError) -> Response<Body> {
        let found = self.stand_ins.find(missing).await;
        let status = if matches!(reason, FillError::OverBudget(_)) { 429 } else { 503 };
        self.shown_instead(exchange, missing, found, Instead { reason: reason.as_str(), epoch: None, status })
    }

    fn shown_instead(
        &self,
        exchange: &Exchange<'_>,
        missing: Missing<'_>,
        found: Result<StandIn, PlaceholderError>,
        Instead { reason, epoch, status }: Instead,
    ) -> Response<Body> {
        match found {
            Ok(StandIn { rendition, outcome, cleared }) => {
                self.metrics.stood_in(outcome, reason);
                let because = Because {
                    outcome,
                    collapse: Collapse::Led,
                    freshness: if epoch.is_some() { Freshness::Withheld } else { Freshness::StandIn },
                    reason: Some(reason),
                    epoch,
                    left_s: None,
                    stale_for: None,
                    timings: FillTimings::default(),
                };
                self.answer(exchange, missing.resolved, missing.want, &rendition, (because, cleared))
            }
            Err(error) => {
                log_limited!(error, %error, "no placeholder could be made");
                let detail = format!("there is no image to show now ({reason})");
                let mut response = self.problem(exchange, &Problem::new(status, "no-image", "No image now", detail));
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
                response
            }
        }
    }

    fn answer(
        &self,
        exchange: &Exchange<'_>,
        resolved: &Resolved,
        want: &Want,
        rendition: &Rendition,
        (because, cleared): (Because, Cleared),
    ) -> Response<Body> {
        // No image leaves without it.
        let Cleared { .. } = cleared;
        let elapsed = exchange.started.elapsed();
        let prepared = self.prepared(resolved, want, rendition, because.outcome);
        // A moment that no cache reaches changes nothing of what it is told.
        let reaches = |left_s: &u32| *left_s < because.freshness.reach_s();
        let decided_s = because.left_s.filter(reaches);
        let left_s = [resolved.grant.left_s(), decided_s].into_iter().flatten().min();
        let answer = Answer {
            outcome: because.outcome,
            collapse: because.collapse,
            lifetime: Lifetime::new(because.freshness, left_s),
            negotiation: exchange.negotiation,
            reason: because.reason,
            epoch: because.epoch,
            stale_for: because.stale_for,
            timings: because.timings,
            elapsed,
        };
        self.keep(exchange, resolved, rendition, (&prepared, &answer), because.left_s);
        let mut response = response::image(exchange.method, exchange.headers, rendition, prepared, &answer);
        response.extensions_mut().insert(Answered::of(because.outcome, resolved));
        if response.status().is_client_error() {
            self.metrics.problem(response.status().as_u16(), elapsed);
        } else {
            let (campaign, slot) = (resolved.campaign.name.as_str(), resolved.slot.name.as_str());
            self.metrics.answered(because.outcome, rendition.spec.format, campaign, slot, elapsed);
        }
        response
    }

    /// Keeps the answer in the front map if the next one will be the same: a final rung from a tier of this edge under
    /// a URL that says all there is to say.
    fn keep(
        &self,
        exchange: &Exchange<'_>,
        resolved: &Resolved,
        rendition: &Rendition,
        (prepared, answer): (&HeaderMap, &Answer),
        left_s: Option<u32>,
    ) {
        let Some(Keep { question, epoch }) = exchange.keep else { return };
        // A larger file that a smaller one is to follow is final, and its answer is not.
        let is_for_now = matches!(answer.lifetime.freshness, Freshness::Quick);
        if is_for_now || !matches!(answer.outcome, Outcome::Memory | Outcome::Disk) {
            return;
        }
        let reach_s = answer.lifetime.freshness.reach_s();
        // Kept until what caches are told would be too much.
        let keeps = left_s.map(|left_s| Duration::from_secs(left_s.saturating_sub(reach_s).into()));
        if keeps.is_some_and(|keeps| keeps.is_zero()) {
            return;
        }
        let ends = keeps.and_then(|keeps| exchange.started.checked_add(keeps));
        let (campaign, slot) = (resolved.campaign.name.as_str(), resolved.slot.name.as_str());
        let counters = |outcome| self.metrics.hit_counters(outcome, rendition.spec.format, campaign, slot);
        let kept = (rendition.key, rendition);
        self.front.keep(question, (epoch, ends), kept, response::settle(prepared, rendition, answer), counters);
    }

    /// The rendition's fixed headers. They are kept with it for the first slot and variant it is served for; a
    /// rendition that several share (a merged duplicate, two slots of one width) has the others' made each time.
    fn prepared(&self, resolved: &Resolved, want: &Want, rendition: &Rendition, outcome: Outcome) -> HeaderMap {
        let (slot, combination) = (resolved.campaign.slot_id(resolved.slot_index), want.variant.key.combination);
        let owner = PreparedFor { slot, combination };
        let is_own = outcome.is_own();
        if is_own && let Some(headers) = rendition.prepared.get(owner) {
            return headers.clone();
        }
        let canonical = is_own.then(|| format!("{}{}", self.public_url, resolved.canonical_url()));
        let manifest = (rendition.manifest == Placement::Beside)
            .then(|| format!("{}{}", self.public_url, manifest_path(rendition.key, rendition.rung)));
        let bytes_max = want.finish.bytes_max().filter(|_| is_own);
        let of_place = want.variant.tags.of_place();
        // What is shown until another picture is decided for goes when it is.
        let awaited = want.decided.is_some().then(|| want.variant.tags.recipe());
        let all: Vec<&str> = {
            let own = want.tags().all();
            let awaited = awaited.filter(|awaited| !own.contains(awaited));
            own.into_iter().chain(awaited).collect()
        };
        let headers = response::prepare(
            rendition,
            &VariantWords {
                tags: if is_own { &all } else { &of_place },
                master: (outcome != Outcome::Placeholder).then_some(rendition.master),
                urgency: resolved.slot.urgency,
                file_stem: &resolved.variant.file_stem,
                canonical_url: canonical.as_deref(),
                manifest_url: manifest.as_deref(),
                bytes_over: bytes_max.and_then(|bytes_max| bytes_max.exceeded_by(rendition.body.len())),
            },
        );
        if is_own {
            rendition.prepared.set(owner, headers.clone());
        }
        headers
    }

    /// What scripts of the page may know of an answer to a beacon.
    fn share(&self, request: &Request<()>, mut response: Response<Body>) -> Response<Body> {
        self.rum.gate.share(request.headers(), response.headers_mut());
        response
    }

    async fn beacon(&self, request: &Request<()>, body: RequestBody, visit: &Visit<'_>) -> Response<Body> {
        let exchange = Exchange::explicit(request, visit);
        let refused = |status, detail: String| {
            self.problem(&exchange, &Problem::new(status, "beacon-refused", "Beacon refused", detail))
        };
        if let Err(refusal) = self.rum.admit(request.headers(), visit.client) {
            let mut response = refused(refusal.status(), refusal.to_string());
            if refusal.status() == 429 {
                response.headers_mut().insert(header::RETRY_AFTER, BEACON_RETRY_AFTER_S.into());
            }
            return response;
        }
        let body = Limited::new(body, rum::BEACON_BYTES_MAX).collect();
        let body = match tokio::time::timeout(self.body_deadline, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return refused(413, format!("a beacon has at most {} bytes", rum::BEACON_BYTES_MAX));
            }
            Ok(Err(_)) => return refused(400, "the beacon broke off".to_owned()),
            Err(_) => return refused(408, format!("a beacon arrives within {} ms", self.body_deadline.as_millis())),
        };
        let catalog = self.catalog.load();
        match self.rum.metrics.record(&body.to_bytes(), |campaign, slot| {
            catalog.campaign(campaign).is_some_and(|campaign| campaign.slot_index(slot).is_some())
        }) {
            Ok(()) => response::no_content(),
            Err(error) => refused(400, error.to_string()),
        }
    }

    fn problem(&self, exchange: &Exchange<'_>, problem: &Problem) -> Response<Body> {
        self.metrics.problem(problem.status, exchange.started.elapsed());
        let problem = problem.clone().of_request(&exchange.trace.get().request);
        response::error(exchange.method, &problem, exchange.negotiation)
    }

    fn method_not_allowed(&self, request: &Request<()>, allowed: &'static str, visit: &Visit<'_>) -> Response<Body> {
        let exchange = Exchange::explicit(request, visit);
        let detail = format!("this resource takes {allowed}");
        let mut response =
            self.problem(&exchange, &Problem::new(405, "method-not-allowed", "Method not allowed", detail));
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        response
    }

    fn not_found(&self, request: &Request<()>, visit: &Visit<'_>) -> Response<Body> {
        let exchange = Exchange::explicit(request, visit);
        let detail = "images are at /i/{campaign}/{slot}, their markup at /p/{campaign}/{slot}, field measurements at /rum and /rum.js";
        self.problem(&exchange, &Problem::new(404, "not-found", "Not found", detail))
    }
}

/// Why a response is what it is.
#[derive(Debug, Clone, Copy)]
struct Because {
    outcome: Outcome,
    collapse: Collapse,
    freshness: Freshness,
    reason: Option<&'static str>,
    /// Of the state that decided about it, or withholds what was asked for.
    epoch: Option<u64>,
    /// Seconds until something else is shown by itself.
    left_s: Option<u32>,
    stale_for: Option<Duration>,
    timings: FillTimings,
}

/// Why something else is shown.
#[derive(Debug, Clone, Copy)]
struct Instead {
    reason: &'static str,
    /// Of the state that withholds the picture.
    epoch: Option<u64>,
    /// Where nothing at all can be shown.
    status: u16,
}

/// What an answer may be kept under, where nothing but URL and `Accept` decides about it.
fn question(request: &Request<()>, factors: Factors) -> Option<Question<'_>> {
    if !factors.is_keepable() {
        return None;
    }
    let mut lines = request.headers().get_all(ACCEPT).iter();
    let accept = lines.next().map(HeaderValue::as_bytes);
    let target = request.uri().path_and_query()?.as_str().as_bytes();
    lines.next().is_none().then_some(Question { target, accept })
}
