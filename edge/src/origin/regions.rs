//! Regions as one origin: which node is asked, which after it, and for how long.
//!
//! Regions are asked nearest first; within one, equal recipes go to the same node as long as it is healthy and not
//! overloaded (see `region`), so that a stampede over many edges meets in one queue. A recipe with a call in flight
//! goes where that call is. A call has one deadline, which travels with it less what has passed; it is tried again on
//! the next node, and then in the next region, while that may help, time is left and the retry budget allows: an
//! origin in trouble must not be asked twice as much. A call on a node that stops answering its probes is given up
//! when there is another to ask.
//!
//! A recipe to which two nodes lost their devices is given to no third (see `endings`), and no call to a third one after two
//! nodes ended under it.
//!
//! A new topology takes effect between two calls: nodes in both keep their health and connections, calls on nodes
//! that are gone end on them.

mod progress;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::limits::DEADLINE_MS_MAX;
use bildkante_shared::log_limited;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use bildkante_shared::trace::TraceContext;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, DedupScope, GenerationReply, GenerationRequest, GenerationSource};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Uri;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::client::NodeClient;
use super::connector::{Connector, NodeTlsError};
use super::endings::{ENDINGS_MAX, Endings};
use super::error::{Ended, OriginError};
use super::health::{Health, NodeState};
use super::images::Images;
use super::metrics::{Operation, OriginMetrics};
use super::region::{Candidacy, LoadBound, Node, Region};
use super::seam::{Made, Order, Origin};
use super::topology::{Topology, TopologyError};
use super::{OriginConfig, OriginConfigError};
use crate::cache::MasterFile;

/// With less time left a second try cannot end well.
const RETRY_TIME_MIN: Duration = Duration::from_millis(20);
/// Calls one question may cost: the node, its neighbour, the next region.
const ATTEMPTS_MAX: usize = 3;
/// Retries per call over time, and how many may come at once.
const RETRY_SHARE: f64 = 0.2;
const RETRY_BURST: f64 = 10.0;

/// Why the origin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegionsError {
    #[error(transparent)]
    Config(#[from] OriginConfigError),
    #[error("`origin.topology_file`: {0}")]
    Topology(#[from] TopologyError),
    #[error("`origin.tls`: {0}")]
    Tls(#[from] NodeTlsError),
    #[error("the reading task panicked")]
    Panicked,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Regions {
    current: ArcSwap<Vec<Region>>,
    /// What is served now; one change at a time.
    topology: Mutex<Topology>,
    config: OriginConfig,
    connector: Connector,
    bound: LoadBound,
    retries: RetryBudget,
    /// Where recipes are being drawn for this edge.
    drawing: Mutex<HashMap<RecipeId, Arc<Node>>>,
    /// Recipes over which nodes ended.
    endings: Endings,
    /// What nodes may lack and is here.
    images: Images,
    metrics: OriginMetrics,
    /// Counts probes, so that a caller can wait for health without polling.
    probed: watch::Sender<u64>,
    /// Counts topologies, so that probes follow them.
    changed: watch::Sender<u64>,
}

/// A node as a preview or a readiness answer shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub region: String,
    /// Host and port.
    pub name: String,
    pub state: NodeState,
}

impl Origin<ValidRecipe> for Regions {
    fn make<'a>(&'a self, recipe: &'a ValidRecipe, order: Order<'a>) -> BoxFuture<'a, Result<Made, OriginError>> {
        let Order { dedup, urgency, deadline, trace } = order;
        async move { Ok(made(self.generate(recipe, dedup, urgency, deadline, trace).await?)) }.boxed()
    }

    fn master<'a>(
        &'a self,
        id: MasterId,
        recipe: &'a ValidRecipe,
        order: Order<'a>,
    ) -> BoxFuture<'a, Result<MasterFile, OriginError>> {
        async move { self.master(id, recipe.id(), order.deadline, order.trace).await }.boxed()
    }
}

/// Longest determinism class that is kept.
const DETERMINISM_BYTES_MAX: usize = 512;

/// What a node's reply says, in the words of the edge.
fn made(reply: GenerationReply) -> Made {
    let is_drawn = reply.source == GenerationSource::Generated;
    Made {
        master: reply.master.id,
        width_px: reply.master.width_px,
        height_px: reply.master.height_px,
        phash: reply.master.phash,
        duplicate: reply.duplicate,
        drawn_unix_s: reply.master.created_unix_ms.map(|ms| ms / 1000),
        determinism: Some(reply.determinism.class).filter(|class| class.len() <= DETERMINISM_BYTES_MAX),
        // A node that names no sensible time names none.
        device_ms: Some(reply.gpu_ms).filter(|ms| is_drawn && ms.is_finite() && *ms > 0.0),
        maker: reply.node,
        source: reply.source,
    }
}

/// A node that may be asked, and where it is.
#[derive(Debug, Clone)]
struct Candidate {
    node: Arc<Node>,
    region: Arc<str>,
}

impl Regions {
    /// Opens no connection yet. Reads the topology file and certificates where there are any.
    ///
    /// # Errors
    /// When the configuration cannot be right or a file cannot be used.
    pub fn new(config: &OriginConfig, metrics: OriginMetrics) -> Result<Self, RegionsError> {
        config.check()?;
        let connector = Connector::new(Duration::from_millis(config.connect_timeout_ms), config.tls.clone())?;
        let topology = read_topology(config)?;
        let bound = LoadBound {
            percent: usize::try_from(config.load_bound_percent).unwrap_or(usize::MAX),
            calls_min: usize::try_from(config.load_bound_calls_min).unwrap_or(usize::MAX),
        };
        let regions = Self {
            current: ArcSwap::default(),
            topology: Mutex::new(topology.clone()),
            config: config.clone(),
            connector,
            bound,
            retries: RetryBudget::new(),
            drawing: Mutex::default(),
            endings: Endings::default(),
            images: Images::default(),
            metrics,
            probed: watch::Sender::new(0),
            changed: watch::Sender::new(0),
        };
        regions.current.store(Arc::new(regions.build(&topology)));
        Ok(regions)
    }

    /// Hands images of a folder to nodes that lack one.
    #[must_use]
    pub fn lending(self, images: Images) -> Self {
        Self { images, ..self }
    }

    /// The regions of a topology, with the nodes that are there already.
    fn build(&self, topology: &Topology) -> Vec<Region> {
        let present = self.current.load();
        let node = |uri: &Uri| {
            let mut nodes = present.iter().flat_map(|region| &region.nodes);
            nodes.find(|node| node.client.base() == uri).map_or_else(|| Arc::new(self.node(uri)), Arc::clone)
        };
        let region = |plan: &super::topology::RegionPlan| Region {
            name: plan.name.as_str().into(),
            nodes: plan.nodes.iter().map(node).collect(),
        };
        topology.regions.iter().map(region).collect()
    }

    fn node(&self, uri: &Uri) -> Node {
        let client = NodeClient::new(uri.clone(), self.connector.clone());
        let gauge = self.metrics.node_gauge(&client.name);
        let pause = Duration::from_millis(self.config.probe_interval_ms);
        let health = Health::new(client.name.clone(), self.config.failures_max, pause, gauge);
        Node::new(client, health)
    }

    /// Serves another topology from the next call on. Whether it is another.
    pub fn apply(&self, topology: Topology) -> bool {
        let mut current = self.topology.lock();
        if *current == topology {
            return false;
        }
        let regions = self.build(&topology);
        for node in self.nodes() {
            let stays = regions.iter().flat_map(|region| &region.nodes).any(|kept| Arc::ptr_eq(kept, &node));
            if !stays {
                self.metrics.forget_node(&node.client.name);
            }
        }
        let counts: Vec<_> = regions.iter().map(|region| (Arc::clone(&region.name), region.nodes.len())).collect();
        tracing::info!(regions = ?counts, "topology in force");
        *current = topology;
        self.current.store(Arc::new(regions));
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// Reads certificates and the topology file again; what cannot be read leaves the old in place.
    ///
    /// # Errors
    /// Names what cannot be used.
    pub async fn reload(self: &Arc<Self>) -> Result<bool, RegionsError> {
        let regions = Arc::clone(self);
        let read = move || {
            regions.connector.reload()?;
            regions.config.topology_file.is_some().then(|| read_topology(&regions.config)).transpose()
        };
        let topology = tokio::task::spawn_blocking(read).await.map_err(|_| RegionsError::Panicked)??;
        Ok(topology.is_some_and(|topology| self.apply(topology)))
    }

    /// Follows the topology file until `shutdown`; without one there is nothing to follow.
    pub fn spawn_watch(self: &Arc<Self>, shutdown: Shutdown) -> JoinHandle<()> {
        let regions = Arc::clone(self);
        tokio::spawn(async move {
            let Some(path) = regions.config.topology_file.clone() else { return };
            let mut ticks = Ticks::every(Duration::from_millis(regions.config.topology_reload_ms), shutdown);
            // A broken file is reported once, not at every look.
            let mut complaint = String::new();
            while ticks.next().await.is_some() {
                complaint = match regions.follow(path.clone()).await {
                    Ok(()) => String::new(),
                    Err(error) if error.to_string() == complaint => complaint,
                    Err(error) => {
                        tracing::error!(%error, "topology refused, the last one serves on");
                        error.to_string()
                    }
                };
            }
        })
    }

    async fn follow(&self, path: PathBuf) -> Result<(), RegionsError> {
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || Topology::of_file(&path, &config));
        self.apply(read.await.map_err(|_| RegionsError::Panicked)??);
        Ok(())
    }

    /// Asks for a recipe's master and waits at most `deadline`.
    ///
    /// # Errors
    /// What kept the nodes that were asked from answering.
    pub async fn generate(
        &self,
        recipe: &ValidRecipe,
        dedup: Option<DedupScope>,
        urgency: Urgency,
        deadline: Duration,
        trace: &TraceContext,
    ) -> Result<GenerationReply, OriginError> {
        let deadline = Instant::now() + deadline.min(Duration::from_millis(DEADLINE_MS_MAX));
        let endings = self.endings.of(recipe.id(), std::time::Instant::now());
        if endings >= ENDINGS_MAX {
            return Err(OriginError::EndsDevices { endings });
        }
        let dedup = &dedup;
        let call = move |node: &Node| {
            let client = node.client.clone();
            let request = GenerationRequest {
                recipe: (**recipe).clone(),
                urgency,
                deadline_ms: millis_until(deadline),
                dedup: dedup.clone(),
            };
            let is_to_be_alone = self.endings.is_suspect(recipe.id(), std::time::Instant::now());
            let images = &self.images;
            async move {
                let reply = client.generate(recipe, &request, is_to_be_alone, images, trace).await;
                self.counted(recipe.id(), reply)
            }
        };
        let mut candidates = self.candidates(recipe.id().as_bytes());
        self.join_own(recipe.id(), &mut candidates);
        let drawing = Drawing::enter(&self.drawing, recipe.id(), candidates.first());
        let reply = self.with_failover(Operation::Generate, candidates, deadline, call).await;
        drop(drawing);
        reply
    }

    /// Counts nodes that say they ended over a recipe: the last one's end is the recipe's.
    fn counted(
        &self,
        recipe: RecipeId,
        reply: Result<GenerationReply, OriginError>,
    ) -> Result<GenerationReply, OriginError> {
        match &reply {
            Ok(_) => self.endings.forget(recipe),
            Err(error @ OriginError::Ended { how: Ended::InCompany, .. }) => {
                log_limited!(error, %recipe, %error, "a node ended over a recipe or its company: it is drawn alone next");
                self.endings.suspect(recipe, std::time::Instant::now());
            }
            Err(error @ OriginError::Ended { how: Ended::Alone, .. }) => {
                let endings = self.endings.add(recipe, std::time::Instant::now());
                tracing::error!(%recipe, %error, endings, "a node ended over a recipe");
                if endings >= ENDINGS_MAX {
                    return Err(OriginError::EndsDevices { endings });
                }
            }
            Err(_) => {}
        }
        reply
    }

    /// A call for a recipe that is being drawn joins it there, however loaded that node is.
    fn join_own(&self, recipe: RecipeId, candidates: &mut [Candidate]) {
        let Some(node) = self.drawing.lock().get(&recipe).cloned() else { return };
        if let Some(place) = candidates.iter().position(|candidate| Arc::ptr_eq(&candidate.node, &node)) {
            candidates[..=place].rotate_right(1);
        }
    }

    /// Fetches a master. `recipe` is the one it was bound to: the node that drew it is asked first, and those
    /// after it in the same order, since nodes may have come and gone. What comes is yet to be verified.
    ///
    /// # Errors
    /// `MasterAbsent` when every healthy node was asked and none has it.
    pub async fn master(
        &self,
        id: MasterId,
        recipe: RecipeId,
        deadline: Duration,
        trace: &TraceContext,
    ) -> Result<MasterFile, OriginError> {
        let deadline = Instant::now() + deadline;
        let candidates = self.candidates(recipe.as_bytes());
        if candidates.is_empty() {
            return Err(OriginError::NoHealthyNode);
        }
        let mut failure = None;
        for Candidate { node, .. } in candidates {
            match self.call(Operation::Master, &node, deadline, node.client.master(id, trace)).await {
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
    /// What kept the nodes that were asked from answering.
    pub async fn checkpoints(&self, deadline: Duration) -> Result<Vec<CheckpointInfo>, OriginError> {
        let deadline = Instant::now() + deadline;
        let call = |node: &Node| {
            let client = node.client.clone();
            async move { client.checkpoints().await }
        };
        self.with_failover(Operation::Checkpoints, self.candidates(&[0; 16]), deadline, call).await
    }

    /// Whether a node would be asked now and its probe said yes.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.nodes().iter().any(|node| node.health.state().is_healthy())
    }

    /// Brings the metric of [`Self::is_healthy`] up to date.
    pub fn measure(&self) {
        self.metrics.origins_ready.set(self.is_healthy().into());
    }

    /// Waits until a node is healthy; whether one is.
    pub async fn wait_healthy(&self, wait: Duration) -> bool {
        let mut probed = self.probed.subscribe();
        tokio::time::timeout(wait, probed.wait_for(|_| self.is_healthy())).await.is_ok()
    }

    #[must_use]
    pub fn statuses(&self) -> Vec<NodeStatus> {
        let regions = self.current.load();
        let nodes = regions.iter().flat_map(|region| region.nodes.iter().map(move |node| (region, node)));
        nodes
            .map(|(region, node)| NodeStatus {
                region: region.name.to_string(),
                name: node.client.name.clone(),
                state: node.health.state(),
            })
            .collect()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.current.load().iter().flat_map(|region| region.nodes.iter().cloned()).collect()
    }

    /// Probes every node of the topology in force, from now until `shutdown`.
    pub fn spawn_probes(self: &Arc<Self>, shutdown: &Shutdown) -> JoinHandle<()> {
        tokio::spawn(Arc::clone(self).probe_all(shutdown.clone()))
    }

    async fn probe_all(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut changed = self.changed.subscribe();
        let mut probes = JoinSet::new();
        let mut running: HashMap<Uri, AbortHandle> = HashMap::new();
        loop {
            changed.borrow_and_update();
            let nodes = self.nodes();
            running.retain(|uri, probe| {
                let stays = nodes.iter().any(|node| node.client.base() == uri);
                if !stays {
                    probe.abort();
                }
                stays
            });
            for node in nodes {
                let uri = node.client.base().clone();
                running.entry(uri).or_insert_with(|| probes.spawn(Arc::clone(&self).probe(node)));
            }
            tokio::select! {
                () = shutdown.requested() => return,
                _ = changed.changed() => {}
            }
            while probes.try_join_next().is_some() {}
        }
    }

    async fn probe(self: Arc<Self>, node: Arc<Node>) {
        let interval = Duration::from_millis(self.config.probe_interval_ms);
        let timeout = Duration::from_millis(self.config.probe_timeout_ms.into());
        loop {
            if let Some(probe) = node.client.probe(timeout).await {
                node.health.probed(probe);
            }
            self.probed.send_modify(|count| *count += 1);
            let pause = if node.health.state().is_healthy() { interval } else { interval / 4 };
            tokio::time::sleep(pause).await;
        }
    }

    /// The nodes to ask for `id`, best first: the nearest region's nodes, then the next one's. Nodes that were never
    /// probed come last; unhealthy ones not at all.
    fn candidates(&self, id: &[u8; 16]) -> Vec<Candidate> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for region in self.current.load().iter() {
            for (standing, node) in region.order(id, self.bound) {
                let candidates = if standing == Candidacy::Unknown { &mut unknown } else { &mut known };
                candidates.push(Candidate { node, region: Arc::clone(&region.name) });
            }
        }
        known.append(&mut unknown);
        known
    }

    async fn with_failover<T, Fut>(
        &self,
        operation: Operation,
        candidates: Vec<Candidate>,
        deadline: Instant,
        call: impl Fn(&Node) -> Fut,
    ) -> Result<T, OriginError>
    where
        Fut: Future<Output = Result<T, OriginError>>,
    {
        self.retries.deposit();
        let mut candidates = attempts(candidates).into_iter().peekable();
        let mut failure: Option<OriginError> = None;
        let mut ended = 0;
        while let Some(Candidate { node, region }) = candidates.next() {
            if let Some(error) = &failure {
                log_limited!(warn, %error, next = %node.client.name, %region, "trying another node");
                self.metrics.retries.inc();
            }
            let calling = self.call(operation, &node, deadline, call(&node));
            let result = match candidates.peek() {
                // Giving a call up helps only where another node can be asked.
                Some(_) => tokio::select! {
                    result = calling => result,
                    () = node.health.silent() => Err(node.client.gone_silent()),
                },
                None => calling.await,
            };
            let error = match result {
                Ok(value) => {
                    self.metrics.answered(&region);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let in_time = deadline.saturating_duration_since(Instant::now()) >= RETRY_TIME_MIN;
            ended += u32::from(matches!(error, OriginError::Ended { .. }));
            let may_end_another = ended < ENDINGS_MAX;
            let goes_on = error.is_retryable()
                && may_end_another
                && in_time
                && candidates.peek().is_some()
                && self.retries.withdraw();
            // The first error says more than later ones of the same kind.
            let is_final = matches!(
                error,
                OriginError::Refused { .. } | OriginError::DeadlinePassed | OriginError::EndsDevices { .. }
            );
            let worst = failure.take().filter(|_| !is_final).unwrap_or(error);
            if !goes_on {
                return Err(worst);
            }
            failure = Some(worst);
        }
        Err(failure.unwrap_or(OriginError::NoHealthyNode))
    }

    /// One call on one node: its deadline, its time, its outcome, and what that says of the node.
    async fn call<T>(
        &self,
        operation: Operation,
        node: &Arc<Node>,
        deadline: Instant,
        call: impl Future<Output = Result<T, OriginError>>,
    ) -> Result<T, OriginError> {
        let started = Instant::now();
        let _in_flight = node.enter();
        let result = tokio::time::timeout_at(deadline, call).await.unwrap_or(Err(OriginError::DeadlinePassed));
        self.metrics.ended(operation, result.as_ref().err(), started.elapsed());
        match &result {
            Err(OriginError::NotReady { .. } | OriginError::CannotStore { .. }) => node.health.not_ready(),
            Err(error) if error.is_fault_of_node() => node.health.call_failed(),
            Err(error) if !error.is_of_node() => {}
            Ok(_) | Err(_) => node.health.call_succeeded(),
        }
        result
    }
}

/// The node, its neighbour, and the best of the next region: of the rest no more than [`ATTEMPTS_MAX`] are asked.
fn attempts(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let Some(home) = candidates.first().map(|candidate| Arc::clone(&candidate.region)) else { return candidates };
    let (near, far): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.region == home);
    near.into_iter().take(ATTEMPTS_MAX - 1).chain(far).take(ATTEMPTS_MAX).collect()
}

fn read_topology(config: &OriginConfig) -> Result<Topology, RegionsError> {
    match &config.topology_file {
        Some(path) => Ok(Topology::of_file(path, config)?),
        None => Ok(Topology::of_config(config)?),
    }
}

/// A recipe's place in the table of what is being drawn, until it is dropped.
struct Drawing<'a> {
    table: &'a Mutex<HashMap<RecipeId, Arc<Node>>>,
    recipe: RecipeId,
}

impl<'a> Drawing<'a> {
    /// `None` when another call holds the place already.
    fn enter(table: &'a Mutex<HashMap<RecipeId, Arc<Node>>>, recipe: RecipeId, at: Option<&Candidate>) -> Option<Self> {
        let mut drawing = table.lock();
        if drawing.contains_key(&recipe) {
            return None;
        }
        drawing.insert(recipe, Arc::clone(&at?.node));
        Some(Self { table, recipe })
    }
}

impl Drop for Drawing<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.recipe);
    }
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
mod tests;
