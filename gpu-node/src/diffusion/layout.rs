//! `model_index.json`: which pipeline a folder holds, and where its parts are
//! (source: diffusers 0.42, `StableDiffusionPipeline`, `StableDiffusionXLPipeline`,
//! `StableDiffusionXLImg2ImgPipeline`, which is the refiner's).

use std::path::Path;

use serde_json::Value;

use super::checkpoint::CheckpointError;
use super::clip::Head;
use super::config::{CONFIG_BYTES_MAX, read_json};
use super::lora::Network;

/// A text encoder's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) folder: &'static str,
    pub(super) tokenizer: &'static str,
    pub(super) head: Head,
}

impl Part {
    pub(super) fn network(&self) -> Network {
        if self.folder == SECOND.folder { Network::TextEncoder2 } else { Network::TextEncoder }
    }
}

const FIRST: Part = Part { folder: "text_encoder", tokenizer: "tokenizer", head: Head::None };
const SECOND: Part = Part { folder: "text_encoder_2", tokenizer: "tokenizer_2", head: Head::Projection };

/// The parts of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Stable Diffusion XL, of either stage.
    pub(super) is_xl: bool,
    pub(super) texts: Vec<Part>,
    pub(super) zeroes_empty_negative: bool,
}

const TOKENIZERS: &[&str] = &["CLIPTokenizer", "CLIPTokenizerFast"];

/// Parts every pipeline has, or must not have (`None`).
const COMPONENTS: [(&str, Option<&[&str]>); 6] = [
    ("unet", Some(&["UNet2DConditionModel"])),
    ("vae", Some(&["AutoencoderKL"])),
    ("transformer", None),
    ("controlnet", None),
    ("image_encoder", None),
    ("adapter", None),
];

impl Layout {
    pub(super) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let index = Index { path, json: read_json(path, CONFIG_BYTES_MAX)? };
        for (component, classes) in COMPONENTS {
            index.check(component, classes)?;
        }
        let is_xl = index.has("text_encoder_2") || index.has("tokenizer_2");
        let mut texts = Vec::new();
        // A refiner has no first encoder.
        if !is_xl || index.has("text_encoder") || index.has("tokenizer") {
            index.check("text_encoder", Some(&["CLIPTextModel"]))?;
            index.check("tokenizer", Some(TOKENIZERS))?;
            texts.push(FIRST);
        }
        if is_xl {
            index.check("text_encoder_2", Some(&["CLIPTextModelWithProjection"]))?;
            index.check("tokenizer_2", Some(TOKENIZERS))?;
            texts.push(SECOND);
        }
        let zeroes_empty_negative = is_xl && index.json["force_zeros_for_empty_prompt"].as_bool().unwrap_or(true);
        Ok(Self { is_xl, texts, zeroes_empty_negative })
    }
}

struct Index<'a> {
    path: &'a Path,
    json: Value,
}

impl Index<'_> {
    /// The class of a component, which is `[library, class]`; one a pipeline could have and this one has not is
    /// `[null, null]`.
    fn class(&self, component: &str) -> &Value {
        self.json.get(component).map_or(&Value::Null, |entry| &entry[1])
    }

    fn has(&self, component: &str) -> bool {
        !self.class(component).is_null()
    }

    fn check(&self, component: &'static str, classes: Option<&[&str]>) -> Result<(), CheckpointError> {
        let found = self.class(component);
        let is_supported = match classes {
            Some(classes) => found.as_str().is_some_and(|class| classes.contains(&class)),
            None => found.is_null(),
        };
        if is_supported {
            return Ok(());
        }
        let found = found.as_str().map_or_else(|| "absent".into(), |class| class.chars().take(80).collect());
        let supported = classes.map_or_else(|| "none".into(), |classes| classes.join(", "));
        Err(CheckpointError::Component { path: self.path.to_owned(), component, found, supported })
    }
}
