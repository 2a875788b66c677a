//! Words that text encoders learn without being trained (textual inversion, Gal et al. 2022): files of vectors that stand in
//! the place of a token's row.
//!
//! A file has one vector or several for each text encoder. Layouts: diffusers' own, one tensor under any name (the token it was
//! trained with; recipes name their own); AUTOMATIC1111's, `emb_params`, or `string_to_param` where it was converted to
//! safetensors; and Stable Diffusion XL's, `clip_l` for the first encoder and `clip_g` for the second. Invariants: a loaded
//! file's vectors are finite and bounded; an encoder gets all vectors or the file is refused by name. Source: diffusers 0.42,
//! `loaders/textual_inversion.py`.

use std::path::{Path, PathBuf};

use tch::{TchError, Tensor};

use super::adapters::{Network, Values};
use super::identity::Identity;
use crate::diffusion::text::TextEncoder;
use crate::diffusion::text::tokenizer::TokenizerError;
use crate::diffusion::weights::WeightsError;
use crate::diffusion::weights::safetensors_file::SafetensorsFile;

/// Most vectors of one word: a chunk of CLIP's has 75 places.
const VECTORS_MAX: i64 = 75;
/// Widest text encoder.
const WIDTH_MAX: i64 = 65_536;
/// Names of tensors, and the encoder whose vectors they are. A single tensor is the only encoder's, whatever its name.
const XL_NAMES: [(&str, Network); 2] = [("clip_l", Network::TextEncoder), ("clip_g", Network::TextEncoder2)];

/// Why words cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InversionError {
    #[error(transparent)]
    File(#[from] WeightsError),
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Tensor { path: PathBuf, tensor: String, reason: String },
    #[error("{path} has {count} tensors: words have one, or `clip_l` and `clip_g`")]
    Layout { path: PathBuf, count: usize },
    #[error("the word `{token}` of {file}: {reason}")]
    Unfit { token: String, file: String, reason: String },
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}

/// A file of vectors.
#[derive(Debug)]
pub struct Inversion {
    identity: Identity,
    /// `[n, width]` each.
    vectors: Vec<(Network, Values)>,
}

/// A file and the word that stands for it.
pub type Word = (std::sync::Arc<Inversion>, String);

impl Inversion {
    /// Whether tensors of these names are words: one alone, or those of Stable Diffusion XL.
    pub(super) fn is_in<'n>(mut names: impl ExactSizeIterator<Item = &'n String>) -> bool {
        names.len() == 1 || names.any(|name| XL_NAMES.iter().any(|(known, _)| known == name))
    }

    /// Reads a safetensors file.
    ///
    /// # Errors
    /// When it cannot be read, has another layout, or holds values that are not finite.
    pub fn load(path: &Path) -> Result<Self, InversionError> {
        let file = SafetensorsFile::open(path)?;
        let count = file.entries().len();
        let mut vectors = Vec::new();
        for (name, entry) in file.entries() {
            let of_xl = XL_NAMES.iter().find(|(known, _)| known == name).map(|(_, network)| *network);
            let network = if count == 1 { Some(of_xl.unwrap_or(Network::TextEncoder)) } else { of_xl };
            let layout = || InversionError::Layout { path: path.to_owned(), count };
            let refused = |reason: String| InversionError::Tensor {
                path: path.to_owned(),
                tensor: name.chars().take(200).collect(),
                reason,
            };
            let tensor = file.tensor(name, entry)?;
            vectors.push((network.ok_or_else(layout)?, rows(&tensor).map_err(refused)?));
        }
        if vectors.windows(2).any(|pair| pair[0].1.shape[0] != pair[1].1.shape[0]) {
            let reason = "the two encoders have different numbers of vectors".into();
            return Err(InversionError::Tensor { path: path.to_owned(), tensor: XL_NAMES[0].0.into(), reason });
        }
        Ok(Self { identity: Identity::of(&file), vectors })
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The vectors for one of a checkpoint's encoders, `[n, width]`.
    fn of(&self, network: Network) -> Option<&Values> {
        self.vectors.iter().find(|(known, _)| *known == network).map(|(_, values)| values)
    }

    fn needed(&self, network: Network, token: &str) -> Result<&Values, InversionError> {
        let reason = "it has vectors for one text encoder, and this checkpoint has another";
        self.of(network).ok_or_else(|| unfit(self, token, reason))
    }
}

/// Finite rows of bounded number and width.
fn rows(tensor: &Tensor) -> Result<Values, String> {
    let size = tensor.size();
    let shape = match *size.as_slice() {
        [width] => [1, width],
        [count, width] => [count, width],
        ref shape => return Err(format!("{shape:?} is no list of vectors")),
    };
    if !(1..=VECTORS_MAX).contains(&shape[0]) || !(1..=WIDTH_MAX).contains(&shape[1]) {
        return Err(format!("{shape:?} is not 1 to {VECTORS_MAX} vectors of 1 to {WIDTH_MAX} values"));
    }
    let values = tensor.f_view(shape).and_then(|rows| Values::read(&rows)).map_err(|error| error.to_string())?;
    values.ok_or_else(|| "it holds NaN or infinity".to_owned())
}

/// Whether a checkpoint with these encoders can learn the words.
///
/// # Errors
/// When a file lacks vectors for an encoder, or has some for a second one that is not there. A refiner has the second one alone.
pub(super) fn check(words: &[Word], encoders: &[Network]) -> Result<(), InversionError> {
    for (file, token) in words {
        if !encoders.contains(&Network::TextEncoder2) && file.of(Network::TextEncoder2).is_some() {
            return Err(unfit(file, token, "it has vectors for a second text encoder, and this checkpoint has none"));
        }
        encoders.iter().try_for_each(|network| file.needed(*network, token).map(drop))?;
    }
    Ok(())
}

/// An encoder that knows the words, beside all that it knows.
///
/// # Errors
/// When a file has no vectors for it, or of another width, or the tokenizer has the word already.
pub(super) fn taught(encoder: TextEncoder, words: &[Word], network: Network) -> Result<TextEncoder, InversionError> {
    if words.is_empty() {
        return Ok(encoder);
    }
    let TextEncoder { tokenizer, model } = encoder;
    let (mut learnt, mut rows) = (Vec::new(), Vec::new());
    for (file, token) in words {
        let values = file.needed(network, token)?;
        let [count, width] = [values.shape[0], values.shape[1]];
        if width != model.width() {
            let reason = format!("its vectors have {width} values, this checkpoint's text encoder {}", model.width());
            return Err(unfit(file, token, &reason));
        }
        learnt.push((token.as_str(), count));
        rows.push(values.tensor(&values.shape)?);
    }
    let tokenizer = tokenizer.with_words(&learnt, model.vocabulary()).map_err(|error| match error {
        TokenizerError::KnownToken { token } => {
            let file = words.iter().find(|(_, known)| *known == token);
            let file = file.map_or_else(String::new, |(file, _)| file.identity.name.clone());
            InversionError::Unfit { file, token, reason: "it is a word of CLIP's already".into() }
        }
        error => InversionError::Unfit { file: String::new(), token: String::new(), reason: error.to_string() },
    })?;
    let rows = Tensor::f_cat(&rows, 0)?;
    Ok(TextEncoder { tokenizer: std::sync::Arc::new(tokenizer), model: model.with_rows(&rows)? })
}

fn unfit(file: &Inversion, token: &str, reason: &str) -> InversionError {
    InversionError::Unfit { token: token.to_owned(), file: file.identity.name.clone(), reason: reason.to_owned() }
}
