//! Finds checkpoints, ControlNets, image encoders and adapters of a folder: all of them at start, and those that come later on a thread of its
//! own, which also reads the networks that requests ask for. So no drawing waits for another's files.
//!
//! A folder is known by the names, sizes and times of the files that are loaded of it. One that has changed is read once it has
//! looked the same twice, because copying takes time. A checkpoint that came later is tried before it is offered: the first
//! drawing with a network chooses kernels and takes memory, and whether it repeats itself has to be known.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bildkante_shared::checkpoint;
use bildkante_shared::ids::MasterId;
use bildkante_shared::recipe::{InitUse, Recipe, ValidRecipe};

use super::adapters::{self, AdapterFolder, FileLook};
use super::library::{Found, SharedImage};
use super::options::Options;
use super::shelf::{Item, Offer};
use crate::diffusion::batch::BatchClass;
use crate::diffusion::denoiser::Stage;
use crate::diffusion::error::DiffusionError;
use crate::diffusion::family::{Blueprint, Checkpoint, ControlNet, ImageEncoder};
use crate::diffusion::loading::CheckpointError;
use crate::diffusion::picture::Picture;
use crate::diffusion::pipeline;
use crate::diffusion::pipeline::Models;
use crate::diffusion::runtime;
use crate::engine::{EngineError, MoveKind, Nudge, Trial};

/// Where in `models_dir` adapters are, one safetensors file each.
const ADAPTERS_DIR: &str = "adapters";
/// Folders looked at in `models_dir`.
const CHECKPOINTS_MAX: usize = 256;
/// Files of one folder that are looked at.
const FILES_MAX: usize = 4096;

/// Names, sizes and times of a folder's files.
type Look = Vec<(PathBuf, FileLook)>;

/// How a folder has changed.
#[derive(Debug)]
pub(super) enum Change {
    Came {
        folder: PathBuf,
        item: Item,
        trial: Option<Trial>,
    },
    Gone {
        folder: PathBuf,
    },
    Adapters(AdapterFolder),
    /// A checkpoint's networks, in the host's memory; or why they cannot be read.
    Fetched {
        found: Found,
        image: Result<(SharedImage, MoveKind), String>,
    },
}

/// What the thread is asked for.
#[derive(Debug)]
enum Order {
    Fetch(Found),
}

/// The models that were there at start, and how their folders looked.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) items: Vec<(PathBuf, Item)>,
    pub(super) adapters: AdapterFolder,
    looks: BTreeMap<PathBuf, Look>,
}

impl Stock {
    /// Reads everything.
    pub(super) fn load(options: &Options) -> Result<Self, EngineError> {
        let mut looks = look(&options.models_dir)?;
        let adapters_dir = options.models_dir.join(ADAPTERS_DIR);
        let mut items = Vec::new();
        for (folder, look) in looks.iter_mut().filter(|(folder, _)| **folder != adapters_dir) {
            let Reading { item, has_changed } = read(folder, options);
            if has_changed {
                *look = Look::new();
            }
            items.push((folder.clone(), item));
        }
        Ok(Self { items, adapters: adapters::find(&adapters_dir, &options.adapters_read)?, looks })
    }
}

/// The watching thread. It ends with this value.
#[derive(Debug)]
pub(super) struct Loader {
    changes: Option<Receiver<Change>>,
    /// The thread ends with this.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Watches the folder from how it looked when `stock` was read.
    pub(super) fn start(options: Options, stock: Stock, nudge: Nudge) -> std::io::Result<Self> {
        // One change at a time: a loaded model takes memory before it is taken over.
        let (sender, changes) = sync_channel(1);
        let (orders, ordered) = channel();
        let watch = Watch { options, known: stock.looks, seen: BTreeMap::new(), sender, nudge };
        let thread = std::thread::Builder::new().name("node-loader".to_owned()).spawn(move || watch.run(&ordered))?;
        Ok(Self { changes: Some(changes), orders: Some(orders), thread: Some(thread) })
    }

    /// Has a checkpoint's networks read.
    pub(super) fn fetch(&self, found: Found) {
        if let Some(orders) = &self.orders {
            // A thread that has ended at a defect has said so.
            let _ = orders.send(Order::Fetch(found));
        }
    }

    pub(super) fn next(&self) -> Option<Change> {
        self.changes.as_ref()?.try_recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        drop(self.orders.take());
        drop(self.changes.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the loader ended at a defect");
        }
    }
}

struct Watch {
    options: Options,
    known: BTreeMap<PathBuf, Look>,
    /// Folders that have changed, as they looked last time.
    seen: BTreeMap<PathBuf, Look>,
    sender: SyncSender<Change>,
    nudge: Nudge,
}

/// The engine has ended and takes no changes any more.
struct Over;

impl Watch {
    fn run(mut self, orders: &Receiver<Order>) {
        runtime::set_threads(self.options.threads);
        let pause = Some(self.options.models_poll_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        let mut looks_at = pause.map(|pause| Instant::now() + pause);
        loop {
            let order = match looks_at {
                Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let outcome = match order {
                Ok(Order::Fetch(found)) => self.fetch(found),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    looks_at = pause.map(|pause| Instant::now() + pause);
                    self.look_again()
                }
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    fn look_again(&mut self) -> Result<(), Over> {
        match look(&self.options.models_dir) {
            Ok(looks) => self.compare(looks),
            Err(error) => {
                tracing::warn!(%error, "the models' folder cannot be looked at");
                Ok(())
            }
        }
    }

    fn fetch(&self, found: Found) -> Result<(), Over> {
        let image = self.options.library.image(&found, self.options.placement).map_err(|error| error.to_string());
        self.send(Some(Change::Fetched { found, image }))
    }

    fn compare(&mut self, looks: BTreeMap<PathBuf, Look>) -> Result<(), Over> {
        let gone: Vec<PathBuf> = self.known.keys().filter(|folder| !looks.contains_key(*folder)).cloned().collect();
        for folder in gone {
            self.known.remove(&folder);
            tracing::info!(folder = %folder.display(), "gone");
            let change = if self.is_adapters(&folder) { self.adapters() } else { Some(Change::Gone { folder }) };
            self.send(change)?;
        }
        let mut seen = BTreeMap::new();
        for (folder, look) in looks {
            if self.known.get(&folder) == Some(&look) {
                continue;
            }
            if self.seen.get(&folder) != Some(&look) {
                seen.insert(folder, look);
                continue;
            }
            let (change, has_changed) =
                if self.is_adapters(&folder) { (self.adapters(), false) } else { self.came(folder.clone()) };
            self.known.insert(folder, if has_changed { Look::new() } else { look });
            self.send(change)?;
        }
        self.seen = seen;
        Ok(())
    }

    fn is_adapters(&self, folder: &Path) -> bool {
        folder == self.options.models_dir.join(ADAPTERS_DIR)
    }

    fn adapters(&self) -> Option<Change> {
        match adapters::find(&self.options.models_dir.join(ADAPTERS_DIR), &self.options.adapters_read) {
            Ok(found) => Some(Change::Adapters(found)),
            Err(error) => {
                tracing::warn!(%error, "the adapters stay as they were");
                None
            }
        }
    }

    /// Reads a folder and tries its checkpoint; also whether it has to be read again.
    fn came(&self, folder: PathBuf) -> (Option<Change>, bool) {
        let found_at = Instant::now();
        let Reading { item, has_changed } = read(&folder, &self.options);
        let (item, trial) = match item {
            Item::Checkpoint(offer) => self.tried(offer, found_at),
            other => (other, None),
        };
        if let Item::Rejected(reason) = &item {
            tracing::error!(folder = %folder.display(), %reason, "rejected");
        }
        (Some(Change::Came { folder, item, trial }), has_changed)
    }

    /// A checkpoint that came, and how it did in its trial. Where the device's networks have a bound it is fetched once it is
    /// asked for.
    fn tried(&self, mut offer: Box<Offer>, found_at: Instant) -> (Item, Option<Trial>) {
        if self.options.networks_bytes_max.is_some() {
            return (Item::Checkpoint(offer), None);
        }
        let placed = place(&offer.found, &self.options).map_err(|error| error.to_string());
        let masters = placed.and_then(|(checkpoint, _)| {
            let masters = try_out(offer.blueprint(), &checkpoint, self.options.self_test_steps);
            offer.networks = Some(checkpoint);
            masters.map_err(|error| format!("self-test: {error}"))
        });
        match masters {
            Ok(masters) => {
                let (item, seconds) = (Item::Checkpoint(offer), found_at.elapsed().as_secs_f64());
                let trial = item.info().zip(masters);
                (item, trial.map(|(checkpoint, masters)| Trial { checkpoint, masters, seconds }))
            }
            Err(reason) => (Item::Rejected(reason), None),
        }
    }

    fn send(&self, change: Option<Change>) -> Result<(), Over> {
        let Some(change) = change else { return Ok(()) };
        // Woken before and after: the device thread has to take the former change for this one to fit.
        (self.nudge)();
        self.sender.send(change).map_err(|_| Over)?;
        (self.nudge)();
        Ok(())
    }
}

/// Folders with a `model_index.json`, those of ControlNets and image encoders, and that of adapters, as they look.
fn look(models: &Path) -> Result<BTreeMap<PathBuf, Look>, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", models.display()) };
    let mut looks = BTreeMap::new();
    for entry in fs::read_dir(models).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_adapters = path.file_name().is_some_and(|name| name == ADAPTERS_DIR) && path.is_dir();
        let is_network = || ControlNet::is_in(&path) || ImageEncoder::is_in(&path);
        if path.join("model_index.json").is_file() || is_network() || is_adapters {
            let look = if is_adapters { look_at(&path) } else { look_at_loaded(&path) };
            looks.insert(path, look);
        }
    }
    if looks.len() > CHECKPOINTS_MAX {
        let reason = format!("{} holds more than {CHECKPOINTS_MAX} checkpoints", models.display());
        return Err(EngineError::Load { reason });
    }
    Ok(looks)
}

/// Of the files that are loaded: a `git fetch` or another README changes no network.
fn look_at_loaded(folder: &Path) -> Look {
    let Ok(files) = checkpoint::look(folder) else { return look_at(folder) };
    let look = |(file, _): (String, _)| {
        let path = folder.join(file);
        let look = adapters::look_of(&fs::metadata(&path).ok()?);
        Some((path, look))
    };
    files.into_iter().filter_map(look).collect()
}

/// A file that cannot be looked at counts as absent: reading it will say why.
fn look_at(folder: &Path) -> Look {
    let mut look = Look::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(metadata)) = (entry.path(), fs::metadata(entry.path())) else { continue };
            if look.len() + folders.len() >= FILES_MAX {
                break;
            }
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            look.push((path, adapters::look_of(&metadata)));
        }
    }
    look.sort();
    look
}

/// What a folder was read as.
struct Reading {
    item: Item,
    /// Its files were changed meanwhile, which their names, sizes and times need not show (`chmod`, `ln`): it is read again.
    /// Until then it counts as never looked at.
    has_changed: bool,
}

fn read(folder: &Path, options: &Options) -> Reading {
    let loaded = if ControlNet::is_in(folder) {
        ControlNet::load(folder, options.placement, &options.digests).map(Item::ControlNet)
    } else if ImageEncoder::is_in(folder) {
        ImageEncoder::load_known(folder, options.placement, &options.digests).map(Box::new).map(Item::ImageEncoder)
    } else {
        let found = Found::read(folder, options.placement, &options.digests);
        found.map(|found| Item::Checkpoint(Box::new(Offer::new(found, None))))
    };
    Reading::of(loaded)
}

/// A checkpoint with its networks on the device, and where they came from. Blocks while they are read.
pub(super) fn place(found: &Found, options: &Options) -> Result<(Checkpoint, MoveKind), CheckpointError> {
    let (image, from) = options.library.image(found, options.placement)?;
    let checkpoint = Checkpoint::of(&found.blueprint, &image.lock(), options.placement, options.vae_tiles_px())?;
    Ok((checkpoint, from))
}

impl Reading {
    fn of(loaded: Result<Item, CheckpointError>) -> Self {
        let has_changed = matches!(loaded, Err(CheckpointError::Changed { .. }));
        Self { item: loaded.unwrap_or_else(|error| Item::Rejected(error.to_string())), has_changed }
    }
}

/// What a checkpoint is tried with. One that paints into images is given one: grey, all of it to be painted anew. One that is told
/// how near things are is told that all are alike.
pub(super) fn self_test_recipe(blueprint: &Blueprint, steps: u32) -> Recipe {
    recipe_of_size(blueprint, steps, blueprint.trial_size_px())
}

/// A recipe whose passes are of a class, as far as a checkpoint without adapters and ControlNets makes such passes.
pub(super) fn recipe_of_class(blueprint: &Blueprint, class: &BatchClass) -> Option<Recipe> {
    let [rows, _, height, width] = class.latents();
    let factor = i64::from(blueprint.vae_factor());
    let px = |latents: i64| u32::try_from(latents.checked_mul(factor)?).ok();
    let plain = recipe_of_size(blueprint, 1, (px(width)?, px(height)?));
    // One word is one token, and a chunk holds 75 beside its beginning and its end.
    let words = usize::try_from(class.tokens() / TOKENS_OF_CHUNK - 1).ok()? * 75 + 1;
    let is_plain = class.stage() == Stage::Base && class.is_plain();
    is_plain.then(|| Recipe {
        prompt: "a ".repeat(words),
        guidance: if rows > 1 { plain.guidance } else { 1.0 },
        ..plain
    })
}

/// Tokens of a chunk of CLIP's.
const TOKENS_OF_CHUNK: i64 = 77;

fn recipe_of_size(blueprint: &Blueprint, steps: u32, size_px: (u32, u32)) -> Recipe {
    let scheduler = blueprint.trial_scheduler();
    let plain = Recipe { steps, scheduler, ..Recipe::new(blueprint.digest(), "self-test", size_px) };
    let [image, mask] = Picture::to_paint_over(size_px).map(|(digest, _)| digest);
    if blueprint.is_told_depth() {
        return Recipe { depth: Some(image), ..plain };
    }
    if !blueprint.is_inpainting() {
        return plain;
    }
    Recipe { init: Some(InitUse { image, strength: 1.0 }), mask: Some(mask), ..plain }
}

/// Draws one recipe twice.
fn try_out(
    blueprint: &Blueprint,
    checkpoint: &Checkpoint,
    steps: u32,
) -> Result<Option<[MasterId; 2]>, DiffusionError> {
    // A recipe of a checkpoint's own size is refused for an absurd size only, at which it is not tried.
    let Ok(recipe) = ValidRecipe::try_from(self_test_recipe(blueprint, steps)) else { return Ok(None) };
    let pictures = Picture::to_paint_over(blueprint.trial_size_px());
    let pictures = pictures.into_iter().map(|(digest, picture)| (digest, std::sync::Arc::new(picture))).collect();
    let models = Models { pictures, ..Models::from(checkpoint) };
    let draw = || pipeline::generate(&models, &recipe, None, &mut |_, _| ControlFlow::Continue(()));
    Ok(Some([draw()?.pixels.master_id(), draw()?.pixels.master_id()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_loaded_does_not_change_how_a_checkpoint_looks() {
        let models = tempfile::tempdir().unwrap();
        let folder = models.path().join("tiny");
        for (file, text) in [
            ("model_index.json", r#"{"unet": ["diffusers", "UNet2DConditionModel"]}"#),
            ("unet/config.json", "{}"),
            ("unet/diffusion_pytorch_model.safetensors", "weights"),
            ("README.md", "about"),
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let looks = || look(models.path()).unwrap();
        let before = looks();
        assert_eq!(before[&folder].len(), 3);
        fs::create_dir_all(folder.join(".git/objects")).unwrap();
        for stray in [".git/FETCH_HEAD", "README.md", "unet/diffusion_pytorch_model.fp16.safetensors"] {
            fs::write(folder.join(stray), "what a fetch or an editor leaves").unwrap();
            assert_eq!(looks(), before, "{stray}");
        }
        fs::write(folder.join("unet/config.json"), "{ }").unwrap();
        assert_ne!(looks(), before);
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again_and_what_is_wrong_is_not() {
        let folder = PathBuf::from("tiny");
        let changed = Reading::of(Err(CheckpointError::Changed { folder: folder.clone() }));
        assert!(changed.has_changed && matches!(changed.item, Item::Rejected(_)));
        let wrong = Reading::of(Err(CheckpointError::Mismatch { folder, reason: "wrong".into() }));
        assert!(!wrong.has_changed && matches!(wrong.item, Item::Rejected(_)));
    }
}
