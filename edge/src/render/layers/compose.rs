//! Laying a set on a picture: every layer is placed first, because shadows and panels follow others; then they are drawn in order.

use std::ops::Range;
use std::sync::Arc;

use super::contrast::{Lettering, worst};
use super::light::{Light, times};
use super::panel::PanelBox;
use super::patch::{Mask, Patch, index};
use super::place::{Area, Frame, Placing};
use super::report::{FallbackReason, FallbackTaken, LayerOutcome, LayerReport, Presence};
use super::text::{Misfit, Room, Typeset};
use super::{Fallback, Layer, LayerError, LayerKind, LayerSet, Panel, Shadow, TextLayer, Words};
use crate::render::Raster;

/// Lays all layers on a picture.
///
/// # Errors
/// When a file cannot be decoded, which `check` would have found.
pub fn compose(raster: &mut Raster, set: &LayerSet) -> Result<LayerReport, LayerError> {
    let frame = Frame::new((raster.width_px, raster.height_px), set.insets, set.direction);
    let placed = set.layers.iter().map(|layer| place(layer, set, &frame)).collect::<Result<Vec<_>, _>>()?;
    let report = LayerReport { outcomes: set.layers.iter().map(LayerOutcome::of).collect(), text_share: 0 };
    let mut canvas = Canvas { raster, set, frame, placed, report };
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
            let (width_px, height_px) = asset.fitted(frame.box_of_picture(placing));
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

/// The contrast of a text where it lies, in hundredths, and what it needs. No contrast: no letter lies on the picture.
#[derive(Clone, Copy)]
struct Legibility {
    contrast: Option<u32>,
    needed: u32,
}

impl Legibility {
    fn is_enough(self) -> bool {
        self.contrast.is_none_or(|contrast| contrast >= self.needed)
    }
}

impl Canvas<'_> {
    fn draw(&mut self, at: usize) {
        let layer = &self.set.layers[at];
        let presence = match &layer.kind {
            LayerKind::Image { .. } => self.draw_image(at, layer),
            LayerKind::Shadow(shadow) => self.draw_shadow(layer, shadow),
            // A text that needs it draws it.
            LayerKind::Panel(_) if self.set.is_on_demand(at) => return,
            LayerKind::Panel(panel) => self.draw_panel(layer, panel),
            LayerKind::Text(text) => return self.draw_text(at, layer, text),
        };
        self.report.outcomes[at].presence = presence;
    }

    fn shorter_px(&self) -> i64 {
        self.frame.width.min(self.frame.height)
    }

    fn draw_image(&mut self, at: usize, layer: &Layer) -> Presence {
        let Placed::Image { patch, area } = &self.placed[at] else { return Presence::Nowhere };
        patch.draw(self.raster, (area.left, area.top), layer.blend, layer.opacity)
    }

    fn draw_shadow(&mut self, layer: &Layer, shadow: &Shadow) -> Presence {
        let Some((mask, area)) = self.caster(shadow.of) else { return Presence::Nowhere };
        let (patch, to) = shadow.cast(&mask, area, self.shorter_px());
        patch.draw(self.raster, to, layer.blend, layer.opacity)
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

    fn draw_panel(&mut self, layer: &Layer, panel: &Panel) -> Presence {
        let Some(area) = self.panel_area(panel) else { return Presence::Nowhere };
        let direction = self.set.direction;
        let Some(patches) = panel.patches(self.raster, area, self.shorter_px(), direction, layer.blend) else {
            return Presence::Nowhere;
        };
        if let Some(patch) = &patches.softened {
            patch.draw(self.raster, patches.at, super::Blend::Normal, layer.opacity);
        }
        patches.field.draw(self.raster, patches.at, layer.blend, layer.opacity)
    }

    fn draw_text(&mut self, at: usize, layer: &Layer, text: &TextLayer) {
        let placed = match &self.placed[at] {
            Placed::NoText(misfit) => {
                let reason = FallbackReason::from(misfit);
                return self.leave_out(at, reason);
            }
            Placed::Text(placed) => placed,
            Placed::Image { .. } | Placed::Later => return,
        };
        let shortened = placed.shortened.map(|reason| (FallbackTaken::Shorter, reason));
        let legibility = self.legibility(layer, text, placed);
        if legibility.is_enough() {
            return self.lay(at, layer, text, legibility, shortened);
        }
        self.fall_back(at, layer, text, legibility);
    }

    fn leave_out(&mut self, at: usize, reason: FallbackReason) {
        let outcome = &mut self.report.outcomes[at];
        outcome.presence = Presence::LeftOut;
        (outcome.fallback, outcome.reason) = (Some(FallbackTaken::LeftOut), Some(reason));
    }

    /// A text that cannot be read where it lies: its fallbacks, in their order, until one helps.
    fn fall_back(&mut self, at: usize, layer: &Layer, text: &TextLayer, as_it_is: Legibility) {
        for fallback in &text.fallbacks {
            let helped = match *fallback {
                Fallback::LeaveOut => return self.leave_out(at, FallbackReason::Contrast),
                Fallback::Panel(panel) => {
                    self.try_panel(panel, at, layer, text).map(|legibility| (FallbackTaken::Panel, legibility))
                }
                Fallback::Shorter => {
                    self.try_shorter(at, layer, text).map(|legibility| (FallbackTaken::Shorter, legibility))
                }
            };
            if let Some((taken, legibility)) = helped {
                return self.lay(at, layer, text, legibility, Some((taken, FallbackReason::Contrast)));
            }
        }
        self.lay(at, layer, text, as_it_is, Some((FallbackTaken::Kept, FallbackReason::Contrast)));
    }

    /// Draws a panel behind a text. `None` where that does not help; the picture is then as it was.
    fn try_panel(&mut self, panel_at: usize, at: usize, layer: &Layer, text: &TextLayer) -> Option<Legibility> {
        let panel_layer = &self.set.layers[panel_at];
        let LayerKind::Panel(panel) = &panel_layer.kind else { return None };
        let seen = self.panel_area(panel)?.within(self.raster.width_px, self.raster.height_px)?;
        let before = Cutout::of(self.raster, seen);
        let presence = self.draw_panel(panel_layer, panel);
        let Placed::Text(placed) = &self.placed[at] else { return None };
        let legibility = self.legibility(layer, text, placed);
        if !legibility.is_enough() {
            before.put_back(self.raster);
            return None;
        }
        self.report.outcomes[panel_at].presence = presence;
        Some(legibility)
    }

    /// Sets the short text instead. `None` where that does not help; the text is then as it was.
    fn try_shorter(&mut self, at: usize, layer: &Layer, text: &TextLayer) -> Option<Legibility> {
        let placed = PlacedText::new(text, text.short.as_ref()?, self.set, &self.frame, None).ok()?;
        let legibility = self.legibility(layer, text, &placed);
        legibility.is_enough().then(|| {
            self.placed[at] = Placed::Text(placed);
            legibility
        })
    }

    fn legibility(&self, layer: &Layer, text: &TextLayer, placed: &PlacedText) -> Legibility {
        let opacity = layer.opacity.get();
        let colour = text.colour.premultiplied(Light::tables()).map(|sample| times(sample, opacity));
        let lettering = Lettering {
            mask: &placed.mask,
            at: placed.at(),
            area: placed.area,
            colour,
            line_height: placed.set.line_height(),
        };
        let css_px = placed.set.size_64 * i64::from(self.set.shown_width_px) / 64 / self.frame.width.max(1);
        let needed = text.contrast_min.hundredths(css_px);
        Legibility { contrast: worst(self.raster, &lettering), needed }
    }

    fn lay(
        &mut self,
        at: usize,
        layer: &Layer,
        text: &TextLayer,
        legibility: Legibility,
        fallback: Option<(FallbackTaken, FallbackReason)>,
    ) {
        let Placed::Text(placed) = &self.placed[at] else { return };
        let letters = Patch::of_mask(&placed.mask, text.colour);
        let outcome = &mut self.report.outcomes[at];
        outcome.presence = letters.draw(self.raster, placed.at(), layer.blend, layer.opacity);
        outcome.contrast_hundredths = legibility.contrast;
        (outcome.fallback, outcome.reason) = fallback.unzip();
        self.report.text_share += share_of(placed.area, self.raster.width_px, self.raster.height_px);
    }
}

/// A part of a picture as it was.
struct Cutout {
    area: Area,
    rgb: Vec<u8>,
}

impl Cutout {
    fn of(raster: &Raster, area: Area) -> Self {
        let rows = (area.top..area.bottom()).map(|y| bytes_of_row(raster.width_px, area, y));
        Self { area, rgb: rows.flat_map(|row| &raster.rgb[row]).copied().collect() }
    }

    fn put_back(&self, raster: &mut Raster) {
        let rows = self.rgb.chunks_exact(index(self.area.width) * 3);
        for (y, before) in (self.area.top..).zip(rows) {
            raster.rgb[bytes_of_row(raster.width_px, self.area, y)].copy_from_slice(before);
        }
    }
}

/// Where a row of an area lies in the bytes of a picture of that width.
fn bytes_of_row(width_px: u32, area: Area, y: i64) -> Range<usize> {
    let start = (index(y) * width_px as usize + index(area.left)) * 3;
    start..start + index(area.width) * 3
}

/// What a box covers of a picture, in ten-thousandths.
pub(super) fn share_of(area: Area, width_px: u32, height_px: u32) -> u32 {
    let seen = area.within(width_px, height_px).map_or(0, |seen| index(seen.width) as u64 * index(seen.height) as u64);
    let whole = (u64::from(width_px) * u64::from(height_px)).max(1);
    u32::try_from(seen * 10_000 / whole).unwrap_or(10_000)
}
