//! Batches on the device, so that a restart goes on with what is under way.
//!
//! Owns `batches.redb` in the data folder: a batch's record by its id, and its pictures in chunks by id and number,
//! sealed. A commit writes a record together with the chunks that have changed since the last one.

use std::ops::ControlFlow;
use std::path::Path;

use super::record::{BatchRecord, Item};
use crate::state::{Check, Database, Key, Schema, StateError, Table, Unreadable, Value, form};

const DATABASE: &str = "batches.redb";
/// Pictures of one chunk: a write of progress rewrites a few of them.
pub(super) const CHUNK: usize = 256;

const BATCHES: Table<u64, BatchRecord> = Table::new("batches");
const CHUNKS: Table<ChunkKey, Chunk> = Table::new("chunks");
static SCHEMA: Schema = Schema {
    what: "the database of batches",
    row: "a batch",
    remedy: "Moved away, what was under way has to be started again",
    cache_bytes: 4 << 20,
    check: Check::Head,
    tables: &[&BATCHES, &CHUNKS],
};
/// A row's schema.
const VERSION: u8 = 1;

/// Which pictures of which batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ChunkKey {
    batch: u64,
    number: u32,
}

/// Some pictures of a batch.
#[derive(Debug, Clone, PartialEq)]
struct Chunk(Vec<Item>);

impl Key for ChunkKey {
    type Form = [u8; 12];

    fn encode(&self) -> [u8; 12] {
        let mut form = [0; 12];
        form[..8].copy_from_slice(&self.batch.to_be_bytes());
        form[8..].copy_from_slice(&self.number.to_be_bytes());
        form
    }

    fn decode(form: [u8; 12]) -> Result<Self, String> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = form;
        Ok(Self { batch: u64::from_be_bytes([a, b, c, d, e, f, g, h]), number: u32::from_be_bytes([i, j, k, l]) })
    }
}

impl Value<u64> for BatchRecord {
    type Form = Vec<u8>;

    fn encode(&self, id: &u64) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, &id.to_le_bytes(), self)
    }

    fn decode(id: &u64, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, &id.to_le_bytes(), record)
    }
}

impl Value<ChunkKey> for Chunk {
    type Form = Vec<u8>;

    fn encode(&self, key: &ChunkKey) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, &key.encode(), &self.0)
    }

    fn decode(key: &ChunkKey, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, &key.encode(), record).map(Self)
    }
}

/// A record and the chunks that have changed, by their numbers.
#[derive(Debug, Clone)]
pub(super) struct Changed {
    pub(super) record: BatchRecord,
    pub(super) chunks: Vec<(u32, Vec<Item>)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct StoredBatches {
    database: Database,
}

impl StoredBatches {
    /// Opens or creates the database in `data_dir`. Blocks.
    ///
    /// # Errors
    /// When the file is no database, is damaged where it begins or is open elsewhere.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        Ok(Self { database: Database::open(&data_dir.join(DATABASE), &SCHEMA)? })
    }

    /// Nothing is written until this is dropped. Blocks until that is so.
    #[cfg(test)]
    pub(super) fn hold(self: &std::sync::Arc<Self>) -> std::sync::mpsc::Sender<()> {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (holds, held) = std::sync::mpsc::channel();
        let (this, released) = (std::sync::Arc::clone(self), parking_lot::Mutex::new(released));
        std::thread::spawn(move || {
            let waits = |_: &crate::state::Changes<'_>| {
                let _ = (holds.send(()), released.lock().recv());
                Ok(())
            };
            this.database.write(waits)
        });
        held.recv().expect("the thread writes");
        release
    }

    /// On the device when this returns. Blocks.
    ///
    /// # Errors
    /// When the device refuses. It recovers with the device.
    pub(super) fn put(&self, changed: &Changed) -> Result<(), StateError> {
        let Changed { record, chunks } = changed;
        self.database.write(|changes| {
            changes.of(BATCHES)?.put(&record.id, record)?;
            let mut table = changes.of(CHUNKS)?;
            chunks.iter().try_for_each(|(number, items)| {
                table.put(&ChunkKey { batch: record.id, number: *number }, &Chunk(items.clone()))
            })
        })
    }

    /// Blocks.
    ///
    /// # Errors
    /// When the device refuses.
    pub(super) fn forget(&self, id: u64, pictures: u32) -> Result<(), StateError> {
        self.database.write(|changes| {
            changes.of(BATCHES)?.remove(&id)?;
            let mut table = changes.of(CHUNKS)?;
            (0..chunks_of(pictures)).try_for_each(|number| table.remove(&ChunkKey { batch: id, number }))
        })
    }

    /// Records that can be read, oldest first; what cannot is reported and stays where it is. Blocks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn all(&self) -> Result<Vec<BatchRecord>, StateError> {
        let mut batches = Vec::new();
        let _ = self.database.each(BATCHES, |row| {
            match row {
                Ok((_, record)) => batches.push(record),
                Err(error) => tracing::warn!(%error, "this batch cannot be read"),
            }
            ControlFlow::Continue(())
        })?;
        Ok(batches)
    }

    /// The pictures of a batch, in their order. Blocks.
    ///
    /// # Errors
    /// When the device fails, or some of them are missing or cannot be read.
    pub(super) fn items(&self, id: u64, pictures: u32) -> Result<Vec<Item>, StateError> {
        self.database.read(|snapshot| {
            let rows = snapshot.rows(CHUNKS)?;
            let mut items = Vec::with_capacity(pictures as usize);
            for number in 0..chunks_of(pictures) {
                let chunk = rows.get(&ChunkKey { batch: id, number })?;
                items.extend(chunk.ok_or_else(|| missing(id, number))?.0);
            }
            Ok(items)
        })
    }
}

/// A batch without some of its pictures would be shorter than it was ordered.
fn missing(batch: u64, number: u32) -> Unreadable {
    Unreadable { table: "chunks", key: format!("{batch}/{number}"), reason: "it is missing".to_owned() }
}

/// How many chunks so many pictures are.
pub(super) fn chunks_of(pictures: u32) -> u32 {
    u32::try_from((pictures as usize).div_ceil(CHUNK)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::record::{ItemState, testing::record};
    use super::*;

    #[test]
    fn a_batch_is_read_as_it_was_written_and_forgotten_wholly() {
        let dir = tempfile::tempdir().unwrap();
        let stored = StoredBatches::open(dir.path()).unwrap();
        let mut items: Vec<Item> = (0..600).map(|n| Item::waiting(format!("studio/hero?n={n}"), None)).collect();
        let chunked = |items: &[Item]| (0..).zip(items.chunks(CHUNK).map(<[Item]>::to_vec)).collect::<Vec<_>>();
        for id in [7, 8] {
            stored.put(&Changed { record: record(id, 600), chunks: chunked(&items) }).unwrap();
        }
        items[300] = Item { state: ItemState::Drawn, device_ms: Some(0.1 + 0.2), ..items[300].clone() };
        stored.put(&Changed { record: record(7, 600), chunks: chunked(&items).drain(1..2).collect() }).unwrap();
        drop(stored);
        let stored = StoredBatches::open(dir.path()).unwrap();
        assert_eq!(stored.all().unwrap(), [record(7, 600), record(8, 600)]);
        assert_eq!(stored.items(7, 600).unwrap(), items);
        assert_ne!(stored.items(8, 600).unwrap(), items);
        stored.forget(7, 600).unwrap();
        assert_eq!(stored.all().unwrap().len(), 1);
        assert!(stored.items(7, 600).is_err(), "it has no pictures any more");
        assert_eq!(stored.items(8, 600).unwrap().len(), 600);
    }

    #[test]
    fn a_batch_without_some_of_its_pictures_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let stored = StoredBatches::open(dir.path()).unwrap();
        let items: Vec<Item> = (0..600).map(|n| Item::waiting(format!("studio/hero?n={n}"), None)).collect();
        let chunks = (0..).zip(items.chunks(CHUNK).map(<[Item]>::to_vec)).filter(|(number, _)| *number != 1);
        stored.put(&Changed { record: record(7, 600), chunks: chunks.collect() }).unwrap();
        let error = stored.items(7, 600).unwrap_err().to_string();
        assert!(error.contains("7/1") && error.contains("missing"), "{error}");
    }
}
