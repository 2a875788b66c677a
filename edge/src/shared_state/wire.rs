//! What edges say to each other about the log: JSON over the admin listener.
//!
//! ```text
//! GET  /admin/v1/state/changes?log=…&after=…&hash=…&term=…&wait_ms=250   Feed: entries, or that a snapshot is needed
//! GET  /admin/v1/state/snapshot                                           Snapshot
//! POST /admin/v1/state/proposals                                          SentProposal → the entry
//! ```
//!
//! A feed without entries is a heartbeat. Both sides tell their terms: a follower refuses a feed of a lower term than it has seen, and
//! a primary that is shown a higher one writes no more.

use bildkante_shared::ids::Digest;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::change::Change;
use super::fold::{Head, LogId, Row};
use super::log::{Proposal, Snapshot};

/// Below the admin API's prefix.
pub const CHANGES: &str = "state/changes";
pub const SNAPSHOT: &str = "state/snapshot";
pub const PROPOSALS: &str = "state/proposals";
/// Longest wait for a change before a heartbeat, in milliseconds.
pub const WAIT_MS_MAX: u64 = 1_000;
/// Entries of one feed.
pub const FEED_ENTRIES_MAX: usize = 500;

/// What a follower asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub log: LogId,
    /// The last entry that it has, and its hash.
    pub after: u64,
    pub hash: Digest,
    pub term: u64,
    pub wait_ms: u64,
}

/// What a primary answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    pub log: LogId,
    pub term: u64,
    /// Its last entry.
    pub seq: u64,
    /// What the follower has is not part of this log, or too old.
    pub needs_snapshot: bool,
    pub entries: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentSnapshot {
    pub head: Head,
    pub rows: Vec<Row>,
}

/// A change that a follower sends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentProposal {
    pub change: Change,
    pub who: String,
    pub why: String,
    pub key: String,
    pub edge: String,
    /// The latest term that the follower has seen.
    pub term: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentCommitted {
    pub entry: Value,
    pub is_new: bool,
}

impl Ask {
    #[must_use]
    pub fn query(&self) -> String {
        let Self { log, after, hash, term, wait_ms } = self;
        format!("log={log}&after={after}&hash={hash}&term={term}&wait_ms={wait_ms}")
    }

    /// # Errors
    /// Names the parameter that is missing or has another form.
    pub fn parse(query: &str) -> Result<Self, &'static str> {
        let value = |name: &'static str| {
            let found = query.split('&').find_map(|pair| pair.split_once('=').filter(|(known, _)| *known == name));
            let value = found.map(|(_, value)| percent_decode_str(value).decode_utf8()).ok_or(name)?;
            value.map_err(|_| name)
        };
        let number = |name: &'static str| value(name)?.parse::<u64>().map_err(|_| name);
        Ok(Self {
            log: value("log")?.as_ref().into(),
            after: number("after")?,
            hash: value("hash")?.parse().map_err(|_| "hash")?,
            term: number("term")?,
            wait_ms: number("wait_ms")?.min(WAIT_MS_MAX),
        })
    }
}

impl From<Snapshot> for SentSnapshot {
    fn from(Snapshot { head, rows }: Snapshot) -> Self {
        Self { head, rows }
    }
}

impl From<SentProposal> for Proposal {
    fn from(sent: SentProposal) -> Self {
        let SentProposal { change, who, why, key, edge, .. } = sent;
        Self { change, who, why, key: Some(key), edge: Some(edge) }
    }
}
