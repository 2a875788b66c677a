//! What happens to a checkpoint folder that is not as it should be: an error that names what is wrong, never a panic
//! and never a network that quietly computes something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::error::DiffusionError;
use bildkante_gpu_node::diffusion::pipeline::{Denoising, Models};
use bildkante_gpu_node::diffusion::sd::adapters::Adapter;
use bildkante_gpu_node::diffusion::sd::checkpoint::{Checkpoint, Family};
use bildkante_gpu_node::diffusion::sd::conditioning::Conditioning;
use bildkante_gpu_node::diffusion::text::tokenizer::ClipTokenizer;
use bildkante_gpu_node::diffusion::trace::Trace;
use bildkante_shared::recipe::{Recipe, SchedulerKind, ValidRecipe};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny")
}

/// A copy of a good checkpoint, to be damaged.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn new() -> Result<Self> {
        let copy = Self { dir: tempfile::tempdir()? };
        copy_folder(&source(), copy.dir.path())?;
        Ok(copy)
    }

    fn of(name: &str) -> Result<Self> {
        let copy = Self { dir: tempfile::tempdir()? };
        copy_folder(&source().with_file_name(name), copy.dir.path())?;
        Ok(copy)
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.dir.path().join(file);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        edit(&mut json);
        Ok(std::fs::write(path, json.to_string())?)
    }

    fn load(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::load(self.dir.path(), Device::Cpu, DType::F32)?)
    }

    fn refusal(&self) -> Result<String> {
        let error = self.load().err().context("the damaged checkpoint was accepted")?;
        Ok(format!("{error:#}"))
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn a_loaded_checkpoint_says_what_it_is() -> Result<()> {
    let checkpoint = Checkpoint::load(&source(), Device::Cpu, DType::F32)?;
    assert_eq!(checkpoint.name(), "sd1-tiny");
    assert_eq!(checkpoint.family(), Family::Sd1);
    assert_eq!(
        (checkpoint.vae_factor(), checkpoint.native_size_px(), checkpoint.latent_channels()),
        (2, Some((64, 64)), 4)
    );
    assert_eq!(checkpoint.digest(), bildkante_shared::checkpoint::digest(&source())?);
    ensure!(checkpoint.scheduler_config().train_steps == 1000);
    let sd2 = Checkpoint::load(&source().with_file_name("sd2-tiny"), Device::Cpu, DType::F32)?;
    assert_eq!(sd2.family(), Family::Sd2);
    Ok(())
}

#[test]
fn a_missing_file_is_named() -> Result<()> {
    for (file, named) in [
        ("model_index.json", "model_index.json"),
        ("unet/config.json", "unet/config.json"),
        ("scheduler/scheduler_config.json", "scheduler_config.json"),
        ("vae/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
        ("text_encoder/model.safetensors", "model.safetensors"),
        ("tokenizer/vocab.json", "neither vocab.json"),
    ] {
        let copy = Copy::new()?;
        std::fs::remove_file(copy.dir.path().join(file))?;
        let refusal = copy.refusal()?;
        ensure!(refusal.contains(named), "{file}: {refusal}");
    }
    Ok(())
}

#[test]
fn a_truncated_weight_file_is_named() -> Result<()> {
    let copy = Copy::new()?;
    let path = copy.dir.path().join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&path)?;
    std::fs::write(&path, &bytes[..bytes.len() - 1])?;
    let refusal = copy.refusal()?;
    ensure!(refusal.contains("unet/diffusion_pytorch_model.safetensors is no valid safetensors file"), "{refusal}");
    Ok(())
}

#[test]
fn tensors_and_configuration_must_agree() -> Result<()> {
    for (field, value, named) in [
        ("layers_per_block", json!(2), "is missing from"),
        ("mid_block_type", json!("UNetMidBlock2D"), "belong to no part of the network"),
        ("conv_in_kernel", json!(5), "`conv_in.weight`"),
        ("use_linear_projection", json!(true), "proj_in.weight` of "),
        ("act_fn", json!("mish"), "unet/config.json: `act_fn` is \"mish\""),
        ("in_channels", json!(6), "neither text to image"),
        // A depth map beside the latents.
        ("in_channels", json!(5), "`conv_in.weight`"),
        ("in_channels", json!(9), "`conv_in.weight`"),
        ("cross_attention_dim", json!(16), "the UNet attends to 16"),
    ] {
        let copy = Copy::new()?;
        copy.edit("unet/config.json", |config| config[field] = value)?;
        let refusal = copy.refusal()?;
        ensure!(refusal.contains(named), "{field}: {refusal}");
    }
    Ok(())
}

#[test]
fn other_kinds_of_pipeline_are_refused_by_component() -> Result<()> {
    for (component, value) in [
        ("text_encoder_2", json!(["transformers", "T5EncoderModel"])),
        ("unet", json!(["diffusers", "UNet3DConditionModel"])),
        ("transformer", json!(["diffusers", "FluxTransformer2DModel"])),
        ("vae", json!("AutoencoderKL")),
        ("text_encoder", json!(null)),
    ] {
        let copy = Copy::new()?;
        copy.edit("model_index.json", |index| index[component] = value)?;
        let refusal = copy.refusal()?;
        ensure!(refusal.contains(&format!("component `{component}` is ")), "{refusal}");
    }
    Ok(())
}

#[test]
fn the_tokenizer_must_fit_the_text_encoder() -> Result<()> {
    let copy = Copy::new()?;
    copy.edit("tokenizer/vocab.json", |vocabulary| vocabulary["zebra</w>"] = json!(1000))?;
    let refusal = copy.refusal()?;
    ensure!(refusal.contains("the tokenizer has ids"), "{refusal}");

    // One that was added has no row in the encoder either.
    let copy = Copy::new()?;
    std::fs::write(copy.dir.path().join("tokenizer/added_tokens.json"), r#"{"<sks>": 1000}"#)?;
    let refusal = copy.refusal()?;
    ensure!(refusal.contains("the tokenizer has ids"), "{refusal}");

    let copy = Copy::new()?;
    std::fs::write(copy.dir.path().join("tokenizer/merges.txt"), "#version: 0.2\nno-pair\n")?;
    ensure!(copy.refusal()?.contains("`no-pair` is no pair of tokens"));
    std::fs::write(copy.dir.path().join("tokenizer/merges.txt"), "#version: 0.2\nunknown tokens\n")?;
    ensure!(copy.refusal()?.contains("cannot be built"));

    let copy = Copy::new()?;
    copy.edit("tokenizer/tokenizer_config.json", |config| config["model_max_length"] = json!(2))?;
    ensure!(copy.refusal()?.contains("2 tokens leave no room"));
    copy.edit("tokenizer/tokenizer_config.json", |config| config["model_max_length"] = json!(1e30))?;
    assert_eq!(copy.load()?.text().tokenizer().map(ClipTokenizer::tokens), Some(77));
    Ok(())
}

#[test]
fn a_device_that_is_not_there_is_an_error() -> Result<()> {
    let absent = usize::try_from(tch::Cuda::device_count())?;
    ensure!(Checkpoint::load(&source(), Device::Cuda(absent), DType::F32).is_err());
    ensure!(Checkpoint::load(&source(), Device::Mps, DType::F32).is_err());
    Ok(())
}

#[test]
fn inputs_of_the_wrong_shape_are_refused() -> Result<()> {
    let checkpoint = Checkpoint::load(&source(), Device::Cpu, DType::F32)?;
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let refused = |result: Result<Tensor, DiffusionError>| matches!(result, Err(DiffusionError::Input { .. }));
    let text = Conditioning::from(zeros(&[1, 77, 8]));
    ensure!(checkpoint.predict(&zeros(&[1, 4, 9, 7]), &zeros(&[1]), &text).is_ok());
    ensure!(refused(checkpoint.predict(&zeros(&[1, 3, 8, 8]), &zeros(&[1]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[4, 8, 8]), &zeros(&[1]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[1, 4, 0, 8]), &zeros(&[1]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[1, 4, 8, 8]), &zeros(&[2]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[1, 4, 8, 8]), &zeros(&[]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[2, 4, 8, 8]), &zeros(&[2]), &text)));
    ensure!(refused(checkpoint.predict(&zeros(&[1, 4, 8, 8]), &zeros(&[1]), &zeros(&[1, 77, 9]).into())));
    ensure!(refused(checkpoint.decode(&zeros(&[1, 8, 8, 8]))));
    Ok(())
}

#[test]
fn half_precision_stays_near_single_precision() -> Result<()> {
    let single = Checkpoint::load(&source(), Device::Cpu, DType::F32)?;
    let encode = |checkpoint: &Checkpoint| -> Result<Conditioning> {
        Ok(checkpoint.text().encode("a red mug", 1)?.hidden.into())
    };
    let text = encode(&single)?;
    let latents = Tensor::arange(4 * 16 * 16, (Kind::Float, Device::Cpu)).view([1, 4, 16, 16]).sin();
    let timesteps = Tensor::from_slice(&[500_i64]);
    let expected = single.predict(&latents, &timesteps, &text)?;
    for (dtype, tolerance) in [(DType::BF16, 0.1), (DType::F16, 0.02)] {
        let checkpoint = Checkpoint::load(&source(), Device::Cpu, dtype)?;
        let found = checkpoint.predict(&latents, &timesteps, &encode(&checkpoint)?)?;
        assert_eq!(found.kind(), dtype.kind());
        let error = f64::try_from((found.to_kind(Kind::Float) - &expected).abs().max() / expected.abs().max())?;
        ensure!(error < tolerance, "{dtype}: {error}");
        // Only pipelines of XL upcast, also where another configuration asks for it.
        assert_eq!(checkpoint.decode(&latents)?.kind(), dtype.kind());
    }
    Ok(())
}

/// Source: diffusers 0.42, `needs_upcasting` and `prepare_latents` of the XL pipelines.
#[test]
fn an_autoencoder_of_xl_is_upcast_where_its_configuration_and_the_precision_ask_for_it() -> Result<()> {
    let latents = Tensor::zeros([1, 4, 8, 8], (Kind::Float, Device::Cpu));
    let kinds = |copy: &Copy, dtype| -> Result<(Kind, Kind)> {
        let checkpoint = Checkpoint::load(copy.dir.path(), Device::Cpu, dtype)?;
        let decoded = checkpoint.decode(&latents)?;
        Ok((checkpoint.encode(&decoded)?.0.kind(), decoded.kind()))
    };
    let xl = Copy::of("sdxl-tiny")?;
    assert_eq!(kinds(&xl, DType::F16)?, (Kind::Float, Kind::Float));
    assert_eq!(kinds(&xl, DType::BF16)?, (Kind::Float, Kind::BFloat16));
    xl.edit("vae/config.json", |config| {
        config.as_object_mut().map(|config| config.remove("force_upcast"));
    })?;
    assert_eq!(kinds(&xl, DType::F16)?, (Kind::Float, Kind::Float), "absent it is true");
    xl.edit("vae/config.json", |config| config["force_upcast"] = json!(false))?;
    assert_eq!(kinds(&xl, DType::F16)?, (Kind::Half, Kind::Half));
    let sd1 = Copy::new()?;
    assert_eq!(kinds(&sd1, DType::F16)?, (Kind::Half, Kind::Half));
    Ok(())
}

#[test]
fn a_key_of_a_known_file_is_never_passed_over() -> Result<()> {
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
    ] {
        let copy = Copy::new()?;
        copy.edit(file, |config| config["_written_by"] = json!("a trainer"))?;
        copy.load().with_context(|| file.to_owned())?;
        // Null may ask for something that the default does not.
        for value in [json!(null), json!(0.5)] {
            copy.edit(file, |config| config["a_key_of_tomorrow"] = value)?;
            let refusal = copy.refusal()?;
            ensure!(refusal.contains(file) && refusal.contains("`a_key_of_tomorrow`"), "{file}: {refusal}");
        }
    }
    // As diffusers writes them.
    let copy = Copy::new()?;
    copy.edit("scheduler/scheduler_config.json", |config| config["solver_p"] = json!(null))?;
    copy.edit("model_index.json", |index| index["image_encoder"] = json!([null, null]))?;
    copy.load()?;
    // Another pipeline's part, and options of a tokenizer that the pipeline does not use.
    for (file, key, value) in [
        ("model_index.json", "prior", json!(["diffusers", "PriorTransformer"])),
        ("tokenizer/tokenizer_config.json", "padding_side", json!("left")),
        ("tokenizer/tokenizer_config.json", "split_special_tokens", json!(true)),
        ("scheduler/scheduler_config.json", "solver_p", json!("DDIMScheduler")),
    ] {
        let copy = Copy::new()?;
        copy.edit(file, |config| config[key] = value)?;
        let refusal = copy.refusal()?;
        ensure!(refusal.contains(&format!("`{key}`")), "{file}: {refusal}");
    }
    Ok(())
}

#[test]
fn what_changes_no_picture_is_not_refused() -> Result<()> {
    // No size of its own, weights under the name of another precision, a folder by another name.
    let copy = Copy::new()?;
    copy.edit("unet/config.json", |config| config["sample_size"] = json!(null))?;
    for (folder, stem) in
        [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")]
    {
        let folder = copy.dir.path().join(folder);
        std::fs::rename(folder.join(format!("{stem}.safetensors")), folder.join(format!("{stem}.bf16.safetensors")))?;
    }
    let link = tempfile::tempdir()?;
    let link = link.path().join("another-name");
    std::os::unix::fs::symlink(copy.dir.path(), &link)?;
    let checkpoint = Checkpoint::load(&link, Device::Cpu, DType::F32)?;
    assert_eq!((checkpoint.name(), checkpoint.native_size_px()), ("another-name", None));
    assert_eq!(checkpoint.trial_size_px(), (128, 128));
    assert_eq!(drawn(&checkpoint, |_| ())?.size(), [1, 4, 16, 16]);
    Ok(())
}

/// The latents of four steps, as `make_loading_goldens.py` draws them.
fn drawn(checkpoint: &Checkpoint, edit: impl FnOnce(&mut Recipe)) -> Result<Tensor> {
    let mut recipe =
        Recipe { steps: 4, guidance: 5.0, seed: 5, ..Recipe::new(checkpoint.digest(), "a teal mug", (32, 32)) };
    edit(&mut recipe);
    let recipe = ValidRecipe::try_from(recipe)?;
    let models = Models::from(checkpoint);
    let mut drawing = Denoising::begin(&models, &recipe, None)?;
    drawing.denoise(&models)?;
    Ok(drawing.latents().shallow_clone())
}

fn golden(name: &str) -> Result<Tensor> {
    let trace = Trace::read(&source().join("../../goldens/loading/loading.safetensors"))?;
    Ok(trace.get(name).with_context(|| name.to_owned())?.shallow_clone())
}

fn ensure_equal(ours: &Tensor, theirs: &Tensor) -> Result<()> {
    let error = f64::try_from((ours - theirs).abs().max() / theirs.abs().max())?;
    ensure!(ours.size() == theirs.size() && error < 1e-4, "it differs by {error}");
    Ok(())
}

/// The index names the class that reads the scheduler's file, which names another (beside diffusers).
#[test]
fn the_index_says_which_sampler_it_is() -> Result<()> {
    let copy = Copy::new()?;
    let own = drawn(&copy.load()?, |_| ())?;
    copy.edit("model_index.json", |index| index["scheduler"][1] = json!("EulerDiscreteScheduler"))?;
    let golden = golden("scheduler_of_the_index")?;
    ensure_equal(&drawn(&copy.load()?, |_| ())?, &golden)?;
    ensure!(ensure_equal(&own, &golden).is_err(), "the file's own class draws the same");
    Ok(())
}

#[test]
fn a_sampler_that_is_not_offered_is_refused_with_the_recipe_that_asks_for_it() -> Result<()> {
    for class in [
        "IPNDMScheduler",
        "DDPMScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "SASolverScheduler",
    ] {
        let copy = Copy::new()?;
        copy.edit("model_index.json", |index| index["scheduler"][1] = json!(class))?;
        copy.edit("scheduler/scheduler_config.json", |config| {
            config["_class_name"] = json!(class);
            config["variance_type"] = json!("fixed_small");
            config["a_key_of_that_class"] = json!(7);
        })?;
        let checkpoint = copy.load().with_context(|| class.to_owned())?;
        let refusal = drawn(&checkpoint, |_| ()).err().context("drawn")?.to_string();
        ensure!(refusal.contains(class) && refusal.contains("name another"), "{refusal}");
        for kind in SchedulerKind::ALL {
            let _ = drawn(&checkpoint, |recipe| recipe.scheduler.kind = Some(kind))
                .with_context(|| format!("{class}: {kind}"))?;
        }
        // What it is tried with.
        let _ = drawn(&checkpoint, |recipe| recipe.scheduler = checkpoint.trial_scheduler())?;
    }
    Ok(())
}

/// Null is no, as in Python; absent it is yes (beside diffusers).
#[test]
fn nothing_in_place_of_a_negative_prompt_is_what_the_index_says() -> Result<()> {
    let copy = Copy::of("sdxl-tiny")?;
    copy.edit("model_index.json", |index| index["force_zeros_for_empty_prompt"] = json!(null))?;
    let golden = golden("zeros_for_nothing")?;
    ensure_equal(&drawn(&copy.load()?, |_| ())?, &golden)?;
    copy.edit("model_index.json", |index| {
        index.as_object_mut().map(|index| index.remove("force_zeros_for_empty_prompt"));
    })?;
    ensure!(ensure_equal(&drawn(&copy.load()?, |_| ())?, &golden).is_err());
    Ok(())
}

/// Made, saved and loaded by PEFT: order and expressions of its patterns, ranks of their own, scales by the root of the rank.
#[test]
fn an_adapter_acts_as_pefts_own_configuration_says() -> Result<()> {
    let checkpoint = Checkpoint::load(&source(), Device::Cpu, DType::F32)?;
    let predict = |adapter: &str| -> Result<Tensor> {
        let adapter = Arc::new(Adapter::load(&source().join("../../adapters").join(adapter))?);
        let trunk = checkpoint.adapted(&[(adapter, 1.0)], &[])?;
        let [sample, timesteps, text] = ["sample", "timesteps", "embeddings"].map(golden);
        Ok(checkpoint.predict_with(&trunk, &[], &sample?, &timesteps?, &text?.into())?)
    };
    let golden = golden("prediction")?;
    ensure_equal(&predict("sd1.rslora.safetensors")?, &golden)?;

    // Without its configuration nothing says its scales.
    let dir = tempfile::tempdir()?;
    let bare = dir.path().join("bare.safetensors");
    std::fs::copy(source().join("../../adapters/sd1.rslora.safetensors"), &bare)?;
    let refused = predict(&bare.to_string_lossy()).map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
    ensure!(refused.contains("adapter_config.json"), "{refused}");
    Ok(())
}
