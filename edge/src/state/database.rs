//! One file of tables: made so that a crash leaves it whole or absent, opened without walking it, and opened anew after a
//! failure.
//!
//! redb refuses everything after one failed read or write until it is opened anew: a disk that was full for a moment
//! would be an error until the next start. [`Database::write`] opens it anew, and while that fails the next write tries
//! again.
//!
//! redb writes a new file's magic number last: a process that ends before leaves a file that is no database, and the
//! next start would refuse it. So a new file is made beside its place and put there when it is complete.
//!
//! Each commit records the allocator's state ("quick repair"), so that a start after `kill -9` does not walk the file.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::{durable, log_limited};
use parking_lot::RwLock;
use redb::{Builder, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::error::{Failure, StateError};
use super::form::{Key, Value};
use super::table::{Declared, Row, Rows, Table, TableChanges};

/// What a file holds, and how it is opened.
pub(crate) struct Schema {
    /// What errors call the file: "the bindings database".
    pub(crate) what: &'static str,
    /// What errors call one change of it: "a binding".
    pub(crate) row: &'static str,
    /// What a person may do when it cannot be used, in a sentence.
    pub(crate) remedy: &'static str,
    /// Pages that redb keeps in memory.
    pub(crate) cache_bytes: usize,
    pub(crate) check: Check,
    pub(crate) tables: &'static [&'static dyn Declared],
}

/// How much of a file is read when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Where it begins. A damaged page is met by the read that needs it.
    Head,
    /// Every page.
    Whole,
}

type Opener = Box<dyn Fn(&Builder, &Path) -> Result<redb::Database, Failure> + Send + Sync>;

/// See the module's documentation.
pub(crate) struct Database {
    schema: &'static Schema,
    path: PathBuf,
    open: Opener,
    /// `None` while it cannot be opened.
    opened: RwLock<Option<redb::Database>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database at `path`, made with its folder and its tables where there is none. Blocks for milliseconds,
    /// or for as long as it takes to check the whole file.
    ///
    /// # Errors
    /// When the file is no database, is damaged where it is checked, or is open elsewhere.
    pub(crate) fn open(path: &Path, schema: &'static Schema) -> Result<Self, StateError> {
        Self::open_by(path, schema, Box::new(|builder, path| Ok(builder.create(path)?)))
    }

    pub(super) fn open_by(path: &Path, schema: &'static Schema, open: Opener) -> Result<Self, StateError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| StateError::Folder { path: folder.to_owned(), source })?;
        }
        let this = Self { schema, path: path.to_owned(), open, opened: RwLock::new(None) };
        this.reopen().map_err(|source| this.unusable(source))?;
        Ok(this)
    }

    /// Where its file lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads tables as of one moment.
    ///
    /// # Errors
    /// What `read` met, a damaged page included. [`StateError::is_closed`] while the file cannot be opened.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Snapshot) -> Result<T, Failure>) -> Result<T, StateError> {
        self.with(|database| read(&Snapshot(database.begin_read()?))).map_err(|source| self.unread(source))
    }

    /// # Errors
    /// As [`read`](Self::read), and when the row cannot be read.
    pub(crate) fn get<K: Key, V: Value<K>>(&self, table: Table<K, V>, key: &K) -> Result<Option<V>, StateError> {
        self.read(|snapshot| snapshot.rows(table)?.get(key))
    }

    /// Visits the rows of a table as it is now, in the order of their keys' forms, until it is told to stop. The database
    /// may be written and opened anew meanwhile.
    ///
    /// # Errors
    /// As [`read`](Self::read): what lies behind a damaged page is not visited.
    pub(crate) fn each<K: Key, V: Value<K>>(
        &self,
        table: Table<K, V>,
        visit: impl FnMut(Row<K, V>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StateError> {
        let rows = self.read(|snapshot| snapshot.rows(table))?;
        rows.each(visit).map_err(|source| self.unread(source))
    }

    /// One commit, on the device when this returns. Blocks. `change` may be called twice: what the first call did is
    /// undone then.
    ///
    /// # Errors
    /// When the device refuses. The database has been opened anew then, or will be by the next write.
    pub(crate) fn write(&self, change: impl Fn(&Changes<'_>) -> Result<(), Failure>) -> Result<(), StateError> {
        let mut result = self.commit(&change);
        // An earlier failure, of a read or of an opening, is no reason to fail this write.
        if result.as_ref().is_err_and(Failure::is_of_the_past) {
            self.reopen().map_err(|source| self.unwritten(source))?;
            result = self.commit(&change);
        }
        if matches!(result, Err(Failure::Database(_)))
            && let Err(error) = self.reopen()
        {
            log_limited!(error, path = %self.path.display(), %error, "this database cannot be opened again yet");
        }
        result.map_err(|source| self.unwritten(source))
    }

    /// The same, on a thread that may block. The commit goes on where the caller stops waiting.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn write_async(
        self: &Arc<Self>,
        change: impl Fn(&Changes<'_>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), StateError> {
        let this = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || this.write(change));
        writing.await.unwrap_or(Err(StateError::Panicked))
    }

    fn commit(&self, change: impl Fn(&Changes<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
        self.with(|database| committed(database, &change))
    }

    fn with<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T, Failure>) -> Result<T, Failure> {
        let opened = self.opened.read();
        caught(|| work(opened.as_ref().ok_or(redb::Error::DatabaseClosed)?))
    }

    fn reopen(&self) -> Result<(), Failure> {
        let mut opened = self.opened.write();
        // Closed first: it locks its file. What a closing leaves undone the opening repairs.
        drop(opened.take());
        *opened = Some(caught(|| self.open_file())?);
        Ok(())
    }

    fn open_file(&self) -> Result<redb::Database, Failure> {
        ensure(&self.path)?;
        let mut builder = Builder::new();
        builder.set_cache_size(self.schema.cache_bytes);
        builder.set_check_integrity_on_open(self.schema.check == Check::Whole);
        let database = (self.open)(&builder, &self.path)?;
        make_tables(&database, self.schema.tables)?;
        Ok(database)
    }

    fn unread(&self, source: Failure) -> StateError {
        StateError::Read { what: self.schema.what, path: self.path.clone(), source }
    }

    fn unwritten(&self, source: Failure) -> StateError {
        StateError::Write { row: self.schema.row, source }
    }

    fn unusable(&self, source: Failure) -> StateError {
        let Schema { what, remedy, .. } = self.schema;
        StateError::Unusable { what, path: self.path.clone(), remedy, source }
    }
}

/// All tables of a file as of one moment.
pub(crate) struct Snapshot(ReadTransaction);

impl Snapshot {
    /// # Errors
    /// When the device fails or a page is damaged.
    pub(crate) fn rows<K: Key, V: Value<K>>(&self, table: Table<K, V>) -> Result<Rows<K, V>, Failure> {
        table.rows(&self.0)
    }
}

/// A commit while it is put together: whole or not at all.
pub(crate) struct Changes<'t>(&'t WriteTransaction);

impl Changes<'_> {
    /// One table of it; each may be held once at a time.
    ///
    /// # Errors
    /// When the device fails or a page is damaged.
    pub(crate) fn of<K: Key, V: Value<K>>(&self, table: Table<K, V>) -> Result<TableChanges<'_, K, V>, Failure> {
        table.changes(self.0)
    }
}

fn committed(database: &redb::Database, change: impl Fn(&Changes<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // So that a start after a crash does not walk the file.
    transaction.set_quick_repair(true);
    change(&Changes(&transaction))?;
    transaction.commit()?;
    Ok(())
}

/// redb panics over damaged pages.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Failure::damaged()))
}

/// So that reading never meets a database without one of its tables. A sync is saved where all are there.
fn make_tables(database: &redb::Database, tables: &[&dyn Declared]) -> Result<(), Failure> {
    let snapshot = database.begin_read()?;
    let mut missing = Vec::new();
    for table in tables {
        if table.is_missing(&snapshot)? {
            missing.push(table);
        }
    }
    drop(snapshot);
    if missing.is_empty() {
        return Ok(());
    }
    committed(database, |changes| missing.iter().try_for_each(|table| table.make(changes.0)))
}

/// Makes an empty database at `path` unless something is there.
fn ensure(path: &Path) -> Result<(), Failure> {
    if path.try_exists()? {
        return Ok(());
    }
    let fresh = path.with_extension("redb-new");
    // What a start that died left behind.
    if fresh.try_exists()? {
        fs::remove_file(&fresh)?;
    }
    Builder::new().create(&fresh)?.close()?;
    File::open(&fresh)?.sync_all()?;
    // Of two starts the first one's file stays; opening it locks it for one of them.
    match fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => fs::remove_file(&fresh)?,
    }
    if let Some(folder) = path.parent() {
        durable::sync_folder(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Device, Mood};
    use super::*;

    const NUMBERS: Table<u64, u64> = Table::new("numbers");
    const NAMES: Table<String, u64> = Table::new("names");
    static SCHEMA: Schema = Schema {
        what: "the numbers",
        row: "a number",
        remedy: "Count again.",
        cache_bytes: 1 << 20,
        check: Check::Head,
        tables: &[&NUMBERS, &NAMES],
    };

    fn put(database: &Database, number: u64) -> Result<(), StateError> {
        database.write(|changes| {
            changes.of(NUMBERS)?.put(&number, &number)?;
            changes.of(NAMES)?.put(&number.to_string(), &number)
        })
    }

    fn has(database: &Database, number: u64) -> bool {
        let (by_number, by_name) = database
            .read(|snapshot| {
                Ok((snapshot.rows(NUMBERS)?.get(&number)?, snapshot.rows(NAMES)?.get(&number.to_string())?))
            })
            .unwrap();
        assert_eq!(by_number, by_name, "both tables or neither");
        by_number == Some(number)
    }

    #[test]
    fn a_creation_that_died_is_begun_anew_and_what_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.redb");
        fs::write(dir.path().join("some.redb-new"), b"half of").unwrap();
        ensure(&path).unwrap();
        drop(Builder::new().open(&path).unwrap());
        let made = fs::read(&path).unwrap();
        ensure(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), made);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn after_a_full_disk_the_next_write_succeeds_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, device) = (dir.path().join("some.redb"), Device::default());
        let database = device.open(&path, &SCHEMA).unwrap();
        put(&database, 1).unwrap();
        device.set(Mood::Full);
        for number in 2..5 {
            assert!(matches!(put(&database, number), Err(StateError::Write { .. })));
        }
        device.set(Mood::Sound);
        put(&database, 5).unwrap();
        for (number, is_there) in [(1, true), (2, false), (4, false), (5, true)] {
            assert_eq!(has(&database, number), is_there, "{number}");
        }
        drop(database);
        let database = Database::open(&path, &SCHEMA).unwrap();
        assert!(has(&database, 1) && has(&database, 5));
    }

    /// Power that fails at any write, and any write that is refused while those behind it are not.
    #[test]
    fn whatever_write_fails_what_was_written_before_is_read_after() {
        const WRITES: usize = 48;
        let moods = (0..WRITES).flat_map(|after| [Mood::DiesAfter(after), Mood::RefusesOneAfter(after)]);
        for mood in moods {
            let dir = tempfile::tempdir().unwrap();
            let (path, device) = (dir.path().join("some.redb"), Device::default());
            let database = device.open(&path, &SCHEMA).unwrap();
            let many =
                |changes: &Changes<'_>| (10..40).try_for_each(|number| changes.of(NUMBERS)?.put(&number, &number));
            database.write(many).unwrap();
            put(&database, 1).unwrap();
            let anew = || {
                database.write(|changes| {
                    changes.of(NUMBERS)?.clear()?;
                    changes.of(NAMES)?.clear()?;
                    changes.of(NUMBERS)?.put(&1, &1)?;
                    changes.of(NAMES)?.put(&1.to_string(), &1)
                })
            };
            device.set(mood);
            let _ = anew();
            let written: Vec<u64> = (2..5).filter(|number| put(&database, *number).is_ok()).collect();
            drop(database);
            let database =
                Database::open(&path, &SCHEMA).unwrap_or_else(|error| panic!("{mood:?} {written:?}: {error}"));
            assert!(has(&database, 1) && written.iter().all(|number| has(&database, *number)), "{mood:?} {written:?}");
            put(&database, 5).unwrap();
            assert!(has(&database, 5), "{mood:?}");
        }
    }

    #[test]
    fn a_change_that_fails_changes_no_table_and_keeps_the_database_open() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("some.redb"), &SCHEMA).unwrap();
        let refused = database.write(|changes| {
            changes.of(NUMBERS)?.put(&1, &1)?;
            Err(super::super::Unreadable { table: "names", key: "1".to_owned(), reason: "as told".to_owned() }.into())
        });
        assert!(refused.unwrap_err().to_string().contains("a number could not be written: the row 1 of `names`"));
        assert!(!has(&database, 1));
        put(&database, 2).unwrap();
        assert!(has(&database, 2));
    }

    #[test]
    fn a_snapshot_stays_as_it_is_while_others_write() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("some.redb"), &SCHEMA).unwrap();
        put(&database, 1).unwrap();
        let rows = database.read(|snapshot| snapshot.rows(NUMBERS)).unwrap();
        put(&database, 2).unwrap();
        assert_eq!((rows.get(&1).unwrap(), rows.get(&2).unwrap()), (Some(1), None));
        assert_eq!(database.get(NUMBERS, &2).unwrap(), Some(2));
    }

    #[test]
    fn a_table_of_other_types_is_refused() {
        static OTHER: Schema = Schema { tables: &[&Table::<u64, u64>::new("names")], ..SCHEMA };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.redb");
        drop(Database::open(&path, &SCHEMA).unwrap());
        let error = Database::open(&path, &OTHER).unwrap_err();
        assert!(matches!(error, StateError::Unusable { .. }) && error.to_string().contains("Count again."), "{error}");
    }
}
