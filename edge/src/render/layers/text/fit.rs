//! How many lines, which words in each, and how large: the largest letters that fit, then the fewest lines, then the most even.

use std::ops::Range;

use super::breaks::{Ending, HyphenFrom, Piece};
use super::shape::{EM, Shaper};
use super::{LETTER_PX_MAX, Misfit, Room, TextStyle};
use crate::render::layers::place::Length;

/// Letters are so much larger, in percent, before a word is divided for it.
const HYPHEN_GAIN_PERCENT: i64 = 125;
/// Weighs in the evenness of lines as if a hyphenated one were an eighth of a size longer.
const HYPHEN_COST: i64 = EM / 8;

/// What a text's room and style allow; sizes in 64ths of a pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    room: Room,
    pub(super) size_min_64: i64,
    size_max_64: i64,
    lines_max: usize,
    line_height_percent: i64,
}

impl Bounds {
    pub(super) fn new(style: &TextStyle, room: Room) -> Self {
        let size_64 = |length: Length| {
            let share = match length {
                Length::Share(share) => room.picture_height * 64 * i64::from(share) / 10_000,
                Length::Px(px) => i64::from(px) * 64,
            };
            share.clamp(64, LETTER_PX_MAX * 64)
        };
        let size_max_64 = size_64(style.size_max);
        Self {
            room,
            size_min_64: size_64(style.size_min).min(size_max_64),
            size_max_64,
            lines_max: usize::from(style.lines_max),
            line_height_percent: i64::from(style.line_height_percent),
        }
    }

    /// From one line to the next, in 64ths of a pixel.
    pub(super) fn line_height_64(&self, size_64: i64) -> i64 {
        (size_64 * self.line_height_percent).div_euclid(100).max(64)
    }

    /// The largest size at which a line of that length fits.
    pub(super) fn size_for(&self, widest: i64) -> i64 {
        (self.room.width * 64 * EM / widest.max(1)).min(self.size_max_64)
    }

    /// The largest size at which so many lines fit.
    fn size_for_lines(&self, lines: usize) -> i64 {
        let each_64 = self.room.height * 64 / lines as i64;
        each_64 * 100 / self.line_height_percent.max(1)
    }
}

/// A line of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LineOf {
    pub(super) text: Range<usize>,
    pub(super) ending: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) size_64: i64,
    pub(super) lines: Vec<LineOf>,
}

/// The pieces of a text with their lengths.
#[derive(Debug)]
pub(super) struct Measures {
    pieces: Vec<Piece>,
    /// The advance of all pieces before each, blanks included.
    before: Vec<i64>,
    /// Of each piece without the blanks behind it.
    trimmed: Vec<i64>,
    hyphen: i64,
}

/// Whether words are divided by the language's patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dividing {
    AuthorsOnly,
    Patterns,
}

impl Measures {
    pub(super) fn new(shaper: &Shaper<'_>, pieces: Vec<Piece>) -> Result<Self, Misfit> {
        let (mut before, mut trimmed, mut sum) = (vec![0], Vec::new(), 0);
        for piece in &pieces {
            let text = &shaper.text()[piece.text.clone()];
            let whole = shaper.advance(text)?;
            let end = text.trim_end();
            trimmed.push(if end.len() == text.len() { whole } else { shaper.advance(end)? });
            sum += whole;
            before.push(sum);
        }
        let has_hyphens = pieces.iter().any(|piece| matches!(piece.ending, Ending::Hyphen(_)));
        let hyphen = if has_hyphens { shaper.advance(shaper.hyphen().encode_utf8(&mut [0; 4]))? } else { 0 };
        Ok(Self { pieces, before, trimmed, hyphen })
    }

    /// The largest letters; of equal ones the fewest lines; of equally many the most even ones.
    pub(super) fn best(&self, bounds: &Bounds) -> Option<Setting> {
        let whole = self.largest(bounds, Dividing::AuthorsOnly);
        let divided = self.largest(bounds, Dividing::Patterns);
        let (dividing, (size_64, lines)) = match (whole, divided) {
            (Some(whole), Some(divided)) if divided.0 * 100 >= whole.0 * HYPHEN_GAIN_PERCENT => {
                (Dividing::Patterns, divided)
            }
            (Some(whole), _) => (Dividing::AuthorsOnly, whole),
            (None, Some(divided)) => (Dividing::Patterns, divided),
            (None, None) => return None,
        };
        let width_max = bounds.room.width * 64 * EM / size_64;
        let ends = self.most_even(lines, width_max, dividing)?;
        let mut start = 0;
        let lines = ends.into_iter().map(|end| {
            let line = LineOf {
                text: self.pieces[start].text.start..self.pieces[end - 1].text.end,
                ending: self.pieces[end - 1].ending,
            };
            start = end;
            line
        });
        Some(Setting { size_64, lines: lines.collect() })
    }

    /// The largest size, and with how many lines.
    fn largest(&self, bounds: &Bounds, dividing: Dividing) -> Option<(i64, usize)> {
        let mut best: Option<(i64, usize)> = None;
        let mut narrowest = self.first_lines(dividing);
        for lines in 1..=bounds.lines_max {
            if let Some(widest) = narrowest.last().copied().flatten() {
                let size_64 = bounds.size_for(widest).min(bounds.size_for_lines(lines));
                if size_64 >= bounds.size_min_64 && best.is_none_or(|(known, _)| size_64 > known) {
                    best = Some((size_64, lines));
                }
            }
            narrowest = self.with_another_line(&narrowest, dividing);
        }
        best
    }

    /// For every number of pieces the length of one line of them.
    fn first_lines(&self, dividing: Dividing) -> Vec<Option<i64>> {
        (0..=self.pieces.len()).map(|end| if end == 0 { None } else { self.length(0, end, dividing) }).collect()
    }

    /// For every number of pieces the least length of the longest line, with one line more.
    fn with_another_line(&self, narrowest: &[Option<i64>], dividing: Dividing) -> Vec<Option<i64>> {
        let ends = 0..=self.pieces.len();
        let least = ends.map(|end| {
            let starts = (1..end).rev();
            starts.filter_map(|start| Some(narrowest[start]?.max(self.length(start, end, dividing)?))).min()
        });
        least.collect()
    }

    /// The ends of so many lines, none longer than `width_max`, with the least sum of squares: the most even ones.
    fn most_even(&self, lines: usize, width_max: i64, dividing: Dividing) -> Option<Vec<usize>> {
        let cost = |start: usize, end: usize| {
            let length = self.length(start, end, dividing).filter(|length| *length <= width_max)?;
            let is_divided = matches!(self.pieces[end - 1].ending, Ending::Hyphen(_)) && end < self.pieces.len();
            let length = i128::from(length + if is_divided { HYPHEN_COST } else { 0 });
            Some(length * length)
        };
        let count = self.pieces.len();
        let mut costs: Vec<Option<i128>> = (0..=count).map(|end| if end == 0 { None } else { cost(0, end) }).collect();
        let mut starts: Vec<Vec<usize>> = vec![vec![0; count + 1]];
        for _ in 1..lines {
            let best = |end: usize| {
                let sums = (1..end).filter_map(|start| Some((costs[start]? + cost(start, end)?, start)));
                sums.min()
            };
            let row: Vec<Option<(i128, usize)>> = (0..=count).map(best).collect();
            costs = row.iter().map(|found| found.map(|(sum, _)| sum)).collect();
            starts.push(row.iter().map(|found| found.map_or(0, |(_, start)| start)).collect());
        }
        costs[count]?;
        let mut ends = vec![count];
        for row in starts.iter().skip(1).rev() {
            let end = ends.last().copied().unwrap_or(count);
            ends.push(row[end]);
        }
        ends.reverse();
        Some(ends)
    }

    /// The length of a line of these pieces; `None` where there can be no such line.
    fn length(&self, start: usize, end: usize, dividing: Dividing) -> Option<i64> {
        let last = &self.pieces[end - 1];
        let is_by_pattern = |piece: &Piece| piece.ending == Ending::Hyphen(HyphenFrom::Patterns);
        if dividing == Dividing::AuthorsOnly && is_by_pattern(last) {
            return None;
        }
        if self.pieces[start..end - 1].iter().any(|piece| piece.ending == Ending::Forced) {
            return None;
        }
        let length = self.before[end - 1] - self.before[start] + self.trimmed[end - 1];
        let is_divided = matches!(last.ending, Ending::Hyphen(_)) && end < self.pieces.len();
        Some(length + if is_divided { self.hyphen } else { 0 })
    }
}
