//! Lossy WebP by libwebp. 4:2:0 is the only chroma layout of the format; *sharp YUV* conversion keeps hard coloured
//! edges: without it a picture with red on white stays at a score of 60, however large the file is.

use webp::{Encoder, WebPConfig};

use super::Raster;
use crate::render::Rung;

/// `quality` is 0–100.
pub(super) fn encode(raster: &Raster, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
    let mut config = WebPConfig::new().map_err(|()| "its version does not match its header".to_owned())?;
    config.quality = quality;
    config.use_sharp_yuv = 1;
    config.method = match rung {
        Rung::Quick => 2,
        Rung::Final => 6,
    };
    let encoder = Encoder::from_rgb(&raster.rgb, raster.width_px, raster.height_px);
    encoder.encode_advanced(&config).map(|memory| memory.to_vec()).map_err(|error| format!("{error:?}"))
}
