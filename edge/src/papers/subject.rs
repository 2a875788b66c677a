//! Which picture is meant: from a URL, a variant's name or an id to its variants, recipes and master.
//!
//! Invariants: work is bounded, whatever the catalogue holds, and a search that ends early says so; the catalogue's memory
//! of variants, which requests live from, is left alone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::problem::Problem;

use crate::cache::{Binding, Bindings};
use crate::campaign::{Campaign, Catalog};
use crate::request::IMAGE_PATH_PREFIX;
use crate::resolve::{Operator, Resolved, resolve};

/// Longest text that names a picture.
pub(super) const SUBJECT_BYTES_MAX: usize = 2_048;
/// Variants that are looked through for those of a master: about a second's work.
const LOOKED_MAX: usize = 200_000;
/// Places of one master that are told.
const PLACES_MAX: usize = 200;
/// Recipes of one master that are told.
const RECIPES_MAX: usize = 200;

/// Why nothing is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error("it has more than {SUBJECT_BYTES_MAX} bytes")]
    TooLong,
    #[error("{0}")]
    NoPicture(String),
    #[error(
        "no recipe is bound to a master `{id}`, and no campaign has a recipe of this id: this edge has not seen the picture, or \
         has forgotten it"
    )]
    Unknown { id: String },
    #[error("the edge is stopping")]
    Stopping,
}

impl SubjectError {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::NoPicture(_) => "no-picture",
            Self::Unknown { .. } => "unknown-picture",
            Self::Stopping => "stopping",
        }
    }

    #[must_use]
    pub fn problem(&self) -> Problem {
        let (status, title) = match self {
            Self::TooLong | Self::NoPicture(_) => (400, "No picture"),
            Self::Unknown { .. } => (404, "Not found"),
            Self::Stopping => (503, "Stopping"),
        };
        Problem::new(status, self.as_str(), title, self.to_string()).with_parameter("of", vec![])
    }
}

/// A variant that shows the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) campaign: String,
    pub(super) slot: String,
    /// Axes that are not at their default.
    pub(super) query: String,
    pub(super) recipe: RecipeId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.query.is_empty() { "" } else { "?" };
        write!(f, "{}/{}{separator}{}", self.campaign, self.slot, self.query)
    }
}

/// What is meant.
#[derive(Debug)]
pub(super) struct Subject {
    /// Where it was looked up.
    pub(super) catalog: Arc<Catalog>,
    pub(super) asked: String,
    /// The variant that the dossier is about, at its slot's default width; `None` where no campaign shows the master any more.
    pub(super) resolved: Option<Resolved>,
    pub(super) recipe: RecipeId,
    /// `None` where the picture is not drawn yet, or was forgotten.
    pub(super) binding: Option<Arc<Binding>>,
    /// All recipes that came out as this master, the one that drew it first, then by age.
    pub(super) bound: Vec<(RecipeId, Arc<Binding>)>,
    /// Every variant of the catalogue with one of these recipes.
    pub(super) places: Vec<Place>,
    /// Whether there may be more places than are told.
    pub(super) is_whole: bool,
}

/// Where pictures are looked up. Blocks: not for an async worker.
pub(super) struct Reader {
    pub(super) catalog: Arc<Catalog>,
    pub(super) bindings: Bindings,
}

impl Reader {
    pub(super) fn read(&self, asked: &str) -> Result<Subject, SubjectError> {
        let asked = asked.trim();
        if asked.len() > SUBJECT_BYTES_MAX {
            return Err(SubjectError::TooLong);
        }
        match asked.parse::<RecipeId>() {
            Ok(id) => self.of_id(asked, id),
            Err(_) => self.of_url(asked),
        }
    }

    fn of_url(&self, asked: &str) -> Result<Subject, SubjectError> {
        let is_variant = !asked.contains("://") && !asked.starts_with('/');
        let url = if is_variant { format!("{IMAGE_PATH_PREFIX}{asked}") } else { asked.to_owned() };
        let resolved = resolve(&self.catalog, url.as_str(), &Operator).outcome;
        let resolved = resolved.map_err(|refusal| SubjectError::NoPicture(refusal.to_string()))?.resolved;
        let recipe = resolved.variant.recipe.id();
        let binding = self.bindings.get(recipe);
        let bound = binding.as_ref().map(|binding| self.bound(binding.master)).unwrap_or_default();
        let (places, is_whole) = self.places(&bound, recipe);
        let (catalog, asked) = (Arc::clone(&self.catalog), asked.to_owned());
        Ok(Subject { catalog, asked, resolved: Some(resolved), recipe, binding, bound, places, is_whole })
    }

    /// Ids of masters and recipes look alike.
    fn of_id(&self, asked: &str, id: RecipeId) -> Result<Subject, SubjectError> {
        let of_recipe = self.bindings.get(id);
        let master = of_recipe.as_ref().map_or(MasterId::from_raw(*id.as_bytes()), |binding| binding.master);
        let bound = self.bound(master);
        let (places, is_whole) = self.places(&bound, id);
        let first = of_recipe.map(|binding| (id, binding)).or_else(|| bound.first().cloned());
        let recipe = first.as_ref().map_or(id, |(recipe, _)| *recipe);
        let place = places.iter().find(|place| place.recipe == recipe).or_else(|| places.first());
        let resolved = place.and_then(|place| self.resolved(place));
        let Some(recipe) = resolved.as_ref().map(|resolved| resolved.variant.recipe.id()).or(first.map(|(id, _)| id))
        else {
            return Err(SubjectError::Unknown { id: asked.to_owned() });
        };
        let (catalog, asked, binding) = (Arc::clone(&self.catalog), asked.to_owned(), self.bindings.get(recipe));
        Ok(Subject { catalog, asked, resolved, recipe, binding, bound, places, is_whole })
    }

    fn resolved(&self, place: &Place) -> Option<Resolved> {
        let campaign = self.catalog.campaign(&place.campaign)?;
        let slot = &campaign.slots[campaign.slot_index(&place.slot)?];
        let url = campaign.url(slot, &place.query);
        resolve(&self.catalog, url.as_str(), &Operator).outcome.ok().map(|resolution| resolution.resolved)
    }

    /// What drew the master stands first: the others were found to look like it.
    fn bound(&self, master: MasterId) -> Vec<(RecipeId, Arc<Binding>)> {
        let mut bound = self.bindings.recipes_of(master);
        bound.sort_by_key(|(recipe, binding)| (binding.duplicate.is_some(), binding.created_unix_ms, *recipe));
        bound.truncate(RECIPES_MAX);
        bound
    }

    fn places(&self, bound: &[(RecipeId, Arc<Binding>)], own: RecipeId) -> (Vec<Place>, bool) {
        let wanted: BTreeSet<RecipeId> = bound.iter().map(|(recipe, _)| *recipe).chain([own]).collect();
        let mut looked = 0;
        let mut places = Vec::new();
        for campaign in self.catalog.campaigns() {
            for slot in 0..campaign.slots.len() {
                for combination in campaign.combinations() {
                    looked += 1;
                    if looked > LOOKED_MAX || places.len() >= PLACES_MAX {
                        return (places, false);
                    }
                    places.extend(place(campaign, slot, combination, &wanted));
                }
            }
        }
        (places, true)
    }
}

fn place(campaign: &Campaign, slot: usize, combination: u32, wanted: &BTreeSet<RecipeId>) -> Option<Place> {
    let recipe = campaign.recipe_of(slot, combination)?.id();
    wanted.contains(&recipe).then(|| Place {
        campaign: campaign.name.clone(),
        slot: campaign.slots[slot].name.clone(),
        query: campaign.query(combination),
        recipe,
    })
}
