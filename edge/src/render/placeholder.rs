//! The picture shown while there is none: a soft gradient of two colours, 32 px on its longer side.
//!
//! It needs no master and no node. Browsers scale it up smoothly. It is made by a program and by no model, and its
//! marking says so (`algorithmicMedia`). Callers keep the files: there are [`PlaceholderSize::COUNT`] of each format.

use super::encode::encode;
use super::resize::Raster;
use super::{EncodeError, Quality, RenderError, Rung};
use crate::provenance::{Description, DigitalSource, Marking, Metadata, embed};
use crate::words::Format;

const LONGER_SIDE_PX: u32 = 32;

/// Two sRGB colours: top left and bottom right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Palette {
    pub from: [u8; 3],
    pub to: [u8; 3],
}

impl Default for Palette {
    /// Warm light greys that sit well beside any campaign.
    fn default() -> Self {
        Self { from: [0xec, 0xea, 0xe6], to: [0xcd, 0xc9, 0xc2] }
    }
}

/// The size of a placeholder's file: its longer side has [`LONGER_SIDE_PX`], so that all ratios together have few sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlaceholderSize {
    width_px: u32,
    height_px: u32,
}

impl PlaceholderSize {
    /// Every size there is.
    pub const COUNT: usize = 2 * LONGER_SIDE_PX as usize - 1;

    /// The nearest to the ratio of a rendition's sides; a side of zero counts as one.
    #[must_use]
    pub fn of(width_px: u32, height_px: u32) -> Self {
        let (width, height) = (u64::from(width_px.max(1)), u64::from(height_px.max(1)));
        let longer = width.max(height);
        #[allow(clippy::cast_possible_truncation, reason = "at most LONGER_SIDE_PX")]
        let scaled = |side: u64| ((side * u64::from(LONGER_SIDE_PX) + longer / 2) / longer).max(1) as u32;
        Self { width_px: scaled(width), height_px: scaled(height) }
    }

    /// Below [`Self::COUNT`], another one for each size.
    #[must_use]
    pub const fn index(self) -> usize {
        // One side is always the longest there is: the other one and its place tell.
        if self.width_px == LONGER_SIDE_PX {
            self.height_px as usize - 1
        } else {
            (LONGER_SIDE_PX + self.width_px) as usize - 1
        }
    }
}

impl std::fmt::Display for PlaceholderSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width_px, self.height_px)
    }
}

/// The file of a placeholder, not marked yet. Takes milliseconds; equal inputs give equal bytes.
///
/// # Errors
/// When the encoder fails.
pub fn placeholder(palette: Palette, size: PlaceholderSize, format: Format) -> Result<Vec<u8>, EncodeError> {
    encode(&gradient(palette, size), format, Quality::HIGH, Rung::Final).map(|found| found.file)
}

/// The file with a campaign's marking. Takes microseconds.
///
/// # Errors
/// When the marking does not fit.
pub fn mark_placeholder(
    file: &[u8],
    format: Format,
    size: PlaceholderSize,
    marking: &Marking,
) -> Result<Vec<u8>, RenderError> {
    let description = Description::new(marking.clone(), DigitalSource::AlgorithmicMedia);
    Ok(embed(file, &Metadata::of(format, (size.width_px, size.height_px), &description, None, None))?)
}

fn gradient(palette: Palette, PlaceholderSize { width_px, height_px }: PlaceholderSize) -> Raster {
    let mut rgb = Vec::with_capacity((width_px * height_px * 3) as usize);
    for y in 0..height_px {
        for x in 0..width_px {
            // From 0 at the first to 1 at the last pixel, eased so that neither end shows an edge.
            #[allow(clippy::cast_precision_loss, reason = "at most 64")]
            let along = (x + y) as f32 / (width_px + height_px - 2).max(1) as f32;
            let eased = along * along * (3.0 - 2.0 * along);
            rgb.extend(std::array::from_fn::<u8, 3, _>(|i| mix(palette.from[i], palette.to[i], eased)));
        }
    }
    Raster { width_px, height_px, rgb }
}

/// A mix in sRGB code values, which are close to perceptually even: the gradient looks even too.
fn mix(from: u8, to: u8, share: f32) -> u8 {
    let mixed = f32::from(from) + (f32::from(to) - f32::from(from)) * share;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
    let mixed = mixed.round() as u8;
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_the_palette_and_the_ratio_is_kept() {
        let palette = Palette { from: [0, 128, 255], to: [255, 128, 0] };
        let wide = gradient(palette, PlaceholderSize::of(1344, 768));
        assert_eq!((wide.width_px, wide.height_px), (32, 18));
        assert_eq!(wide.rgb[..3], palette.from);
        assert_eq!(wide.rgb[wide.rgb.len() - 3..], palette.to);
        assert_eq!(gradient(palette, PlaceholderSize::of(1, u32::MAX)).width_px, 1);
        assert_eq!(gradient(palette, PlaceholderSize::of(0, 0)).rgb.len(), 32 * 32 * 3);
    }

    #[test]
    fn sizes_are_few_and_each_has_an_index_of_its_own() {
        let ratios = (1..=32).flat_map(|side| [(32, side), (side, 32)]);
        let sizes: std::collections::HashSet<_> =
            ratios.map(|(width, height)| PlaceholderSize::of(width, height)).collect();
        let indices: std::collections::BTreeSet<_> = sizes.iter().map(|size| size.index()).collect();
        assert_eq!((sizes.len(), indices.len()), (PlaceholderSize::COUNT, PlaceholderSize::COUNT));
        assert_eq!(indices.last(), Some(&(PlaceholderSize::COUNT - 1)));
        assert_eq!(PlaceholderSize::of(320, 240), PlaceholderSize::of(640, 480), "a ladder shares one");
    }

    /// All there are, for the last stand-in must not fail: small, marked as made by a program, and repeatable.
    #[test]
    fn every_placeholder_can_be_made() {
        let marking = Marking { creator: Some("Studio".into()), ..Marking::default() };
        for format in Format::ALL {
            for (width, height) in (1..=32).flat_map(|side| [(32, side), (side, 32)]) {
                let size = PlaceholderSize::of(width, height);
                let file = placeholder(Palette::default(), size, format).expect("a small gradient");
                let marked = mark_placeholder(&file, format, size, &marking).expect("room for a marking");
                assert!(marked.len() < 3000, "{size} as {format:?} has {} bytes", marked.len());
                let xmp = crate::provenance::xmp_of(format, &marked).expect("well-formed").expect("marked");
                assert!(String::from_utf8_lossy(xmp).contains("digitalsourcetype/algorithmicMedia"));
            }
            let size = PlaceholderSize::of(16, 9);
            let once = || placeholder(Palette::default(), size, format).expect("a small gradient");
            assert_eq!(once(), once());
        }
    }
}
