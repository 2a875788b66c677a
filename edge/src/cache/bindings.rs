//! What has been learned: which master a recipe came out as.
//!
//! Owns a `redb` database (one table, recipe id → version, checksum and JSON, every commit durable before it is
//! acknowledged) and the same in memory: a look-up on the hit path is one sharded read lock. The memory is filled in
//! the background; until it is, a look-up that misses it asks the database (tens of microseconds), so that a start
//! waits for nothing. Each commit records the allocator's state ("quick repair"), so that a start after `kill -9`
//! does not walk the file either.
//!
//! Every record bears a checksum and redb's panics over damaged pages are caught: a damaged database loses bindings,
//! which costs a question to a node, and never yields a wrong one. Past `entries_max` the oldest sixteenth goes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::Duplicate;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::database::{self, Reopening};
use super::key::ContentHasherBuilder;
use super::loader::Loader;
use super::metrics::{LookupOutcome, TierMetrics};

const TABLE: TableDefinition<'static, [u8; 16], &[u8]> = TableDefinition::new("bindings");
type Records = ReadOnlyTable<[u8; 16], &'static [u8]>;
/// First byte of every record, so that a record can grow (a review state comes next). 1 had no checksum.
const VERSION: u8 = 2;
const VERSION_UNSEALED: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// The map in front makes redb's own cache nearly idle.
const DATABASE_CACHE_BYTES: usize = 8 << 20;
const SHARDS: usize = 64;

/// A recipe's master and how it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    pub master: MasterId,
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// Set when the recipe was bound to an older image that looks the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Duplicate>,
    /// The node that answered, by the name it gave itself.
    pub node: String,
    pub created_unix_ms: u64,
    /// The purge generation before it was asked for: masters purged at a later one are asked for again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(generation: &u64) -> bool {
    *generation == 0
}

/// Why bindings cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum BindingsError {
    #[error("{path}: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the bindings database {path} cannot be used: {source}. Moved away, it will be learned again from the nodes",
        path = path.display()
    )]
    Open { path: PathBuf, source: redb::Error },
    #[error("a binding could not be written: {0}")]
    Write(#[from] redb::Error),
    #[error("a binding has no JSON form: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the writing task panicked")]
    Panicked,
}

type Shard = RwLock<HashMap<RecipeId, Arc<Binding>, ContentHasherBuilder>>;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bindings {
    // Before `inner`: the thread is gone when the database closes.
    _loader: Arc<Loader>,
    inner: Arc<Inner>,
}

struct Inner {
    database: Reopening,
    shards: Box<[Shard]>,
    entries_max: usize,
    metrics: Arc<TierMetrics>,
    /// One writer at a time, waiting without holding a thread.
    writer: tokio::sync::Mutex<()>,
    /// Whether every binding is in `shards`.
    is_loaded: AtomicBool,
    /// What was forgotten while the memory fills: older than that, the database may still say otherwise.
    forgotten: Mutex<HashSet<RecipeId>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bindings").field("entries_max", &self.entries_max).finish_non_exhaustive()
    }
}

impl Bindings {
    /// Opens or creates the database and starts to fill the memory from it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the file is not a database, is damaged where it begins, or is open elsewhere.
    pub fn open(path: &Path, entries_max: usize, metrics: Arc<TierMetrics>) -> Result<Self, BindingsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| BindingsError::Folder { path: folder.to_owned(), source })?;
        }
        let database = Reopening::open(path, open_database)
            .map_err(|source| BindingsError::Open { path: path.to_owned(), source })?;
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let entries_max = entries_max.max(1);
        let inner = Arc::new(Inner {
            database,
            shards,
            entries_max,
            metrics,
            writer: tokio::sync::Mutex::new(()),
            is_loaded: AtomicBool::new(false),
            forgotten: Mutex::default(),
        });
        let filled = Arc::clone(&inner);
        let loader = Loader::start("bindings-load", move |stop| filled.load(stop))
            .map_err(|source| BindingsError::Folder { path: path.to_owned(), source })?;
        Ok(Self { inner, _loader: Arc::new(loader) })
    }

    /// Whether every binding is in memory, so that no look-up asks the database.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.inner.is_loaded.load(Ordering::Acquire)
    }

    /// The hit path.
    #[must_use]
    pub fn get(&self, recipe: RecipeId) -> Option<Arc<Binding>> {
        let found = self.inner.find(recipe);
        self.inner.metrics.looked_up(if found.is_some() { LookupOutcome::Hit } else { LookupOutcome::Absent });
        found
    }

    /// Binds `recipe`; durable when this returns `Ok`. On an error the binding holds until the next restart,
    /// so that a failing disk costs a question to a node and not the answer to this request.
    ///
    /// # Errors
    /// When the database refuses the write.
    pub async fn put(&self, recipe: RecipeId, binding: Binding) -> Result<Arc<Binding>, BindingsError> {
        let record = encode(recipe, &binding)?;
        let binding = Arc::new(binding);
        let _turn = self.inner.writer.lock().await;
        if self.inner.find(recipe).is_some_and(|present| *present == *binding) {
            return Ok(binding);
        }
        self.inner.insert(recipe, Arc::clone(&binding));
        let surplus = self.inner.make_room();
        self.inner.count();
        self.commit(Some((recipe, record)), surplus).await?;
        Ok(binding)
    }

    /// Forgets a binding, e.g. when its master is nowhere to be found.
    ///
    /// # Errors
    /// When the database refuses; it is then forgotten until the next restart.
    pub async fn remove(&self, recipe: RecipeId) -> Result<(), BindingsError> {
        let _turn = self.inner.writer.lock().await;
        if self.inner.find(recipe).is_none() {
            return Ok(());
        }
        self.inner.forget(recipe);
        self.inner.count();
        self.commit(None, vec![recipe]).await
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn commit(&self, put: Option<(RecipeId, Vec<u8>)>, remove: Vec<RecipeId>) -> Result<(), BindingsError> {
        let inner = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || inner.write(put.as_ref(), &remove));
        work.await.map_err(|_| BindingsError::Panicked)?.map_err(BindingsError::Write)
    }
}

impl Inner {
    fn shard(&self, recipe: RecipeId) -> &Shard {
        &self.shards[usize::from(recipe.as_bytes()[15]) % SHARDS]
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    fn count(&self) {
        self.metrics.set_entries(self.len());
    }

    fn find(&self, recipe: RecipeId) -> Option<Arc<Binding>> {
        let found = self.shard(recipe).read().get(&recipe).cloned();
        if found.is_some() || self.is_loaded.load(Ordering::Acquire) {
            return found;
        }
        let binding = Arc::new(self.read(recipe)?);
        self.learn(recipe, &binding);
        // What is remembered decides: it may have been forgotten or bound anew meanwhile.
        self.shard(recipe).read().get(&recipe).cloned()
    }

    fn insert(&self, recipe: RecipeId, binding: Arc<Binding>) {
        let mut forgotten = self.forgotten.lock();
        forgotten.remove(&recipe);
        self.shard(recipe).write().insert(recipe, binding);
    }

    fn forget(&self, recipe: RecipeId) {
        let mut forgotten = self.forgotten.lock();
        if !self.is_loaded.load(Ordering::Acquire) {
            forgotten.insert(recipe);
        }
        self.shard(recipe).write().remove(&recipe);
    }

    /// What the database said a moment ago, unless more is known by now.
    fn learn(&self, recipe: RecipeId, binding: &Arc<Binding>) {
        let forgotten = self.forgotten.lock();
        if !forgotten.contains(&recipe) {
            self.shard(recipe).write().entry(recipe).or_insert_with(|| Arc::clone(binding));
        }
    }

    fn read(&self, recipe: RecipeId) -> Option<Binding> {
        let record = self.database.read(|database| {
            let record = database.begin_read()?.open_table(TABLE)?.get(*recipe.as_bytes())?;
            Ok(record.map(|record| decode(recipe, record.value())))
        });
        match record {
            Ok(Some(Ok(binding))) => return Some(binding),
            // While it cannot be opened, nothing is known.
            Ok(None) | Err(redb::Error::DatabaseClosed) => {}
            Ok(Some(Err(reason))) => self.unreadable(Some(recipe), &reason),
            Err(error) => self.unreadable(Some(recipe), &error),
        }
        None
    }

    /// As of now: it stays as it is while it is read.
    fn table(&self) -> Result<Records, redb::Error> {
        self.database.read(|database| Ok(database.begin_read()?.open_table(TABLE)?))
    }

    fn unreadable(&self, recipe: Option<RecipeId>, reason: &dyn std::fmt::Display) {
        self.metrics.looked_up(LookupOutcome::Corrupt);
        let recipe = recipe.map(|recipe| recipe.to_string());
        log_limited!(error, recipe, %reason, "a binding cannot be read, a node will be asked again");
    }

    /// Fills the memory; what cannot be read is reported and left out.
    fn load(&self, stop: &AtomicBool) {
        let started = std::time::Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            let table = self.table()?;
            for entry in table.iter()? {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let (recipe, record) = entry?;
                let recipe = RecipeId::from_raw(recipe.value());
                match decode(recipe, record.value()) {
                    Ok(binding) => self.learn(recipe, &Arc::new(binding)),
                    Err(reason) => self.unreadable(Some(recipe), &reason),
                }
            }
            Ok::<_, redb::Error>(true)
        }));
        match loaded {
            Ok(Ok(false)) => return,
            Ok(Ok(true)) => {
                let mut forgotten = self.forgotten.lock();
                self.is_loaded.store(true, Ordering::Release);
                *forgotten = HashSet::new();
            }
            // Look-ups go on asking the database for what could not be reached this way.
            Ok(Err(error)) => self.unreadable(None, &error),
            Err(_) => self.unreadable(None, &"a page is damaged"),
        }
        self.count();
        tracing::info!(entries = self.len(), took = ?started.elapsed(), "bindings in memory");
    }

    /// Takes the oldest sixteenth out of the map when it is over its bound; their ids.
    fn make_room(&self) -> Vec<RecipeId> {
        let len = self.len();
        // Of what is not loaded, the age is not known.
        if len <= self.entries_max || !self.is_loaded.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut ages: Vec<(u64, RecipeId)> = Vec::with_capacity(len);
        for shard in &self.shards {
            ages.extend(shard.read().iter().map(|(recipe, binding)| (binding.created_unix_ms, *recipe)));
        }
        let surplus = (len - self.entries_max).max(len / 16).min(len);
        ages.select_nth_unstable(surplus - 1);
        let oldest: Vec<RecipeId> = ages[..surplus].iter().map(|(_, recipe)| *recipe).collect();
        for recipe in &oldest {
            self.shard(*recipe).write().remove(recipe);
            self.metrics.evicted();
        }
        oldest
    }

    fn write(&self, put: Option<&(RecipeId, Vec<u8>)>, remove: &[RecipeId]) -> Result<(), redb::Error> {
        self.database.write(|transaction| {
            let mut table = transaction.open_table(TABLE)?;
            if let Some((recipe, record)) = put {
                table.insert(*recipe.as_bytes(), record.as_slice())?;
            }
            for recipe in remove {
                table.remove(*recipe.as_bytes())?;
            }
            Ok(())
        })
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    database::open(path, DATABASE_CACHE_BYTES, TABLE)
}

/// Version, checksum over recipe and JSON, JSON.
fn encode(recipe: RecipeId, binding: &Binding) -> Result<Vec<u8>, serde_json::Error> {
    let json = serde_json::to_vec(binding)?;
    Ok([&[VERSION], &checksum(recipe, &json)[..], &json].concat())
}

fn checksum(recipe: RecipeId, json: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(recipe.as_bytes()).update(json);
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    short
}

fn decode(recipe: RecipeId, record: &[u8]) -> Result<Binding, String> {
    let parsed = |json| serde_json::from_slice(json).map_err(|error| error.to_string());
    match record.split_first() {
        Some((&VERSION, sealed)) => match sealed.split_first_chunk::<CHECKSUM_BYTES>() {
            Some((seal, json)) if *seal == checksum(recipe, json) => parsed(json),
            _ => Err("its checksum is wrong".to_owned()),
        },
        Some((&VERSION_UNSEALED, json)) => parsed(json),
        Some((version, _)) => Err(format!("it is of version {version}, this build reads {VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::fixture;
    use super::super::metrics::CacheMetrics;
    use super::*;

    fn open(path: &Path, entries_max: usize) -> Result<Bindings, BindingsError> {
        Bindings::open(path, entries_max, CacheMetrics::new(&prometheus::Registry::new()).unwrap().bindings)
    }

    async fn loaded(bindings: Bindings) -> Bindings {
        bildkante_shared::testing::eventually("the bindings are loaded", async || bindings.is_loaded()).await;
        bindings
    }

    fn recipe(n: u64) -> RecipeId {
        RecipeId::of_bytes(&n.to_le_bytes())
    }

    fn binding(n: u64) -> Binding {
        Binding {
            master: MasterId::of_bytes(&n.to_le_bytes()),
            width_px: 192,
            height_px: 128,
            phash: PerceptualHash::from_bytes([n as u8; 32]),
            duplicate: n.is_multiple_of(2).then(|| Duplicate {
                of: MasterId::of_bytes(b"own"),
                distance: 3,
                chroma_distance: 0.1 + 0.2,
                ssimulacra2: 91.234_567_890_123,
            }),
            node: "node-1".into(),
            created_unix_ms: 1_700_000_000_000 + n,
            generation: n,
        }
    }

    #[tokio::test]
    async fn bindings_survive_a_restart_to_the_last_digit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/bindings.redb");
        let bindings = open(&path, 100).unwrap();
        assert!(bindings.get(recipe(1)).is_none());
        for n in 0..10 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        bindings.put(recipe(3), binding(33)).await.unwrap();
        bindings.remove(recipe(4)).await.unwrap();
        drop(bindings);
        let bindings = loaded(open(&path, 100).unwrap()).await;
        assert_eq!(bindings.len(), 9);
        assert_eq!(*bindings.get(recipe(2)).unwrap(), binding(2));
        assert_eq!(*bindings.get(recipe(3)).unwrap(), binding(33), "the later binding holds");
        assert!(bindings.get(recipe(4)).is_none());
        assert_eq!(bindings.inner.metrics.entries(), 9);
    }

    /// The table as the former version declares it.
    const FORMER: TableDefinition<'static, [u8; 16], &[u8]> = TableDefinition::new("bindings");
    const FIXTURE: &str = "bindings.redb";
    const FIXTURE_BINDINGS: u64 = 8;

    async fn write_the_fixture(path: &Path) {
        let bindings = open(path, 100).unwrap();
        for n in 0..FIXTURE_BINDINGS {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        bindings.put(recipe(3), binding(33)).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "makes the fixture"]
    async fn make_the_fixture() {
        write_the_fixture(&fixture::place(FIXTURE)).await;
    }

    #[tokio::test]
    async fn the_former_versions_database_is_read_and_the_same_bytes_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (former, new) = (fixture::copy(FIXTURE, dir.path()), dir.path().join("new.redb"));
        let bindings = loaded(open(&former, 100).unwrap()).await;
        assert_eq!(bindings.len() as u64, FIXTURE_BINDINGS);
        for n in 0..FIXTURE_BINDINGS {
            let expected = binding(if n == 3 { 33 } else { n });
            assert_eq!(*bindings.get(recipe(n)).unwrap(), expected);
        }
        drop(bindings);
        write_the_fixture(&new).await;
        let rows = fixture::rows(&new, FORMER);
        assert_eq!(rows.len() as u64, FIXTURE_BINDINGS);
        assert_eq!(rows, fixture::rows(&fixture::copy(FIXTURE, dir.path()), FORMER));
    }

    #[tokio::test]
    async fn an_equal_binding_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let bindings = open(&dir.path().join("b"), 100).unwrap();
        bindings.put(recipe(1), binding(1)).await.unwrap();
        // A write would wait for this transaction for ever.
        let open_transaction = bindings.inner.database.read(|database| Ok(database.begin_write()?)).unwrap();
        bindings.put(recipe(1), binding(1)).await.unwrap();
        drop(open_transaction);
    }

    #[tokio::test]
    async fn past_the_bound_the_oldest_go_from_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bindings = loaded(open(&path, 32).unwrap()).await;
        for n in 0..40 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
            assert!(bindings.len() <= 32);
        }
        let remaining = bindings.len();
        assert!(bindings.get(recipe(39)).is_some() && bindings.get(recipe(0)).is_none());
        drop(bindings);
        let bindings = loaded(open(&path, 32).unwrap()).await;
        assert_eq!(bindings.len(), remaining);
        assert!(bindings.get(recipe(0)).is_none());
    }

    #[test]
    fn a_file_that_is_no_database_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bindings.redb");
        std::fs::write(&path, vec![0x5a; 20_000]).unwrap();
        let error = open(&path, 10).unwrap_err().to_string();
        assert!(error.contains("bindings.redb") && error.contains("cannot be used"), "{error}");
    }

    #[tokio::test]
    async fn damage_to_any_page_never_yields_a_wrong_binding() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bindings = open(&path, 10_000).unwrap();
        for n in 0..60 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        drop(bindings);
        let sound = std::fs::read(&path).unwrap();
        let mut lost = 0;
        for page in 0..sound.len() / 4096 {
            let mut damaged = sound.clone();
            for byte in &mut damaged[page * 4096 + 100..page * 4096 + 160] {
                *byte ^= 0xff;
            }
            std::fs::write(&path, &damaged).unwrap();
            match open(&path, 10_000) {
                Err(_) => lost += 1,
                Ok(bindings) => {
                    for n in 0..60 {
                        match bindings.get(recipe(n)) {
                            Some(found) => assert_eq!(*found, binding(n), "page {page}"),
                            None => lost += 1,
                        }
                    }
                }
            }
        }
        assert!(lost > 0, "the damage was real");
    }

    #[tokio::test]
    async fn while_the_memory_fills_the_database_answers_and_what_is_forgotten_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bindings = open(&path, 10_000).unwrap();
        for n in 0..40 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        drop(bindings);
        // A loader that never begins, so that every look-up comes too early.
        let database = Reopening::open(&path, open_database).unwrap();
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().bindings;
        let inner = Inner {
            database,
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            entries_max: 10_000,
            metrics,
            writer: tokio::sync::Mutex::new(()),
            is_loaded: AtomicBool::new(false),
            forgotten: Mutex::default(),
        };
        let loader = Arc::new(Loader::start("idle", |_| ()).unwrap());
        let bindings = Bindings { inner: Arc::new(inner), _loader: loader };
        assert_eq!(*bindings.get(recipe(1)).unwrap(), binding(1));
        assert!(bindings.get(recipe(99)).is_none());
        bindings.remove(recipe(2)).await.unwrap();
        bindings.put(recipe(3), binding(33)).await.unwrap();
        assert!(bindings.get(recipe(2)).is_none());
        bindings.inner.load(&AtomicBool::new(false));
        assert!(bindings.is_loaded());
        assert_eq!(bindings.len(), 39);
        assert!(bindings.get(recipe(2)).is_none());
        assert_eq!(*bindings.get(recipe(3)).unwrap(), binding(33));
    }

    #[test]
    fn a_record_of_another_version_recipe_or_content_is_refused() {
        let record = encode(recipe(1), &binding(1)).unwrap();
        assert_eq!(decode(recipe(1), &record), Ok(binding(1)));
        assert!(decode(recipe(2), &record).is_err());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(recipe(1), &damaged).is_err(), "bit {bit}");
        }
        let mut newer = record;
        newer[0] = 3;
        assert!(decode(recipe(1), &newer).unwrap_err().contains("version 3"));
        let unsealed = [&[VERSION_UNSEALED][..], &serde_json::to_vec(&binding(1)).unwrap()].concat();
        assert_eq!(decode(recipe(1), &unsealed), Ok(binding(1)), "what an older build wrote is read");
        assert!(decode(recipe(1), b"").is_err() && decode(recipe(1), b"\x01{}").is_err());
    }

    #[tokio::test]
    async fn two_processes_cannot_share_a_database() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(&dir.path().join("b"), 10).unwrap();
        assert!(matches!(open(&dir.path().join("b"), 10), Err(BindingsError::Open { .. })));
    }
}
