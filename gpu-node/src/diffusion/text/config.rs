//! `text_encoder/config.json` of transformers' `CLIPTextModel`
//! (source: transformers 5, `models/clip/configuration_clip.py`).

use serde_json::{Value, json};

use crate::diffusion::fields::{ConfigError, Fields, LAYERS_MAX, WIDTH_MAX, WithoutEffect, check_divides};

/// Largest vocabulary accepted.
const VOCABULARY_MAX: i64 = 1 << 20;
/// Longest prompt, in tokens.
const POSITIONS_MAX: i64 = 4096;

/// The non-linearity of a CLIP encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipActivation {
    /// `x · sigmoid(1.702 x)`, of OpenAI's CLIP.
    QuickGelu,
    /// The exact GELU, of OpenCLIP.
    Gelu,
}

/// A CLIP text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    pub vocab_size: i64,
    /// Width of an embedding.
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub layers: i64,
    pub heads: i64,
    /// Most tokens of a prompt.
    pub positions: i64,
    pub layer_norm_eps: f64,
    pub activation: ClipActivation,
    /// Width of the pooled embedding, where the encoder projects one (`CLIPTextModelWithProjection`).
    pub projection_dim: i64,
    /// The token at which the pooled embedding is taken; `None` where it is the one with the largest id.
    pub pooled_at: Option<i64>,
}

/// Keys that change no embedding. Most are what `PreTrainedConfig` of some version wrote into every file.
pub(crate) const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    (
        "for training",
        &["attention_dropout", "dropout", "gradient_checkpointing", "initializer_factor", "initializer_range"],
    ),
    ("the tokenizer's own files say which tokens these are", &["bos_token_id", "pad_token_id", "sep_token_id"]),
    ("the tensors say of which kind they are", &["dtype", "torch_dtype", "use_bfloat16"]),
    (
        "how transformers computes and answers",
        &[
            "attn_implementation",
            "chunk_size_feed_forward",
            "experts_implementation",
            "output_attentions",
            "output_hidden_states",
            "return_dict",
            "tf_legacy_loss",
            "torchscript",
            "use_cache",
            "use_return_dict",
        ],
    ),
    (
        "of networks that decode, classify or answer",
        &[
            "add_cross_attention",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "finetuning_task",
            "id2label",
            "is_decoder",
            "is_encoder_decoder",
            "label2id",
            "num_labels",
            "prefix",
            "problem_type",
            "task_specific_params",
            "tie_encoder_decoder",
            "tie_word_embeddings",
        ],
    ),
    (
        "how text is generated",
        &[
            "bad_words_ids",
            "begin_suppress_tokens",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_scores",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "suppress_tokens",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
        ],
    ),
    ("of the other half of CLIP", &["logit_scale_init_value", "vision_config", "vision_config_dict"]),
    ("informative", &["architectures", "name_or_path", "tokenizer_class", "transformers_version"]),
];

/// What configurations from before 2023 call the end token; it is not, and transformers takes the largest id then.
const EOS_PLACEHOLDER: i64 = 2;

impl ClipConfig {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let whole = Fields::new(json)?;
        // Of a CLIP with both halves, transformers reads the text's.
        if let Some(text) = whole.get("text_config").filter(|text| text.is_object()) {
            for field in ["text_config_dict", "pruned_heads", "quantization_config"] {
                whole.only(field, &json!(null))?;
            }
            return Self::from_json(text);
        }
        let fields = whole;
        fields.only("use_attention_mask", &json!(false))?;
        if fields.get("pruned_heads").is_some_and(|heads| *heads != json!({})) {
            fields.only("pruned_heads", &json!(null))?;
        }
        fields.only("quantization_config", &json!(null))?;
        fields.name("model_type", (), &[(Some("clip_text_model"), ()), (Some("clip"), ())])?;
        let activations = [(Some("quick_gelu"), ClipActivation::QuickGelu), (Some("gelu"), ClipActivation::Gelu)];
        let config = Self {
            vocab_size: fields.count("vocab_size", Some(49408), VOCABULARY_MAX)?,
            hidden_size: fields.count("hidden_size", Some(512), WIDTH_MAX)?,
            intermediate_size: fields.count("intermediate_size", Some(2048), WIDTH_MAX)?,
            layers: fields.count("num_hidden_layers", Some(12), LAYERS_MAX)?,
            heads: fields.count("num_attention_heads", Some(8), WIDTH_MAX)?,
            positions: fields.count("max_position_embeddings", Some(77), POSITIONS_MAX)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-5, (0.0, 1.0))?,
            activation: fields.name("hidden_act", ClipActivation::QuickGelu, &activations)?,
            projection_dim: fields.count("projection_dim", Some(512), WIDTH_MAX)?,
            pooled_at: pooled_at(&fields)?,
        };
        fields.finish(&[WITHOUT_EFFECT])?;
        check_divides("num_attention_heads", config.heads, config.hidden_size)?;
        Ok(config)
    }
}

fn pooled_at(fields: &Fields<'_>) -> Result<Option<i64>, ConfigError> {
    let id = fields.count("eos_token_id", Some(49407), VOCABULARY_MAX)?;
    Ok((id != EOS_PLACEHOLDER).then_some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_first_clip() {
        let config = ClipConfig::from_json(&json!({"model_type": "clip_text_model"})).expect("a valid configuration");
        assert_eq!((config.vocab_size, config.hidden_size, config.positions), (49408, 512, 77));
        assert_eq!(config.activation, ClipActivation::QuickGelu);
        assert_eq!((config.projection_dim, config.pooled_at), (512, Some(49407)));
        let both = json!({"model_type": "clip", "projection_dim": 9, "vision_config": {}, "text_config": {"hidden_size": 1024}});
        assert_eq!(ClipConfig::from_json(&both).expect("a valid configuration").hidden_size, 1024);
        let old = ClipConfig::from_json(&json!({"eos_token_id": 2})).expect("a valid configuration");
        assert_eq!(old.pooled_at, None);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        for (field, value) in [
            ("model_type", json!("t5")),
            ("hidden_act", json!("gelu_new")),
            ("num_attention_heads", json!(7)),
            ("vocab_size", json!(1_u64 << 40)),
            ("max_position_embeddings", json!(0)),
            ("layer_norm_eps", json!("small")),
            ("use_attention_mask", json!(true)),
            ("projection_dim", json!(0)),
            ("eos_token_id", json!("end")),
            ("pruned_heads", json!({"0": [1]})),
            ("a_key_of_tomorrow", json!(2)),
        ] {
            let error = ClipConfig::from_json(&json!({ field: value }));
            let error = error.map_or_else(|error| error.to_string(), |_| "accepted".into());
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
