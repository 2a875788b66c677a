//! Letters on the device: what each endpoint is owed, what it never took, and how far the log was read for it.
//!
//! Invariants: that the log was read up to an entry and what was to be told of it are one commit, so a crash loses nothing and
//! delivers at most a letter anew; memory shows what is on the device; dead letters are bounded, and the oldest go first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind};
use crate::state::{Check, Database, Schema, StateError, Table, Value, form};

const LETTERS: Table<u64, Letter> = Table::new("letters");
const CURSORS: Table<String, Cursor> = Table::new("cursors");
static SCHEMA: Schema = Schema {
    what: "the book of webhooks",
    row: "the webhook",
    remedy: "Without it endpoints are told of what is decided from now on: move it away",
    cache_bytes: 1 << 20,
    check: Check::Head,
    tables: &[&LETTERS, &CURSORS],
};
const VERSION: u8 = 1;
/// Dead letters that are kept for one endpoint.
pub(super) const DEAD_MAX: usize = 1_000;
/// Letters that wait for one endpoint. The log is read no further while there are so many: it keeps the rest.
pub(super) const PENDING_MAX: usize = 1_000;

/// One message for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Letter {
    pub(super) endpoint: String,
    pub(super) id: String,
    pub(super) kind: EventKind,
    pub(super) subject: String,
    pub(super) body: String,
    /// Since when it is tried.
    pub(super) since_unix_ms: u64,
    pub(super) attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
    pub(super) is_dead: bool,
}

/// How far an endpoint was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cursor {
    /// The log whose entries were read, and the last of them.
    pub(super) log: String,
    pub(super) seq: u64,
    /// Up to when time was looked at.
    pub(super) clock_unix_ms: u64,
    /// Rights whose end was told.
    pub(super) rights: BTreeSet<String>,
    /// The URL that answered 410: it is called no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gone: Option<String>,
}

impl Value<u64> for Letter {
    type Form = Vec<u8>;

    fn encode(&self, number: &u64) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, &number.to_be_bytes(), self)
    }

    fn decode(number: &u64, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, &number.to_be_bytes(), record)
    }
}

impl Value<String> for Cursor {
    type Form = Vec<u8>;

    fn encode(&self, name: &String) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, name.as_bytes(), self)
    }

    fn decode(name: &String, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, name.as_bytes(), record)
    }
}

#[derive(Debug, Default)]
struct Pages {
    letters: BTreeMap<u64, Letter>,
    cursors: BTreeMap<String, Cursor>,
}

/// Changes of one commit. `None` stands for what is to be removed.
#[derive(Debug, Clone, Default)]
pub(super) struct Edit {
    letters: BTreeMap<u64, Option<Letter>>,
    cursors: BTreeMap<String, Cursor>,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Book {
    database: Arc<Database>,
    pages: Arc<Mutex<Pages>>,
    /// One commit at a time: what is edited is what was read.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Book {
    /// Blocks: for the start.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let database = Database::open(path, &SCHEMA)?;
        let letters = database.read(|snapshot| snapshot.rows(LETTERS)?.all())?.into_iter().collect();
        let cursors = database.read(|snapshot| snapshot.rows(CURSORS)?.all())?.into_iter().collect();
        let pages = Arc::new(Mutex::new(Pages { letters, cursors }));
        Ok(Self { database: Arc::new(database), pages, turn: Arc::default() })
    }

    pub(super) fn cursor(&self, endpoint: &str) -> Option<Cursor> {
        self.pages.lock().cursors.get(endpoint).cloned()
    }

    /// Letters of an endpoint, the oldest first.
    pub(super) fn of(&self, endpoint: &str) -> Vec<(u64, Letter)> {
        let pages = self.pages.lock();
        let own = pages.letters.iter().filter(|(_, letter)| letter.endpoint == endpoint);
        own.map(|(number, letter)| (*number, letter.clone())).collect()
    }

    /// How many wait, and how many are dead.
    pub(super) fn counts(&self, endpoint: &str) -> (usize, usize) {
        let pages = self.pages.lock();
        let own = pages.letters.values().filter(|letter| letter.endpoint == endpoint);
        own.fold(
            (0, 0),
            |(pending, dead), letter| {
                if letter.is_dead { (pending, dead + 1) } else { (pending + 1, dead) }
            },
        )
    }

    /// Dead letters of all endpoints, the oldest first.
    pub(super) fn dead(&self) -> Vec<(u64, Letter)> {
        let pages = self.pages.lock();
        pages.letters.iter().filter(|(_, letter)| letter.is_dead).map(|(at, letter)| (*at, letter.clone())).collect()
    }

    /// Edits, durably. Memory follows the device.
    pub(super) async fn edit(&self, change: impl FnOnce(&mut Draft<'_>)) -> Result<(), StateError> {
        let _turn = self.turn.lock().await;
        let edit = {
            let pages = self.pages.lock();
            let mut draft = Draft { pages: &pages, edit: Edit::default() };
            change(&mut draft);
            draft.edit
        };
        let written = edit.clone();
        self.database
            .write_async(move |changes| {
                let mut letters = changes.of(LETTERS)?;
                for (number, letter) in &written.letters {
                    match letter {
                        Some(letter) => letters.put(number, letter)?,
                        None => letters.remove(number)?,
                    }
                }
                drop(letters);
                let mut cursors = changes.of(CURSORS)?;
                written.cursors.iter().try_for_each(|(name, cursor)| cursors.put(name, cursor))
            })
            .await?;
        let mut pages = self.pages.lock();
        for (number, letter) in edit.letters {
            match letter {
                Some(letter) => drop(pages.letters.insert(number, letter)),
                None => drop(pages.letters.remove(&number)),
            }
        }
        pages.cursors.extend(edit.cursors);
        Ok(())
    }
}

/// A commit before it is made.
#[derive(Debug)]
pub(super) struct Draft<'p> {
    pages: &'p Pages,
    edit: Edit,
}

impl Draft<'_> {
    pub(super) fn cursor(&self, endpoint: &str) -> Option<Cursor> {
        self.pages.cursors.get(endpoint).cloned()
    }

    pub(super) fn dead_of(&self, endpoint: &str) -> Vec<(u64, Letter)> {
        self.of(endpoint, |letter| letter.is_dead)
    }

    pub(super) fn waiting_of(&self, endpoint: &str) -> Vec<(u64, Letter)> {
        self.of(endpoint, |letter| !letter.is_dead)
    }

    fn of(&self, endpoint: &str, is_asked: impl Fn(&Letter) -> bool) -> Vec<(u64, Letter)> {
        let own = self.pages.letters.iter().filter(|(_, letter)| letter.endpoint == endpoint && is_asked(letter));
        own.map(|(number, letter)| (*number, letter.clone())).collect()
    }

    pub(super) fn move_to(&mut self, endpoint: &str, cursor: Cursor) {
        self.edit.cursors.insert(endpoint.to_owned(), cursor);
    }

    /// Owes an endpoint a message.
    pub(super) fn owe(&mut self, endpoint: &str, event: &Event, now_unix_ms: u64) {
        let last = |numbers: Option<&u64>| numbers.copied().unwrap_or(0);
        let number = last(self.pages.letters.keys().next_back()).max(last(self.edit.letters.keys().next_back())) + 1;
        let letter = Letter {
            endpoint: endpoint.to_owned(),
            id: event.id.clone(),
            kind: event.kind,
            subject: event.subject.clone(),
            body: event.body(),
            since_unix_ms: now_unix_ms,
            attempts: 0,
            last_error: None,
            is_dead: false,
        };
        self.edit.letters.insert(number, Some(letter));
    }

    /// A letter as it is now; one that dies makes the oldest dead one of its endpoint go, where there are too many.
    pub(super) fn put(&mut self, number: u64, letter: Letter) {
        let (endpoint, is_dead) = (letter.endpoint.clone(), letter.is_dead);
        self.edit.letters.insert(number, Some(letter));
        if is_dead {
            let is_own = |letter: &Letter| letter.is_dead && letter.endpoint == endpoint;
            let kept = self.pages.letters.iter().filter(|(at, it)| is_own(it) && !self.edit.letters.contains_key(at));
            let new = self.edit.letters.iter().filter(|(_, it)| it.as_ref().is_some_and(is_own));
            let dead: BTreeSet<u64> = kept.map(|(at, _)| *at).chain(new.map(|(at, _)| *at)).collect();
            for oldest in dead.iter().take(dead.len().saturating_sub(DEAD_MAX)) {
                self.edit.letters.insert(*oldest, None);
            }
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.edit.letters.insert(number, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64) -> Event {
        Event::test("desk", at)
    }

    #[tokio::test]
    async fn what_is_owed_and_how_far_the_log_was_read_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("webhooks.redb");
        let cursor = Cursor { log: "log".to_owned(), seq: 7, ..Cursor::default() };
        {
            let book = Book::open(&path).unwrap();
            let edit = book.edit(|draft| {
                draft.owe("desk", &event(1), 10);
                draft.owe("desk", &event(2), 10);
                draft.move_to("desk", cursor.clone());
            });
            edit.await.unwrap();
            book.edit(|draft| draft.remove(1)).await.unwrap();
        }
        let book = Book::open(&path).unwrap();
        assert_eq!((book.cursor("desk"), book.counts("desk"), book.counts("other")), (Some(cursor), (1, 0), (0, 0)));
        let letters = book.of("desk");
        assert_eq!((letters[0].0, letters[0].1.id.clone()), (2, event(2).id));
    }

    #[tokio::test]
    async fn the_oldest_dead_letters_of_an_endpoint_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("webhooks.redb")).unwrap();
        let owed = |draft: &mut Draft<'_>| {
            draft.owe("other", &event(0), 0);
            (0..=DEAD_MAX as u64).for_each(|at| draft.owe("desk", &event(at), 0));
        };
        book.edit(owed).await.unwrap();
        let bury = |draft: &mut Draft<'_>, name: &str| {
            for (number, letter) in draft.waiting_of(name) {
                draft.put(number, Letter { is_dead: true, ..letter });
            }
        };
        book.edit(|draft| bury(draft, "other")).await.unwrap();
        book.edit(|draft| bury(draft, "desk")).await.unwrap();
        assert_eq!((book.counts("other"), book.counts("desk")), ((0, 1), (0, DEAD_MAX)));
        assert!(book.of("desk").iter().all(|(number, _)| *number > 2), "the first of the desk is gone");
    }
}
