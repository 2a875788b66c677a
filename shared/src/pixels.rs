//! A master's pixels: interleaved 8-bit sRGB, the form in which masters are hashed, stored and cut.

use crate::ids::MasterId;
use crate::limits::{MASTER_AREA_PX_MAX, MASTER_SIDE_PX_MAX};

/// An 8-bit RGB image whose buffer always matches its size.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    width_px: u32,
    height_px: u32,
    rgb: Vec<u8>,
}

/// Why a buffer is not an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PixelsError {
    #[error("{width_px}×{height_px} is outside 1–{MASTER_SIDE_PX_MAX} px a side and {MASTER_AREA_PX_MAX} px in all")]
    Size { width_px: u32, height_px: u32 },
    #[error("{width_px}×{height_px} RGB takes {expected_bytes} bytes, not {bytes}")]
    Length { width_px: u32, height_px: u32, expected_bytes: usize, bytes: usize },
}

impl Pixels {
    /// # Errors
    /// When a side or the area is out of bounds or the buffer is not `3 · width · height` bytes long.
    pub fn new(width_px: u32, height_px: u32, rgb: Vec<u8>) -> Result<Self, PixelsError> {
        let area = u64::from(width_px) * u64::from(height_px);
        if width_px.max(height_px) > MASTER_SIDE_PX_MAX || area == 0 || area > MASTER_AREA_PX_MAX {
            return Err(PixelsError::Size { width_px, height_px });
        }
        #[allow(clippy::cast_possible_truncation, reason = "bounded by MASTER_AREA_PX_MAX")]
        let expected_bytes = area as usize * 3;
        if rgb.len() != expected_bytes {
            return Err(PixelsError::Length { width_px, height_px, expected_bytes, bytes: rgb.len() });
        }
        Ok(Self { width_px, height_px, rgb })
    }

    #[must_use]
    pub const fn width_px(&self) -> u32 {
        self.width_px
    }

    #[must_use]
    pub const fn height_px(&self) -> u32 {
        self.height_px
    }

    /// Interleaved R, G, B; rows from the top.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    #[must_use]
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// BLAKE3-128 of width and height (u32, little-endian) and the pixels.
    #[must_use]
    pub fn master_id(&self) -> MasterId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.width_px.to_le_bytes());
        hasher.update(&self.height_px.to_le_bytes());
        hasher.update(&self.rgb);
        MasterId::from_hash(&hasher.finalize())
    }
}

impl std::fmt::Debug for Pixels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pixels({}×{})", self.width_px, self.height_px)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_is_part_of_the_id() {
        let wide = Pixels::new(4, 1, vec![7; 12]).map(|p| p.master_id());
        let tall = Pixels::new(1, 4, vec![7; 12]).map(|p| p.master_id());
        assert!(wide.is_ok());
        assert_ne!(wide, tall);
    }

    #[test]
    fn a_buffer_of_another_length_is_refused() {
        assert!(matches!(Pixels::new(2, 2, vec![0; 11]), Err(PixelsError::Length { .. })));
        assert!(matches!(Pixels::new(0, 2, vec![]), Err(PixelsError::Size { .. })));
        assert!(matches!(Pixels::new(u32::MAX, u32::MAX, vec![]), Err(PixelsError::Size { .. })));
    }
}
