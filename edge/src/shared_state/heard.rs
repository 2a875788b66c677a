//! When a follower heard its primary last: how old what it knows is, across restarts.
//!
//! Within a process a monotonic clock counts, over a restart the wall clock does: when the primary was heard stands on the device. It is
//! written a few times within the age that counts as stale and not with each heartbeat, so that after a restart the age may be
//! somewhat too high and is never too low.

use std::time::{Duration, Instant, SystemTime};

use super::store::HeardLast;

/// Writes within the age from which on a state is stale.
const WRITES: u32 = 4;
/// How far the clocks of two edges may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Heard {
    /// Heard then, or begun then without having heard anything …
    since: Instant,
    /// … and this long ago already.
    before: Duration,
    /// Whether any primary was ever heard …
    is_ever: bool,
    /// … and the one that is followed now.
    pub(super) is_this_one: bool,
    kept: Option<Instant>,
    /// Why the primary cannot be followed, or what is wrong although it is.
    pub(super) trouble: Option<String>,
}

impl Heard {
    /// What a former process heard, by the wall clock.
    pub(super) fn restore(last: Option<&HeardLast>, primary: &str, now: SystemTime) -> Self {
        let at = last.map(|last| SystemTime::UNIX_EPOCH + Duration::from_millis(last.at_unix_ms));
        let is_this_one = last.is_some_and(|last| last.primary == primary);
        let before = at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
        Self { since: Instant::now(), before, is_ever: at.is_some(), is_this_one, kept: None, trouble: None }
    }

    /// Now. Whether that is to be written down.
    pub(super) fn hear(&mut self, trouble: Option<String>, age_max: Duration) -> bool {
        let now = Instant::now();
        (self.since, self.before, self.trouble) = (now, Duration::ZERO, trouble);
        (self.is_ever, self.is_this_one) = (true, true);
        // Whom it heard is written down at once: only who has heard a primary may take its place.
        let is_to_be_kept = self.kept.is_none_or(|kept| now.duration_since(kept) >= age_max / WRITES);
        if is_to_be_kept {
            self.kept = Some(now);
        }
        is_to_be_kept
    }

    pub(super) fn age(&self) -> Duration {
        self.before + self.since.elapsed()
    }

    /// An edge that has never heard its primary knows nothing of what was decided.
    pub(super) fn is_stale(&self, age_max: Duration) -> bool {
        !self.is_ever || self.age() > age_max
    }
}

/// What a difference of two clocks does, where it is too large.
pub(super) fn clock_trouble(primary: SystemTime, here: SystemTime) -> Option<String> {
    let (apart, word) = match here.duration_since(primary) {
        Ok(apart) => (apart, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    (apart > CLOCKS_APART_MAX).then(|| {
        format!(
            "this edge's clock is {} s {word} its primary's: schedules begin and end, and keys and rights expire, at other moments here",
            apart.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MAX: Duration = Duration::from_secs(60);

    #[test]
    fn a_restart_does_not_make_a_state_young() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let last = |at_unix_ms| HeardLast { primary: "one".to_owned(), at_unix_ms };
        let restore = |at: Option<u64>| Heard::restore(at.map(last).as_ref(), "one", now);
        let moved = Heard::restore(Some(&last(990_000)), "two", now);
        assert!(!moved.is_stale(AGE_MAX) && !moved.is_this_one, "as old as it is, and of another primary");
        assert!(restore(None).is_stale(AGE_MAX), "nothing was ever heard");
        let old = restore(Some(900_000));
        assert!(old.is_stale(AGE_MAX) && old.age() >= Duration::from_secs(100));
        let mut heard = restore(Some(990_000));
        assert!(!heard.is_stale(AGE_MAX) && heard.age() >= Duration::from_secs(10));
        assert!(heard.hear(None, AGE_MAX), "the first of a process is written down");
        assert!(!heard.hear(None, AGE_MAX), "and not each that follows");
        assert!(heard.hear(None, Duration::ZERO));
        assert!(heard.age() < Duration::from_secs(10));
        assert!(!restore(Some(2_000_000)).is_stale(AGE_MAX), "a clock that was put back");
    }

    #[test]
    fn clocks_that_are_apart_are_named() {
        let here = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(clock_trouble(here + Duration::from_secs(9), here), None);
        assert_eq!(clock_trouble(here - Duration::from_secs(10), here), None);
        let ahead = clock_trouble(here - Duration::from_secs(60), here).unwrap();
        assert!(ahead.contains("60 s ahead of its primary's"), "{ahead}");
        let behind = clock_trouble(here + Duration::from_secs(3_600), here).unwrap();
        assert!(behind.contains("3600 s behind its primary's"), "{behind}");
    }
}
