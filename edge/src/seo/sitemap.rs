//! `/sitemap.xml` and the files it names: every picture that is live, for search engines.
//!
//! Files are made when they are asked for and something changed since the last time: on a thread of their own, campaign by
//! campaign, gzipped to the disk as they are written, so that memory does not grow with the number of variants. Making them
//! takes at most a twentieth of a core: what is asked for sooner is the last state. Campaigns that answer signed URLs only are
//! left out.
//!
//! Invariants: one walk at a time; what is answered is whole; nothing is listed that the gate would not clear at the moment of
//! the walk, and nothing is kept beyond the next moment at which that changes by itself.

mod part;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use bildkante_shared::log_limited;
use bildkante_shared::problem::Problem;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Response};
use prometheus::{Gauge, IntCounterVec, IntGauge, Opts, Registry};

use self::part::{Part, escaped};
use self::walk::Walk;
use crate::cache::{Caches, Flights, unix_ms};
use crate::campaign::CatalogHandle;
use crate::fill::Fill;
use crate::response::{self, Freshness, Lifetime, MadeText, Negotiation, TextKind};
use crate::service::Body;

pub const SITEMAP_PATH: &str = "/sitemap.xml";
/// Where the files are that the index names.
pub const SITEMAP_PARTS_PREFIX: &str = "/sitemaps/";

/// Longest a request waits for a walk; a million variants take about a minute.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest a walk may take.
const WALK_MAX: Duration = Duration::from_secs(1_800);
/// Between walks lies this many times what the last one took.
const REST_FACTOR: u32 = 20;
/// And this at the least.
const REST_MIN: Duration = Duration::from_secs(1);
/// For those who come too early.
const RETRY_AFTER_S: u16 = 30;

/// What is counted of sitemaps.
#[derive(Debug, Clone)]
pub struct SitemapMetrics {
    walks: IntCounterVec,
    entries: IntGauge,
    walk_seconds: Gauge,
}

impl SitemapMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            walks: IntCounterVec::new(
                Opts::new("bildkante_edge_sitemap_walks_total", "Times the sitemap was made, by outcome"),
                &["outcome"],
            )?,
            entries: IntGauge::new("bildkante_edge_sitemap_entries", "Addresses in the sitemap")?,
            walk_seconds: Gauge::new("bildkante_edge_sitemap_walk_seconds", "How long making the sitemap took last")?,
        };
        registry.register(Box::new(metrics.walks.clone()))?;
        registry.register(Box::new(metrics.entries.clone()))?;
        registry.register(Box::new(metrics.walk_seconds.clone()))?;
        for outcome in ["made", "failed"] {
            metrics.walks.with_label_values(&[outcome]);
        }
        Ok(metrics)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sitemaps {
    parts: Arc<SitemapParts>,
    made: Arc<ArcSwapOption<Made>>,
    walks: Flights<(), Option<Arc<Made>>>,
}

/// What a walk needs.
#[derive(Debug)]
pub struct SitemapParts {
    pub catalog: CatalogHandle,
    pub fill: Arc<Fill>,
    pub caches: Arc<Caches>,
    pub public_url: String,
    /// Of these files alone.
    pub folder: PathBuf,
    pub metrics: SitemapMetrics,
    /// Walks so far: each has a folder of its own.
    pub generation: AtomicU64,
}

/// What was known when a walk began: a difference makes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    epoch: u64,
    /// A picture that is drawn for the first time changes no answer, so it advances no epoch.
    bindings: usize,
}

/// The files of one walk.
#[derive(Debug)]
struct Made {
    known: Known,
    finished: Instant,
    took: Duration,
    changes_unix_ms: Option<u64>,
    parts: Vec<Part>,
}

impl Made {
    /// Whether it says what is so now.
    fn is_current(&self, known: Known) -> bool {
        self.known == known && self.changes_unix_ms.is_none_or(|changes| unix_ms(SystemTime::now()) < changes)
    }

    /// Whether it is too soon for another walk.
    fn is_resting(&self) -> bool {
        self.finished.elapsed() < (self.took * REST_FACTOR).max(REST_MIN)
    }

    fn lifetime(&self) -> Lifetime {
        let left_ms = self.changes_unix_ms.map(|changes| changes.saturating_sub(unix_ms(SystemTime::now())));
        let left_s = left_ms.map(|left_ms| u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX));
        let freshness = Freshness::Recallable;
        Lifetime::new(freshness, left_s.filter(|left_s| *left_s < freshness.reach_s()))
    }
}

impl Sitemaps {
    #[must_use]
    pub fn new(parts: SitemapParts) -> Self {
        let walks = Flights::new(1, WALK_MAX, parts.caches.metrics.flights.clone());
        Self { parts: Arc::new(parts), made: Arc::default(), walks }
    }

    /// The index, or a file of it; `None` where there is none at this path.
    pub async fn respond(&self, path: &str, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        let Some(made) = self.current().await else { return Some(too_early(method)) };
        if path == SITEMAP_PATH {
            let body = index(&self.parts.public_url, &made.parts);
            let (kind, lifetime) = (TextKind::Xml, made.lifetime());
            let text = MadeText { kind, body, lifetime, negotiation: Negotiation::Explicit, tags: &[] };
            return Some(text.respond(method, headers));
        }
        let name = path.strip_prefix(SITEMAP_PARTS_PREFIX)?;
        let part = made.parts.iter().find(|part| part.name == name)?;
        let file = part.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
        match read.map_err(std::io::Error::other).and_then(|read| read) {
            Ok(file) => Some(response::gzip(method, headers, (file, &part.digest), made.lifetime())),
            Err(error) => {
                log_limited!(error, %error, "a file of the sitemap cannot be read");
                Some(too_early(method))
            }
        }
    }

    /// The files of now, or the last ones where it is too soon to make others. `None` where there are none in time.
    async fn current(&self) -> Option<Arc<Made>> {
        let last = self.made.load_full();
        if let Some(made) = &last
            && (made.is_current(self.parts.known()) || made.is_resting())
        {
            return last;
        }
        let (parts, made) = (Arc::clone(&self.parts), Arc::clone(&self.made));
        let walk = move || async move {
            let walked = tokio::task::spawn_blocking(move || parts.walk()).await.ok().flatten();
            if let Some(walked) = &walked {
                made.store(Some(Arc::clone(walked)));
            }
            walked
        };
        let landed = match self.walks.fly((), walk) {
            Ok(ticket) => ticket.landed_within(WAIT_MAX).await.ok().flatten(),
            Err(_) => None,
        };
        landed.or(last)
    }
}

impl SitemapParts {
    fn known(&self) -> Known {
        Known { epoch: self.caches.epoch.current(), bindings: self.caches.bindings.len() }
    }

    /// Makes all files anew.
    fn walk(&self) -> Option<Arc<Made>> {
        let (started, known) = (Instant::now(), self.known());
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let walked = self.walk_into(generation);
        let outcome = if walked.is_ok() { "made" } else { "failed" };
        self.metrics.walks.with_label_values(&[outcome]).inc();
        let (parts, changes_unix_ms) =
            walked.inspect_err(|error| log_limited!(error, %error, "the sitemap cannot be written")).ok()?;
        let (finished, took) = (Instant::now(), started.elapsed());
        self.metrics.walk_seconds.set(took.as_secs_f64());
        self.metrics.entries.set(parts.iter().map(|part| i64::from(part.entries)).sum());
        Some(Arc::new(Made { known, finished, took, changes_unix_ms, parts }))
    }

    fn walk_into(&self, generation: u64) -> std::io::Result<(Vec<Part>, Option<u64>)> {
        // The files before are read until these are there. What an earlier process left is of no use.
        let stale = if generation == 0 { self.folder.clone() } else { self.of(generation.saturating_sub(2)) };
        if generation != 1 {
            remove(&stale)?;
        }
        let folder = self.of(generation);
        std::fs::create_dir_all(&folder)?;
        let catalog = self.catalog.load();
        let mut walk = Walk {
            catalog: &catalog,
            fill: &self.fill,
            bindings: &self.caches.bindings,
            public_url: &self.public_url,
            folder: &folder,
            changes_unix_ms: None,
        };
        let parts = walk.all()?;
        Ok((parts, walk.changes_unix_ms))
    }

    fn of(&self, generation: u64) -> PathBuf {
        self.folder.join(generation.to_string())
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An index of the protocol 0.9. It has no dates: when a file last changed says little of what is in it.
fn index(public_url: &str, parts: &[Part]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <sitemapindex xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n"
        .to_owned();
    for part in parts {
        let location = format!("{public_url}{SITEMAP_PARTS_PREFIX}{}", part.name);
        xml.push_str(&format!("<sitemap><loc>{}</loc></sitemap>\n", escaped(&location)));
    }
    xml.push_str("</sitemapindex>\n");
    xml
}

fn too_early(method: &Method) -> Response<Body> {
    let problem =
        Problem::new(503, "sitemap-not-ready", "Sitemap not ready", "the sitemap is being made; ask again later");
    let mut response = response::error(method, &problem, Negotiation::Explicit);
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S.into());
    response
}
