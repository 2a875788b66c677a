//! How long a response may be reused: the table of ARCHITECTURE.md, "Freshness", as code.
//!
//! Sources: RFC 9111, RFC 5861 (`stale-while-revalidate`), RFC 8246 (`immutable`), RFC 9213.

use std::borrow::Cow;

use crate::render::Rung;

/// How long a response may be reused, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Freshness {
    /// Final bytes under a current version pin of a campaign that cannot be recalled.
    Immutable,
    /// Final bytes of a recallable campaign: the default.
    Recallable,
    /// The same, where the caches further down are told of every recall.
    Purgeable,
    /// Final bytes without a pin, of a campaign that cannot be recalled.
    Final,
    /// Quick bytes that better ones will replace.
    Quick,
    /// Bytes that were purged and are shown while others are made.
    Stale,
    /// Something else in place of what was asked for.
    StandIn,
    /// The same, where what was asked for is withheld: a lift must be seen at once.
    Withheld,
}

impl Freshness {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] = [
        Self::Immutable,
        Self::Recallable,
        Self::Purgeable,
        Self::Final,
        Self::Quick,
        Self::Stale,
        Self::StandIn,
        Self::Withheld,
    ];

    /// The class of a rendition of the variant that was asked for.
    #[must_use]
    pub(crate) const fn of(rung: Rung, recall: Recall, pin: Pin) -> Self {
        match (rung, recall, pin) {
            (Rung::Hurried | Rung::Quick, _, _) => Self::Quick,
            (Rung::Final, Recall::Recallable, _) => Self::Recallable,
            (Rung::Final, Recall::ByPurger, _) => Self::Purgeable,
            (Rung::Final, Recall::Never, Pin::Current) => Self::Immutable,
            (Rung::Final, Recall::Never, Pin::None) => Self::Final,
        }
    }

    /// What browsers are told.
    #[must_use]
    pub(crate) const fn cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Recallable | Self::Purgeable => "public, max-age=60, must-revalidate",
            Self::Final => "public, max-age=300, stale-while-revalidate=86400, stale-if-error=604800",
            Self::Quick => "public, max-age=30",
            Self::Stale | Self::StandIn => "no-cache",
            Self::Withheld => "no-store",
        }
    }

    /// What shared caches are told (RFC 9213).
    #[must_use]
    pub(crate) const fn cdn_cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Recallable => "max-age=300, stale-while-revalidate=60",
            Self::Purgeable => "max-age=86400, stale-while-revalidate=600, stale-if-error=86400",
            Self::Final => "public, max-age=300, stale-while-revalidate=86400, stale-if-error=604800",
            Self::Quick => "max-age=30",
            Self::Stale | Self::StandIn => "max-age=5, stale-while-revalidate=30",
            // So that a page that many read does not bring each of them here.
            Self::Withheld => "max-age=5",
        }
    }

    /// The longest that any directive of this class lets a cache show it.
    #[must_use]
    pub(crate) const fn reach_s(self) -> u32 {
        match self {
            Self::Immutable => 31_536_000,
            Self::Recallable => 360,
            Self::Purgeable => 172_800,
            Self::Final => 605_100,
            Self::Quick => 30,
            Self::Stale | Self::StandIn => 35,
            Self::Withheld => 5,
        }
    }

    /// The shared caches' `max-age`, for `ttl=` in `Cache-Status`.
    #[must_use]
    pub(crate) const fn ttl_s(self) -> u32 {
        match self {
            Self::Immutable => 31_536_000,
            Self::Recallable | Self::Final => 300,
            Self::Purgeable => 86_400,
            Self::Quick => 30,
            Self::Stale | Self::StandIn | Self::Withheld => 5,
        }
    }
}

/// Whether a campaign's images may be recalled by the kill switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recall {
    Recallable,
    /// They may, and a purger tells the caches further down.
    ByPurger,
    Never,
}

/// How long what was answered before may still be shown elsewhere, in seconds and at the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exposure {
    pub browsers_s: u32,
    /// Where a purger tells these caches, until it has.
    pub shared_s: u32,
}

impl Recall {
    /// Directives that let a cache show what is stale count, too.
    #[must_use]
    pub(crate) const fn exposure(self) -> Exposure {
        match self {
            Self::Recallable => Exposure { browsers_s: 60, shared_s: Freshness::Recallable.reach_s() },
            Self::ByPurger => Exposure { browsers_s: 60, shared_s: Freshness::Purgeable.reach_s() },
            // A pinned URL is immutable.
            Self::Never => {
                let reach_s = Freshness::Immutable.reach_s();
                Exposure { browsers_s: reach_s, shared_s: reach_s }
            }
        }
    }
}

/// Whether the URL pins the current version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pin {
    Current,
    None,
}

/// What one answer says about its reuse: its class, and the end of the signature it was asked with.
///
/// Where there is an end, no directive reaches beyond it: `max-age` and the `stale-*` after it are cut to what is left,
/// `immutable` is dropped, and what may no longer be served stale must be revalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lifetime {
    pub freshness: Freshness,
    /// Seconds until the signed URL expires; `None` where it is not signed or never does.
    pub left_s: Option<u32>,
}

impl From<Freshness> for Lifetime {
    fn from(freshness: Freshness) -> Self {
        Self { freshness, left_s: None }
    }
}

impl Lifetime {
    #[must_use]
    pub(crate) const fn new(freshness: Freshness, left_s: Option<u32>) -> Self {
        Self { freshness, left_s }
    }

    /// What browsers are told.
    #[must_use]
    pub(crate) fn cache_control(self) -> Cow<'static, str> {
        self.within(self.freshness.cache_control())
    }

    /// What shared caches are told (RFC 9213).
    #[must_use]
    pub(crate) fn cdn_cache_control(self) -> Cow<'static, str> {
        self.within(self.freshness.cdn_cache_control())
    }

    /// The shared caches' `max-age`, for `ttl=` in `Cache-Status`.
    #[must_use]
    pub(crate) const fn ttl_s(self) -> u32 {
        match self.left_s {
            Some(left_s) if left_s < self.freshness.ttl_s() => left_s,
            _ => self.freshness.ttl_s(),
        }
    }

    fn within(self, directives: &'static str) -> Cow<'static, str> {
        match self.left_s {
            None => Cow::Borrowed(directives),
            Some(left_s) => Cow::Owned(capped(directives, left_s)),
        }
    }
}

/// One of the lists above with nothing left in it that reaches further than `left_s`.
fn capped(directives: &'static str, left_s: u32) -> String {
    let seconds_of = |name: &str| {
        let mut values = directives.split(", ").filter_map(|directive| directive.split_once('='));
        values.find(|(known, _)| *known == name).and_then(|(_, seconds)| seconds.parse::<u32>().ok())
    };
    let Some(max_age_s) = seconds_of("max-age") else { return directives.to_owned() };
    let max_age_s = max_age_s.min(left_s);
    let mut kept = format!("max-age={max_age_s}");
    if directives.starts_with("public") {
        kept.insert_str(0, "public, ");
    }
    let mut may_be_stale = false;
    for name in ["stale-while-revalidate", "stale-if-error"] {
        let stale_s = seconds_of(name).map_or(0, |stale_s| stale_s.min(left_s - max_age_s));
        if stale_s > 0 {
            may_be_stale = true;
            kept.push_str(&format!(", {name}={stale_s}"));
        }
    }
    if !may_be_stale {
        kept.push_str(", must-revalidate");
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The seconds that a list of directives lets a cache show an answer: `max-age` and the longest of the `stale-*` behind it.
    fn longest(directives: &str) -> u32 {
        let seconds = directives.split(", ").filter_map(|directive| directive.split_once('=')?.1.parse::<u32>().ok());
        let seconds: Vec<u32> = seconds.collect();
        seconds.first().copied().unwrap_or_default() + seconds.iter().skip(1).max().copied().unwrap_or_default()
    }

    /// No class of an answer outlives what a kill says of it.
    #[test]
    fn exposure_is_the_longest_that_any_cache_was_allowed() {
        for recall in [Recall::Recallable, Recall::ByPurger, Recall::Never] {
            let classes = Rung::ALL
                .into_iter()
                .flat_map(|rung| [Pin::Current, Pin::None].map(|pin| Freshness::of(rung, recall, pin)));
            let all: Vec<Freshness> = classes.chain([Freshness::Stale, Freshness::StandIn]).collect();
            let browsers = all.iter().map(|class| longest(class.cache_control())).max().unwrap();
            let shared = all.iter().map(|class| longest(class.cdn_cache_control())).max().unwrap();
            assert_eq!(recall.exposure(), Exposure { browsers_s: browsers, shared_s: shared }, "{recall:?}");
        }
    }

    #[test]
    fn reach_is_the_longest_of_its_directives() {
        for freshness in Freshness::ALL {
            let directives = [freshness.cache_control(), freshness.cdn_cache_control()];
            assert_eq!(directives.map(longest).into_iter().max(), Some(freshness.reach_s()), "{freshness:?}");
        }
    }

    #[test]
    fn only_pinned_final_bytes_that_are_not_recallable_are_immutable() {
        let mut immutable = Vec::new();
        for rung in Rung::ALL {
            for recall in [Recall::Recallable, Recall::ByPurger, Recall::Never] {
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
        for freshness in [Freshness::Quick, Freshness::Stale, Freshness::StandIn] {
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

    #[test]
    fn without_an_end_the_table_is_what_is_said() {
        for freshness in Freshness::ALL {
            let lifetime = Lifetime::from(freshness);
            assert_eq!(lifetime.cache_control(), freshness.cache_control());
            assert_eq!(lifetime.cdn_cache_control(), freshness.cdn_cache_control());
            assert_eq!(lifetime.ttl_s(), freshness.ttl_s());
        }
    }

    #[test]
    fn what_is_left_of_a_signature_caps_every_class() {
        let said = |freshness, left_s| {
            let lifetime = Lifetime::new(freshness, Some(left_s));
            (lifetime.cache_control().into_owned(), lifetime.cdn_cache_control().into_owned(), lifetime.ttl_s())
        };
        for (freshness, left_s, browsers, caches, ttl_s) in [
            (Freshness::Immutable, 7, "public, max-age=7, must-revalidate", "public, max-age=7, must-revalidate", 7),
            (Freshness::Recallable, 45, "public, max-age=45, must-revalidate", "max-age=45, must-revalidate", 45),
            (
                Freshness::Recallable,
                320,
                "public, max-age=60, must-revalidate",
                "max-age=300, stale-while-revalidate=20",
                300,
            ),
            (
                Freshness::Final,
                1000,
                "public, max-age=300, stale-while-revalidate=700, stale-if-error=700",
                "public, max-age=300, stale-while-revalidate=700, stale-if-error=700",
                300,
            ),
            (Freshness::Quick, 1, "public, max-age=1, must-revalidate", "max-age=1, must-revalidate", 1),
            (Freshness::StandIn, 3, "no-cache", "max-age=3, must-revalidate", 3),
        ] {
            assert_eq!(said(freshness, left_s), (browsers.to_owned(), caches.to_owned(), ttl_s), "{freshness:?}");
        }
    }

    proptest! {
        /// The furthest any cache may use an answer lies within what is left, whatever the class.
        #[test]
        fn no_directive_reaches_beyond_the_end(index in 0..Freshness::ALL.len(), left_s in 1u32..40_000_000) {
            let lifetime = Lifetime::new(Freshness::ALL[index], Some(left_s));
            prop_assert!(lifetime.ttl_s() <= left_s);
            for text in [lifetime.cache_control(), lifetime.cdn_cache_control()] {
                prop_assert!(!text.contains("immutable"), "{text}");
                let seconds = |name: &str| {
                    let directive = text.split(", ").find_map(|directive| directive.strip_prefix(name));
                    directive.map_or(0, |seconds| seconds.parse::<u32>().expect("seconds"))
                };
                let stale_s = seconds("stale-while-revalidate=").max(seconds("stale-if-error="));
                prop_assert!(seconds("max-age=") + stale_s <= left_s, "{text}");
                prop_assert!(matches!(&*text, "no-cache" | "no-store") || stale_s > 0 || text.contains("must-revalidate"), "{text}");
            }
        }
    }
}
