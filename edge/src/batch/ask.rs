//! What people ask of a batch, and the key by which a repeated request is known.

/// What people ask of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Pause,
    Resume,
    /// What failed is tried again.
    Retry,
    Cancel,
}

impl Ask {
    /// In paths.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "pause" => Some(Self::Pause),
            "resume" => Some(Self::Resume),
            "retry" => Some(Self::Retry),
            "cancel" => Some(Self::Cancel),
            _ => None,
        }
    }

    /// See [`Self::named`].
    const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }

    /// In the audit.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "batch-pause",
            Self::Resume => "batch-resume",
            Self::Retry => "batch-retry",
            Self::Cancel => "batch-cancel",
        }
    }
}

/// What is asked with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// The order that began it.
    Begin,
    Change(Ask),
}

impl Deed {
    /// In the record. A key holds no space.
    pub(super) fn known_by(self, key: &str) -> String {
        match self {
            Self::Begin => key.to_owned(),
            Self::Change(ask) => format!("{} {key}", ask.name()),
        }
    }

    /// What the record knows by this key; `None`: it is another key.
    pub(super) fn of(known: &str, key: &str) -> Option<Self> {
        match known.split_once(' ') {
            None => (known == key).then_some(Self::Begin),
            Some((ask, of_ask)) => Ask::named(ask).filter(|_| of_ask == key).map(Self::Change),
        }
    }
}
