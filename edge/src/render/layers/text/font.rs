//! A font of a campaign: its file, by digest.

use std::fmt;

use bildkante_shared::ids::Digest;
use harfrust::{Font, GlyphId, Tag};
use serde::{Serialize, Serializer};

/// Largest font file: fonts for Chinese and Japanese have some sixteen megabytes.
pub const FONT_BYTES_MAX: usize = 32 * 1024 * 1024;

const WEIGHT: Tag = Tag::new(b"wght");

/// Why a file is no font of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FontError {
    #[error("the file has more than {FONT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is no font: TrueType, OpenType and their collections are read; WOFF is for pages, unpack it")]
    Format,
    #[error("it has no outlines; fonts of bitmaps and colours alone are not drawn")]
    NoOutlines,
    #[error("its units per em are {units}, outside of 16 to 16384")]
    Units { units: u16 },
}

/// A font with outlines. Clones share it.
#[derive(Clone)]
pub struct FontFace {
    digest: Digest,
    font: Font,
}

impl fmt::Debug for FontFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FontFace({})", self.digest)
    }
}

impl PartialEq for FontFace {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for FontFace {}

/// In keys a font is its digest.
impl Serialize for FontFace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.digest)
    }
}

impl FontFace {
    /// The first font of a file.
    ///
    /// # Errors
    /// When it is too large, no font, or one without outlines.
    pub fn read(file: Vec<u8>) -> Result<Self, FontError> {
        if file.len() > FONT_BYTES_MAX {
            return Err(FontError::TooLarge);
        }
        let digest = Digest::of_bytes(&file);
        let is_sfnt = file.get(..4).is_some_and(|tag| matches!(tag, b"\0\x01\0\0" | b"OTTO" | b"true" | b"ttcf"));
        let font = is_sfnt.then(|| Font::new(file, 0)).flatten().ok_or(FontError::Format)?;
        let units = font.units_per_em();
        if !(16..=16_384).contains(&units) {
            return Err(FontError::Units { units });
        }
        let face = Self { digest, font };
        let has_outlines = face.font.charmap().unicodes().take(4096).any(|(_, glyph)| face.is_drawn(glyph));
        has_outlines.then_some(face).ok_or(FontError::NoOutlines)
    }

    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The font at a weight, where it has an axis for it.
    pub(super) fn at_weight(&self, weight: u16) -> Font {
        if self.font.axes().get_by_tag(WEIGHT).is_none() {
            return self.font.clone();
        }
        self.font.instance_builder().variations([(WEIGHT, f32::from(weight))]).build()
    }

    pub(super) fn glyph(&self, character: char) -> Option<GlyphId> {
        self.font.charmap().map_unicode(character).filter(|glyph| glyph.to_u32() != 0)
    }

    /// Whether a glyph has an outline that is not empty.
    pub(super) fn is_drawn(&self, glyph: GlyphId) -> bool {
        super::outline::has_outline(&self.font, glyph)
    }
}
