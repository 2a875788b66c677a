//! What every encoder makes of the pictures of a folder, as CSV: for the tables of `render/quality` and the frontier of docs/encoders.md.
//!
//! ```text
//! encoder_curves curves FOLDER WIDTHS EVERY [KINDS] > CSV   each native quality: bytes, score, processor time, features
//! encoder_curves judge FOLDER WIDTHS EVERY [KINDS] > CSV    what `q` gives: score, encodes, bytes
//! encoder_curves pictures FOLDER WIDTHS EVERY TO            the scaled pictures that the encoders get, as PNG, for peers
//! encoder_curves score FOLDER > CSV                         what peers made of those: NAME@WIDTH@PEER@QUALITY@MS.avif with .decoded.png
//! encoder_curves compare LIST > SCORES                      of each line `REFERENCE<TAB>DECODED`, both PNG files of one size
//! ```
//!
//! FOLDER holds PNG files (`loadtest/bench/render/corpus.py` makes them); WIDTHS are such as `320,640`; of every EVERY pictures one is taken. KINDS are such as
//! `avif-final,webp-quick`: an encoder and a rung; all of them without.
//! Two threads; times are the thread's own, so that they mean the same on a busy machine.

#[path = "../tests/clock/mod.rs"]
mod clock;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use bildkante_edge::render::{
    CropBox, Found, Quality, Raster, Rung, decode_master, encode, encode_native, features, file_score, quality, resize,
};
use bildkante_edge::words::Format;
use bildkante_shared::pixels::Pixels;
use clock::thread_cpu_ms;
use fast_ssim2::{PixelDescriptor, PixelSlice, Ssimulacra2Reference};

const FORMATS: [Format; 3] = [Format::Avif, Format::Webp, Format::Jpeg];
/// Shares of the encoder's range that are tried.
const GRID: [f32; 9] = [0.06, 0.2, 0.35, 0.48, 0.6, 0.7, 0.8, 0.9, 0.98];
const TARGETS: [u8; 4] = [50, 60, 70, 80];

/// An encoder and a rung of it.
#[derive(Clone, Copy)]
struct Kind {
    format: Format,
    rung: Rung,
}

impl Kind {
    /// Those that are named; all without names.
    fn chosen(names: Option<&str>) -> anyhow::Result<Vec<Self>> {
        let all: Vec<Self> =
            FORMATS.into_iter().flat_map(|format| Rung::ALL.map(|rung| Self { format, rung })).collect();
        let Some(names) = names else { return Ok(all) };
        let named = |name: &str| all.iter().copied().find(|kind| kind.name() == name);
        names.split(',').map(|name| named(name).with_context(|| format!("there is no `{name}`"))).collect()
    }

    fn name(self) -> String {
        let encoder = match self.format {
            // Another encoder, with another scale.
            Format::Avif if !cfg!(feature = "aom") => "ravif",
            Format::Jpeg if cfg!(feature = "mozjpeg") && self.rung == Rung::Final => "mozjpeg",
            format => format.as_str(),
        };
        format!("{encoder}-{}", self.rung.as_str())
    }
}

struct Picture {
    name: String,
    raster: Raster,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder] = arguments.as_slice()
        && mode == "score"
    {
        return score(Path::new(folder));
    }
    if let [mode, list] = arguments.as_slice()
        && mode == "compare"
    {
        return compare(Path::new(list));
    }
    let [mode, folder, widths, every, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!(
            "encoder_curves curves|judge|pictures FOLDER WIDTHS EVERY [TO|KINDS], score FOLDER or compare LIST"
        );
    };
    let widths: Vec<u32> = widths.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let files = files(Path::new(folder), every.parse().context("EVERY is a number")?)?;
    let kinds = || Kind::chosen(rest.first().map(String::as_str));
    match mode.as_str() {
        "curves" => {
            let kinds = kinds()?;
            each(&files, &widths, |picture| curves(picture, &kinds))
        }
        "judge" => {
            let kinds = kinds()?;
            each(&files, &widths, |picture| judge(picture, &kinds))
        }
        "pictures" => {
            let to = PathBuf::from(rest.first().context("name the folder to write to")?);
            std::fs::create_dir_all(&to)?;
            each(&files, &widths, |picture| write(picture, &to))
        }
        other => anyhow::bail!("`{other}` is neither curves, judge nor pictures"),
    }
}

fn files(folder: &Path, every: usize) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "png"));
    files.sort();
    Ok(files.into_iter().step_by(every).collect())
}

/// Two pictures at a time; each gives its lines at once, so that a run that is stopped has given something.
fn each(
    files: &[PathBuf],
    widths: &[u32],
    work: impl Fn(&Picture) -> anyhow::Result<String> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let run = || -> anyhow::Result<()> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let master = decode_master(&std::fs::read(file)?)?;
            for &width_px in widths.iter().filter(|width_px| **width_px <= master.width_px()) {
                let height_px =
                    (u64::from(master.height_px()) * u64::from(width_px) / u64::from(master.width_px())).max(1) as u32;
                let whole =
                    CropBox { left_px: 0, top_px: 0, width_px: master.width_px(), height_px: master.height_px() };
                let raster = resize(&master, whole, width_px, height_px)?;
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let picture = Picture { name, raster };
                print!("{}", work(&picture).with_context(|| format!("{} at {width_px} px", picture.name))?);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let own = run();
        other.join().map_err(|_| anyhow::anyhow!("the other half panicked"))?.and(own)
    })
}

fn curves(picture: &Picture, kinds: &[Kind]) -> anyhow::Result<String> {
    let mut lines = String::new();
    let features: Vec<String> = features(&picture.raster).iter().map(|feature| format!("{feature:.5}")).collect();
    for &kind in kinds {
        let Kind { format, rung } = kind;
        let (low, high) = quality::native_range(format);
        for share in GRID {
            let native = (low + (high - low) * share).round();
            let before = thread_cpu_ms();
            let found = encode_native(&picture.raster, format, native, rung)?;
            let spent_ms = thread_cpu_ms() - before;
            let (name, width_px) = (&picture.name, picture.raster.width_px);
            let (bytes, score) = (found.file.len(), found.score.unwrap_or(f64::NAN));
            lines += &format!(
                "{name},{width_px},{},{native},{bytes},{spent_ms:.1},{score},{}\n",
                kind.name(),
                features.join(",")
            );
        }
    }
    Ok(lines)
}

fn judge(picture: &Picture, kinds: &[Kind]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for &kind in kinds {
        let Kind { format, rung } = kind;
        for target in TARGETS {
            let target_quality = Quality::new(target).context("a quality")?;
            let before = thread_cpu_ms();
            let Found { file, native, score, encodes, probes, .. } =
                encode(&picture.raster, format, target_quality, rung)?;
            let spent_ms = thread_cpu_ms() - before;
            // A quick file of a large picture is not scored as it is made.
            let score = match score {
                Some(score) => score,
                None => file_score(&picture.raster, format, &file)?.unwrap_or(f64::NAN),
            };
            let (name, width_px) = (&picture.name, picture.raster.width_px);
            lines += &format!(
                "{name},{width_px},{},{target},{},{spent_ms:.1},{score},{native},{encodes},{probes}\n",
                kind.name(),
                file.len()
            );
        }
    }
    Ok(lines)
}

fn write(picture: &Picture, to: &Path) -> anyhow::Result<String> {
    let found = encode(&picture.raster, Format::Png, Quality::AUTO, Rung::Quick)?;
    std::fs::write(to.join(format!("{}@{}.png", picture.name, picture.raster.width_px)), found.file)?;
    Ok(String::new())
}

/// Peers' files, by the pictures another decoder made of them.
fn score(folder: &Path) -> anyhow::Result<()> {
    let mut reference = None;
    for file in files(folder, 1)?.iter().filter(|file| file.to_string_lossy().ends_with(".decoded.png")) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().replace(".decoded.png", "");
        let parts: Vec<&str> = name.split('@').collect();
        let [picture, width, peer, quality, spent_ms] = parts.as_slice() else { continue };
        let original = folder.join(format!("{picture}@{width}.png"));
        if reference.as_ref().is_none_or(|(path, _)| *path != original) {
            let known = decode_master(&std::fs::read(&original)?)?;
            let slice = slice(&known)?;
            reference = Some((original, Ssimulacra2Reference::new(&slice)?));
        }
        let Some((_, known)) = &reference else { continue };
        let score = known.compare(&slice(&decode_master(&std::fs::read(file)?)?)?)?;
        let bytes = std::fs::metadata(folder.join(format!("{name}.avif")))?.len();
        println!("{picture},{width},{peer},{quality},{bytes},{spent_ms},{score:.2}");
    }
    Ok(())
}

/// The score of each pair, in the order of the list.
fn compare(list: &Path) -> anyhow::Result<()> {
    for line in std::fs::read_to_string(list)?.lines() {
        let (reference, decoded) = line.split_once('\t').context("a line is two paths with a tab between them")?;
        let read = |path: &str| -> anyhow::Result<Pixels> {
            let file = std::fs::read(path).with_context(|| path.to_owned())?;
            decode_master(&file).with_context(|| path.to_owned())
        };
        let (reference, decoded) = (read(reference)?, read(decoded)?);
        let score = Ssimulacra2Reference::new(&slice(&reference)?)?.compare(&slice(&decoded)?)?;
        println!("{score:.2}");
    }
    Ok(())
}

fn slice(pixels: &Pixels) -> anyhow::Result<PixelSlice<'_>> {
    let (width_px, height_px) = (pixels.width_px(), pixels.height_px());
    Ok(PixelSlice::new(pixels.rgb(), width_px, height_px, width_px as usize * 3, PixelDescriptor::RGB8_SRGB)?)
}
