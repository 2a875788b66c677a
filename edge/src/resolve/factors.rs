//! What an answer depends on beside its URL and the state of campaigns and caches.
//!
//! Invariants: the factors follow from the URL alone and never from the outcome, because `Vary` and the keys of caches in front
//! do not know the outcome; a URL that is not understood counts as one that leaves its format open.

use crate::request::{ImageRequest, hints};

/// One thing beside the URL that an answer may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// The formats the client takes.
    Accept,
    /// The client's hints about widths.
    Hints,
    /// The moment: a signature ends.
    Moment,
    /// Whether the client saves data.
    SaveData,
}

/// A set of factors, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factors(u8);

impl Factors {
    const NONE: Self = Self(0);
    /// Of a URL that is not understood.
    pub const UNREAD: Self = Self::NONE.with(Factor::Accept);

    #[must_use]
    pub const fn of(request: &ImageRequest<'_>) -> Self {
        let mut factors = Self::NONE;
        if request.format.is_negotiable() {
            factors = factors.with(Factor::Accept);
        }
        if request.uses_hints() {
            factors = factors.with(Factor::Hints);
        }
        if request.may_save_data() {
            factors = factors.with(Factor::SaveData);
        }
        if request.signature.is_some() {
            factors = factors.with(Factor::Moment);
        }
        factors
    }

    const fn with(self, factor: Factor) -> Self {
        Self(self.0 | 1 << factor as u8)
    }

    #[must_use]
    pub const fn contains(self, factor: Factor) -> bool {
        self.0 & (1 << factor as u8) != 0
    }

    /// Which request headers take part in choosing the answer.
    #[must_use]
    pub const fn negotiation(self) -> Negotiation {
        match (self.contains(Factor::Accept), self.contains(Factor::Hints), self.contains(Factor::SaveData)) {
            (true, false, false) => Negotiation::ByAccept,
            (false, false, false) => Negotiation::Explicit,
            (true, true, false) => Negotiation::ByAcceptAndHints,
            (false, true, false) => Negotiation::ByHints,
            (false, false, true) => Negotiation::BySaving,
            (true, false, true) => Negotiation::ByAcceptAndSaving,
            (false, true, true) => Negotiation::ByHintsAndSaving,
            (true, true, true) => Negotiation::ByAll,
        }
    }

    /// Whether the answer follows from URL and `Accept` alone as long as campaigns and caches stay as they are: then it may
    /// be kept under these two.
    #[must_use]
    pub const fn is_keepable(self) -> bool {
        !self.contains(Factor::Hints) && !self.contains(Factor::SaveData) && !self.contains(Factor::Moment)
    }
}

/// Which request headers take part in choosing the response; a property of the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    ByAccept,
    Explicit,
    /// `w=auto` and no format.
    ByAcceptAndHints,
    /// `w=auto` in a named format.
    ByHints,
    /// `save-data=auto` in a named format.
    BySaving,
    /// `save-data=auto` and no format.
    ByAcceptAndSaving,
    /// `w=auto&save-data=auto` in a named format.
    ByHintsAndSaving,
    /// The same and no format.
    ByAll,
}

impl Negotiation {
    /// The value of `Vary`; without it no header takes part.
    #[must_use]
    pub const fn vary(self) -> Option<&'static str> {
        match self {
            Self::Explicit => None,
            Self::ByAccept => Some("Accept"),
            Self::ByAcceptAndHints => Some(hints::VARY_WITH_ACCEPT),
            Self::ByHints => Some(hints::VARY),
            Self::BySaving => Some("Save-Data"),
            Self::ByAcceptAndSaving => Some("Accept, Save-Data"),
            Self::ByHintsAndSaving => Some(hints::VARY_SAVING),
            Self::ByAll => Some(hints::VARY_SAVING_WITH_ACCEPT),
        }
    }

    /// The value of `Accept-CH`: the hints that clients are asked to send.
    #[must_use]
    pub const fn accept_ch(self) -> Option<&'static str> {
        match self {
            Self::Explicit | Self::ByAccept | Self::BySaving | Self::ByAcceptAndSaving => None,
            Self::ByAcceptAndHints | Self::ByHints | Self::ByHintsAndSaving | Self::ByAll => Some(hints::ACCEPT_CH),
        }
    }
}
