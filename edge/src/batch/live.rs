//! A batch in this process: its record, its pictures while it is worked on, and who waits for it.
//!
//! Invariants: pictures are in memory while a batch is under way, until the device has them all, and no longer; what
//! has changed since the last write is known by chunk; a change of state that the device does not know yet is known to
//! be unwritten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::ask::Deed;
use super::record::{BatchRecord, BatchState, Item, ItemState};
use super::stored::{CHUNK, Changed, chunks_of};

/// What people want of a batch that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Go,
    Pause,
    Cancel,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: u64,
    inside: Mutex<Inside>,
    wish: watch::Sender<Wish>,
    /// Set while no task works on it.
    left: watch::Sender<bool>,
    /// Counts what can be seen of it.
    seen: watch::Sender<u64>,
    /// The last change of state that is on the device, or was tried.
    pub(super) tried: watch::Sender<u64>,
    pub(super) written: AtomicU64,
    pub(super) is_writing: AtomicBool,
    /// Writes come one after the other.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// Changes that people ask for come one after the other, its start before all others.
    pub(super) changing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Inside {
    record: BatchRecord,
    /// `None` while nothing is done about it: they are on the device then.
    items: Option<Vec<Item>>,
    dirty: BTreeSet<u32>,
    drawing: u64,
    since: Option<Instant>,
    /// Changes of state so far.
    change: u64,
}

/// A batch as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatus {
    pub record: BatchRecord,
    /// Pictures that are being made now.
    pub drawing: u64,
    /// Whether the device knows its state; it is tried again until it does.
    pub is_stored: bool,
}

impl BatchStatus {
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.record.left().saturating_sub(self.drawing)
    }
}

impl Batch {
    pub(super) fn new(record: BatchRecord, items: Option<Vec<Item>>) -> Self {
        let dirty = if items.is_some() { (0..chunks_of(record.pictures)).collect() } else { BTreeSet::new() };
        let id = record.id;
        // One with pictures is new: that it has begun is a change that the device does not know yet.
        let change = u64::from(items.is_some());
        let inside = Inside { record, items, dirty, drawing: 0, since: None, change };
        Self {
            id,
            inside: Mutex::new(inside),
            wish: watch::Sender::new(Wish::Go),
            left: watch::Sender::new(true),
            seen: watch::Sender::new(0),
            tried: watch::Sender::new(0),
            written: AtomicU64::new(0),
            is_writing: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
            changing: Arc::default(),
        }
    }

    pub(super) fn status(&self) -> BatchStatus {
        let inside = self.inside.lock();
        let is_stored = self.written.load(Ordering::Acquire) >= inside.change;
        BatchStatus { record: inside.record_now(), drawing: inside.drawing, is_stored }
    }

    pub(super) fn state(&self) -> BatchState {
        self.inside.lock().record.state
    }

    /// What was asked with this key.
    pub(super) fn deed_of(&self, key: &str) -> Option<Deed> {
        self.inside.lock().record.keys.iter().find_map(|known| Deed::of(known, key))
    }

    /// Its pictures as they are now, where they are in memory. Copies all of them: for a thread of its own.
    pub(super) fn items(&self) -> Option<Vec<Item>> {
        self.inside.lock().items.clone()
    }

    /// What is to be written: the record with all that is done, and the chunks that have changed. Copies them: for a
    /// thread of its own.
    pub(super) fn changed(&self) -> (Changed, u64) {
        let inside = &mut *self.inside.lock();
        let items = inside.items.as_deref().unwrap_or_default();
        let chunks = std::mem::take(&mut inside.dirty).into_iter().map(|number| {
            let chunk = items.chunks(CHUNK).nth(number as usize).unwrap_or_default();
            (number, chunk.to_vec())
        });
        let chunks = chunks.filter(|(_, chunk)| !chunk.is_empty()).collect();
        (Changed { record: inside.record_now(), chunks }, inside.change)
    }

    /// The device has refused these chunks.
    pub(super) fn unwritten(&self, chunks: impl IntoIterator<Item = u32>) {
        self.inside.lock().dirty.extend(chunks);
    }

    pub(super) fn change(&self) -> u64 {
        self.inside.lock().change
    }

    /// It is to be worked on: what failed is tried again where that is asked for.
    pub(super) fn enter(&self, again: Again) {
        let mut inside = self.inside.lock();
        inside.record.state = BatchState::Queued;
        if again == Again::Failures
            && let Some(items) = &mut inside.items
        {
            let mut dirty = BTreeSet::new();
            for (at, item) in items.iter_mut().enumerate().filter(|(_, item)| item.state == ItemState::Failed) {
                *item = Item::waiting(std::mem::take(&mut item.picture), item.seed);
                dirty.insert(chunk_of(at));
            }
            inside.dirty.extend(dirty);
            inside.count_all();
        }
        inside.change += 1;
        self.wish.send_replace(Wish::Go);
        self.left.send_replace(false);
        drop(inside);
        self.show();
    }

    /// Remembers what was asked; `false` where it has no key.
    pub(super) fn know(&self, deed: Deed, key: Option<&str>) -> bool {
        let mut inside = self.inside.lock();
        let has_key = key.is_some();
        inside.record.know(key.map(|key| deed.known_by(key)));
        inside.change += u64::from(has_key);
        has_key
    }

    /// Takes its pictures into memory.
    pub(super) fn load(&self, items: Vec<Item>) {
        let mut inside = self.inside.lock();
        if inside.items.is_none() {
            inside.items = Some(items);
            inside.count_all();
        }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.inside.lock().items.is_some()
    }

    /// Its turn has come: the pictures that are still to do, by their numbers.
    pub(super) fn begin(&self) -> Vec<usize> {
        let mut inside = self.inside.lock();
        inside.record.state = BatchState::Running;
        inside.since = Some(Instant::now());
        let items = inside.items.as_deref().unwrap_or_default();
        let waiting = items.iter().enumerate().filter(|(_, item)| item.state == ItemState::Waiting);
        let waiting = waiting.map(|(at, _)| at).collect();
        drop(inside);
        self.show();
        waiting
    }

    /// A picture that is to be made now.
    pub(super) fn take(&self, number: usize) -> Option<Item> {
        let mut inside = self.inside.lock();
        let item = inside.items.as_ref()?.get(number)?.clone();
        inside.drawing += 1;
        Some(item)
    }

    /// A picture has ended.
    pub(super) fn put(&self, number: usize, item: Item) {
        let mut inside = self.inside.lock();
        inside.drawing = inside.drawing.saturating_sub(1);
        inside.record.count(&item);
        if let Some(place) = inside.items.as_mut().and_then(|items| items.get_mut(number)) {
            *place = item;
            inside.dirty.insert(chunk_of(number));
        }
        drop(inside);
        self.show();
    }

    /// It failed as a whole.
    pub(super) fn broke(&self, reason: &str) {
        let failure = Item::waiting("", None).failed(reason);
        let mut inside = self.inside.lock();
        let reason = failure.reason.unwrap_or_default();
        inside.record.failures.insert(0, super::record::Failure { picture: String::new(), seed: None, reason });
        inside.record.failures.truncate(super::record::FAILURES_MAX);
    }

    /// Its work has ended so; `None`: the process stops, and the next one goes on.
    pub(super) fn end(&self, state: Option<BatchState>) {
        let mut inside = self.inside.lock();
        inside.record.elapsed_ms += inside.elapsed_ms();
        (inside.since, inside.drawing) = (None, 0);
        if let Some(state) = state {
            inside.record.state = state;
            inside.change += 1;
        }
        drop(inside);
        self.show();
    }

    /// A task is about to work on it: until that leaves, it keeps its pictures and its place.
    pub(super) fn occupy(&self) {
        self.left.send_replace(false);
    }

    /// No task works on it any more.
    pub(super) fn leave(&self) {
        self.left.send_replace(true);
        self.rest();
    }

    /// Pictures that are on the device need not be in memory where no task works on them.
    pub(super) fn rest(&self) {
        let mut inside = self.inside.lock();
        let rests = *self.left.borrow() && !inside.record.state.is_active();
        // What a write under way has taken is not dirty, and not on the device before the last change is.
        let is_written = inside.dirty.is_empty() && self.written.load(Ordering::Acquire) >= inside.change;
        if rests && is_written {
            inside.items = None;
        }
    }

    /// Whether it has ended for good, unless people try it again: another one may take its place.
    pub(super) fn makes_room(&self) -> bool {
        let state = self.state();
        *self.left.borrow() && !state.is_active() && state != BatchState::Paused
    }

    /// Waits until no task works on it.
    pub(super) async fn left(&self) {
        // Its sender lives as long as this batch.
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    pub(super) fn wish(&self, wish: Wish) {
        self.wish.send_replace(wish);
    }

    pub(super) fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    fn show(&self) {
        self.seen.send_modify(|seen| *seen += 1);
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }
}

/// Which pictures are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Those that nothing was done about.
    Waiting,
    /// Those that failed, too.
    Failures,
}

impl Inside {
    fn elapsed_ms(&self) -> u64 {
        self.since.map_or(0, |since| millis(since.elapsed()))
    }

    fn record_now(&self) -> BatchRecord {
        let mut record = self.record.clone();
        record.elapsed_ms += self.elapsed_ms();
        record
    }

    fn count_all(&mut self) {
        let items = self.items.as_deref().unwrap_or_default();
        self.record.count_all(items.iter());
    }
}

fn chunk_of(number: usize) -> u32 {
    u32::try_from(number / CHUNK).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::ask::Ask;
    use super::super::record::testing::record;
    use super::*;

    fn batch(pictures: u32) -> Batch {
        let items = (0..pictures).map(|n| Item::waiting(format!("studio/hero?n={n}"), None)).collect();
        Batch::new(record(1, pictures), Some(items))
    }

    fn ended(batch: &Batch, number: usize, state: ItemState) {
        let item = batch.take(number).unwrap();
        batch.put(number, if state == ItemState::Failed { item.failed("no node") } else { Item { state, ..item } });
    }

    #[test]
    fn only_what_has_changed_is_written() {
        let batch = batch(600);
        let numbers = |changed: &Changed| changed.chunks.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        let (first, _) = batch.changed();
        assert_eq!(numbers(&first), [0, 1, 2]);
        assert_eq!(batch.begin().len(), 600);
        ended(&batch, 300, ItemState::Drawn);
        let (second, _) = batch.changed();
        assert_eq!((numbers(&second), second.record.tally.drawn), (vec![1], 1));
        batch.unwritten([1]);
        assert_eq!(numbers(&batch.changed().0), [1], "what was refused is written again");
        assert_eq!(numbers(&batch.changed().0), [0; 0]);
    }

    #[test]
    fn failures_are_tried_again_and_nothing_else() {
        let batch = batch(3);
        batch.begin();
        ended(&batch, 0, ItemState::Drawn);
        ended(&batch, 2, ItemState::Failed);
        batch.end(Some(BatchState::Paused));
        assert_eq!((batch.status().record.left(), batch.status().record.failures.len()), (1, 1));
        batch.enter(Again::Waiting);
        assert_eq!(batch.begin(), [1]);
        batch.enter(Again::Failures);
        assert_eq!(batch.begin(), [1, 2]);
        let pause = Deed::Change(Ask::Pause);
        assert!(!batch.know(pause, None) && batch.know(pause, Some("again")));
        assert_eq!((batch.deed_of("again"), batch.deed_of("pause")), (Some(pause), None));
        let status = batch.status();
        assert_eq!((status.record.tally.drawn, status.record.tally.failed, status.record.left()), (1, 0, 2));
    }

    #[test]
    fn pictures_leave_memory_when_nothing_is_left_to_write() {
        let batch = batch(3);
        batch.end(Some(BatchState::Paused));
        batch.leave();
        assert!(batch.is_loaded(), "nothing is on the device yet");
        let (_, change) = batch.changed();
        batch.leave();
        assert!(batch.is_loaded(), "a write is under way, and may be refused");
        batch.written.fetch_max(change, Ordering::AcqRel);
        batch.occupy();
        batch.rest();
        assert!(batch.is_loaded() && !batch.makes_room(), "a task is about to work on it");
        batch.leave();
        assert!(!batch.is_loaded());
    }

    #[test]
    fn a_new_batch_is_not_stored_before_its_first_write() {
        let new = batch(3);
        assert!(!new.status().is_stored);
        let (_, change) = new.changed();
        new.written.fetch_max(change, Ordering::AcqRel);
        assert!(new.status().is_stored);
        assert!(Batch::new(record(1, 3), None).status().is_stored, "it was read from the device");
    }
}
