//! Samplers beside an exact solution: a network that always knows the clean latents leads every sampler there.
//! Step-by-step equality with diffusers is shown in `tests/parity.rs`.

use bildkante_shared::recipe::{SchedulerChoice, TimestepSpacing};
use serde_json::json;

use super::config::Prediction;
use super::*;

const CLASSES: [&str; 5] = [
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
];

fn config(class: &str, keys: &[(&str, serde_json::Value)]) -> SchedulerConfig {
    let mut file = json!({
        "_class_name": class, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": false, "set_alpha_to_one": true, "skip_prk_steps": true, "steps_offset": 1,
    });
    for (key, value) in keys {
        file[*key] = value.clone();
    }
    SchedulerConfig::from_json(&file).expect("a config")
}

/// What a network that knows the clean latents answers.
fn oracle(config: &SchedulerConfig, sampler: &Sampler, latents: &Tensor, clean: &Tensor) -> Tensor {
    let shown = sampler.scale_model_input(latents).expect("an input");
    let schedule = TrainSchedule::new(config).expect("a schedule");
    let timestep = f64::from(sampler.timesteps()[sampler.next_step().expect("a step")]);
    // Euler's timesteps may be fractional: its own sigma decides, found again by interpolation.
    let sigma = schedule::interpolated(&schedule.sigmas(), timestep);
    let (alpha, sigma) = (1.0 / (sigma * sigma + 1.0).sqrt(), sigma / (sigma * sigma + 1.0).sqrt());
    match config.prediction {
        Prediction::Epsilon => (shown - clean * alpha) / sigma,
        Prediction::Velocity => (shown * alpha - clean) / sigma,
        Prediction::Sample => clean.shallow_clone(),
    }
}

fn run(config: &SchedulerConfig, steps: u32, clean: &Tensor) -> Tensor {
    let mut sampler = Sampler::new(config, steps, 7).expect("a sampler");
    let noise = sampler.initial_noise(&clean.size(), Kind::Float, Device::Cpu).expect("noise");
    let mut latents = noise * f64::from(sampler.init_noise_sigma());
    while sampler.next_step().is_some() {
        let output = oracle(config, &sampler, &latents, clean);
        latents = sampler.step(&output, &latents).expect("a step");
    }
    latents
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn a_network_that_knows_the_picture_leads_every_sampler_to_it() {
    let clean = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).reshape([1, 4, 4, 4]);
    for class in CLASSES {
        for prediction in ["epsilon", "v_prediction"] {
            for spacing in ["leading", "trailing", "linspace"] {
                for steps in [1, 2, 3, 20, 50] {
                    let keys = [("prediction_type", json!(prediction)), ("timestep_spacing", json!(spacing))];
                    let config = config(class, &keys);
                    // PNDM extrapolates over even strides: few steps lead astray where the timesteps are not even.
                    if config.kind == SchedulerKind::Pndm && (2..20).contains(&steps) {
                        continue;
                    }
                    let error = largest(&(run(&config, steps, &clean) - &clean));
                    // What the last stride leaves where it is uneven.
                    let bound = if config.kind == SchedulerKind::Pndm { 0.4 } else { 0.1 };
                    assert!(error < bound, "{class} {prediction} {spacing} {steps}: {error}");
                }
            }
        }
    }
}

#[test]
fn karras_sigmas_lead_there_too() {
    let clean = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).reshape([1, 4, 4, 4]);
    for class in ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"] {
        let config = config(class, &[("use_karras_sigmas", json!(true))]);
        assert!(config.has_karras_sigmas());
        let error = largest(&(run(&config, 30, &clean) - &clean));
        assert!(error < 0.05, "{class}: {error}");
    }
}

#[test]
fn only_ancestral_steps_draw_noise() {
    let clean = Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu));
    for class in CLASSES {
        let config = config(class, &[]);
        let mut sampler = Sampler::new(&config, 3, 7).expect("a sampler");
        let _ = sampler.initial_noise(&[1, 4, 2, 2], Kind::Float, Device::Cpu).expect("noise");
        let _ = sampler.step(&clean, &clean).expect("a step");
        let mut expected = NoiseGenerator::new(7);
        for _ in 0..=usize::from(config.kind == SchedulerKind::EulerAncestral) {
            let _ = expected.draw(&[1, 4, 2, 2], Kind::Float).expect("noise");
        }
        let next = |noise: &mut NoiseGenerator| noise.draw(&[16], Kind::Float).expect("noise");
        assert_eq!(next(&mut sampler.noise), next(&mut expected), "{class}");
    }
}

#[test]
fn narrow_kinds_stay_narrow_between_steps() {
    let clean = Tensor::zeros([1, 4, 4, 4], (Kind::BFloat16, Device::Cpu));
    for class in CLASSES {
        let mut sampler = Sampler::new(&config(class, &[]), 2, 7).expect("a sampler");
        let noise = sampler.initial_noise(&clean.size(), Kind::BFloat16, Device::Cpu).expect("noise");
        assert_eq!(sampler.scale_model_input(&noise).expect("an input").kind(), Kind::BFloat16);
        assert_eq!(sampler.step(&clean, &noise).expect("a step").kind(), Kind::BFloat16);
    }
}

#[test]
fn what_a_schedule_cannot_do_is_an_error_and_never_a_panic() {
    for class in CLASSES {
        for spacing in ["leading", "trailing", "linspace"] {
            for train_steps in [2_usize, 3, 7, 50] {
                let keys = [("num_train_timesteps", json!(train_steps)), ("timestep_spacing", json!(spacing))];
                let config = config(class, &keys);
                assert!(Sampler::new(&config, 0, 0).is_err());
                for steps in 1..=u32::try_from(train_steps).expect("small") {
                    let Ok(mut sampler) = Sampler::new(&config, steps, 0) else { continue };
                    let latents = Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu));
                    for _ in 0..sampler.timesteps().len() {
                        let _ = sampler.scale_model_input(&latents).expect("an input");
                        let _ = sampler.step(&latents, &latents).expect("a step");
                    }
                    assert!(sampler.step(&latents, &latents).is_err());
                }
                let too_many = u32::try_from(train_steps).expect("small") + 1;
                assert!(matches!(Sampler::new(&config, too_many, 0), Err(SchedulerError::Steps { .. })));
            }
        }
    }
}

#[test]
fn runge_kutta_takes_twelve_evaluations_and_at_least_four_steps() {
    let config = config("PNDMScheduler", &[("skip_prk_steps", json!(false))]);
    assert!(matches!(Sampler::new(&config, 3, 0), Err(SchedulerError::Steps { min: 4, .. })));
    let sampler = Sampler::new(&config, 5, 0).expect("a sampler");
    assert_eq!(sampler.timesteps(), [801., 701., 701., 601., 601., 501., 501., 401., 401., 301., 301., 201., 201., 1.]);
}

#[test]
fn a_choice_of_spacing_changes_the_timesteps_only() {
    let config = config("DDIMScheduler", &[]);
    let choice = SchedulerChoice { timestep_spacing: Some(TimestepSpacing::Trailing), ..SchedulerChoice::default() };
    let trailing = config.with_choice(&choice).expect("a config");
    assert_eq!(Sampler::new(&config, 2, 0).expect("a sampler").timesteps(), [501.0, 1.0]);
    assert_eq!(Sampler::new(&trailing, 2, 0).expect("a sampler").timesteps(), [999.0, 499.0]);
    assert_eq!(trailing.method, config.method);
}
