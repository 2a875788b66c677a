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
    let mut scratch = pixels.to_vec();
    for _ in 0..PASSES {
        for (from, to) in pixels.chunks_exact(width).zip(scratch.chunks_exact_mut(width)) {
            along(from, to, radius);
        }
        across(&scratch, pixels, width, height, radius);
    }
}

/// Running means of one row.
fn along<const SAMPLES: usize>(from: &[[u16; SAMPLES]], to: &mut [[u16; SAMPLES]], radius: usize) {
    let last = from.len() - 1;
    let mean = Mean::of(radius);
    let mut sums = [0_u32; SAMPLES];
    let reach = radius.min(last);
    for at in 0..=reach {
        add(&mut sums, &from[at], 1);
    }
    // Of a row shorter than the window, the rest of it lies beyond the end.
    add(&mut sums, &from[last], radius - reach);
    add(&mut sums, &from[0], radius);
    for at in 0..from.len() {
        to[at] = sums.map(|sum| mean.of_sum(sum));
        let (leaves, enters) = (at.saturating_sub(radius), (at + radius + 1).min(last));
        for ((sum, leaving), entering) in sums.iter_mut().zip(from[leaves]).zip(from[enters]) {
            *sum = *sum + u32::from(entering) - u32::from(leaving);
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

fn add<const SAMPLES: usize>(sums: &mut [u32; SAMPLES], pixel: &[u16; SAMPLES], times: usize) {
    let times = u32::try_from(times).unwrap_or(0);
    for (sum, sample) in sums.iter_mut().zip(pixel) {
        *sum += u32::from(*sample) * times;
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
    fn columns_are_softened_as_rows_are() {
        let picture: Vec<[u16; 2]> = (0..35_u16).map(|at| [at * 97 % 1009, at * 31 % 997]).collect();
        let mut turned: Vec<[u16; 2]> =
            (0..5).flat_map(|x| (0..7).map(move |y| y * 5 + x)).map(|at| picture[at]).collect();
        let mut scratch = picture.clone();
        picture.chunks_exact(5).zip(scratch.chunks_exact_mut(5)).for_each(|(from, to)| along(from, to, 3));
        let rows = scratch.clone();
        let mut columns = turned.clone();
        across(&turned, &mut columns, 7, 5, 3);
        turned = columns;
        let back: Vec<[u16; 2]> = (0..7).flat_map(|y| (0..5).map(move |x| x * 7 + y)).map(|at| turned[at]).collect();
        assert_eq!(rows, back);
    }
}
