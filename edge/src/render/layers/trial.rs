//! Trying a set without drawing it: whether its texts fit, have all their glyphs, and leave the picture free.
//!
//! A trial remembers what it has laid out, so that texts which thousands of variants share are set once per room. A text is measured
//! once for all the rooms that its variant has.

use std::collections::HashMap;

use super::compose::{room, share_of};
use super::place::Frame;
use super::text::{Measured, Misfit, Room};
use super::{Fallback, LayerKind, LayerSet, TextLayer, Words};

/// What is wrong with a set at some size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerFault {
    #[error("text `{layer}`: “{text}”: {misfit}")]
    Text { layer: String, text: String, misfit: Misfit },
    #[error("texts cover {share_percent} % of the picture, at most {max_percent} % are allowed")]
    TextShare { share_percent: u32, max_percent: u32 },
}

/// A text in a style: the style by its place in memory is not enough, because variants have their own copies.
type Key = ([u8; 32], Room);

/// Most outcomes that a trial remembers: some tens of megabytes.
const KNOWN_MAX: usize = 100_000;

/// The size of a text that is set, or why it cannot be.
type Outcome = Result<(i64, i64), Misfit>;

/// Outcomes of layouts that were tried.
#[derive(Debug, Default)]
pub struct Trial {
    known: HashMap<Key, Outcome>,
    /// Where the sets at hand are laid.
    frames: Vec<Frame>,
}

impl Trial {
    /// Says on which pictures the sets of one variant are tried next.
    pub fn expect<'s>(&mut self, sets: impl Iterator<Item = (&'s LayerSet, (u32, u32))>) {
        self.frames = sets.map(|(set, size_px)| Frame::new(size_px, set.insets, set.direction)).collect();
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
    }

    /// Everything wrong with a set on a picture of that size. `text_share_max` is in ten-thousandths.
    pub fn faults(&mut self, set: &LayerSet, size_px: (u32, u32), text_share_max: Option<u32>) -> Vec<LayerFault> {
        let frame = Frame::new(size_px, set.insets, set.direction);
        let (mut faults, mut share) = (Vec::new(), 0);
        for layer in &set.layers {
            let LayerKind::Text(text) = &layer.kind else { continue };
            let mut fault = |words: &Words, misfit| {
                faults.push(LayerFault::Text { layer: layer.name.clone(), text: words.as_str().to_owned(), misfit });
            };
            let covers = |size| share_of(frame.place(&text.placing, size), size_px.0, size_px.1);
            let can_be_short = text.fallbacks.contains(&Fallback::Shorter);
            // Which of both is drawn depends on the picture; the short one may be the larger, because its letters are.
            let mut largest = 0;
            match self.size(text, &text.words, set, &frame) {
                Ok(size) => largest = covers(size),
                // The slot says what is done about a text that is too long; a glyph is missing for good.
                Err(Misfit::Room { .. }) if can_be_short => {}
                Err(misfit) => fault(&text.words, misfit),
            }
            if let Some(short) = &text.short {
                match self.size(text, short, set, &frame) {
                    Ok(size) if can_be_short => largest = largest.max(covers(size)),
                    Ok(_) => {}
                    Err(misfit) => fault(short, misfit),
                }
            }
            share += largest;
        }
        if let Some(max) = text_share_max.filter(|max| share > *max) {
            faults.push(LayerFault::TextShare { share_percent: share.div_ceil(100), max_percent: max / 100 });
        }
        faults
    }

    fn size(&mut self, text: &TextLayer, words: &Words, set: &LayerSet, frame: &Frame) -> Outcome {
        let (key, room) = (text_key(text, words, set), room(&text.placing, frame));
        if let Some(known) = self.known.get(&(key, room)) {
            return known.clone();
        }
        let measured = Measured::new(words, &set.language, set.direction, &text.style);
        let set_in = |room: Room| -> Outcome {
            let typeset = measured.as_ref().map_err(Clone::clone)?.set(&text.style, room)?;
            Ok((typeset.width, typeset.height))
        };
        for room in self.frames.iter().map(|frame| self::room(&text.placing, frame)) {
            self.known.entry((key, room)).or_insert_with(|| set_in(room));
        }
        self.known.entry((key, room)).or_insert_with(|| set_in(room)).clone()
    }
}

fn text_key(text: &TextLayer, words: &Words, set: &LayerSet) -> [u8; 32] {
    let told = serde_json::to_vec(&(&text.style, words, &set.language, set.direction)).unwrap_or_default();
    *blake3::hash(&told).as_bytes()
}
