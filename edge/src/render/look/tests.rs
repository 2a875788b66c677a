//! Looks as renditions have them.

use std::sync::Arc;
use std::thread;

use bildkante_shared::pixels::Pixels;

use super::*;
use crate::decoding::DecoderCommand;
use crate::provenance::Marking;
use crate::render::{Finish, Quality, RenderJob, RenditionSpec, Rung, Shape, decode_original, render};
use crate::words::Format;

/// 640 × 320 px of smooth colours with a hard edge in the middle.
fn master() -> Pixels {
    let pixel = |x: u32, y: u32| {
        let [red, green] = [x * 255 / 640, y * 255 / 320].map(|sample| u8::try_from(sample).expect("a sample"));
        if x < 320 { [red, green, 90] } else { [200, green, red] }
    };
    let rgb = (0..320).flat_map(|y| (0..640).flat_map(move |x| pixel(x, y))).collect();
    Pixels::new(640, 320, rgb).expect("a master")
}

/// Exchanges red and blue.
fn swap() -> Arc<Cube> {
    let table = "LUT_3D_SIZE 2\n0 0 0\n0 0 1\n0 1 0\n0 1 1\n1 0 0\n1 0 1\n1 1 0\n1 1 1\n";
    Arc::new(Cube::read(table.as_bytes()).expect("a table"))
}

fn whole() -> Look {
    Look {
        grade: Some(swap()),
        sharpen: Sharpen::new(400),
        grain: Some(Grain { strength_thousandths: 50, size_thousandths: 1_500 }),
    }
}

/// As PNG, without a watermark.
fn rendered(look: Option<Look>, size_px: (u32, u32), shape: Shape) -> Vec<u8> {
    let master = master();
    let finish = Finish::of_generated(Marking::default());
    let finish = match look {
        Some(look) => finish.looking(Arc::new(look)),
        None => finish,
    };
    let (width_px, height_px) = size_px;
    let spec = RenditionSpec { width_px, height_px, shape, format: Format::Png, quality: Quality::HIGH };
    let job = RenderJob::new(master.master_id(), spec, Rung::Final, Arc::new(finish));
    let file = render(&master, &job).expect("a rendition").bytes;
    decode_original(&file, &DecoderCommand::default()).expect("a PNG").into_rgb()
}

#[test]
fn a_grade_changes_colours_and_nothing_else() {
    let plain = rendered(None, (160, 80), Shape::DEFAULT);
    let graded = rendered(Some(Look { grade: Some(swap()), sharpen: None, grain: None }), (160, 80), Shape::DEFAULT);
    let swapped: Vec<u8> = plain.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
    assert_eq!(graded, swapped);
}

#[test]
fn what_pads_a_picture_keeps_its_colour() {
    let background = [255, 10, 20];
    let padded = rendered(Some(whole()), (160, 160), Shape::Padded { background });
    let rows = |range: std::ops::Range<usize>| padded[range.start * 480..range.end * 480].chunks_exact(3);
    assert!(rows(0..40).chain(rows(120..160)).all(|pixel| pixel == background));
    assert!(!rows(41..119).any(|pixel| pixel == background));
}

#[test]
fn every_thread_makes_the_same_bytes_and_these_are_they() {
    let of = |_| thread::spawn(|| rendered(Some(whole()), (160, 80), Shape::DEFAULT));
    let threads: Vec<_> = (0..4).map(of).collect();
    let made: Vec<Vec<u8>> = threads.into_iter().map(|thread| thread.join().expect("rendered")).collect();
    assert!(made.iter().all(|other| *other == made[0]));
    // The look alone, on pixels that no resampler made: equal on every machine.
    let mut picture = Raster { width_px: 64, height_px: 32, rgb: Vec::new() };
    picture.rgb = (0..64 * 32 * 3_u32).map(|at| u8::try_from(at * 89 % 251).expect("a sample")).collect();
    let cut = CropBox { left_px: 10, top_px: 0, width_px: 256, height_px: 128 };
    whole().apply(&mut picture, &Shown { master: MasterId::from_raw([7; 16]), master_px: (640, 320), cut });
    let sum = picture.rgb.iter().fold(0_u64, |sum, sample| sum.wrapping_mul(31).wrapping_add((*sample).into()));
    assert_eq!(sum, 12_694_398_910_369_920_098);
}

#[test]
fn each_part_is_in_the_digest() {
    let looks = [
        whole(),
        Look { grade: None, ..whole() },
        Look { sharpen: None, ..whole() },
        Look { grain: None, ..whole() },
        Look { grain: Some(Grain { strength_thousandths: 50, size_thousandths: 1_501 }), ..whole() },
    ];
    let digests: std::collections::HashSet<_> = looks.iter().map(Look::digest).collect();
    assert_eq!(digests.len(), looks.len());
    assert_eq!(Look { grade: None, ..whole() }.words(), "sharpen 0.4, grain 0.05 of size 1.5");
}
