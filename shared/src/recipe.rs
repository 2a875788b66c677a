//! A recipe: everything that determines a generated image, and its id.
//!
//! [`Recipe`] is the wire and storage form. [`ValidRecipe`] is one that passed every bound and carries its
//! id; only it reaches a queue or a device.

mod embedding;
mod parts;
mod reference;
mod scheduler;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::embedding::{EmbeddingUse, TOKEN_BYTES_MAX, is_token};
pub use self::parts::{DetailUse, DraftUse, Enlarge, picture_so_far};
pub use self::reference::ReferenceUse;
pub use self::scheduler::{Prediction, ScheduleFault, SchedulerChoice, SchedulerKind, SigmaSpacing, TimestepSpacing};
use crate::ids::{Digest, RecipeId};
use crate::limits;
use crate::weighting::{Weighting, WeightingError};

/// One adapter by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraUse {
    pub digest: Digest,
    pub weight: f64,
}

/// What a Stable Diffusion XL checkpoint is told of a picture's size (Podell et al. 2023, section 2.2), in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeConditioning {
    /// Width and height the picture is to look as if it had before it was scaled.
    pub original_px: [u32; 2],
    /// Left and top of what is to look cut away; `[0, 0]` centres the subject.
    #[serde(default)]
    pub crop_px: [u32; 2],
    /// Width and height it is to look made for.
    pub target_px: [u32; 2],
}

/// A second checkpoint that takes over for the last steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinerUse {
    pub checkpoint: Digest,
    /// After which share of the training schedule it takes over, above 0 and below 1 (diffusers' `denoising_end`).
    pub start: f64,
    /// How beautiful the picture is to look, and how ugly not to, from 1 to 10.
    #[serde(default = "RefinerUse::aesthetic_score")]
    pub aesthetic_score: f64,
    #[serde(default = "RefinerUse::negative_aesthetic_score")]
    pub negative_aesthetic_score: f64,
}

impl RefinerUse {
    #[must_use]
    pub const fn new(checkpoint: Digest, start: f64) -> Self {
        let (aesthetic_score, negative_aesthetic_score) = (Self::aesthetic_score(), Self::negative_aesthetic_score());
        Self { checkpoint, start, aesthetic_score, negative_aesthetic_score }
    }

    /// What a picture is to look like where nothing is asked for: diffusers' default.
    #[must_use]
    pub const fn aesthetic_score() -> f64 {
        6.0
    }

    /// What it is not to look like: diffusers' default.
    #[must_use]
    pub const fn negative_aesthetic_score() -> f64 {
        2.5
    }
}

/// An image to begin with instead of noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitUse {
    /// A PNG; one of another size than the picture's covers it.
    pub image: Digest,
    /// How much of the way is gone: close to 0 keeps the image, 1 keeps nothing of it.
    pub strength: f64,
}

/// A network that holds the picture to an image (ControlNet, Zhang et al. 2023).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlUse {
    pub network: Digest,
    /// A PNG; one of another size than the picture's covers it.
    pub image: Digest,
    pub weight: f64,
    /// From which share of the steps on it acts, and up to which.
    #[serde(default)]
    pub start: f64,
    #[serde(default = "one")]
    pub end: f64,
}

const fn one() -> f64 {
    1.0
}

/// What becomes of a prompt with more tokens than its encoder has places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongPrompt {
    /// It is encoded in chunks, whose embeddings follow each other.
    #[default]
    Chunks,
    /// It is cut, as diffusers cuts it.
    Cut,
}

impl LongPrompt {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that determines a generated image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Digest of the checkpoint folder.
    pub checkpoint: Digest,
    pub prompt: String,
    #[serde(default)]
    pub negative_prompt: String,
    pub width_px: u32,
    pub height_px: u32,
    /// PyTorch seeds its generator with 32 bits.
    pub seed: u32,
    #[serde(default)]
    pub scheduler: SchedulerChoice,
    pub steps: u32,
    /// Classifier-free guidance scale; at 1.0 and below the unconditional branch is not run.
    pub guidance: f64,
    /// How far guidance may not change the contrast, 0 to 1 (Lin et al. 2023, section 3.4).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guidance_rescale: f64,
    #[serde(default, skip_serializing_if = "LongPrompt::is_default")]
    pub long_prompt: LongPrompt,
    /// Whether brackets in both prompts are weights.
    #[serde(default, skip_serializing_if = "Weighting::is_default")]
    pub weighting: Weighting,
    /// Layers at the end of the text encoders that are left out, as diffusers counts them: 0 leaves out none that the family
    /// has not been trained without.
    #[serde(default, skip_serializing_if = "is_none_skipped")]
    pub clip_skip: u32,
    /// Stable Diffusion XL only; without it the picture's own size, uncropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<SizeConditioning>,
    /// The same for what the picture should not look like; without it as `sizes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_sizes: Option<SizeConditioning>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<RefinerUse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitUse>,
    /// A PNG that is fitted like `init`: what is white is painted anew, the rest is kept from `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Digest>,
    /// A PNG that says how near each place of the picture is, for checkpoints that are told it: the brighter, the nearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlUse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingUse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<ReferenceUse>,
    /// A smaller picture that is drawn first and that the recipe's own steps begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftUse>,
    /// What is painted anew once the picture is drawn, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<DetailUse>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none_skipped(layers: &u32) -> bool {
    *layers == 0
}

impl Recipe {
    /// A recipe that asks for nothing but a prompt at a size: 20 steps, guidance 4, seed 0.
    #[must_use]
    pub fn new(checkpoint: Digest, prompt: impl Into<String>, (width_px, height_px): (u32, u32)) -> Self {
        Self {
            checkpoint,
            prompt: prompt.into(),
            negative_prompt: String::new(),
            width_px,
            height_px,
            seed: 0,
            scheduler: SchedulerChoice::default(),
            steps: 20,
            guidance: 4.0,
            guidance_rescale: 0.0,
            long_prompt: LongPrompt::default(),
            weighting: Weighting::default(),
            clip_skip: 0,
            sizes: None,
            negative_sizes: None,
            refiner: None,
            init: None,
            mask: None,
            depth: None,
            controls: Vec::new(),
            loras: Vec::new(),
            embeddings: Vec::new(),
            references: Vec::new(),
            draft: None,
            details: Vec::new(),
        }
    }

    /// Digests of the files of a node's `adapters` folder that it is drawn with.
    pub fn adapters(&self) -> impl Iterator<Item = Digest> + '_ {
        let of_parts = self.draft.iter().flat_map(|draft| &draft.loras);
        let of_parts = of_parts.chain(self.details.iter().flat_map(|detail| &detail.loras)).flatten();
        let changes = self.loras.iter().chain(of_parts).map(|lora| lora.digest);
        let words = self.embeddings.iter().map(|embedding| embedding.digest);
        changes.chain(words).chain(self.references.iter().map(|reference| reference.adapter))
    }

    /// Digests of the folders that it is drawn with, beside its checkpoints.
    pub fn networks(&self) -> impl Iterator<Item = Digest> + '_ {
        let controls = self.all_controls().map(|control| control.network);
        controls.chain(self.references.iter().map(|reference| reference.encoder))
    }

    /// The ControlNets of all parts.
    pub fn all_controls(&self) -> impl Iterator<Item = &ControlUse> {
        self.controls.iter().chain(self.draft.iter().flat_map(|draft| &draft.controls))
    }

    /// Digests of the images it begins with, is held to or is to resemble.
    pub fn images(&self) -> impl Iterator<Item = Digest> + '_ {
        let init = self.init.iter().map(|init| init.image);
        let references =
            self.references.iter().flat_map(|reference| std::iter::once(reference.image).chain(reference.mask));
        init.chain(self.mask)
            .chain(self.depth)
            .chain(self.all_controls().map(|control| control.image))
            .chain(references)
            .chain(self.details.iter().map(|detail| detail.mask))
    }
}

/// Why a recipe is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    #[error("`{field}` has {bytes} bytes, at most {} are allowed", limits::PROMPT_BYTES_MAX)]
    PromptLength { field: &'static str, bytes: usize },
    #[error("`{field}` holds a control character")]
    PromptCharacter { field: &'static str },
    #[error("`{field}`: {reason}")]
    Weighting { field: &'static str, reason: WeightingError },
    #[error("`clip_skip` is 0 to {}, not {layers}", limits::CLIP_SKIP_MAX)]
    ClipSkip { layers: u32 },
    #[error("{width_px}×{height_px} px: {reason}")]
    Size { width_px: u32, height_px: u32, reason: &'static str },
    #[error("`steps` is 1 to {}, not {steps}", limits::STEPS_MAX)]
    Steps { steps: u32 },
    #[error("`guidance` is 0 to {}, not {guidance}", limits::GUIDANCE_MAX)]
    Guidance { guidance: f64 },
    #[error("`guidance_rescale` is 0 to 1, not {rescale}")]
    GuidanceRescale { rescale: f64 },
    #[error(
        "`{field}` has a number of {px} px, at most {} are allowed, and sizes are not zero",
        limits::SIZE_CONDITIONING_PX_MAX
    )]
    SizeConditioning { field: &'static str, px: u32 },
    #[error("`refiner.{field}` is {value}, allowed: {allowed}")]
    Refiner { field: &'static str, value: f64, allowed: &'static str },
    #[error("`init.strength` is above 0, up to 1, not {strength}")]
    Strength { strength: f64 },
    #[error("a `mask` says which part of `init` is painted anew, and there is no `init`")]
    MaskAlone,
    #[error("a recipe has at most {} controls, not {count}", limits::CONTROLS_MAX)]
    Controls { count: usize },
    #[error("a control's `{field}` is {value}, allowed: {allowed}")]
    Control { field: &'static str, value: f64, allowed: &'static str },
    #[error("a recipe has at most {} adapters, not {count}", limits::LORAS_MAX)]
    Loras { count: usize },
    #[error("an adapter's weight is -10 to 10, not {weight}")]
    LoraWeight { weight: f64 },
    #[error("a recipe has at most {} embeddings, not {count}", limits::EMBEDDINGS_MAX)]
    Embeddings { count: usize },
    #[error(
        "an embedding's token is 1 to {TOKEN_BYTES_MAX} small letters, digits, `<`, `>`, `_` and `-`, not `{token}`"
    )]
    Token { token: String },
    #[error("two embeddings have the token `{token}`")]
    TokenTwice { token: String },
    #[error("a recipe has at most {} reference images, not {count}", limits::REFERENCES_MAX)]
    References { count: usize },
    #[error("a reference's `{field}` is {value}, allowed: {allowed}")]
    Reference { field: &'static str, value: f64, allowed: &'static str },
    #[error("a recipe has at most {} details, not {count}", limits::DETAILS_MAX)]
    Details { count: usize },
    #[error("a recipe begins with its `draft` or with an `init`")]
    DraftInit,
    #[error("a draft of {width_px}×{height_px} px has not the picture's shape, or is larger")]
    DraftSize { width_px: u32, height_px: u32 },
    #[error("`{part}`: {reason}")]
    Part { part: &'static str, reason: Box<RecipeError> },
    #[error("no scheduler `{name}`; there are {}", SchedulerKind::ALL.map(SchedulerKind::as_str).join(", "))]
    Scheduler { name: String },
    #[error("`scheduler`: {fault}")]
    Schedule { fault: ScheduleFault },
    #[error("the recipe has no canonical JSON form: {reason}")]
    Canonical { reason: String },
}

/// A recipe within every bound, with its id.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidRecipe {
    recipe: Recipe,
    id: RecipeId,
    /// Where it is drawn in several.
    parts: Vec<Arc<ValidRecipe>>,
}

impl ValidRecipe {
    #[must_use]
    pub const fn id(&self) -> RecipeId {
        self.id
    }

    #[must_use]
    pub fn into_recipe(self) -> Recipe {
        self.recipe
    }

    /// What is drawn one after the other; the recipe itself where it is one part.
    #[must_use]
    pub fn parts(self: &Arc<Self>) -> Vec<Arc<Self>> {
        if self.parts.is_empty() { vec![Arc::clone(self)] } else { self.parts.clone() }
    }

    /// The same, borrowed.
    pub fn each_part(&self) -> impl Iterator<Item = &Self> {
        let itself = self.parts.is_empty().then_some(self);
        itself.into_iter().chain(self.parts.iter().map(Arc::as_ref))
    }

    /// Whether the unconditional branch is run beside the conditional one.
    #[must_use]
    pub fn is_guided(&self) -> bool {
        self.recipe.guidance > 1.0
    }
}

impl std::ops::Deref for ValidRecipe {
    type Target = Recipe;

    fn deref(&self) -> &Recipe {
        &self.recipe
    }
}

impl TryFrom<Recipe> for ValidRecipe {
    type Error = RecipeError;

    fn try_from(recipe: Recipe) -> Result<Self, RecipeError> {
        check_prompt("prompt", &recipe.prompt)?;
        check_prompt("negative_prompt", &recipe.negative_prompt)?;
        for (field, prompt) in [("prompt", &recipe.prompt), ("negative_prompt", &recipe.negative_prompt)] {
            recipe.weighting.check(prompt).map_err(|reason| RecipeError::Weighting { field, reason })?;
        }
        if recipe.clip_skip > limits::CLIP_SKIP_MAX {
            return Err(RecipeError::ClipSkip { layers: recipe.clip_skip });
        }
        check_size(recipe.width_px, recipe.height_px)?;
        if !(1..=limits::STEPS_MAX).contains(&recipe.steps) {
            return Err(RecipeError::Steps { steps: recipe.steps });
        }
        if !(0.0..=limits::GUIDANCE_MAX).contains(&recipe.guidance) {
            return Err(RecipeError::Guidance { guidance: recipe.guidance });
        }
        if !(0.0..=1.0).contains(&recipe.guidance_rescale) {
            return Err(RecipeError::GuidanceRescale { rescale: recipe.guidance_rescale });
        }
        check_sizes("sizes", recipe.sizes.as_ref())?;
        check_sizes("negative_sizes", recipe.negative_sizes.as_ref())?;
        recipe.scheduler.check(recipe.steps).map_err(|fault| RecipeError::Schedule { fault })?;
        recipe.refiner.as_ref().map_or(Ok(()), check_refiner)?;
        check_images(&recipe)?;
        if recipe.loras.len() > limits::LORAS_MAX {
            return Err(RecipeError::Loras { count: recipe.loras.len() });
        }
        if let Some(lora) = recipe.loras.iter().find(|lora| !(-10.0..=10.0).contains(&lora.weight)) {
            return Err(RecipeError::LoraWeight { weight: lora.weight });
        }
        embedding::check(&recipe.embeddings)?;
        reference::check(&recipe.references)?;
        let parts = parts::of(&recipe)?;
        let id = RecipeId::of_bytes(&canonical_json(&recipe)?);
        Ok(Self { recipe, id, parts })
    }
}

/// The recipe as RFC 8785 canonical JSON: what its id is computed over.
///
/// # Errors
/// When a number has no JSON form (NaN, infinity).
pub fn canonical_json(recipe: &Recipe) -> Result<Vec<u8>, RecipeError> {
    serde_json_canonicalizer::to_vec(recipe).map_err(|error| RecipeError::Canonical { reason: error.to_string() })
}

fn check_prompt(field: &'static str, text: &str) -> Result<(), RecipeError> {
    if text.len() > limits::PROMPT_BYTES_MAX {
        return Err(RecipeError::PromptLength { field, bytes: text.len() });
    }
    // Lines and tabs are white space to a tokenizer, and manifests take them, too.
    if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return Err(RecipeError::PromptCharacter { field });
    }
    Ok(())
}

fn check_size(width_px: u32, height_px: u32) -> Result<(), RecipeError> {
    let refuse = |reason| Err(RecipeError::Size { width_px, height_px, reason });
    if width_px == 0 || height_px == 0 {
        return refuse("a side is zero");
    }
    if width_px.max(height_px) > limits::MASTER_SIDE_PX_MAX {
        return refuse("a side is over 4096 px");
    }
    if u64::from(width_px) * u64::from(height_px) > limits::MASTER_AREA_PX_MAX {
        return refuse("the area is over 4 Mi px");
    }
    if !width_px.is_multiple_of(limits::MASTER_SIDE_PX_MULTIPLE)
        || !height_px.is_multiple_of(limits::MASTER_SIDE_PX_MULTIPLE)
    {
        return refuse("sides are multiples of 8 px");
    }
    Ok(())
}

fn check_sizes(field: &'static str, sizes: Option<&SizeConditioning>) -> Result<(), RecipeError> {
    let Some(SizeConditioning { original_px, crop_px, target_px }) = sizes else { return Ok(()) };
    let is_over = |px: &&u32| **px > limits::SIZE_CONDITIONING_PX_MAX;
    let sides = original_px.iter().chain(target_px);
    match sides.clone().find(|px| **px == 0 || is_over(px)).or_else(|| crop_px.iter().find(is_over)) {
        Some(px) => Err(RecipeError::SizeConditioning { field, px: *px }),
        None => Ok(()),
    }
}

fn check_refiner(refiner: &RefinerUse) -> Result<(), RecipeError> {
    let refuse = |field, value, allowed| Err(RecipeError::Refiner { field, value, allowed });
    if !(refiner.start > 0.0 && refiner.start < 1.0) {
        return refuse("start", refiner.start, "above 0 and below 1");
    }
    for (field, score) in
        [("aesthetic_score", refiner.aesthetic_score), ("negative_aesthetic_score", refiner.negative_aesthetic_score)]
    {
        if !(0.0..=10.0).contains(&score) {
            return refuse(field, score, "0 to 10");
        }
    }
    Ok(())
}

fn check_images(recipe: &Recipe) -> Result<(), RecipeError> {
    match &recipe.init {
        Some(init) if !(init.strength > 0.0 && init.strength <= 1.0) => {
            return Err(RecipeError::Strength { strength: init.strength });
        }
        None if recipe.mask.is_some() => return Err(RecipeError::MaskAlone),
        _ => {}
    }
    if recipe.controls.len() > limits::CONTROLS_MAX {
        return Err(RecipeError::Controls { count: recipe.controls.len() });
    }
    for ControlUse { weight, start, end, .. } in &recipe.controls {
        let refused = check_span(*weight, (*start, *end));
        refused.map_err(|Refused { field, value, allowed }| RecipeError::Control { field, value, allowed })?;
    }
    Ok(())
}

/// A field that is out of bounds, and what would not be.
struct Refused {
    field: &'static str,
    value: f64,
    allowed: &'static str,
}

/// How much something guides, and in which part of the way.
fn check_span(weight: f64, (start, end): (f64, f64)) -> Result<(), Refused> {
    let refuse = |field, value, allowed| Err(Refused { field, value, allowed });
    if !(-10.0..=10.0).contains(&weight) {
        return refuse("weight", weight, "-10 to 10");
    }
    if !(0.0..1.0).contains(&start) {
        return refuse("start", start, "0 up to 1");
    }
    if !(end > start && end <= 1.0) {
        return refuse("end", end, "above `start`, up to 1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_may_have_lines_and_tabs_and_no_other_control_character() {
        let refusal = |prompt: &str| {
            let recipe = Recipe::new(Digest::of_bytes(b"checkpoint"), prompt, (64, 64));
            ValidRecipe::try_from(Recipe { negative_prompt: "a\r\nb".into(), ..recipe }).err()
        };
        assert_eq!(refusal("a mug,\n\ton a table\r\n"), None);
        for prompt in ["a\0b", "a\u{1b}[31m", "a\u{7f}"] {
            assert_eq!(refusal(prompt), Some(RecipeError::PromptCharacter { field: "prompt" }), "{prompt:?}");
        }
    }

    fn recipe() -> Recipe {
        Recipe {
            checkpoint: Digest::of_bytes(b"checkpoint"),
            prompt: "a teal mug".into(),
            negative_prompt: String::new(),
            width_px: 192,
            height_px: 192,
            seed: 7,
            scheduler: SchedulerChoice::default(),
            steps: 20,
            guidance: 4.0,
            ..Recipe::new(Digest::of_bytes(b"checkpoint"), "", (0, 0))
        }
    }

    #[test]
    fn the_canonical_form_sorts_keys_and_writes_whole_numbers_plainly() {
        let json = canonical_json(&recipe()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let json = json.unwrap_or_default();
        assert!(json.starts_with(r#"{"checkpoint":"blake3:"#), "{json}");
        assert!(json.contains(r#""guidance":4,"height_px":192"#), "{json}");
    }

    const SIZES: SizeConditioning =
        SizeConditioning { original_px: [512, 512], crop_px: [0, 0], target_px: [1024, 1024] };

    /// Ids are for ever: a field that a recipe does not use leaves no trace in its canonical form.
    #[test]
    fn fields_that_say_nothing_are_not_written() {
        let json = canonical_json(&recipe()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let json: serde_json::Value = serde_json::from_str(&json.unwrap_or_default()).unwrap_or_default();
        let keys: Vec<&str> = json.as_object().map(|o| o.keys().map(String::as_str).collect()).unwrap_or_default();
        let expected = [
            "checkpoint",
            "guidance",
            "height_px",
            "negative_prompt",
            "prompt",
            "scheduler",
            "seed",
            "steps",
            "width_px",
        ];
        assert_eq!(keys, expected);
        assert_eq!(json["scheduler"], serde_json::json!({}));
    }

    #[test]
    fn every_field_changes_the_id() {
        let id = |edit: fn(&mut Recipe)| {
            let mut recipe = recipe();
            edit(&mut recipe);
            ValidRecipe::try_from(recipe).map(|valid| valid.id())
        };
        let edits: [fn(&mut Recipe); 19] = [
            |_| {},
            |r| r.prompt.push('s'),
            |r| r.negative_prompt.push('s'),
            |r| r.width_px = 200,
            |r| r.height_px = 200,
            |r| r.seed = 8,
            |r| r.scheduler.kind = Some(SchedulerKind::Euler),
            |r| r.steps = 21,
            |r| r.guidance = 4.5,
            |r| r.guidance_rescale = 0.7,
            |r| r.long_prompt = LongPrompt::Cut,
            |r| r.sizes = Some(SIZES),
            |r| r.negative_sizes = Some(SIZES),
            |r| r.refiner = Some(RefinerUse::new(Digest::of_bytes(b"refiner"), 0.8)),
            |r| r.refiner = Some(RefinerUse::new(Digest::of_bytes(b"refiner"), 0.7)),
            |r| r.scheduler.sigmas = Some(SigmaSpacing::Exponential),
            |r| r.scheduler.zero_terminal_snr = Some(true),
            |r| r.embeddings = vec![EmbeddingUse { digest: r.checkpoint, token: "<mug>".into() }],
            |r| r.embeddings = vec![EmbeddingUse { digest: r.checkpoint, token: "<jug>".into() }],
        ];
        let ids: std::collections::HashSet<_> = edits.iter().filter_map(|edit| id(*edit).ok()).collect();
        assert_eq!(ids.len(), edits.len());
    }

    #[test]
    fn out_of_bounds_recipes_name_the_field() {
        let refused = |edit: fn(&mut Recipe)| {
            let mut recipe = recipe();
            edit(&mut recipe);
            ValidRecipe::try_from(recipe).map_or_else(|error| error.to_string(), |_| "accepted".into())
        };
        assert!(refused(|r| r.prompt = "x".repeat(5000)).contains("`prompt`"));
        assert!(refused(|r| r.negative_prompt = "\0".into()).contains("`negative_prompt`"));
        assert!(refused(|r| r.width_px = 193).contains("multiples of 8"));
        assert!(refused(|r| r.width_px = 0).contains("zero"));
        assert!(refused(|r| r.height_px = 8192).contains("4096"));
        assert!(refused(|r| r.steps = 0).contains("`steps`"));
        assert!(refused(|r| r.guidance = f64::NAN).contains("`guidance`"));
        assert!(refused(|r| r.guidance_rescale = 1.5).contains("`guidance_rescale`"));
        assert!(refused(|r| r.sizes = Some(SizeConditioning { original_px: [0, 1], ..SIZES })).contains("`sizes`"));
        let far_off = |r: &mut Recipe| r.negative_sizes = Some(SizeConditioning { crop_px: [0, 99_999], ..SIZES });
        let init = |strength| Some(InitUse { image: Digest::of_bytes(b"image"), strength });
        assert_eq!(refused(|r| r.mask = Some(r.checkpoint)), RecipeError::MaskAlone.to_string());
        for strength in [0.0, -1.0, 1.5, f64::NAN] {
            let mut recipe = recipe();
            recipe.init = init(strength);
            assert!(matches!(ValidRecipe::try_from(recipe), Err(RecipeError::Strength { .. })), "{strength}");
        }
        for (field, weight, start, end) in
            [("weight", 11.0, 0.0, 1.0), ("start", 1.0, 1.0, 1.0), ("end", 1.0, 0.5, 0.5), ("end", 1.0, 0.0, 2.0)]
        {
            let mut recipe = recipe();
            let (network, image) = (Digest::of_bytes(b"network"), Digest::of_bytes(b"image"));
            recipe.controls = vec![ControlUse { network, image, weight, start, end }];
            let error = ValidRecipe::try_from(recipe).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert!(refused(far_off).contains("`negative_sizes`"));
        assert!(refused(|r| r.refiner = Some(RefinerUse::new(r.checkpoint, 1.0))).contains("`refiner.start`"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = String::from_utf8(canonical_json(&recipe()).unwrap_or_default()).unwrap_or_default();
        let text = text.replacen('{', r#"{"strength":1,"#, 1);
        assert!(serde_json::from_str::<Recipe>(&text).is_err());
    }
}
