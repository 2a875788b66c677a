//! Sharpening after strong reductions: an unsharp mask over lightness, the stronger the further a picture was reduced.
//!
//! A reduction up to one and a half leaves a picture as it is, one by four or more takes the whole amount. Only lightness is sharpened,
//! so no edge gets a colour, and no sample moves by more than a bound, so no edge gets a halo.

use crate::render::crop::CropBox;
use crate::render::resize::Raster;

/// Below it nothing is sharpened, from the second on wholly; in thousandths of master pixels for one.
const REDUCTION_LEAST: u32 = 1_500;
const REDUCTION_MOST: u32 = 4_000;
/// Furthest that a sample moves.
const STEP_MAX: i32 = 24;

/// How much, in thousandths of the difference to what is around a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharpen(u16);

impl Sharpen {
    /// `None` outside 1–1000.
    #[must_use]
    pub const fn new(thousandths: u16) -> Option<Self> {
        if 1 <= thousandths && thousandths <= 1_000 { Some(Self(thousandths)) } else { None }
    }

    #[must_use]
    pub const fn thousandths(self) -> u16 {
        self.0
    }

    /// The amount for a reduction, in 65536ths.
    fn amount(self, picture_px: (u32, u32), cut: CropBox) -> i32 {
        let reduction = |from: u32, to: u32| u64::from(from) * 1_000 / u64::from(to.max(1));
        let least = reduction(cut.width_px, picture_px.0).min(reduction(cut.height_px, picture_px.1));
        let over = least.clamp(REDUCTION_LEAST.into(), REDUCTION_MOST.into()) - u64::from(REDUCTION_LEAST);
        let amount = u64::from(self.0) * 65_536 / 1_000 * over / u64::from(REDUCTION_MOST - REDUCTION_LEAST);
        i32::try_from(amount).unwrap_or(i32::MAX)
    }

    pub(super) fn apply(self, picture: &mut Raster, cut: CropBox) {
        let (width, height) = (picture.width_px as usize, picture.height_px as usize);
        let amount = self.amount((picture.width_px, picture.height_px), cut);
        if amount == 0 || width == 0 {
            return;
        }
        let light: Vec<i32> = picture.rgb.chunks_exact(3).map(lightness).collect();
        // Three rows, each smoothed across with weights of a quarter, a half and a quarter.
        let across = |y: usize| -> Vec<i32> {
            let row = &light[y * width..(y + 1) * width];
            let at = |x: usize| row[x.min(width - 1)];
            (0..width).map(|x| at(x.saturating_sub(1)) + 2 * at(x) + at(x + 1)).collect()
        };
        let mut above = across(0);
        let mut here = above.clone();
        for (y, row) in picture.rgb.chunks_exact_mut(width * 3).enumerate() {
            let below = across((y + 1).min(height - 1));
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                // Sixteen times the lightness, so nothing is rounded before the end.
                let around = above[x] + 2 * here[x] + below[x];
                let detail = 16 * light[y * width + x] - around;
                let step = (i64::from(detail) * i64::from(amount) + (1 << 19)) >> 20;
                let step = i32::try_from(step).unwrap_or(0).clamp(-STEP_MAX, STEP_MAX);
                pixel.iter_mut().for_each(|sample| *sample = moved(*sample, step));
            }
            above = std::mem::replace(&mut here, below);
        }
    }
}

/// BT.601 in 8 bits behind the point.
pub(super) fn lightness(pixel: &[u8]) -> i32 {
    (77 * i32::from(pixel[0]) + 150 * i32::from(pixel[1]) + 29 * i32::from(pixel[2]) + 128) >> 8
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
pub(super) fn moved(sample: u8, step: i32) -> u8 {
    (i32::from(sample) + step).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(side_px: u32) -> CropBox {
        CropBox { left_px: 0, top_px: 0, width_px: side_px, height_px: side_px }
    }

    /// 8 × 8 px, dark on the left and bright on the right.
    fn edge() -> Raster {
        let rgb = (0..64).flat_map(|at| [if at % 8 < 4 { 80 } else { 160 }; 3]).collect();
        Raster { width_px: 8, height_px: 8, rgb }
    }

    #[test]
    fn only_strong_reductions_are_sharpened_and_the_more_the_stronger() {
        let step = |side_px| {
            let mut picture = edge();
            Sharpen::new(400).expect("an amount").apply(&mut picture, cut(side_px));
            let row = &picture.rgb[..24];
            assert_eq!((row[0], row[21]), (80, 160), "flat parts stay");
            (80 - i32::from(row[9]), i32::from(row[12]) - 160)
        };
        assert_eq!((step(8), step(12)), ((0, 0), (0, 0)));
        // A quarter of the difference of 80 is 20; two fifths of it are 8, half of them at 2.75 to one.
        assert_eq!((step(22), step(32), step(320)), ((4, 4), (8, 8), (8, 8)));
    }

    #[test]
    fn no_edge_moves_further_than_the_bound() {
        let mut picture =
            Raster { rgb: edge().rgb.iter().map(|s| if *s == 80 { 60 } else { 200 }).collect(), ..edge() };
        Sharpen::new(1_000).expect("an amount").apply(&mut picture, cut(64));
        assert_eq!((picture.rgb[9], picture.rgb[12]), (36, 224));
        let mut one = Raster { width_px: 1, height_px: 1, rgb: vec![7, 8, 9] };
        Sharpen::new(1_000).expect("an amount").apply(&mut one, cut(64));
        assert_eq!(one.rgb, [7, 8, 9]);
    }
}
