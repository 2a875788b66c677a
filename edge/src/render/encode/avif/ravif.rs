//! AVIF by ravif (rav1e). 4:4:4, as ravif always does, and 8-bit: masters are 8-bit, and 10 bits cost two to three
//! times the time for nothing to gain.

use ravif::{AlphaColorMode, BitDepth, Encoder, Img};
use rgb::RGBA8;

use super::super::{Encoding, Raster};
use crate::render::Rung;

/// ravif's presets run from 1 (slowest) to 10. The quality tables hold for these two only: a change of one
/// recalibrates and raises the encoder epoch.
const fn speed(rung: Rung) -> u8 {
    match rung {
        // There is none beyond it.
        Rung::Hurried | Rung::Quick => 10,
        Rung::Final => 4,
    }
}

pub(in crate::render::encode) struct Ravif<'r> {
    raster: &'r Raster,
    /// The picture goes in as RGBA, whose opaque alpha ravif leaves out again: `encode_rgb` is `#[inline]`, so rav1e's
    /// generic code would be compiled into this crate, unoptimised and dozens of times slower in every development build.
    opaque: Vec<RGBA8>,
    rung: Rung,
}

impl<'r> Ravif<'r> {
    pub(in crate::render::encode) fn new(raster: &'r Raster, rung: Rung) -> Self {
        let opaque = raster.rgb.chunks_exact(3).map(|px| RGBA8::new(px[0], px[1], px[2], u8::MAX)).collect();
        Self { raster, opaque, rung }
    }
}

impl Encoding for Ravif<'_> {
    /// Of a quality of 1–100; ravif panics outside, so callers clamp.
    fn encode(&mut self, quality: f32) -> Result<Vec<u8>, String> {
        let encoder = Encoder::new()
            .with_quality(quality)
            .with_speed(speed(self.rung))
            .with_bit_depth(BitDepth::Eight)
            .with_alpha_color_mode(AlphaColorMode::UnassociatedDirty)
            .with_num_threads(Some(1));
        let (width, height) = (self.raster.width_px as usize, self.raster.height_px as usize);
        let image = Img::new(self.opaque.as_slice(), width, height);
        encoder.encode_rgba(image).map(|encoded| encoded.avif_file).map_err(|error| error.to_string())
    }

    fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String> {
        super::decoded(file, self.raster)
    }

    fn step(&self) -> f32 {
        0.5
    }
}
