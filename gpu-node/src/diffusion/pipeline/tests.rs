//! The pipeline around networks whose answers are known: the model "predicts" noise analytically.

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, SchedulerChoice, SchedulerKind};

use super::*;

/// Networks that believe the clean latents are a constant, and whose decoder repeats the first three channels.
#[derive(Debug)]
struct Analytic {
    config: SchedulerConfig,
    clean: f64,
    decoded: f64,
}

impl Analytic {
    fn new() -> Self {
        let json = serde_json::json!({"_class_name": "EulerDiscreteScheduler", "prediction_type": "sample"});
        Self { config: SchedulerConfig::from_json(&json).expect("a config"), clean: 0.5, decoded: 1.0 }
    }
}

impl Networks for Analytic {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn vae_factor(&self) -> u32 {
        8
    }

    fn latent_channels(&self) -> i64 {
        4
    }

    fn scheduler_config(&self) -> &SchedulerConfig {
        &self.config
    }

    fn encode_text(&self, prompts: &[&str]) -> Result<Tensor, DiffusionError> {
        // A prompt is as long as it is.
        let lengths: Vec<f32> = prompts.iter().map(|prompt| prompt.len() as f32).collect();
        Ok(Tensor::f_from_slice(&lengths)?.f_reshape([-1, 1, 1])?)
    }

    fn predict(&self, latents: &Tensor, timesteps: &Tensor, embeddings: &Tensor) -> Result<Tensor, DiffusionError> {
        assert_eq!(latents.size()[0], timesteps.size()[0]);
        let rows = embeddings.f_reshape([-1, 1, 1, 1])?.f_mul_scalar(self.clean)?;
        Ok(latents.f_zeros_like()?.f_add(&rows)?)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        let large = latents.f_narrow(1, 0, 3)?.f_upsample_nearest2d(
            [latents.size()[2] * 8, latents.size()[3] * 8],
            8.0,
            8.0,
        )?;
        Ok(large.f_mul_scalar(self.decoded)?)
    }
}

fn recipe(edit: impl FnOnce(&mut Recipe)) -> ValidRecipe {
    let mut recipe = Recipe {
        checkpoint: Digest::of_bytes(b"analytic"),
        prompt: "x".into(),
        negative_prompt: String::new(),
        width_px: 48,
        height_px: 32,
        seed: 7,
        scheduler: SchedulerChoice::default(),
        steps: 5,
        guidance: 1.0,
        loras: vec![],
    };
    edit(&mut recipe);
    ValidRecipe::try_from(recipe).expect("a valid recipe")
}

fn draw(networks: &Analytic, recipe: &ValidRecipe) -> Result<Generated, DiffusionError> {
    generate(networks, recipe, None, &mut |_, _| StepControl::Continue)
}

#[test]
fn latents_arrive_where_the_network_points() {
    let drawn = draw(&Analytic::new(), &recipe(|_| {})).expect("an image");
    assert_eq!((drawn.pixels.width_px(), drawn.pixels.height_px()), (48, 32));
    // 0.5 of -1..1 is 0.75 of 0..1: 191.25.
    assert!(drawn.pixels.rgb().iter().all(|byte| *byte == 191));
}

#[test]
fn guidance_leads_away_from_the_negative_prompt() {
    let guided = recipe(|r| (r.negative_prompt, r.prompt, r.guidance) = ("xx".into(), "xxx".into(), 3.0));
    let mut trace = Trace::new();
    let mut networks = Analytic::new();
    networks.clean = 0.125;
    generate(&networks, &guided, Some(&mut trace), &mut |_, _| StepControl::Continue).expect("an image");
    // 2 + 3·(3 − 2) = 5 units of 0.125.
    let last = trace.get("latents.004").expect("the last latents");
    assert!((last.mean(Kind::Float).double_value(&[]) - 0.625).abs() < 1e-6);
    let cond = trace.get("embeddings.cond").expect("kept").double_value(&[0, 0, 0]);
    let uncond = trace.get("embeddings.uncond").expect("kept").double_value(&[0, 0, 0]);
    assert_eq!((cond, uncond), (3.0, 2.0));
}

#[test]
fn a_request_stops_between_steps() {
    let mut heard = Vec::new();
    let stopped = generate(&Analytic::new(), &recipe(|_| {}), None, &mut |done, of| {
        heard.push((done, of));
        if done == 2 { StepControl::Stop } else { StepControl::Continue }
    });
    assert!(matches!(stopped, Err(DiffusionError::Cancelled)));
    assert_eq!(heard, [(1, 5), (2, 5)]);
}

#[test]
fn what_is_not_finite_is_an_error_that_says_where() {
    let mut networks = Analytic::new();
    networks.clean = f64::NAN;
    assert!(matches!(draw(&networks, &recipe(|_| {})), Err(DiffusionError::NonFinite { stage: "denoising" })));
    networks.clean = 0.5;
    networks.decoded = f64::INFINITY;
    assert!(matches!(draw(&networks, &recipe(|_| {})), Err(DiffusionError::NonFinite { stage: "decoding" })));
}

#[test]
fn refusals_are_the_recipes_fault() {
    let refused = |networks: &Analytic, recipe: &ValidRecipe| match draw(networks, recipe) {
        Err(error) if error.is_refusal() => error.to_string(),
        other => panic!("not refused: {other:?}"),
    };
    let ancestral = recipe(|r| r.scheduler.kind = Some(SchedulerKind::EulerAncestral));
    assert!(refused(&Analytic::new(), &ancestral).contains("euler_ancestral"));
    let karras = recipe(|r| {
        r.scheduler = SchedulerChoice { kind: Some(SchedulerKind::Ddim), karras_sigmas: Some(true), ..r.scheduler }
    });
    assert!(refused(&Analytic::new(), &karras).contains("karras_sigmas"));
}

#[test]
fn requests_can_share_the_network_and_not_notice() {
    let networks = Analytic::new();
    let recipes = [recipe(|r| r.prompt = "xx".into()), recipe(|r| (r.seed, r.steps, r.guidance) = (8, 3, 2.0))];
    let alone = recipes.each_ref().map(|recipe| {
        let mut trace = Trace::new();
        generate(&networks, recipe, Some(&mut trace), &mut |_, _| StepControl::Continue).expect("an image");
        let last = format!("latents.{:03}", recipe.steps - 1);
        trace.get(&last).expect("the last latents").shallow_clone()
    });
    let mut requests = recipes.each_ref().map(|recipe| Denoising::begin(&networks, recipe, None).expect("begun"));
    loop {
        let inputs = requests.each_ref().map(|request| request.next_input().expect("an input"));
        let due: Vec<&ModelInput> = inputs.iter().flatten().collect();
        if due.is_empty() {
            break;
        }
        let cat = |part: fn(&ModelInput) -> &Tensor| Tensor::cat(&due.iter().map(|i| part(i)).collect::<Vec<_>>(), 0);
        let output = networks.predict(&cat(|i| &i.latents), &cat(|i| &i.timesteps), &cat(|i| &i.embeddings));
        let (output, mut row) = (output.expect("an output"), 0);
        for (request, input) in requests.iter_mut().zip(&inputs) {
            let Some(input) = input else { continue };
            let rows = input.latents.size()[0];
            request.advance(&output.narrow(0, row, rows)).expect("a step");
            row += rows;
        }
    }
    for (request, alone) in requests.iter().zip(&alone) {
        assert_eq!(request.latents(), alone);
    }
}
