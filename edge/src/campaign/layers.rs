//! Layers as manifests write them: `[[slots.NAME.layers]]`, `[fonts]`, `[copy]` and `[figures]`.
//!
//! Two steps, because texts may stand in a table and pictures stand in files. A manifest is read into plans (here and in `read`), which
//! name texts and files; linking (`linked`) finds both, checks files against the lock, and leaves [`SlotLayers`], which fills
//! in the layers of a variant. Invariants: what a plan names is finite and is in the lock; a plan that is linked has every text in every
//! locale and every file, so that filling it in cannot fail; a slot without layers is as it was before there were any.

use serde::Serialize;

use super::reader::TableReader;
use super::template::{Part, Template};
use crate::render::layers::{Along, Blend, Colour, ContrastMin, Fill, Hyphens, Length, Opacity, Placing, ShadowKind};

mod figures;
mod files;
mod fillable;
mod fitting;
mod linked;
mod place;
mod read;
mod table;
mod words;

pub use files::LAYER_FILES_MAX;
pub(super) use files::{bytes_max as file_bytes_max, folder_of, named as named_files};
pub(super) use fillable::read_table;
pub use fitting::{Fitting, check_fit};
pub(super) use linked::link;
pub use linked::{FillError, SlotLayers};
pub(super) use place::{DrawnPlace, PlaceReader, check_count as check_places, of_slots as places_of, places};
pub use place::{ImageUse, PlaceUse};
pub(super) use read::read_slot;
pub use words::CopyText;

/// What a campaign's layers share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// Paths of fonts below the campaigns' folder, in the order in which they are asked for a character.
    pub fonts: Vec<String>,
    pub(super) copy: words::Copy,
    pub(super) figures: figures::Figures,
}

impl Stock {
    /// The name of its table of texts, without the ending.
    pub(super) fn table(&self) -> Option<&str> {
        self.copy.file.as_ref().map(|(file, _)| file.trim_end_matches(".csv"))
    }
}

/// Reads what layers share.
pub(super) fn read_stock(root: &TableReader<'_, '_>, axes: &[super::axes::ReadAxis], locales: &[String]) -> Stock {
    let figures = figures::read(root, axes, locales);
    let copy = words::read(root, axes, &figures, locales);
    Stock { fonts: read::read_fonts(root), copy, figures }
}

/// The layers of a slot, in the order in which they are drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SlotPlan {
    pub(super) layers: Vec<LayerPlan>,
    /// Most that texts may cover, in ten-thousandths.
    pub(super) text_share_max: Option<u32>,
}

impl SlotPlan {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

/// A layer and when it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LayerPlan {
    pub(super) name: String,
    pub(super) kind: KindPlan,
    pub(super) blend: Blend,
    pub(super) opacity: Opacity,
    /// Axes with the values at which it is there, both by index; of several all must hold.
    pub(super) only: Vec<(usize, Vec<usize>)>,
    /// Cuts in which it is there; empty: in all.
    pub(super) cuts: Vec<String>,
    /// Where it stands in the manifest.
    #[serde(skip)]
    pub(super) span: std::ops::Range<usize>,
}

/// What a layer is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) enum KindPlan {
    Image { path: PathPlan, placing: Placing },
    Shadow { of: String, kind: ShadowKind, direction_deg: u16, distance: Length, softness: Length, colour: Colour },
    Text(Box<TextPlan>),
    Panel { around: Option<(String, [Length; 2])>, placing: Placing, fill: Fill, radius: Length, blur: Length },
}

/// A text and how it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TextPlan {
    /// A key of `[copy]`.
    pub(super) key: String,
    /// Empty: all of the campaign's.
    pub(super) fonts: Vec<String>,
    pub(super) weight: u16,
    pub(super) size_min: Length,
    pub(super) size_max: Length,
    pub(super) lines_max: u8,
    pub(super) line_height_percent: u16,
    pub(super) letter_spacing: i16,
    pub(super) align: Along,
    pub(super) hyphens: Hyphens,
    pub(super) colour: Colour,
    pub(super) placing: Placing,
    pub(super) contrast_min: ContrastMin,
    pub(super) fallbacks: Vec<FallbackPlan>,
}

/// See [`crate::render::layers::Fallback`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) enum FallbackPlan {
    Panel(String),
    Shorter,
    LeaveOut,
}

/// A path below the campaigns' folder with names of values in it: `packshots/{product}-{colour}.png`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathPlan {
    template: Template,
    source: String,
}

/// In digests a path is what the author wrote.
impl Serialize for PathPlan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl PathPlan {
    /// The axes in it.
    fn axes(&self) -> Vec<usize> {
        let mut axes: Vec<usize> = self
            .template
            .parts()
            .iter()
            .filter_map(|part| match part {
                Part::Axis(axis) => Some(*axis),
                Part::Literal(_) => None,
            })
            .collect();
        axes.sort_unstable();
        axes.dedup();
        axes
    }

    fn at<'v>(&self, value_of: impl Fn(usize) -> &'v str) -> String {
        self.template.render(value_of)
    }
}

#[cfg(test)]
mod tests;
