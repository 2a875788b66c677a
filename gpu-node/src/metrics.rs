//! The node's metrics, as struct fields of one registry per node. Names: `bildkante_node_<noun>_<unit>[_total]`.

use bildkante_shared::log_limited;
use bildkante_shared::process::ProcessMetrics;
use bildkante_shared::telemetry::LATENCY_BUCKETS_S;
use bildkante_shared::wire::GenerationSource;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder,
};

use crate::error::GenerationError;

/// What became of a job that was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropStage {
    /// Every caller had left before it started.
    Queued,
    /// Every caller left between two steps.
    Running,
}

impl DropStage {
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
        }
    }
}

/// How a checkpoint's networks moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveKind {
    /// Onto the device, read from their files.
    FromFiles,
    /// Onto the device, from the host's memory.
    FromHost,
    /// Off the device, to make room for others.
    Out,
}

impl MoveKind {
    pub const ALL: [Self; 3] = [Self::FromFiles, Self::FromHost, Self::Out];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromFiles => "from_files",
            Self::FromHost => "from_host",
            Self::Out => "out",
        }
    }
}

/// Everything a node counts.
#[derive(Debug)]
pub struct NodeMetrics {
    registry: Registry,
    /// From receipt to answer, by `generated`, `joined`, `stored` or the error's word.
    pub generation_seconds: HistogramVec,
    pub queue_wait_seconds: Histogram,
    pub queue_jobs: IntGauge,
    pub waiters: IntGauge,
    /// Jobs on the device or being stored.
    pub jobs_in_flight: IntGauge,
    pub rejects_total: IntCounterVec,
    pub joined_total: IntCounter,
    pub dropped_jobs_total: IntCounterVec,
    pub panics_total: IntCounter,
    pub duplicates_merged_total: IntCounter,
    pub duplicate_candidates_total: IntCounterVec,
    pub dedup_seconds: Histogram,
    pub store_bytes: IntGauge,
    pub store_masters: IntGauge,
    pub store_evictions_total: IntCounter,
    pub store_corrupt_total: IntCounter,
    /// Bytes of images that are being uploaded, as far as memory holds them.
    pub blob_upload_bytes: IntGauge,
    /// Devices and processes that ended while they drew, counted once per recipe of their last pass.
    pub recipe_endings_total: IntCounter,
    /// 1 while masters can be stored; otherwise nothing is drawn.
    pub store_writable: IntGauge,
    /// What the disk of the data folder has free.
    pub store_free_bytes: IntGauge,
    pub device_busy_seconds_total: Counter,
    pub stage_seconds: HistogramVec,
    pub steps_total: IntCounter,
    /// Evaluations of a network, each for one request or several.
    pub passes_total: IntCounter,
    /// Places of passes that no request had: what exactness costs where groups are small.
    pub padding_total: IntCounter,
    /// Inputs that networks read: those that were kept from a drawing before are not counted.
    pub inputs_encoded_total: IntCounterVec,
    /// Finding out how many requests may share a pass; no drawing's time.
    pub probe_seconds_total: Counter,
    pub probe_passes_total: IntCounter,
    /// Classes of passes that are to be probed, by device.
    pub probes_pending: GaugeVec,
    /// Requests between their first step and their picture.
    pub begun_jobs: IntGauge,
    pub time_to_ready_seconds: Gauge,
    /// From finding a checkpoint, or the start, to offering it.
    pub checkpoint_ready_seconds: GaugeVec,
    /// A device's memory for drawings.
    pub memory_budget_bytes: GaugeVec,
    /// Of a device's memory, what networks take.
    pub networks_bytes: GaugeVec,
    /// Networks that moved onto a device or off it.
    pub network_moves_total: IntCounterVec,
    pub network_move_seconds_total: CounterVec,
    /// From receipt to the end of the first step, by whether networks were fetched for it.
    pub first_step_seconds: HistogramVec,
    pub ready: IntGauge,
    /// 1 where a checkpoint drew the same recipe twice bit for bit, 0 where it did not.
    pub self_test_equal: GaugeVec,
    pub http_responses_total: IntCounterVec,
    pub connections: IntGauge,
    pub accept_errors_total: IntCounter,
    pub handshake_errors_total: IntCounter,
}

impl NodeMetrics {
    /// # Errors
    /// When two metrics share a name: a defect that every start would show.
    pub fn new() -> prometheus::Result<Self> {
        let make = Maker { registry: Registry::new() };
        let metrics = Self {
            generation_seconds: make.histograms(
                "generation_seconds",
                "Receipt to answer of a generation",
                "outcome",
            )?,
            queue_wait_seconds: make.histogram("queue_wait_seconds", "Receipt of a job to its start on the device")?,
            queue_jobs: make.gauge("queue_jobs", "Distinct recipes waiting for the device")?,
            waiters: make.gauge("waiters", "Callers waiting for a recipe")?,
            jobs_in_flight: make.gauge("jobs_in_flight", "Jobs on the device or being stored")?,
            rejects_total: make.counters("rejects_total", "Generations answered with an error", "reason")?,
            joined_total: make.counter("joined_total", "Callers that joined a job in flight")?,
            dropped_jobs_total: make.counters("dropped_jobs_total", "Jobs that nobody waited for any more", "stage")?,
            panics_total: make.counter("panics_total", "Jobs that ended at a defect")?,
            duplicates_merged_total: make.counter("duplicates_merged_total", "Recipes bound to an older master")?,
            duplicate_candidates_total: make.counters(
                "duplicate_candidates_total",
                "Masters within the luma threshold, by what became of them",
                "outcome",
            )?,
            dedup_seconds: make.histogram("dedup_seconds", "Fingerprint, search and confirmation of a new master")?,
            store_bytes: make.gauge("store_bytes", "Bytes of master files")?,
            store_masters: make.gauge("store_masters", "Masters on disk")?,
            store_evictions_total: make.counter("store_evictions_total", "Masters removed to make room")?,
            store_corrupt_total: make
                .counter("store_corrupt_total", "Masters quarantined: their digest did not agree")?,
            blob_upload_bytes: make.gauge("blob_upload_bytes", "Bytes of uploads that memory holds")?,
            recipe_endings_total: make
                .counter("recipe_endings_total", "Recipes at whose drawing a device or the process ended")?,
            store_writable: make.gauge("store_writable", "1 while masters can be stored")?,
            store_free_bytes: make.gauge("store_free_bytes", "Free on the disk of the data folder")?,
            device_busy_seconds_total: make.seconds("device_busy_seconds_total", "Time the device spent drawing")?,
            stage_seconds: make.histograms("stage_seconds", "Time of a drawing by stage", "stage")?,
            steps_total: make.counter("steps_total", "Denoising steps done, each request's counted")?,
            passes_total: make.counter("passes_total", "Passes of a network, each for one request or several")?,
            padding_total: make
                .counter("padding_total", "Places of passes that were filled up for the sake of exact bits")?,
            probe_seconds_total: make
                .seconds("probe_seconds_total", "Time spent finding out how many requests may share a pass")?,
            inputs_encoded_total: make.counters(
                "inputs_encoded_total",
                "Texts and control images that were encoded, and not kept from a drawing before",
                "input",
            )?,
            probe_passes_total: make.counter("probe_passes_total", "Passes made to find that out")?,
            probes_pending: make.gauges("probes_pending", "Classes of passes that are to be probed", "device")?,
            begun_jobs: make.gauge("begun_jobs", "Requests between their first step and their picture")?,
            checkpoint_ready_seconds: make.gauges(
                "checkpoint_ready_seconds",
                "Start, or finding it later, to a checkpoint that is offered",
                "checkpoint",
            )?,
            memory_budget_bytes: make.gauges(
                "memory_budget_bytes",
                "Memory for drawings, beside networks",
                "device",
            )?,
            networks_bytes: make.gauges("networks_bytes", "Memory of the networks on a device", "device")?,
            network_moves_total: make.counters(
                "network_moves_total",
                "Networks moved onto a device or off it",
                "kind",
            )?,
            network_move_seconds_total: make.seconds_by(
                "network_move_seconds_total",
                "Time a device's thread spent moving networks",
                "kind",
            )?,
            first_step_seconds: make.histograms(
                "first_step_seconds",
                "Receipt of a job to the end of its first step",
                "networks",
            )?,
            time_to_ready_seconds: make.float_gauge("time_to_ready_seconds", "Start to ready")?,
            ready: make.gauge("ready", "1 when generations are taken")?,
            self_test_equal: make.gauges(
                "self_test_equal",
                "1: the same recipe drew equal bits twice",
                "checkpoint",
            )?,
            http_responses_total: make.responses()?,
            connections: make.gauge("connections", "Open connections")?,
            accept_errors_total: make.counter("accept_errors_total", "Connections that could not be accepted")?,
            handshake_errors_total: make
                .counter("handshake_errors_total", "TLS handshakes that failed, wrong client certificates included")?,
            registry: make.registry,
        };
        metrics.show_zeros();
        ProcessMetrics::register(&metrics.registry)?;
        Ok(metrics)
    }

    /// A label that has not happened yet reads 0, not absent: alerts on rates need the first sample.
    fn show_zeros(&self) {
        for label in GenerationSource::ALL.map(GenerationSource::as_str).iter().chain(&GenerationError::LABELS) {
            self.generation_seconds.with_label_values(&[*label]);
        }
        for label in GenerationError::LABELS {
            self.rejects_total.with_label_values(&[label]);
        }
        for stage in [DropStage::Queued, DropStage::Running] {
            self.dropped_jobs_total.with_label_values(&[stage.as_str()]);
        }
        for kind in MoveKind::ALL.map(MoveKind::as_str) {
            self.network_moves_total.with_label_values(&[kind]);
            self.network_move_seconds_total.with_label_values(&[kind]);
        }
        for networks in ["at_hand", "fetched"] {
            self.first_step_seconds.with_label_values(&[networks]);
        }
        for input in ["text", "control_image"] {
            self.inputs_encoded_total.with_label_values(&[input]);
        }
        for stage in ["text", "denoise", "decode"] {
            self.stage_seconds.with_label_values(&[stage]);
        }
    }

    /// The Prometheus text exposition.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            log_limited!(error, %error, "metrics cannot be written");
        }
        text
    }
}

/// Makes and registers metrics with the node's prefix.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn register<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(opts(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(opts(name, help), &[label])?)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Counter> {
        self.register(Counter::with_opts(opts(name, help))?)
    }

    fn seconds_by(&self, name: &str, help: &str, label: &str) -> prometheus::Result<CounterVec> {
        self.register(CounterVec::new(opts(name, help), &[label])?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(opts(name, help))?)
    }

    fn float_gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::with_opts(opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(opts(name, help), &[label])?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        self.register(Histogram::with_opts(histogram_opts(name, help))?)
    }

    fn histograms(&self, name: &str, help: &str, label: &str) -> prometheus::Result<HistogramVec> {
        self.register(HistogramVec::new(histogram_opts(name, help), &[label])?)
    }

    fn responses(&self) -> prometheus::Result<IntCounterVec> {
        let opts = opts("http_responses_total", "Responses by route and status");
        self.register(IntCounterVec::new(opts, &["route", "status"])?)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("bildkante_node_{name}"), help)
}

fn histogram_opts(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(format!("bildkante_node_{name}"), help).buckets(LATENCY_BUCKETS_S.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_every_outcome_shows_from_the_start() {
        let text = String::from_utf8(NodeMetrics::new().unwrap().render()).unwrap();
        assert!(text.contains("bildkante_node_generation_seconds_count{outcome=\"stored\"} 0"), "{text}");
        assert!(text.contains("bildkante_node_rejects_total{reason=\"queue_full\"} 0"));
        assert!(text.contains("bildkante_node_dropped_jobs_total{stage=\"running\"} 0"));
        assert!(text.contains("process_resident_memory_bytes ") && text.contains("process_max_fds "), "{text}");
    }
}
