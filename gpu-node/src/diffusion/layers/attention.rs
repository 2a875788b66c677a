//! Attention as all three networks use it, and the transformer of the UNet
//! (source: diffusers 0.42, `models/attention_processor.py`, `models/attention.py`,
//! `models/transformers/transformer_2d.py`).

use tch::{TchError, Tensor};

use crate::diffusion::layers::projected::Text;
use crate::diffusion::layers::reference::Area;
use crate::diffusion::layers::{GroupNorm, LayerNorm, Linear};
use crate::diffusion::weights::{Scope, WeightsError};

/// What the projections of an attention are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionNames {
    query: &'static str,
    key: &'static str,
    value: &'static str,
    out: &'static str,
}

pub(crate) const DIFFUSERS_NAMES: AttentionNames =
    AttentionNames { query: "to_q", key: "to_k", value: "to_v", out: "to_out.0" };
pub(crate) const CLIP_NAMES: AttentionNames =
    AttentionNames { query: "q_proj", key: "k_proj", value: "v_proj", out: "out_proj" };

/// Which tokens a token may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All of them.
    None,
    /// Itself and those before it.
    Causal,
}

/// Multi-head attention of tokens among themselves. The three projections run as one matrix product.
#[derive(Debug)]
pub(crate) struct SelfAttention {
    query_key_value: Linear, // c -> 3c
    out: Linear,
    heads: i64,
    mask: Mask,
}

impl SelfAttention {
    /// With biased projections, as in CLIP and the VAE.
    pub(crate) fn load(
        mut scope: Scope<'_>,
        names: AttentionNames,
        width: i64,
        heads: i64,
        mask: Mask,
    ) -> Result<Self, WeightsError> {
        let projections = [names.query, names.key, names.value];
        let query_key_value = Linear::load_stacked(&mut scope, &projections, width, width)?;
        Ok(Self { query_key_value, out: Linear::load(scope.at(names.out), width, width)?, heads, mask })
    }

    /// With unbiased projections, as in the UNet.
    fn load_unbiased(mut scope: Scope<'_>, width: i64, heads: i64) -> Result<Self, WeightsError> {
        let names = DIFFUSERS_NAMES;
        let projections = [names.query, names.key, names.value];
        let query_key_value = Linear::load_stacked_unbiased(&mut scope, &projections, width, width)?;
        Ok(Self { query_key_value, out: Linear::load(scope.at(names.out), width, width)?, heads, mask: Mask::None })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        self.forward_masked(x, None)
    }

    /// With `mask`, `[n, 1, t, t]` of booleans, in place of its own.
    pub(crate) fn forward_masked(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
        let (n, tokens, width) = x.size3()?;
        let projected = self.query_key_value.forward(x)?; // [n, t, 3c]
        let parts = projected
            .f_view([n, tokens, 3, self.heads, width / self.heads])?
            .f_permute([2, 0, 3, 1, 4])? // [3, n, heads, t, d]
            .f_unbind(0)?;
        let [query, key, value] = parts.as_slice() else {
            return Err(TchError::Shape(format!("{} projections of self-attention", parts.len())));
        };
        match mask {
            Some(mask) => self.out.forward(&attend_where(query, key, value, mask)?),
            None => self.out.forward(&attend(query, key, value, self.mask)?),
        }
    }
}

/// Multi-head attention of tokens to a text.
#[derive(Debug)]
struct CrossAttention {
    query: Linear,     // c -> c
    key_value: Linear, // text -> 2c
    out: Linear,
    heads: i64,
}

impl CrossAttention {
    fn load(mut scope: Scope<'_>, width: i64, text_width: i64, heads: i64) -> Result<Self, WeightsError> {
        let names = DIFFUSERS_NAMES;
        let query = Linear::load_unbiased(scope.at(names.query), width, width)?;
        let key_value = Linear::load_stacked_unbiased(&mut scope, &[names.key, names.value], text_width, width)?;
        Ok(Self { query, key_value, out: Linear::load(scope.at(names.out), width, width)?, heads })
    }

    /// Attends to the text, and in an area to the images beside it as well.
    fn forward(&self, x: &Tensor, text: &Text<'_>, images_in: Option<Area>) -> Result<Tensor, TchError> {
        let (n, tokens, width) = x.size3()?;
        let head_width = width / self.heads;
        let query = self.query.forward(x)?.f_view([n, tokens, self.heads, head_width])?.f_transpose(1, 2)?;
        let attend_to = |projected: &Tensor| {
            let seen_tokens = projected.size3()?.1;
            let parts = projected
                .f_view([n, seen_tokens, 2, self.heads, head_width])?
                .f_permute([2, 0, 3, 1, 4])? // [2, n, heads, seen, d]
                .f_unbind(0)?;
            let [key, value] = parts.as_slice() else {
                return Err(TchError::Shape(format!("{} projections of cross-attention", parts.len())));
            };
            attend(&query, key, value, Mask::None)
        };
        let found = attend_to(&text.keys_values(&self.key_value)?)?;
        let found = match images_in {
            Some(area) => text.looking.added_to(found, area, attend_to)?,
            None => found,
        };
        self.out.forward(&found)
    }
}

/// softmax(q · kᵀ / √d) · v, heads joined again.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, mask: Mask) -> Result<Tensor, TchError> {
    let causal = mask == Mask::Causal;
    let attended = // [n, heads, t, d]
        Tensor::f_scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, causal, None, false)?;
    attended.f_transpose(1, 2)?.f_flatten(2, 3) // [n, t, c]
}

/// The same where `mask` is true, `[n, 1, t, t]`.
fn attend_where(query: &Tensor, key: &Tensor, value: &Tensor, mask: &Tensor) -> Result<Tensor, TchError> {
    let attended = Tensor::f_scaled_dot_product_attention(query, key, value, Some(mask), 0.0, false, None, false)?;
    attended.f_transpose(1, 2)?.f_flatten(2, 3) // [n, t, c]
}

/// Where the first attention of a transformer block looks.
#[derive(Debug)]
enum FirstAttention {
    Own(SelfAttention),
    /// `only_cross_attention`.
    Text(CrossAttention),
}

/// Attention among pixels, attention to the text, feed-forward, each behind a norm and around a residual.
#[derive(Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: FirstAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn load(mut scope: Scope<'_>, shape: TransformerShape) -> Result<Self, WeightsError> {
        /// diffusers' default, which no configuration of a UNet overrides.
        const NORM_EPS: f64 = 1e-5;
        let TransformerShape { channels, heads, text_width, .. } = shape;
        let attn1 = if shape.only_cross_attention {
            FirstAttention::Text(CrossAttention::load(scope.at("attn1"), channels, text_width, heads)?)
        } else {
            FirstAttention::Own(SelfAttention::load_unbiased(scope.at("attn1"), channels, heads)?)
        };
        Ok(Self {
            norm1: LayerNorm::load(scope.at("norm1"), channels, NORM_EPS)?,
            attn1,
            norm2: LayerNorm::load(scope.at("norm2"), channels, NORM_EPS)?,
            attn2: CrossAttention::load(scope.at("attn2"), channels, text_width, heads)?,
            norm3: LayerNorm::load(scope.at("norm3"), channels, NORM_EPS)?,
            ff: FeedForward::load(scope.at("ff.net"), channels)?,
        })
    }

    /// What a text passes, in the order of [`Self::forward`].
    fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        if let FirstAttention::Text(attention) = &self.attn1 {
            layers.push(&attention.key_value);
        }
        layers.push(&self.attn2.key_value);
    }

    fn forward(&self, x: &Tensor, text: &Text<'_>, area: Area) -> Result<Tensor, TchError> {
        let normed = self.norm1.forward(x)?;
        let mut attended = match &self.attn1 {
            FirstAttention::Own(attention) => attention.forward(&normed)?,
            FirstAttention::Text(attention) => attention.forward(&normed, text, None)?,
        };
        // Each output is this block's own: the residual is added in place.
        let x = attended.f_add_(x)?;
        let x = self.attn2.forward(&self.norm2.forward(&x)?, text, Some(area))?.f_add_(&x)?;
        self.ff.forward(&self.norm3.forward(&x)?)?.f_add_(&x) // [n, t, c]
    }
}

/// A feed-forward with a GELU gate, four times as wide inside.
#[derive(Debug)]
struct FeedForward {
    value_gate: Linear, // c -> 2 · 4c
    out: Linear,        // 4c -> c
}

impl FeedForward {
    fn load(mut scope: Scope<'_>, width: i64) -> Result<Self, WeightsError> {
        let value_gate = Linear::load(scope.at("0.proj"), width, 8 * width)?;
        Ok(Self { value_gate, out: Linear::load(scope.at("2"), 4 * width, width)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let projected = self.value_gate.forward(x)?; // [n, t, 8c]
        let width = projected.size3()?.2 / 2;
        let value = projected.f_narrow(2, 0, width)?;
        let gated = projected.f_narrow(2, width, width)?.f_gelu("none")?.f_mul_(&value)?; // [n, t, 4c]
        self.out.forward(&gated)
    }
}

/// What the transformers of one level have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerShape {
    pub(crate) channels: i64,
    pub(crate) heads: i64,
    pub(crate) layers: i64,
    pub(crate) text_width: i64,
    pub(crate) groups: i64,
    pub(crate) only_cross_attention: bool,
    /// The projections in and out are linear layers instead of 1×1 convolutions: the same, stored differently.
    pub(crate) use_linear_projection: bool,
}

/// `Transformer2DModel`: pixels become tokens, pass the blocks and become pixels again, around a residual.
#[derive(Debug)]
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl SpatialTransformer {
    pub(crate) fn load(mut scope: Scope<'_>, shape: TransformerShape) -> Result<Self, WeightsError> {
        /// Fixed in `Transformer2DModel`.
        const NORM_EPS: f64 = 1e-6;
        let TransformerShape { channels, layers, groups, .. } = shape;
        let projection = if shape.use_linear_projection { Linear::load } else { Linear::load_pointwise };
        let norm = GroupNorm::load(scope.at("norm"), channels, groups, NORM_EPS)?;
        let proj_in = projection(scope.at("proj_in"), channels, channels)?;
        let mut stack = scope.at("transformer_blocks");
        let blocks = (0..layers).map(|i| TransformerBlock::load(stack.at(i), shape)).collect::<Result<_, _>>()?;
        Ok(Self { norm, proj_in, blocks, proj_out: projection(scope.at("proj_out"), channels, channels)? })
    }

    pub(crate) fn text_layers<'a>(&'a self, layers: &mut Vec<&'a Linear>) {
        self.blocks.iter().for_each(|block| block.text_layers(layers));
    }

    pub(crate) fn forward(&self, x: &Tensor, text: &Text<'_>) -> Result<Tensor, TchError> {
        let (_, _, height, width) = x.size4()?;
        let tokens = self.norm.forward(x)?.f_permute([0, 2, 3, 1])?.f_flatten(1, 2)?; // [n, hw, c]
        let mut tokens = self.proj_in.forward(&tokens)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, text, (height, width))?;
        }
        let pixels = self.proj_out.forward(&tokens)?.f_unflatten(1, [height, -1])?.f_permute([0, 3, 1, 2])?;
        x.f_add(&pixels) // [n, c, h, w]
    }
}

/// Attention among the pixels of the VAE: one head, around a residual.
#[derive(Debug)]
pub(crate) struct PixelAttention {
    norm: GroupNorm,
    attention: SelfAttention,
}

impl PixelAttention {
    pub(crate) fn load(mut scope: Scope<'_>, channels: i64, groups: i64, eps: f64) -> Result<Self, WeightsError> {
        let norm = GroupNorm::load(scope.at("group_norm"), channels, groups, eps)?;
        Ok(Self { norm, attention: SelfAttention::load(scope, DIFFUSERS_NAMES, channels, 1, Mask::None)? })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, height, _) = x.size4()?;
        let tokens = self.norm.forward(x)?.f_flatten(2, 3)?.f_transpose(1, 2)?; // [n, hw, c]
        let pixels = self.attention.forward(&tokens)?.f_transpose(1, 2)?.f_unflatten(2, [height, -1])?;
        x.f_add(&pixels) // [n, c, h, w]
    }
}
