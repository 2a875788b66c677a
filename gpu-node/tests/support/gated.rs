//! An engine whose probes stop at a gate.

use std::ops::ControlFlow;
use std::sync::Arc;

use bildkante_gpu_node::capacity::Capacity;
use bildkante_gpu_node::engine::{
    DrawingId, Encoded, Engine, EngineError, EngineFactory, Finished, Move, NextProbe, Nudge, Presence, Trial,
};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};

/// Each pass of a probe is a step of the control.
pub(crate) struct Gated {
    inner: Box<dyn Engine>,
    control: Arc<FakeControl>,
}

impl Gated {
    pub(crate) fn factory(inner: EngineFactory, control: &Arc<FakeControl>) -> EngineFactory {
        let control = Arc::clone(control);
        Box::new(move || Ok(Box::new(Self { inner: inner()?, control })))
    }
}

impl Engine for Gated {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        self.inner.checkpoints()
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.inner.adapters()
    }

    fn rejected(&self) -> Vec<String> {
        self.inner.rejected()
    }

    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)> {
        self.inner.native_size_px(checkpoint)
    }

    fn self_test_recipe(&self, checkpoint: Digest, steps: u32) -> Option<Recipe> {
        self.inner.self_test_recipe(checkpoint, steps)
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn has_room(&self, recipe: &ValidRecipe) -> bool {
        self.inner.has_room(recipe)
    }

    fn free_memory(&mut self) {
        self.inner.free_memory();
    }

    fn watch(&mut self, nudge: Nudge) {
        self.inner.watch(nudge);
    }

    fn refresh(&mut self) -> Option<Vec<Trial>> {
        self.inner.refresh()
    }

    fn presence(&self, recipe: &ValidRecipe) -> Presence {
        self.inner.presence(recipe)
    }

    fn fetch(&mut self, recipe: &ValidRecipe) {
        self.inner.fetch(recipe);
    }

    fn networks_bytes(&self) -> u64 {
        self.inner.networks_bytes()
    }

    fn take_moves(&mut self) -> Vec<Move> {
        self.inner.take_moves()
    }

    fn take_encoded(&mut self) -> Encoded {
        self.inner.take_encoded()
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        self.inner.begin(recipe)
    }

    fn companions_max(&self, drawing: DrawingId) -> usize {
        self.inner.companions_max(drawing)
    }

    fn may_share(&self, a: DrawingId, b: DrawingId) -> bool {
        self.inner.may_share(a, b)
    }

    fn may_join(&self, drawing: DrawingId, waiting: &ValidRecipe) -> bool {
        self.inner.may_join(drawing, waiting)
    }

    fn padding(&self, drawings: &[DrawingId]) -> usize {
        self.inner.padding(drawings)
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

    fn next_probe(&self) -> Option<NextProbe> {
        self.inner.next_probe()
    }

    fn probes(&self) -> usize {
        self.inner.probes()
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        self.control.step();
        self.inner.probe()
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        self.inner.progress(drawing)
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        self.inner.finish(drawing)
    }

    fn abandon(&mut self, drawing: DrawingId) {
        self.inner.abandon(drawing);
    }

    fn draw(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        on_step: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Finished, EngineError> {
        self.inner.draw(recipe, on_step)
    }
}
