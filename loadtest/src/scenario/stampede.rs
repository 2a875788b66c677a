//! Many clients ask at the same moment, as after a newsletter: all connections are open before the first request leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use crate::budget::{Bound, Budget, Verdict, median};
use crate::client::{Lines, Requests};
use crate::drive::{close, record, targets};
use crate::fleet::FleetSpec;
use crate::plan::{OwnStampedePlan, Settings, StampedePlan};
use crate::report::{Phase, Report, Run, Tally};
use crate::scenario::stage::{HIT_P99_RATIO_MAX, SMALL_PX, Stage};
use crate::target::{Reach, Target};

/// How long the picture of the storm takes to draw; hits are watched a little longer.
const DRAW: Duration = Duration::from_secs(3);

/// Against URLs that are given.
///
/// # Errors
/// When a client's task fails; a server that fails is counted instead.
pub async fn run(plan: &StampedePlan) -> anyhow::Result<Report> {
    let phase = Storm::gather(plan).await?.release().await?;
    let mut report = Report::new("stampede");
    report.verdicts.push(Verdict::new(
        Budget::EveryRequestAnswered,
        phase.failed() as f64,
        Bound::Exactly(0.0),
        "failed",
    ));
    report.verdicts.push(same_bytes(&phase));
    report.phases.push(phase);
    Ok(report)
}

/// Against two edges and a node that this starts.
///
/// # Errors
/// When they do not start, or a client's task fails.
pub async fn run_own(plan: &OwnStampedePlan) -> anyhow::Result<Report> {
    let spec = FleetSpec { draw: DRAW, at_once: 64, ..FleetSpec::new(2, 1) };
    let stage = Stage::set(&plan.servers, &spec, 400, 64, SMALL_PX).await?;
    let mut report = Report::new("stampede");
    let mut ratios = Vec::new();
    for round in 1..=plan.rounds {
        let idle = stage.hits(format!("hits, idle, round {round}"), DRAW * 2).run_apart().await?;
        let cold = stage.waiting_path(round as usize);
        let before = stage.fleet.generations().await?;
        let storm = Storm::gather(&storm_plan(&stage, &cold, plan.clients)?).await?;
        let drive = stage.hits(format!("hits in the storm, round {round}"), DRAW + Duration::from_secs(1));
        let (hits, storm) = tokio::try_join!(drive.run_apart(), storm.release())?;
        let drawn = stage.fleet.generations().await? - before;
        let about = format!("round {round}, {} clients, two edges", 2 * plan.clients);
        report.verdicts.extend([
            Verdict::new(Budget::OneGeneration, drawn as f64, Bound::Exactly(1.0), "").about(about.clone()),
            Verdict::new(Budget::EveryRequestAnswered, storm.failed() as f64, Bound::Exactly(0.0), "failed")
                .about(about),
            same_bytes(&storm),
            Verdict::new(Budget::NoFailedHit, hits.failed() as f64, Bound::Exactly(0.0), "failed"),
        ]);
        ratios.push(Stage::p99_ratio(&hits, &idle));
        report.phases.extend([idle, hits, storm]);
    }
    let ratio = median(ratios);
    report.verdicts.push(Verdict::new(Budget::HitsDuringStorm, ratio, Bound::AtMost(HIT_P99_RATIO_MAX), "×"));
    Ok(report)
}

fn storm_plan(stage: &Stage, path: &str, clients_per_edge: u32) -> anyhow::Result<StampedePlan> {
    let paths = [path.to_owned()];
    let urls: Vec<String> = (0..stage.fleet.edges.len()).flat_map(|edge| stage.fleet.urls(edge, &paths)).collect();
    let clients = clients_per_edge * u32::try_from(urls.len())?;
    let settings = Settings::plain(Target::resolve_all(&urls, Reach::LoopbackOnly)?);
    Ok(StampedePlan { settings, clients, connections: clients })
}

fn same_bytes(phase: &Phase) -> Verdict {
    let distinct = phase.distinct_bodies.unwrap_or_default();
    Verdict::new(Budget::SameBytes, distinct as f64, Bound::Exactly(1.0), "different bodies")
}

/// Clients that are connected and wait for the word.
struct Storm {
    plan: StampedePlan,
    requests: Arc<Requests>,
    tally: Arc<Mutex<Tally>>,
    clients: JoinSet<anyhow::Result<()>>,
    release: watch::Sender<Option<Instant>>,
}

impl Storm {
    async fn gather(plan: &StampedePlan) -> anyhow::Result<Self> {
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
        Ok(Self { plan: plan.clone(), requests, tally, clients, release })
    }

    async fn release(mut self) -> anyhow::Result<Phase> {
        let start = Instant::now();
        self.release.send_replace(Some(start));
        while let Some(client) = self.clients.join_next().await {
            client.context("a client failed")??;
        }
        Ok(close(self.tally)?.into_phase(Run {
            name: "stampede".to_owned(),
            protocol: self.plan.settings.protocol.as_str(),
            targets: targets(&self.requests),
            offered_per_s: None,
            planned: self.plan.clients.into(),
            elapsed: start.elapsed(),
        }))
    }
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
