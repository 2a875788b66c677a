//! AVIF: what a file says of its picture, and the picture itself from its coded frames.
//!
//! [`AvifHead`] reads boxes alone and belongs into any process; [`decode`] belongs into one that may die of the frames. What the
//! second gives for colours is what the first promises, or an error.

use std::borrow::Cow;

use bildkante_av1::{Frame, Layout, Threads};
use image::{ColorType, DynamicImage};

use super::av1::Canvas;
use super::container::{Container, Depth, Straightness, Tiles};
use super::turn::Turn;
use super::{Answer, Coding, DecodeFault, check_size};
use crate::bmff::BmffError;

/// A picture before its frames are decoded.
#[derive(Debug)]
pub(crate) struct Still<'a> {
    colours: Tiles<'a>,
    transparency: Option<(Tiles<'a>, Straightness)>,
    /// Before it is turned; a picture that is no grid and does not say has that of its frame.
    size_px: Option<(u32, u32)>,
    /// Of each tile of a grid; it may be larger than the whole.
    tile_px: Option<(u32, u32)>,
    coding: Option<Coding>,
    profile: Option<&'a [u8]>,
    depth: Option<Depth>,
    turns: Vec<Turn>,
}

impl<'a> Still<'a> {
    /// Reads the container; no frame is looked into. Transparency is part of the colours, not of the lightness.
    pub(crate) fn read(file: &'a [u8], answer: Answer) -> Result<Self, BmffError> {
        let container = Container::read(file)?;
        let properties = container.of_picture()?;
        let colours = container.tiles(container.primary)?;
        let found = if answer == Answer::Colours { container.transparency()? } else { None };
        let transparency = match found {
            Some((id, straightness)) => Some((container.tiles(id)?, straightness)),
            None => None,
        };
        Ok(Self {
            size_px: colours.grid_px.or(properties.size_px),
            tile_px: properties.tile_px,
            coding: properties.coding,
            profile: properties.profile,
            depth: properties.depth,
            turns: properties.turns,
            colours,
            transparency,
        })
    }

    fn shown_px(&self) -> Option<(u32, u32)> {
        self.size_px.map(|size_px| self.turns.iter().fold(size_px, |size_px, turn| turn.sized(size_px)))
    }
}

/// What a file says of its picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AvifHead {
    /// As it is shown: cut and turned.
    pub(crate) size_px: (u32, u32),
    /// Most pixels that are decoded at a time.
    pub(crate) area_px: u64,
    pub(crate) has_transparency: bool,
    pub(crate) depth: Option<Depth>,
    /// Where it is not left to the frames.
    pub(crate) coding: Option<Coding>,
    /// ICC; it goes before the coding.
    pub(crate) profile: Option<Vec<u8>>,
}

impl AvifHead {
    /// Refuses a picture over `pixels_max`, an animation, and what is not decoded here as far as boxes say.
    pub(crate) fn read(file: &[u8], pixels_max: u64) -> Result<Self, DecodeFault> {
        if file.get(8..12) == Some(b"avis") {
            return Err(DecodeFault::unsupported("several pictures in one file (an animation)"));
        }
        let still = Still::read(file, Answer::Colours)?;
        let unsaid = || DecodeFault::damaged("it does not say its size");
        let (lying_px, size_px) = still.size_px.zip(still.shown_px()).ok_or_else(unsaid)?;
        let mut area_px = 0;
        for (width_px, height_px) in std::iter::once(lying_px).chain(still.tile_px) {
            check_size(width_px, height_px, pixels_max)?;
            area_px = area_px.max(u64::from(width_px) * u64::from(height_px));
        }
        check_matrix(still.coding)?;
        Ok(Self {
            size_px,
            area_px,
            has_transparency: still.transparency.is_some(),
            depth: still.depth,
            coding: still.coding,
            profile: still.profile.map(<[u8]>::to_vec),
        })
    }

    /// Samples as decoders of other formats call them: `Rgb8`, `La12`.
    pub(crate) fn words(&self) -> String {
        let is_grey = self.depth.is_some_and(|depth| depth.is_grey);
        let letters = match (is_grey, self.has_transparency) {
            (false, false) => "Rgb",
            (false, true) => "Rgba",
            (true, false) => "L",
            (true, true) => "La",
        };
        format!("{letters}{}", self.depth.map_or(8, |depth| depth.bits))
    }
}

fn check_matrix(coding: Option<Coding>) -> Result<(), DecodeFault> {
    match coding.filter(|coding| !coding.has_known_matrix()) {
        Some(coding) => Err(DecodeFault::unsupported(format_args!("matrix coefficients {}", coding.matrix))),
        None => Ok(()),
    }
}

/// The picture as it is shown, and how its colours are coded.
pub(super) fn decode(file: &[u8], pixels_max: u64, answer: Answer) -> Result<(DynamicImage, Coding), DecodeFault> {
    let still = Still::read(file, answer)?;
    if let Some((width_px, height_px)) = still.size_px {
        check_size(width_px, height_px, pixels_max)?;
    }
    let (mut painted, mut first) = (None, None);
    each(&still.colours, pixels_max, |place, frame| {
        let layout = *first.get_or_insert(frame.layout());
        if layout != frame.layout() {
            return Err(DecodeFault::damaged("its tiles are not alike"));
        }
        if painted.is_none() {
            painted = Some(begun(&still, &frame, pixels_max, answer)?);
        }
        if let Some((canvas, coding)) = &mut painted {
            canvas.paint(place, &frame, *coding);
        }
        Ok(())
    })?;
    let (mut canvas, coding) = painted.ok_or_else(|| DecodeFault::damaged("it holds no picture"))?;
    if let Some((tiles, straightness)) = &still.transparency {
        let mut first = true;
        each(tiles, pixels_max, |place, frame| {
            if std::mem::take(&mut first) {
                check_frame(&still, tiles, &frame)?;
            }
            canvas.veil(place, &frame);
            Ok(())
        })?;
        if *straightness == Straightness::Multiplied {
            canvas.unmultiply();
        }
    }
    let picture = canvas.into_picture().ok_or_else(|| DecodeFault::damaged("its pixels do not match its header"))?;
    Ok((still.turns.iter().fold(picture, |picture, turn| turn.applied(picture)), coding))
}

/// The canvas for a picture whose first frame is there.
fn begun(still: &Still<'_>, frame: &Frame, pixels_max: u64, answer: Answer) -> Result<(Canvas, Coding), DecodeFault> {
    let own_px = (side(frame.width_px())?, side(frame.height_px())?);
    let size_px = if still.colours.is_grid() { still.size_px.unwrap_or(own_px) } else { own_px };
    check_size(size_px.0, size_px.1, pixels_max)?;
    let coding = still.coding.unwrap_or(Coding::of(frame));
    if answer == Answer::Colours {
        check_frame(still, &still.colours, frame)?;
        check_matrix(Some(coding))?;
    }
    let colour = match (frame.layout() == Layout::Grey, still.transparency.is_some()) {
        (true, false) => ColorType::L8,
        (true, true) => ColorType::La8,
        (false, false) => ColorType::Rgb8,
        (false, true) => ColorType::Rgba8,
    };
    Ok((Canvas::new(size_px, colour), coding))
}

/// A frame of the whole has its size, and tiles cover it.
fn check_frame(still: &Still<'_>, tiles: &Tiles<'_>, frame: &Frame) -> Result<(), DecodeFault> {
    let (width, height) = still.size_px.unwrap_or_default();
    let (columns, rows) = (tiles.columns, tiles.frames.len() / tiles.columns.max(1));
    let own = (frame.width_px() * columns, frame.height_px() * rows);
    let is_whole = if tiles.is_grid() {
        tiles.grid_px == still.size_px && own.0 >= width as usize && own.1 >= height as usize
    } else {
        own == (width as usize, height as usize)
    };
    if is_whole { Ok(()) } else { Err(DecodeFault::damaged("its frames have another size than it says")) }
}

/// Decodes one frame after the other, and says where each lies. Only one is in memory at a time.
fn each(
    tiles: &Tiles<'_>,
    pixels_max: u64,
    mut take: impl FnMut((u32, u32), Frame) -> Result<(), DecodeFault>,
) -> Result<(), DecodeFault> {
    let area_px_max = u32::try_from(pixels_max).unwrap_or(u32::MAX);
    let mut tile_px = (0, 0);
    for (at, tile) in tiles.frames.iter().map(Cow::as_ref).enumerate() {
        let frame = bildkante_av1::decode(tile, area_px_max, Threads::Calling).map_err(DecodeFault::damaged)?;
        let size_px = (side(frame.width_px())?, side(frame.height_px())?);
        if at == 0 {
            tile_px = size_px;
        }
        if size_px != tile_px {
            return Err(DecodeFault::damaged("its tiles are not alike"));
        }
        let (column, row) = (side(at % tiles.columns)?, side(at / tiles.columns)?);
        take((column.saturating_mul(tile_px.0), row.saturating_mul(tile_px.1)), frame)?;
    }
    Ok(())
}

fn side(count: usize) -> Result<u32, DecodeFault> {
    u32::try_from(count).map_err(|_| DecodeFault::damaged("a side over 32 bits"))
}

impl From<BmffError> for DecodeFault {
    fn from(error: BmffError) -> Self {
        match error {
            BmffError::Malformed(what) => Self::damaged(what),
            BmffError::Unsupported(what) => Self::unsupported(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// Encoded once: it takes a moment.
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let grey = vec![rgb::RGB8::new(90, 100, 110); 64 * 48];
        let encoder = ravif::Encoder::new().with_quality(80.0).with_speed(10).with_num_threads(Some(1));
        encoder.encode_rgb(ravif::Img::new(&grey[..], 64, 48)).expect("avif").avif_file
    });

    #[test]
    fn a_head_says_what_the_picture_is() {
        let head = AvifHead::read(&FILE, 1 << 20).expect("our own file");
        assert_eq!((head.size_px, head.area_px, head.has_transparency), ((64, 48), 64 * 48, false));
        let depth = head.depth.expect("said");
        assert_eq!(head.words(), format!("Rgb{}", depth.bits));
        let too_many = AvifHead::read(&FILE, 64 * 48 - 1);
        assert!(matches!(too_many, Err(DecodeFault::TooManyPixels { width_px: 64, height_px: 48, .. })));
        let mut animated = FILE.clone();
        animated[8..12].copy_from_slice(b"avis");
        let refused = AvifHead::read(&animated, 1 << 20).expect_err("an animation").to_string();
        assert!(refused.contains("animation"), "{refused}");
    }

    #[test]
    fn a_property_that_is_essential_and_unknown_is_refused() {
        let mut file = FILE.clone();
        let at = file.windows(4).position(|bytes| bytes == b"av1C").expect("our own file");
        file[at..at + 4].copy_from_slice(b"zzzz");
        let refused = Still::read(&file, Answer::Lightness).expect_err("essential").to_string();
        assert!(refused.contains("essential"), "{refused}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn damaged_containers_are_errors_and_never_panics(
            flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..12),
            end in any::<prop::sample::Index>(),
        ) {
            let mut file = FILE.clone();
            for (at, byte) in flips {
                let at = at % file.len();
                file[at] = byte;
            }
            file.truncate(end.index(file.len()) + 1);
            let _ = (Still::read(&file, Answer::Lightness), AvifHead::read(&file, 1 << 20));
        }
    }
}
