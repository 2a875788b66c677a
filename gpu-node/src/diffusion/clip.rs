//! The CLIP text encoder (source: transformers 5, `models/clip/modeling_clip.py`, `CLIPTextModel`).

use std::collections::BTreeMap;

use tch::{Kind, TchError, Tensor};

use super::attention::{CLIP_NAMES, Mask, SelfAttention};
use super::config::{ClipActivation, ClipConfig};
use super::layers::{LayerNorm, Linear};
use super::weights::{Scope, ShapeRecorder, VarSource, Weights, WeightsError};

/// The prefix of every tensor before transformers 5.
const OLD_PREFIX: &str = "text_model.";
/// A buffer of token positions that older versions stored beside the weights.
const POSITION_IDS: &str = "embeddings.position_ids";

/// A CLIP text encoder on its device.
#[derive(Debug)]
pub struct ClipTextModel {
    token_embedding: Tensor,    // [vocabulary, hidden]
    position_embedding: Tensor, // [positions, hidden]
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    positions: i64,
}

/// Names and shapes of the tensors of a text encoder, as transformers 5 writes them (without `text_model.`).
///
/// # Errors
/// When libtorch fails.
pub fn tensor_shapes(config: &ClipConfig) -> Result<BTreeMap<String, Vec<i64>>, WeightsError> {
    let mut recorder = ShapeRecorder::default();
    ClipTextModel::build(&mut recorder, config)?;
    Ok(recorder.into_shapes())
}

/// A tensor's name without the prefix of older versions.
pub(super) fn canonical_name(name: &str) -> String {
    name.strip_prefix(OLD_PREFIX).unwrap_or(name).to_owned()
}

impl ClipTextModel {
    /// Takes every tensor out of `weights`.
    ///
    /// # Errors
    /// When a tensor is missing, left over or not as `config` says.
    pub fn load(mut weights: Weights, config: &ClipConfig) -> Result<Self, WeightsError> {
        weights.take_positions(POSITION_IDS, config.positions)?;
        let model = Self::build(&mut weights, config)?;
        weights.finish()?;
        Ok(model)
    }

    fn build(source: &mut dyn VarSource, config: &ClipConfig) -> Result<Self, WeightsError> {
        let mut scope = Scope::root(source);
        let hidden = config.hidden_size;
        let mut embeddings = scope.at("embeddings");
        let token_embedding = embeddings.take("token_embedding.weight", &[config.vocab_size, hidden])?;
        let position_embedding = embeddings.take("position_embedding.weight", &[config.positions, hidden])?;
        let mut stack = scope.at("encoder.layers");
        let layers = (0..config.layers).map(|i| EncoderLayer::load(stack.at(i), config)).collect::<Result<_, _>>()?;
        let final_layer_norm = LayerNorm::load(scope.at("final_layer_norm"), hidden, config.layer_norm_eps)?;
        Ok(Self { token_embedding, position_embedding, layers, final_layer_norm, positions: config.positions })
    }

    /// The last hidden state behind the final norm. `tokens` is `[n, t]` of whole numbers, the result `[n, t, hidden]`.
    ///
    /// # Errors
    /// When there are more tokens than positions or libtorch fails.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (_, count) = tokens.size2()?;
        if count > self.positions {
            return Err(TchError::Shape(format!("{count} tokens, the encoder has {} positions", self.positions)));
        }
        let positions = self.position_embedding.f_narrow(0, 0, count)?; // [t, hidden]
        let tokens = tokens.f_to_kind(Kind::Int64)?.f_to_device(self.token_embedding.device())?;
        let mut x = Tensor::f_embedding(&self.token_embedding, &tokens, -1, false, false)?.f_add_(&positions)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.final_layer_norm.forward(&x)
    }
}

#[derive(Debug)]
struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    activation: ClipActivation,
    fc2: Linear,
}

impl EncoderLayer {
    fn load(mut scope: Scope<'_>, config: &ClipConfig) -> Result<Self, WeightsError> {
        let ClipConfig { hidden_size: hidden, intermediate_size: inner, layer_norm_eps: eps, .. } = *config;
        Ok(Self {
            layer_norm1: LayerNorm::load(scope.at("layer_norm1"), hidden, eps)?,
            self_attn: SelfAttention::load(scope.at("self_attn"), CLIP_NAMES, hidden, config.heads, Mask::Causal)?,
            layer_norm2: LayerNorm::load(scope.at("layer_norm2"), hidden, eps)?,
            fc1: Linear::load(scope.at("mlp.fc1"), hidden, inner)?,
            activation: config.activation,
            fc2: Linear::load(scope.at("mlp.fc2"), inner, hidden)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let x = self.self_attn.forward(&self.layer_norm1.forward(x)?)?.f_add_(x)?;
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
