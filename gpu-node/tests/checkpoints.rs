//! What happens to a checkpoint folder that is not as it should be: an error that names what is wrong, never a panic
//! and never a network that quietly computes something else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bildkante_gpu_node::diffusion::conditioning::Conditioning;
use bildkante_gpu_node::diffusion::tokenizer::ClipTokenizer;
use bildkante_gpu_node::diffusion::{Checkpoint, DType, DiffusionError, Family};
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
    assert_eq!((checkpoint.vae_factor(), checkpoint.native_size_px(), checkpoint.latent_channels()), (2, (64, 64), 4));
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
        ("in_channels", json!(5), "neither text to image nor inpainting"),
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
        // `force_upcast` is the default of a configuration that does not know it.
        assert_eq!(checkpoint.decode(&latents)?.kind(), Kind::Float);
    }
    Ok(())
}
