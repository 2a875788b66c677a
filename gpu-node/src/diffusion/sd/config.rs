//! `unet/config.json` of diffusers' `UNet2DConditionModel`
//! (source: diffusers 0.42, `models/unets/unet_2d_condition.py`).

use serde_json::{Value, json};

use crate::diffusion::fields::{ConfigError, Fields, LAYERS_MAX, WIDTH_MAX, WithoutEffect, check_divides};

/// One resolution level; the down block and the up block of a level share everything but their kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnetLevel {
    pub channels: i64,
    /// ResNet blocks of the down path; the up path has one more.
    pub layers: i64,
    /// Transformer blocks behind each ResNet block, where the path has attention.
    pub transformer_layers: i64,
    pub heads: i64,
    /// Self-attention of this level attends to the text instead.
    pub only_cross_attention: bool,
    pub down_has_attention: bool,
    pub up_has_attention: bool,
}

/// What stands between the down and the up path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MidBlock {
    /// `UNetMidBlock2DCrossAttn`: ResNet, transformer, ResNet.
    CrossAttention,
    /// `UNetMidBlock2D`: one ResNet block.
    Resnet,
    Absent,
}

/// The pooled text and the numbers that Stable Diffusion XL is told (Podell et al. 2023, section 2.2), side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedConfig {
    /// Of both together.
    pub width: i64,
    /// Width of the sinusoids of one number.
    pub number_dim: i64,
}

impl AddedConfig {
    /// How many numbers stand beside a pooled text of this width; `None` where they do not fit.
    #[must_use]
    pub fn numbers(&self, pooled_dim: i64) -> Option<i64> {
        let left = self.width - pooled_dim;
        (left > 0 && left % self.number_dim == 0).then_some(left / self.number_dim)
    }
}

/// A denoising network.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    /// Height and width of the latents it was trained for, where the file says so.
    pub sample_size: Option<(i64, i64)>,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    /// Width of the time embedding behind its two linear layers.
    pub time_embed_dim: i64,
    /// Levels from the finest to the coarsest.
    pub levels: Vec<UnetLevel>,
    pub mid_block: MidBlock,
    /// Width of a text embedding.
    pub cross_attention_dim: i64,
    pub use_linear_projection: bool,
    /// Attention scores in float32. Every kernel behind libtorch's scaled dot product attention accumulates them so
    /// already, hence (as in diffusers' `AttnProcessor2_0`) nothing is left to do for it.
    pub upcast_attention: bool,
    /// 0 pads right and bottom by one before a stride-2 convolution without padding.
    pub downsample_padding: i64,
    pub norm_num_groups: i64,
    pub norm_eps: f64,
    pub conv_in_kernel: i64,
    pub conv_out_kernel: i64,
    /// What the network is told beside timestep and text (`addition_embed_type` `text_time`).
    pub added: Option<AddedConfig>,
    /// Width of the embedded guidance scale, where the network was distilled to be told it (Meng et al. 2023).
    pub guidance_embed_dim: Option<i64>,
}

/// Fields whose one supported value is what every Stable Diffusion checkpoint has.
fn fixed_fields() -> [(&'static str, Value); 21] {
    [
        ("_class_name", json!("UNet2DConditionModel")),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", json!(null)),
        ("encoder_hid_dim_type", json!(null)),
        ("num_attention_heads", json!(null)),
        ("class_embed_type", json!(null)),
        ("num_class_embeds", json!(null)),
        ("class_embeddings_concat", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("mid_block_scale_factor", json!(1.0)),
        ("time_embedding_type", json!("positional")),
        ("time_embedding_act_fn", json!(null)),
        ("timestep_post_act", json!(null)),
        ("attention_type", json!("default")),
        ("cross_attention_norm", json!(null)),
        ("reverse_transformer_layers_per_block", json!(null)),
        ("mid_block_only_cross_attention", json!(null)),
        ("transformer_depth", json!(null)),
        ("quantization_config", json!(null)),
    ]
}

/// Keys that change no prediction.
pub(crate) const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    ("for training", &["dropout", "gradient_checkpointing", "use_ema"]),
    (
        "left by the averaging of weights while training",
        &["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"],
    ),
    ("read beside other kinds of added embeddings only, which are refused", &["addition_embed_type_num_heads"]),
    ("the tensors say of which kind they are", &["dtype", "torch_dtype"]),
    ("informative", &["architectures", "diffusers_version", "name_or_path"]),
];

const ACTIVATIONS: [(Option<&str>, ()); 2] = [(Some("silu"), ()), (Some("swish"), ())];
const DOWN_BLOCKS: [(Option<&str>, bool); 2] = [(Some("CrossAttnDownBlock2D"), true), (Some("DownBlock2D"), false)];
const UP_BLOCKS: [(Option<&str>, bool); 2] = [(Some("CrossAttnUpBlock2D"), true), (Some("UpBlock2D"), false)];
const MID_BLOCKS: [(Option<&str>, MidBlock); 3] = [
    (Some("UNetMidBlock2DCrossAttn"), MidBlock::CrossAttention),
    (Some("UNetMidBlock2D"), MidBlock::Resnet),
    (None, MidBlock::Absent),
];

impl UnetConfig {
    /// Reads and validates a configuration.
    ///
    /// # Errors
    /// On the first field that is malformed, out of bounds or describes a network that is not supported.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(json)?;
        for (field, supported) in fixed_fields() {
            fields.only(field, &supported)?;
        }
        fields.name("act_fn", (), &ACTIVATIONS)?;
        let levels = levels(&fields)?;
        let finest = levels.first().map_or(0, |level| level.channels);
        let config = Self {
            in_channels: fields.count("in_channels", Some(4), WIDTH_MAX)?,
            out_channels: fields.count("out_channels", Some(4), WIDTH_MAX)?,
            sample_size: fields.size("sample_size")?,
            center_input_sample: fields.flag("center_input_sample", false)?,
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            freq_shift: fields.number("freq_shift", 0.0, (0.0, 1.0))?,
            time_embed_dim: time_embed_dim(&fields, finest)?,
            mid_block: fields.name("mid_block_type", MidBlock::CrossAttention, &MID_BLOCKS)?,
            cross_attention_dim: cross_attention_dim(&fields, levels.len())?,
            use_linear_projection: fields.flag("use_linear_projection", false)?,
            upcast_attention: fields.flag("upcast_attention", false)?,
            downsample_padding: downsample_padding(&fields)?,
            norm_num_groups: fields.count("norm_num_groups", Some(32), WIDTH_MAX)?,
            norm_eps: fields.number("norm_eps", 1e-5, (0.0, 1.0))?,
            conv_in_kernel: odd_kernel(&fields, "conv_in_kernel")?,
            conv_out_kernel: odd_kernel(&fields, "conv_out_kernel")?,
            added: added(&fields)?,
            guidance_embed_dim: optional_count(&fields, "time_cond_proj_dim")?,
            levels,
        };
        fields.finish(&[WITHOUT_EFFECT])?;
        config.check()?;
        Ok(config)
    }

    /// Side by which the coarsest level is smaller than the latents.
    #[must_use]
    pub fn downscale(&self) -> i64 {
        1 << (self.levels.len() - 1)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for level in &self.levels {
            check_divides("norm_num_groups", self.norm_num_groups, level.channels)?;
            if level.down_has_attention || level.up_has_attention {
                check_divides("attention_head_dim", level.heads, level.channels)?;
            }
        }
        if let (MidBlock::CrossAttention, Some(coarsest)) = (self.mid_block, self.levels.last()) {
            check_divides("attention_head_dim", coarsest.heads, coarsest.channels)?;
        }
        // The sinusoids divide by half the finest width less the shift.
        let finest = self.levels[0].channels;
        if finest < 4 {
            let expected = "its first level needs at least 4 channels for the time embedding".into();
            return Err(ConfigError::Invalid { field: "block_out_channels", value: finest.to_string(), expected });
        }
        Ok(())
    }
}

fn levels(fields: &Fields<'_>) -> Result<Vec<UnetLevel>, ConfigError> {
    let channels = fields.channels("block_out_channels")?;
    let count = channels.len();
    let layers = fields.count_per_level("layers_per_block", 2, count, LAYERS_MAX)?;
    let transformer_layers = fields.count_per_level("transformer_layers_per_block", 1, count, LAYERS_MAX)?;
    // The field is misnamed in diffusers: it holds the number of heads.
    let heads = fields.count_per_level("attention_head_dim", 8, count, WIDTH_MAX)?;
    let only_cross_attention = fields.flag_per_level("only_cross_attention", false, count)?;
    let down = fields.names("down_block_types", count, &DOWN_BLOCKS)?;
    let up = fields.names("up_block_types", count, &UP_BLOCKS)?;
    Ok((0..count)
        .map(|i| UnetLevel {
            channels: channels[i],
            layers: layers[i],
            transformer_layers: transformer_layers[i],
            heads: heads[i],
            only_cross_attention: only_cross_attention[i],
            down_has_attention: down[i],
            up_has_attention: up[count - 1 - i],
        })
        .collect())
}

fn time_embed_dim(fields: &Fields<'_>, finest: i64) -> Result<i64, ConfigError> {
    Ok(optional_count(fields, "time_embedding_dim")?.unwrap_or(4 * finest))
}

fn optional_count(fields: &Fields<'_>, field: &'static str) -> Result<Option<i64>, ConfigError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => fields.count(field, None, WIDTH_MAX).map(Some),
    }
}

fn added(fields: &Fields<'_>) -> Result<Option<AddedConfig>, ConfigError> {
    if !fields.name("addition_embed_type", false, &[(None, false), (Some("text_time"), true)])? {
        fields.only("addition_time_embed_dim", &json!(null))?;
        fields.only("projection_class_embeddings_input_dim", &json!(null))?;
        return Ok(None);
    }
    let number_dim = fields.count("addition_time_embed_dim", None, WIDTH_MAX)?;
    // The sinusoids are halved and divided by half their width less the shift.
    if number_dim < 4 || number_dim % 2 != 0 {
        let expected = "it is even and at least 4".into();
        return Err(ConfigError::Invalid { field: "addition_time_embed_dim", value: number_dim.to_string(), expected });
    }
    Ok(Some(AddedConfig { width: fields.count("projection_class_embeddings_input_dim", None, WIDTH_MAX)?, number_dim }))
}

/// One width of text embedding for every level: there is one text encoder.
fn cross_attention_dim(fields: &Fields<'_>, levels: usize) -> Result<i64, ConfigError> {
    let field = "cross_attention_dim";
    let dims = fields.count_per_level(field, 1280, levels, WIDTH_MAX)?;
    if dims.iter().any(|dim| *dim != dims[0]) {
        let supported = "the same width at every level".into();
        return Err(ConfigError::Unsupported { field, value: format!("{dims:?}"), supported });
    }
    Ok(dims[0])
}

fn downsample_padding(fields: &Fields<'_>) -> Result<i64, ConfigError> {
    let field = "downsample_padding";
    match fields.get(field).map(Value::as_i64) {
        None => Ok(1),
        Some(Some(padding @ (0 | 1))) => Ok(padding),
        Some(_) => fields.only(field, &json!("0 or 1")).map(|()| 1),
    }
}

fn odd_kernel(fields: &Fields<'_>, field: &'static str) -> Result<i64, ConfigError> {
    let kernel = fields.count(field, Some(3), 15)?;
    if kernel % 2 == 0 {
        let expected = "a kernel that keeps the size is odd".into();
        return Err(ConfigError::Invalid { field, value: kernel.to_string(), expected });
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        json!({
            "_class_name": "UNet2DConditionModel", "sample_size": 24, "block_out_channels": [64, 128, 192],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "norm_num_groups": 8, "attention_head_dim": 4, "dropout": null, "_private": null,
        })
    }

    fn refused(field: &str, value: Value) -> String {
        let mut json = config();
        json[field] = value;
        UnetConfig::from_json(&json).map_or_else(|error| error.to_string(), |_| "accepted".into())
    }

    #[test]
    fn what_is_absent_takes_the_constructors_default() {
        let config = UnetConfig::from_json(&config()).expect("a valid configuration");
        assert_eq!((config.in_channels, config.cross_attention_dim, config.time_embed_dim), (4, 1280, 256));
        assert_eq!(config.mid_block, MidBlock::CrossAttention);
        let kinds: Vec<_> = config.levels.iter().map(|l| (l.down_has_attention, l.up_has_attention)).collect();
        assert_eq!(kinds, [(false, false), (true, true), (true, true)]);
        assert!(config.levels.iter().all(|l| l.layers == 2 && l.heads == 4 && l.transformer_layers == 1));
    }

    #[test]
    fn lists_give_each_level_its_own_value() {
        let mut json = config();
        json["attention_head_dim"] = json!([2, 4, 8]);
        json["layers_per_block"] = json!([1, 2, 3]);
        json["only_cross_attention"] = json!([true, false, true]);
        let config = UnetConfig::from_json(&json).expect("a valid configuration");
        assert_eq!(config.levels.iter().map(|l| l.heads).collect::<Vec<_>>(), [2, 4, 8]);
        assert_eq!(config.levels.iter().map(|l| l.layers).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(config.levels.iter().map(|l| l.only_cross_attention).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn networks_that_are_not_supported_are_refused_by_field() {
        for (field, value) in [
            ("_class_name", json!("UNet3DConditionModel")),
            ("act_fn", json!("mish")),
            ("down_block_types", json!(["DownBlock2D", "SimpleCrossAttnDownBlock2D", "DownBlock2D"])),
            ("up_block_types", json!(["UpBlock2D", "UpBlock2D", "KUpBlock2D"])),
            ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
            ("class_embed_type", json!("timestep")),
            ("num_class_embeds", json!(1000)),
            ("addition_embed_type", json!("text_image")),
            ("addition_time_embed_dim", json!(256)),
            ("encoder_hid_dim", json!(1024)),
            ("time_embedding_type", json!("fourier")),
            ("attention_type", json!("gated")),
            ("resnet_time_scale_shift", json!("scale_shift")),
            ("dual_cross_attention", json!(true)),
            ("cross_attention_dim", json!([1, 2, 3])),
        ] {
            let error = refused(field, value);
            assert!(error.contains(&format!("`{field}`")) && error.contains("not supported"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_by_name() {
        for value in [json!({"x": 1}), json!(false), json!(0)] {
            let error = refused("a_key_of_tomorrow", value);
            assert!(error.contains("`a_key_of_tomorrow`") && error.contains("no such key"), "{error}");
        }
        assert_eq!(refused("decay", json!(0.9999)), "accepted");
    }

    /// An explicit size is all that is needed.
    #[test]
    fn a_network_may_say_nothing_of_its_size() {
        let mut json = config();
        json["sample_size"] = json!(null);
        assert_eq!(UnetConfig::from_json(&json).expect("a configuration").sample_size, None);
        json.as_object_mut().expect("an object").remove("sample_size");
        assert_eq!(UnetConfig::from_json(&json).expect("a configuration").sample_size, None);
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_field() {
        for (field, value) in [
            ("norm_num_groups", json!(7)),
            ("norm_num_groups", json!(null)),
            ("attention_head_dim", json!(0)),
            ("attention_head_dim", json!([4, 4])),
            ("layers_per_block", json!(1_000_000)),
            ("transformer_layers_per_block", json!([[1], [1], [1]])),
            ("block_out_channels", json!([])),
            ("block_out_channels", json!([64, -1, 192])),
            ("in_channels", json!("four")),
            ("norm_eps", json!(-1)),
            ("conv_in_kernel", json!(2)),
            ("sample_size", json!([24])),
            ("downsample_padding", json!(2)),
            ("time_cond_proj_dim", json!(-1)),
            ("use_linear_projection", json!("yes")),
            ("down_block_types", json!(["DownBlock2D"])),
        ] {
            let error = refused(field, value);
            assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
        }
        let error = refused("block_out_channels", json!([64, 128, 192, 256]));
        assert!(error.starts_with("`down_block_types` is "), "{error}");
    }
}
