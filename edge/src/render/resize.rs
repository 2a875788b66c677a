//! Resizing in linear light.
//!
//! Averaging sRGB code values darkens fine detail, because they are not proportional to light. So samples are mapped
//! to 16-bit linear light, convolved there and mapped back. Lanczos (3 lobes) when shrinking, Catmull-Rom when
//! enlarging: its overshoot is milder where ringing would be magnified. Everything runs on the calling thread.

use std::sync::LazyLock;

use bildkante_shared::pixels::Pixels;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelComponentMapper, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::crop::CropBox;

static SRGB_LINEAR: LazyLock<PixelComponentMapper> = LazyLock::new(fast_image_resize::create_srgb_mapper);

/// Interleaved 8-bit sRGB of a rendition's size, on its way to an encoder. Renditions may be larger than masters,
/// so this is not `Pixels`.
#[derive(Clone, PartialEq, Eq)]
pub struct Raster {
    pub width_px: u32,
    pub height_px: u32,
    pub rgb: Vec<u8>,
}

impl std::fmt::Debug for Raster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raster({}×{})", self.width_px, self.height_px)
    }
}

impl Raster {
    /// The picture in the middle of a `canvas` of one colour, no side of which is shorter than its own; the odd pixel
    /// is at the far edge.
    #[must_use]
    pub fn padded(self, canvas: (u32, u32), background: [u8; 3]) -> Self {
        let (width_px, height_px) = canvas;
        if (self.width_px, self.height_px) == canvas {
            return self;
        }
        let mut rgb = background.repeat(width_px as usize * height_px as usize);
        let left = (width_px.saturating_sub(self.width_px) / 2) as usize * 3;
        let top = (height_px.saturating_sub(self.height_px) / 2) as usize;
        let rows = rgb.chunks_exact_mut(width_px as usize * 3).skip(top);
        for (row, picture) in rows.zip(self.rgb.chunks_exact(self.width_px as usize * 3)) {
            if let Some(place) = row.get_mut(left..left + picture.len()) {
                place.copy_from_slice(picture);
            }
        }
        Self { width_px, height_px, rgb }
    }
}

/// The library refused sizes that were checked before: a bug, reported and not raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resizing failed: {0}")]
pub struct ResizeError(String);

/// `crop` of the master at `width_px` × `height_px`. A crop of exactly that size is copied bit for bit.
///
/// # Errors
/// When the crop does not lie inside the master.
pub fn resize(master: &Pixels, crop: CropBox, width_px: u32, height_px: u32) -> Result<Raster, ResizeError> {
    scaled(cut(master, crop)?, (crop.width_px, crop.height_px), (width_px, height_px))
}

/// Interleaved 8-bit sRGB in another size.
pub(super) fn scaled(rgb: Vec<u8>, from: (u32, u32), to: (u32, u32)) -> Result<Raster, ResizeError> {
    let (width_px, height_px) = to;
    if from == to {
        return Ok(Raster { width_px, height_px, rgb });
    }
    let source = ImageRef::new(from.0, from.1, &rgb, PixelType::U8x3).map_err(failed)?;
    let mut linear = Image::new(from.0, from.1, PixelType::U16x3);
    SRGB_LINEAR.forward_map(&source, &mut linear).map_err(failed)?;
    drop(rgb);

    let is_larger = width_px > from.0 || height_px > from.1;
    let filter = if is_larger { FilterType::CatmullRom } else { FilterType::Lanczos3 };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut resized = Image::new(width_px, height_px, PixelType::U16x3);
    Resizer::new().resize(&linear, &mut resized, &options).map_err(failed)?;
    drop(linear);

    let mut out = Image::new(width_px, height_px, PixelType::U8x3);
    SRGB_LINEAR.backward_map(&resized, &mut out).map_err(failed)?;
    Ok(Raster { width_px, height_px, rgb: out.into_vec() })
}

/// The crop's rows, copied.
fn cut(master: &Pixels, crop: CropBox) -> Result<Vec<u8>, ResizeError> {
    let is_inside = |start: u32, length: u32, side: u32| start.checked_add(length).is_some_and(|end| end <= side);
    if !is_inside(crop.left_px, crop.width_px, master.width_px())
        || !is_inside(crop.top_px, crop.height_px, master.height_px())
    {
        return Err(ResizeError(format!("{crop:?} is not inside {master:?}")));
    }
    let row_bytes = master.width_px() as usize * 3;
    let columns = crop.left_px as usize * 3..(crop.left_px + crop.width_px) as usize * 3;
    let rows = master.rgb().chunks_exact(row_bytes).skip(crop.top_px as usize).take(crop.height_px as usize);
    Ok(rows.flat_map(|row| &row[columns.clone()]).copied().collect())
}

fn failed(cause: impl std::fmt::Display) -> ResizeError {
    ResizeError(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(width_px: u32, height_px: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Pixels {
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| colour(x, y));
        Pixels::new(width_px, height_px, rgb.collect()).expect("a small image")
    }

    fn to(master: &Pixels, width_px: u32, height_px: u32) -> Raster {
        let crop = CropBox::cover(master.width_px(), master.height_px(), width_px, height_px);
        resize(master, crop, width_px, height_px).expect("a crop inside")
    }

    #[test]
    fn half_the_light_is_188_and_not_128() {
        let checkers = pixels(64, 64, |x, y| if (x + y) % 2 == 0 { [255; 3] } else { [0; 3] });
        let small = to(&checkers, 16, 16);
        // sRGB of 0.5 linear light is 187.5. Away from the border, where the pattern is cut off.
        for y in 4..12 {
            for x in 4..12 {
                let value = small.rgb[(y * 16 + x) * 3];
                assert!((186..=190).contains(&value), "{value} at {x},{y}");
            }
        }
    }

    #[test]
    fn every_flat_grey_survives_both_directions_exactly() {
        for value in 0..=255 {
            let flat = pixels(12, 12, |_, _| [value, 255 - value, value / 2]);
            for (w, h) in [(5, 5), (24, 24), (12, 7)] {
                let out = to(&flat, w, h);
                assert!(out.rgb.chunks_exact(3).all(|px| px == [value, 255 - value, value / 2]), "{value} at {w}×{h}");
            }
        }
    }

    #[test]
    fn a_crop_of_the_right_size_is_copied() {
        let master = pixels(8, 6, |x, y| [x as u8, y as u8, 9]);
        let out = to(&master, 4, 6);
        assert_eq!(&out.rgb[..12], [2, 0, 9, 3, 0, 9, 4, 0, 9, 5, 0, 9]);
    }

    #[test]
    fn padding_is_around_the_picture_and_leaves_it_as_it_is() {
        let picture = Raster { width_px: 2, height_px: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        let out = picture.clone().padded((5, 2), [9, 8, 7]);
        let row = [[9, 8, 7], [1, 2, 3], [4, 5, 6], [9, 8, 7], [9, 8, 7]].concat();
        assert_eq!((out.width_px, out.height_px), (5, 2));
        assert_eq!(out.rgb, [row, [9, 8, 7].repeat(5)].concat());
        assert_eq!(picture.clone().padded((2, 1), [0; 3]), picture);
    }

    #[test]
    fn a_crop_outside_is_an_error() {
        let master = pixels(8, 8, |_, _| [0; 3]);
        let outside = CropBox { left_px: 1, top_px: 0, width_px: 8, height_px: 8 };
        assert!(resize(&master, outside, 4, 4).is_err());
    }
}
