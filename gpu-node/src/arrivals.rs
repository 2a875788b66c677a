//! Pictures on their way into the store, in the order in which they arrived: who has to wait for whom.
//!
//! A picture's decision about duplicates depends on one that arrived before it only where both could be one: where they are of
//! one scope and alike at first sight, of one variant, or of one recipe. Everything else is decided side by side, so that a
//! picture without a candidate waits for no comparison of others.
//!
//! Invariants: an arrival waits for earlier ones only, so no two wait for each other; an arrival whose fingerprint is not
//! known yet may be alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::wire::DedupScope;
use parking_lot::{Condvar, Mutex};

use crate::index;
use crate::store::Place;

/// All arrivals that are not decided yet.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By their number, which rises.
    open: BTreeMap<u64, Arrived>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Arrived {
    recipe: RecipeId,
    place: Option<Place>,
    hash: Option<PerceptualHash>,
}

impl Arrived {
    /// Whether the decision about `later` may depend on that about `self`.
    fn matters_to(&self, later: &Self, distance_max: u32) -> bool {
        if self.recipe == later.recipe {
            return true;
        }
        let (Some(own), Some(others)) = (self.place, later.place) else { return false };
        let is_alike = || match (self.hash, later.hash) {
            (Some(own), Some(others)) => own.distance(others) <= distance_max,
            _ => true,
        };
        own.scope == others.scope && (own.variant == others.variant || is_alike())
    }
}

/// A picture that has arrived, of this recipe and for this scope; it leaves when this is dropped.
#[derive(Debug)]
pub struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    recipe: RecipeId,
    dedup: Option<DedupScope>,
}

impl Arrivals {
    /// Takes the next number.
    pub(crate) fn enter(self: &Arc<Self>, recipe: RecipeId, dedup: Option<DedupScope>) -> Arrival {
        let place = dedup.as_ref().map(index::keys).map(|(scope, variant)| Place { scope, variant });
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Arrived { recipe, place, hash: None });
        Arrival { arrivals: Arc::clone(self), number, recipe, dedup }
    }
}

impl Arrival {
    #[must_use]
    pub const fn recipe(&self) -> RecipeId {
        self.recipe
    }

    /// Where duplicates of it may be.
    #[must_use]
    pub const fn dedup(&self) -> Option<&DedupScope> {
        self.dedup.as_ref()
    }

    /// Tells the picture's fingerprint, and waits until no earlier arrival matters to it. Blocks for their decisions.
    pub fn wait(&self, hash: PerceptualHash, distance_max: u32) {
        let mut state = self.arrivals.state.lock();
        if let Some(own) = state.open.get_mut(&self.number) {
            own.hash = Some(hash);
        }
        self.arrivals.changed.notify_all();
        while self.is_held_up(&state, distance_max) {
            self.arrivals.changed.wait(&mut state);
        }
    }

    fn is_held_up(&self, state: &State, distance_max: u32) -> bool {
        let Some(own) = state.open.get(&self.number) else { return false };
        state.open.range(..self.number).any(|(_, earlier)| earlier.matters_to(own, distance_max))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.state.lock().open.remove(&self.number);
        self.arrivals.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;

    const DISTANCE_MAX: u32 = 24;

    fn recipe(number: u8) -> RecipeId {
        RecipeId::from_raw([number; 16])
    }

    fn scope(scope: &str, variant: &str) -> DedupScope {
        DedupScope { scope: scope.to_owned(), variant: variant.to_owned() }
    }

    fn hash(byte: u8) -> PerceptualHash {
        PerceptualHash::from_bytes([byte; 32])
    }

    /// Whether a second arrival waits for a first one that is told its own fingerprint, or not yet.
    fn waits(first: (u8, Option<&DedupScope>, Option<u8>), second: (u8, Option<&DedupScope>, u8)) -> bool {
        let arrivals = Arc::new(Arrivals::default());
        let earlier = arrivals.enter(recipe(first.0), first.1.cloned());
        if let Some(byte) = first.2 {
            earlier.wait(hash(byte), DISTANCE_MAX);
        }
        let later = arrivals.enter(recipe(second.0), second.1.cloned());
        let own = Arrived { hash: Some(hash(second.2)), ..arrivals.state.lock().open[&1] };
        arrivals.state.lock().open.insert(1, own);
        later.is_held_up(&arrivals.state.lock(), DISTANCE_MAX)
    }

    #[test]
    fn only_what_could_be_one_picture_waits() {
        let (mug, vase, other) = (scope("a", "mug"), scope("a", "vase"), scope("b", "mug"));
        let first = |byte| (1, Some(&mug), byte);
        assert!(waits(first(Some(0)), (2, Some(&vase), 0)), "alike in one scope");
        assert!(waits(first(None), (2, Some(&vase), 255)), "not known yet");
        assert!(waits(first(Some(0)), (2, Some(&mug), 255)), "of one variant");
        assert!(waits(first(Some(0)), (1, Some(&other), 255)), "of one recipe");
        assert!(!waits(first(Some(0)), (2, Some(&vase), 255)), "unlike");
        assert!(!waits(first(Some(0)), (2, Some(&other), 0)), "in another scope");
        assert!(!waits(first(None), (2, None, 0)), "without a scope");
    }

    #[test]
    fn alike_pictures_are_decided_in_the_order_of_their_arrival() {
        let arrivals = Arc::new(Arrivals::default());
        let first = arrivals.enter(recipe(1), Some(scope("a", "mug")));
        first.wait(hash(0), DISTANCE_MAX);
        let second = arrivals.enter(recipe(2), Some(scope("a", "vase")));
        let (sender, decided) = channel();
        let waiting = std::thread::spawn(move || {
            second.wait(hash(0), DISTANCE_MAX);
            sender.send(()).expect("a receiver");
        });
        while arrivals.state.lock().open[&1].hash.is_none() {
            std::thread::yield_now();
        }
        assert_eq!(decided.try_recv(), Err(TryRecvError::Empty), "the first one is not decided");
        drop(first);
        assert_eq!(decided.recv(), Ok(()));
        waiting.join().expect("no defect");
        assert!(arrivals.state.lock().open.is_empty(), "each has left");
    }
}
