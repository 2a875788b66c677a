//! The jobs that wait for a thread of the pool, and which of them is next.
//!
//! Invariants:
//! - the most urgent is next; within an urgency, owners take turns (start-time fair queueing, Goyal, Vin and Cheng 1996);
//! - an owner that has nothing waiting is not remembered;
//! - jobs of the least urgency, which no reader waits for, run on all threads but one where there are several. They last for
//!   seconds, and a reader who comes alone must not wait until one ends. They are the last in the order, so one that may not start
//!   holds up no other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bildkante_shared::urgency::Urgency;

use super::Precedence;
use super::job::Job;
use crate::budget::Network;

/// See the module's documentation.
pub(super) struct Queue {
    waiting: BTreeMap<Turn, Waiting>,
    backlogs: HashMap<(Urgency, Network), Backlog>,
    /// The round of the job that was started last, by urgency.
    rounds: [u64; Urgency::LEAST.get() as usize + 1],
    arrivals: u64,
    /// Jobs of the least urgency that run.
    least_running: usize,
    least_running_max: usize,
}

/// When a job is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    urgency: Urgency,
    /// Each owner has one job in a round.
    round: u64,
    arrival: u64,
}

struct Waiting {
    owner: Option<Network>,
    job: Box<dyn Job>,
}

/// What one owner has waiting at one urgency.
#[derive(Debug)]
struct Backlog {
    jobs: usize,
    last_round: u64,
}

impl Queue {
    /// For a pool of so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            backlogs: HashMap::new(),
            rounds: Default::default(),
            arrivals: 0,
            least_running: 0,
            // A single thread is not kept for readers: nothing would ever be made behind them.
            least_running_max: threads.saturating_sub(1).max(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How long the next job has waited, if a reader waits for it.
    pub(super) fn reader_waited(&self) -> Option<Duration> {
        let (_, next) = self.waiting.first_key_value().filter(|(turn, _)| turn.urgency != Urgency::LEAST)?;
        Some(next.job.waited())
    }

    /// The turn of a job that comes now.
    pub(super) fn turn(&mut self, Precedence { urgency, owner }: Precedence) -> Turn {
        let now = self.rounds[usize::from(urgency.get())];
        let backlog = owner.and_then(|owner| self.backlogs.get(&(urgency, owner)));
        let round = backlog.map_or(now, |backlog| now.max(backlog.last_round + 1));
        self.arrivals += 1;
        Turn { urgency, round, arrival: self.arrivals }
    }

    pub(super) fn insert(&mut self, turn: Turn, owner: Option<Network>, job: Box<dyn Job>) {
        if let Some(owner) = owner {
            let none = Backlog { jobs: 0, last_round: turn.round };
            let backlog = self.backlogs.entry((turn.urgency, owner)).or_insert(none);
            backlog.jobs += 1;
            backlog.last_round = turn.round;
        }
        self.waiting.insert(turn, Waiting { owner, job });
    }

    /// Whether a job waits that may start now.
    pub(super) fn has_next(&self) -> bool {
        let next = self.waiting.first_key_value();
        next.is_some_and(|(turn, _)| turn.urgency != Urgency::LEAST || self.least_running < self.least_running_max)
    }

    /// The next job, if one may start now. It counts as running between [`Self::begin`] and [`Self::end`].
    pub(super) fn pop_next(&mut self) -> Option<(Urgency, Box<dyn Job>)> {
        if !self.has_next() {
            return None;
        }
        let (turn, waiting) = self.waiting.pop_first()?;
        self.rounds[usize::from(turn.urgency.get())] = turn.round;
        left(&mut self.backlogs, turn.urgency, &waiting);
        Some((turn.urgency, waiting.job))
    }

    pub(super) fn begin(&mut self, urgency: Urgency) {
        self.least_running += usize::from(urgency == Urgency::LEAST);
    }

    pub(super) fn end(&mut self, urgency: Urgency) {
        self.least_running -= usize::from(urgency == Urgency::LEAST);
    }

    /// The job whose turn is last, if it is behind `turn`.
    pub(super) fn pop_behind(&mut self, turn: Turn) -> Option<Box<dyn Job>> {
        let last = self.waiting.last_entry().filter(|last| *last.key() > turn)?;
        let (turn, waiting) = last.remove_entry();
        left(&mut self.backlogs, turn.urgency, &waiting);
        Some(waiting.job)
    }

    /// Forgets jobs whose callers are gone; how many there were.
    pub(super) fn skip_unwanted(&mut self) -> usize {
        let (before, backlogs) = (self.waiting.len(), &mut self.backlogs);
        self.waiting.retain(|turn, waiting| {
            let is_wanted = waiting.job.is_wanted();
            if !is_wanted {
                left(backlogs, turn.urgency, waiting);
            }
            is_wanted
        });
        before - self.waiting.len()
    }

    /// All jobs, the next one first.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Box<dyn Job>> + use<> {
        self.backlogs.clear();
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.job)
    }

    #[cfg(test)]
    pub(super) fn owners(&self) -> usize {
        self.backlogs.len()
    }
}

/// A job waits no more.
fn left(backlogs: &mut HashMap<(Urgency, Network), Backlog>, urgency: Urgency, waiting: &Waiting) {
    let Some(owner) = waiting.owner else { return };
    let Entry::Occupied(mut backlog) = backlogs.entry((urgency, owner)) else { return };
    backlog.get_mut().jobs -= 1;
    if backlog.get().jobs == 0 {
        backlog.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::BudgetConfig;
    use crate::render::{PoolError, RenderMetrics};

    /// Says its number as the seconds that it has waited.
    struct Numbered(u64);

    impl Job for Numbered {
        fn is_wanted(&self) -> bool {
            true
        }

        fn waited(&self) -> Duration {
            Duration::from_secs(self.0)
        }

        fn run(self: Box<Self>, _: &RenderMetrics) {}

        fn refuse(self: Box<Self>, _: PoolError) {}
    }

    fn add(queue: &mut Queue, at: impl Into<Precedence>, number: u64) {
        let at = at.into();
        let turn = queue.turn(at);
        queue.insert(turn, at.owner, Box::new(Numbered(number)));
    }

    fn start(queue: &mut Queue) -> Option<u64> {
        let (urgency, job) = queue.pop_next()?;
        queue.begin(urgency);
        Some(job.waited().as_secs())
    }

    #[test]
    fn the_least_urgent_leave_one_thread_of_several() {
        for (threads, may_run) in [(1, 1), (2, 1), (3, 2), (8, 7)] {
            let mut queue = Queue::new(threads);
            (1..=9).for_each(|number| add(&mut queue, Urgency::LEAST, number));
            let started = std::iter::from_fn(|| start(&mut queue)).count();
            assert_eq!((started, queue.len(), queue.has_next()), (may_run, 9 - may_run, false), "{threads} threads");
            assert_eq!(queue.reader_waited(), None, "no reader waits for those");
            // Others may have all threads.
            for number in 11..=19 {
                add(&mut queue, Urgency::LAST_OF_READERS, number);
                assert_eq!(queue.reader_waited(), Some(Duration::from_secs(number)));
                assert_eq!(start(&mut queue), Some(number));
            }
            queue.end(Urgency::LAST_OF_READERS);
            assert!(!queue.has_next());
            queue.end(Urgency::LEAST);
            assert_eq!((start(&mut queue), queue.has_next()), (Some(may_run as u64 + 1), false));
        }
    }

    #[test]
    fn owners_take_turns_within_an_urgency() {
        let network = |text: &str| Network::of(text.parse().unwrap(), &BudgetConfig::default());
        let of = |owner: &str| Precedence { owner: Some(network(owner)), ..Urgency::DEFAULT.into() };
        let mut queue = Queue::new(1);
        for (owner, number) in [("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.1", 3), ("198.51.100.1", 4)] {
            add(&mut queue, of(owner), number);
        }
        add(&mut queue, Urgency::MOST, 5);
        assert_eq!(queue.owners(), 2);
        let started: Vec<u64> = std::iter::from_fn(|| start(&mut queue)).collect();
        assert_eq!((started, queue.owners()), (vec![5, 1, 4, 2, 3], 0));
    }

    #[test]
    fn only_a_job_whose_turn_is_later_makes_room() {
        let mut queue = Queue::new(1);
        add(&mut queue, Urgency::DEFAULT, 1);
        let equal = queue.turn(Urgency::DEFAULT.into());
        assert!(queue.pop_behind(equal).is_none());
        let sooner = queue.turn(Urgency::MOST.into());
        assert_eq!(queue.pop_behind(sooner).map(|job| job.waited().as_secs()), Some(1));
        assert_eq!(queue.len(), 0);
    }
}
