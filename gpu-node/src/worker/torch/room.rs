//! The memory of an engine's device: measured, and given back.

use std::sync::Arc;

use super::TorchEngine;
use crate::capacity::Readers;
use crate::diffusion::device;

/// Of the memory that is free when the checkpoints are loaded, the part that drawings may take, in tenths: the rest is for
/// adapters, kept texts and what an estimate misses.
const MEMORY_TENTHS: u64 = 9;

impl TorchEngine {
    /// Finds out how much memory there is for drawings. What drawings hold at the moment counts as free; IP-Adapters come to the
    /// device when they are first asked for, and their place is kept.
    pub(super) fn measure(&mut self) {
        let held_bytes: u64 = self.drawings.values().map(|drawing| drawing.need.held_bytes).sum();
        let free_bytes = || device::memory(self.options.placement.device).map(|memory| memory.free_bytes);
        let to_come = self.adapters.bytes_to_come();
        self.capacity.budget_bytes = match self.options.memory_bytes_max {
            0 => free_bytes().map(|free| (free + held_bytes).saturating_sub(to_come) / 10 * MEMORY_TENTHS),
            bytes => Some(bytes),
        };
        let (placement, tiles_px) = (self.options.placement, self.options.vae_tiles_px());
        let footprints = self.shelf.offers().flat_map(|offer| {
            let footprint = offer.blueprint().footprint(placement, tiles_px);
            offer.blueprint().digests().all().map(move |digest| (digest, Arc::clone(&footprint)))
        });
        self.capacity.footprints = footprints.collect();
        let (adapters, encoders) = (self.adapters.seen(), self.shelf.encoders_bytes());
        self.capacity.readers = Arc::new(Readers { adapters, encoders });
    }

    /// Lets go of checkpoints that are gone and no longer drawn with. The memory for drawings is measured again after the last
    /// of them: a replaced checkpoint took its part as long as it was there.
    pub(super) fn sweep(&mut self) {
        let leaving = self.shelf.leaving();
        self.unload();
        let has_placed = self.place_fetched();
        if has_placed || self.shelf.leaving() < leaving {
            self.measure();
            self.has_measured = true;
        }
        if has_placed {
            self.foresee();
        }
    }

    pub(super) fn unload(&mut self) {
        for digest in self.shelf.sweep(self.drawings.values().map(|drawing| &*drawing.recipe)) {
            tracing::info!(%digest, "unloaded");
            self.adapters.forget(digest);
            self.options.library.forget(digest);
            self.residency.forget(digest);
            device::give_back_memory(self.options.placement.device);
        }
    }
}
