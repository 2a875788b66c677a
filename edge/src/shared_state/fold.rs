//! The state that a log amounts to: a pure fold of its entries, the same on every edge.
//!
//! A [`State`] never changes once it is published. The next one is a copy that shares all but some paths of its maps with the last,
//! so that a change costs the same whatever is in force. What an entry changes is told as [`Row`]s, too: a store writes them in
//! the commit of their entry, a snapshot is all of them, and [`State::restore`] reads either.
//!
//! Invariants: no clock, no configuration and no other state decides here; [`State::apply`] cannot fail, because what has no place is
//! refused by [`State::admit`] before there is an entry.

use std::sync::Arc;

use bildkante_shared::ids::{Digest, RecipeId};
use rpds::{HashTrieMapSync, QueueSync};
use serde::{Deserialize, Serialize};

use super::actor::ActorId;
use super::change::{Change, FirstApprovals, PURGE_KEYS_MAX, PurgeMarks, WHY_BYTES_MAX};
use super::entry::{Chain, ChainFault, Entry};
use super::keys::{ACCESS_KEYS_MAX, AccessKey, AccessKeys, KEY_NAME_BYTES_MAX, KeptKey, KeyId};
use super::kills::{Facts, Kills};
use super::primary::EDGE_ITSELF;
use super::purged::PurgedAt;
use super::reviews::{Case, Review, ReviewRefusal, Reviews, Step};
use super::shares::{KeptShare, ShareRefusal, Shares};
use super::splits::{SPLITS_MAX, Splits};
use super::target::Target;

type Map<K, V> = HashTrieMapSync<K, V, ahash::RandomState>;

/// Keys of orders that are known again, the latest.
const KEYS_MAX: usize = 10_000;
/// Marks of purges that are kept apart for edges that join; past them everything they hold is older.
const PURGES_MAX: usize = 10_000;
const EVERYTHING: &str = "*";

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct State {
    /// The identity of the log: entries of another one have nothing to do with these.
    log: LogId,
    chain: Chain,
    term: u64,
    at_unix_ms: u64,
    kills: Kills,
    /// In force on this edge, and not in the log yet.
    held: Kills,
    access: AccessKeys,
    reviews: Reviews,
    splits: Splits,
    shares: Shares,
    purges: Map<Box<str>, PurgedAt>,
    keys: Map<Box<str>, u64>,
    /// The keys, the oldest first.
    keys_in_order: QueueSync<Box<str>>,
    keys_count: usize,
}

/// 128 random bits in 26 characters.
pub type LogId = Box<str>;

/// What an entry changes of the stored state, and what a snapshot is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub shelf: Shelf,
    pub key: String,
    /// `None`: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The kinds of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shelf {
    /// Target → sequence number.
    Kills,
    /// Key → sequence numbers.
    Purges,
    /// Key of an order → sequence number.
    Keys,
    /// Id of a person's or a program's key → the key and its sequence number.
    Access,
    /// Variant → its cases.
    Reviews,
    /// Picture → sequence number.
    Splits,
    /// Id of a link → the link and its sequence number.
    Shares,
}

impl Shelf {
    pub const ALL: [Self; 7] =
        [Self::Kills, Self::Purges, Self::Keys, Self::Access, Self::Reviews, Self::Splits, Self::Shares];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Purges => "purges",
            Self::Keys => "keys",
            Self::Access => "access",
            Self::Reviews => "reviews",
            Self::Splits => "splits",
            Self::Shares => "shares",
        }
    }
}

/// Why a change has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("`{target}` is not killed")]
    NotKilled { target: Target },
    #[error("a reason is missing: `why` says why {subject} is changed")]
    NoReason { subject: String },
    #[error("a reason has at most {WHY_BYTES_MAX} bytes and no control character")]
    Reason,
    #[error("a purge names at most {PURGE_KEYS_MAX} keys and tags")]
    TooManyPurgeKeys,
    #[error(transparent)]
    Review(#[from] ReviewRefusal),
    #[error(transparent)]
    Share(#[from] ShareRefusal),
    #[error("term {term} does not follow term {current}")]
    Term { term: u64, current: u64 },
    #[error(
        "a key's name has 1 to {KEY_NAME_BYTES_MAX} bytes without blanks at its ends and control characters, and is not `{EDGE_ITSELF}`"
    )]
    KeyName,
    #[error("there is a key `{name}` already: revoke it first, or choose another name")]
    KeyNameTaken { name: String },
    #[error("there are {ACCESS_KEYS_MAX} keys already: revoke those that have expired")]
    TooManyKeys,
    #[error("there is no key `{id}`")]
    NoSuchKey { id: KeyId },
    #[error("a picture is named `campaign/slot?axis=value&…`, in at most 2048 bytes")]
    PictureName,
    #[error("{SPLITS_MAX} pictures are split already: merge some of them again")]
    TooManySplits,
    #[error("`{variant}` is not split")]
    NotSplit { variant: String },
}

/// Why rows are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the row {key} of `{shelf}` is not one this build can read: {reason}")]
pub struct RowFault {
    pub shelf: String,
    pub key: String,
    pub reason: String,
}

/// Where a state stands in its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub log: LogId,
    pub seq: u64,
    pub term: u64,
    pub hash: Digest,
    pub at_unix_ms: u64,
}

impl Head {
    /// Before a log's first entry.
    #[must_use]
    pub fn begin(log: LogId) -> Self {
        Self { log, seq: 0, term: 0, hash: Digest::from_raw([0; 32]), at_unix_ms: 0 }
    }
}

impl State {
    /// A state of nothing: before a log's first entry.
    #[must_use]
    pub fn empty(log: LogId) -> Self {
        Self::at(Head::begin(log))
    }

    fn at(head: Head) -> Self {
        let Head { log, seq, term, hash, at_unix_ms } = head;
        Self {
            log,
            chain: Chain::behind(seq, term, hash),
            term,
            at_unix_ms,
            kills: Kills::default(),
            held: Kills::default(),
            access: AccessKeys::default(),
            reviews: Reviews::default(),
            splits: Splits::default(),
            shares: Shares::default(),
            purges: Map::default(),
            keys: Map::default(),
            keys_in_order: QueueSync::new_sync(),
            keys_count: 0,
        }
    }

    /// The state that these rows are, all of them.
    ///
    /// # Errors
    /// When one of them cannot be read. A kill that was not understood must not be forgotten without a word.
    pub fn restore(head: Head, rows: impl IntoIterator<Item = Row>) -> Result<Self, RowFault> {
        let mut state = Self::at(head);
        let mut keys = Vec::new();
        for row in rows {
            let fault =
                |reason: String| RowFault { shelf: row.shelf.as_str().to_owned(), key: row.key.clone(), reason };
            let value = row.value.as_deref().unwrap_or_default();
            let seq = || value.parse::<u64>().map_err(|error| fault(error.to_string()));
            match row.shelf {
                Shelf::Kills => {
                    let target: Target = row.key.parse().map_err(|error| fault(format!("{error}")))?;
                    state.kills.put(&target, seq()?);
                }
                Shelf::Purges => {
                    let purged = serde_json::from_str(value).map_err(|error| fault(error.to_string()))?;
                    state.purges.insert_mut(row.key.into(), purged);
                }
                Shelf::Keys => keys.push((seq()?, row.key)),
                Shelf::Access => {
                    let kept: KeptKey = serde_json::from_str(value).map_err(|error| fault(error.to_string()))?;
                    if kept.key.id().to_string() != row.key {
                        return Err(fault("it is another key's".to_owned()));
                    }
                    state.access.put(kept);
                }
                Shelf::Splits => state.splits.put(&row.key, seq()?),
                Shelf::Reviews => {
                    let cases: Vec<Case> = serde_json::from_str(value).map_err(|error| fault(error.to_string()))?;
                    state.reviews.put(row.key.into(), cases.into());
                }
                Shelf::Shares => {
                    let kept: KeptShare = serde_json::from_str(value).map_err(|error| fault(error.to_string()))?;
                    if kept.share.id.to_string() != row.key {
                        return Err(fault("it is another link's".to_owned()));
                    }
                    state.shares.put(kept);
                }
            }
        }
        keys.sort_unstable();
        keys.into_iter().for_each(|(seq, key)| state.remember(key.into(), seq));
        Ok(state)
    }

    /// All rows: what a snapshot hands over.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let kills = self.kills.each().map(|(target, seq)| row(Shelf::Kills, target.to_string(), &seq));
        let purges = self.purges.iter().map(|(key, purged)| row(Shelf::Purges, key.to_string(), purged));
        let keys = self.keys.iter().map(|(key, seq)| row(Shelf::Keys, key.to_string(), seq));
        let access = self.access.each().map(|kept| row(Shelf::Access, kept.key.id().to_string(), &**kept));
        let cases = self.reviews.variants().map(|(variant, cases)| row(Shelf::Reviews, variant.to_owned(), &cases));
        let splits = self.splits.each().map(|(picture, seq)| row(Shelf::Splits, picture.to_owned(), &seq));
        let shares = self.shares.each().map(|kept| row(Shelf::Shares, kept.share.id.to_string(), &**kept));
        kills.chain(purges).chain(keys).chain(access).chain(cases).chain(splits).chain(shares)
    }

    #[must_use]
    pub fn head(&self) -> Head {
        let (seq, hash) = self.chain.head();
        Head { log: self.log.clone(), seq, term: self.term, hash, at_unix_ms: self.at_unix_ms }
    }

    /// The number of the last entry, which names this state.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.chain.head().0
    }

    #[must_use]
    pub const fn term(&self) -> u64 {
        self.term
    }

    #[must_use]
    pub const fn log(&self) -> &LogId {
        &self.log
    }

    /// The same state under the identity of another log.
    pub(super) fn renamed(self, log: LogId) -> Self {
        Self { log, ..self }
    }

    #[must_use]
    pub const fn kills(&self) -> &Kills {
        &self.kills
    }

    /// Keys of people and programs, expired ones among them.
    #[must_use]
    pub const fn access(&self) -> &AccessKeys {
        &self.access
    }

    /// Kills that hold here and are not in the log yet.
    #[must_use]
    pub const fn held(&self) -> &Kills {
        &self.held
    }

    #[must_use]
    pub const fn reviews(&self) -> &Reviews {
        &self.reviews
    }

    /// Pictures that share no other's master, because people split them.
    #[must_use]
    pub const fn splits(&self) -> &Splits {
        &self.splits
    }

    /// Links for people without an account, some that are over among them.
    #[must_use]
    pub const fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The recipes of pictures before reviewers that a kill of this target covers.
    #[must_use]
    pub fn recipes_of(&self, target: &Target) -> Vec<RecipeId> {
        let of_target = Kills::of_one(target);
        let covers = |variant: &str, case: &Case| covers(&of_target, variant, case);
        let cases = self.reviews.variants().flat_map(|(variant, cases)| cases.iter().map(move |case| (variant, case)));
        cases.filter(|(variant, case)| covers(variant, case)).map(|(_, case)| case.recipe).collect()
    }

    /// What was purged, for an edge that joins.
    pub fn purges(&self) -> impl Iterator<Item = (&str, &PurgedAt)> {
        self.purges.iter().map(|(key, purged)| (&**key, purged))
    }

    /// The entry that an order with this key became.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// What holds here alone goes with whatever state is published.
    pub(super) fn holding(self, held: &Kills) -> Self {
        Self { held: held.clone(), ..self }
    }

    /// Whether a change has a place in this state; what stood before it. Its time is that of its entry, and decides nothing.
    ///
    /// # Errors
    /// Says why not.
    pub fn admit(
        &self,
        change: &Change,
        why: &str,
        (actor, at_unix_ms): (ActorId, u64),
    ) -> Result<Option<String>, Refusal> {
        if why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
            return Err(Refusal::Reason);
        }
        let reasoned = || match why.trim() {
            "" => Err(Refusal::NoReason { subject: change.subject() }),
            _ => Ok(()),
        };
        match change {
            Change::Term(next) if next.term > self.term => Ok(Some(format!("term {}", self.term))),
            Change::Term(next) => Err(Refusal::Term { term: next.term, current: self.term }),
            Change::Kill(kill) => {
                reasoned().map(|()| self.kills.of(&kill.target).map(|seq| format!("killed by {seq}")))
            }
            Change::Lift(lift) => {
                reasoned()?;
                let seq = self.kills.of(&lift.target);
                let seq = seq.ok_or_else(|| Refusal::NotKilled { target: lift.target.clone() })?;
                Ok(Some(format!("killed by {seq}")))
            }
            Change::Purge(purge) if purge.keys.len().max(purge.tags.len()) > PURGE_KEYS_MAX => {
                Err(Refusal::TooManyPurgeKeys)
            }
            Change::Review(review) => {
                if review.step.is_reasoned() {
                    reasoned()?;
                }
                let before = self.reviews.admit(review, (actor, at_unix_ms))?;
                self.admit_undo(review)?;
                Ok(before)
            }
            Change::Share(share) => {
                self.shares.admit(share, &self.reviews, at_unix_ms)?;
                Ok(None)
            }
            Change::EndShare(end) => {
                let kept = self.shares.admit_end(end.id)?;
                Ok(Some(format!("{}, until {}", kept.share.slot, kept.share.expires_unix_ms)))
            }
            Change::Split(split) => self.splits.admit_split(split),
            Change::Merge(merge) => self.splits.admit_merge(merge),
            Change::Purge(_) | Change::Forget(_) => Ok(None),
            Change::Key(key) => reasoned().and_then(|()| self.admit_key(key)).map(|()| None),
            Change::Revoke(revoke) => {
                reasoned()?;
                let kept = self.access.get(revoke.id).ok_or(Refusal::NoSuchKey { id: revoke.id })?;
                Ok(Some(format!("{}: {}", kept.key.name, kept.key.roles)))
            }
        }
    }

    /// What was killed since stays as it is: a decision that is taken back must not look as if it brought a picture back.
    fn admit_undo(&self, review: &Review) -> Result<(), ReviewRefusal> {
        let case = self.reviews.of(&review.variant).iter().find(|case| case.is_of(review));
        let Some(case) = case.filter(|_| matches!(review.step, Step::Undo { .. })) else { return Ok(()) };
        let is_killed = covers(&self.kills, &review.variant, case) || covers(&self.held, &review.variant, case);
        if is_killed { Err(ReviewRefusal::Killed) } else { Ok(()) }
    }

    /// No two keys have one name, and none has the name of what no person asked for.
    fn admit_key(&self, key: &AccessKey) -> Result<(), Refusal> {
        if !key.has_sound_name() || key.name == EDGE_ITSELF {
            return Err(Refusal::KeyName);
        }
        if self.access.len() >= ACCESS_KEYS_MAX {
            return Err(Refusal::TooManyKeys);
        }
        let is_taken = self.access.get(key.id()).is_some() || self.access.each().any(|kept| kept.key.name == key.name);
        if is_taken { Err(Refusal::KeyNameTaken { name: key.name.clone() }) } else { Ok(()) }
    }

    /// Takes an entry of another edge's, if it is the next one.
    ///
    /// # Errors
    /// When it does not follow the last.
    pub fn follow(&mut self, entry: &Entry) -> Result<Vec<Row>, ChainFault> {
        let mut chain = self.chain;
        chain.follow(entry)?;
        Ok(self.apply(entry))
    }

    /// Takes the next entry; what it changes of the stored state.
    pub fn apply(&mut self, entry: &Entry) -> Vec<Row> {
        let (seq, head) = (entry.seq(), Chain::behind(entry.seq(), entry.term(), *entry.hash()));
        (self.chain, self.at_unix_ms) = (head, entry.at_unix_ms());
        let mut rows = match entry.change() {
            Change::Term(term) => {
                self.term = term.term;
                match term.first_approvals {
                    FirstApprovals::Stand => Vec::new(),
                    FirstApprovals::TakenBack => rows_of(self.reviews.take_back_first_approvals(|_| true, seq)),
                }
            }
            Change::Kill(kill) => {
                self.kills.put(&kill.target, seq);
                vec![row(Shelf::Kills, kill.target.to_string(), &seq)]
            }
            Change::Lift(lift) => {
                self.kills.remove(&lift.target);
                vec![gone(Shelf::Kills, lift.target.to_string())]
            }
            Change::Purge(purge) => self.purge(purge, seq),
            Change::Review(review) => {
                let cases = self.reviews.apply(review, (seq, entry.at_unix_ms()), entry.actor());
                vec![row(Shelf::Reviews, review.variant.clone(), &*cases)]
            }
            Change::Forget(forget) => {
                rows_of(self.reviews.take_back_first_approvals(|actor| *actor == forget.actor, seq))
            }
            Change::Key(key) => {
                let kept = KeptKey { seq, key: key.clone() };
                let rows = vec![row(Shelf::Access, key.id().to_string(), &kept)];
                self.access.put(kept);
                rows
            }
            Change::Revoke(revoke) => {
                self.access.remove(revoke.id);
                vec![gone(Shelf::Access, revoke.id.to_string())]
            }
            Change::Split(split) => {
                self.splits.put(&split.variant, seq);
                vec![row(Shelf::Splits, split.variant.clone(), &seq)]
            }
            Change::Merge(merge) => {
                self.splits.remove(&merge.variant);
                vec![gone(Shelf::Splits, merge.variant.clone())]
            }
            Change::Share(share) => {
                let over = self.shares.drop_over(entry.at_unix_ms());
                let kept = KeptShare { seq, share: share.clone() };
                let mut rows: Vec<Row> = over.iter().map(|id| gone(Shelf::Shares, id.to_string())).collect();
                rows.push(row(Shelf::Shares, share.id.to_string(), &kept));
                self.shares.put(kept);
                rows
            }
            Change::EndShare(end) => {
                self.shares.remove(end.id);
                vec![gone(Shelf::Shares, end.id.to_string())]
            }
        };
        if let Some(key) = entry.key() {
            rows.extend(self.forget_oldest_key().map(|oldest| gone(Shelf::Keys, oldest)));
            self.remember(key.into(), seq);
            rows.push(row(Shelf::Keys, key.to_owned(), &seq));
        }
        rows
    }

    fn purge(&mut self, purge: &PurgeMarks, seq: u64) -> Vec<Row> {
        let keys: Vec<String> = if self.purges.size() + purge.keys.len() > PURGES_MAX {
            vec![EVERYTHING.to_owned()]
        } else {
            purge.keys.clone()
        };
        let mut rows = Vec::new();
        if keys.iter().any(|key| key == EVERYTHING) {
            // Whoever joins holds nothing that is younger.
            rows.extend(self.purges.keys().map(|key| gone(Shelf::Purges, key.to_string())));
            let all = self.purges.values().copied().reduce(PurgedAt::with).unwrap_or_default();
            self.purges = Map::default();
            self.purges.insert_mut(EVERYTHING.into(), all);
        }
        for key in keys {
            let before = self.purges.get(key.as_str()).copied().unwrap_or_default();
            let purged = before.with(PurgedAt::of(purge.kind, purge.reach, seq));
            rows.push(row(Shelf::Purges, key.clone(), &purged));
            self.purges.insert_mut(key.into(), purged);
        }
        rows
    }

    fn remember(&mut self, key: Box<str>, seq: u64) {
        self.keys.insert_mut(key.clone(), seq);
        self.keys_in_order.enqueue_mut(key);
        self.keys_count += 1;
    }

    fn forget_oldest_key(&mut self) -> Option<String> {
        if self.keys_count < KEYS_MAX {
            return None;
        }
        let oldest = self.keys_in_order.peek()?.clone();
        self.keys_in_order.dequeue_mut();
        self.keys_count -= 1;
        self.keys.remove_mut(&oldest);
        Some(oldest.into())
    }
}

/// Whether one of these kills covers the picture of a case.
fn covers(kills: &Kills, variant: &str, case: &Case) -> bool {
    let (slot, values) = variant.split_once('?').unwrap_or((variant, ""));
    let campaign = slot.split_once('/').map_or(slot, |(campaign, _)| campaign);
    let (recipe, master, parts) = (case.recipe, Some(case.master), Some(&case.drawn.parts));
    kills.reason(&Facts { campaign, slot, values, recipe, master, parts }).is_some()
}

fn rows_of(changed: Vec<(Box<str>, Arc<[Case]>)>) -> Vec<Row> {
    changed.into_iter().map(|(variant, cases)| row(Shelf::Reviews, variant.into(), &*cases)).collect()
}

fn row(shelf: Shelf, key: String, value: &(impl Serialize + ?Sized)) -> Row {
    // Numbers and plain structs have a JSON form.
    Row { shelf, key, value: serde_json::to_string(value).ok() }
}

const fn gone(shelf: Shelf, key: String) -> Row {
    Row { shelf, key, value: None }
}
