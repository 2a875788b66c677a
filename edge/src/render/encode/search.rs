//! The quality of one file: a prediction, and for finals a bracketed search around it.
//!
//! `q` names a score of SSIMULACRA2 (see `quality`). A quick file is encoded once, at the quality predicted. A final is tried until its
//! score is within [`TOLERANCE`] of the target: first with probes, where its encoder has cheaper ones, then with itself. Between a try
//! that was too low and one that was too high the next is where a straight line meets the target; so the bracket only shrinks, and where no
//! quality lies between its ends the nearer one is taken. Nothing is learned from other pictures while the edge runs: the same
//! pixels give the same file on every edge.

use super::Encoding;
use super::score::Reference;

/// How far from the target a score may lie.
pub const TOLERANCE: f64 = 1.0;
/// Encodes of one file at most.
const ENCODES_MAX: u32 = 5;
/// And probes before them.
const PROBES_MAX: u32 = 5;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub file: Vec<u8>,
    /// The encoder's own quality.
    pub native: f32,
    /// SSIMULACRA2 against the pixels that were encoded; `None` where it was not measured.
    pub score: Option<f64>,
    /// Whole encodes, and cheaper ones before them.
    pub encodes: u32,
    pub probes: u32,
}

/// One try.
#[derive(Clone, Copy)]
struct Tried {
    native: f32,
    score: f64,
}

struct Bracket {
    /// Points of score for one of quality, where no second try has told yet.
    slope: f64,
    low: Option<Tried>,
    high: Option<Tried>,
}

impl Bracket {
    const fn new(slope: f64) -> Self {
        Self { slope, low: None, high: None }
    }

    fn add(&mut self, tried: Tried, target: f64) {
        if tried.score < target {
            self.low = Some(tried);
        } else {
            self.high = Some(tried);
        }
    }

    /// Where to try next; `None` where no quality lies between.
    #[allow(clippy::cast_possible_truncation, reason = "qualities are small")]
    fn next(&self, target: f64, (least, most): (f32, f32), step: f32) -> Option<f32> {
        let next = match (self.low, self.high) {
            (Some(low), Some(high)) => {
                let share = (target - low.score) / (high.score - low.score).max(0.01);
                // Never onto an end of the bracket.
                let (from, to) = (low.native + step, high.native - step);
                if from > to {
                    return None;
                }
                (low.native + (high.native - low.native) * share as f32).clamp(from, to)
            }
            (Some(end), None) => end.native + by_slope(target - end.score, self.slope).max(step),
            (None, Some(end)) => end.native + by_slope(target - end.score, self.slope).min(-step),
            (None, None) => return None,
        };
        let next = (next / step).round() * step;
        let next = next.clamp(least, most);
        let is_new = [self.low, self.high].into_iter().flatten().all(|tried| (tried.native - next).abs() >= step / 2.0);
        is_new.then_some(next)
    }
}

/// `range` is the encoder's scale, `slope` how many points of score one of its qualities is worth near the one predicted.
pub(super) fn search(
    encoding: &mut dyn Encoding,
    reference: &Reference,
    target: f64,
    (predicted, slope): (f32, f64),
    range: (f32, f32),
) -> Result<Found, String> {
    let step = encoding.step();
    let (mut native, probes) = probed(encoding, reference, target, (nearest(predicted, step, range), slope), range)?;
    let mut bracket = Bracket::new(slope);
    let mut best: Option<Found> = None;
    for encodes in 1..=ENCODES_MAX {
        let file = encoding.encode(native)?;
        let score = reference.score(&encoding.decoded(&file)?)?;
        bracket.add(Tried { native, score }, target);
        let miss = |found: &Found| found.score.map_or(f64::MAX, |score| (score - target).abs());
        if best.as_ref().is_none_or(|best| (score - target).abs() < miss(best)) {
            best = Some(Found { file, native, score: Some(score), encodes, probes });
        }
        if let Some(best) = &mut best {
            best.encodes = encodes;
        }
        if (score - target).abs() <= TOLERANCE {
            break;
        }
        let Some(next) = bracket.next(target, range, step) else { break };
        native = next;
    }
    best.ok_or_else(|| "no quality was tried".to_owned())
}

/// Steps of quality for so many points of score.
#[allow(clippy::cast_possible_truncation, reason = "a score is some hundreds at most")]
fn by_slope(score: f64, slope: f64) -> f32 {
    (score / slope) as f32
}

/// The quality whose probe came nearest to what the final would make of it, and how many it took.
fn probed(
    encoding: &mut dyn Encoding,
    reference: &Reference,
    target: f64,
    (predicted, slope): (f32, f64),
    range: (f32, f32),
) -> Result<(f32, u32), String> {
    let (step, target) = (encoding.step(), target - encoding.probe_gain());
    let mut bracket = Bracket::new(slope);
    let mut best: Option<Tried> = None;
    let mut native = predicted;
    for probes in 1..=PROBES_MAX {
        let Some(file) = encoding.probe(native) else { return Ok((predicted, 0)) };
        let tried = Tried { native, score: reference.score(&encoding.decoded(&file?)?)? };
        bracket.add(tried, target);
        let miss = |tried: &Tried| (tried.score - target).abs();
        if best.as_ref().is_none_or(|best| miss(&tried) < miss(best)) {
            best = Some(tried);
        }
        let next = bracket.next(target, range, step);
        match (best, next) {
            (Some(best), None) => return Ok((best.native, probes)),
            (Some(best), Some(_)) if miss(&best) <= TOLERANCE * 0.7 => return Ok((best.native, probes)),
            (_, Some(next)) => native = next,
            (None, None) => break,
        }
    }
    Ok((best.map_or(predicted, |best| best.native), PROBES_MAX))
}

fn nearest(native: f32, step: f32, (least, most): (f32, f32)) -> f32 {
    ((native / step).round() * step).clamp(least, most)
}
