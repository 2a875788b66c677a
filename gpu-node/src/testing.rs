//! An engine that paints instead of drawing, for tests only: behind `cfg(test)` or the feature `testing`, which no
//! binary enables. It can be held at a gate, slowed down, and made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{CheckpointInfo, Determinism};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::engine::{DrawingId, Engine, EngineError, EngineFactory, Finished};

/// The digest of the painted checkpoint.
#[must_use]
pub fn fake_checkpoint() -> Digest {
    Digest::of_bytes(b"a painted checkpoint")
}

/// How a fake engine is steered and watched from a test.
#[derive(Debug)]
pub struct FakeControl {
    /// Steps that are let through the gate; `None`: it is open.
    allowed: Mutex<Option<usize>>,
    opened: Condvar,
    started: watch::Sender<usize>,
    entered: watch::Sender<usize>,
    steps: watch::Sender<usize>,
    prompts: Mutex<Vec<String>>,
    finished: Mutex<Vec<(String, usize)>>,
    step: Mutex<Duration>,
    /// Waiting recipes that seem to be able to share a drawing's pass, and turn out not to.
    false_companions: Mutex<usize>,
    /// Pictures that had been finished when a drawing went on to its second part.
    gone_on_after: Mutex<Vec<usize>>,
}

impl Default for FakeControl {
    fn default() -> Self {
        Self {
            allowed: Mutex::new(None),
            opened: Condvar::new(),
            started: watch::Sender::new(0),
            entered: watch::Sender::new(0),
            steps: watch::Sender::new(0),
            prompts: Mutex::default(),
            finished: Mutex::default(),
            step: Mutex::new(Duration::ZERO),
            false_companions: Mutex::default(),
            gone_on_after: Mutex::default(),
        }
    }
}

impl FakeControl {
    /// Drawings stop before their next step until [`Self::release`].
    pub fn hold(&self) {
        *self.allowed.lock() = Some(0);
    }

    pub fn release(&self) {
        *self.allowed.lock() = None;
        self.opened.notify_all();
    }

    /// Lets so many steps of held drawings through.
    pub fn allow(&self, steps: usize) {
        *self.allowed.lock() = Some(steps);
        self.opened.notify_all();
    }

    /// Every step sleeps this long.
    pub fn set_step(&self, step: Duration) {
        *self.step.lock() = step;
    }

    /// As many recipes as that seem to be able to go along in a pass, and none can once it has begun.
    pub fn set_false_companions(&self, count: usize) {
        *self.false_companions.lock() = count;
    }

    /// Waits until `count` drawings have begun, self-tests not counted.
    pub async fn started(&self, count: usize) {
        let _ = self.started.subscribe().wait_for(|started| *started >= count).await;
    }

    /// Waits until `count` steps have been entered, self-tests not counted. A drawing that has begun is not yet in a step:
    /// until then a more urgent one may still come before it.
    pub async fn entered(&self, count: usize) {
        let _ = self.entered.subscribe().wait_for(|entered| *entered >= count).await;
    }

    /// How many drawings have begun, self-tests not counted.
    #[must_use]
    pub fn calls(&self) -> usize {
        *self.started.borrow()
    }

    /// Prompts in the order in which they were drawn.
    #[must_use]
    pub fn prompts(&self) -> Vec<String> {
        self.prompts.lock().clone()
    }

    /// Prompts in the order in which they were finished, each with the steps that all drawings had made until then.
    #[must_use]
    pub fn finished(&self) -> Vec<(String, usize)> {
        self.finished.lock().clone()
    }

    /// How many pictures had been finished when a drawing went on to its second part, for each that did. A recipe whose prompt has
    /// the words `in parts` has two, of half its steps each.
    #[must_use]
    pub fn gone_on_after(&self) -> Vec<usize> {
        self.gone_on_after.lock().clone()
    }

    /// Steps done, self-tests not counted.
    #[must_use]
    pub fn steps(&self) -> usize {
        *self.steps.borrow()
    }

    fn begin(&self, prompt: &str) {
        self.prompts.lock().push(prompt.to_owned());
        self.started.send_modify(|started| *started += 1);
    }

    /// Waits where drawings wait: until [`Self::release`], if they are held.
    pub fn wait_open(&self) {
        let mut allowed = self.allowed.lock();
        while *allowed == Some(0) {
            self.opened.wait(&mut allowed);
        }
        *allowed = allowed.map(|steps| steps - 1);
    }

    /// Enters a step, waits until it is let through, and makes it.
    pub fn step(&self) {
        self.entered.send_modify(|entered| *entered += 1);
        self.wait_open();
        std::thread::sleep(*self.step.lock());
        self.steps.send_modify(|steps| *steps += 1);
    }
}

/// Paints what `paint` says.
pub struct FakeEngine {
    control: Arc<FakeControl>,
    paint: fn(&ValidRecipe) -> Pixels,
    checkpoint: Digest,
    /// Recipes that have begun, and their steps.
    drawings: BTreeMap<DrawingId, (Arc<ValidRecipe>, u32)>,
    next_drawing: u64,
    /// Drawings whose second part has begun.
    gone_on: BTreeSet<DrawingId>,
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeEngine").field("control", &self.control).finish_non_exhaustive()
    }
}

impl FakeEngine {
    /// A factory for [`crate::Node::start`].
    #[must_use]
    pub fn factory(control: &Arc<FakeControl>, paint: fn(&ValidRecipe) -> Pixels) -> EngineFactory {
        Self::factory_for(control, paint, fake_checkpoint())
    }

    /// As [`Self::factory`], under the digest of a real checkpoint: for campaigns whose locks name it.
    #[must_use]
    pub fn factory_for(
        control: &Arc<FakeControl>,
        paint: fn(&ValidRecipe) -> Pixels,
        checkpoint: Digest,
    ) -> EngineFactory {
        let control = Arc::clone(control);
        Box::new(move || {
            let (drawings, gone_on) = (BTreeMap::new(), BTreeSet::new());
            Ok(Box::new(Self { control, paint, checkpoint, drawings, next_drawing: 0, gone_on }))
        })
    }
}

impl Engine for FakeEngine {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let name = "fake".to_owned();
        vec![CheckpointInfo {
            name,
            digest: self.checkpoint,
            formers: Vec::new(),
            family: "fake".to_owned(),
            ready: true,
        }]
    }

    fn native_size_px(&self, _: Digest) -> Option<(u32, u32)> {
        Some((64, 64))
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        if !is_self_test(recipe) {
            self.control.begin(&recipe.prompt);
        }
        let drawing = DrawingId(self.next_drawing);
        self.next_drawing += 1;
        self.drawings.insert(drawing, (Arc::clone(recipe), 0));
        Ok(drawing)
    }

    fn companions_max(&self, _: DrawingId) -> usize {
        *self.control.false_companions.lock()
    }

    fn may_join(&self, drawing: DrawingId, _: &ValidRecipe) -> bool {
        self.companions_max(drawing) > 0
    }

    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let step = |drawing: &DrawingId| {
            let Some((recipe, done)) = self.drawings.get_mut(drawing) else { return Err(EngineError::Stopped) };
            if !is_self_test(recipe) {
                self.control.step();
            }
            *done += 1;
            Ok(())
        };
        Ok(drawings.iter().map(step).collect())
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        self.drawings.get(&drawing).map_or((0, 0), |(recipe, done)| (*done, recipe.steps))
    }

    fn is_between_parts(&self, drawing: DrawingId) -> bool {
        let is_half =
            |(recipe, done): &(Arc<ValidRecipe>, u32)| recipe.prompt.contains("in parts") && 2 * done == recipe.steps;
        self.drawings.get(&drawing).is_some_and(is_half) && !self.gone_on.contains(&drawing)
    }

    fn go_on(&mut self, drawing: DrawingId) -> Result<(), EngineError> {
        self.gone_on.insert(drawing);
        self.control.gone_on_after.lock().push(self.control.finished.lock().len());
        Ok(())
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let Some((recipe, _)) = self.drawings.remove(&drawing) else { return Err(EngineError::Stopped) };
        if !is_self_test(&recipe) {
            self.control.finished.lock().push((recipe.prompt.clone(), self.control.steps()));
        }
        assert!(!recipe.prompt.contains("defect"), "a defect, as asked");
        if recipe.prompt.contains("failure") {
            return Err(EngineError::Failed { reason: "a failure, as asked".to_owned() });
        }
        if recipe.prompt.contains("refusal") {
            return Err(EngineError::Refused { reason: "a refusal, as asked".to_owned() });
        }
        let (class, device) = ("fake".to_owned(), "none".to_owned());
        let determinism = Determinism { class, runtime: device.clone(), device };
        Ok(Finished { pixels: (self.paint)(&recipe), determinism })
    }

    fn abandon(&mut self, drawing: DrawingId) {
        self.drawings.remove(&drawing);
    }
}

fn is_self_test(recipe: &ValidRecipe) -> bool {
    recipe.prompt == "self-test"
}

/// Pixels that differ entirely from one recipe to the next.
///
/// # Panics
/// Never: a valid recipe has a valid size.
#[must_use]
pub fn paint_noise(recipe: &ValidRecipe) -> Pixels {
    let mut rgb = vec![0; recipe.width_px as usize * recipe.height_px as usize * 3];
    let mut hasher = blake3::Hasher::new();
    hasher.update(recipe.id().as_bytes());
    hasher.finalize_xof().fill(&mut rgb);
    #[allow(clippy::expect_used, reason = "bounded by ValidRecipe; test code")]
    Pixels::new(recipe.width_px, recipe.height_px, rgb).expect("a valid recipe has a valid size")
}

/// One scene for all recipes, with a grain of one step that differs from one recipe to the next and that no eye can see.
///
/// # Panics
/// As [`paint_noise`].
#[must_use]
pub fn paint_alike(recipe: &ValidRecipe) -> Pixels {
    const SIDE: usize = 16;
    let (width, height) = (recipe.width_px as usize, recipe.height_px as usize);
    let bytes = |seed: &[u8], count: usize| {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
        bytes
    };
    let scene = bytes(b"scene", SIDE * SIDE);
    let grain = bytes(recipe.id().as_bytes(), width * height);
    let level = |at: usize| {
        let (x, y) = (at % width * SIDE / width, at / width * SIDE / height);
        60 + scene[y * SIDE + x] / 2 + u8::from(grain[at] < 8)
    };
    let rgb = (0..width * height).flat_map(|at| [level(at); 3]).collect();
    #[allow(clippy::expect_used, reason = "bounded by ValidRecipe; test code")]
    Pixels::new(recipe.width_px, recipe.height_px, rgb).expect("a valid recipe has a valid size")
}
