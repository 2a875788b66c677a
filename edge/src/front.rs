//! The front map: from a URL as it was sent, and the `Accept` beside it, to a finished answer.
//!
//! ```text
//! (target, Accept) ─▶ kept answer ─ of this epoch? ─▶ rendition at hand? ─▶ head + body, nothing computed
//! ```
//!
//! A hit's answer depends on its URL, its `Accept` and what the edge knows; the last changes seldom and moves the
//! [`Epoch`]. So the whole way of a request, from parsing to the last static header, is walked once and kept. What
//! differs from answer to answer is added by the listener that writes it: `Date`, `Cache-Status` and `Server-Timing`.
//!
//! Invariants: only final rungs are kept, for nothing better replaces them under the same key; the body is always
//! taken from a tier that has it without a wait (memory, or the disk's page cache), which keeps its bound and its notion
//! of what is popular; from the disk only the very bytes the answer was made with are taken; an answer that depends on
//! anything but target, `Accept` and epoch (a signature's end, client hints, a range) is never kept; the map is
//! bounded in bytes, and cheap spellings of one URL push out each other, not what is popular (TinyLFU).

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bildkante_shared::ids::Digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use moka::sync::Cache;

use crate::cache::{Caches, Rendition, RenditionKey, Tier};
use crate::metrics::HitCounters;
use crate::render::Rung;
use crate::response::conditional::{self, Precondition};
use crate::response::{self, CACHE_STATUS, SERVER_TIMING, Settled};
use crate::service::{Body, PlainHead, PreparedAnswer, Special};
use crate::words::{Epoch, Outcome};

/// Longest target and `Accept` together that is kept.
const KEY_BYTES_MAX: usize = 2048;
/// What an entry costs beyond its texts: moka's nodes, and the header map that HTTP/2 adds on first use.
const OVERHEAD_BYTES: usize = 4096;

thread_local! {
    /// A key is put together here: looking up allocates nothing.
    static KEY: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(KEY_BYTES_MAX));
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Front {
    answers: Cache<Box<[u8]>, Arc<FinishedHeads>, ahash::RandomState>,
    epoch: Epoch,
}

/// The parts of a request that an answer may depend on and still be kept.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Path and query as sent.
    pub target: &'a [u8],
    pub accept: Option<&'a [u8]>,
}

#[derive(Debug)]
struct FinishedHeads {
    epoch: u64,
    /// From then on its lifetimes are too long.
    ends: Option<Instant>,
    rendition: RenditionKey,
    digest: Digest,
    generation: u64,
    whole: HeadText,
    not_modified: HeadText,
    from_memory: TierFields,
    from_disk: TierFields,
    /// What `Server-Timing` says of the file.
    file_timing: Box<[u8]>,
}

/// What depends on the tier that the body comes from.
#[derive(Debug)]
struct TierFields {
    outcome: Outcome,
    cache_status: HeaderValue,
    counters: HitCounters,
}

/// A head without the fields of the moment, for each protocol.
#[derive(Debug)]
struct HeadText {
    /// Status line and fields, each with its line end, without the empty line.
    text: Box<[u8]>,
    /// Made of `text` when HTTP/2 asks first.
    fields: OnceLock<HeaderMap>,
}

/// A finished answer.
#[derive(Debug)]
pub struct Ready {
    kept: Arc<FinishedHeads>,
    tier: Tier,
    status: StatusCode,
    body: Bytes,
    elapsed: Duration,
}

impl Front {
    #[must_use]
    #[expect(clippy::borrowed_box, reason = "moka hands a key to its weigher as it holds it")]
    pub fn new(bytes_max: u64, epoch: Epoch) -> Self {
        let answers = Cache::builder()
            .name("front")
            .max_capacity(bytes_max)
            .weigher(|key: &Box<[u8]>, kept: &Arc<FinishedHeads>| kept.weight(key))
            .build_with_hasher(ahash::RandomState::new());
        Self { answers, epoch }
    }

    /// The epoch that an answer begun now belongs to; to be asked before anything it depends on is looked up.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.current()
    }

    /// The answer to a plain request in the HTTP/1.1 lane.
    #[must_use]
    pub fn ready(&self, head: &PlainHead<'_>, caches: &Caches, started: Instant) -> Option<Ready> {
        if head.special != Special::None {
            return None;
        }
        let question = Question { target: head.target.as_bytes(), accept: head.accept };
        self.find(question, caches, started, |etag| {
            head.if_none_match.is_some_and(|field| conditional::none_match(field, etag))
        })
    }

    /// The answer to a request of hyper's, where its fields allow a kept one.
    #[must_use]
    pub fn ready_for(&self, target: &[u8], fields: &HeaderMap, caches: &Caches, started: Instant) -> Option<Ready> {
        let special = [http::header::RANGE, http::header::IF_RANGE, http::header::IF_MATCH];
        if special.iter().any(|name| fields.contains_key(name)) {
            return None;
        }
        let mut lines = fields.get_all(http::header::ACCEPT).iter();
        let accept = lines.next().map(HeaderValue::as_bytes);
        if lines.next().is_some() {
            return None;
        }
        self.find(Question { target, accept }, caches, started, |etag| {
            conditional::precondition(fields, etag) == Precondition::NotModified
        })
    }

    fn find(
        &self,
        question: Question<'_>,
        caches: &Caches,
        started: Instant,
        has_it: impl FnOnce(&str) -> bool,
    ) -> Option<Ready> {
        let kept = question.with_key(|key| self.answers.get(key))??;
        if kept.epoch != self.epoch.current() || kept.ends.is_some_and(|ends| ends <= started) {
            return None;
        }
        let (tier, rendition) = caches.at_hand(kept.rendition, |found| kept.is_made_of(found))?;
        let (status, body) = if has_it(rendition.etag()) {
            (StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            (StatusCode::OK, rendition.body.clone())
        };
        let elapsed = started.elapsed();
        kept.source(tier).counters.hit(elapsed);
        Some(Ready { kept, tier, status, body, elapsed })
    }

    /// Keeps the answer of a request that was a hit, for its epoch and until it ends. `counters` says what a later one from each tier counts to.
    pub fn keep(
        &self,
        question: Question<'_>,
        (epoch, ends): (u64, Option<Instant>),
        (key, rendition): (RenditionKey, &Rendition),
        settled: Settled,
        counters: impl Fn(Outcome) -> HitCounters,
    ) {
        if rendition.rung != Rung::Final {
            return;
        }
        let source = |outcome, cache_status| TierFields { outcome, cache_status, counters: counters(outcome) };
        let kept = Arc::new(FinishedHeads {
            epoch,
            ends,
            rendition: key,
            digest: rendition.digest,
            generation: rendition.generation,
            whole: HeadText::new(StatusCode::OK, &settled.whole),
            not_modified: HeadText::new(StatusCode::NOT_MODIFIED, &settled.not_modified),
            from_memory: source(Outcome::Memory, settled.status_from_memory),
            from_disk: source(Outcome::Disk, settled.status_from_disk),
            file_timing: settled.file_timing,
        });
        if let Some(key) = question.with_key(|key| Box::<[u8]>::from(key)) {
            self.answers.insert(key, kept);
        }
    }
}

impl Question<'_> {
    /// Runs `with` on the key, unless it would be too long to keep.
    fn with_key<T>(&self, with: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let accept = self.accept.unwrap_or_default();
        if accept.len() + self.target.len() + 1 > KEY_BYTES_MAX {
            return None;
        }
        KEY.with_borrow_mut(|key| {
            key.clear();
            key.extend_from_slice(self.target);
            // Stands in neither part. Without a field nothing is asked for, as with an empty one.
            key.push(b'\n');
            key.extend_from_slice(accept);
            Some(with(key))
        })
    }
}

impl FinishedHeads {
    /// Within one epoch nothing else can be under its key, except on a disk: what a purge or a crash left there.
    fn is_made_of(&self, rendition: &Rendition) -> bool {
        rendition.digest == self.digest && rendition.generation == self.generation && rendition.rung == Rung::Final
    }

    const fn source(&self, tier: Tier) -> &TierFields {
        match tier {
            Tier::Disk => &self.from_disk,
            Tier::Memory | Tier::Object => &self.from_memory,
        }
    }

    fn weight(&self, key: &[u8]) -> u32 {
        let bytes =
            key.len() + self.whole.text.len() + self.not_modified.text.len() + self.file_timing.len() + OVERHEAD_BYTES;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

impl HeadText {
    fn new(status: StatusCode, fields: &HeaderMap) -> Self {
        let mut text = Vec::with_capacity(1024);
        // Writing to a Vec cannot fail.
        let _ = write!(text, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or(""));
        for (name, value) in fields {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        Self { text: text.into(), fields: OnceLock::new() }
    }

    fn fields(&self) -> &HeaderMap {
        self.fields.get_or_init(|| {
            let mut fields = HeaderMap::with_capacity(28);
            let lines = self.text.split(|byte| *byte == b'\n').skip(1).filter_map(|line| line.strip_suffix(b"\r"));
            for line in lines {
                let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
                let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
                // Both were header fields before they were text.
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                    fields.append(name, value);
                }
            }
            fields
        })
    }
}

impl Ready {
    fn form(&self) -> &HeadText {
        if self.status == StatusCode::NOT_MODIFIED { &self.kept.not_modified } else { &self.kept.whole }
    }

    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    #[must_use]
    pub const fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.elapsed
    }

    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.kept.source(self.tier).outcome
    }

    /// The whole answer for hyper.
    #[must_use]
    pub fn into_response(self, now: Duration) -> Response<Body> {
        let source = self.kept.source(self.tier);
        let mut timing = Vec::with_capacity(128);
        response::write_hit_timing(&mut timing, (self.elapsed, source.outcome), &self.kept.file_timing, now);
        let mut fields = self.form().fields().clone();
        fields.insert(CACHE_STATUS, source.cache_status.clone());
        if let Ok(mut timing) = HeaderValue::from_maybe_shared(Bytes::from(timing)) {
            // Never the same twice: HPACK must not give it a place in its table (RFC 7541 §7.1.3).
            timing.set_sensitive(true);
            fields.insert(SERVER_TIMING, timing);
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = fields;
        response
    }
}

impl PreparedAnswer for Ready {
    fn head(&self) -> &[u8] {
        &self.form().text
    }

    /// `Cache-Status` and `Server-Timing`.
    fn write_moment(&self, head: &mut Vec<u8>, now: Duration) {
        let source = self.kept.source(self.tier);
        head.extend_from_slice(b"cache-status: ");
        head.extend_from_slice(source.cache_status.as_bytes());
        head.extend_from_slice(b"\r\nserver-timing: ");
        response::write_hit_timing(head, (self.elapsed, source.outcome), &self.kept.file_timing, now);
        head.extend_from_slice(b"\r\n");
    }

    fn into_body(self) -> Bytes {
        self.body
    }
}

#[cfg(test)]
mod tests;
