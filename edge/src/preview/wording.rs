//! What a campaign calls things, in the reader's language: its axes, their values, its pictures.
//!
//! A text that the manifest lacks in that language is told in another one, and at last by its name.

use crate::campaign::axes::LOCALE_AXIS;
use crate::campaign::names::Localized;
use crate::campaign::{Alternative, Axis, AxisValue, Campaign, Slot};
use crate::language::Language;

/// A text in the language, else in English, else in the first that there is.
fn text<T>(texts: &Localized<T>, language: Language) -> Option<&T> {
    let of = |code: &str| texts.iter().find(|(tag, _)| tag.split('-').next() == Some(code)).map(|(_, text)| text);
    of(language.code()).or_else(|| of("en")).or_else(|| texts.iter().next().map(|(_, text)| text))
}

pub(super) fn axis(axis: &Axis, language: Language) -> &str {
    if axis.name == LOCALE_AXIS && axis.label.is_empty() {
        return language.say("Locale", "Sprachraum");
    }
    text(&axis.label, language).map_or(&axis.name, String::as_str)
}

pub(super) fn value(value: &AxisValue, language: Language) -> &str {
    text(&value.label, language).map_or(&value.name, String::as_str)
}

/// A combination in the locale of the campaign that suits the reader best. Where pictures differ by locale it stays.
pub(super) fn localised(campaign: &Campaign, slot: &Slot, combination: u32, language: Language) -> u32 {
    let Some(axis) = campaign.axis_index(LOCALE_AXIS) else { return combination };
    if slot.differs_by(&campaign.axes, axis) {
        return combination;
    }
    let suits = |name: &str| name.split('-').next() == Some(language.code());
    let Some(locale) = campaign.axes[axis].values.iter().position(|value| suits(&value.name)) else {
        return combination;
    };
    let other = campaign.replaced(combination, axis, locale);
    if campaign.forbidden(&campaign.values_of(other)).is_none() { other } else { combination }
}

/// What a picture shows: the slot's alt text in the reader's language, and of what decorates its values.
pub(super) fn headline(campaign: &Campaign, slot: &Slot, values: &[usize], language: Language) -> String {
    let described = match &slot.markup.alternative {
        Alternative::Text(texts) => text(texts, language),
        Alternative::Decorative => None,
    };
    let said = described
        .map(|template| template.render(|axis| self::value(&campaign.axes[axis].values[values[axis]], language)));
    let said = said.filter(|said| !said.is_empty());
    let own = || self::values(campaign, slot, values, language);
    let mut headline = said.unwrap_or_else(own);
    if headline.is_empty() {
        headline = slot.name.clone();
    }
    // The first letter of a line is a capital one.
    if let Some(first) = headline.chars().next() {
        let capital: String = first.to_uppercase().collect();
        headline.replace_range(..first.len_utf8(), &capital);
    }
    headline
}

/// The values that a slot's pictures differ by, in a line.
pub(super) fn values(campaign: &Campaign, slot: &Slot, values: &[usize], language: Language) -> String {
    let differing = campaign.differing_axes(slot).into_iter().filter(|&axis| campaign.axes[axis].values.len() > 1);
    let labels: Vec<&str> =
        differing.map(|axis| self::value(&campaign.axes[axis].values[values[axis]], language)).collect();
    labels.join(" · ")
}

/// A count with its thousands set apart, as the language does.
pub(super) fn number(count: usize, language: Language) -> String {
    let (digits, separator) = (count.to_string(), language.say(",", "."));
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::tests::studio;

    #[test]
    fn a_picture_is_called_as_the_reader_calls_it() {
        let campaign = studio();
        let values = campaign.values_of(campaign.default_combination());
        let slot = &campaign.slots[0];
        assert_eq!(headline(&campaign, slot, &values, Language::German), "Becher in Petrol, glänzend, im Studio");
        assert_eq!(headline(&campaign, slot, &values, Language::English), "Glossy teal mug in the studio");
        let line = super::values(&campaign, slot, &values, Language::German);
        assert_eq!(line, "Becher · Petrol · glänzend · Creme · im Studio");
        let english = localised(&campaign, slot, campaign.default_combination(), Language::English);
        assert_eq!(campaign.locale(&campaign.values_of(english)), "en-GB");
    }

    #[test]
    fn counts_are_set_apart_by_thousands() {
        assert_eq!(number(12_480, Language::English), "12,480");
        assert_eq!(number(1_234_567, Language::German), "1.234.567");
        assert_eq!([number(0, Language::English), number(999, Language::German)], ["0", "999"]);
    }
}
