//! What a file says of the scales of its pairs: PEFT's `LoraConfig`, as `adapter_config.json` beside the tensors or as
//! `lora_adapter_metadata` among them (source: PEFT 0.21 `tuners/lora/config.py` and `model.py`, `utils/other.py`
//! `get_pattern_key`; diffusers 0.42 `loaders/peft.py`).
//!
//! Invariants: of several patterns that match a module, the first in the file's order decides; every key is honoured, known to
//! change no picture, or refused by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::names::Part;
use super::patterns::{Pattern, RegexBudget};

/// Patterns of one file.
const PATTERNS_MAX: usize = 16_384;
/// PEFT's default for both.
const DEFAULT_RANK_AND_ALPHA: f64 = 8.0;

/// Keys that have one meaning here, and the values that have it.
fn fixed_keys() -> [(&'static str, Vec<Value>); 16] {
    let absent = || vec![json!(null), json!(false)];
    let none = || vec![json!(null), json!([])];
    [
        ("peft_type", vec![json!(null), json!("LORA")]),
        ("bias", vec![json!(null), json!("none")]),
        // The tensors say which pairs have a magnitude.
        ("use_dora", vec![json!(null), json!(false), json!(true)]),
        ("use_qalora", absent()),
        ("lora_bias", absent()),
        ("use_bdlora", absent()),
        ("modules_to_save", none()),
        ("target_parameters", none()),
        ("layer_replication", none()),
        ("trainable_token_indices", none()),
        ("alora_invocation_tokens", none()),
        ("arrow_config", vec![json!(null)]),
        ("kasa_config", vec![json!(null)]),
        ("monteclora_config", vec![json!(null)]),
        // The others change the base's weights before the pairs are added.
        (
            "init_lora_weights",
            [json!(null), json!(true), json!(false)]
                .into_iter()
                .chain(["gaussian", "eva", "orthogonal", "mica"].map(Value::from))
                .collect(),
        ),
        ("adalora_config", vec![json!(null)]),
    ]
}

/// Keys that change no picture, and why.
const WITHOUT_EFFECT: [(&str, &str); 20] = [
    ("target_modules", "the tensors say which modules have a pair"),
    ("exclude_modules", "the tensors say which modules have a pair"),
    ("layers_to_transform", "the tensors say which modules have a pair"),
    ("layers_pattern", "the tensors say which modules have a pair"),
    ("lora_dropout", "for training"),
    ("inference_mode", "for training"),
    ("velora_config", "another way back, for training"),
    ("loftq_config", "how pairs began, for training"),
    ("eva_config", "how pairs began, for training"),
    ("corda_config", "how pairs began, for training"),
    ("lora_ga_config", "how pairs began, for training"),
    ("megatron_config", "for training on many devices"),
    ("megatron_core", "for training on many devices"),
    ("runtime_config", "where PEFT computes"),
    ("qalora_group_size", "read beside use_qalora only"),
    ("fan_in_fan_out", "for layers that these networks do not have"),
    ("ensure_weight_tying", "for embeddings, which have no pairs here"),
    ("base_model_name_or_path", "informative"),
    ("task_type", "informative"),
    ("revision", "informative"),
];
const INFORMATIVE: [&str; 2] = ["auto_mapping", "peft_version"];

/// JSON whose objects keep the file's order. As in Python, a key that is there twice stands at its first place and has its last
/// value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ordered {
    Object(Vec<(String, Self)>),
    Plain(Value),
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::Plain(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ordered, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Value>()? {
                    list.push(item);
                }
                Ok(Ordered::Plain(list.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Ordered, A::Error> {
                let mut object: Vec<(String, Ordered)> = Vec::new();
                let mut places = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, Ordered>()? {
                    match places.get(&key) {
                        Some(place) => {
                            let entry: &mut (String, Ordered) =
                                object.get_mut(*place).ok_or_else(|| A::Error::custom("a key has no place"))?;
                            entry.1 = value;
                        }
                        None => {
                            places.insert(key.clone(), object.len());
                            object.push((key, value));
                        }
                    }
                }
                Ok(Ordered::Object(object))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Ordered {
    /// As an error shows it.
    fn shown(&self) -> String {
        let text = match self {
            Self::Object(_) => "an object".to_owned(),
            Self::Plain(value) => value.to_string(),
        };
        text.chars().take(80).collect()
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Object(entries) if entries.is_empty())
    }
}

/// The configurations of a file, by the part they belong to. Without one an alpha is its pair's rank, but in PEFT's own files,
/// which need one.
#[derive(Debug, Default)]
pub(crate) struct LoraConfigs(BTreeMap<Part, LoraConfig>);

/// One part's.
#[derive(Debug, Default)]
struct LoraConfig {
    rank: Option<f64>,
    alpha: Option<f64>,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    is_rank_stabilised: bool,
}

impl LoraConfigs {
    /// PEFT's `adapter_config.json`, which is about the one network the adapter was made for.
    pub(crate) fn of_peft(text: &[u8]) -> Result<Self, String> {
        let mut configs = Self::default();
        let mut budget = Budget::default();
        // A file that says nothing gives it PEFT's defaults.
        configs.part(Part::Unet);
        for (key, value) in entries(text)? {
            configs.part(Part::Unet).set(&key, &value, &mut budget)?;
        }
        Ok(configs)
    }

    /// What diffusers writes among the tensors' metadata: keys with a part in front, or without where there is one network.
    pub(crate) fn of_metadata(text: &str) -> Result<Self, String> {
        let mut configs = Self::default();
        let mut budget = Budget::default();
        for (key, value) in entries(text.as_bytes())? {
            let (part, key) = match key.split_once('.') {
                None => (Part::Unet, key.as_str()),
                Some((part, rest)) => (Part::of_folder(part).ok_or_else(|| unknown(&key))?, rest),
            };
            configs.part(part).set(key, &value, &mut budget)?;
        }
        Ok(configs)
    }

    /// Whether there is one for a part.
    pub(crate) fn tell_of(&self, part: Part) -> bool {
        self.0.contains_key(&part)
    }

    pub(crate) fn has_patterns(&self) -> bool {
        self.0.values().any(|config| !config.ranks.is_empty() || !config.alphas.is_empty())
    }

    fn part(&mut self, part: Part) -> &mut LoraConfig {
        self.0.entry(part).or_default()
    }

    /// What the product of a pair is multiplied with. `alpha` is that of a tensor beside the pair.
    pub(crate) fn scale(&self, part: Part, module: &str, rank: f64, alpha: Option<f64>) -> Result<f64, String> {
        let Some(config) = self.0.get(&part) else { return Ok(alpha.unwrap_or(rank) / rank) };
        let told = first_match(&config.ranks, module).or(config.rank);
        if let Some(told) = told.filter(|told| *told != rank) {
            return Err(format!("the configuration gives it rank {told}, its matrices have {rank}"));
        }
        let told = first_match(&config.alphas, module).or(config.alpha).unwrap_or(DEFAULT_RANK_AND_ALPHA);
        if let Some(alpha) = alpha.filter(|alpha| *alpha != told) {
            return Err(format!("the configuration gives it alpha {told}, a tensor {alpha}"));
        }
        Ok(told / if config.is_rank_stabilised { rank.sqrt() } else { rank })
    }
}

/// What the patterns of one file may still cost.
#[derive(Debug)]
struct Budget {
    patterns: usize,
    regexes: RegexBudget,
}

impl Default for Budget {
    fn default() -> Self {
        Self { patterns: PATTERNS_MAX, regexes: RegexBudget::default() }
    }
}

impl LoraConfig {
    fn set(&mut self, key: &str, value: &Ordered, budget: &mut Budget) -> Result<(), String> {
        match key {
            "r" => self.rank = Some(number(key, value)?),
            "lora_alpha" => self.alpha = Some(number(key, value)?),
            "rank_pattern" => self.ranks = patterns(key, value, budget)?,
            "alpha_pattern" => self.alphas = patterns(key, value, budget)?,
            "use_rslora" => {
                self.is_rank_stabilised = match value {
                    Ordered::Plain(Value::Bool(is_asked)) => *is_asked,
                    Ordered::Plain(Value::Null) => false,
                    _ => return Err(format!("`{key}` is {}, but it is true or false", value.shown())),
                }
            }
            _ => return check_other(key, value),
        }
        Ok(())
    }
}

/// Of a key that changes no scale: nothing to do, or why it is refused.
fn check_other(key: &str, value: &Ordered) -> Result<(), String> {
    if let Some((_, allowed)) = fixed_keys().into_iter().find(|(fixed, _)| *fixed == key) {
        let is_allowed = matches!(value, Ordered::Plain(value) if allowed.contains(value)) || value.is_empty();
        let shown = allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
        return if is_allowed {
            Ok(())
        } else {
            Err(format!("`{key}` is {}, which is not supported; supported: {shown}", value.shown()))
        };
    }
    let is_known = WITHOUT_EFFECT.iter().any(|(known, _)| *known == key) || INFORMATIVE.contains(&key);
    if is_known || key.starts_with('_') { Ok(()) } else { Err(unknown(key)) }
}

fn unknown(key: &str) -> String {
    let key: String = key.chars().take(80).collect();
    format!("`{key}` is no key that is known here, so what it changes cannot be told")
}

fn entries(text: &[u8]) -> Result<Vec<(String, Ordered)>, String> {
    match serde_json::from_slice(text) {
        Ok(Ordered::Object(entries)) => Ok(entries),
        Ok(Ordered::Plain(_)) => Err("it is no JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn number(key: &str, value: &Ordered) -> Result<f64, String> {
    let number = match value {
        Ordered::Plain(value) => value.as_f64().filter(|number| number.is_finite()),
        Ordered::Object(_) => None,
    };
    number.ok_or_else(|| {
        let key: String = key.chars().take(80).collect();
        format!("`{key}` is {}, but it is a number", value.shown())
    })
}

fn patterns(key: &str, value: &Ordered, budget: &mut Budget) -> Result<Vec<(Pattern, f64)>, String> {
    let entries = match value {
        Ordered::Object(entries) => entries.as_slice(),
        Ordered::Plain(Value::Null) => &[],
        Ordered::Plain(_) => return Err(format!("`{key}` is {}, but it is an object", value.shown())),
    };
    budget.patterns =
        budget.patterns.checked_sub(entries.len()).ok_or_else(|| format!("more than {PATTERNS_MAX} patterns"))?;
    let read = |(pattern, value): &(String, Ordered)| {
        let compiled = Pattern::new(pattern, &mut budget.regexes).map_err(|reason| format!("`{key}`: {reason}"))?;
        Ok((compiled, number(pattern, value)?))
    };
    entries.iter().map(read).collect()
}

fn first_match(patterns: &[(Pattern, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q";

    fn scale(text: &str, module: &str, rank: f64) -> Result<f64, String> {
        LoraConfigs::of_peft(text.as_bytes())?.scale(Part::Unet, module, rank, None)
    }

    /// Of two patterns the first in the file decides, under any names: a hash map's order would change per process.
    #[test]
    fn of_several_patterns_the_first_in_the_files_order_decides() {
        for round in 0..32 {
            let (wide, narrow) = (format!("to_q{{1}}|x{round}"), "attn2.to_q");
            let text = |first: &str, second: &str| {
                format!(r#"{{"r": 2, "lora_alpha": 2, "alpha_pattern": {{"{first}": 4, "{second}": 16}}}}"#)
            };
            assert_eq!(scale(&text(&wide, narrow), QUERY, 2.0), Ok(2.0));
            assert_eq!(scale(&text(narrow, &wide), QUERY, 2.0), Ok(2.0));
        }
        let text = r#"{"r": 2, "lora_alpha": 2, "alpha_pattern": {"to_q": 4, "attn2.to_q": 16}}"#;
        assert_eq!(scale(text, QUERY, 2.0), Ok(2.0));
        // As in Python: the first place, the last value.
        let twice = r#"{"r": 2, "lora_alpha": 2, "alpha_pattern": {"to_q": 4, "attn2.to_q": 16, "to_q": 8}}"#;
        assert_eq!(scale(twice, QUERY, 2.0), Ok(4.0));
    }

    #[test]
    fn patterns_are_matched_as_peft_matches_them() {
        let alpha = |pattern: &str| {
            let pattern = pattern.replace('\\', "\\\\");
            scale(&format!(r#"{{"r": 1, "lora_alpha": 1, "alpha_pattern": {{"{pattern}": 5}}}}"#), QUERY, 1.0)
        };
        // PEFT 0.21: re.match(rf"(.*\.)?({pattern})$", module).
        for matching in [
            "to_q",
            "attn2.to_q",
            "attn.*to_q",
            ".*",
            "(to_k|to_q)",
            "to_q|to_k",
            "down_blocks.*",
            "attn\\d+\\.to_[qk]",
            "^down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q",
            "attn2.to.q",
            "(?:attn2\\.)to_q$",
            "to_[^k]",
        ] {
            assert_eq!(alpha(matching), Ok(5.0), "{matching}");
        }
        for other in ["o_q", "tn2.to_q", "to_", "^attn2.to_q", "to_k", "to_Q", "xattn2.to_q"] {
            assert_eq!(alpha(other), Ok(1.0), "{other}");
        }
        for refused in
            ["(?=x)to_q", "(to)_\\1", "to_q\\Z", "to_q++", "[[a]]", "(?i)to_q", "to_q(", "a{1000}{1000}", "[a&&b]"]
        {
            let error = alpha(refused).map_or_else(|error| error, |scale| scale.to_string());
            assert!(error.contains("alpha_pattern") && error.contains("is no pattern"), "{refused}: {error}");
        }
    }

    #[test]
    fn ranks_are_read_and_contradictions_refused() {
        let text = r#"{"r": 4, "lora_alpha": 6, "rank_pattern": {"to_q": 2}, "use_rslora": true}"#;
        assert_eq!(scale(text, QUERY, 2.0), Ok(6.0 / 2.0_f64.sqrt()));
        assert_eq!(scale(text, "conv_in", 4.0), Ok(3.0));
        assert!(scale(text, QUERY, 4.0).is_err_and(|error| error.contains("rank 2") && error.contains("have 4")));
        let configs = LoraConfigs::of_peft(br#"{"r": 4, "lora_alpha": 6}"#).expect("a configuration");
        assert_eq!(configs.scale(Part::Unet, "conv_in", 4.0, Some(6.0)), Ok(1.5));
        assert!(configs.scale(Part::Unet, "conv_in", 4.0, Some(5.0)).is_err());
        assert_eq!(configs.scale(Part::TextEncoder, "x", 4.0, Some(2.0)), Ok(0.5));
    }

    #[test]
    fn scales_stand_under_their_part_in_metadata() {
        let text = r#"{"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}, "unet.use_rslora": false,
            "text_encoder.r": 4, "text_encoder.lora_alpha": 4.5}"#;
        let configs = LoraConfigs::of_metadata(text).expect("configurations");
        assert_eq!(configs.scale(Part::Unet, "down_blocks.0.attn1.to_k", 4.0, None), Ok(2.0));
        assert_eq!(configs.scale(Part::Unet, "down_blocks.0.attn2.to_k", 4.0, None), Ok(0.5));
        assert_eq!(configs.scale(Part::TextEncoder, "x", 4.0, None), Ok(4.5 / 4.0));
        assert_eq!(configs.scale(Part::TextEncoder2, "x", 4.0, None), Ok(1.0));
        for broken in ["{", "[]", r#"{"transformer.r": 1}"#, r#"{"unet.r": "4"}"#] {
            assert!(LoraConfigs::of_metadata(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_key_is_honoured_without_effect_or_refused_by_name() {
        // What PEFT 0.21 writes today, all of it.
        let all = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": {"base_model_class":
            "UNet2DConditionModel"}, "base_model_name_or_path": null, "bias": "none", "corda_config": null,
            "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null,
            "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 6, "lora_bias": false,
            "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
            "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
            "qalora_group_size": 16, "r": 3, "rank_pattern": {}, "revision": null, "target_modules": ["to_q"],
            "target_parameters": null, "task_type": null, "trainable_token_indices": null, "use_bdlora": null,
            "use_dora": false, "use_qalora": false, "use_rslora": true, "velora_config": null}"#;
        assert_eq!(scale(all, QUERY, 3.0), Ok(6.0 / 3.0_f64.sqrt()));
        for refused in [
            r#""use_qalora": true"#,
            r#""bias": "all""#,
            r#""init_lora_weights": "pissa""#,
            r#""a_key_of_tomorrow": 1"#,
            r#""layer_replication": [[0, 2]]"#,
            r#""kasa_config": {"k": 1}"#,
            r#""peft_type": "LOHA""#,
            r#""use_rslora": 1"#,
        ] {
            let key = refused.split('"').nth(1).expect("a key");
            let error = scale(&format!("{{{refused}}}"), QUERY, 3.0);
            assert!(error.as_ref().is_err_and(|error| error.contains(&format!("`{key}`"))), "{refused}: {error:?}");
        }
    }
}
