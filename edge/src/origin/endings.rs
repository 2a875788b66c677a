//! Recipes over which nodes ended: which of them are asked for no more.
//!
//! A drawing that takes its device along would take the next node's along as well, and so through every region. The second
//! node that ends over a recipe is the last: from then on the edge refuses it. Nodes count for themselves, and durably
//! (`gpu-node/src/endings.rs`); this is what one edge has been told, so that a recipe is stopped on its first way already.
//!
//! Only a node's word counts, and only where it was at nothing else: a node that is gone ended every call that it had, most
//! of them of recipes that had only waited there. What shared a lost device is asked for alone from then on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bildkante_shared::ids::RecipeId;
use parking_lot::Mutex;

/// Nodes that one recipe may end.
pub(super) const ENDINGS_MAX: u32 = 2;
/// How long one is remembered: nodes remember for longer, and may have been told to forget.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// Recipes remembered; the oldest goes.
const RECIPES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Endings(Mutex<HashMap<RecipeId, Ending>>);

#[derive(Debug, Clone, Copy)]
struct Ending {
    count: u32,
    last: Instant,
}

impl Endings {
    pub(super) fn of(&self, recipe: RecipeId, now: Instant) -> u32 {
        let mut known = self.0.lock();
        match known.get(&recipe) {
            Some(ending) if now.saturating_duration_since(ending.last) >= REMEMBERED => {
                known.remove(&recipe);
                0
            }
            Some(ending) => ending.count,
            None => 0,
        }
    }

    /// One more; how many it makes.
    pub(super) fn add(&self, recipe: RecipeId, now: Instant) -> u32 {
        let count = self.of(recipe, now).saturating_add(1);
        self.set(recipe, count, now);
        count
    }

    /// It may have been this one: the next node is to draw it alone.
    pub(super) fn suspect(&self, recipe: RecipeId, now: Instant) {
        self.set(recipe, self.of(recipe, now), now);
    }

    /// Whether a node is to draw it alone.
    pub(super) fn is_suspect(&self, recipe: RecipeId, now: Instant) -> bool {
        let _ = self.of(recipe, now);
        self.0.lock().contains_key(&recipe)
    }

    fn set(&self, recipe: RecipeId, count: u32, now: Instant) {
        let mut known = self.0.lock();
        if known.len() >= RECIPES_MAX && !known.contains_key(&recipe) {
            let oldest = known.iter().min_by_key(|(_, ending)| ending.last).map(|(recipe, _)| *recipe);
            oldest.map(|oldest| known.remove(&oldest));
        }
        known.insert(recipe, Ending { count, last: now });
    }

    /// It was drawn: what ended was another's fault.
    pub(super) fn forget(&self, recipe: RecipeId) {
        self.0.lock().remove(&recipe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(n: usize) -> RecipeId {
        RecipeId::of_bytes(&n.to_le_bytes())
    }

    #[test]
    fn endings_are_counted_per_recipe_for_an_hour_and_a_drawing_clears_them() {
        let (endings, now) = (Endings::default(), Instant::now());
        assert_eq!((endings.add(recipe(1), now), endings.add(recipe(1), now), endings.add(recipe(2), now)), (1, 2, 1));
        assert_eq!((endings.of(recipe(1), now), endings.of(recipe(3), now)), (2, 0));
        endings.forget(recipe(1));
        assert_eq!(endings.of(recipe(1), now), 0);
        assert_eq!(endings.of(recipe(2), now + REMEMBERED), 0);
        endings.suspect(recipe(3), now);
        assert_eq!((endings.of(recipe(3), now), endings.is_suspect(recipe(3), now)), (0, true));
        assert!(!endings.is_suspect(recipe(3), now + REMEMBERED) && !endings.is_suspect(recipe(4), now));
    }

    #[test]
    fn the_oldest_goes_when_there_are_many() {
        let (endings, mut now) = (Endings::default(), Instant::now());
        for n in 0..=RECIPES_MAX {
            endings.add(recipe(n), now);
            now += Duration::from_millis(1);
        }
        let count = endings.0.lock().len();
        assert_eq!((endings.of(recipe(0), now), endings.of(recipe(1), now), count), (0, 1, RECIPES_MAX));
    }
}
