//! Counting pairs of masters: histograms of their distances, and what each threshold would merge. Pure.

use bildkante_shared::wire::Duplicate;
use serde::Serialize;

use crate::config::DedupConfig;
use crate::dedup::ChromaDistance;

/// Lower ends of the rows of the luma histogram, of 256 bits.
const LUMA_ROWS: [u32; 12] = [0, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128];
/// The same of chroma, mean and peak, in 8-bit steps.
const MEAN_ROWS: [f64; 9] = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0];
const PEAK_ROWS: [f64; 9] = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0];
/// The same of SSIMULACRA2.
const SCORE_ROWS: [f64; 10] = [f64::NEG_INFINITY, 0.0, 30.0, 50.0, 60.0, 70.0, 80.0, 85.0, 90.0, 95.0];

/// Values of each threshold that are tried beside the configured one.
const LUMA_TRIED: [u32; 9] = [8, 12, 16, 20, 24, 28, 32, 40, 48];
const MEAN_TRIED: [f64; 7] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0];
const PEAK_TRIED: [f64; 7] = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0];
const SCORE_TRIED: [f64; 7] = [50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0];

/// Two masters of different variants in one scope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) luma: u32,
    pub(super) chroma: ChromaDistance,
    /// SSIMULACRA2, where the pixels were compared.
    pub(super) score: Option<f64>,
}

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) scopes: usize,
    pub(super) masters: usize,
    pub(super) masters_left_out: usize,
    pub(super) pairs: u64,
    pub(super) merges: usize,
    pub(super) not_compared: usize,
    pub(super) histograms: Vec<Histogram>,
    pub(super) thresholds: Vec<Threshold>,
}

#[derive(Debug, Serialize)]
pub(super) struct Histogram {
    pub(super) of: &'static str,
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) range: String,
    pub(super) pairs: u64,
    pub(super) merges: u64,
}

/// A threshold at several values, the others as they are configured.
#[derive(Debug, Serialize)]
pub(super) struct Threshold {
    pub(super) key: &'static str,
    pub(super) rows: Vec<Tried>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tried {
    pub(super) value: f64,
    pub(super) is_configured: bool,
    /// Pairs of masters that are two today.
    pub(super) would_merge: usize,
    /// Merges made that would not be made.
    pub(super) would_split: usize,
}

/// Counts pairs.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    config: &'a DedupConfig,
    merges: &'a [Duplicate],
    luma: [u64; LUMA_ROWS.len()],
    left_out: usize,
    /// Those within the largest luma threshold that is tried.
    near: Vec<Pair>,
}

impl<'a> Tally<'a> {
    pub(super) const fn new(config: &'a DedupConfig, merges: &'a [Duplicate]) -> Self {
        Self { config, merges, luma: [0; LUMA_ROWS.len()], left_out: 0, near: Vec::new() }
    }

    /// Masters that are compared with none.
    pub(super) const fn left_out(&mut self, masters: usize) {
        self.left_out += masters;
    }

    /// Counts a pair by its luma.
    pub(super) fn count(&mut self, luma: u32) {
        self.luma[row_of(&LUMA_ROWS, &luma)] += 1;
    }

    /// Whether some luma threshold that is tried takes a pair in.
    pub(super) fn is_near(&self, luma: u32) -> bool {
        luma <= largest(&LUMA_TRIED, self.config.luma_distance_max)
    }

    /// Whether some threshold that is tried may merge a pair, so that its pixels have to be compared.
    pub(super) fn may_merge(&self, pair: &Pair) -> bool {
        let widest = DedupConfig {
            luma_distance_max: largest(&LUMA_TRIED, self.config.luma_distance_max),
            chroma_distance_max: MEAN_TRIED.into_iter().fold(self.config.chroma_distance_max, f64::max),
            chroma_peak_max: PEAK_TRIED.into_iter().fold(self.config.chroma_peak_max, f64::max),
            ..self.config.clone()
        };
        passes_before_pixels(pair, &widest)
    }

    /// Takes in near pairs.
    pub(super) fn take(&mut self, pairs: impl Iterator<Item = Pair>) {
        self.near.extend(pairs);
    }

    pub(super) fn report(&self, scopes: usize, masters: usize) -> Report {
        let not_compared = self.near.iter().filter(|pair| self.may_merge(pair) && pair.score.is_none()).count();
        Report {
            scopes,
            masters,
            masters_left_out: self.left_out,
            pairs: self.luma.iter().sum(),
            merges: self.merges.len(),
            not_compared,
            histograms: self.histograms(),
            thresholds: self.thresholds(),
        }
    }

    fn histograms(&self) -> Vec<Histogram> {
        let luma_max = self.config.luma_distance_max;
        let near: Vec<&Pair> = self.near.iter().filter(|pair| pair.luma <= luma_max).collect();
        let luma = rows(&LUMA_ROWS, &[], self.merges.iter().map(|merge| merge.distance));
        let luma = luma.into_iter().zip(self.luma).map(|(row, pairs)| Row { pairs, ..row }).collect();
        let means: Vec<f64> = near.iter().map(|pair| pair.chroma.mean).collect();
        let peaks: Vec<f64> = near.iter().map(|pair| pair.chroma.peak).collect();
        let confirmed = near.iter().filter(|pair| passes_before_pixels(pair, self.config));
        let scores: Vec<f64> = confirmed.filter_map(|pair| pair.score).collect();
        let merged_means = self.merges.iter().map(|merge| merge.chroma_distance);
        let merged_scores = self.merges.iter().map(|merge| merge.ssimulacra2);
        vec![
            Histogram { of: "luma distance, bits of 256", rows: luma },
            Histogram { of: "chroma mean, of pairs near in luma", rows: rows(&MEAN_ROWS, &means, merged_means) },
            Histogram { of: "chroma peak, of pairs near in luma", rows: rows(&PEAK_ROWS, &peaks, std::iter::empty()) },
            Histogram { of: "SSIMULACRA2, of pairs near in both", rows: rows(&SCORE_ROWS, &scores, merged_scores) },
        ]
    }

    fn thresholds(&self) -> Vec<Threshold> {
        let own = self.config;
        let luma = with(&LUMA_TRIED.map(f64::from), f64::from(own.luma_distance_max));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of at most 256")]
        let at_luma = |value: f64| DedupConfig { luma_distance_max: value as u32, ..own.clone() };
        let at_mean = |value| DedupConfig { chroma_distance_max: value, ..own.clone() };
        let at_peak = |value| DedupConfig { chroma_peak_max: value, ..own.clone() };
        let at_score = |value| DedupConfig { ssimulacra2_min: value, ..own.clone() };
        let (mean, peak, score) = (own.chroma_distance_max, own.chroma_peak_max, own.ssimulacra2_min);
        vec![
            self.tried("dedup.luma_distance_max", &luma, f64::from(own.luma_distance_max), at_luma),
            self.tried("dedup.chroma_distance_max", &with(&MEAN_TRIED, mean), mean, at_mean),
            self.tried("dedup.chroma_peak_max", &with(&PEAK_TRIED, peak), peak, at_peak),
            self.tried("dedup.ssimulacra2_min", &with(&SCORE_TRIED, score), score, at_score),
        ]
    }

    fn tried(&self, key: &'static str, values: &[f64], own: f64, at: impl Fn(f64) -> DedupConfig) -> Threshold {
        let rows = values.iter().map(|value| {
            let config = at(*value);
            let is_merged = |pair: &&Pair| {
                passes_before_pixels(pair, &config) && pair.score.is_some_and(|score| score >= config.ssimulacra2_min)
            };
            let is_split = |merge: &&Duplicate| {
                merge.distance > config.luma_distance_max
                    || merge.chroma_distance > config.chroma_distance_max
                    || merge.ssimulacra2 < config.ssimulacra2_min
            };
            Tried {
                value: *value,
                is_configured: value.total_cmp(&own).is_eq(),
                would_merge: self.near.iter().filter(is_merged).count(),
                would_split: self.merges.iter().filter(is_split).count(),
            }
        });
        Threshold { key, rows: rows.collect() }
    }
}

fn passes_before_pixels(pair: &Pair, config: &DedupConfig) -> bool {
    pair.luma <= config.luma_distance_max && pair.chroma.is_within(config)
}

fn largest(tried: &[u32], own: u32) -> u32 {
    tried.iter().copied().fold(own, u32::max)
}

/// The values that are tried and the configured one, ascending.
fn with(tried: &[f64], own: f64) -> Vec<f64> {
    let mut values = [tried, &[own]].concat();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// The last row that begins at or below a value.
fn row_of<T: PartialOrd>(rows: &[T], value: &T) -> usize {
    rows.iter().rposition(|from| from <= value).unwrap_or(0)
}

fn rows<T: PartialOrd + Copy + Into<f64>>(from: &[T], pairs: &[T], merges: impl Iterator<Item = T>) -> Vec<Row> {
    let range = |at: usize| match (from[at].into(), from.get(at + 1).map(|end| (*end).into())) {
        (start, Some(end)) if start.is_infinite() => format!("below {end}"),
        (start, Some(end)) => format!("{start} to below {end}"),
        (start, None) => format!("{start} and more"),
    };
    let mut rows: Vec<Row> = (0..from.len()).map(|at| Row { range: range(at), pairs: 0, merges: 0 }).collect();
    pairs.iter().for_each(|pair| rows[row_of(from, pair)].pairs += 1);
    merges.for_each(|merge| rows[row_of(from, &merge)].merges += 1);
    rows
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::MasterId;

    use super::*;

    fn pair(luma: u32, mean: f64, peak: f64, score: f64) -> Pair {
        Pair { luma, chroma: ChromaDistance { mean, peak }, score: Some(score) }
    }

    fn at(report: &Report, key: &str, value: f64) -> (usize, usize) {
        let threshold = report.thresholds.iter().find(|threshold| threshold.key == key).unwrap();
        let row = threshold.rows.iter().find(|row| (row.value - value).abs() < 1e-9).unwrap();
        (row.would_merge, row.would_split)
    }

    #[test]
    fn each_threshold_says_what_it_would_merge_and_split() {
        let config = DedupConfig { luma_distance_max: 22, ..DedupConfig::default() };
        let of = MasterId::from_raw([1; 16]);
        let merges = [Duplicate { of, distance: 10, chroma_distance: 1.2, ssimulacra2: 83.0 }];
        let mut tally = Tally::new(&config, &merges);
        let pairs =
            [pair(26, 1.0, 3.0, 90.0), pair(4, 2.2, 3.0, 90.0), pair(4, 1.0, 9.0, 90.0), pair(4, 1.0, 3.0, 72.0)];
        pairs.iter().for_each(|pair| tally.count(pair.luma));
        tally.count(200);
        assert!(pairs.iter().all(|pair| tally.is_near(pair.luma) && tally.may_merge(pair)) && !tally.is_near(200));
        tally.take(pairs.into_iter());
        let report = tally.report(1, 5);
        assert_eq!((report.pairs, report.merges, report.not_compared), (5, 1, 0));
        for (key, values) in [
            ("dedup.luma_distance_max", [(8.0, (0, 1)), (22.0, (0, 0)), (28.0, (1, 0))]),
            ("dedup.chroma_distance_max", [(1.0, (0, 1)), (2.0, (0, 0)), (2.5, (1, 0))]),
            ("dedup.chroma_peak_max", [(2.0, (0, 0)), (8.0, (0, 0)), (10.0, (1, 0))]),
            ("dedup.ssimulacra2_min", [(85.0, (0, 1)), (80.0, (0, 0)), (70.0, (1, 0))]),
        ] {
            for (value, expected) in values {
                assert_eq!(at(&report, key, value), expected, "{key} = {value}");
            }
        }
        let configured = report.thresholds.iter().flat_map(|threshold| &threshold.rows).filter(|row| row.is_configured);
        assert_eq!(configured.count(), 4, "each threshold's own value is among those that are tried");
    }

    #[test]
    fn a_histogram_counts_each_pair_once() {
        let config = DedupConfig::default();
        let mut tally = Tally::new(&config, &[]);
        let pairs = [pair(0, 0.0, 0.0, 100.0), pair(24, 1.9, 7.9, -12.0), pair(25, 0.0, 0.0, 100.0)];
        pairs.iter().for_each(|pair| tally.count(pair.luma));
        tally.take(pairs.into_iter());
        let report = tally.report(1, 3);
        let sums: Vec<u64> =
            report.histograms.iter().map(|histogram| histogram.rows.iter().map(|row| row.pairs).sum()).collect();
        assert_eq!(sums, [3, 2, 2, 2], "all of them, and those within the luma threshold");
        let scores = &report.histograms[3].rows;
        assert_eq!((scores[0].range.as_str(), scores[0].pairs), ("below 0", 1));
        assert_eq!((scores[9].range.as_str(), scores[9].pairs), ("95 and more", 1));
    }
}
