//! The CLIP text encoder (source: transformers 5, `models/clip/modeling_clip.py`, `CLIPTextModel`).

use std::collections::BTreeMap;

use tch::{Device, Kind, TchError, Tensor};

use crate::diffusion::device::upload;
use crate::diffusion::layers::attention::{CLIP_NAMES, Mask, SelfAttention};
use crate::diffusion::layers::{LayerNorm, Linear};
use crate::diffusion::text::config::{ClipActivation, ClipConfig};
use crate::diffusion::weights::{Keeping, NetworkTensors, Scope, ShapeRecorder, VarSource, Weights, WeightsError};

/// The prefix of every tensor before transformers 5.
const OLD_PREFIX: &str = "text_model.";
/// A buffer of token positions that older versions stored beside the weights.
const POSITION_IDS: &str = "embeddings.position_ids";

/// What an encoder gives beside its hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `CLIPTextModel`
    None,
    /// `CLIPTextModelWithProjection`: a pooled embedding.
    Projection,
}

/// Which hidden state is a text's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenLayer {
    /// The last one behind the final norm, as Stable Diffusion 1.x and 2.x use it.
    Last,
    /// The one before the last layer, unnormalised, as Stable Diffusion XL uses it.
    Penultimate,
}

/// How a text is read.
#[derive(Debug, Default)]
pub struct Reading {
    /// Layers at the end that are left out, beside those the [`HiddenLayer`] leaves out. The pooled text has them all.
    pub skip: usize,
    /// Which tokens others may look at, `[n, t]`, of booleans; all where there is none.
    pub visible: Option<Tensor>,
}

/// What an encoder makes of tokens.
#[derive(Debug)]
pub struct Encoded {
    /// `[n, t, hidden]`
    pub hidden: Tensor,
    /// `[n, projection]`, where the encoder projects.
    pub pooled: Option<Tensor>,
}

/// A CLIP text encoder on its device.
#[derive(Debug)]
pub struct ClipTextModel {
    token_embedding: Tensor,    // [vocabulary, hidden]
    position_embedding: Tensor, // [positions, hidden]
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    projection: Option<Linear>, // hidden -> projection
    pooled_at: Option<i64>,
    positions: i64,
    /// `[n, hidden]`: rows behind the vocabulary, of words that were learnt for one recipe.
    learnt: Option<Tensor>,
}

/// Names and shapes of the tensors of a text encoder, as transformers 5 writes them (without `text_model.`).
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &ClipConfig, head: Head) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    ClipTextModel::build(&mut recorder, config, head)?;
    Ok(recorder.into_shapes())
}

/// A tensor's name without the prefix of older versions, and of encoders that project.
pub(crate) fn canonical_name(name: &str) -> String {
    name.strip_prefix(OLD_PREFIX).unwrap_or(name).to_owned()
}

impl ClipTextModel {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(weights: Weights, config: &ClipConfig, head: Head) -> Result<Self, WeightsError> {
        Ok(Self::load_keeping(weights, config, head)?.0)
    }

    /// The same, with the tensors the network with adapters is made of.
    pub(crate) fn load_keeping(
        mut weights: Weights,
        config: &ClipConfig,
        head: Head,
    ) -> Result<(Self, NetworkTensors), WeightsError> {
        weights.take_positions(POSITION_IDS, config.positions)?;
        let mut keeping = Keeping::new(weights);
        let model = Self::build(&mut keeping, config, head)?;
        Ok((model, keeping.finish()?))
    }

    /// The network of a source that may add to its layers.
    pub(crate) fn of(source: &mut dyn VarSource, config: &ClipConfig, head: Head) -> Result<Self, WeightsError> {
        Self::build(source, config, head)
    }

    fn build(source: &mut dyn VarSource, config: &ClipConfig, head: Head) -> Result<Self, WeightsError> {
        let mut scope = Scope::root(source);
        let hidden = config.hidden_size;
        let mut embeddings = scope.at("embeddings");
        let token_embedding = embeddings.take("token_embedding.weight", &[config.vocab_size, hidden])?;
        let position_embedding = embeddings.take("position_embedding.weight", &[config.positions, hidden])?;
        let mut stack = scope.at("encoder.layers");
        let layers =
            (0..config.layers).map(|i| EncoderLayer::load(stack.at(i), config.into())).collect::<Result<_, _>>()?;
        let final_layer_norm = LayerNorm::load(scope.at("final_layer_norm"), hidden, config.layer_norm_eps)?;
        let projection = match head {
            Head::None => None,
            Head::Projection => {
                Some(Linear::load_unbiased(scope.at("text_projection"), hidden, config.projection_dim)?)
            }
        };
        Ok(Self {
            token_embedding,
            position_embedding,
            layers,
            final_layer_norm,
            projection,
            pooled_at: config.pooled_at,
            positions: config.positions,
            learnt: None,
        })
    }

    /// Tokens that have a row of their own: ids from 0.
    #[must_use]
    pub fn vocabulary(&self) -> i64 {
        let rows = |table: &Tensor| table.size().first().copied().unwrap_or(0);
        rows(&self.token_embedding) + self.learnt.as_ref().map_or(0, rows)
    }

    /// Values of a token's row.
    pub(crate) fn width(&self) -> i64 {
        self.token_embedding.size().get(1).copied().unwrap_or(0)
    }

    /// The same with rows `[n, hidden]` for the ids behind its vocabulary.
    pub(crate) fn with_rows(self, rows: &Tensor) -> Result<Self, TchError> {
        let rows = rows.f_to_kind(self.token_embedding.f_kind()?)?.f_to_device(self.device())?;
        Ok(Self { learnt: Some(rows), ..self })
    }

    /// The rows of tokens `[n, t]`, and the tokens without those of learnt words, for which no end is looked up.
    fn look_up(&self, tokens: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let rows_of = |table: &Tensor, ids: &Tensor| Tensor::f_embedding(table, ids, -1, false, false);
        let Some(learnt) = &self.learnt else {
            return Ok((rows_of(&self.token_embedding, tokens)?, tokens.shallow_clone()));
        };
        let rows = self.token_embedding.size2()?.0;
        let is_learnt = tokens.f_ge(rows)?;
        let known = tokens.f_masked_fill(&is_learnt, 0)?;
        let new = tokens.f_sub_scalar(rows)?.f_clamp_min(0)?;
        let (of_known, of_new) = (rows_of(&self.token_embedding, &known)?, rows_of(learnt, &new)?);
        Ok((of_new.f_where_self(&is_learnt.f_unsqueeze(-1)?, &of_known)?, known))
    }

    pub(crate) fn device(&self) -> Device {
        self.token_embedding.device()
    }

    /// The embeddings of `tokens`, `[n, t]` of whole numbers.
    ///
    /// # Errors
    /// When there are more tokens than positions or libtorch fails.
    pub fn forward(&self, tokens: &Tensor, layer: HiddenLayer) -> Result<Encoded, TchError> {
        self.forward_as(tokens, layer, &Reading::default())
    }

    /// The same, read in a way of its own.
    ///
    /// # Errors
    /// As [`Self::forward`], and when more layers are left out than there are.
    pub fn forward_as(&self, tokens: &Tensor, layer: HiddenLayer, reading: &Reading) -> Result<Encoded, TchError> {
        let (_, count) = tokens.size2()?;
        if count > self.positions {
            return Err(TchError::Shape(format!("{count} tokens, the encoder has {} positions", self.positions)));
        }
        let taken_after = self.layers_taken(layer, reading.skip)?;
        let positions = self.position_embedding.f_narrow(0, 0, count)?; // [t, hidden]
        let tokens = upload(&tokens.f_to_kind(Kind::Int64)?, self.device())?;
        let mask = reading.visible.as_ref().map(|visible| causal_mask(&upload(visible, self.device())?)).transpose()?;
        let (mut x, tokens) = self.look_up(&tokens)?;
        x = x.f_add_(&positions)?;
        for layer in &self.layers[..taken_after] {
            x = layer.forward(&x, mask.as_ref())?;
        }
        let hidden = match layer {
            HiddenLayer::Last => self.final_layer_norm.forward(&x)?,
            HiddenLayer::Penultimate => x.shallow_clone(),
        };
        let Some(projection) = &self.projection else { return Ok(Encoded { hidden, pooled: None }) };
        let rest = &self.layers[taken_after..];
        let last = if rest.is_empty() && layer == HiddenLayer::Last {
            hidden.shallow_clone()
        } else {
            for layer in rest {
                x = layer.forward(&x, mask.as_ref())?;
            }
            self.final_layer_norm.forward(&x)?
        };
        Ok(Encoded { hidden, pooled: Some(projection.forward(&self.at_end(&last, &tokens)?)?) })
    }

    /// How many layers are run before the states are taken.
    fn layers_taken(&self, layer: HiddenLayer, skip: usize) -> Result<usize, TchError> {
        let left_out = skip + usize::from(layer == HiddenLayer::Penultimate);
        let too_many = || format!("{left_out} layers are left out, the text encoder has {}", self.layers.len());
        self.layers.len().checked_sub(left_out).ok_or_else(|| TchError::Shape(too_many()))
    }

    /// Layers that may be left out.
    pub(crate) fn skip_max(&self, layer: HiddenLayer) -> usize {
        self.layers.len().saturating_sub(usize::from(layer == HiddenLayer::Penultimate))
    }

    /// The state at each text's end, `[n, hidden]`.
    fn at_end(&self, states: &Tensor, tokens: &Tensor) -> Result<Tensor, TchError> {
        let marks = match self.pooled_at {
            Some(id) => tokens.f_eq(id)?.f_to_kind(Kind::Int)?,
            None => tokens.f_to_kind(Kind::Int)?,
        };
        // Of equal ones, the first.
        let places = marks.f_argmax(-1, false)?.f_view([-1, 1, 1])?;
        states.f_take_along_dim(&places, 1)?.f_squeeze_dim(1)
    }
}

/// Each token looks at itself and those before it, as far as they are visible: `[n, 1, t, t]`.
fn causal_mask(visible: &Tensor) -> Result<Tensor, TchError> {
    let (rows, count) = visible.size2()?;
    let causal = Tensor::f_ones([count, count], (Kind::Bool, visible.device()))?.f_tril(0)?;
    visible.f_view([rows, 1, 1, count])?.f_logical_and(&causal)
}

/// What the layers of an encoder, of texts or of images, have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderShape {
    pub(crate) hidden: i64,
    /// Width of the feed-forward.
    pub(crate) inner: i64,
    pub(crate) heads: i64,
    pub(crate) eps: f64,
    pub(crate) activation: ClipActivation,
    pub(crate) mask: Mask,
}

impl From<&ClipConfig> for EncoderShape {
    fn from(config: &ClipConfig) -> Self {
        let ClipConfig { hidden_size, intermediate_size, heads, layer_norm_eps, activation, .. } = *config;
        Self {
            hidden: hidden_size,
            inner: intermediate_size,
            heads,
            eps: layer_norm_eps,
            activation,
            mask: Mask::Causal,
        }
    }
}

/// A layer of CLIP's encoders.
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: ClipActivation,
    fc2: Linear,
}

impl EncoderLayer {
    pub(crate) fn load(mut scope: Scope<'_>, shape: EncoderShape) -> Result<Self, WeightsError> {
        let EncoderShape { hidden, inner, heads, eps, activation, mask } = shape;
        Ok(Self {
            layer_norm1: LayerNorm::load(scope.at("layer_norm1"), hidden, eps)?,
            self_attn: SelfAttention::load(scope.at("self_attn"), CLIP_NAMES, hidden, heads, mask)?,
            layer_norm2: LayerNorm::load(scope.at("layer_norm2"), hidden, eps)?,
            fc1: Linear::load(scope.at("mlp.fc1"), hidden, inner)?,
            activation,
            fc2: Linear::load(scope.at("mlp.fc2"), inner, hidden)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        let x = self.self_attn.forward_masked(&self.layer_norm1.forward(x)?, mask)?.f_add_(x)?;
        let inner = activate(self.activation, self.fc1.forward(&self.layer_norm2.forward(&x)?)?)?;
        self.fc2.forward(&inner)?.f_add_(&x) // [n, t, hidden]
    }
}

fn activate(activation: ClipActivation, mut x: Tensor) -> Result<Tensor, TchError> {
    match activation {
        ClipActivation::Gelu => x.f_gelu_("none"),
        ClipActivation::QuickGelu => {
            let gate = x.f_mul_scalar(1.702)?.f_sigmoid_()?;
            x.f_mul_(&gate)
        }
    }
}
