//! The tokens that have a role or were added to a vocabulary, and where they are written down
//! (source: transformers 5, `tokenization_utils_base.py` `_from_pretrained`, `tokenization_utils_tokenizers.py`).
//!
//! `added_tokens_decoder` in `tokenizer_config.json` is the newest place and, where it is there, the only one that counts.
//! Otherwise they come from `special_tokens_map.json` (roles), `added_tokens.json` and `tokenizer.json`. A token that the
//! vocabulary does not have gets the next id, in the order of the ids that the files name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;

use super::{TokenizerError, malformed};
use crate::diffusion::fields::{CONFIG_BYTES_MAX, Fields, WithoutEffect, read_json};

const BEGIN_TOKEN: &str = "<|startoftext|>";
const END_TOKEN: &str = "<|endoftext|>";
/// Most tokens that may be added.
const ADDED_MAX: usize = 65_536;

/// Roles in the order in which their tokens are added where nothing else adds them, and what stands for them by default.
const ROLES: [(&str, Option<&str>); 7] = [
    ("bos_token", Some(BEGIN_TOKEN)),
    ("eos_token", Some(END_TOKEN)),
    ("unk_token", Some(END_TOKEN)),
    ("sep_token", None),
    ("pad_token", Some(END_TOKEN)),
    ("cls_token", None),
    ("mask_token", None),
];

/// Tokens without a role, under the names of two versions.
const EXTRA: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Keys of `tokenizer_config.json` that change no token.
const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    (
        "CLIPTokenizer does it in one way only",
        &["add_bos_token", "add_eos_token", "add_prefix_space", "do_lower_case", "legacy"],
    ),
    (
        "the pipeline says it with every prompt",
        &["max_length", "pad_to_multiple_of", "pad_token_type_id", "return_tensors", "stride", "truncation_strategy"],
    ),
    ("for the way back from tokens to text", &["clean_up_tokenization_spaces", "errors", "trim_offsets"]),
    ("of conversations", &["chat_template"]),
    (
        "where a file was once read from, and by whom",
        &[
            "auto_map",
            "backend",
            "from_slow",
            "is_local",
            "local_files_only",
            "merges_file",
            "model_input_names",
            "name_or_path",
            "processor_class",
            "special_tokens_map_file",
            "tokenizer_class",
            "tokenizer_file",
            "use_fast",
            "vocab_file",
            "vocab_size",
        ],
    ),
];

/// The named tokens, all that are added to the vocabulary, in order, and the length of a prompt.
pub(crate) struct SpecialTokens {
    pub(crate) begin: AddedToken,
    pub(crate) end: AddedToken,
    pub(crate) unknown: AddedToken,
    pub(crate) padding: AddedToken,
    pub(crate) tokens: Vec<AddedToken>,
    pub(crate) length: usize,
}

/// What the files say, before one place is weighed against another.
#[derive(Default)]
struct Told {
    roles: BTreeMap<&'static str, AddedToken>,
    extra: Vec<AddedToken>,
    added: BTreeMap<u64, AddedToken>,
}

impl SpecialTokens {
    /// `serialized` is what a `tokenizer.json` says of added tokens.
    pub(crate) fn read(folder: &Path, serialized: &Value) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer_config.json");
        let json = read_config(&path)?;
        let mut told = Told::default();
        let refused = |reason: String| malformed(&path, &reason);
        let config = Fields::new(&json).map_err(|error| refused(error.to_string()))?;
        let decoder = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null());
        told.read_roles(&config, Special::WhereItIsText).map_err(refused)?;
        let length = length(&config).map_err(refused)?;
        check_fixed(&config).map_err(refused)?;
        config.finish(&[WITHOUT_EFFECT]).map_err(|error| refused(error.to_string()))?;
        match decoder {
            Some(decoder) => told.read_decoder(decoder).map_err(refused)?,
            None => told.read_older_places(folder, serialized)?,
        }
        if told.added.len() + told.extra.len() > ADDED_MAX {
            return Err(refused(format!("more than {ADDED_MAX} tokens are added")));
        }
        Ok(told.weigh(length))
    }
}

impl Told {
    /// Of `tokenizer_config.json` or `special_tokens_map.json`, the later of which counts.
    fn read_roles(&mut self, fields: &Fields<'_>, special: Special) -> Result<(), String> {
        for (role, _) in ROLES {
            if let Some(value) = fields.get(role).filter(|value| !value.is_null()) {
                self.roles.insert(role, token_of(role, value, special)?);
            }
        }
        for field in EXTRA {
            let tokens: Vec<&Value> = match fields.get(field) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(tokens)) => tokens.iter().collect(),
                Some(Value::Object(tokens)) => tokens.values().collect(),
                Some(_) => return Err(format!("`{field}` is no list of tokens")),
            };
            for token in tokens {
                let token = token_of(field, token, Special::Yes)?;
                if !self.extra.iter().any(|known| known.content == token.content) {
                    self.extra.push(token);
                }
            }
        }
        Ok(())
    }

    fn read_decoder(&mut self, decoder: &Value) -> Result<(), String> {
        let field = "added_tokens_decoder";
        for (id, token) in decoder.as_object().ok_or_else(|| format!("`{field}` is no object"))? {
            let id =
                id.parse().map_err(|_| format!("`{field}`: `{}` is no id", id.chars().take(20).collect::<String>()))?;
            if !token.is_object() {
                return Err(format!("`{field}`: the token {id} is not described"));
            }
            self.added.insert(id, token_of(field, token, Special::No)?);
        }
        Ok(())
    }

    fn read_older_places(&mut self, folder: &Path, serialized: &Value) -> Result<(), TokenizerError> {
        let path = folder.join("special_tokens_map.json");
        let json = read_config(&path)?;
        let map = Fields::new(&json).map_err(|error| malformed(&path, &error))?;
        let mut newer = Self::default();
        newer.read_roles(&map, Special::Yes).map_err(|reason| malformed(&path, &reason))?;
        map.finish(&[]).map_err(|error| malformed(&path, &error))?;
        // What the map describes is special, whether it says so or not.
        self.roles.extend(newer.roles.into_iter().map(|(role, token)| (role, AddedToken { special: true, ..token })));
        for token in newer.extra {
            if !self.extra.iter().any(|known| known.content == token.content) {
                self.extra.push(token);
            }
        }

        let path = folder.join("added_tokens.json");
        let json = read_config(&path)?;
        let named: BTreeSet<&String> = self.roles.values().chain(&self.extra).map(|token| &token.content).collect();
        for (content, id) in json.as_object().into_iter().flatten() {
            let id = id.as_u64().ok_or_else(|| malformed(&path, &"an id is a whole number"))?;
            // Special ones are found in the prompt as it is written, others once it is normalised.
            self.added.insert(id, AddedToken::from(content.clone(), named.contains(content)));
        }

        let path = folder.join("tokenizer.json");
        for token in serialized.as_array().into_iter().flatten() {
            let id = token.get("id").and_then(Value::as_u64);
            let id = id.ok_or_else(|| malformed(&path, &"an added token has no id"))?;
            let token = token_of("added_tokens", token, Special::No).map_err(|reason| malformed(&path, &reason))?;
            self.added.insert(id, token);
        }
        Ok(())
    }

    fn weigh(self, length: usize) -> SpecialTokens {
        let Self { mut roles, extra, added } = self;
        for (role, default) in ROLES {
            if let Some(default) = default.filter(|_| !roles.contains_key(role)) {
                roles.insert(role, AddedToken::from(default, true));
            }
        }
        // A token that is described elsewhere is as it is described there.
        for token in roles.values_mut() {
            if let Some(described) = added.values().find(|described| described.content == token.content) {
                *token = described.clone();
            }
        }
        let mut tokens: Vec<AddedToken> = Vec::new();
        let named = ROLES.iter().filter_map(|(role, _)| roles.get(role)).cloned();
        for token in added.into_values().chain(named).chain(extra) {
            if !tokens.iter().any(|known| known.content == token.content) {
                tokens.push(token);
            }
        }
        for token in &mut tokens {
            token.special |= roles.values().any(|named| named.content == token.content);
        }
        let role = |role: &str| roles.get(role).cloned().unwrap_or_else(|| AddedToken::from(END_TOKEN, true));
        let (begin, end) = (role("bos_token"), role("eos_token"));
        SpecialTokens { begin, end, unknown: role("unk_token"), padding: role("pad_token"), tokens, length }
    }
}

/// Whether a token is special that does not say so itself.
#[derive(Clone, Copy, PartialEq)]
enum Special {
    Yes,
    No,
    /// Where it is written down as a text, instead of described.
    WhereItIsText,
}

/// A token as files write it: its text, or its text with how it is to be found in a prompt.
fn token_of(field: &str, value: &Value, special: Special) -> Result<AddedToken, String> {
    if let Some(content) = value.as_str() {
        return Ok(AddedToken::from(content, special != Special::No));
    }
    let described = Fields::new(value).map_err(|_| format!("`{field}` holds what is no token"))?;
    let content = described
        .get("content")
        .and_then(Value::as_str)
        .ok_or_else(|| format!("`{field}` holds a token without `content`"))?;
    let in_field = |error: &dyn std::fmt::Display| format!("`{field}`: {error}");
    let flag = |name, default| described.flag(name, default).map_err(|error| in_field(&error));
    let is_special = flag("special", special == Special::Yes)?;
    let token = AddedToken::from(content, is_special)
        .single_word(flag("single_word", false)?)
        .lstrip(flag("lstrip", false)?)
        .rstrip(flag("rstrip", false)?)
        .normalized(flag("normalized", !is_special)?);
    let _id = described.get("id");
    described.finish(&[]).map_err(|error| in_field(&error))?;
    Ok(token)
}

/// The tokens of a prompt; unset lengths are written as the float 1e30.
fn length(config: &Fields<'_>) -> Result<usize, String> {
    let field = if config.get("model_max_length").is_some() { "model_max_length" } else { "max_len" };
    match config.get(field) {
        None | Some(Value::Null) => Ok(usize::MAX),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(length), _) => Ok(usize::try_from(length).unwrap_or(usize::MAX)),
            (None, Some(length)) if length >= 1e9 => Ok(usize::MAX),
            _ => Err(format!("`{field}` is {value}, but it is a number of tokens")),
        },
    }
}

/// Keys that have one meaning here.
fn check_fixed(config: &Fields<'_>) -> Result<(), String> {
    for (field, supported) in [
        ("padding_side", Value::from("right")),
        ("truncation_side", Value::from("right")),
        ("split_special_tokens", Value::from(false)),
        ("init_inputs", Value::Array(Vec::new())),
    ] {
        config.only(field, &supported).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// An absent file configures nothing.
fn read_config(path: &Path) -> Result<Value, TokenizerError> {
    if path.is_file() { Ok(read_json(path, CONFIG_BYTES_MAX)?) } else { Ok(Value::Object(serde_json::Map::new())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokenizers_of_real_checkpoints_are_read() {
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/real");
        for folder in [
            "sd15/tokenizer",
            "sd21/tokenizer",
            "sdxl-base/tokenizer",
            "sdxl-base/tokenizer_2",
            "sdxl-refiner/tokenizer_2",
        ] {
            let special = SpecialTokens::read(&real.join(folder), &Value::Null).expect(folder);
            assert_eq!((special.begin.content.as_str(), special.length), (BEGIN_TOKEN, 77), "{folder}");
        }
    }

    /// What `save_pretrained` of transformers 4 and 5 writes for CLIP, and trainers around it.
    #[test]
    fn what_versions_of_transformers_write_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = serde_json::json!({
            "add_prefix_space": false, "added_tokens_decoder": {}, "additional_special_tokens": [], "backend": "tokenizers",
            "bos_token": "<|startoftext|>", "clean_up_tokenization_spaces": true, "do_lower_case": true, "errors": "replace",
            "eos_token": "<|endoftext|>", "extra_special_tokens": {}, "is_local": true, "local_files_only": false,
            "max_length": 77, "model_max_length": 77, "name_or_path": "openai/clip", "pad_to_multiple_of": null,
            "pad_token": "!", "pad_token_type_id": 0, "padding_side": "right", "processor_class": "CLIPProcessor",
            "special_tokens_map_file": "./special_tokens_map.json", "split_special_tokens": false, "stride": 0,
            "tokenizer_class": "CLIPTokenizer", "tokenizer_file": null, "truncation_side": "right",
            "truncation_strategy": "longest_first", "unk_token": "<|endoftext|>", "use_fast": true, "auto_map": null,
        });
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).expect("written");
        let special = SpecialTokens::read(dir.path(), &Value::Null).expect("read");
        assert_eq!((special.padding.content.as_str(), special.length), ("!", 77));
    }
}
