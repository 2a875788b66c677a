//! Grain: a fine pattern over lightness that lies on the master, so that every width and cut shows the same one.
//!
//! The pattern is a field of random values a grain apart, joined by straight lines. Its seed is the master's id. Its strength is
//! greatest in mid-tones, as with film; where a pixel covers several grains it is weaker, as their mean is.

use super::Shown;
use super::sharpen::{lightness, moved};
use crate::render::resize::Raster;

/// A grain of size one is a pixel of a picture that is so wide.
const WIDTH_OF_SIZE_ONE_PX: u64 = 1_280;
/// Parts of a grain that are told apart.
const PARTS: i64 = 256;

/// How strong, in thousandths of the range of samples, and how large, in thousandths of a pixel at 1280 px.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grain {
    pub strength_thousandths: u16,
    pub size_thousandths: u16,
}

/// Where a pixel lies in the pattern, in one direction: the value before it, and how far behind that.
#[derive(Debug, Clone, Copy)]
struct Place {
    value: i64,
    part: i64,
}

impl Grain {
    pub(super) fn apply(self, picture: &mut Raster, shown: &Shown) {
        if picture.width_px == 0 || picture.height_px == 0 || self.size_thousandths == 0 {
            return;
        }
        // A grain's side in thousandths of a master's pixel.
        let grain = (u64::from(self.size_thousandths) * u64::from(shown.master_px.0) / WIDTH_OF_SIZE_ONE_PX).max(1);
        let cut = shown.cut;
        let columns = places((cut.left_px, cut.width_px), picture.width_px, grain);
        let rows = places((cut.top_px, cut.height_px), picture.height_px, grain);
        let step = u64::from(cut.width_px) * 1_000 / u64::from(picture.width_px);
        // The mean of several grains is as much weaker as they are many in a row.
        let share = if step > grain { (grain * 65_536 / step.max(1)).min(65_536) } else { 65_536 };
        // Of values up to PARTS, in samples, with 32 bits behind the point.
        let gain = i64::from(self.strength_thousandths) * 255 * i64::try_from(share).unwrap_or(0) / 1_000 * 256;
        let seed = seed(shown);
        let values = |row: i64| -> Vec<i64> {
            columns
                .iter()
                .map(|place| between(value(seed, place.value, row), value(seed, place.value + 1, row), place.part))
                .collect()
        };
        let mut known: Option<(i64, Vec<i64>, Vec<i64>)> = None;
        for (place, row) in rows.iter().zip(picture.rgb.chunks_exact_mut(columns.len() * 3)) {
            let (_, above, below) = match known.take() {
                Some(rows) if rows.0 == place.value => known.insert(rows),
                Some((before, _, below)) if before + 1 == place.value => {
                    known.insert((place.value, below, values(place.value + 1)))
                }
                _ => known.insert((place.value, values(place.value), values(place.value + 1))),
            };
            for ((above, below), pixel) in above.iter().zip(below.iter()).zip(row.chunks_exact_mut(3)) {
                let light = i64::from(lightness(pixel));
                // 4·l·(1 − l): one in the middle, none in black and white; 16 bits behind the point.
                let weight = 4 * light * (255 - light) * 65_536 / (255 * 255);
                let step = ((between(*above, *below, place.part) * gain) >> 24) * weight;
                let step = i32::try_from((step + (1 << 23)) >> 24).unwrap_or(0);
                pixel.iter_mut().for_each(|sample| *sample = moved(*sample, step));
            }
        }
    }
}

/// Of each pixel's middle.
fn places((start, length): (u32, u32), pixels: u32, grain: u64) -> Vec<Place> {
    let place = |pixel: u64| {
        // In thousandths of a master's pixel, then in parts of a grain.
        let middle = u64::from(start) * 1_000 + (2 * pixel + 1) * u64::from(length) * 500 / u64::from(pixels);
        let parts = i64::try_from(middle * PARTS.unsigned_abs() / grain).unwrap_or(i64::MAX);
        Place { value: parts / PARTS, part: parts % PARTS }
    };
    (0..u64::from(pixels)).map(place).collect()
}

fn between(before: i64, behind: i64, part: i64) -> i64 {
    (before * (PARTS - part) + behind * part) / PARTS
}

fn seed(shown: &Shown) -> u64 {
    let mut seed = [0; 8];
    seed.copy_from_slice(&shown.master.as_bytes()[..8]);
    u64::from_le_bytes(seed)
}

/// −256 to 256 with a mean of 0, the nearer to it the more often: the difference of two bytes of `splitmix64`.
fn value(seed: u64, column: i64, row: i64) -> i64 {
    let place = column.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ row.cast_unsigned().wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let mut mixed = seed ^ place;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    let [one, other, ..] = mixed.to_le_bytes();
    i64::from(one) - i64::from(other)
}

#[cfg(test)]
mod tests {
    use bildkante_shared::pixels::Pixels;

    use super::*;
    use crate::render::crop::CropBox;

    const GRAIN: Grain = Grain { strength_thousandths: 50, size_thousandths: 1_500 };

    fn shown(of: u8, cut: CropBox) -> Shown {
        let master = Pixels::new(1, 1, vec![of, 0, 0]).expect("a pixel").master_id();
        Shown { master, master_px: (640, 320), cut }
    }

    const WHOLE: CropBox = CropBox { left_px: 0, top_px: 0, width_px: 640, height_px: 320 };

    fn grainy(grey: u8, size_px: (u32, u32), shown: &Shown) -> Vec<u8> {
        let rgb = vec![grey; size_px.0 as usize * size_px.1 as usize * 3];
        let mut picture = Raster { width_px: size_px.0, height_px: size_px.1, rgb };
        GRAIN.apply(&mut picture, shown);
        picture.rgb
    }

    fn deviation(samples: &[u8], mean: f64) -> f64 {
        let sum: f64 = samples.iter().map(|sample| (f64::from(*sample) - mean).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    }

    #[test]
    fn the_same_master_has_the_same_grain_and_another_one_another() {
        let one = grainy(128, (640, 320), &shown(1, WHOLE));
        assert_eq!(one, grainy(128, (640, 320), &shown(1, WHOLE)));
        assert_ne!(one, grainy(128, (640, 320), &shown(2, WHOLE)));
        let mean = one.iter().map(|sample| f64::from(*sample)).sum::<f64>() / one.len() as f64;
        assert!((mean - 128.0).abs() < 0.3, "{mean}");
        let strength = deviation(&one, 128.0);
        assert!(strength > 1.5 && strength < 6.0, "{strength}");
    }

    #[test]
    fn a_cut_shows_the_part_of_the_pattern_that_lies_on_it() {
        let whole = grainy(128, (640, 320), &shown(1, WHOLE));
        let part = CropBox { left_px: 100, top_px: 40, width_px: 200, height_px: 100 };
        let cut = grainy(128, (200, 100), &shown(1, part));
        for y in 0..100_usize {
            let row = &whole[((y + 40) * 640 + 100) * 3..][..600];
            assert_eq!(&cut[y * 600..(y + 1) * 600], row);
        }
    }

    #[test]
    fn black_and_white_stay_and_small_pictures_have_less() {
        for grey in [0, 255] {
            assert!(grainy(grey, (64, 32), &shown(1, WHOLE)).iter().all(|sample| *sample == grey));
        }
        let large = deviation(&grainy(128, (640, 320), &shown(1, WHOLE)), 128.0);
        let small = deviation(&grainy(128, (80, 40), &shown(1, WHOLE)), 128.0);
        assert!(small < large / 2.0 && small > 0.0, "{small} of {large}");
    }
}
