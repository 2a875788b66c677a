//! Whether a request's rows have the same bits whatever number of requests shares a pass, for whole networks on the processor:
//! the built-in one here, one of a real one's size by `make check-shapes`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use bildkante_gpu_node::diffusion::sd::conditioning::Conditioning;
use tch::{Device, Kind, Tensor};

/// Rows of a guided request.
const ROWS: i64 = 2;

/// A guided pass of so many requests.
struct Pass {
    requests: i64,
    /// Of the first request.
    rows: Tensor,
    seconds: f64,
}

/// Passes of 1 to `requests_max` requests, of which the first is the same in all.
fn passes(checkpoint: &Checkpoint, side_px: u32, requests_max: i64) -> Result<Vec<Pass>> {
    let side = i64::from(side_px / checkpoint.vae_factor());
    let texts = ["", "a teal mug on a podium"].map(|prompt| checkpoint.text().encode(prompt, 1));
    let [negative, positive] = texts;
    let text = Tensor::f_cat(&[negative?.hidden, positive?.hidden], 0)?;
    let count = requests_max * ROWS * checkpoint.latent_channels() * side * side;
    let latents = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin();
    let latents = latents.view([requests_max * ROWS, checkpoint.latent_channels(), side, side]);
    (1..=requests_max).map(|requests| pass(checkpoint, &latents, &text, requests)).collect()
}

fn pass(checkpoint: &Checkpoint, latents: &Tensor, text: &Tensor, requests: i64) -> Result<Pass> {
    let rows = requests * ROWS;
    let timesteps = Tensor::f_cat(
        &[Tensor::from_slice(&[951_i64, 951]), Tensor::full([rows - ROWS], 321, (Kind::Int64, Device::Cpu))],
        0,
    )?;
    let text: Conditioning = text.repeat([requests, 1, 1]).into();
    let began = Instant::now();
    let output = checkpoint.predict(&latents.narrow(0, 0, rows), &timesteps, &text)?;
    ensure!(output.isfinite().all().int64_value(&[]) == 1, "the network overflows: nothing can be told");
    Ok(Pass { requests, rows: output.narrow(0, 0, ROWS), seconds: began.elapsed().as_secs_f64() })
}

/// Numbers of requests that give other bits than one request alone, with the largest difference.
fn differing(passes: &[Pass]) -> Vec<(i64, f64)> {
    let [alone, others @ ..] = passes else { return Vec::new() };
    let differs = others.iter().filter(|pass| !pass.rows.equal(&alone.rows));
    differs.map(|pass| (pass.requests, (&pass.rows - &alone.rows).abs().max().double_value(&[]))).collect()
}

#[test]
fn any_number_of_requests_gives_the_built_in_network_the_bits_of_one_alone() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny");
    for dtype in [DType::F32, DType::BF16] {
        let checkpoint = Checkpoint::load(&folder, Device::Cpu, dtype)?;
        let passes = passes(&checkpoint, 96, 4)?;
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
    let passes = passes(&checkpoint, side_px, requests)?;
    for Pass { requests, seconds, .. } in &passes {
        println!("{}, {dtype}, {side_px}², {requests} requests: {seconds:.2} s", checkpoint.name());
    }
    ensure!(differing(&passes).is_empty(), "{:?} differ from one alone", differing(&passes));
    println!("1 to {requests} requests give a request the same bits");
    Ok(())
}
