//! Pictures that are drawn in parts: what the next part begins with.
//!
//! Between two parts a picture has eight bits, as it has between two pipelines of diffusers that hand Pillow's pictures on; latents
//! stay as they are. Each part draws from a generator of its own.

use bildkante_shared::recipe::{Enlarge, Recipe, ValidRecipe};
use tch::Tensor;

use super::{Denoising, Models};
use crate::diffusion::denoiser::{Conditions, Denoiser};
use crate::diffusion::error::DiffusionError;
use crate::diffusion::picture::Picture;

/// What was drawn so far, as large as the next part.
#[derive(Debug)]
pub(crate) enum SoFar {
    Picture(Picture),
    /// `[1, c, h, w]`
    Latents(Tensor),
}

impl SoFar {
    /// Of a part that is done, for the next one.
    ///
    /// # Errors
    /// When the networks overflowed or libtorch fails.
    pub(crate) fn of<C: Conditions>(
        done: &Denoising<C>,
        models: &Models<impl Denoiser<Conditions = C>>,
        next: &Recipe,
        enlarge: Enlarge,
    ) -> Result<Self, DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        done.check()?;
        match enlarge {
            Enlarge::Pixels => {
                let picture = Picture::from(done.decode(models)?);
                Ok(Self::Picture(picture.resized((next.width_px, next.height_px))))
            }
            Enlarge::Latents => {
                let [_, _, height, width] = super::latent_shape(&models.base, next)?;
                let larger = done.latents().f_upsample_bilinear2d([height, width], false, None, None)?;
                Ok(Self::Latents(larger))
            }
        }
    }
}

/// How a part's outcome becomes what the part at `next` begins with: only a draft is enlarged.
pub(crate) fn enlarge_before(recipe: &ValidRecipe, next: usize) -> Enlarge {
    match &recipe.draft {
        Some(draft) if next == 1 => draft.enlarge,
        _ => Enlarge::Pixels,
    }
}
