//! Batches: pictures that a person names by list, filter or table are drawn and rendered, and each is accounted for.
//!
//! ```text
//! names, rows, filter ─▶ selection ─▶ pictures ─▶ warm::Settler, one after the other ─▶ results
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | `selection`, `csv` | which pictures an order names, and what is wrong with it |
//! | `ask` | what people ask of a batch |
//! | `record` | an order, how far it is, and what became of each picture |
//! | `live` | a batch in this process |
//! | `work` | its work |
//! | `stored`, `keep` | batches on the device, and when they are written |
//! | `estimate` | what pictures are expected to take |
//! | `results` | what became of them, as a table and as a manifest |
//!
//! Invariants
//! - A batch stands on warming: one queue of work, and one way in which a picture is made.
//! - A batch is on the device before it is acknowledged. A restart goes on with it, and finds the pictures that are
//!   drawn.
//! - The number of batches is bounded, and so are the pictures of one. A batch that rests holds no picture in memory.
//! - A batch that has ended makes room for a new one once the new one is on the device.
//! - A change that people ask for is a task of its own. In force first, durable next, acknowledged last; the
//!   acknowledgement says whether the device knows of it.

mod ask;
mod csv;
pub mod estimate;
mod keep;
mod live;
pub mod record;
mod results;
pub mod selection;
mod stored;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bildkante_shared::ids::Digest;
use bildkante_shared::shutdown::Shutdown;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::watch;

pub use self::ask::Ask;
use self::ask::Deed;
pub(crate) use self::csv::{table_of, text_of};
pub use self::live::BatchStatus;
use self::live::{Again, Batch, Wish};
use self::record::{BatchRecord, BatchState, Item, ItemState, Source, Tally, Terms};
pub use self::results::{csv_of, manifest_of};
use self::selection::Selected;
pub use self::stored::StoredBatches;
use crate::cache::{Bindings, unix_ms};
use crate::campaign::CatalogHandle;
use crate::governance::{ReviewDesk, audit};
use crate::state::StateError;
use crate::warm::{Price, STORE_WAIT, Warmer, detached};

/// Most pictures of one batch.
pub const PICTURES_MAX: usize = 100_000;
/// Batches remembered.
const BATCHES_MAX: usize = 64;

/// What batches did.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    pictures: IntCounterVec,
    running: IntGauge,
}

impl BatchMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let pictures = IntCounterVec::new(
            Opts::new("bildkante_edge_batch_pictures_total", "Pictures of batches, by what became of them"),
            &["outcome"],
        )?;
        let running = IntGauge::new("bildkante_edge_batches_running", "Batches under way, or waiting for their turn")?;
        registry.register(Box::new(pictures.clone()))?;
        registry.register(Box::new(running.clone()))?;
        for state in [ItemState::Drawn, ItemState::There, ItemState::Failed] {
            pictures.with_label_values(&[state.as_str()]);
        }
        Ok(Self { pictures, running })
    }

    fn count(&self, state: ItemState) {
        self.pictures.with_label_values(&[state.as_str()]).inc();
    }
}

/// Why something cannot be done about a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("there is no such batch")]
    Unknown,
    #[error("no picture is asked for: nothing matches")]
    Empty,
    #[error("an order with this key became batch {0}, and asked for something else")]
    KeyReused(u64),
    #[error("{BATCHES_MAX} batches are under way or paused: end some of them")]
    Full,
    #[error("the batch is {}: {wanted}", state.as_str())]
    NotNow { state: BatchState, wanted: &'static str },
    #[error("nothing has begun: {0}")]
    NotStored(String),
    #[error("its pictures cannot be read: {0}")]
    Unread(String),
    #[error("the change ended early: {0}")]
    Broken(String),
}

/// A batch that is to begin.
#[derive(Debug)]
pub struct BatchOrder {
    pub source: Source,
    pub selected: Selected,
    pub terms: Terms,
    pub why: String,
    /// Of the order as it came, without its reason.
    pub digest: Digest,
}

/// Runs the batches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BatchDesk {
    inner: Arc<Inner>,
}

struct Inner {
    warmer: Warmer,
    reviews: ReviewDesk,
    catalog: CatalogHandle,
    bindings: Bindings,
    price: Option<Price>,
    stored: Arc<StoredBatches>,
    batches: Mutex<BTreeMap<u64, Arc<Batch>>>,
    metrics: BatchMetrics,
    shutdown: Shutdown,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("stored", &self.stored).finish_non_exhaustive()
    }
}

/// What batches work with.
#[derive(Debug)]
pub struct BatchParts {
    pub warmer: Warmer,
    pub reviews: ReviewDesk,
    pub catalog: CatalogHandle,
    pub bindings: Bindings,
    pub price: Option<Price>,
    pub metrics: BatchMetrics,
}

impl BatchDesk {
    /// Reads the batches of earlier processes from `data_dir`. Blocks: for the start.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(data_dir: &Path, parts: BatchParts, shutdown: Shutdown) -> Result<Self, StateError> {
        let stored = Arc::new(StoredBatches::open(data_dir)?);
        let known = stored.all()?.into_iter().map(|record| (record.id, Arc::new(Batch::new(record, None))));
        let batches = Mutex::new(known.collect());
        let BatchParts { warmer, reviews, catalog, bindings, price, metrics } = parts;
        let inner = Inner { warmer, reviews, catalog, bindings, price, stored, batches, metrics, shutdown };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Goes on with what an earlier process had under way.
    pub fn go_on(&self) {
        let batches: Vec<_> = self.inner.batches.lock().values().cloned().collect();
        for batch in batches.into_iter().filter(|batch| batch.state().is_active()) {
            tracing::info!(batch = batch.id, "going on with a batch");
            self.inner.launch(&batch, Again::Waiting);
        }
    }

    /// The batch that an order with this key began, if it asked for the same.
    ///
    /// # Errors
    /// When it asked for something else.
    pub fn known(&self, key: Option<&str>, order: Digest) -> Result<Option<BatchStatus>, BatchError> {
        let known = known_among(&self.inner.batches.lock(), key, order)?;
        Ok(known.map(|batch| batch.status()))
    }

    /// # Errors
    /// When no picture is asked for, there are too many batches, or the device refuses: nothing has begun then.
    pub async fn start(&self, who: &str, order: BatchOrder, key: Option<String>) -> Result<BatchStatus, BatchError> {
        let (inner, who) = (Arc::clone(&self.inner), who.to_owned());
        detached(async move { inner.start(&who, order, key).await }, BatchError::Broken).await
    }

    /// # Errors
    /// When there is no such batch, its state does not allow it, or the key belongs to something else that was asked of
    /// it.
    pub async fn ask(&self, who: &str, id: u64, ask: Ask, key: Option<String>) -> Result<BatchStatus, BatchError> {
        let (inner, who) = (Arc::clone(&self.inner), who.to_owned());
        detached(async move { inner.ask(&who, id, ask, key.as_deref()).await }, BatchError::Broken).await
    }

    #[must_use]
    pub fn one(&self, id: u64) -> Option<BatchStatus> {
        self.inner.batches.lock().get(&id).map(|batch| batch.status())
    }

    /// Newest first.
    #[must_use]
    pub fn all(&self) -> Vec<BatchStatus> {
        self.inner.batches.lock().values().rev().map(|batch| batch.status()).collect()
    }

    /// Counts what can be seen of a batch.
    #[must_use]
    pub fn watch(&self, id: u64) -> Option<watch::Receiver<u64>> {
        self.inner.batches.lock().get(&id).map(|batch| batch.watch())
    }

    /// What became of each picture, in the order in which they were named. Reads or copies all of them: for a thread of
    /// its own.
    ///
    /// # Errors
    /// When there is no such batch, or the device fails.
    pub fn items(&self, id: u64) -> Result<Vec<Item>, BatchError> {
        let batch = self.inner.batches.lock().get(&id).cloned().ok_or(BatchError::Unknown)?;
        if let Some(items) = batch.items() {
            return Ok(items);
        }
        let items = self.inner.stored.items(id, batch.status().record.pictures);
        items.map_err(|error| BatchError::Unread(error.to_string()))
    }

    /// What a second of a device costs.
    #[must_use]
    pub fn price(&self) -> Option<&Price> {
        self.inner.price.as_ref()
    }
}

fn note(who: &str, what: &'static str, status: &BatchStatus) {
    let record = &status.record;
    let campaigns: Vec<&str> = record.campaigns.iter().map(String::as_str).collect();
    let subject = format!("batch {} campaign {} pictures {}", record.id, campaigns.join(","), record.pictures);
    let outcome = if status.is_stored { "accepted" } else { "not-stored" };
    audit::note(&audit::Change { who, what, subject: &subject, why: &record.why, outcome });
}

fn known_among(
    batches: &BTreeMap<u64, Arc<Batch>>,
    key: Option<&str>,
    order: Digest,
) -> Result<Option<Arc<Batch>>, BatchError> {
    let Some(key) = key else { return Ok(None) };
    let known = batches.values().find_map(|batch| Some((batch, batch.deed_of(key)?)));
    match known {
        None => Ok(None),
        Some((batch, Deed::Begin)) if batch.status().record.order == order => Ok(Some(Arc::clone(batch))),
        Some((batch, _)) => Err(BatchError::KeyReused(batch.id)),
    }
}

impl Inner {
    async fn start(
        self: &Arc<Self>,
        who: &str,
        order: BatchOrder,
        key: Option<String>,
    ) -> Result<BatchStatus, BatchError> {
        let BatchOrder { source, selected: Selected { items, campaigns, .. }, terms, why, digest } = order;
        if items.is_empty() {
            return Err(BatchError::Empty);
        }
        // Until it has begun, a pause or an end waits: it would be overtaken by the beginning.
        let (batch, _one) = {
            let mut batches = self.batches.lock();
            // It may have come twice at once.
            if let Some(known) = known_among(&batches, key.as_deref(), digest)? {
                return Ok(known.status());
            }
            if batches.values().filter(|batch| !batch.makes_room()).count() >= BATCHES_MAX {
                return Err(BatchError::Full);
            }
            let now = unix_ms(SystemTime::now());
            let record = BatchRecord {
                id: batches.last_key_value().map_or(now, |(last, _)| now.max(last + 1)),
                by: who.to_owned(),
                why,
                state: BatchState::Queued,
                source,
                started_unix_ms: now,
                elapsed_ms: 0,
                campaigns,
                terms,
                pictures: u32::try_from(items.len()).unwrap_or(u32::MAX),
                tally: Tally::default(),
                failures: Vec::new(),
                measured: BTreeMap::new(),
                order: digest,
                keys: key.into_iter().collect(),
            };
            let batch = Arc::new(Batch::new(record, Some(items)));
            batches.insert(batch.id, Arc::clone(&batch));
            // It is free: the batch is new.
            let one = Arc::clone(&batch.changing).try_lock_owned();
            (batch, one)
        };
        // Before anything is drawn: what a restart would not know is not begun.
        if let Err(error) = self.write_once(&batch).await {
            self.batches.lock().remove(&batch.id);
            return Err(BatchError::NotStored(error.to_string()));
        }
        self.forget_the_oldest();
        self.launch(&batch, Again::Waiting);
        self.settled(&batch).await;
        let status = batch.status();
        note(who, "batch-start", &status);
        Ok(status)
    }

    /// Carries out what people ask of a batch.
    async fn ask(self: &Arc<Self>, who: &str, id: u64, ask: Ask, key: Option<&str>) -> Result<BatchStatus, BatchError> {
        let batch = self.batches.lock().get(&id).cloned().ok_or(BatchError::Unknown)?;
        let _one = batch.changing.lock().await;
        // The device may have refused it meanwhile, or it has made room.
        if !self.batches.lock().contains_key(&id) {
            return Err(BatchError::Unknown);
        }
        let has_changed = match key.and_then(|key| batch.deed_of(key)) {
            None => self.carry_out(&batch, ask).await?,
            Some(Deed::Change(repeated)) if repeated == ask => false,
            Some(_) => return Err(BatchError::KeyReused(id)),
        };
        if has_changed && batch.know(Deed::Change(ask), key) {
            self.store(&batch);
        }
        self.settled(&batch).await;
        let status = batch.status();
        if has_changed {
            note(who, ask.as_str(), &status);
        }
        Ok(status)
    }

    /// Forgets the oldest batches that have ended, where there are too many.
    fn forget_the_oldest(self: &Arc<Self>) {
        let mut batches = self.batches.lock();
        while batches.len() > BATCHES_MAX {
            let oldest = batches.iter().find(|(_, batch)| batch.makes_room()).map(|(id, _)| *id);
            let Some(batch) = oldest.and_then(|id| batches.remove(&id)) else { return };
            tokio::spawn(forget(Arc::clone(&self.stored), batch));
        }
    }

    fn launch(self: &Arc<Self>, batch: &Arc<Batch>, again: Again) {
        batch.enter(again);
        self.store(batch);
        tokio::spawn(Arc::clone(self).run(Arc::clone(batch)));
    }

    /// A batch that stands still is about to be worked on again: from here on it makes no room, and keeps its pictures.
    async fn take_up(&self, batch: &Batch) -> Result<(), BatchError> {
        // Its last task may wait for the device yet.
        batch.left().await;
        let batches = self.batches.lock();
        if !batches.contains_key(&batch.id) {
            return Err(BatchError::Unknown);
        }
        batch.occupy();
        Ok(())
    }

    /// Whether it changed anything.
    async fn carry_out(self: &Arc<Self>, batch: &Arc<Batch>, ask: Ask) -> Result<bool, BatchError> {
        use BatchState as S;
        let state = batch.state();
        let not_now = |wanted| Err(BatchError::NotNow { state, wanted });
        match (ask, state) {
            (Ask::Pause, S::Queued | S::Running) => self.stand_still(batch, Wish::Pause).await,
            (Ask::Cancel, S::Queued | S::Running) => self.stand_still(batch, Wish::Cancel).await,
            (Ask::Cancel, S::Paused) => {
                batch.end(Some(S::Cancelled));
                self.store(batch);
                Ok(true)
            }
            (Ask::Resume, S::Paused) => {
                self.take_up(batch).await?;
                self.launch(batch, Again::Waiting);
                Ok(true)
            }
            (Ask::Retry, S::Done | S::Paused | S::Refused) => {
                self.take_up(batch).await?;
                if let Err(reason) = self.load(batch).await {
                    batch.leave();
                    return Err(BatchError::Unread(reason));
                }
                self.launch(batch, Again::Failures);
                Ok(true)
            }
            (Ask::Pause, S::Paused) | (Ask::Resume, S::Queued | S::Running) | (Ask::Cancel, S::Cancelled) => Ok(false),
            (Ask::Pause | Ask::Cancel, _) => not_now("it has ended"),
            (Ask::Resume, _) => not_now("one that is paused is resumed"),
            (Ask::Retry, S::Queued | S::Running) => not_now("pause it, or wait for its end"),
            (Ask::Retry, _) => not_now("start another one"),
        }
    }

    /// It has ended or paused when this returns, unless it takes long to hear of it.
    async fn stand_still(&self, batch: &Batch, wish: Wish) -> Result<bool, BatchError> {
        batch.wish(wish);
        let _ = tokio::time::timeout(STORE_WAIT, batch.left()).await;
        Ok(true)
    }
}

/// Takes a batch off the device.
async fn forget(stored: Arc<StoredBatches>, batch: Arc<Batch>) {
    let _one = batch.writing.lock().await;
    let (id, pictures) = (batch.id, batch.status().record.pictures);
    let forgotten = tokio::task::spawn_blocking(move || stored.forget(id, pictures)).await;
    if !matches!(forgotten, Ok(Ok(()))) {
        tracing::warn!(batch = id, "a batch that is forgotten is still on the device: a restart shows it again");
    }
}

#[cfg(test)]
mod tests;
