//! Files of strangers to pixels, hostile until decoded: each in a process of its own.
//!
//! ```text
//! file ─▶ Sandbox (this process) ─▶ `bildkante-edge decode-picture` ─▶ confine, decode ─▶ head and samples ─▶ Sandbox ─▶ Grey, Decoded
//! ```
//!
//! The detector asks for the lightness of any AVIF, WebP, JPEG or PNG. Originals of imports and layers ask for the colours of AVIF,
//! whose decoder may end its process; the other formats they decode themselves.
//!
//! | module | owns |
//! | --- | --- |
//! | `sandbox` | the process that decodes: what it may use, how long it may take, what is believed of its answer |
//! | `wire` | the bytes between the two processes |
//! | `raster` | files to pixels by the decoders of `image`, and by `avif` |
//! | `avif` | a picture from its coded frames, and what its head promises |
//! | `container` | boxes: items, grids, transparency, properties |
//! | `turn` | how a picture is cut and turned |
//! | `av1` | coded frames to RGB and alpha |
//!
//! Invariants: no decoder of a stranger's file runs in a process that serves, save the memory-safe ones of PNG, JPEG and WebP; a
//! picture is refused by its header before its pixels are allocated; nothing of a file is stored.

mod av1;
mod avif;
mod container;
mod raster;
mod sandbox;
mod turn;
mod wire;

use std::fmt;

use bildkante_shared::phash::PerceptualHash;
use clap::ValueEnum;
use image::{ColorType, DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use serde::{Deserialize, Serialize};

pub use sandbox::{DecodeLimits, DecoderCommand, Sandbox, serve_one};

pub(crate) use avif::{AvifHead, Still};

/// Largest side of a picture that is decoded, in pixels.
const SIDE_PX_MAX: u32 = 1 << 16;
/// Most characters of a decoder's complaint that are told.
const WHAT_CHARS_MAX: usize = 200;

/// What the decoding process takes of memory for a pixel: decoded at 16 bits and four samples, with film grain beside it, and as
/// RGB with alpha.
pub(crate) const DECODER_BYTES_PER_PX: u64 = 16;

/// What is asked of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// Of any format, for the detector.
    Lightness,
    /// Of AVIF, for originals and layers.
    Colours,
}

impl Answer {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Lightness => "lightness",
            Self::Colours => "colours",
        }
    }
}

/// A picture as the detector needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct Grey {
    pub width_px: u32,
    pub height_px: u32,
    pub phash: PerceptualHash,
    /// As `watermark::seen` gives them, two bytes a pixel, row by row.
    pub samples: Vec<u8>,
}

impl fmt::Debug for Grey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grey({}×{} px)", self.width_px, self.height_px)
    }
}

/// A picture as it is shown, 8 bits a sample, colours not multiplied by the transparency.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub picture: DynamicImage,
    pub coding: Coding,
}

/// How colours are coded (ITU-T H.273 §8.1–8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coding {
    pub primaries: u16,
    pub transfer: u16,
    pub matrix: u16,
    pub is_full_range: bool,
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

/// Samples of 8 bits as a picture; `None` where some are missing.
fn pictured((width, height): (u32, u32), kind: ColorType, samples: Vec<u8>) -> Option<DynamicImage> {
    match kind {
        ColorType::L8 => GrayImage::from_raw(width, height, samples).map(DynamicImage::ImageLuma8),
        ColorType::La8 => GrayAlphaImage::from_raw(width, height, samples).map(DynamicImage::ImageLumaA8),
        ColorType::Rgb8 => RgbImage::from_raw(width, height, samples).map(DynamicImage::ImageRgb8),
        ColorType::Rgba8 => RgbaImage::from_raw(width, height, samples).map(DynamicImage::ImageRgba8),
        _ => None,
    }
}
