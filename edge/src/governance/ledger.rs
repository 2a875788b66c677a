//! Marks and purges on the device: every commit is synced before it is acknowledged.
//!
//! Owns three tables of one database: marks by tag, the latest purges with what became of them downstream, and the
//! generation counter. The counter starts at the milliseconds since 1970 of the database's creation: should it be lost,
//! every image made under the old one counts as older than any purge to come.
//!
//! Changes are gathered in [`Unwritten`] in the order in which they came into force, and written in one commit. Changes of
//! a commit that failed go with the next one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::marks::{Changes, MarkTable, Marked, PurgeKey, PurgeKind, PurgeReach, TagError};
use super::scope::PurgeScope;
use crate::state::{Check, Database, Failure, Key, Schema, Snapshot, StateError, Table, Value, form};

const MARKS: Table<PurgeKey, Marked> = Table::new("marks");
const PURGES: Table<u64, PurgeRecord> = Table::new("purges");
/// What is counted beside the tables.
const META: Table<String, u64> = Table::new("meta");
static SCHEMA: Schema = Schema {
    what: "the purge ledger",
    row: "the purge",
    remedy: "What was purged is not known without it: move it away together with the renditions beside it",
    cache_bytes: 1 << 20,
    // A purge that a damaged page hides would be forgotten without a word.
    check: Check::Whole,
    tables: &[&MARKS, &PURGES, &META],
};
/// Purges remembered; older ones are forgotten once downstream has confirmed them, or are called in with a newer one.
pub const RECORDS_MAX: usize = 1_000;

/// A purge: the order, the actor, and what became of it.
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
    /// By which the order is known again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
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

impl Key for PurgeKey {
    type Form = String;

    fn encode(&self) -> String {
        self.to_string()
    }

    fn decode(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: TagError| error.to_string())
    }
}

impl Value<PurgeKey> for Marked {
    type Form = Vec<u8>;

    fn encode(&self, _: &PurgeKey) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    fn decode(_: &PurgeKey, json: &[u8]) -> Result<Self, String> {
        form::from_json(json)
    }
}

impl Value<u64> for PurgeRecord {
    type Form = Vec<u8>;

    fn encode(&self, _: &u64) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    fn decode(_: &u64, json: &[u8]) -> Result<Self, String> {
        form::from_json(json)
    }
}

/// The key of the last purge's generation.
const GENERATION: &str = "generation";

/// The keys of where this edge stands in the shared log.
const LOG: &str = "log";
const LOG_SEQ: &str = "log_seq";

/// How far this edge has put the shared log's purges in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogMark {
    /// Of the log's identity; 0: of none.
    pub log: u64,
    pub seq: u64,
}

/// What was on the device.
#[derive(Debug)]
pub struct Loaded {
    pub generation: u64,
    pub log: LogMark,
    pub marks: MarkTable,
    pub records: BTreeMap<u64, PurgeRecord>,
}

/// What is in force and not on the device yet. `None` stands for what is to be removed.
#[derive(Debug, Default)]
pub struct Unwritten {
    marks: HashMap<PurgeKey, Option<Marked>>,
    records: BTreeMap<u64, Option<PurgeRecord>>,
    generation: Option<u64>,
    log: Option<LogMark>,
}

impl Unwritten {
    /// How far the shared log is in force.
    pub const fn reached(&mut self, mark: LogMark) {
        self.log = Some(mark);
    }

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
        self.log = self.log.or(older.log);
    }

    /// Of the last purge among it.
    #[must_use]
    pub const fn generation(&self) -> Option<u64> {
        self.generation
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.records.is_empty() && self.log.is_none()
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
    database: Database,
}

impl Ledger {
    /// Opens or creates the database and reads all of it. Blocks: for the start.
    ///
    /// # Errors
    /// When the file is not a database, is damaged, is open elsewhere, or holds what this build cannot read.
    pub fn open(path: &Path) -> Result<(Self, Loaded), StateError> {
        Self::over(Database::open(path, &SCHEMA)?)
    }

    fn over(database: Database) -> Result<(Self, Loaded), StateError> {
        if database.get(META, &GENERATION.to_owned())?.is_none() {
            let begin = crate::cache::unix_ms(SystemTime::now()).max(1);
            database.write(|changes| changes.of(META)?.put(&GENERATION.to_owned(), &begin))?;
        }
        let loaded = database.read(Loaded::of)?;
        Ok((Self { database }, loaded))
    }

    /// Writes it, whole or not at all; on the device when this returns. Blocks.
    ///
    /// # Errors
    /// When the device refuses. It recovers with the device.
    pub fn write(&self, unwritten: &Unwritten) -> Result<(), StateError> {
        self.database.write(|changes| {
            let mut marks = changes.of(MARKS)?;
            for (key, marked) in &unwritten.marks {
                match marked {
                    Some(marked) => marks.put(key, marked)?,
                    None => marks.remove(key)?,
                }
            }
            let mut purges = changes.of(PURGES)?;
            for (id, record) in &unwritten.records {
                match record {
                    Some(record) => purges.put(id, record)?,
                    None => purges.remove(id)?,
                }
            }
            let mut meta = changes.of(META)?;
            if let Some(generation) = unwritten.generation {
                meta.put(&GENERATION.to_owned(), &generation)?;
            }
            if let Some(LogMark { log, seq }) = unwritten.log {
                meta.put(&LOG.to_owned(), &log)?;
                meta.put(&LOG_SEQ.to_owned(), &seq)?;
            }
            Ok(())
        })
    }
}

impl Loaded {
    /// Everything, as of one moment. A row that cannot be read is an error: what it purged would come back.
    fn of(snapshot: &Snapshot) -> Result<Self, Failure> {
        let meta = snapshot.rows(META)?;
        let number = |key: &str| meta.get(&key.to_owned());
        let generation = number(GENERATION)?.unwrap_or(1);
        let log = LogMark { log: number(LOG)?.unwrap_or(0), seq: number(LOG_SEQ)?.unwrap_or(0) };
        let mut changes = Changes::default();
        changes.put.extend(snapshot.rows(MARKS)?.all()?);
        let mut marks = MarkTable::default();
        marks.apply(changes);
        let records = snapshot.rows(PURGES)?.all()?.into_iter().collect();
        Ok(Self { generation, log, marks, records })
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::state::testing::Device;

    /// As [`Ledger::open`], on a device that a test holds.
    pub(crate) fn open_on(device: &Device, path: &Path) -> Result<(Ledger, Loaded), StateError> {
        Ledger::over(device.open(path, &SCHEMA)?)
    }
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::MasterId;
    use redb::TableDefinition;

    use super::super::marks::{Mark, Marks};
    use super::*;
    use crate::cache::RenditionKey;
    use crate::state::testing::fixture;

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
            key: None,
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
