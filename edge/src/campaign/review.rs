//! `review` and `approvers`, of a policy or a slot: whether people approve pictures before they are public.
//!
//! What is reviewed can be taken back, so it is recallable: no browser keeps it for a year.

use super::reader::TableReader;

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
