//! A socket that keeps the time: first byte, head, idle and stalled writes.
//!
//! hyper has a header deadline on HTTP/1 and pings on HTTP/2, and nothing for a peer that stays silent before
//! its first byte, keeps a finished connection open, or stops reading a response. [`WatchedIo`] notes
//! progress with one relaxed atomic store a call; the connection's task asks [`Progress::check`] as seldom as no
//! deadline can be missed by it, so that a resting connection costs a timer every few seconds and nothing else.
//! Idle counts from the last answer, not from the last byte: pings are bytes too. A head has its time from its first byte on,
//! in every protocol.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    pub first_byte: Duration,
    /// For a head that has begun; a connection that rests between two has `idle`.
    pub head: Duration,
    pub idle: Duration,
    pub write_stall: Duration,
}

impl Deadlines {
    fn shortest(&self) -> Duration {
        self.first_byte.min(self.head).min(self.idle).min(self.write_stall)
    }
}

/// Which deadline a peer missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    FirstByte,
    Head,
    Idle,
    WriteStall,
}

impl Overdue {
    pub const ALL: [Self; 4] = [Self::FirstByte, Self::Head, Self::Idle, Self::WriteStall];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
            Self::Head => "head",
            Self::Idle => "idle",
            Self::WriteStall => "write_stall",
        }
    }
}

/// When a connection last moved, in milliseconds since it was accepted; 0 means never.
#[derive(Debug)]
pub struct Progress {
    accepted: Instant,
    /// When its protocol began, behind a TLS handshake; 0 before.
    opened_ms: AtomicU64,
    read_ms: AtomicU64,
    written_ms: AtomicU64,
    /// Set while a write waits for the peer.
    blocked_since_ms: AtomicU64,
    /// Requests being answered: a connection that waits for a generation is not idle.
    active: AtomicU64,
    /// Answers whose bodies have not left yet. No deadline asks for them: a peer that takes nothing is idle.
    leaving: AtomicU64,
    /// Requests begun; those that the lane answers itself are added when it ends.
    requests: AtomicU64,
    /// When the last request was answered.
    answered_ms: AtomicU64,
    /// Set while a head has begun and is not whole.
    head_since_ms: AtomicU64,
    phase: AtomicU8,
}

/// Whether a connection is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    Open,
    /// The next answer is the last.
    Draining,
    /// And no next request is waited for any more.
    Closing,
    /// The last answer is written; what still comes is passed over.
    Answered,
}

/// What has come of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadState {
    None,
    Begun,
}

/// What a look at a connection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Overdue(Overdue),
    /// No deadline can pass before this much time has.
    AgainIn(Duration),
}

/// How many times `idle` a connection may outlive its last request while bytes still leave it: time for a slow reader,
/// and an end for a client that does nothing but answer HTTP/2 pings.
const DRAINING_FACTOR: u32 = 10;

/// A connection that moved within this much time may be about to be asked something.
const RESTS_FROM_MS: u64 = 1000;

impl Progress {
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            accepted: Instant::now(),
            opened_ms: AtomicU64::new(0),
            read_ms: AtomicU64::new(0),
            written_ms: AtomicU64::new(0),
            blocked_since_ms: AtomicU64::new(0),
            active: AtomicU64::new(0),
            leaving: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            head_since_ms: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Open as u8),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Marks a request as being answered until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        ActiveRequest { progress: Arc::clone(self) }
    }

    /// `body` as bytes by which this connection is known to be busy until the last of them are written.
    pub(super) fn leaving(self: &Arc<Self>, body: Bytes) -> Bytes {
        self.leaving.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Leaving { body, progress: Arc::clone(self) })
    }

    /// Notes an answer that took no waiting.
    pub(super) fn answered(&self) {
        self.answered_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// So many requests were served before, and nothing of the next one is held against its time any more.
    pub(super) fn taken_over(&self, requests: u64) {
        self.requests.store(requests, Ordering::Relaxed);
        self.head_is(HeadState::None);
    }

    /// How long nothing has been asked for, if this connection can be closed for another one.
    pub(super) fn rested(&self) -> Option<Duration> {
        let now = self.now_ms();
        let of = |what: &AtomicU64| what.load(Ordering::Relaxed);
        if of(&self.opened_ms) == 0 || self.is_leaving() {
            return None;
        }
        let moved = of(&self.opened_ms).max(of(&self.read_ms)).max(of(&self.written_ms));
        let is_busy = self.is_active() || of(&self.head_since_ms) != 0 || of(&self.blocked_since_ms) != 0;
        if is_busy || now.saturating_sub(moved) < RESTS_FROM_MS {
            return None;
        }
        Some(Duration::from_millis(now.saturating_sub(of(&self.answered_ms))))
    }

    /// One that has rested for so long, or is being answered.
    #[cfg(test)]
    pub(super) fn resting(rested: Option<Duration>) -> Self {
        let progress = Self::new();
        progress.active.store(u64::from(rested.is_none()), Ordering::Relaxed);
        progress.opened_ms.store(1, Ordering::Relaxed);
        let accepted = Instant::now().checked_sub(rested.unwrap_or_default()).unwrap_or_else(Instant::now);
        Self { accepted, ..progress }
    }

    /// Whether a request is being answered.
    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) != 0
    }

    pub(super) fn head_is(&self, state: HeadState) {
        let begun = self.head_since_ms.load(Ordering::Relaxed);
        match state {
            HeadState::Begun if begun == 0 => self.head_since_ms.store(self.now_ms(), Ordering::Relaxed),
            HeadState::None if begun != 0 => self.head_since_ms.store(0, Ordering::Relaxed),
            HeadState::Begun | HeadState::None => {}
        }
    }

    pub(super) fn enter_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Relaxed) >= Phase::Draining as u8
    }

    pub(super) fn is_closing(&self) -> bool {
        self.phase.load(Ordering::Relaxed) >= Phase::Closing as u8
    }

    pub(super) fn is_answered(&self) -> bool {
        self.phase.load(Ordering::Relaxed) >= Phase::Answered as u8
    }

    /// The deadline this connection has missed, or when to look again.
    #[must_use]
    pub fn check(&self, deadlines: &Deadlines) -> Check {
        // A deadline that begins to run later is found in time by one look in the shortest of them.
        let again = deadlines.shortest();
        match self.running(deadlines) {
            None => Check::AgainIn(again),
            Some((overdue, left)) if left.is_zero() => Check::Overdue(overdue),
            Some((_, left)) => Check::AgainIn(left.min(again)),
        }
    }

    /// The deadline that runs now, and what is left of it.
    fn running(&self, deadlines: &Deadlines) -> Option<(Overdue, Duration)> {
        let now = self.now_ms();
        let left = |of: Duration, then: u64| of.saturating_sub(Duration::from_millis(now.saturating_sub(then)));
        let blocked = self.blocked_since_ms.load(Ordering::Relaxed);
        if blocked != 0 {
            return Some((Overdue::WriteStall, left(deadlines.write_stall, blocked)));
        }
        let read = self.read_ms.load(Ordering::Relaxed);
        if read == 0 {
            return Some((Overdue::FirstByte, left(deadlines.first_byte, self.opened_ms.load(Ordering::Relaxed))));
        }
        let head = self.head_since_ms.load(Ordering::Relaxed);
        if head != 0 {
            return Some((Overdue::Head, left(deadlines.head, head)));
        }
        if self.is_active() {
            return None;
        }
        let answered = self.answered_ms.load(Ordering::Relaxed);
        let resting = if answered == 0 { read } else { answered };
        // Bytes that still leave are a slow reader's, up to a point: pongs are bytes too.
        let silent = left(deadlines.idle, self.written_ms.load(Ordering::Relaxed).max(resting));
        Some((Overdue::Idle, silent.min(left(deadlines.idle * DRAINING_FACTOR, resting))))
    }
}

/// A request in the making; dropping it ends it.
#[derive(Debug)]
pub struct ActiveRequest {
    progress: Arc<Progress>,
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.progress.answered_ms.store(self.progress.now_ms(), Ordering::Relaxed);
        self.progress.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body on its way.
struct Leaving {
    body: Bytes,
    progress: Arc<Progress>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.progress.leaving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose progress is noted.
#[derive(Debug)]
pub struct WatchedIo<T> {
    inner: T,
    progress: Arc<Progress>,
    /// Bytes that were read and are to be read again, by the protocol that takes the connection over.
    unread: Vec<u8>,
    unread_from: usize,
    heads: Heads,
}

/// How the start of a head is told from other bytes.
#[derive(Debug)]
pub(super) enum Heads {
    /// The reader says so ([`Progress::head_is`]).
    Told,
    /// Every byte between two requests begins one.
    Http1,
    Http2(Frames),
}

/// The place in a stream of HTTP/2 frames, as far as heads are concerned: a field block begins with HEADERS and ends with
/// the first frame that says END_HEADERS (RFC 9113 §4.3). The preface counts as a head.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; FRAME_HEADER_BYTES],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the preface or of a payload that are yet to come.
    left: usize,
    head: HeadState,
    ends_head: bool,
}

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// Frame types and the flag (RFC 9113 §6.2, §6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Frames {
    pub(super) const fn new() -> Self {
        Self { header: [0; FRAME_HEADER_BYTES], have: 0, left: PREFACE_BYTES, head: HeadState::Begun, ends_head: true }
    }

    /// Walks over what was read: what is under way behind it, and whether a head has ended in it.
    fn walk(&mut self, mut bytes: &[u8]) -> (HeadState, bool) {
        let mut has_ended = false;
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = (FRAME_HEADER_BYTES - self.have).min(bytes.len());
                let (header, rest) = bytes.split_at(wanted);
                self.header[self.have..self.have + wanted].copy_from_slice(header);
                self.have += wanted;
                bytes = rest;
                if self.have < FRAME_HEADER_BYTES {
                    break;
                }
                let [a, b, c, kind, flags, ..] = self.header;
                self.have = 0;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.head = HeadState::Begun;
                    self.ends_head = flags & END_HEADERS != 0;
                }
            }
            let taken = self.left.min(bytes.len());
            bytes = &bytes[taken..];
            self.left -= taken;
            if self.left == 0 && self.ends_head {
                self.head = HeadState::None;
                self.ends_head = false;
                has_ended = true;
            }
        }
        (self.head, has_ended)
    }
}

impl<T> WatchedIo<T> {
    /// Notes the progress of `inner`, whose protocol begins now.
    pub fn new(inner: T, progress: Arc<Progress>) -> Self {
        progress.opened_ms.store(progress.now_ms(), Ordering::Relaxed);
        Self { inner, progress, unread: Vec::new(), unread_from: 0, heads: Heads::Told }
    }

    /// From here on heads are told apart like this.
    pub(super) fn watch_heads(&mut self, heads: Heads) {
        self.heads = heads;
    }

    fn note_read(&mut self, bytes: &[u8]) {
        match &mut self.heads {
            Heads::Told => {}
            Heads::Http1 if self.progress.is_active() => {}
            Heads::Http1 => self.progress.head_is(HeadState::Begun),
            Heads::Http2(frames) => {
                let (state, has_ended) = frames.walk(bytes);
                // The next head has its own time, also where it begins in the same read.
                if has_ended {
                    self.progress.head_is(HeadState::None);
                }
                self.progress.head_is(state);
            }
        }
    }

    /// Puts bytes back in front of what is yet to come.
    pub(super) fn unread(&mut self, bytes: Vec<u8>) {
        (self.unread, self.unread_from) = (bytes, 0);
    }

    fn read_again(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.unread[self.unread_from..];
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        self.unread_from += length;
        if self.unread_from == self.unread.len() {
            self.unread(Vec::new());
        }
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(_)) => {
                self.progress.blocked_since_ms.store(0, Ordering::Relaxed);
                self.progress.written_ms.store(self.progress.now_ms(), Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let now = self.progress.now_ms();
                let _ = self.progress.blocked_since_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        if !self.unread.is_empty() {
            self.read_again(buf);
            self.note_read(&buf.filled()[filled..]);
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if result.is_ready() && buf.filled().len() > filled {
            self.progress.read_ms.store(self.progress.now_ms(), Ordering::Relaxed);
            self.note_read(&buf.filled()[filled..]);
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        // Over TLS a write is taken at once and waits here.
        let blocked = self.progress.blocked_since_ms.load(Ordering::Relaxed);
        match result {
            Poll::Pending if blocked == 0 => {
                self.progress.blocked_since_ms.store(self.progress.now_ms(), Ordering::Relaxed);
            }
            Poll::Ready(Ok(())) if blocked != 0 => self.progress.blocked_since_ms.store(0, Ordering::Relaxed),
            _ => {}
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TIGHT: Deadlines = Deadlines {
        first_byte: Duration::ZERO,
        head: Duration::ZERO,
        idle: Duration::ZERO,
        write_stall: Duration::ZERO,
    };

    fn watched<T>(inner: T) -> (WatchedIo<T>, Arc<Progress>) {
        let progress = Arc::new(Progress::new());
        (WatchedIo::new(inner, Arc::clone(&progress)), progress)
    }

    fn overdue(progress: &Progress, deadlines: &Deadlines) -> Option<Overdue> {
        match progress.check(deadlines) {
            Check::Overdue(overdue) => Some(overdue),
            Check::AgainIn(_) => None,
        }
    }

    async fn later() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    #[test]
    fn neither_a_handshake_nor_an_answer_that_leaves_is_rest() {
        let progress = Arc::new(Progress::resting(Some(Duration::from_secs(9))));
        assert!(progress.rested().is_some());
        let body = progress.leaving(Bytes::from_static(b"body"));
        let rest = body.slice(2..);
        drop(body);
        assert_eq!((progress.rested(), &rest[..]), (None, &b"dy"[..]));
        drop(rest);
        assert!(progress.rested().is_some());
        progress.opened_ms.store(0, Ordering::Relaxed);
        assert_eq!(progress.rested(), None, "its handshake is not over");
    }

    #[tokio::test]
    async fn a_silent_peer_misses_the_first_byte() {
        let (near, _far) = tokio::io::duplex(64);
        let (_io, progress) = watched(near);
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), Some(Overdue::FirstByte));
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_stalls_the_write() {
        let (near, _far) = tokio::io::duplex(4);
        let (mut io, progress) = watched(near);
        let write = tokio::time::timeout(Duration::from_millis(5), io.write_all(b"longer than four")).await;
        assert!(write.is_err());
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), Some(Overdue::WriteStall));
    }

    #[tokio::test]
    async fn idle_counts_only_between_requests() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, progress) = watched(near);
        far.write_all(b"GET").await?;
        let mut buf = [0; 3];
        io.read_exact(&mut buf).await?;
        let request = progress.enter();
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), None);
        drop(request);
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), Some(Overdue::Idle));
        Ok(())
    }

    /// Pongs are bytes too, and no reason to keep a connection for ever.
    #[tokio::test]
    async fn bytes_without_requests_do_not_hold_a_connection_for_ever() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, progress) = watched(near);
        far.write_all(b"GET").await?;
        let mut buf = [0; 3];
        io.read_exact(&mut buf).await?;
        drop(progress.enter());
        let idle = Duration::from_millis(2);
        let deadlines = Deadlines { idle, ..TIGHT };
        tokio::time::sleep(idle * (DRAINING_FACTOR + 5)).await;
        io.write_all(b"pong").await?;
        assert_eq!(overdue(&progress, &deadlines), Some(Overdue::Idle));
        Ok(())
    }

    #[tokio::test]
    async fn a_head_that_is_begun_has_a_deadline_of_its_own() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, progress) = watched(near);
        far.write_all(b"GET").await?;
        let mut buf = [0; 3];
        io.read_exact(&mut buf).await?;
        let minute = Duration::from_secs(60);
        let deadlines = Deadlines { first_byte: minute, head: Duration::ZERO, idle: minute, write_stall: minute };
        assert_eq!(overdue(&progress, &deadlines), None);
        progress.head_is(HeadState::Begun);
        assert_eq!(overdue(&progress, &deadlines), Some(Overdue::Head));
        progress.head_is(HeadState::None);
        assert_eq!(overdue(&progress, &deadlines), None);
        Ok(())
    }

    /// A head over HTTP/2 lasts from its first frame to the end of its last, however they are cut; other frames are none.
    #[test]
    fn heads_are_found_among_frames() {
        let frame = |kind: u8, flags: u8, length: u8| {
            [&[0, 0, length, kind, flags, 0, 0, 0, 1][..], &vec![7; usize::from(length)]].concat()
        };
        let preface = vec![b'P'; PREFACE_BYTES];
        let stream = [
            (preface, HeadState::None),
            (frame(4, 0, 6), HeadState::None),
            (frame(6, 0, 8), HeadState::None),
            (frame(HEADERS, END_HEADERS, 5), HeadState::None),
            (frame(HEADERS, 0, 5), HeadState::Begun),
            (frame(CONTINUATION, 0, 0), HeadState::Begun),
            (frame(CONTINUATION, END_HEADERS, 0), HeadState::None),
            (frame(0, 1, 255), HeadState::None),
        ];
        for step in 1..40 {
            let mut frames = Frames::new();
            for (part, behind) in &stream {
                let states: Vec<_> = part.chunks(step).map(|piece| frames.walk(piece).0).collect();
                assert_eq!(states.last(), Some(behind), "{step} {part:?}");
            }
        }
        let mut frames = Frames::new();
        assert_eq!(frames.walk(b"PRI * HT"), (HeadState::Begun, false));
        assert_eq!(frames.walk(&[7; PREFACE_BYTES - 8]), (HeadState::None, true));
        let head = frame(HEADERS, END_HEADERS, 5);
        assert_eq!(frames.walk(&head[..9]), (HeadState::Begun, false));
        assert_eq!(frames.walk(&[&head[9..], &head[..10]].concat()), (HeadState::Begun, true));
        assert_eq!(frames.walk(&head[10..]), (HeadState::None, true));
    }

    #[tokio::test]
    async fn between_requests_the_first_byte_begins_a_head() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, progress) = watched(near);
        io.watch_heads(Heads::Http1);
        let mut buf = [0; 3];
        let minute = Duration::from_secs(60);
        let deadlines = Deadlines { first_byte: minute, head: Duration::ZERO, idle: minute, write_stall: minute };
        let request = progress.enter();
        far.write_all(b"bod").await?;
        io.read_exact(&mut buf).await?;
        assert_eq!(overdue(&progress, &deadlines), None, "a body is no head");
        drop(request);
        assert_eq!(overdue(&progress, &deadlines), None, "nor is rest");
        far.write_all(b"GET").await?;
        io.read_exact(&mut buf).await?;
        assert_eq!(overdue(&progress, &deadlines), Some(Overdue::Head));
        Ok(())
    }

    /// A deadline that begins to run between two looks is found no later than its deadline.
    #[test]
    fn the_next_look_is_never_later_than_the_shortest_deadline() {
        let (_io, progress) = watched(());
        let seconds = Duration::from_secs;
        let deadlines =
            Deadlines { first_byte: seconds(60), head: seconds(5), idle: seconds(60), write_stall: seconds(30) };
        let Check::AgainIn(pause) = progress.check(&deadlines) else { panic!("nothing is overdue") };
        assert_eq!(pause, seconds(5));
    }
}
