//! One encoder per format and rung behind one trait; each on the calling thread, each from its own crate.
//!
//! A quick file's quality is tried out on strips of the picture (`sample`); a final is searched for (`search`). A panic in an encoder becomes an
//! error here: the job fails, the thread lives on.

mod avif;
mod features;
mod fit;
mod jpeg;
mod png;
mod sample;
mod score;
mod search;
mod webp;
mod ycbcr;

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::resize::Raster;
use super::{Rung, panic_text, quality};
use crate::render::Quality;
use crate::words::Format;
use sample::Sample;
use score::{Judge as _, Reference};
use ycbcr::Chroma;

pub(crate) use features::{COUNT as FEATURES, Features};
pub(super) use fit::shrunk;
pub use search::{Found, TOLERANCE};

/// From this area on, and up to this share of places where hardly anything changes, a quick AVIF is encoded as a hurried one.
const HURRIED_AREA_PX: u64 = 1 << 17;
const HURRIED_FLAT_SHARE: f32 = 0.48;

/// Why an encoder gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the {} encoder failed: {reason}", .format.as_str())]
    Failed { format: Format, reason: String },
    #[error("the {} encoder panicked: {reason}", .format.as_str())]
    Panicked { format: Format, reason: String },
}

/// A picture to be encoded, perhaps more than once, and what is known of it: each made when it is first asked for.
pub(super) struct Source<'r> {
    raster: &'r Raster,
    features: OnceCell<Features>,
    /// `None` inside where the picture is too small to be judged.
    reference: OnceCell<Option<Reference>>,
}

impl<'r> Source<'r> {
    pub(super) const fn new(raster: &'r Raster) -> Self {
        Self { raster, features: OnceCell::new(), reference: OnceCell::new() }
    }

    fn features(&self) -> &Features {
        self.features.get_or_init(|| Features::of(self.raster))
    }

    fn reference(&self) -> Option<&Reference> {
        self.reference.get_or_init(|| Reference::new(self.raster)).as_ref()
    }

    /// The rung whose encoder makes the file. A picture full of texture takes the quick one's of AVIF longest, at 1280 px up to a third of a
    /// second, and gains least: the hurried one's needs about half of the time there, a seventh where it is large, and hardly more bytes in the median. Calmer pictures
    /// would take 1.05 to 1.9 times the bytes (docs/encoders.md).
    fn encoder_rung(&self, format: Format, rung: Rung) -> Rung {
        let area_px = u64::from(self.raster.width_px) * u64::from(self.raster.height_px);
        let is_quick_avif = (format, rung) == (Format::Avif, Rung::Quick);
        if is_quick_avif && area_px >= HURRIED_AREA_PX && self.features().flat_share() < HURRIED_FLAT_SHARE {
            Rung::Hurried
        } else {
            rung
        }
    }

    /// What a file of that format and rung is judged by.
    fn judge(&self, format: Format, rung: Rung) -> Option<&Reference> {
        if rung == Rung::Final && format != Format::Png { self.reference() } else { None }
    }
}

/// An encoder with a picture in it.
trait Encoding {
    /// At a quality of the encoder's own scale.
    fn encode(&mut self, native: f32) -> Result<Vec<u8>, String>;

    /// A cheaper file of about the same score, of a final; `None` where there is none.
    fn probe(&mut self, _native: f32) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    /// How many points of score more the file has than its probe, in the median.
    fn probe_gain(&self) -> f64 {
        0.0
    }

    /// The pixels of one of its files.
    fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String>;

    /// The least difference of quality that changes a file.
    fn step(&self) -> f32 {
        0.5
    }
}

/// Without a chroma one is chosen that does without having looked.
fn open<'r>(
    raster: &'r Raster,
    format: Format,
    rung: Rung,
    chroma: Option<Chroma>,
) -> Result<Box<dyn Encoding + 'r>, String> {
    Ok(match format {
        #[cfg(feature = "aom")]
        Format::Avif => Box::new(avif::aom::Aom::new(raster, rung, chroma)?),
        #[cfg(not(feature = "aom"))]
        Format::Avif => Box::new(avif::ravif::Ravif::new(raster, rung)),
        Format::Webp => Box::new(webp::Webp { raster, rung }),
        #[cfg(feature = "mozjpeg")]
        Format::Jpeg if rung == Rung::Final => Box::new(jpeg::moz::Moz::new(raster, chroma)),
        Format::Jpeg => Box::new(jpeg::Jpeg::new(raster, rung, chroma)),
        #[cfg(feature = "oxipng")]
        Format::Png if rung == Rung::Final => Box::new(png::oxi::Oxi { raster }),
        Format::Png => Box::new(png::Png { raster, rung }),
    })
}

/// Whether it is worth looking what halving a picture's chroma costs: where the encoder has a choice.
const fn has_choice_of_chroma(format: Format, rung: Rung) -> bool {
    matches!((format, rung), (Format::Jpeg, Rung::Quick | Rung::Final))
        || (cfg!(feature = "aom") && matches!((format, rung), (Format::Avif, Rung::Quick)))
}

/// Encodes without any metadata. `quality` is perceptual; `png` is lossless and ignores it.
///
/// # Errors
/// When the encoder refuses or panics.
pub fn encode(raster: &Raster, format: Format, quality: Quality, rung: Rung) -> Result<Found, EncodeError> {
    encode_source(&Source::new(raster), format, quality, rung)
}

/// The same of a picture that is encoded more than once.
pub(super) fn encode_source(
    source: &Source<'_>,
    format: Format,
    quality: Quality,
    rung: Rung,
) -> Result<Found, EncodeError> {
    guarded(format, || {
        let features = source.features();
        let encoder = source.encoder_rung(format, rung);
        let predicted = quality::predicted(quality, format, encoder, features);
        let range = quality::searched_range(quality, format, features);
        if format != Format::Png && rung != Rung::Hurried {
            if rung == Rung::Quick
                && let Some(sample) = Sample::of(source.raster, format)
            {
                return by_sample(source.raster, &sample, (format, encoder), quality, predicted, range);
            }
            if let Some(reference) = source.reference() {
                let looks = has_choice_of_chroma(format, rung);
                let chroma = looks.then(|| score::chroma(source.raster, reference)).transpose()?;
                let mut encoding = open(source.raster, format, encoder, chroma)?;
                let search = if rung == Rung::Final { search::search } else { search::quick };
                let found = search(&mut *encoding, reference, quality.get().into(), predicted, range)?;
                return Ok(Found { chroma, ..found });
            }
        }
        let (native, _) = predicted;
        let file = open(source.raster, format, encoder, None)?.encode(native)?;
        Ok(Found { file, native, score: None, encodes: 1, probes: 0, chroma: None })
    })
}

/// A quick file of a large picture, whose quality and chroma are those that a sample of it should have.
fn by_sample(
    raster: &Raster,
    sample: &Sample,
    (format, encoder): (Format, Rung),
    quality: Quality,
    predicted: (f32, f64),
    range: (f32, f32),
) -> Result<Found, String> {
    let looks = has_choice_of_chroma(format, Rung::Quick);
    let chroma = looks.then(|| sample.chroma()).transpose()?;
    let mut strips = open(sample.raster(), format, encoder, chroma)?;
    let (native, probes) = search::tried_out(&mut *strips, sample, sample.target(quality), predicted, range)?;
    let file = open(raster, format, encoder, chroma)?.encode(native)?;
    Ok(Found { file, native, score: None, encodes: 1, probes, chroma })
}

/// The same by the encoder of this very rung, at a quality of its own scale, clamped to it, and the score where the picture is large enough for
/// one. For calibration and measurement; all other callers use [`encode`].
///
/// # Errors
/// When the encoder refuses or panics.
pub fn encode_native(raster: &Raster, format: Format, native: f32, rung: Rung) -> Result<Found, EncodeError> {
    let (low, high) = quality::native_range(format);
    let native = if native.is_nan() { high } else { native.clamp(low, high) };
    guarded(format, || {
        let reference = Reference::new(raster);
        let chroma = match &reference {
            Some(reference) if rung == Rung::Final && has_choice_of_chroma(format, rung) => {
                Some(score::chroma(raster, reference)?)
            }
            _ => None,
        };
        let mut encoding = open(raster, format, rung, chroma)?;
        let file = encoding.encode(native)?;
        let score = match reference {
            Some(reference) => Some(reference.score(&encoding.decoded(&file)?)?),
            None => None,
        };
        Ok(Found { file, native, score, encodes: 1, probes: 0, chroma })
    })
}

/// The score of a file that [`encode`] made of this picture, `None` where it is too small for one. For measurement.
///
/// # Errors
/// Where the file cannot be decoded.
pub fn file_score(raster: &Raster, format: Format, file: &[u8]) -> Result<Option<f64>, EncodeError> {
    let score = || -> Result<Option<f64>, String> {
        let Some(reference) = Reference::new(raster) else { return Ok(None) };
        Ok(Some(reference.score(&open(raster, format, Rung::Quick, None)?.decoded(file)?)?))
    };
    score().map_err(|reason| EncodeError::Failed { format, reason })
}

/// What the prediction is made from; for calibration.
#[must_use]
pub fn features(raster: &Raster) -> [f32; FEATURES] {
    *Features::of(raster).numbers()
}

fn guarded(format: Format, work: impl FnOnce() -> Result<Found, String>) -> Result<Found, EncodeError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(reason)) => Err(EncodeError::Failed { format, reason }),
        Err(panic) => Err(EncodeError::Panicked { format, reason: panic_text(&*panic) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(width_px: u32, height_px: u32, level: impl Fn(u32, u32) -> u8) -> Raster {
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| [level(x, y); 3]);
        Raster { width_px, height_px, rgb: rgb.collect() }
    }

    fn rough(x: u32, y: u32) -> u8 {
        (x * 31 + y * 17 + x * y / 5) as u8
    }

    #[test]
    fn a_large_rough_picture_is_encoded_sooner() {
        let rough_one = raster(1024, 512, rough);
        let of = |raster: &Raster, format, rung| Source::new(raster).encoder_rung(format, rung);
        assert_eq!(of(&rough_one, Format::Avif, Rung::Quick), Rung::Hurried);
        for (format, rung) in [(Format::Avif, Rung::Final), (Format::Webp, Rung::Quick), (Format::Jpeg, Rung::Quick)] {
            assert_eq!(of(&rough_one, format, rung), rung);
        }
        assert_eq!(of(&raster(511, 256, rough), Format::Avif, Rung::Quick), Rung::Quick, "small");
        let calm = raster(1024, 512, |x, y| if y < 256 { 200 } else { rough(x, y) });
        assert_eq!(of(&calm, Format::Avif, Rung::Quick), Rung::Quick, "half of it is calm");
        let found = encode(&rough_one, Format::Avif, Quality::LOW, Rung::Quick).expect("a picture");
        let same = encode_native(&rough_one, Format::Avif, found.native, Rung::Hurried).expect("a picture");
        assert!(found.file == same.file, "{} bytes, {}", found.file.len(), same.file.len());
    }

    #[test]
    fn a_quick_file_of_a_small_picture_has_its_score() {
        let picture = raster(200, 140, |x, y| (x * 3 / 2 + y + (x * x / 7 + y * 13) % 61) as u8);
        for format in [Format::Avif, Format::Webp, Format::Jpeg] {
            let found = encode(&picture, format, Quality::AUTO, Rung::Quick).expect("a picture");
            let score = file_score(&picture, format, &found.file).expect("its own file");
            assert_eq!(found.score, score, "{format:?}");
            assert!(score.is_some_and(|score| (score - 70.0).abs() <= 4.0), "{format:?}: {score:?}");
            assert!((1..=3).contains(&found.encodes), "{format:?}: {}", found.encodes);
        }
    }

    #[test]
    fn coloured_stripes_keep_their_chroma_on_the_quick_rung_and_grey_ones_do_not_need_it() {
        for (width_px, height_px) in [(160, 120), (640, 900)] {
            let grey = raster(width_px, height_px, |x, y| if (x + y) % 3 == 0 { 40 } else { 200 });
            let mut coloured = grey.clone();
            coloured.rgb.chunks_exact_mut(3).for_each(|px| px.swap_with_slice(&mut [px[0], 60, 240 - px[0]]));
            for format in [Format::Avif, Format::Jpeg] {
                let chroma = |raster| encode(raster, format, Quality::LOW, Rung::Quick).expect("a picture").chroma;
                let full = has_choice_of_chroma(format, Rung::Quick).then_some(Chroma::Full);
                assert_eq!(chroma(&coloured), full, "{format:?} of {width_px}×{height_px}");
                assert_eq!(chroma(&grey), full.map(|_| Chroma::Half), "{format:?} of {width_px}×{height_px}");
            }
        }
    }
}
