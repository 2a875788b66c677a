//! XMP in JPEG: one `APP1` segment with Adobe's header (ISO 16684-3 §6.4), before anything but `APP0` and EXIF. EXIF: an
//! `APP1` segment before it, as its standard wants (CIPA DC-008 §4.5.4). IPTC-IIM: resource 0x0404 of Photoshop's `APP13`
//! segment behind both.
//!
//! JFIF wants its `APP0` right after `SOI`; readers look for XMP among the segments before the first scan.

use super::EmbedError;
use crate::octets::{Reader, Short};
use crate::words::Format;

pub(super) const XMP_HEADER: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const EXIF_HEADER: &[u8] = b"Exif\0\0";
const PHOTOSHOP_HEADER: &[u8] = b"Photoshop 3.0\0";
/// Signature, number 0x0404 and an empty name of an image resource.
const IIM_RESOURCE: &[u8] = b"8BIM\x04\x04\0\0";
const SOI: [u8; 2] = [0xff, 0xd8];
const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP13: u8 = 0xed;
const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

/// A marker segment before the first scan: its code, where it ends, and what it holds after the length.
struct Segment<'a> {
    marker: u8,
    end: usize,
    payload: &'a [u8],
}

pub(super) fn insert(file: &[u8], xmp: &[u8], exif: Option<&[u8]>, iim: &[u8]) -> Result<Vec<u8>, EmbedError> {
    let first = segments(file)?.into_iter().next();
    let at = first.filter(|segment| segment.marker == APP0).map_or(SOI.len(), |segment| segment.end);
    let mut out = Vec::with_capacity(file.len() + xmp.len() + exif.map_or(0, <[u8]>::len) + iim.len() + 128);
    out.extend_from_slice(&file[..at]);
    if let Some(exif) = exif {
        push_segment(&mut out, APP1, &[EXIF_HEADER, exif])?;
    }
    push_segment(&mut out, APP1, &[XMP_HEADER, xmp])?;
    if !iim.is_empty() {
        let length = u32::try_from(iim.len()).map_err(|_| EmbedError::TooLarge { bytes: iim.len() })?;
        let padding: &[u8] = if iim.len() % 2 == 1 { &[0] } else { &[] }; // resources are padded to even sizes
        push_segment(&mut out, APP13, &[PHOTOSHOP_HEADER, IIM_RESOURCE, &length.to_be_bytes(), iim, padding])?;
    }
    out.extend_from_slice(&file[at..]);
    Ok(out)
}

/// A segment with its payload in parts.
fn push_segment(out: &mut Vec<u8>, marker: u8, payload: &[&[u8]]) -> Result<(), EmbedError> {
    let bytes = payload.iter().map(|part| part.len()).sum::<usize>();
    let length = u16::try_from(2 + bytes).map_err(|_| EmbedError::TooLarge { bytes })?;
    out.extend_from_slice(&[0xff, marker]);
    out.extend_from_slice(&length.to_be_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

pub(super) fn find(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    let found = segments(file)?
        .into_iter()
        .filter(|segment| segment.marker == APP1)
        .find_map(|segment| segment.payload.strip_prefix(XMP_HEADER));
    Ok(found)
}

/// The TIFF file behind the header of an EXIF segment.
pub(super) fn find_exif(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    Ok(payload_behind(&segments(file)?, APP1, EXIF_HEADER))
}

/// The datasets in the first resource of their kind in a Photoshop segment.
pub(super) fn find_iim(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    Ok(payload_behind(&segments(file)?, APP13, PHOTOSHOP_HEADER).and_then(iim_resource))
}

fn payload_behind<'a>(segments: &[Segment<'a>], marker: u8, header: &[u8]) -> Option<&'a [u8]> {
    segments.iter().filter(|segment| segment.marker == marker).find_map(|segment| segment.payload.strip_prefix(header))
}

/// Resources (Photoshop File Formats, "Image Resource Blocks"): `8BIM`, an id, a name of one length byte and padded to an
/// even size, a length of 32 bits, the data padded to an even size.
fn iim_resource(resources: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(resources);
    while !reader.is_empty() {
        let head: [u8; 6] = reader.array().ok()?;
        let name_bytes = usize::from(reader.u8().ok()?);
        reader.take(name_bytes + (name_bytes + 1) % 2).ok()?;
        let length = reader.u32().ok()? as usize;
        let data = reader.take(length).ok()?;
        if head == IIM_RESOURCE[..6] {
            return Some(data);
        }
        if length % 2 == 1 && !reader.is_empty() {
            reader.u8().ok()?;
        }
    }
    None
}

fn segments(file: &[u8]) -> Result<Vec<Segment<'_>>, EmbedError> {
    let short = |Short| malformed("it ends before its first scan");
    let mut reader = Reader::new(file);
    if reader.array().map_err(short)? != SOI {
        return Err(malformed("it does not begin with SOI"));
    }
    let mut segments = Vec::new();
    loop {
        if reader.u8().map_err(short)? != 0xff {
            return Err(malformed("a segment does not begin with a marker"));
        }
        let mut marker = reader.u8().map_err(short)?;
        while marker == 0xff {
            marker = reader.u8().map_err(short)?; // fill bytes (T.81 §B.1.1.2)
        }
        match marker {
            SOS => return Ok(segments),
            EOI => return Err(short(Short)),
            0x00 | 0x01 | 0xd0..=0xd8 => return Err(malformed("a marker without a segment stands in the header")),
            _ => {}
        }
        let length = usize::from(reader.u16().map_err(short)?);
        let payload_bytes = length.checked_sub(2).ok_or(malformed("a segment is shorter than its length field"))?;
        let payload = reader.take(payload_bytes).map_err(short)?;
        segments.push(Segment { marker, end: reader.at(), payload });
    }
}

const fn malformed(what: &'static str) -> EmbedError {
    EmbedError::Malformed { format: Format::Jpeg, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCAN: &[u8] = &[0xff, 0xda, 0x00, 0x02, 0x12, 0x34, 0xff, 0xd9];

    fn file(head: &[u8]) -> Vec<u8> {
        [&SOI, head, SCAN].concat()
    }

    #[test]
    fn xmp_follows_jfif() {
        let jfif = [0xff, 0xe0, 0x00, 0x04, b'J', b'F'];
        let marked = insert(&file(&jfif), b"<x/>", None, &[]).expect("a well-formed file");
        assert_eq!(&marked[..8], [&SOI[..], &jfif].concat());
        assert_eq!(find(&marked), Ok(Some(&b"<x/>"[..])));
        assert!(marked.ends_with(SCAN));
    }

    #[test]
    fn xmp_is_first_where_there_is_no_jfif() {
        let marked = insert(&file(&[0xff, 0xdb, 0x00, 0x03, 0x01]), b"<x/>", None, &[]).expect("a well-formed file");
        assert_eq!(&marked[2..4], &[0xff, APP1]);
    }

    #[test]
    fn damaged_headers_are_refused() {
        for broken in [&b""[..], b"\x89PNG", &SOI, &[0xff, 0xd8, 0xff, 0xe0, 0x00, 0x01], &[0xff, 0xd8, 0x00]] {
            assert!(matches!(find(broken), Err(EmbedError::Malformed { .. })), "{broken:?}");
        }
    }
}
