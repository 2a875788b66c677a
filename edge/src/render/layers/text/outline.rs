//! Outlines of glyphs as coverage: exact areas in fixed point, without hinting.

use harfrust::font::glyph::outline::{DrawMemory, DrawOptions, PathSink};
use harfrust::{Font, GlyphId};
use zeno::{Command, Point};

use super::Typeset;
use super::shape::scaled;
use crate::render::layers::light::widened;
use crate::render::layers::patch::Mask;
use crate::render::layers::place::{Along, Direction};

/// What the letters of a text cover. The mask is larger than the text's box by the margin at every side, because letters reach
/// out of their lines.
pub(super) fn mask(set: &Typeset, align: Along, direction: Direction) -> (Mask, i64) {
    let margin = set.size_64.div_euclid(64) / 2 + 2;
    let side = |length: i64| u32::try_from((length + 2 * margin).clamp(1, 16_384)).unwrap_or(1);
    let (width_px, height_px) = (side(set.width), side(set.height));
    let mut path = Path { commands: Vec::new(), origin: (0.0, 0.0) };
    for (index, line) in set.lines.iter().enumerate() {
        let spare_64 = (set.width * 64 - scaled(line.advance, set.size_64)).max(0);
        let left_64 = match (align, direction) {
            (Along::Centre, _) => spare_64 / 2,
            (Along::Start, Direction::Ltr) | (Along::End, Direction::Rtl) => 0,
            (Along::End, Direction::Ltr) | (Along::Start, Direction::Rtl) => spare_64,
        };
        // Baselines lie on whole pixels, so that letters of all lines are equally sharp. Each is rounded for itself: lines stray by
        // half a pixel at most, however many there are.
        let baseline_64 = index as i64 * set.line_height_64 + set.baseline_64;
        let baseline = (baseline_64 + 32).div_euclid(64) + margin;
        for glyph in &line.glyphs {
            let x_64 = margin * 64 + left_64 + scaled(glyph.x, set.size_64);
            let y_64 = baseline * 64 - scaled(glyph.y, set.size_64);
            path.origin = (in_px(x_64), in_px(y_64));
            let font = &set.fonts[glyph.font];
            let options = DrawOptions::new().with_ppem(Some(in_px(set.size_64)));
            if let Some(outline) = font.outline_glyphs().get(glyph.id) {
                // A damaged outline is drawn as far as it goes.
                let _ = outline.draw(&options, DrawMemory::Scratch, &mut path);
            }
        }
    }
    let mut coverage = vec![0; width_px as usize * height_px as usize];
    zeno::Mask::new(path.commands.as_slice()).size(width_px, height_px).render_into(&mut coverage, None);
    let coverage = coverage.into_iter().map(widened).collect();
    (Mask { width_px, height_px, coverage }, margin)
}

/// Whether a glyph has an outline that is not empty.
pub(super) fn has_outline(font: &Font, glyph: GlyphId) -> bool {
    let mut path = Path { commands: Vec::new(), origin: (0.0, 0.0) };
    let drawn = font
        .outline_glyphs()
        .get(glyph)
        .map(|outline| outline.draw(&DrawOptions::new(), DrawMemory::Scratch, &mut path));
    matches!(drawn, Some(Ok(_))) && !path.commands.is_empty()
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^24")]
fn in_px(length_64: i64) -> f32 {
    length_64 as f32 / 64.0
}

/// Contours in pixels of the mask, downwards.
struct Path {
    commands: Vec<Command>,
    origin: (f32, f32),
}

impl Path {
    fn at(&self, x: f32, y: f32) -> Point {
        Point::new(self.origin.0 + x, self.origin.1 - y)
    }
}

impl PathSink for Path {
    fn move_to(&mut self, x: f32, y: f32) {
        self.commands.push(Command::MoveTo(self.at(x, y)));
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.commands.push(Command::LineTo(self.at(x, y)));
    }

    fn quad_to(&mut self, cx0: f32, cy0: f32, x: f32, y: f32) {
        self.commands.push(Command::QuadTo(self.at(cx0, cy0), self.at(x, y)));
    }

    fn curve_to(&mut self, cx0: f32, cy0: f32, cx1: f32, cy1: f32, x: f32, y: f32) {
        self.commands.push(Command::CurveTo(self.at(cx0, cy0), self.at(cx1, cy1), self.at(x, y)));
    }

    fn close(&mut self) {
        self.commands.push(Command::Close);
    }
}
