//! Whether a text can be read: the contrast ratio of WCAG 2.2 in the worst place under it.
//!
//! A place is a square of one line's height in which there are letters; what is behind them counts with its mean light there.

use serde::Serialize;

use super::light::{FULL, Light, luminance, rest, times};
use super::patch::{Mask, index};
use super::place::Area;
use crate::render::Raster;

/// Below this many CSS pixels letters count as small (WCAG 2.2: 18 points).
const LARGE_PX: i64 = 24;
/// What WCAG 2.2 asks for at level AA, in hundredths.
const SMALL_MIN: u32 = 450;
const LARGE_MIN: u32 = 300;
/// The light that reflects from any screen: 0.05 in parts of 65,535.
const FLARE: u64 = 3277;

/// The least contrast of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ContrastMin {
    /// What WCAG 2.2 asks for: 4.5, or 3 of letters of 24 CSS pixels and more.
    #[default]
    BySize,
    /// In hundredths.
    Ratio(u16),
}

impl ContrastMin {
    /// For letters of so many CSS pixels.
    pub(super) fn hundredths(self, css_px: i64) -> u32 {
        match self {
            Self::BySize if css_px >= LARGE_PX => LARGE_MIN,
            Self::BySize => SMALL_MIN,
            Self::Ratio(hundredths) => u32::from(hundredths),
        }
    }
}

/// A text's letters on a picture.
pub(super) struct Lettering<'l> {
    pub(super) mask: &'l Mask,
    /// Where the mask lies.
    pub(super) at: (i64, i64),
    /// The text's box, within the mask.
    pub(super) area: Area,
    /// Premultiplied, in linear light, its opacity counted in.
    pub(super) colour: [u16; 4],
    pub(super) line_height: i64,
}

/// The contrast in the worst place, in hundredths. `None` where no letter lies on the picture.
pub(super) fn worst(raster: &Raster, lettering: &Lettering<'_>) -> Option<u32> {
    let seen = lettering.area.within(raster.width_px, raster.height_px)?;
    let side = lettering.line_height.max(4);
    let mut worst = None;
    let mut top = seen.top;
    while top < seen.bottom() {
        let mut left = seen.left;
        while left < seen.right() {
            let tile = Area { left, top, width: side.min(seen.right() - left), height: side.min(seen.bottom() - top) };
            if let Some(behind) = mean_behind(raster, lettering, tile) {
                let ratio = ratio(behind, lettering.colour);
                worst = Some(worst.map_or(ratio, |known: u32| known.min(ratio)));
            }
            left += side;
        }
        top += side;
    }
    worst
}

/// The mean light of a tile; `None` where it has no letters.
fn mean_behind(raster: &Raster, lettering: &Lettering<'_>, tile: Area) -> Option<[u16; 3]> {
    let Lettering { mask, at, .. } = lettering;
    let light = Light::tables();
    let (mut sums, mut has_letters) = ([0_u64; 3], false);
    for y in tile.top..tile.bottom() {
        let start = index(y - at.1) * mask.width_px as usize + index(tile.left - at.0);
        has_letters |= mask.coverage[start..start + index(tile.width)].iter().any(|part| *part > FULL / 2);
    }
    if !has_letters {
        return None;
    }
    for y in tile.top..tile.bottom() {
        let start = (index(y) * raster.width_px as usize + index(tile.left)) * 3;
        for codes in raster.rgb[start..start + index(tile.width) * 3].chunks_exact(3) {
            for (sum, code) in sums.iter_mut().zip(codes) {
                *sum += u64::from(light.linear(*code));
            }
        }
    }
    let count = u64::try_from(tile.width * tile.height).unwrap_or(1).max(1);
    Some(sums.map(|sum| u16::try_from(sum / count).unwrap_or(FULL)))
}

/// Of a colour over what is behind it, in hundredths, rounded down.
fn ratio(behind: [u16; 3], colour: [u16; 4]) -> u32 {
    let left = rest(colour[3]);
    let shown: [u16; 3] = std::array::from_fn(|at| colour[at].saturating_add(times(behind[at], left)));
    let (behind, shown) = (u64::from(luminance(behind)), u64::from(luminance(shown)));
    let (light, dark) = (behind.max(shown), behind.min(shown));
    u32::try_from((light + FLARE) * 100 / (dark + FLARE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::patch::Colour;
    use super::*;

    fn of(behind: u8, colour: Colour) -> u32 {
        let light = Light::tables();
        ratio([light.linear(behind); 3], colour.premultiplied(light))
    }

    #[test]
    fn ratios_are_those_of_the_standard() {
        assert_eq!(
            (of(255, Colour::BLACK), of(0, Colour::WHITE), of(90, Colour { rgb: [90; 3], alpha: 255 })),
            (2099, 2099, 100)
        );
        // #767676 on white is the lightest grey that passes 4.5.
        assert_eq!(of(255, Colour { rgb: [0x76; 3], alpha: 255 }), 454);
        assert_eq!(of(255, Colour { rgb: [0x77; 3], alpha: 255 }), 447);
        assert!(of(255, Colour { rgb: [0; 3], alpha: 64 }) < 200, "a faint black is no black");
    }

    #[test]
    fn the_worst_place_under_letters_counts_and_no_other() {
        let mut raster = Raster { width_px: 30, height_px: 10, rgb: vec![0; 900] };
        for y in 0..10 {
            raster.rgb[y * 90 + 30..y * 90 + 90].fill(255);
        }
        let mut mask = Mask::empty(30, 10);
        let lettered = |mask: &Mask| {
            let colour = Colour::WHITE.premultiplied(Light::tables());
            let area = Area { left: 0, top: 0, width: 30, height: 10 };
            worst(&raster, &Lettering { mask, at: (0, 0), area, colour, line_height: 10 })
        };
        assert_eq!(lettered(&mask), None);
        mask.coverage[5] = FULL;
        assert_eq!(lettered(&mask), Some(2099), "letters on the dark third alone");
        mask.coverage[25] = FULL;
        assert_eq!(lettered(&mask), Some(100), "and on the light one");
    }

    #[test]
    fn small_letters_need_more() {
        let by_size = ContrastMin::BySize;
        assert_eq!(
            (by_size.hundredths(23), by_size.hundredths(24), ContrastMin::Ratio(700).hundredths(99)),
            (450, 300, 700)
        );
    }
}
