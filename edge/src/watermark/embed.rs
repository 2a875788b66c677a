//! Adding a tile to a picture, as strongly as each place hides it.
//!
//! All three channels of a pixel move by the same step, so that its lightness changes and its colour does not: codecs
//! spend their fewest bits on colour, and editors change it most. How far follows from the texture around: a cell of
//! 8 × 8 px counts what changes from pixel to pixel in its four quarters, and takes the two calmest of them, because an
//! edge through a cell hides nothing on its flat side. Between the centres of cells the strength runs straight, so that
//! no cell shows.
//!
//! Integers throughout, in one order: the same bytes on every processor.

use super::pattern::TILE_PX;
use super::tile::{TILE_RMS, Tile};

/// Side of a cell in pixels.
const CELL_PX: usize = 8;
const QUARTER_PX: usize = CELL_PX / 2;

/// Strengths are root mean squares in 1/16 of a code value: where nothing changes,
const STRENGTH_FLAT: u32 = 30;
/// for each code value that a pixel differs from the next on average,
const STRENGTH_STEP: u32 = 2;
/// and at most. All three by measurement: `docs/watermark.md` has the table.
const STRENGTH_MAX: u32 = 54;
/// A cell in which pixels differ by less than two code values on average is calm.
const CALM_BELOW: u32 = STRENGTH_FLAT + 2 * STRENGTH_STEP;
/// Changes that are counted in the two calmest quarters: one line of 4 px each, to the right and down.
const CHANGES: u32 = 2 * 2 * QUARTER_PX as u32;
/// Fraction bits of a strength between cells: 1/16 for the unit, 1/16 for each of the two straight lines.
const STRENGTH_BITS: u32 = 4 + 4 + 4;

/// Luma of a pixel as ITU-R BT.601 weighs it, in whole code values.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b)) >> 8) as u8
}

/// Adds tiles of lightness and colour to whole rows of interleaved RGB, neither of whose sides is 0. Gives the share of
/// calm cells in per cent.
pub(super) fn add(rgb: &mut [u8], width_px: usize, [lightness, colour]: &[Tile; 2]) -> u8 {
    let strengths = Strengths::of(rgb, width_px);
    let colours = colours(colour);
    let mut line = strengths.line();
    let mut steps = vec![0i16; width_px * 3];
    for (y, row) in rgb.chunks_exact_mut(width_px * 3).enumerate() {
        let strengths = strengths.fill(y, &mut line);
        let start = y % TILE_PX * TILE_PX * 3;
        fill_steps(&mut steps, strengths, lightness.row(y), &colours[start..start + TILE_PX * 3]);
        for (channel, step) in row.iter_mut().zip(&steps) {
            *channel = (i16::from(*channel) + step).clamp(0, 255) as u8;
        }
    }
    strengths.calm_percent()
}

/// By how much each channel moves along the waves of colour, in 1/256 of a code value.
fn colours(tile: &Tile) -> Vec<i16> {
    let strength = 1.0;
    let weights = [("C_R", 0.0), ("C_G", -0.344), ("C_B", 1.772)].map(|(n, d)| (super::tune(n, d) * strength * 256.0) as i32);
    tile.values().iter().flat_map(|value| weights.map(|weight| (weight * i32::from(*value) >> 8) as i16)).collect()
}

/// By how much each channel of a row moves, rounded to whole code values.
fn fill_steps(steps: &mut [i16], strengths: &[i32], tile: &[i16], colours: &[i16]) {
    const SHIFT: u32 = STRENGTH_BITS + TILE_RMS.trailing_zeros() - 8;
    for (steps, strengths) in steps.chunks_mut(TILE_PX * 3).zip(strengths.chunks(TILE_PX)) {
        let [flat, slope] = *COL;
        let values = strengths.iter().zip(tile).map(|(strength, value)| ((strength * i32::from(*value)) >> SHIFT, flat - (*strength * slope >> 12)));
        for ((channels, colours), (value, factor)) in steps.chunks_exact_mut(3).zip(colours.chunks_exact(3)).zip(values) {
            for (step, colour) in channels.iter_mut().zip(colours) {
                *step = ((value + (i32::from(*colour) * factor >> 8) + 128) >> 8) as i16;
            }
        }
    }
}

/// How strongly each cell is marked.
struct Strengths {
    width_px: usize,
    columns: usize,
    cells: Vec<u8>,
}

/// Memory for the strengths along one row of pixels.
struct Line {
    /// At the centres of cells, the outermost twice: beyond them the strength stays as it is.
    centres: Vec<i32>,
    /// Of pixels, from half a cell before the row to half a cell behind it.
    pixels: Vec<i32>,
}

impl Strengths {
    fn of(rgb: &[u8], width_px: usize) -> Self {
        let columns = width_px.div_ceil(CELL_PX);
        let mut cells = Vec::with_capacity(columns * rgb.len().div_ceil(width_px * 3 * CELL_PX));
        let mut lines = [vec![0; width_px], vec![0; width_px]];
        let mut quarters = vec![[0; 4]; columns];
        for band in rgb.chunks(width_px * 3 * CELL_PX) {
            for (half, rows) in [0, QUARTER_PX].into_iter().enumerate() {
                for (line, row) in lines.iter_mut().zip(rows..) {
                    fill_luma(line, band_row(band, width_px * 3, row));
                }
                count_changes(&lines, half, &mut quarters);
            }
            cells.extend(quarters.iter().map(strength));
        }
        Self { width_px, columns, cells }
    }

    fn line(&self) -> Line {
        Line { centres: vec![0; self.columns + 2], pixels: vec![0; (self.columns + 1) * CELL_PX] }
    }

    /// The strengths of the pixels of row `y`.
    fn fill<'a>(&self, y: usize, line: &'a mut Line) -> &'a [i32] {
        let rows = self.cells.len() / self.columns;
        let gap = (y + CELL_PX / 2) / CELL_PX;
        let row = |at: usize| &self.cells[at * self.columns..(at + 1) * self.columns];
        let (above, below) = (row(gap.saturating_sub(1)), row(gap.min(rows - 1)));
        let (far, near) = shares((y + CELL_PX / 2) % CELL_PX);
        for ((centre, above), below) in line.centres[1..].iter_mut().zip(above).zip(below) {
            *centre = i32::from(*above) * far + i32::from(*below) * near;
        }
        line.centres[0] = line.centres[1];
        line.centres[self.columns + 1] = line.centres[self.columns];
        for (pixels, centres) in line.pixels.chunks_exact_mut(CELL_PX).zip(line.centres.windows(2)) {
            for (at, pixel) in pixels.iter_mut().enumerate() {
                let (far, near) = shares(at);
                *pixel = centres[0] * far + centres[1] * near;
            }
        }
        &line.pixels[CELL_PX / 2..CELL_PX / 2 + self.width_px]
    }

    fn calm_percent(&self) -> u8 {
        let calm = self.cells.iter().filter(|strength| u32::from(**strength) < TUNED[0] + 2 * TUNED[2]).count();
        (calm * 100 / self.cells.len()) as u8
    }
}

/// The shares in 1/16 of the centres before and behind the middle of the pixel at `at` in the gap between them.
const fn shares(at: usize) -> (i32, i32) {
    let near = 2 * at as i32 + 1;
    (16 - near, near)
}

/// A row of a band of cells; its last one where the picture ends before it.
fn band_row(band: &[u8], row_bytes: usize, row: usize) -> &[u8] {
    let start = row.min(band.len() / row_bytes - 1) * row_bytes;
    &band[start..start + row_bytes]
}

fn fill_luma(line: &mut [u8], row: &[u8]) {
    for (luma_of, pixel) in line.iter_mut().zip(row.chunks_exact(3)) {
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
    let [f, m, s] = *TUNED; (f + (sorted[0] + sorted[1]) * s / CHANGES).min(m) as u8
}

static TUNED: std::sync::LazyLock<[u32; 3]> = std::sync::LazyLock::new(|| [super::tune("L_FLAT", 12.0) as u32, super::tune("L_MAX", 44.0) as u32, super::tune("L_SLOPE", 4.0) as u32]);
/// Colour strength at s: c0 - slope*s, s in 1/16 code values << 8 : in 1/256 of tile rms.
static COL: std::sync::LazyLock<[i32; 2]> = std::sync::LazyLock::new(|| {
    let (f, m) = (TUNED[0] as f32, TUNED[1] as f32);
    let (a, b) = (super::tune("C_AMP", 3.8), super::tune("C_ROUGH", 1.5));
    // factor = 256*(a - (a-b)*(s-f)/(m-f)); s_fixed = s*256
    let per = if m > f { (a - b) / (m - f) } else { 0.0 };
    [((a + per * f) * 256.0) as i32, (per * 4096.0) as i32]
});
