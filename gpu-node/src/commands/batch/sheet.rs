//! `contact-sheet.png`: every picture of a batch, small, with its name, seed and recipe id below it.
//!
//! Recipes stand below each other and seeds side by side, as far as a line has room. A line of the sheet is put together and
//! written at a time, so memory does not grow with the batch. Letters: `font8x8`, eight by eight dots each.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bildkante_shared::durable::{self, Durability};
use font8x8::legacy::BASIC_LEGACY;

use super::ledger::Ledger;
use super::plan::{Plan, Planned};
use crate::diffusion::picture::Picture;

const FILE: &str = "contact-sheet.png";
/// Pictures side by side.
const COLUMNS_MAX: usize = 16;
const GAP_PX: u32 = 8;
/// A letter's side, and that of its line.
const LETTER_PX: u32 = 8;
const LINE_PX: u32 = 12;
const LABEL_PX: u32 = 2 * LINE_PX;
/// A recipe id takes 26 letters.
const LABEL_LETTERS_MIN: u32 = 26;
const PAPER: [u8; 3] = [255; 3];
const INK: [u8; 3] = [32; 3];

/// Writes the sheet of what was drawn and returns its path; a picture that is missing leaves its place empty.
///
/// # Errors
/// When a picture cannot be read or the sheet not be written.
pub(super) fn write(out: &Path, plan: &Plan, ledger: &Ledger, cell_px: u32) -> anyhow::Result<PathBuf> {
    let columns = plan.seeds.min(COLUMNS_MAX);
    let lines: Vec<&[Planned]> = plan.pictures.chunks(plan.seeds).flat_map(|recipe| recipe.chunks(columns)).collect();
    let blank = Strip::blank(u32::try_from(columns)?, cell_px);
    let height_px = blank.height_px * u32::try_from(lines.len())?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, blank.width_px, height_px);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    for line in lines {
        stream.write_all(&strip_of(line, &blank, ledger, out)?.rgb)?;
    }
    stream.finish()?;
    writer.finish()?;
    let path = out.join(FILE);
    durable::write(&path, &[&bytes], Durability::Unsynced)?;
    Ok(path)
}

fn strip_of(line: &[Planned], blank: &Strip, ledger: &Ledger, out: &Path) -> anyhow::Result<Strip> {
    let mut strip = blank.clone();
    for (column, picture) in (0_u32..).zip(line) {
        let left = GAP_PX + column * (blank.place_px() + GAP_PX);
        if ledger.entry(picture).is_some() {
            let path = out.join(picture.file());
            let png = fs::read(&path).with_context(|| path.display().to_string())?;
            let decoded = Picture::decode(&png).with_context(|| path.display().to_string())?;
            strip.put(&fitted(&decoded, blank.cell_px), (left, GAP_PX));
        }
        let top = GAP_PX + blank.cell_px + GAP_PX / 2;
        strip.letter(&label(picture, blank.place_px()), (left, top));
        strip.letter(&picture.recipe.id().to_string(), (left, top + LINE_PX));
    }
    Ok(strip)
}

/// Name and seed; the name is cut where both have no room.
fn label(picture: &Planned, place_px: u32) -> String {
    let seed = format!(" seed {}", picture.recipe.seed);
    let room = (place_px / LETTER_PX) as usize;
    let name: String = picture.name.chars().take(room.saturating_sub(seed.len())).collect();
    name + &seed
}

/// The picture with its longer side at most `cell_px`; a smaller one stays as it is.
fn fitted(picture: &Picture, cell_px: u32) -> Picture {
    let (width, height) = picture.size_px();
    let longer = width.max(height);
    if longer <= cell_px {
        return picture.clone();
    }
    let scaled = |px: u32| (px * cell_px / longer).max(1);
    picture.resized((scaled(width), scaled(height)))
}

/// A line of pictures and what is said of them.
#[derive(Clone)]
struct Strip {
    cell_px: u32,
    width_px: u32,
    height_px: u32,
    rgb: Vec<u8>,
}

impl Strip {
    fn blank(columns: u32, cell_px: u32) -> Self {
        let place_px = cell_px.max(LABEL_LETTERS_MIN * LETTER_PX);
        let width_px = GAP_PX + columns * (place_px + GAP_PX);
        let height_px = GAP_PX + cell_px + GAP_PX / 2 + LABEL_PX;
        let rgb = PAPER.repeat(width_px as usize * height_px as usize);
        Self { cell_px, width_px, height_px, rgb }
    }

    /// Width of a picture's place.
    fn place_px(&self) -> u32 {
        self.cell_px.max(LABEL_LETTERS_MIN * LETTER_PX)
    }

    fn put(&mut self, picture: &Picture, (left, top): (u32, u32)) {
        let (width, _) = picture.size_px();
        let bytes = width as usize * 3;
        for (y, row) in (top..).zip(picture.rgb().chunks_exact(bytes)) {
            let at = self.at(left, y);
            self.rgb[at..at + bytes].copy_from_slice(row);
        }
    }

    /// Letters that the font has not are left out.
    fn letter(&mut self, text: &str, (left, top): (u32, u32)) {
        for (column, letter) in (0_u32..).zip(text.chars()) {
            let Some(dots) = BASIC_LEGACY.get(letter as usize) else { continue };
            for (y, row) in (top..).zip(dots) {
                for x in (0..LETTER_PX).filter(|x| row >> x & 1 == 1) {
                    let at = self.at(left + column * LETTER_PX + x, y);
                    self.rgb[at..at + 3].copy_from_slice(&INK);
                }
            }
        }
    }

    const fn at(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width_px as usize + x as usize) * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_pictures_stand_where_they_belong() {
        let mut strip = Strip::blank(2, 64);
        assert_eq!((strip.place_px(), strip.width_px), (208, 8 + 2 * 216), "an id is wider than the picture");
        strip.put(&Picture::flat((64, 32), 7), (8, 8));
        assert_eq!(strip.rgb[strip.at(8, 8)], 7);
        assert_eq!(strip.rgb[strip.at(71, 39)], 7);
        assert_eq!((strip.rgb[strip.at(72, 39)], strip.rgb[strip.at(71, 40)]), (255, 255));
        strip.letter("|", (100, 76));
        let inked = |x: u32| (76..84).filter(|y| strip.rgb[strip.at(x, *y)] == INK[0]).count();
        assert!((100..108).any(|x| inked(x) >= 6), "a stroke from top to bottom");
        assert!((108..116).all(|x| inked(x) == 0));
    }

    #[test]
    fn a_larger_picture_is_made_to_fit_and_a_smaller_one_stays() {
        assert_eq!(fitted(&Picture::flat((512, 256), 1), 128).size_px(), (128, 64));
        assert_eq!(fitted(&Picture::flat((100, 50), 1), 128).size_px(), (100, 50));
        assert_eq!(fitted(&Picture::flat((4096, 16), 1), 64).size_px(), (64, 1));
    }
}
