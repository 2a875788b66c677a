//! Shadows of other layers: one that falls behind them, and one at their base, where they touch the ground.

use serde::Serialize;

use super::blur;
#[cfg(test)]
use super::light::widened;
use super::patch::{Colour, Mask, Patch, index};
use super::place::{Area, Length};

/// Which way and how far a shadow lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ShadowKind {
    /// The layer's own outline, moved.
    Drop,
    /// The outline pressed flat to a share of its height, in percent, at the layer's base.
    Contact { flat_percent: u8 },
}

/// The shadow of one layer. Lengths are shares of the picture's shorter side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// Index of the layer that throws it.
    pub of: usize,
    pub kind: ShadowKind,
    /// Where it falls: degrees clockwise from the right, 0 to 359; 90 is straight down.
    pub direction_deg: u16,
    pub distance: Length,
    /// Over how much its edge fades.
    pub softness: Length,
    pub colour: Colour,
}

/// Alpha from which a row counts as the layer's base.
const BASE_ALPHA: u16 = u16::MAX / 4;

/// Only so much of a layer, from its base up, is near enough to the ground to shade it.
const TOUCHING_PERCENT: usize = 25;

impl Shadow {
    /// The shadow that `caster`, placed at `area`, throws, and where it lies.
    pub(super) fn cast(&self, caster: &Mask, area: Area, shorter_px: i64) -> (Patch, (i64, i64)) {
        let fade = self.softness.px(shorter_px).clamp(0, super::blur_px_max(shorter_px));
        let (dx, dy) = moved(self.direction_deg, self.distance.px(shorter_px));
        let (shape, at) = match self.kind {
            ShadowKind::Drop => (caster.clone(), (area.left, area.top)),
            ShadowKind::Contact { flat_percent } => {
                let base = base_of(caster);
                let flat = pressed(caster, base, flat_percent);
                let top = area.top + base as i64 - i64::from(flat.height_px) / 2;
                (flat, (area.left, top))
            }
        };
        let (soft, margin) = softened(&shape, fade);
        (Patch::of_mask(&soft, self.colour), (at.0 + dx - margin, at.1 + dy - margin))
    }
}

/// In whole pixels; sines of whole degrees to four digits, which every processor rounds alike.
fn moved(direction_deg: u16, distance_px: i64) -> (i64, i64) {
    let angle = f64::from(direction_deg % 360).to_radians();
    #[allow(clippy::cast_possible_truncation, reason = "at most ten thousand")]
    let part = |share: f64| (share * 10_000.0).round() as i64;
    let along = |share: i64| (share * distance_px + 5_000 * share.signum()) / 10_000;
    (along(part(angle.cos())), along(part(angle.sin())))
}

/// The row below the lowest one that the layer clearly covers.
fn base_of(mask: &Mask) -> usize {
    let is_covered = |row: &[u16]| row.iter().any(|alpha| *alpha >= BASE_ALPHA);
    let base = mask.coverage.chunks_exact(mask.width_px as usize).rposition(is_covered);
    base.map_or(mask.height_px as usize, |row| row + 1)
}

/// The lowest rows above `base`, averaged into a share of the number of all.
fn pressed(mask: &Mask, base: usize, flat_percent: u8) -> Mask {
    let (width, base) = (mask.width_px as usize, base.max(1));
    let height = (base * usize::from(flat_percent.clamp(1, 100))).div_ceil(100);
    let lowest = (base * TOUCHING_PERCENT).div_ceil(100);
    let first = base - lowest;
    let mut coverage = Vec::with_capacity(width * height);
    for row in 0..height {
        let from = first + row * lowest / height;
        let to = (first + (row + 1) * lowest / height).max(from + 1).min(base);
        for x in 0..width {
            let sum: u64 = (from..to).map(|y| u64::from(mask.coverage[y * width + x])).sum();
            coverage.push(u16::try_from(sum / (to - from) as u64).unwrap_or(u16::MAX));
        }
    }
    Mask { width_px: mask.width_px, height_px: u32::try_from(height).unwrap_or(1), coverage }
}

/// With room for the fade at every side.
fn softened(mask: &Mask, fade: i64) -> (Mask, i64) {
    let grown = |side: u32| side + 2 * u32::try_from(fade).unwrap_or(0);
    let mut soft = Mask::empty(grown(mask.width_px), grown(mask.height_px));
    soft.unite(mask, (fade, fade));
    let mut pixels: Vec<[u16; 1]> = soft.coverage.iter().map(|alpha| [*alpha]).collect();
    blur::soften(&mut pixels, soft.width_px as usize, soft.height_px as usize, index(fade));
    soft.coverage = pixels.into_iter().map(|[alpha]| alpha).collect();
    (soft, fade)
}

/// Half of black.
impl Default for Shadow {
    fn default() -> Self {
        Self {
            of: 0,
            kind: ShadowKind::Drop,
            direction_deg: 90,
            distance: Length::Share(100),
            softness: Length::Share(200),
            colour: Colour { rgb: [0; 3], alpha: 128 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square() -> Mask {
        let mut mask = Mask::empty(10, 10);
        for y in 2..8 {
            mask.coverage[y * 10 + 2..y * 10 + 8].fill(u16::MAX);
        }
        mask
    }

    const AREA: Area = Area { left: 100, top: 50, width: 10, height: 10 };

    #[test]
    fn a_hard_shadow_is_the_outline_moved() {
        let hard = Shadow { distance: Length::Px(5), softness: Length::ZERO, ..Shadow::default() };
        let (patch, at) = Shadow { direction_deg: 0, ..hard }.cast(&square(), AREA, 1000);
        assert_eq!((at, patch.width_px), ((105, 50), 10));
        assert_eq!((patch.pixels[22], patch.pixels[0]), ([0, 0, 0, widened(128)], [0; 4]));
        let at = |direction_deg| Shadow { direction_deg, ..hard }.cast(&square(), AREA, 1000).1;
        assert_eq!((at(90), at(180), at(270), at(45)), ((100, 55), (95, 50), (100, 45), (104, 54)));
    }

    #[test]
    fn a_contact_shadow_lies_flat_at_the_base() {
        let kind = ShadowKind::Contact { flat_percent: 50 };
        let shadow = Shadow { kind, distance: Length::ZERO, softness: Length::ZERO, ..Shadow::default() };
        let (patch, at) = shadow.cast(&square(), AREA, 1000);
        // The base is below row 7 of the layer, and its two lowest rows are near it; four rows of shadow lie around the base.
        assert_eq!((at, patch.height_px), ((100, 56), 4));
        assert_eq!((patch.pixels[5][3], patch.pixels[35][3], patch.pixels[0][3]), (widened(128), widened(128), 0));
    }

    #[test]
    fn softness_adds_room_and_keeps_the_shadow_in_place() {
        let soft = Shadow { distance: Length::ZERO, softness: Length::Px(6), ..Shadow::default() };
        let (patch, at) = soft.cast(&square(), AREA, 1000);
        assert_eq!((at, patch.width_px, patch.height_px), ((94, 44), 22, 22));
        let sum = |patch: &Patch| patch.pixels.iter().map(|pixel| u64::from(pixel[3])).sum::<u64>();
        let (hard, _) = Shadow { softness: Length::ZERO, ..soft }.cast(&square(), AREA, 1000);
        assert!(sum(&patch).abs_diff(sum(&hard)) < sum(&hard) / 100, "no light is lost");
        let bounded = Shadow { softness: Length::Px(5000), ..soft }.cast(&square(), AREA, 100).0;
        assert_eq!(bounded.width_px, 10 + 2 * 10, "a tenth of the shorter side");
    }
}
