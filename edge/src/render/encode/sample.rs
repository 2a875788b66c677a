//! What stands for a picture while a reader waits: a few strips of it, on which a quality is tried out before the whole is encoded.
//!
//! A quality that is predicted from features alone misses its score by some points on every second picture. Two tries on a part of the
//! picture, measured as a final is, find it on most (docs/encoders.md).

use super::Raster;
use crate::render::Quality;
use crate::words::Format;

/// A block of AV1 at most, so that a strip is encoded as it would be in the whole.
const STRIP_PX: u32 = 64;
/// What all strips together come to, about.
const SAMPLE_PX: u32 = 131_072;
const STRIPS_MIN: u32 = 3;

/// Strips as wide as the picture, spread over its height; `None` where it is little more than that.
pub(super) fn sample(raster: &Raster) -> Option<Raster> {
    let (width_px, height_px) = (raster.width_px, raster.height_px);
    let strips = (SAMPLE_PX / (width_px * STRIP_PX).max(1)).max(STRIPS_MIN);
    if height_px <= strips * STRIP_PX * 3 / 2 {
        return None;
    }
    let row_bytes = width_px as usize * 3;
    let rgb = (0..strips).flat_map(|strip| {
        let middle_px = (2 * strip + 1) * height_px / (2 * strips);
        let from = (middle_px - STRIP_PX / 2) as usize * row_bytes;
        &raster.rgb[from..from + STRIP_PX as usize * row_bytes]
    });
    Some(Raster { width_px, height_px: strips * STRIP_PX, rgb: rgb.copied().collect() })
}

/// The score that a sample has where the whole picture has the quality's. It loses less: it has none of the coarsest scales that are
/// judged.
pub(super) fn target(quality: Quality, format: Format) -> f64 {
    let less = match format {
        Format::Jpeg => 0.12,
        Format::Avif => 0.08,
        Format::Webp | Format::Png => 0.05,
    };
    100.0 - (100.0 - f64::from(quality.get())) * (1.0 - less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_strips_from_all_over_the_picture_and_a_small_picture_has_none() {
        let rows = |height_px: u32| Raster {
            width_px: 400,
            height_px,
            rgb: (0..height_px).flat_map(|y| [(y / 4) as u8; 1200]).collect(),
        };
        let sampled = sample(&rows(800)).expect("a sample");
        assert_eq!((sampled.width_px, sampled.height_px, sampled.rgb.len()), (400, 320, 400 * 320 * 3));
        let row = |y: usize| u32::from(sampled.rgb[y * 1200]) * 4;
        assert_eq!((row(0), row(63), row(64), row(319)), (48, 108, 208, 748));
        assert_eq!(sample(&rows(480)), None);
        for (width_px, height_px) in [(1, 1), (1, 9000), (8192, 130), (8192, 2048), (300, 193)] {
            let raster = Raster { width_px, height_px, rgb: vec![9; (width_px * height_px * 3) as usize] };
            let Some(sampled) = sample(&raster) else { continue };
            assert_eq!(
                sampled.rgb.len(),
                (sampled.width_px * sampled.height_px * 3) as usize,
                "{width_px}×{height_px}"
            );
            assert!(sampled.height_px <= height_px);
        }
    }
}
