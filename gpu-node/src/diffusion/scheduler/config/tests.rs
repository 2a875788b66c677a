//! What files say, what recipes override, what is refused.

use super::*;

const SD1: &str = r#"{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "skip_prk_steps": true,
    "steps_offset": 1, "trained_betas": null}"#;

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(&serde_json::from_str(json).expect("json")).expect("a valid config")
}

fn refusal(json: &str) -> String {
    SchedulerConfig::from_json(&serde_json::from_str(json).expect("json")).expect_err("a refusal").to_string()
}

#[test]
fn absent_keys_take_the_defaults_of_the_class() {
    let ddim = config(r#"{"_class_name": "DDIMScheduler"}"#);
    assert_eq!(ddim.method, Method::Ddim { alpha_one_at_end: true, clip_range: Some(1.0), eta: 0.0 });
    assert_eq!((ddim.spacing, ddim.steps_offset, ddim.train_steps), (TimestepSpacing::Leading, 0, 1000));
    assert_eq!(ddim.betas, Betas::Linear { start: 0.0001, end: 0.02 });
    let euler = config(r#"{"_class_name": "EulerDiscreteScheduler"}"#);
    assert_eq!(euler.spacing, TimestepSpacing::Linspace);
    let pndm = config(r#"{"_class_name": "PNDMScheduler"}"#);
    assert_eq!(pndm.method, Method::Pndm { alpha_one_at_end: false, skips_runge_kutta: false });
}

#[test]
fn another_class_keeps_what_the_file_says_and_takes_its_own_defaults() {
    let choice = |kind| SchedulerChoice { kind: Some(kind), ..SchedulerChoice::default() };
    let sd1 = config(SD1);
    let ddim = sd1.with_choice(&choice(SchedulerKind::Ddim)).expect("ddim");
    assert_eq!(ddim.method, Method::Ddim { alpha_one_at_end: false, clip_range: None, eta: 0.0 });
    assert_eq!(ddim.betas, Betas::ScaledLinear { start: 0.00085, end: 0.012 });
    let euler = sd1.with_choice(&choice(SchedulerKind::Euler)).expect("euler");
    assert_eq!((euler.spacing, euler.steps_offset), (TimestepSpacing::Linspace, 1));
    let back = euler.with_choice(&choice(SchedulerKind::Pndm)).expect("pndm");
    assert_eq!(back, sd1);
}

#[test]
fn the_pipeline_corrects_its_own_scheduler_only() {
    let bare = config(r#"{"_class_name": "EulerDiscreteScheduler"}"#).corrected_for_stable_diffusion().expect("ok");
    assert_eq!(bare.steps_offset, 1);
    let choice = SchedulerChoice { kind: Some(SchedulerKind::Ddim), ..SchedulerChoice::default() };
    let ddim = bare.with_choice(&choice).expect("ddim");
    assert_eq!((ddim.steps_offset, &ddim.method), (0, &config(r#"{"_class_name": "DDIMScheduler"}"#).method));
    let clipped = config(r#"{"_class_name": "DDIMScheduler", "clip_sample": true, "steps_offset": 0}"#);
    let clipped = clipped.corrected_for_stable_diffusion().expect("ok");
    assert_eq!(clipped.method, Method::Ddim { alpha_one_at_end: true, clip_range: None, eta: 0.0 });
    assert_eq!(clipped.with_choice(&SchedulerChoice::default()).expect("ok"), clipped);
}

#[test]
fn what_a_sampler_cannot_do_is_refused_by_name() {
    let karras = SchedulerChoice { sigmas: Some(SigmaSpacing::Karras), ..SchedulerChoice::default() };
    let refused = config(SD1).with_choice(&karras).expect_err("no karras in PNDM").to_string();
    assert!(refused.contains("pndm") && refused.contains("`sigmas`"), "{refused}");
    let choice = |change: fn(&mut SchedulerChoice)| {
        let mut choice = SchedulerChoice { kind: Some(SchedulerKind::UniPc), ..SchedulerChoice::default() };
        change(&mut choice);
        config(SD1).with_choice(&choice).expect_err("a refusal").to_string()
    };
    assert!(choice(|choice| choice.sigmas = Some(SigmaSpacing::Lu)).contains("unipc does not offer `sigmas` of"));
    assert!(choice(|choice| choice.eta = Some(0.5)).contains("unipc does not offer `eta`"));
    assert!(choice(|choice| choice.timesteps = vec![9, 3]).contains("unipc does not offer `timesteps`"));
    assert!(choice(|choice| choice.sigma_values = vec![9.0, 0.0]).contains("unipc does not offer `sigma_values`"));
    let single = SchedulerChoice {
        kind: Some(SchedulerKind::DpmPp2S),
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..SchedulerChoice::default()
    };
    let refused = config(SD1).with_choice(&single).expect_err("one spacing only").to_string();
    assert!(refused.contains("dpmpp_2s") && refused.contains("`linspace`"), "{refused}");
    let rescaled = SchedulerChoice { zero_terminal_snr: Some(true), ..SchedulerChoice::default() };
    let refused = config(SD1).with_choice(&rescaled).expect_err("no rescaling in PNDM").to_string();
    assert!(refused.contains("pndm") && refused.contains("`zero_terminal_snr`"), "{refused}");
    let dpm = |key: &str| refusal(&format!(r#"{{"_class_name": "DPMSolverMultistepScheduler", {key}}}"#));
    assert!(dpm(r#""algorithm_type": "dpmsolver""#).contains("`dpmsolver`"));
    assert!(dpm(r#""use_karras_sigmas": true, "use_exponential_sigmas": true"#).contains("use_exponential_sigmas"));
    assert!(dpm(r#""solver_order": 4"#).contains("solver_order 4"));
    assert!(dpm(r#""thresholding": true"#).contains("thresholding"));
    assert!(dpm(r#""use_beta_sigmas": true, "use_lu_lambdas": true"#).contains("use_lu_lambdas"));
    assert!(dpm(r#""beta_schedule": "laplace""#).contains("`laplace`"));
    assert!(dpm(r#""beta_start": 2"#).contains("beta_start"));
    assert!(dpm(r#""num_train_timesteps": 0"#).contains("num_train_timesteps"));
    assert!(dpm(r#""trained_betas": [0.1]"#).contains("trained_betas"));
    assert!(dpm(r#""lambda_min_clipped": "NaN""#).contains("lambda_min_clipped"));
    assert!(dpm(r#""beta_end": "0.02""#).contains("`beta_end`"));
    let unipc = |key: &str| refusal(&format!(r#"{{"_class_name": "UniPCMultistepScheduler", {key}}}"#));
    assert!(unipc(r#""predict_x0": false"#).contains("predict_x0"));
    assert!(unipc(r#""solver_order": 4"#).contains("solver_order 4"));
    assert!(unipc(r#""lower_order_final": false"#).contains("lower_order_final"));
    let lcm = |key: &str| refusal(&format!(r#"{{"_class_name": "LCMScheduler", {key}}}"#));
    assert!(lcm(r#""original_inference_steps": 0"#).contains("original_inference_steps"));
    assert!(lcm(r#""timestep_scaling": -1"#).contains("timestep_scaling"));
    assert!(refusal(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).contains("UniPCMultistepScheduler"));
    assert!(refusal("[]").contains("scheduler_config.json"));
}

/// How it was saved is not how its network was trained: a recipe that names a sampler draws with it.
#[test]
fn a_class_that_is_not_known_is_read_unless_its_network_was_trained_otherwise() {
    for class in ["IPNDMScheduler", "KDPM2DiscreteScheduler", "MyOwnScheduler", "RePaintScheduler"] {
        let json =
            SD1.replace("PNDMScheduler", class).replace("\"trained_betas\": null", "\"mine\": 3, \"shift\": null");
        let other = config(&json);
        assert_eq!(other.own_class(), Some(class));
        let refused = other.with_choice(&SchedulerChoice::default()).expect_err("no sampler of its own").to_string();
        assert!(refused.contains(class), "{refused}");
        let choice = SchedulerChoice { kind: Some(SchedulerKind::Euler), ..SchedulerChoice::default() };
        let euler = other.with_choice(&choice).expect("euler");
        assert_eq!(euler.betas, Betas::ScaledLinear { start: 0.00085, end: 0.012 });
    }
    for (class, keys) in [
        ("EDMSomethingScheduler", ""),
        ("FlowMatchHeunDiscreteScheduler", ""),
        ("MyOwnScheduler", r#", "sigma_data": 0.5"#),
        ("MyOwnScheduler", r#", "shift": 3.0"#),
        ("MyOwnScheduler", r#", "use_flow_sigmas": true"#),
        ("MyOwnScheduler", r#", "prediction_type": "flow_prediction""#),
        ("", ""),
    ] {
        let refused = refusal(&format!(r#"{{"_class_name": "{class}"{keys}}}"#));
        assert!(refused.contains(&format!("no scheduler `{class}`")), "{refused}");
    }
}

#[test]
fn the_infinity_that_python_writes_is_read() {
    let json = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": "-Infinity"}"#;
    let Method::DpmMulti(options) = config(json).method else { panic!("another method") };
    assert_eq!(options.lambda_min, f64::NEG_INFINITY);
}

#[test]
fn one_class_of_diffusers_is_four_samplers() {
    let json = r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#;
    let stochastic = config(json);
    assert_eq!(stochastic.kind, SchedulerKind::DpmPp2MSde);
    let choice = SchedulerChoice { kind: Some(SchedulerKind::DpmPp2M), ..SchedulerChoice::default() };
    let Method::DpmMulti(options) = stochastic.with_choice(&choice).expect("dpmpp_2m").method else {
        panic!("another")
    };
    assert!(!options.is_stochastic);
    let third = config(r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#);
    assert_eq!(third.kind, SchedulerKind::DpmPp3M);
    let Method::DpmMulti(options) = third.with_choice(&choice).expect("dpmpp_2m").method else { panic!("another") };
    assert_eq!(options.order, 2, "a recipe that names the second order means it");
}

#[test]
fn a_way_is_split_where_diffusers_splits_it() {
    let euler =
        config(r#"{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}"#);
    // 751, 501, 251, 1 of 1000: the share 0.5 is at training step 500.
    for (start, steps) in [(0.1, 0), (0.25, 1), (0.5, 2), (0.7, 2), (0.8, 3), (0.999, 4)] {
        assert_eq!(euler.steps_before(4, start).expect("steps"), steps, "{start}");
    }
    let heun = config(r#"{"_class_name": "HeunDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}"#);
    assert_eq!(heun.steps_before(4, 0.5).expect("steps"), 2);
}

#[test]
fn networks_that_were_trained_as_edm_has_it_are_stepped_in_their_own_way_or_not_at_all() {
    let playground = r#"{"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++",
        "dynamic_thresholding_ratio": 0.995, "euler_at_final": false, "final_sigmas_type": "zero", "lower_order_final": true,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0, "sample_max_value": 1.0, "sigma_data": 0.5,
        "sigma_max": 80.0, "sigma_min": 0.002, "sigma_schedule": "karras", "solver_order": 2, "solver_type": "midpoint",
        "thresholding": false}"#;
    let own = config(playground);
    assert_eq!((own.kind, own.edm.expect("edm").sigma_max), (SchedulerKind::DpmPp2M, 80.0));
    let chosen = |choice: SchedulerChoice| own.with_choice(&choice).map_err(|error| error.to_string());
    let kind = |kind| chosen(SchedulerChoice { kind: Some(kind), ..SchedulerChoice::default() });
    for steps_it in [SchedulerKind::Euler, SchedulerKind::DpmPp2MSde, SchedulerKind::DpmPp3M] {
        assert!(kind(steps_it).expect("offered").edm.is_some());
    }
    for other in [SchedulerKind::Ddim, SchedulerKind::Heun, SchedulerKind::UniPc, SchedulerKind::DpmPp3MSde] {
        assert!(kind(other).expect_err("another training").contains("EDM"));
    }
    for (choice, named) in [
        (
            SchedulerChoice { timestep_spacing: Some(TimestepSpacing::Trailing), ..SchedulerChoice::default() },
            "timestep",
        ),
        (SchedulerChoice { sigmas: Some(SigmaSpacing::Beta), ..SchedulerChoice::default() }, "karras"),
        (SchedulerChoice { timesteps: vec![800], ..SchedulerChoice::default() }, "timesteps"),
        (SchedulerChoice { zero_terminal_snr: Some(true), ..SchedulerChoice::default() }, "zero_terminal_snr"),
        (SchedulerChoice { prediction: Some(Prediction::Sample), ..SchedulerChoice::default() }, "sample"),
    ] {
        assert!(chosen(choice).expect_err(named).contains(named));
    }
    assert!(own.steps_before(4, 0.8).is_err(), "a refiner goes on at a training step");
    for (key, value) in [("rho", "0"), ("sigma_data", "\"much\""), ("sigma_min", "90"), ("sigma_schedule", "\"beta\"")]
    {
        let refused = refusal(&format!(r#"{{"_class_name": "EDMEulerScheduler", "{key}": {value}}}"#));
        assert!(refused.contains(key), "{refused}");
    }
    let last = config(&playground.replace("\"zero\"", "\"sigma_min\""));
    assert!(Sampler::new(&last, Span::whole(14)).is_ok());
    assert!(Sampler::new(&last, Span::whole(15)).is_err_and(|error| error.to_string().contains("sigma_min")));
}
