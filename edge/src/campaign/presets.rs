//! Framings of places that others laid down: `preset = "iab-300x250"`.
//!
//! Sources: IAB New Ad Portfolio (fixed-size units, with twice the pixels for dense screens), the Open Graph image of 1200 × 630 that
//! social networks show, the 600 px column of mails, and the images of Google's responsive display ads. Insets keep what matters clear
//! of rounded corners and of the mark of an advertisement. What a manifest says itself wins.
//!
//! A share of text is stated only where the format's owner has one. Google does: text, that of logos included, covers at most 20 % of an
//! image of responsive ads (`support.google.com/adspolicy/answer/6363786`; sizes: `support.google.com/google-ads/answer/17090561`; both
//! read in November 2026). The IAB's portfolio, Open Graph and mails know no such rule.

use super::framing::Insets;

/// A place of fixed size, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Preset {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    /// Whether dense screens get twice the pixels.
    pub(super) is_doubled: bool,
    pub(super) safe_area: Insets,
    /// Most that text may cover by the owner's rule, in ten-thousandths.
    pub(super) text_share_max: Option<u32>,
}

const fn place(width_px: u32, height_px: u32, is_doubled: bool, safe_area: Insets) -> Preset {
    Preset { width_px, height_px, is_doubled, safe_area, text_share_max: None }
}

const fn advertisement(width_px: u32, height_px: u32) -> Preset {
    place(width_px, height_px, true, Insets { top: 6.0, right: 4.0, bottom: 6.0, left: 4.0 })
}

/// Layouts may cut off up to five percent at the sides.
const fn responsive(width_px: u32, height_px: u32) -> Preset {
    Preset { text_share_max: Some(2000), ..place(width_px, height_px, false, EVEN) }
}

const EVEN: Insets = Insets { top: 5.0, right: 5.0, bottom: 5.0, left: 5.0 };

pub(super) const PRESETS: [(&str, Preset); 12] = [
    ("iab-300x250", advertisement(300, 250)),
    ("iab-336x280", advertisement(336, 280)),
    ("iab-728x90", advertisement(728, 90)),
    ("iab-970x250", advertisement(970, 250)),
    ("iab-160x600", advertisement(160, 600)),
    ("iab-300x600", advertisement(300, 600)),
    ("iab-320x50", advertisement(320, 50)),
    ("iab-320x100", advertisement(320, 100)),
    ("google-landscape", responsive(1200, 628)),
    ("google-square", responsive(600, 600)),
    ("og-image", place(1200, 630, false, EVEN)),
    ("e-mail", place(600, 300, true, EVEN)),
];

impl Preset {
    /// The widths that a master's crop of this width has, enlarged as far as its slot allows; the first in any case, so that a master
    /// that is too small is refused by its name.
    pub(super) fn widths(&self, reach_px: Option<f64>) -> Vec<u32> {
        let doubled = self.width_px * 2;
        let has_doubled = self.is_doubled && reach_px.is_none_or(|reach_px| f64::from(doubled) <= reach_px);
        if has_doubled { vec![self.width_px, doubled] } else { vec![self.width_px] }
    }

    pub(super) fn sizes(&self) -> String {
        format!("{}px", self.width_px)
    }
}
