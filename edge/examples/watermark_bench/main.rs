//! Measures the watermark: `make bench-watermark` calls it.
//!
//! ```text
//! watermark_bench table FOLDER [EVERY]       what is found after each attack, and what marking costs; FOLDER has two folders
//! watermark_bench trials FOLDER TRIALS       false detections in unmarked pictures by keys drawn at random
//! watermark_bench sizes FOLDER               from which size a mark is found
//! watermark_bench rungs FOLDER [EVERY]       which rungs' files of its pictures keep the mark, scaled to 640 px
//! watermark_bench speed                      milliseconds a megapixel
//! watermark_bench attack FROM ORIGINALS TO   applies each attack to the pictures of another program
//! ```
//!
//! Needs `avifdec`. EVERY takes each EVERY-th picture only.

#[path = "../../tests/judges/mod.rs"]
mod judges;

mod attacks;
mod rungs;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, bail};
use attacks::{ALL, rendition};
use bildkante_edge::render::Raster;
use bildkante_edge::watermark::{Effort, MasterPrefix, Secret, Watermark, detect, trials};
use bildkante_edge::words::Format;

const KINDS: [&str; 2] = ["textured", "flat"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["table", folder] => table(Path::new(folder), 1),
        ["table", folder, every] => table(Path::new(folder), every.parse()?),
        ["trials", folder, count] => false_detections(Path::new(folder), count.parse()?),
        ["sizes", folder] => sizes(Path::new(folder)),
        ["rungs", folder] => rungs::rungs(Path::new(folder), 1),
        ["rungs", folder, every] => rungs::rungs(Path::new(folder), every.parse()?),
        ["speed"] => speed(),
        ["attack", from, originals, to] => attack(Path::new(from), Path::new(originals), Path::new(to)),
        _ => bail!("see the head of the source for the commands"),
    }
}

fn pictures(folder: &Path, every: usize) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths.into_iter().step_by(every.max(1)).collect())
}

fn load(path: &Path) -> Raster {
    let image = image::open(path).expect("a picture that decodes").into_rgb8();
    Raster { width_px: image.width(), height_px: image.height(), rgb: image.into_raw() }
}

fn marked(watermark: &Watermark, picture: &Raster, master: MasterPrefix) -> Raster {
    let mut copy = picture.clone();
    watermark.embed_any_size(&mut copy.rgb, copy.width_px, master);
    copy
}

fn found(watermark: &[Watermark], picture: &Raster) -> Option<MasterPrefix> {
    detect(&picture.rgb, picture.width_px, picture.height_px, watermark, Effort::default())
        .map(|found| found.payload.master())
}

/// Does `work` for each of `items` on all cores; results in their order.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(at, item)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker that ends")).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Pictures whose larger part is calmer than this are counted apart, too.
const CALM_PERCENT_MAX: u8 = 60;

/// What came of one picture.
struct Row {
    found: Vec<bool>,
    calm_percent: u8,
    wrong: usize,
    lossless: f64,
    /// Points that the mark takes from renditions at `q=auto`.
    costs: [f64; 3],
}

fn table(folder: &Path, every: usize) -> anyhow::Result<()> {
    let watermark = [Watermark::new(&Secret::PUBLISHED)];
    for kind in KINDS {
        let paths = pictures(&folder.join(kind), every)?;
        let rows = each(&paths, |at, path| row(&watermark, &load(path), prefix(at)));
        println!("## {kind}: {} pictures; found in all and in those at most {CALM_PERCENT_MAX} % calm", rows.len());
        for (at, attack) in ALL.iter().enumerate() {
            let found = |least: u8, most: u8| {
                let chosen = rows.iter().filter(|row| (least..=most).contains(&row.calm_percent));
                format!("{}/{}", chosen.clone().filter(|row| row.found[at]).count(), chosen.count())
            };
            let missed = paths.iter().zip(&rows).filter(|(_, row)| !row.found[at]).map(|(path, _)| stem(path));
            let (all, rough) = (found(0, 100), found(0, CALM_PERCENT_MAX));
            println!("{}\t{all}\t{rough}\t{}", attack.name(), missed.take(8).collect::<Vec<_>>().join(" "));
        }
        println!("wrong payloads\t{}", rows.iter().map(|row| row.wrong).sum::<usize>());
        print_scores("SSIMULACRA2 of the marked picture itself", rows.iter().map(|row| row.lossless));
        for (at, format) in [Format::Avif, Format::Webp, Format::Jpeg].into_iter().enumerate() {
            print_scores(
                &format!("points lost in {} at q=auto", format.as_str()),
                rows.iter().map(|row| row.costs[at]),
            );
        }
    }
    Ok(())
}

fn print_scores(what: &str, values: impl Iterator<Item = f64>) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    println!("{what}: mean {mean:.2}, from {:.2} to {:.2}", values[0], values[values.len() - 1]);
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn prefix(at: usize) -> MasterPrefix {
    let hash = blake3::hash(&at.to_le_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    MasterPrefix::of(&id)
}

fn row(watermark: &[Watermark], original: &Raster, master: MasterPrefix) -> Row {
    let mut marked = original.clone();
    let applied = watermark[0].embed(&mut marked.rgb, marked.width_px, marked.height_px, master);
    let calm_percent = applied.expect("a picture large enough").calm_percent;
    let answers: Vec<_> = ALL.iter().map(|attack| found(watermark, &attack.apply(original, &marked))).collect();
    let cost = |format| {
        let score = |picture| judges::ssimulacra2(original, &rendition(picture, format));
        score(original) - score(&marked)
    };
    Row {
        calm_percent,
        wrong: answers.iter().flatten().filter(|answer| **answer != master).count(),
        found: answers.iter().map(|answer| *answer == Some(master)).collect(),
        lossless: judges::ssimulacra2(original, &marked),
        costs: [Format::Avif, Format::Webp, Format::Jpeg].map(cost),
    }
}

/// Each picture × key looks at the best offset of one scale, and counts a detection whatever peak and agreement were.
fn false_detections(folder: &Path, count: usize) -> anyhow::Result<()> {
    const KEYS: usize = 2000;
    let keys: Vec<Watermark> =
        (0..KEYS).map(|n| Watermark::new(&Secret::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()))).collect();
    let paths: Vec<PathBuf> =
        KINDS.iter().map(|kind| pictures(&folder.join(kind), 1)).collect::<Result<Vec<_>, _>>()?.concat();
    let rounds: Vec<usize> = (0..count.div_ceil(KEYS)).collect();
    let results = each(&rounds, |_, &round| {
        let picture = load(&paths[round % paths.len()]);
        // Other scales each time that a picture has its turn.
        let scale = 0.47 + 0.59 * ((round / paths.len()) as f32 * 0.618).fract();
        let (mut complete, mut peaks, mut words) = (0, 0, Vec::with_capacity(KEYS));
        trials(&picture.rgb, (picture.width_px, picture.height_px), scale, &keys, |trial| {
            complete += usize::from(trial.is_complete);
            peaks += usize::from(trial.sync_z >= 4.5);
            words.push(trial.word_z);
        });
        words.sort_by(f32::total_cmp);
        let agreeing = words.iter().filter(|word_z| **word_z >= 9.4).count();
        (complete, peaks, words[KEYS / 2], words[KEYS - 1], agreeing)
    });
    let trials = rounds.len() * KEYS;
    let complete: usize = results.iter().map(|result| result.0).sum();
    let peaks: usize = results.iter().map(|result| result.1).sum();
    let agreeing: usize = results.iter().map(|result| result.4).sum();
    let word_max = results.iter().map(|result| result.3).fold(0.0, f32::max);
    let bound = if complete == 0 { 3.0 / trials as f64 } else { f64::NAN };
    println!("trials\t{trials}\ncomplete\t{complete}\nupper bound of 95 % confidence\t{bound:.1e}");
    println!(
        "peaks of 4.5 or more\t{peaks}\nagreements of 9.4 or more\t{agreeing}\nagreement of noise: median {:.2}, most {word_max:.2}",
        results[results.len() / 2].2
    );
    whole_detector(&paths, &keys[..50]);
    Ok(())
}

/// The whole detector, with all its scales, on each picture by each of the keys.
fn whole_detector(paths: &[PathBuf], keys: &[Watermark]) {
    let found = each(paths, |_, path| {
        let picture = load(path);
        detect(&picture.rgb, picture.width_px, picture.height_px, keys, Effort::default()).is_some()
    });
    println!(
        "whole detector: {} detections in {} × {}",
        found.iter().filter(|found| **found).count(),
        paths.len(),
        keys.len()
    );
}

fn sizes(folder: &Path) -> anyhow::Result<()> {
    let watermark = [Watermark::new(&Secret::PUBLISHED)];
    for kind in KINDS {
        let paths = pictures(&folder.join(kind), 1)?;
        for side_px in [128, 160, 192, 224, 256, 320, 400, 480] {
            let ours = each(&paths, |at, path| {
                let picture = fitted(&load(path), side_px);
                let marked = marked(&watermark[0], &picture, prefix(at));
                let coded = rendition(&marked, Format::Jpeg);
                [&marked, &coded].map(|seen| found(&watermark, seen) == Some(prefix(at)))
            });
            let count = |at: usize| ours.iter().filter(|found| found[at]).count();
            println!(
                "{kind}\t{side_px}×{side_px} px\tlossless {}\tJPEG q=auto {}\tof {}",
                count(0),
                count(1),
                paths.len()
            );
        }
    }
    Ok(())
}

/// The middle of a picture as a square of this side.
fn fitted(picture: &Raster, side_px: u32) -> Raster {
    use bildkante_edge::render::{CropBox, resize};
    let pixels = bildkante_shared::pixels::Pixels::new(picture.width_px, picture.height_px, picture.rgb.clone())
        .expect("a master");
    let crop = CropBox::cover(picture.width_px, picture.height_px, side_px, side_px);
    resize(&pixels, crop, side_px, side_px).expect("a crop inside the picture")
}

fn speed() -> anyhow::Result<()> {
    let watermark = Watermark::new(&Secret::PUBLISHED);
    for (width_px, height_px) in [(320, 240), (640, 480), (1280, 960), (4096, 4096)] {
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(width_px * height_px * 3);
        let megapixels = (width_px * height_px) as f64 / 1e6;
        let mut times: Vec<f64> =
            (0..15).map(|_| timed(&watermark, &noise, width_px as u32, height_px as u32)).collect();
        times.sort_by(f64::total_cmp);
        let started = Instant::now();
        let seen =
            detect(&noise, width_px as u32, height_px as u32, std::slice::from_ref(&watermark), Effort::default());
        anyhow::ensure!(seen.is_none(), "noise has no mark");
        let search = started.elapsed().as_secs_f64();
        println!(
            "{width_px}×{height_px}: embed {:.2} ms a megapixel (median of 15), search without result {search:.2} s",
            times[7] / megapixels
        );
    }
    Ok(())
}

trait TakeBytes {
    fn take_bytes(self, count: usize) -> Vec<u8>;
}

impl TakeBytes for blake3::OutputReader {
    fn take_bytes(mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

fn timed(watermark: &Watermark, noise: &[u8], width_px: u32, height_px: u32) -> f64 {
    let mut copy = noise.to_vec();
    let started = Instant::now();
    watermark.embed(&mut copy, width_px, height_px, prefix(0)).expect("a picture large enough");
    std::hint::black_box(&copy);
    started.elapsed().as_secs_f64() * 1e3
}

fn attack(from: &Path, originals: &Path, to: &Path) -> anyhow::Result<()> {
    let paths = pictures(from, 1)?;
    each(&paths, |_, path| {
        let name = path.file_name().expect("a file of a folder");
        let (original, marked) = (load(&originals.join(name)), load(path));
        for (at, attack) in ALL.iter().enumerate() {
            let folder = to.join(format!("{at:02}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            let out = attack.apply(&original, &marked);
            let image = image::RgbImage::from_raw(out.width_px, out.height_px, out.rgb).expect("a whole picture");
            image.save(folder.join(name)).expect("room for a picture");
        }
    });
    let names: Vec<String> = ALL.iter().map(|attack| attack.name()).collect();
    std::fs::write(to.join("names"), names.join("\n"))?;
    Ok(())
}
