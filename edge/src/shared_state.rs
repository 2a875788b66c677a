//! What every edge of a fleet agrees on: one ordered log of changes, the state that it amounts to, and how both get here.
//!
//! | module | owns |
//! | --- | --- |
//! | `change` | what may be changed; a new kind of change begins there |
//! | `reviews` | cases before reviewers, and what is live of them |
//! | `target`, `kills` | what a kill names, and whether one covers a picture |
//! | `keys` | keys of people and programs, and what each may do |
//! | `shares` | links that show pictures to people without an account |
//! | `entry` | one entry, which is one line of the audit: hash-chained, and made in one way only |
//! | `actor` | pseudonymous ids, and the names behind them, which can be erased |
//! | `fold`, `purged` | the state: a pure fold of entries, and the purges in it |
//! | `log` | the trait of a log, and the published state |
//! | `store` | a log's tables on the device |
//! | `primary` | a log whose entries this edge numbers |
//! | `heard` | how old what a follower knows is |
//! | `holds` | kills that hold here before they are in the log |
//! | `served` | what a primary answers those who follow it |
//! | `follower`, `link`, `wire` | a log that another edge numbers: followed, and sent changes on to |
//! | `offline` | a log whose edge does not run: checked, or put back from a backup |
//! | `config` | which of the two an edge has |
//!
//! ```text
//! Proposal ─▶ Log::propose ─▶ State::admit ─▶ Entry ─▶ State::apply ─▶ one commit: entry and rows ─▶ Published
//!                                                                             request path, front ◀──┘
//! ```
//!
//! Invariants
//! - The request path reads a published [`State`], never a store: one pointer load, no lock, no wait.
//! - Only entries change a state, and an entry is the audit's line: a change without its line cannot be committed.
//! - The fold is the same on every edge: no clock, no configuration and no order but the log's decides.
//! - What may be shown is decided above, in `governance`; this room knows no picture and no cache.

mod actor;
mod change;
mod config;
mod entry;
mod fold;
mod follower;
mod heard;
#[cfg(test)]
mod histories;
mod holds;
mod keys;
mod kills;
mod link;
mod log;
pub mod offline;
mod primary;
mod purged;
mod reviews;
pub mod served;
mod shares;
mod splits;
mod store;
mod target;
pub mod wire;

pub use actor::{ACTOR_BYTES_MAX, ActorId};
pub use change::{
    Change, Effect, FirstApprovals, Forget, Kill, Lift, PurgeKind, PurgeMarks, PurgeReach, PurgeScope, Term,
    WHY_BYTES_MAX,
};
pub use config::{OpenError, OpenedLog, StateConfig};
pub use entry::{Chain, ChainFault, ENTRY_BYTES_MAX, Entry, EntryFault};
pub use fold::{Head, LogId, Refusal, Row, RowFault, Shelf, State};
pub use follower::Follower;
pub use keys::{
    ACCESS_KEYS_MAX, AccessKey, AccessKeys, EVERY_CAMPAIGN, GrantFault, Grants, KEY_NAME_BYTES_MAX, KeptKey, KeyId,
    PersonRole, Revoke,
};
pub use kills::{Facts, Kills, Reason};
pub use link::{FollowConfig, LinkError};
pub use log::{
    Committed, Entries, KEY_BYTES_MAX, Log, LogError, NotPrimary, Promotion, Proposal, Published, Role, Snapshot,
    Standing,
};
pub use primary::{EDGE_ITSELF, Primary};
pub use purged::PurgedAt;
pub use reviews::{
    Case, CaseState, Drawn, GATE_VERSION_BYTES_MAX, GateFinding, GateReport, GateVerdict, Pin, Review, ReviewRefusal,
    Reviews, Since, Step, UNDO_MS_MAX, Undone, Verdict, was_last_awaited, was_live,
};
pub use shares::{
    EndShare, KeptShare, SHARE_TITLE_BYTES_MAX, SHARED_PICTURE_BYTES_MAX, SHARED_PICTURES_MAX, SHARES_MAX, Share,
    ShareId, ShareIdFault, ShareRefusal, SharedPicture, Shares,
};
pub use splits::{Merge, SPLITS_MAX, Split, Splits};
pub use target::{TARGET_BYTES_MAX, Target, TargetError, TargetKind};
