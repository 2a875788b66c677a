//! The denoising network: `UNet2DConditionModel` of Stable Diffusion 1.x, 2.x and XL
//! (source: diffusers 0.42, `models/unets/unet_2d_condition.py`, `models/embeddings.py`).

mod blocks;

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::layers::projected::{ProjectedText, Text};
use crate::diffusion::layers::resnet::Norms;
use crate::diffusion::layers::{Conv2d, GroupNorm, Linear};
use crate::diffusion::sd::conditioning::Conditioning;
use crate::diffusion::sd::config::{MidBlock, UnetConfig, UnetLevel};
use crate::diffusion::sd::controlnet::Residuals;
use crate::diffusion::sd::unet::blocks::{DownBlock, Mid, UpBlock};
use crate::diffusion::weights::{Keeping, NetworkTensors, Scope, ShapeRecorder, VarSource, Weights, WeightsError};

/// The way down of a denoising network, and its middle: what it shares with a ControlNet.
#[derive(Debug)]
pub(crate) struct UnetEncoder {
    conv_in: Conv2d,
    time: TimeEmbedding,
    added: Option<AddedEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<Mid>,
    center_input_sample: bool,
    kind: Kind,
}

/// A denoising network on its device.
#[derive(Debug)]
pub struct Unet {
    encoder: UnetEncoder,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
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

impl UnetEncoder {
    pub(crate) fn load(
        scope: &mut Scope<'_>,
        config: &UnetConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self, WeightsError> {
        let finest = config.levels[0].channels;
        let conv_in = Conv2d::load(scope.at("conv_in"), config.in_channels, finest, config.conv_in_kernel)?;
        let time = TimeEmbedding::load(scope.at("time_embedding"), config, device, kind)?;
        let added = match &config.added {
            Some(added) => Some(AddedEmbedding {
                numbers: Sinusoids::new(config, added.number_dim, device)?,
                layers: EmbeddingLayers::load(scope.at("add_embedding"), added.width, config.time_embed_dim)?,
            }),
            None => None,
        };
        let mut stack = scope.at("down_blocks");
        let down_blocks =
            (0..config.levels.len()).map(|i| DownBlock::load(stack.at(i), config, i)).collect::<Result<_, _>>()?;
        let mid_block = match config.mid_block {
            MidBlock::Absent => None,
            MidBlock::Resnet | MidBlock::CrossAttention => Some(Mid::load(scope.at("mid_block"), config)?),
        };
        let center_input_sample = config.center_input_sample;
        Ok(Self { conv_in, time, added, down_blocks, mid_block, center_input_sample, kind })
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Channels of what [`Self::forward`] keeps for the way up.
    pub(crate) fn skip_channels(config: &UnetConfig) -> Vec<i64> {
        let levels = config.levels.len();
        let of_level = |(i, level): (usize, &UnetLevel)| {
            // One for each layer, and one for the halving behind all but the coarsest level.
            let count = level.layers + i64::from(i + 1 < levels);
            vec![level.channels; usize::try_from(count).unwrap_or(0)]
        };
        let finest = config.levels.first().map(|level| level.channels);
        finest.into_iter().chain(config.levels.iter().enumerate().flat_map(of_level)).collect()
    }

    /// What a text passes, in the order of [`Self::forward`].
    fn text_layers(&self) -> Vec<&Linear> {
        let mut layers = Vec::new();
        self.down_blocks.iter().for_each(|block| block.text_layers(&mut layers));
        self.mid_block.iter().for_each(|block| block.text_layers(&mut layers));
        layers
    }

    /// Keys and values of a text `[1, tokens, width]`, where the network is nothing but this.
    pub(crate) fn project(&self, text: &Tensor) -> Result<ProjectedText, TchError> {
        ProjectedText::new(&text.f_to_kind(self.kind)?, &self.text_layers())
    }

    /// What is kept for the way up, and the middle's output. `embedded` is added to the first convolution's output;
    /// `projected` is what [`Self::project`] made of each row's text, or nothing.
    pub(crate) fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        projected: &[ProjectedText],
        embedded: &Tensor,
    ) -> Result<(Vec<Tensor>, Tensor), TchError> {
        let time = self.embedding(timesteps, conditioning)?;
        let text = Text::new(conditioning.embeddings.f_to_kind(self.kind)?, projected);
        self.forward_timed(latents, &time, &text, (Some(embedded), &[]))
    }

    fn forward_timed(
        &self,
        latents: &Tensor,
        time: &Tensor,
        text: &Text<'_>,
        (embedded, features): (Option<&Tensor>, &[Tensor]),
    ) -> Result<(Vec<Tensor>, Tensor), TchError> {
        let mut x = latents.f_to_kind(self.kind)?;
        if self.center_input_sample {
            x = x.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
        }
        x = self.conv_in.forward(&x)?;
        if let Some(embedded) = embedded {
            x = x.f_add_(embedded)?;
        }
        let mut skips = vec![x.shallow_clone()];
        let mut features = features.iter();
        for block in &self.down_blocks {
            x = block.forward(x, time, text, (&mut skips, features.next()))?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&x, time, text)?;
            // One more than there are levels is the middle's, where it has its shape.
            if let Some(feature) = features.next().filter(|feature| feature.size() == x.size()) {
                x = x.f_add_(feature)?;
            }
        }
        Ok((skips, x))
    }

    /// What every ResNet block is told, behind the SiLU with which each of them would begin: `[n, time]`.
    fn embedding(&self, timesteps: &Tensor, conditioning: &Conditioning) -> Result<Tensor, TchError> {
        let time = self.time.forward(timesteps, conditioning.guidance.as_ref())?;
        let mut embedding = match (&self.added, &conditioning.added) {
            (Some(embedding), Some(added)) => {
                let rows = added.numbers.size2()?.0;
                let numbers = embedding.numbers.of(&added.numbers.f_flatten(0, 1)?)?.f_view([rows, -1])?;
                let together = Tensor::f_cat(&[added.pooled.f_to_kind(Kind::Float)?, numbers], 1)?;
                time.f_add(&embedding.layers.forward(&together.f_to_kind(self.kind)?)?)?
            }
            (None, None) => time,
            (Some(_), None) => return Err(TchError::Shape("the network wants a pooled text and sizes".into())),
            (None, Some(_)) => return Err(TchError::Shape("the network knows no pooled text or sizes".into())),
        };
        embedding.f_silu_()
    }
}

impl Unet {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(weights: Weights, config: &UnetConfig) -> Result<Self, WeightsError> {
        Ok(Self::load_keeping(weights, config)?.0)
    }

    /// The same, with the tensors the network with adapters is made of.
    pub(crate) fn load_keeping(weights: Weights, config: &UnetConfig) -> Result<(Self, NetworkTensors), WeightsError> {
        let (device, kind) = (weights.device(), weights.kind());
        let mut keeping = Keeping::new(weights);
        let unet = Self::build(&mut keeping, config, device, kind)?;
        Ok((unet, keeping.finish()?))
    }

    /// The network of a source that may add to its layers, on a device and in a kind.
    pub(crate) fn of(
        source: &mut dyn VarSource,
        config: &UnetConfig,
        (device, kind): (Device, Kind),
    ) -> Result<Self, WeightsError> {
        Self::build(source, config, device, kind)
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
        let encoder = UnetEncoder::load(&mut scope, config, device, kind)?;
        let mut stack = scope.at("up_blocks");
        let up_blocks =
            (0..config.levels.len()).map(|i| UpBlock::load(stack.at(i), config, i)).collect::<Result<_, _>>()?;
        Ok(Self {
            encoder,
            up_blocks,
            conv_norm_out: GroupNorm::load(scope.at("conv_norm_out"), finest, norms.groups, norms.eps)?,
            conv_out: Conv2d::load(scope.at("conv_out"), finest, config.out_channels, config.conv_out_kernel)?,
        })
    }

    /// Keys and values of a text `[1, tokens, width]`, for every evaluation under it.
    pub(crate) fn project(&self, text: &Tensor) -> Result<ProjectedText, TchError> {
        let mut layers = self.encoder.text_layers();
        self.up_blocks.iter().for_each(|block| block.text_layers(&mut layers));
        ProjectedText::new(&text.f_to_kind(self.encoder.kind)?, &layers)
    }

    /// What the network sees in noisy latents: noise, or velocity, as it was trained.
    ///
    /// `latents` is `[n, in, h, w]`, `timesteps` `[n]` (they may differ and be fractional); the result is
    /// `[n, out, h, w]` in the precision of the weights. `residuals` is what ControlNets add, `features` what T2I-Adapters add to
    /// each level on the way down.
    ///
    /// # Errors
    /// When shapes do not fit or libtorch fails.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        (residuals, features): (Option<&Residuals>, &[Tensor]),
    ) -> Result<Tensor, TchError> {
        let time = self.encoder.embedding(timesteps, conditioning)?;
        let text = Text::new(conditioning.embeddings.f_to_kind(self.encoder.kind)?, &conditioning.projected);
        let text = text.beside(&conditioning.references);
        let (mut skips, mut x) = self.encoder.forward_timed(latents, &time, &text, (None, features))?;
        if let Some(residuals) = residuals {
            if residuals.skips.len() != skips.len() {
                return Err(TchError::Shape("a ControlNet of another shape than the network".into()));
            }
            skips =
                skips.iter().zip(&residuals.skips).map(|(skip, added)| skip.f_add(added)).collect::<Result<_, _>>()?;
            x = x.f_add(&residuals.middle)?;
        }
        for block in &self.up_blocks {
            x = block.forward(x, &time, &text, &mut skips)?;
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// The timestep, and the guidance scale where the network was distilled to be told it.
#[derive(Debug)]
struct TimeEmbedding {
    sinusoids: Sinusoids,
    guidance: Option<Linear>, // guidance_embed_dim -> finest
    layers: EmbeddingLayers,
    kind: Kind,
}

impl TimeEmbedding {
    fn load(mut scope: Scope<'_>, config: &UnetConfig, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let finest = config.levels[0].channels;
        let guidance = match config.guidance_embed_dim {
            Some(width) => Some(Linear::load_unbiased(scope.at("cond_proj"), width, finest)?),
            None => None,
        };
        let sinusoids = Sinusoids::new(config, finest, device)?;
        Ok(Self { sinusoids, guidance, layers: EmbeddingLayers::load(scope, finest, config.time_embed_dim)?, kind })
    }

    fn forward(&self, timesteps: &Tensor, guidance: Option<&Tensor>) -> Result<Tensor, TchError> {
        let sinusoids = self.sinusoids.of(timesteps)?.f_to_kind(self.kind)?;
        let input = match (&self.guidance, guidance) {
            (Some(projection), Some(scale)) => {
                sinusoids.f_add(&projection.forward_by_row(&scale.f_to_kind(self.kind)?)?)?
            }
            (None, None) => sinusoids,
            (Some(_), None) => return Err(TchError::Shape("the network wants to be told the guidance scale".into())),
            (None, Some(_)) => return Err(TchError::Shape("the network knows no guidance scale".into())),
        };
        self.layers.forward(&input)
    }
}

/// The pooled text and numbers of Stable Diffusion XL.
#[derive(Debug)]
struct AddedEmbedding {
    numbers: Sinusoids,
    layers: EmbeddingLayers,
}

/// `TimestepEmbedding`: two linear layers around a SiLU.
#[derive(Debug)]
struct EmbeddingLayers {
    linear_1: Linear,
    linear_2: Linear,
}

impl EmbeddingLayers {
    fn load(mut scope: Scope<'_>, inputs: i64, outputs: i64) -> Result<Self, WeightsError> {
        let linear_1 = Linear::load(scope.at("linear_1"), inputs, outputs)?;
        Ok(Self { linear_1, linear_2: Linear::load(scope.at("linear_2"), outputs, outputs)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.linear_2.forward_by_row(&self.linear_1.forward_by_row(x)?.f_silu_()?)
    }
}

/// `Timesteps`: a number as sines and cosines.
#[derive(Debug)]
struct Sinusoids {
    frequencies: Tensor, // [width / 2], always float32
    /// Cosines stand before sines.
    flip_sin_to_cos: bool,
    /// Zeroes behind them: one where the width is odd.
    padding: i64,
}

impl Sinusoids {
    fn new(config: &UnetConfig, width: i64, device: Device) -> Result<Self, WeightsError> {
        let frequencies = frequencies(width / 2, config.freq_shift, device)
            .map_err(|source| WeightsError::Torch { name: "the sinusoids' frequencies".into(), source })?;
        Ok(Self { frequencies, flip_sin_to_cos: config.flip_sin_to_cos, padding: width % 2 })
    }

    /// `[n]` -> `[n, width]`, float32
    fn of(&self, numbers: &Tensor) -> Result<Tensor, TchError> {
        let numbers = numbers.f_to_device(self.frequencies.device())?.f_to_kind(Kind::Float)?;
        let angles = numbers.f_unsqueeze(1)?.f_mul(&self.frequencies)?; // [n, width / 2]
        let (sines, cosines) = (angles.f_sin()?, angles.f_cos()?);
        let halves = if self.flip_sin_to_cos { [cosines, sines] } else { [sines, cosines] };
        Tensor::f_cat(&halves, 1)?.f_constant_pad_nd([0, self.padding])
    }
}

/// 10000^(-i / (count - shift)), in float32 as PyTorch computes them.
fn frequencies(count: i64, shift: f64, device: Device) -> Result<Tensor, TchError> {
    let exponents = Tensor::f_arange(count, (Kind::Float, Device::Cpu))?.f_mul_scalar(-10_000_f64.ln())?;
    exponents.f_div_scalar(count as f64 - shift)?.f_exp()?.f_to_device(device)
}

#[cfg(test)]
mod tests;
