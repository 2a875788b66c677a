//! Renditions on disk: what survives a restart, and what memory has no room for.
//!
//! Invariants: no byte leaves that is not covered by a verified checksum; a rendition is overwritten only by one that
//! stands no lower (purge generation, then rung); a device that fails or fills up degrades the edge to memory and never an answer. Writes are not
//! synced, because a torn one fails its checksum and is rendered again.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::durable::Durability;
use parking_lot::Mutex;

use super::entry::{self, EntryError, Form, HEADER_BYTES, Header};
use super::folder::Folder;
use super::gate::GateError;
use super::key::RenditionKey;
use super::metrics::StoreMetrics;
use super::rendition::{FileFacts, Precedence, Rendition};
use super::store::{Lookup, Store, StoreLimits, Unusable};

/// Longest stored rendition; a 4096 × 4096 PNG stays below it.
pub const RENDITION_FILE_BYTES_MAX: u64 = 64 << 20;
/// Writers of one key exclude each other; keys share these locks.
const STRIPES: usize = 64;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    Stored,
    /// A better rung or a later purge generation is there and stays.
    KeptBetter,
    /// The tier is offline or has too much to write.
    Dropped,
    /// The tier does not keep renditions of this rung.
    NotKept,
    Failed,
}

impl PutOutcome {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::KeptBetter => "kept-better",
            Self::Dropped => "dropped",
            Self::NotKept => "not-kept",
            Self::Failed => "failed",
        }
    }
}

/// One file per rendition.
#[derive(Debug)]
pub struct DiskTier {
    store: Store,
    stripes: Arc<[Mutex<()>]>,
}

impl DiskTier {
    /// Ready at once: nothing but the folder itself is looked at.
    pub(super) fn open(root: &Path, limits: StoreLimits, metrics: Arc<StoreMetrics>) -> io::Result<Self> {
        let store = Store::open("disk", root, limits, metrics)?;
        Ok(Self { store, stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() })
    }

    /// Reads and verifies; a fault of the entry or the device is a miss.
    pub async fn get(&self, key: RenditionKey) -> Lookup<Rendition> {
        self.store.read(*key.as_bytes(), move |file| entry::decode(&file, key).map_err(Unusable::from)).await
    }

    /// The entry if it takes no device to read it. `None` says nothing about whether there is one.
    #[must_use]
    pub fn peek(&self, key: RenditionKey) -> Option<Rendition> {
        self.store.peek(*key.as_bytes(), move |file| entry::decode(&file, key).map_err(Unusable::from))
    }

    /// What the header of an entry tells; `None` where there is none that is sound.
    pub async fn facts(&self, key: RenditionKey) -> Option<FileFacts> {
        self.store.glance(move |folder| Ok(header(folder, key)?.map(|header| header.facts()))).await
    }

    /// Writes, and returns when it is done; callers that need not wait spawn it.
    pub async fn put(&self, key: RenditionKey, rendition: Arc<Rendition>) -> PutOutcome {
        if self.store.folder().is_ahead_of_its_index() {
            return PutOutcome::Dropped;
        }
        let stripes = Arc::clone(&self.stripes);
        let job = move |folder: &Folder| {
            let _only_writer = stripes[usize::from(key.as_bytes()[1]) % STRIPES].lock();
            put_exclusively(folder, key, &rendition)
        };
        match self.store.change(job).await {
            Ok(outcome) => outcome,
            Err(GateError::Offline | GateError::Busy) => PutOutcome::Dropped,
            Err(_) => PutOutcome::Failed,
        }
    }

    /// Whether entries that were there at the start are counted already.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.store.is_indexed()
    }

    /// Whether writes reach the device at present.
    #[must_use]
    pub fn accepts_writes(&self) -> bool {
        self.store.accepts_writes()
    }

    /// Bytes on the device in whole blocks, as far as they are indexed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.store.folder().bytes()
    }

    #[must_use]
    pub fn files(&self) -> u64 {
        self.store.folder().files()
    }
}

fn put_exclusively(folder: &Folder, key: RenditionKey, rendition: &Rendition) -> io::Result<PutOutcome> {
    if stored_precedence(folder, key)?.is_some_and(|stored| !rendition.precedence().may_replace(stored)) {
        return Ok(PutOutcome::KeptBetter);
    }
    let header = entry::encode_header(key, rendition, Form::Checksum);
    folder.write(key.as_bytes(), &[&header, &rendition.body], Durability::Unsynced)?;
    Ok(PutOutcome::Stored)
}

/// From the header alone. An entry with a sound header over a damaged body keeps a lesser one out until it is
/// read, found out and removed; that costs one more render and no wrong byte.
fn stored_precedence(folder: &Folder, key: RenditionKey) -> io::Result<Option<Precedence>> {
    Ok(header(folder, key)?.map(|header| header.precedence()))
}

/// `None` where there is no entry, or its header is not sound.
fn header(folder: &Folder, key: RenditionKey) -> io::Result<Option<Header>> {
    let mut header = [0; HEADER_BYTES];
    if folder.read_start(key.as_bytes(), &mut header)?.is_none() {
        return Ok(None);
    }
    Ok(entry::decode_header(&header, key).ok())
}

impl From<EntryError> for Unusable {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Version(_) => Self::Foreign,
            error => Self::Corrupt(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use bildkante_shared::testing::{eventually, skipped};

    use super::super::folder::FolderLimits;
    use super::super::metrics::{CacheMetrics, LookupOutcome};
    use super::super::rendition::testing::rendition;
    use super::*;
    use crate::render::Rung;

    const KEY: RenditionKey = RenditionKey::from_raw([0xab; 16]);
    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(600);

    fn limits() -> StoreLimits {
        StoreLimits {
            folder: FolderLimits { bytes_max: 1 << 30, files_max: 10_000, file_bytes_max: RENDITION_FILE_BYTES_MAX },
            io_concurrency: 4,
            io_timeout: LONG,
            io_errors_max: 3,
            offline: LONG,
        }
    }

    fn open(root: &Path) -> (DiskTier, Arc<StoreMetrics>) {
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().disk;
        (DiskTier::open(root, limits(), Arc::clone(&metrics)).unwrap(), metrics)
    }

    fn file(root: &Path) -> PathBuf {
        root.join("ab").join(KEY.to_string())
    }

    fn outcome<T>(lookup: Lookup<T>) -> LookupOutcome {
        match lookup {
            Lookup::Hit(_) => LookupOutcome::Hit,
            Lookup::Miss(outcome) => outcome,
        }
    }

    #[tokio::test]
    async fn an_entry_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let wrote = Arc::new(rendition(b"a body", Rung::Quick));
        let (tier, _) = open(dir.path());
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Absent);
        assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Stored);
        drop(tier);
        let (tier, metrics) = open(dir.path());
        let read = tier.get(KEY).await.hit().unwrap();
        assert_eq!((&read.body, read.etag()), (&wrote.body, wrote.etag()));
        assert_eq!(metrics.tier.lookups(LookupOutcome::Hit), 1);
        eventually("it is indexed", async || tier.is_indexed()).await;
        assert_eq!(tier.files(), 1, "the scan and the read agree on one entry");
    }

    /// A fault is left to the other way of reading, which sets the file aside.
    #[tokio::test]
    async fn a_peek_gives_sound_entries_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, metrics) = open(dir.path());
        assert!(tier.peek(KEY).is_none());
        let wrote = Arc::new(rendition(b"a body", Rung::Final));
        tier.put(KEY, Arc::clone(&wrote)).await;
        // A file system that cannot tell what is in memory says nothing.
        assert!(tier.peek(KEY).is_none_or(|peeked| peeked.body == wrote.body));
        let mut damaged = fs::read(file(dir.path())).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(file(dir.path()), &damaged).unwrap();
        assert!(tier.peek(KEY).is_none());
        assert_eq!(metrics.quarantined(), 0);
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Corrupt);
    }

    #[tokio::test]
    async fn a_final_is_never_overwritten_by_a_quick_one() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, _) = open(dir.path());
        tier.put(KEY, Arc::new(rendition(b"quick", Rung::Quick))).await;
        assert_eq!(tier.put(KEY, Arc::new(rendition(b"final", Rung::Final))).await, PutOutcome::Stored);
        assert_eq!(tier.put(KEY, Arc::new(rendition(b"quick", Rung::Quick))).await, PutOutcome::KeptBetter);
        assert_eq!(&tier.get(KEY).await.hit().unwrap().body[..], b"final");
        let mut purged_since = rendition(b"anew", Rung::Quick);
        purged_since.generation = 1;
        assert_eq!(tier.put(KEY, Arc::new(purged_since)).await, PutOutcome::Stored);
        assert_eq!(tier.put(KEY, Arc::new(rendition(b"final", Rung::Final))).await, PutOutcome::KeptBetter);
        let read = tier.get(KEY).await.hit().unwrap();
        assert_eq!((&read.body[..], read.generation), (&b"anew"[..], 1));
    }

    #[tokio::test]
    async fn a_damaged_entry_is_set_aside_and_can_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, metrics) = open(dir.path());
        let wrote = Arc::new(rendition(b"a body", Rung::Final));
        tier.put(KEY, Arc::clone(&wrote)).await;
        let sound = fs::read(file(dir.path())).unwrap();
        for (at, length) in [(0, sound.len()), (HEADER_BYTES, sound.len()), (0, 0), (0, 40), (0, HEADER_BYTES)] {
            let mut damaged = sound[..length].to_vec();
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= 1;
            }
            fs::write(file(dir.path()), &damaged).unwrap();
            assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Corrupt);
            assert!(!file(dir.path()).exists());
            assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Absent);
        }
        assert_eq!(metrics.quarantined(), 5);
        assert_eq!(metrics.errors(), 0, "damage is no I/O error");
        tier.put(KEY, wrote).await;
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Hit);
    }

    #[tokio::test]
    async fn an_entry_under_another_name_is_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, metrics) = open(dir.path());
        tier.put(KEY, Arc::new(rendition(b"a body", Rung::Final))).await;
        let mut raw = [0xab; 16];
        raw[15] = 0;
        let other = RenditionKey::from_raw(raw);
        fs::rename(file(dir.path()), dir.path().join("ab").join(other.to_string())).unwrap();
        assert_eq!(outcome(tier.get(other).await), LookupOutcome::Corrupt);
        assert_eq!(metrics.quarantined(), 1);
    }

    #[tokio::test]
    async fn an_entry_of_another_version_is_dropped_quietly() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, metrics) = open(dir.path());
        tier.put(KEY, Arc::new(rendition(b"a body", Rung::Final))).await;
        let mut bytes = fs::read(file(dir.path())).unwrap();
        bytes[8] = 99;
        fs::write(file(dir.path()), bytes).unwrap();
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Absent);
        assert!(!file(dir.path()).exists());
        assert_eq!(metrics.quarantined(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_used_takes_the_tier_offline_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let (tier, metrics) = open(dir.path());
        let wrote = Arc::new(rendition(b"a body", Rung::Final));
        // A file where the shard's folder belongs: every path below it is an error, for root as well.
        fs::write(dir.path().join("ab"), b"in the way").unwrap();
        for _ in 0..3 {
            assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Failed);
            assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Failed);
        }
        assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Dropped);
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Offline);
        assert_eq!(metrics.errors(), 6);
        fs::remove_file(dir.path().join("ab")).unwrap();
        assert_eq!(outcome(tier.get(KEY).await), LookupOutcome::Offline, "not before it has cooled down");
        tier.store.cool_down();
        assert_eq!(tier.put(KEY, Arc::clone(&wrote)).await, PutOutcome::Stored);
        assert_eq!(tier.get(KEY).await.hit().unwrap().body, wrote.body);
    }

    /// Unmounts what it mounted, also when an assertion fails.
    struct SmallDisk(PathBuf);

    impl SmallDisk {
        fn mount(at: &Path) -> Option<Self> {
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=1M", "tmpfs"])
                .arg(at)
                .stderr(std::process::Stdio::null())
                .status();
            mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }

    #[tokio::test]
    async fn a_full_disk_sheds_old_entries_and_keeps_serving() {
        let dir = tempfile::tempdir().unwrap();
        let Some(_mounted) = SmallDisk::mount(dir.path()) else {
            let why = "a tmpfs cannot be mounted: that needs root or CAP_SYS_ADMIN";
            return skipped("a_full_disk_sheds_old_entries_and_keeps_serving", why);
        };
        let (tier, metrics) = open(dir.path());
        let key = |n: u8| RenditionKey::from_raw([n; 16]);
        let mut stored = 0;
        for n in 0..200 {
            let wrote = Arc::new(rendition(&[n; 20_000], Rung::Final));
            match tier.put(key(n), wrote).await {
                PutOutcome::Stored => {
                    stored += 1;
                    let read = tier.get(key(n)).await.hit().unwrap();
                    assert_eq!(read.body[..], [n; 20_000]);
                }
                outcome => assert!(matches!(outcome, PutOutcome::Failed | PutOutcome::Dropped)),
            }
        }
        assert!(metrics.errors() > 0, "the disk did fill up");
        assert!(metrics.tier.evictions() > 0, "and made room");
        assert!(stored > 60, "more than fit at once went through: {stored}");
        let left_behind = |n| {
            let shard = fs::read_dir(dir.path().join(format!("{n:02x}")));
            shard.is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with('.')))
        };
        assert!(!(0..200).any(left_behind), "a failed write leaves no temporary file");
    }
}
