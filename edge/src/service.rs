//! What a listener and those who answer on it agree on: requests, bodies and the trait [`Respond`].
//!
//! A listener knows HTTP and connections, a responder knows answers; neither imports the other. Invariants: a body that leaves is
//! whole in memory; a [`PlainHead`] borrows the connection's bytes, so that an answer that is prepared costs no header map.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bildkante_shared::problem::Problem;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Frame, Incoming, SizeHint};

/// Every body this edge sends is whole in memory.
pub(crate) type Body = Full<Bytes>;

/// Answers requests; cannot fail, for an error is a response too.
pub trait Respond: Send + Sync + 'static {
    type Prepared: PreparedAnswer;

    fn respond(&self, request: Request<RequestBody>, peer: SocketAddr) -> impl Future<Output = Response<Body>> + Send;

    /// The answer to a request that the listener refuses by itself.
    fn refused(&self, request: &Request<()>, problem: &Problem, peer: SocketAddr) -> Response<Body>;

    /// A prepared answer to a plain request; `None` sends it the long way, through [`Self::respond`].
    fn prepared(&self, _head: &PlainHead<'_>, _peer: SocketAddr, _started: Instant) -> Option<Self::Prepared> {
        None
    }
}

/// An answer whose head is text already.
pub trait PreparedAnswer {
    /// Status line and fields, without the empty line and without what differs from moment to moment.
    fn head(&self) -> &[u8];

    /// The fields of the moment, as lines of a head. `now` is the time since 1970.
    fn write_moment(&self, head: &mut Vec<u8>, now: Duration);

    fn into_body(self) -> Bytes;
}

/// For responders that prepare nothing.
impl PreparedAnswer for Infallible {
    fn head(&self) -> &[u8] {
        match *self {}
    }

    fn write_moment(&self, _head: &mut Vec<u8>, _now: Duration) {
        match *self {}
    }

    fn into_body(self) -> Bytes {
        match self {}
    }
}

/// What a request brings along.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Incoming(Incoming),
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(incoming) => incoming.size_hint(),
        }
    }
}

/// A GET or HEAD whose fields are still bytes of the connection.
#[derive(Debug)]
pub struct PlainHead<'b> {
    /// All of it, as it was sent.
    pub(crate) bytes: &'b [u8],
    pub method: PlainMethod,
    /// Path and query as they were sent.
    pub target: &'b str,
    /// The only `Accept`, if there is one.
    pub accept: Option<&'b [u8]>,
    pub if_none_match: Option<&'b [u8]>,
    /// Fields that make the answer something else than the whole representation or a 304 to `if_none_match`.
    pub special: Special,
    pub(crate) persistence: Persistence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainMethod {
    Get,
    Head,
}

/// Whether a prepared answer can be considered at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    None,
    /// A range, a precondition other than one `If-None-Match`, or a list field in several lines.
    Some,
}

/// What the client wants of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    KeepAlive,
    Close,
}
