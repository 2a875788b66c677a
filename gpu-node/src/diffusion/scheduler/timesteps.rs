//! Which training steps are visited.
//!
//! Owns the three spacings of Lin et al. 2023, table 2, with numpy's arithmetic: `linspace` and `arange` accumulate as
//! numpy's do and `round` is to even. Invariant: the timesteps descend, and there are as many as were asked for.

use bildkante_shared::recipe::TimestepSpacing;

/// What is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) spacing: TimestepSpacing,
    /// Steps of the training schedule.
    pub(super) train_steps: usize,
    /// Where the visited part of it ends; `train_steps` unless its noisiest steps are skipped.
    pub(super) last: usize,
    pub(super) steps: usize,
    pub(super) offset: usize,
    /// Whether one point more is laid out and the cleanest dropped, for solvers that never evaluate it.
    pub(super) drops_cleanest: bool,
}

impl Grid {
    /// The timesteps from the noisiest on; `linspace` ones are not yet rounded.
    #[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
    pub(super) fn timesteps(&self) -> Vec<f64> {
        let points = self.steps + usize::from(self.drops_cleanest);
        let mut timesteps: Vec<f64> = match self.spacing {
            TimestepSpacing::Linspace => linspace(self.last as f64 - 1.0, points).into_iter().rev().collect(),
            TimestepSpacing::Leading => {
                let ratio = self.last / points;
                (0..points).rev().map(|i| (i * ratio + self.offset) as f64).collect()
            }
            TimestepSpacing::Trailing => trailing(self.last as f64, self.train_steps as f64 / self.steps as f64),
        };
        // Trailing spacing may end one short, where noisy steps are skipped, or one over, by rounding of the ratio.
        timesteps.truncate(self.steps);
        timesteps
    }

    /// The timesteps from the noisiest on, rounded to even.
    pub(super) fn whole_timesteps(&self) -> Vec<i64> {
        #[allow(clippy::cast_possible_truncation, reason = "at most ten thousand steps")]
        self.timesteps().into_iter().map(|timestep| timestep.round_ties_even() as i64).collect()
    }
}

/// Timesteps as the network is told them.
#[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
pub(super) fn told(timesteps: &[i64]) -> Vec<f32> {
    timesteps.iter().map(|timestep| *timestep as f32).collect()
}

/// `numpy.linspace(0, stop, count)`.
#[allow(clippy::cast_precision_loss, reason = "at most ten thousand points")]
pub(super) fn linspace(stop: f64, count: usize) -> Vec<f64> {
    let step = stop / (count.max(2) - 1) as f64;
    let mut points: Vec<f64> = (0..count).map(|i| i as f64 * step).collect();
    if count > 1 {
        points[count - 1] = stop;
    }
    points
}

/// `numpy.arange(last, 0, -step).round() - 1`: numpy adds multiples of the rounded difference of the first two.
#[allow(clippy::cast_precision_loss, reason = "at most ten thousand steps")]
fn trailing(last: f64, step: f64) -> Vec<f64> {
    let delta = (last - step) - last;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most ten thousand steps")]
    let count = (last / step).ceil() as usize;
    (0..count).map(|i| (last + i as f64 * delta).round_ties_even() - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timesteps(spacing: TimestepSpacing, steps: usize, drops_cleanest: bool) -> Vec<f64> {
        Grid { spacing, train_steps: 1000, last: 1000, steps, offset: 1, drops_cleanest }.timesteps()
    }

    #[test]
    fn the_spacings_are_those_of_the_paper() {
        assert_eq!(timesteps(TimestepSpacing::Leading, 4, false), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(timesteps(TimestepSpacing::Trailing, 4, false), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 4, false), [999.0, 666.0, 333.0, 0.0]);
        assert_eq!(timesteps(TimestepSpacing::Leading, 4, true), [801.0, 601.0, 401.0, 201.0]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 3, true), [999.0, 666.0, 333.0]);
    }

    #[test]
    fn halves_round_to_even() {
        // 1000/16 = 62.5: 937.5 and 812.5 are both halves.
        let timesteps = timesteps(TimestepSpacing::Trailing, 16, false);
        assert_eq!(timesteps[1..4], [937.0, 874.0, 811.0]);
    }

    #[test]
    fn there_are_always_as_many_as_asked_for_and_they_descend() {
        for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
            for steps in 1..=999 {
                for drops_cleanest in [false, true] {
                    let timesteps = timesteps(spacing, steps, drops_cleanest);
                    assert_eq!(timesteps.len(), steps, "{spacing:?}");
                    assert!(timesteps.is_sorted_by(|a, b| a > b), "{spacing:?} {steps}");
                    assert!(timesteps.iter().all(|t| (0.0..=1000.0).contains(t)), "{spacing:?} {steps}");
                }
            }
        }
    }
}
