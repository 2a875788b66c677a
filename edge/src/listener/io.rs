//! A socket that keeps the time: first byte, head, idle and stalled writes.
//!
//! hyper has a header deadline on HTTP/1 and pings on HTTP/2, and nothing for a peer that stays silent before
//! its first byte, keeps a finished connection open, or stops reading a response. [`WatchedIo`] notes
//! progress with one relaxed atomic store a call; the connection's task asks [`Progress::check`] as seldom as no
//! deadline can be missed by it, so that a resting connection costs a timer every few seconds and nothing else.
//! Idle counts from the last answer, not from the last byte: pings are bytes too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    pub first_byte: Duration,
    /// For a head in the lane that has begun; hyper keeps its own.
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
    read_ms: AtomicU64,
    written_ms: AtomicU64,
    /// Set while a write waits for the peer.
    blocked_since_ms: AtomicU64,
    /// Requests being answered: a connection that waits for a generation is not idle.
    active: AtomicU64,
    /// Requests begun, however they were answered.
    requests: AtomicU64,
    /// When the last request was answered.
    answered_ms: AtomicU64,
    /// Set while the lane has the start of a head.
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
    /// And nobody waits for a next request any more.
    Closing,
}

/// What the lane has of the next request.
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

impl Progress {
    fn new() -> Self {
        Self {
            accepted: Instant::now(),
            read_ms: AtomicU64::new(0),
            written_ms: AtomicU64::new(0),
            blocked_since_ms: AtomicU64::new(0),
            active: AtomicU64::new(0),
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

    /// Notes an answer that took no waiting.
    pub(super) fn answered(&self) {
        self.answered_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
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

    /// The deadline this connection has missed, or when to look again.
    #[must_use]
    pub fn check(&self, deadlines: &Deadlines) -> Check {
        // A deadline that begins to run later is found in time if somebody looks once in the shortest of them.
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
            return Some((Overdue::FirstByte, left(deadlines.first_byte, 0)));
        }
        if self.active.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let head = self.head_since_ms.load(Ordering::Relaxed);
        if head != 0 {
            return Some((Overdue::Head, left(deadlines.head, head)));
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

/// A stream whose progress is noted.
#[derive(Debug)]
pub struct WatchedIo<T> {
    inner: T,
    progress: Arc<Progress>,
    /// Bytes that were read and are to be read again, by whoever takes the connection over.
    unread: Vec<u8>,
    unread_from: usize,
}

impl<T> WatchedIo<T> {
    pub fn new(inner: T) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::new());
        (Self { inner, progress: Arc::clone(&progress), unread: Vec::new(), unread_from: 0 }, progress)
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
        if !self.unread.is_empty() {
            self.read_again(buf);
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if result.is_ready() && buf.filled().len() > filled {
            self.progress.read_ms.store(self.progress.now_ms(), Ordering::Relaxed);
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
        Pin::new(&mut self.inner).poll_flush(cx)
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

    fn overdue(progress: &Progress, deadlines: &Deadlines) -> Option<Overdue> {
        match progress.check(deadlines) {
            Check::Overdue(overdue) => Some(overdue),
            Check::AgainIn(_) => None,
        }
    }

    async fn later() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    #[tokio::test]
    async fn a_silent_peer_misses_the_first_byte() {
        let (near, _far) = tokio::io::duplex(64);
        let (_io, progress) = WatchedIo::new(near);
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), Some(Overdue::FirstByte));
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_stalls_the_write() {
        let (near, _far) = tokio::io::duplex(4);
        let (mut io, progress) = WatchedIo::new(near);
        let write = tokio::time::timeout(Duration::from_millis(5), io.write_all(b"longer than four")).await;
        assert!(write.is_err());
        later().await;
        assert_eq!(overdue(&progress, &TIGHT), Some(Overdue::WriteStall));
    }

    #[tokio::test]
    async fn idle_counts_only_between_requests() -> io::Result<()> {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, progress) = WatchedIo::new(near);
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
        let (mut io, progress) = WatchedIo::new(near);
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
        let (mut io, progress) = WatchedIo::new(near);
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

    /// Whatever begins to run between two looks is found no later than its deadline.
    #[test]
    fn the_next_look_is_never_later_than_the_shortest_deadline() {
        let (_io, progress) = WatchedIo::new(());
        let seconds = Duration::from_secs;
        let deadlines =
            Deadlines { first_byte: seconds(60), head: seconds(5), idle: seconds(60), write_stall: seconds(30) };
        let Check::AgainIn(pause) = progress.check(&deadlines) else { panic!("nothing is overdue") };
        assert_eq!(pause, seconds(5));
    }
}
