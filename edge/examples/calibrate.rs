//! Measures which native quality reaches which SSIMULACRA2 score, and prints the table of `render/quality.rs`.
//!
//! ```text
//! cargo run -p bildkante-edge --example calibrate -- SHEET.png [COLUMNS ROWS [MASTER_PX]]
//! ```
//!
//! Corpus: the pictures of a sheet (by default the 6 × 2 samples of the built-in checkpoint, brought back to the
//! 192 px they were drawn at) and three painted ones (a studio scene, two textures), at 320 × 320 and 640 × 360 in turn.
//! The reference is the resized picture an encoder gets, so that the score judges the encoder and not the resizing.
//! Needs `avifdec`. Takes some minutes of processor time; the result depends on no clock.

#[path = "../tests/judges/mod.rs"]
mod judges;
#[path = "../tests/pictures/mod.rs"]
mod pictures;

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use bildkante_edge::render::quality::ANCHORS;
use bildkante_edge::render::{CropBox, Raster, Rung, decode_master, encode_native, resize};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;

const SIZES_PX: [(u32, u32); 2] = [(320, 320), (640, 360)];
/// Native qualities that are tried; between them scores are taken to run straight.
const GRID: [f32; 10] = [1.0, 10.0, 25.0, 40.0, 55.0, 68.0, 80.0, 88.0, 95.0, 100.0];
const FORMATS: [Format; 3] = [Format::Avif, Format::Webp, Format::Jpeg];

/// One picture at one format and rung: (native quality, score, bytes), scores made never to fall.
type Curve = Vec<(f32, f64, usize)>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sheet = arguments.first().context("name the sheet of pictures")?;
    let number = |at: usize, default: u32| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let masters = masters(sheet, number(1, 6)?, number(2, 2)?, number(3, 192)?)?;
    let corpus: Vec<Raster> = masters
        .iter()
        .zip(SIZES_PX.iter().cycle())
        .map(|(master, &(w, h))| resize(master, CropBox::cover(master.width_px(), master.height_px(), w, h), w, h))
        .collect::<Result<_, _>>()?;
    eprintln!("{} pictures", corpus.len());
    for format in FORMATS {
        for rung in Rung::ALL {
            report(format, rung, &curves(&corpus, format, rung));
        }
    }
    Ok(())
}

fn masters(sheet: &str, columns: u32, rows: u32, master_px: u32) -> anyhow::Result<Vec<Pixels>> {
    let sheet = decode_master(&std::fs::read(sheet)?)?;
    let (width_px, height_px) = (sheet.width_px() / columns, sheet.height_px() / rows);
    let mut masters = vec![pictures::studio(640, 640), pictures::texture(640, 640, 1), pictures::texture(640, 640, 2)];
    for tile in 0..columns * rows {
        let (left_px, top_px) = (tile % columns * width_px, tile / columns * height_px);
        let master = resize(&sheet, CropBox { left_px, top_px, width_px, height_px }, master_px, master_px)?;
        masters.push(Pixels::new(master_px, master_px, master.rgb)?);
    }
    Ok(masters)
}

/// Curves of all pictures, two at a time.
fn curves(corpus: &[Raster], format: Format, rung: Rung) -> Vec<Curve> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(raster) = corpus.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(curve(raster, format, rung));
        }
        done
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut curves = work();
        curves.extend(other.join().expect("the other half"));
        curves
    })
}

fn curve(raster: &Raster, format: Format, rung: Rung) -> Curve {
    let mut best = f64::NEG_INFINITY;
    let mut curve = Vec::new();
    for native in GRID {
        let file = encode_native(raster, format, native, rung).expect("a picture that encodes");
        best = best.max(judges::ssimulacra2(raster, &judges::decoded(format, &file)));
        curve.push((native, best, file.len()));
    }
    curve
}

/// The lowest native quality that reaches `score`; the highest there is where none does.
fn native_for(curve: &Curve, score: f64) -> f32 {
    let Some(above) = curve.iter().position(|point| point.1 >= score) else { return GRID[GRID.len() - 1] };
    let Some(below) = above.checked_sub(1) else { return curve[0].0 };
    let ((low, low_score, _), (high, high_score, _)) = (curve[below], curve[above]);
    low + (high - low) * ((score - low_score) / (high_score - low_score)) as f32
}

/// Score and bytes at a native quality, between grid points.
fn at(curve: &Curve, native: f32) -> (f64, f64) {
    let above = curve.iter().position(|point| point.0 >= native).unwrap_or(curve.len() - 1).max(1);
    let ((low, low_score, low_bytes), (high, high_score, high_bytes)) = (curve[above - 1], curve[above]);
    let share = f64::from((native - low) / (high - low)).clamp(0.0, 1.0);
    let bytes = low_bytes as f64 + (high_bytes as f64 - low_bytes as f64) * share;
    (low_score + (high_score - low_score) * share, bytes)
}

fn report(format: Format, rung: Rung, curves: &[Curve]) {
    let row: Vec<f32> = ANCHORS.iter().map(|&q| median(curves.iter().map(|c| native_for(c, f64::from(q))))).collect();
    let numbers: Vec<String> = row.iter().map(|native| format!("{native:.1}")).collect();
    let name = format!("{}_{}", format.as_str(), rung.as_str()).to_uppercase();
    println!("const {name}: Row = [{}];", numbers.join(", "));
    for (q, native) in ANCHORS.iter().zip(row).filter(|(q, _)| (30..=90).contains(*q)) {
        let mut scores: Vec<f64> = curves.iter().map(|curve| at(curve, native).0).collect();
        scores.sort_by(f64::total_cmp);
        let bytes = curves.iter().map(|curve| at(curve, native).1).sum::<f64>() / curves.len() as f64;
        let (tenth, ninetieth) = (scores[scores.len() / 10], scores[scores.len() * 9 / 10]);
        eprintln!("  {name} q{q}: scores {tenth:.0} to {ninetieth:.0} (10th to 90th of 100), mean {bytes:.0} bytes");
    }
}

fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}
