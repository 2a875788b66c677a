//! Milliseconds and bytes of every format, rung and size for one fixed picture, encoded one after the other.
//!
//! ```text
//! cargo run --release -p bildkante-edge --example encode_bench [MASTER.png]
//! ```
//!
//! Workload: a painted studio scene of 1344 × 768 px (or a master of your own) cut to 16:9 at four widths, quality
//! `auto`, five rounds, of which the fastest counts. *cpu* is the thread's own processor time, which says the same on
//! a busy machine; *wall* is what a reader would have waited here and now. Budget: the quick rung at 1280 px takes at
//! most 200 ms on one core.

#[path = "../tests/clock/mod.rs"]
mod clock;
#[path = "../tests/pictures/mod.rs"]
mod pictures;

use std::sync::Arc;
use std::time::Instant;

use bildkante_edge::provenance::Marking;
use bildkante_edge::render::{Finish, Quality, RenderJob, RenditionSpec, Rung, Shape, decode_master, render};
use bildkante_edge::words::Format;
use clock::thread_cpu_ms;

const WIDTHS_PX: [u32; 4] = [320, 640, 960, 1280];
const ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let master = match std::env::args().nth(1) {
        Some(path) => decode_master(&std::fs::read(path)?)?,
        None => pictures::studio(1344, 768),
    };
    let marking = Marking { creator: Some("Studio".into()), credit: Some("Studio".into()), ..Marking::default() };
    let finish = Arc::new(Finish::of_generated(marking));
    println!(
        "{:<6} {:<6} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "format", "rung", "size", "cpu ms", "wall ms", "encode", "bytes"
    );
    for format in Format::ALL {
        for rung in Rung::ALL {
            for width_px in WIDTHS_PX {
                let height_px = width_px * 9 / 16;
                let spec = RenditionSpec { width_px, height_px, shape: Shape::DEFAULT, format, quality: Quality::AUTO };
                let (mut cpu_ms, mut wall_ms, mut encode_ms, mut bytes) = (f64::MAX, f64::MAX, f64::MAX, 0);
                for _ in 0..ROUNDS {
                    let (cpu_before, started) = (thread_cpu_ms(), Instant::now());
                    let encoded =
                        render(&master, &RenderJob::new(master.master_id(), spec, rung, Arc::clone(&finish)))?;
                    wall_ms = wall_ms.min(started.elapsed().as_secs_f64() * 1e3);
                    cpu_ms = cpu_ms.min(thread_cpu_ms() - cpu_before);
                    encode_ms = encode_ms.min(encoded.encode.as_secs_f64() * 1e3);
                    bytes = encoded.bytes.len();
                }
                let (format, rung, size) = (format.as_str(), rung.as_str(), format!("{width_px}x{height_px}"));
                println!("{format:<6} {rung:<6} {size:>10} {cpu_ms:>9.1} {wall_ms:>9.1} {encode_ms:>9.1} {bytes:>9}");
            }
        }
    }
    Ok(())
}
