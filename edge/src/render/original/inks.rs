//! JPEG files of four inks: CMYK, and YCCK, which is CMYK as lightness and colour.
//!
//! Samples say how much light an ink lets through, 255 all of it: so Adobe's programs write them, and so browsers read every file of
//! four inks, also one without Adobe's marker. Source of the conversions: ITU-T T.872 and libjpeg's `jdcolor.c`.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::OriginalError;

/// A file whose head is read.
pub(in crate::render) struct InkDecoder<'f> {
    decoder: JpegDecoder<ZCursor<&'f [u8]>>,
    space: ColorSpace,
}

impl<'f> InkDecoder<'f> {
    /// `None` where the file has no four inks.
    pub(super) fn open(file: &'f [u8]) -> Result<Option<Self>, OriginalError> {
        // Sizes are checked by the caller.
        let options =
            DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
        decoder.decode_headers().map_err(damaged)?;
        let space = decoder.input_colorspace();
        let Some(space) = space.filter(|space| matches!(space, ColorSpace::CMYK | ColorSpace::YCCK)) else {
            return Ok(None);
        };
        decoder.set_options(options.jpeg_set_out_colorspace(space));
        Ok(Some(Self { decoder, space }))
    }

    /// How much there is of each ink, four bytes a pixel, 0 none.
    pub(super) fn decode(mut self) -> Result<Vec<u8>, OriginalError> {
        let mut samples = self.decoder.decode().map_err(damaged)?;
        for pixel in samples.chunks_exact_mut(4) {
            if self.space == ColorSpace::YCCK {
                let [red, green, blue] = of_lightness([pixel[0], pixel[1], pixel[2]]);
                // Of the samples; the file's inks are what is missing to white.
                pixel[..3].copy_from_slice(&[255 - red, 255 - green, 255 - blue]);
            }
            pixel.iter_mut().for_each(|sample| *sample = 255 - *sample);
        }
        Ok(samples)
    }
}

fn damaged(error: zune_jpeg::errors::DecodeErrors) -> OriginalError {
    OriginalError::Damaged(format!("{error:?}").chars().filter(|c| !c.is_control()).take(200).collect())
}

/// YCbCr to RGB with 16 bits behind the point, as libjpeg does it.
fn of_lightness([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    [red, green, blue].map(|sample| sample.clamp(0, 255) as u8)
}

/// Inks as light without a profile: each takes its part, and black from all.
pub(super) fn light(inks: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(inks.len() / 4 * 3);
    for pixel in inks.chunks_exact(4) {
        let behind_black = 255 - u32::from(pixel[3]);
        #[allow(clippy::cast_possible_truncation, reason = "255 · 255 / 255 is 255")]
        rgb.extend(pixel[..3].iter().map(|ink| (((255 - u32::from(*ink)) * behind_black + 127) / 255) as u8));
    }
    rgb
}
