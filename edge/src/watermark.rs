//! The watermark: 64 bits in the pixels of a rendition that say which master it was cut from and whose edge cut it.
//!
//! `payload` is what it says, `code` carries that through noise, `pattern` spreads it over waves that the secret
//! chooses, `embed` adds them as strongly as a picture hides them, and `detect` finds them again after scaling, cutting
//! and coding. `config` reads the keys. `docs/watermark.md` describes the algorithm for others, with what it survives and what it does not.
//!
//! Invariants:
//! - Embedding is a function of pixels, secret and payload, in integers: every edge makes the same bytes.
//! - Nothing of a picture that is embedded in or searched is kept.
//! - A holder of the secret can write marks, and erase them: a mark is a hint where a picture comes from, a signature
//!   is the proof.

mod code;
mod config;
mod detect;
mod embed;
mod pattern;
mod payload;
#[cfg(test)]
mod tests;
mod tile;

use std::fmt;

pub use config::{WatermarkConfig, WatermarkKeyError, Watermarks};
pub use detect::{Effort, Found, Samples, Trial, detect, detect_in, seen, trials};
pub use payload::{KeyId, MasterPrefix, Payload};

use code::encoded;
use pattern::Pattern;

/// The algorithm, as C2PA's list of soft-binding algorithms would name it.
pub const ALGORITHM: &str = "com.bildkante.watermark.1";
/// The smallest shorter side and the smallest area of a rendition that is marked. By measurement: of textured squares
/// of 256 px, all give their mark back as they are and 79 % as our JPEG; of 192 px, all and 40 %.
pub const CARRIER_SIDE_PX_MIN: u32 = 128;
pub const CARRIER_AREA_PX_MIN: u64 = 256 * 256;

/// What marks are made and found with. All edges of a fleet share it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// What the digest of a secret is derived under: another for each design, so for each change of the bytes that are written.
const DESIGN: &str = "bildkante 2026-11 watermark 1 digest: lightness and colour";
/// Designs that marked before, the latest first. What they marked is still found.
const FORMER_DESIGNS: [&str; 1] = ["bildkante 2026-11 watermark 1 digest"];

impl Secret {
    /// The secret of installations that have none of their own. It stands in the source, so anybody can write and erase
    /// its marks.
    pub const PUBLISHED: Self = Self(*b"bildkante: a published watermark");

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Public: it says nothing of the secret that would help to guess it.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        let hash = blake3::derive_key("bildkante 2026-11 watermark 1 key id", &self.0);
        KeyId::from_hash([hash[0], hash[1]])
    }

    fn digest(&self, design: &str) -> [u8; 16] {
        let hash = blake3::derive_key(design, &self.0);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        digest
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(key {})", self.key_id())
    }
}

/// Why a picture was not marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmarked {
    #[error(
        "{width_px}×{height_px} px is too small for a watermark: it takes {CARRIER_SIDE_PX_MIN} px a side and \
         {CARRIER_AREA_PX_MIN} px in all"
    )]
    TooSmall { width_px: u32, height_px: u32 },
    #[error("{width_px}×{height_px} RGB takes {expected_bytes} bytes, not {bytes}")]
    Length { width_px: u32, height_px: u32, expected_bytes: u64, bytes: usize },
}

impl Unmarked {
    /// For logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "too-small",
            Self::Length { .. } => "length",
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub payload: Payload,
    /// The share of the picture without texture, in per cent: what is written there is lost first.
    pub calm_percent: u8,
}

/// A secret made ready to mark and to find.
#[derive(Clone)]
pub struct Watermark {
    key: KeyId,
    digest: [u8; 16],
    former_digests: [[u8; 16]; FORMER_DESIGNS.len()],
    pattern: Pattern,
}

impl Watermark {
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let stream =
            blake3::Hasher::new_derive_key("bildkante 2026-11 watermark 1 pattern").update(&secret.0).finalize_xof();
        let (digest, former_digests) = (secret.digest(DESIGN), FORMER_DESIGNS.map(|design| secret.digest(design)));
        Self { key: secret.key_id(), digest, former_digests, pattern: Pattern::new(stream) }
    }

    /// Tells this secret and this design from every other, and nothing of the secret.
    #[must_use]
    pub const fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// [`Self::digest`] of the same secret in designs that marked before, the latest first.
    #[must_use]
    pub const fn former_digests(&self) -> &[[u8; 16]] {
        &self.former_digests
    }

    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// What this secret's mark says of a master.
    #[must_use]
    pub const fn payload(&self, master: MasterPrefix) -> Payload {
        Payload::new(self.key, master)
    }

    /// Marks interleaved 8-bit RGB in place.
    ///
    /// # Errors
    /// When the picture is too small to carry a mark, or the buffer does not have its size; it is left as it was.
    pub fn embed(
        &self,
        rgb: &mut [u8],
        width_px: u32,
        height_px: u32,
        master: MasterPrefix,
    ) -> Result<Applied, Unmarked> {
        let area_px = u64::from(width_px) * u64::from(height_px);
        if width_px.min(height_px) < CARRIER_SIDE_PX_MIN || area_px < CARRIER_AREA_PX_MIN {
            return Err(Unmarked::TooSmall { width_px, height_px });
        }
        if rgb.len() as u64 != area_px * 3 {
            return Err(Unmarked::Length { width_px, height_px, expected_bytes: area_px * 3, bytes: rgb.len() });
        }
        Ok(self.embed_any_size(rgb, width_px, master))
    }

    /// The same for whole rows of a picture that may be too small: measuring where that begins needs it.
    #[doc(hidden)]
    pub fn embed_any_size(&self, rgb: &mut [u8], width_px: u32, master: MasterPrefix) -> Applied {
        let payload = self.payload(master);
        let tiles = self.pattern.tiles(&encoded(&payload.frame()));
        Applied { payload, calm_percent: embed::add(rgb, width_px as usize, &tiles) }
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watermark(key {})", self.key)
    }
}
