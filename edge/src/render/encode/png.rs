//! PNG by the png crate: lossless, 8-bit RGB, tagged sRGB. Only where a URL asks for it by name. The final rung is oxipng's where this edge is
//! built with it.

#[cfg(feature = "oxipng")]
pub(super) mod oxi;

use png::{BitDepth, ColorType, Compression, Encoder, SrgbRenderingIntent};

use super::{Encoding, Raster};
use crate::render::Rung;

pub(super) struct Png<'r> {
    pub(super) raster: &'r Raster,
    pub(super) rung: Rung,
}

impl Encoding for Png<'_> {
    fn encode(&mut self, _quality: f32) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, self.raster.width_px, self.raster.height_px);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
        encoder.set_compression(match self.rung {
            Rung::Hurried | Rung::Quick => Compression::Fast,
            Rung::Final => Compression::High,
        });
        let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
        writer.write_image_data(&self.raster.rgb).map_err(|error| error.to_string())?;
        writer.finish().map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// Lossless: what was encoded.
    fn decoded(&self, _file: &[u8]) -> Result<Vec<u8>, String> {
        Ok(self.raster.rgb.clone())
    }
}
