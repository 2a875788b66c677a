//! An edge from its configuration: built without binding a port, started on sockets it is handed, drained in order.

pub(crate) mod subscriptions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bildkante_shared::process::ProcessMetrics;
use bildkante_shared::shutdown::{self, Shutdown, ShutdownTrigger};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::access::AccessLog;
use crate::access::visit::Observer;
use crate::admin::AdminApi;
use crate::admin::operators::Operators;
use crate::budget::Budgets;
use crate::cache::{CacheMetrics, Caches, Epoch};
use crate::campaign::{CampaignMetrics, CatalogHandle};
use crate::clock::Clock;
use crate::config::Config;
use crate::descriptors::{self, ADMIN_CONNECTIONS_MAX};
use crate::fill::Fill;
use crate::front::Front;
use crate::governance::{Downstream, PurgeDesk, PurgeMetrics, Purges};
use crate::handler::Handler;
use crate::listener::addresses::Addresses;
use crate::listener::forwarded::Trusted;
use crate::listener::room::{Room, RoomMetrics, RoomSettings};
use crate::listener::systemd::{Inherited, SocketName};
use crate::listener::tls::{ReloadableTls, TlsError, TlsMetrics};
use crate::listener::workers::Workers;
use crate::listener::{Crew, Listener, ListenerMetrics};
use crate::metrics::{RequestMetrics, ResponseMetrics};
use crate::origin::{Images, OriginMetrics, Regions, Sidecar};
use crate::preview::Preview;
use crate::reload::ConfigReload;
use crate::render::{RenderMetrics, RenderPool};
use crate::rum::Rum;
use crate::signing::{SigningHandle, SigningMetrics};
use crate::stand_in::StandIns;
use crate::warm::{WarmMetrics, Warmer};

/// Bound listeners, so that whoever starts an edge knows its ports and no test needs a fixed one. One for each address.
#[derive(Debug)]
pub struct Sockets {
    pub http: Vec<TcpListener>,
    /// Empty without a certificate.
    pub https: Vec<TcpListener>,
    pub admin: Vec<TcpListener>,
}

impl Sockets {
    /// Takes over the sockets systemd hands over and binds the others where the configuration says.
    ///
    /// # Errors
    /// When an address is taken or not ours, or a socket is handed over that nobody could serve.
    pub async fn bind(config: &Config, mut inherited: Inherited) -> anyhow::Result<Self> {
        let listen = &config.listen;
        let mut bind = |name: SocketName, addresses: &Addresses| match inherited.remove(name) {
            Some(sockets) => {
                let sockets: Result<Vec<_>, _> = sockets.into_iter().map(TcpListener::from_std).collect();
                sockets.context("a socket of systemd's")
            }
            None => addresses.listen().map_err(|(address, error)| {
                anyhow::Error::from(error).context(format!("`listen.{}`: cannot listen on {address}", name.as_str()))
            }),
        };
        let http = bind(SocketName::Http, &listen.http)?;
        let https = if listen.tls.is_some() { bind(SocketName::Https, &listen.https)? } else { Vec::new() };
        let admin = bind(SocketName::Admin, &listen.admin)?;
        if let Some(name) = inherited.left().next() {
            anyhow::bail!("systemd hands over a socket `{name}`, and `listen.tls` names no certificate");
        }
        Ok(Self { http, https, admin })
    }
}

fn addresses(sockets: &[TcpListener]) -> anyhow::Result<Vec<SocketAddr>> {
    Ok(sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

/// An edge that serves. Of each listener it names the first address.
#[derive(Debug)]
pub struct Edge {
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub handler: Arc<Handler>,
    pub regions: Arc<Regions>,
    pub pool: Arc<RenderPool>,
    pub registry: Registry,
    /// The configuration file: what is subscribed to here is reloaded without a restart.
    pub config: ConfigReload,
    is_leaving: Arc<AtomicBool>,
    tls: Tls,
    sidecar: Option<Sidecar>,
    /// Ends the listeners.
    front: ShutdownTrigger,
    /// Ends what works behind them, after they have drained.
    back: ShutdownTrigger,
    listeners: Vec<JoinHandle<usize>>,
    background: Vec<JoinHandle<()>>,
    /// Its changes outlive the requests that asked for them.
    desk: Arc<PurgeDesk>,
    drain: Duration,
}

impl Edge {
    /// Opens the caches, loads the catalogue, starts the sidecar where one is configured, and serves.
    ///
    /// # Errors
    /// When a part cannot be built; nothing is left running then.
    pub async fn start(config: Config, sockets: Sockets) -> anyhow::Result<Self> {
        let registry = Registry::new();
        ProcessMetrics::register(&registry)?;
        let reload = ConfigReload::new(&config, &registry)?;
        let (front, front_ends) = shutdown::channel();
        let (back, back_ends) = shutdown::channel();

        let origin_metrics = OriginMetrics::new(&registry)?;
        let regions = open_regions(&config, origin_metrics.clone()).await?;
        let render_metrics = RenderMetrics::new(&registry)?;
        let pool = Arc::new(RenderPool::start(&config.render, render_metrics).context("the render pool cannot start")?);
        let caches = Arc::new(open_caches(&config, &registry).await?);
        let catalog = open_catalog(&config, &registry, caches.epoch.clone()).await?;
        let purges = open_purges(&config, &registry).await?;
        let downstream = Downstream::new(&config.purge, purges.clone(), catalog.clone())?;
        let budgets = Budgets::new(&config.budget, &registry)?;
        let fill = Fill::new(Arc::clone(&caches), purges.clone(), regions.clone(), Arc::clone(&pool), budgets, &config);
        let desk = Arc::new(PurgeDesk::new(
            purges,
            downstream.clone(),
            catalog.clone(),
            caches.epoch.clone(),
            config.serve.public_url.clone(),
            Duration::from_millis(config.purge.answer_wait_ms),
        ));
        let signing = open_signing(&config, &registry).await?;
        let trusted = Trusted::new(config.listen.trusted());
        subscriptions::trusted_proxies(&reload, &trusted);
        let handler = Arc::new(Handler {
            catalog: catalog.clone(),
            front: Front::new(config.cache.front_bytes_max, caches.epoch.clone()),
            signing: signing.clone(),
            stand_ins: StandIns::new(
                Arc::clone(&fill),
                Duration::from_millis(config.serve.render_wait_ms),
                Duration::from_millis(config.serve.fallback_wait_ms),
            ),
            fill: Arc::clone(&fill),
            caches: Arc::clone(&caches),
            metrics: RequestMetrics::new(&registry)?,
            observer: open_observer(&config, &registry).await?,
            rum: Rum::new(&config.rum, &config.budget, &registry)?,
            public_url: config.serve.public_url.clone(),
            body_deadline: Duration::from_millis(config.limits.body_ms),
            trusted: trusted.clone(),
            downstream: downstream.clone(),
        });
        handler.stand_ins.prepare(&catalog.load());
        let warmer = open_warmer(&config, &registry, (fill, catalog.clone()), &back_ends).await?;
        let preview = Preview::new(
            config.serve.public_url.clone(),
            catalog.clone(),
            signing.clone(),
            config.signing.preview_days,
            caches.bindings.clone(),
        );
        let api = AdminApi::new(
            &config.admin,
            &config.warm,
            catalog.clone(),
            Arc::clone(&regions),
            Arc::clone(&caches),
            Arc::clone(&desk),
            warmer.clone(),
        );
        subscriptions::admin_api(&reload, &api);
        subscriptions::log_filter(&reload);
        subscriptions::downstream(&reload, &downstream, caches.epoch.clone());
        let admin = Arc::new(Operators {
            registry: registry.clone(),
            catalog: catalog.clone(),
            regions: Arc::clone(&regions),
            preview: Arc::new(preview),
            api,
            is_leaving: Arc::default(),
        });

        let tls = open_tls(&config, &registry).await?;
        let sidecar =
            config.origin.sidecar.clone().map(|sidecar| Sidecar::start(sidecar, origin_metrics)).transpose()?;
        let mut background: Vec<_> = tls.each().map(|tls| tls.watch(back_ends.clone())).collect();
        background.extend([
            regions.spawn_probes(&back_ends),
            regions.spawn_watch(back_ends.clone()),
            signing.watch(config.signing.reload_ms, back_ends.clone()),
            downstream.start(back_ends.clone()),
            reload.watch(&config.config, back_ends.clone()),
            catalog.watch(config.campaigns.reload_ms, back_ends),
        ]);

        let [http, https, admin_addresses] = [&sockets.http, &sockets.https, &sockets.admin].map(|it| addresses(it));
        let (http, https, admin_addresses) = (http?, https?, admin_addresses?);
        let first = |addresses: &[SocketAddr]| addresses.first().copied();
        let settings = config.limits.listener(config.listen.prior_knowledge());
        let drain = Duration::from_millis(config.limits.drain_ms);
        let workers = Arc::new(Workers::start(config.listen.workers).context("the I/O workers cannot start")?);
        let connections_max = fit_to_descriptors(&config, workers.len(), 1 + usize::from(!https.is_empty()));
        let metrics = ListenerMetrics::new(&registry)?;
        let rooms = RoomMetrics::new(&registry)?;
        let room = |settings| Room::new(settings, trusted.clone(), metrics.clone(), rooms.clone());
        let public = |tls| {
            Arc::new(Listener {
                tls,
                respond: Arc::clone(&handler),
                settings: settings.clone(),
                room: room(config.limits.room(connections_max, &config.budget)),
                metrics: metrics.clone(),
            })
        };
        let (plain, secure) = (public(None), public(tls.public.clone()));
        let operators = Arc::new(Listener {
            tls: tls.admin.clone(),
            respond: Arc::clone(&admin),
            settings: settings.clone(),
            room: room(RoomSettings::for_operators(connections_max.min(ADMIN_CONNECTIONS_MAX), &config.budget)),
            metrics: metrics.clone(),
        });
        let crew = Crew::Workers(workers);
        let mut listeners = Vec::new();
        for (listener, sockets) in [(plain, sockets.http), (secure, sockets.https)] {
            listeners.extend(listener.spawn_on(&crew, sockets, &front_ends));
        }
        listeners.extend(operators.spawn_on(&Crew::Here, sockets.admin, &front_ends));
        warmer.go_on();
        let listed =
            |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (at_http, at_https, at_admin) = (listed(&http), listed(&https), listed(&admin_addresses));
        tracing::info!(http = %at_http, https = %at_https, admin = %at_admin, "edge serves");
        Ok(Self {
            http: first(&http).context("no address for HTTP")?,
            https: first(&https),
            admin: first(&admin_addresses).context("no address for operators")?,
            handler,
            regions,
            pool,
            is_leaving: Arc::clone(&admin.is_leaving),
            registry,
            config: reload,
            tls,
            sidecar,
            front,
            back,
            listeners,
            background,
            desk,
            drain,
        })
    }

    /// Reads the configuration, certificates, topology, signing keys and campaigns again; what cannot be read leaves the
    /// old in place.
    pub async fn reload(&self) {
        self.config.reload_now().await;
        self.handler.observer.log.reopen();
        for tls in self.tls.each() {
            let tls = Arc::clone(tls);
            let reloaded = tokio::task::spawn_blocking(move || tls.reload()).await;
            if let Ok(Err(error)) = reloaded {
                tracing::error!(%error, "certificates not reloaded");
            }
        }
        if let Err(error) = self.regions.reload().await {
            tracing::error!(%error, "nodes not reloaded");
        }
        self.handler.signing.reload_now().await;
        self.handler.catalog.reload_now().await;
    }

    /// From now on `/readyz` says that this edge is about to stop; everything is served as before.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Stops accepting, drains, stops the sidecar. Returns how many connections were cut at the deadline.
    pub async fn shut_down(self) -> usize {
        let drained = Instant::now() + self.drain;
        self.front.shut_down();
        let mut aborted = 0;
        for listener in self.listeners {
            aborted += listener.await.unwrap_or_default();
        }
        self.desk.finish(left_for_purges(drained, Instant::now())).await;
        self.back.shut_down();
        for task in self.background {
            let _ = task.await;
        }
        if let Some(sidecar) = self.sidecar {
            sidecar.stop().await;
        }
        let handler = self.handler;
        let _ = tokio::task::spawn_blocking(move || handler.observer.log.close(Observer::CLOSE_WAIT)).await;
        aborted
    }
}

/// For purges on their way to the device, however long connections took to drain.
const FINISH_MIN: Duration = Duration::from_secs(1);

/// Connections and purges share one deadline.
fn left_for_purges(drained: Instant, now: Instant) -> Duration {
    drained.saturating_duration_since(now).max(FINISH_MIN)
}

/// No more connections than this process may have files open beside all else.
fn fit_to_descriptors(config: &Config, workers: usize, listeners: usize) -> usize {
    let (wanted, open_files_max) = (config.limits.connections_max, descriptors::limit());
    let reserved = descriptors::reserved(config, workers);
    let connections_max = descriptors::fit(wanted, listeners, open_files_max, reserved);
    if connections_max < wanted {
        tracing::warn!(
            wanted,
            connections_max,
            open_files_max,
            reserved,
            "`limits.connections_max` does not fit into the open files that this process may have: raise their hard limit"
        );
    }
    connections_max
}

/// What speaks TLS.
#[derive(Debug)]
struct Tls {
    public: Option<Arc<ReloadableTls>>,
    admin: Option<Arc<ReloadableTls>>,
}

impl Tls {
    fn each(&self) -> impl Iterator<Item = &Arc<ReloadableTls>> {
        self.public.iter().chain(&self.admin)
    }
}

async fn open_tls(config: &Config, registry: &Registry) -> anyhow::Result<Tls> {
    let (public, admin) = (config.listen.tls.clone(), config.listen.admin_tls.clone());
    let metrics = TlsMetrics::new(registry)?;
    let opened = tokio::task::spawn_blocking(move || {
        let public = public.map(|config| ReloadableTls::load(&config, &metrics)).transpose()?.map(Arc::new);
        let admin = admin.map(|config| ReloadableTls::load_admin(&config, &metrics)).transpose()?.map(Arc::new);
        Ok::<_, TlsError>(Tls { public, admin })
    });
    opened.await?.context("TLS cannot be served")
}

async fn open_observer(config: &Config, registry: &Registry) -> anyhow::Result<Observer> {
    let (access_log, registry) = (config.access_log.clone(), registry.clone());
    let responses = ResponseMetrics::new(&registry)?;
    let log = tokio::task::spawn_blocking(move || AccessLog::open(&access_log, &registry)).await??;
    Ok(Observer { log, responses })
}

async fn open_catalog(config: &Config, registry: &Registry, epoch: Epoch) -> anyhow::Result<CatalogHandle> {
    let (sources, metrics) = (config.campaigns.sources()?, CampaignMetrics::new(registry)?);
    let opened = tokio::task::spawn_blocking(move || CatalogHandle::open(sources, metrics, epoch)).await?;
    opened.context("the campaigns cannot be served")
}

async fn open_regions(config: &Config, metrics: OriginMetrics) -> anyhow::Result<Arc<Regions>> {
    let origin = config.origin.clone();
    let images = Images::of(config.campaigns.sources()?.images_dir());
    let regions = tokio::task::spawn_blocking(move || Regions::new(&origin, metrics)).await??;
    Ok(Arc::new(regions.lending(images)))
}

async fn open_signing(config: &Config, registry: &Registry) -> anyhow::Result<SigningHandle> {
    let (signing, metrics) = (config.signing.clone(), SigningMetrics::new(registry)?);
    tokio::task::spawn_blocking(move || SigningHandle::open(&signing, Clock::System, metrics)).await?
}

async fn open_warmer(
    config: &Config,
    registry: &Registry,
    (fill, catalog): (Arc<Fill>, CatalogHandle),
    ends: &Shutdown,
) -> anyhow::Result<Warmer> {
    let (warm, data_dir) = (config.warm.clone(), config.cache.disk_dir.clone());
    let (metrics, ends) = (WarmMetrics::new(registry)?, ends.clone());
    let open = move || Warmer::open(&warm, &data_dir, fill, catalog, metrics, ends);
    tokio::task::spawn_blocking(open).await?.context("warmings cannot be stored")
}

async fn open_purges(config: &Config, registry: &Registry) -> anyhow::Result<Purges> {
    let (purge, path) = (config.purge.clone(), config.cache.disk_dir.join("purges.redb"));
    let metrics = PurgeMetrics::new(registry)?;
    let opened = tokio::task::spawn_blocking(move || Purges::open(&purge, &path, metrics)).await?;
    opened.context("what was purged cannot be read")
}

async fn open_caches(config: &Config, registry: &Registry) -> anyhow::Result<Caches> {
    let (cache, metrics) = (config.cache.clone(), CacheMetrics::new(registry)?);
    // Loading the bindings reads a file: not on an async worker.
    let opened = tokio::task::spawn_blocking(move || Caches::open(&cache, metrics)).await?;
    opened.context("the caches cannot be opened")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_have_what_connections_left_of_the_drain_and_a_second_at_least() {
        let (started, drain) = (Instant::now(), Duration::from_secs(30));
        let left = |spent_s| left_for_purges(started + drain, started + Duration::from_secs(spent_s));
        assert_eq!(left(0), drain);
        assert_eq!(left(20), Duration::from_secs(10));
        assert_eq!([left(30), left(31)], [FINISH_MIN; 2]);
    }
}
