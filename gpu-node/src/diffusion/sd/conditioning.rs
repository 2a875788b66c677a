//! What a network is conditioned on beside latents and timestep.
//!
//! One row for a request without guidance, the unconditional row before the conditional one under guidance; rows of
//! several requests may follow each other. Source: `StableDiffusionPipeline.__call__` and
//! `StableDiffusionXLPipeline.__call__` of diffusers 0.42.

use bildkante_shared::recipe::{Recipe, SizeConditioning};
use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::denoiser::{Conditions, Control};
use crate::diffusion::device::upload;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::layers::projected::ProjectedText;
use crate::diffusion::layers::reference::Reference;
use crate::diffusion::sd::config::UnetConfig;
use crate::diffusion::text::PromptEmbedding;

/// Rows of conditions.
#[derive(Debug)]
pub struct Conditioning {
    /// `[n, tokens, width]`
    pub embeddings: Tensor,
    /// Keys and values of each row's text for the denoising network's attentions; without any they compute them from the
    /// states.
    pub projected: Vec<ProjectedText>,
    /// The same for each ControlNet of the recipe.
    pub control_texts: Vec<Vec<ProjectedText>>,
    pub added: Option<Added>,
    /// `[n, width]`: the guidance scale of a network that is told it.
    pub guidance: Option<Tensor>,
    /// What ControlNets read, in the order in which they act.
    pub controls: Vec<Control>,
    /// The images that the denoising network looks at beside the text.
    pub references: Vec<Reference>,
}

/// What Stable Diffusion XL is told beside the text.
#[derive(Debug)]
pub struct Added {
    /// `[n, width]`
    pub pooled: Tensor,
    /// `[n, 6]`: original height and width, top and left of the crop, target height and width; or `[n, 5]` with a score
    /// for the target.
    pub numbers: Tensor,
}

impl From<Tensor> for Conditioning {
    /// A text and nothing else.
    fn from(embeddings: Tensor) -> Self {
        Self {
            embeddings,
            projected: Vec::new(),
            control_texts: Vec::new(),
            added: None,
            guidance: None,
            controls: Vec::new(),
            references: Vec::new(),
        }
    }
}

impl Conditioning {
    /// The same tensors, shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            embeddings: self.embeddings.shallow_clone(),
            projected: shared(&self.projected),
            control_texts: self.control_texts.iter().map(|texts| shared(texts)).collect(),
            added: self
                .added
                .as_ref()
                .map(|added| Added { pooled: added.pooled.shallow_clone(), numbers: added.numbers.shallow_clone() }),
            guidance: self.guidance.as_ref().map(Tensor::shallow_clone),
            controls: self.controls.iter().map(Control::shallow_clone).collect(),
            references: self.references.iter().map(Reference::shallow_clone).collect(),
        }
    }
}

impl Conditions for Conditioning {
    fn rows(&self) -> i64 {
        self.embeddings.size().first().copied().unwrap_or(0)
    }

    fn text(&self) -> &Tensor {
        &self.embeddings
    }

    fn controls(&self) -> &[Control] {
        &self.controls
    }

    fn controlled(&self, controls: Vec<Control>) -> Self {
        Self { controls, ..self.shallow_clone() }
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn beside(&self, references: Vec<Reference>) -> Self {
        Self { references, ..self.shallow_clone() }
    }

    fn cat(parts: &[&Self]) -> Result<Self, TchError> {
        let mixed = || TchError::Shape("conditions of different kinds".into());
        let rows = |part: &dyn Fn(&Self) -> Option<Tensor>| -> Result<Option<Tensor>, TchError> {
            let found: Vec<Tensor> = parts.iter().filter_map(|conditions| part(conditions)).collect();
            match found.len() {
                0 => Ok(None),
                count if count == parts.len() => Tensor::f_cat(&found, 0).map(Some),
                _ => Err(mixed()),
            }
        };
        let embeddings = rows(&|c| Some(c.embeddings.shallow_clone()))?.ok_or_else(mixed)?;
        let pooled = rows(&|c| c.added.as_ref().map(|added| added.pooled.shallow_clone()))?;
        let numbers = rows(&|c| c.added.as_ref().map(|added| added.numbers.shallow_clone()))?;
        let guidance = rows(&|c| c.guidance.as_ref().map(Tensor::shallow_clone))?;
        let added = pooled.zip(numbers).map(|(pooled, numbers)| Added { pooled, numbers });
        let projected = rows_of(parts.iter().map(|part| &part.projected)).ok_or_else(mixed)?;
        if parts.iter().any(|part| part.control_texts.len() != parts[0].control_texts.len()) {
            return Err(mixed());
        }
        let control_texts = (0..parts.first().map_or(0, |part| part.control_texts.len()))
            .map(|network| rows_of(parts.iter().map(|part| &part.control_texts[network])).ok_or_else(mixed))
            .collect::<Result<_, _>>()?;
        let controls = parts.first().map_or(&[][..], |part| part.controls.as_slice());
        if parts.iter().any(|part| part.controls.len() != controls.len()) {
            return Err(mixed());
        }
        let controls = controls.iter().enumerate().map(|(at, Control { network, scale, .. })| {
            let count = parts[0].controls[at].embedded.len();
            if parts.iter().any(|part| part.controls[at].embedded.len() != count) {
                return Err(mixed());
            }
            let embedded = (0..count).map(|level| {
                let rows: Vec<&Tensor> = parts.iter().map(|part| &part.controls[at].embedded[level]).collect();
                Tensor::f_cat(&rows, 0)
            });
            Ok(Control { network: *network, embedded: embedded.collect::<Result<_, _>>()?, scale: *scale })
        });
        let controls = controls.collect::<Result<Vec<_>, TchError>>()?;
        let images = parts.first().map_or(0, |part| part.references.len());
        if parts.iter().any(|part| part.references.len() != images) {
            return Err(mixed());
        }
        let references = (0..images).map(|at| {
            let rows: Vec<&Reference> = parts.iter().map(|part| &part.references[at]).collect();
            Reference::cat(&rows)
        });
        let references = references.collect::<Result<_, _>>()?;
        Ok(Self { embeddings, projected, control_texts, added, guidance, controls, references })
    }

    fn unlike(&self) -> Result<Self, TchError> {
        let flipped = |texts: &Vec<ProjectedText>| texts.iter().map(ProjectedText::flipped).collect::<Result<_, _>>();
        Ok(Self {
            embeddings: self.embeddings.f_flip([1])?,
            projected: flipped(&self.projected)?,
            control_texts: self.control_texts.iter().map(flipped).collect::<Result<_, _>>()?,
            references: self.references.iter().map(Reference::flipped).collect::<Result<_, _>>()?,
            ..self.shallow_clone()
        })
    }
}

fn shared(texts: &[ProjectedText]) -> Vec<ProjectedText> {
    texts.iter().map(ProjectedText::shallow_clone).collect()
}

/// The rows of several requests, all of which have some or none of which has any.
fn rows_of<'a>(parts: impl Iterator<Item = &'a Vec<ProjectedText>> + Clone) -> Option<Vec<ProjectedText>> {
    let have_some = parts.clone().filter(|texts| !texts.is_empty()).count();
    let is_alike = have_some == 0 || have_some == parts.clone().count();
    is_alike.then(|| parts.flat_map(|texts| shared(texts)).collect())
}

/// The numbers of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) sizes: SizeConditioning,
    /// In place of the target's size, where a network has no place for that.
    pub(crate) score: f64,
}

impl Numbers {
    /// In the order in which the networks were trained, heights before widths.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "pixels and scores are small")]
    fn row(self, count: i64) -> Result<Vec<f32>, DiffusionError> {
        let SizeConditioning { original_px: [width, height], crop_px: [left, top], target_px } = self.sizes;
        let mut row = vec![height as f32, width as f32, top as f32, left as f32];
        match count {
            6 => row.extend([target_px[1] as f32, target_px[0] as f32]),
            5 => row.push(self.score as f32),
            other => return Err(DiffusionError::input(format!("a network that is told {other} numbers"))),
        }
        Ok(row)
    }
}

/// The sizes a recipe asks for: those of the conditional row, then those of the unconditional one.
pub(crate) fn sizes(recipe: &Recipe) -> (SizeConditioning, SizeConditioning) {
    let own_px = [recipe.width_px, recipe.height_px];
    let own = SizeConditioning { original_px: own_px, crop_px: [0, 0], target_px: own_px };
    let sizes = recipe.sizes.unwrap_or(own);
    (sizes, recipe.negative_sizes.unwrap_or(sizes))
}

/// `rows` follow each other: unconditional, conditional.
pub(crate) fn assemble(
    config: &UnetConfig,
    rows: &[(&PromptEmbedding, Numbers)],
    guidance: f64,
    device: Device,
) -> Result<Conditioning, DiffusionError> {
    let texts: Vec<&Tensor> = rows.iter().map(|(text, _)| &text.hidden).collect();
    let embeddings = Tensor::f_cat(&texts, 0)?;
    let added = match &config.added {
        None => None,
        Some(added) => {
            let pooled = rows.iter().map(|(text, _)| text.pooled.as_ref()).collect::<Option<Vec<_>>>();
            let pooled = pooled.ok_or_else(|| DiffusionError::input("the network wants a pooled text"))?;
            let pooled = Tensor::f_cat(&pooled, 0)?;
            let count = added.numbers(pooled.size2()?.1);
            let count = count.ok_or_else(|| DiffusionError::input("the pooled text does not fit the network"))?;
            let numbers = rows.iter().map(|(_, numbers)| numbers.row(count)).collect::<Result<Vec<_>, _>>()?.concat();
            // In the kind of the text, as diffusers has them, and then in float32.
            let numbers = Tensor::f_from_slice(&numbers)?.f_view([-1, count])?.f_to_kind(embeddings.f_kind()?)?;
            let numbers = upload(&numbers.f_to_kind(Kind::Float)?, device)?;
            Some(Added { pooled, numbers })
        }
    };
    let guidance = match config.guidance_embed_dim {
        None => None,
        Some(width) => {
            let row = upload(&embedded_guidance(guidance, width)?, device)?;
            Some(row.f_expand([i64::try_from(rows.len()).unwrap_or(1), width], false)?)
        }
    };
    Ok(Conditioning { added, guidance, ..embeddings.into() })
}

/// `get_guidance_scale_embedding` of diffusers' pipelines (after google-research/vdm): `[1, width]`, float32.
#[allow(clippy::cast_precision_loss, reason = "widths are small")]
fn embedded_guidance(guidance: f64, width: i64) -> Result<Tensor, TchError> {
    let half = width / 2;
    let step = 10_000_f64.ln() / (half as f64 - 1.0);
    let frequencies = Tensor::f_arange(half, (Kind::Float, Device::Cpu))?.f_mul_scalar(-step)?.f_exp()?;
    // Trained on the scale less one.
    let scale = Tensor::f_from_slice(&[guidance - 1.0])?.f_to_kind(Kind::Float)?.f_mul_scalar(1000.0)?;
    let angles = scale.f_view([1, 1])?.f_mul(&frequencies)?;
    Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?.f_constant_pad_nd([0, width % 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: SizeConditioning =
        SizeConditioning { original_px: [640, 480], crop_px: [10, 20], target_px: [64, 48] };

    #[test]
    fn numbers_stand_in_the_order_of_training() {
        let numbers = Numbers { sizes: SIZES, score: 6.5 };
        assert_eq!(numbers.row(6).expect("six"), [480.0, 640.0, 20.0, 10.0, 48.0, 64.0]);
        assert_eq!(numbers.row(5).expect("five"), [480.0, 640.0, 20.0, 10.0, 6.5]);
        assert!(numbers.row(7).is_err());
    }
}
