//! A batch as it is told and stored: its order, how far it is, and what became of each picture.
//!
//! Invariant: the tally of a record is that of its pictures, so it can be counted anew from them.

use std::collections::{BTreeMap, BTreeSet};

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use serde::{Deserialize, Serialize};

/// Failures told one by one; all of them stand in the results.
pub const FAILURES_MAX: usize = 100;
/// Orders that a batch is known by.
const KEYS_MAX: usize = 8;
/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 300;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// It waits for its turn.
    Queued,
    /// Under way, or to be taken up again at the next start.
    Running,
    Paused,
    /// Each picture is there or has failed.
    Done,
    Cancelled,
    /// Its work failed as a whole.
    Refused,
}

impl BatchState {
    pub const ALL: [Self; 6] = [Self::Queued, Self::Running, Self::Paused, Self::Done, Self::Cancelled, Self::Refused];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }

    /// Whether work goes on by itself.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// Where the pictures of a batch were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    List,
    Filter,
    Csv,
}

/// Where one picture is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    #[default]
    Waiting,
    /// It was drawn for this batch.
    Drawn,
    /// It was there already, and so may be its renditions.
    There,
    Failed,
}

impl ItemState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Drawn => "drawn",
            Self::There => "there",
            Self::Failed => "failed",
        }
    }
}

/// One picture of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// `campaign/slot?axis=value&…`
    pub picture: Box<str>,
    /// `None`: the manifest's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    #[serde(default)]
    pub state: ItemState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<MasterId>,
    /// Of its renditions, those that were there included.
    #[serde(default)]
    pub bytes: u64,
    /// Of a device, where it was drawn for this batch and the node said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ms: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Item {
    #[must_use]
    pub fn waiting(picture: impl Into<Box<str>>, seed: Option<u32>) -> Self {
        Self {
            picture: picture.into(),
            seed,
            state: ItemState::Waiting,
            recipe: None,
            master: None,
            bytes: 0,
            device_ms: None,
            reason: None,
        }
    }

    /// With why it failed.
    #[must_use]
    pub(super) fn failed(self, reason: &str) -> Self {
        let reason = Some(reason.chars().take(REASON_CHARS_MAX).collect());
        Self { state: ItemState::Failed, reason, ..self }
    }

    /// `campaign/slot`.
    #[must_use]
    pub fn place(&self) -> &str {
        self.picture.split('?').next().unwrap_or(&self.picture)
    }

    #[must_use]
    pub fn campaign(&self) -> &str {
        self.picture.split(['/', '?']).next().unwrap_or_default()
    }
}

/// A picture that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub picture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    pub reason: String,
}

/// What has been done so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub drawn: u64,
    pub there: u64,
    pub failed: u64,
    pub bytes: u64,
    pub device_ms: f64,
}

/// What pictures of one slot came to: what the next ones are expected to come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Pictures whose bytes are known.
    pub pictures: u64,
    pub bytes: u64,
    /// Pictures whose device time is known.
    pub drawn: u64,
    pub device_ms: f64,
}

/// How the pictures are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Empty: AVIF, WebP and JPEG.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// Renditions at a time.
    pub concurrency: usize,
}

/// What is told of a batch, and what a restart needs to go on with it beside its pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchRecord {
    pub id: u64,
    pub by: String,
    pub why: String,
    pub state: BatchState,
    pub source: Source,
    pub started_unix_ms: u64,
    /// Working time; pauses, restarts and the wait for a turn left out.
    pub elapsed_ms: u64,
    pub campaigns: BTreeSet<String>,
    pub terms: Terms,
    /// Pictures in all.
    pub pictures: u32,
    pub tally: Tally,
    pub failures: Vec<Failure>,
    /// By slot.
    pub measured: BTreeMap<String, Measured>,
    /// Of the order as it came, without its reason: the same order again with its key is this batch.
    pub order: Digest,
    /// With which it was ordered (`key`), or something was asked of it (`pause key`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

impl BatchRecord {
    /// Pictures that nothing has been done about yet, those under way included.
    #[must_use]
    pub fn left(&self) -> u64 {
        let Tally { drawn, there, failed, .. } = self.tally;
        u64::from(self.pictures).saturating_sub(drawn + there + failed)
    }

    /// Milliseconds to go, by what the work has taken so far. What was there took next to nothing.
    #[must_use]
    pub fn eta_ms(&self) -> Option<u64> {
        let worked = self.tally.drawn + self.tally.failed;
        (self.state == BatchState::Running && worked > 0).then(|| self.elapsed_ms / worked * self.left())
    }

    /// Remembers an order.
    pub(super) fn know(&mut self, key: Option<String>) {
        self.keys.extend(key);
        self.keys.drain(..self.keys.len().saturating_sub(KEYS_MAX));
    }

    /// Counts a picture that has ended.
    pub(super) fn count(&mut self, item: &Item) {
        match item.state {
            ItemState::Waiting => return,
            ItemState::Drawn => self.tally.drawn += 1,
            ItemState::There => self.tally.there += 1,
            ItemState::Failed => {
                self.tally.failed += 1;
                if self.failures.len() < FAILURES_MAX {
                    self.failures.push(Failure {
                        picture: item.picture.to_string(),
                        seed: item.seed,
                        reason: item.reason.clone().unwrap_or_default(),
                    });
                }
            }
        }
        self.tally.bytes += item.bytes;
        self.tally.device_ms += item.device_ms.unwrap_or_default();
        if item.state != ItemState::Failed {
            self.measure(item);
        }
    }

    fn measure(&mut self, item: &Item) {
        let measured = self.measured.entry(item.place().to_owned()).or_default();
        // A candidate has one rendition, which says nothing of a whole ladder.
        if item.seed.is_none() {
            measured.pictures += 1;
            measured.bytes += item.bytes;
        }
        if let Some(device_ms) = item.device_ms {
            measured.drawn += 1;
            measured.device_ms += device_ms;
        }
    }

    /// Counts all pictures anew.
    pub(super) fn count_all<'i>(&mut self, items: impl Iterator<Item = &'i Item>) {
        (self.tally, self.failures, self.measured) = Default::default();
        items.for_each(|item| self.count(item));
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(crate) fn record(id: u64, pictures: u32) -> BatchRecord {
        BatchRecord {
            id,
            by: "deploy".to_owned(),
            why: String::new(),
            state: BatchState::Queued,
            source: Source::List,
            started_unix_ms: id,
            elapsed_ms: 0,
            campaigns: BTreeSet::from(["studio".to_owned()]),
            terms: Terms { formats: Vec::new(), concurrency: 2 },
            pictures,
            tally: Tally::default(),
            failures: Vec::new(),
            measured: BTreeMap::new(),
            order: Digest::of_bytes(b"order"),
            keys: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_pictures_and_tells_the_first_failures() {
        let mut record = testing::record(1, 203);
        let drawn =
            Item { state: ItemState::Drawn, bytes: 10, device_ms: Some(1.5), ..Item::waiting("a/hero?x=1", None) };
        let candidate = Item { seed: Some(7), ..drawn.clone() };
        let there = Item { state: ItemState::There, device_ms: None, ..drawn.clone() };
        let failed = (0..105).map(|n| Item::waiting(format!("a/hero?x={n}"), None).failed("no node"));
        let items: Vec<Item> = [drawn, candidate, there].into_iter().chain(failed).collect();
        for _ in 0..2 {
            record.count_all(items.iter());
            let Tally { drawn, there, failed, bytes, device_ms } = record.tally;
            assert_eq!((drawn, there, failed, bytes), (2, 1, 105, 30));
            assert!((device_ms - 3.0).abs() < 1e-9);
            assert_eq!((record.failures.len(), record.left()), (FAILURES_MAX, 95));
        }
        let measured = &record.measured["a/hero"];
        assert_eq!((measured.pictures, measured.bytes, measured.drawn), (2, 20, 2));
    }

    #[test]
    fn a_reason_is_bounded() {
        let item = Item::waiting("a/hero", None).failed(&"ä".repeat(1_000));
        assert_eq!(item.reason.unwrap().chars().count(), REASON_CHARS_MAX);
    }
}
