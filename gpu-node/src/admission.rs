//! Which generations are taken: known in the store already, on its way already (join), or new and drawable here.
//!
//! The order is fixed: what the store has is answered in any phase of the node; only then is asked whether the node is ready,
//! can store, has all that the recipe names, and whether any device has the memory; the [`Board`] comes last, with its bounds
//! on jobs and callers. A refusal says whose fault it is ([`GenerationError`]). It knows no HTTP.

use std::sync::Arc;

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{GenerationSource, GenerationState, GenerationStatus, Timings};
use tokio::sync::{Semaphore, watch};

use crate::archive::Archive;
use crate::blobs::Blobs;
use crate::board::{Board, Generation, Outcome};
use crate::capacity::TooLarge;
use crate::endings::{ENDINGS_MAX, Endings};
use crate::error::GenerationError;
use crate::health::{Health, Phase};

/// What decides.
#[derive(Debug)]
pub(crate) struct Admission {
    pub board: Arc<Board>,
    pub archive: Arc<Archive>,
    pub endings: Arc<Endings>,
    pub health: Arc<Health>,
    pub blobs: Blobs,
    /// Reads of the store at the same time, those of masters among them.
    pub reads: Arc<Semaphore>,
}

impl Admission {
    /// A recipe's master: from the store when it is there; else from the device, alone or joined.
    ///
    /// # Errors
    /// Why the caller gets none.
    pub(crate) async fn generate(&self, generation: Generation) -> Result<Outcome, GenerationError> {
        if let Some(outcome) = self.stored(&generation).await? {
            return Ok(outcome);
        }
        self.check(&generation.recipe)?;
        self.board.submit(generation)?.outcome().await
    }

    /// Takes a generation whose caller does not wait: it is drawn all the same, until its deadline. How it stands is the
    /// answer.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) async fn accept(&self, generation: Generation) -> Result<Option<GenerationStatus>, GenerationError> {
        let id = generation.recipe.id();
        if self.stored(&generation).await?.is_none() {
            self.check(&generation.recipe)?;
            let ticket = self.board.submit(generation)?;
            // The ticket is the caller's place: kept until the deadline in the caller's stead.
            tokio::spawn(async move {
                let _ = ticket.outcome().await;
            });
        }
        Ok(self.status(id).await)
    }

    /// How a recipe stands: on its way, or done. `None` where no caller has asked for it, it has failed, or the store
    /// cannot be read. Waits for its turn among the reads.
    pub(crate) async fn status(&self, id: RecipeId) -> Option<GenerationStatus> {
        if let Some(status) = self.board.status(id) {
            return Some(status);
        }
        let turn = Arc::clone(&self.reads).acquire_owned().await.ok()?;
        let archive = Arc::clone(&self.archive);
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            archive.find(id, None)
        });
        let found = found.await.map_err(|_| GenerationError::Panicked);
        let found = found.and_then(|found| found.map_err(|error| GenerationError::from(&error)));
        let settled =
            found.inspect_err(|error| log_limited!(warn, recipe = %id, %error, "a status is not known")).ok()??;
        let master = Some(settled.settlement.master);
        Some(GenerationStatus { master, ..GenerationStatus::new(id, GenerationState::Done) })
    }

    /// Changes whenever something has happened that [`Self::status`] may show.
    #[must_use]
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    /// An edge knows that a device ended while it drew this recipe: it is drawn in passes of its own from now on.
    pub(crate) fn suspect(&self, id: RecipeId) {
        self.endings.suspect(id);
    }

    /// From the store. Waits for its turn among the reads, which keeps tokio's blocking pool bounded.
    async fn stored(&self, generation: &Generation) -> Result<Option<Outcome>, GenerationError> {
        let (archive, id) = (Arc::clone(&self.archive), generation.recipe.id());
        let dedup = generation.dedup.clone();
        let turn = tokio::time::timeout_at(generation.deadline.into(), Arc::clone(&self.reads).acquire_owned());
        let turn = turn.await.map_err(|_| GenerationError::DeadlinePassed)?;
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            archive.find(id, dedup.as_ref())
        });
        let found = found.await.map_err(|_| GenerationError::Panicked)?;
        let found = found.map_err(|error| GenerationError::from(&error))?;
        Ok(found.map(|settled| Outcome {
            settlement: settled.settlement,
            source: GenerationSource::Stored,
            timings: Timings { dedup_ms: settled.dedup_ms, ..Timings::default() },
            gpu_ms: 0.0,
        }))
    }

    /// Whether the device could draw the recipe at all.
    fn check(&self, recipe: &ValidRecipe) -> Result<(), GenerationError> {
        let status = self.health.status();
        match &status.phase {
            Phase::Ready => {}
            Phase::Draining => return Err(GenerationError::ShuttingDown),
            phase => return Err(GenerationError::NotReady { reason: phase.reason() }),
        }
        if let Some(reason) = self.archive.store().trouble() {
            return Err(GenerationError::NotStorable { reason });
        }
        let endings = self.endings.count(recipe.id());
        if endings >= ENDINGS_MAX {
            return Err(GenerationError::EndsDevices { endings });
        }
        let is_absent =
            |digest: &Digest| !status.checkpoints.iter().any(|known| known.answers_to(*digest) && known.ready);
        let refiner = recipe.refiner.as_ref().map(|refiner| refiner.checkpoint);
        let checkpoints = std::iter::once(recipe.checkpoint).chain(refiner).filter(is_absent);
        let is_unknown = |digest: &Digest| !status.adapters.iter().any(|known| known.digest == *digest);
        let adapters = recipe.adapters().filter(is_unknown);
        let networks = recipe.networks().filter(is_absent);
        let images = recipe.images().filter(|image| !self.blobs.contains(*image));
        let missing: Vec<Digest> = checkpoints.chain(networks).chain(adapters).chain(images).collect();
        if !missing.is_empty() {
            return Err(GenerationError::Missing { digests: missing });
        }
        // Any device may take it.
        let mut capacities = status.devices.iter().map(|device| &device.capacity);
        let refused = |error: TooLarge| GenerationError::Refused { reason: error.to_string() };
        capacities.try_for_each(|capacity| capacity.check(recipe)).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{DedupConfig, QueueConfig, StoreConfig};
    use crate::metrics::NodeMetrics;
    use crate::store::Store;

    #[tokio::test]
    async fn a_status_waits_for_its_turn_among_the_reads() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(NodeMetrics::new().unwrap());
        let store = Arc::new(Store::open(dir.path(), &StoreConfig::default(), Arc::clone(&metrics)).unwrap());
        let admission = Admission {
            board: Board::new(&QueueConfig::default(), Arc::clone(&metrics)),
            archive: Arc::new(Archive::new(store, DedupConfig::default(), Arc::clone(&metrics))),
            endings: Arc::new(Endings::open(dir.path(), metrics).unwrap()),
            health: Arc::default(),
            blobs: Blobs::of(dir.path(), 0),
            reads: Arc::new(Semaphore::new(1)),
        };
        let read = Arc::clone(&admission.reads).acquire_owned().await.unwrap();
        let mut status = std::pin::pin!(admission.status(RecipeId::from_raw([7; 16])));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut status).await.is_err(), "a read is under way");
        drop(read);
        assert_eq!(status.await, None);
        assert_eq!(admission.reads.available_permits(), 1);
    }
}
