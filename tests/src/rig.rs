//! An edge with a node behind it, in this process, on ports of their own and in a folder of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bildkante_edge::app::{Edge, Sockets};
use bildkante_edge::config::Config;
use bildkante_edge::listener::tls::TlsConfig;
use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::engine::EngineFactory;
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, paint_alike, paint_noise};
use bildkante_gpu_node::worker::torch_engine;
use bildkante_gpu_node::{Node, RunningNode};
use bildkante_shared::checkpoint;
use bildkante_shared::testing::ReservedPort;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::client::{Http, eventually};
use crate::repository;

/// The machine's cores, for one test at a time: two libtorch engines at once slow each other down tenfold (OpenMP spins).
static DEVICE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits for the turn to use libtorch.
pub async fn torch() -> tokio::sync::MutexGuard<'static, ()> {
    DEVICE.lock().await
}

/// What draws.
#[derive(Debug, Clone)]
pub enum Painter {
    /// The built-in checkpoint in libtorch.
    Torch,
    /// Noise, at a gate the test holds.
    Fake(Arc<FakeControl>),
    /// The same scene for all, with a grain that no eye can see.
    Alike,
}

/// What a test changes before the servers start.
#[derive(Debug)]
pub struct Plan {
    pub painter: Painter,
    /// Text of `studio.toml` → text of the manifest that is served.
    pub manifest: fn(String) -> String,
    pub node: fn(&mut NodeConfig),
    pub edge: fn(&mut Config),
    pub tls: Tls,
}

/// Whether the edge has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Off,
    /// Self-signed for `localhost`, made for this test.
    On,
}

impl Plan {
    /// The demo campaign as it is shipped, drawn by the built-in checkpoint.
    #[must_use]
    pub fn shipped() -> Self {
        Self { painter: Painter::Torch, manifest: |text| text, node: |_| {}, edge: |_| {}, tls: Tls::Off }
    }

    /// The demo campaign painted by a fake engine.
    #[must_use]
    pub fn painted(control: &Arc<FakeControl>) -> Self {
        Self { painter: Painter::Fake(Arc::clone(control)), ..Self::shipped() }
    }
}

/// A change of the edge's configuration.
struct Change(Box<dyn Fn(&mut Config) + Send + Sync>);

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change")
    }
}

/// The servers and their folder.
#[derive(Debug)]
pub struct Rig {
    pub dir: TempDir,
    pub http: Http,
    plan: Plan,
    /// Kept for the node while it is stopped: no other process gets the port.
    node_port: ReservedPort,
    node: Option<RunningNode>,
    edge: Option<Edge>,
    /// What a test changes of the configuration behind its plan.
    change: Change,
    /// Held while a real engine runs.
    _device: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Rig {
    /// Starts both and waits until the edge says that it is ready.
    ///
    /// # Errors
    /// When one does not start or is not ready in time.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        lay_out_campaigns(dir.path(), plan.manifest)?;
        let node_port = ReservedPort::new()?;
        let device = match plan.painter {
            Painter::Torch => Some(torch().await),
            Painter::Fake(_) | Painter::Alike => None,
        };
        let http = Http::default();
        let mut rig = Self {
            dir,
            http,
            plan,
            node_port,
            node: None,
            edge: None,
            change: Change(Box::new(|_| {})),
            _device: device,
        };
        rig.start_node().await?;
        rig.start_edge().await?;
        rig.ready().await?;
        Ok(rig)
    }

    /// Starts the node, on the port it had before if it had one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_node(&mut self) -> anyhow::Result<()> {
        let listener = std::net::TcpListener::bind(self.node()).context("the node's port")?;
        let mut config = NodeConfig {
            data_dir: self.dir.path().join("node"),
            models_dir: repository().join("gpu-node/models"),
            threads: 1,
            ..NodeConfig::default()
        };
        (self.plan.node)(&mut config);
        let engine = self.engine(&config)?;
        self.node = Some(Node::start(config, listener, engine).await?);
        Ok(())
    }

    fn engine(&self, config: &NodeConfig) -> anyhow::Result<EngineFactory> {
        Ok(match &self.plan.painter {
            Painter::Torch => torch_engine(config),
            Painter::Fake(control) => {
                let studio_tiny = checkpoint::digest(&config.models_dir.join("studio-tiny"))?;
                FakeEngine::factory_for(control, paint_noise, studio_tiny)
            }
            Painter::Alike => {
                let studio_tiny = checkpoint::digest(&config.models_dir.join("studio-tiny"))?;
                FakeEngine::factory_for(&Arc::default(), paint_alike, studio_tiny)
            }
        })
    }

    /// The edge is started with this change from now on.
    pub fn reconfigure(&mut self, change: impl Fn(&mut Config) + Send + Sync + 'static) {
        self.change = Change(Box::new(change));
    }

    /// Starts the edge on new ports over the folder it had before.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_edge(&mut self) -> anyhow::Result<()> {
        let (http, https, admin) = (ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?);
        let mut config = self.edge_config("edge", http.address());
        if self.plan.tls == Tls::On {
            config.listen.tls = Some(self.certificate()?);
        }
        (self.plan.edge)(&mut config);
        (self.change.0)(&mut config);
        let listen = async |port: &ReservedPort| TcpListener::bind(port.address()).await;
        let mut started = None;
        // What an edge that has stopped still has under way holds its databases until it is through.
        eventually("the databases are free", async || {
            let https = if config.listen.tls.is_some() { vec![listen(&https).await?] } else { Vec::new() };
            let sockets = Sockets { http: vec![listen(&http).await?], https, admin: vec![listen(&admin).await?] };
            match Edge::start(config.clone(), sockets).await {
                Ok(edge) => started = Some(edge),
                Err(error) if format!("{error:#}").contains("already open") => return Ok(false),
                Err(error) => return Err(error),
            }
            Ok(true)
        })
        .await?;
        self.edge = started;
        Ok(())
    }

    /// What every edge of the rig begins with.
    fn edge_config(&self, name: &str, address: SocketAddr) -> Config {
        let mut config = Config::default();
        config.serve.public_url = format!("http://{address}");
        config.campaigns.campaigns_dir = self.dir.path().join("campaigns");
        config.campaigns.prompts_dir = self.dir.path().join("prompts");
        config.cache.disk_dir = self.dir.path().join(name);
        config.origin.nodes = vec![format!("http://{}", self.node())];
        config.origin.probe_interval_ms = 100;
        // Tests share their machine with compilers: threads of a lower priority would come last, and encoders that are
        // not optimised would have the pool refuse what a real machine renders.
        config.render.nice = 0;
        config.render.queue_delay_target_ms = 3_600_000;
        config
    }

    /// Another edge with the same campaigns and node and a folder of its own, as `change` leaves its configuration.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn another_edge(&self, name: &str, change: impl FnOnce(&mut Config)) -> anyhow::Result<Edge> {
        let local = async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let sockets = Sockets { http: vec![local().await?], https: Vec::new(), admin: vec![local().await?] };
        self.another_edge_on(sockets, name, change).await
    }

    /// The same on sockets of the test's.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn another_edge_on(
        &self,
        sockets: Sockets,
        name: &str,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Edge> {
        let mut config = self.edge_config(name, sockets.http[0].local_addr()?);
        (self.plan.edge)(&mut config);
        change(&mut config);
        Edge::start(config, sockets).await
    }

    /// Another painting node with a folder of its own, as `change` leaves its configuration.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn another_node(
        &self,
        name: &str,
        control: &Arc<FakeControl>,
        change: impl FnOnce(&mut NodeConfig),
    ) -> anyhow::Result<RunningNode> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut config = NodeConfig {
            data_dir: self.dir.path().join(name),
            models_dir: repository().join("gpu-node/models"),
            threads: 1,
            ..NodeConfig::default()
        };
        change(&mut config);
        let studio_tiny = checkpoint::digest(&config.models_dir.join("studio-tiny"))?;
        let engine = FakeEngine::factory_for(control, paint_noise, studio_tiny);
        Ok(Node::start(config, listener, engine).await?)
    }

    /// Waits until so many nodes of an edge are healthy.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn healthy_nodes(&self, edge: &Edge, count: usize) -> anyhow::Result<()> {
        let (http, admin) = (self.http.clone(), edge.admin);
        eventually("the edge's nodes are as healthy as they should be", async || {
            let readiness = http.get(admin, "/readyz", &[]).await?.json()?;
            let nodes = readiness["nodes"].as_array().cloned().unwrap_or_default();
            let healthy = nodes.iter().filter(|node| matches!(node["state"].as_str(), Some("healthy" | "half-open")));
            Ok(healthy.count() == count)
        })
        .await
    }

    fn certificate(&self) -> anyhow::Result<TlsConfig> {
        let (certificate, key) = (self.dir.path().join("edge.pem"), self.dir.path().join("edge.key"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        std::fs::write(&certificate, made.cert.pem())?;
        bildkante_shared::testing::write_secret(&key, made.signing_key.serialize_pem())?;
        Ok(TlsConfig::new(certificate, key))
    }

    /// Waits until the edge's node can draw.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let (http, admin) = (self.http.clone(), self.admin());
        eventually("a node is healthy", async || {
            let readiness = http.get(admin, "/readyz", &[]).await?.json()?;
            Ok(readiness["nodes"][0]["state"] == "healthy")
        })
        .await
    }

    /// Stops the node in order.
    pub async fn stop_node(&mut self) {
        if let Some(node) = self.node.take() {
            node.shut_down().await;
        }
    }

    /// Stops the edge in order.
    pub async fn stop_edge(&mut self) {
        if let Some(edge) = self.edge.take() {
            edge.shut_down().await;
        }
    }

    /// Stops everything.
    pub async fn stop(mut self) {
        self.stop_edge().await;
        self.stop_node().await;
    }

    /// The public listener.
    ///
    /// # Panics
    /// When the edge is stopped: a mistake of the test.
    #[must_use]
    pub fn public(&self) -> SocketAddr {
        self.edge.as_ref().map(|edge| edge.http).expect("the edge runs")
    }

    /// The TLS listener and its certificate.
    ///
    /// # Errors
    /// When the edge has none.
    pub fn https(&self) -> anyhow::Result<(SocketAddr, PathBuf)> {
        let address = self.edge.as_ref().and_then(|edge| edge.https).context("the edge has no TLS")?;
        Ok((address, self.dir.path().join("edge.pem")))
    }

    /// The admin listener.
    ///
    /// # Panics
    /// As [`Self::public`].
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.edge.as_ref().map(|edge| edge.admin).expect("the edge runs")
    }

    #[must_use]
    pub const fn node(&self) -> SocketAddr {
        self.node_port.address()
    }

    /// Files below one of the edge's folders.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn edge_files(&self, tier: &str) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(&self.dir.path().join("edge").join(tier), &mut files)?;
        Ok(files)
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Copies the shipped libraries and the campaign `studio`, its manifest as `edit` leaves it.
fn lay_out_campaigns(dir: &Path, edit: fn(String) -> String) -> anyhow::Result<()> {
    for folder in ["campaigns", "prompts"] {
        std::fs::create_dir(dir.join(folder))?;
        for entry in std::fs::read_dir(repository().join("config").join(folder))? {
            let path = entry?.path();
            let name = path.file_name().context("a file name")?;
            if folder == "campaigns" && !name.to_string_lossy().starts_with("studio.") {
                continue;
            }
            std::fs::copy(&path, dir.join(folder).join(name))?;
        }
    }
    let manifest = dir.join("campaigns/studio.toml");
    let edited = edit(std::fs::read_to_string(&manifest)?);
    std::fs::write(&manifest, edited)?;
    Ok(())
}
