//! `[label]`: the visible label that the markup shows beside pictures which a model had a part in.
//!
//! A slot's own `label` goes before the campaign's, key by key. German and English have built-in texts; every other locale
//! of a campaign that shows labels needs one, so that no reader gets a label in a foreign language or none.
//!
//! Source: Regulation (EU) 2024/1689, Article 50(4) and (5): deployers disclose that a deep fake was generated or
//! manipulated, clearly, distinguishably and accessibly, at the latest at the first exposure. The Code of Practice of
//! 10 June 2026 tells fully generated from partially modified content; so do the texts here.

use bildkante_shared::import::DigitalSource;

use super::fault::listing;
use super::manifest::{checked_text, localized};
use super::names::Localized;
use super::reader::{TableReader, no_hint};

/// Longest address of an icon.
const ICON_BYTES_MAX: usize = 500;
/// Largest side of an icon, in CSS pixels.
const ICON_SIDE_PX_MAX: u32 = 512;

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LabelShow {
    #[default]
    None,
    Text,
    Icon,
    IconAndText,
}

impl LabelShow {
    const ALL: [Self; 4] = [Self::None, Self::Text, Self::Icon, Self::IconAndText];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Text => "text",
            Self::Icon => "icon",
            Self::IconAndText => "icon-and-text",
        }
    }

    #[must_use]
    pub const fn has_icon(self) -> bool {
        matches!(self, Self::Icon | Self::IconAndText)
    }
}

/// A picture of the operator's that takes the place of the built-in badge. The page fetches it from where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelIcon {
    /// Absolute, or a path of the page's own site.
    pub url: String,
    /// In CSS pixels: the page keeps the room before the icon is there.
    pub width_px: u32,
    pub height_px: u32,
}

/// How much of a picture a model made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Some,
}

impl Part {
    /// `None` where no model had a part in it.
    fn of(source: DigitalSource) -> Option<Self> {
        match source {
            DigitalSource::TrainedAlgorithmicMedia => Some(Self::Whole),
            source => source.is_synthetic().then_some(Self::Some),
        }
    }

    /// The built-in text of a language.
    fn text(self, locale: &str) -> Option<&'static str> {
        match (locale.split('-').next()?, self) {
            ("de", Self::Whole) => Some("Mit KI erzeugt"),
            ("de", Self::Some) => Some("Mit KI bearbeitet"),
            ("en", Self::Whole) => Some("AI-generated"),
            ("en", Self::Some) => Some("AI-modified"),
            _ => None,
        }
    }
}

/// A slot's label: what it shows, and in which words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    pub show: LabelShow,
    pub icon: Option<LabelIcon>,
    /// Of pictures that a model made: the slot's texts, then the campaign's.
    generated: Vec<Localized<String>>,
    /// Of pictures that a model changed.
    altered: Vec<Localized<String>>,
}

/// What stands beside one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownLabel<'l> {
    pub show: LabelShow,
    pub icon: Option<&'l LabelIcon>,
    pub text: &'l str,
    /// The locale that the text is for.
    pub locale: &'l str,
}

impl Label {
    /// What stands beside a picture of this source for readers of `locale`; `None` where no model had a part in it or the
    /// slot shows no labels.
    #[must_use]
    pub fn shown<'l>(&'l self, source: DigitalSource, locale: &'l str) -> Option<ShownLabel<'l>> {
        let part = Part::of(source).filter(|_| self.show != LabelShow::None)?;
        Some(ShownLabel { show: self.show, icon: self.icon.as_ref(), text: self.text(part, locale)?, locale })
    }

    fn text(&self, part: Part, locale: &str) -> Option<&str> {
        let own = match part {
            Part::Whole => &self.generated,
            Part::Some => &self.altered,
        };
        first(own, locale).or_else(|| part.text(locale)).or_else(|| first(&self.generated, locale))
    }

    /// What a slot's keys leave to the campaign's.
    fn over(self, campaign: &Self, has_show: bool) -> Self {
        let layered = |own: Vec<Localized<String>>, below: &[Localized<String>]| [own, below.to_vec()].concat();
        Self {
            show: if has_show { self.show } else { campaign.show },
            icon: self.icon.or_else(|| campaign.icon.clone()),
            generated: layered(self.generated, &campaign.generated),
            altered: layered(self.altered, &campaign.altered),
        }
    }
}

fn first<'l>(layers: &'l [Localized<String>], locale: &str) -> Option<&'l str> {
    layers.iter().find_map(|texts| texts.get(locale)).map(String::as_str)
}

/// Reads the campaign's `[label]`.
pub(crate) fn read(root: &TableReader<'_, '_>) -> Label {
    root.table("label").map(|table| read_keys(&table)).unwrap_or_default()
}

/// Reads a slot's `label` over the campaign's, and says which locales have no text.
pub(crate) fn read_slot(slot: &TableReader<'_, '_>, campaign: &Label, locales: &[String]) -> Label {
    let own = slot.table("label");
    let label = match &own {
        Some(table) => read_keys(table).over(campaign, table.has("show")),
        None => campaign.clone(),
    };
    let is_refused = own.is_some_and(|table| table.is_refused());
    let lacking: Vec<&String> = locales.iter().filter(|locale| label.text(Part::Whole, locale).is_none()).collect();
    if label.show != LabelShow::None && !lacking.is_empty() && !is_refused {
        let (has, lacks) = ("`label` is shown and has no `text` for", listing(&lacking, 8));
        slot.recurring_fault(slot.span(), format!("{has} {lacks}; only German and English have one of their own"));
    }
    label
}

fn read_keys(table: &TableReader<'_, '_>) -> Label {
    let shows = LabelShow::ALL.map(|show| (show.as_str(), show));
    let label = Label {
        show: table.choice("show", &shows).unwrap_or_default(),
        icon: read_icon(table),
        generated: read_texts(table, "text"),
        altered: read_texts(table, "altered_text"),
    };
    table.finish(no_hint);
    label
}

fn read_texts(table: &TableReader<'_, '_>, key: &'static str) -> Vec<Localized<String>> {
    let Some(texts) = table.table(key) else { return Vec::new() };
    let (texts, _) = localized(&texts, |text| {
        if text.value.trim().is_empty() {
            texts.fault(&text.span, "a label's text is empty");
        }
        // A text that was refused is not missing as well.
        Some(checked_text(&texts, text).unwrap_or_default())
    });
    vec![texts]
}

fn read_icon(table: &TableReader<'_, '_>) -> Option<LabelIcon> {
    let icon = table.text("icon");
    let sides = table.integers("icon_size", 1..=ICON_SIDE_PX_MAX, 2);
    let Some(icon) = icon else {
        if table.has("icon_size") {
            table.fault(table.span(), "`icon_size` is the size of `icon`, which is missing");
        }
        return None;
    };
    if !table.has("icon_size") {
        table.missing(
            "icon_size",
            "`icon_size` is missing: [width, height] of `icon` in CSS pixels, so that no text moves",
        );
    }
    let is_url = icon.value.starts_with("https://") || (icon.value.starts_with('/') && !icon.value.starts_with("//"));
    let is_plain = icon.value.len() <= ICON_BYTES_MAX && icon.value.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_url || !is_plain {
        let reason = "`icon` is a URL that starts with https://, or a path of the page's own site that starts with /";
        table.fault(&icon.span, reason);
        return None;
    }
    let [(width_px, _), (height_px, _)] = *sides?.as_slice() else {
        table.fault(table.span(), "`icon_size` is [width, height] in CSS pixels");
        return None;
    };
    Some(LabelIcon { url: icon.value.to_owned(), width_px, height_px })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(show: LabelShow) -> Label {
        Label { show, ..Label::default() }
    }

    fn texts(of: &[(&str, &str)]) -> Vec<Localized<String>> {
        vec![Localized::new(of.iter().map(|(locale, text)| ((*locale).to_owned(), (*text).to_owned())).collect())]
    }

    #[test]
    fn only_what_a_model_had_a_part_in_is_labelled_and_in_words_that_say_which_part() {
        let label = label(LabelShow::Text);
        let text = |source, locale| label.shown(source, locale).map(|shown| shown.text);
        assert_eq!(text(DigitalSource::TrainedAlgorithmicMedia, "de-AT"), Some("Mit KI erzeugt"));
        assert_eq!(text(DigitalSource::CompositeWithTrainedAlgorithmicMedia, "en-GB"), Some("AI-modified"));
        assert_eq!(text(DigitalSource::DigitalCapture, "de-AT"), None);
        assert_eq!(self::label(LabelShow::None).shown(DigitalSource::TrainedAlgorithmicMedia, "de"), None);
    }

    #[test]
    fn a_slot_goes_before_the_campaign_and_both_before_what_is_built_in() {
        let campaign =
            Label { generated: texts(&[("de-DE", "Kampagne"), ("fr", "Créée par IA")]), ..label(LabelShow::Icon) };
        let slot = Label { generated: texts(&[("de", "Slot")]), ..Label::default() }.over(&campaign, false);
        assert_eq!(slot.show, LabelShow::Icon);
        assert_eq!(slot.text(Part::Whole, "de-DE"), Some("Slot"));
        assert_eq!(slot.text(Part::Whole, "fr-FR"), Some("Créée par IA"));
        assert_eq!(slot.text(Part::Whole, "en-GB"), Some("AI-generated"));
        // A language without words of its own for what was changed gets those for what was made.
        assert_eq!(slot.text(Part::Some, "fr-FR"), Some("Créée par IA"));
        assert_eq!(slot.text(Part::Some, "de-DE"), Some("Mit KI bearbeitet"));
        assert_eq!(Label::default().over(&campaign, true).show, LabelShow::None);
    }
}
