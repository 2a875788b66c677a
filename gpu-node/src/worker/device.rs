//! A device thread's life: load the engine, test it, then [`executor`](super::executor) until the board closes.
//!
//! Invariant: the end of this thread by any error or defect ends the node's readiness, and says why.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};

use super::bench::{DeviceBench, message};
use super::executor::Executor;
use super::settle::Drawn;
use crate::engine::{Engine, EngineError, EngineFactory};
use crate::health::{DeviceStatus, Phase};

impl DeviceBench {
    /// The device thread.
    pub(super) fn run(&self, factory: EngineFactory, sender: &SyncSender<Drawn>) {
        let life = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = self.load(factory)?;
            self.self_test(engine.as_mut())?;
            let ready_s = self.started_at.elapsed().as_secs_f64();
            self.health.device_ready(self.device, || {
                self.metrics.time_to_ready_seconds.set(ready_s);
                self.metrics.ready.set(1);
            });
            // Logged after it is true: a reader of the log may send requests at once.
            tracing::info!(device = %self.name, seconds = ready_s, "ready");
            let board = Arc::clone(&self.board);
            engine.watch(Arc::new(move || board.nudge()));
            Executor::new(self, engine.as_mut(), sender).run()
        }));
        let reason = match life {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("defect in the device thread: {}", message(panic.as_ref())),
        };
        tracing::error!(device = %self.name, %reason, "the device thread has ended");
        self.metrics.ready.set(0);
        self.health.enter(Phase::Failed { reason });
        self.board.close();
    }

    fn load(&self, factory: EngineFactory) -> Result<Box<dyn Engine>, EngineError> {
        let mut engine = factory()?;
        let (checkpoints, rejected) = (engine.checkpoints(), engine.rejected());
        for checkpoint in &checkpoints {
            let CheckpointInfo { name, digest, family, .. } = checkpoint;
            tracing::info!(%name, %digest, %family, "checkpoint loaded");
        }
        for AdapterInfo { name, digest } in engine.adapters() {
            tracing::info!(%name, %digest, "adapter found");
        }
        for reason in &rejected {
            tracing::error!(%reason, "rejected");
        }
        if checkpoints.is_empty() {
            let reason = if rejected.is_empty() { "no checkpoint in models_dir".into() } else { rejected.join("; ") };
            return Err(EngineError::Load { reason });
        }
        self.report(engine.as_ref());
        self.report_moves(engine.as_mut());
        Ok(engine)
    }

    /// Draws one short recipe twice per checkpoint. Unequal bits are reported, loudly, and the node serves: its masters
    /// are content-addressed, so nothing false is ever stored. A checkpoint that cannot draw at all is taken out.
    fn self_test(&self, engine: &mut dyn Engine) -> Result<(), EngineError> {
        self.health.enter(Phase::SelfTest);
        for checkpoint in engine.checkpoints() {
            let recipe = engine.self_test_recipe(checkpoint.digest, self.self_test_steps);
            let Some(Ok(recipe)) = recipe.map(ValidRecipe::try_from) else { continue };
            let recipe = Arc::new(recipe);
            let mut draw = || engine.draw(&recipe, &mut |_, _| ControlFlow::Continue(())).map(|f| f.pixels.master_id());
            match draw().and_then(|first| Ok((first, draw()?))) {
                Ok((first, second)) => {
                    let seconds = self.started_at.elapsed().as_secs_f64();
                    self.metrics.checkpoint_ready_seconds.with_label_values(&[&checkpoint.name]).set(seconds);
                    self.judge(&checkpoint, first, second);
                }
                Err(error) => self.take_out(&checkpoint, &error),
            }
        }
        let status = self.health.status();
        let device = status.devices.get(self.device);
        if device.is_some_and(DeviceStatus::has_any_ready) {
            return Ok(());
        }
        Err(EngineError::Load { reason: status.rejected.join("; ") })
    }

    fn take_out(&self, checkpoint: &CheckpointInfo, error: &EngineError) {
        tracing::error!(checkpoint = %checkpoint.name, %error, "self-test: the checkpoint draws nothing");
        let reason = format!("{}: self-test: {error}", checkpoint.name);
        self.health.report(self.device, |device| device.failed.push((checkpoint.digest, reason)));
    }
}
