//! `bildkante-edge check` and `lock`: the work, without the printing and exiting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bildkante_shared::durable::{self, Durability};

use super::catalog::{Catalog, ReadManifests, read_manifests};
use super::fault::{CatalogErrors, Fault};
use super::layers::{DrawnPlace, Fitting, check_fit, folder_of, places_of};
use super::lock::{self, Lock, LockError, Models};
use super::originals::{originals_folder, read_original};
use super::pins::Pins;
use super::sources::CatalogSources;

/// Checks manifests, locks and libraries, and with `models_dir` also that the locks pin what is there.
///
/// # Errors
/// Every fault found.
pub fn check(sources: &CatalogSources, models_dir: Option<&Path>) -> Result<Catalog, CatalogErrors> {
    check_telling(sources, models_dir, |_| {})
}

/// The same, and tells how far it is with trying the layers of every variant.
///
/// # Errors
/// Every fault found.
pub fn check_telling(
    sources: &CatalogSources,
    models_dir: Option<&Path>,
    progress: impl FnMut(Fitting<'_>),
) -> Result<Catalog, CatalogErrors> {
    if let Some(models_dir) = models_dir {
        CatalogErrors::check(check_models(&read_manifests(sources), models_dir, sources))?;
    }
    let catalog = Catalog::load(sources)?;
    CatalogErrors::check(check_imports(&catalog, sources))?;
    CatalogErrors::check(check_places(&catalog, sources))?;
    CatalogErrors::check(check_fit(&catalog, &sources.campaigns_dir, progress))?;
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

/// Every place of a layer needs its picture, and it shows where the layer lies today.
fn check_places(catalog: &Catalog, sources: &CatalogSources) -> Vec<Fault> {
    let (layers_dir, images_dir) = (folder_of(&sources.campaigns_dir), sources.images_dir());
    let mut faults = Vec::new();
    for campaign in catalog.campaigns() {
        for (name, picture) in places_of(campaign.slots.iter().map(AsRef::as_ref), &campaign.axes) {
            let reason = match picture.drawn((&layers_dir, &images_dir), &sources.decoder) {
                Ok(DrawnPlace { new_file: Some(_), .. }) => {
                    let of = picture.path.as_deref().unwrap_or("nothing");
                    format!("it does not show the place of layers/{of}; run `bildkante-edge lock`")
                }
                Ok(DrawnPlace { digest, new_file: None }) if campaign.pins().image(&name) != digest => {
                    "it is not what the lock pins; run `bildkante-edge lock`".to_owned()
                }
                Ok(DrawnPlace { .. }) => continue,
                Err(reason) => reason,
            };
            faults.push(Fault::of_file(&images_dir.join(name), reason));
        }
    }
    faults
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
            let reason = "the lock pins something else than what is in the folders of models, images and layers; run `bildkante-edge lock`";
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
    let (mut outcomes, mut new_files) = (Vec::with_capacity(manifests.len()), Vec::new());
    for (manifest, files) in manifests {
        let source = files.lock.as_ref().map(|file| super::fault::SourceText::new(&file.path, &file.text));
        let before = source.as_ref().map(lock::pins_of).unwrap_or_default();
        new_files.extend(models.draw_places(&manifest)?);
        let lock = lock::make(&manifest, &mut models, &before)?;
        lock.check_originals(&originals_folder(&sources.campaigns_dir))?;
        let has_changed = files.lock.is_none_or(|file| file.text != lock.to_toml());
        outcomes.push(LockOutcome { path: files.lock_path, lock, has_changed });
    }
    // A lock pins files that are there.
    write_new(&sources.images_dir(), &new_files)?;
    for outcome in outcomes.iter().filter(|outcome| outcome.has_changed) {
        outcome.lock.write(&outcome.path)?;
    }
    Ok(outcomes)
}

fn write_new(folder: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<(), LockError> {
    if files.is_empty() {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LockError::Write { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for (path, file) in files {
        durable::write(path, &[file], Durability::Synced).map_err(failed(path))?;
    }
    Ok(())
}
