//! Master files: PNG in and out, checked reads, quarantine, the sweep at start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bildkante_shared::durable::TEMPORARY_PREFIX;
use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::limits::{MASTER_AREA_PX_MAX, MASTER_FILE_BYTES_MAX};
use bildkante_shared::log_limited;
use bildkante_shared::pixels::{Pixels, PixelsError};

use super::StoreError;

/// Damaged files that are kept for an operator to examine; older ones are removed.
const QUARANTINE_FILES_MAX: usize = 32;

/// Why pixels and PNG could not be turned into one another.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    #[error("PNG: {0}")]
    Encode(#[from] png::EncodingError),
    #[error("PNG: {0}")]
    Decode(#[from] png::DecodingError),
    #[error("PNG: {0}")]
    Pixels(#[from] PixelsError),
    #[error("PNG: a master is 8-bit RGB")]
    Colour,
}

/// 8-bit RGB, marked as sRGB. Fast: a master is read a few times by edges, and drawing it took seconds.
///
/// # Errors
/// None that a valid [`Pixels`] could cause.
pub fn encode_png(pixels: &Pixels) -> Result<Vec<u8>, PngError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width_px(), pixels.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.rgb())?;
    writer.finish()?;
    Ok(bytes)
}

/// # Errors
/// When the bytes are no 8-bit RGB PNG within the limits of a master.
pub fn decode_png(bytes: &[u8]) -> Result<Pixels, PngError> {
    #[allow(clippy::cast_possible_truncation, reason = "12 MiB")]
    let limits = png::Limits { bytes: MASTER_AREA_PX_MAX as usize * 3 + 1024 * 1024 };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info()?;
    if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(PngError::Colour);
    }
    let (width_px, height_px) = reader.info().size();
    if u64::from(width_px) * u64::from(height_px) > MASTER_AREA_PX_MAX {
        return Err(PixelsError::Size { width_px, height_px }.into());
    }
    let mut rgb = vec![0; width_px as usize * height_px as usize * 3];
    reader.next_frame(&mut rgb)?;
    Ok(Pixels::new(width_px, height_px, rgb)?)
}

/// Why a file was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Says nothing about the file: too many open ones, a failing disk.
    #[error(transparent)]
    Io(std::io::Error),
    #[error("it is gone")]
    Missing,
    #[error("its length or digest does not agree with the database")]
    Damaged,
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::Missing } else { Self::Io(error) }
    }
}

/// The file's bytes, when they are those that were written.
pub(super) fn read_checked(path: &Path, bytes: u64, digest: Digest) -> Result<Vec<u8>, ReadError> {
    let length = usize::try_from(bytes).unwrap_or(MASTER_FILE_BYTES_MAX);
    let mut contents = Vec::with_capacity(length + 1);
    // One byte more than expected is enough to see that the file has grown.
    File::open(path)?.take(bytes + 1).read_to_end(&mut contents)?;
    if contents.len() == length && Digest::of_bytes(&contents) == digest {
        Ok(contents)
    } else {
        Err(ReadError::Damaged)
    }
}

/// Creates the two folder levels above a master and syncs the entries, so that the file in them survives a power cut.
pub(super) fn create_parents(path: &Path, masters: &Path) -> Result<(), StoreError> {
    let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) else { return Ok(()) };
    fs::create_dir_all(folder).map_err(StoreError::io(folder))?;
    for made_in in [masters, folder.parent().unwrap_or(masters)] {
        File::open(made_in).and_then(|f| f.sync_all()).map_err(StoreError::io(made_in))?;
    }
    Ok(())
}

/// Removes a file whose row is gone already; where that fails the next start does it.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log_limited!(warn, path = %path.display(), %error, "file cannot be removed");
    }
}

/// Moves a damaged file aside, keeping the newest few.
pub(super) fn quarantine(path: &Path, folder: &Path, now_unix_ms: u64) {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let target = folder.join(format!("{now_unix_ms:013}-{name}.png"));
    if let Err(error) = fs::rename(path, &target) {
        // Without its row it is not served in any case.
        log_limited!(warn, path = %path.display(), %error, "damaged master cannot be moved to quarantine");
        return;
    }
    let mut kept: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    kept.sort();
    let surplus = kept.len().saturating_sub(QUARANTINE_FILES_MAX);
    kept.iter().take(surplus).for_each(|path| remove(path));
}

/// Removes every file of a folder; what cannot be removed stays.
pub(super) fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        remove(&entry.path());
    }
}

/// Records a use as the file's modification time.
pub(super) fn set_used(path: &Path, now_unix_ms: u64) {
    let time = UNIX_EPOCH + Duration::from_millis(now_unix_ms);
    // Only the order of a later eviction depends on it.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(time));
}

/// Where a master lies: two levels of folders keep each one small.
pub(super) fn path(masters: &Path, id: MasterId) -> PathBuf {
    let name = id.to_string();
    masters.join(&name[..2]).join(&name[2..4]).join(format!("{name}.png"))
}

/// A master file found at start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) bytes: u64,
    pub(super) used_unix_ms: u64,
}

/// Every master file. Temporary and unknown files are removed on the way.
pub(super) fn survey(masters: &Path) -> Result<HashMap<MasterId, Found>, StoreError> {
    let mut found = HashMap::new();
    for first in folders(masters)? {
        for second in folders(&first)? {
            for entry in fs::read_dir(&second).map_err(StoreError::io(&second))? {
                let path = entry.map_err(StoreError::io(&second))?.path();
                // A file in another folder than its id's would never be found.
                match master_id(&path).filter(|id| path == self::path(masters, *id)) {
                    Some(id) => found.extend(measure(&path).map(|file| (id, file))),
                    None => remove(&path),
                }
            }
        }
    }
    Ok(found)
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(parent).map_err(StoreError::io(parent))? {
        let path = entry.map_err(StoreError::io(parent))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn master_id(path: &Path) -> Option<MasterId> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with(TEMPORARY_PREFIX) {
        return None;
    }
    name.strip_suffix(".png")?.parse().ok()
}

fn measure(path: &Path) -> Option<Found> {
    let metadata = fs::metadata(path).ok()?;
    let used = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Found { bytes: metadata.len(), used_unix_ms: u64::try_from(used.as_millis()).unwrap_or(u64::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_is_lossless_and_damage_is_an_error() {
        let rgb = (0..24 * 16 * 3).map(|n| u8::try_from(n * 7 % 256).unwrap()).collect();
        let pixels = Pixels::new(24, 16, rgb).unwrap();
        let mut png = encode_png(&pixels).unwrap();
        assert_eq!(decode_png(&png).unwrap(), pixels);
        png.truncate(png.len() / 2);
        assert!(decode_png(&png).is_err());
        assert!(decode_png(b"").is_err());
    }

    #[test]
    fn a_file_that_grew_shrank_or_changed_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let digest = Digest::of_bytes(b"abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(read_checked(&path, 3, digest).unwrap(), b"abc");
        for damaged in ["abcd", "ab", "abd", ""] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(read_checked(&path, 3, digest), Err(ReadError::Damaged)), "{damaged}");
        }
        assert!(matches!(read_checked(&dir.path().join("y"), 3, digest), Err(ReadError::Missing)));
        assert!(matches!(read_checked(dir.path(), 3, digest), Err(ReadError::Io(_))), "a folder");
    }

    #[test]
    fn quarantine_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("quarantine");
        fs::create_dir(&folder).unwrap();
        for n in 0..(QUARANTINE_FILES_MAX as u64 + 5) {
            let path = dir.path().join("m.png");
            fs::write(&path, "x").unwrap();
            quarantine(&path, &folder, n);
        }
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), QUARANTINE_FILES_MAX);
        assert!(names.iter().all(|name| *name.to_string_lossy() >= *"0000000000005"));
    }
}
