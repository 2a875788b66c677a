//! Masters at the edge: the lossless images that renditions are cut from.
//!
//! Invariants: only a master whose pixels were seen to hash to its id is ever stored ([`VerifiedMaster`] is the
//! only thing [`Masters::put`] takes); what is read back has the bytes that were written (a digest in the file's
//! header). Writes are synced: a lost master costs a call to a node, which may be far away or gone.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::durable::Durability;
use bildkante_shared::ids::MasterId;
use bildkante_shared::limits::MASTER_FILE_BYTES_MAX;
use bildkante_shared::pixels::Pixels;
use bytes::Bytes;
use parking_lot::Mutex;

use super::folder::Used;
use super::folder::{Folder, Keeps};
use super::gate::GateError;
use super::metrics::StoreMetrics;
use super::store::{Lookup, Store, StoreLimits, Unusable};

const MAGIC: &[u8; 8] = b"BKMASTR1";
/// Magic, id, PNG length, BLAKE3 over all of that and the PNG.
const SEALED_BYTES: usize = 8 + 16 + 8;
const HEADER_BYTES: usize = SEALED_BYTES + 32;

/// Longest file of the store.
pub(super) const FILE_BYTES_MAX: u64 = (MASTER_FILE_BYTES_MAX + HEADER_BYTES) as u64;

/// A PNG that claims to be a master: from a node or from disk, its pixels not yet looked at.
#[derive(Debug, Clone)]
pub struct MasterFile {
    pub id: MasterId,
    pub png: Bytes,
}

/// Why a file is not the master it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum MasterError<E> {
    #[error("master {id} does not decode: {source}")]
    Decode { id: MasterId, source: E },
    #[error("master {id} has the pixels of {actual}")]
    Pixels { id: MasterId, actual: MasterId },
}

/// A master that was decoded and whose pixels hash to its id.
#[derive(Debug)]
pub struct VerifiedMaster {
    id: MasterId,
    png: Bytes,
    /// Shared with the jobs that cut from it.
    pixels: Arc<Pixels>,
}

impl MasterFile {
    /// Decodes with `decode` (CPU work: call it on the render pool) and compares what came out with the id.
    ///
    /// # Errors
    /// When it does not decode or has other pixels.
    pub fn verify<E>(self, decode: impl FnOnce(&[u8]) -> Result<Pixels, E>) -> Result<VerifiedMaster, MasterError<E>> {
        let Self { id, png } = self;
        let pixels = decode(&png).map_err(|source| MasterError::Decode { id, source })?;
        let actual = pixels.master_id();
        if actual != id {
            return Err(MasterError::Pixels { id, actual });
        }
        Ok(VerifiedMaster { id, png, pixels: Arc::new(pixels) })
    }
}

impl VerifiedMaster {
    #[must_use]
    pub const fn id(&self) -> MasterId {
        self.id
    }

    #[must_use]
    pub const fn png(&self) -> &Bytes {
        &self.png
    }

    #[must_use]
    pub const fn pixels(&self) -> &Arc<Pixels> {
        &self.pixels
    }
}

/// Master files by id, bounded, the least recently used going first.
#[derive(Debug)]
pub struct Masters {
    store: Store,
    /// How often each is held.
    held: Arc<Mutex<HashMap<MasterId, usize>>>,
}

/// A master that is not evicted as long as this lives.
#[derive(Debug)]
pub struct HeldMaster {
    id: MasterId,
    held: Arc<Mutex<HashMap<MasterId, usize>>>,
}

impl Drop for HeldMaster {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        match held.get_mut(&self.id) {
            Some(count @ 2..) => *count -= 1,
            _ => {
                held.remove(&self.id);
            }
        }
    }
}

impl Masters {
    pub(super) fn open(root: &Path, limits: StoreLimits, metrics: Arc<StoreMetrics>) -> io::Result<Self> {
        Ok(Self { store: Store::open("masters", root, limits, metrics)?, held: Arc::default() })
    }

    /// Evicts none until [`Self::keep`] says which are kept.
    pub(super) fn hold_all(&self) {
        self.store.folder().hold();
    }

    /// Keeps one from being evicted, whether it is there or comes, where [`Self::keep`] was called.
    #[must_use]
    pub fn hold(&self, id: MasterId) -> HeldMaster {
        *self.held.lock().entry(id).or_default() += 1;
        HeldMaster { id, held: Arc::clone(&self.held) }
    }

    /// From here on no master is evicted that `keeps` names; where nothing else is left, new ones are refused as by a full
    /// device.
    pub fn keep(&self, keeps: impl Fn(MasterId) -> bool + Send + Sync + 'static) {
        let held = Arc::clone(&self.held);
        let is_kept = move |id| keeps(id) || held.lock().contains_key(&id);
        self.store.folder().keep(Keeps::new(move |name| is_kept(MasterId::from_raw(*name))));
    }

    /// Whether it is stored, as far as the index knows.
    #[must_use]
    pub fn holds(&self, id: MasterId) -> bool {
        self.store.folder().holds(id.as_bytes())
    }

    /// Notes a use of one whose pixels were in memory, so that it is not the least recently used on disk.
    #[must_use]
    pub fn note_use(&self, id: MasterId) -> Used {
        self.store.folder().note_use(id.as_bytes())
    }

    /// How much room it takes, where it is stored as far as the index knows.
    #[must_use]
    pub fn size(&self, id: MasterId) -> Option<u64> {
        self.store.folder().size(id.as_bytes())
    }

    /// The bytes as they were stored, or a miss.
    pub async fn get(&self, id: MasterId) -> Lookup<MasterFile> {
        let check = move |file: Bytes| decode(&file, id).map_err(|reason| Unusable::Corrupt(reason.to_owned()));
        self.store.read(*id.as_bytes(), check).await
    }

    /// Returns once the master is on the device. Equal ids have equal pixels, so a second writer changes nothing.
    ///
    /// # Errors
    /// When the device refuses, is offline or has too much to do. The caller still has the master.
    pub async fn put(&self, master: &VerifiedMaster) -> Result<(), GateError> {
        let (id, png) = (master.id, master.png.clone());
        let job = move |folder: &Folder| folder.write(id.as_bytes(), &[&header(id, &png), &png], Durability::Synced);
        self.store.change(job).await
    }

    /// Sets aside a master that was stored soundly and yet fails [`MasterFile::verify`].
    ///
    /// # Errors
    /// When the device is offline or has too much to do.
    pub async fn reject(&self, id: MasterId, reason: String) -> Result<(), GateError> {
        let job = move |folder: &Folder| {
            folder.quarantine(id.as_bytes(), &reason);
            Ok(())
        };
        self.store.change(job).await
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.store.folder().bytes()
    }
}

pub(super) fn header(id: MasterId, png: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..24].copy_from_slice(id.as_bytes());
    header[24..SEALED_BYTES].copy_from_slice(&(png.len() as u64).to_le_bytes());
    let seal = seal(&header[..SEALED_BYTES], png);
    header[SEALED_BYTES..].copy_from_slice(seal.as_bytes());
    header
}

fn seal(sealed: &[u8], png: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(sealed).update(png);
    hasher.finalize()
}

pub(super) fn decode(file: &Bytes, id: MasterId) -> Result<MasterFile, &'static str> {
    let (sealed, rest) = file.split_first_chunk::<SEALED_BYTES>().ok_or("too short for a header")?;
    let (stored_seal, png) = rest.split_first_chunk::<32>().ok_or("too short for a header")?;
    if !sealed.starts_with(MAGIC) {
        return Err("it does not start as a master does");
    }
    if sealed[8..24] != *id.as_bytes() {
        return Err("it is another master");
    }
    if sealed[24..] != (png.len() as u64).to_le_bytes() {
        return Err("its length is not what was written");
    }
    if seal(sealed, png) != *stored_seal {
        return Err("its checksum is wrong");
    }
    Ok(MasterFile { id, png: file.slice(HEADER_BYTES..) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::folder::FolderLimits;
    use super::super::metrics::{CacheMetrics, LookupOutcome};
    use super::*;

    /// For tests a "PNG" is raw RGB of a row: what matters here is not the codec.
    fn decode_row(bytes: &[u8]) -> Result<Pixels, bildkante_shared::pixels::PixelsError> {
        Pixels::new(u32::try_from(bytes.len() / 3).unwrap(), 1, bytes.to_vec())
    }

    fn verified(bytes: &'static [u8]) -> VerifiedMaster {
        let id = decode_row(bytes).unwrap().master_id();
        MasterFile { id, png: Bytes::from_static(bytes) }.verify(decode_row).unwrap()
    }

    fn open(root: &Path, bytes_max: u64) -> (Masters, Arc<StoreMetrics>) {
        let metrics = CacheMetrics::new(&prometheus::Registry::new()).unwrap().masters;
        let limits = StoreLimits {
            folder: FolderLimits { bytes_max, files_max: 1000, file_bytes_max: FILE_BYTES_MAX },
            io_concurrency: 2,
            io_timeout: Duration::from_secs(20),
            io_errors_max: 3,
            offline: Duration::from_secs(10),
        };
        (Masters::open(root, limits, Arc::clone(&metrics)).unwrap(), metrics)
    }

    /// What is kept stays, however long it is unused; with nothing else left, a new master is refused.
    #[tokio::test]
    async fn what_is_kept_is_not_evicted_and_a_full_store_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (masters, metrics) = open(dir.path(), 3 * 4096);
        let all = [verified(b"abc"), verified(b"def"), verified(b"ghi"), verified(b"jkl")];
        masters.hold_all();
        for master in &all[..3] {
            masters.put(master).await.unwrap();
        }
        masters.put(&all[3]).await.unwrap();
        assert_eq!(metrics.tier.evictions(), 0, "nothing goes before it is known what is kept");
        let kept = [all[0].id(), all[1].id()];
        masters.keep(move |id| kept.contains(&id));
        assert_eq!(metrics.tier.evictions(), 1);
        assert!(masters.holds(all[0].id()) && masters.holds(all[1].id()));
        let kept = all.each_ref().map(VerifiedMaster::id);
        masters.keep(move |id| kept.contains(&id));
        let (fifth, sixth) = (verified(b"mno"), verified(b"pqr"));
        let refused = masters.put(&fifth).await.unwrap_err().to_string();
        assert!(refused.contains("what is kept leaves no room"), "{refused}");
        assert!(!masters.holds(fifth.id()));
        masters.keep(|_| false);
        masters.put(&sixth).await.unwrap();
        assert!(masters.holds(sixth.id()));
        let held = [masters.hold(sixth.id()), masters.hold(sixth.id())];
        for bytes in [b"stu", b"vwx", b"yz1", b"yz2", b"yz3"] {
            masters.put(&verified(bytes)).await.unwrap();
        }
        assert!(masters.holds(sixth.id()), "held, and the oldest");
        let [first, second] = held;
        drop(first);
        masters.put(&verified(b"yz4")).await.unwrap();
        assert!(masters.holds(sixth.id()), "held by another still");
        drop(second);
        assert!(masters.held.lock().is_empty());
    }

    #[test]
    fn a_file_with_other_pixels_or_none_is_no_master() {
        let id = MasterId::of_bytes(b"something else");
        let claim = |png: &'static [u8]| MasterFile { id, png: Bytes::from_static(png) }.verify(decode_row);
        assert!(matches!(claim(b"rgbrgb"), Err(MasterError::Pixels { .. })));
        assert!(matches!(claim(b"rg"), Err(MasterError::Decode { .. })));
    }

    #[tokio::test]
    async fn a_master_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let master = verified(b"rgbrgbrgb");
        let (masters, _) = open(dir.path(), 1 << 20);
        assert!(masters.get(master.id()).await.hit().is_none());
        masters.put(&master).await.unwrap();
        drop(masters);
        let (masters, _) = open(dir.path(), 1 << 20);
        let read = masters.get(master.id()).await.hit().unwrap();
        assert_eq!(&read.verify(decode_row).unwrap().png, master.png());
    }

    #[tokio::test]
    async fn every_damaged_byte_and_every_truncation_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (masters, metrics) = open(dir.path(), 1 << 20);
        let master = verified(b"rgbrgb");
        masters.put(&master).await.unwrap();
        let path = masters.store.folder().path(master.id().as_bytes());
        let sound = std::fs::read(&path).unwrap();
        for at in 0..sound.len() {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            for damaged in [&flipped[..], &sound[..at]] {
                assert!(decode(&Bytes::copy_from_slice(damaged), master.id()).is_err(), "byte {at}");
            }
        }
        std::fs::write(&path, &sound[1..]).unwrap();
        assert!(matches!(masters.get(master.id()).await, Lookup::Miss(LookupOutcome::Corrupt)));
        assert_eq!(metrics.quarantined(), 1);
    }

    #[tokio::test]
    async fn a_rejected_master_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (masters, metrics) = open(dir.path(), 1 << 20);
        let master = verified(b"rgbrgb");
        masters.put(&master).await.unwrap();
        masters.reject(master.id(), "not its pixels".into()).await.unwrap();
        assert!(masters.get(master.id()).await.hit().is_none());
        assert_eq!((metrics.quarantined(), masters.bytes()), (1, 0));
    }

    #[tokio::test]
    async fn the_store_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (masters, metrics) = open(dir.path(), 4 * 4096);
        for master in [b"aaa", b"bbb", b"ccc", b"ddd", b"eee", b"fff"].map(|rgb| verified(rgb)) {
            masters.put(&master).await.unwrap();
        }
        assert!(masters.bytes() <= 4 * 4096);
        assert_eq!(metrics.tier.evictions(), 2);
    }
}
