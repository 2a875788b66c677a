//! UniPC (Zhao et al. 2023): a multistep predictor, and a corrector of one order more that reuses the next step's
//! evaluation, so that it costs none of its own.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{Prediction, SchedulerConfig, UniPcOptions};
use super::levels::{Level, Rounding, Visiting, visits};
use super::schedule::TrainSchedule;
use super::{Sampling, SchedulerError, Solver, divided, scaled};

/// The last step as the corrector needs it.
#[derive(Debug)]
struct LastStep {
    /// What it started from.
    latents: Tensor,
    order: usize,
}

#[derive(Debug)]
struct UniPc {
    prediction: Prediction,
    options: UniPcOptions,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The clean pictures predicted so far, the latest first; as many as the order.
    history: Vec<Tensor>,
    last: Option<LastStep>,
    taken: usize,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &UniPcOptions,
) -> Result<Sampling, SchedulerError> {
    let UniPcOptions { sigmas, final_sigma, .. } = *options;
    let visiting = Visiting { sigmas, final_sigma, lambda_min: f64::NEG_INFINITY, rounding: Rounding::UniPc };
    let (timesteps, levels) = visits(config, schedule, steps, visiting)?;
    let mixes = levels[..steps].iter().map(|level| level.shares()).collect();
    let solver = UniPc {
        prediction: config.prediction,
        options: options.clone(),
        levels,
        history: Vec::new(),
        last: None,
        taken: 0,
    };
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

impl Solver for UniPc {
    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let clean = self.levels[index].clean(self.prediction, output, &latents)?;
        let latents = match self.last.take() {
            Some(last) if !self.options.disable_corrector.contains(&(index - 1)) => {
                self.transfer(index - 1, last.order, &last.latents, Some(&clean))?
            }
            _ => latents,
        };
        self.history.insert(0, clean);
        self.history.truncate(self.options.order);
        let left = self.levels.len() - 1 - index;
        let wanted = if self.options.lower_order_final { self.options.order.min(left) } else { self.options.order };
        let order = wanted.min(self.taken + 1);
        self.taken = (self.taken + 1).min(self.options.order);
        let predicted = self.transfer(index, order, &latents, None)?;
        self.last = Some(LastStep { latents, order });
        Ok(predicted)
    }
}

impl UniPc {
    /// From the level before step `from` to the one after it: predicted from the history, or corrected with what the
    /// network saw at its end (equations 3 and 9 of the paper, with x₀ predicted).
    fn transfer(
        &self,
        from: usize,
        order: usize,
        latents: &Tensor,
        arrived: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        let (now, next) = (self.levels[from], self.levels[from + 1]);
        let h = next.lambda - now.lambda;
        let Some(newest) = self.history.first() else {
            return Err(TchError::Shape("UniPC has no evaluation to start from".into()));
        };
        let ratios: Vec<f32> = (1..order).map(|i| (self.levels[from - i].lambda - now.lambda) / h).collect();
        let slopes = ratios.iter().zip(self.history.iter().skip(1));
        let slopes = slopes.map(|(ratio, older)| divided(&older.f_sub(newest)?, *ratio));
        let mut slopes = slopes.collect::<Result<Vec<_>, TchError>>()?;
        let weights = match arrived {
            Some(arrived) => {
                slopes.push(arrived.f_sub(newest)?);
                self.weights(h, &ratios, Role::Corrector)
            }
            None => self.weights(h, &ratios, Role::Predictor),
        };
        let growth = (-h).exp_m1();
        let kept = scaled(latents, next.sigma / now.sigma)?.f_sub(&scaled(newest, next.alpha * growth)?)?;
        let gain = next.alpha * self.scale(-h);
        let mut terms = slopes.iter().zip(&weights).map(|(slope, weight)| scaled(slope, *weight));
        let Some(first) = terms.next() else { return Ok(kept) };
        let sum = terms.try_fold(first?, |sum, term| sum.f_add(&term?))?;
        kept.f_sub(&scaled(&sum, gain)?)
    }

    /// B(h) of the paper.
    fn scale(&self, hh: f32) -> f32 {
        if self.options.is_bh1 { hh } else { hh.exp_m1() }
    }

    /// The weights of the slopes: a Vandermonde system over the ratios and 1, of which the predictor leaves out the
    /// last unknown. The lowest orders have a simple solution, which stands for the exact one.
    fn weights(&self, h: f32, ratios: &[f32], role: Role) -> Vec<f32> {
        match (role, ratios.len()) {
            (Role::Predictor, 0) => return Vec::new(),
            (Role::Predictor, 1) | (Role::Corrector, 0) => return vec![0.5],
            _ => {}
        }
        let hh = -h;
        let scale = self.scale(hh);
        let points: Vec<f32> = ratios.iter().copied().chain((role == Role::Corrector).then_some(1.0)).collect();
        let (mut phi, mut factorial) = (hh.exp_m1() / hh - 1.0, 1.0_f32);
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for power in 0..points.len() {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
            let mut row: Vec<f64> = points.iter().map(|point| f64::from(point.powi(power as i32))).collect();
            row.push(f64::from(phi * factorial / scale));
            #[allow(clippy::cast_precision_loss, reason = "at most four")]
            let next = (power + 2) as f32;
            factorial *= next;
            phi = phi / hh - 1.0 / factorial;
            rows.push(row);
        }
        solved(rows)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Predictor,
    Corrector,
}

/// Gauss's elimination with pivots, of at most three unknowns; each row ends with its right side.
#[allow(clippy::cast_possible_truncation, reason = "the weights of float32 tensors")]
fn solved(mut rows: Vec<Vec<f64>>) -> Vec<f32> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let lead = rows[column].clone();
        for (at, row) in rows.iter_mut().enumerate().filter(|(at, _)| *at != column) {
            let _ = at;
            let factor = row[column] / lead[column];
            row.iter_mut().zip(&lead).for_each(|(value, lead)| *value -= factor * lead);
        }
    }
    rows.iter().enumerate().map(|(i, row)| (row[n] / row[i]) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_systems_are_solved() {
        // x + y + z = 6, x + 2y + 4z = 17, x + 3y + 9z = 34
        let rows = [[1.0, 1.0, 1.0, 6.0], [1.0, 2.0, 4.0, 17.0], [1.0, 3.0, 9.0, 34.0]];
        let solution = solved(rows.map(Vec::from).to_vec());
        for (found, expected) in solution.iter().zip([1.0, 2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-6, "{solution:?}");
        }
    }
}
