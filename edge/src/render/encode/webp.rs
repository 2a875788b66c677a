//! Lossy WebP by libwebp. 4:2:0 is the only chroma layout of the format; *sharp YUV* conversion keeps hard coloured
//! edges: without it a picture with red on white stays at a score of 60, however large the file is. It takes two thirds of a quick
//! encode, so a hurried one goes without.

use webp::{Decoder, Encoder, WebPConfig};

use super::{Encoding, Raster};
use crate::render::Rung;

pub(super) struct Webp<'r> {
    pub(super) raster: &'r Raster,
    pub(super) rung: Rung,
}

impl Webp<'_> {
    fn at(&self, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
        let mut config = WebPConfig::new().map_err(|()| "its version does not match its header".to_owned())?;
        config.quality = quality;
        config.use_sharp_yuv = (rung != Rung::Hurried).into();
        config.method = match rung {
            Rung::Hurried | Rung::Quick => 2,
            Rung::Final => 6,
        };
        let encoder = Encoder::from_rgb(&self.raster.rgb, self.raster.width_px, self.raster.height_px);
        encoder.encode_advanced(&config).map(|memory| memory.to_vec()).map_err(|error| format!("{error:?}"))
    }
}

impl Encoding for Webp<'_> {
    fn encode(&mut self, quality: f32) -> Result<Vec<u8>, String> {
        self.at(quality, self.rung)
    }

    /// Half the time.
    fn probe(&mut self, quality: f32) -> Result<Option<Vec<u8>>, String> {
        self.at(quality, Rung::Quick).map(Some)
    }

    fn probe_gain(&self) -> f64 {
        0.6
    }

    fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String> {
        let picture = Decoder::new(file).decode().ok_or("its own file cannot be decoded")?;
        if picture.is_alpha() { Err("its own file has an alpha".to_owned()) } else { Ok(picture.to_vec()) }
    }
}
