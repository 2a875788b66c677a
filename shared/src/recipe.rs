//! A recipe: everything that determines a generated image, and its id.
//!
//! [`Recipe`] is the wire and storage form. [`ValidRecipe`] is one that passed every bound and carries its
//! id; only it reaches a queue or a device.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RecipeId};
use crate::limits;

/// A sampler by its usual name; how it is configured comes from the checkpoint's `scheduler_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerKind {
    Ddim,
    Pndm,
    Euler,
    EulerAncestral,
    #[serde(rename = "dpmpp_2m")]
    DpmPp2M,
}

impl SchedulerKind {
    pub const ALL: [Self; 5] = [Self::Ddim, Self::Pndm, Self::Euler, Self::EulerAncestral, Self::DpmPp2M];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_ancestral",
            Self::DpmPp2M => "dpmpp_2m",
        }
    }
}

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SchedulerKind {
    type Err = RecipeError;

    fn from_str(text: &str) -> Result<Self, RecipeError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| RecipeError::Scheduler { name: text.chars().take(40).collect() })
    }
}

/// How inference steps are laid over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Leading,
    Trailing,
    Linspace,
}

/// What of the checkpoint's own scheduler a recipe overrides; an empty one overrides nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerChoice {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SchedulerKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Karras et al. 2022 spacing of the sigmas, where the sampler knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub karras_sigmas: Option<bool>,
}

/// One adapter by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraUse {
    pub digest: Digest,
    pub weight: f64,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse>,
}

/// Why a recipe is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    #[error("`{field}` has {bytes} bytes, at most {} are allowed", limits::PROMPT_BYTES_MAX)]
    PromptLength { field: &'static str, bytes: usize },
    #[error("`{field}` holds a control character")]
    PromptCharacter { field: &'static str },
    #[error("{width_px}×{height_px} px: {reason}")]
    Size { width_px: u32, height_px: u32, reason: &'static str },
    #[error("`steps` is 1 to {}, not {steps}", limits::STEPS_MAX)]
    Steps { steps: u32 },
    #[error("`guidance` is 0 to {}, not {guidance}", limits::GUIDANCE_MAX)]
    Guidance { guidance: f64 },
    #[error("a recipe has at most {} adapters, not {count}", limits::LORAS_MAX)]
    Loras { count: usize },
    #[error("an adapter's weight is -10 to 10, not {weight}")]
    LoraWeight { weight: f64 },
    #[error("no scheduler `{name}`; there are ddim, pndm, euler, euler_ancestral and dpmpp_2m")]
    Scheduler { name: String },
    #[error("the recipe has no canonical JSON form: {reason}")]
    Canonical { reason: String },
}

/// A recipe within every bound, with its id.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidRecipe {
    recipe: Recipe,
    id: RecipeId,
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
        check_size(recipe.width_px, recipe.height_px)?;
        if !(1..=limits::STEPS_MAX).contains(&recipe.steps) {
            return Err(RecipeError::Steps { steps: recipe.steps });
        }
        if !(0.0..=limits::GUIDANCE_MAX).contains(&recipe.guidance) {
            return Err(RecipeError::Guidance { guidance: recipe.guidance });
        }
        if recipe.loras.len() > limits::LORAS_MAX {
            return Err(RecipeError::Loras { count: recipe.loras.len() });
        }
        if let Some(lora) = recipe.loras.iter().find(|lora| !(-10.0..=10.0).contains(&lora.weight)) {
            return Err(RecipeError::LoraWeight { weight: lora.weight });
        }
        let id = RecipeId::of_bytes(&canonical_json(&recipe)?);
        Ok(Self { recipe, id })
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
    if text.chars().any(char::is_control) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            loras: vec![],
        }
    }

    #[test]
    fn the_canonical_form_sorts_keys_and_writes_whole_numbers_plainly() {
        let json = canonical_json(&recipe()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let json = json.unwrap_or_default();
        assert!(json.starts_with(r#"{"checkpoint":"blake3:"#), "{json}");
        assert!(json.contains(r#""guidance":4,"height_px":192"#), "{json}");
    }

    #[test]
    fn every_field_changes_the_id() {
        let id = |edit: fn(&mut Recipe)| {
            let mut recipe = recipe();
            edit(&mut recipe);
            ValidRecipe::try_from(recipe).map(|valid| valid.id())
        };
        let edits: [fn(&mut Recipe); 9] = [
            |_| {},
            |r| r.prompt.push('s'),
            |r| r.negative_prompt.push('s'),
            |r| r.width_px = 200,
            |r| r.height_px = 200,
            |r| r.seed = 8,
            |r| r.scheduler.kind = Some(SchedulerKind::Euler),
            |r| r.steps = 21,
            |r| r.guidance = 4.5,
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
        assert!(refused(|r| r.negative_prompt = "\n".into()).contains("`negative_prompt`"));
        assert!(refused(|r| r.width_px = 193).contains("multiples of 8"));
        assert!(refused(|r| r.width_px = 0).contains("zero"));
        assert!(refused(|r| r.height_px = 8192).contains("4096"));
        assert!(refused(|r| r.steps = 0).contains("`steps`"));
        assert!(refused(|r| r.guidance = f64::NAN).contains("`guidance`"));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = String::from_utf8(canonical_json(&recipe()).unwrap_or_default()).unwrap_or_default();
        let text = text.replacen('{', r#"{"strength":1,"#, 1);
        assert!(serde_json::from_str::<Recipe>(&text).is_err());
    }
}
