//! Softening: three running means, which come close to a Gaussian, in whole numbers.

const PASSES: usize = 3;

/// The radius of each pass for an edge that fades over that many pixels.
pub(super) const fn radius(fade_px: i64) -> usize {
    if fade_px <= 0 { 0 } else { (fade_px as usize).div_ceil(PASSES) }
}

/// Softens interleaved samples in place. What lies beyond an edge is as the edge itself.
pub(super) fn soften<const SAMPLES: usize>(pixels: &mut [[u16; SAMPLES]], width: usize, height: usize, radius: usize) {
    if radius == 0 || width == 0 || height == 0 || pixels.len() != width * height {
        return;
    }
    let mut scratch = vec![[0; SAMPLES]; pixels.len()];
    // Columns first, then rows as the columns of the picture turned: neighbours in memory are added up side by side.
    columns(pixels, &mut scratch, (width, height), radius);
    turn(pixels, &mut scratch, (width, height));
    pixels.copy_from_slice(&scratch);
    columns(pixels, &mut scratch, (height, width), radius);
    turn(pixels, &mut scratch, (height, width));
    pixels.copy_from_slice(&scratch);
}

/// All passes over the columns; what comes out is in `pixels`.
fn columns<const SAMPLES: usize>(
    pixels: &mut [[u16; SAMPLES]],
    scratch: &mut [[u16; SAMPLES]],
    (width, height): (usize, usize),
    radius: usize,
) {
    for _ in 0..PASSES {
        across(pixels, scratch, width, height, radius);
        pixels.copy_from_slice(scratch);
    }
}

/// Rows become columns.
fn turn<const SAMPLES: usize>(from: &[[u16; SAMPLES]], to: &mut [[u16; SAMPLES]], (width, height): (usize, usize)) {
    // In small squares, so that both pictures stay in the processor's memory.
    const SIDE: usize = 32;
    for top in (0..height).step_by(SIDE) {
        for left in (0..width).step_by(SIDE) {
            for y in top..(top + SIDE).min(height) {
                let row = &from[y * width + left..y * width + (left + SIDE).min(width)];
                for (x, pixel) in row.iter().enumerate() {
                    to[(left + x) * height + y] = *pixel;
                }
            }
        }
    }
}

/// Running means of all columns, row by row, because rows lie together in memory.
fn across<const SAMPLES: usize>(
    from: &[[u16; SAMPLES]],
    to: &mut [[u16; SAMPLES]],
    width: usize,
    height: usize,
    radius: usize,
) {
    let (from, to, width) = (from.as_flattened(), to.as_flattened_mut(), width * SAMPLES);
    let row = |y: usize| &from[y * width..(y + 1) * width];
    let last = height - 1;
    let mean = Mean::of(radius);
    let mut sums = vec![0_u32; width];
    let mut gather = |y: usize, times: usize| {
        let times = u32::try_from(times).unwrap_or(0);
        sums.iter_mut().zip(row(y)).for_each(|(sum, sample)| *sum += u32::from(*sample) * times);
    };
    let reach = radius.min(last);
    (0..=reach).for_each(|y| gather(y, 1));
    gather(last, radius - reach);
    gather(0, radius);
    for y in 0..height {
        let (leaves, enters) = (row(y.saturating_sub(radius)), row((y + radius + 1).min(last)));
        let out = &mut to[y * width..(y + 1) * width];
        for (((out, sum), leaving), entering) in out.iter_mut().zip(&mut sums).zip(leaves).zip(enters) {
            *out = mean.of_sum(*sum);
            *sum = *sum + u32::from(*entering) - u32::from(*leaving);
        }
    }
}

/// Divides sums by the number of samples in a window, by a multiplication. Single floats are quick, and rounded alike everywhere.
#[derive(Clone, Copy)]
struct Mean(f32);

impl Mean {
    fn of(radius: usize) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "some thousand at most")]
        Self(1.0 / (2 * radius + 1) as f32)
    }

    fn of_sum(self, sum: u32) -> u16 {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_possible_wrap,
            reason = "a sum is below 2^31, and its mean a sample"
        )]
        return (sum as i32 as f32 * self.0 + 0.5) as i32 as u16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_even_stays_even_and_a_point_spreads_evenly() {
        let mut even = vec![[700_u16; 1]; 7 * 3];
        soften(&mut even, 7, 3, 4);
        assert!(even.iter().all(|pixel| *pixel == [700]));

        let mut row = vec![[0_u16; 1]; 9];
        row[4] = [27_000];
        soften(&mut row, 9, 1, 1);
        let spread: Vec<u16> = row.iter().map(|pixel| pixel[0]).collect();
        assert_eq!(spread, [0, 1000, 3000, 6000, 7000, 6000, 3000, 1000, 0], "one, three, six, seven of 27");
    }

    #[test]
    fn means_are_those_of_a_division_but_for_halves() {
        for radius in [1_usize, 2, 7, 85, 273] {
            let count = 2 * u32::try_from(radius).expect("small") + 1;
            let mean = Mean::of(radius);
            for sum in (0..=65_535 * count).step_by(977).chain([65_535 * count]) {
                let exact = f64::from(sum) / f64::from(count);
                assert!((f64::from(mean.of_sum(sum)) - exact).abs() <= 0.51, "{sum} of {count}");
            }
            assert!((0..=u16::MAX).step_by(7).all(|sample| mean.of_sum(u32::from(sample) * count) == sample));
        }
    }

    #[test]
    fn rows_are_softened_as_columns_are() {
        let noise = |at: u32, step: u32| u16::try_from(at * step % 1009).expect("small");
        let picture: Vec<[u16; 2]> = (0..35 * 70).map(|at| [noise(at, 97), noise(at, 31)]).collect();
        let mut turned = picture.clone();
        turn(&picture, &mut turned, (35, 70));
        assert_eq!((turned[1], turned[70]), (picture[35], picture[1]));
        let (mut one, mut other) = (picture, turned.clone());
        soften(&mut one, 35, 70, 3);
        soften(&mut other, 70, 35, 3);
        let mut back = one.clone();
        turn(&other, &mut back, (70, 35));
        let differs = one.iter().flatten().zip(back.iter().flatten()).filter(|(a, b)| a.abs_diff(**b) > 1);
        assert_eq!(differs.count(), 0, "but for rounding");
    }
}
