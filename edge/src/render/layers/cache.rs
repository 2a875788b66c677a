//! Layers in the sizes that were drawn lately, under one budget of bytes for the whole process.
//!
//! A patch follows from what its key is a hash of, so that nothing here changes which bytes come out, only when.

use std::sync::{Arc, LazyLock};

use moka::sync::Cache;

use super::patch::Patch;

/// What all patches that are kept take together.
const KEPT_BYTES_MAX: u64 = 64 << 20;

static KEPT: LazyLock<Cache<[u8; 32], Arc<Patch>>> = LazyLock::new(|| {
    Cache::builder()
        .max_capacity(KEPT_BYTES_MAX)
        .weigher(|_: &[u8; 32], patch: &Arc<Patch>| {
            u32::try_from(std::mem::size_of_val(patch.pixels.as_slice())).unwrap_or(u32::MAX)
        })
        .build()
});

/// The patch of a key, made where it is not there. Two that ask at once may both make it.
pub(super) fn kept<E>(key: [u8; 32], make: impl FnOnce() -> Result<Patch, E>) -> Result<Arc<Patch>, E> {
    if let Some(patch) = KEPT.get(&key) {
        return Ok(patch);
    }
    let patch = Arc::new(make()?);
    KEPT.insert(key, Arc::clone(&patch));
    Ok(patch)
}
