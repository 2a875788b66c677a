//! Counts of messages.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counts of messages.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    pub(super) calls: IntCounterVec,
    pub(super) letters: IntGaugeVec,
}

impl WebhookMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let calls = IntCounterVec::new(
            Opts::new("bildkante_edge_webhook_calls_total", "Calls of webhooks by endpoint and outcome"),
            &["endpoint", "outcome"],
        )?;
        let letters = IntGaugeVec::new(
            Opts::new(
                "bildkante_edge_webhook_letters",
                "Messages of webhooks that wait, or were given up, by endpoint",
            ),
            &["endpoint", "state"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(letters.clone()))?;
        Ok(Self { calls, letters })
    }
}
