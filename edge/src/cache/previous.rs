//! What each variant was served with last, so that an edited manifest has something to show until the new picture is
//! there.
//!
//! Owns a `redb` database beside the bindings' (one table: the variant's name, hashed → recipe id and a sequence
//! number, every commit durable) and the same in memory, filled in the background: a start waits for nothing, and until
//! it is filled nothing is known and what is to be noted waits. The recipe's binding says which master that was. Past
//! `entries_max` the oldest sixteenth goes. Losing an entry costs a worse stand-in and nothing else.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bildkante_shared::ids::RecipeId;
use parking_lot::RwLock;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::bindings::BindingsError;
use super::database::{self, Reopening};
use super::loader::Loader;

const TABLE: TableDefinition<'static, [u8; 16], [u8; 24]> = TableDefinition::new("previous");
type Records = ReadOnlyTable<[u8; 16], [u8; 24]>;
const DATABASE_CACHE_BYTES: usize = 1 << 20;

/// A variant whatever the manifest makes of it: its slot and the values that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Previous {
    // Before `inner`: the thread is gone when the database closes.
    _loader: Arc<Loader>,
    inner: Arc<Inner>,
}

struct Inner {
    database: Reopening,
    served: RwLock<Table>,
    is_loaded: watch::Sender<bool>,
    entries_max: usize,
    /// One writer at a time, waiting without holding a thread.
    writer: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Table {
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
    pub fn open(path: &Path, entries_max: usize) -> Result<Self, BindingsError> {
        Self::open_by(path, entries_max, |path| database::open(path, DATABASE_CACHE_BYTES, TABLE))
    }

    fn open_by(
        path: &Path,
        entries_max: usize,
        open: impl Fn(&Path) -> Result<Database, redb::Error> + Send + Sync + 'static,
    ) -> Result<Self, BindingsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| BindingsError::Folder { path: folder.to_owned(), source })?;
        }
        let unusable = |source| BindingsError::Open { path: path.to_owned(), source };
        let database = Reopening::open(path, open).map_err(unusable)?;
        let records = database.read(|database| Ok(database.begin_read()?.open_table(TABLE)?)).map_err(unusable)?;
        let inner = Arc::new(Inner {
            database,
            served: RwLock::default(),
            is_loaded: watch::Sender::new(false),
            entries_max: entries_max.max(1),
            writer: tokio::sync::Mutex::new(()),
        });
        let filled = Arc::clone(&inner);
        let fill = move |stop: &AtomicBool| {
            let started = Instant::now();
            let table = load(&records, stop);
            tracing::debug!(entries = table.entries.len(), took = ?started.elapsed(), "previous recipes in memory");
            *filled.served.write() = table;
            filled.is_loaded.send_replace(true);
        };
        let loader = Loader::start("previous-load", fill)
            .map_err(|source| BindingsError::Folder { path: path.to_owned(), source })?;
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
    pub async fn note(&self, variant: VariantName, recipe: RecipeId) -> Result<(), BindingsError> {
        if self.get(variant) == Some(recipe) {
            return Ok(());
        }
        self.loaded().await;
        let _turn = self.inner.writer.lock().await;
        if self.get(variant) == Some(recipe) {
            return Ok(());
        }
        let (served, surplus) = self.inner.enter(variant, recipe);
        let inner = Arc::clone(&self.inner);
        let write = tokio::task::spawn_blocking(move || inner.write(variant, served, &surplus));
        write.await.map_err(|_| BindingsError::Panicked)?.map_err(BindingsError::Write)
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
        let mut table = self.served.write();
        table.sequence += 1;
        let served = Served { recipe, sequence: table.sequence };
        table.entries.insert(variant, served);
        let len = table.entries.len();
        if len <= self.entries_max {
            return (served, Vec::new());
        }
        let mut ages: Vec<_> = table.entries.iter().map(|(name, served)| (served.sequence, *name)).collect();
        let surplus = (len - self.entries_max).max(len / 16);
        ages.select_nth_unstable_by_key(surplus - 1, |(sequence, _)| *sequence);
        let oldest: Vec<_> = ages[..surplus].iter().map(|(_, name)| *name).collect();
        for name in &oldest {
            table.entries.remove(name);
        }
        (served, oldest)
    }

    fn write(&self, variant: VariantName, served: Served, remove: &[VariantName]) -> Result<(), redb::Error> {
        let mut record = [0; 24];
        record[..16].copy_from_slice(served.recipe.as_bytes());
        record[16..].copy_from_slice(&served.sequence.to_le_bytes());
        self.database.write(|transaction| {
            let mut table = transaction.open_table(TABLE)?;
            table.insert(variant.0, record)?;
            for name in remove {
                table.remove(name.0)?;
            }
            Ok(())
        })
    }
}

/// What can be read until it is told to stop. redb panics over damaged pages: what lies behind one is lost.
fn load(records: &Records, stop: &AtomicBool) -> Table {
    let mut table = Table::default();
    let read = catch_unwind(AssertUnwindSafe(|| {
        for entry in records.iter()?.take_while(|_| !stop.load(Ordering::Relaxed)) {
            let (name, record) = entry?;
            table.learn(VariantName(name.value()), record.value());
        }
        Ok::<_, redb::Error>(())
    }));
    let reason = match read {
        Ok(Ok(())) => return table,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a page is damaged".to_owned(),
    };
    tracing::error!(%reason, read = table.entries.len(), "not all previous recipes can be read: stand-ins will be worse");
    table
}

impl Table {
    fn learn(&mut self, variant: VariantName, record: [u8; 24]) {
        let (mut recipe, mut sequence) = ([0; 16], [0; 8]);
        recipe.copy_from_slice(&record[..16]);
        sequence.copy_from_slice(&record[16..]);
        let served = Served { recipe: RecipeId::from_raw(recipe), sequence: u64::from_le_bytes(sequence) };
        self.sequence = self.sequence.max(served.sequence);
        self.entries.insert(variant, served);
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::fixture;
    use super::*;

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
        use super::super::database::testing::{Device, Mood};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("previous.redb");
        let device = Device::default();
        // With its table.
        drop(database::open(&path, DATABASE_CACHE_BYTES, TABLE).unwrap());
        let on = device.clone();
        let previous = Previous::open_by(&path, 100, move |path| on.open(&redb::Builder::new(), path)).unwrap();
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
