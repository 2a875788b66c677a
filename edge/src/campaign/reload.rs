//! Hot reload: the current snapshot, replaced whole when the files change and are valid.
//!
//! Contents are digested every `reload_ms`, so that it does not matter how a file was replaced or what its
//! time stamp says. A broken state is reported once, counted, and retried when it changes; the last valid
//! snapshot serves on. `SIGHUP` calls [`CatalogHandle::reload_now`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use bildkante_shared::ids::Digest;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::catalog::{Catalog, parse_manifests};
use super::fault::CatalogErrors;
use super::rights::RightsEnd;
use super::sources::{CatalogSources, SourceFiles};
use crate::words::{Epoch, ReloadOutcome};

/// How reloading goes.
#[derive(Debug, Clone)]
pub struct CampaignMetrics {
    reloads: IntCounterVec,
    is_valid: IntGauge,
    campaigns: IntGauge,
    loaded_timestamp_seconds: Gauge,
    rights_end_timestamp_seconds: GaugeVec,
}

impl CampaignMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            reloads: IntCounterVec::new(
                Opts::new(
                    "bildkante_edge_catalog_reloads_total",
                    "Changes of the campaign files by outcome: reloaded, or refused as invalid",
                ),
                &["outcome"],
            )?,
            is_valid: IntGauge::new(
                "bildkante_edge_catalog_valid",
                "1 while the files on disk are those being served, 0 while they are invalid and the last snapshot serves on",
            )?,
            campaigns: IntGauge::new("bildkante_edge_catalog_campaigns", "Campaigns in the snapshot being served")?,
            loaded_timestamp_seconds: Gauge::new(
                "bildkante_edge_catalog_loaded_timestamp_seconds",
                "When the snapshot being served was loaded, in seconds since 1970",
            )?,
            rights_end_timestamp_seconds: GaugeVec::new(
                Opts::new(
                    "bildkante_edge_rights_end_timestamp_seconds",
                    "When a right ends that pictures of a campaign depend on, in seconds since 1970",
                ),
                &["campaign", "of"],
            )?,
        };
        registry.register(Box::new(metrics.rights_end_timestamp_seconds.clone()))?;
        for outcome in [ReloadOutcome::Reloaded, ReloadOutcome::Refused] {
            metrics.reloads.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.is_valid.clone()))?;
        registry.register(Box::new(metrics.campaigns.clone()))?;
        registry.register(Box::new(metrics.loaded_timestamp_seconds.clone()))?;
        Ok(metrics)
    }

    fn loaded(&self, catalog: &Catalog) {
        self.is_valid.set(1);
        self.campaigns.set(i64::try_from(catalog.campaigns().count()).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.loaded_timestamp_seconds.set(now.as_secs_f64());
        self.rights_end_timestamp_seconds.reset();
        for campaign in catalog.campaigns() {
            for RightsEnd { unix_s, of } in campaign.rights_ends() {
                let ends = Duration::from_secs(unix_s).as_secs_f64();
                self.rights_end_timestamp_seconds.with_label_values(&[&campaign.name, &of]).set(ends);
            }
        }
    }
}

/// The snapshot in force. Clones share it.
#[derive(Debug, Clone)]
pub struct CatalogHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    current: ArcSwap<Catalog>,
    sources: CatalogSources,
    metrics: CampaignMetrics,
    /// One look at a time; what the last one saw.
    seen: Mutex<Digest>,
    /// Answers of the last snapshot lapse with it.
    epoch: Epoch,
}

impl CatalogHandle {
    /// Loads the first snapshot.
    ///
    /// # Errors
    /// Every fault of every file: there is no last valid snapshot to fall back on yet.
    pub fn open(sources: CatalogSources, metrics: CampaignMetrics, epoch: Epoch) -> Result<Self, CatalogErrors> {
        let catalog = Catalog::load(&sources)?;
        metrics.loaded(&catalog);
        let seen = Mutex::new(*catalog.digest());
        let current = ArcSwap::from_pointee(catalog);
        Ok(Self { inner: Arc::new(Inner { current, sources, metrics, seen, epoch }) })
    }

    /// The snapshot in force, for as long as it is held.
    #[must_use]
    pub fn load(&self) -> Arc<Catalog> {
        self.inner.current.load_full()
    }

    /// As [`Self::load`] without touching a shared counter: for the request path, not to be held across waits.
    #[must_use]
    pub fn guard(&self) -> Guard<Arc<Catalog>> {
        self.inner.current.load()
    }

    /// Where the files are.
    #[must_use]
    pub fn sources(&self) -> &CatalogSources {
        &self.inner.sources
    }

    /// Watches the files until shutdown. A task of its own.
    #[must_use]
    pub fn watch(&self, reload_ms: u64, shutdown: Shutdown) -> JoinHandle<()> {
        let handle = self.clone();
        tokio::spawn(async move {
            let mut ticks = Ticks::every(Duration::from_millis(reload_ms), shutdown);
            while ticks.next().await.is_some() {
                handle.reload_now().await;
            }
        })
    }

    /// Looks at the files now.
    pub async fn reload_now(&self) -> ReloadOutcome {
        let mut seen = self.inner.seen.lock().await;
        let inner = Arc::clone(&self.inner);
        let last = *seen;
        let look = tokio::task::spawn_blocking(move || inner.look(last)).await;
        let (outcome, digest) = look.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the campaigns failed; the last snapshot serves on");
            self.inner.metrics.reloads.with_label_values(&[ReloadOutcome::Refused.as_str()]).inc();
            self.inner.metrics.is_valid.set(0);
            (ReloadOutcome::Refused, last)
        });
        *seen = digest;
        outcome
    }
}

impl Inner {
    fn look(&self, last: Digest) -> (ReloadOutcome, Digest) {
        let files = SourceFiles::read(&self.sources);
        let digest = files.digest;
        if digest == last {
            return (ReloadOutcome::Unchanged, digest);
        }
        let outcome = match Catalog::from_manifests(parse_manifests(files), &self.sources) {
            Ok(catalog) => {
                self.metrics.loaded(&catalog);
                tracing::info!(campaigns = catalog.campaigns().count(), %digest, "campaigns reloaded");
                self.current.store(Arc::new(catalog));
                self.epoch.advance();
                ReloadOutcome::Reloaded
            }
            Err(errors) => {
                self.metrics.is_valid.set(0);
                tracing::error!(
                    faults = errors.faults().len(),
                    "campaigns refused, the last snapshot serves on:\n{errors}"
                );
                ReloadOutcome::Refused
            }
        };
        self.metrics.reloads.with_label_values(&[outcome.as_str()]).inc();
        (outcome, digest)
    }
}

#[cfg(test)]
mod tests;
