//! From characters to glyphs: which font draws each, in which direction, and where.
//!
//! A line is shaped by itself, in the direction of its locale (UAX #9), run by run: a run has one direction, one script and one
//! font. Advances are in 65,536ths of the size.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use harfrust::font::charmap::Charmap;
use harfrust::{
    Buffer, Direction as RunDirection, Feature, Font, GlyphId, Language, Script, ShapeOptions, ShapePlan, ShapePlanKey,
    ShaperFont, Tag,
};
use icu_properties::props::{DefaultIgnorableCodePoint, EmojiPresentation, Script as Writing};
use icu_properties::{CodePointMapData, CodePointSetData, PropertyNamesShort};
use unicode_bidi::{BidiInfo, Level};

use super::breaks::Ending;
use super::{FontFace, Misfit, TextStyle};
use crate::render::layers::place::Direction;

/// One size, in the units of advances.
pub(super) const EM: i64 = 65_536;
const SOFT_HYPHEN: char = '\u{ad}';
/// Asks for a picture in colours.
const EMOJI_SELECTOR: char = '\u{fe0f}';

/// A length in units of [`EM`] at a size, both in 64ths of a pixel.
pub(super) const fn scaled(length: i64, size_64: i64) -> i64 {
    (length * size_64 + EM / 2).div_euclid(EM)
}

/// One glyph, with its origin in units of [`EM`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Glyph {
    /// Index of the font.
    pub(super) font: usize,
    pub(super) id: GlyphId,
    pub(super) x: i64,
    /// Above the baseline.
    pub(super) y: i64,
}

/// Glyphs from left to right.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line {
    pub(super) glyphs: Vec<Glyph>,
    pub(super) advance: i64,
}

/// Shapes lines of one text.
pub(super) struct Shaper<'t> {
    text: &'t str,
    language: Option<Language>,
    direction: Direction,
    faces: Vec<FontFace>,
    /// At the text's weight.
    fonts: Arc<[Font]>,
    letter_spacing: i64,
    /// How runs are shaped, by the index of the font. A text is shaped word by word and line by line, and to plan takes as long as to shape.
    plans: RefCell<Vec<(usize, ShapePlan)>>,
}

impl std::fmt::Debug for Shaper<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shaper({})", self.text)
    }
}

impl<'t> Shaper<'t> {
    /// # Errors
    /// Names the first character that no font has.
    pub(super) fn new(text: &'t str, language: &str, direction: Direction, style: &TextStyle) -> Result<Self, Misfit> {
        let fonts = style.fonts.iter().map(|face| face.at_weight(style.weight));
        let shaper = Self {
            text,
            language: Language::new(language),
            direction,
            faces: style.fonts.clone(),
            fonts: fonts.collect(),
            letter_spacing: i64::from(style.letter_spacing) * EM / 1000,
            plans: RefCell::default(),
        };
        shaper.font_of_each(text)?;
        Ok(shaper)
    }

    pub(super) fn fonts(&self) -> &Arc<[Font]> {
        &self.fonts
    }

    pub(super) const fn text(&self) -> &'t str {
        self.text
    }

    /// Above and below the baseline, of the first font.
    pub(super) fn extents(&self) -> (i64, i64) {
        let Some(font) = self.fonts.first() else { return (EM, 0) };
        let units = f64::from(font.units_per_em());
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a few sizes")]
        let in_ems = |length: f64| ((length / units).clamp(-4.0, 4.0) * EM as f64).round() as i64;
        match font.metrics().h_line() {
            Some(line) => (in_ems(line.ascender.to_f64()), -in_ems(line.descender.to_f64())),
            None => (EM * 4 / 5, EM / 5),
        }
    }

    /// A line of the text, without the blanks at its end and its soft hyphens, with a hyphen where it ends within a word.
    pub(super) fn line(&self, range: Range<usize>, ending: Ending) -> Result<Line, Misfit> {
        let mut text: String =
            self.text[range].trim_end().chars().filter(|c| *c != SOFT_HYPHEN && *c != '\n').collect();
        if matches!(ending, Ending::Hyphen(_)) {
            text.push(self.hyphen());
        }
        self.shaped(&text)
    }

    /// The advance of a text with its blanks.
    pub(super) fn advance(&self, text: &str) -> Result<i64, Misfit> {
        let text: String = text.chars().filter(|c| *c != SOFT_HYPHEN && *c != '\n').collect();
        Ok(self.shaped(&text)?.advance)
    }

    /// U+2010 where the fonts have it.
    pub(super) fn hyphen(&self) -> char {
        if self.faces.iter().any(|face| face.glyph('\u{2010}').is_some()) { '\u{2010}' } else { '-' }
    }

    fn shaped(&self, text: &str) -> Result<Line, Misfit> {
        let mut line = Line::default();
        if text.is_empty() {
            return Ok(line);
        }
        let fonts = self.font_of_each(text)?;
        let scripts = scripts(text);
        let base = match self.direction {
            Direction::Ltr => Level::ltr(),
            Direction::Rtl => Level::rtl(),
        };
        let bidi = BidiInfo::new(text, Some(base));
        for paragraph in &bidi.paragraphs {
            let (levels, runs) = bidi.visual_runs(paragraph, paragraph.range.clone());
            for run in runs {
                let is_rtl = levels[run.start].is_rtl();
                let mut parts = split(text, run, &fonts, &scripts);
                if is_rtl {
                    parts.reverse();
                }
                for (part, font, script) in parts {
                    self.shape_run(&mut line, &text[part], font, script, is_rtl)?;
                }
            }
        }
        // What follows the last letter is no room of the line.
        if self.letter_spacing > 0 && line.advance > self.letter_spacing {
            line.advance -= self.letter_spacing;
        }
        Ok(line)
    }

    fn shape_run(&self, line: &mut Line, text: &str, font: usize, script: Writing, is_rtl: bool) -> Result<(), Misfit> {
        let set = &self.fonts[font];
        let mut buffer = Buffer::new();
        buffer.push_str(text);
        let direction = if is_rtl { RunDirection::RightToLeft } else { RunDirection::LeftToRight };
        buffer.set_direction(direction);
        let name = PropertyNamesShort::<Writing>::new().get(script).unwrap_or("Zyyy");
        let tag = name.parse::<Script>().ok();
        buffer.set_script(tag);
        buffer.set_language(self.language.clone());
        let spacing = if is_joined(script) { 0 } else { self.letter_spacing };
        let apart: Vec<Feature> = if spacing == 0 {
            Vec::new()
        } else {
            [Tag::new(b"liga"), Tag::new(b"clig")].map(|tag| Feature::new(tag, 0, ..)).into()
        };
        let key = ShapePlanKey::new(set, tag, direction).language(self.language.as_ref()).features(&apart);
        let mut plans = self.plans.borrow_mut();
        let known = plans.iter().position(|(of, plan)| *of == font && key.matches(plan));
        let known = known.unwrap_or_else(|| {
            plans.push((font, ShapePlan::new(set, direction, tag, self.language.as_ref(), &apart)));
            plans.len() - 1
        });
        let options = ShapeOptions::new().features(&apart).plan(Some(&plans[known].1));
        harfrust::shape(&ShaperFont::new(set), &mut buffer, options)
            .map_err(|_| Misfit::Glyph { character: text.chars().next().unwrap_or(' ') })?;
        let units = i64::from(set.units_per_em());
        let in_ems = |length: i32| (i64::from(length) * EM + units / 2).div_euclid(units);
        let infos = buffer.glyph_infos();
        for (at, (info, position)) in infos.iter().zip(buffer.glyph_positions()).enumerate() {
            if info.glyph_id == 0 {
                let character = text[info.cluster as usize..].chars().next().unwrap_or(' ');
                return Err(Misfit::Glyph { character });
            }
            line.glyphs.push(Glyph {
                font,
                id: GlyphId::new(info.glyph_id),
                x: line.advance + in_ems(position.x_offset),
                y: in_ems(position.y_offset),
            });
            line.advance += in_ems(position.x_advance);
            let ends_cluster = infos.get(at + 1).is_none_or(|next| next.cluster != info.cluster);
            if ends_cluster {
                line.advance += spacing;
            }
        }
        Ok(())
    }

    /// The index of the font for each byte at which a character starts. What is drawn with another character stays in its font.
    fn font_of_each(&self, text: &str) -> Result<Vec<usize>, Misfit> {
        let charmaps: Vec<Charmap<'_>> = self.fonts.iter().map(Font::charmap).collect();
        let has = |font: usize, c: char| charmaps[font].map_unicode(c).is_some_and(|glyph| glyph.to_u32() != 0);
        let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
        let scripts = CodePointMapData::<Writing>::new();
        let emoji = CodePointSetData::new::<EmojiPresentation>();
        let mut fonts = vec![0; text.len()];
        let mut current = 0;
        let mut characters = text.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            let is_ignored = ignorable.contains(c) || c == '\n';
            let stays = scripts.get(c) == Writing::Inherited || c.is_whitespace();
            if !(is_ignored || (stays && has(current, c))) {
                // A no-break space is drawn as any space, where a font has no other.
                let asked = if c == '\u{a0}' || c == '\u{202f}' { ' ' } else { c };
                let found = (0..charmaps.len()).find(|font| has(*font, c) || has(*font, asked));
                current = found.ok_or(Misfit::Glyph { character: c })?;
                let is_emoji = emoji.contains(c) || characters.peek().is_some_and(|(_, next)| *next == EMOJI_SELECTOR);
                let is_drawn = || self.faces[current].glyph(c).is_some_and(|glyph| self.faces[current].is_drawn(glyph));
                if is_emoji && !is_drawn() {
                    return Err(Misfit::Glyph { character: c });
                }
            }
            fonts[at] = current;
        }
        Ok(fonts)
    }
}

/// Scripts whose letters join: nothing is put between them.
fn is_joined(script: Writing) -> bool {
    [Writing::Arabic, Writing::Syriac, Writing::Mongolian, Writing::Nko, Writing::Devanagari, Writing::Bengali]
        .contains(&script)
}

/// The script for each byte at which a character starts. What belongs to every script is written as what stands before it.
fn scripts(text: &str) -> Vec<Writing> {
    let data = CodePointMapData::<Writing>::new();
    let is_of_every = |script: Writing| script == Writing::Common || script == Writing::Inherited;
    let first = text.chars().map(|c| data.get(c)).find(|script| !is_of_every(*script));
    let mut current = first.unwrap_or(Writing::Common);
    let mut scripts = vec![current; text.len()];
    for (at, c) in text.char_indices() {
        let own = data.get(c);
        if !is_of_every(own) {
            current = own;
        }
        scripts[at] = current;
    }
    scripts
}

/// The parts of a run that have one font and one script, in order.
fn split(text: &str, run: Range<usize>, fonts: &[usize], scripts: &[Writing]) -> Vec<(Range<usize>, usize, Writing)> {
    let mut parts: Vec<(Range<usize>, usize, Writing)> = Vec::new();
    for (at, c) in text[run.clone()].char_indices() {
        let at = run.start + at;
        let end = at + c.len_utf8();
        match parts.last_mut() {
            Some((range, font, script)) if (*font, *script) == (fonts[at], scripts[at]) => range.end = end,
            _ => parts.push((at..end, fonts[at], scripts[at])),
        }
    }
    parts
}
