//! How many bytes each encoder makes of a few fixed pictures at a fixed quality of its own scale, beside the numbers of `fixtures/sizes.csv`.
//!
//! An update of an encoder that changes its files changes these numbers. Then `ENCODER_EPOCH` has to be raised, the predictions learned again
//! (docs/encoders.md), and the new table, which the failed test prints, written to the file. The search for a score takes no part: its scores
//! are sums of floats, which two kinds of processor round differently.

use bildkante_edge::render::{Raster, Rung, encode_native};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;

use super::pictures;

const KNOWN: &str = include_str!("../fixtures/sizes.csv");
const HEAD: &str = "picture,format,rung,native,bytes";
/// Parts of what is known: compilers and processors leave no byte where it was in libjpeg's trellis, but all within far less.
const TOLERANCE: usize = 100;

#[test]
fn files_have_the_sizes_that_are_known() {
    let pictures: [(&str, Pixels); 4] = [
        ("studio", pictures::studio(320, 180)),
        ("texture", pictures::texture(320, 240, 31)),
        ("graphic", pictures::graphic(240, 160)),
        ("gradient", pictures::gradient(256, 144)),
    ];
    let (mut table, mut off) = (format!("{HEAD}\n"), Vec::new());
    for (name, pixels) in pictures {
        let raster = Raster { width_px: pixels.width_px(), height_px: pixels.height_px(), rgb: pixels.into_rgb() };
        for (format, rung) in Format::ALL.into_iter().flat_map(|format| Rung::ALL.map(|rung| (format, rung))) {
            for native in natives(format) {
                let found = encode_native(&raster, format, *native, rung).expect("a small picture");
                let what = format!("{name},{},{},{native}", format.as_str(), rung.as_str());
                table += &format!("{what},{}\n", found.file.len());
                let known = KNOWN.lines().find_map(|line| line.strip_prefix(&what)?.strip_prefix(',')?.parse().ok());
                let is_near = |known: usize| found.file.len().abs_diff(known) * TOLERANCE <= known;
                if !known.is_some_and(is_near) {
                    off.push(format!("{what}: {} bytes, known are {known:?}", found.file.len()));
                }
            }
        }
    }
    assert!(off.is_empty(), "{off:#?}\nfixtures/sizes.csv would be:\n{table}");
    assert_eq!(KNOWN.lines().count(), table.lines().count(), "fixtures/sizes.csv would be:\n{table}");
}

/// Qualities of the encoders' own scales.
const fn natives(format: Format) -> &'static [f32] {
    match format {
        Format::Avif => &[25.0, 45.0],
        Format::Webp | Format::Jpeg => &[40.0, 80.0],
        Format::Png => &[100.0],
    }
}
