//! A kill on many edges under load: how long after it was acknowledged the last of them answers with the picture.
//!
//! One edge is primary, the others follow it. All of them are asked for one picture all the time, in turn; each round kills it at
//! another edge, waits, and lifts the kill. An answer counts when it has come whole.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::budget::{Bound, Budget, Verdict};
use crate::client::{Lines, Requests};
use crate::drive::{close, record, targets};
use crate::fetch;
use crate::fleet::{Fleet, FleetSpec, TOKEN};
use crate::plan::{FleetPlan, Settings};
use crate::report::{Report, Run, Tally};
use crate::schedule::{Pacer, Schedule};
use crate::target::{Reach, Target};

/// The primary and its followers.
const EDGES: usize = 20;
const PATH: &str = "/i/studio/thumb?product=vase&fm=webp";
const VARIANT: &str = "studio/thumb?product=vase";
const SENDERS: u32 = 16;
/// Behind an acknowledged kill no answer may be the picture's any more after this long.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// What a round takes at the longest, with a kill, a lift and the waits between them.
const ROUND_MAX: Duration = Duration::from_secs(30);
const WARM_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const P99_MS_MAX: f64 = 250.0;

/// When each edge was last seen to answer with the picture, in microseconds of the run; 0: never.
#[derive(Debug)]
struct Sightings {
    start: Instant,
    last_us: Vec<AtomicU64>,
}

impl Sightings {
    fn new() -> Self {
        Self { start: Instant::now(), last_us: (0..EDGES).map(|_| AtomicU64::new(0)).collect() }
    }

    fn see(&self, edge: usize, at: Instant) {
        self.last_us[edge].fetch_max(self.micros(at), Ordering::Relaxed);
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    /// Milliseconds from a moment to the last sighting of each edge; 0 where there was none behind it.
    fn behind(&self, at: Instant) -> impl Iterator<Item = f64> + '_ {
        let at = self.micros(at);
        self.last_us.iter().map(move |last| last.load(Ordering::Relaxed).saturating_sub(at) as f64 / 1_000.0)
    }
}

/// # Errors
/// When a server does not start, or a kill is refused.
pub async fn run(plan: &FleetPlan) -> anyhow::Result<Report> {
    let spec = FleetSpec { is_sharing_state: true, ..FleetSpec::new(EDGES, 1) };
    let fleet = Fleet::start(&plan.servers, &spec).await?;
    let etag = warm(&fleet).await?;
    let urls: Vec<String> = fleet.edges.iter().map(|edge| format!("http://{}{PATH}", edge.http)).collect();
    let requests = Arc::new(Requests::new(&Settings::plain(Target::resolve_all(&urls, Reach::LoopbackOnly)?)));
    let (sightings, is_over) = (Arc::new(Sightings::new()), Arc::new(AtomicBool::new(false)));
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let schedule = Schedule::new(Instant::now(), plan.rate_per_s, ROUND_MAX * plan.rounds);
    let pacer = Arc::new(Pacer::start(schedule)?);
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (requests, pacer, tally) = (Arc::clone(&requests), Arc::clone(&pacer), Arc::clone(&tally));
        let (sightings, is_over, etag) = (Arc::clone(&sightings), Arc::clone(&is_over), etag.clone());
        senders.spawn(async move {
            let line = Lines::default();
            while let Some((number, due)) = pacer.next().await.filter(|_| !is_over.load(Ordering::Relaxed)) {
                let result = line.exchange(&requests, number, |_| {}).await;
                if let Ok(exchange) = &result
                    && exchange.etag == etag
                {
                    sightings.see(usize::try_from(number % EDGES as u64)?, exchange.done);
                }
                record(&tally, due, &result)?;
            }
            anyhow::Ok(())
        });
    }
    let started = Instant::now();
    let outcome = rounds(plan.rounds, &fleet, &sightings).await;
    is_over.store(true, Ordering::Relaxed);
    while let Some(sender) = senders.join_next().await {
        sender.context("a sender failed")??;
    }
    let phase = close(tally)?.into_phase(Run {
        name: format!("{EDGES} edges while a picture is killed and lifted"),
        protocol: "HTTP/1.1",
        targets: targets(&requests),
        offered_per_s: Some(plan.rate_per_s.into()),
        planned: u64::from(plan.rate_per_s) * started.elapsed().as_secs(),
        elapsed: started.elapsed(),
    });
    let Outcome { mut late_ms, old_after_quiet } = outcome?;
    late_ms.sort_by(f64::total_cmp);
    let p99 = late_ms.get(late_ms.len().saturating_mul(99) / 100).copied().unwrap_or(f64::NAN);
    let about = format!("{} kills on {EDGES} edges", plan.rounds);
    let mut report = Report::new("kill");
    report.verdicts.extend([
        Verdict::new(Budget::KillReachesAll, p99, Bound::AtMost(P99_MS_MAX), "ms").about(about),
        Verdict::new(Budget::NoneAfterKill, old_after_quiet as f64, Bound::Exactly(0.0), "answers"),
        Verdict::new(Budget::EveryRequestAnswered, phase.failed() as f64, Bound::Exactly(0.0), "failed"),
    ]);
    report.phases.push(phase);
    Ok(report)
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Outcome {
    /// For each kill and edge.
    late_ms: Vec<f64>,
    /// Edges that answered with the picture when none should have.
    old_after_quiet: usize,
}

async fn rounds(count: u32, fleet: &Fleet, sightings: &Sightings) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for round in 0..count as usize {
        let asked = fleet.edges[round % EDGES].admin;
        let seq = kill(asked).await?;
        let acknowledged = Instant::now();
        tokio::time::sleep(QUIET_AFTER).await;
        let quiet = Instant::now();
        outcome.late_ms.extend(sightings.behind(acknowledged));
        tokio::time::sleep(QUIET_AFTER / 2).await;
        outcome.old_after_quiet += sightings.behind(quiet).filter(|late| *late > 0.0).count();
        lift(asked, seq).await?;
        let lifted = Instant::now();
        while sightings.behind(lifted).any(|since| since == 0.0) {
            ensure!(lifted.elapsed() < ROUND_MAX, "an edge does not show the picture again");
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(outcome)
}

/// Until every edge answers with the same final picture from memory; its entity tag.
async fn warm(fleet: &Fleet) -> anyhow::Result<String> {
    let started = Instant::now();
    loop {
        let mut etags = Vec::new();
        for edge in &fleet.edges {
            let answer = edge.get(PATH).await?;
            let is_final =
                answer.headers.get("cache-control").is_some_and(|value| value == "public, max-age=60, must-revalidate");
            let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
            etags.push(Some(etag).filter(|_| is_final && answer.outcome() == "hit (memory)"));
        }
        etags.dedup();
        if let [Some(etag)] = &etags[..] {
            return Ok(etag.clone());
        }
        ensure!(started.elapsed() < WARM_MAX, "the edges do not all have the same picture: {etags:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn kill(admin: SocketAddr) -> anyhow::Result<Value> {
    let order = json!({ "variant": VARIANT, "why": "a benchmark" });
    let answer = fetch::admin(admin, Method::POST, "/admin/v1/kills", TOKEN, &order).await?;
    ensure!(answer.status == StatusCode::CREATED, "the kill is refused: {}", answer.text());
    let killed: Value = serde_json::from_slice(&answer.body)?;
    Ok(killed["seq"].clone())
}

async fn lift(admin: SocketAddr, seq: Value) -> anyhow::Result<()> {
    let path = format!("/admin/v1/kills/{seq}");
    let answer = fetch::admin(admin, Method::DELETE, &path, TOKEN, &json!({ "why": "a benchmark" })).await?;
    ensure!(answer.status == StatusCode::OK, "the lift is refused: {}", answer.text());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_behind_a_moment_counts() {
        let sightings = Sightings::new();
        let at = sightings.start + Duration::from_millis(100);
        sightings.see(3, at - Duration::from_millis(50));
        sightings.see(4, at + Duration::from_millis(20));
        sightings.see(4, at + Duration::from_millis(10));
        let late: Vec<f64> = sightings.behind(at).collect();
        assert!((late[4] - 20.0).abs() < 0.01 && late[3] == 0.0 && late.len() == EDGES, "{late:?}");
    }
}
