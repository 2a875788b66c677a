//! The painting engine on a device where pictures of one width share passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bildkante_gpu_node::engine::{DrawingId, Engine, EngineError, EngineFactory, Finished};
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, paint_noise};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::CheckpointInfo;

use super::{TestNode, Wish};

pub(crate) struct Sharing {
    inner: Box<dyn Engine>,
    widths: BTreeMap<DrawingId, u32>,
}

impl Sharing {
    /// A node that draws with one, ready.
    pub(crate) async fn start() -> TestNode {
        let control = Arc::new(FakeControl::default());
        let inner = FakeEngine::factory(&control, paint_noise);
        let factory: EngineFactory = Box::new(move || Ok(Box::new(Self { inner: inner()?, widths: BTreeMap::new() })));
        let node = Wish::default().start_with(factory, control).await;
        assert_eq!(node.node.settled().await, Phase::Ready);
        node
    }
}

impl Engine for Sharing {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        self.inner.checkpoints()
    }

    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)> {
        self.inner.native_size_px(checkpoint)
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        let drawing = self.inner.begin(recipe)?;
        self.widths.insert(drawing, recipe.width_px);
        Ok(drawing)
    }

    fn companions_max(&self, _: DrawingId) -> usize {
        3
    }

    fn may_share(&self, a: DrawingId, b: DrawingId) -> bool {
        self.widths.get(&a) == self.widths.get(&b)
    }

    fn may_join(&self, drawing: DrawingId, waiting: &ValidRecipe) -> bool {
        self.widths.get(&drawing) == Some(&waiting.width_px)
    }

    fn is_between_parts(&self, drawing: DrawingId) -> bool {
        self.inner.is_between_parts(drawing)
    }

    fn go_on(&mut self, drawing: DrawingId) -> Result<(), EngineError> {
        self.inner.go_on(drawing)
    }

    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        self.inner.step(drawings)
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        self.inner.progress(drawing)
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        self.widths.remove(&drawing);
        self.inner.finish(drawing)
    }

    fn abandon(&mut self, drawing: DrawingId) {
        self.widths.remove(&drawing);
        self.inner.abandon(drawing);
    }
}
