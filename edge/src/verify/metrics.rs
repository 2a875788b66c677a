//! How the detector fares.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

use super::report::Verdict;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct VerifyMetrics {
    checks: IntCounterVec,
    refusals: IntCounterVec,
    seconds: Histogram,
}

impl VerifyMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            checks: IntCounterVec::new(
                Opts::new("bildkante_edge_verify_checks_total", "Pictures that /verify checked, by what came out"),
                &["verdict"],
            )?,
            refusals: IntCounterVec::new(
                Opts::new("bildkante_edge_verify_refusals_total", "Pictures that /verify did not check, by why not"),
                &["reason"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "bildkante_edge_verify_check_seconds",
                    "Time from a request to /verify to its report, the upload included",
                )
                .buckets(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            )?,
        };
        for verdict in Verdict::ALL {
            metrics.checks.with_label_values(&[verdict.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.checks.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        Ok(metrics)
    }

    pub(super) fn checked(&self, verdict: Verdict, took: Duration) {
        self.checks.with_label_values(&[verdict.as_str()]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }
}
