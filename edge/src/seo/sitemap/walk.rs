//! Which addresses of a campaign are listed, with which pictures: a walk over its variants.
//!
//! A slot with `pages` lists its pages, each with the picture of the variant that it shows; slots that name the same kind of
//! pages share its entries. Any other slot lists the one URL of each variant. Only what is live is listed, and drawn as far as
//! this edge knows: a crawler that follows a sitemap would have everything else drawn.

use std::io;
use std::sync::Arc;

use bildkante_shared::import::MasterRecipe;

use super::part::{Entry, Part, Parts};
use crate::cache::Bindings;
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, Catalog, PageTemplate};
use crate::fill::Fill;
use crate::resolve::{Operator, Resolution, resolve};
use crate::seo::shown::Shown;

/// Where a walk writes, and whom it asks.
pub(super) struct Walk<'w> {
    pub(super) catalog: &'w Catalog,
    pub(super) fill: &'w Fill,
    pub(super) bindings: &'w Bindings,
    pub(super) public_url: &'w str,
    pub(super) folder: &'w std::path::Path,
    /// The first moment at which anything that was looked at changes by itself.
    pub(super) changes_unix_ms: Option<u64>,
}

/// A picture that is listed.
struct Listed {
    url: String,
    shown: Shown,
}

impl Walk<'_> {
    /// The files of every campaign that answers URLs without a signature.
    pub(super) fn all(&mut self) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        let campaigns: Vec<Arc<Campaign>> = self.catalog.campaigns().cloned().collect();
        for campaign in campaigns.iter().filter(|campaign| campaign.policy.signing == Signing::Optional) {
            parts.extend(self.campaign(campaign)?);
        }
        Ok(parts)
    }

    fn campaign(&mut self, campaign: &Campaign) -> io::Result<Vec<Part>> {
        let mut parts = Parts::new(self.folder, &campaign.name);
        let mut seen: Vec<&PageTemplate> = Vec::new();
        for page in campaign.slots.iter().flat_map(|slot| &slot.markup.pages) {
            if !seen.contains(&page) {
                seen.push(page);
                self.pages(campaign, page, &mut parts)?;
            }
        }
        for (slot_index, slot) in campaign.slots.iter().enumerate() {
            if slot.markup.pages.is_empty() {
                self.variants(campaign, slot_index, &mut parts)?;
            }
        }
        parts.close()
    }

    /// Every page of a kind, with the pictures of all slots that it has.
    fn pages(&mut self, campaign: &Campaign, page: &PageTemplate, parts: &mut Parts<'_>) -> io::Result<()> {
        let slots: Vec<usize> =
            (0..campaign.slots.len()).filter(|slot| campaign.slots[*slot].markup.pages.contains(page)).collect();
        for combination in combinations(campaign, campaign.default_combination(), |axis| page.uses_axis(axis)) {
            let values = campaign.values_of(combination);
            if campaign.forbidden(&values).is_some() {
                continue;
            }
            let made = slots.iter().filter(|slot| self.may_be_live(campaign, **slot, combination));
            let made: Vec<usize> = made.copied().collect();
            let listed = made.into_iter().filter_map(|slot| self.listed(campaign, slot, combination));
            let images: Vec<String> = listed.map(|listed| listed.url).collect();
            if !images.is_empty() {
                let location = page.address(&campaign.axes, &values);
                // When the page itself changed is not known here.
                parts.add(&Entry { location, changed: None, images })?;
            }
        }
        Ok(())
    }

    fn variants(&mut self, campaign: &Campaign, slot_index: usize, parts: &mut Parts<'_>) -> io::Result<()> {
        let slot = &campaign.slots[slot_index];
        // A picture is looked up once for all variants that show it, such as those of other locales.
        for picture in
            combinations(campaign, campaign.default_combination(), |axis| slot.differs_by(&campaign.axes, axis))
        {
            if !self.may_be_live(campaign, slot_index, picture) {
                continue;
            }
            for variant in combinations(campaign, picture, |axis| !slot.differs_by(&campaign.axes, axis)) {
                if campaign.forbidden(&campaign.values_of(variant)).is_some() {
                    continue;
                }
                let Some(Listed { url, shown }) = self.listed(campaign, slot_index, variant) else { continue };
                // Since when a decision is in force says nothing of the picture before it.
                let changed = shown.drawn.filter(|_| !slot.review.is_required());
                parts.add(&Entry { location: url.clone(), changed, images: vec![url] })?;
            }
        }
        Ok(())
    }

    /// Whether it is worth asking the gate: most variants of a large campaign were never drawn.
    fn may_be_live(&self, campaign: &Campaign, slot_index: usize, combination: u32) -> bool {
        if campaign.slots[slot_index].review.is_required() {
            return true;
        }
        match campaign.recipe_of(slot_index, combination) {
            Some(MasterRecipe::Drawn(recipe)) => self.bindings.get(recipe.id()).is_some(),
            Some(MasterRecipe::Imported(_)) => true,
            Some(MasterRecipe::Awaited(_)) | None => false,
        }
    }

    fn listed(&mut self, campaign: &Campaign, slot_index: usize, combination: u32) -> Option<Listed> {
        let path = campaign.url(&campaign.slots[slot_index], &campaign.query(combination));
        let Resolution { want, .. } = resolve(self.catalog, path.as_str(), &Operator).outcome.ok()?;
        let shown = Shown::of(self.fill, &want);
        let changes = [self.changes_unix_ms, shown.standing.changes_unix_ms];
        self.changes_unix_ms = changes.into_iter().flatten().min();
        shown.showing.is_live().then(|| Listed { url: format!("{}{path}", self.public_url), shown })
    }
}

/// Every choice of the axes that vary, the others as `from` has them: those that vary are at their default there.
fn combinations(campaign: &Campaign, from: u32, varies: impl Fn(usize) -> bool) -> impl Iterator<Item = u32> {
    let axes: Vec<usize> = (0..campaign.axes.len()).filter(|axis| varies(*axis)).collect();
    let count: u64 = axes.iter().map(|axis| campaign.axes[*axis].values.len() as u64).product();
    (0..count).map(move |number| {
        let mut rest = number;
        axes.iter().rev().fold(from, |combination, axis| {
            let values = campaign.axes[*axis].values.len() as u64;
            let value = usize::try_from(rest % values).unwrap_or_default();
            rest /= values;
            campaign.with_value(combination, *axis, value)
        })
    })
}
