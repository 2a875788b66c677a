//! Coded frames to RGB: YCbCr to R'G'B' as ITU-T H.273 has it, and what lies in the frame of a transparency to alpha.
//!
//! Chroma is interpolated between its samples, which are taken to lie in the middle of the pixels they are for, as browsers do.

use bildkante_av1::{Frame, Layout, Row};
use image::{ColorType, DynamicImage};

use super::{Coding, pictured};

/// Samples are the colours themselves, in the order G, B, R.
const IDENTITY: u16 = 0;
/// Differences to green and to orange (H.273 §8.3, equations 47–50).
const GREEN_AND_ORANGE: u16 = 8;

impl Coding {
    /// What a frame says of itself.
    pub(super) const fn of(frame: &Frame) -> Self {
        Self {
            primaries: frame.primaries(),
            transfer: frame.transfer(),
            matrix: frame.matrix(),
            is_full_range: frame.is_full_range(),
        }
    }

    /// Whether the way from samples to RGB is one of those that are known here.
    pub(super) const fn has_known_matrix(self) -> bool {
        matches!(self.matrix, IDENTITY | 1 | 2 | 4..=9)
    }
}

/// Weights of red and blue in the lightness.
const fn weights(matrix: u16) -> (f32, f32) {
    match matrix {
        1 => (0.2126, 0.0722),
        4 => (0.30, 0.11),
        7 => (0.212, 0.087),
        9 | 10 => (0.2627, 0.0593),
        // BT.601, and what an unspecified matrix is taken for (MIAF §7.3.6.4).
        _ => (0.299, 0.114),
    }
}

/// Maps samples to 0–1 and −0.5–0.5.
#[derive(Debug, Clone, Copy)]
struct Scale {
    luma: (f32, f32),
    chroma: (f32, f32),
}

impl Scale {
    fn of(bits: u32, is_full_range: bool) -> Self {
        let unit = (1_u32 << (bits.clamp(8, 16) - 8)) as f32;
        let most = 256.0_f32.mul_add(unit, -1.0);
        if is_full_range {
            Self { luma: (0.0, 1.0 / most), chroma: (128.0 * unit, 1.0 / most) }
        } else {
            Self { luma: (16.0 * unit, 1.0 / (219.0 * unit)), chroma: (128.0 * unit, 1.0 / (224.0 * unit)) }
        }
    }

    fn luma(self, sample: f32) -> f32 {
        (sample - self.luma.0) * self.luma.1
    }

    fn chroma(self, sample: f32) -> f32 {
        (sample - self.chroma.0) * self.chroma.1
    }

    /// Luma and both chroma samples to R'G'B'.
    fn rgb(self, [luma, cb, cr]: [f32; 3], matrix: u16) -> [f32; 3] {
        if matrix == IDENTITY {
            return [cr, luma, cb].map(|sample| self.luma(sample));
        }
        let (luma, cb, cr) = (self.luma(luma), self.chroma(cb), self.chroma(cr));
        if matrix == GREEN_AND_ORANGE {
            let without_green = luma - cb;
            return [without_green + cr, luma + cb, without_green - cr];
        }
        let (of_red, of_blue) = weights(matrix);
        let red = (2.0 - 2.0 * of_red).mul_add(cr, luma);
        let blue = (2.0 - 2.0 * of_blue).mul_add(cb, luma);
        let green = (luma - of_red * red - of_blue * blue) / (1.0 - of_red - of_blue);
        [red, green, blue]
    }
}

/// A picture that frames are painted into: one or three samples of colour a pixel, and behind them one of transparency where
/// it has any.
#[derive(Debug)]
pub(super) struct Canvas {
    width_px: usize,
    height_px: usize,
    kind: ColorType,
    channels: usize,
    colours: usize,
    samples: Vec<u8>,
}

impl Canvas {
    /// `kind` has 8 bits. The caller has checked the size.
    pub(super) fn new((width_px, height_px): (u32, u32), kind: ColorType) -> Self {
        let (width_px, height_px) = (width_px as usize, height_px as usize);
        let channels = usize::from(kind.channel_count());
        let colours = if kind.has_color() { 3 } else { 1 };
        Self { width_px, height_px, kind, channels, colours, samples: vec![0; width_px * height_px * channels] }
    }

    /// Writes a frame's colours with its upper left corner at `place`; what reaches beyond the picture is dropped.
    pub(super) fn paint(&mut self, place: (u32, u32), frame: &Frame, coding: Coding) {
        let scale = Scale::of(frame.bits(), coding.is_full_range);
        let (channels, colours) = (self.channels, self.colours);
        let mut chroma = [Vec::new(), Vec::new()];
        self.rows(place, frame, |y, luma, out| {
            let [cb, cr] = &mut chroma;
            let has_chroma = colours == 3 && upsampled(frame, 1, y, cb) && upsampled(frame, 2, y, cr);
            for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
                let luma = sample(luma, x);
                if has_chroma {
                    let rgb = scale.rgb([luma, cb[x], cr[x]], coding.matrix);
                    pixel[..3].copy_from_slice(&rgb.map(to_byte));
                } else {
                    pixel[..colours].fill(to_byte(scale.luma(luma)));
                }
            }
        });
    }

    /// Writes a frame's luma as transparency.
    pub(super) fn veil(&mut self, place: (u32, u32), frame: &Frame) {
        let scale = Scale::of(frame.bits(), frame.is_full_range());
        let (channels, alpha) = (self.channels, self.channels - 1);
        self.rows(place, frame, |_, luma, out| {
            for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
                pixel[alpha] = to_byte(scale.luma(sample(luma, x)));
            }
        });
    }

    fn rows(&mut self, place: (u32, u32), frame: &Frame, mut write: impl FnMut(usize, Row<'_>, &mut [u8])) {
        let (left, top) = (place.0 as usize, place.1 as usize);
        let columns = frame.width_px().min(self.width_px.saturating_sub(left));
        for y in 0..frame.height_px().min(self.height_px.saturating_sub(top)) {
            let Some(luma) = frame.row(0, y) else { return };
            let start = ((top + y) * self.width_px + left) * self.channels;
            let Some(out) = self.samples.get_mut(start..start + columns * self.channels) else { return };
            write(y, luma, out);
        }
    }

    /// Divides colours by the transparency that they were multiplied by.
    pub(super) fn unmultiply(&mut self) {
        let colours = self.colours;
        for pixel in self.samples.chunks_exact_mut(self.channels) {
            let alpha = u32::from(pixel[colours]);
            for sample in &mut pixel[..colours] {
                let whole = (u32::from(*sample) * 255 + alpha / 2).checked_div(alpha).unwrap_or(0);
                *sample = u8::try_from(whole).unwrap_or(u8::MAX);
            }
        }
    }

    pub(super) fn into_picture(self) -> Option<DynamicImage> {
        let (width, height) = (u32::try_from(self.width_px).ok()?, u32::try_from(self.height_px).ok()?);
        pictured((width, height), self.kind, self.samples)
    }
}

fn to_byte(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

/// The chroma of a row of pixels, a sample for each. `false` where the frame has none.
fn upsampled(frame: &Frame, plane: usize, y: usize, out: &mut Vec<f32>) -> bool {
    let (across, down) = match frame.layout() {
        Layout::Grey => return false,
        Layout::Half => (2, 2),
        Layout::HalfAcross => (2, 1),
        Layout::Full => (1, 1),
    };
    let Some(near) = frame.row(plane, y / down) else { return false };
    let far = if down == 2 { neighbour(y).and_then(|far| frame.row(plane, far)) } else { None }.unwrap_or(near);
    let between = |x: usize| nearer(sample(near, x), sample(far, x));
    out.clear();
    if across == 1 {
        out.extend((0..frame.width_px()).map(between));
        return true;
    }
    let last = frame.width_px().div_ceil(2) - 1;
    out.extend((0..frame.width_px()).map(|x| {
        let beside = neighbour(x).filter(|beside| *beside <= last).unwrap_or(x / 2);
        nearer(between(x / 2), between(beside))
    }));
    true
}

/// The chroma sample next to a pixel's own, on the side that the pixel lies on.
const fn neighbour(at: usize) -> Option<usize> {
    if at % 2 == 1 { Some(at / 2 + 1) } else { (at / 2).checked_sub(1) }
}

/// A quarter of the way from one sample to the next.
fn nearer(near: f32, far: f32) -> f32 {
    0.75_f32.mul_add(near, 0.25 * far)
}

fn sample(row: Row<'_>, x: usize) -> f32 {
    match row {
        Row::Eight(samples) => samples.get(x).copied().map_or(0.0, f32::from),
        Row::Sixteen(samples) => samples.get(x).copied().map_or(0.0, f32::from),
    }
}
