//! XMP in PNG: an uncompressed `iTXt` chunk with the keyword `XML:com.adobe.xmp` (ISO 16684-3 §6.6) after `IHDR`. EXIF: an
//! `eXIf` chunk (PNG, third edition, §11.3.4.2) before it.

use super::EmbedError;
use crate::octets::{Reader, Short};
use crate::words::Format;

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
const KEYWORD: &[u8] = b"XML:com.adobe.xmp\0";
/// Keyword, then: no compression, method 0, empty language tag, empty translated keyword (PNG §11.3.3.4).
const ITXT_HEAD_BYTES: usize = KEYWORD.len() + 4;
/// Length, type and check sum around a chunk's data.
const CHUNK_FRAME_BYTES: usize = 12;
/// Signature, then `IHDR` with its length, type, 13 bytes of data and check sum.
const IHDR_END: usize = 8 + 4 + 4 + 13 + 4;

pub(super) fn insert(file: &[u8], xmp: &[u8], exif: Option<&[u8]>) -> Result<Vec<u8>, EmbedError> {
    if file.len() < IHDR_END || file[..8] != SIGNATURE || file[12..16] != *b"IHDR" {
        return Err(malformed("it does not begin with an IHDR chunk"));
    }
    let added = xmp.len() + exif.map_or(0, <[u8]>::len) + ITXT_HEAD_BYTES + 2 * CHUNK_FRAME_BYTES;
    let mut out = Vec::with_capacity(file.len() + added);
    out.extend_from_slice(&file[..IHDR_END]);
    if let Some(exif) = exif {
        push_chunk(&mut out, *b"eXIf", &[exif])?;
    }
    push_chunk(&mut out, *b"iTXt", &[KEYWORD, &[0; 4], xmp])?;
    out.extend_from_slice(&file[IHDR_END..]);
    Ok(out)
}

/// A chunk with its data in parts.
fn push_chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[&[u8]]) -> Result<(), EmbedError> {
    let bytes = data.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(bytes).map_err(|_| EmbedError::TooLarge { bytes })?;
    out.extend_from_slice(&length.to_be_bytes());
    let summed_from = out.len();
    out.extend_from_slice(&kind);
    data.iter().for_each(|part| out.extend_from_slice(part));
    let sum = crc32fast::hash(&out[summed_from..]);
    out.extend_from_slice(&sum.to_be_bytes());
    Ok(())
}

pub(super) fn find(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    let is_xmp =
        |kind: &[u8; 4], data: &[u8]| kind == b"iTXt" && data.len() >= ITXT_HEAD_BYTES && data.starts_with(KEYWORD);
    let Some(data) = chunk(file, is_xmp)? else { return Ok(None) };
    match data[KEYWORD.len()..ITXT_HEAD_BYTES] {
        [0, 0, 0, 0] => Ok(Some(&data[ITXT_HEAD_BYTES..])),
        _ => Err(EmbedError::Unsupported { format: Format::Png, what: "a compressed or translated XMP chunk" }),
    }
}

pub(super) fn find_exif(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    chunk(file, |kind, _| kind == b"eXIf")
}

/// The data of the first chunk that `is_wanted`.
fn chunk(file: &[u8], is_wanted: impl Fn(&[u8; 4], &[u8]) -> bool) -> Result<Option<&[u8]>, EmbedError> {
    let mut reader = Reader::new(file);
    let short = |Short| malformed("it ends inside a chunk");
    if reader.array().map_err(short)? != SIGNATURE {
        return Err(malformed("it has no PNG signature"));
    }
    while !reader.is_empty() {
        let length = reader.u32().map_err(short)?;
        let kind = reader.array::<4>().map_err(short)?;
        let data = reader.take(length as usize).map_err(short)?;
        let _check_sum = reader.u32().map_err(short)?;
        if is_wanted(&kind, data) {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

const fn malformed(what: &'static str) -> EmbedError {
    EmbedError::Malformed { format: Format::Png, what }
}
