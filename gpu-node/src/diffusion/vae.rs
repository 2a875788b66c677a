//! The image autoencoder: `AutoencoderKL`
//! (source: diffusers 0.42, `models/autoencoders/autoencoder_kl.py` and `vae.py`).

pub mod config;

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::device::upload;
use crate::diffusion::layers::attention::PixelAttention;
use crate::diffusion::layers::resnet::{Downsample, Norms, ResnetBlock, Upsample};
use crate::diffusion::layers::{Conv2d, GroupNorm};
use crate::diffusion::vae::config::{Statistics, VaeConfig};
use crate::diffusion::weights::{
    Keeping, KernelLayout, NetworkTensors, Scope, ShapeRecorder, VarSource, Weights, WeightsError,
};

/// Fixed in diffusers for every norm of the autoencoder.
const NORM_EPS: f64 = 1e-6;

/// What attention projections were called before diffusers 0.13, and what they are called since.
const RENAMED: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

/// An autoencoder on its device.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    scaling_factor: f64,
    shift_factor: f64,
    /// Means and standard deviations of the channels of unscaled latents, `[1, latent, 1, 1]`.
    statistics: Option<(Tensor, Tensor)>,
    /// Side of an image in pixels for one latent.
    factor: i64,
    tiles_px: Option<i64>,
    kinds: VaeKinds,
}

/// In what an autoencoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaeKinds {
    pub encoder: Kind,
    pub decoder: Kind,
}

impl VaeKinds {
    /// As diffusers' pipelines choose it for networks of a kind: those of Stable Diffusion 1.x and 2.x compute as the others
    /// do; those of XL encode in float32 where the configuration asks for it, and decode so where the others are float16, in
    /// which their autoencoder overflows (source: diffusers 0.42, `needs_upcasting` and `prepare_latents` of the XL pipelines).
    #[must_use]
    pub fn choose(is_xl: bool, config: &VaeConfig, kind: Kind) -> Self {
        if !is_xl || !config.force_upcast {
            return Self::all(kind);
        }
        Self { encoder: Kind::Float, decoder: if kind == Kind::Half { Kind::Float } else { kind } }
    }

    #[must_use]
    pub const fn all(kind: Kind) -> Self {
        Self { encoder: kind, decoder: kind }
    }
}

/// Names and shapes of the tensors of an autoencoder, as diffusers writes them today.
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &VaeConfig) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    Vae::build(&mut recorder, config, VaeKinds::all(Kind::Float))?;
    Ok(recorder.into_shapes())
}

/// How its convolutions compute best on a device; `None` where the device decides.
pub(crate) const fn kernel_layout(device: Device) -> Option<KernelLayout> {
    if matches!(device, Device::Cpu) { Some(KernelLayout::ChannelsLast) } else { None }
}

/// A tensor's name as diffusers writes it today.
pub(crate) fn canonical_name(name: &str) -> String {
    let renamed = RENAMED.iter().find(|(old, _)| name.contains(".attentions.") && name.contains(old));
    renamed.map_or_else(|| name.to_owned(), |(old, new)| name.replace(old, new))
}

impl Vae {
    /// Takes every tensor out of `weights`, in the kind of the weights.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(weights: Weights, config: &VaeConfig) -> Result<Self, WeightsError> {
        let kinds = VaeKinds::all(weights.kind());
        Self::load_as(weights, config, kinds)
    }

    /// The same in these kinds.
    pub(crate) fn load_as(mut weights: Weights, config: &VaeConfig, kinds: VaeKinds) -> Result<Self, WeightsError> {
        if let Some(layout) = kernel_layout(weights.device()) {
            weights.set_kernel_layout(layout);
        }
        let vae = Self::build(&mut weights, config, kinds)?;
        weights.finish()?;
        Ok(vae)
    }

    /// Reads its tensors in these kinds.
    pub(crate) fn keep(weights: Weights, config: &VaeConfig, kinds: VaeKinds) -> Result<NetworkTensors, WeightsError> {
        let mut keeping = Keeping::new(weights);
        Self::build(&mut keeping, config, kinds)?;
        keeping.finish()
    }

    /// The network of a source.
    pub(crate) fn of(source: &mut dyn VarSource, config: &VaeConfig, kinds: VaeKinds) -> Result<Self, WeightsError> {
        Self::build(source, config, kinds)
    }

    fn build(source: &mut dyn VarSource, config: &VaeConfig, kinds: VaeKinds) -> Result<Self, WeightsError> {
        let latent = config.latent_channels;
        let pointwise = |scope: &mut Scope<'_>, name: &str, wanted: bool, channels: i64| {
            wanted.then(|| Conv2d::load(scope.at(name), channels, channels, 1)).transpose()
        };
        source.set_kind(kinds.encoder);
        let mut scope = Scope::root(source);
        let encoder = Encoder::load(scope.at("encoder"), config)?;
        let quant_conv = pointwise(&mut scope, "quant_conv", config.has_quant_conv, 2 * latent)?;
        source.set_kind(kinds.decoder);
        let mut scope = Scope::root(source);
        let decoder = Decoder::load(scope.at("decoder"), config)?;
        let post_quant_conv = pointwise(&mut scope, "post_quant_conv", config.has_post_quant_conv, latent)?;
        let statistics = config.statistics.as_ref().map(|Statistics { means, deviations }| {
            let per_channel = |numbers: &[f64]| Tensor::f_from_slice(numbers)?.f_view([1, latent, 1, 1]);
            Ok::<_, TchError>((per_channel(means)?, per_channel(deviations)?))
        });
        let statistics = statistics.transpose();
        let statistics = statistics.map_err(|source| WeightsError::Torch { name: "latents_mean".into(), source })?;
        Ok(Self {
            encoder,
            quant_conv,
            post_quant_conv,
            decoder,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
            statistics,
            factor: config.factor(),
            tiles_px: None,
            kinds,
        })
    }

    /// Computes in overlapping tiles of this side wherever an image is larger; `None` for all at once.
    pub(crate) fn set_tiles_px(&mut self, tiles_px: Option<i64>) {
        self.tiles_px = tiles_px.map(|px| px.max(MIN_TILE_LATENTS * self.factor));
    }

    /// The image behind scaled latents `[n, latent, h, w]`: `[n, out, h · factor, w · factor]`, nominally -1 to 1 and
    /// not clamped, in the precision of the weights.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let latents = latents.f_to_kind(self.kinds.decoder)?;
        let x = match &self.statistics {
            None => latents.f_div_scalar(self.scaling_factor)?.f_add_scalar(self.shift_factor)?,
            Some((means, deviations)) => {
                let widened = latents.f_mul(&like(deviations, &latents)?)?.f_div_scalar(self.scaling_factor)?;
                widened.f_add(&like(means, &latents)?)?
            }
        };
        let all = |x: &Tensor| {
            let x = match &self.post_quant_conv {
                Some(conv) => conv.forward(x)?,
                None => x.shallow_clone(),
            };
            self.decoder.forward(&x)
        };
        let tile = self.tiles_px.map(|px| px / self.factor);
        let decoded = match tile.filter(|tile| is_larger(&x, *tile)) {
            Some(tile) => tiled(&x, Tiles { from: tile, to: tile * self.factor }, all)?,
            None => all(&x)?,
        };
        decoded.f_contiguous()
    }

    /// Latents as denoising networks know them, of unscaled ones.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, TchError> {
        let Some((means, deviations)) = &self.statistics else { return unscaled.f_mul_scalar(self.scaling_factor) };
        let centred = unscaled.f_sub(&like(means, unscaled)?)?;
        centred.f_mul_scalar(self.scaling_factor)?.f_div(&like(deviations, unscaled)?)
    }

    /// Mean and logarithm of the variance of the unscaled latents behind an image `[n, in, h, w]` of -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let all = |x: &Tensor| {
            let x = self.encoder.forward(x)?; // [n, 2 · latent, h / factor, w / factor]
            match &self.quant_conv {
                Some(conv) => conv.forward(&x),
                None => Ok(x),
            }
        };
        let image = image.f_to_kind(self.kinds.encoder)?;
        let x = match self.tiles_px.filter(|px| is_larger(&image, *px)) {
            Some(px) => tiled(&image, Tiles { from: px, to: px / self.factor }, all)?,
            None => all(&image)?,
        };
        let latent = x.size4()?.1 / 2;
        let log_variance = x.f_narrow(1, latent, latent)?.f_clamp(-30.0, 20.0)?;
        Ok((x.f_narrow(1, 0, latent)?, log_variance))
    }
}

/// Numbers of the configuration where and as latents are.
fn like(numbers: &Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
    upload(&numbers.f_to_kind(latents.f_kind()?)?, latents.device())
}

/// Least side of a tile: what the network sees of its surroundings is wider than less.
const MIN_TILE_LATENTS: i64 = 16;

/// Side of a tile before and after it is computed.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    from: i64,
    to: i64,
}

fn is_larger(x: &Tensor, side: i64) -> bool {
    x.size().iter().rev().take(2).any(|found| *found > side)
}

/// Computes tiles that overlap by a quarter and fades each one in over its neighbours above and on the left, so that
/// memory is bounded by a row of tiles (source: `AutoencoderKL.tiled_decode`).
fn tiled(
    x: &Tensor,
    Tiles { from, to }: Tiles,
    compute: impl Fn(&Tensor) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    let (_, _, height, width) = x.size4()?;
    let (stride, fade) = (from * 3 / 4, to / 4);
    let kept = to - fade;
    let mut above: Vec<Tensor> = Vec::new();
    let mut rows = Vec::new();
    for top in (0..height).step_by(usize::try_from(stride).unwrap_or(1)) {
        let strip = x.f_narrow(2, top, from.min(height - top))?;
        let mut row: Vec<Tensor> = Vec::new();
        for left in (0..width).step_by(usize::try_from(stride).unwrap_or(1)) {
            let mut tile = compute(&strip.f_narrow(3, left, from.min(width - left))?)?;
            if let Some(neighbour) = above.get(row.len()) {
                tile = faded_in(neighbour, &tile, 2, fade)?;
            }
            if let Some(neighbour) = row.last() {
                tile = faded_in(neighbour, &tile, 3, fade)?;
            }
            row.push(tile);
        }
        let cropped = row.iter().map(|tile| {
            let (_, _, height, width) = tile.size4()?;
            tile.f_narrow(2, 0, kept.min(height))?.f_narrow(3, 0, kept.min(width))
        });
        rows.push(Tensor::f_cat(&cropped.collect::<Result<Vec<_>, _>>()?, 3)?);
        above = row;
    }
    Tensor::f_cat(&rows, 2)
}

/// `tile`, whose first lines along `dim` are mixed with the last ones of `neighbour`.
fn faded_in(neighbour: &Tensor, tile: &Tensor, dim: i64, fade: i64) -> Result<Tensor, TchError> {
    let at = usize::try_from(dim).unwrap_or(0);
    let (theirs, ours) = (neighbour.size()[at], tile.size()[at]);
    let fade = fade.min(theirs).min(ours);
    if fade == 0 {
        return Ok(tile.shallow_clone());
    }
    #[allow(clippy::cast_precision_loss, reason = "sides are small")]
    let share = Tensor::f_arange(fade, (Kind::Float, tile.device()))?.f_div_scalar(fade as f64)?;
    let share = if dim == 2 { share.f_view([1, 1, -1, 1])? } else { share.f_view([1, 1, 1, -1])? };
    let share = share.f_to_kind(tile.f_kind()?)?;
    let behind = neighbour.f_narrow(dim, theirs - fade, fade)?;
    let mixed =
        behind.f_mul(&share.f_neg()?.f_add_scalar(1.0)?)?.f_add(&tile.f_narrow(dim, 0, fade)?.f_mul(&share)?)?;
    Tensor::f_cat(&[mixed, tile.f_narrow(dim, fade, ours - fade)?], dim)
}

fn norms(config: &VaeConfig) -> Norms {
    Norms { groups: config.norm_num_groups, eps: NORM_EPS }
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<ResnetBlock>, Option<Downsample>)>,
    mid_block: Mid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(mut scope: Scope<'_>, config: &VaeConfig) -> Result<Self, WeightsError> {
        let channels = &config.channels;
        let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::load(scope.at("conv_in"), config.in_channels, finest, 3)?;
        let mut levels = Vec::new();
        for (i, &outputs) in channels.iter().enumerate() {
            let mut scope = scope.at(format_args!("down_blocks.{i}"));
            let resnets = load_resnets(&mut scope, config, channels[i.saturating_sub(1)], outputs, config.layers)?;
            let is_last = i + 1 == channels.len();
            let downsample =
                (!is_last).then(|| Downsample::load(scope.at("downsamplers.0"), outputs, 0)).transpose()?;
            levels.push((resnets, downsample));
        }
        Ok(Self {
            conv_in,
            levels,
            mid_block: Mid::load(scope.at("mid_block"), config)?,
            conv_norm_out: GroupNorm::load(scope.at("conv_norm_out"), coarsest, config.norm_num_groups, NORM_EPS)?,
            conv_out: Conv2d::load(scope.at("conv_out"), coarsest, 2 * config.latent_channels, 3)?,
        })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor, TchError> {
        let mut x = self.conv_in.forward(image)?;
        for (resnets, downsample) in &self.levels {
            x = pass(resnets, x)?;
            if let Some(downsample) = downsample {
                x = downsample.forward(&x)?;
            }
        }
        let x = self.mid_block.forward(&x)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: Mid,
    levels: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(mut scope: Scope<'_>, config: &VaeConfig) -> Result<Self, WeightsError> {
        let channels: Vec<i64> = config.channels.iter().rev().copied().collect();
        let (coarsest, finest) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::load(scope.at("conv_in"), config.latent_channels, coarsest, 3)?;
        let mid_block = Mid::load(scope.at("mid_block"), config)?;
        let mut levels = Vec::new();
        for (i, &outputs) in channels.iter().enumerate() {
            let mut scope = scope.at(format_args!("up_blocks.{i}"));
            let layers = config.layers + 1;
            let resnets = load_resnets(&mut scope, config, channels[i.saturating_sub(1)], outputs, layers)?;
            let is_last = i + 1 == channels.len();
            let upsample = (!is_last).then(|| Upsample::load(scope.at("upsamplers.0"), outputs)).transpose()?;
            levels.push((resnets, upsample));
        }
        Ok(Self {
            conv_in,
            mid_block,
            levels,
            conv_norm_out: GroupNorm::load(scope.at("conv_norm_out"), finest, config.norm_num_groups, NORM_EPS)?,
            conv_out: Conv2d::load(scope.at("conv_out"), finest, config.out_channels, 3)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let mut x = self.mid_block.forward(&self.conv_in.forward(latents)?)?;
        for (resnets, upsample) in &self.levels {
            x = pass(resnets, x)?;
            if let Some(upsample) = upsample {
                x = upsample.forward(&x)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// Two ResNet blocks around attention, at the coarsest level.
#[derive(Debug)]
struct Mid {
    resnets: [ResnetBlock; 2],
    attention: Option<PixelAttention>,
}

impl Mid {
    fn load(mut scope: Scope<'_>, config: &VaeConfig) -> Result<Self, WeightsError> {
        let channels = config.channels[config.channels.len() - 1];
        let mut resnet = |name: &str| ResnetBlock::load(scope.at(name), channels, channels, norms(config));
        let resnets = [resnet("resnets.0")?, resnet("resnets.1")?];
        let attention = if config.mid_block_has_attention {
            let groups = config.norm_num_groups;
            Some(PixelAttention::load(scope.at("attentions.0"), channels, groups, NORM_EPS)?)
        } else {
            None
        };
        Ok(Self { resnets, attention })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut x = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x, None)
    }
}

fn load_resnets(
    scope: &mut Scope<'_>,
    config: &VaeConfig,
    inputs: i64,
    outputs: i64,
    count: i64,
) -> Result<Vec<ResnetBlock>, WeightsError> {
    let mut stack = scope.at("resnets");
    (0..count)
        .map(|i| ResnetBlock::load(stack.at(i), if i == 0 { inputs } else { outputs }, outputs, norms(config)))
        .collect()
}

fn pass(resnets: &[ResnetBlock], x: Tensor) -> Result<Tensor, TchError> {
    resnets.iter().try_fold(x, |x, resnet| resnet.forward(&x, None))
}
