//! A log on the device: its entries, the rows of its state, and where both stand, in one commit each time.
//!
//! Owns `state.redb`. The rows save a start from folding every entry; [`Store::check`] folds them and compares.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::encode_128;

use super::actor::{ActorId, NAMES};
use super::entry::Entry;
use super::fold::{Head, LogId, Row, RowFault, Shelf, State};
use super::log::LogError;
use crate::state::{Changes, Check, Database, Failure, Schema, StateError, Table, Value, form};

const ENTRIES: Table<u64, Arc<Entry>> = Table::new("entries");
/// Under `shelf/key`.
const ROWS: Table<String, RowValue> = Table::new("rows");
const HEAD: Table<String, StoredHead> = Table::new("head");
/// Kills that hold here and are not in the log yet, by their keys.
const HELD: Table<String, HeldKill> = Table::new("held");
/// Signed heads, by their sequence numbers.
const CHECKPOINTS: Table<u64, String> = Table::new("checkpoints");
static SCHEMA: Schema = Schema {
    what: "the shared state",
    row: "the change",
    remedy: "`bildkante-edge state restore` puts a backup in its place; what was decided since is missing then",
    cache_bytes: 4 << 20,
    check: Check::Head,
    tables: &[&ENTRIES, &ROWS, &HEAD, &HELD, &CHECKPOINTS, &NAMES],
};
const VERSION: u8 = 1;
/// The one row of `head`.
const HERE: &str = "here";

/// The value of a row, as its shelf has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RowValue(String);

/// Where the stored state stands, and from where on its entries are here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct StoredHead {
    pub(super) head: Head,
    /// The entry before the first that is here: an edge that joins has a snapshot in place of those before.
    pub(super) begins: Head,
    /// The latest term that was seen anywhere.
    pub(super) term_seen: u64,
    /// This edge, by a random name that its folder keeps.
    pub(super) edge: String,
    /// The primary whose place this edge took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promoted_from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heard: Option<HeardLast>,
}

/// When a primary was heard last, and which.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct HeardLast {
    pub(super) primary: String,
    /// By this edge's clock.
    pub(super) at_unix_ms: u64,
}

/// A kill that is to be sent on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct HeldKill {
    pub(super) target: super::Target,
    pub(super) who: String,
    pub(super) why: String,
    pub(super) edge: String,
}

/// What one commit writes.
#[derive(Debug, Default, Clone)]
pub(super) struct Batch {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) rows: Vec<Row>,
    /// New names.
    pub(super) names: Vec<(String, ActorId)>,
    pub(super) forgotten: Vec<String>,
    /// Held kills that are in the log now.
    pub(super) settled: Vec<String>,
}

macro_rules! sealed {
    ($type:ty, $key:ty, |$k:ident| $bytes:expr) => {
        impl Value<$key> for $type {
            type Form = Vec<u8>;

            fn encode(&self, $k: &$key) -> Result<Vec<u8>, serde_json::Error> {
                form::seal(VERSION, $bytes, self)
            }

            fn decode($k: &$key, record: &[u8]) -> Result<Self, String> {
                form::unseal(VERSION, $bytes, record)
            }
        }
    };
}
sealed!(StoredHead, String, |key| key.as_bytes());
sealed!(HeldKill, String, |key| key.as_bytes());

impl Value<u64> for String {
    type Form = Vec<u8>;

    fn encode(&self, seq: &u64) -> Result<Vec<u8>, serde_json::Error> {
        Ok(form::seal_bytes(VERSION, &seq.to_be_bytes(), self.as_bytes()))
    }

    fn decode(seq: &u64, record: &[u8]) -> Result<Self, String> {
        text(form::unseal_bytes(VERSION, &seq.to_be_bytes(), record)?)
    }
}

impl Value<String> for RowValue {
    type Form = Vec<u8>;

    fn encode(&self, key: &String) -> Result<Vec<u8>, serde_json::Error> {
        Ok(form::seal_bytes(VERSION, key.as_bytes(), self.0.as_bytes()))
    }

    fn decode(key: &String, record: &[u8]) -> Result<Self, String> {
        text(form::unseal_bytes(VERSION, key.as_bytes(), record)?).map(Self)
    }
}

/// An entry bears a hash of its own.
impl Value<u64> for Arc<Entry> {
    type Form = Vec<u8>;

    fn encode(&self, _: &u64) -> Result<Vec<u8>, serde_json::Error> {
        Ok(self.to_json().into_bytes())
    }

    fn decode(seq: &u64, json: &[u8]) -> Result<Self, String> {
        let entry = Entry::parse(json).map_err(|error| error.to_string())?;
        if entry.seq() == *seq { Ok(Self::new(entry)) } else { Err(format!("it is entry {}", entry.seq())) }
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Store {
    database: Arc<Database>,
}

/// What was on the device.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) stored: StoredHead,
    pub(super) held: Vec<(String, HeldKill)>,
}

impl Store {
    /// Opens or begins a log. Blocks: for the start.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), LogError> {
        Self::over(Database::open(path, &SCHEMA)?)
    }

    pub(super) fn over(database: Database) -> Result<(Self, Loaded), LogError> {
        let store = Self { database: Arc::new(database) };
        if store.database.get(HEAD, &HERE.to_owned())?.is_none() {
            let head = Head::begin(random_log()?);
            let stored = StoredHead {
                begins: head.clone(),
                head,
                term_seen: 0,
                edge: random_log()?.into(),
                promoted_from: None,
                heard: None,
            };
            store.database.write(|changes| changes.of(HEAD)?.put(&HERE.to_owned(), &stored))?;
        }
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    /// Opens a database anew that has failed: reading alone does not. Blocks.
    pub(super) fn revive(&self) -> Result<(), StateError> {
        self.database.write(|_| Ok(()))
    }

    /// Blocks.
    pub(super) fn load(&self) -> Result<Loaded, LogError> {
        let mut rows = Vec::new();
        let (stored, held, unread) = self.database.read(|snapshot| {
            let mut unread = None;
            let _ = snapshot.rows(ROWS)?.each(|row| match row {
                Ok((key, value)) => {
                    rows.push((key, value));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    unread = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            Ok((snapshot.rows(HEAD)?.get(&HERE.to_owned())?, snapshot.rows(HELD)?.all()?, unread))
        })?;
        if let Some(unread) = unread {
            return Err(self.unreadable(unread.into()));
        }
        let stored = stored.ok_or(LogError::Panicked)?;
        let rows = rows.into_iter().map(|(key, value)| row_of(&key, value)).collect::<Result<Vec<_>, _>>()?;
        let state = State::restore(stored.head.clone(), rows)?;
        Ok(Loaded { state, stored, held })
    }

    fn unreadable(&self, source: Failure) -> LogError {
        StateError::Read { what: SCHEMA.what, path: self.database.path().to_owned(), source }.into()
    }

    /// Entries, rows and where they stand: one commit.
    pub(super) async fn write(&self, stored: StoredHead, batch: Batch) -> Result<(), StateError> {
        self.database.write_async(move |changes| write_batch(changes, &stored, &batch)).await
    }

    /// In place of all that was here, names included: a snapshot.
    pub(super) async fn replace(&self, stored: StoredHead, rows: Vec<Row>) -> Result<(), StateError> {
        self.database
            .write_async(move |changes| {
                changes.of(ROWS)?.clear()?;
                changes.of(ENTRIES)?.clear()?;
                // Which of them were erased since, the snapshot does not say.
                changes.of(NAMES)?.clear()?;
                write_batch(changes, &stored, &Batch { rows: rows.clone(), ..Batch::default() })
            })
            .await
    }

    pub(super) async fn hold(&self, key: String, held: HeldKill) -> Result<(), StateError> {
        self.database.write_async(move |changes| changes.of(HELD)?.put(&key, &held)).await
    }

    pub(super) async fn note(&self, stored: StoredHead) -> Result<(), StateError> {
        self.database.write_async(move |changes| changes.of(HEAD)?.put(&HERE.to_owned(), &stored)).await
    }

    pub(super) async fn let_go(&self, key: String) -> Result<(), StateError> {
        self.database.write_async(move |changes| changes.of(HELD)?.remove(&key)).await
    }

    /// Entries behind `after`. Blocks.
    pub(super) fn entries(&self, after: u64, count_max: usize) -> Result<Vec<Arc<Entry>>, StateError> {
        self.database.read(|snapshot| {
            let rows = snapshot.rows(ENTRIES)?;
            let mut entries = Vec::new();
            for seq in (after.saturating_add(1)..).take(count_max) {
                match rows.get(&seq)? {
                    Some(entry) => entries.push(entry),
                    None => break,
                }
            }
            Ok(entries)
        })
    }

    pub(super) fn names(&self) -> Result<Vec<(String, ActorId)>, StateError> {
        self.database.read(|snapshot| snapshot.rows(NAMES)?.all())
    }

    pub(super) async fn checkpoint(&self, seq: u64, signed: String) -> Result<(), StateError> {
        self.database.write_async(move |changes| changes.of(CHECKPOINTS)?.put(&seq, &signed)).await
    }

    /// Blocks.
    pub(super) fn checkpoints(&self) -> Result<Vec<(u64, String)>, StateError> {
        self.database.read(|snapshot| snapshot.rows(CHECKPOINTS)?.all())
    }
}

fn write_batch(changes: &Changes<'_>, stored: &StoredHead, batch: &Batch) -> Result<(), Failure> {
    let mut entries = changes.of(ENTRIES)?;
    batch.entries.iter().try_for_each(|entry| entries.put(&entry.seq(), entry))?;
    let mut rows = changes.of(ROWS)?;
    for row in &batch.rows {
        let key = key_of(row);
        match &row.value {
            Some(value) => rows.put(&key, &RowValue(value.clone()))?,
            None => rows.remove(&key)?,
        }
    }
    let mut names = changes.of(NAMES)?;
    batch.names.iter().try_for_each(|(name, id)| names.put(name, id))?;
    batch.forgotten.iter().try_for_each(|name| names.remove(name))?;
    let mut held = changes.of(HELD)?;
    batch.settled.iter().try_for_each(|key| held.remove(key))?;
    changes.of(HEAD)?.put(&HERE.to_owned(), stored)
}

fn key_of(row: &Row) -> String {
    format!("{}/{}", row.shelf.as_str(), row.key)
}

fn row_of(key: &str, value: RowValue) -> Result<Row, RowFault> {
    let (name, key) = key.split_once('/').unwrap_or((key, ""));
    let shelf = Shelf::ALL.into_iter().find(|shelf| shelf.as_str() == name).ok_or_else(|| RowFault {
        shelf: name.to_owned(),
        key: key.to_owned(),
        reason: "there is no such table in this build: a newer one wrote it".to_owned(),
    })?;
    Ok(Row { shelf, key: key.to_owned(), value: Some(value.0) })
}

fn random_log() -> Result<LogId, LogError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| LogError::Random)?;
    Ok(encode_128(&id).into())
}

#[cfg(test)]
pub(super) const fn schema() -> &'static Schema {
    &SCHEMA
}

#[cfg(test)]
pub(super) fn write_foreign_row(database: &Database, key: &str) {
    database.write(|changes| changes.of(ROWS)?.put(&key.to_owned(), &RowValue("1".to_owned()))).unwrap();
}

#[cfg(test)]
impl Store {
    pub(super) fn stored(&self) -> Result<StoredHead, LogError> {
        Ok(self.load()?.stored)
    }
}
