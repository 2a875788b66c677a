//! What weights of words do to the states of a text, as compel 2 does it (Stewart, `compel`; MIT).
//!
//! With `z` a token's state, `e` the state at its place in an empty prompt, and `w` its weight, the state is
//! `e + w · (z − e)`: the words say more, or less, of what they change. The beginning, the end and the padding have weight 1.
//! A part with a weight below 1 counts for less in the other words, too: the text is encoded once more with the part hidden
//! from them, and blended in with `tan((1 − w) · π / 2)` to 1, so that `0.5` is half of each. For Stable Diffusion XL both
//! encoders' states are weighted so, each by itself; the pooled text and the conditioning on sizes have no weights.

use std::f64::consts::FRAC_PI_2;

use bildkante_shared::weighting::Fragment;
use tch::{Kind, TchError, Tensor};

use crate::diffusion::device::upload;
use crate::diffusion::text::clip::{ClipTextModel, Encoded, HiddenLayer, Reading};
use crate::diffusion::text::tokenizer::Chunk;

/// A weight of zero hides a part; the blend with the text that shows it is not divided by zero.
const LEAST: f64 = 1e-5;

/// An encoder, and how its states are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taking<'a> {
    pub(super) model: &'a ClipTextModel,
    pub(super) layer: HiddenLayer,
    pub(super) skip: usize,
}

impl Taking<'_> {
    fn encode(&self, tokens: &Tensor, visible: Option<Tensor>) -> Result<Encoded, TchError> {
        self.model.forward_as(tokens, self.layer, &Reading { skip: self.skip, visible })
    }

    /// The states of a text, `[chunks, t, hidden]`, and its pooled text. `empty` is an empty prompt in one chunk.
    pub(super) fn weighted(
        &self,
        chunks: &[Chunk],
        fragments: &[Fragment],
        empty: &Chunk,
    ) -> Result<Encoded, TchError> {
        let tokens = tokens(chunks)?;
        let encoded = self.encode(&tokens, None)?;
        if fragments.iter().all(|fragment| fragment.weight == 1.0) {
            return Ok(encoded);
        }
        let weight = |part: &Option<usize>| part.and_then(|at| fragments.get(at)).map_or(1.0, |part| part.weight);
        let weights: Vec<f64> = chunks.iter().flat_map(|chunk| chunk.parts.iter().map(weight)).collect();
        let (rows, count, _) = encoded.hidden.size3()?;
        let weights = Tensor::f_from_slice(&weights)?.f_to_kind(Kind::Float)?.f_view([rows, count, 1])?;
        let empty = self.encode(&self::tokens(std::slice::from_ref(empty))?, None)?.hidden;
        let apart = Apart::new(&upload(&weights, self.model.device())?, &empty)?;
        let shown = apart.of(&encoded.hidden)?;
        let (mut sum, mut total) = (shown, 1.0);
        for (at, fragment) in fragments.iter().enumerate().filter(|(_, fragment)| fragment.weight < 1.0) {
            let Some(visible) = hidden_from(chunks, at)? else { continue };
            let share = ((1.0 - fragment.weight.max(LEAST)) * FRAC_PI_2).tan();
            let without = apart.of(&self.encode(&tokens, Some(visible))?.hidden)?;
            sum = sum.f_add(&without.f_mul_scalar(share)?)?;
            total += share;
        }
        let hidden = sum.f_div_scalar(total)?.f_to_kind(encoded.hidden.f_kind()?)?;
        Ok(Encoded { hidden, pooled: encoded.pooled })
    }
}

/// Moves states apart from those of an empty prompt, in float32.
struct Apart {
    weights: Tensor, // [chunks, t, 1]
    /// The empty prompt's states, times what the weights leave of them.
    kept: Tensor, // [chunks, t, hidden]
}

impl Apart {
    fn new(weights: &Tensor, empty: &Tensor) -> Result<Self, TchError> {
        let kept = empty.f_to_kind(Kind::Float)?.f_mul(&weights.f_neg()?.f_add_scalar(1.0)?)?;
        Ok(Self { weights: weights.shallow_clone(), kept })
    }

    /// A weight of 1 leaves a state as it is, to the bit.
    fn of(&self, states: &Tensor) -> Result<Tensor, TchError> {
        states.f_to_kind(Kind::Float)?.f_mul(&self.weights)?.f_add(&self.kept)
    }
}

/// Where tokens may look when a part is hidden, `[chunks, t]`; `None` where no token of the part is there.
fn hidden_from(chunks: &[Chunk], part: usize) -> Result<Option<Tensor>, TchError> {
    let visible: Vec<bool> = chunks.iter().flat_map(|chunk| chunk.parts.iter().map(|at| *at != Some(part))).collect();
    if visible.iter().all(|visible| *visible) {
        return Ok(None);
    }
    let rows = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
    Tensor::f_from_slice(&visible)?.f_view([rows, -1]).map(Some)
}

/// `[chunks, t]`
fn tokens(chunks: &[Chunk]) -> Result<Tensor, TchError> {
    let rows = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
    let ids: Vec<i64> = chunks.iter().flat_map(|chunk| chunk.ids.iter().copied()).collect();
    Tensor::f_from_slice(&ids)?.f_view([rows, -1])
}
