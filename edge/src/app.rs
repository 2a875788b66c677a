//! An edge from its configuration: built without binding a port, spawned on sockets it is handed, drained in order.
//!
//! ```text
//! Config ─▶ App (build) ─▶ Edge (spawn: background tasks, then listeners) ─▶ shut_down: listeners, purges, the rest
//! ```

mod build;
mod sockets;
mod stack;
pub(crate) mod subscriptions;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bildkante_shared::shutdown::{self, ShutdownTrigger};
use prometheus::Registry;
use tokio::task::JoinHandle;

pub use self::build::App;
pub use self::sockets::Sockets;
use self::sockets::addresses;
use self::stack::Stack;
use self::tls::Tls;
use crate::access::visit::Observer;
use crate::config::Config;
use crate::credentials::SignerHandle;
use crate::governance::{PurgeDesk, checkpoints};
use crate::handler::Handler;
use crate::origin::{Regions, Sidecar};
use crate::reload::ConfigReload;
use crate::render::RenderPool;

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
    signers: SignerHandle,
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
    /// Builds an edge and serves.
    ///
    /// # Errors
    /// As [`App::build`] and [`App::spawn`].
    pub async fn start(config: Config, sockets: Sockets) -> anyhow::Result<Self> {
        App::build(config).await?.spawn(sockets)
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
        self.signers.reload_now().await;
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

impl App {
    /// Starts the sidecar where one is configured, then what works behind the listeners, then the listeners.
    ///
    /// # Errors
    /// When the sidecar or a thread cannot be started.
    pub fn spawn(self, sockets: Sockets) -> anyhow::Result<Edge> {
        let Self { config, registry, reload, behind, handler, operators, trusted, tls, warmer, batches, back } = self;
        let sidecar = config.origin.sidecar.clone();
        let sidecar = sidecar.map(|sidecar| Sidecar::start(sidecar, behind.origin_metrics)).transpose()?;
        let (back, back_ends) = back;
        let back_follow = back_ends.clone();
        let mut background: Vec<_> = tls.each().map(|tls| tls.watch(back_ends.clone())).collect();
        background.extend([
            behind.regions.spawn_probes(&back_ends),
            behind.regions.spawn_watch(back_ends.clone()),
            behind.signing.watch(config.signing.reload_ms, back_ends.clone()),
            behind.signers.watch(config.provenance.reload_ms, back_ends.clone()),
            behind.downstream.start(back_ends.clone()),
            behind.replay.start(back_ends.clone()),
            behind.pins.start(back_ends.clone()),
            behind.webhooks.start(back_ends.clone()),
            checkpoints::sign_heads(Arc::clone(behind.kills.log()), behind.signers.clone(), back_ends.clone()),
            reload.watch(&config.config, back_ends.clone()),
            behind.catalog.watch(config.campaigns.reload_ms, back_ends),
        ]);
        background.extend(behind.opened.start(back_follow));
        let [http, https, admin] = [&sockets.http, &sockets.https, &sockets.admin].map(|it| addresses(it));
        let (http, https, admin) = (http?, https?, admin?);
        let (front, front_ends) = shutdown::channel();
        let stack = Stack { config: &config, registry: &registry, tls: &tls, trusted: &trusted };
        let listeners = stack.spawn((Arc::clone(&handler), Arc::clone(&operators)), sockets, &front_ends)?;
        warmer.go_on();
        batches.go_on();
        let [at_http, at_https, at_admin] = [&http, &https, &admin].map(|addresses| listed(addresses));
        tracing::info!(http = %at_http, https = %at_https, admin = %at_admin, "edge serves");
        let first = |addresses: &[SocketAddr]| addresses.first().copied();
        Ok(Edge {
            http: first(&http).context("no address for HTTP")?,
            https: first(&https),
            admin: first(&admin).context("no address for operators")?,
            handler,
            regions: behind.regions,
            signers: behind.signers,
            pool: behind.pool,
            is_leaving: Arc::clone(&operators.is_leaving),
            registry,
            config: reload,
            tls,
            sidecar,
            front,
            back,
            listeners,
            background,
            desk: behind.desk,
            drain: Duration::from_millis(config.limits.drain_ms),
        })
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// For purges on their way to the device, however long connections took to drain.
const FINISH_MIN: Duration = Duration::from_secs(1);

/// Connections and purges share one deadline.
fn left_for_purges(drained: Instant, now: Instant) -> Duration {
    drained.saturating_duration_since(now).max(FINISH_MIN)
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
