//! The request path's own metrics; every other module registers what it owns.

use std::time::Duration;

use bildkante_shared::telemetry::LATENCY_BUCKETS_S;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use http::Version;

use crate::words::{Format, Outcome};

/// Requests by outcome, and how long they took to their first byte.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    requests: IntCounterVec,
    first_byte: HistogramVec,
    stand_ins: IntCounterVec,
    problems: IntCounterVec,
    in_flight: IntGauge,
}

impl RequestMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let first_byte = HistogramVec::new(
            HistogramOpts::new(
                "bildkante_edge_time_to_first_byte_seconds",
                "From a parsed request head to a response ready to be written, by cache outcome",
            )
            .buckets(LATENCY_BUCKETS_S.to_vec()),
            &["outcome"],
        )?;
        registry.register(Box::new(first_byte.clone()))?;
        for outcome in Outcome::ALL {
            first_byte.with_label_values(&[outcome.as_str()]);
        }
        let in_flight = IntGauge::new("bildkante_edge_requests_in_flight", "Image requests being answered")?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self {
            requests: counter(
                "bildkante_edge_requests_total",
                "Image requests by cache outcome, format, campaign and slot",
                &["outcome", "format", "campaign", "slot"],
            )?,
            first_byte,
            stand_ins: counter(
                "bildkante_edge_stand_ins_total",
                "Responses with a fallback or placeholder, by what stood in the way",
                &["outcome", "reason"],
            )?,
            problems: counter("bildkante_edge_problems_total", "Problem responses by status", &["status"])?,
            in_flight,
        })
    }

    /// What is counted for hits of one rendition's kind, resolved once.
    #[must_use]
    pub fn hit_counters(&self, outcome: Outcome, format: Format, campaign: &str, slot: &str) -> HitCounters {
        let outcome = outcome.as_str();
        HitCounters {
            requests: self.requests.with_label_values(&[outcome, format.as_str(), campaign, slot]),
            first_byte: self.first_byte.with_label_values(&[outcome]),
        }
    }

    /// An image was answered.
    pub fn answered(&self, outcome: Outcome, format: Format, campaign: &str, slot: &str, elapsed: Duration) {
        self.requests.with_label_values(&[outcome.as_str(), format.as_str(), campaign, slot]).inc();
        self.first_byte.with_label_values(&[outcome.as_str()]).observe(elapsed.as_secs_f64());
    }

    /// A stand-in was served in place of what was asked for.
    pub fn stood_in(&self, outcome: Outcome, reason: &str) {
        self.stand_ins.with_label_values(&[outcome.as_str(), reason]).inc();
    }

    /// A problem was answered; it counts to the first-byte times too.
    pub fn problem(&self, status: u16, elapsed: Duration) {
        self.problems.with_label_values(&[status_label(status)]).inc();
        self.first_byte.with_label_values(&[Outcome::Error.as_str()]).observe(elapsed.as_secs_f64());
    }

    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

/// Counts hits without looking up a label.
#[derive(Debug, Clone)]
pub struct HitCounters {
    requests: IntCounter,
    first_byte: Histogram,
}

impl HitCounters {
    pub fn hit(&self, elapsed: Duration) {
        self.requests.inc();
        self.first_byte.observe(elapsed.as_secs_f64());
    }
}

/// A request whose client left before its answer: nginx's word for it.
pub(crate) const ABANDONED: u16 = 499;

/// Statuses that are counted by themselves; others by their class.
const STATUSES: [u16; 22] = [
    200, 204, 206, 303, 304, 400, 403, 404, 405, 408, 412, 413, 414, 416, 421, 429, 431, ABANDONED, 500, 501, 503, 504,
];
const STATUS_LABELS: [&str; STATUSES.len() + 4] = [
    "200", "204", "206", "303", "304", "400", "403", "404", "405", "408", "412", "413", "414", "416", "421", "429",
    "431", "499", "500", "501", "503", "504", "2xx", "3xx", "4xx", "5xx",
];
const PROTOCOLS: [&str; 3] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"];

/// Every answer of the public listener, by protocol and status, and the bytes of their bodies. Labels are resolved once:
/// a hit pays for two additions.
#[derive(Debug, Clone)]
pub struct ResponseMetrics {
    responses: [[IntCounter; STATUS_LABELS.len()]; PROTOCOLS.len()],
    bytes: [IntCounter; PROTOCOLS.len()],
}

impl ResponseMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let responses = IntCounterVec::new(
            Opts::new(
                "bildkante_edge_responses_total",
                "Answers of the public listener by protocol and status; 499: the client left before its answer",
            ),
            &["protocol", "status"],
        )?;
        let bytes = IntCounterVec::new(
            Opts::new("bildkante_edge_response_body_bytes_total", "Bytes of the bodies of those answers, by protocol"),
            &["protocol"],
        )?;
        registry.register(Box::new(responses.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        Ok(Self {
            responses: PROTOCOLS
                .map(|protocol| STATUS_LABELS.map(|status| responses.with_label_values(&[protocol, status]))),
            bytes: PROTOCOLS.map(|protocol| bytes.with_label_values(&[protocol])),
        })
    }

    pub fn answered(&self, version: Version, status: u16, bytes: u64) {
        let protocol = match version {
            Version::HTTP_09 | Version::HTTP_10 => 0,
            Version::HTTP_2 | Version::HTTP_3 => 2,
            _ => 1,
        };
        self.responses[protocol][status_index(status)].inc();
        self.bytes[protocol].inc_by(bytes);
    }
}

fn status_index(status: u16) -> usize {
    let class = usize::from((status / 100).clamp(2, 5)) - 2;
    STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() + class)
}

/// A request being answered.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The statuses this edge answers with: a bounded label.
const fn status_label(status: u16) -> &'static str {
    match status {
        400 => "400",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        412 => "412",
        413 => "413",
        414 => "414",
        416 => "416",
        429 => "429",
        503 => "503",
        504 => "504",
        _ if status < 500 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_counted_under_its_own_label_or_its_class() {
        for status in 200..600 {
            let label = STATUS_LABELS[status_index(status)];
            assert!(label == status.to_string() || label == format!("{}xx", status / 100), "{status}: {label}");
        }
        assert!(STATUSES.iter().all(|status| STATUS_LABELS[status_index(*status)] == status.to_string()));
        let metrics = ResponseMetrics::new(&Registry::new()).unwrap();
        metrics.answered(Version::HTTP_2, 304, 0);
        metrics.answered(Version::HTTP_11, 200, 7);
        assert_eq!(metrics.responses[2][status_index(304)].get(), 1);
        assert_eq!((metrics.responses[1][status_index(200)].get(), metrics.bytes[1].get()), (1, 7));
    }
}
