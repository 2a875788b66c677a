//! How trainers name the tensors of an adapter, and which module they mean.
//!
//! | format | example |
//! | --- | --- |
//! | PEFT, diffusers | `unet.down_blocks.0.attentions.0.proj_in.lora_A.weight`, `text_encoder.text_model.….lora_B.weight` |
//! | diffusers before 0.22 | `unet.….attn1.processor.to_q_lora.down.weight`, `….to_q.lora.up.weight`, also without `unet.` |
//! | the same, text encoders | `text_encoder.….self_attn.to_q_lora.down.weight` |
//! | kohya, SD 1 and 2 | `lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight`, `lora_te_text_model_….alpha` |
//! | kohya, SD XL | `lora_unet_input_blocks_4_1_proj_in.lora_up.weight`, `lora_te1_…`, `lora_te2_…` |
//!
//!
//! PEFT's DoRA has `….lora_magnitude_vector` beside each pair.
//!
//! kohya's names have underscores for dots, and names have underscores of their own; so a module is looked up by its
//! name with all dots flattened, in every spelling it may have.

use std::collections::HashMap;

use super::Network;
use crate::diffusion::sd::config::UnetConfig;

/// The part of a pipeline that a file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Unet,
    TextEncoder,
    TextEncoder2,
}

impl Part {
    pub(crate) const fn network(self) -> Network {
        match self {
            Self::Unet => Network::Unet,
            Self::TextEncoder => Network::TextEncoder,
            Self::TextEncoder2 => Network::TextEncoder2,
        }
    }

    /// Of a folder of a checkpoint, as metadata names it.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        match folder {
            "unet" => Some(Self::Unet),
            "text_encoder" => Some(Self::TextEncoder),
            "text_encoder_2" => Some(Self::TextEncoder2),
            _ => None,
        }
    }
}

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairRole {
    Down,
    Up,
    Alpha,
    /// Of a DoRA: the length of each output's weights.
    Magnitude,
}

/// Marks of other kinds of adapters, in the order in which they are looked for.
const UNSUPPORTED: [(&str, &str); 13] = [
    ("dora_scale", "a DoRA of LyCORIS"),
    ("hada_w", "a LoHa"),
    ("hada_t", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("oft_", "an OFT"),
    ("lora_mid", "a LoCon with a core tensor (CP decomposition)"),
    ("on_input", "an (IA)³"),
    (".diff", "a difference of whole weights"),
    (".a1.weight", "a GLoRA"),
    ("lora_B.bias", "a LoRA with biases"),
    ("lora_up.bias", "a LoRA with biases"),
    ("emb_params", "a textual inversion"),
    ("bundle_emb", "a LoRA with a textual inversion"),
];

/// The kind of adapter a tensor's name gives away, where it is no plain LoRA.
pub(crate) fn unsupported(name: &str) -> Option<&'static str> {
    UNSUPPORTED.iter().find(|(mark, _)| name.contains(mark)).map(|(_, kind)| *kind)
}

const PREFIXES: [(&str, Part); 8] = [
    ("lora_unet_", Part::Unet),
    ("lora_te1_", Part::TextEncoder),
    ("lora_te2_", Part::TextEncoder2),
    ("lora_te_", Part::TextEncoder),
    ("unet.", Part::Unet),
    ("text_encoder_2.", Part::TextEncoder2),
    ("text_encoder.", Part::TextEncoder),
    (PEFT_PREFIX, Part::Unet),
];

/// What a UNet's own names begin with: files of one network alone have no prefix.
const UNET_NAMES: [&str; 8] = [
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in.",
    "conv_out.",
    "conv_norm_out.",
    "time_embedding.",
    "add_embedding.",
];

/// What a text encoder's projections were called while adapters named them as a UNet's.
const TEXT_PROJECTIONS: [(&str, &str); 4] =
    [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];

/// What PEFT puts in front of a network's names.
const PEFT_PREFIX: &str = "base_model.model.";

const ENDINGS: [(&str, PairRole); 16] = [
    (".lora_magnitude_vector", PairRole::Magnitude),
    (".lora_magnitude_vector.weight", PairRole::Magnitude),
    (".lora_magnitude_vector.default.weight", PairRole::Magnitude),
    (".lora_A.weight", PairRole::Down),
    (".lora_B.weight", PairRole::Up),
    (".lora_A.default.weight", PairRole::Down),
    (".lora_B.default.weight", PairRole::Up),
    (".lora_down.weight", PairRole::Down),
    (".lora_up.weight", PairRole::Up),
    (".lora_linear_layer.down.weight", PairRole::Down),
    (".lora_linear_layer.up.weight", PairRole::Up),
    (".lora.down.weight", PairRole::Down),
    (".lora.up.weight", PairRole::Up),
    ("_lora.down.weight", PairRole::Down),
    ("_lora.up.weight", PairRole::Up),
    (".alpha", PairRole::Alpha),
];

/// What a tensor's name says: the part, the module as the file spells it, and what the tensor is to it.
pub(crate) fn parse(name: &str) -> Option<(Part, String, PairRole)> {
    let prefixed = PREFIXES.iter().find_map(|(prefix, part)| Some((*part, name.strip_prefix(prefix)?)));
    let bare = || UNET_NAMES.iter().any(|begin| name.starts_with(begin)).then_some((Part::Unet, name));
    let (part, rest) = prefixed.or_else(bare)?;
    let (module, role) = ENDINGS.iter().find_map(|(ending, role)| Some((rest.strip_suffix(ending)?, *role)))?;
    // Attention processors of before 0.22 held the pairs: `attn1.processor.to_out_lora`.
    let module = module.replace(".processor.", ".");
    // An alpha beside such a pair names the pair, not the module.
    let module = module.strip_suffix(".lora").unwrap_or(&module);
    let module = match module.rsplit_once('.') {
        Some((attention, projection)) if part != Part::Unet => {
            let renamed = TEXT_PROJECTIONS.iter().find(|(old, _)| *old == projection);
            renamed.map_or_else(|| module.to_owned(), |(_, new)| format!("{attention}.{new}"))
        }
        Some((_, "to_out")) => format!("{module}.0"),
        _ => module.to_owned(),
    };
    (!module.is_empty()).then_some((part, module, role))
}

/// A module's name with dots for underscores, as kohya writes it.
pub(crate) fn flat(module: &str) -> String {
    module.replace('.', "_")
}

/// Every spelling of a network's modules, flattened, and the module's name in diffusers.
pub(crate) fn spellings<'a>(
    network: Network,
    modules: impl Iterator<Item = &'a str>,
    unet: &UnetConfig,
) -> HashMap<String, String> {
    let mut known = HashMap::new();
    for module in modules {
        let other = match network {
            Network::Unet => original_name(module, unet),
            // transformers before 5.
            Network::TextEncoder | Network::TextEncoder2 => Some(format!("text_model.{module}")),
        };
        // Modules come in one order, so that of two with one spelling it is always the same that is meant.
        for spelling in [Some(module.to_owned()), other].into_iter().flatten() {
            known.entry(flat(&spelling)).or_insert_with(|| module.to_owned());
        }
    }
    known
}

/// A UNet's module as Stability's own code calls it (generative-models, `openaimodel.py`), which kohya's trainer keeps
/// for Stable Diffusion XL: blocks are counted through, and every layer is a list of ResNet block, transformer and
/// change of size.
fn original_name(module: &str, unet: &UnetConfig) -> Option<String> {
    let simple = [
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
    ];
    if let Some((_, original)) = simple.iter().find(|(name, _)| *name == module) {
        return Some((*original).to_owned());
    }
    let levels = unet.levels.len();
    if let Some(rest) = module.strip_prefix("mid_block.") {
        let (kind, index, inner) = split(rest)?;
        return match (kind, index) {
            ("resnets", 0) => Some(format!("middle_block.0.{}", resnet_part(inner)?)),
            ("attentions", 0) => Some(format!("middle_block.1.{inner}")),
            ("resnets", 1) => Some(format!("middle_block.2.{}", resnet_part(inner)?)),
            _ => None,
        };
    }
    let (path, level, rest) = split(module)?;
    let (kind, layer, inner) = split(rest)?;
    let down_layers = |level: usize| usize::try_from(unet.levels[level].layers).unwrap_or(0);
    match path {
        "down_blocks" if level < levels => {
            let before: usize = 1 + (0..level).map(|level| down_layers(level) + 1).sum::<usize>();
            match kind {
                "resnets" => Some(format!("input_blocks.{}.0.{}", before + layer, resnet_part(inner)?)),
                "attentions" => Some(format!("input_blocks.{}.1.{inner}", before + layer)),
                "downsamplers" => Some(format!("input_blocks.{}.0.op", before + down_layers(level))),
                _ => None,
            }
        }
        // Up blocks begin at the coarsest level and have one layer more.
        "up_blocks" if level < levels => {
            let layers = |block: usize| down_layers(levels - 1 - block) + 1;
            let before: usize = (0..level).map(layers).sum();
            match kind {
                "resnets" => Some(format!("output_blocks.{}.0.{}", before + layer, resnet_part(inner)?)),
                "attentions" => Some(format!("output_blocks.{}.1.{inner}", before + layer)),
                "upsamplers" => {
                    let place = 1 + usize::from(unet.levels[levels - 1 - level].up_has_attention);
                    Some(format!("output_blocks.{}.{place}.conv", before + layers(level) - 1))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// `name.index.rest`, where the rest may be missing.
fn split(module: &str) -> Option<(&str, usize, &str)> {
    let (name, rest) = module.split_once('.')?;
    let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
    Some((name, index.parse().ok()?, rest))
}

fn resnet_part(inner: &str) -> Option<&'static str> {
    Some(match inner {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}
