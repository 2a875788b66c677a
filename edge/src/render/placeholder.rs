//! The picture shown while there is none: a soft gradient of two colours, 32 px on its longer side.
//!
//! It needs no master and no node. Browsers scale it up smoothly. It is made by a program and by no model, and its
//! marking says so (`algorithmicMedia`). Equal inputs give equal bytes; callers keep them.

use super::encode::encode;
use super::resize::Raster;
use super::{Encoded, Quality, RenderError, Rung, finish};
use crate::negotiate::Format;
use crate::provenance::{DigitalSource, Marking};
use std::time::Instant;

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

/// A placeholder with the ratio `ratio_width : ratio_height` (a slot's size will do), marked.
///
/// # Errors
/// When a side of the ratio is zero, or the encoder fails.
pub fn placeholder(
    palette: Palette,
    (ratio_width, ratio_height): (u32, u32),
    format: Format,
    marking: &Marking,
) -> Result<Encoded, RenderError> {
    if ratio_width == 0 || ratio_height == 0 {
        return Err(RenderError::Size { width_px: ratio_width, height_px: ratio_height });
    }
    let started = Instant::now();
    let raster = gradient(palette, ratio_width, ratio_height);
    let resize = started.elapsed();
    let started = Instant::now();
    let file = encode(&raster, format, Quality::HIGH, Rung::Final)?;
    let encode = started.elapsed();
    finish(file, format, Rung::Final, resize, encode, marking, DigitalSource::AlgorithmicMedia)
}

fn gradient(palette: Palette, ratio_width: u32, ratio_height: u32) -> Raster {
    let longer = u64::from(ratio_width.max(ratio_height));
    #[allow(clippy::cast_possible_truncation, reason = "at most LONGER_SIDE_PX")]
    let scaled = |side: u32| ((u64::from(side) * u64::from(LONGER_SIDE_PX) + longer / 2) / longer).max(1) as u32;
    let (width_px, height_px) = (scaled(ratio_width), scaled(ratio_height));
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
        let wide = gradient(palette, 1344, 768);
        assert_eq!((wide.width_px, wide.height_px), (32, 18));
        assert_eq!(wide.rgb[..3], palette.from);
        assert_eq!(wide.rgb[wide.rgb.len() - 3..], palette.to);
        assert_eq!(gradient(palette, 1, u32::MAX).width_px, 1);
        assert_eq!(gradient(palette, 1, 1).rgb.len(), 32 * 32 * 3);
    }

    #[test]
    fn every_format_is_small_marked_as_made_by_program_and_repeatable() {
        let marking = Marking { creator: Some("Studio".into()), ..Marking::default() };
        for format in Format::ALL {
            let once = placeholder(Palette::default(), (16, 9), format, &marking).expect("a small gradient");
            let again = placeholder(Palette::default(), (16, 9), format, &marking).expect("a small gradient");
            assert_eq!(once.bytes, again.bytes);
            assert!(once.bytes.len() < 3000, "{format:?} has {} bytes", once.bytes.len());
            let xmp = crate::provenance::xmp_of(format, &once.bytes).expect("well-formed").expect("marked");
            assert!(String::from_utf8_lossy(xmp).contains("digitalsourcetype/algorithmicMedia"));
        }
        assert!(placeholder(Palette::default(), (0, 9), Format::Jpeg, &marking).is_err());
    }
}
