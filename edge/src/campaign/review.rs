//! `review`, `approvers` and `gates`, of a policy or a slot: whether people approve pictures before they are public, and what checks them first.
//!
//! What is reviewed can be taken back, so it is recallable: no browser keeps it for a year.

use std::sync::Arc;

use super::reader::TableReader;

/// Gates that one picture awaits.
pub const GATES_MAX: usize = 8;
/// Longest name of a gate, in bytes.
pub const GATE_BYTES_MAX: usize = 64;

/// Most people who have to approve a picture.
pub const APPROVERS_MAX: u8 = 2;

/// Whether people approve pictures before they are public.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Review {
    /// A picture is public once it is drawn.
    #[default]
    None,
    /// This many people, each another one.
    Required { approvers: u8 },
}

impl Review {
    /// How many people have to approve.
    #[must_use]
    pub const fn approvers(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Required { approvers } => approvers,
        }
    }

    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Required { .. })
    }
}

/// Programs that look at a picture before people do, by the names under which they report.
pub type Gates = Arc<[String]>;

/// Whether these are gates of one picture.
#[must_use]
pub fn are_gates(names: &[String]) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = |name: &String| (1..=GATE_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_sound);
    let is_new = |at: usize| !names[..at].contains(&names[at]);
    names.len() <= GATES_MAX && names.iter().all(is_name) && (0..names.len()).all(is_new)
}

/// What a table says of gates; `otherwise` where it says nothing.
pub(super) fn read_gates(table: &TableReader<'_, '_>, review: Review, otherwise: &Gates) -> Gates {
    if !review.is_required() {
        if table.has("gates") {
            table.fault(table.span(), "`gates` check pictures that are reviewed: set `review = \"required\"`");
        }
        return Gates::default();
    }
    let Some(names) = table.texts("gates", GATES_MAX) else { return Arc::clone(otherwise) };
    let gates: Vec<String> = names.iter().map(|name| name.value.to_owned()).collect();
    if !are_gates(&gates) {
        table.fault(
            table.span(),
            format!("`gates` names up to {GATES_MAX} gates, each once and by up to {GATE_BYTES_MAX} of a-z, 0-9 and -"),
        );
    }
    gates.into()
}

/// What a table says of reviews; `otherwise` where it says nothing.
pub(super) fn read(table: &TableReader<'_, '_>, otherwise: Review, is_recallable: bool) -> Review {
    let is_required = table.choice("review", &[("none", false), ("required", true)]);
    let approvers = table.integer("approvers", 1..=u32::from(APPROVERS_MAX));
    let approvers = approvers.and_then(|count| u8::try_from(count).ok());
    let review = match (is_required, otherwise, approvers) {
        (Some(false), _, _) | (None, Review::None, _) => Review::None,
        (Some(true), _, approvers) => Review::Required { approvers: approvers.unwrap_or(otherwise.approvers().max(1)) },
        (None, Review::Required { .. }, Some(approvers)) => Review::Required { approvers },
        (None, otherwise, None) => otherwise,
    };
    if table.has("approvers") && !review.is_required() {
        table.fault(table.span(), "`approvers` is for pictures that are reviewed: set `review = \"required\"`");
    }
    if table.has("review") && review.is_required() && !is_recallable {
        table.fault(
            table.span(),
            "what is reviewed can be taken back: `review = \"required\"` needs `recallable = true`",
        );
    }
    review
}
