//! The same recipe gives the same bits: again, after other work, on another thread, loaded anew. The number of CPU
//! threads of an operator is part of the determinism class; what of a drawing depends on it is shown here.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, ensure};
use bildkante_gpu_node::diffusion::denoiser::Control;
use bildkante_gpu_node::diffusion::denoiser::{Denoiser, Stage};
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::loading::Placement;
use bildkante_gpu_node::diffusion::pipeline::{Denoising, Models, generate};
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use bildkante_gpu_node::diffusion::sd::conditioning::Conditioning;
use bildkante_gpu_node::diffusion::sd::guide::Guide;
use bildkante_gpu_node::diffusion::sd::networks::Adapted;
use bildkante_gpu_node::diffusion::trace::Trace;
use bildkante_gpu_node::diffusion::{Device, device, runtime};
use bildkante_shared::ids::MasterId;
use bildkante_shared::recipe::{Recipe, SchedulerChoice, SchedulerKind, ValidRecipe};
use tch::{Kind, Tensor};

/// Where these tests draw: `BILDKANTE_TEST_DEVICE` (`cuda`), else the CPU.
fn test_device() -> Device {
    match std::env::var("BILDKANTE_TEST_DEVICE") {
        Ok(name) if name.starts_with("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

fn load(dtype: DType) -> Result<Checkpoint> {
    load_on(test_device(), dtype)
}

fn load_on(device: Device, dtype: DType) -> Result<Checkpoint> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny");
    Ok(Checkpoint::load(&folder, device, dtype)?)
}

fn recipe(checkpoint: &Checkpoint, edit: impl FnOnce(&mut Recipe)) -> Result<ValidRecipe> {
    let mut recipe = Recipe {
        seed: 7,
        steps: 3,
        ..Recipe::new(checkpoint.digest(), "a teal mug, cream backdrop, studio light", (192, 192))
    };
    edit(&mut recipe);
    Ok(ValidRecipe::try_from(recipe)?)
}

fn draw(checkpoint: &Checkpoint, recipe: &ValidRecipe) -> Result<(Trace, MasterId)> {
    let mut trace = Trace::new();
    let drawn = generate(&Models::from(checkpoint), recipe, Some(&mut trace), &mut |_, _| ControlFlow::Continue(()))?;
    Ok((trace, drawn.pixels.master_id()))
}

/// The first tensor that differs in a bit.
fn first_difference<'a>(a: &'a Trace, b: &Trace) -> Option<&'a str> {
    a.names().find(|name| a.get(name) != b.get(name))
}

#[test]
fn a_recipe_is_drawn_to_the_bit_again_after_other_work_and_loaded_anew() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let checkpoint = load(dtype)?;
        let ancestral = SchedulerChoice { kind: Some(SchedulerKind::EulerAncestral), ..SchedulerChoice::default() };
        let wanted = recipe(&checkpoint, |r| r.scheduler = ancestral)?;
        let (first, id) = draw(&checkpoint, &wanted)?;
        // Another shape of batch and picture, another number of draws from a generator.
        draw(&checkpoint, &recipe(&checkpoint, |r| (r.guidance, r.width_px, r.steps, r.seed) = (1.0, 128, 2, 8))?)?;
        let (again, again_id) = draw(&checkpoint, &wanted)?;
        ensure!(id == again_id && first_difference(&first, &again).is_none(), "{dtype}: {first:?} {again:?}");
        let (anew, anew_id) = draw(&load(dtype)?, &wanted)?;
        ensure!(id == anew_id && first_difference(&first, &anew).is_none(), "{dtype}");
    }
    Ok(())
}

#[test]
fn an_equal_class_means_equal_bits_on_any_thread() -> Result<()> {
    let on_a_thread = |threads: u32| {
        std::thread::spawn(move || -> Result<_> {
            runtime::set_threads(threads);
            ensure!(runtime::threads() == threads);
            // Threads are the processor's.
            let checkpoint = load_on(Device::Cpu, DType::F32)?;
            let recipe = recipe(&checkpoint, |_| {})?;
            let (trace, id) = draw(&checkpoint, &recipe)?;
            Ok((trace, id, checkpoint.determinism(&recipe, 1).class))
        })
        .join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?
    };
    let (one, two, two_again) = (on_a_thread(1)?, on_a_thread(2)?, on_a_thread(2)?);
    ensure!(two.2 == two_again.2 && two.2 != one.2, "{} {}", one.2, two.2);
    ensure!(two.1 == two_again.1 && first_difference(&two.0, &two_again.0).is_none());
    // At this size the denoising does not depend on the number of threads; the picture may, by less than a pixel value.
    ensure!(matches!(first_difference(&one.0, &two.0), None | Some("image")), "the latents depend on the threads");
    let (one, two) = (one.0.get("image"), two.0.get("image"));
    let error = one.zip(two).map(|(one, two)| (one - two).abs().max().double_value(&[]));
    ensure!(error.is_some_and(|error| error < 0.5 / 255.0), "{error:?}");
    Ok(())
}

#[test]
fn what_is_kept_of_a_text_is_what_the_networks_make_of_it() -> Result<()> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let checkpoint = Checkpoint::load(&fixtures.join("checkpoints/sd1-tiny"), Device::Cpu, DType::F32)?;
    let control = Guide::load(&fixtures.join("controlnets/sd1-edges"), Placement::new(Device::Cpu, DType::F32))?;
    let networks = Adapted::from(&checkpoint).controlled(vec![&control]);
    let condition = |prompt: &str| -> Result<_> {
        let recipe = Recipe::new(checkpoint.digest(), prompt, (32, 32));
        let embedded = control.embed(&Tensor::rand([2, 3, 32, 32], (Kind::Float, Device::Cpu)))?;
        let conditions = networks.condition(&ValidRecipe::try_from(recipe)?, Stage::Base)?;
        Ok(Conditioning { controls: vec![Control { network: 0, embedded, scale: 1.0 }], ..conditions })
    };
    let kept = condition("a mug")?;
    ensure!((kept.projected.len(), kept.control_texts.len()) == (2, 1) && kept.control_texts[0].len() == 2);
    let latents = Tensor::randn([2, 4, 16, 16], (Kind::Float, Device::Cpu));
    let timesteps = Tensor::from_slice(&[500.0_f32, 500.0]);
    let predict = |conditions: &Conditioning| networks.predict(&latents, &timesteps, conditions);
    let with = |conditions: &Conditioning, control_texts| Conditioning { control_texts, ..conditions.shallow_clone() };
    let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let expected = predict(&kept)?;
    // Computed in every pass, the texts of both rows together: the same but for rounding.
    let error = difference(&predict(&with(&kept, Vec::new()))?, &expected);
    ensure!(error < 1e-5, "{error}");
    // It is the ControlNet that looks at them: those of another text make another picture.
    let others = condition("a red vase on a table")?.control_texts;
    ensure!(difference(&predict(&with(&kept, others))?, &expected) > 1e-4);
    Ok(())
}

#[test]
fn channels_last_is_the_same_picture_of_another_class() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/studio-tiny");
    for dtype in [DType::F32, DType::BF16] {
        let plain = load(dtype)?;
        let other = Checkpoint::load_with(&folder, Placement { channels_last: true, ..plain.placement() })?;
        let recipe = recipe(&plain, |_| {})?;
        let class = |checkpoint: &Checkpoint| checkpoint.determinism(&recipe, 1).class;
        ensure!(class(&other) == class(&plain).replace("/threads", "/channels-last/threads"), "{}", class(&other));
        let ((ours, _), (theirs, _)) = (draw(&other, &recipe)?, draw(&plain, &recipe)?);
        let error = ours.get("image").zip(theirs.get("image")).map(|(a, b)| (a - b).abs().max().double_value(&[]));
        // Of 0 to 1: rounding, of 24 bits and of 8.
        let error_max = if dtype == DType::F32 { 0.5 / 255.0 } else { 0.1 };
        ensure!(error.is_some_and(|error| error < error_max), "{dtype}: {error:?}");
        let (again, _) = draw(&other, &recipe)?;
        ensure!(first_difference(&ours, &again).is_none(), "{dtype} does not repeat itself");
    }
    Ok(())
}

#[test]
fn no_step_makes_the_host_wait_for_the_device() -> Result<()> {
    let checkpoint = load(DType::F32)?;
    let models = Models::from(&checkpoint);
    for kind in SchedulerKind::ALL {
        // Without rescaled guidance: a deviation over one picture is computed through a value on a CPU, and only there.
        let recipe = recipe(&checkpoint, |r| {
            (r.steps, r.width_px, r.height_px, r.scheduler.kind) = (4, 64, 64, Some(kind));
        })?;
        let mut request = Denoising::begin(&models, &recipe, None)?;
        let (done, waits) = device::count_waits(|| request.denoise(&models));
        done?;
        ensure!(waits == Some(0), "{kind}: {waits:?}");
        // What does wait is counted, and what was counted is over.
        let read = || request.latents().double_value(&[0, 0, 0, 0]);
        ensure!((device::count_waits(read).1, device::count_waits(|| ()).1) == (Some(1), Some(0)));
    }
    Ok(())
}
