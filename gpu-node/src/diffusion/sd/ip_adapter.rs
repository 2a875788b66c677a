//! IP-Adapter (Ye et al. 2023): a picture that the denoising network looks at beside its text.
//!
//! A file makes a few tokens of what an image encoder read, and has keys and values of them for every attention to the text. The
//! tokens come of the pooled embedding (`image_proj.proj`), or of the encoder's states through a resampler (Plus,
//! `image_proj.latents`). Invariants: every tensor of the file is accounted for; the network itself is not changed, its
//! attentions are given more to look at. Sources: tencent-ailab/IP-Adapter `ip_adapter/`, diffusers 0.42 `loaders/unet.py` and
//! `models/embeddings.py`. Face ID adapters, whose pictures are read by other encoders, are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;
use tch::{TchError, Tensor};

use super::config::{MidBlock, UnetConfig, UnetLevel};
use super::identity::Identity;
use crate::capacity::SeenTokens;
use crate::diffusion::fields::{LAYERS_MAX, WIDTH_MAX};
use crate::diffusion::kept::Kept;
use crate::diffusion::layers::{LayerNorm, Linear};
use crate::diffusion::loading::Placement;
use crate::diffusion::picture::Picture;
use crate::diffusion::vision::{ImageEncoder, Seen};
use crate::diffusion::weights::safetensors_file::SafetensorsFile;
use crate::diffusion::weights::{Scope, WeightsError};

/// What every tensor's name begins with.
const PARTS: [&str; 2] = ["image_proj.", "ip_adapter."];
/// Bytes of keys and values that are kept of pictures; one picture is always let in. With the Plus of Stable Diffusion XL one
/// takes 5 MB in bfloat16.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Width of a resampler's head, which no file says.
const HEAD_WIDTH: i64 = 64;

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IpAdapterError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("{path} is {kind}, which is not supported: IP-Adapter and IP-Adapter Plus are")]
    Kind { path: PathBuf, kind: &'static str },
    #[error("{path}: {reason}")]
    Shape { path: PathBuf, reason: String },
}

/// A file that was looked at and is loaded for a checkpoint once a recipe asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpAdapterFile {
    path: PathBuf,
    identity: Identity,
    seen: SeenTokens,
}

impl IpAdapterFile {
    /// Whether tensors of these names are such an adapter's.
    pub(super) fn is_in<'n>(mut names: impl Iterator<Item = &'n String>) -> bool {
        names.any(|name| PARTS.iter().any(|part| name.starts_with(part)))
    }

    /// # Errors
    /// When the file cannot be read or is of a kind that is not supported.
    pub fn look_at(path: &Path) -> Result<Self, IpAdapterError> {
        let file = SafetensorsFile::open(path)?;
        let seen = Kind::of(path, &shapes(&file))?.seen();
        Ok(Self { path: path.to_owned(), identity: Identity::of(&file), seen })
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it makes of a picture.
    #[must_use]
    pub const fn seen(&self) -> SeenTokens {
        self.seen
    }

    /// Loads the adapter for a denoising network.
    ///
    /// # Errors
    /// When the file has changed, a tensor is missing, left over or not finite, or it is another network's adapter.
    pub fn load(&self, unet: &UnetConfig, placement: Placement) -> Result<IpAdapter, IpAdapterError> {
        let file = SafetensorsFile::open(&self.path)?;
        if Identity::of(&file) != self.identity {
            let reason = "it is not what it was when the node looked at it".into();
            return Err(IpAdapterError::Shape { path: self.path.clone(), reason });
        }
        let shapes = shapes(&file);
        drop(file);
        let kind = Kind::of(&self.path, &shapes)?;
        let files = [self.path.clone()];
        let mut weights = placement.open(&files, str::to_owned, placement.dtype.kind())?;
        let mut root = Scope::root(&mut weights);
        let attentions = attentions(unet);
        let mut stack = root.at("ip_adapter");
        let layers = attentions.iter().map(|(id, channels)| {
            let names = ["to_k_ip", "to_v_ip"];
            Linear::load_stacked_unbiased(&mut stack.at(id), &names, unet.cross_attention_dim, *channels)
        });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let projection = Projection::load(root.at("image_proj"), kind, unet.cross_attention_dim);
        let projection = projection.map_err(|error| match error {
            LoadError::Weights(error) => error.into(),
            LoadError::Shape(reason) => IpAdapterError::Shape { path: self.path.clone(), reason },
        })?;
        weights.finish()?;
        Ok(IpAdapter { identity: self.identity.clone(), projection, layers, embedded: Kept::new(KEPT_BYTES_MAX) })
    }
}

fn shapes(file: &SafetensorsFile) -> BTreeMap<String, Vec<i64>> {
    file.entries().iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect()
}

/// What a file's image projection reads, with the sizes that no configuration says.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The pooled embedding: its width, and what it becomes.
    Pooled { inputs: i64, outputs: i64 },
    /// The states: their width.
    States { inputs: i64, resampler: ResamplerShape },
}

#[derive(Debug, Clone, Copy)]
struct ResamplerShape {
    queries: i64,
    width: i64,
    layers: i64,
    /// Width of all heads.
    heads_width: i64,
    inner: i64,
}

impl Kind {
    fn seen(self) -> SeenTokens {
        let whole = |count: i64| u64::try_from(count).unwrap_or(0);
        match self {
            Self::Pooled { outputs, .. } => SeenTokens::Values(whole(outputs)),
            Self::States { resampler, .. } => SeenTokens::Tokens(whole(resampler.queries)),
        }
    }

    fn of(path: &Path, shapes: &BTreeMap<String, Vec<i64>>) -> Result<Self, IpAdapterError> {
        let unsupported = |kind| Err(IpAdapterError::Kind { path: path.to_owned(), kind });
        let has = |name: &str| shapes.contains_key(&format!("image_proj.{name}"));
        if has("proj.3.weight") {
            return unsupported("IP-Adapter Full");
        }
        if has("proj.0.weight") {
            return unsupported("IP-Adapter Face ID");
        }
        let shape = |name: &str| -> Result<&[i64], IpAdapterError> {
            let found = shapes.get(&format!("image_proj.{name}")).map(Vec::as_slice);
            let fits = found.is_some_and(|shape| shape.iter().all(|side| (1..=WIDTH_MAX).contains(side)));
            let reason = || format!("tensor `image_proj.{name}` is missing or has no bounded shape");
            found.filter(|_| fits).ok_or_else(|| IpAdapterError::Shape { path: path.to_owned(), reason: reason() })
        };
        let matrix = |name: &str| match *shape(name)? {
            [outputs, inputs] => Ok((outputs, inputs)),
            ref other => {
                let reason = format!("tensor `image_proj.{name}` of shape {other:?} is no matrix");
                Err(IpAdapterError::Shape { path: path.to_owned(), reason })
            }
        };
        if has("proj.weight") {
            let (outputs, inputs) = matrix("proj.weight")?;
            return Ok(Self::Pooled { inputs, outputs });
        }
        let [1, queries, width] = *shape("latents")? else { return unsupported("no IP-Adapter of a known layout") };
        let (_, inputs) = matrix("proj_in.weight")?;
        let (heads_width, _) = matrix("layers.0.0.to_q.weight")?;
        let (inner, _) = matrix("layers.0.1.1.weight")?;
        let layers = (0..LAYERS_MAX).take_while(|layer| has(&format!("layers.{layer}.0.to_q.weight"))).count();
        let layers = i64::try_from(layers).unwrap_or(LAYERS_MAX);
        if heads_width % HEAD_WIDTH != 0 {
            return unsupported("an IP-Adapter Plus whose heads have another width than 64");
        }
        let resampler = ResamplerShape { queries, width, layers, heads_width, inner };
        Ok(Self::States { inputs, resampler })
    }
}

/// The file's number and the width of every attention to a text, in the order in which the network attends. The file counts
/// both attentions of a block, and the middle behind the way up.
fn attentions(unet: &UnetConfig) -> Vec<(usize, i64)> {
    let of = |level: &UnetLevel, layers: i64, has_attention: bool| {
        let count = if has_attention { layers * level.transformer_layers } else { 0 };
        vec![level.channels; usize::try_from(count).unwrap_or(0)]
    };
    let levels = &unet.levels;
    let down: Vec<i64> = levels.iter().flat_map(|level| of(level, level.layers, level.down_has_attention)).collect();
    let up: Vec<i64> =
        levels.iter().rev().flat_map(|level| of(level, level.layers + 1, level.up_has_attention)).collect();
    let middle = match (unet.mid_block, levels.last()) {
        (MidBlock::CrossAttention, Some(level)) => of(level, 1, true),
        _ => Vec::new(),
    };
    let number = |at: usize| 2 * at + 1;
    let (up_at, middle_at) = (down.len(), down.len() + up.len());
    let numbered = |first: usize, widths: Vec<i64>| {
        widths.into_iter().enumerate().map(move |(at, width)| (number(first + at), width))
    };
    numbered(0, down).chain(numbered(middle_at, middle)).chain(numbered(up_at, up)).collect()
}

/// An adapter on its device, for one denoising network.
#[derive(Debug)]
pub struct IpAdapter {
    identity: Identity,
    projection: Projection,
    /// Keys and values of every attention to the text, in the order of the network.
    layers: Vec<Linear>,
    /// What was seen in pictures, by encoder, picture and number of rows.
    embedded: Kept<(Digest, Digest, usize), Vec<Tensor>>,
}

impl IpAdapter {
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The width of what it reads, as an encoder of that kind gives it.
    pub(crate) fn check_encoder(&self, encoder: &ImageEncoder) -> Result<(), String> {
        let config = encoder.config();
        let (wanted, given, what) = match self.projection {
            Projection::Pooled { inputs, .. } => (inputs, config.projection_dim, "embeddings"),
            Projection::States { inputs, .. } => (inputs, config.hidden_size, "states"),
        };
        if wanted == given {
            return Ok(());
        }
        let (adapter, encoder) = (&self.identity.name, encoder.name());
        Err(format!("{adapter} reads {what} of {wanted} values, and the encoder {encoder} gives {given}"))
    }

    /// Keys and values of a picture of this digest, `[rows, tokens, 2c]` each: under guidance those of no picture come first. They
    /// are kept while they are asked for. Each row is computed by itself.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn embed(
        &self,
        encoder: &ImageEncoder,
        (digest, picture): (Digest, &Picture),
        is_guided: bool,
    ) -> Result<Vec<Tensor>, TchError> {
        let key = (encoder.digest(), digest, 1 + usize::from(is_guided));
        self.embedded.get_or(key, || self.embed_anew(encoder, picture, is_guided))
    }

    fn embed_anew(&self, encoder: &ImageEncoder, picture: &Picture, is_guided: bool) -> Result<Vec<Tensor>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut rows = vec![self.projection.forward(&encoder.see(picture)?)?];
        if is_guided {
            rows.insert(0, self.projection.of_nothing(encoder)?);
        }
        let layer = |layer: &Linear| {
            let rows = rows.iter().map(|tokens| layer.forward(tokens)).collect::<Result<Vec<_>, _>>()?;
            Tensor::f_cat(&rows, 0)
        };
        self.layers.iter().map(layer).collect()
    }
}

enum LoadError {
    Weights(WeightsError),
    Shape(String),
}

impl From<WeightsError> for LoadError {
    fn from(error: WeightsError) -> Self {
        Self::Weights(error)
    }
}

/// From what an encoder read to tokens of a text's width.
#[derive(Debug)]
enum Projection {
    Pooled { inputs: i64, proj: Linear, norm: LayerNorm, text_width: i64 },
    States { inputs: i64, resampler: Resampler },
}

/// Of PyTorch's `LayerNorm`.
const NORM_EPS: f64 = 1e-5;

impl Projection {
    fn load(mut scope: Scope<'_>, kind: Kind, text_width: i64) -> Result<Self, LoadError> {
        match kind {
            Kind::Pooled { inputs, outputs } => {
                if outputs % text_width != 0 {
                    let reason =
                        format!("{outputs} values are no tokens of {text_width}, this checkpoint's text width");
                    return Err(LoadError::Shape(reason));
                }
                let proj = Linear::load(scope.at("proj"), inputs, outputs)?;
                let norm = LayerNorm::load(scope.at("norm"), text_width, NORM_EPS)?;
                Ok(Self::Pooled { inputs, proj, norm, text_width })
            }
            Kind::States { inputs, resampler } => {
                let resampler = Resampler::load(scope, inputs, resampler, text_width)?;
                Ok(Self::States { inputs, resampler })
            }
        }
    }

    /// `[1, tokens, text]`
    fn forward(&self, seen: &Seen) -> Result<Tensor, TchError> {
        match self {
            Self::Pooled { .. } => self.of_embedding(&seen.embedding),
            Self::States { resampler, .. } => resampler.forward(&seen.states),
        }
    }

    /// What stands for no picture: an embedding of zeros, or the states of a picture of zeros.
    fn of_nothing(&self, encoder: &ImageEncoder) -> Result<Tensor, TchError> {
        let nothing = encoder.see_nothing()?;
        match self {
            Self::Pooled { .. } => self.of_embedding(&nothing.embedding.f_zeros_like()?),
            Self::States { resampler, .. } => resampler.forward(&nothing.states),
        }
    }

    fn of_embedding(&self, embedding: &Tensor) -> Result<Tensor, TchError> {
        let Self::Pooled { proj, norm, text_width, .. } = self else {
            return Err(TchError::Shape("a resampler reads states".into()));
        };
        norm.forward(&proj.forward(embedding)?.f_view([1, -1, *text_width])?)
    }
}

/// `Resampler` of IP-Adapter Plus: learnt queries that look at the states, layer by layer (after Flamingo's perceiver).
#[derive(Debug)]
struct Resampler {
    latents: Tensor, // [1, queries, width]
    proj_in: Linear, // states -> width
    layers: Vec<ResamplerLayer>,
    proj_out: Linear, // width -> text
    norm_out: LayerNorm,
}

impl Resampler {
    fn load(mut scope: Scope<'_>, inputs: i64, shape: ResamplerShape, text_width: i64) -> Result<Self, WeightsError> {
        let ResamplerShape { queries, width, layers, .. } = shape;
        let latents = scope.take("latents", &[1, queries, width])?;
        let proj_in = Linear::load(scope.at("proj_in"), inputs, width)?;
        let mut stack = scope.at("layers");
        let layers = (0..layers).map(|at| ResamplerLayer::load(stack.at(at), shape)).collect::<Result<_, _>>()?;
        let proj_out = Linear::load(scope.at("proj_out"), width, text_width)?;
        let norm_out = LayerNorm::load(scope.at("norm_out"), text_width, NORM_EPS)?;
        Ok(Self { latents, proj_in, layers, proj_out, norm_out })
    }

    fn forward(&self, states: &Tensor) -> Result<Tensor, TchError> {
        let states = self.proj_in.forward(states)?; // [1, t, width]
        let mut latents = self.latents.shallow_clone();
        for layer in &self.layers {
            latents = layer.forward(&states, &latents)?;
        }
        self.norm_out.forward(&self.proj_out.forward(&latents)?) // [1, queries, text]
    }
}

/// `PerceiverAttention` and `FeedForward`.
#[derive(Debug)]
struct ResamplerLayer {
    norm_states: LayerNorm,
    norm_latents: LayerNorm,
    query: Linear,     // width -> heads
    key_value: Linear, // width -> 2 heads
    out: Linear,       // heads -> width
    norm_inner: LayerNorm,
    wide: Linear,   // width -> inner
    narrow: Linear, // inner -> width
    heads: i64,
}

impl ResamplerLayer {
    fn load(mut scope: Scope<'_>, shape: ResamplerShape) -> Result<Self, WeightsError> {
        let ResamplerShape { width, heads_width, inner, .. } = shape;
        let mut attention = scope.at(0);
        let norm_states = LayerNorm::load(attention.at("norm1"), width, NORM_EPS)?;
        let norm_latents = LayerNorm::load(attention.at("norm2"), width, NORM_EPS)?;
        let query = Linear::load_unbiased(attention.at("to_q"), width, heads_width)?;
        let key_value = Linear::load_unbiased(attention.at("to_kv"), width, 2 * heads_width)?;
        let out = Linear::load_unbiased(attention.at("to_out"), heads_width, width)?;
        let mut forward = scope.at(1);
        let norm_inner = LayerNorm::load(forward.at(0), width, NORM_EPS)?;
        let wide = Linear::load_unbiased(forward.at(1), width, inner)?;
        let narrow = Linear::load_unbiased(forward.at(3), inner, width)?;
        let heads = heads_width / HEAD_WIDTH;
        Ok(Self { norm_states, norm_latents, query, key_value, out, norm_inner, wide, narrow, heads })
    }

    fn forward(&self, states: &Tensor, latents: &Tensor) -> Result<Tensor, TchError> {
        let normed = self.norm_latents.forward(latents)?;
        let seen = Tensor::f_cat(&[&self.norm_states.forward(states)?, &normed], 1)?;
        let heads = |x: &Tensor| -> Result<Tensor, TchError> {
            let (n, tokens, _) = x.size3()?;
            x.f_reshape([n, tokens, self.heads, HEAD_WIDTH])?.f_transpose(1, 2)
        };
        let pair = self.key_value.forward(&seen)?.f_chunk(2, -1)?;
        let [key, value] = pair.as_slice() else { return Err(TchError::Shape("no keys and values".into())) };
        let (query, key, value) = (heads(&self.query.forward(&normed)?)?, heads(key)?, heads(value)?);
        let none = None::<&Tensor>;
        let found = Tensor::f_scaled_dot_product_attention(&query, &key, &value, none, 0.0, false, None, false)?;
        let x = self.out.forward(&found.f_transpose(1, 2)?.f_flatten(2, 3)?)?.f_add(latents)?;
        let inner = self.wide.forward(&self.norm_inner.forward(&x)?)?.f_gelu("none")?;
        self.narrow.forward(&inner)?.f_add(&x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> UnetConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/real").join(name).join("unet/config.json");
        let json = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
        UnetConfig::from_json(&json).expect("a configuration")
    }

    /// The numbers of tencent-ailab's files: Stable Diffusion 1.5 has 16 attentions to the text, XL has 70.
    #[test]
    fn attentions_are_numbered_as_in_the_authors_files() {
        let sd1 = attentions(&config("sd15"));
        assert_eq!((sd1.len(), sd1[0], sd1[6], sd1[7]), (16, (1, 320), (31, 1280), (13, 1280)));
        let xl = attentions(&config("sdxl-base"));
        assert_eq!((xl.len(), xl[0], xl.last().copied()), (70, (1, 640), Some((119, 640))));
    }
}
