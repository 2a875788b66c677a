//! Every step beside Python diffusers: `fixtures/goldens/cases.json` and `goldens/engine/cases.json` say what was drawn, a
//! trace beside each what came out of every step. Noise must be bit-identical, latents within 1e-4, images within 1/255.
//! Needs no Python.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bildkante_gpu_node::diffusion::denoiser::{Denoiser, Stage};
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::error::DiffusionError;
use bildkante_gpu_node::diffusion::loading::Placement;
use bildkante_gpu_node::diffusion::noise::NoiseGenerator;
use bildkante_gpu_node::diffusion::picture::{Picture, Pictures};
use bildkante_gpu_node::diffusion::pipeline::{Models, generate};
use bildkante_gpu_node::diffusion::scheduler::{Sampler, SchedulerConfig, Span};
use bildkante_gpu_node::diffusion::sd::adapters::Adapter;
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use bildkante_gpu_node::diffusion::sd::checkpoint::Trunk;
use bildkante_gpu_node::diffusion::sd::conditioning::Conditioning;
use bildkante_gpu_node::diffusion::sd::guide::Guide;
use bildkante_gpu_node::diffusion::sd::inversion::{Inversion, Word};
use bildkante_gpu_node::diffusion::sd::ip_adapter::{IpAdapter, IpAdapterFile};
use bildkante_gpu_node::diffusion::sd::networks::Adapted;
use bildkante_gpu_node::diffusion::trace::Trace;
use bildkante_gpu_node::diffusion::vision::ImageEncoder;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{
    ControlUse, DetailUse, DraftUse, EmbeddingUse, InitUse, LongPrompt, Recipe, ReferenceUse, RefinerUse,
    SchedulerChoice, SchedulerKind, SigmaSpacing, SizeConditioning, TimestepSpacing, ValidRecipe,
};
use bildkante_shared::weighting::Weighting;
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const LATENTS_ERROR_MAX: f64 = 1e-4;
const IMAGE_ERROR_MAX: f64 = 1.0 / 255.0;

#[derive(Debug, Deserialize)]
struct Index {
    cases: Vec<Case>,
    noise: Vec<Noise>,
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    file: String,
    checkpoint: String,
    prompt: String,
    negative_prompt: String,
    seed: u32,
    steps: u32,
    guidance: f64,
    width_px: u32,
    height_px: u32,
    scheduler: SchedulerChoice,
    #[serde(default)]
    guidance_rescale: f64,
    #[serde(default = "cut")]
    long_prompt: LongPrompt,
    sizes: Option<SizeConditioning>,
    negative_sizes: Option<SizeConditioning>,
    refiner: Option<Refiner>,
    #[serde(default)]
    loras: Vec<Lora>,
    #[serde(default)]
    embeddings: Vec<Embedding>,
    #[serde(default)]
    references: Vec<Reference>,
    draft: Option<DraftUse>,
    #[serde(default)]
    details: Vec<Detail>,
    #[serde(default)]
    weighting: Weighting,
    vae_tiles_px: Option<u32>,
    init: Option<Init>,
    mask: Option<String>,
    depth: Option<String>,
    #[serde(default)]
    controls: Vec<Control>,
    config_overrides: serde_json::Map<String, Value>,
    predictions: usize,
    /// What diffusers' scheduler said of itself, where it was asked.
    #[serde(flatten)]
    schedule: Option<Schedule>,
}

/// As the pipelines do.
const fn cut() -> LongPrompt {
    LongPrompt::Cut
}

#[derive(Debug, Deserialize)]
struct Refiner {
    checkpoint: String,
    start: f64,
    aesthetic_score: f64,
    negative_aesthetic_score: f64,
}

#[derive(Debug, Deserialize)]
struct Init {
    image: String,
    strength: f64,
}

#[derive(Debug, Deserialize)]
struct Control {
    network: String,
    image: String,
    weight: f64,
    start: f64,
    end: f64,
}

/// An image of the fixtures.
fn image(name: &str, pictures: &mut Pictures) -> Result<Digest> {
    let bytes = std::fs::read(fixtures().join("images").join(name))?;
    let digest = Digest::of_bytes(&bytes);
    pictures.insert(digest, Arc::new(Picture::decode(&bytes)?));
    Ok(digest)
}

#[derive(Debug, Deserialize)]
struct Lora {
    file: String,
    weight: f64,
}

#[derive(Debug, Deserialize)]
struct Embedding {
    file: String,
    token: String,
}

#[derive(Debug, Deserialize)]
struct Reference {
    file: String,
    encoder: String,
    image: String,
    weight: f64,
    start: f64,
    end: f64,
    mask: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    mask: String,
    strength: f64,
    steps: Option<u32>,
    guidance: Option<f64>,
    prompt: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Schedule {
    kind: SchedulerKind,
    timestep_spacing: Option<TimestepSpacing>,
    use_karras_sigmas: bool,
    timesteps: Vec<f64>,
    init_noise_sigma: f64,
}

#[derive(Debug, Deserialize)]
struct Noise {
    seed: u32,
    draws: Vec<Vec<i64>>,
    tensors: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn goldens() -> PathBuf {
    fixtures().join("goldens")
}

fn index() -> Result<Index> {
    let path = goldens().join("cases.json");
    // The effective configurations in it are for people, and Python writes them with a bare infinity.
    let text = std::fs::read_to_string(&path)?.replace(": -Infinity", ": null");
    let index: Index = serde_json::from_str(&text).with_context(|| format!("{path:?}"))?;
    ensure!(index.cases.len() >= 50 && index.noise.len() >= 10, "the goldens are not all there");
    Ok(index)
}

/// The cases of `make_engine_goldens.py`.
fn engine_cases() -> Result<Vec<Case>> {
    let path = goldens().join("engine/cases.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(&path)?).with_context(|| format!("{path:?}"))?;
    ensure!(cases.len() >= 80, "the goldens are not all there");
    Ok(cases)
}

/// Checkpoints of the fixtures by name, loaded when they are first asked for.
#[derive(Default)]
struct Shelf(BTreeMap<String, Checkpoint>);

impl Shelf {
    fn load(&mut self, name: &str) -> Result<()> {
        if !self.0.contains_key(name) {
            let folder = fixtures().join("checkpoints").join(name);
            self.0.insert(name.to_owned(), Checkpoint::load(&folder, Device::Cpu, DType::F32)?);
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&Checkpoint> {
        self.0.get(name).with_context(|| format!("no checkpoint `{name}`"))
    }
}

impl Detail {
    fn used(&self, pictures: &mut Pictures) -> Result<DetailUse> {
        let (mask, prompt) = (image(&self.mask, pictures)?, self.prompt.clone());
        let Self { strength, steps, guidance, .. } = *self;
        Ok(DetailUse { mask, strength, steps, guidance, prompt, negative_prompt: None, loras: None })
    }
}

/// A checkpoint with another scheduler config.
#[derive(Debug)]
struct Rescheduled<'a> {
    checkpoint: Adapted<'a>,
    config: SchedulerConfig,
}

impl Denoiser for Rescheduled<'_> {
    type Conditions = Conditioning;

    fn device(&self) -> Device {
        self.checkpoint.device()
    }
    fn vae_factor(&self) -> u32 {
        self.checkpoint.vae_factor()
    }
    fn latent_channels(&self) -> i64 {
        self.checkpoint.latent_channels()
    }
    fn scheduler_config(&self) -> &SchedulerConfig {
        &self.config
    }
    fn architecture(&self, controls: &[usize]) -> Digest {
        self.checkpoint.architecture(controls)
    }
    fn condition(&self, recipe: &ValidRecipe, stage: Stage) -> Result<Conditioning, DiffusionError> {
        self.checkpoint.condition(recipe, stage)
    }
    fn predict(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor, DiffusionError> {
        self.checkpoint.predict(latents, timesteps, conditioning)
    }
    fn is_inpainting(&self) -> bool {
        self.checkpoint.is_inpainting()
    }
    fn is_told_depth(&self) -> bool {
        self.checkpoint.is_told_depth()
    }
    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor), DiffusionError> {
        self.checkpoint.encode(image)
    }

    fn scaled(&self, unscaled: &Tensor) -> Result<Tensor, DiffusionError> {
        self.checkpoint.scaled(unscaled)
    }
    fn control_factor(&self, network: usize) -> Option<u32> {
        self.checkpoint.control_factor(network)
    }
    fn embed_control(&self, network: usize, image: &Tensor) -> Result<Vec<Tensor>, DiffusionError> {
        self.checkpoint.embed_control(network, image)
    }
    fn embed_reference(
        &self,
        place: usize,
        image: (Digest, &Picture),
        rows: i64,
    ) -> Result<Vec<Tensor>, DiffusionError> {
        self.checkpoint.embed_reference(place, image, rows)
    }
    fn decode(&self, latents: &Tensor) -> Result<Tensor, DiffusionError> {
        self.checkpoint.decode(latents)
    }
}

impl Case {
    /// What reads the case's reference images.
    fn readers(&self, shelf: &Shelf) -> Result<Vec<(IpAdapter, ImageEncoder)>> {
        let placement = Placement::new(Device::Cpu, DType::F32);
        let reader = |used: &Reference| {
            let file = IpAdapterFile::look_at(&fixtures().join("references").join(&used.file))?;
            let adapter = file.load(shelf.get(&self.checkpoint)?.unet_config(), placement)?;
            Ok((adapter, ImageEncoder::load(&fixtures().join("encoders").join(&used.encoder), placement)?))
        };
        self.references.iter().map(reader).collect()
    }

    fn referring(&self, readers: &[(IpAdapter, ImageEncoder)], pictures: &mut Pictures) -> Result<Vec<ReferenceUse>> {
        let referring = self.references.iter().zip(readers).map(|(used, (adapter, encoder))| {
            let Reference { weight, start, end, .. } = *used;
            let (adapter, encoder) = (adapter.identity().digest, encoder.digest());
            let mask = used.mask.as_ref().map(|mask| image(mask, pictures)).transpose()?;
            Ok(ReferenceUse { adapter, encoder, image: image(&used.image, pictures)?, weight, start, end, mask })
        });
        referring.collect()
    }

    fn recipe(
        &self,
        shelf: &Shelf,
        (networks, readers): (&[Guide], &[(IpAdapter, ImageEncoder)]),
        pictures: &mut Pictures,
    ) -> Result<ValidRecipe> {
        let init = self.init.as_ref().map(|init| -> Result<InitUse> {
            Ok(InitUse { image: image(&init.image, pictures)?, strength: init.strength })
        });
        let init = init.transpose()?;
        let mask = self.mask.as_ref().map(|mask| image(mask, pictures)).transpose()?;
        let depth = self.depth.as_ref().map(|depth| image(depth, pictures)).transpose()?;
        let controls = self.controls.iter().zip(networks).map(|(control, network)| {
            let Control { weight, start, end, .. } = *control;
            Ok(ControlUse { network: network.digest(), image: image(&control.image, pictures)?, weight, start, end })
        });
        let controls = controls.collect::<Result<Vec<_>>>()?;
        let refiner = self.refiner.as_ref().map(|refiner| -> Result<RefinerUse> {
            Ok(RefinerUse {
                checkpoint: shelf.get(&refiner.checkpoint)?.digest(),
                start: refiner.start,
                aesthetic_score: refiner.aesthetic_score,
                negative_aesthetic_score: refiner.negative_aesthetic_score,
            })
        });
        Ok(ValidRecipe::try_from(Recipe {
            negative_prompt: self.negative_prompt.clone(),
            seed: self.seed,
            scheduler: self.scheduler.clone(),
            steps: self.steps,
            guidance: self.guidance,
            guidance_rescale: self.guidance_rescale,
            long_prompt: self.long_prompt,
            weighting: self.weighting,
            sizes: self.sizes,
            negative_sizes: self.negative_sizes,
            refiner: refiner.transpose()?,
            init,
            mask,
            depth,
            controls,
            references: self.referring(readers, pictures)?,
            draft: self.draft.clone(),
            details: self.details.iter().map(|detail| detail.used(pictures)).collect::<Result<_>>()?,
            embeddings: self
                .words()?
                .iter()
                .map(|(file, token)| EmbeddingUse { digest: file.identity().digest, token: token.clone() })
                .collect(),
            ..Recipe::new(shelf.get(&self.checkpoint)?.digest(), &self.prompt, (self.width_px, self.height_px))
        })?)
    }

    /// What the file says with the overrides; to the letter where there are some, as the goldens were made.
    fn rescheduled<'a>(&self, name: &str, trunk: Option<&'a Trunk>, shelf: &'a Shelf) -> Result<Rescheduled<'a>> {
        let checkpoint = shelf.get(name)?;
        let checkpoint = trunk.map_or_else(|| checkpoint.into(), |trunk| Adapted::new(checkpoint, trunk));
        if self.config_overrides.is_empty() {
            return Ok(Rescheduled { config: checkpoint.scheduler_config().clone(), checkpoint });
        }
        let path = fixtures().join("checkpoints").join(name).join("scheduler/scheduler_config.json");
        let mut file: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(path)?)?;
        file.extend(self.config_overrides.clone());
        Ok(Rescheduled { checkpoint, config: SchedulerConfig::from_json(&Value::Object(file))? })
    }

    fn words(&self) -> Result<Vec<Word>> {
        let words = self.embeddings.iter().map(|Embedding { file, token }| {
            let path = fixtures().join("embeddings").join(file);
            Ok((Arc::new(Inversion::load(&path)?), token.clone()))
        });
        words.collect()
    }

    /// The networks with the case's adapters and words.
    fn adapted(&self, shelf: &Shelf) -> Result<Option<Trunk>> {
        let words = self.words()?;
        if self.loras.is_empty() && words.is_empty() {
            return Ok(None);
        }
        let adapters = self.loras.iter().map(|lora| {
            let path = fixtures().join("adapters").join(&lora.file);
            Ok((Arc::new(Adapter::load(&path)?), lora.weight))
        });
        Ok(Some(shelf.get(&self.checkpoint)?.adapted(&adapters.collect::<Result<Vec<_>>>()?, &words)?))
    }

    /// The refiner's networks with the case's words.
    fn refining(&self, shelf: &Shelf) -> Result<Option<Trunk>> {
        let words = self.words()?;
        let refiner = self.refiner.as_ref().filter(|_| !words.is_empty());
        refiner.map(|refiner| Ok(shelf.get(&refiner.checkpoint)?.adapted(&[], &words)?)).transpose()
    }

    fn check_schedule(&self, schedule: &Schedule, config: &SchedulerConfig) -> Result<()> {
        let config = config.with_choice(&self.scheduler)?;
        ensure!(config.kind == schedule.kind, "kind {}", config.kind);
        ensure!((config.sigmas() == SigmaSpacing::Karras) == schedule.use_karras_sigmas, "karras sigmas");
        if let Some(spacing) = schedule.timestep_spacing {
            ensure!(config.spacing == spacing, "spacing {:?}", config.spacing);
        }
        let sampler = Sampler::new(&config, Span::whole(self.steps as usize))?;
        ensure!(sampler.timesteps().len() == self.predictions, "{} evaluations", sampler.timesteps().len());
        for (i, (ours, theirs)) in sampler.timesteps().iter().zip(&schedule.timesteps).enumerate() {
            let error = (f64::from(*ours) - theirs).abs();
            ensure!(error <= 1e-5 * theirs.abs().max(1.0), "timestep {i} is {ours}, not {theirs}");
        }
        let error = (f64::from(sampler.init_noise_sigma()) - schedule.init_noise_sigma).abs();
        ensure!(error <= 1e-6 * schedule.init_noise_sigma, "init_noise_sigma {}", sampler.init_noise_sigma());
        Ok(())
    }

    /// The largest relative error of any step beside the trace in `folder`.
    fn check(&self, shelf: &mut Shelf, folder: &Path) -> Result<f64> {
        shelf.load(&self.checkpoint)?;
        if let Some(checkpoint) = shelf.0.get_mut(&self.checkpoint) {
            checkpoint.set_vae_tiles_px(self.vae_tiles_px);
        }
        if let Some(refiner) = &self.refiner {
            shelf.load(&refiner.checkpoint)?;
        }
        let trunk = self.adapted(shelf)?;
        let base = self.rescheduled(&self.checkpoint, trunk.as_ref(), shelf)?;
        let refining = self.refining(shelf)?;
        let refiner =
            self.refiner.as_ref().map(|refiner| self.rescheduled(&refiner.checkpoint, refining.as_ref(), shelf));
        let refiner = refiner.transpose()?;
        if let Some(schedule) = &self.schedule {
            self.check_schedule(schedule, &base.config)?;
        }
        let golden = Trace::read(&folder.join(&self.file))?;
        let mut trace = Trace::new();
        let networks = self.controls.iter().map(|control| {
            let folders = ["controlnets", "guides"].map(|kind| fixtures().join(kind).join(&control.network));
            let folder = folders.iter().find(|folder| folder.is_dir()).context("no such network")?;
            Ok(Guide::load(folder, Placement::new(Device::Cpu, DType::F32))?)
        });
        let networks = networks.collect::<Result<Vec<_>>>()?;
        let mut pictures = Pictures::new();
        let readers = self.readers(shelf)?;
        let recipe = self.recipe(shelf, (&networks, &readers), &mut pictures)?;
        let checkpoint = base.checkpoint.controlled(networks.iter().collect());
        let checkpoint = checkpoint.referring(readers.iter().map(|(adapter, encoder)| (adapter, encoder)).collect());
        let models = Models { base: Rescheduled { checkpoint, ..base }, refiner, pictures };
        generate(&models, &recipe, Some(&mut trace), &mut |_, _| ControlFlow::Continue(()))?;
        let mut worst = 0.0_f64;
        for name in golden.names() {
            let theirs = golden.get(name).context("just listed")?;
            let ours = trace.get(name).with_context(|| format!("`{name}` is not in our trace"))?;
            ensure!(ours.size() == theirs.size(), "{name}: shape {:?}, not {:?}", ours.size(), theirs.size());
            match name {
                "noise" => ensure!(ours == theirs, "noise differs"),
                "image" => {
                    let error = (ours - theirs).abs().max().double_value(&[]);
                    ensure!(error <= IMAGE_ERROR_MAX, "image differs by {error:.2e}");
                }
                _ => {
                    let error = relative_error(ours, theirs);
                    ensure!(error <= LATENTS_ERROR_MAX, "{name} differs by {error:.2e}");
                    worst = worst.max(error);
                }
            }
        }
        let steps = |trace: &Trace| trace.names().filter(|name| name.starts_with("latents.")).count();
        ensure!(steps(&trace) == self.predictions && steps(&golden) == self.predictions, "steps are missing");
        Ok(worst)
    }
}

/// The larger of the relative errors in the Euclidean and in the maximum norm.
fn relative_error(ours: &Tensor, theirs: &Tensor) -> f64 {
    let scaled =
        |norm: fn(&Tensor) -> Tensor| norm(&(ours - theirs)).double_value(&[]) / norm(theirs).double_value(&[]);
    scaled(|t| t.norm()).max(scaled(|t| t.abs().max()))
}

#[test]
fn every_case_is_drawn_as_diffusers_draws_it() -> Result<()> {
    check_all(&index()?.cases, &goldens())
}

#[test]
fn every_family_and_sampler_is_drawn_as_diffusers_draws_it() -> Result<()> {
    check_all(&engine_cases()?, &goldens().join("engine"))
}

#[test]
fn images_are_begun_with_kept_and_obeyed_as_in_diffusers() -> Result<()> {
    let folder = goldens().join("images");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder.join("cases.json"))?)?;
    ensure!(cases.len() >= 20, "the goldens are not all there");
    check_all(&cases, &folder)
}

#[test]
fn what_a_recipe_adds_to_a_checkpoint_acts_as_in_diffusers() -> Result<()> {
    let folder = goldens().join("additions");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder.join("cases.json"))?)?;
    ensure!(cases.len() >= 42, "the goldens are not all there");
    check_all(&cases, &folder)
}

fn check_all(cases: &[Case], folder: &Path) -> Result<()> {
    // As the goldens were made; and networks as tiny as these only lose time to a second thread.
    tch::set_num_threads(1);
    let mut shelf = Shelf::default();
    let (mut failures, mut errors) = (Vec::new(), Vec::new());
    for case in cases {
        match case.check(&mut shelf, folder) {
            Ok(error) => errors.push((error, &case.name)),
            Err(error) => failures.push(format!("{}: {error:#}", case.name)),
        }
    }
    errors.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (error, name) in errors.iter().take(5) {
        println!("largest relative error of a step: {error:.2e} ({name})");
    }
    if failures.is_empty() { Ok(()) } else { bail!("{} cases:\n{}", failures.len(), failures.join("\n")) }
}

#[test]
fn noise_is_the_goldens_bit_for_bit() -> Result<()> {
    let golden = Trace::read(&fixtures().join("goldens/noise.safetensors"))?;
    for Noise { seed, draws, tensors } in index()?.noise {
        let mut noise = NoiseGenerator::new(seed);
        ensure!(draws.len() == tensors.len());
        for (shape, name) in draws.iter().zip(&tensors) {
            let theirs = golden.get(name).with_context(|| format!("no tensor `{name}`"))?;
            ensure!(noise.draw(shape, Kind::Float)? == *theirs, "{name} differs");
        }
    }
    Ok(())
}
