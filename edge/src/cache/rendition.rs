//! A rendition: encoded bytes and all that is said about them, prepared once and shared by every answer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bildkante_shared::ids::{Digest, MasterId, RecipeId, encode_128};
use bytes::Bytes;
use http::HeaderMap;

use crate::render::{RenditionSpec, Rung};

/// Immutable; held in an `Arc` and never copied on the way to a socket.
#[derive(Debug)]
pub struct Rendition {
    pub body: Bytes,
    pub spec: RenditionSpec,
    pub rung: Rung,
    pub master: MasterId,
    pub recipe: RecipeId,
    pub created_unix_ms: u64,
    /// BLAKE3-256 of the body: proves it on disk, and names it as a validator.
    pub digest: Digest,
    etag: Box<str>,
    /// Headers that are the same in every answer, filled in by whoever answers first.
    pub prepared: Prepared,
    /// Before this moment nobody asks for a better rung again.
    improve_from_unix_ms: AtomicU64,
}

/// Whose headers a rendition keeps: tags, file name and urgency are the variant's and the slot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedFor {
    /// Identifies a slot across campaigns and reloads.
    pub slot: u64,
    /// The variant within it: two locales share a recipe and not a canonical URL.
    pub combination: u32,
}

/// Header map of the first variant and slot a rendition was served for.
#[derive(Debug, Default)]
pub struct Prepared(OnceLock<(PreparedFor, HeaderMap)>);

impl Prepared {
    /// The headers, if they were prepared for `owner`.
    #[must_use]
    pub fn get(&self, owner: PreparedFor) -> Option<&HeaderMap> {
        self.0.get().and_then(|(of, headers)| (*of == owner).then_some(headers))
    }

    /// Keeps `headers` unless another owner came first.
    pub fn set(&self, owner: PreparedFor, headers: HeaderMap) {
        let _ = self.0.set((owner, headers));
    }
}

/// Where a rendition comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub master: MasterId,
    pub recipe: RecipeId,
    pub created_unix_ms: u64,
}

impl Origin {
    /// One that is made at this moment.
    #[must_use]
    pub fn now(master: MasterId, recipe: RecipeId) -> Self {
        Self { master, recipe, created_unix_ms: unix_ms(SystemTime::now()) }
    }
}

impl Rendition {
    /// Hashes `body` (about 1 ns a byte on one core).
    #[must_use]
    pub fn new(body: Bytes, spec: RenditionSpec, rung: Rung, origin: Origin) -> Self {
        let digest = Digest::of_bytes(&body);
        Self::with_digest(body, digest, spec, rung, origin)
    }

    /// For bytes that were hashed a moment ago.
    pub(super) fn with_digest(body: Bytes, digest: Digest, spec: RenditionSpec, rung: Rung, origin: Origin) -> Self {
        let Origin { master, recipe, created_unix_ms } = origin;
        let etag = strong_etag(&digest);
        Self {
            body,
            spec,
            rung,
            master,
            recipe,
            created_unix_ms,
            digest,
            etag,
            prepared: Prepared::default(),
            improve_from_unix_ms: AtomicU64::new(0),
        }
    }

    /// A strong validator in its quotes (RFC 9110 §8.8.3), from the body alone: it differs per format and rung.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether the caller is the one to ask for a better rung now; the next one may after `pause`.
    #[must_use]
    pub fn claim_improvement(&self, pause: Duration) -> bool {
        let now = unix_ms(SystemTime::now());
        let from = self.improve_from_unix_ms.load(Ordering::Relaxed);
        let next = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let claim = |from| self.improve_from_unix_ms.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
        from <= now && claim(from).is_ok()
    }

    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.spec.format.media_type()
    }

    /// Whether `self` may take the place of `other` under the same key: a final never makes way for a quick one.
    #[must_use]
    pub fn may_replace(&self, other: Rung) -> bool {
        rung_may_replace(self.rung, other)
    }
}

pub(super) const fn rung_may_replace(new: Rung, old: Rung) -> bool {
    matches!((new, old), (Rung::Final, _) | (Rung::Quick, Rung::Quick))
}

fn strong_etag(digest: &Digest) -> Box<str> {
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_bytes()[..16]);
    format!("\"{}\"", encode_128(&short)).into_boxed_str()
}

/// Milliseconds since 1970; a clock before that counts as 1970.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::negotiate::Format;
    use crate::render::Quality;

    /// A rendition with `body`, for tests.
    pub(crate) fn rendition(body: &[u8], rung: Rung) -> Rendition {
        let spec = RenditionSpec { width_px: 64, height_px: 36, format: Format::Webp, quality: Quality::MEDIUM };
        let origin = Origin {
            master: MasterId::of_bytes(b"master"),
            recipe: RecipeId::of_bytes(b"recipe"),
            created_unix_ms: 1_700_000_000_000,
        };
        Rendition::new(Bytes::copy_from_slice(body), spec, rung, origin)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::rendition;
    use super::*;

    #[test]
    fn the_validator_is_strong_quoted_and_follows_the_body() {
        let one = rendition(b"one", Rung::Quick);
        let same = rendition(b"one", Rung::Final);
        let other = rendition(b"other", Rung::Quick);
        assert!(one.etag().starts_with('"') && one.etag().ends_with('"'));
        assert_eq!(one.etag().len(), 28);
        assert_eq!(one.etag(), same.etag());
        assert_ne!(one.etag(), other.etag());
        assert!(http::HeaderValue::from_str(one.etag()).is_ok());
    }

    #[test]
    fn only_a_quick_rendition_makes_way_for_a_quick_one() {
        let (quick, done) = (rendition(b"q", Rung::Quick), rendition(b"f", Rung::Final));
        assert!(quick.may_replace(Rung::Quick) && done.may_replace(Rung::Quick) && done.may_replace(Rung::Final));
        assert!(!quick.may_replace(Rung::Final));
    }

    #[test]
    fn a_better_rung_is_asked_for_once_a_pause() {
        let rendition = rendition(b"q", Rung::Quick);
        assert!(rendition.claim_improvement(Duration::from_secs(3600)));
        assert!(!rendition.claim_improvement(Duration::from_secs(3600)));
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        assert_eq!(unix_ms(UNIX_EPOCH - std::time::Duration::from_secs(1)), 0);
    }
}
