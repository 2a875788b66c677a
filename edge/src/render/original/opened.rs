//! What an original is by its head, and the decoder that reads the rest. Nothing is decoded, and sizes are checked, when it is made.

use std::io::Cursor;

use bildkante_shared::exif;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::coded::AVIF_AREA_PX_MAX;
use super::inks::InkDecoder;
use super::{
    DECODER_BYTES_MAX, ORIGINAL_AREA_PX_MAX, ORIGINAL_FILE_BYTES_MAX, ORIGINAL_SIDE_PX_MAX, OriginalError,
    OriginalFormat,
};
use crate::decoding::{AvifHead, DECODER_BYTES_PER_PX};

/// See the module's documentation.
pub(in crate::render) struct Opened<'f> {
    pub(in crate::render) format: OriginalFormat,
    /// As the samples lie in the file; of an AVIF as it is shown, because its decoder turns it.
    pub(in crate::render) width_px: u32,
    pub(in crate::render) height_px: u32,
    /// How it is to be turned.
    pub(in crate::render) orientation: Orientation,
    pub(in crate::render) profile: Result<Option<Vec<u8>>, OriginalError>,
    pub(in crate::render) samples: Samples<'f>,
}

/// Whose decoder reads the samples.
pub(in crate::render) enum Samples<'f> {
    /// Grey or RGB.
    Light(Box<dyn ImageDecoder + 'f>),
    /// CMYK, in a JPEG.
    Inks(Box<InkDecoder<'f>>),
    /// AVIF.
    Coded(Box<AvifHead>),
}

impl<'f> Opened<'f> {
    pub(in crate::render) fn read(file: &'f [u8]) -> Result<Self, OriginalError> {
        if file.len() > ORIGINAL_FILE_BYTES_MAX {
            return Err(OriginalError::FileTooLarge { bytes: file.len() });
        }
        let format = OriginalFormat::known(file)?;
        let image_format = match format {
            OriginalFormat::Png => ImageFormat::Png,
            OriginalFormat::Jpeg => ImageFormat::Jpeg,
            OriginalFormat::Webp => ImageFormat::WebP,
            OriginalFormat::Avif => return Self::of_avif(file),
        };
        if format == OriginalFormat::Webp && WebPDecoder::new(Cursor::new(file))?.has_animation() {
            return Err(OriginalError::Animated);
        }
        let inks = if format == OriginalFormat::Jpeg { InkDecoder::open(file)? } else { None };
        let mut reader = ImageReader::with_format(Cursor::new(file), image_format);
        let mut limits = Limits::default();
        limits.max_alloc = Some(DECODER_BYTES_MAX);
        reader.limits(limits);
        let mut decoder = reader.into_decoder()?;
        let (width_px, height_px) = decoder.dimensions();
        check_size(width_px, height_px)?;
        // The decoder knows a PNG's block only where it stands before the pixels.
        let told = match format {
            OriginalFormat::Png => exif::of_png(file).and_then(Orientation::from_exif_chunk),
            OriginalFormat::Jpeg | OriginalFormat::Webp | OriginalFormat::Avif => decoder.orientation().ok(),
        };
        let orientation = told.unwrap_or(Orientation::NoTransforms);
        let profile = decoder.icc_profile().map_err(OriginalError::from);
        let samples = match inks {
            Some(inks) => Samples::Inks(Box::new(inks)),
            None => Samples::Light(Box::new(decoder)),
        };
        Ok(Self { format, width_px, height_px, orientation, profile, samples })
    }

    fn of_avif(file: &'f [u8]) -> Result<Self, OriginalError> {
        let mut head = AvifHead::read(file, AVIF_AREA_PX_MAX)?;
        let (width_px, height_px) = head.size_px;
        check_size(width_px, height_px)?;
        let profile = Ok(head.profile.take());
        let (orientation, samples) = (Orientation::NoTransforms, Samples::Coded(Box::new(head)));
        Ok(Self { format: OriginalFormat::Avif, width_px, height_px, orientation, profile, samples })
    }
}

fn check_size(width_px: u32, height_px: u32) -> Result<(), OriginalError> {
    let area_px = u64::from(width_px) * u64::from(height_px);
    if width_px.max(height_px) > ORIGINAL_SIDE_PX_MAX || area_px > ORIGINAL_AREA_PX_MAX {
        return Err(OriginalError::TooManyPixels { width_px, height_px });
    }
    Ok(())
}

impl Samples<'_> {
    /// As decoders call them: `Rgb8`, `L16`.
    pub(in crate::render) fn words(&self) -> String {
        match self {
            Self::Light(decoder) => format!("{:?}", decoder.original_color_type()),
            Self::Inks(_) => format!("{:?}", ExtendedColorType::Cmyk8),
            Self::Coded(head) => head.words(),
        }
    }

    /// Bytes of a decoded pixel, in the process that decodes it.
    pub(super) fn bytes_per_px(&self) -> u64 {
        match self {
            Self::Light(decoder) => decoder.color_type().bytes_per_pixel().into(),
            Self::Inks(_) => 4,
            Self::Coded(_) => DECODER_BYTES_PER_PX,
        }
    }
}
