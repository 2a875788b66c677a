//! What the threads work with, and what becomes of a job for all of them alike: failed, answered from the store, charged.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::log_limited;
use bildkante_shared::wire::{CheckpointInfo, Determinism};

use crate::archive::Archive;
use crate::board::{Board, Cost, StartedJob};
use crate::endings::Endings;
use crate::engine::{Encoded, Engine, EngineError, Move, Trial};
use crate::error::GenerationError;
use crate::health::{Health, SelfTest};
use crate::metrics::NodeMetrics;

/// What the threads work with.
#[derive(Debug, Clone)]
pub struct Bench {
    pub board: Arc<Board>,
    pub archive: Arc<Archive>,
    pub endings: Arc<Endings>,
    pub health: Arc<Health>,
    pub metrics: Arc<NodeMetrics>,
    pub self_test_steps: u32,
    pub started_at: Instant,
}

impl Bench {
    /// Fails a job that met a defect, and that job only.
    pub(super) fn panicked(&self, job: &StartedJob, panic: &(dyn Any + Send)) {
        self.metrics.panics_total.inc();
        let _of = job.span.enter();
        log_limited!(error, recipe = %job.recipe.id(), defect = message(panic), "a job ended at a defect");
        self.board.fail(job.recipe.id(), &GenerationError::Panicked);
    }
}

/// What one device thread works with.
#[derive(Debug)]
pub(super) struct DeviceBench {
    pub(super) bench: Bench,
    pub(super) device: usize,
    pub(super) name: String,
}

impl std::ops::Deref for DeviceBench {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl DeviceBench {
    /// Tells what the engine has.
    pub(super) fn report(&self, engine: &dyn Engine) {
        let (checkpoints, adapters, rejected) = (engine.checkpoints(), engine.adapters(), engine.rejected());
        let capacity = Arc::new(engine.capacity());
        if let Some(budget_bytes) = capacity.budget_bytes {
            let labels = [self.name.as_str()];
            self.metrics.memory_budget_bytes.with_label_values(&labels).set(budget_bytes as f64);
        }
        self.report_probes(engine.probes());
        self.health.report(self.device, |device| {
            let is_there = |digest| checkpoints.iter().any(|known| known.digest == digest);
            device.self_tests.retain(|test| is_there(test.digest));
            device.failed.retain(|(digest, _)| is_there(*digest));
            (device.checkpoints, device.adapters, device.rejected) = (checkpoints, adapters, rejected);
            device.capacity = capacity;
        });
    }

    /// Counts networks that moved.
    pub(super) fn report_moves(&self, engine: &mut dyn Engine) {
        for Move { kind, seconds, .. } in engine.take_moves() {
            self.metrics.network_moves_total.with_label_values(&[kind.as_str()]).inc();
            self.metrics.network_move_seconds_total.with_label_values(&[kind.as_str()]).inc_by(seconds);
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let bytes = engine.networks_bytes() as f64;
        self.metrics.networks_bytes.with_label_values(&[&self.name]).set(bytes);
    }

    /// Counts what networks read anew.
    pub(super) fn report_encoded(&self, engine: &mut dyn Engine) {
        let Encoded { texts, control_images } = engine.take_encoded();
        for (input, count) in [("text", texts), ("control_image", control_images)] {
            self.metrics.inputs_encoded_total.with_label_values(&[input]).inc_by(count);
        }
    }

    /// Has the engine take over new checkpoints and adapters, and reports them.
    pub(super) fn refresh(&self, engine: &mut dyn Engine) {
        let refreshed = engine.refresh();
        self.report_moves(engine);
        let Some(trials) = refreshed else { return };
        for Trial { checkpoint, masters: [first, second], seconds } in &trials {
            tracing::info!(checkpoint = %checkpoint.name, digest = %checkpoint.digest, seconds, "checkpoint loaded");
            self.metrics.checkpoint_ready_seconds.with_label_values(&[&checkpoint.name]).set(*seconds);
            self.judge(checkpoint, *first, *second);
        }
        self.report(engine);
    }

    pub(super) fn judge(&self, checkpoint: &CheckpointInfo, first: MasterId, second: MasterId) {
        let is_equal = first == second;
        let CheckpointInfo { name, digest, .. } = checkpoint;
        self.metrics.self_test_equal.with_label_values(&[name]).set(f64::from(u8::from(is_equal)));
        if is_equal {
            tracing::info!(checkpoint = %name, master = %first, "self-test: equal bits twice");
        } else {
            tracing::error!(checkpoint = %name, %first, %second, "self-test: unequal bits");
        }
        let (device, checkpoint, digest) = (self.name.clone(), name.clone(), *digest);
        let test = SelfTest { device, checkpoint, digest, is_equal, master: first };
        self.health.report(self.device, |device| {
            device.failed.retain(|(failed, _)| *failed != digest);
            device.self_tests.retain(|known| known.digest != digest);
            device.self_tests.push(test);
        });
    }

    /// Fails a job. `is_alone`: no other request was in the device's pass.
    pub(super) fn failed(&self, job: &StartedJob, error: &EngineError, is_alone: bool) {
        let (id, _of) = (job.recipe.id(), job.span.enter());
        log_limited!(warn, recipe = %id, %error, "not drawn");
        let error = match GenerationError::from(error.clone()) {
            GenerationError::DeviceLost { reason, .. } => GenerationError::DeviceLost { reason, is_alone },
            error => error,
        };
        self.board.fail(id, &error);
    }

    /// Tells how many classes of passes wait to be probed.
    pub(super) fn report_probes(&self, probes: usize) {
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        self.metrics.probes_pending.with_label_values(&[&self.name]).set(probes as f64);
    }

    pub(super) fn probe_panicked(&self, panic: &(dyn Any + Send)) {
        self.metrics.panics_total.inc();
        log_limited!(error, defect = message(panic), "a probe ended at a defect");
    }

    /// Adds what a drawing cost to the metrics.
    pub(super) fn charge(&self, cost: Cost) -> Cost {
        let Cost { text_ms, denoise_ms, decode_ms, .. } = cost;
        for (stage, spent_ms) in [("text", text_ms), ("denoise", denoise_ms), ("decode", decode_ms)] {
            self.metrics.stage_seconds.with_label_values(&[stage]).observe(spent_ms / 1e3);
        }
        cost
    }

    /// Answers a job whose recipe was settled between submission and start: a recipe is drawn once.
    pub(super) fn is_answered_from_store(&self, job: &StartedJob) -> bool {
        let id = job.recipe.id();
        let mut open = vec![job.dedup.clone()];
        loop {
            let mut answers = HashMap::new();
            for dedup in open {
                match self.archive.find(id, dedup.as_ref()) {
                    Ok(Some(settled)) => answers.insert(dedup, Ok(settled)),
                    Ok(None) => continue,
                    Err(error) => answers.insert(dedup, Err((&error).into())),
                };
            }
            if answers.is_empty() {
                return false;
            }
            open = self.board.deliver(id, &answers, None);
            if open.is_empty() {
                return true;
            }
        }
    }

    /// A class that failed its self-test is named so in every reply and with every master.
    pub(super) fn judged(&self, determinism: Determinism, checkpoint: Digest) -> Determinism {
        let status = self.health.status();
        let Some(device) = status.devices.get(self.device) else { return determinism };
        let mut known = device.checkpoints.iter();
        let current = known.find(|known| known.answers_to(checkpoint)).map_or(checkpoint, |known| known.digest);
        match device.self_tests.iter().find(|test| test.digest == current) {
            Some(test) if !test.is_equal => {
                Determinism { class: format!("{}/unequal", determinism.class), ..determinism }
            }
            _ => determinism,
        }
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
