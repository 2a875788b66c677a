//! What the making of a rendition came to: how near it is to its pixels, and how long the encoder took. It is kept with the rendition.
//!
//! Invariant: both fit into one word of a stored header. That word was zero before there was any of this, so zero means that nothing
//! is known.

use std::fmt;

use super::Encoded;

/// Bits of the score in the word; the time has the rest, some half an hour.
const SCORE_BITS: u32 = 11;
const SCORE_MASK: u32 = (1 << SCORE_BITS) - 1;
const ENCODE_MS_MAX: u32 = (1 << (u32::BITS - SCORE_BITS)) - 2;

/// SSIMULACRA2 in tenths of a point: 100 is the picture itself, and what is below −100 counts as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(i16);

impl Score {
    const TENTHS_MAX: i16 = 1000;

    #[must_use]
    pub fn of(score: f64) -> Self {
        let tenths = (score * 10.0).round().clamp(-f64::from(Self::TENTHS_MAX), f64::from(Self::TENTHS_MAX));
        #[allow(clippy::cast_possible_truncation, reason = "within a thousand of zero; what is no number becomes 0")]
        let tenths = tenths as i16;
        Self(tenths)
    }

    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / 10.0
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without floating point, which takes several times as long: hits say it, too.
        let (sign, tenths) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}.{}", tenths / 10, tenths % 10)
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Making {
    /// Time in the encoder, search and scoring included.
    pub encode_ms: u32,
    /// `None` where it was not measured, as on the quick rung.
    pub score: Option<Score>,
}

impl Making {
    #[must_use]
    pub fn of(encoded: &Encoded) -> Self {
        let encode_ms = u32::try_from(encoded.encode.as_millis()).unwrap_or(u32::MAX).min(ENCODE_MS_MAX);
        Self { encode_ms, score: encoded.score.map(Score::of) }
    }

    /// Never 0.
    #[must_use]
    pub fn code(self) -> u32 {
        let score = self.score.map_or(0, |Score(tenths)| {
            let above_least = tenths.clamp(-Score::TENTHS_MAX, Score::TENTHS_MAX) + Score::TENTHS_MAX;
            u32::from(above_least.unsigned_abs()) + 1
        });
        ((self.encode_ms.min(ENCODE_MS_MAX) + 1) << SCORE_BITS) | score
    }

    /// `None` of what [`Self::code`] never writes.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let encode_ms = (code >> SCORE_BITS).checked_sub(1)?;
        let score = match i16::try_from(code & SCORE_MASK).ok()? {
            0 => None,
            above_least => Some(Score(above_least - 1 - Score::TENTHS_MAX)),
        };
        score.is_none_or(|Score(tenths)| tenths <= Score::TENTHS_MAX).then_some(Self { encode_ms, score })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_has_one_decimal_and_bounds() {
        let told = [71.349, 100.0, 130.0, -3.06, -0.44, -500.0, 0.0].map(|score| Score::of(score).to_string());
        assert_eq!(told, ["71.3", "100.0", "100.0", "-3.1", "-0.4", "-100.0", "0.0"]);
        assert!((Score::of(82.6).get() - 82.6).abs() < 1e-9);
        assert_eq!(Score::of(f64::NAN), Score(0));
    }

    #[test]
    fn it_comes_back_from_its_word_and_zero_is_none() {
        for encode_ms in [0, 1, 640, ENCODE_MS_MAX] {
            for score in [None, Some(-100.0), Some(0.0), Some(71.3), Some(100.0)] {
                let making = Making { encode_ms, score: score.map(Score::of) };
                assert_ne!(making.code(), 0);
                assert_eq!(Making::from_code(making.code()), Some(making));
            }
        }
        let longest = Making { encode_ms: u32::MAX, score: None };
        assert_eq!(Making::from_code(longest.code()).map(|making| making.encode_ms), Some(ENCODE_MS_MAX));
        for code in [0, 5, SCORE_MASK, (1 << SCORE_BITS) | 2002, (9 << SCORE_BITS) | SCORE_MASK] {
            assert_eq!(Making::from_code(code), None, "{code:#x}");
        }
    }
}
