//! The settling thread: fingerprint, duplicate search, PNG, store, answers.
//!
//! Invariant: each scope that a caller asked for is settled before its callers are answered, also those that join meanwhile.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;

use bildkante_shared::log_limited;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::Determinism;

use super::bench::Bench;
use crate::board::{Cost, StartedJob};
use crate::error::GenerationError;

/// A drawing on its way to the store.
pub(super) struct Drawn {
    pub(super) job: StartedJob,
    pub(super) pixels: Pixels,
    pub(super) determinism: Determinism,
    pub(super) cost: Cost,
}

impl Bench {
    /// The settling thread.
    pub(super) fn settle_all(&self, receiver: &Receiver<Drawn>) {
        while let Ok(drawn) = receiver.recv() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.settle(&drawn))) {
                self.panicked(&drawn.job, panic.as_ref());
            }
        }
    }

    fn settle(&self, drawn: &Drawn) {
        let Drawn { job, pixels, determinism, cost } = drawn;
        let _of = job.span.enter();
        let id = job.recipe.id();
        let mut open = vec![job.dedup.clone()];
        while !open.is_empty() {
            let mut answers = HashMap::new();
            for dedup in open {
                let settled = self.archive.settle(id, dedup.as_ref(), pixels, determinism);
                let settled = settled.map_err(|error| {
                    log_limited!(error, recipe = %id, %error, "master not stored");
                    GenerationError::from(&error)
                });
                answers.insert(dedup, settled);
            }
            open = self.board.deliver(id, &answers, Some(cost));
        }
    }
}
