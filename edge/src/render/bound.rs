//! `bytes_max`: how many bytes a file may have, as the networks that show advertisements lay it down.
//!
//! The count is of the finished file, metadata included. A manifest of a bounded file is beside it, so that no certificate makes it
//! longer. The picture has the best quality that fits, never above the one that was asked for; where the lowest of its format does not
//! fit, that one is the file, and it is said so. PNG is lossless and cannot be bounded.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Least that a manifest may ask for.
pub const BYTES_MAX_LEAST: u32 = 1_000;
/// Most: no rendition comes near it.
pub const BYTES_MAX_MOST: u32 = 50_000_000;

/// Units and their bytes, the longest names first.
const UNITS: [(&str, u32); 5] = [("KiB", 1024), ("MiB", 1_048_576), ("kB", 1_000), ("MB", 1_000_000), ("B", 1)];

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BytesMax(NonZeroU32);

/// Why a text is no bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no size: {BYTES_MAX_LEAST} to {BYTES_MAX_MOST} bytes, such as 150000 or \"150 kB\" (B, kB, KiB, MB, MiB)"
)]
pub struct NoBytesMax(String);

impl BytesMax {
    /// `None` outside [`BYTES_MAX_LEAST`] to [`BYTES_MAX_MOST`].
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        let bytes = NonZeroU32::new(bytes).filter(|bytes| (BYTES_MAX_LEAST..=BYTES_MAX_MOST).contains(&bytes.get()));
        bytes.map(Self)
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// How far a file of so many bytes is above it; `None` where it fits.
    #[must_use]
    pub fn exceeded_by(self, bytes: usize) -> Option<usize> {
        bytes.checked_sub(self.get() as usize).filter(|over| *over > 0)
    }
}

impl FromStr for BytesMax {
    type Err = NoBytesMax;

    fn from_str(text: &str) -> Result<Self, NoBytesMax> {
        let of = |(unit, bytes): (&str, u32)| {
            let count = text.strip_suffix(unit)?.trim_end_matches(' ');
            let count = Some(count).filter(|count| count.bytes().all(|digit| digit.is_ascii_digit()))?;
            count.parse::<u32>().ok()?.checked_mul(bytes)
        };
        UNITS.into_iter().find_map(of).and_then(Self::new).ok_or_else(|| NoBytesMax(text.to_owned()))
    }
}

impl fmt::Display for BytesMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// How a bounded file came to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It has the quality that was asked for.
    Met,
    /// It has a lower one.
    Lowered,
    /// It is too large at the lowest quality of its format.
    Missed,
}

impl Fit {
    pub const ALL: [Self; 3] = [Self::Met, Self::Lowered, Self::Missed];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Lowered => "lowered",
            Self::Missed => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_with_their_unit() {
        for (text, bytes) in
            [("150 kB", 150_000), ("150kB", 150_000), ("2 KiB", 2048), ("1 MB", 1_000_000), ("1000 B", 1000)]
        {
            assert_eq!(text.parse().map(BytesMax::get), Ok(bytes), "{text}");
        }
        for text in
            ["", "150", "150 KB", "1.5 MB", "-1 kB", "+150 kB", "999 B", "51 MB", "4000 MiB", "9999999999 kB", "kB"]
        {
            assert!(text.parse::<BytesMax>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_above_a_bound_is_counted() {
        let bound = BytesMax::new(2000).expect("a bound");
        assert_eq!(bound.exceeded_by(2000), None);
        assert_eq!(bound.exceeded_by(2001), Some(1));
    }
}
