//! Precision and recall of the thresholds of duplicates, on labelled pairs of variants of the demo campaign.
//!
//! ```text
//! cargo run --release -p bildkante-gpu-node --example dedup_labels -- FOLDER
//! ```
//!
//! Draws what is not in FOLDER yet with the built-in checkpoint, then decides about each pair of `fixtures/duplicates/studio.tsv` as
//! a node does. *Precision* is the part of the merged pairs that people call one picture, *recall* the part of those that are
//! merged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bildkante_gpu_node::config::DedupConfig;
use bildkante_gpu_node::dedup::{Fingerprint, likeness};
use bildkante_gpu_node::diffusion::Device;
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::pipeline::{Models, generate};
use bildkante_gpu_node::diffusion::sd::Checkpoint;
use bildkante_gpu_node::store::{decode_png, encode_png};
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{Recipe, ValidRecipe};

/// What people say of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Same,
    Different,
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("usage: dedup_labels FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pairs = pairs(&std::fs::read_to_string(home.join("fixtures/duplicates/studio.tsv"))?)?;
    let mut masters: BTreeMap<&str, Pixels> = BTreeMap::new();
    let mut checkpoint = None;
    for (_, [one, other]) in &pairs {
        for variant in [one, other] {
            if !masters.contains_key(variant.as_str()) {
                masters.insert(variant, master(variant, &folder, &home.join("models/studio-tiny"), &mut checkpoint)?);
            }
        }
    }
    let config = DedupConfig::default();
    let (mut counts, mut closest) = (BTreeMap::new(), f64::NEG_INFINITY);
    for (label, [one, other]) in &pairs {
        let (a, b) = (&masters[one.as_str()], &masters[other.as_str()]);
        let (one_print, other_print) = (Fingerprint::of(a), Fingerprint::of(b));
        let luma = one_print.phash.distance(other_print.phash);
        let chroma = one_print.chroma.distance(&other_print.chroma);
        let likeness = likeness(a, b).context("pictures of one size")?;
        let score = likeness.score;
        let is_near = luma <= config.luma_distance_max && chroma.is_within(&config);
        let is_merged = is_near && likeness.is_at_least(config.ssimulacra2_min);
        *counts.entry((*label == Label::Same, is_merged)).or_insert(0_u32) += 1;
        if *label == Label::Different && is_near {
            closest = closest.max(score);
        }
        if (*label == Label::Same) != is_merged {
            println!(
                "{label:?}, merged: {is_merged}: luma {luma}, {chroma:?}, SSIMULACRA2 {score:.1}: {one} | {other}"
            );
        }
    }
    let count = |key| counts.get(&key).copied().unwrap_or_default();
    let (right, wrong, missed) = (count((true, true)), count((false, true)), count((true, false)));
    let part = |of: u32| f64::from(right) / f64::from((right + of).max(1));
    println!("{} pairs: {right} merged rightly, {wrong} wrongly, {missed} not merged", pairs.len());
    println!("precision {:.3}, recall {:.3}", part(wrong), part(missed));
    println!("the best score of two pictures that differ and are near in luma and chroma: {closest:.1}");
    ensure!(wrong == 0, "{wrong} pairs that people tell apart are merged: a threshold is too wide");
    Ok(())
}

fn pairs(text: &str) -> Result<Vec<(Label, [String; 2])>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [label, one, other] = fields.as_slice() else { anyhow::bail!("not three fields: {line}") };
        let label = match *label {
            "same" => Label::Same,
            "different" => Label::Different,
            other => anyhow::bail!("no label: {other}"),
        };
        Ok((label, [(*one).to_owned(), (*other).to_owned()]))
    };
    lines.map(pair).collect()
}

/// A variant's master: read, or drawn and written.
fn master(variant: &str, folder: &Path, models: &Path, checkpoint: &mut Option<Checkpoint>) -> Result<Pixels> {
    let path = folder.join(format!("{}.png", variant.replace(' ', "-")));
    if let Ok(png) = std::fs::read(&path) {
        return Ok(decode_png(&png)?);
    }
    if checkpoint.is_none() {
        *checkpoint = Some(Checkpoint::load(models, Device::Cpu, DType::F32)?);
    }
    let checkpoint = checkpoint.as_ref().context("loaded")?;
    let prompt = format!("product photo of a {variant} in a plain studio, studio light, cream backdrop");
    let recipe =
        Recipe { seed: 1207, steps: 20, guidance: 4.0, ..Recipe::new(checkpoint.digest(), prompt, (192, 192)) };
    let models = Models::from(checkpoint);
    let drawn = generate(&models, &ValidRecipe::try_from(recipe)?, None, &mut |_, _| ControlFlow::Continue(()))?;
    ensure!(drawn.pixels.width_px() == 192, "the size that was asked for");
    std::fs::write(&path, encode_png(&drawn.pixels)?)?;
    Ok(drawn.pixels)
}
