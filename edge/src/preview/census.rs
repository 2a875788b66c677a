//! Every picture of a slot, in the order of the manifest: one entry for all locales that share it.
//!
//! A census follows from the catalogue alone, so it is counted once for each state of a slot. What people decided is looked up
//! anew for each page.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::MasterRecipe;
use moka::sync::Cache;

use crate::campaign::axes::LOCALE_AXIS;
use crate::campaign::{Campaign, Slot};

/// Pictures of all censuses that are remembered together, a hundred bytes each.
const REMEMBERED_MAX: u64 = 2_000_000;

/// One picture.
#[derive(Debug)]
pub(super) struct Entry {
    /// The first variant that has it.
    pub(super) combination: u32,
    pub(super) picture: Box<str>,
    /// As the manifest has it now; `None` where it is out of bounds, which a valid manifest rules out.
    pub(super) recipe: Option<RecipeId>,
    /// Whether it can be made: it does not wait for an import.
    pub(super) is_makeable: bool,
    /// Variants that share it.
    pub(super) variants: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Census {
    pub(super) entries: Vec<Entry>,
    /// The axes that pictures of the slot differ by, in the order of the manifest.
    pub(super) axes: Vec<usize>,
    /// Where the entry of a combination is, by its projection.
    places: HashMap<u32, usize>,
}

impl Census {
    fn of(campaign: &Campaign, slot_index: usize) -> Self {
        let slot = &campaign.slots[slot_index];
        let axes = campaign.differing_axes(slot);
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        for combination in campaign.combinations() {
            match places.entry(projected(campaign, &axes, combination)) {
                Place::Occupied(known) => entries[*known.get()].variants += 1,
                Place::Vacant(place) => {
                    place.insert(entries.len());
                    let recipe = campaign.recipe_of(slot_index, combination);
                    entries.push(Entry {
                        combination,
                        picture: campaign.picture_of(slot, &campaign.values_of(combination)).into(),
                        is_makeable: recipe.as_ref().is_some_and(|it| !matches!(it, MasterRecipe::Awaited(_))),
                        recipe: recipe.map(|recipe| recipe.id()),
                        variants: 1,
                    });
                }
            }
        }
        Self { entries, axes, places }
    }

    /// The entry that has the picture of a combination; `None` where the combination is not allowed.
    pub(super) fn entry_of(&self, campaign: &Campaign, combination: u32) -> Option<usize> {
        self.places.get(&projected(campaign, &self.axes, combination)).copied()
    }

    /// The axes that a reader chooses by. What no picture differs by is no choice.
    pub(super) fn chosen_by(&self, campaign: &Campaign) -> Vec<usize> {
        self.axes.iter().copied().filter(|&axis| campaign.axes[axis].values.len() > 1).collect()
    }

    /// The axes that make up a matrix unless the reader says otherwise: the first two, the locale last.
    pub(super) fn usual_pair(&self, campaign: &Campaign) -> Option<(usize, usize)> {
        let mut axes = self.chosen_by(campaign);
        axes.sort_by_key(|&axis| campaign.axes[axis].name == LOCALE_AXIS);
        match axes[..] {
            [rows, columns, ..] => Some((rows, columns)),
            _ => None,
        }
    }
}

/// A combination with every axis that makes no difference at its first value.
fn projected(campaign: &Campaign, axes: &[usize], combination: u32) -> u32 {
    let others = (0..campaign.axes.len()).filter(|axis| !axes.contains(axis));
    others.fold(combination, |combination, axis| campaign.replaced(combination, axis, 0))
}

/// Remembers censuses. Counting a large slot is work for a thread of its own.
#[derive(Debug, Clone)]
pub(super) struct Censuses(Cache<u64, Arc<Census>>);

impl Default for Censuses {
    fn default() -> Self {
        let weight = |_: &u64, census: &Arc<Census>| u32::try_from(census.entries.len()).unwrap_or(u32::MAX);
        Self(Cache::builder().weigher(weight).max_capacity(REMEMBERED_MAX).build())
    }
}

impl Censuses {
    pub(super) fn of(&self, campaign: &Campaign, slot_index: usize) -> Arc<Census> {
        let id = campaign.slot_id(slot_index);
        self.0.get_with(id, || Arc::new(Census::of(campaign, slot_index)))
    }
}

/// The slot of an entry, as pages pass both around.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotOf<'c> {
    pub(super) campaign: &'c Campaign,
    pub(super) slot_index: usize,
}

impl<'c> SlotOf<'c> {
    pub(super) fn slot(self) -> &'c Slot {
        &self.campaign.slots[self.slot_index]
    }
}
