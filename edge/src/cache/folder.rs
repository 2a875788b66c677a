//! A folder of content-named files, bounded in bytes and files, with eviction by recency.
//!
//! Layout: `{root}/{first byte in hex}/{26-character name}`, 256 shards. Reading goes by path, so a start needs no
//! scan; the index (25 bytes an entry, at most 58 after its table has just doubled) exists for bounds and
//! recency only and is rebuilt in the background from sizes and modification times. A use is written back as the
//! file's modification time at most once an hour, so that recency survives restarts at next to no cost.
//!
//! Eviction is approximate LRU without a global order: names are hashes, so one shard's oldest sixteenth is a fair
//! sample of the whole folder's. Few entries are looked at all together, and then it is exact.
//!
//! What is *kept* is never evicted: names that a rule says something else refers to. Where nothing else is left to make room with,
//! a file is refused as it is by a full device.
//!
//! Index and folder may disagree for a moment (a crash, another process, an operator's `rm`): a file that is not
//! there is forgotten when it is asked for. All functions block; callers go through a `Gate`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bildkante_shared::descriptors;
use bildkante_shared::durable::{self, Durability, TEMPORARY_PREFIX};
use bildkante_shared::ids::{decode_128, encode_128};
use bildkante_shared::log_limited;
use parking_lot::{Mutex, RwLock};

use super::key::ContentHasherBuilder;
use super::metrics::StoreMetrics;
use super::page_cache;
use super::rendition::unix_ms;

/// A file's name: BLAKE3-128 of something.
pub(super) type Name = [u8; 16];

const SHARDS: usize = 256;
/// Files take whole blocks on nearly every file system.
const BLOCK_BYTES: u64 = 4096;
/// How much younger than its recorded time a use must be to be written back.
const TOUCH_AFTER_S: u32 = 3600;
/// Entries to look at before calling some of them the oldest.
const SAMPLE_ENTRIES: usize = 256;
/// Temporary files younger than this at start may be our own: a file's time runs behind the clock a little. One edge
/// owns a folder (the bindings' lock sees to it), so that older ones are a dead process's.
const TEMPORARY_AGE: Duration = Duration::from_secs(1);
/// Until the scan goes on after a lack of descriptors.
const SCAN_PAUSE: Duration = Duration::from_millis(200);
const QUARANTINE_FILES_MAX: usize = 64;
const QUARANTINE_BYTES_MAX: u64 = 64 << 20;

/// Says which files are kept, however long they are unused. Asked under a lock: it takes no time.
#[derive(Clone)]
pub(super) struct Keeps(Arc<dyn Fn(&Name) -> bool + Send + Sync>);

impl Keeps {
    pub(super) fn new(keeps: impl Fn(&Name) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(keeps))
    }
}

impl std::fmt::Debug for Keeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeps")
    }
}

/// When files may be evicted.
#[derive(Debug, Clone)]
enum Eviction {
    Any,
    /// None: what is kept is not known yet.
    Held,
    But(Keeps),
}

/// Whether a folder is within its bounds, or being brought there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    /// Nothing is left that may go.
    None,
}

impl Eviction {
    fn keeps(&self, name: &Name) -> bool {
        match self {
            Self::Any => false,
            Self::Held => true,
            Self::But(Keeps(keeps)) => keeps(name),
        }
    }
}

/// What became of a use that reads nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    Noted,
    /// It is to be read: once in a while that writes its time onto the device.
    Due,
    /// It is not there, as far as the index knows.
    Absent,
}

/// Bounds of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct FolderLimits {
    pub(super) bytes_max: u64,
    pub(super) files_max: u64,
    /// Longest file that is read or written.
    pub(super) file_bytes_max: u64,
}

#[derive(Debug, Clone, Copy)]
struct StoredFile {
    blocks: u32,
    used_unix_s: u32,
}

type Shard = Mutex<HashMap<Name, StoredFile, ContentHasherBuilder>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// The same folder: from here a path is two steps long. Should another take its place, reads without a wait find
    /// nothing until the next start, and all others go by path.
    root_fd: OwnedFd,
    quarantine: PathBuf,
    limits: FolderLimits,
    opened: SystemTime,
    shards: Box<[Shard]>,
    bytes: AtomicU64,
    files: AtomicU64,
    is_scanned: AtomicBool,
    /// Bytes and files written before the scan was complete.
    early_bytes: AtomicU64,
    early_files: AtomicU64,
    eviction: RwLock<Eviction>,
    /// Where the next eviction looks; the lock lets one thread evict at a time.
    hand: Mutex<usize>,
    quarantined_files: AtomicUsize,
    quarantined_bytes: AtomicU64,
    metrics: Arc<StoreMetrics>,
}

impl Folder {
    /// Creates the folder where it is missing, and reads nothing but the quarantine's few entries.
    pub(super) fn open(root: &Path, limits: FolderLimits, metrics: Arc<StoreMetrics>) -> io::Result<Self> {
        let quarantine = root.join("quarantine");
        fs::create_dir_all(&quarantine)?;
        let folder = Self {
            root: root.to_owned(),
            root_fd: File::open(root)?.into(),
            quarantine,
            limits,
            opened: SystemTime::now(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            is_scanned: AtomicBool::new(false),
            early_bytes: AtomicU64::new(0),
            early_files: AtomicU64::new(0),
            eviction: RwLock::new(Eviction::Any),
            hand: Mutex::new(0),
            quarantined_files: AtomicUsize::new(0),
            quarantined_bytes: AtomicU64::new(0),
            metrics,
        };
        for entry in fs::read_dir(&folder.quarantine)?.flatten() {
            folder.quarantined_files.fetch_add(1, Ordering::Relaxed);
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            folder.quarantined_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(folder)
    }

    fn shard_path(&self, name: &Name) -> PathBuf {
        self.root.join(format!("{:02x}", name[0]))
    }

    pub(super) fn path(&self, name: &Name) -> PathBuf {
        self.root.join(path_below(name))
    }

    /// The whole file, or `None` when it is not there. One that is longer than allowed is an empty buffer: no
    /// checksum will accept it.
    pub(super) fn read(&self, name: &Name) -> io::Result<Option<Vec<u8>>> {
        let mut file = match File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(name);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length > self.limits.file_bytes_max {
            return Ok(Some(Vec::new()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.by_ref().take(length).read_to_end(&mut bytes)?;
        if self.touch(name, length) {
            // Losing this costs some recency after a restart, no more.
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(Some(bytes))
    }

    /// The whole file if it is small and reading it takes no device; `None` says nothing about whether it exists.
    pub(super) fn read_in_memory(&self, name: &Name, bytes_max: usize) -> Option<Vec<u8>> {
        // Once in a while its time goes onto the device, and that takes the long way.
        if self.note_use(name) != Used::Noted {
            return None;
        }
        page_cache::read(&self.root_fd, &path_below(name), bytes_max)
    }

    /// The first bytes of the file, as many as fit in `buffer`; `None` when it is not there or shorter.
    pub(super) fn read_start(&self, name: &Name, buffer: &mut [u8]) -> io::Result<Option<()>> {
        match File::open(self.path(name)).and_then(|mut file| file.read_exact(buffer)) {
            Ok(()) => Ok(Some(())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file atomically, then makes room if it took too much.
    pub(super) fn write(&self, name: &Name, parts: &[&[u8]], durability: Durability) -> io::Result<()> {
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if length > self.limits.file_bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{length} bytes")));
        }
        if let Err(error) = self.write_in_shard(name, parts, durability) {
            if error.kind() == io::ErrorKind::StorageFull {
                self.shed();
            }
            return Err(error);
        }
        if !self.is_scanned.load(Ordering::Acquire) {
            self.early_bytes.fetch_add(u64::from(blocks(length)) * BLOCK_BYTES, Ordering::Relaxed);
            self.early_files.fetch_add(1, Ordering::Relaxed);
        }
        self.record(name, length, unix_s(SystemTime::now()));
        let is_stuck = self.evict_to_fit(Some(name)) == Room::None;
        let eviction = self.eviction.read().clone();
        if is_stuck && !eviction.keeps(name) {
            self.remove(name)?;
            if matches!(eviction, Eviction::But(_)) {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "what is kept leaves no room"));
            }
            self.metrics.tier.evicted();
        }
        Ok(())
    }

    /// Whether so much was written since the start that what is not scanned yet may lift the folder over its bounds
    /// by more than a sixteenth.
    pub(super) fn is_ahead_of_its_index(&self) -> bool {
        !self.is_scanned.load(Ordering::Acquire)
            && (self.early_bytes.load(Ordering::Relaxed) > self.limits.bytes_max / 16
                || self.early_files.load(Ordering::Relaxed) > (self.limits.files_max / 16).max(64))
    }

    fn write_in_shard(&self, name: &Name, parts: &[&[u8]], durability: Durability) -> io::Result<()> {
        let path = self.path(name);
        match durable::write(&path, parts, durability) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.shard_path(name))?;
                if durability == Durability::Synced {
                    durable::sync_folder(&self.root)?;
                }
                durable::write(&path, parts, durability)
            }
            result => result,
        }
    }

    pub(super) fn remove(&self, name: &Name) -> io::Result<()> {
        self.forget(name);
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets a file aside, so that an operator can find out what went wrong; past the quarantine's bounds it is deleted.
    pub(super) fn quarantine(&self, name: &Name, reason: &dyn std::fmt::Display) {
        self.metrics.quarantined.inc();
        self.forget(name);
        let path = self.path(name);
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        log_limited!(error, file = %path.display(), %reason, "corrupt entry set aside");
        let files = self.quarantined_files.fetch_add(1, Ordering::Relaxed);
        let bytes = self.quarantined_bytes.fetch_add(length, Ordering::Relaxed);
        let kept = files < QUARANTINE_FILES_MAX && bytes.saturating_add(length) <= QUARANTINE_BYTES_MAX && {
            let aside = format!("{}-{}", encode_128(name), unix_ms(SystemTime::now()));
            fs::rename(&path, self.quarantine.join(aside)).is_ok()
        };
        if !kept {
            self.quarantined_files.fetch_sub(1, Ordering::Relaxed);
            self.quarantined_bytes.fetch_sub(length, Ordering::Relaxed);
            let _ = fs::remove_file(&path);
        }
    }

    // ---- index ----

    fn shard(&self, name: &Name) -> &Shard {
        &self.shards[usize::from(name[0])]
    }

    fn record(&self, name: &Name, length: u64, used_unix_s: u32) {
        let file = StoredFile { blocks: blocks(length), used_unix_s };
        let old = self.shard(name).lock().insert(*name, file);
        self.added(file);
        if let Some(old) = old {
            self.subtracted(old);
        }
    }

    /// Whether it is there, as far as the index knows.
    pub(super) fn holds(&self, name: &Name) -> bool {
        self.shard(name).lock().contains_key(name)
    }

    /// The bytes that it takes, in whole blocks, where it is there.
    pub(super) fn size(&self, name: &Name) -> Option<u64> {
        self.shard(name).lock().get(name).map(|file| u64::from(file.blocks) * BLOCK_BYTES)
    }

    fn forget(&self, name: &Name) {
        if let Some(old) = self.shard(name).lock().remove(name) {
            self.subtracted(old);
        }
    }

    /// Notes a use; whether the file's own time is due to follow.
    fn touch(&self, name: &Name, length: u64) -> bool {
        let now = unix_s(SystemTime::now());
        let mut shard = self.shard(name).lock();
        let Some(file) = shard.get_mut(name) else {
            drop(shard);
            self.record(name, length, now);
            return true;
        };
        let due = now.saturating_sub(file.used_unix_s) >= TOUCH_AFTER_S;
        file.used_unix_s = file.used_unix_s.max(now);
        due
    }

    /// Notes a use of a file that was not read for it.
    pub(super) fn note_use(&self, name: &Name) -> Used {
        let now = unix_s(SystemTime::now());
        let mut shard = self.shard(name).lock();
        let Some(file) = shard.get_mut(name) else { return Used::Absent };
        if now.saturating_sub(file.used_unix_s) >= TOUCH_AFTER_S {
            return Used::Due;
        }
        file.used_unix_s = file.used_unix_s.max(now);
        Used::Noted
    }

    fn added(&self, file: StoredFile) {
        let bytes = u64::from(file.blocks) * BLOCK_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.files.fetch_add(1, Ordering::Relaxed);
        self.metrics.tier.entered(bytes);
    }

    fn subtracted(&self, file: StoredFile) {
        let bytes = u64::from(file.blocks) * BLOCK_BYTES;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.metrics.tier.left(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    // ---- eviction ----

    fn is_over(&self) -> bool {
        self.bytes() > self.limits.bytes_max || self.files() > self.limits.files_max
    }

    /// From here on nothing is evicted, until it is known what is kept.
    pub(super) fn hold(&self) {
        *self.eviction.write() = Eviction::Held;
    }

    /// From here on all may be evicted but this.
    pub(super) fn keep(&self, keeps: Keeps) {
        *self.eviction.write() = Eviction::But(keeps);
        self.evict_to_fit(None);
    }

    /// `but`: what was written just now goes last of all.
    fn evict_to_fit(&self, but: Option<&Name>) -> Room {
        if !self.is_over() {
            return Room::Enough;
        }
        // The writer that holds the lock evicts for all.
        let Some(mut hand) = self.hand.try_lock() else { return Room::Enough };
        while self.is_over() {
            if self.evict_some(&mut hand, but, |folder| folder.is_over()) == 0 {
                return Room::None;
            }
        }
        Room::Enough
    }

    /// The device is full though our own bounds are not reached: other programs' files, or a bound set too high.
    /// Giving up a sixteenth keeps the cache turning over instead of freezing.
    fn shed(&self) {
        let Some(mut hand) = self.hand.try_lock() else { return };
        let target = self.bytes() / 16 * 15;
        while self.bytes() > target && self.evict_some(&mut hand, None, |folder| folder.bytes() > target) > 0 {}
    }

    /// Removes the oldest of one sample while `more` says so; how many went.
    fn evict_some(&self, hand: &mut usize, but: Option<&Name>, more: impl Fn(&Self) -> bool) -> usize {
        let mut sample = self.sample(hand, but);
        let oldest = (sample.len() / 16).max(1).min(sample.len());
        if oldest == 0 {
            return 0;
        }
        sample.select_nth_unstable_by_key(oldest - 1, |(_, used)| *used);
        sample.truncate(oldest);
        sample.sort_unstable_by_key(|(_, used)| *used);
        let mut gone = 0;
        for (name, _) in &sample {
            if !more(self) {
                break;
            }
            if let Err(error) = self.remove(name) {
                // The index has let go of it; the next start's scan will find it again.
                log_limited!(warn, file = %self.path(name).display(), %error, "cannot remove an evicted file");
            }
            self.metrics.tier.evicted();
            gone += 1;
        }
        gone
    }

    /// At least `SAMPLE_ENTRIES` entries that may go, from the shards under the hand, or all there are.
    fn sample(&self, hand: &mut usize, but: Option<&Name>) -> Vec<(Name, u32)> {
        let mut sample = Vec::new();
        // Before a shard is locked, so that both locks are never held together.
        let eviction = self.eviction.read().clone();
        for _ in 0..SHARDS {
            let shard = self.shards[*hand].lock();
            let may_go = shard.iter().filter(|(name, _)| but != Some(*name) && !eviction.keeps(name));
            sample.extend(may_go.map(|(name, file)| (*name, file.used_unix_s)));
            *hand = (*hand + 1) % SHARDS;
            if sample.len() >= SAMPLE_ENTRIES {
                break;
            }
        }
        sample
    }

    // ---- rebuild ----

    /// Learns what earlier processes left, shard by shard; deletes their abandoned temporary files.
    pub(super) fn scan(&self, keep_going: impl Fn() -> bool) {
        let started = std::time::Instant::now();
        for shard in 0..SHARDS {
            if !keep_going() {
                return;
            }
            let mut scanned = self.scan_shard(shard);
            // Descriptors come back; what is not scanned now counts for nothing until the next start.
            while matches!(&scanned, Err(error) if descriptors::is_shortage(error)) && keep_going() {
                std::thread::sleep(SCAN_PAUSE);
                scanned = self.scan_shard(shard);
            }
            if let Err(error) = scanned {
                tracing::warn!(folder = %self.root.display(), shard, %error, "cannot scan a shard of the cache");
            }
            self.evict_to_fit(None);
        }
        self.is_scanned.store(true, Ordering::Release);
        tracing::info!(folder = %self.root.display(), files = self.files(), bytes = self.bytes(),
            took = ?started.elapsed(), "cache index complete");
    }

    fn scan_shard(&self, shard: usize) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(format!("{shard:02x}"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(text) = file_name.to_str() else { continue };
            if text.starts_with(TEMPORARY_PREFIX) {
                self.remove_if_abandoned(&entry);
            } else if let Ok(name) = decode_128(text)
                && usize::from(name[0]) == shard
                && let Ok(metadata) = entry.metadata()
            {
                self.learn(name, &metadata);
            }
        }
        Ok(())
    }

    fn learn(&self, name: Name, metadata: &fs::Metadata) {
        let used_unix_s = metadata.modified().map_or(0, unix_s);
        let file = StoredFile { blocks: blocks(metadata.len()), used_unix_s };
        // What a request recorded meanwhile is newer.
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.shard(&name).lock().entry(name) {
            vacant.insert(file);
            self.added(file);
        }
    }

    fn remove_if_abandoned(&self, entry: &fs::DirEntry) {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let abandoned =
            modified.is_ok_and(|modified| self.opened.duration_since(modified).is_ok_and(|age| age > TEMPORARY_AGE));
        if abandoned {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn path_below(name: &Name) -> String {
    format!("{:02x}/{}", name[0], encode_128(name))
}

fn blocks(length: u64) -> u32 {
    u32::try_from(length.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

/// Seconds since 1970, good until 2106.
fn unix_s(time: SystemTime) -> u32 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
