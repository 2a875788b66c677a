//! The ordered log: what its implementations have in common, and what those who change and follow it see.
//!
//! | implementation | where its entries are |
//! | --- | --- |
//! | [`Primary`](super::Primary) | in a database of this edge, which numbers them |
//! | [`Follower`](super::Follower) | at a primary, which it follows and sends changes on to |
//!
//! Nothing of a database and nothing of HTTP is seen through the trait.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use bildkante_shared::problem::Problem;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::change::{Change, Effect};
use super::entry::{ChainFault, Entry, EntryFault};
use super::fold::{Head, Refusal, Row, RowFault, State};
use super::holds::{Hold, Holds};
use super::reviews::ReviewRefusal;
use super::target::Target;
use crate::state::StateError;
use crate::words::Epoch;

/// Longest key of an order, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// An ordered log of changes and the state they amount to.
pub trait Log: Debug + Send + Sync {
    /// Enters a change behind all others. It is durable when this returns, and published here. The work goes on where the
    /// caller stops waiting.
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, LogError>>;

    /// The same for several, in their order and in one commit: all or none. For orders in bulk.
    fn propose_all(&self, proposals: Vec<Proposal>) -> BoxFuture<'_, Result<Vec<Committed>, LogError>>;

    /// Entries behind `after`, in order and at most so many; fewer where there are no more.
    fn entries(&self, after: u64, count_max: usize) -> BoxFuture<'_, Result<Entries, LogError>>;

    /// The state as of one moment, for who has none or is too far behind.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, LogError>>;

    /// This edge, as its entries name it.
    fn edge(&self) -> &str;

    /// The published state.
    fn published(&self) -> &Published;

    fn standing(&self) -> Standing;

    /// Makes this edge the primary, in a new term. An order that is repeated with its key begins no second one.
    fn promote(&self, key: Option<String>) -> BoxFuture<'_, Result<Promotion, LogError>>;

    /// Someone shows a later term: whoever was primary before it writes no more.
    fn fence(&self, term: u64);

    /// Signed heads of the log, by their numbers: a tail that was cut off shows against them.
    fn checkpoints(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, LogError>>;

    /// Keeps a head that was signed.
    fn keep_checkpoint(&self, seq: u64, signed: String) -> BoxFuture<'_, Result<(), LogError>>;

    /// Erases the name behind an actor's id. `false` where there is none, and no order with this key erased one.
    fn forget(
        &self,
        name: String,
        by: String,
        why: String,
        key: Option<String>,
    ) -> BoxFuture<'_, Result<bool, LogError>>;

    /// The name behind an actor's id, where it is known and was not erased.
    fn name_of(&self, actor: super::ActorId) -> Option<String>;
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub change: Change,
    /// The name of the actor; it stands in no entry.
    pub who: String,
    pub why: String,
    /// A repeated order has the same key, and becomes no second entry.
    pub key: Option<String>,
    /// The edge that asks; `None`: this one.
    pub edge: Option<String>,
}

/// A change that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub entry: Arc<Entry>,
    /// Whether this order made the entry; it may have been there.
    pub is_new: bool,
}

/// Entries in order.
#[derive(Debug, Clone)]
pub enum Entries {
    These(Vec<Arc<Entry>>),
    /// What was asked for is no longer, or not, in this log: take a snapshot.
    Elsewhere,
}

/// A state as rows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub head: Head,
    pub rows: Vec<Row>,
}

/// What an edge is to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    /// It was primary, and a later term has begun elsewhere: it writes no more.
    Fenced,
    Follower,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Fenced => "fenced",
            Self::Follower => "follower",
        }
    }
}

/// Where an edge stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    pub head: Head,
    /// How long nothing has been heard of the primary; zero on a primary.
    pub age: Duration,
    /// The entry before the first that is here.
    pub begins: u64,
    /// Kills that hold here and are not in the log yet.
    pub held: usize,
    /// Why the primary cannot be followed now.
    pub trouble: Option<String>,
}

/// What a promotion came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The first entry of the new term.
    pub head: Head,
    /// The last entry that was taken over from the former primary.
    pub taken_over: u64,
    /// How long before that primary had been heard last: what it committed since then is missing.
    pub silence: Duration,
}

/// Why a log did not take or give something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the key `{key}` belongs to another order, which became entry {seq}")]
    KeyReused { key: String, seq: u64 },
    #[error(transparent)]
    Entry(#[from] EntryFault),
    #[error(transparent)]
    Rows(#[from] RowFault),
    #[error(transparent)]
    Chain(#[from] ChainFault),
    #[error(transparent)]
    Store(Arc<StateError>),
    #[error("this edge is no longer primary: term {term} has begun elsewhere")]
    Fenced { term: u64 },
    #[error("the primary cannot be reached: {reason}")]
    Away { reason: String },
    #[error("the primary refuses: {reason}")]
    Declined { reason: String },
    /// The primary's own refusal of the change, to be told as it told it.
    #[error("{}", .0.detail)]
    Relayed(Box<Problem>),
    #[error("{0}")]
    NotPrimary(NotPrimary),
    #[error(
        "the primary's log of term {term} ends at entry {theirs} and is not the one that this edge has up to entry {seq}: it lost \
         entries, or two edges were promoted in one term. Promote the edge with the highest entry"
    )]
    Diverged { term: u64, seq: u64, theirs: u64 },
    /// The kill is in force on this edge and on no other.
    #[error("`{target}` is withheld on this edge, and sent on when the primary can be reached: {reason}")]
    HeldHere { target: Target, reason: String },
    #[error("its term is {term}, and term {seen} has begun: it is a former primary")]
    LowerTerm { term: u64, seen: u64 },
    #[error(
        "this edge has a log of its own with {entries} entries, which following another would lose: move `state.redb` away to \
         follow it"
    )]
    OwnLog { entries: u64 },
    #[error("it is the primary already, of term {term}")]
    AlreadyPrimary { term: u64 },
    #[error(
        "this edge has never heard {primary} and may have nothing of its log: promote one that has. To begin without it, take \
         `state.follow` out of the configuration"
    )]
    NeverFollowed { primary: String },
    #[error("the system gives no random bits")]
    Random,
    #[error("the writing task panicked")]
    Panicked,
}

/// Why an edge is not asked for what a primary answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPrimary {
    #[error("this edge follows another one: ask the primary itself")]
    Follows,
    #[error("this edge was primary until term {until}, and a later one has begun: ask its primary")]
    Former { until: u64 },
}

impl LogError {
    /// For problems, logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::KeyReused { .. } => "key-reused",
            Self::Entry(_) => "entry-refused",
            Self::Chain(_) => "entry-out-of-order",
            Self::HeldHere { .. } => "held-here",
            Self::LowerTerm { .. } => "lower-term",
            Self::OwnLog { .. } => "own-log",
            Self::Rows(_) => "state-unreadable",
            Self::Store(_) => "not-stored",
            Self::Fenced { .. } => "fenced",
            Self::Away { .. } => "primary-away",
            Self::Declined { .. } | Self::Relayed(_) => "primary-refuses",
            Self::NotPrimary(_) => "not-primary",
            Self::Diverged { .. } => "diverged",
            Self::NeverFollowed { .. } => "never-followed",
            Self::AlreadyPrimary { .. } => "already-primary",
            Self::Random | Self::Panicked => "internal",
        }
    }

    /// Whether a problem of this kind is about the change that was asked for.
    pub(super) fn is_of_change(kind: &str) -> bool {
        ["refused", "key-reused", "entry-refused", "not-stored"].contains(&kind)
    }

    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(
                Refusal::NotKilled { .. } | Refusal::NoSuchKey { .. } | Refusal::Review(ReviewRefusal::Unknown),
            ) => 404,
            Self::Refused(Refusal::KeyNameTaken { .. } | Refusal::TooManyKeys) => 409,
            Self::Refused(Refusal::Review(refusal)) if refusal.is_of_the_moment() => 409,
            Self::Refused(_) | Self::Entry(_) | Self::KeyReused { .. } => 422,
            Self::Store(_) => 507,
            Self::HeldHere { .. } => 202,
            Self::Fenced { .. }
            | Self::AlreadyPrimary { .. }
            | Self::LowerTerm { .. }
            | Self::OwnLog { .. }
            | Self::NotPrimary(_)
            | Self::NeverFollowed { .. }
            | Self::Diverged { .. } => 409,
            Self::Relayed(problem) => problem.status,
            Self::Away { .. } => 503,
            Self::Declined { .. } => 502,
            Self::Rows(_) | Self::Chain(_) | Self::Random | Self::Panicked => 500,
        }
    }
}

impl From<StateError> for LogError {
    fn from(error: StateError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// The state that is in force here. Clones publish to and read from the same.
#[derive(Debug, Clone)]
pub struct Published {
    current: Arc<ArcSwap<State>>,
    seq: watch::Sender<u64>,
    /// What was answered before may have to be answered otherwise.
    epoch: Epoch,
    /// Whether what is published is older than this edge may take for current.
    is_stale: Arc<AtomicBool>,
    /// What holds here alone. One publisher at a time: none of it may be lost between two of them.
    holds: Arc<parking_lot::Mutex<Holds>>,
}

impl Published {
    #[must_use]
    pub fn new(state: State, epoch: Epoch) -> Self {
        let seq = watch::Sender::new(state.epoch());
        let current = Arc::new(ArcSwap::from_pointee(state));
        Self { current, seq, epoch, is_stale: Arc::default(), holds: Arc::default() }
    }

    /// The request path: no lock, no wait.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<State>> {
        self.current.load()
    }

    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Tells of each published entry's number.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.seq.subscribe()
    }

    /// Whether what is published is older than this edge may take for current.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    /// A change of this changes what is answered.
    pub(super) fn set_stale(&self, is_stale: bool) {
        if self.is_stale.swap(is_stale, Ordering::AcqRel) != is_stale {
            self.epoch.advance();
        }
    }

    /// From here on no look-up sees the state before. What holds here alone goes on to hold.
    pub(super) fn publish(&self, state: State, effect: Effect) {
        let holds = self.holds.lock();
        self.put(state.holding(holds.kills()), effect);
    }

    /// Withholds a kill's target here at once, before the kill is in the log, until the hold is let go.
    pub(super) fn hold(&self, target: &Target) -> Hold {
        let mut holds = self.holds.lock();
        let hold = holds.take(target);
        self.put(State::clone(&self.current.load()).holding(holds.kills()), Effect::Shown);
        hold
    }

    pub(super) fn let_go(&self, hold: &Hold) {
        let mut holds = self.holds.lock();
        if holds.let_go(hold) {
            self.put(State::clone(&self.current.load()).holding(holds.kills()), Effect::Shown);
        }
    }

    fn put(&self, state: State, effect: Effect) {
        let seq = state.epoch();
        self.current.store(Arc::new(state));
        // Behind the store: an answer that is begun from here on sees what was published.
        if effect == Effect::Shown {
            self.epoch.advance();
        }
        self.seq.send_replace(seq);
    }
}
