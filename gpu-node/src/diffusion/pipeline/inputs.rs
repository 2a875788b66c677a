//! What a drawing begins with, and what steers it beside its text: noise, an image, a mask, control images, reference images.
//!
//! Owns the order in which these draw from the request's generator, which decides what a seed means: the posterior of the
//! image, then the noise, then the posterior of what is behind the mask. Sources: diffusers 0.42,
//! `pipeline_stable_diffusion_img2img.py`, `pipeline_stable_diffusion_inpaint.py`,
//! `pipeline_controlnet.py` and their counterparts for Stable Diffusion XL.

use std::borrow::Cow;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{ControlUse, Recipe, ReferenceUse};
use tch::{Kind, TchError, Tensor};

use super::Models;
use super::parts::SoFar;
use crate::diffusion::denoiser::{Denoiser, Reference};
use crate::diffusion::device::upload;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::noise::NoiseGenerator;
use crate::diffusion::picture::Picture;
use crate::diffusion::scheduler::Sampler;

/// What the first steps of a drawing begin with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) noise: Tensor,
    /// The image whose latents are noised to begin with; pure noise without it.
    pub(crate) noised_from: Option<Tensor>,
    /// What a network that was not trained to inpaint must leave as it is.
    pub(crate) kept: Option<Preserved>,
    /// For a network that is told more than latents: the mask and the latents behind it, `[1, 1 + c, h, w]`, or how near each
    /// place is, `[1, 1, h, w]`.
    told: Option<Tensor>,
}

impl Default for Start {
    /// For the refiner, which goes on where the base ended.
    fn default() -> Self {
        Self { noise: Tensor::new(), noised_from: None, kept: None, told: None }
    }
}

/// The latents of an image that are kept, and where.
#[derive(Debug)]
pub(crate) struct Preserved {
    image: Tensor,
    /// 1 where the picture is painted anew.
    mask: Tensor,
}

impl Preserved {
    /// The latents with the kept ones put back, at the latents' own noise level.
    pub(crate) fn restored(&self, sampler: &Sampler, noise: &Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
        let kept = sampler.noised(&self.image, noise)?;
        let everywhere_else = self.mask.f_neg()?.f_add_scalar(1.0)?;
        everywhere_else.f_mul(&kept)?.f_add(&self.mask.f_mul(latents)?)?.f_to_kind(latents.f_kind()?)
    }
}

impl Start {
    /// Draws and encodes what the recipe begins with, which is what was drawn so far where it is a later part; `shape` and `kind` are those of the latents.
    pub(crate) fn prepare(
        models: &Models<impl Denoiser>,
        (recipe, so_far): (&Recipe, Option<&SoFar>),
        (shape, kind): (&[i64], Kind),
        noise: &mut NoiseGenerator,
    ) -> Result<Self, DiffusionError> {
        let told = depth(models, recipe, shape, kind)?;
        let start = Self::prepare_latents(models, (recipe, so_far), (shape, kind), noise)?;
        Ok(if told.is_some() { Self { told, ..start } } else { start })
    }

    /// The same without what the network is told of depth.
    fn prepare_latents(
        models: &Models<impl Denoiser>,
        (recipe, so_far): (&Recipe, Option<&SoFar>),
        (shape, kind): (&[i64], Kind),
        noise: &mut NoiseGenerator,
    ) -> Result<Self, DiffusionError> {
        let networks = &models.base;
        let device = networks.device();
        let mut draw_as = |shape: &[i64], kind| upload(&noise.draw(shape, kind)?, device);
        let Some(init) = &recipe.init else {
            if networks.is_inpainting() {
                return Err(DiffusionError::input("this checkpoint paints into images: it needs `init` and `mask`"));
            }
            return Ok(Self { noise: draw_as(shape, kind)?, ..Self::default() });
        };
        let image = match so_far {
            Some(SoFar::Latents(latents)) if recipe.mask.is_none() && !networks.is_inpainting() => {
                let noised_from = Some(latents.f_to_kind(kind)?);
                return Ok(Self { noise: draw_as(shape, kind)?, noised_from, ..Self::default() });
            }
            Some(SoFar::Latents(_)) => return Err(DiffusionError::input("latents have no mask: enlarge pixels")),
            Some(SoFar::Picture(picture)) => picture.signed()?,
            None => picture(models, recipe, init.image, "init.image")?.signed()?,
        };
        let image = upload(&image, device)?;
        let mask = recipe.mask.map(|mask| picture(models, recipe, mask, "mask")).transpose()?;
        let is_all_new = init.strength >= 1.0;
        let Some(mask) = mask else {
            if networks.is_inpainting() {
                return Err(DiffusionError::input("this checkpoint paints into images: it needs a `mask`"));
            }
            let latents = encoded(networks, &image, kind, &mut draw_as)?;
            return Ok(Self { noise: draw_as(shape, kind)?, noised_from: Some(latents), ..Self::default() });
        };
        let mask = upload(&mask.mask()?, device)?;
        let is_told = networks.is_inpainting();
        let latents = if is_told && is_all_new { None } else { Some(encoded(networks, &image, kind, &mut draw_as)?) };
        let noise = draw_as(shape, kind)?;
        // Drawn even for a network that is not told what is behind the mask: later draws depend on it.
        let behind = image.f_mul(&mask.f_lt(0.5)?.f_to_kind(Kind::Float)?)?;
        let behind = encoded(networks, &behind, kind, &mut draw_as)?;
        let small = mask.f_upsample_nearest2d([shape[2], shape[3]], None, None)?.f_to_kind(kind)?;
        let noised_from = latents.as_ref().filter(|_| !is_all_new).map(Tensor::shallow_clone);
        if is_told {
            let told = Some(Tensor::f_cat(&[small, behind], 1)?);
            return Ok(Self { noise, noised_from, kept: None, told });
        }
        let kept = latents.map(|image| Preserved { image, mask: small });
        Ok(Self { noise, noised_from, kept, told: None })
    }

    /// Channels that [`Self::told`] adds.
    pub(crate) fn told_channels(&self) -> i64 {
        self.told.as_ref().and_then(|told| told.size().get(1).copied()).unwrap_or(0)
    }

    /// The latents with what the network is told beside them.
    pub(crate) fn told(&self, latents: Tensor) -> Result<Tensor, TchError> {
        match &self.told {
            Some(told) => Tensor::f_cat(&[&latents, told], 1),
            None => Ok(latents),
        }
    }
}

/// How near each latent is, -1 to 1, for a network that is told it. Source: diffusers 0.42,
/// `pipeline_stable_diffusion_depth2img.py`.
fn depth(
    models: &Models<impl Denoiser>,
    recipe: &Recipe,
    shape: &[i64],
    kind: Kind,
) -> Result<Option<Tensor>, DiffusionError> {
    let networks = &models.base;
    let digest = match (recipe.depth, networks.is_told_depth()) {
        (Some(digest), true) => digest,
        (None, false) => return Ok(None),
        (Some(_), false) => return Err(DiffusionError::input("`depth` is for checkpoints that are told it")),
        (None, true) => {
            return Err(DiffusionError::input("this checkpoint is told how near things are: it needs `depth`"));
        }
    };
    let map = picture(models, recipe, digest, "depth")?;
    let small = upload(&map.brightness()?, networks.device())?;
    let small = small.f_upsample_bicubic2d([shape[2], shape[3]], false, None, None)?;
    let (least, most) = (small.f_min()?, small.f_max()?);
    let range = most.f_sub(&least)?;
    // A map of one brightness says nothing.
    if f64::try_from(&range)? == 0.0 {
        return Ok(Some(small.f_zeros_like()?.f_to_kind(kind)?));
    }
    let scaled = small.f_sub(&least)?.f_mul_scalar(2.0)?.f_div(&range)?.f_sub_scalar(1.0)?;
    Ok(Some(scaled.f_to_kind(kind)?))
}

/// A sample of the latents behind an image, scaled.
fn encoded(
    networks: &impl Denoiser,
    image: &Tensor,
    kind: Kind,
    draw: &mut impl FnMut(&[i64], Kind) -> Result<Tensor, TchError>,
) -> Result<Tensor, DiffusionError> {
    let (mean, log_variance) = networks.encode(image)?;
    let deviation = log_variance.f_mul_scalar(0.5)?.f_exp()?;
    // In the autoencoder's kind, which may be wider than the latents', to which it is rounded before it is scaled.
    let sample = mean.f_add(&deviation.f_mul(&draw(&mean.size(), mean.f_kind()?)?)?)?;
    networks.scaled(&sample.f_to_kind(kind)?)
}

/// The recipe's image of this digest, at the size of the picture.
fn picture<'a, N>(
    models: &'a Models<N>,
    recipe: &Recipe,
    digest: Digest,
    field: &str,
) -> Result<Cow<'a, Picture>, DiffusionError> {
    let found = models.pictures.get(&digest);
    let found = found.ok_or_else(|| DiffusionError::input(format!("`{field}` {digest} is not there")))?;
    let wanted_px = (recipe.width_px, recipe.height_px);
    let fits = found.size_px() == wanted_px;
    Ok(if fits { Cow::Borrowed(&**found) } else { Cow::Owned(found.covering(wanted_px)) })
}

/// Names what [`picture`] gives: what is kept of an image at one size is not for another.
fn seen<N>(models: &Models<N>, recipe: &Recipe, digest: Digest) -> Digest {
    let wanted_px = (recipe.width_px, recipe.height_px);
    match models.pictures.get(&digest) {
        Some(image) if image.size_px() != wanted_px => {
            Digest::of_bytes(format!("{digest} at {}x{}", wanted_px.0, wanted_px.1).as_bytes())
        }
        _ => digest,
    }
}

/// What the ControlNets make of their images.
pub(crate) fn controls(
    models: &Models<impl Denoiser>,
    recipe: &Recipe,
) -> Result<Vec<(ControlUse, Vec<Tensor>)>, DiffusionError> {
    let networks = &models.base;
    let control = |(at, control): (usize, &ControlUse)| {
        let (ours, theirs) = (networks.vae_factor(), networks.control_factor(at));
        let theirs =
            theirs.ok_or_else(|| DiffusionError::input(format!("the ControlNet {} is not there", control.network)))?;
        if ours != theirs {
            let reason = format!("the ControlNet reads images of {theirs} px for one latent, this checkpoint {ours}");
            return Err(DiffusionError::input(reason));
        }
        let found = picture(models, recipe, control.image, "controls.image")?;
        let image = || Ok(upload(&found.unit()?, networks.device())?);
        Ok((control.clone(), networks.embed_picture(at, seen(models, recipe, control.image), image)?))
    };
    recipe.controls.iter().enumerate().map(control).collect()
}

/// What the networks see in the recipe's reference images, for conditions of so many rows.
pub(crate) fn references(
    models: &Models<impl Denoiser>,
    recipe: &Recipe,
    rows: i64,
) -> Result<Vec<(ReferenceUse, Reference)>, DiffusionError> {
    let (networks, float) = (&models.base, (Kind::Float, models.base.device()));
    let reference = |(place, used): (usize, &ReferenceUse)| {
        let image = models.pictures.get(&used.image);
        let image =
            image.ok_or_else(|| DiffusionError::input(format!("`references.image` {} is not there", used.image)))?;
        let seen = networks.embed_reference(place, (used.image, image), rows)?;
        let mask = used.mask.map(|mask| picture(models, recipe, mask, "references.mask")).transpose()?;
        let mask = match mask {
            Some(mask) => Some(upload(&mask.mask()?, networks.device())?.f_expand([rows, -1, -1, -1], false)?),
            None => None,
        };
        let weight = Tensor::f_full([rows, 1, 1], used.weight, float)?;
        Ok((used.clone(), Reference { place, seen, weight, mask }))
    };
    recipe.references.iter().enumerate().map(reference).collect()
}

/// Whether what has a weight and acts from a share of the steps on and up to another acts at evaluation `index` of so many.
#[allow(clippy::cast_precision_loss, reason = "at most some hundred evaluations")]
pub(crate) fn acts((weight, start, end): (f64, f64, f64), (index, of): (usize, usize)) -> bool {
    weight != 0.0 && index as f64 / of as f64 >= start && (index + 1) as f64 / of as f64 <= end
}

/// The ControlNets that act at evaluation `index` of so many, each with its place in the recipe.
pub(crate) fn acting(
    controls: &[(ControlUse, Vec<Tensor>)],
    evaluation: (usize, usize),
) -> impl Iterator<Item = (usize, &(ControlUse, Vec<Tensor>))> {
    let acts = move |control: &ControlUse| acts((control.weight, control.start, control.end), evaluation);
    controls.iter().enumerate().filter(move |(_, (control, _))| acts(control))
}

/// The step that a recipe begins with: the more of its image is to stay, the more steps are left out.
pub(crate) fn first_step(recipe: &Recipe) -> Result<usize, DiffusionError> {
    let Some(init) = &recipe.init else { return Ok(0) };
    let steps = recipe.steps as usize;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the number of steps")]
    let gone = ((f64::from(recipe.steps) * init.strength) as usize).min(steps);
    if gone == 0 {
        let strength = init.strength;
        return Err(DiffusionError::input(format!("`init.strength` {strength} leaves none of {steps} steps")));
    }
    Ok(steps - gone)
}
