//! How many jobs may wait for the render pool: as many as it has been getting to in time.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain 1989) on the delay jobs have had in the queue, the signal
//! that CoDel uses (Nichols and Jacobson 2012): a queue of fixed length is seconds long when encodes are slow and empty
//! when they are fast. A job that waited longer than the target shrinks the queue, at most once per target; one that
//! started well within it lets it grow again. What does not fit is refused at once, and its reader gets a stand-in
//! instead of a wait.

use std::time::{Duration, Instant};

/// The share of the queue that remains after a job waited too long.
const DECREASE: f64 = 0.7;

#[derive(Debug)]
pub(super) struct QueueLimit {
    jobs: f64,
    jobs_min: f64,
    jobs_max: f64,
    delay_target: Duration,
    decreased_at: Option<Instant>,
}

impl QueueLimit {
    /// Begins at `jobs_max` and never falls below `jobs_min`.
    #[allow(clippy::cast_precision_loss, reason = "queues are far below 2^52 jobs")]
    pub(super) fn new(jobs_min: usize, jobs_max: usize, delay_target: Duration) -> Self {
        let jobs_max = jobs_max.max(1) as f64;
        Self {
            jobs: jobs_max,
            jobs_min: (jobs_min.max(1) as f64).min(jobs_max),
            jobs_max,
            delay_target,
            decreased_at: None,
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and `jobs_max`")]
    pub(super) fn jobs(&self) -> usize {
        self.jobs as usize
    }

    /// A job whose caller waits has started after `waited`, and left `waiting` others behind.
    #[allow(clippy::cast_precision_loss, reason = "queues are far below 2^52 jobs")]
    pub(super) fn observe(&mut self, waited: Duration, waiting: usize, now: Instant) {
        if waited <= self.delay_target {
            if waited < self.delay_target / 2 {
                self.jobs = (self.jobs + 1.0).min(self.jobs_max);
            }
            return;
        }
        let is_due = self.decreased_at.is_none_or(|at| now.saturating_duration_since(at) >= self.delay_target);
        if is_due {
            // From what is there: a limit far above it would take long to bite.
            let from = self.jobs.min((waiting + 1) as f64);
            self.jobs = (from * DECREASE).max(self.jobs_min);
            self.decreased_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(500);

    #[test]
    fn jobs_that_wait_too_long_shrink_the_queue_once_per_target_and_never_to_nothing() {
        let mut limit = QueueLimit::new(2, 256, TARGET);
        let now = Instant::now();
        assert_eq!(limit.jobs(), 256);
        limit.observe(TARGET * 2, 99, now);
        assert_eq!(limit.jobs(), 70);
        limit.observe(TARGET * 2, 98, now + TARGET / 2);
        assert_eq!(limit.jobs(), 70, "one slow moment counts once");
        for n in 1..50 {
            limit.observe(TARGET * 2, 60, now + TARGET * n);
        }
        assert_eq!(limit.jobs(), 2);
    }

    #[test]
    fn jobs_in_time_let_it_grow_one_by_one() {
        let mut limit = QueueLimit::new(2, 8, TARGET);
        let now = Instant::now();
        limit.observe(TARGET * 2, 0, now);
        assert_eq!(limit.jobs(), 2);
        limit.observe(TARGET * 3 / 4, 0, now);
        assert_eq!(limit.jobs(), 2, "between half the target and the target nothing changes");
        for _ in 0..3 {
            limit.observe(TARGET / 4, 0, now);
        }
        assert_eq!(limit.jobs(), 5);
        (0..100).for_each(|_| limit.observe(Duration::ZERO, 0, now));
        assert_eq!(limit.jobs(), 8);
    }

    /// The law in a loop: a pool that does 10 jobs a second, asked for 100, settles at a delay near the target.
    #[test]
    fn an_overloaded_pool_settles_near_the_target() {
        let mut limit = QueueLimit::new(2, 256, TARGET);
        let start = Instant::now();
        let mut queue = std::collections::VecDeque::new();
        let mut delays = Vec::new();
        for tick in 0..600_u32 {
            let now = start + Duration::from_millis(100) * tick;
            for _ in 0..10 {
                if queue.len() < limit.jobs() {
                    queue.push_back(now);
                }
            }
            if let Some(submitted) = queue.pop_front() {
                let waited = now - submitted;
                limit.observe(waited, queue.len(), now);
                delays.push(waited);
            }
        }
        let late = &delays[delays.len() / 2..];
        let worst = late.iter().max().unwrap();
        assert!(*worst <= TARGET * 3, "{worst:?}");
        assert!(limit.jobs() < 32, "{}", limit.jobs());
    }
}
