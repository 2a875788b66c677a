//! `dedup-report`: how far the masters of a store are apart, and what each threshold would merge.
//!
//! A store holds what was kept apart, and of what was merged the distances. So a looser threshold is judged by the pairs that it
//! would merge, and a stricter one by the merges that it would undo; each alone, the others as they are configured. Pairs are
//! of one scope and of two variants, as in a search. SSIMULACRA2 is measured for pairs that the loosest thresholds of the
//! report let through, the nearest first.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use bildkante_shared::console;
use clap::Args;
use serde::Serialize;

use super::say;
use crate::config::{DedupConfig, NodeConfig};
use crate::dedup::{ChromaDistance, Likeness, likeness};
use crate::index::ScopeKey;
use crate::store::{Findable, Merge, Survey};

/// Pairs that are looked at, over all scopes.
const PAIRS_MAX: usize = 50_000_000;
/// Width of a bar of the luma histogram, in bits.
const BAR_BITS: u32 = 8;
const BARS: usize = 33;
/// Thresholds that are tried, each beside the configured one.
const LUMA: [u32; 5] = [8, 16, 24, 32, 40];
const CHROMA: [f64; 5] = [0.5, 1.0, 2.0, 3.0, 4.0];
const PEAK: [f64; 5] = [2.0, 4.0, 8.0, 12.0, 16.0];
const SCORE: [f64; 6] = [95.0, 90.0, 85.0, 80.0, 75.0, 70.0];

/// Arguments of `dedup-report`.
#[derive(Debug, Clone, Args)]
pub struct DedupReportArgs {
    /// The node's configuration: its `data_dir` is read, and its `[dedup]` is judged
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read this folder instead of the configured one: a copy of a running node's
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Pairs whose pixels are compared, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub compared: usize,
    /// One JSON document instead of lines for people
    #[arg(long)]
    pub json: bool,
}

/// See the module's documentation.
#[derive(Debug, Serialize)]
struct Report {
    masters: usize,
    scopes: usize,
    pairs: usize,
    /// Pairs by luma distance: 0 to 7 bits, 8 to 15, and so on.
    luma_histogram: Vec<usize>,
    compared: usize,
    not_compared: usize,
    merged: usize,
    thresholds: Vec<Threshold>,
}

/// One threshold at one value.
#[derive(Debug, Serialize)]
struct Threshold {
    key: &'static str,
    value: f64,
    is_configured: bool,
    /// Pairs kept apart so far that it would merge.
    would_merge: usize,
    /// Merges so far that it would have kept apart; `None` where what was recorded does not tell.
    would_undo: Option<usize>,
}

/// Two masters that are not one.
#[derive(Debug)]
struct Pair<'s> {
    masters: [&'s Findable; 2],
    luma: u32,
    chroma: ChromaDistance,
    /// `None` where it was not measured, or is not defined.
    likeness: Option<Likeness>,
}

impl Pair<'_> {
    fn is_merged_by(&self, config: &DedupConfig) -> bool {
        self.luma <= config.luma_distance_max
            && self.chroma.is_within(config)
            && self.likeness.is_some_and(|likeness| likeness.is_at_least(config.ssimulacra2_min))
    }
}

/// Reports on the store of a node that does not run.
///
/// # Errors
/// When a node uses the folder, it cannot be read, or it is too large to be looked at pair by pair.
pub fn dedup_report(args: &DedupReportArgs) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        Some(path) => NodeConfig::read(path)?,
        None => NodeConfig::default(),
    };
    let folder = args.data.as_ref().unwrap_or(&config.data_dir);
    let survey = Survey::of(folder).context("stop the node, or name a copy of its folder with --data")?;
    let report = report(&survey, &config.dedup, args.compared)?;
    if args.json {
        say(&serde_json::to_string(&report)?)?;
    } else {
        console::say(text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(survey: &Survey, config: &DedupConfig, compared_max: usize) -> anyhow::Result<Report> {
    let mut scopes: HashMap<ScopeKey, Vec<&Findable>> = HashMap::new();
    for findable in &survey.findable {
        scopes.entry(findable.scope).or_default().push(findable);
    }
    let count: usize = scopes.values().map(|masters| masters.len() * masters.len().saturating_sub(1) / 2).sum();
    ensure!(count <= PAIRS_MAX, "{count} pairs are more than the {PAIRS_MAX} that are looked at");
    let (mut histogram, mut near) = (vec![0; BARS], Vec::new());
    for masters in scopes.values() {
        look(masters, &mut histogram, &mut near);
    }
    near.sort_by_key(|pair| (pair.luma, pair.masters.map(|one| *one.master.as_bytes())));
    let not_compared = near.len().saturating_sub(compared_max);
    near.truncate(compared_max);
    for pair in &mut near {
        let [a, b] = pair.masters.map(|one| survey.pixels(one.master));
        pair.likeness = likeness(&a?, &b?);
    }
    Ok(Report {
        masters: survey.masters,
        scopes: scopes.len(),
        pairs: histogram.iter().sum(),
        luma_histogram: histogram,
        compared: near.len(),
        not_compared,
        merged: survey.merged.len(),
        thresholds: thresholds(survey, config, &near),
    })
}

/// Counts the pairs of a scope, and takes out those that the loosest thresholds let through.
fn look<'s>(masters: &[&'s Findable], histogram: &mut [usize], near: &mut Vec<Pair<'s>>) {
    let loosest = DedupConfig {
        luma_distance_max: LUMA[LUMA.len() - 1],
        chroma_distance_max: CHROMA[CHROMA.len() - 1],
        chroma_peak_max: PEAK[PEAK.len() - 1],
        ..DedupConfig::default()
    };
    for (at, a) in masters.iter().enumerate() {
        for b in masters[at + 1..].iter().filter(|b| b.variant != a.variant) {
            let luma = a.print.phash.distance(b.print.phash);
            histogram[(luma / BAR_BITS) as usize] += 1;
            if luma > loosest.luma_distance_max {
                continue;
            }
            let chroma = a.print.chroma.distance(&b.print.chroma);
            if chroma.is_within(&loosest) {
                near.push(Pair { masters: [a, b], luma, chroma, likeness: None });
            }
        }
    }
}

fn thresholds(survey: &Survey, config: &DedupConfig, near: &[Pair<'_>]) -> Vec<Threshold> {
    let judge = |key, value, is_configured, changed: &DedupConfig, would_undo| Threshold {
        key,
        value,
        is_configured,
        would_merge: near.iter().filter(|pair| pair.is_merged_by(changed)).count(),
        would_undo,
    };
    let undone =
        |is_undone: &dyn Fn(&Merge) -> bool| Some(survey.merged.iter().filter(|merged| is_undone(merged)).count());
    let mut all = Vec::new();
    for luma in LUMA {
        let changed = DedupConfig { luma_distance_max: luma, ..config.clone() };
        let would_undo = undone(&|merged| merged.duplicate.distance > luma);
        let is_configured = luma == config.luma_distance_max;
        all.push(judge("luma_distance_max", f64::from(luma), is_configured, &changed, would_undo));
    }
    for mean in CHROMA {
        let changed = DedupConfig { chroma_distance_max: mean, ..config.clone() };
        let would_undo = undone(&|merged| merged.duplicate.chroma_distance > mean);
        let is_configured = mean.total_cmp(&config.chroma_distance_max).is_eq();
        all.push(judge("chroma_distance_max", mean, is_configured, &changed, would_undo));
    }
    for peak in PEAK {
        let changed = DedupConfig { chroma_peak_max: peak, ..config.clone() };
        let is_configured = peak.total_cmp(&config.chroma_peak_max).is_eq();
        all.push(judge("chroma_peak_max", peak, is_configured, &changed, None));
    }
    for score in SCORE {
        let changed = DedupConfig { ssimulacra2_min: score, ..config.clone() };
        let would_undo = undone(&|merged| !merged.likeness.is_at_least(score));
        let is_configured = score.total_cmp(&config.ssimulacra2_min).is_eq();
        all.push(judge("ssimulacra2_min", score, is_configured, &changed, would_undo));
    }
    all
}

fn text(report: &Report) -> String {
    let Report { masters, scopes, pairs, compared, not_compared, merged, .. } = report;
    let mut lines = vec![
        format!("{masters} masters, {pairs} pairs of two variants in {scopes} scopes, {merged} merges"),
        String::new(),
        "luma distance, of 256 bits      pairs kept apart".to_owned(),
    ];
    let highest = report.luma_histogram.iter().copied().max().unwrap_or(0).max(1);
    let last = report.luma_histogram.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    for (bar, count) in report.luma_histogram[..last].iter().enumerate() {
        let from = bar * BAR_BITS as usize;
        let width = (count * 40).div_ceil(highest);
        lines.push(format!("  {from:>3}–{:<3} {count:>12}  {}", from + BAR_BITS as usize - 1, "▪".repeat(width)));
    }
    lines.push(String::new());
    lines.push(format!("pixels of {compared} pairs compared, {not_compared} more were near enough"));
    lines.push(format!("{:<24} {:>7}  {:>11}  {:>10}", "threshold", "value", "would merge", "would undo"));
    for Threshold { key, value, is_configured, would_merge, would_undo } in &report.thresholds {
        let mark = if *is_configured { "configured" } else { "" };
        let undo = would_undo.map_or_else(|| "–".to_owned(), |count| count.to_string());
        lines.push(format!("{key:<24} {value:>7}  {would_merge:>11}  {undo:>10}  {mark}").trim_end().to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::MasterId;
    use bildkante_shared::phash::PerceptualHash;
    use bildkante_shared::wire::Duplicate;

    use super::*;
    use crate::dedup::{CHROMA_BYTES, Chroma, Fingerprint};
    use crate::index::VariantKey;

    fn findable(number: u8, hash: u8) -> Findable {
        let chroma = Chroma::from_bytes([128; CHROMA_BYTES]);
        let print = Fingerprint { phash: PerceptualHash::from_bytes([hash; 32]), chroma };
        let (scope, variant) = (ScopeKey([1; 16]), VariantKey([number; 16]));
        Findable { scope, variant, master: MasterId::from_raw([number; 16]), print }
    }

    fn merge(distance: u32, score: f64, is_averaged: bool) -> Merge {
        let of = MasterId::from_raw([9; 16]);
        let duplicate = Duplicate { of, distance, chroma_distance: 0.7, ssimulacra2: score };
        Merge { duplicate, likeness: Likeness { score, is_averaged } }
    }

    #[test]
    fn pairs_are_of_two_variants_and_counted_by_their_distance() {
        let masters = [findable(1, 0), findable(1, 0), findable(2, 1), findable(3, 0xff)];
        let (mut histogram, mut near) = (vec![0; BARS], Vec::new());
        look(&masters.iter().collect::<Vec<_>>(), &mut histogram, &mut near);
        // 1 and 2 differ in a bit of each of 32 bytes, 3 from 1 in all and from 2 in all but those.
        assert_eq!((histogram[4], histogram[32], histogram[28]), (2, 2, 1));
        assert_eq!(histogram.iter().sum::<usize>(), 5, "no pair of one variant");
        assert_eq!(near.len(), 2);
    }

    #[test]
    fn each_threshold_is_judged_beside_the_configured_others() {
        let masters = [findable(1, 0), findable(2, 1)];
        let survey = Survey::of_rows(2, masters.to_vec(), vec![merge(10, 82.0, false), merge(20, 91.0, true)]);
        let chroma = ChromaDistance { mean: 1.5, peak: 6.0 };
        let pair = |luma, score| Pair {
            masters: [&masters[0], &masters[1]],
            luma,
            chroma,
            likeness: Some(Likeness { score, is_averaged: false }),
        };
        let near = [pair(32, 85.0), pair(12, 76.0), pair(12, 40.0)];
        let all = thresholds(&survey, &DedupConfig::default(), &near);
        let told = |key: &str, value: f64| {
            let one =
                all.iter().find(|one| one.key == key && one.value.total_cmp(&value).is_eq()).expect("a threshold");
            (one.would_merge, one.would_undo, one.is_configured)
        };
        assert_eq!(told("luma_distance_max", 24.0), (0, Some(0), true));
        assert_eq!(told("luma_distance_max", 32.0), (1, Some(0), false));
        assert_eq!(told("luma_distance_max", 16.0), (0, Some(1), false));
        assert_eq!(told("ssimulacra2_min", 75.0), (1, Some(0), false));
        assert_eq!(told("ssimulacra2_min", 85.0), (0, Some(2), false), "an averaged 91 stands for 82");
        assert_eq!(told("ssimulacra2_min", 80.0), (0, Some(0), true));
        assert_eq!(told("chroma_distance_max", 0.5), (0, Some(2), false));
        assert_eq!(told("chroma_peak_max", 8.0), (0, None, true));
    }
}
