//! Bindings: the master that each recipe came out as.
//!
//! Owns a table on the device (recipe id → sealed JSON, every commit durable before it is acknowledged) and the same in
//! memory: a look-up on the hit path is one sharded read lock. The memory is filled in the background; until it is, a
//! look-up that misses it asks the database (tens of microseconds), so that a start waits for nothing.
//!
//! Every record bears a checksum: a damaged database loses bindings, which costs a question to a node, and never yields a
//! wrong one. Past `entries_max` the oldest sixteenth goes.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::Duplicate;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::key::ContentHasherBuilder;
use super::lqips::{LqipKey, Lqips};
use super::metrics::{LookupOutcome, TierMetrics};
use crate::campaign::Parts;
use crate::render::Lqip;
use crate::state::{self, Changes, Check, Database, Key, Loader, Schema, StateError, Table, Value, form};
use crate::words::Moment;

const TABLE: Table<RecipeId, Binding> = Table::new("bindings");
static SCHEMA: Schema = Schema {
    what: "the bindings database",
    row: "a binding",
    remedy: "Moved away, it will be learned again from the nodes",
    // The map in front makes redb's own cache nearly idle.
    cache_bytes: 8 << 20,
    check: Check::Head,
    tables: &[&TABLE],
};
/// A record's schema, so that it can grow (a review state comes next). 1 had no checksum.
const VERSION: u8 = 2;
const VERSION_UNSEALED: u8 = 1;
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
    /// When the master was made, by the node's clock. `None` where no node said so, and for imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn_unix_s: Option<u64>,
    /// The determinism class of its drawing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub determinism: Option<String>,
    /// What its drawing took of a device. `None` where no node said so, where it was drawn for another order, and for imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ms: Option<f64>,
    /// The purge generation before it was asked for: masters purged at a later one are asked for again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// What the picture is made of. `None` in records of former versions, which did not say.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_parts")]
    pub parts: Option<Arc<Parts>>,
    /// What pages may show before its pictures, as far as they were rendered here.
    #[serde(default, skip_serializing_if = "Lqips::is_empty")]
    pub lqips: Lqips,
}

/// serde's own form of an [`Arc`] is a feature that no other type here needs.
mod shared_parts {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::campaign::Parts;

    pub(super) fn serialize<S: Serializer>(parts: &Option<Arc<Parts>>, serializer: S) -> Result<S::Ok, S::Error> {
        parts.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Parts>>, D::Error> {
        Ok(Option::<Parts>::deserialize(deserializer)?.map(Arc::new))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(generation: &u64) -> bool {
    *generation == 0
}

impl Binding {
    /// When the master was made.
    #[must_use]
    pub fn drawn(&self) -> Option<Moment> {
        self.drawn_unix_s.and_then(Moment::from_unix_s)
    }
}

impl Key for RecipeId {
    type Form = [u8; 16];

    fn encode(&self) -> [u8; 16] {
        *self.as_bytes()
    }

    fn decode(form: [u8; 16]) -> Result<Self, String> {
        Ok(Self::from_raw(form))
    }

    fn name(form: &[u8; 16]) -> String {
        Self::from_raw(*form).to_string()
    }
}

impl Value<RecipeId> for Binding {
    type Form = Vec<u8>;

    fn encode(&self, recipe: &RecipeId) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, recipe.as_bytes(), self)
    }

    fn decode(recipe: &RecipeId, record: &[u8]) -> Result<Self, String> {
        match form::version(record) {
            Some(VERSION_UNSEALED) => form::from_json(&record[1..]),
            _ => form::unseal(VERSION, recipe.as_bytes(), record),
        }
    }
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
    database: Arc<Database>,
    shards: Box<[Shard]>,
    entries_max: usize,
    metrics: Arc<TierMetrics>,
    /// One writer at a time, waiting without holding a thread.
    writer: tokio::sync::Mutex<()>,
    /// Whether every binding is in `shards`.
    is_loaded: AtomicBool,
    /// Recipes forgotten while the memory fills: the loader reads an older state of the table, and must not bring them back.
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
    pub fn open(path: &Path, entries_max: usize, metrics: Arc<TierMetrics>) -> Result<Self, StateError> {
        let inner = Arc::new(Inner::over(Database::open(path, &SCHEMA)?, entries_max, metrics));
        let filled = Arc::clone(&inner);
        let loader = Loader::start("bindings-load", move |stop| filled.load(stop))
            .map_err(|source| StateError::Folder { path: path.to_owned(), source })?;
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

    /// The recipes that came out as a master, in no order. Looks at every binding, on the device while they are not all in memory:
    /// not for an async worker.
    #[must_use]
    pub fn recipes_of(&self, master: MasterId) -> Vec<(RecipeId, Arc<Binding>)> {
        let mut found: HashMap<RecipeId, Arc<Binding>> = HashMap::new();
        if !self.is_loaded() {
            let looked = self.inner.database.each(TABLE, |row| {
                let row = row.ok().filter(|(_, binding)| binding.master == master);
                found.extend(row.map(|(recipe, binding)| (recipe, Arc::new(binding))));
                ControlFlow::Continue(())
            });
            if let Err(error) = looked {
                self.inner.unreadable(&error);
            }
        }
        for shard in &self.inner.shards {
            let shard = shard.read();
            let bound = shard.iter().filter(|(_, binding)| binding.master == master);
            found.extend(bound.map(|(recipe, binding)| (*recipe, Arc::clone(binding))));
        }
        // One that was forgotten since may still stand on the device.
        found
            .into_iter()
            .filter(|(recipe, _)| self.inner.find(*recipe).is_some_and(|now| now.master == master))
            .collect()
    }

    /// Binds `recipe`; durable when this returns `Ok`. On an error the binding holds until the next restart,
    /// so that a failing disk costs a question to a node and not the answer to this request.
    ///
    /// # Errors
    /// When the database refuses the write.
    pub async fn put(&self, recipe: RecipeId, mut binding: Binding) -> Result<Arc<Binding>, StateError> {
        let _turn = self.inner.writer.lock().await;
        // An origin that is asked again knows of no LQIP, and the master may be the same.
        if let Some(present) = self.inner.find(recipe).filter(|present| present.master == binding.master)
            && binding.lqips.is_empty()
        {
            binding.lqips = present.lqips.clone();
        }
        self.enter(recipe, binding).await
    }

    /// Remembers the LQIP of a picture of this master; durable when this returns `Ok`. Does nothing where the recipe is bound to
    /// another master meanwhile.
    ///
    /// # Errors
    /// When the database refuses the write; it is then remembered until the next restart.
    pub async fn learn_lqip(
        &self,
        recipe: RecipeId,
        master: MasterId,
        (key, lqip): (LqipKey, Lqip),
    ) -> Result<(), StateError> {
        let _turn = self.inner.writer.lock().await;
        let Some(present) = self.inner.find(recipe).filter(|present| present.master == master) else { return Ok(()) };
        let binding = Binding { lqips: present.lqips.with(key, lqip), ..Binding::clone(&present) };
        self.enter(recipe, binding).await.map(drop)
    }

    /// The writer's turn is the caller's.
    async fn enter(&self, recipe: RecipeId, binding: Binding) -> Result<Arc<Binding>, StateError> {
        let binding = Arc::new(binding);
        if self.inner.find(recipe).is_some_and(|present| *present == *binding) {
            return Ok(binding);
        }
        self.inner.insert(recipe, Arc::clone(&binding));
        let surplus = self.inner.make_room();
        self.inner.count();
        self.commit(Some((recipe, Arc::clone(&binding))), surplus).await?;
        Ok(binding)
    }

    /// Forgets a binding, e.g. when its master is nowhere to be found.
    ///
    /// # Errors
    /// When the database refuses; it is then forgotten until the next restart.
    pub async fn remove(&self, recipe: RecipeId) -> Result<(), StateError> {
        let _turn = self.inner.writer.lock().await;
        if self.inner.find(recipe).is_none() {
            return Ok(());
        }
        self.inner.forget(recipe);
        self.inner.count();
        self.commit(None, vec![recipe]).await
    }

    /// Visits every binding that is in memory, in no particular order.
    pub fn each(&self, mut visit: impl FnMut(RecipeId, &Arc<Binding>)) {
        for shard in &self.inner.shards {
            // A copy of the pointers: a visitor may take its time, and writers do not wait for it.
            let held: Vec<_> = shard.read().iter().map(|(recipe, binding)| (*recipe, Arc::clone(binding))).collect();
            held.iter().for_each(|(recipe, binding)| visit(*recipe, binding));
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn commit(&self, put: Option<(RecipeId, Arc<Binding>)>, remove: Vec<RecipeId>) -> Result<(), StateError> {
        let change = move |changes: &Changes<'_>| {
            let mut bindings = changes.of(TABLE)?;
            if let Some((recipe, binding)) = &put {
                bindings.put(recipe, binding)?;
            }
            remove.iter().try_for_each(|recipe| bindings.remove(recipe))
        };
        self.inner.database.write_async(change).await
    }
}

impl Inner {
    fn over(database: Database, entries_max: usize, metrics: Arc<TierMetrics>) -> Self {
        Self {
            database: Arc::new(database),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            entries_max: entries_max.max(1),
            metrics,
            writer: tokio::sync::Mutex::new(()),
            is_loaded: AtomicBool::new(false),
            forgotten: Mutex::default(),
        }
    }

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
        // The memory decides: the recipe may have been forgotten or bound anew meanwhile.
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

    /// Remembers what the database said a moment ago, unless the recipe has been bound or forgotten since.
    fn learn(&self, recipe: RecipeId, binding: &Arc<Binding>) {
        let forgotten = self.forgotten.lock();
        if !forgotten.contains(&recipe) {
            self.shard(recipe).write().entry(recipe).or_insert_with(|| Arc::clone(binding));
        }
    }

    fn read(&self, recipe: RecipeId) -> Option<Binding> {
        match self.database.get(TABLE, &recipe) {
            Ok(binding) => binding,
            // While it cannot be opened, nothing is known.
            Err(error) if error.is_closed() => None,
            Err(error) => {
                self.unreadable(&error);
                None
            }
        }
    }

    fn unreadable(&self, reason: &dyn std::fmt::Display) {
        self.metrics.looked_up(LookupOutcome::Corrupt);
        log_limited!(error, %reason, "a binding cannot be read, a node will be asked again");
    }

    /// Fills the memory; what cannot be read is reported and left out.
    fn load(&self, stop: &AtomicBool) {
        let started = std::time::Instant::now();
        match self.learn_all(stop) {
            Ok(ControlFlow::Break(())) => return,
            Ok(ControlFlow::Continue(())) => {
                let mut forgotten = self.forgotten.lock();
                self.is_loaded.store(true, Ordering::Release);
                *forgotten = HashSet::new();
            }
            // Look-ups go on asking the database for the bindings that could not be loaded.
            Err(error) => self.unreadable(&error),
        }
        self.count();
        tracing::info!(entries = self.len(), took = ?started.elapsed(), "bindings in memory");
    }

    fn learn_all(&self, stop: &AtomicBool) -> Result<ControlFlow<()>, StateError> {
        self.database.each(TABLE, |row| {
            match row {
                Ok((recipe, binding)) => self.learn(recipe, &Arc::new(binding)),
                Err(unreadable) => self.unreadable(&unreadable),
            }
            state::unless(stop)
        })
    }

    /// Takes the oldest sixteenth out of the map when it is over its bound; their ids.
    fn make_room(&self) -> Vec<RecipeId> {
        // The age of a binding is known once it is loaded.
        if !self.is_loaded.load(Ordering::Acquire) {
            return Vec::new();
        }
        let oldest = state::oldest(self.len(), self.entries_max, || self.ages());
        for recipe in &oldest {
            self.shard(*recipe).write().remove(recipe);
            self.metrics.evicted();
        }
        oldest
    }

    fn ages(&self) -> Vec<(u64, RecipeId)> {
        let mut ages = Vec::with_capacity(self.len());
        for shard in &self.shards {
            ages.extend(shard.read().iter().map(|(recipe, binding)| (binding.created_unix_ms, *recipe)));
        }
        ages
    }
}

#[cfg(test)]
mod tests {
    use redb::TableDefinition;

    use super::super::metrics::CacheMetrics;
    use super::*;
    use crate::render::{FinishDigest, Quality, RenditionSpec, Shape};
    use crate::state::testing::{Device, Mood, fixture};
    use crate::words::Format;

    fn open(path: &Path, entries_max: usize) -> Result<Bindings, StateError> {
        Bindings::open(path, entries_max, CacheMetrics::new(&prometheus::Registry::new()).unwrap().bindings)
    }

    /// Over a loader that never begins, so that every look-up comes too early.
    fn unloaded(database: Database) -> Bindings {
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().bindings;
        let inner = Arc::new(Inner::over(database, 10_000, metrics));
        Bindings { inner, _loader: Arc::new(Loader::start("idle", |_| ()).unwrap()) }
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
            // The fixture's rows are of a time when nodes did not say.
            drawn_unix_s: (n >= 40).then_some(1_700_000_000 + n),
            determinism: (n >= 40).then(|| "cpu".to_owned()),
            device_ms: (n >= 40).then_some(412.5),
            node: "node-1".into(),
            created_unix_ms: 1_700_000_000_000 + n,
            generation: n,
            parts: None,
            lqips: Lqips::default(),
        }
    }

    #[tokio::test]
    async fn bindings_survive_a_restart_to_the_last_digit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/bindings.redb");
        let bindings = open(&path, 100).unwrap();
        assert!(bindings.get(recipe(1)).is_none());
        for n in (0..10).chain(40..43) {
            bindings.put(recipe(n), binding(n)).await.unwrap();
        }
        bindings.put(recipe(3), binding(33)).await.unwrap();
        bindings.remove(recipe(4)).await.unwrap();
        drop(bindings);
        let bindings = loaded(open(&path, 100).unwrap()).await;
        assert_eq!(bindings.len(), 12);
        assert_eq!(*bindings.get(recipe(41)).unwrap(), binding(41));
        assert_eq!(*bindings.get(recipe(2)).unwrap(), binding(2));
        assert_eq!(*bindings.get(recipe(3)).unwrap(), binding(33), "the later binding holds");
        assert!(bindings.get(recipe(4)).is_none());
        assert_eq!(bindings.inner.metrics.entries(), 12);
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
        let (dir, device) = (tempfile::tempdir().unwrap(), Device::default());
        let bindings = unloaded(device.open(&dir.path().join("b"), &SCHEMA).unwrap());
        bindings.put(recipe(1), binding(1)).await.unwrap();
        // The device refuses what is written.
        device.set(Mood::Full);
        bindings.put(recipe(1), binding(1)).await.unwrap();
        assert!(bindings.put(recipe(1), binding(2)).await.is_err());
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
        let bindings = unloaded(Database::open(&path, &SCHEMA).unwrap());
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
        let decode = |n, record: &[u8]| <Binding as Value<_>>::decode(&recipe(n), record);
        let record = binding(1).encode(&recipe(1)).unwrap();
        assert_eq!(decode(1, &record), Ok(binding(1)));
        assert!(decode(2, &record).is_err());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(1, &damaged).is_err(), "bit {bit}");
        }
        let mut newer = record;
        newer[0] = 3;
        assert!(decode(1, &newer).unwrap_err().contains("version 3"));
        let unsealed = [&[VERSION_UNSEALED][..], &serde_json::to_vec(&binding(1)).unwrap()].concat();
        assert_eq!(decode(1, &unsealed), Ok(binding(1)), "what an older build wrote is read");
        assert!(decode(1, b"").is_err() && decode(1, b"\x01{}").is_err());
    }

    #[tokio::test]
    async fn an_lqip_outlives_a_restart_and_the_origin_s_next_answer_but_not_the_master() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let lqip: Lqip = "#c81e5aIQgSDQRVVVVVVVVVVVVV".parse().unwrap();
        let spec = RenditionSpec {
            width_px: 640,
            height_px: 360,
            shape: Shape::DEFAULT,
            format: Format::Avif,
            quality: Quality::AUTO,
        };
        let key = LqipKey::new(binding(1).master, &spec, FinishDigest::from_raw([1; 16]));
        let known = |bindings: &Bindings| bindings.get(recipe(1)).and_then(|binding| binding.lqips.get(key));
        {
            let bindings = open(&path, 10).unwrap();
            bindings.learn_lqip(recipe(1), binding(1).master, (key, lqip)).await.unwrap();
            assert!(bindings.is_empty(), "a recipe without a binding has none");
            bindings.put(recipe(1), binding(1)).await.unwrap();
            bindings.learn_lqip(recipe(1), binding(2).master, (key, lqip)).await.unwrap();
            assert_eq!(known(&bindings), None, "another master's");
            bindings.learn_lqip(recipe(1), binding(1).master, (key, lqip)).await.unwrap();
            assert_eq!(known(&bindings), Some(lqip));
        }
        let bindings = open(&path, 10).unwrap();
        assert_eq!(known(&bindings), Some(lqip));
        bindings.put(recipe(1), Binding { generation: 7, ..binding(1) }).await.unwrap();
        assert_eq!((known(&bindings), bindings.get(recipe(1)).unwrap().generation), (Some(lqip), 7));
        bindings.put(recipe(1), binding(2)).await.unwrap();
        assert_eq!(known(&bindings), None);
    }

    #[tokio::test]
    async fn two_processes_cannot_share_a_database() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(&dir.path().join("b"), 10).unwrap();
        assert!(matches!(open(&dir.path().join("b"), 10), Err(StateError::Unusable { .. })));
    }
}
