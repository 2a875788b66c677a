//! What people with a link write about its pictures, each at a point of the picture or at none.
//!
//! Owns `comments.redb` in the data folder. Comments stay on the edge at which they were written, and are no part of the shared log: a
//! stranger's words and name must be erasable, which an entry of a hash-chained log is not, and must not fill what every edge keeps for
//! ever. Reviewers read them at the same edge, and answer by a decision.
//!
//! Invariants: a comment is on the device when it is acknowledged; texts, comments of a picture, of a link and of the edge are bounded:
//! where the edge is full, the oldest of a link that is over makes room; a process gives no id twice, so a page that is older names no
//! other comment; texts are as they were typed, and are escaped where they are shown.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shared_state::{Share, ShareId};
use crate::state::{Check, Database, Schema, StateError, Table, Value, form};

/// Comments about one picture of one link.
pub const COMMENTS_OF_PICTURE_MAX: usize = 50;
/// Comments of one link.
pub const COMMENTS_OF_LINK_MAX: usize = 500;
/// Comments on this edge.
const COMMENTS_MAX: usize = 10_000;
/// Longest name of a guest, and longest text, in characters.
pub const NAME_CHARS_MAX: usize = 60;
pub const TEXT_CHARS_MAX: usize = 1_000;
/// A picture's width and height in the units of a pin.
const WHOLE: f64 = 10_000.0;

const DATABASE: &str = "comments.redb";
const COMMENTS: Table<u64, Comment> = Table::new("comments");
static SCHEMA: Schema = Schema {
    what: "the database of comments",
    row: "a comment",
    remedy: "Moved away, what guests wrote is missing",
    cache_bytes: 1 << 20,
    check: Check::Head,
    tables: &[&COMMENTS],
};
/// A record's schema.
const VERSION: u8 = 1;

/// A point of a picture, from its left and upper edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// In ten-thousandths of the width.
    x: u16,
    /// In ten-thousandths of the height.
    y: u16,
}

impl Pin {
    /// Of fractions of width and height; `None` where they lie outside the picture.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both lie between 0 and 10,000")]
    pub fn of(x: f64, y: f64) -> Option<Self> {
        let is_inside = |at: f64| (0.0..=1.0).contains(&at);
        let units = |at: f64| (at * WHOLE).round() as u16;
        (is_inside(x) && is_inside(y)).then(|| Self { x: units(x), y: units(y) })
    }

    /// Fractions of width and height.
    #[must_use]
    pub fn fractions(self) -> (f64, f64) {
        (f64::from(self.x) / WHOLE, f64::from(self.y) / WHOLE)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comment {
    pub id: u64,
    pub share: ShareId,
    /// `campaign/slot?axis=value&…`.
    pub picture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<u64>,
    pub at_unix_ms: u64,
    pub name: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// When a reviewer said that it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_unix_ms: Option<u64>,
}

impl Value<u64> for Comment {
    type Form = Vec<u8>;

    fn encode(&self, id: &u64) -> Result<Vec<u8>, serde_json::Error> {
        form::seal(VERSION, &id.to_le_bytes(), self)
    }

    fn decode(id: &u64, record: &[u8]) -> Result<Self, String> {
        form::unseal(VERSION, &id.to_le_bytes(), record)
    }
}

/// What a guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    name: String,
    text: String,
    pin: Option<Pin>,
}

impl Draft {
    /// # Errors
    /// When name or text are missing, too long, or not a text.
    pub fn new(name: &str, text: &str, pin: Option<Pin>) -> Result<Self, CommentError> {
        let (name, text) = (name.trim(), text.replace("\r\n", "\n").trim().to_owned());
        let is_within = |of: &str, max| (1..=max).contains(&of.chars().count());
        if !is_within(name, NAME_CHARS_MAX) || name.chars().any(char::is_control) {
            return Err(CommentError::Name);
        }
        if !is_within(&text, TEXT_CHARS_MAX) || text.chars().any(|it| it.is_control() && it != '\n') {
            return Err(CommentError::Text);
        }
        Ok(Self { name: name.to_owned(), text, pin })
    }
}

/// Why a comment is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CommentError {
    #[error("a name has 1 to {NAME_CHARS_MAX} characters, and is one line")]
    Name,
    #[error("a comment has 1 to {TEXT_CHARS_MAX} characters")]
    Text,
    #[error("a point lies on the picture: each of its numbers is 0 to 100 percent, or both are left out")]
    Pin,
    #[error("this picture has {COMMENTS_OF_PICTURE_MAX} comments by people with this link, and takes no more")]
    FullPicture,
    #[error("this link has {COMMENTS_OF_LINK_MAX} comments, and takes no more")]
    FullLink,
    #[error("this edge keeps {COMMENTS_MAX} comments of open links, and takes no more until some are deleted")]
    Full,
    #[error("there is no comment {0}")]
    NoSuch(u64),
    #[error(transparent)]
    Store(#[from] StateError),
    #[error("the comment was not stored: its task broke down")]
    Broken,
}

/// Whether a comment is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Open,
    ResolvedAt(u64),
}

/// Every comment of this edge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comments {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    kept: Mutex<BTreeMap<u64, Comment>>,
    /// One change at a time: who holds it gives the next id.
    turn: tokio::sync::Mutex<u64>,
}

/// Comments of one link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommentCount {
    pub all: usize,
    /// Those that are not settled.
    pub open: usize,
}

impl Comments {
    /// Opens or creates the database in `data_dir`. Blocks.
    ///
    /// # Errors
    /// When the file is no database, is damaged where it begins or is open elsewhere.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        Self::in_database(Database::open(&data_dir.join(DATABASE), &SCHEMA)?)
    }

    fn in_database(database: Database) -> Result<Self, StateError> {
        let mut kept = BTreeMap::new();
        let _ = database.each(COMMENTS, |row| {
            match row {
                Ok((id, comment)) => drop(kept.insert(id, comment)),
                Err(error) => tracing::warn!(%error, "this comment cannot be read"),
            }
            ControlFlow::Continue(())
        })?;
        let next = kept.keys().next_back().map_or(1, |last| last + 1);
        Ok(Self { inner: Arc::new(Inner { database, kept: Mutex::new(kept), turn: tokio::sync::Mutex::new(next) }) })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.kept.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn one(&self, id: u64) -> Option<Comment> {
        self.inner.kept.lock().get(&id).cloned()
    }

    /// About a picture, by people with any link, the oldest first.
    #[must_use]
    pub fn of_picture(&self, picture: &str) -> Vec<Comment> {
        self.found(|comment| comment.picture == picture)
    }

    /// By people with this link, the oldest first.
    #[must_use]
    pub fn of_share(&self, id: ShareId) -> Vec<Comment> {
        self.found(|comment| comment.share == id)
    }

    /// How many there are of each link that has some.
    #[must_use]
    pub fn counts(&self) -> HashMap<ShareId, CommentCount> {
        let mut counts: HashMap<ShareId, CommentCount> = HashMap::new();
        for comment in self.inner.kept.lock().values() {
            let count = counts.entry(comment.share).or_default();
            count.all += 1;
            count.open += usize::from(comment.resolved_unix_ms.is_none());
        }
        counts
    }

    fn found(&self, is_meant: impl Fn(&Comment) -> bool) -> Vec<Comment> {
        self.inner.kept.lock().values().filter(|comment| is_meant(comment)).cloned().collect()
    }

    /// Takes a comment about a picture of a link, by its place; `is_over` says which links are. A task of its own.
    ///
    /// # Errors
    /// When there is no room, or the device refuses.
    pub async fn add(
        &self,
        share: &Share,
        place: usize,
        draft: Draft,
        now_unix_ms: u64,
        is_over: impl Fn(ShareId) -> bool + Send + 'static,
    ) -> Result<Comment, CommentError> {
        let of = share.pictures.get(place).ok_or(CommentError::NoSuch(0))?;
        let Draft { name, text, pin } = draft;
        let comment = Comment {
            id: 0,
            share: share.id,
            picture: of.picture.clone(),
            case: of.case,
            at_unix_ms: now_unix_ms,
            name,
            text,
            pin,
            resolved_unix_ms: None,
        };
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let mut next = inner.turn.lock().await;
            if let Some(oldest) = inner.room_for(&comment, is_over)? {
                inner.delete(oldest).await?;
            }
            let comment = inner.put(Comment { id: *next, ..comment }).await?;
            *next += 1;
            Ok(comment)
        });
        task.await.map_err(|_| CommentError::Broken)?
    }

    /// Says that a comment is settled, or is not. A task of its own.
    ///
    /// # Errors
    /// When there is none, or the device refuses.
    pub async fn resolve(&self, id: u64, as_what: Resolution) -> Result<Comment, CommentError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let _turn = inner.turn.lock().await;
            let comment = inner.kept.lock().get(&id).cloned().ok_or(CommentError::NoSuch(id))?;
            let resolved_unix_ms = match as_what {
                Resolution::Open => None,
                Resolution::ResolvedAt(moment) => comment.resolved_unix_ms.or(Some(moment)),
            };
            inner.put(Comment { resolved_unix_ms, ..comment }).await
        });
        task.await.map_err(|_| CommentError::Broken)?
    }

    /// Deletes a comment with its author's name. A task of its own.
    ///
    /// # Errors
    /// When there is none, or the device refuses.
    pub async fn remove(&self, id: u64) -> Result<Comment, CommentError> {
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn(async move {
            let _turn = inner.turn.lock().await;
            let comment = inner.kept.lock().get(&id).cloned().ok_or(CommentError::NoSuch(id))?;
            inner.delete(id).await?;
            Ok(comment)
        });
        task.await.map_err(|_| CommentError::Broken)?
    }
}

impl Inner {
    /// Whether there is room for the next comment; which one makes it.
    fn room_for(&self, next: &Comment, is_over: impl Fn(ShareId) -> bool) -> Result<Option<u64>, CommentError> {
        let kept = self.kept.lock();
        let (mut of_link, mut of_picture) = (0, 0);
        for comment in kept.values().filter(|comment| comment.share == next.share) {
            of_link += 1;
            of_picture += usize::from(comment.picture == next.picture);
        }
        match () {
            () if of_picture >= COMMENTS_OF_PICTURE_MAX => Err(CommentError::FullPicture),
            () if of_link >= COMMENTS_OF_LINK_MAX => Err(CommentError::FullLink),
            () if kept.len() >= COMMENTS_MAX => {
                let oldest = kept.values().find(|comment| is_over(comment.share)).map(|comment| comment.id);
                oldest.map(Some).ok_or(CommentError::Full)
            }
            () => Ok(None),
        }
    }

    async fn delete(self: &Arc<Self>, id: u64) -> Result<(), CommentError> {
        let writer = Arc::clone(self);
        let write = move || writer.database.write(|changes| changes.of(COMMENTS)?.remove(&id));
        tokio::task::spawn_blocking(write).await.map_err(|_| CommentError::Broken)??;
        self.kept.lock().remove(&id);
        Ok(())
    }

    async fn put(self: &Arc<Self>, comment: Comment) -> Result<Comment, CommentError> {
        let (writer, record) = (Arc::clone(self), comment.clone());
        let write = move || writer.database.write(|changes| changes.of(COMMENTS)?.put(&record.id, &record));
        tokio::task::spawn_blocking(write).await.map_err(|_| CommentError::Broken)??;
        self.kept.lock().insert(comment.id, comment.clone());
        Ok(comment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_state::SharedPicture;

    fn share(pictures: usize) -> Share {
        let picture = |at| SharedPicture { picture: format!("studio/hero?n={at}"), case: None };
        let pictures = (0..pictures).map(picture).collect();
        Share { id: ShareId::of(1), title: "t".into(), slot: "studio/hero".into(), pictures, expires_unix_ms: 1 }
    }

    /// No link is over.
    const fn none(_: ShareId) -> bool {
        false
    }

    fn draft(text: &str) -> Draft {
        Draft::new("Ada", text, Pin::of(0.25, 1.0)).unwrap()
    }

    #[test]
    fn what_a_guest_sends_is_bounded() {
        assert_eq!(Draft::new(" Ada ", "a\r\nb", None).unwrap().text, "a\nb");
        for name in ["", "  ", "a\nb", &"x".repeat(NAME_CHARS_MAX + 1)] {
            assert!(matches!(Draft::new(name, "text", None), Err(CommentError::Name)), "{name:?}");
        }
        for text in ["", "\n", "a\u{0}b", &"ü".repeat(TEXT_CHARS_MAX + 1)] {
            assert!(matches!(Draft::new("Ada", text, None), Err(CommentError::Text)), "{text:?}");
        }
        assert!(Draft::new(&"ü".repeat(NAME_CHARS_MAX), &"ü".repeat(TEXT_CHARS_MAX), None).is_ok());
        for (x, y) in [(-0.1, 0.0), (0.0, 1.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Pin::of(x, y), None, "{x} {y}");
        }
        assert_eq!(Pin::of(0.5, 0.123_45).map(Pin::fractions), Some((0.5, 0.1235)));
    }

    #[tokio::test]
    async fn comments_outlive_the_process_and_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let comments = Comments::open(folder.path()).unwrap();
        let first = comments.add(&share(2), 0, draft("crop the handle"), 5, none).await.unwrap();
        comments.add(&share(2), 1, draft("fine"), 6, none).await.unwrap();
        let settled = comments.resolve(first.id, Resolution::ResolvedAt(9)).await.unwrap();
        assert_eq!(settled.resolved_unix_ms, Some(9));
        drop(comments);
        let comments = Comments::open(folder.path()).unwrap();
        assert_eq!(comments.of_picture("studio/hero?n=0"), [settled]);
        assert_eq!(comments.of_share(ShareId::of(1)).len(), 2);
        comments.remove(first.id).await.unwrap();
        assert!(matches!(comments.remove(first.id).await, Err(CommentError::NoSuch(1))));
        drop(comments);
        assert_eq!(Comments::open(folder.path()).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_picture_takes_so_many_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let comments = Comments::open(folder.path()).unwrap();
        for at in 0..COMMENTS_OF_PICTURE_MAX {
            comments.add(&share(2), 0, draft(&at.to_string()), 0, none).await.unwrap();
        }
        assert!(matches!(comments.add(&share(2), 0, draft("more"), 0, none).await, Err(CommentError::FullPicture)));
        assert!(comments.add(&share(2), 1, draft("more"), 0, none).await.is_ok(), "another picture has room");
        assert!(comments.add(&share(2), 2, draft("more"), 0, none).await.is_err(), "the link has no third picture");
    }

    #[tokio::test]
    async fn an_id_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let comments = Comments::open(folder.path()).unwrap();
        let first = comments.add(&share(1), 0, draft("delete me"), 0, none).await.unwrap();
        comments.remove(first.id).await.unwrap();
        let second = comments.add(&share(1), 0, draft("another"), 0, none).await.unwrap();
        assert_ne!(second.id, first.id, "a page that is older would delete the other comment");
    }

    #[tokio::test]
    async fn comments_of_links_that_are_over_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let comments = Comments::open(folder.path()).unwrap();
        let first = comments.add(&share(1), 0, draft("old"), 0, none).await.unwrap();
        let other = Comment { share: ShareId::of(2), ..first.clone() };
        let others = (first.id + 1_000..).take(COMMENTS_MAX - 1).map(|id| (id, Comment { id, ..other.clone() }));
        comments.inner.kept.lock().extend(others);
        let next = Share { id: ShareId::of(3), ..share(1) };
        let full = comments.add(&next, 0, draft("new"), 0, none).await;
        assert!(matches!(full, Err(CommentError::Full)), "{full:?}");
        let is_first = |id| id == ShareId::of(1);
        comments.add(&next, 0, draft("new"), 0, is_first).await.unwrap();
        assert_eq!((comments.len(), comments.one(first.id)), (COMMENTS_MAX, None));
        assert_eq!(comments.counts()[&ShareId::of(3)], CommentCount { all: 1, open: 1 });
    }
}
