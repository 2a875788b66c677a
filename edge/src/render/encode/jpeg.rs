//! JPEG by jpeg-encoder, with the quantisation tables tuned for MS-SSIM: some 10 % fewer bytes at equal SSIMULACRA2
//! than those of the standard's annex.
//!
//! The final rung is progressive with optimised Huffman tables, which is smaller and shows a whole picture early. The
//! quick one is interleaved baseline with fixed tables: optimising them without progression would write one scan per
//! component, which some decoders upsample badly. Chroma is 4:2:0, averaged rather than picked, where that leaves the picture what
//! it is; where that was not measured, on the hurried rung, below native quality 90. Where this edge is built with mozjpeg, that makes the finals.

#[cfg(feature = "mozjpeg")]
pub(super) mod moz;

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, QuantizationTableType, SamplingFactor};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use super::ycbcr::Chroma;
use super::{Encoding, Raster};
use crate::render::Rung;

/// From here on colour detail is worth its bytes.
const FULL_CHROMA_QUALITY: u8 = 90;

pub(super) struct Jpeg<'r> {
    raster: &'r Raster,
    rung: Rung,
    /// `None` where the quality decides.
    chroma: Option<Chroma>,
}

impl<'r> Jpeg<'r> {
    pub(super) const fn new(raster: &'r Raster, rung: Rung, chroma: Option<Chroma>) -> Self {
        Self { raster, rung, chroma }
    }

    /// `quality` is rounded to a whole number.
    fn at(&self, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1–100")]
        let quality = quality.round().clamp(1.0, 100.0) as u8;
        let side = |px: u32| u16::try_from(px).map_err(|_| format!("{px} px is over 65535"));
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, quality);
        let is_full = self.chroma.map_or(quality >= FULL_CHROMA_QUALITY, |chroma| chroma == Chroma::Full);
        encoder.set_sampling_factor(if is_full { SamplingFactor::R_4_4_4 } else { SamplingFactor::R_4_2_0 });
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
        encoder.set_quantization_tables(QuantizationTableType::CustomMsSsim, QuantizationTableType::CustomMsSsim);
        encoder.set_optimized_huffman_tables(rung == Rung::Final);
        encoder.set_progressive(rung == Rung::Final);
        encoder
            .encode(&self.raster.rgb, side(self.raster.width_px)?, side(self.raster.height_px)?, ColorType::Rgb)
            .map_err(|error| error.to_string())?;
        Ok(out)
    }
}

impl Encoding for Jpeg<'_> {
    fn encode(&mut self, quality: f32) -> Result<Vec<u8>, String> {
        self.at(quality, self.rung)
    }

    /// The same pixels: only how they are written differs.
    fn probe(&mut self, quality: f32) -> Result<Option<Vec<u8>>, String> {
        self.at(quality, Rung::Quick).map(Some)
    }

    fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String> {
        decoded(file)
    }

    fn step(&self) -> f32 {
        1.0
    }
}

fn decoded(file: &[u8]) -> Result<Vec<u8>, String> {
    JpegDecoder::new(ZCursor::new(file)).decode().map_err(|error| error.to_string())
}
