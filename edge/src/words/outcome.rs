//! Where an answer came from and what it took: words of `Cache-Status`, metrics, logs and `Server-Timing`.

use std::time::Duration;

/// The tag of every image of every campaign, those included that are no longer served: what purges everything where a
/// cache knows tags only.
pub const EVERY_IMAGE_TAG: &str = "bildkante";

/// Where a response came from: `Cache-Status`, metrics and logs use the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From memory.
    Memory,
    /// From disk.
    Disk,
    /// From the store a fleet shares.
    Object,
    /// Purged softly, and shown while another is made.
    Stale,
    /// Cut from a master that was there.
    Rendered,
    /// Drawn by a node for this request, or for one it waited with.
    Generated,
    /// The variant's previous picture instead: the recipe was edited.
    Previous,
    /// The slot's default variant instead.
    Fallback,
    /// The picture itself in another width or format instead.
    NearestWidth,
    /// A palette image instead.
    Placeholder,
    /// No image at all.
    Error,
}

impl Outcome {
    pub const ALL: [Self; 11] = [
        Self::Memory,
        Self::Disk,
        Self::Object,
        Self::Stale,
        Self::Rendered,
        Self::Generated,
        Self::Previous,
        Self::Fallback,
        Self::NearestWidth,
        Self::Placeholder,
        Self::Error,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Object => "object",
            Self::Stale => "stale",
            Self::Rendered => "rendered",
            Self::Generated => "generated",
            Self::Previous => "previous",
            Self::Fallback => "fallback",
            Self::NearestWidth => "nearest-width",
            Self::Placeholder => "placeholder",
            Self::Error => "error",
        }
    }

    /// Whether it was there and fresh.
    #[must_use]
    pub const fn is_hit(self) -> bool {
        matches!(self, Self::Memory | Self::Disk | Self::Object)
    }

    /// Whether it shows the variant that was asked for, as it is now.
    #[must_use]
    pub const fn is_own(self) -> bool {
        !matches!(self, Self::Previous | Self::Fallback | Self::Placeholder | Self::Error)
    }
}

/// Whether this request led the work or waited for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    Led,
    Collapsed,
}

/// Where the time of a fill went.
#[derive(Debug, Clone, Copy, Default)]
pub struct FillTimings {
    pub generate: Option<Duration>,
    pub render: Option<Duration>,
    /// A part of `render`.
    pub layers: Option<LayersTiming>,
}

/// What laying layers on a picture took, and how many of its texts needed a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayersTiming {
    pub elapsed: Duration,
    pub fallbacks: u8,
}

impl FillTimings {
    /// As `Server-Timing` wants them.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let layers = self.layers.map(|layers| layers.elapsed);
        let named = [("generate", self.generate), ("render", self.render), ("layers", layers)];
        named.into_iter().filter_map(|(name, duration)| Some((name, duration?)))
    }

    /// Texts of layers that needed a fallback, where layers were laid on for this answer.
    #[must_use]
    pub fn fallbacks(&self) -> Option<u8> {
        self.layers.map(|layers| layers.fallbacks)
    }
}
