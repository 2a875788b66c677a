//! What an operator wants to know of TLS: when certificates end, whether the last reload took, how many resume.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rustls::HandshakeKind;

use super::certificates::Expiry;

/// Whose TLS it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsListener {
    Public,
    Admin,
}

impl TlsListener {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }
}

/// Shared by the listeners that speak TLS.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    expires: IntGaugeVec,
    valid: IntGaugeVec,
    reloads: IntCounterVec,
    handshakes: IntCounterVec,
    ticket_keys: IntGauge,
}

impl TlsMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let ticket_keys = IntGauge::new("bildkante_edge_tls_ticket_keys", "Session-ticket keys known to this edge")?;
        registry.register(Box::new(ticket_keys.clone()))?;
        Ok(Self {
            expires: gauge(
                "bildkante_edge_tls_certificate_expires_timestamp_seconds",
                "When a certificate in use ends (Unix time), by its first name",
                &["listener", "certificate"],
            )?,
            valid: gauge(
                "bildkante_edge_tls_valid",
                "1 when the files of certificates and ticket keys could be used at the last look, 0 when an older state serves",
                &["listener"],
            )?,
            reloads: counter(
                "bildkante_edge_tls_reloads_total",
                "Looks at the files that replaced the state or failed",
                &["listener", "result"],
            )?,
            handshakes: counter(
                "bildkante_edge_tls_handshakes_total",
                "Handshakes by kind; `full_with_retry` cost another round trip",
                &["listener", "kind"],
            )?,
            ticket_keys,
        })
    }

    /// These certificates serve from now on.
    pub(super) fn loaded(&self, listener: TlsListener, expiries: &[Expiry]) {
        // Names that are no longer served must not alarm for ever. Both listeners' are few: set anew below.
        for (label, certificate) in self.labels(listener) {
            let _ = self.expires.remove_label_values(&[&label, &certificate]);
        }
        for Expiry { name, unix_s } in expiries {
            self.expires.with_label_values(&[listener.as_str(), name]).set(*unix_s);
        }
    }

    pub(super) fn valid(&self, listener: TlsListener, is_valid: bool) {
        self.valid.with_label_values(&[listener.as_str()]).set(is_valid.into());
    }

    fn labels(&self, listener: TlsListener) -> Vec<(String, String)> {
        use prometheus::core::Collector;
        let families = self.expires.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let value = |metric: &prometheus::proto::Metric, name: &str| {
            let label = metric.get_label().iter().find(|label| label.name() == name);
            label.map(|label| label.value().to_owned()).unwrap_or_default()
        };
        metrics
            .map(|metric| (value(metric, "listener"), value(metric, "certificate")))
            .filter(|(label, _)| label == listener.as_str())
            .collect()
    }

    pub(super) fn replaced(&self, listener: TlsListener) {
        self.reloads.with_label_values(&[listener.as_str(), "replaced"]).inc();
    }

    pub(super) fn failed(&self, listener: TlsListener) {
        self.reloads.with_label_values(&[listener.as_str(), "failed"]).inc();
    }

    pub(super) fn ticket_keys(&self, count: usize) {
        self.ticket_keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn shook_hands(&self, listener: TlsListener, kind: Option<HandshakeKind>) {
        let kind = match kind {
            Some(HandshakeKind::Full) => "full",
            Some(HandshakeKind::FullWithHelloRetryRequest) => "full_with_retry",
            Some(HandshakeKind::Resumed) => "resumed",
            None => "failed",
        };
        self.handshakes.with_label_values(&[listener.as_str(), kind]).inc();
    }
}
