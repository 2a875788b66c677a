//! `generate`: one recipe to one PNG.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{Recipe, SchedulerChoice, SchedulerKind, TimestepSpacing, ValidRecipe};
use clap::Args;

use super::{EngineArgs, GUIDANCE, STEPS, Size, folder_of, say, size_or_native};
use crate::diffusion::pipeline::{self, StepControl};
use crate::diffusion::trace::Trace;
use crate::diffusion::{Checkpoint, runtime};

/// Says what every generated picture has to say, in the form PNG has for it.
const XMP: &str = concat!(
    r#"<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">"#,
    r#"<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" "#,
    r#"xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="#,
    r#""http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>"#,
    r#"<?xpacket end="r"?>"#
);

/// Arguments of `generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[arg(long)]
    pub prompt: String,
    /// What the picture should not show
    #[arg(long, visible_alias = "negative-prompt", default_value = "")]
    pub negative: String,
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
    #[arg(long, default_value_t = STEPS)]
    pub steps: u32,
    /// Guidance scale; 1 and below switch guidance off
    #[arg(long, default_value_t = GUIDANCE)]
    pub guidance: f64,
    /// WIDTHxHEIGHT in pixels; the checkpoint's own size by default
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// ddim, pndm, euler, euler_ancestral or dpmpp_2m; the checkpoint's own by default
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<SchedulerKind>,
    /// leading, trailing or linspace; the scheduler's own by default
    #[arg(long, value_name = "NAME", value_parser = parse_spacing)]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Karras et al.'s sigmas, with euler and dpmpp_2m
    #[arg(long)]
    pub karras: bool,
    /// Write the picture here
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Write the noise, the latents after each step and the image here
    #[arg(long, value_name = "FILE.safetensors")]
    pub trace: Option<PathBuf>,
}

fn parse_spacing(text: &str) -> Result<TimestepSpacing, String> {
    match text {
        "leading" => Ok(TimestepSpacing::Leading),
        "trailing" => Ok(TimestepSpacing::Trailing),
        "linspace" => Ok(TimestepSpacing::Linspace),
        other => Err(format!("a spacing is leading, trailing or linspace, not `{other}`")),
    }
}

/// Draws one picture and prints a line of JSON about it.
///
/// # Errors
/// When the checkpoint cannot be loaded, the recipe not be drawn or a file not be written.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let checkpoint = args.engine.load()?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let recipe = args.recipe(&checkpoint)?;
    let mut trace = args.trace.as_ref().map(|_| Trace::new());
    let mut evaluations = 0;
    let drawn = pipeline::generate(&checkpoint, &recipe, trace.as_mut(), &mut |done, of| {
        evaluations = of;
        show_progress(done, of);
        StepControl::Continue
    })?;
    write_png(&args.out, &drawn.pixels).with_context(|| format!("cannot write {}", args.out.display()))?;
    if let (Some(trace), Some(path)) = (&trace, &args.trace) {
        trace.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = serde_json::json!({
        "recipe_id": recipe.id(),
        "master_id": drawn.pixels.master_id(),
        "checkpoint": { "name": checkpoint.name(), "digest": checkpoint.digest() },
        "size": Size { width_px: drawn.pixels.width_px(), height_px: drawn.pixels.height_px() }.to_string(),
        "seed": recipe.seed,
        "steps": recipe.steps,
        "evaluations": evaluations,
        "step_s": drawn.denoise_ms / 1e3 / f64::from(evaluations.max(1)),
        "timings": {
            "load_ms": load_ms,
            "text_ms": drawn.text_ms,
            "denoise_ms": drawn.denoise_ms,
            "decode_ms": drawn.decode_ms,
        },
        "threads": runtime::threads(),
        "determinism": runtime::determinism(&checkpoint, &recipe),
        "out": args.out,
    });
    say(&report.to_string())?;
    Ok(ExitCode::SUCCESS)
}

impl GenerateArgs {
    fn recipe(&self, checkpoint: &Checkpoint) -> anyhow::Result<ValidRecipe> {
        let size = size_or_native(self.size, checkpoint);
        Ok(ValidRecipe::try_from(Recipe {
            checkpoint: checkpoint.digest(),
            prompt: self.prompt.clone(),
            negative_prompt: self.negative.clone(),
            width_px: size.width_px,
            height_px: size.height_px,
            seed: self.seed,
            scheduler: SchedulerChoice {
                kind: self.scheduler,
                timestep_spacing: self.timestep_spacing,
                karras_sigmas: self.karras.then_some(true),
            },
            steps: self.steps,
            guidance: self.guidance,
            loras: Vec::new(),
        })?)
    }
}

fn show_progress(done: u32, of: u32) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let end = if done == of { "\n" } else { "" };
        let _ = write!(stderr, "\rstep {done}/{of}{end}");
    }
}

fn write_png(path: &Path, pixels: &Pixels) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width_px(), pixels.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.add_itxt_chunk("XML:com.adobe.xmp".to_owned(), XMP.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.rgb())?;
    writer.finish()?;
    let name = path.file_name().context("it names no file")?;
    Ok(durable::write(&folder_of(path).join(name), &[&bytes], Durability::Unsynced)?)
}
