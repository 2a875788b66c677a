//! `/preview/events`: that something was decided, as server-sent events (HTML Living Standard, "Server-sent events").
//!
//! A browser's `EventSource` connects anew when a response ends, and says what it saw last. Each response here waits
//! for one change, tells it and ends: bodies of this edge are whole in memory. An event says that there was a change
//! and no more, so it shows no reader anything of another's campaign; the page asks for itself again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::Semaphore;

use crate::service::Body;
use crate::shared_state::Published;

pub(super) const PATH: &str = "/events";
/// Readers who wait at once, unless the process says how many connections there are for them.
const STREAMS: usize = 128;
/// How long one response waits; proxies give up after half a minute or more.
const WAIT: Duration = Duration::from_secs(20);
/// How soon a browser connects anew.
const RETRY_MS: u32 = 250;
/// The same while there is no place.
const FULL_RETRY_MS: u32 = 5_000;
const LAST_EVENT_ID: &str = "last-event-id";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Events {
    published: Published,
    streams: Arc<Semaphore>,
    wait: Duration,
}

impl Events {
    pub(super) fn new(published: Published) -> Self {
        Self { published, streams: Arc::new(Semaphore::new(STREAMS)), wait: WAIT }
    }

    /// At most so many readers wait at once: who acts needs connections as well.
    pub(super) fn with_streams(self, streams: usize) -> Self {
        Self { streams: Arc::new(Semaphore::new(streams)), ..self }
    }

    /// The places of all who wait on this listener, whatever it is that they wait for.
    pub(super) const fn streams(&self) -> &Arc<Semaphore> {
        &self.streams
    }

    /// The next change behind the one that the browser, or the query's `after`, saw last.
    pub(super) async fn respond(&self, headers: &HeaderMap, query: Option<&str>) -> Response<Body> {
        let Ok(_stream) = self.streams.try_acquire() else {
            return full();
        };
        let mut changes = self.published.watch();
        let after = seen(headers, query).unwrap_or_else(|| *changes.borrow());
        let changed = tokio::time::timeout(self.wait, changes.wait_for(|seq| *seq != after)).await;
        let seq = match changed {
            Ok(Ok(seq)) => *seq,
            // The process ends, or nothing happened.
            Ok(Err(_)) | Err(_) => after,
        };
        let name = if seq == after { "quiet" } else { "change" };
        event(format!("retry: {RETRY_MS}\nid: {seq}\nevent: {name}\ndata: {seq}\n\n"))
    }
}

/// The answer to a reader for whom there is no place: an `EventSource` gives up for good where it is answered with an
/// error.
pub(crate) fn full() -> Response<Body> {
    event(format!("retry: {FULL_RETRY_MS}\n\n"))
}

/// What a reader saw last.
pub(crate) fn seen(headers: &HeaderMap, query: Option<&str>) -> Option<u64> {
    let field = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.parse().ok());
    let named = || query?.split('&').find_map(|pair| pair.strip_prefix("after="))?.parse().ok();
    field.or_else(named)
}

/// One event, and the end of the answer.
pub(crate) fn event(text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::shared_state::State;
    use crate::words::Epoch;

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_waits_for_a_change_and_names_it() {
        let published = Published::new(State::empty("test".into()), Epoch::default());
        let events = Events { wait: Duration::from_millis(5), ..Events::new(published) };
        let quiet = text(events.respond(&HeaderMap::new(), None).await).await;
        assert_eq!(quiet, "retry: 250\nid: 0\nevent: quiet\ndata: 0\n\n");
        // What was missed while the browser connected anew is told at once.
        let missed = text(events.respond(&HeaderMap::new(), Some("after=7")).await).await;
        assert!(missed.contains("event: change\ndata: 0\n"), "{missed}");
    }

    #[tokio::test]
    async fn more_streams_than_there_are_places_are_told_to_come_back() {
        let events = Events::new(Published::new(State::empty("test".into()), Epoch::default())).with_streams(1);
        let _taken = events.streams.try_acquire().unwrap();
        let refused = events.respond(&HeaderMap::new(), None).await;
        assert_eq!(text(refused).await, "retry: 5000\n\n", "an error would end the browser's stream for good");
    }
}
