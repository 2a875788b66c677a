//! JPEG by jpeg-encoder. Optimised Huffman tables always; the final rung is progressive, which is smaller and shows
//! a whole picture early. Below native quality 90 chroma is 4:2:0, averaged rather than picked.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use super::Raster;
use crate::render::Rung;

/// From here on colour detail is worth its bytes.
const FULL_CHROMA_QUALITY: u8 = 90;

/// `quality` is 1–100, rounded to a whole number.
pub(super) fn encode(raster: &Raster, quality: f32, rung: Rung) -> Result<Vec<u8>, String> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1–100")]
    let quality = quality.round().clamp(1.0, 100.0) as u8;
    let side = |px: u32| u16::try_from(px).map_err(|_| format!("{px} px is over 65535"));
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, quality);
    let is_full = quality >= FULL_CHROMA_QUALITY;
    encoder.set_sampling_factor(if is_full { SamplingFactor::R_4_4_4 } else { SamplingFactor::R_4_2_0 });
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.set_optimized_huffman_tables(true);
    encoder.set_progressive(rung == Rung::Final);
    encoder
        .encode(&raster.rgb, side(raster.width_px)?, side(raster.height_px)?, ColorType::Rgb)
        .map_err(|error| error.to_string())?;
    Ok(out)
}
