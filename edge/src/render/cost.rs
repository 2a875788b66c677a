//! What a render will take, learned from those that were measured: CPU time per pixel of the rendition, by format and
//! rung. It is only a reservation: the measured time is what counts in the end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{RenditionSpec, Rung};
use crate::words::Format;

/// How much one measurement moves the estimate.
const WEIGHT: f64 = 0.125;
/// Between these an estimate stays, in nanoseconds per pixel: a measurement on a machine that stalls teaches nothing.
const NS_PER_PX: (f64, f64) = (1.0, 100_000.0);

/// Nanoseconds per pixel; shared by the threads that render.
#[derive(Debug)]
pub struct Costs([[AtomicU32; Rung::ALL.len()]; Format::ALL.len()]);

impl Default for Costs {
    /// What one core of a server of 2023 takes.
    fn default() -> Self {
        let of = |quick, last| [AtomicU32::new(quick), AtomicU32::new(quick), AtomicU32::new(last)];
        Self([of(200, 3000), of(80, 900), of(40, 800), of(60, 1200)])
    }
}

impl Costs {
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "areas are far below 2^52 pixels")]
    pub fn estimate(&self, spec: &RenditionSpec, rung: Rung) -> Duration {
        let ns_per_px = self.place(spec.format, rung).load(Ordering::Relaxed);
        Duration::from_nanos(spec.area_px().saturating_mul(ns_per_px.into()))
    }

    #[allow(clippy::cast_precision_loss, reason = "areas are far below 2^52 pixels")]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to NS_PER_PX")]
    pub(super) fn observe(&self, spec: &RenditionSpec, rung: Rung, cpu: Duration) {
        let place = self.place(spec.format, rung);
        let measured = (cpu.as_secs_f64() * 1e9 / spec.area_px().max(1) as f64).clamp(NS_PER_PX.0, NS_PER_PX.1);
        let before = f64::from(place.load(Ordering::Relaxed));
        // Two threads at once lose one of their measurements, which is no loss.
        place.store((before + (measured - before) * WEIGHT).round() as u32, Ordering::Relaxed);
    }

    const fn place(&self, format: Format, rung: Rung) -> &AtomicU32 {
        &self.0[format as usize][rung as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Quality, Shape};

    fn spec(width_px: u32) -> RenditionSpec {
        let (format, quality, shape) = (Format::Avif, Quality::AUTO, Shape::DEFAULT);
        RenditionSpec { width_px, height_px: 1000, format, quality, shape }
    }

    #[test]
    fn an_estimate_follows_what_is_measured_and_the_area() {
        let costs = Costs::default();
        let before = costs.estimate(&spec(1000), Rung::Quick);
        assert!(before < costs.estimate(&spec(1000), Rung::Final));
        for _ in 0..100 {
            costs.observe(&spec(500), Rung::Quick, before * 2);
        }
        let after = costs.estimate(&spec(1000), Rung::Quick);
        assert!(after > before * 7 / 2 && after < before * 9 / 2, "{after:?}");
        assert_eq!(costs.estimate(&spec(2000), Rung::Quick), after * 2);
        costs.observe(&spec(1), Rung::Quick, Duration::from_secs(3600));
        assert!(costs.estimate(&spec(1), Rung::Quick) < Duration::from_millis(15), "no measurement runs away with it");
    }
}
