//! The wall clock, and one that tests set: all that expires asks one of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    #[default]
    System,
    /// Seconds since 1970, as they were set.
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `unix_s` until its number is changed.
    #[must_use]
    pub fn set_to(unix_s: u64) -> Self {
        Self::Set(Arc::new(AtomicU64::new(unix_s)))
    }

    /// Seconds since 1970; a clock before that counts as 1970.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            Self::Set(unix_s) => unix_s.load(Ordering::Relaxed),
        }
    }
}
