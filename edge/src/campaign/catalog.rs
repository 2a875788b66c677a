//! The catalogue: an immutable snapshot of every campaign, with its lock and its libraries.
//!
//! A snapshot is whole or there is none: one broken manifest refuses it, and the edge keeps the last. Resolved
//! variants are memoised within the snapshot, bounded by count, so that a hit hashes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use bildkante_shared::import::MasterRecipe;
use moka::sync::Cache;

use super::ai_act::AiAct;
use super::axes::{Axis, AxisValue, Restriction, forbidden, locale_of};
use super::bounds;
use super::briefing::Briefing;
use super::fault::{CatalogErrors, Fault, SourceText};
use super::layers::{self, SlotLayers};
use super::lock::{self, Lock};
use super::look::{self, Grades};
use super::manifest::{self, Manifest, Policy, PromptPublication};
use super::markup::Alternative;
use super::models::ModelFacts;
use super::motif::{self, MotifTag};
use super::parts::Parts;
use super::pins::Pins;
use super::prompts;
use super::revision::generation_digest;
use super::rights::{ReferenceFacts, Rights, RightsEnd};
use super::slots::Slot;
use super::sources::{CampaignFiles, CatalogSources, SourceFile, SourceFiles};
use super::variant::{Variant, VariantError, VariantKey, picture_name, query, recipe};
use super::version::rendition_digest;
use super::wording::Wording;
use crate::provenance::{Description, DigitalSource, Generator};
use crate::render::{Finish, Finishing};
use crate::request::{IMAGE_PATH_PREFIX, IgnoredParameters, ParameterNames};

/// A campaign ready to serve: manifest and lock, linked.
#[derive(Debug)]
pub struct Campaign {
    pub name: String,
    pub title: String,
    /// Of what stands in for its pictures, and of its pictures as far as their slot says nothing else.
    pub finish: Arc<Finish>,
    /// Whether pictures tell what they were drawn from.
    pub prompt: Option<PromptPublication>,
    pub policy: Policy,
    pub axes: Vec<Axis>,
    pub slots: Vec<Arc<Slot>>,
    /// What the author says of checkpoints and adapters, by their names.
    pub models: BTreeMap<String, ModelFacts>,
    /// And of images and imported pictures.
    pub references: BTreeMap<String, ReferenceFacts>,
    /// When the campaign's own rights end.
    pub(super) rights_end_unix_s: Option<u64>,
    pub ai_act: AiAct,
    pub briefing: Briefing,
    /// Where a licence is had: a page.
    pub acquire_license: Option<String>,
    /// Over manifest, lock and the libraries.
    pub digest: Digest,
    /// Its place in the snapshot.
    index: u16,
    pub(super) links: Vec<SlotLink>,
    pins: Pins,
    /// What one step of an axis adds to a combination.
    strides: Vec<u32>,
    default_combination: u32,
}

/// What is computed once per slot.
#[derive(Debug)]
pub(super) struct SlotLink {
    /// Over everything that decides what the slot's recipes are.
    pub(super) generation_digest: Digest,
    /// Over everything that decides how its masters are cut and encoded.
    pub(super) rendition_digest: Digest,
    /// Of its drawn pictures, without their prompts.
    pub(super) finish: Arc<Finish>,
    /// Names the slot as this state of the files has it.
    pub(super) id: u64,
    /// What is laid on its pictures.
    layers: Option<Arc<SlotLayers>>,
}

/// Why values cannot stand together.
#[derive(Debug, Clone, Copy)]
pub struct Forbidden<'c> {
    pub axis: &'c Axis,
    pub value: &'c AxisValue,
    pub restriction: &'c Restriction,
}

impl Campaign {
    /// Everything of it that can end.
    pub(super) fn rights(&self) -> Rights<'_> {
        Rights {
            campaign: &self.name,
            ends_unix_s: self.rights_end_unix_s,
            models: &self.models,
            references: &self.references,
        }
    }

    /// The rights that end, the first first.
    #[must_use]
    pub fn rights_ends(&self) -> Vec<RightsEnd> {
        self.rights().all()
    }

    fn link(
        manifest: Manifest,
        (lock, grades): (Lock, &Grades),
        digest: Digest,
        index: u16,
        finishing: &Finishing,
        layers: Vec<Option<Arc<SlotLayers>>>,
    ) -> Self {
        let mut strides = vec![1_u32; manifest.axes.len()];
        for axis in (0..manifest.axes.len().saturating_sub(1)).rev() {
            // At most VARIANTS_MAX combinations: no overflow.
            strides[axis] = strides[axis + 1] * count_u32(manifest.axes[axis + 1].values.len());
        }
        let default_combination =
            manifest.axes.iter().zip(&strides).map(|(axis, stride)| count_u32(axis.default) * stride).sum();
        let drawn = Description::new(manifest.rights, DigitalSource::TrainedAlgorithmicMedia);
        let finish = Arc::new(Finish::with(drawn, finishing.clone(), manifest.policy.on_unsigned));
        let links = manifest.slots.iter().zip(layers).map(|(slot, layers)| {
            let finish = slot_finish(slot, &finish, (&lock.pins, grades));
            SlotLink {
                generation_digest: generation_digest(slot, &manifest.axes, &lock.pins),
                rendition_digest: rendition_digest(slot, &finish, manifest.prompt.as_ref(), layers.as_deref()),
                finish,
                id: slot_id(&digest, &slot.name),
                layers,
            }
        });
        Self {
            links: links.collect(),
            name: manifest.name,
            title: manifest.title,
            finish,
            prompt: manifest.prompt,
            policy: manifest.policy,
            axes: manifest.axes,
            slots: manifest.slots.into_iter().map(Arc::new).collect(),
            models: manifest.models,
            references: manifest.references,
            rights_end_unix_s: manifest.rights_end_unix_s,
            ai_act: manifest.ai_act,
            briefing: manifest.briefing,
            acquire_license: manifest.acquire_license,
            digest,
            index,
            pins: lock.pins,
            strides,
            default_combination,
        }
    }

    #[must_use]
    pub fn slot_index(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == name)
    }

    #[must_use]
    pub fn axis_index(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| axis.name == name)
    }

    /// Of the pictures that are drawn for a slot of this campaign, without their prompts.
    pub(super) fn slot_finish(&self, slot: &Slot) -> &Arc<Finish> {
        self.slot_index(&slot.name).map_or(&self.finish, |index| &self.links[index].finish)
    }

    /// The combination of all defaults.
    #[must_use]
    pub const fn default_combination(&self) -> u32 {
        self.default_combination
    }

    pub(crate) fn key(&self, slot_index: usize, combination: u32) -> VariantKey {
        VariantKey { campaign: self.index, slot: count_u16(slot_index), combination }
    }

    /// A combination with one axis changed from its default to another value.
    pub(crate) fn with_value(&self, combination: u32, axis: usize, value: usize) -> u32 {
        let stride = self.strides[axis];
        combination - count_u32(self.axes[axis].default) * stride + count_u32(value) * stride
    }

    /// One value index per axis.
    #[must_use]
    pub fn values_of(&self, combination: u32) -> Vec<usize> {
        let digits = self.axes.iter().zip(&self.strides);
        digits.map(|(axis, stride)| (combination / stride) as usize % axis.values.len()).collect()
    }

    /// Every allowed combination, in the order of the manifest: the first axis varies slowest.
    pub fn combinations(&self) -> impl Iterator<Item = u32> {
        let count = self.axes.iter().map(|axis| count_u32(axis.values.len())).product::<u32>();
        let has_restrictions = self.has_restrictions();
        (0..count).filter(move |&combination| {
            !has_restrictions || forbidden(&self.axes, &self.values_of(combination)).is_none()
        })
    }

    /// A combination with its value of one axis replaced by another.
    #[must_use]
    pub fn replaced(&self, combination: u32, axis: usize, value: usize) -> u32 {
        let current = combination / self.strides[axis] % count_u32(self.axes[axis].values.len());
        combination - current * self.strides[axis] + count_u32(value) * self.strides[axis]
    }

    /// Every allowed combination of some axes' values, each with the values of the others that come first.
    pub(super) fn combinations_of(&self, axes: &[usize]) -> Vec<u32> {
        let own = |combination: u32| {
            let digits = axes.iter().map(|&axis| {
                let (stride, values) = (self.strides[axis], count_u32(self.axes[axis].values.len()));
                combination / stride % values * stride
            });
            digits.sum::<u32>()
        };
        if self.has_restrictions() {
            // A combination of some is allowed where one of all is.
            let mut seen = HashSet::new();
            return self.combinations().filter(|combination| seen.insert(own(*combination))).collect();
        }
        let mut combinations = vec![0];
        for &axis in axes {
            let stride = self.strides[axis];
            let values = 0..count_u32(self.axes[axis].values.len());
            combinations =
                combinations.iter().flat_map(|from| values.clone().map(move |value| from + value * stride)).collect();
        }
        combinations
    }

    /// The axes that a slot's pictures differ by.
    #[must_use]
    pub fn differing_axes(&self, slot: &Slot) -> Vec<usize> {
        (0..self.axes.len()).filter(|&axis| slot.differs_by(&self.axes, axis)).collect()
    }

    /// The name of a slot's picture for these values: the same for locales that share it.
    #[must_use]
    pub fn picture_of(&self, slot: &Slot, values: &[usize]) -> String {
        picture_name(&self.name, slot, &self.axes, values)
    }

    /// Number of allowed combinations.
    #[must_use]
    pub fn combination_count(&self) -> u64 {
        if self.has_restrictions() {
            self.combinations().count() as u64
        } else {
            self.axes.iter().map(|axis| axis.values.len() as u64).product()
        }
    }

    /// Whether some combinations of values are not allowed.
    pub(super) fn has_restrictions(&self) -> bool {
        self.axes.iter().flat_map(|axis| &axis.values).any(|value| !value.only.is_empty())
    }

    /// The restriction a choice of values breaks.
    #[must_use]
    pub fn forbidden(&self, values: &[usize]) -> Option<Forbidden<'_>> {
        forbidden(&self.axes, values).map(|(axis, value, restriction)| Forbidden { axis, value, restriction })
    }

    /// The locale of a variant; the campaign's first where no axis says.
    #[must_use]
    pub fn locale(&self, values: &[usize]) -> &str {
        locale_of(&self.axes, &self.policy.locales[0], values)
    }

    /// A slot's alt text for a variant, in its locale; empty of a picture that decorates.
    #[must_use]
    pub fn alt(&self, slot: &Slot, values: &[usize]) -> String {
        match &slot.markup.alternative {
            Alternative::Text(alt) => self.worded(alt, values).unwrap_or_default(),
            Alternative::Decorative => String::new(),
        }
    }

    /// A slot's text for a variant, in its locale. `None` where the manifest has none.
    #[must_use]
    pub fn worded(&self, wording: &Wording, values: &[usize]) -> Option<String> {
        let locale = self.locale(values);
        let text = wording.get(locale)?.render(|axis| {
            let value = &self.axes[axis].values[values[axis]];
            value.label.get(locale).map_or(value.name.as_str(), String::as_str)
        });
        Some(text)
    }

    /// What the axes say of the motif of a variant.
    pub fn motif<'c>(&'c self, values: &'c [usize]) -> impl Iterator<Item = MotifTag<'c>> {
        motif::tags(&self.axes, values)
    }

    /// Tells the prompt, the model and the settings that a slot's pictures are drawn with from those before an edit. `None`
    /// where no model draws them.
    #[must_use]
    pub fn prompt_version(&self, slot_index: usize) -> Option<String> {
        self.slots[slot_index].drawn()?;
        Some(self.links[slot_index].generation_digest.to_hex()[..PROMPT_VERSION_CHARS].to_owned())
    }

    /// Over everything that decides what a slot's recipes are, but the seeds chosen for single pictures.
    pub(super) fn prompt_revision(&self, slot_index: usize) -> &Digest {
        &self.links[slot_index].generation_digest
    }

    /// The axes of a combination that are not at their default, as a query; empty for the combination of all defaults.
    #[must_use]
    pub fn query(&self, combination: u32) -> String {
        query(&self.axes, &self.values_of(combination), |axis, index| index != self.axes[axis].default)
    }

    /// Path and query of a slot's picture, at the slot's default width and in any format.
    #[must_use]
    pub fn url(&self, slot: &Slot, query: &str) -> String {
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{IMAGE_PATH_PREFIX}{}/{}{separator}{query}", self.name, slot.name)
    }

    /// The recipe of a variant alone, remembered nowhere: for looking through a whole campaign. `None` where it is out of
    /// bounds, which a valid manifest rules out.
    #[must_use]
    pub fn recipe_of(&self, slot_index: usize, combination: u32) -> Option<MasterRecipe> {
        recipe(self, self.slots.get(slot_index)?, &self.values_of(combination)).ok()
    }

    /// What a slot's picture for these values is made of.
    #[must_use]
    pub fn parts(&self, slot: &Slot, values: &[usize]) -> Option<Parts> {
        recipe(self, slot, values).ok().map(|recipe| Parts::of(slot, &recipe))
    }

    /// What the lock pins.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Tells a slot from every other, and from itself before an edit.
    #[must_use]
    pub fn slot_id(&self, slot_index: usize) -> u64 {
        self.links[slot_index].id
    }

    /// What is laid on a slot's pictures.
    #[must_use]
    pub fn layers(&self, slot_index: usize) -> Option<&Arc<SlotLayers>> {
        self.links[slot_index].layers.as_ref()
    }

    /// What of slot and campaign decides how its masters are cut and encoded.
    #[must_use]
    pub fn rendition_digest(&self, slot_index: usize) -> &Digest {
        &self.links[slot_index].rendition_digest
    }
}

/// Campaigns and slots are bounded by `FILES_MAX` and `SLOTS_MAX`.
fn count_u16(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Counts here are bounded by `VARIANTS_MAX`.
fn count_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn slot_id(campaign: &Digest, slot: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(campaign.as_bytes()).update(slot.as_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    u64::from_le_bytes(id)
}

/// All campaigns of a moment.
pub struct Catalog {
    campaigns: Vec<Arc<Campaign>>,
    by_name: HashMap<String, u16>,
    /// Over every file read.
    digest: Digest,
    ignored: IgnoredParameters,
    variants: Cache<VariantKey, Arc<Variant>>,
}

/// Manifests read without their locks: what `lock` works on.
pub(crate) struct ReadManifests {
    pub(crate) manifests: Vec<(Manifest, CampaignFiles)>,
    pub(crate) libraries_digest: Digest,
    pub(crate) tables: BTreeMap<String, SourceFile>,
    pub(crate) digest: Digest,
    pub(crate) faults: Vec<Fault>,
}

/// Reads libraries and manifests from disk, collecting faults.
pub(crate) fn read_manifests(sources: &CatalogSources) -> ReadManifests {
    parse_manifests(SourceFiles::read(sources))
}

/// The same from files read before.
pub(crate) fn parse_manifests(files: SourceFiles) -> ReadManifests {
    let SourceFiles { campaigns, libraries: library_files, tables, unreadable, digest, mut faults } = files;
    let mut libraries: BTreeMap<_, _> = unreadable.iter().map(|stem| (stem.clone(), prompts::refused(stem))).collect();
    for (stem, file) in &library_files {
        let source = SourceText::new(&file.path, &file.text);
        libraries.insert(stem.clone(), prompts::read(&source, stem));
        faults.extend(source.into_faults());
    }
    let mut manifests = Vec::with_capacity(campaigns.len());
    for (stem, files) in campaigns {
        let source = SourceText::new(&files.manifest.path, &files.manifest.text);
        let manifest = manifest::read(&source, &stem, &libraries);
        faults.extend(source.into_faults());
        manifests.extend(manifest.map(|manifest| (manifest, files)));
    }
    let libraries_digest = texts_digest(library_files.values());
    ReadManifests { manifests, libraries_digest, tables, digest, faults }
}

/// An axis of the campaign beats every list of tracking parameters.
impl ParameterNames for Catalog {
    fn is_ignored(&self, campaign: &str, name: &str) -> bool {
        self.ignored.matches(name) && self.campaign(campaign).is_none_or(|known| known.axis_index(name).is_none())
    }
}

impl Catalog {
    /// Reads everything.
    ///
    /// # Errors
    /// Every fault of every file, each with file, line, column and reason.
    pub fn load(sources: &CatalogSources) -> Result<Self, CatalogErrors> {
        Self::from_manifests(read_manifests(sources), sources)
    }

    pub(crate) fn from_manifests(read: ReadManifests, sources: &CatalogSources) -> Result<Self, CatalogErrors> {
        let ReadManifests { manifests, libraries_digest, tables, digest, mut faults } = read;
        let layers_dir = layers::folder_of(&sources.campaigns_dir);
        let mut campaigns = Vec::with_capacity(manifests.len());
        for (manifest, files) in manifests {
            let Some(lock_file) = &files.lock else {
                // One that is there and cannot be read has been told.
                if !faults.iter().any(|fault| fault.file == files.lock_path) {
                    faults.push(lock::missing(&files.lock_path));
                }
                continue;
            };
            let source = SourceText::new(&lock_file.path, &lock_file.text);
            let lock = lock::read(&source, &manifest);
            faults.extend(source.into_faults());
            let Some(lock) = lock else { continue };
            let source = SourceText::new(&files.manifest.path, &files.manifest.text);
            let from = (layers_dir.as_path(), &sources.decoder);
            let (layers, table_faults) = layers::link(&source, &manifest, &lock.pins.layers, &tables, from);
            faults.extend(source.into_faults());
            faults.extend(table_faults);
            let table = manifest.stock.table().and_then(|table| tables.get(table));
            let own_digest = texts_digest([&files.manifest, lock_file].into_iter().chain(table));
            let digest = Digest::of_bytes(&[*own_digest.as_bytes(), *libraries_digest.as_bytes()].concat());
            let index = count_u16(campaigns.len());
            let folder = (sources.campaigns_dir.as_path(), files.manifest.path.as_path());
            let grades = look::grades(&manifest.slots, &lock.pins, folder, &mut faults);
            let linked = Campaign::link(manifest, (lock, &grades), digest, index, &sources.finishing, layers);
            faults.extend(bounds::faults(&linked, &files.manifest.path));
            campaigns.push(Arc::new(linked));
        }
        let by_name = campaigns.iter().map(|campaign| (campaign.name.clone(), campaign.index));
        let catalog = Self {
            by_name: by_name.collect(),
            campaigns,
            digest,
            ignored: sources.ignored.clone(),
            variants: Cache::new(sources.variants_memoised_max),
        };
        faults.extend(catalog.check_fallbacks(sources));
        CatalogErrors::check(faults)?;
        Ok(catalog)
    }

    /// The fallback of every slot has a recipe, and with it every variant: texts and sizes are bounded alike.
    fn check_fallbacks(&self, sources: &CatalogSources) -> Vec<Fault> {
        let mut faults = Vec::new();
        for campaign in &self.campaigns {
            for slot_index in 0..campaign.slots.len() {
                if let Err(error) = self.fallback(campaign, slot_index) {
                    let file = sources.campaigns_dir.join(format!("{}.toml", campaign.name));
                    let slot = &campaign.slots[slot_index].name;
                    faults.push(Fault::of_file(&file, format!("slot `{slot}`: {error}")));
                }
            }
        }
        faults
    }

    #[must_use]
    pub fn campaign(&self, name: &str) -> Option<&Arc<Campaign>> {
        self.by_name.get(name).and_then(|index| self.campaigns.get(usize::from(*index)))
    }

    /// By name.
    pub fn campaigns(&self) -> impl Iterator<Item = &Arc<Campaign>> {
        self.campaigns.iter()
    }

    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// A variant by its combination, memoised. The combination is an allowed one.
    ///
    /// # Errors
    /// When its recipe is out of bounds or a layer cannot be filled in, which a valid manifest rules out.
    pub fn variant(
        &self,
        campaign: &Campaign,
        slot_index: usize,
        combination: u32,
    ) -> Result<Arc<Variant>, VariantError> {
        let key = campaign.key(slot_index, combination);
        if let Some(variant) = self.variants.get(&key) {
            return Ok(variant);
        }
        let variant = Arc::new(Variant::build(campaign, key, campaign.values_of(combination))?);
        self.variants.insert(key, Arc::clone(&variant));
        Ok(variant)
    }

    /// The slot's variant of all defaults.
    ///
    /// # Errors
    /// As [`Self::variant`].
    pub fn fallback(&self, campaign: &Campaign, slot_index: usize) -> Result<Arc<Variant>, VariantError> {
        self.variant(campaign, slot_index, campaign.default_combination())
    }

    pub(crate) fn memoised(&self, key: &VariantKey) -> Option<Arc<Variant>> {
        self.variants.get(key)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.campaigns.iter().map(|campaign| campaign.name.as_str()).collect();
        f.debug_struct("Catalog").field("campaigns", &names).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Digits of a slot's revision that markup names: 48 bits.
const PROMPT_VERSION_CHARS: usize = 12;
/// Digits of a checkpoint's digest that pictures tell as their generator's version: 64 bits.
const GENERATOR_VERSION_CHARS: usize = 16;

/// The campaign's finish with the slot's look and bound, and with what drew the slot's pictures.
fn slot_finish(slot: &Slot, campaign: &Arc<Finish>, (pins, grades): (&Pins, &Grades)) -> Arc<Finish> {
    let looking = |finish: Finish| match &slot.look {
        Some(look) => finish.looking(look.with(grades)),
        None => finish,
    };
    let looking = |finish: Finish| match slot.framing.bytes_max {
        Some(bytes_max) => looking(finish).within(Some(bytes_max)),
        None => looking(finish),
    };
    let Some(generate) = slot.drawn() else { return Arc::new(looking(Finish::clone(campaign))) };
    let version = pins.checkpoint(&generate.checkpoint).to_hex()[..GENERATOR_VERSION_CHARS].to_owned();
    let generator = Generator { system: generate.checkpoint.clone(), version, prompt: None };
    let description = Description {
        generator: Some(generator),
        source: generate.additions.digital_source(),
        ..campaign.description().clone()
    };
    Arc::new(looking(campaign.describing(description)))
}

fn texts_digest<'f>(files: impl IntoIterator<Item = &'f SourceFile>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(&(file.text.len() as u64).to_le_bytes());
        hasher.update(file.text.as_bytes());
    }
    Digest::from_hash(&hasher.finalize())
}
