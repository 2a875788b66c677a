//! The search for scale and offset, by the waves that synchronise.

use rustfft::num_complex::Complex;

use super::super::pattern::{Carrier, Pattern, Signs, TILE_PX, Wave};
use super::plane::Planes;
use super::spectrum::{Scale, Spectrum, Transform};

/// Which waves a mark is expected to have come through on: coding and shrinking take the shortest first, and coding all
/// of lightness where a picture is calm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The waves of colour alone.
    Colour,
    /// Waves of lightness count the less the shorter they are: half from 20 repetitions a tile.
    Long,
    /// All waves count alike.
    All,
}

impl Reach {
    pub(super) const EACH: [Self; 3] = [Self::Colour, Self::Long, Self::All];

    fn weight(self, pattern: &Pattern, at: usize) -> f32 {
        let is_colour = pattern.waves.range(Carrier::Colour).contains(&at);
        match self {
            Self::All => 1.0,
            Self::Colour => f32::from(u8::from(is_colour)),
            Self::Long if is_colour => 1.0,
            Self::Long => 1.0 / (1.0 + (pattern.waves.all[at].square() as f32 / 400.0).powi(3)),
        }
    }
}

/// Where a mark seems to be, and how clearly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    pub(super) scale: Scale,
    /// Which waves were trusted.
    pub(super) reach: Reach,
    /// Of the tile's origin from the middle of the plane, in pixels of the rendition.
    pub(super) offset_px: [f32; 2],
    /// The correlation in standard deviations of what chance gives at one offset.
    pub(super) z: f32,
}

/// The best offset of a spectrum for a pattern.
pub(super) fn peak(
    transform: &mut Transform,
    spectrum: &Spectrum,
    pattern: &Pattern,
    (scale, reach): (Scale, Reach),
) -> Peak {
    let product = |(at, signs): (usize, Signs)| (at, spectrum[at] * conjugate(signs) * reach.weight(pattern, at));
    let products: Vec<_> = pattern.sync().map(product).collect();
    // The square of a wave's signs is 2.
    let energy: f32 = products.iter().map(|(_, product)| product.norm_sqr() / 2.0).sum();
    let values = transform.correlation(products.into_iter().map(|(at, product)| (pattern.waves.all[at], product)));
    let (place, best) = values
        .iter()
        .enumerate()
        .fold((0, f32::MIN), |best, (at, value)| if value.re > best.1 { (at, value.re) } else { best });
    // Signs have a square of 2, and the real part has half the energy of the whole: the deviation is the root of the
    // energy.
    let z = best / energy.max(f32::MIN_POSITIVE).sqrt();
    Peak { scale, reach, offset_px: [place % TILE_PX, place / TILE_PX].map(|at| at as f32), z }
}

/// Improves a peak's offset alone, to a quarter of a pixel.
pub(super) fn settled(
    transform: &mut Transform,
    planes: &Planes,
    pattern: &Pattern,
    mut peak: Peak,
) -> (Peak, Spectrum) {
    let spectrum = transform.spectrum(planes, peak.scale);
    peak.offset_px = between_pixels(&spectrum, pattern, &peak);
    (peak, spectrum)
}

/// Improves a peak's scale, along both axes and each alone, and then its offset, to a quarter of a pixel. `step` is the
/// relative step of the scales that were tried.
pub(super) fn refined(
    transform: &mut Transform,
    planes: &Planes,
    pattern: &Pattern,
    found: Peak,
    step: f32,
) -> (Peak, Spectrum) {
    let mut best = found;
    let mut spectrum = transform.spectrum(planes, best.scale);
    for step in [step / 2.0, step / 4.0] {
        for (x, y) in [(1.0, 1.0), (-1.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)] {
            let scale = Scale { x: best.scale.x * (1.0 + x * step), y: best.scale.y * (1.0 + y * step) };
            let tried = transform.spectrum(planes, scale);
            let peak = peak(transform, &tried, pattern, (scale, best.reach));
            if peak.z > best.z {
                (best, spectrum) = (peak, tried);
            }
        }
    }
    best.offset_px = between_pixels(&spectrum, pattern, &best);
    (best, spectrum)
}

/// By which each wave is turned back for a mark whose origin is at `offset_px`.
pub(super) fn turns(pattern: &Pattern, offset_px: [f32; 2]) -> Vec<Complex<f32>> {
    let turn = std::f32::consts::TAU / TILE_PX as f32;
    let angle = |wave: &Wave| turn * (wave.x as f32 * offset_px[0] + wave.y as f32 * offset_px[1]);
    pattern.waves.all.iter().map(|wave| Complex::from_polar(1.0, angle(wave))).collect()
}

/// The best offset within three quarters of a pixel.
fn between_pixels(spectrum: &Spectrum, pattern: &Pattern, peak: &Peak) -> [f32; 2] {
    let quarters = (-3i8..=3).map(|n| f32::from(n) / 4.0);
    let offset_px = peak.offset_px;
    let around = quarters.clone().flat_map(|y| quarters.clone().map(move |x| [offset_px[0] + x, offset_px[1] + y]));
    let value = |offset_px| (correlation_at(spectrum, pattern, offset_px, peak.reach), offset_px);
    around.map(value).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(offset_px, |best| best.1)
}

fn correlation_at(spectrum: &Spectrum, pattern: &Pattern, offset_px: [f32; 2], reach: Reach) -> f32 {
    let turns = turns(pattern, offset_px);
    pattern.sync().map(|(at, signs)| (spectrum[at] * conjugate(signs) * turns[at]).re * reach.weight(pattern, at)).sum()
}

fn conjugate([cosine, sine]: Signs) -> Complex<f32> {
    Complex::new(f32::from(cosine), -f32::from(sine))
}

/// Groups of waves whose reliability is measured apart: how far their rings reach, in repetitions a tile. The waves of
/// colour are one more.
const GROUPS: [i32; 3] = [18, 24, 32];

fn group(pattern: &Pattern, at: usize) -> usize {
    let square = pattern.waves.all[at].square();
    if pattern.waves.range(Carrier::Colour).contains(&at) {
        return GROUPS.len();
    }
    GROUPS.iter().position(|radius| square <= radius * radius).unwrap_or(GROUPS.len() - 1)
}

/// By which each wave's value is multiplied: what the synchronising waves of its group show of the mark beside all else.
///
/// A part measures a·sign + noise, with a mean square of ½ in all. Its weight is that of the likelihoods, a / (½ − a²).
pub(super) fn reliability(spectrum: &Spectrum, pattern: &Pattern, turns: &[Complex<f32>]) -> Vec<f32> {
    let mut sums = [(0.0f32, 0.0f32); GROUPS.len() + 1];
    for (at, signs) in pattern.sync() {
        let (sum, parts) = &mut sums[group(pattern, at)];
        *sum += (spectrum[at] * conjugate(signs) * turns[at]).re;
        *parts += 2.0;
    }
    let weights = sums.map(|(sum, parts)| {
        let a = (sum / parts.max(1.0)).max(0.02);
        a / (0.5 - a * a).max(0.05)
    });
    (0..pattern.waves.all.len()).map(|at| weights[group(pattern, at)]).collect()
}
