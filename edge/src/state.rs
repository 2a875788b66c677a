//! State that outlives the process: typed tables in embedded databases.
//!
//! | module | owns |
//! | --- | --- |
//! | `database` | one file of tables: made whole, opened without walking it, opened anew after a failure |
//! | `table` | a table's name and types, its rows at one moment, its changes within one commit |
//! | `form` | the bytes of keys and values: fixed widths, texts, JSON, sealed records with their schema version |
//! | `error` | why a file, a row or a commit failed |
//! | `bound` | which entries go when there are too many |
//! | `loader` | the thread that fills a memory from a table |
//!
//! A room that keeps state declares a [`Schema`] (what the file is called, what a person may do when it cannot be used,
//! its tables) and one [`Table`] for each kind of row. It writes no byte itself:
//!
//! ```text
//! write   value ── Value::encode ──▶ form ── Changes::of, put ──▶ one commit over any of the file's tables ── synced ──▶ Ok
//! read    Snapshot ── rows ──▶ Rows::get, Rows::each ──▶ form ── Value::decode ──▶ value, or Unreadable for this row alone
//! ```
//!
//! Invariants
//! - A commit is on the device when it returns `Ok`, and whole or absent after a crash. It may span all tables of its
//!   file: what belongs together (a purge and its marks, a decision and its line of the audit) is one commit.
//! - A snapshot shows all tables of a file as of one moment and stays so while others write.
//! - The names of tables, the types redb writes down beside them and the bytes of keys and values are what former
//!   versions wrote; `tests/fixtures/state` holds files of theirs. A value that may grow is a sealed record: its first
//!   byte is its schema's version ([`form::version`]). JSON bears none.
//! - redb refuses everything after one failed read or write until its file is opened anew. [`Database`] is the one place
//!   that does so, so that a disk that was full for a moment costs that moment.
//! - redb panics over damaged pages. No panic leaves this room: it is an error of the call that met the page.
//!
//! This room knows no campaign, purge or job. The rooms that keep state stand above it.

mod bound;
mod database;
mod error;
pub(crate) mod form;
mod loader;
mod table;

pub(crate) use bound::oldest;
pub(crate) use database::{Changes, Check, Database, Schema, Snapshot};
pub use error::{Failure, StateError, Unreadable};
pub(crate) use form::{Key, Value};
pub(crate) use loader::{Loader, unless};
pub(crate) use table::Table;

#[cfg(test)]
pub(crate) mod testing;
