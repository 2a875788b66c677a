use std::sync::Arc;

use super::*;
use crate::cache::testing::rendition;
use crate::cache::{CacheMetrics, Rendition};
use crate::metrics::RequestMetrics;
use crate::negotiate::Format;
use crate::render::Rung;

struct Site {
    front: Front,
    memory: MemoryTier,
    epoch: Epoch,
    counters: HitCounters,
}

const KEY: RenditionKey = RenditionKey::from_raw([7; 16]);

impl Site {
    fn new() -> Self {
        let registry = prometheus::Registry::new();
        let epoch = Epoch::default();
        let memory = MemoryTier::new(1 << 20, CacheMetrics::new(&registry).unwrap().memory);
        let counters = RequestMetrics::new(&registry).unwrap().hit_counters(Format::Webp, "c", "s");
        Self { front: Front::new(1 << 20, epoch.clone()), memory, epoch, counters }
    }

    fn keep(&self, target: &str, accept: Option<&str>) -> Arc<Rendition> {
        let kept = Arc::new(rendition(b"a body", Rung::Final));
        self.memory.insert(KEY, Arc::clone(&kept));
        let fields = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
        };
        let settled = Settled {
            whole: fields(&[("etag", kept.etag()), ("content-length", "6"), ("vary", "Accept")]),
            not_modified: fields(&[("etag", kept.etag()), ("vary", "Accept")]),
        };
        let question = Question { target: target.as_bytes(), accept: accept.map(str::as_bytes) };
        self.front.keep(question, self.epoch.current(), KEY, &settled, self.counters.clone());
        kept
    }

    fn ask(&self, target: &str, fields: &[(&'static str, &str)]) -> Option<Ready> {
        let fields: HeaderMap =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        self.front.ready_for(target.as_bytes(), &fields, &self.memory, Instant::now())
    }
}

#[test]
fn the_same_question_gets_the_same_answer_and_no_other_does() {
    let site = Site::new();
    site.keep("/i/a/b?w=1", Some("image/avif"));
    let answer = site.ask("/i/a/b?w=1", &[("accept", "image/avif")]).unwrap();
    assert!(answer.head().starts_with(b"HTTP/1.1 200 OK\r\netag: \""));
    let response = answer.into_response(Duration::from_millis(1_700_000_000_123));
    assert_eq!(response.headers()["content-length"], "6");
    let timing = response.headers()[SERVER_TIMING].to_str().unwrap();
    assert!(
        timing.starts_with("edge;dur=") && timing.ends_with(", cache;desc=memory, at;desc=1700000000123"),
        "{timing}"
    );
    for (target, fields) in [
        ("/i/a/b?w=2", &[("accept", "image/avif")][..]),
        ("/i/a/b?w=1", &[]),
        ("/i/a/b?w=1", &[("accept", "image/webp")]),
        ("/i/a/b?w=1", &[("accept", "image/avif"), ("accept", "image/webp")]),
        ("/i/a/b?w=1", &[("accept", "image/avif"), ("range", "bytes=0-1")]),
        ("/i/a/b?w=1", &[("accept", "image/avif"), ("if-match", "*")]),
    ] {
        assert!(site.ask(target, fields).is_none(), "{target} {fields:?}");
    }
}

#[test]
fn a_client_that_has_it_is_told_so() {
    let site = Site::new();
    let kept = site.keep("/i/a/b", None);
    let answer = site.ask("/i/a/b", &[("if-none-match", kept.etag())]).unwrap();
    assert!(answer.head().starts_with(b"HTTP/1.1 304 Not Modified\r\n"));
    let response = answer.into_response(Duration::ZERO);
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(site.ask("/i/a/b", &[("if-none-match", "\"x\"")]).unwrap().status, StatusCode::OK);
}

#[test]
fn answers_lapse_with_the_epoch_and_with_their_rendition() {
    let site = Site::new();
    site.keep("/i/a/b", None);
    assert!(site.ask("/i/a/b", &[]).is_some());
    site.memory.remove(KEY);
    assert!(site.ask("/i/a/b", &[]).is_none());
    site.keep("/i/a/b", None);
    site.epoch.advance();
    assert!(site.ask("/i/a/b", &[]).is_none());
}

/// An answer begun before a change and kept after it must not outlive the change.
#[test]
fn an_answer_of_an_older_epoch_is_never_given() {
    let site = Site::new();
    let before = site.front.epoch();
    site.epoch.advance();
    site.keep("/i/a/b", None);
    let settled = Settled { whole: HeaderMap::new(), not_modified: HeaderMap::new() };
    let question = Question { target: b"/i/a/b", accept: None };
    site.front.keep(question, before, KEY, &settled, site.counters.clone());
    assert!(site.ask("/i/a/b", &[]).is_none());
}

#[test]
fn what_is_too_long_is_not_kept() {
    let site = Site::new();
    let target = format!("/i/a/b?{}", "x".repeat(KEY_BYTES_MAX));
    site.keep(&target, None);
    assert!(site.ask(&target, &[]).is_none());
}

#[test]
fn any_number_of_spellings_stays_under_the_cap() {
    let site = Site::new();
    for number in 0..5_000 {
        site.keep(&format!("/i/a/b?utm_source={number}"), None);
    }
    site.front.answers.run_pending_tasks();
    assert!(site.front.answers.weighted_size() <= 1 << 20);
}
