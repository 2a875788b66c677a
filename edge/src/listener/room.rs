//! Room for connections: how many a listener has, how many of them one client network may hold, and which of them goes
//! when a listener is full.
//!
//! A listener that is full closes those of its connections that have rested longest, a few at a time, so that who comes now
//! is served; only where none rests does the next one wait. A client network that has its share is refused at once. Trusted
//! proxies have no share of their own: all the world comes through them.
//!
//! Invariants: these are not closed for another connection: one whose handshake is not over, one that is being answered, one
//! that has begun a head or moved a byte within the last second, and one over HTTP/2 before its answers have left. Whether a
//! connection rests is looked at and acted upon on its own thread, between two of its polls. No request takes a lock here:
//! connections do, when they begin and when they end.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounter, Registry};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::forwarded::Trusted;
use super::io::Progress;
use super::{ListenerMetrics, OpenGuard};
use crate::budget::{BudgetConfig, Network};

/// Seats are kept in so many parts, so that looking for one that rests holds up few who come and go.
const SHARDS: usize = 16;
/// One in so many connections is closed at a time: looking at all of them costs more than a close.
const SHED_PART: usize = 256;
/// Between two looks for connections that rest, while none does and none ends.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many connections there is room for.
#[derive(Debug, Clone)]
pub struct RoomSettings {
    pub connections_max: usize,
    pub per_client_max: usize,
    /// What is one client network.
    pub networks: BudgetConfig,
}

impl RoomSettings {
    /// For the admin listener: operators may well come from one network.
    #[must_use]
    pub fn for_operators(connections_max: usize, networks: &BudgetConfig) -> Self {
        Self { connections_max, per_client_max: connections_max, networks: networks.clone() }
    }
}

/// Connections that were not let in.
#[derive(Debug, Clone)]
pub struct RoomMetrics {
    refused: IntCounter,
}

impl RoomMetrics {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let refused = IntCounter::new(
            "bildkante_edge_connections_refused_total",
            "Connections closed at once, because their client network had as many as it may",
        )?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { refused })
    }
}

/// The room of one listener, shared by all its addresses. See the module's documentation.
#[derive(Debug)]
pub struct Room {
    settings: RoomSettings,
    trusted: Trusted,
    permits: Arc<Semaphore>,
    /// Held by the one who looks for connections to close.
    turn: tokio::sync::Mutex<()>,
    shards: [Mutex<HashMap<u64, Seated>>; SHARDS],
    next: AtomicU64,
    held: Mutex<HashMap<Network, usize>>,
    ended: ListenerMetrics,
    metrics: RoomMetrics,
}

/// A connection, and how it is closed for another one where it may be.
#[derive(Debug)]
struct Seated {
    progress: Arc<Progress>,
    /// Its thread has been told, and has not looked yet.
    is_told: Arc<AtomicBool>,
    /// The single-threaded runtime that runs it, and its task there.
    task: Option<(Handle, AbortHandle)>,
}

/// A client network's share is taken; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    /// None for a proxy's.
    network: Option<Network>,
}

/// What a connection holds while it is open.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    share: Share,
    _permit: Option<OwnedSemaphorePermit>,
    _open: OpenGuard,
}

impl Room {
    #[must_use]
    pub fn new(settings: RoomSettings, trusted: Trusted, ended: ListenerMetrics, metrics: RoomMetrics) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(settings.connections_max)),
            settings,
            trusted,
            turn: tokio::sync::Mutex::default(),
            shards: Default::default(),
            next: AtomicU64::new(0),
            held: Mutex::default(),
            ended,
            metrics,
        })
    }

    /// A share for a connection from `peer`, unless its network has as many as it may.
    pub fn share(self: &Arc<Self>, peer: IpAddr) -> Option<Share> {
        if self.trusted.trusts(peer) {
            return Some(Share { room: Arc::clone(self), network: None });
        }
        let network = Network::of(peer, &self.settings.networks);
        let mut held = self.held.lock();
        let count = held.entry(network).or_insert(0);
        if *count >= self.settings.per_client_max {
            self.metrics.refused.inc();
            return None;
        }
        *count += 1;
        Some(Share { room: Arc::clone(self), network: Some(network) })
    }

    /// Room for one more, if there is some.
    pub fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Room for one more: made by closing connections that rest, or waited for.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        let _turn = self.turn.lock().await;
        loop {
            if let Some(permit) = self.try_permit() {
                return permit;
            }
            self.shed();
            let freed = Arc::clone(&self.permits).acquire_owned();
            match tokio::time::timeout(LOOK_AGAIN, freed).await {
                Ok(Ok(permit)) => return permit,
                Ok(Err(_)) => std::future::pending::<()>().await,
                Err(_) => {}
            }
        }
    }

    /// A seat for a connection. Without a permit the room is fuller than it should be.
    pub fn seat(&self, share: Share, permit: Option<OwnedSemaphorePermit>, progress: Arc<Progress>) -> Seat {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, Seated { progress, is_told: Arc::default(), task: None });
        Seat { id, share, _permit: permit, _open: self.ended.opened() }
    }

    /// From now on the connection of seat `id` may be closed for another while it rests. `thread` is the single-threaded
    /// runtime that runs its `task`.
    pub fn may_close(&self, id: u64, thread: Handle, task: AbortHandle) {
        // It may have ended already.
        if let Some(seated) = self.shard(id).lock().get_mut(&id) {
            seated.task = Some((thread, task));
        }
    }

    /// Closes the connections that have rested longest.
    pub fn shed(&self) {
        let mut resting = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let closable = shard.iter().filter(|(_, seated)| seated.is_closable());
            resting.extend(closable.filter_map(|(id, seated)| Some((seated.progress.rested()?, *id))));
        }
        let count = (self.settings.connections_max / SHED_PART).max(1).min(resting.len());
        if count == 0 {
            return;
        }
        resting.select_nth_unstable_by_key(count - 1, |(rested, id)| (Reverse(*rested), *id));
        for (_, id) in &resting[..count] {
            if let Some(seated) = self.shard(*id).lock().get(id) {
                seated.close(self.ended.clone());
            }
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Seated>> {
        &self.shards[usize::try_from(id).unwrap_or(0) % SHARDS]
    }
}

impl Seated {
    fn is_closable(&self) -> bool {
        self.task.is_some() && !self.is_told.load(Ordering::Relaxed)
    }

    /// On the connection's thread nothing happens between the look and the end. A thread that is held up is told once,
    /// however often room is looked for meanwhile.
    fn close(&self, ended: ListenerMetrics) {
        let Some((thread, task)) = self.task.clone() else { return };
        if self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let (progress, is_told) = (Arc::clone(&self.progress), Arc::clone(&self.is_told));
        thread.spawn(async move {
            if progress.rested().is_some() && !task.is_finished() {
                task.abort();
                ended.end("shed");
            } else {
                is_told.store(false, Ordering::Relaxed);
            }
        });
    }
}

impl Seat {
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.share.room.shard(self.id).lock().remove(&self.id);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut held = self.room.held.lock();
        if let Some(count) = held.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                held.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::forwarded::{ForwardedField, TrustedProxies};

    fn room(connections_max: usize, per_client_max: usize) -> Arc<Room> {
        let registry = Registry::new();
        let settings = RoomSettings { connections_max, per_client_max, networks: BudgetConfig::default() };
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()], ForwardedField::default());
        let ended = ListenerMetrics::new(&registry).unwrap();
        Room::new(settings, Trusted::new(proxies), ended, RoomMetrics::new(&registry).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_its_share_and_gets_it_back() {
        let room = room(10, 2);
        let shares = [room.share(ip("192.0.2.1")).unwrap(), room.share(ip("::ffff:192.0.2.99")).unwrap()];
        assert!(room.share(ip("192.0.2.7")).is_none(), "the network has two");
        assert_eq!(room.metrics.refused.get(), 1);
        assert!(room.share(ip("198.51.100.1")).is_some(), "another network has none");
        drop(shares);
        assert!(room.share(ip("192.0.2.7")).is_some());
        assert!(room.held.lock().is_empty(), "who has no connection is not remembered");
        let proxied: Vec<_> = (0..9).map(|_| room.share(ip("10.1.2.3"))).collect();
        assert!(proxied.iter().all(Option::is_some), "proxies have no share");
    }

    #[test]
    fn proxies_that_are_trusted_later_are_proxies_from_then_on() {
        let room = room(10, 1);
        let _held = room.share(ip("192.0.2.1")).unwrap();
        assert!(room.share(ip("192.0.2.1")).is_none());
        let proxies = vec!["192.0.2.0/24".parse().unwrap()];
        room.trusted.replace(TrustedProxies::new(proxies, ForwardedField::default()));
        assert!(room.share(ip("192.0.2.1")).is_some());
    }

    /// Of three connections the one that has rested longest is closed; the one that is being answered stays, however long
    /// it takes.
    #[tokio::test]
    async fn the_longest_rest_goes_first_and_work_stays() {
        let room = room(3, 100);
        let mut tasks = Vec::new();
        for rested in [Some(5), None, Some(9)] {
            let progress = Arc::new(Progress::resting(rested.map(Duration::from_secs)));
            let seat = room.seat(room.share(ip("192.0.2.1")).unwrap(), room.try_permit(), progress);
            let id = seat.id();
            let task = tokio::spawn(async move {
                let _seat = seat;
                std::future::pending::<()>().await;
            });
            room.may_close(id, Handle::current(), task.abort_handle());
            tasks.push(task);
        }
        assert!(room.try_permit().is_none(), "it is full");
        for closed in [2, 0] {
            let permit = tokio::time::timeout(Duration::from_secs(20), room.permit()).await.unwrap();
            assert!((&mut tasks[closed]).await.unwrap_err().is_cancelled());
            permit.forget();
        }
        assert!(!tasks[1].is_finished());
        assert_eq!(room.ended.ended.with_label_values(&["shed"]).get(), 2);
        // Where all are busy, the next one waits until one ends.
        let waiting = Arc::clone(&room);
        let waiting = tokio::spawn(async move { waiting.permit().await });
        tasks[1].abort();
        assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().is_ok());
    }

    /// Its thread looks later than others look for room again.
    #[tokio::test]
    async fn a_connection_is_closed_once_however_often_room_is_looked_for() {
        let room = room(1, 1);
        let progress = Arc::new(Progress::resting(Some(Duration::from_secs(5))));
        let seat = room.seat(room.share(ip("192.0.2.1")).unwrap(), room.try_permit(), Arc::clone(&progress));
        let id = seat.id();
        let task = tokio::spawn(async move {
            let _seat = seat;
            std::future::pending::<()>().await;
        });
        room.may_close(id, Handle::current(), task.abort_handle());
        // On one thread nothing else runs between these.
        let busy = progress.enter();
        (0..3).for_each(|_| room.shard(id).lock()[&id].close(room.ended.clone()));
        while !room.shard(id).lock()[&id].is_closable() {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished(), "it was asked something before its thread looked");
        drop(busy);
        (0..3).for_each(|_| room.shed());
        assert!(task.await.unwrap_err().is_cancelled());
        tokio::task::yield_now().await;
        assert_eq!(room.ended.ended.with_label_values(&["shed"]).get(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_keeps_no_seat() {
        let room = room(1, 1);
        let progress = Arc::new(Progress::resting(None));
        let seat = room.seat(room.share(ip("192.0.2.1")).unwrap(), room.try_permit(), progress);
        let (id, task) = (seat.id(), tokio::spawn(async move { drop(seat) }));
        let handle = task.abort_handle();
        task.await.unwrap();
        room.may_close(id, Handle::current(), handle);
        assert!(room.shards.iter().all(|shard| shard.lock().is_empty()));
        assert!(room.try_permit().is_some() && room.share(ip("192.0.2.1")).is_some());
    }
}
