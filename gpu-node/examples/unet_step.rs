//! Times denoising steps of a checkpoint's UNet: `unet_step CHECKPOINT THREADS`. For each line on standard input it
//! computes that many steps with two rows (guided) at the native size and prints each step's milliseconds, so that
//! another implementation can take turns with it in one run.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use tch::{Device, Kind, Tensor};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().context("usage: unet_step CHECKPOINT THREADS")?);
    let threads = arguments.next().and_then(|threads| threads.to_str()?.parse().ok()).context("THREADS")?;
    tch::set_num_threads(threads);
    let checkpoint = Checkpoint::load(&folder, Device::Cpu, DType::F32)?;
    let texts = ["", "a teal mug on a table"].map(|prompt| checkpoint.text().encode(prompt, 1));
    let [unconditional, conditional] = texts;
    let text = Tensor::f_cat(&[unconditional?.hidden, conditional?.hidden], 0)?.into();
    let ((width, height), factor) = (checkpoint.trial_size_px(), checkpoint.vae_factor());
    let shape = [2, checkpoint.latent_channels(), i64::from(height / factor), i64::from(width / factor)];
    let latents = Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?;
    let timesteps = Tensor::from_slice(&[500_i64, 500]);
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let steps: usize = line?.trim().parse()?;
        let mut times_ms = Vec::with_capacity(steps);
        for _ in 0..steps {
            let start = Instant::now();
            let _ = checkpoint.predict(&latents, &timesteps, &text)?;
            times_ms.push(format!("{:.3}", start.elapsed().as_secs_f64() * 1e3));
        }
        writeln!(out, "{}", times_ms.join(" "))?;
        out.flush()?;
    }
    Ok(())
}
