//! What a kill covers of the catalogue and of what was drawn: the tags that caches further down are told.
//!
//! Those caches know campaigns, slots, recipes and masters. Of a value, a variant or a part they are told the recipes; where these
//! are more than [`RECIPES_MAX`], they are told the campaigns that have them. More is purged then than was asked for, never less.
//!
//! Looking takes up to some milliseconds for each thousand variants: it belongs on no async worker.

use std::collections::BTreeSet;
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::MasterRecipe;

use crate::cache::Bindings;
use crate::campaign::{Campaign, Catalog, Parts, Slot};
use crate::shared_state::Target;

/// Most recipes that are told one by one.
pub const RECIPES_MAX: usize = 256;
/// Most variants that are looked through for one recipe or master, some twenty microseconds each: who kills many of them one by one
/// waits for this each time. The campaigns behind count as if they showed it.
const VARIANTS_MAX: usize = 2_000;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Covered {
    /// The campaigns that show what is covered.
    pub campaigns: Vec<String>,
    /// `None`: more than are counted.
    pub recipes: Option<usize>,
    pub tags: Vec<String>,
    /// Pictures are covered whose campaigns are not known any more, too many to be named: everything is told.
    pub is_everything: bool,
}

/// What a kill of `target` covers.
#[must_use]
pub fn covered(catalog: &Catalog, bindings: &Bindings, target: &Target) -> Covered {
    let tagged = |tag: String, campaigns: Vec<String>, recipes| Covered {
        campaigns,
        recipes,
        tags: vec![tag],
        is_everything: false,
    };
    match target {
        Target::Campaign(name) => tagged(target.to_string(), vec![name.to_string()], None),
        Target::Slot(path) => tagged(
            target.to_string(),
            path.split_once('/').map(|(name, _)| name.to_owned()).into_iter().collect(),
            None,
        ),
        Target::Recipe(recipe) => {
            let recipes = [*recipe];
            let campaigns = Search::new(catalog, |_, _| true).holders(&recipes.into());
            tagged(target.to_string(), campaigns, Some(1))
        }
        Target::Master(master) => {
            let recipes: BTreeSet<RecipeId> =
                bindings.recipes_of(*master).into_iter().map(|(recipe, _)| recipe).collect();
            let campaigns = Search::new(catalog, |_, _| true).holders(&recipes);
            tagged(target.to_string(), campaigns, Some(recipes.len()))
        }
        Target::Value(name) => {
            let (place, pair) = name.split_once('?').unwrap_or((name, ""));
            by_recipes(catalog, place, |campaign, values| has_pair(campaign, values, pair))
        }
        Target::Variant(name) => {
            let (path, pairs) = name.split_once('?').unwrap_or((name, ""));
            let has_all = |campaign: &Campaign, values: &[usize]| {
                pairs.split('&').filter(|pair| !pair.is_empty()).all(|pair| has_pair(campaign, values, pair))
            };
            by_recipes(catalog, path, has_all)
        }
        Target::Checkpoint(digest) => by_parts(catalog, bindings, |parts| parts.checkpoints.contains(digest)),
        Target::Adapter(digest) => by_parts(catalog, bindings, |parts| parts.adapters.contains(digest)),
        Target::Block(name) => by_parts(catalog, bindings, |parts| parts.blocks.iter().any(|block| **block == **name)),
        Target::Import(digest) => by_parts(catalog, bindings, |parts| parts.import == Some(*digest)),
    }
}

fn has_pair(campaign: &Campaign, values: &[usize], pair: &str) -> bool {
    let (axis, value) = pair.split_once('=').unwrap_or((pair, ""));
    let at = campaign.axis_index(axis);
    // An axis that is gone decides nothing any more.
    at.is_none_or(|at| campaign.axes[at].values[values[at]].name == value)
}

/// Recipes of a campaign, or of one of its slots, whose values are covered.
fn by_recipes(catalog: &Catalog, place: &str, is_covered: impl Fn(&Campaign, &[usize]) -> bool) -> Covered {
    let (name, slot) = place.split_once('/').map_or((place, None), |(name, slot)| (name, Some(slot)));
    let search = Search::new(catalog, |campaign, it| campaign.name == name && slot.is_none_or(|slot| it.name == slot));
    let found = search.recipes(|campaign, _, values| is_covered(campaign, values));
    told(found, BTreeSet::new())
}

/// Recipes that have a part: of the catalogue, and of all that was drawn.
fn by_parts(catalog: &Catalog, bindings: &Bindings, has: impl Fn(&Parts) -> bool) -> Covered {
    let of =
        |campaign: &Campaign, slot: &Slot, values: &[usize]| campaign.parts(slot, values).is_some_and(|it| has(&it));
    // Without imports all pictures of a slot are made of the same.
    let may_have = |campaign: &Campaign, slot: &Slot| {
        let defaults = campaign.values_of(campaign.default_combination());
        !campaign.pins().imports.is_empty() || of(campaign, slot, &defaults)
    };
    let found = Search::new(catalog, may_have)
        .recipes(|campaign, slot, values| campaign.pins().imports.is_empty() || of(campaign, slot, values));
    let mut drawn = BTreeSet::new();
    bindings.each(|recipe, binding| {
        if binding.parts.as_deref().is_some_and(&has) {
            drawn.insert(recipe);
        }
    });
    told(found, drawn)
}

/// What was found of the catalogue.
#[derive(Debug, Default)]
struct Found {
    campaigns: BTreeSet<String>,
    recipes: BTreeSet<RecipeId>,
    /// Campaigns with more recipes than are told one by one.
    is_whole: bool,
}

/// `drawn`: recipes of any campaign, those that are gone included.
fn told(found: Found, mut drawn: BTreeSet<RecipeId>) -> Covered {
    let Found { campaigns, recipes, is_whole } = found;
    drawn.retain(|recipe| !recipes.contains(recipe));
    let is_everything = drawn.len() > RECIPES_MAX;
    let of_recipe = |recipe: &RecipeId| format!("recipe:{recipe}");
    let mut tags: Vec<String> = if is_whole {
        campaigns.iter().map(|name| format!("campaign:{name}")).collect()
    } else {
        recipes.iter().map(of_recipe).collect()
    };
    if !is_everything {
        tags.extend(drawn.iter().map(of_recipe));
    }
    let count = (!is_whole).then(|| recipes.len() + drawn.len());
    Covered { campaigns: campaigns.into_iter().collect(), recipes: count, tags, is_everything }
}

/// A look through places of the catalogue.
struct Search<'c, P> {
    catalog: &'c Catalog,
    is_place: P,
}

impl<'c, P: Fn(&Campaign, &Slot) -> bool> Search<'c, P> {
    const fn new(catalog: &'c Catalog, is_place: P) -> Self {
        Self { catalog, is_place }
    }

    fn places(&self) -> impl Iterator<Item = (&'c Arc<Campaign>, usize, &'c Arc<Slot>)> + '_ {
        self.catalog.campaigns().flat_map(move |campaign| {
            let slots = campaign.slots.iter().enumerate();
            slots.filter(|(_, slot)| (self.is_place)(campaign, slot)).map(move |(at, slot)| (campaign, at, slot))
        })
    }

    /// The recipes of variants that are covered. A campaign with more than are told one by one is not looked through further.
    fn recipes(&self, is_covered: impl Fn(&Campaign, &Slot, &[usize]) -> bool) -> Found {
        let mut found = Found::default();
        for (campaign, at, slot) in self.places() {
            for combination in campaign.combinations() {
                if found.recipes.len() > RECIPES_MAX && found.campaigns.contains(&campaign.name) {
                    found.is_whole = true;
                    break;
                }
                if is_covered(campaign, slot, &campaign.values_of(combination)) {
                    found.campaigns.insert(campaign.name.clone());
                    found.recipes.extend(campaign.recipe_of(at, combination).map(|recipe| recipe.id()));
                }
            }
        }
        found.is_whole |= found.recipes.len() > RECIPES_MAX;
        found
    }

    /// The campaigns that ask for one of these recipes, and all that are not looked through because there are too many variants.
    fn holders(&self, recipes: &BTreeSet<RecipeId>) -> Vec<String> {
        let (mut holders, mut looked) = (BTreeSet::new(), 0);
        for (campaign, at, _) in self.places().filter(|_| !recipes.is_empty()) {
            let is_one = |recipe: MasterRecipe| recipes.contains(&recipe.id());
            let holds = |looked: &mut usize| {
                campaign.combinations().any(|it| {
                    *looked += 1;
                    *looked > VARIANTS_MAX || campaign.recipe_of(at, it).is_some_and(is_one)
                })
            };
            if !holders.contains(&campaign.name) && holds(&mut looked) {
                holders.insert(campaign.name.clone());
            }
        }
        holders.into_iter().collect()
    }
}
