//! The pipeline around networks whose answers are known: the model "predicts" noise analytically.
//!
//! They are a family of their own, with conditions of their own: nothing here is Stable Diffusion's.

use std::ops::ControlFlow;

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, RefinerUse, SchedulerChoice, SchedulerKind, SigmaSpacing};

use super::*;
use crate::diffusion::picture::Picture;
use crate::diffusion::scheduler::SchedulerConfig;

/// Networks that believe the clean latents are a constant, and whose decoder repeats the first three channels.
#[derive(Debug, Clone)]
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

/// All this family is told of a prompt: its length, `[n, 1, 1]`.
#[derive(Debug)]
struct Lengths(Tensor);

impl Conditions for Lengths {
    fn rows(&self) -> i64 {
        self.0.size()[0]
    }

    fn text(&self) -> &Tensor {
        &self.0
    }

    fn controls(&self) -> &[Control] {
        &[]
    }

    fn controlled(&self, controls: Vec<Control>) -> Self {
        assert!(controls.is_empty(), "no ControlNet acts on this family");
        Self(self.0.shallow_clone())
    }

    fn beside(&self, references: Vec<Reference>) -> Self {
        assert!(references.is_empty(), "this family looks at no image");
        Self(self.0.shallow_clone())
    }

    fn cat(parts: &[&Self]) -> Result<Self, TchError> {
        Tensor::f_cat(&parts.iter().map(|part| &part.0).collect::<Vec<_>>(), 0).map(Self)
    }

    fn unlike(&self) -> Result<Self, TchError> {
        self.0.f_add_scalar(1.0).map(Self)
    }
}

impl Denoiser for Analytic {
    type Conditions = Lengths;

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

    fn architecture(&self, _: &[usize]) -> Digest {
        Digest::of_bytes(b"analytic")
    }

    fn condition(&self, recipe: &ValidRecipe, _: Stage) -> Result<Lengths, DiffusionError> {
        // A prompt is as long as it is.
        let (negative, positive) = (recipe.negative_prompt.len() as f32, recipe.prompt.len() as f32);
        let lengths = if recipe.is_guided() { vec![negative, positive] } else { vec![positive] };
        Ok(Lengths(Tensor::f_from_slice(&lengths)?.f_reshape([-1, 1, 1])?))
    }

    fn predict(&self, latents: &Tensor, timesteps: &Tensor, conditions: &Lengths) -> Result<Tensor, DiffusionError> {
        assert_eq!(latents.size()[0], timesteps.size()[0]);
        let rows = conditions.0.f_reshape([-1, 1, 1, 1])?.f_mul_scalar(self.clean)?;
        Ok(latents.f_zeros_like()?.f_add(&rows)?)
    }

    fn is_inpainting(&self) -> bool {
        false
    }

    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError> {
        let small = image.f_avg_pool2d([8, 8], [8, 8], [0, 0], false, true, None)?;
        let mean = Tensor::f_cat(&[&small, &small.f_narrow(1, 0, 1)?], 1)?;
        Ok((mean.f_mul_scalar(1.0)?, mean.f_full_like(-30.0)?))
    }

    fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError> {
        Ok(unscaled.shallow_clone())
    }

    fn control_factor(&self, _: usize) -> Option<u32> {
        None
    }

    fn embed_reference(&self, _: usize, _: (Digest, &Picture), _: i64) -> Result<Vec<Tensor>, DiffusionError> {
        Ok(Vec::new())
    }

    fn embed_control(&self, _: usize, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError> {
        Ok(vec![image.shallow_clone()])
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
    let mut recipe =
        Recipe { seed: 7, steps: 5, guidance: 1.0, ..Recipe::new(Digest::of_bytes(b"analytic"), "x", (48, 32)) };
    edit(&mut recipe);
    ValidRecipe::try_from(recipe).expect("a valid recipe")
}

fn alone(base: &Analytic) -> Models<Analytic> {
    Models { base: base.clone(), refiner: None, pictures: Pictures::new() }
}

fn draw(networks: &Analytic, recipe: &ValidRecipe) -> Result<Generated, DiffusionError> {
    generate(&alone(networks), recipe, None, &mut |_, _| ControlFlow::Continue(()))
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
    generate(&alone(&networks), &guided, Some(&mut trace), &mut |_, _| ControlFlow::Continue(())).expect("an image");
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
    let stopped = generate(&alone(&Analytic::new()), &recipe(|_| {}), None, &mut |done, of| {
        heard.push((done, of));
        if done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
        r.scheduler = SchedulerChoice {
            kind: Some(SchedulerKind::Ddim),
            sigmas: Some(SigmaSpacing::Karras),
            ..SchedulerChoice::default()
        }
    });
    assert!(refused(&Analytic::new(), &karras).contains("`sigmas`"));
}

#[test]
fn requests_can_share_the_network_and_not_notice() {
    let networks = Analytic::new();
    let recipes = [recipe(|r| r.prompt = "xx".into()), recipe(|r| (r.seed, r.steps, r.guidance) = (8, 3, 2.0))];
    let apart = recipes.each_ref().map(|recipe| {
        let mut trace = Trace::new();
        generate(&alone(&networks), recipe, Some(&mut trace), &mut |_, _| ControlFlow::Continue(())).expect("an image");
        let last = format!("latents.{:03}", recipe.steps - 1);
        trace.get(&last).expect("the last latents").shallow_clone()
    });
    let mut requests =
        recipes.each_ref().map(|recipe| Denoising::begin(&alone(&networks), recipe, None).expect("begun"));
    loop {
        let inputs = requests.each_ref().map(|request| request.next_input().expect("an input"));
        let due: Vec<&ModelInput<Lengths>> = inputs.iter().flatten().collect();
        if due.is_empty() {
            break;
        }
        let cat = |part: fn(&ModelInput<Lengths>) -> &Tensor| {
            Tensor::cat(&due.iter().map(|i| part(i)).collect::<Vec<_>>(), 0)
        };
        let conditions = Lengths(cat(|i| &i.conditions.0));
        let output = networks.predict(&cat(|i| &i.latents), &cat(|i| &i.timesteps), &conditions);
        let (output, mut row) = (output.expect("an output"), 0);
        for (request, input) in requests.iter_mut().zip(&inputs) {
            let Some(input) = input else { continue };
            let rows = input.latents.size()[0];
            request.advance(&output.narrow(0, row, rows)).expect("a step");
            row += rows;
        }
    }
    for (request, apart) in requests.iter().zip(&apart) {
        assert_eq!(request.latents(), apart);
    }
}

#[test]
fn a_refiner_goes_the_last_part_of_the_way() {
    let (base, mut refiner) = (Analytic::new(), Analytic::new());
    refiner.clean = -0.25;
    let models = Models { base: base.clone(), refiner: Some(refiner.clone()), pictures: Pictures::new() };
    let refined =
        |start| recipe(|r| (r.steps, r.refiner) = (10, Some(RefinerUse::new(Digest::of_bytes(b"refiner"), start))));
    let mut heard = 0;
    let drawn = generate(&models, &refined(0.6), None, &mut |_, of| {
        heard += 1;
        assert_eq!(of, 10);
        ControlFlow::Continue(())
    });
    // The refiner's -0.25 of -1..1 is 0.375 of 0..1: 95.6.
    assert!(drawn.expect("an image").pixels.rgb().iter().all(|byte| *byte == 96));
    assert_eq!(heard, 10);
    let refused = |models: &Models<Analytic>, recipe: &ValidRecipe| {
        let error = generate(models, recipe, None, &mut |_, _| ControlFlow::Continue(())).expect_err("a refusal");
        assert!(error.is_refusal());
        error.to_string()
    };
    assert!(refused(&models, &refined(0.0001)).contains("leaves the base none of 10 steps"));
    assert!(refused(&models, &refined(0.9999)).contains("leaves the refiner none of 10 steps"));
    let json = serde_json::json!({"_class_name": "DDIMScheduler", "prediction_type": "sample"});
    refiner.config = SchedulerConfig::from_json(&json).expect("a config");
    let models = Models { base: base.clone(), refiner: Some(refiner.clone()), pictures: Pictures::new() };
    assert!(refused(&models, &refined(0.6)).contains("scale latents differently"));
}

#[test]
fn rescaled_guidance_keeps_the_contrast_of_the_conditional_output() {
    let noise = |seed| NoiseGenerator::new(seed).draw(&[1, 4, 8, 8], Kind::Float).expect("noise");
    let (guided, conditional) = (noise(1) * 5.0, noise(2));
    let deviation = |tensor: &Tensor| tensor.std(true).double_value(&[]);
    let whole = rescaled(&guided, &conditional, 1.0).expect("rescaled");
    assert!((deviation(&whole) - deviation(&conditional)).abs() < 1e-5);
    let none = rescaled(&guided, &conditional, 0.0).expect("rescaled");
    assert!((none - &guided).abs().max().double_value(&[]) < 1e-6);
}

#[test]
fn an_image_of_another_size_covers_the_picture_and_begins_it() {
    let image = Digest::of_bytes(b"an image");
    let with = |size_px| {
        let mut models = alone(&Analytic::new());
        models.pictures.insert(image, std::sync::Arc::new(Picture::flat(size_px, 200)));
        models
    };
    let recipe = recipe(|r| r.init = Some(bildkante_shared::recipe::InitUse { image, strength: 0.5 }));
    let of = |size_px| {
        let drawn = generate(&with(size_px), &recipe, None, &mut |_, _| ControlFlow::Continue(()));
        drawn.expect("an image").pixels
    };
    let same = of((48, 32));
    assert_eq!((same.width_px(), same.height_px()), (48, 32));
    for size_px in [(96, 64), (17, 90), (200, 8)] {
        assert_eq!(of(size_px).rgb(), same.rgb(), "{size_px:?}");
    }
}
