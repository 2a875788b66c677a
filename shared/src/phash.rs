//! The 256-bit perceptual hash as both sides make, store and compare it: nodes of what they draw, edges of pictures that
//! somebody shows them. Both have to come to the same bits, so one function makes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// 256 bits of a DCT of the luma plane; near images have near hashes (Hamming distance).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PerceptualHash([u64; 4]);

/// A perceptual hash is 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a perceptual hash is 64 lower-case hexadecimal digits")]
pub struct PerceptualHashError;

impl PerceptualHash {
    pub const BITS: u32 = 256;

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_be_bytes(*chunk);
        }
        Self(words)
    }

    /// Of interleaved 8-bit RGB; `None` where the buffer does not have that size. Luma scaled to 32 × 32, DCT, the 16 × 16
    /// lowest frequencies against their median (crate `image_hasher`).
    #[cfg(feature = "hash-pixels")]
    #[must_use]
    pub fn of(rgb: Vec<u8>, width_px: u32, height_px: u32) -> Option<Self> {
        let hasher = image_hasher::HasherConfig::with_bytes_type::<[u8; 32]>()
            .hash_size(16, 16)
            .hash_alg(image_hasher::HashAlg::Median)
            .preproc_dct()
            .to_hasher();
        let image = image::RgbImage::from_raw(width_px, height_px, rgb).filter(|_| width_px > 0 && height_px > 0)?;
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hasher.hash_image(&image).as_bytes());
        Some(Self::from_bytes(bytes))
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = word.to_be_bytes();
        }
        bytes
    }

    /// Hamming distance, 0–256.
    #[must_use]
    pub fn distance(self, other: Self) -> u32 {
        self.0.iter().zip(other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

impl fmt::Display for PerceptualHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for PerceptualHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerceptualHash({self})")
    }
}

impl FromStr for PerceptualHash {
    type Err = PerceptualHashError;

    fn from_str(text: &str) -> Result<Self, PerceptualHashError> {
        let raw = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| PerceptualHashError)?;
        Ok(Self::from_bytes(raw.try_into().map_err(|_| PerceptualHashError)?))
    }
}

impl Serialize for PerceptualHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PerceptualHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_differing_bits() {
        let zero = PerceptualHash::from_bytes([0; 32]);
        let mut bytes = [0; 32];
        bytes[0] = 0b1000_0001;
        bytes[31] = 1;
        assert_eq!(zero.distance(PerceptualHash::from_bytes(bytes)), 3);
        assert_eq!(zero.distance(PerceptualHash::from_bytes([0xff; 32])), PerceptualHash::BITS);
    }

    #[test]
    fn text_round_trips() {
        let hash = PerceptualHash::from_bytes(*blake3::hash(b"x").as_bytes());
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }
}
