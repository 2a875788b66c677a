//! What pictures are expected to take of devices and of disks, by what earlier ones took.
//!
//! Nothing is guessed: where no picture of a slot was measured, the expectation of the whole is unknown. Looks up each
//! picture's recipe: for a thread of its own.

use std::collections::BTreeMap;

use bildkante_shared::ids::RecipeId;

use super::BatchDesk;
use super::record::{BatchRecord, Item, Measured, Terms};
use crate::campaign::{Campaign, Catalog};
use crate::request::IMAGE_PATH_PREFIX;
use crate::resolve::{Operator, resolve};
use crate::warm::Cost;
use crate::warm::plan::cuts;
use crate::words::Format;

/// Pictures of a slot that are looked through for what they took, where nothing else was measured.
const SAMPLE: usize = 4_000;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    pub pictures: u64,
    /// Drawn already. Their renditions may be there or not.
    pub there: u64,
    /// Of devices, for those that are not there. `None`: nothing was measured.
    pub device_ms: Option<f64>,
    /// Of all renditions. `None`: nothing was measured.
    pub bytes: Option<u64>,
    /// `None` without a price, or where the device time is unknown.
    pub cost: Option<Cost>,
}

/// What is asked of one slot.
#[derive(Debug, Default)]
struct Asked {
    pictures: u64,
    there: u64,
    candidates: u64,
    /// Of those that are there.
    measured: Measured,
}

impl BatchDesk {
    #[must_use]
    pub fn estimate(&self, catalog: &Catalog, items: &[Item], terms: &Terms) -> Estimate {
        let mut slots: BTreeMap<&str, Asked> = BTreeMap::new();
        for item in items {
            let asked = slots.entry(item.place()).or_default();
            asked.pictures += 1;
            asked.candidates += u64::from(item.seed.is_some());
            let Some(binding) = self.recipe_of(catalog, item).and_then(|recipe| self.inner.bindings.get(recipe)) else {
                continue;
            };
            asked.there += 1;
            measure(&mut asked.measured, binding.device_ms);
        }
        let (pictures, there) = slots.values().fold((0, 0), |(all, there), it| (all + it.pictures, there + it.there));
        let earlier: Vec<BatchRecord> = self.all().into_iter().map(|status| status.record).collect();
        let device_ms = sum(slots.iter().map(|(place, asked)| self.device_ms(catalog, place, asked, &earlier)));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of at most 100,000 pictures")]
        let expected = {
            let earlier: Vec<_> = earlier.iter().filter(|record| record.terms.formats == terms.formats).collect();
            sum(slots.iter().map(|(place, asked)| bytes(catalog, place, asked, (terms, &earlier)))).map(|it| it as u64)
        };
        let cost = self.price().zip(device_ms).map(|(price, device_ms)| price.of(device_ms));
        Estimate { pictures, there, device_ms, bytes: expected, cost }
    }

    fn recipe_of(&self, catalog: &Catalog, item: &Item) -> Option<RecipeId> {
        if item.recipe.is_some() {
            return item.recipe;
        }
        let url = format!("{IMAGE_PATH_PREFIX}{}", item.picture);
        let variant = resolve(catalog, url.as_str(), &Operator).outcome.ok()?.resolved.variant;
        match item.seed {
            Some(seed) => Some(variant.with_seed(seed)?.recipe.id()),
            None => Some(variant.recipe.id()),
        }
    }

    /// Of devices, for the pictures of a slot that are not there.
    fn device_ms(&self, catalog: &Catalog, place: &str, asked: &Asked, earlier: &[BatchRecord]) -> Option<f64> {
        let left = asked.pictures - asked.there;
        if left == 0 {
            return Some(0.0);
        }
        let mut measured = asked.measured.clone();
        for other in earlier.iter().filter_map(|record| record.measured.get(place)) {
            measured.drawn += other.drawn;
            measured.device_ms += other.device_ms;
        }
        if measured.drawn == 0 {
            measured = self.sample(catalog, place);
        }
        mean(measured.device_ms, measured.drawn).map(|each| each * count(left))
    }

    /// What pictures of a slot took that nobody asks for now.
    fn sample(&self, catalog: &Catalog, place: &str) -> Measured {
        let mut measured = Measured::default();
        let Some((campaign, slot_index)) = slot_of(catalog, place) else { return measured };
        for combination in campaign.combinations().take(SAMPLE) {
            let recipe = campaign.recipe_of(slot_index, combination);
            let binding = recipe.and_then(|recipe| self.inner.bindings.get(recipe.id()));
            measure(&mut measured, binding.and_then(|binding| binding.device_ms));
        }
        measured
    }
}

/// Of renditions: a whole ladder for the manifest's own picture, one for a candidate. By earlier batches in the same
/// formats.
fn bytes(catalog: &Catalog, place: &str, asked: &Asked, (terms, earlier): (&Terms, &[&BatchRecord])) -> Option<f64> {
    let (mut bytes, mut pictures) = (0, 0);
    for other in earlier.iter().filter_map(|record| record.measured.get(place)) {
        bytes += other.bytes;
        pictures += other.pictures;
    }
    let each = mean(count(bytes), pictures)?;
    let (campaign, slot_index) = slot_of(catalog, place)?;
    let formats: Vec<Format> = terms.formats.iter().filter_map(|name| Format::from_name(name)).collect();
    let renditions = cuts(&campaign.slots[slot_index], &formats).count().max(1);
    let whole = count(asked.pictures - asked.candidates);
    Some(each * whole + each / count(renditions as u64) * count(asked.candidates))
}

fn slot_of<'c>(catalog: &'c Catalog, place: &str) -> Option<(&'c Campaign, usize)> {
    let (campaign, slot) = place.split_once('/')?;
    let campaign = catalog.campaign(campaign)?;
    Some((campaign, campaign.slot_index(slot)?))
}

fn measure(measured: &mut Measured, device_ms: Option<f64>) {
    if let Some(device_ms) = device_ms {
        measured.drawn += 1;
        measured.device_ms += device_ms;
    }
}

/// `None` as soon as one is unknown.
fn sum(parts: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    parts.sum()
}

fn mean(sum: f64, of: u64) -> Option<f64> {
    (of > 0).then(|| sum / count(of))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2⁵²")]
const fn count(number: u64) -> f64 {
    number as f64
}
