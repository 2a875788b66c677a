//! `bildkante-edge check` and `lock`: the work, without the printing and exiting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::catalog::{Catalog, ReadManifests, read_manifests};
use super::fault::{CatalogErrors, Fault};
use super::lock::{self, Lock, LockError, Models};
use super::originals::{originals_folder, read_original};
use super::pins::Pins;
use super::sources::CatalogSources;

/// Checks manifests, locks and libraries, and with `models_dir` also that the locks pin what is there.
///
/// # Errors
/// Every fault found.
pub fn check(sources: &CatalogSources, models_dir: Option<&Path>) -> Result<Catalog, CatalogErrors> {
    if let Some(models_dir) = models_dir {
        CatalogErrors::check(check_models(&read_manifests(sources), models_dir, sources))?;
    }
    let catalog = Catalog::load(sources)?;
    CatalogErrors::check(check_imports(&catalog, sources))?;
    Ok(catalog)
}

/// Every imported picture needs its original, as it was when it was imported.
fn check_imports(catalog: &Catalog, sources: &CatalogSources) -> Vec<Fault> {
    let folder = originals_folder(&sources.campaigns_dir);
    let imports = catalog.campaigns().flat_map(|campaign| campaign.pins().imports.iter().map(move |it| (campaign, it)));
    let faults = imports.filter_map(|(campaign, (picture, import))| {
        let error = read_original(&folder, import.recipe.import).err()?;
        let lock = sources.campaigns_dir.join(format!("{}.lock.toml", campaign.name));
        Some(Fault::of_file(&lock, format!("the import of `{picture}`: {error}")))
    });
    faults.collect()
}

fn check_models(read: &ReadManifests, models_dir: &Path, sources: &CatalogSources) -> Vec<Fault> {
    let mut models = Models::new(models_dir, sources);
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
    let mut models = Models::new(models_dir, sources);
    let mut outcomes = Vec::with_capacity(manifests.len());
    for (manifest, files) in manifests {
        let source = files.lock.as_ref().map(|file| super::fault::SourceText::new(&file.path, &file.text));
        let before = source.as_ref().map(lock::pins_of).unwrap_or_default();
        let lock = lock::make(&manifest, &mut models, &before)?;
        lock.check_originals(&originals_folder(&sources.campaigns_dir))?;
        let has_changed = files.lock.is_none_or(|file| file.text != lock.to_toml());
        outcomes.push(LockOutcome { path: files.lock_path, lock, has_changed });
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.has_changed) {
        outcome.lock.write(&outcome.path)?;
    }
    Ok(outcomes)
}
