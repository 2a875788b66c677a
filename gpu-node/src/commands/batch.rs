//! `batch`: several seeds of several recipes to PNG masters, a contact sheet and a manifest, with the engine that a node draws with.
//!
//! Invariants: what the manifest lists is there with these pixels, because a picture is written before its entry; a picture
//! that is there is not drawn again; a recipe that fails leaves the others.

mod ledger;
mod plan;
mod sheet;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::Context;
use bildkante_shared::ids::Digest;
use bildkante_shared::remark;
use clap::Args;

use self::ledger::{Entry, Ledger};
use self::plan::{Known, Plan, Planned, Seeds};
use super::generate::{show_progress, write_png};
use super::say;
use crate::blobs::Blobs;
use crate::config::NodeConfig;
use crate::engine::{Engine, EngineError, Presence};
use crate::worker::torch_engine;

/// How long networks may take to come to the device.
const FETCH_WAIT: Duration = Duration::from_secs(600);
/// How often it is looked for networks that come.
const FETCH_LOOK: Duration = Duration::from_millis(500);

/// Arguments of `batch`.
#[derive(Debug, Clone, Args)]
pub struct BatchArgs {
    /// Configuration of a node, whose models, adapters and images are drawn with; without one every key has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Recipes, as TOML or JSON: `recipes` with a `name` each, and `seeds` for all of them
    #[arg(long, value_name = "FILE")]
    pub recipes: PathBuf,
    /// Seeds instead of those of the file: numbers and ranges, such as 7,40-47
    #[arg(long, value_name = "LIST")]
    pub seeds: Option<Seeds>,
    /// Folder of PNGs that recipes may name by their file names
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Longer side of a picture on the contact sheet, in pixels
    #[arg(long, value_name = "PX", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=1024))]
    pub cell: u32,
    /// Folder for the pictures, contact-sheet.png and manifest.json
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Draws what is not there yet and prints a line of JSON about all of it.
///
/// # Errors
/// When a file cannot be read or written, a recipe is none, or the engine does not start.
pub fn batch(args: &BatchArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map_or_else(|| Ok(NodeConfig::default()), NodeConfig::read)?;
    config.validate()?;
    let images = args.images.as_deref().map(|folder| store_images(folder, &config)).transpose()?.unwrap_or_default();
    let mut engine = torch_engine(&config)()?;
    for reason in engine.rejected() {
        remark!("batch: rejected: {reason}");
    }
    let known = Known { checkpoints: engine.checkpoints(), adapters: engine.adapters(), images };
    let plan = Plan::read(&args.recipes, args.seeds.as_ref(), &known)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut batch = Batch::new(engine.as_mut(), &args.out)?;
    batch.draw_all(&plan)?;
    let sheet = sheet::write(&args.out, &plan, &batch.ledger, args.cell).context("cannot write the contact sheet")?;
    let Batch { drawn, kept, failed, .. } = batch;
    let report = serde_json::json!({ "drawn": drawn, "kept": kept, "failed": failed, "out": args.out, "sheet": sheet });
    say(&report.to_string())?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the PNGs of a folder where recipes' images are read, and says how each may be named.
fn store_images(folder: &Path, config: &NodeConfig) -> anyhow::Result<Vec<(String, Digest)>> {
    let blobs = Blobs::of(&config.data_dir, config.store.blob_bytes_max);
    let mut named = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            let digest = blobs.store(&bytes).with_context(|| path.display().to_string())?;
            named.extend(path.file_name().map(|name| (name.to_string_lossy().into_owned(), digest)));
        }
    }
    Ok(named)
}

/// A run under way.
struct Batch<'a> {
    engine: &'a mut dyn Engine,
    /// Hears when networks have come.
    woken: Receiver<()>,
    out: &'a Path,
    ledger: Ledger,
    drawn: usize,
    kept: usize,
    failed: usize,
}

impl<'a> Batch<'a> {
    fn new(engine: &'a mut dyn Engine, out: &'a Path) -> anyhow::Result<Self> {
        let (sender, woken) = mpsc::sync_channel(1);
        engine.watch(Arc::new(move || {
            // One that is not yet heard is enough.
            let _ = sender.try_send(());
        }));
        Ok(Self { engine, woken, out, ledger: Ledger::open(out)?, drawn: 0, kept: 0, failed: 0 })
    }

    fn draw_all(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let of = plan.pictures.len();
        for (at, picture) in plan.pictures.iter().enumerate() {
            let place = format!("{}/{of} {}", at + 1, picture.file());
            if self.ledger.holds(picture) {
                self.kept += 1;
                remark!("{place} is there");
                continue;
            }
            let began = Instant::now();
            match self.draw(picture) {
                Ok(entry) => {
                    self.ledger.add(entry)?;
                    self.drawn += 1;
                    remark!("{place} drawn in {:.1} s", began.elapsed().as_secs_f64());
                }
                Err(error @ EngineError::DeviceLost { .. }) => return Err(error.into()),
                Err(error) => {
                    self.failed += 1;
                    remark!("{place} failed: {error}");
                }
            }
        }
        Ok(())
    }

    fn draw(&mut self, picture: &Planned) -> Result<Entry, EngineError> {
        self.fetch(picture)?;
        let finished = self.engine.draw(&picture.recipe, &mut |done, of| {
            show_progress(done, of);
            ControlFlow::Continue(())
        })?;
        let path = self.out.join(picture.file());
        let failed = |error: anyhow::Error| EngineError::Failed { reason: format!("{}: {error:#}", path.display()) };
        write_png(&path, &finished.pixels).map_err(failed)?;
        Ok(Entry::of(picture, &finished))
    }

    /// Waits until the networks of a recipe are on the device.
    fn fetch(&mut self, picture: &Planned) -> Result<(), EngineError> {
        let until = Instant::now() + FETCH_WAIT;
        loop {
            match self.engine.presence(&picture.recipe) {
                Presence::Here => return Ok(()),
                _ if Instant::now() >= until => {
                    return Err(EngineError::Failed { reason: "its networks do not come to the device".into() });
                }
                Presence::Away => self.engine.fetch(&picture.recipe),
                Presence::Coming => {}
            }
            let _ = self.woken.recv_timeout(FETCH_LOOK);
            let _trials = self.engine.refresh();
        }
    }
}
