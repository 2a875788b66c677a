//! Panels: a field of one colour or a gradient, over what is behind it softened.

use serde::Serialize;

use super::blur;
use super::light::{FULL, Light, rest, times};
use super::patch::{Blend, Colour, Mask, Patch, covered, index};
use super::place::{Area, Direction, Length, Placing};
use crate::render::Raster;

/// What fills a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fill {
    Colour(Colour),
    /// Mixed in premultiplied linear light.
    Gradient {
        from: Colour,
        to: Colour,
        towards: Towards,
    },
}

/// Where a gradient leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Towards {
    Top,
    Bottom,
    Start,
    End,
}

impl Towards {
    pub const ALL: [(&'static str, Self); 4] =
        [("top", Self::Top), ("bottom", Self::Bottom), ("start", Self::Start), ("end", Self::End)];
}

/// Where a panel lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PanelBox {
    Own(Placing),
    /// Around the layer of that index, wider by shares of the picture's width and height.
    Around {
        layer: usize,
        padding: [Length; 2],
    },
}

/// A field behind other layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Panel {
    pub area: PanelBox,
    pub fill: Fill,
    /// Of its corners, a share of the picture's shorter side.
    pub radius: Length,
    /// How far what is behind it is softened, a share of the same.
    pub blur: Length,
}

impl Panel {
    /// The field, over what is behind it, softened. Where the field is not simply laid on it, each is a patch of its
    /// own. Only the part that is seen is made; `None` where none is.
    pub(super) fn patches(
        &self,
        raster: &Raster,
        area: Area,
        shorter_px: i64,
        direction: Direction,
        blend: Blend,
    ) -> Option<PanelPatches> {
        let seen = area.within(raster.width_px, raster.height_px)?;
        let shape = rounded(area, seen, self.radius.px(shorter_px));
        let fade = self.blur.px(shorter_px).clamp(0, super::blur_px_max(shorter_px));
        let softened = (fade > 0).then(|| behind(raster, seen, fade, &shape));
        let field = self.field(area, seen, &shape, direction);
        let at = (seen.left, seen.top);
        Some(match softened {
            Some(softened) if blend == Blend::Normal => {
                PanelPatches { at, softened: None, field: field.over(&softened) }
            }
            softened => PanelPatches { at, softened, field },
        })
    }

    /// The seen part of the field of `area`.
    fn field(&self, area: Area, seen: Area, shape: &Mask, direction: Direction) -> Patch {
        let (from, to, towards) = match self.fill {
            Fill::Colour(colour) => return Patch::of_mask(shape, colour),
            Fill::Gradient { from, to, towards } => (from, to, towards),
        };
        let light = Light::tables();
        let (from, to) = (from.premultiplied(light), to.premultiplied(light));
        let (is_across, is_back) = match (towards, direction) {
            (Towards::Top, _) => (false, true),
            (Towards::Bottom, _) => (false, false),
            (Towards::End, Direction::Ltr) | (Towards::Start, Direction::Rtl) => (true, false),
            (Towards::Start, Direction::Ltr) | (Towards::End, Direction::Rtl) => (true, true),
        };
        let (length, first, count) = if is_across {
            (index(area.width), index(seen.left - area.left), index(seen.width))
        } else {
            (index(area.height), index(seen.top - area.top), index(seen.height))
        };
        let last = length.saturating_sub(1);
        let steps: Vec<[u16; 4]> = (first..first + count)
            .map(|at| {
                let along = share(if is_back { last - at } else { at }, last);
                std::array::from_fn(|sample| times(from[sample], rest(along)).saturating_add(times(to[sample], along)))
            })
            .collect();
        let width = shape.width_px as usize;
        let pixels = shape.coverage.iter().enumerate().map(|(at, &part)| {
            let step = steps[if is_across { at % width } else { at / width }];
            covered(step, part)
        });
        Patch { width_px: shape.width_px, height_px: shape.height_px, pixels: pixels.collect() }
    }
}

/// What a panel lays on a picture, both parts with their upper left corner at `at`.
pub(super) struct PanelPatches {
    pub(super) at: (i64, i64),
    pub(super) softened: Option<Patch>,
    pub(super) field: Patch,
}

/// What is behind a panel in the shape of its seen part, softened with all that is around it.
fn behind(raster: &Raster, seen: Area, fade: i64, shape: &Mask) -> Patch {
    let read = seen.grown((fade, fade)).within(raster.width_px, raster.height_px).unwrap_or(seen);
    let light = Light::tables();
    let mut pixels = Vec::with_capacity(index(read.width) * index(read.height));
    for y in read.top..read.bottom() {
        let start = (index(y) * raster.width_px as usize + index(read.left)) * 3;
        let row = &raster.rgb[start..start + index(read.width) * 3];
        pixels.extend(row.chunks_exact(3).map(|codes| [codes[0], codes[1], codes[2]].map(|code| light.linear(code))));
    }
    blur::soften(&mut pixels, index(read.width), index(read.height), index(fade));
    let mut kept = Vec::with_capacity(shape.coverage.len());
    for (row, parts) in shape.coverage.chunks_exact(index(seen.width)).enumerate() {
        let start = (row + index(seen.top - read.top)) * index(read.width) + index(seen.left - read.left);
        let row = &pixels[start..start + parts.len()];
        kept.extend(
            row.iter().zip(parts).map(|([red, green, blue], part)| covered([*red, *green, *blue, FULL], *part)),
        );
    }
    Patch { width_px: shape.width_px, height_px: shape.height_px, pixels: kept }
}

/// The seen part of a rectangle with round corners.
fn rounded(area: Area, seen: Area, radius_px: i64) -> Mask {
    let mut mask = Mask::empty(px(seen.width), px(seen.height));
    mask.coverage.fill(FULL);
    let radius = radius_px.clamp(0, area.width.min(area.height) / 2);
    // How far a pixel is into the round part of a side.
    let into = |from_edge: i64| (from_edge < radius).then_some(radius - from_edge);
    let columns: Vec<(usize, i64)> = (seen.left..seen.right())
        .enumerate()
        .filter_map(|(at, x)| Some((at, into((x - area.left).min(area.right() - 1 - x))?)))
        .collect();
    for (row, y) in mask.coverage.chunks_exact_mut(index(seen.width)).zip(seen.top..) {
        let Some(down) = into((y - area.top).min(area.bottom() - 1 - y)) else { continue };
        columns.iter().for_each(|(at, along)| row[*at] = corner(radius, *along, down));
    }
    mask
}

/// How much of a pixel lies within a circle, from its middle: square roots are rounded alike everywhere.
fn corner(radius: i64, x: i64, y: i64) -> u16 {
    #[allow(clippy::cast_precision_loss, reason = "sides are small")]
    let (radius, x, y) = (radius as f64, x as f64 - 0.5, y as f64 - 0.5);
    let inside = (radius - (x * x + y * y).sqrt() + 0.5).clamp(0.0, 1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 65535")]
    return (inside * f64::from(FULL)).round() as u16;
}

/// `at` of `whole`, in parts of [`FULL`].
fn share(at: usize, whole: usize) -> u16 {
    if whole == 0 {
        return 0;
    }
    u16::try_from((at as u64 * u64::from(FULL) + whole as u64 / 2) / whole as u64).unwrap_or(FULL)
}

/// The side of what lies within a picture.
fn px(side: i64) -> u32 {
    u32::try_from(side).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::layers::place::LayerAnchor;

    fn panel(fill: Fill) -> Panel {
        let area = PanelBox::Own(Placing::at(LayerAnchor::default()));
        Panel { area, fill, radius: Length::ZERO, blur: Length::ZERO }
    }

    const fn area(width: i64, height: i64) -> Area {
        Area { left: 0, top: 0, width, height }
    }

    #[test]
    fn corners_are_round_and_alike() {
        let mask = rounded(area(20, 10), area(20, 10), 4);
        let at = |x: usize, y: usize| mask.coverage[y * 20 + x];
        assert_eq!((at(0, 0), at(4, 0), at(0, 4), at(10, 5)), (0, FULL, FULL, FULL));
        assert!(at(1, 1) > 0 && at(1, 1) < FULL);
        assert_eq!([at(18, 1), at(1, 8), at(18, 8)], [at(1, 1); 3]);
        let of_three = |radius| rounded(area(3, 3), area(3, 3), radius);
        assert_eq!(of_three(100), of_three(1), "a radius is at most half of a side");
    }

    #[test]
    fn gradients_run_in_linear_light_and_turn_with_the_direction() {
        let towards = |towards| Fill::Gradient { from: Colour::BLACK, to: Colour::WHITE, towards };
        let whole = area(3, 2);
        let field = |to, direction| panel(towards(to)).field(whole, whole, &rounded(whole, whole, 0), direction).pixels;
        let across = field(Towards::End, Direction::Ltr);
        assert_eq!(across[..3].iter().map(|pixel| pixel[0]).collect::<Vec<_>>(), [0, 32_768, FULL]);
        assert_eq!(field(Towards::End, Direction::Rtl), field(Towards::Start, Direction::Ltr));
        let down = field(Towards::Bottom, Direction::Rtl);
        assert_eq!((down[0][0], down[3][0]), (0, FULL));
    }

    /// A panel costs what is seen of it, and that part is as it is in the whole.
    #[test]
    fn only_the_part_of_a_panel_that_is_seen_is_made() {
        let fill = Fill::Gradient { from: Colour::BLACK, to: Colour::WHITE, towards: Towards::End };
        let panel = Panel { radius: Length::Px(20), ..panel(fill) };
        let made = |size: (u32, u32), area| {
            let raster = Raster { width_px: size.0, height_px: size.1, rgb: vec![90; (size.0 * size.1 * 3) as usize] };
            panel.patches(&raster, area, 400, Direction::Ltr, Blend::Normal)
        };
        let whole = made((120, 60), area(120, 60)).expect("seen").field;
        let part = made((50, 30), Area { left: -5, top: -7, ..area(120, 60) }).expect("seen");
        assert_eq!((part.at, part.field.width_px, part.field.height_px), ((0, 0), 50, 30));
        for (y, row) in part.field.pixels.chunks_exact(50).enumerate() {
            let from = (y + 7) * 120 + 5;
            assert_eq!(row, &whole.pixels[from..from + 50], "row {y}");
        }
        let vast = Area { left: -8_000, top: -8_000, ..area(16_400, 16_400) };
        assert_eq!(made((40, 40), vast).expect("seen").field.pixels.len(), 1600);
        assert!(made((40, 40), Area { left: 40, ..area(9, 9) }).is_none());
    }

    #[test]
    fn what_is_behind_is_softened_within_the_panel_alone() {
        let mut raster = Raster { width_px: 40, height_px: 4, rgb: vec![0; 480] };
        raster.rgb.chunks_exact_mut(3).enumerate().filter(|(at, _)| at % 2 == 0).for_each(|(_, pixel)| pixel.fill(255));
        let clear = Fill::Colour(Colour { rgb: [0; 3], alpha: 0 });
        let area = Area { left: 10, top: -2, width: 10, height: 9 };
        let panel = Panel { blur: Length::Px(3), ..panel(clear) };
        let patches = panel.patches(&raster, area, 40, Direction::Ltr, Blend::Multiply).expect("seen");
        let patch = patches.softened.expect("softened");
        assert_eq!((patches.at, patch.width_px, patch.height_px), ((10, 0), 10, 4));
        let middle = patch.pixels[5][0];
        assert!((30_000..=35_500).contains(&middle), "{middle}: about half of the light");
    }
}
