//! `model_index.json`: which pipeline a folder holds, and where its parts are
//! (source: diffusers 0.42, `StableDiffusionPipeline`, `StableDiffusionXLPipeline`,
//! `StableDiffusionXLImg2ImgPipeline`, which is the refiner's).

use std::path::Path;

use serde_json::Value;

use crate::diffusion::fields as config;
use crate::diffusion::fields::{CONFIG_BYTES_MAX, Fields, WithoutEffect, is_without_effect, read_json};
use crate::diffusion::loading::CheckpointError;
use crate::diffusion::sd::adapters::Network;
use crate::diffusion::text::clip::Head;

/// A text encoder's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextPart {
    pub(crate) folder: &'static str,
    pub(crate) tokenizer: &'static str,
    pub(crate) head: Head,
}

impl TextPart {
    pub(crate) fn network(&self) -> Network {
        if self.folder == SECOND.folder { Network::TextEncoder2 } else { Network::TextEncoder }
    }
}

const FIRST: TextPart = TextPart { folder: "text_encoder", tokenizer: "tokenizer", head: Head::None };
const SECOND: TextPart = TextPart { folder: "text_encoder_2", tokenizer: "tokenizer_2", head: Head::Projection };

/// The parts of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Stable Diffusion XL, of either stage.
    pub(crate) is_xl: bool,
    pub(crate) texts: Vec<TextPart>,
    pub(crate) zeroes_empty_negative: bool,
    /// The class that reads `scheduler_config.json`, which may name another: this one counts.
    pub(crate) scheduler_class: Option<String>,
}

const TOKENIZERS: &[&str] = &["CLIPTokenizer", "CLIPTokenizerFast"];

/// Parts every pipeline has. Any other is refused by its name, unless it is absent (`[null, null]`).
const COMPONENTS: [(&str, &[&str]); 2] = [("unet", &["UNet2DConditionModel"]), ("vae", &["AutoencoderKL"])];

/// Parts that these pipelines may have besides, which written by hand are absent as null, too.
const OTHER_PARTS: [&str; 1] = ["image_encoder"];

/// Keys that change no picture.
const WITHOUT_EFFECT: WithoutEffect<'static> = &[
    (
        "what a picture shows is judged at the edge, by people and rules",
        &["safety_checker", "requires_safety_checker", "feature_extractor"],
    ),
    ("a recipe brings the map that it guesses", &["depth_estimator"]),
    ("marks are the edge's", &["add_watermarker"]),
    ("the width of the UNet's added embedding says how many numbers it is told", &["requires_aesthetics_score"]),
];

impl Layout {
    pub(crate) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let json = read_json(path, CONFIG_BYTES_MAX)?;
        let config_error = |source| CheckpointError::Config { path: path.to_owned(), source };
        let index = ModelIndex { path, fields: Fields::new(&json).map_err(config_error)? };
        for (component, classes) in COMPONENTS {
            index.check(component, classes)?;
        }
        let is_xl = index.has("text_encoder_2") || index.has("tokenizer_2");
        let mut texts = Vec::new();
        // A refiner has no first encoder.
        if !is_xl || index.has("text_encoder") || index.has("tokenizer") {
            index.check("text_encoder", &["CLIPTextModel"])?;
            index.check("tokenizer", TOKENIZERS)?;
            texts.push(FIRST);
        }
        if is_xl {
            index.check("text_encoder_2", &["CLIPTextModelWithProjection"])?;
            index.check("tokenizer_2", TOKENIZERS)?;
            texts.push(SECOND);
        }
        // Absent it is yes, and null, as anything in Python that is nothing, no. Pipelines with one encoder do not ask.
        let zeroes = index.fields.flag("force_zeros_for_empty_prompt", true).map_err(config_error)?;
        let scheduler_class = index.class("scheduler").as_str().map(str::to_owned);
        index.finish()?;
        Ok(Self { is_xl, texts, zeroes_empty_negative: is_xl && zeroes, scheduler_class })
    }
}

struct ModelIndex<'a> {
    path: &'a Path,
    fields: Fields<'a>,
}

impl<'a> ModelIndex<'a> {
    /// The class of a component, which is `[library, class]`; one a pipeline could have and this one has not is
    /// `[null, null]`.
    fn class(&self, component: &'static str) -> &'a Value {
        self.fields.get(component).map_or(&Value::Null, |entry| &entry[1])
    }

    fn has(&self, component: &'static str) -> bool {
        !self.class(component).is_null()
    }

    fn check(&self, component: &'static str, classes: &[&str]) -> Result<(), CheckpointError> {
        let found = self.class(component);
        if found.as_str().is_some_and(|class| classes.contains(&class)) {
            return Ok(());
        }
        Err(self.unsupported(component, found, classes.join(", ")))
    }

    fn unsupported(&self, component: &str, found: &Value, supported: String) -> CheckpointError {
        let found = found.as_str().map_or_else(|| "absent".into(), |class| class.chars().take(80).collect());
        let component = component.chars().take(80).collect();
        CheckpointError::Component { path: self.path.to_owned(), component, found, supported }
    }

    /// Refuses parts and options that are not known.
    fn finish(&self) -> Result<(), CheckpointError> {
        for (key, value) in self.fields.unread() {
            let is_absent_part = value.as_array().is_some_and(|part| part.iter().all(Value::is_null))
                || value.is_null() && OTHER_PARTS.contains(&key);
            if is_absent_part || is_without_effect(key, &[WITHOUT_EFFECT]) {
                continue;
            }
            if value[1].is_string() {
                return Err(self.unsupported(key, &value[1], "none".into()));
            }
            return Err(CheckpointError::Config { path: self.path.to_owned(), source: config::unknown(key, value) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::scheduler::SchedulerConfig;

    /// Nothing that published checkpoints have is refused; the networks' configurations are read in `tests/networks.rs`.
    #[test]
    fn the_indices_and_schedulers_of_real_checkpoints_are_read() {
        let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/real");
        for (name, texts, zeroes) in
            [("sd15", 1, false), ("sd21", 1, false), ("sdxl-base", 2, true), ("sdxl-refiner", 1, false)]
        {
            let layout = Layout::read(&real.join(name).join("model_index.json")).expect(name);
            assert_eq!((layout.texts.len(), layout.zeroes_empty_negative), (texts, zeroes), "{name}");
            let json =
                read_json(&real.join(name).join("scheduler/scheduler_config.json"), CONFIG_BYTES_MAX).expect(name);
            let class = layout.scheduler_class.as_deref();
            assert!(class.is_some() && SchedulerConfig::read_as(class, &json).is_ok(), "{name}");
        }
    }
}
