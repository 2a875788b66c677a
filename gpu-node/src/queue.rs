//! The order of waiting jobs: most urgent first, then the earliest deadline, then the oldest.
//!
//! A bounded set and nothing more: it knows neither HTTP nor callers. A job's place may change while it waits
//! (a more urgent caller joins, an urgent one leaves); its age does not.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::urgency::Urgency;

/// What decides a job's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub urgency: Urgency,
    pub deadline: Instant,
}

/// `jobs_max` jobs are waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub(crate) struct QueueFull;

/// Waiting jobs by rank, then age.
#[derive(Debug)]
pub(crate) struct Queue {
    order: BTreeMap<(Rank, u64), RecipeId>,
    places: HashMap<RecipeId, (Rank, u64)>,
    next_sequence: u64,
    jobs_max: usize,
}

impl Queue {
    #[must_use]
    pub(crate) fn new(jobs_max: usize) -> Self {
        Self { order: BTreeMap::new(), places: HashMap::new(), next_sequence: 0, jobs_max }
    }

    /// Adds a job that is not waiting yet; one that is keeps its place.
    ///
    /// # Errors
    /// When `jobs_max` jobs wait already.
    pub(crate) fn push(&mut self, id: RecipeId, rank: Rank) -> Result<(), QueueFull> {
        if self.places.contains_key(&id) {
            return Ok(());
        }
        if self.places.len() >= self.jobs_max {
            return Err(QueueFull);
        }
        let place = (rank, self.next_sequence);
        self.next_sequence += 1;
        self.order.insert(place, id);
        self.places.insert(id, place);
        Ok(())
    }

    /// Gives a waiting job another rank; its age stays.
    pub(crate) fn rerank(&mut self, id: RecipeId, rank: Rank) {
        if let Some(place) = self.places.get_mut(&id) {
            self.order.remove(place);
            place.0 = rank;
            self.order.insert(*place, id);
        }
    }

    pub(crate) fn remove(&mut self, id: RecipeId) {
        if let Some(place) = self.places.remove(&id) {
            self.order.remove(&place);
        }
    }

    /// The job that is due.
    pub(crate) fn pop(&mut self) -> Option<RecipeId> {
        let (_, id) = self.order.pop_first()?;
        self.places.remove(&id);
        Some(id)
    }

    /// Waiting jobs, the one that is due first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Rank, RecipeId)> + '_ {
        self.order.iter().map(|((rank, _), id)| (*rank, *id))
    }

    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> RecipeId {
        RecipeId::from_raw([n; 16])
    }

    fn rank(start: Instant, urgency: u8, deadline_ms: u64) -> Rank {
        Rank {
            urgency: Urgency::new(urgency).unwrap_or_default(),
            deadline: start + Duration::from_millis(deadline_ms),
        }
    }

    #[test]
    fn urgency_wins_over_deadline_and_deadline_over_age() {
        let start = Instant::now();
        let mut queue = Queue::new(8);
        for (n, urgency, deadline_ms) in [(1, 3, 10), (2, 3, 10), (3, 3, 5), (4, 0, 900), (5, 7, 1)] {
            queue.push(id(n), rank(start, urgency, deadline_ms)).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [4, 3, 1, 2, 5].map(id));
    }

    #[test]
    fn a_job_that_becomes_more_urgent_overtakes_and_keeps_its_age() {
        let start = Instant::now();
        let mut queue = Queue::new(8);
        queue.push(id(1), rank(start, 5, 10)).unwrap();
        queue.push(id(2), rank(start, 2, 10)).unwrap();
        queue.rerank(id(1), rank(start, 2, 10));
        assert_eq!(queue.pop(), Some(id(1)));
    }

    #[test]
    fn the_bound_counts_jobs_and_a_removed_one_frees_its_place() {
        let start = Instant::now();
        let mut queue = Queue::new(2);
        queue.push(id(1), rank(start, 3, 1)).unwrap();
        queue.push(id(2), rank(start, 3, 1)).unwrap();
        assert_eq!(queue.push(id(3), rank(start, 0, 1)), Err(QueueFull));
        assert_eq!(queue.push(id(2), rank(start, 0, 1)), Ok(()), "already waiting");
        queue.remove(id(1));
        assert_eq!(queue.push(id(3), rank(start, 0, 1)), Ok(()));
        assert_eq!(queue.len(), 2);
    }

    proptest! {
        #[test]
        fn order_and_places_never_disagree(operations in prop::collection::vec((0u8..4, 0u8..12, 0u8..8, 0u64..50), 0..200)) {
            let start = Instant::now();
            let mut queue = Queue::new(6);
            for (operation, n, urgency, deadline_ms) in operations {
                match operation {
                    0 => { let _ = queue.push(id(n), rank(start, urgency, deadline_ms)); }
                    1 => queue.rerank(id(n), rank(start, urgency, deadline_ms)),
                    2 => queue.remove(id(n)),
                    _ => { queue.pop(); }
                }
                prop_assert_eq!(queue.order.len(), queue.places.len());
                prop_assert!(queue.len() <= 6);
                for (place, id) in &queue.order {
                    prop_assert_eq!(queue.places.get(id), Some(place));
                }
            }
        }
    }
}
