//! `bench`: seconds per denoising step and per image, for comparison with diffusers (`gpu-node/bench`).
//!
//! A step is one turn of the denoising loop — sampler, network with both guidance rows in one batch, guidance — and
//! its time the loop's by the steps asked for. An image adds the text encoder and the VAE, no encoding of a file.
//!
//! `--together` has several requests share their passes, as the node's executor would, and `--padded-to` fills the passes
//! up to a fixed number of requests, which is what exactness costs where groups are small. Beside the times stand the
//! peaks of memory and their estimates, of the passes and of the picture (`gpu-node/tests/memory.rs` compares them).

mod resident;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use clap::Args;

use self::resident::Resident;
use super::{EngineArgs, GUIDANCE, STEPS, Size, median, sample, say, size_or_trial};
use crate::capacity::{Footprint as _, Readers};
use crate::diffusion::batch;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::pipeline;
use crate::diffusion::pipeline::{Denoising, Models};
use crate::diffusion::{device, runtime};

const RUNS_MAX: u32 = 10_000;

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[arg(long, default_value_t = STEPS)]
    pub steps: u32,
    /// Guidance scale; 1 and below switch guidance off
    #[arg(long, default_value_t = GUIDANCE)]
    pub guidance: f64,
    /// WIDTHxHEIGHT in pixels; the checkpoint's own size by default
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Images that are timed
    #[arg(long, default_value_t = 5)]
    pub runs: u32,
    /// Images drawn before
    #[arg(long, default_value_t = 1)]
    pub warmup: u32,
    /// Requests that share every pass
    #[arg(long, default_value_t = 1)]
    pub together: usize,
    /// Requests every pass is filled up to
    #[arg(long, value_name = "REQUESTS", default_value_t = 1)]
    pub padded_to: usize,
}

/// Draws `warmup` and `runs` images and prints a line of JSON.
///
/// # Errors
/// When the checkpoint cannot be loaded or an image not be drawn.
pub fn bench(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    ensure!((1..=64).contains(&args.together) && args.padded_to <= 64, "1 to 64 requests share a pass");
    ensure!((1..=RUNS_MAX).contains(&args.runs) && args.warmup <= RUNS_MAX, "1 to {RUNS_MAX} runs");
    let checkpoint = args.engine.load()?;
    let size = size_or_trial(args.size, &checkpoint);
    let (sample, models) = sample(&checkpoint, size, args.steps, args.guidance)?;
    let (mut steps_s, mut images_s) = (Vec::new(), Vec::new());
    let (mut resident, mut pass_peak_mib, mut picture_peak_mib) = (Resident::default(), None, None);
    resident.peak_mib()?;
    for run in 0..args.warmup + args.runs {
        let recipe = ValidRecipe::try_from(Recipe { seed: run, ..sample.clone().into_recipe() })?;
        device::wait(checkpoint.device())?;
        let started = Instant::now();
        let mut passes_end = || -> anyhow::Result<()> {
            pass_peak_mib = highest(pass_peak_mib, resident.peak_mib()?);
            Ok(())
        };
        let denoise_s = if args.together.max(args.padded_to) > 1 {
            draw_together(&models, &recipe, args, &mut passes_end)?
        } else {
            draw_alone(&models, &recipe, &mut passes_end)?
        };
        picture_peak_mib = highest(picture_peak_mib, resident.peak_mib()?);
        if run >= args.warmup {
            images_s.push(started.elapsed().as_secs_f64());
            steps_s.push(denoise_s / f64::from(args.steps));
        }
    }
    steps_s.sort_by(f64::total_cmp);
    images_s.sort_by(f64::total_cmp);
    let together = args.together.max(args.padded_to) as u64;
    let need = checkpoint.footprint().need(&sample, together, &Readers::default());
    let held_bytes = need.held_bytes * args.together as u64;
    let report = serde_json::json!({
        "engine": "bildkante",
        "checkpoint": checkpoint.name(),
        "threads": runtime::threads(),
        "dtype": checkpoint.dtype().as_str(),
        "steps": args.steps,
        "size": size.to_string(),
        "guidance": args.guidance,
        "together": args.together,
        "padded_to": args.padded_to.max(args.together),
        "images_per_s": micros(args.together as f64 / median(&images_s)),
        "step_s_median": micros(median(&steps_s)),
        "step_s_min": micros(steps_s[0]),
        "image_s_median": micros(median(&images_s)),
        "device_peak_mib": device::memory(checkpoint.device()).and_then(|memory| memory.peak_bytes).map(|bytes| bytes >> 20),
        "estimated_pass_mib": (held_bytes + need.pass_bytes) >> 20,
        "estimated_picture_mib": (held_bytes + need.picture_bytes) >> 20,
        "pass_peak_mib": pass_peak_mib,
        "picture_peak_mib": picture_peak_mib,
        "rss_peak_mib": resident.highest_mib()?,
    });
    say(&report.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn highest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(other?.max(one.unwrap_or(0.0)))
}

/// One request; the seconds of its steps.
fn draw_alone(
    models: &Models<impl Denoiser>,
    recipe: &ValidRecipe,
    passes_end: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let mut ended = Ok(());
    let drawn = pipeline::generate(models, recipe, None, &mut |done, of| {
        if done == of {
            ended = passes_end();
        }
        ControlFlow::Continue(())
    })?;
    ended?;
    Ok(drawn.denoise_ms / 1e3)
}

/// As many requests as asked for, with seeds of their own, step by step; the seconds of their steps.
fn draw_together(
    models: &Models<impl Denoiser>,
    recipe: &ValidRecipe,
    args: &BenchArgs,
    passes_end: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let mut requests = Vec::new();
    for seed in 0..args.together {
        let seed = recipe.seed.wrapping_add(u32::try_from(seed).unwrap_or(0).wrapping_mul(RUNS_MAX));
        let recipe = ValidRecipe::try_from(Recipe { seed, ..recipe.clone().into_recipe() })?;
        requests.push(Denoising::begin(models, &recipe, None)?);
    }
    let started = Instant::now();
    loop {
        let inputs = requests.iter().map(Denoising::next_input).collect::<Result<Vec<_>, _>>()?;
        let Some(inputs) = inputs.into_iter().collect::<Option<Vec<_>>>() else { break };
        let together: Vec<_> = inputs.iter().collect();
        let outputs = batch::predict(models.at(inputs[0].stage), &together, args.padded_to)?;
        for (request, output) in requests.iter_mut().zip(&outputs) {
            request.advance(output)?;
        }
    }
    requests.iter().try_for_each(Denoising::check)?;
    let denoise_s = started.elapsed().as_secs_f64();
    passes_end()?;
    for request in &requests {
        request.decode(models)?;
    }
    Ok(denoise_s)
}

/// Rounded to microseconds.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}
