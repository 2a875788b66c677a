//! Axes: the dimensions along which a URL may vary, each with a finite list of values.

use std::ops::Range;

use super::fault::listing;
use super::manifest::{AXES_MAX, VALUES_MAX, check_covers, checked_text, localized, short_text};
use super::motif::{self, Motif};
use super::names::{Localized, is_name};
use super::prompts::plain;
use super::reader::{TableReader, Text, no_hint};
use super::slots::Slot;
use crate::request::parameters;

/// Keys of a value.
const VALUE_KEYS: [&str; 3] = ["prompt", "label", "only"];
/// The axis every campaign has: its values are `policy.locales`.
pub const LOCALE_AXIS: &str = "locale";

/// A dimension with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub name: String,
    /// For people; may be empty.
    pub label: Localized<String>,
    /// A remark for people, shown beside the axis in the preview.
    pub note: Option<String>,
    /// Index into `values`.
    pub default: usize,
    /// In the order of the file, never empty.
    pub values: Vec<AxisValue>,
    /// Variants that differ here are never merged as duplicates.
    pub is_distinct: bool,
    /// What of the picture's design the axis varies.
    pub motif: Option<Motif>,
}

/// One value of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxisValue {
    pub name: String,
    /// What stands for the value in a prompt; may be empty.
    pub prompt: String,
    pub label: Localized<String>,
    /// Allowed only beside these values of other axes.
    pub only: Vec<Restriction>,
}

/// Values of another axis beside which a value is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// Index of the other axis.
    pub axis: usize,
    /// Sorted indices of its allowed values.
    pub values: Vec<usize>,
}

impl Axis {
    #[must_use]
    pub fn value_index(&self, name: &str) -> Option<usize> {
        self.values.iter().position(|value| value.name == name)
    }

    /// The same for a value as URLs write it: in any case, as names of parameters and tags of languages (RFC 5646 §2.1.1)
    /// are. No two values of an axis differ in case alone.
    #[must_use]
    pub fn value_index_in_url(&self, name: &str) -> Option<usize> {
        let in_any_case = || self.values.iter().position(|value| value.name.eq_ignore_ascii_case(name));
        self.value_index(name).or_else(in_any_case)
    }

    #[must_use]
    pub fn default_value(&self) -> &AxisValue {
        &self.values[self.default]
    }

    #[must_use]
    pub fn value_names(&self) -> Vec<String> {
        self.values.iter().map(|value| value.name.clone()).collect()
    }
}

/// Whether the chosen values (one index per axis) may stand together; else the axis and value that object and
/// the restriction they name.
pub(crate) fn forbidden<'a>(axes: &'a [Axis], chosen: &[usize]) -> Option<(&'a Axis, &'a AxisValue, &'a Restriction)> {
    axes.iter().zip(chosen).find_map(|(axis, &index)| {
        let value = &axis.values[index];
        let restriction = value.only.iter().find(|only| !only.values.contains(&chosen[only.axis]))?;
        Some((axis, value, restriction))
    })
}

/// An axis and where its parts stand, for faults found later.
#[derive(Debug)]
pub(crate) struct ReadAxis {
    pub(crate) axis: Axis,
    pub(super) span: Range<usize>,
    /// The first value that has a `prompt`.
    prompt_span: Option<Range<usize>>,
    /// A value without `prompt`, if there is one.
    pub(crate) promptless: Option<String>,
    /// What of it had a fault: uses of that are not judged.
    pub(super) refused: Refused,
}

/// The parts of an axis that had a fault.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refused {
    name: bool,
    default: bool,
    /// Not every value is known.
    pub(super) values: bool,
    /// Not every label is known.
    labels: bool,
}

impl ReadAxis {
    pub(crate) fn into_axis(self) -> Axis {
        self.axis
    }

    /// Whether a template means this axis by a name: one that was refused for its case is meant all the same.
    fn is_called(&self, name: &str) -> bool {
        self.axis.name == name || (self.refused.name && self.axis.name.eq_ignore_ascii_case(name))
    }
}

/// The axis that a template names.
pub(crate) fn named(axes: &[ReadAxis], name: &str) -> Result<usize, String> {
    let position = axes.iter().position(|read| read.is_called(name));
    position.ok_or_else(|| not_named(name, axes.iter().map(|read| &read.axis)))
}

/// The same in a file that is read after the manifest.
pub(crate) fn named_of_whole(axes: &[Axis], name: &str) -> Result<usize, String> {
    axes.iter().position(|axis| axis.name == name).ok_or_else(|| not_named(name, axes.iter()))
}

fn not_named<'a>(name: &str, axes: impl Iterator<Item = &'a Axis>) -> String {
    let names: Vec<&str> = axes.map(|axis| axis.name.as_str()).collect();
    format!("there is no axis {{{name}}}; there are {}", listing(&names, 16))
}

/// The locale of a choice of values, one index for each axis; the campaign's first where no axis says.
pub(super) fn locale_of<'l>(axes: &'l [Axis], first: &'l str, values: &[usize]) -> &'l str {
    let axis = axes.iter().position(|axis| axis.name == LOCALE_AXIS);
    axis.map_or(first, |axis| &axes[axis].values[values[axis]].name)
}

/// Reads `[axes.*]` and adds the locale axis.
pub(crate) fn read(root: &TableReader<'_, '_>, locales: &[String], are_locales_whole: bool) -> Vec<ReadAxis> {
    let all = root.table("axes");
    let tables = all.as_ref().map(|table| table.tables(AXES_MAX - 1)).unwrap_or_default();
    let mut axes: Vec<ReadAxis> = Vec::with_capacity(tables.len() + 1);
    for (name, table) in &tables {
        let is_name_good = check_name(root, name);
        let mut axis = read_axis(name, table, are_locales_whole.then_some(locales));
        axis.refused.name = !is_name_good;
        axes.push(axis);
    }
    for name in all.iter().flat_map(|all| all.names()) {
        if !axes.iter().any(|read| read.axis.name == name.value) {
            axes.push(refused(name.value));
        }
    }
    // Restrictions name other axes, so they are read when all are known.
    for (name, table) in &tables {
        read_restrictions(name.value, table, &mut axes);
        table.finish(no_hint);
    }
    if !axes.iter().any(|read| read.axis.name == LOCALE_AXIS) {
        axes.push(locale_axis(locales, are_locales_whole));
    }
    check_default_is_allowed(root, &axes);
    motif::check(root, &axes);
    axes
}

fn check_name(root: &TableReader<'_, '_>, name: &Text<'_>) -> bool {
    let reason = if !is_name(name.value) {
        format!("`{}` is no name; names are a-z, 0-9 and -", name.value)
    } else if let Some(parameter) = parameters::canonical_name(name.value) {
        format!("an axis cannot be called `{}`: URLs use it for the rendition parameter `{parameter}`", name.value)
    } else {
        return true;
    };
    root.fault(&name.span, reason);
    false
}

/// Always an axis: what its file got wrong is noted as a fault, and a use of the axis finds it. `locales` where they
/// are known.
fn read_axis(name: &Text<'_>, table: &TableReader<'_, '_>, locales: Option<&[String]>) -> ReadAxis {
    let default = table.required_text("default");
    let label = table.table("label").map(|label| read_label(&label)).unwrap_or_default();
    let note = short_text(table, "note");
    let is_distinct = table.flag("distinct").unwrap_or(false);
    let motif = motif::read(table);
    let mut axis =
        Axis { name: name.value.to_owned(), label, note, default: 0, values: Vec::new(), is_distinct, motif };
    let mut refused = Refused { default: default.is_none(), ..Refused::default() };
    let Some(values_table) = table.table("values") else {
        if !table.has("values") {
            table.missing("values", format!("axis `{}` has no values", name.value));
        }
        refused = Refused { default: true, values: true, labels: true, ..refused };
        return ReadAxis { axis, span: name.span.clone(), prompt_span: None, promptless: None, refused };
    };
    let mut prompt_span = None;
    let mut promptless = None;
    for (value_name, value) in values_table.tables(VALUES_MAX) {
        check_value_name(&values_table, name.value, &value_name, locales);
        let prompt = value.text("prompt");
        match &prompt {
            Some(prompt) if prompt_span.is_none() => prompt_span = Some(prompt.span.clone()),
            // A misspelt `prompt` is refused by its name.
            None if !value.has("prompt") && value.has_only(&VALUE_KEYS) => {
                promptless = promptless.or_else(|| Some(value_name.value.to_owned()));
            }
            None | Some(_) => {}
        }
        let prompt = prompt.and_then(|text| plain(&value, &text)).unwrap_or_default();
        let label = value.table("label");
        let are_labels_known = if label.is_some() { true } else { !value.has("label") && value.has_only(&VALUE_KEYS) };
        let (label, is_whole) = label.map_or_else(|| (Localized::default(), true), |label| read_labels(&label));
        refused.labels |= !are_labels_known || !is_whole;
        axis.values.push(AxisValue { name: value_name.value.to_owned(), prompt, label, only: Vec::new() });
    }
    refused.values = values_table.is_refused();
    if let (LOCALE_AXIS, Some(locales)) = (name.value, locales) {
        check_locales(&values_table, &axis.values, locales);
    }
    if let Some(default) = default {
        match axis.value_index(default.value) {
            Some(index) => axis.default = index,
            None => {
                refused.default = true;
                if !refused.values {
                    let known = listing(&axis.value_names(), 12);
                    let reason = format!("axis `{}` has no value `{}`; it has {known}", name.value, default.value);
                    table.fault(&default.span, reason);
                }
            }
        }
    }
    ReadAxis { axis, span: name.span.clone(), prompt_span, promptless, refused }
}

fn check_value_name(table: &TableReader<'_, '_>, axis: &str, name: &Text<'_>, locales: Option<&[String]>) {
    if axis == LOCALE_AXIS {
        if locales.is_some_and(|locales| !locales.iter().any(|locale| locale == name.value)) {
            table.fault(&name.span, format!("`{}` is not in `policy.locales`", name.value));
        }
    } else if !is_name(name.value) {
        table.fault(&name.span, format!("`{}` is no name; names are a-z, 0-9 and -", name.value));
    }
}

fn check_locales(table: &TableReader<'_, '_>, values: &[AxisValue], locales: &[String]) {
    let missing: Vec<&String> = locales.iter().filter(|locale| !values.iter().any(|v| v.name == **locale)).collect();
    if !missing.is_empty() {
        let reason = format!("axis `locale` lacks {} of `policy.locales`", listing(&missing, 8));
        table.fault(table.span(), reason);
    }
}

fn read_label(table: &TableReader<'_, '_>) -> Localized<String> {
    read_labels(table).0
}

/// The labels, and whether they are all that was meant.
fn read_labels(table: &TableReader<'_, '_>) -> (Localized<String>, bool) {
    localized(table, |text| checked_text(table, text))
}

fn read_restrictions(name: &str, table: &TableReader<'_, '_>, axes: &mut [ReadAxis]) {
    let Some(values) = table.table("values") else { return };
    for (value_name, value) in values.tables(VALUES_MAX) {
        value.expect(&VALUE_KEYS);
        let only = value.table("only").map(|only| read_only(name, &only, axes)).unwrap_or_default();
        value.finish(no_hint);
        let axis = axes.iter_mut().find(|read| read.axis.name == name);
        if let Some(target) = axis.and_then(|read| read.axis.values.iter_mut().find(|v| v.name == value_name.value)) {
            target.only = only;
        }
    }
}

fn read_only(own: &str, only: &TableReader<'_, '_>, axes: &[ReadAxis]) -> Vec<Restriction> {
    let mut restrictions = Vec::new();
    for (axis_name, names) in only.named_lists(AXES_MAX) {
        let position = axes.iter().position(|read| read.is_called(axis_name.value));
        let Some(axis) = position.filter(|_| axis_name.value != own) else {
            only.fault(&axis_name.span, format!("`only` names another axis, and `{}` is none", axis_name.value));
            continue;
        };
        let mut values = Vec::with_capacity(names.len());
        for name in names {
            match axes[axis].axis.value_index(name.value) {
                Some(index) => values.push(index),
                None if axes[axis].refused.values => {}
                None => only.fault(&name.span, format!("axis `{}` has no value `{}`", axis_name.value, name.value)),
            }
        }
        if values.is_empty() && !only.is_refused() && !axes[axis].refused.values {
            only.fault(&axis_name.span, format!("`only.{}` allows nothing", axis_name.value));
        }
        values.sort_unstable();
        restrictions.push(Restriction { axis, values });
    }
    restrictions
}

/// An axis of which no more than its name is known.
fn refused(name: &str) -> ReadAxis {
    let mut read = locale_axis(&[], false);
    name.clone_into(&mut read.axis.name);
    read.refused.labels = true;
    read
}

fn locale_axis(locales: &[String], is_whole: bool) -> ReadAxis {
    let value = |locale: &String| AxisValue {
        name: locale.clone(),
        prompt: String::new(),
        label: Localized::default(),
        only: Vec::new(),
    };
    let axis = Axis {
        name: LOCALE_AXIS.to_owned(),
        label: Localized::default(),
        note: None,
        default: 0,
        values: locales.iter().map(value).collect(),
        is_distinct: false,
        motif: None,
    };
    let refused = Refused { default: !is_whole, values: !is_whole, ..Refused::default() };
    ReadAxis { axis, span: 0..0, prompt_span: None, promptless: locales.first().cloned(), refused }
}

fn check_default_is_allowed(root: &TableReader<'_, '_>, axes: &[ReadAxis]) {
    for read in axes.iter().filter(|read| !read.refused.default) {
        for only in read.axis.default_value().only.iter().filter(|only| !axes[only.axis].refused.default) {
            let other = &axes[only.axis].axis;
            if !only.values.contains(&other.default) {
                let reason = format!(
                    "the default `{}` is not allowed beside the default `{}` of axis `{}`",
                    read.axis.default_value().name,
                    other.default_value().name,
                    other.name
                );
                root.fault(&read.span, reason);
            }
        }
    }
}

/// A prompt text no template uses would promise a difference that no picture shows.
pub(crate) fn check_prompts_are_used(root: &TableReader<'_, '_>, axes: &[ReadAxis], slots: &[Slot]) {
    for (index, read) in axes.iter().enumerate() {
        let is_used = slots.iter().any(|slot| slot.drawn().is_some_and(|generate| generate.prompt.uses_axis(index)));
        if let Some(span) = &read.prompt_span
            && !is_used
            && slots.iter().any(|slot| slot.drawn().is_some())
        {
            let name = &read.axis.name;
            root.fault(span, format!("no prompt of this manifest uses {{{name}}}, so this text has no effect"));
        }
    }
}

/// Every value of an axis that a text of a slot names needs a label in every locale; `of` names the text.
pub(crate) fn check_labels(
    table: &TableReader<'_, '_>,
    span: &Range<usize>,
    read: &ReadAxis,
    of: &str,
    locales: &[String],
) {
    if read.refused.labels {
        return;
    }
    for value in &read.axis.values {
        check_covers(table, span, &label_of(&read.axis, value, of), &value.label, locales);
    }
}

/// How a fault begins when a label is missing that a text needs.
pub(super) fn label_of(axis: &Axis, value: &AxisValue, of: &str) -> String {
    format!("{{{}}} stands in {of}, but the label of `{}`", axis.name, value.name)
}
