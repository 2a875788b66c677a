//! A rendition: encoded bytes and all that is said about them, prepared once and shared by every answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bildkante_shared::ids::{Digest, MasterId, RecipeId, encode_128};
use bytes::Bytes;
use http::HeaderMap;

use super::key::RenditionKey;
use crate::render::{Making, Placement, RenditionSpec, Rung};
use crate::words::Format;

/// Immutable; held in an `Arc` and never copied on the way to a socket.
#[derive(Debug)]
pub struct Rendition {
    /// What the tiers keep it under.
    pub key: RenditionKey,
    pub body: Bytes,
    pub spec: RenditionSpec,
    pub rung: Rung,
    /// Where its manifest is.
    pub manifest: Placement,
    /// The format in which the same picture is a smaller file, where one was found: of final AVIFs alone.
    pub smaller_as: Option<Format>,
    /// `None` of what was stored by a former version, or is no picture of a master.
    pub making: Option<Making>,
    pub master: MasterId,
    pub recipe: RecipeId,
    pub created_unix_ms: u64,
    /// The purge generation at which these bytes were made: what was purged at a later one is no longer valid.
    pub generation: u64,
    /// BLAKE3-256 of the body: proves it on disk, and names it as a validator.
    pub digest: Digest,
    etag: Box<str>,
    /// Headers that are the same in every answer, filled in by the first answer.
    pub prepared: Prepared,
    /// Before this moment of the process no better rung is asked for again.
    improve_from_ms: AtomicU64,
}

/// What is told of a rendition's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    pub rung: Rung,
    pub bytes: u64,
    pub making: Option<Making>,
    /// The purge generation at which it was made.
    pub generation: u64,
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

/// Where a rendition comes from, and its key, which follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    pub key: RenditionKey,
    pub master: MasterId,
    pub recipe: RecipeId,
    pub created_unix_ms: u64,
    pub generation: u64,
}

impl Lineage {
    /// One that is made at this moment, at purge generation 0.
    #[must_use]
    pub fn now(key: RenditionKey, master: MasterId, recipe: RecipeId) -> Self {
        Self { key, master, recipe, created_unix_ms: unix_ms(SystemTime::now()), generation: 0 }
    }

    /// The same at a purge generation: the one read *before* the master was, so that a purge meanwhile wins.
    #[must_use]
    pub const fn at_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }
}

impl Rendition {
    /// Hashes `body` (about 1 ns a byte on one core).
    #[must_use]
    pub fn new(body: Bytes, spec: RenditionSpec, rung: Rung, lineage: Lineage) -> Self {
        let digest = Digest::of_bytes(&body);
        Self::with_digest(body, digest, spec, rung, lineage)
    }

    /// For bytes that were hashed a moment ago.
    pub(super) fn with_digest(body: Bytes, digest: Digest, spec: RenditionSpec, rung: Rung, lineage: Lineage) -> Self {
        let Lineage { key, master, recipe, created_unix_ms, generation } = lineage;
        let etag = strong_etag(&digest);
        Self {
            key,
            body,
            spec,
            rung,
            manifest: Placement::None,
            smaller_as: None,
            making: None,
            master,
            recipe,
            created_unix_ms,
            generation,
            digest,
            etag,
            prepared: Prepared::default(),
            improve_from_ms: AtomicU64::new(0),
        }
    }

    /// The same with a manifest in that place.
    #[must_use]
    pub fn with_manifest(self, manifest: Placement) -> Self {
        Self { manifest, ..self }
    }

    /// The same of which it is known in which format it would be smaller. Of a quick rung nothing is known.
    #[must_use]
    pub fn with_smaller(self, smaller_as: Option<Format>) -> Self {
        let smaller_as = smaller_as.filter(|_| self.rung == Rung::Final);
        Self { smaller_as, ..self }
    }

    /// The same of which it is known how it was made.
    #[must_use]
    pub fn with_making(self, making: Option<Making>) -> Self {
        Self { making, ..self }
    }

    /// A strong validator in its quotes (RFC 9110 §8.8.3), from the body alone: it differs per format and rung.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether the caller is the one to ask for a better rung now; the next one may after `pause`.
    #[must_use]
    pub fn claim_improvement(&self, pause: Duration) -> bool {
        let now = uptime_ms();
        let from = self.improve_from_ms.load(Ordering::Relaxed);
        let next = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let claim = |from| self.improve_from_ms.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
        from <= now && claim(from).is_ok()
    }

    #[must_use]
    pub fn content_type(&self) -> &'static str {
        self.spec.format.media_type()
    }

    #[must_use]
    pub fn facts(&self) -> FileFacts {
        FileFacts { rung: self.rung, bytes: self.body.len() as u64, making: self.making, generation: self.generation }
    }

    #[must_use]
    pub const fn precedence(&self) -> Precedence {
        Precedence { generation: self.generation, rung: self.rung }
    }
}

/// Which of two renditions of one key stays: the one made at the later purge generation, then the one of the better
/// rung. A final never makes way for a quick one of its own generation, and bytes made before a purge never take
/// the place of bytes made after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    // Order of fields is order of comparison.
    pub generation: u64,
    pub rung: Rung,
}

impl Precedence {
    #[must_use]
    pub fn may_replace(self, other: Self) -> bool {
        self >= other
    }
}

/// A pause does not depend on the wall clock.
fn uptime_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn strong_etag(digest: &Digest) -> Box<str> {
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_bytes()[..16]);
    format!("\"{}\"", encode_128(&short)).into_boxed_str()
}

/// Milliseconds since 1970; a clock before that counts as 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::render::{Quality, Shape};

    /// A rendition with `body`, for tests.
    pub(crate) fn rendition(body: &[u8], rung: Rung) -> Rendition {
        let spec = RenditionSpec {
            width_px: 64,
            height_px: 36,
            shape: Shape::DEFAULT,
            format: Format::Webp,
            quality: Quality::MEDIUM,
        };
        let lineage = Lineage {
            key: RenditionKey::from_raw([0; 16]),
            master: MasterId::of_bytes(b"master"),
            recipe: RecipeId::of_bytes(b"recipe"),
            created_unix_ms: 1_700_000_000_000,
            generation: 0,
        };
        Rendition::new(Bytes::copy_from_slice(body), spec, rung, lineage)
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
    fn the_later_generation_stays_and_within_one_the_better_rung() {
        let of = |generation, rung| Precedence { generation, rung };
        let may = |new: Precedence, old: Precedence| new.may_replace(old);
        assert!(may(of(0, Rung::Quick), of(0, Rung::Quick)) && may(of(0, Rung::Final), of(0, Rung::Final)));
        assert!(may(of(0, Rung::Final), of(0, Rung::Quick)) && !may(of(0, Rung::Quick), of(0, Rung::Final)));
        assert!(may(of(1, Rung::Quick), of(0, Rung::Final)) && !may(of(0, Rung::Final), of(1, Rung::Quick)));
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
