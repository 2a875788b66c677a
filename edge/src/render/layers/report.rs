//! What became of the layers of one picture.

use serde::Serialize;

use super::Layer;
use super::text::Misfit;

/// What was done about a text that could not be set or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackTaken {
    Panel,
    Shorter,
    LeftOut,
    /// Nothing that the slot lists helped: it is drawn as it is.
    Kept,
}

impl FallbackTaken {
    pub const ALL: [Self; 4] = [Self::Panel, Self::Shorter, Self::LeftOut, Self::Kept];

    /// For metric labels and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Panel => "panel",
            Self::Shorter => "shorter",
            Self::LeftOut => "left_out",
            Self::Kept => "kept",
        }
    }
}

/// Why a fallback was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackReason {
    Contrast,
    Glyph,
    Room,
}

impl FallbackReason {
    pub const ALL: [Self; 3] = [Self::Contrast, Self::Glyph, Self::Room];

    /// For metric labels and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contrast => "contrast",
            Self::Glyph => "glyph",
            Self::Room => "room",
        }
    }
}

impl From<&Misfit> for FallbackReason {
    fn from(misfit: &Misfit) -> Self {
        match misfit {
            Misfit::Glyph { .. } => Self::Glyph,
            Misfit::Room { .. } => Self::Room,
        }
    }
}

/// Whether a layer is on the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    Drawn,
    /// A panel that no text fell back to.
    NotNeeded,
    /// All of it lies outside of the picture, or what it follows is not there.
    Nowhere,
    /// A text that cannot be set or read.
    LeftOut,
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerOutcome {
    pub layer: String,
    pub kind: &'static str,
    pub presence: Presence,
    /// Of a text: its contrast in the worst place, in hundredths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast_hundredths: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackTaken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FallbackReason>,
}

impl LayerOutcome {
    /// Before anything is drawn.
    pub(super) fn of(layer: &Layer) -> Self {
        Self {
            layer: layer.name.clone(),
            kind: layer.kind.as_str(),
            presence: Presence::NotNeeded,
            contrast_hundredths: None,
            fallback: None,
            reason: None,
        }
    }
}

/// What became of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    pub outcomes: Vec<LayerOutcome>,
    /// What the boxes of texts cover of the picture, in ten-thousandths.
    pub text_share: u32,
}
