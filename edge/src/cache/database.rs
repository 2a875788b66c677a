//! Making an embedded database so that a crash leaves it whole or absent, opening one without walking its file, and
//! opening it anew after an error.
//!
//! redb refuses everything after one failed read or write until it is opened anew: a disk that was full for a moment
//! would be an error until the next start. [`Reopening`] is the one place that does so.
//!
//! redb writes a new file's magic number last: a process that ends before leaves a file that is no database, and the
//! next start would refuse it. So a new one is made beside its place and put there when it is complete.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bildkante_shared::log_limited;
use parking_lot::RwLock;
use redb::{Builder, Database, Durability, Error, Key, ReadableDatabase, TableDefinition, Value, WriteTransaction};

type Opener = Box<dyn Fn(&Path) -> Result<Database, Error> + Send + Sync>;

/// A database that recovers when its device does: after an error it is opened anew.
pub(crate) struct Reopening {
    path: PathBuf,
    open: Opener,
    /// `None` while it cannot be opened.
    database: RwLock<Option<Database>>,
}

impl std::fmt::Debug for Reopening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reopening").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Reopening {
    /// Opens the database at `path` by `open`, now and after each error.
    ///
    /// # Errors
    /// When it cannot be opened, or is damaged where it begins.
    pub(crate) fn open(
        path: &Path,
        open: impl Fn(&Path) -> Result<Database, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let this = Self { path: path.to_owned(), open: Box::new(open), database: RwLock::new(None) };
        this.reopen()?;
        Ok(this)
    }

    /// # Errors
    /// What `read` met, a damaged page included; [`Error::DatabaseClosed`] while it cannot be opened.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let database = self.database.read();
        caught(|| read(database.as_ref().ok_or(Error::DatabaseClosed)?))
    }

    /// One commit, on the device when this returns. Blocks.
    ///
    /// # Errors
    /// When the device refuses. The database has been opened anew then, or will be by the next write.
    pub(crate) fn write(&self, change: impl Fn(&WriteTransaction) -> Result<(), Error>) -> Result<(), Error> {
        let mut result = self.commit(&change);
        // An earlier error, of a read or of an opening, is no reason to fail this write.
        if matches!(result, Err(Error::PreviousIo | Error::DatabaseClosed)) {
            self.reopen()?;
            result = self.commit(&change);
        }
        if result.is_err()
            && let Err(error) = self.reopen()
        {
            log_limited!(error, path = %self.path.display(), %error, "this database cannot be opened again yet");
        }
        result
    }

    fn commit(&self, change: impl Fn(&WriteTransaction) -> Result<(), Error>) -> Result<(), Error> {
        self.read(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // So that a start after a crash does not walk the file.
            transaction.set_quick_repair(true);
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        })
    }

    fn reopen(&self) -> Result<(), Error> {
        let mut database = self.database.write();
        // Closed first: it locks its file. A closing that fails is repaired by the opening.
        drop(database.take());
        *database = Some(caught(|| (self.open)(&self.path))?);
        Ok(())
    }
}

/// redb panics over damaged pages.
fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Error::Corrupted("a page is damaged".to_owned())))
}

/// Opens the database at `path`, made where there is none, with `table` in it, so that reading never meets a database
/// without one.
///
/// # Errors
/// When it cannot be made, is none, or is open elsewhere. redb panics over pages that are damaged where it begins.
pub(crate) fn open<K: Key + 'static, V: Value + 'static>(
    path: &Path,
    cache_bytes: usize,
    table: TableDefinition<'_, K, V>,
) -> Result<Database, redb::Error> {
    ensure(path)?;
    with_table(Builder::new().set_cache_size(cache_bytes).create(path)?, table)
}

fn with_table<K: Key + 'static, V: Value + 'static>(
    database: Database,
    table: TableDefinition<'_, K, V>,
) -> Result<Database, redb::Error> {
    // A sync is saved where the table is there.
    if matches!(database.begin_read()?.open_table(table), Err(redb::TableError::TableDoesNotExist(_))) {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(table)?;
        transaction.commit()?;
    }
    Ok(database)
}

/// Makes an empty database at `path` unless something is there.
///
/// # Errors
/// When it cannot be made; nothing is at `path` then.
pub(crate) fn ensure(path: &Path) -> Result<(), redb::Error> {
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
    // Whoever is first wins; opening it locks it for one of them.
    match fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => fs::remove_file(&fresh)?,
    }
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Databases and job files as the former version wrote them: small files beside the tests, each made by an ignored test
/// of the module that owns it.
#[cfg(test)]
pub(crate) mod fixture {
    use redb::ReadableTable;

    use super::*;

    /// Where a fixture lies. Tests read copies of it.
    pub(crate) fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state").join(name)
    }

    /// Where the test that makes it puts it: a file that is there stays.
    pub(crate) fn place(name: &str) -> PathBuf {
        let path = path(name);
        assert!(!path.exists(), "{} is there: remove it to make it again", path.display());
        path
    }

    /// A copy of it in `folder`.
    pub(crate) fn copy(name: &str, folder: &Path) -> PathBuf {
        let copy = folder.join(name);
        fs::copy(path(name), &copy).unwrap();
        copy
    }

    /// Every key and value of a table, in bytes.
    pub(crate) fn rows<K: Key + 'static, V: Value + 'static>(
        path: &Path,
        table: TableDefinition<'_, K, V>,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let database = Builder::new().open(path).unwrap();
        let table = database.begin_read().unwrap().open_table(table).unwrap();
        let bytes = |entry: Result<(redb::AccessGuard<'_, K>, redb::AccessGuard<'_, V>), _>| {
            let (key, value) = entry.unwrap();
            (K::as_bytes(&key.value()).as_ref().to_vec(), V::as_bytes(&value.value()).as_ref().to_vec())
        };
        table.iter().unwrap().map(bytes).collect()
    }
}

/// A device in this process that refuses or waits when it is told to.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::{Condvar, Mutex};
    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;

    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Mood {
        #[default]
        Sound,
        /// Every write is refused: no space left.
        Full,
        /// Every sync waits until the mood changes.
        Slow,
    }

    /// Cheap to clone; all clones have one mood.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Device(Arc<(Mutex<(Mood, usize)>, Condvar)>);

    impl Device {
        pub(crate) fn set(&self, mood: Mood) {
            self.0.0.lock().0 = mood;
            self.0.1.notify_all();
        }

        /// Syncs that wait now.
        pub(crate) fn waiting(&self) -> usize {
            self.0.0.lock().1
        }

        /// Opens the database at `path` on this device.
        pub(crate) fn open(&self, builder: &Builder, path: &Path) -> Result<Database, Error> {
            ensure(path)?;
            let file = File::options().read(true).write(true).open(path)?;
            Ok(builder.create_with_backend(OnDevice { file: FileBackend::new(file)?, device: self.clone() })?)
        }

        fn write(&self) -> io::Result<()> {
            if self.0.0.lock().0 == Mood::Full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn sync(&self) {
            let mut state = self.0.0.lock();
            state.1 += 1;
            while state.0 == Mood::Slow {
                assert!(!self.0.1.wait_for(&mut state, Duration::from_secs(120)).timed_out(), "left alone");
            }
            state.1 -= 1;
        }
    }

    #[derive(Debug)]
    struct OnDevice {
        file: FileBackend,
        device: Device,
    }

    impl StorageBackend for OnDevice {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.device.write()?;
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.device.sync();
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.device.write()?;
            self.file.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    const TABLE: TableDefinition<'static, u64, u64> = TableDefinition::new("numbers");

    fn put(database: &Reopening, number: u64) -> Result<(), Error> {
        database.write(|transaction| {
            transaction.open_table(TABLE)?.insert(number, number)?;
            Ok(())
        })
    }

    fn has(database: &Reopening, number: u64) -> Result<bool, Error> {
        database.read(|database| Ok(database.begin_read()?.open_table(TABLE)?.get(number)?.is_some()))
    }

    #[test]
    fn after_a_full_disk_the_next_write_succeeds_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let device = testing::Device::default();
        let on = device.clone();
        let open_on = move |path: &Path| with_table(on.open(&Builder::new(), path)?, TABLE);
        let database = Reopening::open(&dir.path().join("some.redb"), open_on).unwrap();
        put(&database, 1).unwrap();
        device.set(testing::Mood::Full);
        for number in 2..5 {
            assert!(put(&database, number).is_err());
        }
        device.set(testing::Mood::Sound);
        put(&database, 5).unwrap();
        for (number, is_there) in [(1, true), (2, false), (4, false), (5, true)] {
            assert_eq!(has(&database, number).unwrap(), is_there, "{number}");
        }
        drop(database);
        let database = Reopening::open(&dir.path().join("some.redb"), |path| open(path, 1 << 20, TABLE)).unwrap();
        assert!(has(&database, 1).unwrap() && has(&database, 5).unwrap());
    }
}
