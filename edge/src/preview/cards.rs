//! One picture on a page: what it is called, where it is, how it is shown.

use std::sync::Arc;

use bildkante_shared::import::{DigitalSource, MasterRecipe};

use super::seals::Seals;
use super::selection::pick_value;
use super::states::States;
use super::wording;
use crate::cache::Bindings;
use crate::campaign::{Campaign, Catalog, Slot};
use crate::governance::AwaitingCase;
use crate::language::Language;
use crate::papers;
use crate::resolve::{Operator, Resolved, resolve};
use crate::seo::{Loading, Picture};
use crate::signing::Seal;

/// Behind the path of a slot: one of its variants, which the query names.
pub(super) const VARIANT_PAGE: &str = "/variant";

/// The texts that a card borrows.
#[derive(Debug)]
pub(super) struct CardTexts {
    url: String,
    query: String,
    alt: String,
    headline: String,
    values: String,
    slot: Arc<Slot>,
    locale: String,
    /// `None` while the picture is awaited.
    source: Option<DigitalSource>,
    key: String,
    pub(super) picture_name: String,
    recipe_id: String,
    prompt: String,
    merged: Option<String>,
}

/// One variant.
#[derive(Debug)]
pub(super) struct CardView<'a> {
    /// `None` where no URL would be answered.
    pub(super) picture: Option<Picture<'a>>,
    /// The same for a customer's page: with the slot's own sizes and loading.
    pub(super) markup: Option<Picture<'a>>,
    pub(super) headline: &'a str,
    /// What it differs by from the slot's other pictures.
    pub(super) values: &'a str,
    /// Canonical variant key.
    pub(super) key: &'a str,
    pub(super) recipe_id: &'a str,
    /// Where its dossier is.
    pub(super) papers: String,
    pub(super) prompt: &'a str,
    /// The older master this variant was merged with, if it was.
    pub(super) merged_with: Option<&'a str>,
    /// Width the card's own bytes are given for.
    pub(super) width_px: u32,
    /// The variant's own page.
    pub(super) page: String,
    pub(super) states: States,
    /// Variants that share the picture.
    pub(super) variants: u32,
    /// Sets of layers that lie on it in these variants.
    pub(super) layer_sets: usize,
    /// The case whose picture is shown in the place of a stand-in, to those who may see it.
    pub(super) case: Option<u64>,
    /// The picture's name, and what its card says of it when it is picked; `None` where the reader picks nothing.
    pub(super) pick: Option<(&'a str, String)>,
    /// Other pictures of the slot that look like it.
    pub(super) alike: usize,
}

/// Whether the reader picks cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pickable {
    No,
    /// With the case that awaits a decision.
    Yes(Option<AwaitingCase>),
}

/// What a card is of, beside its variant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) seals: &'a Seals,
    pub(super) loading: Loading,
    pub(super) sizes: &'a str,
    pub(super) states: States,
    pub(super) variants: u32,
    pub(super) layer_sets: usize,
    pub(super) case: Option<u64>,
    pub(super) pick: Pickable,
    pub(super) alike: usize,
}

impl CardTexts {
    /// Of what readers of a variant's URL get; `None` where the URL is refused, which a valid manifest rules out.
    pub(super) fn of(
        (catalog, bindings): (&Catalog, &Bindings),
        public_url: &str,
        (campaign, slot_index): (&Campaign, usize),
        combination: u32,
        language: Language,
    ) -> Option<Self> {
        let resolved = resolved(catalog, campaign, slot_index, combination)?;
        let Resolved { slot, variant, .. } = &resolved;
        let binding = bindings.get(variant.recipe.id());
        let merged = binding.filter(|binding| binding.duplicate.is_some()).map(|binding| binding.master.to_string());
        Some(Self {
            url: format!("{public_url}/i/{}/{}/{}", campaign.name, slot.name, variant.file_stem),
            query: variant.query.clone(),
            alt: resolved.alt(),
            headline: wording::headline(campaign, slot, &variant.values, language),
            values: wording::values(campaign, slot, &variant.values, language),
            slot: Arc::clone(slot),
            locale: resolved.locale().to_owned(),
            source: resolved.source(),
            key: variant.name.clone(),
            picture_name: variant.picture.clone(),
            recipe_id: variant.recipe.id().to_string(),
            prompt: described(&variant.recipe),
            merged,
        })
    }

    /// The address of the variant's own page.
    pub(super) fn page(&self) -> String {
        page_of(&self.key)
    }

    pub(super) fn values(&self) -> &str {
        &self.values
    }

    pub(super) fn headline(&self) -> &str {
        &self.headline
    }

    pub(super) fn picture<'a>(&'a self, seal: Option<&'a Seal>, loading: Loading, sizes: &'a str) -> Picture<'a> {
        Picture {
            url: &self.url,
            query: &self.query,
            widths_px: &self.slot.framing.widths,
            formats: self.slot.formats,
            ratio: (self.slot.framing.ratio.width(), self.slot.framing.ratio.height()),
            sizes,
            alt: &self.alt,
            loading,
            label: self.source.and_then(|source| self.slot.label.shown(source, &self.locale)),
            seal,
            cuts: &[],
        }
    }

    pub(super) fn card<'a>(&'a self, shown: Shown<'a>) -> CardView<'a> {
        let Shown { seals, loading, sizes, states, variants, layer_sets, case, pick, alike } = shown;
        let (slot, is_shown) = (&self.slot, seals.are_usable());
        CardView {
            picture: is_shown.then(|| self.picture(seals.own(), loading, sizes)),
            markup: is_shown.then(|| Picture {
                cuts: &slot.cuts,
                ..self.picture(seals.copied(), Loading::of(slot.urgency), &slot.framing.sizes)
            }),
            headline: &self.headline,
            values: &self.values,
            key: &self.key,
            recipe_id: &self.recipe_id,
            papers: papers::link(&self.key),
            prompt: &self.prompt,
            merged_with: self.merged.as_deref(),
            width_px: slot.framing.default_width_px,
            page: self.page(),
            states,
            variants,
            layer_sets,
            case,
            pick: match pick {
                Pickable::No => None,
                Pickable::Yes(awaiting) => Some((self.picture_name.as_str(), pick_value(awaiting))),
            },
            alike,
        }
    }
}

/// The address of a variant's page, by its whole name.
pub(super) fn page_of(variant: &str) -> String {
    let (path, values) = variant.split_once('?').unwrap_or((variant, ""));
    format!("/preview/{path}{VARIANT_PAGE}?{values}")
}

/// What the URL of a slot's picture means. No campaign is closed to the preview.
pub(crate) fn resolved(
    catalog: &Catalog,
    campaign: &Campaign,
    slot_index: usize,
    combination: u32,
) -> Option<Resolved> {
    let url = campaign.url(&campaign.slots[slot_index], &campaign.query(combination));
    resolve(catalog, url.as_str(), &Operator).outcome.ok().map(|resolution| resolution.resolved)
}

/// The prompt, or what there is instead of one.
fn described(recipe: &MasterRecipe) -> String {
    match recipe {
        MasterRecipe::Drawn(recipe) => recipe.prompt.clone(),
        MasterRecipe::Imported(import) => {
            let said = import.texts().into_iter().filter_map(|(_, said)| said);
            std::iter::once(import.source.term()).chain(said).collect::<Vec<_>>().join(", ")
        }
        MasterRecipe::Awaited(_) => "no picture has been imported yet".to_owned(),
    }
}
