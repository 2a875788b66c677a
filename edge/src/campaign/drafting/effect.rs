//! What an edit changes: the recipes of all variants before and after it.

use std::collections::HashSet;

use bildkante_shared::ids::RecipeId;

use crate::campaign::catalog::{Campaign, Catalog};

/// Changes that are told one by one.
pub const CHANGES_LISTED_MAX: usize = 50;
/// Combinations that are compared: a second or two of one core.
const COMPARED_MAX: usize = 100_000;

/// A variant that would have another recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The first variant with this recipe: `campaign/slot?axis=value`.
    pub variant: String,
    pub before: RecipeId,
    pub after: RecipeId,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Effect {
    /// Variants with another recipe.
    pub variants: usize,
    /// Each recipe once.
    pub recipes: Vec<Changed>,
    /// Whether there are more than were compared.
    pub is_cut: bool,
}

/// Those of the campaign `own` come first.
pub(super) fn between(before: &Catalog, after: &Catalog, own: &str) -> Effect {
    let mut effect = Effect::default();
    let (mut seen, mut compared) = (HashSet::new(), 0);
    let mut campaigns: Vec<_> = after.campaigns().collect();
    campaigns.sort_by_key(|campaign| campaign.name != own);
    for campaign in campaigns {
        let Some(former) = before.campaign(&campaign.name) else { continue };
        for slot_index in (0..campaign.slots.len()).filter(|&index| is_changed((former, campaign), index)) {
            for combination in campaign.combinations() {
                if compared == COMPARED_MAX {
                    effect.is_cut = true;
                    return effect;
                }
                compared += 1;
                let of = |campaign: &Campaign| campaign.recipe_of(slot_index, combination).map(|recipe| recipe.id());
                let (Some(before), Some(after)) = (of(former), of(campaign)) else { continue };
                if before == after {
                    continue;
                }
                effect.variants += 1;
                if seen.insert(after) {
                    let slot = &campaign.slots[slot_index];
                    let variant = campaign.picture_of(slot, &campaign.values_of(combination));
                    effect.recipes.push(Changed { variant, before, after });
                }
            }
        }
    }
    effect
}

/// Whether its recipes can differ.
fn is_changed((before, after): (&Campaign, &Campaign), slot_index: usize) -> bool {
    let (Some(former), Some(slot)) = (before.slots.get(slot_index), after.slots.get(slot_index)) else { return false };
    let (Some(former), Some(drawn)) = (former.drawn(), slot.drawn()) else { return false };
    former.seeds != drawn.seeds || before.prompt_revision(slot_index) != after.prompt_revision(slot_index)
}
