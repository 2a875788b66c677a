//! DPM-Solver++ of single steps (Lu et al. 2022, algorithm 1, "2S"): evaluations come in groups of as many as the order, and
//! each of a group starts again from the latents at which the group began, with one prediction more.

use std::ops::Range;

use tch::{TchError, Tensor};

use super::config::{DpmOptions, FinalSigma, Prediction, SchedulerConfig, SolverType};
use super::levels::{Level, Rounding, Visiting, visits};
use super::schedule::TrainSchedule;
use super::{Sampling, SchedulerError, Solver, scaled};

#[derive(Debug)]
struct DpmSingle {
    prediction: Prediction,
    solver: SolverType,
    /// How many predictions each evaluation uses.
    orders: Vec<usize>,
    /// The noise level before each step, and after the last.
    levels: Vec<Level>,
    /// The latents where the group began.
    start: Option<Tensor>,
    /// The clean pictures predicted in this group, the latest first.
    predicted: Vec<Tensor>,
}

pub(super) fn plan(
    config: &SchedulerConfig,
    schedule: &TrainSchedule,
    steps: usize,
    span: Range<usize>,
    options: &DpmOptions,
) -> Result<Sampling, SchedulerError> {
    let DpmOptions { sigmas, final_sigma, lambda_min, .. } = *options;
    let visiting = Visiting { sigmas, final_sigma, lambda_min, rounding: Rounding::Single };
    let (timesteps, levels) = visits(config, schedule, steps, visiting)?;
    let mixes = levels[..steps].iter().map(|level| level.shares()).collect();
    let orders = orders(steps, options);
    let (prediction, solver) = (config.prediction, options.solver);
    let solver = DpmSingle { prediction, solver, orders, levels, start: None, predicted: Vec::new() };
    Ok(Sampling { timesteps, span, init_noise_sigma: 1.0, mixes, solver: Box::new(solver) })
}

/// The order of each evaluation: groups of rising order. The last one is of first order where the config asks for it and no
/// group is cut short anyway, and where it reaches a noise level of zero.
fn orders(steps: usize, options: &DpmOptions) -> Vec<usize> {
    let order = options.order;
    let mut orders: Vec<usize> = (0..steps).map(|step| step % order + 1).collect();
    let is_lower_at_end = options.lower_order_final && steps.is_multiple_of(order);
    if let Some(last) = orders.last_mut().filter(|_| is_lower_at_end || options.final_sigma == FinalSigma::Zero) {
        *last = 1;
    }
    orders
}

impl Solver for DpmSingle {
    fn step(&mut self, index: usize, output: Tensor, latents: Tensor, _: Option<Tensor>) -> Result<Tensor, TchError> {
        let clean = self.levels[index].clean(self.prediction, output, &latents)?;
        self.predicted.insert(0, clean);
        // A way that begins within a group has fewer predictions than its place asks for.
        let order = self.orders[index].min(self.predicted.len());
        if order == 1 {
            self.start = Some(latents);
        }
        self.predicted.truncate(3);
        let start = self.start.as_ref().ok_or_else(|| TchError::Shape("a group without a start".into()))?;
        self.transferred(index, order, start)
    }
}

impl DpmSingle {
    /// The latents at the level after `index`, from those where the group began, `order` - 1 evaluations before.
    fn transferred(&self, index: usize, order: usize, start: &Tensor) -> Result<Tensor, TchError> {
        let (from, to) = (self.levels[index + 1 - order], self.levels[index + 1]);
        let h = to.lambda - from.lambda;
        let decay = (-h).exp() - 1.0;
        let gain = to.alpha * decay;
        let weight = to.alpha * (decay / h + 1.0);
        let ratio = |back: usize| (self.levels[index - back].lambda - from.lambda) / h;
        let first = &self.predicted[order - 1];
        let difference = |back: usize, ratio: f32| scaled(&self.predicted[back].f_sub(first)?, 1.0 / ratio);
        let first_order = scaled(start, to.sigma / from.sigma)?.f_sub(&scaled(first, gain)?)?;
        match (order, self.solver) {
            (1, _) => Ok(first_order),
            (2, SolverType::Midpoint) => first_order.f_sub(&scaled(&difference(0, ratio(0))?, 0.5 * gain)?),
            (2, SolverType::Heun) => first_order.f_add(&scaled(&difference(0, ratio(0))?, weight)?),
            (_, SolverType::Midpoint) => first_order.f_add(&scaled(&difference(0, ratio(0))?, weight)?),
            (_, SolverType::Heun) => {
                let (r0, r1) = (ratio(0), ratio(1));
                let (near, far) = (difference(1, r1)?, difference(0, r0)?);
                let slope = scaled(&scaled(&near, r0)?.f_sub(&scaled(&far, r1)?)?, 1.0 / (r0 - r1))?;
                let bend = scaled(&scaled(&far.f_sub(&near)?, 2.0)?, 1.0 / (r0 - r1))?;
                let curve = to.alpha * ((decay + h) / (h * h) - 0.5);
                first_order.f_add(&scaled(&slope, weight)?)?.f_sub(&scaled(&bend, curve)?)
            }
        }
    }
}
