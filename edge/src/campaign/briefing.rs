//! `[briefing]`: what a campaign is for, and what its pictures leave free, in the words of those who ordered it.
//!
//! The preview shows it, and `check` judges what a program can: areas lie within the frame and belong to slots that there are, shares
//! are shares. Nothing here changes what is served.

use serde::Serialize;

use super::manifest::{SLOTS_MAX, checked_text};
use super::names::is_name;
use super::reader::{TableReader, no_hint};

/// Most areas of a campaign.
const AREAS_MAX: usize = 16;

/// What the campaign is for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Briefing {
    /// What it is to bring about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// By which figure that is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kpi: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Most of the picture that text may cover, 0–1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_share_max: Option<f64>,
    /// Parts of the picture that stay free, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub safe_areas: Vec<SafeArea>,
}

/// A part of the picture that stays free, for a headline or a button. Sides are shares of the frame, from its top left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SafeArea {
    pub name: String,
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    /// Empty: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
}

impl SafeArea {
    #[must_use]
    pub fn is_of(&self, slot: &str) -> bool {
        self.slots.is_empty() || self.slots.iter().any(|known| known == slot)
    }
}

impl Briefing {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What of it concerns one slot.
    #[must_use]
    pub fn of_slot(&self, slot: &str) -> Self {
        let safe_areas = self.safe_areas.iter().filter(|area| area.is_of(slot)).cloned().collect();
        Self { safe_areas, ..self.clone() }
    }
}

/// Reads `[briefing]`.
pub(crate) fn read(root: &TableReader<'_, '_>) -> Briefing {
    let Some(table) = root.table("briefing") else { return Briefing::default() };
    let text = |key| checked_text(&table, &table.text(key)?).filter(|text| !text.is_empty());
    let briefing = Briefing {
        goal: text("goal"),
        kpi: text("kpi"),
        notes: text("notes"),
        text_share_max: table.number("text_share_max", 0.0..=1.0),
        safe_areas: table.table("safe_areas").map(|areas| read_areas(&areas)).unwrap_or_default(),
    };
    table.finish(no_hint);
    briefing
}

fn read_areas(table: &TableReader<'_, '_>) -> Vec<SafeArea> {
    let areas = table.tables(AREAS_MAX).into_iter().filter_map(|(name, area)| {
        if !is_name(name.value) {
            table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
        }
        if !area.has("area") {
            area.missing("area", "`area` is missing: [left, top, width, height] as shares of the picture");
        }
        let sides = area.numbers("area", 0.0..=1.0, 4);
        let slots = area.texts("slots", SLOTS_MAX).unwrap_or_default();
        let read = sides.and_then(|sides| match *sides.as_slice() {
            [left, top, width, height] => within_frame(&area, (left, top, width, height)).then(|| SafeArea {
                name: name.value.to_owned(),
                left,
                top,
                width,
                height,
                slots: slots.iter().map(|slot| slot.value.to_owned()).collect(),
            }),
            _ => {
                area.fault(area.span(), "`area` is [left, top, width, height] as shares of the picture");
                None
            }
        });
        area.finish(no_hint);
        read
    });
    areas.collect()
}

fn within_frame(area: &TableReader<'_, '_>, (left, top, width, height): (f64, f64, f64, f64)) -> bool {
    // Decimal shares such as 0.7 + 0.3 are not exact.
    let is_within = left + width <= 1.0 + 1e-9 && top + height <= 1.0 + 1e-9;
    let has_extent = width > 0.0 && height > 0.0;
    if !is_within {
        area.fault(area.span(), format!("the area reaches beyond the picture: {left} + {width}, {top} + {height}"));
    } else if !has_extent {
        area.fault(area.span(), "the area is empty: its width and height are above 0");
    }
    is_within && has_extent
}

/// An area of a slot that there is not is a misspelt name.
pub(crate) fn check(root: &TableReader<'_, '_>, briefing: &Briefing, slots: &[String]) {
    for area in &briefing.safe_areas {
        if let Some(unknown) = area.slots.iter().find(|slot| !slots.contains(slot)) {
            root.fault(
                &(0..0),
                format!("[briefing.safe_areas.{}] names the slot `{unknown}`, which there is not", area.name),
            );
        }
    }
}
