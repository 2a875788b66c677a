//! What of a picture tells how hard it is to encode: seven numbers, from one pass over its pixels.
//!
//! They are what the prediction of `quality` is linear in. Sums of whole numbers and logarithms in whole 1/65536ths: the same picture gives
//! the same numbers on every processor. A change here is a change of all that was learned: run `make encoder-tables`.

use super::Raster;
use crate::render::entropy::{log2, luma};

/// One, then see [`Features::of`].
pub(crate) const COUNT: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Features([f32; COUNT]);

/// Differences up to this count as flat.
const FLAT: u32 = 2;
/// Differences from this on count as edges.
const EDGE: u32 = 24;

impl Features {
    pub(crate) fn of(raster: &Raster) -> Self {
        let (width, height) = (raster.width_px as usize, raster.height_px as usize);
        let luma: Vec<i32> = raster.rgb.chunks_exact(3).map(|px| luma(px[0], px[1], px[2]).into()).collect();
        let (mut slope, mut bend, mut colour, mut flat, mut edge, mut count) =
            (0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
        // The last row and column have no neighbours; of every other row it is enough to know one.
        for y in (1..height.saturating_sub(1)).step_by(2) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                let (here, right, below) = (luma[at], luma[at + 1], luma[at + width]);
                let step = here.abs_diff(right) + here.abs_diff(below);
                let around = right + luma[at - 1] + below + luma[at - width];
                slope += u64::from(step);
                bend += u64::from((4 * here).abs_diff(around));
                flat += u64::from(step <= FLAT);
                edge += u64::from(step >= EDGE);
                colour += u64::from(chroma(raster, at).abs_diff(chroma(raster, at + 1)));
                count += 1;
            }
        }
        let count = count.max(1);
        let mean = |sum: u64| log2(1 + sum * 256 / count);
        let share = |sum: u64| ratio(sum, count);
        Self([
            1.0,
            mean(slope),
            mean(bend),
            mean(colour),
            share(flat),
            share(edge),
            log2((width * height) as u64),
            ratio(bend, slope.max(1)),
        ])
    }

    /// Σ weight · feature.
    pub(crate) fn weighted(&self, weights: &[f32; COUNT]) -> f32 {
        self.0.iter().zip(weights).map(|(feature, weight)| feature * weight).sum()
    }

    /// Of the places where hardly anything changes, 0 to 1.
    pub(crate) const fn flat_share(&self) -> f32 {
        self.0[4]
    }

    pub(crate) const fn numbers(&self) -> &[f32; COUNT] {
        &self.0
    }
}

/// Red less green: where it changes, chroma does.
fn chroma(raster: &Raster, at: usize) -> i32 {
    i32::from(raster.rgb[at * 3]) - i32::from(raster.rgb[at * 3 + 1])
}

#[allow(clippy::cast_precision_loss, reason = "at most some 2^13, in 1/1024ths")]
fn ratio(part: u64, whole: u64) -> f32 {
    (part * 1024 / whole) as f32 / 1024.0
}
