//! When each request is due. The schedule is fixed before the run: nothing a server does can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// A constant-rate schedule: request `n` is due `n / rate` seconds after the start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    rate_per_s: u32,
    requests: u64,
}

/// Of requests that are given up together: far below what a semaphore can count.
const PERMITS_AT_ONCE: u64 = 1 << 20;

/// Requests that are due within this are released together, which makes one late by up to as much. A wake-up for each took a seventh of the generator's processor at half a million
/// requests a second, which it could have asked more with.
const PAUSE_MIN: Duration = Duration::from_micros(250);
/// How soon the clock's thread finds that it is to stop.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Wakes senders as requests fall due, and hands each request out once.
///
/// A thread of its own does the waiting, because a runtime's timer wakes to the millisecond only, which at thousands
/// of requests per second would be most of what is measured. Its queue is a count, so it holds nothing.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    due: Arc<Semaphore>,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Schedule {
    #[must_use]
    pub fn new(start: Instant, rate_per_s: u32, duration: Duration) -> Self {
        let requests = (f64::from(rate_per_s) * duration.as_secs_f64()).round() as u64;
        Self { start, rate_per_s, requests }
    }

    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    /// When request `index` is due.
    #[must_use]
    pub fn due(&self, index: u64) -> Instant {
        self.start + Duration::from_nanos((u128::from(index) * 1_000_000_000 / u128::from(self.rate_per_s)) as u64)
    }

    /// How many requests are due at `now`.
    #[must_use]
    pub fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else { return 0 };
        let due = elapsed.as_nanos() * u128::from(self.rate_per_s) / 1_000_000_000 + 1;
        (due as u64).min(self.requests)
    }
}

impl Pacer {
    /// Starts the clock. Dropping the pacer ends its thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(schedule: Schedule) -> std::io::Result<Self> {
        let due = Arc::new(Semaphore::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (permits, stopped) = (Arc::clone(&due), Arc::clone(&stop));
        std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            let mut released = 0;
            while released < schedule.requests && !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                let due = schedule.due_by(now);
                // Fits: a plan's rate and duration bound the whole count.
                permits.add_permits((due - released) as usize);
                released = due;
                std::thread::sleep(schedule.due(released).saturating_duration_since(now).clamp(PAUSE_MIN, PAUSE_MAX));
            }
        })?;
        Ok(Self { schedule, due, next: AtomicU64::new(0), stop })
    }

    /// Waits for the next request and gives its number and the time it was due; `None` when all have been handed out.
    pub async fn next(&self) -> Option<(u64, Instant)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.schedule.requests {
            return None;
        }
        // The count of permits given out in total equals the requests, so every index below it gets one.
        self.due.acquire().await.ok()?.forget();
        Some((index, self.schedule.due(index)))
    }

    /// Leaves out all requests that were due longer than `patience` ago and were not handed out, and says how many. In one step: a
    /// generator that looks at each would spend on them what the server it shares a machine with could have answered.
    pub async fn give_up(&self, patience: Duration) -> u64 {
        let Some(then) = Instant::now().checked_sub(patience) else { return 0 };
        let late = self.schedule.due_by(then);
        let before = self.next.fetch_max(late, Ordering::Relaxed);
        let mut left = late.saturating_sub(before);
        let given_up = left;
        while left > 0 {
            let step = left.min(PERMITS_AT_ONCE);
            // They were due, so their permits are there, or will be as soon as the clock's thread gets to run.
            let Ok(permits) = self.due.acquire_many(step as u32).await else { break };
            permits.forget();
            left -= step;
        }
        given_up
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3, Duration::from_secs(100));
        assert_eq!(schedule.requests(), 300);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(3), start + Duration::from_secs(1));
        assert_eq!(schedule.due(299) - start, Duration::from_nanos(99_666_666_666));
    }

    #[test]
    fn as_many_are_due_as_have_fallen_due() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1000, Duration::from_secs(2));
        for (millis, due) in [(0, 1), (1, 2), (10, 11), (1999, 2000), (5000, 2000)] {
            assert_eq!(schedule.due_by(start + Duration::from_millis(millis)), due, "{millis} ms");
        }
    }

    #[tokio::test]
    async fn every_request_is_handed_out_once_and_none_early() {
        let schedule = Schedule::new(Instant::now(), 2000, Duration::from_millis(50));
        let pacer = Pacer::start(schedule).expect("a thread");
        let mut seen = 0;
        while let Some((index, due)) = pacer.next().await {
            assert_eq!(index, seen);
            assert!(Instant::now() >= due, "request {index} was handed out early");
            seen += 1;
        }
        assert_eq!(seen, 100);
    }

    #[tokio::test]
    async fn what_waited_too_long_is_given_up_at_once_and_counted_once() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 10_000, Duration::from_millis(200));
        let pacer = Pacer::start(schedule).expect("a thread");
        std::thread::sleep(Duration::from_millis(250));
        let (first, _) = pacer.next().await.expect("a request");
        assert_eq!((first, pacer.give_up(Duration::from_secs(3600)).await), (0, 0), "nothing is that late");
        let given_up = pacer.give_up(Duration::ZERO).await;
        assert_eq!(given_up, 1_999, "all that are due but the one that was handed out");
        assert_eq!((pacer.give_up(Duration::ZERO).await, pacer.next().await.is_none()), (0, true));
    }
}
