//! XMP in WebP: the extended file format (RFC 9649 §2.7): `VP8X`, then the image, then `EXIF` and `XMP ` chunks at the end.
//!
//! A simple file (`VP8 ` or `VP8L` alone) is upgraded: its canvas size is read from the bitstream's own header.

use super::EmbedError;
use crate::octets::{Reader, Short};
use crate::words::Format;

const FLAG_ALPHA: u8 = 0x10;
const FLAG_EXIF: u8 = 0x08;
const FLAG_XMP: u8 = 0x04;
/// RIFF header: `RIFF`, size, `WEBP`.
const HEADER_BYTES: usize = 12;
const VP8X_BYTES: u32 = 10;

struct Chunk<'a> {
    kind: [u8; 4],
    data: &'a [u8],
}

pub(super) fn insert(file: &[u8], xmp: &[u8], exif: Option<&[u8]>) -> Result<Vec<u8>, EmbedError> {
    let chunks = chunks(file)?;
    let first = chunks.first().ok_or(malformed("it holds no chunk"))?;
    let mut extended = match &first.kind {
        b"VP8X" => extended_of(first)?,
        b"VP8 " => lossy_canvas(first.data)?,
        b"VP8L" => lossless_canvas(first.data)?,
        _ => return Err(malformed("its first chunk is neither VP8X, VP8 nor VP8L")),
    };
    if exif.is_some() {
        extended[0] |= FLAG_EXIF;
    }
    let images = chunks.iter().filter(|chunk| &chunk.kind != b"VP8X");

    let mut out = Vec::with_capacity(file.len() + xmp.len() + exif.map_or(0, <[u8]>::len) + 48);
    out.extend_from_slice(b"RIFF\0\0\0\0WEBP");
    push_chunk(&mut out, *b"VP8X", &extended);
    for chunk in images {
        push_chunk(&mut out, chunk.kind, chunk.data);
    }
    if let Some(exif) = exif {
        push_chunk(&mut out, *b"EXIF", exif);
    }
    push_chunk(&mut out, *b"XMP ", xmp);
    let riff_bytes = u32::try_from(out.len() - 8).map_err(|_| malformed("it would be over 4 GiB"))?;
    out[4..8].copy_from_slice(&riff_bytes.to_le_bytes());
    Ok(out)
}

pub(super) fn find(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    Ok(chunks(file)?.into_iter().find(|chunk| &chunk.kind == b"XMP ").map(|chunk| chunk.data))
}

/// The TIFF file; some writers put JPEG's header in front of it.
pub(super) fn find_exif(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    let block = chunks(file)?.into_iter().find(|chunk| &chunk.kind == b"EXIF").map(|chunk| chunk.data);
    Ok(block.map(|block| block.strip_prefix(b"Exif\0\0").unwrap_or(block)))
}

/// The VP8X payload of an already extended file, with its XMP flag set.
fn extended_of(chunk: &Chunk<'_>) -> Result<[u8; VP8X_BYTES as usize], EmbedError> {
    let mut extended: [u8; VP8X_BYTES as usize] =
        chunk.data.try_into().map_err(|_| malformed("its VP8X chunk is not 10 bytes long"))?;
    extended[0] |= FLAG_XMP;
    Ok(extended)
}

/// Key frame header of RFC 6386 §9.1: frame tag, start code, then 14 bits each of width and height.
fn lossy_canvas(data: &[u8]) -> Result<[u8; VP8X_BYTES as usize], EmbedError> {
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = *data else {
        return Err(malformed("its VP8 chunk has no key frame header"));
    };
    if tag & 1 != 0 {
        return Err(malformed("its VP8 chunk is not a key frame"));
    }
    let width_px = u32::from(u16::from_le_bytes([w0, w1]) & 0x3fff);
    let height_px = u32::from(u16::from_le_bytes([h0, h1]) & 0x3fff);
    vp8x(width_px, height_px, FLAG_XMP)
}

/// Header of RFC 9649 §3.4: signature byte, 14 bits each of width − 1 and height − 1, the alpha hint.
fn lossless_canvas(data: &[u8]) -> Result<[u8; VP8X_BYTES as usize], EmbedError> {
    let [0x2f, a, b, c, d, ..] = *data else {
        return Err(malformed("its VP8L chunk has no signature"));
    };
    let bits = u32::from_le_bytes([a, b, c, d]);
    let alpha = if bits >> 28 & 1 == 1 { FLAG_ALPHA } else { 0 };
    vp8x((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1, FLAG_XMP | alpha)
}

/// Flags, 24 reserved bits, then 24 bits each of width − 1 and height − 1.
fn vp8x(width_px: u32, height_px: u32, flags: u8) -> Result<[u8; VP8X_BYTES as usize], EmbedError> {
    let (Some(w), Some(h)) = (width_px.checked_sub(1), height_px.checked_sub(1)) else {
        return Err(malformed("its image has no size"));
    };
    let ([w0, w1, w2, _], [h0, h1, h2, _]) = (w.to_le_bytes(), h.to_le_bytes());
    Ok([flags, 0, 0, 0, w0, w1, w2, h0, h1, h2])
}

fn push_chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    // Chunk sizes were read from 32 bits, or are bounded by XMP_BYTES_MAX.
    #[allow(clippy::cast_possible_truncation)]
    let size = data.len() as u32;
    out.extend_from_slice(&kind);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(data);
    if data.len() % 2 == 1 {
        out.push(0); // chunks are padded to even sizes
    }
}

fn chunks(file: &[u8]) -> Result<Vec<Chunk<'_>>, EmbedError> {
    let short = |Short| malformed("it ends inside a chunk");
    if file.len() < HEADER_BYTES || &file[..4] != b"RIFF" || &file[8..12] != b"WEBP" {
        return Err(malformed("it has no RIFF/WEBP header"));
    }
    let riff_bytes = u32::from_le_bytes([file[4], file[5], file[6], file[7]]) as usize;
    // The size counts from after itself. Bytes beyond it are no part of the image.
    let end = riff_bytes.checked_add(8).filter(|end| (HEADER_BYTES..=file.len()).contains(end));
    let mut reader = Reader::new(&file[HEADER_BYTES..end.ok_or(malformed("its RIFF size is wrong"))?]);
    let mut chunks = Vec::new();
    while !reader.is_empty() {
        let kind = reader.array().map_err(short)?;
        let size = u32::from_le_bytes(reader.array().map_err(short)?) as usize;
        chunks.push(Chunk { kind, data: reader.take(size).map_err(short)? });
        if size % 2 == 1 && !reader.is_empty() {
            reader.u8().map_err(short)?;
        }
    }
    Ok(chunks)
}

const fn malformed(what: &'static str) -> EmbedError {
    EmbedError::Malformed { format: Format::Webp, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
        for (kind, data) in chunks {
            push_chunk(&mut out, **kind, data);
        }
        let size = u32::try_from(out.len() - 8).expect("small");
        out[4..8].copy_from_slice(&size.to_le_bytes());
        out
    }

    #[test]
    fn a_lossless_file_keeps_its_size_and_alpha() {
        // 5×3 with the alpha hint: (5−1) | (3−1) << 14 | 1 << 28.
        let bits: u32 = 4 | 2 << 14 | 1 << 28;
        let mut data = vec![0x2f];
        data.extend_from_slice(&bits.to_le_bytes());
        let marked = insert(&riff(&[(b"VP8L", &data)]), b"<x/>", None).expect("a well-formed file");
        let chunks = chunks(&marked).expect("well-formed again");
        assert_eq!(chunks[0].data, [FLAG_XMP | FLAG_ALPHA, 0, 0, 0, 4, 0, 0, 2, 0, 0]);
        assert_eq!(chunks[1].data, data);
        assert_eq!(find(&marked), Ok(Some(&b"<x/>"[..])));
    }

    #[test]
    fn an_extended_file_keeps_its_flags() {
        let extended = [0x20, 0, 0, 0, 9, 0, 0, 9, 0, 0];
        let marked =
            insert(&riff(&[(b"VP8X", &extended), (b"ICCP", b"abc"), (b"VP8 ", b"x")]), b"odd", None).expect("fine");
        let chunks = chunks(&marked).expect("well-formed again");
        assert_eq!(chunks[0].data[0], 0x20 | FLAG_XMP);
        assert_eq!(chunks.iter().map(|c| c.kind).collect::<Vec<_>>(), [*b"VP8X", *b"ICCP", *b"VP8 ", *b"XMP "]);
        assert_eq!(marked.len() % 2, 0);
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = riff(&[(b"VP8 ", b"not a key frame")]);
        assert!(insert(&good, b"<x/>", None).is_err());
        assert!(find(&good[..good.len() - 3]).is_err());
        assert!(find(b"RIFF").is_err());
        let mut short = good;
        short[4..8].copy_from_slice(&2_u32.to_le_bytes());
        assert!(find(&short).is_err());
    }
}
