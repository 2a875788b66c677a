use std::sync::Arc;

use super::*;
use crate::cache::testing::rendition;
use crate::cache::{CacheConfig, CacheMetrics};
use crate::metrics::RequestMetrics;
use crate::render::Rung;
use crate::words::Format;

struct Site {
    front: Front,
    caches: Caches,
    metrics: RequestMetrics,
    // After the caches, which write there.
    _folder: tempfile::TempDir,
}

const KEY: RenditionKey = RenditionKey::from_raw([7; 16]);

impl Site {
    fn new() -> Self {
        let registry = prometheus::Registry::new();
        let folder = tempfile::tempdir().unwrap();
        let config = CacheConfig { disk_dir: folder.path().to_owned(), ..CacheConfig::default() };
        let caches = Caches::open(&config, CacheMetrics::new(&registry).unwrap()).unwrap();
        let metrics = RequestMetrics::new(&registry).unwrap();
        Self { front: Front::new(1 << 20, caches.epoch.clone()), caches, metrics, _folder: folder }
    }

    fn keep(&self, target: &str, accept: Option<&str>) -> Arc<Rendition> {
        let kept = Arc::new(rendition(b"a body", Rung::Final));
        self.caches.memory.insert(KEY, Arc::clone(&kept));
        let fields = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
        };
        let settled = Settled {
            whole: fields(&[("etag", kept.etag()), ("content-length", "6"), ("vary", "Accept")]),
            not_modified: fields(&[("etag", kept.etag()), ("vary", "Accept")]),
            status_from_memory: HeaderValue::from_static("bildkante; hit; detail=memory"),
            status_from_disk: HeaderValue::from_static("bildkante; hit; detail=disk"),
            file_timing: (*b", rung;desc=final, bytes;desc=6").into(),
        };
        let question = Question { target: target.as_bytes(), accept: accept.map(str::as_bytes) };
        self.keep_at(self.caches.epoch.current(), question, &kept, settled);
        kept
    }

    fn keep_at(&self, epoch: u64, question: Question<'_>, rendition: &Rendition, settled: Settled) {
        let counters = |outcome| self.metrics.hit_counters(outcome, Format::Webp, "c", "s");
        self.front.keep(question, (epoch, None), (KEY, rendition), settled, counters);
    }

    fn ask(&self, target: &str, fields: &[(&'static str, &str)]) -> Option<Ready> {
        let fields: HeaderMap =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        self.front.ready_for(target.as_bytes(), &fields, &self.caches, Instant::now())
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
        timing.starts_with("edge;dur=")
            && timing.ends_with(", cache;desc=memory, rung;desc=final, bytes;desc=6, at;desc=1700000000123"),
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
    site.caches.memory.remove(KEY);
    assert!(site.ask("/i/a/b", &[]).is_none());
    site.keep("/i/a/b", None);
    site.caches.epoch.advance();
    assert!(site.ask("/i/a/b", &[]).is_none());
}

/// What memory had no room for is read from the page cache, says so, and moves up; other bytes under the same key are
/// not what the head was made for.
#[tokio::test]
async fn a_body_comes_from_disk_if_it_is_the_very_same() {
    let site = Site::new();
    let kept = site.keep("/i/a/b", None);
    site.caches.memory.remove(KEY);
    let mut purged_since = rendition(b"a body", Rung::Final);
    purged_since.generation = 1;
    for other in [rendition(b"no body", Rung::Final), purged_since] {
        site.caches.disk.put(KEY, Arc::new(other)).await;
        assert!(site.ask("/i/a/b", &[]).is_none());
        assert!(!site.caches.memory.contains(KEY));
    }
    let site = Site::new();
    site.keep("/i/a/b", None);
    site.caches.memory.remove(KEY);
    site.caches.disk.put(KEY, kept).await;
    // A file system that cannot tell what is in memory leaves it to the long way.
    let Some(answer) = site.ask("/i/a/b", &[]) else { return };
    let status = |answer: Ready| answer.into_response(Duration::ZERO).headers()[CACHE_STATUS].clone();
    assert_eq!(status(answer), "bildkante; hit; detail=disk");
    assert_eq!(status(site.ask("/i/a/b", &[]).unwrap()), "bildkante; hit; detail=disk", "and moves up");
    assert_eq!(status(site.ask("/i/a/b", &[]).unwrap()), "bildkante; hit; detail=memory");
}

/// An answer begun before a change and kept after it must not outlive the change.
#[test]
fn an_answer_of_an_older_epoch_is_never_given() {
    let site = Site::new();
    let before = site.front.epoch();
    site.caches.epoch.advance();
    site.keep("/i/a/b", None);
    let empty = HeaderValue::from_static("");
    let settled = Settled {
        whole: HeaderMap::new(),
        not_modified: HeaderMap::new(),
        status_from_memory: empty.clone(),
        status_from_disk: empty,
        file_timing: Box::default(),
    };
    let question = Question { target: b"/i/a/b", accept: None };
    site.keep_at(before, question, &rendition(b"a body", Rung::Final), settled);
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
