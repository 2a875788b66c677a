//! A ratio of width to height, as manifests and URLs write it.
//!
//! Invariant: both numbers are 1 or more, in lowest terms, and neither is over twenty times the other, so that no picture of a
//! ratio has a side of 0 px.

use std::fmt;
use std::str::FromStr;

/// Width to height in whole numbers, in lowest terms: `16:9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ratio {
    width: u32,
    height: u32,
}

/// Largest number in a ratio.
const RATIO_PART_MAX: u32 = 10_000;

/// A text that is no ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ratio is two whole numbers from 1 to {RATIO_PART_MAX}, such as `16:9`, at most 20 to 1 either way")]
pub struct RatioError;

impl Ratio {
    /// # Errors
    /// When a side is 0 or over 10 000, or one side is over twenty times the other.
    pub fn new(width: u32, height: u32) -> Result<Self, RatioError> {
        let is_part = |part: u32| (1..=RATIO_PART_MAX).contains(&part);
        if !is_part(width) || !is_part(height) || width > 20 * height || height > 20 * width {
            return Err(RatioError);
        }
        let divisor = greatest_common_divisor(width, height);
        Ok(Self { width: width / divisor, height: height / divisor })
    }

    #[must_use]
    pub const fn width(self) -> u32 {
        self.width
    }

    #[must_use]
    pub const fn height(self) -> u32 {
        self.height
    }

    /// Height of a picture of this ratio, rounded, at least 1 px.
    #[must_use]
    pub const fn height_px(self, width_px: u32) -> u32 {
        let (width, height) = (self.width as u64, self.height as u64);
        let rounded = (width_px as u64 * height * 2 + width) / (width * 2);
        if rounded == 0 { 1 } else { rounded as u32 }
    }

    /// Width of a picture of this ratio, rounded, at least 1 px.
    #[must_use]
    pub const fn width_px(self, height_px: u32) -> u32 {
        Self { width: self.height, height: self.width }.height_px(height_px)
    }

    /// Width of the largest picture of this ratio inside another, rounded down, at least 1 px.
    #[must_use]
    pub fn cropped_width_px(self, width_px: u32, height_px: u32) -> u32 {
        let by_height = u64::from(height_px) * u64::from(self.width) / u64::from(self.height);
        width_px.min(u32::try_from(by_height).unwrap_or(u32::MAX)).max(1)
    }
}

/// The largest number that divides both; `a` where `b` is 0.
const fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let (width, height) = text.split_once(':').ok_or(RatioError)?;
        let part = |text: &str| {
            let is_plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_plain { text.parse().map_err(|_| RatioError) } else { Err(RatioError) }
        };
        Self::new(part(width)?, part(height)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ratios_reduce_and_give_heights() {
        let ratio = |text: &str| text.parse::<Ratio>();
        assert_eq!(ratio("32:18"), ratio("16:9"));
        assert_eq!(ratio("16:9").map(|r| (r.height_px(1120), r.cropped_width_px(1344, 768))), Ok((630, 1344)));
        assert_eq!(ratio("4:5").map(|r| r.cropped_width_px(192, 192)), Ok(153));
        for wrong in
            ["", "16", "16:", ":9", "0:1", "16:9:1", "1.5:1", "+1:1", "1 : 1", "01:1", "21:1", "16/9", "99999:1"]
        {
            assert_eq!(ratio(wrong), Err(RatioError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_cropped_picture_fits_inside(w in 1u32..100, h in 1u32..100, width in 1u32..5000, height in 1u32..5000) {
            if let Ok(ratio) = Ratio::new(w, h) {
                let cropped = ratio.cropped_width_px(width, height);
                prop_assert!(cropped <= width);
                // Rounding may add at most half a pixel to the height.
                prop_assert!(cropped == 1 || ratio.height_px(cropped) <= height + 1);
            }
        }

        #[test]
        fn ratios_print_as_they_parse(w in 1u32..=10_000, h in 1u32..=10_000) {
            if let Ok(ratio) = Ratio::new(w, h) {
                prop_assert_eq!(ratio.to_string().parse(), Ok(ratio));
            }
        }
    }
}
