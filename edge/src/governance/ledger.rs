//! Marks and purges on the device: every commit is synced before it is acknowledged.
//!
//! Owns a `redb` database of three tables: marks by tag, the latest purges with what became of them downstream, and
//! the generation counter. The counter starts at the milliseconds since 1970 of the database's creation: should it be
//! lost, every image made under the old one counts as older than any purge to come.
//!
//! What is to be written is gathered in [`Unwritten`], in the order it came into force, and written whole: what a failed
//! commit leaves behind goes with the next one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::marks::{Changes, MarkTable, Marked, PurgeKey, PurgeKind, PurgeReach, TagError};
use super::scope::PurgeScope;
use crate::cache::database::Reopening;

const MARKS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("marks");
const PURGES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("purges");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const GENERATION: &str = "generation";
const DATABASE_CACHE_BYTES: usize = 1 << 20;
/// Purges remembered; older ones are forgotten once downstream has confirmed them, or are called in with a newer one.
pub const RECORDS_MAX: usize = 1_000;

/// A purge: what was asked, by whom, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PurgeRecord {
    /// Its generation.
    pub id: u64,
    pub at_unix_ms: u64,
    pub by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    pub scope: PurgeScope,
    pub kind: PurgeKind,
    pub reach: PurgeReach,
    /// What caches further down know the images by; empty for everything.
    pub tags: Vec<String>,
    /// The URL, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// By the name of the downstream purger.
    pub downstream: BTreeMap<String, Delivery>,
}

impl PurgeRecord {
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.downstream.values().all(|delivery| delivery.state.is_over())
    }
}

/// What became of a purge at one cache further down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub state: DeliveryState,
    pub breadth: Breadth,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Delivery {
    #[must_use]
    pub const fn pending(breadth: Breadth) -> Self {
        Self { state: DeliveryState::Pending, breadth, attempts: 0, confirmed_unix_ms: None, last_error: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    Pending,
    /// Not confirmed by its deadline; it goes on being called.
    Overdue,
    Confirmed,
    /// It has done what it was told, and could not be told everything: it may still hold what is purged.
    Incomplete,
    /// Never confirmed, and no longer called.
    GivenUp,
}

impl DeliveryState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Overdue => "overdue",
            Self::Confirmed => "confirmed",
            Self::Incomplete => "incomplete",
            Self::GivenUp => "given_up",
        }
    }

    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Confirmed | Self::Incomplete | Self::GivenUp)
    }
}

/// How much is purged downstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breadth {
    AsAsked,
    /// Also what older purges asked for that are no longer remembered.
    Everything,
}

/// Why the ledger cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("{path}: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the purge ledger {path} cannot be used: {source}. Without it nobody knows what was purged: move it away together with the renditions beside it",
        path = path.display()
    )]
    Open { path: PathBuf, source: Box<redb::Error> },
    #[error("the purge ledger holds {what} this build cannot read: {reason}")]
    Record { what: String, reason: String },
    #[error("the purge could not be written: {0}")]
    Write(#[source] Box<redb::Error>),
    #[error("the writing task panicked")]
    Panicked,
}

/// What was on the device.
#[derive(Debug)]
pub struct Loaded {
    pub generation: u64,
    pub marks: MarkTable,
    pub records: BTreeMap<u64, PurgeRecord>,
}

/// What is in force and not on the device yet. `None` stands for what is to be removed.
#[derive(Debug, Default)]
pub struct Unwritten {
    marks: HashMap<PurgeKey, Option<Marked>>,
    records: BTreeMap<u64, Option<PurgeRecord>>,
    generation: Option<u64>,
}

impl Unwritten {
    /// A purge that has just come into force.
    pub fn purge(&mut self, changes: &Changes, record: &PurgeRecord, forgotten: &[u64]) {
        self.marks.extend(changes.remove.iter().map(|key| (key.clone(), None)));
        self.marks.extend(changes.put.iter().map(|(key, marked)| (key.clone(), Some(marked.clone()))));
        self.records.extend(forgotten.iter().map(|id| (*id, None)));
        self.records.insert(record.id, Some(record.clone()));
        self.generation = Some(record.id);
    }

    /// What has become of a purge.
    pub fn note(&mut self, record: &PurgeRecord) {
        self.records.insert(record.id, Some(record.clone()));
    }

    /// Puts back what could not be written: what has come since counts.
    pub fn put_under(&mut self, older: &Self) {
        for (key, marked) in &older.marks {
            self.marks.entry(key.clone()).or_insert_with(|| marked.clone());
        }
        for (id, record) in &older.records {
            self.records.entry(*id).or_insert_with(|| record.clone());
        }
        self.generation = self.generation.max(older.generation);
    }

    /// Of the last purge among it.
    #[must_use]
    pub const fn generation(&self) -> Option<u64> {
        self.generation
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.records.is_empty()
    }

    /// Purges among it that came after this generation: the others are on the device, and only what became of them is not.
    #[must_use]
    pub fn purges_after(&self, generation: u64) -> usize {
        self.records.range(generation.saturating_add(1)..).filter(|(_, record)| record.is_some()).count()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ledger {
    database: Reopening,
}

impl Ledger {
    /// Opens or creates the database and reads all of it. Blocks: for the start.
    ///
    /// # Errors
    /// When the file is not a database, is damaged, is open elsewhere, or holds what this build cannot read.
    pub fn open(path: &Path) -> Result<(Self, Loaded), LedgerError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| LedgerError::Folder { path: folder.to_owned(), source })?;
        }
        Self::open_by(path, open_database)
    }

    fn open_by(
        path: &Path,
        open: impl Fn(&Path) -> Result<Database, redb::Error> + Send + Sync + 'static,
    ) -> Result<(Self, Loaded), LedgerError> {
        let unusable = |source: redb::Error| LedgerError::Open { path: path.to_owned(), source: Box::new(source) };
        let database = Reopening::open(path, open).map_err(unusable)?;
        let loaded = parse(database.read(read).map_err(unusable)?)?;
        Ok((Self { database }, loaded))
    }

    /// Writes it, whole or not at all; on the device when this returns. Blocks.
    ///
    /// # Errors
    /// When the device refuses. It recovers with the device.
    pub fn write(&self, unwritten: &Unwritten) -> Result<(), LedgerError> {
        let written = self.database.write(|transaction| {
            let mut marks = transaction.open_table(MARKS)?;
            for (key, marked) in &unwritten.marks {
                match marked {
                    Some(marked) => drop(marks.insert(key.to_string().as_str(), json(marked).as_slice())?),
                    None => drop(marks.remove(key.to_string().as_str())?),
                }
            }
            let mut purges = transaction.open_table(PURGES)?;
            for (id, record) in &unwritten.records {
                match record {
                    Some(record) => drop(purges.insert(*id, json(record).as_slice())?),
                    None => drop(purges.remove(*id)?),
                }
            }
            if let Some(generation) = unwritten.generation {
                transaction.open_table(META)?.insert(GENERATION, generation)?;
            }
            Ok(())
        });
        written.map_err(|error| LedgerError::Write(Box::new(error)))
    }
}

/// Our own types of strings, numbers and maps with string keys: they always have a JSON form.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // A plain open trusts the pages; this reads them all and says so.
    builder.set_cache_size(DATABASE_CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    crate::cache::database::ensure(path)?;
    with_tables(builder().create(path)?)
}

fn with_tables(database: Database) -> Result<Database, redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(MARKS)?;
        transaction.open_table(PURGES)?;
        let mut meta = transaction.open_table(META)?;
        if meta.get(GENERATION)?.is_none() {
            meta.insert(GENERATION, crate::cache::unix_ms(SystemTime::now()).max(1))?;
        }
    }
    transaction.commit()?;
    Ok(database)
}

/// Everything as it is written: parsing comes after reading, so that each has its own errors.
#[derive(Default)]
struct Written {
    generation: u64,
    marks: Vec<(String, Vec<u8>)>,
    purges: Vec<(u64, Vec<u8>)>,
}

fn read(database: &Database) -> Result<Written, redb::Error> {
    let read = database.begin_read()?;
    let generation = read.open_table(META)?.get(GENERATION)?.map_or(1, |value| value.value());
    let mut written = Written { generation, ..Written::default() };
    for entry in read.open_table(MARKS)?.iter()? {
        let (key, value) = entry?;
        written.marks.push((key.value().to_owned(), value.value().to_owned()));
    }
    for entry in read.open_table(PURGES)?.iter()? {
        let (id, value) = entry?;
        written.purges.push((id.value(), value.value().to_owned()));
    }
    Ok(written)
}

fn parse(written: Written) -> Result<Loaded, LedgerError> {
    let unreadable = |what: String, reason: String| LedgerError::Record { what, reason };
    let mut changes = Changes::default();
    for (text, value) in written.marks {
        let what = || format!("the mark `{text}`");
        let key: PurgeKey = text.parse().map_err(|error: TagError| unreadable(what(), error.to_string()))?;
        let marked = serde_json::from_slice(&value).map_err(|error| unreadable(what(), error.to_string()))?;
        changes.put.insert(key, marked);
    }
    let mut marks = MarkTable::default();
    marks.apply(changes);
    let mut records = BTreeMap::new();
    for (id, value) in written.purges {
        let record =
            serde_json::from_slice(&value).map_err(|error| unreadable(format!("purge {id}"), error.to_string()))?;
        records.insert(id, record);
    }
    Ok(Loaded { generation: written.generation, marks, records })
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::cache::database::testing::Device;

    /// As [`Ledger::open`], on a device that a test holds.
    pub(crate) fn open_on(device: &Device, path: &Path) -> Result<(Ledger, Loaded), LedgerError> {
        let device = device.clone();
        Ledger::open_by(path, move |path| with_tables(device.open(&builder(), path)?))
    }
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::MasterId;

    use super::super::marks::{Mark, Marks};
    use super::*;
    use crate::cache::RenditionKey;
    use crate::cache::database::fixture;

    /// The tables as the former version declares them.
    const FORMER_MARKS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("marks");
    const FORMER_PURGES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("purges");
    const FORMER_META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
    const FIXTURE: &str = "purges.redb";
    const LAST: u64 = 1_700_000_000_009;

    fn marked(n: u64, kind: PurgeKind, reach: PurgeReach, campaign: Option<&str>) -> Marked {
        let mark = Mark { generation: LAST - n, at_unix_ms: LAST - 2 * n };
        Marked { marks: Marks::of(mark, kind, reach), campaign: campaign.map(Into::into) }
    }

    fn marks() -> HashMap<PurgeKey, Marked> {
        HashMap::from([
            (PurgeKey::Everything, marked(5, PurgeKind::Soft, PurgeReach::Renditions, None)),
            (PurgeKey::campaign("studio"), marked(4, PurgeKind::Hard, PurgeReach::Masters, Some("studio"))),
            ("slot:studio/hero".parse().unwrap(), marked(3, PurgeKind::Soft, PurgeReach::Masters, Some("studio"))),
            (PurgeKey::Master(MasterId::of_bytes(b"m")), marked(2, PurgeKind::Hard, PurgeReach::Renditions, None)),
            (
                PurgeKey::Cut(RenditionKey::from_raw([7; 16])),
                marked(1, PurgeKind::Hard, PurgeReach::Renditions, Some("autumn")),
            ),
        ])
    }

    fn delivery(state: DeliveryState, n: u32) -> Delivery {
        let pending = Delivery::pending(if n > 2 { Breadth::Everything } else { Breadth::AsAsked });
        let last_error = (n > 1).then(|| format!("502 at the {n}. call"));
        Delivery { state, attempts: n, confirmed_unix_ms: (n < 2).then_some(LAST), last_error, ..pending }
    }

    fn record(n: u64, scope: PurgeScope, url: Option<&str>) -> PurgeRecord {
        PurgeRecord {
            id: LAST - n,
            at_unix_ms: LAST - 2 * n,
            by: "deploy".to_owned(),
            why: if n == 1 { String::new() } else { "rights ended: \"häh?\"".to_owned() },
            scope,
            kind: PurgeKind::Hard,
            reach: PurgeReach::Masters,
            tags: (0..n).map(|n| format!("slot:studio/s{n}")).collect(),
            url: url.map(str::to_owned),
            downstream: BTreeMap::from([
                ("cdn".to_owned(), delivery(DeliveryState::Confirmed, 1)),
                ("varnish".to_owned(), delivery(DeliveryState::Overdue, 3)),
                ("old".to_owned(), delivery(DeliveryState::GivenUp, 2)),
            ]),
        }
    }

    fn records() -> BTreeMap<u64, PurgeRecord> {
        let records = [
            record(2, PurgeScope::Campaign("studio".to_owned()), None),
            record(1, PurgeScope::Everything, None),
            record(0, PurgeScope::Url("/i/studio/hero?product=mug".to_owned()), Some("http://h/i/studio/hero")),
        ];
        records.into_iter().map(|record| (record.id, record)).collect()
    }

    fn write_the_fixture(path: &Path) {
        let mut unwritten = Unwritten::default();
        for (id, record) in records() {
            let put = if id == LAST { marks() } else { HashMap::new() };
            unwritten.purge(&Changes { put, remove: Vec::new() }, &record, &[]);
        }
        Ledger::open(path).unwrap().0.write(&unwritten).unwrap();
    }

    #[test]
    #[ignore = "makes the fixture"]
    fn make_the_fixture() {
        write_the_fixture(&fixture::place(FIXTURE));
    }

    #[test]
    fn the_former_versions_database_is_read_and_the_same_bytes_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (former, new) = (fixture::copy(FIXTURE, dir.path()), dir.path().join("new.redb"));
        let (ledger, loaded) = Ledger::open(&former).unwrap();
        drop(ledger);
        assert_eq!((loaded.generation, loaded.records), (LAST, records()));
        let mut table = MarkTable::default();
        table.apply(Changes { put: marks(), remove: Vec::new() });
        assert_eq!(loaded.marks, table);
        write_the_fixture(&new);
        let former = fixture::copy(FIXTURE, dir.path());
        assert_eq!(fixture::rows(&new, FORMER_MARKS), fixture::rows(&former, FORMER_MARKS));
        assert_eq!(fixture::rows(&new, FORMER_PURGES), fixture::rows(&former, FORMER_PURGES));
        assert_eq!(fixture::rows(&new, FORMER_META), fixture::rows(&former, FORMER_META));
        assert_eq!(fixture::rows(&new, FORMER_MARKS).len(), 5);
    }
}
