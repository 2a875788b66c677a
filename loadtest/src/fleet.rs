//! Edges and sleeping nodes as processes of their own, in one folder, gone when it is dropped.
//!
//! Edges are real ones on the campaign `studio`; every one has caches of its own. They take free ports and say which on
//! their log, so no port is fixed; a restarted one comes back where it was.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use crate::args::Rendering;
use crate::fetch::{self, Fetched};
use crate::plan::Servers;
use crate::process::{self, Process};

const READY_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What a scenario wants its servers to be.
#[derive(Debug, Clone)]
pub struct FleetSpec {
    pub edges: usize,
    pub nodes: usize,
    /// How long a node sleeps over a picture.
    pub draw: Duration,
    pub at_once: u32,
    /// Lines of the edge's section `[cache]`.
    pub cache_config: String,
    /// Lines of its section `[limits]`.
    pub limits_config: String,
    /// Lines of its section `[campaigns]`.
    pub campaigns_config: String,
    /// Whether the first edge is the primary of a state that the others follow.
    pub is_sharing_state: bool,
}

/// What edges that share a state are asked with. Nobody but this machine can reach them.
pub const TOKEN: &str = "bk_00000000000000000000000000000000000000000000000000000000000000ad";

impl FleetSpec {
    #[must_use]
    pub const fn new(edges: usize, nodes: usize) -> Self {
        Self {
            edges,
            nodes,
            draw: Duration::from_millis(50),
            at_once: 4,
            cache_config: String::new(),
            limits_config: String::new(),
            campaigns_config: String::new(),
            is_sharing_state: false,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Fleet {
    pub edges: Vec<Edge>,
    pub nodes: Vec<Node>,
    folder: PathBuf,
    /// Removes the folder, where it is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

#[derive(Debug)]
pub struct Edge {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    process: Process,
}

#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    process: Process,
}

impl Fleet {
    /// Starts nodes and edges, and waits until each edge says that it is ready.
    ///
    /// # Errors
    /// When one does not start, with what it said last.
    pub async fn start(servers: &Servers, spec: &FleetSpec) -> anyhow::Result<Self> {
        let temporary = match &servers.work_dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("bildkante-load-").tempdir()?),
        };
        let chosen = servers.work_dir.clone();
        let folder = chosen.or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned())).context("a folder")?;
        lay_out_campaign(&servers.config_dir, &folder)?;
        let mut fleet = Self { edges: Vec::new(), nodes: Vec::new(), folder, _temporary: temporary };
        for index in 0..spec.nodes {
            fleet.nodes.push(Node::start(&fleet.folder, index, spec).await?);
        }
        let nodes: Vec<SocketAddr> = fleet.nodes.iter().map(|node| node.address).collect();
        for index in 0..spec.edges {
            let primary = fleet.edges.first().map(|edge| edge.admin).filter(|_| spec.is_sharing_state);
            fleet.edges.push(Edge::start(servers, &fleet.folder, (index, primary), spec, &nodes).await?);
        }
        Ok(fleet)
    }

    /// The URLs of these paths at one edge.
    #[must_use]
    pub fn urls(&self, edge: usize, paths: &[String]) -> Vec<String> {
        paths.iter().map(|path| format!("http://{}{path}", self.edges[edge].http)).collect()
    }

    /// The manifest that the edges serve.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("campaigns/studio.toml")
    }

    /// How many pictures all nodes together have drawn.
    ///
    /// # Errors
    /// When a node does not answer.
    pub async fn generations(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for node in &self.nodes {
            let metrics = fetch::h2(node.address, "/metrics").await?.text();
            let value = metrics.split_whitespace().last().context("a node's metrics")?;
            sum += value.parse::<u64>()?;
        }
        Ok(sum)
    }
}

impl Edge {
    async fn start(
        servers: &Servers,
        folder: &Path,
        (index, primary): (usize, Option<SocketAddr>),
        spec: &FleetSpec,
        nodes: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let own = folder.join(format!("edge-{index}"));
        std::fs::create_dir_all(&own)?;
        let config = own.join("edge.toml");
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sharing = if spec.is_sharing_state { state_config(&own, primary)? } else { String::new() };
        let text = |http, admin| edge_config(folder, &own, (spec, servers.rendering), nodes, http, admin) + &sharing;
        std::fs::write(&config, text(local, local))?;
        let arguments = ["serve", "--config", &config.display().to_string()].map(str::to_owned).into();
        let log = own.join("edge.log");
        let mut process = Process::new(servers.edge.clone(), arguments, log);
        process.start()?;
        let (http, admin) = process.told(addresses_of).await?;
        // Where it is restarted, it takes the same ports.
        std::fs::write(&config, text(http, admin))?;
        let edge = Self { http, admin, process };
        edge.ready().await?;
        Ok(edge)
    }

    /// Waits until it answers for the campaign, with a node behind it.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = fetch::http1(self.admin, "/readyz?origins=1").await;
            if answer.as_ref().is_ok_and(|answer| answer.status.is_success()) {
                return Ok(());
            }
            anyhow::ensure!(
                started.elapsed() < READY_MAX,
                "the edge is not ready: {:?}\n{}",
                answer,
                self.process.tail()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM, and until it is gone.
    ///
    /// # Errors
    /// When it does not end in time, or ends with an error.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        self.ready().await
    }

    /// Resident memory now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.process.id()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Processor time it has taken so far, of all its threads.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(&self.process.id()?.to_string())
    }

    /// One answer to a path.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, path: &str) -> anyhow::Result<Fetched> {
        fetch::http1(self.http, path).await
    }
}

impl Node {
    async fn start(folder: &Path, index: usize, spec: &FleetSpec) -> anyhow::Result<Self> {
        let log = folder.join(format!("node-{index}.log"));
        let mut process = Process::new(std::env::current_exe()?, node_arguments(spec, None), log);
        process.start()?;
        let address =
            process.told(|text| text.lines().find_map(|line| line.strip_prefix("listening on ")?.parse().ok()));
        let address = address.await?;
        process.set_arguments(node_arguments(spec, Some(address)));
        Ok(Self { address, process })
    }

    /// SIGKILL: no farewell.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Starts it again where it was, with nothing in memory.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let started = Instant::now();
        while fetch::h2(self.address, "/readyz").await.is_err() {
            anyhow::ensure!(started.elapsed() < READY_MAX, "the node is not ready: {}", self.process.tail());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// It keeps its connections and answers nothing, until [`Self::go_on`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn hang(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// # Errors
    /// When it does not run.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }
}

fn node_arguments(spec: &FleetSpec, address: Option<SocketAddr>) -> Vec<String> {
    let listen = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
    [
        "node",
        "--listen",
        &listen,
        "--draw-ms",
        &spec.draw.as_millis().to_string(),
        "--at-once",
        &spec.at_once.to_string(),
    ]
    .map(str::to_owned)
    .into()
}

fn edge_config(
    folder: &Path,
    own: &Path,
    (spec, rendering): (&FleetSpec, Rendering),
    nodes: &[SocketAddr],
    http: SocketAddr,
    admin: SocketAddr,
) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| format!("\"http://{node}\"")).collect();
    format!(
        r#"[listen]
http = "{http}"
admin = "{admin}"
[campaigns]
campaigns_dir = "{folder}/campaigns"
prompts_dir = "{folder}/prompts"
{campaigns}
[cache]
disk_dir = "{own}/cache"
{cache}
[limits]
{limits}
[render]
{render}
# One generator stands for readers in many networks: their budgets would be what is measured.
[budget]
campaign_per_minute = 0
network_per_minute = 0
campaign_render_ms_per_minute = 0
network_render_ms_per_minute = 0
[origin]
nodes = [{nodes}]
[log]
format = "json"
filter = "info"
"#,
        folder = folder.display(),
        own = own.display(),
        nodes = nodes.join(", "),
        cache = spec.cache_config,
        limits = spec.limits_config,
        render = render_config(rendering),
        campaigns = spec.campaigns_config,
    )
}

/// Tokens, and whom to follow.
fn state_config(own: &Path, primary: Option<SocketAddr>) -> anyhow::Result<String> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let hash = blake3::hash(TOKEN.as_bytes()).to_hex();
    let mut text = format!(
        "[admin]\ntokens = [{{ name = \"bench\", hash = \"blake3:{hash}\", scopes = [\"read\", \"kill\", \"state\"] }}]\n"
    );
    if let Some(primary) = primary {
        let token = own.join("state.token");
        let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&token)?;
        std::io::Write::write_all(&mut file, TOKEN.as_bytes())?;
        text += &format!("[state.follow]\nprimary = \"http://{primary}\"\ntoken_file = {token:?}\n");
    }
    Ok(text)
}

const fn render_config(rendering: Rendering) -> &'static str {
    match rendering {
        // The nodes sleep, so an edge has its machine to itself.
        Rendering::Idle => "scheduling = \"idle\"",
        Rendering::Equal => "scheduling = \"normal\"\nnice = 0",
    }
}

/// Public and admin address from the line in which an edge says that it serves.
fn addresses_of(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|line| {
        let fields = line.get("fields")?;
        let address = |name| fields.get(name)?.as_str()?.parse().ok();
        (fields.get("message")?.as_str()? == "edge serves").then_some((address("http")?, address("admin")?))
    })
}

/// The campaign as it is shipped, except that heroes do not wait: what a scenario asks of a page's LCP.
fn lay_out_campaign(config_dir: &Path, folder: &Path) -> anyhow::Result<()> {
    const WAITS: &str = r#"on_miss       = { policy = "wait", wait_ms = 20000, then = "fallback" }"#;
    for kind in ["campaigns", "prompts"] {
        copy_folder(&config_dir.join(kind), &folder.join(kind))?;
    }
    let manifest = folder.join("campaigns/studio.toml");
    let text = std::fs::read_to_string(&manifest).context("the campaign `studio`")?;
    anyhow::ensure!(text.contains(WAITS), "the hero slot of `studio` is not as this scenario knows it");
    std::fs::write(&manifest, text.replace(WAITS, r#"on_miss = { policy = "fallback" }"#))?;
    Ok(())
}

/// A folder with all that lies in it: campaigns have files of layers, images and originals beside them.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let into = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &into)?;
        } else {
            std::fs::copy(entry.path(), into)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_says_where_it_serves() {
        let log = r#"not json
{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","fields":{"message":"edge serves","http":"127.0.0.1:41","https":"None","admin":"127.0.0.1:42"},"target":"x"}"#;
        let found = addresses_of(log).expect("found");
        assert_eq!((found.0.port(), found.1.port()), (41, 42));
        assert!(addresses_of("").is_none());
    }

    #[test]
    fn the_shipped_campaign_is_as_scenarios_know_it() {
        let folder = tempfile::tempdir().expect("a folder");
        lay_out_campaign(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../config"), folder.path()).expect("laid out");
        let text = std::fs::read_to_string(folder.path().join("campaigns/studio.toml")).expect("read");
        assert_eq!(text.matches("policy = \"fallback\"").count(), 1);
    }
}
