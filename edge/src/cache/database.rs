//! Making an embedded database so that a crash leaves it whole or absent, and opening one without walking its file.
//!
//! redb writes a new file's magic number last: a process that ends before leaves a file that is no database, and the
//! next start would refuse it. So a new one is made beside its place and put there when it is complete.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use redb::{Builder, Database, Key, ReadableDatabase, TableDefinition, Value};

/// Opens the database at `path`, made where there is none, with `table` in it, so that reading never meets a database
/// without one.
///
/// # Errors
/// When it cannot be made, is none, or is open elsewhere. redb panics over pages that are damaged where it begins.
pub(crate) fn open<K: Key + 'static, V: Value + 'static>(
    path: &Path,
    cache_bytes: usize,
    table: TableDefinition<'_, K, V>,
) -> Result<Database, redb::Error> {
    ensure(path)?;
    let database = Builder::new().set_cache_size(cache_bytes).create(path)?;
    // A sync is saved where the table is there.
    if matches!(database.begin_read()?.open_table(table), Err(redb::TableError::TableDoesNotExist(_))) {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        transaction.open_table(table)?;
        transaction.commit()?;
    }
    Ok(database)
}

/// Makes an empty database at `path` unless something is there.
///
/// # Errors
/// When it cannot be made; nothing is at `path` then.
pub(crate) fn ensure(path: &Path) -> Result<(), redb::Error> {
    if path.try_exists()? {
        return Ok(());
    }
    let fresh = path.with_extension("redb-new");
    // What a start that died left behind.
    if fresh.try_exists()? {
        fs::remove_file(&fresh)?;
    }
    Builder::new().create(&fresh)?.close()?;
    File::open(&fresh)?.sync_all()?;
    // Whoever is first wins; opening it locks it for one of them.
    match fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => fs::remove_file(&fresh)?,
    }
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_that_died_is_begun_anew_and_what_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.redb");
        fs::write(dir.path().join("some.redb-new"), b"half of").unwrap();
        ensure(&path).unwrap();
        drop(Builder::new().open(&path).unwrap());
        let made = fs::read(&path).unwrap();
        ensure(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), made);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
