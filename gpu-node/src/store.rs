//! Masters on disk, and the bindings of recipes to them.
//!
//! A master is `masters/ab/cd/{id}.png`, lossless, written before anything refers to it (temporary, fsync, rename,
//! fsync of the folder). One embedded database (`redb`, every commit synced) holds the rest: each master's size, digest
//! and fingerprint, and the bindings of recipes to masters. The database's lock also keeps a second node out.
//!
//! Invariants:
//! - a file's bytes are compared with the digest in the database on every read; what does not agree is moved to
//!   `quarantine/`, its row and bindings are dropped, and it is never served;
//! - a row whose file is gone, and a file without a row (a crash between the two writes), are removed at start;
//! - bytes and count are bounded: the longest unused masters go first, with their bindings; so they do on a disk that is
//!   smaller than the bound and the reserve beside it;
//! - a master and its bindings come in one commit; where that fails its file is removed again, so that no file is kept to which
//!   nothing refers;
//! - a failed write causes no second drawing: after it nothing is drawn until a trial write has succeeded.

mod files;
mod room;
mod survey;
mod tables;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::limits::MASTER_FILE_BYTES_MAX;
use bildkante_shared::log_limited;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::{Determinism, Duplicate, MasterInfo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::StoreConfig;
use crate::dedup::{Chroma, Fingerprint};
use crate::error::GenerationError;
use crate::index::{Entry, Index, ScopeKey, VariantKey};
use crate::metrics::NodeMetrics;

use files::ReadError;
pub use files::{PngError, decode_png, encode_png};
use room::Room;
pub use survey::{Findable, Merge, Survey};
use tables::Tables;
use usage::Usage;

/// The database's file in a data folder.
#[must_use]
pub fn database_path(data_dir: &Path) -> PathBuf {
    data_dir.join("masters.redb")
}

/// Creates the folders that the store keeps its files in, where they are not there.
fn create_folders(data_dir: &Path) -> Result<(), StoreError> {
    for folder in ["masters", "quarantine"] {
        let folder = data_dir.join(folder);
        std::fs::create_dir_all(&folder).map_err(StoreError::io(&folder))?;
    }
    Ok(())
}

/// What the database knows of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRow {
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    pub file_bytes: u64,
    /// BLAKE3-256 of the file.
    pub file_digest: Digest,
    pub determinism: Determinism,
    pub created_unix_ms: u64,
}

impl MasterRow {
    #[must_use]
    pub fn info(&self, id: MasterId) -> MasterInfo {
        MasterInfo {
            id,
            width_px: self.width_px,
            height_px: self.height_px,
            phash: self.phash,
            bytes: self.file_bytes,
            created_unix_ms: Some(self.created_unix_ms),
        }
    }
}

/// The master of a recipe, in one scope or (without one) by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    pub master: MasterId,
    pub duplicate: Option<Duplicate>,
}

/// A binding that is to be written, of a recipe in a scope or (without a place) by itself.
#[derive(Debug, Clone)]
pub struct NewBinding {
    pub recipe: RecipeId,
    pub binding: Binding,
    pub place: Option<Place>,
}

/// A variant in a scope: where a binding holds.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub scope: ScopeKey,
    pub variant: VariantKey,
}

/// A master file that passed its check.
#[derive(Debug, Clone)]
pub struct MasterFile {
    pub row: MasterRow,
    pub png: Vec<u8>,
}

/// Why the store failed: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is in use by another node")]
    InUse { path: PathBuf },
    #[error("the database: {0}")]
    Database(Box<redb::Error>),
    #[error("a row of the database cannot be read: {0}")]
    Row(#[from] serde_json::Error),
    #[error(transparent)]
    Png(#[from] PngError),
    #[error("the master has {bytes} bytes, at most {MASTER_FILE_BYTES_MAX} are stored")]
    TooLarge { bytes: usize },
    /// The disk is short of space, or the last write failed.
    #[error("{reason}")]
    NoRoom { reason: String },
    #[error("it could not be written: {0}")]
    Unwritable(Box<StoreError>),
}

impl StoreError {
    /// Whether nothing can be stored, as opposed to something that cannot be read.
    #[must_use]
    pub const fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Unwritable(_))
    }

    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl From<&StoreError> for GenerationError {
    fn from(error: &StoreError) -> Self {
        let reason = error.to_string();
        if error.is_for_want_of_room() { Self::NotStorable { reason } } else { Self::Storage { reason } }
    }
}

/// Masters, bindings and the index of fingerprints over them.
#[derive(Debug)]
pub struct Store {
    tables: Tables,
    folder: PathBuf,
    usage: Mutex<Usage>,
    index: Mutex<Index>,
    /// Held while files appear or go; taken before the other two.
    writing: Mutex<()>,
    room: Room,
    metrics: Arc<NodeMetrics>,
}

impl Store {
    /// Opens the store, sweeps what a crash left and rebuilds the index. Blocks: one pass over rows and files.
    ///
    /// # Errors
    /// When another node uses the folder, or it cannot be read or written.
    pub fn open(data_dir: &Path, config: &StoreConfig, metrics: Arc<NodeMetrics>) -> Result<Self, StoreError> {
        create_folders(data_dir)?;
        Self::over(Tables::open(&database_path(data_dir))?, data_dir, config, room::space_of, metrics)
    }

    fn over(
        tables: Tables,
        data_dir: &Path,
        config: &StoreConfig,
        space: room::SpaceOf,
        metrics: Arc<NodeMetrics>,
    ) -> Result<Self, StoreError> {
        let store = Self {
            tables,
            room: Room::new(data_dir, config, space, Arc::clone(&metrics)),
            folder: data_dir.to_owned(),
            usage: Mutex::new(Usage::new(config.bytes_max, config.masters_max)),
            index: Mutex::new(Index::default()),
            writing: Mutex::new(()),
            metrics,
        };
        store.recover()?;
        Ok(store)
    }

    /// Makes rows, files, usage and index agree.
    fn recover(&self) -> Result<(), StoreError> {
        let mut files = files::survey(&self.folder.join("masters"))?;
        let mut lost = Vec::new();
        let mut index = self.index.lock();
        let mut usage = self.usage.lock();
        self.tables.each_master(|id, row| match files.remove(&id) {
            Some(file) if file.bytes == row.file_bytes => usage.insert(id, file.bytes, file.used_unix_ms),
            _ => lost.push(id),
        })?;
        // On a disk that is full at the start the rows stay: a later read finds the missing file again.
        if let Err(error) = self.tables.forget(&lost) {
            self.room.note(&StoreError::Unwritable(Box::new(error)));
        }
        self.tables.each_entry(|scope, entry, phash| index.insert_unique(scope, phash, entry))?;
        for id in files.keys() {
            files::remove(&self.path(*id));
        }
        if !lost.is_empty() || !files.is_empty() {
            tracing::warn!(rows_without_file = lost.len(), files_without_row = files.len(), "master store swept");
        }
        self.publish(&usage);
        Ok(())
    }

    fn path(&self, id: MasterId) -> PathBuf {
        files::path(&self.folder.join("masters"), id)
    }

    fn quarantine(&self) -> PathBuf {
        self.folder.join("quarantine")
    }

    /// # Errors
    /// When the database fails.
    pub fn row(&self, id: MasterId) -> Result<Option<MasterRow>, StoreError> {
        self.tables.master(id)
    }

    /// # Errors
    /// When the database fails.
    pub fn chroma(&self, id: MasterId) -> Result<Option<Chroma>, StoreError> {
        self.tables.chroma(id)
    }

    /// What a recipe is bound to in a scope, or by itself.
    ///
    /// # Errors
    /// When the database fails.
    pub fn binding(&self, recipe: RecipeId, scope: Option<ScopeKey>) -> Result<Option<Binding>, StoreError> {
        self.tables.binding(recipe, scope)
    }

    /// The first recipe that was settled for a variant.
    ///
    /// # Errors
    /// When the database fails.
    pub fn variant_recipe(&self, variant: VariantKey) -> Result<Option<RecipeId>, StoreError> {
        self.tables.variant(variant)
    }

    /// Masters of other variants in the scope within the luma threshold, nearest first.
    #[must_use]
    pub fn near(&self, place: Place, hash: PerceptualHash, distance_max: u32) -> Vec<crate::index::Near> {
        self.index.lock().near(place.scope, place.variant, hash, distance_max)
    }

    /// A master's checked bytes; `None` when it is not here or was found damaged (and is now quarantined).
    ///
    /// # Errors
    /// When the database or the disk fails; a master that could not be read is not thought damaged.
    pub fn read(&self, id: MasterId) -> Result<Option<MasterFile>, StoreError> {
        let Some(row) = self.tables.master(id)? else { return Ok(None) };
        match self.read_file(id, &row) {
            Ok(png) => Ok(Some(MasterFile { row, png })),
            Err(ReadError::Io(source)) => Err(StoreError::Io { path: self.path(id), source }),
            Err(ReadError::Missing | ReadError::Damaged) => self.read_again_or_forget(id),
        }
    }

    /// Looks once more under the writing lock: the master may have been replaced or evicted meanwhile.
    fn read_again_or_forget(&self, id: MasterId) -> Result<Option<MasterFile>, StoreError> {
        let _writing = self.writing.lock();
        let Some(row) = self.tables.master(id)? else { return Ok(None) };
        let reason = match self.read_file(id, &row) {
            Ok(png) => return Ok(Some(MasterFile { row, png })),
            Err(ReadError::Io(source)) => return Err(StoreError::Io { path: self.path(id), source }),
            Err(reason) => reason,
        };
        log_limited!(error, master = %id, %reason, "master is damaged: quarantined");
        self.metrics.store_corrupt_total.inc();
        if matches!(reason, ReadError::Damaged) {
            files::quarantine(&self.path(id), &self.quarantine(), now_unix_ms());
        }
        // Its file has been moved away: the master is not served, whether its row goes now or at the next read.
        let _ = self.noting(self.forget(&[id]));
        Ok(None)
    }

    fn read_file(&self, id: MasterId, row: &MasterRow) -> Result<Vec<u8>, ReadError> {
        let path = self.path(id);
        let bytes_max = row.file_bytes.min(MASTER_FILE_BYTES_MAX as u64);
        let png = files::read_checked(&path, bytes_max, row.file_digest)?;
        self.touch(id, &path);
        Ok(png)
    }

    fn touch(&self, id: MasterId, path: &Path) {
        let now = now_unix_ms();
        if self.usage.lock().touch(id, now) {
            files::set_used(path, now);
        }
    }

    /// Whether a master could be stored now: asked before it is drawn. Blocks; removes masters where the disk is too small for
    /// them.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`]. Asks the file system.
    pub fn check_room(&self) -> Result<(), StoreError> {
        // While there is trouble nothing is removed here: each failing commit opens the database anew.
        if self.room.trouble().is_none() {
            self.keep_reserve();
        }
        self.room.check()
    }

    /// Removes damaged files, and then the longest unused masters, where they have taken the disk's reserve. Locks
    /// `writing`.
    fn keep_reserve(&self) {
        if self.room.shortage(0) == 0 {
            return;
        }
        files::empty(&self.quarantine());
        let _writing = self.writing.lock();
        if let Err(error) = self.make_room(0) {
            log_limited!(warn, %error, "the longest unused masters cannot be removed");
        }
    }

    /// Why nothing can be stored, by the last look; does not ask the disk.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.room.trouble()
    }

    /// Looks at the disk, and tries a write where the last one failed. To be called every second or so; blocks.
    pub fn look_after(&self) {
        self.keep_reserve();
        if let Err(error) = self.room.measure() {
            self.room.note(&error);
            return files::empty(&self.quarantine());
        }
        if self.room.trouble().is_some() {
            match self.room.try_file().and_then(|()| self.tables.probe()) {
                Ok(()) => self.room.recovered(),
                Err(error) => tracing::debug!(%error, "a trial write failed"),
            }
        }
    }

    /// Notes whether writing works.
    fn noting<T>(&self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        written.map_err(|error| match error {
            StoreError::Io { .. } | StoreError::Database(_) | StoreError::InUse { .. } => {
                let error = StoreError::Unwritable(Box::new(error));
                self.room.note(&error);
                error
            }
            other => other,
        })
    }

    /// Stores a master, unless it is here already, and with it what is bound to it.
    ///
    /// # Errors
    /// When the file or the database cannot be written; neither the master nor a binding is there then.
    pub fn put(
        &self,
        pixels: &Pixels,
        print: &Fingerprint,
        drawn: &Determinism,
        bindings: &[NewBinding],
    ) -> Result<MasterInfo, StoreError> {
        let id = pixels.master_id();
        // Encoded before the lock is taken; under it, where the master was evicted in between.
        let png = if self.tables.master(id)?.is_some() { None } else { Some(encode_png(pixels)?) };
        let writing = self.writing.lock();
        if let Some(row) = self.tables.master(id)? {
            self.bind(bindings)?;
            return Ok(row.info(id));
        }
        let png = png.map_or_else(|| encode_png(pixels), Ok)?;
        if png.len() > MASTER_FILE_BYTES_MAX {
            return Err(StoreError::TooLarge { bytes: png.len() });
        }
        let row = MasterRow {
            width_px: pixels.width_px(),
            height_px: pixels.height_px(),
            phash: print.phash,
            file_bytes: png.len() as u64,
            file_digest: Digest::of_bytes(&png),
            determinism: drawn.clone(),
            created_unix_ms: now_unix_ms(),
        };
        self.noting(self.write(id, &row, &png, &print.chroma, bindings))?;
        let mut usage = self.usage.lock();
        usage.insert(id, row.file_bytes, row.created_unix_ms);
        self.publish(&usage);
        drop(usage);
        self.make_findable(bindings)?;
        // A file takes more of the disk than its bytes. A settling thread makes up for it, so that no device has to.
        drop(writing);
        self.keep_reserve();
        Ok(row.info(id))
    }

    fn write(
        &self,
        id: MasterId,
        row: &MasterRow,
        png: &[u8],
        chroma: &Chroma,
        bindings: &[NewBinding],
    ) -> Result<(), StoreError> {
        self.make_room(row.file_bytes)?;
        let path = self.path(id);
        files::create_parents(&path, &self.folder.join("masters"))?;
        durable::write(&path, &[png], Durability::Synced).map_err(StoreError::io(&path))?;
        let inserted = self.tables.insert_master(id, row, chroma, bindings);
        // A commit that failed may have been written all the same. Where that cannot be told the file is removed, because its
        // space is wanted: a row without its file is found and dropped when it is read.
        if inserted.is_err() && !matches!(self.tables.master(id), Ok(Some(_))) {
            files::remove(&path);
        }
        inserted
    }

    /// Binds a recipe, in one commit; a master that is a variant's own in a scope becomes findable there.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn bind(&self, bindings: &[NewBinding]) -> Result<(), StoreError> {
        self.noting(self.tables.bind(bindings))?;
        self.make_findable(bindings)
    }

    /// Makes bound masters findable as duplicates.
    fn make_findable(&self, bindings: &[NewBinding]) -> Result<(), StoreError> {
        for NewBinding { binding, place, .. } in bindings {
            let (Some(place), None) = (place, &binding.duplicate) else { continue };
            // Evicted already: its next drawing is bound anew.
            let Some(row) = self.tables.master(binding.master)? else { continue };
            let entry = Entry { master: binding.master, variant: place.variant, created_unix_ms: row.created_unix_ms };
            self.index.lock().insert(place.scope, row.phash, entry);
        }
        Ok(())
    }

    fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let shortage = self.room.shortage(bytes);
        let victims = self.usage.lock().victims(bytes, shortage);
        if victims.is_empty() {
            return Ok(());
        }
        log_limited!(warn, masters = victims.len(), "master store is full: the longest unused are removed");
        self.metrics.store_evictions_total.inc_by(victims.len() as u64);
        self.forget(&victims)?;
        for id in victims {
            files::remove(&self.path(id));
        }
        Ok(())
    }

    /// Drops rows, bindings and index entries; the caller removes the files.
    fn forget(&self, ids: &[MasterId]) -> Result<(), StoreError> {
        let entries = self.tables.forget(ids)?;
        let mut index = self.index.lock();
        for (scope, id) in entries {
            index.remove(scope, id);
        }
        let mut usage = self.usage.lock();
        for id in ids {
            usage.remove(*id);
        }
        self.publish(&usage);
        Ok(())
    }

    fn publish(&self, usage: &Usage) {
        self.metrics.store_bytes.set(i64::try_from(usage.bytes()).unwrap_or(i64::MAX));
        self.metrics.store_masters.set(i64::try_from(usage.len()).unwrap_or(i64::MAX));
    }
}

/// Milliseconds since the epoch; 0 for a clock before it.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A store whose database is on a disk that a test declares full.
#[cfg(test)]
pub(crate) mod failing {
    pub(crate) use super::tables::failing::{fill, free};
    use super::*;

    pub(crate) fn open(data_dir: &Path, metrics: Arc<NodeMetrics>) -> Store {
        create_folders(data_dir).unwrap();
        let tables = Tables::open_with(&database_path(data_dir), tables::failing::open).unwrap();
        let config = StoreConfig { free_bytes_min: 0, ..StoreConfig::default() };
        Store::over(tables, data_dir, &config, room::space_of, metrics).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(seed: u8) -> Pixels {
        Pixels::new(8, 8, (0..192).map(|n: u8| n.wrapping_mul(seed)).collect()).unwrap()
    }

    fn drawn() -> Determinism {
        Determinism { class: "test".into(), device: "none".into(), runtime: "none".into() }
    }

    fn put(store: &Store, seed: u8) -> Result<MasterInfo, StoreError> {
        let pixels = pixels(seed);
        let recipe = RecipeId::from_raw([seed; 16]);
        let binding = Binding { master: pixels.master_id(), duplicate: None };
        store.put(&pixels, &Fingerprint::of(&pixels), &drawn(), &[NewBinding { recipe, binding, place: None }])
    }

    #[test]
    fn after_a_commit_that_failed_nothing_is_taken_until_a_trial_succeeds_and_no_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = database_path(dir.path());
        let metrics = Arc::new(NodeMetrics::new().unwrap());
        let store = failing::open(dir.path(), Arc::clone(&metrics));
        put(&store, 3).unwrap();

        failing::fill(&path);
        let error = put(&store, 5).unwrap_err();
        assert!(error.is_for_want_of_room(), "{error}");
        let id = pixels(5).master_id();
        assert!(!store.path(id).exists(), "a file that nothing refers to");
        store.look_after();
        assert!(store.check_room().unwrap_err().is_for_want_of_room(), "the trial failed");
        assert_eq!(metrics.store_writable.get(), 0);

        failing::free(&path);
        assert!(store.check_room().is_err(), "nothing has been tried since");
        store.look_after();
        store.check_room().unwrap();
        assert_eq!(metrics.store_writable.get(), 1);
        put(&store, 5).unwrap();
        assert!(store.read(id).unwrap().is_some());
        let recipe = RecipeId::from_raw([5; 16]);
        assert_eq!(store.binding(recipe, None).unwrap().unwrap().master, id);
    }

    const SMALL_DISK_BYTES: u64 = 3000;
    const RESERVE_BYTES: u64 = 1000;

    /// A disk that has room for masters and damaged files only.
    fn small_disk(folder: &Path) -> Result<room::Space, StoreError> {
        disk_of_blocks(folder, 1)
    }

    /// The same disk, whose files take whole blocks of 512 bytes.
    fn coarse_disk(folder: &Path) -> Result<room::Space, StoreError> {
        disk_of_blocks(folder, 512)
    }

    fn disk_of_blocks(folder: &Path, block_bytes: u64) -> Result<room::Space, StoreError> {
        let masters = files::survey(&folder.join("masters"))?.into_values().map(|file| file.bytes);
        let damaged = std::fs::read_dir(folder.join("quarantine")).unwrap();
        let damaged = damaged.map(|entry| entry.unwrap().metadata().unwrap().len());
        let used: u64 = masters.chain(damaged).map(|bytes| bytes.next_multiple_of(block_bytes)).sum();
        Ok(room::Space { total_bytes: SMALL_DISK_BYTES, free_bytes: SMALL_DISK_BYTES.saturating_sub(used) })
    }

    fn open_on(space: room::SpaceOf, data_dir: &Path, free_bytes_min: u64) -> Store {
        create_folders(data_dir).unwrap();
        let tables = Tables::open(&database_path(data_dir)).unwrap();
        let config = StoreConfig { free_bytes_min, ..StoreConfig::default() };
        Store::over(tables, data_dir, &config, space, Arc::new(NodeMetrics::new().unwrap())).unwrap()
    }

    #[test]
    fn on_a_disk_smaller_than_its_bound_the_longest_unused_masters_go() {
        let dir = tempfile::tempdir().unwrap();
        let open = |free_bytes_min| open_on(small_disk, dir.path(), free_bytes_min);
        let store = open(RESERVE_BYTES);
        for seed in 1..=60 {
            store.check_room().unwrap();
            put(&store, seed).unwrap();
        }
        assert!(store.read(pixels(60).master_id()).unwrap().is_some());
        assert!(store.row(pixels(1).master_id()).unwrap().is_none(), "the longest unused");
        let held = store.usage.lock().len();
        assert!((2..60).contains(&held), "{held}");
        drop(store);

        // A drawing makes room itself and does not wait for the next look after the store. A reserve that no eviction can make
        // evicts nothing.
        let store = open(RESERVE_BYTES + 500);
        store.check_room().unwrap();
        let fewer = store.usage.lock().len();
        assert!((1..held).contains(&fewer), "{fewer} of {held}");
        drop(store);
        let store = open(SMALL_DISK_BYTES + 1);
        store.look_after();
        assert!(store.check_room().is_err());
        assert_eq!(store.usage.lock().len(), fewer);
    }

    #[test]
    fn while_nothing_can_be_stored_only_the_look_after_the_store_removes_masters() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_on(small_disk, dir.path(), RESERVE_BYTES);
        for seed in 1..=60 {
            put(&store, seed).unwrap();
        }
        drop(store);

        let store = open_on(small_disk, dir.path(), RESERVE_BYTES + 500);
        let held = store.usage.lock().len();
        store.room.note(&StoreError::NoRoom { reason: "the last write failed".into() });
        assert!(store.check_room().unwrap_err().is_for_want_of_room());
        assert_eq!(store.usage.lock().len(), held);
        store.look_after();
        store.check_room().unwrap();
        assert!(store.usage.lock().len() < held);
    }

    #[test]
    fn damaged_files_go_before_masters() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_on(small_disk, dir.path(), RESERVE_BYTES);
        for seed in 1..=3 {
            put(&store, seed).unwrap();
        }
        let damaged = dir.path().join("quarantine/1-x.png");
        // One byte of the reserve is taken: a master would go for it if the damaged file did not.
        let spare_bytes = small_disk(dir.path()).unwrap().free_bytes - RESERVE_BYTES;
        std::fs::File::create(&damaged).unwrap().set_len(spare_bytes + 1).unwrap();
        store.check_room().unwrap();
        assert!(!damaged.exists());
        assert_eq!(store.usage.lock().len(), 3);
    }

    #[test]
    fn storing_a_master_leaves_the_reserve_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = open_on(coarse_disk, dir.path(), RESERVE_BYTES);
        for seed in 1..=60 {
            let master = put(&store, seed).unwrap();
            let free_bytes = coarse_disk(dir.path()).unwrap().free_bytes;
            assert!(free_bytes >= RESERVE_BYTES, "{free_bytes} after {seed}");
            assert!(store.row(master.id).unwrap().is_some());
        }
        // What is here already is bound only.
        put(&store, 60).unwrap();
    }

    #[test]
    fn a_disk_with_less_than_the_reserve_takes_nothing_and_loses_its_quarantine() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(NodeMetrics::new().unwrap());
        let config = StoreConfig { free_bytes_min: u64::MAX, ..StoreConfig::default() };
        let store = Store::open(dir.path(), &config, metrics).unwrap();
        let damaged = dir.path().join("quarantine/1-x.png");
        std::fs::write(&damaged, "x").unwrap();
        let error = store.check_room().unwrap_err();
        assert!(error.to_string().contains("`store.free_bytes_min`"), "{error}");
        store.look_after();
        assert!(!damaged.exists());
        assert!(store.trouble().is_some());
    }
}
