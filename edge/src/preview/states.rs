//! How far a variant's picture is, as pages say it and filters ask for it.

use crate::language::Language;
use crate::shared_state::CaseState;

/// Where a picture of a variant is. A variant may have several, each elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PictureState {
    NeedsReview,
    ChangesRequested,
    /// A kill, or a right that is over, withholds it.
    Withheld,
    /// A gate has not reported yet.
    Checking,
    Live,
    Scheduled,
    Paused,
    Rejected,
    Superseded,
    Expired,
    /// It is made, and its slot asks for no approval.
    Drawn,
    Missing,
}

impl PictureState {
    /// The most urgent first: as the sort by state has them.
    pub(super) const ALL: [Self; 12] = [
        Self::NeedsReview,
        Self::ChangesRequested,
        Self::Withheld,
        Self::Checking,
        Self::Live,
        Self::Scheduled,
        Self::Paused,
        Self::Rejected,
        Self::Superseded,
        Self::Expired,
        Self::Drawn,
        Self::Missing,
    ];

    /// In URLs and styles.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Withheld => "withheld",
            Self::Checking => "checking",
            Self::NeedsReview => "needs_review",
            Self::ChangesRequested => "changes_requested",
            Self::Live => "live",
            Self::Scheduled => "scheduled",
            Self::Paused => "paused",
            Self::Rejected => "rejected",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Drawn => "drawn",
            Self::Missing => "missing",
        }
    }

    pub(super) const fn words(self, language: Language) -> &'static str {
        match self {
            Self::Withheld => language.say("withheld", "zurückgehalten"),
            Self::Checking => language.say("is being checked", "wird geprüft"),
            Self::NeedsReview => language.say("awaits a decision", "wartet auf Entscheidung"),
            Self::ChangesRequested => language.say("changes requested", "Änderung gewünscht"),
            Self::Live => language.say("live", "live"),
            Self::Scheduled => language.say("scheduled", "geplant"),
            Self::Paused => language.say("paused", "angehalten"),
            Self::Rejected => language.say("rejected", "abgelehnt"),
            Self::Superseded => language.say("superseded", "abgelöst"),
            Self::Expired => language.say("expired", "abgelaufen"),
            Self::Drawn => language.say("drawn", "erzeugt"),
            Self::Missing => language.say("no picture yet", "noch kein Bild"),
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl From<CaseState> for PictureState {
    fn from(state: CaseState) -> Self {
        match state {
            CaseState::Checking => Self::Checking,
            CaseState::NeedsReview => Self::NeedsReview,
            CaseState::Rejected => Self::Rejected,
            CaseState::ChangesRequested => Self::ChangesRequested,
            CaseState::Scheduled => Self::Scheduled,
            CaseState::Live => Self::Live,
            CaseState::Paused => Self::Paused,
            CaseState::Superseded => Self::Superseded,
            CaseState::Expired => Self::Expired,
        }
    }
}

/// Several states at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct States(u16);

impl States {
    pub(super) const fn with(self, state: PictureState) -> Self {
        Self(self.0 | state.bit())
    }

    pub(super) const fn has(self, state: PictureState) -> bool {
        self.0 & state.bit() != 0
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn each(self) -> impl Iterator<Item = PictureState> {
        PictureState::ALL.into_iter().filter(move |state| self.has(*state))
    }

    /// What a card says: whether the picture is withheld, live and awaited, and else the most urgent state.
    pub(super) fn told(self) -> Vec<PictureState> {
        let first = [PictureState::Withheld, PictureState::Live, PictureState::NeedsReview];
        let told: Vec<_> = first.into_iter().filter(|state| self.has(*state)).collect();
        if told.is_empty() { self.each().take(1).collect() } else { told }
    }
}

impl FromIterator<PictureState> for States {
    fn from_iter<I: IntoIterator<Item = PictureState>>(states: I) -> Self {
        states.into_iter().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_what_is_live_and_what_awaits_and_else_the_most_urgent() {
        use PictureState as S;
        let told = |states: &[S]| states.iter().copied().collect::<States>().told();
        assert_eq!(told(&[S::Superseded, S::NeedsReview, S::Live]), [S::Live, S::NeedsReview]);
        assert_eq!(told(&[S::Rejected, S::Superseded]), [S::Rejected]);
        assert_eq!(told(&[S::Withheld, S::Live]), [S::Withheld, S::Live]);
        assert_eq!(told(&[S::Missing]), [S::Missing]);
        assert_eq!(told(&[]), []);
    }

    #[test]
    fn each_state_has_a_name_of_its_own() {
        for state in PictureState::ALL {
            assert_eq!(PictureState::named(state.as_str()), Some(state));
            assert!(States::default().with(state).each().eq([state]));
        }
        assert_eq!(PictureState::named("happy"), None);
    }
}
