//! One entry of the log, which is one line of the audit: who changed what, when and why, and what stood before.
//!
//! Each entry bears a BLAKE3 hash over its canonical JSON (RFC 8785), in which the hash of the entry before it stands. So no
//! entry can be edited, removed or moved without breaking the chain behind it; a tail that was cut off shows against a signed
//! checkpoint.
//!
//! Invariants: an entry is made by [`Entry::follow`] from a state, for a change that the state admitted, or read by
//! [`Entry::parse`] with a hash that holds. There is no other way to have one, and only entries change a state: a change without
//! its line cannot be written.

use bildkante_shared::ids::Digest;
use serde::{Deserialize, Serialize};

use super::actor::ActorId;
use super::change::Change;

/// The form of entries that this build writes.
pub(super) const ENTRY_VERSION: u8 = 1;
/// Longest entry as JSON, in bytes.
pub const ENTRY_BYTES_MAX: usize = 512 << 10;
/// Before what is hashed: a hash of an entry is none of anything else.
const DOMAIN: &[u8] = b"bildkante audit entry\n";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    form: Form,
    hash: Digest,
}

/// All but the hash, in the order in which it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u8,
    seq: u64,
    term: u64,
    at_unix_ms: u64,
    actor: ActorId,
    why: String,
    change: Change,
    /// What stood before, in words of the change's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// By which a repeated order is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The edge that asked for it.
    edge: String,
    previous: Digest,
}

#[derive(Deserialize)]
struct Line {
    hash: Digest,
    #[serde(flatten)]
    form: serde_json::Map<String, serde_json::Value>,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    #[error("an entry has at most {ENTRY_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is no entry of the log: {reason}")]
    Form { reason: String },
    #[error(
        "entry {seq} is of version {version}, this build reads {ENTRY_VERSION}: it was written by a newer one, which this edge \
         needs too"
    )]
    Version { seq: u64, version: u64 },
    #[error(
        "entry {seq} holds what version {ENTRY_VERSION} of the log has no meaning for ({reason}): it was written by a newer build, \
         which this edge needs too"
    )]
    Unknown { seq: u64, reason: String },
    #[error("entry {seq} is not what its hash says")]
    Hash { seq: u64 },
}

/// What an entry is made of beside the change.
#[derive(Debug, Clone)]
pub(super) struct Circumstances {
    pub(super) at_unix_ms: u64,
    pub(super) actor: ActorId,
    pub(super) why: String,
    pub(super) before: Option<String>,
    pub(super) key: Option<String>,
    pub(super) edge: String,
}

/// The place of an entry in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) term: u64,
    /// The hash of the entry before.
    pub(super) previous: Digest,
}

impl Entry {
    pub(super) fn follow(place: Place, change: Change, circumstances: Circumstances) -> Result<Self, EntryFault> {
        let Circumstances { at_unix_ms, actor, why, before, key, edge } = circumstances;
        let Place { seq, term, previous } = place;
        let version = ENTRY_VERSION;
        let form = Form { version, seq, term, at_unix_ms, actor, why, change, before, key, edge, previous };
        let hash = form.hash()?;
        let entry = Self { form, hash };
        if entry.to_json().len() > ENTRY_BYTES_MAX { Err(EntryFault::TooLong) } else { Ok(entry) }
    }

    /// # Errors
    /// When it is no entry, one that this build cannot read, or not what its hash says.
    pub fn parse(json: &[u8]) -> Result<Self, EntryFault> {
        if json.len() > ENTRY_BYTES_MAX {
            return Err(EntryFault::TooLong);
        }
        let told = |error: serde_json::Error| EntryFault::Form { reason: error.to_string() };
        let Line { hash, form } = serde_json::from_slice(json).map_err(told)?;
        let number = |name: &str| form.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
        let (seq, version) = (number("seq"), number("version"));
        if version > u64::from(ENTRY_VERSION) {
            return Err(EntryFault::Version { seq, version });
        }
        let form: Form = serde_json::from_value(form.into())
            .map_err(|error| EntryFault::Unknown { seq, reason: error.to_string() })?;
        if form.hash()? == hash { Ok(Self { form, hash }) } else { Err(EntryFault::Hash { seq }) }
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.to_value()).unwrap_or_default()
    }

    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(&self.form).unwrap_or_default();
        value["hash"] = serde_json::Value::String(self.hash.to_string());
        value
    }

    /// Its number: 1 for the first of a log, and one more for each that follows.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.form.seq
    }

    #[must_use]
    pub const fn term(&self) -> u64 {
        self.form.term
    }

    #[must_use]
    pub const fn at_unix_ms(&self) -> u64 {
        self.form.at_unix_ms
    }

    #[must_use]
    pub const fn actor(&self) -> ActorId {
        self.form.actor
    }

    #[must_use]
    pub fn why(&self) -> &str {
        &self.form.why
    }

    #[must_use]
    pub const fn change(&self) -> &Change {
        &self.form.change
    }

    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.form.before.as_deref()
    }

    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.form.key.as_deref()
    }

    #[must_use]
    pub fn edge(&self) -> &str {
        &self.form.edge
    }

    #[must_use]
    pub const fn previous(&self) -> &Digest {
        &self.form.previous
    }

    #[must_use]
    pub const fn hash(&self) -> &Digest {
        &self.hash
    }
}

impl Form {
    fn hash(&self) -> Result<Digest, EntryFault> {
        let canonical = serde_json_canonicalizer::to_vec(self);
        let canonical = canonical.map_err(|error| EntryFault::Form { reason: error.to_string() })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN).update(&canonical);
        Ok(Digest::from_hash(&hasher.finalize()))
    }
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    #[error("behind entry {after} comes entry {found}: what lay between is missing")]
    Gap { after: u64, found: u64 },
    #[error("entry {seq} does not follow the entry before it: one of them was replaced")]
    Link { seq: u64 },
    #[error("entry {seq} is of term {term}, behind one of term {after}")]
    Term { seq: u64, term: u64, after: u64 },
}

/// Follows a chain, entry by entry.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    seq: u64,
    term: u64,
    hash: Digest,
}

impl Chain {
    /// Behind an entry: what follows must follow it.
    #[must_use]
    pub const fn behind(seq: u64, term: u64, hash: Digest) -> Self {
        Self { seq, term, hash }
    }

    /// # Errors
    /// When the entry is not the next one.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), ChainFault> {
        if entry.seq() != self.seq + 1 {
            return Err(ChainFault::Gap { after: self.seq, found: entry.seq() });
        }
        if *entry.previous() != self.hash {
            return Err(ChainFault::Link { seq: entry.seq() });
        }
        if entry.term() < self.term {
            return Err(ChainFault::Term { seq: entry.seq(), term: entry.term(), after: self.term });
        }
        *self = Self { seq: entry.seq(), term: entry.term(), hash: *entry.hash() };
        Ok(())
    }

    /// The last entry's number and hash.
    #[must_use]
    pub const fn head(&self) -> (u64, Digest) {
        (self.seq, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::{Kill, Lift};
    use super::*;

    fn chain(count: u64) -> Vec<Entry> {
        let mut previous = Digest::from_raw([0; 32]);
        let mut entries = Vec::new();
        for seq in 1..=count {
            let target: super::super::Target = format!("campaign:c{seq}").parse().unwrap();
            let change =
                if seq.is_multiple_of(2) { Change::Lift(Lift { target }) } else { Change::Kill(Kill { target }) };
            let circumstances = Circumstances {
                at_unix_ms: 1_700_000_000_000 + seq,
                actor: ActorId::EDGE,
                why: format!("reason {seq} ≠ “x”"),
                before: None,
                key: None,
                edge: "edge".to_owned(),
            };
            let entry = Entry::follow(Place { seq, term: 1, previous }, change, circumstances).unwrap();
            previous = *entry.hash();
            entries.push(entry);
        }
        entries
    }

    fn verify(entries: &[Entry]) -> Result<(), ChainFault> {
        let mut chain = Chain::behind(0, 0, Digest::from_raw([0; 32]));
        entries.iter().try_for_each(|entry| chain.follow(entry))
    }

    #[test]
    fn an_entry_reads_as_it_was_written_and_no_other_way() {
        let entry = chain(1).remove(0);
        let json = entry.to_json();
        assert_eq!(Entry::parse(json.as_bytes()), Ok(entry.clone()));
        for (from, to) in [("reason 1", "reason 2"), ("\"term\":1", "\"term\":2"), ("campaign:c1", "campaign:c2")] {
            assert_eq!(Entry::parse(json.replacen(from, to, 1).as_bytes()), Err(EntryFault::Hash { seq: 1 }), "{from}");
        }
        let newer = json.replacen("\"version\":1", "\"version\":2", 1);
        assert_eq!(Entry::parse(newer.as_bytes()), Err(EntryFault::Version { seq: 1, version: 2 }));
        for unknown in [json.replacen("\"kind\":\"kill\"", "\"kind\":\"pin\"", 1), json.replacen("{", "{\"x\":1,", 1)] {
            let error = Entry::parse(unknown.as_bytes()).unwrap_err();
            assert!(matches!(error, EntryFault::Unknown { seq: 1, .. }), "{error}");
            assert!(error.to_string().contains("version 1 of the log"), "{error}");
        }
        assert_eq!(Entry::parse(&vec![b' '; ENTRY_BYTES_MAX + 1]), Err(EntryFault::TooLong));
    }

    #[test]
    fn what_was_removed_swapped_or_replaced_is_found() {
        let entries = chain(6);
        assert_eq!(verify(&entries), Ok(()));
        for at in 0..entries.len() - 1 {
            let mut removed = entries.clone();
            removed.remove(at);
            assert!(matches!(verify(&removed), Err(ChainFault::Gap { .. })), "{at}");
            let mut swapped = entries.clone();
            swapped.swap(at, at + 1);
            assert!(verify(&swapped).is_err(), "{at}");
        }
        let mut other = chain(6);
        let forged = Circumstances {
            at_unix_ms: 1,
            actor: ActorId::EDGE,
            why: "forged".to_owned(),
            before: None,
            key: None,
            edge: String::new(),
        };
        let place = Place { seq: 3, term: 1, previous: *entries[2].previous() };
        other[2] = Entry::follow(place, entries[2].change().clone(), forged).unwrap();
        assert_eq!(verify(&other), Err(ChainFault::Link { seq: 4 }));
    }
}
