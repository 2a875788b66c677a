//! Between sRGB pixels and the YCbCr samples of AVIF: BT.601's matrix in full range, as ravif and browsers have it.
//!
//! Whole numbers and single operations on floats only: every processor gives the same samples.

use bildkante_av1::{Frame, Layout, Row};

use super::Raster;

/// How many samples of colour there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// 4:2:0, half as many in both directions.
    Half,
    /// 4:4:4, as many as there are pixels.
    Full,
}

/// The pixels of a frame this edge has encoded.
pub(super) fn pixels(frame: &Frame) -> Result<Vec<u8>, String> {
    let is_halved = match frame.layout() {
        Layout::Half => true,
        Layout::Full => false,
        Layout::Grey | Layout::HalfAcross => return Err("an unexpected layout of chroma".to_owned()),
    };
    let row = |plane: usize, y: usize, out: &mut Vec<f32>| {
        out.clear();
        match frame.row(plane, y) {
            Some(Row::Eight(row)) => out.extend(row.iter().map(|sample| f32::from(*sample))),
            Some(Row::Sixteen(row)) => out.extend(row.iter().map(|sample| f32::from(*sample))),
            None => {}
        }
    };
    let size = (frame.width_px(), frame.height_px());
    assembled(size, frame.bits(), is_halved, &row).ok_or_else(|| "a plane is too short".to_owned())
}

/// Puts a row of a plane into the vector, or nothing where there is none.
type Rows<'r> = &'r dyn Fn(usize, usize, &mut Vec<f32>);

/// Halved chroma is spread as libavif and libyuv do it, 9 : 3 : 3 : 1.
fn assembled((width, height): (usize, usize), bits: u32, is_halved: bool, rows: Rows<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(width * height * 3);
    let (mut luma, mut near, mut far) = (Vec::new(), Vec::new(), Vec::new());
    let (mut blue, mut red) = (Vec::new(), Vec::new());
    let (scale, middle) = scale(bits);
    for y in 0..height {
        rows(0, y, &mut luma);
        for (plane, chroma) in [(1, &mut blue), (2, &mut red)] {
            if is_halved {
                let beside = beside(y, height.div_ceil(2));
                rows(plane, y / 2, &mut near);
                rows(plane, beside, &mut far);
                spread(&near, &far, width, chroma)?;
            } else {
                rows(plane, y, chroma);
            }
        }
        if [&luma, &blue, &red].iter().any(|row| row.len() < width) {
            return None;
        }
        for ((luma, blue), red) in luma.iter().zip(&blue).zip(&red).take(width) {
            let (luma, blue, red) = (luma * scale, (blue - middle) * scale, (red - middle) * scale);
            out.push(rounded(luma + 1.402 * red));
            out.push(rounded(luma - 0.344_136 * blue - 0.714_136 * red));
            out.push(rounded(luma + 1.772 * blue));
        }
    }
    Some(out)
}

/// A row with a sample for every pixel, out of the nearest halved row and the next one.
fn spread(near: &[f32], far: &[f32], width: usize, out: &mut Vec<f32>) -> Option<()> {
    let columns: Vec<f32> = near.iter().zip(far).map(|(near, far)| 3.0 * near + far).collect();
    if columns.len() < width.div_ceil(2) {
        return None;
    }
    out.clear();
    out.extend((0..width).map(|x| (3.0 * columns[x / 2] + columns[beside(x, columns.len())]) / 16.0));
    Some(())
}

/// The halved sample on the other side of a pixel, of so many.
fn beside(at: usize, count: usize) -> usize {
    if at.is_multiple_of(2) { (at / 2).saturating_sub(1) } else { (at / 2 + 1).min(count - 1) }
}

/// From a sample to 8 bits, and the sample of no colour.
fn scale(bits: u32) -> (f32, f32) {
    let (most, middle) = ((1_u16 << bits) - 1, 1_u16 << (bits - 1));
    (255.0 / f32::from(most), f32::from(middle))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn rounded(value: f32) -> u8 {
    (value + 0.5).clamp(0.0, 255.0) as u8
}

const SHIFT: u32 = 16;

/// Weights of red, green and blue for one kind of sample, in 1/65536ths, scaled to the depth.
#[derive(Clone, Copy)]
struct Weights([i64; 3]);

impl Weights {
    #[allow(clippy::cast_possible_truncation, reason = "weights are below 1, scaled to at most 2^19")]
    fn new(weights: [f64; 3], bits: u32) -> Self {
        let scale = f64::from((1_u32 << bits) - 1) / 255.0 * f64::from(1_u32 << SHIFT);
        Self(weights.map(|weight| (weight * scale).round() as i64))
    }

    /// Of the sum of `1 << summed` pixels.
    fn sample(self, sum: [u32; 3], summed: u32, middle: i64, most: i64) -> u16 {
        let weighted: i64 = self.0.iter().zip(sum).map(|(weight, channel)| weight * i64::from(channel)).sum();
        let shift = SHIFT + summed;
        let value = ((weighted + (1 << (shift - 1))) >> shift) + middle;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the depth")]
        let value = value.clamp(0, most) as u16;
        value
    }
}

/// Luma, blue and red difference in so many bits. Halved chroma is the mean of four pixels, at the edges of those that are there.
pub(super) fn planes(raster: &Raster, bits: u32, chroma: Chroma) -> [Vec<u16>; 3] {
    let (width, height) = (raster.width_px as usize, raster.height_px as usize);
    let (most, middle) = ((1 << bits) - 1, 1 << (bits - 1));
    let luma = Weights::new([0.299, 0.587, 0.114], bits);
    let blue = Weights::new([-0.168_736, -0.331_264, 0.5], bits);
    let red = Weights::new([0.5, -0.418_688, -0.081_312], bits);
    let wide = |rgb: &[u8]| [u32::from(rgb[0]), u32::from(rgb[1]), u32::from(rgb[2])];
    let lumas = raster.rgb.chunks_exact(3).map(|rgb| luma.sample(wide(rgb), 0, 0, most)).collect();
    let mut planes = [lumas, Vec::new(), Vec::new()];
    let mut push = |sum: [u32; 3], summed: u32| {
        planes[1].push(blue.sample(sum, summed, middle, most));
        planes[2].push(red.sample(sum, summed, middle, most));
    };
    if chroma == Chroma::Full {
        raster.rgb.chunks_exact(3).for_each(|rgb| push(wide(rgb), 0));
        return planes;
    }
    let pixel = |x: usize, y: usize| wide(&raster.rgb[(y * width + x) * 3..][..3]);
    for y in (0..height).step_by(2) {
        let below = (y + 1).min(height - 1);
        for x in (0..width).step_by(2) {
            let right = (x + 1).min(width - 1);
            let four = [pixel(x, y), pixel(right, y), pixel(x, below), pixel(right, below)];
            push(std::array::from_fn(|channel| four.iter().map(|pixel| pixel[channel]).sum()), 2);
        }
    }
    planes
}

/// The picture with nothing lost but what halving its chroma loses.
pub(super) fn halved(raster: &Raster) -> Vec<u8> {
    const BITS: u32 = 10;
    let planes = planes(raster, BITS, Chroma::Half);
    let (width, height) = (raster.width_px as usize, raster.height_px as usize);
    let row = |plane: usize, y: usize, out: &mut Vec<f32>| {
        let width = if plane == 0 { width } else { width.div_ceil(2) };
        out.clear();
        out.extend(planes[plane][y * width..(y + 1) * width].iter().map(|sample| f32::from(*sample)));
    };
    assembled((width, height), BITS, true, &row).unwrap_or_default()
}
