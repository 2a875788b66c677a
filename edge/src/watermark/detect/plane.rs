//! What the search looks at: the lightness of a part of the picture, freed of what is not the mark.
//!
//! A picture is large and uneven beside the mark in it. Subtracting the local mean takes away shading and waves longer
//! than the mark's; dividing by the local deviation lets rough places count no more than calm ones; and cutting what
//! still sticks out keeps one hard edge from outweighing a sky.

use super::super::pattern::Carrier;
use super::{Samples, seen};

/// Largest part of a picture that is searched, in pixels: it bounds time and memory.
pub(super) const PLANE_AREA_PX_MAX: usize = 1 << 20;
/// Values beyond this many deviations are cut.
const LIMIT: f32 = 2.5;

/// How a carrier's plane is made even.
struct Evening {
    /// Of the square whose mean is taken away, from its middle: about the carrier's longest wave.
    mean_radius_px: usize,
    /// Of the square whose deviation is divided by.
    deviation_radius_px: usize,
    /// Added to the local deviation, in code values: what rounding and coding leave of nothing.
    deviation_floor: f32,
}

const fn evening(carrier: Carrier) -> Evening {
    match carrier {
        Carrier::Lightness => Evening { mean_radius_px: 6, deviation_radius_px: 8, deviation_floor: 2.0 },
        Carrier::Colour => Evening { mean_radius_px: 5, deviation_radius_px: 8, deviation_floor: 1.0 },
    }
}

/// One value per pixel, row by row.
pub(super) struct Plane {
    pub(super) width_px: usize,
    pub(super) height_px: usize,
    /// The place in it from which scales are counted.
    pub(super) middle_px: [f32; 2],
    pub(super) values: Vec<f32>,
}

/// What is searched: the same part of a picture twice.
pub(super) struct Planes {
    /// Luma.
    pub(super) lightness: Plane,
    /// Blue against luma, each pixel the mean of four.
    pub(super) colour: Plane,
}

impl Planes {
    /// Of the middle of a picture after halving it `halvings` times; `None` where nothing is left.
    pub(super) fn of(samples: Samples<'_>, width_px: usize, height_px: usize, halvings: u32) -> Option<Self> {
        let side = 1usize << halvings;
        let (width, height) = (width_px / side, height_px / side);
        let (cut_width, cut_height) = middle(width, height);
        if cut_width < 2 || cut_height < 2 {
            return None;
        }
        let (left, top) = ((width - cut_width) / 2 * side, (height - cut_height) / 2 * side);
        let part = Part { samples, start_px: top * width_px + left, row_px: width_px };
        let middle_px = [cut_width as f32 / 2.0, cut_height as f32 / 2.0];
        let lightness = part.plane(Carrier::Lightness, [cut_width, cut_height], side);
        let colour = part.plane(Carrier::Colour, [cut_width / 2, cut_height / 2], side * 2);
        Some(Self {
            lightness: Plane { middle_px, ..lightness }.evened(&evening(Carrier::Lightness)),
            colour: Plane { middle_px: middle_px.map(|at| at / 2.0), ..colour }.evened(&evening(Carrier::Colour)),
        })
    }
}

/// A part of a picture.
struct Part<'a> {
    samples: Samples<'a>,
    /// Its first pixel.
    start_px: usize,
    /// Pixels of a row of the whole picture.
    row_px: usize,
}

impl Part<'_> {
    /// What a carrier moves, as means of squares of `side` pixels.
    fn plane(&self, carrier: Carrier, [width_px, height_px]: [usize; 2], side: usize) -> Plane {
        let mut values = Vec::with_capacity(width_px * height_px);
        let mut sums = vec![0u32; width_px];
        let share = 1.0 / (side * side) as f32;
        for rows in (0..height_px).map(|row| row * side..(row + 1) * side) {
            sums.fill(0);
            rows.for_each(|y| self.add_row(carrier, self.start_px + y * self.row_px, side, &mut sums));
            values.extend(sums.iter().map(|sum| *sum as f32 * share));
        }
        Plane { width_px, height_px, middle_px: [0.0; 2], values }
    }

    /// Adds up `side` pixels for each sum, from pixel `start` on.
    fn add_row(&self, carrier: Carrier, start: usize, side: usize, sums: &mut [u32]) {
        let which = match carrier {
            Carrier::Lightness => 0,
            Carrier::Colour => 1,
        };
        let (bytes, each) = self.samples.bytes();
        let pixels = bytes[start * each..(start + sums.len() * side) * each].chunks_exact(each * side);
        for (sum, pixels) in sums.iter_mut().zip(pixels) {
            *sum += match self.samples {
                Samples::Rgb(_) => {
                    pixels.chunks_exact(3).map(|px| u32::from(seen([px[0], px[1], px[2]])[which])).sum::<u32>()
                }
                Samples::Seen(_) => pixels.chunks_exact(2).map(|px| u32::from(px[which])).sum(),
            };
        }
    }
}

impl Plane {
    /// Freed of the local mean and evened out.
    fn evened(mut self, evening: &Evening) -> Self {
        let mean = self.blurred(evening.mean_radius_px);
        for (value, mean) in self.values.iter_mut().zip(&mean.values) {
            *value -= mean;
        }
        let squares = self.values.iter().map(|value| value * value).collect();
        let squares = Self { values: squares, ..self }.blurred(evening.deviation_radius_px);
        for (value, square) in self.values.iter_mut().zip(&squares.values) {
            *value = (*value / (square.max(0.0).sqrt() + evening.deviation_floor)).clamp(-LIMIT, LIMIT);
        }
        self
    }

    /// The mean of the square around each pixel, as far as it lies in the plane.
    fn blurred(&self, radius: usize) -> Self {
        let (width, height) = (self.width_px, self.height_px);
        let mut across = vec![0.0; self.values.len()];
        for (out, row) in across.chunks_exact_mut(width).zip(self.values.chunks_exact(width)) {
            blur_row(out, row, radius);
        }
        let mut values = vec![0.0; self.values.len()];
        let mut sums = vec![0.0f64; width];
        let rows = |at: usize| &across[at * width..(at + 1) * width];
        (0..radius.min(height)).for_each(|y| add(&mut sums, rows(y), 1.0));
        for y in 0..height {
            if y + radius < height {
                add(&mut sums, rows(y + radius), 1.0);
            }
            if y > radius {
                add(&mut sums, rows(y - radius - 1), -1.0);
            }
            let share = 1.0 / ((y + radius).min(height - 1) + 1 - y.saturating_sub(radius)) as f64;
            for (value, sum) in values[y * width..(y + 1) * width].iter_mut().zip(&sums) {
                *value = (sum * share) as f32;
            }
        }
        Self { values, ..*self }
    }
}

/// The largest middle part within the area, as nearly of the picture's shape as it can be.
fn middle(width: usize, height: usize) -> (usize, usize) {
    let side = PLANE_AREA_PX_MAX.isqrt();
    if width * height <= PLANE_AREA_PX_MAX {
        (width, height)
    } else if width < side {
        (width, PLANE_AREA_PX_MAX / width)
    } else if height < side {
        (PLANE_AREA_PX_MAX / height, height)
    } else {
        (side, side)
    }
}

fn add(sums: &mut [f64], row: &[f32], sign: f64) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += f64::from(*value) * sign;
    }
}

fn blur_row(out: &mut [f32], row: &[f32], radius: usize) {
    let mut sum: f64 = row.iter().take(radius).map(|value| f64::from(*value)).sum();
    for x in 0..row.len() {
        if let Some(value) = row.get(x + radius) {
            sum += f64::from(*value);
        }
        if x > radius {
            sum -= f64::from(row[x - radius - 1]);
        }
        let count = (x + radius).min(row.len() - 1) + 1 - x.saturating_sub(radius);
        out[x] = (sum / count as f64) as f32;
    }
}
