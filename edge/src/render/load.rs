//! How far the render pool is behind, and what it leaves out to catch up.
//!
//! The signal is the one of `limit`: how long jobs that readers wait for have waited for a thread. Most of it is halved in each
//! delay target that passes, so that a queue which is short again is believed within a few of them, and one job that started at once
//! in a long row says little.

use std::time::{Duration, Instant};

/// What the pool leaves out. Each level also leaves out what those before it do; what does not fit even so is refused,
/// and its reader gets a stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Nothing.
    Light,
    /// Final rungs: those behind readers are put off, and small pictures are quick first, like large ones.
    Heavy,
    /// Time: quick rungs are hurried.
    Extreme,
}

/// Of the delay target, from where on the load is heavy, and extreme. Both are below it: the queue is shortened only where a cheaper
/// rung did not help.
const HEAVY_SHARE: f64 = 0.25;
const EXTREME_SHARE: f64 = 0.5;

/// The delay that jobs have had of late.
#[derive(Debug)]
pub(super) struct Delay {
    target: Duration,
    worst: Duration,
    at: Instant,
}

impl Delay {
    pub(super) const fn new(target: Duration, now: Instant) -> Self {
        Self { target, worst: Duration::ZERO, at: now }
    }

    /// A job whose caller waits has started after `waited`.
    pub(super) fn observe(&mut self, waited: Duration, now: Instant) {
        self.worst = waited.max(self.faded(now));
        self.at = now;
    }

    /// `waiting` is how long the job that is next has waited already.
    pub(super) fn load(&self, waiting: Duration, now: Instant) -> Load {
        let share = self.faded(now).max(waiting).div_duration_f64(self.target);
        if share >= EXTREME_SHARE {
            Load::Extreme
        } else if share >= HEAVY_SHARE {
            Load::Heavy
        } else {
            Load::Light
        }
    }

    fn faded(&self, now: Instant) -> Duration {
        let targets = now.saturating_duration_since(self.at).div_duration_f64(self.target);
        self.worst.mul_f64(0.5_f64.powf(targets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(400);

    #[test]
    fn the_load_rises_with_what_jobs_wait_and_fades_when_they_wait_no_more() {
        let now = Instant::now();
        let mut delay = Delay::new(TARGET, now);
        assert_eq!(delay.load(Duration::ZERO, now), Load::Light);
        delay.observe(TARGET / 3, now);
        assert_eq!(delay.load(Duration::ZERO, now), Load::Heavy);
        delay.observe(TARGET, now);
        delay.observe(Duration::ZERO, now);
        assert_eq!(delay.load(Duration::ZERO, now), Load::Extreme, "one that started at once says little");
        assert_eq!(delay.load(Duration::ZERO, now + TARGET * 3 / 2), Load::Heavy);
        assert_eq!(delay.load(Duration::ZERO, now + TARGET * 3), Load::Light);
    }

    #[test]
    fn a_job_that_waits_now_counts_before_it_starts() {
        let now = Instant::now();
        let delay = Delay::new(TARGET, now);
        assert_eq!(delay.load(TARGET / 4, now), Load::Heavy);
        assert_eq!(delay.load(TARGET, now), Load::Extreme);
    }
}
