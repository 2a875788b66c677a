//! Text: set in the fonts that a campaign ships, as large as its box lets it be, in lines of about one length.
//!
//! ```text
//! text ─▶ breaks (where a line may end) ─▶ shape (fonts, scripts, directions, glyphs) ─▶ fit (lines and size) ─▶ coverage
//! ```
//!
//! Advances are those of unhinted outlines and grow with the size alone. So a text is shaped once, and the largest size at which
//! it fits follows from sums of whole numbers instead of a search with a layout at every step; that is why `harfrust`, which
//! both `parley` and `cosmic-text` shape with, is used without them. Invariants: no font of the system is ever looked at;
//! a character without a glyph is named, and never drawn as a box; the same text gives the same coverage everywhere.

use std::fmt;
use std::sync::Arc;

use harfrust::Font;
use serde::Serialize;

use super::patch::Mask;
use super::place::{Along, Direction, Length};

mod breaks;
mod fit;
mod font;
#[cfg(test)]
pub(crate) mod goldens;
mod outline;
mod shape;

pub use font::{FONT_BYTES_MAX, FontError, FontFace};

/// Longest text, in characters.
pub const TEXT_CHARS_MAX: usize = 500;
/// Most lines of a text.
pub const LINES_MAX: u8 = 12;
/// Most fonts of a text: the first that has a character draws it.
pub const FONTS_MAX: usize = 16;
/// Largest size of letters, in pixels.
pub(super) const LETTER_PX_MAX: i64 = 1024;

/// Whether words may be divided where no soft hyphen stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hyphens {
    /// Where the language's patterns allow it, if that lets the letters be a quarter larger.
    #[default]
    Auto,
    /// At soft hyphens alone.
    Manual,
}

/// How a text is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextStyle {
    /// In the order in which they are asked for a character. Never empty, at most [`FONTS_MAX`].
    pub fonts: Vec<FontFace>,
    /// Of variable fonts, 1 to 1000.
    pub weight: u16,
    /// Sizes of the letters' em square, shares of the picture's height.
    pub size_min: Length,
    pub size_max: Length,
    /// 1 to [`LINES_MAX`].
    pub lines_max: u8,
    /// From one baseline to the next, in percent of the size.
    pub line_height_percent: u16,
    /// Between letters, in thousandths of the size; scripts that join their letters have none.
    pub letter_spacing: i16,
    pub align: Along,
    pub hyphens: Hyphens,
}

/// Words in a language, within [`TEXT_CHARS_MAX`] and without control characters but line breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Words {
    text: String,
}

impl Words {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        let chars = text.chars().count();
        if chars > TEXT_CHARS_MAX {
            return Err(format!("the text has {chars} characters, at most {TEXT_CHARS_MAX}"));
        }
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(format!("the text holds the control character U+{:04X}", u32::from(control)));
        }
        if text.trim().is_empty() {
            return Err("the text is empty".to_owned());
        }
        Ok(Self { text: text.trim().to_owned() })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Why a text cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("no font of the campaign has a glyph for {}", named(*.character))]
    Glyph { character: char },
    #[error("it does not fit: at the smallest size of {size_px} px it needs more than {lines_max} lines or more room")]
    Room { size_px: i64, lines_max: u8 },
}

impl Misfit {
    /// For metric labels and reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Glyph { .. } => "glyph",
            Self::Room { .. } => "room",
        }
    }
}

/// `é` (U+00E9).
fn named(character: char) -> String {
    format!("`{character}` (U+{:04X})", u32::from(character))
}

/// Room for a text, in pixels of a picture of that height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Room {
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) picture_height: i64,
}

/// A text in its lines, placed within its own box.
#[derive(Clone)]
pub(super) struct Typeset {
    pub(super) width: i64,
    pub(super) height: i64,
    /// From one line to the next, in 64ths of a pixel.
    line_height_64: i64,
    /// Of the em square, in 64ths of a pixel.
    pub(super) size_64: i64,
    lines: Vec<shape::Line>,
    fonts: Arc<[Font]>,
    baseline_64: i64,
}

impl fmt::Debug for Typeset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Typeset({}×{}, {} lines)", self.width, self.height, self.lines.len())
    }
}

impl Typeset {
    /// Sets a text.
    ///
    /// # Errors
    /// When a glyph is missing, or it does not fit at the smallest size.
    pub(super) fn new(
        words: &Words,
        language: &str,
        direction: Direction,
        style: &TextStyle,
        room: Room,
    ) -> Result<Self, Misfit> {
        Measured::new(words, language, direction, style)?.set(style, room)
    }

    /// Pixels that hold a line.
    pub(super) const fn line_height(&self) -> i64 {
        ceil_px(self.line_height_64)
    }

    /// How many lines it has.
    #[cfg(test)]
    pub(super) fn line_count(&self) -> usize {
        self.lines.len()
    }

    /// What the letters cover, and how far the mask reaches out of the box at every side.
    pub(super) fn mask(&self, align: Along, direction: Direction) -> (Mask, i64) {
        outline::mask(self, align, direction)
    }
}

/// A text of which all is known but the room it is set in.
#[derive(Debug)]
pub(super) struct Measured<'t> {
    shaper: shape::Shaper<'t>,
    measures: fit::Measures,
}

impl<'t> Measured<'t> {
    pub(super) fn new(
        words: &'t Words,
        language: &'t str,
        direction: Direction,
        style: &TextStyle,
    ) -> Result<Self, Misfit> {
        let shaper = shape::Shaper::new(&words.text, language, direction, style)?;
        let breaks = breaks::find(&words.text, language, style.hyphens);
        let measures = fit::Measures::new(&shaper, breaks)?;
        Ok(Self { shaper, measures })
    }

    /// In a room.
    pub(super) fn set(&self, style: &TextStyle, room: Room) -> Result<Typeset, Misfit> {
        let bounds = fit::Bounds::new(style, room);
        let misfit = || Misfit::Room { size_px: bounds.size_min_64 / 64, lines_max: style.lines_max };
        let setting = self.measures.best(&bounds).ok_or_else(misfit)?;
        let lines = setting.lines.iter().map(|line| self.shaper.line(line.text.clone(), line.ending));
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        // A line that is shaped as a whole may be a little wider than its parts.
        let widest = lines.iter().map(|line| line.advance).max().unwrap_or(1).max(1);
        let size_64 = setting.size_64.min(bounds.size_for(widest));
        if size_64 < bounds.size_min_64 {
            return Err(misfit());
        }
        let (ascent, descent) = self.shaper.extents();
        let line_height_64 = bounds.line_height_64(size_64);
        let spare_64 = line_height_64 - shape::scaled(ascent + descent, size_64);
        let height = ceil_px(line_height_64 * lines.len() as i64);
        // What is left of the last pixel lies above and below alike.
        let beside_64 = (height * 64 - line_height_64 * lines.len() as i64) / 2;
        Ok(Typeset {
            width: ceil_px(shape::scaled(widest, size_64)),
            height,
            line_height_64,
            size_64,
            lines,
            fonts: Arc::clone(self.shaper.fonts()),
            baseline_64: beside_64 + spare_64 / 2 + shape::scaled(ascent, size_64),
        })
    }
}

/// 64ths of a pixel as whole pixels that hold them.
const fn ceil_px(length_64: i64) -> i64 {
    (length_64 + 63).div_euclid(64)
}
