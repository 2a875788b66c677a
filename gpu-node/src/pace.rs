//! What a recipe will take of a device, from what those before it took.
//!
//! The work of a recipe is its evaluations of the network times its pixels. How many seconds a unit of work takes is learned
//! from each drawing, by checkpoint: an estimate, which decides when a waiting job is overdue and nothing else.

use std::collections::HashMap;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::Recipe;

/// Checkpoints that are remembered; beyond them those that come are estimated like a job of any checkpoint.
const CHECKPOINTS_MAX: usize = 256;
/// How much a new drawing counts beside all before it.
const NEWEST: f64 = 0.2;

/// How fast devices draw.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Of a job of any kind.
    job_s: f64,
    /// Seconds for a unit of work, by checkpoint.
    unit_s: HashMap<Digest, f64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { job_s: 1.0, unit_s: HashMap::new() }
    }
}

impl Pace {
    /// Seconds of a device that a job takes on average.
    pub(crate) const fn job_s(&self) -> f64 {
        self.job_s
    }

    /// What a recipe will take of a device.
    pub(crate) fn estimate(&self, recipe: &Recipe) -> Duration {
        let seconds = self.unit_s.get(&recipe.checkpoint).map_or(self.job_s, |unit_s| unit_s * work(recipe));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Learns from a drawing that took so many seconds.
    pub(crate) fn learn(&mut self, recipe: &Recipe, seconds: f64) {
        if !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        self.job_s += NEWEST * (seconds - self.job_s);
        let measured = seconds / work(recipe);
        if let Some(unit_s) = self.unit_s.get_mut(&recipe.checkpoint) {
            *unit_s += NEWEST * (measured - *unit_s);
        } else if self.unit_s.len() < CHECKPOINTS_MAX {
            self.unit_s.insert(recipe.checkpoint, measured);
        }
    }
}

/// Evaluations times pixels of all parts, at least 1.
fn work(recipe: &Recipe) -> f64 {
    let of = |steps: u32, guidance: f64, (width_px, height_px): (u32, u32), strength: f64| {
        let rows = if guidance > 1.0 { 2.0 } else { 1.0 };
        f64::from(steps) * strength * rows * f64::from(width_px) * f64::from(height_px)
    };
    let size = (recipe.width_px, recipe.height_px);
    let drafts = recipe.draft.iter().map(|draft| {
        let guidance = draft.guidance.unwrap_or(recipe.guidance);
        of(draft.steps.unwrap_or(recipe.steps), guidance, (draft.width_px, draft.height_px), 1.0)
    });
    let details = recipe.details.iter().map(|detail| {
        let guidance = detail.guidance.unwrap_or(recipe.guidance);
        of(detail.steps.unwrap_or(recipe.steps), guidance, size, detail.strength)
    });
    let strength = recipe.draft.as_ref().map_or(1.0, |draft| draft.strength);
    let own = of(recipe.steps, recipe.guidance, size, strength);
    (own + drafts.sum::<f64>() + details.sum::<f64>()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_takes_what_its_like_took_by_steps_and_pixels() {
        let recipe = |steps, side_px| Recipe {
            steps,
            ..Recipe::new(Digest::of_bytes(b"a checkpoint"), "a mug", (side_px, side_px))
        };
        let mut pace = Pace::default();
        assert_eq!(pace.estimate(&recipe(30, 512)), Duration::from_secs(1), "nothing is known yet");
        pace.learn(&recipe(10, 256), 2.0);
        assert_eq!(pace.estimate(&recipe(20, 512)), Duration::from_secs(16));
        pace.learn(&recipe(10, 256), f64::NAN);
        assert_eq!(pace.estimate(&recipe(10, 256)), Duration::from_secs(2));
        let other = Recipe { checkpoint: Digest::of_bytes(b"another"), ..recipe(10, 256) };
        assert_eq!(pace.estimate(&other), Duration::from_secs_f64(1.2), "as a job of any kind");
    }
}
