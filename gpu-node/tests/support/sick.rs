//! The painting engine on a device that shares every pass and ails as prompts tell it to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bildkante_gpu_node::engine::{DrawingId, Engine, EngineError, EngineFactory, Finished};
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, paint_noise};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::CheckpointInfo;

use super::{TestNode, Wish};

/// "poison": any pass with it fails; "huge": it finds no memory; "large": it fits only alone.
///
/// The device is lost at the first pass of "die", at the beginning of "perish at once", at the end of "perish at last", and
/// at the first pass of "quarrel" that it makes alone: a shared one with it fails. A device that is lost stays so.
pub(crate) struct Sick {
    inner: Box<dyn Engine>,
    prompts: BTreeMap<DrawingId, String>,
    freed: Arc<AtomicUsize>,
    is_lost: bool,
    control: Arc<FakeControl>,
}

impl Sick {
    /// A node that draws with one, ready, and how often the engine was asked to give memory back.
    pub(crate) async fn start() -> (TestNode, Arc<AtomicUsize>) {
        Self::start_on(&Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// The same over a data folder that is there.
    pub(crate) async fn start_on(data: &Arc<tempfile::TempDir>) -> (TestNode, Arc<AtomicUsize>) {
        let (control, freed) = (Arc::new(FakeControl::default()), Arc::new(AtomicUsize::new(0)));
        let (inner, counted) = (FakeEngine::factory(&control, paint_noise), Arc::clone(&freed));
        let gate = Arc::clone(&control);
        let factory: EngineFactory = Box::new(move || {
            Ok(Box::new(Self {
                inner: inner()?,
                prompts: BTreeMap::new(),
                freed: counted,
                is_lost: false,
                control: gate,
            }))
        });
        let node = Wish::default().on(data).start_with(factory, control).await;
        node.node.settled().await;
        (node, freed)
    }
}

impl Sick {
    /// Loses the device if this is what does it.
    fn lose_if(&mut self, does: bool) -> Result<(), EngineError> {
        if does {
            // Held drawings do not end the device either: the test is not ready for it.
            self.control.wait_open();
        }
        self.is_lost |= does;
        if self.is_lost {
            return Err(EngineError::DeviceLost { reason: "CUDA error: an illegal memory access".into() });
        }
        Ok(())
    }
}

impl Engine for Sick {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        self.inner.checkpoints()
    }

    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)> {
        self.inner.native_size_px(checkpoint)
    }

    fn has_room(&self, recipe: &ValidRecipe) -> bool {
        self.prompts.is_empty() || !recipe.prompt.contains("large")
    }

    fn free_memory(&mut self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        self.lose_if(recipe.prompt.contains("perish at once"))?;
        let drawing = self.inner.begin(recipe)?;
        self.prompts.insert(drawing, recipe.prompt.clone());
        Ok(drawing)
    }

    fn companions_max(&self, _: DrawingId) -> usize {
        3
    }

    fn may_share(&self, _: DrawingId, _: DrawingId) -> bool {
        true
    }

    fn may_join(&self, _: DrawingId, _: &ValidRecipe) -> bool {
        true
    }

    fn is_between_parts(&self, drawing: DrawingId) -> bool {
        self.inner.is_between_parts(drawing)
    }

    fn go_on(&mut self, drawing: DrawingId) -> Result<(), EngineError> {
        self.inner.go_on(drawing)
    }

    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        let asks = |words: &str| drawings.iter().any(|drawing| self.prompts[drawing].contains(words));
        if asks("poison") {
            return Err(EngineError::Failed { reason: "a pass that fails, as asked".into() });
        }
        let (dies, quarrels) = (asks("die"), asks("quarrel"));
        if quarrels && drawings.len() > 1 && !self.is_lost {
            return Err(EngineError::Failed { reason: "a pass that fails in company, as asked".into() });
        }
        let is_huge = asks("huge");
        self.lose_if(dies || quarrels)?;
        if is_huge {
            return Err(EngineError::OutOfMemory { reason: "CUDA out of memory".into() });
        }
        self.inner.step(drawings)
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        self.inner.progress(drawing)
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        let perishes = self.prompts.remove(&drawing).is_some_and(|prompt| prompt.contains("perish at last"));
        self.lose_if(perishes)?;
        self.inner.finish(drawing)
    }

    fn abandon(&mut self, drawing: DrawingId) {
        self.prompts.remove(&drawing);
        self.inner.abandon(drawing);
    }
}
