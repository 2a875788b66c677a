//! How pictures are framed for a place: ratio, widths, `sizes`, and which part of a master is kept.

use std::ops::Range;

use serde::Serialize;

use super::presets::PRESETS;
use super::reader::{TableReader, Text, no_hint};
use super::slots::WIDTHS_MAX;
use crate::render::{Anchor, BYTES_MAX_LEAST, BYTES_MAX_MOST, BytesMax, CropBox, Shape};
use crate::words::{Ratio, WIDTH_PX_MAX};

/// Longest `sizes`.
const SIZES_BYTES_MAX: usize = 300;
/// Widest inset of one side, in percent.
const INSET_PERCENT_MAX: f64 = 40.0;
const SIDES: [&str; 4] = ["top", "right", "bottom", "left"];

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Framing {
    pub ratio: Ratio,
    /// The ladder: ascending, never empty, every rung within `upscale_max`.
    pub widths: Vec<u32>,
    /// A rung: what a URL without `w` gets.
    pub default_width_px: u32,
    /// The `sizes` attribute of the markup.
    pub sizes: String,
    /// What of a master a cut keeps in its middle, as near as it goes.
    pub focal: Anchor,
    /// What lies within is safe from what covers the edges of a frame.
    pub safe_area: Insets,
    /// Most that texts may cover where the slot and the briefing say nothing, in ten-thousandths: the rule of its preset's owner.
    pub text_share_max: Option<u32>,
    /// Most bytes of a file; of a cut that states none the slot's.
    pub bytes_max: Option<BytesMax>,
}

/// Insets of a frame in percent of its sides, clockwise from the top.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Insets {
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
    pub left: f64,
}

/// What bounds the widths of a framing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// `None` where the master's size is not known, for a fault.
    pub(super) master_px: Option<(u32, u32)>,
    pub(super) upscale_max: f64,
}

impl Framing {
    /// The rung for a wanted width: the smallest that is wide enough, else the widest.
    #[must_use]
    pub fn snap_up(&self, wanted_px: u32) -> u32 {
        self.widths.iter().copied().find(|width| *width >= wanted_px).unwrap_or(self.widest_px())
    }

    /// As [`Self::snap_up`], of those rungs that do not enlarge a master of this size; `None` where all do.
    #[must_use]
    pub fn snap_within(&self, wanted_px: u32, (width_px, height_px): (u32, u32)) -> Option<u32> {
        let is_within = |width: &&u32| {
            let cut = CropBox::cover(width_px, height_px, **width, self.ratio.height_px(**width));
            cut.width_px >= **width
        };
        let widest = self.widths.iter().filter(is_within).max()?;
        Some(self.snap_up(wanted_px).min(*widest))
    }

    #[must_use]
    pub fn widest_px(&self) -> u32 {
        self.widths.last().copied().unwrap_or(self.default_width_px)
    }

    #[must_use]
    pub const fn height_px(&self, width_px: u32) -> u32 {
        self.ratio.height_px(width_px)
    }

    /// How a master fills a rung.
    #[must_use]
    pub fn shape(&self, source_px: (u32, u32), width_px: u32) -> Shape {
        Shape::Cut(self.focal).normal(source_px, (width_px, self.height_px(width_px)))
    }

    /// What of it decides which part of a master is seen: the ratio, and the focal point where it has one.
    #[must_use]
    pub fn cut_words(&self) -> String {
        match self.focal {
            Anchor::Point { x, y } if self.focal != Anchor::CENTER => format!("{}@{x},{y}", self.ratio),
            _ => self.ratio.to_string(),
        }
    }

    /// Reads the keys of a slot, or of one of its cuts.
    pub(super) fn read(table: &TableReader<'_, '_>, bounds: Bounds) -> Option<Self> {
        let preset = table.choice("preset", &PRESETS);
        if preset.is_none() && !table.has("ratio") {
            table.missing("ratio", "`ratio` is missing, such as \"16:9\"");
        }
        let of_preset = preset.and_then(|preset| Ratio::new(preset.width_px, preset.height_px).ok());
        let ratio = if table.has("ratio") { table.parsed::<Ratio>("ratio") } else { of_preset };
        let cropped_px = match (bounds.master_px, ratio) {
            (Some((width_px, height_px)), Some(ratio)) => Some(ratio.cropped_width_px(width_px, height_px)),
            _ => None,
        };
        let reach_px = cropped_px.map(|cropped_px| f64::from(cropped_px) * bounds.upscale_max);
        let widths = match preset.filter(|_| !table.has("widths")) {
            Some(preset) => {
                check_reach(table, preset.width_px, table.span(), ratio, cropped_px, bounds.upscale_max);
                Some(preset.widths(reach_px))
            }
            None => read_widths(table, ratio, cropped_px, bounds.upscale_max),
        };
        let default_width_px = read_default_width(table, widths.as_deref(), cropped_px);
        let sizes = table.text("sizes").and_then(|text| read_sizes(table, &text));
        let sizes = sizes.unwrap_or_else(|| preset.map_or_else(|| "100vw".to_owned(), |preset| preset.sizes()));
        let insets = preset.map(|preset| preset.safe_area).unwrap_or_default();
        let (focal, safe_area) = (read_focal(table), read_insets(table, insets));
        let bytes_max = table.integer_or_parsed("bytes_max", BYTES_MAX_LEAST..=BYTES_MAX_MOST, BytesMax::new);
        let (ratio, widths, default_width_px) = (ratio?, widths?, default_width_px?);
        let text_share_max = preset.and_then(|preset| preset.text_share_max);
        Some(Self { ratio, widths, default_width_px, sizes, focal, safe_area, text_share_max, bytes_max })
    }
}

fn read_widths(
    table: &TableReader<'_, '_>,
    ratio: Option<Ratio>,
    cropped_px: Option<u32>,
    upscale_max: f64,
) -> Option<Vec<u32>> {
    const MISSING: &str = "`widths` is missing: the widths in px this slot is cut to, ascending";
    if !table.has("widths") {
        table.missing("widths", MISSING);
    }
    let widths = table.integers("widths", 1..=WIDTH_PX_MAX, WIDTHS_MAX)?;
    if widths.is_empty() {
        table.fault(table.span(), MISSING);
    }
    for ((before, _), (width, span)) in widths.iter().zip(widths.iter().skip(1)) {
        if width <= before {
            table.fault(span, format!("`widths` ascend, but {width} follows {before}"));
        }
    }
    for (width, span) in &widths {
        check_reach(table, *width, span, ratio, cropped_px, upscale_max);
    }
    Some(widths.into_iter().map(|(width, _)| width).collect())
}

fn check_reach(
    table: &TableReader<'_, '_>,
    width: u32,
    span: &Range<usize>,
    ratio: Option<Ratio>,
    cropped_px: Option<u32>,
    upscale_max: f64,
) {
    if let Some(cropped_px) = cropped_px
        && f64::from(width) > f64::from(cropped_px) * upscale_max + 1e-6
    {
        let factor = f64::from(width) / f64::from(cropped_px);
        let reason = format!(
            "{width} px is {factor:.2} times the {cropped_px} px this slot's crop has, above `upscale_max` {upscale_max}"
        );
        table.fault(span, reason);
    }
    if let Some(ratio) = ratio
        && ratio.height_px(width) > WIDTH_PX_MAX
    {
        table.fault(span, format!("at {width} px the picture is higher than {WIDTH_PX_MAX} px"));
    }
}

/// The named rung; without one the smallest that loses nothing of the master.
fn read_default_width(table: &TableReader<'_, '_>, widths: Option<&[u32]>, cropped_px: Option<u32>) -> Option<u32> {
    let asked = table.integer("default_width", 1..=WIDTH_PX_MAX);
    let widths = widths?;
    if let Some(asked) = asked
        && !widths.contains(&asked)
    {
        table.fault(table.span(), format!("`default_width` {asked} is not one of `widths`"));
    }
    let lossless = widths.iter().copied().find(|width| cropped_px.is_some_and(|cropped| *width >= cropped));
    asked.or(lossless).or_else(|| widths.last().copied())
}

/// `sizes` goes into an HTML attribute as it is.
fn read_sizes(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let is_safe = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\'' | '<' | '>' | '&' | '\\');
    if text.value.len() <= SIZES_BYTES_MAX && !text.value.trim().is_empty() && text.value.chars().all(is_safe) {
        return Some(text.value.trim().to_owned());
    }
    table.fault(&text.span, "`sizes` is the HTML attribute, such as \"(min-width: 60rem) 50vw, 100vw\"");
    None
}

/// `[x, y]` as shares of the master's sides, from its top left.
fn read_focal(table: &TableReader<'_, '_>) -> Anchor {
    let Some(place) = table.numbers("focal", 0.0..=1.0, 2) else { return Anchor::CENTER };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    let thousandths = |share: f64| (share * 1000.0).round() as u16;
    match *place.as_slice() {
        [x, y] => Anchor::Point { x: thousandths(x), y: thousandths(y) },
        _ => {
            table.fault(table.span(), "`focal` is [x, y] as shares of the master's sides, such as [0.5, 0.4]");
            Anchor::CENTER
        }
    }
}

/// `{ top = 5, left = 10 }` in percent; a side that is left out has none. Without the table those of the preset.
fn read_insets(table: &TableReader<'_, '_>, of_preset: Insets) -> Insets {
    let Some(insets) = table.table("safe_area") else { return of_preset };
    let [top, right, bottom, left] = SIDES.map(|side| insets.number(side, 0.0..=INSET_PERCENT_MAX).unwrap_or_default());
    insets.finish(no_hint);
    Insets { top, right, bottom, left }
}
