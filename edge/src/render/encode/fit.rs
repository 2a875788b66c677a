//! A file that is not too large: the best quality that fits, below one that does not.
//!
//! Between a quality whose file fits and one whose file does not, the next try is where a straight line of the files' logarithms meets the
//! bound. Readers who wait get the first file that fits, a final one goes on until its file is near the bound or no quality lies between.

use super::score::Judge as _;
use super::{EncodeError, Encoding, Found, Rung, Source, guarded, open};
use crate::render::entropy::log2;
use crate::render::quality;
use crate::words::Format;

/// Files of one picture at most, the lowest quality not counted.
const TRIES_MAX: [u32; Rung::ALL.len()] = [3, 3, 8];
/// Of the bound: what is tried for, and from where on a final file is near enough.
const AIM_PERCENT: usize = 98;
const NEAR_PERCENT: usize = 96;
/// How much of an encoder's scale halves a file, before two tries have told.
const HALVING_SHARE: f32 = 0.2;

#[derive(Debug, Clone, Copy)]
struct Tried {
    native: f32,
    bytes: usize,
}

/// The qualities between which the best that fits lies.
struct Between {
    fits: Option<Tried>,
    too_large: Tried,
    aim_bytes: usize,
    step: f32,
    range: (f32, f32),
}

impl Between {
    /// Where to try next; `None` where no quality lies between.
    fn next(&self) -> Option<f32> {
        let (least, most) = self.range;
        let too_large = self.too_large;
        let (from, to) = (self.fits.map_or(least, |fits| fits.native + self.step), too_large.native - self.step);
        if from > to {
            return None;
        }
        let over = log2(too_large.bytes as u64) - log2(self.aim_bytes as u64);
        let by = match self.fits {
            Some(fits) => {
                let span = (log2(too_large.bytes as u64) - log2(fits.bytes as u64)).max(0.001);
                (too_large.native - fits.native) * (over / span)
            }
            None => (most - least) * HALVING_SHARE * over,
        };
        let next = too_large.native - by;
        Some(((next / self.step).round() * self.step).clamp(from, to))
    }
}

/// `first` is the file at the quality that was asked for, which has more than `bytes_max`. What is given has more, too, where the lowest
/// quality has.
///
/// # Errors
/// As [`super::encode`].
pub(in crate::render) fn shrunk(
    source: &Source<'_>,
    format: Format,
    rung: Rung,
    first: &Found,
    bytes_max: usize,
) -> Result<Found, EncodeError> {
    guarded(format, || {
        let rung = source.encoder_rung(format, rung);
        let reference = source.judge(format, rung);
        let mut encoding = open(source.raster, format, rung, first.chroma)?;
        let mut found = search(&mut *encoding, (format, rung), first, bytes_max)?;
        found.score = match reference {
            Some(reference) => Some(reference.score(&encoding.decoded(&found.file)?)?),
            None => None,
        };
        Ok(found)
    })
}

fn search(
    encoding: &mut dyn Encoding,
    (format, rung): (Format, Rung),
    first: &Found,
    bytes_max: usize,
) -> Result<Found, String> {
    let range = quality::native_range(format);
    let (step, aim_bytes) = (encoding.step(), bytes_max * AIM_PERCENT / 100);
    let too_large = Tried { native: first.native, bytes: first.file.len() };
    let mut between = Between { fits: None, too_large, aim_bytes, step, range };
    let (mut best, mut tries) = (None, 0);
    while tries < TRIES_MAX[rung as usize]
        && let Some(native) = between.next()
    {
        tries += 1;
        let file = encoding.encode(native)?;
        let tried = Tried { native, bytes: file.len() };
        if file.len() > bytes_max {
            between.too_large = tried;
            continue;
        }
        let is_near = file.len() * 100 >= bytes_max * NEAR_PERCENT;
        between.fits = Some(tried);
        best = Some((file, native));
        if is_near || rung != Rung::Final {
            break;
        }
    }
    let (file, native) = match best {
        Some(best) => best,
        None => {
            tries += 1;
            (encoding.encode(range.0)?, range.0)
        }
    };
    Ok(Found { file, native, score: None, encodes: first.encodes + tries, ..first.without_file() })
}
