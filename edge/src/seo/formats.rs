//! Which formats markup offers.
//!
//! AVIF is left out where every width's final AVIF is in memory and is larger than the WebP of the same picture: a browser that names a
//! format gets it, so markup must not name the larger one. Where one width is not known, or a slot has cuts, all stay.

use crate::fill::Fill;
use crate::render::RenditionSpec;
use crate::resolve::{Resolved, Want};
use crate::words::{Format, FormatSet};

/// Of the slot's, those that are worth a source.
pub(super) fn offered(fill: &Fill, resolved: &Resolved, want: &Want) -> FormatSet {
    let formats = resolved.slot.formats;
    if !formats.contains(Format::Avif) || !formats.contains(Format::Webp) || !resolved.slot.cuts.is_empty() {
        return formats;
    }
    let framing = resolved.framing();
    let specs = framing.widths.iter().map(|width_px| RenditionSpec {
        width_px: *width_px,
        height_px: framing.height_px(*width_px),
        shape: framing.shape(want.variant.size_px, *width_px),
        format: Format::Avif,
        ..want.spec
    });
    let is_larger = fill.gate().place(want.clone()).is_ok_and(|want| fill.are_larger(&want, specs));
    if is_larger { formats.iter().filter(|format| *format != Format::Avif).collect() } else { formats }
}
