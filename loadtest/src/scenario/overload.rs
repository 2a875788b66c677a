//! Two, five and ten times what the edge can answer: it answers hits at the rate of the peak, refuses the rest at once, and is as
//! fast as before when the overload is over.
//!
//! The peak is what generator and edge reach together on this machine, with hits offered without end. Overload offers so
//! many times that rate, over so many times the connections, and cold variants beside it. Each overload has a peak of its own just before
//! it, because the speed of a machine that others share drifts by more than what is looked for. A request that waits for a
//! connection longer than a reader would is given up unsent.

use std::time::{Duration, Instant};

use crate::budget::{Bound, Budget, Verdict};
use crate::drive::{Client, Drive};
use crate::fleet::{Edge, FleetSpec};
use crate::plan::{FleetPlan, RATE_PER_S_MAX};
use crate::process;
use crate::report::{Phase, Report};
use crate::scenario::stage::{HIT_P99_RATIO_MAX, SMALL_PX, Stage};

/// Long, so that few pictures come to be rendered: two cores are for hits and refusals here.
const DRAW: Duration = Duration::from_secs(2);
const FACTORS: [u32; 3] = [2, 5, 10];
const PATIENCE: Duration = Duration::from_secs(1);
const GOODPUT_RATIO_MIN: f64 = 0.9;
/// "Refusals in milliseconds": of the edge's own time, for in overload the generator's queues are most of the rest.
const REFUSAL_P99_MS_MAX: f64 = 10.0;
const RECOVERY_S_MAX: f64 = 10.0;
const MEMORY_MIB_MAX: f64 = 200.0;
/// 64 MiB of renditions, 16 MiB of finished heads and 8 MiB of decoded masters; the rest of the cap is the program, its connections and renders.
const CACHE_CONFIG: &str = "memory_bytes_max = 67108864\nfront_bytes_max = 16777216\ndecoded_bytes_max = 8388608";

/// # Errors
/// When the servers do not start, or a phase cannot be run.
pub async fn run(plan: &FleetPlan) -> anyhow::Result<Report> {
    let spec = FleetSpec { draw: DRAW, cache_config: CACHE_CONFIG.to_owned(), ..FleetSpec::new(1, 1) };
    let stage = Stage::set(&plan.servers, &spec, plan.rate_per_s, plan.connections, SMALL_PX).await?;
    let mut report = Report::new("overload");
    let before = stage.hits("hits before", plan.duration).run().await?;
    let mut resident_bytes = 0;
    let baseline_p99 = before.hits_first_byte_us.p99.max(1) as f64;
    report.phases.push(before);
    for factor in FACTORS {
        let meter = Meter::start(&stage)?;
        let peak = flood(&stage, plan, "hits without end", RATE_PER_S_MAX / 10, 1).run().await?;
        let peak_per_s = goodput(&peak);
        report.notes.push(meter.read(&stage, &format!("at a peak of {peak_per_s:.0} hits/s"), &peak)?);
        report.phases.push(peak);
        let rate_per_s = (peak_per_s * f64::from(factor)).min(f64::from(RATE_PER_S_MAX)) as u32;
        let hits = flood(&stage, plan, &format!("hits at {factor} times the peak"), rate_per_s.max(1), factor);
        let misses = plan.misses_per_s.saturating_mul(factor);
        let misses = stage.misses(format!("cold variants at {factor} times the peak"), misses, plan.duration);
        let meter = Meter::start(&stage)?;
        let (hits, misses, resident) =
            tokio::try_join!(hits.run(), misses.run(), watch_memory(&stage.fleet.edges[0], plan.duration))?;
        resident_bytes = resident_bytes.max(resident);
        report.notes.push(meter.read(&stage, &format!("at {factor} times the peak"), &hits)?);
        let recovered_s = recover(&stage, baseline_p99).await?;
        let about = format!("{factor} times the peak");
        report.verdicts.extend([
            Verdict::new(Budget::Goodput, goodput(&hits) / peak_per_s, Bound::AtLeast(GOODPUT_RATIO_MIN), "×")
                .about(about.clone()),
            Verdict::new(Budget::NoFailedHit, hits.failed() as f64, Bound::Exactly(0.0), "failed").about(about.clone()),
            Verdict::new(
                Budget::RefusalsInMilliseconds,
                misses.edge_us.p99 as f64 / 1000.0,
                Bound::AtMost(REFUSAL_P99_MS_MAX),
                "ms of the edge's own time",
            )
            .about(about.clone()),
            Verdict::new(Budget::BackWithinSeconds, recovered_s, Bound::AtMost(RECOVERY_S_MAX), "s").about(about),
        ]);
        report.phases.extend([hits, misses]);
    }
    let resident_mib = (resident_bytes / (1 << 20)) as f64;
    report.verdicts.push(Verdict::new(Budget::MemoryUnderCap, resident_mib, Bound::AtMost(MEMORY_MIB_MAX), "MiB"));
    Ok(report)
}

/// Who took the machine's processors: a generator that shares them takes what it needs to offer more from the edge.
struct Meter {
    since: Instant,
    edge: Duration,
    own: Duration,
}

impl Meter {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        Ok(Self { since: Instant::now(), edge: stage.fleet.edges[0].cpu()?, own: process::cpu("self")? })
    }

    fn read(&self, stage: &Stage, when: &str, hits: &Phase) -> anyhow::Result<String> {
        let now = Self::start(stage)?;
        let seconds = (now.since - self.since).as_secs_f64();
        let (edge, own) = ((now.edge - self.edge).as_secs_f64(), (now.own - self.own).as_secs_f64());
        Ok(format!(
            "{when}: the edge took {:.2} cores, {:.1} µs for each hit with all it did beside; the generator took {:.2} cores",
            edge / seconds,
            edge * 1e6 / hits.hits.max(1) as f64,
            own / seconds,
        ))
    }
}

fn flood(stage: &Stage, plan: &FleetPlan, name: &str, rate_per_s: u32, factor: u32) -> Drive {
    let drive = stage.hits(name, plan.duration);
    let connections = drive.connections.saturating_mul(factor);
    Drive { rate_per_s, connections, patience: Some(PATIENCE), client: Client::Lean, ..drive }
}

fn goodput(phase: &Phase) -> f64 {
    phase.hits as f64 / phase.elapsed_s.max(f64::EPSILON)
}

/// The most that is resident within `duration`.
async fn watch_memory(edge: &Edge, duration: Duration) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut most = 0;
    while started.elapsed() < duration {
        most = most.max(edge.resident_bytes()?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(most)
}

/// Seconds until hits are as quick as before, looking at one second at a time.
async fn recover(stage: &Stage, baseline_p99_us: f64) -> anyhow::Result<f64> {
    let started = Instant::now();
    loop {
        let look = stage.hits("recovery", Duration::from_secs(1)).run().await?;
        let ratio = look.hits_first_byte_us.p99 as f64 / baseline_p99_us;
        let seconds = started.elapsed().as_secs_f64();
        if (ratio <= HIT_P99_RATIO_MAX && look.failed() == 0) || seconds > 3.0 * RECOVERY_S_MAX {
            return Ok(seconds);
        }
    }
}
