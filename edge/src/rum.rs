//! Field measurements: `/rum.js` for pages, `/rum` for its beacons, histograms in the terms of Core Web Vitals.
//!
//! The script is the `web-vitals` library (Apache-2.0, its licence beside it) and a few lines that report the
//! LCP of our own images with its sub-parts, and the page's CLS, INP and TTFB. Bucket bounds hold the published
//! thresholds (web.dev/articles/vitals) exactly, so that the share of good visits can be read off.
//!
//! Beacons are hostile: their size is bounded before they are read, values outside what a page can take are
//! refused, and campaign and slot become labels only when the catalogue knows them. `gate` has whose are read at all.

pub(crate) mod gate;

use std::net::IpAddr;
use std::sync::LazyLock;

use http::HeaderMap;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use serde::Deserialize;

use self::gate::Gate;
pub(crate) use self::gate::{Refusal, RumConfig};
use crate::budget::BudgetConfig;
use crate::response::{StaticText, TextKind};

/// Largest beacon read.
pub(crate) const BEACON_BYTES_MAX: usize = 4096;

/// Served at `/rum.js`.
pub(crate) static SCRIPT: LazyLock<StaticText> = LazyLock::new(|| {
    let script =
        concat!(include_str!("rum/web-vitals.attribution.iife.js"), "\n", include_str!("rum/bildkante-rum.js"));
    StaticText::new(TextKind::Script, script, "public, max-age=86400")
});

const LCP_BUCKETS_S: [f64; 14] = [0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8, 2.5, 3.2, 4.0, 5.0, 7.0, 10.0, 20.0];
const CLS_BUCKETS: [f64; 9] = [0.0, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0];
const INP_BUCKETS_S: [f64; 9] = [0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0];
const TTFB_BUCKETS_S: [f64; 10] = [0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.8, 3.0, 5.0, 10.0];

/// Longer visits are clocks gone wrong.
const TIME_MS_MAX: f64 = 10.0 * 60.0 * 1000.0;
const CLS_MAX: f64 = 100.0;

/// The metric a beacon reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Metric {
    Lcp,
    Cls,
    Inp,
    Ttfb,
}

/// Sub-parts of LCP in milliseconds (web.dev/articles/optimize-lcp).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct LcpParts {
    ttfb: f64,
    load_delay: f64,
    load_duration: f64,
    render_delay: f64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beacon {
    metric: Metric,
    /// Milliseconds; a score for CLS.
    value: f64,
    #[serde(default)]
    campaign: Option<String>,
    #[serde(default)]
    slot: Option<String>,
    #[serde(default)]
    parts: Option<LcpParts>,
}

/// Why a beacon was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    #[error("a beacon is a JSON object with `metric` (LCP, CLS, INP or TTFB) and `value`")]
    Malformed,
    #[error("a beacon's value is outside what a page can take")]
    OutOfRange,
    #[error("a beacon names a campaign or slot that is not served here")]
    UnknownSlot,
}

impl BeaconError {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OutOfRange => "out_of_range",
            Self::UnknownSlot => "unknown_slot",
        }
    }
}

/// Takes beacons in.
#[derive(Debug)]
pub struct Rum {
    pub gate: Gate,
    pub metrics: RumMetrics,
}

impl Rum {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(config: &RumConfig, budget: &BudgetConfig, registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self { gate: Gate::new(config, budget), metrics: RumMetrics::new(registry)? })
    }

    /// Whether a beacon with these fields is read.
    ///
    /// # Errors
    /// Why it is not; the refusal is counted.
    pub fn admit(&self, fields: &HeaderMap, client: IpAddr) -> Result<(), Refusal> {
        let admitted = self.gate.admit(fields, client);
        admitted.inspect_err(|refusal| self.metrics.refused.with_label_values(&[refusal.as_str()]).inc())
    }
}

/// Histograms of what visitors saw.
#[derive(Debug, Clone)]
pub struct RumMetrics {
    lcp: HistogramVec,
    lcp_parts: HistogramVec,
    cls: Histogram,
    inp: Histogram,
    ttfb: Histogram,
    refused: IntCounterVec,
}

impl RumMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let family = |name: &str, help: &str, labels: &[&str]| {
            let family = HistogramVec::new(HistogramOpts::new(name, help).buckets(LCP_BUCKETS_S.to_vec()), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let refused = IntCounterVec::new(
            Opts::new("bildkante_rum_beacons_refused_total", "Field beacons refused, by reason"),
            &["reason"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        for refusal in Refusal::ALL {
            refused.with_label_values(&[refusal.as_str()]);
        }
        Ok(Self {
            lcp: family(
                "bildkante_rum_lcp_seconds",
                "Largest Contentful Paint in the field where one of our images was it (good: 2.5, poor: over 4)",
                &["campaign", "slot"],
            )?,
            lcp_parts: family(
                "bildkante_rum_lcp_part_seconds",
                "Sub-parts of that LCP: ttfb, load_delay, load_duration, render_delay",
                &["campaign", "slot", "part"],
            )?,
            cls: histogram(
                "bildkante_rum_cls_score",
                "Cumulative Layout Shift of pages (good: 0.1, poor: over 0.25)",
                &CLS_BUCKETS,
            )?,
            inp: histogram(
                "bildkante_rum_inp_seconds",
                "Interaction to Next Paint of pages (good: 0.2, poor: over 0.5)",
                &INP_BUCKETS_S,
            )?,
            ttfb: histogram(
                "bildkante_rum_ttfb_seconds",
                "Time to First Byte of pages (good: 0.8, poor: over 1.8)",
                &TTFB_BUCKETS_S,
            )?,
            refused,
        })
    }

    /// Records a beacon. `knows` tells whether a campaign has a slot.
    ///
    /// # Errors
    /// When the beacon is refused; the refusal is counted.
    pub fn record(&self, body: &[u8], knows: impl Fn(&str, &str) -> bool) -> Result<(), BeaconError> {
        self.try_record(body, knows).inspect_err(|error| self.refused.with_label_values(&[error.as_str()]).inc())
    }

    fn try_record(&self, body: &[u8], knows: impl Fn(&str, &str) -> bool) -> Result<(), BeaconError> {
        let beacon: Beacon = serde_json::from_slice(body).map_err(|_| BeaconError::Malformed)?;
        match beacon.metric {
            Metric::Cls => self.cls.observe(within(beacon.value, CLS_MAX)?),
            Metric::Inp => self.inp.observe(seconds(beacon.value)?),
            Metric::Ttfb => self.ttfb.observe(seconds(beacon.value)?),
            Metric::Lcp => self.record_lcp(&beacon, knows)?,
        }
        Ok(())
    }

    fn record_lcp(&self, beacon: &Beacon, knows: impl Fn(&str, &str) -> bool) -> Result<(), BeaconError> {
        let (Some(campaign), Some(slot)) = (beacon.campaign.as_deref(), beacon.slot.as_deref()) else {
            return Err(BeaconError::Malformed);
        };
        if !knows(campaign, slot) {
            return Err(BeaconError::UnknownSlot);
        }
        let lcp = seconds(beacon.value)?;
        let parts = beacon.parts.map(LcpParts::seconds).transpose()?;
        self.lcp.with_label_values(&[campaign, slot]).observe(lcp);
        for (part, value) in parts.into_iter().flatten() {
            self.lcp_parts.with_label_values(&[campaign, slot, part]).observe(value);
        }
        Ok(())
    }
}

impl LcpParts {
    fn seconds(self) -> Result<[(&'static str, f64); 4], BeaconError> {
        Ok([
            ("ttfb", seconds(self.ttfb)?),
            ("load_delay", seconds(self.load_delay)?),
            ("load_duration", seconds(self.load_duration)?),
            ("render_delay", seconds(self.render_delay)?),
        ])
    }
}

fn seconds(milliseconds: f64) -> Result<f64, BeaconError> {
    within(milliseconds, TIME_MS_MAX).map(|milliseconds| milliseconds / 1000.0)
}

fn within(value: f64, max: f64) -> Result<f64, BeaconError> {
    if (0.0..=max).contains(&value) { Ok(value) } else { Err(BeaconError::OutOfRange) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metrics() -> RumMetrics {
        RumMetrics::new(&Registry::new()).expect("fresh registry")
    }

    fn knows(campaign: &str, slot: &str) -> bool {
        (campaign, slot) == ("studio", "hero")
    }

    #[test]
    fn an_lcp_beacon_lands_with_its_parts() {
        let metrics = metrics();
        let beacon = br#"{"metric":"LCP","value":2500,"campaign":"studio","slot":"hero",
            "parts":{"ttfb":100,"load_delay":900,"load_duration":1400,"render_delay":100}}"#;
        metrics.record(beacon, knows).expect("a good beacon");
        let lcp = metrics.lcp.with_label_values(&["studio", "hero"]);
        assert_eq!((lcp.get_sample_count(), lcp.get_sample_sum()), (1, 2.5));
        assert_eq!(metrics.lcp_parts.with_label_values(&["studio", "hero", "load_duration"]).get_sample_sum(), 1.4);
    }

    #[test]
    fn thresholds_are_bucket_bounds() {
        for (buckets, thresholds) in [
            (&LCP_BUCKETS_S[..], [2.5, 4.0]),
            (&CLS_BUCKETS[..], [0.1, 0.25]),
            (&INP_BUCKETS_S[..], [0.2, 0.5]),
            (&TTFB_BUCKETS_S[..], [0.8, 1.8]),
        ] {
            assert!(thresholds.iter().all(|threshold| buckets.contains(threshold)));
        }
    }

    #[test]
    fn foreign_slots_and_absurd_values_are_refused() {
        let metrics = metrics();
        let refused = |body: &str| metrics.record(body.as_bytes(), knows).expect_err("refused");
        assert_eq!(refused(r#"{"metric":"LCP","value":1,"campaign":"x","slot":"hero"}"#), BeaconError::UnknownSlot);
        assert_eq!(refused(r#"{"metric":"INP","value":-1}"#), BeaconError::OutOfRange);
        assert_eq!(refused(r#"{"metric":"INP","value":1e300}"#), BeaconError::OutOfRange);
        assert_eq!(refused(r#"{"metric":"FID","value":1}"#), BeaconError::Malformed);
        assert_eq!(metrics.refused.with_label_values(&["out_of_range"]).get(), 2);
    }

    proptest! {
        #[test]
        fn no_beacon_panics(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = metrics().record(&body, knows);
        }
    }
}
