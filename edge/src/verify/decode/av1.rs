//! Coded frames to RGB: YCbCr to R'G'B' as ITU-T H.273 has it.
//!
//! Chroma is not interpolated: neither a watermark in the lightness nor a hash of 32 × 32 px sees it.

use bildkante_av1::{Frame, Layout, Row};
use image::RgbImage;

/// What a file says of its samples (H.273 §8.3), where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) matrix: u16,
    pub(super) is_full_range: bool,
}

/// Samples are the colours themselves, in the order G, B, R.
const IDENTITY: u16 = 0;

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
}

/// Writes a frame into a picture with its upper left corner at `place`; what reaches beyond the picture is dropped.
pub(super) fn paint(picture: &mut RgbImage, place: (u32, u32), frame: &Frame, told: Option<Colour>) {
    let colour = told.unwrap_or(Colour { matrix: frame.matrix(), is_full_range: frame.is_full_range() });
    let scale = Scale::of(frame.bits(), colour.is_full_range);
    let (left, top) = (place.0 as usize, place.1 as usize);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let columns = frame.width_px().min(width.saturating_sub(left));
    for y in 0..frame.height_px().min(height.saturating_sub(top)) {
        let Some(rows) = Rows::of(frame, y) else { return };
        let start = ((top + y) * width + left) * 3;
        let Some(out) = picture.get_mut(start..start + columns * 3) else { return };
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&rows.rgb(x, scale, colour.matrix).map(to_byte));
        }
    }
}

fn to_byte(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}

/// The samples of one row of pixels.
struct Rows<'a> {
    luma: Row<'a>,
    chroma: Option<[Row<'a>; 2]>,
    /// Pixels across for one chroma sample.
    across: usize,
}

impl<'a> Rows<'a> {
    fn of(frame: &'a Frame, y: usize) -> Option<Self> {
        let (across, down) = match frame.layout() {
            Layout::Grey => return Some(Self { luma: frame.row(0, y)?, chroma: None, across: 1 }),
            Layout::Half => (2, 2),
            Layout::HalfAcross => (2, 1),
            Layout::Full => (1, 1),
        };
        let chroma = [frame.row(1, y / down)?, frame.row(2, y / down)?];
        Some(Self { luma: frame.row(0, y)?, chroma: Some(chroma), across })
    }

    fn rgb(&self, x: usize, scale: Scale, matrix: u16) -> [f32; 3] {
        let luma = sample(self.luma, x);
        let Some(chroma) = self.chroma else { return [scale.luma(luma); 3] };
        let [cb, cr] = chroma.map(|row| sample(row, x / self.across));
        if matrix == IDENTITY {
            return [cr, luma, cb].map(|sample| scale.luma(sample));
        }
        let (luma, cb, cr) = (scale.luma(luma), scale.chroma(cb), scale.chroma(cr));
        let (of_red, of_blue) = weights(matrix);
        let red = (2.0 - 2.0 * of_red).mul_add(cr, luma);
        let blue = (2.0 - 2.0 * of_blue).mul_add(cb, luma);
        let green = (luma - of_red * red - of_blue * blue) / (1.0 - of_red - of_blue);
        [red, green, blue]
    }
}

fn sample(row: Row<'_>, x: usize) -> f32 {
    match row {
        Row::Eight(samples) => samples.get(x).copied().map_or(0.0, f32::from),
        Row::Sixteen(samples) => samples.get(x).copied().map_or(0.0, f32::from),
    }
}
