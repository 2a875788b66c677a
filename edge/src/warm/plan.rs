//! What there is to warm: a campaign's pictures over ladder and formats, in an order that a restart can take up again.

use std::collections::HashSet;
use std::sync::Arc;

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::import::MasterRecipe;
use serde::{Deserialize, Serialize};

use crate::campaign::variant::recipe;
use crate::campaign::{Campaign, Catalog, Rung, Slot};
use crate::request::{IMAGE_PATH_PREFIX, excerpt};
use crate::words::Format;

/// Most renditions of one job.
pub const RENDITIONS_MAX: u64 = 2_000_000;
/// Formats warmed unless others are named: those `<picture>` offers.
const USUAL_FORMATS: [Format; 3] = [Format::Avif, Format::Webp, Format::Jpeg];

/// An order, as the admin API takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmOrder {
    pub campaign: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Values per axis; an axis that is not named has all of its values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<(String, Vec<String>)>,
    /// Empty: AVIF, WebP and JPEG.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// Renditions at a time.
    pub concurrency: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl WarmOrder {
    /// The same pictures, whatever is said of why.
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        let plain = |order: &Self| Self { why: String::new(), ..order.clone() };
        plain(self) == plain(other)
    }
}

/// What is wrong with an order, and with which of its fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PlanError {
    pub field: &'static str,
    pub detail: String,
    pub allowed: Vec<String>,
}

/// One picture: all of its renditions are cut from the same master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unit {
    slot_index: usize,
    combination: u32,
}

/// An order that can be carried out.
#[derive(Debug)]
pub struct Plan {
    campaign: Arc<Campaign>,
    slots: Vec<usize>,
    /// One choice of values per axis of the campaign; `None`: all.
    chosen: Vec<Option<Vec<usize>>>,
    formats: Vec<Format>,
    units: Vec<Unit>,
}

impl Plan {
    /// Understands an order without looking at each picture.
    ///
    /// # Errors
    /// When it names what the catalogue does not have.
    pub fn parse(catalog: &Catalog, order: &WarmOrder) -> Result<Self, PlanError> {
        let refuse = |field, detail: String, allowed: Vec<String>| PlanError { field, detail, allowed };
        let campaign = catalog.campaign(&order.campaign).ok_or_else(|| {
            let names = catalog.campaigns().map(|campaign| campaign.name.clone()).collect();
            refuse("campaign", format!("there is no campaign `{}`", excerpt(&order.campaign)), names)
        })?;
        let slots = match &order.slot {
            None => (0..campaign.slots.len()).collect(),
            Some(name) => vec![campaign.slot_index(name).ok_or_else(|| {
                let names = campaign.slots.iter().map(|slot| slot.name.clone()).collect();
                refuse("slot", format!("there is no slot `{}`", excerpt(name)), names)
            })?],
        };
        let mut chosen = vec![None; campaign.axes.len()];
        for (name, values) in &order.axes {
            let axis = campaign.axis_index(name).ok_or_else(|| {
                let names = campaign.axes.iter().map(|axis| axis.name.clone()).collect();
                refuse("axes", format!("there is no axis `{}`", excerpt(name)), names)
            })?;
            let indices = values.iter().map(|value| campaign.axes[axis].value_index(value).ok_or(value));
            let indices = indices.collect::<Result<Vec<_>, _>>().map_err(|value| {
                let detail = format!("axis `{name}` has no value `{}`", excerpt(value));
                refuse("axes", detail, campaign.axes[axis].value_names())
            })?;
            chosen[axis] = Some(indices);
        }
        let formats = order.formats.iter().map(|name| Format::from_name(name).ok_or(name));
        let formats = formats.collect::<Result<Vec<_>, _>>().map_err(|name| {
            let names = Format::ALL.map(|format| format.as_str().to_owned()).to_vec();
            refuse("formats", format!("there is no format `{}`", excerpt(name)), names)
        })?;
        let plan = Self { campaign: Arc::clone(campaign), slots, chosen, formats, units: Vec::new() };
        let at_most: u64 = plan.slots.iter().map(|slot| plan.cuts(*slot).count() as u64).sum::<u64>() * plan.choices();
        if at_most > RENDITIONS_MAX {
            let detail =
                format!("these are up to {at_most} renditions, one job takes {RENDITIONS_MAX}: narrow it down");
            return Err(refuse("axes", detail, Vec::new()));
        }
        Ok(plan)
    }

    /// Finds the pictures: variants that share a recipe are one. Hashes every recipe: for a thread of its own.
    #[must_use]
    pub fn with_units(mut self) -> Self {
        for slot_index in self.slots.clone() {
            let slot = Arc::clone(&self.campaign.slots[slot_index]);
            let mut seen: HashSet<RecipeId> = HashSet::new();
            for combination in self.campaign.combinations() {
                let values = self.campaign.values_of(combination);
                if !self.admits(&values) {
                    continue;
                }
                // A valid manifest has no recipe out of bounds. Such a recipe could not be asked for, so it is left
                // out, as is a picture that is yet to be imported.
                let recipe = recipe(&self.campaign, &slot, &values);
                let is_makeable = recipe.as_ref().is_ok_and(|recipe| !matches!(recipe, MasterRecipe::Awaited(_)));
                if is_makeable && recipe.is_ok_and(|recipe| seen.insert(recipe.id())) {
                    self.units.push(Unit { slot_index, combination });
                }
            }
        }
        self
    }

    /// Of the campaign's files: with others the pictures stand in another order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.campaign.digest
    }

    #[must_use]
    pub fn pictures(&self) -> usize {
        self.units.len()
    }

    #[must_use]
    pub fn renditions(&self) -> u64 {
        self.units.iter().map(|unit| self.cuts(unit.slot_index).count() as u64).sum()
    }

    /// The URLs of a picture's renditions, as a page would ask for them.
    #[must_use]
    pub fn urls(&self, picture: usize) -> Vec<String> {
        let Some(Unit { slot_index, combination }) = self.units.get(picture).copied() else { return Vec::new() };
        let values = self.campaign.values_of(combination);
        let axes = self.campaign.axes.iter().zip(&values).filter(|(axis, value)| **value != axis.default);
        let query: String = axes.map(|(axis, value)| format!("{}={}&", axis.name, axis.values[*value].name)).collect();
        let path = format!("{IMAGE_PATH_PREFIX}{}/{}", self.campaign.name, self.campaign.slots[slot_index].name);
        let cuts = self.cuts(slot_index);
        cuts.map(|rung| format!("{path}?{query}{rung}")).collect()
    }

    fn cuts(&self, slot_index: usize) -> impl Iterator<Item = Rung<'_>> {
        let slot: &Slot = &self.campaign.slots[slot_index];
        cuts(slot, &self.formats)
    }

    fn choices(&self) -> u64 {
        let counts = self.campaign.axes.iter().zip(&self.chosen);
        counts.map(|(axis, chosen)| chosen.as_ref().map_or(axis.values.len(), Vec::len) as u64).product()
    }

    fn admits(&self, values: &[usize]) -> bool {
        self.chosen
            .iter()
            .zip(values)
            .all(|(chosen, value)| chosen.as_ref().is_none_or(|chosen| chosen.contains(value)))
    }
}

/// All renditions of a slot's picture: in these formats, as far as the slot has them, or in the usual ones.
pub(crate) fn cuts<'s>(slot: &'s Slot, formats: &'s [Format]) -> impl Iterator<Item = Rung<'s>> + 's {
    slot.rungs(if formats.is_empty() { &USUAL_FORMATS } else { formats })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governance::testing::catalog;

    fn order(slot: Option<&str>, axes: &[(&str, &[&str])], formats: &[&str]) -> WarmOrder {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        WarmOrder {
            campaign: "studio".to_owned(),
            slot: slot.map(str::to_owned),
            axes: axes.iter().map(|(axis, values)| ((*axis).to_owned(), owned(values))).collect(),
            formats: owned(formats),
            concurrency: 1,
            why: String::new(),
        }
    }

    #[test]
    fn a_plan_is_each_picture_over_ladder_and_formats_once() {
        let catalog = catalog();
        let order = order(Some("thumb"), &[("product", &["mug", "vase"])], &[]);
        let plan = Plan::parse(&catalog, &order).unwrap().with_units();
        let slot = catalog.campaign("studio").unwrap().slots.iter().find(|slot| slot.name == "thumb").unwrap();
        let all: Vec<String> = (0..plan.pictures()).flat_map(|picture| plan.urls(picture)).collect();
        assert_eq!(all.len() as u64, plan.renditions());
        assert_eq!(plan.urls(0).len(), slot.framing.widths.len() * 3);
        let distinct: HashSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|url| url.starts_with("/i/studio/thumb?") && url.contains("w=")), "{all:?}");
        assert!(plan.urls(plan.pictures()).is_empty());
        // Locales that share a recipe are one picture: fewer pictures than combinations.
        let campaign = catalog.campaign("studio").unwrap();
        let admitted = campaign.combinations().filter(|it| plan.admits(&campaign.values_of(*it))).count();
        assert!(plan.pictures() <= admitted && plan.pictures() > 0);
    }

    #[test]
    fn what_does_not_exist_is_named_with_what_does() {
        let catalog = catalog();
        let refused = |order: WarmOrder| Plan::parse(&catalog, &order).unwrap_err();
        let error = refused(order(Some("nowhere"), &[], &[]));
        assert!(error.field == "slot" && error.allowed.contains(&"hero".to_owned()), "{error:?}");
        let error = refused(order(None, &[("size", &[])], &[]));
        assert!(error.field == "axes" && error.allowed.contains(&"product".to_owned()));
        let error = refused(order(None, &[("product", &["car"])], &[]));
        assert!(error.detail.contains("car") && error.allowed.contains(&"mug".to_owned()));
        assert_eq!(refused(order(None, &[], &["gif"])).field, "formats");
        assert_eq!(refused(WarmOrder { campaign: "x".to_owned(), ..order(None, &[], &[]) }).field, "campaign");
    }
}
