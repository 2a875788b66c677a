//! A log whose edge does not run: checked whole, or put back from a backup.
//!
//! A backup is lines of JSON: what it is of, the rows of the state, every entry. It is taken from a running edge, whose state is a
//! snapshot that does not change, and whose entries up to it never do. What was committed after it is missing when it is put back, and
//! other edges may have seen that. So what is put back is a log of its own, in a later term: every edge takes it as a whole.

use std::path::Path;

use bildkante_shared::ids::encode_128;
use serde::{Deserialize, Serialize};

use super::change::{Change, FirstApprovals, Term};
use super::entry::{Chain, Circumstances, Entry, Place};
use super::fold::{Head, Row, Shelf, State};
use super::log::LogError;
use super::primary::now_unix_ms;
use super::reviews::Case;
use super::store::{Batch, Loaded, Store, StoredHead};
use super::{ActorId, ChainFault};

/// The form of backups that this build writes.
pub const BACKUP_VERSION: u8 = 1;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub head: Head,
    pub entries: u64,
    pub kills: usize,
    /// Whether the entries reach back to the log's first, so that the state was worked out from them and compared.
    pub is_whole: bool,
}

/// The first line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupHead {
    pub backup: u8,
    pub head: Head,
}

/// One line of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupLine {
    Head(BackupHead),
    Row(Row),
    Entry(Box<Entry>),
}

/// Why a stored log or a backup is not sound.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Chain(#[from] ChainFault),
    #[error("the state is not what its entries amount to, first at {0}")]
    State(String),
    #[error("the entries end at {entries}, and the state stands at {state}")]
    Behind { entries: u64, state: u64 },
    #[error("line {line} of the backup: {reason}")]
    Line { line: usize, reason: String },
    #[error("the backup is of form {0}, this build reads {BACKUP_VERSION}")]
    Version(u8),
    #[error("{0} is there: move it away first")]
    Occupied(String),
}

/// Reads all of a stored log. Blocks.
///
/// # Errors
/// What is not sound about it.
pub fn check(path: &Path) -> Result<Checked, Unsound> {
    let (store, loaded) = Store::open(path)?;
    let Loaded { state, stored, .. } = loaded;
    let mut chain = Chain::behind(stored.begins.seq, stored.begins.term, stored.begins.hash);
    let is_whole = stored.begins.seq == 0;
    let mut folded = State::empty(stored.head.log.clone());
    let mut after = stored.begins.seq;
    loop {
        let page = store.entries(after, 1_000).map_err(LogError::from)?;
        let Some(last) = page.last() else { break };
        after = last.seq();
        for entry in &page {
            chain.follow(entry)?;
            if is_whole {
                folded.apply(entry);
            }
        }
    }
    if chain.head() != (stored.head.seq, stored.head.hash) {
        return Err(Unsound::Behind { entries: chain.head().0, state: stored.head.seq });
    }
    if is_whole {
        same(&state, &folded)?;
    }
    let (entries, kills) = (stored.head.seq - stored.begins.seq, state.kills().len());
    Ok(Checked { head: stored.head, entries, kills, is_whole })
}

fn same(state: &State, folded: &State) -> Result<(), Unsound> {
    let sorted = |state: &State| {
        let mut rows: Vec<(String, Option<String>)> = state.rows().map(comparable).collect();
        rows.sort();
        rows
    };
    let (stored, worked_out) = (sorted(state), sorted(folded));
    match stored.iter().zip(&worked_out).find(|(one, other)| one != other) {
        Some(((key, _), _)) => Err(Unsound::State(key.clone())),
        None if stored.len() == worked_out.len() => Ok(()),
        None => Err(Unsound::State("a row that is missing".to_owned())),
    }
}

/// A row as far as it decides what is shown: which entries a case names, and what an undo would bring back, are for people, and former
/// versions did not write them.
fn comparable(row: Row) -> (String, Option<String>) {
    let name = format!("{}/{}", row.shelf.as_str(), row.key);
    let value = row.value.map(|value| if row.shelf == Shelf::Reviews { without_steps(value) } else { value });
    (name, value)
}

fn without_steps(value: String) -> String {
    let Ok(mut cases) = serde_json::from_str::<Vec<Case>>(&value) else { return value };
    cases.iter_mut().for_each(|case| (case.steps, case.undoable) = (Vec::new(), None));
    serde_json::to_string(&cases).unwrap_or(value)
}

impl BackupLine {
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let told = |error: serde_json::Error| error.to_string();
        if value.get("backup").is_some() {
            return serde_json::from_value(value).map(Self::Head).map_err(told);
        }
        if value.get("shelf").is_some() {
            return serde_json::from_value(value).map(Self::Row).map_err(told);
        }
        Entry::parse(text.as_bytes()).map(|entry| Self::Entry(Box::new(entry))).map_err(|error| error.to_string())
    }
}

/// Writes a log from the lines of a backup, where none is. Blocks, on a runtime's thread that may.
///
/// # Errors
/// When a line is not sound, or a log is there. Nothing is left behind then.
pub async fn restore(path: &Path, lines: impl Iterator<Item = String>) -> Result<Head, Unsound> {
    if path.exists() {
        return Err(Unsound::Occupied(path.display().to_string()));
    }
    let (mut head, mut rows, mut entries) = (None, Vec::new(), Vec::new());
    for (at, line) in lines.enumerate() {
        let fault = |reason: String| Unsound::Line { line: at + 1, reason };
        match BackupLine::parse(&line).map_err(fault)? {
            BackupLine::Head(it) if it.backup != BACKUP_VERSION => return Err(Unsound::Version(it.backup)),
            BackupLine::Head(it) => head = Some(it.head),
            BackupLine::Row(row) => rows.push(row),
            BackupLine::Entry(entry) => entries.push(std::sync::Arc::from(entry)),
        }
    }
    let head =
        head.ok_or_else(|| Unsound::Line { line: 1, reason: "it does not say what it is a backup of".to_owned() })?;
    let begins = verified(&head, &entries)?;
    let state = State::restore(head.clone(), rows.iter().cloned()).map_err(LogError::from)?;
    write(path, state, begins, (entries, rows)).await
}

/// What lies before the first entry.
fn verified(head: &Head, entries: &[std::sync::Arc<Entry>]) -> Result<Head, Unsound> {
    let Some(first) = entries.first() else { return Ok(head.clone()) };
    let before = first.seq().saturating_sub(1);
    let mut chain = Chain::behind(before, 0, *first.previous());
    entries.iter().try_for_each(|entry| chain.follow(entry))?;
    if chain.head() != (head.seq, head.hash) {
        return Err(Unsound::Behind { entries: chain.head().0, state: head.seq });
    }
    Ok(Head { log: head.log.clone(), seq: before, term: 0, hash: *first.previous(), at_unix_ms: 0 })
}

/// A log of its own, in a later term.
async fn write(
    path: &Path,
    state: State,
    begins: Head,
    (mut entries, mut rows): (Vec<std::sync::Arc<Entry>>, Vec<Row>),
) -> Result<Head, Unsound> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| LogError::Random)?;
    let (log, former) = (encode_128(&id), state.head());
    let mut state = state.renamed(log.as_str().into());
    let term = former.term + 1;
    let circumstances = Circumstances {
        at_unix_ms: now_unix_ms().max(former.at_unix_ms),
        actor: ActorId::EDGE,
        why: format!("a backup of log {} was put back", former.log),
        before: Some(format!("term {}", former.term)),
        key: None,
        edge: String::new(),
    };
    let place = Place { seq: former.seq + 1, term, previous: former.hash };
    // A backup holds no names.
    let first_approvals = FirstApprovals::of_another_edge(&state);
    let begins_term = Change::Term(Term { term, silence_ms: None, first_approvals });
    let entry = Entry::follow(place, begins_term, circumstances).map_err(LogError::from)?;
    rows.extend(state.apply(&entry));
    entries.push(std::sync::Arc::new(entry));
    let fresh = path.with_extension("redb-restored");
    let _ = std::fs::remove_file(&fresh);
    let (store, loaded) = Store::open(&fresh)?;
    let begins = Head { log: log.as_str().into(), ..begins };
    let stored = StoredHead { head: state.head(), begins, term_seen: term, ..loaded.stored };
    let batch = Batch { entries, rows, ..Batch::default() };
    store.write(stored, batch).await.map_err(LogError::from)?;
    drop(store);
    std::fs::rename(&fresh, path).map_err(|error| Unsound::Occupied(format!("{}: {error}", path.display())))?;
    if let Some(folder) = path.parent() {
        let _ = bildkante_shared::durable::sync_folder(folder);
    }
    Ok(state.head())
}
