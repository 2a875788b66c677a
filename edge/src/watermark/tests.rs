//! Marks that are written, mistreated and found again, or not.

use proptest::prelude::*;

use super::*;

#[path = "../../tests/pictures/mod.rs"]
mod pictures;

const SIDE_PX: u32 = 320;

fn master() -> MasterPrefix {
    MasterPrefix::of(&[7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5, 2])
}

fn watermark() -> Watermark {
    Watermark::new(&Secret::from_bytes([9; 32]))
}

fn texture() -> Vec<u8> {
    pictures::texture(SIDE_PX, SIDE_PX, 3).into_rgb()
}

fn marked() -> Vec<u8> {
    let mut rgb = texture();
    watermark().embed(&mut rgb, SIDE_PX, SIDE_PX, master()).expect("a picture large enough");
    rgb
}

fn found(rgb: &[u8], width_px: u32, height_px: u32) -> Option<Found> {
    detect(rgb, width_px, height_px, &[watermark()], Effort::default())
}

/// A part of a picture `SIDE_PX` wide.
fn cut(rgb: &[u8], (left, top): (usize, usize), (width, height): (usize, usize)) -> Vec<u8> {
    let rows = rgb.chunks_exact(SIDE_PX as usize * 3).skip(top).take(height);
    rows.flat_map(|row| row[left * 3..(left + width) * 3].to_vec()).collect()
}

fn scaled(rgb: Vec<u8>, from: u32, to: u32) -> Vec<u8> {
    let image = image::RgbImage::from_raw(from, from, rgb).expect("a whole picture");
    image::imageops::resize(&image, to, to, image::imageops::FilterType::CatmullRom).into_raw()
}

fn through_jpeg(rgb: &[u8], quality: u8) -> Vec<u8> {
    let mut file = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality)
        .encode(rgb, SIDE_PX, SIDE_PX, image::ExtendedColorType::Rgb8)
        .expect("a picture that encodes");
    image::load_from_memory(&file).expect("a file that decodes").into_rgb8().into_raw()
}

#[test]
fn a_mark_says_what_was_written() {
    let found = found(&marked(), SIDE_PX, SIDE_PX).expect("the mark");
    assert_eq!(found.payload, watermark().payload(master()));
    assert!(found.scale.iter().all(|scale| (scale - 1.0).abs() < 0.01), "{found:?}");
    assert!(found.chance_log10() < -10.0, "{found:?}");
}

#[test]
fn a_mark_survives_jpeg_at_50() {
    let found = found(&through_jpeg(&marked(), 50), SIDE_PX, SIDE_PX).expect("the mark");
    assert_eq!(found.payload.master(), master());
}

#[test]
fn a_mark_survives_a_cut_and_another_scale() {
    let part = cut(&marked(), (31, 17), (270, 270));
    let found = found(&scaled(part, 270, 230), 230, 230).expect("the mark");
    assert_eq!(found.payload.master(), master());
    assert!(found.scale.iter().all(|scale| (scale - 230.0 / 270.0).abs() < 0.01), "{found:?}");
}

#[test]
fn a_mark_is_found_in_a_picture_of_twice_the_size() {
    let found = found(&scaled(marked(), SIDE_PX, 2 * SIDE_PX), 2 * SIDE_PX, 2 * SIDE_PX).expect("the mark");
    assert_eq!(found.payload.master(), master());
    assert!(found.scale.iter().all(|scale| (scale - 2.0).abs() < 0.02), "{found:?}");
}

#[test]
fn a_mark_is_found_by_its_own_secret_only() {
    let others = [Watermark::new(&Secret::PUBLISHED), Watermark::new(&Secret::from_bytes([10; 32]))];
    let rgb = marked();
    assert_eq!(detect(&rgb, SIDE_PX, SIDE_PX, &others, Effort::default()), None);
    let [first, second] = others;
    let all = [first, watermark(), second];
    let found = detect(&rgb, SIDE_PX, SIDE_PX, &all, Effort::default()).expect("the mark");
    assert_eq!(found.payload.key(), watermark().key());
}

#[test]
fn pictures_without_a_mark_have_none() {
    for picture in
        [texture(), pictures::graphic(SIDE_PX, SIDE_PX).into_rgb(), vec![128; (SIDE_PX * SIDE_PX * 3) as usize]]
    {
        assert_eq!(found(&picture, SIDE_PX, SIDE_PX), None);
    }
}

#[test]
fn what_is_too_small_or_of_another_size_is_left_as_it_was() {
    let mut rgb = vec![50; 127 * 500 * 3];
    let refused = watermark().embed(&mut rgb, 127, 500, master());
    assert_eq!(refused, Err(Unmarked::TooSmall { width_px: 127, height_px: 500 }));
    let refused = watermark().embed(&mut rgb, 300, 300, master());
    assert!(matches!(refused, Err(Unmarked::Length { expected_bytes: 270_000, .. })), "{refused:?}");
    let refused = watermark().embed(&mut rgb, 255, 256, master());
    assert!(matches!(refused, Err(Unmarked::TooSmall { .. })), "{refused:?}");
    assert!(rgb.iter().all(|value| *value == 50));
}

/// The bytes of a marked picture on any machine. Whoever changes them gives the design a new name, and adds the old one to the
/// former designs.
#[test]
fn every_machine_marks_alike() {
    let mut rgb: Vec<u8> =
        (0..320u32 * 224 * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 / 4 + 90).collect();
    let applied = watermark().embed(&mut rgb, 320, 224, master()).expect("a picture large enough");
    assert_eq!(applied.payload, watermark().payload(master()));
    assert_eq!(
        blake3::hash(&rgb).to_hex().as_str(),
        "0b4eda3bc22ec98cffcd5acbd6f5b2ef7ae155656e0a1e75eb62aa0c3e51bf51"
    );
}

/// How far marking moves the lightness of a picture and its blue against that, on average, and how calm it says it is.
fn moved(before: &[u8]) -> (f64, f64, u8) {
    let mut rgb = before.to_vec();
    let applied = watermark().embed(&mut rgb, SIDE_PX, SIDE_PX, master()).expect("a picture large enough");
    let pixels = || {
        rgb.chunks_exact(3)
            .zip(before.chunks_exact(3))
            .map(|(a, b)| [0, 1, 2].map(|i| f64::from(a[i]) - f64::from(b[i])))
    };
    let lightness = |[r, g, b]: [f64; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    let mean = |of: &dyn Fn([f64; 3]) -> f64| pixels().map(|px| of(px).abs()).sum::<f64>() / pixels().count() as f64;
    (mean(&lightness), mean(&|px| px[2] - lightness(px)), applied.calm_percent)
}

#[test]
fn rough_pictures_are_marked_in_lightness_and_calm_ones_in_colour() {
    let (rough, calm) = (moved(&texture()), moved(&vec![128; texture().len()]));
    assert!(rough.0 > 2.0 * calm.0, "{rough:?} {calm:?}");
    assert!(calm.1 > 1.4 * rough.1 && calm.1 > 5.0 * calm.0, "{rough:?} {calm:?}");
    assert!(rough.2 < 50 && calm.2 == 100, "{rough:?} {calm:?}");
}

#[test]
fn either_carrier_is_found_without_the_other() {
    let lightness: Vec<u8> = marked().chunks_exact(3).flat_map(|px| [embed::luma([px[0], px[1], px[2]]); 3]).collect();
    assert_eq!(found(&lightness, SIDE_PX, SIDE_PX).map(|found| found.payload.master()), Some(master()));
    // What is left of a calm picture's mark after coding is in colour.
    let mut calm = vec![150; texture().len()];
    watermark().embed(&mut calm, SIDE_PX, SIDE_PX, master()).expect("a picture large enough");
    let found = found(&through_jpeg(&calm, 60), SIDE_PX, SIDE_PX).expect("the mark");
    assert_eq!(found.payload.master(), master());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_bytes_of_any_size_make_it_panic(
        width_px in 0u32..200,
        height_px in 0u32..90,
        short in proptest::bool::weighted(0.1),
        seed: [u8; 32],
    ) {
        let mut rgb = vec![0; (width_px * height_px * 3) as usize];
        blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut rgb);
        if short {
            rgb.pop();
        }
        let marked = watermark().embed(&mut rgb, width_px, height_px, master());
        prop_assert!(marked.is_err());
        prop_assert_eq!(found(&rgb, width_px, height_px), None);
    }
}
