//! What each variant was served with last, so that an edited manifest has something to show until the new picture is
//! there.
//!
//! Owns a `redb` database beside the bindings' (one table: the variant's name, hashed → recipe id and a sequence
//! number, every commit durable) and the same in memory, wholly loaded at start. The recipe's binding says which master
//! that was. Past `entries_max` the oldest sixteenth goes. Losing an entry costs a worse stand-in and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use parking_lot::RwLock;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::bindings::BindingsError;
use super::database;

const TABLE: TableDefinition<'static, [u8; 16], [u8; 24]> = TableDefinition::new("previous");
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
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    served: RwLock<Table>,
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
    /// Opens or creates the database and loads it. Blocks: for the start.
    ///
    /// # Errors
    /// When the file is not a database, is damaged or is open elsewhere.
    pub fn open(path: &Path, entries_max: usize) -> Result<Self, BindingsError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| BindingsError::Folder { path: folder.to_owned(), source })?;
        }
        let open = || {
            database::ensure(path)?;
            let database =
                Builder::new().set_cache_size(DATABASE_CACHE_BYTES).set_check_integrity_on_open(true).create(path)?;
            let transaction = database.begin_write()?;
            transaction.open_table(TABLE)?;
            transaction.commit()?;
            let table = load(&database)?;
            Ok::<_, redb::Error>((database, table))
        };
        let (database, table) = open().map_err(|source| BindingsError::Open { path: path.to_owned(), source })?;
        let inner = Inner {
            database,
            served: RwLock::new(table),
            entries_max: entries_max.max(1),
            writer: tokio::sync::Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner) })
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
        let _turn = self.inner.writer.lock().await;
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
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            let mut record = [0; 24];
            record[..16].copy_from_slice(served.recipe.as_bytes());
            record[16..].copy_from_slice(&served.sequence.to_le_bytes());
            table.insert(variant.0, record)?;
            for name in remove {
                table.remove(name.0)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn load(database: &Database) -> Result<Table, redb::Error> {
    let mut table = Table::default();
    for entry in database.begin_read()?.open_table(TABLE)?.iter()? {
        let (name, record) = entry?;
        let record = record.value();
        let (mut recipe, mut sequence) = ([0; 16], [0; 8]);
        recipe.copy_from_slice(&record[..16]);
        sequence.copy_from_slice(&record[16..]);
        let served = Served { recipe: RecipeId::from_raw(recipe), sequence: u64::from_le_bytes(sequence) };
        table.sequence = table.sequence.max(served.sequence);
        table.entries.insert(VariantName(name.value()), served);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
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
        assert_eq!((previous.len(), previous.get(variant(0))), (len, None));
    }

    #[test]
    fn names_do_not_run_together() {
        assert_ne!(VariantName::new("a", "bc"), VariantName::new("ab", "c"));
    }
}
