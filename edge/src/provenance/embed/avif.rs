//! XMP in AVIF: an item of type `mime` and content type `application/rdf+xml` that *describes* (`cdsc`) the primary
//! item (ISO/IEC 23008-12 §A.3, which AVIF inherits through MIAF). EXIF: an item of type `Exif` that does the same (§A.2).
//!
//! Their bytes go to the end of the last `mdat`, so that a browser still gets the picture first. The `meta`
//! box in front of the picture grows by the new entries, and every file offset behind it moves along.

use super::EmbedError;
use crate::bmff::{
    Bmff, BmffError, ItemInfos, ItemKind, ItemLocations, Size, boxes, malformed, only, primary_item, push_box, push_id,
    unsupported,
};

const CONTENT_TYPE: &str = "application/rdf+xml";
/// In front of the TIFF header: how many bytes lie between here and there.
const EXIF_OFFSET: [u8; 4] = [0; 4];
/// Bytes of version and flags in front of `meta`'s children.
const META_HEAD_BYTES: usize = 4;

/// The top-level boxes and what the `meta` box says.
struct Layout<'a> {
    top: Vec<Bmff<'a>>,
    meta: Bmff<'a>,
    children: Vec<Bmff<'a>>,
    infos: ItemInfos<'a>,
    locations: ItemLocations,
    primary: u32,
}

impl<'a> Layout<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, BmffError> {
        let top = boxes(file)?;
        if top.first().is_none_or(|first| &first.kind != b"ftyp") {
            return Err(malformed("it does not begin with ftyp"));
        }
        let meta = only(&top, *b"meta")?.ok_or(malformed("it has no meta box"))?.clone();
        let children = boxes(meta.body.get(META_HEAD_BYTES..).ok_or(malformed("its meta box is empty"))?)?;
        if children.iter().chain([&meta]).any(|part| part.size != Size::Plain) {
            return Err(unsupported("a meta box without plain 32-bit sizes"));
        }
        let child = |kind, missing| only(&children, kind)?.ok_or(malformed(missing));
        let infos = ItemInfos::parse(child(*b"iinf", "it lists no items")?.body)?;
        let locations = ItemLocations::parse(child(*b"iloc", "it locates no items")?.body)?;
        let primary = primary_item(child(*b"pitm", "it names no primary item")?.body)?;
        Ok(Self { top, meta, children, infos, locations, primary })
    }

    fn next_item_id(&self) -> Result<u32, BmffError> {
        let known = self.infos.items.iter().map(|item| item.id).chain(self.locations.items.iter().map(|item| item.id));
        known.max().unwrap_or(0).checked_add(1).ok_or(unsupported("the last item id there is"))
    }

    /// The `meta` box with the items added, the first of which has the id `first`.
    fn meta_with(&self, items: &[NewItem<'_>], first: u32, locations: &ItemLocations) -> Result<Vec<u8>, BmffError> {
        let kinds: Vec<ItemKind<'_>> = items.iter().map(|item| item.kind).collect();
        let ids = first..first + items.len() as u32;
        let mut body = self.meta.body[..META_HEAD_BYTES].to_vec();
        let has_references = self.children.iter().any(|child| &child.kind == b"iref");
        for child in &self.children {
            match &child.kind {
                b"iloc" => push_box(&mut body, child.kind, &locations.to_body()?)?,
                b"iinf" => {
                    push_box(&mut body, child.kind, &self.infos.with(first, &kinds)?)?;
                    if !has_references {
                        push_box(&mut body, *b"iref", &with_references(&[0; 4], ids.clone(), self.primary)?)?;
                    }
                }
                b"iref" => push_box(&mut body, child.kind, &with_references(child.body, ids.clone(), self.primary)?)?,
                _ => push_box(&mut body, child.kind, child.body)?,
            }
        }
        let mut meta = Vec::with_capacity(body.len() + 8);
        push_box(&mut meta, *b"meta", &body)?;
        Ok(meta)
    }
}

/// An item to add, and its bytes in parts.
struct NewItem<'a> {
    kind: ItemKind<'a>,
    data: Vec<&'a [u8]>,
}

impl NewItem<'_> {
    fn bytes(&self) -> usize {
        self.data.iter().map(|part| part.len()).sum()
    }
}

pub(super) fn insert(file: &[u8], xmp: &[u8], exif: Option<&[u8]>) -> Result<Vec<u8>, EmbedError> {
    Ok(inserted(file, xmp, exif)?)
}

fn inserted(file: &[u8], xmp: &[u8], exif: Option<&[u8]>) -> Result<Vec<u8>, BmffError> {
    let exif = exif.map(|exif| NewItem { kind: ItemKind::Exif, data: vec![&EXIF_OFFSET, exif] });
    let items: Vec<NewItem<'_>> =
        exif.into_iter().chain([NewItem { kind: ItemKind::Mime(CONTENT_TYPE), data: vec![xmp] }]).collect();
    let layout = Layout::parse(file)?;
    let first = layout.next_item_id()?;
    first.checked_add(items.len() as u32).ok_or(unsupported("the last item id there is"))?;
    let added_bytes = items.iter().map(NewItem::bytes).sum::<usize>();
    let tail = Tail::of(&layout.top)?;
    let gap_bytes = if matches!(tail, Tail::Append) { 8 } else { 0 }; // a new mdat has a header

    // The box's length depends on its entries, not on the offsets in them: measure first, then place.
    let placed = |mut locations: ItemLocations, mut at: usize| -> Result<ItemLocations, BmffError> {
        for (id, item) in (first..).zip(&items) {
            locations.push(id, at as u64, item.bytes() as u64)?;
            at += item.bytes();
        }
        Ok(locations)
    };
    let measured = placed(layout.locations.clone(), 0)?;
    let old_meta_bytes = layout.meta.end - layout.meta.start;
    let growth_bytes = layout.meta_with(&items, first, &measured)?.len() - old_meta_bytes;

    let mut locations = layout.locations.clone();
    locations.shift(layout.meta.end as u64, growth_bytes as u64)?;
    let locations = placed(locations, file.len() + growth_bytes + gap_bytes)?;
    let meta = layout.meta_with(&items, first, &locations)?;

    let mut out = Vec::with_capacity(file.len() + growth_bytes + gap_bytes + added_bytes);
    out.extend_from_slice(&file[..layout.meta.start]);
    out.extend_from_slice(&meta);
    out.extend_from_slice(&file[layout.meta.end..]);
    let data = items.iter().flat_map(|item| &item.data).copied().collect::<Vec<_>>().concat();
    match tail {
        Tail::Grow { start, end } => {
            let size = u32::try_from(end - start + added_bytes).map_err(|_| unsupported("a box over 4 GiB"))?;
            // It is the last box, so it lay behind meta and has moved.
            let at = start + growth_bytes;
            out[at..at + 4].copy_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&data);
        }
        Tail::Open => out.extend_from_slice(&data),
        Tail::Append => push_box(&mut out, *b"mdat", &data)?,
    }
    Ok(out)
}

/// How bytes are added at the end of a file.
enum Tail {
    /// The last box is an `mdat` whose size is raised.
    Grow { start: usize, end: usize },
    /// The last box is an `mdat` that reaches to the end of the file anyhow.
    Open,
    /// Anything else: a further `mdat` follows.
    Append,
}

impl Tail {
    fn of(top: &[Bmff<'_>]) -> Result<Self, BmffError> {
        match top.last() {
            Some(last) if &last.kind == b"mdat" && last.size == Size::Plain => {
                Ok(Self::Grow { start: last.start, end: last.end })
            }
            Some(last) if last.size != Size::ToEnd => Ok(Self::Append),
            Some(last) if &last.kind == b"mdat" => Ok(Self::Open),
            _ => Err(unsupported("an open-ended last box other than mdat")),
        }
    }
}

pub(super) fn find(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    let is_xmp = |content_type: Option<&[u8]>| content_type == Some(CONTENT_TYPE.as_bytes());
    Ok(found(file, |kind, content_type| kind == *b"mime" && is_xmp(content_type))?)
}

/// The TIFF file in the `Exif` item.
pub(super) fn find_exif(file: &[u8]) -> Result<Option<&[u8]>, EmbedError> {
    let Some(item) = found(file, |kind, _| kind == *b"Exif")? else { return Ok(None) };
    let (offset, rest) = item.split_first_chunk::<4>().ok_or(malformed("its Exif item is too short"))?;
    let block = rest.get(u32::from_be_bytes(*offset) as usize..);
    Ok(Some(block.ok_or(malformed("its Exif item ends before its header"))?))
}

/// The bytes of the first item that `is_wanted` by its type and content type.
fn found(file: &[u8], is_wanted: impl Fn([u8; 4], Option<&[u8]>) -> bool) -> Result<Option<&[u8]>, BmffError> {
    let layout = Layout::parse(file)?;
    let Some(item) = layout.infos.items.iter().find(|item| is_wanted(item.kind, item.content_type)) else {
        return Ok(None);
    };
    let location = layout.locations.items.iter().find(|location| location.id == item.id);
    let location = location.ok_or(malformed("an item of its metadata is nowhere"))?;
    let ([extent], 0) = (location.extents.as_slice(), location.method & 15) else {
        return Err(unsupported("metadata in pieces or inside the meta box"));
    };
    let start = location.base_offset.checked_add(extent.offset).and_then(|start| usize::try_from(start).ok());
    let length = usize::try_from(extent.length).ok();
    let range = start.zip(length).and_then(|(start, length)| Some(start..start.checked_add(length)?));
    range.and_then(|range| file.get(range)).map(Some).ok_or(malformed("an item of its metadata lies outside the file"))
}

/// `iref` (§8.11.12) with "each of `from` describes `to`" added; its version says how wide item ids are.
fn with_references(body: &[u8], from: std::ops::Range<u32>, to: u32) -> Result<Vec<u8>, BmffError> {
    let version = *body.first().ok_or(malformed("its iref box is empty"))?;
    let is_wide = version > 0;
    let mut with = body.to_vec();
    for id in from {
        let mut reference = Vec::with_capacity(10);
        push_id(&mut reference, id, is_wide)?;
        reference.extend_from_slice(&1_u16.to_be_bytes());
        push_id(&mut reference, to, is_wide)?;
        push_box(&mut with, *b"cdsc", &reference)?;
    }
    Ok(with)
}
