//! Steady load on URLs that are warm: a constant rate over a fixed set of connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;

use crate::budget::{Bound, Budget, Verdict};
use crate::client::{Lines, Requests};
use crate::drive::Drive;
use crate::plan::HitsPlan;
use crate::report::Report;

/// URLs that are tried before the run; of a longer list, as many from its start.
const TRIED_MAX: usize = 64;

/// # Errors
/// When the server cannot be reached, or a URL does not answer well before the run.
pub async fn run(plan: &HitsPlan) -> anyhow::Result<Report> {
    let requests = Arc::new(Requests::new(&plan.settings));
    warm_up(&requests).await?;
    let drive = Drive {
        protocol: plan.settings.protocol.as_str(),
        connections: plan.connections,
        streams: plan.streams,
        ..Drive::new("hits", requests, plan.rate_per_s, plan.duration)
    };
    let phase = drive.run().await?;
    let mut report = Report::new("hits");
    report.verdicts.push(Verdict::new(
        Budget::EveryRequestAnswered,
        phase.failed() as f64,
        Bound::Exactly(0.0),
        "failed",
    ));
    if let Some(dialer) = &plan.settings.dialer {
        let (full, resumed) =
            (dialer.handshakes.full.load(Ordering::Relaxed), dialer.handshakes.resumed.load(Ordering::Relaxed));
        report.notes.push(format!("TLS handshakes: {full} full, {resumed} resumed"));
    }
    report.phases.push(phase);
    Ok(report)
}

/// A run on URLs that fail would measure how fast failures are.
async fn warm_up(requests: &Requests) -> anyhow::Result<()> {
    let line = Lines::default();
    for target in requests.targets().iter().take(TRIED_MAX) {
        let exchange = line.ask(requests, target).await.with_context(|| target.uri.to_string())?;
        anyhow::ensure!(exchange.status.is_success(), "{} answers {}", target.uri, exchange.status);
    }
    Ok(())
}
