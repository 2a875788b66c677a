//! Which addresses of a campaign are listed, with which pictures: a walk over its variants.
//!
//! A slot with `pages` lists its pages, each with the picture of the variant that it shows; slots that name the same kind of
//! pages share its entries. Any other slot lists the one URL of each variant. Only what is live is listed, and drawn as far as
//! this edge knows: whoever follows a sitemap would have everything else drawn.

use std::io;
use std::sync::Arc;

use super::part::{Entry, Part, Parts};
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, Catalog, PageTemplate};
use crate::fill::Fill;
use crate::resolve::{Operator, Resolution, resolve};
use crate::seo::shown::Shown;

/// Where a walk writes, and whom it asks.
pub(super) struct Walk<'w> {
    pub(super) catalog: &'w Catalog,
    pub(super) fill: &'w Fill,
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
    /// The files of every campaign whose URLs anybody may ask for.
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
        for combination in combinations_of(campaign, page) {
            let values = campaign.values_of(combination);
            if campaign.forbidden(&values).is_some() {
                continue;
            }
            let images = slots.iter().filter_map(|slot| self.listed(campaign, *slot, combination));
            let images: Vec<String> = images.map(|listed| listed.url).collect();
            if !images.is_empty() {
                let location = page.address(&campaign.axes, &values);
                // When the page itself changed is not known here.
                parts.add(&Entry { location, changed: None, images })?;
            }
        }
        Ok(())
    }

    fn variants(&mut self, campaign: &Campaign, slot_index: usize, parts: &mut Parts<'_>) -> io::Result<()> {
        for combination in campaign.combinations() {
            let Some(Listed { url, shown }) = self.listed(campaign, slot_index, combination) else { continue };
            // Since when a decision is in force says nothing of the picture before it.
            let is_decided = campaign.slots[slot_index].review.is_required();
            let changed = shown.drawn.filter(|_| !is_decided);
            parts.add(&Entry { location: url.clone(), changed, images: vec![url] })?;
        }
        Ok(())
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

/// Every choice of the axes that an address names, with the others at their default.
fn combinations_of(campaign: &Campaign, page: &PageTemplate) -> Vec<u32> {
    let mut combinations = vec![campaign.default_combination()];
    for axis in (0..campaign.axes.len()).filter(|axis| page.uses_axis(*axis)) {
        let values = campaign.axes[axis].values.len();
        let varied = combinations.iter().flat_map(|of| (0..values).map(move |value| (*of, value)));
        combinations = varied.map(|(of, value)| campaign.with_value(of, axis, value)).collect();
    }
    combinations
}
