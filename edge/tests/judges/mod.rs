//! Outside judges of our files: decoders, metadata readers and a perceptual metric that are not our code.
//!
//! A tool that is not installed makes its test print `skipped …` and pass, unless `BILDKANTE_REQUIRE_JUDGES=1`,
//! as in CI, where a missing judge is a failure.

#![allow(dead_code, reason = "each test binary and example uses its part")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use bildkante_edge::render::Raster;
use bildkante_edge::words::Format;
use yuvxyb::{ColorPrimaries, LinearRgb, Rgb, TransferCharacteristic};

/// Whether `tool` answers; says so once per test where it does not.
pub(crate) fn has(tool: &str, test: &str) -> bool {
    // Each of these tools knows one of the two, and none waits for input with them.
    let answers = ["-ver", "-version", "--version"]
        .iter()
        .any(|flag| Command::new(tool).arg(flag).output().is_ok_and(|output| output.status.success()));
    if !answers {
        missing(tool, test);
    }
    answers
}

/// Says that a test is skipped for want of a judge.
pub(crate) fn missing(tool: &str, test: &str) {
    let required = std::env::var("BILDKANTE_REQUIRE_JUDGES").is_ok_and(|value| value == "1");
    assert!(!required, "{test} needs {tool}, which is not installed");
    // Past the test runner's capture, as in the end-to-end tests: it shows a passing test's output to nobody.
    let _ = writeln!(std::io::stderr(), "skipped: {test} ({tool} is not installed)");
}

/// What a tool prints for a file; its failure is the caller's.
pub(crate) fn asked(tool: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(tool).args(arguments).arg(file).output().expect("the tool was there a moment ago");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{tool} {arguments:?} {}: {out}{err}", file.display());
    format!("{out}{err}")
}

/// Decodes by a decoder of another make: `avifdec` (dav1d) for AVIF, pure Rust ones for the rest.
pub(crate) fn decoded(format: Format, file: &[u8]) -> Raster {
    let png_of_avif;
    let (kind, bytes) = match format {
        Format::Avif => {
            png_of_avif = avif_to_png(file);
            (image::ImageFormat::Png, png_of_avif.as_slice())
        }
        Format::Webp => (image::ImageFormat::WebP, file),
        Format::Jpeg => (image::ImageFormat::Jpeg, file),
        Format::Png => (image::ImageFormat::Png, file),
    };
    let image = image::load_from_memory_with_format(bytes, kind).expect("a file that decodes").into_rgb8();
    Raster { width_px: image.width(), height_px: image.height(), rgb: image.into_raw() }
}

fn avif_to_png(file: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (avif, png) = (folder.path().join("image.avif"), folder.path().join("image.png"));
    std::fs::write(&avif, file).expect("room for a small file");
    let output = Command::new("avifdec").args(["--jobs", "1", "--png-compress", "0"]).args([&avif, &png]).output();
    let output = output.expect("avifdec starts");
    assert!(output.status.success(), "avifdec: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(&png).expect("avifdec wrote it")
}

/// SSIMULACRA2 of `distorted` against `source`: 100 is equal, 90 visually lossless, 70 high, 50 medium, 30 low.
pub(crate) fn ssimulacra2(source: &Raster, distorted: &Raster) -> f64 {
    ssimulacra2::compute_frame_ssimulacra2(linear(source), linear(distorted)).expect("two images of one size")
}

fn linear(raster: &Raster) -> LinearRgb {
    let samples = raster.rgb.chunks_exact(3).map(|px| [px[0], px[1], px[2]].map(|s| f32::from(s) / 255.0)).collect();
    let (width, height) = (raster.width_px as usize, raster.height_px as usize);
    let (transfer, primaries) = (TransferCharacteristic::SRGB, ColorPrimaries::BT709);
    let rgb = Rgb::new(samples, width, height, transfer, primaries).expect("a whole image");
    LinearRgb::try_from(rgb).expect("sRGB converts")
}
