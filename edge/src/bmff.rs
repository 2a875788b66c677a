//! As much of ISO BMFF (ISO/IEC 14496-12) as finding and moving an item needs: boxes, `iinf`/`infe`, `iloc`, `pitm`.
//!
//! Parsers keep what they do not interpret, so that what is written back differs only where it must. Every read is
//! bounds-checked, and the number of boxes and items is bounded.

use crate::octets::{Reader, Short};

/// Most boxes on one level and most items in one file: far above any still image, far below a burden.
const ENTRIES_MAX: usize = 1024;

/// Why a file could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BmffError {
    #[error("it is damaged: {0}")]
    Malformed(&'static str),
    #[error("it uses {0}, which is not handled")]
    Unsupported(&'static str),
}

pub(crate) const fn malformed(what: &'static str) -> BmffError {
    BmffError::Malformed(what)
}

pub(crate) const fn unsupported(what: &'static str) -> BmffError {
    BmffError::Unsupported(what)
}

pub(crate) fn short(_: Short) -> BmffError {
    malformed("a box ends inside a field")
}

/// How a box says where it ends (§4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Plain,
    Large,
    ToEnd,
}

/// A box (§4.2) and where it lies in the bytes it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Bmff<'a> {
    pub(crate) kind: [u8; 4],
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) body: &'a [u8],
    pub(crate) size: Size,
}

/// The boxes one after the other in `bytes`.
pub(crate) fn boxes(bytes: &[u8]) -> Result<Vec<Bmff<'_>>, BmffError> {
    let mut reader = Reader::new(bytes);
    let mut boxes = Vec::new();
    while !reader.is_empty() {
        if boxes.len() == ENTRIES_MAX {
            return Err(unsupported("more boxes than any image needs"));
        }
        let start = reader.at();
        let size = reader.u32().map_err(short)?;
        let kind = reader.array().map_err(short)?;
        let too_small = malformed("a box is smaller than its header");
        let (size, body_bytes) = match size {
            0 => (Size::ToEnd, reader.remaining()),
            1 => {
                let large = usize::try_from(reader.u64().map_err(short)?).map_err(|_| short(Short))?;
                (Size::Large, large.checked_sub(16).ok_or(too_small)?)
            }
            plain => (Size::Plain, (plain as usize).checked_sub(8).ok_or(too_small)?),
        };
        let body = reader.take(body_bytes).map_err(|Short| malformed("a box ends after the file does"))?;
        boxes.push(Bmff { kind, start, end: reader.at(), body, size });
    }
    Ok(boxes)
}

/// The only box of a kind, `None` where there is none.
pub(crate) fn only<'b, 'a>(boxes: &'b [Bmff<'a>], kind: [u8; 4]) -> Result<Option<&'b Bmff<'a>>, BmffError> {
    let mut found = boxes.iter().filter(|candidate| candidate.kind == kind);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(malformed("a box that may stand once stands twice")),
        (first, None) => Ok(first),
    }
}

/// Writes a box with a 32-bit size.
pub(crate) fn push_box(out: &mut Vec<u8>, kind: [u8; 4], body: &[u8]) -> Result<(), BmffError> {
    let size = u32::try_from(body.len() + 8).map_err(|_| unsupported("a box over 4 GiB"))?;
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&kind);
    out.extend_from_slice(body);
    Ok(())
}

/// Version and flags of a full box (§4.2.2).
pub(crate) fn full_box<'a>(body: &'a [u8]) -> Result<(u8, [u8; 3], Reader<'a>), BmffError> {
    let mut reader = Reader::new(body);
    let [version, flags @ ..] = reader.array::<4>().map_err(short)?;
    Ok((version, flags, reader))
}

/// Bytes of an item id: 16 bits in older versions of each box, 32 in newer ones.
pub(crate) fn read_id(reader: &mut Reader<'_>, is_wide: bool) -> Result<u32, BmffError> {
    if is_wide { reader.u32().map_err(short) } else { Ok(u32::from(reader.u16().map_err(short)?)) }
}

pub(crate) fn push_id(out: &mut Vec<u8>, id: u32, is_wide: bool) -> Result<(), BmffError> {
    if is_wide {
        out.extend_from_slice(&id.to_be_bytes());
    } else {
        out.extend_from_slice(&narrow(id)?.to_be_bytes());
    }
    Ok(())
}

fn narrow(value: u32) -> Result<u16, BmffError> {
    u16::try_from(value).map_err(|_| unsupported("more items than 16 bits number"))
}

/// `pitm` (§8.11.4): the id of the primary item.
pub(crate) fn primary_item(body: &[u8]) -> Result<u32, BmffError> {
    let (version, _, mut reader) = full_box(body)?;
    read_id(&mut reader, version > 0)
}

/// One `infe` (§8.11.6): what an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemInfo<'a> {
    pub(crate) id: u32,
    pub(crate) kind: [u8; 4],
    /// Only `mime` items have one.
    pub(crate) content_type: Option<&'a [u8]>,
}

/// What an added item is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ItemKind<'a> {
    Exif,
    /// With its content type.
    Mime(&'a str),
}

/// `iinf` (§8.11.6): the list of items.
#[derive(Debug)]
pub(crate) struct ItemInfos<'a> {
    version: u8,
    flags: [u8; 3],
    count: u32,
    entries: &'a [u8],
    pub(crate) items: Vec<ItemInfo<'a>>,
}

impl<'a> ItemInfos<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, BmffError> {
        let (version, flags, mut reader) = full_box(body)?;
        let count = read_id(&mut reader, version > 0)?;
        let entries = reader.take(reader.remaining()).map_err(short)?;
        let items = boxes(entries)?.iter().map(ItemInfo::parse).collect::<Result<Vec<_>, _>>()?;
        if items.len() != count as usize {
            return Err(malformed("iinf counts other items than it lists"));
        }
        Ok(Self { version, flags, count, entries, items })
    }

    /// The box with items added, the first of which has the id `first`; their names are empty, as for the other items.
    pub(crate) fn with(&self, first: u32, kinds: &[ItemKind<'_>]) -> Result<Vec<u8>, BmffError> {
        let added = u32::try_from(kinds.len()).map_err(|_| unsupported("more items than 32 bits number"))?;
        let mut body = vec![self.version];
        body.extend_from_slice(&self.flags);
        push_id(&mut body, self.count + added, self.version > 0)?;
        body.extend_from_slice(self.entries);
        for (id, kind) in (first..).zip(kinds) {
            push_box(&mut body, *b"infe", &item_info(id, *kind)?)?;
        }
        Ok(body)
    }
}

fn item_info(id: u32, kind: ItemKind<'_>) -> Result<Vec<u8>, BmffError> {
    let mut infe = vec![2, 0, 0, 0];
    push_id(&mut infe, id, false)?;
    infe.extend_from_slice(&[0, 0]); // not protected
    match kind {
        ItemKind::Exif => infe.extend_from_slice(b"Exif\0"),
        ItemKind::Mime(content_type) => {
            infe.extend_from_slice(b"mime\0");
            infe.extend_from_slice(content_type.as_bytes());
            infe.push(0);
        }
    }
    Ok(infe)
}

impl<'a> ItemInfo<'a> {
    fn parse(entry: &Bmff<'a>) -> Result<Self, BmffError> {
        if &entry.kind != b"infe" {
            return Err(malformed("iinf holds a box other than infe"));
        }
        let (version, _, mut reader) = full_box(entry.body)?;
        if !(2..=3).contains(&version) {
            return Err(unsupported("an infe of version 0 or 1"));
        }
        let id = read_id(&mut reader, version == 3)?;
        let _protection = reader.u16().map_err(short)?;
        let kind = reader.array().map_err(short)?;
        let _name = reader.until_nul().map_err(short)?;
        let content_type = if &kind == b"mime" { Some(reader.until_nul().map_err(short)?) } else { None };
        Ok(Self { id, kind, content_type })
    }
}

/// One extent of an item: a run of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    index: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Where one item's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemLocation {
    pub(crate) id: u32,
    /// Reserved bits and the construction method: 0 is "offset in the file".
    pub(crate) method: u16,
    data_reference: u16,
    pub(crate) base_offset: u64,
    pub(crate) extents: Vec<Extent>,
}

/// `iloc` (§8.11.3): where the items' bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ItemLocations {
    version: u8,
    flags: [u8; 3],
    offset_bytes: u8,
    length_bytes: u8,
    base_bytes: u8,
    index_bytes: u8,
    pub(crate) items: Vec<ItemLocation>,
}

impl ItemLocations {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BmffError> {
        let (version, flags, mut reader) = full_box(body)?;
        if version > 2 {
            return Err(unsupported("an iloc of a version above 2"));
        }
        let [sizes, more] = reader.array().map_err(short)?;
        let index_bytes = if version > 0 { more & 15 } else { 0 };
        let mut locations = Self {
            version,
            flags,
            offset_bytes: sizes >> 4,
            length_bytes: sizes & 15,
            base_bytes: more >> 4,
            index_bytes,
            items: Vec::new(),
        };
        let widths = [locations.offset_bytes, locations.length_bytes, locations.base_bytes, index_bytes];
        if widths.iter().any(|width| ![0, 4, 8].contains(width)) {
            return Err(malformed("iloc has fields of other than 0, 4 or 8 bytes"));
        }
        let count = read_id(&mut reader, version == 2)? as usize;
        if count > ENTRIES_MAX {
            return Err(unsupported("more items than any image needs"));
        }
        for _ in 0..count {
            let item = locations.parse_item(&mut reader)?;
            locations.items.push(item);
        }
        Ok(locations)
    }

    fn parse_item(&self, reader: &mut Reader<'_>) -> Result<ItemLocation, BmffError> {
        let id = read_id(reader, self.version == 2)?;
        let method = if self.version > 0 { reader.u16().map_err(short)? } else { 0 };
        let data_reference = reader.u16().map_err(short)?;
        let base_offset = reader.sized(self.base_bytes).map_err(short)?;
        let count = usize::from(reader.u16().map_err(short)?);
        if count > ENTRIES_MAX {
            return Err(unsupported("more extents than any image needs"));
        }
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            let index = reader.sized(self.index_bytes).map_err(short)?;
            let offset = reader.sized(self.offset_bytes).map_err(short)?;
            let length = reader.sized(self.length_bytes).map_err(short)?;
            extents.push(Extent { index, offset, length });
        }
        Ok(ItemLocation { id, method, data_reference, base_offset, extents })
    }

    /// Adds an item of one extent at a file offset.
    pub(crate) fn push(&mut self, id: u32, offset: u64, length: u64) -> Result<(), BmffError> {
        if self.offset_bytes == 0 || self.length_bytes == 0 {
            return Err(unsupported("an iloc without offsets or lengths"));
        }
        let extents = vec![Extent { index: 0, offset, length }];
        self.items.push(ItemLocation { id, method: 0, data_reference: 0, base_offset: 0, extents });
        Ok(())
    }

    /// Follows data of this file at or after `from` that moves up by `by` bytes.
    pub(crate) fn shift(&mut self, from: u64, by: u64) -> Result<(), BmffError> {
        let far = || malformed("iloc points past 64 bits");
        for item in self.items.iter_mut().filter(|item| item.method & 15 == 0 && item.data_reference == 0) {
            let starts = item.extents.iter().map(|extent| item.base_offset.checked_add(extent.offset));
            let starts = starts.collect::<Option<Vec<_>>>().ok_or_else(far)?;
            let moving = starts.iter().filter(|start| **start >= from).count();
            if moving == starts.len() && item.base_offset > 0 {
                item.base_offset = item.base_offset.checked_add(by).ok_or_else(far)?;
                continue;
            }
            for (extent, start) in item.extents.iter_mut().zip(starts) {
                if start >= from {
                    extent.offset = extent.offset.checked_add(by).ok_or_else(far)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn to_body(&self) -> Result<Vec<u8>, BmffError> {
        let mut body = vec![self.version];
        body.extend_from_slice(&self.flags);
        body.push(self.offset_bytes << 4 | self.length_bytes);
        body.push(self.base_bytes << 4 | self.index_bytes);
        let is_wide = self.version == 2;
        let count = u32::try_from(self.items.len()).map_err(|_| unsupported("more items than 32 bits number"))?;
        push_id(&mut body, count, is_wide)?;
        for item in &self.items {
            push_id(&mut body, item.id, is_wide)?;
            if self.version > 0 {
                body.extend_from_slice(&item.method.to_be_bytes());
            }
            body.extend_from_slice(&item.data_reference.to_be_bytes());
            push_sized(&mut body, item.base_offset, self.base_bytes)?;
            let extents = u32::try_from(item.extents.len()).map_err(|_| unsupported("too many extents"))?;
            body.extend_from_slice(&narrow(extents)?.to_be_bytes());
            for extent in &item.extents {
                push_sized(&mut body, extent.index, self.index_bytes)?;
                push_sized(&mut body, extent.offset, self.offset_bytes)?;
                push_sized(&mut body, extent.length, self.length_bytes)?;
            }
        }
        Ok(body)
    }
}

fn push_sized(out: &mut Vec<u8>, value: u64, width_bytes: u8) -> Result<(), BmffError> {
    let skipped = 8_usize.saturating_sub(usize::from(width_bytes));
    let bytes = value.to_be_bytes();
    if bytes[..skipped].iter().any(|byte| *byte != 0) {
        return Err(unsupported("an iloc field too narrow for its value"));
    }
    out.extend_from_slice(&bytes[skipped..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations(version: u8, base_bytes: u8) -> ItemLocations {
        let items = vec![
            ItemLocation {
                id: 1,
                method: 0,
                data_reference: 0,
                base_offset: if base_bytes > 0 { 500 } else { 0 },
                extents: vec![Extent { index: 0, offset: 10, length: 5 }, Extent { index: 0, offset: 600, length: 7 }],
            },
            ItemLocation {
                id: 2,
                method: u16::from(version > 0),
                data_reference: 0,
                base_offset: 0,
                extents: vec![Extent { index: 0, offset: 600, length: 7 }],
            },
        ];
        let index_bytes = if version > 0 { 4 } else { 0 };
        ItemLocations { version, flags: [0; 3], offset_bytes: 4, length_bytes: 8, base_bytes, index_bytes, items }
    }

    #[test]
    fn every_version_round_trips() {
        for version in 0..=2 {
            for base_bytes in [0, 4, 8] {
                let written = locations(version, base_bytes).to_body().expect("small numbers");
                assert_eq!(ItemLocations::parse(&written), Ok(locations(version, base_bytes)));
            }
        }
    }

    #[test]
    fn only_file_data_behind_the_edit_moves() {
        let mut plain = locations(1, 0);
        plain.shift(100, 40).expect("small numbers");
        assert_eq!(plain.items[0].extents.iter().map(|e| e.offset).collect::<Vec<_>>(), [10, 640]);
        assert_eq!(plain.items[1].extents[0].offset, 600, "an idat offset is relative to its box");

        let mut based = locations(0, 4);
        based.shift(100, 40).expect("small numbers");
        assert_eq!((based.items[0].base_offset, based.items[0].extents[0].offset), (540, 10));
    }

    #[test]
    fn a_field_too_narrow_is_an_error_and_not_a_truncation() {
        let mut locations = locations(0, 0);
        assert_eq!(locations.shift(0, u64::from(u32::MAX)), Ok(()));
        assert!(matches!(locations.to_body(), Err(BmffError::Unsupported(_))));
    }

    #[test]
    fn boxes_may_not_reach_past_the_end() {
        assert!(boxes(&[0, 0, 0, 9, b'f', b'r', b'e', b'e']).is_err());
        assert!(boxes(&[0, 0, 0, 7, b'f', b'r', b'e', b'e']).is_err());
        assert!(boxes(&[0, 0, 0, 1, b'f', b'r', b'e', b'e', 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
        let to_the_end = boxes(&[0, 0, 0, 0, b'm', b'd', b'a', b't', 1, 2]).expect("size 0 reaches to the end");
        assert_eq!(to_the_end[0].body, [1, 2]);
    }
}
