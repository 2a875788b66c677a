//! The places renditions are kept, nearest first, behind one trait: memory, disk, object store.
//!
//! A look-up walks them in order and moves what it finds to those before; a write goes into memory at once and to
//! the others behind. A tier that fails is a miss, counted by the tier, never an error.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use super::disk::{DiskTier, PutOutcome};
use super::key::RenditionKey;
use super::memory::{Insertion, MemoryTier};
use super::metrics::LookupOutcome;
use super::object::ObjectTier;
use super::rendition::Rendition;
use super::store::Lookup;

/// Where a rendition was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    Memory,
    Disk,
    Object,
}

impl Tier {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Object => "object",
        }
    }
}

/// What a tier answers with, boxed so that tiers can stand in one list.
pub(super) type TierFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One place renditions are kept.
pub trait RenditionTier: Debug + Send + Sync {
    fn tier(&self) -> Tier;

    /// What is there under `key`, verified; anything wrong with it or with the device is a miss.
    fn get(&self, key: RenditionKey) -> TierFuture<'_, Lookup<Arc<Rendition>>>;

    /// Keeps `rendition` unless a better one is there; returns when that is decided.
    fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> TierFuture<'_, PutOutcome>;
}

impl RenditionTier for MemoryTier {
    fn tier(&self) -> Tier {
        Tier::Memory
    }

    fn get(&self, key: RenditionKey) -> TierFuture<'_, Lookup<Arc<Rendition>>> {
        let found = Self::get(self, key).map_or(Lookup::Miss(LookupOutcome::Absent), Lookup::Hit);
        Box::pin(std::future::ready(found))
    }

    fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> TierFuture<'_, PutOutcome> {
        let outcome = match self.insert(key, rendition) {
            Insertion::Stored => PutOutcome::Stored,
            Insertion::KeptBetter => PutOutcome::KeptBetter,
            Insertion::Overtaken => PutOutcome::Dropped,
        };
        Box::pin(std::future::ready(outcome))
    }
}

impl RenditionTier for DiskTier {
    fn tier(&self) -> Tier {
        Tier::Disk
    }

    fn get(&self, key: RenditionKey) -> TierFuture<'_, Lookup<Arc<Rendition>>> {
        Box::pin(async move { Self::get(self, key).await.map(Arc::new) })
    }

    fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> TierFuture<'_, PutOutcome> {
        Box::pin(Self::put(self, key, rendition))
    }
}

impl RenditionTier for ObjectTier {
    fn tier(&self) -> Tier {
        Tier::Object
    }

    fn get(&self, key: RenditionKey) -> TierFuture<'_, Lookup<Arc<Rendition>>> {
        Box::pin(async move { Self::get(self, key).await.map(Arc::new) })
    }

    fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> TierFuture<'_, PutOutcome> {
        Box::pin(Self::put(self, key, rendition))
    }
}
