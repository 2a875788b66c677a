//! Several requests in one evaluation of a network.
//!
//! A network computes each row of a batch by itself, but how it rounds may depend on how many rows there are: the number
//! of rows chooses kernels and the order of their sums. So a row's bits are promised within one number of requests only,
//! the *canonical* one, to which smaller groups are padded. Where a probe finds that a smaller number gives the same bits,
//! smaller groups take that one. The probe also tries other places in the batch and other companions: where those change a
//! row's bits, requests are evaluated alone.

use tch::{TchError, Tensor};

use crate::diffusion::denoiser::{Conditions, Denoiser, ModelInput, Stage};
use crate::diffusion::error::DiffusionError;

/// What must agree for requests to share an evaluation, beside the networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchClass {
    stage: Stage,
    /// Rows of one request, then channels, height and width.
    latents: [i64; 4],
    tokens: i64,
    /// ControlNets by their place in the recipe, with their scales bit by bit.
    controls: Vec<(usize, u64)>,
}

impl BatchClass {
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// `latents` is the shape of what one request gives the network.
    pub(crate) fn new(
        stage: Stage,
        latents: [i64; 4],
        conditions: &impl Conditions,
        controls: impl Iterator<Item = (usize, f64)>,
    ) -> Self {
        let controls = controls.map(|(network, scale)| (network, scale.to_bits())).collect();
        Self { stage, latents, tokens: conditions.tokens(), controls }
    }

    /// Whether an input is of the class that [`crate::diffusion::pipeline::Denoising::next_class`] gave.
    #[must_use]
    pub fn is_of(&self, input: &ModelInput<impl Conditions>) -> bool {
        let controls = input.conditions.controls().iter().map(|control| (control.network, control.scale));
        let latents = input.latents.size().try_into();
        latents.is_ok_and(|latents| *self == Self::new(input.stage, latents, &input.conditions, controls))
    }
}

/// The numbers of requests that give a row the same bits, ascending; the last one is the canonical one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shapes(Vec<usize>);

impl Shapes {
    /// Each request by itself.
    #[must_use]
    pub(crate) fn alone() -> Self {
        Self(vec![1])
    }

    /// Any number up to `requests_max`, even where bits change with it.
    #[must_use]
    pub(crate) fn any(requests_max: usize) -> Self {
        Self((1..=requests_max.max(1)).collect())
    }

    /// The number with which bits are promised.
    #[must_use]
    pub(crate) fn canonical(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// The smallest number that `requests` fit in.
    #[must_use]
    pub(crate) fn holding(&self, requests: usize) -> usize {
        self.0.iter().copied().find(|shape| *shape >= requests).unwrap_or_else(|| self.canonical())
    }

    /// Evaluates an input at every place that matters, among companions unlike it, with `requests_max` requests and
    /// with every power of two below.
    ///
    /// # Errors
    /// When libtorch fails.
    pub(crate) fn probed<D: Denoiser>(
        denoiser: &D,
        input: &ModelInput<D::Conditions>,
        requests_max: usize,
    ) -> Result<Self, DiffusionError> {
        if requests_max <= 1 {
            return Ok(Self::alone());
        }
        let other = unlike(input)?;
        let at = |place: usize, requests: usize| -> Result<Tensor, DiffusionError> {
            let inputs: Vec<_> = (0..requests).map(|i| if i == place { input } else { &other }).collect();
            let mut outputs = predict(denoiser, &inputs, requests)?;
            Ok(outputs.swap_remove(place))
        };
        let canonical = at(0, requests_max)?;
        let agrees = |requests: usize| -> Result<bool, DiffusionError> {
            for place in [0, requests / 2, requests - 1] {
                if at(place, requests)? != canonical {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if !agrees(requests_max)? {
            return Ok(Self::alone());
        }
        let mut shapes = Vec::new();
        let mut requests = 1;
        while requests < requests_max {
            if agrees(requests)? {
                shapes.push(requests);
            }
            requests *= 2;
        }
        shapes.push(requests_max);
        Ok(Self(shapes))
    }
}

/// Evaluates inputs of one class together, in a batch of `requests` requests, which are at least as many. One output each.
///
/// # Errors
/// When shapes do not fit or libtorch fails.
pub(crate) fn predict<D: Denoiser>(
    denoiser: &D,
    inputs: &[&ModelInput<D::Conditions>],
    requests: usize,
) -> Result<Vec<Tensor>, DiffusionError> {
    let Some(first) = inputs.first() else { return Ok(Vec::new()) };
    let _no_grad = tch::no_grad_guard();
    let rows = first.conditions.rows();
    let padded: Vec<_> =
        inputs.iter().copied().chain(std::iter::repeat(*first)).take(requests.max(inputs.len())).collect();
    let output = if let [only] = padded.as_slice() {
        denoiser.predict(&only.latents, &only.timesteps, &only.conditions)?
    } else {
        let cat = |part: fn(&ModelInput<D::Conditions>) -> &Tensor| {
            Tensor::f_cat(&padded.iter().map(|input| part(input)).collect::<Vec<_>>(), 0)
        };
        let conditions: Vec<_> = padded.iter().map(|input| &input.conditions).collect();
        let conditions = Conditions::cat(&conditions)?;
        denoiser.predict(&cat(|i| &i.latents)?, &cat(|i| &i.timesteps)?, &conditions)?
    };
    let outputs = (0..inputs.len()).map(|at| output.f_narrow(0, i64::try_from(at).unwrap_or(0) * rows, rows));
    Ok(outputs.collect::<Result<Vec<_>, TchError>>()?)
}

/// An input of the same class with other numbers in it.
fn unlike<C: Conditions>(input: &ModelInput<C>) -> Result<ModelInput<C>, TchError> {
    let _no_grad = tch::no_grad_guard();
    Ok(ModelInput {
        stage: input.stage,
        latents: input.latents.f_flip([3])?.f_mul_scalar(-1.25)?,
        timesteps: input.timesteps.f_mul_scalar(0.5)?,
        conditions: input.conditions.unlike()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_the_smallest_shape_that_holds_them() {
        let shapes = Shapes(vec![1, 4, 8]);
        let held: Vec<usize> = (1..=8).map(|requests| shapes.holding(requests)).collect();
        assert_eq!(held, [1, 4, 4, 4, 8, 8, 8, 8]);
        assert_eq!((shapes.canonical(), Shapes::alone().canonical()), (8, 1));
        assert_eq!(Shapes::any(3).holding(2), 2);
    }
}
