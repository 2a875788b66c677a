//! The search for scale and offset, by the waves that synchronise.

use rustfft::num_complex::Complex;

use super::super::pattern::{Pattern, Signs, TILE_PX, Wave};
use super::plane::Plane;
use super::spectrum::{Reach, Scale, Spectrum, Transform};

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
    let product = |(at, signs): (usize, Signs)| (pattern.waves[at], spectrum[at] * conjugate(signs));
    let energy: f32 = pattern.sync().map(|(at, _)| spectrum[at].norm_sqr()).sum();
    let values = transform.correlation(pattern.sync().map(product));
    let (place, best) = values
        .iter()
        .enumerate()
        .fold((0, f32::MIN), |best, (at, value)| if value.re > best.1 { (at, value.re) } else { best });
    // Signs have a square of 2, and the real part has half the energy of the whole: the deviation is the root of the
    // energy.
    let z = best / energy.max(f32::MIN_POSITIVE).sqrt();
    Peak { scale, reach, offset_px: [place % TILE_PX, place / TILE_PX].map(|at| at as f32), z }
}

/// Improves a peak's scale, along both axes and each alone, and then its offset, to a quarter of a pixel. `step` is the
/// relative step of the scales that were tried.
pub(super) fn refined(
    transform: &mut Transform,
    plane: &Plane,
    pattern: &Pattern,
    found: Peak,
    step: f32,
) -> (Peak, Spectrum) {
    let mut best = found;
    let mut spectrum = transform.spectrum(plane, best.scale, best.reach);
    for step in [step / 2.0, step / 4.0] {
        for (x, y) in [(1.0, 1.0), (-1.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)] {
            let scale = Scale { x: best.scale.x * (1.0 + x * step), y: best.scale.y * (1.0 + y * step) };
            let tried = transform.spectrum(plane, scale, best.reach);
            let peak = peak(transform, &tried, pattern, (scale, best.reach));
            if peak.z > best.z {
                (best, spectrum) = (peak, tried);
            }
        }
    }
    best.offset_px = between_pixels(&spectrum, pattern, best.offset_px);
    (best, spectrum)
}

/// By which each wave is turned back for a mark whose origin is at `offset_px`.
pub(super) fn turns(pattern: &Pattern, offset_px: [f32; 2]) -> Vec<Complex<f32>> {
    let turn = std::f32::consts::TAU / TILE_PX as f32;
    let angle = |wave: &Wave| turn * (wave.x as f32 * offset_px[0] + wave.y as f32 * offset_px[1]);
    pattern.waves.iter().map(|wave| Complex::from_polar(1.0, angle(wave))).collect()
}

/// The best offset within three quarters of a pixel.
fn between_pixels(spectrum: &Spectrum, pattern: &Pattern, offset_px: [f32; 2]) -> [f32; 2] {
    let quarters = (-3i8..=3).map(|n| f32::from(n) / 4.0);
    let around = quarters.clone().flat_map(|y| quarters.clone().map(move |x| [offset_px[0] + x, offset_px[1] + y]));
    let value = |offset_px| (correlation_at(spectrum, pattern, offset_px), offset_px);
    around.map(value).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(offset_px, |best| best.1)
}

fn correlation_at(spectrum: &Spectrum, pattern: &Pattern, offset_px: [f32; 2]) -> f32 {
    let turns = turns(pattern, offset_px);
    pattern.sync().map(|(at, signs)| (spectrum[at] * conjugate(signs) * turns[at]).re).sum()
}

fn conjugate([cosine, sine]: Signs) -> Complex<f32> {
    Complex::new(f32::from(cosine), -f32::from(sine))
}
