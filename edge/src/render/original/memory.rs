//! How much memory all jobs that decode originals may take together.
//!
//! What a file will take is known from its head. Invariants: the largest original fits; a job has its share before it allocates,
//! and gives it back when it ends, however it ends; who waits is served in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Opened, OriginalError, OriginalFormat, Samples};

/// Of all jobs.
const DECODE_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What is counted: a semaphore has 32 bits.
const UNIT_BYTES: u64 = 1 << 20;
/// Bytes of a pixel that comes from a decoder's process: red, green, blue and alpha.
const READ_BYTES_PER_PX: u64 = 4;
/// What such a process takes beside the pixels.
const PROCESS_BYTES: u64 = 32 << 20;
/// Longest a job waits for its share.
const DECODE_MEMORY_WAIT: Duration = Duration::from_secs(20);

/// Others take all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("other pictures are being decoded: {} MiB were not free within {} s", .bytes.div_ceil(UNIT_BYTES), .wait.as_secs())]
pub struct NoMemory {
    pub bytes: u64,
    pub wait: Duration,
}

/// See the module's documentation. Clones share it.
#[derive(Debug, Clone)]
pub struct DecodeMemory {
    units: Arc<Semaphore>,
    wait: Duration,
}

/// Part of it, until it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    _units: OwnedSemaphorePermit,
}

impl Default for DecodeMemory {
    fn default() -> Self {
        Self::new(DECODE_MEMORY_WAIT)
    }
}

impl DecodeMemory {
    #[must_use]
    pub fn new(wait: Duration) -> Self {
        let units = usize::try_from(DECODE_MEMORY_BYTES_MAX / UNIT_BYTES).unwrap_or(usize::MAX);
        Self { units: Arc::new(Semaphore::new(units)), wait }
    }

    /// What it has is [`memory_for`] a file.
    ///
    /// # Errors
    /// When others take too much for too long.
    pub async fn share(&self, bytes: u64) -> Result<MemoryShare, NoMemory> {
        let turn = Arc::clone(&self.units).acquire_many_owned(units(bytes));
        let units = tokio::time::timeout(self.wait, turn).await.ok().and_then(Result::ok);
        units.map(|units| MemoryShare { _units: units }).ok_or(NoMemory { bytes, wait: self.wait })
    }

    /// The same without waiting, for threads that have other work to do.
    #[must_use]
    pub fn share_now(&self, bytes: u64) -> Option<MemoryShare> {
        let units = Arc::clone(&self.units).try_acquire_many_owned(units(bytes)).ok()?;
        Some(MemoryShare { _units: units })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.min(DECODE_MEMORY_BYTES_MAX).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The most that decoding a file takes at one time, by its head.
///
/// # Errors
/// As [`super::decode_original`] has them for a head.
pub fn memory_for(file: &[u8]) -> Result<u64, OriginalError> {
    let opened = Opened::read(file)?;
    let decoded = opened.samples.bytes_per_px();
    if let Samples::Coded(head) = &opened.samples {
        // Its decoder's process and what it reads from there, which grows by doubling; the file, and the copy for that process.
        let per_px = decoded + 2 * READ_BYTES_PER_PX;
        return Ok(head.area_px * per_px + 2 * file.len() as u64 + PROCESS_BYTES);
    }
    // A progressive JPEG is kept as coefficients of 16 bits until it is whole.
    let coefficients = if opened.format == OriginalFormat::Jpeg { 2 * decoded } else { 0 };
    // Decoded and as RGB; RGB in two colour spaces, or lying and upright.
    let per_px = (decoded + 3).max(6).max(decoded + coefficients);
    let area_px = u64::from(opened.width_px) * u64::from(opened.height_px);
    // The file itself, and a decoder's copy of it.
    Ok(area_px * per_px + 2 * file.len() as u64)
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder as _};

    use super::super::coded::AVIF_AREA_PX_MAX;
    use super::super::{ORIGINAL_AREA_PX_MAX, ORIGINAL_FILE_BYTES_MAX};
    use super::*;

    #[test]
    fn a_file_takes_what_its_head_says_and_the_largest_one_fits() {
        let mut file = Vec::new();
        PngEncoder::new(&mut file).write_image(&[0; 8 * 600], 20, 30, ExtendedColorType::Rgba16).expect("a PNG");
        assert_eq!(memory_for(&file), Ok(600 * 11 + 2 * file.len() as u64));
        let largest = ORIGINAL_AREA_PX_MAX * 12 + 2 * ORIGINAL_FILE_BYTES_MAX as u64;
        assert!(largest <= DECODE_MEMORY_BYTES_MAX, "a progressive JPEG of four inks");
        let largest = AVIF_AREA_PX_MAX * 24 + 2 * ORIGINAL_FILE_BYTES_MAX as u64 + PROCESS_BYTES;
        assert!(largest <= DECODE_MEMORY_BYTES_MAX, "an AVIF");
        assert_eq!(memory_for(b"GIF89a"), Err(OriginalError::Foreign { name: "GIF" }));
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_is_told_so() {
        let memory = DecodeMemory::new(Duration::from_millis(50));
        let half = memory.share(DECODE_MEMORY_BYTES_MAX / 2).await.expect("free");
        let more = memory.share(DECODE_MEMORY_BYTES_MAX / 2 + 1).await.expect_err("taken");
        assert_eq!(more.to_string(), "other pictures are being decoded: 513 MiB were not free within 0 s");
        assert!(memory.share_now(DECODE_MEMORY_BYTES_MAX).is_none());
        drop(half);
        assert!(memory.share_now(DECODE_MEMORY_BYTES_MAX).is_some(), "it was given back");
    }
}
