//! The place of a packshot as a picture for the model: `{ layer = "packshot" }` where a manifest names a mask, a map of depth or the
//! image of a ControlNet.
//!
//! `bildkante-edge lock` draws such pictures into the campaigns' folder of images and pins them as it pins every other, so an edge hands
//! them to nodes as it hands over every other. Invariants: a picture's name is a hash of everything that decides it but the layer's file, and the
//! lock pins that; a slot whose recipes have a place differs by the axes that the place differs by.

use std::collections::BTreeMap;
use std::path::Path;

use bildkante_shared::ids::Digest;

use super::super::axes::{Axis, LOCALE_AXIS, ReadAxis};
use super::super::cuts::DEFAULT_CUT;
use super::super::fault::listing;
use super::super::manifest::Manifest;
use super::super::reader::{TableReader, no_hint};
use super::super::slots::Slot;
use super::files::{self, LAYER_FILES_MAX};
use super::linked::{direction_of, shares};
use super::{KindPlan, PathPlan, SlotPlan};
use crate::decoding::DecoderCommand;
use crate::render::layers::{Direction, ImageAsset, Length, Placing, REACH_MAX, Silhouette, White};
use crate::render::{Anchor, CropBox};

/// Letters of the file's name that are the layer's file's.
const STEM_CHARS_MAX: usize = 60;
/// Digits of the hash in it: 64 bits.
const HASH_CHARS: usize = 16;

/// An image that a recipe is given, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUse {
    /// A file of the campaigns' images.
    File(String),
    Place(Box<PlaceUse>),
}

impl ImageUse {
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File(name) => Some(name),
            Self::Place(_) => None,
        }
    }

    #[must_use]
    pub fn place(&self) -> Option<&PlaceUse> {
        match self {
            Self::File(_) => None,
            Self::Place(place) => Some(place),
        }
    }

    /// Every file that it may be.
    #[must_use]
    pub fn names(&self, slot: &Slot, axes: &[Axis]) -> Vec<String> {
        match self {
            Self::File(name) => vec![name.clone()],
            Self::Place(place) => place.pictures(slot, axes).into_iter().map(|picture| picture.name).collect(),
        }
    }
}

/// The place of an image layer of the same slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceUse {
    layer: String,
    path: PathPlan,
    placing: Placing,
    /// The values at which the layer is there, but for locales: room is left for every language.
    only: Vec<(usize, Vec<usize>)>,
    directions: Vec<Direction>,
    grow: u32,
    softness: u32,
    white: White,
}

/// A picture of a place, and the file whose place it shows; none where the layer is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct PlacePicture {
    pub(in super::super) name: String,
    pub(in super::super) path: Option<String>,
    silhouette: Silhouette,
}

impl PlaceUse {
    #[must_use]
    pub fn uses_axis(&self, axis: usize) -> bool {
        self.axes().contains(&axis)
    }

    /// What sets it apart from others of its layer's.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{}, {}", self.layer, self.white.as_str())
    }

    fn axes(&self) -> Vec<usize> {
        let mut axes = self.path.axes();
        axes.extend(self.only.iter().map(|(axis, _)| *axis));
        axes.sort_unstable();
        axes.dedup();
        axes
    }

    /// At these values, an index for each axis.
    pub(in super::super) fn picture(&self, slot: &Slot, axes: &[Axis], values: &[usize]) -> PlacePicture {
        let is_there = self.only.iter().all(|(axis, wanted)| wanted.contains(&values[*axis]));
        let path = is_there.then(|| self.path.at(|axis| &axes[axis].values[values[axis]].name));
        let silhouette = self.silhouette(slot);
        PlacePicture { name: name_of(path.as_deref(), &silhouette), path, silhouette }
    }

    /// For people, at these values.
    #[must_use]
    pub fn shown(&self, slot: &Slot, axes: &[Axis], values: &[usize]) -> String {
        let PlacePicture { name, path, .. } = self.picture(slot, axes, values);
        let (layer, is_white) = (
            &self.layer,
            match self.white {
                White::Place => "white",
                White::Surroundings => "black",
            },
        );
        match path {
            Some(path) => format!("{name}: {is_white} where `{layer}` lies (layers/{path})"),
            None => format!("{name}: `{layer}` is not there"),
        }
    }

    /// At all values, each once, by name.
    pub(in super::super) fn pictures(&self, slot: &Slot, axes: &[Axis]) -> Vec<PlacePicture> {
        let used = self.axes();
        let count = combinations(&used, |axis| axes[axis].values.len()).min(LAYER_FILES_MAX);
        let mut pictures: BTreeMap<String, PlacePicture> = BTreeMap::new();
        for mut number in 0..count {
            let mut values: Vec<usize> = axes.iter().map(|axis| axis.default).collect();
            for axis in &used {
                values[*axis] = number % axes[*axis].values.len();
                number /= axes[*axis].values.len();
            }
            let picture = self.picture(slot, axes, &values);
            pictures.insert(picture.name.clone(), picture);
        }
        pictures.into_values().collect()
    }

    /// In the slot's own cut of its masters.
    fn silhouette(&self, slot: &Slot) -> Silhouette {
        let (master_px, shown) = (slot.making.size_px(), &slot.framing);
        let wide = shown.default_width_px;
        let (x, y) = match shown.focal {
            Anchor::Point { x, y } => (x, y),
            Anchor::Entropy => (500, 500),
        };
        let cut = CropBox::cover_at(master_px.0, master_px.1, wide, shown.height_px(wide), (x, y));
        Silhouette {
            master_px,
            cut_px: Silhouette::cut_of(cut),
            safe_area: shares(&shown.safe_area),
            directions: self.directions.clone(),
            placing: self.placing.enlarged(cut.width_px, wide),
            grow: self.grow,
            softness: self.softness,
            white: self.white,
        }
    }
}

/// `place-mug-teal-0123456789abcdef.png`.
fn name_of(path: Option<&str>, silhouette: &Silhouette) -> String {
    let told = serde_json::to_vec(&("bildkante place 1", path, silhouette)).unwrap_or_default();
    let hash = &Digest::of_bytes(&told).to_hex()[..HASH_CHARS];
    let file = path.map_or("nothing", |path| path.rsplit('/').next().unwrap_or(path));
    let stem: String = file.rsplit_once('.').map_or(file, |(stem, _)| stem).chars().take(STEM_CHARS_MAX).collect();
    format!("place-{stem}-{hash}.png")
}

fn combinations(used: &[usize], values: impl Fn(usize) -> usize) -> usize {
    used.iter().map(|axis| values(*axis)).try_fold(1_usize, usize::checked_mul).unwrap_or(usize::MAX)
}

/// What places are read against: the layers of the slot, its axes and languages.
#[derive(Debug)]
pub(crate) struct PlaceReader<'p> {
    slot: &'p str,
    plan: &'p SlotPlan,
    axes: &'p [ReadAxis],
    directions: Vec<Direction>,
}

impl<'p> PlaceReader<'p> {
    pub(in super::super) fn new(slot: &'p str, plan: &'p SlotPlan, axes: &'p [ReadAxis], locales: &[String]) -> Self {
        let mut directions: Vec<Direction> = Vec::new();
        for direction in locales.iter().map(|locale| direction_of(locale)) {
            if !directions.contains(&direction) {
                directions.push(direction);
            }
        }
        directions.sort_unstable_by_key(|direction| *direction == Direction::Rtl);
        Self { slot, plan, axes, directions }
    }

    /// `{ layer = "packshot", white = "surroundings", grow = "2%", softness = "1%" }`.
    pub(in super::super) fn read(&self, table: &TableReader<'_, '_>) -> Option<PlaceUse> {
        let layer = table.required_text("layer");
        let white = table.choice("white", &White::ALL.map(|white| (white.as_str(), white))).unwrap_or_default();
        let (grow, softness) = (read_reach(table, "grow"), read_reach(table, "softness"));
        table.finish(no_hint);
        let layer = layer?;
        match self.placed(layer.value) {
            Ok(mut place) => {
                (place.white, place.grow, place.softness) = (white, grow?, softness?);
                Some(place)
            }
            Err(reason) => {
                table.recurring_fault(&layer.span, reason);
                None
            }
        }
    }

    fn placed(&self, name: &str) -> Result<PlaceUse, String> {
        let images = || self.plan.layers.iter().filter(|layer| matches!(layer.kind, KindPlan::Image { .. }));
        let Some(layer) = self.plan.layers.iter().find(|layer| layer.name == name) else {
            let known: Vec<&str> = images().map(|layer| layer.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { listing(&known, 12) };
            return Err(format!(
                "slot `{}` has no layer `{name}`; of its layers that are images there is {known}",
                self.slot
            ));
        };
        let KindPlan::Image { path, placing } = &layer.kind else {
            return Err(format!(
                "layer `{name}` of slot `{}` is no image: only an image has a place of its own",
                self.slot
            ));
        };
        if !layer.cuts.is_empty() && !layer.cuts.iter().any(|cut| cut == DEFAULT_CUT) {
            return Err(format!(
                "layer `{name}` is not in the own cut of slot `{}`, from which places are taken: add `{DEFAULT_CUT}` to its `cuts`",
                self.slot
            ));
        }
        let is_locale = |axis: usize| self.axes[axis].axis.name == LOCALE_AXIS;
        let place = PlaceUse {
            layer: name.to_owned(),
            path: path.clone(),
            placing: *placing,
            only: layer.only.iter().filter(|(axis, _)| !is_locale(*axis)).cloned().collect(),
            directions: self.directions.clone(),
            grow: 0,
            softness: 0,
            white: White::Place,
        };
        let count = combinations(&place.axes(), |axis| self.axes[axis].axis.values.len());
        if count > LAYER_FILES_MAX {
            return Err(format!("the place of layer `{name}` has {count} pictures, at most {LAYER_FILES_MAX}"));
        }
        Ok(place)
    }
}

/// A share of the cut's shorter side, in ten-thousandths.
fn read_reach(table: &TableReader<'_, '_>, key: &'static str) -> Option<u32> {
    let Some(text) = table.text(key) else { return (!table.has(key)).then_some(0) };
    let share = match Length::parse(text.value) {
        Some(Length::Share(share)) => u32::try_from(share).ok().filter(|share| *share <= REACH_MAX),
        Some(Length::Px(_)) | None => None,
    };
    if share.is_none() {
        let reason = format!("`{key}` is a share of the cut's shorter side from \"0%\" to \"{}%\"", REACH_MAX / 100);
        table.recurring_fault(&text.span, reason);
    }
    share
}

/// Every place of a manifest, each once, by the names of its files.
pub(in super::super) fn places(manifest: &Manifest) -> BTreeMap<String, PlacePicture> {
    of_slots(manifest.slots.iter(), &manifest.axes)
}

/// The same of a campaign's slots.
pub(in super::super) fn of_slots<'s>(
    slots: impl Iterator<Item = &'s Slot>,
    axes: &[Axis],
) -> BTreeMap<String, PlacePicture> {
    let mut places = BTreeMap::new();
    for slot in slots {
        for place in slot.drawn().into_iter().flat_map(|generate| generate.additions.places()) {
            places.extend(place.pictures(slot, axes).into_iter().map(|picture| (picture.name.clone(), picture)));
        }
    }
    places
}

/// Places are files, and there are only so many.
pub(in super::super) fn check_count(root: &TableReader<'_, '_>, manifest: &Manifest) {
    let count = places(manifest).len();
    if count > LAYER_FILES_MAX {
        root.fault(&(0..0), format!("the places of layers have {count} pictures, at most {LAYER_FILES_MAX}"));
    }
}

/// A picture of a place as it is to be: the file that is there where it shows that, else a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct DrawnPlace {
    pub(in super::super) digest: Digest,
    /// Of a file that is not there, or shows something else.
    pub(in super::super) new_file: Option<Vec<u8>>,
}

impl PlacePicture {
    /// Draws it from the layer's file below `layers_dir`, and compares it with the file of its name in `images_dir`.
    ///
    /// # Errors
    /// Names the layer's file that cannot be read.
    pub(in super::super) fn drawn(
        &self,
        (layers_dir, images_dir): (&Path, &Path),
        decoder: &DecoderCommand,
    ) -> Result<DrawnPlace, String> {
        let asset = self.path.as_deref().map(|path| {
            let said = |error: &dyn std::fmt::Display| format!("{}: {error}", layers_dir.join(path).display());
            let file = files::read(layers_dir, path).map_err(|error| said(&error))?;
            ImageAsset::read(file, decoder).map_err(|error| said(&error))
        });
        let drawn = self.silhouette.drawn(asset.transpose()?.as_ref()).map_err(|error| {
            format!("{}: {error}", layers_dir.join(self.path.as_deref().unwrap_or_default()).display())
        })?;
        match files::read(images_dir, &self.name) {
            Ok(file) if drawn.is_shown_by(&file) => Ok(DrawnPlace { digest: Digest::of_bytes(&file), new_file: None }),
            Ok(_) | Err(_) => {
                let file = drawn.to_png()?;
                Ok(DrawnPlace { digest: Digest::of_bytes(&file), new_file: Some(file) })
            }
        }
    }
}

#[cfg(test)]
mod tests;
