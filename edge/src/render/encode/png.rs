//! PNG by the png crate: lossless, 8-bit RGB, tagged sRGB. Only where a URL asks for it by name.

use png::{BitDepth, ColorType, Compression, Encoder, SrgbRenderingIntent};

use super::Raster;
use crate::render::Rung;

pub(super) fn encode(raster: &Raster, rung: Rung) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, raster.width_px, raster.height_px);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
    encoder.set_compression(match rung {
        Rung::Quick => Compression::Fast,
        Rung::Final => Compression::High,
    });
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(&raster.rgb).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(out)
}
