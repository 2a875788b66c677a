//! AVIF by ravif (rav1e). 4:4:4, as ravif always does, and 8-bit: masters are 8-bit, and 10 bits cost two to three
//! times the time for nothing to gain.

use ravif::{AlphaColorMode, BitDepth, Encoder, Img};
use rgb::RGBA8;

use super::Raster;
use crate::render::Rung;

/// ravif's presets run from 1 (slowest) to 10. The quality tables hold for these two only: a change of one
/// recalibrates and raises the encoder epoch.
const fn speed(rung: Rung) -> u8 {
    match rung {
        Rung::Quick => 10,
        Rung::Final => 4,
    }
}

/// `quality` is 1–100; ravif panics outside, so callers clamp.
///
/// The picture goes in as RGBA, whose opaque alpha ravif leaves out again: `encode_rgb` is `#[inline]`, so rav1e's
/// generic code would be compiled into this crate, unoptimised and dozens of times slower in every development build.
pub(super) fn encode(raster: &Raster, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
    let opaque: Vec<RGBA8> = raster.rgb.chunks_exact(3).map(|px| RGBA8::new(px[0], px[1], px[2], u8::MAX)).collect();
    let encoder = Encoder::new()
        .with_quality(quality)
        .with_speed(speed(rung))
        .with_bit_depth(BitDepth::Eight)
        .with_alpha_color_mode(AlphaColorMode::UnassociatedDirty)
        .with_num_threads(Some(1));
    let image = Img::new(opaque.as_slice(), raster.width_px as usize, raster.height_px as usize);
    encoder.encode_rgba(image).map(|encoded| encoded.avif_file).map_err(|error| error.to_string())
}
