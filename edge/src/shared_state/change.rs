//! What may be changed: the one list of kinds, and what each says.
//!
//! A kind is added here, with an arm in [`State::admit`](super::State::admit) and one in the fold, and nowhere else. Kinds and
//! fields are what former versions wrote: none is renamed or removed, a new field has a default. A kind or a field that this build
//! does not know is an error, because an edge that skipped a change would show what others withhold.

use serde::{Deserialize, Serialize};

use super::actor::ActorId;
use super::fold::State;
use super::keys::{AccessKey, Revoke};
use super::reviews::Review;
use super::shares::{EndShare, Share};
use super::splits::{Merge, Split};
use super::target::Target;

/// Most keys or tags of one purge.
pub(super) const PURGE_KEYS_MAX: usize = 1_024;
/// Longest reason that a person gives, in bytes.
pub const WHY_BYTES_MAX: usize = 2_000;

/// One change of the shared state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A primary begins: the first entry of its term.
    Term(Term),
    Kill(Kill),
    Lift(Lift),
    Purge(PurgeMarks),
    Review(Review),
    /// The name behind a pseudonymous actor was erased.
    Forget(Forget),
    /// A key is given.
    Key(AccessKey),
    /// A key is over.
    Revoke(Revoke),
    Split(Split),
    Merge(Merge),
    /// A link shows pictures to people without an account.
    Share(Share),
    /// Such a link is over.
    EndShare(EndShare),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// The number of the term that begins.
    pub term: u64,
    /// How long the former primary had not been heard by the edge that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "FirstApprovals::stand")]
    pub first_approvals: FirstApprovals,
}

/// What becomes of approvals that await a second person's when a term begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstApprovals {
    #[default]
    Stand,
    /// The edge that begins the term does not know the names behind the ids of the former one: the person who approved first would have
    /// another id there, and could approve again.
    TakenBack,
}

impl FirstApprovals {
    /// What an edge does with those of a state that another one, or a former log, made.
    pub(super) fn of_another_edge(state: &State) -> Self {
        if state.reviews().await_second_approvals() { Self::TakenBack } else { Self::Stand }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    const fn stand(&self) -> bool {
        matches!(self, Self::Stand)
    }
}

impl Term {
    /// A term that this edge begins over a state of its own.
    pub(super) const fn of_own(term: u64) -> Self {
        Self { term, silence_ms: None, first_approvals: FirstApprovals::Stand }
    }
}

/// What the target covers is shown no more, anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    pub target: Target,
}

/// A kill is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lift {
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    pub actor: ActorId,
}

/// A purge as every edge puts it in force: against its own generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeMarks {
    pub scope: PurgeScope,
    #[serde(rename = "how")]
    pub kind: PurgeKind,
    pub reach: PurgeReach,
    /// What is marked.
    pub keys: Vec<String>,
    /// What caches further down are told; empty for everything.
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Which the marks are widened to where there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
}

/// What is to be purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", content = "value", rename_all = "snake_case")]
pub enum PurgeScope {
    /// The image a URL stands for, in each format it may be answered with.
    Url(String),
    /// `campaign/slot?axis=value&…`: the picture of these values in all its cuts.
    Variant(String),
    /// As in `Cache-Tag`.
    Tag(String),
    Campaign(String),
    Everything,
    /// What a kill covers, at the caches further down: here the kill itself withholds it.
    Kill(Target),
    /// The pictures of a reviewed variant, at the caches further down: here the decision itself says which one is shown.
    Review(String),
}

/// What becomes of what is purged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurgeKind {
    /// Never served again.
    #[default]
    Hard,
    /// Served stale for a while, until it has been made anew.
    Soft,
}

/// How deep a purge goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PurgeReach {
    /// Encoded bytes: they are cut from the same master again.
    #[default]
    Renditions,
    /// Bindings too: a node is asked for the picture again, and may answer with the master it has kept.
    Masters,
}

/// What a change may do to what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// No answer is another one for it: what was kept of answers stays.
    Unseen,
    /// An answer that was finished before may have to be another one.
    Shown,
}

impl Change {
    /// What it may do to what is shown.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Term(_) | Self::Forget(_) | Self::Key(_) | Self::Revoke(_) | Self::Share(_) | Self::EndShare(_) => {
                Effect::Unseen
            }
            Self::Kill(_) | Self::Lift(_) | Self::Purge(_) | Self::Split(_) | Self::Merge(_) => Effect::Shown,
            Self::Review(review) => review.step.effect(),
        }
    }

    /// The kind, as logs, metrics and audit lines call it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Term(_) => "term",
            Self::Kill(_) => "kill",
            Self::Lift(_) => "lift",
            Self::Purge(_) => "purge",
            Self::Review(_) => "review",
            Self::Forget(_) => "forget",
            Self::Key(_) => "key",
            Self::Revoke(_) => "revoke",
            Self::Split(_) => "split",
            Self::Merge(_) => "merge",
            Self::Share(_) => "share",
            Self::EndShare(_) => "end_share",
        }
    }

    /// Whether an order that is repeated with its key asks for the same. The edge draws a key's secret anew each time.
    #[must_use]
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(one), Self::Key(other)) => one.asks_the_same(other),
            (Self::Share(one), Self::Share(other)) => one.asks_the_same(other),
            // Where its values lie is worked out anew each time, and the catalogue may be another one by then.
            (Self::Purge(one), Self::Purge(other)) => {
                (&one.scope, one.kind, one.reach) == (&other.scope, other.kind, other.reach)
            }
            (one, other) => one == other,
        }
    }

    /// What is changed: entries about one thing have the same subject.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Term(term) => format!("term:{}", term.term),
            Self::Kill(Kill { target }) | Self::Lift(Lift { target }) => target.to_string(),
            Self::Purge(purge) => purge.scope.text(),
            Self::Review(review) => format!("variant:{}", review.variant),
            Self::Forget(forget) => format!("actor:{}", forget.actor),
            Self::Key(key) => format!("key:{}", key.id()),
            Self::Revoke(revoke) => format!("key:{}", revoke.id),
            Self::Split(Split { variant }) | Self::Merge(Merge { variant }) => format!("variant:{variant}"),
            Self::Share(share) => format!("share:{}", share.id),
            Self::EndShare(end) => format!("share:{}", end.id),
        }
    }
}

impl PurgeScope {
    /// The name of the field it is asked by, and its label in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Variant(_) => "variant",
            Self::Tag(_) => "tag",
            Self::Campaign(_) => "campaign",
            Self::Everything => "everything",
            Self::Kill(_) => "kill",
            Self::Review(_) => "review",
        }
    }

    /// What was asked for, in one line.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Everything => "everything".to_owned(),
            Self::Url(text) | Self::Variant(text) | Self::Tag(text) | Self::Campaign(text) => {
                format!("{} {text}", self.as_str())
            }
            Self::Kill(target) => format!("kill of {target}"),
            Self::Review(variant) => format!("decision about {variant}"),
        }
    }
}

impl PurgeKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }
}

impl PurgeReach {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Renditions => "renditions",
            Self::Masters => "masters",
        }
    }
}
