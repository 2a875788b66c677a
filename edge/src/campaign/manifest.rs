//! A campaign manifest: `config/campaigns/{campaign}.toml`, read into types that cannot be wrong.
//!
//! Reading needs the prompt libraries, because templates are linked to their words here; it needs no lock and
//! no node. Everything a URL can later select — axes, values, slots, ladders, formats — is finite and bounded
//! by the constants below.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::ai_act::{self, AiAct};
use super::axes::{self, Axis};
use super::briefing::{self, Briefing};
use super::fault::{SourceText, listing};
use super::generate::{self, Generate, GenerateReader};
use super::label;
use super::layers::{self, Stock};
use super::models::{self, ModelFacts};
use super::names::{Localized, is_locale, is_name};
use super::page_data;
use super::prompts::{Library, Words, read_schema};
use super::reader::{self, TableReader, Text, no_hint};
use super::review::{self, Gates, Review};
use super::rights::{self, ReferenceFacts};
use super::slots::{self, Slot};
use crate::provenance::{Location, Marking};
use crate::render::OnUnsigned;

/// Most axes of a campaign.
pub const AXES_MAX: usize = 16;
/// Most values of an axis.
pub const VALUES_MAX: usize = 256;
/// Most slots of a campaign.
pub const SLOTS_MAX: usize = 64;
/// Most variants of a campaign: slots × values of every axis.
pub const VARIANTS_MAX: u64 = 1_000_000;
/// Most locales of a campaign.
pub const LOCALES_MAX: usize = 64;
/// Most prompt libraries of a campaign.
pub const LIBRARIES_MAX: usize = 32;
/// Longest title, label, note or rights statement.
const TEXT_BYTES_MAX: usize = 500;
const NO_LOCALES: &str = "`policy.locales` names at least one locale, such as [\"de-DE\"]";

/// A valid manifest, linked to the words of its libraries.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub name: String,
    pub title: String,
    pub rights: Marking,
    /// `None`: pictures do not tell what they were drawn from.
    pub prompt: Option<PromptPublication>,
    pub policy: Policy,
    /// In the order of the file; `locale` stands last unless the file declares it.
    pub axes: Vec<Axis>,
    /// In the order of the file.
    pub slots: Vec<Slot>,
    /// By the names of checkpoints and adapters.
    pub models: BTreeMap<String, ModelFacts>,
    /// By the names of images, and of imported pictures.
    pub references: BTreeMap<String, ReferenceFacts>,
    /// When the campaign's own rights end.
    pub rights_end_unix_s: Option<u64>,
    pub ai_act: AiAct,
    pub briefing: Briefing,
    /// Fonts, texts and figures of its layers.
    pub stock: Stock,
    /// Where a licence is had: a page.
    pub acquire_license: Option<String>,
}

/// Pictures tell their prompt, and its writer where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptPublication {
    pub writer: Option<String>,
}

/// What a campaign permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub review: Review,
    pub gates: Gates,
    pub signing: Signing,
    /// Whether images may be withdrawn: a recallable image is never immutable downstream.
    pub is_recallable: bool,
    /// What is served where a signer is configured and does not sign.
    pub on_unsigned: OnUnsigned,
    /// What is shown by an edge that has heard nothing of its fleet's decisions for long.
    pub on_stale_state: OnStaleState,
    /// Never empty; the first is the default.
    pub locales: Vec<String>,
}

/// What an edge shows whose copy of the shared state is older than it may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnStaleState {
    /// What the last state that it knows allows.
    #[default]
    Last,
    /// No picture: one may have been killed since.
    StandIn,
}

/// Whether URLs need a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Only for what lies outside the finite set.
    Optional,
    /// For every URL.
    Required,
}

impl Manifest {
    /// Names of the checkpoints the slots use, refiners and ControlNets among them, sorted; here and below each once.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<&str> {
        let own = self.drawn().map(|generate| generate.checkpoint.as_str());
        sorted(own.chain(self.drawn().flat_map(|generate| generate.additions.networks())))
    }

    #[must_use]
    pub fn adapters(&self) -> Vec<&str> {
        sorted(self.drawn().flat_map(|generate| generate.additions.adapters()))
    }

    #[must_use]
    pub fn images(&self) -> Vec<&str> {
        sorted(self.drawn().flat_map(|generate| generate.additions.images()))
    }

    /// The same with the pictures of layers' places.
    #[must_use]
    pub fn all_images(&self) -> Vec<String> {
        let places = layers::places(self).into_keys();
        let mut names: Vec<String> = self.images().into_iter().map(str::to_owned).chain(places).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Paths of the files of layers.
    #[must_use]
    pub fn layer_files(&self) -> Vec<String> {
        layers::named_files(self)
    }

    /// The grades of its slots' looks.
    #[must_use]
    pub fn looks(&self) -> Vec<&str> {
        sorted(self.slots.iter().filter_map(|slot| slot.look.as_ref()?.lut.as_deref()))
    }

    fn drawn(&self) -> impl Iterator<Item = &Generate> {
        self.slots.iter().filter_map(Slot::drawn)
    }

    /// Combinations of axis values, restrictions not counted in: at least 1, at most [`VARIANTS_MAX`].
    #[must_use]
    pub fn combinations(&self) -> u64 {
        self.axes.iter().map(|axis| axis.values.len() as u64).product()
    }
}

fn sorted<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Reads a manifest against the prompt libraries. `None` whenever `source` has a fault afterwards, or a library it names
/// has one.
pub(crate) fn read(
    source: &SourceText<'_>,
    file_stem: &str,
    libraries: &BTreeMap<String, Library>,
) -> Option<Manifest> {
    let document: Spanned<DeTable<'_>> = reader::parse(source)?;
    let root = TableReader::of_document(source, &document);
    read_schema(&root);
    read_name(&root, file_stem);
    let title = short_text(&root, "title").unwrap_or_else(|| file_stem.to_owned());
    let words = link_libraries(&root, libraries);
    let (policy, are_locales_whole) = read_policy(&root);
    let rights = root.table("rights").map(|table| read_rights(&table, &policy)).unwrap_or_default();
    let axes = axes::read(&root, &policy.locales, are_locales_whole);
    let defaults = root.table("generate");
    if defaults.is_none() && !root.has("generate") {
        root.missing("generate", "[generate] is missing: it names the checkpoint and the prompt");
    }
    let generate = GenerateReader { axes: &axes, words: &words, defaults: defaults.as_ref() };
    let briefing = briefing::read(&root);
    let stock = layers::read_stock(&root, &axes, &policy.locales);
    let slots = slots::read(&root, &generate, &label::read(&root), &policy, &briefing);
    generate::finish_defaults(defaults.as_ref());
    let (models, ai_act) = (models::read(&root, &policy), ai_act::read(&root));
    let references = rights::read_references(&root, &policy);
    root.finish(no_hint);
    // A slot that was refused may be the one that uses a text.
    if !source.has_faults() {
        axes::check_prompts_are_used(&root, &axes, &slots);
    }
    check_counts(&root, &axes, &slots);
    if source.has_faults() || words.is_refused() {
        return None;
    }
    let axes = axes.into_iter().map(axes::ReadAxis::into_axis).collect();
    let manifest = Manifest {
        name: file_stem.to_owned(),
        title,
        rights: rights.marking,
        prompt: rights.prompt,
        policy,
        axes,
        slots,
        models,
        references,
        rights_end_unix_s: rights.ends_unix_s,
        ai_act,
        briefing,
        stock,
        acquire_license: rights.acquire_license,
    };
    models::check_are_used(&root, &manifest);
    rights::check_are_used(&root, &manifest);
    layers::check_places(&root, &manifest);
    let slots: Vec<String> = manifest.slots.iter().map(|slot| slot.name.clone()).collect();
    briefing::check(&root, &manifest.briefing, &slots);
    (!source.has_faults()).then_some(manifest)
}

fn read_name(root: &TableReader<'_, '_>, file_stem: &str) {
    let Some(name) = root.required_text("campaign") else { return };
    if !is_name(name.value) {
        root.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
    } else if name.value != file_stem {
        root.fault(&name.span, format!("`campaign` is `{}`, but the file is `{file_stem}.toml`", name.value));
    }
}

fn link_libraries<'l>(root: &TableReader<'_, '_>, libraries: &'l BTreeMap<String, Library>) -> Words<'l> {
    let mut words = Words::default();
    let names = root.texts("prompts", LIBRARIES_MAX);
    if names.is_none() && root.has("prompts") {
        words.refuse();
    }
    for name in names.unwrap_or_default() {
        let Some(library) = libraries.get(name.value) else {
            let known: Vec<&String> = libraries.keys().collect();
            let known = if known.is_empty() { "none".to_owned() } else { listing(&known, 12) };
            root.fault(&name.span, format!("there is no prompt library `{}`; there is {known}", name.value));
            words.refuse();
            continue;
        };
        for reason in words.add(library) {
            root.fault(&name.span, reason);
        }
    }
    words
}

/// `[rights]`.
#[derive(Debug, Default)]
struct ReadRights {
    marking: Marking,
    prompt: Option<PromptPublication>,
    ends_unix_s: Option<u64>,
    acquire_license: Option<String>,
}

fn read_rights(table: &TableReader<'_, '_>, policy: &Policy) -> ReadRights {
    let marking = Marking {
        creator: short_text(table, "creator"),
        credit: short_text(table, "credit"),
        copyright: short_text(table, "copyright"),
        license: short_text(table, "license"),
        location: table.table("location").map(|table| read_location(&table)).unwrap_or_default(),
    };
    if let Some(license) = table.text("license")
        && !(license.value.starts_with("https://") || license.value.starts_with("http://"))
    {
        table.fault(&license.span, "`rights.license` is the URL of the licence, starting with https://");
    }
    if let Err(error) = marking.validate() {
        table.fault(&(0..0), format!("`rights` cannot be embedded: {error}"));
    }
    let writer = short_text(table, "prompt_writer");
    let is_published = table.flag("publish_prompt").unwrap_or(false);
    if !is_published && let Some(writer) = table.text("prompt_writer") {
        table.fault(&writer.span, "`prompt_writer` is told only with the prompt: set `publish_prompt = true`");
    }
    let ends_unix_s = rights::read_end(table, policy);
    let acquire_license = page_data::web_address(table, "acquire_license");
    table.finish(no_hint);
    ReadRights { marking, prompt: is_published.then_some(PromptPublication { writer }), ends_unix_s, acquire_license }
}

fn read_location(table: &TableReader<'_, '_>) -> Location {
    let location = Location {
        sublocation: short_text(table, "sublocation"),
        city: short_text(table, "city"),
        region: short_text(table, "region"),
        country: short_text(table, "country"),
        country_code: short_text(table, "country_code"),
    };
    table.finish(no_hint);
    location
}

/// The policy, and whether its locales are all that was meant.
fn read_policy(root: &TableReader<'_, '_>) -> (Policy, bool) {
    let mut policy = Policy {
        review: Review::None,
        gates: Gates::default(),
        signing: Signing::Optional,
        is_recallable: true,
        on_unsigned: OnUnsigned::default(),
        on_stale_state: OnStaleState::default(),
        locales: Vec::new(),
    };
    let Some(table) = root.table("policy") else {
        if !root.has("policy") {
            root.missing("policy", "`policy` is missing: it names at least the locales");
        }
        return (policy, false);
    };
    let signing = [("optional", Signing::Optional), ("required", Signing::Required)];
    policy.signing = table.choice("signing", &signing).unwrap_or(Signing::Optional);
    policy.is_recallable = table.flag("recallable").unwrap_or(true);
    policy.review = review::read(&table, Review::None, policy.is_recallable);
    policy.gates = review::read_gates(&table, policy.review, &Gates::default());
    let on_unsigned = [OnUnsigned::ServeMarked, OnUnsigned::StandIn].map(|policy| (policy.as_str(), policy));
    policy.on_unsigned = table.choice("on_unsigned", &on_unsigned).unwrap_or_default();
    let on_stale = [("last", OnStaleState::Last), ("stand_in", OnStaleState::StandIn)];
    policy.on_stale_state = table.choice("on_stale_state", &on_stale).unwrap_or_default();
    let are_locales_whole;
    (policy.locales, are_locales_whole) = read_locales(&table);
    table.finish(no_hint);
    (policy, are_locales_whole)
}

fn read_locales(policy: &TableReader<'_, '_>) -> (Vec<String>, bool) {
    let mut locales: Vec<String> = Vec::new();
    let mut is_whole = true;
    let Some(names) = policy.texts("locales", LOCALES_MAX) else {
        if !policy.has("locales") {
            policy.missing("locales", NO_LOCALES);
        }
        return (locales, false);
    };
    if names.is_empty() {
        policy.fault(policy.span(), NO_LOCALES);
    }
    for locale in names {
        if !is_locale(locale.value) {
            let help = "write language and region such as `de-DE`";
            policy.fault(&locale.span, format!("`{}` is no locale; {help}", locale.value));
            is_whole = false;
        } else if locales.iter().any(|known| known == locale.value) {
            policy.fault(&locale.span, format!("`{}` stands twice in `policy.locales`", locale.value));
        } else {
            locales.push(locale.value.to_owned());
        }
    }
    (locales, is_whole)
}

/// A human text: bounded, without control characters.
pub(crate) fn short_text(table: &TableReader<'_, '_>, key: &'static str) -> Option<String> {
    checked_text(table, &table.text(key)?)
}

pub(crate) fn checked_text(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let reason = if text.value.len() > TEXT_BYTES_MAX {
        format!("the text has {} bytes, at most {TEXT_BYTES_MAX}", text.value.len())
    } else if text.value.chars().any(char::is_control) {
        "the text holds a control character or line break".to_owned()
    } else {
        return Some(text.value.trim().to_owned());
    };
    table.fault(&text.span, reason);
    None
}

/// Texts by locale or language, each key a locale, and whether they are all that was meant.
pub(crate) fn localized<T>(
    table: &TableReader<'_, '_>,
    mut read: impl FnMut(&Text<'_>) -> Option<T>,
) -> (Localized<T>, bool) {
    let mut texts = Vec::new();
    for (locale, text) in table.named_texts(LOCALES_MAX) {
        if !is_locale(locale.value) {
            table.fault(&locale.span, format!("`{}` is no locale; write `de` or `de-DE`", locale.value));
        }
        if let Some(text) = read(&text) {
            texts.push((locale.value.to_owned(), text));
        }
    }
    (Localized::new(texts), !table.is_refused())
}

/// Says which locales a text lacks.
pub(crate) fn check_covers<T>(
    table: &TableReader<'_, '_>,
    span: &Range<usize>,
    what: &str,
    text: &Localized<T>,
    locales: &[String],
) {
    let missing: Vec<&String> = locales.iter().filter(|locale| text.get(locale).is_none()).collect();
    if !missing.is_empty() {
        table.recurring_fault(span, format!("{what} has no text for {}", listing(&missing, 8)));
    }
}

fn check_counts(root: &TableReader<'_, '_>, axes: &[axes::ReadAxis], slots: &[Slot]) {
    let combinations = axes.iter().try_fold(1_u64, |count, axis| count.checked_mul(axis.axis.values.len() as u64));
    let variants = combinations.and_then(|count| count.checked_mul(slots.len() as u64));
    if variants.is_none_or(|count| count > VARIANTS_MAX) {
        let count = variants.map_or_else(|| "far more".to_owned(), |count| count.to_string());
        let reason = format!("the axes and slots make {count} variants, at most {VARIANTS_MAX}");
        root.fault(&(0..0), reason);
    }
}
