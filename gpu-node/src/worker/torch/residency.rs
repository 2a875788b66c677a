//! Which checkpoints' networks are on an engine's device. Those that are asked for come, and those that were drawn with longest
//! ago make room.
//!
//! Files are read by the loader's thread. On the device's thread networks are moved between two turns, as soon as drawings under
//! way leave enough room. Invariants: the networks of a drawing under way stay, and so do those of pinned checkpoints; the bound
//! is exceeded only where these, or the networks of a single recipe, are larger than it.

use std::time::Instant;

use bildkante_shared::ids::Digest;
use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;

use super::TorchEngine;
use super::library::{Found, SharedImage};
use super::loader;
use super::shelf::{Item, Shelf};
use crate::diffusion::device;
use crate::diffusion::family::Checkpoint;
use crate::engine::{Move, MoveKind, Presence};

/// What is on its way to the device.
#[derive(Debug, Default)]
pub(super) struct Residency {
    /// Asked of the loader, and what for.
    fetching: Option<Fetching>,
    /// In the host's memory, until there is room on the device.
    fetched: Option<(Found, SharedImage, MoveKind)>,
    moves: Vec<Move>,
    drawings: u64,
}

#[derive(Debug)]
struct Fetching {
    digest: Digest,
    /// What the recipe it is fetched for names: none of them makes room for another.
    together: Vec<Digest>,
}

/// The checkpoints that a recipe is drawn with.
fn checkpoints(recipe: &ValidRecipe) -> impl Iterator<Item = Digest> {
    std::iter::once(recipe.checkpoint).chain(recipe.refiner.as_ref().map(|refiner| refiner.checkpoint))
}

/// The first of a recipe's checkpoints that is known and not on the device.
fn away(shelf: &Shelf, recipe: &ValidRecipe) -> Option<Digest> {
    let mut offers = checkpoints(recipe).filter_map(|digest| shelf.offer(digest));
    offers.find(|offer| offer.networks.is_none()).map(|offer| offer.blueprint().digest())
}

impl TorchEngine {
    /// At the start: puts networks onto the device, pinned ones first, as many as the bound lets.
    pub(super) fn fill(&mut self) {
        let mut found: Vec<Found> = self.shelf.offers().map(|offer| offer.found.clone()).collect();
        found.sort_by_key(|found| !self.is_pinned(found));
        for name in self.options.pinned.iter().filter(|name| found.iter().all(|found| found.blueprint.name() != *name))
        {
            tracing::warn!(%name, "no checkpoint has the name of a pinned one");
        }
        for found in found {
            let bytes = found.blueprint.bytes(self.options.placement);
            let fits = self.options.networks_bytes_max.is_none_or(|most| self.networks_bytes_held() + bytes <= most);
            if !fits && !self.is_pinned(&found) {
                tracing::info!(checkpoint = found.blueprint.name(), bytes, "to be loaded when it is asked for");
                continue;
            }
            let began = Instant::now();
            match loader::place(&found, &self.options) {
                Ok((checkpoint, from)) => self.put_on_device(&found, checkpoint, (from, began)),
                Err(error) => self.shelf.put(found.folder, Item::Rejected(error.to_string())),
            }
        }
    }

    pub(super) fn networks_bytes_held(&self) -> u64 {
        let held = self.shelf.offers().filter(|offer| offer.networks.is_some());
        held.map(|offer| offer.blueprint().bytes(self.options.placement)).sum()
    }

    pub(super) fn presence_of(&self, recipe: &ValidRecipe) -> Presence {
        let Some(digest) = away(&self.shelf, recipe) else { return Presence::Here };
        match &self.residency.fetched {
            Some((found, ..)) if found.blueprint.digest() == digest => Presence::Coming,
            _ => Presence::Away,
        }
    }

    /// Has the loader read what a recipe lacks, unless it is busy with something.
    pub(super) fn fetch_for(&mut self, recipe: &ValidRecipe) {
        let (None, None) = (&self.residency.fetching, &self.residency.fetched) else { return };
        let Some(found) = away(&self.shelf, recipe).and_then(|digest| self.shelf.offer(digest)) else { return };
        let (digest, found) = (found.blueprint().digest(), found.found.clone());
        let Some(loader) = &self.loader else { return };
        self.residency.fetching = Some(Fetching { digest, together: checkpoints(recipe).collect() });
        loader.fetch(found);
    }

    /// The loader has read networks.
    pub(super) fn take_fetched(&mut self, found: Found, image: Result<(SharedImage, MoveKind), String>) {
        if self.shelf.offer(found.blueprint.digest()).is_none() {
            // Gone from the folder meanwhile.
            self.residency.fetching = None;
            return;
        }
        match image {
            Ok((image, from)) => self.residency.fetched = Some((found, image, from)),
            Err(reason) => {
                log_limited!(error, folder = %found.folder.display(), %reason, "networks cannot be read");
                self.residency.fetching = None;
                self.shelf.put(found.folder, Item::Rejected(reason));
            }
        }
    }

    /// Moves what was read onto the device, once there is room. Returns whether anything has changed.
    pub(super) fn place_fetched(&mut self) -> bool {
        let Some((found, ..)) = &self.residency.fetched else { return false };
        let bytes = found.blueprint.bytes(self.options.placement);
        if !self.make_room(bytes) {
            return false;
        }
        let Some((found, image, from)) = self.residency.fetched.take() else { return false };
        self.residency.fetching = None;
        let began = Instant::now();
        let (placement, tiles_px) = (self.options.placement, self.options.vae_tiles_px());
        let placed = Checkpoint::of(&found.blueprint, &image.lock(), placement, tiles_px);
        match placed {
            Ok(checkpoint) => self.put_on_device(&found, checkpoint, (from, began)),
            Err(error) => {
                log_limited!(error, checkpoint = found.blueprint.name(), %error, "networks cannot be put onto the device");
                self.shelf.put(found.folder, Item::Rejected(error.to_string()));
            }
        }
        true
    }

    fn put_on_device(&mut self, found: &Found, checkpoint: Checkpoint, (kind, began): (MoveKind, Instant)) {
        let used = self.residency.next_use();
        // Gone from the folder meanwhile: it is let go of again.
        let Some(offer) = self.shelf.offer_mut(found.blueprint.digest()) else { return };
        (offer.networks, offer.used) = (Some(checkpoint), used);
        self.residency.note(found, kind, began);
    }

    /// A drawing begins with a recipe's checkpoints.
    pub(super) fn note_use(&mut self, recipe: &ValidRecipe) {
        let used = self.residency.next_use();
        for digest in checkpoints(recipe) {
            if let Some(offer) = self.shelf.offer_mut(digest) {
                offer.used = used;
            }
        }
    }

    /// Lets the longest unused networks go until there is room for more; `false` where drawings have to end first.
    fn make_room(&mut self, bytes: u64) -> bool {
        let Some(most) = self.options.networks_bytes_max else { return true };
        while self.networks_bytes_held() + bytes > most {
            let Some(digest) = self.longest_unused() else { break };
            self.let_go(digest);
        }
        self.networks_bytes_held() + bytes <= most || self.drawings.is_empty()
    }

    /// Which networks go first: neither pinned nor drawn with, nor needed beside those that come.
    fn longest_unused(&self) -> Option<Digest> {
        let recipes = self.drawings.values().flat_map(|drawing| checkpoints(&drawing.recipe));
        let together = self.residency.fetching.iter().flat_map(|fetching| fetching.together.iter().copied());
        let needed: Vec<Digest> = recipes.chain(together).collect();
        let may_go = self.shelf.offers().filter(|offer| {
            let digests = offer.blueprint().digests();
            let is_needed = needed.iter().any(|digest| digests.hold(*digest));
            offer.networks.is_some() && !is_needed && !self.is_pinned(&offer.found)
        });
        may_go.min_by_key(|offer| offer.used).map(|offer| offer.blueprint().digest())
    }

    fn let_go(&mut self, digest: Digest) {
        let began = Instant::now();
        self.adapters.forget(digest);
        let Some(offer) = self.shelf.offer_mut(digest) else { return };
        offer.networks = None;
        let found = offer.found.clone();
        let digests = found.blueprint.digests();
        self.probing.forget(|recipe| checkpoints(recipe).any(|named| digests.hold(named)));
        device::give_back_memory(self.options.placement.device);
        self.residency.note(&found, MoveKind::Out, began);
    }

    fn is_pinned(&self, found: &Found) -> bool {
        self.options.pinned.iter().any(|name| name == found.blueprint.name())
    }
}

impl Residency {
    /// The checkpoint that the loader reads or that waits for room is gone from its folder.
    pub(super) fn forget(&mut self, digest: Digest) {
        self.fetched.take_if(|(found, ..)| found.blueprint.digest() == digest);
        if self.fetched.is_none() {
            self.fetching.take_if(|fetching| fetching.digest == digest);
        }
    }

    pub(super) fn take_moves(&mut self) -> Vec<Move> {
        std::mem::take(&mut self.moves)
    }

    const fn next_use(&mut self) -> u64 {
        self.drawings += 1;
        self.drawings
    }

    fn note(&mut self, found: &Found, kind: MoveKind, began: Instant) {
        let (checkpoint, seconds) = (found.blueprint.name().to_owned(), began.elapsed().as_secs_f64());
        tracing::info!(%checkpoint, kind = kind.as_str(), seconds, "networks moved");
        self.moves.push(Move { checkpoint, kind, seconds });
    }
}
