//! Answers of the lane as bytes: one buffer for the head, the body beside it, one vectored write for both.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::io::AsyncWrite;

use crate::service::{Body, Persistence, PlainMethod, PreparedAnswer};

thread_local! {
    /// The date of the second, as text: formatting it costs more than a cache look-up.
    static DATE_OF: Cell<(u64, [u8; DATE_BYTES])> = const { Cell::new((u64::MAX, [0; DATE_BYTES])) };
    /// Heads are put together here, and copied only when a socket does not take them at once.
    static HEAD: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(4096));
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

/// An answer on its way out.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: Head,
    body: Bytes,
    /// Whether bytes may rest in the transport (TLS records).
    unflushed: Unflushed,
}

#[derive(Debug, Default)]
enum Head {
    #[default]
    None,
    /// In the thread's buffer: put there by this poll, so no other connection has used it since.
    Shared,
    /// The rest of one that was not taken at once.
    Kept { bytes: Vec<u8>, written: usize },
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Unflushed {
    #[default]
    No,
    Yes,
}

impl Output {
    /// A prepared answer: its head, the fields of the moment, its body.
    pub(super) fn queue_prepared(
        &mut self,
        answer: impl PreparedAnswer,
        method: PlainMethod,
        persistence: Persistence,
    ) {
        HEAD.with_borrow_mut(|head| {
            head.clear();
            head.extend_from_slice(answer.head());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            answer.write_moment(head, now);
            end_head(head, now.as_secs(), persistence);
        });
        self.head = Head::Shared;
        self.body = if method == PlainMethod::Head { Bytes::new() } else { answer.into_body() };
    }

    /// An answer that came the long way.
    pub(super) fn queue(&mut self, response: Response<Body>, method: PlainMethod, persistence: Persistence) {
        let (parts, body) = response.into_parts();
        // `Full` is whole at once.
        let body = futures_util::FutureExt::now_or_never(body.collect());
        let body = body.and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut head = Vec::with_capacity(1024);
        let reason = parts.status.canonical_reason().unwrap_or("");
        // Writing to a Vec cannot fail.
        let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", parts.status.as_u16());
        for (name, value) in &parts.headers {
            if name == CONNECTION || name == TRANSFER_ENCODING || name == DATE {
                continue;
            }
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        let is_bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !is_bodiless && !parts.headers.contains_key(CONTENT_LENGTH) {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        end_head(&mut head, now.as_secs(), persistence);
        self.head = Head::Kept { bytes: head, written: 0 };
        self.body = if is_bodiless || method == PlainMethod::Head { Bytes::new() } else { body };
    }

    /// Writes until everything is with the transport, then flushes it.
    pub(super) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        mut io: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self.head, Head::Shared) {
            match HEAD.with_borrow(|head| self.write_shared(head, io.as_mut(), cx)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        while let Head::Kept { bytes, written } = &mut self.head {
            let wrote = ready!(write_both(io.as_mut(), cx, &bytes[*written..], &self.body))?;
            let of_head = wrote.min(bytes.len() - *written);
            *written += of_head;
            let _ = self.body.split_to(wrote - of_head);
            self.unflushed = Unflushed::Yes;
            if *written == bytes.len() && self.body.is_empty() {
                self.head = Head::None;
            }
        }
        if self.unflushed == Unflushed::Yes {
            ready!(io.poll_flush(cx))?;
            self.unflushed = Unflushed::No;
        }
        Poll::Ready(Ok(()))
    }

    /// One write straight from the thread's buffer; what is not taken is kept. Never leaves `Head::Shared` behind.
    fn write_shared<T: AsyncWrite + Unpin>(
        &mut self,
        head: &[u8],
        io: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let wrote = match write_both(io, cx, head, &self.body) {
            Poll::Ready(wrote) => wrote?,
            Poll::Pending => 0,
        };
        self.unflushed = Unflushed::Yes;
        let of_head = wrote.min(head.len());
        let _ = self.body.split_to(wrote - of_head);
        self.head = if of_head == head.len() && self.body.is_empty() {
            Head::None
        } else {
            Head::Kept { bytes: head[of_head..].to_vec(), written: 0 }
        };
        Ok(())
    }
}

fn write_both<T: AsyncWrite + Unpin>(
    io: Pin<&mut T>,
    cx: &mut Context<'_>,
    head: &[u8],
    body: &[u8],
) -> Poll<io::Result<usize>> {
    let wrote = if body.is_empty() {
        ready!(io.poll_write(cx, head))?
    } else if head.is_empty() {
        ready!(io.poll_write(cx, body))?
    } else {
        ready!(io.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]))?
    };
    if wrote == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    Poll::Ready(Ok(wrote))
}

/// `Date`, `Connection` where it closes, and the empty line.
fn end_head(head: &mut Vec<u8>, now_s: u64, persistence: Persistence) {
    head.extend_from_slice(b"date: ");
    head.extend_from_slice(&date(now_s));
    head.extend_from_slice(match persistence {
        Persistence::KeepAlive => b"\r\n\r\n".as_slice(),
        Persistence::Close => b"\r\nconnection: close\r\n\r\n".as_slice(),
    });
}

/// RFC 9110 §5.6.7, formatted once a second.
fn date(now_s: u64) -> [u8; DATE_BYTES] {
    DATE_OF.with(|kept| {
        let (of_s, text) = kept.get();
        if of_s == now_s {
            return text;
        }
        let mut text = [b' '; DATE_BYTES];
        let formatted = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(now_s));
        let length = formatted.len().min(DATE_BYTES);
        text[..length].copy_from_slice(&formatted.as_bytes()[..length]);
        kept.set((now_s, text));
        text
    })
}
