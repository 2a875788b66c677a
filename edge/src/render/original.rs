//! Masters from the originals of imports: PNG, JPEG, WebP and AVIF files that people bring, hostile until decoded.
//!
//! Limits come before allocations: the file's length, then the header's size, then the decoder's budget. What comes out is
//! what a master is: opaque 8-bit sRGB within the limits of masters. On the way there, in this order: 16-bit samples become
//! 8-bit; a colour profile (RGB, grey or CMYK) is converted to sRGB in fixed-point arithmetic, a file without one is taken for
//! sRGB, and inks without one become light as in browsers; the orientation of the file's Exif block is applied; a picture larger
//! than a master is scaled down in linear light. Transparency, animation and other colour spaces are refused. `gAMA` and `cHRM`
//! of a PNG have no effect. AVIF is decoded in a process of its own, and turned as its own properties say, as its standard has it.
//! The original itself is never changed.
//!
//! | module | owns |
//! | --- | --- |
//! | `opened` | what a file is by its head, and which decoder reads it |
//! | `foreign` | the names of formats that are not taken |
//! | `inks` | JPEG files of four inks |
//! | `coded` | AVIF files: their decoder's process, their colours |
//! | `memory` | how much all decoding jobs may take together |

mod coded;
mod foreign;
mod inks;
mod memory;
mod opened;

use bildkante_shared::limits::{MASTER_AREA_PX_MAX, MASTER_SIDE_PX_MAX};
use bildkante_shared::pixels::Pixels;
use bytes::Bytes;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};

use super::resize::{ResizeError, scaled};
use crate::decoding::{DecodeFault, DecoderCommand};
use crate::words::Format;

pub(in crate::render) use coded::{decoded as decode_avif, name_of as coding_name, profile as avif_profile};
pub use memory::{DecodeMemory, MemoryShare, NoMemory, memory_for};
pub(super) use opened::{Opened, Samples};

/// Largest original.
pub const ORIGINAL_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest side of an original.
const ORIGINAL_SIDE_PX_MAX: u32 = 16_384;
/// Largest area of an original: 64 Mi pixels.
const ORIGINAL_AREA_PX_MAX: u64 = 64 * 1024 * 1024;
/// What a decoder may allocate: the pixels at 16 bits and four samples, and some rows.
const DECODER_BYTES_MAX: u64 = ORIGINAL_AREA_PX_MAX * 8 + (16 << 20);

/// A file format of originals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginalFormat {
    Png,
    Jpeg,
    Webp,
    Avif,
}

impl OriginalFormat {
    pub const ALL: [Self; 4] = [Self::Png, Self::Jpeg, Self::Webp, Self::Avif];

    /// By the file's first bytes; its name says nothing.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<Self> {
        Some(match Format::of_file(file)? {
            Format::Png => Self::Png,
            Format::Jpeg => Self::Jpeg,
            Format::Webp => Self::Webp,
            Format::Avif => Self::Avif,
        })
    }

    /// # Errors
    /// When it is another format, by the name of that.
    pub fn known(file: &[u8]) -> Result<Self, OriginalError> {
        Self::of(file).ok_or_else(|| foreign::refused(file))
    }

    #[must_use]
    pub const fn extension(self) -> &'static str {
        self.format().extension()
    }

    /// The same among the formats of renditions.
    #[must_use]
    pub const fn format(self) -> Format {
        match self {
            Self::Png => Format::Png,
            Self::Jpeg => Format::Jpeg,
            Self::Webp => Format::Webp,
            Self::Avif => Format::Avif,
        }
    }
}

/// Why a file is no original.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginalError {
    #[error("the file has {bytes} bytes, at most {ORIGINAL_FILE_BYTES_MAX} are taken")]
    FileTooLarge { bytes: usize },
    #[error("it is neither PNG, JPEG, WebP nor AVIF by its first bytes")]
    Format,
    #[error("it is {name}, which is not taken: save it as PNG, JPEG, WebP or AVIF")]
    Foreign { name: &'static str },
    #[error("{width_px}×{height_px} px is over {ORIGINAL_SIDE_PX_MAX} px a side or {ORIGINAL_AREA_PX_MAX} px in all")]
    TooManyPixels { width_px: u32, height_px: u32 },
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    /// Of AVIF.
    #[error(transparent)]
    Decoder(#[from] DecodeFault),
    #[error("it has transparent pixels; masters are opaque")]
    Transparent,
    #[error("it is animated; save one picture of it")]
    Animated,
    #[error("its colour profile cannot be used: {0}; save it as sRGB")]
    Profile(String),
    #[error(transparent)]
    Resize(#[from] ResizeError),
    #[error("its master cannot be written: {0}")]
    Encode(String),
}

impl OriginalError {
    /// Whether the file is at fault, and not this machine or what else it does.
    #[must_use]
    pub const fn is_of_the_file(&self) -> bool {
        !matches!(self, Self::Decoder(DecodeFault::Start { .. } | DecodeFault::Slow { .. }))
    }
}

impl From<image::ImageError> for OriginalError {
    fn from(error: image::ImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The master of an original. The same file gives the same pixels. `decoder` decodes AVIF.
///
/// # Errors
/// When the file is over a limit, is of another format, is damaged, transparent, animated, or in a colour space that is not
/// converted.
pub fn decode_original(file: &[u8], decoder: &DecoderCommand) -> Result<Pixels, OriginalError> {
    let Opened { width_px, height_px, orientation, profile, samples, .. } = Opened::read(file)?;
    let profile = profile?;
    let rgb = match samples {
        Samples::Light(decoder) => {
            let profile = profile.as_deref().map(colour_profile).transpose()?;
            of_light(DynamicImage::from_decoder(decoder)?, profile)?
        }
        Samples::Coded(head) => {
            // What the boxes say is refused before a process is started for it.
            avif_profile(profile.as_deref(), head.coding).map_err(OriginalError::Profile)?;
            let decoded = decode_avif(Bytes::copy_from_slice(file), &head, decoder)?;
            let profile = avif_profile(profile.as_deref(), Some(decoded.coding)).map_err(OriginalError::Profile)?;
            of_light(decoded.picture, profile)?
        }
        Samples::Inks(decoder) => {
            let inks = decoder.decode()?;
            match profile {
                Some(profile) => {
                    let profile = colour_profile(&profile)?;
                    if profile.color_space != DataColorSpace::Cmyk {
                        return Err(mismatch(&profile));
                    }
                    converted(&profile, (Layout::Rgba, &inks), width_px as usize * height_px as usize)?
                }
                None => inks::light(&inks),
            }
        }
    };
    let (width_px, height_px, rgb) = turned((width_px, height_px), rgb, orientation)?;
    fitted(width_px, height_px, rgb)
}

/// The larger representation is gone before the next one is made: `memory_for` counts on it.
fn of_light(picture: DynamicImage, profile: Option<ColorProfile>) -> Result<Vec<u8>, OriginalError> {
    check_opaque(&picture)?;
    let Some(profile) = profile else { return Ok(picture.into_rgb8().into_raw()) };
    let area_px = picture.width() as usize * picture.height() as usize;
    let (layout, samples) = match (profile.color_space, picture.color().has_color()) {
        // A grey picture with an RGB profile is one whose samples are equal.
        (DataColorSpace::Rgb, _) => (Layout::Rgb, picture.into_rgb8().into_raw()),
        (DataColorSpace::Gray, false) => (Layout::Gray, picture.into_luma8().into_raw()),
        _ => return Err(mismatch(&profile)),
    };
    converted(&profile, (layout, &samples), area_px)
}

fn check_opaque(picture: &DynamicImage) -> Result<(), OriginalError> {
    let is_opaque = match picture {
        DynamicImage::ImageLumaA8(pixels) => pixels.pixels().all(|pixel| pixel.0[1] == u8::MAX),
        DynamicImage::ImageRgba8(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        DynamicImage::ImageLumaA16(pixels) => pixels.pixels().all(|pixel| pixel.0[1] == u16::MAX),
        DynamicImage::ImageRgba16(pixels) => pixels.pixels().all(|pixel| pixel.0[3] == u16::MAX),
        picture => !picture.color().has_alpha(),
    };
    if is_opaque { Ok(()) } else { Err(OriginalError::Transparent) }
}

fn colour_profile(bytes: &[u8]) -> Result<ColorProfile, OriginalError> {
    ColorProfile::new_from_slice(bytes).map_err(|error| OriginalError::Profile(error.to_string()))
}

fn mismatch(profile: &ColorProfile) -> OriginalError {
    OriginalError::Profile(format!("it is for {:?}, and the picture is not", profile.color_space))
}

/// To sRGB, three bytes a pixel.
fn converted(
    profile: &ColorProfile,
    (layout, samples): (Layout, &[u8]),
    area_px: usize,
) -> Result<Vec<u8>, OriginalError> {
    let options = TransformOptions::default();
    let transform = profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options);
    let mut rgb = vec![0; area_px * 3];
    let done = transform.and_then(|transform| transform.transform(samples, &mut rgb));
    done.map_err(|error| OriginalError::Profile(error.to_string()))?;
    Ok(rgb)
}

/// As it is to be seen.
fn turned(
    (width_px, height_px): (u32, u32),
    rgb: Vec<u8>,
    orientation: Orientation,
) -> Result<(u32, u32, Vec<u8>), OriginalError> {
    if orientation == Orientation::NoTransforms {
        return Ok((width_px, height_px, rgb));
    }
    let lying = RgbImage::from_raw(width_px, height_px, rgb).ok_or_else(inconsistent)?;
    let mut picture = DynamicImage::ImageRgb8(lying);
    picture.apply_orientation(orientation);
    Ok((picture.width(), picture.height(), picture.into_rgb8().into_raw()))
}

fn inconsistent() -> OriginalError {
    OriginalError::Damaged("its pixels do not match its header".to_owned())
}

/// As large as a master may be.
fn fitted(width_px: u32, height_px: u32, rgb: Vec<u8>) -> Result<Pixels, OriginalError> {
    let (width, height) = (f64::from(width_px), f64::from(height_px));
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let by_area = (MASTER_AREA_PX_MAX as f64 / (width * height)).sqrt();
    let scale = by_area.min(f64::from(MASTER_SIDE_PX_MAX) / width.max(height));
    let inconsistent = |_| inconsistent();
    if scale >= 1.0 {
        return Pixels::new(width_px, height_px, rgb).map_err(inconsistent);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the side itself")]
    let smaller = |side: f64| (side * scale).floor().max(1.0) as u32;
    let small = scaled(rgb, (width_px, height_px), (smaller(width), smaller(height)))?;
    Pixels::new(small.width_px, small.height_px, small.rgb).map_err(inconsistent)
}

/// The file of a master, as nodes write them: an 8-bit RGB PNG.
///
/// # Errors
/// When the encoder fails, which no pixels make it do.
pub fn encode_master(master: &Pixels) -> Result<Vec<u8>, OriginalError> {
    let failed = |error: png::EncodingError| OriginalError::Encode(error.to_string());
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, master.width_px(), master.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(master.rgb()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod basics;
#[cfg(test)]
mod tests;
