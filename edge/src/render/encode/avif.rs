//! AVIF by ravif (rav1e). 4:4:4, as ravif always does, and 8-bit: masters are 8-bit, and 10 bits cost two to three
//! times the time for nothing to gain.

use ravif::{BitDepth, Encoder, Img};
use rgb::FromSlice;

use super::Raster;
use crate::render::Rung;

/// ravif's presets run from 1 (slowest) to 10. The quality tables hold for these two only: whoever changes one
/// recalibrates and raises the encoder epoch.
const fn speed(rung: Rung) -> u8 {
    match rung {
        Rung::Quick => 10,
        Rung::Final => 4,
    }
}

/// `quality` is 1–100; ravif panics outside, so callers clamp.
pub(super) fn encode(raster: &Raster, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
    let image = Img::new(raster.rgb.as_rgb(), raster.width_px as usize, raster.height_px as usize);
    let encoder = Encoder::new()
        .with_quality(quality)
        .with_speed(speed(rung))
        .with_bit_depth(BitDepth::Eight)
        .with_num_threads(Some(1));
    encoder.encode_rgb(image).map(|encoded| encoded.avif_file).map_err(|error| error.to_string())
}
