//! From a prompt to its embedding: one tokenizer and encoder, or the two of Stable Diffusion XL.
//!
//! Owns which hidden state is used, how two encoders' states stand side by side, and what becomes of prompts with more tokens
//! than there are places. Invariant: a prompt's embedding depends on the prompt, the number of chunks and the checkpoint alone:
//! every prompt is encoded by itself, and once while it is asked for again. Source: `encode_prompt` of diffusers 0.42's
//! pipelines; diffusers cuts long prompts, so chunks follow the community pipelines (`lpw_stable_diffusion_xl`): each is a
//! prompt of its own with its own beginning and end, states follow each other, the pooled text is the first chunk's. What
//! weights do is in [`weighted`].

pub mod clip;
pub mod config;
pub mod tokenizer;
mod weighted;

use std::cell::RefCell;
use std::sync::Arc;

use bildkante_shared::recipe::LongPrompt;
use bildkante_shared::weighting::{Fragment, Weighting};
use tch::{TchError, Tensor};

use self::weighted::Taking;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::kept::Tally;
use crate::diffusion::text::clip::{ClipTextModel, HiddenLayer};
use crate::diffusion::text::tokenizer::{ClipTokenizer, TokenizerError};

/// A prompt and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub weighting: Weighting,
    /// Layers at the end of the encoders that are left out, beside those that the family leaves out.
    pub clip_skip: u32,
}

impl From<&str> for Prompt {
    /// Without weights, and with all layers.
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), weighting: Weighting::Plain, clip_skip: 0 }
    }
}

impl Prompt {
    fn fragments(&self) -> Result<Vec<Fragment>, DiffusionError> {
        self.weighting.fragments(&self.text).map_err(|error| DiffusionError::input(error.to_string()))
    }
}

/// The states of a text, as its encoders compute them.
#[derive(Debug)]
pub struct PromptEmbedding {
    /// `[1, tokens, width]`
    pub hidden: Tensor,
    /// `[1, width]`, of Stable Diffusion XL.
    pub pooled: Option<Tensor>,
}

impl PromptEmbedding {
    /// The same tensors, shared.
    pub(crate) fn shallow_clone(&self) -> Self {
        Self { hidden: self.hidden.shallow_clone(), pooled: self.pooled.as_ref().map(Tensor::shallow_clone) }
    }

    pub(crate) fn zeros_like(&self) -> Result<Self, TchError> {
        let pooled = self.pooled.as_ref().map(Tensor::f_zeros_like).transpose()?;
        Ok(Self { hidden: self.hidden.f_zeros_like()?, pooled })
    }
}

/// A tokenizer and the encoder that reads it.
#[derive(Debug)]
pub struct TextEncoder {
    pub(crate) tokenizer: Arc<ClipTokenizer>,
    pub(crate) model: ClipTextModel,
}

/// Embeddings that are kept for the next request with the same prompt: campaigns vary a word and repeat the rest, above
/// all the negative prompt. An embedding of Stable Diffusion XL has 0.6 MB in float32.
const KEPT_MAX: usize = 64;

/// A prompt in chunks, and its embedding.
type EncodedPrompt = ((Prompt, usize), PromptEmbedding);

/// Everything between a prompt and its embedding.
#[derive(Debug)]
pub struct TextEncoders {
    /// The last one used comes last.
    kept: RefCell<Vec<EncodedPrompt>>,
    /// In the order in which their states stand side by side; the last one's pooled text is used.
    encoders: Vec<TextEncoder>,
    layer: HiddenLayer,
    encoded: Tally,
}

impl TextEncoders {
    pub(crate) const fn new(encoders: Vec<TextEncoder>, layer: HiddenLayer) -> Self {
        Self { kept: RefCell::new(Vec::new()), encoders, layer, encoded: Tally::new() }
    }

    pub(crate) const fn layer(&self) -> HiddenLayer {
        self.layer
    }

    /// Gives back the memory of kept embeddings.
    pub(crate) fn forget(&self) {
        self.kept.borrow_mut().clear();
    }

    /// How many texts were encoded, and not found among those that are kept, since this was last asked.
    pub(crate) fn take_encoded(&self) -> u64 {
        self.encoded.take()
    }

    /// The tokenizer of the first encoder.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&ClipTokenizer> {
        self.encoders.first().map(|encoder| &*encoder.tokenizer)
    }

    /// Chunks in which the longest of the prompts fits.
    ///
    /// # Errors
    /// When a tokenizer fails.
    pub fn chunks(&self, prompts: &[&Prompt], long: LongPrompt) -> Result<usize, DiffusionError> {
        if long == LongPrompt::Cut {
            return Ok(1);
        }
        let mut chunks = 1;
        for prompt in prompts {
            let fragments = prompt.fragments()?;
            for encoder in &self.encoders {
                chunks = chunks.max(encoder.tokenizer.chunks(&fragments).map_err(refused)?);
            }
        }
        Ok(chunks)
    }

    /// The embedding of a prompt in `chunks` chunks; what does not fit is cut, what is left over is empty.
    ///
    /// # Errors
    /// When a tokenizer or libtorch fails, or more layers are left out than an encoder has.
    pub fn encode(&self, prompt: impl Into<Prompt>, chunks: usize) -> Result<PromptEmbedding, DiffusionError> {
        let mut kept = self.kept.borrow_mut();
        let key = (prompt.into(), chunks);
        if let Some(at) = kept.iter().position(|(known, _)| *known == key) {
            let found = kept.remove(at);
            let embedding = found.1.shallow_clone();
            kept.push(found);
            return Ok(embedding);
        }
        let embedding = self.encode_anew(&key.0, chunks)?;
        self.encoded.count();
        if kept.len() >= KEPT_MAX {
            let _oldest = kept.remove(0);
        }
        kept.push((key, embedding.shallow_clone()));
        Ok(embedding)
    }

    fn encode_anew(&self, prompt: &Prompt, chunks: usize) -> Result<PromptEmbedding, DiffusionError> {
        let _no_grad = tch::no_grad_guard();
        let fragments = prompt.fragments()?;
        let skip = usize::try_from(prompt.clip_skip).unwrap_or(usize::MAX);
        let (mut states, mut pooled) = (Vec::new(), None);
        for TextEncoder { tokenizer, model } in &self.encoders {
            let most = model.skip_max(self.layer);
            if skip > most {
                return Err(DiffusionError::input(format!(
                    "`clip_skip` is {skip}, this checkpoint's text allows {most}"
                )));
            }
            let chunks = tokenizer.encode_chunks(&fragments, chunks).map_err(refused)?;
            // Checked at load as well: on a GPU, reading a row that is not there loses the device.
            let rows = model.vocabulary();
            if let Some(id) = chunks.iter().flat_map(|chunk| &chunk.ids).find(|id| !(0..rows).contains(*id)) {
                return Err(DiffusionError::input(format!("the prompt has token {id}, the text encoder {rows} rows")));
            }
            let empty = tokenizer.encode_chunks(&[], 1).map_err(refused)?;
            let empty = empty.first().ok_or_else(|| DiffusionError::input("no empty prompt"))?;
            let taking = Taking { model, layer: self.layer, skip };
            let encoded = taking.weighted(&chunks, &fragments, empty)?;
            states.push(encoded.hidden.f_flatten(0, 1)?.f_unsqueeze(0)?); // [1, chunks · t, width]
            pooled = encoded.pooled.map(|pooled| pooled.f_narrow(0, 0, 1)).transpose()?;
        }
        Ok(PromptEmbedding { hidden: side_by_side(states)?, pooled })
    }
}

/// Along the last dimension.
fn side_by_side(mut states: Vec<Tensor>) -> Result<Tensor, TchError> {
    match states.len() {
        1 => Ok(states.remove(0)),
        _ => Tensor::f_cat(&states, -1),
    }
}

fn refused(error: TokenizerError) -> DiffusionError {
    DiffusionError::input(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::Device;

    use crate::diffusion::dtype::DType;
    use crate::diffusion::sd::checkpoint::Checkpoint;

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("readable") {
            let entry = entry.expect("readable");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
        }
    }

    #[test]
    fn a_token_without_a_row_in_the_encoder_is_refused_and_never_looked_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("sd1-tiny");
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny"), &folder);
        Checkpoint::load(&folder, Device::Cpu, DType::F32).expect("it is whole");
        let path = folder.join("tokenizer/tokenizer_config.json");
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config["added_tokens_decoder"] = serde_json::json!({ "900000": { "content": "<teal-mug>", "special": false } });
        std::fs::write(&path, config.to_string()).expect("written");
        let refused = Checkpoint::load(&folder, Device::Cpu, DType::F32).map_err(|error| error.to_string());
        let refused =
            refused.and_then(|loaded| loaded.text().encode("a <teal-mug>", 1).map_err(|error| error.to_string()));
        let reason = refused.expect_err("it has a token more than the encoder has rows");
        assert!(reason.contains("ids up to") || reason.contains("rows"), "{reason}");
    }
}
