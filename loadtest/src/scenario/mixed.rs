//! Hits, and then hits while cold misses keep the render pool and the node's queue busy. The node sleeps, so that cores
//! are not what runs out.

use std::time::Duration;

use crate::budget::{Bound, Budget, Verdict, median};
use crate::fleet::FleetSpec;
use crate::plan::FleetPlan;
use crate::report::Report;
use crate::scenario::stage::{FALLBACK_P99_MS_MAX, HIT_P99_RATIO_MAX, LARGE_PX, Stage};

/// So long that a node of one place is busy with far fewer misses than are asked.
const DRAW: Duration = Duration::from_millis(150);

/// # Errors
/// When the servers do not start, or a phase cannot be run.
pub async fn run(plan: &FleetPlan) -> anyhow::Result<Report> {
    let spec = FleetSpec { draw: DRAW, at_once: 1, ..FleetSpec::new(1, 1) };
    let stage = Stage::set(&plan.servers, &spec, plan.rate_per_s, plan.connections, LARGE_PX).await?;
    let mut report = Report::new("mixed");
    let mut ratios = Vec::new();
    let (mut failed, mut cold_p99_ms): (u64, f64) = (0, 0.0);
    for round in 1..=plan.rounds {
        stage.settle().await?;
        let idle = stage.hits(format!("hits, idle, round {round}"), plan.duration).run_apart().await?;
        let hits = stage.hits(format!("hits under misses, round {round}"), plan.duration);
        let misses = stage.misses(format!("cold misses, round {round}"), plan.misses_per_s, plan.duration);
        let (hits, misses) = tokio::try_join!(hits.run_apart(), misses.run())?;
        ratios.push(Stage::p99_ratio(&hits, &idle));
        failed += idle.failed() + hits.failed() + misses.failed();
        cold_p99_ms = cold_p99_ms.max(misses.first_byte_us.p99 as f64 / 1000.0);
        report.phases.extend([idle, hits, misses]);
    }
    report.verdicts = vec![
        Verdict::new(Budget::EveryRequestAnswered, failed as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(Budget::HitsUnderMisses, median(ratios), Bound::AtMost(HIT_P99_RATIO_MAX), "×"),
        Verdict::new(Budget::FirstBytesOfFallback, cold_p99_ms, Bound::AtMost(FALLBACK_P99_MS_MAX), "ms"),
    ];
    Ok(report)
}
