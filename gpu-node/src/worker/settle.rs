//! The settling threads: fingerprint, duplicate search, PNG, store, answers.
//!
//! ```text
//! device threads ── Drawn ──▶ channel ──▶ any settling thread: arrival ─▶ fingerprint ─▶ waits for what it depends on ─▶ answers
//! ```
//!
//! There are a few threads for each device, and a drawing that finds none free waits for one in the channel. On a thread it waits
//! for those alone that its decision depends on, and a picture without a candidate for none.
//!
//! Invariants: pictures get their place in the order in which they came out of the channel; each scope that a caller asked for
//! is settled before its callers are answered, also those that join meanwhile.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;

use bildkante_shared::log_limited;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::Determinism;
use parking_lot::Mutex;

use super::bench::Bench;
use crate::arrivals::Arrival;
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
    /// A settling thread.
    pub(super) fn settle_all(&self, receiver: &Mutex<Receiver<Drawn>>) {
        while let Some((drawn, arrival)) = self.next_drawn(receiver) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.settle(&drawn, arrival))) {
                self.panicked(&drawn.job, panic.as_ref());
            }
        }
    }

    /// The next drawing with its place in the order; `None` once no device draws any more.
    fn next_drawn(&self, receiver: &Mutex<Receiver<Drawn>>) -> Option<(Drawn, Arrival)> {
        let receiver = receiver.lock();
        let drawn = receiver.recv().ok()?;
        let arrival = self.archive.arrive(drawn.job.recipe.id(), drawn.job.dedup.as_ref());
        Some((drawn, arrival))
    }

    fn settle(&self, drawn: &Drawn, arrival: Arrival) {
        let Drawn { job, pixels, determinism, cost } = drawn;
        let _of = job.span.enter();
        let id = job.recipe.id();
        let mut arrival = Some(arrival);
        let mut open = vec![job.dedup.clone()];
        while !open.is_empty() {
            let mut answers = HashMap::new();
            for dedup in open {
                // Scopes that joined meanwhile arrive now.
                let arrival = arrival.take().unwrap_or_else(|| self.archive.arrive(id, dedup.as_ref()));
                let settled = self.archive.settle(&arrival, pixels, determinism);
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
