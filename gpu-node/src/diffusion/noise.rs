//! A request's own Gaussian noise, bit for bit as PyTorch's CPU generator draws it.
//!
//! Owns one generator per request: MT19937 seeded with 32 bits (Matsumoto & Nishimura 1998) and the Box–Muller
//! transform in the very arithmetic of PyTorch's `randn`. Invariants: a draw depends on the seed and on the draws
//! before it, on nothing else — no process-wide generator, hence no lock, is involved — and equals
//! `torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)` on an x86-64 CPU with AVX2.
//! A test compares every path with libtorch. Other CPUs get the same bits from this code, though PyTorch itself would
//! round differently there.
//!
//! PyTorch has three ways to fill a tensor, all of which matter here:
//! - float32, 16 values or more: 24-bit uniforms first, then blocks of 16 in single precision, with the logarithm,
//!   sine and cosine of Moshier's Cephes library and fused multiply-adds where its compiler fuses them;
//! - half precisions, 16 values or more: uniforms of as many bits as the significand has, each operation rounded;
//! - fewer than 16 values: double precision, one value at a time, the second of each pair kept for the next draw.

use half::{bf16, f16};
use tch::{Kind, TchError, Tensor};

/// Values per block of the block-wise fill: eight radii, eight angles.
const BLOCK: usize = 16;

/// The noise of one request, drawn in the order in which diffusers would draw it.
#[derive(Debug, Clone)]
pub struct NoiseGenerator {
    engine: Mt19937,
    /// The second value of the last double-precision pair.
    kept: Option<f64>,
}

impl NoiseGenerator {
    #[must_use]
    pub fn new(seed: u32) -> Self {
        Self { engine: Mt19937::new(seed), kept: None }
    }

    /// The next draw: a contiguous CPU tensor of standard normal values.
    ///
    /// # Errors
    /// When the kind is not a floating-point kind PyTorch draws latents in, or libtorch refuses the shape.
    pub fn draw(&mut self, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
        let count = element_count(shape)?;
        let precision = match kind {
            Kind::Float => Precision { digits: 24, round: |x| x, box_muller: box_muller_f32 },
            Kind::Half => Precision { digits: 11, round: round_f16, box_muller: |block| box_muller(block, round_f16) },
            Kind::BFloat16 => {
                Precision { digits: 8, round: round_bf16, box_muller: |block| box_muller(block, round_bf16) }
            }
            other => return Err(TchError::Kind(format!("noise is float32, float16 or bfloat16, not {other:?}"))),
        };
        // tch 0.24 takes a slice of bf16 for float16, so every kind travels as float32, which holds it exactly.
        Tensor::f_from_slice(&self.values(count, &precision))?.f_reshape(shape)?.f_to_kind(kind)
    }

    fn values(&mut self, count: usize, precision: &Precision) -> Vec<f32> {
        if count < BLOCK {
            #[allow(clippy::cast_possible_truncation, reason = "C++ reaches every narrower type by way of float")]
            return (0..count).map(|_| (precision.round)(self.normal_f64() as f32)).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.engine.uniform_f32(precision.digits)).collect();
        values.chunks_exact_mut(BLOCK).for_each(precision.box_muller);
        if !count.is_multiple_of(BLOCK) {
            // The last sixteen values are drawn anew, over the end of the last whole block.
            let tail = &mut values[count - BLOCK..];
            tail.fill_with(|| self.engine.uniform_f32(precision.digits));
            (precision.box_muller)(tail);
        }
        values
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let angle = 2.0 * std::f64::consts::PI * self.engine.uniform_f64();
        let radius = (-2.0 * (-self.engine.uniform_f64()).ln_1p()).sqrt();
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

fn element_count(shape: &[i64]) -> Result<usize, TchError> {
    shape
        .iter()
        .try_fold(1_usize, |count, side| count.checked_mul(usize::try_from(*side).ok()?))
        .ok_or_else(|| TchError::Shape(format!("{shape:?} is not a shape of noise")))
}

/// What differs between the floating-point kinds in a draw of sixteen values or more.
struct Precision {
    /// Bits of a uniform: those of the significand, the hidden one included.
    digits: u32,
    round: fn(f32) -> f32,
    box_muller: fn(&mut [f32]),
}

fn round_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn round_bf16(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Box & Muller 1958 over one block: the first eight uniforms give radii, the second eight angles.
fn box_muller_f32(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * cephes::ln(1.0 - *a)).sqrt();
        let (sine, cosine) = cephes::sin_cos(std::f32::consts::TAU * *b);
        // Adding the mean, zero, turns -0 into 0.
        (*a, *b) = (radius * cosine + 0.0, radius * sine + 0.0);
    }
}

/// The same in a narrower type, every operation done in single precision and rounded.
fn box_muller(block: &mut [f32], round: fn(f32) -> f32) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = round(round(-2.0 * round(round(1.0 - *a).ln())).sqrt());
        #[allow(clippy::cast_possible_truncation, reason = "C++ reaches every narrower type by way of float")]
        let angle = round((std::f64::consts::TAU * f64::from(*b)) as f32);
        (*a, *b) = (round(radius * round(angle.cos())) + 0.0, round(radius * round(angle.sin())) + 0.0);
    }
}

/// The single-precision logarithm, sine and cosine of S. L. Moshier's Cephes library, evaluated with the fused
/// multiply-adds with which PyTorch's AVX2 kernels evaluate them. An ulp here is a different image id there, so the
/// order of operations is part of the contract.
#[allow(clippy::excessive_precision, reason = "the coefficients as published; each rounds to the float meant")]
mod cephes {
    const LN: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    /// ln 2 as a short number, exact in products with an exponent, and the rest.
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_40e-4;
    const SIN: [f32; 3] = [-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];
    const COS: [f32; 3] = [2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
    /// π/4 in three parts, for the reduction of the argument.
    const QUARTER_PI: [f32; 3] = [0.785_156_25, 2.418_756_484_985_351_562_5e-4, 3.774_894_977_445_941_08e-8];

    fn polynomial(coefficients: &[f32], x: f32) -> f32 {
        coefficients[1..].iter().fold(coefficients[0], |sum, coefficient| sum.mul_add(x, *coefficient))
    }

    /// The natural logarithm of a normal, positive number.
    pub(crate) fn ln(x: f32) -> f32 {
        let bits = x.to_bits();
        #[allow(clippy::cast_possible_wrap, reason = "an exponent has eight bits")]
        let exponent = (bits >> 23) as i32 - 0x7e;
        let fraction = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
        #[allow(clippy::cast_precision_loss, reason = "an exponent has eight bits")]
        let (e, m) = if fraction < std::f32::consts::FRAC_1_SQRT_2 {
            (exponent as f32 - 1.0, fraction - 1.0 + fraction)
        } else {
            (exponent as f32, fraction - 1.0)
        };
        let square = m * m;
        let cubic = polynomial(&LN, m) * m;
        let series = (-0.5_f32).mul_add(square, cubic.mul_add(square, e * LN_2_LOW));
        e.mul_add(LN_2_HIGH, m + series)
    }

    /// Sine and cosine of an angle from 0 to a few turns.
    pub(crate) fn sin_cos(angle: f32) -> (f32, f32) {
        #[allow(clippy::cast_possible_truncation, reason = "a few turns have a few octants")]
        let octant = ((angle * (4.0 / std::f32::consts::PI)) as i32 + 1) & !1;
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let turns = octant as f32;
        let x = QUARTER_PI.iter().fold(angle, |x, part| turns.mul_add(-part, x));
        let z = x * x;
        let cosine = (polynomial(&COS, z) * z).mul_add(z, -0.5 * z) + 1.0;
        let sine = (polynomial(&SIN, z) * z).mul_add(x, x);
        let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
        let sine = if octant & 4 == 0 { sine } else { -sine };
        // The sign of the cosine changes in the second and third quarter.
        (sine, if (octant - 2) & 4 == 0 { -cosine } else { cosine })
    }
}

/// MT19937 (Matsumoto & Nishimura 1998), with the uniforms PyTorch makes of it.
#[derive(Clone)]
struct Mt19937 {
    state: Box<[u32; Self::WORDS]>,
    next: usize,
}

impl Mt19937 {
    const WORDS: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = Box::new([0_u32; Self::WORDS]);
        let mut word = seed;
        for (i, place) in (0_u32..).zip(state.iter_mut()) {
            if i > 0 {
                word = (word ^ word >> 30).wrapping_mul(1_812_433_253).wrapping_add(i);
            }
            *place = word;
        }
        Self { state, next: Self::WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let mixed = self.state[i] & 0x8000_0000 | self.state[(i + 1) % Self::WORDS] & 0x7fff_ffff;
            let odd = if mixed & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + Self::SHIFT) % Self::WORDS] ^ mixed >> 1 ^ odd;
        }
        self.next = 0;
    }

    /// A multiple of 2⁻ᵇⁱᵗˢ in 0..1.
    fn uniform_f32(&mut self, bits: u32) -> f32 {
        let scale = 1_u32 << bits;
        #[allow(clippy::cast_precision_loss, reason = "at most 24 bits")]
        return (self.next_u32() & (scale - 1)) as f32 / scale as f32;
    }

    /// A multiple of 2⁻⁵³ in 0..1; the first word drawn is the high one.
    fn uniform_f64(&mut self) -> f64 {
        let word = u64::from(self.next_u32()) << 32 | u64::from(self.next_u32());
        #[allow(clippy::cast_precision_loss, reason = "53 bits")]
        return (word & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64;
    }
}

impl std::fmt::Debug for Mt19937 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mt19937(at word {})", self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tch::Device;

    use super::*;

    /// libtorch's default generator is one per process; only these tests use it, one at a time.
    static LIBTORCH: Mutex<()> = Mutex::new(());

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let flat = tensor.to_kind(Kind::Float).reshape([-1]);
        Vec::<f32>::try_from(&flat).expect("a float vector").into_iter().map(f32::to_bits).collect()
    }

    fn assert_draws_like_libtorch(seed: u32, shapes: &[Vec<i64>], kind: Kind) {
        let _guard = LIBTORCH.lock();
        tch::manual_seed(i64::from(seed));
        let mut ours = NoiseGenerator::new(seed);
        for (nth, shape) in shapes.iter().enumerate() {
            let theirs = bits(&Tensor::randn(shape, (kind, Device::Cpu)));
            let ours = bits(&ours.draw(shape, kind).expect("a draw"));
            let wrong = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "seed {seed}, draw {nth} of {shape:?} in {kind:?}");
        }
    }

    #[test]
    fn the_engine_is_mt19937() {
        // The 10 000th output for the reference seed is in the C++ standard ([rand.predef]).
        let mut engine = Mt19937::new(5489);
        let last = (0..10_000).map(|_| engine.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn every_size_and_kind_is_drawn_bit_for_bit_as_libtorch_draws_it() {
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16] {
            for seed in [0, 7, 42, u32::MAX] {
                let sizes = (1..70).chain([4 * 65 * 65, 2304, 4096, 16_384]).map(|count| vec![count]);
                assert_draws_like_libtorch(seed, &sizes.collect::<Vec<_>>(), kind);
            }
        }
    }

    #[test]
    fn a_million_values_are_drawn_bit_for_bit() {
        assert_draws_like_libtorch(1234, &vec![vec![1, 4, 128, 128]; 16], Kind::Float);
    }
}
