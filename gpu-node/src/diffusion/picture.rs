//! Images a recipe begins with or is held to.
//!
//! One of another size than the picture's covers it: it is resampled, and what is left of it is cut away on both ends. So is one that a
//! network reads at a size of its own. Resampling is Pillow's, in whole numbers and in code values, so digest and size fix every value. A PNG of eight bits, as
//! masters are; grey ones count as coloured, transparency is dropped, and one that says how it is to be turned (`eXIf`) is
//! turned, as browsers and diffusers' `load_image` do. Source of the numbers: diffusers 0.42, `image_processor.py`
//! (`VaeImageProcessor`), and Pillow's conversion to grey and `exif_transpose`.

mod resample;

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use bildkante_shared::exif;
use bildkante_shared::ids::Digest;
use bildkante_shared::limits;
use bildkante_shared::pixels::Pixels;
use image::metadata::Orientation;
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

impl From<Pixels> for Picture {
    fn from(pixels: Pixels) -> Self {
        Self { width_px: pixels.width_px(), height_px: pixels.height_px(), rgb: pixels.rgb().to_vec() }
    }
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
        let mut image = reader.decode()?;
        if let Some(orientation) = exif::of_png(png).and_then(Orientation::from_exif_chunk) {
            image.apply_orientation(orientation);
        }
        let rgb = image.into_rgb8();
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

    /// Row by row, three bytes a pixel.
    #[must_use]
    pub(crate) fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The same at another size.
    #[must_use]
    pub(crate) fn resized(&self, (width_px, height_px): (u32, u32)) -> Self {
        let rgb = resample::resized(&self.rgb, self.size_px(), (width_px, height_px));
        Self { width_px, height_px, rgb }
    }

    /// The square in its middle, at this side: the shorter side is resampled to it, and what is left of the longer one cut away
    /// on both ends (`CLIPImageProcessor` of transformers 5).
    #[must_use]
    pub(crate) fn squared(&self, side_px: u32) -> Self {
        let shorter = u64::from(self.width_px.min(self.height_px)).max(1);
        let scaled = |px: u32| u32::try_from(u64::from(px) * u64::from(side_px) / shorter).unwrap_or(u32::MAX);
        let size = (scaled(self.width_px).max(side_px), scaled(self.height_px).max(side_px));
        self.resized(size).middle((side_px, side_px))
    }

    /// The same at the size of a picture that it is to cover: scaled until both sides reach it, rounded to whole pixels, and cut away on
    /// both ends of the side that is too long.
    #[must_use]
    pub(crate) fn covering(&self, (width_px, height_px): (u32, u32)) -> Self {
        let [own_width, own_height] = [self.width_px, self.height_px].map(u64::from);
        let [width, height] = [width_px, height_px].map(u64::from);
        let scaled =
            |own: u64, (side, by): (u64, u64)| u32::try_from((own * side + by / 2) / by.max(1)).unwrap_or(u32::MAX);
        // Whichever side needs the larger factor decides it.
        let factor = if width * own_height >= height * own_width { (width, own_width) } else { (height, own_height) };
        let size = (scaled(own_width, factor).max(width_px), scaled(own_height, factor).max(height_px));
        self.resized(size).middle((width_px, height_px))
    }

    /// What is in its middle, at most all of it.
    fn middle(&self, (width_px, height_px): (u32, u32)) -> Self {
        let [left, top] =
            [(self.width_px, width_px), (self.height_px, height_px)].map(|(own, kept)| ((own - kept) / 2) as usize);
        let (stride, width) = (self.width_px as usize * 3, width_px as usize);
        let rows = self.rgb.chunks_exact(stride).skip(top).take(height_px as usize);
        let rgb = rows.flat_map(|row| &row[left * 3..(left + width) * 3]).copied().collect();
        Self { width_px, height_px, rgb }
    }

    /// `[1, 3, h, w]`, 0 to 1, on the CPU.
    pub(crate) fn unit(&self) -> Result<Tensor, TchError> {
        let shape = [1, i64::from(self.height_px), i64::from(self.width_px), 3];
        let bytes = Tensor::f_from_data_size(&self.rgb, &shape, Kind::Uint8)?;
        bytes.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)
    }

    /// `[1, 3, h, w]`, -1 to 1, on the CPU.
    pub(crate) fn signed(&self) -> Result<Tensor, TchError> {
        self.unit()?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)
    }

    /// `[1, 1, h, w]`, 1 where it is at least half white and 0 elsewhere, on the CPU.
    pub(crate) fn mask(&self) -> Result<Tensor, TchError> {
        self.greys(|grey| f32::from(u8::from(grey >= 128)))
    }

    /// `[1, 1, h, w]`, how bright it is, 0 to 1, on the CPU.
    pub(crate) fn brightness(&self) -> Result<Tensor, TchError> {
        self.greys(|grey| f32::from(grey) / 255.0)
    }

    fn greys(&self, value: impl Fn(u8) -> f32) -> Result<Tensor, TchError> {
        // ITU-R 601-2 as Pillow computes it, in 16 bits behind the point.
        let grey = |rgb: &[u8]| {
            let sum = u32::from(rgb[0]) * 19_595 + u32::from(rgb[1]) * 38_470 + u32::from(rgb[2]) * 7_471 + 0x8000;
            u8::try_from(sum >> 16).unwrap_or(u8::MAX)
        };
        let values: Vec<f32> = self.rgb.chunks_exact(3).map(|rgb| value(grey(rgb))).collect();
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

    /// Beside Pillow's `exif_transpose` (`fixtures/make_loading_goldens.py`).
    #[test]
    fn a_picture_is_turned_as_it_says() {
        let bytes = |text: &str| -> Vec<u8> {
            let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
            digits.map(|digits| u8::from_str_radix(digits, 16).expect("a byte")).collect()
        };
        let goldens = include_str!("../../fixtures/goldens/loading/orientation.json");
        let goldens: Vec<serde_json::Value> = serde_json::from_str(goldens).expect("goldens");
        assert_eq!(goldens.len(), 8);
        for golden in goldens {
            let text = |key: &str| golden[key].as_str().map(bytes).expect("bytes");
            let (png, shown) = (text("png"), text("rgb"));
            let picture = Picture::decode(&png).expect("a picture");
            let size = serde_json::json!([picture.width_px, picture.height_px]);
            assert_eq!((size, &picture.rgb), (golden["size_px"].clone(), &shown), "{}", golden["orientation"]);

            // The chunk may come behind the data as well.
            let at = png.windows(4).position(|name| name == b"eXIf").map(|at| at - 4);
            let Some(at) = at else { continue };
            let length = 12 + usize::from(png[at + 3]);
            let mut late = [&png[..at], &png[at + length..]].concat();
            let end = late.len() - 12;
            late.splice(end..end, png[at..at + length].to_vec());
            assert_eq!(Picture::decode(&late).expect("a picture"), picture);
        }
    }

    #[test]
    fn a_picture_covers_another_size_and_keeps_its_middle() {
        // Stripes across: dark, grey, bright, dark, two pixels each.
        let stripes = [0_u8, 0, 100, 100, 200, 200, 0, 0];
        let rgb: Vec<u8> = (0..4).flat_map(|_| stripes.iter().flat_map(|value| [*value; 3])).collect();
        let picture = Picture { width_px: 8, height_px: 4, rgb };
        let same = picture.covering((4, 4));
        let middle: Vec<u8> = (0..4).flat_map(|_| [100_u8, 100, 200, 200].into_iter().flat_map(|v| [v; 3])).collect();
        assert_eq!((same.size_px(), same.rgb), ((4, 4), middle), "nothing is resampled where one side fits");
        for size in [(16, 8), (3, 9), (64, 8), (5, 1), (8, 4)] {
            assert_eq!(picture.covering(size).size_px(), size);
        }
        assert_eq!(picture.covering((8, 4)), picture);
        let tall = picture.covering((2, 8));
        assert!(tall.rgb[0].abs_diff(100) < 30 && tall.rgb[3].abs_diff(200) < 30, "{:?}", &tall.rgb[..6]);
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
