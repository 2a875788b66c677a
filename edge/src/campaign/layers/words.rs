//! `[copy]`: what layers say, by key and locale, in the manifest or in a table.
//!
//! `{axis}` stands for the label of the chosen value, `{figure:NAME}` for a number as the locale writes it. A table is CSV with the
//! columns `key` and one for each locale; `KEY.short` is the short text of `KEY`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::axes::{self, Axis, ReadAxis, check_labels};
use super::super::fault::{SourceText, listing};
use super::super::names::{Localized, is_locale, is_name, serves};
use super::super::reader::{TableReader, TextOrTable};
use super::figures::Figures;
use super::table::{Field, rows};
use crate::render::layers::TEXT_CHARS_MAX;

/// Most texts of a campaign.
const COPY_MAX: usize = 512;
/// Ends the key of a short text in a table.
const SHORT: &str = ".short";

/// Texts by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Copy {
    pub(super) texts: BTreeMap<String, CopyEntry>,
    /// The name of a table beside the manifest, and where it is named.
    pub(super) file: Option<(String, Range<usize>)>,
}

/// A text and its short form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CopyEntry {
    pub(super) long: Localized<CopyText>,
    pub(super) short: Localized<CopyText>,
}

/// A text with placeholders that all resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyText {
    parts: Vec<CopyPart>,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CopyPart {
    Literal(String),
    Axis(usize),
    Figure(usize),
}

impl CopyPart {
    /// The axis that decides what it says.
    fn axis(&self, figures: &Figures) -> Option<usize> {
        match self {
            Self::Literal(_) => None,
            Self::Axis(axis) => Some(*axis),
            Self::Figure(figure) => figures.axis(*figure),
        }
    }

    fn filled(&self, axes: &[Axis], figures: &Figures, value_of: impl Fn(usize) -> usize, locale: &str) -> String {
        match self {
            Self::Literal(literal) => literal.clone(),
            Self::Axis(axis) => {
                let value = &axes[*axis].values[value_of(*axis)];
                value.label.get(locale).unwrap_or(&value.name).clone()
            }
            Self::Figure(figure) => figures.written(*figure, locale, value_of),
        }
    }
}

impl CopyText {
    /// Reads a text; `axis` finds the axis of a name.
    fn parse(text: &str, axis: &dyn Fn(&str) -> Result<usize, String>, figures: &Figures) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("the text is empty".to_owned());
        }
        if text.chars().count() > TEXT_CHARS_MAX {
            return Err(format!("the text has more than {TEXT_CHARS_MAX} characters"));
        }
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(format!("the text holds the control character U+{:04X}", u32::from(control)));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            if at > 0 {
                parts.push(CopyPart::Literal(rest[..at].to_owned()));
            }
            let inside = rest[at..].strip_prefix('{').and_then(|tail| tail.split_once('}'));
            let (inside, after) = inside.ok_or("the text has a brace without its partner")?;
            parts.push(match inside.split_once(':') {
                None => CopyPart::Axis(axis(inside)?),
                Some(("figure", name)) => {
                    let known = figures.index(name);
                    CopyPart::Figure(known.ok_or_else(|| format!("there is no figure `{name}` in [figures]"))?)
                }
                Some(_) => return Err(format!("`{{{inside}}}` is none of {{axis}} and {{figure:name}}")),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(CopyPart::Literal(rest.to_owned()));
        }
        Ok(Self { parts, source: text.to_owned() })
    }

    /// For a locale and the chosen values, one index for each axis.
    pub(super) fn filled(&self, axes: &[Axis], figures: &Figures, values: &[usize], locale: &str) -> String {
        self.parts.iter().map(|part| part.filled(axes, figures, |axis| values[axis], locale)).collect()
    }

    /// Whether every text that it can be filled to in a locale is one: `allowed` says which values of which axes are
    /// ever chosen.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub(super) fn check_filled(
        &self,
        known: &Known<'_>,
        locale: &str,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Result<(), String> {
        // Parts of one axis grow and shrink together, those of several do so alone.
        let (mut longest, mut has_letters) = (0, false);
        let mut axes: Vec<Option<usize>> = self.parts.iter().map(|part| part.axis(known.figures)).collect();
        axes.sort_unstable();
        axes.dedup();
        for axis in axes {
            let parts = || self.parts.iter().filter(|part| part.axis(known.figures) == axis);
            let at = |value| parts().map(|part| part.filled(known.axes, known.figures, |_| value, locale)).collect();
            let texts: Vec<String> = match axis {
                None => vec![at(0)],
                Some(axis) => {
                    (0..known.axes[axis].values.len()).filter(|value| allowed(axis, *value)).map(at).collect()
                }
            };
            longest += texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
            has_letters |= texts.iter().all(|text| !text.trim().is_empty());
        }
        if longest > TEXT_CHARS_MAX {
            return Err(format!("with the longest labels it has {longest} characters, at most {TEXT_CHARS_MAX}"));
        }
        if has_letters { Ok(()) } else { Err("with an empty label it is empty".to_owned()) }
    }

    /// The axes that decide what it says, its figures' among them; one may come twice.
    pub(super) fn axes<'t>(&'t self, figures: &'t Figures) -> impl Iterator<Item = usize> + 't {
        self.parts.iter().filter_map(|part| match part {
            CopyPart::Literal(_) => None,
            CopyPart::Axis(axis) => Some(*axis),
            CopyPart::Figure(figure) => figures.axis(*figure),
        })
    }

    fn uses(&self, axis: usize) -> bool {
        self.parts.contains(&CopyPart::Axis(axis))
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }
}

/// Reads `[copy]`.
pub(super) fn read(root: &TableReader<'_, '_>, axes: &[ReadAxis], figures: &Figures, locales: &[String]) -> Copy {
    let Some(table) = root.table("copy") else { return Copy::default() };
    let mut copy = Copy::default();
    let axis = |name: &str| axes::named(axes, name);
    for (name, entry) in table.texts_or_tables(COPY_MAX) {
        match entry {
            TextOrTable::Text(file) if name.value == "file" => {
                let is_plain = file.value.strip_suffix(".csv").is_some_and(is_name);
                if !is_plain {
                    table.fault(
                        &file.span,
                        "`copy.file` is the name of a CSV file beside the manifest, such as \"autumn-copy.csv\"",
                    );
                }
                copy.file = Some((file.value.to_owned(), file.span));
            }
            TextOrTable::Text(text) => {
                table.fault(&text.span, format!("`copy.{}` is a table by locale, not a string", name.value));
            }
            TextOrTable::Table(texts) => {
                if !is_name(name.value) {
                    table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
                }
                let short = read_short(&texts, axes, figures, locales);
                let long = read_localized(&texts, &axis, axes, figures, locales);
                copy.texts.insert(name.value.to_owned(), CopyEntry { long, short });
            }
        }
    }
    copy
}

fn read_short(
    texts: &TableReader<'_, '_>,
    axes: &[ReadAxis],
    figures: &Figures,
    locales: &[String],
) -> Localized<CopyText> {
    let axis = |name: &str| axes::named(axes, name);
    texts.table("short").map(|short| read_localized(&short, &axis, axes, figures, locales)).unwrap_or_default()
}

fn read_localized(
    table: &TableReader<'_, '_>,
    axis: &dyn Fn(&str) -> Result<usize, String>,
    axes: &[ReadAxis],
    figures: &Figures,
    locales: &[String],
) -> Localized<CopyText> {
    let read = |text: &super::super::reader::Text<'_>| match CopyText::parse(text.value, axis, figures) {
        Ok(parsed) => {
            for (index, known) in axes.iter().enumerate().filter(|(index, _)| parsed.uses(*index)) {
                // The locale is written as it is.
                if axes[index].axis.name != axes::LOCALE_AXIS {
                    check_labels(table, &text.span, known, "a text of [copy]", locales);
                }
            }
            Some(parsed)
        }
        Err(reason) => {
            table.recurring_fault(&text.span, reason);
            None
        }
    };
    let mut found = Vec::new();
    for (locale, entry) in table.texts_or_tables(COPY_MAX) {
        match entry {
            TextOrTable::Table(_) if locale.value == "short" => {}
            TextOrTable::Table(_) => table.fault(&locale.span, format!("`{}` is a text", locale.value)),
            TextOrTable::Text(text) => {
                if !is_locale(locale.value) {
                    table.fault(&locale.span, format!("`{}` is no locale; write `de` or `de-DE`", locale.value));
                }
                if let Some(parsed) = read(&text) {
                    found.push((locale.value.to_owned(), parsed));
                }
            }
        }
    }
    Localized::new(found)
}

/// What a table's texts may name.
pub(super) struct Known<'k> {
    pub(super) axes: &'k [Axis],
    pub(super) figures: &'k Figures,
    /// Of the campaign.
    pub(super) locales: &'k [String],
}

/// Adds the texts of a table to those of the manifest. What is wrong with it is noted in `source`.
pub(super) fn add_table(copy: &mut Copy, source: &SourceText<'_>, known: &Known<'_>) {
    let rows = match rows(source.text()) {
        Ok(rows) => rows,
        Err((span, reason)) => return source.fault(&span, reason),
    };
    let Some((header, rows)) = rows.split_first() else { return source.fault(&(0..0), "the table is empty") };
    if header.first().is_none_or(|first| first.text.trim() != "key") {
        return source.fault(&(0..0), "the table's first column is called `key`, the others are locales");
    }
    for (at, field) in header.iter().enumerate().skip(1) {
        let locale = field.text.trim();
        if !is_locale(locale) {
            source.fault(&field.span, format!("`{locale}` is no locale; write `de` or `de-DE`"));
        } else if header[1..at].iter().any(|other| other.text.trim() == locale) {
            source.fault(&field.span, format!("two columns are called `{locale}`"));
        }
    }
    for row in rows {
        add_row(copy, source, (header, row), known);
    }
}

fn add_row(copy: &mut Copy, source: &SourceText<'_>, (header, row): (&[Field], &[Field]), known: &Known<'_>) {
    let key = row[0].text.trim();
    let (name, is_short) = key.strip_suffix(SHORT).map_or((key, false), |name| (name, true));
    if !is_name(name) {
        return source
            .fault(&row[0].span, format!("`{key}` is no key; keys are a-z, 0-9 and -, and `.short` for a short text"));
    }
    if let Some(field) = row.iter().skip(header.len()).find(|field| !field.text.trim().is_empty()) {
        let reason = format!("the row has more than {} columns: a text with a comma stands in quotes", header.len());
        return source.fault(&field.span, reason);
    }
    let mut texts = Vec::new();
    for (locale, field) in header.iter().zip(row).skip(1).filter(|(_, field)| !field.text.trim().is_empty()) {
        let locale = locale.text.trim();
        match CopyText::parse(field.text.trim(), &|name| axes::named_of_whole(known.axes, name), known.figures) {
            Ok(text) => {
                check_labels_of(source, field, locale, &text, known);
                texts.push((locale.to_owned(), text));
            }
            Err(reason) => source.fault(&field.span, reason),
        }
    }
    let entry = copy.texts.entry(name.to_owned()).or_default();
    let place = if is_short { &mut entry.short } else { &mut entry.long };
    if place.is_empty() {
        *place = Localized::new(texts);
    } else {
        source.fault(&row[0].span, format!("`{key}` stands twice"));
    }
}

/// A table's text needs a label of each value that it names, in the locales that it is for.
fn check_labels_of(source: &SourceText<'_>, field: &Field, column: &str, text: &CopyText, known: &Known<'_>) {
    let locales: Vec<&String> = known.locales.iter().filter(|locale| serves(column, locale)).collect();
    // The locale is written as it is.
    let named = known.axes.iter().enumerate().filter(|(at, axis)| text.uses(*at) && axis.name != axes::LOCALE_AXIS);
    for (axis, value) in named.flat_map(|(_, axis)| axis.values.iter().map(move |value| (axis, value))) {
        let missing: Vec<&&String> = locales.iter().filter(|locale| value.label.get(locale).is_none()).collect();
        if !missing.is_empty() {
            let label = axes::label_of(axis, value, "a text of the table");
            source.recurring_fault(&field.span, format!("{label} has no text for {}", listing(&missing, 8)));
        }
    }
}
