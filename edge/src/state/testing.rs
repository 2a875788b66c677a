//! A device that a test holds, and files as former versions wrote them.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::{Database, Schema, StateError};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Sound,
    /// Every write is refused: no space left.
    Full,
    /// Every sync waits until the mood changes.
    Slow,
    /// Power fails: so many writes and syncs are carried out, and none after them.
    DiesAfter(usize),
    /// So many are carried out, the next one is refused, and all after it are carried out.
    RefusesOneAfter(usize),
}

/// A device in this process that refuses or waits when it is told to. Cheap to clone; all clones have one mood.
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

    /// As [`Database::open`], on this device.
    pub(crate) fn open(&self, path: &Path, schema: &'static Schema) -> Result<Database, StateError> {
        let device = self.clone();
        let open = move |builder: &redb::Builder, path: &Path| {
            let file = File::options().read(true).write(true).open(path)?;
            Ok(builder.create_with_backend(OnDevice { file: FileBackend::new(file)?, device: device.clone() })?)
        };
        Database::open_by(path, schema, Box::new(open))
    }

    fn write(&self) -> io::Result<()> {
        let mood = &mut self.0.0.lock().0;
        match mood {
            Mood::Sound | Mood::Slow => Ok(()),
            Mood::Full | Mood::DiesAfter(0) => Err(io::ErrorKind::StorageFull.into()),
            Mood::DiesAfter(left) => {
                *left -= 1;
                Ok(())
            }
            Mood::RefusesOneAfter(0) => {
                *mood = Mood::Sound;
                Err(io::ErrorKind::StorageFull.into())
            }
            Mood::RefusesOneAfter(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        if matches!(self.0.0.lock().0, Mood::DiesAfter(_) | Mood::RefusesOneAfter(_)) {
            self.write()?;
        }
        let mut state = self.0.0.lock();
        state.1 += 1;
        while state.0 == Mood::Slow {
            assert!(!self.0.1.wait_for(&mut state, Duration::from_secs(120)).timed_out(), "left alone");
        }
        state.1 -= 1;
        Ok(())
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
        self.device.sync()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device.write()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Databases and job files as the former version wrote them: small files beside the tests, each made by an ignored test
/// of the module that owns it.
pub(crate) mod fixture {
    use redb::{Builder, Key, ReadableDatabase, ReadableTable, TableDefinition, Value};

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
