//! Steady load on warm URLs: a constant rate over a fixed set of connections.
//!
//! When all connections are busy, requests wait, and their waiting counts: that is what a reader would have felt.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::args::HitsPlan;
use crate::client::{Lines, Requests};
use crate::report::{Report, Run, Tally};
use crate::scenario::{close, record};
use crate::schedule::{Pacer, Schedule};

/// Time for every sender to reach its first wait before the first request is due.
const HEAD_START: Duration = Duration::from_millis(20);

/// # Errors
/// When the server cannot be reached, or a URL is not warm and well before the run.
pub async fn run(plan: &HitsPlan) -> anyhow::Result<Report> {
    let requests = Arc::new(Requests::new(&plan.settings));
    warm_up(plan, &requests).await?;
    let lines = open_lines(plan, &requests).await?;

    let tally = Arc::new(Mutex::new(Tally::new()?));
    let start = Instant::now() + HEAD_START;
    let schedule = Schedule::new(start, plan.rate_per_s, plan.duration);
    let pacer = Arc::new(Pacer::start(schedule)?);
    let mut senders = JoinSet::new();
    for line in lines {
        for _ in 0..plan.streams {
            let (line, requests, pacer, tally) =
                (Arc::clone(&line), Arc::clone(&requests), Arc::clone(&pacer), Arc::clone(&tally));
            senders.spawn(async move {
                while let Some((index, due)) = pacer.next().await {
                    let result = line.exchange(&requests, index, |_| {}).await;
                    record(&tally, due, &result)?;
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(sender) = senders.join_next().await {
        sender.context("a sender failed")??;
    }
    Ok(close(tally)?.into_report(Run {
        scenario: "hits",
        protocol: plan.settings.protocol.as_str(),
        targets: plan.settings.targets.iter().map(|target| target.uri.to_string()).collect(),
        offered_per_s: Some(plan.rate_per_s.into()),
        planned: schedule.requests(),
        elapsed: start.elapsed(),
    }))
}

/// Asks each URL once: a run on URLs that fail would measure how fast failures are.
async fn warm_up(plan: &HitsPlan, requests: &Requests) -> anyhow::Result<()> {
    let line = Lines::default();
    for (index, target) in plan.settings.targets.iter().enumerate() {
        let exchange = line.exchange(requests, index as u64, |_| {}).await.with_context(|| target.uri.to_string())?;
        anyhow::ensure!(exchange.status.is_success(), "{} answers {}", target.uri, exchange.status);
    }
    Ok(())
}

async fn open_lines(plan: &HitsPlan, requests: &Requests) -> anyhow::Result<Vec<Arc<Lines>>> {
    let mut lines = Vec::with_capacity(plan.connections as usize);
    for _ in 0..plan.connections {
        let line = Lines::default();
        for index in 0..plan.settings.targets.len() {
            line.open(requests, index as u64).await?;
        }
        lines.push(Arc::new(line));
    }
    Ok(lines)
}
