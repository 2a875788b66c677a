//! What has been learned: which master a recipe came out as.
//!
//! Owns a `redb` database (one table, recipe id → a version byte and JSON, every commit durable before it is
//! acknowledged) and the same in memory, wholly loaded at start: a look-up on the hit path is one sharded read
//! lock. Every page's checksum is verified at start; a damaged database is an error there, not a surprise later.
//! Past `entries_max` the oldest sixteenth goes: what they knew, a node can be asked again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::Duplicate;
use parking_lot::RwLock;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::key::ContentHasherBuilder;
use super::metrics::{LookupOutcome, TierMetrics};

const TABLE: TableDefinition<'static, [u8; 16], &[u8]> = TableDefinition::new("bindings");
/// First byte of every record, so that a record can grow (a review state comes next).
const VERSION: u8 = 1;
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
    #[error("the binding of recipe {recipe} cannot be read: {reason}")]
    Record { recipe: RecipeId, reason: String },
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
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    shards: Box<[Shard]>,
    entries_max: usize,
    metrics: Arc<TierMetrics>,
    /// One writer at a time, waiting without holding a thread.
    writer: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bindings").field("entries_max", &self.entries_max).finish_non_exhaustive()
    }
}

impl Bindings {
    /// Opens or creates the database, verifies it and loads it. Blocks: for the start.
    ///
    /// # Errors
    /// When the file is not a database, is damaged, is open elsewhere, or holds a record this build cannot read.
    pub fn open(path: &Path, entries_max: usize, metrics: Arc<TierMetrics>) -> Result<Self, BindingsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| BindingsError::Folder { path: folder.to_owned(), source })?;
        }
        let unusable = |source: redb::Error| BindingsError::Open { path: path.to_owned(), source };
        let database = open_database(path).map_err(unusable)?;
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        let entries_max = entries_max.max(1);
        let inner = Inner { database, shards, entries_max, metrics, writer: tokio::sync::Mutex::new(()) };
        inner.load(&unusable)?;
        inner.count();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The hit path.
    #[must_use]
    pub fn get(&self, recipe: RecipeId) -> Option<Arc<Binding>> {
        let found = self.inner.shard(recipe).read().get(&recipe).cloned();
        self.inner.metrics.looked_up(if found.is_some() { LookupOutcome::Hit } else { LookupOutcome::Absent });
        found
    }

    /// Binds `recipe`; durable when this returns `Ok`. On an error the binding holds until the next restart,
    /// so that a failing disk costs a question to a node and not the answer to this request.
    ///
    /// # Errors
    /// When the database refuses the write.
    pub async fn put(&self, recipe: RecipeId, binding: Binding) -> Result<Arc<Binding>, BindingsError> {
        let record = encode(&binding)?;
        let binding = Arc::new(binding);
        let _turn = self.inner.writer.lock().await;
        if self.inner.shard(recipe).read().get(&recipe).is_some_and(|present| **present == *binding) {
            return Ok(binding);
        }
        self.inner.shard(recipe).write().insert(recipe, Arc::clone(&binding));
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
        if self.inner.shard(recipe).write().remove(&recipe).is_none() {
            return Ok(());
        }
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
        let work = tokio::task::spawn_blocking(move || inner.write(put, &remove));
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

    fn load(&self, unusable: &impl Fn(redb::Error) -> BindingsError) -> Result<(), BindingsError> {
        let table = (|| {
            let read = self.database.begin_read()?;
            Ok::<_, redb::Error>(read.open_table(TABLE)?)
        })()
        .map_err(unusable)?;
        for entry in table.iter().map_err(|error| unusable(error.into()))? {
            let (recipe, record) = entry.map_err(|error| unusable(error.into()))?;
            let recipe = RecipeId::from_raw(recipe.value());
            let binding = decode(record.value()).map_err(|reason| BindingsError::Record { recipe, reason })?;
            self.shard(recipe).write().insert(recipe, Arc::new(binding));
        }
        Ok(())
    }

    /// Takes the oldest sixteenth out of the map when it is over its bound; their ids.
    fn make_room(&self) -> Vec<RecipeId> {
        let len = self.len();
        if len <= self.entries_max {
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

    fn write(&self, put: Option<(RecipeId, Vec<u8>)>, remove: &[RecipeId]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            if let Some((recipe, record)) = put {
                table.insert(*recipe.as_bytes(), record.as_slice())?;
            }
            for recipe in remove {
                table.remove(*recipe.as_bytes())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let database = Builder::new()
        .set_cache_size(DATABASE_CACHE_BYTES)
        // A plain open trusts the pages and may panic on a damaged one; this reads them all and says so.
        .set_check_integrity_on_open(true)
        .create(path)?;
    // Creates the table, so that reading never meets a database without one.
    let transaction = database.begin_write()?;
    transaction.open_table(TABLE)?;
    transaction.commit()?;
    Ok(database)
}

fn encode(binding: &Binding) -> Result<Vec<u8>, serde_json::Error> {
    let mut record = vec![VERSION];
    serde_json::to_writer(&mut record, binding)?;
    Ok(record)
}

fn decode(record: &[u8]) -> Result<Binding, String> {
    match record.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("it is of version {version}, this build reads {VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::CacheMetrics;
    use super::*;

    fn open(path: &Path, entries_max: usize) -> Result<Bindings, BindingsError> {
        Bindings::open(path, entries_max, CacheMetrics::new(&prometheus::Registry::new()).unwrap().bindings)
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
        let bindings = open(&path, 100).unwrap();
        assert_eq!(bindings.len(), 9);
        assert_eq!(*bindings.get(recipe(2)).unwrap(), binding(2));
        assert_eq!(*bindings.get(recipe(3)).unwrap(), binding(33), "the later binding holds");
        assert!(bindings.get(recipe(4)).is_none());
        assert_eq!(bindings.inner.metrics.entries(), 9);
    }

    #[tokio::test]
    async fn an_equal_binding_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let bindings = open(&dir.path().join("b"), 100).unwrap();
        bindings.put(recipe(1), binding(1)).await.unwrap();
        // A write would wait for this transaction for ever.
        let open_transaction = bindings.inner.database.begin_write().unwrap();
        bindings.put(recipe(1), binding(1)).await.unwrap();
        drop(open_transaction);
    }

    #[tokio::test]
    async fn past_the_bound_the_oldest_go_from_memory_and_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bindings = open(&path, 32).unwrap();
        for n in 0..40 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
            assert!(bindings.len() <= 32);
        }
        let remaining = bindings.len();
        assert!(bindings.get(recipe(39)).is_some() && bindings.get(recipe(0)).is_none());
        drop(bindings);
        let bindings = open(&path, 32).unwrap();
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
    async fn damage_to_any_page_is_an_error_at_the_start_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let bindings = open(&path, 10_000).unwrap();
        for n in 0..60 {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        drop(bindings);
        let sound = std::fs::read(&path).unwrap();
        let mut errors = 0;
        for page in 0..sound.len() / 4096 {
            let mut damaged = sound.clone();
            for byte in &mut damaged[page * 4096 + 100..page * 4096 + 160] {
                *byte ^= 0xff;
            }
            std::fs::write(&path, &damaged).unwrap();
            match open(&path, 10_000) {
                Err(_) => errors += 1,
                // A free page, or one that redb could restore: then nothing is lost and nothing is wrong.
                Ok(bindings) => {
                    for n in 0..60 {
                        assert_eq!(*bindings.get(recipe(n)).unwrap(), binding(n), "page {page}");
                    }
                }
            }
        }
        assert!(errors > 0);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name() {
        let mut record = encode(&binding(1)).unwrap();
        assert_eq!(decode(&record), Ok(binding(1)));
        record[0] = 2;
        assert!(decode(&record).unwrap_err().contains("version 2"));
        assert!(decode(b"").is_err() && decode(b"\x01{}").is_err() && decode(b"\x01").is_err());
    }

    #[tokio::test]
    async fn two_processes_cannot_share_a_database() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(&dir.path().join("b"), 10).unwrap();
        assert!(matches!(open(&dir.path().join("b"), 10), Err(BindingsError::Open { .. })));
    }
}
