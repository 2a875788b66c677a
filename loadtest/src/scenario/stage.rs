//! Servers of a scenario's own, warmed: some renditions in memory, the fallback drawn, everything else cold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::campaign;
use crate::client::Requests;
use crate::drive::Drive;
use crate::fleet::{Fleet, FleetSpec};
use crate::plan::{Servers, Settings};
use crate::report::Phase;
use crate::target::{Reach, Target};

/// Bound of the p99 of hits beside trouble, divided by the p99 without.
pub const HIT_P99_RATIO_MAX: f64 = 1.5;
/// Bound of the time to first bytes of a cold variant whose slot has a warmed fallback.
pub const FALLBACK_P99_MS_MAX: f64 = 50.0;
/// Renditions that hits are asked of.
const WARM: usize = 48;
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// Widths of a cold hero: rendered at once, or in some hundred milliseconds.
pub const SMALL_PX: u32 = 192;
pub const LARGE_PX: u32 = 640;
/// Below this max-age an answer is a stand-in or a quick rung.
const FINAL_MAX_AGE_S: u64 = 31;

/// See the module's documentation.
#[derive(Debug)]
pub struct Stage {
    pub fleet: Fleet,
    rate_per_s: u32,
    connections: u32,
    warm: Vec<String>,
    cold: Vec<String>,
    waiting: Vec<String>,
    hits: Arc<Requests>,
    misses: Arc<Requests>,
    next_miss: AtomicU64,
}

impl Stage {
    /// Starts the servers and warms every edge. What is cold is asked at `cold_px` wide: small ones are rendered in no
    /// time, large ones keep the render pool busy.
    ///
    /// # Errors
    /// When one does not start, or does not come to answer hits.
    pub async fn set(
        servers: &Servers,
        spec: &FleetSpec,
        rate_per_s: u32,
        connections: u32,
        cold_px: u32,
    ) -> anyhow::Result<Self> {
        let manifest = servers.config_dir.join("campaigns/studio.toml");
        let warm = campaign::paths(&manifest, Some("thumb"), WARM)?;
        let is_cold = |path: &String| !warm.iter().any(|warm| axes(warm) == axes(path));
        let of = |slot| campaign::paths(&manifest, Some(slot), campaign::URLS_MAX);
        let cold: Vec<String> =
            of("hero")?.into_iter().filter(|path| path.ends_with(&format!("w={cold_px}")) && is_cold(path)).collect();
        let waiting =
            of("teaser")?.into_iter().filter(|path| path.ends_with("w=160") && is_cold(path)).take(WARM).collect();
        let fleet = Fleet::start(servers, spec).await?;
        let edges = 0..fleet.edges.len();
        let all = |paths: &[String]| -> Vec<String> {
            // Edge after edge for one path, so that a client that moves on asks the same of the next edge.
            paths
                .iter()
                .flat_map(|path| edges.clone().flat_map(|edge| fleet.urls(edge, std::slice::from_ref(path))))
                .collect()
        };
        let requests = |urls: &[String]| -> anyhow::Result<Arc<Requests>> {
            Ok(Arc::new(Requests::new(&Settings::plain(Target::resolve_all(urls, Reach::LoopbackOnly)?))))
        };
        let (hits, misses) = (requests(&all(&warm))?, requests(&fleet.urls(0, &cold))?);
        let next_miss = AtomicU64::new(0);
        let stage = Self { fleet, rate_per_s, connections, warm, cold, waiting, hits, misses, next_miss };
        stage.warm_up(&format!("/i/studio/hero?w={cold_px}")).await?;
        Ok(stage)
    }

    async fn warm_up(&self, fallback: &str) -> anyhow::Result<()> {
        for edge in 0..self.fleet.edges.len() {
            // All at once: several pictures are drawn side by side.
            let mut asking = tokio::task::JoinSet::new();
            for path in self.warm.iter().map(String::as_str).chain([fallback]) {
                let (address, path) = (self.fleet.edges[edge].http, path.to_owned());
                asking.spawn(async move { until_hit(address, &path).await });
            }
            while let Some(asked) = asking.join_next().await {
                asked.context("warming failed")??;
            }
        }
        Ok(())
    }

    /// Hits at this scenario's rate, over all edges in turn.
    #[must_use]
    pub fn hits(&self, name: impl Into<String>, duration: Duration) -> Drive {
        let connections = self.connections;
        Drive { connections, ..Drive::new(name, Arc::clone(&self.hits), self.rate_per_s, duration) }
    }

    /// Variants of the first edge that were not asked before, in the slot with a fallback.
    #[must_use]
    pub fn misses(&self, name: impl Into<String>, rate_per_s: u32, duration: Duration) -> Drive {
        let count = (f64::from(rate_per_s) * duration.as_secs_f64()).ceil() as u64;
        let first = self.next_miss.fetch_add(count, Ordering::Relaxed);
        Drive { first, connections: 16, ..Drive::new(name, Arc::clone(&self.misses), rate_per_s, duration) }
    }

    /// Number of the next variant that [`Self::misses`] will ask.
    #[must_use]
    pub fn next_miss(&self) -> u64 {
        self.next_miss.load(Ordering::Relaxed)
    }

    /// The path of a variant by its number.
    #[must_use]
    pub fn cold_path(&self, number: u64) -> &str {
        &self.cold[(number % self.cold.len() as u64) as usize]
    }

    /// A variant that was not asked before, in a slot that waits for it.
    #[must_use]
    pub fn waiting_path(&self, number: usize) -> String {
        self.waiting[number % self.waiting.len()].clone()
    }

    /// Waits until nothing is drawn any more, so that one phase's work is not in the next one's way.
    ///
    /// # Errors
    /// When a node does not answer, or goes on for too long.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut before = self.fleet.generations().await?;
        loop {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let now = self.fleet.generations().await?;
            if now == before {
                return Ok(());
            }
            anyhow::ensure!(started.elapsed() < SETTLE_MAX, "the nodes still draw after {SETTLE_MAX:?}");
            before = now;
        }
    }

    /// p99 of hits in one phase by that in another.
    #[must_use]
    pub fn p99_ratio(phase: &Phase, beside: &Phase) -> f64 {
        if phase.hits == 0 || beside.hits == 0 {
            return f64::NAN;
        }
        phase.hits_first_byte_us.p99 as f64 / beside.hits_first_byte_us.p99.max(1) as f64
    }
}

/// Asks until the answer is a final rung from the cache.
async fn until_hit(address: std::net::SocketAddr, path: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let answer = crate::fetch::http1(address, path).await?;
        anyhow::ensure!(answer.status.is_success(), "{path} answers {}: {}", answer.status, answer.text());
        let outcome = answer.outcome();
        if outcome.starts_with("hit") && max_age_s(&answer.headers) >= FINAL_MAX_AGE_S {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < SETTLE_MAX, "{path} is no hit after {SETTLE_MAX:?} but '{outcome}'");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn max_age_s(headers: &http::HeaderMap) -> u64 {
    let text = headers.get(http::header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let members = text.split(',').map(str::trim);
    members.filter_map(|member| member.strip_prefix("max-age=")?.parse().ok()).next().unwrap_or_default()
}

/// What a path asks but for slot and width.
fn axes(path: &str) -> &str {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    query.rsplit_once("&w=").map_or(query, |(axes, _)| axes)
}
