//! Layers with their texts and files at hand: what fills in the set of a variant.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use serde::Serialize;

use super::super::axes::{Axis, LOCALE_AXIS};
use super::super::cuts::DEFAULT_CUT;
use super::super::fault::{SourceText, listing};
use super::super::framing::{Framing, Insets};
use super::super::manifest::Manifest;
use super::super::slots::Slot;
use super::super::sources::SourceFile;
use super::files::{self, Files, LAYER_FILES_MAX};
use super::words::{self, Copy, CopyEntry};
use super::{FallbackPlan, KindPlan, LayerPlan, SlotPlan, TextPlan};
use crate::render::layers::{
    Direction, Fallback, ImageAsset, Insets as LayerInsets, Layer, LayerKind, LayerSet, Panel, PanelBox, Shadow,
    TextLayer, TextStyle, Words,
};

/// The layers of a slot, ready to be filled in.
#[derive(Debug)]
pub struct SlotLayers {
    plan: SlotPlan,
    axes: Arc<[Axis]>,
    shared: Arc<Shared>,
    locale_axis: Option<usize>,
    default_locale: String,
    /// Of the slot's own framing, then of its cuts.
    frames: Vec<LayerFrame>,
    digest: Digest,
}

/// Where layers are laid.
#[derive(Debug, Serialize)]
struct LayerFrame {
    /// The name by which layers say in which cuts they are.
    name: String,
    safe_area: Insets,
    shown_width_px: u32,
}

/// What a campaign's slots share.
#[derive(Debug)]
struct Shared {
    copy: Copy,
    figures: super::figures::Figures,
    /// In the order of the manifest.
    fonts: Vec<String>,
    files: Files,
}

/// Links the layers of every slot, in their order; faults stand in `source`, and those of the copy's table in the list. `None`
/// of a slot without layers.
pub(in super::super) fn link(
    source: &SourceText<'_>,
    manifest: &Manifest,
    pins: &BTreeMap<String, Digest>,
    tables: &BTreeMap<String, SourceFile>,
    folder: &Path,
) -> (Vec<Option<Arc<SlotLayers>>>, Vec<super::super::fault::Fault>) {
    let none = || manifest.slots.iter().map(|_| None).collect();
    let (mut copy, mut faults) = (manifest.stock.copy.clone(), Vec::new());
    if let Some((file, span)) = copy.file.clone() {
        match manifest.stock.table().and_then(|table| tables.get(table)) {
            Some(table) => {
                let table = SourceText::new(&table.path, &table.text);
                words::add_table(&mut copy, &table, &manifest.axes, &manifest.stock.figures);
                faults.extend(table.into_faults());
            }
            None => source.fault(&span, format!("there is no table `{file}` beside the manifest")),
        }
    }
    if pins.len() > LAYER_FILES_MAX {
        source.fault(&(0..0), format!("layers name {} files, at most {LAYER_FILES_MAX}", pins.len()));
        return (none(), faults);
    }
    let files = files::read_all(folder, manifest, pins).unwrap_or_else(|reasons| {
        reasons.into_iter().for_each(|reason| source.fault(&(0..0), reason));
        Files::default()
    });
    if source.has_faults() || !faults.is_empty() {
        return (none(), faults);
    }
    let figures = manifest.stock.figures.clone();
    let shared = Arc::new(Shared { copy, figures, fonts: manifest.stock.fonts.clone(), files });
    let axes: Arc<[Axis]> = manifest.axes.clone().into();
    let slots = manifest.slots.iter().map(|slot| {
        let is_whole = slot.layers.layers.iter().all(|layer| check_layer(source, slot, layer, &shared, manifest));
        (!slot.layers.is_empty() && is_whole).then(|| Arc::new(SlotLayers::new(slot, manifest, &axes, &shared)))
    });
    (slots.collect(), faults)
}

/// Whether a text has its fonts, and its words in every locale.
fn check_layer(source: &SourceText<'_>, slot: &Slot, layer: &LayerPlan, shared: &Shared, manifest: &Manifest) -> bool {
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
    let lacks = |texts: &super::super::names::Localized<super::CopyText>| {
        let missing = manifest.policy.locales.iter().filter(|locale| texts.get(locale).is_none());
        missing.cloned().collect::<Vec<_>>()
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
    missing.is_empty() && short.is_empty()
}

impl SlotLayers {
    fn new(slot: &Slot, manifest: &Manifest, axes: &Arc<[Axis]>, shared: &Arc<Shared>) -> Self {
        let mut layers = Self {
            plan: slot.layers.clone(),
            axes: Arc::clone(axes),
            shared: Arc::clone(shared),
            locale_axis: axes.iter().position(|axis| axis.name == LOCALE_AXIS),
            default_locale: manifest.policy.locales[0].clone(),
            frames: slot.framings().map(|(name, framing)| LayerFrame::new(name, framing)).collect(),
            digest: Digest::of_bytes(b""),
        };
        layers.digest = layers.computed_digest();
        layers
    }

    /// Over everything that decides what is laid on the slot's pictures.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Most that texts may cover, in ten-thousandths.
    #[must_use]
    pub const fn text_share_max(&self) -> Option<u32> {
        self.plan.text_share_max
    }

    fn computed_digest(&self) -> Digest {
        #[derive(Serialize)]
        struct Told<'t, F> {
            plan: &'t SlotPlan,
            texts: Vec<(&'t str, Vec<(&'t str, &'t str)>)>,
            labels: Vec<(&'t str, Vec<(&'t str, &'t str)>)>,
            figures: F,
            files: Vec<(&'t str, Digest)>,
            frames: &'t [LayerFrame],
            /// A character is asked of them in this order.
            font_order: &'t [String],
            default_locale: &'t str,
        }
        let Files { fonts, images } = &self.shared.files;
        let fonts = fonts.iter().map(|(path, font)| (path.as_str(), font.digest()));
        let images = images.iter().map(|(path, image)| (path.as_str(), image.digest()));
        let of_entry = |entry: &CopyEntry| {
            let texts = entry.long.iter().chain(entry.short.iter());
            texts.map(|(locale, text)| (locale.to_owned(), text.source().to_owned())).collect::<Vec<_>>()
        };
        let owned: Vec<(&str, Vec<(String, String)>)> =
            self.shared.copy.texts.iter().map(|(key, entry)| (key.as_str(), of_entry(entry))).collect();
        let values = self.axes.iter().flat_map(|axis| &axis.values);
        let told = Told {
            plan: &self.plan,
            texts: owned
                .iter()
                .map(|(key, texts)| {
                    (*key, texts.iter().map(|(locale, text)| (locale.as_str(), text.as_str())).collect())
                })
                .collect(),
            labels: values
                .map(|value| {
                    let labels = value.label.iter().map(|(locale, label)| (locale, label.as_str()));
                    (value.name.as_str(), labels.collect())
                })
                .collect(),
            figures: self.shared.figures.told(),
            files: fonts.chain(images).collect(),
            frames: &self.frames,
            font_order: &self.shared.fonts,
            default_locale: &self.default_locale,
        };
        Digest::of_bytes(&serde_json::to_vec(&told).unwrap_or_default())
    }

    /// What is laid on a variant's picture, in that cut of its slot; `None` where nothing is.
    #[must_use]
    pub fn of(&self, values: &[usize], cut: Option<usize>) -> Option<Arc<LayerSet>> {
        let frame = self.frames.get(cut.map_or(0, |cut| cut + 1))?;
        let shown: Vec<&LayerPlan> =
            self.plan.layers.iter().filter(|layer| is_shown(layer, values, &frame.name)).collect();
        let locale = self
            .locale_axis
            .map_or(self.default_locale.as_str(), |axis| self.axes[axis].values[values[axis]].name.as_str());
        // What is laid around a layer that is not there is not there either.
        let shown: Vec<&LayerPlan> = shown.iter().filter(|layer| stands(layer, &shown)).copied().collect();
        let index = |name: &str| shown.iter().position(|layer| layer.name == name);
        let layers: Vec<Layer> = shown.iter().filter_map(|layer| self.layer(layer, &index, values, locale)).collect();
        if layers.is_empty() || layers.len() < shown.len() {
            return None;
        }
        let direction = direction_of(locale);
        let insets = frame.insets(direction);
        let set = LayerSet::new(layers, insets, direction, locale, frame.shown_width_px);
        set.ok().map(Arc::new)
    }

    fn layer(
        &self,
        plan: &LayerPlan,
        index: &dyn Fn(&str) -> Option<usize>,
        values: &[usize],
        locale: &str,
    ) -> Option<Layer> {
        let kind = match &plan.kind {
            KindPlan::Image { path, placing } => {
                let path = path.at(|axis| &self.axes[axis].values[values[axis]].name);
                LayerKind::Image { asset: self.shared.files.images.get(&path)?.clone(), placing: *placing }
            }
            KindPlan::Shadow { of, kind, direction_deg, distance, softness, colour } => LayerKind::Shadow(Shadow {
                of: index(of)?,
                kind: *kind,
                direction_deg: *direction_deg,
                distance: *distance,
                softness: *softness,
                colour: *colour,
            }),
            KindPlan::Text(text) => LayerKind::Text(Box::new(self.text(text, index, values, locale)?)),
            KindPlan::Panel { around, placing, fill, radius, blur } => {
                let area = match around {
                    Some((name, padding)) => PanelBox::Around { layer: index(name)?, padding: *padding },
                    None => PanelBox::Own(*placing),
                };
                LayerKind::Panel(Panel { area, fill: *fill, radius: *radius, blur: *blur })
            }
        };
        Some(Layer { name: plan.name.clone(), kind, blend: plan.blend, opacity: plan.opacity })
    }

    fn text(
        &self,
        plan: &TextPlan,
        index: &dyn Fn(&str) -> Option<usize>,
        values: &[usize],
        locale: &str,
    ) -> Option<TextLayer> {
        let Shared { copy, figures, fonts, files } = &*self.shared;
        let entry = copy.texts.get(&plan.key)?;
        let filled = |text: &super::CopyText| Words::new(&text.filled(&self.axes, figures, values, locale)).ok();
        let fonts = if plan.fonts.is_empty() { fonts } else { &plan.fonts };
        let fallbacks = plan.fallbacks.iter().filter_map(|fallback| match fallback {
            // A panel that is not there at these values helps nobody.
            FallbackPlan::Panel(name) => index(name).map(Fallback::Panel),
            FallbackPlan::Shorter => Some(Fallback::Shorter),
            FallbackPlan::LeaveOut => Some(Fallback::LeaveOut),
        });
        Some(TextLayer {
            words: filled(entry.long.get(locale)?)?,
            short: entry.short.get(locale).and_then(filled),
            style: TextStyle {
                fonts: fonts.iter().filter_map(|path| files.fonts.get(path).cloned()).collect(),
                weight: plan.weight,
                size_min: plan.size_min,
                size_max: plan.size_max,
                lines_max: plan.lines_max,
                line_height_percent: plan.line_height_percent,
                letter_spacing: plan.letter_spacing,
                align: plan.align,
                hyphens: plan.hyphens,
            },
            colour: plan.colour,
            placing: plan.placing,
            contrast_min: plan.contrast_min,
            fallbacks: fallbacks.collect(),
        })
    }

    /// Every picture that may be laid on the slot's.
    pub(super) fn images(&self) -> impl Iterator<Item = (&str, &ImageAsset)> {
        self.shared.files.images.iter().map(|(path, image)| (path.as_str(), image))
    }
}

impl LayerFrame {
    fn new(name: Option<&str>, framing: &Framing) -> Self {
        let name = name.unwrap_or(DEFAULT_CUT).to_owned();
        Self { name, safe_area: framing.safe_area, shown_width_px: framing.default_width_px }
    }

    /// The safe area, in the direction of writing.
    fn insets(&self, direction: Direction) -> LayerInsets {
        let [top, right, bottom, left] = shares(&self.safe_area);
        let (start, end) = match direction {
            Direction::Ltr => (left, right),
            Direction::Rtl => (right, left),
        };
        LayerInsets { top, end, bottom, start }
    }
}

/// Top, right, bottom and left, in ten-thousandths.
pub(super) fn shares(insets: &Insets) -> [u32; 4] {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 4000")]
    let share = |percent: f64| (percent * 100.0).round() as u32;
    [insets.top, insets.right, insets.bottom, insets.left].map(share)
}

fn is_shown(layer: &LayerPlan, values: &[usize], cut: &str) -> bool {
    let is_in_cut = layer.cuts.is_empty() || layer.cuts.iter().any(|known| known == cut);
    is_in_cut && layer.only.iter().all(|(axis, wanted)| wanted.contains(&values[*axis]))
}

fn stands(layer: &LayerPlan, shown: &[&LayerPlan]) -> bool {
    let is_there = |name: &str| shown.iter().any(|other| other.name == name);
    match &layer.kind {
        KindPlan::Shadow { of, .. } => is_there(of),
        KindPlan::Panel { around: Some((name, _)), .. } => is_there(name),
        KindPlan::Panel { around: None, .. } | KindPlan::Image { .. } | KindPlan::Text(_) => true,
    }
}

/// By the language, or by the script where the locale names one.
pub(super) fn direction_of(locale: &str) -> Direction {
    const RTL_SCRIPTS: [&str; 7] = ["Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm", "Rohg"];
    const RTL_LANGUAGES: [&str; 12] = ["ar", "he", "fa", "ur", "ps", "dv", "yi", "ckb", "sd", "ug", "arc", "nqo"];
    let mut parts = locale.split('-');
    let language = parts.next().unwrap_or_default();
    let is_rtl = match parts.next().filter(|part| part.len() == 4) {
        Some(script) => RTL_SCRIPTS.contains(&script),
        None => RTL_LANGUAGES.contains(&language),
    };
    if is_rtl { Direction::Rtl } else { Direction::Ltr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_written_from_the_side_of_their_script() {
        for locale in ["ar-EG", "he-IL", "fa", "az-Arab", "ckb-IQ"] {
            assert_eq!(direction_of(locale), Direction::Rtl, "{locale}");
        }
        for locale in ["de-DE", "ja-JP", "ku-Latn-TR", "es-419", "ur-Latn"] {
            assert_eq!(direction_of(locale), Direction::Ltr, "{locale}");
        }
    }
}
