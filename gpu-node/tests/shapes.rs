//! Whether a request's rows have the same bits whatever number of requests shares a pass, for whole networks on the processor:
//! the built-in one here, one of a real one's size by `make check-shapes`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bildkante_gpu_node::diffusion::batch;
use bildkante_gpu_node::diffusion::denoiser::Stage;
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::pipeline::{Denoising, Models};
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use tch::{Device, Tensor};

/// A pass of so many requests.
struct Pass {
    requests: usize,
    /// Of the first request.
    rows: Tensor,
    seconds: f64,
}

/// Passes of 1 to `requests_max` requests, of which the first is the same in all. The others differ in noise, text and level.
fn passes(checkpoint: &Checkpoint, side_px: u32, requests_max: usize, guidance: f64) -> Result<Vec<Pass>> {
    let models = Models::from(checkpoint);
    let input = |request: usize| -> Result<_> {
        let prompt = format!("a teal mug on a podium, number {request}");
        let (seed, steps) = (u32::try_from(request)?, 4 + u32::try_from(request)?);
        let recipe = Recipe { seed, steps, guidance, ..Recipe::new(checkpoint.digest(), prompt, (side_px, side_px)) };
        Denoising::begin(&models, &ValidRecipe::try_from(recipe)?, None)?.next_input()?.context("a step")
    };
    let inputs = (0..requests_max).map(input).collect::<Result<Vec<_>>>()?;
    let pass = |requests: usize| -> Result<Pass> {
        let began = Instant::now();
        let together: Vec<_> = inputs.iter().take(requests).collect();
        let rows = batch::predict(models.at(Stage::Base), &together, requests)?.swap_remove(0);
        ensure!(rows.isfinite().all().int64_value(&[]) == 1, "the network overflows: nothing can be told");
        Ok(Pass { requests, rows, seconds: began.elapsed().as_secs_f64() })
    };
    (1..=requests_max).map(pass).collect()
}

/// Numbers of requests that give other bits than one request alone, with the largest difference.
fn differing(passes: &[Pass]) -> Vec<(usize, f64)> {
    let [alone, others @ ..] = passes else { return Vec::new() };
    let differs = others.iter().filter(|pass| !pass.rows.equal(&alone.rows));
    differs.map(|pass| (pass.requests, (&pass.rows - &alone.rows).abs().max().double_value(&[]))).collect()
}

#[test]
fn any_number_of_requests_gives_the_built_in_network_the_bits_of_one_alone() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny");
    for dtype in [DType::F32, DType::BF16] {
        let checkpoint = Checkpoint::load(&folder, Device::Cpu, dtype)?;
        // Of two rows each, guided. One request of a single row gets other bits than in company, so a node computes it in a pass of two.
        let passes = passes(&checkpoint, 96, 4, 4.0)?;
        ensure!(differing(&passes).is_empty(), "{dtype}: {:?} differ from one alone", differing(&passes));
    }
    Ok(())
}

/// `BILDKANTE_CHECKPOINT` names the folder, `BILDKANTE_SIDE_PX` the pictures' side, `BILDKANTE_REQUESTS` the most in a pass,
/// `BILDKANTE_DTYPE` the precision.
#[test]
#[ignore = "needs a checkpoint: `make check-shapes`"]
fn any_number_of_requests_gives_a_network_of_real_size_the_bits_of_one_alone() -> Result<()> {
    let folder = PathBuf::from(std::env::var_os("BILDKANTE_CHECKPOINT").context("BILDKANTE_CHECKPOINT")?);
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let dtype = variable("BILDKANTE_DTYPE", "f32");
    let dtype = [DType::F32, DType::BF16].into_iter().find(|known| known.as_str() == dtype).context("f32 or bf16")?;
    let (side_px, requests) =
        (variable("BILDKANTE_SIDE_PX", "256").parse()?, variable("BILDKANTE_REQUESTS", "4").parse()?);
    let checkpoint = Checkpoint::load(&folder, Device::Cpu, dtype)?;
    let mut wrong = Vec::new();
    for (guidance, rows) in [(4.0, 2), (1.0, 1)] {
        let passes = passes(&checkpoint, side_px, requests, guidance)?;
        for Pass { requests, seconds, .. } in &passes {
            println!("{}, {dtype}, {side_px}², {requests} requests of {rows} rows: {seconds:.2} s", checkpoint.name());
        }
        wrong.extend(differing(&passes).into_iter().map(|(requests, by)| (rows, requests, by)));
    }
    ensure!(wrong.is_empty(), "rows, requests and by how much they differ from one alone: {wrong:?}");
    println!("1 to {requests} requests give a request the same bits");
    Ok(())
}
