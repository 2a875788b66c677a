//! Every edge and every node is restarted in turn under load, as in a deployment. Clients ask another edge where one does
//! not answer at all, as a load balancer does; an answer that has begun is finished.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::budget::{Bound, Budget, Verdict};
use crate::drive::{Drive, OnLoss};
use crate::fleet::FleetSpec;
use crate::plan::FleetPlan;
use crate::report::Report;
use crate::scenario::stage::{SMALL_PX, Stage};

/// Between two restarts: as a deployment waits until it sees that all is well.
const PAUSE: Duration = Duration::from_millis(500);

/// # Errors
/// When a server does not stop or start, or takes longer than the load lasts.
pub async fn run(plan: &FleetPlan) -> anyhow::Result<Report> {
    let spec = FleetSpec::new(2, 2);
    let mut stage = Stage::set(&plan.servers, &spec, plan.rate_per_s, plan.connections, SMALL_PX).await?;
    let duration = plan.duration * 4;
    let load = stage.hits("hits while edges and nodes restart", duration);
    let load = tokio::spawn(async move { Drive { on_loss: OnLoss::Move, ..load }.run().await });
    let started = Instant::now();
    let mut report = Report::new("rolling-restart");
    for edge in &mut stage.fleet.edges {
        tokio::time::sleep(PAUSE).await;
        let at = Instant::now();
        edge.stop().await?;
        let stopped = at.elapsed();
        edge.restart().await?;
        report.notes.push(format!(
            "{}: drained in {stopped:.2?}, ready again {:.2?} after SIGTERM",
            edge.http,
            at.elapsed()
        ));
    }
    for node in &mut stage.fleet.nodes {
        tokio::time::sleep(PAUSE).await;
        node.kill().await?;
        node.restart().await?;
    }
    anyhow::ensure!(started.elapsed() < duration, "restarting took longer than the load: raise --duration-s");
    let phase = load.await.context("the load failed")??;
    report.verdicts = vec![
        Verdict::new(Budget::NoFailedHit, phase.failed() as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(
            Budget::NoFailedHit,
            (phase.completed - phase.hits) as f64,
            Bound::Exactly(0.0),
            "answered by no hit",
        )
        .about("caches survive"),
    ];
    report.phases.push(phase);
    Ok(report)
}
