//! Foreign pictures, hostile until decoded: any AVIF, WebP, JPEG or PNG to its lightness and its perceptual hash.
//!
//! ```text
//! file ─▶ Sandbox (this process) ─▶ `bildkante-edge decode-picture` ─▶ confine, decode ─▶ head and samples ─▶ Sandbox ─▶ Grey
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | `sandbox` | the process that decodes: what it may use, how long it may take, what is believed of its answer |
//! | `wire` | the bytes between the two processes |
//! | `raster` | files to pixels by the decoders of `image`, and by `avif` |
//! | `avif` | the container: items, grids, how the picture is turned |
//! | `av1` | coded frames to RGB |
//!
//! Invariants: no decoder of a stranger's file runs in a process that serves; a picture is refused by its header before its
//! pixels are allocated; nothing of a file is stored.

mod av1;
mod avif;
mod raster;
mod sandbox;
mod wire;

use bildkante_shared::phash::PerceptualHash;
use serde::{Deserialize, Serialize};

pub use sandbox::{DecodeLimits, Sandbox, serve_one};

pub(crate) use avif::Still;

/// Largest side of a picture that is decoded, in pixels.
const SIDE_PX_MAX: u32 = 1 << 16;
/// Most characters of a decoder's complaint that are told.
const WHAT_CHARS_MAX: usize = 200;

/// Bytes of a pixel as the detector needs it.
const SAMPLES_PER_PX: u64 = 2;

/// A picture as the detector needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct Grey {
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// As `watermark::seen` gives them, two bytes a pixel, row by row.
    pub samples: Vec<u8>,
}

impl std::fmt::Debug for Grey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grey({}×{} px)", self.width_px, self.height_px)
    }
}

/// Why there are no pixels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum DecodeFault {
    #[error("it is no AVIF, WebP, JPEG or PNG by its first bytes")]
    Format,
    #[error("{width_px}×{height_px} px are more than the {pixels_max} that are decoded")]
    TooManyPixels { width_px: u32, height_px: u32, pixels_max: u64 },
    #[error("it cannot be decoded: {what}")]
    Damaged { what: String },
    #[error("it uses {what}, which is not decoded here")]
    Unsupported { what: String },
    #[error("decoding it took longer than {deadline_ms} ms")]
    Slow { deadline_ms: u64 },
    #[error("its decoder ended ({how}): it is damaged, or wants more memory than it may have")]
    Crashed { how: String },
    #[error("the decoder cannot be started: {reason}")]
    Start { reason: String },
}

impl DecodeFault {
    /// For reports and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::Damaged { .. } => "damaged",
            Self::Unsupported { .. } => "unsupported",
            Self::Slow { .. } => "slow",
            Self::Crashed { .. } => "crashed",
            Self::Start { .. } => "start",
        }
    }

    /// Whether the file is at fault, and not this installation.
    #[must_use]
    pub const fn is_of_the_file(&self) -> bool {
        !matches!(self, Self::Start { .. })
    }

    fn damaged(what: impl std::fmt::Display) -> Self {
        Self::Damaged { what: told(what) }
    }

    fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::Unsupported { what: told(what) }
    }
}

/// A bounded line: what a decoder says may repeat bytes of the file.
fn told(what: impl std::fmt::Display) -> String {
    what.to_string().chars().filter(|c| !c.is_control()).take(WHAT_CHARS_MAX).collect()
}

/// Refuses a size by the header alone.
fn check_size(width_px: u32, height_px: u32, pixels_max: u64) -> Result<(), DecodeFault> {
    let area_px = u64::from(width_px) * u64::from(height_px);
    if width_px == 0 || height_px == 0 {
        return Err(DecodeFault::damaged("a side of it is 0 px"));
    }
    if area_px > pixels_max || width_px.max(height_px) > SIDE_PX_MAX {
        return Err(DecodeFault::TooManyPixels { width_px, height_px, pixels_max });
    }
    Ok(())
}
