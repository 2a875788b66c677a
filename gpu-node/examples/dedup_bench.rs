//! How long masters are compared, and what comparing them at a bounded size changes.
//!
//! ```text
//! cargo run --release -p bildkante-gpu-node --example dedup_bench
//! ```
//!
//! Pictures of gradients, discs and 1/f noise are compared with themselves changed by a known amount: by the crate
//! `ssimulacra2` in full size, and as a node does it.

use std::time::Instant;

use bildkante_gpu_node::dedup;
use bildkante_shared::pixels::Pixels;
use ssimulacra2::{LinearRgb, compute_frame_ssimulacra2};

/// Comparisons of which the median is told.
const ROUNDS: usize = 5;

/// What is done to a picture: a name, and the new values of a pixel.
type Change = (&'static str, fn(u32, u32, [u8; 3]) -> [u8; 3]);

const CHANGES: [Change; 6] = [
    ("noise of ± 1", |x, y, rgb| rgb.map(|value| shifted(value, i32::from(noise(x, y) % 3) - 1))),
    ("noise of ± 4", |x, y, rgb| rgb.map(|value| shifted(value, i32::from(noise(x, y) % 9) - 4))),
    ("brighter by 2", |_, _, rgb| rgb.map(|value| shifted(value, 2))),
    ("a square of 40 px brighter by 12", |x, y, rgb| {
        if x / 40 == 3 && y / 40 == 3 { rgb.map(|value| shifted(value, 12)) } else { rgb }
    }),
    ("each second row darker by 6", |_, y, rgb| if y % 2 == 0 { rgb.map(|value| shifted(value, -6)) } else { rgb }),
    ("red less by 8", |_, _, [r, g, b]| [shifted(r, -8), g, b]),
];

fn main() {
    for side_px in [256, 512, 1024] {
        let before = painted(side_px, |_, _, rgb| rgb);
        println!("{side_px} × {side_px}");
        for (name, change) in CHANGES {
            let after = painted(side_px, change);
            let (full, full_ms) = timed(|| full(&before, &after));
            let (ours, ours_ms) = timed(|| dedup::likeness(&before, &after).expect("a score").score);
            println!(
                "  {name:<34} full {full:6.2} in {full_ms:6.1} ms, as a node does it {ours:6.2} in {ours_ms:6.1} ms"
            );
        }
    }
}

fn timed(mut compare: impl FnMut() -> f64) -> (f64, f64) {
    let mut times: Vec<f64> = Vec::new();
    let mut score = 0.0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        score = compare();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (score, times[ROUNDS / 2])
}

fn full(a: &Pixels, b: &Pixels) -> f64 {
    let linear = |pixels: &Pixels| {
        let rgb = pixels.rgb().as_chunks::<3>().0.iter().map(|rgb| rgb.map(|value| f32::from(value) / 255.0)).collect();
        let (width, height) = (pixels.width_px() as usize, pixels.height_px() as usize);
        let srgb =
            yuvxyb::Rgb::new(rgb, width, height, yuvxyb::TransferCharacteristic::SRGB, yuvxyb::ColorPrimaries::BT709);
        LinearRgb::try_from(srgb.expect("pixels")).expect("linear light")
    };
    compute_frame_ssimulacra2(linear(a), linear(b)).expect("a score")
}

fn shifted(value: u8, by: i32) -> u8 {
    u8::try_from((i32::from(value) + by).clamp(0, 255)).unwrap_or_default()
}

fn noise(x: u32, y: u32) -> u8 {
    (x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77)).wrapping_mul(0xC2B2_AE3D).to_be_bytes()[0]
}

/// The same scene at each size.
fn painted(side_px: u32, change: fn(u32, u32, [u8; 3]) -> [u8; 3]) -> Pixels {
    let mut rgb = Vec::with_capacity((side_px * side_px * 3) as usize);
    for y in 0..side_px {
        for x in 0..side_px {
            let (u, v) = (f64::from(x) / f64::from(side_px), f64::from(y) / f64::from(side_px));
            let disc = if (u - 0.5).hypot(v - 0.45) < 0.25 { 70.0 } else { 0.0 };
            let grain = f64::from(noise(x / 3, y / 3) % 16) + f64::from(noise(x / 17, y / 17) % 24);
            let base = [90.0 + 80.0 * u - disc / 2.0, 80.0 + 60.0 * v + disc / 3.0, 110.0 - 40.0 * u + disc];
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 to 255")]
            rgb.extend(change(x, y, base.map(|value| (value + grain).clamp(0.0, 255.0) as u8)));
        }
    }
    Pixels::new(side_px, side_px, rgb).expect("pixels")
}
