//! The nodes of one region, in the order in which a recipe asks them.
//!
//! Highest random weight ("rendezvous") hashing, Thaler and Ravishankar 1998: a node that goes moves only its own
//! share. With bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018: a node that has more than `c` times the
//! mean of the calls in flight is passed over to the next in a recipe's order. Below a floor of calls the bound is
//! off: few calls are always uneven, and edges that pass over different nodes would draw one recipe twice.
//!
//! The loads are this edge's own: what others put on a node shows in its refusals and its health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::NodeClient;
use super::health::{Health, NodeState};

/// One node and what this edge knows of it. It outlives a topology it is no longer in for as long as calls run.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) client: NodeClient,
    pub(super) health: Health,
    /// Keyed hash of its URL: its own order of all ids.
    key: [u8; 32],
    in_flight: AtomicUsize,
}

/// Nodes close to each other.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: Arc<str>,
    pub(super) nodes: Vec<Arc<Node>>,
}

/// When a node has too much to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadBound {
    pub(super) percent: usize,
    pub(super) calls_min: usize,
}

/// Where a call may go, and how good a place that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Candidacy {
    Open,
    /// Over the bound, or half open with its trial under way: better than another region, worse than a neighbour.
    PassedOver,
    /// Never probed.
    Unknown,
}

impl Node {
    pub(super) fn new(client: NodeClient, health: Health) -> Self {
        let key = *blake3::hash(client.base().to_string().as_bytes()).as_bytes();
        Self { client, health, key, in_flight: AtomicUsize::new(0) }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a call until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn score(&self, id: &[u8; 16]) -> u64 {
        let hash = blake3::keyed_hash(&self.key, id);
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A call on a node.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Node>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Region {
    /// Nodes that may be asked for `id`, best first. Unhealthy ones are not among them.
    pub(super) fn order(&self, id: &[u8; 16], bound: LoadBound) -> Vec<(Candidacy, Arc<Node>)> {
        let asked: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.health.state(), node))
            .filter(|(state, _)| *state != NodeState::Unhealthy)
            .collect();
        let known = asked.iter().filter(|(state, _)| state.is_healthy());
        let (nodes, calls) = known.fold((0, 0), |(nodes, calls), (_, node)| (nodes + 1, calls + node.in_flight()));
        // The call that is about to be made counts.
        let mean_share = ((calls + 1) * bound.percent).div_ceil(100 * std::cmp::max(nodes, 1));
        let calls_max = mean_share.max(bound.calls_min);
        let mut order: Vec<_> = asked
            .into_iter()
            .map(|(state, node)| {
                let standing = match state {
                    NodeState::Unknown => Candidacy::Unknown,
                    NodeState::HalfOpen if node.in_flight() > 0 => Candidacy::PassedOver,
                    _ if node.in_flight() >= calls_max => Candidacy::PassedOver,
                    _ => Candidacy::Open,
                };
                (standing, std::cmp::Reverse(node.score(id)), node)
            })
            .collect();
        order.sort_unstable_by_key(|(standing, score, _)| (*standing, *score));
        order.into_iter().map(|(standing, _, node)| (standing, Arc::clone(node))).collect()
    }
}
