//! One variant at its place in a page: everything that markup, structured data, mails and snippets say of it.
//!
//! Invariant: all forms of markup are made of this alone, so they cannot contradict each other.

use std::sync::Arc;

use bildkante_shared::import::{DigitalSource, MasterRecipe};
use bildkante_shared::recipe::Recipe;
use serde::Serialize;
use serde_json::Value;

use super::page::Page;
use super::picture::{Frame, Loading, Picture, PictureFacts};
use super::shown::{Showing, Shown};
use crate::campaign::{Briefing, Cut, LqipMarkup, ShownLabel, Slot, Version};
use crate::provenance::Marking;
use crate::render::Lqip;
use crate::request::{Pinning, SavingAsk};
use crate::resolve::Resolved;
use crate::signing::Seal;
use crate::words::{Format, FormatSet, Moment, Ratio};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Placement {
    pub campaign: String,
    pub slot: String,
    /// Every axis with its value: `studio/hero?colour=teal&…`.
    pub variant: String,
    pub locale: String,
    /// Absolute, with keywords for search engines, without a query.
    pub url: String,
    /// Axes that are not at their default; may be empty.
    pub query: String,
    /// Of the picture that is live: what `v` says.
    pub version: Option<Version>,
    /// Whether markup names the version.
    pub pinning: Pinning,
    /// Whether the URLs of its pictures opt in to `Save-Data`.
    pub saving: SavingAsk,
    /// Ascending, never empty.
    pub widths_px: Vec<u32>,
    pub default_width_px: u32,
    pub formats: FormatSet,
    pub ratio: Ratio,
    pub sizes: String,
    pub loading: Loading,
    /// Empty of what decorates.
    pub alt: String,
    pub caption: Option<String>,
    pub rights: Marking,
    pub acquire_license: Option<String>,
    /// How the picture came to be; `None` of one that is awaited.
    pub source: Option<DigitalSource>,
    pub shown: Shown,
    /// Tells edits of prompt and model apart; `None` where no model draws, and of a picture from before an edit.
    pub prompt_version: Option<String>,
    pub tags: Vec<Tag>,
    pub channel: Option<String>,
    /// What of it concerns the slot.
    pub briefing: Briefing,
    /// The page that it stands on, where the manifest says so.
    pub page: Page,
    /// Signs every URL, where the campaign answers no others.
    pub seal: Option<Seal>,
    slot_facts: Arc<Slot>,
    /// What the picture is made of, where the manifest says so. Not for the public: it holds the prompt.
    pub(super) recipe: Option<Value>,
}

/// A property of the picture's motif.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    pub variable: String,
    pub value: String,
}

/// Where and how a variant's markup is given out.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// `https://img.example.com`
    pub public_url: &'a str,
    pub pinning: Pinning,
    pub saving: SavingAsk,
    pub seal: Option<Seal>,
}

impl<'a> Place<'a> {
    /// With URLs that follow every change and whose pictures are the same for all readers.
    #[must_use]
    pub const fn new(public_url: &'a str, seal: Option<Seal>) -> Self {
        Self { public_url, pinning: Pinning::Open, saving: SavingAsk::Url, seal }
    }
}

impl Placement {
    #[must_use]
    pub fn new(resolved: &Resolved, shown: Shown, place: Place<'_>) -> Self {
        let Resolved { campaign, slot, variant, .. } = resolved;
        let version = shown
            .master
            .map(|master| Version::new(shown.recipe, master, campaign.rendition_digest(resolved.slot_index)));
        let tags = campaign.motif(&variant.values);
        Self {
            campaign: campaign.name.clone(),
            slot: slot.name.clone(),
            variant: variant.name.clone(),
            locale: resolved.locale().to_owned(),
            url: format!("{}/i/{}/{}/{}", place.public_url, campaign.name, slot.name, variant.file_stem),
            query: variant.query.clone(),
            version: version.filter(|_| shown.showing.is_live()),
            pinning: place.pinning,
            saving: place.saving,
            widths_px: slot.framing.widths.clone(),
            default_width_px: slot.framing.default_width_px,
            formats: slot.formats,
            ratio: slot.framing.ratio,
            sizes: slot.framing.sizes.clone(),
            loading: Loading::of(slot.urgency),
            alt: resolved.alt(),
            caption: campaign.worded(&slot.markup.caption, &variant.values).filter(|caption| !caption.is_empty()),
            rights: variant.finish.marking().clone(),
            acquire_license: campaign.acquire_license.clone(),
            source: resolved.source(),
            prompt_version: campaign.prompt_version(resolved.slot_index).filter(|_| shown.is_of_manifest),
            shown,
            tags: tags.map(|tag| Tag { variable: tag.variable.to_owned(), value: tag.value.to_owned() }).collect(),
            channel: slot.markup.channel.clone(),
            briefing: campaign.briefing.of_slot(&slot.name),
            page: Page::of(campaign, slot, &variant.values),
            seal: place.seal,
            slot_facts: Arc::clone(slot),
            recipe: recipe(&variant.recipe, shown),
        }
    }

    #[must_use]
    pub const fn showing(&self) -> Showing {
        self.shown.showing
    }

    /// When the picture was drawn, where that is known.
    #[must_use]
    pub const fn drawn(&self) -> Option<Moment> {
        self.shown.drawn
    }

    /// What stands beside the picture.
    #[must_use]
    pub fn label(&self) -> Option<ShownLabel<'_>> {
        self.slot_facts.label.shown(self.source?, &self.locale)
    }

    /// At all its widths, with URLs for every client.
    pub(super) fn frame(&self) -> Frame<'_> {
        let picture = Picture {
            url: &self.url,
            query: &self.query,
            widths_px: &self.widths_px,
            formats: self.formats,
            ratio: (self.ratio.width(), self.ratio.height()),
            sizes: &self.sizes,
            alt: &self.alt,
            loading: self.loading,
            label: self.label(),
            seal: self.seal.as_ref(),
            cuts: &self.slot_facts.cuts,
        };
        let version = self.version.as_ref().filter(|_| self.pinning == Pinning::Current);
        Frame { saving: self.saving, ..Frame::new(picture, version.map(Version::as_str)) }
    }

    /// Each cut, with its URLs.
    pub(super) fn cuts(&self) -> impl Iterator<Item = (&Cut, Frame<'_>)> {
        self.slot_facts.cuts.iter().map(|cut| (cut, self.frame().of_cut(cut)))
    }

    /// The URL of one candidate; no format means negotiated by `Accept`.
    #[must_use]
    pub fn candidate(&self, width_px: u32, format: Option<Format>) -> String {
        self.frame().candidate(width_px, format)
    }

    /// The URL at the slot's default width in any format.
    #[must_use]
    pub fn default_url(&self) -> String {
        self.candidate(self.default_width_px, None)
    }

    /// The same, pinned to the version of now: `None` while the picture is not live.
    #[must_use]
    pub fn pinned_url(&self) -> Option<String> {
        let version = Some(self.version.as_ref()?.as_str());
        Some(Frame { version, ..self.frame() }.candidate(self.default_width_px, None))
    }

    /// The rung for a wanted width: the smallest that is wide enough, else the widest.
    #[must_use]
    pub fn rung_px(&self, wanted_px: u32) -> u32 {
        let widest = self.widths_px.last().copied().unwrap_or(self.default_width_px);
        self.widths_px.iter().copied().find(|width| *width >= wanted_px).unwrap_or(widest)
    }

    #[must_use]
    pub fn largest_px(&self) -> u32 {
        self.frame().largest_px()
    }

    #[must_use]
    pub const fn height_px(&self, width_px: u32) -> u32 {
        self.ratio.height_px(width_px)
    }

    /// `<picture>` for a page, in a `<figure>` where the picture has a label, with what analytics read.
    #[must_use]
    pub fn markup(&self) -> String {
        let recipe = self.shown.recipe.to_string();
        let is_made = self.source.is_some();
        let facts = PictureFacts {
            variant: Some(&self.variant),
            recipe: is_made.then_some(&recipe),
            prompt_version: self.prompt_version.as_deref(),
            seed: self.shown.seed,
            lqip: self.lqip_markup(),
        };
        Frame { facts, ..self.frame() }.markup_text()
    }

    fn lqip_markup(&self) -> Option<(LqipMarkup, Lqip)> {
        let place = self.slot_facts.markup.lqip;
        self.shown.lqip.filter(|_| place != LqipMarkup::None).map(|lqip| (place, lqip))
    }

    /// The value of a `Link` field that preloads the picture: sent by the page's own server. `None` of a lazy picture, whose width
    /// only the page's layout knows.
    #[must_use]
    pub fn preload(&self) -> Option<String> {
        self.frame().preload()
    }

    /// The same as an interim response, as it goes over the wire (RFC 8297).
    #[must_use]
    pub fn early_hints(&self) -> Option<String> {
        self.preload().map(|link| format!("HTTP/1.1 103 Early Hints\r\nLink: {link}\r\n\r\n"))
    }
}

/// Of what readers see: the manifest's own, with the seed that people chose.
fn recipe(own: &MasterRecipe, shown: Shown) -> Option<Value> {
    match own {
        MasterRecipe::Drawn(recipe) if shown.is_of_manifest => {
            let seed = shown.seed.unwrap_or(recipe.seed);
            serde_json::to_value(Recipe { seed, ..Recipe::clone(recipe) }).ok()
        }
        MasterRecipe::Imported(import) => serde_json::to_value(&**import).ok(),
        MasterRecipe::Drawn(_) | MasterRecipe::Awaited(_) => None,
    }
}
