//! Cover crop: the largest part of a master with the rendition's ratio, in its middle or elsewhere. Pure arithmetic.
//!
//! The box lies on whole pixels, so that a rendition as large as its crop is a copy and never a half-pixel blur:
//! the full side stays, the other is rounded to the nearest pixel (at least one), and the cut is halved with the odd
//! pixel taken from the far edge. The ratio is thereby off by at most half a pixel of the master.

/// A part of a master in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    pub left_px: u32,
    pub top_px: u32,
    pub width_px: u32,
    pub height_px: u32,
}

impl CropBox {
    /// The centred box of a `width_px` × `height_px` master that covers a `target` of another ratio.
    /// All four sides must be at least 1.
    #[must_use]
    pub fn cover(width_px: u32, height_px: u32, target_width_px: u32, target_height_px: u32) -> Self {
        Self::cover_at(width_px, height_px, target_width_px, target_height_px, (500, 500))
    }

    /// The same box with its middle as near as it goes to a place, in thousandths of the master's sides.
    #[must_use]
    pub fn cover_at(
        width_px: u32,
        height_px: u32,
        target_width_px: u32,
        target_height_px: u32,
        (x, y): (u16, u16),
    ) -> Self {
        let (w, h) = (u64::from(width_px), u64::from(height_px));
        let (tw, th) = (u64::from(target_width_px), u64::from(target_height_px));
        // Compare w/h with tw/th without dividing.
        let (crop_width, crop_height) = if w * th > tw * h {
            (round_div(h * tw, th).clamp(1, w), h)
        } else {
            (w, round_div(w * th, tw).clamp(1, h))
        };
        #[allow(clippy::cast_possible_truncation, reason = "every value is at most a side of the master")]
        let px = |value: u64| value as u32;
        Self {
            left_px: px(start(w, crop_width, x)),
            top_px: px(start(h, crop_height, y)),
            width_px: px(crop_width),
            height_px: px(crop_height),
        }
    }
}

/// Where a stretch of `length` starts so that its middle is nearest to a place of `side`, rounded down.
const fn start(side: u64, length: u64, place_thousandths: u16) -> u64 {
    let start = (side * 2 * place_thousandths as u64).saturating_sub(length * 1000) / 2000;
    if start > side - length { side - length } else { start }
}

/// Rounds half up.
const fn round_div(numerator: u64, denominator: u64) -> u64 {
    (numerator + denominator / 2) / denominator
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_boxes() {
        let of = CropBox::cover;
        assert_eq!(of(192, 192, 640, 640), CropBox { left_px: 0, top_px: 0, width_px: 192, height_px: 192 });
        assert_eq!(of(192, 192, 640, 360), CropBox { left_px: 0, top_px: 42, width_px: 192, height_px: 108 });
        assert_eq!(of(192, 192, 360, 640), CropBox { left_px: 42, top_px: 0, width_px: 108, height_px: 192 });
        // 192 · 3/2 … 101.05 → 101 rows, 91 left over: 45 above, 46 below.
        assert_eq!(of(192, 192, 1900, 1000), CropBox { left_px: 0, top_px: 45, width_px: 192, height_px: 101 });
        // 171.5 columns, rounded up.
        assert_eq!(of(173, 77, 7987, 3586), CropBox { left_px: 0, top_px: 0, width_px: 172, height_px: 77 });
        assert_eq!(of(8, 8, 8192, 1), CropBox { left_px: 0, top_px: 3, width_px: 8, height_px: 1 });
    }

    #[test]
    fn a_place_pulls_the_box_as_far_as_the_master_goes() {
        let at = |x, y| {
            let found = CropBox::cover_at(300, 100, 100, 100, (x, y));
            (found.left_px, found.top_px)
        };
        for (x, left_px) in [(0, 0), (100, 0), (166, 0), (250, 25), (500, 100), (700, 160), (834, 200), (1000, 200)] {
            assert_eq!(at(x, 0), (left_px, 0), "{x}");
            assert_eq!(at(x, 1000), (left_px, 0), "{x}");
        }
    }

    proptest! {
        #[test]
        fn a_place_moves_the_box_and_changes_nothing_else(
            (w, h, tw, th) in (1_u32..4097, 1_u32..4097, 1_u32..8193, 1_u32..8193), x in 0_u16..=1000, y in 0_u16..=1000,
        ) {
            let (centred, moved) = (CropBox::cover(w, h, tw, th), CropBox::cover_at(w, h, tw, th, (x, y)));
            prop_assert_eq!((centred.width_px, centred.height_px), (moved.width_px, moved.height_px));
            prop_assert!(moved.left_px + moved.width_px <= w && moved.top_px + moved.height_px <= h);
            prop_assert_eq!(CropBox::cover_at(w, h, tw, th, (500, 500)), centred);
        }

        #[test]
        fn the_box_lies_inside_touches_two_edges_and_keeps_the_ratio(
            w in 1_u32..4097, h in 1_u32..4097, tw in 1_u32..8193, th in 1_u32..8193,
        ) {
            let crop = CropBox::cover(w, h, tw, th);
            prop_assert!(crop.width_px >= 1 && crop.left_px + crop.width_px <= w);
            prop_assert!(crop.height_px >= 1 && crop.top_px + crop.height_px <= h);
            prop_assert!(crop.width_px == w || crop.height_px == h);
            // In whole numbers: a quotient of floats is a little more than half a pixel off where it is just that.
            let [w, h, tw, th] = [w, h, tw, th].map(u64::from);
            let is_nearest = |cut: u32, numerator: u64, denominator: u64| {
                (u64::from(cut) * denominator).abs_diff(numerator.max(denominator)) * 2 <= denominator
            };
            // Where rounding fills both sides, either may be the one that was computed.
            let width_fits = u64::from(crop.height_px) == h && is_nearest(crop.width_px, h * tw, th);
            let height_fits = u64::from(crop.width_px) == w && is_nearest(crop.height_px, w * th, tw);
            prop_assert!(width_fits || height_fits, "{crop:?} is off by more than half a pixel");
        }
    }
}
