//! A patch: what a layer lays on the picture, in premultiplied linear light, and how it is laid there.
//!
//! Invariant: no colour of a pixel exceeds its alpha.

use serde::Serialize;

use super::light::{FULL, Light, narrowed, rest, times};
use super::place::Area;
use super::report::Presence;
use crate::render::Raster;

/// How a layer's light meets what is behind it (W3C Compositing and Blending Level 1), in linear light.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blend {
    #[default]
    Normal,
    Multiply,
    Screen,
}

impl Blend {
    pub const ALL: [Self; 3] = [Self::Normal, Self::Multiply, Self::Screen];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Multiply => "multiply",
            Self::Screen => "screen",
        }
    }
}

/// A share of 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Opacity(u16);

impl Opacity {
    pub const OPAQUE: Self = Self(FULL);

    /// `None` outside 0–1.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 65535")]
        (0.0..=1.0).contains(&share).then(|| Self((share * f64::from(FULL)).round() as u16))
    }

    pub(super) const fn get(self) -> u16 {
        self.0
    }
}

/// An sRGB colour with alpha, not premultiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Colour {
    pub rgb: [u8; 3],
    pub alpha: u8,
}

impl Colour {
    pub const BLACK: Self = Self { rgb: [0; 3], alpha: 255 };
    pub const WHITE: Self = Self { rgb: [255; 3], alpha: 255 };

    /// `#rrggbb` or `#rrggbbaa`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        let alpha = match digits.len() {
            6 => 255,
            8 => byte(6)?,
            _ => return None,
        };
        Some(Self { rgb: [byte(0)?, byte(2)?, byte(4)?], alpha })
    }

    /// Premultiplied, in linear light.
    pub(super) fn premultiplied(self, light: Light) -> [u16; 4] {
        let alpha = super::light::widened(self.alpha);
        let [red, green, blue] = self.rgb.map(|code| times(light.linear(code), alpha));
        [red, green, blue, alpha]
    }
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Patch {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) pixels: Vec<[u16; 4]>,
}

impl std::fmt::Debug for Patch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patch({}×{})", self.width_px, self.height_px)
    }
}

impl Patch {
    /// One colour under a mask of coverage.
    pub(super) fn of_mask(mask: &Mask, colour: Colour) -> Self {
        let premultiplied = colour.premultiplied(Light::tables());
        let pixels = mask.coverage.iter().map(|&part| covered(premultiplied, part)).collect();
        Self { width_px: mask.width_px, height_px: mask.height_px, pixels }
    }

    /// Over another of its size, as layers are laid on a picture.
    pub(super) fn over(mut self, below: &Self) -> Self {
        for (above, below) in self.pixels.iter_mut().zip(&below.pixels) {
            let left = rest(above[3]);
            *above = std::array::from_fn(|sample| above[sample].saturating_add(times(below[sample], left)));
        }
        self
    }

    /// Its alpha alone.
    pub(super) fn mask(&self) -> Mask {
        let coverage = self.pixels.iter().map(|pixel| pixel[3]).collect();
        Mask { width_px: self.width_px, height_px: self.height_px, coverage }
    }

    /// Lays it on the picture with its upper left corner at `at`; what lies outside is cut off. Says whether any of it
    /// is seen.
    pub(super) fn draw(&self, raster: &mut Raster, at: (i64, i64), blend: Blend, opacity: Opacity) -> Presence {
        let light = Light::tables();
        let area = Area { left: at.0, top: at.1, width: i64::from(self.width_px), height: i64::from(self.height_px) };
        let Some(seen) = area.within(raster.width_px, raster.height_px) else { return Presence::Nowhere };
        let row_bytes = raster.width_px as usize * 3;
        for y in seen.top..seen.bottom() {
            let from = index(y - at.1) * self.width_px as usize + index(seen.left - at.0);
            let row = &self.pixels[from..from + index(seen.width)];
            let start = index(y) * row_bytes + index(seen.left) * 3;
            let behind = &mut raster.rgb[start..start + row.len() * 3];
            for (pixel, behind) in row.iter().zip(behind.chunks_exact_mut(3)) {
                if pixel[3] > 0 {
                    lay(*pixel, behind, light, blend, opacity.get());
                }
            }
        }
        Presence::Drawn
    }
}

/// A pixel under coverage. Most are covered wholly or not at all.
pub(super) fn covered(pixel: [u16; 4], part: u16) -> [u16; 4] {
    match part {
        0 => [0; 4],
        FULL => pixel,
        part => pixel.map(|sample| times(sample, part)),
    }
}

fn lay(pixel: [u16; 4], behind: &mut [u8], light: Light, blend: Blend, opacity: u16) {
    let pixel = if opacity == FULL { pixel } else { pixel.map(|sample| times(sample, opacity)) };
    if pixel[3] == FULL && blend == Blend::Normal {
        behind.iter_mut().zip(pixel).for_each(|(code, sample)| *code = light.code(sample));
        return;
    }
    let left = rest(pixel[3]);
    for (code, &sample) in behind.iter_mut().zip(&pixel[..3]) {
        let below = light.linear(*code);
        let shown = times(below, left);
        let mixed = match blend {
            Blend::Normal => u32::from(sample) + u32::from(shown),
            Blend::Multiply => u32::from(times(sample, below)) + u32::from(shown),
            Blend::Screen => u32::from(sample) + u32::from(times(below, rest(sample))),
        };
        *code = light.code(narrowed(mixed));
    }
}

/// How much of each pixel is covered, in parts of 65,535.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mask {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) coverage: Vec<u16>,
}

impl Mask {
    pub(super) fn empty(width_px: u32, height_px: u32) -> Self {
        Self { width_px, height_px, coverage: vec![0; width_px as usize * height_px as usize] }
    }

    /// Lays another mask in it, the denser of both where they meet; what lies outside is cut off.
    pub(super) fn unite(&mut self, other: &Self, at: (i64, i64)) {
        let area = Area { left: at.0, top: at.1, width: i64::from(other.width_px), height: i64::from(other.height_px) };
        let Some(seen) = area.within(self.width_px, self.height_px) else { return };
        for y in seen.top..seen.bottom() {
            let from = index(y - at.1) * other.width_px as usize + index(seen.left - at.0);
            let to = index(y) * self.width_px as usize + index(seen.left);
            let theirs = &other.coverage[from..from + index(seen.width)];
            for (own, their) in self.coverage[to..to + theirs.len()].iter_mut().zip(theirs) {
                *own = (*own).max(*their);
            }
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({}×{})", self.width_px, self.height_px)
    }
}

/// A coordinate that lies within a picture.
pub(super) fn index(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(behind: u8, colour: Colour, blend: Blend, opacity: f64) -> u8 {
        let mut raster = Raster { width_px: 1, height_px: 1, rgb: vec![behind; 3] };
        let mask = Mask { width_px: 1, height_px: 1, coverage: vec![FULL] };
        let opacity = Opacity::new(opacity).expect("a share");
        Patch::of_mask(&mask, colour).draw(&mut raster, (0, 0), blend, opacity);
        raster.rgb[0]
    }

    #[test]
    fn light_is_added_up_and_not_code_values() {
        assert_eq!(over(0, Colour::WHITE, Blend::Normal, 0.5), 188);
        assert_eq!(over(255, Colour::BLACK, Blend::Normal, 0.5), 188);
        assert_eq!(over(255, Colour { rgb: [0; 3], alpha: 128 }, Blend::Normal, 1.0), 187, "half and one 510th");
        assert_eq!((over(7, Colour::WHITE, Blend::Normal, 0.0), over(7, Colour::WHITE, Blend::Normal, 1.0)), (7, 255));
    }

    #[test]
    fn multiplying_darkens_and_screening_lightens() {
        let grey = Colour { rgb: [188; 3], alpha: 255 };
        assert_eq!(over(188, grey, Blend::Multiply, 1.0), 138, "a quarter of the light");
        assert_eq!(over(188, grey, Blend::Screen, 1.0), 225, "three quarters of it");
        assert_eq!(
            (over(188, Colour::WHITE, Blend::Multiply, 1.0), over(188, Colour::BLACK, Blend::Screen, 1.0)),
            (188, 188)
        );
        assert_eq!(over(188, grey, Blend::Multiply, 0.0), 188);
    }

    #[test]
    fn what_lies_outside_of_the_picture_is_cut_off() {
        let mask = Mask { width_px: 3, height_px: 3, coverage: vec![FULL; 9] };
        let patch = Patch::of_mask(&mask, Colour::WHITE);
        for (at, lit) in
            [((-2, -2), vec![0]), ((1, 1), vec![3]), ((0, -1), vec![0, 1, 2, 3]), ((2, 0), vec![]), ((-9, 0), vec![])]
        {
            let mut raster = Raster { width_px: 2, height_px: 2, rgb: vec![0; 12] };
            patch.draw(&mut raster, at, Blend::Normal, Opacity::OPAQUE);
            let found: Vec<usize> = (0..4).filter(|pixel| raster.rgb[pixel * 3] == 255).collect();
            assert_eq!(found, lit, "{at:?}");
        }
    }

    #[test]
    fn colours_are_six_or_eight_hexadecimal_digits() {
        assert_eq!(Colour::parse("#0a0B0c"), Some(Colour { rgb: [10, 11, 12], alpha: 255 }));
        assert_eq!(Colour::parse("#0a0b0c80"), Some(Colour { rgb: [10, 11, 12], alpha: 128 }));
        assert!(
            ["", "#fff", "0a0b0c", "#0a0b0g", "#0a0b0c8", "#+a0b0c"].iter().all(|text| Colour::parse(text).is_none())
        );
    }
}
