//! Files of every kind that people bring, with the colours that come out.

use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use jpeg_encoder::ColorType as JpegColor;
use moxcms::ColorProfile;

use super::*;
use crate::render::{ToldProfile, Turn, original_facts};

/// Without a process for AVIF.
pub(super) fn decoded(file: &[u8]) -> Result<Pixels, OriginalError> {
    decode_original(file, &DecoderCommand::default())
}

/// An Exif block that says nothing but an orientation.
pub(super) fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0]);
    block
}

/// How a test's JPEG is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scans {
    Baseline,
    Progressive,
}

/// 16 × 16 px of one colour.
fn jpeg(pixel: &[u8], color: JpegColor, scans: Scans, profile: Option<&[u8]>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, 100);
    encoder.set_progressive(scans == Scans::Progressive);
    if let Some(profile) = profile {
        encoder.add_icc_profile(profile).expect("a small profile");
    }
    encoder.encode(&pixel.repeat(256), 16, 16, color).expect("a small picture");
    file
}

fn first_pixel(file: &[u8]) -> [u8; 3] {
    let master = decoded(file).expect("a picture");
    [master.rgb()[0], master.rgb()[1], master.rgb()[2]]
}

fn is_near(a: [u8; 3], b: [u8; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 2)
}

/// A profile of four inks: cyan, magenta and yellow halve the lightness of the paper, black takes all of it (ICC.1, `lut16Type`).
fn press() -> Vec<u8> {
    let mut tag = b"mft2\0\0\0\0\x04\x03\x02\0".to_vec();
    for entry in [1_u32, 0, 0, 0, 1, 0, 0, 0, 1] {
        tag.extend((entry << 16).to_be_bytes());
    }
    tag.extend([0, 2, 0, 2]);
    let straight = [0_u8, 0, 255, 255];
    tag.extend(straight.repeat(4));
    for inks in 0..16_u32 {
        let coloured = (inks >> 1).count_ones();
        let lightness: u16 = if inks & 1 == 1 { 0 } else { 0xFF00 >> coloured };
        for value in [lightness, 0x8000, 0x8000] {
            tag.extend(value.to_be_bytes());
        }
    }
    tag.extend(straight.repeat(3));
    let mut profile = vec![0; 128];
    profile[8..12].copy_from_slice(&[2, 0x40, 0, 0]);
    profile[12..24].copy_from_slice(b"prtrCMYKLab ");
    profile[36..40].copy_from_slice(b"acsp");
    profile[68..80].copy_from_slice(&[0, 0, 0xF6, 0xD6, 0, 1, 0, 0, 0, 0, 0xD3, 0x2D]);
    profile.extend([0, 0, 0, 1]);
    profile.extend(b"A2B0");
    profile.extend([0, 0, 0, 144]);
    profile.extend(u32::try_from(tag.len()).expect("short").to_be_bytes());
    profile.extend(tag);
    let length = u32::try_from(profile.len()).expect("short");
    profile[..4].copy_from_slice(&length.to_be_bytes());
    profile
}

#[test]
fn inks_become_light_as_in_browsers_without_a_profile_and_by_it_with_one() {
    // Cyan, magenta, yellow, black, as jpeg-encoder takes them: 255 is all of it.
    for color in [JpegColor::Cmyk, JpegColor::CmykAsYcck] {
        for scans in [Scans::Baseline, Scans::Progressive] {
            let of = |inks: [u8; 4], profile| first_pixel(&jpeg(&inks, color, scans, profile));
            let naive = |inks| of(inks, None);
            assert!(is_near(naive([255, 0, 0, 0]), [0, 255, 255]), "cyan: {:?}", naive([255, 0, 0, 0]));
            assert!(is_near(naive([0, 255, 255, 0]), [255, 0, 0]), "red: {:?}", naive([0, 255, 255, 0]));
            assert!(is_near(naive([51, 0, 0, 102]), [122, 153, 153]), "{:?}", naive([51, 0, 0, 102]));
            assert!(is_near(naive([0, 0, 0, 255]), [0, 0, 0]), "black: {:?}", naive([0, 0, 0, 255]));

            let press = press();
            let printed = |inks| of(inks, Some(&press));
            assert!(is_near(printed([0, 0, 0, 0]), [255, 255, 255]), "paper: {:?}", printed([0, 0, 0, 0]));
            // L* 50 and 25 as sRGB.
            assert!(is_near(printed([255, 0, 0, 0]), [119, 119, 119]), "cyan: {:?}", printed([255, 0, 0, 0]));
            assert!(is_near(printed([0, 255, 255, 0]), [59, 59, 59]), "red: {:?}", printed([0, 255, 255, 0]));
            assert!(is_near(printed([0, 0, 0, 255]), [0, 0, 0]), "black: {:?}", printed([0, 0, 0, 255]));
        }
    }
}

#[test]
fn what_inks_lack_is_told_and_a_profile_for_others_is_refused() {
    let plain = jpeg(&[255, 0, 0, 0], JpegColor::Cmyk, Scans::Baseline, None);
    let told = original_facts(&plain).expect("told");
    assert_eq!((told.samples.as_str(), told.profile), ("Cmyk8", ToldProfile::NoneOfInks));
    let srgb = ColorProfile::new_srgb().encode().expect("a profile");
    let wrong = jpeg(&[255, 0, 0, 0], JpegColor::Cmyk, Scans::Baseline, Some(&srgb));
    assert!(matches!(decoded(&wrong), Err(OriginalError::Profile(_))));
    let wrong = jpeg(&[255, 0, 0], JpegColor::Rgb, Scans::Baseline, Some(&press()));
    assert!(matches!(decoded(&wrong), Err(OriginalError::Profile(_))));
}

#[test]
fn progressive_jpegs_have_their_colours() {
    let file = jpeg(&[200, 80, 30], JpegColor::Rgb, Scans::Progressive, None);
    assert!(is_near(first_pixel(&file), [200, 80, 30]), "{:?}", first_pixel(&file));
}

/// Red, green, blue, white, two by two.
const FOUR: [u8; 12] = [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255];

fn webp_lossless(prepare: impl FnOnce(&mut WebPEncoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut file);
    prepare(&mut encoder);
    encoder.write_image(&FOUR, 2, 2, ExtendedColorType::Rgb8).expect("a small picture");
    file
}

#[test]
fn webp_is_taken_lossless_and_lossy_with_profile_and_orientation() {
    let plain = webp_lossless(|_| {});
    assert_eq!(OriginalFormat::of(&plain), Some(OriginalFormat::Webp));
    assert_eq!(decoded(&plain).expect("a picture").rgb(), FOUR);
    let turned = webp_lossless(|encoder| encoder.set_exif_metadata(exif(3)).expect("taken"));
    assert_eq!(first_pixel(&turned), [255, 255, 255], "the last pixel came first");
    assert_eq!(original_facts(&turned).expect("told").turn, Turn::Turned(3));
    let icc = ColorProfile::new_display_p3().encode().expect("a profile");
    let wide = webp_lossless(|encoder| encoder.set_icc_profile(icc).expect("taken"));
    let green = decoded(&wide).expect("a picture").rgb()[3..6].to_vec();
    assert!(is_near([green[0], green[1], green[2]], [0, 255, 0]), "out of sRGB, so at its edge: {green:?}");

    let pixels = [60_u8, 120, 200].repeat(256);
    let lossy = webp::Encoder::from_rgb(&pixels, 16, 16).encode(90.0);
    assert!(is_near(first_pixel(&lossy), [60, 120, 200]), "{:?}", first_pixel(&lossy));
}

#[test]
fn a_moving_or_clear_webp_is_refused() {
    // Of an extended file's flags the second is animation (WebP container specification, VP8X).
    let mut moving = webp_lossless(|encoder| encoder.set_exif_metadata(exif(1)).expect("taken"));
    assert_eq!(&moving[12..16], b"VP8X");
    moving[20] |= 2;
    assert!(matches!(decoded(&moving), Err(OriginalError::Animated | OriginalError::Damaged(_))));
    let mut clear = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut clear);
    encoder.write_image(&[9, 9, 9, 100], 1, 1, ExtendedColorType::Rgba8).expect("a small picture");
    assert_eq!(decoded(&clear), Err(OriginalError::Transparent));
}

/// One row, as the format's own encoder writes it.
fn png(
    samples: &[u8],
    width: u32,
    (color, depth): (png::ColorType, png::BitDepth),
    prepare: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, 1);
    encoder.set_color(color);
    encoder.set_depth(depth);
    prepare(&mut encoder);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(samples).expect("a row");
    writer.finish().expect("an end");
    file
}

#[test]
fn palettes_and_greys_of_every_depth_become_rgb() {
    use png::BitDepth::{Eight, Four, One, Sixteen, Two};
    use png::ColorType::{Grayscale, Indexed};
    let rgb = |file: &[u8]| decoded(file).expect("a picture").into_rgb();
    let greys = |values: &[u8]| values.iter().flat_map(|value| [*value; 3]).collect::<Vec<u8>>();
    assert_eq!(rgb(&png(&[0b0100_0000], 2, (Grayscale, One), |_| {})), greys(&[0, 255]));
    assert_eq!(rgb(&png(&[0b0001_1011], 4, (Grayscale, Two), |_| {})), greys(&[0, 85, 170, 255]));
    assert_eq!(rgb(&png(&[0x3C], 2, (Grayscale, Four), |_| {})), greys(&[51, 204]));
    assert_eq!(rgb(&png(&[7, 99], 2, (Grayscale, Eight), |_| {})), greys(&[7, 99]));
    // 0x7F81 is 32641: 127.005 of 255; 0x80FF is 33023: 128.49.
    assert_eq!(rgb(&png(&[0x7F, 0x81, 0x80, 0xFF], 2, (Grayscale, Sixteen), |_| {})), greys(&[127, 128]));
    static PALETTE: [u8; 9] = [255, 0, 0, 0, 128, 255, 9, 8, 7];
    for (depth, row) in [(Two, 0b0110_0000), (Four, 0x12), (Eight, 1)] {
        let width = if depth == Eight { 1 } else { 2 };
        let file = png(&[row], width, (Indexed, depth), |encoder| encoder.set_palette(&PALETTE[..]));
        assert_eq!(rgb(&file), PALETTE[3..3 + 3 * width as usize]);
    }
    let clear = png(&[1], 1, (Indexed, Eight), |encoder| {
        encoder.set_palette(&PALETTE[..]);
        encoder.set_trns(&[255, 0][..]);
    });
    assert_eq!(decoded(&clear), Err(OriginalError::Transparent));
}

#[test]
fn a_grey_picture_takes_a_grey_or_an_rgb_profile_and_gamma_has_no_effect() {
    use png::{BitDepth::Eight, ColorType::Grayscale};
    let with = |profile: ColorProfile| {
        let icc = profile.encode().expect("a profile");
        let mut file = Vec::new();
        let mut encoder = PngEncoder::new(&mut file);
        encoder.set_icc_profile(icc).expect("taken");
        encoder.write_image(&[128], 1, 1, ExtendedColorType::L8).expect("a small picture");
        first_pixel(&file)
    };
    // 128 under a gamma of 1 is sRGB 188.
    assert!(is_near(with(ColorProfile::new_gray_with_gamma(1.0)), [188; 3]));
    assert!(is_near(with(ColorProfile::new_srgb()), [128; 3]));
    let dark = png(&[128], 1, (Grayscale, Eight), |encoder| {
        encoder.set_source_gamma(png::ScaledFloat::new(1.0));
    });
    assert_eq!(first_pixel(&dark), [128; 3]);
}

#[test]
fn an_exif_block_behind_the_pixels_turns_a_png_too() {
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(&FOUR, 2, 2, ExtendedColorType::Rgb8).expect("a small picture");
    let block = exif(6);
    let mut chunk = [b"eXIf".as_slice(), &block].concat();
    let check_sum = crc32fast::hash(&chunk);
    chunk.splice(0..0, u32::try_from(block.len()).expect("short").to_be_bytes());
    chunk.extend(check_sum.to_be_bytes());
    let end = file.len() - 12;
    file.splice(end..end, chunk);
    assert_eq!(original_facts(&file).expect("told").turn, Turn::Turned(6));
    let master = decoded(&file).expect("a picture");
    assert_eq!(master.rgb(), [0, 0, 255, 255, 0, 0, 255, 255, 255, 0, 255, 0], "a quarter clockwise");
}

#[test]
fn a_webp_of_another_size_than_its_pixels_is_an_error() {
    let mut bomb = webp_lossless(|encoder| encoder.set_exif_metadata(exif(1)).expect("taken"));
    // 16384 × 16384 px by the extended header.
    bomb[24..30].copy_from_slice(&[0xFF, 0x3F, 0, 0xFF, 0x3F, 0]);
    assert!(decoded(&bomb).is_err());
    assert!(memory_for(&bomb).is_err(), "refused by the header, before memory is asked for");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_in_files_of_inks_and_webps_make_it_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..60),
        at in proptest::prelude::any::<proptest::sample::Index>(),
        which in 0_usize..4,
    ) {
        let inks = [200, 30, 0, 9];
        let mut file = match which {
            0 => jpeg(&inks, JpegColor::Cmyk, Scans::Baseline, Some(&press())),
            1 => jpeg(&inks, JpegColor::CmykAsYcck, Scans::Progressive, None),
            2 => webp_lossless(|encoder| encoder.set_exif_metadata(exif(8)).expect("taken")),
            _ => webp::Encoder::from_rgb(&[90_u8; 768], 16, 16).encode(50.0).to_vec(),
        };
        let start = at.index(file.len());
        let end = (start + noise.len()).min(file.len());
        file[start..end].copy_from_slice(&noise[..end - start]);
        let _ = decoded(&file);
        let _ = memory_for(&file);
        if which == 0 {
            let _ = decoded(&jpeg(&inks, JpegColor::Cmyk, Scans::Baseline, Some(&noise.repeat(8))));
        }
    }
}
