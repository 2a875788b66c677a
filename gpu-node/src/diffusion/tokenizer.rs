//! CLIP's tokenizer: text to the token ids its encoder was trained on
//! (source: transformers 5, `models/clip/tokenization_clip.py` and `tokenization_utils_base.py`).
//!
//! Byte-level BPE over NFC-normalised, whitespace-collapsed, lower-cased text, between a beginning and an end
//! token, cut and padded to one length. It is built from the vocabulary and merges alone, whichever file holds
//! them: what else a `tokenizer.json` says cannot change how a CLIP prompt is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::config::{JsonFileError, read_json, read_text};

/// Largest vocabulary or merges file; CLIP's are 1.0 and 0.5 MiB, its `tokenizer.json` 3.6 MiB.
const VOCABULARY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Largest of the small configuration files.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// How CLIP takes words apart before BPE.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const END_OF_WORD: &str = "</w>";
const BEGIN_TOKEN: &str = "<|startoftext|>";
const END_TOKEN: &str = "<|endoftext|>";

/// Why a tokenizer cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    File(#[from] JsonFileError),
    #[error("{folder} holds neither vocab.json and merges.txt nor tokenizer.json")]
    NoVocabulary { folder: PathBuf },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("token `{token}` is {role}, but the vocabulary does not have it")]
    UnknownToken { token: String, role: &'static str },
    #[error("the tokenizer of {folder} cannot be built: {reason}")]
    Build { folder: PathBuf, reason: String },
    #[error("the prompt cannot be tokenized: {reason}")]
    Encode { reason: String },
}

/// A CLIP tokenizer that gives every prompt the same number of tokens.
#[derive(Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    padding: u32,
    tokens: usize,
    ids: u32,
}

impl ClipTokenizer {
    /// Reads the tokenizer of a checkpoint's `tokenizer` folder. Prompts get its `model_max_length` tokens, at most
    /// `positions_max`.
    ///
    /// # Errors
    /// When a file is missing, too large or malformed.
    pub fn load(folder: &Path, positions_max: usize) -> Result<Self, TokenizerError> {
        let (vocabulary, merges) = read_vocabulary(folder)?;
        let special = SpecialTokens::read(folder)?;
        let build_error =
            |error: tokenizers::Error| TokenizerError::Build { folder: folder.to_owned(), reason: error.to_string() };
        let id = |role, token: &AddedToken| {
            let unknown = || TokenizerError::UnknownToken { token: token.content.clone(), role };
            vocabulary.get(&token.content).copied().ok_or_else(unknown)
        };
        let (begin, end) = (id("the beginning", &special.begin)?, id("the end", &special.end)?);
        let padding = id("the padding", &special.padding)?;
        id("the unknown token", &special.unknown)?;
        let ids = vocabulary.values().max().map_or(0, |id| id.saturating_add(1));
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
            .unk_token(special.unknown.content.clone())
            .end_of_word_suffix(END_OF_WORD.into())
            .build()
            .map_err(build_error)?;
        let mut tokenizer = Tokenizer::new(model);
        let collapse = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(build_error)?;
        tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), collapse.into(), Lowercase.into()])));
        let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true);
        let words = words.map_err(build_error)?;
        let bytes = ByteLevel::new(false, true, true);
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
        let tokens = special.length.min(positions_max);
        if tokens < 3 {
            let reason = format!("{tokens} tokens leave no room for a prompt");
            return Err(TokenizerError::Build { folder: folder.to_owned(), reason });
        }
        tokenizer.add_special_tokens(&special.into_tokens());
        Ok(Self { tokenizer, begin, end, padding, tokens, ids })
    }

    /// Tokens of every encoded prompt.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// One more than the largest token id.
    #[must_use]
    pub const fn ids(&self) -> u32 {
        self.ids
    }

    /// The beginning, the prompt cut to fit, the end, and padding: [`Self::tokens`] ids.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, prompt: &str) -> Result<Vec<i64>, TokenizerError> {
        Ok(self.encode_chunks(prompt, 1)?.concat())
    }

    /// Texts of [`Self::tokens`] ids in which the whole prompt fits, at least one.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn chunks(&self, prompt: &str) -> Result<usize, TokenizerError> {
        Ok(self.ids_of(prompt)?.len().div_ceil(self.tokens - 2).max(1))
    }

    /// The prompt over `chunks` texts of [`Self::tokens`] ids, each with its beginning and end. What does not fit is
    /// cut; texts nothing is left for are empty.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_chunks(&self, prompt: &str, chunks: usize) -> Result<Vec<Vec<i64>>, TokenizerError> {
        let prompt = self.ids_of(prompt)?;
        let mut parts = prompt.chunks(self.tokens - 2);
        let text = |part: &[u32]| {
            let mut ids: Vec<i64> = std::iter::once(&self.begin).chain(part).map(|id| i64::from(*id)).collect();
            ids.push(self.end.into());
            ids.resize(self.tokens, self.padding.into());
            ids
        };
        Ok((0..chunks).map(|_| text(parts.next().unwrap_or_default())).collect())
    }

    /// The prompt's own ids, without beginning and end.
    fn ids_of(&self, prompt: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.tokenizer.encode_fast(prompt, false);
        let encoding = encoding.map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}

type Vocabulary = BTreeMap<String, u32>;
type Merges = Vec<(String, String)>;

fn read_vocabulary(folder: &Path) -> Result<(Vocabulary, Merges), TokenizerError> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if vocabulary.is_file() && merges.is_file() {
        let text = read_text(&merges, VOCABULARY_BYTES_MAX)?;
        let text = String::from_utf8(text).map_err(|error| malformed(&merges, &error))?;
        let json = read_json(&vocabulary, VOCABULARY_BYTES_MAX)?;
        let vocabulary = serde_json::from_value(json).map_err(|error| malformed(&vocabulary, &error))?;
        // Lines of `#` are a version, as the `tokenizers` crate reads them.
        let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
        let pairs = lines.map(|line| pair(line).ok_or_else(|| malformed(&merges, &no_pair(line))));
        return Ok((vocabulary, pairs.collect::<Result<_, _>>()?));
    }
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Err(TokenizerError::NoVocabulary { folder: folder.to_owned() });
    }
    read_tokenizer_json(&path)
}

/// The model of a `tokenizer.json`, as far as CLIP needs it.
#[derive(Deserialize)]
struct SerializedModel {
    r#type: Option<String>,
    vocab: Vocabulary,
    merges: Vec<SerializedMerge>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SerializedMerge {
    Pair(String, String),
    Line(String),
}

fn read_tokenizer_json(path: &Path) -> Result<(Vocabulary, Merges), TokenizerError> {
    let mut json = read_json(path, VOCABULARY_BYTES_MAX)?;
    let model = json.get_mut("model").map(Value::take).unwrap_or_default();
    let model: SerializedModel = serde_json::from_value(model).map_err(|error| malformed(path, &error))?;
    if model.r#type.is_some_and(|name| name != "BPE") || model.end_of_word_suffix.as_deref() != Some(END_OF_WORD) {
        return Err(malformed(path, &"it holds no BPE model with the suffix `</w>`, so it is not CLIP's"));
    }
    let merges = model.merges.into_iter().map(|merge| match merge {
        SerializedMerge::Pair(left, right) => Ok((left, right)),
        SerializedMerge::Line(line) => pair(&line).ok_or_else(|| malformed(path, &no_pair(&line))),
    });
    Ok((model.vocab, merges.collect::<Result<_, _>>()?))
}

fn pair(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then(|| (left.to_owned(), right.to_owned()))
}

fn no_pair(line: &str) -> String {
    format!("`{}` is no pair of tokens", line.chars().take(40).collect::<String>().escape_debug())
}

fn malformed(path: &Path, reason: &dyn std::fmt::Display) -> TokenizerError {
    TokenizerError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}

/// The named tokens, any others a prompt may spell out, and the length of a prompt.
struct SpecialTokens {
    begin: AddedToken,
    end: AddedToken,
    unknown: AddedToken,
    padding: AddedToken,
    others: Vec<AddedToken>,
    length: usize,
}

/// A token as configurations write it: its text, or its text with how it is to be found in a prompt.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum SerializedToken {
    Text(String),
    Described {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        normalized: bool,
    },
}

/// `tokenizer_config.json` and `special_tokens_map.json`, as far as CLIP needs them.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<SerializedToken>,
    eos_token: Option<SerializedToken>,
    unk_token: Option<SerializedToken>,
    pad_token: Option<SerializedToken>,
    model_max_length: Option<serde_json::Number>,
    added_tokens_decoder: Option<BTreeMap<String, SerializedToken>>,
}

impl SpecialTokens {
    fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let mut config = read_config(&folder.join("tokenizer_config.json"))?;
        // The map is the older of two places and, where the newer one is not used, the one that counts.
        if config.added_tokens_decoder.is_none() {
            let map = read_config(&folder.join("special_tokens_map.json"))?;
            config.bos_token = map.bos_token.or(config.bos_token);
            config.eos_token = map.eos_token.or(config.eos_token);
            config.unk_token = map.unk_token.or(config.unk_token);
            config.pad_token = map.pad_token.or(config.pad_token);
        }
        let others: Vec<AddedToken> =
            config.added_tokens_decoder.unwrap_or_default().into_values().map(SerializedToken::into_added).collect();
        let named = |token: Option<SerializedToken>, default: &str| {
            let token = token.unwrap_or_else(|| SerializedToken::Text(default.into())).into_added();
            others.iter().find(|other| other.content == token.content).cloned().unwrap_or(token)
        };
        Ok(Self {
            begin: named(config.bos_token, BEGIN_TOKEN),
            end: named(config.eos_token, END_TOKEN),
            unknown: named(config.unk_token, END_TOKEN),
            padding: named(config.pad_token, END_TOKEN),
            // Unset lengths are written as the float 1e30.
            length: config.model_max_length.and_then(|n| n.as_u64()).map_or(usize::MAX, |n| n as usize),
            others,
        })
    }

    fn into_tokens(self) -> Vec<AddedToken> {
        let mut tokens = self.others;
        for token in [self.begin, self.end, self.unknown, self.padding] {
            if !tokens.iter().any(|other| other.content == token.content) {
                tokens.push(token);
            }
        }
        tokens
    }
}

impl SerializedToken {
    fn into_added(self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::from(content, true),
            Self::Described { content, single_word, lstrip, rstrip, normalized } => AddedToken::from(content, true)
                .single_word(single_word)
                .lstrip(lstrip)
                .rstrip(rstrip)
                .normalized(normalized),
        }
    }
}

/// An absent file configures nothing.
fn read_config(path: &Path) -> Result<TokenizerConfig, TokenizerError> {
    if !path.is_file() {
        return Ok(TokenizerConfig::default());
    }
    serde_json::from_value(read_json(path, CONFIG_BYTES_MAX)?).map_err(|error| malformed(path, &error))
}
