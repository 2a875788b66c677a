//! The container of AVIF: which coded frames make the picture, where they lie in it, and how it is turned.
//!
//! Auxiliary pictures (transparency, depth, gain maps), sequences and derived pictures other than grids are passed over or
//! refused. All coded bytes together are no more than the file's.
//!
//! Sources: AV1 Image File Format 1.1; ISO/IEC 23008-12 (HEIF): `grid` §6.6.2.3, `irot` §6.5.10, `imir` §6.5.12; ISO/IEC
//! 14496-12: `ipma` §8.11.14, `clap` §12.1.4, `colr` §12.1.5.

use std::borrow::Cow;

use image::{RgbImage, imageops};

use super::av1::{self, Colour};
use super::{DecodeFault, check_size};
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

/// A picture before its frames are decoded.
#[derive(Debug)]
pub(crate) struct Still<'a> {
    /// Row by row; one where the picture is no grid.
    tiles: Vec<Cow<'a, [u8]>>,
    columns: usize,
    /// Of the whole picture before it is turned; a picture that is no grid and does not say has that of its frame.
    size_px: Option<(u32, u32)>,
    colour: Option<Colour>,
    turns: Vec<Turn>,
}

/// What is done to the decoded picture, in the file's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Cut {
        left: u32,
        top: u32,
        width_px: u32,
        height_px: u32,
    },
    /// By so many quarters, counter-clockwise.
    Rotate(u8),
    UpsideDown,
    Mirror,
}

pub(super) fn decode(file: &[u8], pixels_max: u64) -> Result<RgbImage, DecodeFault> {
    let still = Still::read(file)?;
    if let Some((width_px, height_px)) = still.size_px {
        check_size(width_px, height_px, pixels_max)?;
    }
    let area_px_max = u32::try_from(pixels_max).unwrap_or(u32::MAX);
    let mut picture: Option<RgbImage> = None;
    let mut tile_px = (0, 0);
    for (at, tile) in still.tiles.iter().enumerate() {
        let frame = bildkante_av1::decode(tile, area_px_max).map_err(DecodeFault::damaged)?;
        let size = (side(frame.width_px())?, side(frame.height_px())?);
        if at == 0 {
            tile_px = size;
        }
        let (width_px, height_px) = still.size_px.filter(|_| still.is_grid()).unwrap_or(size);
        if picture.is_none() {
            check_size(width_px, height_px, pixels_max)?;
        }
        let picture = picture.get_or_insert_with(|| RgbImage::new(width_px, height_px));
        let (column, row) = (side(at % still.columns)?, side(at / still.columns)?);
        let place = (column.saturating_mul(tile_px.0), row.saturating_mul(tile_px.1));
        av1::paint(picture, place, &frame, still.colour);
    }
    let picture = picture.ok_or_else(|| DecodeFault::damaged("it holds no picture"))?;
    Ok(still.turns.iter().fold(picture, |picture, turn| turn.applied(picture)))
}

fn side(count: usize) -> Result<u32, DecodeFault> {
    u32::try_from(count).map_err(|_| DecodeFault::damaged("a side over 32 bits"))
}

impl From<BmffError> for DecodeFault {
    fn from(error: BmffError) -> Self {
        match error {
            BmffError::Malformed(what) => Self::damaged(what),
            BmffError::Unsupported(what) => Self::unsupported(what),
        }
    }
}

impl Turn {
    fn applied(self, picture: RgbImage) -> RgbImage {
        match self {
            // A cut that does not lie in the picture is none.
            Self::Cut { left, top, width_px, height_px }
                if u64::from(left) + u64::from(width_px) <= u64::from(picture.width())
                    && u64::from(top) + u64::from(height_px) <= u64::from(picture.height()) =>
            {
                imageops::crop_imm(&picture, left, top, width_px, height_px).to_image()
            }
            Self::Rotate(1) => imageops::rotate270(&picture),
            Self::Rotate(2) => imageops::rotate180(&picture),
            Self::Rotate(3) => imageops::rotate90(&picture),
            Self::UpsideDown => imageops::flip_vertical(&picture),
            Self::Mirror => imageops::flip_horizontal(&picture),
            Self::Cut { .. } | Self::Rotate(_) => picture,
        }
    }
}

impl<'a> Still<'a> {
    const fn is_grid(&self) -> bool {
        self.tiles.len() > 1
    }

    /// Reads the container; no frame is looked into.
    pub(crate) fn read(file: &'a [u8]) -> Result<Self, BmffError> {
        let container = Container::read(file)?;
        let primary = container.primary;
        let properties = container.properties(primary)?;
        let (tiles, columns, grid_px) = match &container.kind(primary)? {
            b"av01" => (vec![container.bytes(primary)?], 1, None),
            b"grid" => {
                let grid = Grid::read(&container.bytes(primary)?)?;
                (container.tiles(primary, &grid)?, grid.columns, Some((grid.width_px, grid.height_px)))
            }
            _ => return Err(unsupported("a primary item other than an AV1 picture or a grid")),
        };
        let all: usize = tiles.iter().map(|tile| tile.len()).sum();
        if all > file.len() {
            return Err(malformed("its items overlap"));
        }
        let colour = match (properties.colour, tiles.is_empty()) {
            (None, false) if grid_px.is_some() => container.colour_of_first_tile(primary)?,
            (colour, _) => colour,
        };
        Ok(Self { tiles, columns, size_px: grid_px.or(properties.size_px), colour, turns: properties.turns })
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
struct Properties {
    size_px: Option<(u32, u32)>,
    colour: Option<Colour>,
    turns: Vec<Turn>,
}

/// The `meta` box of a file.
struct Container<'a> {
    file: &'a [u8],
    idat: &'a [u8],
    infos: ItemInfos<'a>,
    locations: ItemLocations,
    primary: u32,
    known: Vec<Bmff<'a>>,
    associations: Option<&'a [u8]>,
    references: Option<&'a [u8]>,
}

impl<'a> Container<'a> {
    fn read(file: &'a [u8]) -> Result<Self, BmffError> {
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

    fn tiles(&self, grid_id: u32, grid: &Grid) -> Result<Vec<Cow<'a, [u8]>>, BmffError> {
        let ids = self.derived_from(grid_id)?;
        if ids.len() != grid.rows * grid.columns {
            return Err(malformed("its grid has other tiles than it counts"));
        }
        let mut tiles: Vec<Cow<'a, [u8]>> = Vec::with_capacity(ids.len());
        let mut all = 0;
        for id in ids {
            if &self.kind(id)? != b"av01" {
                return Err(unsupported("a grid of other items than AV1 pictures"));
            }
            let tile = self.bytes(id)?;
            all += tile.len();
            if all > self.file.len() {
                return Err(malformed("its items overlap"));
            }
            tiles.push(tile);
        }
        Ok(tiles)
    }

    /// `iref` (§8.11.12), references of type `dimg`: the items that a derived item is made of.
    fn derived_from(&self, id: u32) -> Result<Vec<u32>, BmffError> {
        let (version, _, mut reader) = full_box(self.references.ok_or(malformed("its grid refers to no tile"))?)?;
        for reference in boxes(reader.take(reader.remaining()).map_err(short)?)? {
            let mut fields = Reader::new(reference.body);
            let from = read_id(&mut fields, version > 0)?;
            if &reference.kind != b"dimg" || from != id {
                continue;
            }
            let count = usize::from(fields.u16().map_err(short)?).min(TILES_MAX + 1);
            return (0..count).map(|_| read_id(&mut fields, version > 0)).collect();
        }
        Err(malformed("its grid refers to no tile"))
    }

    fn colour_of_first_tile(&self, grid_id: u32) -> Result<Option<Colour>, BmffError> {
        let first = self.derived_from(grid_id)?.first().copied();
        Ok(first.map(|id| self.properties(id)).transpose()?.and_then(|properties| properties.colour))
    }

    fn properties(&self, id: u32) -> Result<Properties, BmffError> {
        let mut properties = Properties::default();
        for index in self.associated(id)? {
            // Index 0 stands for none.
            let Some(property) = usize::from(index).checked_sub(1).and_then(|at| self.known.get(at)) else { continue };
            properties.take(property)?;
        }
        Ok(properties)
    }

    /// `ipma` (§8.11.14): numbers of the item's properties.
    fn associated(&self, id: u32) -> Result<Vec<u16>, BmffError> {
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
                let index = if is_wide {
                    reader.u16().map_err(short)? & 0x7fff
                } else {
                    u16::from(reader.u8().map_err(short)? & 0x7f)
                };
                indices.push(index);
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

impl Properties {
    fn take(&mut self, property: &Bmff<'_>) -> Result<(), BmffError> {
        match &property.kind {
            b"ispe" => {
                let (_, _, mut reader) = full_box(property.body)?;
                self.size_px = Some((reader.u32().map_err(short)?, reader.u32().map_err(short)?));
            }
            b"colr" => self.colour = nclx(property.body).or(self.colour),
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

/// Primaries, transfer, matrix, then a bit for the range; profiles are passed over.
fn nclx(body: &[u8]) -> Option<Colour> {
    let fields: &[u8; 7] = body.strip_prefix(b"nclx")?.first_chunk()?;
    let [_, _, _, _, high, low, range] = *fields;
    Some(Colour { matrix: u16::from_be_bytes([high, low]), is_full_range: range & 0x80 != 0 })
}

/// Width, height and the offset of the centre from the picture's, each as a fraction.
fn cut(body: &[u8], size_px: (u32, u32)) -> Option<Turn> {
    let mut reader = Reader::new(body);
    let mut fraction = || {
        let (over, under) = (reader.u32().ok()?.cast_signed(), reader.u32().ok()?);
        (under != 0).then(|| f64::from(over) / f64::from(under))
    };
    let (width, height, right, down) = (fraction()?, fraction()?, fraction()?, fraction()?);
    let whole = |value: f64| (0.0..4_294_967_295.0).contains(&value).then(|| value.round() as u32);
    let left = whole((f64::from(size_px.0) - width) / 2.0 + right)?;
    let top = whole((f64::from(size_px.1) - height) / 2.0 + down)?;
    let (width_px, height_px) = (whole(width)?, whole(height)?);
    (width_px > 0 && height_px > 0).then_some(Turn::Cut { left, top, width_px, height_px })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// Encoded once: it takes a moment.
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let grey = vec![rgb::RGB8::new(90, 100, 110); 64 * 48];
        let encoder = ravif::Encoder::new().with_quality(80.0).with_speed(10).with_num_threads(Some(1));
        encoder.encode_rgb(ravif::Img::new(&grey[..], 64, 48)).expect("avif").avif_file
    });

    #[test]
    fn a_picture_has_one_tile_and_its_size() {
        let still = Still::read(&FILE).expect("our own file");
        assert_eq!((still.tiles.len(), still.size_px), (1, Some((64, 48))));
        assert!(still.turns.is_empty());
    }

    #[test]
    fn a_cut_lies_where_its_centre_is_moved_to() {
        let fields = |fields: [i32; 8]| fields.iter().flat_map(|field| field.to_be_bytes()).collect::<Vec<u8>>();
        let middle = cut(&fields([32, 1, 16, 1, 0, 1, 0, 1]), (64, 48));
        assert_eq!(middle, Some(Turn::Cut { left: 16, top: 16, width_px: 32, height_px: 16 }));
        let corner = cut(&fields([32, 1, 16, 1, -16, 1, -32, 2]), (64, 48));
        assert_eq!(corner, Some(Turn::Cut { left: 0, top: 0, width_px: 32, height_px: 16 }));
        assert_eq!(cut(&fields([32, 0, 16, 1, 0, 1, 0, 1]), (64, 48)), None);
        let outside = Turn::Cut { left: 60, top: 0, width_px: 32, height_px: 16 };
        assert_eq!(outside.applied(RgbImage::new(64, 48)).dimensions(), (64, 48));
    }

    #[test]
    fn turns_are_counter_clockwise() {
        let mut picture = RgbImage::new(2, 1);
        picture.put_pixel(0, 0, image::Rgb([255, 0, 0]));
        let turned = Turn::Rotate(1).applied(picture.clone());
        assert_eq!((turned.dimensions(), turned.get_pixel(0, 1).0), ((1, 2), [255, 0, 0]));
        assert_eq!(Turn::Mirror.applied(picture.clone()).get_pixel(1, 0).0, [255, 0, 0]);
        assert_eq!(Turn::UpsideDown.applied(picture).get_pixel(0, 0).0, [255, 0, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

        #[test]
        fn damaged_containers_are_errors_and_never_panics(
            flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..12),
            end in any::<prop::sample::Index>(),
        ) {
            let mut file = FILE.clone();
            for (at, byte) in flips {
                let at = at % file.len();
                file[at] = byte;
            }
            file.truncate(end.index(file.len()) + 1);
            let _ = Still::read(&file);
        }
    }
}
