//! Resampling as Pillow does it, bit for bit: `Image.resize` with its bicubic filter on pictures of eight bits.
//!
//! Networks that read a picture at a size of their own were trained on what Pillow makes of it, so no other resampler gives
//! their numbers. The filter is stretched where a picture shrinks, its weights are whole numbers of 22 bits behind the point, and
//! rows are done before columns, each rounded to a byte. Invariant: no floating-point sum over pixels, so the result is the same
//! on every machine. Source: Pillow 13, `libImaging/Resample.c`.

/// Bits behind the point of a weight: 32 less 8 of a pixel and 2 for overshoot.
const PRECISION: u32 = 22;
/// How far the filter reaches.
const SUPPORT: f64 = 2.0;

/// Keys' cubic convolution with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Where an output begins to read, and with which weights.
struct Tap {
    first: usize,
    weights: Vec<i64>,
}

/// The taps of each of `outputs` places over `inputs`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sides are bounded, and truncation is what the source does"
)]
fn taps(inputs: usize, outputs: usize) -> Vec<Tap> {
    let scale = inputs as f64 / outputs as f64;
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    let tap = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(inputs);
        let weight = |at: usize| bicubic((at as f64 - center + 0.5) / stretch);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: f64| (weight / sum * f64::from(1_u32 << PRECISION)).round() as i64;
        Tap { first, weights: weights.into_iter().map(whole).collect() }
    };
    (0..outputs).map(tap).collect()
}

/// A sum with half a unit in it, as a byte.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn byte(sum: i64) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// `rgb` of a size at another size. Sides are not zero.
pub(super) fn resized(rgb: &[u8], (width, height): (u32, u32), (to_width, to_height): (u32, u32)) -> Vec<u8> {
    let [width, height, to_width, to_height] = [width, height, to_width, to_height].map(|side| side as usize);
    let rows = if width == to_width { rgb.to_vec() } else { widened(rgb, width, to_width) };
    if height == to_height { rows } else { heightened(&rows, to_width, (height, to_height)) }
}

fn widened(rgb: &[u8], width: usize, to_width: usize) -> Vec<u8> {
    let taps = taps(width, to_width);
    let mut out = Vec::with_capacity(rgb.len() / width * to_width);
    for row in rgb.chunks_exact(width * 3) {
        for Tap { first, weights } in &taps {
            for channel in 0..3 {
                let pixels = row[first * 3 + channel..].iter().step_by(3);
                let products = weights.iter().zip(pixels).map(|(weight, pixel)| weight * i64::from(*pixel));
                out.push(byte((1 << (PRECISION - 1)) + products.sum::<i64>()));
            }
        }
    }
    out
}

fn heightened(rgb: &[u8], width: usize, (height, to_height): (usize, usize)) -> Vec<u8> {
    let stride = width * 3;
    let mut out = Vec::with_capacity(stride * to_height);
    for Tap { first, weights } in taps(height, to_height) {
        for at in 0..stride {
            let pixels = rgb[first * stride + at..].iter().step_by(stride);
            let products = weights.iter().zip(pixels).map(|(weight, pixel)| weight * i64::from(*pixel));
            out.push(byte((1 << (PRECISION - 1)) + products.sum::<i64>()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by Pillow 13: `Image.fromarray(a).resize((w, h), Image.BICUBIC)` of `a[y, x, c] = (37·x + 91·y + 53·c) % 256`.
    #[test]
    fn bytes_are_pillows() {
        let picture = |width: usize, height: usize| -> Vec<u8> {
            let pixel = |at: usize| (37 * (at / 3 % width) + 91 * (at / 3 / width) + 53 * (at % 3)) % 256;
            (0..width * height * 3).map(|at| u8::try_from(pixel(at)).expect("a byte")).collect()
        };
        let hash =
            |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        for (from, to, expected) in PILLOWS {
            let ours = resized(&picture(from.0 as usize, from.1 as usize), from, to);
            assert_eq!((ours.len(), hash(&ours)), (to.0 as usize * to.1 as usize * 3, expected), "{from:?} to {to:?}");
        }
    }

    type Size = (u32, u32);

    const PILLOWS: [(Size, Size, u64); 4] = [
        ((56, 40), (33, 24), 2458648948265320474),
        ((7, 5), (16, 11), 3182287198685059481),
        ((20, 30), (20, 9), 12688780204205950906),
        ((64, 9), (5, 9), 12802738626007533266),
    ];
}
