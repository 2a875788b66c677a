//! Renditions from masters: decode → crop → resize in linear light → encode → metadata.

use std::fmt;

use crate::negotiate::Format;

/// Raise when the same master and spec would come out as other bytes: it is part of every rendition key.
pub const ENCODER_EPOCH: u32 = 1;

/// Perceptual quality 1–100 that means the same in every format (see `quality`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quality(u8);

impl Quality {
    pub const LOW: Self = Self(45);
    pub const MEDIUM: Self = Self(60);
    /// What `q=auto` means until it is chosen per image.
    pub const AUTO: Self = Self(70);
    pub const HIGH: Self = Self(82);

    /// `None` outside 1–100.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if 1 <= value && value <= 100 { Some(Self(value)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How far an encode went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rung {
    /// Encoded while the reader waits.
    Quick,
    /// Encoded in the background for fewer bytes at the same quality.
    Final,
}

impl Rung {
    pub const ALL: [Self; 2] = [Self::Quick, Self::Final];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Final => "final",
        }
    }
}

/// What is cut from a master: everything that changes the bytes but the master, the rung and the marking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RenditionSpec {
    /// Size in pixels of the rendition; the master is centre-cropped to its ratio.
    pub width_px: u32,
    pub height_px: u32,
    pub format: Format,
    pub quality: Quality,
}

impl fmt::Display for RenditionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}.{} q{}", self.width_px, self.height_px, self.format.as_str(), self.quality.get())
    }
}
