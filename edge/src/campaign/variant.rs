//! A variant: campaign + slot + one value per axis, and the recipe that is a pure function of it.

use std::fmt::Write as _;
use std::sync::Arc;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::import::{Awaited, ImportRecipe, MasterRecipe};
use bildkante_shared::limits::DEDUP_NAME_BYTES_MAX;
use bildkante_shared::recipe::{Recipe, RecipeError, ValidRecipe, canonical_json};
use bildkante_shared::wire::DedupScope;

use super::axes::Axis;
use super::catalog::Campaign;
use super::generate::{Generate, Seed, SeedPer};
use super::layers::{FillError, ImageUse};
use super::manifest::{OnStaleState, PromptPublication};
use super::parts::Parts;
use super::pins::Pins;
use super::review::{Gates, Review};
use super::rights::RightsEnd;
use super::slots::Slot;
use crate::provenance::{Description, Generator, Marking, Prompt};
use crate::render::Finish;

/// Longest stem of a file name.
const FILE_STEM_BYTES_MAX: usize = 100;

/// Which variant, within one snapshot of the catalogue: equal variants have equal keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariantKey {
    pub campaign: u16,
    pub slot: u16,
    /// Mixed radix over the axes, the first most significant.
    pub combination: u32,
}

/// What purges know a picture by, and `Cache-Tag` and `Surrogate-Key` name beside its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tags {
    campaign: String,
    slot: String,
    recipe: String,
}

impl Tags {
    /// `path` is `campaign/slot`.
    fn new(campaign: &str, path: &str, recipe: RecipeId) -> Self {
        Self { campaign: format!("campaign:{campaign}"), slot: format!("slot:{path}"), recipe: recipe_tag(recipe) }
    }

    /// Those of the same place under another recipe.
    #[must_use]
    pub fn with_recipe(&self, recipe: RecipeId) -> Self {
        Self { recipe: recipe_tag(recipe), ..self.clone() }
    }

    #[must_use]
    pub fn all(&self) -> [&str; 3] {
        [&self.campaign, &self.slot, &self.recipe]
    }

    /// Those of the place alone, for what stands in for the picture: it must not be purged or counted as the picture.
    #[must_use]
    pub fn of_place(&self) -> [&str; 2] {
        [&self.campaign, &self.slot]
    }

    /// `recipe:…`.
    #[must_use]
    pub fn recipe(&self) -> &str {
        &self.recipe
    }

    /// `slot:campaign/slot`.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.slot
    }
}

fn recipe_tag(recipe: RecipeId) -> String {
    format!("recipe:{recipe}")
}

/// Why there is no variant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VariantError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Layers(#[from] FillError),
}

impl VariantError {
    /// For logs, metric labels and problem types.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Recipe(_) => "invalid-recipe",
            Self::Layers(_) => "invalid-layers",
        }
    }
}

/// A variant with everything that follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub key: VariantKey,
    /// One index per axis of the campaign.
    pub values: Box<[usize]>,
    /// Every axis with its value, by axis name: `studio/hero?colour=teal&…&product=mug`. The same in every
    /// snapshot, also when a default is changed.
    pub name: String,
    /// The same with the axes alone that its picture differs by: what people decide about, and the name of an import.
    pub picture: String,
    /// Axes that are not at their default, by axis name: `colour=red`; empty for the slot's fallback.
    pub query: String,
    pub recipe: MasterRecipe,
    /// What its picture is made of.
    pub parts: Arc<Parts>,
    /// Of its master, or what the slot expects of one that is awaited.
    pub size_px: (u32, u32),
    /// The campaign's, or its own if it is an import.
    pub finish: Arc<Finish>,
    /// With the layers and the bound of each cut, in the order of its slot; empty where all are finished alike.
    pub(super) cut_finishes: Box<[Arc<Finish>]>,
    /// The campaign's.
    pub on_stale_state: OnStaleState,
    /// Of its slot.
    pub review: Review,
    /// Of its slot.
    pub gates: Gates,
    /// How its slot cuts pictures: its ratio, and its cuts. A decision holds in one cut.
    pub cut: String,
    /// When it may be shown no more, because a right ends.
    pub rights_end: Option<RightsEnd>,
    /// Within which images the node may find a duplicate.
    pub dedup: DedupScope,
    pub tags: Tags,
    /// Keywords for `Content-Disposition`, without extension.
    pub file_stem: String,
}

impl Variant {
    /// # Errors
    /// When the recipe is out of bounds or a layer cannot be filled in, which a valid manifest rules out.
    pub(crate) fn build(campaign: &Campaign, key: VariantKey, values: Vec<usize>) -> Result<Self, VariantError> {
        let slot_index = usize::from(key.slot);
        let slot = &campaign.slots[slot_index];
        let PictureSource { recipe, size_px, finish } = source(campaign, slot, &values)?;
        let laid = |cut| {
            let layers = campaign.layers(slot_index).map(|layers| layers.of(&values, cut)).transpose()?.flatten();
            let bytes_max = slot.bytes_max_of(cut);
            let within = || Arc::new(finish.within(bytes_max));
            let finish = if bytes_max == finish.bytes_max() { Arc::clone(&finish) } else { within() };
            let finish = layers.map_or_else(|| Arc::clone(&finish), |layers| Arc::new(finish.laid_with(layers)));
            Ok::<_, FillError>(finish)
        };
        let is_bounded = slot.cuts.iter().any(|cut| cut.framing.bytes_max.is_some());
        let cuts = if is_bounded || campaign.layers(slot_index).is_some() { slot.cuts.len() } else { 0 };
        let cut_finishes = (0..cuts).map(|cut| laid(Some(cut))).collect::<Result<_, _>>()?;
        let finish = laid(None)?;
        let path = format!("{}/{}", campaign.name, slot.name);
        let all = query(&campaign.axes, &values, |_, _| true);
        Ok(Self {
            key,
            name: if all.is_empty() { path.clone() } else { format!("{path}?{all}") },
            picture: picture_name(&campaign.name, slot, &campaign.axes, &values),
            query: query(&campaign.axes, &values, |axis, index| index != campaign.axes[axis].default),
            on_stale_state: campaign.policy.on_stale_state,
            review: slot.review,
            gates: Arc::clone(&slot.gates),
            cut: slot.cut_words(),
            rights_end: match &recipe {
                MasterRecipe::Imported(_) => {
                    campaign.rights().of_import(&picture_name(&campaign.name, slot, &campaign.axes, &values))
                }
                MasterRecipe::Drawn(_) | MasterRecipe::Awaited(_) => campaign.rights().of_drawn(slot),
            },
            dedup: dedup_scope(campaign, slot_index, &path, &values),
            tags: Tags::new(&campaign.name, &path, recipe.id()),
            file_stem: file_stem(campaign, slot, &values),
            values: values.into_boxed_slice(),
            parts: Arc::new(Parts::of(slot, &recipe)),
            recipe,
            size_px,
            finish,
            cut_finishes,
        })
    }
}

impl Variant {
    /// How its pictures are finished in a cut of its slot; `None` is the slot's own framing.
    #[must_use]
    pub fn finish_of(&self, cut: Option<usize>) -> &Arc<Finish> {
        cut.and_then(|cut| self.cut_finishes.get(cut)).unwrap_or(&self.finish)
    }

    /// `None` where no model draws it.
    #[must_use]
    pub fn drawn_seed(&self) -> Option<u32> {
        match &self.recipe {
            MasterRecipe::Drawn(recipe) => Some(recipe.seed),
            MasterRecipe::Imported(_) | MasterRecipe::Awaited(_) => None,
        }
    }

    /// The same variant drawn with another seed: a candidate, with a recipe of its own. `None` where no model draws it.
    #[must_use]
    pub fn with_seed(&self, seed: u32) -> Option<Self> {
        let MasterRecipe::Drawn(own) = &self.recipe else { return None };
        let recipe = ValidRecipe::try_from(Recipe { seed, ..Recipe::clone(own) }).ok()?;
        Some(Self {
            tags: self.tags.with_recipe(recipe.id()),
            recipe: MasterRecipe::Drawn(Box::new(recipe)),
            ..self.clone()
        })
    }
}

/// `axis=value` pairs by axis name. Names and values need no escaping: they are `a-z`, `0-9`, `-` and, in
/// locales, `A-Z`.
pub(super) fn query(axes: &[Axis], values: &[usize], keep: impl Fn(usize, usize) -> bool) -> String {
    let mut kept: Vec<usize> = (0..axes.len()).filter(|&axis| keep(axis, values[axis])).collect();
    kept.sort_unstable_by(|&a, &b| axes[a].name.cmp(&axes[b].name));
    let mut text = String::new();
    for axis in kept {
        let separator = if text.is_empty() { "" } else { "&" };
        let _ = write!(text, "{separator}{}={}", axes[axis].name, axes[axis].values[values[axis]].name);
    }
    text
}

/// Where a variant's picture comes from.
struct PictureSource {
    recipe: MasterRecipe,
    size_px: (u32, u32),
    finish: Arc<Finish>,
}

/// The recipe of a slot's picture for these values: nothing but the campaign's files decides it.
pub(crate) fn recipe(campaign: &Campaign, slot: &Slot, values: &[usize]) -> Result<MasterRecipe, RecipeError> {
    Ok(source(campaign, slot, values)?.recipe)
}

/// An import takes the place of what would be drawn.
fn source(campaign: &Campaign, slot: &Slot, values: &[usize]) -> Result<PictureSource, RecipeError> {
    let picture = picture_name(&campaign.name, slot, &campaign.axes, values);
    if let Some(import) = campaign.pins().imports.get(&picture) {
        return Ok(PictureSource {
            recipe: MasterRecipe::Imported(import.recipe.clone()),
            size_px: (import.width_px, import.height_px),
            finish: Arc::new(import_finish(campaign.slot_finish(slot), &import.recipe)),
        });
    }
    let size_px = slot.making.size_px();
    let Some(generate) = slot.drawn() else {
        let recipe = MasterRecipe::Awaited(Awaited::new(&picture));
        return Ok(PictureSource { recipe, size_px, finish: Arc::clone(campaign.slot_finish(slot)) });
    };
    let recipe = drawn(slot, generate, (&campaign.axes, campaign.pins()), values)?;
    let finish = drawn_finish(campaign.slot_finish(slot), campaign.prompt.as_ref(), &recipe);
    Ok(PictureSource { recipe: MasterRecipe::Drawn(Box::new(recipe)), size_px, finish })
}

/// The slot's, with the prompt where the campaign publishes it.
fn drawn_finish(slot: &Arc<Finish>, publication: Option<&PromptPublication>, recipe: &ValidRecipe) -> Arc<Finish> {
    let (Some(PromptPublication { writer }), Some(generator)) = (publication, &slot.description().generator) else {
        return Arc::clone(slot);
    };
    let prompt = Some(Prompt { text: recipe.prompt.clone(), writer: writer.clone() });
    let generator = Some(Generator { prompt, ..generator.clone() });
    Arc::new(slot.describing(Description { generator, ..slot.description().clone() }))
}

/// What the import says itself goes before what the campaign says.
fn import_finish(campaign: &Finish, import: &ImportRecipe) -> Finish {
    let rights = campaign.marking();
    let first = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
    let marking = Marking {
        creator: first(&import.creator, &rights.creator),
        credit: first(&import.credit, &rights.credit),
        copyright: first(&import.copyright, &rights.copyright),
        license: first(&import.license, &rights.license),
        location: rights.location.clone(),
    };
    campaign.describing(Description::new(marking, import.source))
}

/// The name of a picture in the lock: its slot, and the axes that its pictures differ by.
#[must_use]
pub(super) fn picture_name(campaign: &str, slot: &Slot, axes: &[Axis], values: &[usize]) -> String {
    let differing = query(axes, values, |axis, _| slot.differs_by(axes, axis));
    let separator = if differing.is_empty() { "" } else { "?" };
    format!("{campaign}/{}{separator}{differing}", slot.name)
}

/// What is drawn for these values: nothing but the slot, the axes and the lock decides it.
fn drawn(
    slot: &Slot,
    generate: &Generate,
    (axes, pins): (&[Axis], &Pins),
    values: &[usize],
) -> Result<ValidRecipe, RecipeError> {
    let prompt = generate.prompt.render(|axis| &axes[axis].values[values[axis]].prompt);
    let mut recipe = Recipe {
        negative_prompt: generate.negative_prompt.clone(),
        seed: generate.seed.base,
        scheduler: generate.scheduler.clone(),
        steps: generate.steps,
        guidance: generate.guidance,
        ..Recipe::new(pins.checkpoint(&generate.checkpoint), prompt, (generate.width_px, generate.height_px))
    };
    generate.additions.add_to(&mut recipe, pins, &|image| match image {
        ImageUse::File(name) => pins.image(name),
        ImageUse::Place(place) => pins.image(&place.picture(slot, axes, values).name),
    });
    let picture = query(axes, values, |axis, _| generate.differs_by(axis));
    recipe.seed = match generate.seeds.of(&picture) {
        Some(chosen) => chosen,
        None => seed(generate.seed, &recipe)?,
    };
    ValidRecipe::try_from(recipe)
}

/// The base itself, or the low 32 bits (little-endian) of BLAKE3 over the base and the canonical recipe without
/// its seed.
fn seed(seed: Seed, recipe: &Recipe) -> Result<u32, RecipeError> {
    if seed.per == SeedPer::Campaign {
        return Ok(seed.base);
    }
    let canonical = |error: &dyn std::fmt::Display| RecipeError::Canonical { reason: error.to_string() };
    let mut seedless: serde_json::Value =
        serde_json::from_slice(&canonical_json(recipe)?).map_err(|error| canonical(&error))?;
    if let Some(fields) = seedless.as_object_mut() {
        fields.remove("seed");
    }
    let seedless = serde_json_canonicalizer::to_vec(&seedless).map_err(|error| canonical(&error))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.base.to_le_bytes()).update(&seedless);
    let hash = hasher.finalize();
    let [a, b, c, d, ..] = hash.as_bytes();
    Ok(u32::from_le_bytes([*a, *b, *c, *d]))
}

/// Campaign and slot at their generation digest, and the values of distinct axes; within it the variant by the
/// axes its prompt uses, so that locales which share a recipe are one variant to the node.
fn dedup_scope(campaign: &Campaign, slot_index: usize, path: &str, values: &[usize]) -> DedupScope {
    let axes = &campaign.axes;
    let distinct = query(axes, values, |axis, _| axes[axis].is_distinct);
    let slot = &campaign.slots[slot_index];
    let drawn = query(axes, values, |axis, _| slot.differs_by(axes, axis));
    let revision = &campaign.links[slot_index].generation_digest.to_hex()[..16];
    let separator = if distinct.is_empty() { "" } else { "?" };
    DedupScope { scope: bounded(format!("{path}@{revision}{separator}{distinct}")), variant: bounded(drawn) }
}

/// The text, or its digest where the wire would refuse the length.
fn bounded(text: String) -> String {
    if text.len() <= DEDUP_NAME_BYTES_MAX { text } else { RecipeId::of_bytes(text.as_bytes()).to_string() }
}

/// `studio-mug-teal-glossy`: the campaign and the values that are drawn, as far as they fit.
fn file_stem(campaign: &Campaign, slot: &Slot, values: &[usize]) -> String {
    let mut stem = campaign.name.clone();
    let drawn = campaign.axes.iter().enumerate().filter(|(axis, _)| slot.differs_by(&campaign.axes, *axis));
    for (axis, index) in drawn.map(|(axis, _)| (axis, values[axis])) {
        let name = &campaign.axes[axis].values[index].name;
        if stem.len() + 1 + name.len() > FILE_STEM_BYTES_MAX {
            break;
        }
        let _ = write!(stem, "-{name}");
    }
    stem
}
