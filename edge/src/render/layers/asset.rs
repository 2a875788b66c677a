//! Pictures that are laid on others: packshots and logos, as PNG, WebP, AVIF, JPEG or SVG.
//!
//! Invariants: a file is bounded before it is decoded, in bytes and in pixels; its digest names it in keys; it is scaled in
//! premultiplied linear light, so that no colour of a transparent pixel bleeds. `gAMA` and `cHRM` are passed over, as browsers do.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use bildkante_shared::ids::Digest;
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use serde::{Serialize, Serializer};

use super::cache;
use super::light::{Light, times, widened};
use super::patch::Patch;
use super::svg::{Drawing, DrawingError};
use crate::decoding::{AvifHead, DecodeFault, DecoderCommand};
use crate::render::original::{avif_profile, decode_avif};
use crate::words::Format;

/// Largest file of a layer.
pub const ASSET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest side of a layer's picture.
pub(super) const ASSET_SIDE_PX_MAX: u32 = 8192;
/// Largest area of it: 16 Mi pixels.
pub(super) const ASSET_AREA_PX_MAX: u64 = 16 * 1024 * 1024;
/// What a decoder may allocate.
const DECODER_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// Why a file is no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssetError {
    #[error("the file has more than {ASSET_BYTES_MAX} bytes")]
    FileTooLarge,
    #[error("it is no PNG, WebP, AVIF, JPEG or SVG")]
    Format,
    #[error(
        "it has {width_px}×{height_px} px; at most {ASSET_SIDE_PX_MAX} px a side and {ASSET_AREA_PX_MAX} px in all are read"
    )]
    TooManyPixels { width_px: u32, height_px: u32 },
    #[error("it cannot be decoded: {0}")]
    Damaged(String),
    /// Of AVIF.
    #[error(transparent)]
    Decoder(DecodeFault),
    #[error("its colour profile cannot be used: {0}; save it as sRGB")]
    Profile(String),
    #[error(transparent)]
    Drawing(#[from] DrawingError),
}

impl From<image::ImageError> for AssetError {
    fn from(error: image::ImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<DecodeFault> for AssetError {
    fn from(fault: DecodeFault) -> Self {
        match fault {
            DecodeFault::TooManyPixels { width_px, height_px, .. } => Self::TooManyPixels { width_px, height_px },
            fault => Self::Decoder(fault),
        }
    }
}

/// What a file holds.
#[derive(Clone)]
enum Content {
    Pixels {
        file: Arc<[u8]>,
        format: ImageFormat,
    },
    /// AVIF, and what decodes it.
    Coded {
        file: Arc<[u8]>,
        head: Arc<AvifHead>,
        decoder: DecoderCommand,
    },
    Drawing(Drawing),
}

/// A file that can be a layer: within its bounds, of a known format, its header read. Clones share it.
#[derive(Clone)]
pub struct ImageAsset {
    digest: Digest,
    size_px: (u32, u32),
    content: Content,
}

impl fmt::Debug for ImageAsset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageAsset({}, {}×{})", self.digest, self.size_px.0, self.size_px.1)
    }
}

impl PartialEq for ImageAsset {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ImageAsset {}

/// In keys an asset is its digest.
impl Serialize for ImageAsset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.digest)
    }
}

impl ImageAsset {
    /// Reads the header of a picture, or all of a drawing. `decoder` will decode an AVIF.
    ///
    /// # Errors
    /// When the file is over a bound, of no known format, or damaged as far as that is seen without decoding it.
    pub fn read(file: Vec<u8>, decoder: &DecoderCommand) -> Result<Self, AssetError> {
        if file.len() > ASSET_BYTES_MAX {
            return Err(AssetError::FileTooLarge);
        }
        let digest = Digest::of_bytes(&file);
        let (size_px, content) = match kind_of(&file)? {
            Kind::Drawing => {
                let drawing = Drawing::read(&file)?;
                (drawing.size_px(), Content::Drawing(drawing))
            }
            Kind::Coded => {
                let head = coded_head(&file)?;
                let (file, decoder) = (file.into(), decoder.clone());
                (head.size_px, Content::Coded { file, head: Arc::new(head), decoder })
            }
            Kind::Pixels(format) => {
                let size_px = shown_size(&mut image_decoder(&file, format)?);
                (size_px, Content::Pixels { file: file.into(), format })
            }
        };
        Ok(Self { digest, size_px, content })
    }

    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// As it is shown, turned as its Exif block says, or the properties of an AVIF.
    #[must_use]
    pub const fn size_px(&self) -> (u32, u32) {
        self.size_px
    }

    /// `image/png` and the like.
    #[must_use]
    pub const fn media_type(&self) -> &'static str {
        match &self.content {
            Content::Pixels { format: ImageFormat::Png, .. } => "image/png",
            Content::Pixels { format: ImageFormat::WebP, .. } => "image/webp",
            Content::Pixels { .. } => "image/jpeg",
            Content::Coded { .. } => "image/avif",
            Content::Drawing(_) => "image/svg+xml",
        }
    }

    /// Decodes it once and keeps nothing, to know that it can be.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), AssetError> {
        match &self.content {
            Content::Pixels { file, format } => decoded(file, *format).map(|_| ()),
            Content::Coded { file, head, decoder } => decoded_apart(file, head, decoder).map(|_| ()),
            Content::Drawing(_) => Ok(()),
        }
    }

    /// The largest size of its shape within a box.
    pub(super) fn fitted(&self, room: (i64, i64)) -> (u32, u32) {
        let (width, height) = (u64::from(self.size_px.0), u64::from(self.size_px.1));
        let side = |side: i64| u64::try_from(side).unwrap_or(1).max(1);
        let (wide, high) = (side(room.0), side(room.1));
        let (wide, high) = if width * high > height * wide {
            (wide, (height * wide + width / 2) / width)
        } else {
            ((width * high + height / 2) / height, high)
        };
        let bounded = |side: u64| u32::try_from(side.max(1)).unwrap_or(u32::MAX);
        (bounded(wide), bounded(high))
    }

    /// In that size, from memory where it was drawn lately.
    pub(super) fn patch(&self, width_px: u32, height_px: u32) -> Result<Arc<Patch>, AssetError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"bildkante layer image 1").update(self.digest.as_bytes());
        hasher.update(&width_px.to_le_bytes()).update(&height_px.to_le_bytes());
        cache::kept(*hasher.finalize().as_bytes(), || match &self.content {
            Content::Pixels { file, format } => {
                let (rgba, size_px) = decoded(file, *format)?;
                scaled(premultiplied(&rgba), size_px, (width_px, height_px))
            }
            Content::Coded { file, head, decoder } => {
                let rgba = decoded_apart(file, head, decoder)?;
                scaled(premultiplied(&rgba), head.size_px, (width_px, height_px))
            }
            Content::Drawing(drawing) => Ok(drawing.patch(width_px, height_px)?),
        })
    }
}

/// How a file is read.
enum Kind {
    Pixels(ImageFormat),
    Coded,
    /// It may be one.
    Drawing,
}

fn kind_of(file: &[u8]) -> Result<Kind, AssetError> {
    match Format::of_file(file) {
        Some(Format::Png) => Ok(Kind::Pixels(ImageFormat::Png)),
        Some(Format::Jpeg) => Ok(Kind::Pixels(ImageFormat::Jpeg)),
        Some(Format::Webp) => Ok(Kind::Pixels(ImageFormat::WebP)),
        Some(Format::Avif) => Ok(Kind::Coded),
        None if file.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<') => Ok(Kind::Drawing),
        None if file.starts_with(b"\xef\xbb\xbf") => Ok(Kind::Drawing),
        None => Err(AssetError::Format),
    }
}

fn coded_head(file: &[u8]) -> Result<AvifHead, AssetError> {
    let head = AvifHead::read(file, ASSET_AREA_PX_MAX)?;
    let (width_px, height_px) = head.size_px;
    if width_px.max(height_px) > ASSET_SIDE_PX_MAX {
        return Err(AssetError::TooManyPixels { width_px, height_px });
    }
    avif_profile(head.profile.as_deref(), head.coding).map_err(AssetError::Profile)?;
    Ok(head)
}

/// 8-bit sRGB with alpha of an AVIF, decoded in a process of its own.
fn decoded_apart(file: &Arc<[u8]>, head: &AvifHead, decoder: &DecoderCommand) -> Result<Vec<u8>, AssetError> {
    let decoded = decode_avif(Arc::clone(file), head, decoder)?;
    let profile = avif_profile(head.profile.as_deref(), Some(decoded.coding)).map_err(AssetError::Profile)?;
    let has_colour = decoded.picture.color().has_color();
    let rgba = decoded.picture.into_rgba8().into_raw();
    match profile {
        Some(profile) => to_srgb(&rgba, &profile, has_colour),
        None => Ok(rgba),
    }
}

fn image_decoder(file: &[u8], format: ImageFormat) -> Result<impl image::ImageDecoder, AssetError> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width_px, height_px) = decoder.dimensions();
    let area_px = u64::from(width_px) * u64::from(height_px);
    if area_px == 0 || width_px.max(height_px) > ASSET_SIDE_PX_MAX || area_px > ASSET_AREA_PX_MAX {
        return Err(AssetError::TooManyPixels { width_px, height_px });
    }
    Ok(decoder)
}

/// Turned as its Exif block says.
fn shown_size(decoder: &mut impl image::ImageDecoder) -> (u32, u32) {
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width_px, height_px) = decoder.dimensions();
    if is_turned(orientation) { (height_px, width_px) } else { (width_px, height_px) }
}

const fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// 8-bit sRGB with alpha, turned as its Exif block says.
fn decoded(file: &[u8], format: ImageFormat) -> Result<(Vec<u8>, (u32, u32)), AssetError> {
    let mut decoder = image_decoder(file, format)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    let size_px = (picture.width(), picture.height());
    let has_colour = picture.color().has_color();
    let mut rgba = picture.into_rgba8().into_raw();
    if let Some(profile) = profile {
        let profile = ColorProfile::new_from_slice(&profile).map_err(|error| AssetError::Profile(error.to_string()))?;
        rgba = to_srgb(&rgba, &profile, has_colour)?;
    }
    Ok((rgba, size_px))
}

fn to_srgb(rgba: &[u8], profile: &ColorProfile, has_colour: bool) -> Result<Vec<u8>, AssetError> {
    let unusable = |reason: &dyn fmt::Display| AssetError::Profile(reason.to_string());
    let (layout, samples) = match (profile.color_space, has_colour) {
        // A grey picture with an RGB profile is one whose samples are equal.
        (DataColorSpace::Rgb, _) => (Layout::Rgba, rgba.to_vec()),
        (DataColorSpace::Gray, false) => {
            (Layout::GrayAlpha, rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[3]]).collect())
        }
        (space, _) => return Err(unusable(&format_args!("it is for {space:?}, and the picture is not"))),
    };
    let mut converted = vec![0; rgba.len()];
    let transform =
        profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgba, TransformOptions::default());
    let done = transform.and_then(|transform| transform.transform(&samples, &mut converted));
    done.map_err(|error| unusable(&error))?;
    Ok(converted)
}

fn premultiplied(rgba: &[u8]) -> Vec<[u16; 4]> {
    let light = Light::tables();
    let pixels = rgba.chunks_exact(4).map(|pixel| {
        let alpha = widened(pixel[3]);
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(|code| times(light.linear(code), alpha));
        [red, green, blue, alpha]
    });
    pixels.collect()
}

/// Lanczos (3 lobes) when shrinking, Catmull-Rom when enlarging, as masters are scaled.
pub(super) fn scaled(pixels: Vec<[u16; 4]>, from: (u32, u32), to: (u32, u32)) -> Result<Patch, AssetError> {
    let (width_px, height_px) = to;
    if from == to {
        return Ok(Patch { width_px, height_px, pixels });
    }
    let failed = |error: &dyn fmt::Display| AssetError::Damaged(format!("it cannot be scaled: {error}"));
    let bytes: Vec<u8> = pixels.iter().flatten().flat_map(|sample| sample.to_ne_bytes()).collect();
    drop(pixels);
    let source = Image::from_vec_u8(from.0, from.1, bytes, PixelType::U16x4).map_err(|error| failed(&error))?;
    let is_larger = width_px > from.0 || height_px > from.1;
    let filter = if is_larger { FilterType::CatmullRom } else { FilterType::Lanczos3 };
    // It is premultiplied already.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut out = Image::new(width_px, height_px, PixelType::U16x4);
    Resizer::new().resize(&source, &mut out, &options).map_err(|error| failed(&error))?;
    let pixels = out.buffer().chunks_exact(8).map(|bytes| {
        let sample = |at: usize| u16::from_ne_bytes([bytes[at * 2], bytes[at * 2 + 1]]);
        let alpha = sample(3);
        // The filters overshoot at edges; no colour exceeds its alpha.
        [sample(0).min(alpha), sample(1).min(alpha), sample(2).min(alpha), alpha]
    });
    Ok(Patch { width_px, height_px, pixels: pixels.collect() })
}
