//! Requests that share the device step by step: no picture depends on its companions, an urgent request waits for a step and
//! not for a picture, and a request that fails fails alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bildkante_gpu_node::config::{DeterminismChoice, Devices, DtypeChoice, NodeConfig};
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::{Digest, MasterId, RecipeId};
use bildkante_shared::recipe::{ControlUse, InitUse, LoraUse, Recipe, RefinerUse, SchedulerChoice, SchedulerKind};
use bildkante_shared::testing::eventually;
use bildkante_shared::urgency::Urgency;
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo, GenerationReply, GenerationRequest};
use http::Method;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use support::gated::Gated;
use support::sharing::Sharing;
use support::sick::Sick;
use support::{TestNode, Wish, request};
use tempfile::TempDir;

/// Tiny checkpoints of three families, and adapters.
fn models() -> TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let dir = tempfile::tempdir().unwrap();
    for name in ["sd1-tiny", "sd1-inpaint-tiny", "sdxl-tiny", "sdxl-refiner-tiny"] {
        std::os::unix::fs::symlink(fixtures.join("checkpoints").join(name), dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(fixtures.join("controlnets/sd1-edges"), dir.path().join("sd1-edges")).unwrap();
    std::os::unix::fs::symlink(fixtures.join("adapters"), dir.path().join("adapters")).unwrap();
    dir
}

/// Where verdicts on shared passes are kept.
const VERDICTS: &str = "batch-shapes.json";
const PROBES: &str = "bildkante_node_probes_pending{device=\"0\"}";
const PROBE_PASSES: &str = "bildkante_node_probe_passes_total";

async fn node(models: &TempDir, requests_max: usize, determinism: DeterminismChoice) -> TestNode {
    node_on(models, requests_max, determinism, &Arc::new(tempfile::tempdir().unwrap())).await
}

/// Over a data folder that is there. Its probes stop where the control holds them.
async fn node_on(
    models: &TempDir,
    requests_max: usize,
    determinism: DeterminismChoice,
    data: &Arc<TempDir>,
) -> TestNode {
    let wish = Wish::default().on(data).config(|config: &mut NodeConfig| {
        config.models_dir = models.path().to_owned();
        config.threads = 1;
        config.batch.requests_max = requests_max;
        config.batch.determinism = determinism;
    });
    let control = Arc::default();
    let factory = Gated::factory(torch_engine(&wish.config), &control);
    let node = wish.start_with(factory, control).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    for name in ["picture", "mask", "edges"] {
        let (digest, png) = image(name);
        assert_eq!(node.client.call(Method::PUT, &format!("/v1/blobs/{digest}"), &[], png).await.status, 204);
    }
    node
}

fn image(name: &str) -> (Digest, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/images/{name}.png"));
    let png = std::fs::read(path).unwrap();
    (Digest::of_bytes(&png), png)
}

/// Recipes of every kind that may or may not share a pass.
async fn recipes(node: &TestNode) -> Vec<Recipe> {
    let checkpoints: Vec<CheckpointInfo> =
        serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap();
    let adapters: Vec<AdapterInfo> = serde_json::from_slice(&node.client.get("/v1/adapters").await.body).unwrap();
    let checkpoint = |name: &str| checkpoints.iter().find(|known| known.name == name).unwrap().digest;
    let adapter = |name: &str| adapters.iter().find(|known| known.name == name).unwrap().digest;
    let scheduler = |kind| SchedulerChoice { kind: Some(kind), ..SchedulerChoice::default() };
    let sd1 = |seed: u32| Recipe {
        seed,
        steps: 2 + seed % 5,
        guidance: 2.0 + f64::from(seed % 3),
        negative_prompt: ["", "blurry"][seed as usize % 2].into(),
        scheduler: scheduler(SchedulerKind::ALL[seed as usize % SchedulerKind::ALL.len()]),
        ..Recipe::new(checkpoint("sd1-tiny"), format!("a mug, number {seed}"), (32, 32))
    };
    let mut recipes: Vec<Recipe> = (0..9).map(sd1).collect();
    // A lower bound of PNDM's own warm-up.
    recipes.retain(|recipe| recipe.scheduler.kind != Some(SchedulerKind::Pndm) || recipe.steps >= 4);
    recipes.push(Recipe { guidance: 1.0, ..sd1(20) });
    recipes.push(Recipe { width_px: 48, ..sd1(21) });
    recipes.push(Recipe { loras: vec![LoraUse { digest: adapter("sd1.kohya"), weight: 0.7 }], ..sd1(22) });
    recipes.push(Recipe { loras: vec![LoraUse { digest: adapter("sd1.kohya"), weight: 0.7 }], ..sd1(24) });
    recipes.push(Recipe { prompt: "a mug, ".repeat(40), ..sd1(26) });
    let init = |strength| Some(InitUse { image: image("picture").0, strength });
    for seed in 30..33 {
        recipes.push(Recipe { init: init(0.7), steps: 6, scheduler: scheduler(SchedulerKind::Heun), ..sd1(seed) });
        recipes.push(Recipe { init: init(1.0), mask: Some(image("mask").0), ..sd1(seed) });
        let painted = Recipe { init: init(0.9), mask: Some(image("mask").0), ..sd1(seed) };
        recipes.push(Recipe { checkpoint: checkpoint("sd1-inpaint-tiny"), steps: 5, ..painted });
        let network = checkpoint("sd1-edges");
        let control = ControlUse { network, image: image("edges").0, weight: 0.8, start: 0.0, end: 0.6 };
        recipes.push(Recipe { controls: vec![control], steps: 5, ..sd1(seed) });
    }
    recipes.retain(|recipe| recipe.scheduler.kind != Some(SchedulerKind::Pndm) || recipe.steps >= 4);
    let sdxl = |seed: u32| Recipe {
        seed,
        steps: 3 + seed % 3,
        ..Recipe::new(checkpoint("sdxl-tiny"), format!("a vase, number {seed}"), (32, 32))
    };
    recipes.extend((0..4).map(sdxl));
    for seed in 4..7 {
        let refiner = Some(RefinerUse::new(checkpoint("sdxl-refiner-tiny"), 0.5));
        recipes.push(Recipe { refiner, steps: 6, ..sdxl(seed) });
    }
    recipes
}

async fn draw(node: &TestNode, recipe: &Recipe, urgency: u8) -> GenerationReply {
    let urgency = Urgency::new(urgency).unwrap();
    let asked = GenerationRequest { recipe: recipe.clone(), urgency, deadline_ms: 120_000, dedup: None };
    node.client.post(&asked).await.reply()
}

/// Each recipe by itself, on a node that has nothing else to do.
async fn alone(node: &TestNode, recipes: &[Recipe]) -> HashMap<RecipeId, (MasterId, String)> {
    let mut masters = HashMap::new();
    for recipe in recipes {
        let reply = draw(node, recipe, 3).await;
        masters.insert(reply.recipe_id, (reply.master.id, reply.determinism.class));
    }
    masters
}

/// Many at once in an order of their own; the masters and the classes they came with.
async fn together(node: &TestNode, recipes: &[Recipe], order: &[(usize, u8)]) -> Vec<GenerationReply> {
    let calls = order.iter().map(|(at, urgency)| {
        let (client, recipe, urgency) = (node.client.clone(), recipes[*at].clone(), *urgency);
        tokio::spawn(async move {
            let urgency = Urgency::new(urgency).unwrap();
            let asked = GenerationRequest { recipe, urgency, deadline_ms: 120_000, dedup: None };
            client.post(&asked).await.reply()
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.unwrap());
    }
    replies
}

/// An empty data folder but for what `from` has found out about shared passes.
fn data_that_knows(from: Option<&TempDir>) -> Arc<TempDir> {
    let data = tempfile::tempdir().unwrap();
    if let Some(from) = from {
        std::fs::copy(from.path().join(VERDICTS), data.path().join(VERDICTS)).unwrap();
    }
    Arc::new(data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_depends_on_its_recipe_and_on_no_company() {
    let models = models();
    for requests_max in [1, 4] {
        // Before anything is known, all that is new runs alone; meanwhile it is found out what may share passes.
        let first = node(&models, requests_max, DeterminismChoice::Exact).await;
        let recipes = recipes(&first).await;
        let in_order: Vec<(usize, u8)> = (0..recipes.len()).map(|at| (at, 3)).collect();
        let first_replies = together(&first, &recipes, &in_order).await;
        first.counts(PROBES, 0.0).await;
        let found = (requests_max > 1).then(|| Arc::clone(&first.data));
        first.node.shut_down().await;

        let data = data_that_knows(found.as_deref());
        let reference = node_on(&models, requests_max, DeterminismChoice::Exact, &data).await;
        let expected = alone(&reference, &recipes).await;
        assert_eq!(expected.len(), recipes.len());
        assert_eq!(reference.metric(PROBE_PASSES), 0.0, "all is known");
        reference.node.shut_down().await;
        for reply in first_replies {
            let (master, class) = &expected[&reply.recipe_id];
            assert!(reply.determinism.class != *class || reply.master.id == *master, "{class}: equal bits");
        }

        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let arrivals = Just((0..recipes.len()).collect::<Vec<usize>>()).prop_shuffle();
        let arrivals = arrivals.prop_flat_map(|order| {
            let count = order.len();
            (Just(order), prop::collection::vec(0_u8..8, count))
        });
        for _ in 0..4 {
            let (order, urgencies) = arrivals.new_tree(&mut runner).unwrap().current();
            let order: Vec<(usize, u8)> = order.into_iter().zip(urgencies).collect();
            // Another process's memory and store: nothing is answered from before.
            let data = data_that_knows(found.as_deref());
            let busy = node_on(&models, requests_max, DeterminismChoice::Exact, &data).await;
            for reply in together(&busy, &recipes, &order).await {
                let (master, class) = &expected[&reply.recipe_id];
                assert_eq!(reply.master.id, *master, "{requests_max} at once, {order:?}");
                assert_eq!(reply.determinism.class, *class);
            }
            let (passes, steps) =
                (busy.metric("bildkante_node_passes_total"), busy.metric("bildkante_node_steps_total"));
            assert!(if requests_max == 1 { passes >= steps } else { passes < steps }, "{passes} passes, {steps} steps");
            busy.node.shut_down().await;
        }
    }
}

/// A recipe with an adapter of this weight.
async fn adapted(node: &TestNode, weight: f64, seed: u32) -> Recipe {
    let adapters: Vec<AdapterInfo> = serde_json::from_slice(&node.client.get("/v1/adapters").await.body).unwrap();
    let digest = adapters.iter().find(|known| known.name == "sd1.kohya").unwrap().digest;
    Recipe { loras: vec![LoraUse { digest, weight }], ..plain(node, seed).await }
}

async fn plain(node: &TestNode, seed: u32) -> Recipe {
    let known: Vec<CheckpointInfo> = serde_json::from_slice(&node.client.get("/v1/checkpoints").await.body).unwrap();
    let digest = known.iter().find(|known| known.name == "sd1-tiny").unwrap().digest;
    Recipe { seed, steps: 4, ..Recipe::new(digest, "a mug", (32, 32)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_a_probe() {
    let models = models();
    let node = node(&models, 4, DeterminismChoice::Exact).await;
    // What is known at the start is probed while there is nothing else to do.
    node.counts(PROBES, 0.0).await;
    let known = node.metric(PROBE_PASSES);
    assert!(known >= 5.0, "{known} passes for the checkpoints' own sizes");

    node.control.hold();
    let entered = node.control.steps();
    let new = Recipe { width_px: 64, ..plain(&node, 1).await };
    let begun_alone = draw(&node, &new, 7).await;
    // The device is idle, and in the first pass of the probe. A hero waits for that pass and no other.
    node.control.entered(entered + 1).await;
    let hero = plain(&node, 2).await;
    let client = node.client.clone();
    let asked = GenerationRequest { recipe: hero, urgency: Urgency::MOST, deadline_ms: 120_000, dedup: None };
    let hero = tokio::spawn(async move { client.post(&asked).await.reply() });
    eventually("the hero waits", async || node.metric("bildkante_node_queue_jobs") >= 1.0).await;
    node.control.allow(1);
    hero.await.unwrap();
    node.control.entered(entered + 2).await;
    assert_eq!(node.control.steps(), entered + 1);
    assert!(node.metric(PROBES) >= 1.0);

    node.control.release();
    node.counts(PROBES, 0.0).await;
    let shared = draw(&node, &Recipe { seed: 3, ..new.clone() }, 7).await;
    assert_ne!(begun_alone.determinism.class, "");
    assert_eq!(node.metric(PROBES), 0.0, "its class is known: {}", shared.determinism.class);
    assert!(node.metric("bildkante_node_probe_seconds_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_change_no_class_and_verdicts_outlive_a_restart() {
    let (models, data) = (models(), Arc::new(tempfile::tempdir().unwrap()));
    let first = node_on(&models, 4, DeterminismChoice::Exact, &data).await;
    let drawn = adapted(&first, 0.7, 1).await;
    draw(&first, &drawn, 3).await;
    first.counts(PROBES, 0.0).await;
    let passes = first.metric(PROBE_PASSES);
    let network = {
        let known: Vec<CheckpointInfo> =
            serde_json::from_slice(&first.client.get("/v1/checkpoints").await.body).unwrap();
        known.iter().find(|known| known.name == "sd1-edges").unwrap().digest
    };
    let control = |weight| ControlUse { network, image: image("edges").0, weight, start: 0.0, end: 1.0 };
    draw(&first, &adapted(&first, 0.71, 2).await, 3).await;
    assert_eq!((first.metric(PROBES), first.metric(PROBE_PASSES)), (0.0, passes), "another weight");
    draw(&first, &Recipe { controls: vec![control(0.7)], ..plain(&first, 3).await }, 3).await;
    first.counts(PROBES, 0.0).await;
    let passes = first.metric(PROBE_PASSES);
    draw(&first, &Recipe { controls: vec![control(0.71)], ..plain(&first, 4).await }, 3).await;
    assert_eq!((first.metric(PROBES), first.metric(PROBE_PASSES)), (0.0, passes), "another scale");
    first.node.shut_down().await;

    let again = node_on(&models, 4, DeterminismChoice::Exact, &data).await;
    draw(&again, &adapted(&again, 0.72, 5).await, 3).await;
    draw(&again, &Recipe { controls: vec![control(0.72)], ..plain(&again, 6).await }, 3).await;
    assert_eq!((again.metric(PROBES), again.metric(PROBE_PASSES)), (0.0, 0.0), "all is known");
}

/// One request has the bits that it has beside three others, so that it need not be computed for four: with the built-in
/// checkpoint in both precisions that a processor draws in.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_alone_is_computed_alone() {
    for dtype in [DtypeChoice::F32, DtypeChoice::Bf16] {
        let wish = Wish::default().config(|config| {
            config.models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
            (config.dtype, config.threads, config.batch.requests_max) = (dtype, 2, 4);
        });
        let factory = torch_engine(&wish.config);
        let node = wish.start_with(factory, Arc::default()).await;
        assert_eq!(node.node.settled().await, Phase::Ready);
        node.counts(PROBES, 0.0).await;
        let verdicts = std::fs::read_to_string(node.data.path().join(VERDICTS)).unwrap();
        let verdicts: serde_json::Value = serde_json::from_str(&verdicts[verdicts.find('[').unwrap()..]).unwrap();
        for verdict in verdicts.as_array().unwrap() {
            // What another device gives is found out there, and told by `make cuda-check`.
            println!("{dtype:?}: {verdict}");
            let is_as_promised = verdict["shapes"] == serde_json::json!([1, 2, 3, 4]);
            assert!(is_as_promised || support::device() != Devices::default(), "{dtype:?}: {verdict}");
        }
        assert!(!verdicts.as_array().unwrap().is_empty());
        node.node.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_shares_what_it_can_and_says_so() {
    let models = models();
    let fast = node(&models, 4, DeterminismChoice::Fast).await;
    let recipes = recipes(&fast).await;
    let order: Vec<(usize, u8)> = (0..recipes.len()).map(|at| (at, 3)).collect();
    for reply in together(&fast, &recipes, &order).await {
        assert!(reply.determinism.class.ends_with("/fast"), "{}", reply.determinism.class);
    }
}

fn prompted(prompt: &str, steps: u32, urgency: u8) -> GenerationRequest {
    let asked = request(prompt);
    let recipe = Recipe { steps, ..asked.recipe };
    GenerationRequest { recipe, urgency: Urgency::new(urgency).unwrap(), deadline_ms: 60_000, ..asked }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hero_waits_one_step_of_the_running_request() {
    let node = Wish::default().start().await;
    node.control.hold();
    let client = node.client.clone();
    let long = tokio::spawn(async move { client.post(&prompted("a long one", 200, 5)).await.reply() });
    // In its step, and not only begun: else the hero would come before its first one.
    node.control.entered(1).await;
    let client = node.client.clone();
    let hero = tokio::spawn(async move { client.post(&prompted("a hero", 3, 0)).await.reply() });
    eventually("the hero waits", async || node.metric("bildkante_node_queue_jobs") >= 1.0).await;
    node.control.release();
    hero.await.unwrap();
    long.await.unwrap();
    // The step that ran, and the hero's three.
    let expected = [("a hero".to_owned(), 4), ("a long one".to_owned(), 203)];
    assert_eq!(node.control.finished(), expected, "prompts, and the steps made until then");
    assert_eq!(node.control.prompts(), ["a long one", "a hero"]);
}

/// Asks for a recipe and waits until it is in: until `waiters` callers wait.
async fn ask(node: &TestNode, asked: GenerationRequest, waiters: usize) -> tokio::task::JoinHandle<GenerationReply> {
    let client = node.client.clone();
    let call = tokio::spawn(async move { client.post(&asked).await.reply() });
    let waiters = f64::from(u32::try_from(waiters).unwrap());
    eventually("it is in", async || node.metric("bildkante_node_waiters") >= waiters).await;
    call
}

fn wide(asked: GenerationRequest) -> GenerationRequest {
    GenerationRequest { recipe: Recipe { width_px: 128, ..asked.recipe }, ..asked }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_one_class_does_not_keep_another_from_its_turn() {
    let node = Sharing::start().await;
    node.control.hold();
    let mut calls = vec![ask(&node, prompted("stream 0", 3, 3), 1).await];
    node.control.entered(1).await;
    calls.push(ask(&node, wide(prompted("another class", 3, 3)), 2).await);
    for n in 1..9 {
        let stream = prompted(&format!("stream {n}"), 3, 3);
        calls.push(ask(&node, stream, n + 2).await);
    }
    node.control.release();
    for call in calls {
        call.await.unwrap();
    }
    // The first of the stream leads, and three go along; then the deadline of the other class is the earliest.
    let finished: Vec<String> = node.control.finished().into_iter().map(|(prompt, _)| prompt).collect();
    let place = finished.iter().position(|prompt| prompt == "another class");
    assert!(place.is_some_and(|place| place <= 4), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hero_does_not_wait_for_the_decodings_of_a_group() {
    let node = Sharing::start().await;
    node.control.hold();
    let mut calls = vec![ask(&node, wide(prompted("first", 1, 3)), 1).await];
    node.control.entered(1).await;
    for n in 0..4 {
        calls.push(ask(&node, prompted(&format!("of the group {n}"), 1, 3), n + 2).await);
    }
    // The first one's only step; then the group is in its only one.
    node.control.allow(1);
    node.control.entered(2).await;
    calls.push(ask(&node, prompted("a hero", 3, 0), 5).await);
    eventually("the hero waits", async || node.metric("bildkante_node_queue_jobs") >= 1.0).await;
    node.control.release();
    for call in calls {
        call.await.unwrap();
    }
    let finished: Vec<String> = node.control.finished().into_iter().map(|(prompt, _)| prompt).collect();
    assert_eq!(finished[..2], ["first", "a hero"], "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_pass_fails_at_fails_alone() {
    let (node, _) = Sick::start().await;
    node.control.hold();
    let calls: Vec<_> = ["first", "second", "poison", "third"]
        .iter()
        .map(|prompt| {
            let (client, asked) = (node.client.clone(), prompted(prompt, 3, 3));
            tokio::spawn(async move { client.post(&asked).await })
        })
        .collect();
    node.control.started(1).await;
    node.control.release();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap().status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 500, 200]);
    // And the node serves on.
    node.client.post(&prompted("afterwards", 2, 3)).await.reply();
}
