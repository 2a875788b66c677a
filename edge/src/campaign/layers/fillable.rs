//! Whether what layers say can be filled in, whatever the values are: linking asks it of every text, so that no request meets a
//! layer that cannot be.

use super::super::axes::{Axis, LOCALE_AXIS};
use super::super::cuts::DEFAULT_CUT;
use super::super::fault::{SourceText, listing};
use super::super::manifest::Manifest;
use super::super::names::Localized;
use super::super::slots::Slot;
use super::linked::Shared;
use super::words::{self, CopyText, Known};
use super::{FallbackPlan, KindPlan, LayerPlan};
use crate::render::layers::Words;

/// Reads a table of texts beside a manifest. What can be filled in by its check is filled in here: for fuzzing.
///
/// # Panics
/// When that is no text.
pub(in super::super) fn read_table(manifest: &Manifest, source: &SourceText<'_>) {
    let mut copy = manifest.stock.copy.clone();
    let known = known(manifest);
    words::add_table(&mut copy, source, &known);
    let texts = copy.texts.values().flat_map(|entry| entry.long.iter().chain(entry.short.iter()));
    for (locale, text) in texts.filter(|(locale, text)| text.check_filled(&known, locale, |_, _| true).is_ok()) {
        for of_last in [false, true] {
            let value = |axis: &Axis| if of_last { axis.values.len() - 1 } else { 0 };
            let values: Vec<usize> = known.axes.iter().map(value).collect();
            let filled = text.filled(known.axes, known.figures, &values, locale);
            assert!(Words::new(&filled).is_ok(), "{filled:?}");
        }
    }
}

pub(super) const fn known(manifest: &Manifest) -> Known<'_> {
    Known {
        axes: manifest.axes.as_slice(),
        figures: &manifest.stock.figures,
        locales: manifest.policy.locales.as_slice(),
    }
}

/// Whether a text has its fonts, and its words in every locale that the layer is there in, whatever the values are.
pub(super) fn check_layer(
    source: &SourceText<'_>,
    slot: &Slot,
    layer: &LayerPlan,
    shared: &Shared,
    manifest: &Manifest,
) -> bool {
    let fault = |reason: String| source.fault(&layer.span, format!("layer `{}`: {reason}", layer.name));
    let is_known = |cut: &&String| *cut == DEFAULT_CUT || slot.cuts.iter().any(|known| known.name == **cut);
    if let Some(cut) = layer.cuts.iter().find(|cut| !is_known(cut)) {
        let names = slot.cuts.iter().map(|cut| cut.name.as_str()).chain([DEFAULT_CUT]);
        fault(format!("there is no cut `{cut}`; there is {}", listing(&names.collect::<Vec<_>>(), 12)));
        return false;
    }
    let KindPlan::Text(text) = &layer.kind else { return true };
    if text.fonts.is_empty() && shared.fonts.is_empty() {
        fault("it has no font: name files in [fonts], or `fonts` of the layer".to_owned());
        return false;
    }
    let Some(entry) = shared.copy.texts.get(&text.key) else {
        let known: Vec<&String> = shared.copy.texts.keys().collect();
        let known = if known.is_empty() { "none".to_owned() } else { listing(&known, 12) };
        fault(format!("there is no text `{}` in [copy]; there is {known}", text.key));
        return false;
    };
    let is_chosen = |axis: usize, value: usize| {
        let mut restrictions = layer.only.iter().filter(|(restricted, _)| *restricted == axis);
        restrictions.all(|(_, wanted)| wanted.contains(&value))
    };
    let axis = manifest.axes.iter().position(|axis| axis.name == LOCALE_AXIS);
    let is_there = |locale: &&String| {
        let value = axis.and_then(|axis| Some((axis, manifest.axes[axis].value_index(locale)?)));
        value.is_none_or(|(axis, value)| is_chosen(axis, value))
    };
    let locales: Vec<&String> = manifest.policy.locales.iter().filter(is_there).collect();
    let lacks = |texts: &Localized<CopyText>| {
        let missing = locales.iter().filter(|locale| texts.get(locale).is_none());
        missing.copied().collect::<Vec<_>>()
    };
    let missing = lacks(&entry.long);
    if !missing.is_empty() {
        fault(format!("`copy.{}` has no text for {}", text.key, listing(&missing, 8)));
    }
    let wants_short = text.fallbacks.contains(&FallbackPlan::Shorter);
    let short = if wants_short { lacks(&entry.short) } else { Vec::new() };
    if !short.is_empty() {
        fault(format!(
            "it falls back to a shorter text, and `copy.{}.short` has none for {}",
            text.key,
            listing(&short, 8)
        ));
    }
    let mut is_whole = missing.is_empty() && short.is_empty();
    for locale in locales {
        let of_locale = |axis_at: usize, value: usize| {
            is_chosen(axis_at, value) && (axis != Some(axis_at) || manifest.axes[axis_at].values[value].name == *locale)
        };
        for (name, texts) in [("", &entry.long), (".short", &entry.short)] {
            let checked = texts.get(locale).map(|text| text.check_filled(&known(manifest), locale, of_locale));
            if let Some(Err(reason)) = checked {
                fault(format!("`copy.{}{name}` in {locale}: {reason}", text.key));
                is_whole = false;
            }
        }
    }
    is_whole
}
