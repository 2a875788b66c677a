//! Pictures made by arithmetic, the same on every machine: what tests and calibration render.

#![allow(dead_code, reason = "each test binary and example uses its part")]

use bildkante_shared::pixels::Pixels;

/// A picture from a function of position (0–1) to linear-ish RGB (0–1).
fn painted(width_px: u32, height_px: u32, colour: impl Fn(f32, f32) -> [f32; 3]) -> Pixels {
    let mut rgb = Vec::with_capacity((width_px * height_px * 3) as usize);
    for y in 0..height_px {
        for x in 0..width_px {
            let at = |v: u32, side: u32| (v as f32 + 0.5) / side as f32;
            let painted = colour(at(x, width_px), at(y, height_px));
            rgb.extend(painted.map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8));
        }
    }
    Pixels::new(width_px, height_px, rgb).expect("the size of a master")
}

pub(crate) fn flat(width_px: u32, height_px: u32, colour: [u8; 3]) -> Pixels {
    painted(width_px, height_px, |_, _| colour.map(|c| f32::from(c) / 255.0))
}

/// A studio scene: soft backdrop, a shaded ball, its shadow, a little grain. Like what the models draw.
pub(crate) fn studio(width_px: u32, height_px: u32) -> Pixels {
    painted(width_px, height_px, |x, y| {
        let backdrop = [0.78 - 0.3 * y, 0.74 - 0.2 * y, 0.70 - 0.1 * y];
        let (dx, dy) = (x - 0.5, (y - 0.5) * 0.9);
        let distance = (dx * dx + dy * dy).sqrt();
        let edge = smooth((0.3 - distance) * 60.0);
        let light = (1.0 - ((dx + 0.1).powi(2) + (dy + 0.12).powi(2)).sqrt() * 2.4).max(0.05);
        let ball = [0.05 + 0.15 * light, 0.25 + 0.55 * light, 0.25 + 0.5 * light];
        let shadow = 1.0 - 0.45 * smooth((0.32 - ((dx * 0.8).powi(2) + ((y - 0.86) * 3.0).powi(2)).sqrt()) * 12.0);
        let grain = (value_noise(x * 300.0, y * 300.0, 7) - 0.5) * 0.02;
        std::array::from_fn(|i| backdrop[i] * shadow * (1.0 - edge) + ball[i] * edge + grain)
    })
}

/// Fractal texture in colour with the falling spectrum of photographs: foliage, stone, cloth.
pub(crate) fn texture(width_px: u32, height_px: u32, seed: u32) -> Pixels {
    painted(width_px, height_px, |x, y| {
        let field = |salt: u32| {
            (0..7).fold(0.0, |sum, octave| {
                let scale = 4.0 * 2.0_f32.powi(octave);
                sum + (value_noise(x * scale, y * scale, seed ^ salt ^ octave as u32) - 0.5) * 0.62_f32.powi(octave)
            })
        };
        let (luma, warm, green) = (0.45 + field(11), 0.12 * field(23), 0.10 * field(37));
        [luma + warm, luma + green, luma - warm]
    })
}

/// Hard coloured edges at many angles and thin lines: print on packaging.
pub(crate) fn graphic(width_px: u32, height_px: u32) -> Pixels {
    painted(width_px, height_px, |x, y| {
        let angle = (y - 0.55).atan2(x - 0.4);
        let wedge = ((angle * 5.0 / std::f32::consts::PI).floor() as i32).rem_euclid(4);
        let colour = [[0.9, 0.15, 0.1], [0.98, 0.95, 0.9], [0.1, 0.2, 0.6], [0.95, 0.75, 0.1]][wedge as usize];
        let line = ((x * 40.0).fract() < 0.12 && y > 0.7) || ((y * 55.0).fract() < 0.2 && x > 0.75);
        if line { [0.05; 3] } else { colour }
    })
}

/// A smooth sky: shows banding and blocking first.
pub(crate) fn gradient(width_px: u32, height_px: u32) -> Pixels {
    painted(width_px, height_px, |x, y| {
        let glow = 0.4 * smooth(4.0 - 14.0 * ((x - 0.7).powi(2) + (y - 0.3).powi(2)).sqrt());
        [0.25 + 0.5 * y + glow, 0.35 + 0.3 * y + glow * 0.8, 0.6 - 0.2 * y + glow * 0.3]
    })
}

fn smooth(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Bilinear noise on an integer lattice, 0–1.
fn value_noise(x: f32, y: f32, seed: u32) -> f32 {
    let (cell_x, cell_y) = (x.floor() as i32 as u32, y.floor() as i32 as u32);
    let (along_x, along_y) = (smooth(x.fract()), smooth(y.fract()));
    let corner = |dx: u32, dy: u32| hash(cell_x.wrapping_add(dx), cell_y.wrapping_add(dy), seed);
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * along_x;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * along_x;
    top + (bottom - top) * along_y
}

fn hash(x: u32, y: u32, seed: u32) -> f32 {
    let mut h = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ seed.wrapping_mul(0xc2b2_ae3d);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
    (h >> 8) as f32 / 16_777_216.0
}
