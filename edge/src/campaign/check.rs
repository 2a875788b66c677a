//! `bildkante-edge check` and `lock`: the work, without the printing and exiting.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;

use super::catalog::{Campaign, Catalog, ReadManifests, read_manifests};
use super::fault::{CatalogErrors, Fault};
use super::lock::{self, Lock, LockError, Models};
use super::manifest::Signing;
use super::pins::Pins;
use super::slots::Slot;
use super::sources::CatalogSources;
use crate::layout::{Ask, Layout, Limits};
use crate::render::Anchor;
use crate::request::Fit;

/// What `check` found; everything is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
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
    /// Largest whole master a signed URL can ask for, in pixels.
    pub signed_px_max: (u32, u32),
}

impl CheckReport {
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        Self { campaigns: catalog.campaigns().map(|campaign| report(campaign)).collect() }
    }
}

fn report(campaign: &Campaign) -> CampaignReport {
    let combinations = campaign.combination_count();
    let slots = campaign.slots.iter().map(|slot| {
        let drawn = campaign.axes.iter().enumerate().filter(|(axis, _)| slot.generate.prompt.uses_axis(*axis));
        SlotReport {
            name: slot.name.clone(),
            variants: combinations,
            recipes_max: drawn.map(|(_, axis)| axis.values.len() as u64).product(),
            renditions_per_variant_max: slot.renditions_max(),
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
    let source = (slot.generate.width_px, slot.generate.height_px);
    let layout = Layout::new(&ask, &Limits { source, slot_ratio: slot.ratio, upscale_max: slot.upscale_max });
    (layout.width_px, layout.height_px)
}

impl fmt::Display for CheckReport {
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
            }
        }
        Ok(())
    }
}

/// Checks manifests, locks and libraries, and with `models_dir` also that the locks pin what is there.
///
/// # Errors
/// Every fault found.
pub fn check(sources: &CatalogSources, models_dir: Option<&Path>) -> Result<CheckReport, CatalogErrors> {
    if let Some(models_dir) = models_dir {
        CatalogErrors::check(check_models(&read_manifests(sources), models_dir, &sources.images_dir()))?;
    }
    Catalog::load(sources).map(|catalog| CheckReport::of(&catalog))
}

fn check_models(read: &ReadManifests, models_dir: &Path, images_dir: &Path) -> Vec<Fault> {
    let mut models = Models::new(models_dir, images_dir);
    let mut faults = read.faults.clone();
    for (manifest, files) in &read.manifests {
        let source = files.lock.as_ref().map(|file| super::fault::SourceText::new(&file.path, &file.text));
        let before = source.as_ref().map(lock::pins_of).unwrap_or_default();
        let expected = match lock::make(manifest, &mut models, &before) {
            Ok(lock) => lock,
            Err(error) => {
                faults.push(Fault::of_file(&files.manifest.path, error.to_string()));
                continue;
            }
        };
        let found: Option<Lock> = source.as_ref().and_then(|source| lock::read(source, manifest));
        // A lock from before says nothing of what is loaded today, and holds.
        let recipes = |lock: &Lock| Pins { loaded: BTreeMap::new(), ..lock.pins.clone() };
        if found.is_some_and(|found| recipes(&found) != recipes(&expected)) {
            let reason = "the lock pins something else than what is in the folders of models and images; run `bildkante-edge lock`";
            faults.push(Fault::of_file(&files.lock_path, reason));
        }
    }
    faults
}

/// One lock after `lock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOutcome {
    pub path: PathBuf,
    pub lock: Lock,
    pub has_changed: bool,
}

/// Why `lock` wrote nothing or not everything.
#[derive(Debug, thiserror::Error)]
pub enum LockRunError {
    #[error(transparent)]
    Manifests(#[from] CatalogErrors),
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Writes the lock of every campaign. Nothing is written unless every manifest is valid and every checkpoint is
/// there; a lock that is right already is left alone.
///
/// # Errors
/// As above, or when a file cannot be written.
pub fn write_locks(sources: &CatalogSources, models_dir: &Path) -> Result<Vec<LockOutcome>, LockRunError> {
    let ReadManifests { manifests, faults, .. } = read_manifests(sources);
    CatalogErrors::check(faults)?;
    let mut models = Models::new(models_dir, sources.images_dir());
    let mut outcomes = Vec::with_capacity(manifests.len());
    for (manifest, files) in manifests {
        let source = files.lock.as_ref().map(|file| super::fault::SourceText::new(&file.path, &file.text));
        let before = source.as_ref().map(lock::pins_of).unwrap_or_default();
        let lock = lock::make(&manifest, &mut models, &before)?;
        let has_changed = files.lock.is_none_or(|file| file.text != lock.to_toml());
        outcomes.push(LockOutcome { path: files.lock_path, lock, has_changed });
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.has_changed) {
        outcome.lock.write(&outcome.path)?;
    }
    Ok(outcomes)
}
