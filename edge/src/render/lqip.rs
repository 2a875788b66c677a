//! What a page may show before a picture is there, known by the field as its LQIP (low-quality image placeholder): the average
//! colour, and a ThumbHash.
//!
//! Source: evanw.github.io/thumbhash (at most 25 bytes for an opaque picture, some 35 characters in base64).
//!
//! Invariant: it is made of the pixels that are encoded, with look, layers and watermark, so it promises no other picture. Both parts
//! are averaged in linear light, over at most [`SAMPLES_MAX`] places a side: a large picture takes no longer than a small one.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::resize::Raster;

/// The longer side of what is hashed. ThumbHash keeps seven waves a side.
const LONGER_SIDE_PX: u32 = 32;
/// Most pixels of a side that are looked at.
const SAMPLES_MAX: u32 = 256;
const HASH_BYTES_MAX: usize = 25;

static LINEAR: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|value| {
        #[allow(clippy::cast_precision_loss, reason = "a byte")]
        let value = value as f32 / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    })
});

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lqip {
    colour: [u8; 3],
    hash: [u8; HASH_BYTES_MAX],
    hash_bytes: u8,
}

/// Why a text is no LQIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no `#rrggbb` and a ThumbHash in base64 behind it")]
pub struct LqipError;

/// Whether an LQIP is made beside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LqipAsk {
    /// It is known, or of no use.
    None,
    Wanted,
}

impl Lqip {
    /// Takes a millisecond or two. `None` of a picture without pixels.
    #[must_use]
    pub(super) fn of(picture: &Raster) -> Option<Self> {
        let (width_px, height_px) = (picture.width_px, picture.height_px);
        let longer = width_px.max(height_px);
        let scaled = |side: u32| (side * LONGER_SIDE_PX.min(longer) / longer.max(1)).max(1);
        let (columns, rows) = (scaled(width_px), scaled(height_px));
        let mut cells = vec![Cell::default(); columns as usize * rows as usize];
        let step = |side: u32| side.div_ceil(SAMPLES_MAX).max(1) as usize;
        let width = width_px as usize;
        for y in (0..height_px as usize).step_by(step(height_px)) {
            for x in (0..width).step_by(step(width_px)) {
                let pixel = picture.rgb.get((y * width + x) * 3..)?.first_chunk::<3>()?;
                let (column, row) = (x * columns as usize / width, y * rows as usize / height_px as usize);
                cells.get_mut(row * columns as usize + column)?.add(*pixel);
            }
        }
        let mut whole = Cell::default();
        cells.iter().for_each(|cell| whole.join(cell));
        let colour = whole.mean()?;
        // A cell that no place fell into, of a picture that is a few pixels wide, has the colour of the whole.
        let rgba: Vec<u8> = cells.iter().flat_map(|cell| opaque(cell.mean().unwrap_or(colour))).collect();
        let hash = thumbhash::rgba_to_thumb_hash(columns as usize, rows as usize, &rgba);
        Self::new(colour, &hash)
    }

    fn new(colour: [u8; 3], thumbhash: &[u8]) -> Option<Self> {
        let mut hash = [0; HASH_BYTES_MAX];
        hash.get_mut(..thumbhash.len())?.copy_from_slice(thumbhash);
        Some(Self { colour, hash, hash_bytes: u8::try_from(thumbhash.len()).ok()? })
    }

    /// `#rrggbb`
    #[must_use]
    pub fn colour(&self) -> String {
        let [red, green, blue] = self.colour;
        format!("#{red:02x}{green:02x}{blue:02x}")
    }

    /// The ThumbHash in base64, as `atob` reads it.
    #[must_use]
    pub fn thumbhash(&self) -> String {
        BASE64.encode(self.hash.get(..usize::from(self.hash_bytes)).unwrap_or_default())
    }
}

impl fmt::Display for Lqip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.colour(), self.thumbhash())
    }
}

impl FromStr for Lqip {
    type Err = LqipError;

    fn from_str(text: &str) -> Result<Self, LqipError> {
        let (colour, hash) = text.strip_prefix('#').and_then(|text| text.split_at_checked(6)).ok_or(LqipError)?;
        let is_hex = colour.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(colour, 16).ok().filter(|_| is_hex).ok_or(LqipError)?;
        let [_, red, green, blue] = number.to_be_bytes();
        let hash = BASE64.decode(hash.as_bytes()).map_err(|_| LqipError)?;
        Self::new([red, green, blue], &hash).ok_or(LqipError)
    }
}

impl From<Lqip> for String {
    fn from(lqip: Lqip) -> Self {
        lqip.to_string()
    }
}

impl TryFrom<String> for Lqip {
    type Error = LqipError;

    fn try_from(text: String) -> Result<Self, LqipError> {
        text.parse()
    }
}

/// Light that was added up.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    light: [f32; 3],
    pixels: u32,
}

impl Cell {
    fn add(&mut self, pixel: [u8; 3]) {
        for (sum, value) in self.light.iter_mut().zip(pixel) {
            *sum += LINEAR[usize::from(value)];
        }
        self.pixels += 1;
    }

    fn join(&mut self, other: &Self) {
        for (sum, light) in self.light.iter_mut().zip(other.light) {
            *sum += light;
        }
        self.pixels += other.pixels;
    }

    fn mean(&self) -> Option<[u8; 3]> {
        #[allow(clippy::cast_precision_loss, reason = "at most 256 times 256")]
        let pixels = self.pixels as f32;
        (self.pixels > 0).then(|| self.light.map(|light| encoded(light / pixels)))
    }
}

/// sRGB of linear light.
fn encoded(light: f32) -> u8 {
    let value = if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
    let value = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    value
}

const fn opaque([red, green, blue]: [u8; 3]) -> [u8; 4] {
    [red, green, blue, 255]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picture(width_px: u32, height_px: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Raster {
        let rgb = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y));
        Raster { width_px, height_px, rgb: rgb.collect() }
    }

    #[test]
    fn one_colour_is_its_own_average_and_halves_are_averaged_in_light() {
        let flat = Lqip::of(&picture(640, 360, |_, _| [200, 30, 90])).expect("pixels");
        assert_eq!(flat.colour(), "#c81e5a");
        let halves = Lqip::of(&picture(640, 360, |x, _| if x < 320 { [0; 3] } else { [255; 3] })).expect("pixels");
        assert_eq!(halves.colour(), "#bcbcbc", "half the light of white");
    }

    #[test]
    fn the_hash_shows_the_picture_in_its_ratio_and_place() {
        let sky = |_: u32, y: u32| if y < 180 { [40, 90, 220] } else { [30, 120, 40] };
        let lqip = Lqip::of(&picture(640, 360, sky)).expect("pixels");
        let hash = BASE64.decode(lqip.thumbhash().as_bytes()).expect("base64");
        let (width, height, rgba) = thumbhash::thumb_hash_to_rgba(&hash).expect("a hash");
        assert_eq!((width, height), (32, 18));
        let pixel = |x: usize, y: usize| &rgba[(y * width + x) * 4..][..3];
        assert!(pixel(16, 2)[2] > pixel(16, 2)[1], "the sky is blue: {:?}", pixel(16, 2));
        assert!(pixel(16, 15)[1] > pixel(16, 15)[2], "the meadow is green: {:?}", pixel(16, 15));
    }

    /// A page bears one for each picture.
    #[test]
    fn widths_of_one_picture_have_nearly_the_same_and_none_is_large() {
        let wave = |width: u32| move |x: u32, y: u32| [(x * 255 / width) as u8, (y * 400 / width) as u8, 128];
        let (small, large) = (picture(320, 180, wave(320)), picture(2560, 1440, wave(2560)));
        let [small, large] = [small, large].map(|picture| Lqip::of(&picture).expect("pixels"));
        let apart = small.colour.iter().zip(large.colour).map(|(a, b)| a.abs_diff(b)).max();
        assert!(apart <= Some(2), "{small} {large}");
        assert!(small.to_string().len() <= 50 && large.to_string().len() <= 50, "{small} {large}");
    }

    #[test]
    fn it_is_written_and_read() {
        let lqip = Lqip::of(&picture(64, 36, |x, y| [x as u8, y as u8, 9])).expect("pixels");
        assert_eq!(lqip.to_string().parse(), Ok(lqip));
        let hash = "A".repeat(36);
        for text in
            ["", "#", "#12345", "#gggggg", "#+12345AAAA", "123456AAAA", "#123456A", &format!("#123456{hash}"), "#ä2345"]
        {
            assert_eq!(text.parse::<Lqip>(), Err(LqipError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_size_has_one(width in 1_u32..600, height in 1_u32..600, seed in any::<u8>()) {
            let made = Lqip::of(&picture(width, height, |x, y| [x as u8 ^ seed, y as u8, seed])).expect("pixels");
            prop_assert_eq!(made.to_string().parse(), Ok(made));
        }
    }
}
