//! What rendering counts and times.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

use super::layers::{FallbackReason, FallbackTaken};
use super::{Encoded, Fit, Rung};
use crate::words::Format;

/// The render pool's and the encoders' metrics. Cheap to clone: all clones count into the same series.
#[derive(Debug, Clone)]
pub struct RenderMetrics {
    encode_seconds: HistogramVec,
    rendition_bytes: HistogramVec,
    score: HistogramVec,
    encodes: IntCounterVec,
    bounded: IntCounterVec,
    smaller: IntCounterVec,
    layers_seconds: Histogram,
    layer_fallbacks: IntCounterVec,
    pub(super) wait_seconds: Histogram,
    pub(super) pending_jobs: IntGauge,
    pub(super) pending_jobs_limit: IntGauge,
    pub(super) running_jobs: IntGauge,
    pub(super) load: IntGauge,
    pub(super) finals_put_off: IntCounter,
    pub(super) rejected_jobs: IntCounterVec,
    pub(super) skipped_jobs: IntCounter,
    pub(super) panicked_jobs: IntCounter,
}

impl RenderMetrics {
    /// # Errors
    /// When the registry holds these names already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        // 1 ms to 16 s: a thumbnail's quick JPEG to a large final AVIF.
        let buckets = exponential_buckets(0.001, 2.0, 15)?;
        let encode = HistogramOpts::new("bildkante_edge_encode_seconds", "Time in the encoder by format and rung");
        let wait = HistogramOpts::new("bildkante_edge_render_wait_seconds", "Time a render job waited for a thread");
        let rejected = Opts::new("bildkante_edge_render_rejected_jobs_total", "Render jobs not taken, by reason");
        let layers = HistogramOpts::new("bildkante_edge_layers_seconds", "Time to lay its layers on a rendition");
        let fallbacks = Opts::new(
            "bildkante_edge_layer_fallbacks_total",
            "Texts of layers that could not be set or read as they are, by what was done and why",
        );
        let sizes = HistogramOpts::new("bildkante_edge_rendition_bytes", "Size of renditions as they are made");
        let score = HistogramOpts::new(
            "bildkante_edge_rendition_score",
            "SSIMULACRA2 of final renditions against the pixels they were encoded from",
        );
        let encodes = Opts::new(
            "bildkante_edge_encodes_total",
            "Encodes until a rendition had its score, by format and kind: `whole`, or a cheaper `probe` before it",
        );
        let bounded = Opts::new(
            "bildkante_edge_bounded_renditions_total",
            "Renditions with a `bytes_max`, by how they came to their size: met at their quality, lowered, or missed at the lowest one",
        );
        let smaller = Opts::new(
            "bildkante_edge_avif_finals_total",
            "Final AVIF renditions by the format in which the same picture is smallest: itself, or `webp`",
        );
        let scores = vec![20.0, 30.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0];
        let metrics = Self {
            rendition_bytes: HistogramVec::new(
                sizes.buckets(exponential_buckets(1024.0, 2.0, 13)?),
                &["format", "rung"],
            )?,
            score: HistogramVec::new(score.buckets(scores), &["format"])?,
            encodes: IntCounterVec::new(encodes, &["format", "kind"])?,
            bounded: IntCounterVec::new(bounded, &["outcome"])?,
            smaller: IntCounterVec::new(smaller, &["smallest"])?,
            layers_seconds: Histogram::with_opts(layers.buckets(buckets.clone()))?,
            layer_fallbacks: IntCounterVec::new(fallbacks, &["kind", "reason"])?,
            encode_seconds: HistogramVec::new(encode.buckets(buckets.clone()), &["format", "rung"])?,
            wait_seconds: Histogram::with_opts(wait.buckets(buckets))?,
            pending_jobs: IntGauge::new("bildkante_edge_render_pending_jobs", "Render jobs waiting for a thread")?,
            pending_jobs_limit: IntGauge::new(
                "bildkante_edge_render_pending_jobs_limit",
                "Render jobs that may wait at present, by how long they have waited lately",
            )?,
            running_jobs: IntGauge::new("bildkante_edge_render_running_jobs", "Render jobs on a thread")?,
            load: IntGauge::new(
                "bildkante_edge_render_load",
                "How far the render pool is behind: 0 not at all, 1 final rungs are put off, 2 quick rungs are hurried",
            )?,
            finals_put_off: IntCounter::new(
                "bildkante_edge_finals_put_off_total",
                "Final rungs not begun behind a reader because the render pool was behind",
            )?,
            rejected_jobs: IntCounterVec::new(rejected, &["reason"])?,
            skipped_jobs: IntCounter::new(
                "bildkante_edge_render_skipped_jobs_total",
                "Render jobs not started because nobody waited for them any more",
            )?,
            panicked_jobs: IntCounter::new(
                "bildkante_edge_render_panicked_jobs_total",
                "Render jobs that panicked; each is a bug",
            )?,
        };
        registry.register(Box::new(metrics.encode_seconds.clone()))?;
        registry.register(Box::new(metrics.rendition_bytes.clone()))?;
        registry.register(Box::new(metrics.score.clone()))?;
        registry.register(Box::new(metrics.encodes.clone()))?;
        for fit in Fit::ALL {
            metrics.bounded.with_label_values(&[fit.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.bounded.clone()))?;
        for format in [Format::Avif, Format::Webp] {
            metrics.smaller.with_label_values(&[format.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.smaller.clone()))?;
        for taken in FallbackTaken::ALL {
            for reason in FallbackReason::ALL {
                metrics.layer_fallbacks.with_label_values(&[taken.as_str(), reason.as_str()]).inc_by(0);
            }
        }
        registry.register(Box::new(metrics.layers_seconds.clone()))?;
        registry.register(Box::new(metrics.layer_fallbacks.clone()))?;
        registry.register(Box::new(metrics.wait_seconds.clone()))?;
        registry.register(Box::new(metrics.pending_jobs.clone()))?;
        registry.register(Box::new(metrics.pending_jobs_limit.clone()))?;
        registry.register(Box::new(metrics.running_jobs.clone()))?;
        registry.register(Box::new(metrics.load.clone()))?;
        registry.register(Box::new(metrics.finals_put_off.clone()))?;
        registry.register(Box::new(metrics.rejected_jobs.clone()))?;
        registry.register(Box::new(metrics.skipped_jobs.clone()))?;
        registry.register(Box::new(metrics.panicked_jobs.clone()))?;
        Ok(metrics)
    }

    pub(super) fn observe(&self, encoded: &Encoded) {
        let labels = [encoded.format.as_str(), encoded.rung.as_str()];
        self.encode_seconds.with_label_values(&labels).observe(encoded.encode.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "files are far below 2^52 bytes")]
        self.rendition_bytes.with_label_values(&labels).observe(encoded.bytes.len() as f64);
        if let Some(score) = encoded.score.filter(|_| encoded.rung == Rung::Final) {
            self.score.with_label_values(&labels[..1]).observe(score);
        }
        for (kind, count) in [("whole", encoded.encodes), ("probe", encoded.probes)] {
            self.encodes.with_label_values(&[labels[0], kind]).inc_by(count.into());
        }
        if let Some(fit) = encoded.fit {
            self.bounded.with_label_values(&[fit.as_str()]).inc();
        }
        if (encoded.format, encoded.rung) == (Format::Avif, Rung::Final) {
            let smallest = encoded.smaller_as.unwrap_or(Format::Avif);
            self.smaller.with_label_values(&[smallest.as_str()]).inc();
        }
        if let Some((report, elapsed)) = &encoded.layers {
            self.layers_seconds.observe(elapsed.as_secs_f64());
            for (taken, reason) in report.outcomes.iter().filter_map(|outcome| outcome.fallback.zip(outcome.reason)) {
                self.layer_fallbacks.with_label_values(&[taken.as_str(), reason.as_str()]).inc();
            }
        }
    }
}
