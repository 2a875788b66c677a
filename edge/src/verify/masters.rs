//! Masters that this edge knows: by what a picture looks like, and by what a watermark names.
//!
//! An edge learns a master's fingerprint with its binding. The public is told of *live* masters: bound to a recipe that a
//! campaign of the catalogue asks for now, not purged, and not of a campaign that answers signed URLs only. Operators are
//! told of all bindings. Nothing of a picture that is looked up is kept.
//!
//! Which recipes are live follows from the catalogue alone. It is worked out once per catalogue, at the first question.

use std::collections::HashMap;
use std::sync::Arc;

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cache::{Binding, Bindings};
use crate::campaign::manifest::Signing;
use crate::campaign::{Campaign, Catalog, CatalogHandle, variant_recipe};
use crate::governance::{Gate, Purges, Subject, Verdict};
use crate::resolve::{Operator, Resolution, Want, resolve};
use crate::watermark::MasterPrefix;
use crate::words::Format;

/// Most masters that are told, the nearest first.
const TOLD_MAX: usize = 10;
/// Most variants of a catalogue that are worked out: some twenty microseconds each.
const PLACES_MAX: usize = 100_000;
/// Most renditions whose manifests are looked for at a time.
const RENDITIONS_MAX: usize = 512;
/// As URLs name them.
const QUALITIES: [&str; 4] = ["auto", "high", "medium", "low"];

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Among {
    /// Masters that are live.
    Live,
    /// Every master that the edge knows.
    All,
}

/// A master that a picture looks like, or that its watermark names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMaster {
    pub master: String,
    pub recipe: String,
    /// Bits of 256 in which the fingerprints differ; missing where the watermark named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_bits: Option<u32>,
    /// Where the picture is served, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What was looked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Alike(PerceptualHash, u32),
    Named(MasterPrefix),
}

impl Wanted {
    /// The distance, where the binding is one that is wanted.
    fn of(self, binding: &Binding) -> Option<u32> {
        match self {
            // Imports of former versions have no fingerprint.
            Self::Alike(..) if binding.phash == PerceptualHash::from_bytes([0; 32]) => None,
            Self::Alike(phash, bits_max) => {
                Some(phash.distance(binding.phash)).filter(|distance| *distance <= bits_max)
            }
            Self::Named(prefix) => prefix.begins(binding.master.as_bytes()).then_some(0),
        }
    }
}

/// A rendition of a live master.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// URL of its picture.
    pub(crate) picture: String,
    pub(crate) want: Want,
}

/// A variant of the catalogue.
#[derive(Debug, Clone, Copy)]
struct VariantRef {
    campaign: usize,
    slot: usize,
    combination: u32,
}

/// Where each recipe is shown: one place for each slot, in the order of the manifests.
type Places = HashMap<RecipeId, Vec<VariantRef>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct KnownMasters {
    catalog: CatalogHandle,
    bindings: Bindings,
    purges: Purges,
    gate: Gate,
    public_url: String,
    /// Of the catalogue with this digest.
    places: Mutex<Option<(Digest, Arc<Places>)>>,
}

/// What a search gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    pub among: Among,
    /// Bindings that were looked at.
    pub compared: usize,
    pub found: Vec<KnownMaster>,
}

impl KnownMasters {
    #[must_use]
    pub fn new(catalog: CatalogHandle, bindings: Bindings, (purges, gate): (Purges, Gate), public_url: String) -> Self {
        Self { catalog, bindings, purges, gate, public_url, places: Mutex::new(None) }
    }

    /// Masters whose fingerprint differs in at most so many bits. Computes for some milliseconds: it belongs on no async
    /// worker.
    #[must_use]
    pub fn alike(&self, phash: PerceptualHash, bits_max: u32, among: Among) -> Search {
        self.search(Wanted::Alike(phash, bits_max), among)
    }

    /// Masters whose id begins with what a watermark says.
    #[must_use]
    pub fn named(&self, prefix: MasterPrefix, among: Among) -> Search {
        self.search(Wanted::Named(prefix), among)
    }

    /// The renditions that unsigned URLs reach of live masters whose id begins so, in the qualities that have a name.
    pub(crate) fn renditions(&self, prefix: MasterPrefix) -> Vec<Rendered> {
        let catalog = self.catalog.load();
        let places = self.places(&catalog);
        let mut rendered = Vec::new();
        for recipe in self.named(prefix, Among::Live).found.iter().filter_map(|known| known.recipe.parse().ok()) {
            let Some(binding) = self.bindings.get(recipe) else { continue };
            for place in places.get(&recipe).into_iter().flatten() {
                if let Some(picture) = self.live_url(&catalog, *place, &binding) {
                    rendered.extend(renditions_at(&catalog, *place, &picture));
                }
            }
        }
        rendered.truncate(RENDITIONS_MAX);
        rendered
    }

    fn search(&self, wanted: Wanted, among: Among) -> Search {
        let catalog = self.catalog.load();
        let places = self.places(&catalog);
        let (mut compared, mut near) = (0, Vec::new());
        self.bindings.each(|recipe, binding| {
            if among == Among::Live && !places.contains_key(&recipe) {
                return;
            }
            compared += 1;
            if let Some(distance) = wanted.of(binding) {
                near.push((distance, recipe, Arc::clone(binding)));
            }
        });
        near.sort_by_key(|(distance, recipe, ..)| (*distance, *recipe.as_bytes()));
        let told = near.into_iter().filter_map(|(distance, recipe, binding)| {
            let shown = places.get(&recipe).into_iter().flatten();
            let url = shown.filter_map(|place| self.live_url(&catalog, *place, &binding)).next();
            if among == Among::Live && url.is_none() {
                return None;
            }
            let distance_bits = matches!(wanted, Wanted::Alike(..)).then_some(distance);
            Some(KnownMaster { master: binding.master.to_string(), recipe: recipe.to_string(), distance_bits, url })
        });
        Search { among, compared, found: told.take(TOLD_MAX).collect() }
    }

    /// The picture's URL, unless it was purged or is withheld.
    fn live_url(&self, catalog: &Catalog, place: VariantRef, binding: &Binding) -> Option<String> {
        let campaign = catalog.campaigns().nth(place.campaign)?;
        let url = campaign.url(campaign.slots.get(place.slot)?, &campaign.query(place.combination));
        let Resolution { resolved, want } = resolve(catalog, url.as_str(), &Operator).outcome.ok()?;
        let subject = Subject { tags: want.variant.tags.all(), recipe: want.recipe_id(), spec: &want.spec };
        let is_valid = self.purges.binding_verdict(&subject, binding) == Verdict::Valid;
        let is_shown = self.gate.clear(&want, Some(binding.master)).is_ok();
        (is_valid && is_shown).then(|| format!("{}{}", self.public_url, resolved.canonical_url()))
    }

    fn places(&self, catalog: &Catalog) -> Arc<Places> {
        let mut memo = self.places.lock();
        match &*memo {
            Some((digest, places)) if digest == catalog.digest() => Arc::clone(places),
            _ => {
                let places = Arc::new(live(catalog));
                *memo = Some((*catalog.digest(), Arc::clone(&places)));
                places
            }
        }
    }
}

/// What unsigned URLs reach at a place, in every width, format and named quality of its slot.
fn renditions_at(catalog: &Catalog, place: VariantRef, picture: &str) -> Vec<Rendered> {
    let slot = catalog.campaigns().nth(place.campaign).and_then(|campaign| campaign.slots.get(place.slot));
    let Some(slot) = slot else { return Vec::new() };
    let separator = if picture.contains('?') { '&' } else { '?' };
    let urls = slot
        .rungs(&Format::ALL)
        .flat_map(|rung| QUALITIES.map(|quality| format!("{picture}{separator}{rung}&q={quality}")));
    let wants = urls.filter_map(|url| Some(resolve(catalog, url.as_str(), &Operator).outcome.ok()?.want));
    wants.map(|want| Rendered { picture: picture.to_owned(), want }).collect()
}

fn live(catalog: &Catalog) -> Places {
    let public = catalog.campaigns().enumerate().filter(|(_, campaign)| campaign.policy.signing != Signing::Required);
    let all = public.flat_map(|(at, campaign)| of_campaign(at, campaign));
    let (mut seen, mut places) = (0, Places::new());
    for (recipe, place) in all.take(PLACES_MAX) {
        seen += 1;
        let known = places.entry(recipe).or_default();
        // Variants that differ in their texts alone share a recipe.
        if !known.iter().any(|other| (other.campaign, other.slot) == (place.campaign, place.slot)) {
            known.push(place);
        }
    }
    if seen == PLACES_MAX {
        tracing::warn!(variants = PLACES_MAX, "the catalogue has more variants than the detector looks up");
    }
    places
}

fn of_campaign(at: usize, campaign: &Arc<Campaign>) -> impl Iterator<Item = (RecipeId, VariantRef)> + '_ {
    campaign.slots.iter().enumerate().flat_map(move |(slot_at, slot)| {
        campaign.combinations().filter_map(move |combination| {
            let recipe = variant_recipe(campaign, slot, &campaign.values_of(combination)).ok()?;
            Some((recipe.id(), VariantRef { campaign: at, slot: slot_at, combination }))
        })
    })
}
