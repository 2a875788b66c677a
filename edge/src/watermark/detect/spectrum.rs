//! Planes folded into one tile each, and the spectrum of those: what each wave of the pattern measures.
//!
//! Folding adds up all copies of a tile: what repeats grows with their number, all else with its root. Each scale that
//! is tried takes one folding and one transform of either carrier, whatever the number of secrets.

use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};

use super::super::pattern::{Carrier, RADIUS_MAX, TILE_PX, Wave, Waves};
use super::plane::{Plane, Planes};

/// Columns of the spectrum that hold waves.
const COLUMNS: usize = RADIUS_MAX as usize + 1;
/// A wave that sticks out of its ring by more than this is cut: it is a texture of the picture.
const MAGNITUDE_MAX: f32 = 2.0;

/// Pixels of the plane of lightness per pixel of the rendition, along either axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) x: f32,
    pub(super) y: f32,
}

/// What each wave measures, in the order of the pattern's waves: as a multiple of what waves of its length and carrier
/// measure on average.
pub(super) type Spectrum = Vec<Complex<f32>>;

/// Transforms and their memory.
pub(super) struct Transform {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    scratch: Vec<Complex<f32>>,
    tile: Vec<f32>,
    cells: Vec<Complex<f32>>,
    columns: Vec<Complex<f32>>,
    bins_x: Vec<u8>,
    places: [Vec<usize>; 2],
    /// Of each wave of a carrier: the ring it lies in.
    rings: [Vec<usize>; 2],
}

impl Transform {
    /// For patterns of these waves.
    pub(super) fn new(waves: &Waves) -> Self {
        let mut planner = FftPlanner::new();
        let (forward, inverse) = (planner.plan_fft_forward(TILE_PX), planner.plan_fft_inverse(TILE_PX));
        let scratch = forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len());
        let zeros = |count: usize| vec![Complex::default(); count];
        let each = |of: fn(Wave) -> usize| {
            Carrier::EACH.map(|carrier| waves.all[waves.range(carrier)].iter().map(|wave| of(*wave)).collect())
        };
        Self {
            forward,
            inverse,
            scratch: zeros(scratch),
            tile: vec![0.0; TILE_PX * TILE_PX],
            cells: zeros(TILE_PX * TILE_PX),
            columns: zeros(TILE_PX * COLUMNS),
            bins_x: Vec::new(),
            places: each(place),
            rings: each(|wave| (wave.square() as f32).sqrt() as usize),
        }
    }

    /// The spectrum of `planes` at `scale`.
    pub(super) fn spectrum(&mut self, planes: &Planes, scale: Scale) -> Spectrum {
        let mut spectrum = Vec::with_capacity(self.places.iter().map(Vec::len).sum());
        let half = Scale { x: scale.x / 2.0, y: scale.y / 2.0 };
        for (at, (plane, scale)) in [(&planes.lightness, scale), (&planes.colour, half)].into_iter().enumerate() {
            self.look(plane, scale);
            let start = spectrum.len();
            spectrum.extend(self.places[at].iter().map(|place| self.columns[*place]));
            whiten(&mut spectrum[start..], &self.rings[at]);
        }
        spectrum
    }

    /// Folds `plane` and transforms that.
    fn look(&mut self, plane: &Plane, scale: Scale) {
        self.fold(plane, scale);
        for (cell, value) in self.cells.iter_mut().zip(&self.tile) {
            *cell = Complex::new(*value, 0.0);
        }
        self.forward.process_with_scratch(&mut self.cells, &mut self.scratch);
        for (u, column) in self.columns.chunks_exact_mut(TILE_PX).enumerate() {
            for (y, value) in column.iter_mut().enumerate() {
                *value = self.cells[y * TILE_PX + u];
            }
        }
        self.forward.process_with_scratch(&mut self.columns, &mut self.scratch);
    }

    /// The correlation at each offset, row by row, from the products of a spectrum with a pattern's conjugate.
    pub(super) fn correlation(&mut self, products: impl Iterator<Item = (Wave, Complex<f32>)>) -> &[Complex<f32>] {
        self.columns.fill(Complex::default());
        for (wave, product) in products {
            self.columns[place(wave)] += product;
        }
        self.inverse.process_with_scratch(&mut self.columns, &mut self.scratch);
        self.cells.fill(Complex::default());
        for (u, column) in self.columns.chunks_exact(TILE_PX).enumerate() {
            for (y, value) in column.iter().enumerate() {
                self.cells[y * TILE_PX + u] = *value;
            }
        }
        self.inverse.process_with_scratch(&mut self.cells, &mut self.scratch);
        &self.cells
    }

    fn fold(&mut self, plane: &Plane, scale: Scale) {
        self.tile.fill(0.0);
        self.bins_x.clear();
        self.bins_x.extend((0..plane.width_px).map(|x| bin(x, plane.middle_px[0], scale.x)));
        for (y, row) in plane.values.chunks_exact(plane.width_px).enumerate() {
            let start = usize::from(bin(y, plane.middle_px[1], scale.y)) * TILE_PX;
            let Ok(line) = <&mut [f32; TILE_PX]>::try_from(&mut self.tile[start..start + TILE_PX]) else { continue };
            for (value, bin) in row.iter().zip(&self.bins_x) {
                line[usize::from(*bin) % TILE_PX] += value;
            }
        }
    }
}

/// Where in the tile a pixel falls. The middle of the plane stays where it is whatever the scale.
fn bin(at: usize, middle: f32, scale: f32) -> u8 {
    let from_middle = at as f32 + 0.5 - middle;
    let tiles = from_middle / scale / TILE_PX as f32;
    ((tiles - tiles.floor()) * TILE_PX as f32) as u8
}

fn place(wave: Wave) -> usize {
    wave.x as usize * TILE_PX + wave.y.rem_euclid(TILE_PX as i32) as usize
}

/// Divides each wave by what the waves of its ring measure on average.
fn whiten(spectrum: &mut [Complex<f32>], rings: &[usize]) {
    let mut sums = [(0.0f32, 0.0f32); COLUMNS];
    for (ring, value) in rings.iter().zip(&*spectrum) {
        let (sum, count) = &mut sums[*ring];
        *sum += value.norm_sqr();
        *count += 1.0;
    }
    for (ring, value) in rings.iter().zip(spectrum) {
        let (sum, count) = sums[*ring];
        *value /= (sum / count).sqrt().max(f32::MIN_POSITIVE);
        let norm = value.norm();
        if norm > MAGNITUDE_MAX {
            *value *= MAGNITUDE_MAX / norm;
        }
    }
}
