//! Layers with their texts and files at hand: what fills in the set of a variant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use serde::Serialize;

use super::super::axes::{Axis, LOCALE_AXIS, locale_of};
use super::super::cuts::DEFAULT_CUT;
use super::super::fault::SourceText;
use super::super::framing::{Framing, Insets};
use super::super::manifest::Manifest;
use super::super::slots::Slot;
use super::super::sources::SourceFile;
use super::files::{self, Files, LAYER_FILES_MAX};
use super::fillable::{check_layer, known};
use super::words::{self, Copy, CopyEntry, CopyText};
use super::{FallbackPlan, KindPlan, LayerPlan, SlotPlan, TextPlan};
use crate::decoding::DecoderCommand;
use crate::render::layers::{
    Direction, Fallback, ImageAsset, Insets as LayerInsets, LAYERS_REVISION, Layer, LayerKind, LayerSet, LayerSetError,
    Panel, PanelBox, Shadow, TextLayer, TextStyle, Words,
};

/// The layers of a slot, ready to be filled in.
#[derive(Debug)]
pub struct SlotLayers {
    plan: SlotPlan,
    axes: Arc<[Axis]>,
    shared: Arc<Shared>,
    /// The campaign's first.
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
    /// Changes no pixel.
    #[serde(skip)]
    text_share_max: Option<u32>,
}

/// What a campaign's slots share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) copy: Copy,
    figures: super::figures::Figures,
    /// In the order of the manifest.
    pub(super) fonts: Vec<String>,
    files: Files,
}

/// Texts as the author wrote them.
type ByLocale<'t> = Vec<(&'t str, &'t str)>;

/// Why the layers of a variant cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    #[error("layer `{layer}`: {reason}")]
    Layer { layer: String, reason: String },
    #[error(transparent)]
    Set(#[from] LayerSetError),
}

/// Links the layers of every slot, in their order; faults stand in `source`, and those of the copy's table in the list. `None`
/// of a slot without layers.
pub(in super::super) fn link(
    source: &SourceText<'_>,
    manifest: &Manifest,
    pins: &BTreeMap<String, Digest>,
    tables: &BTreeMap<String, SourceFile>,
    (folder, decoder): (&Path, &DecoderCommand),
) -> (Vec<Option<Arc<SlotLayers>>>, Vec<super::super::fault::Fault>) {
    let none = || manifest.slots.iter().map(|_| None).collect();
    let (mut copy, mut faults) = (manifest.stock.copy.clone(), Vec::new());
    if let Some((file, span)) = copy.file.clone() {
        match manifest.stock.table().and_then(|table| tables.get(table)) {
            Some(table) => {
                let table = SourceText::new(&table.path, &table.text);
                words::add_table(&mut copy, &table, &known(manifest));
                faults.extend(table.into_faults());
            }
            None => source.fault(&span, format!("there is no table `{file}` beside the manifest")),
        }
    }
    if pins.len() > LAYER_FILES_MAX {
        source.fault(&(0..0), format!("layers name {} files, at most {LAYER_FILES_MAX}", pins.len()));
        return (none(), faults);
    }
    let files = files::read_all(folder, manifest, pins, decoder).unwrap_or_else(|reasons| {
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

impl SlotLayers {
    fn new(slot: &Slot, manifest: &Manifest, axes: &Arc<[Axis]>, shared: &Arc<Shared>) -> Self {
        let mut layers = Self {
            plan: slot.layers.clone(),
            axes: Arc::clone(axes),
            shared: Arc::clone(shared),
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

    /// Most that texts may cover in a cut, in ten-thousandths: what the manifest says, else the rule of the cut's preset.
    #[must_use]
    pub fn text_share_max(&self, cut: Option<usize>) -> Option<u32> {
        let frame = self.frames.get(cut.map_or(0, |cut| cut + 1));
        self.plan.text_share_max.or_else(|| frame?.text_share_max)
    }

    fn computed_digest(&self) -> Digest {
        #[derive(Serialize)]
        struct Told<'t, F> {
            revision: u32,
            plan: &'t SlotPlan,
            /// By key: those of each locale, and the short ones.
            texts: Vec<(&'t str, [ByLocale<'t>; 2])>,
            labels: Vec<(&'t str, ByLocale<'t>)>,
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
        let values = self.axes.iter().flat_map(|axis| &axis.values);
        let told = Told {
            revision: LAYERS_REVISION,
            plan: &self.plan,
            texts: self.shared.copy.texts.iter().map(|(key, entry)| (key.as_str(), sources(entry))).collect(),
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
    ///
    /// # Errors
    /// When a layer cannot be filled in, which linking rules out.
    pub fn of(&self, values: &[usize], cut: Option<usize>) -> Result<Option<Arc<LayerSet>>, FillError> {
        let Some(frame) = self.frames.get(cut.map_or(0, |cut| cut + 1)) else { return Ok(None) };
        let shown: Vec<&LayerPlan> =
            self.plan.layers.iter().filter(|layer| is_shown(layer, values, &frame.name)).collect();
        let locale = locale_of(&self.axes, &self.default_locale, values);
        // What is laid around a layer that is not there is not there either.
        let shown: Vec<&LayerPlan> = shown.iter().filter(|layer| stands(layer, &shown)).copied().collect();
        let index = |name: &str| shown.iter().position(|layer| layer.name == name);
        if shown.is_empty() {
            return Ok(None);
        }
        let filled = |layer: &&LayerPlan| {
            let fault = |reason| FillError::Layer { layer: layer.name.clone(), reason };
            self.layer(layer, &index, values, locale).map_err(fault)
        };
        let layers = shown.iter().map(filled).collect::<Result<Vec<Layer>, FillError>>()?;
        let direction = direction_of(locale);
        let insets = frame.insets(direction);
        let set = LayerSet::new(layers, insets, direction, locale, frame.shown_width_px)?;
        Ok(Some(Arc::new(set)))
    }

    fn layer(
        &self,
        plan: &LayerPlan,
        index: &dyn Fn(&str) -> Option<usize>,
        values: &[usize],
        locale: &str,
    ) -> Result<Layer, String> {
        let other = |name: &str| index(name).ok_or_else(|| format!("there is no layer `{name}`"));
        let kind = match &plan.kind {
            KindPlan::Image { path, placing } => {
                let path = path.at(|axis| &self.axes[axis].values[values[axis]].name);
                let asset =
                    self.shared.files.images.get(&path).ok_or_else(|| format!("the lock does not pin {path}"))?;
                LayerKind::Image { asset: asset.clone(), placing: *placing }
            }
            KindPlan::Shadow { of, kind, direction_deg, distance, softness, colour } => LayerKind::Shadow(Shadow {
                of: other(of)?,
                kind: *kind,
                direction_deg: *direction_deg,
                distance: *distance,
                softness: *softness,
                colour: *colour,
            }),
            KindPlan::Text(text) => LayerKind::Text(Box::new(self.text(text, index, values, locale)?)),
            KindPlan::Panel { around, placing, fill, radius, blur } => {
                let area = match around {
                    Some((name, padding)) => PanelBox::Around { layer: other(name)?, padding: *padding },
                    None => PanelBox::Own(*placing),
                };
                LayerKind::Panel(Panel { area, fill: *fill, radius: *radius, blur: *blur })
            }
        };
        Ok(Layer { name: plan.name.clone(), kind, blend: plan.blend, opacity: plan.opacity })
    }

    fn text(
        &self,
        plan: &TextPlan,
        index: &dyn Fn(&str) -> Option<usize>,
        values: &[usize],
        locale: &str,
    ) -> Result<TextLayer, String> {
        let Shared { copy, figures, fonts, files } = &*self.shared;
        let missing = || format!("`copy.{}` has no text for {locale}", plan.key);
        let entry = copy.texts.get(&plan.key).ok_or_else(missing)?;
        let filled = |text: &CopyText| Words::new(&text.filled(&self.axes, figures, values, locale));
        let fonts = if plan.fonts.is_empty() { fonts } else { &plan.fonts };
        let font =
            |path: &String| files.fonts.get(path).cloned().ok_or_else(|| format!("the lock does not pin {path}"));
        let fallbacks = plan.fallbacks.iter().filter_map(|fallback| match fallback {
            // A panel that is not there at these values helps nobody.
            FallbackPlan::Panel(name) => index(name).map(Fallback::Panel),
            FallbackPlan::Shorter => Some(Fallback::Shorter),
            FallbackPlan::LeaveOut => Some(Fallback::LeaveOut),
        });
        Ok(TextLayer {
            words: filled(entry.long.get(locale).ok_or_else(missing)?)?,
            short: entry.short.get(locale).map(filled).transpose()?,
            style: TextStyle {
                fonts: fonts.iter().map(font).collect::<Result<_, _>>()?,
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

    /// The axes by whose values its sets differ, in their order: variants that differ by others alone have equal ones.
    #[must_use]
    pub fn axes(&self) -> Vec<usize> {
        let Shared { copy, figures, .. } = &*self.shared;
        let mut axes: BTreeSet<usize> =
            self.axes.iter().position(|axis| axis.name == LOCALE_AXIS).into_iter().collect();
        for layer in &self.plan.layers {
            axes.extend(layer.only.iter().map(|(axis, _)| *axis));
            match &layer.kind {
                KindPlan::Image { path, .. } => axes.extend(path.axes()),
                KindPlan::Text(text) => {
                    let texts = copy.texts.get(&text.key).into_iter();
                    let texts = texts.flat_map(|entry| entry.long.iter().chain(entry.short.iter()));
                    axes.extend(texts.flat_map(|(_, text)| text.axes(figures)));
                }
                KindPlan::Shadow { .. } | KindPlan::Panel { .. } => {}
            }
        }
        axes.into_iter().collect()
    }

    /// Every picture that may be laid on the slot's.
    pub(super) fn images(&self) -> impl Iterator<Item = (&str, &ImageAsset)> {
        self.shared.files.images.iter().map(|(path, image)| (path.as_str(), image))
    }
}

/// What the author wrote, by locale: the texts and the short ones.
fn sources(entry: &CopyEntry) -> [ByLocale<'_>; 2] {
    [&entry.long, &entry.short].map(|texts| texts.iter().map(|(locale, text)| (locale, text.source())).collect())
}

impl LayerFrame {
    fn new(name: Option<&str>, framing: &Framing) -> Self {
        let name = name.unwrap_or(DEFAULT_CUT).to_owned();
        Self {
            name,
            safe_area: framing.safe_area,
            shown_width_px: framing.default_width_px,
            text_share_max: framing.text_share_max,
        }
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
