//! What operators live with: memory that is short, a device that dies, several devices, checkpoints that come and go.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bildkante_gpu_node::Node;
use bildkante_gpu_node::capacity::{Footprint as _, Readers};
use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::diffusion::Device;
use bildkante_gpu_node::diffusion::dtype::DType;
use bildkante_gpu_node::diffusion::sd::checkpoint::Checkpoint;
use bildkante_gpu_node::engine::Engines;
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::testing::{FakeControl, FakeEngine, paint_noise};
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{LoraUse, Recipe, ValidRecipe};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, GenerationRequest};
use serde_json::Value;
use support::sick::Sick;
use support::{TestNode, Wish, request};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A folder of models with these checkpoints.
fn models(names: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    names.iter().for_each(|name| put(&dir, name));
    dir
}

fn put(models: &TempDir, checkpoint: &str) {
    let from = fixtures().join("checkpoints").join(checkpoint);
    std::os::unix::fs::symlink(from, models.path().join(checkpoint)).unwrap();
}

async fn node(models: &TempDir, edit: impl FnOnce(&mut NodeConfig)) -> TestNode {
    let wish = Wish::default().config(|config| {
        config.models_dir = models.path().to_owned();
        config.threads = 1;
        config.models_poll_ms = 100;
        edit(config);
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    node
}

async fn checkpoints(node: &TestNode) -> Vec<CheckpointInfo> {
    serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap()
}

async fn digest_of(node: &TestNode, name: &str) -> Digest {
    checkpoints(node).await.iter().find(|known| known.name == name).unwrap().digest
}

fn asked(recipe: Recipe) -> GenerationRequest {
    GenerationRequest { recipe, urgency: Urgency::DEFAULT, deadline_ms: 120_000, dedup: None }
}

fn recipe(checkpoint: Digest, side_px: u32, seed: u32) -> Recipe {
    Recipe { seed, steps: 4, ..Recipe::new(checkpoint, "a mug", (side_px, side_px)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused_before_it_starts_and_what_does_not_fit_beside_others_waits() {
    let models = models(&["sd1-tiny"]);
    let loaded = Checkpoint::load(&models.path().join("sd1-tiny"), Device::Cpu, DType::F32).unwrap();
    let one = ValidRecipe::try_from(recipe(loaded.digest(), 64, 0)).unwrap();
    let need = loaded.footprint().need(&one, 1, &Readers::default());
    let node = node(&models, |config| {
        config.memory_bytes_max = need.peak_bytes() + need.held_bytes / 2;
        config.batch.requests_max = 4;
    })
    .await;

    let large = node.client.post(&asked(recipe(loaded.digest(), 2048, 0))).await;
    assert_eq!(large.status, 422);
    let problem = large.problem();
    assert!(problem.detail.contains("2048×2048 px need about") && problem.detail.contains("MiB"), "{problem:?}");
    assert!((node.metric("bildkante_node_steps_total") - 0.0).abs() < 0.5, "nothing was computed for it");

    let calls = (1..6).map(|seed| {
        let (client, asked) = (node.client.clone(), asked(recipe(loaded.digest(), 64, seed)));
        tokio::spawn(async move { client.post(&asked).await.reply() })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        call.await.unwrap();
    }
    let (passes, steps) = (node.metric("bildkante_node_passes_total"), node.metric("bildkante_node_steps_total"));
    assert!(
        steps >= 20.0 && (passes - steps).abs() < 0.5,
        "there is room for one at a time: {passes} passes, {steps} steps"
    );
    node.node.shut_down().await;
}

/// Several at once, of which the first runs when the others come.
async fn at_once(node: &TestNode, prompts: &[&str]) -> Vec<(u16, String)> {
    node.control.hold();
    let mut calls = Vec::new();
    for prompt in prompts {
        let (client, asked) = (node.client.clone(), request(prompt));
        calls.push(tokio::spawn(async move { client.post(&asked).await }));
        node.control.started(1).await;
    }
    eventually("all are in", async || {
        node.metric("bildkante_node_waiters") >= f64::from(u32::try_from(prompts.len()).unwrap())
    })
    .await;
    node.control.release();
    let mut answers = Vec::new();
    for call in calls {
        let answer = call.await.unwrap();
        let retry = answer.header("retry-after").to_owned();
        answers.push((answer.status.as_u16(), retry));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn an_out_of_memory_fails_that_job_and_frees_what_is_kept() {
    let (node, freed) = Sick::start().await;
    let answers = at_once(&node, &["first", "a huge one", "second"]).await;
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 503, 200]);
    assert_eq!(answers[1].1, "5", "another time, or another node");
    assert!(freed.load(Ordering::SeqCst) >= 1);
    let rejects = "bildkante_node_rejects_total{reason=\"out_of_memory\"}";
    eventually("it is counted", async || node.metric(rejects) > 0.0).await;
    node.client.post(&request("afterwards")).await.reply();
    assert_eq!(node.client.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_memory_is_not_passed_by_those_that_fit() {
    let (node, _) = Sick::start().await;
    node.control.hold();
    let urgent =
        |prompt: &str, urgency| GenerationRequest { urgency: Urgency::new(urgency).unwrap(), ..request(prompt) };
    let mut calls = Vec::new();
    for asked in [urgent("first", 5), urgent("a large one", 1), urgent("small", 5), urgent("smaller", 5)] {
        let client = node.client.clone();
        calls.push(tokio::spawn(async move { client.post(&asked).await.reply() }));
        node.control.started(1).await;
        eventually("it is in", async || {
            node.metric("bildkante_node_waiters") >= f64::from(u32::try_from(calls.len()).unwrap())
        })
        .await;
    }
    node.control.release();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(node.control.prompts()[..2], ["first", "a large one"], "{:?}", node.control.prompts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_ends_the_node_and_tells_every_caller() {
    let (node, _) = Sick::start().await;
    let answers = at_once(&node, &["first", "die", "second", "third"]).await;
    assert!(answers.iter().all(|(status, retry)| *status == 503 && retry == "2"), "{answers:?}");
    // The process ends with it; its supervisor starts it anew.
    let Phase::Failed { reason } = node.node.failed().await else { unreachable!() };
    assert!(reason.contains("the device is lost: CUDA error"), "{reason}");
    let readyz = node.client.get("/readyz").await;
    assert_eq!(readyz.status, 503);
    assert_eq!(node.client.post(&request("afterwards")).await.status, 503);
    node.node.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_ended_its_device_twice_is_refused_and_its_company_is_not() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    for round in 0..2 {
        let (node, _) = Sick::start_on(&data).await;
        // They share every pass; the second time the requests of the first one's last pass are drawn alone.
        let answers = at_once(&node, &["first", "die", "second"]).await;
        assert!(answers.iter().all(|(status, _)| [200, 503].contains(status)), "round {round}: {answers:?}");
        assert!(matches!(node.node.failed().await, Phase::Failed { .. }));
        node.node.shut_down().await;
    }
    let (node, _) = Sick::start_on(&data).await;
    let refused = node.client.post(&request("die")).await;
    assert_eq!((refused.status.as_u16(), refused.problem().kind.as_str()), (422, "/problems/recipe-ends-devices"));
    assert!(matches!(node.node.settled().await, Phase::Ready), "it was not even begun");
    for prompt in ["first", "second"] {
        node.client.post(&request(prompt)).await.reply();
    }

    // An operator who has mended the cause takes its file away.
    let id = ValidRecipe::try_from(support::recipe("die")).unwrap().id();
    std::fs::remove_file(data.path().join("endings").join(format!("{id}.json"))).unwrap();
    let tried = node.client.post(&request("die")).await;
    assert_eq!((tried.status.as_u16(), tried.problem().kind.as_str()), (503, "/problems/device-lost"));
    node.node.shut_down().await;
}

/// The recipes that endings are counted against.
fn blamed(data: &TempDir) -> Vec<String> {
    let files = std::fs::read_dir(data.path().join("endings")).unwrap().map(|entry| entry.unwrap().path());
    let counts = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    counts.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_device_is_counted_against_what_it_was_at_and_nothing_else() {
    // It joins those that run, goes on alone after a shared pass failed, or is decoded with others behind it.
    for culprit in ["perish at once", "quarrel", "perish at last"] {
        let data = Arc::new(tempfile::tempdir().unwrap());
        let (node, _) = Sick::start_on(&data).await;
        let answers = at_once(&node, &["first", culprit, "second"]).await;
        assert!(answers.iter().all(|(status, _)| [200, 503].contains(status)), "{culprit}: {answers:?}");
        assert!(matches!(node.node.failed().await, Phase::Failed { .. }));
        node.node.shut_down().await;
        let id = ValidRecipe::try_from(support::recipe(culprit)).unwrap().id();
        assert_eq!(blamed(&data), [id.to_string()], "{culprit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_is_told_as_lost_alone_or_in_company_and_who_is_to_be_alone_is() {
    for (is_to_be_alone, kind) in [(false, "/problems/device-lost-in-company"), (true, "/problems/device-lost")] {
        let (node, _) = Sick::start().await;
        node.control.hold();
        let (client, asked) = (node.client.clone(), request("first"));
        let first = tokio::spawn(async move { client.post(&asked).await });
        node.control.started(1).await;
        let client = node.client.clone();
        let culprit = tokio::spawn(async move {
            let alone = if is_to_be_alone { "1" } else { "0" };
            let headers = [("content-type", "application/json"), ("bildkante-draw-alone", alone)];
            let body = serde_json::to_vec(&request("die")).unwrap();
            client.call(http::Method::POST, "/v1/generations", &headers, body).await
        });
        eventually("both are in", async || node.metric("bildkante_node_waiters") >= 2.0).await;
        node.control.release();
        let lost = culprit.await.unwrap();
        assert_eq!((lost.status.as_u16(), lost.problem().kind.as_str()), (503, kind));
        let first = first.await.unwrap();
        if is_to_be_alone {
            assert_ne!(first.status, 422);
        } else {
            assert_eq!(first.problem().kind, kind, "it may have been this one");
        }
        node.node.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_urgent_one_that_ends_the_device_at_its_beginning_is_the_one_that_is_counted() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let (node, _) = Sick::start_on(&data).await;
    node.control.hold();
    let urgent = GenerationRequest { urgency: Urgency::MOST, ..request("perish at once") };
    let mut calls = Vec::new();
    for asked in [request("first"), urgent] {
        let client = node.client.clone();
        calls.push(tokio::spawn(async move { client.post(&asked).await.status }));
        node.control.started(1).await;
    }
    eventually("both are in", async || node.metric("bildkante_node_waiters") >= 2.0).await;
    node.control.release();
    for call in calls {
        assert_eq!(call.await.unwrap(), 503);
    }
    assert!(matches!(node.node.failed().await, Phase::Failed { .. }));
    node.node.shut_down().await;
    let id = ValidRecipe::try_from(support::recipe("perish at once")).unwrap().id();
    assert_eq!(blamed(&data), [id.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_draw_from_one_queue() {
    let controls = [Arc::new(FakeControl::default()), Arc::new(FakeControl::default())];
    let engines = controls
        .iter()
        .enumerate()
        .map(|(device, control)| (format!("cuda:{device}"), FakeEngine::factory(control, paint_noise)));
    let wish = Wish::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Node::start(wish.config.clone(), listener, Engines(engines.collect())).await.unwrap();
    let client = support::TestClient::to(running.addr());
    assert_eq!(running.settled().await, Phase::Ready);
    let readyz: Value = serde_json::from_slice(&client.get("/readyz").await.body).unwrap();
    let tested: Vec<&str> =
        readyz["self_tests"].as_array().unwrap().iter().map(|test| test["device"].as_str().unwrap()).collect();
    assert_eq!((tested, readyz["checkpoints"].as_array().unwrap().len()), (vec!["cuda:0", "cuda:1"], 1));

    controls.iter().for_each(|control| control.hold());
    let calls: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|prompt| {
            let (client, asked) = (client.clone(), request(prompt));
            tokio::spawn(async move { client.post(&asked).await.reply() })
        })
        .collect();
    // Each has begun one, and neither has made a step.
    for control in &controls {
        control.started(1).await;
        assert_eq!(control.steps(), 0);
    }
    // One goes on alone with what is left while the other stands still.
    controls[0].release();
    controls[0].started(2).await;
    assert_eq!(controls[1].calls(), 1);
    controls[1].release();
    for call in calls {
        call.await.unwrap();
    }
    running.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_adapters_come_and_go_without_a_restart() {
    let models = models(&["sd1-tiny"]);
    let node = node(&models, |_| {}).await;
    let sd1 = digest_of(&node, "sd1-tiny").await;
    node.client.post(&asked(recipe(sd1, 32, 1))).await.reply();

    put(&models, "sdxl-tiny");
    eventually("sdxl-tiny is offered", async || checkpoints(&node).await.len() == 2).await;
    let sdxl = digest_of(&node, "sdxl-tiny").await;
    let drawn = node.client.post(&asked(recipe(sdxl, 32, 1))).await.reply();
    assert!(node.metric("bildkante_node_checkpoint_ready_seconds{checkpoint=\"sdxl-tiny\"}") > 0.0);
    assert!((node.metric("bildkante_node_self_test_equal{checkpoint=\"sdxl-tiny\"}") - 1.0).abs() < 0.1);

    // A long one has begun when its checkpoint goes: it is drawn to its end, and no new request gets the checkpoint.
    let long = Recipe { steps: 200, ..recipe(sdxl, 64, 2) };
    let (client, asked_long) = (node.client.clone(), asked(long));
    let call = tokio::spawn(async move { client.post(&asked_long).await.reply() });
    eventually("it runs", async || node.metric("bildkante_node_begun_jobs") > 0.0).await;
    std::fs::remove_file(models.path().join("sdxl-tiny")).unwrap();
    eventually("sdxl-tiny is gone", async || checkpoints(&node).await.len() == 1).await;
    let refused = node.client.post(&asked(recipe(sdxl, 32, 3))).await;
    assert_eq!((refused.status.as_u16(), refused.problem().missing), (424, vec![sdxl.to_string()]));
    call.await.unwrap();

    // It comes back as what it was.
    put(&models, "sdxl-tiny");
    eventually("sdxl-tiny is back", async || checkpoints(&node).await.len() == 2).await;
    let other = Recipe { seed: 1, ..recipe(sdxl, 32, 1) };
    assert_eq!(node.client.post(&asked(other)).await.reply().master.id, drawn.master.id);

    // What is broken is told and nothing else is touched; mended, it is there.
    let broken = models.path().join("sd2-tiny");
    std::fs::create_dir(&broken).unwrap();
    std::fs::copy(fixtures().join("checkpoints/sd2-tiny/model_index.json"), broken.join("model_index.json")).unwrap();
    let reasons = || async {
        let readyz: Value = serde_json::from_slice(&node.client.get("/readyz").await.body).unwrap();
        readyz["reasons"].to_string()
    };
    eventually("it is rejected", async || reasons().await.contains("sd2-tiny")).await;
    assert_eq!(node.client.get("/readyz").await.status, 200);
    std::fs::remove_dir_all(&broken).unwrap();
    put(&models, "sd2-tiny");
    eventually("sd2-tiny is offered", async || checkpoints(&node).await.len() == 3).await;
    assert!(!reasons().await.contains("sd2-tiny"));

    let adapters =
        || async { serde_json::from_slice::<Vec<AdapterInfo>>(&node.client.get("/v1/adapters").await.body).unwrap() };
    assert!(adapters().await.is_empty());
    std::fs::create_dir(models.path().join("adapters")).unwrap();
    let kohya = models.path().join("adapters/sd1.kohya.safetensors");
    std::fs::copy(fixtures().join("adapters/sd1.kohya.safetensors"), &kohya).unwrap();
    eventually("the adapter is offered", async || adapters().await.len() == 1).await;
    let lora = LoraUse { digest: adapters().await[0].digest, weight: 1.0 };
    node.client.post(&asked(Recipe { loras: vec![lora.clone()], ..recipe(sd1, 32, 4) })).await.reply();
    std::fs::remove_file(&kohya).unwrap();
    eventually("the adapter is gone", async || adapters().await.is_empty()).await;
    let refused = node.client.post(&asked(Recipe { loras: vec![lora], ..recipe(sd1, 32, 5) })).await;
    assert_eq!(refused.status, 424);
    node.node.shut_down().await;
}
