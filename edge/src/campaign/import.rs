//! `bildkante-edge import`: a picture that a person brings becomes a variant's. The work, without the printing and exiting.
//!
//! The original is kept as it is, under its digest, in `imports/` of the campaigns' folder; its recipe stands in the lock.
//! Both are committed with the manifest, and a running edge takes the lock over when it reloads. Invariants: the original is
//! on the device before the lock names it; a lock that does not fit its manifest is left alone; a picture too small for the
//! slot's widest rendition is refused.

use std::path::{Path, PathBuf};

use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::import::{DigitalSource, ImportError, ImportRecipe, ValidImport};
use bildkante_shared::pixels::Pixels;

use super::axes::{Axis, forbidden};
use super::catalog::read_manifests;
use super::fault::{CatalogErrors, SourceText, listing};
use super::lock::{self, Lock, LockError};
use super::manifest::Manifest;
use super::originals::{original_name, originals_folder, read_bounded};
use super::pins::Import;
use super::slots::Slot;
use super::sources::{CampaignFiles, CatalogSources};
use super::variant::picture_name;
use crate::decoding::DecoderCommand;
use crate::provenance::xmp_of;
use crate::render::{OriginalError, OriginalFormat, decode_original};
use crate::text_file;

/// What is imported, for which variant.
#[derive(Debug)]
pub struct ImportOrder<'a> {
    /// `campaign/slot?axis=value&…`; an axis left out is at its default.
    pub variant: &'a str,
    /// A PNG, JPEG, WebP or AVIF.
    pub bytes: &'a [u8],
    /// How the picture came to be; `None` takes what the file's own XMP says.
    pub source: Option<DigitalSource>,
    pub statements: Statements,
}

/// What is said of the picture's makers and rights, in the place of the campaign's own statements.
#[derive(Debug, Clone, Default)]
pub struct Statements {
    pub origin: Option<String>,
    pub creator: Option<String>,
    pub credit: Option<String>,
    pub copyright: Option<String>,
    pub license: Option<String>,
}

/// A picture that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The variant, with the axes that its picture differs by.
    pub variant: String,
    pub recipe: RecipeId,
    pub source: DigitalSource,
    pub master: MasterId,
    pub width_px: u32,
    pub height_px: u32,
    pub original: PathBuf,
    pub lock: PathBuf,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportRunError {
    #[error(transparent)]
    Manifests(#[from] CatalogErrors),
    #[error("`{variant}` is no variant: {reason}")]
    Variant { variant: String, reason: String },
    #[error("the picture: {0}")]
    Original(#[from] OriginalError),
    #[error(
        "the picture is {width_px}×{height_px} px as a master, and slot `{slot}` has renditions of up to {widest_px} px: in \
         its ratio and with its `upscale_max` the picture gives {reach_px} px"
    )]
    TooSmall { width_px: u32, height_px: u32, slot: String, widest_px: u32, reach_px: u32 },
    #[error("the picture does not say how it came to be: name its IPTC digital source type")]
    NoSource,
    #[error(transparent)]
    Recipe(#[from] ImportError),
    #[error("{path} is missing, and the campaign names checkpoints: run `bildkante-edge lock` first", path = path.display())]
    NoLock { path: PathBuf },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{path} cannot be written: {source}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// A picture that may be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The variant, with the axes that its picture differs by.
    pub variant: String,
    pub import: Import,
    pub master: MasterId,
    pub format: OriginalFormat,
}

/// What would be imported; nothing is written.
///
/// # Errors
/// When the variant does not exist or the file is no usable picture.
pub fn examine(sources: &CatalogSources, order: &ImportOrder<'_>) -> Result<Examined, ImportRunError> {
    let read = read_manifests(sources);
    CatalogErrors::check(read.faults)?;
    let (_, _, slot, variant) = place(&read.manifests, order.variant)?;
    examine_for(slot, variant, order, &sources.decoder)
}

fn examine_for(
    slot: &Slot,
    variant: String,
    order: &ImportOrder<'_>,
    decoder: &DecoderCommand,
) -> Result<Examined, ImportRunError> {
    let format = OriginalFormat::known(order.bytes)?;
    let master = decode_original(order.bytes, decoder)?;
    check_reach(&master, slot)?;
    let (width_px, height_px) = (master.width_px(), master.height_px());
    let import = Import { recipe: recipe(order, format)?, width_px, height_px };
    Ok(Examined { variant, import, master: master.master_id(), format })
}

/// Keeps the original and writes its recipe into the lock.
///
/// # Errors
/// When the variant does not exist, the file is no usable picture, or something cannot be written.
pub fn import(sources: &CatalogSources, order: &ImportOrder<'_>) -> Result<Imported, ImportRunError> {
    let read = read_manifests(sources);
    CatalogErrors::check(read.faults)?;
    let (manifest, files, slot, variant) = place(&read.manifests, order.variant)?;
    let mut lock = lock_of(manifest, files)?;
    let Examined { variant, import, master, format } = examine_for(slot, variant, order, &sources.decoder)?;
    let original = originals_folder(&sources.campaigns_dir).join(original_name(import.recipe.import, format));
    lock.pins.imports.insert(variant.clone(), import.clone());
    check_readable(&lock, manifest, files)?;
    keep(&original, order.bytes)?;
    lock.write(&files.lock_path)?;
    let Import { recipe, width_px, height_px } = import;
    let (recipe, source, lock) = (recipe.id(), recipe.source, files.lock_path.clone());
    Ok(Imported { variant, recipe, source, master, width_px, height_px, original, lock })
}

type ImportTarget<'m> = (&'m Manifest, &'m CampaignFiles, &'m Slot, String);

/// Whose picture a variant's text names.
fn place<'m>(manifests: &'m [(Manifest, CampaignFiles)], text: &str) -> Result<ImportTarget<'m>, ImportRunError> {
    let refused = |reason: String| ImportRunError::Variant { variant: text.chars().take(200).collect(), reason };
    let path = text.trim_start_matches('/');
    let path = path.strip_prefix("i/").unwrap_or(path);
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let (campaign, slot) =
        path.split_once('/').ok_or_else(|| refused("it is written campaign/slot?axis=value".into()))?;
    let known = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { listing(names, 12) };
    let (manifest, files) = manifests.iter().find(|(manifest, _)| manifest.name == campaign).ok_or_else(|| {
        let names: Vec<&str> = manifests.iter().map(|(manifest, _)| manifest.name.as_str()).collect();
        refused(format!("there is no campaign `{campaign}`; there is {}", known(&names)))
    })?;
    let slot = manifest.slots.iter().find(|each| each.name == slot).ok_or_else(|| {
        let names: Vec<&str> = manifest.slots.iter().map(|slot| slot.name.as_str()).collect();
        refused(format!("campaign `{campaign}` has no slot `{slot}`; it has {}", known(&names)))
    })?;
    let values = chosen(&manifest.axes, query).map_err(&refused)?;
    if let Some((axis, value, _)) = forbidden(&manifest.axes, &values) {
        return Err(refused(format!("`{}={}` is not allowed beside the other values", axis.name, value.name)));
    }
    Ok((manifest, files, slot, picture_name(&manifest.name, slot, &manifest.axes, &values)))
}

/// One value index per axis.
fn chosen(axes: &[Axis], query: &str) -> Result<Vec<usize>, String> {
    let mut values: Vec<usize> = axes.iter().map(|axis| axis.default).collect();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not written axis=value"))?;
        let index = axes.iter().position(|axis| axis.name == name).ok_or_else(|| {
            let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
            format!("there is no axis `{name}`; there is {}", listing(&names, 12))
        })?;
        values[index] = axes[index].value_index_in_url(value).ok_or_else(|| {
            let names = axes[index].value_names();
            format!("axis `{name}` has no value `{value}`; it has {}", listing(&names, 12))
        })?;
    }
    Ok(values)
}

/// The campaign's lock as it is. A campaign that names nothing may begin without one.
fn lock_of(manifest: &Manifest, files: &CampaignFiles) -> Result<Lock, ImportRunError> {
    let Some(file) = &files.lock else {
        return Lock::of_nothing(manifest).ok_or_else(|| ImportRunError::NoLock { path: files.lock_path.clone() });
    };
    let source = SourceText::new(&file.path, &file.text);
    let lock = lock::read(&source, manifest);
    CatalogErrors::check(source.into_faults())?;
    lock.ok_or_else(|| ImportRunError::NoLock { path: files.lock_path.clone() })
}

/// A lock is written only if an edge would read it: its length and its imports are bounded.
fn check_readable(lock: &Lock, manifest: &Manifest, files: &CampaignFiles) -> Result<(), ImportRunError> {
    let text = lock.to_toml();
    text_file::check_length(text.len() as u64)
        .map_err(|source| ImportRunError::Write { path: files.lock_path.clone(), source })?;
    let written = SourceText::new(&files.lock_path, &text);
    let _ = lock::read(&written, manifest);
    Ok(CatalogErrors::check(written.into_faults())?)
}

fn check_reach(master: &Pixels, slot: &Slot) -> Result<(), ImportRunError> {
    let (width_px, height_px) = (master.width_px(), master.height_px());
    let widest_px = slot.framing.widest_px();
    let reach = f64::from(slot.framing.ratio.cropped_width_px(width_px, height_px)) * slot.upscale_max;
    if f64::from(widest_px) <= reach + 1e-6 {
        return Ok(());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below widest_px")]
    let reach_px = reach as u32;
    Err(ImportRunError::TooSmall { width_px, height_px, slot: slot.name.clone(), widest_px, reach_px })
}

fn recipe(order: &ImportOrder<'_>, format: OriginalFormat) -> Result<ValidImport, ImportRunError> {
    let source = order.source.or_else(|| declared_source(order.bytes, format)).ok_or(ImportRunError::NoSource)?;
    let Statements { origin, creator, credit, copyright, license } = order.statements.clone();
    let import = Digest::of_bytes(order.bytes);
    Ok(ValidImport::try_from(ImportRecipe { import, source, origin, creator, credit, copyright, license })?)
}

/// The digital source type that the file's own XMP packet names.
#[must_use]
pub fn declared_source(file: &[u8], format: OriginalFormat) -> Option<DigitalSource> {
    const VOCABULARY: &str = "cv.iptc.org/newscodes/digitalsourcetype/";
    let packet = String::from_utf8_lossy(xmp_of(format.format(), file).ok()??);
    let (_, rest) = packet.split_once(VOCABULARY)?;
    rest.split(|c: char| !c.is_ascii_alphabetic()).next()?.parse().ok()
}

/// An original is written once: its name is its content.
fn keep(path: &Path, bytes: &[u8]) -> Result<(), ImportRunError> {
    let failed = |source| ImportRunError::Write { path: path.to_owned(), source };
    if read_bounded(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    durable::write(path, &[bytes], Durability::Synced).map_err(failed)
}
