//! Reads checkpoints, ControlNets and adapters of a folder onto a device: all of them at start, and those that come later
//! on a thread of its own, so that no drawing waits for a file.
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
use super::options::Options;
use super::shelf::Item;
use crate::diffusion::batch::BatchClass;
use crate::diffusion::denoiser::{Denoiser, Stage};
use crate::diffusion::error::DiffusionError;
use crate::diffusion::family::{Checkpoint, ControlNet, Networks};
use crate::diffusion::loading::CheckpointError;
use crate::diffusion::picture::Picture;
use crate::diffusion::pipeline;
use crate::diffusion::pipeline::Models;
use crate::diffusion::runtime;
use crate::engine::{EngineError, Nudge, Trial};

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
    Came { folder: PathBuf, item: Item, trial: Option<Trial> },
    Gone { folder: PathBuf },
    Adapters(AdapterFolder),
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
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Watches the folder from how it looked when `stock` was read.
    pub(super) fn start(options: Options, stock: Stock, nudge: Nudge) -> std::io::Result<Self> {
        // One change at a time: a loaded model takes memory before it is taken over.
        let (sender, changes) = sync_channel(1);
        let (stop, stopped) = channel();
        let watch = Watch { options, known: stock.looks, seen: BTreeMap::new(), sender, nudge };
        let thread = std::thread::Builder::new().name("node-loader".to_owned()).spawn(move || watch.run(&stopped))?;
        Ok(Self { changes: Some(changes), stop: Some(stop), thread: Some(thread) })
    }

    pub(super) fn next(&self) -> Option<Change> {
        self.changes.as_ref()?.try_recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        drop(self.stop.take());
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
    fn run(mut self, stopped: &Receiver<()>) {
        runtime::set_threads(self.options.threads);
        let pause = Duration::from_millis(self.options.models_poll_ms);
        while matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
            match look(&self.options.models_dir) {
                Ok(looks) => {
                    if self.compare(looks).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "the models' folder cannot be looked at"),
            }
        }
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
            Item::Checkpoint(checkpoint) => match try_out(&checkpoint, self.options.self_test_steps) {
                Ok(masters) => {
                    let item = Item::Checkpoint(checkpoint);
                    let seconds = found_at.elapsed().as_secs_f64();
                    let trial = item.info().zip(masters);
                    let trial = trial.map(|(checkpoint, masters)| Trial { checkpoint, masters, seconds });
                    (item, trial)
                }
                Err(error) => (Item::Rejected(format!("self-test: {error}")), None),
            },
            other => (other, None),
        };
        if let Item::Rejected(reason) = &item {
            tracing::error!(folder = %folder.display(), %reason, "rejected");
        }
        (Some(Change::Came { folder, item, trial }), has_changed)
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

/// Folders with a `model_index.json`, those of ControlNets, and that of adapters, as they look.
fn look(models: &Path) -> Result<BTreeMap<PathBuf, Look>, EngineError> {
    let failed = |error: std::io::Error| EngineError::Load { reason: format!("{}: {error}", models.display()) };
    let mut looks = BTreeMap::new();
    for entry in fs::read_dir(models).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_adapters = path.file_name().is_some_and(|name| name == ADAPTERS_DIR) && path.is_dir();
        if path.join("model_index.json").is_file() || ControlNet::is_in(&path) || is_adapters {
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
    } else {
        let vae_tiles_px = (options.vae_tiles_px > 0).then_some(options.vae_tiles_px);
        Checkpoint::load(folder, options.placement, &options.digests, vae_tiles_px).map(Item::Checkpoint)
    };
    Reading::of(loaded)
}

impl Reading {
    fn of(loaded: Result<Item, CheckpointError>) -> Self {
        let has_changed = matches!(loaded, Err(CheckpointError::Changed { .. }));
        Self { item: loaded.unwrap_or_else(|error| Item::Rejected(error.to_string())), has_changed }
    }
}

/// What a checkpoint is tried with. One that paints into images is given one: grey, all of it to be painted anew.
pub(super) fn self_test_recipe(checkpoint: &Checkpoint, steps: u32) -> Recipe {
    recipe_of_size(checkpoint, steps, checkpoint.trial_size_px())
}

/// A recipe whose passes are of a class, as far as a checkpoint without adapters and ControlNets makes such passes.
pub(super) fn recipe_of_class(checkpoint: &Checkpoint, class: &BatchClass) -> Option<Recipe> {
    let [rows, _, height, width] = class.latents();
    let factor = i64::from(Networks::new(checkpoint, None, &[]).vae_factor());
    let px = |latents: i64| u32::try_from(latents.checked_mul(factor)?).ok();
    let plain = recipe_of_size(checkpoint, 1, (px(width)?, px(height)?));
    // One word is one token, and a chunk holds 75 beside its beginning and its end.
    let words = usize::try_from(class.tokens() / TOKENS_OF_CHUNK - 1).ok()? * 75 + 1;
    let is_plain = class.stage() == Stage::Base && class.controls().is_empty();
    is_plain.then(|| Recipe {
        prompt: "a ".repeat(words),
        guidance: if rows > 1 { plain.guidance } else { 1.0 },
        ..plain
    })
}

/// Tokens of a chunk of CLIP's.
const TOKENS_OF_CHUNK: i64 = 77;

fn recipe_of_size(checkpoint: &Checkpoint, steps: u32, size_px: (u32, u32)) -> Recipe {
    let scheduler = checkpoint.trial_scheduler();
    let plain = Recipe { steps, scheduler, ..Recipe::new(checkpoint.digest(), "self-test", size_px) };
    if !checkpoint.is_inpainting() {
        return plain;
    }
    let [image, mask] = Picture::to_paint_over(size_px).map(|(digest, _)| digest);
    Recipe { init: Some(InitUse { image, strength: 1.0 }), mask: Some(mask), ..plain }
}

/// Draws one recipe twice.
fn try_out(checkpoint: &Checkpoint, steps: u32) -> Result<Option<[MasterId; 2]>, DiffusionError> {
    // A recipe of a checkpoint's own size is refused for an absurd size only, at which it is not tried.
    let Ok(recipe) = ValidRecipe::try_from(self_test_recipe(checkpoint, steps)) else { return Ok(None) };
    let pictures = Picture::to_paint_over(checkpoint.trial_size_px());
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
