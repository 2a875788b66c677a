//! The layers of a listener, from the socket to the answer, and why each stands where it does.
//!
//! | layer | stands here because |
//! | --- | --- |
//! | `Room`: a seat, or the connection that has rested longest gives up its own | a full edge spends nothing on a peer before it has a seat |
//! | `Workers`: the connection moves to the thread it lives on | sockets register with the runtime that polls them |
//! | TLS, with a deadline for the handshake | nothing is read in the clear that was meant to be secret |
//! | `WatchedIo`: deadlines of first byte, head, rest and write | it sees every byte, whichever protocol reads it |
//! | lane, hyper's HTTP/1.1 or HTTP/2 | limits of heads and of requests hold in each at the same number |
//! | `Observer`: counts, access log, ids | every answer passes it once, refusals of the listener too |
//! | `Front`: finished answers by URL as sent | a hit parses nothing |
//! | `Handler`: the way of a request | what is left needs all of it |
//!
//! Operators have the same layers up to the protocol; their answers may take long, so they are served on the main runtime and not on
//! the workers, and have seats of their own.

use std::sync::Arc;

use anyhow::Context;
use bildkante_shared::shutdown::Shutdown;
use prometheus::Registry;
use tokio::task::JoinHandle;

use super::sockets::Sockets;
use super::tls::Tls;
use crate::admin::operators::Operators;
use crate::config::Config;
use crate::descriptors;
use crate::handler::Handler;
use crate::listener::forwarded::Trusted;
use crate::listener::room::{Room, RoomMetrics, RoomSettings};
use crate::listener::tls::ReloadableTls;
use crate::listener::workers::Workers;
use crate::listener::{Crew, Listener, ListenerMetrics, ListenerSettings};

/// What the listeners of one edge have in common.
pub(super) struct Stack<'a> {
    pub(super) config: &'a Config,
    pub(super) registry: &'a Registry,
    pub(super) tls: &'a Tls,
    pub(super) trusted: &'a Trusted,
}

impl Stack<'_> {
    /// Serves on every socket until `ends`, a task for each.
    pub(super) fn spawn(
        self,
        (handler, operators): (Arc<Handler>, Arc<Operators>),
        sockets: Sockets,
        ends: &Shutdown,
    ) -> anyhow::Result<Vec<JoinHandle<usize>>> {
        let Self { config, registry, tls, trusted } = self;
        let workers = Arc::new(Workers::start(config.listen.workers).context("the I/O workers cannot start")?);
        let connections_max = fit_to_descriptors(config, workers.len(), 1 + usize::from(!sockets.https.is_empty()));
        let shared = Shared {
            settings: config.limits.listener(config.listen.prior_knowledge()),
            trusted: trusted.clone(),
            metrics: ListenerMetrics::new(registry)?,
            rooms: RoomMetrics::new(registry)?,
        };
        let seats = config.limits.room(connections_max, &config.budget);
        let admin_connections = descriptors::admin_connections(descriptors::limit());
        let few = RoomSettings::for_operators(connections_max.min(admin_connections), &config.budget);
        let plain = shared.listener(None, Arc::clone(&handler), seats.clone());
        let secure = shared.listener(tls.public.clone(), handler, seats);
        let admin = shared.listener(tls.admin.clone(), operators, few);
        let crew = Crew::Workers(workers);
        let mut tasks: Vec<_> = plain.spawn_on(&crew, sockets.http, ends).collect();
        tasks.extend(secure.spawn_on(&crew, sockets.https, ends));
        tasks.extend(admin.spawn_on(&Crew::Here, sockets.admin, ends));
        Ok(tasks)
    }
}

struct Shared {
    settings: ListenerSettings,
    trusted: Trusted,
    metrics: ListenerMetrics,
    rooms: RoomMetrics,
}

impl Shared {
    /// A listener with a room of its own.
    fn listener<R>(&self, tls: Option<Arc<ReloadableTls>>, respond: Arc<R>, seats: RoomSettings) -> Arc<Listener<R>> {
        let room = Room::new(seats, self.trusted.clone(), self.metrics.clone(), self.rooms.clone());
        Arc::new(Listener { tls, respond, settings: self.settings.clone(), room, metrics: self.metrics.clone() })
    }
}

/// No more connections than this process may have files open beside all else.
fn fit_to_descriptors(config: &Config, workers: usize, listeners: usize) -> usize {
    let (wanted, open_files_max) = (config.limits.connections_max, descriptors::limit());
    let reserved = descriptors::reserved(config, workers, open_files_max);
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
