//! Rendition keys, the memory and disk tiers, masters, bindings and single flight.
//!
//! | module | owns |
//! | --- | --- |
//! | `key` | what makes two renditions the same |
//! | `rendition` | encoded bytes and what is said about them |
//! | `memory` | renditions in memory, by bytes |
//! | `disk`, `entry` | renditions on disk, and their form there |
//! | `object` | renditions, masters and bindings that a fleet shares |
//! | `tier` | the trait those three stand behind |
//! | `masters` | lossless masters on disk |
//! | `decoded` | the pixels of those that were decoded of late |
//! | `bindings` | recipe → master, durable |
//! | `manifests` | final rendition → its C2PA manifest, durable |
//! | `previous` | variant → the recipe it was served with last, durable |
//! | `flight` | one fill for many askers |
//! | `store`, `folder`, `gate` | bounded, verified files that never hold up an async worker |
//! | `page_cache` | the same files where reading them takes no device |
//! | `doorkeeper` | which of those reads move into memory |
//!
//! Invariants: everything is bounded in bytes or entries; every byte read from a disk is verified before it is
//! seen; what a device does wrong is a miss, counted, and never an error of a request.

mod bindings;
mod decoded;
mod disk;
mod doorkeeper;
mod entry;
mod flight;
mod folder;
mod gate;
mod key;
mod lqips;
mod manifests;
mod masters;
mod memory;
mod metrics;
mod object;
mod page_cache;
mod previous;
mod rendition;
mod store;
mod tier;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::log_limited;
use serde::Deserialize;

use crate::state::StateError;

use crate::words::Epoch;
pub use bindings::{Binding, Bindings};
pub use decoded::DecodedMasters;
pub use disk::{DiskTier, PutOutcome, RENDITION_FILE_BYTES_MAX};
pub(crate) use entry::reseal as reseal_entry;
pub use entry::{EntryError, decode as decode_entry};
pub use flight::{FlightError, FlightRole, Flights, Ticket};
pub use folder::Used;
pub use gate::GateError;
pub use key::{ContentHasher, ContentHasherBuilder, RenditionKey};
pub use lqips::{LqipKey, Lqips};
pub use manifests::{KeptManifest, MANIFEST_BYTES_MAX, ManifestError, Manifests};
pub use masters::{HeldMaster, MasterError, MasterFile, Masters, VerifiedMaster};
pub use memory::{Insertion, MemoryTier};
pub use metrics::{CacheMetrics, LookupOutcome, StoreMetrics, TierMetrics};
pub use object::{Judge, ObjectConfig, ObjectError, ObjectTier};
pub use previous::{Previous, VariantName};
#[cfg(test)]
pub(crate) use rendition::testing;
pub(crate) use rendition::unix_ms;
pub use rendition::{FileFacts, Lineage, Precedence, Prepared, PreparedFor, Rendition};
pub use store::Lookup;
pub use tier::{RenditionTier, Tier};

/// `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Renditions in memory, overhead included.
    pub memory_bytes_max: u64,
    /// Finished answers by URL as it was sent: heads, not bodies.
    pub front_bytes_max: u64,
    /// The data folder. Holds `renditions/`, `masters/` and the databases `bindings.redb`, `previous.redb`,
    /// `manifests.redb`, `purges.redb` and `jobs.redb`.
    pub disk_dir: PathBuf,
    /// Renditions on disk, in whole 4 KiB blocks.
    pub disk_bytes_max: u64,
    pub disk_files_max: u64,
    /// Masters on disk, in whole 4 KiB blocks.
    pub masters_bytes_max: u64,
    pub masters_files_max: u64,
    /// Pixels and files in memory of masters that were decoded of late; 0 keeps none.
    pub decoded_bytes_max: u64,
    /// Recipes whose masters are known (about 300 bytes each in memory).
    pub bindings_entries_max: usize,
    /// File operations at a time, for each of reading and writing.
    pub disk_io_concurrency: usize,
    /// After this long a file operation counts as failed.
    pub disk_io_timeout_ms: u64,
    /// Failures in a row after which the disk is left alone …
    pub disk_errors_max: u32,
    /// … for this long.
    pub disk_offline_ms: u64,
    /// Fills under way; past them a miss is answered by its fallback.
    pub flights_max: usize,
    /// Longest fill, from miss to rendition.
    pub flight_ms_max: u64,
    /// What a fleet shares; none on a single machine.
    pub object: Option<ObjectConfig>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: 256 << 20,
            front_bytes_max: 64 << 20,
            disk_dir: "data/edge".into(),
            disk_bytes_max: 16 << 30,
            disk_files_max: 1_000_000,
            masters_bytes_max: 4 << 30,
            masters_files_max: 100_000,
            decoded_bytes_max: 32 << 20,
            bindings_entries_max: 250_000,
            disk_io_concurrency: 8,
            disk_io_timeout_ms: 2_000,
            disk_errors_max: 5,
            disk_offline_ms: 30_000,
            flights_max: 1_024,
            flight_ms_max: 600_000,
            object: None,
        }
    }
}

/// Why the caches cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("`cache.{key}` must not be 0")]
    Zero { key: &'static str },
    #[error("cannot use {path}: {source}", path = path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl CacheConfig {
    /// # Errors
    /// Names the key that cannot be right.
    pub fn check(&self) -> Result<(), CacheError> {
        let positive: [(&'static str, u64); 9] = [
            ("disk_bytes_max", self.disk_bytes_max),
            ("disk_files_max", self.disk_files_max),
            ("masters_bytes_max", self.masters_bytes_max),
            ("masters_files_max", self.masters_files_max),
            ("bindings_entries_max", self.bindings_entries_max as u64),
            ("disk_io_concurrency", self.disk_io_concurrency as u64),
            ("disk_io_timeout_ms", self.disk_io_timeout_ms),
            ("flights_max", self.flights_max as u64),
            ("flight_ms_max", self.flight_ms_max),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(CacheError::Zero { key });
        }
        self.object.as_ref().map_or(Ok(()), ObjectConfig::check).map_err(CacheError::Object)
    }

    #[must_use]
    pub fn flight_time_max(&self) -> Duration {
        Duration::from_millis(self.flight_ms_max)
    }

    fn store_limits(&self, folder: folder::FolderLimits) -> store::StoreLimits {
        store::StoreLimits {
            folder,
            io_concurrency: self.disk_io_concurrency,
            io_timeout: Duration::from_millis(self.disk_io_timeout_ms),
            io_errors_max: self.disk_errors_max,
            offline: Duration::from_millis(self.disk_offline_ms),
        }
    }

    fn rendition_limits(&self) -> store::StoreLimits {
        self.store_limits(folder::FolderLimits {
            bytes_max: self.disk_bytes_max,
            files_max: self.disk_files_max,
            file_bytes_max: RENDITION_FILE_BYTES_MAX,
        })
    }

    fn master_limits(&self) -> store::StoreLimits {
        self.store_limits(folder::FolderLimits {
            bytes_max: self.masters_bytes_max,
            files_max: self.masters_files_max,
            file_bytes_max: masters::FILE_BYTES_MAX,
        })
    }
}

/// All caches of one edge. The tiers are public: a caller may skip one or look into it.
#[derive(Debug)]
pub struct Caches {
    pub memory: MemoryTier,
    pub disk: Arc<DiskTier>,
    /// What the fleet shares, where there is a fleet.
    pub object: Option<Arc<ObjectTier>>,
    pub masters: Masters,
    pub decoded: DecodedMasters,
    pub bindings: Bindings,
    pub previous: Previous,
    pub manifests: Manifests,
    pub epoch: Epoch,
    pub metrics: CacheMetrics,
    doorkeeper: doorkeeper::Doorkeeper,
}

impl Caches {
    /// Opens everything. Blocks for milliseconds; bindings and the disk's index are read in the background.
    ///
    /// # Errors
    /// When the configuration cannot be right, a folder cannot be made or the bindings cannot be read.
    pub fn open(config: &CacheConfig, metrics: CacheMetrics) -> Result<Self, CacheError> {
        config.check()?;
        let folder = |name: &str| config.disk_dir.join(name);
        let unusable = |name: &str| {
            let path = folder(name);
            move |source| CacheError::Folder { path, source }
        };
        // First, for its lock: a second edge over the same folder ends here.
        let bindings =
            Bindings::open(&folder("bindings.redb"), config.bindings_entries_max, Arc::clone(&metrics.bindings))?;
        let disk = DiskTier::open(&folder("renditions"), config.rendition_limits(), Arc::clone(&metrics.disk))
            .map_err(unusable("renditions"))?;
        let masters = Masters::open(&folder("masters"), config.master_limits(), Arc::clone(&metrics.masters))
            .map_err(unusable("masters"))?;
        masters.hold_all();
        let decoded = DecodedMasters::new(config.decoded_bytes_max, Arc::clone(&metrics.decoded));
        let memory = MemoryTier::new(config.memory_bytes_max, Arc::clone(&metrics.memory));
        let previous = Previous::open(&folder("previous.redb"), config.bindings_entries_max)?;
        let object = config.object.as_ref().map(|object| ObjectTier::open(object, Arc::clone(&metrics.object)));
        let object = object.transpose()?.map(Arc::new);
        let manifests = Manifests::open(&folder("manifests.redb"), object.clone(), Arc::clone(&metrics.manifests))?;
        Ok(Self {
            manifests,
            memory,
            disk: Arc::new(disk),
            object,
            masters,
            decoded,
            bindings,
            previous,
            epoch: Epoch::default(),
            metrics,
            doorkeeper: doorkeeper::Doorkeeper::new(config.memory_bytes_max),
        })
    }

    /// The tiers behind memory, nearest first.
    fn behind(&self) -> impl Iterator<Item = Arc<dyn RenditionTier>> {
        let object = self.object.clone().map(|object| object as Arc<dyn RenditionTier>);
        std::iter::once(Arc::clone(&self.disk) as Arc<dyn RenditionTier>).chain(object)
    }

    /// What can be had without a wait: from memory, or [`peek`](Self::peek)ed.
    pub fn at_hand(&self, key: RenditionKey, is_wanted: impl Fn(&Rendition) -> bool) -> Option<(Tier, Arc<Rendition>)> {
        if let Some(rendition) = self.memory.get(key) {
            return Some((Tier::Memory, rendition));
        }
        Some((Tier::Disk, self.peek(key, is_wanted)?))
    }

    /// From a file the page cache holds, if it is what is wanted; what is read again soon moves into memory.
    pub fn peek(&self, key: RenditionKey, is_wanted: impl Fn(&Rendition) -> bool) -> Option<Arc<Rendition>> {
        let rendition = Arc::new(self.disk.peek(key).filter(|found| is_wanted(found))?);
        if self.doorkeeper.has_met(key) {
            self.memory.insert_if(key, Arc::clone(&rendition), is_wanted);
        }
        Some(rendition)
    }

    /// What is told of the file that this edge has, without reading it whole: it counts as no look-up, and nothing moves.
    pub async fn facts(&self, key: RenditionKey) -> Option<FileFacts> {
        match self.memory.glance(key) {
            Some(rendition) => Some(rendition.facts()),
            None => self.disk.facts(key).await,
        }
    }

    /// Memory, then disk, then the shared store; what is found moves into those before. The first step alone,
    /// without a wait, is `memory.get`.
    pub async fn find(&self, key: RenditionKey) -> Option<(Tier, Arc<Rendition>)> {
        self.find_if(key, |_| 0, |_| true).await
    }

    /// The same, moving up only what `may_enter`; what is there already stays. `generation_at` says which purge
    /// generation this edge was at when another one made a rendition: each edge counts its own purges.
    pub async fn find_if(
        &self,
        key: RenditionKey,
        generation_at: impl FnOnce(u64) -> u64,
        may_enter: impl FnOnce(&Rendition) -> bool,
    ) -> Option<(Tier, Arc<Rendition>)> {
        if let Some(rendition) = self.memory.get(key) {
            return Some((Tier::Memory, rendition));
        }
        let mut missed: Vec<Arc<dyn RenditionTier>> = Vec::new();
        for tier in self.behind() {
            let Some(rendition) = tier.get(key).await.hit() else {
                missed.push(tier);
                continue;
            };
            let rendition = if tier.tier() == Tier::Object { dated(rendition, generation_at) } else { rendition };
            if self.memory.insert_if(key, Arc::clone(&rendition), may_enter) != Insertion::Overtaken {
                write_behind(missed, key, &rendition);
            }
            return Some((tier.tier(), rendition));
        }
        None
    }

    /// Puts a rendition into memory at once and into every tier behind it before it returns: what the disk said.
    pub async fn insert(&self, key: RenditionKey, rendition: Arc<Rendition>) -> PutOutcome {
        self.memory.insert(key, Arc::clone(&rendition));
        if let Some(object) = &self.object {
            object.put(key, Arc::clone(&rendition)).await;
        }
        self.disk.put(key, rendition).await
    }

    /// Into the tiers behind memory, without a wait; each bounds what it lets wait. Must be called on a runtime.
    pub fn write_behind(&self, key: RenditionKey, rendition: &Arc<Rendition>) {
        write_behind(self.behind(), key, rendition);
    }

    /// The binding the fleet has for `recipe`, remembered here as well.
    pub async fn shared_binding(&self, recipe: RecipeId, judge: Judge<'_>) -> Option<Arc<Binding>> {
        let binding = self.object.as_ref()?.binding(recipe, judge).await.hit()?;
        log_limited!(info, %recipe, master = %binding.master, "bound by another edge");
        Some(self.remember(recipe, binding).await)
    }

    /// Binds `recipe`: where a fleet shares a store, to what its first edge said, else to `ours`. `master` is that of
    /// `ours`: it is put there first, so that no binding leads nowhere.
    pub async fn bind(
        &self,
        recipe: RecipeId,
        ours: Binding,
        master: Option<&VerifiedMaster>,
        judge: Judge<'_>,
    ) -> Arc<Binding> {
        let agreed = match (&self.object, master) {
            (Some(object), Some(master)) => agree(object, recipe, &ours, master, judge).await,
            _ => None,
        };
        self.remember(recipe, agreed.unwrap_or(ours)).await
    }

    /// On the device, or at least until a restart, which asks again.
    async fn remember(&self, recipe: RecipeId, binding: Binding) -> Arc<Binding> {
        self.bindings.put(recipe, binding.clone()).await.unwrap_or_else(|error| {
            log_limited!(error, %recipe, %error, "binding could not be stored");
            Arc::new(binding)
        })
    }

    /// Forgets a binding whose master is lost everywhere.
    ///
    /// # Errors
    /// When the database refuses; it is then forgotten until the next restart.
    pub async fn unbind(&self, recipe: RecipeId, lost: MasterId) -> Result<(), StateError> {
        if let Some(object) = &self.object {
            object.mark_lost(lost);
        }
        let removed = self.bindings.remove(recipe).await;
        // Also where the database refused: it is forgotten in memory, and answers made of it lapse.
        self.epoch.advance();
        removed
    }
}

async fn agree(
    object: &ObjectTier,
    recipe: RecipeId,
    ours: &Binding,
    master: &VerifiedMaster,
    judge: Judge<'_>,
) -> Option<Binding> {
    let put = object.put_master(master).await;
    if !matches!(put, PutOutcome::Stored | PutOutcome::KeptBetter) {
        log_limited!(warn, %recipe, outcome = put.as_str(), "the shared store did not take a master: bound here alone");
        return None;
    }
    let bound = object.bind(recipe, ours, judge).await;
    let bound = bound.inspect_err(|error| log_limited!(warn, %recipe, %error, "not bound in the shared store")).ok()?;
    if bound.master != ours.master {
        log_limited!(info, %recipe, ours = %ours.master, theirs = %bound.master, "another edge bound it first");
    }
    Some(bound)
}

fn write_behind(
    tiers: impl IntoIterator<Item = Arc<dyn RenditionTier>>,
    key: RenditionKey,
    rendition: &Arc<Rendition>,
) {
    for tier in tiers {
        let rendition = Arc::clone(rendition);
        tokio::spawn(async move { tier.put(key, rendition).await });
    }
}

/// Another edge's generation says nothing here; the time at which it was made does.
fn dated(rendition: Arc<Rendition>, generation_at: impl FnOnce(u64) -> u64) -> Arc<Rendition> {
    let generation = generation_at(rendition.created_unix_ms);
    let set = |mut rendition: Rendition| {
        rendition.generation = generation;
        Arc::new(rendition)
    };
    // A tier hands over the only reference.
    Arc::try_unwrap(rendition).map_or_else(|shared| shared, set)
}

#[cfg(test)]
mod tests {
    use super::rendition::testing::rendition;
    use super::*;
    use crate::render::{Making, Rung, Score};

    fn open(config: &CacheConfig) -> Result<Caches, CacheError> {
        Caches::open(config, CacheMetrics::new(&prometheus::Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn a_restart_finds_on_disk_what_was_in_memory_and_moves_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = CacheConfig { disk_dir: dir.path().join("edge"), ..CacheConfig::default() };
        let key = RenditionKey::from_raw([9; 16]);
        let caches = open(&config).unwrap();
        assert!(caches.find(key).await.is_none());
        assert_eq!(caches.insert(key, Arc::new(rendition(b"body", Rung::Final))).await, PutOutcome::Stored);
        assert_eq!(caches.find(key).await.map(|(tier, _)| tier), Some(Tier::Memory));
        drop(caches);
        let caches = open(&config).unwrap();
        let tiers = [caches.find(key).await, caches.find(key).await].map(|found| found.map(|(tier, _)| tier));
        assert_eq!(tiers, [Some(Tier::Disk), Some(Tier::Memory)]);
    }

    #[tokio::test]
    async fn what_is_told_of_a_file_is_known_from_memory_and_from_disk() {
        let dir = tempfile::tempdir().unwrap();
        let config = CacheConfig { disk_dir: dir.path().join("edge"), ..CacheConfig::default() };
        let key = RenditionKey::from_raw([9; 16]);
        let making = Some(Making { encode_ms: 640, score: Some(Score::of(71.3)) });
        let caches = open(&config).unwrap();
        assert_eq!(caches.facts(key).await, None);
        caches.insert(key, Arc::new(rendition(b"body", Rung::Final).with_making(making))).await;
        let facts = Some(FileFacts { rung: Rung::Final, bytes: 4, making, generation: 0 });
        assert_eq!(caches.facts(key).await, facts);
        drop(caches);
        let caches = open(&config).unwrap();
        assert_eq!(caches.facts(key).await, facts);
        assert!(!caches.memory.contains(key), "nothing moves");
    }

    #[tokio::test]
    async fn answers_of_a_binding_lapse_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = CacheConfig { disk_dir: dir.path().join("edge"), ..CacheConfig::default() };
        let caches = open(&config).unwrap();
        let before = caches.epoch.current();
        caches.unbind(RecipeId::of_bytes(b"recipe"), MasterId::of_bytes(b"master")).await.unwrap();
        assert_ne!(caches.epoch.current(), before);
    }

    #[test]
    fn impossible_configurations_name_their_key() {
        let config = CacheConfig { disk_files_max: 0, ..CacheConfig::default() };
        assert_eq!(open(&config).unwrap_err().to_string(), "`cache.disk_files_max` must not be 0");
        let config = CacheConfig { disk_dir: "/proc/nowhere".into(), ..CacheConfig::default() };
        assert!(open(&config).unwrap_err().to_string().contains("/proc/nowhere"));
        assert!(toml::from_str::<CacheConfig>("memory_bytes = 1").is_err(), "unknown keys are refused");
        assert_eq!(toml::from_str::<CacheConfig>("").unwrap(), CacheConfig::default());
    }
}
