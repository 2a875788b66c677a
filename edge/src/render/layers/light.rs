//! sRGB code values as 16-bit linear light and back, and arithmetic on parts of 65,535.
//!
//! Everything is whole numbers: the same picture comes out whatever processor adds it up.

use std::sync::LazyLock;

/// All of something: full light, or an opaque layer.
pub(super) const FULL: u16 = u16::MAX;

static TO_LINEAR: LazyLock<[u16; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| {
        let code = f64::from(u8::try_from(code).unwrap_or(u8::MAX)) / 255.0;
        let light = if code <= 0.040_45 { code / 12.92 } else { ((code + 0.055) / 1.055).powf(2.4) };
        rounded(light * f64::from(FULL))
    })
});

static FROM_LINEAR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..=FULL)
        .map(|light| {
            let light = f64::from(light) / f64::from(FULL);
            let code = if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 };
            u8::try_from(rounded(code * 255.0)).unwrap_or(u8::MAX)
        })
        .collect()
});

/// Both tables, looked up once for many samples.
#[derive(Clone, Copy)]
pub(super) struct Light {
    to_linear: &'static [u16; 256],
    from_linear: &'static [u8],
}

impl Light {
    pub(super) fn tables() -> Self {
        Self { to_linear: &TO_LINEAR, from_linear: &FROM_LINEAR }
    }

    pub(super) fn linear(self, code: u8) -> u16 {
        self.to_linear[usize::from(code)]
    }

    pub(super) fn code(self, linear: u16) -> u8 {
        self.from_linear[usize::from(linear)]
    }
}

/// `part` of `whole`, in parts of [`FULL`].
pub(super) fn times(whole: u16, part: u16) -> u16 {
    narrowed((u32::from(whole) * u32::from(part) + u32::from(FULL) / 2) / u32::from(FULL))
}

/// What is left of [`FULL`].
pub(super) const fn rest(part: u16) -> u16 {
    FULL - part
}

/// An 8-bit share in parts of [`FULL`].
pub(super) fn widened(share: u8) -> u16 {
    u16::from(share) * 257
}

/// At most [`FULL`].
pub(super) fn narrowed(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(FULL)
}

/// Relative luminance (WCAG 2.2) in parts of [`FULL`].
pub(super) fn luminance(linear: [u16; 3]) -> u16 {
    let [red, green, blue] = linear.map(u64::from);
    u16::try_from((2126 * red + 7152 * green + 722 * blue + 5000) / 10_000).unwrap_or(FULL)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 65535")]
fn rounded(value: f64) -> u16 {
    value.round().clamp(0.0, f64::from(FULL)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_value_survives_the_way_there_and_back() {
        let light = Light::tables();
        assert!((0..=255).all(|code| light.code(light.linear(code)) == code));
        assert_eq!((light.linear(0), light.linear(255), light.linear(188)), (0, FULL, 32_957));
        assert_eq!(light.code(FULL / 2), 188, "half the light is no half of the code values");
    }

    #[test]
    fn parts_are_rounded_to_the_nearest() {
        assert_eq!((times(FULL, FULL), times(FULL, 1), times(1, 32_767), times(1, 32_768)), (FULL, 1, 0, 1));
        assert_eq!((luminance([FULL; 3]), luminance([0, FULL, 0])), (FULL, 46_871));
    }
}
