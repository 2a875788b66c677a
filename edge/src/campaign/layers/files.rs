//! The files of layers: fonts, packshots and logos below the campaigns' folder, each pinned in the lock by its digest.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;

use super::super::manifest::Manifest;
use super::super::slots::Slot;
use super::{KindPlan, PathPlan};
use crate::decoding::DecoderCommand;
use crate::render::layers::{ASSET_BYTES_MAX, FONT_BYTES_MAX, FontFace, ImageAsset};

/// Most files of a campaign's layers.
pub const LAYER_FILES_MAX: usize = 2048;
/// What they take together, in bytes.
const BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Where layers' paths begin.
#[must_use]
pub(in super::super) fn folder_of(campaigns_dir: &Path) -> PathBuf {
    campaigns_dir.join("layers")
}

/// Files by path, read and checked.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Files {
    pub(super) fonts: BTreeMap<String, FontFace>,
    pub(super) images: BTreeMap<String, ImageAsset>,
}

/// Every file that a manifest's layers may need, each once, sorted. Fonts are named whether a layer uses them or not.
pub(in super::super) fn named(manifest: &Manifest) -> Vec<String> {
    let mut paths = manifest.stock.fonts.clone();
    for slot in &manifest.slots {
        paths.extend(fonts_of(slot).cloned());
        for path in images_of(slot) {
            paths.extend(every(path, manifest));
        }
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn images_of(slot: &Slot) -> impl Iterator<Item = &PathPlan> {
    slot.layers.layers.iter().filter_map(|layer| match &layer.kind {
        KindPlan::Image { path, .. } => Some(path),
        KindPlan::Text(_) | KindPlan::Panel { .. } | KindPlan::Shadow { .. } => None,
    })
}

fn fonts_of(slot: &Slot) -> impl Iterator<Item = &String> {
    slot.layers.layers.iter().flat_map(|layer| match &layer.kind {
        KindPlan::Text(text) => text.fonts.as_slice(),
        KindPlan::Image { .. } | KindPlan::Panel { .. } | KindPlan::Shadow { .. } => &[],
    })
}

/// A path for every combination of the values that it names.
fn every(path: &PathPlan, manifest: &Manifest) -> Vec<String> {
    let axes = path.axes();
    let count = axes.iter().map(|axis| manifest.axes[*axis].values.len()).try_fold(1_usize, usize::checked_mul);
    let count = count.unwrap_or(usize::MAX).min(LAYER_FILES_MAX + 1);
    let paths = (0..count).map(|mut number| {
        let chosen: BTreeMap<usize, usize> = axes
            .iter()
            .map(|axis| {
                let values = manifest.axes[*axis].values.len();
                let value = number % values;
                number /= values;
                (*axis, value)
            })
            .collect();
        path.at(|axis| &manifest.axes[axis].values[chosen[&axis]].name)
    });
    paths.collect()
}

/// How many bytes a file may have.
pub(in super::super) fn bytes_max(manifest: &Manifest, path: &str) -> u64 {
    let bytes = if is_font(manifest, path) { FONT_BYTES_MAX } else { ASSET_BYTES_MAX };
    bytes as u64
}

fn is_font(manifest: &Manifest, path: &str) -> bool {
    let mut fonts = manifest.stock.fonts.iter().chain(manifest.slots.iter().flat_map(fonts_of));
    fonts.any(|font| font == path)
}

pub(super) fn read(folder: &Path, path: &str) -> std::io::Result<Vec<u8>> {
    let bytes_max = ASSET_BYTES_MAX.max(FONT_BYTES_MAX) as u64;
    let mut bytes = Vec::new();
    std::fs::File::open(folder.join(path))?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads what the lock pins.
///
/// # Errors
/// One sentence for each file that is not there, not what the lock pins, or no layer.
pub(super) fn read_all(
    folder: &Path,
    manifest: &Manifest,
    pins: &BTreeMap<String, Digest>,
    decoder: &DecoderCommand,
) -> Result<Files, Vec<String>> {
    let (mut files, mut reasons, mut total) = (Files::default(), Vec::new(), 0_u64);
    for (path, digest) in pins {
        let bytes = match read(folder, path) {
            Ok(bytes) => bytes,
            Err(error) => {
                reasons.push(format!("{}: {error}", folder.join(path).display()));
                continue;
            }
        };
        total += bytes.len() as u64;
        if total > BYTES_MAX {
            reasons.push(format!("the files of layers have more than {BYTES_MAX} bytes together"));
            break;
        }
        if Digest::of_bytes(&bytes) != *digest {
            let path = folder.join(path);
            reasons.push(format!("{} is not what the lock pins; run `bildkante-edge lock`", path.display()));
            continue;
        }
        let refused = if is_font(manifest, path) {
            FontFace::read(bytes)
                .map(|font| files.fonts.insert(path.clone(), font))
                .err()
                .map(|error| error.to_string())
        } else {
            ImageAsset::read(bytes, decoder)
                .map(|image| files.images.insert(path.clone(), image))
                .err()
                .map(|error| error.to_string())
        };
        reasons.extend(refused.map(|error| format!("{}: {error}", folder.join(path).display())));
    }
    if reasons.is_empty() { Ok(files) } else { Err(reasons) }
}
