//! A real node in process, on port 0, with an engine the test steers; and a plain HTTP client.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod gated;
pub(crate) mod sharing;
pub(crate) mod sick;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use bildkante_gpu_node::config::{Devices, NodeConfig};
use bildkante_gpu_node::engine::EngineFactory;
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::store::database_path;
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, fake_checkpoint, paint_noise};
use bildkante_gpu_node::{Node, RunningNode};
use bildkante_shared::pixels::Pixels;
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{DedupScope, GenerationReply, GenerationRequest};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;

/// A node, what steers its engine, and its data folder.
pub(crate) struct TestNode {
    pub(crate) node: RunningNode,
    pub(crate) control: Arc<FakeControl>,
    pub(crate) data: Arc<TempDir>,
    pub(crate) client: TestClient,
}

/// Where real engines of tests draw: `BILDKANTE_TEST_DEVICE` (`cuda`), else the CPU.
pub(crate) fn device() -> Devices {
    let name = std::env::var("BILDKANTE_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    toml::from_str::<NodeConfig>(&format!("device = {name:?}")).unwrap().device
}

/// How a test wants its node.
pub(crate) struct Wish {
    pub(crate) config: NodeConfig,
    pub(crate) paint: fn(&ValidRecipe) -> Pixels,
    pub(crate) data: Arc<TempDir>,
}

impl Default for Wish {
    fn default() -> Self {
        let data = Arc::new(tempfile::tempdir().unwrap());
        let config = NodeConfig { data_dir: data.path().to_owned(), device: device(), ..NodeConfig::default() };
        Self { config, paint: paint_noise, data }
    }
}

impl Wish {
    pub(crate) fn config(mut self, edit: impl FnOnce(&mut NodeConfig)) -> Self {
        edit(&mut self.config);
        self
    }

    pub(crate) fn paint(mut self, paint: fn(&ValidRecipe) -> Pixels) -> Self {
        self.paint = paint;
        self
    }

    pub(crate) fn on(mut self, data: &Arc<TempDir>) -> Self {
        self.config.data_dir = data.path().to_owned();
        self.data = Arc::clone(data);
        self
    }

    /// Starts a node with the painting engine and waits until it is ready.
    pub(crate) async fn start(self) -> TestNode {
        let control = Arc::new(FakeControl::default());
        let factory = FakeEngine::factory(&control, self.paint);
        let node = self.start_with(factory, control).await;
        assert_eq!(node.node.settled().await, Phase::Ready);
        node
    }

    pub(crate) async fn start_with(self, factory: EngineFactory, control: Arc<FakeControl>) -> TestNode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // A look of the former node at its store may outlast the node by a moment.
        let tables = database_path(&self.config.data_dir);
        let is_free = || !matches!(redb::Database::open(&tables), Err(redb::DatabaseError::DatabaseAlreadyOpen));
        eventually("the store of a former node is free", async || is_free()).await;
        let node = Node::start(self.config, listener, factory).await.unwrap();
        let client = TestClient::new(&format!("http://{}", node.addr()));
        TestNode { node, control, data: self.data, client }
    }
}

impl TestNode {
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = String::from_utf8(self.node.metrics().render()).unwrap();
        let value = text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {line} in\n{text}")).parse().unwrap()
    }

    /// Waits until a metric has this value: a node counts behind its answers.
    pub(crate) async fn counts(&self, line: &str, value: f64) {
        eventually(&format!("{line} is {value}"), async || (self.metric(line) - value).abs() < 1e-9).await;
    }

    /// Master files on disk.
    pub(crate) fn master_files(&self) -> Vec<std::path::PathBuf> {
        files_below(&self.data.path().join("masters"))
    }
}

pub(crate) fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// HTTP/2 with prior knowledge, as the edge speaks; or HTTP/1.1.
#[derive(Clone)]
pub(crate) struct TestClient {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl TestClient {
    /// Of a node that is not [`TestNode`].
    pub(crate) fn to(node: std::net::SocketAddr) -> Self {
        Self::new(&format!("http://{node}"))
    }

    fn new(base: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        Self { base: base.to_owned(), client }
    }

    pub(crate) fn http1(&self) -> Self {
        Self { base: self.base.clone(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Server-sent events, to be read one by one.
    pub(crate) async fn events(&self, path: &str, body: Vec<u8>) -> TestEvents {
        let request = Request::builder().method(Method::POST).uri(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
        let response = self.client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        TestEvents { body: response.into_body(), unread: String::new() }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> TestResponse {
        let response = self.client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        TestResponse { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(Bytes::from(body))).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.call(Method::GET, path, &[], Vec::new()).await
    }

    pub(crate) async fn post(&self, request: &GenerationRequest) -> TestResponse {
        self.post_bytes(serde_json::to_vec(request).unwrap()).await
    }

    pub(crate) async fn post_bytes(&self, body: Vec<u8>) -> TestResponse {
        self.call(Method::POST, "/v1/generations", &[("content-type", "application/json")], body).await
    }
}

/// A stream of server-sent events.
pub(crate) struct TestEvents {
    body: Incoming,
    unread: String,
}

impl TestEvents {
    /// The next one's name and data; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, serde_json::Value)> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let read = event.strip_prefix("event: ").and_then(|event| event.split_once("\ndata: "));
                let read = read.map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()));
                self.unread = rest.to_owned();
                if read.is_some() {
                    return read;
                }
                continue;
            }
            let data = self.body.frame().await?.unwrap().into_data().unwrap();
            self.unread.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

impl TestResponse {
    #[track_caller]
    pub(crate) fn reply(&self) -> GenerationReply {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body of an error, which must be a problem of the response's own status.
    #[track_caller]
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.status);
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        problem
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

pub(crate) fn recipe(prompt: &str) -> Recipe {
    Recipe { seed: 1, steps: 4, ..Recipe::new(fake_checkpoint(), prompt, (64, 64)) }
}

/// A generation that waits long enough for any test.
pub(crate) fn request(prompt: &str) -> GenerationRequest {
    GenerationRequest { recipe: recipe(prompt), urgency: Urgency::DEFAULT, deadline_ms: 60_000, dedup: None }
}

pub(crate) fn request_of(prompt: &str, variant: &str) -> GenerationRequest {
    GenerationRequest { dedup: Some(scope("studio/hero@1", variant)), ..request(prompt) }
}

pub(crate) fn scope(scope: &str, variant: &str) -> DedupScope {
    DedupScope { scope: scope.to_owned(), variant: variant.to_owned() }
}
