//! Finding a mark: at which scale and offset, by which secret, and what it says.
//!
//! A picture is looked at in its own size, halved and quartered. At each, scales of 0.5 to 1 are tried in steps so
//! small that the mark drifts by little more than half a pixel from the middle to the edge. Each is folded into one
//! tile, whose correlation with a secret's synchronising waves peaks where the mark begins. The best peaks are refined
//! and read.
//!
//! **A mark counts only when all three agree:** its peak stands out (`SYNC_Z_MIN`), the code word that was decoded
//! agrees with what was measured (`WORD_Z_MIN`), and version, key id and CRC, 32 bits, are right.
//!
//! Time and memory are bounded whatever the picture: at most a mebipixel of it is searched, and [`Effort`] bounds the
//! pixels that are folded. No clock decides what is found.

mod plane;
mod search;
mod spectrum;

use plane::Planes;
use search::{Peak, Reach, peak, refined, reliability, settled, turns};
use spectrum::{Scale, Spectrum, Transform};

use super::Watermark;
use super::code::{CODED_BITS, Decoder, encoded};
use super::embed::luma;
use super::pattern::Pattern;
use super::payload::Payload;

/// A peak below this is not read. Chance alone gives about 5 as the best of all scales and offsets, so it costs
/// nothing.
const SYNC_Z_MIN: f32 = 4.5;
/// What is agreed at least: noise agrees so well with one of the words in a quarter of trials; the root of the coded
/// bits, 17.9, would be complete agreement.
const WORD_Z_MIN: f32 = 9.4;
/// Peaks that are read at each size of a picture.
const READ_MAX: usize = 6;
/// How often a picture is halved: the last covers scales of 2.1 to 4.2.
const HALVINGS_MAX: u32 = 2;
/// Scales at each size, in pixels of the plane per pixel of the rendition.
const SCALE_MIN: f32 = 0.47;
const SCALE_MAX: f32 = 1.06;
/// Pixels of the rendition by which the mark drifts at the edge of the plane from one scale to the next.
const DRIFT_PX: f32 = 1.2;
/// Shorter sides hold no mark that could be read.
const SIDE_PX_MIN: usize = 48;
/// Sides beyond this are no picture of ours: it keeps sums of pixels within `usize`.
const SIDE_PX_MAX: usize = 1 << 16;

/// What a search may cost at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Pixels that are folded at each size of the picture while scales are tried: about a nanosecond each. A picture
    /// that would take more is searched in coarser steps.
    pub folded_px_max: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self { folded_px_max: 1 << 30 }
    }
}

/// A mark that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub payload: Payload,
    /// Pixels of the picture per pixel of the rendition that was marked, along either axis.
    pub scale: [f32; 2],
    /// How far the synchronising peak stands out, in standard deviations.
    pub sync_z: f32,
    /// How well the code word agrees with what was measured, from 0 to 17.9.
    pub word_z: f32,
}

impl Found {
    /// The decimal logarithm of an upper bound on the chance that a picture without a mark gives this: −9 means one in
    /// a thousand million. From the tail of the synchronising peak among a million places, and the 32 bits that were
    /// right in one of the code words that were read.
    #[must_use]
    pub fn chance_log10(&self) -> f32 {
        let peak = (6.0 - self.sync_z * self.sync_z / 2.0 * std::f32::consts::LOG10_E).min(0.0);
        // Settled and refined, unscaled and then over all scales, at each size.
        let read = (4.0 * READ_MAX as f32 * (HALVINGS_MAX + 1) as f32).log10();
        peak + read - 32.0 * std::f32::consts::LOG10_2
    }
}

/// A picture that is searched, row by row.
#[derive(Debug, Clone, Copy)]
pub enum Samples<'a> {
    /// Interleaved, three bytes a pixel.
    Rgb(&'a [u8]),
    /// As [`seen`] gives them, two bytes a pixel: all that the search needs.
    Seen(&'a [u8]),
}

/// Luma and Cb of a pixel (ITU-R BT.601, in whole code values): what the carriers move.
#[must_use]
pub fn seen([r, g, b]: [u8; 3]) -> [u8; 2] {
    let blueness = (128 * i32::from(b) - 43 * i32::from(r) - 85 * i32::from(g) + 128) >> 8;
    [luma([r, g, b]), (128 + blueness) as u8]
}

impl Samples<'_> {
    const fn bytes(&self) -> (&[u8], usize) {
        match self {
            Self::Rgb(bytes) => (bytes, 3),
            Self::Seen(bytes) => (bytes, 2),
        }
    }

    fn is_whole(self, width_px: usize, height_px: usize) -> bool {
        let (bytes, each) = self.bytes();
        width_px.max(height_px) <= SIDE_PX_MAX && bytes.len() == width_px * height_px * each
    }
}

/// Looks for a mark of any of the `secrets` in interleaved RGB. The first that is complete is the answer; a picture
/// with several marks gives the clearest as a rule. Time grows with the secrets, by about a third for each beyond the
/// first.
#[must_use]
pub fn detect(rgb: &[u8], width_px: u32, height_px: u32, secrets: &[Watermark], effort: Effort) -> Option<Found> {
    let secrets: Vec<&Watermark> = secrets.iter().collect();
    detect_in(Samples::Rgb(rgb), width_px, height_px, &secrets, effort)
}

/// The same in samples of either kind.
#[must_use]
pub fn detect_in(
    samples: Samples<'_>,
    width_px: u32,
    height_px: u32,
    secrets: &[&Watermark],
    effort: Effort,
) -> Option<Found> {
    let (width_px, height_px) = (usize::try_from(width_px).ok()?, usize::try_from(height_px).ok()?);
    let waves = &secrets.first()?.pattern.waves;
    if !samples.is_whole(width_px, height_px) {
        return None;
    }
    let mut detector = Detector { transform: Transform::new(waves), decoder: Decoder::new(), secrets, effort };
    (0..=HALVINGS_MAX).find_map(|halvings| {
        let planes = Planes::of(samples, width_px, height_px, halvings)?;
        let side_px = planes.lightness.width_px.min(planes.lightness.height_px);
        let found = (side_px >= SIDE_PX_MIN).then(|| detector.search(&planes))??;
        let side = (1 << halvings) as f32;
        Some(Found { scale: found.scale.map(|scale| scale * side), ..found })
    })
}

struct Detector<'a> {
    transform: Transform,
    decoder: Decoder,
    secrets: &'a [&'a Watermark],
    effort: Effort,
}

impl Detector<'_> {
    fn search(&mut self, planes: &Planes) -> Option<Found> {
        let step = self.step(planes);
        // Most pictures that are shown to a detector were not scaled.
        let unscaled = self.peaks(planes, 1.0);
        if let Some(found) = self.read_best(planes, unscaled, step) {
            return Some(found);
        }
        let steps = ((SCALE_MAX / SCALE_MIN).ln() / step) as i32;
        let scales = (0..=steps).map(|n| SCALE_MIN * (step * n as f32).exp());
        let peaks = scales.flat_map(|scale| self.peaks(planes, scale)).collect();
        self.read_best(planes, peaks, step)
    }

    /// The relative step from one scale to the next.
    fn step(&self, planes: &Planes) -> f32 {
        let plane = &planes.lightness;
        let half_px = plane.width_px.max(plane.height_px) as f32 / 2.0;
        let area_px = (plane.width_px * plane.height_px) as f32;
        let affordable = (SCALE_MAX / SCALE_MIN).ln() * area_px / self.effort.folded_px_max.max(1) as f32;
        (DRIFT_PX * SCALE_MIN.midpoint(SCALE_MAX) / half_px).max(affordable).min(0.1)
    }

    /// The best place at a scale for each secret and reach.
    fn peaks(&mut self, planes: &Planes, scale: f32) -> Vec<(usize, Peak)> {
        let scale = Scale { x: scale, y: scale };
        let spectrum = self.transform.spectrum(planes, scale);
        let mut peaks = Vec::with_capacity(self.secrets.len() * Reach::EACH.len());
        for reach in Reach::EACH {
            for (at, secret) in self.secrets.iter().enumerate() {
                peaks.push((at, peak(&mut self.transform, &spectrum, &secret.pattern, (scale, reach))));
            }
        }
        peaks
    }

    fn read_best(&mut self, planes: &Planes, mut peaks: Vec<(usize, Peak)>, step: f32) -> Option<Found> {
        peaks.retain(|(_, peak)| peak.z >= SYNC_Z_MIN);
        peaks.sort_by(|a, b| b.1.z.total_cmp(&a.1.z));
        peaks.truncate(READ_MAX);
        peaks.into_iter().find_map(|(secret, peak)| self.read(planes, self.secrets[secret], peak, step))
    }

    /// Reads a peak where it is, and where refining takes it: what refines a faint mark may be noise.
    fn read(&mut self, planes: &Planes, secret: &Watermark, peak: Peak, step: f32) -> Option<Found> {
        let (settled, spectrum) = settled(&mut self.transform, planes, &secret.pattern, peak);
        if let Some(found) = self.decode(secret, &settled, &spectrum) {
            return Some(found);
        }
        let (refined, spectrum) = refined(&mut self.transform, planes, &secret.pattern, peak, step);
        self.decode(secret, &refined, &spectrum)
    }

    fn decode(&self, secret: &Watermark, peak: &Peak, spectrum: &Spectrum) -> Option<Found> {
        let soft = soft(spectrum, &secret.pattern, peak.offset_px);
        let frame = self.decoder.decoded(&soft)?;
        let word_z = agreement(&soft, &encoded(&frame));
        let payload =
            Payload::from_frame(&frame).filter(|payload| payload.key() == secret.key && word_z >= WORD_Z_MIN)?;
        Some(Found { payload, scale: [peak.scale.x, peak.scale.y], sync_z: peak.z, word_z })
    }
}

/// How much each coded bit seems to be a one: the sum over the parts that carry it, each as far as waves like it are
/// reliable.
fn soft(spectrum: &Spectrum, pattern: &Pattern, offset_px: [f32; 2]) -> [f32; CODED_BITS] {
    let turns = turns(pattern, offset_px);
    let reliability = reliability(spectrum, pattern, &turns);
    let mut soft = [0.0; CODED_BITS];
    for (at, signs, bits) in pattern.data() {
        let value = spectrum[*at] * turns[*at] * reliability[*at];
        soft[bits[0]] += value.re * f32::from(signs[0]);
        soft[bits[1]] += value.im * f32::from(signs[1]);
    }
    soft
}

/// The correlation of a word with what was measured, in standard deviations of what a word chosen blindly gives.
fn agreement(soft: &[f32; CODED_BITS], word: &[bool; CODED_BITS]) -> f32 {
    let sum: f32 = soft.iter().zip(word).map(|(value, bit)| if *bit { *value } else { -*value }).sum();
    let energy: f32 = soft.iter().map(|value| value * value).sum();
    sum / energy.max(f32::MIN_POSITIVE).sqrt()
}

/// Counts how many of `keys` read a complete mark at the best offset of one scale, whatever the peak and the agreement:
/// what `make bench-watermark` tries millions of times on pictures without a mark. Gives the peak and agreement of
/// each, too.
#[doc(hidden)]
pub fn trials(
    rgb: &[u8],
    (width_px, height_px): (u32, u32),
    scale: f32,
    keys: &[Watermark],
    mut each: impl FnMut(Trial),
) {
    let Some(first) = keys.first() else { return };
    let Some(planes) = Planes::of(Samples::Rgb(rgb), width_px as usize, height_px as usize, 0) else { return };
    let mut transform = Transform::new(&first.pattern.waves);
    let (decoder, scale) = (Decoder::new(), Scale { x: scale, y: scale });
    let spectrum = transform.spectrum(&planes, scale);
    for key in keys {
        let peak = peak(&mut transform, &spectrum, &key.pattern, (scale, Reach::All));
        let soft = soft(&spectrum, &key.pattern, peak.offset_px);
        let frame = decoder.decoded(&soft);
        let word_z = frame.map_or(0.0, |frame| agreement(&soft, &encoded(&frame)));
        let is_complete =
            frame.and_then(|frame| Payload::from_frame(&frame)).is_some_and(|payload| payload.key() == key.key);
        each(Trial { sync_z: peak.z, word_z, is_complete });
    }
}

/// What one key gave on one picture without a mark.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    pub sync_z: f32,
    pub word_z: f32,
    /// Whether version, key id and CRC were right.
    pub is_complete: bool,
}
