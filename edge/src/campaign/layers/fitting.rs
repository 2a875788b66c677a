//! Trying every variant's texts and files before any reader asks: what `check` does for layers.
//!
//! Variants that share a text, a style and a room are one layout: thousands of variants in a dozen locales come to some hundreds.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::catalog::{Campaign, Catalog};
use super::super::fault::{FAULTS_MAX, Fault};
use super::SlotLayers;
use crate::render::layers::Trial;

/// How far the trial of a campaign is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitting<'c> {
    pub campaign: &'c str,
    pub done: u64,
    pub of: u64,
}

/// So many variants are tried between two words on progress.
const STEP: u64 = 256;

/// Everything that a reader would meet otherwise: texts that do not fit, lack a glyph or cover too much, and pictures that cannot be
/// decoded.
pub fn check_fit(catalog: &Catalog, campaigns_dir: &Path, mut progress: impl FnMut(Fitting<'_>)) -> Vec<Fault> {
    let mut faults = Vec::new();
    for campaign in catalog.campaigns() {
        let file = campaigns_dir.join(format!("{}.toml", campaign.name));
        let slots: Vec<usize> = (0..campaign.slots.len()).filter(|slot| campaign.layers(*slot).is_some()).collect();
        let Some(of) = (!slots.is_empty()).then(|| campaign.combination_count() * slots.len() as u64) else { continue };
        let mut reasons = BTreeSet::new();
        let mut done = 0;
        // They are those of the whole campaign.
        if let Some(layers) = slots.first().and_then(|slot| campaign.layers(*slot)) {
            check_images(layers, &mut reasons);
        }
        for slot in slots {
            let Some(layers) = campaign.layers(slot) else { continue };
            let mut trial = Trial::default();
            for combination in campaign.combinations() {
                if done % STEP == 0 {
                    progress(Fitting { campaign: &campaign.name, done, of });
                }
                done += 1;
                if reasons.len() < FAULTS_MAX {
                    check_variant(campaign, slot, layers, combination, &mut trial, &mut reasons);
                }
            }
        }
        progress(Fitting { campaign: &campaign.name, done: of, of });
        faults.extend(reasons.into_iter().map(|reason| Fault::of_file(&file, reason)));
    }
    faults
}

fn check_images(layers: &SlotLayers, reasons: &mut BTreeSet<String>) {
    for (path, image) in layers.images() {
        if let Err(error) = image.check() {
            reasons.insert(format!("layers/{path}: {error}"));
        }
    }
}

fn check_variant(
    campaign: &Campaign,
    slot: usize,
    layers: &SlotLayers,
    combination: u32,
    trial: &mut Trial,
    reasons: &mut BTreeSet<String>,
) {
    let values = campaign.values_of(combination);
    let (known, locale) = (&campaign.slots[slot], campaign.locale(&values));
    for (at, (art, framing)) in known.framings().enumerate() {
        let place =
            art.map_or_else(|| format!("slot `{}`", known.name), |art| format!("slot `{}`, cut `{art}`", known.name));
        let set = match layers.of(&values, at.checked_sub(1)) {
            Ok(Some(set)) => set,
            Ok(None) => continue,
            Err(error) => {
                reasons.insert(format!("{place}, {locale}: {error}"));
                continue;
            }
        };
        // Letters scale with the picture; only limits in pixels and rounding tell the widths of a ladder apart.
        for width_px in [framing.widths.first(), framing.widths.last()].into_iter().flatten() {
            let size_px = (*width_px, framing.height_px(*width_px));
            for fault in trial.faults(&set, size_px, layers.text_share_max()) {
                reasons.insert(format!("{place}, {locale}, {width_px} px: {fault}"));
            }
        }
    }
}
