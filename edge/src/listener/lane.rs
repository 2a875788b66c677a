//! The HTTP/1.1 lane: GET and HEAD without a body, answered with one read and one write each.
//!
//! ```text
//! read ─▶ parse ─ plain ─▶ prepared? ─ yes ─▶ head and body in one vectored write
//!           │                └ no ──▶ Respond::respond ─▶ write
//!           └ anything else ─▶ hyper takes the connection over, with what was read
//! ```
//!
//! Most requests a browser or a CDN sends an image server are plain, and most of them are hits. For those, hyper's
//! general machinery (header maps, a service future, a body stream, encoding) costs more than the work itself. What is
//! not plain is not handled here at all, so that HTTP/1.1 has one implementation of everything that is hard.
//!
//! Invariants: answers leave in the order of their requests; a request is read only when its predecessor's answer is
//! written; nothing is kept for a connection that rests (both buffers are the thread's). A head has at most
//! `header_bytes_max` bytes and `headers_max` fields, whole or not; what is larger is refused here. Behind the last answer
//! the lane reads on for a while, so that the answer is not lost in a reset.

mod head;
mod write;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bildkante_shared::problem::Problem;
use bytes::Bytes;
use http::{Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::head::{FIELDS_MAX, Parsed};
use self::write::Output;
use super::io::{HeadState, Phase, Progress};
use crate::service::{Persistence, PlainMethod, RequestBody, Respond};

/// Bytes that are read and passed over behind a connection's last answer.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// How HTTP/2's preface begins, which no HTTP/1 request does (RFC 9113 §3.4).
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2";

/// Room for one read; heads are far shorter, and what is longer goes on in the connection's own buffer.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    /// Every connection of a worker reads into the same bytes, one at a time.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// For fuzzers: what the lane takes for a request of its own is one, whole, and brings no body along.
///
/// # Panics
/// When it does not.
pub(crate) fn examine(bytes: &[u8]) {
    let parse = |bytes| head::parse(bytes, FIELDS_MAX);
    let Parsed::Plain(head, used) = parse(bytes) else { return };
    assert!(used <= bytes.len() && head.target.starts_with('/'));
    let bytes = &bytes[..used];
    assert!(matches!(parse(bytes), Parsed::Plain(_, again) if again == used), "what follows changes nothing");
    assert!(!matches!(parse(&bytes[..used - 1]), Parsed::Plain(..)), "a head that is not whole");
    let text = bytes.to_ascii_lowercase();
    for name in [&b"\ncontent-length:"[..], b"\ntransfer-encoding:"] {
        assert!(!text.windows(name.len()).any(|window| window == name), "framing in the lane");
    }
    if let Some(request) = head::to_request(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(request.uri().path_and_query().map(http::uri::PathAndQuery::as_str), Some(head.target));
    }
}

/// What a connection in the lane may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneLimits {
    pub(super) head_bytes_max: usize,
    pub(super) fields_max: usize,
    pub(super) requests_max: u64,
    pub(super) switch: Switch,
}

/// Whether the first bytes of a connection may be HTTP/2's preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    ToHttp2,
    Never,
}

/// How the lane ended.
#[derive(Debug)]
pub(super) enum LaneEnd<T> {
    Done,
    PeerError,
    /// What was read of the next request, for hyper to begin with, and how many were answered before it.
    TakeOver {
        io: T,
        read: Vec<u8>,
        served: u64,
    },
}

/// One connection.
#[derive(Debug)]
pub(super) struct Lane<T> {
    io: T,
    peer: SocketAddr,
    progress: Arc<Progress>,
    limits: LaneLimits,
    /// The start of a head, or requests that came with the last one.
    carry: Vec<u8>,
    /// Whether `carry` was looked at and is no whole head.
    wants_more: bool,
    output: Output,
    served: u64,
    persistence: Persistence,
    /// Bytes that may still be read and passed over behind the last answer.
    linger_bytes: usize,
}

/// Why the lane refuses a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Head,
    Fields,
    Target,
    Preface,
}

enum Step {
    /// A request for the long way.
    Ask(Box<Request<RequestBody>>, PlainMethod),
    TakeOver,
    Done,
}

/// What became of the bytes at hand.
enum Look {
    More,
    /// Its answer is in `output`; so many bytes are used up.
    Answered(usize),
    Ask(Box<Request<RequestBody>>, PlainMethod, usize),
    /// The refusal is in `output`.
    Refused,
    Other,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Lane<T> {
    pub(super) fn new(io: T, peer: SocketAddr, progress: Arc<Progress>, limits: LaneLimits) -> Self {
        Self {
            io,
            peer,
            progress,
            limits,
            carry: Vec::new(),
            wants_more: false,
            output: Output::default(),
            served: 0,
            persistence: Persistence::KeepAlive,
            linger_bytes: LINGER_BYTES_MAX,
        }
    }

    /// Serves until the peer or this side closes, or a request comes that is hyper's.
    pub(super) async fn run<R: Respond>(mut self, respond: &R) -> LaneEnd<T> {
        loop {
            match poll_fn(|cx| self.poll_step(cx, respond)).await {
                Err(_) => return LaneEnd::PeerError,
                Ok(Step::Done) => return LaneEnd::Done,
                Ok(Step::TakeOver) => {
                    return LaneEnd::TakeOver { io: self.io, read: self.carry, served: self.served };
                }
                Ok(Step::Ask(request, method)) => {
                    let active = self.progress.enter();
                    let response = respond.respond(*request, self.peer).await;
                    self.output.queue(response, method, self.persistence);
                    drop(active);
                }
            }
        }
    }

    fn poll_step<R: Respond>(&mut self, cx: &mut Context<'_>, respond: &R) -> Poll<io::Result<Step>> {
        loop {
            ready!(self.output.poll_write(Pin::new(&mut self.io), cx))?;
            if self.persistence == Persistence::Close {
                // An error here is the peer's having closed first.
                let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
                if !self.carry.is_empty() {
                    // It has as much time as a head.
                    self.progress.head_is(HeadState::Begun);
                    self.progress.enter_phase(Phase::Answered);
                    ready!(self.poll_linger(cx));
                }
                return Poll::Ready(Ok(Step::Done));
            }
            let look = if self.carry.is_empty() {
                match ready!(self.poll_read_plain(cx, respond))? {
                    Some(look) => look,
                    None => return Poll::Ready(Ok(Step::Done)),
                }
            } else {
                if self.wants_more && ready!(self.poll_read_more(cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                let carry = std::mem::take(&mut self.carry);
                let look = self.look(&carry, respond);
                self.carry = carry;
                self.keep_rest(&look, None);
                look
            };
            match look {
                Look::Answered(_) | Look::Refused => {}
                Look::More => self.wants_more = true,
                Look::Other => return Poll::Ready(Ok(Step::TakeOver)),
                Look::Ask(request, method, _) => return Poll::Ready(Ok(Step::Ask(request, method))),
            }
        }
    }

    /// Passes over what a client sends behind the last answer, for a while: a close before it is read would be a reset, and
    /// a reset may overtake the answer (RFC 9112 §9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            while self.linger_bytes > 0 {
                let mut buffer = ReadBuf::new(scratch);
                let read = match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                    Ok(()) => buffer.filled().len(),
                    Err(_) => 0,
                };
                self.linger_bytes = if read == 0 { 0 } else { self.linger_bytes.saturating_sub(read) };
            }
            Poll::Ready(())
        })
    }

    fn refuse<R: Respond>(&mut self, refusal: Refusal, respond: &R) -> Look {
        self.persistence = Persistence::Close;
        let problem = refusal.problem(&self.limits);
        let response = respond.refused(&unread(), &problem, self.peer);
        self.output.queue(response, PlainMethod::Get, self.persistence);
        Look::Refused
    }

    /// Reads into the thread's buffer and answers from there; `None` at the end of the stream.
    fn poll_read_plain<R: Respond>(&mut self, cx: &mut Context<'_>, respond: &R) -> Poll<io::Result<Option<Look>>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result?,
                // A client that asks once more while this side drains is answered; one that rests is closed by the grace period.
                Poll::Pending if self.progress.is_closing() => return Poll::Ready(Ok(None)),
                Poll::Pending => return Poll::Pending,
            }
            let read = buffer.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let look = self.look(read, respond);
            self.keep_rest(&look, Some(read));
            Poll::Ready(Ok(Some(look)))
        })
    }

    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            self.carry.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Bytes behind an answered request stay for the next look; those of a head that is not whole, too.
    fn keep_rest(&mut self, look: &Look, fresh: Option<&[u8]>) {
        let used = match look {
            Look::Answered(used) | Look::Ask(_, _, used) => *used,
            Look::More | Look::Refused | Look::Other => 0,
        };
        match fresh {
            Some(fresh) => self.carry.extend_from_slice(&fresh[used..]),
            None => drop(self.carry.drain(..used)),
        }
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
        self.wants_more = false;
        self.progress.head_is(match (look, self.carry.is_empty()) {
            (Look::More, _) => HeadState::Begun,
            _ => HeadState::None,
        });
    }

    fn look<R: Respond>(&mut self, bytes: &[u8], respond: &R) -> Look {
        let (head, used) = match head::parse(bytes, self.limits.fields_max) {
            Parsed::Plain(head, used) if used <= self.limits.head_bytes_max => (head, used),
            Parsed::Partial if bytes.len() < self.limits.head_bytes_max => return Look::More,
            Parsed::Plain(..) | Parsed::Partial => return self.refuse(self.too_long(bytes), respond),
            Parsed::TooManyFields if self.limits.fields_max <= FIELDS_MAX => {
                return self.refuse(Refusal::Fields, respond);
            }
            Parsed::Other if bytes.starts_with(PREFACE_LINE) && !self.may_switch() => {
                return self.refuse(Refusal::Preface, respond);
            }
            Parsed::TooManyFields | Parsed::Other => return Look::Other,
        };
        let started = Instant::now();
        let is_last = self.served + 1 >= self.limits.requests_max;
        let persistence = match head.persistence {
            Persistence::KeepAlive if !is_last && !self.progress.is_draining() => Persistence::KeepAlive,
            Persistence::KeepAlive | Persistence::Close => Persistence::Close,
        };
        if let Some(answer) = respond.prepared(&head, self.peer, started) {
            (self.served, self.persistence) = (self.served + 1, persistence);
            self.progress.answered();
            self.output.queue_prepared(answer, head.method, self.persistence);
            return Look::Answered(used);
        }
        match head::to_request(&Bytes::copy_from_slice(&bytes[..used])) {
            Some(request) => {
                (self.served, self.persistence) = (self.served + 1, persistence);
                Look::Ask(Box::new(request), head.method, used)
            }
            None => Look::Other,
        }
    }

    /// Where not even the request line has ended, it is the target that is too long (RFC 9112 §3).
    fn too_long(&self, bytes: &[u8]) -> Refusal {
        let line = &bytes[..bytes.len().min(self.limits.head_bytes_max)];
        if line.contains(&b'\n') { Refusal::Head } else { Refusal::Target }
    }

    /// Prior knowledge is for the first bytes of a connection (RFC 9113 §3.3).
    fn may_switch(&self) -> bool {
        self.served == 0 && self.limits.switch == Switch::ToHttp2
    }
}

/// Stands for a request whose head was not read: `- *` in a log.
fn unread() -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_static("*");
    // A token (RFC 9110 §5.6.2), so it is a method.
    if let Ok(none) = Method::from_bytes(b"-") {
        *request.method_mut() = none;
    }
    request
}

impl Refusal {
    fn problem(self, limits: &LaneLimits) -> Problem {
        let (bytes, fields) = (limits.head_bytes_max, limits.fields_max);
        match self {
            Self::Head => {
                Problem::new(431, "head-too-large", "Head too large", format!("a head has at most {bytes} bytes"))
            }
            Self::Fields => too_many_fields(fields),
            Self::Target => {
                Problem::new(414, "target-too-long", "Target too long", format!("a head has at most {bytes} bytes"))
            }
            Self::Preface => {
                Problem::new(505, "no-http2-here", "No HTTP/2 here", "this connection speaks HTTP/1.1 (RFC 9113 §3.3)")
            }
        }
    }
}

/// For every protocol: a head with more fields than are read.
pub(super) fn too_many_fields(fields_max: usize) -> Problem {
    let detail = format!("a head has at most {fields_max} fields");
    Problem::new(431, "too-many-fields", "Too many fields", detail)
}

#[cfg(test)]
pub(super) mod tests;
