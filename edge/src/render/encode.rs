//! One encoder per format behind one call; each on the calling thread, each from its own crate.
//!
//! A panic in an encoder becomes an error here: the job fails, the thread lives on.

mod avif;
mod jpeg;
mod png;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::resize::Raster;
use super::{Rung, panic_text, quality};
use crate::render::Quality;
use crate::words::Format;

/// Why an encoder gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the {} encoder failed: {reason}", .format.as_str())]
    Failed { format: Format, reason: String },
    #[error("the {} encoder panicked: {reason}", .format.as_str())]
    Panicked { format: Format, reason: String },
}

/// Encodes without any metadata. `quality` is perceptual; `png` is lossless and ignores it.
///
/// # Errors
/// When the encoder refuses or panics.
pub fn encode(raster: &Raster, format: Format, quality: Quality, rung: Rung) -> Result<Vec<u8>, EncodeError> {
    encode_native(raster, format, quality::native(quality, format, rung), rung)
}

/// The same at a quality of the encoder's own scale, clamped to it. For calibration; all other callers use [`encode`].
///
/// # Errors
/// When the encoder refuses or panics.
pub fn encode_native(raster: &Raster, format: Format, native: f32, rung: Rung) -> Result<Vec<u8>, EncodeError> {
    let (low, high) = quality::native_range(format);
    let native = if native.is_nan() { high } else { native.clamp(low, high) };
    let encoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Avif => avif::encode(raster, native, rung),
        Format::Webp => webp::encode(raster, native, rung),
        Format::Jpeg => jpeg::encode(raster, native, rung),
        Format::Png => png::encode(raster, rung),
    }));
    match encoded {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(reason)) => Err(EncodeError::Failed { format, reason }),
        Err(panic) => Err(EncodeError::Panicked { format, reason: panic_text(&*panic) }),
    }
}
