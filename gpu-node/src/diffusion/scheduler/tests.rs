//! Samplers beside an exact solution: a network that always knows the clean latents leads every sampler there.
//! Step-by-step equality with diffusers is shown in `tests/parity.rs`.

use bildkante_shared::recipe::{SchedulerChoice, SigmaSpacing, TimestepSpacing};
use serde_json::json;
use tch::Device;

use super::config::Prediction;
use super::*;

const CLASSES: [&str; 15] = [
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    STOCHASTIC,
    THIRD_ORDER,
    STOCHASTIC_THIRD_ORDER,
    "DPMSolverSinglestepScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
];
/// Stand for one class with another `algorithm_type` or `solver_order`.
const STOCHASTIC: &str = "DPMSolverMultistepScheduler, stochastic";
const THIRD_ORDER: &str = "DPMSolverMultistepScheduler, third order";
const STOCHASTIC_THIRD_ORDER: &str = "DPMSolverMultistepScheduler, stochastic, third order";

fn config(class: &str, keys: &[(&str, serde_json::Value)]) -> SchedulerConfig {
    let (class, algorithm, order) = match class {
        STOCHASTIC => ("DPMSolverMultistepScheduler", "sde-dpmsolver++", 2),
        THIRD_ORDER => ("DPMSolverMultistepScheduler", "dpmsolver++", 3),
        STOCHASTIC_THIRD_ORDER => ("DPMSolverMultistepScheduler", "sde-dpmsolver++", 3),
        class => (class, "dpmsolver++", 2),
    };
    let mut file = json!({
        "_class_name": class, "algorithm_type": algorithm, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "solver_order": order, "clip_sample": false, "set_alpha_to_one": true, "skip_prk_steps": true, "steps_offset": 1,
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

fn whole(config: &SchedulerConfig, steps: usize) -> Result<Sampler, SchedulerError> {
    Sampler::new(config, Span::whole(steps))
}

fn run(config: &SchedulerConfig, steps: usize, clean: &Tensor) -> Tensor {
    let mut sampler = whole(config, steps).expect("a sampler");
    let mut noise = NoiseGenerator::new(7);
    let drawn = noise.draw(&clean.size(), Kind::Float).expect("noise");
    let start = drawn * f64::from(sampler.init_noise_sigma());
    walk(config, &mut sampler, start, clean, &mut noise)
}

/// Goes the sampler's way beside a network that knows the clean latents.
fn walk(
    config: &SchedulerConfig,
    sampler: &mut Sampler,
    mut latents: Tensor,
    clean: &Tensor,
    noise: &mut NoiseGenerator,
) -> Tensor {
    while sampler.next_step().is_some() {
        let output = oracle(config, sampler, &latents, clean);
        latents = sampler.step(&output, &latents, noise).expect("a step");
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
                    let bound = match config.kind {
                        // What the last stride leaves where it is uneven.
                        SchedulerKind::Pndm => 0.4,
                        // It ends at the smallest noise level that was trained, not at none.
                        SchedulerKind::Deis => 0.15,
                        _ => 0.1,
                    };
                    assert!(error < bound, "{class} {prediction} {spacing} {steps}: {error}");
                }
            }
        }
    }
}

#[test]
fn respaced_sigmas_lead_there_too() {
    let clean = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).reshape([1, 4, 4, 4]);
    for class in [
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        STOCHASTIC,
        "UniPCMultistepScheduler",
    ] {
        for (key, spacing) in
            [("use_karras_sigmas", SigmaSpacing::Karras), ("use_exponential_sigmas", SigmaSpacing::Exponential)]
        {
            let config = config(class, &[(key, json!(true))]);
            assert_eq!(config.sigmas(), spacing);
            let error = largest(&(run(&config, 30, &clean) - &clean));
            assert!(error < 0.05, "{class} {key}: {error}");
        }
    }
}

/// Two samplers that share a way arrive where one does that goes all of it; those that remember start anew in between.
#[test]
fn a_way_in_two_parts_leads_to_the_same_picture() {
    let clean = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).reshape([1, 4, 4, 4]);
    for class in CLASSES {
        let config = config(class, &[]);
        let mut noise = NoiseGenerator::new(7);
        let drawn = noise.draw(&clean.size(), Kind::Float).expect("noise");
        let part = |steps| Sampler::new(&config, Span { of: 20, steps }).expect("a sampler");
        let (mut first, mut second) = (part(0..12), part(12..20));
        let start = drawn * f64::from(first.init_noise_sigma());
        let latents = walk(&config, &mut first, start, &clean, &mut noise);
        let latents = walk(&config, &mut second, latents, &clean, &mut noise);
        let error = largest(&(latents - &clean));
        assert!(error < if config.kind == SchedulerKind::Pndm { 0.4 } else { 0.1 }, "{class}: {error}");
        for steps in [3..3, 12..21] {
            assert!(
                matches!(Sampler::new(&config, Span { of: 20, steps }), Err(SchedulerError::Span { .. })),
                "{class}"
            );
        }
    }
}

/// What image-to-image starts from: as much signal and noise as the network expects there.
#[test]
fn noised_latents_are_led_back_to_the_picture() {
    let clean = Tensor::linspace(-1.0, 1.0, 64, (Kind::Float, Device::Cpu)).reshape([1, 4, 4, 4]);
    for class in CLASSES {
        let config = config(class, &[]);
        let mut noise = NoiseGenerator::new(7);
        let drawn = noise.draw(&clean.size(), Kind::Float).expect("noise");
        let mut sampler = Sampler::new(&config, Span { of: 20, steps: 8..20 }).expect("a sampler");
        let noised = sampler.noised(&clean, &drawn).expect("noised");
        let first = oracle(&config, &sampler, &noised, &clean);
        assert!(largest(&(first - &drawn)) < 0.05, "{class}: the oracle sees other noise than was added");
        let error = largest(&(walk(&config, &mut sampler, noised, &clean, &mut noise) - &clean));
        assert!(error < if config.kind == SchedulerKind::Pndm { 0.4 } else { 0.1 }, "{class}: {error}");
    }
}

#[test]
fn only_some_steps_draw_noise() {
    let clean = Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu));
    for class in CLASSES {
        let config = config(class, &[]);
        let mut sampler = whole(&config, 3).expect("a sampler");
        let mut noise = NoiseGenerator::new(7);
        while sampler.next_step().is_some() {
            let _ = sampler.step(&clean, &clean, &mut noise).expect("a step");
        }
        let draws = match config.kind {
            // The last one, too, although nothing of it is left.
            SchedulerKind::EulerAncestral | SchedulerKind::DpmPp2MSde | SchedulerKind::DpmPp3MSde => 3,
            SchedulerKind::Lcm | SchedulerKind::Tcd => 2,
            _ => 0,
        };
        let mut expected = NoiseGenerator::new(7);
        for _ in 0..draws {
            let _ = expected.draw(&[1, 4, 2, 2], Kind::Float).expect("noise");
        }
        let next = |noise: &mut NoiseGenerator| noise.draw(&[16], Kind::Float).expect("noise");
        assert_eq!(next(&mut noise), next(&mut expected), "{class}");
    }
}

#[test]
fn narrow_kinds_stay_narrow_between_steps() {
    let clean = Tensor::zeros([1, 4, 4, 4], (Kind::BFloat16, Device::Cpu));
    for class in CLASSES {
        let mut sampler = whole(&config(class, &[]), 2).expect("a sampler");
        let mut noise = NoiseGenerator::new(7);
        let latents = noise.draw(&clean.size(), Kind::BFloat16).expect("noise");
        assert_eq!(sampler.scale_model_input(&latents).expect("an input").kind(), Kind::BFloat16);
        assert_eq!(sampler.noised(&clean, &latents).expect("noised").kind(), Kind::BFloat16);
        assert_eq!(sampler.step(&clean, &latents, &mut noise).expect("a step").kind(), Kind::BFloat16);
    }
}

#[test]
fn what_a_schedule_cannot_do_is_an_error_and_never_a_panic() {
    for class in CLASSES {
        for spacing in ["leading", "trailing", "linspace"] {
            for train_steps in [2_usize, 3, 7, 50] {
                let keys = [
                    ("num_train_timesteps", json!(train_steps)),
                    ("timestep_spacing", json!(spacing)),
                    ("original_inference_steps", json!(train_steps)),
                ];
                let config = config(class, &keys);
                assert!(whole(&config, 0).is_err());
                for steps in 1..=train_steps {
                    let Ok(mut sampler) = whole(&config, steps) else { continue };
                    let latents = Tensor::zeros([1, 4, 2, 2], (Kind::Float, Device::Cpu));
                    let mut noise = NoiseGenerator::new(0);
                    for _ in 0..sampler.timesteps().len() {
                        let _ = sampler.scale_model_input(&latents).expect("an input");
                        let _ = sampler.step(&latents, &latents, &mut noise).expect("a step");
                    }
                    assert!(sampler.step(&latents, &latents, &mut noise).is_err());
                }
                assert!(matches!(whole(&config, train_steps + 1), Err(SchedulerError::Steps { .. })));
            }
        }
    }
}

#[test]
fn runge_kutta_takes_twelve_evaluations_and_at_least_four_steps() {
    let config = config("PNDMScheduler", &[("skip_prk_steps", json!(false))]);
    assert!(matches!(whole(&config, 3), Err(SchedulerError::Steps { min: 4, .. })));
    let sampler = whole(&config, 5).expect("a sampler");
    assert_eq!(sampler.timesteps(), [801., 701., 701., 601., 601., 501., 501., 401., 401., 301., 301., 201., 201., 1.]);
}

#[test]
fn a_choice_of_spacing_changes_the_timesteps_only() {
    let config = config("DDIMScheduler", &[]);
    let choice = SchedulerChoice { timestep_spacing: Some(TimestepSpacing::Trailing), ..SchedulerChoice::default() };
    let trailing = config.with_choice(&choice).expect("a config");
    assert_eq!(whole(&config, 2).expect("a sampler").timesteps(), [501.0, 1.0]);
    assert_eq!(whole(&trailing, 2).expect("a sampler").timesteps(), [999.0, 499.0]);
    assert_eq!(trailing.method, config.method);
}
