//! How a picture is cut and turned behind its decoder, as its file says (HEIF §6.5.9–6.5.12).

use image::DynamicImage;

use crate::octets::Reader;

/// What is done to the decoded picture, in the file's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Cut {
        left: u32,
        top: u32,
        width_px: u32,
        height_px: u32,
    },
    /// By so many quarters, counter-clockwise.
    Rotate(u8),
    UpsideDown,
    Mirror,
}

impl Turn {
    pub(super) fn applied(self, picture: DynamicImage) -> DynamicImage {
        match self {
            Self::Cut { left, top, width_px, height_px } if self.is_within((picture.width(), picture.height())) => {
                picture.crop_imm(left, top, width_px, height_px)
            }
            Self::Rotate(1) => picture.rotate270(),
            Self::Rotate(2) => picture.rotate180(),
            Self::Rotate(3) => picture.rotate90(),
            Self::UpsideDown => picture.flipv(),
            Self::Mirror => picture.fliph(),
            Self::Cut { .. } | Self::Rotate(_) => picture,
        }
    }

    /// What `applied` makes of a size.
    pub(super) fn sized(self, (width, height): (u32, u32)) -> (u32, u32) {
        match self {
            Self::Cut { width_px, height_px, .. } if self.is_within((width, height)) => (width_px, height_px),
            Self::Rotate(1 | 3) => (height, width),
            Self::Cut { .. } | Self::Rotate(_) | Self::UpsideDown | Self::Mirror => (width, height),
        }
    }

    /// A cut that does not lie in the picture is none.
    fn is_within(self, (width, height): (u32, u32)) -> bool {
        let Self::Cut { left, top, width_px, height_px } = self else { return true };
        u64::from(left) + u64::from(width_px) <= u64::from(width)
            && u64::from(top) + u64::from(height_px) <= u64::from(height)
    }
}

/// `clap`: width, height and the offset of the centre from the picture's, each as a fraction.
pub(super) fn cut(body: &[u8], size_px: (u32, u32)) -> Option<Turn> {
    let mut reader = Reader::new(body);
    let mut fraction = || {
        let (over, under) = (reader.u32().ok()?.cast_signed(), reader.u32().ok()?);
        (under != 0).then(|| f64::from(over) / f64::from(under))
    };
    let (width, height, right, down) = (fraction()?, fraction()?, fraction()?, fraction()?);
    let whole = |value: f64| (0.0..4_294_967_295.0).contains(&value).then(|| value.round() as u32);
    let left = whole((f64::from(size_px.0) - width) / 2.0 + right)?;
    let top = whole((f64::from(size_px.1) - height) / 2.0 + down)?;
    let (width_px, height_px) = (whole(width)?, whole(height)?);
    (width_px > 0 && height_px > 0).then_some(Turn::Cut { left, top, width_px, height_px })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn a_cut_lies_where_its_centre_is_moved_to() {
        let fields = |fields: [i32; 8]| fields.iter().flat_map(|field| field.to_be_bytes()).collect::<Vec<u8>>();
        let middle = cut(&fields([32, 1, 16, 1, 0, 1, 0, 1]), (64, 48));
        assert_eq!(middle, Some(Turn::Cut { left: 16, top: 16, width_px: 32, height_px: 16 }));
        let corner = cut(&fields([32, 1, 16, 1, -16, 1, -32, 2]), (64, 48));
        assert_eq!(corner, Some(Turn::Cut { left: 0, top: 0, width_px: 32, height_px: 16 }));
        assert_eq!(cut(&fields([32, 0, 16, 1, 0, 1, 0, 1]), (64, 48)), None);
        let outside = Turn::Cut { left: 60, top: 0, width_px: 32, height_px: 16 };
        assert_eq!(outside.sized((64, 48)), (64, 48));
        assert_eq!(outside.applied(DynamicImage::new_rgb8(64, 48)).width(), 64);
    }

    #[test]
    fn turns_are_counter_clockwise_and_sizes_follow() {
        let mut picture = RgbImage::new(2, 1);
        picture.put_pixel(0, 0, Rgb([255, 0, 0]));
        let picture = DynamicImage::ImageRgb8(picture);
        let red = |turn: Turn, at: (u32, u32)| {
            let turned = turn.applied(picture.clone()).into_rgb8();
            assert_eq!(turned.dimensions(), turn.sized((2, 1)), "{turn:?}");
            turned.get_pixel(at.0, at.1).0 == [255, 0, 0]
        };
        assert!(red(Turn::Rotate(0), (0, 0)) && red(Turn::Rotate(1), (0, 1)) && red(Turn::Rotate(2), (1, 0)));
        assert!(red(Turn::Rotate(3), (0, 0)) && red(Turn::Mirror, (1, 0)) && red(Turn::UpsideDown, (0, 0)));
    }
}
