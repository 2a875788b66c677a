//! A file to an upright picture, and a picture to what the detector needs.
//!
//! Colour profiles are not applied: marks are in code values, and colours are converted by who asked for them. For the detector
//! transparency is dropped, and of an animation the first picture counts. A picture is turned as its file says, so that it is what
//! a person sees.

use std::io::Cursor;

use bildkante_shared::phash::PerceptualHash;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::{Answer, DecodeFault, Decoded, Grey, avif, check_size};
use crate::watermark::seen;
use crate::words::Format;

/// What a decoder may allocate for a pixel: four samples of 16 bits.
const DECODER_BYTES_PER_PX: u64 = 8;
/// And beside the pixels.
const DECODER_BYTES_BESIDE: u64 = 64 << 20;

/// The lightness of a stranger's file. Belongs into a process that may die of it.
pub(super) fn lightness(file: &[u8], pixels_max: u64) -> Result<Grey, DecodeFault> {
    let rgb = match Format::of_file(file).ok_or(DecodeFault::Format)? {
        Format::Avif => avif::decode(file, pixels_max, Answer::Lightness)?.0.into_rgb8(),
        Format::Webp => with_image(ImageFormat::WebP, file, pixels_max)?,
        Format::Jpeg => with_image(ImageFormat::Jpeg, file, pixels_max)?,
        Format::Png => with_image(ImageFormat::Png, file, pixels_max)?,
    };
    grey(rgb)
}

/// The colours of a stranger's AVIF. Belongs into a process that may die of it.
pub(super) fn colours(file: &[u8], pixels_max: u64) -> Result<Decoded, DecodeFault> {
    let (picture, coding) = avif::decode(file, pixels_max, Answer::Colours)?;
    Ok(Decoded { picture, coding })
}

fn with_image(format: ImageFormat, file: &[u8], pixels_max: u64) -> Result<RgbImage, DecodeFault> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(pixels_max * DECODER_BYTES_PER_PX + DECODER_BYTES_BESIDE);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(DecodeFault::damaged)?;
    let (width_px, height_px) = decoder.dimensions();
    check_size(width_px, height_px, pixels_max)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(DecodeFault::damaged)?;
    let mut upright = DynamicImage::ImageRgb8(picture.into_rgb8());
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

fn grey(rgb: RgbImage) -> Result<Grey, DecodeFault> {
    let (width_px, height_px) = rgb.dimensions();
    let samples = rgb.pixels().flat_map(|pixel| seen(pixel.0)).collect();
    let phash = PerceptualHash::of(rgb.into_raw(), width_px, height_px);
    let phash = phash.ok_or_else(|| DecodeFault::damaged("its pixels do not match its header"))?;
    Ok(Grey { width_px, height_px, phash, samples })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use image::codecs::jpeg::JpegEncoder;
    use image::codecs::png::PngEncoder;
    use image::codecs::webp::WebPEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use proptest::prelude::*;

    use super::*;

    const PIXELS_MAX: u64 = 1 << 20;

    /// 32 × 16 px: bright on the left, dark on the right.
    fn pixels() -> Vec<u8> {
        (0..32 * 16).flat_map(|at| if at % 32 < 16 { [250, 240, 230] } else { [10, 20, 30] }).collect()
    }

    /// A file of each format.
    static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let mut files = vec![Vec::new(); 3];
        PngEncoder::new(&mut files[0]).write_image(&pixels(), 32, 16, ExtendedColorType::Rgb8).expect("png");
        JpegEncoder::new_with_quality(&mut files[1], 95)
            .write_image(&pixels(), 32, 16, ExtendedColorType::Rgb8)
            .expect("jpeg");
        WebPEncoder::new_lossless(&mut files[2]).write_image(&pixels(), 32, 16, ExtendedColorType::Rgb8).expect("webp");
        files.push(avif());
        files
    });

    fn avif() -> Vec<u8> {
        let rgb: Vec<rgb::RGB8> = pixels().chunks_exact(3).map(|p| rgb::RGB8::new(p[0], p[1], p[2])).collect();
        let encoder = ravif::Encoder::new().with_quality(90.0).with_speed(10).with_num_threads(Some(1));
        encoder.encode_rgb(ravif::Img::new(&rgb[..], 32, 16)).expect("avif").avif_file
    }

    #[test]
    fn every_format_comes_out_upright_and_alike() {
        for file in FILES.iter() {
            let grey = lightness(file, PIXELS_MAX).expect("a small picture");
            assert_eq!((grey.width_px, grey.height_px, grey.samples.len()), (32, 16, 1024));
            assert!(
                grey.samples[0].abs_diff(242) < 6 && grey.samples[62].abs_diff(18) < 6,
                "{:?}",
                &grey.samples[..64]
            );
        }
    }

    #[test]
    fn the_orientation_of_a_file_is_followed() {
        let mut file = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut file, 95);
        let turned_by_180 = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0".to_vec();
        encoder.set_exif_metadata(turned_by_180).expect("taken");
        encoder.write_image(&pixels(), 32, 16, ExtendedColorType::Rgb8).expect("jpeg");
        let grey = lightness(&file, PIXELS_MAX).expect("a small picture");
        assert!(grey.samples[0] < 60 && grey.samples[62] > 200, "{:?}", &grey.samples[..64]);
    }

    #[test]
    fn a_picture_over_the_limit_is_refused_by_its_header() {
        for file in FILES.iter() {
            let refused = lightness(file, 511);
            let too_many = DecodeFault::TooManyPixels { width_px: 32, height_px: 16, pixels_max: 511 };
            assert_eq!(refused, Err(too_many));
        }
    }

    #[test]
    fn what_is_no_picture_says_so() {
        assert_eq!(lightness(b"GIF89a", PIXELS_MAX), Err(DecodeFault::Format));
        for file in FILES.iter() {
            let cut = lightness(&file[..file.len() / 2], PIXELS_MAX);
            assert!(matches!(cut, Err(DecodeFault::Damaged { .. })) || cut.is_ok(), "{cut:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        /// Without the AV1 frames themselves, whose decoder may end its process.
        #[test]
        fn damaged_files_are_errors_and_never_panics(
            which in 0_usize..3,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            end in any::<prop::sample::Index>(),
        ) {
            let mut file = FILES[which].clone();
            for (at, byte) in flips {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file.truncate(end.index(file.len()) + 1);
            let _ = lightness(&file, PIXELS_MAX);
        }
    }
}
