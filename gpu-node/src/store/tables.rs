//! The store's database: fixed-width keys, JSON or fixed-width values, every commit synced.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `masters` | master | row as JSON |
//! | `chroma` | master | 16 × 16 × 2 bytes |
//! | `bindings` | recipe, scope | binding as JSON; the zero scope is "by itself" |
//! | `bound` | master, recipe, scope, variant (zero: none) | nothing: what to drop with a master |
//! | `entries` | master, scope | variant: which masters may be found as duplicates in a scope |
//! | `variants` | variant | the first recipe settled for it |
//! | `probe` | nothing | nothing: what a trial commit writes |
//!
//! redb refuses every call after an I/O error until the database is opened anew. A failed call therefore opens it anew; while
//! that fails the next call tries again, so that a disk that was full for a moment costs that moment only. Each commit records
//! the allocator's state ("quick repair"), so that opening does not walk the file.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::phash::PerceptualHash;
use parking_lot::{Mutex, RwLock};
use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::{Binding, MasterRow, NewBinding, StoreError};
use crate::dedup::{CHROMA_BYTES, Chroma};
use crate::index::{Entry, ScopeKey, VariantKey};

type Key = [u8; 16];

const MASTERS: TableDefinition<Key, &[u8]> = TableDefinition::new("masters");
const CHROMA: TableDefinition<Key, [u8; CHROMA_BYTES]> = TableDefinition::new("chroma");
const BINDINGS: TableDefinition<(Key, Key), &[u8]> = TableDefinition::new("bindings");
const BOUND: TableDefinition<(Key, Key, Key, Key), ()> = TableDefinition::new("bound");
const ENTRIES: TableDefinition<(Key, Key), Key> = TableDefinition::new("entries");
const VARIANTS: TableDefinition<Key, Key> = TableDefinition::new("variants");
const PROBE: TableDefinition<(), u64> = TableDefinition::new("probe");

/// The number of tables above.
const TABLES: usize = 7;

/// Stands for "no scope" and "no variant".
const NONE: Key = [0; 16];
const LOWEST: Key = [0; 16];
const HIGHEST: Key = [0xff; 16];
/// Pages kept in memory.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Between two openings after failed reads.
const OPENING_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Tables {
    path: PathBuf,
    opener: Opener,
    opened: RwLock<Opened>,
    /// When a failed read last opened the database anew.
    opened_for_reading: Mutex<Option<Instant>>,
}

/// How the file becomes a database: tests put a failing disk between the two.
pub(super) type Opener = fn(&Path) -> Result<Database, DatabaseError>;

struct Opened {
    /// `None` while it cannot be opened.
    database: Option<Database>,
    /// Counts openings, so that of several calls that failed at one database only the first opens it anew.
    opening: u64,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One arm for each of the database's error types.
macro_rules! database_errors {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

database_errors!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, |path| Database::builder().set_cache_size(CACHE_BYTES).create(path))
    }

    pub(super) fn open_with(path: &Path, opener: Opener) -> Result<Self, StoreError> {
        let tables = Self {
            path: path.to_owned(),
            opener,
            opened: RwLock::new(Opened { database: None, opening: 0 }),
            opened_for_reading: Mutex::default(),
        };
        tables.open_anew(0)?;
        Ok(tables)
    }

    /// Opens the database, unless another call has since it was opened the `opening`th time.
    fn open_anew(&self, opening: u64) -> Result<(), StoreError> {
        let mut opened = self.opened.write();
        if opened.opening != opening && opened.database.is_some() {
            return Ok(());
        }
        // Closed first, because it locks its file. Opening repairs what closing leaves undone.
        drop(opened.database.take());
        let database = match (self.opener)(&self.path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse { path: self.path.clone() }),
            Err(error) => return Err(error.into()),
        };
        create_tables(&database)?;
        opened.opening += 1;
        opened.database = Some(database);
        Ok(())
    }

    /// What `work` reads. Where the database fails it is opened anew and read once more.
    fn read<T>(&self, work: impl Fn(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.read_once(&work) {
            (opening, Err(error @ StoreError::Database(_))) => {
                self.open_for_reading(opening, error)?;
                self.read_once(&work).1
            }
            (_, result) => result,
        }
    }

    /// Opens the database anew after a failed read, at most once a second: all readers wait for an opening, and a disk that
    /// cannot be read fails the next one, too.
    fn open_for_reading(&self, opening: u64, failed: StoreError) -> Result<(), StoreError> {
        let mut last = self.opened_for_reading.lock();
        if self.opened.read().opening != opening {
            return Ok(());
        }
        if last.is_some_and(|last| last.elapsed() < OPENING_PAUSE) {
            return Err(failed);
        }
        log_limited!(warn, error = %failed, "the masters' database cannot be read: it is opened anew");
        let opened = self.open_anew(opening);
        *last = Some(Instant::now());
        opened
    }

    fn read_once<T>(&self, work: impl Fn(&ReadTransaction) -> Result<T, StoreError>) -> (u64, Result<T, StoreError>) {
        let opened = self.opened.read();
        let result = opened.begin(|database| Ok(database.begin_read()?)).and_then(|transaction| work(&transaction));
        (opened.opening, result)
    }

    /// One commit. After a failed one the database is opened anew.
    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (opening, is_open) = {
            let opened = self.opened.read();
            (opened.opening, opened.database.is_some())
        };
        if !is_open {
            self.open_anew(opening)?;
        }
        let (opening, result) = {
            let opened = self.opened.read();
            (opened.opening, opened.begin(begin_write).and_then(|transaction| commit(transaction, work)))
        };
        if matches!(result, Err(StoreError::Database(_)))
            && let Err(error) = self.open_anew(opening)
        {
            log_limited!(error, %error, "the masters' database cannot be opened again yet");
        }
        result
    }

    /// A commit without content, to see whether commits succeed again.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(PROBE)?;
            let count = table.get(())?.map_or(0, |count| count.value());
            table.insert((), count.wrapping_add(1))?;
            Ok(())
        })
    }

    pub(super) fn master(&self, id: MasterId) -> Result<Option<MasterRow>, StoreError> {
        self.read(|transaction| {
            let row = transaction.open_table(MASTERS)?.get(*id.as_bytes())?;
            Ok(row.map(|row| serde_json::from_slice(row.value())).transpose()?)
        })
    }

    pub(super) fn chroma(&self, id: MasterId) -> Result<Option<Chroma>, StoreError> {
        self.read(|transaction| {
            let grid = transaction.open_table(CHROMA)?.get(*id.as_bytes())?;
            Ok(grid.map(|grid| Chroma::from_bytes(grid.value())))
        })
    }

    pub(super) fn binding(&self, recipe: RecipeId, scope: Option<ScopeKey>) -> Result<Option<Binding>, StoreError> {
        let key = (*recipe.as_bytes(), scope.map_or(NONE, |scope| scope.0));
        self.read(|transaction| {
            let row = transaction.open_table(BINDINGS)?.get(key)?;
            Ok(row.map(|row| serde_json::from_slice(row.value())).transpose()?)
        })
    }

    pub(super) fn variant(&self, variant: VariantKey) -> Result<Option<RecipeId>, StoreError> {
        self.read(|transaction| {
            let recipe = transaction.open_table(VARIANTS)?.get(variant.0)?;
            Ok(recipe.map(|recipe| RecipeId::from_raw(recipe.value())))
        })
    }

    /// A master and its bindings, in one commit: no crash and no full disk leaves a master to which nothing refers.
    pub(super) fn insert_master(
        &self,
        id: MasterId,
        row: &MasterRow,
        chroma: &Chroma,
        bindings: &[NewBinding],
    ) -> Result<(), StoreError> {
        let row = serde_json::to_vec(row)?;
        self.write(|transaction| {
            transaction.open_table(MASTERS)?.insert(*id.as_bytes(), row.as_slice())?;
            transaction.open_table(CHROMA)?.insert(*id.as_bytes(), *chroma.as_bytes())?;
            bindings.iter().try_for_each(|new| bind(transaction, new))
        })
    }

    pub(super) fn bind(&self, bindings: &[NewBinding]) -> Result<(), StoreError> {
        self.write(|transaction| bindings.iter().try_for_each(|new| bind(transaction, new)))
    }

    /// Drops masters with everything that refers to them; returns the index entries that went.
    pub(super) fn forget(&self, ids: &[MasterId]) -> Result<Vec<(ScopeKey, MasterId)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.write(|transaction| {
            let mut gone = Vec::new();
            for id in ids {
                let key = *id.as_bytes();
                transaction.open_table(MASTERS)?.remove(key)?;
                transaction.open_table(CHROMA)?.remove(key)?;
                unbind(transaction, key)?;
                let mut entries = transaction.open_table(ENTRIES)?;
                let scopes: Vec<Key> = entries
                    .range(pairs_of(key))?
                    .map(|entry| entry.map(|(key, _)| key.value().1))
                    .collect::<Result<_, _>>()?;
                for scope in scopes {
                    entries.remove((key, scope))?;
                    gone.push((ScopeKey(scope), *id));
                }
            }
            Ok(gone)
        })
    }

    pub(super) fn each_master(&self, mut visit: impl FnMut(MasterId, MasterRow)) -> Result<(), StoreError> {
        let opened = self.opened.read();
        let table = opened.begin(|database| Ok(database.begin_read()?))?.open_table(MASTERS)?;
        for item in table.iter()? {
            let (key, row) = item?;
            visit(MasterId::from_raw(key.value()), serde_json::from_slice(row.value())?);
        }
        Ok(())
    }

    pub(super) fn each_binding(&self, mut visit: impl FnMut(Binding)) -> Result<(), StoreError> {
        let opened = self.opened.read();
        let table = opened.begin(|database| Ok(database.begin_read()?))?.open_table(BINDINGS)?;
        for item in table.iter()? {
            visit(serde_json::from_slice(item?.1.value())?);
        }
        Ok(())
    }

    pub(super) fn each_entry(&self, mut visit: impl FnMut(ScopeKey, Entry, PerceptualHash)) -> Result<(), StoreError> {
        let opened = self.opened.read();
        let transaction = opened.begin(|database| Ok(database.begin_read()?))?;
        let (masters, entries) = (transaction.open_table(MASTERS)?, transaction.open_table(ENTRIES)?);
        for item in entries.iter()? {
            let (key, variant) = item?;
            let (master, scope) = key.value();
            let Some(row) = masters.get(master)? else { continue };
            let row: MasterRow = serde_json::from_slice(row.value())?;
            let entry = Entry {
                master: MasterId::from_raw(master),
                variant: VariantKey(variant.value()),
                created_unix_ms: row.created_unix_ms,
            };
            visit(ScopeKey(scope), entry, row.phash);
        }
        Ok(())
    }
}

impl Opened {
    fn begin<T>(&self, begin: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &self.database {
            Some(database) => begin(database),
            None => Err(StoreError::Database(Box::new(redb::Error::DatabaseClosed))),
        }
    }
}

fn begin_write(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn commit<T>(
    transaction: WriteTransaction,
    work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// Makes the tables that are missing, so that readers need not ask for them. Where none is missing, a database on a full disk
/// opens as well.
fn create_tables(database: &Database) -> Result<(), StoreError> {
    let known = {
        let transaction = database.begin_read()?;
        transaction.list_tables()?.count()
    };
    if known >= TABLES {
        return Ok(());
    }
    commit(begin_write(database)?, |transaction| {
        transaction.open_table(MASTERS)?;
        transaction.open_table(CHROMA)?;
        transaction.open_table(BINDINGS)?;
        transaction.open_table(BOUND)?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(VARIANTS)?;
        transaction.open_table(PROBE)?;
        Ok(())
    })
}

fn bind(transaction: &WriteTransaction, new: &NewBinding) -> Result<(), StoreError> {
    let row = serde_json::to_vec(&new.binding)?;
    let (master, recipe) = (*new.binding.master.as_bytes(), *new.recipe.as_bytes());
    let scope = new.place.map_or(NONE, |place| place.scope.0);
    let variant = new.place.map_or(NONE, |place| place.variant.0);
    transaction.open_table(BINDINGS)?.insert((recipe, scope), row.as_slice())?;
    transaction.open_table(BOUND)?.insert((master, recipe, scope, variant), ())?;
    if new.place.is_some() {
        let mut variants = transaction.open_table(VARIANTS)?;
        if variants.get(variant)?.is_none() {
            variants.insert(variant, recipe)?;
        }
        let mut entries = transaction.open_table(ENTRIES)?;
        if new.binding.duplicate.is_none() && entries.get((master, scope))?.is_none() {
            entries.insert((master, scope), variant)?;
        }
    }
    Ok(())
}

fn pairs_of(master: Key) -> RangeInclusive<(Key, Key)> {
    (master, LOWEST)..=(master, HIGHEST)
}

/// Drops the bindings to a master, and the variants first settled by them.
fn unbind(transaction: &WriteTransaction, master: Key) -> Result<(), StoreError> {
    let mut bound = transaction.open_table(BOUND)?;
    let mut bindings = transaction.open_table(BINDINGS)?;
    let mut variants = transaction.open_table(VARIANTS)?;
    let range = (master, LOWEST, LOWEST, LOWEST)..=(master, HIGHEST, HIGHEST, HIGHEST);
    let rows: Vec<_> = bound.range(range)?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for key in rows {
        bound.remove(key)?;
        let (_, recipe, scope, variant) = key;
        // A later drawing may have bound the recipe to another master: that one stays.
        let is_rebound = match bindings.get((recipe, scope))? {
            Some(row) => serde_json::from_slice::<Binding>(row.value())?.master.as_bytes() != &master,
            None => false,
        };
        if is_rebound {
            continue;
        }
        bindings.remove((recipe, scope))?;
        if variants.get(variant)?.is_some_and(|first| first.value() == recipe) {
            variants.remove(variant)?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod failing {
    //! A database over a file on a disk that a test declares full. One test at a time uses a path, and with it a switch.

    use std::fs::OpenOptions;
    use std::io;
    use std::sync::OnceLock;

    use bildkante_shared::testing::eventually_blocking;
    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::super::database_path;
    use super::*;

    static FULL: OnceLock<Mutex<Vec<PathBuf>>> = OnceLock::new();

    fn full() -> &'static Mutex<Vec<PathBuf>> {
        FULL.get_or_init(Mutex::default)
    }

    /// From now on writing and syncing the database at `path` fails.
    pub(crate) fn fill(path: &Path) {
        full().lock().push(path.to_owned());
    }

    /// There is space again.
    pub(crate) fn free(path: &Path) {
        full().lock().retain(|full| full != path);
    }

    #[derive(Debug)]
    struct FailingFile {
        path: PathBuf,
        file: FileBackend,
    }

    impl FailingFile {
        fn check(&self) -> io::Result<()> {
            if full().lock().contains(&self.path) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    impl StorageBackend for FailingFile {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.file.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    pub(crate) fn open(path: &Path) -> Result<Database, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = FailingFile { path: path.to_owned(), file: FileBackend::new(file)? };
        Database::builder().create_with_backend(file)
    }

    /// Of reads that fail one after the other one opens the database anew.
    #[test]
    fn a_reading_that_goes_on_failing_opens_the_database_once_a_second_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let tables = Tables::open_with(&database_path(dir.path()), open).unwrap();
        let failing = |_: &ReadTransaction| -> Result<(), StoreError> {
            Err(StoreError::Database(Box::new(redb::Error::PreviousIo)))
        };
        // As if the last one had been just now, on a slow machine, too.
        *tables.opened_for_reading.lock() = Some(Instant::now() + Duration::from_secs(3600));
        let before = tables.opened.read().opening;
        for _ in 0..20 {
            assert!(matches!(tables.read(failing), Err(StoreError::Database(_))));
        }
        assert_eq!(tables.opened.read().opening, before);
        *tables.opened_for_reading.lock() = None;
        assert!(matches!(tables.read(failing), Err(StoreError::Database(_))));
        assert_eq!(tables.opened.read().opening, before + 1);
    }

    #[test]
    fn a_disk_that_was_full_for_a_moment_costs_that_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = database_path(dir.path());
        let tables = Tables::open_with(&path, open).unwrap();
        let variant = VariantKey([7; 16]);
        tables.probe().unwrap();
        for _ in 0..2 {
            fill(&path);
            for _ in 0..3 {
                assert!(matches!(tables.probe(), Err(StoreError::Database(_))));
            }
            // Where it could not even be opened, reading fails as long as the disk does; where it could, it goes on.
            let _ = tables.variant(variant);
            free(&path);
            eventually_blocking("reading opens it again", || tables.variant(variant).is_ok());
            tables.probe().unwrap();
        }
    }
}
