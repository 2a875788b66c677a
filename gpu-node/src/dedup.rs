//! When two masters are one to the eye: three measures, each of which can say no. Pure; knows neither disk nor HTTP.
//!
//! 1. **Luma**: Hamming distance of 256-bit DCT hashes (`image_hasher`: luma scaled to 32 × 32, DCT, the 16 × 16 lowest
//!    frequencies against their median). Finds candidates; it cannot tell a red mug from a green one.
//! 2. **Chroma**: Cb and Cr (BT.601 full range, as in JFIF) averaged over a 16 × 16 grid. In each place the distance is
//!    `√(ΔCb² + ΔCr²)` in 8-bit steps. Two figures: the *mean* over all 256 places, and the *peak*, the mean of the
//!    eight worst, so that a small thing of another colour on a large equal backdrop still counts.
//! 3. **SSIMULACRA2** of the pixels (Sneyers 2023; crate `fast-ssim2`): 100 identical, 90 visually lossless. Masters with a side
//!    over [`COMPARED_SIDE_PX_MAX`] are averaged down to it first, in linear light, and then have to be more alike
//!    ([`Likeness::is_at_least`]): 45 ms instead of 0.7 s at 1024 × 1024 with the crate `ssimulacra2` (`make bench-dedup`).
//!
//! The defaults were chosen on masters of the built-in checkpoint (six products, one seed, 192 × 192):
//!
//! | pairs | count | luma | chroma mean | chroma peak | SSIMULACRA2 |
//! | --- | --- | --- | --- | --- | --- |
//! | a word ignored or a synonym, looking alike (score ≥ 80) | 38 | 0–10 | 0.0–1.5 | 0.4–5.7 | 80.2–97.0 |
//! | a word ignored or a synonym, drawn otherwise after all | 10 | 6–44 | 0.1–1.3 | 1.2–5.9 | 7–77 |
//! | another finish, colour, backdrop, setting, product, seed | 72 | 16–160 | 0.6–46 | 4.1–175 | −272–26 |
//!
//! Of the 72, five pass luma (teal and green vases among them), six pass chroma (matte white and silver), none both and
//! none the score. SSIMULACRA2's authors call 80 indistinguishable side by side. `gpu-node/tests/studio.rs` repeats it.

use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use fast_ssim2::{PixelDescriptor, PixelSlice, compute_ssimulacra2};

use crate::config::DedupConfig;

/// Places along a side of the chroma grid.
const GRID: usize = 16;
/// Places in the chroma grid.
const PLACES: usize = GRID * GRID;
/// Places whose mean is the peak.
const PEAK_PLACES: usize = 8;
/// Longest side that masters are compared at, in pixels.
const COMPARED_SIDE_PX_MAX: u32 = 512;
/// Bytes of a stored chroma grid: Cb of every place, then Cr.
pub const CHROMA_BYTES: usize = 2 * PLACES;

/// What candidates are found and sifted by, without pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pub phash: PerceptualHash,
    pub chroma: Chroma,
}

impl Fingerprint {
    #[must_use]
    pub fn of(pixels: &Pixels) -> Self {
        Self { phash: luma_hash(pixels), chroma: Chroma::of(pixels) }
    }
}

/// Mean Cb and Cr on a 16 × 16 grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chroma(Box<[u8; CHROMA_BYTES]>);

/// How far two chroma grids are apart, in 8-bit steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChromaDistance {
    pub mean: f64,
    pub peak: f64,
}

impl Chroma {
    #[must_use]
    pub fn of(pixels: &Pixels) -> Self {
        let mut sums = [[0f64; 2]; PLACES];
        let mut counts = [0f64; PLACES];
        let (width, height) = (pixels.width_px() as usize, pixels.height_px() as usize);
        for (index, rgb) in pixels.rgb().as_chunks::<3>().0.iter().enumerate() {
            let (x, y) = (index % width, index / width);
            let place = (y * GRID / height) * GRID + x * GRID / width;
            let [r, g, b] = rgb.map(f64::from);
            sums[place][0] += 128.0 - 0.168_736 * r - 0.331_264 * g + 0.5 * b;
            sums[place][1] += 128.0 + 0.5 * r - 0.418_688 * g - 0.081_312 * b;
            counts[place] += 1.0;
        }
        let mut grid = Box::new([128u8; CHROMA_BYTES]);
        for place in (0..PLACES).filter(|place| counts[*place] > 0.0) {
            for channel in 0..2 {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mean of 8-bit values")]
                let mean = (sums[place][channel] / counts[place]).round().clamp(0.0, 255.0) as u8;
                grid[channel * PLACES + place] = mean;
            }
        }
        Self(grid)
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; CHROMA_BYTES]) -> Self {
        Self(Box::new(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; CHROMA_BYTES] {
        &self.0
    }

    #[must_use]
    pub fn distance(&self, other: &Self) -> ChromaDistance {
        let mut distances = [0f64; PLACES];
        for (place, distance) in distances.iter_mut().enumerate() {
            let step = |channel: usize| {
                let at = channel * PLACES + place;
                f64::from(self.0[at]) - f64::from(other.0[at])
            };
            *distance = step(0).hypot(step(1));
        }
        distances.sort_by(|a, b| b.total_cmp(a));
        #[allow(clippy::cast_precision_loss, reason = "at most 256")]
        let mean = |places: &[f64]| places.iter().sum::<f64>() / places.len() as f64;
        ChromaDistance { mean: mean(&distances), peak: mean(&distances[..PEAK_PLACES]) }
    }
}

impl ChromaDistance {
    #[must_use]
    pub fn is_within(self, config: &DedupConfig) -> bool {
        self.mean <= config.chroma_distance_max && self.peak <= config.chroma_peak_max
    }
}

/// The buffer always matches the size: `Pixels` guarantees it.
fn luma_hash(pixels: &Pixels) -> PerceptualHash {
    PerceptualHash::of(pixels.rgb().to_vec(), pixels.width_px(), pixels.height_px())
        .unwrap_or_else(|| PerceptualHash::from_bytes([0; 32]))
}

/// How alike two masters are to SSIMULACRA2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeness {
    /// 100 is identical.
    pub score: f64,
    /// Whether it was measured at less than full size, where fine differences weigh less.
    pub is_averaged: bool,
}

impl Likeness {
    /// Whether two masters with this likeness are one, where `score_min` is asked for in full size. At half the size half as
    /// much may be missing from 100: noise and fine lines that score 79 and 86 in full size score 90 and 95 there, and coarse
    /// differences score nearly the same (`examples/dedup_bench.rs`).
    #[must_use]
    pub fn is_at_least(self, score_min: f64) -> bool {
        let score_min = if self.is_averaged { f64::midpoint(score_min, 100.0) } else { score_min };
        self.score >= score_min
    }
}

/// SSIMULACRA2 of two masters at the size they are compared at; `None` where it is not defined: other sizes, or a side under
/// 8 px.
#[must_use]
pub fn likeness(a: &Pixels, b: &Pixels) -> Option<Likeness> {
    if a == b {
        return Some(Likeness { score: 100.0, is_averaged: false });
    }
    let is_small = a.width_px().min(a.height_px()) < 8;
    if is_small || (a.width_px(), a.height_px()) != (b.width_px(), b.height_px()) {
        return None;
    }
    let is_averaged = is_averaged((a.width_px(), a.height_px()));
    let (a, b) = (Compared::of(a), Compared::of(b));
    let score = compute_ssimulacra2(&a.slice()?, &b.slice()?).ok()?;
    Some(Likeness { score, is_averaged })
}

/// Whether masters of this width and height in pixels are compared at less than full size.
#[must_use]
pub fn is_averaged(size_px: (u32, u32)) -> bool {
    averaged_px(size_px) > 1
}

/// The side of the squares that become one pixel.
fn averaged_px((width, height): (u32, u32)) -> u32 {
    width.max(height).div_ceil(COMPARED_SIDE_PX_MAX).min(width).min(height)
}

/// A master at the size it is compared at, in linear light.
struct Compared {
    width_px: u32,
    height_px: u32,
    /// R, G, B of each pixel, 0 to 1.
    linear: Vec<f32>,
}

impl Compared {
    /// Each pixel is the mean of a square; what is over at the right and lower edge is left out.
    fn of(pixels: &Pixels) -> Self {
        let (width, height) = (pixels.width_px(), pixels.height_px());
        let side = averaged_px((width, height));
        let (width_px, height_px) = (width / side, height / side);
        let curve = linear_curve();
        let row = width_px as usize * 3;
        let mut linear = vec![0.0; row * height_px as usize];
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let share = 1.0 / (side * side) as f32;
        for (y, line) in pixels.rgb().chunks_exact(width as usize * 3).enumerate() {
            let Some(sums) = linear.chunks_exact_mut(row).nth(y / side as usize) else { break };
            for (x, rgb) in line.as_chunks::<3>().0.iter().enumerate() {
                let at = x / side as usize * 3;
                let Some(sum) = sums.get_mut(at..at + 3) else { break };
                for (sum, value) in sum.iter_mut().zip(rgb) {
                    *sum += curve[usize::from(*value)] * share;
                }
            }
        }
        Self { width_px, height_px, linear }
    }

    fn slice(&self) -> Option<PixelSlice<'_>> {
        let stride = self.width_px as usize * 3 * size_of::<f32>();
        let bytes = bytemuck::cast_slice(&self.linear);
        PixelSlice::new(bytes, self.width_px, self.height_px, stride, PixelDescriptor::RGBF32_LINEAR).ok()
    }
}

/// sRGB (IEC 61966-2-1) to linear light, by code value.
fn linear_curve() -> [f32; 256] {
    std::array::from_fn(|value| {
        #[allow(clippy::cast_precision_loss, reason = "at most 255")]
        let encoded = value as f32 / 255.0;
        if encoded <= 0.040_45 { encoded / 12.92 } else { ((encoded + 0.055) / 1.055).powf(2.4) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: u32 = 96;

    fn draw(colour: impl Fn(f64, f64) -> [f64; 3]) -> Pixels {
        let mut rgb = Vec::new();
        for y in 0..SIDE {
            for x in 0..SIDE {
                let [u, v] = [x, y].map(|n| f64::from(n) / f64::from(SIDE) * 2.0 - 1.0);
                rgb.extend(colour(u, v).map(|value| value.round().clamp(0.0, 255.0) as u8));
            }
        }
        Pixels::new(SIDE, SIDE, rgb).unwrap()
    }

    fn luma([r, g, b]: [f64; 3]) -> f64 {
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// A shaded disc of `radius` in a colour brought to a given luma, before a soft gradient.
    fn disc(radius: f64, colour: [f64; 3], noise: f64) -> Pixels {
        draw(|u, v| {
            let grain = noise * ((u * 91.7).sin() + (v * 77.3).cos());
            let backdrop = 190.0 + 30.0 * v + grain;
            if u.hypot(v) > radius {
                return [backdrop; 3];
            }
            let target = 90.0 + 40.0 * (1.0 - u - v) / 2.0 + grain;
            colour.map(|channel| channel * target / luma(colour))
        })
    }

    const RED: [f64; 3] = [255.0, 60.0, 50.0];
    const GREEN: [f64; 3] = [70.0, 140.0, 60.0];

    fn prints(a: &Pixels, b: &Pixels) -> (u32, ChromaDistance) {
        let (a, b) = (Fingerprint::of(a), Fingerprint::of(b));
        (a.phash.distance(b.phash), a.chroma.distance(&b.chroma))
    }

    #[test]
    fn red_and_green_share_a_luma_hash_and_differ_in_chroma() {
        let config = DedupConfig::default();
        // From filling the picture down to a fiftieth of it.
        for radius in [0.8, 0.4, 0.16] {
            let (luma, chroma) = prints(&disc(radius, RED, 0.0), &disc(radius, GREEN, 0.0));
            assert!(luma <= config.luma_distance_max, "radius {radius}: luma alone would merge them, not {luma}");
            assert!(!chroma.is_within(&config), "radius {radius}: {chroma:?}");
        }
    }

    #[test]
    fn noise_the_eye_cannot_see_changes_nothing() {
        let config = DedupConfig::default();
        let (a, b) = (disc(0.5, RED, 0.0), disc(0.5, RED, 0.6));
        assert_ne!(a, b);
        let (luma, chroma) = prints(&a, &b);
        assert!(luma <= config.luma_distance_max && chroma.is_within(&config), "{luma} {chroma:?}");
        let score = likeness(&a, &b).unwrap().score;
        assert!(score >= config.ssimulacra2_min && score < 100.0, "{score}");
    }

    /// Fine noise weighs less at half the size, so more is asked for there.
    #[test]
    fn what_is_told_apart_in_full_size_is_told_apart_at_half() {
        let painted = |side: u32, grain: i32| {
            let noise = |x: u32, y: u32| (x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77)) >> 27;
            let value =
                |x: u32, y: u32| 90 + (x + y) as i32 * 80 / (2 * side) as i32 + noise(x, y) as i32 % 11 * grain / 5;
            let rgb = (0..side * side).flat_map(|at| [value(at % side, at / side) as u8; 3]);
            Pixels::new(side, side, rgb.collect()).unwrap()
        };
        let alike = |side, grain| likeness(&painted(side, 0), &painted(side, grain)).unwrap();
        let (full, half) = (alike(512, 8), alike(1024, 8));
        assert!(!full.is_averaged && half.is_averaged && half.score > full.score, "{full:?} {half:?}");
        assert!(!full.is_at_least(80.0) && !half.is_at_least(80.0), "{full:?} {half:?}");
        assert!(Likeness { score: 90.0, is_averaged: true }.is_at_least(80.0));
        assert!(!Likeness { score: 89.9, is_averaged: true }.is_at_least(80.0));
    }

    #[test]
    fn another_shape_is_far_in_luma_or_pixels() {
        let config = DedupConfig::default();
        let square = draw(|u, v| if u.abs().max(v.abs()) < 0.45 { [200.0, 60.0, 50.0] } else { [190.0; 3] });
        let disc = disc(0.5, RED, 0.0);
        assert!(!likeness(&square, &disc).unwrap().is_at_least(config.ssimulacra2_min));
        assert!(prints(&square, &disc).0 > config.luma_distance_max);
    }

    #[test]
    fn equal_pixels_score_a_hundred_and_other_sizes_have_no_score() {
        let a = disc(0.5, RED, 0.0);
        assert_eq!(likeness(&a, &a), Some(Likeness { score: 100.0, is_averaged: false }));
        let smaller = Pixels::new(8, 8, vec![0; 192]).unwrap();
        assert_eq!(likeness(&a, &smaller), None);
        let tiny = Pixels::new(4, 4, vec![0; 48]).unwrap();
        let other = Pixels::new(4, 4, vec![9; 48]).unwrap();
        assert_eq!(likeness(&tiny, &other), None);
    }

    #[test]
    fn chroma_is_measured_in_steps_of_jfif() {
        let red = Pixels::new(16, 16, [255, 0, 0].repeat(256)).unwrap();
        let grey = Pixels::new(16, 16, [76, 76, 76].repeat(256)).unwrap();
        let distance = Chroma::of(&red).distance(&Chroma::of(&grey));
        // JFIF: pure red is Cb 85, Cr 255 (255.5, clamped by rounding); grey is 128, 128.
        assert!((distance.mean - (43f64).hypot(127.0)).abs() < 1.5, "{distance:?}");
        assert!((distance.mean - distance.peak).abs() < 1e-9);
    }

    #[test]
    fn images_smaller_than_the_grid_have_a_fingerprint() {
        let narrow = Pixels::new(8, 40, vec![30; 960]).unwrap();
        assert_eq!(Fingerprint::of(&narrow), Fingerprint::of(&narrow.clone()));
    }
}
