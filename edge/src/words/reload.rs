//! What comes of looking at files that may have changed: campaigns, signing keys, configuration.

/// What a look at watched files led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The files are as they were.
    Unchanged,
    /// What they say now is in force.
    Reloaded,
    /// The files are broken; what they said last stays in force.
    Refused,
}

impl ReloadOutcome {
    pub const ALL: [Self; 3] = [Self::Unchanged, Self::Reloaded, Self::Refused];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Reloaded => "reloaded",
            Self::Refused => "refused",
        }
    }
}
