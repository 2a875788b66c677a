//! A tile: one period of the mark, as a sum of waves in integers, so that every edge makes the same bytes.

use std::sync::LazyLock;

use super::pattern::{RADIUS_MAX, Signs, TILE_PX, Wave};

/// The scale of [`Tile`]: this is the root mean square of its values.
pub(super) const TILE_RMS: i32 = 4096;
/// Values beyond 2.5 times the root mean square are cut: peaks are seen first, and carry little.
const TILE_LIMIT: i32 = TILE_RMS * 5 / 2;

/// One period of the mark, row by row.
pub(super) struct Tile(Vec<i16>);

const _: () = assert!(TILE_PX == 4 * QUARTER);
const QUARTER: usize = 32;
/// Fraction bits of [`SINES`].
const SINE_BITS: u32 = 12;
/// `round(4096 · sin(2π·n/128))` for n = 0 to 32.
const SINES: [i32; QUARTER + 1] = [
    0, 201, 401, 601, 799, 995, 1189, 1380, 1567, 1751, 1931, 2106, 2276, 2440, 2598, 2751, 2896, 3035, 3166, 3290,
    3406, 3513, 3612, 3703, 3784, 3857, 3920, 3973, 4017, 4052, 4076, 4091, 4096,
];

fn sine(turn: i32) -> i32 {
    #[allow(clippy::cast_sign_loss, reason = "a remainder is not negative")]
    let at = turn.rem_euclid(TILE_PX as i32) as usize;
    match at / QUARTER {
        0 => SINES[at],
        1 => SINES[2 * QUARTER - at],
        2 => -SINES[at - 2 * QUARTER],
        _ => -SINES[4 * QUARTER - at],
    }
}

fn cosine(turn: i32) -> i32 {
    sine(turn + QUARTER as i32)
}

/// Fraction bits of what is summed along y, and of the whole sum.
const Y_BITS: u32 = 6;
const X_BITS: u32 = Y_BITS + SINE_BITS;

/// One number for each pixel along an axis of the tile.
type Axis = [i32; TILE_PX];

/// Cosines and sines of a wave that repeats a number of times in a tile; apart, so that processors take several at
/// once.
struct Turns {
    cosines: Axis,
    sines: Axis,
}

/// For each number of repetitions up to [`RADIUS_MAX`].
static TURNS: LazyLock<Vec<Turns>> = LazyLock::new(|| {
    let axis = |times: i32, value: fn(i32) -> i32| std::array::from_fn(|at| value(times * at as i32));
    (0..=RADIUS_MAX).map(|times| Turns { cosines: axis(times, cosine), sines: axis(times, sine) }).collect()
});

impl Tile {
    /// Σ p·cos(2π(x·u + y·v)/128) − q·sin(2π(x·u + y·v)/128) over the waves (u, v) with their parts p and q: first
    /// along y for all waves of one u, then along x.
    pub(super) fn new(waves: &[Wave], parts: &[Signs]) -> Self {
        let mut sums = vec![0; TILE_PX * TILE_PX];
        let mut parts = parts.iter();
        for column in waves.chunk_by(|a, b| a.x == b.x) {
            let along_y = along_y(column.iter().zip(parts.by_ref()));
            add_along_x(&mut sums, &along_y, &TURNS[column[0].x as usize]);
        }
        // A wave of two parts of amplitude 1 has a mean square of 1.
        let rms = ((waves.len() as i64) << (2 * X_BITS)).isqrt();
        // Multiplied and shifted: dividing each of the pixels would take as long as making the sums.
        let (factor, limit) = ((i64::from(TILE_RMS) << 32) / rms, i64::from(TILE_LIMIT));
        let scaled = |sum: i32| ((i64::from(sum) * factor) >> 32).clamp(-limit, limit) as i16;
        Self(sums.into_iter().map(scaled).collect())
    }

    /// Row by row.
    pub(super) fn values(&self) -> &[i16] {
        &self.0
    }
}

/// Real and imaginary part of Σ (p + i·q)·exp(2πi·y·v/128) at each y.
fn along_y<'a>(waves: impl Iterator<Item = (&'a Wave, &'a Signs)>) -> [Axis; 2] {
    let (mut real, mut imaginary) = ([0; TILE_PX], [0; TILE_PX]);
    for (wave, [p, q]) in waves {
        let (p, q, mirror) = (i32::from(*p), i32::from(*q), wave.y.signum());
        let turns = &TURNS[wave.y.unsigned_abs() as usize];
        let parts = real.iter_mut().zip(&mut imaginary);
        for ((real, imaginary), (cosine, sine)) in parts.zip(turns.cosines.iter().zip(&turns.sines)) {
            let sine = sine * mirror;
            *real += p * cosine - q * sine;
            *imaginary += p * sine + q * cosine;
        }
    }
    [real, imaginary].map(|sums| sums.map(|sum| sum >> (SINE_BITS - Y_BITS)))
}

/// Adds the real part of (a + i·b)·exp(2πi·x·u/128) to each pixel, where a and b belong to its row.
fn add_along_x(sums: &mut [i32], [real, imaginary]: &[Axis; 2], turns: &Turns) {
    for (row, (a, b)) in sums.chunks_exact_mut(TILE_PX).zip(real.iter().zip(imaginary)) {
        for ((sum, cosine), sine) in row.iter_mut().zip(&turns.cosines).zip(&turns.sines) {
            *sum += a * cosine - b * sine;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_the_sine() {
        for (at, value) in SINES.iter().enumerate() {
            let exact = (std::f64::consts::TAU * at as f64 / 128.0).sin() * 4096.0;
            assert!((exact - f64::from(*value)).abs() <= 0.5, "{at}");
        }
        assert_eq!((sine(64), sine(96), sine(-32), cosine(0), cosine(64)), (0, -4096, -4096, 4096, -4096));
    }
}
