//! PNG by oxipng: filters chosen by trial, libdeflate, and a palette or grey samples where they hold every pixel.
//!
//! Its time is bounded by the picture's size, not by a clock, and it runs on the calling thread: the same pixels give the same bytes on every
//! edge.

use oxipng::{BitDepth, ColorType, Options, RawImage};

use super::super::{Encoding, Raster};

/// Up to this area four filters are tried, which takes twice as long as two and saves some 1 % more.
const AREA_PX_TRIED: usize = 1 << 20;
/// oxipng's presets.
const TRIED: u8 = 2;
const QUICK: u8 = 1;

pub(in crate::render::encode) struct Oxi<'r> {
    pub(in crate::render::encode) raster: &'r Raster,
}

impl Encoding for Oxi<'_> {
    fn encode(&mut self, _quality: f32) -> Result<Vec<u8>, String> {
        let Raster { width_px, height_px, rgb } = self.raster;
        let color = ColorType::RGB { transparent_color: None };
        let mut image = RawImage::new(*width_px, *height_px, color, BitDepth::Eight, rgb.clone())
            .map_err(|error| error.to_string())?;
        image.add_png_chunk(*b"sRGB", vec![0]); // perceptual
        let is_small = rgb.len() / 3 <= AREA_PX_TRIED;
        let options = Options::from_preset(if is_small { TRIED } else { QUICK });
        image.create_optimized_png(&options).map_err(|error| error.to_string())
    }

    /// Lossless: what was encoded.
    fn decoded(&self, _file: &[u8]) -> Result<Vec<u8>, String> {
        Ok(self.raster.rgb.clone())
    }
}
