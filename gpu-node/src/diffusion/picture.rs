//! Images a recipe begins with or is held to.
//!
//! They have the picture's size: nothing here resamples, so a digest fixes every value. A PNG of eight bits, as masters
//! are; grey ones count as coloured, transparency is dropped. Source of the numbers: diffusers 0.42,
//! `image_processor.py` (`VaeImageProcessor`), and Pillow's conversion to grey.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::limits;
use image::{ImageFormat, ImageReader, Limits};
use tch::{Kind, TchError, Tensor};

/// Most bytes a decoder may allocate: a 16-bit RGBA picture of the largest master, twice.
const DECODE_BYTES_MAX: u64 = 16 * limits::MASTER_AREA_PX_MAX;

/// Why bytes are no picture that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("it is no PNG that can be read: {0}")]
    Decode(#[from] image::ImageError),
    #[error(
        "it has {width_px}×{height_px} px, at most {} a side and {} in all are allowed",
        limits::MASTER_SIDE_PX_MAX,
        limits::MASTER_AREA_PX_MAX
    )]
    Size { width_px: u32, height_px: u32 },
}

/// Pictures by the digest of their file.
pub type Pictures = HashMap<Digest, Arc<Picture>>;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width_px: u32,
    height_px: u32,
    rgb: Vec<u8>,
}

impl Picture {
    /// # Errors
    /// When the bytes are no PNG or the picture is too large.
    pub fn decode(png: &[u8]) -> Result<Self, PictureError> {
        let mut reader = ImageReader::with_format(Cursor::new(png), ImageFormat::Png);
        let mut bounds = Limits::default();
        bounds.max_image_width = Some(limits::MASTER_SIDE_PX_MAX);
        bounds.max_image_height = Some(limits::MASTER_SIDE_PX_MAX);
        bounds.max_alloc = Some(DECODE_BYTES_MAX);
        reader.limits(bounds);
        let rgb = reader.decode()?.into_rgb8();
        let (width_px, height_px) = rgb.dimensions();
        if u64::from(width_px) * u64::from(height_px) > limits::MASTER_AREA_PX_MAX {
            return Err(PictureError::Size { width_px, height_px });
        }
        Ok(Self { width_px, height_px, rgb: rgb.into_raw() })
    }

    /// A grey picture, all of one value.
    #[must_use]
    pub fn flat((width_px, height_px): (u32, u32), value: u8) -> Self {
        let bytes = width_px as usize * height_px as usize * 3;
        Self { width_px, height_px, rgb: vec![value; bytes] }
    }

    /// What a checkpoint that paints into images is tried with: a grey image and a white mask, and digests that no file
    /// has.
    #[must_use]
    pub fn to_paint_over(size_px: (u32, u32)) -> [(Digest, Self); 2] {
        [128, 255].map(|value| {
            let name = format!("a picture of {}×{} px, all {value}", size_px.0, size_px.1);
            (Digest::of_bytes(name.as_bytes()), Self::flat(size_px, value))
        })
    }

    #[must_use]
    pub const fn size_px(&self) -> (u32, u32) {
        (self.width_px, self.height_px)
    }

    /// `[1, 3, h, w]`, 0 to 1, on the CPU.
    pub(super) fn unit(&self) -> Result<Tensor, TchError> {
        let shape = [1, i64::from(self.height_px), i64::from(self.width_px), 3];
        let bytes = Tensor::f_from_data_size(&self.rgb, &shape, Kind::Uint8)?;
        bytes.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)
    }

    /// `[1, 3, h, w]`, -1 to 1, on the CPU.
    pub(super) fn signed(&self) -> Result<Tensor, TchError> {
        self.unit()?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)
    }

    /// `[1, 1, h, w]`, 1 where it is at least half white and 0 elsewhere, on the CPU.
    pub(super) fn mask(&self) -> Result<Tensor, TchError> {
        // ITU-R 601-2 as Pillow computes it, in 16 bits behind the point.
        let grey = |rgb: &[u8]| {
            (u32::from(rgb[0]) * 19_595 + u32::from(rgb[1]) * 38_470 + u32::from(rgb[2]) * 7_471 + 0x8000) >> 16
        };
        let values: Vec<f32> = self.rgb.chunks_exact(3).map(|rgb| f32::from(u8::from(grey(rgb) >= 128))).collect();
        Tensor::f_from_slice(&values)?.f_view([1, 1, i64::from(self.height_px), i64::from(self.width_px)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, color: image::ExtendedColorType, bytes: &[u8]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut out, bytes, width, height, color, ImageFormat::Png).expect("a PNG");
        out.into_inner()
    }

    #[test]
    fn grey_and_coloured_pictures_become_numbers() {
        let grey = Picture::decode(&png(2, 1, image::ExtendedColorType::L8, &[127, 128])).expect("a picture");
        assert_eq!(Vec::<f32>::try_from(grey.mask().expect("a mask").flatten(0, -1)).expect("numbers"), [0.0, 1.0]);
        let red = Picture::decode(&png(1, 1, image::ExtendedColorType::Rgba8, &[255, 0, 0, 7])).expect("a picture");
        let signed = Vec::<f32>::try_from(red.signed().expect("numbers").flatten(0, -1)).expect("numbers");
        assert_eq!(signed, [1.0, -1.0, -1.0]);
        assert_eq!(red.size_px(), (1, 1));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for bytes in [&b""[..], b"GIF89a", &[0x89, b'P', b'N', b'G', 13, 10, 26, 10]] {
            assert!(matches!(Picture::decode(bytes), Err(PictureError::Decode(_))));
        }
        let wide = png(8192, 1, image::ExtendedColorType::L8, &vec![0; 8192]);
        assert!(Picture::decode(&wide).is_err());
    }
}
