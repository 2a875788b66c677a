//! The sleeping node, asked as an edge asks.

use std::net::SocketAddr;
use std::time::Duration;

use bildkante_loadtest::args::NodeArgs;
use bildkante_loadtest::fetch;
use bildkante_loadtest::node::SleepingNode;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::Recipe;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{GenerationReply, GenerationRequest, GenerationSource};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

async fn start(draw: Duration, at_once: u32, queue: u32) -> SocketAddr {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let draw_ms = u64::try_from(draw.as_millis()).expect("short");
    let node = SleepingNode::bind(&NodeArgs { listen, draw_ms, at_once, queue }).await.expect("a free port");
    let address = node.address().expect("bound");
    tokio::spawn(node.serve());
    address
}

fn recipe(seed: u32) -> Recipe {
    Recipe { seed, steps: 2, guidance: 1.0, ..Recipe::new(Digest::of_bytes(b"any"), "a mug", (64, 64)) }
}

async fn generate(node: SocketAddr, seed: u32) -> (StatusCode, Bytes) {
    post(node, recipe(seed)).await
}

async fn post(node: SocketAddr, recipe: Recipe) -> (StatusCode, Bytes) {
    let request = GenerationRequest { recipe, urgency: Urgency::DEFAULT, deadline_ms: 10_000, dedup: None };
    let io = TokioIo::new(TcpStream::connect(node).await.expect("connected"));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(serde_json::to_vec(&request).expect("JSON")));
    let request = Request::post(format!("http://{node}/v1/generations")).body(body).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    (status, response.into_body().collect().await.expect("a body").to_bytes())
}

async fn generations(node: SocketAddr) -> String {
    fetch::h2(node, "/metrics").await.expect("metrics").text().trim().to_owned()
}

#[tokio::test]
async fn equal_recipes_are_drawn_once_and_their_master_can_be_had() {
    let node = start(Duration::from_millis(100), 4, 64).await;
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        asking.spawn(generate(node, 1));
    }
    let replies: Vec<GenerationReply> = asking
        .join_all()
        .await
        .iter()
        .map(|(status, body)| {
            assert_eq!(*status, StatusCode::OK);
            serde_json::from_slice(body).expect("a reply")
        })
        .collect();
    assert!(replies.iter().all(|reply| reply.master == replies[0].master));
    assert_eq!(replies.iter().filter(|reply| reply.source == GenerationSource::Generated).count(), 1);
    assert_eq!(generations(node).await, "bildkante_loadtest_node_generations_total 1");

    let master = fetch::h2(node, &format!("/v1/masters/{}", replies[0].master.id)).await.expect("an answer");
    assert_eq!((master.status, master.body.len() as u64), (StatusCode::OK, replies[0].master.bytes));
    let (_, body) = generate(node, 1).await;
    let again: GenerationReply = serde_json::from_slice(&body).expect("a reply");
    assert_eq!(again.source, GenerationSource::Stored);
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    // A picture that is never finished, and no place to wait.
    let node = start(Duration::from_secs(600), 1, 0).await;
    let drawing = tokio::spawn(generate(node, 1));
    while generations(node).await.ends_with(" 0") {
        tokio::task::yield_now().await;
    }
    let (status, body) = generate(node, 2).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{}", String::from_utf8_lossy(&body));
    drawing.abort();
}

#[tokio::test]
async fn what_is_no_recipe_is_refused() {
    let node = start(Duration::ZERO, 1, 1).await;
    let (status, _) = post(node, Recipe { steps: 0, ..recipe(1) }).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let missing = fetch::h2(node, "/v1/masters/nonsense").await.expect("an answer");
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(fetch::h2(node, "/readyz").await.expect("an answer").status, StatusCode::OK);
}
