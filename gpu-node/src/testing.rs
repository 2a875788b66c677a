//! An engine that paints instead of drawing, for tests only: behind `cfg(test)` or the feature `testing`, which no
//! binary enables. It can be held at a gate, slowed down, and made to fail.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{CheckpointInfo, Determinism};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::diffusion::pipeline::{Generated, StepControl};
use crate::worker::{Engine, EngineError, EngineFactory};

/// The digest of the painted checkpoint.
#[must_use]
pub fn fake_checkpoint() -> Digest {
    Digest::of_bytes(b"a painted checkpoint")
}

/// How a fake engine is steered and watched from a test.
#[derive(Debug)]
pub struct FakeControl {
    is_open: Mutex<bool>,
    opened: Condvar,
    started: watch::Sender<usize>,
    steps: watch::Sender<usize>,
    prompts: Mutex<Vec<String>>,
    step: Mutex<Duration>,
}

impl Default for FakeControl {
    fn default() -> Self {
        Self {
            is_open: Mutex::new(true),
            opened: Condvar::new(),
            started: watch::Sender::new(0),
            steps: watch::Sender::new(0),
            prompts: Mutex::default(),
            step: Mutex::new(Duration::ZERO),
        }
    }
}

impl FakeControl {
    /// Drawings stop before their next step until [`Self::release`].
    pub fn hold(&self) {
        *self.is_open.lock() = false;
    }

    pub fn release(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    /// Every step sleeps this long.
    pub fn set_step(&self, step: Duration) {
        *self.step.lock() = step;
    }

    /// Waits until `count` drawings have begun, self-tests not counted.
    pub async fn started(&self, count: usize) {
        let _ = self.started.subscribe().wait_for(|started| *started >= count).await;
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

    /// Steps done, self-tests not counted.
    #[must_use]
    pub fn steps(&self) -> usize {
        *self.steps.borrow()
    }

    fn begin(&self, prompt: &str) {
        self.prompts.lock().push(prompt.to_owned());
        self.started.send_modify(|started| *started += 1);
    }

    fn step(&self) {
        let mut is_open = self.is_open.lock();
        while !*is_open {
            self.opened.wait(&mut is_open);
        }
        drop(is_open);
        std::thread::sleep(*self.step.lock());
        self.steps.send_modify(|steps| *steps += 1);
    }
}

/// Paints what `paint` says.
pub struct FakeEngine {
    control: Arc<FakeControl>,
    paint: fn(&ValidRecipe) -> Pixels,
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
        let control = Arc::clone(control);
        Box::new(move || Ok(Box::new(Self { control, paint })))
    }
}

impl Engine for FakeEngine {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let name = "fake".to_owned();
        vec![CheckpointInfo { name, digest: fake_checkpoint(), family: "fake".to_owned(), ready: true }]
    }

    fn native_size_px(&self, _: Digest) -> Option<(u32, u32)> {
        Some((64, 64))
    }

    fn determinism(&self, _: &ValidRecipe) -> Determinism {
        Determinism { class: "fake".to_owned(), device: "none".to_owned(), runtime: "none".to_owned() }
    }

    fn generate(
        &mut self,
        recipe: &ValidRecipe,
        on_step: &mut dyn FnMut(u32, u32) -> StepControl,
    ) -> Result<Generated, EngineError> {
        let is_self_test = recipe.prompt == "self-test";
        if !is_self_test {
            self.control.begin(&recipe.prompt);
        }
        for done in 1..=recipe.steps {
            if !is_self_test {
                self.control.step();
            }
            if matches!(on_step(done, recipe.steps), StepControl::Stop) {
                return Err(EngineError::Stopped);
            }
        }
        assert!(!recipe.prompt.contains("defect"), "a defect, as asked");
        if recipe.prompt.contains("failure") {
            return Err(EngineError::Failed { reason: "a failure, as asked".to_owned() });
        }
        if recipe.prompt.contains("refusal") {
            return Err(EngineError::Refused { reason: "a refusal, as asked".to_owned() });
        }
        Ok(Generated { pixels: (self.paint)(recipe), text_ms: 0.1, denoise_ms: 0.2, decode_ms: 0.3 })
    }
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
