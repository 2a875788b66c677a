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

/// The bytes of a marked picture on any machine. A change of them raises the version and the encoder epoch.
#[test]
fn every_machine_marks_alike() {
    let mut rgb: Vec<u8> =
        (0..320u32 * 224 * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 / 4 + 90).collect();
    let applied = watermark().embed(&mut rgb, 320, 224, master()).expect("a picture large enough");
    assert_eq!(applied.payload, watermark().payload(master()));
    assert_eq!(
        blake3::hash(&rgb).to_hex().as_str(),
        "a6aaf8f3b3175692b119f81128430e205f77e2543af6945a1bbd626d43303f2c"
    );
}

#[test]
fn calm_pictures_are_marked_less_and_say_so() {
    let mark = |mut rgb: Vec<u8>| {
        let before = rgb.clone();
        let applied = watermark().embed(&mut rgb, SIDE_PX, SIDE_PX, master()).expect("a picture large enough");
        let moved: u64 = rgb.iter().zip(&before).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        (applied.calm_percent, moved as f64 / rgb.len() as f64)
    };
    let (calm, rough) = (mark(vec![128; texture().len()]), mark(texture()));
    assert_eq!(calm.0, 100);
    assert!(rough.0 < 50, "{rough:?}");
    assert!(calm.1 > 1.0 && calm.1 < rough.1, "{calm:?} {rough:?}");
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
