//! One of two nodes hangs, or is killed, and comes back: hits must not notice, and what was asked meanwhile is drawn
//! without help.

use std::time::{Duration, Instant};

use crate::budget::{Bound, Budget, Verdict, median};
use crate::fleet::{Fleet, FleetSpec};
use crate::plan::FleetPlan;
use crate::report::Report;
use crate::scenario::stage::{FALLBACK_P99_MS_MAX, HIT_P99_RATIO_MAX, SMALL_PX, Stage};

/// Variants asked during the fault that are looked at afterwards.
const FOLLOWED: u64 = 40;
const BACK_S_MAX: f64 = 10.0;
const GIVE_UP: Duration = Duration::from_secs(60);

/// What befalls the first of two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGSTOP: it keeps its connections and says nothing.
    Hang,
    /// SIGKILL.
    Kill,
}

impl Fault {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Hang => "slow-node",
            Self::Kill => "failover",
        }
    }

    async fn strike(self, fleet: &mut Fleet) -> anyhow::Result<()> {
        match self {
            Self::Hang => fleet.nodes[0].hang(),
            Self::Kill => fleet.nodes[0].kill().await,
        }
    }

    async fn lift(self, fleet: &mut Fleet) -> anyhow::Result<()> {
        match self {
            Self::Hang => fleet.nodes[0].go_on(),
            Self::Kill => fleet.nodes[0].restart().await,
        }
    }
}

/// # Errors
/// When the servers do not start, or a phase cannot be run.
pub async fn run(plan: &FleetPlan, fault: Fault) -> anyhow::Result<Report> {
    let spec = FleetSpec::new(1, 2);
    let mut stage = Stage::set(&plan.servers, &spec, plan.rate_per_s, plan.connections, SMALL_PX).await?;
    let misses_per_s = plan.misses_per_s.min(10);
    let mut report = Report::new(fault.as_str());
    let mut ratios = Vec::new();
    let (mut failed, mut cold_p99_ms, mut back_s): (u64, f64, f64) = (0, 0.0, 0.0);
    for round in 1..=plan.rounds {
        stage.settle().await?;
        let hits = stage.hits(format!("hits before, round {round}"), plan.duration);
        let misses = stage.misses(format!("cold misses before, round {round}"), misses_per_s, plan.duration);
        let (before, cold_before) = tokio::try_join!(hits.run_apart(), misses.run())?;
        let first = stage.next_miss();
        fault.strike(&mut stage.fleet).await?;
        let hits = stage.hits(format!("hits during {}, round {round}", fault.as_str()), plan.duration);
        let misses = stage.misses(format!("cold misses during it, round {round}"), misses_per_s, plan.duration);
        let (during, cold_during) = tokio::try_join!(hits.run_apart(), misses.run())?;
        fault.lift(&mut stage.fleet).await?;
        back_s = back_s.max(seconds_until_drawn(&stage, first, stage.next_miss()).await?);
        ratios.push(Stage::p99_ratio(&during, &before));
        failed += during.failed() + cold_during.failed();
        cold_p99_ms = cold_p99_ms.max(cold_during.first_byte_us.p99 as f64 / 1000.0);
        report.phases.extend([before, cold_before, during, cold_during]);
    }
    report.verdicts = vec![
        Verdict::new(Budget::EveryRequestAnswered, failed as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(Budget::HitsDuringFault, median(ratios), Bound::AtMost(HIT_P99_RATIO_MAX), "×"),
        Verdict::new(Budget::FirstBytesOfFallback, cold_p99_ms, Bound::AtMost(FALLBACK_P99_MS_MAX), "ms"),
        Verdict::new(Budget::BackWithinSeconds, back_s, Bound::AtMost(BACK_S_MAX), "s")
            .about("all asked meanwhile is drawn"),
    ];
    Ok(report)
}

/// How long it takes until variants asked during the fault are hits, asking as readers would.
async fn seconds_until_drawn(stage: &Stage, first: u64, end: u64) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut left: Vec<u64> = (first..end).rev().take(FOLLOWED as usize).collect();
    while !left.is_empty() {
        let mut still = Vec::new();
        for number in left {
            if !stage.fleet.edges[0].get(stage.cold_path(number)).await?.outcome().starts_with("hit") {
                still.push(number);
            }
        }
        left = still;
        if started.elapsed() > GIVE_UP {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(started.elapsed().as_secs_f64())
}
