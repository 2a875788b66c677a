//! `check`: whether a checkpoint loads and draws, and what it is.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::ensure;
use bildkante_shared::recipe::ValidRecipe;
use clap::Args;

use super::{EngineArgs, GUIDANCE, Size, sample, say, size_or_trial};
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::device;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::pipeline;
use crate::diffusion::pipeline::{Denoising, Generated, Models};

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Size of the trial drawing; the checkpoint's own by default
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
}

/// Loads a checkpoint, says what it is and takes one step with it, twice.
///
/// # Errors
/// When it cannot be loaded, cannot draw, or does not draw the same bits twice.
pub fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let checkpoint = args.engine.load()?;
    let load_s = started.elapsed().as_secs_f64();
    let scheduler = checkpoint.scheduler_config();
    let parameters = checkpoint.parameters();
    say(&format!("name        {}", checkpoint.name()))?;
    say(&format!("digest      {}", checkpoint.digest()))?;
    say(&format!("family      {}", checkpoint.family()))?;
    say(&format!(
        "parameters  {} (text encoder {}, UNet {}, VAE {})",
        millions(parameters.total()),
        millions(parameters.text_encoder),
        millions(parameters.unet),
        millions(parameters.vae)
    ))?;
    let native = checkpoint.native_size_px().map(|(width_px, height_px)| format!("{width_px}x{height_px} px"));
    let native = native.unwrap_or_else(|| "not said".to_owned());
    say(&format!("native size {native}, one latent for {0}×{0} px", checkpoint.vae_factor()))?;
    let own =
        scheduler.own_class().map_or_else(|| scheduler.kind.to_string(), |class| format!("{class} (not offered)"));
    say(&format!("scheduler   {own}, {:?} prediction, {:?} spacing", scheduler.prediction, scheduler.spacing))?;
    say(&format!("loaded      in {load_s:.2} s as {} on {:?}", checkpoint.dtype(), checkpoint.device()))?;

    let (recipe, models) = sample(&checkpoint, size_or_trial(args.size, &checkpoint), 1, GUIDANCE)?;
    let draw = || pipeline::generate(&models, &recipe, None, &mut |_, _| ControlFlow::Continue(()));
    let (first, second) = (draw()?, draw()?);
    let (id, again) = (first.pixels.master_id(), second.pixels.master_id());
    ensure!(id == again, "the same recipe gave {id} and {again}: this device does not repeat itself");
    let Generated { text_ms, denoise_ms, decode_ms, .. } = second;
    say(&format!(
        "self-test   one step drawn twice, equal: text {text_ms:.1} ms, step {denoise_ms:.1} ms, image {decode_ms:.1} ms"
    ))?;
    let waits = match waits(&models, &recipe)? {
        Some(0) => "never within a step".to_owned(),
        Some(count) => format!("{count} times within a step"),
        None => "not counted".to_owned(),
    };
    say(&format!("waits       {waits}"))?;
    say(&format!("class       {}", checkpoint.determinism(&recipe, 1).class))?;
    Ok(ExitCode::SUCCESS)
}

/// How often the host waits for the device within the steps of a recipe.
fn waits(models: &Models<impl Denoiser>, recipe: &ValidRecipe) -> Result<Option<u64>, DiffusionError> {
    let mut request = Denoising::begin(models, recipe, None)?;
    let (done, waits) = device::count_waits(|| request.denoise(models));
    done?;
    Ok(waits)
}

fn millions(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "rounded to two places")]
    let millions = count as f64 / 1e6;
    format!("{millions:.2} M")
}
