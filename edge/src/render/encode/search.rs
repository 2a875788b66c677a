//! The quality of one file: a prediction, and a bracketed search around it, which is short for a quick file.
//!
//! `q` names a score of SSIMULACRA2 (see `quality`). A quick file's quality is tried out, on strips of the picture or on all of a small one. A
//! final is tried until its score is within [`TOLERANCE`] of the target: first with probes, where its encoder has cheaper ones, then with
//! itself. Between a try
//! that was too low and one that was too high the next is where a straight line meets the target; so the bracket only shrinks, and where no
//! quality lies between its ends the nearer one is taken. Nothing is learned from other pictures while the edge runs: the same
//! pixels give the same file on every edge.

use super::Encoding;
use super::score::Judge;
use super::ycbcr::Chroma;

/// How far from the target a score may lie.
pub const TOLERANCE: f64 = 1.0;
/// Encodes of one file at most.
const ENCODES_MAX: u32 = 5;
/// And probes before them.
const PROBES_MAX: u32 = 5;
/// A probe only says where to begin: it has to come nearer.
const PROBE_TOLERANCE: f64 = TOLERANCE * 0.7;

/// Tries of a quick file's quality on strips at most.
const SAMPLE_TRIES_MAX: u32 = 2;
/// What is further off than this is tried once more. Below, the slope of the scale tells where the score is met, as near as strips can tell.
const SAMPLE_TOLERANCE: f64 = 5.0;
/// Encodes of a quick file at most, where the whole picture is tried, and how near they come.
const QUICK_ENCODES_MAX: u32 = 3;
const QUICK_TOLERANCE: f64 = 2.0;

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
    /// `None` where what halving it costs was not measured.
    pub(super) chroma: Option<Chroma>,
}

impl Found {
    pub(super) const fn without_file(&self) -> Self {
        let Self { native, score, encodes, probes, chroma, .. } = *self;
        Self { file: Vec::new(), native, score, encodes, probes, chroma }
    }
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
    /// Whether the last try took the end of the one before it.
    is_one_sided: bool,
}

impl Bracket {
    const fn new(slope: f64) -> Self {
        Self { slope, low: None, high: None, is_one_sided: false }
    }

    fn add(&mut self, tried: Tried, target: f64) {
        let end = if tried.score < target { &mut self.low } else { &mut self.high };
        let was_there = end.replace(tried).is_some();
        self.is_one_sided = was_there && self.low.is_some() && self.high.is_some();
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
                // On a bent curve straight lines come near from one side only: then half of the way to the middle.
                let share = if self.is_one_sided { (share + 0.5) / 2.0 } else { share };
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

/// What is looked for.
#[derive(Clone, Copy)]
struct Goal {
    score: f64,
    /// How far from it a score may lie.
    tolerance: f64,
    tries_max: u32,
    /// Points of score for one of the encoder's qualities, near the one predicted.
    slope: f64,
    /// Of those qualities.
    step: f32,
    range: (f32, f32),
}

/// The try that came nearest, and how many there were.
struct Nearest {
    file: Vec<u8>,
    tried: Tried,
    tries: u32,
    /// Where the next try would have been, had there been one.
    next: Option<f32>,
}

/// `range` is the encoder's scale, `slope` how many points of score one of its qualities is worth near the one predicted.
pub(super) fn search(
    encoding: &mut dyn Encoding,
    judge: &dyn Judge,
    target: f64,
    (predicted, slope): (f32, f64),
    range: (f32, f32),
) -> Result<Found, String> {
    let step = encoding.step();
    let whole = Goal { score: target, tolerance: TOLERANCE, tries_max: ENCODES_MAX, slope, step, range };
    let probing =
        Goal { score: target - encoding.probe_gain(), tolerance: PROBE_TOLERANCE, tries_max: PROBES_MAX, ..whole };
    let start = nearest(predicted, step, range);
    let probed = narrowed(encoding, judge, probing, start, |encoding, native| encoding.probe(native))?;
    let (start, probes) = probed.map_or((start, 0), |probed| (probed.tried.native, probed.tries));
    let found = narrowed(encoding, judge, whole, start, |encoding, native| encoding.encode(native).map(Some))?;
    let Nearest { file, tried, tries, .. } = found.ok_or("no quality was tried")?;
    Ok(Found { file, native: tried.native, score: Some(tried.score), encodes: tries, probes, chroma: None })
}

/// The best of a few files of a small picture.
pub(super) fn quick(
    encoding: &mut dyn Encoding,
    judge: &dyn Judge,
    target: f64,
    (predicted, slope): (f32, f64),
    range: (f32, f32),
) -> Result<Found, String> {
    let step = encoding.step();
    let goal = Goal { score: target, tolerance: QUICK_TOLERANCE, tries_max: QUICK_ENCODES_MAX, slope, step, range };
    let start = nearest(predicted, step, range);
    let found = narrowed(encoding, judge, goal, start, |encoding, native| encoding.encode(native).map(Some))?;
    let Nearest { file, tried, tries, .. } = found.ok_or("no quality was tried")?;
    Ok(Found { file, native: tried.native, score: Some(tried.score), encodes: tries, probes: 0, chroma: None })
}

/// The quality at which what is in `encoding` has the score, by two tries at most, and how many there were.
pub(super) fn tried_out(
    encoding: &mut dyn Encoding,
    judge: &dyn Judge,
    target: f64,
    (predicted, slope): (f32, f64),
    range: (f32, f32),
) -> Result<(f32, u32), String> {
    let step = encoding.step();
    let goal = Goal { score: target, tolerance: SAMPLE_TOLERANCE, tries_max: SAMPLE_TRIES_MAX, slope, step, range };
    let start = nearest(predicted, step, range);
    let found = narrowed(encoding, judge, goal, start, |encoding, native| encoding.encode(native).map(Some))?;
    // What is nearer than half a step has no better neighbour.
    let is_met = |tried: &Tried| (tried.score - target).abs() <= slope * f64::from(step) / 2.0;
    let native = |found: &Nearest| found.next.filter(|_| !is_met(&found.tried)).unwrap_or(found.tried.native);
    Ok(found.map_or((predicted, 0), |found| (native(&found), found.tries)))
}

/// Tries until a score is near enough, or no quality lies between those that were tried. `None` where `attempt` gives no file.
fn narrowed(
    encoding: &mut dyn Encoding,
    judge: &dyn Judge,
    goal: Goal,
    start: f32,
    attempt: impl Fn(&mut dyn Encoding, f32) -> Result<Option<Vec<u8>>, String>,
) -> Result<Option<Nearest>, String> {
    let miss = |tried: &Tried| (tried.score - goal.score).abs();
    let mut bracket = Bracket::new(goal.slope);
    let mut best: Option<Nearest> = None;
    let (mut native, mut next) = (start, None);
    for tries in 1..=goal.tries_max {
        let Some(file) = attempt(encoding, native)? else { break };
        let tried = Tried { native, score: judge.score(&encoding.decoded(&file)?)? };
        bracket.add(tried, goal.score);
        match &mut best {
            Some(best) if miss(&best.tried) <= miss(&tried) => best.tries = tries,
            _ => best = Some(Nearest { file, tried, tries, next: None }),
        }
        next = bracket.next(goal.score, goal.range, goal.step);
        let Some(next) = next.filter(|_| miss(&tried) > goal.tolerance) else { break };
        native = next;
    }
    if let Some(best) = &mut best {
        best.next = next;
    }
    Ok(best)
}

/// Steps of quality for so many points of score.
#[allow(clippy::cast_possible_truncation, reason = "a score is some hundreds at most")]
fn by_slope(score: f64, slope: f64) -> f32 {
    (score / slope) as f32
}

fn nearest(native: f32, step: f32, (least, most): (f32, f32)) -> f32 {
    ((native / step).round() * step).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encoder whose files hold their quality, and lose more of the score the lower it is.
    struct Fake {
        /// Points that a probe loses more; `None` where there are no probes.
        probe_loses: Option<f32>,
        tried: Vec<f32>,
    }

    struct ScoreInFile;

    impl Judge for ScoreInFile {
        fn score(&self, rgb: &[u8]) -> Result<f64, String> {
            let bytes = rgb.try_into().map_err(|_| "no file of the fake".to_owned())?;
            Ok(f64::from(f32::from_le_bytes(bytes)))
        }
    }

    /// Steep at the lower end and flat at the upper one, as encoders' are.
    fn score_at(native: f32) -> f32 {
        95.0 - (100.0 - native).powi(2) / 60.0
    }

    impl Encoding for Fake {
        fn encode(&mut self, native: f32) -> Result<Vec<u8>, String> {
            self.tried.push(native);
            Ok(score_at(native).to_le_bytes().to_vec())
        }

        fn probe(&mut self, native: f32) -> Result<Option<Vec<u8>>, String> {
            Ok(self.probe_loses.map(|more| (score_at(native) - more).to_le_bytes().to_vec()))
        }

        fn decoded(&self, file: &[u8]) -> Result<Vec<u8>, String> {
            Ok(file.to_vec())
        }
    }

    fn fake(probe_loses: Option<f32>) -> Fake {
        Fake { probe_loses, tried: Vec::new() }
    }

    #[test]
    fn the_target_is_met_from_a_prediction_on_either_side() {
        for (target, predicted) in [(40.0, 99.0), (40.0, 20.0), (70.0, 35.0), (85.0, 99.0)] {
            let mut encoder = fake(None);
            let found = search(&mut encoder, &ScoreInFile, target, (predicted, 1.0), (0.0, 100.0)).expect("a file");
            let score = found.score.expect("a score");
            assert!((score - target).abs() <= TOLERANCE, "{target} from {predicted}: {score}, {:?}", encoder.tried);
            assert_eq!((found.encodes as usize, found.probes), (encoder.tried.len(), 0));
            assert!(found.encodes <= ENCODES_MAX);
        }
    }

    #[test]
    fn probes_spare_whole_encodes() {
        let mut encoder = fake(Some(0.0));
        let found = search(&mut encoder, &ScoreInFile, 80.0, (40.0, 1.0), (0.0, 100.0)).expect("a file");
        assert_eq!((found.encodes, encoder.tried.len()), (1, 1));
        assert!(found.probes >= 2, "{}", found.probes);
    }

    #[test]
    fn two_tries_come_near_the_target() {
        for (target, predicted) in [(70.0, 54.0), (70.0, 68.0), (85.0, 68.0), (60.0, 46.0)] {
            let mut encoder = fake(None);
            let tried = tried_out(&mut encoder, &ScoreInFile, target, (predicted, 1.0), (0.0, 100.0));
            let (native, tries) = tried.expect("a quality");
            assert_eq!(tries as usize, encoder.tried.len());
            assert!(tries <= SAMPLE_TRIES_MAX);
            let miss = |native| (f64::from(score_at(native)) - target).abs();
            let (now, before) = (miss(native), miss(predicted));
            assert!(now <= 1.5 && before > 5.0, "{target}: {before} off, then {now}, {:?}", encoder.tried);
        }
        let tried = tried_out(&mut fake(None), &ScoreInFile, 99.0, (50.0, 1.0), (0.0, 60.0)).expect("a quality");
        assert!((tried.0 - 60.0).abs() < f32::EPSILON, "{tried:?}");
    }

    #[test]
    fn a_score_out_of_reach_ends_at_the_end_of_the_scale() {
        let mut encoder = fake(None);
        let found = search(&mut encoder, &ScoreInFile, 99.0, (50.0, 1.0), (0.0, 60.0)).expect("a file");
        assert!((found.native - 60.0).abs() < f32::EPSILON && found.score.expect("a score") < 90.0);
        let found = search(&mut encoder, &ScoreInFile, 1.0, (90.0, 1.0), (80.0, 100.0)).expect("a file");
        assert!((found.native - 80.0).abs() < f32::EPSILON && found.score.expect("a score") > 10.0);
    }

    #[test]
    fn a_bracket_shrinks_and_ends_where_nothing_lies_between() {
        let mut bracket = Bracket::new(1.0);
        bracket.add(Tried { native: 10.0, score: 40.0 }, 50.0);
        assert_eq!(bracket.next(50.0, (0.0, 63.0), 1.0), Some(20.0));
        bracket.add(Tried { native: 20.0, score: 80.0 }, 50.0);
        assert_eq!(bracket.next(50.0, (0.0, 63.0), 1.0), Some(13.0));
        bracket.add(Tried { native: 13.0, score: 49.0 }, 50.0);
        bracket.add(Tried { native: 14.0, score: 52.0 }, 50.0);
        assert_eq!(bracket.next(50.0, (0.0, 63.0), 1.0), None);
    }
}
