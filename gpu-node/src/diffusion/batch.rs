//! Several requests in one evaluation of a network.
//!
//! A network computes each row of a batch by itself, but how it rounds may depend on how many rows there are: the number
//! of rows chooses kernels and the order of their sums. So a row's bits are promised within one number of requests only,
//! the *canonical* one, to which smaller groups are padded. Where a [`Probe`] finds that a smaller number gives the same bits,
//! smaller groups take that one. The probe also tries other places in the batch and other companions: where those change a
//! row's bits, requests are evaluated alone.
//!
//! Kernels are chosen by shapes. So what a probe finds holds for a [`BatchClass`] and an architecture, whatever the numbers are:
//! weights, those of adapters, scales of ControlNets, texts, noise.

use std::collections::VecDeque;

use bildkante_shared::ids::Digest;
use serde::{Deserialize, Serialize};
use tch::{Kind, TchError, Tensor};

use crate::diffusion::denoiser::{Conditions, Control, Denoiser, ModelInput, Reference, Stage};
use crate::diffusion::error::DiffusionError;
use crate::diffusion::noise::NoiseGenerator;
use crate::diffusion::picture::Picture;

/// The shapes of what one request gives a network: what decides, beside the architecture, how its rows are computed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchClass {
    stage: Stage,
    /// Rows of one request, then channels, height and width.
    latents: [i64; 4],
    tokens: i64,
    /// The ControlNets that act, by their place in the recipe.
    controls: Vec<usize>,
    /// The reference images that act.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<ReferenceShape>,
}

/// What of a reference image decides how a network looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct ReferenceShape {
    /// Its place in the recipe.
    pub(crate) place: usize,
    pub(crate) tokens: i64,
    pub(crate) is_masked: bool,
}

impl From<&Reference> for ReferenceShape {
    fn from(reference: &Reference) -> Self {
        Self { place: reference.place, tokens: reference.tokens(), is_masked: reference.mask.is_some() }
    }
}

impl BatchClass {
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Rows of one request, then channels, height and width.
    #[must_use]
    pub const fn latents(&self) -> [i64; 4] {
        self.latents
    }

    #[must_use]
    pub const fn tokens(&self) -> i64 {
        self.tokens
    }

    /// The ControlNets that act, by their place in the recipe.
    #[must_use]
    pub fn controls(&self) -> &[usize] {
        &self.controls
    }

    /// Whether nothing acts beside the denoising network and its text.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.controls.is_empty() && self.references.is_empty()
    }

    /// `latents` is the shape of what one request gives the network.
    pub(crate) fn new(
        stage: Stage,
        latents: [i64; 4],
        conditions: &impl Conditions,
        controls: impl Iterator<Item = usize>,
        references: impl Iterator<Item = ReferenceShape>,
    ) -> Self {
        let (controls, references) = (controls.collect(), references.collect());
        Self { stage, latents, tokens: conditions.tokens(), controls, references }
    }

    /// Whether an input is of the class that [`crate::diffusion::pipeline::Denoising::next_class`] gave.
    #[must_use]
    pub fn is_of(&self, input: &ModelInput<impl Conditions>) -> bool {
        let controls = input.conditions.controls().iter().map(|control| control.network);
        let references = input.conditions.references().iter().map(ReferenceShape::from);
        let latents = input.latents.size().try_into();
        latents.is_ok_and(|latents| *self == Self::new(input.stage, latents, &input.conditions, controls, references))
    }
}

/// The numbers of requests that give a row the same bits, ascending; the last one is the canonical one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether a request alone gets the bits that are promised.
    #[must_use]
    pub(crate) fn hold_one(&self) -> bool {
        self.0.first() == Some(&1)
    }

    /// The smallest number that `requests` fit in.
    #[must_use]
    pub(crate) fn holding(&self, requests: usize) -> usize {
        self.0.iter().copied().find(|shape| *shape >= requests).unwrap_or_else(|| self.canonical())
    }

    /// Whether they are what a probe with `requests_max` can find: ascending numbers from 1 to that.
    #[must_use]
    pub(crate) fn are_within(&self, requests_max: usize) -> bool {
        let is_ascending = self.0.windows(2).all(|pair| pair[0] < pair[1]);
        is_ascending && self.0.first().is_some_and(|first| *first >= 1) && self.canonical() <= requests_max
    }
}

/// Finds the [`Shapes`] of a class, one pass after the other, so that requests can go in between.
///
/// An input is evaluated at every place that matters, among companions unlike it, with `requests_max` requests, with each number
/// up to [`EACH_MAX`] and with every power of two below.
#[derive(Debug)]
pub(crate) struct Probe<C> {
    input: ModelInput<C>,
    other: ModelInput<C>,
    requests_max: usize,
    /// What the input comes to with `requests_max` requests.
    canonical: Option<Tensor>,
    /// Numbers of requests and places to be tried yet.
    trials: VecDeque<(usize, usize)>,
    shapes: Vec<usize>,
}

impl<C: Conditions> Probe<C> {
    /// Of an input like those of the class.
    ///
    /// # Errors
    /// When libtorch fails.
    pub(crate) fn new(input: ModelInput<C>, requests_max: usize) -> Result<Self, TchError> {
        let other = unlike(&input)?;
        let trials =
            numbers(requests_max).flat_map(|requests| places(requests).into_iter().map(move |place| (requests, place)));
        Ok(Self { input, other, requests_max, canonical: None, trials: trials.collect(), shapes: Vec::new() })
    }

    /// Makes one pass. The shapes, once they are found.
    ///
    /// # Errors
    /// When libtorch fails.
    pub(crate) fn pass<D: Denoiser<Conditions = C>>(&mut self, denoiser: &D) -> Result<Option<Shapes>, DiffusionError> {
        if self.requests_max <= 1 {
            return Ok(Some(Shapes::alone()));
        }
        let Some(canonical) = &self.canonical else {
            self.canonical = Some(self.evaluated(denoiser, (self.requests_max, 0))?);
            return Ok(None);
        };
        let Some(trial) = self.trials.pop_front() else { return Ok(Some(self.found())) };
        let (requests, place) = trial;
        let agrees = self.evaluated(denoiser, trial)? == *canonical;
        if !agrees && requests == self.requests_max {
            return Ok(Some(Shapes::alone()));
        }
        if !agrees {
            self.trials.retain(|(number, _)| *number != requests);
        } else if place == requests - 1 {
            self.shapes.push(requests);
        }
        Ok(self.trials.is_empty().then(|| self.found()))
    }

    fn evaluated<D: Denoiser<Conditions = C>>(
        &self,
        denoiser: &D,
        (requests, place): (usize, usize),
    ) -> Result<Tensor, DiffusionError> {
        let inputs: Vec<_> = (0..requests).map(|at| if at == place { &self.input } else { &self.other }).collect();
        Ok(predict(denoiser, &inputs, requests)?.swap_remove(place))
    }

    fn found(&self) -> Shapes {
        let mut shapes = self.shapes.clone();
        shapes.sort_unstable();
        Shapes(shapes)
    }
}

/// Numbers of requests up to which each is tried.
const EACH_MAX: usize = 8;

/// The numbers of requests that are tried, the largest one first.
fn numbers(requests_max: usize) -> impl Iterator<Item = usize> {
    let is_tried = |requests: &usize| *requests <= EACH_MAX || requests.is_power_of_two();
    std::iter::once(requests_max).chain((1..requests_max).filter(is_tried))
}

/// The places of a batch that are tried: the first, one in the middle, and last the last.
fn places(requests: usize) -> Vec<usize> {
    let mut places = vec![0, requests / 2, requests - 1];
    places.dedup();
    places
}

/// An input of a class, under conditions of as many rows and tokens. Its numbers are drawn, and always the same.
///
/// # Errors
/// When libtorch fails, or the networks lack a ControlNet or an adapter of the class.
pub(crate) fn specimen<D: Denoiser>(
    denoiser: &D,
    class: &BatchClass,
    conditions: &D::Conditions,
) -> Result<ModelInput<D::Conditions>, DiffusionError> {
    let _no_grad = tch::no_grad_guard();
    let (mut noise, device) = (NoiseGenerator::new(0), denoiser.device());
    let kind = conditions.text().f_kind()?;
    let latents = noise.draw(&class.latents, kind)?.f_to_device(device)?;
    let [rows, _, height, width] = class.latents;
    let controls = class.controls.iter().map(|network| {
        let factor = i64::from(denoiser.control_factor(*network).unwrap_or(1));
        let image = noise.draw(&[1, 3, height * factor, width * factor], Kind::Float)?.f_sigmoid()?;
        let embedded = denoiser.embed_control(*network, &image.f_to_device(device)?)?;
        Ok(Control::new(*network, &embedded, rows, 1.0)?)
    });
    let controls = controls.collect::<Result<Vec<_>, DiffusionError>>()?;
    let timesteps = Tensor::f_full([rows], 500.0, (Kind::Float, device))?;
    let picture = Picture::flat(REFERENCE_PX, 128);
    let drawn = Digest::of_bytes(b"a grey reference image");
    let references = class.references.iter().map(|shape| {
        let seen = denoiser.embed_reference(shape.place, (drawn, &picture), rows)?;
        let weight = Tensor::f_ones([rows, 1, 1], (Kind::Float, device))?;
        let mask = || Tensor::f_ones([rows, 1, 8 * height, 8 * width], (Kind::Float, device));
        let mask = if shape.is_masked { Some(mask()?) } else { None };
        Ok(Reference { place: shape.place, seen, weight, mask })
    });
    let references = references.collect::<Result<Vec<_>, DiffusionError>>()?;
    let conditions = conditions.controlled(controls).beside(references);
    Ok(ModelInput { stage: class.stage, latents, timesteps, conditions })
}

/// Of a drawn reference image: encoders read it at a size of their own.
const REFERENCE_PX: (u32, u32) = (64, 64);

/// Evaluates inputs of one class together, in a batch of `requests` requests, which are at least as many. One output each.
///
/// # Errors
/// When shapes do not fit or libtorch fails.
pub fn predict<D: Denoiser>(
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
        assert_eq!([Shapes::alone(), Shapes(vec![2, 4])].map(|shapes| shapes.hold_one()), [true, false]);
    }

    #[test]
    fn shapes_that_no_probe_finds_are_told() {
        let are_within = |shapes: &[usize]| Shapes(shapes.to_vec()).are_within(4);
        assert!([&[1][..], &[4], &[1, 2, 4]].into_iter().all(are_within));
        assert!(![&[][..], &[0, 4], &[4, 2], &[2, 2], &[1, 8]].into_iter().any(are_within));
    }

    #[test]
    fn every_number_that_matters_is_tried_once() {
        let tried = |requests_max| numbers(requests_max).collect::<Vec<_>>();
        assert_eq!([tried(1), tried(2), tried(4)], [vec![1], vec![2, 1], vec![4, 1, 2, 3]]);
        assert_eq!(tried(40), [40, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32]);
    }

    #[test]
    fn every_place_that_matters_is_tried_once() {
        assert_eq!([1, 2, 3, 8].map(places), [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 4, 7]]);
    }
}
