//! Boxes of AVIF: which items there are, which one is the picture, which its transparency, and what is said of them.
//!
//! Depth, gain maps and derived pictures other than grids are passed over or refused; so is an item with an essential property
//! that is not known here. Tiles may share their bytes: encoders write equal ones once. What has to be joined from several places is
//! no more than the file's bytes together.
//!
//! Sources: AV1 Image File Format 1.1; ISO/IEC 23008-12 (HEIF): `grid` §6.6.2.3, `irot` §6.5.10, `imir` §6.5.12, `auxC`
//! §6.5.8; ISO/IEC 14496-12: `ipma` §8.11.14, `clap` §12.1.4, `colr` §12.1.5; AV1 in ISOBMFF: `av1C` §2.3.

use std::borrow::Cow;

use super::Coding;
use super::turn::{Turn, cut};
use crate::bmff::{
    Bmff, BmffError, ItemInfos, ItemLocation, ItemLocations, boxes, full_box, malformed, only, primary_item, read_id,
    short, unsupported,
};
use crate::octets::Reader;

/// Most tiles of a grid: 16 × 16.
const TILES_MAX: usize = 256;
/// Most properties of an item that are read.
const PROPERTIES_MAX: usize = 64;
/// Construction methods of an item: in the file, in the `idat` box.
const IN_FILE: u16 = 0;
const IN_IDAT: u16 = 1;
/// What `auxC` calls transparency: in AVIF, and in files that were HEIF first.
const TRANSPARENCY: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
/// Properties that change the picture, or say what is not needed to show it.
const KNOWN: [&[u8; 4]; 12] =
    [b"ispe", b"pixi", b"pasp", b"av1C", b"colr", b"irot", b"imir", b"clap", b"auxC", b"clli", b"mdcv", b"a1lx"];

/// Coded frames that make one plane of colours or of transparency, row by row; one where it is no grid.
#[derive(Debug)]
pub(super) struct Tiles<'a> {
    pub(super) frames: Vec<Cow<'a, [u8]>>,
    pub(super) columns: usize,
    /// Of the whole, where it is a grid.
    pub(super) grid_px: Option<(u32, u32)>,
}

/// How colours are written beside a transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Straightness {
    Straight,
    /// By the transparency.
    Multiplied,
}

impl Tiles<'_> {
    pub(super) const fn is_grid(&self) -> bool {
        self.grid_px.is_some()
    }
}

/// `grid`: how many tiles make how large a picture.
struct Grid {
    rows: usize,
    columns: usize,
    width_px: u32,
    height_px: u32,
}

impl Grid {
    fn read(bytes: &[u8]) -> Result<Self, BmffError> {
        let mut reader = Reader::new(bytes);
        let [_version, flags, rows, columns] = reader.array().map_err(short)?;
        let (rows, columns) = (usize::from(rows) + 1, usize::from(columns) + 1);
        if rows * columns > TILES_MAX {
            return Err(unsupported("a grid of more than 256 tiles"));
        }
        let (width_px, height_px) = if flags & 1 == 1 {
            (reader.u32().map_err(short)?, reader.u32().map_err(short)?)
        } else {
            (u32::from(reader.u16().map_err(short)?), u32::from(reader.u16().map_err(short)?))
        };
        Ok(Self { rows, columns, width_px, height_px })
    }
}

/// What is said of an item beside its bytes.
#[derive(Debug, Default)]
pub(super) struct Properties<'a> {
    pub(super) size_px: Option<(u32, u32)>,
    pub(super) coding: Option<Coding>,
    /// Of each tile, where it is a grid.
    pub(super) tile_px: Option<(u32, u32)>,
    /// An ICC profile.
    pub(super) profile: Option<&'a [u8]>,
    pub(super) depth: Option<Depth>,
    pub(super) turns: Vec<Turn>,
    is_transparency: bool,
}

/// Of samples (`av1C`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) bits: u8,
    pub(crate) is_grey: bool,
}

/// The `meta` box of a file.
pub(super) struct Container<'a> {
    file: &'a [u8],
    idat: &'a [u8],
    infos: ItemInfos<'a>,
    locations: ItemLocations,
    pub(super) primary: u32,
    known: Vec<Bmff<'a>>,
    associations: Option<&'a [u8]>,
    references: Option<&'a [u8]>,
}

impl<'a> Container<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, BmffError> {
        let top = boxes(file)?;
        let meta = only(&top, *b"meta")?.ok_or(malformed("it has no meta box"))?;
        let (_, _, mut reader) = full_box(meta.body)?;
        let children = boxes(reader.take(reader.remaining()).map_err(short)?)?;
        let child = |kind, missing| only(&children, kind)?.map(|found| found.body).ok_or(malformed(missing));
        let properties = boxes(child(*b"iprp", "it has no properties")?)?;
        let known = only(&properties, *b"ipco")?.map_or(Ok(Vec::new()), |known| boxes(known.body))?;
        Ok(Self {
            file,
            idat: only(&children, *b"idat")?.map_or(&[], |found| found.body),
            infos: ItemInfos::parse(child(*b"iinf", "it lists no items")?)?,
            locations: ItemLocations::parse(child(*b"iloc", "it locates no items")?)?,
            primary: primary_item(child(*b"pitm", "it names no primary item")?)?,
            known,
            associations: properties.iter().find(|found| &found.kind == b"ipma").map(|found| found.body),
            references: only(&children, *b"iref")?.map(|found| found.body),
        })
    }

    fn kind(&self, id: u32) -> Result<[u8; 4], BmffError> {
        let item = self.infos.items.iter().find(|item| item.id == id);
        item.map(|item| item.kind).ok_or(malformed("it lacks an item that it names"))
    }

    /// An item's bytes, its extents one after the other.
    fn bytes(&self, id: u32) -> Result<Cow<'a, [u8]>, BmffError> {
        let location = self.locations.items.iter().find(|location| location.id == id);
        let location = location.ok_or(malformed("an item is nowhere"))?;
        let from = match location.method & 15 {
            IN_FILE => self.file,
            IN_IDAT => self.idat,
            _ => return Err(unsupported("an item that lies in another")),
        };
        match location.extents.as_slice() {
            [_] => Ok(Cow::Borrowed(extent(from, location, 0)?)),
            extents => {
                let mut joined = Vec::new();
                for at in 0..extents.len() {
                    joined.extend_from_slice(extent(from, location, at)?);
                    if joined.len() > self.file.len() {
                        return Err(malformed("its items overlap"));
                    }
                }
                Ok(Cow::Owned(joined))
            }
        }
    }

    /// The coded frames of an item.
    pub(super) fn tiles(&self, id: u32) -> Result<Tiles<'a>, BmffError> {
        match &self.kind(id)? {
            b"av01" => Ok(Tiles { frames: vec![self.bytes(id)?], columns: 1, grid_px: None }),
            b"grid" => {
                let grid = Grid::read(&self.bytes(id)?)?;
                let grid_px = Some((grid.width_px, grid.height_px));
                Ok(Tiles { frames: self.frames(id, &grid)?, columns: grid.columns, grid_px })
            }
            _ => Err(unsupported("a primary item other than an AV1 picture or a grid")),
        }
    }

    fn frames(&self, grid_id: u32, grid: &Grid) -> Result<Vec<Cow<'a, [u8]>>, BmffError> {
        let ids = self.derived_from(grid_id)?;
        if ids.len() != grid.rows * grid.columns {
            return Err(malformed("its grid has other tiles than it counts"));
        }
        let mut frames: Vec<Cow<'a, [u8]>> = Vec::with_capacity(ids.len());
        let mut joined_bytes = 0;
        for id in ids {
            if &self.kind(id)? != b"av01" {
                return Err(unsupported("a grid of other items than AV1 pictures"));
            }
            let frame = self.bytes(id)?;
            joined_bytes += if let Cow::Owned(joined) = &frame { joined.len() } else { 0 };
            if joined_bytes > self.file.len() {
                return Err(malformed("its items overlap"));
            }
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The item with the picture's transparency, and whether the picture's colours are multiplied by it.
    pub(super) fn transparency(&self) -> Result<Option<(u32, Straightness)>, BmffError> {
        let auxiliaries = self.references(*b"auxl")?;
        let mut of_picture = auxiliaries.iter().filter(|(_, to)| to.contains(&self.primary));
        let found = of_picture.try_fold(None, |found, (id, _)| -> Result<Option<u32>, BmffError> {
            Ok(found.or(self.properties(*id)?.is_transparency.then_some(*id)))
        })?;
        if let Some(id) = found {
            let multiplied = self.references(*b"prem")?;
            let is_multiplied = multiplied.iter().any(|(from, to)| *from == self.primary && to.contains(&id));
            let straightness = if is_multiplied { Straightness::Multiplied } else { Straightness::Straight };
            return Ok(Some((id, straightness)));
        }
        let tiles = if &self.kind(self.primary)? == b"grid" { self.derived_from(self.primary)? } else { Vec::new() };
        if auxiliaries.iter().any(|(_, to)| to.iter().any(|to| tiles.contains(to))) {
            return Err(unsupported("a grid whose tiles have their own transparency"));
        }
        Ok(None)
    }

    /// `iref` (§8.11.12): the items of each reference of a kind, from whom and to whom.
    fn references(&self, kind: [u8; 4]) -> Result<Vec<(u32, Vec<u32>)>, BmffError> {
        let Some(references) = self.references else { return Ok(Vec::new()) };
        let (version, _, mut reader) = full_box(references)?;
        let all = boxes(reader.take(reader.remaining()).map_err(short)?)?;
        let of_kind = all.iter().filter(|reference| reference.kind == kind).map(|reference| {
            let mut fields = Reader::new(reference.body);
            let from = read_id(&mut fields, version > 0)?;
            let count = usize::from(fields.u16().map_err(short)?).min(TILES_MAX + 1);
            let to = (0..count).map(|_| read_id(&mut fields, version > 0)).collect::<Result<_, _>>()?;
            Ok((from, to))
        });
        of_kind.collect()
    }

    /// The items that a derived item is made of.
    fn derived_from(&self, id: u32) -> Result<Vec<u32>, BmffError> {
        let derived = self.references(*b"dimg")?.into_iter().find(|(from, _)| *from == id);
        derived.map(|(_, to)| to).ok_or(malformed("its grid refers to no tile"))
    }

    /// What is said of the picture. A grid that says nothing of its colours has those of its first tile.
    pub(super) fn of_picture(&self) -> Result<Properties<'a>, BmffError> {
        let mut own = self.properties(self.primary)?;
        if &self.kind(self.primary)? == b"grid"
            && let Some(first) = self.derived_from(self.primary)?.first()
        {
            let tile = self.properties(*first)?;
            own.depth = own.depth.or(tile.depth);
            own.tile_px = tile.size_px;
            if own.coding.is_none() && own.profile.is_none() {
                (own.coding, own.profile) = (tile.coding, tile.profile);
            }
        }
        Ok(own)
    }

    pub(super) fn properties(&self, id: u32) -> Result<Properties<'a>, BmffError> {
        let mut properties = Properties::default();
        for (index, is_essential) in self.associated(id)? {
            // Index 0 stands for none.
            let Some(property) = usize::from(index).checked_sub(1).and_then(|at| self.known.get(at)) else { continue };
            if is_essential && !KNOWN.contains(&&property.kind) {
                return Err(unsupported("a property that it calls essential and that is not known here"));
            }
            properties.take(property)?;
        }
        Ok(properties)
    }

    /// `ipma` (§8.11.14): numbers of the item's properties, and whether each is essential.
    fn associated(&self, id: u32) -> Result<Vec<(u16, bool)>, BmffError> {
        let Some(associations) = self.associations else { return Ok(Vec::new()) };
        let (version, flags, mut reader) = full_box(associations)?;
        let is_wide = flags[2] & 1 == 1;
        let count = reader.u32().map_err(short)?;
        for _ in 0..count {
            let item = read_id(&mut reader, version > 0)?;
            let length = reader.u8().map_err(short)?;
            let mut indices = Vec::new();
            for _ in 0..length {
                // The uppermost bit says whether the property is essential.
                indices.push(if is_wide {
                    let index = reader.u16().map_err(short)?;
                    (index & 0x7fff, index & 0x8000 != 0)
                } else {
                    let index = reader.u8().map_err(short)?;
                    (u16::from(index & 0x7f), index & 0x80 != 0)
                });
            }
            if item == id {
                indices.truncate(PROPERTIES_MAX);
                return Ok(indices);
            }
        }
        Ok(Vec::new())
    }
}

fn extent<'a>(from: &'a [u8], location: &ItemLocation, at: usize) -> Result<&'a [u8], BmffError> {
    let extent = location.extents.get(at).ok_or(malformed("an item has no bytes"))?;
    let start = location.base_offset.checked_add(extent.offset).and_then(|start| usize::try_from(start).ok());
    let length = usize::try_from(extent.length).ok();
    let range = start.zip(length).and_then(|(start, length)| match length {
        // All that follows (§8.11.3.3).
        0 => Some(start..from.len()),
        length => Some(start..start.checked_add(length)?),
    });
    range.and_then(|range| from.get(range)).ok_or(malformed("an item lies outside the file"))
}

impl<'a> Properties<'a> {
    fn take(&mut self, property: &Bmff<'a>) -> Result<(), BmffError> {
        match &property.kind {
            b"ispe" => {
                let (_, _, mut reader) = full_box(property.body)?;
                self.size_px = Some((reader.u32().map_err(short)?, reader.u32().map_err(short)?));
            }
            b"colr" => match property.body.split_at_checked(4) {
                Some((b"nclx", _)) => self.coding = nclx(property.body).or(self.coding),
                Some((b"prof" | b"rICC", profile)) => self.profile = Some(profile),
                _ => {}
            },
            b"av1C" => self.depth = depth(property.body).or(self.depth),
            b"auxC" => {
                let (_, _, mut reader) = full_box(property.body)?;
                self.is_transparency = TRANSPARENCY.contains(&reader.until_nul().map_err(short)?);
            }
            b"irot" => self.turns.extend(property.body.first().map(|angle| Turn::Rotate(angle & 3))),
            b"imir" => {
                let mirror = |axis: &u8| if axis & 1 == 0 { Turn::UpsideDown } else { Turn::Mirror };
                self.turns.extend(property.body.first().map(mirror));
            }
            b"clap" => self.turns.extend(self.size_px.and_then(|size_px| cut(property.body, size_px))),
            _ => {}
        }
        Ok(())
    }
}

/// Primaries, transfer, matrix, then a bit for the range.
fn nclx(body: &[u8]) -> Option<Coding> {
    let fields: &[u8; 7] = body.strip_prefix(b"nclx")?.first_chunk()?;
    let [primaries, more, transfer, even_more, high, low, range] = *fields;
    Some(Coding {
        primaries: u16::from_be_bytes([primaries, more]),
        transfer: u16::from_be_bytes([transfer, even_more]),
        matrix: u16::from_be_bytes([high, low]),
        is_full_range: range & 0x80 != 0,
    })
}

/// Marker and version, profile and level, then a bit each for tier, more than 8 bits, 12 bits and grey.
fn depth(body: &[u8]) -> Option<Depth> {
    let &[_, _, flags, ..] = body else { return None };
    let bits = match (flags & 0x40 != 0, flags & 0x20 != 0) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    Some(Depth { bits, is_grey: flags & 0x10 != 0 })
}
