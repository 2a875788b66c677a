//! The pattern of a secret: a tile of 128 × 128 px whose spectrum carries everything.
//!
//! A tile is a sum of plane waves that repeat a whole number of times in it, so copies of it join without seams. The
//! waves have lengths of 3.4 to 9 px: longer ones cost more of a picture's quality, shorter ones are lost when it is
//! halved. Each wave has a cosine and a sine part of amplitude ±1, and each part carries one sign. The secret shuffles
//! the waves: the first [`SYNC_WAVES`] synchronise, with signs that the secret fixes; all others carry coded bits, each
//! bit on as many parts as there are, its signs mixed by the secret as well.
//!
//! This is spread-spectrum marking in the frequency plane (Cox et al., "Secure spread spectrum watermarking for
//! multimedia", IEEE Trans. Image Processing 6, 1997) of a periodic pattern (Kutter, "Watermarking resistant to
//! translation, rotation, and scaling", SPIE 3528, 1998). Tiles are integer arithmetic from a written table, so that
//! every edge makes the same bytes on any processor.

use super::code::CODED_BITS;

/// Side of the tile in pixels of the rendition.
pub(super) const TILE_PX: usize = 128;
/// How often waves repeat in a tile, along the way they run: wavelengths of 128/38 = 3.4 to 128/14 = 9.1 px.
pub(super) const RADIUS_MIN: i32 = 14;
pub(super) const RADIUS_MAX: i32 = 38;
/// Waves nearer to an axis than this are left out: rows of text, horizons and the blocks of codecs lie there.
const AXIS_MIN: i32 = 2;
/// Waves that synchronise: a tenth of all. The sync has one answer to give among a million, the data 80 bits.
const SYNC_WAVES: usize = 180;

/// The scale of [`Tile`]: this is the root mean square of its values.
pub(super) const TILE_RMS: i32 = 256;
/// Values beyond 2.5 times the root mean square are cut: peaks are seen first, and carry little.
const TILE_LIMIT: i32 = TILE_RMS * 5 / 2;

/// A wave: how often it repeats in a tile along either axis. `x` is never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wave {
    pub(super) x: i32,
    pub(super) y: i32,
}

impl Wave {
    /// The square of how often it repeats in a tile along the way it runs.
    pub(super) const fn square(self) -> i32 {
        self.x * self.x + self.y * self.y
    }
}

/// Signs of a wave's cosine and sine part, ±1.
pub(super) type Signs = [i8; 2];

/// All waves, from left to right: half of the ring, as the other half is its mirror image.
fn waves() -> Vec<Wave> {
    let ring = RADIUS_MIN * RADIUS_MIN..=RADIUS_MAX * RADIUS_MAX;
    let all = (AXIS_MIN..=RADIUS_MAX).flat_map(|x| (-RADIUS_MAX..=RADIUS_MAX).map(move |y| Wave { x, y }));
    all.filter(|wave| wave.y.abs() >= AXIS_MIN && ring.contains(&wave.square())).collect()
}

/// Which wave carries what, and with which signs.
#[derive(Clone)]
pub(super) struct Pattern {
    pub(super) waves: Vec<Wave>,
    /// Indices into `waves`, shuffled: [`SYNC_WAVES`] that synchronise, then those for coded bits.
    order: Vec<u16>,
    /// By which a part is multiplied, in the order of `waves`.
    signs: Vec<Signs>,
    turns: Vec<Turns>,
}

impl Pattern {
    /// Both the shuffle and the signs come from the BLAKE3 stream of the secret.
    pub(super) fn new(mut stream: blake3::OutputReader) -> Self {
        let waves = waves();
        let mut number = || {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let sign = |bit: u64| if bit & 1 == 1 { 1 } else { -1 };
        #[allow(clippy::cast_possible_truncation, reason = "fewer than 65536 waves")]
        let mut order: Vec<u16> = (0..waves.len() as u16).collect();
        // Fisher and Yates. 64 bits for fewer than 2048 places: the bias is below 2^-53.
        for last in (1..order.len()).rev() {
            order.swap(last, (number() % (last as u64 + 1)) as usize);
        }
        let signs = waves.iter().map(|_| number()).map(|bits| [sign(bits), sign(bits >> 1)]).collect();
        Self { waves, order, signs, turns: Turns::each() }
    }

    /// Indices and signs of the waves that synchronise.
    pub(super) fn sync(&self) -> impl Iterator<Item = (usize, Signs)> + '_ {
        self.order.iter().take(SYNC_WAVES).map(|&at| usize::from(at)).map(|at| (at, self.signs[at]))
    }

    /// Indices, signs and coded bits of the waves that carry data.
    pub(super) fn data(&self) -> impl Iterator<Item = (usize, Signs, [usize; 2])> + '_ {
        let carried = |part: usize| part % CODED_BITS;
        let data = self.order.iter().skip(SYNC_WAVES).map(|&at| usize::from(at)).enumerate();
        data.map(move |(n, at)| (at, self.signs[at], [carried(2 * n), carried(2 * n + 1)]))
    }

    /// The tile that carries a code word.
    pub(super) fn tile(&self, coded: &[bool; CODED_BITS]) -> Tile {
        let mut parts = self.signs.clone();
        let sign = |sign: i8, bit: usize| if coded[bit] { sign } else { -sign };
        for (at, signs, bits) in self.data() {
            parts[at] = [sign(signs[0], bits[0]), sign(signs[1], bits[1])];
        }
        Tile::new(&self.waves, &parts, &self.turns)
    }
}

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
#[derive(Clone)]
struct Turns {
    cosines: Axis,
    sines: Axis,
}

impl Turns {
    /// For each number of repetitions up to [`RADIUS_MAX`].
    fn each() -> Vec<Self> {
        let axis = |times: i32, value: fn(i32) -> i32| std::array::from_fn(|at| value(times * at as i32));
        (0..=RADIUS_MAX).map(|times| Self { cosines: axis(times, cosine), sines: axis(times, sine) }).collect()
    }
}

impl Tile {
    /// Σ p·cos(2π(x·u + y·v)/128) − q·sin(2π(x·u + y·v)/128) over the waves (u, v) with their parts p and q: first
    /// along y for all waves of one u, then along x.
    fn new(waves: &[Wave], parts: &[Signs], turns: &[Turns]) -> Self {
        let mut sums = vec![0; TILE_PX * TILE_PX];
        let mut parts = parts.iter();
        for column in waves.chunk_by(|a, b| a.x == b.x) {
            let along_y = along_y(column.iter().zip(parts.by_ref()), turns);
            add_along_x(&mut sums, &along_y, &turns[column[0].x as usize]);
        }
        // A wave of two parts of amplitude 1 has a mean square of 1.
        let rms = ((waves.len() as i64) << (2 * X_BITS)).isqrt();
        // Multiplied and shifted: dividing each of the pixels would take as long as making the sums.
        let (factor, limit) = ((i64::from(TILE_RMS) << 32) / rms, i64::from(TILE_LIMIT));
        let scaled = |sum: i32| ((i64::from(sum) * factor) >> 32).clamp(-limit, limit) as i16;
        Self(sums.into_iter().map(scaled).collect())
    }

    /// The row of the tile at `y` px of the picture.
    pub(super) fn row(&self, y: usize) -> &[i16] {
        let start = y % TILE_PX * TILE_PX;
        &self.0[start..start + TILE_PX]
    }
}

/// Real and imaginary part of Σ (p + i·q)·exp(2πi·y·v/128) at each y.
fn along_y<'a>(waves: impl Iterator<Item = (&'a Wave, &'a Signs)>, turns: &[Turns]) -> [Axis; 2] {
    let (mut real, mut imaginary) = ([0; TILE_PX], [0; TILE_PX]);
    for (wave, [p, q]) in waves {
        let (p, q, mirror) = (i32::from(*p), i32::from(*q), wave.y.signum());
        let turns = &turns[wave.y.unsigned_abs() as usize];
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
    use std::collections::BTreeSet;

    use super::*;

    fn pattern(secret: &[u8]) -> Pattern {
        Pattern::new(blake3::Hasher::new().update(secret).finalize_xof())
    }

    #[test]
    fn each_wave_has_one_use_and_each_coded_bit_about_equally_many_parts() {
        let pattern = pattern(b"a");
        let used: BTreeSet<usize> = pattern.sync().map(|(at, _)| at).chain(pattern.data().map(|(at, ..)| at)).collect();
        assert_eq!(used.len(), pattern.waves.len());
        assert_eq!(pattern.sync().count() + pattern.data().count(), pattern.waves.len());
        let mut parts = [0; CODED_BITS];
        pattern.data().flat_map(|(.., bits)| bits).for_each(|bit| parts[bit] += 1);
        let (least, most) = (parts.iter().min().copied(), parts.iter().max().copied());
        assert!(least >= Some(9) && most <= least.map(|least| least + 1), "{least:?} to {most:?}");
    }

    #[test]
    fn the_table_holds_the_sine() {
        for (at, value) in SINES.iter().enumerate() {
            let exact = (std::f64::consts::TAU * at as f64 / 128.0).sin() * 4096.0;
            assert!((exact - f64::from(*value)).abs() <= 0.5, "{at}");
        }
        assert_eq!((sine(64), sine(96), sine(-32), cosine(0), cosine(64)), (0, -4096, -4096, 4096, -4096));
    }

    #[test]
    fn a_tile_has_the_promised_mean_square_and_no_mean() {
        let tile = pattern(b"a").tile(&[true; CODED_BITS]);
        let mean_square = tile.0.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / tile.0.len() as f64;
        let rms = mean_square.sqrt() / f64::from(TILE_RMS);
        assert!((0.95..1.0).contains(&rms), "{rms}: cutting peaks takes a little");
        let mean = tile.0.iter().map(|value| f64::from(*value)).sum::<f64>() / tile.0.len() as f64;
        assert!(mean.abs() < 2.0, "{mean}");
    }

    #[test]
    fn each_wave_of_a_tile_has_the_signs_it_was_given() {
        let pattern = pattern(b"b");
        let tile = pattern.tile(&std::array::from_fn(|bit| bit % 5 < 2));
        for (at, [p, q], [first, second]) in pattern.data().step_by(97) {
            let (wave, sign) = (pattern.waves[at], |bit: usize| if bit % 5 < 2 { 1.0 } else { -1.0 });
            let [mut real, mut imaginary] = [0.0; 2];
            for (place, value) in tile.0.iter().enumerate() {
                let turn = wave.x as f64 * (place % TILE_PX) as f64 + wave.y as f64 * (place / TILE_PX) as f64;
                let (sin, cos) = (std::f64::consts::TAU * turn / TILE_PX as f64).sin_cos();
                real += f64::from(*value) * cos;
                imaginary -= f64::from(*value) * sin;
            }
            assert!(real * f64::from(p) * sign(first) > 0.0, "{wave:?}");
            assert!(imaginary * f64::from(q) * sign(second) > 0.0, "{wave:?}");
        }
    }
}
