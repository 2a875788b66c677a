//! What is agreed about the things that pictures are made of: whose they are, where they may be shown, and until when.
//!
//! Facts stand in `[models.NAME]` (checkpoints, adapters), in `[references.NAME]` (images that a model is given, and imported
//! pictures by their names in the lock) and, of the campaign as a whole, in `[rights]`. A right that is over withholds each picture that
//! depends on it, at run time and on its day. A manifest is not refused for that: what is in force must not hang on a restart.
//! `bildkante-edge check` refuses it.
//!
//! Invariant: what can end can be taken back, so it is recallable.

use std::collections::BTreeMap;

use super::axes::LOCALE_AXIS;
use super::fault::listing;
use super::manifest::{Manifest, Policy, checked_text};
use super::reader::{TableReader, no_hint};
use super::slots::Slot;

/// Most images and imports whose rights are described.
const REFERENCES_MAX: usize = 1_024;
/// Most countries of a territory: all there are.
const COUNTRIES_MAX: usize = 300;
/// How long before a right ends that is announced.
pub const NOTICE_S: u64 = 30 * 86_400;

/// What is agreed about one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub owner: Option<String>,
    /// Where the agreement is found.
    pub contract: Option<String>,
    /// Countries (ISO 3166-1 alpha-2) in which it may be shown; empty: all.
    pub territory: Vec<String>,
    /// The first second at which it may not be shown, since 1970.
    pub ends_unix_s: Option<u64>,
}

/// An image that a model is given, or a picture that a person brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceFacts {
    pub license: Option<String>,
    pub source: Option<String>,
    pub held: Held,
}

/// The first right to end of all that a picture depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RightsEnd {
    pub unix_s: u64,
    /// What ends: `campaign autumn`, `model sdxl`, `reference mug.png`.
    pub of: String,
}

/// Reads the keys of a table whose other keys are the caller's.
pub(super) fn read_held(table: &TableReader<'_, '_>, policy: &Policy) -> Held {
    let text = |key| checked_text(table, &table.text(key)?).filter(|text| !text.is_empty());
    let territory = read_territory(table, policy);
    Held { owner: text("owner"), contract: text("contract"), territory, ends_unix_s: read_end(table, policy) }
}

/// `ends`: a day is the last one (UTC), a moment is exact.
pub(super) fn read_end(table: &TableReader<'_, '_>, policy: &Policy) -> Option<u64> {
    let ends_unix_s = table.moment("ends")?;
    if !policy.is_recallable {
        table.fault(table.span(), "what ends can be taken back: `ends` needs `policy.recallable = true`");
    }
    Some(ends_unix_s)
}

fn read_territory(table: &TableReader<'_, '_>, policy: &Policy) -> Vec<String> {
    let countries = table.texts("territory", COUNTRIES_MAX).unwrap_or_default();
    for country in &countries {
        let is_code = country.value.len() == 2 && country.value.bytes().all(|byte| byte.is_ascii_uppercase());
        if !is_code {
            let reason = format!("`{}` is no country: write codes of ISO 3166-1 such as `DE`", country.value);
            table.fault(&country.span, reason);
        }
    }
    let territory: Vec<String> = countries.iter().map(|country| country.value.to_owned()).collect();
    let is_outside = |locale: &&String| {
        let country = locale.rsplit_once('-').map(|(_, country)| country);
        country.is_some_and(|country| !territory.iter().any(|known| known == country))
    };
    if !territory.is_empty()
        && let Some(locale) = policy.locales.iter().find(is_outside)
    {
        let known = listing(&territory, 12);
        table.fault(
            table.span(),
            format!("the campaign has the {LOCALE_AXIS} `{locale}`, and this may be shown in {known}"),
        );
    }
    territory
}

/// Reads `[references]`, by the names of images and of imported pictures.
pub(super) fn read_references(root: &TableReader<'_, '_>, policy: &Policy) -> BTreeMap<String, ReferenceFacts> {
    let Some(table) = root.table("references") else { return BTreeMap::new() };
    let references = table.tables(REFERENCES_MAX).into_iter().map(|(name, table)| {
        let text = |key| checked_text(&table, &table.text(key)?).filter(|text| !text.is_empty());
        let facts =
            ReferenceFacts { license: text("license"), source: text("source"), held: read_held(&table, policy) };
        table.finish(no_hint);
        (name.value.to_owned(), facts)
    });
    references.collect()
}

/// An image that is described and not used is a misspelt name. Which pictures are imported, the lock says.
pub(super) fn check_are_used(root: &TableReader<'_, '_>, manifest: &Manifest) {
    let (known, imports) = (manifest.images(), format!("{}/", manifest.name));
    let is_known = |name: &str| known.contains(&name) || name.starts_with(&imports);
    let unused = manifest.references.keys().filter(|name| !is_known(name));
    refuse_unused(root, ("references", "an image"), unused, &known);
}

/// Names what a table describes and the campaign does not use, beside what it uses.
pub(super) fn refuse_unused<'n>(
    root: &TableReader<'_, '_>,
    (table, what): (&str, &str),
    unused: impl Iterator<Item = &'n String>,
    used: &[&str],
) {
    let used = if used.is_empty() { "it uses none".to_owned() } else { format!("it uses {}", listing(used, 8)) };
    for name in unused {
        root.fault(&(0..0), format!("[{table}.{name}] describes {what} that this campaign does not use; {used}"));
    }
}

/// Everything that can end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights<'m> {
    pub(super) campaign: &'m str,
    pub(super) ends_unix_s: Option<u64>,
    pub(super) models: &'m BTreeMap<String, super::models::ModelFacts>,
    pub(super) references: &'m BTreeMap<String, ReferenceFacts>,
}

impl Rights<'_> {
    fn own(&self) -> Option<RightsEnd> {
        self.ends_unix_s.map(|unix_s| RightsEnd { unix_s, of: format!("campaign {}", self.campaign) })
    }

    fn reference(&self, name: &str) -> Option<RightsEnd> {
        let unix_s = self.references.get(name)?.held.ends_unix_s?;
        Some(RightsEnd { unix_s, of: format!("reference {name}") })
    }

    /// Of what is drawn for a slot.
    pub(super) fn of_drawn(&self, slot: &Slot) -> Option<RightsEnd> {
        let generate = slot.drawn()?;
        let additions = &generate.additions;
        let names =
            std::iter::once(generate.checkpoint.as_str()).chain(additions.networks()).chain(additions.adapters());
        let models = names.filter_map(|name| {
            let unix_s = self.models.get(name)?.held.ends_unix_s?;
            Some(RightsEnd { unix_s, of: format!("model {name}") })
        });
        let images = additions.images().filter_map(|name| self.reference(name));
        models.chain(images).chain(self.own()).min()
    }

    /// Of a picture that a person brought.
    pub(super) fn of_import(&self, picture: &str) -> Option<RightsEnd> {
        self.reference(picture).into_iter().chain(self.own()).min()
    }

    /// All of them, the first first.
    pub(super) fn all(&self) -> Vec<RightsEnd> {
        let models = self.models.iter().filter_map(|(name, facts)| {
            facts.held.ends_unix_s.map(|unix_s| RightsEnd { unix_s, of: format!("model {name}") })
        });
        let references = self.references.keys().filter_map(|name| self.reference(name));
        let mut all: Vec<_> = models.chain(references).chain(self.own()).collect();
        all.sort();
        all
    }
}
