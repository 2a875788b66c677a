//! `dedup-report`: how alike the masters of a store are, and what other thresholds would merge.
//!
//! Pairs are masters of different variants in one scope, which are those that a node compares. Beside what is there stand the
//! merges that were made: of a merged recipe the store has the distances, not the pixels.

mod tally;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use self::tally::{Pair, Report, Tally};
use super::say;
use crate::config::NodeConfig;
use crate::dedup::ssimulacra2;
use crate::store::{Survey, Surveyed};

/// Arguments of `dedup-report`.
#[derive(Debug, Clone, Args)]
pub struct DedupReportArgs {
    /// Configuration of the node, which names its data folder and its thresholds; without one every key has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data folder, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Most masters of a scope that are compared with each other, the oldest first
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub masters: usize,
    /// Most pairs whose pixels are compared, the nearest first
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub comparisons: usize,
    /// One line of JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Prints distances within a store, and what each threshold would merge.
///
/// # Errors
/// When the store cannot be read.
pub fn dedup_report(args: &DedupReportArgs) -> anyhow::Result<ExitCode> {
    let mut config = match &args.config {
        Some(path) => NodeConfig::read(path)?,
        None => NodeConfig::default(),
    };
    if let Some(data) = &args.data {
        config.data_dir.clone_from(data);
    }
    let data_dir = config.data_dir.display().to_string();
    let survey = Survey::read(&config.data_dir).with_context(|| format!("reading the masters in {data_dir}"))?;
    let mut tally = Tally::new(&config.dedup, &survey.merges);
    let mut near = Vec::new();
    for masters in survey.scopes.values() {
        near.extend(pairs(&mut tally, masters, args.masters));
    }
    compare(&survey, &mut near, args.comparisons);
    tally.take(near.into_iter().map(|(_, pair)| pair));
    let report = tally.report(survey.scopes.len(), survey.scopes.values().map(Vec::len).sum());
    if args.json {
        say(&serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two masters of a scope.
type Both<'a> = [&'a Surveyed; 2];

/// Counts the pairs of a scope, and gives out those that some threshold of the tables may merge.
fn pairs<'a>(tally: &mut Tally, masters: &'a [Surveyed], masters_max: usize) -> Vec<(Both<'a>, Pair)> {
    let mut masters: Vec<&Surveyed> = masters.iter().collect();
    masters.sort_by_key(|master| (master.row.created_unix_ms, *master.master.as_bytes()));
    tally.left_out(masters.len().saturating_sub(masters_max));
    masters.truncate(masters_max);
    let mut near = Vec::new();
    for (at, a) in masters.iter().enumerate() {
        for b in masters[..at].iter().filter(|b| b.variant != a.variant) {
            let luma = a.print.phash.distance(b.print.phash);
            tally.count(luma);
            if !tally.is_near(luma) {
                continue;
            }
            let pair = Pair { luma, chroma: a.print.chroma.distance(&b.print.chroma), score: None };
            if tally.may_merge(&pair) {
                near.push(([*a, *b], pair));
            } else {
                tally.take(std::iter::once(pair));
            }
        }
    }
    near
}

/// Compares the pixels of the nearest pairs.
fn compare(survey: &Survey, near: &mut [(Both<'_>, Pair)], comparisons: usize) {
    near.sort_by_key(|(_, pair)| pair.luma);
    for ([a, b], pair) in near.iter_mut().take(comparisons) {
        let pixels = survey.pixels(a).zip(survey.pixels(b));
        // Of different sizes: never merged.
        pair.score = pixels.map(|(a, b)| ssimulacra2(&a, &b).unwrap_or(f64::NEG_INFINITY));
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let Report { scopes, masters, masters_left_out, pairs, merges, not_compared, histograms, thresholds } = report;
    say(&format!("{masters} masters in {scopes} scopes, {pairs} pairs of different variants, {merges} merges made"))?;
    if *masters_left_out > 0 {
        say(&format!("{masters_left_out} masters are left out (--masters)"))?;
    }
    if *not_compared > 0 {
        say(&format!("{not_compared} pairs that are near in luma and chroma were not compared (--comparisons)"))?;
    }
    for histogram in histograms {
        say(&format!("\n{:<44} {:>10} {:>12}", histogram.of, "pairs", "merges made"))?;
        for row in &histogram.rows {
            say(&format!("{:<44} {:>10} {:>12}", row.range, row.pairs, row.merges))?;
        }
    }
    for threshold in thresholds {
        say(&format!("\n{:<44} {:>10} {:>12}", threshold.key, "would merge", "would split"))?;
        for row in &threshold.rows {
            let now = if row.is_configured { "  configured" } else { "" };
            say(&format!("{:<44} {:>10} {:>12}{now}", row.value, row.would_merge, row.would_split))?;
        }
    }
    Ok(())
}
