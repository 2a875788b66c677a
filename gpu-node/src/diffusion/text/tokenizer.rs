//! CLIP's tokenizer: text to the token ids its encoder was trained on
//! (source: transformers 5, `models/clip/tokenization_clip.py` and `tokenization_utils_base.py`).
//!
//! Byte-level BPE over NFC-normalised, whitespace-collapsed, lower-cased text, between a beginning and an end
//! token, cut and padded to one length. It is built from the vocabulary and merges, whichever file holds them, and the tokens
//! that were added to them, wherever they are written down ([`added`]); `CLIPTokenizer` builds everything else itself, so what
//! else a `tokenizer.json` says of it changes nothing.

mod added;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bildkante_shared::weighting::Fragment;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use self::added::SpecialTokens;
use crate::diffusion::fields::{Fields, JsonFileError, WithoutEffect, read_json, read_text};

/// Largest vocabulary or merges file; CLIP's are 1.0 and 0.5 MiB, its `tokenizer.json` 3.6 MiB.
const VOCABULARY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How CLIP takes words apart before BPE.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const END_OF_WORD: &str = "</w>";
/// What else stands in a `tokenizer.json`.
const WITHOUT_EFFECT: WithoutEffect<'static> =
    &[("CLIPTokenizer builds these itself", &["decoder", "normalizer", "post_processor", "pre_tokenizer", "version"])];
const MODEL_WITHOUT_EFFECT: WithoutEffect<'static> = &[(
    "CLIPTokenizer chooses these itself",
    &[
        "byte_fallback",
        "continuing_subword_prefix",
        "dropout",
        "end_of_word_suffix",
        "fuse_unk",
        "ignore_merges",
        "unk_token",
    ],
)];

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
    #[error("`{token}` is a token already")]
    KnownToken { token: String },
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
    /// Words that stand for several ids, by the id that the tokenizer has for each.
    words: HashMap<u32, Range<i64>>,
}

impl ClipTokenizer {
    /// Reads the tokenizer of a checkpoint's `tokenizer` folder. Prompts get its `model_max_length` tokens, at most
    /// `positions_max`.
    ///
    /// # Errors
    /// When a file is missing, too large or malformed.
    pub fn load(folder: &Path, positions_max: usize) -> Result<Self, TokenizerError> {
        let json = folder.join("tokenizer.json");
        let serialized = if json.is_file() { Some(Serialized::read(&json)?) } else { None };
        let special = SpecialTokens::read(folder, serialized.as_ref().map_or(&Value::Null, |file| &file.added_tokens))?;
        let (vocabulary, merges) = match serialized {
            Some(file) => (file.vocabulary, file.merges),
            None => read_vocabulary(folder)?,
        };
        let build_error =
            |error: tokenizers::Error| TokenizerError::Build { folder: folder.to_owned(), reason: error.to_string() };
        let unknown = |role, token: &AddedToken| TokenizerError::UnknownToken { token: token.content.clone(), role };
        if !vocabulary.contains_key(&special.unknown.content) {
            return Err(unknown("the unknown token", &special.unknown));
        }
        let largest = vocabulary.values().max().copied();
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
        tokenizer.add_tokens(&special.tokens);
        let id = |role, token: &AddedToken| tokenizer.token_to_id(&token.content).ok_or_else(|| unknown(role, token));
        let (begin, end) = (id("the beginning", &special.begin)?, id("the end", &special.end)?);
        let padding = id("the padding", &special.padding)?;
        // A token that was added may lie beyond the vocabulary, and no token may lie beyond the encoder.
        let added = special.tokens.iter().filter_map(|token| tokenizer.token_to_id(&token.content));
        let ids = added.chain(largest).max().map_or(0, |id| id.saturating_add(1));
        Ok(Self { tokenizer, begin, end, padding, tokens, ids, words: HashMap::new() })
    }

    /// The same with words, each of which is read as so many ids of its own, from `first` on.
    ///
    /// # Errors
    /// When a word is a token already.
    pub(crate) fn with_words(&self, words: &[(&str, i64)], first: i64) -> Result<Self, TokenizerError> {
        let (mut tokenizer, mut ids, mut next) = (self.tokenizer.clone(), self.words.clone(), first);
        for (word, count) in words {
            let known = || TokenizerError::KnownToken { token: (*word).to_owned() };
            if tokenizer.token_to_id(word).is_some() || tokenizer.token_to_id(&format!("{word}{END_OF_WORD}")).is_some()
            {
                return Err(known());
            }
            tokenizer.add_tokens(&[AddedToken::from(*word, false)]);
            ids.insert(tokenizer.token_to_id(word).ok_or_else(known)?, next..next + count);
            next += count;
        }
        Ok(Self { tokenizer, words: ids, ..*self })
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
        let whole = [Fragment { text: prompt.to_owned(), weight: 1.0 }];
        Ok(self.encode_chunks(&whole, 1)?.into_iter().flat_map(|chunk| chunk.ids).collect())
    }

    /// Texts of [`Self::tokens`] ids in which the whole prompt fits, at least one.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn chunks(&self, fragments: &[Fragment]) -> Result<usize, TokenizerError> {
        let mut ids = 0;
        for fragment in fragments {
            ids += self.ids_of(&fragment.text)?.len();
        }
        Ok(ids.div_ceil(self.tokens - 2).max(1))
    }

    /// The prompt over `chunks` texts of [`Self::tokens`] ids, each with its beginning and end. What does not fit is
    /// cut; texts nothing is left for are empty. Each fragment is read by itself: its end is the end of a word.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_chunks(&self, fragments: &[Fragment], chunks: usize) -> Result<Vec<Chunk>, TokenizerError> {
        let mut prompt: Vec<(i64, Option<usize>)> = Vec::new();
        for (part, fragment) in fragments.iter().enumerate() {
            prompt.extend(self.ids_of(&fragment.text)?.into_iter().map(|id| (id, Some(part))));
        }
        let mut rest = prompt.chunks(self.tokens - 2);
        let mut text = || {
            let part = rest.next().unwrap_or_default().iter().copied();
            let bounded = std::iter::once((self.begin.into(), None)).chain(part).chain([(self.end.into(), None)]);
            let padding = std::iter::repeat((i64::from(self.padding), None));
            let (ids, parts) = bounded.chain(padding).take(self.tokens).unzip();
            Chunk { ids, parts }
        };
        Ok((0..chunks).map(|_| text()).collect())
    }

    /// The prompt's own ids, without beginning and end.
    fn ids_of(&self, prompt: &str) -> Result<Vec<i64>, TokenizerError> {
        let encoding = self.tokenizer.encode_fast(prompt, false);
        let encoding = encoding.map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        let ids = encoding
            .get_ids()
            .iter()
            .map(|id| self.words.get(id).cloned().unwrap_or(i64::from(*id)..i64::from(*id) + 1));
        Ok(ids.flatten().collect())
    }
}

/// One text of an encoder's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub ids: Vec<i64>,
    /// The fragment that each id is of; none of the beginning, the end and the padding.
    pub parts: Vec<Option<usize>>,
}

type Vocabulary = BTreeMap<String, u32>;
type Merges = Vec<(String, String)>;

fn read_vocabulary(folder: &Path) -> Result<(Vocabulary, Merges), TokenizerError> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !vocabulary.is_file() || !merges.is_file() {
        return Err(TokenizerError::NoVocabulary { folder: folder.to_owned() });
    }
    let text = read_text(&merges, VOCABULARY_BYTES_MAX)?;
    let text = String::from_utf8(text).map_err(|error| malformed(&merges, &error))?;
    let json = read_json(&vocabulary, VOCABULARY_BYTES_MAX)?;
    let vocabulary = serde_json::from_value(json).map_err(|error| malformed(&vocabulary, &error))?;
    // Lines of `#` are a version, as the `tokenizers` crate reads them.
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let pairs = lines.map(|line| pair(line).ok_or_else(|| malformed(&merges, &no_pair(line))));
    Ok((vocabulary, pairs.collect::<Result<_, _>>()?))
}

/// What of a `tokenizer.json` counts. Where there is one, it comes before `vocab.json` and `merges.txt`, as in transformers.
struct Serialized {
    vocabulary: Vocabulary,
    merges: Merges,
    added_tokens: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SerializedMerge {
    Pair(String, String),
    Line(String),
}

impl Serialized {
    fn read(path: &Path) -> Result<Self, TokenizerError> {
        let json = read_json(path, VOCABULARY_BYTES_MAX)?;
        let refused = |error: &dyn std::fmt::Display| malformed(path, error);
        let file = Fields::new(&json).map_err(|error| refused(&error))?;
        for side in ["padding", "truncation"] {
            let direction = file.get(side).and_then(|options| options.get("direction"));
            if direction.is_some_and(|direction| direction != "Right") {
                return Err(refused(&format!("`{side}.direction` is not supported but `Right`")));
            }
        }
        let added_tokens = file.get("added_tokens").cloned().unwrap_or_default();
        let model = file.get("model").unwrap_or(&Value::Null);
        file.finish(&[WITHOUT_EFFECT]).map_err(|error| refused(&error))?;
        let model = Fields::new(model).map_err(|error| refused(&format!("`model`: {error}")))?;
        if model.get("type").is_some_and(|name| name != "BPE") {
            return Err(refused(&"it holds no BPE model, so it is not CLIP's"));
        }
        let part = |field: &'static str| model.get(field).cloned().unwrap_or_default();
        let vocabulary = serde_json::from_value(part("vocab")).map_err(|error| refused(&error))?;
        let merges: Vec<SerializedMerge> = serde_json::from_value(part("merges")).map_err(|error| refused(&error))?;
        model.finish(&[MODEL_WITHOUT_EFFECT]).map_err(|error| refused(&format!("`model`: {error}")))?;
        let merges = merges.into_iter().map(|merge| match merge {
            SerializedMerge::Pair(left, right) => Ok((left, right)),
            SerializedMerge::Line(line) => pair(&line).ok_or_else(|| refused(&no_pair(&line))),
        });
        Ok(Self { vocabulary, merges: merges.collect::<Result<_, _>>()?, added_tokens })
    }
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
