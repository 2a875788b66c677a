//! Typed tables: what redb knows as bytes, a room knows as its own types.

use std::marker::PhantomData;
use std::ops::ControlFlow;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::database::caught;
use super::error::{Failure, Unreadable};
use super::form::{Form, Key, Lent, Value};

/// A table's name, and the types of its keys and values.
pub(crate) struct Table<K, V> {
    name: &'static str,
    rows: PhantomData<fn() -> (K, V)>,
}

/// One row, or why it cannot be read.
pub(crate) type Row<K, V> = Result<(K, V), Unreadable>;

type Redb<F> = <F as Form>::Redb;
type KeyForm<K> = Redb<<K as Key>::Form>;
type ValueForm<K, V> = Redb<<V as Value<K>>::Form>;

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Table<K, V> {}

impl<K, V> Table<K, V> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, rows: PhantomData }
    }
}

impl<K: Key, V: Value<K>> Table<K, V> {
    const fn definition(self) -> TableDefinition<'static, KeyForm<K>, ValueForm<K, V>> {
        TableDefinition::new(self.name)
    }

    pub(super) fn rows(self, transaction: &ReadTransaction) -> Result<Rows<K, V>, Failure> {
        Ok(Rows { table: self, rows: transaction.open_table(self.definition())? })
    }

    pub(super) fn changes(self, transaction: &WriteTransaction) -> Result<TableChanges<'_, K, V>, Failure> {
        Ok(TableChanges { table: self, rows: transaction.open_table(self.definition())? })
    }

    fn get_in(self, rows: &impl ReadableTable<KeyForm<K>, ValueForm<K, V>>, key: &K) -> Result<Option<V>, Failure> {
        let form = key.encode();
        let Some(value) = rows.get(form.lend())? else { return Ok(None) };
        let value = V::decode(key, value.value());
        Ok(Some(value.map_err(|reason| self.unreadable(&form.lend(), reason))?))
    }

    fn unreadable(self, key: &Lent<'_, K::Form>, reason: String) -> Unreadable {
        Unreadable { table: self.name, key: K::name(key), reason }
    }
}

/// A table of any types, as a schema lists it.
pub(crate) trait Declared: Sync {
    fn is_missing(&self, transaction: &ReadTransaction) -> Result<bool, Failure>;

    fn make(&self, transaction: &WriteTransaction) -> Result<(), Failure>;
}

impl<K: Key, V: Value<K>> Declared for Table<K, V> {
    fn is_missing(&self, transaction: &ReadTransaction) -> Result<bool, Failure> {
        match transaction.open_table(self.definition()) {
            Ok(_) => Ok(false),
            Err(TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn make(&self, transaction: &WriteTransaction) -> Result<(), Failure> {
        transaction.open_table(self.definition())?;
        Ok(())
    }
}

/// A table as of one moment: it stays so while others write.
pub(crate) struct Rows<K: Key, V: Value<K>> {
    table: Table<K, V>,
    rows: ReadOnlyTable<KeyForm<K>, ValueForm<K, V>>,
}

impl<K: Key, V: Value<K>> Rows<K, V> {
    /// # Errors
    /// When the device fails, a page is damaged, or the row cannot be read.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Failure> {
        caught(|| self.table.get_in(&self.rows, key))
    }

    /// Every row, in the order of their keys' forms.
    ///
    /// # Errors
    /// When the device fails, a page is damaged, or one of the rows cannot be read.
    pub(crate) fn all(&self) -> Result<Vec<(K, V)>, Failure> {
        let mut rows = Vec::new();
        let mut unread = None;
        let _ = self.each(|row| match row {
            Ok(row) => {
                rows.push(row);
                ControlFlow::Continue(())
            }
            Err(unreadable) => {
                unread = Some(unreadable);
                ControlFlow::Break(())
            }
        })?;
        unread.map_or(Ok(rows), |unreadable| Err(unreadable.into()))
    }

    /// Visits the rows in the order of their keys' forms, until it is told to stop.
    ///
    /// # Errors
    /// When the device fails or a page is damaged: what lies behind is not visited.
    pub(crate) fn each(&self, mut visit: impl FnMut(Row<K, V>) -> ControlFlow<()>) -> Result<ControlFlow<()>, Failure> {
        caught(|| {
            for entry in self.rows.iter()? {
                let (key, value) = entry?;
                let row = decode(key.value(), value.value());
                let row = row.map_err(|reason| self.table.unreadable(&key.value(), reason));
                if visit(row).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}

fn decode<K: Key, V: Value<K>>(key: Lent<'_, K::Form>, value: Lent<'_, V::Form>) -> Result<(K, V), String> {
    let key = K::decode(key)?;
    let value = V::decode(&key, value)?;
    Ok((key, value))
}

/// A table within a commit.
pub(crate) struct TableChanges<'t, K: Key, V: Value<K>> {
    table: Table<K, V>,
    rows: redb::Table<'t, KeyForm<K>, ValueForm<K, V>>,
}

impl<K: Key, V: Value<K>> TableChanges<'_, K, V> {
    /// The row as the commit finds it, its own changes included.
    ///
    /// # Errors
    /// As [`Rows::get`].
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Failure> {
        self.table.get_in(&self.rows, key)
    }

    /// # Errors
    /// When the device fails or the value has no form.
    pub(crate) fn put(&mut self, key: &K, value: &V) -> Result<(), Failure> {
        let value = value.encode(key)?;
        self.rows.insert(key.encode().lend(), value.lend())?;
        Ok(())
    }

    /// Removes every row.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        self.rows.retain(|_, _| false)?;
        Ok(())
    }

    /// # Errors
    /// When the device fails.
    pub(crate) fn remove(&mut self, key: &K) -> Result<(), Failure> {
        self.rows.remove(key.encode().lend())?;
        Ok(())
    }
}
