//! What draws, behind one trait: the executor knows no more of a device than this.
//!
//! [`Engine`] takes recipes up ([`begin`](Engine::begin)), makes their steps, alone or several in one pass
//! ([`step`](Engine::step)), and gives out pictures ([`finish`](Engine::finish)). It says what its device can take
//! ([`capacity`](Engine::capacity)) and which drawings may share a pass ([`may_share`](Engine::may_share)). Its types are its
//! own: neither a model family's nor the queue's. `worker::torch` implements it on libtorch, `testing` for tests.

use std::ops::ControlFlow;
use std::sync::Arc;

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::pixels::Pixels;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, Determinism};

use crate::capacity::Capacity;
use crate::error::GenerationError;
pub use crate::metrics::MoveKind;

/// What draws: checkpoints on a device. One thread owns it for its whole life.
pub trait Engine: Send {
    fn checkpoints(&self) -> Vec<CheckpointInfo>;

    /// The adapters a recipe may name.
    fn adapters(&self) -> Vec<AdapterInfo> {
        Vec::new()
    }

    /// Folders that hold no usable checkpoint and files that hold no usable adapter, and why.
    fn rejected(&self) -> Vec<String> {
        Vec::new()
    }

    /// The size in pixels of what [`Self::self_test_recipe`] draws where the engine has no recipe of its own. `None`
    /// where it knows no size: nothing is tried then.
    fn native_size_px(&self, _checkpoint: Digest) -> Option<(u32, u32)> {
        None
    }

    /// What the self-test draws with a checkpoint. `None` for networks that draw nothing by themselves.
    fn self_test_recipe(&self, checkpoint: Digest, steps: u32) -> Option<Recipe> {
        Some(Recipe { steps, ..Recipe::new(checkpoint, "self-test", self.native_size_px(checkpoint)?) })
    }

    /// Its device's memory, and what its checkpoints take of it for a drawing.
    fn capacity(&self) -> Capacity {
        Capacity::default()
    }

    /// Whether a recipe's drawing fits beside those that have begun.
    fn has_room(&self, _recipe: &ValidRecipe) -> bool {
        true
    }

    /// Gives back the memory of what is kept for requests to come.
    fn free_memory(&mut self) {}

    /// Calls `nudge` from now on whenever there is something to [`Self::refresh`].
    fn watch(&mut self, _nudge: Nudge) {}

    /// Takes over checkpoints and adapters that have come, and lets go of those that are gone. `None` where nothing has
    /// changed, else how the new ones did in their trials.
    fn refresh(&mut self) -> Option<Vec<Trial>> {
        None
    }

    /// Where the networks of a recipe are. Those that nobody knows count as here: beginning says what is missing.
    fn presence(&self, _recipe: &ValidRecipe) -> Presence {
        Presence::Here
    }

    /// Has networks of a recipe that are away come to the device. Where it is busy with others, it is to be asked again.
    fn fetch(&mut self, _recipe: &ValidRecipe) {}

    /// Bytes of the networks on the device.
    fn networks_bytes(&self) -> u64 {
        0
    }

    /// What has moved since this was last asked.
    fn take_moves(&mut self) -> Vec<Move> {
        Vec::new()
    }

    /// What was encoded since this was last asked.
    fn take_encoded(&mut self) -> Encoded {
        Encoded::default()
    }

    /// Takes a recipe up: encodes its text, draws its noise.
    ///
    /// # Errors
    /// Why it cannot be drawn.
    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError>;

    /// How many requests may share the next pass with this one.
    fn companions_max(&self, _drawing: DrawingId) -> usize {
        0
    }

    /// Whether the next steps of two drawings can be one pass.
    fn may_share(&self, _a: DrawingId, _b: DrawingId) -> bool {
        false
    }

    /// Whether a recipe that waits could share passes with a drawing once it has begun, as far as the recipes tell.
    fn may_join(&self, _drawing: DrawingId, _waiting: &ValidRecipe) -> bool {
        false
    }

    /// How many places the next pass of these requests is filled up with, so that it has a number of requests that gives exact
    /// bits.
    fn padding(&self, _drawings: &[DrawingId]) -> usize {
        0
    }

    /// Makes the next step of each request in one pass. They can share it, and none of them is done. The step has been made
    /// when this returns: what merely waited at the device could not be overtaken by a more urgent request.
    ///
    /// # Errors
    /// Why the pass failed: no request has made a step then. Within, why each request failed.
    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError>;

    /// Whether a part of the drawing is over and the next one has not begun: its next turn is [`Self::go_on`], and no step.
    fn is_between_parts(&self, _drawing: DrawingId) -> bool {
        false
    }

    /// Begins the next part: the picture so far is decoded, enlarged and encoded. It is a turn of its own, because a more urgent
    /// request would wait for it behind a step.
    ///
    /// # Errors
    /// Why the next part cannot begin: the request fails.
    fn go_on(&mut self, _drawing: DrawingId) -> Result<(), EngineError> {
        Ok(())
    }

    /// What the next pass of [`Self::probe`] is made for; `None` where there is nothing to find out.
    fn next_probe(&self) -> Option<NextProbe> {
        None
    }

    /// How much there is to find out.
    fn probes(&self) -> usize {
        0
    }

    /// Makes one pass to find out what lets requests share passes. No request depends on it: it is made when there is time.
    ///
    /// # Errors
    /// What it failed at. It is not tried again until a request asks for it.
    fn probe(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Steps made and steps there are.
    fn progress(&self, drawing: DrawingId) -> (u32, u32);

    fn is_done(&self, drawing: DrawingId) -> bool {
        let (done, of) = self.progress(drawing);
        done >= of
    }

    /// The picture of a request that is done.
    ///
    /// # Errors
    /// What the drawing failed at.
    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError>;

    /// Forgets a request, if it is there.
    fn abandon(&mut self, drawing: DrawingId);

    /// Draws one recipe from beginning to end. `on_step` is told after each step and may stop it there.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when told to stop, else why it could not be drawn.
    fn draw(
        &mut self,
        recipe: &Arc<ValidRecipe>,
        on_step: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Finished, EngineError> {
        let drawing = self.begin(recipe)?;
        while !self.is_done(drawing) {
            if self.is_between_parts(drawing)
                && let Err(error) = self.go_on(drawing)
            {
                self.abandon(drawing);
                return Err(error);
            }
            let stepped = self.step(&[drawing]).and_then(|results| results.into_iter().collect::<Result<(), _>>());
            let (done, of) = self.progress(drawing);
            let stopped = if on_step(done, of).is_break() { Err(EngineError::Stopped) } else { Ok(()) };
            if let Err(error) = stepped.and(stopped) {
                self.abandon(drawing);
                return Err(error);
            }
        }
        let finished = self.finish(drawing);
        self.abandon(drawing);
        finished
    }
}

/// A request that an engine has begun and not yet finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrawingId(pub u64);

/// Where the networks of a recipe are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// On the device.
    Here,
    /// Read, and waiting for drawings under way to leave room on the device.
    Coming,
    /// Elsewhere: they have to be fetched, or are being read.
    Away,
}

/// A checkpoint's networks that moved.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    pub checkpoint: String,
    pub kind: MoveKind,
    /// On the device's thread: reading files is not counted, except at the start.
    pub seconds: f64,
}

/// Inputs that networks read, and that were not kept from a drawing before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encoded {
    pub texts: u64,
    pub control_images: u64,
}

/// What a probe is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextProbe {
    /// A recipe like those that it is for.
    pub recipe: RecipeId,
    /// Whether a request has asked for it. Else it is foreseen, and waits until the device is idle.
    pub is_wanted: bool,
}

/// A drawn picture, and within what it can be repeated bit for bit.
#[derive(Debug)]
pub struct Finished {
    pub pixels: Pixels,
    pub determinism: Determinism,
}

/// Wakes the device thread.
pub type Nudge = Arc<dyn Fn() + Send + Sync>;

/// A checkpoint that was loaded while the node served, and what it drew twice from one recipe.
#[derive(Debug, Clone)]
pub struct Trial {
    pub checkpoint: CheckpointInfo,
    pub masters: [MasterId; 2],
    /// From finding it to here.
    pub seconds: f64,
}

/// Builds an engine on its device thread.
pub type EngineFactory = Box<dyn FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send>;

/// A node's engines, one for each device.
pub struct Engines(pub Vec<(String, EngineFactory)>);

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(device, _)| device)).finish()
    }
}

impl From<EngineFactory> for Engines {
    fn from(engine: EngineFactory) -> Self {
        Self(vec![("0".to_owned(), engine)])
    }
}

/// Why an engine does not draw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("{reason}")]
    Load { reason: String },
    #[error("the checkpoint {0} is not loaded")]
    Missing(Digest),
    /// The recipe's fault.
    #[error("{reason}")]
    Refused { reason: String },
    /// The engine's fault.
    #[error("{reason}")]
    Failed { reason: String },
    /// Neither's fault: the drawing needs more memory than is left.
    #[error("{reason}")]
    OutOfMemory { reason: String },
    /// The device is of no more use to this process.
    #[error("the device is lost: {reason}")]
    DeviceLost { reason: String },
    #[error("stopped between steps")]
    Stopped,
}

impl From<EngineError> for GenerationError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Missing(digest) => Self::Missing { digests: vec![digest] },
            EngineError::Refused { reason } => Self::Refused { reason },
            EngineError::Load { reason } | EngineError::Failed { reason } => Self::Failed { reason },
            EngineError::OutOfMemory { reason } => Self::OutOfMemory { reason },
            // The executor knows whether it was alone, and says so.
            EngineError::DeviceLost { reason } => Self::DeviceLost { reason, is_alone: false },
            EngineError::Stopped => Self::DeadlinePassed,
        }
    }
}
