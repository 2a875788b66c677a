//! The recipe each variant was served with last: after an edit of the manifest its picture is shown until the new one is
//! there.
//!
//! Owns a table on the device (the variant's name, hashed → recipe id and a sequence number, every commit durable) and the
//! same in memory. The memory is filled in the background, so that a start waits for nothing. Until it is full, no variant is
//! known and [`Previous::note`] waits. The recipe's binding says which master was shown. Past `entries_max` the oldest
//! sixteenth goes. Losing an entry costs a worse stand-in and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bildkante_shared::ids::RecipeId;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::state::{self, Changes, Check, Database, Key, Loader, Schema, StateError, Table, Value};

const TABLE: Table<VariantName, Served> = Table::new("previous");
static SCHEMA: Schema = Schema {
    what: "the database of previous recipes",
    row: "what a variant was served with",
    remedy: "Moved away, stand-ins are worse until it has been learned again",
    cache_bytes: 1 << 20,
    check: Check::Head,
    tables: &[&TABLE],
};

/// A variant's slot and the values that are drawn. An edit of the manifest changes the recipe and not this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VariantName([u8; 16]);

impl VariantName {
    /// Variants that differ only in what is not drawn (locales) share their picture, and so their name.
    #[must_use]
    pub fn new(slot: &str, drawn: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(slot.len() as u64).to_le_bytes()).update(slot.as_bytes()).update(drawn.as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(name)
    }
}

#[derive(Debug, Clone, Copy)]
struct Served {
    recipe: RecipeId,
    /// Rises with every change: what is low is old.
    sequence: u64,
}

impl Key for VariantName {
    type Form = [u8; 16];

    fn encode(&self) -> [u8; 16] {
        self.0
    }

    fn decode(form: [u8; 16]) -> Result<Self, String> {
        Ok(Self(form))
    }
}

/// The recipe, then the sequence number, least byte first.
impl Value<VariantName> for Served {
    type Form = [u8; 24];

    fn encode(&self, _: &VariantName) -> Result<[u8; 24], serde_json::Error> {
        let mut record = [0; 24];
        record[..16].copy_from_slice(self.recipe.as_bytes());
        record[16..].copy_from_slice(&self.sequence.to_le_bytes());
        Ok(record)
    }

    fn decode(_: &VariantName, record: [u8; 24]) -> Result<Self, String> {
        let (mut recipe, mut sequence) = ([0; 16], [0; 8]);
        recipe.copy_from_slice(&record[..16]);
        sequence.copy_from_slice(&record[16..]);
        Ok(Self { recipe: RecipeId::from_raw(recipe), sequence: u64::from_le_bytes(sequence) })
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Previous {
    // Before `inner`: the thread is gone when the database closes.
    _loader: Arc<Loader>,
    inner: Arc<Inner>,
}

struct Inner {
    database: Arc<Database>,
    served: RwLock<Memory>,
    is_loaded: watch::Sender<bool>,
    entries_max: usize,
    /// One writer at a time, waiting without holding a thread.
    writer: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Memory {
    entries: HashMap<VariantName, Served>,
    sequence: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Previous").field("entries_max", &self.entries_max).finish_non_exhaustive()
    }
}

impl Previous {
    /// Opens or creates the database and starts to fill the memory from it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the file is not a database, is damaged where it begins, or is open elsewhere.
    pub fn open(path: &Path, entries_max: usize) -> Result<Self, StateError> {
        Self::over(Database::open(path, &SCHEMA)?, path, entries_max)
    }

    fn over(database: Database, path: &Path, entries_max: usize) -> Result<Self, StateError> {
        let inner = Arc::new(Inner {
            database: Arc::new(database),
            served: RwLock::default(),
            is_loaded: watch::Sender::new(false),
            entries_max: entries_max.max(1),
            writer: tokio::sync::Mutex::new(()),
        });
        let filled = Arc::clone(&inner);
        let loader = Loader::start("previous-load", move |stop| filled.load(stop))
            .map_err(|source| StateError::Folder { path: path.to_owned(), source })?;
        Ok(Self { inner, _loader: Arc::new(loader) })
    }

    /// Returns when everything is in memory.
    pub async fn loaded(&self) {
        // Its sender lives in `inner`.
        let _ = self.inner.is_loaded.subscribe().wait_for(|is_loaded| *is_loaded).await;
    }

    /// The recipe a variant was served with last.
    #[must_use]
    pub fn get(&self, variant: VariantName) -> Option<RecipeId> {
        Some(self.inner.served.read().entries.get(&variant)?.recipe)
    }

    /// Remembers what a variant is served with; durable when this returns. Nearly always it is known already, and
    /// nothing is written.
    ///
    /// # Errors
    /// When the database refuses the write; it is then remembered until the next restart.
    pub async fn note(&self, variant: VariantName, recipe: RecipeId) -> Result<(), StateError> {
        if self.get(variant) == Some(recipe) {
            return Ok(());
        }
        self.loaded().await;
        let _turn = self.inner.writer.lock().await;
        if self.get(variant) == Some(recipe) {
            return Ok(());
        }
        let (served, surplus) = self.inner.enter(variant, recipe);
        let change = move |changes: &Changes<'_>| {
            let mut previous = changes.of(TABLE)?;
            previous.put(&variant, &served)?;
            surplus.iter().try_for_each(|name| previous.remove(name))
        };
        self.inner.database.write_async(change).await
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.served.read().entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    /// What is to be written, and which entries had to go for it.
    fn enter(&self, variant: VariantName, recipe: RecipeId) -> (Served, Vec<VariantName>) {
        let mut memory = self.served.write();
        memory.sequence += 1;
        let served = Served { recipe, sequence: memory.sequence };
        memory.entries.insert(variant, served);
        let ages = || memory.entries.iter().map(|(name, served)| (served.sequence, *name)).collect();
        let oldest = state::oldest(memory.entries.len(), self.entries_max, ages);
        for name in &oldest {
            memory.entries.remove(name);
        }
        (served, oldest)
    }

    /// Fills the memory with what can be read until it is told to stop.
    fn load(&self, stop: &AtomicBool) {
        let started = Instant::now();
        let mut memory = Memory::default();
        let read = self.database.each(TABLE, |row| {
            match row {
                Ok((variant, served)) => memory.learn(variant, served),
                Err(unreadable) => tracing::error!(%unreadable, "a variant's stand-in will be worse"),
            }
            state::unless(stop)
        });
        if let Err(reason) = read {
            let read = memory.entries.len();
            tracing::error!(%reason, read, "not all previous recipes can be read: stand-ins will be worse");
        }
        tracing::debug!(entries = memory.entries.len(), took = ?started.elapsed(), "previous recipes in memory");
        *self.served.write() = memory;
        self.is_loaded.send_replace(true);
    }
}

impl Memory {
    fn learn(&mut self, variant: VariantName, served: Served) {
        self.sequence = self.sequence.max(served.sequence);
        self.entries.insert(variant, served);
    }
}

#[cfg(test)]
mod tests {
    use redb::TableDefinition;

    use super::*;
    use crate::state::testing::{Device, Mood, fixture};

    fn recipe(n: u64) -> RecipeId {
        RecipeId::of_bytes(&n.to_le_bytes())
    }

    fn variant(n: u64) -> VariantName {
        VariantName::new("studio/hero", &format!("product={n}"))
    }

    #[tokio::test]
    async fn the_last_recipe_of_a_variant_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/previous.redb");
        let previous = Previous::open(&path, 100).unwrap();
        assert_eq!(previous.get(variant(1)), None);
        previous.note(variant(1), recipe(1)).await.unwrap();
        previous.note(variant(1), recipe(2)).await.unwrap();
        previous.note(variant(2), recipe(1)).await.unwrap();
        drop(previous);
        let previous = Previous::open(&path, 100).unwrap();
        previous.loaded().await;
        assert_eq!((previous.get(variant(1)), previous.get(variant(2))), (Some(recipe(2)), Some(recipe(1))));
        assert_eq!(previous.len(), 2);
    }

    #[tokio::test]
    async fn the_oldest_go_first_also_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("previous.redb");
        let previous = Previous::open(&path, 32).unwrap();
        for n in 0..33 {
            previous.note(variant(n), recipe(n)).await.unwrap();
        }
        assert_eq!((previous.get(variant(0)), previous.get(variant(1))), (None, None));
        assert_eq!(previous.get(variant(32)), Some(recipe(32)));
        let len = previous.len();
        assert!((31..=32).contains(&len), "{len}");
        drop(previous);
        let previous = Previous::open(&path, 32).unwrap();
        previous.loaded().await;
        assert_eq!((previous.len(), previous.get(variant(0))), (len, None));
    }

    /// The table as the former version declares it.
    const FORMER: TableDefinition<'static, [u8; 16], [u8; 24]> = TableDefinition::new("previous");
    const FIXTURE: &str = "previous.redb";

    async fn write_the_fixture(path: &Path) {
        let previous = Previous::open(path, 100).unwrap();
        for (n, made) in [(1, 1), (2, 1), (1, 2), (3, 7)] {
            previous.note(variant(n), recipe(made)).await.unwrap();
        }
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
        let previous = Previous::open(&former, 100).unwrap();
        previous.loaded().await;
        let read = [1, 2, 3].map(|n| previous.get(variant(n)));
        assert_eq!(read, [Some(recipe(2)), Some(recipe(1)), Some(recipe(7))]);
        assert_eq!(previous.len(), 3);
        drop(previous);
        write_the_fixture(&new).await;
        let rows = fixture::rows(&new, FORMER);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows, fixture::rows(&fixture::copy(FIXTURE, dir.path()), FORMER));
    }

    #[test]
    fn names_do_not_run_together() {
        assert_ne!(VariantName::new("a", "bc"), VariantName::new("ab", "c"));
    }

    #[tokio::test]
    async fn what_a_variant_is_served_with_is_written_again_once_a_full_disk_has_room() {
        let dir = tempfile::tempdir().unwrap();
        let (path, device) = (dir.path().join("previous.redb"), Device::default());
        let previous = Previous::over(device.open(&path, &SCHEMA).unwrap(), &path, 100).unwrap();
        previous.loaded().await;
        device.set(Mood::Full);
        assert!(previous.note(variant(1), recipe(1)).await.is_err());
        assert!(previous.note(variant(2), recipe(2)).await.is_err());
        device.set(Mood::Sound);
        previous.note(variant(3), recipe(3)).await.unwrap();
        drop(previous);
        let previous = Previous::open(&path, 100).unwrap();
        previous.loaded().await;
        assert_eq!((previous.get(variant(1)), previous.get(variant(3))), (None, Some(recipe(3))));
    }
}
