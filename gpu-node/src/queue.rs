//! Waiting jobs and the order in which they are due. Pure: it has neither clock nor lock, and knows neither HTTP nor callers.
//!
//! The most urgent job comes first; among equally urgent ones the job with the earliest deadline ("earliest deadline first",
//! Liu & Layland 1973), then the oldest. A job that will miss its deadline, as far as its cost is known, comes after those of
//! its urgency that need not: else one late job makes the next one late. Two things keep a job from waiting for ever:
//! - **the bound**: a job is *overdue*, and comes before all others of its urgency, once turns of its urgency have taken its own
//!   cost and [`GRACE`] of devices since it came. Each urgency has a clock for that, which [`Queue::used`] moves on.
//! - **age**: a job that has waited for [`Ageing::after`], or for half of the time to its deadline, is *aged*:
//!   [`turns`](crate::turns) keeps a share of a device for such jobs, whatever else is there.
//!
//! A job's urgency and deadline may change while it waits (a more urgent caller joins, an urgent one leaves); how long it has
//! waited, and how much of devices others have had meanwhile, it keeps.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use bildkante_shared::urgency::Urgency;

/// How much longer than a job's own cost jobs of its urgency may use devices before it begins.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How waiting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ageing {
    /// The wait that makes a job aged; zero: none does.
    pub(crate) after: Duration,
}

/// What a job claims a device by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Of its most pressing caller.
    pub(crate) urgency: Urgency,
    pub(crate) deadline: Instant,
    pub(crate) queued_at: Instant,
    /// Jobs that came earlier have smaller ones.
    pub(crate) sequence: u64,
    /// What it takes of a device from its beginning to its end, as far as that is known.
    pub(crate) cost: Duration,
}

impl Claim {
    /// Its place at a moment, once it has begun.
    #[must_use]
    pub(crate) fn place(&self, done: Done, now: Instant) -> Place {
        let haste = match done {
            Done::All => Haste::Drawn,
            Done::Part(part) if self.is_late(now, self.cost.mul_f64(1.0 - part.clamp(0.0, 1.0))) => Haste::Late,
            Done::Part(_) => Haste::Usual,
        };
        Place { urgency: self.urgency, haste, deadline: self.deadline, sequence: self.sequence }
    }

    /// Whether it will miss its deadline when so much of its cost is left.
    fn is_late(&self, now: Instant, left: Duration) -> bool {
        self.deadline.saturating_duration_since(now) < left
    }

    /// Whether it has waited for so long that a share of the device is kept for it.
    #[must_use]
    pub(crate) fn is_aged(&self, ageing: Ageing, now: Instant) -> bool {
        let half = self.deadline.saturating_duration_since(self.queued_at) / 2;
        !ageing.after.is_zero() && now.saturating_duration_since(self.queued_at) >= ageing.after.min(half)
    }
}

/// What comes first among equally urgent jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Haste {
    /// It waits, and others of its urgency have had their share ([`GRACE`]).
    Overdue,
    /// All its steps are made: a decoding frees its memory and answers its callers.
    Drawn,
    Usual,
    /// It will miss its deadline, as far as its cost is known.
    Late,
}

/// How far a job is that has begun.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Done {
    /// This part of its steps, from 0 to 1.
    Part(f64),
    /// All but its decoding.
    All,
}

/// A job's place among all that want the device: the smallest is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) urgency: Urgency,
    pub(crate) haste: Haste,
    pub(crate) deadline: Instant,
    pub(crate) sequence: u64,
}

/// `jobs_max` jobs are waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub(crate) struct QueueFull;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    claim: Claim,
    /// What the clock of that urgency showed when it came to it.
    came_at: Duration,
    /// How long turns of the urgencies that it had before used devices.
    waited_before: Duration,
    is_late: bool,
}

/// Waiting jobs.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: HashMap<RecipeId, Waiting>,
    /// For how long turns of each urgency have used devices.
    used: [Duration; LEVELS],
    next_sequence: u64,
    jobs_max: usize,
    ageing: Ageing,
}

/// Urgencies that there are.
const LEVELS: usize = 8;

impl Queue {
    #[must_use]
    pub(crate) fn new(jobs_max: usize, ageing: Ageing) -> Self {
        Self { waiting: HashMap::new(), used: [Duration::ZERO; LEVELS], next_sequence: 0, jobs_max, ageing }
    }

    pub(crate) const fn ageing(&self) -> Ageing {
        self.ageing
    }

    /// Adds a job that is not waiting yet; one that is keeps its place. `cost` is what it will take of a device.
    ///
    /// # Errors
    /// When `jobs_max` jobs wait already.
    pub(crate) fn push(&mut self, id: RecipeId, asked: Asked, cost: Duration) -> Result<(), QueueFull> {
        if self.waiting.contains_key(&id) {
            return Ok(());
        }
        if self.waiting.len() >= self.jobs_max {
            return Err(QueueFull);
        }
        let Asked { urgency, deadline, queued_at } = asked;
        let claim = Claim { urgency, deadline, queued_at, sequence: self.next_sequence, cost };
        self.next_sequence += 1;
        let (came_at, waited_before) = (clock(&self.used, urgency), Duration::ZERO);
        self.waiting.insert(id, Waiting { claim, came_at, waited_before, is_late: false });
        Ok(())
    }

    /// Gives a waiting job callers of another urgency and deadline.
    pub(crate) fn change(&mut self, id: RecipeId, urgency: Urgency, deadline: Instant) {
        if let Some(found) = self.waiting.get_mut(&id) {
            if urgency != found.claim.urgency {
                found.waited_before = found.waited_for(&self.used);
                found.came_at = clock(&self.used, urgency);
            }
            (found.claim.urgency, found.claim.deadline) = (urgency, deadline);
        }
    }

    /// Finds the jobs that will be late. To be called before the queue is asked for the first one.
    pub(crate) fn look_at(&mut self, now: Instant) {
        for waiting in self.waiting.values_mut() {
            waiting.is_late = waiting.claim.is_late(now, waiting.claim.cost);
        }
    }

    pub(crate) fn remove(&mut self, id: RecipeId) -> Option<Claim> {
        self.waiting.remove(&id).map(|waiting| waiting.claim)
    }

    /// A turn of this urgency has used a device for so long.
    pub(crate) fn used(&mut self, urgency: Urgency, time: Duration) {
        if let Some(clock) = self.used.get_mut(usize::from(urgency.get())) {
            *clock += time;
        }
    }

    /// The first job that is wanted.
    pub(crate) fn first(&self, wanted: impl Fn(&Place, RecipeId) -> bool) -> Option<(Place, RecipeId)> {
        self.places().filter(|(place, id)| wanted(place, *id)).min()
    }

    /// How many jobs come before one.
    pub(crate) fn before(&self, id: RecipeId) -> usize {
        let own = self.waiting.get(&id).map(|waiting| waiting.place(&self.used));
        own.map_or(0, |own| self.places().filter(|(place, _)| *place < own).count())
    }

    /// What waiting jobs claim.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&Claim, RecipeId)> {
        self.waiting.iter().map(|(id, waiting)| (&waiting.claim, *id))
    }

    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn places(&self) -> impl Iterator<Item = (Place, RecipeId)> {
        self.waiting.iter().map(|(id, waiting)| (waiting.place(&self.used), *id))
    }
}

impl Waiting {
    fn place(&self, used: &[Duration; LEVELS]) -> Place {
        let Claim { urgency, deadline, sequence, cost, .. } = self.claim;
        let haste = match (self.waited_for(used) >= cost.saturating_add(GRACE), self.is_late) {
            (true, _) => Haste::Overdue,
            (false, true) => Haste::Late,
            (false, false) => Haste::Usual,
        };
        Place { urgency, haste, deadline, sequence }
    }

    /// How long turns of its urgency have used devices since it came.
    fn waited_for(&self, used: &[Duration; LEVELS]) -> Duration {
        self.waited_before + clock(used, self.claim.urgency).saturating_sub(self.came_at)
    }
}

fn clock(used: &[Duration; LEVELS], urgency: Urgency) -> Duration {
    used.get(usize::from(urgency.get())).copied().unwrap_or_default()
}

/// What a job asks for when it comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) urgency: Urgency,
    pub(crate) deadline: Instant,
    pub(crate) queued_at: Instant,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGEING: Ageing = Ageing { after: Duration::from_secs(30) };

    fn id(n: u8) -> RecipeId {
        RecipeId::from_raw([n; 16])
    }

    fn urgency(level: u8) -> Urgency {
        Urgency::new(level).unwrap_or_default()
    }

    fn asked(start: Instant, level: u8, deadline_ms: u64) -> Asked {
        Asked { urgency: urgency(level), deadline: start + Duration::from_millis(deadline_ms), queued_at: start }
    }

    fn order(queue: &mut Queue) -> Vec<RecipeId> {
        let pop = || {
            let (_, first) = queue.first(|_, _| true)?;
            queue.remove(first).map(|_| first)
        };
        std::iter::from_fn(pop).collect()
    }

    #[test]
    fn urgency_wins_over_deadline_and_deadline_over_age() {
        let start = Instant::now();
        let mut queue = Queue::new(8, AGEING);
        for (n, level, deadline_ms) in [(1, 3, 10), (2, 3, 10), (3, 3, 5), (4, 0, 900), (5, 7, 1)] {
            queue.push(id(n), asked(start, level, deadline_ms), Duration::ZERO).unwrap();
        }
        assert_eq!(queue.before(id(2)), 3);
        assert_eq!(order(&mut queue), [4, 3, 1, 2, 5].map(id));
    }

    #[test]
    fn a_job_that_becomes_more_urgent_overtakes_and_keeps_its_age() {
        let start = Instant::now();
        let mut queue = Queue::new(8, AGEING);
        queue.push(id(1), asked(start, 5, 10), Duration::ZERO).unwrap();
        queue.push(id(2), asked(start, 2, 10), Duration::ZERO).unwrap();
        queue.change(id(1), urgency(2), start + Duration::from_millis(10));
        assert_eq!(order(&mut queue), [1, 2].map(id));
    }

    #[test]
    fn the_bound_counts_jobs_and_a_removed_one_frees_its_place() {
        let start = Instant::now();
        let mut queue = Queue::new(2, AGEING);
        queue.push(id(1), asked(start, 3, 1), Duration::ZERO).unwrap();
        queue.push(id(2), asked(start, 3, 1), Duration::ZERO).unwrap();
        assert_eq!(queue.push(id(3), asked(start, 0, 1), Duration::ZERO), Err(QueueFull));
        assert_eq!(queue.push(id(2), asked(start, 0, 1), Duration::ZERO), Ok(()), "already waiting");
        queue.remove(id(1));
        assert_eq!(queue.push(id(3), asked(start, 0, 1), Duration::ZERO), Ok(()));
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_job_is_overdue_when_its_urgency_has_used_its_cost_and_the_grace() {
        let start = Instant::now();
        let mut queue = Queue::new(8, AGEING);
        // Used before it came: that counts for nothing.
        queue.used(urgency(3), Duration::from_secs(60));
        queue.push(id(1), asked(start, 3, 90_000), Duration::from_secs(2)).unwrap();
        queue.push(id(2), asked(start, 3, 10_000), Duration::from_secs(9)).unwrap();
        let first = |queue: &Queue| queue.first(|_, _| true).map(|(place, id)| (id, place.haste));
        queue.used(urgency(3), Duration::from_millis(6_999));
        queue.used(urgency(2), Duration::from_secs(60));
        assert_eq!(first(&queue), Some((id(2), Haste::Usual)));
        // A change of urgency takes along what was waited for.
        queue.change(id(1), urgency(5), start + Duration::from_secs(90));
        queue.change(id(1), urgency(3), start + Duration::from_secs(90));
        assert_eq!(first(&queue), Some((id(2), Haste::Usual)));
        queue.used(urgency(3), Duration::from_millis(1));
        assert_eq!(first(&queue), Some((id(1), Haste::Overdue)));
    }

    #[test]
    fn a_job_that_will_be_late_anyway_makes_no_other_late() {
        let start = Instant::now();
        let mut queue = Queue::new(8, AGEING);
        queue.push(id(1), asked(start, 3, 4_000), Duration::from_secs(5)).unwrap();
        queue.push(id(2), asked(start, 3, 6_000), Duration::from_secs(5)).unwrap();
        queue.push(id(3), asked(start, 4, 9_000), Duration::from_secs(5)).unwrap();
        queue.look_at(start);
        assert_eq!(order(&mut queue), [2, 1, 3].map(id), "late or not, the more urgent comes first");
        let deadline = start + Duration::from_secs(4);
        let cost = Duration::from_secs(8);
        let claim = Claim { urgency: urgency(3), deadline, queued_at: start, sequence: 0, cost };
        let haste = |done| claim.place(done, start).haste;
        assert_eq!([Done::Part(0.4), Done::Part(0.5), Done::All].map(haste), [Haste::Late, Haste::Usual, Haste::Drawn]);
    }

    #[test]
    fn a_job_is_aged_after_a_step_or_half_of_the_time_it_has() {
        let start = Instant::now();
        let is_aged = |deadline_s: u64, waited_s: u64, ageing| {
            let deadline = start + Duration::from_secs(deadline_s);
            let claim = Claim { urgency: urgency(7), deadline, queued_at: start, sequence: 0, cost: Duration::ZERO };
            claim.is_aged(ageing, start + Duration::from_secs(waited_s))
        };
        assert_eq!([29, 30].map(|waited_s| is_aged(600, waited_s, AGEING)), [false, true]);
        assert_eq!([9, 10].map(|waited_s| is_aged(20, waited_s, AGEING)), [false, true]);
        assert!(!is_aged(20, 19, Ageing { after: Duration::ZERO }), "0 switches it off");
    }

    proptest! {
        #[test]
        fn the_first_is_the_smallest_place_of_those_that_wait(
            operations in prop::collection::vec((0u8..5, 0u8..12, 0u8..8, 0u64..50), 0..200),
        ) {
            let start = Instant::now();
            let mut queue = Queue::new(6, AGEING);
            for (operation, n, level, deadline_ms) in operations {
                let Asked { urgency, deadline, .. } = asked(start, level, deadline_ms);
                match operation {
                    0 => { let _ = queue.push(id(n), asked(start, level, deadline_ms), Duration::from_secs(1)); }
                    1 => queue.change(id(n), urgency, deadline),
                    2 => { queue.remove(id(n)); }
                    3 => queue.used(urgency, Duration::from_secs(deadline_ms)),
                    _ => if let Some((_, first)) = queue.first(|_, _| true) { queue.remove(first); },
                }
                prop_assert!(queue.len() <= 6);
                let first = queue.first(|_, _| true);
                prop_assert_eq!(first.map(|(place, _)| place), queue.places().map(|(place, _)| place).min());
                prop_assert_eq!(first.map(|(_, id)| queue.before(id)), first.map(|_| 0));
            }
        }
    }
}
