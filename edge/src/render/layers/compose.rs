//! Laying a set on a picture: every layer is placed first, because shadows and panels follow others; then they are drawn in order.

use std::sync::Arc;

use super::contrast::{Lettering, worst};
use super::light::{Light, times};
use super::panel::PanelBox;
use super::patch::{Mask, Patch, index};
use super::place::{Area, Frame, Placing};
use super::report::{FallbackReason, FallbackTaken, LayerOutcome, LayerReport};
use super::text::{Misfit, Room, Typeset};
use super::{Fallback, Layer, LayerError, LayerKind, LayerSet, Panel, TextLayer, Words};
use crate::render::Raster;

/// Lays all layers on a picture.
///
/// # Errors
/// When a file cannot be decoded, which `check` would have found.
pub fn compose(raster: &mut Raster, set: &LayerSet) -> Result<LayerReport, LayerError> {
    let frame = Frame::new((raster.width_px, raster.height_px), set.insets, set.direction);
    let placed = set.layers.iter().map(|layer| place(layer, set, &frame)).collect::<Result<Vec<_>, _>>()?;
    let mut canvas = Canvas { raster, set, frame, placed, report: LayerReport::default() };
    for at in 0..set.layers.len() {
        canvas.draw(at);
    }
    Ok(canvas.report)
}

/// A layer that has a place of its own.
enum Placed {
    Image {
        patch: Arc<Patch>,
        area: Area,
    },
    Text(PlacedText),
    /// It cannot be set, whatever is behind it.
    NoText(Misfit),
    /// It follows another, or is there on demand.
    Later,
}

struct PlacedText {
    set: Typeset,
    area: Area,
    mask: Mask,
    margin: i64,
    /// Why its short text is set.
    shortened: Option<FallbackReason>,
}

fn place(layer: &Layer, set: &LayerSet, frame: &Frame) -> Result<Placed, LayerError> {
    Ok(match &layer.kind {
        LayerKind::Image { asset, placing } => {
            let size = match frame.size(placing) {
                (None, None) => (Some(frame.safe.width), Some(frame.safe.height)),
                size => size,
            };
            let (width_px, height_px) = asset.fitted(size);
            let failed = |source| LayerError { layer: layer.name.clone(), source };
            let patch = asset.patch(width_px, height_px).map_err(failed)?;
            Placed::Image { patch, area: frame.place(placing, (i64::from(width_px), i64::from(height_px))) }
        }
        LayerKind::Text(text) => place_text(text, set, frame),
        LayerKind::Shadow(_) | LayerKind::Panel(_) => Placed::Later,
    })
}

fn place_text(text: &TextLayer, set: &LayerSet, frame: &Frame) -> Placed {
    match PlacedText::new(text, &text.words, set, frame, None) {
        Ok(placed) => Placed::Text(placed),
        Err(misfit) => {
            let reason = FallbackReason::from(&misfit);
            let short = text.short.as_ref().filter(|_| text.fallbacks.contains(&Fallback::Shorter));
            let shorter = short.map(|short| PlacedText::new(text, short, set, frame, Some(reason)));
            match shorter {
                Some(Ok(placed)) => Placed::Text(placed),
                Some(Err(_)) | None => Placed::NoText(misfit),
            }
        }
    }
}

/// The room of a text.
pub(super) fn room(placing: &Placing, frame: &Frame) -> Room {
    let (width, height) = frame.size(placing);
    Room {
        width: width.unwrap_or(frame.safe.width),
        height: height.unwrap_or(frame.safe.height),
        picture_height: frame.height,
    }
}

impl PlacedText {
    fn new(
        text: &TextLayer,
        words: &Words,
        set: &LayerSet,
        frame: &Frame,
        shortened: Option<FallbackReason>,
    ) -> Result<Self, Misfit> {
        let typeset = Typeset::new(words, &set.language, set.direction, &text.style, room(&text.placing, frame))?;
        let area = frame.place(&text.placing, (typeset.width, typeset.height));
        let (mask, margin) = typeset.mask(text.style.align, set.direction);
        Ok(Self { set: typeset, area, mask, margin, shortened })
    }

    const fn at(&self) -> (i64, i64) {
        (self.area.left - self.margin, self.area.top - self.margin)
    }
}

struct Canvas<'c> {
    raster: &'c mut Raster,
    set: &'c LayerSet,
    frame: Frame,
    placed: Vec<Placed>,
    report: LayerReport,
}

impl Canvas<'_> {
    fn draw(&mut self, at: usize) {
        let layer = &self.set.layers[at];
        match &layer.kind {
            LayerKind::Image { .. } => {
                if let Placed::Image { patch, area } = &self.placed[at] {
                    patch.draw(self.raster, (area.left, area.top), layer.blend, layer.opacity);
                }
            }
            LayerKind::Shadow(shadow) => {
                if let Some((mask, area)) = self.caster(shadow.of) {
                    let (patch, to) = shadow.cast(&mask, area, self.shorter_px());
                    patch.draw(self.raster, to, layer.blend, layer.opacity);
                }
            }
            LayerKind::Panel(panel) => {
                if !self.set.is_on_demand(at) {
                    self.draw_panel(layer, panel);
                }
            }
            LayerKind::Text(text) => return self.draw_text(at, layer, text),
        }
        self.tell(layer, None, None);
    }

    fn shorter_px(&self) -> i64 {
        self.frame.width.min(self.frame.height)
    }

    fn tell(&mut self, layer: &Layer, contrast: Option<u32>, fallback: Option<(FallbackTaken, FallbackReason)>) {
        self.report.outcomes.push(LayerOutcome {
            layer: layer.name.clone(),
            kind: layer.kind.as_str(),
            contrast_hundredths: contrast,
            fallback: fallback.map(|(taken, _)| taken),
            reason: fallback.map(|(_, reason)| reason),
        });
    }

    /// What throws a shadow, and where it lies.
    fn caster(&self, of: usize) -> Option<(Mask, Area)> {
        match self.placed.get(of)? {
            Placed::Image { patch, area } => Some((patch.mask(), *area)),
            Placed::Text(text) => {
                let at = text.at();
                let (width, height) = (i64::from(text.mask.width_px), i64::from(text.mask.height_px));
                Some((text.mask.clone(), Area { left: at.0, top: at.1, width, height }))
            }
            Placed::NoText(_) | Placed::Later => None,
        }
    }

    fn panel_area(&self, panel: &Panel) -> Option<Area> {
        match &panel.area {
            PanelBox::Own(placing) => {
                let (width, height) = self.frame.size(placing);
                let size = (width.unwrap_or(self.frame.width), height.unwrap_or(self.frame.height));
                Some(self.frame.place(placing, size))
            }
            PanelBox::Around { layer, padding } => {
                let area = match self.placed.get(*layer)? {
                    Placed::Image { area, .. } => *area,
                    Placed::Text(text) => text.area,
                    Placed::NoText(_) | Placed::Later => return None,
                };
                Some(area.grown((padding[0].px(self.frame.width), padding[1].px(self.frame.height))))
            }
        }
    }

    fn draw_panel(&mut self, layer: &Layer, panel: &Panel) {
        let Some(area) = self.panel_area(panel) else { return };
        if area.width < 1 || area.height < 1 || area.within(self.raster.width_px, self.raster.height_px).is_none() {
            return;
        }
        let patches = panel.patches(self.raster, area, self.shorter_px(), self.set.direction, layer.blend);
        if let Some((patch, to)) = &patches.softened {
            patch.draw(self.raster, *to, super::Blend::Normal, layer.opacity);
        }
        patches.field.draw(self.raster, (area.left, area.top), layer.blend, layer.opacity);
    }

    fn draw_text(&mut self, at: usize, layer: &Layer, text: &TextLayer) {
        let placed = match &self.placed[at] {
            Placed::NoText(misfit) => {
                let reason = FallbackReason::from(misfit);
                return self.tell(layer, None, Some((FallbackTaken::LeftOut, reason)));
            }
            Placed::Text(placed) => placed,
            Placed::Image { .. } | Placed::Later => return,
        };
        let shortened = placed.shortened.map(|reason| (FallbackTaken::Shorter, reason));
        let (contrast, needed) = self.contrast(layer, text, placed);
        if contrast.is_none_or(|contrast| contrast >= needed) {
            self.lay(at, layer, text);
            return self.tell(layer, contrast, shortened);
        }
        self.fall_back(at, layer, text);
    }

    /// A text that cannot be read where it lies: its fallbacks, in their order, until one helps.
    fn fall_back(&mut self, at: usize, layer: &Layer, text: &TextLayer) {
        for fallback in &text.fallbacks {
            let taken = match *fallback {
                Fallback::LeaveOut => {
                    return self.tell(layer, None, Some((FallbackTaken::LeftOut, FallbackReason::Contrast)));
                }
                Fallback::Panel(panel) => {
                    let before = self.raster.rgb.clone();
                    let panel_layer = &self.set.layers[panel];
                    if let LayerKind::Panel(panel) = &panel_layer.kind {
                        self.draw_panel(panel_layer, panel);
                    }
                    if !self.can_be_read(at, layer, text) {
                        self.raster.rgb = before;
                        continue;
                    }
                    FallbackTaken::Panel
                }
                Fallback::Shorter => {
                    let Some(short) = &text.short else { continue };
                    let reason = Some(FallbackReason::Contrast);
                    let Ok(placed) = PlacedText::new(text, short, self.set, &self.frame, reason) else { continue };
                    let longer = std::mem::replace(&mut self.placed[at], Placed::Text(placed));
                    if !self.can_be_read(at, layer, text) {
                        self.placed[at] = longer;
                        continue;
                    }
                    FallbackTaken::Shorter
                }
            };
            return self.finish(at, layer, text, taken);
        }
        self.finish(at, layer, text, FallbackTaken::Kept);
    }

    fn finish(&mut self, at: usize, layer: &Layer, text: &TextLayer, taken: FallbackTaken) {
        let contrast = match &self.placed[at] {
            Placed::Text(placed) => self.contrast(layer, text, placed).0,
            _ => None,
        };
        self.lay(at, layer, text);
        self.tell(layer, contrast, Some((taken, FallbackReason::Contrast)));
    }

    fn can_be_read(&self, at: usize, layer: &Layer, text: &TextLayer) -> bool {
        let Placed::Text(placed) = &self.placed[at] else { return false };
        let (contrast, needed) = self.contrast(layer, text, placed);
        contrast.is_none_or(|contrast| contrast >= needed)
    }

    /// What there is, and what is needed.
    fn contrast(&self, layer: &Layer, text: &TextLayer, placed: &PlacedText) -> (Option<u32>, u32) {
        let opacity = layer.opacity.get();
        let colour = text.colour.premultiplied(Light::tables()).map(|sample| times(sample, opacity));
        let lettering = Lettering {
            mask: &placed.mask,
            at: placed.at(),
            area: placed.area,
            colour,
            line_height: placed.set.line_height,
        };
        let css_px = placed.set.size_64 * i64::from(self.set.shown_width_px) / 64 / self.frame.width.max(1);
        (worst(self.raster, &lettering), text.contrast_min.hundredths(css_px))
    }

    fn lay(&mut self, at: usize, layer: &Layer, text: &TextLayer) {
        let Placed::Text(placed) = &self.placed[at] else { return };
        Patch::of_mask(&placed.mask, text.colour).draw(self.raster, placed.at(), layer.blend, layer.opacity);
        self.report.text_share += share_of(placed.area, self.raster.width_px, self.raster.height_px);
    }
}

/// What a box covers of a picture, in ten-thousandths.
pub(super) fn share_of(area: Area, width_px: u32, height_px: u32) -> u32 {
    let seen = area.within(width_px, height_px).map_or(0, |seen| index(seen.width) as u64 * index(seen.height) as u64);
    let whole = (u64::from(width_px) * u64::from(height_px)).max(1);
    u32::try_from(seen * 10_000 / whole).unwrap_or(10_000)
}
