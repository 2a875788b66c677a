//! Where a picture will be laid on a master, as a picture for the model that draws the master: a mask, or a map of depth.
//!
//! It has the master's size, and shows the place that the slot's own cut gives the layer there. Invariants: everything that decides a
//! pixel is whole numbers or arithmetic that every processor rounds alike, but for what a drawing (SVG) and a filter round in single
//! steps; [`Silhouette`] names all of it, so equal silhouettes of equal files are equal pictures.

use std::collections::VecDeque;
use std::io::Cursor;

use image::{ImageFormat, ImageReader, Limits};
use png::{BitDepth, ColorType, Compression, Encoder};
use serde::Serialize;

use super::asset::{AssetError, ImageAsset};
use super::blur;
use super::patch::Mask;
use super::place::{Direction, Frame, Insets, Length, Placing, share_of};
use crate::render::CropBox;

/// How far a place may be grown, and how softly it may end, in ten-thousandths of the cut's shorter side.
pub const REACH_MAX: u32 = 2500;
/// Steps of 255 by which two processors may differ in a picture that is the same.
const STEPS_ALIKE: u8 = 2;
/// What the decoder of such a picture may allocate: a master's area, and some rows.
const DECODER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is white.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum White {
    /// Where the picture will lie.
    #[default]
    Place,
    /// Everything else.
    Surroundings,
}

impl White {
    pub const ALL: [Self; 2] = [Self::Place, Self::Surroundings];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Surroundings => "surroundings",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silhouette {
    pub master_px: (u32, u32),
    /// Of the master, in the slot's own cut: left, top, width and height.
    pub cut_px: [u32; 4],
    /// Top, right, bottom and left, in ten-thousandths of the cut.
    pub safe_area: [u32; 4],
    /// The place is that in all of these together.
    pub directions: Vec<Direction>,
    /// Its pixels are the master's.
    pub placing: Placing,
    /// In ten-thousandths of the cut's shorter side, as is `softness`.
    pub grow: u32,
    pub softness: u32,
    pub white: White,
}

/// A grey picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greys {
    pub width_px: u32,
    pub height_px: u32,
    pub greys: Vec<u8>,
}

impl Silhouette {
    /// The place of nothing is empty.
    ///
    /// # Errors
    /// When the file cannot be decoded.
    pub fn drawn(&self, asset: Option<&ImageAsset>) -> Result<Greys, AssetError> {
        let (width_px, height_px) = self.master_px;
        let mut mask = Mask::empty(width_px, height_px);
        if let Some(asset) = asset {
            for direction in &self.directions {
                self.unite(&mut mask, asset, *direction)?;
            }
            let shorter = i64::from(self.cut_px[2].min(self.cut_px[3]));
            let reach = |share: u32| share_of(shorter, i64::from(share.min(REACH_MAX)));
            grow(&mut mask, usize::try_from(reach(self.grow)).unwrap_or(0));
            soften(&mut mask, usize::try_from(reach(self.softness)).unwrap_or(0));
        }
        let greys = mask.coverage.iter().map(|&part| match self.white {
            White::Place => grey(part),
            White::Surroundings => 255 - grey(part),
        });
        Ok(Greys { width_px, height_px, greys: greys.collect() })
    }

    fn unite(&self, mask: &mut Mask, asset: &ImageAsset, direction: Direction) -> Result<(), AssetError> {
        let [left, top, width, height] = self.cut_px;
        let [above, right, below, before] = self.safe_area;
        let (start, end) = if direction == Direction::Rtl { (right, before) } else { (before, right) };
        let frame = Frame::new((width, height), Insets { top: above, end, bottom: below, start }, direction);
        let (width_px, height_px) = asset.fitted(frame.box_of_picture(&self.placing));
        let own = asset.patch(width_px, height_px)?.mask();
        let area = frame.place(&self.placing, (i64::from(width_px), i64::from(height_px)));
        // What the cut does not show is no place.
        let mut seen = Mask::empty(width, height);
        seen.unite(&own, (area.left, area.top));
        mask.unite(&seen, (i64::from(left), i64::from(top)));
        Ok(())
    }

    /// The part of a master that a cut shows.
    #[must_use]
    pub const fn cut_of(cut: CropBox) -> [u32; 4] {
        [cut.left_px, cut.top_px, cut.width_px, cut.height_px]
    }
}

impl Placing {
    /// The same where a pixel becomes `wide` of `of` pixels.
    #[must_use]
    pub fn enlarged(self, wide: u32, of: u32) -> Self {
        let length = |length: Length| length.enlarged(wide, of);
        let extent = |extent: super::Extent| super::Extent {
            length: length(extent.length),
            min: extent.min.map(length),
            max: extent.max.map(length),
        };
        Self {
            anchor: self.anchor,
            offset: self.offset.map(length),
            width: self.width.map(extent),
            height: self.height.map(extent),
        }
    }
}

impl Greys {
    /// # Errors
    /// When the encoder fails.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, self.width_px, self.height_px);
        encoder.set_color(ColorType::Grayscale);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
        writer.write_image_data(&self.greys).map_err(|error| error.to_string())?;
        writer.finish().map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// Whether a file shows this, whichever processor and which version of the encoder wrote it.
    #[must_use]
    pub fn is_shown_by(&self, file: &[u8]) -> bool {
        let mut reader = ImageReader::with_format(Cursor::new(file), ImageFormat::Png);
        let mut limits = Limits::default();
        limits.max_alloc = Some(DECODER_BYTES_MAX);
        limits.max_image_width = Some(self.width_px);
        limits.max_image_height = Some(self.height_px);
        reader.limits(limits);
        let Ok(image::DynamicImage::ImageLuma8(found)) = reader.decode() else { return false };
        found.dimensions() == (self.width_px, self.height_px)
            && found.as_raw().iter().zip(&self.greys).all(|(one, other)| one.abs_diff(*other) <= STEPS_ALIKE)
    }
}

/// 16 bits to 8, rounded.
fn grey(part: u16) -> u8 {
    u8::try_from((u32::from(part) * 255 + 32_767) / 65_535).unwrap_or(u8::MAX)
}

/// Each pixel becomes the densest of a square around it.
fn grow(mask: &mut Mask, radius: usize) {
    let (width, height) = (mask.width_px as usize, mask.height_px as usize);
    if radius == 0 {
        return;
    }
    let mut line = Line::default();
    for row in mask.coverage.chunks_exact_mut(width) {
        line.from.clear();
        line.from.extend_from_slice(row);
        row.copy_from_slice(line.densest(radius));
    }
    for x in 0..width {
        line.from.clear();
        line.from.extend((0..height).map(|y| mask.coverage[y * width + x]));
        for (y, part) in line.densest(radius).iter().enumerate() {
            mask.coverage[y * width + x] = *part;
        }
    }
}

/// A row or a column, and what its windows need.
#[derive(Default)]
struct Line {
    from: Vec<u16>,
    to: Vec<u16>,
    /// Places in a window whose samples descend: the first is the densest.
    window: VecDeque<usize>,
}

impl Line {
    fn densest(&mut self, radius: usize) -> &[u16] {
        let Self { from, to, window } = self;
        to.clear();
        window.clear();
        for entering in 0..from.len() + radius {
            if let Some(&part) = from.get(entering) {
                while window.back().is_some_and(|last| from[*last] <= part) {
                    window.pop_back();
                }
                window.push_back(entering);
            }
            let Some(middle) = entering.checked_sub(radius) else { continue };
            while window.front().is_some_and(|first| first + radius < middle) {
                window.pop_front();
            }
            to.push(window.front().map_or(0, |first| from[*first]));
        }
        to
    }
}

fn soften(mask: &mut Mask, fade: usize) {
    let mut samples: Vec<[u16; 1]> = mask.coverage.iter().map(|part| [*part]).collect();
    blur::soften(&mut samples, mask.width_px as usize, mask.height_px as usize, fade);
    mask.coverage = samples.into_flattened();
}

#[cfg(test)]
mod tests {
    use super::super::{Along, Extent, LayerAnchor};
    use super::*;
    use crate::decoding::DecoderCommand;

    /// A picture of 4 × 2 pixels that is empty in its right half.
    fn asset() -> ImageAsset {
        use image::ImageEncoder as _;
        let mut file = Vec::new();
        let row = [[9, 9, 9, 255], [9, 9, 9, 255], [9, 9, 9, 0], [9, 9, 9, 0]].concat();
        let encoder = image::codecs::png::PngEncoder::new(&mut file);
        encoder.write_image(&row.repeat(2), 4, 2, image::ExtendedColorType::Rgba8).expect("a small picture");
        ImageAsset::read(file, &DecoderCommand::default()).expect("an asset")
    }

    fn at(anchor: LayerAnchor, directions: &[Direction]) -> Silhouette {
        let width = Some(Extent::of(Length::Px(4)));
        Silhouette {
            master_px: (20, 12),
            cut_px: [2, 1, 16, 10],
            safe_area: [0; 4],
            directions: directions.to_vec(),
            placing: Placing { width, ..Placing::at(anchor) },
            grow: 0,
            softness: 0,
            white: White::Place,
        }
    }

    /// Left, top, right and bottom of what is white; the number of white pixels.
    fn white(greys: &Greys) -> ([u32; 4], usize) {
        let lit: Vec<u32> = (0..).zip(&greys.greys).filter(|(_, grey)| **grey == 255).map(|(at, _)| at).collect();
        let (xs, ys) = (lit.iter().map(|at| at % greys.width_px), lit.iter().map(|at| at / greys.width_px));
        let bounds = [xs.clone().min(), ys.clone().min(), xs.max(), ys.max()].map(|side| side.unwrap_or(99));
        (bounds, lit.len())
    }

    const BOTTOM_END: LayerAnchor = LayerAnchor { x: Along::End, y: Along::End };

    #[test]
    fn the_alpha_of_a_picture_lies_where_the_cut_lays_it() {
        let drawn = at(BOTTOM_END, &[Direction::Ltr]).drawn(Some(&asset())).expect("drawn");
        assert_eq!(white(&drawn), ([14, 9, 15, 10], 4), "its left half, at the end of the cut, not of the master");
        let both = at(BOTTOM_END, &[Direction::Ltr, Direction::Rtl]).drawn(Some(&asset())).expect("drawn");
        assert_eq!(white(&both), ([2, 9, 15, 10], 8), "the places of both directions of writing");
        let inset = Silhouette { safe_area: [0, 2500, 1000, 0], ..at(BOTTOM_END, &[Direction::Ltr]) };
        assert_eq!(white(&inset.drawn(Some(&asset())).expect("drawn")), ([10, 8, 11, 9], 4));
        let mirrored = Silhouette { directions: vec![Direction::Rtl], ..inset };
        assert_eq!(white(&mirrored.drawn(Some(&asset())).expect("drawn")), ([2, 8, 3, 9], 4), "insets stay");
        assert_eq!(white(&at(BOTTOM_END, &[Direction::Ltr]).drawn(None).expect("drawn")).1, 0);
    }

    #[test]
    fn a_place_grows_on_every_side_ends_softly_and_may_be_black() {
        let plain = at(LayerAnchor::default(), &[Direction::Ltr]);
        let (bounds, count) = white(&plain.drawn(Some(&asset())).expect("drawn"));
        assert_eq!((bounds, count), ([8, 5, 9, 6], 4));
        let grown = Silhouette { grow: 2000, ..plain.clone() }.drawn(Some(&asset())).expect("drawn");
        assert_eq!(white(&grown), ([6, 3, 11, 8], 36), "2 of 10 pixels");
        let soft = Silhouette { grow: 2000, softness: 2000, ..plain.clone() }.drawn(Some(&asset())).expect("drawn");
        assert!(white(&soft).1 < 36 && soft.greys.iter().any(|grey| (1..255).contains(grey)));
        let other = Silhouette { white: White::Surroundings, ..plain }.drawn(Some(&asset())).expect("drawn");
        assert_eq!(white(&other).1, 20 * 12 - 4);
    }

    #[test]
    fn a_file_shows_a_picture_up_to_the_steps_in_which_processors_differ() {
        let greys = at(BOTTOM_END, &[Direction::Ltr]).drawn(Some(&asset())).expect("drawn");
        let file = greys.to_png().expect("encoded");
        assert!(greys.is_shown_by(&file));
        let stepped =
            |by: u8| Greys { greys: greys.greys.iter().map(|it| it.saturating_add(by)).collect(), ..greys.clone() };
        assert!(stepped(2).is_shown_by(&file) && !stepped(3).is_shown_by(&file));
        let turned = Greys { width_px: 12, height_px: 20, ..greys.clone() };
        assert!(!turned.is_shown_by(&file) && !greys.is_shown_by(b"no picture") && !greys.is_shown_by(&file[..40]));
    }

    #[test]
    fn pixels_of_a_rendition_become_those_of_the_master() {
        let placing = Placing {
            offset: [Length::Px(-3), Length::Share(100)],
            width: Some(Extent { length: Length::Px(40), min: Some(Length::Px(5)), max: None }),
            ..Placing::at(BOTTOM_END)
        };
        let enlarged = placing.enlarged(1024, 640);
        assert_eq!(enlarged.offset, [Length::Px(-5), Length::Share(100)]);
        let width = enlarged.width.expect("a width");
        assert_eq!((width.length, width.min), (Length::Px(64), Some(Length::Px(8))));
    }
}
