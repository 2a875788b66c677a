//! How much the URLs of a catalogue can ask for, in numbers, as `bildkante-edge check` prints it.

use std::fmt;

use bildkante_shared::ids::Digest;

use super::layout::{Ask, Layout, Limits};
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, Catalog, Slot};
use crate::render::Anchor;
use crate::request::Fit;
use crate::words::WIDTH_PX_MAX;

/// A valid catalogue in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogReport {
    pub campaigns: Vec<CampaignReport>,
}

/// A valid campaign in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignReport {
    pub name: String,
    pub digest: Digest,
    /// Slots × allowed combinations of values.
    pub variants: u64,
    pub signing: Signing,
    pub slots: Vec<SlotReport>,
}

/// A slot in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotReport {
    pub name: String,
    pub variants: u64,
    /// Most recipes: combinations of the axes its prompt uses, restrictions not counted in.
    pub recipes_max: u64,
    /// Most renditions of one variant an unsigned URL can ask for: widths × formats × qualities. `w=auto` and `dpr` end
    /// on the same widths.
    pub renditions_per_variant_max: usize,
    /// Where people bring the pictures: how many there are.
    pub imported: Option<usize>,
    /// Largest whole master a signed URL can ask for, in pixels.
    pub signed_px_max: (u32, u32),
}

impl CatalogReport {
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        Self { campaigns: catalog.campaigns().map(|campaign| report(campaign)).collect() }
    }
}

fn report(campaign: &Campaign) -> CampaignReport {
    let combinations = campaign.combination_count();
    let slots = campaign.slots.iter().map(|slot| {
        let drawn = campaign.axes.iter().enumerate().filter(|(axis, _)| slot.differs_by(&campaign.axes, *axis));
        SlotReport {
            name: slot.name.clone(),
            variants: combinations,
            recipes_max: drawn.map(|(_, axis)| axis.values.len() as u64).product(),
            renditions_per_variant_max: slot.renditions_max(),
            imported: slot.drawn().is_none().then(|| imported(campaign, &slot.name)),
            signed_px_max: signed_px_max(slot),
        }
    });
    CampaignReport {
        name: campaign.name.clone(),
        digest: campaign.digest,
        variants: combinations * campaign.slots.len() as u64,
        signing: campaign.policy.signing,
        slots: slots.collect(),
    }
}

/// A slot's pictures in the lock.
fn imported(campaign: &Campaign, slot: &str) -> usize {
    let path = format!("{}/{slot}", campaign.name);
    let is_of_slot = |picture: &&String| picture.split('?').next() == Some(path.as_str());
    campaign.pins().imports.keys().filter(is_of_slot).count()
}

fn signed_px_max(slot: &Slot) -> (u32, u32) {
    let largest = Some(WIDTH_PX_MAX);
    let ask = Ask {
        width_px: largest,
        height_px: largest,
        ratio: None,
        fit: Fit::Contain,
        anchor: Anchor::CENTER,
        background: None,
    };
    let source = slot.making.size_px();
    let layout = Layout::new(&ask, &Limits { source, slot_ratio: slot.framing.ratio, upscale_max: slot.upscale_max });
    (layout.width_px, layout.height_px)
}

impl fmt::Display for CatalogReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for campaign in &self.campaigns {
            let signing = match campaign.signing {
                Signing::Optional => "",
                Signing::Required => ", every URL signed",
            };
            writeln!(f, "{}: valid, {} variants{signing}, {}", campaign.name, campaign.variants, campaign.digest)?;
            for slot in &campaign.slots {
                let SlotReport { name, variants, recipes_max, renditions_per_variant_max, .. } = slot;
                let (width_px, height_px) = slot.signed_px_max;
                writeln!(
                    f,
                    "  {name}: {variants} variants of at most {recipes_max} recipes, at most \
                     {renditions_per_variant_max} renditions per variant; with a signature any up to \
                     {width_px}×{height_px} px"
                )?;
                if let Some(imported) = slot.imported {
                    writeln!(f, "    {imported} of them imported; the others are shown as the slot's `on_miss` says")?;
                }
            }
        }
        Ok(())
    }
}
