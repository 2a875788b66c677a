//! The pattern of a secret: which waves of a tile of 128 × 128 px carry what.
//!
//! A tile is a sum of plane waves that repeat a whole number of times in it, so copies of it join without seams. Two
//! bands of them carry the same frame, because what takes one leaves the other: the waves of lightness are short, and
//! live where a picture is rough; those of colour are long, and live where it is calm ([`Carrier`]).
//!
//! Each wave has a cosine and a sine part of amplitude ±1, and each part carries one sign. The secret shuffles the waves
//! of a band: the first ones synchronise, with signs that the secret fixes; all others carry coded bits in turn, their
//! signs mixed by the secret as well.
//!
//! This is spread-spectrum marking in the frequency plane (Cox et al., "Secure spread spectrum watermarking for
//! multimedia", IEEE Trans. Image Processing 6, 1997) of a periodic pattern (Kutter, "Watermarking resistant to
//! translation, rotation, and scaling", SPIE 3528, 1998).

use std::ops::Range;

use super::code::CODED_BITS;
use super::payload::FRAME_BITS;
use super::tile::Tile;

/// Side of the tile in pixels of the rendition.
pub(super) const TILE_PX: usize = 128;
/// How often the shortest waves repeat in a tile.
pub(super) const RADIUS_MAX: i32 = 32;

/// What moves along a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// All three channels alike.
    Lightness,
    /// Blue against the other two.
    Colour,
}

impl Carrier {
    pub(super) const EACH: [Self; 2] = [Self::Lightness, Self::Colour];

    const fn band(self) -> Band {
        match self {
            Self::Lightness => Band { radius_min: 14, radius_max: RADIUS_MAX, axis_min: 2, sync: 150 },
            Self::Colour => Band { radius_min: 12, radius_max: 16, axis_min: 1, sync: 40 },
        }
    }
}

/// The waves of a carrier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// How often waves repeat in a tile, along the way they run: from
    pub(super) radius_min: i32,
    /// to.
    pub(super) radius_max: i32,
    /// Waves nearer to an axis than this are left out: rows of text, horizons and the blocks of codecs lie there.
    axis_min: i32,
    /// Waves that synchronise.
    sync: usize,
}

impl Band {
    /// From left to right: half of the ring, as the other half is its mirror image.
    fn waves(self) -> impl Iterator<Item = Wave> {
        let ring = self.radius_min * self.radius_min..=self.radius_max * self.radius_max;
        let high = move |x| (-self.radius_max..=self.radius_max).map(move |y| Wave { x, y });
        let all = (self.axis_min..=self.radius_max).flat_map(high);
        all.filter(move |wave| wave.y.abs() >= self.axis_min && ring.contains(&wave.square()))
    }
}

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

/// The waves of both carriers in one row: those of lightness, then those of colour.
#[derive(Clone)]
pub(super) struct Waves {
    pub(super) all: Vec<Wave>,
    colour_from: usize,
}

impl Waves {
    fn new() -> Self {
        let mut all: Vec<Wave> = Carrier::Lightness.band().waves().collect();
        let colour_from = all.len();
        all.extend(Carrier::Colour.band().waves());
        Self { all, colour_from }
    }

    /// Where those of a carrier stand.
    pub(super) fn range(&self, carrier: Carrier) -> Range<usize> {
        match carrier {
            Carrier::Lightness => 0..self.colour_from,
            Carrier::Colour => self.colour_from..self.all.len(),
        }
    }
}

/// A wave that carries coded bits: its place among the waves, its signs, and a bit for either part.
pub(super) type Carried = (usize, Signs, [usize; 2]);

/// Which wave carries what, and with which signs.
#[derive(Clone)]
pub(super) struct Pattern {
    pub(super) waves: Waves,
    /// By which a part is multiplied, in the order of `waves`.
    signs: Vec<Signs>,
    sync: Vec<usize>,
    data: Vec<Carried>,
}

impl Pattern {
    /// Both the shuffles and the signs come from the BLAKE3 stream of the secret.
    pub(super) fn new(mut stream: blake3::OutputReader) -> Self {
        let waves = Waves::new();
        let mut number = || {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let sign = |bit: u64| if bit & 1 == 1 { 1 } else { -1 };
        let signs: Vec<Signs> = waves.all.iter().map(|_| number()).map(|bits| [sign(bits), sign(bits >> 1)]).collect();
        let (mut sync, mut data) = (Vec::new(), Vec::new());
        for carrier in Carrier::EACH {
            let order = shuffled(waves.range(carrier), &mut number);
            let (first, rest) = order.split_at(carrier.band().sync);
            sync.extend(first);
            let bits = |n: usize| [2 * n, 2 * n + 1].map(carried);
            data.extend(rest.iter().enumerate().map(|(n, &at)| (at, signs[at], bits(n))));
        }
        Self { waves, signs, sync, data }
    }

    /// Indices and signs of the waves that synchronise.
    pub(super) fn sync(&self) -> impl Iterator<Item = (usize, Signs)> + '_ {
        self.sync.iter().map(|&at| (at, self.signs[at]))
    }

    /// The waves that carry coded bits.
    pub(super) fn data(&self) -> &[Carried] {
        &self.data
    }

    /// The tiles that carry a code word, of each carrier.
    pub(super) fn tiles(&self, coded: &[bool; CODED_BITS]) -> [Tile; 2] {
        let mut parts = self.signs.clone();
        let sign = |sign: i8, bit: usize| if coded[bit] { sign } else { -sign };
        for (at, signs, bits) in &self.data {
            parts[*at] = [sign(signs[0], bits[0]), sign(signs[1], bits[1])];
        }
        Carrier::EACH.map(|carrier| {
            let range = self.waves.range(carrier);
            Tile::new(&self.waves.all[range.clone()], &parts[range])
        })
    }
}

/// The coded bit on the nth part of a carrier: one of each frame bit, then another one of each, and so on, so that a
/// carrier with fewer parts than coded bits leaves out equally many of every frame bit.
const fn carried(part: usize) -> usize {
    const OF_ONE: usize = CODED_BITS / FRAME_BITS;
    let (round, bit) = (part / FRAME_BITS, part % FRAME_BITS);
    bit * OF_ONE + (round + bit) % OF_ONE
}

/// Fisher and Yates. 64 random bits for fewer than 2048 places: the bias is below 2^-53.
fn shuffled(range: Range<usize>, number: &mut impl FnMut() -> u64) -> Vec<usize> {
    let mut order: Vec<usize> = range.collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (number() % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tile::TILE_RMS;
    use super::*;

    fn pattern(secret: &[u8]) -> Pattern {
        Pattern::new(blake3::Hasher::new().update(secret).finalize_xof())
    }

    #[test]
    fn each_wave_has_one_use() {
        let pattern = pattern(b"a");
        let data = pattern.data().iter().map(|(at, ..)| *at);
        let used: BTreeSet<usize> = pattern.sync().map(|(at, _)| at).chain(data).collect();
        assert_eq!(used.len(), pattern.waves.all.len());
        assert_eq!(pattern.sync().count() + pattern.data().len(), pattern.waves.all.len());
    }

    #[test]
    fn each_carrier_spreads_its_parts_evenly_over_the_coded_bits() {
        let pattern = pattern(b"a");
        for carrier in Carrier::EACH {
            let waves = pattern.waves.range(carrier);
            let mut parts = [0; CODED_BITS];
            let of_carrier = pattern.data().iter().filter(|(at, ..)| waves.contains(at));
            of_carrier.flat_map(|(.., bits)| bits).for_each(|bit| parts[*bit] += 1);
            let (least, most) = (parts.iter().min().copied(), parts.iter().max().copied());
            assert!(most <= least.map(|least| least + 1), "{carrier:?}: {least:?} to {most:?}");
        }
    }

    #[test]
    fn each_wave_of_a_tile_has_the_signs_it_was_given() {
        let pattern = pattern(b"b");
        let tiles = pattern.tiles(&std::array::from_fn(|bit| bit % 5 < 2));
        for (at, [p, q], [first, second]) in pattern.data().iter().step_by(97) {
            let tile = &tiles[usize::from(pattern.waves.range(Carrier::Colour).contains(at))];
            let (wave, sign) = (pattern.waves.all[*at], |bit: usize| if bit % 5 < 2 { 1.0 } else { -1.0 });
            let [mut real, mut imaginary] = [0.0; 2];
            for (place, value) in tile.values().iter().enumerate() {
                let turn = wave.x as f64 * (place % TILE_PX) as f64 + wave.y as f64 * (place / TILE_PX) as f64;
                let (sin, cos) = (std::f64::consts::TAU * turn / TILE_PX as f64).sin_cos();
                real += f64::from(*value) * cos;
                imaginary -= f64::from(*value) * sin;
            }
            assert!(real * f64::from(*p) * sign(*first) > 0.0, "{wave:?}");
            assert!(imaginary * f64::from(*q) * sign(*second) > 0.0, "{wave:?}");
        }
    }

    #[test]
    fn tiles_have_the_promised_mean_square_and_no_mean() {
        for tile in pattern(b"a").tiles(&[true; CODED_BITS]) {
            let values = || tile.values().iter().map(|value| f64::from(*value) / f64::from(TILE_RMS));
            let rms = (values().map(|value| value * value).sum::<f64>() / values().count() as f64).sqrt();
            assert!((0.95..1.0).contains(&rms), "{rms}: cutting peaks takes a little");
            let mean = values().sum::<f64>() / values().count() as f64;
            assert!(mean.abs() < 0.01, "{mean}");
        }
    }
}
