//! The budgets that a load can prove or refute, and the verdicts on them.

use std::fmt;

use serde::Serialize;

/// What was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Budget {
    EveryRequestAnswered,
    NoFailedHit,
    SameBytes,
    OneGeneration,
    HitsDuringStorm,
    HitsUnderMisses,
    HitsDuringFault,
    HitsBesideIdle,
    FirstBytesOfFallback,
    BackWithinSeconds,
    Goodput,
    RefusalsInMilliseconds,
    ClosedAtDeadline,
    MemoryUnderCap,
    KillReachesAll,
    NoneAfterKill,
    EveryPageShown,
    PagesInASecond,
    MemoryFlat,
}

impl Budget {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EveryRequestAnswered => "every request is answered with an image",
            Self::NoFailedHit => "no hit fails",
            Self::SameBytes => "every client gets the same bytes",
            Self::OneGeneration => "clients asking two edges for one cold variant: exactly one generation",
            Self::HitsDuringStorm => "p99 of hits during a stampede, beside idle",
            Self::HitsUnderMisses => "p99 of hits while misses saturate pool and node, beside idle",
            Self::HitsDuringFault => "p99 of hits while a node is away, beside before",
            Self::HitsBesideIdle => "p99 of hits beside idle and slow connections, beside none",
            Self::FirstBytesOfFallback => "p99 of first bytes on a cold variant with `fallback`",
            Self::BackWithinSeconds => "as before again, without help",
            Self::Goodput => "goodput of hits, beside the peak",
            Self::RefusalsInMilliseconds => "p99 of answers to cold variants, all refused or stood in for",
            Self::ClosedAtDeadline => "silent and slow connections closed at their deadline",
            Self::MemoryUnderCap => "resident memory",
            Self::KillReachesAll => "p99 from an acknowledged kill to the last answer of the picture",
            Self::NoneAfterKill => "no edge shows a picture a second after its kill",
            Self::EveryPageShown => "every page of the preview is shown",
            Self::PagesInASecond => "p99 of pages of the preview",
            Self::MemoryFlat => "resident memory at the end, beside a quarter of the time",
        }
    }
}

impl From<Budget> for &'static str {
    fn from(budget: Budget) -> Self {
        budget.as_str()
    }
}

/// Whether a budget was kept.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub budget: Budget,
    /// Which part of the scenario it is about, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    pub measured: f64,
    pub bound: Bound,
    pub unit: &'static str,
    pub met: bool,
}

/// What the measured value may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
}

impl Bound {
    fn admits(self, measured: f64) -> bool {
        match self {
            Self::AtMost(most) => measured <= most,
            Self::AtLeast(least) => measured >= least,
            Self::Exactly(value) => (measured - value).abs() < f64::EPSILON,
        }
    }
}

impl Verdict {
    /// A measured value that is no number keeps no budget.
    #[must_use]
    pub fn new(budget: Budget, measured: f64, bound: Bound, unit: &'static str) -> Self {
        Self { budget, about: None, measured, bound, unit, met: measured.is_finite() && bound.admits(measured) }
    }

    #[must_use]
    pub fn about(mut self, what: impl Into<String>) -> Self {
        self.about = Some(what.into());
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.met { "PASS" } else { "FAIL" };
        write!(out, "{verdict}  {}", self.budget.as_str())?;
        if let Some(about) = &self.about {
            write!(out, " ({about})")?;
        }
        let number = |value: f64| {
            if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
        };
        let (word, bound) = match self.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
            Bound::Exactly(bound) => ("exactly", bound),
        };
        let unit =
            if self.unit == "×" || self.unit.is_empty() { self.unit.to_owned() } else { format!(" {}", self.unit) };
        write!(out, ": {}{unit} (wanted: {word} {}{unit})", number(self.measured), number(bound))
    }
}

/// The middle one; of an even count, the upper.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_names_its_budget_and_both_numbers() {
        let verdict = Verdict::new(Budget::HitsUnderMisses, 1.62, Bound::AtMost(1.5), "×");
        assert!(!verdict.met);
        assert_eq!(
            verdict.to_string(),
            "FAIL  p99 of hits while misses saturate pool and node, beside idle: 1.62× (wanted: at most 1.50×)"
        );
        let verdict = Verdict::new(Budget::OneGeneration, 1.0, Bound::Exactly(1.0), "").about("round 1");
        assert!(verdict.met && verdict.to_string().contains("(round 1): 1 (wanted: exactly 1)"), "{verdict}");
    }

    #[test]
    fn nothing_measured_is_nothing_kept() {
        assert!(!Verdict::new(Budget::Goodput, f64::NAN, Bound::AtLeast(0.0), "×").met);
        assert!(median(vec![]).is_nan());
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
