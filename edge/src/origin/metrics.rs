//! What the region client and the sidecar count.

use std::time::Duration;

use bildkante_shared::telemetry::LATENCY_BUCKETS_S;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::error::OriginError;

/// What a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Generate,
    Master,
    Checkpoints,
}

impl Operation {
    pub const ALL: [Self; 3] = [Self::Generate, Self::Master, Self::Checkpoints];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Master => "master",
            Self::Checkpoints => "checkpoints",
        }
    }
}

const OUTCOMES: usize = OriginError::LABELS.len();

#[derive(Debug, Clone)]
struct OperationMetrics {
    ok: IntCounter,
    errors: [IntCounter; OUTCOMES],
    seconds: Histogram,
}

/// All that this module registers.
#[derive(Debug, Clone)]
pub struct OriginMetrics {
    operations: [OperationMetrics; Operation::ALL.len()],
    pub(super) retries: IntCounter,
    node_healthy: IntGaugeVec,
    pub(super) origins_ready: IntGauge,
    answered: IntCounterVec,
    pub(super) sidecar_restarts: IntCounter,
    pub(super) sidecar_up: IntGauge,
}

impl OriginMetrics {
    /// # Errors
    /// When a name is taken in `registry`.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("bildkante_edge_origin_requests_total", "Calls to nodes by how they ended, retries included"),
            &["operation", "outcome"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("bildkante_edge_origin_seconds", "Time of a call to a node")
                .buckets(LATENCY_BUCKETS_S.to_vec()),
            &["operation"],
        )?;
        let retries = IntCounter::new("bildkante_edge_origin_retries_total", "Calls made again on another node")?;
        let node_healthy = IntGaugeVec::new(
            Opts::new("bildkante_edge_node_healthy", "1 while a node is asked, 0 while it is not"),
            &["node"],
        )?;
        let origins_ready = IntGauge::new(
            "bildkante_edge_origins_ready",
            "1 while a node can draw; without one the edge serves what it has, and stand-ins",
        )?;
        let sidecar_restarts =
            IntCounter::new("bildkante_edge_sidecar_restarts_total", "Starts of the sidecar after its first")?;
        let sidecar_up = IntGauge::new("bildkante_edge_sidecar_up", "1 while the sidecar's process runs")?;
        let answered = IntCounterVec::new(
            Opts::new("bildkante_edge_origin_answered_total", "Questions answered, by the region that answered"),
            &["region"],
        )?;
        registry.register(Box::new(origins_ready.clone()))?;
        registry.register(Box::new(answered.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(retries.clone()))?;
        registry.register(Box::new(node_healthy.clone()))?;
        registry.register(Box::new(sidecar_restarts.clone()))?;
        registry.register(Box::new(sidecar_up.clone()))?;
        let operations = Operation::ALL.map(|operation| {
            let name = operation.as_str();
            OperationMetrics {
                ok: requests.with_label_values(&[name, "ok"]),
                errors: OriginError::LABELS.map(|outcome| requests.with_label_values(&[name, outcome])),
                seconds: seconds.with_label_values(&[name]),
            }
        });
        Ok(Self { operations, retries, node_healthy, origins_ready, answered, sidecar_restarts, sidecar_up })
    }

    pub(super) fn ended(&self, operation: Operation, error: Option<&OriginError>, took: Duration) {
        let metrics = &self.operations[operation as usize];
        error.map_or(&metrics.ok, |error| &metrics.errors[error.index()]).inc();
        metrics.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn answered(&self, region: &str) {
        self.answered.with_label_values(&[region]).inc();
    }

    /// A node that is in no region any more has no health.
    pub(super) fn forget_node(&self, node: &str) {
        let _ = self.node_healthy.remove_label_values(&[node]);
    }

    pub(super) fn node_gauge(&self, node: &str) -> IntGauge {
        self.node_healthy.with_label_values(&[node])
    }

    #[must_use]
    pub fn succeeded(&self, operation: Operation) -> u64 {
        self.operations[operation as usize].ok.get()
    }

    #[must_use]
    pub fn failed(&self, operation: Operation, label: &str) -> u64 {
        let index = OriginError::LABELS.iter().position(|known| *known == label);
        index.map_or(0, |index| self.operations[operation as usize].errors[index].get())
    }
}
