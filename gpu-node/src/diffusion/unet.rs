//! The denoising network: `UNet2DConditionModel` of Stable Diffusion 1.x and 2.x
//! (source: diffusers 0.42, `models/unets/unet_2d_condition.py`).

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use super::config::{MidBlock, UnetConfig};
use super::layers::{Conv2d, GroupNorm, Linear};
use super::resnet::Norms;
use super::unet_blocks::{DownBlock, Mid, UpBlock};
use super::weights::{Scope, ShapeRecorder, VarSource, Weights, WeightsError};

/// A denoising network on its device.
#[derive(Debug)]
pub struct Unet {
    conv_in: Conv2d,
    time: TimeEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<Mid>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    center_input_sample: bool,
    kind: Kind,
}

/// Names and shapes of the tensors of a UNet, as diffusers writes them.
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &UnetConfig) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    Unet::build(&mut recorder, config, Device::Cpu, Kind::Float)?;
    Ok(recorder.into_shapes())
}

impl Unet {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(mut weights: Weights, config: &UnetConfig) -> Result<Self, WeightsError> {
        let (device, kind) = (weights.device(), weights.kind());
        let unet = Self::build(&mut weights, config, device, kind)?;
        weights.finish()?;
        Ok(unet)
    }

    fn build(
        source: &mut dyn VarSource,
        config: &UnetConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self, WeightsError> {
        let mut scope = Scope::root(source);
        let finest = config.levels[0].channels;
        let norms = Norms { groups: config.norm_num_groups, eps: config.norm_eps };
        let conv_in = Conv2d::load(scope.at("conv_in"), config.in_channels, finest, config.conv_in_kernel)?;
        let time = TimeEmbedding::load(scope.at("time_embedding"), config, device, kind)?;
        let mut stack = scope.at("down_blocks");
        let down_blocks =
            (0..config.levels.len()).map(|i| DownBlock::load(stack.at(i), config, i)).collect::<Result<_, _>>()?;
        let mid_block = match config.mid_block {
            MidBlock::Absent => None,
            MidBlock::Resnet | MidBlock::CrossAttention => Some(Mid::load(scope.at("mid_block"), config)?),
        };
        let mut stack = scope.at("up_blocks");
        let up_blocks =
            (0..config.levels.len()).map(|i| UpBlock::load(stack.at(i), config, i)).collect::<Result<_, _>>()?;
        Ok(Self {
            conv_in,
            time,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::load(scope.at("conv_norm_out"), finest, norms.groups, norms.eps)?,
            conv_out: Conv2d::load(scope.at("conv_out"), finest, config.out_channels, config.conv_out_kernel)?,
            center_input_sample: config.center_input_sample,
            kind,
        })
    }

    /// What the network sees in noisy latents: noise, or velocity, as it was trained.
    ///
    /// `latents` is `[n, in, h, w]`, `timesteps` `[n]` (they may differ and be fractional), `text` `[n, t, width]`;
    /// the result is `[n, out, h, w]` in the precision of the weights.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn forward(&self, latents: &Tensor, timesteps: &Tensor, text: &Tensor) -> Result<Tensor, TchError> {
        let time = self.time.forward(timesteps)?;
        let text = text.f_to_kind(self.kind)?;
        let mut x = latents.f_to_kind(self.kind)?;
        if self.center_input_sample {
            x = x.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        }
        x = self.conv_in.forward(&x)?;
        let mut skips = vec![x.shallow_clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &time, &text, &mut skips)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&x, &time, &text)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &time, &text, &mut skips)?;
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// Sinusoids of the timestep behind two linear layers.
#[derive(Debug)]
struct TimeEmbedding {
    frequencies: Tensor, // [finest / 2], always float32
    /// Cosines stand before sines.
    flip_sin_to_cos: bool,
    /// Zeroes behind the sinusoids: one where the width is odd.
    padding: i64,
    linear_1: Linear,
    linear_2: Linear,
    kind: Kind,
}

impl TimeEmbedding {
    fn load(mut scope: Scope<'_>, config: &UnetConfig, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let finest = config.levels[0].channels;
        let frequencies = frequencies(finest / 2, config.freq_shift, device)
            .map_err(|source| WeightsError::Torch { name: "the timestep's frequencies".into(), source })?;
        Ok(Self {
            frequencies,
            flip_sin_to_cos: config.flip_sin_to_cos,
            padding: finest % 2,
            linear_1: Linear::load(scope.at("linear_1"), finest, config.time_embed_dim)?,
            linear_2: Linear::load(scope.at("linear_2"), config.time_embed_dim, config.time_embed_dim)?,
            kind,
        })
    }

    /// The embedding behind the SiLU with which every ResNet block would begin.
    fn forward(&self, timesteps: &Tensor) -> Result<Tensor, TchError> {
        let timesteps = timesteps.f_to_device(self.frequencies.device())?.f_to_kind(Kind::Float)?;
        let angles = timesteps.f_unsqueeze(1)?.f_mul(&self.frequencies)?; // [n, finest / 2]
        let (sines, cosines) = (angles.f_sin()?, angles.f_cos()?);
        let halves = if self.flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] };
        let sinusoids = Tensor::f_cat(&halves, 1)?.f_constant_pad_nd([0, self.padding])?;
        let hidden = self.linear_1.forward(&sinusoids.f_to_kind(self.kind)?)?.f_silu_()?;
        self.linear_2.forward(&hidden)?.f_silu_() // [n, time]
    }
}

/// 10000^(-i / (count - shift)), in float32 as PyTorch computes them.
fn frequencies(count: i64, shift: f64, device: Device) -> Result<Tensor, TchError> {
    let exponents = Tensor::f_arange(count, (Kind::Float, Device::Cpu))?.f_mul_scalar(-10_000_f64.ln())?;
    exponents.f_div_scalar(count as f64 - shift)?.f_exp()?.f_to_device(device)
}
