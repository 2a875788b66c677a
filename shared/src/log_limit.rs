//! A limit on log lines of one kind, for lines that requests can repeat.
//!
//! A kind is one place in the code. The first [`LINES_MAX`] lines of an interval are written, the others are counted, and
//! the next line that is written tells how many were suppressed. Metrics count what logs leave out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in one interval.
pub const LINES_MAX: u32 = 10;
/// From the first line that counts to the next one that may be written after the limit.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Writes a line by `tracing`'s macro of the level's name, unless there were too many of this place lately:
/// `log_limited!(warn, recipe = %id, %error, "generation failed")`.
#[macro_export]
macro_rules! log_limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::log_limit::LineLimit = $crate::log_limit::LineLimit::new();
        if let Some(admitted) = LIMIT.admit() {
            ::tracing::$level!(suppressed = admitted.suppressed(), $($line)+);
        }
    }};
}

/// The state of one kind.
#[derive(Debug)]
pub struct LineLimit(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

/// A line may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    suppressed: u64,
}

impl Admitted {
    /// Lines of the kind that were not written since the last one that was; `None` (a field that is left out) for none.
    #[must_use]
    pub const fn suppressed(self) -> Option<u64> {
        if self.suppressed == 0 { None } else { Some(self.suppressed) }
    }
}

impl LineLimit {
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Window { began: None, lines: 0, suppressed: 0 }))
    }

    /// Whether a line may be written now.
    pub fn admit(&self) -> Option<Admitted> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<Admitted> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL) {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines == LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(Admitted { suppressed: std::mem::take(&mut window.suppressed) })
    }
}

impl Default for LineLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_then_none_then_how_many_were_left_out() {
        let (limit, start) = (LineLimit::new(), Instant::now());
        let after = |interval: Duration| limit.admit_at(start + interval);
        assert!((0..LINES_MAX).all(|_| after(Duration::ZERO) == Some(Admitted { suppressed: 0 })));
        assert!((0..1000).all(|_| after(INTERVAL - Duration::from_millis(1)).is_none()));
        assert_eq!(after(INTERVAL).and_then(Admitted::suppressed), Some(1000));
        assert_eq!(after(INTERVAL), Some(Admitted { suppressed: 0 }), "told once");
        assert!((2..LINES_MAX).all(|_| after(INTERVAL).is_some()));
        assert_eq!(after(INTERVAL), None, "a new interval, the same limit");
    }

    #[test]
    fn a_line_has_its_own_fields_and_what_was_suppressed() {
        let written = std::sync::Arc::new(Mutex::new(Vec::new()));
        let sink = std::sync::Arc::clone(&written);
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || Sink(std::sync::Arc::clone(&sink))).finish();
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..100 {
                log_limited!(warn, n, "a kind of line");
            }
        });
        let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("text");
        assert_eq!(text.lines().count(), LINES_MAX as usize, "{text}");
        assert!(text.contains("a kind of line n=0") && !text.contains("suppressed"), "{text}");
    }

    struct Sink(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
