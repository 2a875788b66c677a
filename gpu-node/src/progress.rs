//! How far a generation is: `GET /v1/generations/{id}` as JSON, or as server-sent events (WHATWG HTML, section 9.2) where
//! the caller accepts `text/event-stream`.
//!
//! An event is sent when something has changed, at most every [`PACE`]: `progress` with the status, and `end` with the last
//! one, after which the stream ends. Watching changes nothing: a caller that leaves stops no generation, and one that stays
//! keeps none alive.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::wire::GenerationState;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::admission::Admission;

/// Least time between two events.
pub(crate) const PACE: Duration = Duration::from_millis(100);
/// A stream sends something at least this often, so that no proxy takes it for dead.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events a slow reader may leave unread.
pub(crate) const UNREAD_MAX: usize = 4;

/// A whole body, or one that comes event by event.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    Full(Full<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Default for ReplyBody {
    fn default() -> Self {
        Self::Full(Full::default())
    }
}

impl From<Full<Bytes>> for ReplyBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Full(body)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(body) => Pin::new(body).poll_frame(context),
            Self::Events(events) => events.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// The events of a generation, until it is over or `deadline`.
pub(crate) fn events(
    admission: Arc<Admission>,
    id: RecipeId,
    deadline: Instant,
    place: OwnedSemaphorePermit,
) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(UNREAD_MAX);
    let mut changes = admission.changes();
    tokio::spawn(async move {
        let _place = place;
        let mut last = None;
        loop {
            changes.mark_unchanged();
            let now = admission.status(id).await;
            let is_over = now.as_ref().is_none_or(|status| status.state == GenerationState::Done);
            if now != last || is_over {
                let event = if is_over { "end" } else { "progress" };
                if sender.send(event_of(event, &now)).await.is_err() {
                    return;
                }
                last = now;
            }
            if is_over || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(PACE).await;
            let silence = tokio::time::timeout(KEEP_ALIVE, changes.changed()).await;
            if silence.is_err() && sender.send(Bytes::from_static(b":\n\n")).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// `event` with its data; JSON has no line breaks of its own.
pub(crate) fn event_of(event: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".into());
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}
