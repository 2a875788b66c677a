//! Many clients ask at the same moment, as after a newsletter: all connections are open before the first request leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use crate::args::StampedePlan;
use crate::client::{Lines, Requests};
use crate::report::{Report, Run, Tally};
use crate::scenario::{close, record};

/// # Errors
/// When a client's task fails; a server that fails is counted instead.
pub async fn run(plan: &StampedePlan) -> anyhow::Result<Report> {
    let requests = Arc::new(Requests::new(&plan.settings));
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let lines: Vec<Arc<Lines>> = (0..plan.connections).map(|_| Arc::default()).collect();
    let ready = Arc::new(Barrier::new(plan.clients as usize + 1));
    let (release, released) = watch::channel(None);

    let mut clients = JoinSet::new();
    for client in 0..plan.clients {
        let line = Arc::clone(&lines[(client % plan.connections) as usize]);
        let (requests, tally, ready) = (Arc::clone(&requests), Arc::clone(&tally), Arc::clone(&ready));
        let released = released.clone();
        clients.spawn(async move {
            let opened = line.open(&requests, client.into()).await;
            ready.wait().await;
            let due = moment(released).await?;
            match opened {
                Ok(()) => ask(&line, &requests, client.into(), due, &tally).await,
                Err(error) => record(&tally, due, &Err(error)),
            }
        });
    }
    ready.wait().await;
    let start = Instant::now();
    release.send_replace(Some(start));
    while let Some(client) = clients.join_next().await {
        client.context("a client failed")??;
    }
    Ok(close(tally)?.into_report(Run {
        scenario: "stampede",
        protocol: plan.settings.protocol.as_str(),
        targets: plan.settings.targets.iter().map(|target| target.uri.to_string()).collect(),
        offered_per_s: None,
        planned: plan.clients.into(),
        elapsed: start.elapsed(),
    }))
}

async fn moment(mut released: watch::Receiver<Option<Instant>>) -> anyhow::Result<Instant> {
    let moment = *released.wait_for(Option::is_some).await?;
    moment.context("released without a moment")
}

async fn ask(line: &Lines, requests: &Requests, client: u64, due: Instant, tally: &Mutex<Tally>) -> anyhow::Result<()> {
    let mut hasher = blake3::Hasher::new();
    let result = line
        .exchange(requests, client, |data| {
            hasher.update(data);
        })
        .await;
    record(tally, due, &result)?;
    if result.is_ok() {
        tally.lock().unwrap_or_else(PoisonError::into_inner).record_body(hasher.finalize());
    }
    Ok(())
}
