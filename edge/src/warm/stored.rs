//! Jobs on the device, so that a restart goes on with what is under way.
//!
//! Owns `jobs.redb` in the data folder: a job's record by its id, sealed, every commit durable before it is acknowledged;
//! and the names of job files that were imported and may still lie in their folder (see `import`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::import::{self, JobFile};
use super::job::JobRecord;
use crate::state::{Check, Database, Schema, StateError, Table, Value, form};

const DATABASE: &str = "jobs.redb";
/// Where versions before this one kept their jobs, a file for each.
const FILES: &str = "warm";
const JOBS: Table<u64, JobRecord> = Table::new("jobs");
/// By the file's name, the job that it held.
const IMPORTED: Table<String, u64> = Table::new("imported");
static SCHEMA: Schema = Schema {
    what: "the database of warmings",
    row: "a warming",
    remedy: "Moved away, what was under way has to be started again",
    cache_bytes: 1 << 20,
    check: Check::Head,
    tables: &[&JOBS, &IMPORTED],
};
/// A record's schema.
const VERSION: u8 = 1;

impl Value<u64> for JobRecord {
    type Form = Vec<u8>;

    fn encode(&self, id: &u64) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, &id.to_le_bytes(), self)
    }

    fn decode(id: &u64, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, &id.to_le_bytes(), record)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct StoredJobs {
    database: Database,
}

impl StoredJobs {
    /// Opens or creates the database in `data_dir`, and brings in the job files of former versions. Blocks.
    ///
    /// # Errors
    /// When the file is no database, is damaged where it begins or is open elsewhere; when the device refuses an import.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        let this = Self { database: Database::open(&data_dir.join(DATABASE), &SCHEMA)? };
        import::bring_in(&data_dir.join(FILES), &this)?;
        Ok(this)
    }

    /// On the device when this returns. Blocks.
    ///
    /// # Errors
    /// When the device refuses. It recovers with the device.
    pub fn put(&self, record: &JobRecord) -> Result<(), StateError> {
        self.database.write(|changes| changes.of(JOBS)?.put(&record.id, record))
    }

    /// Blocks.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forget(&self, ids: &[u64]) -> Result<(), StateError> {
        self.database.write(|changes| {
            let mut jobs = changes.of(JOBS)?;
            ids.iter().try_for_each(|id| jobs.remove(id))
        })
    }

    /// All that can be read, oldest first; what cannot is reported and stays where it is. Blocks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn all(&self) -> Result<Vec<JobRecord>, StateError> {
        let mut jobs = Vec::new();
        let _ = self.database.each(JOBS, |row| {
            match row {
                Ok((_, record)) => jobs.push(record),
                Err(error) => tracing::warn!(%error, "this warming cannot be read"),
            }
            ControlFlow::Continue(())
        })?;
        Ok(jobs)
    }

    /// Files that were imported and whose removal is not written down, by name.
    pub(super) fn imported(&self) -> Result<BTreeMap<String, u64>, StateError> {
        self.database.read(|snapshot| Ok(snapshot.rows(IMPORTED)?.all()?.into_iter().collect()))
    }

    /// Takes these files' jobs over and writes down that it did, in one commit. A job that is known already stays as it is:
    /// it has gone on since.
    pub(super) fn take_over(&self, files: &[JobFile]) -> Result<(), StateError> {
        self.database.write(|changes| {
            let (mut jobs, mut imported) = (changes.of(JOBS)?, changes.of(IMPORTED)?);
            for JobFile { name, record } in files {
                if jobs.get(&record.id)?.is_none() {
                    jobs.put(&record.id, record)?;
                }
                imported.put(name, &record.id)?;
            }
            Ok(())
        })
    }

    /// These files are gone.
    pub(super) fn removed(&self, names: &[String]) -> Result<(), StateError> {
        self.database.write(|changes| {
            let mut imported = changes.of(IMPORTED)?;
            names.iter().try_for_each(|name| imported.remove(name))
        })
    }
}
