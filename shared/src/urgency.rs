//! Urgency of RFC 9218: 0 is most urgent, 7 least, 3 the default.

use serde::{Deserialize, Serialize};

/// How urgent a request is (RFC 9218 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Urgency(u8);

impl Urgency {
    pub const MOST: Self = Self(0);
    pub const DEFAULT: Self = Self(3);
    /// What no reader waits for.
    pub const LEAST: Self = Self(7);
    /// As far as a reader who waits may yield.
    pub const LAST_OF_READERS: Self = Self(6);

    /// `None` above 7.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 7 { Some(Self(value)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The less urgent of the two: a client may only yield, never push ahead.
    #[must_use]
    pub fn yielding_to(self, asked: Self) -> Self {
        self.max(asked)
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<Urgency> for u8 {
    fn from(urgency: Urgency) -> Self {
        urgency.0
    }
}

impl TryFrom<u8> for Urgency {
    type Error = UrgencyError;

    fn try_from(value: u8) -> Result<Self, UrgencyError> {
        Self::new(value).ok_or(UrgencyError(value))
    }
}

/// An urgency outside 0–7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("urgency is 0 to 7 (RFC 9218), not {0}")]
pub struct UrgencyError(u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_only_become_less_urgent() {
        let slot = Urgency::new(2).unwrap_or_default();
        assert_eq!(slot.yielding_to(Urgency::MOST), slot);
        assert_eq!(slot.yielding_to(Urgency::LEAST), Urgency::LEAST);
    }

    #[test]
    fn eight_is_refused() {
        assert!(serde_json::from_str::<Urgency>("8").is_err());
        assert_eq!(serde_json::from_str::<Urgency>("7").ok(), Some(Urgency::LEAST));
    }
}
