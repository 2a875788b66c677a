//! `motif`: what of a picture's design an axis varies, so that figures can later compare one variable at a time.
//!
//! A motif has a variable (`layout`, `contrast`, …) and a word for each value of the axis: the value's own name unless the
//! manifest says another. No two axes vary the same variable, because a difference could not be told apart then.

use super::axes::{Axis, ReadAxis};
use super::fault::listing;
use super::manifest::VALUES_MAX;
use super::names::is_name;
use super::reader::{TableReader, is_like, no_hint};

/// Variables that every readout knows. Campaigns may have others.
pub const KNOWN_VARIABLES: [&str; 5] = ["layout", "contrast", "text-share", "gaze", "product-size"];

/// What an axis varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Motif {
    pub variable: String,
    /// Words for values whose own name is not the word, by the value's name.
    words: Vec<(String, String)>,
}

/// A property of one variant's motif.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MotifTag<'m> {
    pub variable: &'m str,
    pub value: &'m str,
}

impl Motif {
    /// What an axis says of a variant with this value.
    #[must_use]
    pub fn tag<'m>(&'m self, value: &'m str) -> MotifTag<'m> {
        let word = self.words.iter().find(|(known, _)| known == value).map_or(value, |(_, word)| word);
        MotifTag { variable: &self.variable, value: word }
    }
}

/// What the axes of a campaign say of a variant, in their order; one index per axis.
pub fn tags<'a>(axes: &'a [Axis], values: &'a [usize]) -> impl Iterator<Item = MotifTag<'a>> {
    let varied = axes.iter().zip(values);
    varied.filter_map(|(axis, value)| Some(axis.motif.as_ref()?.tag(&axis.values[*value].name)))
}

/// Reads an axis's `motif`.
pub(super) fn read(axis: &TableReader<'_, '_>) -> Option<Motif> {
    let table = axis.table("motif")?;
    let variable = table.required_text("variable").and_then(|text| {
        let meant = KNOWN_VARIABLES.iter().find(|known| **known != text.value && is_like(text.value, known));
        let reason = match meant {
            Some(meant) => format!("`{}` is like the variable `{meant}`, and not it", text.value),
            None if !is_name(text.value) => {
                format!("`{}` is no name of a variable; known ones are {}", text.value, listing(&KNOWN_VARIABLES, 8))
            }
            None => return Some(text.value.to_owned()),
        };
        table.fault(&text.span, reason);
        None
    });
    let words = table.table("values").map(|values| read_words(&values)).unwrap_or_default();
    table.finish(no_hint);
    Some(Motif { variable: variable?, words })
}

fn read_words(values: &TableReader<'_, '_>) -> Vec<(String, String)> {
    let words = values.named_texts(VALUES_MAX).into_iter().filter_map(|(value, word)| {
        if is_name(word.value) {
            return Some((value.value.to_owned(), word.value.to_owned()));
        }
        values.fault(&word.span, format!("`{}` is no name; names are a-z, 0-9 and -", word.value));
        None
    });
    words.collect()
}

/// Words are of values that there are, and a variable is of one axis.
pub(super) fn check(root: &TableReader<'_, '_>, axes: &[ReadAxis]) {
    for (index, read) in axes.iter().enumerate() {
        let Some(motif) = &read.axis.motif else { continue };
        let unknown = motif.words.iter().find(|(value, _)| read.axis.value_index(value).is_none());
        if let Some((value, _)) = unknown.filter(|_| !read.refused.values) {
            root.fault(
                &read.span,
                format!("`motif.values` names `{value}`, and axis `{}` has no such value", read.axis.name),
            );
        }
        let is_same = |other: &&ReadAxis| other.axis.motif.as_ref().is_some_and(|it| it.variable == motif.variable);
        if let Some(other) = axes[..index].iter().find(is_same) {
            let (variable, one, two) = (&motif.variable, &other.axis.name, &read.axis.name);
            root.fault(
                &read.span,
                format!("`{one}` and `{two}` both vary `{variable}`: no figure could tell them apart"),
            );
        }
    }
}
