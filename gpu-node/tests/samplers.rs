//! Samplers beside diffusers, without a network: the goldens of `fixtures/make_sampler_goldens.py`, which says what stands in
//! for one.

use std::path::Path;

use bildkante_gpu_node::diffusion::noise::NoiseGenerator;
use bildkante_gpu_node::diffusion::scheduler::{Sampler, SchedulerConfig, Span};
use bildkante_shared::recipe::SchedulerChoice;
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Latents are float32 numbers of order 1, and a way has up to 20 steps; what is left is rounding in another order.
const TOLERANCE: f64 = 2e-5;
const SHAPE: [i64; 4] = [1, 4, 2, 2];
const SEED: u32 = 7;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    config: Value,
    choice: SchedulerChoice,
    steps: usize,
    timesteps: Vec<f32>,
    init_noise_sigma: f64,
    latents: Vec<f64>,
    /// After half of the evaluations.
    half_way: Vec<f64>,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} {} steps", self.config, serde_json::to_string(&self.choice).expect("json"), self.steps)
    }

    /// What differs; empty where nothing does.
    fn differences(&self) -> Vec<String> {
        let config = SchedulerConfig::from_json(&self.config).and_then(|config| config.with_choice(&self.choice));
        let sampler = config.and_then(|config| Sampler::new(&config, Span::whole(self.steps)));
        let mut sampler = match sampler {
            Ok(sampler) => sampler,
            Err(error) => return vec![error.to_string()],
        };
        let mut differences = Vec::new();
        let timesteps = sampler.timesteps().to_vec();
        let is_near = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0);
        if timesteps.len() != self.timesteps.len() || !timesteps.iter().zip(&self.timesteps).all(is_near) {
            differences.push(format!("timesteps {timesteps:?}, not {:?}", self.timesteps));
            return differences;
        }
        let sigma = f64::from(sampler.init_noise_sigma());
        if (sigma - self.init_noise_sigma).abs() > 1e-6 * self.init_noise_sigma {
            differences.push(format!("init_noise_sigma {sigma}, not {}", self.init_noise_sigma));
        }
        let mut noise = NoiseGenerator::new(SEED);
        let mut latents = Tensor::linspace(-1.5, 1.5, 16, (Kind::Float, Device::Cpu)).reshape(SHAPE) * sigma;
        let half_way = (timesteps.len() - 1) / 2;
        for (at, timestep) in timesteps.iter().enumerate() {
            let shown = sampler.scale_model_input(&latents).expect("an input");
            let output = shown.tanh() * (f64::from(*timestep) / 300.0).cos();
            latents = sampler.step(&output, &latents, &mut noise).expect("a step");
            if at == half_way {
                differences.extend(difference("half way", &latents, &self.half_way));
            }
        }
        differences.extend(difference("at the end", &latents, &self.latents));
        differences
    }
}

fn difference(place: &str, ours: &Tensor, theirs: &[f64]) -> Option<String> {
    let theirs = Tensor::from_slice(theirs).reshape(SHAPE);
    let scale = theirs.abs().max().double_value(&[]).max(1.0);
    let largest = (ours.to_kind(Kind::Double) - theirs).abs().max().double_value(&[]) / scale;
    // Written so that what is no number differs.
    (!largest.le(&TOLERANCE)).then(|| format!("{largest:.2e} {place}"))
}

#[test]
fn every_step_is_that_of_diffusers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/goldens/samplers.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).expect("the goldens")).expect("cases");
    assert!(cases.len() > 200, "{}", cases.len());
    let differing = cases.iter().map(|case| (case, case.differences())).filter(|(_, found)| !found.is_empty());
    let differing: Vec<String> =
        differing.map(|(case, found)| format!("{}: {}", case.name(), found.join("; "))).collect();
    assert!(differing.is_empty(), "{} of {} cases differ:\n{}", differing.len(), cases.len(), differing.join("\n"));
}
