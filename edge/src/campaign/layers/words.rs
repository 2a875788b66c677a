//! `[copy]`: what layers say, by key and locale, in the manifest or in a table.
//!
//! `{axis}` stands for the label of the chosen value, `{figure:NAME}` for a number as the locale writes it. A table is CSV with the
//! columns `key` and one for each locale; `KEY.short` is the short text of `KEY`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::axes::{self, Axis, ReadAxis, check_labels};
use super::super::fault::{SourceText, listing};
use super::super::names::{Localized, is_locale, is_name};
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
        let mut text = String::new();
        for part in &self.parts {
            match part {
                CopyPart::Literal(literal) => text.push_str(literal),
                CopyPart::Axis(axis) => {
                    let value = &axes[*axis].values[values[*axis]];
                    text.push_str(value.label.get(locale).unwrap_or(&value.name));
                }
                CopyPart::Figure(figure) => text.push_str(&figures.written(*figure, locale, |axis| values[axis])),
            }
        }
        text
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

/// Adds the texts of a table to those of the manifest. What is wrong with it is noted in `source`.
pub(super) fn add_table(copy: &mut Copy, source: &SourceText<'_>, axes: &[Axis], figures: &Figures) {
    let rows = match rows(source.text()) {
        Ok(rows) => rows,
        Err((span, reason)) => return source.fault(&span, reason),
    };
    let Some((header, rows)) = rows.split_first() else { return source.fault(&(0..0), "the table is empty") };
    if header.first().is_none_or(|first| first.text.trim() != "key") {
        return source.fault(&(0..0), "the table's first column is called `key`, the others are locales");
    }
    for field in &header[1..] {
        if !is_locale(field.text.trim()) {
            source.fault(&field.span, format!("`{}` is no locale; write `de` or `de-DE`", field.text.trim()));
        }
    }
    let named = |name: &str| {
        let names = || axes.iter().map(|axis| axis.name.as_str()).collect::<Vec<_>>();
        let found = axes.iter().position(|axis| axis.name == name);
        found.ok_or_else(|| format!("there is no axis {{{name}}}; there are {}", listing(&names(), 16)))
    };
    for row in rows {
        add_row(copy, source, (header, row), &named, figures);
    }
}

fn add_row(
    copy: &mut Copy,
    source: &SourceText<'_>,
    (header, row): (&[Field], &[Field]),
    axis: &dyn Fn(&str) -> Result<usize, String>,
    figures: &Figures,
) {
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
        match CopyText::parse(field.text.trim(), axis, figures) {
            Ok(text) => texts.push((locale.text.trim().to_owned(), text)),
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
