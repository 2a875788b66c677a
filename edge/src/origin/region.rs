//! A region: several nodes as one origin.
//!
//! Equal recipes go to the same node as long as it is healthy (rendezvous hashing: a node that goes moves only its
//! own share), so that a stampede over many edges meets in one queue. A call has one deadline, which travels with
//! it less what has passed; it is tried once more, on the next node, if that may help, time is left and the retry
//! budget allows: a region in trouble must not be asked twice as much.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::shutdown::Shutdown;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, DedupScope, GenerationReply, GenerationRequest};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::client::{NodeClient, http_client};
use super::error::OriginError;
use super::health::{Health, NodeState};
use super::metrics::{Operation, OriginMetrics};
use super::{OriginConfig, OriginConfigError};
use crate::cache::MasterFile;

/// With less time left a second try cannot end well.
const RETRY_TIME_MIN: Duration = Duration::from_millis(20);
/// Retries per call over time, and how many may come at once.
const RETRY_SHARE: f64 = 0.2;
const RETRY_BURST: f64 = 10.0;

/// See the module's documentation.
#[derive(Debug)]
pub struct Region {
    nodes: Box<[Node]>,
    retries: RetryBudget,
    metrics: OriginMetrics,
    probe_interval: Duration,
    probe_timeout: Duration,
    /// Counts probes, so that somebody can wait for health without polling.
    probed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Node {
    client: NodeClient,
    health: Health,
    /// Keyed hash of its URL: its own order of all ids.
    key: [u8; 32],
}

/// A node as a preview or a readiness answer shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Host and port.
    pub name: String,
    pub state: NodeState,
}

impl Region {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// When the configuration cannot be right.
    pub fn new(config: &OriginConfig, metrics: OriginMetrics) -> Result<Self, OriginConfigError> {
        config.check()?;
        let http = http_client(Duration::from_millis(config.connect_timeout_ms));
        let node = |uri: http::Uri| {
            let key = *blake3::hash(uri.to_string().as_bytes()).as_bytes();
            let client = NodeClient::new(uri, http.clone());
            let gauge = metrics.node_gauge(&client.name);
            Node { health: Health::new(client.name.clone(), config.failures_max, gauge), client, key }
        };
        Ok(Self {
            nodes: config.node_uris()?.into_iter().map(node).collect(),
            retries: RetryBudget::new(),
            metrics,
            probe_interval: Duration::from_millis(config.probe_interval_ms),
            probe_timeout: Duration::from_millis(config.probe_timeout_ms.into()),
            probed: watch::Sender::new(0),
        })
    }

    /// Asks for a recipe's master and waits at most `deadline`.
    ///
    /// # Errors
    /// Whatever kept every node that was asked from answering.
    pub async fn generate(
        &self,
        recipe: &ValidRecipe,
        dedup: Option<DedupScope>,
        urgency: Urgency,
        deadline: Duration,
    ) -> Result<GenerationReply, OriginError> {
        let deadline = Instant::now() + deadline.min(Duration::from_millis(DEADLINE_MS_MAX));
        let dedup = &dedup;
        let call = move |node: &'_ Node| {
            let client = node.client.clone();
            let request = GenerationRequest {
                recipe: (**recipe).clone(),
                urgency,
                deadline_ms: millis_until(deadline),
                dedup: dedup.clone(),
            };
            async move { client.generate(recipe, &request).await }
        };
        self.with_retry(Operation::Generate, self.order(recipe.id().as_bytes()), deadline, call).await
    }

    /// Fetches a master. `recipe` is the one it was bound to: the node that drew it is asked first, and those
    /// after it in the same order, since nodes may have come and gone. What comes is yet to be verified.
    ///
    /// # Errors
    /// `MasterAbsent` when every healthy node was asked and none has it.
    pub async fn master(&self, id: MasterId, recipe: RecipeId, deadline: Duration) -> Result<MasterFile, OriginError> {
        let deadline = Instant::now() + deadline;
        let nodes = self.order(recipe.as_bytes());
        if nodes.is_empty() {
            return Err(OriginError::NoHealthyNode);
        }
        let mut failure = None;
        for node in nodes {
            match self.call(Operation::Master, node, deadline, node.client.master(id)).await {
                Ok(Some(file)) => return Ok(file),
                Ok(None) => {}
                Err(OriginError::DeadlinePassed) => return Err(OriginError::DeadlinePassed),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // A node that could not answer may be the one that has it.
        Err(failure.unwrap_or(OriginError::MasterAbsent { id }))
    }

    /// The checkpoints of the first node that answers.
    ///
    /// # Errors
    /// Whatever kept every node that was asked from answering.
    pub async fn checkpoints(&self, deadline: Duration) -> Result<Vec<CheckpointInfo>, OriginError> {
        let deadline = Instant::now() + deadline;
        let call = |node: &'_ Node| {
            let client = node.client.clone();
            async move { client.checkpoints().await }
        };
        self.with_retry(Operation::Checkpoints, self.order(&[0; 16]), deadline, call).await
    }

    /// Whether a node would be asked now and its probe said yes.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.nodes.iter().any(|node| node.health.state().is_healthy())
    }

    /// Waits until a node is healthy; whether one is.
    pub async fn wait_healthy(&self, wait: Duration) -> bool {
        let mut probed = self.probed.subscribe();
        tokio::time::timeout(wait, probed.wait_for(|_| self.is_healthy())).await.is_ok()
    }

    #[must_use]
    pub fn statuses(&self) -> Vec<NodeStatus> {
        let status = |node: &Node| NodeStatus { name: node.client.name.clone(), state: node.health.state() };
        self.nodes.iter().map(status).collect()
    }

    /// Probes every node from now until `shutdown`.
    pub fn spawn_probes(self: &Arc<Self>, shutdown: &Shutdown) -> JoinHandle<()> {
        let mut probes = JoinSet::new();
        for index in 0..self.nodes.len() {
            probes.spawn(Arc::clone(self).probe_until(index, shutdown.clone()));
        }
        tokio::spawn(async move { while probes.join_next().await.is_some() {} })
    }

    async fn probe_until(self: Arc<Self>, index: usize, mut shutdown: Shutdown) {
        let node = &self.nodes[index];
        loop {
            node.health.probed(node.client.probe(self.probe_timeout).await);
            self.probed.send_modify(|count| *count += 1);
            let healthy = node.health.state().is_healthy();
            let pause = if healthy { self.probe_interval } else { self.probe_interval / 4 };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Nodes to ask for `id`, best first. Those never probed come last; unhealthy ones not at all.
    fn order(&self, id: &[u8; 16]) -> Vec<&Node> {
        let mut order: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| match node.health.state() {
                NodeState::Healthy | NodeState::HalfOpen => Some((true, score(&node.key, id), node)),
                NodeState::Unknown => Some((false, score(&node.key, id), node)),
                NodeState::Unhealthy => None,
            })
            .collect();
        order.sort_unstable_by_key(|(known, score, _)| std::cmp::Reverse((*known, *score)));
        order.into_iter().map(|(_, _, node)| node).collect()
    }

    async fn with_retry<'a, T, Fut>(
        &self,
        operation: Operation,
        nodes: Vec<&'a Node>,
        deadline: Instant,
        call: impl Fn(&'a Node) -> Fut,
    ) -> Result<T, OriginError>
    where
        Fut: Future<Output = Result<T, OriginError>>,
    {
        self.retries.deposit();
        let mut nodes = nodes.into_iter();
        let first = nodes.next().ok_or(OriginError::NoHealthyNode)?;
        let error = match self.call(operation, first, deadline, call(first)).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let in_time = deadline.saturating_duration_since(Instant::now()) >= RETRY_TIME_MIN;
        let Some(second) = nodes.next().filter(|_| error.is_retryable() && in_time && self.retries.withdraw()) else {
            return Err(error);
        };
        tracing::warn!(%error, next = %second.client.name, "trying another node");
        self.metrics.retries.inc();
        // The first error says more than a second one of the same kind.
        self.call(operation, second, deadline, call(second)).await.map_err(|second| {
            if matches!(second, OriginError::Refused { .. } | OriginError::DeadlinePassed) { second } else { error }
        })
    }

    /// One call on one node: its deadline, its time, its outcome, and what that says of the node.
    async fn call<T>(
        &self,
        operation: Operation,
        node: &Node,
        deadline: Instant,
        call: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        let started = Instant::now();
        let result = tokio::time::timeout_at(deadline, call).await.unwrap_or(Err(OriginError::DeadlinePassed));
        self.metrics.ended(operation, result.as_ref().err(), started.elapsed());
        match &result {
            Err(OriginError::NotReady { .. }) => node.health.not_ready(),
            Err(error) if error.is_fault_of_node() => node.health.call_failed(),
            Err(OriginError::DeadlinePassed) => {}
            Ok(_) | Err(_) => node.health.call_succeeded(),
        }
        result
    }
}

/// Highest random weight (Thaler and Ravishankar 1998).
fn score(node_key: &[u8; 32], id: &[u8; 16]) -> u64 {
    let hash = blake3::keyed_hash(node_key, id);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What a node is told: the time that is left, at least a millisecond.
fn millis_until(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    u64::try_from(left).unwrap_or(u64::MAX).clamp(1, DEADLINE_MS_MAX)
}

/// A token bucket that every call fills a little and every retry empties by one.
#[derive(Debug)]
struct RetryBudget(Mutex<f64>);

impl RetryBudget {
    fn new() -> Self {
        Self(Mutex::new(RETRY_BURST))
    }

    fn deposit(&self) {
        let mut tokens = self.0.lock();
        *tokens = (*tokens + RETRY_SHARE).min(RETRY_BURST);
    }

    fn withdraw(&self) -> bool {
        let mut tokens = self.0.lock();
        let enough = *tokens >= 1.0;
        if enough {
            *tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
