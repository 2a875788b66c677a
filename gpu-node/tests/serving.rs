//! The node as an edge meets it: real sockets, a real store, an engine that paints.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use bildkante_gpu_node::Node;
use bildkante_gpu_node::engine::{DrawingId, Engine, EngineError, EngineFactory, Finished, Trial};
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, paint_noise};
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{LoraUse, ValidRecipe};
use bildkante_shared::testing::{eventually, within};
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{CheckpointInfo, GenerationRequest, GenerationSource, GenerationState, GenerationStatus};
use http::Method;
use proptest::prelude::*;
use support::{TestNode, Wish, request, request_of, scope};

fn node_folder(data: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    data.path().join("masters").join(name)
}

fn urgent(prompt: &str, urgency: u8) -> GenerationRequest {
    GenerationRequest { urgency: Urgency::new(urgency).unwrap(), ..request(prompt) }
}

/// Holds the engine on a drawing of its own, so that the next requests are queued.
async fn occupied() -> TestNode {
    let node = Wish::default().start().await;
    occupy(&node).await;
    node
}

async fn occupy(node: &TestNode) {
    node.control.hold();
    let client = node.client.clone();
    tokio::spawn(async move { client.post(&request("occupies the device")).await });
    node.control.entered(1).await;
}

#[tokio::test]
async fn a_recipe_is_drawn_stored_and_served_as_png() {
    let node = Wish::default().start().await;
    let reply = node.client.post(&request("a teal mug")).await.reply();
    assert_eq!(reply.source, GenerationSource::Generated);
    assert_eq!((reply.master.width_px, reply.master.height_px), (64, 64));
    assert_eq!(reply.node, node.node.addr().to_string());
    assert!(reply.gpu_ms > 0.0);

    let path = format!("/v1/masters/{}", reply.master.id);
    let master = node.client.get(&path).await;
    assert_eq!(master.status, 200);
    assert_eq!(master.header("content-type"), "image/png");
    assert_eq!(master.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(master.body.len() as u64, reply.master.bytes);
    let pixels = bildkante_gpu_node::store::decode_png(&master.body).unwrap();
    assert_eq!(pixels.master_id(), reply.master.id);

    let etag = master.header("etag");
    let again = node.client.call(Method::GET, &path, &[("if-none-match", etag)], vec![]).await;
    assert_eq!((again.status.as_u16(), again.body.len(), again.header("etag")), (304, 0, etag));
    for client in [node.client.clone(), node.client.http1()] {
        let head = client.call(Method::HEAD, &path, &[], vec![]).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), master.body.len().to_string());
    }
}

#[tokio::test]
async fn the_same_recipe_is_answered_from_the_store_and_over_http1_too() {
    let node = Wish::default().start().await;
    let first = node.client.post(&request("a teal mug")).await.reply();
    let second = node.client.http1().post(&request("a teal mug")).await.reply();
    assert_eq!(second.source, GenerationSource::Stored);
    assert_eq!((second.master, second.gpu_ms.to_bits()), (first.master, 0));
    assert_eq!(second.determinism, first.determinism);
    assert_eq!(node.control.calls(), 1);
}

#[tokio::test]
async fn a_hundred_callers_of_one_recipe_cause_one_drawing() {
    let node = Wish::default().start().await;
    node.control.hold();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = node.client.clone();
            tokio::spawn(async move { client.post(&request("a teal mug")).await.reply() })
        })
        .collect();
    eventually("all callers wait", async || node.metric("bildkante_node_waiters") == 100.0).await;
    node.control.release();
    let mut sources = Vec::new();
    for call in calls {
        let reply = call.await.unwrap();
        assert_eq!(reply.gpu_ms > 0.0, reply.source == GenerationSource::Generated);
        sources.push(reply.source);
    }
    assert_eq!(node.control.calls(), 1);
    assert_eq!(sources.iter().filter(|source| **source == GenerationSource::Generated).count(), 1);
    assert_eq!(sources.iter().filter(|source| **source == GenerationSource::Joined).count(), 99);
    node.counts("bildkante_node_joined_total", 99.0).await;
    node.counts("bildkante_node_waiters", 0.0).await;
}

#[tokio::test]
async fn a_restarted_node_answers_from_its_store_without_drawing() {
    let node = Wish::default().start().await;
    let first = node.client.post(&request_of("a teal mug", "teal")).await.reply();
    let data = node.data.clone();
    node.node.shut_down().await;
    let node = Wish::default().on(&data).start().await;
    let second = node.client.post(&request_of("a teal mug", "teal")).await.reply();
    assert_eq!((second.source, &second.master), (GenerationSource::Stored, &first.master));
    assert_eq!(node.control.calls(), 0);
    assert_eq!(node.client.get(&format!("/v1/masters/{}", first.master.id)).await.status, 200);
}

#[tokio::test]
async fn a_damaged_master_is_quarantined_never_served_and_drawn_again() {
    let node = Wish::default().start().await;
    let first = node.client.post(&request("a teal mug")).await.reply();
    let file = node.master_files().pop().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();

    let path = format!("/v1/masters/{}", first.master.id);
    assert!(node.client.get(&path).await.problem().kind.ends_with("unknown-master"));
    node.counts("bildkante_node_store_corrupt_total", 1.0).await;
    assert_eq!(std::fs::read_dir(node.data.path().join("quarantine")).unwrap().count(), 1);
    assert!(node.master_files().is_empty());

    let second = node.client.post(&request("a teal mug")).await.reply();
    assert_eq!((second.source, &second.master.id), (GenerationSource::Generated, &first.master.id));
    assert_eq!(node.client.get(&path).await.status, 200);
}

#[tokio::test]
async fn a_vanished_file_is_drawn_again_and_leftovers_of_a_crash_are_swept() {
    let node = Wish::default().start().await;
    let first = node.client.post(&request("a teal mug")).await.reply();
    let file = node.master_files().pop().unwrap();
    let data = node.data.clone();
    node.node.shut_down().await;
    let orphan = file.with_file_name(format!("{}.png", "0".repeat(26)));
    std::fs::write(&orphan, "a stranger here").unwrap();
    let home = node_folder(&data, "00").join("00");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join(orphan.file_name().unwrap()), "an orphan").unwrap();
    std::fs::write(file.with_file_name(".tmp-1-1"), "half a file").unwrap();
    std::fs::remove_file(&file).unwrap();

    let node = Wish::default().on(&data).start().await;
    assert!(node.master_files().is_empty(), "{:?}", node.master_files());
    node.counts("bildkante_node_store_masters", 0.0).await;
    let second = node.client.post(&request("a teal mug")).await.reply();
    assert_eq!((second.source, second.master.id), (GenerationSource::Generated, first.master.id));
}

#[tokio::test]
async fn a_second_node_on_the_same_folder_does_not_start() {
    let node = Wish::default().start().await;
    let mut config = Wish::default().config;
    config.data_dir = node.data.path().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = FakeEngine::factory(&node.control, paint_noise);
    let error = Node::start(config, listener, engine).await.unwrap_err().to_string();
    assert!(error.contains("in use by another node"), "{error}");
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after_and_a_leaving_caller_frees_its_place() {
    let node = Wish::default().config(|config| config.queue.jobs_max = 1).start().await;
    occupy(&node).await;
    let client = node.client.clone();
    let waiting = tokio::spawn(async move { client.post(&request("waits")).await });
    eventually("one job waits", async || node.metric("bildkante_node_queue_jobs") == 1.0).await;

    let refused = node.client.post(&request("too many")).await;
    assert_eq!((refused.status.as_u16(), refused.problem().kind.as_str()), (429, "/problems/queue-full"));
    assert!((1..=60).contains(&refused.header("retry-after").parse::<u32>().unwrap()));

    waiting.abort();
    eventually("its place is free", async || node.metric("bildkante_node_queue_jobs") == 0.0).await;
    node.counts("bildkante_node_dropped_jobs_total{stage=\"queued\"}", 1.0).await;
    let client = node.client.clone();
    let served = tokio::spawn(async move { client.post(&request("fits now")).await });
    eventually("the next job waits", async || node.metric("bildkante_node_queue_jobs") == 1.0).await;
    node.control.release();
    served.await.unwrap().reply();
    assert!(!node.control.prompts().contains(&"waits".to_owned()), "its caller had gone");
}

#[tokio::test]
async fn too_many_callers_of_one_recipe_are_429_too() {
    let node = Wish::default().config(|config| config.queue.waiters_max = 1).start().await;
    occupy(&node).await;
    assert_eq!(node.client.post(&request("occupies the device")).await.status, 429);
    node.control.release();
}

#[tokio::test]
async fn a_passed_deadline_is_504_for_that_caller_only() {
    let node = Wish::default().start().await;
    node.control.hold();
    let hasty = GenerationRequest { deadline_ms: 50, ..request("a teal mug") };
    let client = node.client.clone();
    let patient = tokio::spawn(async move { client.post(&request("a teal mug")).await });
    node.control.started(1).await;
    let late = node.client.post(&hasty).await;
    assert_eq!((late.status.as_u16(), late.problem().kind.as_str()), (504, "/problems/deadline-passed"));
    node.control.release();
    assert_eq!(patient.await.unwrap().reply().source, GenerationSource::Generated);
}

#[tokio::test]
async fn a_drawing_without_callers_stops_between_steps() {
    // A deadline that passes before the drawing has begun shows nothing: on a busy machine the next is longer.
    let mut deadline_ms = 500;
    let node = loop {
        let node = Wish::default().start().await;
        node.control.hold();
        let hasty = GenerationRequest { deadline_ms, ..request("abandoned") };
        assert_eq!(node.client.post(&hasty).await.status, 504);
        if node.control.calls() == 1 {
            break node;
        }
        node.control.release();
        deadline_ms *= 4;
        assert!(deadline_ms <= 120_000, "no drawing begins");
    };
    node.control.release();
    eventually("it is dropped", async || node.metric("bildkante_node_dropped_jobs_total{stage=\"running\"}") == 1.0)
        .await;
    assert_eq!(node.control.steps(), 1, "stopped after the step it was in");
    assert!(node.master_files().is_empty());
}

#[tokio::test]
async fn a_caller_that_hangs_up_stops_its_drawing_over_either_protocol() {
    for is_http1 in [true, false] {
        let node = Wish::default().start().await;
        node.control.hold();
        let client = if is_http1 { node.client.http1() } else { node.client.clone() };
        let call = tokio::spawn(async move { client.post(&request("abandoned")).await });
        node.control.started(1).await;
        call.abort();
        eventually("it left", async || node.metric("bildkante_node_waiters") == 0.0).await;
        node.control.release();
        eventually("it is dropped", async || {
            node.metric("bildkante_node_dropped_jobs_total{stage=\"running\"}") == 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn the_most_urgent_goes_first_and_a_joining_hero_lifts_its_job() {
    let node = occupied().await;
    let mut calls = Vec::new();
    for (count, (prompt, urgency)) in [("thumb", 6), ("teaser", 4), ("lifted", 7)].into_iter().enumerate() {
        let client = node.client.clone();
        calls.push(tokio::spawn(async move { client.post(&urgent(prompt, urgency)).await }));
        eventually("it waits", async || node.metric("bildkante_node_queue_jobs") == (count + 1) as f64).await;
    }
    let client = node.client.clone();
    calls.push(tokio::spawn(async move { client.post(&urgent("lifted", 1)).await }));
    eventually("the hero joined", async || node.metric("bildkante_node_joined_total") == 1.0).await;
    node.control.release();
    for call in calls {
        call.await.unwrap().reply();
    }
    assert_eq!(node.control.prompts(), ["occupies the device", "lifted", "teaser", "thumb"]);
}

#[tokio::test]
async fn a_defect_in_one_job_fails_that_job_only() {
    let node = Wish::default().start().await;
    let failed = node.client.post(&request("a defect")).await;
    assert_eq!((failed.status.as_u16(), failed.problem().kind.as_str()), (500, "/problems/generation-failed"));
    node.counts("bildkante_node_panics_total", 1.0).await;
    assert_eq!(node.client.post(&request("a failure")).await.status, 500);
    let refused = node.client.post(&request("a refusal")).await;
    assert_eq!((refused.status.as_u16(), refused.problem().detail.as_str()), (422, "a refusal, as asked"));
    node.client.post(&request("a teal mug")).await.reply();
}

#[tokio::test]
async fn what_is_missing_is_424_with_its_digests() {
    let node = Wish::default().start().await;
    let mut missing = request("a teal mug");
    missing.recipe.checkpoint = Digest::of_bytes(b"elsewhere");
    missing.recipe.loras = vec![LoraUse { digest: Digest::of_bytes(b"adapter"), weight: 1.0 }];
    let response = node.client.post(&missing).await;
    let expected = [b"elsewhere".as_slice(), b"adapter"].map(|name| Digest::of_bytes(name).to_string());
    assert_eq!((response.status.as_u16(), response.problem().missing), (424, expected.to_vec()));
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_so_and_why() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let control = std::sync::Arc::new(FakeControl::default());
    let inner = FakeEngine::factory(&control, paint_noise);
    let factory = Box::new(move || {
        let _ = held.recv();
        inner()
    });
    let node = Wish::default().start_with(factory, control).await;
    assert_eq!(node.client.get("/livez").await.status, 200);
    let ready = node.client.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8_lossy(&ready.body).contains("checkpoints are being loaded"));
    let early = node.client.post(&request("a teal mug")).await;
    assert_eq!((early.status.as_u16(), early.problem().kind.as_str()), (503, "/problems/not-ready"));
    assert!(!early.header("retry-after").is_empty());

    release.send(()).unwrap();
    node.node.settled().await;
    let ready = node.client.get("/readyz").await;
    assert_eq!(ready.status, 200);
    let report: serde_json::Value = serde_json::from_slice(&ready.body).unwrap();
    assert_eq!((&report["ready"], &report["self_tests"][0]["is_equal"]), (&true.into(), &true.into()));
    let checkpoints = node.client.get("/v1/checkpoints").await;
    let checkpoints: serde_json::Value = serde_json::from_slice(&checkpoints.body).unwrap();
    assert_eq!((&checkpoints[0]["name"], &checkpoints[0]["ready"]), (&"fake".into(), &true.into()));
    assert_eq!(node.metric("bildkante_node_ready"), 1.0);
    assert!(node.metric("bildkante_node_time_to_ready_seconds") > 0.0);
}

#[tokio::test]
async fn a_node_without_checkpoints_fails_and_says_why() {
    let reason = "no checkpoint in models_dir".to_owned();
    let factory = Box::new(move || Err(EngineError::Load { reason }));
    let node = Wish::default().start_with(factory, std::sync::Arc::default()).await;
    let failed = node.node.failed().await;
    assert!(failed.reason().contains("no checkpoint"), "{failed:?}");
    let early = node.client.post(&request("a teal mug")).await;
    assert_eq!((early.status.as_u16(), early.problem().detail.contains("no checkpoint")), (503, true));
}

/// The painting engine, with a second checkpoint that loads and cannot draw. Its folder always has something new.
struct HalfBroken(Box<dyn Engine>);

fn broken_checkpoint() -> Digest {
    Digest::of_bytes(b"broken")
}

impl Engine for HalfBroken {
    fn checkpoints(&self) -> Vec<CheckpointInfo> {
        let sound = self.0.checkpoints();
        let broken = CheckpointInfo { name: "broken".to_owned(), digest: broken_checkpoint(), ..sound[0].clone() };
        [broken].into_iter().chain(sound).collect()
    }

    fn native_size_px(&self, checkpoint: Digest) -> Option<(u32, u32)> {
        self.0.native_size_px(checkpoint)
    }

    fn refresh(&mut self) -> Option<Vec<Trial>> {
        Some(Vec::new())
    }

    fn begin(&mut self, recipe: &Arc<ValidRecipe>) -> Result<DrawingId, EngineError> {
        if recipe.checkpoint == broken_checkpoint() {
            return Err(EngineError::Failed { reason: "values that are not finite".to_owned() });
        }
        self.0.begin(recipe)
    }

    fn is_between_parts(&self, drawing: DrawingId) -> bool {
        self.0.is_between_parts(drawing)
    }

    fn go_on(&mut self, drawing: DrawingId) -> Result<(), EngineError> {
        self.0.go_on(drawing)
    }

    fn step(&mut self, drawings: &[DrawingId]) -> Result<Vec<Result<(), EngineError>>, EngineError> {
        self.0.step(drawings)
    }

    fn progress(&self, drawing: DrawingId) -> (u32, u32) {
        self.0.progress(drawing)
    }

    fn finish(&mut self, drawing: DrawingId) -> Result<Finished, EngineError> {
        self.0.finish(drawing)
    }

    fn abandon(&mut self, drawing: DrawingId) {
        self.0.abandon(drawing);
    }
}

#[tokio::test]
async fn a_checkpoint_that_fails_its_self_test_is_taken_out_and_the_others_serve() {
    let control = std::sync::Arc::new(FakeControl::default());
    let inner = FakeEngine::factory(&control, paint_noise);
    let factory: EngineFactory = Box::new(move || Ok(Box::new(HalfBroken(inner()?))));
    let node = Wish::default().start_with(factory, control).await;
    node.node.settled().await;
    node.client.post(&request("a teal mug")).await.reply();
    let mut broken = request("a teal mug");
    broken.recipe.checkpoint = broken_checkpoint();
    let missing = node.client.post(&broken).await.problem();
    assert_eq!((missing.status, missing.missing), (424, vec![broken_checkpoint().to_string()]));
    let report = node.client.get("/readyz").await;
    assert_eq!(report.status, 200);
    assert!(String::from_utf8_lossy(&report.body).contains("broken: self-test: values that are not finite"));
}

#[tokio::test]
async fn a_turn_begins_no_more_requests_than_can_go_along() {
    let node = Wish::default().start().await;
    node.node.settled().await;
    node.control.hold();
    let send = |number: usize| {
        let client = node.client.clone();
        tokio::spawn(async move { client.post(&request(&format!("number {number}"))).await.status })
    };
    let first = send(0);
    node.control.entered(1).await;
    node.control.set_false_companions(3);
    let others: Vec<_> = (1..=12).map(send).collect();
    node.counts("bildkante_node_queue_jobs", 12.0).await;
    // The next turn takes three of those that wait, which turn out to be unable to share it, and no further one.
    node.control.allow(1);
    node.control.entered(2).await;
    assert_eq!(node.control.calls(), 4, "a job that came meanwhile waits for the beginnings, too");
    node.control.release();
    for answered in std::iter::once(first).chain(others) {
        assert_eq!(answered.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_more_urgent_request_does_not_wait_for_what_lies_between_two_parts() {
    let node = Wish::default().start().await;
    node.node.settled().await;
    node.control.hold();
    let send = |request: GenerationRequest| {
        let client = node.client.clone();
        tokio::spawn(async move { client.post(&request).await.status })
    };
    let in_parts = send(GenerationRequest { urgency: Urgency::new(5).unwrap(), ..request("a mug in parts") });
    node.control.entered(1).await;
    node.control.allow(1);
    node.control.entered(2).await;
    let hero = send(GenerationRequest { urgency: Urgency::new(0).unwrap(), ..request("a hero") });
    node.counts("bildkante_node_queue_jobs", 1.0).await;
    node.control.release();
    assert_eq!((in_parts.await.unwrap().as_u16(), hero.await.unwrap().as_u16()), (200, 200));
    assert_eq!(node.control.gone_on_after(), [1], "the hero was finished before");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let node = Wish::default().start().await;
    let client = &node.client;
    let json = [("content-type", "application/json")];
    let post = |body: String| async move { client.post_bytes(body.into_bytes()).await };

    assert_eq!(client.call(Method::POST, "/v1/generations", &[], b"{}".to_vec()).await.problem().status, 415);
    assert_eq!(post("{".into()).await.problem().status, 400);
    assert_eq!(post("{}".into()).await.problem().status, 422);
    let valid = serde_json::to_string(&request("a teal mug")).unwrap();
    let problem = post(valid.replace("\"steps\":4", "\"steps\":0")).await.problem();
    assert_eq!((problem.status, problem.detail.contains("`steps`")), (422, true), "{problem:?}");
    let problem = post(valid.replace("60000", "0")).await.problem();
    assert_eq!((problem.status, problem.detail.contains("`deadline_ms`")), (422, true), "{problem:?}");
    let mut long = request("a teal mug");
    long.dedup = Some(scope(&"x".repeat(513), "v"));
    assert_eq!(client.post(&long).await.problem().status, 422);
    assert_eq!(post(" ".repeat(256 * 1024 + 1)).await.problem().status, 413);
    assert_eq!(client.get("/v1/generations").await.header("allow"), "POST");
    assert_eq!(client.call(Method::DELETE, "/v1/checkpoints", &json, vec![]).await.problem().status, 405);
    assert_eq!(client.get("/v1/masters/nonsense").await.problem().status, 400);
    assert_eq!(client.get(&format!("/v1/masters/{}", "0".repeat(26))).await.problem().status, 404);
    assert_eq!(client.get("/v2").await.problem().status, 404);
    assert_eq!(node.control.calls(), 0);
}

#[tokio::test]
async fn a_stalled_body_and_a_silent_connection_are_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // One bound at a time: a head that a busy machine is slow to send is no stalled body.
    let node = Wish::default().config(|config| config.http.body_timeout_ms = 50).start().await;
    let mut body = Vec::new();
    let mut socket = tokio::net::TcpStream::connect(node.node.addr()).await.unwrap();
    let head =
        "POST /v1/generations HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.read_to_end(&mut body).await.unwrap();
    assert!(body.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&body));
    let node = Wish::default().config(|config| config.http.header_timeout_ms = 50).start().await;
    // "P" could become HTTP/2's preface or a POST: the server may not wait for ever to learn which.
    for start in ["", "P", "GET / HT"] {
        let mut socket = tokio::net::TcpStream::connect(node.node.addr()).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let what = format!("a connection that sent {start:?} is closed");
        let _ = within(&what, socket.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn a_full_store_drops_the_longest_unused_and_draws_it_again() {
    let node = Wish::default().config(|config| config.store.masters_max = 2).start().await;
    for prompt in ["one", "two", "one", "three"] {
        node.client.post(&request(prompt)).await.reply();
    }
    assert_eq!(node.master_files().len(), 2);
    node.counts("bildkante_node_store_evictions_total", 1.0).await;
    assert_eq!(node.client.post(&request("one")).await.reply().source, GenerationSource::Stored);
    assert_eq!(node.client.post(&request("two")).await.reply().source, GenerationSource::Generated);
}

#[tokio::test]
async fn a_shutdown_lets_drawings_end_and_answers_the_rest_503() {
    let node = Wish::default().start().await;
    node.control.hold();
    let client = node.client.clone();
    let call = tokio::spawn(async move { client.post(&request("a teal mug")).await });
    node.control.started(1).await;
    let control = node.control.clone();
    let stopped = tokio::spawn(node.node.shut_down());
    control.release();
    call.await.unwrap().reply();
    stopped.await.unwrap();

    let node = Wish::default().config(|config| config.http.drain_timeout_ms = 50).start().await;
    node.control.hold();
    let client = node.client.clone();
    let call = tokio::spawn(async move { client.post(&request("never ends")).await });
    node.control.started(1).await;
    let control = node.control.clone();
    let stopped = tokio::spawn(node.node.shut_down());
    assert_eq!(call.await.unwrap().problem().kind, "/problems/shutting-down");
    control.release();
    stopped.await.unwrap();
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let node = Wish::default().start().await;
    node.client.post(&request("a teal mug")).await.reply();
    let metrics = node.client.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    node.counts("bildkante_node_generation_seconds_count{outcome=\"generated\"}", 1.0).await;
    node.counts("bildkante_node_queue_wait_seconds_count", 1.0).await;
    node.counts("bildkante_node_store_masters", 1.0).await;
    assert!(node.metric("bildkante_node_store_bytes") > 0.0);
    assert!(node.metric("bildkante_node_time_to_ready_seconds") > 0.0);
    node.counts("bildkante_node_http_responses_total{route=\"generations\",status=\"200\"}", 1.0).await;
}

/// A valid body with one field replaced by anything: near misses find more than noise does.
fn near_misses() -> impl Strategy<Value = Vec<u8>> {
    const FIELDS: &[&str] =
        &["recipe", "urgency", "deadline_ms", "dedup", "prompt", "seed", "guidance", "checkpoint", "extra"];
    let values = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|x| format!("{x:e}")),
        ".{0,40}".prop_map(|text| serde_json::Value::String(text).to_string()),
        Just("[[[]]]".to_owned()),
        Just("1e999".to_owned()),
    ];
    (prop::sample::select(FIELDS), values, any::<bool>()).prop_map(|(field, value, is_in_recipe)| {
        let mut outer = serde_json::to_value(request("x")).unwrap();
        let inner = serde_json::from_str(&value).unwrap_or(serde_json::Value::Null);
        let target = if is_in_recipe { &mut outer["recipe"] } else { &mut outer };
        target[field] = inner;
        // Never a recipe that could be drawn.
        if let Some(recipe) = outer["recipe"].as_object_mut() {
            recipe.insert("steps".to_owned(), 0.into());
        }
        serde_json::to_vec(&outer).unwrap()
    })
}

#[test]
fn any_malformed_post_is_answered_with_a_problem() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = runtime.block_on(Wish::default().start());
    let bodies = prop_oneof![prop::collection::vec(any::<u8>(), 0..512), near_misses()];
    let paths = prop_oneof![Just("/v1/generations".to_owned()), "/[a-z0-9/%.]{0,60}", "/v1/masters/[a-z0-9%]{0,40}"];
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(body in bodies, path in paths)| {
        let response = runtime.block_on(node.client.call(
            Method::POST, &path, &[("content-type", "application/json")], body));
        prop_assert!((400..500).contains(&response.status.as_u16()), "{}", response.status);
        response.problem();
    });
    assert_eq!(node.metric("bildkante_node_panics_total"), 0.0);
    assert_eq!(node.control.calls(), 0);
}

#[tokio::test]
async fn a_generation_tells_how_far_it_is() {
    let node = Wish::default().start().await;
    let recipe_of = |asked: &GenerationRequest| ValidRecipe::try_from(asked.recipe.clone()).unwrap().id();
    node.control.hold();
    let first = request("first");
    let path = format!("/v1/generations/{}", recipe_of(&first));
    assert_eq!(node.client.get(&path).await.problem().kind, "/problems/unknown-generation");
    assert_eq!(node.client.get("/v1/generations/none").await.status, 404);
    let client = node.client.clone();
    let call = tokio::spawn(async move { client.post(&request("first")).await.reply() });
    node.control.started(1).await;

    // Taken, answered at once, and drawn although no caller holds a connection.
    let second = request("second");
    let asked = serde_json::to_vec(&second).unwrap();
    let headers = [("content-type", "application/json"), ("prefer", "wait=5, respond-async")];
    let accepted = node.client.call(Method::POST, "/v1/generations", &headers, asked).await;
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.headers["preference-applied"], "respond-async");
    let location = accepted.headers["location"].to_str().unwrap().to_owned();
    let queued: GenerationStatus = serde_json::from_slice(&accepted.body).unwrap();
    assert_eq!(
        (queued.state, queued.position, queued.recipe_id),
        (GenerationState::Queued, Some(0), recipe_of(&second))
    );
    assert!(queued.estimated_start_ms.is_some() && queued.urgency == Some(second.urgency));

    let events = [("accept", "text/event-stream")];
    let (client, watched) = (node.client.clone(), path.clone());
    let watching = tokio::spawn(async move { client.call(Method::GET, &watched, &events, Vec::new()).await });
    node.control.release();
    let drawn = call.await.unwrap();
    let watched = watching.await.unwrap();
    assert_eq!(watched.headers["content-type"], "text/event-stream");
    let text = String::from_utf8(watched.body.to_vec()).unwrap();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    assert!(text.contains("event: progress\n") && last.starts_with("event: end\n"), "{text}");
    assert!(last.contains(&drawn.master.id.to_string()), "{last}");

    let status =
        async |path: &str| -> GenerationStatus { serde_json::from_slice(&node.client.get(path).await.body).unwrap() };
    assert_eq!(status(&path).await.master.unwrap(), drawn.master);
    eventually("it is drawn", async || status(&location).await.state == GenerationState::Done).await;
    let stored = node.client.post(&second).await.reply();
    assert_eq!(stored.source, GenerationSource::Stored);
}
