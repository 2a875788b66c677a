//! AVIF: libaom where this edge is built with it, else ravif, and how either's files are decoded again.

#[cfg(feature = "aom")]
pub(super) mod aom;
#[cfg(not(feature = "aom"))]
pub(super) mod ravif;

use bildkante_av1::{Threads, decode};

use super::{Raster, ycbcr};

/// The pixels of a file that one of these encoders made: one picture, whose samples are the last thing in the file.
fn decoded(file: &[u8], raster: &Raster) -> Result<Vec<u8>, String> {
    const BOX: &[u8] = b"mdat";
    let at = file.windows(BOX.len()).position(|name| name == BOX).ok_or("its own file holds no picture")?;
    let area_px = raster.width_px.saturating_mul(raster.height_px);
    let frame = decode(&file[at + BOX.len()..], area_px, Threads::Own).map_err(|error| error.to_string())?;
    ycbcr::pixels(&frame)
}
