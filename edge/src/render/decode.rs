//! Masters from PNG files: hostile until decoded.
//!
//! Limits come before allocations: the file's length, then the header's size, then the decoder's own budget for
//! everything else. What comes out is 8-bit sRGB without transparency, or an error that says why not.
//! Colour profiles are not applied: nodes write sRGB, and a master whose header says otherwise is refused.

use std::io::Cursor;

use bildkante_shared::limits::{MASTER_AREA_PX_MAX, MASTER_FILE_BYTES_MAX, MASTER_SIDE_PX_MAX};
use bildkante_shared::pixels::Pixels;
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

/// What the decoder may allocate beside the pixels: a few rows, and chunks that stand before them.
const DECODER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a file is no master.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the file has {bytes} bytes, at most {MASTER_FILE_BYTES_MAX} are read")]
    FileTooLarge { bytes: usize },
    #[error("{width_px}×{height_px} px is over {MASTER_SIDE_PX_MAX} px a side or {MASTER_AREA_PX_MAX} px in all")]
    TooManyPixels { width_px: u32, height_px: u32 },
    #[error("it is no readable PNG: {0}")]
    Png(#[from] png::DecodingError),
    #[error("it has transparent pixels; masters are opaque")]
    Transparent,
    #[error("it carries an ICC profile; masters are sRGB")]
    ColourProfile,
    #[error("its pixels do not match its header")]
    Inconsistent,
}

/// Decodes a PNG of any colour type and depth. Indexed and grey images become RGB, 16-bit samples are rounded to 8,
/// an alpha channel is dropped where every pixel is opaque.
///
/// # Errors
/// When the file is not a PNG, is damaged or cut short, is over a limit, has transparency or an ICC profile.
pub(super) fn decode_png(file: &[u8]) -> Result<Pixels, DecodeError> {
    if file.len() > MASTER_FILE_BYTES_MAX {
        return Err(DecodeError::FileTooLarge { bytes: file.len() });
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(file), Limits { bytes: DECODER_BYTES_MAX });
    decoder.set_ignore_text_chunk(true); // compressed text can be a bomb, and is not read here
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info()?;
    let (width_px, height_px) = header.size();
    let area_px = u64::from(width_px) * u64::from(height_px);
    if width_px.max(height_px) > MASTER_SIDE_PX_MAX || area_px > MASTER_AREA_PX_MAX {
        return Err(DecodeError::TooManyPixels { width_px, height_px });
    }

    let mut reader = decoder.read_info()?;
    if reader.info().icc_profile.is_some() {
        return Err(DecodeError::ColourProfile);
    }
    let mut samples = vec![0; reader.output_buffer_size().ok_or(DecodeError::Inconsistent)?];
    let frame = reader.next_frame(&mut samples)?;
    samples.truncate(frame.buffer_size());
    if (frame.width, frame.height) != (width_px, height_px) {
        return Err(DecodeError::Inconsistent);
    }
    // Reads to the end, so that a file cut short behind its pixels is noticed too.
    reader.finish()?;

    let samples = match frame.bit_depth {
        BitDepth::Sixteen => samples.chunks_exact(2).map(|s| to_eight(u16::from_be_bytes([s[0], s[1]]))).collect(),
        _ => samples,
    };
    Pixels::new(width_px, height_px, to_rgb(samples, frame.color_type)?).map_err(|_| DecodeError::Inconsistent)
}

/// 16 bits to 8, rounded: dropping the low byte would darken every sample by up to one step.
fn to_eight(sample: u16) -> u8 {
    #[allow(clippy::cast_possible_truncation, reason = "65535 · 255 / 65535 is 255")]
    let rounded = ((u32::from(sample) * 255 + 32_767) / 65_535) as u8;
    rounded
}

fn to_rgb(samples: Vec<u8>, color: ColorType) -> Result<Vec<u8>, DecodeError> {
    match color {
        ColorType::Rgb => Ok(samples),
        ColorType::Grayscale => Ok(samples.iter().flat_map(|&grey| [grey; 3]).collect()),
        ColorType::GrayscaleAlpha if samples.chunks_exact(2).all(|px| px[1] == u8::MAX) => {
            Ok(samples.chunks_exact(2).flat_map(|px| [px[0]; 3]).collect())
        }
        ColorType::Rgba if samples.chunks_exact(4).all(|px| px[3] == u8::MAX) => {
            Ok(samples.chunks_exact(4).flat_map(|px| [px[0], px[1], px[2]]).collect())
        }
        ColorType::GrayscaleAlpha | ColorType::Rgba => Err(DecodeError::Transparent),
        ColorType::Indexed => Err(DecodeError::Inconsistent), // EXPAND has made it RGB
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(width_px: u32, height_px: u32, color: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width_px, height_px);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![255, 0, 0, 0, 0, 255]);
        }
        let mut writer = encoder.write_header().expect("a valid header");
        writer.write_image_data(data).expect("data of that size");
        writer.finish().expect("a complete image");
        out
    }

    #[test]
    fn every_colour_type_becomes_rgb() {
        let grey = encoded(2, 1, ColorType::Grayscale, BitDepth::Eight, &[0, 200]);
        assert_eq!(decode_png(&grey).expect("grey").rgb(), [0, 0, 0, 200, 200, 200]);
        let bits = encoded(2, 1, ColorType::Grayscale, BitDepth::One, &[0b0100_0000]);
        assert_eq!(decode_png(&bits).expect("one bit").rgb(), [0, 0, 0, 255, 255, 255]);
        let indexed = encoded(2, 1, ColorType::Indexed, BitDepth::One, &[0b0100_0000]);
        assert_eq!(decode_png(&indexed).expect("indexed").rgb(), [255, 0, 0, 0, 0, 255]);
        let opaque = encoded(1, 1, ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 255]);
        assert_eq!(decode_png(&opaque).expect("opaque").rgb(), [1, 2, 3]);
    }

    #[test]
    fn sixteen_bits_are_rounded() {
        let samples: Vec<u8> = [0_u16, 128, 129, 0x7fff, 0xff7e, 0xffff].iter().flat_map(|s| s.to_be_bytes()).collect();
        let deep = encoded(2, 1, ColorType::Rgb, BitDepth::Sixteen, &samples);
        assert_eq!(decode_png(&deep).expect("16 bits").rgb(), [0, 0, 1, 127, 254, 255]);
    }

    #[test]
    fn transparency_is_refused() {
        let clear = encoded(1, 1, ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 254]);
        assert!(matches!(decode_png(&clear), Err(DecodeError::Transparent)));
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        // A valid header of 60000 × 60000 with no data behind it: 10.8 GB if it were allocated first.
        let mut bomb = encoded(1, 1, ColorType::Rgb, BitDepth::Eight, &[1, 2, 3]);
        bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
        let check_sum = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&check_sum.to_be_bytes());
        assert!(matches!(decode_png(&bomb), Err(DecodeError::TooManyPixels { width_px: 60_000, .. })));
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let data: Vec<u8> = (0..=255).cycle().take(16 * 16 * 3).collect();
        let whole = encoded(16, 16, ColorType::Rgb, BitDepth::Eight, &data);
        assert!(decode_png(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(decode_png(&whole[..length]).is_err(), "cut to {length} of {}", whole.len());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..200) {
            let _ = decode_png(&noise);
            // The same noise over a valid file reaches deeper.
            let mut file = encoded(4, 4, ColorType::Rgb, BitDepth::Eight, &[7; 48]);
            let start = at.min(file.len());
            noise.truncate(file.len() - start);
            file[start..start + noise.len()].copy_from_slice(&noise);
            let _ = decode_png(&file);
        }
    }
}
