//! `[figures]`: numbers in texts, written as each locale writes them, such as a price for each product.
//!
//! `icu_decimal` groups, separates and draws the digits. Currencies are a pattern of the manifest: the stable crates have none yet.

use std::collections::BTreeMap;

use icu_decimal::DecimalFormatter;
use icu_decimal::input::Decimal;
use icu_locale_core::Locale;
use serde::Serialize;

use super::super::axes::{self, ReadAxis};
use super::super::manifest::{VALUES_MAX, check_covers, localized};
use super::super::names::{Localized, is_name};
use super::super::reader::{TableReader, Text, no_hint};

/// Most figures of a campaign.
const FIGURES_MAX: usize = 64;
/// Most digits of one.
const DIGITS_MAX: usize = 18;
/// What a pattern has the number at.
const SLOT: &str = "{}";

/// Figures by name, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Figures(Vec<Figure>);

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figure {
    name: String,
    values: FigureValues,
    pattern: Localized<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FigureValues {
    One(String),
    /// By the values of an axis: one for each.
    ByValue {
        axis: usize,
        values: Vec<String>,
    },
}

impl Figures {
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|figure| figure.name == name)
    }

    /// The axis that decides which number it is.
    pub(super) fn axis(&self, index: usize) -> Option<usize> {
        match self.0.get(index)?.values {
            FigureValues::One(_) => None,
            FigureValues::ByValue { axis, .. } => Some(axis),
        }
    }

    /// As that locale writes it.
    pub(super) fn written(&self, index: usize, locale: &str, value_of: impl Fn(usize) -> usize) -> String {
        let Some(figure) = self.0.get(index) else { return String::new() };
        let number = match &figure.values {
            FigureValues::One(number) => number,
            FigureValues::ByValue { axis, values } => &values[value_of(*axis)],
        };
        let number = formatted(number, locale);
        figure.pattern.get(locale).map_or(number.clone(), |pattern| pattern.replacen(SLOT, &number, 1))
    }

    /// All that is in them, for digests.
    pub(super) fn told(&self) -> impl Serialize + '_ {
        let figures = self.0.iter().map(|figure| {
            let patterns: BTreeMap<&str, &String> = figure.pattern.iter().collect();
            let values = match &figure.values {
                FigureValues::One(number) => (None, std::slice::from_ref(number)),
                FigureValues::ByValue { axis, values } => (Some(*axis), values.as_slice()),
            };
            (&figure.name, values, patterns)
        });
        figures.collect::<Vec<_>>()
    }
}

/// Numbers are checked when they are read, and locales are ones.
fn formatted(number: &str, locale: &str) -> String {
    let (Ok(decimal), Ok(locale)) = (number.parse::<Decimal>(), locale.parse::<Locale>()) else {
        return number.to_owned();
    };
    DecimalFormatter::try_new((&locale).into(), Default::default())
        .map_or_else(|_| number.to_owned(), |formatter| formatter.format(&decimal).to_string())
}

/// Reads `[figures.*]`.
pub(super) fn read(root: &TableReader<'_, '_>, axes: &[ReadAxis], locales: &[String]) -> Figures {
    let Some(table) = root.table("figures") else { return Figures::default() };
    let figures = table.tables(FIGURES_MAX).into_iter().filter_map(|(name, figure)| {
        if !is_name(name.value) {
            table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
        }
        let values = read_values(&figure, axes);
        let pattern = figure.table("pattern").map(|patterns| {
            let (pattern, is_whole) = localized(&patterns, |text| read_pattern(&patterns, text));
            if is_whole {
                check_covers(&patterns, patterns.span(), "`pattern`", &pattern, locales);
            }
            pattern
        });
        figure.finish(no_hint);
        Some(Figure { name: name.value.to_owned(), values: values?, pattern: pattern.unwrap_or_default() })
    });
    Figures(figures.collect())
}

fn read_values(figure: &TableReader<'_, '_>, axes: &[ReadAxis]) -> Option<FigureValues> {
    if let Some(value) = figure.text("value") {
        return read_number(figure, &value).map(FigureValues::One);
    }
    if !figure.has("axis") || !figure.has("values") {
        figure.fault(figure.span(), "a figure has a `value`, or an `axis` and its `values`");
        figure.expect(&["axis", "values"]);
        return None;
    }
    let name = figure.text("axis")?;
    let axis = match axes::named(axes, name.value) {
        Ok(axis) => axis,
        Err(reason) => {
            figure.fault(&name.span, reason);
            figure.expect(&["values"]);
            return None;
        }
    };
    let table = figure.table("values")?;
    let texts = table.named_texts(VALUES_MAX);
    for (value, _) in &texts {
        if axes[axis].axis.value_index(value.value).is_none() {
            table.fault(&value.span, format!("axis `{}` has no value `{}`", name.value, value.value));
        }
    }
    let values: Option<Vec<String>> = axes[axis]
        .axis
        .values
        .iter()
        .map(|value| match texts.iter().find(|(known, _)| known.value == value.name) {
            Some((_, number)) => read_number(&table, number),
            None => {
                table.fault(table.span(), format!("`values` lacks one for `{}`", value.name));
                None
            }
        })
        .collect();
    Some(FigureValues::ByValue { axis, values: values? })
}

fn read_number(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    let is_plain = text.value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    if text.value.len() <= DIGITS_MAX && is_plain && text.value.parse::<Decimal>().is_ok() {
        return Some(text.value.to_owned());
    }
    table.fault(&text.span, format!("`{}` is no number such as \"1299.50\"", text.value));
    None
}

fn read_pattern(table: &TableReader<'_, '_>, text: &Text<'_>) -> Option<String> {
    if text.value.len() <= 64 && text.value.matches(SLOT).count() == 1 && !text.value.chars().any(char::is_control) {
        return Some(text.value.to_owned());
    }
    table.fault(&text.span, "a pattern is a short text with one {} where the number stands, such as \"{} €\"");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_their_locale_writes_them() {
        assert_eq!(formatted("1299.50", "de-DE"), "1.299,50");
        assert_eq!(formatted("1299.50", "en-GB"), "1,299.50");
        assert_eq!(formatted("1299.50", "fr-FR"), "1\u{202f}299,50");
        assert_eq!(formatted("1299.50", "ar-EG"), "١٬٢٩٩٫٥٠");
        assert_eq!(formatted("1299.50", "de-CH"), "1'299.50");
        assert_eq!(formatted("129950", "hi-IN"), "1,29,950");
    }
}
