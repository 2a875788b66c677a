//! AVIF by libaom: the speeds, depths and chroma that the frontier of docs/encoders.md chose.

use avif_serialize::Aviffy;
use avif_serialize::constants::MatrixCoefficients;
use bildkante_aom::{Depth, Picture, QUANTIZER_MAX, QUANTIZER_MIN, Settings, encode};

use super::super::ycbcr::{Chroma, planes};
use super::super::{Encoding, Raster};
use crate::render::Rung;

/// libaom's `cpu-used`. The quality tables hold for these only: a change of one recalibrates and raises the encoder epoch.
const HURRIED_SPEED: u8 = 9;
const QUICK_SPEED: u8 = 7;
const PROBE_SPEED: u8 = 6;
const FINAL_SPEED: u8 = 5;

/// The unit that begins a stream of pictures (AV1 §5.6).
const TEMPORAL_DELIMITER: [u8; 2] = [0x12, 0];

pub(in crate::render::encode) struct Aom<'r> {
    raster: &'r Raster,
    rung: Rung,
    picture: Picture,
    chroma: Chroma,
}

impl<'r> Aom<'r> {
    /// A final keeps all of its chroma: on the corpus that takes no more bytes at equal score than halving it, and the watermark, which is a wave
    /// of colour, does not survive halving in every picture. A quick file, which the final replaces, keeps what was chosen for it, half where
    /// that was not measured.
    pub(in crate::render::encode) fn new(
        raster: &'r Raster,
        rung: Rung,
        chroma: Option<Chroma>,
    ) -> Result<Self, String> {
        let (depth, chroma) = match rung {
            Rung::Hurried | Rung::Quick => (Depth::Eight, chroma.unwrap_or(Chroma::Half)),
            Rung::Final => (Depth::Ten, Chroma::Full),
        };
        let size_px = (raster.width_px, raster.height_px);
        let samples = match chroma {
            Chroma::Half => bildkante_aom::Chroma::Half,
            Chroma::Full => bildkante_aom::Chroma::Full,
        };
        let picture = Picture::new(size_px, depth, samples, planes(raster, depth.bits(), chroma));
        Ok(Self { raster, rung, picture: picture.map_err(|error| error.to_string())?, chroma })
    }

    /// `quality` is libaom's quantizer the other way round: 62 is the best.
    fn at(&self, speed: u8, quality: f32) -> Result<Vec<u8>, String> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0–62")]
        let quantizer = QUANTIZER_MAX - quality.round().clamp(0.0, f32::from(QUANTIZER_MAX - QUANTIZER_MIN)) as u8;
        let obus = encode(&self.picture, Settings { speed, quantizer }).map_err(|error| error.to_string())?;
        let is_halved = self.chroma == Chroma::Half;
        let bits = u8::try_from(self.picture.depth().bits()).map_err(|error| error.to_string())?;
        // An item has no need of it, and should not have it (AVIF §2.1).
        let item = obus.strip_prefix(&TEMPORAL_DELIMITER).unwrap_or(&obus);
        let mut file = Aviffy::new();
        file.set_matrix_coefficients(MatrixCoefficients::Bt601)
            .set_full_color_range(true)
            .set_chroma_subsampling((is_halved, is_halved))
            .set_seq_profile(u8::from(!is_halved));
        Ok(file.to_vec(item, None, self.raster.width_px, self.raster.height_px, bits))
    }
}

impl Encoding for Aom<'_> {
    fn encode(&mut self, quality: f32) -> Result<Vec<u8>, String> {
        let speed = match self.rung {
            Rung::Hurried => HURRIED_SPEED,
            Rung::Quick => QUICK_SPEED,
            Rung::Final => FINAL_SPEED,
        };
        self.at(speed, quality)
    }

    /// A sixth of the final's time.
    fn probe(&mut self, quality: f32) -> Result<Option<Vec<u8>>, String> {
        self.at(PROBE_SPEED, quality).map(Some)
    }

    fn probe_gain(&self) -> f64 {
        1.2
    }

    fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String> {
        super::decoded(file, self.raster)
    }

    fn step(&self) -> f32 {
        1.0
    }
}
