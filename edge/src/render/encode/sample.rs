//! What stands for a large picture while a reader waits: strips of it, on which a quality is tried out before the whole is encoded.
//!
//! A quality that is predicted from features alone misses its score by some points on every second picture. Two tries on a part of the
//! picture, measured as a final is, find it on most (docs/encoders.md). Strips that are spread evenly miss what is rare: half of them may show
//! nothing but sky. So all strips are put in order by how much changes in them, and one is taken out of the middle of each part of that order.

use super::score::{Judge, Reference};
use super::{Raster, score, ycbcr};
use crate::render::Quality;
use crate::render::entropy::luma;
use crate::words::Format;

/// A block of AV1 at most, so that a strip is encoded as it would be in the whole.
const STRIP_PX: u32 = 64;
/// About as wide: of a wide picture there are more of them, from more places.
const STRIP_WIDTH_PX: u32 = 640;
/// What all strips together come to, about.
const SAMPLE_PX: u32 = 262_144;
/// Differences count up to this: a few hard edges are no texture.
const STEP_MAX: u16 = 60;

/// Strips in the picture's order, one below the other, and what judges them.
pub(super) struct Sample {
    raster: Raster,
    format: Format,
    reference: Reference,
}

impl Sample {
    /// `None` where a picture is small enough to be tried out whole, or little more than its strips.
    pub(super) fn of(raster: &Raster, format: Format) -> Option<Self> {
        let raster = strips(raster)?;
        let reference = match inner(&raster.rgb, raster.width_px, format) {
            Some(inner) => Reference::new(&raster_of(raster.width_px, inner)),
            None => Reference::new(&raster),
        };
        Some(Self { reference: reference?, raster, format })
    }

    pub(super) const fn raster(&self) -> &Raster {
        &self.raster
    }

    pub(super) fn chroma(&self) -> Result<ycbcr::Chroma, String> {
        score::chroma(&self.raster, self)
    }

    /// The score that the strips have where the whole picture has the quality's. They lose less: they have none of the coarsest scales that are
    /// judged.
    pub(super) fn target(&self, quality: Quality) -> f64 {
        let less = match self.format {
            Format::Jpeg => 0.07,
            Format::Avif => 0.11,
            Format::Webp | Format::Png => 0.1,
        };
        100.0 - (100.0 - f64::from(quality.get())) * (1.0 - less)
    }
}

impl Judge for Sample {
    fn score(&self, rgb: &[u8]) -> Result<f64, String> {
        match inner(rgb, self.raster.width_px, self.format) {
            Some(inner) => self.reference.score(&inner),
            None => self.reference.score(rgb),
        }
    }
}

/// The strips without the rows next to where they meet, of an encoder that smooths what lies beside its blocks' edges: where two strips meet
/// it would smooth away an edge that the picture does not have. `None` where all rows are judged.
fn inner(rgb: &[u8], width_px: u32, format: Format) -> Option<Vec<u8>> {
    let margin_px = match format {
        Format::Avif | Format::Webp => 8,
        Format::Jpeg | Format::Png => return None,
    };
    let row_bytes = width_px as usize * 3;
    let strips = rgb.chunks_exact(row_bytes * STRIP_PX as usize);
    Some(strips.flat_map(|strip| &strip[margin_px * row_bytes..strip.len() - margin_px * row_bytes]).copied().collect())
}

fn raster_of(width_px: u32, rgb: Vec<u8>) -> Raster {
    Raster { width_px, height_px: (rgb.len() / (width_px as usize * 3)) as u32, rgb }
}

fn strips(raster: &Raster) -> Option<Raster> {
    let (width_px, height_px) = (raster.width_px, raster.height_px);
    let columns = ((width_px + STRIP_WIDTH_PX / 2) / STRIP_WIDTH_PX).max(1);
    let strip_width_px = width_px / columns;
    let count = (SAMPLE_PX / (strip_width_px * STRIP_PX).max(1)).max(1);
    let all_count = columns * (height_px / STRIP_PX);
    if all_count <= count * 3 / 2 {
        return None;
    }
    let (row_bytes, strip_bytes) = (width_px as usize * 3, strip_width_px as usize * 3);
    let rows = raster.rgb.chunks_exact(row_bytes * STRIP_PX as usize);
    let all = rows.flat_map(|rows| (0..columns as usize).map(move |column| (rows, column * strip_bytes)));
    let strip = |(rows, from): (&[u8], usize)| -> Vec<u8> {
        rows.chunks_exact(row_bytes).flat_map(|row| &row[from..from + strip_bytes]).copied().collect()
    };
    let all: Vec<Vec<u8>> = all.map(strip).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_cached_key(|at| change(&all[*at], strip_width_px as usize));
    let count = count as usize;
    let mut chosen: Vec<usize> = (0..count).map(|part| order[(2 * part + 1) * all.len() / (2 * count)]).collect();
    chosen.sort_unstable();
    Some(raster_of(strip_width_px, chosen.into_iter().flat_map(|at| &all[at]).copied().collect()))
}

/// How much changes from one pixel to the next; of every other row it is enough to know one.
fn change(strip: &[u8], width: usize) -> u64 {
    let lumas: Vec<u8> = strip.chunks_exact(3).map(|px| luma(px[0], px[1], px[2])).collect();
    let rows: Vec<&[u8]> = lumas.chunks_exact(width).collect();
    let step = |from: u8, to: u8| u16::from(from.abs_diff(to));
    let pairs = rows.chunks_exact(2).flat_map(|pair| {
        let right = pair[0].windows(2).map(move |two| step(two[0], two[1]));
        right.zip(pair[0].iter().zip(pair[1])).map(move |(right, (here, below))| right + step(*here, *below))
    });
    pairs.map(|change| u64::from(change.min(STEP_MAX))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(width_px: u32, height_px: u32, level: impl Fn(u32, u32) -> u8) -> Raster {
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| [level(x, y); 3]);
        Raster { width_px, height_px, rgb: rgb.collect() }
    }

    #[test]
    fn a_sample_holds_calm_and_busy_parts_and_a_small_picture_has_none() {
        // Six strips of sixteen are busy, the more so the lower they lie.
        let picture = rows(800, 1024, |x, y| if y < 640 { 90 } else { (x * (y / 64)) as u8 });
        let sample = Sample::of(&picture, Format::Jpeg).expect("a sample");
        let raster = sample.raster();
        assert_eq!((raster.width_px, raster.height_px, raster.rgb.len()), (800, 320, 800 * 320 * 3));
        let busy = raster.rgb.chunks_exact(800 * 64 * 3).filter(|strip| change(strip, 800) > 0).count();
        assert_eq!(busy, 2, "of five");
        let wide = Sample::of(&rows(1280, 720, |x, y| (x * y) as u8), Format::Jpeg).expect("a sample");
        assert_eq!((wide.raster().width_px, wide.raster().height_px), (640, 384), "strips of half its width");
        assert!(Sample::of(&rows(512, 512, |_, _| 9), Format::Jpeg).is_none(), "small");
        for (width_px, height_px) in [(1, 1), (1, 9000), (8192, 130), (8192, 2048), (700, 383), (9, 40_000)] {
            let picture = rows(width_px, height_px, |x, y| (x ^ y) as u8);
            let Some(sampled) = strips(&picture) else { continue };
            assert_eq!(sampled.rgb.len(), (sampled.width_px * sampled.height_px * 3) as usize);
            assert!(sampled.rgb.len() < picture.rgb.len(), "{width_px}×{height_px}");
        }
    }

    #[test]
    fn what_an_encoder_smooths_where_strips_meet_is_not_judged() {
        let picture = rows(640, 800, |x, y| (x * 3 + y * 5 + x * y / 7) as u8);
        for (format, is_judged) in [(Format::Avif, false), (Format::Jpeg, true)] {
            let sample = Sample::of(&picture, format).expect("a sample");
            let mut spoilt = sample.raster().rgb.clone();
            spoilt[62 * 640 * 3..66 * 640 * 3].fill(0);
            let score = sample.score(&spoilt).expect("a score");
            assert_eq!(score < 99.0, is_judged, "{format:?}: {score}");
        }
    }
}
