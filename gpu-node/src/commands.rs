//! `generate`, `batch`, `check` and `bench`: drawing on the command line, without a node around it; `dedup-report`: its store.
//!
//! Each command prints its result on stdout — one line of JSON, or for `check` lines for people — and progress on
//! stderr where that is a terminal. Failures are returned; the binary says them and exits.

mod batch;
mod bench;
mod check;
mod dedup_report;
mod generate;

pub use batch::{BatchArgs, batch};
pub use bench::{BenchArgs, bench};
pub use check::{CheckArgs, check};
pub use dedup_report::{DedupReportArgs, dedup_report};
pub use generate::{GenerateArgs, generate};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bildkante_shared::recipe::{InitUse, Recipe, ValidRecipe};
use clap::Args;

use crate::diffusion::dtype::DType;
use crate::diffusion::loading::Placement;
use crate::diffusion::picture::Picture;
use crate::diffusion::pipeline::Models;
use crate::diffusion::sd::checkpoint::Checkpoint;
use crate::diffusion::sd::guide::Guide;
use crate::diffusion::sd::networks::Adapted;
use crate::diffusion::{Device, runtime};

/// Steps where none are asked for.
const STEPS: u32 = 20;
/// Guidance scale where none is asked for.
const GUIDANCE: f64 = 4.0;
const PROMPT: &str = "a teal mug, cream backdrop, studio light";

/// Which checkpoint, and on what.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// Folder of the checkpoint in diffusers' layout
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// CPU threads of one operator; 0: as many as there are cores
    #[arg(long, default_value_t = 0)]
    pub threads: u32,
    /// Precision of the networks: f32, bf16 or f16
    #[arg(long, default_value = "f32", value_parser = parse_dtype)]
    pub dtype: DType,
    /// Decode and encode pictures with a longer side in overlapping tiles of this side; 0: never
    #[arg(long, value_name = "PX", default_value_t = 0)]
    pub vae_tiles: u32,
    /// Where tensors live: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    pub device: Device,
    /// Convolutions with channels last, which are faster on some devices: other bits
    #[arg(long)]
    pub channels_last: bool,
}

impl EngineArgs {
    const fn placement(&self) -> Placement {
        Placement { device: self.device, dtype: self.dtype, channels_last: self.channels_last }
    }

    fn load(&self) -> anyhow::Result<Checkpoint> {
        runtime::set_threads(self.threads);
        self.load_from(&self.checkpoint)
    }

    fn load_controlnet(&self, folder: &Path) -> anyhow::Result<Guide> {
        Guide::load(folder, self.placement()).context("cannot load the ControlNet or T2I-Adapter")
    }

    /// Another checkpoint beside it, on the same device.
    fn load_from(&self, folder: &Path) -> anyhow::Result<Checkpoint> {
        let loaded = Checkpoint::load_with(folder, self.placement());
        let mut checkpoint = loaded.context("cannot load the checkpoint")?;
        checkpoint.set_vae_tiles_px((self.vae_tiles > 0).then_some(self.vae_tiles));
        Ok(checkpoint)
    }
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width_px: u32,
    pub height_px: u32,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once(['x', '×']).map(|(width, height)| (width.trim().parse(), height.trim().parse()));
        match sides {
            Some((Ok(width_px), Ok(height_px))) => Ok(Self { width_px, height_px }),
            _ => Err(format!("a size is WIDTHxHEIGHT in pixels, such as 512x384, not `{text}`")),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width_px, self.height_px)
    }
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    let known = [DType::F32, DType::BF16, DType::F16].into_iter().find(|dtype| dtype.as_str() == text);
    known.ok_or_else(|| format!("a precision is f32, bf16 or f16, not `{text}`"))
}

fn parse_device(text: &str) -> Result<Device, String> {
    let index = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
    };
    index.map(Device::Cuda).ok_or_else(|| format!("a device is cpu, cuda or cuda:N, not `{text}`"))
}

/// The checkpoint's own size, or its family's, where none is asked for.
fn size_or_trial(size: Option<Size>, checkpoint: &Checkpoint) -> Size {
    let (width_px, height_px) = checkpoint.trial_size_px();
    size.unwrap_or(Size { width_px, height_px })
}

/// The recipe that tries a checkpoint, and its images: a checkpoint that paints into images is given a grey one, all of it to
/// be painted anew.
fn sample(
    checkpoint: &Checkpoint,
    size: Size,
    steps: u32,
    guidance: f64,
) -> anyhow::Result<(ValidRecipe, Models<Adapted<'_>>)> {
    let size_px = (size.width_px, size.height_px);
    let scheduler = checkpoint.trial_scheduler();
    let mut recipe = Recipe { steps, guidance, scheduler, ..Recipe::new(checkpoint.digest(), PROMPT, size_px) };
    let mut models = Models::from(checkpoint);
    if checkpoint.is_inpainting() {
        let [image, mask] = Picture::to_paint_over(size_px).map(|(digest, picture)| {
            models.pictures.insert(digest, Arc::new(picture));
            digest
        });
        (recipe.init, recipe.mask) = (Some(InitUse { image, strength: 1.0 }), Some(mask));
    }
    if checkpoint.is_told_depth() {
        let [(image, picture), _] = Picture::to_paint_over(size_px);
        models.pictures.insert(image, Arc::new(picture));
        recipe.depth = Some(image);
    }
    Ok((ValidRecipe::try_from(recipe)?, models))
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(bildkante_shared::say!("{line}")?)
}

fn folder_of(path: &Path) -> PathBuf {
    // `durable::write` renames within the folder of the file and needs it named.
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        n => sorted[n / 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_devices_and_precisions_are_read_or_explained() {
        assert_eq!("512x384".parse(), Ok(Size { width_px: 512, height_px: 384 }));
        assert_eq!("512×384".parse::<Size>().map(|size| size.to_string()), Ok("512x384".into()));
        assert!("512".parse::<Size>().is_err_and(|reason| reason.contains("WIDTHxHEIGHT")));
        assert_eq!(parse_device("cuda:3"), Ok(Device::Cuda(3)));
        assert_eq!(parse_device("cuda"), Ok(Device::Cuda(0)));
        assert!(parse_device("tpu").is_err_and(|reason| reason.contains("`tpu`")));
        assert_eq!(parse_dtype("bf16"), Ok(DType::BF16));
        assert!(parse_dtype("int8").is_err());
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert!((median(&[1.0, 2.0, 4.0, 8.0]) - 3.0).abs() < 1e-12);
        assert!((median(&[1.0, 2.0, 8.0]) - 2.0).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }
}
