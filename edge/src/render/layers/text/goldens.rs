//! Golden pictures: black letters on white, each compared byte for byte with a file that a person has looked at.
//!
//! `fixtures/` holds subsets of OFL fonts and the pictures; `fixtures/README.md` says how either is made again.

use std::path::{Path, PathBuf};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/layers/text/fixtures").join(name)
}

pub(crate) fn face(name: &str) -> FontFace {
    let file = std::fs::read(fixture(&format!("{name}.subset.{}", if name.contains("JP") { "otf" } else { "ttf" })));
    FontFace::read(file.expect("a fixture")).expect("a font")
}

/// In all fixtures of fonts, Latin first.
pub(crate) fn style() -> TextStyle {
    let names =
        ["NotoSans-Bold", "NotoNaskhArabic-Bold", "NotoSansHebrew-Bold", "NotoSansDevanagari-Bold", "NotoSansJP-Bold"];
    TextStyle {
        fonts: names.map(face).into(),
        weight: 700,
        size_min: Length::Px(12),
        size_max: Length::Px(40),
        lines_max: 3,
        line_height_percent: 125,
        letter_spacing: 0,
        align: Along::Start,
        hyphens: Hyphens::Auto,
    }
}

const ROOM: Room = Room { width: 240, height: 120, picture_height: 120 };

fn set(text: &str, language: &str, direction: Direction, style: &TextStyle) -> Result<Typeset, Misfit> {
    Typeset::new(&Words::new(text).expect("words"), language, direction, style, ROOM)
}

/// A text on white, and how it was set.
fn drawn(text: &str, language: &str, direction: Direction, style: &TextStyle) -> (Vec<u8>, (u32, u32), Typeset) {
    let typeset = set(text, language, direction, style).unwrap_or_else(|misfit| panic!("{text}: {misfit}"));
    let (mask, _) = typeset.mask(style.align, direction);
    let grey = mask.coverage.iter().map(|part| 255 - u8::try_from(part >> 8).expect("a byte")).collect();
    (grey, (mask.width_px, mask.height_px), typeset)
}

fn png(grey: &[u8], size: (u32, u32)) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.0, size.1);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(grey).expect("pixels");
    writer.finish().expect("a file");
    file
}

fn read(path: &Path) -> Option<(Vec<u8>, (u32, u32))> {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).ok()?));
    let mut reader = decoder.read_info().ok()?;
    let mut grey = vec![0; reader.output_buffer_size()?];
    let info = reader.next_frame(&mut grey).ok()?;
    Some((grey, (info.width, info.height)))
}

/// Every golden picture: its name, its text, its language, and how many lines it has.
const GOLDENS: [(&str, &str, &str, Direction, usize); 7] = [
    ("latin", "The mug that stays: “affine” coffee, €9 & Ö", "en-GB", Direction::Ltr, 3),
    ("german", "Geschwindigkeitsbegrenzung gilt", "de-DE", Direction::Ltr, 3),
    ("arabic", "كوب يدوم طويلا، السعر ٩٩", "ar-EG", Direction::Rtl, 2),
    ("hebrew", "ספל שנשאר 24.90 ₪ היום", "he-IL", Direction::Rtl, 2),
    ("japanese", "毎日使いたくなる、マグカップ。朝の一杯を", "ja-JP", Direction::Ltr, 3),
    ("devanagari", "हिन्दी में कप जो टिकता है", "hi-IN", Direction::Ltr, 2),
    ("mixed", "Mug كوب 25 ספל", "ar-EG", Direction::Rtl, 2),
];

#[test]
fn golden_pictures_come_out_byte_for_byte() {
    let mut faults = Vec::new();
    for (name, text, language, direction, lines) in GOLDENS {
        let (grey, size, typeset) = drawn(text, language, direction, &style());
        if typeset.line_count() != lines {
            faults.push(format!("{name}: {} lines", typeset.line_count()));
        }
        let found = std::env::temp_dir().join(format!("bildkante-golden-{name}.png"));
        if read(&fixture(&format!("golden-{name}.png"))) != Some((grey.clone(), size)) {
            std::fs::write(&found, png(&grey, size)).expect("written");
            faults.push(format!("{name}: another picture came out, see {}", found.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_thread_sets_the_same_picture() {
    let here = drawn(GOLDENS[2].1, "ar-EG", Direction::Rtl, &style()).0;
    let threads: Vec<_> =
        (0..4).map(|_| std::thread::spawn(|| drawn(GOLDENS[2].1, "ar-EG", Direction::Rtl, &style()).0)).collect();
    assert!(threads.into_iter().all(|thread| thread.join().expect("drawn") == here));
}

#[test]
fn a_character_without_a_glyph_is_named() {
    let fault = |text| set(text, "en-GB", Direction::Ltr, &style()).expect_err("refused").to_string();
    assert_eq!(fault("Only 5 \u{1f525} left"), "no font of the campaign has a glyph for `🔥` (U+1F525)");
    assert_eq!(fault("Ж"), "no font of the campaign has a glyph for `Ж` (U+0416)");
    // A heart is a letter of no font here, with or without its selector.
    assert!(fault("I \u{2764}\u{fe0f} mugs").contains("U+2764"));
}

#[test]
fn letters_are_as_large_as_the_room_lets_them_be() {
    let size = |text: &str, style: &TextStyle| set(text, "en-GB", Direction::Ltr, style).map(|set| set.size_64);
    assert_eq!(size("Mug", &style()), Ok(40 * 64), "no larger than the style's largest");
    let long = size("The mug that stays with you for a lifetime of coffee", &style()).expect("it fits");
    assert!((12 * 64..40 * 64).contains(&long), "{long}");
    let misfit = size(&"mug ".repeat(60), &style()).expect_err("no room");
    assert_eq!(misfit, Misfit::Room { size_px: 12, lines_max: 3 });
    let one = TextStyle { lines_max: 1, ..style() };
    assert!(
        size("The mug that stays", &one).expect("it fits") < size("The mug that stays", &style()).expect("it fits")
    );
}

#[test]
fn lines_are_even_and_words_are_divided_only_for_much_larger_letters() {
    let lines = |text: &str, hyphens| {
        let set = set(text, "de-DE", Direction::Ltr, &TextStyle { hyphens, ..style() }).expect("it fits");
        let lengths: Vec<i64> = set.lines.iter().map(|line| line.advance).collect();
        (lengths, set.size_64)
    };
    let (even, _) = lines("eins zwei drei vier fünf sechs", Hyphens::Auto);
    let (longest, shortest) = (even.iter().max().expect("lines"), even.iter().min().expect("lines"));
    assert!(even.len() > 1 && longest - shortest < longest / 3, "{even:?}");
    let word = "Geschwindigkeitsbegrenzung";
    let ((divided, large), (whole, small)) = (lines(word, Hyphens::Auto), lines(word, Hyphens::Manual));
    assert!(divided.len() > 1 && whole.len() == 1 && large * 100 >= small * 125, "{large} {small}");
    let (by_author, _) = lines("Geschwindigkeits\u{ad}begrenzung", Hyphens::Manual);
    assert_eq!(by_author.len(), 2);
}

#[test]
fn a_text_with_line_breaks_keeps_them() {
    let set = set("one\ntwo three", "en-GB", Direction::Ltr, &style()).expect("it fits");
    assert_eq!(set.line_count(), 2);
}
