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
    /// The field, over what is behind it, softened. Where the field is not simply laid on it, each is a patch of its own.
    pub(super) fn patches(
        &self,
        raster: &Raster,
        area: Area,
        shorter_px: i64,
        direction: Direction,
        blend: Blend,
    ) -> PanelPatches {
        let (width_px, height_px) = (px(area.width), px(area.height));
        let shape = rounded(width_px, height_px, self.radius.px(shorter_px));
        let fade = self.blur.px(shorter_px).clamp(0, super::blur_px_max(shorter_px));
        let softened = (fade > 0).then(|| behind(raster, area, fade)).flatten();
        let softened = softened.map(|(mut patch, seen)| {
            for (at, pixel) in patch.pixels.iter_mut().enumerate() {
                let (x, y) = (at % patch.width_px as usize, at / patch.width_px as usize);
                let inside = (y + index(seen.top - area.top)) * width_px as usize + x + index(seen.left - area.left);
                let part = shape.coverage[inside];
                *pixel = covered(*pixel, part);
            }
            (patch, (seen.left, seen.top))
        });
        let field = self.field(&shape, direction);
        match softened {
            Some((softened, at)) if blend == Blend::Normal => {
                PanelPatches { softened: None, field: field.over(&softened, (at.0 - area.left, at.1 - area.top)) }
            }
            softened => PanelPatches { softened, field },
        }
    }

    fn field(&self, shape: &Mask, direction: Direction) -> Patch {
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
        let (width, height) = (shape.width_px as usize, shape.height_px as usize);
        let steps: Vec<[u16; 4]> = (0..if is_across { width } else { height })
            .map(|at| {
                let length = if is_across { width } else { height };
                let along = share(if is_back { length - 1 - at } else { at }, length.saturating_sub(1));
                std::array::from_fn(|sample| times(from[sample], rest(along)).saturating_add(times(to[sample], along)))
            })
            .collect();
        let pixels = shape.coverage.iter().enumerate().map(|(at, &part)| {
            let step = steps[if is_across { at % width } else { at / width }];
            covered(step, part)
        });
        Patch { width_px: shape.width_px, height_px: shape.height_px, pixels: pixels.collect() }
    }
}

/// What a panel lays on a picture.
pub(super) struct PanelPatches {
    pub(super) softened: Option<(Patch, (i64, i64))>,
    pub(super) field: Patch,
}

/// What is behind a panel, softened with all that is around it.
fn behind(raster: &Raster, area: Area, fade: i64) -> Option<(Patch, Area)> {
    let seen = area.within(raster.width_px, raster.height_px)?;
    let radius = blur::radius(fade);
    let reach = i64::try_from(radius * 3).unwrap_or(0);
    let read = area.grown((reach, reach)).within(raster.width_px, raster.height_px)?;
    let light = Light::tables();
    let mut pixels = Vec::with_capacity(index(read.width) * index(read.height));
    for y in read.top..read.bottom() {
        let start = (index(y) * raster.width_px as usize + index(read.left)) * 3;
        let row = &raster.rgb[start..start + index(read.width) * 3];
        pixels.extend(row.chunks_exact(3).map(|codes| [codes[0], codes[1], codes[2]].map(|code| light.linear(code))));
    }
    blur::soften(&mut pixels, index(read.width), index(read.height), radius);
    let mut kept = Vec::with_capacity(index(seen.width) * index(seen.height));
    for y in seen.top..seen.bottom() {
        let start = index(y - read.top) * index(read.width) + index(seen.left - read.left);
        kept.extend(
            pixels[start..start + index(seen.width)].iter().map(|[red, green, blue]| [*red, *green, *blue, FULL]),
        );
    }
    Some((Patch { width_px: px(seen.width), height_px: px(seen.height), pixels: kept }, seen))
}

/// A rectangle with round corners.
fn rounded(width_px: u32, height_px: u32, radius_px: i64) -> Mask {
    let mut mask = Mask::empty(width_px, height_px);
    mask.coverage.fill(FULL);
    let (width, height) = (i64::from(width_px), i64::from(height_px));
    let radius = radius_px.clamp(0, width.min(height) / 2);
    for y in 0..radius {
        for x in 0..radius {
            let part = corner(radius, radius - x, radius - y);
            for (x, y) in [(x, y), (width - 1 - x, y), (x, height - 1 - y), (width - 1 - x, height - 1 - y)] {
                mask.coverage[index(y) * width_px as usize + index(x)] = part;
            }
        }
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

fn px(side: i64) -> u32 {
    u32::try_from(side.clamp(1, 8192)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::layers::place::LayerAnchor;

    fn panel(fill: Fill) -> Panel {
        let area = PanelBox::Own(Placing::at(LayerAnchor::default()));
        Panel { area, fill, radius: Length::ZERO, blur: Length::ZERO }
    }

    #[test]
    fn corners_are_round_and_alike() {
        let mask = rounded(20, 10, 4);
        let at = |x: usize, y: usize| mask.coverage[y * 20 + x];
        assert_eq!((at(0, 0), at(4, 0), at(0, 4), at(10, 5)), (0, FULL, FULL, FULL));
        assert!(at(1, 1) > 0 && at(1, 1) < FULL);
        assert_eq!([at(18, 1), at(1, 8), at(18, 8)], [at(1, 1); 3]);
        assert_eq!(rounded(3, 3, 100), rounded(3, 3, 1), "a radius is at most half of a side");
    }

    #[test]
    fn gradients_run_in_linear_light_and_turn_with_the_direction() {
        let towards = |towards| Fill::Gradient { from: Colour::BLACK, to: Colour::WHITE, towards };
        let field = |to, direction| panel(towards(to)).field(&rounded(3, 2, 0), direction).pixels;
        let across = field(Towards::End, Direction::Ltr);
        assert_eq!(across[..3].iter().map(|pixel| pixel[0]).collect::<Vec<_>>(), [0, 32_768, FULL]);
        assert_eq!(field(Towards::End, Direction::Rtl), field(Towards::Start, Direction::Ltr));
        let down = field(Towards::Bottom, Direction::Rtl);
        assert_eq!((down[0][0], down[3][0]), (0, FULL));
    }

    #[test]
    fn what_is_behind_is_softened_within_the_panel_alone() {
        let mut raster = Raster { width_px: 40, height_px: 4, rgb: vec![0; 480] };
        raster.rgb.chunks_exact_mut(3).enumerate().filter(|(at, _)| at % 2 == 0).for_each(|(_, pixel)| pixel.fill(255));
        let clear = Fill::Colour(Colour { rgb: [0; 3], alpha: 0 });
        let area = Area { left: 10, top: -2, width: 10, height: 9 };
        let patches =
            Panel { blur: Length::Px(3), ..panel(clear) }.patches(&raster, area, 40, Direction::Ltr, Blend::Multiply);
        let (patch, at) = patches.softened.expect("softened");
        assert_eq!((at, patch.width_px, patch.height_px), ((10, 0), 10, 4));
        let middle = patch.pixels[5][0];
        assert!((30_000..=35_500).contains(&middle), "{middle}: about half of the light");
    }
}
