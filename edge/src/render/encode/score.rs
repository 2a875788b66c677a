//! How near an encoded picture is to the one it was made from: SSIMULACRA2, with what the original needs computed once.
//!
//! `fast-ssim2` gives the reference implementation's scores in a fraction of its time. It sums floats in the order of the processor's vectors:
//! two kinds of processor may differ behind the comma, so scores are rounded to hundredths before anything is decided by them.

use fast_ssim2::{PixelDescriptor, PixelSlice, Ssimulacra2Reference};

use super::Raster;
use super::ycbcr::{Chroma, halved};

/// Below this side SSIMULACRA2 says nothing.
const SIDE_PX_MIN: u32 = 8;
/// Halving the chroma alone may cost as much of the score as this leaves of 100. Coloured letters and edges lose more, and are encoded with
/// all of it.
const HALVED_SCORE_MIN: f64 = 88.0;

/// What says how good a decoded picture is.
pub(super) trait Judge {
    /// 100 for the picture itself; below 0 where it cannot be known again.
    fn score(&self, rgb: &[u8]) -> Result<f64, String>;
}

pub(super) struct Reference {
    computed: Ssimulacra2Reference,
    width_px: u32,
    height_px: u32,
}

impl Reference {
    /// `None` where the picture is too small to be judged.
    pub(super) fn new(raster: &Raster) -> Option<Self> {
        let (width_px, height_px) = (raster.width_px, raster.height_px);
        if width_px.min(height_px) < SIDE_PX_MIN {
            return None;
        }
        let computed = Ssimulacra2Reference::new(&slice(&raster.rgb, width_px, height_px)?).ok()?;
        Some(Self { computed, width_px, height_px })
    }
}

/// Halved where that, spread as decoders do it, leaves a picture what it is.
pub(super) fn chroma(raster: &Raster, judge: &dyn Judge) -> Result<Chroma, String> {
    Ok(if judge.score(&halved(raster))? >= HALVED_SCORE_MIN { Chroma::Half } else { Chroma::Full })
}

impl Judge for Reference {
    fn score(&self, rgb: &[u8]) -> Result<f64, String> {
        let slice = slice(rgb, self.width_px, self.height_px).ok_or("the decoded picture has another size")?;
        let score = self.computed.compare(&slice).map_err(|error| error.to_string())?;
        Ok((score * 100.0).round() / 100.0)
    }
}

fn slice(rgb: &[u8], width_px: u32, height_px: u32) -> Option<PixelSlice<'_>> {
    PixelSlice::new(rgb, width_px, height_px, width_px as usize * 3, PixelDescriptor::RGB8_SRGB).ok()
}
