//! Pictures that are drawn in parts, one after the other, as one recipe: a draft that is enlarged and drawn over, and details that
//! are painted anew under masks.
//!
//! Each part is a recipe of its own ([`ValidRecipe::parts`]): its bounds are checked as any recipe's are. What a part does not say
//! it has from the whole. The first part draws its noise from the seed, each other one from the seed and its place, because equal
//! noise would be painted twice over. Invariants: a recipe without `draft` and `details` is one part, itself; all parts but
//! the first begin with the picture so far.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ControlUse, InitUse, LoraUse, Recipe, RecipeError, ValidRecipe};
use crate::ids::Digest;
use crate::limits;

/// How a draft becomes as large as the picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enlarge {
    /// It is decoded, its pixels are resampled as Pillow's bicubic filter does it, and encoded again.
    #[default]
    Pixels,
    /// Its latents are interpolated linearly: cheaper and softer, for strengths from about one half on.
    Latents,
}

impl Enlarge {
    pub const ALL: [Self; 2] = [Self::Pixels, Self::Latents];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pixels => "pixels",
            Self::Latents => "latents",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A smaller picture, with which the recipe's own steps begin instead of noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftUse {
    pub width_px: u32,
    pub height_px: u32,
    /// How much of the way is gone by the recipe's own steps: close to 0 keeps the draft, 1 keeps nothing of it.
    pub strength: f64,
    #[serde(default, skip_serializing_if = "Enlarge::is_default")]
    pub enlarge: Enlarge,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loras: Option<Vec<LoraUse>>,
    /// Images of the draft's size. The recipe's own act on its own steps alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlUse>,
}

/// A detail that is painted anew once the picture is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetailUse {
    /// A PNG of the picture's size: what is white is painted anew.
    pub mask: Digest,
    pub strength: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loras: Option<Vec<LoraUse>>,
}

/// What a part names as the picture so far. No file has this digest.
#[must_use]
pub fn picture_so_far() -> Digest {
    Digest::of_bytes(b"bildkante: the picture so far")
}

/// The parts of a recipe; none where it is one.
pub(super) fn of(recipe: &Recipe) -> Result<Vec<Arc<ValidRecipe>>, RecipeError> {
    if recipe.details.len() > limits::DETAILS_MAX {
        return Err(RecipeError::Details { count: recipe.details.len() });
    }
    if recipe.draft.is_none() && recipe.details.is_empty() {
        return Ok(Vec::new());
    }
    let whole = Recipe { draft: None, details: Vec::new(), ..recipe.clone() };
    let mut parts = Vec::new();
    match &recipe.draft {
        Some(draft) => {
            check_draft(recipe, draft)?;
            parts.push(("draft", drafted(&whole, draft)));
            parts.push(("draft", Recipe { init: so_far(draft.strength), ..whole.clone() }));
        }
        None => parts.push(("recipe", whole.clone())),
    }
    parts.extend(recipe.details.iter().map(|detail| ("details", detailed(&whole, detail))));
    let numbered = (0..).zip(parts).map(|(place, (part, recipe))| {
        let recipe = Recipe { seed: recipe.seed.wrapping_add(place), ..recipe };
        let valid = ValidRecipe::try_from(recipe);
        valid.map(Arc::new).map_err(|reason| RecipeError::Part { part, reason: Box::new(reason) })
    });
    numbered.collect()
}

fn so_far(strength: f64) -> Option<InitUse> {
    Some(InitUse { image: picture_so_far(), strength })
}

fn drafted(whole: &Recipe, draft: &DraftUse) -> Recipe {
    Recipe {
        width_px: draft.width_px,
        height_px: draft.height_px,
        steps: draft.steps.unwrap_or(whole.steps),
        guidance: draft.guidance.unwrap_or(whole.guidance),
        loras: draft.loras.clone().unwrap_or_else(|| whole.loras.clone()),
        controls: draft.controls.clone(),
        // It comes at the end of the way, and this is its beginning.
        refiner: None,
        ..whole.clone()
    }
}

fn detailed(whole: &Recipe, detail: &DetailUse) -> Recipe {
    Recipe {
        init: so_far(detail.strength),
        mask: Some(detail.mask),
        steps: detail.steps.unwrap_or(whole.steps),
        guidance: detail.guidance.unwrap_or(whole.guidance),
        prompt: detail.prompt.clone().unwrap_or_else(|| whole.prompt.clone()),
        negative_prompt: detail.negative_prompt.clone().unwrap_or_else(|| whole.negative_prompt.clone()),
        loras: detail.loras.clone().unwrap_or_else(|| whole.loras.clone()),
        refiner: None,
        ..whole.clone()
    }
}

/// A draft has the picture's shape, to a multiple of eight, and is not larger.
fn check_draft(recipe: &Recipe, draft: &DraftUse) -> Result<(), RecipeError> {
    if recipe.init.is_some() || recipe.mask.is_some() {
        return Err(RecipeError::DraftInit);
    }
    let [width, height] = [recipe.width_px, recipe.height_px].map(u64::from);
    let [draft_width, draft_height] = [draft.width_px, draft.height_px].map(u64::from);
    let skew = (draft_width * height).abs_diff(draft_height * width);
    let is_alike = skew <= u64::from(limits::MASTER_SIDE_PX_MULTIPLE) * width.max(height);
    if !is_alike || draft_width > width || draft_height > height {
        let (width_px, height_px) = (draft.width_px, draft.height_px);
        return Err(RecipeError::DraftSize { width_px, height_px });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let digest = Digest::of_bytes(b"checkpoint");
        Recipe { seed: u32::MAX, steps: 30, ..Recipe::new(digest, "a mug", (1024, 576)) }
    }

    fn draft() -> DraftUse {
        DraftUse {
            width_px: 512,
            height_px: 288,
            strength: 0.5,
            enlarge: Enlarge::Pixels,
            steps: Some(20),
            guidance: None,
            loras: None,
            controls: Vec::new(),
        }
    }

    fn detail() -> DetailUse {
        let mask = Digest::of_bytes(b"mask");
        DetailUse { mask, strength: 0.4, steps: None, guidance: None, prompt: None, negative_prompt: None, loras: None }
    }

    #[test]
    fn each_part_has_what_it_says_and_the_rest_from_the_whole() {
        let alone = ValidRecipe::try_from(recipe()).map(Arc::new).expect("valid");
        assert_eq!(alone.parts().len(), 1);
        assert!(Arc::ptr_eq(&alone.parts()[0], &alone));
        let prompt = Some("a handle".to_owned());
        let details = vec![DetailUse { prompt, ..detail() }];
        let whole = ValidRecipe::try_from(Recipe { draft: Some(draft()), details, ..recipe() }).expect("valid");
        assert_ne!(whole.id(), alone.id());
        let parts = Arc::new(whole).parts();
        let sizes: Vec<_> = parts.iter().map(|part| (part.width_px, part.height_px, part.steps, part.seed)).collect();
        assert_eq!(sizes, [(512, 288, 20, u32::MAX), (1024, 576, 30, 0), (1024, 576, 30, 1)]);
        assert_eq!(parts[0].init, None);
        assert!(parts[1..].iter().all(|part| part.init.as_ref().is_some_and(|init| init.image == picture_so_far())));
        assert_eq!((parts[2].mask, parts[2].prompt.as_str()), (Some(Digest::of_bytes(b"mask")), "a handle"));
        let detailed = ValidRecipe::try_from(Recipe { details: vec![detail()], ..recipe() }).map(Arc::new);
        let parts = detailed.expect("valid").parts();
        assert_eq!((parts.len(), parts[0].id()), (2, alone.id()), "the first part is what it would be alone");
    }

    #[test]
    fn what_no_part_can_be_is_refused_with_the_part() {
        let refused = |recipe: Recipe| ValidRecipe::try_from(recipe).expect_err("refused").to_string();
        let drafted = |draft: DraftUse| refused(Recipe { draft: Some(draft), ..recipe() });
        assert!(drafted(DraftUse { width_px: 2048, height_px: 1152, ..draft() }).contains("2048×1152"));
        assert!(drafted(DraftUse { height_px: 512, ..draft() }).contains("512×512"));
        assert!(drafted(DraftUse { strength: 0.0, ..draft() }).contains("`draft`: `init.strength`"));
        assert!(drafted(DraftUse { steps: Some(0), ..draft() }).contains("`draft`: `steps`"));
        let init = Some(InitUse { image: Digest::of_bytes(b"image"), strength: 0.5 });
        assert_eq!(refused(Recipe { draft: Some(draft()), init, ..recipe() }), RecipeError::DraftInit.to_string());
        let prompt = Some("\0".to_owned());
        let details = vec![DetailUse { prompt, ..detail() }];
        assert!(refused(Recipe { details, ..recipe() }).contains("`details`: `prompt`"));
        assert!(refused(Recipe { details: vec![detail(); 9], ..recipe() }).contains("9"));
    }
}
