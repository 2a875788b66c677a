//! One warming: how far it is, and its form on the device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::plan::WarmOrder;
use super::store::Storing;
use crate::words::Outcome;

/// Failures told one by one; the rest is counted.
const FAILURES_MAX: usize = 100;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Under way, or to be taken up again at the next start.
    Running,
    Done,
    Cancelled,
    /// It could not be begun, or begun again: what it names is gone, or its work failed as a whole.
    Refused,
}

impl JobState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }
}

/// A rendition that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub url: String,
    pub error: String,
}

/// What has been done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Renditions dealt with, one way or another.
    pub done: u64,
    /// Pictures drawn by a node.
    pub generated: u64,
    pub rendered: u64,
    /// Renditions that were there already.
    pub cached: u64,
    pub failed: u64,
    /// Of all renditions, those that were there included.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        let Self { done, generated, rendered, cached, failed, bytes } = other;
        self.done += done;
        self.generated += generated;
        self.rendered += rendered;
        self.cached += cached;
        self.failed += failed;
        self.bytes += bytes;
    }
}

/// Orders that a job is known by.
const KEYS_MAX: usize = 8;

/// What is told of a job, and what a restart needs to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: u64,
    pub by: String,
    pub order: WarmOrder,
    pub state: JobState,
    pub started_unix_ms: u64,
    /// Working time, restarts left out.
    pub elapsed_ms: u64,
    /// Renditions in all; 0 until they are counted.
    pub total: u64,
    #[serde(flatten)]
    pub tally: Tally,
    pub failures: Vec<Failure>,
    /// Pictures from the first on that are wholly dealt with.
    pub pictures_done: usize,
    /// What the order was planned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Of the orders that began it or went on with it, the last [`KEYS_MAX`]: a repeated one is known by its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

impl JobRecord {
    /// Remembers an order.
    pub(super) fn known_by(mut self, key: Option<String>) -> Self {
        self.keys.extend(key);
        self.keys.drain(..self.keys.len().saturating_sub(KEYS_MAX));
        self
    }

    /// A job that begins now, with nothing done.
    pub(super) fn begun(id: u64, by: &str, order: WarmOrder, now_unix_ms: u64) -> Self {
        Self {
            id,
            by: by.to_owned(),
            order,
            state: JobState::Running,
            started_unix_ms: now_unix_ms,
            elapsed_ms: 0,
            total: 0,
            tally: Tally::default(),
            failures: Vec::new(),
            pictures_done: 0,
            digest: None,
            keys: Vec::new(),
        }
    }

    /// Milliseconds to go, by what the work has taken so far.
    #[must_use]
    pub fn eta_ms(&self) -> Option<u64> {
        let worked = self.tally.done.checked_sub(self.tally.cached).filter(|worked| *worked > 0)?;
        let left = self.total.saturating_sub(self.tally.done);
        (self.state == JobState::Running).then(|| self.elapsed_ms / worked * left)
    }
}

/// A job in this process.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) storing: Arc<Storing>,
    ledger: Mutex<Ledger>,
    since: Mutex<Option<Instant>>,
    cancel: watch::Sender<bool>,
    /// Set once no task works on it any more.
    left: watch::Sender<bool>,
}

/// The whole pictures from the first on are in the record, and so on the device; the others are counted beside it, for
/// a restart meets them again.
#[derive(Debug)]
struct Ledger {
    record: JobRecord,
    open: BTreeMap<usize, Tally>,
    /// Done, but not all before them are.
    ahead: BTreeSet<usize>,
    failures: Vec<(usize, Failure)>,
}

impl Job {
    pub(super) fn new(mut record: JobRecord, storing: Arc<Storing>) -> Self {
        let failures = std::mem::take(&mut record.failures).into_iter().map(|failure| (0, failure)).collect();
        let (id, left) = (record.id, record.state != JobState::Running);
        let ledger = Ledger { record, open: BTreeMap::new(), ahead: BTreeSet::new(), failures };
        Self {
            id,
            storing,
            ledger: Mutex::new(ledger),
            since: Mutex::default(),
            cancel: watch::Sender::new(false),
            left: watch::Sender::new(left),
        }
    }

    /// All that has been done.
    pub(super) fn record(&self) -> JobRecord {
        let ledger = self.ledger.lock();
        let mut record = ledger.record.clone();
        record.elapsed_ms += self.elapsed_ms();
        ledger.open.values().for_each(|tally| record.tally.add(tally));
        record.failures = ledger.failures.iter().map(|(_, failure)| failure.clone()).collect();
        record
    }

    /// What a restart goes on from.
    pub(super) fn to_go_on_from(&self) -> JobRecord {
        let ledger = self.ledger.lock();
        let mut record = ledger.record.clone();
        record.elapsed_ms += self.elapsed_ms();
        let whole = ledger.failures.iter().filter(|(picture, _)| *picture < record.pictures_done);
        record.failures = whole.map(|(_, failure)| failure.clone()).collect();
        record
    }

    fn elapsed_ms(&self) -> u64 {
        self.since.lock().map_or(0, |since| millis(since.elapsed()))
    }

    /// The first picture that is still to do: all over again where the campaign has changed.
    pub(super) fn begin(&self, total: u64, digest: Digest) -> usize {
        let mut ledger = self.ledger.lock();
        if ledger.record.digest != Some(digest) {
            ledger.record.digest = Some(digest);
            ledger.record.pictures_done = 0;
            ledger.record.tally = Tally::default();
            ledger.failures.clear();
        }
        ledger.record.total = total;
        ledger.record.state = JobState::Running;
        *self.since.lock() = Some(Instant::now());
        ledger.record.pictures_done
    }

    pub(super) fn end(&self, state: JobState) {
        let elapsed_ms = self.elapsed_ms();
        *self.since.lock() = None;
        let mut ledger = self.ledger.lock();
        ledger.record.state = state;
        ledger.record.elapsed_ms += elapsed_ms;
        // Under the lock: an end that can be seen is known to be unwritten.
        self.storing.change();
    }

    pub(super) fn got(&self, picture: usize, outcome: Outcome, bytes: usize) {
        let mut ledger = self.ledger.lock();
        let tally = ledger.open.entry(picture).or_default();
        tally.done += 1;
        tally.bytes += bytes as u64;
        match outcome {
            Outcome::Generated => {
                tally.generated += 1;
                tally.rendered += 1;
            }
            Outcome::Rendered => tally.rendered += 1,
            _ => tally.cached += 1,
        }
    }

    pub(super) fn failed(&self, picture: usize, url: String, error: String) {
        let mut ledger = self.ledger.lock();
        let tally = ledger.open.entry(picture).or_default();
        tally.done += 1;
        tally.failed += 1;
        if ledger.failures.len() < FAILURES_MAX {
            ledger.failures.push((picture, Failure { url, error }));
        }
    }

    pub(super) fn picture_done(&self, picture: usize) {
        let ledger = &mut *self.ledger.lock();
        ledger.ahead.insert(picture);
        while ledger.ahead.remove(&ledger.record.pictures_done) {
            let whole = ledger.open.remove(&ledger.record.pictures_done).unwrap_or_default();
            ledger.record.tally.add(&whole);
            ledger.record.pictures_done += 1;
        }
    }

    pub(super) fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// No task works on it any more.
    pub(super) fn leave(&self) {
        self.left.send_replace(true);
    }

    /// Waits until no task works on it any more.
    pub(super) async fn left(&self) {
        // Its sender lives as long as this job.
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    pub(super) fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancel.subscribe()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(crate) fn record() -> JobRecord {
        let order = WarmOrder {
            campaign: "studio".to_owned(),
            slot: None,
            axes: Vec::new(),
            formats: Vec::new(),
            concurrency: 2,
            why: String::new(),
        };
        JobRecord::begun(1, "test", order, 0)
    }

    /// One job of each state.
    pub(crate) fn of_each_state() -> Vec<JobRecord> {
        let order = WarmOrder {
            slot: Some("hero".to_owned()),
            axes: vec![("product".to_owned(), vec!["mug".to_owned(), "vase".to_owned()])],
            formats: vec!["webp".to_owned()],
            why: "autumn".to_owned(),
            ..record().order
        };
        let begun = |n: u64| JobRecord::begun(1_700_000_000_000 + n, "deploy", order.clone(), 1_700_000_000_000 + n);
        let tally = Tally { done: 7, generated: 1, rendered: 4, cached: 2, failed: 1, bytes: 70_000 };
        let failures = vec![Failure { url: "/i/studio/hero?product=vase".to_owned(), error: "no \"node\"".to_owned() }];
        let half = |n: u64| JobRecord {
            elapsed_ms: 4_321,
            total: 12,
            tally: tally.clone(),
            failures: failures.clone(),
            pictures_done: 3,
            digest: Some(Digest::of_bytes(b"campaign")),
            ..begun(n)
        };
        vec![
            JobRecord { order: record().order, ..begun(1) },
            half(2),
            JobRecord { state: JobState::Cancelled, ..half(3) },
            JobRecord { state: JobState::Done, pictures_done: 5, ..half(4) },
            JobRecord { state: JobState::Refused, ..begun(5) },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{of_each_state, record};
    use super::*;

    #[test]
    fn pictures_that_end_out_of_order_are_whole_once_those_before_them_are() {
        let job = Job::new(record(), Arc::default());
        assert_eq!(job.begin(12, Digest::of_bytes(b"a")), 0);
        for picture in [1, 2, 5] {
            job.got(picture, Outcome::Rendered, 10);
            job.picture_done(picture);
        }
        assert_eq!((job.to_go_on_from().pictures_done, job.to_go_on_from().tally.done), (0, 0));
        assert_eq!(job.record().tally.done, 3);
        job.got(0, Outcome::Generated, 10);
        job.picture_done(0);
        assert_eq!((job.to_go_on_from().pictures_done, job.to_go_on_from().tally.done), (3, 3));
        assert_eq!(job.record().tally, Tally { done: 4, generated: 1, rendered: 4, bytes: 40, ..Tally::default() });
    }

    #[test]
    fn a_job_goes_on_where_it_was_unless_the_campaign_changed() {
        let job = Job::new(record(), Arc::default());
        job.begin(10, Digest::of_bytes(b"a"));
        job.got(0, Outcome::Rendered, 100);
        job.got(0, Outcome::Memory, 100);
        job.picture_done(0);
        job.got(1, Outcome::Rendered, 100);
        job.failed(1, "/i/x".to_owned(), "no".to_owned());
        job.end(JobState::Cancelled);
        assert_eq!((job.record().tally.done, job.record().failures.len()), (4, 1));
        let stored: JobRecord = serde_json::from_slice(&serde_json::to_vec(&job.to_go_on_from()).unwrap()).unwrap();
        // One picture is whole; the renditions of the other are met again.
        assert_eq!((stored.tally.done, stored.tally.cached, stored.failures.len()), (2, 1, 0));
        let again = Job::new(stored.clone(), Arc::default());
        assert_eq!(again.begin(10, Digest::of_bytes(b"a")), 1);
        assert_eq!(again.record().tally, stored.tally);
        let changed = Job::new(stored, Arc::default());
        assert_eq!(changed.begin(10, Digest::of_bytes(b"b")), 0);
        assert_eq!(changed.record().tally, Tally::default());
    }

    /// The files that versions before the database wrote.
    #[test]
    #[ignore = "makes the fixture"]
    fn make_the_fixture() {
        let folder = crate::state::testing::fixture::place("warm");
        std::fs::create_dir_all(&folder).unwrap();
        for record in of_each_state() {
            std::fs::write(folder.join(format!("{}.json", record.id)), serde_json::to_vec(&record).unwrap()).unwrap();
        }
    }

    #[test]
    fn failures_are_counted_and_the_first_of_them_told() {
        let job = Job::new(record(), Arc::default());
        for number in 0..FAILURES_MAX + 5 {
            job.failed(number, number.to_string(), "no".to_owned());
        }
        let record = job.record();
        assert_eq!((record.failures.len(), record.tally.failed), (FAILURES_MAX, 105));
    }
}
