//! The image autoencoder: `AutoencoderKL`
//! (source: diffusers 0.42, `models/autoencoders/autoencoder_kl.py` and `vae.py`).

use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use super::attention::PixelAttention;
use super::config::VaeConfig;
use super::layers::{Conv2d, GroupNorm};
use super::resnet::{Downsample, Norms, ResnetBlock, Upsample};
use super::weights::{KernelLayout, Scope, ShapeRecorder, VarSource, Weights, WeightsError};

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
    kind: Kind,
}

/// Names and shapes of the tensors of an autoencoder, as diffusers writes them today.
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &VaeConfig) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    Vae::build(&mut recorder, config, Kind::Float)?;
    Ok(recorder.into_shapes())
}

/// A tensor's name as diffusers writes it today.
pub(super) fn canonical_name(name: &str) -> String {
    let renamed = RENAMED.iter().find(|(old, _)| name.contains(".attentions.") && name.contains(old));
    renamed.map_or_else(|| name.to_owned(), |(old, new)| name.replace(old, new))
}

impl Vae {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(mut weights: Weights, config: &VaeConfig) -> Result<Self, WeightsError> {
        let kind = weights.kind();
        weights.set_kernel_layout(KernelLayout::ChannelsLast);
        let vae = Self::build(&mut weights, config, kind)?;
        weights.finish()?;
        Ok(vae)
    }

    fn build(source: &mut dyn VarSource, config: &VaeConfig, kind: Kind) -> Result<Self, WeightsError> {
        let mut scope = Scope::root(source);
        let encoder = Encoder::load(scope.at("encoder"), config)?;
        let decoder = Decoder::load(scope.at("decoder"), config)?;
        let latent = config.latent_channels;
        let mut pointwise = |name: &str, wanted: bool, channels: i64| {
            wanted.then(|| Conv2d::load(scope.at(name), channels, channels, 1)).transpose()
        };
        Ok(Self {
            encoder,
            quant_conv: pointwise("quant_conv", config.has_quant_conv, 2 * latent)?,
            post_quant_conv: pointwise("post_quant_conv", config.has_post_quant_conv, latent)?,
            decoder,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
            kind,
        })
    }

    /// The image behind scaled latents `[n, latent, h, w]`: `[n, out, h · factor, w · factor]`, nominally -1 to 1 and
    /// not clamped, in the precision of the weights.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, TchError> {
        let latents = latents.f_to_kind(self.kind)?.f_div_scalar(self.scaling_factor)?;
        let mut x = latents.f_add_scalar(self.shift_factor)?;
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        self.decoder.forward(&x)?.f_contiguous()
    }

    /// Mean and logarithm of the variance of the unscaled latents behind an image `[n, in, h, w]` of -1 to 1.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let mut x = self.encoder.forward(&image.f_to_kind(self.kind)?)?; // [n, 2 · latent, h / factor, w / factor]
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        let latent = x.size4()?.1 / 2;
        let log_variance = x.f_narrow(1, latent, latent)?.f_clamp(-30.0, 20.0)?;
        Ok((x.f_narrow(1, 0, latent)?, log_variance))
    }
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
