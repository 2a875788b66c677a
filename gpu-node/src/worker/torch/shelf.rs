//! The checkpoints, ControlNets, image encoders and adapters of a folder as they are on one device, and what becomes of them when the folder
//! changes.
//!
//! What is gone from the folder is no longer offered to new drawings, and stays until the last drawing that has begun with it
//! is over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bildkante_shared::checkpoint::Digests;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::CheckpointInfo;

use super::library::Found;
use crate::diffusion::family::{Blueprint, Checkpoint, ControlNet, ImageEncoder};
use crate::engine::EngineError;

/// A checkpoint that is offered, with its networks where they are on the device.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) found: Found,
    pub(super) networks: Option<Checkpoint>,
    /// When it was last drawn with, counted in drawings.
    pub(super) used: u64,
}

impl Offer {
    pub(super) const fn new(found: Found, networks: Option<Checkpoint>) -> Self {
        Self { found, networks, used: 0 }
    }

    pub(super) const fn blueprint(&self) -> &Blueprint {
        &self.found.blueprint
    }
}

/// What a folder held.
#[derive(Debug)]
pub(super) enum Item {
    Checkpoint(Box<Offer>),
    ControlNet(ControlNet),
    ImageEncoder(Box<ImageEncoder>),
    /// Nothing usable, and why.
    Rejected(String),
}

impl Item {
    fn digests(&self) -> Option<&Digests> {
        match self {
            Self::Checkpoint(offer) => Some(offer.blueprint().digests()),
            Self::ControlNet(network) => Some(network.digests()),
            Self::ImageEncoder(encoder) => Some(encoder.digests()),
            Self::Rejected(_) => None,
        }
    }

    fn digest(&self) -> Option<Digest> {
        self.digests().map(|digests| digests.current)
    }

    /// Whether a recipe that names this digest means it.
    fn answers_to(&self, digest: Digest) -> bool {
        self.digests().is_some_and(|digests| digests.hold(digest))
    }

    pub(super) fn info(&self) -> Option<CheckpointInfo> {
        let (name, family) = match self {
            Self::Checkpoint(offer) => (offer.blueprint().name(), offer.blueprint().family()),
            Self::ControlNet(network) => (network.name(), network.family()),
            Self::ImageEncoder(encoder) => (encoder.name(), "image-encoder"),
            Self::Rejected(_) => return None,
        };
        let Digests { current, formers } = self.digests()?.clone();
        let (name, family) = (name.to_owned(), family.to_owned());
        Some(CheckpointInfo { name, digest: current, formers, family, ready: true })
    }
}

/// By folder.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    items: BTreeMap<PathBuf, Item>,
    leaving: Vec<Item>,
}

impl Shelf {
    pub(super) fn put(&mut self, folder: PathBuf, item: Item) {
        self.leaving.extend(self.items.insert(folder, item));
    }

    pub(super) fn take_away(&mut self, folder: &Path) {
        self.leaving.extend(self.items.remove(folder));
    }

    /// How many have left and are still drawn with.
    pub(super) fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// Lets go of what has left and is no longer drawn with. Returns the digests that no folder holds any more.
    pub(super) fn sweep<'a>(&mut self, begun: impl Iterator<Item = &'a ValidRecipe>) -> Vec<Digest> {
        if self.leaving.is_empty() {
            return Vec::new();
        }
        let mut used = Vec::new();
        begun.for_each(|recipe| {
            used.push(recipe.checkpoint);
            used.extend(recipe.refiner.as_ref().map(|refiner| refiner.checkpoint));
            used.extend(recipe.networks());
        });
        let is_used = |item: &Item| used.iter().any(|digest| item.answers_to(*digest));
        let (staying, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.leaving).into_iter().partition(is_used);
        self.leaving = staying;
        let gone: Vec<Digest> = gone.iter().filter_map(Item::digest).collect();
        gone.into_iter().filter(|digest| !self.all().any(|item| item.digest() == Some(*digest))).collect()
    }

    /// What is offered.
    pub(super) fn infos(&self) -> Vec<CheckpointInfo> {
        self.items.values().filter_map(Item::info).collect()
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = String> {
        self.items.iter().filter_map(|(folder, item)| match item {
            Item::Rejected(reason) => Some(format!("{}: {reason}", folder.display())),
            _ => None,
        })
    }

    /// Those that are offered, then those that are leaving.
    fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.values().chain(&self.leaving)
    }

    /// Every checkpoint that is known.
    pub(super) fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.all().filter_map(|item| match item {
            Item::Checkpoint(offer) => Some(&**offer),
            _ => None,
        })
    }

    pub(super) fn offers_mut(&mut self) -> impl Iterator<Item = &mut Offer> {
        self.items.values_mut().chain(&mut self.leaving).filter_map(|item| match item {
            Item::Checkpoint(offer) => Some(&mut **offer),
            _ => None,
        })
    }

    pub(super) fn offer(&self, digest: Digest) -> Option<&Offer> {
        self.offers().find(|offer| offer.blueprint().digests().hold(digest))
    }

    pub(super) fn offer_mut(&mut self, digest: Digest) -> Option<&mut Offer> {
        self.offers_mut().find(|offer| offer.blueprint().digests().hold(digest))
    }

    /// Every checkpoint whose networks are on the device.
    pub(super) fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.offers().filter_map(|offer| offer.networks.as_ref())
    }

    pub(super) fn checkpoint(&self, digest: Digest) -> Result<&Checkpoint, EngineError> {
        self.offer(digest).and_then(|offer| offer.networks.as_ref()).ok_or(EngineError::Missing(digest))
    }

    pub(super) fn controlnets(&self) -> impl Iterator<Item = &ControlNet> {
        self.all().filter_map(|item| match item {
            Item::ControlNet(network) => Some(network),
            _ => None,
        })
    }

    pub(super) fn controlnet(&self, digest: Digest) -> Result<&ControlNet, EngineError> {
        self.controlnets().find(|network| network.digests().hold(digest)).ok_or(EngineError::Missing(digest))
    }

    /// What each image encoder takes while it reads a picture, by whatever recipes may call it.
    pub(super) fn encoders_bytes(&self) -> BTreeMap<Digest, u64> {
        let encoders = self.all().filter_map(|item| match item {
            Item::ImageEncoder(encoder) => Some((encoder.digests(), encoder.reading_bytes())),
            _ => None,
        });
        encoders.flat_map(|(digests, bytes)| digests.all().map(move |digest| (digest, bytes))).collect()
    }

    pub(super) fn image_encoder(&self, digest: Digest) -> Result<&ImageEncoder, EngineError> {
        let mut encoders = self.all().filter_map(|item| match item {
            Item::ImageEncoder(encoder) => Some(&**encoder),
            _ => None,
        });
        encoders.find(|encoder| encoder.digests().hold(digest)).ok_or(EngineError::Missing(digest))
    }
}
