//! `vae/config.json` of diffusers' `AutoencoderKL`
//! (source: diffusers 0.42, `models/autoencoders/autoencoder_kl.py`).

use serde_json::{Value, json};

use crate::diffusion::fields::{ConfigError, Fields, LAYERS_MAX, WIDTH_MAX, WithoutEffect, check_divides};

/// An image autoencoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub latent_channels: i64,
    /// Channels of the levels from the finest to the coarsest.
    pub channels: Vec<i64>,
    /// ResNet blocks of an encoder level; a decoder level has one more.
    pub layers: i64,
    pub norm_num_groups: i64,
    pub mid_block_has_attention: bool,
    pub has_quant_conv: bool,
    pub has_post_quant_conv: bool,
    /// The network overflows float16 ([`VaeKinds::choose`](crate::diffusion::vae::VaeKinds::choose)).
    pub force_upcast: bool,
    /// Latents are multiplied by this after encoding and divided by it before decoding.
    pub scaling_factor: f64,
    /// Latents are moved by this: subtracted after encoding, added before decoding.
    pub shift_factor: f64,
    /// What each channel of unscaled latents is brought to zero and one with: of Stable Diffusion XL only.
    pub statistics: Option<Statistics>,
}

/// Mean and standard deviation of each channel of unscaled latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    pub means: Vec<f64>,
    pub deviations: Vec<f64>,
}

fn fixed_fields() -> [(&'static str, Value); 2] {
    [("_class_name", json!("AutoencoderKL")), ("quantization_config", json!(null))]
}

/// Keys that change no image.
const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    ("the size it was trained with; images have the recipe's", &["sample_size"]),
    ("for training", &["dropout", "gradient_checkpointing", "lossconfig"]),
    ("the tensors say of which kind they are", &["dtype", "torch_dtype"]),
    ("informative", &["architectures", "diffusers_version", "name_or_path"]),
];

impl VaeConfig {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(json)?;
        for (field, supported) in fixed_fields() {
            fields.only(field, &supported)?;
        }
        fields.name("act_fn", (), &[(Some("silu"), ()), (Some("swish"), ())])?;
        let channels = fields.channels("block_out_channels")?;
        fields.names("down_block_types", channels.len(), &[(Some("DownEncoderBlock2D"), ())])?;
        fields.names("up_block_types", channels.len(), &[(Some("UpDecoderBlock2D"), ())])?;
        let latent_channels = fields.count("latent_channels", Some(4), WIDTH_MAX)?;
        let config = Self {
            in_channels: fields.count("in_channels", Some(3), WIDTH_MAX)?,
            out_channels: fields.count("out_channels", Some(3), WIDTH_MAX)?,
            latent_channels,
            channels,
            layers: fields.count("layers_per_block", Some(1), LAYERS_MAX)?,
            norm_num_groups: fields.count("norm_num_groups", Some(32), WIDTH_MAX)?,
            mid_block_has_attention: fields.flag("mid_block_add_attention", true)?,
            has_quant_conv: fields.flag("use_quant_conv", true)?,
            has_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            force_upcast: fields.flag("force_upcast", true)?,
            scaling_factor: scaling_factor(&fields)?,
            shift_factor: shift_factor(&fields)?,
            statistics: statistics(&fields, latent_channels)?,
        };
        fields.finish(&[WITHOUT_EFFECT])?;
        for channels in &config.channels {
            check_divides("norm_num_groups", config.norm_num_groups, *channels)?;
        }
        Ok(config)
    }

    /// Side of an image in pixels for one latent.
    #[must_use]
    pub fn factor(&self) -> i64 {
        1 << (self.channels.len() - 1)
    }
}

fn scaling_factor(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    fields.number("scaling_factor", 0.18215, (1e-6, 1e6))
}

fn shift_factor(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    match fields.get("shift_factor") {
        None | Some(Value::Null) => Ok(0.0),
        Some(_) => fields.number("shift_factor", 0.0, (-1e6, 1e6)),
    }
}

/// diffusers reads both or neither; one alone says nothing that it does.
fn statistics(fields: &Fields<'_>, channels: i64) -> Result<Option<Statistics>, ConfigError> {
    let channels = usize::try_from(channels).unwrap_or_default();
    let means = fields.numbers("latents_mean", channels, (-1e6, 1e6))?;
    match (means, fields.numbers("latents_std", channels, (1e-6, 1e6))?) {
        (None, None) => Ok(None),
        (Some(means), Some(deviations)) => Ok(Some(Statistics { means, deviations })),
        (None, Some(_)) => Err(ConfigError::Missing { field: "latents_mean" }),
        (Some(_), None) => Err(ConfigError::Missing { field: "latents_std" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({
            "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
            "layers_per_block": 2, "sample_size": 512,
        })
    }

    #[test]
    fn an_early_configuration_takes_the_defaults_of_its_time() {
        let config = VaeConfig::from_json(&config()).expect("a valid configuration");
        assert_eq!((config.factor(), config.scaling_factor, config.shift_factor), (8, 0.18215, 0.0));
        assert!(config.force_upcast && config.has_quant_conv && config.has_post_quant_conv);
    }

    #[test]
    fn statistics_of_latents_come_in_twos_and_for_every_channel() {
        let read = |mean: Value, std: Value| {
            let mut json = config();
            (json["latents_mean"], json["latents_std"]) = (mean, std);
            VaeConfig::from_json(&json).map(|config| config.statistics).map_err(|error| error.to_string())
        };
        let four = json!([1.0, 2.0, 3.0, 4.0]);
        let found = read(four.clone(), four.clone()).expect("both").expect("statistics");
        assert_eq!((found.means, found.deviations), (vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!(read(json!(null), json!(null)), Ok(None));
        for (mean, std, named) in [
            (four.clone(), json!(null), "`latents_std`"),
            (json!(null), four.clone(), "`latents_mean`"),
            (four.clone(), json!([1.0]), "latents_std"),
            (json!([1.0]), json!([1.0]), "latents_mean"),
            (four, json!([1.0, 2.0, 3.0, 0.0]), "`latents_std`"),
        ] {
            let reason = read(mean, std).expect_err(named);
            assert!(reason.contains(named), "{reason}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_field() {
        for (field, value) in [
            ("_class_name", json!("AutoencoderTiny")),
            ("act_fn", json!("relu")),
            (
                "up_block_types",
                json!(["UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]),
            ),
            ("latents_mean", json!("much")),
            ("latents_mean", json!([0.1, "much"])),
            ("a_key_of_tomorrow", json!(true)),
            ("norm_num_groups", json!(33)),
            ("scaling_factor", json!(0)),
            ("layers_per_block", json!([2, 2])),
        ] {
            let mut json = config();
            json[field] = value;
            let error = VaeConfig::from_json(&json).map_or_else(|error| error.to_string(), |_| "accepted".into());
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
    }
}
