//! Why state cannot be opened, read or written.
//!
//! [`StateError`] says which file and what was being done to it; [`Failure`] says what went wrong.

use std::io;
use std::path::PathBuf;

/// What failed, and at which file.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path}: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// The file is no database, is damaged, or is open in another process.
    #[error("{what} {path} cannot be used: {source}. {remedy}", path = path.display())]
    Unusable { what: &'static str, path: PathBuf, remedy: &'static str, source: Failure },
    #[error("{what} {path} cannot be read: {source}", path = path.display())]
    Read { what: &'static str, path: PathBuf, source: Failure },
    /// The device has nothing of it. It recovers with the device.
    #[error("{row} could not be written: {source}")]
    Write { row: &'static str, source: Failure },
    #[error("the writing task panicked")]
    Panicked,
}

impl StateError {
    /// Whether the file is closed because it could not be opened again: nothing is known of its rows then.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Read { source: Failure::Database(error), .. } if matches!(**error, redb::Error::DatabaseClosed))
    }
}

/// What went wrong within a snapshot or a commit.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Database(Box<redb::Error>),
    #[error(transparent)]
    Row(#[from] Unreadable),
    #[error("it has no JSON form: {0}")]
    Encode(#[from] serde_json::Error),
}

impl Failure {
    pub(super) fn damaged() -> Self {
        redb::Error::Corrupted("a page is damaged".to_owned()).into()
    }

    /// Whether an earlier failure closed the file, so that the same may succeed once it is opened anew.
    pub(super) fn is_of_the_past(&self) -> bool {
        let Self::Database(error) = self else { return false };
        matches!(**error, redb::Error::PreviousIo | redb::Error::DatabaseClosed)
    }
}

/// A row that this build cannot read. Its neighbours are not touched by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the row {key} of `{table}` is not one this build can read: {reason}")]
pub struct Unreadable {
    pub table: &'static str,
    pub key: String,
    pub reason: String,
}

/// One arm for each of redb's errors.
macro_rules! of_the_database {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

of_the_database!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        redb::Error::from(error).into()
    }
}
