//! The watermark in files as the edge makes them: what encoders leave of it, read back by the detector.

mod judges;
mod pictures;

use std::sync::Arc;

use bildkante_edge::provenance::{Description, DigitalSource, Marking};
use bildkante_edge::render::{
    Finish, Finishing, OnUnsigned, Quality, RenderJob, RenditionSpec, Rung, Shape, Watermarked, render,
};
use bildkante_edge::watermark::{Effort, MasterPrefix, Secret, Watermark, detect};
use bildkante_edge::words::Format;

/// With default features a final JPEG is mozjpeg's, whose trellis drops what is faint.
#[test]
fn a_final_jpeg_of_a_textured_picture_keeps_the_mark() {
    let watermark = Watermark::new(&Secret::PUBLISHED);
    let finishing = Finishing { watermark: Some(Arc::new(watermark.clone())), ..Finishing::default() };
    let description = Description::new(Marking::default(), DigitalSource::TrainedAlgorithmicMedia);
    let finish = Arc::new(Finish::with(description, finishing, OnUnsigned::default()));
    let spec = RenditionSpec {
        width_px: 640,
        height_px: 480,
        shape: Shape::DEFAULT,
        format: Format::Jpeg,
        quality: Quality::AUTO,
    };
    for seed in [1, 7, 23] {
        let master = pictures::texture(800, 600, seed);
        let job = RenderJob::new(master.master_id(), spec, Rung::Final, Arc::clone(&finish));
        let encoded = render(&master, &job).expect("a rendition within bounds");
        assert_eq!(encoded.watermarked, Watermarked::Yes);
        let seen = judges::decoded(Format::Jpeg, &encoded.bytes);
        let keys = std::slice::from_ref(&watermark);
        let found = detect(&seen.rgb, seen.width_px, seen.height_px, keys, Effort::default());
        let expected = MasterPrefix::of(master.master_id().as_bytes());
        assert_eq!(found.map(|found| found.payload.master()), Some(expected), "picture {seed}");
    }
}
