//! All parts of an edge, from its configuration and before it has a port.
//!
//! ```text
//! Config ─▶ Behind: regions, render pool, caches, catalogue, purges, keys ─▶ fill
//!             ├▶ Handler: what the public asks
//!             └▶ Operators: metrics, health, preview, admin API
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use bildkante_shared::process::ProcessMetrics;
use bildkante_shared::shutdown::{self, Shutdown, ShutdownTrigger};
use prometheus::Registry;

use super::subscriptions;
use super::tls::{Tls, open_tls};
use crate::access::AccessLog;
use crate::access::visit::Observer;
use crate::admin::operators::Operators;
use crate::admin::{AdminApi, AdminParts, Grounds, ImportDesk, Transport};
use crate::batch::{BatchDesk, BatchMetrics, BatchParts};
use crate::budget::Budgets;
use crate::cache::{CacheMetrics, Caches};
use crate::campaign::originals::originals_folder;
use crate::campaign::{CampaignMetrics, CatalogHandle};
use crate::candidates::CandidateDesk;
use crate::config::Config;
use crate::credentials::{SignerHandle, SignerMetrics, TimestampAuthority, Trust};
use crate::descriptors;
use crate::drafts::DraftDesk;
use crate::fill::{CredentialMetrics, Credentials, Fill, Ingredients};
use crate::front::Front;
use crate::governance::{
    Downstream, Gate, Kept, KillDesk, KillMetrics, PinMetrics, Pins, PurgeDesk, PurgeMetrics, Purges, Replay,
    ReviewDesk, ReviewMetrics, SplitDesk,
};
use crate::handler::Handler;
use crate::listener::forwarded::Trusted;
use crate::metrics::{RequestMetrics, ResponseMetrics};
use crate::origin::{Images, Imports, OriginMetrics, Origins, Regions};
use crate::papers::{Papers, PapersParts};
use crate::preview::Preview;
use crate::reload::ConfigReload;
use crate::render::{DecodeMemory, RenderMetrics, RenderPool};
use crate::rum::Rum;
use crate::seo::{MarkupDesk, MarkupMetrics, SitemapMetrics, SitemapParts, Sitemaps};
use crate::shared_state::{Log, OpenedLog};
use crate::shares::{Comments, ShareDesk, ShareParts};
use crate::signing::{SigningHandle, SigningMetrics};
use crate::stand_in::StandIns;
use crate::text_file;
use crate::verify::{Among, Detector, KnownMasters, VerifyDesk, VerifyMetrics, VerifyParts};
use crate::warm::{WarmMetrics, Warmer};
use crate::watermark::Watermarks;
use crate::webhooks::{WebhookMetrics, Webhooks};
use crate::words::Epoch;
use crate::words::clock::Clock;

/// An edge that is built. It has threads (render pool, readers of the caches, access log), and neither a port nor a task that
/// watches.
#[derive(Debug)]
pub struct App {
    pub(super) config: Config,
    pub(super) registry: Registry,
    pub(super) reload: ConfigReload,
    pub(super) behind: Behind,
    pub(super) handler: Arc<Handler>,
    pub(super) operators: Arc<Operators>,
    pub(super) trusted: Trusted,
    pub(super) tls: Tls,
    pub(super) warmer: Warmer,
    pub(super) batches: BatchDesk,
    /// Ends what works behind the listeners.
    pub(super) back: (ShutdownTrigger, Shutdown),
}

/// What works behind the listeners.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) regions: Arc<Regions>,
    pub(super) origin_metrics: OriginMetrics,
    pub(super) pool: Arc<RenderPool>,
    pub(super) catalog: CatalogHandle,
    pub(super) signing: SigningHandle,
    pub(super) signers: SignerHandle,
    pub(super) downstream: Downstream,
    /// Its changes outlive the requests that asked for them.
    pub(super) desk: Arc<PurgeDesk>,
    pub(super) replay: Replay,
    pub(super) pins: Pins,
    pub(super) opened: OpenedLog,
    pub(super) webhooks: Webhooks,
    pub(super) kills: KillDesk,
    reviews: ReviewDesk,
    caches: Arc<Caches>,
    fill: Arc<Fill>,
    watermarks: Watermarks,
    masters: Arc<KnownMasters>,
    gate: Gate,
    comments: Comments,
    decode_memory: DecodeMemory,
}

impl App {
    /// Opens the caches and the ledger, loads the catalogue, the keys and the certificates.
    ///
    /// # Errors
    /// When a part cannot be built; nothing is left running then.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let registry = Registry::new();
        ProcessMetrics::register(&registry)?;
        let reload = ConfigReload::new(&config, &registry)?;
        let back = shutdown::channel();
        let behind = Behind::open(&config, &registry).await?;
        let trusted = Trusted::new(config.listen.trusted());
        let handler = Arc::new(behind.handler(&config, &registry, trusted.clone()).await?);
        handler.stand_ins.prepare(&behind.catalog.load());
        let warmer = behind.warmer(&config, &registry, back.1.clone()).await?;
        let batches = behind.batches(&config, &registry, warmer.clone(), back.1.clone()).await?;
        let desks = (warmer.clone(), batches.clone());
        let operators = Arc::new(behind.operators(&config, &registry, desks, trusted.clone())?);
        let tls = open_tls(&config, &registry).await?;
        subscriptions::trusted_proxies(&reload, &trusted);
        subscriptions::admin_api(&reload, &operators.api);
        subscriptions::log_filter(&reload);
        subscriptions::webhooks(&reload, &behind.webhooks);
        subscriptions::downstream(&reload, &behind.downstream, behind.caches.epoch.clone());
        Ok(Self { config, registry, reload, behind, handler, operators, trusted, tls, warmer, batches, back })
    }
}

impl Behind {
    async fn open(config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let origin_metrics = OriginMetrics::new(registry)?;
        let regions = open_regions(config, origin_metrics.clone()).await?;
        let pool = RenderPool::start(&config.render, RenderMetrics::new(registry)?);
        let pool = Arc::new(pool.context("the render pool cannot start")?);
        let caches = Arc::new(open_caches(config, registry).await?);
        let watermarks = open_watermarks(config).await?;
        let catalog = open_catalog(config, &watermarks, registry, caches.epoch.clone()).await?;
        let purges = open_purges(config, registry).await?;
        let opened = open_log(config, caches.epoch.clone()).await?;
        let log = Arc::clone(&opened.log);
        let pins = open_pins(config, registry, (&log, &caches))?;
        let gate = Gate::new(log.published().clone(), registry)?;
        let downstream = Downstream::new(&config.purge, purges.clone(), catalog.clone())?;
        let known = (catalog.clone(), caches.bindings.clone());
        let answer_wait = Duration::from_millis(config.purge.answer_wait_ms);
        let (log_seen, epoch) = (Arc::clone(&log), caches.epoch.clone());
        let replay = Replay::new(log_seen, purges.clone(), downstream.clone(), known.clone(), epoch);
        let metrics = KillMetrics::new(registry)?;
        let kills = KillDesk::new(Arc::clone(&log), replay.clone(), known, answer_wait, metrics);
        let reviews = ReviewDesk::new(
            Arc::clone(&log),
            replay.clone(),
            catalog.clone(),
            answer_wait,
            ReviewMetrics::new(registry)?,
        );
        let budgets = Budgets::new(&config.budget, registry)?;
        let decode_memory = DecodeMemory::default();
        let imports = Imports::new(
            &config.campaigns.campaigns_dir,
            Arc::clone(&pool),
            (decode_memory.clone(), config.verify.decoder()),
        );
        let origin = Arc::new(Origins { regions: Arc::clone(&regions), imports });
        let signers = open_signers(config, registry).await?;
        let credentials = Credentials::new(
            signers.clone(),
            &caches,
            open_timestamps(config)?,
            ingredients(config)?,
            config.provenance.embed_share_max,
            config.serve.public_url.clone(),
            CredentialMetrics::new(registry)?,
        );
        let fill = Fill::new(
            Arc::clone(&caches),
            (purges.clone(), gate.clone()),
            origin,
            Arc::clone(&pool),
            budgets,
            credentials,
            config.fill(),
        );
        let purges_seen = purges.clone();
        let desk = Arc::new(PurgeDesk::new(
            purges,
            downstream.clone(),
            log,
            catalog.clone(),
            caches.epoch.clone(),
            config.serve.public_url.clone(),
            answer_wait,
        ));
        let webhooks = open_webhooks(config, registry, (Arc::clone(&opened.log), catalog.clone())).await?;
        let signing = open_signing(config, registry).await?;
        let (bindings, public_url) = (caches.bindings.clone(), config.serve.public_url.clone());
        let masters = Arc::new(KnownMasters::new(catalog.clone(), bindings, (purges_seen, gate.clone()), public_url));
        let comments = open_comments(config).await?;
        Ok(Self {
            regions,
            origin_metrics,
            pool,
            catalog,
            signing,
            signers,
            downstream,
            desk,
            kills,
            reviews,
            replay,
            pins,
            opened,
            webhooks,
            caches,
            fill,
            watermarks,
            masters,
            gate,
            comments,
            decode_memory,
        })
    }

    async fn handler(&self, config: &Config, registry: &Registry, trusted: Trusted) -> anyhow::Result<Handler> {
        let millis = Duration::from_millis;
        let (render_wait, fallback_wait) = (config.serve.render_wait_ms, config.serve.fallback_wait_ms);
        Ok(Handler {
            catalog: self.catalog.clone(),
            front: Front::new(config.cache.front_bytes_max, self.caches.epoch.clone()),
            signing: self.signing.clone(),
            stand_ins: StandIns::new(Arc::clone(&self.fill), millis(render_wait), millis(fallback_wait)),
            fill: Arc::clone(&self.fill),
            caches: Arc::clone(&self.caches),
            metrics: RequestMetrics::new(registry)?,
            observer: open_observer(config, registry).await?,
            rum: Rum::new(&config.rum, &config.budget, registry)?,
            public_url: config.serve.public_url.clone(),
            body_deadline: millis(config.limits.body_ms),
            trusted,
            downstream: self.downstream.clone(),
            verify: if config.verify.enabled { Some(self.verify(config, registry).await?) } else { None },
            markup: MarkupDesk {
                catalog: self.catalog.clone(),
                signing: self.signing.clone(),
                fill: Arc::clone(&self.fill),
                public_url: config.serve.public_url.clone(),
                metrics: MarkupMetrics::new(registry)?,
            },
            sitemaps: if config.seo.sitemap { Some(self.sitemaps(config, registry)?) } else { None },
        })
    }

    fn sitemaps(&self, config: &Config, registry: &Registry) -> anyhow::Result<Sitemaps> {
        Ok(Sitemaps::new(SitemapParts {
            catalog: self.catalog.clone(),
            fill: Arc::clone(&self.fill),
            caches: Arc::clone(&self.caches),
            public_url: config.serve.public_url.clone(),
            folder: config.cache.disk_dir.join("sitemaps"),
            metrics: SitemapMetrics::new(registry)?,
            generation: AtomicU64::default(),
        }))
    }

    async fn verify(&self, config: &Config, registry: &Registry) -> anyhow::Result<VerifyDesk> {
        let public_url = config.serve.public_url.clone();
        let trust = config.verify.trust.clone();
        let trust = tokio::task::spawn_blocking(move || trusted_authorities(trust.as_deref())).await??;
        let watermarks = self.watermarks.detectable().cloned().collect();
        let masters = Arc::clone(&self.masters);
        let detector = Detector::new(&config.verify, watermarks, trust);
        let parts = VerifyParts {
            detector: detector.of_edge(Arc::clone(&masters), Among::Live, public_url.clone()),
            signers: self.signers.clone(),
            masters,
            fill: Arc::clone(&self.fill),
            public_url,
            metrics: VerifyMetrics::new(registry)?,
        };
        Ok(VerifyDesk::new(&config.verify, &config.budget, parts))
    }

    async fn warmer(&self, config: &Config, registry: &Registry, ends: Shutdown) -> anyhow::Result<Warmer> {
        let (warm, data_dir) = (config.warm.clone(), config.cache.disk_dir.clone());
        let (fill, catalog, metrics) = (Arc::clone(&self.fill), self.catalog.clone(), WarmMetrics::new(registry)?);
        let reviews = Some(self.reviews.clone());
        let open = move || Warmer::open(&warm, &data_dir, (fill, reviews), catalog, metrics, ends);
        tokio::task::spawn_blocking(open).await?.context("warmings cannot be stored")
    }

    async fn batches(
        &self,
        config: &Config,
        registry: &Registry,
        warmer: Warmer,
        ends: Shutdown,
    ) -> anyhow::Result<BatchDesk> {
        let data_dir = config.cache.disk_dir.clone();
        let parts = BatchParts {
            warmer,
            reviews: self.reviews.clone(),
            catalog: self.catalog.clone(),
            bindings: self.caches.bindings.clone(),
            price: config.warm.price_per_device_second.clone(),
            metrics: BatchMetrics::new(registry)?,
        };
        let open = move || BatchDesk::open(&data_dir, parts, ends);
        tokio::task::spawn_blocking(open).await?.context("batches cannot be stored")
    }

    fn operators(
        &self,
        config: &Config,
        registry: &Registry,
        (warmer, batches): (Warmer, BatchDesk),
        trusted: Trusted,
    ) -> anyhow::Result<Operators> {
        let candidates =
            CandidateDesk::new(self.catalog.clone(), Arc::clone(&self.fill), self.reviews.clone(), registry)?;
        let bindings = self.caches.bindings.clone();
        let drafts = DraftDesk::new(self.catalog.clone(), Arc::clone(&self.fill), bindings, registry)?;
        let shares = ShareParts {
            signing: self.signing.clone(),
            catalog: self.catalog.clone(),
            reviews: self.reviews.clone(),
            fill: Arc::clone(&self.fill),
            gate: self.gate.clone(),
            comments: self.comments.clone(),
            base: config.serve.shared_url.clone().unwrap_or_default(),
        };
        let shares = ShareDesk::new(shares, registry)?;
        let preview = Preview::new(
            config.serve.public_url.clone(),
            self.catalog.clone(),
            self.signing.clone(),
            config.signing.preview_days,
            (Arc::clone(&self.fill), Arc::clone(&self.regions)),
            (self.caches.bindings.clone(), self.reviews.clone(), candidates.clone()),
            (drafts.clone(), shares.clone(), batches.clone()),
        );
        let preview = Arc::new(preview.with_waiting_pages(descriptors::waiting_pages(descriptors::limit())));
        let papers = self.papers(config);
        let parts = AdminParts {
            catalog: self.catalog.clone(),
            papers: papers.clone(),
            regions: Arc::clone(&self.regions),
            caches: Arc::clone(&self.caches),
            desk: Arc::clone(&self.desk),
            kills: self.kills.clone(),
            candidates,
            drafts,
            splits: SplitDesk::new(Arc::clone(&self.opened.log), Arc::clone(&self.desk)),
            shares,
            preview: Arc::clone(&preview),
            reviews: self.reviews.clone(),
            webhooks: self.webhooks.clone(),
            fill: Arc::clone(&self.fill),
            warmer,
            batches,
            masters: Arc::clone(&self.masters),
            imports: ImportDesk::new(config.sources()?, &config.cache.disk_dir, self.decode_memory.clone()),
        };
        let transport = if config.listen.admin_tls.is_some() { Transport::Tls } else { Transport::Plain };
        let published = self.opened.log.published().clone();
        let grounds = Grounds { published, trusted, transport, clock: Clock::System };
        let api = AdminApi::new(&config.admin, (&config.warm, &config.budget), grounds, parts);
        Ok(Operators {
            registry: registry.clone(),
            catalog: self.catalog.clone(),
            regions: Arc::clone(&self.regions),
            preview,
            papers,
            api,
            is_leaving: Arc::default(),
        })
    }

    fn papers(&self, config: &Config) -> Papers {
        Papers::new(PapersParts {
            public_url: config.serve.public_url.clone(),
            catalog: self.catalog.clone(),
            bindings: self.caches.bindings.clone(),
            fill: Arc::clone(&self.fill),
            watermarks: self.watermarks.clone(),
            has_access_log: config.access_log.is_on(),
        })
    }
}

/// Whose signers count as known.
fn trusted_authorities(path: Option<&std::path::Path>) -> anyhow::Result<Trust> {
    let Some(path) = path else { return Ok(Trust::none()) };
    let told = || format!("`verify.trust`: {}", path.display());
    let pem = text_file::read(path).with_context(told)?;
    Trust::from_pem(&pem).with_context(told)
}

async fn open_observer(config: &Config, registry: &Registry) -> anyhow::Result<Observer> {
    let (access_log, registry) = (config.access_log.clone(), registry.clone());
    let responses = ResponseMetrics::new(&registry)?;
    let log = tokio::task::spawn_blocking(move || AccessLog::open(&access_log, &registry)).await??;
    Ok(Observer { log, responses })
}

async fn open_watermarks(config: &Config) -> anyhow::Result<Watermarks> {
    let watermark = config.provenance.watermark.clone();
    Ok(tokio::task::spawn_blocking(move || watermark.open()).await??)
}

async fn open_catalog(
    config: &Config,
    watermarks: &Watermarks,
    registry: &Registry,
    epoch: Epoch,
) -> anyhow::Result<CatalogHandle> {
    let (sources, metrics) = (config.finished_sources(watermarks)?, CampaignMetrics::new(registry)?);
    let opened = tokio::task::spawn_blocking(move || CatalogHandle::open(sources, metrics, epoch)).await?;
    opened.context("the campaigns cannot be served")
}

async fn open_regions(config: &Config, metrics: OriginMetrics) -> anyhow::Result<Arc<Regions>> {
    let origin = config.origin.clone();
    let images = Images::of(config.sources()?.images_dir());
    let regions = tokio::task::spawn_blocking(move || Regions::new(&origin, metrics)).await??;
    Ok(Arc::new(regions.lending(images)))
}

async fn open_signing(config: &Config, registry: &Registry) -> anyhow::Result<SigningHandle> {
    let (signing, metrics) = (config.signing.clone(), SigningMetrics::new(registry)?);
    tokio::task::spawn_blocking(move || SigningHandle::open(&signing, Clock::System, metrics)).await?
}

async fn open_signers(config: &Config, registry: &Registry) -> anyhow::Result<SignerHandle> {
    let (signer, metrics) = (config.provenance.signer.clone(), SignerMetrics::new(registry)?);
    Ok(tokio::task::spawn_blocking(move || SignerHandle::open(signer, Clock::System, metrics)).await?)
}

fn ingredients(config: &Config) -> anyhow::Result<Ingredients> {
    let images = Images::of(config.sources()?.images_dir());
    Ok(Ingredients::new(originals_folder(&config.campaigns.campaigns_dir), images))
}

fn open_timestamps(config: &Config) -> anyhow::Result<Option<Arc<TimestampAuthority>>> {
    let Some(timestamp) = &config.provenance.timestamp else { return Ok(None) };
    let uri = timestamp.uri().map_err(|(key, reason)| anyhow::anyhow!("`{key}` {reason}"))?;
    Ok(Some(Arc::new(TimestampAuthority::new(timestamp, uri, tokio::runtime::Handle::current())?)))
}

async fn open_comments(config: &Config) -> anyhow::Result<Comments> {
    let data_dir = config.cache.disk_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Comments::open(&data_dir)).await?;
    opened.context("what guests wrote cannot be read")
}

async fn open_purges(config: &Config, registry: &Registry) -> anyhow::Result<Purges> {
    let (purge, path) = (config.purge.clone(), config.cache.disk_dir.join("purges.redb"));
    let metrics = PurgeMetrics::new(registry)?;
    let opened = tokio::task::spawn_blocking(move || Purges::open(&purge, &path, metrics)).await?;
    opened.context("what was purged cannot be read")
}

/// Decides which masters the store keeps from here on.
fn open_pins(
    config: &Config,
    registry: &Registry,
    (log, caches): (&Arc<dyn Log>, &Arc<Caches>),
) -> prometheus::Result<Pins> {
    let kept = Kept::new(log.published().clone());
    let asked = kept.clone();
    caches.masters.keep(move |master| asked.keeps(master));
    let stored = Arc::clone(caches);
    let size_of = Box::new(move |master| stored.masters.size(master));
    let metrics = PinMetrics::new(registry, config.cache.masters_bytes_max)?;
    Ok(Pins::new(kept, Arc::clone(log), size_of, config.state.keep_superseded_days, metrics))
}

async fn open_webhooks(
    config: &Config,
    registry: &Registry,
    sources: (Arc<dyn Log>, CatalogHandle),
) -> anyhow::Result<Webhooks> {
    let (endpoints, path) = (config.webhooks.clone(), config.cache.disk_dir.join("webhooks.redb"));
    let metrics = WebhookMetrics::new(registry)?;
    let opened = tokio::task::spawn_blocking(move || Webhooks::open(&endpoints, &path, sources, metrics)).await?;
    opened.context("what webhooks are owed cannot be read")
}

async fn open_log(config: &Config, epoch: Epoch) -> anyhow::Result<OpenedLog> {
    let (state, path) = (config.state.clone(), config.cache.disk_dir.join("state.redb"));
    let opened = tokio::task::spawn_blocking(move || state.open(&path, epoch)).await?;
    opened.context("what was decided cannot be read")
}

async fn open_caches(config: &Config, registry: &Registry) -> anyhow::Result<Caches> {
    let (cache, metrics) = (config.cache.clone(), CacheMetrics::new(registry)?);
    // Loading the bindings reads a file: not on an async worker.
    let opened = tokio::task::spawn_blocking(move || Caches::open(&cache, metrics)).await?;
    opened.context("the caches cannot be opened")
}
