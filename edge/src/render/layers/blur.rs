//! Softening: three running means, which come close to a Gaussian, in whole numbers.
//!
//! A wide one is done on a smaller picture: means of squares, softened, and enlarged again bilinearly. The squares and
//! the enlarging soften too; the running means are narrower by as much, so that the spread of a point (its variance)
//! stays the same.

use super::light::narrowed;

const PASSES: usize = 3;
/// A pass with such a radius is made at half of the size, then at a quarter, and so on.
const REDUCED_FROM: usize = 8;
/// Largest square that counts as one pixel meanwhile: sums of its samples stay below 2^32. It serves fades of 1,535
/// pixels, and a tenth of the largest picture has 819.
const SQUARE_MAX: usize = 64;

/// Softens interleaved samples in place: a hard edge fades over `fade` pixels at either side. What lies beyond an edge
/// is as the edge itself.
pub(super) fn soften<const SAMPLES: usize>(pixels: &mut [[u16; SAMPLES]], width: usize, height: usize, fade: usize) {
    if fade == 0 || width == 0 || height == 0 || pixels.len() != width * height {
        return;
    }
    let Plan { square, radii } = Plan::of(fade);
    if square == 1 {
        return means(pixels, (width, height), radii);
    }
    let mut small = reduced(pixels, (width, height), square);
    means(&mut small, (width.div_ceil(square), height.div_ceil(square)), radii);
    enlarge(&small, pixels, width, square);
}

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// The side of the squares that count as one pixel, a power of two.
    square: usize,
    radii: [usize; PASSES],
}

impl Plan {
    fn of(fade: usize) -> Self {
        let exactly = shared_out(fade);
        let mut square = 1;
        while fade / PASSES / square >= REDUCED_FROM && square < SQUARE_MAX {
            square *= 2;
        }
        if square == 1 {
            return Self { square, radii: exactly };
        }
        // In twelfths of a square pixel: a mean over 2r+1 pixels spreads by 4r(r+1), one over a square of s by s²-1,
        // and bilinear enlarging by 2s² on average.
        let of_means =
            |radii: [usize; PASSES]| radii.into_iter().map(|radius| 4 * radius * (radius + 1)).sum::<usize>();
        let (wanted, area) = (of_means(exactly), square * square);
        let spread = |radii: &[usize; PASSES]| 3 * area - 1 + area * of_means(*radii);
        let candidates = (0..=PASSES * REDUCED_FROM).map(shared_out);
        let radii = candidates.min_by_key(|radii| spread(radii).abs_diff(wanted)).unwrap_or(exactly);
        Self { square, radii }
    }
}

/// Radii of that sum, as even as whole numbers are.
fn shared_out(sum: usize) -> [usize; PASSES] {
    std::array::from_fn(|pass| sum / PASSES + usize::from(pass < sum % PASSES))
}

/// Running means along both sides.
fn means<const SAMPLES: usize>(pixels: &mut [[u16; SAMPLES]], (width, height): (usize, usize), radii: [usize; PASSES]) {
    let mut turned = vec![[0; SAMPLES]; pixels.len()];
    // Columns first, then rows as the columns of the picture turned: neighbours in memory are added up side by side.
    columns(pixels.as_flattened_mut(), width * SAMPLES, radii);
    turn(pixels, &mut turned, (width, height));
    columns(turned.as_flattened_mut(), height * SAMPLES, radii);
    turn(&turned, pixels, (height, width));
}

/// All passes over the columns. They are added up exactly and divided once: radii are small, so that sums stay below
/// 2^32.
fn columns(samples: &mut [u16], row: usize, radii: [usize; PASSES]) {
    // In strips, so that all sums of one stay in the processor's memory.
    const STRIP: usize = 192;
    let height = samples.len() / row;
    let mean = Mean::of(radii);
    let mut sums = [vec![0_u32; height * STRIP], vec![0_u32; height * STRIP]];
    for left in (0..row).step_by(STRIP) {
        let strip = Strip { left, width: STRIP.min(row - left), row };
        let packed = Strip { left: 0, row: strip.width, ..strip };
        let [first, second] = sums.each_mut().map(|sums| &mut sums[..height * strip.width]);
        across((samples, strip), (first, packed), radii[0], |sum| sum);
        across((first, packed), (second, packed), radii[1], |sum| sum);
        across((second, packed), (samples, strip), radii[2], |sum| mean.of_sum(sum));
    }
}

/// Some columns of a picture with rows of that many samples.
#[derive(Clone, Copy)]
struct Strip {
    left: usize,
    width: usize,
    row: usize,
}

impl Strip {
    fn of_row<T>(self, samples: &[T], y: usize) -> &[T] {
        let start = y * self.row + self.left;
        &samples[start..start + self.width]
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

/// Running sums of columns, row by row, because rows lie together in memory.
fn across<From: Copy + Into<u32>, To>(
    (from, strip): (&[From], Strip),
    (to, of): (&mut [To], Strip),
    radius: usize,
    finished: impl Fn(u32) -> To,
) {
    let last = from.len() / strip.row - 1;
    let mut sums = vec![0_u32; strip.width];
    let mut gather = |y: usize, times: usize| {
        let times = u32::try_from(times).unwrap_or(0);
        sums.iter_mut().zip(strip.of_row(from, y)).for_each(|(sum, sample)| *sum += (*sample).into() * times);
    };
    let reach = radius.min(last);
    (0..=reach).for_each(|y| gather(y, 1));
    gather(last, radius - reach);
    gather(0, radius);
    for (y, out) in to.chunks_exact_mut(of.row).enumerate() {
        let leaves = strip.of_row(from, y.saturating_sub(radius));
        let enters = strip.of_row(from, (y + radius + 1).min(last));
        let out = &mut out[of.left..of.left + of.width];
        for (((out, sum), leaving), entering) in out.iter_mut().zip(&mut sums).zip(leaves).zip(enters) {
            *out = finished(*sum);
            *sum = *sum + (*entering).into() - (*leaving).into();
        }
    }
}

/// Divides sums of all passes by the number of samples in them, by a multiplication. Single floats are quick, and
/// rounded alike everywhere.
#[derive(Clone, Copy)]
struct Mean(f32);

impl Mean {
    fn of(radii: [usize; PASSES]) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "some thousand at most")]
        Self(1.0 / radii.map(|radius| 2 * radius + 1).iter().product::<usize>() as f32)
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

/// The mean of each square; at the right and the lower edge, of what there is of it.
fn reduced<const SAMPLES: usize>(
    pixels: &[[u16; SAMPLES]],
    (width, height): (usize, usize),
    square: usize,
) -> Vec<[u16; SAMPLES]> {
    let small_width = width.div_ceil(square);
    let mut small = Vec::with_capacity(small_width * height.div_ceil(square));
    let mut columns = vec![[0_u32; SAMPLES]; width];
    for band in pixels.chunks(width * square) {
        columns.as_flattened_mut().fill(0);
        for row in band.chunks_exact(width) {
            let sums = columns.as_flattened_mut().iter_mut();
            sums.zip(row.as_flattened()).for_each(|(sum, sample)| *sum += u32::from(*sample));
        }
        let rows = band.len() / width;
        small.extend(columns.chunks(square).map(|run| {
            let count = u32::try_from(rows * run.len()).unwrap_or(1);
            std::array::from_fn(|sample| {
                let sum: u32 = run.iter().map(|column| column[sample]).sum();
                u16::try_from((sum + count / 2) / count).unwrap_or(u16::MAX)
            })
        }));
    }
    small
}

/// Bilinearly, each small pixel in the middle of its square.
fn enlarge<const SAMPLES: usize>(small: &[[u16; SAMPLES]], pixels: &mut [[u16; SAMPLES]], width: usize, square: usize) {
    let small_rows: Vec<&[[u16; SAMPLES]]> = small.chunks_exact(width.div_ceil(square)).collect();
    // The first half square lies above the middle of the first small pixel, whose row stands for what would be above
    // it.
    let mut wide = [widened(small_rows[0], width, square), widened(small_rows[0], width, square)];
    let half_square = square / 2;
    let first = half_square * width;
    let (top, rest) = pixels.split_at_mut(first.min(pixels.len()));
    let bands = std::iter::once((top, half_square)).chain(rest.chunks_mut(square * width).map(|band| (band, 0)));
    // Weights in `2 * square` parts along either side.
    let shift = 2 * (2 * square).trailing_zeros();
    let half = 1_u32 << (shift - 1);
    for (at, (band, skipped)) in bands.enumerate() {
        if at > 0 {
            wide.swap(0, 1);
            wide[1] = widened(small_rows[at.min(small_rows.len() - 1)], width, square);
        }
        let [above, below] = &wide;
        for (y, row) in band.chunks_exact_mut(width).enumerate() {
            let [upper, lower] = weights(y + skipped, square);
            for ((out, above), below) in row.as_flattened_mut().iter_mut().zip(above).zip(below) {
                *out = narrowed((above * upper + below * lower + half) >> shift);
            }
        }
    }
}

/// A small row in full width, in parts of `2 * square`.
fn widened<const SAMPLES: usize>(small: &[[u16; SAMPLES]], width: usize, square: usize) -> Vec<u32> {
    let mut wide = Vec::with_capacity((width + 2 * square) * SAMPLES);
    let ends = (small[0], small[small.len() - 1]);
    let before = std::iter::once(ends.0).chain(small.iter().copied());
    let after = small.iter().copied().chain([ends.1]);
    for (at, (left, right)) in before.zip(after).enumerate() {
        let skipped = if at == 0 { square / 2 } else { 0 };
        for x in skipped..square {
            let [near, far] = weights(x, square);
            wide.extend((0..SAMPLES).map(|sample| u32::from(left[sample]) * near + u32::from(right[sample]) * far));
        }
    }
    wide.truncate(width * SAMPLES);
    wide
}

/// Of the two small pixels around the pixel that is so far behind the middle of the first, in parts of `2 * square`.
fn weights(behind: usize, square: usize) -> [u32; 2] {
    let far = u32::try_from(2 * behind + 1).unwrap_or(0);
    [u32::try_from(2 * square).unwrap_or(0) - far, far]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_even_stays_even_and_a_point_spreads_evenly() {
        let mut even = vec![[700_u16; 1]; 7 * 3];
        soften(&mut even, 7, 3, 12);
        assert!(even.iter().all(|pixel| *pixel == [700]));

        let mut row = vec![[0_u16; 1]; 9];
        row[4] = [27_000];
        soften(&mut row, 9, 1, 3);
        let spread: Vec<u16> = row.iter().map(|pixel| pixel[0]).collect();
        assert_eq!(spread, [0, 1000, 3000, 6000, 7000, 6000, 3000, 1000, 0], "one, three, six, seven of 27");
    }

    #[test]
    fn means_are_those_of_a_division_but_for_halves() {
        for radii in [[1; 3], [3, 2, 2], [7; 3], [REDUCED_FROM; 3]] {
            let count = radii.iter().map(|radius| 2 * u32::try_from(*radius).expect("small") + 1).product::<u32>();
            assert!(u64::from(count) * 65_535 < 1 << 31);
            let mean = Mean::of(radii);
            for sum in (0..=65_535 * count).step_by(100_003).chain([65_535 * count]) {
                let exact = f64::from(sum) / f64::from(count);
                assert!((f64::from(mean.of_sum(sum)) - exact).abs() <= 0.52, "{sum} of {count}");
            }
            assert!((0..=u16::MAX).step_by(7).all(|sample| mean.of_sum(u32::from(sample) * count) == sample));
        }
    }

    /// Three running means along each side, without any shortcut.
    fn exactly(picture: &[[u16; 1]], (width, height): (usize, usize), fade: usize) -> Vec<f64> {
        let mut light: Vec<f64> = picture.iter().map(|pixel| f64::from(pixel[0])).collect();
        for pass in 0..2 * PASSES {
            let radius = shared_out(fade)[pass / 2];
            let (step, length) = if pass % 2 == 0 { (1, width) } else { (width, height) };
            let before = light.clone();
            for (at, out) in light.iter_mut().enumerate() {
                let along = at / step % length;
                let start = at - along * step;
                let near = |offset: usize| (along + offset).saturating_sub(radius).min(length - 1);
                let sum: f64 = (0..=2 * radius).map(|offset| before[start + near(offset) * step]).sum();
                *out = sum / (2 * radius + 1) as f64;
            }
        }
        light
    }

    #[test]
    fn a_wide_blur_is_what_the_slow_way_gives() {
        let (width, height) = (157, 83);
        let checks = |at: usize| if (at % width / 20 + at / width / 20).is_multiple_of(2) { 60_000 } else { 2_000 };
        let picture: Vec<[u16; 1]> = (0..width * height).map(|at| [checks(at)]).collect();
        for fade in [3, 10, 23, 24, 26, 40, 70, 140] {
            let exact = exactly(&picture, (width, height), fade);
            let mut soft = picture.clone();
            soften(&mut soft, width, height, fade);
            let differences =
                soft.iter().zip(&exact).map(|(soft, exact)| (f64::from(soft[0]) - exact).abs() / 65_535.0);
            let (mean, worst) = differences.fold((0.0, 0.0_f64), |(sum, worst), it| (sum + it, worst.max(it)));
            let mean = mean / (width * height) as f64;
            assert!(mean < 0.01 && worst < 0.04, "{fade} px: {mean:.4} on average, {worst:.4} at most");
            let plan = Plan::of(fade);
            assert_eq!(plan.square == 1, fade < PASSES * REDUCED_FROM);
            assert!(plan.radii.iter().all(|radius| (1..=REDUCED_FROM).contains(radius)), "{plan:?}");
        }
    }

    #[test]
    fn every_size_is_softened_and_even_light_stays_even() {
        for (width, height) in [(1, 1), (1, 40), (40, 1), (3, 5), (33, 17)] {
            for fade in [1, 27, 60, 819] {
                let mut even = vec![[700_u16, 65_535]; width * height];
                soften(&mut even, width, height, fade);
                assert!(even.iter().all(|pixel| *pixel == [700, 65_535]), "{width}×{height}, {fade}");
            }
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
        soften(&mut one, 35, 70, 8);
        soften(&mut other, 70, 35, 8);
        let mut back = one.clone();
        turn(&other, &mut back, (70, 35));
        let differs = one.iter().flatten().zip(back.iter().flatten()).filter(|(a, b)| a.abs_diff(**b) > 1);
        assert_eq!(differs.count(), 0, "but for rounding");
    }
}
