//! A node for tests: a real HTTP/2 server on a port of its own that answers as it is told.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::{Recipe, ValidRecipe};
use bildkante_shared::testing::ReservedPort;
use bildkante_shared::trace::{REQUEST_ID, TRACEPARENT};
use bildkante_shared::wire::{
    DRAW_ALONE, Determinism, GenerationReply, GenerationRequest, GenerationSource, MasterInfo, Timings,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{OriginConfig, OriginMetrics, Regions};

type TestBody = BoxBody<Bytes, std::convert::Infallible>;
type Answer = Pin<Box<dyn Future<Output = Response<TestBody>> + Send>>;

/// How the node answers; can be changed while it runs.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Ready, and draws every recipe.
    Draw,
    Status(StatusCode, Vec<(&'static str, String)>, Bytes),
    /// Takes the request and never answers.
    Hang,
    /// Ends the connection over a call.
    HangUp,
    /// Sends a 200 and part of a body, then nothing.
    HangInBody,
    /// Sends this many bytes and more of a 200.
    Flood(usize),
}

pub(crate) struct FakeNode {
    pub(crate) address: SocketAddr,
    port: ReservedPort,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    ready: Mutex<StatusCode>,
    probes_hang: AtomicBool,
    calls: AtomicUsize,
    abandoned: Arc<AtomicUsize>,
    deadlines_ms: Mutex<Vec<u64>>,
    asked_alone: AtomicUsize,
    /// Request id and trace of each call but probes.
    traces: Mutex<Vec<(String, String)>>,
}

impl FakeNode {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        Self::start_at(ReservedPort::new().unwrap(), behaviour).await
    }

    /// Where another one was killed.
    pub(crate) async fn start_at(port: ReservedPort, behaviour: Behaviour) -> Self {
        let address = port.address();
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            ready: Mutex::new(StatusCode::OK),
            probes_hang: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            abandoned: Arc::default(),
            deadlines_ms: Mutex::default(),
            asked_alone: AtomicUsize::new(0),
            traces: Mutex::default(),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, port, state, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock() = behaviour;
    }

    /// From now on probes hang as well.
    pub(crate) fn hang_probes(&self) {
        self.state.probes_hang.store(true, Ordering::SeqCst);
    }

    pub(crate) fn ready(&self, status: StatusCode) {
        *self.state.ready.lock() = status;
    }

    /// Calls but probes.
    pub(crate) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn traces(&self) -> Vec<(String, String)> {
        self.state.traces.lock().clone()
    }

    /// Calls that the other side gave up.
    pub(crate) fn abandoned(&self) -> usize {
        self.state.abandoned.load(Ordering::SeqCst)
    }

    /// Calls that ask for a recipe to be drawn alone.
    pub(crate) fn asked_alone(&self) -> usize {
        self.state.asked_alone.load(Ordering::SeqCst)
    }

    pub(crate) fn deadlines_ms(&self) -> Vec<u64> {
        self.state.deadlines_ms.lock().clone()
    }

    /// Cuts every connection and stops listening. No other process gets the port while the caller holds it.
    pub(crate) async fn kill(self) -> ReservedPort {
        self.server.abort();
        let _ = self.server.await;
        self.port
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move {
                    let hangs_up = matches!(*state.behaviour.lock(), Behaviour::HangUp);
                    if hangs_up && request.uri().path() != "/readyz" {
                        state.calls.fetch_add(1, Ordering::SeqCst);
                        return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
                    }
                    Ok(answer(&state, request).await)
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(state: &Arc<State>, request: Request<Incoming>) -> Answer {
    if request.uri().path() == "/readyz" {
        let ready = *state.ready.lock();
        if state.probes_hang.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        return Box::pin(async move { response(ready, Bytes::new()) });
    }
    state.calls.fetch_add(1, Ordering::SeqCst);
    state.asked_alone.fetch_add(usize::from(request.headers().contains_key(DRAW_ALONE)), Ordering::SeqCst);
    let field =
        |name| String::from_utf8_lossy(request.headers().get(name).map_or(b"", |it| it.as_bytes())).into_owned();
    state.traces.lock().push((field(REQUEST_ID), field(TRACEPARENT)));
    match state.behaviour.lock().clone() {
        Behaviour::Draw => draw(Arc::clone(state), request),
        Behaviour::Hang | Behaviour::HangUp => {
            let abandoned = Abandoned(Arc::clone(&state.abandoned));
            Box::pin(async move {
                let _abandoned = abandoned;
                std::future::pending().await
            })
        }
        Behaviour::HangInBody => {
            let abandoned = Abandoned(Arc::clone(&state.abandoned));
            Box::pin(async { Response::new(endless(Bytes::from_static(b"{"), 1, Some(abandoned))) })
        }
        Behaviour::Flood(bytes) => {
            Box::pin(
                async move { Response::new(endless(Bytes::from(vec![b' '; 64 << 10]), bytes / (64 << 10) + 2, None)) },
            )
        }
        Behaviour::Status(status, headers, body) => Box::pin(async move {
            let mut response = response(status, body);
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }),
    }
}

fn draw(state: Arc<State>, request: Request<Incoming>) -> Answer {
    Box::pin(async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let Ok(request) = serde_json::from_slice::<GenerationRequest>(&body) else {
            return response(StatusCode::UNPROCESSABLE_ENTITY, Bytes::new());
        };
        state.deadlines_ms.lock().push(request.deadline_ms);
        let recipe = ValidRecipe::try_from(request.recipe).unwrap();
        response(StatusCode::OK, serde_json::to_vec(&reply(&recipe)).unwrap().into())
    })
}

/// Counts when it is dropped: an answer that hangs ends only by being given up.
struct Abandoned(Arc<AtomicUsize>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// `chunk` so many times, and then neither more nor an end.
fn endless(chunk: Bytes, times: usize, abandoned: Option<Abandoned>) -> TestBody {
    use futures_util::stream::{self, StreamExt};
    let chunks = stream::iter(std::iter::repeat_n(chunk, times)).chain(stream::pending());
    let chunks = chunks.map(move |chunk| {
        let _held_while_streaming = &abandoned;
        chunk
    });
    BodyExt::boxed(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))))
}

fn response(status: StatusCode, body: Bytes) -> Response<TestBody> {
    let mut response = Response::new(Full::new(body).boxed());
    *response.status_mut() = status;
    response
}

pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Bytes {
    Problem::new(status, kind, "title", detail).to_json().into()
}

pub(crate) fn recipe(seed: u32) -> ValidRecipe {
    let recipe = Recipe { seed, ..Recipe::new(Digest::of_bytes(b"checkpoint"), "a teal mug", (192, 128)) };
    ValidRecipe::try_from(recipe).unwrap()
}

pub(crate) fn reply(recipe: &ValidRecipe) -> GenerationReply {
    GenerationReply {
        recipe_id: recipe.id(),
        master: MasterInfo {
            id: MasterId::of_bytes(recipe.id().as_bytes()),
            width_px: recipe.width_px,
            height_px: recipe.height_px,
            phash: PerceptualHash::from_bytes([1; 32]),
            bytes: 1000,
            created_unix_ms: None,
        },
        duplicate: None,
        timings: Timings::default(),
        gpu_ms: 1.0,
        determinism: Determinism { class: "test".into(), device: "cpu".into(), runtime: "none".into() },
        node: "fake".into(),
        source: GenerationSource::Generated,
    }
}

/// An id that no recipe of `recipe` has.
pub(crate) fn other_recipe_id() -> RecipeId {
    RecipeId::of_bytes(b"another recipe")
}

pub(crate) fn region(nodes: &[&FakeNode]) -> (Arc<Regions>, OriginMetrics) {
    region_of(nodes.iter().map(|node| node.url()).collect())
}

pub(crate) fn region_of(nodes: Vec<String>) -> (Arc<Regions>, OriginMetrics) {
    let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
    let config = OriginConfig {
        nodes,
        probe_interval_ms: 20,
        // A busy machine is no slow node.
        probe_timeout_ms: 60_000,
        connect_timeout_ms: 60_000,
        ..OriginConfig::default()
    };
    (Arc::new(Regions::new(&config, metrics.clone()).unwrap()), metrics)
}

/// Long enough for any test to fail by what it looks at and not by the clock.
pub(crate) const LONG: Duration = Duration::from_secs(60);
