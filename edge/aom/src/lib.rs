//! One picture to AV1: a safe wall around libaom's encoder, for still pictures only.
//!
//! All `unsafe` of encoding is here. Invariants: samples are checked against the picture's size and depth before libaom sees them;
//! one thread; whatever was opened is closed; the same picture, speed and quantizer give the same bytes, because libaom's
//! vector code gives what its C code gives.
//!
//! Source: the documentation of libaom's `aom_encoder.h`, `aomcx.h` and `aom_image.h`.

mod context;
mod image;

use context::Context;
use image::Image;

/// How many bits a sample has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Eight,
    /// Rounds finer inside the encoder, which saves bytes even where the source has eight bits.
    Ten,
}

impl Depth {
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Eight => 8,
            Self::Ten => 10,
        }
    }

    const fn most(self) -> u16 {
        match self {
            Self::Eight => 255,
            Self::Ten => 1023,
        }
    }
}

/// How many chroma samples there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chroma {
    /// 4:2:0, half as many in both directions.
    Half,
    /// 4:4:4, as many as there are luma samples.
    Full,
}

/// Samples of BT.601's YCbCr in full range, with sRGB's primaries and transfer.
#[derive(Debug, Clone)]
pub struct Picture {
    width_px: u32,
    height_px: u32,
    depth: Depth,
    chroma: Chroma,
    planes: [Vec<u16>; 3],
}

/// Largest side: AV1 allows as much (§5.5.1).
pub const SIDE_PX_MAX: u32 = 65_536;

impl Picture {
    /// # Errors
    /// When a plane has another number of samples than its size needs, or a sample has more bits than the depth.
    pub fn new(
        (width_px, height_px): (u32, u32),
        depth: Depth,
        chroma: Chroma,
        planes: [Vec<u16>; 3],
    ) -> Result<Self, AomError> {
        if width_px == 0 || height_px == 0 || width_px > SIDE_PX_MAX || height_px > SIDE_PX_MAX {
            return Err(AomError::Size { width_px, height_px });
        }
        let picture = Self { width_px, height_px, depth, chroma, planes };
        for (at, plane) in picture.planes.iter().enumerate() {
            let (width, height) = picture.plane_size(at);
            if plane.len() != width * height || plane.iter().any(|sample| *sample > depth.most()) {
                return Err(AomError::Samples { plane: at });
            }
        }
        Ok(picture)
    }

    #[must_use]
    pub const fn chroma(&self) -> Chroma {
        self.chroma
    }

    #[must_use]
    pub const fn depth(&self) -> Depth {
        self.depth
    }

    fn plane_size(&self, plane: usize) -> (usize, usize) {
        let (width, height) = (self.width_px as usize, self.height_px as usize);
        if plane == 0 || self.chroma == Chroma::Full {
            (width, height)
        } else {
            (width.div_ceil(2), height.div_ceil(2))
        }
    }
}

/// How it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// libaom's `cpu-used`: 0, the slowest, to 9.
    pub speed: u8,
    /// libaom's `cq-level`: 1, the best, to 63.
    pub quantizer: u8,
}

/// The finest quantizer. 0 asks for a lossless file, and libaom 3.11 writes one with the options of this crate that no decoder takes.
pub const QUANTIZER_MIN: u8 = 1;
/// The coarsest quantizer.
pub const QUANTIZER_MAX: u8 = 63;
/// The quickest speed for still pictures.
pub const SPEED_MAX: u8 = 9;

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AomError {
    #[error("{width_px}×{height_px} px is outside 1–{SIDE_PX_MAX} px a side")]
    Size { width_px: u32, height_px: u32 },
    #[error("plane {plane} has other samples than its size and depth allow")]
    Samples { plane: usize },
    #[error("speed is 0–{SPEED_MAX} and the quantizer {QUANTIZER_MIN}–{QUANTIZER_MAX}")]
    Settings,
    #[error("there is not enough memory")]
    Memory,
    #[error("libaom refused {step}: {reason}")]
    Refused { step: &'static str, reason: String },
    #[error("libaom gave no picture")]
    Nothing,
}

/// One temporal unit of low-overhead open bitstream units (AV1 §5.2), a still picture with a reduced header.
///
/// # Errors
/// When the settings are out of range or libaom refuses.
pub fn encode(picture: &Picture, settings: Settings) -> Result<Vec<u8>, AomError> {
    if settings.speed > SPEED_MAX || !(QUANTIZER_MIN..=QUANTIZER_MAX).contains(&settings.quantizer) {
        return Err(AomError::Settings);
    }
    let mut context = Context::open(picture, settings)?;
    let image = Image::of(picture)?;
    context.encode(&image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width_px: u32, height_px: u32, depth: Depth, chroma: Chroma) -> Picture {
        let halved = |side: u32| if chroma == Chroma::Half { side.div_ceil(2) } else { side };
        let plane = |width: u32, height: u32, step: u32| -> Vec<u16> {
            let level = |x: u32, y: u32| ((x * step + y * 5) % u32::from(depth.most())) as u16;
            (0..height).flat_map(|y| (0..width).map(move |x| level(x, y))).collect()
        };
        let (width, height) = (halved(width_px), halved(height_px));
        let planes = [plane(width_px, height_px, 3), plane(width, height, 1), plane(width, height, 2)];
        Picture::new((width_px, height_px), depth, chroma, planes).expect("samples that fit")
    }

    #[test]
    fn every_layout_depth_and_odd_size_comes_back_with_its_size() {
        for chroma in [Chroma::Half, Chroma::Full] {
            for depth in [Depth::Eight, Depth::Ten] {
                for (width_px, height_px) in [(1, 1), (2, 7), (65, 33), (128, 96)] {
                    let source = picture(width_px, height_px, depth, chroma);
                    let obus = encode(&source, Settings { speed: 8, quantizer: 20 }).expect("a file");
                    let frame = bildkante_av1::decode(&obus, 1 << 16, bildkante_av1::Threads::Own).expect("a picture");
                    assert_eq!((frame.width_px(), frame.height_px()), (width_px as usize, height_px as usize));
                    assert_eq!((frame.bits(), frame.is_full_range(), frame.matrix()), (depth.bits(), true, 6));
                    let is_half = frame.layout() == bildkante_av1::Layout::Half;
                    assert_eq!(is_half, chroma == Chroma::Half, "{:?}", frame.layout());
                }
            }
        }
    }

    #[test]
    fn the_same_picture_gives_the_same_bytes_and_a_finer_quantizer_more_of_them() {
        let source = picture(120, 80, Depth::Ten, Chroma::Half);
        let file = |speed, quantizer| encode(&source, Settings { speed, quantizer }).expect("a file");
        assert_eq!(file(6, 30), file(6, 30));
        assert!(file(6, 10).len() > file(6, 50).len());
    }

    #[test]
    fn what_does_not_fit_is_refused_before_libaom_sees_it() {
        let size = (4, 4);
        let short = [vec![0; 15], vec![0; 4], vec![0; 4]];
        let refused = Picture::new(size, Depth::Eight, Chroma::Half, short).expect_err("a short plane");
        assert_eq!(refused, AomError::Samples { plane: 0 });
        let loud = [vec![0; 16], vec![256; 4], vec![0; 4]];
        let refused = Picture::new(size, Depth::Eight, Chroma::Half, loud).expect_err("nine bits");
        assert_eq!(refused, AomError::Samples { plane: 1 });
        assert!(Picture::new((0, 4), Depth::Eight, Chroma::Half, Default::default()).is_err());
        let good = picture(4, 4, Depth::Eight, Chroma::Half);
        assert_eq!(encode(&good, Settings { speed: 10, quantizer: 1 }), Err(AomError::Settings));
        assert_eq!(encode(&good, Settings { speed: 9, quantizer: 0 }), Err(AomError::Settings));
        assert_eq!(encode(&good, Settings { speed: 9, quantizer: 64 }), Err(AomError::Settings));
    }
}
