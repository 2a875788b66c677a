//! `generate`: one recipe to one PNG.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bildkante_shared::durable::{self, Durability};
use bildkante_shared::ids::Digest;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{
    ControlUse, DetailUse, DraftUse, EmbeddingUse, Enlarge, InitUse, LongPrompt, LoraUse, Prediction, Recipe,
    ReferenceUse, RefinerUse, SchedulerChoice, SchedulerKind, SigmaSpacing, SizeConditioning, TimestepSpacing,
    ValidRecipe, is_token,
};
use bildkante_shared::weighting::Weighting;
use clap::Args;

use super::{EngineArgs, GUIDANCE, STEPS, Size, folder_of, say};
use crate::diffusion::picture::{Picture, Pictures};
use crate::diffusion::pipeline;
use crate::diffusion::pipeline::Models;
use crate::diffusion::runtime;
use crate::diffusion::sd::adapters::{Adapter, LoraError};
use crate::diffusion::sd::checkpoint::{Checkpoint, Trunk};
use crate::diffusion::sd::guide::Guide;
use crate::diffusion::sd::inversion::{Inversion, InversionError, Word};
use crate::diffusion::sd::ip_adapter::{IpAdapter, IpAdapterFile};
use crate::diffusion::sd::networks::Adapted;
use crate::diffusion::trace::Trace;
use crate::diffusion::vision::ImageEncoder;

/// Marks a PNG as generated, as every generated picture has to be.
const XMP: &str = concat!(
    r#"<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">"#,
    r#"<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" "#,
    r#"xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="#,
    r#""http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>"#,
    r#"<?xpacket end="r"?>"#
);

/// Arguments of `generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[arg(long)]
    pub prompt: String,
    /// What the picture should not show
    #[arg(long, visible_alias = "negative-prompt", default_value = "")]
    pub negative: String,
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
    #[arg(long, default_value_t = STEPS)]
    pub steps: u32,
    /// Guidance scale; 1 and below switch guidance off
    #[arg(long, default_value_t = GUIDANCE)]
    pub guidance: f64,
    /// WIDTHxHEIGHT in pixels; the checkpoint's own size by default
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// ddim, pndm, euler, euler_ancestral, heun, lms, dpmpp_2s, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde, unipc, deis, lcm
    /// or tcd; the checkpoint's own by default
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<SchedulerKind>,
    /// leading, trailing or linspace; the scheduler's own by default
    #[arg(long, value_name = "NAME", value_parser = parse_spacing)]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Spacing of the sigmas: trained, karras, exponential, beta or lu; the scheduler's own by default
    #[arg(long, value_name = "NAME", value_parser = parse_sigmas)]
    pub sigmas: Option<SigmaSpacing>,
    /// Rescale the training schedule so that its last step holds no signal
    #[arg(long)]
    pub zero_terminal_snr: bool,
    /// What the network's output means: epsilon, `v_prediction` or sample; as its checkpoint says by default
    #[arg(long, value_name = "NAME", value_parser = parse_prediction)]
    pub prediction: Option<Prediction>,
    /// Share of fresh noise in each step of ddim or tcd, 0 to 1
    #[arg(long, value_name = "SHARE")]
    pub eta: Option<f64>,
    /// Training steps to visit, from the noisiest down, separated by commas: as many as --steps
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub timesteps: Vec<u32>,
    /// Noise levels to visit, from the noisiest down to 0, separated by commas: one more than --steps
    #[arg(long, value_name = "SIGMA,…", value_delimiter = ',')]
    pub sigma_values: Vec<f64>,
    /// How far guidance may not change the contrast, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub guidance_rescale: f64,
    /// Cut prompts that are longer than the encoder's places, instead of encoding them in chunks
    #[arg(long)]
    pub cut_prompt: bool,
    /// Take brackets in prompts as weights: (word:1.3), (word), [word]
    #[arg(long)]
    pub weighted: bool,
    /// Layers at the end of the text encoders to leave out
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub clip_skip: u32,
    /// Stable Diffusion XL: the size the picture is to look as if it had before it was scaled
    #[arg(long, value_name = "WxH")]
    pub original_size: Option<Size>,
    /// Stable Diffusion XL: left and top, in pixels, of what is to look cut away
    #[arg(long, value_name = "LEFT,TOP", value_parser = parse_crop)]
    pub crop: Option<[u32; 2]>,
    /// Stable Diffusion XL: the size the picture is to look made for
    #[arg(long, value_name = "WxH")]
    pub target_size: Option<Size>,
    /// A LoRA and how strongly it acts, 1 by default; may be given several times
    #[arg(long = "lora", value_name = "FILE:WEIGHT", value_parser = parse_lora)]
    pub loras: Vec<(PathBuf, f64)>,
    /// A file of textual inversion and the word that stands for it in the prompts, `<NAME>` of the file by default; may be given
    /// several times
    #[arg(long = "embedding", value_name = "FILE[:WORD]", value_parser = parse_embedding)]
    pub embeddings: Vec<(PathBuf, String)>,
    /// A PNG that covers the picture, to begin with instead of noise
    #[arg(long, value_name = "FILE.png")]
    pub init: Option<PathBuf>,
    /// How much of the way is gone from it: close to 0 keeps it, 1 keeps nothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, requires = "init")]
    pub strength: f64,
    /// A PNG that covers the picture: what is white is painted anew, the rest is kept from --init
    #[arg(long, value_name = "FILE.png", requires = "init")]
    pub mask: Option<PathBuf>,
    /// A PNG that says how near each place is, the brighter the nearer, for checkpoints that are told it
    #[arg(long, value_name = "FILE.png")]
    pub depth: Option<PathBuf>,
    /// A ControlNet's or T2I-Adapter's folder, the PNG it reads, and how strongly it acts, from which share of the steps on and up to which;
    /// may be given several times
    #[arg(long = "control", value_name = "DIR:FILE.png[:WEIGHT[:START[:END]]]", value_parser = parse_control)]
    pub controls: Vec<ControlArg>,
    /// An IP-Adapter, its image encoder's folder, the PNG that the picture is to resemble, how strongly, from which share of the
    /// steps on and up to which, and a PNG over the picture that is white where; may be given several times
    #[arg(
        long = "reference",
        value_name = "FILE:DIR:FILE.png[:WEIGHT[:START[:END[:MASK.png]]]]",
        value_parser = parse_reference
    )]
    pub references: Vec<ReferenceArg>,
    /// WIDTHxHEIGHT in pixels of a smaller picture that is drawn first, enlarged, and drawn over
    #[arg(long, value_name = "WxH", conflicts_with = "init")]
    pub draft: Option<Size>,
    /// How much of the way is gone from the draft: close to 0 keeps it, 1 keeps nothing
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, requires = "draft")]
    pub draft_strength: f64,
    /// Steps of the draft; --steps by default
    #[arg(long, value_name = "STEPS", requires = "draft")]
    pub draft_steps: Option<u32>,
    /// How the draft is enlarged: pixels or latents
    #[arg(long, value_name = "NAME", default_value = "pixels", value_parser = parse_enlarge, requires = "draft")]
    pub enlarge: Enlarge,
    /// A PNG that covers the picture: what is white is painted anew once the picture is drawn; how much of the way is gone from it,
    /// 0.4 by default, and other words for it; may be given several times
    #[arg(long = "detail", value_name = "MASK.png[:STRENGTH[:PROMPT]]", value_parser = parse_detail)]
    pub details: Vec<DetailArg>,
    /// Folder of a checkpoint that takes over for the last steps
    #[arg(long, value_name = "DIR")]
    pub refiner: Option<PathBuf>,
    /// After which share of the training schedule it takes over
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, requires = "refiner")]
    pub refiner_start: f64,
    /// How beautiful the refiner is to make it, 0 to 10
    #[arg(long, value_name = "SCORE", default_value_t = RefinerUse::aesthetic_score(), requires = "refiner")]
    pub aesthetic_score: f64,
    /// How ugly it is not to make it, 0 to 10
    #[arg(long, value_name = "SCORE", default_value_t = RefinerUse::negative_aesthetic_score(), requires = "refiner")]
    pub negative_aesthetic_score: f64,
    /// Write the picture here
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Write the noise, the latents after each step and the image here
    #[arg(long, value_name = "FILE.safetensors")]
    pub trace: Option<PathBuf>,
}

fn parse_spacing(text: &str) -> Result<TimestepSpacing, String> {
    word(text, "a spacing", TimestepSpacing::ALL, TimestepSpacing::as_str)
}

fn parse_sigmas(text: &str) -> Result<SigmaSpacing, String> {
    word(text, "a spacing of the sigmas", SigmaSpacing::ALL, SigmaSpacing::as_str)
}

fn parse_prediction(text: &str) -> Result<Prediction, String> {
    word(text, "a prediction", Prediction::ALL, Prediction::as_str)
}

/// The one of `all` that is called so.
fn word<T: Copy, const N: usize>(
    text: &str,
    what: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    let known = all.into_iter().find(|one| name(*one) == text);
    known.ok_or_else(|| format!("{what} is one of {}, not `{text}`", all.map(name).join(", ")))
}

fn parse_crop(text: &str) -> Result<[u32; 2], String> {
    let sides = text.split_once(',').map(|(left, top)| (left.trim().parse(), top.trim().parse()));
    match sides {
        Some((Ok(left), Ok(top))) => Ok([left, top]),
        _ => Err(format!("a crop is LEFT,TOP in pixels, such as 0,128, not `{text}`")),
    }
}

/// `FILE` or `FILE:WEIGHT`; a file's name may have colons of its own.
fn parse_lora(text: &str) -> Result<(PathBuf, f64), String> {
    let (file, weight) = match text.rsplit_once(':') {
        Some((file, weight)) => match weight.parse::<f64>() {
            Ok(weight) => (file, weight),
            Err(_) if Path::new(text).exists() => (text, 1.0),
            Err(_) => return Err(format!("a LoRA is FILE:WEIGHT, and `{weight}` is no number")),
        },
        None => (text, 1.0),
    };
    Ok((PathBuf::from(file), weight))
}

/// `FILE` or `FILE:WORD`; a file's name may have colons of its own.
fn parse_embedding(text: &str) -> Result<(PathBuf, String), String> {
    let named = text.rsplit_once(':').filter(|(file, word)| !word.contains('/') && Path::new(file).exists());
    let (file, word) = match named {
        Some((file, word)) => (file, word.to_lowercase()),
        None => {
            (text, format!("<{}>", Path::new(text).file_stem().unwrap_or_default().to_string_lossy().to_lowercase()))
        }
    };
    if is_token(&word) {
        return Ok((PathBuf::from(file), word));
    }
    Err(format!("an embedding is FILE:WORD, and a word has letters, digits, `<`, `>`, `_` and `-`, not `{word}`"))
}

/// `--control`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlArg {
    folder: PathBuf,
    image: PathBuf,
    weight: f64,
    start: f64,
    end: f64,
}

fn parse_control(text: &str) -> Result<ControlArg, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |at: usize, default: f64| {
        let Some(text) = parts.get(at) else { return Ok(default) };
        text.parse::<f64>()
            .map_err(|_| format!("a control is DIR:FILE.png:WEIGHT:START:END, and `{text}` is no number"))
    };
    match parts.as_slice() {
        [folder, image, rest @ ..] if rest.len() <= 3 => Ok(ControlArg {
            folder: PathBuf::from(folder),
            image: PathBuf::from(image),
            weight: number(2, 1.0)?,
            start: number(3, 0.0)?,
            end: number(4, 1.0)?,
        }),
        _ => Err("a control is DIR:FILE.png:WEIGHT:START:END".into()),
    }
}

fn parse_enlarge(text: &str) -> Result<Enlarge, String> {
    word(text, "a way to enlarge", Enlarge::ALL, Enlarge::as_str)
}

/// `--detail`.
#[derive(Debug, Clone, PartialEq)]
pub struct DetailArg {
    mask: PathBuf,
    strength: f64,
    prompt: Option<String>,
}

fn parse_detail(text: &str) -> Result<DetailArg, String> {
    let mut parts = text.splitn(3, ':');
    let mask = PathBuf::from(parts.next().unwrap_or_default());
    let strength = parts.next().map_or(Ok(0.4), |text| {
        text.parse::<f64>().map_err(|_| format!("a detail is MASK.png:STRENGTH:PROMPT, and `{text}` is no number"))
    });
    Ok(DetailArg { mask, strength: strength?, prompt: parts.next().map(str::to_owned) })
}

/// `--reference`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceArg {
    adapter: PathBuf,
    encoder: PathBuf,
    image: PathBuf,
    weight: f64,
    start: f64,
    end: f64,
    mask: Option<PathBuf>,
}

fn parse_reference(text: &str) -> Result<ReferenceArg, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let form = "a reference is FILE:DIR:FILE.png:WEIGHT:START:END:MASK.png";
    let number = |at: usize, default: f64| {
        let Some(text) = parts.get(at) else { return Ok(default) };
        text.parse::<f64>().map_err(|_| format!("{form}, and `{text}` is no number"))
    };
    match parts.as_slice() {
        [adapter, encoder, image, rest @ ..] if rest.len() <= 4 => Ok(ReferenceArg {
            adapter: PathBuf::from(adapter),
            encoder: PathBuf::from(encoder),
            image: PathBuf::from(image),
            weight: number(3, 1.0)?,
            start: number(4, 0.0)?,
            end: number(5, 1.0)?,
            mask: rest.get(3).map(PathBuf::from),
        }),
        _ => Err(form.to_owned()),
    }
}

/// Draws one picture and prints a line of JSON about it.
///
/// # Errors
/// When the checkpoint cannot be loaded, the recipe not be drawn or a file not be written.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let checkpoint = args.engine.load()?;
    let refiner = args.refiner.as_deref().map(|folder| args.engine.load_from(folder)).transpose()?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let loaded = args.loras.iter().map(|(file, weight)| Ok((Arc::new(Adapter::load(file)?), *weight)));
    let adapters = loaded.collect::<Result<Vec<_>, LoraError>>().context("cannot load an adapter")?;
    let words = args.embeddings.iter().map(|(file, token)| Ok((Arc::new(Inversion::load(file)?), token.clone())));
    let words = words.collect::<Result<Vec<Word>, InversionError>>().context("cannot load an embedding")?;
    let mut pictures = Pictures::new();
    let controlnets = args.controls.iter().map(|control| args.engine.load_controlnet(&control.folder));
    let controlnets = controlnets.collect::<anyhow::Result<Vec<_>>>()?;
    let readers = args.readers(&checkpoint)?;
    let images = args.images((&controlnets, &readers), &mut pictures)?;
    let recipe = args.recipe(&checkpoint, refiner.as_ref(), (&adapters, &words), images)?;
    let trunk = adapted(&checkpoint, &adapters, &words)?;
    let refining = refiner.as_ref().map(|refiner| adapted(refiner, &[], &words)).transpose()?.flatten();
    let base = Adapted::with(&checkpoint, trunk.as_ref()).controlled(controlnets.iter().collect());
    let base = base.referring(readers.iter().map(|(adapter, encoder)| (adapter, encoder)).collect());
    let models =
        Models { base, refiner: refiner.as_ref().map(|refiner| Adapted::with(refiner, refining.as_ref())), pictures };
    let mut trace = args.trace.as_ref().map(|_| Trace::new());
    let mut evaluations = 0;
    let drawn = pipeline::generate(&models, &recipe, trace.as_mut(), &mut |done, of| {
        evaluations = of;
        show_progress(done, of);
        ControlFlow::Continue(())
    })?;
    write_png(&args.out, &drawn.pixels).with_context(|| format!("cannot write {}", args.out.display()))?;
    if let (Some(trace), Some(path)) = (&trace, &args.trace) {
        trace.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = serde_json::json!({
        "recipe_id": recipe.id(),
        "master_id": drawn.pixels.master_id(),
        "checkpoint": { "name": checkpoint.name(), "digest": checkpoint.digest() },
        "size": Size { width_px: drawn.pixels.width_px(), height_px: drawn.pixels.height_px() }.to_string(),
        "seed": recipe.seed,
        "steps": recipe.steps,
        "evaluations": evaluations,
        "step_s": drawn.denoise_ms / 1e3 / f64::from(evaluations.max(1)),
        "timings": {
            "load_ms": load_ms,
            "text_ms": drawn.text_ms,
            "denoise_ms": drawn.denoise_ms,
            "decode_ms": drawn.decode_ms,
        },
        "threads": runtime::threads(),
        "determinism": checkpoint.determinism(&recipe, 1),
        "out": args.out,
    });
    say(&report.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The networks of a checkpoint with what changes them; `None` where nothing does.
fn adapted(checkpoint: &Checkpoint, loras: &[(Arc<Adapter>, f64)], words: &[Word]) -> anyhow::Result<Option<Trunk>> {
    let is_plain = loras.is_empty() && words.is_empty();
    Ok(if is_plain { None } else { Some(checkpoint.adapted(loras, words)?) })
}

impl GenerateArgs {
    fn recipe(
        &self,
        checkpoint: &Checkpoint,
        refiner: Option<&Checkpoint>,
        (adapters, words): (&[(Arc<Adapter>, f64)], &[Word]),
        images: Images,
    ) -> anyhow::Result<ValidRecipe> {
        let native = checkpoint.native_size_px().map(|(width_px, height_px)| Size { width_px, height_px });
        let size =
            self.size.or(native).context("this checkpoint does not say which size it draws: name one with --size")?;
        let refiner = refiner.map(|refiner| RefinerUse {
            aesthetic_score: self.aesthetic_score,
            negative_aesthetic_score: self.negative_aesthetic_score,
            ..RefinerUse::new(refiner.digest(), self.refiner_start)
        });
        Ok(ValidRecipe::try_from(Recipe {
            negative_prompt: self.negative.clone(),
            seed: self.seed,
            scheduler: SchedulerChoice {
                kind: self.scheduler,
                timestep_spacing: self.timestep_spacing,
                sigmas: self.sigmas,
                zero_terminal_snr: self.zero_terminal_snr.then_some(true),
                prediction: self.prediction,
                eta: self.eta,
                timesteps: self.timesteps.clone(),
                sigma_values: self.sigma_values.clone(),
            },
            steps: self.steps,
            guidance: self.guidance,
            guidance_rescale: self.guidance_rescale,
            long_prompt: if self.cut_prompt { LongPrompt::Cut } else { LongPrompt::Chunks },
            weighting: if self.weighted { Weighting::Brackets } else { Weighting::Plain },
            clip_skip: self.clip_skip,
            sizes: self.sizes(size),
            refiner,
            init: images.init,
            mask: images.mask,
            depth: images.depth,
            controls: images.controls,
            references: images.references,
            draft: self.draft.map(|size| DraftUse {
                width_px: size.width_px,
                height_px: size.height_px,
                strength: self.draft_strength,
                enlarge: self.enlarge,
                steps: self.draft_steps,
                guidance: None,
                loras: None,
                controls: Vec::new(),
            }),
            details: images.details,
            loras: adapters
                .iter()
                .map(|(a, weight)| LoraUse { digest: a.identity().digest, weight: *weight })
                .collect(),
            embeddings: words
                .iter()
                .map(|(file, token)| EmbeddingUse { digest: file.identity().digest, token: token.clone() })
                .collect(),
            ..Recipe::new(checkpoint.digest(), &self.prompt, (size.width_px, size.height_px))
        })?)
    }

    /// What reads the reference images.
    fn readers(&self, checkpoint: &Checkpoint) -> anyhow::Result<Vec<(IpAdapter, ImageEncoder)>> {
        let placement = checkpoint.placement();
        let reader = |used: &ReferenceArg| {
            let file = IpAdapterFile::look_at(&used.adapter).context("cannot load an IP-Adapter")?;
            let adapter = file.load(checkpoint.unet_config(), placement).context("cannot load an IP-Adapter")?;
            let encoder = ImageEncoder::load(&used.encoder, placement).context("cannot load an image encoder")?;
            Ok((adapter, encoder))
        };
        self.references.iter().map(reader).collect()
    }

    /// Reads the images and says how the recipe names them.
    fn images(
        &self,
        (controlnets, readers): (&[Guide], &[(IpAdapter, ImageEncoder)]),
        pictures: &mut Pictures,
    ) -> anyhow::Result<Images> {
        let mut read = |path: &Path| -> anyhow::Result<Digest> {
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            let digest = Digest::of_bytes(&bytes);
            let picture = Picture::decode(&bytes).with_context(|| path.display().to_string())?;
            pictures.insert(digest, Arc::new(picture));
            Ok(digest)
        };
        let init = self.init.as_deref().map(&mut read).transpose()?;
        let init = init.map(|image| InitUse { image, strength: self.strength });
        let mask = self.mask.as_deref().map(&mut read).transpose()?;
        let depth = self.depth.as_deref().map(&mut read).transpose()?;
        let controls = self.controls.iter().zip(controlnets).map(|(control, network)| {
            let ControlArg { image, weight, start, end, .. } = control;
            let image = read(image)?;
            Ok(ControlUse { network: network.digest(), image, weight: *weight, start: *start, end: *end })
        });
        let controls = controls.collect::<anyhow::Result<Vec<_>>>()?;
        let references = self.references.iter().zip(readers).map(|(used, (adapter, encoder))| {
            let ReferenceArg { image, weight, start, end, mask, .. } = used;
            let (image, mask) = (read(image)?, mask.as_deref().map(&mut read).transpose()?);
            let (adapter, encoder) = (adapter.identity().digest, encoder.digest());
            Ok(ReferenceUse { adapter, encoder, image, weight: *weight, start: *start, end: *end, mask })
        });
        let references = references.collect::<anyhow::Result<Vec<_>>>()?;
        let details = self.details.iter().map(|DetailArg { mask, strength, prompt }| {
            let (strength, prompt) = (*strength, prompt.clone());
            let (steps, guidance, negative_prompt, loras) = (None, None, None, None);
            Ok(DetailUse { mask: read(mask)?, strength, steps, guidance, prompt, negative_prompt, loras })
        });
        let details = details.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Images { init, mask, depth, controls, references, details })
    }

    /// `None` where nothing is asked for: the picture's own size, uncropped.
    fn sizes(&self, own: Size) -> Option<SizeConditioning> {
        let is_asked_for = self.original_size.is_some() || self.crop.is_some() || self.target_size.is_some();
        let px =
            |size: Option<Size>| size.map_or([own.width_px, own.height_px], |size| [size.width_px, size.height_px]);
        is_asked_for.then(|| SizeConditioning {
            original_px: px(self.original_size),
            crop_px: self.crop.unwrap_or_default(),
            target_px: px(self.target_size),
        })
    }
}

/// The images of a recipe.
struct Images {
    init: Option<InitUse>,
    mask: Option<Digest>,
    depth: Option<Digest>,
    controls: Vec<ControlUse>,
    references: Vec<ReferenceUse>,
    details: Vec<DetailUse>,
}

pub(super) fn show_progress(done: u32, of: u32) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let end = if done == of { "\n" } else { "" };
        let _ = write!(stderr, "\rstep {done}/{of}{end}");
    }
}

pub(super) fn write_png(path: &Path, pixels: &Pixels) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width_px(), pixels.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.add_itxt_chunk("XML:com.adobe.xmp".to_owned(), XMP.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.rgb())?;
    writer.finish()?;
    let name = path.file_name().context("it names no file")?;
    Ok(durable::write(&folder_of(path).join(name), &[&bytes], Durability::Unsynced)?)
}
