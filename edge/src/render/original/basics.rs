//! What holds for every original, shown with PNG and JPEG.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::tests::{decoded, exif};
use super::*;

/// Two pixels wide: red left, blue right.
const RED_BLUE: [u8; 6] = [255, 0, 0, 0, 0, 255];

fn png(rgb: &[u8], size: (u32, u32), prepare: impl FnOnce(&mut PngEncoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = PngEncoder::new(&mut file);
    prepare(&mut encoder);
    encoder.write_image(rgb, size.0, size.1, ExtendedColorType::Rgb8).expect("a small picture");
    file
}

#[test]
fn a_png_is_taken_bit_for_bit_and_its_master_reads_back() {
    let master = decoded(&png(&RED_BLUE, (2, 1), |_| {})).expect("a PNG");
    assert_eq!((master.width_px(), master.height_px(), master.rgb()), (2, 1, &RED_BLUE[..]));
    let file = encode_master(&master).expect("encoded");
    assert_eq!(crate::render::decode_master(&file).expect("a master").rgb(), RED_BLUE);
}

#[test]
fn the_orientation_of_the_exif_block_is_applied_in_both_formats() {
    let turned = png(&RED_BLUE, (2, 1), |encoder| encoder.set_exif_metadata(exif(6)).expect("taken"));
    let master = decoded(&turned).expect("a PNG");
    assert_eq!((master.width_px(), master.height_px(), master.rgb()), (1, 2, &RED_BLUE[..]));

    let wide: Vec<u8> = (0..16 * 32).flat_map(|at| if at % 32 < 16 { [250, 10, 10] } else { [10, 10, 250] }).collect();
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 95);
    encoder.set_exif_metadata(exif(3)).expect("taken");
    encoder.write_image(&wide, 32, 16, ExtendedColorType::Rgb8).expect("a small picture");
    let master = decoded(&jpeg).expect("a JPEG");
    assert_eq!((master.width_px(), master.height_px()), (32, 16));
    assert!(master.rgb()[0] < 60 && master.rgb()[2] > 200, "blue came left: {:?}", &master.rgb()[..3]);
}

#[test]
fn a_profile_is_converted_to_srgb() {
    let green = [0, 200, 0];
    let with = |profile: ColorProfile| {
        let icc = profile.encode().expect("a profile");
        let file = png(&green, (1, 1), |encoder| encoder.set_icc_profile(icc).expect("taken"));
        decoded(&file).expect("a PNG").into_rgb()
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
    let master = decoded(&png(&grey, (width, height), |_| {})).expect("a PNG");
    let area = u64::from(master.width_px()) * u64::from(master.height_px());
    assert!(area <= MASTER_AREA_PX_MAX && area > MASTER_AREA_PX_MAX * 99 / 100, "{master:?}");
    assert!(master.rgb().iter().all(|sample| sample.abs_diff(90) <= 1));
}

#[test]
fn what_is_no_original_says_why() {
    assert_eq!(decoded(b"GIF89a....."), Err(OriginalError::Foreign { name: "GIF" }));
    assert_eq!(decoded(b""), Err(OriginalError::Format));
    let mut clear = Vec::new();
    let pixel = [1, 2, 3, 254];
    PngEncoder::new(&mut clear).write_image(&pixel, 1, 1, ExtendedColorType::Rgba8).expect("a small picture");
    assert_eq!(decoded(&clear), Err(OriginalError::Transparent));
    let whole = png(&RED_BLUE, (2, 1), |_| {});
    assert!(matches!(decoded(&whole[..whole.len() - 20]), Err(OriginalError::Damaged(_))));
    let unusable = png(&RED_BLUE, (2, 1), |encoder| encoder.set_icc_profile(vec![7; 200]).expect("taken"));
    assert!(matches!(decoded(&unusable), Err(OriginalError::Profile(_))));
    assert!(matches!(decoded(&vec![0; ORIGINAL_FILE_BYTES_MAX + 1]), Err(OriginalError::FileTooLarge { .. })));
    // A header of 60000 × 60000 px with nothing behind it.
    let mut bomb = png(&RED_BLUE, (2, 1), |_| {});
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let check_sum = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&check_sum.to_be_bytes());
    assert!(matches!(decoded(&bomb), Err(OriginalError::TooManyPixels { .. } | OriginalError::Damaged(_))));
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
        let _ = decoded(&file);
        if noise.len() > 128 {
            let unusable = png(&RED_BLUE, (2, 1), |encoder| encoder.set_icc_profile(noise).expect("taken"));
            let _ = decoded(&unusable);
        }
    }
}
