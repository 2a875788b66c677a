//! Checkpoints' networks in the host's memory, read from their files once for all devices.
//!
//! A processor computes with the very tensors that were read. A device with memory of its own is given copies, and what was read
//! stays here as long as there is room, so that networks which had to make room on a device come back without their files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bildkante_shared::checkpoint::{FileDigests, FileIdentity, look};
use bildkante_shared::ids::Digest;
use parking_lot::Mutex;
use tch::Device;

use crate::diffusion::device;
use crate::diffusion::family::{Blueprint, Image};
use crate::diffusion::loading::{CheckpointError, Placement, check_unchanged};
use crate::engine::MoveKind;

/// Of the host's memory, the part that networks may take which devices have copies of, where no bound is configured: a quarter.
const HOST_PARTS: u64 = 4;

/// What was read. One thread at a time moves it to its device.
pub(super) type SharedImage = Arc<Mutex<Image>>;

/// A checkpoint's folder as it was when its configurations were read.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) blueprint: Blueprint,
    files: Arc<Vec<(String, FileIdentity)>>,
}

impl Found {
    pub(super) fn read(folder: &Path, placement: Placement, known: &FileDigests) -> Result<Self, CheckpointError> {
        let files = Arc::new(look(folder)?);
        let blueprint = Blueprint::read(folder, placement, known)?;
        check_unchanged(folder, &files)?;
        Ok(Self { folder: folder.to_owned(), blueprint, files })
    }

    fn image(&self, placement: Placement) -> Result<Image, CheckpointError> {
        let image = Image::read(&self.folder, &self.blueprint, placement)?;
        check_unchanged(&self.folder, &self.files)?;
        Ok(image)
    }
}

/// Which networks, laid out for which kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    digest: Digest,
    for_processor: bool,
}

/// One checkpoint's image while any device or the library has it. Locked while it is read.
type Slot = Arc<Mutex<Weak<Mutex<Image>>>>;

#[derive(Debug)]
struct Kept {
    key: Key,
    /// Keeps the slot's image in memory.
    _image: SharedImage,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<(Key, Slot)>,
    /// The last one used comes last.
    kept: Vec<Kept>,
}

/// The networks that were read.
#[derive(Debug)]
pub(super) struct Library {
    state: Mutex<State>,
    bytes_max: u64,
}

impl Library {
    /// Keeps at most so many bytes; 0: a part of the host's memory.
    pub(super) fn new(bytes_max: u64) -> Self {
        let total_bytes = || device::memory(Device::Cpu).map_or(0, |memory| memory.total_bytes);
        let bytes_max = if bytes_max == 0 { total_bytes() / HOST_PARTS } else { bytes_max };
        Self { state: Mutex::default(), bytes_max }
    }

    /// A checkpoint's networks for a placement, and where they came from. Blocks while they are read, here or for another device.
    ///
    /// # Errors
    /// When they cannot be read, or the folder has changed since it was found.
    pub(super) fn image(
        &self,
        found: &Found,
        placement: Placement,
    ) -> Result<(SharedImage, MoveKind), CheckpointError> {
        let key = Key { digest: found.blueprint.digest(), for_processor: placement.device == Device::Cpu };
        let slot = self.state.lock().slot(key);
        let mut known = slot.lock();
        if let Some(image) = known.upgrade() {
            self.keep(key, &image, found.blueprint.bytes(placement));
            return Ok((image, MoveKind::FromHost));
        }
        let image = Arc::new(Mutex::new(found.image(placement)?));
        *known = Arc::downgrade(&image);
        self.keep(key, &image, found.blueprint.bytes(placement));
        Ok((image, MoveKind::FromFiles))
    }

    /// Lets go of a checkpoint that is gone.
    pub(super) fn forget(&self, digest: Digest) {
        self.state.lock().kept.retain(|kept| kept.key.digest != digest);
    }

    fn keep(&self, key: Key, image: &SharedImage, bytes: u64) {
        if key.for_processor {
            // The device's own memory: it keeps what it computes with.
            return;
        }
        let mut state = self.state.lock();
        state.kept.retain(|kept| kept.key != key);
        state.kept.push(Kept { key, _image: Arc::clone(image), bytes });
        while state.kept.iter().map(|kept| kept.bytes).sum::<u64>() > self.bytes_max {
            let _oldest = state.kept.remove(0);
        }
    }
}

impl State {
    fn slot(&mut self, key: Key) -> Slot {
        self.slots.retain(|(known, slot)| *known == key || slot.try_lock().is_none_or(|slot| slot.strong_count() > 0));
        if let Some((_, slot)) = self.slots.iter().find(|(known, _)| *known == key) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        self.slots.push((key, Arc::clone(&slot)));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::diffusion::dtype::DType;

    fn found() -> Found {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints/sd1-tiny");
        let placement = Placement::new(Device::Cpu, DType::F32);
        Found::read(&folder, placement, &FileDigests::default()).expect("a checkpoint")
    }

    /// As for a device with memory of its own. Nothing is moved there.
    const ELSEWHERE: Placement = Placement::new(Device::Cuda(0), DType::F32);

    #[test]
    fn devices_that_ask_at_once_have_it_read_once() {
        let (library, found, start) = (Library::new(1 << 40), found(), Barrier::new(4));
        let ask = || {
            start.wait();
            library.image(&found, ELSEWHERE).expect("readable").1
        };
        let moves: Vec<MoveKind> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no defect")).collect()
        });
        assert_eq!(moves.iter().filter(|kind| **kind == MoveKind::FromFiles).count(), 1, "{moves:?}");
        assert_eq!(library.image(&found, ELSEWHERE).expect("kept").1, MoveKind::FromHost);
        library.forget(found.blueprint.digest());
        assert_eq!(library.image(&found, ELSEWHERE).expect("readable").1, MoveKind::FromFiles);
    }

    #[test]
    fn what_has_no_room_in_the_host_is_read_again() {
        let (library, found) = (Library::new(1), found());
        for _ in 0..2 {
            assert_eq!(library.image(&found, ELSEWHERE).expect("readable").1, MoveKind::FromFiles);
        }
        let (held, _) = library.image(&found, ELSEWHERE).expect("readable");
        assert_eq!(library.image(&found, ELSEWHERE).expect("another device moves it").1, MoveKind::FromHost);
        drop(held);
    }
}
