//! From pixels to a file: encode, fit into the bound of its finish, describe. And whether another format makes a smaller one.

use std::time::{Duration, Instant};

use super::bound::Fit;
use super::encode::{Found, Source, encode_native, encode_source, shrunk};
use super::resize::Raster;
use super::{Finish, MANIFEST_BYTES_TYPICAL, Placement, RenderError, RenderJob, Rung};
use crate::provenance::{Metadata, embed};
use crate::words::Format;

/// Bytes that a description may come to more beside another file: padding of chunks.
const PADDING_BYTES: usize = 4;
/// A WebP of the quick rung is at most so much larger than the final one, in percent of the final one.
const QUICK_PERCENT_MAX: usize = 150;

/// A file before it is signed.
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    /// Without its file.
    pub(super) found: Found,
    pub(super) placement: Placement,
    /// `None` where its size is not bounded.
    pub(super) fit: Option<Fit>,
    pub(super) encode: Duration,
    pub(super) mark: Duration,
}

impl Made {
    /// What a reader is sent, as far as it is known before a manifest is signed.
    fn sent_bytes(&self, job: &RenderJob) -> usize {
        let manifest = job.manifest.as_ref().filter(|_| self.placement == Placement::Embedded);
        self.bytes.len() + manifest.map_or(0, |plan| MANIFEST_BYTES_TYPICAL + plan.added_bytes)
    }

    fn has_its_quality(&self) -> bool {
        matches!(self.fit, None | Some(Fit::Met))
    }
}

/// The picture of a job as a file of this format.
pub(super) fn made(source: &Source<'_>, format: Format, job: &RenderJob) -> Result<Made, RenderError> {
    let started = Instant::now();
    let mut found = encode_source(source, format, job.spec.quality, job.rung)?;
    let mut encoding = started.elapsed();
    let started = Instant::now();
    let placement = job.placement(found.file.len());
    let mut bytes = described(&found.file, format, job, placement)?;
    let mut mark = started.elapsed();
    let mut fit = None;
    if let Some(bytes_max) = job.finish.bytes_max() {
        fit = Some(Fit::Met);
        if format != Format::Png && bytes_max.exceeded_by(bytes.len()).is_some() {
            let started = Instant::now();
            let description_bytes = bytes.len().saturating_sub(found.file.len()) + PADDING_BYTES;
            let room = (bytes_max.get() as usize).saturating_sub(description_bytes);
            found = shrunk(source, format, job.rung, &found, room)?;
            encoding += started.elapsed();
            let started = Instant::now();
            bytes = described(&found.file, format, job, placement)?;
            mark += started.elapsed();
            fit = Some(if bytes_max.exceeded_by(bytes.len()).is_none() { Fit::Lowered } else { Fit::Missed });
        }
    }
    found.file = Vec::new();
    Ok(Made { bytes, found, placement, fit, encode: encoding, mark })
}

fn described(file: &[u8], format: Format, job: &RenderJob, placement: Placement) -> Result<Vec<u8>, RenderError> {
    let beside = job.manifest.as_ref().filter(|_| placement == Placement::Beside).map(|plan| plan.url.as_str());
    let size_px = (job.spec.width_px, job.spec.height_px);
    Ok(embed(file, &Metadata::of(format, size_px, job.finish.description(), job.drawn, beside))?)
}

/// The size of a JPEG with next to no picture that says what a finish says: no file of that finish is smaller.
#[must_use]
pub fn least_bytes(finish: &Finish) -> usize {
    let side_px = 8;
    let raster = Raster { width_px: side_px, height_px: side_px, rgb: vec![128; (side_px * side_px * 3) as usize] };
    let metadata = Metadata::of(Format::Jpeg, (side_px, side_px), finish.description(), None, None);
    // What fails here fails where a picture is made, and says why. Each rung has its encoder.
    let files = Rung::ALL.into_iter().filter_map(|rung| encode_native(&raster, Format::Jpeg, 1.0, rung).ok());
    files.filter_map(|found| embed(&found.file, &metadata).ok()).map(|file| file.len()).min().unwrap_or(0)
}

/// The format in which the same picture is a smaller file, or one as large: a final AVIF against the final WebP of the same spec, both as
/// they are sent. A tiny or flat picture is what AVIF loses.
///
/// An AVIF far below the WebP of the quick rung, whose score is a guess, is not compared further.
pub(super) fn smaller_as(source: &Source<'_>, job: &RenderJob, avif: &Made) -> Option<Format> {
    if job.spec.format != Format::Avif || job.rung != Rung::Final || !avif.has_its_quality() {
        return None;
    }
    // A format that cannot be encoded is none to send.
    let quick = encode_source(source, Format::Webp, job.spec.quality, Rung::Quick).ok()?;
    if avif.sent_bytes(job).saturating_mul(QUICK_PERCENT_MAX) <= quick.file.len().saturating_mul(100) {
        return None;
    }
    let webp = made(source, Format::Webp, job).ok()?;
    (webp.has_its_quality() && webp.sent_bytes(job) <= avif.sent_bytes(job)).then_some(Format::Webp)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bildkante_shared::ids::MasterId;

    use super::*;
    use crate::provenance::Marking;
    use crate::render::{BytesMax, Quality, RenditionSpec, Shape};

    /// With detail at every scale.
    fn textured(width_px: u32, height_px: u32) -> Raster {
        let level = |x: u32, y: u32| (x * 3 / 2 + y + (x * x / 7 + y * 13) % 61 + (x * 31 + y * 17) % 23) as u8;
        let pixels = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y)));
        let rgb = pixels.flat_map(|(x, y)| [level(x, y), level(y, x), level(x / 2, y)]).collect();
        Raster { width_px, height_px, rgb }
    }

    fn job(raster: &Raster, format: Format, rung: Rung, bytes_max: Option<usize>) -> RenderJob {
        let spec = RenditionSpec {
            width_px: raster.width_px,
            height_px: raster.height_px,
            shape: Shape::DEFAULT,
            format,
            quality: Quality::AUTO,
        };
        let bytes_max = bytes_max.map(|bytes| BytesMax::new(u32::try_from(bytes).unwrap()).expect("a bound"));
        let finish = Finish::of_generated(Marking::default()).within(bytes_max);
        RenderJob::new(MasterId::of_bytes(b"master"), spec, rung, Arc::new(finish))
    }

    fn of(raster: &Raster, format: Format, rung: Rung, bytes_max: Option<usize>) -> Made {
        made(&Source::new(raster), format, &job(raster, format, rung, bytes_max)).expect("a file")
    }

    #[test]
    fn a_bounded_file_has_the_best_quality_that_fits() {
        let raster = textured(200, 140);
        for format in [Format::Avif, Format::Webp, Format::Jpeg] {
            for rung in Rung::ALL {
                let free = of(&raster, format, rung, None);
                assert_eq!(free.fit, None);
                let met = of(&raster, format, rung, Some(free.bytes.len()));
                assert_eq!((met.fit, &met.bytes), (Some(Fit::Met), &free.bytes), "{format:?} {rung:?}");
                let bound = free.bytes.len() * 6 / 10;
                let lowered = of(&raster, format, rung, Some(bound));
                assert_eq!(lowered.fit, Some(Fit::Lowered), "{format:?} {rung:?}");
                assert!(
                    lowered.bytes.len() <= bound && lowered.found.native < free.found.native,
                    "{format:?} {rung:?}"
                );
                if rung == Rung::Final {
                    let (has, score) = (lowered.bytes.len(), |made: &Made| made.found.score.expect("a score"));
                    // A JPEG loses half of its chroma at one step of quality.
                    assert!(has * 100 >= bound * 75, "{format:?}: {has} of {bound} bytes");
                    assert!(score(&lowered) < score(&free), "{format:?}");
                }
                assert_eq!(of(&raster, format, rung, Some(bound)).bytes, lowered.bytes, "{format:?} {rung:?}");
            }
        }
    }

    #[test]
    fn a_picture_that_fits_at_no_quality_is_as_small_as_its_format_makes_it() {
        let raster = textured(320, 240);
        for (format, rung) in [(Format::Jpeg, Rung::Final), (Format::Webp, Rung::Quick)] {
            let made = of(&raster, format, rung, Some(1000));
            assert_eq!(made.fit, Some(Fit::Missed), "{format:?}");
            let (least, _) = crate::render::quality::native_range(format);
            assert!((made.found.native - least).abs() < 0.01, "{format:?}: {}", made.found.native);
        }
    }

    #[test]
    fn a_final_avif_knows_whether_the_webp_is_smaller() {
        let flat = Raster { width_px: 64, height_px: 48, rgb: [200, 40, 30].repeat(64 * 48) };
        let told = |raster: &Raster, rung| {
            let job = job(raster, Format::Avif, rung, None);
            let source = Source::new(raster);
            let avif = made(&source, Format::Avif, &job).expect("a file");
            let webp = made(&source, Format::Webp, &job).expect("a file");
            (smaller_as(&source, &job, &avif), webp.bytes.len() <= avif.bytes.len())
        };
        assert_eq!(told(&flat, Rung::Final), (Some(Format::Webp), true));
        assert_eq!(told(&flat, Rung::Quick).0, None);
        for raster in [textured(64, 48), textured(300, 200)] {
            let (smaller, is_smaller) = told(&raster, Rung::Final);
            assert_eq!(smaller.is_some(), is_smaller);
        }
    }

    #[test]
    fn every_file_of_a_finish_is_larger_than_what_it_says() {
        let finish = Finish::of_generated(Marking { creator: Some("x".repeat(500)), ..Marking::default() });
        assert!(least_bytes(&finish) > least_bytes(&Finish::of_generated(Marking::default())) + 500);
        let flat = Raster { width_px: 16, height_px: 16, rgb: vec![90; 16 * 16 * 3] };
        let least = least_bytes(&Finish::of_generated(Marking::default()));
        assert!(of(&flat, Format::Jpeg, Rung::Final, None).bytes.len() >= least);
    }
}
