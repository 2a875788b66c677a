//! Adding tiles to a picture, as strongly as each place hides them.
//!
//! Along the waves of lightness all three channels of a pixel move by the same step. Along those of colour blue moves, and
//! green a little against it, so that lightness stays (Cb of ITU-R BT.601). Both follow from the texture around: texture
//! hides lightness, and codecs keep it there; where a picture is calm they drop faint lightness altogether, but keep
//! colour that changes slowly, and the eye hardly sees it. So the rougher a place, the more of the one and the less of
//! the other.
//!
//! A cell of 8 × 8 px counts what changes from pixel to pixel in its four quarters, and takes the two calmest of them,
//! because an edge through a cell hides nothing on its flat side. Between the centres of cells the strength runs
//! straight, so that no cell shows.
//!
//! Integers throughout, in one order: the same bytes on every processor. They have 16 bits wherever there is one for
//! each pixel, which is what processors do most of at once.

use super::pattern::TILE_PX;
use super::tile::{TILE_RMS, Tile};

/// Side of a cell in pixels.
const CELL_PX: usize = 8;
const QUARTER_PX: usize = CELL_PX / 2;
/// Bytes of a pixel.
const RGB: usize = 3;

/// Strengths are root mean squares in 1/16 of a code value. Of lightness: where nothing changes,
const LIGHTNESS_FLAT: u32 = 6;
/// for each code value that a pixel differs from the next on average,
const LIGHTNESS_STEP: u32 = 3;
/// and at most.
const LIGHTNESS_MAX: u32 = 29;
/// Of colour (Cb): this less 7/4 of the lightness's, so from 3.8 code values where nothing changes down to 1.3. All by
/// measurement: `docs/watermark.md` has the table.
const COLOUR_UNMARKED: i16 = 71;
/// A cell in which pixels differ by less than two code values on average is calm.
const CALM_BELOW: u32 = LIGHTNESS_FLAT + 2 * LIGHTNESS_STEP;
/// Changes that are counted in the two calmest quarters: one line of 4 px each, to the right and down.
const CHANGES: u32 = 2 * 2 * QUARTER_PX as u32;
/// Fraction bits of a strength between cells: 1/16 for the unit, 1/16 for each of the two straight lines.
const STRENGTH_BITS: u32 = 4 + 4 + 4;
/// Fraction bits of a step: those of strength and tile less the 16 that a product of two loses.
const STEP_BITS: u32 = STRENGTH_BITS + TILE_RMS.trailing_zeros() - 16;

/// Luma of a pixel as ITU-R BT.601 weighs it, in whole code values.
pub(super) fn luma([r, g, b]: [u8; RGB]) -> u8 {
    ((77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b)) >> 8) as u8
}

/// Adds tiles of lightness and colour to whole rows of interleaved RGB, neither of whose sides is 0. Gives the share of
/// calm cells in per cent.
pub(super) fn add(rgb: &mut [u8], width_px: usize, [lightness, colour]: &[Tile; 2]) -> u8 {
    let strengths = Strengths::of(rgb, width_px);
    let (lightness, colour) = (channels(lightness, |value| [value; RGB]), channels(colour, of_cb));
    let mut line = strengths.line();
    for (y, row) in rgb.chunks_exact_mut(width_px * RGB).enumerate() {
        let start = y % TILE_PX * TILE_PX * RGB;
        let tiles = [&lightness, &colour].map(|tile| &tile[start..start + TILE_PX * RGB]);
        add_row(row, strengths.fill(y, &mut line), tiles);
    }
    strengths.calm_percent()
}

/// A tile as interleaved channels, by what its value moves of a pixel.
fn channels(tile: &Tile, pixel: impl Fn(i16) -> [i16; RGB]) -> Vec<i16> {
    let mut channels = vec![0; tile.values().len() * RGB];
    for (channels, value) in channels.chunks_exact_mut(RGB).zip(tile.values()) {
        channels.copy_from_slice(&pixel(*value));
    }
    channels
}

/// Cb: ΔB = 1.772·ΔCb and ΔG = −0.344·ΔCb (ITU-R BT.601), in 1/1024.
fn of_cb(value: i16) -> [i16; RGB] {
    [0, -352, 1815].map(|share| ((i32::from(value) * share) >> 10) as i16)
}

/// Moves each channel of a row, by whole code values.
fn add_row(row: &mut [u8], strengths: &[i16], [lightness, colour]: [&[i16]; 2]) {
    const HALF: i16 = 1 << (STEP_BITS - 1);
    for (row, strengths) in row.chunks_mut(TILE_PX * RGB).zip(strengths.chunks(TILE_PX * RGB)) {
        let tiles = lightness.iter().zip(colour);
        for ((channel, strength), (lightness, colour)) in row.iter_mut().zip(strengths).zip(tiles) {
            let less = strength + (strength >> 1) + (strength >> 2);
            let of_colour = (COLOUR_UNMARKED << (STRENGTH_BITS - 4)) - less;
            let step = (high(*strength, *lightness) + high(of_colour, *colour) + HALF) >> STEP_BITS;
            *channel = (i16::from(*channel) + step).clamp(0, 255) as u8;
        }
    }
}

/// The upper half of a product.
fn high(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b)) >> 16) as i16
}

/// The share in 1/16 of the centre behind a pixel, for each channel in the gap between two centres; the one before it has
/// the rest.
const NEAR: [i16; CELL_PX * RGB] = {
    let mut near = [0; CELL_PX * RGB];
    let mut at = 0;
    while at < near.len() {
        near[at] = 2 * (at / RGB) as i16 + 1;
        at += 1;
    }
    near
};

/// How strongly each cell is marked.
struct Strengths {
    width_px: usize,
    columns: usize,
    cells: Vec<u8>,
}

/// Memory for the strengths along one row of pixels.
struct Line {
    /// At the centres of cells, the outermost twice: beyond them the strength stays as it is.
    centres: Vec<i16>,
    /// Of the channels of pixels, from half a cell before the row to half a cell behind it.
    channels: Vec<i16>,
}

impl Strengths {
    fn of(rgb: &[u8], width_px: usize) -> Self {
        let columns = width_px.div_ceil(CELL_PX);
        let mut cells = Vec::with_capacity(columns * rgb.len().div_ceil(width_px * RGB * CELL_PX));
        let mut lines = [vec![0; width_px], vec![0; width_px]];
        let mut quarters = vec![[0; 4]; columns];
        for band in rgb.chunks(width_px * RGB * CELL_PX) {
            for (half, rows) in [0, QUARTER_PX].into_iter().enumerate() {
                for (line, row) in lines.iter_mut().zip(rows..) {
                    fill_luma(line, band_row(band, width_px * RGB, row));
                }
                count_changes(&lines, half, &mut quarters);
            }
            cells.extend(quarters.iter().map(strength));
        }
        Self { width_px, columns, cells }
    }

    fn line(&self) -> Line {
        Line { centres: vec![0; self.columns + 2], channels: vec![0; (self.columns + 1) * CELL_PX * RGB] }
    }

    /// The strengths of the channels of row `y`.
    fn fill<'a>(&self, y: usize, line: &'a mut Line) -> &'a [i16] {
        let rows = self.cells.len() / self.columns;
        let gap = (y + CELL_PX / 2) / CELL_PX;
        let row = |at: usize| &self.cells[at * self.columns..(at + 1) * self.columns];
        let (above, below) = (row(gap.saturating_sub(1)), row(gap.min(rows - 1)));
        let near = NEAR[(y + CELL_PX / 2) % CELL_PX * RGB];
        for ((centre, above), below) in line.centres[1..].iter_mut().zip(above).zip(below) {
            *centre = i16::from(*above) * (16 - near) + i16::from(*below) * near;
        }
        line.centres[0] = line.centres[1];
        line.centres[self.columns + 1] = line.centres[self.columns];
        for (channels, centres) in line.channels.chunks_exact_mut(CELL_PX * RGB).zip(line.centres.windows(2)) {
            for (channel, near) in channels.iter_mut().zip(NEAR) {
                *channel = centres[0] * (16 - near) + centres[1] * near;
            }
        }
        &line.channels[CELL_PX / 2 * RGB..(CELL_PX / 2 + self.width_px) * RGB]
    }

    fn calm_percent(&self) -> u8 {
        let calm = self.cells.iter().filter(|strength| u32::from(**strength) < CALM_BELOW).count();
        (calm * 100 / self.cells.len()) as u8
    }
}

/// A row of a band of cells; its last one where the picture ends before it.
fn band_row(band: &[u8], row_bytes: usize, row: usize) -> &[u8] {
    let start = row.min(band.len() / row_bytes - 1) * row_bytes;
    &band[start..start + row_bytes]
}

fn fill_luma(line: &mut [u8], row: &[u8]) {
    for (luma_of, pixel) in line.iter_mut().zip(row.chunks_exact(RGB)) {
        *luma_of = luma([pixel[0], pixel[1], pixel[2]]);
    }
}

/// Sums, for the upper or lower two quarters of each cell, how much pixels of one line differ from those to the right
/// and below.
fn count_changes([line, below]: &[Vec<u8>; 2], half: usize, quarters: &mut [[u32; 4]]) {
    let right = line.get(1..).unwrap_or_default();
    for (at, quarter) in quarters.iter_mut().flat_map(|quarters| &mut quarters[2 * half..2 * half + 2]).enumerate() {
        let start = at * QUARTER_PX;
        *quarter =
            differences(part(line, start), part(right, start)) + differences(part(line, start), part(below, start));
    }
}

/// The pixels of a quarter, as far as the line goes.
fn part(line: &[u8], start: usize) -> &[u8] {
    line.get(start..(start + QUARTER_PX).min(line.len())).unwrap_or_default()
}

fn differences(a: &[u8], b: &[u8]) -> u32 {
    a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

/// From the two calmest quarters.
fn strength(quarters: &[u32; 4]) -> u8 {
    let mut sorted = *quarters;
    sorted.sort_unstable();
    (LIGHTNESS_FLAT + (sorted[0] + sorted[1]) * LIGHTNESS_STEP / CHANGES).min(LIGHTNESS_MAX) as u8
}
