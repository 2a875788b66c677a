//! How a master fills a rendition: cut, whole or padded. Pure arithmetic in whole pixels.
//!
//! A shape has one spelling: [`Shape::normal`] turns every shape that would give the same picture as the default into
//! the default, so that two URLs of one picture share its key.

use std::fmt;

use super::crop::CropBox;

/// How the master's pixels come into a rendition of another ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The largest part of the master with the rendition's ratio, as near to the anchor as it goes.
    Cut(Anchor),
    /// The whole master. The rendition has its ratio, to half a pixel.
    Whole,
    /// The whole master in the middle, as large as it goes, and a colour around it.
    Padded { background: [u8; 3] },
    /// The same, but never enlarged: where the rendition is larger on both sides, the master keeps its size.
    PaddedSmall { background: [u8; 3] },
}

/// Which part a cut keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// The part whose middle is nearest to this place, in thousandths of the master's sides: an edge is 0 or 1000.
    Point { x: u16, y: u16 },
    /// The part that holds most information: see `entropy`.
    Entropy,
}

impl Anchor {
    pub const CENTER: Self = Self::Point { x: 500, y: 500 };
}

impl Default for Shape {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bytes of [`Shape::code`].
pub const SHAPE_CODE_BYTES: usize = 8;

impl Shape {
    /// What slots do by themselves.
    pub const DEFAULT: Self = Self::Cut(Anchor::CENTER);

    /// The spelling of this shape for a master of `source` and a rendition of `canvas` pixels.
    #[must_use]
    pub fn normal(self, source: (u32, u32), canvas: (u32, u32)) -> Self {
        if let Self::PaddedSmall { background } = self {
            let is_small = canvas.0 > source.0 && canvas.1 > source.1;
            return if is_small { self } else { Self::Padded { background }.normal(source, canvas) };
        }
        let cut = CropBox::cover(source.0, source.1, canvas.0, canvas.1);
        if (cut.width_px, cut.height_px) == source {
            return Self::DEFAULT;
        }
        match self {
            Self::Cut(Anchor::Point { x, y }) => Self::Cut(Anchor::Point {
                x: if cut.width_px == source.0 { 500 } else { x },
                y: if cut.height_px == source.1 { 500 } else { y },
            }),
            Self::Padded { .. } if fit_inside(source, canvas) == canvas => Self::Whole,
            shape => shape,
        }
    }

    /// How a shape is written in keys and in files: never renumber. Different shapes have different codes.
    #[must_use]
    pub const fn code(self) -> [u8; SHAPE_CODE_BYTES] {
        match self {
            Self::Cut(Anchor::Point { x, y }) => {
                let ([x, x_high], [y, y_high]) = (x.to_le_bytes(), y.to_le_bytes());
                [1, x, x_high, y, y_high, 0, 0, 0]
            }
            Self::Cut(Anchor::Entropy) => [2, 0, 0, 0, 0, 0, 0, 0],
            Self::Whole => [3, 0, 0, 0, 0, 0, 0, 0],
            Self::Padded { background: [red, green, blue] } => [4, red, green, blue, 0, 0, 0, 0],
            Self::PaddedSmall { background: [red, green, blue] } => [5, red, green, blue, 0, 0, 0, 0],
        }
    }

    /// The shape of a code.
    #[must_use]
    pub fn from_code(code: [u8; SHAPE_CODE_BYTES]) -> Option<Self> {
        let [kind, a, b, c, d, ..] = code;
        let shape = match kind {
            1 => Self::Cut(Anchor::Point { x: u16::from_le_bytes([a, b]), y: u16::from_le_bytes([c, d]) }),
            2 => Self::Cut(Anchor::Entropy),
            3 => Self::Whole,
            4 => Self::Padded { background: [a, b, c] },
            5 => Self::PaddedSmall { background: [a, b, c] },
            _ => return None,
        };
        (shape.code() == code).then_some(shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(Anchor::Point { x, y }) => write!(f, "cut at {x}‰, {y}‰"),
            Self::Cut(Anchor::Entropy) => f.write_str("cut where most is to be seen"),
            Self::Whole => f.write_str("whole"),
            Self::Padded { background: [red, green, blue] } => write!(f, "padded with {red:02x}{green:02x}{blue:02x}"),
            Self::PaddedSmall { background: [red, green, blue] } => {
                write!(f, "not enlarged, padded with {red:02x}{green:02x}{blue:02x}")
            }
        }
    }
}

/// The largest size with the ratio of `source` inside `canvas`, rounded to whole pixels, at least 1 × 1. All sides are
/// at least 1.
#[must_use]
pub fn fit_inside(source: (u32, u32), canvas: (u32, u32)) -> (u32, u32) {
    let (sw, sh) = (u64::from(source.0), u64::from(source.1));
    let (cw, ch) = (u64::from(canvas.0), u64::from(canvas.1));
    let scaled = |side: u64, by: u64, of: u64, most: u64| ((side * by + of / 2) / of).clamp(1, most);
    #[allow(clippy::cast_possible_truncation, reason = "at most a side of the canvas")]
    let px = |value: u64| value as u32;
    if sw * ch >= sh * cw { (canvas.0, px(scaled(sh, cw, sw, ch))) } else { (px(scaled(sw, ch, sh, cw)), canvas.1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            (0u16..=1000, 0u16..=1000).prop_map(|(x, y)| Shape::Cut(Anchor::Point { x, y })),
            Just(Shape::Cut(Anchor::Entropy)),
            Just(Shape::Whole),
            any::<[u8; 3]>().prop_map(|background| Shape::Padded { background }),
            any::<[u8; 3]>().prop_map(|background| Shape::PaddedSmall { background }),
        ]
    }

    #[test]
    fn what_changes_nothing_is_the_default() {
        let edge = |x, y| Shape::Cut(Anchor::Point { x, y });
        let black = Shape::Padded { background: [0; 3] };
        let small = Shape::PaddedSmall { background: [0; 3] };
        for (shape, canvas, normal) in [
            (edge(0, 0), (100, 100), edge(0, 500)),
            (edge(0, 0), (200, 50), edge(500, 0)),
            (edge(0, 0), (400, 200), Shape::DEFAULT),
            (Shape::Cut(Anchor::Entropy), (100, 50), Shape::DEFAULT),
            (Shape::Cut(Anchor::Entropy), (100, 51), Shape::Cut(Anchor::Entropy)),
            (Shape::Whole, (100, 50), Shape::DEFAULT),
            (black, (100, 50), Shape::DEFAULT),
            (black, (100, 100), black),
            (small, (100, 100), black),
            (small, (300, 100), black),
            (small, (100, 50), Shape::DEFAULT),
            (small, (200, 100), Shape::DEFAULT),
            (small, (400, 200), small),
            (small, (201, 101), small),
        ] {
            assert_eq!(shape.normal((200, 100), canvas), normal, "{shape} in {canvas:?}");
        }
        // 1344 × 768 inside 100 × 57: no colour is seen, but all of the master, which a cut would not show.
        assert_eq!(black.normal((1344, 768), (100, 57)), Shape::Whole);
        assert_eq!(fit_inside((1344, 768), (100, 100)), (100, 57));
        assert_eq!(fit_inside((3, 4000), (100, 1)), (1, 1));
    }

    proptest! {
        #[test]
        fn codes_come_back_and_differ(a in any_shape(), b in any_shape(), noise: [u8; SHAPE_CODE_BYTES]) {
            prop_assert_eq!(Shape::from_code(a.code()), Some(a));
            prop_assert_eq!(a == b, a.code() == b.code());
            if let Some(shape) = Shape::from_code(noise) {
                prop_assert_eq!(shape.code(), noise);
            }
        }

        #[test]
        fn a_fitted_picture_touches_two_edges_and_keeps_its_ratio(
            sw in 1_u32..4097, sh in 1_u32..4097, cw in 1_u32..8193, ch in 1_u32..8193,
        ) {
            let (w, h) = fit_inside((sw, sh), (cw, ch));
            prop_assert!(w >= 1 && h >= 1 && w <= cw && h <= ch && (w == cw || h == ch));
            // In whole numbers: a tie of half a pixel is no half in floating point. The other side is within half a pixel
            // of `by` · `to` / `of`, or of 1 where that is less.
            let (sw, sh, cw, ch) = (u64::from(sw), u64::from(sh), u64::from(cw), u64::from(ch));
            let is_near = |got: u32, by: u64, to: u64, of: u64| 2 * (u64::from(got) * of).abs_diff((by * to).max(of)) <= of;
            let by_width = u64::from(w) == cw && is_near(h, sh, cw, sw);
            let by_height = u64::from(h) == ch && is_near(w, sw, ch, sh);
            prop_assert!(by_width || by_height, "{w}×{h} of {sw}×{sh} in {cw}×{ch}");
        }

        #[test]
        fn normal_is_stable(shape in any_shape(), s in (1u32..2049, 1u32..2049), c in (1u32..4097, 1u32..4097)) {
            let normal = shape.normal(s, c);
            prop_assert_eq!(normal.normal(s, c), normal);
        }
    }
}
