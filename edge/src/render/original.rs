//! Masters from the originals of imports: PNG and JPEG files that people bring, hostile until decoded.
//!
//! Limits come before allocations: the file's length, then the header's size, then the decoder's budget. What comes out is
//! what a master is: opaque 8-bit sRGB within the limits of masters. On the way there, in this order: the orientation of
//! the file's Exif block is applied; a colour profile (RGB or grey) is converted to sRGB in fixed-point arithmetic, and a
//! file without one is taken for sRGB; 16-bit samples become 8-bit; a picture larger than a master is scaled down in
//! linear light. Transparency, CMYK and other colour spaces are refused. The original itself is never changed.

use std::io::Cursor;

use bildkante_shared::limits::{MASTER_AREA_PX_MAX, MASTER_SIDE_PX_MAX};
use bildkante_shared::pixels::Pixels;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

use super::resize::{ResizeError, scaled};

/// Largest original.
pub const ORIGINAL_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest side of an original.
const ORIGINAL_SIDE_PX_MAX: u32 = 16_384;
/// Largest area of an original: 64 Mi pixels.
const ORIGINAL_AREA_PX_MAX: u64 = 64 * 1024 * 1024;
/// What a decoder may allocate: the pixels at 16 bits and four samples, and some rows.
const DECODER_BYTES_MAX: u64 = ORIGINAL_AREA_PX_MAX * 8 + (16 << 20);

/// A file format of originals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginalFormat {
    Png,
    Jpeg,
}

impl OriginalFormat {
    pub const ALL: [Self; 2] = [Self::Png, Self::Jpeg];

    /// By the file's first bytes; its name says nothing.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<Self> {
        match image::guess_format(file).ok()? {
            ImageFormat::Png => Some(Self::Png),
            ImageFormat::Jpeg => Some(Self::Jpeg),
            _ => None,
        }
    }

    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
        }
    }

    pub(super) const fn decoded_as(self) -> ImageFormat {
        match self {
            Self::Png => ImageFormat::Png,
            Self::Jpeg => ImageFormat::Jpeg,
        }
    }
}

/// Why a file is no original.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginalError {
    #[error("the file has {bytes} bytes, at most {ORIGINAL_FILE_BYTES_MAX} are taken")]
    FileTooLarge { bytes: usize },
    #[error("it is neither PNG nor JPEG by its first bytes")]
    Format,
    #[error("{width_px}×{height_px} px is over {ORIGINAL_SIDE_PX_MAX} px a side or {ORIGINAL_AREA_PX_MAX} px in all")]
    TooManyPixels { width_px: u32, height_px: u32 },
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    #[error("it has transparent pixels; masters are opaque")]
    Transparent,
    #[error("its colour profile cannot be used: {0}; save it as sRGB")]
    Profile(String),
    #[error(transparent)]
    Resize(#[from] ResizeError),
    #[error("its master cannot be written: {0}")]
    Encode(String),
}

impl From<image::ImageError> for OriginalError {
    fn from(error: image::ImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The master of an original. The same file gives the same pixels.
///
/// # Errors
/// When the file is over a limit, is no PNG or JPEG, is damaged, transparent, or in a colour space that is not converted.
pub fn decode_original(file: &[u8]) -> Result<Pixels, OriginalError> {
    if file.len() > ORIGINAL_FILE_BYTES_MAX {
        return Err(OriginalError::FileTooLarge { bytes: file.len() });
    }
    let format = OriginalFormat::of(file).ok_or(OriginalError::Format)?;
    let mut reader = ImageReader::with_format(Cursor::new(file), format.decoded_as());
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width_px, height_px) = decoder.dimensions();
    let area_px = u64::from(width_px) * u64::from(height_px);
    if width_px.max(height_px) > ORIGINAL_SIDE_PX_MAX || area_px > ORIGINAL_AREA_PX_MAX {
        return Err(OriginalError::TooManyPixels { width_px, height_px });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    check_opaque(&picture)?;
    let (width_px, height_px) = (picture.width(), picture.height());
    let rgb = match profile {
        Some(profile) => to_srgb(&picture, &profile)?,
        None => picture.into_rgb8().into_raw(),
    };
    fitted(width_px, height_px, rgb)
}

fn check_opaque(picture: &DynamicImage) -> Result<(), OriginalError> {
    let is_opaque = match picture {
        DynamicImage::ImageLumaA8(pixels) => pixels.pixels().all(|pixel| pixel.0[1] == u8::MAX),
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        DynamicImage::ImageLumaA16(pixels) => pixels.pixels().all(|pixel| pixel.0[1] == u16::MAX),
        DynamicImage::ImageRgba16(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u16::MAX),
        picture => !picture.color().has_alpha(),
    };
    if is_opaque { Ok(()) } else { Err(OriginalError::Transparent) }
}

fn to_srgb(picture: &DynamicImage, profile: &[u8]) -> Result<Vec<u8>, OriginalError> {
    let unusable = |reason: &dyn std::fmt::Display| OriginalError::Profile(reason.to_string());
    let profile = ColorProfile::new_from_slice(profile).map_err(|error| unusable(&error))?;
    let (layout, samples) = match (profile.color_space, picture.color().has_color()) {
        (DataColorSpace::Rgb, true) => (Layout::Rgb, picture.to_rgb8().into_raw()),
        (DataColorSpace::Gray, false) => (Layout::Gray, picture.to_luma8().into_raw()),
        (space, _) => return Err(unusable(&format_args!("it is for {space:?}, and the picture is not"))),
    };
    let options = TransformOptions::default();
    let transform = profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options);
    let mut rgb = vec![0; picture.width() as usize * picture.height() as usize * 3];
    transform.and_then(|transform| transform.transform(&samples, &mut rgb)).map_err(|error| unusable(&error))?;
    Ok(rgb)
}

/// As large as a master may be.
fn fitted(width_px: u32, height_px: u32, rgb: Vec<u8>) -> Result<Pixels, OriginalError> {
    let (width, height) = (f64::from(width_px), f64::from(height_px));
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let by_area = (MASTER_AREA_PX_MAX as f64 / (width * height)).sqrt();
    let scale = by_area.min(f64::from(MASTER_SIDE_PX_MAX) / width.max(height));
    let inconsistent = |_| OriginalError::Damaged("its pixels do not match its header".to_owned());
    if scale >= 1.0 {
        return Pixels::new(width_px, height_px, rgb).map_err(inconsistent);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the side itself")]
    let smaller = |side: f64| (side * scale).floor().max(1.0) as u32;
    let small = scaled(rgb, (width_px, height_px), (smaller(width), smaller(height)))?;
    Pixels::new(small.width_px, small.height_px, small.rgb).map_err(inconsistent)
}

/// The file of a master, as nodes write them: an 8-bit RGB PNG.
///
/// # Errors
/// When the encoder fails, which no pixels make it do.
pub fn encode_master(master: &Pixels) -> Result<Vec<u8>, OriginalError> {
    let failed = |error: png::EncodingError| OriginalError::Encode(error.to_string());
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, master.width_px(), master.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(master.rgb()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    /// Two pixels wide: red left, blue right.
    const RED_BLUE: [u8; 6] = [255, 0, 0, 0, 0, 255];

    /// An Exif block that says nothing but an orientation.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        block.extend([orientation, 0, 0, 0, 0, 0, 0]);
        block
    }

    fn png(rgb: &[u8], size: (u32, u32), prepare: impl FnOnce(&mut PngEncoder<&mut Vec<u8>>)) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = PngEncoder::new(&mut file);
        prepare(&mut encoder);
        encoder.write_image(rgb, size.0, size.1, ExtendedColorType::Rgb8).expect("a small picture");
        file
    }

    #[test]
    fn a_png_is_taken_bit_for_bit_and_its_master_reads_back() {
        let master = decode_original(&png(&RED_BLUE, (2, 1), |_| {})).expect("a PNG");
        assert_eq!((master.width_px(), master.height_px(), master.rgb()), (2, 1, &RED_BLUE[..]));
        let file = encode_master(&master).expect("encoded");
        assert_eq!(super::super::decode_master(&file).expect("a master").rgb(), RED_BLUE);
    }

    #[test]
    fn the_orientation_of_the_exif_block_is_applied_in_both_formats() {
        let turned = png(&RED_BLUE, (2, 1), |encoder| encoder.set_exif_metadata(exif(6)).expect("taken"));
        let master = decode_original(&turned).expect("a PNG");
        assert_eq!((master.width_px(), master.height_px(), master.rgb()), (1, 2, &RED_BLUE[..]));

        let wide: Vec<u8> =
            (0..16 * 32).flat_map(|at| if at % 32 < 16 { [250, 10, 10] } else { [10, 10, 250] }).collect();
        let mut jpeg = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 95);
        encoder.set_exif_metadata(exif(3)).expect("taken");
        encoder.write_image(&wide, 32, 16, ExtendedColorType::Rgb8).expect("a small picture");
        let master = decode_original(&jpeg).expect("a JPEG");
        assert_eq!((master.width_px(), master.height_px()), (32, 16));
        assert!(master.rgb()[0] < 60 && master.rgb()[2] > 200, "blue came left: {:?}", &master.rgb()[..3]);
    }

    #[test]
    fn a_profile_is_converted_to_srgb() {
        let green = [0, 200, 0];
        let with = |profile: ColorProfile| {
            let icc = profile.encode().expect("a profile");
            let file = png(&green, (1, 1), |encoder| encoder.set_icc_profile(icc).expect("taken"));
            decode_original(&file).expect("a PNG").into_rgb()
        };
        let near = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 2);
        let srgb = with(ColorProfile::new_srgb());
        assert!(near(&srgb, &green), "{srgb:?}");
        let wide = with(ColorProfile::new_display_p3());
        assert!(wide[1] > 203, "the same numbers mean a greener green in Display P3: {wide:?}");
    }

    #[test]
    fn a_picture_larger_than_a_master_is_scaled_down() {
        let (width, height) = (3000, 2000);
        let grey = vec![90; width as usize * height as usize * 3];
        let master = decode_original(&png(&grey, (width, height), |_| {})).expect("a PNG");
        let area = u64::from(master.width_px()) * u64::from(master.height_px());
        assert!(area <= MASTER_AREA_PX_MAX && area > MASTER_AREA_PX_MAX * 99 / 100, "{master:?}");
        assert!(master.rgb().iter().all(|sample| sample.abs_diff(90) <= 1));
    }

    #[test]
    fn what_is_no_original_says_why() {
        assert_eq!(decode_original(b"GIF89a....."), Err(OriginalError::Format));
        assert_eq!(decode_original(b""), Err(OriginalError::Format));
        let mut clear = Vec::new();
        let pixel = [1, 2, 3, 254];
        PngEncoder::new(&mut clear).write_image(&pixel, 1, 1, ExtendedColorType::Rgba8).expect("a small picture");
        assert_eq!(decode_original(&clear), Err(OriginalError::Transparent));
        let whole = png(&RED_BLUE, (2, 1), |_| {});
        assert!(matches!(decode_original(&whole[..whole.len() - 20]), Err(OriginalError::Damaged(_))));
        let unusable = png(&RED_BLUE, (2, 1), |encoder| encoder.set_icc_profile(vec![7; 200]).expect("taken"));
        assert!(matches!(decode_original(&unusable), Err(OriginalError::Profile(_))));
        assert!(matches!(
            decode_original(&vec![0; ORIGINAL_FILE_BYTES_MAX + 1]),
            Err(OriginalError::FileTooLarge { .. })
        ));
        // A header of 60000 × 60000 px with nothing behind it.
        let mut bomb = png(&RED_BLUE, (2, 1), |_| {});
        bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
        let check_sum = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&check_sum.to_be_bytes());
        assert!(matches!(decode_original(&bomb), Err(OriginalError::TooManyPixels { .. } | OriginalError::Damaged(_))));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_make_it_panic(
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            at in 0_usize..400,
            is_jpeg in proptest::prelude::any::<bool>(),
        ) {
            let mut file = if is_jpeg {
                let mut file = Vec::new();
                JpegEncoder::new(&mut file).write_image(&RED_BLUE, 2, 1, ExtendedColorType::Rgb8).expect("a small picture");
                file
            } else {
                let icc = ColorProfile::new_srgb().encode().expect("a profile");
                png(&RED_BLUE, (2, 1), |encoder| encoder.set_icc_profile(icc).expect("taken"))
            };
            let start = at.min(file.len());
            let end = (start + noise.len()).min(file.len());
            file[start..end].copy_from_slice(&noise[..end - start]);
            let _ = decode_original(&file);
            if noise.len() > 128 {
                let unusable = png(&RED_BLUE, (2, 1), |encoder| encoder.set_icc_profile(noise).expect("taken"));
                let _ = decode_original(&unusable);
            }
        }
    }
}
