//! C2PA manifests of final renditions: made once, and kept for as long as an immutable answer may live.
//!
//! Signing salts and dates itself, so no two signatures of the same bytes are equal. What is signed is deterministic. So the
//! first manifest of a rendition is kept, here and where a fleet has a store also there, and an edge that makes the rendition
//! again embeds it again: the file is the same bit for bit, and edges agree on its `ETag`.
//!
//! Owns a table on the device (rendition key → the digest of what was signed, and the manifest). Invariants: a manifest is
//! on the device before its rendition is final; the first writer wins; none is evicted; a manifest of other bytes, which a
//! build with another encoder left behind, is replaced and never used.

use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bytes::Bytes;

use super::key::RenditionKey;
use super::metrics::{LookupOutcome, TierMetrics};
use super::object::ObjectTier;
use crate::state::{Check, Database, Key, Schema, StateError, Table, Value, form};

const TABLE: Table<RenditionKey, KeptManifest> = Table::new("manifests");
static SCHEMA: Schema = Schema {
    what: "the database of manifests",
    row: "a manifest",
    remedy: "Moved away, renditions that are made again get other manifests than the copies in caches and browsers have",
    cache_bytes: 4 << 20,
    check: Check::Head,
    tables: &[&TABLE],
};
const VERSION: u8 = 1;
/// Largest manifest that is kept.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// A signed manifest store (JUMBF), and the file it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptManifest {
    /// BLAKE3-256 of the file without it.
    pub signed: Digest,
    pub bytes: Bytes,
}

impl KeptManifest {
    const DIGEST_BYTES: usize = 32;

    /// Digest, then manifest.
    pub(super) fn to_record(&self) -> Vec<u8> {
        [&self.signed.as_bytes()[..], &self.bytes].concat()
    }

    pub(super) fn from_record(record: &[u8]) -> Option<Self> {
        let (digest, bytes) = record.split_first_chunk::<{ Self::DIGEST_BYTES }>()?;
        let is_sized = (1..=MANIFEST_BYTES_MAX).contains(&bytes.len());
        is_sized.then(|| Self { signed: Digest::from_raw(*digest), bytes: Bytes::copy_from_slice(bytes) })
    }
}

impl Key for RenditionKey {
    type Form = [u8; 16];

    fn encode(&self) -> [u8; 16] {
        *self.as_bytes()
    }

    fn decode(form: [u8; 16]) -> Result<Self, String> {
        Ok(Self::from_raw(form))
    }

    fn name(form: &[u8; 16]) -> String {
        Self::from_raw(*form).to_string()
    }
}

impl Value<RenditionKey> for KeptManifest {
    type Form = Vec<u8>;

    fn encode(&self, key: &RenditionKey) -> Result<Vec<u8>, serde_json::Error> {
        Ok(form::seal_bytes(VERSION, key.as_bytes(), &self.to_record()))
    }

    fn decode(key: &RenditionKey, record: &[u8]) -> Result<Self, String> {
        let record = form::unseal_bytes(VERSION, key.as_bytes(), record)?;
        Self::from_record(record).ok_or_else(|| "it is no manifest".to_owned())
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Manifests {
    database: Arc<Database>,
    object: Option<Arc<ObjectTier>>,
    metrics: Arc<TierMetrics>,
}

/// Why a manifest is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{bytes} bytes are more than a manifest may have ({MANIFEST_BYTES_MAX})")]
    TooLarge { bytes: usize },
    #[error("the fleet's store does not take it: {0}")]
    Store(String),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Manifests {
    /// Opens or creates the database. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the file is not a database, is damaged where it begins, or is open elsewhere.
    pub fn open(path: &Path, object: Option<Arc<ObjectTier>>, metrics: Arc<TierMetrics>) -> Result<Self, StateError> {
        Ok(Self { database: Arc::new(Database::open(path, &SCHEMA)?), object, metrics })
    }

    /// The manifest of a rendition, from this device or from the fleet. A fault is a miss.
    pub async fn get(&self, key: RenditionKey) -> Option<KeptManifest> {
        let found = match self.on_device(key).await {
            Ok(Some(manifest)) => Some(manifest),
            Ok(None) => self.of_the_fleet(key).await,
            Err(error) => {
                bildkante_shared::log_limited!(error, %key, %error, "a manifest cannot be read");
                self.of_the_fleet(key).await
            }
        };
        self.metrics.looked_up(if found.is_some() { LookupOutcome::Hit } else { LookupOutcome::Absent });
        found
    }

    /// The same from this device alone.
    pub async fn get_here(&self, key: RenditionKey) -> Option<KeptManifest> {
        self.on_device(key).await.ok().flatten()
    }

    /// Keeps `ours` unless another was first for the same bytes; the one that stands. It is on the device then.
    ///
    /// # Errors
    /// When it can be kept nowhere: then the rendition may not be called final.
    pub async fn agree(&self, key: RenditionKey, ours: KeptManifest) -> Result<KeptManifest, ManifestError> {
        if ours.bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: ours.bytes.len() });
        }
        let agreed = match &self.object {
            Some(object) => {
                let agreed = object.agree_on_manifest(key, &ours).await;
                agreed.map_err(|error| ManifestError::Store(error.to_string()))?
            }
            None => ours,
        };
        self.keep(key, agreed).await
    }

    async fn of_the_fleet(&self, key: RenditionKey) -> Option<KeptManifest> {
        let found = self.object.as_ref()?.manifest(key).await.hit()?;
        // It stands whether or not it is on this device.
        Some(self.keep(key, found.clone()).await.unwrap_or(found))
    }

    async fn on_device(&self, key: RenditionKey) -> Result<Option<KeptManifest>, StateError> {
        let database = Arc::clone(&self.database);
        tokio::task::spawn_blocking(move || database.get(TABLE, &key)).await.unwrap_or(Err(StateError::Panicked))
    }

    /// In one commit with the look whether another was first.
    async fn keep(&self, key: RenditionKey, ours: KeptManifest) -> Result<KeptManifest, ManifestError> {
        let standing = Arc::new(parking_lot::Mutex::new(None));
        let found = Arc::clone(&standing);
        self.database
            .write_async(move |changes| {
                let mut table = changes.of(TABLE)?;
                // One that cannot be read is none.
                let first = table.get(&key).ok().flatten().filter(|first| first.signed == ours.signed);
                if first.is_none() {
                    table.put(&key, &ours)?;
                }
                *found.lock() = Some(first.unwrap_or_else(|| ours.clone()));
                Ok(())
            })
            .await?;
        let stands = standing.lock().take();
        stands.ok_or(ManifestError::State(StateError::Panicked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(signed: &[u8], text: &str) -> KeptManifest {
        KeptManifest { signed: Digest::of_bytes(signed), bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    fn open(dir: &Path) -> Manifests {
        let metrics = super::super::CacheMetrics::new(&prometheus::Registry::new()).unwrap();
        Manifests::open(&dir.join("manifests.redb"), None, metrics.manifests).unwrap()
    }

    #[tokio::test]
    async fn the_first_manifest_of_the_same_bytes_stands_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (key, other) = (RenditionKey::from_raw([1; 16]), RenditionKey::from_raw([2; 16]));
        let manifests = open(dir.path());
        assert_eq!(manifests.get(key).await, None);
        let (first, second) = (manifest(b"file", "one"), manifest(b"file", "two"));
        assert_eq!(manifests.agree(key, first.clone()).await.unwrap(), first);
        assert_eq!(manifests.agree(key, second.clone()).await.unwrap(), first);
        assert_eq!(manifests.agree(other, second.clone()).await.unwrap(), second);
        drop(manifests);
        let manifests = open(dir.path());
        assert_eq!(manifests.get(key).await, Some(first));
        let of_other_bytes = manifest(b"another file", "three");
        assert_eq!(manifests.agree(key, of_other_bytes.clone()).await.unwrap(), of_other_bytes);
    }

    #[tokio::test]
    async fn many_at_once_agree_on_one() {
        let dir = tempfile::tempdir().unwrap();
        let (manifests, key) = (open(dir.path()), RenditionKey::from_raw([1; 16]));
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..16 {
            let manifests = manifests.clone();
            asked.spawn(async move { manifests.agree(key, manifest(b"file", &n.to_string())).await.unwrap() });
        }
        let agreed = asked.join_all().await;
        assert!(agreed.iter().all(|manifest| *manifest == agreed[0]), "{agreed:?}");
    }

    #[tokio::test]
    async fn a_manifest_too_large_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let huge = KeptManifest { signed: Digest::of_bytes(b""), bytes: vec![0; MANIFEST_BYTES_MAX + 1].into() };
        let refused = open(dir.path()).agree(RenditionKey::from_raw([1; 16]), huge).await;
        assert!(matches!(refused, Err(ManifestError::TooLarge { .. })));
    }
}
