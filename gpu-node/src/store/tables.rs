//! The store's database: fixed-width keys, JSON or fixed-width values, every commit synced.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `masters` | master | row as JSON |
//! | `chroma` | master | 16 × 16 × 2 bytes |
//! | `bindings` | recipe, scope | binding as JSON; the zero scope is "by itself" |
//! | `bound` | master, recipe, scope, variant (zero: none) | nothing: what to drop with a master |
//! | `entries` | master, scope | variant: who may be found as a duplicate where |
//! | `variants` | variant | the first recipe settled for it |

use std::ops::RangeInclusive;
use std::path::Path;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{Binding, Decision, MasterRow, StoreError};
use crate::dedup::{CHROMA_BYTES, Chroma};
use crate::index::{Entry, ScopeKey, VariantKey};

type Key = [u8; 16];

const MASTERS: TableDefinition<Key, &[u8]> = TableDefinition::new("masters");
const CHROMA: TableDefinition<Key, [u8; CHROMA_BYTES]> = TableDefinition::new("chroma");
const BINDINGS: TableDefinition<(Key, Key), &[u8]> = TableDefinition::new("bindings");
const BOUND: TableDefinition<(Key, Key, Key, Key), ()> = TableDefinition::new("bound");
const ENTRIES: TableDefinition<(Key, Key), Key> = TableDefinition::new("entries");
const VARIANTS: TableDefinition<Key, Key> = TableDefinition::new("variants");

/// Stands for "no scope" and "no variant".
const NONE: Key = [0; 16];
const LOWEST: Key = [0; 16];
const HIGHEST: Key = [0xff; 16];
/// Pages kept in memory.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Tables {
    database: Database,
}

/// One arm for each of the database's error types.
macro_rules! database_errors {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

database_errors!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(error) => return Err(error.into()),
        };
        let tables = Self { database };
        // Creates every table, so that readers need not ask whether one is there.
        tables.write(|transaction| {
            transaction.open_table(MASTERS)?;
            transaction.open_table(CHROMA)?;
            transaction.open_table(BINDINGS)?;
            transaction.open_table(BOUND)?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(VARIANTS)?;
            Ok(())
        })?;
        Ok(tables)
    }

    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    pub(super) fn master(&self, id: MasterId) -> Result<Option<MasterRow>, StoreError> {
        let table = self.database.begin_read()?.open_table(MASTERS)?;
        Ok(table.get(*id.as_bytes())?.map(|row| serde_json::from_slice(row.value())).transpose()?)
    }

    pub(super) fn chroma(&self, id: MasterId) -> Result<Option<Chroma>, StoreError> {
        let table = self.database.begin_read()?.open_table(CHROMA)?;
        Ok(table.get(*id.as_bytes())?.map(|grid| Chroma::from_bytes(grid.value())))
    }

    pub(super) fn binding(&self, recipe: RecipeId, scope: Option<ScopeKey>) -> Result<Option<Binding>, StoreError> {
        let table = self.database.begin_read()?.open_table(BINDINGS)?;
        let key = (*recipe.as_bytes(), scope.map_or(NONE, |scope| scope.0));
        Ok(table.get(key)?.map(|row| serde_json::from_slice(row.value())).transpose()?)
    }

    pub(super) fn variant(&self, variant: VariantKey) -> Result<Option<RecipeId>, StoreError> {
        let table = self.database.begin_read()?.open_table(VARIANTS)?;
        Ok(table.get(variant.0)?.map(|recipe| RecipeId::from_raw(recipe.value())))
    }

    pub(super) fn insert_master(&self, id: MasterId, row: &MasterRow, chroma: &Chroma) -> Result<(), StoreError> {
        let row = serde_json::to_vec(row)?;
        self.write(|transaction| {
            transaction.open_table(MASTERS)?.insert(*id.as_bytes(), row.as_slice())?;
            transaction.open_table(CHROMA)?.insert(*id.as_bytes(), *chroma.as_bytes())?;
            Ok(())
        })
    }

    pub(super) fn bind(&self, decisions: &[Decision]) -> Result<(), StoreError> {
        self.write(|transaction| decisions.iter().try_for_each(|decision| bind(transaction, decision)))
    }

    /// Drops masters with everything that refers to them; returns the index entries that went.
    pub(super) fn forget(&self, ids: &[MasterId]) -> Result<Vec<(ScopeKey, MasterId)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.write(|transaction| {
            let mut gone = Vec::new();
            for id in ids {
                let key = *id.as_bytes();
                transaction.open_table(MASTERS)?.remove(key)?;
                transaction.open_table(CHROMA)?.remove(key)?;
                unbind(transaction, key)?;
                let mut entries = transaction.open_table(ENTRIES)?;
                let scopes: Vec<Key> = entries
                    .range(pairs_of(key))?
                    .map(|entry| entry.map(|(key, _)| key.value().1))
                    .collect::<Result<_, _>>()?;
                for scope in scopes {
                    entries.remove((key, scope))?;
                    gone.push((ScopeKey(scope), *id));
                }
            }
            Ok(gone)
        })
    }

    pub(super) fn each_master(&self, mut visit: impl FnMut(MasterId, MasterRow)) -> Result<(), StoreError> {
        let table = self.database.begin_read()?.open_table(MASTERS)?;
        for item in table.iter()? {
            let (key, row) = item?;
            visit(MasterId::from_raw(key.value()), serde_json::from_slice(row.value())?);
        }
        Ok(())
    }

    pub(super) fn each_entry(&self, mut visit: impl FnMut(ScopeKey, Entry, PerceptualHash)) -> Result<(), StoreError> {
        let transaction = self.database.begin_read()?;
        let (masters, entries) = (transaction.open_table(MASTERS)?, transaction.open_table(ENTRIES)?);
        for item in entries.iter()? {
            let (key, variant) = item?;
            let (master, scope) = key.value();
            let Some(row) = masters.get(master)? else { continue };
            let row: MasterRow = serde_json::from_slice(row.value())?;
            let entry = Entry {
                master: MasterId::from_raw(master),
                variant: VariantKey(variant.value()),
                created_unix_ms: row.created_unix_ms,
            };
            visit(ScopeKey(scope), entry, row.phash);
        }
        Ok(())
    }
}

fn bind(transaction: &WriteTransaction, decision: &Decision) -> Result<(), StoreError> {
    let row = serde_json::to_vec(&decision.binding)?;
    let (master, recipe) = (*decision.binding.master.as_bytes(), *decision.recipe.as_bytes());
    let scope = decision.place.map_or(NONE, |place| place.scope.0);
    let variant = decision.place.map_or(NONE, |place| place.variant.0);
    transaction.open_table(BINDINGS)?.insert((recipe, scope), row.as_slice())?;
    transaction.open_table(BOUND)?.insert((master, recipe, scope, variant), ())?;
    if decision.place.is_some() {
        let mut variants = transaction.open_table(VARIANTS)?;
        if variants.get(variant)?.is_none() {
            variants.insert(variant, recipe)?;
        }
        let mut entries = transaction.open_table(ENTRIES)?;
        if decision.binding.duplicate.is_none() && entries.get((master, scope))?.is_none() {
            entries.insert((master, scope), variant)?;
        }
    }
    Ok(())
}

fn pairs_of(master: Key) -> RangeInclusive<(Key, Key)> {
    (master, LOWEST)..=(master, HIGHEST)
}

/// Drops the bindings to a master, and the variants first settled by them.
fn unbind(transaction: &WriteTransaction, master: Key) -> Result<(), StoreError> {
    let mut bound = transaction.open_table(BOUND)?;
    let mut bindings = transaction.open_table(BINDINGS)?;
    let mut variants = transaction.open_table(VARIANTS)?;
    let range = (master, LOWEST, LOWEST, LOWEST)..=(master, HIGHEST, HIGHEST, HIGHEST);
    let rows: Vec<_> = bound.range(range)?.map(|row| row.map(|(key, _)| key.value())).collect::<Result<_, _>>()?;
    for key in rows {
        bound.remove(key)?;
        let (_, recipe, scope, variant) = key;
        // A later decision may have bound the recipe to another master: that one stays.
        let is_rebound = match bindings.get((recipe, scope))? {
            Some(row) => serde_json::from_slice::<Binding>(row.value())?.master.as_bytes() != &master,
            None => false,
        };
        if is_rebound {
            continue;
        }
        bindings.remove((recipe, scope))?;
        if variants.get(variant)?.is_some_and(|first| first.value() == recipe) {
            variants.remove(variant)?;
        }
    }
    Ok(())
}
