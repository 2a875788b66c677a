//! What a fleet shares: final renditions, their manifests, masters and bindings in one object store (a folder, or S3).
//!
//! ```text
//! {prefix}/renditions/3/{ab}/{key}        entry.rs; only final rungs: a quick one's successor is seconds away
//! {prefix}/masters/1/{ab}/{id}            masters.rs; content-addressed
//! {prefix}/bindings/1/{ab}/{recipe}-{n}   below; never changed, n counts up where a master was lost or purged
//! {prefix}/manifests/1/{ab}/{key}         below; changed only where the rendition's bytes are others
//! ```
//!
//! Everything is written with put-if-absent, so that **the first writer wins**: an edge whose binding comes second
//! takes the first one's, and two edges that asked two nodes agree on one master. The master is there before its
//! binding is. What comes back is verified by its digest; an object that fails is reported, not asked for again for
//! a while, and overwritten by the next who has it sound. The number in a path is the version of the form, so
//! builds of different versions never meet.
//!
//! Invariants: no caller waits longer than a timeout; after repeated errors no caller waits at all for a while; requests
//! at a time, bytes waiting and bytes read have bounds; a failure is a miss or a write given up, counted, and never
//! an error of a request.
//!
//! Sources: `PutMode::Create` of the `object_store` crate (`If-None-Match: *` on S3, a hard link in a folder).

mod config;
mod http;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::{MasterId, RecipeId, encode_128};
use bildkante_shared::log_limited;
use bytes::Bytes;
use moka::sync::Cache;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, PutMode, PutOptions, PutPayload};
use tokio::sync::Semaphore;

pub use config::{ObjectConfig, ObjectError};

use super::bindings::Binding;
use super::disk::{PutOutcome, RENDITION_FILE_BYTES_MAX};
use super::entry::{self, Form};
use super::gate::{Gate, GateError, GateLimits, OnTimeout};
use super::key::RenditionKey;
use super::manifests::{KeptManifest, MANIFEST_BYTES_MAX};
use super::masters::{self, MasterFile, VerifiedMaster};
use super::metrics::{LookupOutcome, StoreMetrics};
use super::rendition::Rendition;
use super::store::{Lookup, Unusable};
use crate::render::Rung;

const BINDING_MAGIC: &[u8; 8] = b"BKBINDNG";
const MANIFEST_MAGIC: &[u8; 8] = b"BKMANIFS";
/// Magic, key, digest and seal around the largest manifest.
const MANIFEST_FILE_BYTES_MAX: u64 = (MANIFEST_BYTES_MAX + 8 + 16 + 32 + SEAL_BYTES) as u64;
const SEAL_BYTES: usize = 32;
const BINDING_BYTES_MAX: u64 = 64 << 10;
/// Times a recipe can be bound anew before its edges go on alone.
const BINDINGS_A_RECIPE_MAX: u32 = 16;
/// How long a corrupt object, or a master that is lost, is not asked for again.
const FORGIVE_AFTER: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: u64 = 10_000;
/// Larger objects are hashed off the async workers.
const INLINE_BYTES_MAX: usize = 128 << 10;
/// The unit of `pending_bytes_max`.
const PENDING_UNIT_BYTES: u64 = 1024;
/// How far the clocks of two edges may be apart.
const CLOCK_SKEW_MAX_MS: u64 = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct ObjectTier {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    reads: Gate,
    writes: Gate,
    on_timeout: OnTimeout,
    /// Room for what waits to be written, in [`PENDING_UNIT_BYTES`].
    pending: Arc<Semaphore>,
    pending_units: u64,
    condemned: Cache<Path, ()>,
    lost: Cache<MasterId, ()>,
    metrics: Arc<StoreMetrics>,
}

/// Whether a binding found there may be taken; it may be dated by the reader's own purges first.
pub type Judge<'a> = &'a (dyn Fn(&mut Binding) -> bool + Send + Sync);

/// What put-if-absent found.
enum Created {
    New,
    Present,
}

impl ObjectTier {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the configuration cannot be right or a folder cannot be made.
    pub fn open(config: &ObjectConfig, metrics: Arc<StoreMetrics>) -> Result<Self, ObjectError> {
        Self::open_as(config, AmazonS3Builder::from_env(), metrics)
    }

    fn open_as(
        config: &ObjectConfig,
        environment: AmazonS3Builder,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self, ObjectError> {
        config.check()?;
        let body_bytes_max =
            usize::try_from(masters::FILE_BYTES_MAX.max(RENDITION_FILE_BYTES_MAX)).unwrap_or(usize::MAX);
        let (store, prefix) = config.open(environment, body_bytes_max)?;
        // A request is dropped; a thread that hangs in the kernel keeps its place.
        let on_timeout = match config.place()? {
            config::StoreAddress::Folder(_) => OnTimeout::LetRun,
            config::StoreAddress::Bucket { .. } => OnTimeout::Stop,
        };
        Ok(Self::over(store, prefix, on_timeout, config, metrics))
    }

    fn over(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        on_timeout: OnTimeout,
        config: &ObjectConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Self {
        let limits = |timeout_ms| GateLimits {
            concurrency: config.concurrency,
            timeout: Duration::from_millis(timeout_ms),
            errors_max: config.errors_max,
            offline: Duration::from_millis(config.offline_ms),
        };
        let gate = |timeout_ms, errors: &prometheus::IntCounter, online: &prometheus::IntGauge| {
            Gate::new("object", limits(timeout_ms), errors.clone(), online.clone())
        };
        let pending_units = config.pending_bytes_max.div_ceil(PENDING_UNIT_BYTES).min(Semaphore::MAX_PERMITS as u64);
        Self {
            store,
            prefix,
            reads: gate(config.read_timeout_ms, &metrics.read_errors, &metrics.read_online),
            writes: gate(config.write_timeout_ms, &metrics.write_errors, &metrics.write_online),
            on_timeout,
            pending: Arc::new(Semaphore::new(usize::try_from(pending_units).unwrap_or(Semaphore::MAX_PERMITS))),
            pending_units,
            condemned: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(FORGIVE_AFTER).build(),
            lost: Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(FORGIVE_AFTER).build(),
            metrics,
        }
    }

    // ---- renditions ----

    /// Reads and verifies; a fault of the object or the store is a miss.
    pub async fn get(&self, key: RenditionKey) -> Lookup<Rendition> {
        let check = move |file: Bytes| entry::decode_shared(&file, key).map_err(Unusable::from);
        self.read(self.rendition_path(key), RENDITION_FILE_BYTES_MAX, check).await
    }

    /// Writes a final rung; returns when that is done, so callers that need not wait spawn it.
    pub async fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> PutOutcome {
        if rendition.rung != Rung::Final {
            return PutOutcome::NotKept;
        }
        let path = self.rendition_path(key);
        let header = Bytes::copy_from_slice(&entry::encode_header(key, &rendition, Form::Digest));
        let parts = [header, rendition.body.clone()];
        let was_purged_since = rendition.generation > 0;
        let (store, created) = (Arc::clone(&self.store), rendition.created_unix_ms);
        let condemned = self.condemned.contains_key(&path);
        let job = {
            let (path, parts) = (path.clone(), parts.clone());
            async move {
                if !condemned {
                    match create(&*store, &path, &parts).await? {
                        Created::New => return Ok(PutOutcome::Stored),
                        // Equal keys have equal bytes, but for those a purge found wanting.
                        Created::Present if !was_purged_since => return Ok(PutOutcome::KeptBetter),
                        Created::Present => {}
                    }
                    if !is_outdated(&*store, &path, key, created).await? {
                        return Ok(PutOutcome::KeptBetter);
                    }
                }
                overwrite(&*store, &path, &parts).await?;
                Ok(PutOutcome::Stored)
            }
        };
        let outcome = self.write(&parts, job).await.unwrap_or_else(|error| put_failed(&error));
        if outcome == PutOutcome::Stored {
            self.condemned.invalidate(&path);
        }
        outcome
    }

    // ---- masters ----

    /// The bytes as they were stored, their pixels not yet looked at.
    pub async fn master(&self, id: MasterId) -> Lookup<MasterFile> {
        let check =
            move |file: Bytes| masters::decode(&file, id).map_err(|reason| Unusable::Corrupt(reason.to_owned()));
        self.read(self.master_path(id), masters::FILE_BYTES_MAX, check).await
    }

    /// Returns once the master is there, from this edge or from another.
    pub async fn put_master(&self, master: &VerifiedMaster) -> PutOutcome {
        let path = self.master_path(master.id());
        let header = Bytes::copy_from_slice(&masters::header(master.id(), master.png()));
        let parts = [header, master.png().clone()];
        let (store, condemned) = (Arc::clone(&self.store), self.condemned.contains_key(&path));
        let job = {
            let (path, parts) = (path.clone(), parts.clone());
            async move {
                if condemned {
                    overwrite(&*store, &path, &parts).await?;
                    return Ok(PutOutcome::Stored);
                }
                Ok(match create(&*store, &path, &parts).await? {
                    Created::New => PutOutcome::Stored,
                    Created::Present => PutOutcome::KeptBetter,
                })
            }
        };
        let outcome = self.write(&parts, job).await.unwrap_or_else(|error| put_failed(&error));
        if matches!(outcome, PutOutcome::Stored | PutOutcome::KeptBetter) {
            self.condemned.invalidate(&path);
            self.lost.invalidate(&master.id());
        }
        outcome
    }

    /// Sets aside a master that was stored soundly and yet has other pixels.
    pub fn reject_master(&self, id: MasterId, reason: &str) {
        self.condemn(&self.master_path(id), reason);
    }

    /// No node and no store has it: bindings that name it lead nowhere.
    pub fn mark_lost(&self, id: MasterId) {
        self.lost.insert(id, ());
    }

    // ---- bindings ----

    /// The binding that stands for `recipe`, as far as it is not lost and `judge` takes it.
    pub async fn binding(&self, recipe: RecipeId, judge: Judge<'_>) -> Lookup<Binding> {
        for n in 0..BINDINGS_A_RECIPE_MAX {
            match self.nth_binding(recipe, n).await {
                Lookup::Hit(mut binding) => {
                    if self.is_taken(&mut binding, judge) {
                        return Lookup::Hit(binding);
                    }
                }
                Lookup::Miss(LookupOutcome::Corrupt) => {}
                miss => return miss,
            }
        }
        Lookup::Miss(LookupOutcome::Absent)
    }

    /// Puts `ours` forward for `recipe`; the binding that stands afterwards, ours or that of the edge that was first.
    ///
    /// # Errors
    /// When the store does not answer: then nothing is agreed upon.
    pub async fn bind(&self, recipe: RecipeId, ours: &Binding, judge: Judge<'_>) -> Result<Binding, GateError> {
        let file = Bytes::from(encode_binding(recipe, ours)?);
        for n in 0..BINDINGS_A_RECIPE_MAX {
            let (store, path, parts) = (Arc::clone(&self.store), self.binding_path(recipe, n), [file.clone()]);
            let job = {
                let parts = parts.clone();
                async move { create(&*store, &path, &parts).await }
            };
            if matches!(self.write(&parts, job).await?, Created::New) {
                return Ok(ours.clone());
            }
            match self.nth_binding(recipe, n).await {
                Lookup::Hit(mut theirs) => {
                    if theirs.master == ours.master || self.is_taken(&mut theirs, judge) {
                        theirs.generation = ours.generation;
                        return Ok(theirs);
                    }
                }
                Lookup::Miss(LookupOutcome::Corrupt) => {}
                Lookup::Miss(outcome) => {
                    return Err(io::Error::other(format!("the binding that was first is {}", outcome.as_str())).into());
                }
            }
        }
        Err(io::Error::other(format!("it was bound {BINDINGS_A_RECIPE_MAX} times already")).into())
    }

    fn is_taken(&self, binding: &mut Binding, judge: Judge<'_>) -> bool {
        !self.lost.contains_key(&binding.master) && judge(binding)
    }

    async fn nth_binding(&self, recipe: RecipeId, n: u32) -> Lookup<Binding> {
        let check = move |file: Bytes| decode_binding(&file, recipe).map_err(Unusable::Corrupt);
        self.read(self.binding_path(recipe, n), BINDING_BYTES_MAX, check).await
    }

    // ---- manifests ----

    /// The manifest of a rendition that an edge of the fleet made first.
    pub async fn manifest(&self, key: RenditionKey) -> Lookup<KeptManifest> {
        let check = move |file: Bytes| decode_manifest(&file, key).map_err(Unusable::Corrupt);
        self.read(self.manifest_path(key), MANIFEST_FILE_BYTES_MAX, check).await
    }

    /// Puts `ours` forward for `key`; the manifest that stands afterwards, ours or that of the edge that was first for the
    /// same bytes.
    ///
    /// # Errors
    /// When the store does not answer: then nothing is agreed upon.
    pub async fn agree_on_manifest(&self, key: RenditionKey, ours: &KeptManifest) -> Result<KeptManifest, GateError> {
        let (path, parts) = (self.manifest_path(key), [Bytes::from(encode_manifest(key, ours))]);
        let job = {
            let (store, path, parts) = (Arc::clone(&self.store), path.clone(), parts.clone());
            async move { create(&*store, &path, &parts).await }
        };
        if matches!(self.write(&parts, job).await?, Created::New) {
            return Ok(ours.clone());
        }
        match self.manifest(key).await {
            Lookup::Hit(theirs) if theirs.signed == ours.signed => return Ok(theirs),
            // Of other bytes, or damaged.
            Lookup::Hit(_) | Lookup::Miss(LookupOutcome::Corrupt) => {}
            Lookup::Miss(outcome) => {
                return Err(io::Error::other(format!("the manifest that was first is {}", outcome.as_str())).into());
            }
        }
        let job = {
            let (store, path, parts) = (Arc::clone(&self.store), path.clone(), parts.clone());
            async move { overwrite(&*store, &path, &parts).await }
        };
        self.write(&parts, job).await?;
        self.condemned.invalidate(&path);
        Ok(ours.clone())
    }

    // ---- paths ----

    fn path(&self, kind: &str, version: u32, raw: &[u8; 16], suffix: &str) -> Path {
        let (shard, name) = (format!("{:02x}", raw[0]), encode_128(raw) + suffix);
        self.prefix.clone().join(kind).join(version.to_string()).join(shard).join(name)
    }

    fn rendition_path(&self, key: RenditionKey) -> Path {
        self.path("renditions", entry::SHARED_VERSION, key.as_bytes(), "")
    }

    fn master_path(&self, id: MasterId) -> Path {
        self.path("masters", 1, id.as_bytes(), "")
    }

    fn manifest_path(&self, key: RenditionKey) -> Path {
        self.path("manifests", 1, key.as_bytes(), "")
    }

    fn binding_path(&self, recipe: RecipeId, n: u32) -> Path {
        self.path("bindings", 1, recipe.as_bytes(), &format!("-{n}"))
    }

    // ---- the way to the store ----

    async fn read<T, F>(&self, path: Path, bytes_max: u64, check: F) -> Lookup<T>
    where
        T: Send + 'static,
        F: FnOnce(Bytes) -> Result<T, Unusable> + Send + 'static,
    {
        let lookup = self.read_uncounted(path, bytes_max, check).await;
        self.metrics.tier.looked_up(match &lookup {
            Lookup::Hit(_) => LookupOutcome::Hit,
            Lookup::Miss(outcome) => *outcome,
        });
        lookup
    }

    async fn read_uncounted<T, F>(&self, path: Path, bytes_max: u64, check: F) -> Lookup<T>
    where
        T: Send + 'static,
        F: FnOnce(Bytes) -> Result<T, Unusable> + Send + 'static,
    {
        if self.condemned.contains_key(&path) {
            return Lookup::Miss(LookupOutcome::Corrupt);
        }
        let (store, from) = (Arc::clone(&self.store), path.clone());
        let job = async move {
            let Some(bytes) = fetch(&*store, &from, bytes_max).await? else { return Ok(None) };
            if bytes.len() <= INLINE_BYTES_MAX {
                return Ok(Some(check(bytes)));
            }
            tokio::task::spawn_blocking(move || Some(check(bytes))).await.map_err(io::Error::other)
        };
        match self.reads.drive(job, self.on_timeout).await {
            Ok(Some(Ok(value))) => Lookup::Hit(value),
            Ok(Some(Err(Unusable::Corrupt(reason)))) => {
                self.condemn(&path, &reason);
                Lookup::Miss(LookupOutcome::Corrupt)
            }
            Ok(None | Some(Err(Unusable::Foreign))) => Lookup::Miss(LookupOutcome::Absent),
            Err(error) => Lookup::Miss(error.into()),
        }
    }

    fn condemn(&self, path: &Path, reason: &str) {
        self.metrics.quarantined.inc();
        log_limited!(error, object = %path, %reason, "corrupt object ignored; an edge that has it sound overwrites it");
        self.condemned.insert(path.clone(), ());
    }

    async fn write<T, Fut>(&self, parts: &[Bytes], job: Fut) -> Result<T, GateError>
    where
        T: Send + 'static,
        Fut: Future<Output = io::Result<T>> + Send + 'static,
    {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let units = bytes.div_ceil(PENDING_UNIT_BYTES).clamp(1, self.pending_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.pending).try_acquire_many_owned(units) else {
            self.metrics.writes_dropped.inc();
            return Err(GateError::Busy);
        };
        let job = async move {
            let _room = room;
            job.await
        };
        let result = self.writes.drive(job, self.on_timeout).await;
        if matches!(result, Err(GateError::Offline | GateError::Busy)) {
            self.metrics.writes_dropped.inc();
        }
        result
    }
}

/// The whole object; one that is longer than allowed is an empty buffer: no checksum will accept it.
async fn fetch(store: &dyn ObjectStore, path: &Path, bytes_max: u64) -> io::Result<Option<Bytes>> {
    let found = match store.get_opts(path, GetOptions::default()).await {
        Err(Error::NotFound { .. }) => return Ok(None),
        found => found.map_err(io::Error::other)?,
    };
    if found.meta.size > bytes_max {
        return Ok(Some(Bytes::new()));
    }
    found.bytes().await.map(Some).map_err(io::Error::other)
}

async fn create(store: &dyn ObjectStore, path: &Path, parts: &[Bytes]) -> io::Result<Created> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(path, payload(parts), options).await {
        Ok(_) => Ok(Created::New),
        Err(Error::AlreadyExists { .. }) => Ok(Created::Present),
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn overwrite(store: &dyn ObjectStore, path: &Path, parts: &[Bytes]) -> io::Result<()> {
    store.put_opts(path, payload(parts), PutOptions::default()).await.map(drop).map_err(io::Error::other)
}

fn payload(parts: &[Bytes]) -> PutPayload {
    parts.iter().cloned().collect()
}

/// Whether the stored rendition is no rendition of `key`, or older than `created_unix_ms` by more than the clocks
/// of two edges may differ.
async fn is_outdated(
    store: &dyn ObjectStore,
    path: &Path,
    key: RenditionKey,
    created_unix_ms: u64,
) -> io::Result<bool> {
    let range = Some(GetRange::Bounded(0..entry::HEADER_BYTES as u64));
    let found = store.get_opts(path, GetOptions { range, ..GetOptions::default() }).await;
    let header = match found {
        Err(Error::NotFound { .. }) => return Ok(true),
        found => found.map_err(io::Error::other)?.bytes().await.map_err(io::Error::other)?,
    };
    Ok(entry::decode_header(&header, key)
        .map_or(true, |stored| stored.created_unix_ms().saturating_add(CLOCK_SKEW_MAX_MS) < created_unix_ms))
}

fn put_failed(error: &GateError) -> PutOutcome {
    match error {
        GateError::Offline | GateError::Busy => PutOutcome::Dropped,
        _ => PutOutcome::Failed,
    }
}

/// Magic, recipe, JSON, BLAKE3 over all of that.
fn encode_binding(recipe: RecipeId, binding: &Binding) -> io::Result<Vec<u8>> {
    let mut file = [&BINDING_MAGIC[..], recipe.as_bytes()].concat();
    serde_json::to_writer(&mut file, binding).map_err(io::Error::other)?;
    let seal = blake3::hash(&file);
    file.extend_from_slice(seal.as_bytes());
    Ok(file)
}

fn decode_binding(file: &[u8], recipe: RecipeId) -> Result<Binding, String> {
    let (sealed, seal) = file.split_last_chunk::<SEAL_BYTES>().ok_or("it is too short for a binding")?;
    if blake3::hash(sealed) != *seal {
        return Err("its checksum is wrong".to_owned());
    }
    let json = sealed
        .strip_prefix(BINDING_MAGIC)
        .and_then(|rest| rest.strip_prefix(recipe.as_bytes()))
        .ok_or("it is no binding of this recipe")?;
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// Magic, key, record, BLAKE3 over all of that.
fn encode_manifest(key: RenditionKey, manifest: &KeptManifest) -> Vec<u8> {
    let mut file = [&MANIFEST_MAGIC[..], key.as_bytes(), &manifest.to_record()].concat();
    let seal = blake3::hash(&file);
    file.extend_from_slice(seal.as_bytes());
    file
}

fn decode_manifest(file: &[u8], key: RenditionKey) -> Result<KeptManifest, String> {
    let (sealed, seal) = file.split_last_chunk::<SEAL_BYTES>().ok_or("it is too short for a manifest")?;
    if blake3::hash(sealed) != *seal {
        return Err("its checksum is wrong".to_owned());
    }
    let record = sealed.strip_prefix(MANIFEST_MAGIC).and_then(|rest| rest.strip_prefix(key.as_bytes()));
    record.and_then(KeptManifest::from_record).ok_or_else(|| "it is no manifest of this rendition".to_owned())
}

#[cfg(test)]
mod tests;
