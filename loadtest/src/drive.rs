//! Requests at a constant rate over a fixed set of connections: what every scenario but the stampede is made of.
//!
//! When all connections are busy, requests wait, and their waiting counts, as it would for a reader. A request that has waited
//! too long is given up unsent, and counted as given up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Exchange, ExchangeError, Lines, Requests};
use crate::lean::LeanLine;
use crate::report::{Phase, Run, Tally};
use crate::schedule::{Pacer, Schedule};

/// Time for every sender to reach its first wait before the first request is due.
const HEAD_START: Duration = Duration::from_millis(20);

/// Of a probe's thread: before everything else that is not the system's.
const PROBE_NICE: i32 = -10;

/// What to do with a request that got no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// It counts as failed.
    Count,
    /// Ask the next URL of the list once, as a load balancer would.
    Move,
}

/// What sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// hyper: any protocol, any number of streams, and losses may move on.
    Full,
    /// As little as floods need: HTTP/1.1 in the clear, one request at a time on a connection.
    Lean,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Drive {
    pub name: String,
    pub requests: Arc<Requests>,
    pub protocol: &'static str,
    pub rate_per_s: u32,
    pub duration: Duration,
    pub connections: u32,
    /// Requests in flight at once on one connection.
    pub streams: u32,
    /// How long a request may wait for a free connection before it is given up; for ever by default.
    pub patience: Option<Duration>,
    pub on_loss: OnLoss,
    pub client: Client,
    /// Number of the first request: two drives over one list need not ask the same.
    pub first: u64,
}

impl Drive {
    /// Over HTTP/1.1, patient, counting losses.
    #[must_use]
    pub fn new(name: impl Into<String>, requests: Arc<Requests>, rate_per_s: u32, duration: Duration) -> Self {
        Self {
            name: name.into(),
            requests,
            protocol: "HTTP/1.1",
            rate_per_s,
            duration,
            connections: 32,
            streams: 1,
            patience: None,
            on_loss: OnLoss::Count,
            client: Client::Full,
            first: 0,
        }
    }

    /// Runs to its end.
    ///
    /// # Errors
    /// When a connection cannot be opened before the start, or a sender's task fails.
    pub async fn run(&self) -> anyhow::Result<Phase> {
        let lines = self.open_senders().await?;
        let tally = Arc::new(Mutex::new(Tally::new()?));
        let start = Instant::now() + HEAD_START;
        let schedule = Schedule::new(start, self.rate_per_s, self.duration);
        let pacer = Arc::new(Pacer::start(schedule)?);
        let mut senders = JoinSet::new();
        for line in lines {
            senders.spawn(send(self.clone(), line, Arc::clone(&pacer), Arc::clone(&tally)));
        }
        while let Some(sender) = senders.join_next().await {
            sender.context("a sender failed")??;
        }
        Ok(close(tally)?.into_phase(Run {
            name: self.name.clone(),
            protocol: self.protocol,
            targets: targets(&self.requests),
            offered_per_s: Some(self.rate_per_s.into()),
            planned: schedule.requests(),
            elapsed: start.elapsed(),
        }))
    }

    /// Runs on a thread of its own, with a high priority where that is allowed: beside load that keeps this process busy, the probe
    /// would otherwise measure its own lateness.
    ///
    /// # Errors
    /// As [`Self::run`], and when there is no thread to be had.
    pub async fn run_apart(&self) -> anyhow::Result<Phase> {
        let drive = self.clone();
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
            // Without the right to raise it, the priority stays as it is.
            let _ = rustix::process::nice(PROBE_NICE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // A receiver that is gone has given up.
            let _ = tell.send(runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(drive.run())));
        })?;
        told.await.context("the probe panicked")?
    }

    /// One for each sender.
    async fn open_senders(&self) -> anyhow::Result<Vec<Sender>> {
        let mut senders = Vec::with_capacity(self.connections as usize);
        match self.client {
            Client::Full => {
                for line in self.open_lines().await? {
                    senders.extend((0..self.streams).map(|_| Sender::Full(Arc::clone(&line))));
                }
            }
            Client::Lean => {
                let is_able = self.streams == 1 && self.on_loss == OnLoss::Count && self.requests.is_plain();
                anyhow::ensure!(
                    is_able,
                    "the lean client asks one server as given, in the clear, one request at a time"
                );
                for number in 0..self.connections {
                    senders.push(Sender::Lean(LeanLine::open(&self.requests, u64::from(number)).await?));
                }
            }
        }
        Ok(senders)
    }

    async fn open_lines(&self) -> anyhow::Result<Vec<Arc<Lines>>> {
        let mut lines = Vec::with_capacity(self.connections as usize);
        for number in 0..self.connections {
            let line = Lines::default();
            let opened = line.open(&self.requests, u64::from(number)).await;
            // Where lost requests move on to the next server, a server that is away at the start is one more loss.
            if self.on_loss == OnLoss::Count {
                opened?;
            }
            lines.push(Arc::new(line));
        }
        Ok(lines)
    }
}

/// A way to the server, taken by one request at a time.
enum Sender {
    Full(Arc<Lines>),
    Lean(LeanLine),
}

impl Sender {
    async fn exchange(&mut self, drive: &Drive, number: u64) -> Result<Exchange, ExchangeError> {
        match (self, drive.on_loss) {
            (Self::Full(lines), OnLoss::Count) => lines.exchange(&drive.requests, number, |_| {}).await,
            (Self::Full(lines), OnLoss::Move) => lines.exchange_or_move(&drive.requests, number).await,
            (Self::Lean(line), _) => line.exchange(&drive.requests, number).await,
        }
    }
}

async fn send(drive: Drive, mut sender: Sender, pacer: Arc<Pacer>, tally: Arc<Mutex<Tally>>) -> anyhow::Result<()> {
    while let Some((index, due)) = pacer.next().await {
        if let Some(patience) = drive.patience
            && due.elapsed() > patience
        {
            let later = pacer.give_up(patience).await;
            tally.lock().unwrap_or_else(PoisonError::into_inner).abandon(1 + later);
            continue;
        }
        let number = drive.first + index;
        let result = sender.exchange(&drive, number).await;
        record(&tally, due, &result)?;
    }
    Ok(())
}

/// Counts a result, and fails the run where counting itself fails.
pub(crate) fn record(
    tally: &Mutex<Tally>,
    due: Instant,
    result: &Result<Exchange, ExchangeError>,
) -> anyhow::Result<()> {
    // A tally is counters only: a panic elsewhere leaves them as they were.
    Ok(tally.lock().unwrap_or_else(PoisonError::into_inner).record(due, result)?)
}

/// Takes the tally out once every task that shared it has ended.
pub(crate) fn close(tally: Arc<Mutex<Tally>>) -> anyhow::Result<Tally> {
    let tally = Arc::into_inner(tally).context("a sender outlived the run")?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The first URL and how many there are, for the report.
pub(crate) fn targets(requests: &Requests) -> Vec<String> {
    const SHOWN: usize = 1;
    let all = requests.targets();
    let mut shown: Vec<String> = all.iter().take(SHOWN).map(|target| target.uri.to_string()).collect();
    if all.len() > SHOWN {
        shown.push(format!("… {} in all", all.len()));
    }
    shown
}
