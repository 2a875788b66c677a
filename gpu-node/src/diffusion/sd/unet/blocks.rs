//! The levels of the UNet (source: diffusers 0.42, `models/unets/unet_2d_blocks.py`).
//!
//! Down blocks push what they computed onto a stack of skips, up blocks pop it: one per layer and one per change
//! of size, in reverse.

use tch::{TchError, Tensor};

use crate::diffusion::layers::Linear;
use crate::diffusion::layers::attention::{SpatialTransformer, TransformerShape};
use crate::diffusion::layers::projected::Text;
use crate::diffusion::layers::resnet::{Downsample, Norms, ResnetBlock, Upsample};
use crate::diffusion::sd::config::{MidBlock, UnetConfig, UnetLevel};
use crate::diffusion::weights::{Scope, WeightsError};

/// A ResNet block and, on levels with attention, the transformer behind it.
#[derive(Debug)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        if let Some(attention) = &self.attention {
            attention.text_layers(layers);
        }
    }

    /// Lets go of its input before the transformer, where memory is most crowded.
    fn forward(&self, mut x: Tensor, time: &Tensor, text: &Text<'_>) -> Result<Tensor, TchError> {
        x = self.resnet.forward(&x, Some(time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, text),
            None => Ok(x),
        }
    }
}

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
#[derive(Debug)]
pub(crate) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    /// The block of level `index`, the finest being 0.
    pub(crate) fn load(mut scope: Scope<'_>, config: &UnetConfig, index: usize) -> Result<Self, WeightsError> {
        let level = &config.levels[index];
        let above = config.levels[index.saturating_sub(1)].channels;
        let inputs = |layer: i64| if layer == 0 { above } else { level.channels };
        let layers = (0..level.layers)
            .map(|i| load_layer(&mut scope, config, level, i, inputs(i), level.down_has_attention))
            .collect::<Result<_, _>>()?;
        let downsample = if index + 1 < config.levels.len() {
            Some(Downsample::load(scope.at("downsamplers.0"), level.channels, config.downsample_padding)?)
        } else {
            None
        };
        Ok(Self { layers, downsample })
    }

    pub(crate) fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        self.layers.iter().for_each(|layer| layer.text_layers(layers));
    }

    /// `feature` is added behind the last layer.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        time: &Tensor,
        text: &Text<'_>,
        (skips, feature): (&mut Vec<Tensor>, Option<&Tensor>),
    ) -> Result<Tensor, TchError> {
        let has_attention = self.layers.iter().any(|layer| layer.attention.is_some());
        for (at, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, time, text)?;
            if let Some(feature) = feature.filter(|_| has_attention && at + 1 == self.layers.len()) {
                x = added(&x, feature)?;
            }
            skips.push(x.shallow_clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.shallow_clone());
        }
        // A level without attention takes it at its end, where diffusers adds it in place: the last skip has it as well.
        if let Some(feature) = feature.filter(|_| !has_attention) {
            x = added(&x, feature)?;
            skips.pop();
            skips.push(x.shallow_clone());
        }
        Ok(x)
    }
}

/// A level's output with a T2I-Adapter's feature, which has its shape: nothing is spread over what it was not made for.
fn added(x: &Tensor, feature: &Tensor) -> Result<Tensor, TchError> {
    if feature.size() != x.size() {
        let (theirs, ours) = (feature.size(), x.size());
        return Err(TchError::Shape(format!("a T2I-Adapter's feature of shape {theirs:?} for a level of {ours:?}")));
    }
    x.f_add(feature)
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`.
#[derive(Debug)]
pub(crate) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// The block `index` of the way up, the coarsest being 0.
    pub(crate) fn load(mut scope: Scope<'_>, config: &UnetConfig, index: usize) -> Result<Self, WeightsError> {
        let at = config.levels.len() - 1 - index;
        let level = &config.levels[at];
        let below = config.levels.get(at + 1).unwrap_or(level).channels;
        // The last skip of a level was pushed by the level above it (by `conv_in` for the finest).
        let above = config.levels[at.saturating_sub(1)].channels;
        let inputs = |layer: i64| {
            let incoming = if layer == 0 { below } else { level.channels };
            let skip = if layer == level.layers { above } else { level.channels };
            incoming + skip
        };
        let layers = (0..=level.layers)
            .map(|i| load_layer(&mut scope, config, level, i, inputs(i), level.up_has_attention))
            .collect::<Result<_, _>>()?;
        let upsample = if at > 0 { Some(Upsample::load(scope.at("upsamplers.0"), level.channels)?) } else { None };
        Ok(Self { layers, upsample })
    }

    pub(crate) fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        self.layers.iter().for_each(|layer| layer.text_layers(layers));
    }

    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        time: &Tensor,
        text: &Text<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor, TchError> {
        for layer in &self.layers {
            let skip = skips.pop().ok_or_else(|| TchError::Shape("the UNet ran out of skips".into()))?;
            let joined = Tensor::f_cat(&[x, skip], 1)?;
            x = layer.forward(joined, time, text)?;
        }
        // An odd level was halved upwards: it becomes what the next skip is, which may be one less than twice.
        match (&self.upsample, skips.last()) {
            (Some(upsample), Some(next)) => {
                let (_, _, height, width) = next.size4()?;
                upsample.forward_to(&x, (height, width))
            }
            _ => Ok(x),
        }
    }
}

/// `UNetMidBlock2DCrossAttn` and `UNetMidBlock2D`.
#[derive(Debug)]
pub(crate) struct Mid {
    resnet: ResnetBlock,
    attention: Option<(SpatialTransformer, ResnetBlock)>,
}

impl Mid {
    pub(crate) fn load(mut scope: Scope<'_>, config: &UnetConfig) -> Result<Self, WeightsError> {
        let level = &config.levels[config.levels.len() - 1];
        let mut resnet = |i: i64| {
            let scope = scope.at("resnets");
            load_resnet(scope, config, i, level.channels, level.channels)
        };
        let (first, second) = match config.mid_block {
            MidBlock::CrossAttention => (resnet(0)?, Some(resnet(1)?)),
            MidBlock::Resnet | MidBlock::Absent => (resnet(0)?, None),
        };
        let Some(second) = second else { return Ok(Self { resnet: first, attention: None }) };
        // diffusers passes `only_cross_attention` to the levels, not to the middle.
        let shape = TransformerShape { only_cross_attention: false, ..transformer_shape(config, level) };
        let attention = SpatialTransformer::load(scope.at("attentions.0"), shape)?;
        Ok(Self { resnet: first, attention: Some((attention, second)) })
    }

    pub(crate) fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        if let Some((attention, _)) = &self.attention {
            attention.text_layers(layers);
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, time: &Tensor, text: &Text<'_>) -> Result<Tensor, TchError> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.attention {
            Some((attention, resnet)) => resnet.forward(&attention.forward(&x, text)?, Some(time)),
            None => Ok(x),
        }
    }
}

fn load_layer(
    scope: &mut Scope<'_>,
    config: &UnetConfig,
    level: &UnetLevel,
    index: i64,
    inputs: i64,
    has_attention: bool,
) -> Result<Layer, WeightsError> {
    let resnet = load_resnet(scope.at("resnets"), config, index, inputs, level.channels)?;
    let attention = if has_attention {
        Some(SpatialTransformer::load(scope.at("attentions").at(index), transformer_shape(config, level))?)
    } else {
        None
    };
    Ok(Layer { resnet, attention })
}

fn load_resnet(
    mut scope: Scope<'_>,
    config: &UnetConfig,
    index: i64,
    inputs: i64,
    outputs: i64,
) -> Result<ResnetBlock, WeightsError> {
    let norms = Norms { groups: config.norm_num_groups, eps: config.norm_eps };
    ResnetBlock::load_timed(scope.at(index), inputs, outputs, norms, config.time_embed_dim)
}

fn transformer_shape(config: &UnetConfig, level: &UnetLevel) -> TransformerShape {
    TransformerShape {
        channels: level.channels,
        heads: level.heads,
        layers: level.transformer_layers,
        text_width: config.cross_attention_dim,
        groups: config.norm_num_groups,
        only_cross_attention: level.only_cross_attention,
        use_linear_projection: config.use_linear_projection,
    }
}
