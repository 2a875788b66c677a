//! How long a response may be reused: the table of ARCHITECTURE.md, "Freshness", as code.
//!
//! Sources: RFC 9111, RFC 5861 (`stale-while-revalidate`), RFC 8246 (`immutable`), RFC 9213.

use crate::render::Rung;

/// How long a response may be reused, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Final bytes under a current version pin of a campaign that cannot be recalled.
    Immutable,
    /// Final bytes of a recallable campaign: the default.
    Recallable,
    /// Final bytes without a pin, of a campaign that cannot be recalled.
    Final,
    /// Quick bytes that better ones will replace.
    Quick,
    /// Something else in place of what was asked for.
    StandIn,
}

impl Freshness {
    pub const ALL: [Self; 5] = [Self::Immutable, Self::Recallable, Self::Final, Self::Quick, Self::StandIn];

    /// The class of a rendition of the variant that was asked for.
    #[must_use]
    pub const fn of(rung: Rung, recall: Recall, pin: Pin) -> Self {
        match (rung, recall, pin) {
            (Rung::Quick, _, _) => Self::Quick,
            (Rung::Final, Recall::Recallable, _) => Self::Recallable,
            (Rung::Final, Recall::Never, Pin::Current) => Self::Immutable,
            (Rung::Final, Recall::Never, Pin::None) => Self::Final,
        }
    }

    /// What browsers are told.
    #[must_use]
    pub const fn cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Recallable => "public, max-age=60, must-revalidate",
            Self::Final => "public, max-age=300, stale-while-revalidate=86400, stale-if-error=604800",
            Self::Quick => "public, max-age=30",
            Self::StandIn => "no-cache",
        }
    }

    /// What shared caches are told (RFC 9213).
    #[must_use]
    pub const fn cdn_cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Recallable => "max-age=300, stale-while-revalidate=60",
            Self::Final => "public, max-age=300, stale-while-revalidate=86400, stale-if-error=604800",
            Self::Quick => "max-age=30",
            Self::StandIn => "max-age=5, stale-while-revalidate=30",
        }
    }

    /// The shared caches' `max-age`, for `ttl=` in `Cache-Status`.
    #[must_use]
    pub const fn ttl_s(self) -> u32 {
        match self {
            Self::Immutable => 31_536_000,
            Self::Recallable | Self::Final => 300,
            Self::Quick => 30,
            Self::StandIn => 5,
        }
    }
}

/// Whether a campaign's images may be recalled by the kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    Recallable,
    Never,
}

/// Whether the URL pins the current version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    Current,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pinned_final_bytes_that_nobody_may_recall_are_immutable() {
        let mut immutable = Vec::new();
        for rung in Rung::ALL {
            for recall in [Recall::Recallable, Recall::Never] {
                for pin in [Pin::Current, Pin::None] {
                    if Freshness::of(rung, recall, pin) == Freshness::Immutable {
                        immutable.push((rung, recall, pin));
                    }
                }
            }
        }
        assert_eq!(immutable, [(Rung::Final, Recall::Never, Pin::Current)]);
    }

    #[test]
    fn what_will_be_replaced_is_never_kept_long() {
        for freshness in [Freshness::Quick, Freshness::StandIn] {
            assert!(freshness.ttl_s() <= 30);
            assert!(!freshness.cache_control().contains("immutable"));
            assert!(!freshness.cdn_cache_control().contains("stale-if-error"));
        }
        assert_eq!(Freshness::StandIn.cache_control(), "no-cache");
    }

    #[test]
    fn the_ttl_is_the_shared_caches_max_age() {
        for freshness in Freshness::ALL {
            let max_age = format!("max-age={}", freshness.ttl_s());
            assert!(freshness.cdn_cache_control().split(", ").any(|directive| directive == max_age), "{freshness:?}");
        }
    }
}
