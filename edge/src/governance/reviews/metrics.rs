//! How reviews go on, as metrics.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// How reviews go on.
#[derive(Debug, Clone)]
pub struct ReviewMetrics {
    pub(super) steps: IntCounterVec,
    pub(super) cases: IntGaugeVec,
    pub(super) overdue: IntGauge,
}

impl ReviewMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let steps = IntCounterVec::new(
            Opts::new("bildkante_edge_review_steps_total", "Steps of reviews that were asked of this edge, by outcome"),
            &["step", "outcome"],
        )?;
        let cases = IntGaugeVec::new(
            Opts::new("bildkante_edge_review_cases", "Pictures that were put before reviewers, by state"),
            &["state"],
        )?;
        registry.register(Box::new(steps.clone()))?;
        let overdue = IntGauge::new(
            "bildkante_edge_review_overdue",
            "Pictures about which a role was asked to decide, and whose deadline has passed",
        )?;
        registry.register(Box::new(cases.clone()))?;
        registry.register(Box::new(overdue.clone()))?;
        Ok(Self { steps, cases, overdue })
    }
}
