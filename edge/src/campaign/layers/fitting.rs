//! Trying every variant's texts and files before any reader asks: what `check` does for layers.
//!
//! Variants that differ by nothing that layers show have equal sets, which are tried once; texts that sets share are laid out once by
//! each thread. All cores try, and the faults do not depend on which of them was first.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use super::super::catalog::{Campaign, Catalog};
use super::super::fault::{FAULTS_MAX, Fault};
use super::SlotLayers;
use crate::render::layers::{LayerSet, Trial};

/// How far the trial of a campaign is, in variants whose sets differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitting<'c> {
    pub campaign: &'c str,
    pub done: u64,
    pub of: u64,
}

/// So many variants are tried by one thread between two words on progress.
const STEP: usize = 128;

/// Everything that a reader would meet otherwise: texts that do not fit, lack a glyph or cover too much, and pictures that cannot be
/// decoded. Of each campaign the first [`FAULTS_MAX`] by name.
pub fn check_fit(catalog: &Catalog, campaigns_dir: &Path, mut progress: impl FnMut(Fitting<'_>)) -> Vec<Fault> {
    let mut faults = Vec::new();
    for campaign in catalog.campaigns() {
        let file = campaigns_dir.join(format!("{}.toml", campaign.name));
        let trials: Vec<SlotTrial<'_>> =
            (0..campaign.slots.len()).filter_map(|slot| SlotTrial::new(campaign, slot)).collect();
        if trials.is_empty() {
            continue;
        }
        let of = trials.iter().map(|trial| trial.combinations.len() as u64).sum();
        let (mut reasons, mut done) = (Reasons::default(), 0);
        progress(Fitting { campaign: &campaign.name, done, of });
        // They are those of the whole campaign.
        if let Some(trial) = trials.first() {
            check_images(trial.layers, &mut reasons);
        }
        for trial in &trials {
            trial.run(&mut reasons, |tried| {
                done += tried;
                progress(Fitting { campaign: &campaign.name, done, of });
            });
        }
        faults.extend(reasons.0.into_iter().map(|reason| Fault::of_file(&file, reason)));
    }
    faults
}

fn check_images(layers: &SlotLayers, reasons: &mut Reasons) {
    for (path, image) in layers.images() {
        if let Err(error) = image.check() {
            reasons.insert(format!("layers/{path}: {error}"));
        }
    }
}

/// The first [`FAULTS_MAX`] of what was found, in the order of the alphabet, whoever found it when.
#[derive(Debug, Default)]
struct Reasons(BTreeSet<String>);

impl Reasons {
    fn insert(&mut self, reason: String) {
        self.0.insert(reason);
        if self.0.len() > FAULTS_MAX {
            self.0.pop_last();
        }
    }
}

/// The variants of a slot whose sets are to be tried.
struct SlotTrial<'c> {
    campaign: &'c Campaign,
    slot: usize,
    layers: &'c SlotLayers,
    /// One for each set, those of a locale together, because they have most texts in common.
    combinations: Vec<u32>,
}

impl<'c> SlotTrial<'c> {
    fn new(campaign: &'c Campaign, slot: usize) -> Option<Self> {
        let layers = campaign.layers(slot)?;
        let mut combinations = campaign.combinations_of(&layers.axes());
        combinations.sort_by_cached_key(|combination| campaign.locale(&campaign.values_of(*combination)).to_owned());
        Some(Self { campaign, slot, layers, combinations })
    }

    fn run(&self, reasons: &mut Reasons, mut tried: impl FnMut(u64)) {
        let (next, cores) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(1, NonZeroUsize::get));
        let (sender, found) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..cores.min(self.combinations.len().div_ceil(STEP)) {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    let mut trial = Trial::default();
                    let step = || self.combinations.chunks(STEP).nth(next.fetch_add(1, Ordering::Relaxed));
                    while let Some(step) = step() {
                        let mut reasons = Reasons::default();
                        step.iter().for_each(|variant| self.check_variant(*variant, &mut trial, &mut reasons));
                        if sender.send((step.len() as u64, reasons)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (count, found) in found {
                found.0.into_iter().for_each(|reason| reasons.insert(reason));
                tried(count);
            }
        });
    }

    fn check_variant(&self, combination: u32, trial: &mut Trial, reasons: &mut Reasons) {
        let values = self.campaign.values_of(combination);
        let (known, locale) = (&self.campaign.slots[self.slot], self.campaign.locale(&values));
        // Letters scale with the picture; only limits in pixels and rounding tell the widths of a ladder apart.
        let mut views = Vec::new();
        for (at, (art, framing)) in known.framings().enumerate() {
            let cut = at.checked_sub(1);
            match self.layers.of(&values, cut) {
                Ok(Some(set)) => {
                    let widths = [framing.widths.first(), framing.widths.last()];
                    views.extend(widths.into_iter().flatten().map(|width_px| View {
                        art,
                        cut,
                        set: Arc::clone(&set),
                        size_px: (*width_px, framing.height_px(*width_px)),
                    }));
                }
                Ok(None) => {}
                Err(error) => reasons.insert(format!("slot `{}`{}, {locale}: {error}", known.name, named(art))),
            }
        }
        trial.expect(views.iter().map(|view| (&*view.set, view.size_px)));
        for View { art, cut, set, size_px } in &views {
            for fault in trial.faults(set, *size_px, self.layers.text_share_max(*cut)) {
                let cut = named(*art);
                reasons.insert(format!("slot `{}`{cut}, {locale}, {} px: {fault}", known.name, size_px.0));
            }
        }
    }
}

/// A cut in a fault.
fn named(art: Option<&str>) -> String {
    art.map(|art| format!(", cut `{art}`")).unwrap_or_default()
}

/// A set on a picture.
struct View<'v> {
    /// The name of the cut; `None` of the slot's own framing.
    art: Option<&'v str>,
    cut: Option<usize>,
    set: Arc<LayerSet>,
    size_px: (u32, u32),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{site, words};
    use super::*;

    /// What trying every combination by itself comes to.
    fn one_by_one(campaign: &Campaign) -> BTreeSet<String> {
        let (mut trial, mut reasons) = (Trial::default(), Reasons::default());
        for slot in 0..campaign.slots.len() {
            let Some(known) = SlotTrial::new(campaign, slot) else { continue };
            campaign.combinations().for_each(|combination| known.check_variant(combination, &mut trial, &mut reasons));
        }
        reasons.0
    }

    fn checked(site: &super::super::super::tests::Site) -> (Vec<String>, Vec<(u64, u64)>, BTreeSet<String>) {
        let (catalog, mut steps) = (site.load(), Vec::new());
        let faults = check_fit(&catalog, &site.path("campaigns"), |fitting| steps.push((fitting.done, fitting.of)));
        let campaign = catalog.campaign("autumn").expect("a campaign");
        (faults.iter().map(|fault| fault.reason.clone()).collect(), steps, one_by_one(campaign))
    }

    #[test]
    fn variants_with_equal_sets_are_tried_once_and_no_fault_is_missed() {
        let site = site();
        let (faults, steps, _) = checked(&site);
        // Two products, three colours and two locales in the layers; the finish of the surface is in none.
        assert_eq!((faults, steps), (Vec::new(), vec![(0, 12), (12, 12)]));
        site.edit("campaigns/autumn.toml", "The {product} that stays", "Das {product} Ж in {finish}");
        site.edit("campaigns/autumn.toml", "values.none  = {", "values.none  = { label = { de = \"a\", en = \"a\" },");
        site.edit("campaigns/autumn.toml", "values.matte = {", "values.matte = { label = { de = \"b\", en = \"Я\" },");
        site.lock();
        let (faults, steps, one_by_one) = checked(&site);
        assert_eq!(steps.last(), Some(&(24, 24)));
        assert!(faults.iter().any(|fault| fault.contains("U+0416")), "{faults:?}");
        assert_eq!(faults.into_iter().collect::<BTreeSet<_>>(), one_by_one);
    }

    #[test]
    fn an_axis_that_a_layer_shows_is_one_of_its_axes() {
        let site = site();
        let catalog = site.load();
        let campaign = catalog.campaign("autumn").expect("a campaign");
        let layers = campaign.layers(0).expect("layers");
        let set_of = |combination: u32| {
            layers.of(&campaign.values_of(combination), None).expect("texts for all").expect("a set")
        };
        let shown: BTreeSet<_> = campaign.combinations().map(|it| *set_of(it).digest()).collect();
        let tried: BTreeSet<_> =
            campaign.combinations_of(&layers.axes()).into_iter().map(|it| *set_of(it).digest()).collect();
        assert_eq!((shown.len(), &shown), (12, &tried));
        assert!(!words(&set_of(0)).is_empty());
    }

    #[test]
    fn where_combinations_are_forbidden_the_others_are_tried() {
        let site = site();
        site.edit("campaigns/autumn.toml", "values.gold = {", "values.gold = { only = { product = [\"mug\"] },");
        site.lock();
        let (faults, steps, one_by_one) = checked(&site);
        assert_eq!((steps.last(), faults.len(), one_by_one.len()), (Some(&(10, 10)), 0, 0));
    }

    /// The IAB has no rule for text; Google has one for its responsive ads, which a manifest may widen.
    #[test]
    fn a_preset_brings_the_share_of_text_that_its_owner_allows() {
        let faults = |preset: &str, share: &str| {
            let site = site();
            let cut =
                format!("[[slots.hero.cuts]]\nname = \"ad\"\nmedia = \"(width < 30em)\"\npreset = \"{preset}\"\n");
            site.edit("campaigns/autumn.toml", "[slots.teaser]", &format!("{cut}\n[slots.teaser]"));
            site.edit("campaigns/autumn.toml", "size_max = \"9%\"", "size_min = \"8%\"\nsize_max = \"30%\"");
            site.edit("campaigns/autumn.toml", "[slots.hero]\n", &format!("[slots.hero]\n{share}"));
            site.lock();
            checked(&site).0
        };
        assert_eq!(faults("iab-300x250", ""), Vec::<String>::new());
        let of_owner = faults("google-square", "");
        let is_of_share = |fault: &String| fault.contains("cut `ad`") && fault.contains("at most 20 % are allowed");
        assert!(!of_owner.is_empty() && of_owner.iter().all(is_of_share), "{of_owner:?}");
        assert_eq!(faults("google-square", "text_share_max = 0.9\n"), Vec::<String>::new());
    }

    #[test]
    fn of_many_faults_the_first_are_told_whichever_thread_finds_them() {
        let mut reasons = Reasons::default();
        (0..3 * FAULTS_MAX).rev().for_each(|at| reasons.insert(format!("{at:04}")));
        assert_eq!((reasons.0.len(), reasons.0.last().cloned()), (FAULTS_MAX, Some(format!("{:04}", FAULTS_MAX - 1))));
    }
}
