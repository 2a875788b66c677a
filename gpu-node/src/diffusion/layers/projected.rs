//! What the attentions of a network make of a text: its keys and values.
//!
//! They depend on the text and the network alone, not on latents or timestep, so those of a fixed prompt are computed once
//! and kept while they are asked for ([`ProjectedTexts`]). Each row's are computed by themselves, so a row's keys and
//! values are the same bits in every pass.

use std::cell::Cell;

use bildkante_shared::ids::Digest;
use bildkante_shared::weighting::Weighting;
use tch::{TchError, Tensor};

use crate::diffusion::kept::{Keepable, Kept};
use crate::diffusion::layers::Linear;
use crate::diffusion::layers::reference::{Looking, Reference};

/// Bytes of keys and values kept for one set of networks; one text is always let in. A prompt of Stable Diffusion XL takes
/// 26 MB in bfloat16.
const KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Keys and values of one text, for every attention that looks at it, in the order in which they do: `[1, tokens, 2c]` each.
#[derive(Debug)]
pub struct ProjectedText(Vec<Tensor>);

impl ProjectedText {
    pub(crate) fn new(text: &Tensor, layers: &[&Linear]) -> Result<Self, TchError> {
        Ok(Self(layers.iter().map(|layer| layer.forward(text)).collect::<Result<_, _>>()?))
    }

    /// The same tensors, shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self(self.0.iter().map(Tensor::shallow_clone).collect())
    }

    /// The tokens in the opposite order: another text of the same shape.
    pub(crate) fn flipped(&self) -> Result<Self, TchError> {
        Ok(Self(self.0.iter().map(|part| part.f_flip([1])).collect::<Result<_, _>>()?))
    }
}

impl Keepable for ProjectedText {
    fn shared(&self) -> Self {
        self.shallow_clone()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Keepable::bytes).sum()
    }
}

/// The text during one evaluation of a network: its states, and what was computed of them before.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    states: Tensor, // [n, tokens, width]
    /// One for each row, or none.
    rows: &'a [ProjectedText],
    next: Cell<usize>,
    /// The images that are looked at beside it.
    pub(crate) looking: Looking<'a>,
}

impl<'a> Text<'a> {
    pub(crate) const fn new(states: Tensor, rows: &'a [ProjectedText]) -> Self {
        Self { states, rows, next: Cell::new(0), looking: Looking::at(&[]) }
    }

    /// The same, with images beside it.
    pub(crate) fn beside(self, references: &'a [Reference]) -> Self {
        Self { looking: Looking::at(references), ..self }
    }

    /// Keys and values for the next attention, side by side: `[n, tokens, 2c]`.
    pub(crate) fn keys_values(&self, layer: &Linear) -> Result<Tensor, TchError> {
        let at = self.next.replace(self.next.get() + 1);
        let parts: Option<Vec<&Tensor>> = self.rows.iter().map(|row| row.0.get(at)).collect();
        match parts.as_deref() {
            Some([]) => layer.forward(&self.states),
            Some([only]) => Ok(only.shallow_clone()),
            Some(rows) => Tensor::f_cat(rows, 0),
            None => Err(TchError::Shape("keys and values of another network's attentions".into())),
        }
    }
}

/// A prompt in so many chunks, or no text at all, and the network that attends to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextKey {
    /// A ControlNet by its digest, else the denoising network.
    pub(crate) control: Option<Digest>,
    pub(crate) prompt: Option<String>,
    /// How the prompt is read.
    pub(crate) weighting: Weighting,
    pub(crate) clip_skip: u32,
    pub(crate) chunks: usize,
}

/// Keys and values that are kept for the next request with the same text.
pub(crate) type ProjectedTexts = Kept<TextKey, ProjectedText>;

/// None yet.
pub(crate) const fn projected_texts() -> ProjectedTexts {
    Kept::new(KEPT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn rows_of_another_network_are_refused() {
        let rows = [ProjectedText(Vec::new())];
        let text = Text::new(Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu)), &rows);
        let layer = Linear::for_tests(3, 4);
        assert!(text.keys_values(&layer).expect_err("none is there").to_string().contains("another network"));
        let plain = Text::new(Tensor::zeros([1, 2, 3], (Kind::Float, Device::Cpu)), &[]);
        assert_eq!(plain.keys_values(&layer).expect("projected").size(), [1, 2, 4]);
    }
}
