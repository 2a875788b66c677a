//! The part of a master that holds most information: Shannon's entropy of the lumas in it.
//!
//! A cut slides along one side only, because it fills the other. A histogram of 256 lumas slides with it, one row or
//! column in and one out. All parts have the same number of pixels, so the greatest entropy is the least Σ n · log₂ n.
//! Logarithms are in whole 1/65536ths: the same master gives the same part on every machine. Of equals the one nearest
//! to the middle is taken, so that a flat picture is cut in its centre.

use bildkante_shared::pixels::Pixels;

use super::crop::CropBox;

const LEVELS: usize = 256;

/// The box of [`CropBox::cover`], moved to where most is to be seen.
pub(super) fn cut(master: &Pixels, target_width_px: u32, target_height_px: u32) -> CropBox {
    let (width, height) = (master.width_px(), master.height_px());
    let centred = CropBox::cover(width, height, target_width_px, target_height_px);
    let lumas: Vec<u8> = master.rgb().chunks_exact(3).map(|px| luma(px[0], px[1], px[2])).collect();
    let row = width as usize;
    if centred.width_px < width {
        let column = |x: usize| lumas.iter().skip(x).step_by(row).copied();
        let left_px = best_start(width, centred.width_px, centred.left_px, column);
        CropBox { left_px, ..centred }
    } else {
        let line = |y: usize| lumas[y * row..(y + 1) * row].iter().copied();
        let top_px = best_start(height, centred.height_px, centred.top_px, line);
        CropBox { top_px, ..centred }
    }
}

/// Where a window of `window_px` lines out of `side_px` starts best; `centred_px` is where it would start otherwise.
fn best_start<I: Iterator<Item = u8>>(side_px: u32, window_px: u32, centred_px: u32, line: impl Fn(usize) -> I) -> u32 {
    let mut counts = [0_u32; LEVELS];
    for index in 0..window_px as usize {
        line(index).for_each(|level| counts[usize::from(level)] += 1);
    }
    let mut best = (disorder(&counts), centred_px.abs_diff(0), 0);
    for start in 1..=side_px - window_px {
        line(start as usize - 1).for_each(|level| counts[usize::from(level)] -= 1);
        line((start + window_px) as usize - 1).for_each(|level| counts[usize::from(level)] += 1);
        best = best.min((disorder(&counts), centred_px.abs_diff(start), start));
    }
    best.2
}

/// Σ n · log₂ n in 1/65536ths: the less, the more information.
fn disorder(counts: &[u32; LEVELS]) -> u64 {
    counts.iter().map(|&count| u64::from(count) * u64::from(log2_65536(count))).sum()
}

/// log₂ in 1/65536ths, rounded down; 0 for 0. Each squaring of the mantissa yields a bit.
fn log2_65536(number: u32) -> u32 {
    let Some(whole) = number.checked_ilog2() else { return 0 };
    // The mantissa, 1 to 2, with 31 bits behind the point.
    let mut mantissa = u64::from(number) << (31 - whole);
    let mut log = whole;
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        let bit = u32::from(mantissa >= 1 << 32);
        mantissa >>= bit;
        log = log << 1 | bit;
    }
    log
}

/// The same as a float: the same on every processor.
#[allow(clippy::cast_precision_loss, reason = "below 2^21")]
pub(super) fn log2(number: u64) -> f32 {
    log2_65536(u32::try_from(number).unwrap_or(u32::MAX)) as f32 / 65_536.0
}

/// Rec. 601 in 1/256ths: close enough for a histogram.
pub(super) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let weighted = 77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue);
    #[allow(clippy::cast_possible_truncation, reason = "the weights sum to 256")]
    let luma = (weighted >> 8) as u8;
    luma
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(width_px: u32, height_px: u32, level: impl Fn(u32, u32) -> u8) -> Pixels {
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| [level(x, y); 3]);
        Pixels::new(width_px, height_px, rgb.collect()).expect("a small image")
    }

    #[test]
    fn logarithms_are_those_of_the_reals() {
        for number in [1, 2, 3, 5, 7, 100, 255, 256, 65_535, 1 << 20, (1 << 22) - 1, u32::MAX] {
            let real = (f64::from(number).log2() * 65_536.0).floor();
            assert!((f64::from(log2_65536(number)) - real).abs() <= 1.0, "{number}");
        }
        assert_eq!(log2_65536(0), 0);
    }

    #[test]
    fn the_busy_part_is_kept_and_a_flat_picture_cut_in_its_centre() {
        let busy_right = pixels(120, 40, |x, y| if x >= 80 { (x * 7 + y * 13) as u8 } else { 200 });
        let found = cut(&busy_right, 40, 40);
        assert_eq!((found.left_px, found.width_px, found.height_px), (80, 40, 40));
        let busy_top = pixels(40, 120, |x, y| if y < 40 { (x * 7 + y * 13) as u8 } else { 200 });
        assert_eq!(cut(&busy_top, 40, 40).top_px, 0);
        let flat = pixels(121, 40, |_, _| 90);
        assert_eq!(cut(&flat, 40, 40), CropBox::cover(121, 40, 40, 40));
    }
}
