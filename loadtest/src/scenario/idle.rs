//! Hits beside thousands of connections that are silent, or send a head byte by byte ("slowloris"). The edge holds them until
//! their deadline, and then closes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::budget::{Bound, Budget, Verdict, median};
use crate::fleet::FleetSpec;
use crate::plan::IdlePlan;
use crate::report::Report;
use crate::scenario::stage::{HIT_P99_RATIO_MAX, SMALL_PX, Stage};

/// Connections opened at a time: more at once would overflow a backlog, which is another test.
const OPENING_AT_ONCE: usize = 256;
/// Between two bytes of a slow head.
const DRIBBLE: Duration = Duration::from_secs(2);
/// From the last connection opened to the first hit beside them: what is measured is bearing a crowd, not its arrival.
const SETTLING: Duration = Duration::from_secs(2);
/// Later than the deadline by no more than this: timers of thousands fall due together.
const SLACK: Duration = Duration::from_secs(5);

/// # Errors
/// When the servers do not start, a connection is not accepted, or a phase cannot be run.
pub async fn run(plan: &IdlePlan) -> anyhow::Result<Report> {
    let deadline_ms = plan.deadline.as_millis();
    // The crowd comes from one network, and is let in.
    let room = "connections_max = 30000\nconnections_per_client_max = 30000";
    let limits_config = format!("{room}\nfirst_byte_ms = {deadline_ms}\nheader_ms = {deadline_ms}");
    let spec = FleetSpec { limits_config, ..FleetSpec::new(1, 1) };
    let (fleet, idle) = (&plan.fleet, plan.idle);
    let stage = Stage::set(&fleet.servers, &spec, fleet.rate_per_s, fleet.connections, SMALL_PX).await?;
    let mut report = Report::new("idle");
    let (mut ratios, mut in_time, mut failed) = (Vec::new(), f64::INFINITY, 0);
    for round in 1..=fleet.rounds {
        let alone = stage.hits(format!("hits alone, round {round}"), fleet.duration).run().await?;
        let crowd = Crowd::gather(stage.fleet.edges[0].http, idle).await?;
        tokio::time::sleep(SETTLING).await;
        let hits = stage.hits(format!("hits beside {idle} idle and slow ones, round {round}"), fleet.duration);
        let hits = hits.run().await?;
        let open = crowd.open.load(Ordering::Relaxed);
        report.notes.push(format!("round {round}: {open} of {idle} still open when the hits beside them ended"));
        in_time = in_time.min(crowd.closed_within(plan.deadline + SLACK).await as f64);
        ratios.push(Stage::p99_ratio(&hits, &alone));
        failed += hits.failed();
        report.phases.extend([alone, hits]);
    }
    report.verdicts = vec![
        Verdict::new(Budget::NoFailedHit, failed as f64, Bound::Exactly(0.0), "failed"),
        Verdict::new(Budget::HitsBesideIdle, median(ratios), Bound::AtMost(HIT_P99_RATIO_MAX), "×"),
        Verdict::new(Budget::ClosedAtDeadline, in_time, Bound::Exactly(f64::from(idle)), "closed in time"),
    ];
    Ok(report)
}

/// Connections that hold on for as long as they are let.
struct Crowd {
    open: Arc<AtomicU64>,
    waiting: JoinSet<Duration>,
}

impl Crowd {
    async fn gather(edge: SocketAddr, count: u32) -> anyhow::Result<Self> {
        let open = Arc::new(AtomicU64::new(0));
        let mut waiting = JoinSet::new();
        let mut opening = JoinSet::new();
        for number in 0..count {
            if opening.len() == OPENING_AT_ONCE {
                Self::seat(&mut opening, &mut waiting, &open).await?;
            }
            opening.spawn(async move { (number, TcpStream::connect(edge).await) });
        }
        while !opening.is_empty() {
            Self::seat(&mut opening, &mut waiting, &open).await?;
        }
        Ok(Self { open, waiting })
    }

    /// Lets one that is connected begin to wait: every other one is slow, the rest silent.
    async fn seat(
        opening: &mut JoinSet<(u32, std::io::Result<TcpStream>)>,
        waiting: &mut JoinSet<Duration>,
        open: &Arc<AtomicU64>,
    ) -> anyhow::Result<()> {
        let Some(opened) = opening.join_next().await else { return Ok(()) };
        let (number, stream) = opened?;
        let (stream, open) = (stream?, Arc::clone(open));
        open.fetch_add(1, Ordering::Relaxed);
        waiting.spawn(async move {
            let since = Instant::now();
            if number % 2 == 0 {
                silent(stream).await
            } else {
                slow(stream).await
            }
            open.fetch_sub(1, Ordering::Relaxed);
            since.elapsed()
        });
        Ok(())
    }

    /// How many the edge closed no later than this after they were opened. Those that are left then are dropped.
    async fn closed_within(mut self, most: Duration) -> u64 {
        let mut in_time = 0;
        let all = async {
            while let Some(Ok(held)) = self.waiting.join_next().await {
                in_time += u64::from(held <= most);
            }
        };
        let _ = tokio::time::timeout(most * 2, all).await;
        in_time
    }
}

/// Until the other side ends it.
async fn silent(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn slow(stream: TcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let dribble = async {
        if writer.write_all(b"GET /i/studio/hero HTTP/1.1\r\nx-slow: ").await.is_ok() {
            while writer.write_all(b"z").await.is_ok() {
                tokio::time::sleep(DRIBBLE).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut buffer = [0; 256];
    let end = async { while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = dribble => {}
        () = end => {}
    }
}
