//! What the search looks at: the lightness of a part of the picture, freed of what is not the mark.
//!
//! A picture is large and uneven beside the mark in it. Subtracting the local mean takes away shading and waves longer
//! than the mark's; dividing by the local deviation lets rough places count no more than calm ones; and cutting what
//! still sticks out keeps one hard edge from outweighing a sky.

use super::super::embed::luma;
use super::Samples;

/// Largest part of a picture that is searched, in pixels: it bounds time and memory.
pub(super) const PLANE_AREA_PX_MAX: usize = 1 << 20;
/// The local mean is that of 13 × 13 px, the local deviation that of 17 × 17 px.
const MEAN_RADIUS_PX: usize = 6;
const DEVIATION_RADIUS_PX: usize = 8;
/// Added to the local deviation, in code values: what rounding and coding leave of nothing.
const DEVIATION_FLOOR: f32 = 2.0;
/// Values beyond this many deviations are cut.
const LIMIT: f32 = 2.5;

/// One value per pixel, row by row.
pub(super) struct Plane {
    pub(super) width_px: usize,
    pub(super) height_px: usize,
    pub(super) values: Vec<f32>,
}

impl Plane {
    /// The luma of the middle of a picture after halving it `halvings` times; `None` where nothing is left.
    pub(super) fn luma(samples: Samples<'_>, width_px: usize, height_px: usize, halvings: u32) -> Option<Self> {
        let side = 1usize << halvings;
        let (width, height) = (width_px / side, height_px / side);
        let (cut_width, cut_height) = middle(width, height);
        if cut_width == 0 || cut_height == 0 {
            return None;
        }
        let (left, top) = ((width - cut_width) / 2 * side, (height - cut_height) / 2 * side);
        let mut values = Vec::with_capacity(cut_width * cut_height);
        let mut sums = vec![0u32; cut_width];
        for row in 0..cut_height {
            sums.fill(0);
            for y in top + row * side..top + (row + 1) * side {
                add_row(&mut sums, samples, y * width_px + left, side);
            }
            let share = 1.0 / (side * side) as f32;
            values.extend(sums.iter().map(|sum| *sum as f32 * share));
        }
        Some(Self { width_px: cut_width, height_px: cut_height, values })
    }

    /// Freed of the local mean and evened out.
    pub(super) fn evened(mut self) -> Self {
        let mean = self.blurred(MEAN_RADIUS_PX);
        for (value, mean) in self.values.iter_mut().zip(&mean.values) {
            *value -= mean;
        }
        let squares = self.values.iter().map(|value| value * value).collect();
        let squares = Self { values: squares, ..self }.blurred(DEVIATION_RADIUS_PX);
        for (value, square) in self.values.iter_mut().zip(&squares.values) {
            *value = (*value / (square.max(0.0).sqrt() + DEVIATION_FLOOR)).clamp(-LIMIT, LIMIT);
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
        Self { width_px: width, height_px: height, values }
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

/// Adds up `side` pixels for each sum, from pixel `start` on.
fn add_row(sums: &mut [u32], samples: Samples<'_>, start: usize, side: usize) {
    let pixels = start..start + sums.len() * side;
    match samples {
        Samples::Rgb(rgb) => {
            for (sum, pixels) in sums.iter_mut().zip(rgb[pixels.start * 3..pixels.end * 3].chunks_exact(3 * side)) {
                let lumas = pixels.chunks_exact(3).map(|pixel| u32::from(luma([pixel[0], pixel[1], pixel[2]])));
                *sum += lumas.sum::<u32>();
            }
        }
        Samples::Luma(lumas) => {
            for (sum, lumas) in sums.iter_mut().zip(lumas[pixels].chunks_exact(side)) {
                *sum += lumas.iter().map(|luma| u32::from(*luma)).sum::<u32>();
            }
        }
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
