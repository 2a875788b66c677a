//! The jobs that wait for a thread of the pool, and which of them is next.
//!
//! Invariants:
//! - the most urgent is next; within an urgency, owners take turns (start-time fair queueing, Goyal, Vin and Cheng 1996);
//! - an owner that has nothing waiting is not remembered.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bildkante_shared::urgency::Urgency;

use super::Precedence;
use super::job::Job;
use crate::budget::Network;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Turn, Waiting>,
    backlogs: HashMap<(Urgency, Network), Backlog>,
    /// The round of the job that was started last, by urgency.
    rounds: [u64; Urgency::LEAST.get() as usize + 1],
    arrivals: u64,
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

    pub(super) fn pop_first(&mut self) -> Option<(Urgency, Box<dyn Job>)> {
        let (turn, waiting) = self.waiting.pop_first()?;
        self.rounds[usize::from(turn.urgency.get())] = turn.round;
        left(&mut self.backlogs, turn.urgency, &waiting);
        Some((turn.urgency, waiting.job))
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
