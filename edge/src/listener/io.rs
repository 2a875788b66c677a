//! A socket that keeps the time hyper does not: first byte, idle and stalled writes.
//!
//! hyper has a header deadline on HTTP/1 and pings on HTTP/2, and nothing for a peer that stays silent before
//! its first byte, keeps a finished connection open, or stops reading a response. [`WatchedIo`] notes
//! progress with one relaxed atomic store a call; [`Progress::overdue`] is asked by the connection's task
//! every second. Idle counts from the last answer, not from the last byte: pings are bytes too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    pub first_byte: Duration,
    pub idle: Duration,
    pub write_stall: Duration,
}

/// Which deadline a peer missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    FirstByte,
    Idle,
    WriteStall,
}

impl Overdue {
    pub const ALL: [Self; 3] = [Self::FirstByte, Self::Idle, Self::WriteStall];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstByte => "first_byte",
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
    /// When the last request was answered.
    answered_ms: AtomicU64,
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
            answered_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Marks a request as being answered until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest { progress: Arc::clone(self) }
    }

    /// The deadline this connection has missed, if any.
    #[must_use]
    pub fn overdue(&self, deadlines: &Deadlines) -> Option<Overdue> {
        let now = self.now_ms();
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let blocked = self.blocked_since_ms.load(Ordering::Relaxed);
        if blocked != 0 {
            return (since(blocked) > deadlines.write_stall).then_some(Overdue::WriteStall);
        }
        let read = self.read_ms.load(Ordering::Relaxed);
        if read == 0 {
            return (since(0) > deadlines.first_byte).then_some(Overdue::FirstByte);
        }
        if self.active.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let answered = self.answered_ms.load(Ordering::Relaxed);
        let resting = since(if answered == 0 { read } else { answered });
        let is_silent = since(self.written_ms.load(Ordering::Relaxed).max(answered)) > deadlines.idle;
        let is_over = resting > deadlines.idle && (is_silent || resting > deadlines.idle * DRAINING_FACTOR);
        is_over.then_some(Overdue::Idle)
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
}

impl<T> WatchedIo<T> {
    pub fn new(inner: T) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::new());
        (Self { inner, progress: Arc::clone(&progress) }, progress)
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

    const TIGHT: Deadlines =
        Deadlines { first_byte: Duration::ZERO, idle: Duration::ZERO, write_stall: Duration::ZERO };

    async fn later() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    #[tokio::test]
    async fn a_silent_peer_misses_the_first_byte() {
        let (near, _far) = tokio::io::duplex(64);
        let (_io, progress) = WatchedIo::new(near);
        later().await;
        assert_eq!(progress.overdue(&TIGHT), Some(Overdue::FirstByte));
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_stalls_the_write() {
        let (near, _far) = tokio::io::duplex(4);
        let (mut io, progress) = WatchedIo::new(near);
        let write = tokio::time::timeout(Duration::from_millis(5), io.write_all(b"longer than four")).await;
        assert!(write.is_err());
        later().await;
        assert_eq!(progress.overdue(&TIGHT), Some(Overdue::WriteStall));
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
        assert_eq!(progress.overdue(&TIGHT), None);
        drop(request);
        later().await;
        assert_eq!(progress.overdue(&TIGHT), Some(Overdue::Idle));
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
        assert_eq!(progress.overdue(&deadlines), Some(Overdue::Idle));
        Ok(())
    }
}
